"""Fully connected nets, plain and masked."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn
from torch.nn import functional as F

ACTIVATIONS = {"relu": nn.ReLU, "elu": nn.ELU, "gelu": nn.GELU, "silu": nn.SiLU, "tanh": nn.Tanh}


def activation(name: str) -> nn.Module:
    """Return the activation of that name.

    Raises:
        ValueError: there is none of that name.
    """
    if name not in ACTIVATIONS:
        raise ValueError(f"activation must be one of {', '.join(ACTIVATIONS)}; got {name!r}")
    return ACTIVATIONS[name]()


class MLP(nn.Sequential):
    """Linear layers with an activation between them: (n, n_in) -> (n, n_out).

    Args:
        n_in, n_out: numbers of inputs and outputs.
        hidden: the widths of the hidden layers.
        nonlinearity: the name of the activation.
        dropout: the share of hidden units dropped while training.
    """

    def __init__(self, n_in: int, n_out: int, hidden: Sequence[int], nonlinearity: str = "relu", dropout: float = 0.0):
        layers: list[nn.Module] = []
        for width in hidden:
            layers += [nn.Linear(n_in, width), activation(nonlinearity)]
            if dropout:
                layers.append(nn.Dropout(dropout))
            n_in = width
        super().__init__(*layers, nn.Linear(n_in, n_out))


class MaskedLinear(nn.Linear):
    """A linear layer in which output j sees input i only where ``mask[j, i]`` is one.

    The mask multiplies the weights inside the graph, so that a masked weight has gradient zero: a clip by norm and the
    state of the optimiser see the free weights only.
    """

    def __init__(self, n_in: int, n_out: int, mask: torch.Tensor | None = None, bias: bool = True):
        super().__init__(n_in, n_out, bias=bias)
        mask = torch.ones(n_out, n_in) if mask is None else mask.to(self.weight.dtype)
        self.register_buffer("mask", mask, persistent=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.linear(x, self.weight * self.mask, self.bias)
