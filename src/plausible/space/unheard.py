"""Values that no row of the fit could have had: a new level, a fraction where there were integers.

A model has no density for them. `encode` refuses them, and with them all rows; who would rather have an answer for each
row puts a value that the space holds in their place, and says of these rows what follows: that their log p is minus
infinity, that they are as odd as can be, or that the cell counts as missing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from plausible.errors import SpaceError
from plausible.space.column import Column, some
from plausible.space.spaces import Space, Table


@dataclass(frozen=True)
class Unheard:
    """Where such values are, and what they are.

    Attributes:
        where: True of such a cell, (n, D).
        values: column -> row -> what is there.
    """

    where: np.ndarray
    values: dict[str, dict[int, Any]]

    @property
    def rows(self) -> np.ndarray:
        """Which rows hold one: (n,) bool."""
        return self.where.any(1)

    @property
    def after(self) -> np.ndarray:
        """Which cells come after one in their row: (n, D) bool."""
        return np.cumsum(self.where, 1) > self.where

    def __str__(self) -> str:
        n, k = len(self.where), int(self.rows.sum())
        which = [f"{name!r}: {some(list(dict.fromkeys(found.values())), 3)}" for name, found in self.values.items()]
        listed = "; ".join(which[:3]) + (f"; ... ({len(which)} columns in all)" if len(which) > 3 else "")
        held = "holds" if k == 1 else "hold"
        return (
            f"{k:,} of {n:,} row{'' if n == 1 else 's'} {held} values that no row of the fit could have had ({listed})"
        )


def tamed(space: Space, X: Any, missing: bool = False) -> tuple[Any, Unheard | None]:
    """Return X with such cells replaced by a value that the space holds, or made missing, and where they were.

    Of a table only; what else is wrong with X is left for the space to refuse.
    """
    import pandas as pd

    if not isinstance(space, Table):
        return X, None
    try:
        space.encode(X)
        return X, None
    except SpaceError:
        framed = isinstance(X, pd.DataFrame) and space.array_dtype is None
        frame = X.copy() if framed else pd.DataFrame(np.array(X)) if np.ndim(X) == 2 else None
    names = {str(name): name for name in frame.columns} if framed else {n: d for d, n in enumerate(space.names)}
    if frame is None or frame.shape[1] < space.dims or not set(space.names) <= set(names):
        return X, None
    where, found = np.zeros((len(frame), space.dims), dtype=bool), {}
    for d, column in enumerate(space.columns):
        values = frame[names[column.name]]
        where[:, d] = _unheard(column, values)
        if where[:, d].any():
            rows = np.flatnonzero(where[:, d])
            found[column.name] = dict(zip(rows.tolist(), values.iloc[rows].tolist(), strict=True))
            known = column.levels[0] if column.levels else (0.0 if column.low is None else column.low)
            stand_in = np.nan if missing else known
            frame[names[column.name]] = values.astype(object).where(~where[:, d], stand_in).infer_objects()
    if not found:
        return X, None
    return frame if framed else frame.to_numpy(), Unheard(where, found)


def _unheard(column: Column, values: Any) -> np.ndarray:
    """Say which values the column refuses: (n,) bool."""
    if not _refuses(column, values):
        return np.zeros(len(values), dtype=bool)
    refused = [value for value in values.dropna().unique() if _refuses(column, [value])]
    return values.isin(refused).to_numpy()


def _refuses(column: Column, values: Any) -> bool:
    try:
        column.encode(values)
    except SpaceError:
        return True
    return False
