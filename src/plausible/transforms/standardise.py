r"""Shift and scale every real and count column to mean zero and variance one.

    z_d = (x_d - m_d) / s_d          log C = - sum over real d of log s_d

A count stays on a lattice, of step 1/s_d, and is measured by counting: moving lattice points changes no probability,
so counts add nothing to log C. Its m_d is rounded to an integer, so that the lattice still goes through zero.
"""

from __future__ import annotations

from dataclasses import replace

import torch

from plausible.space import Space
from plausible.transforms.base import Transform, sum_over


class Standardise(Transform):
    """Mean zero and variance one per column, fitted on the training part; missing cells are ignored.

    Args:
        shared: give all steps of a series, of shape (T, C), one shift and scale per channel.
    """

    def __init__(self, shared: bool = False):
        super().__init__()
        self.over = (0, 1) if shared else (0,)

    def prepare(self, space: Space) -> None:
        one = torch.ones(space.shape, dtype=torch.float64)
        kinds = [c.kind for c in space.columns]
        self.register_buffer("real", torch.tensor([k == "real" for k in kinds]).reshape(space.shape))
        self.register_buffer("count", torch.tensor([k == "count" for k in kinds]).reshape(space.shape))
        self.register_buffer("moved", self.real | self.count)
        self.register_buffer("shift", torch.zeros_like(one))
        self.register_buffer("scale", one)

    def fit(self, x: torch.Tensor, weight: torch.Tensor | None = None) -> None:
        if not self.moved.any():
            return
        x = x.double()
        w = torch.ones(len(x), dtype=torch.float64, device=x.device) if weight is None else weight.double()
        w = w.reshape(-1, *[1] * (x.dim() - 1)) * ~x.isnan()
        total = w.sum(self.over).clamp_min(1e-300)
        x = x.nan_to_num(0.0)
        mean = (w * x).sum(self.over) / total
        deviation = ((w * (x - mean) ** 2).sum(self.over) / total).sqrt()
        # A column constant on the training part (a corner of real-valued images) keeps its unit.
        deviation = torch.where(deviation > 1e-12 * mean.abs().clamp_min(1e-290), deviation, torch.ones_like(deviation))
        mean = torch.where(self.count, mean.round(), mean)  # (T, C), also where the channels share theirs
        self.shift.copy_(torch.where(self.moved, mean, 0.0))
        self.scale.copy_(torch.where(self.moved, deviation, 1.0))

    def output(self, space: Space) -> Space:
        shift, scale = self.shift.flatten().tolist(), self.scale.flatten().tolist()

        def moved(column, m, s):
            if column.kind not in ("real", "count"):
                return column
            low, high = ((b - m) / s if b is not None else None for b in (column.low, column.high))
            coarse = None if column.coarse is None else column.coarse / s
            return replace(column, low=low, high=high, step=column.step / s, coarse=coarse)

        return space.replace(moved(*a) for a in zip(space.columns, shift, scale, strict=True))

    def forward(self, x, rng=None):
        if not self.moved.any():
            return x, torch.zeros(len(x), dtype=torch.float64, device=x.device)
        z, log_c = self.each(x)
        return z, sum_over(log_c)

    def each(self, x):
        z = (x.double() - self.shift) / self.scale
        return z, torch.where(self.real & ~z.isnan(), -self.scale.log(), 0.0)

    def inverse(self, z, rng=None):
        return z.double() * self.scale + self.shift if self.moved.any() else z
