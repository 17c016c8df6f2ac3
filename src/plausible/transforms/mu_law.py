r"""Mu-law companding: 65,536 values of a 16-bit sample in 256 cells, fine about silence and coarse where it is loud.

    s = (k + 1/2) / 2^15,    y = sgn(s) log(1 + mu |s|) / log(1 + mu),    z = floor(128 (y + 1)),    mu = 255
    log C = - log |cell z|

|cell z| is the number of integers in the cell, over which the density is flat: no integer is lost, and the likelihood
is that of the 16-bit samples.

References: ITU-T, Recommendation G.711, 1988. van den Oord et al., WaveNet, 2016, https://arxiv.org/abs/1609.03499
"""

from __future__ import annotations

import math

import torch

from plausible.randomness import uniform
from plausible.space import Column, Space
from plausible.transforms.base import Transform, sum_over

MU, CELLS, HALF = 255.0, 256, 32768


class MuLaw(Transform):
    """Integers -32768 .. 32767 to cells 0 .. 255, and back by a draw within the cell."""

    def prepare(self, space: Space) -> None:
        device = torch.device("cpu")
        s = (torch.arange(-HALF, HALF, dtype=torch.float64, device=device) + 0.5) / HALF
        y = s.sign() * torch.log1p(MU * s.abs()) / math.log1p(MU)
        cell = ((y + 1) * (CELLS / 2)).floor().clamp(0, CELLS - 1).long()
        size = torch.bincount(cell, minlength=CELLS).double()
        self.register_buffer("cell", cell.double(), persistent=False)  # of each integer
        self.register_buffer("size", size, persistent=False)
        self.register_buffer("low", size.cumsum(0) - size - HALF, persistent=False)  # the smallest integer of each

    def output(self, space: Space) -> Space:
        sample = Column("sample", "categorical", tuple(range(CELLS)))
        return space.replace((sample,) * space.dims)

    def forward(self, x, rng=None):
        z, log_c = self.each(x)
        return z, sum_over(log_c)

    def each(self, x):
        known = ~x.isnan()
        z = self.cell[(torch.nan_to_num(x).long() + HALF).clamp(0, 2 * HALF - 1)]
        log_c = torch.where(known, -self.size.log()[z.long()], 0.0)
        return torch.where(known, z, torch.nan), log_c

    def inverse(self, z, rng=None):
        cell = torch.nan_to_num(z).long()
        u = uniform(rng, tuple(z.shape), self.low)
        x = self.low[cell] + (u * self.size[cell]).floor().clamp_max(self.size[cell] - 1)
        return torch.where(z.isnan(), torch.nan, x)

    def centre(self, z):
        cell = torch.nan_to_num(z).long()
        return torch.where(z.isnan(), torch.nan, self.low[cell] + (self.size[cell] - 1) / 2)
