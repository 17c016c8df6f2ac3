r"""Bandwidths by rule, of a Gaussian kernel on columns of deviation one. n is Kish's effective number of rows.

    Scott        n^(-1 / (D + 4))
    Silverman    (n (D + 2) / 4)^(-1 / (D + 4))
    ISJ          the fixed point t = xi gamma^[7](t) of Botev, on a grid of 2^14 cells by the cosine transform

ISJ is a rule for one column; in D columns each gets n^(1/5 - 1/(D + 4)) times its own, as Scott's and Silverman's do.

References: Silverman, Density Estimation, 1986, section 4.3. Scott, Multivariate Density Estimation, 1992. Botev,
Grotowski and Kroese, Kernel density estimation via diffusion, 2010, https://arxiv.org/abs/1011.2602
"""

from __future__ import annotations

import math

import numpy as np

GRID = 2**14
RULES = ("silverman", "scott", "isj")


def by_rule(rule: str, x: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Bandwidths of the columns of x (n, D), with weights (n,): (D,)."""
    n, dims = weight.sum() ** 2 / (weight**2).sum(), x.shape[1]
    scott = n ** (-1 / (dims + 4))
    if rule == "isj":
        return np.array([isj(column, weight) for column in x.T]) * (scott / n**-0.2)
    return np.full(dims, scott * ((4 / (dims + 2)) ** (1 / (dims + 4)) if rule == "silverman" else 1.0))


def isj(x: np.ndarray, weight: np.ndarray) -> float:
    """The improved Sheather-Jones bandwidth of one column; Silverman's where its equation has no solution."""
    from scipy.fft import dct
    from scipy.optimize import brentq

    n = weight.sum() ** 2 / (weight**2).sum()
    mean = np.average(x, weights=weight)
    deviation = math.sqrt(np.average((x - mean) ** 2, weights=weight))
    silverman = (deviation if deviation > 0 else 1.0) * (0.75 * n) ** -0.2
    reach = np.ptp(x)
    if reach == 0 or n < 3:
        return silverman
    low, length = x.min() - reach / 2, 2 * reach
    share = np.histogram(x, bins=GRID, range=(low, low + length), weights=weight / weight.sum())[0]
    squares = (dct(share)[1:] / 2) ** 2
    k2 = np.arange(1, GRID, dtype=float) ** 2

    def norm(t: float, s: int) -> float:
        """The squared norm of the s-th derivative of the density smoothed by t."""
        # (k^2)^s overflows nothing at s = 7 only in logarithms of what the exponential leaves.
        with np.errstate(divide="ignore", under="ignore"):
            terms = np.exp(s * np.log(k2) - k2 * math.pi**2 * t) * squares
        return 2 * math.pi ** (2 * s) * terms.sum()

    def gap(t: float) -> float:
        f = norm(t, 7)
        for s in range(6, 1, -1):
            odd = np.prod(np.arange(1, 2 * s, 2)) / math.sqrt(2 * math.pi)
            time = (2 * (1 + 0.5 ** (s + 0.5)) / 3 * odd / (n * f)) ** (2 / (3 + 2 * s))
            f = norm(time, s)
        return t - (2 * n * math.sqrt(math.pi) * f) ** -0.4

    upper = np.geomspace(1e-9, 0.1, 60)
    with np.errstate(all="ignore"):
        gaps = np.array([gap(t) for t in upper])
    crossings = np.flatnonzero((gaps[:-1] < 0) & (gaps[1:] >= 0))
    if len(crossings) == 0:
        return silverman
    with np.errstate(all="ignore"):
        t = brentq(gap, upper[crossings[0]], upper[crossings[0] + 1], xtol=1e-14)
    return math.sqrt(t) * length
