"""A residual multilayer perceptron that is told a time and a context."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

from plausible.nn.mlp import Dropout
from plausible.nn.time import TimeEmbedding


class ResidualMLP(nn.Module):
    """Blocks h + W act(V norm(h) + U embedding) between two linear layers: (n, n_in), (n,), (n, F) -> (n, n_out).

    The last layer and the last layer of each block start at zero, so that the net starts as a constant.

    Args:
        n_in, n_out: numbers of inputs and outputs.
        width: hidden units of each block.
        blocks: how many.
        n_context: features F of the context.
        dropout: the share of hidden units dropped while training.
    """

    def __init__(self, n_in: int, n_out: int, width: int, blocks: int, n_context: int = 0, dropout: float = 0.0):
        super().__init__()
        self.embedding = TimeEmbedding(width, n_context)
        self.first, self.last = nn.Linear(n_in, width), nn.Linear(width, n_out)
        self.blocks = nn.ModuleList(_Block(width, dropout) for _ in range(blocks))
        nn.init.zeros_(self.last.weight)
        nn.init.zeros_(self.last.bias)

    def forward(self, x: torch.Tensor, t: torch.Tensor, c: torch.Tensor | None = None) -> torch.Tensor:
        told = self.embedding(t, c)
        h = self.first(x)
        for block in self.blocks:
            h = block(h, told)
        return self.last(F.silu(h))

    @torch.no_grad()
    def start_from(self, constant: torch.Tensor) -> None:
        """Put out this (n_out,) at first."""
        self.last.bias.copy_(constant)


class _Block(nn.Module):
    def __init__(self, width: int, dropout: float):
        super().__init__()
        self.norm, self.dropout = nn.LayerNorm(width), Dropout(dropout)
        self.of_input, self.of_told, self.out = (nn.Linear(width, width) for _ in range(3))
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def forward(self, h: torch.Tensor, told: torch.Tensor) -> torch.Tensor:
        return h + self.out(self.dropout(F.silu(self.of_input(self.norm(h)) + self.of_told(told))))
