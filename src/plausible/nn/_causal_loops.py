"""The blocks of a residual `nn.causal.MaskedNet` at one pixel, compiled: many small calls take longer than their work.

Only `causal_steps` imports this file, which needs numba. Examples lie side by side, so that loops over them vectorise.
"""

from __future__ import annotations

from plausible.nn.loops import compiled


@compiled
def _add_product(out, weight, x):
    """out += weight x, four rows of x (k, n) at a time."""
    rows = len(x)
    for i in range(len(out)):
        row, w, j = out[i], weight[i], 0
        while j + 4 <= rows:
            w0, w1, w2, w3 = w[j], w[j + 1], w[j + 2], w[j + 3]
            x0, x1, x2, x3 = x[j], x[j + 1], x[j + 2], x[j + 3]
            for e in range(len(row)):
                row[e] += w0 * x0[e] + w1 * x1[e] + w2 * x2[e] + w3 * x3[e]
            j += 4
        while j < rows:
            w0, x0 = w[j], x[j]
            for e in range(len(row)):
                row[e] += w0 * x0[e]
            j += 1


@compiled
def _start(out, bias):
    for i in range(len(out)):
        for e in range(out.shape[1]):
            out[i, e] = bias[i]


@compiled
def _positive(x, out):
    zero = x.dtype.type(0)
    for i in range(len(x)):
        for e in range(x.shape[1]):
            out[i, e] = max(x[i, e], zero)


@compiled
def residual(h, narrow, narrow_bias, here, widen, widen_bias, cells, sums, row, x, active, thin):
    """Add to h (width, n) what the blocks give to it at column x; write their inputs there into the cells.

    Args:
        narrow, widen: weights (B, C, width) and (B, width, C), with biases (B, C) and (B, width).
        here: weights (B, C, 2 C) of the pixel to the left and of the pixel itself.
        cells: two rows of the input of each convolution (B, 2, W + 2, C, n), of which `row` is this one.
        sums: what the rows above give to this one (B, W, C, n).
        active, thin: scratch space (width, n) and (C, n).
    """
    C = len(thin)
    for b in range(len(narrow)):
        left, slot = cells[b, row, x], cells[b, row, x + 1]
        _positive(h, active)
        _start(thin, narrow_bias[b])
        _add_product(thin, narrow[b], active)
        _positive(thin, slot)
        thin[:] = sums[b, x]
        _add_product(thin, here[b, :, :C], left)
        _add_product(thin, here[b, :, C:], slot)
        _positive(thin, thin)
        for i in range(len(h)):
            for e in range(h.shape[1]):
                h[i, e] += widen_bias[b, i]
        _add_product(h, widen[b], thin)
