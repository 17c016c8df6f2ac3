"""A detector: a model, a score, and rows that are known to be clean."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any, Literal

import numpy as np
import torch
from sklearn.utils.validation import check_is_fitted

from plausible.errors import DataError, PlausibleWarning
from plausible.randomness import generator, seed_of
from plausible.space.unheard import tamed
from plausible.uses.anomaly import conformal
from plausible.uses.anomaly.blame import Blame, How, blame
from plausible.uses.anomaly.neighbours import Neighbours
from plausible.uses.anomaly.scores import Score, ScoreName, score_of

DRAWS = 2000  # of the model, where a score needs them


def detector(
    model: Any,
    calibration: Any,
    score: ScoreName = "auto",
    *,
    context: Any = None,
    background: Any = None,
    weight: Callable[[Any], Any] | None = None,
    draws: int = DRAWS,
    random_state: Any = 0,
) -> Detector:
    """Make a detector of anomalies that keeps its rate of false alarms.

    Args:
        model: a fitted model, or fitted `Neighbours`.
        calibration: n clean examples that the model has not been fitted on. They make the promise; flagging one row
            in a hundred takes at least 99 of them.
        score: 'density', 'typicality', 'ratio', 'complexity', 'reconstruction' or 'neighbours' (see
            `anomaly.scores`), or a function of X that is higher for what is odder; 'auto' takes the density where
            there is one and else neighbours.
        context: of the calibration examples, for a model of p(x | c).
        background: a fitted model with a density, for 'ratio'.
        weight: where the clean rows to come follow another distribution than the calibration rows: a function of X
            that returns the ratio of their densities, up to a factor, with shape (n,).
        draws: of the model, for 'typicality' and 'neighbours'.
        random_state: seed of these draws.

    Raises:
        DataError: calibration rows are among the rows that the model, or the background, was fitted on.
        CapabilityError: the model cannot be scored that way; the message says what can.
    """
    check_is_fitted(model, "index_" if isinstance(model, Neighbours) else "module_")
    codes = _codes(model, calibration)
    for fitted, role in ((model, "the model"), (background, "the background")):
        _refuse_seen(fitted, codes, role)
    seed = seed_of(random_state)
    settings = {"context": context, "background": background, "weight": weight, "draws": draws, "seed": seed}
    return assembled(model, calibration, score, codes=codes, **settings)


def assembled(
    model: Any,
    calibration: Any,
    score: ScoreName = "auto",
    *,
    codes: torch.Tensor | None = None,
    context: Any = None,
    background: Any = None,
    weight: Callable[[Any], Any] | None = None,
    draws: int = DRAWS,
    seed: int = 0,
) -> Detector:
    """Return a `detector` without looking for rows of the fit: the caller has split them off itself.

    `codes` are those of the calibration rows, where they are at hand.
    """
    codes = _codes(model, calibration) if codes is None else codes
    scorer = score_of(model, score, background, draws, seed)
    scores = _scored(model, scorer, calibration, context)
    weights = None if weight is None else _weights(weight, calibration, len(scores))
    if weights is not None and not weights.any():
        raise DataError("weight is zero for all calibration rows: none of them could be one of the clean rows to come")
    return Detector(model, scorer, codes, scores, context, weight, weights)


class Detector:
    """Made by `detector`.

    Attributes:
        model: what scores.
        n: how many calibration rows there are.
        calibration_scores: theirs, (n,).
        label: what the score is.
    """

    def __init__(self, model, scorer: Score, codes, scores: np.ndarray, context, weight, weights):
        self.model, self.scorer, self.codes, self.calibration_scores = model, scorer, codes, scores
        self.context, self.weight, self.weights = context, weight, weights

    @property
    def n(self) -> int:
        return len(self.calibration_scores)

    @property
    def label(self) -> str:
        return self.scorer.label

    def score(self, X: Any, *, context: Any = None) -> np.ndarray:
        """Return how odd each example is, higher being odder: (n,).

        A row of a table with a value that no row of the fit could have had, such as a new level, is infinitely odd.
        """
        return _scored(self.model, self.scorer, X, context)

    def p_value(self, X: Any, *, context: Any = None, smooth: bool = False, random_state: Any = None) -> np.ndarray:
        """Return the conformal p-value of each example: (n,).

        Of clean examples, at most a share alpha have a p-value of alpha or less, whatever the model.

        Args:
            X: examples, as for the model.
            context: of them, for a model of p(x | c).
            smooth: break ties at random, which makes the share alpha exactly.
            random_state: seed of that.
        """
        scores = self.score(X, context=context)
        own = None if self.weight is None else _weights(self.weight, X, len(scores))
        u = torch.rand(len(scores), generator=generator(random_state), dtype=torch.float64).numpy() if smooth else None
        return conformal.p_values(scores, self.calibration_scores, weights=self.weights, own=own, uniform=u)

    def is_anomaly(self, X: Any, alpha: float = 0.01, *, context: Any = None) -> np.ndarray:
        """Return whether each example is flagged: (n,) bool.

        Args:
            X: examples, as for the model.
            alpha: the share of clean examples that may be flagged.
            context: of them, for a model of p(x | c).

        Raises:
            DataError: there are too few calibration rows to flag anything at that rate.
        """
        self._check_enough(alpha)
        p = self.p_value(X, context=context)
        if self.weights is not None:
            smallest = self._smallest(X)
            if (smallest > alpha).any():
                warnings.warn(
                    f"{(smallest > alpha).sum()} of {len(p)} examples cannot be flagged at alpha={alpha:g}: their "
                    "weight is large against that of the calibration rows, which hold too few like them",
                    PlausibleWarning,
                    stacklevel=2,
                )
        return p <= alpha

    def threshold(self, alpha: float = 0.01) -> float:
        """Return the score above which an example is flagged, where all calibration rows count the same.

        Raises:
            DataError: there are too few calibration rows, or they have weights.
        """
        if self.weights is not None:
            raise DataError("with weights every example has a threshold of its own; use p_value or is_anomaly")
        self._check_enough(alpha)
        return conformal.threshold(self.calibration_scores, alpha)

    def explain(self, X: Any, how: How | Literal["auto"] = "auto", *, context: Any = None) -> Blame:
        """Return how much each cell of each example adds to its oddness; see `anomaly.blame`."""
        return blame(self, X, how, context)

    def _smallest(self, X: Any) -> np.ndarray:
        """The p-value that each example would have if it were the oddest."""
        own = _weights(self.weight, X, None)
        return own / (own + self.weights.sum())

    def _check_enough(self, alpha: float) -> None:
        conformal.check_alpha(alpha)
        need = conformal.fewest(alpha)
        if self.weights is None and self.n < need:
            raise DataError(
                f"alpha={alpha:g} needs at least {need} calibration rows, got {self.n}: no p-value can be below "
                f"1/{self.n + 1}. Give more, or a larger alpha"
            )

    def __repr__(self) -> str:
        weighted = ", weighted" if self.weights is not None else ""
        return f"Detector({self.label}; {self.n} calibration rows{weighted}: p-values from {1 / (self.n + 1):.2g})"


def _codes(model: Any, calibration: Any) -> torch.Tensor:
    if len(calibration) == 0:
        raise DataError("there are no calibration rows; p-values are made of them")
    return model._encode(tamed(model.space_, calibration)[0])


def _scored(model: Any, scorer: Score, X: Any, context: Any) -> np.ndarray:
    X, unheard = tamed(model.space_, X)
    scores = scorer(X, context)
    return scores if unheard is None else np.where(unheard.rows, np.inf, scores)


def _refuse_seen(model: Any, codes: Any, role: str) -> None:
    seen = getattr(model, "seen_", None)
    found = None if seen is None else seen.recognises(codes)
    if found:
        raise DataError(
            f"{found[0]} of the {found[1]} calibration rows that could be looked up are among the rows that {role} was "
            "fitted on. A model finds those less odd than new ones, so the rate of false alarms would not hold: hold "
            "rows out before fitting (plausible.data.split)"
        )


def _weights(weight: Callable[[Any], Any], X: Any, n: int | None) -> np.ndarray:
    found = np.asarray(weight(X), dtype=np.float64)
    if found.ndim != 1 or (n is not None and len(found) != n):
        raise DataError(f"weight must return one number for each of {n} examples, got shape {found.shape}")
    if not (np.isfinite(found) & (found >= 0)).all():
        raise DataError("weight must return finite numbers that are not negative")
    return found
