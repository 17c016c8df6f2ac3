r"""What `query` stands on: the exact law of a few columns as weighted points, or draws with weights.

    levels    all combinations            counts    the lattice, as far as there is mass
    a real    Gauss-Legendre nodes of intervals that are halved until the mass in them no longer changes

A law is given out only if its mass is one, to `TOLERANCE`: otherwise something was missed, and there is none.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from itertools import product
from typing import Any

import numpy as np
import torch

from plausible.base import ROWS_AT_ONCE
from plausible.errors import DataError
from plausible.randomness import generator, seed_of
from plausible.space import Column
from plausible.uses import _parts as parts
from plausible.uses import approximate, chains
from plausible.uses.expression import Expression

TOLERANCE = 1e-6  # by which the mass of a law may miss one, and a tail may count in a mean
MOST_POINTS = 200_000  # at which a density is asked for a law
LOOK = 1000  # draws that say where a number lies
NODES = 16  # of an interval
STRETCHES = 40  # doublings of the range beyond the draws
HALVINGS = 60
CHAINS = 4


@dataclass(frozen=True)
class Law:
    """The joint law of some columns: points (m,) and their weights, which sum to one.

    Attributes:
        values: of each column, as the user knows them, (m,).
        weight: (m,).
        method: 'enumeration' or 'quadrature'.
        edges: of quadrature, the intervals (k, 2), in order; every 16 points are those of one, for each combination of
            the other columns.
        outer: which points lie in the first and the last of the intervals.
    """

    columns: list[Column]
    codes: np.ndarray
    weight: np.ndarray
    method: str
    edges: np.ndarray | None = None
    outer: np.ndarray | None = None
    values: dict[str, np.ndarray] = field(init=False)

    def __post_init__(self):
        found = {c.name: values_of(c, self.codes[:, i]) for i, c in enumerate(self.columns)}
        object.__setattr__(self, "values", found)

    def mean(self, x: np.ndarray) -> float:
        """The mean of a number at each point; NaN where its tails would still add to it."""
        terms = np.asarray(x, dtype=float) * self.weight
        terms = np.where(self.weight > 0, terms, 0.0)
        if self.outer is not None and np.abs(terms[self.outer]).sum() > TOLERANCE * np.abs(terms).sum():
            return math.nan
        return float(terms.sum())

    def examples(self) -> Any:
        """The points as a DataFrame."""
        import pandas as pd

        return pd.DataFrame({c.name: c.decode(self.codes[:, i]) for i, c in enumerate(self.columns)})

    def quantile(self, name: str, q: float) -> float:
        """The least value of the only column with mass q up to it."""
        x = self.values[name].astype(float)
        if self.edges is None:
            order = np.argsort(x, kind="stable")
            below = self.weight[order].cumsum()
            return float(x[order][min(np.searchsorted(below, q - 1e-12), len(x) - 1)])
        from scipy.optimize import brentq

        masses = self.weight.reshape(-1, NODES).sum(1)
        k = min(int(np.searchsorted(masses.cumsum(), q)), len(masses) - 1)
        part, (low, high) = slice(k * NODES, (k + 1) * NODES), self.edges[k]
        # inside an interval the density is, to rounding, the polynomial through its nodes
        t = 2 * (x[part] - low) / (high - low) - 1
        weights = np.polynomial.legendre.leggauss(NODES)[1]
        density = np.polynomial.legendre.legfit(t, self.weight[part] / weights, NODES - 1)
        mass = np.polynomial.legendre.legint(density, lbnd=-1)
        target = q - masses[:k].sum()
        top = np.polynomial.legendre.legval(1.0, mass)
        if not 0 < target < top:
            return float(low if target <= 0 else high)
        root = brentq(lambda s: np.polynomial.legendre.legval(s, mass) - target, -1.0, 1.0)
        return float(low + (root + 1) / 2 * (high - low))


@dataclass(frozen=True)
class Draws:
    """Draws with weights that sum to one.

    Attributes:
        values: of each column of a table, (n,).
        weight: (n,).
        size: how many independent draws they are worth.
        method: 'draws', 'weighted draws' or 'draws of chains'.
    """

    space: Any
    codes: torch.Tensor
    values: dict[str, np.ndarray]
    weight: np.ndarray
    size: float
    method: str

    def mean(self, x: np.ndarray) -> tuple[Any, Any]:
        """The mean of numbers (n,) or (n, k), and its standard error."""
        value = self.weight @ x
        error = np.sqrt(self.weight**2 @ (x - value) ** 2)
        if self.method == "draws of chains":
            error = error * math.sqrt(len(self.weight) / self.size)
        return (float(value), float(error)) if x.ndim == 1 else (value, error)

    def examples(self) -> Any:
        """The draws as the user's data; of tables always a DataFrame."""
        found = self.space.decode(self.codes)
        if self.space.type != "table" or not isinstance(found, np.ndarray):
            return found
        import pandas as pd

        return pd.DataFrame(found, columns=self.space.names)


class Question:
    """A model and what is known of an example."""

    def __init__(self, model: Any, given: Any, context: Any, random_state: Any):
        self.model, self.space = model, model.space_
        if given is not None and self.space.type == "table" and not isinstance(given, Mapping):
            raise DataError(f"given must be a mapping of columns to values, got {type(given).__name__}")
        if given is None or (isinstance(given, Mapping) and not given):
            self.x = torch.full((1, *self.space.shape), torch.nan, dtype=torch.float64, device=model._device())
        else:
            given = {k: [v] for k, v in given.items()} if isinstance(given, Mapping) else given
            self.x = parts.codes_of(model, given, None, None)[0]
        if len(self.x) != 1:
            raise DataError(f"a question is about one partly known example, got {len(self.x)}")
        self.c = model._encode_context(context, 1)
        self.rng = generator(random_state, model._device())
        self.nothing_known = bool(self.x.isnan().all())
        self.exactly = parts.has_marginals(model) and model.likelihood_kind_ == "exact" and self.space.type == "table"
        self.base = 0.0
        if parts.has_marginals(model) and not self.nothing_known:
            self.base = float(parts.log_marginal(model, self.x, self.c)[0])
            if self.base == -math.inf:
                raise DataError(f"what is given has probability zero under the model: nothing follows from {given}")
        self._log_w: torch.Tensor | None = None
        self._codes: torch.Tensor | None = None

    @cached_property
    def way(self) -> str:
        """How the other columns are drawn."""
        return "plain" if self.nothing_known else approximate.way(self.model, self.x)

    # ------------------------------------------------------------------------------------------------------- exact

    def law_of(self, f: Any) -> Law | None:
        """The law of the columns that a function is of, if the function can be summed over its points."""
        if not isinstance(f, Expression):
            # a predicate may look at any column: exact where all of them can be enumerated
            alike = self.space.type == "table" and all(c.levels for c in self.space.columns)
            return self.law([c.name for c in self.space.columns]) if alike else None
        cuts = {}
        for name in f.names:
            if self.space.columns[parts.place_of(self.space, name)].kind == "real":
                cuts[name] = f.cuts(name)
                if cuts[name] is None and not f.smooth(name):
                    return None
        return self.law(f.names, {name: found or [] for name, found in cuts.items()}) if f.names else None

    def law(self, names: list[str], cuts: dict[str, list[float]] | None = None) -> Law | None:
        """The exact law of some columns, or None where there is no way to it."""
        if not self.exactly:
            return None
        places = [parts.place_of(self.space, name) for name in names]
        columns = [self.space.columns[d] for d in places]
        known = self.x[0, places].tolist()
        wide = [i for i, c in enumerate(columns) if not c.levels and math.isnan(known[i])]
        if len(wide) > 1:
            return None
        choices = [
            [0.0] if i in wide else range(c.n_levels) if math.isnan(k) else [k]
            for i, (c, k) in enumerate(zip(columns, known, strict=True))
        ]
        if math.prod(map(len, choices)) > MOST_POINTS:
            return None
        combinations = np.array(list(product(*choices)), dtype=float)  # (K, columns)
        if not wide:
            weight = self._mass(places, combinations)
            return self._checked(Law(columns, combinations, weight, "enumeration"))
        i = wide[0]
        looked = self._where(places[i])
        if columns[i].kind == "count":
            return self._over_lattice(columns, places, i, combinations, looked)
        return self._over_reals(columns, places, i, combinations, looked, (cuts or {}).get(names[i], []))

    def _mass(self, places: list[int], codes: np.ndarray) -> np.ndarray:
        """p of some columns at codes (m, columns), given what is known: (m,)."""
        found, rows = [], max(1, ROWS_AT_ONCE // self.space.dims)
        for start in range(0, len(codes), rows):
            part = torch.from_numpy(codes[start : start + rows]).to(self.x)
            x = self.x.repeat(len(part), 1)
            x[:, places] = part
            c = None if self.c is None else self.c.expand(len(part), -1)
            found.append((parts.log_marginal(self.model, x, c) - self.base).exp().nan_to_num(0.0))
        return torch.cat(found).cpu().numpy()

    def _checked(self, law: Law) -> Law | None:
        return law if abs(law.weight.sum() - 1) < TOLERANCE else None

    def _where(self, d: int) -> np.ndarray:
        """Some draws of a column, in order."""
        state = self.rng.get_state()  # looking must not change what is drawn later
        codes, _ = self._drawn(LOOK)
        self.rng.set_state(state)
        return np.sort(codes[:, d].cpu().numpy())

    def _over_lattice(self, columns, places, i, combinations, looked) -> Law | None:
        column, span = columns[i], max(looked[-1] - looked[0], 10.0)
        low, high = looked[0], looked[-1]
        for _ in range(STRETCHES):
            low = max(low - span, -math.inf if column.low is None else column.low)
            high = min(high + span, math.inf if column.high is None else column.high)
            if (high - low + 1) * len(combinations) > MOST_POINTS:
                return None
            lattice = np.arange(low, high + 0.5)
            codes = np.tile(combinations, (len(lattice), 1))
            codes[:, i] = lattice.repeat(len(combinations))
            weight = self._mass(places, codes)
            if abs(weight.sum() - 1) < 1e-9 or (low == column.low and high == column.high):
                return self._checked(Law(columns, codes, weight, "enumeration"))
            span *= 2
        return None

    def _over_reals(self, columns, places, i, combinations, looked, cuts) -> Law | None:
        nodes, weights = np.polynomial.legendre.leggauss(NODES)
        span = max(looked[-1] - looked[0], 1e-12 * max(abs(looked[0]), 1e-280))
        stretch = span * 2.0 ** np.arange(-2, STRETCHES)
        cuts = [*cuts, *self.model.transforms_.breaks(places[i]).tolist()]
        edges = np.unique(
            np.concatenate([np.quantile(looked, np.linspace(0, 1, 9)), cuts, looked[0] - stretch, looked[-1] + stretch])
        )
        column, K, spent = columns[i], len(combinations), 0
        edges = np.unique(
            edges.clip(
                -math.inf if column.low is None else column.low, math.inf if column.high is None else column.high
            )
        )
        pending = np.stack([edges[:-1], edges[1:]], 1)
        before = np.full(len(pending), math.nan)  # the mass that was found before an interval was halved
        kept: list[tuple[np.ndarray, ...]] = []
        for _ in range(HALVINGS):
            spent += len(pending) * NODES * K
            if spent > 10 * MOST_POINTS:
                return None
            half = (pending[:, 1] - pending[:, 0]) / 2
            t = pending.mean(1)[:, None] + half[:, None] * nodes  # (intervals, nodes)
            codes = np.tile(combinations, (t.size, 1))
            codes[:, i] = t.reshape(-1).repeat(K)
            mass = self._mass(places, codes).reshape(*t.shape, K) * (half[:, None] * weights)[..., None]
            total = mass.sum((1, 2))
            if np.isnan(before).all():
                fine = np.zeros(len(pending), dtype=bool)
            else:  # both halves together against the whole
                fine = np.abs(total.reshape(-1, 2).sum(1) - before) < 1e-11 + 1e-10 * before
                fine = fine.repeat(2)
            kept.append((pending[fine], t[fine], mass[fine]))
            middle = pending.mean(1)
            split = np.stack([np.stack([pending[:, 0], middle], 1), np.stack([middle, pending[:, 1]], 1)], 1)[~fine]
            before, pending = total[~fine], split.reshape(-1, 2)
            if not len(pending):
                break
        else:
            kept.append((pending[:0], t[:0], mass[:0]))
        edges, t, mass = (np.concatenate(found) for found in zip(*kept, strict=True))
        order = np.argsort(edges[:, 0], kind="stable")
        edges, t, mass = edges[order], t[order], mass[order]
        if not len(edges) or abs(mass.sum() - 1) > TOLERANCE:
            return None
        codes = np.tile(combinations, (t.size, 1))
        codes[:, i] = t.reshape(-1).repeat(K)
        outer = np.isin(np.arange(len(edges)), [0, len(edges) - 1]).repeat(NODES * K)
        return Law(columns, codes, mass.reshape(-1), "quadrature", edges, outer)

    def moments(self, names: list[str]) -> tuple[np.ndarray, np.ndarray] | None:
        """Mean (k,) and covariance (k, k) from a module that knows them, if what lies between is linear."""
        module, places = self.model._evaluator(), [parts.place_of(self.space, name) for name in names]
        real = self.space.type == "table" and all(self.space.columns[d].kind == "real" for d in places)
        if not real or not hasattr(module, "moments_given") or self.model.likelihood_kind_ != "exact":
            return None
        with torch.no_grad():
            steps = torch.arange(3.0, dtype=torch.float64, device=self.x.device)[:, None].expand(3, self.space.dims)
            zero, one, two = self.model.transforms_.inverse(steps.contiguous(), None)
            if not torch.allclose((two - one)[places], (one - zero)[places], rtol=1e-9, atol=0):
                return None
            mean, covariance = module.moments_given(self.model.transforms_(self.x, None)[0].flatten(1).double(), self.c)
        scale = one - zero
        mean = torch.where(self.x.isnan(), mean * scale + zero, self.x)[0, places]
        covariance = (covariance[0] * scale[:, None] * scale)[places][:, places]
        known = bool(mean.isfinite().all() and covariance.isfinite().all())
        return (mean.cpu().numpy(), covariance.cpu().numpy()) if known else None

    # ------------------------------------------------------------------------------------------------------- drawn

    def draws(self, n: int, names: list[str] | None) -> Draws:
        """n draws, of which those that there were before are part."""
        have = 0 if self._codes is None else len(self._codes)
        if n > have:
            codes, log_w = self._drawn(n - have, kept=have)
            self._codes = codes if self._codes is None else torch.cat([self._codes, codes])
            if log_w is not None:
                self._log_w = log_w if self._log_w is None else torch.cat([self._log_w, log_w])
        n, places = len(self._codes), {name: parts.place_of(self.space, name) for name in names or ()}
        values = {k: values_of(self.space.columns[d], self._codes[:, d].cpu().numpy()) for k, d in places.items()}
        if self._log_w is None:
            size = self._chain_size if self.way == "chain" else float(n)
            weight, method = np.full(n, 1 / n), "draws of chains" if self.way == "chain" else "draws"
            return Draws(self.space, self._codes, values, weight, size, method)
        if bool((self._log_w == -torch.inf).all()):
            raise DataError(
                f"what is given has probability zero under the model, or next to it: none of {n:,} draws fits it"
            )
        weight = self._log_w.softmax(0).cpu().numpy()
        return Draws(self.space, self._codes, values, weight, float(1 / (weight**2).sum()), "weighted draws")

    def _drawn(self, n: int, kept: int = 0) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Codes (n, \\*shape), and their log weights (n,) if they have any."""
        model = self.model
        if self.way == "plain":
            c = None if self.c is None else self.c.expand(n, -1)
            return self._in_parts(n, lambda m, c: (self._plain(m, c), None), c)
        if self.way == "chain":
            goal = chains.ModelTarget(model, self.x, features=self.c)
            found = chains.run(goal, -(-(n + kept) // CHAINS), chains=CHAINS, random_state=seed_of(self.rng))
            self._codes, self._chain_size = None, float(np.min(found.ess()))  # one run, and not pieces of several
            return goal.codes_of(found.flat, random_state=seed_of(self.rng)).reshape(-1, *self.space.shape), None
        holes = self.x.isnan()
        if self.way == "exact":
            return self._in_parts(n, lambda m, c: (self._exact(m, holes, c), None), self.c)
        module = model._evaluator()

        def propose(m: int, c: torch.Tensor | None) -> tuple[torch.Tensor, torch.Tensor]:
            return approximate.propose(model, module, self._many(m), holes.expand(m, *self.space.shape), c, self.rng)

        return self._in_parts(n, propose, self.c)

    def _in_parts(self, n: int, ask: Any, c: torch.Tensor | None) -> tuple[torch.Tensor, torch.Tensor | None]:
        rows = max(1, ROWS_AT_ONCE // self.space.dims)
        sizes = [min(rows, n - start) for start in range(0, n, rows)]
        codes, log_w = zip(*(ask(m, None if c is None else c[:1].expand(m, -1)) for m in sizes), strict=True)
        return torch.cat(codes), None if log_w[0] is None else torch.cat(log_w)

    def _many(self, n: int) -> torch.Tensor:
        return self.x.expand(n, *self.space.shape).clone()

    def _exact(self, n: int, holes: torch.Tensor, c: torch.Tensor | None) -> torch.Tensor:
        return parts.draw_exactly(self.model, self._many(n), holes.expand(n, *self.space.shape), c, 1, self.rng)[0]

    def _plain(self, n: int, c: torch.Tensor | None) -> torch.Tensor:
        with torch.no_grad():
            z = self.model.module_.sample(n, c, rng=self.rng)
            return self.model.transforms_.inverse(z.reshape(n, *self.space.shape).double(), self.rng).double()


def values_of(column: Column, codes: np.ndarray) -> np.ndarray:
    """The user's values of codes (n,): numbers as numbers, words as strings."""
    if not column.levels:
        return codes.round() if column.kind == "count" else codes
    alike = len({type(v) for v in column.levels}) == 1
    levels = np.array(column.levels, dtype=None if alike else object)
    return levels[codes.clip(0, column.n_levels - 1).astype(int)]
