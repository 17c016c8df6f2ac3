"""Fully connected nets."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

ACTIVATIONS = {"relu": nn.ReLU, "elu": nn.ELU, "gelu": nn.GELU, "silu": nn.SiLU, "tanh": nn.Tanh}


def activation(name: str) -> nn.Module:
    """Return the activation of that name.

    Raises:
        ValueError: there is none of that name.
    """
    if name not in ACTIVATIONS:
        raise ValueError(f"activation must be one of {', '.join(ACTIVATIONS)}; got {name!r}")
    return ACTIVATIONS[name]()


class Dropout(nn.Module):
    """Drop a share p of the inputs while training, with masks from the generator that the training step lends it.

    ``nn.Dropout`` would read and advance the global generator. Without a generator, and when evaluating, it passes
    everything on.
    """

    def __init__(self, p: float):
        super().__init__()
        self.p = p
        self.rng: torch.Generator | None = None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if not self.training or not self.p or self.rng is None:
            return x
        return x * self._mask(x)

    def _mask(self, x: torch.Tensor) -> torch.Tensor:
        """Zero with probability p, to 16 bits of it, 1 / (1 - p) otherwise.

        Four masks come of one random number and no truth values are made, which torch is slow to turn into numbers.
        """
        words = torch.empty(-(-x.numel() // 4), dtype=torch.int64, device=x.device)
        words.random_(-(2**63), None, generator=self.rng)
        levels = words.view(torch.int16)[: x.numel()].view(x.shape)
        least = min(max(round(self.p * 2**16), 1), 2**16 - 1) - 2**15  # of those that are kept
        return levels.clamp_(least - 1, least).sub_(least - 1).to(x.dtype).mul_(1 / (1 - self.p))


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
                layers.append(Dropout(dropout))
            n_in = width
        super().__init__(*layers, nn.Linear(n_in, n_out))
