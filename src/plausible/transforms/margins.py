r"""Bend every real column into a standard normal: what is left to a model is how the columns hang together.

    z_d = g_d(x_d),    log C = sum over real d of log g_d'(x_d)

g_d is the inverse of the column's quantiles as a function of z, smoothed there, plus a straight line that lets values
between which no row lies have a z of their own:

    g^-1(z) = (1 - t) E[Q(Phi(z + h e))] + t (m + s z),    e ~ N(0, 1),    h = 0.8 n^-1/5

Q is the empirical quantile function, continued straight beyond the last rows; m and s are their mean and deviation. The
smoothing is fine where rows are dense, and keeps levels of a column of few values apart. g is piecewise linear through
knots that lie evenly in z, so that its log term is exact. A joint normal of z is a Gaussian copula.

Reference: Liu, Lafferty and Wasserman, The nonparanormal, 2009, https://arxiv.org/abs/0903.0655
"""

from __future__ import annotations

import math
from dataclasses import replace

import torch

from plausible.space import Space
from plausible.transforms.base import Transform, sum_over

KNOTS, REACH = 257, 5.0  # from -REACH to REACH in z
LINE = 0.02  # t


class NormalMargins(Transform):
    """The real columns as standard normals, fitted on the training part; the others and missing cells stay."""

    def prepare(self, space: Space) -> None:
        d = space.dims
        self.shape = space.shape
        self.register_buffer("real", torch.tensor([c.kind == "real" for c in space.columns]))
        self.register_buffer("level", torch.linspace(-REACH, REACH, KNOTS, dtype=torch.float64), persistent=False)
        self.register_buffer("knots", self.level.expand(d, -1).clone())  # (D, KNOTS): where g_d(x) is the level

    def fit(self, x: torch.Tensor, weight: torch.Tensor | None = None) -> None:
        x = x.double().flatten(1)
        w = torch.ones(len(x), dtype=x.dtype, device=x.device) if weight is None else weight.double()
        for d in self.real.nonzero()[:, 0].tolist():
            known = ~x[:, d].isnan() & (w > 0)
            if known.any():
                self.knots[d] = _knots(x[known, d], w[known], self.level)

    def output(self, space: Space) -> Space:
        def moved(d, column):
            if column.kind != "real":
                return column
            ends = torch.tensor([column.low or 0.0, column.high or 0.0], dtype=torch.float64, device=self.knots.device)
            low, high = (self._bend(ends[:, None].expand(-1, space.dims))[0][:, d]).tolist()
            return replace(column, low=None if column.low is None else low, high=None if column.high is None else high)

        return space.replace(moved(d, c) for d, c in enumerate(space.columns))

    def forward(self, x, rng=None):
        z, log_c = self.each(x)
        return z, sum_over(log_c)

    def each(self, x):
        z, slope = self._bend(x.double().flatten(1))
        z = torch.where(self.real, z, x.flatten(1))
        return z.reshape(x.shape), torch.where(self.real & ~z.isnan(), slope.log(), 0.0).reshape(x.shape)

    def inverse(self, z, rng=None):
        flat = z.double().flatten(1)
        place = torch.searchsorted(self.level, flat.nan_to_num(0.0).contiguous()).clamp(1, KNOTS - 1)
        left, right = (self.knots.gather(1, (place - k).T).T for k in (1, 0))
        step = self.level[1] - self.level[0]
        x = left + (flat - self.level[place - 1]) / step * (right - left)
        return torch.where(self.real, x, flat).reshape(z.shape)

    def _bend(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """g_d(x_d) and g_d'(x_d) of rows (n, D)."""
        place = torch.searchsorted(self.knots, x.nan_to_num(0.0).T.contiguous()).clamp(1, KNOTS - 1)
        left, right = (self.knots.gather(1, place - k).T for k in (1, 0))
        slope = (self.level[1] - self.level[0]) / (right - left)
        return self.level[place.T - 1] + (x - left) * slope, slope


def _knots(x: torch.Tensor, weight: torch.Tensor, level: torch.Tensor) -> torch.Tensor:
    """g^-1 of the levels, from a column and its weights (n,): increasing, (KNOTS,)."""
    n, mean = weight.sum(), (weight @ x) / weight.sum()
    deviation = ((weight @ (x - mean).square()) / n).sqrt()
    if deviation <= 1e-12 * mean.abs().clamp_min(1e-290):  # a constant column keeps its unit
        return mean + level
    values, which = x.unique(return_inverse=True)
    below = torch.zeros_like(values).index_add_(0, which, weight).cumsum(0) / n
    n = max(float(n), 2.0)
    end = torch.special.ndtri(torch.tensor(1 - 0.5 / n, dtype=x.dtype, device=x.device))  # where the last row stands

    def quantile(z: torch.Tensor) -> torch.Tensor:
        return values[torch.searchsorted(below, torch.special.ndtr(z)).clamp_max(len(values) - 1)]

    h, step = 0.8 * n**-0.2, level[1] - level[0]
    reach = math.ceil(4 * h / step)
    z = step * torch.arange(-(KNOTS // 2) - reach, KNOTS // 2 + reach + 1, dtype=x.dtype, device=x.device)
    q = quantile(z.clamp(-end, end))
    for side in (-1, 1):
        slope = (quantile(side * end) - quantile(side * (end - 1))) * side
        q = q + slope * side * (side * z - end).clamp_min(0)
    kernel = torch.exp(-0.5 * (z[KNOTS // 2 : KNOTS // 2 + 2 * reach + 1] / h).square())
    smooth = q.unfold(0, len(kernel), 1) @ (kernel / kernel.sum())
    return (1 - LINE) * smooth + LINE * (mean + deviation * level)
