r"""Novelty: has the model learned a distribution, or its training rows?

With d(x) the distance from x to the nearest training row,

    ratio = median d(sample) / median d(held-out row).

A model that copies has a ratio near 0, one that samples as the data do near 1, one that samples noise well above.
Held-out rows are the yardstick, because in a small discrete space even new rows of real data repeat old ones.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from plausible.errors import DataError

NEAR = 0.01  # a near copy is as close to a training row as the closest hundredth of the held-out rows


@dataclass(frozen=True)
class Novelty:
    """Distances of samples to the nearest training row, against those of held-out rows.

    Args:
        ratio: median distance of samples over that of held-out rows; NaN where the latter is zero.
        copies: share of samples equal to a training row.
        near_copies: share of samples as close to a training row as the closest hundredth of the held-out rows.
        real_ratio: the same ratio for a second sample of real rows (1 but for chance), or None.
        real_copies: share of held-out rows equal to a training row.
        real_near_copies: share of held-out rows (of the second sample, if given) that count as near copies.
    """

    ratio: float
    copies: float
    near_copies: float
    real_ratio: float | None
    real_copies: float
    real_near_copies: float

    def __str__(self) -> str:
        return (
            f"samples lie {self.ratio:.2f} times as far from training rows as held-out rows do; "
            f"{self.copies:.1%} are copies ({self.real_copies:.1%} of held-out rows)"
        )


def novelty(
    samples: np.ndarray, train: np.ndarray, held_out: np.ndarray, *, second: np.ndarray | None = None
) -> Novelty:
    """Compare how far samples and held-out rows are from the training rows.

    Args:
        samples: (n, d) features of samples (see `evaluate.features`).
        train: (N, d) features of the rows the model was fitted on.
        held_out: (m, d) features of real rows it has not seen.
        second: (k, d) features of other such rows, to show what the numbers are for real data.

    References:
        Distance to closest record: Zhao et al. (2021), https://arxiv.org/abs/2102.08369
        Data-copying against held-out rows: Meehan, Chaudhuri & Dasgupta (2020), https://arxiv.org/abs/2004.05675
    """
    return against(distances(held_out, train), distances(samples, train), _maybe(second, train))


def against(real: np.ndarray, made: np.ndarray, second: np.ndarray | None = None) -> Novelty:
    """`novelty` from distances to the nearest training row, for when those of real rows are at hand already."""
    yardstick, near = float(np.median(real)), float(np.quantile(real, NEAR))
    again = real if second is None else second
    return Novelty(
        ratio=_ratio(made, yardstick),
        copies=float(np.mean(made == 0)),
        near_copies=float(np.mean(made <= near)),
        real_ratio=None if second is None else _ratio(second, yardstick),
        real_copies=float(np.mean(again == 0)),
        real_near_copies=float(np.mean(again <= near)),
    )


def distances(x: np.ndarray, train: np.ndarray) -> np.ndarray:
    """Euclidean distance of each row of `x` (n, d) to the nearest row of `train` (N, d); exactly 0 for a copy."""
    from sklearn.metrics import pairwise_distances_argmin

    if len(x) == 0 or len(train) == 0:
        raise DataError(f"expected at least one row and one training row, got {len(x)} and {len(train)}")
    nearest = pairwise_distances_argmin(np.asarray(x, np.float32), np.asarray(train, np.float32))
    # The search adds and subtracts squared norms; the distance itself is taken again, so that a copy gives zero.
    return np.linalg.norm(x - train[nearest], axis=1)


def _maybe(second: np.ndarray | None, train: np.ndarray) -> np.ndarray | None:
    return None if second is None else distances(second, train)


def _ratio(made: np.ndarray, yardstick: float) -> float:
    return float(np.median(made)) / yardstick if yardstick > 0 else math.nan
