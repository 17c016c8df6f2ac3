"""Loops over the dimensions of bits, compiled: a Python loop over 784 dimensions runs fifty times above its arithmetic.

Only `_fused` imports this file, which needs numba. Each function works on some of the examples and lets go of Python's
lock, so that threads share the work. Examples are taken `ROWS` at a time, so that a row of weights that is in the cache
serves all of them.

NADE: most bits are zero (the features are the differences from each column's more frequent value), and a hidden layer
changes after a dimension whose feature is not zero only: h is computed anew then, and only then.
"""

from __future__ import annotations

import math

import numpy as np

from plausible.nn.loops import compiled

ROWS = 8  # a multiple of 4
SIGMOID, TANH, RELU, ELU, GELU, SILU = range(6)


@compiled
def _rational_tanh(a):
    """tanh in single precision, to 3e-7, by operations that vectorise (the minimax quotient of Eigen's ``ptanh``)."""
    a = min(max(a, np.float32(-7.905311)), np.float32(7.905311))
    s = a * a
    p = np.float32(-2.76076847742355e-16)
    p = p * s + np.float32(2.00018790482477e-13)
    p = p * s + np.float32(-8.60467152213735e-11)
    p = p * s + np.float32(5.12229709037114e-08)
    p = p * s + np.float32(1.48572235717979e-05)
    p = p * s + np.float32(6.37261928875436e-04)
    p = p * s + np.float32(4.89352455891786e-03)
    q = np.float32(1.19825839466702e-06)
    q = q * s + np.float32(1.18534705686654e-04)
    q = q * s + np.float32(2.26843463243900e-03)
    q = q * s + np.float32(4.89352518554385e-03)
    return a * p / q


@compiled
def _activate(a, h, kind, single):
    """Set h to the activation of a; `single` takes the quick way, which is as exact as single precision."""
    half, one = a.dtype.type(0.5), a.dtype.type(1)
    if kind == RELU:
        for k in range(len(a)):
            h[k] = max(a[k], a.dtype.type(0))
    elif kind == TANH and single:
        for k in range(len(a)):
            h[k] = _rational_tanh(a[k])
    elif kind == TANH:
        for k in range(len(a)):
            h[k] = math.tanh(a[k])
    elif single:
        for k in range(len(a)):
            h[k] = half + half * _rational_tanh(half * a[k])
    else:
        for k in range(len(a)):
            h[k] = one / (one + math.exp(-a[k]))


@compiled
def _slope_times(h, dh, da, kind):
    """Add act'(a) dh to da and clear dh; the slope follows from h = act(a)."""
    zero, one = h.dtype.type(0), h.dtype.type(1)
    if kind == RELU:
        for k in range(len(h)):
            da[k] += dh[k] if h[k] > zero else zero
            dh[k] = zero
    elif kind == TANH:
        for k in range(len(h)):
            da[k] += (one - h[k] * h[k]) * dh[k]
            dh[k] = zero
    else:
        for k in range(len(h)):
            da[k] += (one - h[k]) * h[k] * dh[k]
            dh[k] = zero


@compiled
def _add(to, factor, row):
    for k in range(len(row)):
        to[k] += factor * row[k]


@compiled
def _dots(h, v, out):
    """out_e = h_e . v for all `ROWS` rows of h, four at a time."""
    for e in range(0, ROWS, 4):
        s0 = s1 = s2 = s3 = v.dtype.type(0)
        h0, h1, h2, h3 = h[e], h[e + 1], h[e + 2], h[e + 3]
        for k in range(len(v)):
            s0 += h0[k] * v[k]
            s1 += h1[k] * v[k]
            s2 += h2[k] * v[k]
            s3 += h3[k] * v[k]
        out[e], out[e + 1], out[e + 2], out[e + 3] = s0, s1, s2, s3


@compiled
def _scratch(H, like):
    """`ROWS` x H zeros from the start of a line of the cache: what lies across two takes the time of both."""
    line = 64 // like.itemsize
    free = np.zeros(ROWS * H + line, like.dtype)
    start = -(free.ctypes.data // like.itemsize) % line
    return free[start : start + ROWS * H].reshape(ROWS, H)


@compiled
def nade_forward(x, W, V, a, out, first, last, kind, single):
    """Set out (n, D) to V_d . h_d for examples first .. last - 1; a (n, H) goes from before all dimensions to after."""
    D, H = W.shape
    h, dots = _scratch(H, W), np.zeros(ROWS, W.dtype)
    for start in range(first, last, ROWS):
        rows = min(ROWS, last - start)
        for e in range(rows):
            _activate(a[start + e], h[e], kind, single)
        for d in range(D):
            _dots(h, V[d], dots)
            for e in range(rows):
                out[start + e, d] = dots[e]
                if x[start + e, d] != 0:
                    _add(a[start + e], x[start + e, d], W[d])
                    _activate(a[start + e], h[e], kind, single)


@compiled
def nade_backward(x, W, V, a, g, dW, dV, da, first, last, kind, single):
    """Add to dW, dV and set da, given the gradients g (n, D) of what `nade_forward` put out and the a it left.

    The dimensions are gone through backwards: a is what it was by taking the features off again. Between two features
    that are not zero h is the same, and what flows into it is summed up before it is multiplied by the slope.
    """
    D, H = W.shape
    h, dh = _scratch(H, W), _scratch(H, W)
    g_d = np.zeros(ROWS, W.dtype)
    for start in range(first, last, ROWS):
        rows = min(ROWS, last - start)
        g_d[:] = 0
        for e in range(rows):
            _activate(a[start + e], h[e], kind, single)
        for d in range(D - 1, -1, -1):
            for e in range(rows):
                g_d[e] = g[start + e, d]
                value = x[start + e, d]
                if value != 0:
                    _slope_times(h[e], dh[e], da[start + e], kind)
                    _add(dW[d], value, da[start + e])
                    _add(a[start + e], -value, W[d])
                    _activate(a[start + e], h[e], kind, single)
            v, dv = V[d], dV[d]
            for e in range(0, ROWS, 4):
                g0, g1, g2, g3 = g_d[e], g_d[e + 1], g_d[e + 2], g_d[e + 3]
                h0, h1, h2, h3 = h[e], h[e + 1], h[e + 2], h[e + 3]
                d0, d1, d2, d3 = dh[e], dh[e + 1], dh[e + 2], dh[e + 3]
                for k in range(H):
                    dv[k] += g0 * h0[k] + g1 * h1[k] + g2 * h2[k] + g3 * h3[k]
                    d0[k] += g0 * v[k]
                    d1[k] += g1 * v[k]
                    d2[k] += g2 * v[k]
                    d3[k] += g3 * v[k]
        for e in range(rows):
            _slope_times(h[e], dh[e], da[start + e], kind)


@compiled
def _bit(z, level, i, d, logit):
    """Return z_id; where it is NaN it is set to [level < logit] first."""
    if np.isnan(z[i, d]):
        z[i, d] = 1 if level[i, d] < logit else 0
    return z[i, d]


@compiled
def nade_sample(z, level, off, W, V, b, a, first, last, kind, single):
    """Set z (n, D), where it is NaN, to the bits [level < logit] in order; level is the logit of a uniform."""
    D, H = W.shape
    h, dots = _scratch(H, W), np.zeros(ROWS, W.dtype)
    for start in range(first, last, ROWS):
        rows = min(ROWS, last - start)
        for e in range(rows):
            _activate(a[start + e], h[e], kind, single)
        for d in range(D):
            _dots(h, V[d], dots)
            for e in range(rows):
                i = start + e
                value = _bit(z, level, i, d, b[i, d] + dots[e]) - off[d]
                if value != 0:
                    _add(a[i], value, W[d])
                    _activate(a[i], h[e], kind, single)


@compiled
def _unit(a, kind):
    """The activation of a hidden unit."""
    if kind == RELU:
        return max(a, 0.0)
    if kind == TANH:
        return math.tanh(a)
    if kind == ELU:
        return a if a > 0 else math.expm1(a)
    if kind == GELU:
        return 0.5 * a * (1 + math.erf(a * math.sqrt(0.5)))
    return a / (1 + math.exp(-a))


@compiled
def masked_sample(z, level, weights, widths, direct, bias, upto, first, last, kind):
    """The same for a masked net, which is shown bits as -1 and 1 and whose units stand in the order they are known in.

    Layer l has an input of widths[l]; its units before upto[l, d + 1] are known when d bits are, and see nothing else
    than what is known of its input then. The last layer puts out the logits, to which direct (D, D) leads from the bits
    as well, if it is not empty. `weights` and bias (n, units) have layer after layer.
    """
    n_hidden, D = upto.shape[0], z.shape[1]
    seen = np.zeros((n_hidden + 1, ROWS, widths.max()), weights.dtype)  # the input of each layer
    dots, more = np.zeros(ROWS, weights.dtype), np.zeros(ROWS, weights.dtype)
    for start in range(first, last, ROWS):
        rows = min(ROWS, last - start)
        for d in range(D):
            known, unit, place = d, 0, 0
            for layer in range(n_hidden):
                for u in range(upto[layer, d], upto[layer, d + 1]):
                    at = place + u * widths[layer]
                    _dots(seen[layer], weights[at : at + known], dots)
                    for e in range(rows):
                        seen[layer + 1, e, u] = _unit(bias[start + e, unit + u] + dots[e], kind)
                known, unit = upto[layer, d + 1], unit + widths[layer + 1]
                place += widths[layer] * widths[layer + 1]
            at = place + d * widths[n_hidden]
            _dots(seen[n_hidden], weights[at : at + known], dots)
            if len(direct):
                _dots(seen[0], direct[d, :d], more)
            for e in range(rows):
                i = start + e
                seen[0, e, d] = 2 * _bit(z, level, i, d, bias[i, unit + d] + dots[e] + more[e]) - 1
