r"""Distances to neighbours: half how far away an example is, half how much farther than is usual around there.

    s(x) = r(x) - (1/2) mean_{j in N(x)} r(x_j),        r(x) = (1/k) sum_{i <= k} log |x - x_(i)|

N(x) are the k rows nearest to x, x_(i) the i-th of them, and a row is no neighbour of itself. The first term alone
ranks like the distance to the k-th neighbour, which misses what is odd in a dense region; with the whole of the second
it is a local outlier factor, which is noise where the data are even. Half is the average of the two.

Distances are those of `evaluate.features`: columns standardised, levels as indicators. It is no density, and needs
none.

References: Ramaswamy, Rastogi and Shim, Efficient algorithms for mining outliers from large data sets, 2000. Breunig,
Kriegel, Ng and Sander, LOF: identifying density-based local outliers, 2000. Both in Han et al., ADBench, 2022,
https://arxiv.org/abs/2206.09426, from which k and the half were chosen.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from sklearn.base import BaseEstimator
from sklearn.neighbors import NearestNeighbors
from sklearn.utils.validation import check_is_fitted, validate_data

from plausible.data.seen import Seen
from plausible.errors import DataError
from plausible.evaluate.two_sample import features
from plausible.space import Column, Space, Table, infer
from plausible.space.matrix import as_matrix

FLOOR = 1e-3  # of the median distance: nearer than that is a copy
FEW = 15  # dimensions up to which a tree is faster


class Neighbours(BaseEstimator):
    """Training rows, and how far others are from them; no generative model.

    Args:
        n_neighbors: k; with fewer than k + 1 rows, all the others.
        space: overrides the guess of what an example is, as for a model.

    Attributes:
        space_: what an example is.
        seen_: a sketch of the rows.
    """

    label = "log distance to the nearest training rows, in part relative to theirs; no density"

    def __init__(self, n_neighbors: int = 10, *, space: Any = None):
        self.n_neighbors = n_neighbors
        self.space = space

    def fit(self, X: Any, y: Any = None) -> Neighbours:
        """Keep the rows of X.

        Raises:
            DataError: there are fewer than two, or they are no examples.
        """
        if self.n_neighbors < 1:
            raise DataError(f"n_neighbors must be at least 1, got {self.n_neighbors!r}")
        space = space_of(X, self.space)
        if isinstance(space, Table):
            validate_data(self, X, skip_check_array=True)
        self.space_ = space
        return self.keep(self._encode(X))

    def keep(self, x: torch.Tensor) -> Neighbours:
        """Fit to codes (n, \\*shape) of `space_`."""
        if len(x) < 2:
            raise DataError(f"found n_samples={len(x)} while a minimum of 2 is required")
        self.seen_ = Seen.of(x)
        self.codes_ = x
        rows = features(self.space_, x)
        self.index_ = NearestNeighbors(algorithm="kd_tree" if rows.shape[1] <= FEW else "brute").fit(rows)
        self.k_ = min(self.n_neighbors, len(rows) - 1)
        distance, which = self.index_.kneighbors(rows, self.k_ + 1)
        itself = which == np.arange(len(rows))[:, None]
        itself[:, -1] |= ~itself.any(1)  # among copies of itself a row may not be the nearest that was found
        distance = distance[~itself].reshape(len(rows), self.k_)
        typical = np.median(distance)
        self.floor_ = FLOOR * float(typical if typical > 0 else distance.max() or 1.0)
        self.log_reach_ = self._mean_log(distance)
        return self

    def distance(self, X: Any) -> np.ndarray:
        """Return s(x) of each example, with shape (n,)."""
        check_is_fitted(self, "index_")
        return self.distance_of(self._encode(X))

    def distance_of(self, x: torch.Tensor) -> np.ndarray:
        """Return s(x) of codes (n, \\*shape)."""
        if not len(x):
            return np.empty(0)
        rows = features(self.space_, x, real=self.codes_)
        distance, which = self.index_.kneighbors(rows, self.k_)
        return self._mean_log(distance) - 0.5 * self.log_reach_[which].mean(1)

    def _mean_log(self, distance: np.ndarray) -> np.ndarray:
        return np.log(distance + self.floor_).mean(1)

    def _encode(self, X: Any) -> torch.Tensor:
        if isinstance(self.space_, Table) and hasattr(self, "n_features_in_"):
            if getattr(X, "ndim", 2) != 2:
                as_matrix(X)  # which says what is wrong
            validate_data(self, X, skip_check_array=True, reset=False)
        return self.space_.encode(X)

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = tags.input_tags.categorical = tags.input_tags.string = True
        return tags


def space_of(X: Any, given: Any = None) -> Space:
    """Return what an example is. All columns of an array of numbers are real: it may have constant ones, too."""
    if given is None and isinstance(X, np.ndarray) and X.ndim == 2 and X.dtype.kind in "biuf" and X.size:
        columns = tuple(Column(f"x{d}", "real") for d in range(X.shape[1]))
        return Table(columns, (len(columns),), array_dtype="float64")
    return infer(X, given)


def space_for(estimator: Any, X: Any) -> Space:
    """Return what an unfitted estimator would take an example of X for."""
    return space_of(X, estimator.space) if isinstance(estimator, Neighbours) else infer(X, estimator.space)


def among(space: Space, drawn: torch.Tensor) -> Neighbours:
    """Return the `Neighbours` whose rows are codes that a model drew."""
    found = Neighbours()
    found.space_ = space
    return found.keep(drawn)
