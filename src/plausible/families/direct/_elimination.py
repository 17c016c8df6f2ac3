r"""Exact inference in a network of discrete variables: variable elimination, in logarithms.

    p(keep, evidence) = sum_{the others} prod_f f(x_f)

The sum over one variable touches only the tables that have it (its *bucket*): they are multiplied, it is summed out,
and what is left, a table over their other variables, goes to a later bucket. The order decides the size of the largest
table, so it is chosen first (`plan`), and what would not fit in memory is refused before the work starts. Walked back
from the last to the first, the same buckets give draws and most likely levels (`sample`, `maximise`) and the posterior
of the variables of every table at once (`posteriors`, `expected_counts`).

A variable is a number, a level a code from 0. Evidence is either a mapping {variable: level}, or *rows*: a float tensor
(n, V) of levels whose column v is variable v and whose NaN are unknown. Rows go through one elimination together: a
column known in all of them picks a slice of each table per row, one known in some adds a table of zeros and minus
infinities per row.

References: Dechter, Bucket elimination: a unifying framework for reasoning, Artificial Intelligence 113, 1999.
Lauritzen and Spiegelhalter, Local computations with probabilities on graphical structures, JRSS B 50, 1988.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np
import torch

from plausible.errors import DataError
from plausible.families.direct._elimination_order import LIMIT, Plan, plan
from plausible.families.direct._elimination_tables import (
    Evidence,
    Factor,
    Problem,
    cardinalities,
    onto,
    product,
    refuse_impossible,
)

__all__ = [
    "LIMIT",
    "Evidence",
    "Factor",
    "Plan",
    "expected_counts",
    "log_evidence",
    "marginal",
    "maximise",
    "plan",
    "posteriors",
    "sample",
]

TILE = 1 << 17  # entries of the largest table over the rows eliminated together: a megabyte stays in cache
MEMORY = 1 << 26  # bytes of all tables of those rows
STEP = 300_000  # entries summed in the time that an elimination takes whatever the number of rows


def marginal(factors: Sequence[Factor], keep: Sequence[int], evidence: Evidence, *, limit: int = LIMIT) -> Factor:
    """Return log p(keep, evidence) of all levels of `keep`; its log-sum-exp is the evidence's log-probability.

    Args:
        factors: the tables whose product is the joint distribution.
        keep: variables, each once; not among those that a mapping gives.
        evidence: {variable: level}, or rows (n, V).
        limit: bytes of tables alive at once.

    Returns:
        A factor over `keep` in that order; with rows, its table has a leading axis of n.

    Raises:
        DataError: a level is none, or the tables would not fit.
    """
    keep = tuple(keep)
    cards = cardinalities(factors)
    if isinstance(evidence, Mapping) and set(keep) & set(evidence) or len(set(keep)) < len(keep):
        raise ValueError(f"expected different variables that are not in the evidence, got {keep}")

    def work(part: Problem, order: Sequence[int]) -> torch.Tensor:
        rest, _ = part.eliminate(order, torch.logsumexp)
        zero = factors[0].log_table.new_zeros((1,) * (len(keep) + 1))
        table = product(rest, keep, part.cards) if rest else zero
        return table.expand(*(cards[v] for v in keep), part.n).movedim(-1, 0)

    table = _by_parts(factors, evidence, keep, work, limit, prune=True)
    return Factor(keep, table[0] if isinstance(evidence, Mapping) else table)


def log_evidence(factors: Sequence[Factor], evidence: Evidence, *, limit: int = LIMIT) -> torch.Tensor:
    """Return log p(evidence): a number, or (n,) with rows. Minus infinity where the evidence is impossible."""
    return marginal(factors, (), evidence, limit=limit).log_table


def maximise(
    factors: Sequence[Factor], evidence: Evidence, over: Sequence[int] | None = None, *, limit: int = LIMIT
) -> torch.Tensor:
    """Return the jointly most likely levels, exactly.

    Args:
        factors, evidence, limit: as for `marginal`.
        over: the variables to choose levels of, the other unknown ones being summed out (marginal MAP); None chooses
            those of all unknown ones (the most probable explanation).

    Returns:
        Levels (V,), or (n, V) with rows, as float64: what was known, and what was chosen; NaN for variables summed out.

    Raises:
        DataError: the evidence has probability zero, or the tables would not fit.
    """
    width = _width(factors, evidence)

    def work(part: Problem, order: Sequence[int]) -> torch.Tensor:
        tables, chosen = part, order
        if over is not None:
            rest, _ = part.eliminate(order, torch.logsumexp)
            tables = part.with_tables(rest)
            chosen = plan(part.cards, [t.variables for t in rest], limit=limit).order
        rest, buckets = tables.eliminate(chosen, torch.amax)
        refuse_impossible(rest, part)
        levels = part.known_levels(width)
        for bucket in reversed(buckets):
            levels[:, bucket.variable] = bucket.log_weights(levels).argmax(0).double()
        return levels

    levels = _by_parts(factors, evidence, () if over is None else tuple(over), work, limit)
    return levels[0] if isinstance(evidence, Mapping) else levels


def sample(
    factors: Sequence[Factor], evidence: Evidence, n: int = 1, *, rng: torch.Generator, limit: int = LIMIT
) -> torch.Tensor:
    """Draw the unknown variables from p(unknown | evidence), jointly and independently for each draw.

    Args:
        factors, evidence, limit: as for `marginal`.
        n: draws, where the evidence is a mapping; with rows there is one for each.
        rng: the source of randomness.

    Returns:
        Levels (n, V) as float64, the known ones untouched.

    Raises:
        DataError: the evidence has probability zero, or the tables would not fit.
    """
    width = _width(factors, evidence)

    def work(part: Problem, order: Sequence[int]) -> torch.Tensor:
        rest, buckets = part.eliminate(order, torch.logsumexp)
        refuse_impossible(rest, part)
        levels = part.known_levels(width)
        if isinstance(evidence, Mapping):
            levels = levels.repeat(n, 1)
        for bucket in reversed(buckets):
            p = bucket.log_weights(levels).softmax(0).cumsum(0)
            u = torch.rand(len(levels), generator=rng, dtype=p.dtype, device=p.device) * p[-1]
            levels[:, bucket.variable] = (u >= p[:-1]).sum(0).double()
        return levels

    return _by_parts(factors, evidence, (), work, limit)


def posteriors(factors: Sequence[Factor], evidence: Evidence, *, limit: int = LIMIT) -> dict[int, torch.Tensor]:
    """Return p(v | evidence) of every variable at once: {v: (K_v,)}, or {v: (n, K_v)} with rows.

    Raises:
        DataError: the evidence has probability zero, or the tables would not fit.
    """
    cards = cardinalities(factors)
    columns = sorted(cards)

    def work(part: Problem, order: Sequence[int]) -> torch.Tensor:
        beliefs, _ = part.calibrate(order)
        out = []
        for v in columns:
            if v in beliefs:
                out.append(onto((v,), *beliefs[v]).expand(-1, part.n).T)
            else:
                out.append(torch.nn.functional.one_hot(part.known[v], cards[v]).double())
        return torch.cat(out, 1)

    flat = _by_parts(factors, evidence, (), work, limit, both_ways=True)
    flat = flat[0] if isinstance(evidence, Mapping) else flat
    return dict(zip(columns, flat.split([cards[v] for v in columns], -1), strict=True))


def expected_counts(
    factors: Sequence[Factor], rows: torch.Tensor, weight: torch.Tensor | None = None, *, limit: int = LIMIT
) -> tuple[list[torch.Tensor], torch.Tensor]:
    """Return what EM needs: how often each combination of levels of each factor is expected, given the rows.

        counts_f(x_f) = sum_n w_n p(x_f | row_n)

    Args:
        factors, limit: as for `marginal`.
        rows: levels (n, V), NaN where unknown.
        weight: w (n,); None for ones.

    Returns:
        A table of counts for each factor, its axes those of the factor's variables, and log p(row) with shape (n,).

    Raises:
        DataError: a row has probability zero, or the tables would not fit.
    """
    weight = torch.ones(len(rows), dtype=torch.float64, device=rows.device) if weight is None else weight.double()
    cards = cardinalities(factors)
    counts = [torch.zeros([cards[v] for v in f.variables], dtype=torch.float64, device=rows.device) for f in factors]

    def work(part: Problem, order: Sequence[int]) -> torch.Tensor:
        beliefs, log_p = part.calibrate(order)
        w = weight[part.rows]
        beliefs = {v: (scope, p.expand(*p.shape[:-1], part.n) * w) for v, (scope, p) in beliefs.items()}
        for count, factor in zip(counts, factors, strict=True):
            part.count(count, factor, beliefs, w)
        return log_p.expand(part.n)

    log_p = _by_parts(factors, rows, (), work, limit, both_ways=True)
    return counts, log_p


# ------------------------------------------------------------------------------------- what is asked for, in parts


def _by_parts(
    factors: Sequence[Factor],
    evidence: Evidence,
    keep: Sequence[int],
    work: Callable[[Problem, tuple[int, ...]], torch.Tensor],
    limit: int,
    *,
    prune: bool = False,
    both_ways: bool = False,
) -> torch.Tensor:
    """Do the work on a mapping, or on rows in groups whose tables fit in memory; the results have a row for each."""
    cards, device = cardinalities(factors), factors[0].log_table.device
    keep = frozenset(keep)
    _check(evidence, cards, keep)

    def chosen(known: Iterable[int], used: Sequence[Factor] = factors) -> Plan:
        known = frozenset(known) - keep
        return plan(cards, [frozenset(f.variables) - known for f in used], keep, limit=limit, both_ways=both_ways)

    def needed(known: Iterable[int]) -> Sequence[Factor]:
        return _needed(factors, keep.union(known)) if prune else factors

    if isinstance(evidence, Mapping):
        used = needed(evidence)
        return work(Problem(used, cards, evidence, None, keep, device), chosen(evidence, used).order)
    parts, places = [], []
    for rows in _groups(evidence, sorted(cards), chosen):
        here = ~evidence[rows].isnan()
        used = needed(here.any(0).nonzero()[:, 0].tolist())
        best = chosen(here.all(0).nonzero()[:, 0].tolist(), used)
        size = max(1, min(TILE // best.largest, min(limit, MEMORY) // best.bytes, len(rows)))
        for tile in rows.split(size):
            part = Problem(used, cards, evidence, tile, keep, device)
            parts.append(work(part, [v for v in best.order if v in part.free]))
            places.append(tile)
    result = torch.cat(parts)
    return torch.empty_like(result).index_copy_(0, torch.cat(places), result)


def _groups(rows: torch.Tensor, columns: list[int], chosen: Callable) -> list[torch.Tensor]:
    """Cut rows into groups that are eliminated together: complete ones apart, the others all at once or by pattern.

    All at once takes tables over every variable that some row lacks; pattern by pattern the tables are small, but each
    pattern takes an elimination of its own.
    """
    missing = rows[:, columns].isnan()
    incomplete = missing.any(1)
    groups = [(~incomplete).nonzero()[:, 0], incomplete.nonzero()[:, 0]]
    groups = [g for g in groups if len(g)] or [groups[0]]
    if not bool(incomplete.any()):
        return groups
    hard = groups.pop()
    packed = np.packbits(missing[hard].cpu().numpy(), axis=1)
    keys = np.ascontiguousarray(packed).view(f"V{packed.shape[1]}").reshape(-1)
    _, of_row, counts = np.unique(keys, return_inverse=True, return_counts=True)
    if len(counts) > 1:
        try:
            every = (~missing[hard]).all(0).tolist()
            together = chosen([c for c, e in zip(columns, every, strict=True) if e]).total * len(hard)
        except DataError:
            together = np.inf
        if together < len(counts) * STEP:
            return [*groups, hard]
    by_pattern = torch.from_numpy(np.argsort(of_row, kind="stable")).to(hard.device)
    return [*groups, *hard[by_pattern].split(counts.tolist())]


def _needed(factors: Sequence[Factor], wanted: frozenset[int]) -> list[Factor]:
    """Leave out tables p(child | parents) of children that nobody asks about: they sum to one."""
    left = list(factors)
    while True:
        uses = Counter(v for f in left for v in f.variables)
        rest = [f for f in left if f.child is None or f.child in wanted or uses[f.child] > 1]
        if len(rest) == len(left):
            return left
        left = rest


def _width(factors: Sequence[Factor], evidence: Evidence) -> int:
    if isinstance(evidence, torch.Tensor):
        return evidence.shape[1]
    return 1 + max([*evidence, *(v for f in factors for v in f.variables)])


def _check(evidence: Evidence, cards: Mapping[int, int], keep: frozenset[int]) -> None:
    if keep - set(cards):
        raise ValueError(f"no table has the variable {min(keep - set(cards))}")
    columns = [v for v in cards if isinstance(evidence, torch.Tensor) or v in evidence]
    if not columns:
        return
    if isinstance(evidence, Mapping):
        x = torch.tensor([[float(evidence[v]) for v in columns]], dtype=torch.float64)
    else:
        if evidence.shape[1] <= max(cards):
            raise ValueError(f"expected rows of at least {max(cards) + 1} columns, got {evidence.shape[1]}")
        x = evidence[:, columns]
    last = torch.tensor([cards[v] - 1 for v in columns], dtype=x.dtype, device=x.device)
    bad = ((x < 0) | (x > last) | (x != x.round())) & ~x.isnan()
    if bool(bad.any()):
        row, i = (int(k) for k in bad.nonzero()[0])
        raise DataError(
            f"variable {columns[i]} has the levels 0 to {cards[columns[i]] - 1}, got {float(x[row, i]):g} in row {row}"
        )
