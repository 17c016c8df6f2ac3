r"""Recurrent nets over images: the output at a pixel sees the pixels before it in raster order, no other.

Long short-term memories (LSTM) run over the image,

    i, f, o = s(.), g = tanh(.)    of    K x + U (states before) + b
    m <- f * (memory before) + i * g,    h = o * tanh(m)

and differ in what comes before a pixel (y, x):

    row         the states h(y-1, x-1 .. x+1) and the memory m(y-1, x): a row is a step, and K x a convolution over
                the pixel and the one to its left. Sees a triangle above the pixel.
    diagonal    the states h(y, x-1), h(y-1, x) and the memory m(y, x-1): a diagonal x + y is a step. A second LSTM runs
                from the right, over h(y, x+1) and h(y-1, x), and what it says of a row is told to the row below.
                Between them they see all that is before the pixel.

The LSTM from the right is shown the pixel itself beside x, which knows only those before it: the row below may see it,
and would else never hear of the last pixel of the row above.

A first convolution sees pixels near by; then layers follow, each x + W h (+ V h of the row above, from the right).
What does not wait for a state before it is done for the whole image at once.

References: van den Oord, Kalchbrenner and Kavukcuoglu, Pixel recurrent neural networks, 2016,
https://arxiv.org/abs/1601.06759. Graves and Schmidhuber, Offline handwriting recognition with multidimensional
recurrent neural networks, 2008 (two dimensions).
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

from plausible.nn.causal import CausalConv, CausalNet
from plausible.nn.mlp import Dropout


def lstm_cell(gates: torch.Tensor, memory: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The next state and memory (..., C) from the sums of the gates i, f, g, o (..., 4 C)."""
    i, f, g, o = gates.chunk(4, -1)
    memory = torch.addcmul(f.sigmoid() * memory, i.sigmoid(), g.tanh())
    return o.sigmoid() * memory.tanh(), memory


class RowLSTM(nn.Module):
    """x + W h, row after row: (n, H, W, width) -> the same.

    Args:
        width: of what comes in and goes out.
        channels: C, of the states.
        n_context: features of a context, which are shown at every pixel.
        dropout: share of the states that the output does not see while training.
    """

    def __init__(self, width: int, channels: int, n_context: int = 0, dropout: float = 0.0):
        super().__init__()
        self.channels = channels
        self.into = CausalConv(width, 4 * channels, 1, 1, 0, 2, n_context)
        self.across = nn.Linear(3 * channels, 4 * channels, bias=False)
        self.out = nn.Linear(channels, width)
        self.dropout = Dropout(dropout)

    def forward(self, x: torch.Tensor, c: torch.Tensor | None = None) -> torch.Tensor:
        memory = self.out.weight.new_zeros(len(x), x.shape[2], self.channels)  # in full precision, also in bfloat16
        states: list[torch.Tensor] = []
        for sums in self.into(x, c).unbind(1):  # (n, W, 4 C)
            if states:
                above = F.pad(states[-1], (0, 0, 1, 1))
                sums = sums + self.across(torch.cat([above[:, :-2], states[-1], above[:, 2:]], 2))
            state, memory = lstm_cell(sums, memory)
            states.append(state)
        return x + self.out(self.dropout(torch.stack(states, 1)))


class DiagonalLSTM(nn.Module):
    """x + W h + V h of the row above, from the right; diagonal after diagonal, both directions at once.

    Weights of the two directions, from the left and from the right, are stacked. Arguments as those of `RowLSTM`, and:

    Args:
        shape: height and width of the image.
        n_in: features of a pixel.
    """

    def __init__(
        self,
        width: int,
        channels: int,
        shape: tuple[int, int],
        n_in: int,
        n_context: int = 0,
        dropout: float = 0.0,
    ):
        super().__init__()
        self.channels, self.shape = channels, shape
        self.into_weight = nn.Parameter(torch.empty(2, width, 4 * channels).uniform_(-1, 1) / width**0.5)
        self.own_weight = nn.Parameter(torch.empty(n_in, 4 * channels).uniform_(-1, 1) / n_in**0.5)  # from the right
        self.across_weight = nn.Parameter(torch.empty(2, 2 * channels, 4 * channels).uniform_(-1, 1) / channels**0.5)
        self.bias = nn.Parameter(torch.zeros(2, 4 * channels))
        self.of_context = nn.Linear(n_context, 8 * channels, bias=False) if n_context else None
        self.out = nn.Linear(2 * channels, width)
        self.dropout = Dropout(dropout)
        height, columns = shape
        # The pixels diagonal by diagonal, from above; x counts from the side that a direction begins at.
        places = sorted((y + x, y, x) for y in range(height) for x in range(columns))
        diagonals = range(height + columns - 1)
        self.rows = [min(d, height - 1) - max(0, d - columns + 1) + 1 for d in diagonals]
        left = torch.tensor([y * columns + x for _, y, x in places])
        right = torch.tensor([y * columns + columns - 1 - x for _, y, x in places])
        for name, order in (("left", left), ("right", right)):
            self.register_buffer(name, order, persistent=False)
            self.register_buffer(f"{name}_back", order.argsort(), persistent=False)

    def forward(self, x: torch.Tensor, pixels: torch.Tensor, c: torch.Tensor | None = None) -> torch.Tensor:
        """(n, H, W, width), (n, H, W, n_in), (n, F) -> (n, H, W, width)."""
        cells = x.flatten(1, 2).transpose(0, 1)  # (H W, n, width)
        own = pixels.flatten(1, 2).transpose(0, 1)[self.right] @ self.own_weight
        cells = torch.stack([cells[self.left], cells[self.right]])
        bias = self.bias[:, None]
        if c is not None:
            bias = bias + self.of_context(c).unflatten(1, (2, -1)).transpose(0, 1)  # (2, n, 4 C)
        sums = torch.bmm(cells.flatten(1, 2), self.into_weight).unflatten(1, cells.shape[1:3])
        left, right = sums + bias[:, None].to(sums.dtype)
        states = self._over_diagonals(torch.stack([left, right + own]))
        from_left, from_right = states[0][self.left_back], states[1][self.right_back]  # (H W, n, C)
        above = F.pad(from_right[: -self.shape[1]], (0, 0, 0, 0, self.shape[1], 0))
        h = torch.cat([from_left, above], 2).transpose(0, 1).unflatten(1, self.shape)
        return x + self.out(self.dropout(h))

    def _over_diagonals(self, sums: torch.Tensor) -> torch.Tensor:
        """The states from what does not depend on them: (2, H W, n, 4 C) -> (2, H W, n, C)."""
        n, columns = sums.shape[2], self.shape[1]
        state = memory = self.bias.new_zeros(2, 0, n, self.channels)  # in full precision, also where sums are not
        states = []
        for d, part in enumerate(sums.split(self.rows, 1)):
            # The diagonal before this one had rows from `first`; one more at either end stands for what is outside.
            first, lowest = max(0, d - columns), max(0, d - columns + 1)
            beside = slice(lowest - first + 1, lowest - first + 1 + self.rows[d])
            above = slice(lowest - first, lowest - first + self.rows[d])
            state, memory = F.pad(state, (0, 0, 0, 0, 1, 1)), F.pad(memory, (0, 0, 0, 0, 1, 1))
            before = torch.cat([state[:, beside], state[:, above]], 3).flatten(1, 2)
            part = part + torch.bmm(before, self.across_weight).view_as(part)
            state, memory = lstm_cell(part, memory[:, beside])
            states.append(state)
        return torch.cat(states, 1)


class RecurrentNet(CausalNet):
    """A masked convolution and recurrent layers: (n, H, W, n_in) -> (n, H, W, 2 channels).

    Args:
        n_in: features of a pixel.
        shape: height and width of the image.
        channels: of the states of each layer.
        layers: how many follow the first convolution.
        diagonal: layers over diagonals and not over rows.
        reach: rows and columns that the first convolution sees on each side of a pixel.
        n_context: features of a context.
        dropout: share of units dropped while training.
    """

    def __init__(
        self,
        n_in: int,
        shape: tuple[int, int],
        channels: int,
        layers: int,
        *,
        diagonal: bool,
        reach: int = 3,
        n_context: int = 0,
        dropout: float = 0.0,
    ):
        super().__init__()
        self.shape, self.width, self.diagonal = shape, 2 * channels, diagonal
        self.first = CausalConv(n_in, self.width, reach + 1, reach, reach, reach, n_context)
        self.place = nn.Parameter(torch.zeros(*shape, self.width))
        self.layers = nn.ModuleList(
            DiagonalLSTM(self.width, channels, shape, n_in, n_context, dropout)
            if diagonal
            else RowLSTM(self.width, channels, n_context, dropout)
            for _ in range(layers)
        )

    def forward(self, x: torch.Tensor, c: torch.Tensor | None = None) -> torch.Tensor:
        h = self.first(x, c)
        h = h + self.place.to(h.dtype)
        for layer in self.layers:
            h = layer(h, x, c) if self.diagonal else layer(h, c)
        return h
