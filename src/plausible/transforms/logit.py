r"""Stretch every bounded real column over the whole line.

    y = (x - low) / (high - low),   z = log y - log(1 - y),   log C = - sum log(high - low) + log y + log(1 - y)

so that no mass of a density on the line falls outside the support.
"""

from __future__ import annotations

from dataclasses import replace

import torch

from plausible.space import Space
from plausible.transforms.base import Transform, sum_over

_MARGIN = 1e-12  # keeps a uniform that happens to be zero away from minus infinity


class Logit(Transform):
    """Logit of the real columns that have both a lower and an upper bound; the others stay as they are."""

    @staticmethod
    def _bounded(column) -> bool:
        return column.kind == "real" and column.low is not None and column.high is not None

    def prepare(self, space: Space) -> None:
        bounded = [self._bounded(c) for c in space.columns]
        low = [c.low if b else 0.0 for c, b in zip(space.columns, bounded, strict=True)]
        width = [c.high - c.low if b else 1.0 for c, b in zip(space.columns, bounded, strict=True)]
        self.register_buffer("bounded", torch.tensor(bounded).reshape(space.shape))
        self.register_buffer("low", torch.tensor(low, dtype=torch.float64).reshape(space.shape))
        self.register_buffer("width", torch.tensor(width, dtype=torch.float64).reshape(space.shape))

    def output(self, space: Space) -> Space:
        return space.replace(replace(c, low=None, high=None) if self._bounded(c) else c for c in space.columns)

    def forward(self, x, rng=None):
        x = x.double()
        y = ((x - self.low) / self.width).clamp(_MARGIN, 1 - _MARGIN)
        z = torch.where(self.bounded, y.logit(), x)
        log_slope = -y.log() - torch.log1p(-y) - self.width.log()
        return z, sum_over(torch.where(self.bounded, log_slope, torch.zeros_like(x)))

    def inverse(self, z, rng=None):
        z = z.double()
        return torch.where(self.bounded, z.sigmoid() * self.width + self.low, z)
