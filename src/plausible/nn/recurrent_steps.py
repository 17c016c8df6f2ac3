"""The nets of `nn.recurrent` one pixel at a time, at the cost of one pixel.

What the states of the row above give to a row is computed once, when it begins, and so is all that runs from the right:
it sees nothing below the row above. A pixel then costs one column. Arrays are laid out as in `nn.causal_steps`.

The gates are kept in the order i, f, o, g, and s(a) = (1 + tanh(a / 2)) / 2: the halves are in the weights, exactly.
"""

from __future__ import annotations

import torch

from plausible.nn.causal_steps import Affine, Array, Cache, PixelSteps
from plausible.nn.recurrent import DiagonalLSTM, RecurrentNet, RowLSTM


class _Cell:
    """One step of an LSTM of C channels, in place."""

    def __init__(self, channels: int, of: PixelSteps):
        self.xp, self.channels = of.xp, channels
        self.sums, self._term = of.zeros(4 * channels), of.zeros(channels)
        self.i, self.f, self.o, self.g = (self.sums[k * channels : (k + 1) * channels] for k in range(4))
        self._shares = self.sums[: 3 * channels]
        self._one, self._half = of.zeros(3 * channels), of.zeros(3 * channels)
        self._one[...], self._half[...] = 1, 0.5

    def step(self, memory: Array, state: Array) -> None:
        """Take the sums of the gates; memory (C, n) is the one before and becomes the next, state is written."""
        xp = self.xp
        xp.tanh(self.sums, self.sums)
        xp.add(self._shares, self._one, self._shares)
        xp.multiply(self._shares, self._half, self._shares)
        xp.multiply(self.f, memory, memory)
        xp.multiply(self.i, self.g, self._term)
        xp.add(memory, self._term, memory)
        xp.tanh(memory, state)
        xp.multiply(self.o, state, state)

    def arranged(self, weight: torch.Tensor) -> Array:
        """Weights (4 C, ...) of the gates i, f, g, o as `step` wants their sums."""
        i, f, g, o = weight.chunk(4)
        return self.xp.array(torch.cat([0.5 * i, 0.5 * f, 0.5 * o, g]))


class _RowSteps:
    """`RowLSTM`: the states of the row above are where those of this row will be."""

    def __init__(self, layer: RowLSTM, of: PixelSteps, c: torch.Tensor | None):
        self.xp, channels, columns = of.xp, layer.channels, of.row_width
        self.cell, self.into = _Cell(channels, of), Cache(layer.into, columns, of.n, c, of.xp)
        arranged, tensor = self.cell.arranged, of.xp.tensor
        self.into.bias, self.into.here = arranged(tensor(self.into.bias)), arranged(tensor(self.into.here))
        self.across, self.slot = arranged(layer.across.weight), self.into.rows[0].slot
        cells, size = of.zeros(columns + 2, channels), channels * of.n
        self.states, self.memory = [cells[x + 1] for x in range(columns)], of.zeros(columns, channels)
        self.windows = of.xp.windows(cells, (columns, 3 * channels, of.n), (size, of.n, 1))
        self.above = of.zeros(columns, 4 * channels)
        self.out, self.term = Affine(layer.out.weight, layer.out.bias, of.xp), of.zeros(len(layer.out.weight))
        self.whole, self.state = of.with_ones(channels)

    def begin_row(self, pixels: Array, top: bool) -> None:
        if not top:
            self.xp.matmul(self.across, self.windows, self.above)
        self.into.turn()
        self.into.add_up(0, self.above)

    def at(self, x: int, out: Array) -> None:
        """Write what the layer puts out at pixel x."""
        self.into.at(x, self.cell.sums)
        self.cell.step(self.memory[x], self.state)
        self.states[x][...] = self.state
        self.xp.add(self.slot[x], self.out(self.whole, self.term), out)


class _DiagonalSteps:
    """`DiagonalLSTM`: from the left pixel by pixel, and from the right the whole row above, when a row begins."""

    def __init__(self, layer: DiagonalLSTM, of: PixelSteps, c: torch.Tensor | None):
        self.xp, channels, columns, width = of.xp, layer.channels, of.row_width, layer.out.out_features
        self.cell = _Cell(channels, of)
        arranged, array = self.cell.arranged, of.xp.array
        bias = layer.bias if c is None else layer.bias + layer.of_context(c).unflatten(1, (2, -1))  # (n, 2, 4 C)
        self.bias = [arranged(b) for b in bias.expand(of.n, -1, -1).permute(1, 2, 0)]
        (beside, above), (beside_right, above_right) = (w.T.chunk(2, 1) for w in layer.across_weight)
        into, into_right = (w.T for w in layer.into_weight)
        self.both, self.above = arranged(torch.cat([into, beside], 1)), arranged(above)
        self.into_right, self.own = arranged(into_right), arranged(layer.own_weight.T)
        self.beside_right, self.above_right = arranged(beside_right), arranged(above_right)
        self.out_left, self.out_right = (array(w) for w in layer.out.weight.chunk(2, 1))
        self.out_bias = array(layer.out.bias[:, None])
        # A cell has what comes in at a pixel and, below it, the state of the pixel to its left.
        self.cells = of.zeros(columns + 1, width + channels)
        self.coming, self.states = self.cells[:columns, :width], self.cells[1:, width:]
        self.slot, self.state = ([part[x] for x in range(columns)] for part in (self.coming, self.states))
        self.from_right = of.zeros(columns + 1, channels)  # the last one is outside, and zero
        self.memory, self.more = of.zeros(channels), of.zeros(width)
        self.sums, self._term = of.zeros(columns, 4 * channels), of.zeros(columns, 4 * channels)
        self.told = of.zeros(columns, width)  # to each pixel, by the row above it

    def begin_row(self, pixels: Array, top: bool) -> None:
        states = self.from_right[:-1]
        if not top:
            self._add_up(1, (self.into_right, self.coming), (self.own, pixels), (self.above_right, states))
            self._from_the_right()
            self.xp.matmul(self.out_right, states, self.told)
        self._add_up(0, (self.above, self.states))
        self.told[...] = self.told + self.out_bias
        self.memory[...] = 0

    def _add_up(self, direction: int, *terms: tuple[Array, Array]) -> None:
        """Set the sums of a row (W, 4 C, n) to a bias and products."""
        self.sums[...] = self.bias[direction]
        for weight, values in terms:
            self.xp.matmul(weight, values, self._term)
            self.xp.add(self.sums, self._term, self.sums)

    def _from_the_right(self) -> None:
        xp, cell = self.xp, self.cell
        self.memory[...] = 0
        for x in reversed(range(len(self.slot))):
            xp.dot(self.beside_right, self.from_right[x + 1], cell.sums)
            xp.add(cell.sums, self.sums[x], cell.sums)
            cell.step(self.memory, self.from_right[x])

    def at(self, x: int, out: Array) -> None:
        """Write what the layer puts out at pixel x."""
        xp, cell = self.xp, self.cell
        xp.dot(self.both, self.cells[x], cell.sums)
        xp.add(cell.sums, self.sums[x], cell.sums)
        cell.step(self.memory, self.state[x])
        xp.dot(self.out_left, self.state[x], self.more)
        xp.add(self.more, self.told[x], self.more)
        xp.add(self.slot[x], self.more, out)


class RecurrentSteps(PixelSteps):
    """`RecurrentNet`, pixel by pixel, for n examples with context c (n, F)."""

    def __init__(self, net: RecurrentNet, n: int, c: torch.Tensor | None = None):
        super().__init__(net, n, c)
        self.first = Cache(net.first, self.row_width, n, c, self.xp)
        kind = _DiagonalSteps if net.diagonal else _RowSteps
        self.layers = [kind(layer, self, c) for layer in net.layers]
        self.out, self.inside = self.with_ones(net.width)
        self.slots = [
            [*(layer.slot[x] for layer in self.layers), self.inside] for x in range(self.row_width)
        ]  # what each layer takes in, and what the last one puts out

    def note(self, pixel: Array) -> None:
        self.first.slot[self.x][...] = pixel

    def begin_row(self) -> None:
        for layer in self.layers:
            layer.begin_row(self.first.rows[-1].pixels(), top=self.y == 0)
        self.first.turn()
        self.first.add_up(len(self.first.by_row) - 1)
        self.xp.add(self.first.sums, self.place[self.y], self.first.sums)

    def column(self, x: int) -> Array:
        slots = self.slots[x]
        self.first.at(x, slots[0])
        for layer, after in zip(self.layers, slots[1:], strict=True):
            layer.at(x, after)
        return self.out
