r"""Causal convolutional nets over images: the output at a pixel sees the pixels before it in raster order, no other.

Three of them, all (n, H, W, n_in) -> (n, H, W, width):

    masked      a stack of convolutions whose kernels lack the taps at and after the centre
    residual    x + W3 relu(conv(relu(W1 relu(x)))), block after block
    gated       two stacks, so that there is no blind spot:
                v <- v + gate(V v)                    sees all rows above, as wide as it likes
                h <- h + W gate(U h + P V v(row above))     sees the pixels to the left and, through v, the rows above
                gate(a, b) = tanh(a) sigmoid(b)

After the last block, and every fourth before it, what lies anywhere before can be mixed in at one step:

    mixing      h <- h + W2 relu(b + M relu(W1 relu(h))),    M lower triangular, from all places to all places

Kernels have the causal taps only: of a 3x3 kernel the row below is never made, let alone multiplied by zero. Their taps
may lie `dilation` pixels apart: with 1, 2, 4 in turn twelve blocks see 31 rows up instead of 15, for the same work (and
with one that is wider than what is seen already there are holes). Channels come last, (n, H, W, C): fast convolutions
want it so. A bias per place tells a net where in the image it is.

References: van den Oord, Kalchbrenner and Kavukcuoglu, Pixel recurrent neural networks, 2016,
https://arxiv.org/abs/1601.06759 (masks). van den Oord et al., Conditional image generation with PixelCNN decoders,
2016, https://arxiv.org/abs/1606.05328 (gates, the blind spot). Yu and Koltun, Multi-scale context aggregation by
dilated convolutions, 2016, https://arxiv.org/abs/1511.07122. Liu, Dai, So and Le, Pay attention to MLPs, 2021,
https://arxiv.org/abs/2105.08050 (a matrix over places).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import nn
from torch.nn import functional as F

from plausible.nn.mlp import Dropout

MIX_EVERY = 4  # blocks


class CausalConv(nn.Module):
    """A convolution over the rows above and the left part of a pixel's own row: (n, H, W, n_in) -> (n, H, W, n_out).

    Args:
        n_in, n_out: channels.
        rows: of the kernel; the last one is the pixel's own.
        left, right: columns of the kernel to either side of the pixel.
        here: taps in the pixel's own row, from the left; `left` of them stop before the pixel itself, all of them make
            a convolution over whole rows.
        n_context: features of a context, from which comes a bias per example.
        dilation: pixels from one row or column of the kernel to the next.
    """

    def __init__(
        self,
        n_in: int,
        n_out: int,
        rows: int,
        left: int,
        right: int,
        here: int,
        n_context: int = 0,
        dilation: int = 1,
    ):
        super().__init__()
        columns = left + 1 + right
        self.n_in, self.n_out, self.rows, self.columns = n_in, n_out, rows, columns
        self.left, self.right, self.here, self.dilation = left, right, here, dilation
        self.weight = nn.Parameter(torch.empty(n_out, n_in, rows, columns))
        taps = (rows - 1) * columns + here
        bound = 1 / math.sqrt(n_in * taps)
        nn.init.uniform_(self.weight, -bound, bound)
        self.bias = nn.Parameter(torch.zeros(n_out))
        self.of_context = nn.Linear(n_context, n_out, bias=False) if n_context else None
        mask = torch.ones(rows, columns)
        mask[-1, here:] = 0
        self.register_buffer("mask", mask, persistent=False)

    @property
    def n_masked(self) -> int:
        """Weights that are multiplied by zero."""
        return self.n_in * self.n_out * (self.columns - self.here)

    def kernel(self) -> torch.Tensor:
        """(n_out, n_in, rows, columns), zero where it must not look."""
        return self.weight * self.mask if self.here < self.columns else self.weight

    def forward(self, x: torch.Tensor, c: torch.Tensor | None = None) -> torch.Tensor:
        convolves = x.dtype != torch.float64  # for which torch has no fast convolution
        apart, left, right = self.dilation, self.dilation * self.left, self.dilation * self.right
        sides = left if convolves and left == right else 0  # that it pads without a copy
        x = F.pad(x, (0, 0, left - sides, right - sides, apart * (self.rows - 1), 0))
        bias = self.bias if c is None else None
        if convolves:
            x = x.permute(0, 3, 1, 2)
            out = F.conv2d(x, self.kernel(), bias, padding=(0, sides), dilation=apart).permute(0, 2, 3, 1)
        else:
            out = self._by_products(x)
            out = out if bias is None else out + bias
        return out if c is None else out + (self.bias + self.of_context(c)).to(out.dtype)[:, None, None]

    def _by_products(self, x: torch.Tensor) -> torch.Tensor:
        """The same, a matrix product per row of the kernel."""
        apart, out = self.dilation, None
        height, reach = x.shape[1] - apart * (self.rows - 1), apart * (self.columns - 1) + 1
        for r in range(self.rows):
            windows = x[:, r * apart : r * apart + height].unfold(2, reach, 1)[..., ::apart].flatten(3)
            term = F.linear(windows, self.kernel()[:, :, r].flatten(1))
            out = term if out is None else out + term
        return out


class Pointwise(nn.Linear):
    """The same linear map at every pixel, (n, H, W, n_in) -> (n, H, W, n_out).

    It is computed as a convolution of one tap, which adds the bias as it goes; of a product it costs a pass of its own.
    """

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if x.dtype == torch.float64:
            return super().forward(x)
        return F.conv2d(x.permute(0, 3, 1, 2), self.weight[:, :, None, None], self.bias).permute(0, 2, 3, 1)


class _Bottleneck(nn.Module):
    """x + W3 relu(conv(relu(W1 relu(x)))), narrow in the middle."""

    def __init__(self, width: int, channels: int, n_context: int, dropout: float, dilation: int):
        super().__init__()
        self.narrow, self.widen = Pointwise(width, channels), Pointwise(channels, width)
        self.conv = CausalConv(channels, channels, 2, 1, 1, 2, n_context, dilation)
        self.dropout = Dropout(dropout)

    def forward(self, x: torch.Tensor, c: torch.Tensor | None) -> torch.Tensor:
        h = self.conv(F.relu(self.narrow(F.relu(x))), c)
        return x.add_(self.widen(self.dropout(F.relu(h))))  # in place: nothing above needs x itself again


class _Plain(nn.Module):
    """relu(conv(x))."""

    def __init__(self, width: int, n_context: int, dropout: float, dilation: int):
        super().__init__()
        self.conv = CausalConv(width, width, 2, 1, 1, 2, n_context, dilation)
        self.dropout = Dropout(dropout)

    def forward(self, x: torch.Tensor, c: torch.Tensor | None) -> torch.Tensor:
        return self.dropout(F.relu(self.conv(x, c)))


class Mixing(nn.Module):
    """h + W2 relu(b + M relu(W1 relu(h))), with M over places: (n, H, W, width) -> (n, H, W, width)."""

    def __init__(self, width: int, channels: int, shape: tuple[int, int], dropout: float):
        super().__init__()
        places = math.prod(shape)
        self.narrow, self.widen = Pointwise(width, channels), Pointwise(channels, width)
        self.matrix = nn.Parameter(torch.empty(places, places).normal_(std=places**-0.5))
        self.bias = nn.Parameter(torch.zeros(places, 1))
        self.dropout = Dropout(dropout)
        self.multiply_adds = channels * places**2
        self.n_masked = places * (places - 1) // 2

    def forward(self, h: torch.Tensor) -> torch.Tensor:
        n, height, width, _ = h.shape
        values = F.relu(self.narrow(F.relu(h))).flatten(1, 2).transpose(0, 1)  # (H W, n, C)
        mixed = F.relu(torch.addmm(self.bias, self.matrix.tril(), values.flatten(1))).view(height, width, n, -1)
        return h + self.widen(self.dropout(mixed.permute(2, 0, 1, 3)))


def _mixings(blocks: int, width: int, channels: int, shape: tuple[int, int], dropout: float) -> nn.ModuleList:
    """What mixes after each block, or None."""
    due = [channels and (blocks - 1 - i) % MIX_EVERY == 0 for i in range(blocks)]
    return nn.ModuleList(Mixing(width, channels, shape, dropout) if now else None for now in due)


def _in_turn(dilations: Sequence[int], blocks: int, shape: tuple[int, int]) -> list[int]:
    """The dilation of each block. As wide as the image they leave the pixel alone to be seen, and wider the same."""
    return [min(dilations[i % len(dilations)], max(shape)) for i in range(blocks)]


class CausalNet(nn.Module):
    """From the features of all pixels to what is said at each from those before it; see the head of this file."""

    shape: tuple[int, int]  # height and width
    width: int  # channels it puts out


class MaskedNet(CausalNet):
    """One stack of masked convolutions, plain or residual (in which the width is twice the channels).

    Args:
        n_in: features of a pixel.
        shape: height and width of the image.
        channels: of the convolutions.
        blocks: how many follow the first convolution.
        reach: rows and columns that the first convolution sees on each side of a pixel.
        n_context: features of a context.
        residual: residual blocks instead of plain ones.
        dropout: share of units dropped while training.
        dilations: of the blocks, in turn.
        mixing: channels that are mixed over all places.
    """

    def __init__(
        self,
        n_in: int,
        shape: tuple[int, int],
        channels: int,
        blocks: int,
        reach: int = 3,
        n_context: int = 0,
        *,
        residual: bool,
        dropout: float = 0.0,
        dilations: Sequence[int] = (1,),
        mixing: int = 0,
    ):
        super().__init__()
        self.residual, self.shape, self.width = residual, shape, 2 * channels if residual else channels
        self.first = CausalConv(n_in, self.width, reach + 1, reach, reach, reach, n_context)
        self.place = nn.Parameter(torch.zeros(*shape, self.width))
        self.blocks = nn.ModuleList(
            _Bottleneck(self.width, channels, n_context, dropout, dilation)
            if residual
            else _Plain(self.width, n_context, dropout, dilation)
            for dilation in _in_turn(dilations, blocks, shape)
        )
        self.mixings = _mixings(blocks, self.width, mixing, shape, dropout)

    def forward(self, x: torch.Tensor, c: torch.Tensor | None = None) -> torch.Tensor:
        h = self.first(x, c)
        h = h + self.place.to(h.dtype)  # all of it in half precision, where the convolutions are
        if not self.residual:
            h = F.relu(h)
        for block, mixing in zip(self.blocks, self.mixings, strict=True):
            h = block(h, c)
            h = h if mixing is None else mixing(h)
        return h


class _GatedLayer(nn.Module):
    """One step of both stacks; the first one of them sees the pixels themselves, and not the pixel's own."""

    def __init__(
        self, n_in: int, channels: int, reach: int, first: bool, n_context: int, dropout: float, dilation: int
    ):
        super().__init__()
        self.first = first
        self.down = CausalConv(n_in, 2 * channels, reach + 1, reach, reach, 2 * reach + 1, n_context, dilation)
        self.across = CausalConv(n_in, 2 * channels, 1, reach, 0, reach if first else reach + 1, n_context, dilation)
        self.from_above = Pointwise(2 * channels, 2 * channels, bias=False)
        self.out = Pointwise(channels, channels)
        self.dropout = Dropout(dropout)

    def forward(self, v, h, c, place, last: bool):
        sums = self.down(v, c)
        above = F.pad(sums[:, :-1], (0, 0, 0, 0, 1, 0))  # what is known in a row is what the row above has seen
        own = self.across(h, c) + self.from_above(above)
        own = own if place is None else own + place.to(own.dtype)
        new_v, new_h = None if last else gate(sums), self.out(self.dropout(gate(own)))
        if self.first:
            return new_v, new_h
        return None if last else v + new_v, h + new_h


class GatedNet(CausalNet):
    """Vertical and horizontal stack of gated convolutions. Arguments as those of `MaskedNet`."""

    def __init__(
        self,
        n_in: int,
        shape: tuple[int, int],
        channels: int,
        blocks: int,
        reach: int = 3,
        n_context: int = 0,
        *,
        dropout: float = 0.0,
        dilations: Sequence[int] = (1,),
        mixing: int = 0,
    ):
        super().__init__()
        self.shape, self.width = shape, channels
        self.place = nn.Parameter(torch.zeros(*shape, 2 * channels))
        self.layers = nn.ModuleList(
            _GatedLayer(channels if i else n_in, channels, 1 if i else reach, i == 0, n_context, dropout, dilation)
            for i, dilation in enumerate([1, *_in_turn(dilations, blocks, shape)])
        )
        self.mixings = _mixings(blocks + 1, channels, mixing, shape, dropout)

    def forward(self, x: torch.Tensor, c: torch.Tensor | None = None) -> torch.Tensor:
        v = h = x
        for i, (layer, mixing) in enumerate(zip(self.layers, self.mixings, strict=True)):
            v, h = layer(v, h, c, None if i else self.place, last=i + 1 == len(self.layers))
            h = h if mixing is None else mixing(h)
        return h


def gate(sums: torch.Tensor) -> torch.Tensor:
    """tanh(a) sigmoid(b) of (..., 2 C)."""
    a, b = sums.chunk(2, -1)
    return a.tanh() * b.contiguous().sigmoid()  # torch's own takes eight times as long where there are gaps
