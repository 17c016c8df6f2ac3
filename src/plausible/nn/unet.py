"""A small U-Net for images from 4x4 to 64x64 that is told a time and a context."""

from __future__ import annotations

import math

import torch
from torch import nn
from torch.nn import functional as F

from plausible.nn.mlp import Dropout
from plausible.nn.time import TimeEmbedding

SMALLEST = 4  # an image of this height or width is not halved again


class UNet(nn.Module):
    """Down by halves, a global layer, up again with skips: (n, C, H, W), (n,), (n, F) -> (n, n_out, H, W).

    A bias per place is added at either end (an image is no torus: a corner of a digit is always blank), and at the
    lowest resolution a bottleneck that connects all places takes the part of attention.

    Reference: Ronneberger, Fischer and Brox, U-Net, 2015, https://arxiv.org/abs/1505.04597; the residual blocks with a
    time are those of Ho, Jain and Abbeel, 2020, https://arxiv.org/abs/2006.11239

    Args:
        shape: C, H, W of the input.
        n_out: channels of the output.
        channels: of the full resolution; the lower ones have twice as many.
        n_context: features F of the context.
        dropout: the share of units dropped while training.
    """

    def __init__(
        self, shape: tuple[int, int, int], n_out: int, channels: int, n_context: int = 0, dropout: float = 0.0
    ):
        super().__init__()
        c_in, height, width = shape
        told = 4 * channels
        self.embedding = TimeEmbedding(told, n_context)
        self.first = nn.Conv2d(c_in, channels, 3, padding=1)
        self.place = nn.Parameter(torch.zeros(channels, height, width))
        self.down, self.halve, self.up, self.join = (nn.ModuleList() for _ in range(4))
        here, height, width = channels, height, width
        while min(height, width) > SMALLEST:
            below, height, width = 2 * channels, -(-height // 2), -(-width // 2)
            self.down.append(_Residual(here, here, told, dropout))
            self.halve.append(nn.Conv2d(here, below, 3, stride=2, padding=1))
            self.up.insert(0, nn.Conv2d(below, here, 1))
            self.join.insert(0, _Residual(2 * here, here, told, dropout))
            here = below
        self.middle = nn.ModuleList(_Residual(here, here, told, dropout) for _ in range(2))
        places = here * height * width
        self.everywhere = nn.Sequential(nn.Linear(places, places // 4), nn.SiLU(), nn.Linear(places // 4, places))
        self.norm, self.last = _norm(channels), nn.Conv2d(channels, n_out, 1, bias=False)
        self.bias = nn.Parameter(torch.zeros(n_out, *shape[1:]))
        for layer in (self.last, self.everywhere[-1]):
            nn.init.zeros_(layer.weight)

    def forward(self, x: torch.Tensor, t: torch.Tensor, c: torch.Tensor | None = None) -> torch.Tensor:
        told = self.embedding(t, c)
        h = self.first(x) + self.place
        skips = []
        for block, halve in zip(self.down, self.halve, strict=True):
            h = block(h, told)
            skips.append(h)
            h = halve(h)
        h = self.middle[0](h, told)
        h = h + self.everywhere(h.flatten(1)).view_as(h)
        h = self.middle[1](h, told)
        for up, block in zip(self.up, self.join, strict=True):
            skip = skips.pop()
            h = F.interpolate(up(h), size=skip.shape[2:])
            h = block(torch.cat([h, skip], 1), told)
        return self.last(F.silu(self.norm(h))) + self.bias


class _Residual(nn.Module):
    def __init__(self, c_in: int, c_out: int, told: int, dropout: float):
        super().__init__()
        self.norm_in, self.norm_out = _norm(c_in), _norm(c_out)
        self.conv_in, self.conv_out = nn.Conv2d(c_in, c_out, 3, padding=1), nn.Conv2d(c_out, c_out, 3, padding=1)
        self.of_told = nn.Linear(told, c_out)
        self.skip = nn.Conv2d(c_in, c_out, 1) if c_in != c_out else nn.Identity()
        self.dropout = Dropout(dropout)
        nn.init.zeros_(self.conv_out.weight)

    def forward(self, x: torch.Tensor, told: torch.Tensor) -> torch.Tensor:
        h = self.conv_in(F.silu(self.norm_in(x))) + self.of_told(told)[:, :, None, None]
        return self.skip(x) + self.conv_out(self.dropout(F.silu(self.norm_out(h))))


def _norm(channels: int) -> nn.GroupNorm:
    return nn.GroupNorm(math.gcd(8, channels), channels)
