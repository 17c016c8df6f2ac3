r"""Novelty: has the model learned a distribution, or its training rows?

With d(x) the distance from x to the nearest training row,

    ratio = median d(sample) / median d(held-out row).

A model that copies has a ratio near 0, one that samples as the data do near 1, one that samples noise well above.
Held-out rows are the yardstick, because in a small discrete space even new rows of real data repeat old ones.

Whether the two sets of distances differ by more than chance is asked by `data_copying`: in each cell of a partition of
the training rows, with n samples and m held-out rows that fall in it,

    U = number of pairs in which the sample lies further from the training rows than the held-out row, ties by half
    z = (U - nm/2) / sd(U),    all cells together: z = sum_j w_j z_j / sqrt(sum_j w_j^2),    w_j = m_j / m

which is N(0, 1) where samples follow the law of the held-out rows, and far below zero where they copy. Cells keep a
model that draws too much from where data are dense from looking like one that copies, and copies in one corner from
drowning among the rest.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from plausible.errors import DataError

LEAST_IN_CELL = 20  # samples, and held-out rows, that a cell needs to be tested
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


@dataclass(frozen=True)
class Copying:
    """The outcome of the test of data-copying.

    Args:
        z: how much further samples lie from training rows than held-out rows do, in standard errors; negative: nearer.
        p_value: how often a sample of real rows would have a z at least as low.
        further: the chance that a sample lies further from the training rows than a held-out row of its cell; 0.5
            where nothing is copied.
        cells: (share of the held-out rows, z) of each cell that was tested.
    """

    z: float
    p_value: float
    further: float
    cells: tuple[tuple[float, float], ...]

    def __str__(self) -> str:
        return f"a sample lies further off than a held-out row in {self.further:.0%} of pairs (z = {self.z:.1f})"


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


def in_shares(real: np.ndarray, theirs: np.ndarray, own: np.ndarray) -> np.ndarray:
    """Distances of real rows as if their classes came in the shares of others: a yardstick for samples of these.

    Args:
        real: distances (m,), and `theirs`, the class of each.
        own: classes (n,) of samples.

    Returns:
        Of each class as many as there are samples of it, at even steps of the order of its real distances.
    """
    parts = []
    for j, n in zip(*np.unique(own, return_counts=True), strict=True):
        found = np.sort(real[theirs == j])
        if len(found):
            parts.append(found[(2 * np.arange(n) + 1) * len(found) // (2 * n)])
    return np.concatenate(parts)


def distances(x: np.ndarray, train: np.ndarray) -> np.ndarray:
    """Euclidean distance of each row of `x` (n, d) to the nearest row of `train` (N, d); exactly 0 for a copy."""
    return nearest(x, train)[0]


def nearest(x: np.ndarray, train: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the distance of each row of `x` (n, d) to the nearest row of `train` (N, d), and which row that is."""
    from sklearn.metrics import pairwise_distances_argmin

    if len(x) == 0 or len(train) == 0:
        raise DataError(f"expected at least one row and one training row, got {len(x)} and {len(train)}")
    index = pairwise_distances_argmin(np.asarray(x, np.float32), np.asarray(train, np.float32))
    # The search adds and subtracts squared norms; the distance itself is taken again, so that a copy gives zero.
    return np.linalg.norm(x - train[index], axis=1), index


def data_copying(
    samples: np.ndarray,
    train: np.ndarray,
    held_out: np.ndarray,
    *,
    cells: int | None = None,
    random_state: int | None = 0,
) -> Copying:
    """Test whether samples lie nearer to the training rows than held-out rows do.

    Args:
        samples: (n, d) features of samples (see `evaluate.features`).
        train: (N, d) features of the rows the model was fitted on.
        held_out: (m, d) features of real rows it has not seen.
        cells: of k-means on the training rows; by default as many as leave 50 held-out rows to a cell, at most 10.
            Cells with fewer than 20 samples or held-out rows are not tested; if none is left, all rows are one cell.
        random_state: seed of k-means.

    Raises:
        DataError: a side has no row, or `cells` is less than one.

    References:
        Meehan, Chaudhuri & Dasgupta, A non-parametric test to detect data-copying in generative models (2020),
        https://arxiv.org/abs/2004.05675. There the z of the cells are averaged; here they are combined so that the
        result is N(0, 1) (Stouffer), which gives a p-value.
    """
    made, real = distances(samples, train), distances(held_out, train)
    n_cells = min(max(len(held_out) // 50, 1), 10) if cells is None else cells
    if n_cells < 1:
        raise DataError(f"cells must be at least 1, got {cells!r}")
    own, theirs = cells_of(train, n_cells, random_state, samples, held_out)
    return copying(made, real, own, theirs)


def copying(
    made: np.ndarray, real: np.ndarray, own: np.ndarray | None = None, theirs: np.ndarray | None = None
) -> Copying:
    """`data_copying` from distances to the nearest training row, and the cells they lie in (one cell by default)."""
    from scipy.stats import norm

    own = np.zeros(len(made), int) if own is None else own
    theirs = np.zeros(len(real), int) if theirs is None else theirs
    tested = [j for j in np.unique(theirs) if min(np.sum(own == j), np.sum(theirs == j)) >= LEAST_IN_CELL]
    if not tested:
        tested, own, theirs = [0], np.zeros_like(own), np.zeros_like(theirs)
    found = [_rank_test(made[own == j], real[theirs == j]) for j in tested]
    share = np.array([np.mean(theirs == j) for j in tested])
    z = float(share @ [z for z, _ in found] / np.linalg.norm(share))
    further = float(share @ [u for _, u in found] / share.sum())
    cells = tuple((float(w), float(z)) for w, (z, _) in zip(share, found, strict=True))
    return Copying(z, float(norm.cdf(z)), further, cells)


def _rank_test(made: np.ndarray, real: np.ndarray) -> tuple[float, float]:
    """z of the Mann-Whitney statistic, with its variance corrected for ties; and U / nm."""
    from scipy.stats import rankdata

    n, m = len(made), len(real)
    ranks = rankdata(np.concatenate([made, real]))
    u = ranks[:n].sum() - n * (n + 1) / 2
    _, ties = np.unique(ranks, return_counts=True)
    total = n + m
    variance = n * m / 12 * (total + 1 - (ties**3 - ties).sum() / (total * max(total - 1, 1)))
    return (u - n * m / 2) / math.sqrt(variance) if variance > 0 else 0.0, u / (n * m)


def cells_of(train: np.ndarray, n_cells: int, seed: int | None, *sets: np.ndarray) -> list[np.ndarray]:
    """The cell of k-means on the training rows in which each row of each set lies."""
    if n_cells == 1:
        return [np.zeros(len(x), int) for x in sets]
    from sklearn.cluster import MiniBatchKMeans
    from threadpoolctl import threadpool_limits

    with threadpool_limits(limits=1, user_api="openmp"):
        means = MiniBatchKMeans(min(n_cells, len(train)), n_init=3, random_state=seed).fit(train)
        return [means.predict(x) for x in sets]


def _maybe(second: np.ndarray | None, train: np.ndarray) -> np.ndarray | None:
    return None if second is None else distances(second, train)


def _ratio(made: np.ndarray, yardstick: float) -> float:
    return float(np.median(made)) / yardstick if yardstick > 0 else math.nan
