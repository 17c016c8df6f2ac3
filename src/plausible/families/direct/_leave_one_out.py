r"""Bandwidths by leave-one-out likelihood: one pass of EM.

    log p_-i(x_i) = log sum_{j != i} w_j K_j(x_i | x_j) - log sum_{j != i} w_j,     r_ij the share of term j

With Gaussian kernels the next bandwidths are averages over i and j, with weights w_i r_ij, of squared differences and
of how often levels differ, which follows from the products of their features. Adaptive kernels are those that the data
without row i would have: where i is among the k nearest of j, kernel j reaches to its (k + 1)-th.
"""

from __future__ import annotations

from typing import NamedTuple

import torch

AT_ONCE = 2_000_000  # terms


class Rows(NamedTuple):
    """What is known of m rows, or of n kernels."""

    white: torch.Tensor  # (n, R) real columns in units of the kernel
    features: torch.Tensor  # of all other factors: log K = features of the row . features of the kernel + constant
    reals: torch.Tensor  # (n, R)
    lattices: torch.Tensor  # (n, G) in steps
    weight: torch.Tensor  # (n,)


class Pairs(NamedTuple):
    """The rows i that are among the k nearest of kernel j, sorted by i."""

    i: torch.Tensor
    j: torch.Tensor
    spread: torch.Tensor  # of kernel j without row i


class Averages(NamedTuple):
    loss: torch.Tensor  # of -log p_-i(x_i)
    scatter: torch.Tensor  # (R, R), of differences of real columns divided by the spread
    squares: torch.Tensor  # (G,), of differences of lattices
    products: torch.Tensor  # (F,), of features of the row and of the kernel


def average(
    x: Rows, y: Rows, own: torch.Tensor, constant: torch.Tensor, spread: torch.Tensor, pairs: Pairs | None
) -> Averages:
    """One E-step over the rows x (m) and the kernels y (n).

    Args:
        own: (m,) which kernel sits on each row.
        constant: (n,) of every kernel, its log weight included.
        spread: (n,) of the real columns.
        pairs: where the spread is another one.
    """
    dims = x.white.shape[1]
    constant, inverse = constant - dims * spread.log(), 1 / spread.square()
    half = 0.5 * y.white.square().sum(1)
    sums: list[torch.Tensor] = []
    for i in torch.arange(len(own), device=own.device).split(max(AT_ONCE // len(constant), 1)):
        a = Rows(*(t[i] for t in x))
        # Half the squared distance. What rounding does to it is lost in an average.
        d = (half - a.white @ y.white.T + 0.5 * a.white.square().sum(1, keepdim=True)).clamp_min_(0)
        log_k = torch.addmm(constant, a.features, y.features.T).addcmul_(d, inverse.expand_as(d), value=-1)
        if pairs is not None:
            first, last = torch.searchsorted(pairs.i, torch.stack([i[0], i[-1] + 1])).tolist()
            p, j, s = pairs.i[first:last] - i[0], pairs.j[first:last], pairs.spread[first:last]
            ratio = spread[j] / s
            log_k[p, j] += d[p, j] * inverse[j] * (1 - ratio.square()) + dims * ratio.log()
        log_k[i - i[0], own[i]] = -torch.inf
        log_p = log_k.logsumexp(1, keepdim=True)
        share = log_k.sub_(log_p).exp_().mul_(a.weight[:, None])  # w_i r_ij
        loss = -(a.weight * (log_p[:, 0] - (y.weight.sum() - a.weight).log())).sum()
        squares = _scatter(share, a.lattices, y.lattices).diagonal()
        products = (a.features * (share @ y.features)).sum(0)
        share.mul_(inverse)
        if pairs is not None:
            share[p, j] *= ratio.square()
        new = [loss, _scatter(share, a.reals, y.reals), squares, products]
        sums = [s + t for s, t in zip(sums, new, strict=True)] if sums else new
    return Averages(*(s / x.weight.sum() for s in sums))


def _scatter(share: torch.Tensor, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """sum_ij share_ij (x_i - y_j)(x_i - y_j)': (q, n), (q, D), (n, D) -> (D, D)."""
    cross = x.T @ (share @ y)
    return (x * share.sum(1)[:, None]).T @ x - cross - cross.T + (y * share.sum(0)[:, None]).T @ y
