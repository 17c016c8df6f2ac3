"""The blocks of a residual `nn.causal.MaskedNet` at one pixel, compiled: many small calls take longer than their work.

Only `causal_steps` imports this file, which needs numba. Examples lie side by side, so that loops over them vectorise.
"""

from __future__ import annotations

from plausible.nn.loops import compiled


@compiled
def _add_product(out, weight, x):
    """out += weight x, four rows of out (m, n) and four of x (k, n) at a time: what is loaded serves four times."""
    m, (k, n) = len(out), x.shape
    m4, k4 = m - m % 4, k - k % 4
    for i in range(0, m4, 4):
        for j in range(0, k4, 4):
            a0, a1, a2, a3 = weight[i, j], weight[i, j + 1], weight[i, j + 2], weight[i, j + 3]
            b0, b1, b2, b3 = weight[i + 1, j], weight[i + 1, j + 1], weight[i + 1, j + 2], weight[i + 1, j + 3]
            c0, c1, c2, c3 = weight[i + 2, j], weight[i + 2, j + 1], weight[i + 2, j + 2], weight[i + 2, j + 3]
            d0, d1, d2, d3 = weight[i + 3, j], weight[i + 3, j + 1], weight[i + 3, j + 2], weight[i + 3, j + 3]
            for e in range(n):
                x0, x1, x2, x3 = x[j, e], x[j + 1, e], x[j + 2, e], x[j + 3, e]
                out[i, e] += a0 * x0 + a1 * x1 + a2 * x2 + a3 * x3
                out[i + 1, e] += b0 * x0 + b1 * x1 + b2 * x2 + b3 * x3
                out[i + 2, e] += c0 * x0 + c1 * x1 + c2 * x2 + c3 * x3
                out[i + 3, e] += d0 * x0 + d1 * x1 + d2 * x2 + d3 * x3
    for i in range(m):  # what is left over
        for j in range(k4 if i < m4 else 0, k):
            w = weight[i, j]
            for e in range(n):
                out[i, e] += w * x[j, e]


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
def residual(h, narrow, narrow_bias, here, widen, widen_bias, dilations, begins, sums, cells, y, x, active, thin):
    """Add to h (width, n) what the blocks give to it at row y, column x; write their inputs there into the cells.

    Args:
        narrow, widen: weights (B, C, width) and (B, width, C), with biases (B, C) and (B, width).
        here: weights (B, C, 2 C) of the pixel to the left and of the pixel itself.
        dilations, begins: d of each block, and where its cells begin (B,).
        sums: what the rows above give to this one (B, W, C, n).
        cells: of the inputs of the convolutions (cells, C, n), those of a block as `causal_steps.cells_of` has them:
            d + 1 rows of d lanes, with a cell at both ends of a lane.
        active, thin: scratch space (width, n) and (C, n).
    """
    C, W = len(thin), sums.shape[1]
    for b in range(len(narrow)):
        d = dilations[b]
        lane = y % (d + 1) * d + x % d
        at = begins[b] + lane * ((W + d - 1) // d + 2) + x // d  # the cell of the pixel d to the left
        left, slot = cells[at], cells[at + 1]
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
