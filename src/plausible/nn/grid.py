r"""A small net that makes a vector of what lies on a grid: an image, or a sequence.

    h_0 = conv(x),    h_{l+1} = mean(h_l) + conv(silu(norm(h_l))),    f(x) = MLP(h_L)

Both halve the grid, until no side is longer than four places, and what is left of it enters two linear layers with its
places told apart. Nothing is normalised on the way of the means: how bright or loud an example is, passes.

Reference: He, Zhang, Ren and Sun, Identity mappings in deep residual networks, 2016, https://arxiv.org/abs/1603.05027
"""

from __future__ import annotations

import math

import torch
from torch import nn
from torch.nn import functional as F

SMALLEST = 4  # a side that is not halved again


class GridNet(nn.Module):
    """(n, C, \\*places) -> (n, n_out), with one or two sides.

    Args:
        n_in: channels C of the input.
        places: the lengths of the sides.
        n_out: numbers put out.
        channels: inside.
    """

    def __init__(self, n_in: int, places: tuple[int, ...], n_out: int, channels: int = 32):
        super().__init__()
        conv = nn.Conv1d if len(places) == 1 else nn.Conv2d
        self.first = conv(n_in, channels, 3, padding=1)
        self.norms, self.convs = nn.ModuleList(), nn.ModuleList()
        self.multiply_adds = self.first.weight.numel() * math.prod(places)
        while max(places) > SMALLEST:
            places = tuple(-(-side // 2) for side in places)
            self.norms.append(nn.GroupNorm(math.gcd(8, channels), channels))
            self.convs.append(conv(channels, channels, 3, stride=2, padding=1))
            self.multiply_adds += self.convs[-1].weight.numel() * math.prod(places)
        n_left = channels * math.prod(places)
        self.last = nn.Sequential(nn.Linear(n_left, n_out), nn.SiLU(), nn.Linear(n_out, n_out))
        self.multiply_adds += (n_left + n_out) * n_out
        self.pool = F.avg_pool1d if conv is nn.Conv1d else F.avg_pool2d

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = self.first(x)
        for norm, conv in zip(self.norms, self.convs, strict=True):
            h = self.pool(h, 2, ceil_mode=True) + conv(F.silu(norm(h)))
        return self.last(h.flatten(1))
