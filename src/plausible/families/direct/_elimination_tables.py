"""Tables of logarithms with evidence put in, and their elimination forwards and backwards: the inside of
`_elimination.py`, where the words are explained.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch

from plausible.errors import DataError

Evidence = Mapping[int, int] | torch.Tensor


@dataclass(frozen=True)
class Factor:
    """A non-negative function of some discrete variables.

    Args:
        variables: the k variables, all different.
        log_table: its logarithm, float64, with an axis of levels per variable in their order; or with one more, leading
            axis of n: a function per row, for evidence of n rows.
        child: where the table is p(child | other variables), that variable. Such a table is left out where nothing
            depends on it.
    """

    variables: tuple[int, ...]
    log_table: torch.Tensor
    child: int | None = None


def cardinalities(factors: Sequence[Factor]) -> dict[int, int]:
    cards: dict[int, int] = {}
    for factor in factors:
        shape = factor.log_table.shape[factor.log_table.ndim - len(factor.variables) :]
        for v, k in zip(factor.variables, shape, strict=True):
            if cards.setdefault(v, k) != k:
                raise ValueError(f"variable {v} has {cards[v]} levels in one table and {k} in another")
    return cards


@dataclass(frozen=True)
class Table:
    """A factor without what is known: log values (*levels of its variables, b), b the number of rows or 1.

    The variables are in the order of their elimination, those that stay last. Rows come last in memory, so that sums
    over levels run along them.
    """

    variables: tuple[int, ...]
    log: torch.Tensor


@dataclass(frozen=True)
class Bucket:
    """What was met when a variable was summed out.

    Args:
        tables: those that have the variable, as their first.
        scope: all their variables, in the order of elimination.
        log: their product, where it was kept.
        message: what became of it, a table over the later variables.
    """

    tables: list[Table]
    scope: tuple[int, ...]
    log: torch.Tensor | None
    message: torch.Tensor

    @property
    def variable(self) -> int:
        return self.scope[0]

    def log_weights(self, levels: torch.Tensor) -> torch.Tensor:
        """Return (K, n), or (K, 1) if rows are alike: the log of what is proportional to p(variable | later variables).

        The later variables are at their levels (n, V).
        """
        total = 0.0
        for table in self.tables:
            *cards, b = table.log.shape[1:]
            place = None
            for v, k in zip(table.variables[1:], cards, strict=True):
                level = levels[:, v].long()
                place = level if place is None else place * k + level
            if b > 1:
                row = torch.arange(b, device=levels.device)
                place = row if place is None else place * b + row
            flat = table.log.reshape(len(table.log), -1)
            total = total + (flat if place is None else flat[:, place])
        return total


class Problem:
    """Factors with evidence put in: the tables of the variables that are left, for some rows or for one case.

    Attributes:
        tables: first those of the factors, one for each in their order, then those of cells known in some rows only.
        known: variable -> levels (n,) of those known throughout.
        free: variables that are left.
        rows: which rows these are; n: how many.
    """

    def __init__(
        self,
        factors: Sequence[Factor],
        cards: Mapping[int, int],
        evidence: Evidence,
        rows: torch.Tensor | None,
        keep: frozenset[int],
        device: torch.device,
    ):
        self.rows, self.device = rows, device
        self.cards = cards = {v: cards[v] for factor in factors for v in factor.variables}
        part: dict[int, torch.Tensor] = {}
        if isinstance(evidence, Mapping):
            self.n = 1
            self.known = {v: torch.tensor([int(k)], device=device) for v, k in evidence.items() if v in cards}
            self.given = {v: float(k) for v, k in evidence.items()}
        else:
            x = evidence[rows]
            self.n, self.given = len(x), x
            here = ~x.isnan()
            some, every = here.any(0).tolist(), here.all(0).tolist()
            self.known = {v: x[:, v].long() for v in cards if every[v] and v not in keep}
            part = {v: x[:, v] for v in cards if some[v] and v not in self.known}
        self.free = frozenset(cards) - frozenset(self.known)
        self.tables = [self._sliced(f) for f in factors]
        for v, x in part.items():
            agrees = x.isnan() | (x == torch.arange(cards[v], device=device)[:, None])
            self.tables.append(Table((v,), torch.where(agrees, 0.0, -torch.inf).double()))

    def with_tables(self, tables: list[Table]) -> Problem:
        other = object.__new__(Problem)
        other.__dict__.update(self.__dict__, tables=tables)
        return other

    def known_levels(self, width: int) -> torch.Tensor:
        """Return a copy of the evidence as rows (n, V)."""
        if isinstance(self.given, torch.Tensor):
            return self.given.double().clone()
        row = torch.full((1, width), torch.nan, dtype=torch.float64, device=self.device)
        for v, level in self.given.items():
            row[0, v] = level
        return row

    def _place(self, factor: Factor) -> tuple[list[int], list[int], torch.Tensor | None]:
        """Return the axes of a factor that are free and known, and where in the flattened known ones each row is."""
        free = [i for i, v in enumerate(factor.variables) if v in self.free]
        known = [i for i, v in enumerate(factor.variables) if v not in self.free]
        place = None
        for i in known:
            v = factor.variables[i]
            place = self.known[v] if place is None else place * self.cards[v] + self.known[v]
        return free, known, place

    def _sliced(self, factor: Factor) -> Table:
        log, k = factor.log_table, len(factor.variables)
        per_row = log.ndim == k + 1
        if per_row:
            if self.rows is None:
                raise ValueError("a factor with a table per row needs evidence of as many rows")
            log = log[self.rows].movedim(0, -1)
        free, known, place = self._place(factor)
        variables = tuple(factor.variables[i] for i in free)
        shape = [log.shape[i] for i in free]
        if not known:
            return Table(variables, log if per_row else log[..., None])
        if per_row:
            log = log.permute(*free, *known, k).reshape(*shape, -1, self.n)
            return Table(variables, log[..., place, torch.arange(self.n, device=log.device)])
        return Table(variables, log.permute(*free, *known).reshape(*shape, -1)[..., place])

    def count(self, counts: torch.Tensor, factor: Factor, beliefs: dict, weight: torch.Tensor) -> None:
        """Add what is expected of a factor to its table of counts, from the weighted beliefs of the buckets."""
        free, known, place = self._place(factor)
        variables = [factor.variables[i] for i in free]
        expected = weight
        if variables:
            # The bucket of the variable that went first has all others.
            scope, p = next(beliefs[v] for v in variables if set(variables) <= set(beliefs[v][0]))
            p = p if known else p.sum(-1, keepdim=True)
            expected = onto(variables, scope, p)
        if not known:
            counts += expected.sum(-1)
            return
        moved = counts.permute(*free, *known)
        flat = torch.zeros_like(moved).reshape(*moved.shape[: len(free)], -1)
        moved += flat.index_add_(-1, place, expected).reshape(moved.shape)

    def eliminate(
        self, order: Sequence[int], reduce: Callable, keep_products: bool = False
    ) -> tuple[list[Table], list[Bucket]]:
        """Sum (or maximise) variables out, in order; return the tables over the others, and the buckets."""
        when = {v: i for i, v in enumerate(order)}
        waiting: list[list[Table]] = [[] for _ in order]
        rest: list[Table] = []

        def hand_on(table: Table) -> None:
            first = table.variables[0] if table.variables else None
            (waiting[when[first]] if first in when else rest).append(table)

        for table in self.tables:
            hand_on(_sorted(table, when))
        buckets = []
        for v, tables in zip(order, waiting, strict=True):
            scope = _scope(tables, v, when)
            log = product(tables, scope, self.cards)
            message = reduce(log, 0)
            hand_on(Table(scope[1:], message))
            buckets.append(Bucket(tables, scope, log if keep_products else None, message))
        return rest, buckets

    def calibrate(self, order: Sequence[int]) -> tuple[dict[int, tuple[tuple[int, ...], torch.Tensor]], torch.Tensor]:
        """Return the scope of each variable's bucket with p(scope | evidence) (*levels, b), and log p(evidence).

        Going back, p(v, others | evidence) = p(v | others, evidence) p(others | evidence): the first is the bucket's
        own product, normalised, the second a margin of the bucket that got its message.
        """
        rest, buckets = self.eliminate(order, torch.logsumexp, keep_products=True)
        refuse_impossible(rest, self)
        beliefs: dict[int, tuple[tuple[int, ...], torch.Tensor]] = {}
        for bucket in reversed(buckets):
            others = bucket.scope[1:]
            # Where the others are impossible there is nothing to normalise; their own probability is zero.
            p = (bucket.log - bucket.message.masked_fill(bucket.message == -torch.inf, 0.0)).exp_()
            if others:
                p = p * onto(others, *beliefs[others[0]])
            beliefs[bucket.variable] = (bucket.scope, p)
        return beliefs, sum(t.log for t in rest)


def _sorted(table: Table, when: Mapping[int, int]) -> Table:
    """The table with its variables in the order of their elimination."""
    k = len(table.variables)
    axes = sorted(range(k), key=lambda i: (when.get(table.variables[i], len(when)), table.variables[i]))
    if axes == list(range(k)):
        return table
    return Table(tuple(table.variables[i] for i in axes), table.log.permute(*axes, k))


def _scope(tables: Sequence[Table], first: int, when: Mapping[int, int]) -> tuple[int, ...]:
    """All variables of some tables, in the order of their elimination; among those that stay, by number."""
    others = {v for t in tables for v in t.variables} - {first}
    return (first, *sorted(others, key=lambda v: (when.get(v, len(when)), v)))


def product(tables: Sequence[Table], scope: Sequence[int], cards: Mapping[int, int]) -> torch.Tensor:
    """Multiply tables: log values (*levels of `scope`, b), an axis being 1 where no table has the variable."""
    total = None
    for table in sorted(tables, key=lambda t: -t.log.numel()) if len(tables) > 1 else tables:
        if table.variables == scope:
            total = table.log if total is None else total + table.log
            continue
        axes = [table.variables.index(v) for v in scope if v in table.variables]
        log = table.log if axes == list(range(len(axes))) else table.log.permute(*axes, -1)
        log = log.reshape([cards[v] if v in table.variables else 1 for v in scope] + [log.shape[-1]])
        total = log if total is None else total + log
    return total


def onto(variables: Sequence[int], scope: Sequence[int], p: torch.Tensor) -> torch.Tensor:
    """Sum probabilities (*levels of `scope`, b) over the variables that are not asked for: (*levels, b)."""
    others = [i for i, v in enumerate(scope) if v not in variables]
    left = [v for v in scope if v in variables]
    p = p.sum(others) if others else p
    return p.permute(*(left.index(v) for v in variables), -1)


def refuse_impossible(rest: Sequence[Table], part: Problem) -> None:
    log_p = sum(table.log for table in rest)
    if bool((log_p == -torch.inf).any()):
        where = ""
        if part.rows is not None:
            where = f" of row {int(part.rows[int((log_p.expand(part.n) == -torch.inf).nonzero()[0])])}"
        raise DataError(
            f"the evidence{where} has probability zero under the model, so nothing follows from it; "
            "leave out what contradicts the rest, or give the tables some mass everywhere"
        )
