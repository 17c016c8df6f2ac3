r"""The typed likelihood: a number that says what it is.

For examples x_1 .. x_n and values l_i = log p(x_i), or a bound on it, in nats and in the units of the data,

    mean = (1/n) sum_i l_i        stderr = sd(l) / sqrt(n)        bits per dimension = - sum_i l_i / (ln 2 sum_i d_i),

where d_i counts the *observed* dimensions of x_i (missing cells and the padding of short strings do not count). This
is the one place in the package where nats become bits per dimension. Of text there are bits per byte of UTF-8 too, in
which models of different alphabets or vocabularies compare; the end of a string counts as one byte.

What may be concluded from two of them is `verdict`'s business: a lower bound above an exact value proves more than a
lower bound below it, which proves nothing.
"""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from plausible.errors import CapabilityError, DataError, PlausibleWarning
from plausible.space import Space
from plausible.space.unheard import tamed

LikelihoodKind = Literal["exact", "lower_bound", "upper_bound", "estimate"]
MARKS = {"exact": "=", "lower_bound": "≥", "upper_bound": "≤", "estimate": "≈"}
DECIDED_AT = 2.0  # a mean paired difference counts when it is this many standard errors from zero


@dataclass(frozen=True, eq=False)
class Likelihood:
    """Log-likelihood of n examples under one model.

    Args:
        values: log p(x_i), or the bound or estimate of it, in nats; shape (n,).
        kind: 'exact', 'lower_bound', 'upper_bound' or 'estimate'.
        measure: what the density is relative to: 'counting', 'Lebesgue' or 'mixed'.
        per: what one example is called: 'row', 'image', 'string', 'window'.
        dimension: what one dimension of it is called: 'column', 'pixel value', 'character', 'value'.
        bits_per_dim: bits per observed dimension over all examples.
        n_importance_samples: the number behind each value, where the values are importance-weighted.
        bits_per_byte: of text, bits per byte of UTF-8.
        why: what makes a bound of the density of an exact family.
    """

    values: np.ndarray
    kind: LikelihoodKind
    measure: str
    per: str
    dimension: str
    bits_per_dim: float
    n_importance_samples: int | None = None
    unit: str = "nats"
    bits_per_byte: float | None = None
    why: str = ""

    @property
    def n(self) -> int:
        return len(self.values)

    @property
    def mean(self) -> float:
        return float(np.mean(self.values))

    @property
    def stderr(self) -> float:
        """Standard error of the mean over examples; NaN for a single one, or where a value is infinite."""
        return _stderr(self.values)

    @property
    def mark(self) -> str:
        """How the number stands to the truth: '=' exact, '≥' the truth is at least this, '≤' at most, '≈' about."""
        return MARKS[self.kind]

    @property
    def n_impossible(self) -> int:
        """How many examples the model calls impossible (a density of zero)."""
        return int(np.isneginf(self.values).sum())

    def to_json(self) -> dict:
        """Plain numbers for `report.json`; what is not finite becomes null."""
        return {
            "mean": finite(self.mean),
            "stderr": finite(self.stderr),
            "kind": self.kind,
            "mark": self.mark,
            "measure": self.measure,
            "unit": self.unit,
            "per": self.per,
            "bits_per_dim": finite(self.bits_per_dim),
            "bits_per_byte": None if self.bits_per_byte is None else finite(self.bits_per_byte),
            "why": self.why,
            "dimension": self.dimension,
            "n": self.n,
            "n_impossible": self.n_impossible,
            "importance_samples": self.n_importance_samples,
        }

    def __str__(self) -> str:
        kind = self.kind.replace("_", " ")
        if self.n_importance_samples:
            kind = f"{kind} from {self.n_importance_samples} importance samples each"
        kind += f", as {self.why}" if self.why else ""
        stderr = f" ± {self.stderr:.2f}" if math.isfinite(self.stderr) else ""
        text = f"{self.mark} {self.mean:.2f}{stderr} {self.unit} per {self.per} "
        text += f"({kind}, {self.measure} measure, {counted(self.n, self.per)})"
        if self.n_impossible:
            rest = self.values[~np.isneginf(self.values)]
            others = f", {np.mean(rest):.2f} {self.unit} without" if len(rest) else ""
            return f"{text}; {counted(self.n_impossible, self.per)} called impossible{others}"
        bits = f"{self.bits_per_dim:.3f} bits per {self.dimension}"
        if self.bits_per_byte is not None:
            bits = f"{self.bits_per_dim * math.log(2):.3f} nats or {bits}"
        text = f"{text} = {bits}"
        if self.bits_per_byte is None or self.dimension == "byte":
            return text
        return f"{text}, {self.bits_per_byte:.3f} per byte"

    def __repr__(self) -> str:
        return f"Likelihood({self})"


def likelihood(model: Any, X: Any, *, context: Any = None, importance_samples: int | None = None) -> Likelihood:
    """Return how likely a fitted model finds `X`, and what kind of number that is.

    Args:
        model: a fitted model with `log_prob`.
        X: n examples, like those it was fitted on. A row of a table with a value that no row of the fit could have
            had, such as a new level, has log p = -inf, with a warning that says which; `log_prob` refuses them.
        context: what the examples are conditioned on, where the model takes context.
        importance_samples: ask a model that gives a bound for the importance-weighted estimate with this many samples
            for each example. Its mean is itself a lower bound that tightens with the number (Burda, Grosse and
            Salakhutdinov 2016, https://arxiv.org/abs/1509.00519); one draw of it is on neither side for sure, so its
            kind is 'estimate'. An exact model ignores it.

    Raises:
        CapabilityError: the model has no likelihood.
        DataError: there are no examples, or the model returned NaN.
    """
    if not hasattr(model, "log_prob"):
        raise CapabilityError(
            f"{type(model).__name__} has no log_prob, so no likelihood; "
            "judge its samples with evaluate.classifier_two_sample_test, mmd or sliced_wasserstein"
        )
    settings = {} if context is None else {"context": context}
    if importance_samples and weighs(model):
        settings["importance_samples"] = importance_samples
    X, unheard = tamed(model.space_, X)
    values = model.log_prob(X, **settings)
    if unheard is not None:
        values = np.where(unheard.rows, -np.inf, values)
        warnings.warn(f"{unheard}; their log p is -inf", PlausibleWarning, stacklevel=2)
    return typed(values, model, X, importance_samples=settings.get("importance_samples"))


def typed(values: Any, model: Any, X: Any, *, importance_samples: int | None = None) -> Likelihood:
    """Say what the values (n,) are that ``model.log_prob(X)`` returned, with or without importance samples."""
    values, space = np.asarray(values, dtype=np.float64), model.space_
    _check(values, type(model).__name__)
    return Likelihood(
        values=values,
        kind="estimate" if importance_samples else model.likelihood_kind_,
        measure=space.measure,
        per=example_name(space),
        dimension=space.unit,
        bits_per_dim=bits_per_dim(values, X, space),
        n_importance_samples=importance_samples,
        bits_per_byte=bits_per_byte(values, X, space) if space.type == "text" else None,
        why="" if space.one_code else "it counts one of the ways to cut a text into tokens",
    )


def weighs(model: Any) -> bool:
    """Whether importance samples make its bound tighter; not one that comes from a space with several codes."""
    return model.likelihood_kind_ != "exact" and model.space_.one_code


def bits_per_dim(values: np.ndarray, X: Any, space: Space) -> float:
    """Return -sum(values) / (ln 2 * observed dimensions), over the examples `X` that `values` (n,) nats belong to."""
    observed = float(space.observed(space.encode(X)).sum())
    return -float(np.sum(values)) / (math.log(2) * observed) if observed else math.nan


def bits_per_byte(values: np.ndarray, X: Any, space: Any) -> float:
    """Return -sum(values) / (ln 2 * bytes) of text; each end of a string that the model had to tell is a byte."""
    strings = space.windows(X)
    n_bytes = sum(len(s.encode()) for s in strings) + float(space.ends(space.encode(X)).sum())
    return -float(np.sum(values)) / (math.log(2) * n_bytes) if n_bytes else math.nan


def example_name(space: Space) -> str:
    """What one example of the space is called: 'row', 'image', 'string' or 'window'."""
    if space.type == "text":
        return "string" if getattr(space, "end", True) else "window"
    return {"table": "row", "image": "image", "series": "window", "audio": "window"}.get(space.type, "example")


# ------------------------------------------------------------------------------------------------ two likelihoods


@dataclass(frozen=True)
class Difference:
    """Mean paired difference of two likelihoods on the same examples, in nats per example."""

    mean: float
    stderr: float

    @property
    def decided(self) -> bool:
        """Whether it is further from zero than two standard errors."""
        if not math.isfinite(self.stderr):
            return math.isinf(self.mean)
        return abs(self.mean) > DECIDED_AT * self.stderr

    def __str__(self) -> str:
        return f"{self.mean:+.2f} ± {self.stderr:.2f} nats"


def difference(a: Likelihood, b: Likelihood) -> Difference:
    """Return mean(a - b) and its standard error, example by example.

    Pairing matters: hard examples are hard for both models, so the difference is known far better than either mean.

    Raises:
        DataError: the two were not taken on equally many examples, or stand on different measures.
    """
    if a.n != b.n:
        raise DataError(f"a paired difference needs the same examples on both sides, got {a.n} and {b.n}")
    if a.measure != b.measure:
        raise DataError(
            f"a density on {a.measure} measure cannot be subtracted from one on {b.measure} measure; "
            "fit both models with the same space"
        )
    with np.errstate(invalid="ignore"):
        gaps = a.values - b.values
        gaps = np.where(np.isneginf(a.values) & np.isneginf(b.values), 0.0, gaps)  # impossible under both: no gap
        return Difference(float(np.mean(gaps)), _stderr(gaps))


def comparable(a: Likelihood, b: Likelihood) -> bool:
    """Whether the two may be ranked as equals: both exact, on the same measure, on equally many examples."""
    return a.kind == b.kind == "exact" and a.measure == b.measure and a.n == b.n


def verdict(a: Likelihood, b: Likelihood) -> Literal["better", "worse", "tied", "undecided"]:
    """What the numbers prove about `a` against `b`, at two standard errors of the paired difference.

    The truth of an exact value is the value, of a lower bound anything above it, of an upper bound anything below it.
    `a` is better where the least it can be exceeds the most that `b` can be. An estimate proves nothing.
    """
    if a.n != b.n or a.measure != b.measure:
        return "undecided"
    gap = difference(a, b)
    if _has_floor(a) and _has_ceiling(b) and gap.mean > 0 and gap.decided:
        return "better"
    if _has_ceiling(a) and _has_floor(b) and gap.mean < 0 and gap.decided:
        return "worse"
    return "tied" if comparable(a, b) else "undecided"


def _has_floor(a: Likelihood) -> bool:
    return a.kind in ("exact", "lower_bound")


def _has_ceiling(a: Likelihood) -> bool:
    return a.kind in ("exact", "upper_bound")


# ------------------------------------------------------------------------------------------------------- helpers


def finite(value: float | None) -> float | None:
    """The number, or None where JSON has no word for it."""
    return float(value) if value is not None and math.isfinite(value) else None


def counted(n: int, noun: str) -> str:
    """``1 row``, ``10,000 images``."""
    return f"{n:,} {noun}{'' if n == 1 else 's'}"


def _stderr(values: np.ndarray) -> float:
    if len(values) < 2 or not np.isfinite(values).all():
        return math.nan
    return float(np.std(values, ddof=1) / math.sqrt(len(values)))


def _check(values: np.ndarray, name: str) -> None:
    if values.ndim != 1 or len(values) == 0:
        raise DataError(f"expected one log-probability for each of at least one example, got shape {values.shape}")
    if np.isnan(values).any():
        raise DataError(
            f"{name}.log_prob returned NaN for {np.isnan(values).sum()} of {len(values)} examples; "
            "the fit has probably diverged: lower the learning rate and fit again"
        )
