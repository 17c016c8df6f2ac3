"""What a denoiser is told besides its input: the time, and the context if there is one."""

from __future__ import annotations

import math

import torch
from torch import nn
from torch.nn import functional as F

N_FREQUENCIES = 32


class TimeEmbedding(nn.Module):
    """Sinusoids of a time, then a layer: times (n,) and features of the context (n, F) -> (n, width).

    Frequencies run geometrically from `slowest` to `fastest`, in radians per unit of time.

    Reference: Vaswani et al., Attention is all you need, 2017, https://arxiv.org/abs/1706.03762
    """

    def __init__(self, width: int, n_context: int = 0, slowest: float = 0.1, fastest: float = 10.0):
        super().__init__()
        frequencies = torch.linspace(math.log(slowest), math.log(fastest), N_FREQUENCIES).exp()
        self.register_buffer("frequencies", frequencies, persistent=False)
        self.of_time = nn.Linear(2 * N_FREQUENCIES, width)
        self.of_context = nn.Linear(n_context, width, bias=False) if n_context else None

    def forward(self, t: torch.Tensor, c: torch.Tensor | None = None) -> torch.Tensor:
        angle = t[:, None] * self.frequencies
        h = self.of_time(torch.cat([angle.sin(), angle.cos()], 1))
        return F.silu(h if c is None else h + self.of_context(c.to(h)))
