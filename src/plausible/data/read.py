"""Files and folders as examples with their space.

`read` decides from the name and the contents what a file is, and what one example of it is; each guess it makes is a
sentence in `notes`, with the option that overrides it.
"""

from __future__ import annotations

import gzip
import hashlib
import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from plausible.data import images, sounds, tables, texts
from plausible.errors import DataError, ReadError
from plausible.space import Audio, Clips, Series, Space, Text, infer, infer_text

HOW = ("table", "image", "series", "text", "lines", "audio")
DELIMITED = frozenset((".csv", ".tsv", ".tab", ".data"))
JSON = frozenset((".json", ".jsonl", ".ndjson"))
PARQUET = frozenset((".parquet", ".pq"))
ARRAYS = frozenset((".npy", ".npz"))
PACKED = frozenset((".zip", ".tar", ".tgz", ".bz2", ".xz", ".7z", ".zst", ".rar"))
KEYS = ("X", "x", "train", "data", "images")  # of the arrays in one .npz, the one that holds the examples
STEPS = 24  # of a window of a series, where the series is long enough
KNOWN = "CSV, TSV, JSON lines or text (also as .gz), Parquet, npy, npz, wav, flac, a folder of images or sounds"


@dataclass(frozen=True)
class Data:
    """Examples, and what they are.

    Args:
        X: a DataFrame; an array (n, D), (n, H, W), (n, H, W, C), (n, C, H, W) or (n, T, C); a list of strings; one
            long string; `Clips` of sound.
        space: the sample space, inferred over all of `X`. Hand it to an estimator (``space=data.space``) so that a
            level that occurs in the held-out part only is known to it.
        name: for headings: the name of the file.
        notes: what was guessed, a sentence each, with the option that overrides it.
        fingerprint: 16 hexadecimal digits that change with the contents.
        order: "time" if the examples follow one another in time, else None.
    """

    X: Any
    space: Space
    name: str = "data"
    notes: tuple[str, ...] = ()
    fingerprint: str = ""
    order: str | None = None

    @classmethod
    def of(cls, X: Any, *, how: str | dict | Space | None = None, name: str = "data") -> Data:
        """Wrap examples that are in memory already; `how` is as in `plausible.space.infer`."""
        space = infer(X, how)
        order = "time" if isinstance(X, str) or space.type == "series" else None
        return cls(X, space, name, space.guesses, fingerprint(X), order)

    def __len__(self) -> int:
        """The number of examples; of a long text, the number of windows."""
        return len(self.space.windows(self.X)) if isinstance(self.space, (Text, Audio)) else len(self.X)

    def describe(self) -> str:
        """One line for people."""
        noun = {"table": "rows", "image": "images", "text": "texts", "series": "windows", "audio": "windows"}[
            self.space.type
        ]
        noun = "windows" if isinstance(self.X, str) else noun
        return f"{self.name}: {len(self):,} {noun}; {self.space.describe()}"


def read(
    path: str | Path,
    *,
    how: str | None = None,
    kinds: Mapping[str, str] | None = None,
    drop: Sequence[str] = (),
    key: str | None = None,
    header: bool | None = None,
    length: int | None = None,
    vocabulary: str = "characters",
    vocabulary_size: int = 512,
) -> Data:
    """Read a file or a folder.

    Args:
        path: CSV, TSV, JSON lines, text (each also gzipped), Parquet, npy, npz, wav, flac, a folder of images or of
            sounds, or the name of a bundled data set (`plausible.data.bundled.names`).
        how: what it holds: "table", "image", "series", "audio", "text" (one long text) or "lines" (a text a line); None
            guesses.
        kinds: kinds of columns of a table, where the guess is wrong: ``{"age": "real"}``.
        drop: columns to leave out.
        key: which array of an .npz.
        header: whether the first line of a CSV names the columns; None guesses.
        length: steps in a window of a series, samples in one of sound, in one of a long text what stands for one code
            of its vocabulary.
        vocabulary: of text: "characters" (those that it holds), "bytes" or "bpe" (byte pairs), which know all.
        vocabulary_size: tokens of a byte-pair vocabulary, 256 of them the bytes.

    Returns:
        Data: examples, space and notes.

    Raises:
        ReadError: the file cannot be read; the message names it, and says where and what to do.
        DataError: it can, but nothing can be learned from it.
    """
    from plausible.data import bundled

    if how is not None and how not in HOW:
        raise DataError(f"how must be one of {', '.join(HOW)}; got {how!r}")
    path = Path(path)
    if not path.exists() and str(path) in bundled.names():
        return Data.of(bundled.load(str(path)), name=str(path))
    if not path.exists():
        raise ReadError(f"{path}: no such file or folder (bundled data sets: {', '.join(bundled.names())})")
    drop = (drop,) if isinstance(drop, str) else tuple(drop)
    name = path.name or path.resolve().name  # of "."
    with _naming(name):
        found, notes = _load(path, how, key, header)
        if isinstance(found, np.ndarray):
            found, more = _shape_array(found, how, length, drop)
        elif isinstance(found, pd.DataFrame):
            found, more = _shape_frame(found, how, length, drop, dict(kinds or {}))
        else:
            more = ()
        if length is not None and not isinstance(found, (str, list, _Windows)):
            raise DataError("a length is that of windows of a series, of sound or of one long text; leave out --length")
        if drop and not isinstance(found, (pd.DataFrame, _Windows)):
            raise DataError("columns can be dropped from a table or a series only")
        space = _space(found, how, kinds, length, vocabulary, vocabulary_size)
        order = "time" if isinstance(found, (str, _Windows)) or space.type == "series" else None
        X = found.values if isinstance(found, _Windows) else found
        if isinstance(found, Clips) and len(found) == 1:  # one recording: its end is held out, as of a text
            X, order = space.windows(found), "time"
        stamp = fingerprint(X) if path.is_dir() else fingerprint_file(path)
        return Data(X, space, name, (*notes, *more, *space.guesses), stamp, order)


@contextmanager
def _naming(name: str) -> Iterator[None]:
    """Begin the message of any data error with the name of the file."""
    try:
        yield
    except DataError as err:
        raise type(err)(f"{name}: {err}") from None
    except (PermissionError, IsADirectoryError) as err:
        raise ReadError(f"{name}: {err.strerror.lower()}; give a file that you may read") from None


# ------------------------------------------------------------------------------------------------------- loading


def _load(path: Path, how: str | None, key: str | None, header: bool | None) -> tuple[Any, tuple[str, ...]]:
    """The raw contents: DataFrame, array, list of strings or string; and what was guessed."""
    if path.is_dir():
        if how not in (None, "image", "audio"):
            raise DataError(f"a folder is read as images or as sounds; it cannot be read as {how}")
        if how == "audio" or (how is None and not images.image_files(path) and sounds.sound_files(path)):
            return sounds.read_sounds(path), ()
        return images.read_images(path), ()
    if path.stat().st_size == 0:
        raise ReadError("the file is empty; expected at least 2 examples")
    suffix = path.suffix.lower()
    if suffix in sounds.SUFFIXES and how in (None, "audio"):
        return sounds.read_sounds(path), ()
    if how == "audio":
        raise DataError(f"this is no sound; give {', '.join(sorted(sounds.SUFFIXES))} or a folder of them")
    if suffix in ARRAYS:
        return _load_array(path, key)
    if suffix in images.SUFFIXES:
        raise ReadError("this is one image; give the folder that holds the images")
    if suffix in PARQUET:
        return _load_parquet(path), ()
    raw = path.read_bytes()
    if suffix == ".gz":
        raw, suffix = _gunzip(raw), Path(path.stem).suffix.lower()
    return _load_text(raw, suffix, how, header)


def _load_text(raw: bytes, suffix: str, how: str | None, header: bool | None) -> tuple[Any, tuple[str, ...]]:
    if suffix in PACKED:
        raise ReadError("this is an archive; unpack it and give the file or the folder that was in it")
    if b"\0" in raw and raw[:2] not in (b"\xff\xfe", b"\xfe\xff"):  # the marks of UTF-16, of which `decode` complains
        raise ReadError(f"this is a binary file of a kind that is not known; expected {KNOWN}")
    text = texts.decode(raw)
    if not text.strip():
        raise ReadError("the file is empty; expected at least 2 examples")
    if how == "text":
        return text, ()
    if how == "lines":
        return texts.items(text), ()
    if suffix in JSON:
        return tables.read_json(text), ()
    if suffix in DELIMITED or how in ("table", "series") or header is not None:
        return tables.read_delimited(text, tabs=suffix in (".tsv", ".tab"), header=header)
    if how == "image":
        raise DataError("a text file does not hold images; give a folder of them, or an .npy or .npz file")
    if suffix not in texts.PROSE and texts.looks_like_table(text):
        frame, notes = tables.read_delimited(text)
        return frame, ("the lines hold the same number of cells: taken as a table (if it is text: --as text)", *notes)
    if suffix not in texts.PROSE and texts.looks_like_items(text):
        lines = texts.items(text)
        return lines, (f"taken as {len(lines):,} short texts, one a line (if it is one long text: --as text)",)
    return text, ("taken as one long text (if each line is an example: --as lines)",)


def _gunzip(raw: bytes) -> bytes:
    try:
        return gzip.decompress(raw)
    except (OSError, EOFError, zlib.error) as err:
        raise ReadError(f"the file cannot be decompressed ({err}); it is cut short or no gzip file") from None


def _load_parquet(path: Path) -> pd.DataFrame:
    try:
        frame = pd.read_parquet(BytesIO(path.read_bytes()))
    except (OSError, ValueError, NotImplementedError) as err:  # pyarrow's errors are kinds of these
        raise ReadError(f"this is no Parquet file, or it is cut short ({str(err).splitlines()[0]})") from None
    return frame if isinstance(frame.index, pd.RangeIndex) else frame.reset_index(names=frame.index.names)


def _load_array(path: Path, key: str | None) -> tuple[Any, tuple[str, ...]]:
    try:
        stored = np.load(path, allow_pickle=False)
        if isinstance(stored, np.ndarray):
            return _plain_array(stored), ()
        with stored:
            name, notes = choose_array(list(stored.files), key)
            return _plain_array(stored[name]), notes
    except ReadError:
        raise
    except (ValueError, OSError, EOFError, MemoryError, KeyError, zipfile.BadZipFile, zlib.error) as err:
        if "allow_pickle" in str(err) or "pickled" in str(err):
            raise ReadError(
                "the array holds Python objects, which are stored as a pickle and could run code; "
                "save numbers or strings instead (numpy.save of an array that is not of dtype object)"
            ) from None
        raise ReadError(f"this is no {path.suffix} file, or it is cut short ({err})") from None


def choose_array(names: list[str], key: str | None) -> tuple[str, tuple[str, ...]]:
    """Which array of an archive is the data, and what is to be said of that."""
    if not names:
        raise ReadError("the archive holds no arrays")
    if key is not None and key not in names:
        raise ReadError(f"there is no array {key!r}; the archive holds {_listed(names)}")
    if key is not None or len(names) == 1:
        return key or names[0], ()
    name = next((k for k in KEYS if k in names), None)
    if name is None:
        raise ReadError(f"the archive holds several arrays ({_listed(names)}); say which: --key {names[0]}")
    return name, (f"of the arrays {_listed(names)} the one called {name!r} was taken (another: --key)",)


def _listed(names: Sequence[str], most: int = 8) -> str:
    return ", ".join(names[:most]) + (f", ... ({len(names)} in all)" if len(names) > most else "")


def _plain_array(X: np.ndarray) -> Any:
    """In the byte order of this machine; strings as a list; records as a DataFrame."""
    if X.dtype.names:
        return pd.DataFrame.from_records(X)
    if X.dtype.kind in "US" and X.ndim == 1:
        return [str(s) for s in X.astype(str)]
    if X.ndim == 0:
        raise ReadError("the file holds a single number; expected an array of at least 2 examples")
    return X.astype(X.dtype.newbyteorder("="), copy=False)


# ------------------------------------------------------------------------------------------------------- shaping


@dataclass(frozen=True)
class _Windows:
    """Windows (n, T, C) of a series, with the names of its channels."""

    values: np.ndarray
    channels: tuple[str, ...]


def windows(series: Any, length: int, stride: int | None = None) -> np.ndarray:
    """Cut a series into windows.

    Args:
        series: (N,) or (N, C) values in the order of time.
        length: steps T in each window.
        stride: steps from the start of one to the start of the next; `length` (windows that do not overlap) if None.

    Returns:
        array: (n, T, C) float64, n = (N - T) // stride + 1; what is left at the end is left out.
    """
    values = np.asarray(series, dtype=np.float64)
    values = values[:, None] if values.ndim == 1 else values
    stride = length if stride is None else stride
    if values.ndim != 2 or not 1 <= length <= len(values) or stride < 1:
        raise DataError(
            f"cannot cut windows of {length} steps, {stride} apart, from a series of shape {values.shape}; "
            "expected (steps, channels), at least as long as one window"
        )
    cut = np.lib.stride_tricks.sliding_window_view(values, length, axis=0)[::stride]
    return np.ascontiguousarray(np.moveaxis(cut, 2, 1))


def _shape_array(X: np.ndarray, how: str | None, length: int | None, drop: tuple) -> tuple[Any, tuple[str, ...]]:
    if how in ("text", "lines"):
        raise DataError(f"an array of shape {X.shape} does not hold text")
    if X.ndim == 1:
        X = X[:, None]
    if how == "series" and X.ndim == 2:
        return _cut(pd.DataFrame(X).rename(columns=lambda d: f"x{d}"), length, drop)
    if how == "table" and X.ndim > 2:
        return X.reshape(len(X), -1), ()
    side = round(X.shape[1] ** 0.5)
    if how == "image" and X.ndim == 2 and side**2 == X.shape[1]:
        return X.reshape(len(X), side, side), (f"rows of {X.shape[1]} values taken as images of {side}x{side}",)
    if drop and X.ndim == 2:
        frame = pd.DataFrame(X).rename(columns=lambda d: f"x{d}")
        return _without(frame, drop), ()
    return X, ()


def _shape_frame(
    frame: pd.DataFrame, how: str | None, length: int | None, drop: tuple, kinds: dict[str, str]
) -> tuple[Any, tuple[str, ...]]:
    if how in ("image", "text", "lines"):
        raise DataError(f"this holds a table; it cannot be read as {how}")
    frame.columns = pd.Index([str(n) for n in frame.columns])
    frame = _without(frame, drop)
    if len(frame) == 0:
        raise ReadError("the file holds a header line but no rows; at least 2 rows are needed")
    if len(frame) == 1:
        raise ReadError("the file holds one row; at least 2 are needed")
    frame, notes = tables.tidy(frame, untouched=kinds)
    if how == "series" or (how is None and not kinds and _is_series(frame)):
        cut, more = _cut(frame, length, ())
        return cut, more
    return frame, (*notes, *_identifiers(frame, kinds))


def _without(frame: pd.DataFrame, drop: Sequence[str]) -> pd.DataFrame:
    for name in drop:
        if name not in frame.columns:
            raise DataError(f"there is no column {name!r} to drop; the columns are {_listed(list(frame.columns))}")
    if drop and len(set(drop)) >= frame.shape[1]:
        raise DataError("every column is dropped; keep at least one")
    return frame.drop(columns=list(drop))


def _counts_rows(column: pd.Series) -> bool:
    return column.dtype.kind == "i" and len(column) > 1 and bool((np.diff(column.to_numpy()) == 1).all())


def _identifiers(frame: pd.DataFrame, kinds: Mapping[str, str]) -> tuple[str, ...]:
    notes = []
    for name, column in frame.items():
        if name in kinds or len(frame) < 20:
            continue
        if _counts_rows(column):
            notes.append(f"column {name!r} counts the rows; it tells nothing (to leave it out: --drop {name})")
        elif tables.is_words(column) and column.is_unique:
            notes.append(f"column {name!r} differs in every row: an identifier? (to leave it out: --drop {name})")
    return tuple(notes)


def _is_series(frame: pd.DataFrame) -> bool:
    """A date that moves one way all the time, then numbers."""
    if frame.shape[1] < 2 or not pd.api.types.is_datetime64_any_dtype(frame.dtypes.iloc[0]):
        return False
    dates = frame.iloc[:, 0]
    one_way = dates.is_monotonic_increasing or dates.is_monotonic_decreasing
    return dates.is_unique and dates.notna().all() and one_way and all(t.kind in "iuf" for t in frame.dtypes.iloc[1:])


def _cut(frame: pd.DataFrame, length: int | None, drop: tuple) -> tuple[_Windows, tuple[str, ...]]:
    """Windows of a table whose rows follow one another in time, dates left out."""
    frame, why = _without(frame, drop), "taken as a series"
    first = frame.columns[0]
    if pd.api.types.is_datetime64_any_dtype(frame.dtypes.iloc[0]) and frame.shape[1] > 1:
        backwards = frame[first].is_monotonic_decreasing
        frame = (frame.iloc[::-1] if backwards else frame).drop(columns=first)
        why = f"dates in {first!r}, then numbers: taken as a series" + ", turned round (latest last)" * backwards
    for name, column in frame.items():
        if getattr(column.dtype, "kind", "O") not in "biuf":
            raise DataError(f"column {name!r} does not hold numbers, as a series must; drop it (--drop {name})")
        if column.nunique() < 2:
            raise DataError(f"column {name!r} is constant or empty; drop it (--drop {name})")
    steps = min(STEPS, max(2, len(frame) // 8)) if length is None else length
    if len(frame) < 2 * steps:
        raise DataError(f"a series of {len(frame)} steps holds no two windows of {steps}; give a shorter --length")
    cut = windows(frame.to_numpy(dtype=np.float64), steps)
    rest = len(frame) - len(cut) * steps
    note = f"{why}, {len(cut)} windows of {steps} steps" + (f" (the last {rest} left over)" if rest else "")
    return _Windows(cut, tuple(frame.columns)), (f"{note} (other windows: --length; rows of a table: --as table)",)


def _space(
    found: Any, how: str | None, kinds: Mapping[str, str] | None, length: int | None, vocabulary: str, size: int
) -> Space:
    if kinds and not isinstance(found, (pd.DataFrame, np.ndarray)):
        raise DataError("kinds of columns can be given for a table only")
    if isinstance(found, str) or (isinstance(found, list) and not isinstance(found, Clips)):
        return infer_text(found, length=length, vocabulary=vocabulary, size=size)
    if vocabulary != "characters":
        raise DataError("a vocabulary can be given for text only; this is none (if it is: --as text, or --as lines)")
    if isinstance(found, Clips):
        space = infer(found)
        return space if length is None else Audio.of(min(length, max(map(len, found))), space.rate)
    if isinstance(found, _Windows):
        infer(found.values, "series")
        return Series.of(found.values.shape[1], found.channels)
    return infer(found, dict(kinds) if kinds else how)


# --------------------------------------------------------------------------------------------------- fingerprints


def fingerprint_file(path: Path) -> str:
    """16 hexadecimal digits of the SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:16]


def fingerprint(X: Any) -> str:
    """16 hexadecimal digits that change with any value of `X`, or with the order of its examples."""
    from plausible.data.split import row_keys

    if isinstance(X, str):
        return hashlib.sha256(X.encode()).hexdigest()[:16]
    keys = row_keys(X).numpy()
    columns = [str(c) for c in X.columns] if isinstance(X, pd.DataFrame) else []
    shape = (len(X),) if isinstance(X, list) else np.shape(X)
    return hashlib.sha256(repr((columns, shape)).encode() + keys.tobytes()).hexdigest()[:16]
