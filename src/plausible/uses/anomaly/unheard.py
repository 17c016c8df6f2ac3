"""Values that no row of the fit could have had: a new level, a fraction where there were integers.

A model has no density for them. Such a row is as odd as can be, and the cell is to blame; its score is infinite.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from plausible.errors import SpaceError
from plausible.space import Column, Space, Table


def tamed(space: Space, X: Any) -> tuple[Any, np.ndarray | None]:
    """Return X with such cells replaced by a value that the space holds, and where they were: (n, D) bool, or None.

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
    where = np.zeros((len(frame), space.dims), dtype=bool)
    for d, column in enumerate(space.columns):
        values = frame[names[column.name]]
        where[:, d] = _unheard(column, values)
        if where[:, d].any():
            stand_in = column.levels[0] if column.levels else (0.0 if column.low is None else column.low)
            frame[names[column.name]] = values.astype(object).where(~where[:, d], stand_in).infer_objects()
    if not where.any():
        return X, None
    return frame if framed else frame.to_numpy(), where


def _unheard(column: Column, values: Any) -> np.ndarray:
    """Say which values the column refuses: (n,) bool."""
    refused = []
    for value in values.dropna().unique():
        try:
            column.encode([value])
        except SpaceError:
            refused.append(value)
    return values.isin(refused).to_numpy()
