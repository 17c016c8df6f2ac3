r"""Cut every real and count column into bins: what turns a table of counts into a histogram density.

    z = the bin of x,    log C = - log |bin z|

inside a bin the density is flat; |bin| is its length for a real, its number of integers for a count. Below the first
edge e_0 and above the last e_m lie two tails with exponential (for a count geometric) densities, so that a value out of
range is improbable but never impossible:

    p(x | upper tail) = exp(-(x - e_m) / t) / t
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import torch

from plausible.randomness import row_hash, uniform
from plausible.space import Space
from plausible.transforms.base import Transform, sum_over

RULES = ("risk", "fd", "scott", "sturges", "mass")
PSEUDO_ROWS = tuple(4.0**k for k in range(-2, 8))
CANDIDATES = (1, 2, 3, 4, 6, 8, 11, 16, 23, 32, 45, 64, 91, 128)


class Bins(Transform):
    """Bins between the smallest and the largest training value, and a tail at either side.

    Args:
        rule: the number of bins of every column, or how to choose it: 'risk' takes the number, the same for all
            columns, for which the leave-one-out likelihood of the joint histogram is best; 'fd' (Freedman-Diaconis),
            'scott' and 'sturges' are the rules of those names, column by column. These bins are of equal width; those
            of 'mass' hold equally many rows, about the square root of their number each.
    """

    variable_buffers = ("edges",)

    def __init__(self, rule: str | int = "risk"):
        super().__init__()
        self.rule = rule

    def prepare(self, space: Space) -> None:
        columns = space.columns
        self.register_buffer("real", torch.tensor([c.kind == "real" for c in columns]))
        self.register_buffer("cut", torch.tensor([c.kind in ("real", "count") for c in columns]))
        floors = [-torch.inf if c.low is None or c.levels else c.low for c in columns]
        self.register_buffer("floor", torch.tensor(floors, dtype=torch.float64))
        self.register_buffer("edges", torch.zeros(len(columns), 2, dtype=torch.float64))  # (D, most + 1)
        self.register_buffer("counts", torch.ones(len(columns), dtype=torch.long))
        self.register_buffer("tail", torch.ones(len(columns), dtype=torch.float64))

    def fit(self, x: torch.Tensor, weight: torch.Tensor | None = None) -> None:
        x = x.double().reshape(len(x), -1)
        if not self.cut.any():
            return
        if self.rule == "risk":
            whole = ~x.isnan().any(1)
            w = None if weight is None else weight[whole]
            scores = [self._leave_one_out(x[whole], m, w) for m in CANDIDATES]
            self._cut(x, [CANDIDATES[int(np.argmax(scores))]] * x.shape[1])
        elif self.rule == "mass":
            w = torch.ones(len(x), dtype=x.dtype, device=x.device) if weight is None else weight
            self._set([self._equal_mass(d, x[:, d], w) for d in range(x.shape[1])])
        elif isinstance(self.rule, str):
            known = [column[~np.isnan(column)] for column in x.T.cpu().numpy()]
            chosen = [len(np.histogram_bin_edges(_middle(column), self.rule)) - 1 for column in known]
            self._cut(x, [min(max(m, 1), CANDIDATES[-1] * 4) for m in chosen])
        else:
            self._cut(x, [int(self.rule)] * x.shape[1])

    def _cut(self, x: torch.Tensor, bins: list[int]) -> None:
        """Cut each column into that many bins of equal width."""
        edges = []
        for d, m in enumerate(bins):
            low, high = self._ends(d, x[:, d])
            if self.real[d]:
                edges.append(np.linspace(low, high, m + 1))
            else:  # between integers, so that every bin holds at least one of them
                edges.append(np.unique(np.round(np.linspace(low, high + 1, m + 1))) - 0.5)
        self._set(edges)

    def _equal_mass(self, d: int, x: torch.Tensor, weight: torch.Tensor) -> np.ndarray:
        """Return edges between which lie equal shares of the rows; a value that many rows share ends fewer bins."""
        low, high = self._ends(d, x)
        known = ~x.isnan() & (weight > 0)
        values, order = x[known].sort()
        share = weight[known][order].cumsum(0) / weight[known].sum()
        m = max(round(float(weight[known].sum()) ** 0.5), 1)
        inner = torch.searchsorted(share, torch.arange(1, m, dtype=x.dtype, device=x.device) / m)
        cuts = values[inner.clamp_max(len(values) - 1)].cpu().numpy()
        if self.real[d]:
            return np.unique(np.r_[low, cuts, high])
        return np.unique(np.r_[low, np.ceil(cuts), high + 1]) - 0.5

    def _ends(self, d: int, x: torch.Tensor) -> tuple[float, float]:
        """Return the lowest and the highest value of column d."""
        known = x[~x.isnan()]
        low, high = known.min().item(), known.max().item()
        low = low if self.floor[d].isinf() else self.floor[d].item()
        if self.real[d] and low == high:  # a pixel that never changes: one unit about it
            low, high = low - 0.5, high + 0.5
        return low, high

    def _set(self, edges: list[np.ndarray]) -> None:
        """Keep the edges of each column, and tails of a tenth of its range."""
        self.counts.copy_(torch.tensor([len(e) - 1 for e in edges]))
        device = self.edges.device
        self.edges = torch.full((len(edges), max(map(len, edges))), torch.inf, dtype=torch.float64, device=device)
        for d, e in enumerate(edges):
            self.edges[d, : len(e)] = torch.from_numpy(e)
            reach = e[-1] - e[0] if self.real[d] else e[-1] - e[0] - 1
            self.tail[d] = max(reach / 10, 0.0 if self.real[d] else 1.0)

    def _leave_one_out(self, x: torch.Tensor, m: int, weight: torch.Tensor | None) -> float:
        """Mean log density of each row under the histogram of the others, smoothed towards independence as is best."""
        self._cut(x, [m] * x.shape[1])
        z, log_c = self(x)
        w = torch.ones(len(z), dtype=torch.float64, device=z.device) if weight is None else weight
        n = w.sum()
        log_others = (_total(row_hash(z).unique(return_inverse=True)[1], w) - 1).clamp_min(0).log()
        log_q = torch.zeros_like(log_c)
        for k in z.long().T:
            log_q += ((_total(k, w) - 1).clamp_min(0) + 0.5).log() - (n - 1 + 0.5 * (k.max() + 1)).log()

        def score(a: float) -> float:
            log_p = torch.logaddexp(log_others, log_q + math.log(a)) - (n - 1 + a).log() + log_c
            return float((w * log_p).sum() / n)

        return max(map(score, PSEUDO_ROWS))

    def output(self, space: Space) -> Space:
        def binned(column, m):
            if column.kind not in ("real", "count"):
                return column
            levels = tuple(range(m + 2))  # the lower tail, the m bins, the upper tail
            possible = 0.0 if column.low is None else 1.0  # nothing lies below the smallest possible count
            return replace(column, kind="ordinal", levels=levels, low=possible, high=None, step=1.0)

        return space.replace(binned(c, m) for c, m in zip(space.columns, self.counts.tolist(), strict=True))

    def breaks(self, d):
        return self.edges[d, : self.counts[d] + 1] if self.real[d] else super().breaks(d)

    def _limits(self, z: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return the lower and upper edge of each bin (n, D), and which bins are the lower and the upper tail."""
        m = self.counts
        d = torch.arange(len(m), device=z.device)
        inner = torch.minimum((z - 1).clamp_min(0), m - 1)
        return self.edges[d, inner], self.edges[d, inner + 1], z == 0, z == m + 1

    def forward(self, x, rng=None):
        if not self.cut.any():
            return x, torch.zeros(len(x), dtype=torch.float64, device=x.device)
        shape = x.shape
        x = x.double().reshape(len(x), -1)  # (n, D)
        # The number of edges at or below x; the last bin includes its upper edge.
        above = torch.searchsorted(self.edges, x.T.contiguous(), right=True).T
        m = self.counts
        at_top = x == self.edges.gather(1, m[:, None].expand(-1, 1)).squeeze(1)
        z = torch.where(at_top, m, above)
        low, high, lower, upper = self._limits(z)
        inside = -(high - low).log()
        beyond = torch.where(lower, low - x, x - high)
        tails = torch.where(self.real, -beyond / self.tail - self.tail.log(), self._log_geometric(beyond))
        log_c = torch.where(lower | upper, tails, inside)
        z = torch.where(self.cut & ~x.isnan(), z.double(), x)
        return z.reshape(shape), sum_over(torch.where(self.cut & ~x.isnan(), log_c, 0.0))

    def _log_geometric(self, beyond: torch.Tensor) -> torch.Tensor:
        """log P of the k-th integer (k = 0, 1, ...) past an edge that lies half a step before the first."""
        k = (beyond - 0.5).round()
        return -k / self.tail + torch.log(-torch.expm1(-1 / self.tail))

    def inverse(self, z, rng=None):
        if not self.cut.any():
            return z
        shape = z.shape
        z = z.double().reshape(len(z), -1)
        low, high, lower, upper = self._limits(torch.where(self.cut, z, torch.zeros_like(z)).long())
        u = uniform(rng, tuple(z.shape), z)
        beyond = -torch.log1p(-u) * self.tail
        x = torch.where(lower, low - beyond, torch.where(upper, high + beyond, low + u * (high - low)))
        # Half a step past an edge lies an integer: rounding away from the edges gives each the mass it has above.
        lattice = torch.where(lower, low - 0.5 - beyond.floor(), (x + 0.5).floor())
        lattice = torch.where(upper, high + 0.5 + beyond.floor(), lattice)
        x = torch.where(self.real, x, lattice)
        return torch.where(self.cut & ~z.isnan(), x, z).reshape(shape)


def _middle(values: np.ndarray) -> np.ndarray:
    """The values without the outermost thousandths, whose distance would decide the width of all bins."""
    low, high = np.quantile(values, [0.001, 0.999])
    kept = values[(values >= low) & (values <= high)]
    return kept if kept.size > 1 and kept.min() < kept.max() else values


def _total(which: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
    """The summed weight of all rows that share a value with each row: indices and weights (n,) -> (n,)."""
    return torch.zeros(int(which.max()) + 1, dtype=w.dtype, device=w.device).index_add_(0, which, w)[which]
