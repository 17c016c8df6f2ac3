"""The layers of `nn.attention` one position at a time, by compiled loops, to torch's numbers but for rounding.

Of 64 images, with 8 layers of 64 units, torch's calls cost as much as the arithmetic, and did not read keys and values
as fast as memory gives them; of one text its products read the weights at a third of that. Threads share the examples:
each takes its own through all layers.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import nn

from plausible.nn._attention_loops import BLOCK, layer, normalise
from plausible.nn.compiled import share

if TYPE_CHECKING:
    from plausible.nn.attention import Decoder, Memory

WORTH_A_THREAD = 3_000_000  # multiply-adds


class Steps:
    """A `Decoder` as arrays that share its parameters' memory."""

    block = BLOCK

    def __init__(self, decoder: Decoder):
        self.layers = [
            (
                *_of_norm(block.before_attention),
                *(_array(linear.weight) for linear in (block.attention.qkv, block.attention.out)),
                *_of_norm(block.before_mlp),
                *(_array(linear.weight) for linear in (block.wide, block.narrow)),
            )
            for block in decoder.blocks
        ]
        self.norm = _of_norm(decoder.norm)
        self.multiply_adds = sum(p.numel() for p in decoder.parameters())  # of one example, attention apart

    def zeros(self, shape: tuple[int, ...]) -> torch.Tensor:
        """From numpy, which asks for large pages: those are read a quarter faster."""
        return torch.from_numpy(np.zeros(shape, self.norm[0].dtype))

    def __call__(self, x: torch.Tensor, memory: Memory, turn: tuple[torch.Tensor, torch.Tensor] | None) -> torch.Tensor:
        """Take what stands at the next position, x (n, W), through all layers; its keys and values are noted."""
        out, at = x.clone(memory_format=torch.contiguous_format), memory.at
        rows, keys, values = out.numpy(), memory.keys.numpy(), memory.values.numpy()
        cos, sin = (t.flatten().numpy() for t in turn or (x.new_empty(0), x.new_empty(0)))
        shifts = [None if shift is None else shift[:, 0].numpy() for shift in memory.shift]
        heads = keys.shape[1] // len(rows)

        def work(part: int, first: int, last: int) -> None:
            mine, of_mine = slice(first, last), slice(first * heads, last * heads)
            for i, weights in enumerate(self.layers):
                if shifts[i] is not None:
                    rows[mine] += shifts[i][mine]
                layer(rows[mine], weights, cos, sin, keys[i, of_mine], values[i, of_mine], at)
            normalise(rows[mine], *self.norm, rows[mine])  # torch's would wake its threads, which then keep a core

        of_one = self.multiply_adds + 2 * at * rows.shape[1] * len(self.layers)
        share(len(rows), 1 + WORTH_A_THREAD // of_one, work)
        return out


def _of_norm(norm: nn.LayerNorm) -> tuple[np.ndarray, np.ndarray, float]:
    return _array(norm.weight), _array(norm.bias), norm.eps


def _array(parameter: torch.Tensor) -> np.ndarray:
    return parameter.detach().contiguous().numpy()
