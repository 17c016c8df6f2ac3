r"""Cut every real and count column into bins: what turns a table of counts into a histogram density.

    z = the bin of x,    log C = - log |bin z|

inside a bin the density is flat; |bin| is its length for a real, its number of integers for a count. Below the first
edge e_0 and above the last e_m lie two tails with exponential (for a count geometric) densities, so that a value out of
range is improbable but never impossible:

    p(x | upper tail) = exp(-(x - e_m) / t) / t
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

from plausible.randomness import uniform
from plausible.space import Space
from plausible.transforms.base import Transform, sum_over


class Bins(Transform):
    """Equal-width bins between the smallest and the largest training value, and a tail at either side.

    Args:
        bins: the number of bins of each column, in the order of the columns; entries of columns that have levels
            already are ignored.
    """

    def __init__(self, bins: list[int]):
        super().__init__()
        self.bins = list(bins)

    def prepare(self, space: Space) -> None:
        kinds = [c.kind for c in space.columns]
        width = max([b for b, k in zip(self.bins, kinds, strict=True) if k in ("real", "count")], default=1) + 1
        self.register_buffer("real", torch.tensor([k == "real" for k in kinds]))
        self.register_buffer("cut", torch.tensor([k in ("real", "count") for k in kinds]))
        self.register_buffer("edges", torch.full((len(kinds), width), torch.inf, dtype=torch.float64))
        self.register_buffer("counts", torch.tensor(self.bins))
        self.register_buffer("tail", torch.ones(len(kinds), dtype=torch.float64))
        floors = [-torch.inf if c.low is None else c.low for c in space.columns]
        self.register_buffer("floor", torch.tensor(floors, dtype=torch.float64))

    def fit(self, x: torch.Tensor, weight: torch.Tensor | None = None) -> None:
        for d in torch.nonzero(self.cut).flatten().tolist():
            known = x[:, d].double()
            known = known[~known.isnan()]
            low, high = known.min().item(), known.max().item()
            low = low if self.floor[d].isinf() else self.floor[d].item()
            if self.real[d]:
                edges = np.linspace(low, high, self.bins[d] + 1)
            else:  # between integers, so that every bin holds at least one of them
                edges = np.unique(np.round(np.linspace(low, high + 1, self.bins[d] + 1))) - 0.5
            self.counts[d] = len(edges) - 1
            self.edges[d, : len(edges)] = torch.from_numpy(edges)
            self.tail[d] = max((high - low) / 10, 1.0 if not self.real[d] else 0.0)

    def output(self, space: Space) -> Space:
        def binned(column, m):
            if column.kind not in ("real", "count"):
                return column
            levels = tuple(range(m + 2))  # the lower tail, the m bins, the upper tail
            possible = 0.0 if column.low is None else 1.0  # nothing lies below the smallest possible count
            return replace(column, kind="ordinal", levels=levels, low=possible, high=None, step=1.0)

        return space.replace(binned(c, m) for c, m in zip(space.columns, self.counts.tolist(), strict=True))

    def _limits(self, z: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return the lower and upper edge of each bin (n, D), and which bins are the lower and the upper tail."""
        m = self.counts
        d = torch.arange(len(m), device=z.device)
        inner = torch.minimum((z - 1).clamp_min(0), m - 1)
        return self.edges[d, inner], self.edges[d, inner + 1], z == 0, z == m + 1

    def forward(self, x, rng=None):
        x = x.double()
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
        return torch.where(self.cut, z.double(), x), sum_over(torch.where(self.cut, log_c, torch.zeros_like(x)))

    def _log_geometric(self, beyond: torch.Tensor) -> torch.Tensor:
        """log P of the k-th integer (k = 0, 1, ...) past an edge that lies half a step before the first."""
        k = (beyond - 0.5).round()
        return -k / self.tail + torch.log(-torch.expm1(-1 / self.tail))

    def inverse(self, z, rng=None):
        z = z.double()
        low, high, lower, upper = self._limits(torch.where(self.cut, z, torch.zeros_like(z)).long())
        u = uniform(rng, tuple(z.shape), z)
        beyond = -torch.log1p(-u) * self.tail
        x = torch.where(lower, low - beyond, torch.where(upper, high + beyond, low + u * (high - low)))
        # Half a step past an edge lies an integer: rounding away from the edges gives each the mass it has above.
        lattice = torch.where(lower, low - 0.5 - beyond.floor(), (x + 0.5).floor())
        lattice = torch.where(upper, high + 0.5 + beyond.floor(), lattice)
        x = torch.where(self.real, x, lattice)
        return torch.where(self.cut, x, z)
