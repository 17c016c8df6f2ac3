"""What a model is audited on: small made-up data of every sort that its traits accept, and the models fitted to them.

Each sort has dependent dimensions, so that a model has something to learn, and is small enough for its mass to be added
up: a few hundred states, or one or two reals. Four reals are there for what two cannot show.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd
import torch
from sklearn.base import clone

from plausible.checks.atlas import Atlas
from plausible.checks.audit import NotApplicable
from plausible.randomness import RowNoise
from plausible.space import infer

ROWS = 400
IMPORTANCE_WEIGHTS = 16_000  # drawn to know the mass where log_prob is a bound

Maker = Callable[[int, np.random.Generator], Any]


@dataclass(frozen=True)
class Case:
    """One sort of data: its name in messages, and n examples of it from a generator."""

    name: str
    make: Maker

    def draw(self, n: int = ROWS, seed: int = 0) -> Any:
        """Return n examples; the same ones for the same seed."""
        return self.make(n, np.random.default_rng(seed))


def _chain(n: int, length: int, rng: np.random.Generator, stay: float = 0.95) -> np.ndarray:
    """Bits of which each repeats the one before it with probability `stay`: (n, length)."""
    turns = rng.random((n, length)) >= np.r_[0.5, np.full(length - 1, stay)]
    return np.cumsum(turns, 1) % 2


def _reals(n, rng):
    a = rng.standard_normal(n)
    b = 0.95 * a + np.sqrt(1 - 0.95**2) * rng.standard_normal(n)
    return np.stack([10 + 3 * a, 0.2 * b - 1], 1)


def _four_reals(n, rng):
    shared = rng.standard_normal((n, 1))
    return np.array([1.0, 5.0, 0.1, 2.0]) * (0.9 * shared + np.sqrt(1 - 0.9**2) * rng.standard_normal((n, 4)))


def _levels_and_real(n, rng):
    which = rng.integers(3, size=n)
    member = rng.random(n) < np.array([0.1, 0.5, 0.9])[which]
    length = 170 + 10 * which + 4 * rng.standard_normal(n)
    colours = np.array(["blue", "green", "red"], dtype=object)
    return pd.DataFrame({"colour": colours[which], "member": member, "length": length})


def _grade_and_visits(n, rng):
    grade = rng.binomial(4, 0.5, size=n)
    return pd.DataFrame({"grade": grade, "visits": rng.poisson(15 + 5 * grade)})


def _images(n, rng):
    row = _chain(n, 3, rng)
    return np.stack([row, row ^ (rng.random((n, 3)) < 0.05)], 1).astype(np.uint8)  # (n, 2, 3)


def _colour_images(n, rng):
    """One row of two pixels: red, green and blue of the one, then of the other, each mostly the bit before it."""
    return _chain(n, 6, rng, stay=0.9).reshape(n, 2, 3).transpose(0, 2, 1)[:, :, None].astype(np.uint8)  # (n, 3, 1, 2)


def _strings(n, rng):
    ends = rng.integers(0, 4, size=n)
    return ["".join("ab"[b] for b in bits[:k]) for bits, k in zip(_chain(n, 3, rng), ends, strict=True)]


def _series(n, rng):
    return _reals(n, rng)[:, :, None]


CASES = (
    Case("two reals", _reals),
    Case("bits", lambda n, rng: _chain(n, 6, rng)),
    Case("four reals", _four_reals),
    Case("a table of levels and a real", _levels_and_real),
    Case("a table of grades and counts", _grade_and_visits),
    Case("images", _images),
    Case("colour images", _colour_images),
    Case("strings", _strings),
    Case("series", _series),
)


def accepted(model: Any) -> list[Case]:
    """Return the cases this model's family says it can model, tables without the columns it says it cannot."""
    found = []
    for case in CASES:
        X = case.draw()
        if isinstance(X, pd.DataFrame):
            kept = [c.name for c in infer(X).columns if c.kind in model.traits.kinds]
            if not kept:
                continue
            case = Case(case.name, lambda n, rng, make=case.make, kept=kept: make(n, rng)[kept])
        if type(model).can_model(infer(case.draw())) is None:
            found.append(case)
    return found


@dataclass
class Bench:
    """The model under audit, what it is fitted on, and what several checks share.

    Args:
        model: an unfitted estimator; never fitted itself.
        random_state: the seed of the fits, where the model has none of its own.
    """

    model: Any
    random_state: int = 0
    _fitted: dict[str, Any] = field(default_factory=dict)
    _atlases: dict[str, tuple] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.model.random_state is None:
            self.model = clone(self.model).set_params(random_state=self.random_state)
        self.refused: dict[str, Exception] = {}

    @property
    def traits(self) -> Any:
        return self.model.traits

    def fit(self, X: Any, **how: Any) -> Any:
        """Return a fresh copy of the model, fitted on X; warnings are left to those who fit in earnest."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return clone(self.model).fit(X, **how)

    @cached_property
    def cases(self) -> list[Case]:
        """The cases on which the model can be fitted; the others end in `refused`."""
        good = []
        for case in accepted(self.model):
            try:
                self._fitted[case.name] = self.fit(case.draw())
                good.append(case)
            except Exception as err:  # whatever it is, `fits` reports it
                self.refused[case.name] = err
        return good

    def fitted(self, case: Case) -> Any:
        """Return the model fitted on the case's data; one fit serves all checks."""
        return self._fitted[case.name]

    def some(self, what: str, wanted: Callable[[Any], bool] = lambda space: True) -> list[Case]:
        """Return the cases whose space is `wanted`.

        Raises:
            NotApplicable: there is none.
        """
        found = [c for c in self.cases if wanted(self.fitted(c).space_)]
        if not found:
            raise NotApplicable(f"it models no {what}")
        return found

    def with_density(self) -> list[Case]:
        """Return all cases, if the model has a density."""
        if self.traits.density is None:
            raise NotApplicable("it has no density")
        return self.some("toy data")

    def is_bound(self, case: Case) -> bool:
        return self.fitted(case).likelihood_kind_ in ("lower_bound", "upper_bound")

    def covered(self, case: Case) -> tuple[Atlas, np.ndarray, np.ndarray]:
        """Return points that cover the case's space, log_prob at them, and the mass they stand for.

        The mass comes from log_prob or, where that is a bound, from importance weights.
        """
        if case.name not in self._atlases:
            model, bound = self.fitted(case), self.is_bound(case)
            atlas = Atlas.of(model, case.draw(), self.random_state, fine=not bound)
            log_p = atlas.log_prob(model)
            mass = atlas.mass_by_importance(model, IMPORTANCE_WEIGHTS) if bound else atlas.mass(log_p)
            self._atlases[case.name] = atlas, log_p, mass
        return self._atlases[case.name]

    @cached_property
    def conditional(self) -> tuple[Any, Any, np.ndarray]:
        """(model, X, labels) of a fit on the first case with the side of its first column as context."""
        if not self.traits.context:
            raise NotApplicable("it takes no context")
        case = self.some("toy data")[0]
        X = case.draw()
        labels = labels_of(self.fitted(case), X)
        return self.fit(X, context=labels), X, labels


def labels_of(model: Any, X: Any) -> np.ndarray:
    """Return 'high' or 'low' for each example, by its first dimension."""
    first = model.space_.encode(X).double().flatten(1)[:, 0].nan_to_num(0.0)
    return np.where((first > first.mean()).numpy(), "high", "low")


def encoded(model: Any, X: Any, context: Any = None) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Return (z, c): the examples in model space and the features of their context, in double precision."""
    x = model._encode(X)
    c = model._encode_context(context, len(x))
    x = x.to(model._device())
    z, _ = model.transforms_(x, RowNoise(x))
    return z.double(), None if c is None else c.double()


def rows_of(X: Any, index: Any) -> Any:
    """Return some rows of a DataFrame, an array or a list."""
    if isinstance(X, pd.DataFrame):
        return X.iloc[list(index)].reset_index(drop=True)
    return [X[i] for i in index] if isinstance(X, list) else X[list(index)]
