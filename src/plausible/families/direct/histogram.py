r"""The joint histogram: counting.

Every real or count column is cut into bins; a cell k = (k_1, ..., k_D) is one bin or level per column, and

    P(k) = (c_k + a q_k) / (n + a),     q_k = prod_d q_d(k_d),     p(x) = P(k(x)) / |k(x)|

with c_k the number of training rows in the cell, q the product of the columns' own smoothed frequencies and |k| the
volume of the cell. The a pseudo-rows, spread as if the columns were independent, give cells without rows their mass;
a is chosen by leave-one-out likelihood, so that a table with too many cells for its rows falls back to the product of
its columns. Only cells with rows are stored: memory grows with the data, not with the number of cells.

Marginals are sums over cells: of those cells k whose known part is that of x,

    P(k_o) = (sum_k c_k + a q(k_o)) / (n + a),    P(k | k_o) = (c_k + a q_k) / (sum_k' c_k' + a q(k_o))

References: Scott, On optimal and data-based histograms, 1979. Rudemo, Empirical choice of histograms, 1982 (choice of
the bins by leave-one-out). Good, The Estimation of Probabilities, 1965 (smoothing towards independence).
"""

from __future__ import annotations

import torch

from plausible.base import Generative, Module, Traits
from plausible.families.direct._columns import patterns
from plausible.options import estimator, option
from plausible.randomness import row_hash, uniform
from plausible.space import Space
from plausible.transforms import Bins
from plausible.transforms.bins import RULES

SMOOTHING = tuple(2.0**k for k in range(-4, 15))  # pseudo-rows a to choose from


class _Histogram(Module):
    """Legend: U cells with rows; cells (U, D) sorted by their hash, counts (U,)."""

    variable_buffers = ("cells", "keys", "counts")

    def __init__(self, space: Space):
        super().__init__()
        self.dims = space.dims
        self.levels = [c.n_levels for c in space.columns]
        possible = [float(k >= (c.low or 0)) for c in space.columns for k in range(c.n_levels)]
        self.register_buffer("possible", torch.tensor(possible, dtype=torch.float64), persistent=False)
        self.register_buffer("log_q", torch.zeros(sum(self.levels), dtype=torch.float64))
        self.register_buffer("cells", torch.zeros(0, space.dims, dtype=torch.int32))
        self.register_buffer("keys", torch.zeros(0, dtype=torch.int64))
        self.register_buffer("counts", torch.zeros(0, dtype=torch.float64))
        self.register_buffer("smoothing", torch.ones((), dtype=torch.float64))

    @property
    def n_parameters(self) -> int:
        return len(self.cells) + sum(k - 1 for k in self.levels)

    def summarise(self, z: torch.Tensor, weight: torch.Tensor | None) -> torch.Tensor:
        """Add the rows of z to the counts of their cells; counting in two halves is counting at once."""
        cells = torch.cat([self.cells, z.flatten(1).to(torch.int32)])
        w = torch.ones(len(z), dtype=torch.float64, device=z.device) if weight is None else weight
        self.cells, which = torch.unique(cells, dim=0, return_inverse=True)
        counts = torch.zeros(len(self.cells), dtype=torch.float64, device=z.device)
        self.counts = counts.index_add_(0, which, torch.cat([self.counts, w]))
        return torch.zeros((), dtype=torch.float64)

    def update(self) -> None:
        """Sort the cells for look-up, and choose the smoothing."""
        held = self.counts > 0
        self.cells, self.counts = self.cells[held], self.counts[held]
        self.keys, order = row_hash(self.cells).sort()
        self.cells, self.counts = self.cells[order], self.counts[order]
        start = 0
        for d, k in enumerate(self.levels):
            part = slice(start, start + k)
            totals = torch.zeros(k, dtype=torch.float64, device=self.counts.device)
            totals.index_add_(0, self.cells[:, d].long(), self.counts)
            totals = (totals + 0.5) * self.possible[part]
            self.log_q[part] = (totals / totals.sum()).log()
            start += k
        scores = [self._leave_one_out(a) for a in SMOOTHING]
        self.smoothing.fill_(SMOOTHING[max(range(len(scores)), key=scores.__getitem__)])

    def _leave_one_out(self, a: float) -> float:
        """Mean log probability of each row under the table of the others."""
        n = self.counts.sum()
        others = (self.counts - 1).clamp_min(0)
        log_p = (others + a * self._log_independent(self.cells).exp()).log() - (n - 1 + a).clamp_min(1e-9).log()
        return float((self.counts * log_p).sum() / n)

    def _log_independent(self, cells: torch.Tensor, known: torch.Tensor | None = None) -> torch.Tensor:
        """log q of cells (n, D), or of those of the known columns (n, D_o)."""
        offsets = torch.tensor([sum(self.levels[:d]) for d in range(self.dims)], device=cells.device)
        return self.log_q[cells.long() + (offsets if known is None else offsets[known])].sum(1)

    def log_prob(self, z, c=None, rng=None):
        z = z.reshape(len(z), -1)
        log_p = torch.empty(len(z), dtype=torch.float64, device=z.device)
        for known, rows in patterns(z):
            cells = z[rows][:, known].to(torch.int32)
            log_count = self._log_count(cells, known)
            # In logarithms, as q of many columns is below the smallest float.
            smooth = self.smoothing.log() + self._log_independent(cells, known)
            log_p[rows] = torch.logaddexp(log_count, smooth) - (self.counts.sum() + self.smoothing).log()
        return log_p

    def _log_count(self, cells: torch.Tensor, known: torch.Tensor) -> torch.Tensor:
        """log of the number of rows with these values in the known columns."""
        if known.all():
            place = torch.searchsorted(self.keys, row_hash(cells)).clamp_max(len(self.keys) - 1)
            found = (self.cells[place] == cells).all(1)
            return torch.where(found, self.counts[place], 0.0).log()
        _, below, first, last = self._matching(cells, known)
        return (below[last] - below[first]).log()

    def _matching(self, cells, known) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
        """The cells that agree with `cells` (n, D_o) in the known columns.

        Returns an order (U,) of the cells, the rows (U + 1,) in all before each in that order, and for each of the n
        where the agreeing ones begin and end.
        """
        if not known.any():
            order = torch.arange(len(self.cells), device=cells.device)
            first = torch.zeros(len(cells), dtype=torch.long, device=cells.device)
            last = first + len(order)
        else:
            keys, order = row_hash(self.cells[:, known].contiguous()).sort()
            wanted = row_hash(cells.contiguous())
            first, last = torch.searchsorted(keys, wanted), torch.searchsorted(keys, wanted, right=True)
        below = torch.nn.functional.pad(self.counts[order].cumsum(0), (1, 0))
        return order, below, first, last

    def sample(self, n, c=None, *, rng):
        everything = torch.full((n, self.dims), torch.nan, dtype=torch.float64, device=self.counts.device)
        return self.sample_given(everything, rng=rng)

    def sample_given(self, z, c=None, *, rng):
        """Fill the NaN of z: from a counted cell that agrees with what is known, or column by column from q."""
        shape = z.shape
        z = z.reshape(len(z), -1).double()
        u = uniform(rng, (len(z), self.dims + 2), z)
        drawn = z.clone()
        start = 0
        for d, k in enumerate(self.levels):
            below = self.log_q[start : start + k].exp().cumsum(0)[:-1]
            drawn[:, d] = (u[:, d : d + 1] >= below).sum(1).double()
            start += k
        for known, rows in patterns(z):
            cells, v = z[rows][:, known].to(torch.int32), u[rows]
            order, below, first, last = self._matching(cells, known)
            count = below[last] - below[first]
            smooth = self.smoothing * self._log_independent(cells, known).exp()
            counted = v[:, -1] * (count + smooth) < count
            place = torch.searchsorted(below, below[first] + v[:, -2] * count, right=True) - 1
            # At the far end of the agreeing cells, rounding may lead to the one behind them.
            cell = self.cells[order[torch.minimum(place, last - 1).clamp_min(0)]]
            drawn[rows] = torch.where(counted[:, None], cell.double(), drawn[rows])
        return torch.where(z.isnan(), drawn, z).reshape(shape)


@estimator
class Histogram(Generative):
    """Joint histogram with bins and smoothing chosen by leave-one-out likelihood; exact, never minus infinity.

    References: Scott, 1979; Rudemo, 1982.

    Examples:
        >>> import numpy as np, plausible as pl
        >>> X = np.random.default_rng(0).random((20_000, 1))
        >>> model = pl.Histogram(bins=10).fit(X)
        >>> bool(abs(model.score(X)) < 0.01)  # the uniform density is 1
        True
    """

    bins: str | int = option("risk", "number of bins of a column, or the rule that chooses it", low=1, choices=RULES)

    traits = Traits(
        density="exact", events=frozenset({"table", "image", "series"}), marginals=True, given="exact", streams=True
    )

    def _build(self, space: Space, context_space: Space) -> Module:
        return _Histogram(space)

    def _transforms(self, space: Space):
        return [Bins(self.bins)]
