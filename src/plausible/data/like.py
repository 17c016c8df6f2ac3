"""Reading for a model that is there already: nothing is guessed that the model knows, and one example is enough."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from plausible.data import sounds, tables, texts
from plausible.data.images import SUFFIXES, read_image, read_images
from plausible.data.read import ARRAYS, JSON, PARQUET, _gunzip, _load_array, _load_parquet, _naming, windows
from plausible.errors import DataError, ReadError, SpaceError
from plausible.space import Audio, Image, Series, Space, Table, Text

TABS = (".tsv", ".tab")


def read_like(path: str | Path, space: Space, *, key: str | None = None) -> Any:
    """Read examples of a known space: what a fitted model can score.

    Args:
        path: a file or folder of any kind that `read` takes, or the name of a bundled data set.
        space: what an example is (``model.space_``, or ``model.context_space_`` for the context). Of a table, its
            columns are taken, in its order; others that the file holds are left.
        key: which array of an .npz.

    Returns:
        Examples for ``log_prob``: DataFrame, array, list of strings or one long string.

    Raises:
        ReadError: the file cannot be read, or has no examples.
        SpaceError: it does not hold what the model was fitted on.
    """
    from plausible.data import bundled

    path = Path(path)
    if not path.exists() and str(path) in bundled.names():
        return _fitting(bundled.load(str(path)), space)
    if not path.exists():
        raise ReadError(f"{path}: no such file or folder")
    with _naming(path.name):
        return _fitting(_raw(path, space, key), space)


def _raw(path: Path, space: Space, key: str | None) -> Any:
    if isinstance(space, Audio) and (path.is_dir() or path.suffix.lower() in sounds.SUFFIXES):
        return sounds.read_sounds(path)
    if path.is_dir():
        return read_images(path)
    if isinstance(space, Image) and path.suffix.lower() in SUFFIXES:
        return read_image(path)[None]
    if path.stat().st_size == 0:
        raise ReadError("the file is empty; expected at least one example")
    suffix = path.suffix.lower()
    if suffix in ARRAYS:
        return _load_array(path, key)[0]
    if suffix in PARQUET:
        return _load_parquet(path)
    text, suffix = _text(path, space)
    if isinstance(space, Text):
        return texts.items(text) if space.end else text
    if suffix in JSON:
        return tables.read_json(text)
    return _delimited(text, space, tabs=suffix in TABS)


def dialect_like(path: str | Path, space: Space) -> tables.Dialect | None:
    """How a delimited file of a table is written, of which `read_like` gives the values; None of any other file."""
    path = Path(path)
    suffix = (Path(path.stem) if path.suffix.lower() == ".gz" else path).suffix.lower()
    if not isinstance(space, Table) or not path.is_file() or suffix in (*ARRAYS, *PARQUET, *JSON):
        return None
    with _naming(path.name):
        text, suffix = _text(path, space)
        return _dialect(text, space, tabs=suffix in TABS)


def _text(path: Path, space: Space) -> tuple[str, str]:
    """What a file of text holds, and its suffix."""
    raw, suffix = path.read_bytes(), path.suffix.lower()
    if suffix == ".gz":
        raw, suffix = _gunzip(raw), Path(path.stem).suffix.lower()
    if b"\0" in raw:
        raise ReadError(f"this is a binary file of a kind that is not known; expected {space.describe()}")
    return texts.decode(raw), suffix


def _dialect(text: str, space: Space, tabs: bool) -> tables.Dialect:
    """The columns are known: they say whether there is a header."""
    wanted = _names(space)
    head, whole = text[: tables.SAMPLE], len(text) <= tables.SAMPLE
    tried = [tables.sniff(head, whole=whole, tabs=tabs, header=header) for header in (True, False)]
    return next((d for d in tried if set(wanted) <= set(d.names)), tried[0])


def _delimited(text: str, space: Space, tabs: bool) -> pd.DataFrame:
    """A delimited text whose columns are known: they say what is a word."""
    dialect = _dialect(text, space, tabs)
    words = {c.name: "str" for c in space.columns if c.levels and all(isinstance(v, str) for v in c.levels)}
    frame = tables.parse(io.StringIO(text), dialect, dtype={n: t for n, t in words.items() if n in dialect.names})
    if frame.iloc[:, -1].isna().any():
        tables.check_widths(text, dialect)
    return frame


def _names(space: Space) -> list[str]:
    """The columns of a table, the channels of a series."""
    if isinstance(space, Series):
        return [c.name.rpartition("[")[0] for c in space.columns[: space.shape[1]]]
    return [c.name for c in space.columns]


def _fitting(found: Any, space: Space) -> Any:
    """What was found, in the form that the space encodes."""
    if len(found) == 0:
        raise ReadError("there are no examples in it")
    if isinstance(space, Table):
        return _table(found, space)
    if isinstance(space, Series):
        return _series(found, space)
    if isinstance(space, Text):
        return found
    if isinstance(space, Audio):
        return space.windows(found)  # which refuses another rate
    if not isinstance(found, np.ndarray):
        raise SpaceError(f"expected {space.describe()}, got {type(found).__name__}")
    flat = found.ndim == 2 and found.shape[1] == space.dims == space.shape[-2] * space.shape[-1]
    return found.reshape(len(found), *space.shape[-2:]) if flat else found


def _table(found: Any, space: Table) -> Any:
    if isinstance(found, list) and space.dims == 1:  # strings
        found = pd.DataFrame({space.names[0]: found})
    if isinstance(found, np.ndarray):
        X = found.reshape(len(found), -1)
        if X.shape[1] != space.dims:
            raise SpaceError(f"expected {space.dims} columns, got {X.shape[1]}")
        return X if space.array_dtype is not None else pd.DataFrame(X, columns=space.names)
    if not isinstance(found, pd.DataFrame):
        raise SpaceError(f"expected {space.describe()}, got text")
    frame = found.rename(columns=str)
    _check_columns(frame, space.names)
    tidied = {c.name: _tidied(c, frame[c.name]) for c in space.columns}
    frame = pd.DataFrame(tidied)
    return frame if space.array_dtype is None else frame.to_numpy()


def _check_columns(frame: pd.DataFrame, wanted: list[str]) -> None:
    absent = [n for n in wanted if n not in frame.columns]
    if absent:
        held = ", ".join(map(repr, frame.columns[:8])) + (", ..." if frame.shape[1] > 8 else "")
        raise SpaceError(f"column {absent[0]!r}, which the model was fitted on, is missing; there are {held}")


def _tidied(column: Any, values: pd.Series) -> pd.Series:
    values = tables.tidy_column(column.name, values)
    if column.dtype.startswith("datetime") and tables.is_words(values):
        format = tables.date_format(values)
        if format is None:
            raise SpaceError(f"column {column.name!r} was fitted on dates, got {values.dropna().iloc[0]!r}")
        return pd.to_datetime(values, format=format)
    return values


def _series(found: Any, space: Series) -> np.ndarray:
    steps, channels = space.shape
    if isinstance(found, pd.DataFrame):
        frame = found.rename(columns=str)
        _check_columns(frame, _names(space))
        first = tables.tidy_column(frame.columns[0], frame.iloc[:, 0])
        format = tables.date_format(first) if tables.is_words(first) else None
        dates = first if format is None else pd.to_datetime(first, format=format)
        if pd.api.types.is_datetime64_any_dtype(dates.dtype) and dates.is_monotonic_decreasing:
            frame = frame.iloc[::-1]
        found = frame[_names(space)].to_numpy(dtype=np.float64)
    found = np.asarray(found)
    if found.ndim == 3:
        return found
    if len(found) < steps:
        raise DataError(f"a series of {len(found)} steps is shorter than one window of {steps}")
    return windows(found, steps)
