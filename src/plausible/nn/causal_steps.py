"""The nets of `nn.causal` one pixel at a time, at the cost of one pixel.

Every convolution keeps the rows of its input that its kernel reaches. What the rows above give to a row is computed
once, when it begins; a pixel then costs one column: the taps to its left, and the 1x1 convolutions. Of the gated
net the whole vertical stack is done when a row begins. A mixing adds at a pixel what its row has so far to what the
rows above gave. Where numba is installed, the blocks of the residual net between two mixings are one compiled loop.

Channels are rows and examples columns, (C, n), so that taps lying side by side are one matrix without copying. Taps
that are d pixels apart lie side by side, too: a row is kept as d lanes, of which lane i has the pixels i, i + d, ...
Weights are laid out once. On the CPU the arithmetic is numpy's, whose calls cost a third of torch's; elsewhere it is
torch's.
"""

from __future__ import annotations

import itertools
import math
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import nn

from plausible.nn.causal import CausalConv, GatedNet, MaskedNet, Mixing
from plausible.nn.compiled import usable

Array = Any  # of numpy on the CPU, of torch elsewhere

_ON_CPU = SimpleNamespace(
    array=lambda t: np.ascontiguousarray(t.detach().numpy()),
    tensor=torch.from_numpy,
    zeros=lambda shape, like: np.zeros(shape, dtype=like.dtype),
    dot=lambda a, b, out: a.dot(b, out=out),
    matmul=lambda a, b, out: np.matmul(a, b, out=out),
    add=lambda a, b, out: np.add(a, b, out=out),
    multiply=lambda a, b, out: np.multiply(a, b, out=out),
    maximum=lambda a, b, out: np.maximum(a, b, out=out),
    tanh=lambda a, out: np.tanh(a, out=out),
    windows=lambda a, shape, strides: np.lib.stride_tricks.as_strided(
        a, shape, [s * a.itemsize for s in strides], writeable=False
    ),
)
_ELSEWHERE = SimpleNamespace(
    array=lambda t: t.detach().contiguous(),
    tensor=lambda t: t,
    zeros=lambda shape, like: like.new_zeros(shape),
    dot=lambda a, b, out: torch.mm(a, b, out=out),
    matmul=lambda a, b, out: torch.matmul(a, b, out=out),
    add=lambda a, b, out: torch.add(a, b, out=out),
    multiply=lambda a, b, out: torch.mul(a, b, out=out),
    maximum=lambda a, b, out: torch.maximum(a, b, out=out),
    tanh=lambda a, out: torch.tanh(a, out=out),
    windows=lambda a, shape, strides: a.as_strided(shape, strides),
)


def arithmetic(device: torch.device) -> SimpleNamespace:
    """Return the functions to compute with on a device."""
    return _ON_CPU if device.type == "cpu" else _ELSEWHERE


class _Row:
    """A row of the input of a convolution in lanes, and the views of it that are needed again and again.

    `cells` are (lanes, pixels of a lane and beside it, n_in, n).
    """

    def __init__(self, conv: CausalConv, width: int, cells: Array, xp: SimpleNamespace):
        lanes, n = cells.shape[0], cells.shape[-1]
        size, columns, taps = conv.n_in * n, conv.columns * conv.n_in, min(conv.here, conv.left + 1)
        places = [(x % lanes, x // lanes) for x in range(width)]
        self.slot = [cells[lane, i + conv.left] for lane, i in places]
        self.left = [cells[lane, i : i + taps].reshape(taps * conv.n_in, n) for lane, i in places]
        lengths = [len(range(lane, width, lanes)) for lane in range(lanes)]
        self._lanes = [cells[lane, conv.left : conv.left + length] for lane, length in enumerate(lengths)]
        self.windows = [
            xp.windows(cells[lane], (length, columns, n), (size, n, 1)) for lane, length in enumerate(lengths)
        ]
        inside = cells[:, conv.left : cells.shape[1] - conv.right].swapaxes(0, 1)
        self._inside, self._width = inside, width

    def fill(self, pixels: Array) -> None:
        """Put in all pixels (W, n_in, n)."""
        for lane, cells in enumerate(self._lanes):
            cells[...] = pixels[lane :: len(self._lanes)]

    def pixels(self) -> Array:
        """All pixels (W, n_in, n)."""
        return self._inside.reshape(-1, *self._inside.shape[2:])[: self._width]


class Cache:
    """The rows that a convolution looks at, and its weights.

    `room` is where to keep them: cells, of the shape that `cells_of` gives and (n_in, n) each, and sums (W, n_out, n).
    """

    def __init__(
        self,
        conv: CausalConv,
        width: int,
        n: int,
        c: torch.Tensor | None,
        xp: SimpleNamespace,
        room: tuple[Array, Array] | None = None,
    ):
        kernel = conv.kernel().permute(0, 2, 3, 1)  # (n_out, rows, columns, n_in)
        self.xp, self.by_row = xp, [xp.array(kernel[:, r].flatten(1)) for r in range(conv.rows)]
        self.here = xp.array(kernel[:, -1, : min(conv.here, conv.left + 1)].flatten(1))
        bias = conv.bias[:, None] if c is None else conv.bias[:, None] + conv.of_context(c).T
        self.bias = xp.array(bias)
        cells, self.sums = room or (
            xp.zeros((*cells_of(conv, width), conv.n_in, n), self.bias),
            xp.zeros((width, conv.n_out, n), self.bias),
        )
        self.rows = [_Row(conv, width, part, xp) for part in cells]
        self._apart, self._term = conv.dilation, xp.zeros((width, conv.n_out, n), self.bias)
        self._terms = [self._term[lane :: self._apart] for lane in range(self._apart)]
        self.sum = [self.sums[x] for x in range(width)]

    def turn(self) -> None:
        """Begin a new row: the oldest one is written over."""
        self.rows.append(self.rows.pop(0))
        self.slot, self.left = self.rows[-1].slot, self.rows[-1].left

    def add_up(self, rows: int, more: Array = None) -> None:
        """Set the sums of each pixel to the bias and what this many rows, from the top of the kernel, give to it."""
        self.sums[...] = self.bias
        if more is not None:
            self.xp.add(self.sums, more, self.sums)
        for r in range(rows):
            for seen, term in zip(self.rows[r * self._apart].windows, self._terms, strict=True):
                self.xp.matmul(self.by_row[r], seen, term)
            self.xp.add(self.sums, self._term, self.sums)

    def at(self, x: int, out: Array) -> Array:
        """What the net puts out at a pixel of this row, from the row's sums and the taps to the left."""
        self.xp.dot(self.here, self.left[x], out)
        return self.xp.add(out, self.sum[x], out)


def cells_of(conv: CausalConv, width: int) -> tuple[int, int, int]:
    """Cells kept of the input of a convolution: (rows, lanes, pixels of a lane and beside it)."""
    apart = conv.dilation
    return (conv.rows - 1) * apart + 1, apart, -(-width // apart) + conv.left + conv.right


class Affine:
    """y = W x + b, where x has a last row of ones."""

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor, xp: SimpleNamespace):
        self.weight, self._dot = xp.array(torch.cat([weight, bias[:, None]], 1)), xp.dot

    def __call__(self, x: Array, out: Array) -> Array:
        return self._dot(self.weight, x, out)


class PixelSteps:
    """Common to all: where we are, and scratch space. What each writes: `note`, `begin_row` and `column`."""

    def __init__(self, net: nn.Module, n: int, c: torch.Tensor | None):
        self.height, self.row_width = net.shape
        self.xp, self.y, self.x, self.n = arithmetic(net.place.device), 0, -1, n
        self._like = self.xp.array(net.place)
        self.place = self._like[..., None]  # (H, W, width, 1)

    def zeros(self, *shape: int) -> Array:
        return self.xp.zeros((*shape, self.n), self._like)

    def with_ones(self, channels: int) -> tuple[Array, Array]:
        """Scratch space (channels + 1, n) that ends in a row of ones, and what is above it."""
        whole = self.zeros(channels + 1)
        whole[channels] = 1
        return whole, whole[:channels]

    def advance(self, pixel: Array | None) -> Array:
        """Take the features (n_in, n) of the pixel last asked for; return the channels (width + 1, n) of the next one.

        Their last row is one. They are overwritten by the next call.
        """
        if pixel is not None:
            self.note(pixel)
        self.x += 1
        if self.x == self.row_width:
            self.x, self.y = 0, self.y + 1
        if self.x == 0:
            self.begin_row()
        return self.column(self.x)


class _MixingSteps:
    """`Mixing`, pixel by pixel."""

    def __init__(self, mixing: Mixing, of: PixelSteps):
        self.xp, (channels, width) = of.xp, mixing.narrow.weight.shape
        array, zeros = of.xp.array, of.zeros
        self.narrow, self.narrow_bias = array(mixing.narrow.weight), array(mixing.narrow.bias[:, None])
        self.widen = Affine(mixing.widen.weight, mixing.widen.bias, of.xp)
        self.matrix, self.bias = array(mixing.matrix.tril()), array(mixing.bias)
        self.columns, places = of.row_width, len(mixing.matrix)
        # A place is a row of C n numbers, for sums over places; `value` has the same numbers as (C, n).
        self.values = zeros(places, channels).reshape(places, -1)
        self.sums = zeros(self.columns, channels).reshape(self.columns, -1)
        self.value = [row.reshape(channels, of.n) for row in self.values]
        self.mixed, self.mixed_inside = of.with_ones(channels)
        self.term = zeros(1, channels).reshape(1, -1)
        self.term_inside = self.term.reshape(channels, of.n)
        self.active, self.wide, self.zero, self.narrow_zero = (zeros(k) for k in (width, width, width, channels))
        self.first = 0  # place of this row

    def begin_row(self, y: int) -> None:
        self.first = first = y * self.columns
        places = slice(first, first + self.columns)
        if first:
            self.xp.dot(self.matrix[places, :first], self.values[:first], self.sums)
        self.xp.add(self.sums, self.bias[places], self.sums)

    def add_to(self, h: Array, x: int) -> None:
        """Add to h (width, n), at a pixel of this row, what is mixed there."""
        xp, first, i = self.xp, self.first, self.first + x
        value = self.value[i]
        xp.dot(self.narrow, xp.maximum(h, self.zero, self.active), value)
        xp.maximum(xp.add(value, self.narrow_bias, value), self.narrow_zero, value)
        xp.dot(self.matrix[i : i + 1, first : i + 1], self.values[first : i + 1], self.term)
        xp.add(self.term, self.sums[x : x + 1], self.term)
        xp.maximum(self.term_inside, self.narrow_zero, self.mixed_inside)
        xp.add(h, self.widen(self.mixed, self.wide), h)


def _mixing_steps(net: MaskedNet | GatedNet, of: PixelSteps) -> list[_MixingSteps | None]:
    """What mixes after each block, or None."""
    return [None if mixing is None else _MixingSteps(mixing, of) for mixing in net.mixings]


class MaskedSteps(PixelSteps):
    """`MaskedNet`, pixel by pixel."""

    def __init__(self, net: MaskedNet, n: int, c: torch.Tensor | None = None):
        super().__init__(net, n, c)
        self.residual, self.mixings = net.residual, _mixing_steps(net, self)
        self.first = Cache(net.first, self.row_width, n, c, self.xp)
        self.caches = [
            Cache(block.conv, self.row_width, n, c, self.xp, room)
            for block, room in zip(net.blocks, self._rooms(net), strict=True)
        ]
        self.out, self.inside = self.with_ones(net.width)
        self.zero, self.term = self.zeros(net.width + 1), self.zeros(net.width)
        if net.residual:
            self._prepare(net)

    def _rooms(self, net: MaskedNet) -> Any:
        """Where the caches of the blocks keep what they keep; None: where they like."""
        return [None] * len(net.blocks)

    def _prepare(self, net: MaskedNet) -> None:
        """Lay out the weights of residual blocks, and scratch space."""
        channels = net.width // 2
        self.blocks = [
            (Affine(b.narrow.weight, b.narrow.bias, self.xp), cache, Affine(b.widen.weight, b.widen.bias, self.xp))
            for b, cache in zip(net.blocks, self.caches, strict=True)
        ]
        self.active = self.zeros(net.width + 1)
        self.thin, self.narrow_zero = self.zeros(channels), self.zeros(channels)
        self.thin_out, self.thin_inside = self.with_ones(channels)

    def note(self, pixel: Array) -> None:
        self.first.slot[self.x][...] = pixel

    def begin_row(self) -> None:
        for cache in (self.first, *self.caches):
            cache.turn()
            cache.add_up(len(cache.by_row) - 1)
        for mixing in filter(None, self.mixings):
            mixing.begin_row(self.y)
        self.xp.add(self.first.sums, self.place[self.y], self.first.sums)

    def column(self, x: int) -> Array:
        return self._residual(x) if self.residual else self._plain(x)

    def _plain(self, x: int) -> Array:
        relu, zero, cache, mixing = self.xp.maximum, self.zero[:-1], self.first, None
        for after, its_mixing in zip((*self.caches, None), (*self.mixings, None), strict=True):
            h = self.inside if after is None else after.slot[x]
            relu(cache.at(x, self.term), zero, h)
            if mixing is not None:
                mixing.add_to(h, x)
            cache, mixing = after, its_mixing
        return self.out

    def _residual(self, x: int) -> Array:
        relu, add = self.xp.maximum, self.xp.add
        h, inside, active, zero, term = self.out, self.inside, self.active, self.zero, self.term
        thin, none, thin_out, thin_inside = self.thin, self.narrow_zero, self.thin_out, self.thin_inside
        self.first.at(x, inside)
        for (narrow, cache, widen), mixing in zip(self.blocks, self.mixings, strict=True):
            narrow(relu(h, zero, active), thin)
            relu(thin, none, cache.slot[x])
            relu(cache.at(x, thin), none, thin_inside)
            add(inside, widen(thin_out, term), inside)
            if mixing is not None:
                mixing.add_to(inside, x)
        return h


class _ResidualLoops(MaskedSteps):
    """The residual net, the blocks of a pixel up to a mixing, or to the end, in one compiled loop."""

    def _prepare(self, net: MaskedNet) -> None:
        from plausible.nn._causal_loops import residual

        def stacked(tensors: Any) -> Array:
            return self.xp.array(torch.stack(list(tensors)))

        of_blocks = [
            *(stacked(b.narrow.weight for b in net.blocks), stacked(b.narrow.bias for b in net.blocks)),
            np.stack([cache.here for cache in self.caches]),
            *(stacked(b.widen.weight for b in net.blocks), stacked(b.widen.bias for b in net.blocks)),
            np.array([block.conv.dilation for block in net.blocks]),
            *(self.begins, self.sums),
        ]
        self._loop, self.active, self.thin = residual, self.zeros(net.width), self.zeros(net.width // 2)
        mixed = [i + 1 for i, mixing in enumerate(self.mixings) if mixing is not None]  # the last one among them
        self._parts = [
            ([array[first:last] for array in of_blocks], self.mixings[last - 1])
            for first, last in itertools.pairwise([0, *(mixed or [len(net.blocks)])])
        ]

    def _rooms(self, net: MaskedNet) -> Any:
        """The cells of all blocks lie one after the other; those of a block begin where `begins` says."""
        convs = [block.conv for block in net.blocks]
        shapes = [cells_of(conv, self.row_width) for conv in convs]
        ends = np.cumsum([math.prod(shape) for shape in shapes])
        self.begins = np.array([0, *ends[:-1]])
        self.cells = self.zeros(ends[-1], convs[0].n_in)
        self.sums = self.zeros(len(convs), self.row_width, convs[0].n_out)
        parts = np.split(self.cells, ends[:-1])
        cells = [part.reshape(*shape, *part.shape[1:]) for part, shape in zip(parts, shapes, strict=True)]
        return zip(cells, self.sums, strict=True)

    def _residual(self, x: int) -> Array:
        self.first.at(x, self.inside)
        for arrays, mixing in self._parts:
            self._loop(self.inside, *arrays, self.cells, self.y, x, self.active, self.thin)
            if mixing is not None:
                mixing.add_to(self.inside, x)
        return self.out


class GatedSteps(PixelSteps):
    """`GatedNet`, pixel by pixel."""

    def __init__(self, net: GatedNet, n: int, c: torch.Tensor | None = None):
        super().__init__(net, n, c)
        self.layers = [_GatedSteps(layer, self.row_width, n, c, self.xp) for layer in net.layers]
        self.mixings = _mixing_steps(net, self)
        channels = net.width
        self.out, self.inside = self.with_ones(channels)
        self.gated, self.gated_inside = self.with_ones(channels)
        self.own, self.term, self.one = self.zeros(2 * channels), self.zeros(channels), self.zeros(channels)
        self.one[...] = 1
        self.a, self.b = self.own[:channels], self.own[channels:]

    def note(self, pixel: Array) -> None:
        first = self.layers[0]
        first.down.slot[self.x][...] = pixel
        first.across.slot[self.x][...] = pixel

    def begin_row(self) -> None:
        for i, layer in enumerate(self.layers):
            place = None if i else self.place[self.y]
            layer.begin_row(self.layers[i + 1] if i + 1 < len(self.layers) else None, place, top=self.y == 0)
        for layer in self.layers:
            layer.down.turn()
        for mixing in filter(None, self.mixings):
            mixing.begin_row(self.y)

    def column(self, x: int) -> Array:
        xp, own, a, b, term = self.xp, self.own, self.a, self.b, self.term
        for i, layer in enumerate(self.layers):
            xp.tanh(layer.across.at(x, own), own)
            xp.add(b, self.one, b)
            xp.multiply(a, b, self.gated_inside)
            layer.out(self.gated, term)
            into = self.layers[i + 1].across.slot[x] if i + 1 < len(self.layers) else self.inside
            if i == 0:
                into[...] = term
            else:
                xp.add(layer.across.slot[x], term, into)
            if self.mixings[i] is not None:
                self.mixings[i].add_to(into, x)
        return self.out


class _GatedSteps:
    """A layer of both stacks. gate(a, b) = tanh(a) (1 + tanh(b / 2)) / 2: the halves are in the weights, exactly."""

    def __init__(self, layer: nn.Module, width: int, n: int, c: torch.Tensor | None, xp: SimpleNamespace):
        self.xp, self.first, self.channels = xp, layer.first, layer.out.in_features
        self.down, self.across = (Cache(conv, width, n, c, xp) for conv in (layer.down, layer.across))
        half = torch.ones(2 * self.channels, 1).to(layer.out.weight)
        half[self.channels :] = 0.5
        self.half = xp.array(half)
        for cache in (self.down, self.across):
            cache.bias = cache.bias * self.half
            cache.here = cache.here * self.half
            cache.by_row = [w * self.half for w in cache.by_row]
        self.from_above = xp.array(layer.from_above.weight * half / half.T)
        self.out = Affine(0.5 * layer.out.weight, layer.out.bias, xp)
        self._above = xp.zeros((width, 2 * self.channels, n), self.half)

    def begin_row(self, after: _GatedSteps | None, place: Array, top: bool) -> None:
        """Do the vertical stack for the row just finished; set what the new row has from above."""
        xp, above = self.xp, self._above
        if not top:
            sums = self.down.sums
            self.down.add_up(len(self.down.by_row))
            xp.matmul(self.from_above, sums, above)
            if after is not None:
                xp.tanh(sums, sums)
                v = 0.5 * sums[:, : self.channels] * (1 + sums[:, self.channels :])
                after.down.rows[-1].fill(v if self.first else v + self.down.rows[-1].pixels())
        if place is not None:
            above = above + place * self.half
        self.across.turn()
        self.across.add_up(0, above)


def steps(net: nn.Module, n: int, c: torch.Tensor | None = None) -> MaskedSteps | GatedSteps:
    """Return the net for n examples with context c (n, F), to be called pixel by pixel."""
    if isinstance(net, GatedNet):
        return GatedSteps(net, n, c)
    loops = net.residual and len(net.blocks) and usable(net.place) and arithmetic(net.place.device) is _ON_CPU
    return (_ResidualLoops if loops else MaskedSteps)(net, n, c)
