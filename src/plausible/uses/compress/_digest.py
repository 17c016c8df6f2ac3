"""A digest of examples: the same for what counts as the same, whatever marks a missing cell."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import numpy as np

from plausible.space.column import plain


def digest(X: Any) -> bytes:
    """Return what tells contents apart: 8 bytes."""
    h = hashlib.sha256()
    for part in _told(X):
        h.update(part)
    return h.digest()[:8]


def _told(X: Any) -> Any:
    """Yield bytes that are the same for what is to be the same."""
    import pandas as pd

    if isinstance(X, pd.DataFrame):
        for i, name in enumerate(X.columns):
            kind = X.dtypes.iloc[i]
            yield f"{name!r} {'category' if isinstance(kind, pd.CategoricalDtype) else kind}".encode()
            yield from _told_series(X.iloc[:, i])
    elif isinstance(X, str):
        yield X.encode("utf-8", "surrogatepass")
    elif isinstance(X, np.ndarray):
        yield f"{X.dtype} {X.shape}".encode()
        yield from _told_values(X)
    elif isinstance(X, list | tuple):
        yield f"{len(X)} {getattr(X, 'rate', '')}".encode()
        for x in X:
            x = x if isinstance(x, str) else np.asarray(x)
            yield str(len(x)).encode() + b" "
            yield from _told(x)
    else:
        yield from _told(np.asarray(X))


def _told_series(series: Any) -> Any:
    import pandas as pd

    if isinstance(series.dtype, np.dtype) and series.dtype.kind in "biuf":
        yield from _told_values(series.to_numpy())
        return
    gone = series.isna()
    if pd.api.types.is_datetime64_any_dtype(series.dtype):
        series = series.astype(str)
    values = series.astype(object).where(~gone, None)
    yield json.dumps([_plain_or_text(v) for v in values]).encode()


def _told_values(x: np.ndarray) -> Any:
    if x.dtype == object:
        yield json.dumps([None if v is None or v != v else _plain_or_text(v) for v in x.ravel().tolist()]).encode()
    elif x.dtype.kind == "f":
        yield np.where(np.isnan(x), np.array(np.nan, x.dtype), x + np.array(0, x.dtype)).tobytes()
    elif x.dtype.kind in "US":
        yield json.dumps(x.ravel().tolist(), default=str).encode()
    else:
        yield np.ascontiguousarray(x).tobytes()


def _plain_or_text(value: Any) -> Any:
    value = plain(value)
    return value if value is None or isinstance(value, str | int | float | bool) else repr(value)
