r"""Conformal p-values: how many rows that are known to be clean look as odd as this one.

    p(x) = (1 + #{i: s_i >= s(x)}) / (n + 1)                                                       P(p <= a) <= a
    p(x) = (#{i: s_i > s(x)} + U (1 + #{i: s_i = s(x)})) / (n + 1),   U uniform                     P(p <= a) = a

s_1 .. s_n are the scores of calibration rows that the model has not seen. The promise asks nothing of the model or of
the score, only that a clean row could have been one of them. Where clean rows follow another distribution q than the
calibration rows (p), each row counts with its weight w = q / p, known up to a factor, and x with its own:

    p(x) = (w(x) + sum_{i: s_i >= s(x)} w_i) / (w(x) + sum_i w_i)

The rate a holds on average over calibration sets; of one set of n it is a draw from Beta(k, n + 1 - k), k = a (n + 1).

References: Vovk, Gammerman and Shafer, Algorithmic learning in a random world, 2005. Laxhammar and Falkman, Conformal
prediction for distribution-independent anomaly detection, 2010. Tibshirani, Barber, Candes and Ramdas, Conformal
prediction under covariate shift, 2019, https://arxiv.org/abs/1904.06019. Bates, Candes, Lei, Romano and Sesia, Testing
for outliers with conformal p-values, 2023, https://arxiv.org/abs/2104.08279.
"""

from __future__ import annotations

import math

import numpy as np

from plausible.errors import DataError


def p_values(
    scores: np.ndarray,
    calibration: np.ndarray,
    *,
    weights: np.ndarray | None = None,
    own: np.ndarray | None = None,
    uniform: np.ndarray | None = None,
) -> np.ndarray:
    """Return the p-value of each score.

    Args:
        scores: of the rows in question, higher being odder; (m,).
        calibration: scores of clean rows; (n,).
        weights: of the calibration rows, (n,); None if all count the same.
        own: with `weights`, of the rows in question; (m,).
        uniform: numbers in [0, 1) by which ties are broken, (m,); None counts a tie in full.
    """
    order = np.argsort(calibration, kind="stable")
    ordered = calibration[order]
    w = np.ones(len(ordered)) if weights is None else np.asarray(weights, float)[order]
    own = np.ones(len(scores)) if own is None else np.asarray(own, float)
    from_here = np.r_[np.cumsum(w[::-1])[::-1], 0.0]  # the weight of this one and of all that are odder
    at_least = from_here[np.searchsorted(ordered, scores, "left")]
    if uniform is None:
        counted = own + at_least
    else:
        above = from_here[np.searchsorted(ordered, scores, "right")]
        counted = above + uniform * (own + at_least - above)
    return counted / (own + from_here[0])


def threshold(calibration: np.ndarray, alpha: float) -> float:
    """Return the t for which p(x) <= alpha where s(x) > t; infinity if no p is that small."""
    k = allowed(len(calibration), alpha)
    return math.inf if k == 0 else float(np.sort(calibration)[len(calibration) - k])


def allowed(n: int, alpha: float) -> int:
    """Return the largest k with k / (n + 1) <= alpha, as `p_values` divides them."""
    k = round(alpha * (n + 1))
    return k if k / (n + 1) <= alpha else k - 1


def fewest(alpha: float) -> int:
    """Return how many calibration rows make a p-value of `alpha` possible."""
    n = max(math.ceil(1 / alpha) - 2, 0)  # 1 / alpha may be a rounding error above what it is meant to be
    while 1 / (n + 1) > alpha:
        n += 1
    return n


def check_alpha(alpha: float) -> float:
    """Refuse what is no rate."""
    if not 0 < alpha < 1:
        raise DataError(f"alpha, the share of clean rows that may be flagged, must lie between 0 and 1; got {alpha!r}")
    return float(alpha)
