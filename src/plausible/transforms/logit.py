r"""Map a bounded real column to the whole line.

    both bounds    y = (x - low) / (high - low)    z = log y - log(1 - y)
                   log C = - sum log(high - low) + log y + log(1 - y)
    a lower one    y = x - low                     z = log(e^y - 1)
                   log C = - sum log(1 - e^-y)

so that no mass of a density on the line falls outside the support. The second is the inverse of softplus: a logarithm
near the bound, the identity far from it.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch.nn import functional as F

from plausible.space import Column, Space
from plausible.transforms.base import Transform, sum_over

_MARGIN = 1e-12  # keeps a uniform that happens to be zero away from minus infinity


class Logit(Transform):
    """Logit of the real columns with two bounds, inverse softplus of those with one; the others stay as they are."""

    def prepare(self, space: Space) -> None:
        both = [_has_low(c) and c.high is not None for c in space.columns]
        lower = [_has_low(c) and c.high is None for c in space.columns]
        low = [c.low if _has_low(c) else 0.0 for c in space.columns]
        width = [c.high - c.low if b else 1.0 for c, b in zip(space.columns, both, strict=True)]
        self.register_buffer("both", torch.tensor(both).reshape(space.shape))
        self.register_buffer("lower", torch.tensor(lower).reshape(space.shape))
        self.register_buffer("low", torch.tensor(low, dtype=torch.float64).reshape(space.shape))
        self.register_buffer("width", torch.tensor(width, dtype=torch.float64).reshape(space.shape))

    def output(self, space: Space) -> Space:
        return space.replace(replace(c, low=None, high=None) if _has_low(c) else c for c in space.columns)

    def forward(self, x, rng=None):
        x = x.double()
        y = (x - self.low) / self.width
        share, distance = y.clamp(_MARGIN, 1 - _MARGIN), y.clamp_min(_MARGIN)
        log_slope = torch.log(-torch.expm1(-distance))  # of softplus, at the inverse
        z = torch.where(self.both, share.logit(), torch.where(self.lower, distance + log_slope, x))
        of_logit = -share.log() - torch.log1p(-share) - self.width.log()
        nothing = torch.zeros_like(x)
        return z, sum_over(torch.where(self.both, of_logit, torch.where(self.lower, -log_slope, nothing)))

    def inverse(self, z, rng=None):
        z = z.double()
        positive = torch.where(self.lower, F.softplus(z) + self.low, z)
        return torch.where(self.both, z.sigmoid() * self.width + self.low, positive)


def _has_low(column: Column) -> bool:
    return column.kind == "real" and column.low is not None
