r"""What an anomaly is measured by. Higher is odder.

    density         -log p(x)
    typicality      | -log p(x) - H |,   H = E[-log p(x)] over the model's own draws
    ratio           log p_background(x) - log p(x)
    complexity      -log p(x) - L(x),    L(x) nats that a lossless codec needs for x
    reconstruction  -log p(x | code of x), of a model with a latent code          } stand-ins where there is no density,
    neighbours      log distance to the nearest of the model's draws              } and called so

A high density is not all that makes an example ordinary: in many dimensions nearly all draws have about the same
density (typicality), and much of it is told by what x shares with any other data (ratio) or by how simple x is
(complexity).

References: Nalisnick et al., Detecting out-of-distribution inputs to deep generative models using typicality, 2019,
https://arxiv.org/abs/1906.02994. Ren et al., Likelihood ratios for out-of-distribution detection, 2019,
https://arxiv.org/abs/1906.02845. Serra et al., Input complexity and out-of-distribution detection with likelihood-based
generative models, 2020, https://arxiv.org/abs/1909.11480.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from plausible import registry
from plausible.errors import CapabilityError, DataError
from plausible.uses._parts import latent_codes
from plausible.uses.anomaly.codecs import nats
from plausible.uses.anomaly.neighbours import Neighbours, among

NAMES = ("density", "typicality", "ratio", "complexity", "reconstruction", "neighbours")
ScoreName = str | Callable[[Any], Any]


class Score:
    """A score with the words for it: a function of X and its context.

    Attributes:
        label: what it is, and whether it is a stand-in for a density.
        is_density: whether it is -log p(x) and nothing else.
    """

    label: str
    is_density = False

    def of(self, X: Any, context: Any) -> np.ndarray:
        raise NotImplementedError

    def __call__(self, X: Any, context: Any = None) -> np.ndarray:
        found = np.asarray(self.of(X, context), dtype=np.float64)
        if found.ndim != 1 or np.isnan(found).any():
            what = f"shape {found.shape}" if found.ndim != 1 else f"NaN for example {int(np.isnan(found).argmax())}"
            raise DataError(f"a score must be one number for each example, got {what} from {self.label}")
        return _rounded(found)


def score_of(model: Any, score: ScoreName, background: Any, draws: int, seed: int) -> Score:
    """Return the score of that name, or a function of X as one."""
    if isinstance(model, Neighbours):
        return _Rows(model)
    if callable(score):
        return _Own(score)
    if score not in ("auto", *NAMES):
        raise DataError(f"score must be a function of X or one of {', '.join(NAMES)}; got {score!r}")
    if (background is None) == (score == "ratio"):
        raise DataError("score='ratio' and a background model go together: give both, or neither")
    if score == "auto":
        score = "density" if model.traits.density else "neighbours"
    if score == "ratio":
        return _Ratio(model, background)
    if score in ("typicality", "neighbours"):
        return (_Typicality if score == "typicality" else _Draws)(model, draws, seed)
    return {"density": _Density, "complexity": _Complexity, "reconstruction": _Reconstruction}[score](model)


class _Density(Score):
    is_density = True

    def __init__(self, model: Any):
        _need_density(model)
        self.model, self.label = model, f"-log p(x) in nats ({_kind(model)})"

    def of(self, X, context):
        return -self.model.log_prob(X, context=context)


class _Typicality(Score):
    def __init__(self, model: Any, draws: int, seed: int):
        _need_density(model)
        if model.context_space_ is not None:
            raise CapabilityError(
                f"this {type(model).__name__} is of p(x | c): every c has an entropy of its own, so there is no one "
                "typical value; use score='density'"
            )
        surprise = -model.log_prob(model.sample(draws, random_state=seed))
        surprise = surprise[np.isfinite(surprise)]  # a draw may lie a rounding error outside
        if not len(surprise):
            raise DataError(f"this {type(model).__name__} calls all of its own draws impossible; no density is typical")
        self.model, self.entropy = model, float(surprise.mean())
        error = surprise.std() / math.sqrt(len(surprise))
        self.label = (
            f"|-log p(x) - {self.entropy:.4g}| in nats, the entropy ± {error:.2g} by {draws} draws ({_kind(model)})"
        )

    def of(self, X, context):
        return np.abs(-self.model.log_prob(X) - self.entropy)


class _Ratio(Score):
    def __init__(self, model: Any, background: Any):
        _need_density(model)
        _need_density(background)
        self.model, self.background = model, background
        self.label = f"log p_background(x) - log p(x) in nats ({_kind(model)} against {_kind(background)})"

    def of(self, X, context):
        own = context if self.background.context_space_ is not None else None
        theirs, ours = self.background.log_prob(X, context=own), self.model.log_prob(X, context=context)
        impossible = np.isneginf(ours)  # to both, perhaps: the model decides
        return np.where(impossible, np.inf, theirs - np.where(impossible, 0.0, ours))


class _Complexity(Score):
    def __init__(self, model: Any):
        _need_density(model)
        self.model, self.label = model, f"-log p(x) less the length by a lossless codec, in nats ({_kind(model)})"

    def of(self, X, context):
        return -self.model.log_prob(X, context=context) - nats(self.model.space_, X)


class _Reconstruction(Score):
    def __init__(self, model: Any):
        if not (hasattr(model.module_, "encode") and hasattr(model.module_, "reconstruction")):
            others = registry.capable(lambda f: f.traits.latent)
            raise CapabilityError(
                f"{type(model).__name__} does not go from an example to a code and back; of the families with a latent "
                f"code ({', '.join(others)}), those with an encoder do. score='neighbours' takes any model"
            )
        self.model = model
        self.label = f"-log p(x | code of x) in nats, a stand-in for a density ({type(model).__name__})"

    def of(self, X, context):
        module, z, c, log_c, code = latent_codes(self.model, X, context)
        with torch.no_grad():
            return -(module.reconstruction(z, code, c).double() + log_c).cpu().numpy()


class _Draws(Score):
    def __init__(self, model: Any, draws: int, seed: int):
        if model.context_space_ is not None:
            raise CapabilityError(
                f"this {type(model).__name__} is of p(x | c), so its draws are no yardstick for every c; fit it "
                "without context"
            )
        self.model = model
        self.rows = among(model.space_, model._sample_codes(draws, random_state=seed).cpu())
        self.label = f"log distance to the nearest of {draws} draws, a stand-in for a density ({type(model).__name__})"

    def of(self, X, context):
        return self.rows.distance_of(self.model._encode(X))


class _Rows(Score):
    def __init__(self, rows: Neighbours):
        self.rows, self.label = rows, rows.label

    def of(self, X, context):
        return self.rows.distance(X)


class _Own(Score):
    def __init__(self, function: Callable[[Any], Any]):
        self.function, self.label = function, getattr(function, "__name__", "the caller's score")

    def of(self, X, context):
        return self.function(X)


def _need_density(model: Any) -> None:
    if not model.traits.density:
        others = registry.capable(lambda f: f.traits.density and f.can_model(model.space_) is None)
        raise CapabilityError(
            f"{type(model).__name__} has no density; score it by score='neighbours', the distance to its nearest "
            f"draws, or fit a family that has one: {', '.join(others)}"
        )


def _kind(model: Any) -> str:
    return f"{type(model).__name__}, {model.likelihood_kind_.replace('_', ' ')}"


def _rounded(values: np.ndarray) -> np.ndarray:
    """Ten significant digits: the last ones depend on the batch, and copies of a row must tie."""
    mantissa, exponent = np.frexp(values)
    return np.ldexp(np.round(mantissa * 2.0**32) * 2.0**-32, exponent)
