r"""Sums over kernels, in tiles that stay in the cache.

    S(x) = log sum_j exp( a(x) . b_j + c_j + e(x, j) )

A Gaussian kernel is a product of features, -|x - y|^2 / 2 = x . y - |y|^2 / 2 - |x|^2 / 2, and so are kernels over
levels; matrix products thus do most of the work. Other kernels of real columns, and Gaussians where the three terms
would cancel to nothing, come as e, from differences. The sum runs relative to the largest term so far: memory does not
depend on n. Terms e^80 times below the largest are taken to be that small: together they are no more than n e^-80,
and numbers too small for a float take the processor ten times as long.

One-dimensional kernels k(u), each with mass one on the line; K(x) is their product over the columns:

    gaussian       exp(-u^2 / 2) / sqrt(2 pi)             tophat         1 / 2
    exponential    exp(-|u|) / 2                          triangular     1 - |u|           for |u| < 1
    epanechnikov   3/4 (1 - u^2)                          cosine         pi/4 cos(pi u / 2)

A bandwidth made for the Gaussian kernel, h, does for another kernel what h d_k / d_gaussian does, with
d_k = (R(k)^D / s_k^4)^(1 / (D + 4)), R the integral of k^2 and s_k^2 the variance of k.

Reference: Marron and Nolan, Canonical kernels for density estimation, 1988.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch

from plausible.randomness import uniform

QUERIES, KERNELS = 256, 2048  # of a tile
LOWEST = -80.0
SAFE = 1e8  # |x|^2 up to which a product of features is right to 1e-7
LOG_SQRT_2PI = 0.5 * math.log(2 * math.pi)

# log of the constant; R(k); variance of k
_LAWS = {
    "gaussian": (-LOG_SQRT_2PI, 0.5 / math.sqrt(math.pi), 1.0),
    "epanechnikov": (math.log(0.75), 0.6, 0.2),
    "tophat": (math.log(0.5), 0.5, 1 / 3),
    "exponential": (math.log(0.5), 0.25, 2.0),
    "triangular": (0.0, 2 / 3, 1 / 6),
    "cosine": (math.log(math.pi / 4), math.pi**2 / 16, 1 - 8 / math.pi**2),
}
NAMES = tuple(_LAWS)


def log_constant(kernel: str) -> float:
    """log of what stands before a one-dimensional kernel."""
    return _LAWS[kernel][0]


def canonical(kernel: str, dims: int) -> float:
    """The bandwidth of a kernel that smooths as much as a Gaussian of bandwidth one."""

    def d(name: str) -> float:
        _, square, variance = _LAWS[name]
        return (square**dims / variance**2) ** (1 / (dims + 4))

    return d(kernel) / d("gaussian")


def log_kernel(kernel: str, x: torch.Tensor, y: torch.Tensor, spread: torch.Tensor) -> torch.Tensor:
    """log of the product kernel without its constant, from differences: (q, D), (t, D), (t,) or (1,) -> (q, t)."""
    if kernel == "gaussian":
        r = torch.cdist(x, y, compute_mode="donot_use_mm_for_euclid_dist") / spread
        return -0.5 * r.square_()
    if kernel == "exponential":
        return -torch.cdist(x, y, p=1.0) / spread
    if kernel == "tophat":
        inside = torch.cdist(x, y, p=math.inf) <= spread
        return torch.where(inside, 0.0, -math.inf).to(x)
    log_k = x.new_zeros(len(x), len(y))
    for first in range(0, x.shape[1], 8):  # the product of eight cannot fall below the smallest float
        product = torch.ones_like(log_k)
        for d in range(first, min(first + 8, x.shape[1])):
            u = (x[:, d, None] - y[None, :, d]) / spread
            if kernel == "epanechnikov":
                product *= (1 - u * u).clamp_min_(0)
            elif kernel == "triangular":
                product *= (1 - u.abs()).clamp_min_(0)
            else:
                product *= torch.where(u.abs() < 1, torch.cos(math.pi / 2 * u), 0.0)
        log_k += product.log_()
    return log_k


def noise(kernel: str, n: int, dims: int, rng, like: torch.Tensor) -> torch.Tensor:
    """Draw from the product kernel: (n, dims)."""
    if kernel == "gaussian":
        return torch.randn(n, dims, generator=rng, dtype=like.dtype, device=like.device)
    u = uniform(rng, (n, dims), like)
    if kernel == "tophat":
        return 2 * u - 1
    if kernel == "cosine":
        return torch.asin(2 * u - 1) * (2 / math.pi)
    if kernel == "exponential":
        v = 2 * u - 1
        return -torch.sign(v) * torch.log1p(-v.abs())
    v = uniform(rng, (n, dims), like)
    if kernel == "triangular":
        return u - v
    # Of three uniforms on (-1, 1), the last, or the second where the last is the largest (Devroye, 1986, p. 236).
    a, b, c = 2 * u - 1, 2 * v - 1, 2 * uniform(rng, (n, dims), like) - 1
    return torch.where((c.abs() >= b.abs()) & (c.abs() >= a.abs()), b, c)


Extra = Callable[[slice, slice], torch.Tensor]  # rows of x, kernels -> e (q, t)


def log_sums(a: torch.Tensor, b: torch.Tensor, c: torch.Tensor, extra: Extra | None = None) -> torch.Tensor:
    """S of every row, tile by tile: (q, F), (n, F), (n,) -> (q, number of tiles).

    ``logsumexp(1)`` of it is the whole sum; the parts tell where the mass lies.
    """
    tiles = range(0, len(b), KERNELS)
    out = a.new_empty(len(a), len(tiles))
    work = a.new_empty(min(QUERIES, len(a)) * min(KERNELS, len(b)))
    for first in range(0, len(a), QUERIES):
        rows = slice(first, min(first + QUERIES, len(a)))
        top = a.new_full((rows.stop - first,), -math.inf)
        for t, start in enumerate(tiles):
            part = slice(start, min(start + KERNELS, len(b)))
            m = _terms(a, b, c, rows, part, extra, work)
            top = torch.maximum(top, m.amax(1))
            finite = top.clamp_min(-1e300)  # all terms may be zero: -inf less -inf is no number
            m.sub_(finite[:, None]).clamp_min_(LOWEST).exp_()
            out[rows, t] = torch.where(top == -math.inf, top, m.sum(1).log_().add_(finite))
    return out


def _terms(a, b, c, rows, part, extra, work=None) -> torch.Tensor:
    shape = (rows.stop - rows.start, part.stop - part.start)
    place = None if work is None else work[: shape[0] * shape[1]].view(shape)
    m = torch.addmm(c[part], a[rows], b[part].T, out=place) if place is not None else (a[rows] @ b[part].T + c[part])
    return m if extra is None else m.add_(extra(rows, part))


def draw_kernels(
    a: torch.Tensor, b: torch.Tensor, c: torch.Tensor, extra: Callable | None, u: torch.Tensor
) -> torch.Tensor:
    """Draw a kernel j for every row, with probability exp(a . b_j + c_j + e_j) / exp S: uniforms (q, 2) -> (q,)."""
    tiles = log_sums(a, b, c, extra)
    tile = _pick(tiles, u[:, 0])
    out = torch.empty(len(a), dtype=torch.long, device=a.device)
    for t in tile.unique().tolist():
        part = slice(t * KERNELS, min((t + 1) * KERNELS, len(b)))
        for chosen in (tile == t).nonzero()[:, 0].split(QUERIES):
            m = a[chosen] @ b[part].T + c[part]
            if extra is not None:
                m += extra(chosen, part)
            out[chosen] = part.start + _pick(m, u[chosen, 1])
    return out


def _pick(log_weight: torch.Tensor, u: torch.Tensor) -> torch.Tensor:
    """Draw a column of every row (q, t) by inversion."""
    below = (log_weight - log_weight.amax(1, keepdim=True).clamp_min(-1e300)).exp().cumsum(1)
    place = (u[:, None] * below[:, -1:] >= below).sum(1)
    return place.clamp_max(log_weight.shape[1] - 1)
