r"""Data that hold their own anomalies: compare rows with each other, and fit without the oddest.

Every row is scored by a model that was fitted without it (cross-fitting), so that none vouches for itself. Where all
rows are alike the scores are exchangeable, and

    p_i = #{j: s_j >= s_i} / n                                                                     P(p_i <= a) <= a.

That is a rank: it says which rows are the oddest of these, not whether there are any that do not belong.

`clean_fit` takes the share of the rows that are oddest as outliers, fits without them, scores all rows again, and so on
until the set stays: the trimmed likelihood estimate by concentration steps. Down-weighted, a row that is less likely
than the likeliest outlier counts min(1, p(x) / p(x_outlier)).

References: Rousseeuw and Van Driessen, A fast algorithm for the minimum covariance determinant estimator, 1999. Neykov
and Muller, Breakdown point and computation of trimmed likelihood estimators, 2003.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from sklearn.base import clone

from plausible.data import take
from plausible.errors import CapabilityError, DataError
from plausible.randomness import seed_of
from plausible.uses.anomaly.blame import Blame
from plausible.uses.anomaly.detector import Detector, assembled
from plausible.uses.anomaly.neighbours import Neighbours, space_for
from plausible.uses.anomaly.scores import ScoreName


@dataclass(frozen=True, eq=False)
class Unusual:
    """Rows compared with each other, each by a model that was fitted without it.

    Args:
        scores: of the n rows, higher is odder; (n,).
        p_values: ranks, #{j: s_j >= s_i} / n; (n,).
        label: what the score is.
        X: the rows.
        folds: which rows each detector has scored, and it.
    """

    scores: np.ndarray
    p_values: np.ndarray
    label: str
    X: Any
    folds: tuple[tuple[np.ndarray, Detector], ...]

    def oddest(self, k: int = 10) -> np.ndarray:
        """Return the indices of the k oddest rows, oddest first."""
        return np.argsort(-self.scores, kind="stable")[:k]

    def explain(self, rows: Any, how: str = "auto") -> Blame:
        """Return the blame of the cells of those rows (indices), by the models that have not seen them."""
        rows = np.asarray(rows, dtype=int)
        values = names = None
        for members, found in self.folds:
            mine = np.flatnonzero(np.isin(rows, members))
            if len(mine):
                part = found.explain(take(self.X, rows[mine]), how)
                if values is None:
                    values, names = np.full((len(rows), *part.values.shape[1:]), np.nan), part.names
                values[mine], how = part.values, part.how
        if values is None:
            raise DataError("there are no such rows")
        return Blame(values, how, names)


def unusual(
    model: Any, X: Any, *, score: ScoreName = "auto", folds: int = 5, context: Any = None, random_state: Any = 0
) -> Unusual:
    """Compare rows with each other: which are the oddest of these?

    Args:
        model: an estimator (fitted or not; copies of it are fitted), or None for `Neighbours`.
        X: n examples.
        score: as for `anomaly.detector`.
        folds: parts of which each is scored by a model fitted on the others.
        context: as for `fit`.
        random_state: seed of the parts.

    Raises:
        DataError: there are fewer rows than two for each fold.
    """
    crossed = _Crossed(model, X, score, folds, context, random_state)
    scores = crossed.scores(np.ones(crossed.n))
    p = (crossed.n - np.searchsorted(np.sort(scores), scores, "left")) / crossed.n
    return Unusual(scores, p, crossed.detectors[0].label, X, tuple(zip(crossed.parts, crossed.detectors, strict=True)))


@dataclass(frozen=True, eq=False)
class Cleaned:
    """What `clean_fit` found, and what it changed.

    Args:
        model: fitted without the outliers, or with them down-weighted.
        before: fitted on all rows.
        outliers: their indices, oddest first.
        scores: of all rows, by models that have seen neither them nor the outliers; (n,).
        weight: with which each row counts in `model`; (n,).
        history: a row for each pass: outliers that changed, and the mean score of the rows that are kept.
        converged: whether the last pass changed no outlier.
        gain: mean gain of log p(x) on the rows that are kept, each held out of its fit, by leaving the outliers out;
            nats, or in the units of the score where there is no density.
        gain_stderr: its standard error.
    """

    model: Any
    before: Any
    outliers: np.ndarray
    scores: np.ndarray
    weight: np.ndarray
    history: Any
    converged: bool
    gain: float
    gain_stderr: float

    def __str__(self) -> str:
        n, k = len(self.scores), len(self.outliers)
        ended = "the set stays" if self.converged else "the set still changed; allow more passes"
        parameters = (
            ""
            if self.before is None or not hasattr(self.before, "n_parameters_")
            else (f"; parameters {self.before.n_parameters_:,} -> {self.model.n_parameters_:,}")
        )
        return (
            f"{k} outliers among {n:,} rows after {len(self.history)} passes ({ended}); the other rows, held out, gain "
            f"{self.gain:+.4g} ± {self.gain_stderr:.2g} each by a fit without them{parameters}"
        )


def clean_fit(
    model: Any,
    X: Any,
    share: float = 0.01,
    *,
    how: Literal["drop", "weight"] = "drop",
    score: ScoreName = "auto",
    folds: int = 5,
    max_iter: int = 10,
    context: Any = None,
    random_state: Any = 0,
) -> Cleaned:
    """Find the outliers of X and fit without them.

    Args:
        model: an estimator; copies of it are fitted.
        X: n examples.
        share: of the rows, taken as outliers: at least as many as may be wrong. It finds the oddest whether or not
            anything is wrong with them; `gain` says whether the others are better off.
        how: 'drop' the outliers, or 'weight' them down by their density.
        score: as for `anomaly.detector`.
        folds: parts of which each is scored by a model fitted on the others.
        max_iter: passes, at most.
        context: as for `fit`.
        random_state: seed of the parts.

    Raises:
        DataError: the share is not between 0 and a half, or leaves nothing to take.
        CapabilityError: 'weight' without a density.
    """
    if not 0 < share < 0.5:
        raise DataError(f"share, of the rows that are taken as outliers, must lie between 0 and 0.5; got {share!r}")
    if how not in ("drop", "weight"):
        raise DataError(f"how must be 'drop' or 'weight', got {how!r}")
    if how == "weight" and not (
        score in ("auto", "density") and getattr(model, "traits", None) and model.traits.density
    ):
        raise CapabilityError("how='weight' weighs rows by their density, so it needs a model and a score of that kind")
    crossed = _Crossed(model, X, score, folds, context, random_state)
    k = round(share * crossed.n)
    if k == 0:
        raise DataError(f"share={share:g} of {crossed.n} rows is less than one row; give a larger share")
    weight = np.ones(crossed.n)
    first = scores = crossed.scores(weight)
    seen: list[frozenset[int]] = []
    passes = []
    for _ in range(max_iter):
        outliers = np.argsort(-scores, kind="stable")[:k]
        changed = len(set(outliers) - seen[-1]) if seen else k
        kept = np.setdiff1d(np.arange(crossed.n), outliers)
        passes.append({"changed": changed, "score of the others": float(scores[kept].mean())})
        if not changed:
            break
        cycle = frozenset(outliers) in seen
        seen.append(frozenset(outliers))
        weight = np.ones(crossed.n)
        weight[outliers] = 0.0 if how == "drop" else _down(scores[outliers])
        scores = crossed.scores(weight)
        if cycle:
            break
    import pandas as pd

    gains = first[kept] - scores[kept]
    gains = gains[np.isfinite(gains)]
    return Cleaned(
        model=crossed.fit(np.arange(crossed.n), weight),
        before=crossed.fit(np.arange(crossed.n), np.ones(crossed.n)),
        outliers=outliers,
        scores=scores,
        weight=weight,
        history=pd.DataFrame(passes),
        converged=passes[-1]["changed"] == 0,
        gain=float(gains.mean()),
        gain_stderr=float(gains.std(ddof=1) / np.sqrt(len(gains))),
    )


def _down(scores: np.ndarray) -> np.ndarray:
    """p(x) / p(x of the likeliest) of outliers with these scores; of impossible ones nothing."""
    weight, possible = np.zeros(len(scores)), np.isfinite(scores)
    weight[possible] = np.exp(scores[possible].min(initial=np.inf) - scores[possible])
    return weight


class _Crossed:
    """Folds of X, and fits that leave one of them out."""

    def __init__(self, model: Any, X: Any, score: ScoreName, folds: int, context: Any, random_state: Any):
        if isinstance(X, str):
            raise DataError("one long text has no rows to compare; give a list of strings")
        if score == "ratio":
            raise DataError("score='ratio' needs a background model that has not seen the rows; use anomaly.detector")
        self.model = Neighbours() if model is None else model
        self.space = space_for(self.model, X)
        self.X, self.score, self.context, self.n = X, score, context, len(X)
        if folds < 2 or self.n < 2 * folds:
            raise DataError(f"{folds} folds need at least 2 of them and {2 * max(folds, 2)} rows, got {self.n} rows")
        rng = np.random.default_rng(seed_of(random_state))
        order, self.seed = rng.permutation(self.n), int(rng.integers(2**31))
        self.parts = [np.sort(part) for part in np.array_split(order, folds)]
        self.detectors: list[Detector] = []

    def fit(self, rows: np.ndarray, weight: np.ndarray) -> Any:
        """Fit to those of the rows that have weight."""
        rows = rows[weight[rows] > 0]
        how = {} if self.context is None else {"context": take(self.context, rows)}
        if (weight[rows] != 1).any():
            how["sample_weight"] = weight[rows]
        fresh = clone(self.model).set_params(space=self.space)
        if "random_state" in fresh.get_params() and fresh.random_state is None:
            fresh.set_params(random_state=self.seed)  # the same in every pass, so that the passes can come to rest
        return fresh.fit(take(self.X, rows), **how)

    def scores(self, weight: np.ndarray) -> np.ndarray:
        """Score each row by a fit that has not seen its part: (n,)."""
        found = np.empty(self.n)
        self.detectors = []
        for part in self.parts:
            fitted = self.fit(np.setdiff1d(np.arange(self.n), part), weight)
            context = None if self.context is None else take(self.context, part)
            judge = assembled(fitted, take(self.X, part), self.score, context=context)
            self.detectors.append(judge)
            found[part] = judge.calibration_scores
        return found
