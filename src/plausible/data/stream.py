"""Files larger than memory, chunk by chunk.

A `Stream` may be walked through any number of times; what it yields for some rows is what `read` gives for them (of
a file of dates and numbers, what ``read(path, how="table")`` gives: a stream makes no windows). Its space comes from
one pass that keeps of each column only what inference looks at: its distinct values up to a limit, its extremes,
whether a cell is missing, whether one is no integer.
"""

from __future__ import annotations

import gzip
import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from plausible.data import tables
from plausible.data.read import DELIMITED, PARQUET, _naming, _without
from plausible.data.split import take
from plausible.errors import DataError, ReadError
from plausible.randomness import seed_of
from plausible.space import MAX_LEVELS, Space, infer

MOST_LEVELS = 100_000  # distinct values kept of a column of strings: enough to say how far it is from a category


class Stream:
    """The examples of a CSV, Parquet or .npy file, a chunk at a time.

    Args:
        path: the file; a CSV may be gzipped.
        chunk: rows in a chunk.
        kinds, drop, header: as in `plausible.data.read`.

    Raises:
        ReadError: the file is of another kind, or cannot be read.
    """

    def __init__(
        self,
        path: str | Path,
        chunk: int = 65536,
        *,
        kinds: Mapping[str, str] | None = None,
        drop: Sequence[str] = (),
        header: bool | None = None,
    ):
        self.path, self.chunk = Path(path), int(chunk)
        self.kinds, self.drop = dict(kinds or {}), (drop,) if isinstance(drop, str) else tuple(drop)
        if self.chunk < 1:
            raise DataError(f"chunk must be at least 1 row, got {chunk}")
        if not self.path.is_file():
            raise ReadError(f"{path}: no such file")
        suffixes = [s.lower() for s in self.path.suffixes]
        self._packed = suffixes[-1:] == [".gz"]
        suffix = (suffixes[-2:-1] if self._packed else suffixes[-1:]) or [""]
        known = {**dict.fromkeys(DELIMITED, _Delimited), **dict.fromkeys(PARQUET, _Parquet), ".npy": _Array}
        if suffix[0] not in known:
            raise ReadError(f"{self.path.name}: a file of this kind cannot be streamed; expected CSV, Parquet or .npy")
        with _naming(self.path.name):
            self._source = known[suffix[0]](self, header)
        self._seen: _Seen | None = None

    def __iter__(self) -> Iterator[Any]:
        """Yield the chunks in the order of the file."""
        seen = self._pass()
        with _naming(self.path.name):
            yield from self._source.typed(seen)

    def __len__(self) -> int:
        """The number of examples; the first call may read the whole file."""
        return self._pass().rows

    def head(self, n: int) -> Any:
        """The first `n` examples."""
        parts, rows = [], 0
        for part in self:
            parts.append(part.iloc[: n - rows] if isinstance(part, pd.DataFrame) else np.array(part[: n - rows]))
            rows += len(parts[-1])
            if rows >= n:
                break
        return _join(parts)

    def space(self) -> Space:
        """The space that `plausible.space.infer` finds for the whole file, from one pass over it."""
        seen = self._pass()
        with _naming(self.path.name):
            if seen.rows < 2:
                raise ReadError(f"the file holds {seen.rows} row(s); at least 2 are needed")
            return infer(seen.witness(), self.kinds or None)

    def sample(self, n: int, seed: Any = 0) -> Any:
        """Return `n` examples drawn without replacement (all, if there are fewer), in the order of the file."""
        chosen = np.sort(np.random.default_rng(seed_of(seed)).permutation(len(self))[:n])
        parts, start = [], 0
        for part in self:
            here = chosen[(chosen >= start) & (chosen < start + len(part))] - start
            if len(here):
                parts.append(take(part, here))
            start += len(part)
        return _join(parts)

    def _pass(self) -> _Seen:
        if self._seen is None:
            with _naming(self.path.name):
                self._seen = self._source.look()
        return self._seen


def _join(parts: list) -> Any:
    if not parts:
        raise ReadError("the file holds no rows")
    return pd.concat(parts) if isinstance(parts[0], pd.DataFrame) else np.concatenate(parts)


# -------------------------------------------------------------------------------------------------------- sources


class _Delimited:
    """A CSV: the first pass finds the dtypes of the whole columns, later ones parse with them."""

    def __init__(self, stream: Stream, header: bool | None):
        self.stream = stream
        suffixes = "".join(stream.path.suffixes).lower()
        with self._open() as file:
            head = file.read(tables.SAMPLE + 1)
        whole = len(head) <= tables.SAMPLE
        self.dialect = tables.sniff(head[: tables.SAMPLE], whole=whole, tabs=".tsv" in suffixes, header=header)

    def _open(self) -> io.TextIOBase:
        opened = gzip.open if self.stream._packed else open
        return opened(self.stream.path, "rt", encoding="utf-8-sig", newline="")

    def raw(self, dtype: dict | None = None) -> Iterator[pd.DataFrame]:
        """Chunks as pandas reads them, spaces stripped, columns dropped."""
        if dtype is not None:  # booleans are recognised by pandas alone: told of a dtype, it reads strings
            dtype = {name: t for name, t in dtype.items() if t not in ("bool", "object")}
        try:
            with self._open() as file:
                for frame in tables.parse(file, self.dialect, dtype=dtype, chunk=self.stream.chunk):
                    frame = _without(frame, self.stream.drop)
                    for name in frame.columns:
                        frame[name] = tables.tidy_column(name, frame[name])
                    yield frame
        except UnicodeDecodeError:
            raise ReadError("the file is not UTF-8 text; convert it (iconv -f latin1 -t utf-8)") from None
        except EOFError:
            raise ReadError("the file cannot be decompressed; it is cut short") from None

    def look(self) -> _Seen:
        seen = _Seen()
        for frame in self.raw():
            seen.add(frame)
        if seen.words_among_numbers():  # such a column is words throughout: 1.0 and 1 are then two levels
            dtypes, seen = seen.dtypes(), _Seen()
            for frame in self.raw(dtypes):
                seen.add(frame)
        seen.find_dates(self.stream.kinds)
        return seen

    def typed(self, seen: _Seen) -> Iterator[pd.DataFrame]:
        for frame in self.raw(seen.dtypes()):
            yield seen.cast(frame)


class _Parquet:
    """A Parquet file, which knows its dtypes."""

    def __init__(self, stream: Stream, header: bool | None):
        import pyarrow
        import pyarrow.parquet

        self.stream = stream
        try:
            pyarrow.parquet.ParquetFile(stream.path).close()
        except (OSError, pyarrow.ArrowException) as err:
            raise ReadError(f"this is no Parquet file, or it is cut short ({str(err).splitlines()[0]})") from None

    def raw(self) -> Iterator[pd.DataFrame]:
        import pyarrow.parquet

        start = 0
        with pyarrow.parquet.ParquetFile(self.stream.path) as file:
            for batch in file.iter_batches(self.stream.chunk):
                frame = batch.to_pandas()
                if not isinstance(frame.index, pd.RangeIndex):
                    frame = frame.reset_index(names=frame.index.names)
                frame.index = pd.RangeIndex(start, start + len(frame))
                start += len(frame)
                frame = _without(frame, self.stream.drop)
                for name in frame.columns:
                    frame[name] = tables.tidy_column(name, frame[name])
                yield frame

    def look(self) -> _Seen:
        seen = _Seen()
        for frame in self.raw():
            seen.add(frame)
        seen.find_dates(self.stream.kinds)
        return seen

    def typed(self, seen: _Seen) -> Iterator[pd.DataFrame]:
        return map(seen.cast, self.raw())


class _Array:
    """An .npy file, mapped into memory."""

    def __init__(self, stream: Stream, header: bool | None):
        if stream.drop:
            raise DataError("columns of an .npy file that is streamed cannot be dropped; write a file without them")
        self.stream = stream
        try:
            self.values = np.load(stream.path, mmap_mode="r", allow_pickle=False)
        except (ValueError, OSError, EOFError) as err:
            raise ReadError(f"this is no .npy file of numbers, or it is cut short ({err})") from None
        if self.values.ndim < 2 or self.values.dtype.kind not in "biuf":
            raise ReadError(f"expected numbers in 2 to 4 dimensions, got {self.values.dtype} in {self.values.ndim}")

    def look(self) -> _SeenArray:
        seen = _SeenArray()
        for part in self.typed(seen):
            seen.add(part)
        return seen

    def typed(self, seen: _SeenArray) -> Iterator[np.ndarray]:
        for start in range(0, len(self.values), self.stream.chunk):
            yield np.array(self.values[start : start + self.stream.chunk])


# ------------------------------------------------------------------------------------------------------ one pass


@dataclass
class _SeenColumn:
    """What inference needs to know of a column: a few values that stand for all."""

    dtypes: set[str] = field(default_factory=set)
    values: dict = field(default_factory=dict)  # distinct values, in the order in which they came
    extra: dict[str, float] = field(default_factory=dict)  # of numbers: low, high, one that is no integer
    missing: bool = False
    categories: pd.CategoricalDtype | None = None
    dates: str | None = None

    def add(self, column: pd.Series) -> None:
        known = column.dropna()
        self.missing |= len(known) < len(column)
        if isinstance(column.dtype, pd.CategoricalDtype):
            self._add_categories(column.dtype)
            return
        if len(known) == 0:
            return
        booleans = known.dtype == object and pd.api.types.infer_dtype(known) == "boolean"
        self.dtypes.add("words" if tables.is_words(known) else "bool" if booleans else str(column.dtype))
        most = MOST_LEVELS if tables.is_words(known) else MAX_LEVELS + 1
        if len(self.values) < most:
            for value in known.unique()[:most]:
                self.values.setdefault(value, None)
        if pd.api.types.is_numeric_dtype(known.dtype) or pd.api.types.is_datetime64_any_dtype(known.dtype):
            self._add_extremes(known)

    def _add_categories(self, dtype: pd.CategoricalDtype) -> None:
        self.dtypes.add("category")
        held = [] if self.categories is None else list(self.categories.categories)
        held += [c for c in dtype.categories if c not in set(held)]
        self.categories = pd.CategoricalDtype(held, dtype.ordered)

    def _add_extremes(self, known: pd.Series) -> None:
        low, high = known.min(), known.max()
        self.extra["low"] = min(low, self.extra.get("low", low))
        self.extra["high"] = max(high, self.extra.get("high", high))
        if known.dtype.kind == "f" and "broken" not in self.extra:
            broken = known[known != known.round()]
            if len(broken):
                self.extra["broken"] = broken.iloc[0]

    @property
    def dtype(self) -> Any:
        """The dtype that pandas gives the column when it reads all of it at once."""
        if self.categories is not None:
            return self.categories
        kinds = self.dtypes
        if "words" in kinds or (len(kinds) > 1 and "bool" in kinds):
            return "str"
        if kinds == {"bool"}:
            return "object" if self.missing else "bool"
        numbers = [np.dtype(t) for t in kinds if t[0] in "iuf"]
        if numbers and len(numbers) == len(kinds):
            joined = np.result_type(*numbers)
            return str(np.result_type(joined, np.float64)) if self.missing and joined.kind in "iu" else str(joined)
        return next(iter(kinds)) if len(kinds) == 1 else "float64" if not kinds else "object"

    def stand_ins(self) -> list:
        if self.categories is not None:
            return list(self.categories.categories)
        return list(dict.fromkeys([*self.values, *self.extra.values()]))


class _Seen:
    """What a pass over the chunks of a table has found."""

    def __init__(self) -> None:
        self.rows = 0
        self.columns: dict[str, _SeenColumn] = {}

    def add(self, frame: pd.DataFrame) -> None:
        if not frame.columns.is_unique:
            name = frame.columns[frame.columns.duplicated()][0]
            raise DataError(f"the column name {name!r} occurs more than once; rename one of them")
        self.rows += len(frame)
        for name in frame.columns:
            self.columns.setdefault(name, _SeenColumn()).add(frame[name])

    def words_among_numbers(self) -> bool:
        return any("words" in c.dtypes and len(c.dtypes) > 1 for c in self.columns.values())

    def dtypes(self) -> dict[str, Any]:
        return {name: c.dtype for name, c in self.columns.items()}

    def find_dates(self, kinds: Mapping[str, str]) -> None:
        for name, column in self.columns.items():
            if column.dtypes == {"words"} and name not in kinds:
                column.dates = tables.date_format(pd.Series(list(column.values), dtype="str"))

    def cast(self, frame: pd.DataFrame) -> pd.DataFrame:
        """Give a chunk the dtypes of the whole."""
        for name, column in self.columns.items():
            if column.dates is not None:
                frame[name] = pd.to_datetime(frame[name], format=column.dates)
            elif str(frame[name].dtype) != str(column.dtype) or column.categories is not None:
                frame[name] = frame[name].astype(column.dtype)
        return frame

    def witness(self) -> pd.DataFrame:
        """A small table that `infer` cannot tell from the whole."""
        held = {name: c.stand_ins() + [None] * c.missing for name, c in self.columns.items()}
        length = max(2, *(len(v) for v in held.values()))
        filled = {name: (v * (length // len(v) + 1))[:length] if v else [None] * length for name, v in held.items()}
        frame = pd.DataFrame({name: pd.Series(v, dtype=self._witness_dtype(name)) for name, v in filled.items()})
        return self.cast(frame)

    def _witness_dtype(self, name: str) -> Any:
        column = self.columns[name]
        return "str" if column.dates is not None else column.dtype


class _SeenArray:
    """What a pass over an array has found: as few rows as show the extremes, the distinct values and a fraction."""

    def __init__(self) -> None:
        self.rows = 0
        self._parts: list[np.ndarray] = []

    def add(self, part: np.ndarray) -> None:
        self.rows += len(part)
        self._parts = [_condense(np.concatenate([*self._parts, part]))]

    def witness(self) -> np.ndarray:
        return self._parts[0]


def _condense(X: np.ndarray) -> np.ndarray:
    """Rows (of values that never stood together) with the distinct values of each column, extremes among them."""
    if X.ndim > 2:  # images are judged by the extremes of all pixels, and by whether one is no integer
        rows = [X.min(0), X.max(0)]
        broken = np.flatnonzero((X != np.round(X)).reshape(len(X), -1).any(1))[:1] if X.dtype.kind == "f" else []
        rows += [X[i] for i in broken]
        return np.stack(rows)
    columns = [_few(X[:, d]) for d in range(X.shape[1])]
    length = max(map(len, columns))
    return np.stack([np.resize(c, length) for c in columns], 1).astype(X.dtype)


def _few(values: np.ndarray, most: int = MAX_LEVELS + 1) -> np.ndarray:
    distinct = np.unique(values)  # sorted, a NaN last
    if len(distinct) <= most:
        return distinct
    broken = distinct[distinct != np.round(distinct)][:1] if values.dtype.kind == "f" else distinct[:0]
    return np.unique(np.concatenate([distinct[: most - 4], broken, distinct[-3:]]))
