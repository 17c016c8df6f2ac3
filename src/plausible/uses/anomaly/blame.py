r"""Which cell is to blame: what each adds to the oddness of its example.

    leave-one-out   -log p(x_d | x_-d) = log p(x_-d) - log p(x)     where the family integrates cells out
    in order        -log p(x_d | x_<d)                              where it takes dimension after dimension
    replacement     s(x) - median_j s(x with x_d from row j)        any score: what if this cell were another row's

The first is symmetric in the cells. The second adds up to -log p(x), and blames the later of two cells that do not go
together. Of both the median over calibration rows is taken off, column by column: what a column costs in an ordinary
row, units included, is no oddness. The third is relative to calibration rows already, and looks at one cell at a time.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch

from plausible.data import take
from plausible.errors import CapabilityError, DataError
from plausible.space.unheard import tamed

How = Literal["leave-one-out", "in order", "replacement"]
EVALUATIONS = 20_000  # of calibration rows, at most, for their median
FEWEST, MOST = 20, 200  # calibration rows for it
REPLACEMENTS = 8  # calibration rows that a cell is taken from
SYMMETRIC_UP_TO = 256  # dimensions, beyond which one pass in order is preferred
SENTENCES = {
    "leave-one-out": "-log p(cell | all other cells) in nats, less its median over calibration rows",
    "in order": "-log p(cell | the cells before it) in nats, less its median over calibration rows",
    "replacement": "the score, less its median with the cell taken from calibration rows",
}


@dataclass(frozen=True, eq=False)
class Blame:
    """How much each cell adds to the oddness of its example.

    Args:
        values: with the shape of X, higher is odder; NaN where a cell is missing, or nothing can be told.
        how: 'leave-one-out', 'in order' or 'replacement'.
        names: of the cells of one example, in the order of ``values.reshape(n, -1)``.
    """

    values: np.ndarray
    how: How
    names: tuple[str, ...]

    @property
    def label(self) -> str:
        """What the values are, in words."""
        return SENTENCES[self.how]

    def top(self, k: int = 3) -> list[list[tuple[str, float]]]:
        """Return the k worst cells of each example, worst first, with their values."""
        flat = self.values.reshape(len(self.values), -1)
        order = np.argsort(-np.where(np.isnan(flat), -np.inf, flat), axis=1, kind="stable")[:, :k]
        return [
            [(self.names[d], float(row[d])) for d in worst if not np.isnan(row[d])]
            for row, worst in zip(flat, order, strict=True)
        ]

    def to_frame(self) -> Any:
        """Return a DataFrame of a row for each example and a column for each cell."""
        import pandas as pd

        return pd.DataFrame(self.values.reshape(len(self.values), -1), columns=list(self.names))

    def __repr__(self) -> str:
        return f"Blame({len(self.values)} examples of {len(self.names)} cells: {self.label})"


def blame(detector: Any, X: Any, how: How | Literal["auto"], context: Any) -> Blame:
    """Return the blame of each cell of X; `Detector.explain` is its face.

    Raises:
        CapabilityError: `how` is not possible for this model and score.
    """
    model, space = detector.model, detector.model.space_
    can = ways(detector)
    if how == "auto":
        how = can[0]
    elif how not in SENTENCES:
        raise DataError(f"how must be 'auto' or one of {', '.join(map(repr, SENTENCES))}; got {how!r}")
    elif how not in can:
        raise CapabilityError(
            f"blame {how!r} is not possible by {detector.label}; possible are: {', '.join(map(repr, can))}"
        )
    X, unheard = tamed(space, X)
    x = model._encode(X)
    if how == "replacement":
        values = _replaced(detector, X, x, context)
    else:
        each = _left_out if how == "leave-one-out" else _in_order
        reference, own = _reference(detector)
        values = each(model, x, context) - np.nanmedian(each(model, reference, own), axis=0)
    if unheard is not None:  # nothing is known of the cells beside it
        values = np.where(unheard.where, np.inf, np.where(unheard.rows[:, None], np.nan, values))
    return Blame(space.lay_out(values), how, _names(space))


def _names(space: Any) -> tuple[str, ...]:
    """A name for each cell, in the order of the user's arrays: pixels share theirs, so they have their place."""
    cells = space.lay_out(np.arange(space.dims)[None])[0]
    names = [space.columns[d].name for d in cells.ravel()]
    if len(set(names)) < len(names):
        names = [str(list(place)) for place in np.ndindex(cells.shape)]
    return tuple(names)


def ways(detector: Any) -> list[How]:
    """The ways that are possible, the best first."""
    found: list[How] = ["replacement"]
    if not detector.scorer.is_density or detector.model.likelihood_kind_ != "exact":
        return found
    traits = detector.model.traits
    if traits.conditionals:
        found.insert(0, "in order")
    if traits.missing or traits.marginals:
        symmetric_first = not traits.conditionals or detector.model.space_.dims <= SYMMETRIC_UP_TO
        found.insert(0 if symmetric_first else 1, "leave-one-out")
    return found


def _reference(detector: Any) -> tuple[torch.Tensor, Any]:
    """Some calibration rows, evenly spread, and their context."""
    n = min(max(EVALUATIONS // max(detector.model.space_.dims, 1), FEWEST), MOST, detector.n)
    rows = np.linspace(0, detector.n - 1, n).round().astype(int)
    return detector.codes[rows], None if detector.context is None else take(detector.context, rows)


def _left_out(model: Any, x: torch.Tensor, context: Any) -> np.ndarray:
    """-log p(x_d | x_-d): (n, D)."""
    flat = x.double().flatten(1)
    c = model._encode_context(context, len(x))
    whole = _log_prob(model, flat, c)
    out = np.full(flat.shape, np.nan)
    for d in range(flat.shape[1]):
        known = ~flat[:, d].isnan()
        if known.any():
            part = flat[known].clone()
            part[:, d] = torch.nan
            rest = _log_prob(model, part, None if c is None else c[known])
            both = np.isneginf(rest)  # another cell is impossible: nothing is known of this one
            out[known.numpy(), d] = np.where(both, np.nan, np.where(both, 0.0, rest) - whole[known.numpy()])
    return out


def _in_order(model: Any, x: torch.Tensor, context: Any) -> np.ndarray:
    """-log p(x_d | x_<d): (n, D)."""
    c = model._encode_context(context, len(x))
    with torch.no_grad():
        return -model._log_prob_each(model._evaluator(), x, c).cpu().numpy()


def _log_prob(model: Any, flat: torch.Tensor, c: torch.Tensor | None) -> np.ndarray:
    with torch.no_grad():
        x = flat.reshape(len(flat), *model.space_.shape)
        return model._log_prob(model._evaluator(), x, c, None).cpu().numpy()


def _replaced(detector: Any, X: Any, x: torch.Tensor, context: Any) -> np.ndarray:
    """s(x) - median_j s(x with x_d from calibration row j): (n, D)."""
    space = detector.model.space_
    rows = np.linspace(0, detector.n - 1, min(REPLACEMENTS, detector.n)).round().astype(int)
    other = detector.codes[rows].double().flatten(1)
    flat = x.double().flatten(1)
    whole = detector.score(X, context=context)
    out = np.full(flat.shape, np.nan)
    for d in range(flat.shape[1]):
        scores = []
        for j in range(len(other)):
            part = flat.clone()
            part[:, d] = other[j, d]
            scores.append(detector.score(space.decode(part.reshape(x.shape)), context=context))
        usual = np.median(np.stack(scores), axis=0)
        with np.errstate(invalid="ignore"):  # infinite either way: another cell is to blame as well
            out[:, d] = np.where(flat[:, d].isnan().numpy(), np.nan, whole - usual)
    return out
