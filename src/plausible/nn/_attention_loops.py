"""A layer of `nn.attention` at one position, compiled: small products from many calls lose most of their time between.

Only `attention_steps` imports this file, which needs numba. Each function lets go of Python's lock, so that threads
share the examples. Every sum runs along memory: the keys and values of many positions, of which there may be a hundred
megabytes, and the weights, where there is one example, are read as fast as memory gives them.
"""

from __future__ import annotations

import math

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from plausible.nn.loops import compiled

BLOCK = 64  # positions that lie side by side
LINE = 64  # bytes that memory gives at a time


@intrinsic
def _fetch_line(context, a, i):
    """Ask for the line of memory in which the i-th number of an array lies, so that it is there when it is read.

    The loops over keys and values would otherwise wait for memory nearly half of their time.
    """

    def generate(context, builder, signature, arguments):
        data = context.make_array(signature.args[0])(context, builder, arguments[0]).data
        address = builder.bitcast(builder.gep(data, [arguments[1]]), ir.IntType(8).as_pointer())
        number = ir.IntType(32)
        kind = ir.FunctionType(ir.VoidType(), [address.type, number, number, number])
        fetch = builder.module.declare_intrinsic("llvm.prefetch", (address.type,), kind)
        builder.call(fetch, [address, number(0), number(3), number(1)])  # to read; to be kept; data
        return context.get_dummy_value()

    return types.void(a, i), generate


@compiled
def _fetch(block, first, rows):
    """Ask for some rows of a block of keys or values."""
    for i in range(first * BLOCK, (first + rows) * BLOCK, LINE // block.itemsize):
        _fetch_line(block, i)


@compiled
def _exp(x):
    """exp(x) for x <= 0 in single precision, to 3e-7, by operations that vectorise (the polynomial of Cephes)."""
    x = max(x, np.float32(-87))
    k = np.floor(x * np.float32(1.44269504) + np.float32(0.5))
    r = x - k * np.float32(0.69314718)
    p = np.float32(1.9875691500e-4)
    p = p * r + np.float32(1.3981999507e-3)
    p = p * r + np.float32(8.3334519073e-3)
    p = p * r + np.float32(4.1665795894e-2)
    p = p * r + np.float32(1.6666665459e-1)
    p = p * r + np.float32(5.0000001201e-1)
    two_to_k = np.int32((np.int32(k) + np.int32(127)) << np.int32(23)).view(np.float32)
    return (p * r * r + r + np.float32(1)) * two_to_k


@compiled
def _normal_tail(x):
    """P(N > |x|) in single precision, to 1e-7 (Abramowitz and Stegun, 7.1.26)."""
    z = abs(x) * np.float32(0.70710678)
    t = np.float32(1) / (np.float32(1) + np.float32(0.3275911) * z)
    p = np.float32(0.5 * 1.061405429)
    p = p * t - np.float32(0.5 * 1.453152027)
    p = p * t + np.float32(0.5 * 1.421413741)
    p = p * t - np.float32(0.5 * 0.284496736)
    p = p * t + np.float32(0.5 * 0.254829592)
    return p * t * _exp(-z * z)


@compiled
def _gelu(a, single):
    """Set a (r, W) to a P(N < a)."""
    for i in range(len(a)):
        if single:
            for k in range(a.shape[1]):
                tail = _normal_tail(a[i, k])
                a[i, k] *= tail if a[i, k] < 0 else np.float32(1) - tail
        else:
            for k in range(a.shape[1]):
                a[i, k] *= 0.5 * math.erfc(-a[i, k] * 0.5**0.5)


@compiled
def normalise(x, weight, bias, epsilon, out):
    """Set out (r, W) to the rows of x with mean zero and variance one, times the weight, plus the bias."""
    rows, width = x.shape
    for i in range(rows):
        mean = square = x.dtype.type(0)
        for k in range(width):
            mean += x[i, k]
        mean /= x.dtype.type(width)
        for k in range(width):
            square += (x[i, k] - mean) * (x[i, k] - mean)
        scale = x.dtype.type(1 / math.sqrt(square / width + epsilon))
        for k in range(width):
            out[i, k] = (x[i, k] - mean) * scale * weight[k] + bias[k]


@compiled
def _add_product(x, weight, out):
    """Add x weight^T to out (r, O): four rows against two rows of weights at a time, as sums then stay in registers."""
    rows, width = x.shape
    together = rows - rows % 4
    zero = x.dtype.type(0)
    for o in range(0, len(weight) - 1, 2):
        for i in range(0, together, 4):
            a0 = a1 = a2 = a3 = b0 = b1 = b2 = b3 = zero
            for k in range(width):
                a0 += x[i, k] * weight[o, k]
                a1 += x[i + 1, k] * weight[o, k]
                a2 += x[i + 2, k] * weight[o, k]
                a3 += x[i + 3, k] * weight[o, k]
                b0 += x[i, k] * weight[o + 1, k]
                b1 += x[i + 1, k] * weight[o + 1, k]
                b2 += x[i + 2, k] * weight[o + 1, k]
                b3 += x[i + 3, k] * weight[o + 1, k]
            out[i, o] += a0
            out[i + 1, o] += a1
            out[i + 2, o] += a2
            out[i + 3, o] += a3
            out[i, o + 1] += b0
            out[i + 1, o + 1] += b1
            out[i + 2, o + 1] += b2
            out[i + 3, o + 1] += b3
    for i in range(rows):
        for o in range(0 if i >= together else len(weight) - len(weight) % 2, len(weight)):
            a0 = zero
            for k in range(width):
                a0 += x[i, k] * weight[o, k]
            out[i, o] += a0


@compiled
def _turn(x, cos, sin):
    """Turn the pairs of numbers of x (S,) by the angles of a position."""
    half = len(cos)
    for s in range(half):
        a, b = x[s], x[s + half]
        x[s] = a * cos[s] - b * sin[s]
        x[s + half] = b * cos[s] + a * sin[s]


@compiled
def _dots(q, keys, after, scores, blocks):
    """Set scores (T / B, B) to the products of q (S,) and the keys (T / B, S, B) of the first blocks.

    `after` (S, B) is read next.
    """
    zero = q.dtype.type(0)
    for g in range(blocks):
        ahead = keys[g + 1] if g + 1 < blocks else after
        for b in range(BLOCK):
            scores[g, b] = zero
        for s in range(0, len(q), 4):
            _fetch(ahead, s, 4)
            q0, q1, q2, q3 = q[s], q[s + 1], q[s + 2], q[s + 3]
            for b in range(BLOCK):
                scores[g, b] += (
                    q0 * keys[g, s, b] + q1 * keys[g, s + 1, b] + q2 * keys[g, s + 2, b] + q3 * keys[g, s + 3, b]
                )


@compiled
def _softmax(a, stop, single):
    """Set the first numbers of a to their softmax times some z, and those after to zero; return 1 / z."""
    most, total = a[0], a.dtype.type(0)
    for t in range(stop):
        most = max(most, a[t])
    if single:
        for t in range(stop):
            a[t] = _exp(a[t] - most)
            total += a[t]
    else:
        for t in range(stop):
            a[t] = math.exp(a[t] - most)
            total += a[t]
    a[stop:] = 0
    return a.dtype.type(1) / total


@compiled
def _average(scores, values, after, sums, blocks, scale, out):
    """Set out (S,) to the sum of values (T / B, S, B) times scores and scale; sums (S, B) is scratch space."""
    zero = sums.dtype.type(0)
    sums[:] = zero
    for g in range(blocks):
        ahead = values[g + 1] if g + 1 < blocks else after
        for s in range(len(sums)):
            _fetch(ahead, s, 1)
            for b in range(BLOCK):
                sums[s, b] += scores[g, b] * values[g, s, b]
    for s in range(len(sums)):
        total = zero
        for b in range(sums.shape[1]):  # of a number that it knows the compiler makes so many sums, one by one
            total += sums[s, b]
        out[s] = total * scale


@compiled
def _attend(qkv, cos, sin, keys, values, at, out, single):
    """Note the key and value of each row and head, and set out (r, W) to what its query finds in the memory."""
    rows, width = out.shape
    _, groups, size, _ = keys.shape
    heads = width // size
    group, place, blocks = at // BLOCK, at % BLOCK, at // BLOCK + 1
    scores = np.empty((groups, BLOCK), out.dtype)
    sums = np.empty((size, BLOCK), out.dtype)
    scale = out.dtype.type(1 / math.sqrt(size))
    for i in range(rows):
        for h in range(heads):
            j, first = i * heads + h, h * size
            q, k = qkv[i, first : first + size], qkv[i, width + first : width + first + size]
            _turn(q, cos, sin)
            _turn(k, cos, sin)
            for s in range(size):
                q[s] *= scale
                keys[j, group, s, place] = k[s]
                values[j, group, s, place] = qkv[i, 2 * width + first + s]
            _dots(q, keys[j], values[j, 0], scores, blocks)
            one = _softmax(scores.reshape(-1)[: blocks * BLOCK], at + 1, single)
            after = keys[min(j + 1, len(keys) - 1), 0]
            _average(scores, values[j], after, sums, blocks, one, out[i, first : first + size])


@compiled
def layer(x, weights, cos, sin, keys, values, at):
    """Take what stands at a position, x (r, W), through a layer, in place.

    keys and values (r H, T / B, S, B) hold the positions before, and this one afterwards; S is a multiple of 4. cos and
    sin (S / 2,) are empty where positions are not rotary.
    """
    scale_1, shift_1, epsilon, w_qkv, w_out, scale_2, shift_2, _, w_wide, w_narrow = weights
    single = x.itemsize == 4
    y = np.empty_like(x)
    qkv = np.zeros((len(x), len(w_qkv)), x.dtype)
    wide = np.zeros((len(x), len(w_wide)), x.dtype)
    normalise(x, scale_1, shift_1, epsilon, y)
    _add_product(y, w_qkv, qkv)
    _attend(qkv, cos, sin, keys, values, at, y, single)
    _add_product(y, w_out, x)
    normalise(x, scale_2, shift_2, epsilon, y)
    _add_product(y, w_wide, wide)
    _gelu(wide, single)
    _add_product(wide, w_narrow, x)
