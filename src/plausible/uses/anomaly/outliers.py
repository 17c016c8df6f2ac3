"""`detector` as scikit-learn's outlier detectors are used."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
from sklearn.base import BaseEstimator, OutlierMixin, clone
from sklearn.utils.validation import check_is_fitted

from plausible.data import take
from plausible.errors import DataError, PlausibleWarning
from plausible.randomness import generator, seed_of
from plausible.uses.anomaly import conformal
from plausible.uses.anomaly.blame import Blame
from plausible.uses.anomaly.detector import assembled
from plausible.uses.anomaly.neighbours import Neighbours, space_for
from plausible.uses.anomaly.scores import ScoreName


class AnomalyDetector(OutlierMixin, BaseEstimator):
    """Flags what does not look like the rows it was fitted on, and of rows that do at most a share alpha.

    `fit` sets rows aside for that promise, which holds for clean rows that are new: rows of the fit, which the model
    has seen, look a little less odd to it. Where the rows of the fit hold anomalies themselves, fewer are flagged.

    Args:
        estimator: an unfitted model of any family, or `Neighbours`; None for `Neighbours`, the distance to the nearest
            rows in standardised columns, which takes any data and needs no tuning.
        measure: what is odd: the `score` of `anomaly.detector`.
        alpha: the share of clean rows that may be flagged.
        calibration_share: of the rows, set aside for the promise; more if alpha needs more, up to half.
        random_state: seed of the split, and of draws where the score needs them.

    Attributes:
        detector_: the fitted `Detector`; its ``model`` is the fitted model.
        calibration_rows_: which rows of the fit were set aside.
        alpha_: the rate that is kept: alpha, or the smallest possible one if there were too few rows.
        offset_: ``decision_function`` is ``score_samples`` less this.

    Examples:
        >>> import numpy as np, plausible as pl
        >>> X = np.random.default_rng(0).normal(size=(1000, 2))
        >>> found = pl.AnomalyDetector(alpha=0.01, random_state=0).fit(X)
        >>> found.predict([[0.0, 0.5], [4.0, -4.0]])
        array([ 1, -1])
        >>> bool(found.p_value([[4.0, -4.0]])[0] < 0.01)
        True
    """

    def __init__(
        self,
        estimator: Any = None,
        *,
        measure: ScoreName = "auto",
        alpha: float = 0.05,
        calibration_share: float = 0.25,
        random_state: Any = None,
    ):
        self.estimator = estimator
        self.measure = measure
        self.alpha = alpha
        self.calibration_share = calibration_share
        self.random_state = random_state

    def fit(self, X: Any, y: Any = None) -> AnomalyDetector:
        """Fit the model to some rows of X, and set the threshold by the others.

        Args:
            X: n examples, as the model takes them.
            y: ignored, as scikit-learn asks.

        Raises:
            DataError: there are fewer than three rows, or a setting is out of range.
        """
        conformal.check_alpha(self.alpha)
        if not 0 < self.calibration_share < 1:
            raise DataError(f"calibration_share must lie between 0 and 1, got {self.calibration_share!r}")
        base = Neighbours() if self.estimator is None else self.estimator
        if isinstance(X, str):
            raise DataError("one long text cannot be split into rows; give a list of strings")
        space = space_for(base, X)  # of all rows, so that both parts agree on columns and levels
        n = len(space.encode(X))
        if n < 3:
            raise DataError(f"found n_samples={n} while a minimum of 3 is required")
        rng = generator(self.random_state)
        order = np.random.default_rng(seed_of(rng)).permutation(n)
        k = _set_aside(n, self.calibration_share, self.alpha)
        self.calibration_rows_ = np.sort(order[:k])
        fitted = clone(base).set_params(space=space)
        if "random_state" in fitted.get_params() and fitted.random_state is None:
            fitted.set_params(random_state=seed_of(rng) >> 31)
        fitted.fit(take(X, np.sort(order[k:])))
        calibration = take(X, self.calibration_rows_)
        self.detector_ = assembled(fitted, calibration, self.measure, seed=seed_of(rng))
        self.alpha_ = self._reachable(k)
        self.offset_ = -self.detector_.threshold(self.alpha_)
        for name in ("n_features_in_", "feature_names_in_"):
            if hasattr(fitted, name):
                setattr(self, name, getattr(fitted, name))
        return self

    def _reachable(self, k: int) -> float:
        if k >= conformal.fewest(self.alpha):
            return float(self.alpha)
        warnings.warn(
            f"alpha={self.alpha:g} needs {conformal.fewest(self.alpha)} rows set aside, there are {k}: rows are "
            f"flagged at {1 / (k + 1):.2g}, the smallest rate that they can vouch for",
            PlausibleWarning,
            stacklevel=3,
        )
        return 1 / (k + 1)

    def score_samples(self, X: Any) -> np.ndarray:
        """Return how ordinary each row is, lower being odder: the score of the detector with its sign turned, (n,)."""
        check_is_fitted(self, "detector_")
        return -self.detector_.score(X)

    def decision_function(self, X: Any) -> np.ndarray:
        """Return ``score_samples(X) - offset_``, negative for what is flagged: (n,)."""
        ordinary = self.score_samples(X)
        # Two infinities are equal: as odd as a calibration row is not odder.
        with np.errstate(invalid="ignore"):
            return np.where(ordinary == self.offset_, 0.0, ordinary - self.offset_)

    def predict(self, X: Any) -> np.ndarray:
        """Return -1 for rows that are flagged and 1 for the others: (n,)."""
        return np.where(self.decision_function(X) < 0, -1, 1)

    def p_value(self, X: Any, *, smooth: bool = False, random_state: Any = None) -> np.ndarray:
        """Return the conformal p-value of each row: (n,); see `Detector.p_value`."""
        check_is_fitted(self, "detector_")
        return self.detector_.p_value(X, smooth=smooth, random_state=random_state)

    def explain(self, X: Any, how: str = "auto") -> Blame:
        """Return how much each cell of each row adds to its oddness; see `anomaly.blame`."""
        check_is_fitted(self, "detector_")
        return self.detector_.explain(X, how)

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        inner = (Neighbours() if self.estimator is None else self.estimator).__sklearn_tags__().input_tags
        tags.input_tags.allow_nan, tags.input_tags.categorical = inner.allow_nan, inner.categorical
        tags.input_tags.string = inner.string
        return tags


def _set_aside(n: int, share: float, alpha: float) -> int:
    """How many of n rows to calibrate with; at least two are left to fit."""
    k = max(round(share * n), min(conformal.fewest(alpha), n // 2), 1)
    return min(k, n - 2)
