r"""Densities of single columns, for the families that are made of them.

Columns fall into two groups: *tables* (binary, categorical, ordinal up to 32 levels), which have a probability per
level, and *normals* (real; count and finer ordinal, which are lattices), which have a mean and a deviation. On a
lattice the normal is discretised exactly,

    P(k) = Phi((k + h - m) / s) - Phi((k - h - m) / s),   2 h the step,

with all the mass below the lowest (above the highest) lattice point on that point.
"""

from __future__ import annotations

import math

import torch
from torch import nn

from plausible.space import MAX_SPAN, Space

LOG_SQRT_2PI = 0.5 * math.log(2 * math.pi)
REAL_FLOOR = 1e-3  # smallest deviation of a real, in standardised units
LATTICE_FLOOR = 0.1  # and of a lattice, in steps: all mass on one point


class Columns(nn.Module):
    """Which column of a space belongs where.

    Attributes (index tensors and numbers per column):
        tables (T,), levels: list of T ints; offsets: where the levels of each start in a flat table of `n_levels`.
        reals (R,): the real columns, if they are to be kept apart from the other normals.
        normals (G,), is_lattice (G,), half_step (G,), low and high (G,), floor (G,) smallest deviation.
    """

    def __init__(self, space: Space, reals_apart: bool = False):
        super().__init__()
        columns = space.columns
        tables = [d for d, c in enumerate(columns) if c.levels and (c.kind != "ordinal" or c.n_levels <= MAX_SPAN)]
        reals = [d for d, c in enumerate(columns) if reals_apart and c.kind == "real"]
        normals = [d for d in range(space.dims) if d not in {*tables, *reals}]
        self.levels = [columns[d].n_levels for d in tables]
        self.n_tables, self.n_normals, self.n_levels = len(tables), len(normals), sum(self.levels)
        self.n_reals = len(reals)
        self.any_lattice = any(columns[d].discrete for d in normals)
        chosen = [columns[d] for d in normals]
        inf = math.inf

        def buffer(name, values, dtype=torch.float64):
            self.register_buffer(name, torch.tensor(values, dtype=dtype), persistent=False)

        buffer("tables", tables, torch.long)
        buffer("normals", normals, torch.long)
        buffer("reals", reals, torch.long)
        buffer("offsets", [sum(self.levels[:i]) for i in range(len(tables))], torch.long)
        buffer("of_level", [i for i, k in enumerate(self.levels) for _ in range(k)], torch.long)
        buffer("is_lattice", [c.discrete for c in chosen], torch.bool)
        buffer("half_step", [c.step / 2 for c in chosen])
        buffer("low", [0.0 if c.levels else -inf if c.low is None else c.low for c in chosen])
        buffer("high", [c.n_levels - 1.0 if c.levels else inf if c.high is None else c.high for c in chosen])
        buffer("rounding", [c.step**2 / 12 if c.discrete else 0.0 for c in chosen])
        buffer("floor", [LATTICE_FLOOR * c.step if c.discrete else REAL_FLOOR for c in chosen])

    def one_hot(self, z: torch.Tensor) -> torch.Tensor:
        """(n, D) codes -> (n, n_levels) indicators of the table columns; zero everywhere for a missing cell."""
        x = z[:, self.tables]
        out = torch.zeros(len(z), self.n_levels, dtype=torch.float64, device=z.device)
        position = torch.nan_to_num(x).long() + self.offsets
        return out.scatter_(1, position, (~x.isnan()).double())

    def deviation(self, variance: torch.Tensor) -> torch.Tensor:
        """The deviation of a normal from the variance (..., G) of its values, not below its floor.

        Rounding to a lattice of step 2 h adds (2 h)^2 / 12 to the variance, which is taken off (Sheppard, 1898).
        """
        return (variance - self.rounding).clamp_min(0).sqrt().maximum(self.floor)

    def log_normal(self, x: torch.Tensor, mean: torch.Tensor, deviation: torch.Tensor) -> torch.Tensor:
        """log density or probability of each normal column: all of shape (..., G); zero where x is NaN."""
        missing = x.isnan()
        x = torch.nan_to_num(x)
        log_p = -0.5 * ((x - mean) / deviation).square() - deviation.log() - LOG_SQRT_2PI
        if self.any_lattice:
            log_p = torch.where(self.is_lattice, self._log_lattice(x, mean, deviation), log_p)
        return torch.where(missing, torch.zeros_like(log_p), log_p)

    def log_spread(self, x: torch.Tensor, mean: torch.Tensor, deviation: torch.Tensor) -> torch.Tensor:
        """`log_normal`, but for a lattice the normal widened by the rounding stands for the discretised one.

        A tenth of the work, and close enough for the responsibilities of EM.
        """
        wide = (deviation.square() + self.rounding).sqrt()
        steps = torch.where(self.is_lattice, 2 * self.half_step, torch.ones_like(self.half_step)).log()
        log_p = -0.5 * ((x - mean) / wide).square() - wide.log() - LOG_SQRT_2PI + steps
        return torch.nan_to_num(log_p, nan=0.0)

    def _log_lattice(self, x, mean, deviation):
        upper = torch.where(x > self.high - self.half_step, math.inf, (x + self.half_step - mean) / deviation)
        lower = torch.where(x < self.low + self.half_step, -math.inf, (x - self.half_step - mean) / deviation)
        # Reflect so that both ends lie in the lower tail, where log_ndtr keeps its precision.
        flip = lower + upper > 0
        upper, lower = torch.where(flip, -lower, upper), torch.where(flip, -upper, lower)
        log_upper, log_lower = torch.special.log_ndtr(upper), torch.special.log_ndtr(lower)
        ratio = torch.where(lower.isinf(), -math.inf, log_lower - log_upper)
        return log_upper + torch.log(-torch.expm1(ratio).clamp_max(-1e-300))

    def round_lattice(self, x: torch.Tensor) -> torch.Tensor:
        """Put draws (n, G) of lattice columns on their lattice."""
        if not self.any_lattice:
            return x
        start = torch.where(self.low.isinf(), torch.zeros_like(self.low), self.low)
        step = 2 * self.half_step
        on = (start + ((x - start) / step).round() * step).clamp(self.low, self.high)
        return torch.where(self.is_lattice, on, x)

    def smoothed(self, totals: torch.Tensor, prior: float = 0.5) -> torch.Tensor:
        """Log probabilities of levels from their weighted counts (..., n_levels), with `prior` added to each."""
        totals = totals + prior
        sums = torch.zeros(*totals.shape[:-1], max(self.n_tables, 1), dtype=totals.dtype, device=totals.device)
        sums = sums.index_add(-1, self.of_level, totals)
        return totals.log() - sums.log()[..., self.of_level]

    def draw_tables(self, log_p: torch.Tensor, u: torch.Tensor) -> torch.Tensor:
        """Draw levels by inversion: log probabilities (n, n_levels), uniforms (n, T) -> codes (n, T)."""
        out = torch.empty(len(u), self.n_tables, dtype=torch.float64, device=u.device)
        for t, (start, k) in enumerate(zip(self.offsets.tolist(), self.levels, strict=True)):
            below = log_p[:, start : start + k].exp().cumsum(1)[:, :-1]
            out[:, t] = (u[:, t : t + 1] >= below).sum(1).double()
        return out


def parts(n: int, rows: int = 4096) -> list[slice]:
    """Cut n rows into pieces of at most `rows`, which is taken to be between 256 and 4096."""
    rows = min(max(rows, 256), 4096)
    return [slice(start, start + rows) for start in range(0, n, rows)]


def quantiles(x: torch.Tensor, w: torch.Tensor, shares: torch.Tensor) -> torch.Tensor:
    """Weighted quantiles of each column: values and weights (n, G), shares (M,) -> (G, M)."""
    order = x.argsort(0)
    below = w.gather(0, order).cumsum(0)
    shares = shares.clamp_min(1e-12)  # the lowest value that has any weight
    place = torch.searchsorted((below / below[-1]).T.contiguous(), shares.expand(x.shape[1], -1).contiguous())
    return x.gather(0, order).T.gather(1, place.clamp_max(len(x) - 1))


def mean_of(x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
    """Weighted mean of what is known of each column: (n, D) and (n,) -> (D,)."""
    if not x.isnan().any():
        return w @ x / w.sum().clamp_min(1e-300)
    known = ~x.isnan() * w[:, None]
    return (torch.nan_to_num(x) * known).sum(0) / known.sum(0).clamp_min(1e-300)


def variance_of(x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
    """Their weighted variance about that mean (D,)."""
    return mean_of((x - mean_of(x, w)).square(), w)


def patterns(z: torch.Tensor) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """(which columns are known (D,), which rows) for every pattern of missing cells among the rows of z (n, D)."""
    missing = z.isnan()
    if not missing.any():
        return [(~missing.any(0), torch.arange(len(z), device=z.device))] if len(z) else []
    kinds, which = torch.unique(missing, dim=0, return_inverse=True)
    return [(~kind, (which == p).nonzero()[:, 0]) for p, kind in enumerate(kinds)]
