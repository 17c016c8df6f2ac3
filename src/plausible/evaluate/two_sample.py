r"""Two-sample tests: can samples be told from real examples?

They ask nothing of a model but samples, so every family can be judged by them. All work on two arrays of features,
a (n, d) and b (m, d), as `features` makes them from codes.

    classifier     held-out accuracy of a classifier that tells a from b; 0.5 where nothing can be told
    MMD^2          E k(a, a') + E k(b, b') - 2 E k(a, b),   k(x, y) = exp(-|x - y|^2 / (2 h^2)); 0 where a and b agree
    sliced W_2     sqrt( E_theta W_2^2(<theta, a>, <theta, b>) ) over directions theta, uniform on the unit sphere

The first says whether a difference can be seen at all, the second and the third how large it is. None is of use
alone: set beside it the same number for two samples of real examples, of the same sizes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch

from plausible.errors import DataError
from plausible.randomness import seed_of
from plausible.space import Space

MAX_PAIRS = 256  # the commonest pairs of characters that are counted in a text
MOST_FEATURES = 512  # that the classifier looks at
WIDE = 128  # features beyond which the classifier is given less time
CHUNK = 1 << 22  # entries of a kernel matrix held at a time (32 MB)


@dataclass(frozen=True)
class TwoSample:
    """The outcome of a two-sample test.

    Args:
        value: the statistic.
        stderr: its standard error over samples.
        p_value: how often two samples of one distribution would give a value at least this large; None if not asked.
    """

    value: float
    stderr: float
    p_value: float | None = None

    def __str__(self) -> str:
        p = "" if self.p_value is None else f" (p = {self.p_value:.2g})"
        return f"{self.value:.4g} ± {self.stderr:.2g}{p}"


# ------------------------------------------------------------------------------------------------------ features


def features(space: Space, codes: torch.Tensor, *, real: torch.Tensor | None = None) -> np.ndarray:
    r"""Turn codes into numbers whose Euclidean distance makes sense.

    Categorical columns become one indicator for each level; binary, ordinal, count and real columns are standardised;
    pixels share one scale, so that a pixel that is nearly always blank is not blown up. Text becomes the frequencies
    of its characters and of its commonest pairs of characters, and its length. A missing cell becomes the mean.

    Args:
        space: what one example is.
        codes: n examples, (n, \*shape).
        real: the codes that means, scales and commonest pairs are taken from; `codes` themselves by default.

    Returns:
        (n, d) float64.
    """
    flat = _flat(codes)
    base = flat if real is None else _flat(real)
    if space.type == "text":
        return _text_features(space, flat, base)
    if space.type == "audio":  # silence after the end
        return np.nan_to_num(flat) / (float(np.nanstd(base)) or 1.0)
    if space.type == "image":
        spread = float(np.std(base)) or 1.0
        return (flat - base.mean(0)) / spread
    parts = [_column_features(c, flat[:, d], base[:, d]) for d, c in enumerate(space.columns)]
    return np.concatenate(parts, 1)


def _flat(codes: torch.Tensor) -> np.ndarray:
    return codes.detach().cpu().reshape(len(codes), -1).double().numpy()


def _column_features(column, codes: np.ndarray, real: np.ndarray) -> np.ndarray:
    if column.kind == "categorical":
        return (codes[:, None] == np.arange(column.n_levels)).astype(float)
    known = real[~np.isnan(real)]
    mean, spread = (known.mean(), known.std()) if len(known) else (0.0, 1.0)
    return np.nan_to_num((codes - mean) / (spread or 1.0), nan=0.0, posinf=np.inf, neginf=-np.inf)[:, None]


def _text_features(space: Space, codes: np.ndarray, real: np.ndarray) -> np.ndarray:
    size = space.columns[0].n_levels
    counts = np.bincount(_pairs(real, size)[0], minlength=size * size)
    common = np.sort(np.argsort(-counts, kind="stable")[: min(MAX_PAIRS, np.count_nonzero(counts))])
    made, base = _text_counts(codes, size, common), _text_counts(real, size, common)
    spread = base.std(0)
    # A pair seen once in the real text would weigh as much as the commonest if each were scaled by itself.
    scale = np.maximum(spread, np.median(spread[spread > 0]) if (spread > 0).any() else 1.0)
    return (made - base.mean(0)) / scale


def _text_counts(codes: np.ndarray, size: int, common: np.ndarray) -> np.ndarray:
    """Frequencies of characters and of the common pairs, and the length: (n, size + len(common) + 1)."""
    n, length = len(codes), (~np.isnan(codes)).sum(1)
    known = ~np.isnan(codes)
    rows = np.nonzero(known)[0]
    singles = np.zeros((n, size))
    np.add.at(singles, (rows, codes[known].astype(int)), 1.0)
    pair, row = _pairs(codes, size)
    place = np.searchsorted(common, pair)
    hit = (place < len(common)) & (common[np.minimum(place, len(common) - 1)] == pair) if len(common) else pair < 0
    pairs = np.zeros((n, len(common)))
    np.add.at(pairs, (row[hit], place[hit]), 1.0)
    return np.concatenate([np.concatenate([singles, pairs], 1) / np.maximum(length, 1)[:, None], length[:, None]], 1)


def _pairs(codes: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Numbers of neighbouring pairs of characters, and the example each stands in."""
    both = ~np.isnan(codes[:, :-1]) & ~np.isnan(codes[:, 1:])
    first, second = codes[:, :-1][both].astype(int), codes[:, 1:][both].astype(int)
    return first * size + second, np.nonzero(both)[0]


# ------------------------------------------------------------------------------------------------------ the tests


def classifier_two_sample_test(
    a: np.ndarray, b: np.ndarray, *, folds: int | None = None, random_state: int | None = 0
) -> TwoSample:
    """Train boosted trees to tell `a` from `b` and return their accuracy on rows they were not trained on.

    Each row is predicted by the trees of the folds it is not in. The larger side is thinned to the smaller, so that
    an accuracy of 1/2 is what no difference gives. Predictions in different folds share most of the rows they were
    trained on, so the accuracy scatters more than 2n independent guesses would: 1.2 to 1.5 times as much in simulations
    without a difference (n from 100 to 400, d from 4 to 30). The standard error and the one-sided p-value therefore
    count n guesses. Of more than 512 features, as many drawn at random are looked at.

    Args:
        a: (n, d) features of one sample.
        b: (m, d) features of the other.
        folds: parts of the cross-validation; 5 by default, 3 beyond 128 features.
        random_state: seed of the thinning and the folds.

    References:
        Revisiting Classifier Two-Sample Tests (Lopez-Paz & Oquab, 2017), https://arxiv.org/abs/1610.06545
    """
    from scipy.stats import norm

    folds = folds or (5 if np.shape(a)[-1] <= WIDE else 3)
    a, b = _checked(a, b, least=folds)
    rng = _rng(random_state)
    n = min(len(a), len(b))
    a, b = a[rng.permutation(len(a))[:n]], b[rng.permutation(len(b))[:n]]
    x, y = np.concatenate([a, b]), np.repeat([0, 1], n)
    if x.shape[1] > MOST_FEATURES:
        x = x[:, rng.permutation(x.shape[1])[:MOST_FEATURES]]
    fold = np.concatenate([np.arange(n) % folds, np.arange(n) % folds])
    right = 0.0
    for k in range(folds):
        chance = _classify(x[fold != k], y[fold != k], x[fold == k])
        right += np.sum(np.where(chance == 0.5, 0.5, (chance > 0.5) == y[fold == k]))
    accuracy = right / (2 * n)
    stderr = math.sqrt(max(accuracy * (1 - accuracy), 1 / (2 * n)) / n)
    return TwoSample(float(accuracy), stderr, float(norm.sf(accuracy - 0.5, scale=0.5 / math.sqrt(n))))


def _classify(x: np.ndarray, y: np.ndarray, unseen: np.ndarray) -> np.ndarray:
    """The chance of y = 1 for each unseen row, by boosted trees."""
    from sklearn.ensemble import HistGradientBoostingClassifier
    from threadpoolctl import threadpool_limits

    wide = x.shape[1] > WIDE  # then fewer and larger steps
    trees = HistGradientBoostingClassifier(
        max_iter=60 if wide else 100,
        learning_rate=0.2 if wide else 0.1,
        max_leaf_nodes=16 if wide else 31,
        max_bins=63,
        min_samples_leaf=10,
        max_features=0.5,
        early_stopping=False,
        random_state=0,
    )
    # On so few rows a second thread gains little, and on a busy machine its barriers cost 40 times the work (measured).
    with threadpool_limits(limits=1, user_api="openmp"):
        return trees.fit(x, y).predict_proba(unseen)[:, 1]


def median_distance(x: np.ndarray, *, most: int = 1000) -> float:
    """The median distance between different rows of `x` (at most the first `most`): a bandwidth for `mmd`."""
    squares = _square_distances(x[:most], x[:most])
    pairs = squares[np.triu_indices(len(squares), 1)]
    positive = pairs[pairs > 0]
    return math.sqrt(float(np.median(positive))) if len(positive) else 1.0


def mmd(
    a: np.ndarray,
    b: np.ndarray,
    *,
    bandwidth: float | None = None,
    permutations: int = 0,
    random_state: int | None = 0,
) -> TwoSample:
    """Unbiased estimate of the squared maximum mean discrepancy under a Gaussian kernel.

    It may fall a little below zero where the two samples agree.

    Args:
        a: (n, d) features of one sample.
        b: (m, d) features of the other.
        bandwidth: h of the kernel; the median distance between rows of `b` by default. Hand the same one to all
            comparisons that are to be read side by side.
        permutations: how often labels are shuffled for the p-value; 0 gives none.
        random_state: seed of the shuffling.

    References:
        A Kernel Two-Sample Test (Gretton et al., 2012), https://jmlr.org/papers/v13/gretton12a.html
    """
    a, b = _checked(a, b, least=2)
    n, m = len(a), len(b)
    bandwidth = median_distance(b) if bandwidth is None else bandwidth
    x = np.concatenate([a, b])
    rng = _rng(random_state)
    in_a = np.zeros((n + m, 1 + permutations))  # column 0: the labels as they are
    in_a[:n, 0] = 1
    for p in range(1, 1 + permutations):
        in_a[rng.permutation(n + m)[:n], p] = 1
    to_a, to_all = _kernel_sums(x, in_a, bandwidth)
    aa = (in_a * to_a).sum(0)
    ab = (in_a * to_all[:, None]).sum(0) - aa
    bb = to_all.sum() - aa - 2 * ab
    values = (aa - n) / (n * (n - 1)) + (bb - m) / (m * (m - 1)) - 2 * ab / (n * m)  # k(x, x) = 1 is taken out
    p_value = (1 + np.sum(values[1:] >= values[0])) / (1 + permutations) if permutations else None
    return TwoSample(float(values[0]), _mmd_stderr(to_a[:, 0], to_all, n, m), p_value and float(p_value))


def _kernel_sums(x: np.ndarray, weights: np.ndarray, bandwidth: float) -> tuple[np.ndarray, np.ndarray]:
    """K @ weights (N, P) and the row sums of K (N,), a block of rows of the kernel matrix K at a time."""
    step = max(1, CHUNK // len(x))
    weighted, total = np.empty(weights.shape), np.empty(len(x))
    for start in range(0, len(x), step):
        block = _square_distances(x[start : start + step], x)
        np.exp(block * (-0.5 / bandwidth**2), out=block)
        weighted[start : start + step] = block @ weights
        total[start : start + step] = block.sum(1)
    return weighted, total


def _mmd_stderr(to_a: np.ndarray, to_all: np.ndarray, n: int, m: int) -> float:
    """First-order standard error of the U-statistic: 4 Var(h_a)/n + 4 Var(h_b)/m, with h a row's own contribution."""
    to_b = to_all - to_a
    from_a = (to_a[:n] - 1) / (n - 1) - to_b[:n] / m
    from_b = (to_b[n:] - 1) / (m - 1) - to_a[n:] / n
    return math.sqrt(4 * np.var(from_a, ddof=1) / n + 4 * np.var(from_b, ddof=1) / m)


def sliced_wasserstein(
    a: np.ndarray, b: np.ndarray, *, projections: int = 128, groups: int = 10, random_state: int | None = 0
) -> TwoSample:
    """Root mean square of the 2-Wasserstein distance of `a` and `b` projected on random directions.

    In one dimension the optimal transport pairs quantiles, which is a sort. Finite samples of one distribution are at
    a positive distance, of order n^(-1/2): read it beside the number for real examples.

    Args:
        a: (n, d) features of one sample.
        b: (m, d) features of the other.
        projections: number of directions.
        groups: blocks of rows left out in turn for the standard error (delete-a-group jackknife).
        random_state: seed of the directions.

    References:
        Sliced and Radon Wasserstein Barycenters of Measures (Bonneel et al., 2015), doi:10.1007/s10851-014-0506-3
    """
    a, b = _checked(a, b, least=groups)
    rng = _rng(random_state)
    directions = rng.standard_normal((a.shape[1], projections))
    directions /= np.linalg.norm(directions, axis=0)
    a, b = a @ directions, b @ directions  # (n, P), (m, P)
    part_a, part_b = rng.permutation(len(a)) % groups, rng.permutation(len(b)) % groups
    order_a, order_b = np.argsort(a, axis=0), np.argsort(b, axis=0)
    value = _root_mean_square(np.take_along_axis(a, order_a, 0), np.take_along_axis(b, order_b, 0))
    left_out = [
        _root_mean_square(np.sort(a[part_a != g], axis=0), np.sort(b[part_b != g], axis=0)) for g in range(groups)
    ]
    return TwoSample(value, math.sqrt((groups - 1) * np.var(left_out)))


def _root_mean_square(a: np.ndarray, b: np.ndarray) -> float:
    """sqrt of the mean squared gap of the quantile functions of sorted columns a (n, P) and b (m, P)."""
    n, m = len(a), len(b)
    if n == m:
        return math.sqrt(np.mean((a - b) ** 2))
    ends = np.union1d(np.arange(1, n + 1) * m, np.arange(1, m + 1) * n)  # in units of 1/(nm): no rounding
    width = np.diff(ends, prepend=0) / (n * m)
    gaps = a[(ends - 1) // m] - b[(ends - 1) // n]
    return math.sqrt(np.mean(width @ gaps**2))


# ------------------------------------------------------------------------------------------------------- helpers


def _rng(random_state: int | None) -> np.random.Generator:
    # The salt keeps the folds from being the very permutation by which a user with the same seed shuffled the rows.
    return np.random.default_rng([seed_of(random_state), 0x2537])


def _square_distances(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    squares = (a**2).sum(1)[:, None] + (b**2).sum(1) - 2 * a @ b.T
    return np.maximum(squares, 0, out=squares)


def _checked(a: np.ndarray, b: np.ndarray, least: int) -> tuple[np.ndarray, np.ndarray]:
    a, b = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    if a.ndim != 2 or b.ndim != 2 or a.shape[1] != b.shape[1]:
        raise DataError(f"expected two arrays (n, d) and (m, d) of features, got shapes {a.shape} and {b.shape}")
    if min(len(a), len(b)) < least:
        raise DataError(f"expected at least {least} rows on each side, got {len(a)} and {len(b)}")
    for x, name in ((a, "first"), (b, "second")):
        if not np.isfinite(x).all():
            raise DataError(f"the {name} sample holds NaN or infinity in {(~np.isfinite(x)).any(1).sum()} rows")
    return a, b
