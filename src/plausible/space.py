"""The sample space: what one example is.

A `Space` knows the kind of every dimension, the shape of an example, its reference measure, and the way between what
the user has (a DataFrame, an array, strings) and *codes*: a tensor of shape (n, \\*shape) in which a level is its
index, an integer or a real is itself, and a missing cell is NaN. Everything downstream sees codes only.

    kind         codes            measure     example
    binary       0, 1             counting    yes/no, a binarised pixel
    categorical  0 .. K-1         counting    a colour, a character
    ordinal      0 .. K-1         counting    a grade, an 8-bit pixel
    count        the integer      counting    visits, an age in years
    real         the number       Lebesgue    a length
"""

from __future__ import annotations

import numbers
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any, ClassVar, Literal

import numpy as np
import torch

from plausible.errors import DataError, SpaceError

Kind = Literal["binary", "categorical", "ordinal", "count", "real"]
KINDS: tuple[Kind, ...] = ("binary", "categorical", "ordinal", "count", "real")

MAX_LEVELS = 1000  # a column of strings with more distinct values is text or an identifier
MAX_SPAN = 32  # integers spanning at most this many values are levels; beyond, they are counts


@dataclass(frozen=True)
class Column:
    """One dimension of an example.

    Args:
        name: what the user calls it.
        kind: see the table at the top of this file.
        levels: the user's values in the order of their codes; empty for counts and reals.
        dtype: the user's dtype, as a string, so that samples get it back.
        low, high: the smallest and largest possible code of a count, or bounds of a real; None where there is none.
        step: the distance between neighbouring codes of a count (one, until a transform rescales it).
    """

    name: str
    kind: Kind
    levels: tuple = ()
    dtype: str = "float64"
    low: float | None = None
    high: float | None = None
    step: float = 1.0

    @property
    def discrete(self) -> bool:
        return self.kind != "real"

    @property
    def n_levels(self) -> int:
        return len(self.levels)

    def encode(self, values: Any) -> np.ndarray:
        """Return the float64 codes of one column of values, NaN where missing."""
        import pandas as pd

        series = pd.Series(values)
        if self.levels:
            return self._encode_levels(series)
        if pd.api.types.is_datetime64_any_dtype(series.dtype):
            series = _seconds(series)
        codes = _as_numbers(series, self.name)
        if np.isinf(codes).any():
            raise DataError(f"column {self.name!r} holds infinity; replace it by a number or by NaN for missing")
        if self.kind == "count":
            low = -np.inf if self.low is None else self.low
            bad = ~np.isnan(codes) & ((codes != np.round(codes)) | (codes < low))
            if bad.any():
                floor = "" if self.low is None else f" not below {self.low:g}"
                raise SpaceError(
                    f"column {self.name!r} was fitted on integers{floor}, got {codes[bad][0]:g}; "
                    f"fit again with space={{{self.name!r}: 'real'}} if it may hold such values"
                )
        return codes

    def _encode_levels(self, series) -> np.ndarray:
        import pandas as pd

        index = pd.Index(self.levels)
        if not pd.api.types.is_numeric_dtype(index.dtype):
            series = series.astype(object).where(series.notna(), None)
        codes = index.get_indexer(pd.Index(series)).astype(float)
        missing = series.isna().to_numpy()
        unseen = (codes < 0) & ~missing
        if unseen.any():
            value = series[unseen].iloc[0]
            if _is_infinite(value):
                raise DataError(f"column {self.name!r} holds infinity; replace it by a number or by NaN for missing")
            raise SpaceError(
                f"column {self.name!r} holds {_plain(value)!r}, a level not seen when fitting "
                f"({_some(self.levels)}); drop those rows, or fit on data that hold it"
            )
        return np.where(missing, np.nan, codes)

    def decode(self, codes: np.ndarray):
        """Return the user's values, as a pandas Series of the dtype they came with; a NaN becomes a missing cell.

        Where that dtype has no missing cells (integers, booleans), float64 or object stands in.
        """
        import pandas as pd

        codes = np.asarray(codes, dtype=float)
        missing = np.isnan(codes)
        if missing.any():
            values = self.decode(codes[~missing]).reset_index(drop=True)
            if isinstance(values.dtype, np.dtype) and values.dtype.kind in "biu":
                values = values.astype(object if values.dtype.kind == "b" else np.float64)
            place = np.where(missing, -1, np.cumsum(~missing) - 1)
            return values.reindex(place).reset_index(drop=True)
        if self.levels:
            chosen = np.clip(codes, 0, self.n_levels - 1).astype(int)
            if self.dtype.startswith("category"):
                ordered = self.dtype.endswith("ordered")
                values = pd.Categorical.from_codes(chosen, categories=list(self.levels), ordered=ordered)
                return pd.Series(values)
            values = pd.Series(np.array(self.levels, dtype=object)[chosen])
        elif self.dtype.startswith("datetime64"):
            zone = {"utc": True} if "," in self.dtype else {}  # datetime64[us, Europe/Rome] has one
            values = pd.Series(pd.to_datetime(np.round(codes * 1e9).astype("int64"), **zone))
            values = values.dt.round(self.dtype.removeprefix("datetime64[").split(",")[0].rstrip("]"))  # not truncated
        else:
            values = pd.Series(_fitting(np.round(codes) if self.kind == "count" else codes, self.dtype))
        return values.astype(self.dtype)


@dataclass(frozen=True)
class Space:
    """Columns in a shape. Transforms map one such space to another; the user's own spaces are the subclasses.

    Args:
        columns: the D dimensions, in the order of a flattened example.
        shape: the shape of one example; its entries multiply to D.
        guesses: sentences about what was guessed, each with the way to override it.
    """

    columns: tuple[Column, ...]
    shape: tuple[int, ...]
    guesses: tuple[str, ...] = field(default=(), compare=False)

    type: ClassVar[str] = "vector"
    unit: ClassVar[str] = "dimension"

    @property
    def dims(self) -> int:
        return len(self.columns)

    @property
    def kinds(self) -> frozenset[str]:
        return frozenset(c.kind for c in self.columns)

    @property
    def measure(self) -> str:
        """The reference measure of a density on this space: 'counting', 'Lebesgue' or 'mixed'."""
        discrete = {c.discrete for c in self.columns}
        return "mixed" if len(discrete) == 2 else "counting" if True in discrete else "Lebesgue"

    def observed(self, x: torch.Tensor) -> torch.Tensor:
        """Count the observed dimensions of each example: (n, \\*shape) -> (n,)."""
        flat = x.reshape(len(x), -1)
        if not flat.is_floating_point():
            return torch.full((len(x),), float(flat.shape[1]), dtype=torch.float64)
        return (~flat.isnan()).sum(1).double()

    def replace(self, columns: Iterable[Column]) -> Space:
        """Return the plain space with other columns in the same shape: what a transform makes of this one."""
        return Space(tuple(columns), self.shape)

    def encode(self, X: Any) -> torch.Tensor:
        raise TypeError(f"a space of type {self.type!r} holds codes already")

    decode = encode

    def describe(self) -> str:
        """One line for people: ``table of 14 columns (6 real, 8 categorical)``."""
        counts = {k: sum(c.kind == k for c in self.columns) for k in KINDS}
        listed = ", ".join(f"{v} {k}" for k, v in counts.items() if v)
        return f"{self.type} of {self.dims} columns ({listed})"

    def to_json(self) -> dict:
        data = {f.name: getattr(self, f.name) for f in fields(self) if f.init and f.name != "columns"}
        return {"type": self.type, **data, "columns": _pack(self.columns)}


@dataclass(frozen=True)
class Table(Space):
    """Rows of a DataFrame (`numbered` if its names are integers), or of a 2-D array when `array_dtype` is given."""

    array_dtype: str | None = None
    numbered: bool = False
    type: ClassVar[str] = "table"
    unit: ClassVar[str] = "column"

    @property
    def names(self) -> list[str]:
        return [c.name for c in self.columns]

    def encode(self, X: Any) -> torch.Tensor:
        import pandas as pd

        if isinstance(X, pd.DataFrame) and self.array_dtype is None:
            names = [str(n) for n in X.columns]
            absent = [n for n in self.names if n not in names]
            if absent:
                raise SpaceError(f"column {absent[0]!r} is missing: expected {_some(self.names)}, got {_some(names)}")
            codes = [
                c.encode(
                    X.iloc[:, names.index(c.name)].to_numpy(dtype=object, na_value=None)
                    if c.levels
                    else X.iloc[:, names.index(c.name)]
                )
                for c in self.columns
            ]
            return _compact(np.stack(codes, 1) if codes else np.empty((len(X), 0)), self.columns)
        X = as_matrix(X)
        if X.shape[1] != self.dims:
            raise SpaceError(f"X has {X.shape[1]} features, but the model is expecting {self.dims} features as input")
        first = self.columns[0]
        if X.dtype != object and all(c.levels == first.levels and c.kind == first.kind for c in self.columns):
            flat = replace(first, name="values").encode(X.reshape(-1))  # one look-up for all columns
            return _compact(flat.reshape(X.shape), self.columns)
        return _compact(np.stack([c.encode(X[:, d]) for d, c in enumerate(self.columns)], 1), self.columns)

    def decode(self, x: torch.Tensor) -> Any:
        import pandas as pd

        codes = x.detach().cpu().double().numpy()
        if self.array_dtype is None:
            frame = pd.DataFrame({c.name: c.decode(codes[:, d]) for d, c in enumerate(self.columns)})
            return frame.rename(columns=int) if self.numbered else frame
        values = [c.decode(codes[:, d]).to_numpy() for d, c in enumerate(self.columns)]
        holes = np.isnan(codes).any() and np.dtype(self.array_dtype).kind in "biu"
        return np.stack(values, 1).astype(np.float64 if holes else self.array_dtype)


@dataclass(frozen=True)
class Image(Space):
    """Images of one size, as arrays (n, H, W), (n, C, H, W) or (n, H, W, C); `shape` is always (C, H, W)."""

    layout: str = "HW"
    dtype: str = "uint8"
    type: ClassVar[str] = "image"
    unit: ClassVar[str] = "pixel value"

    @classmethod
    def of(cls, shape: tuple[int, int, int], pixel: Column, layout: str, dtype: str, guesses=()) -> Image:
        return cls((pixel,) * int(np.prod(shape)), shape, guesses, layout, dtype)

    @property
    def pixel(self) -> Column:
        return self.columns[0]

    def encode(self, X: Any) -> torch.Tensor:
        X = np.asarray(X)
        channels, height, width = self.shape
        expected = {"HW": (height, width), "CHW": self.shape, "HWC": (height, width, channels)}[self.layout]
        if X.shape[1:] != expected:
            raise SpaceError(f"expected images of shape (n, {', '.join(map(str, expected))}), got {X.shape}")
        if self.layout == "HWC":
            X = np.moveaxis(X, 3, 1)
        X = X.reshape(len(X), *self.shape)
        pixel = self.pixel
        if not pixel.levels:
            if not np.isfinite(X).all():
                raise DataError("the images hold NaN or infinity; replace them by numbers")
            return torch.from_numpy(np.ascontiguousarray(X, dtype=np.float64))
        if not np.isfinite(X).all() or X.min(initial=0) < 0 or X.max(initial=0) >= pixel.n_levels:
            raise SpaceError(f"expected pixel values 0 to {pixel.n_levels - 1}, got {X.min()} to {X.max()}")
        if X.dtype.kind == "f" and (X != np.round(X)).any():
            raise SpaceError(f"expected the integers 0 to {pixel.n_levels - 1} as pixel values, got fractions")
        return torch.from_numpy(np.ascontiguousarray(X).astype(np.uint8))

    def decode(self, x: torch.Tensor) -> np.ndarray:
        X = x.detach().cpu().numpy().reshape(len(x), *self.shape)
        if self.pixel.levels:
            X = np.clip(np.round(X), 0, self.pixel.n_levels - 1)
        X = {"HW": lambda: X[:, 0], "CHW": lambda: X, "HWC": lambda: np.moveaxis(X, 1, 3)}[self.layout]()
        return np.ascontiguousarray(X).astype(self.dtype)

    def describe(self) -> str:
        channels, height, width = self.shape
        depth = f"{self.pixel.n_levels} levels" if self.pixel.levels else "real values"
        colour = {1: "grey", 3: "colour"}.get(channels, f"{channels}-channel")
        return f"{colour} images of {height}x{width} pixels, {depth}"

    def to_json(self) -> dict:  # one pixel stands for all
        return {**super().to_json(), "columns": _pack(self.columns[:1])}


@dataclass(frozen=True)
class Text(Space):
    """Strings over an alphabet.

    With `end`, an example is one whole string: code K-1 ends it and what follows is NaN, not observed. One of full
    length ends of itself, so that the mass of all strings is one. Without, a long text is cut into windows of `length`
    characters, of which the last may be shorter.
    """

    end: bool = True
    type: ClassVar[str] = "text"
    unit: ClassVar[str] = "character"

    @classmethod
    def of(cls, alphabet: Sequence[str], length: int, end: bool, guesses=()) -> Text:
        levels = (*alphabet, "") if end else tuple(alphabet)  # the empty string is the end of text
        names = (f"character {t}" for t in range(length))
        columns = tuple(Column(name, "categorical", levels, "str") for name in names)
        return cls(columns, (length,), guesses, end)

    @property
    def length(self) -> int:
        return self.dims

    def windows(self, X: str | Sequence[str]) -> list[str]:
        """Cut a long text into the windows it is modelled by; leave whole strings as they are."""
        if isinstance(X, str):
            return [X[i : i + self.length] for i in range(0, len(X), self.length)]
        return [str(s) for s in X]

    def encode(self, X: Any) -> torch.Tensor:
        strings = self.windows(X)
        levels = self.columns[0].levels
        code = {c: i for i, c in enumerate(levels)}
        longest = max(strings, key=len, default="")
        if len(longest) > self.length:
            raise SpaceError(
                f"a string has {len(longest)} characters, the model was fitted on at most {self.length}: "
                f"{longest[:40]!r}...; cut it, or fit on longer strings"
            )
        x = torch.full((len(strings), self.dims), torch.nan, dtype=torch.float32)
        for i, s in enumerate(strings):
            try:
                codes = [code[c] for c in s]
            except KeyError as unknown:
                raise SpaceError(
                    f"string {i} holds the character {unknown.args[0]!r}, which was not seen when fitting; "
                    "remove it, or fit on text that holds it"
                ) from None
            if self.end and len(s) < self.length:
                codes.append(len(levels) - 1)
            x[i, : len(codes)] = torch.tensor(codes, dtype=torch.float32)
        return x

    def decode(self, x: torch.Tensor) -> list[str]:
        levels = self.columns[0].levels
        strings = []
        for row in x.detach().cpu().tolist():
            characters = []
            for code in row:
                if np.isnan(code) or not levels[int(code)]:
                    break
                characters.append(levels[int(code)])
            strings.append("".join(characters))
        return strings

    def describe(self) -> str:
        size = self.columns[0].n_levels - self.end
        how = f"strings of at most {self.length}" if self.end else f"windows of {self.length}"
        return f"text, {how} characters from an alphabet of {size}"

    def to_json(self) -> dict:
        return {**super().to_json(), "columns": _pack(self.columns[:1])}


@dataclass(frozen=True)
class Series(Space):
    """Windows of a real time series, as arrays (n, T, C); `shape` is (T, C)."""

    type: ClassVar[str] = "series"
    unit: ClassVar[str] = "value"

    @classmethod
    def of(cls, steps: int, channels: Sequence[str], guesses=()) -> Series:
        columns = tuple(Column(f"{name}[{t}]", "real") for t in range(steps) for name in channels)
        return cls(columns, (steps, len(channels)), guesses)

    def encode(self, X: Any) -> torch.Tensor:
        X = np.asarray(X, dtype=np.float64)
        if X.shape[1:] != self.shape:
            raise SpaceError(f"expected windows of shape (n, {self.shape[0]}, {self.shape[1]}), got {X.shape}")
        if np.isinf(X).any():
            raise DataError("the series holds infinity; replace it by a number or by NaN for missing")
        return torch.from_numpy(np.ascontiguousarray(X))

    def decode(self, x: torch.Tensor) -> np.ndarray:
        return x.detach().cpu().double().numpy().reshape(len(x), *self.shape)

    def describe(self) -> str:
        return f"series, windows of {self.shape[0]} steps of {self.shape[1]} channel(s)"


SPACES: dict[str, type[Space]] = {s.type: s for s in (Space, Table, Image, Text, Series)}


def from_json(data: dict) -> Space:
    """Rebuild the space that `Space.to_json` described."""
    data = dict(data)
    kind = SPACES[data.pop("type")]
    columns, data["shape"] = _unpack(data.pop("columns")), tuple(data["shape"])
    data["guesses"] = tuple(data.get("guesses", ()))
    if kind is Image:
        return Image.of(data["shape"], columns[0], data["layout"], data["dtype"], data["guesses"])
    if kind is Text:
        end, levels = data["end"], columns[0].levels
        return Text.of(levels[: len(levels) - end], data["shape"][0], end, data["guesses"])
    return kind(columns=columns, **data)


# ---------------------------------------------------------------------------------------------------- inference


def infer(X: Any, how: str | dict | Space | None = None) -> Space:
    """Work out what one example of `X` is.

    Args:
        X: a DataFrame; an array of shape (n, D), (n, H, W), (n, C, H, W), (n, H, W, C) or (n, T, C); a list of
            strings; one long string.
        how: what overrides the guess: a `Space`, one of 'table', 'image', 'series', 'text', or a mapping from column
            to kind for a table.

    Raises:
        DataError: nothing can be learned from `X`; the message names the column and the remedy.
    """
    import pandas as pd

    if isinstance(how, Space):
        return how
    kinds = {str(k): v for k, v in how.items()} if isinstance(how, dict) else {}
    wanted = how if isinstance(how, str) else None
    if wanted not in (None, "table", "image", "series", "text"):
        raise DataError(f"space must be 'table', 'image', 'series', 'text', a dict or a Space; got {how!r}")
    if isinstance(X, str) or (wanted in (None, "text") and _all_strings(X)):
        _check_no_kinds(kinds, "text")
        return _infer_text(X)
    if wanted == "text":
        raise DataError(f"space='text' needs a string or a list of strings, got {type(X).__name__}")
    if isinstance(X, pd.DataFrame):
        if wanted in ("image", "series"):
            raise DataError(f"space={wanted!r} needs an array of 3 or 4 dimensions, got a DataFrame")
        return _infer_frame(X, kinds)
    array = np.asarray(X.cpu() if isinstance(X, torch.Tensor) else X) if not _is_sparse(X) else X
    ndim = getattr(array, "ndim", 0)
    if ndim in (3, 4) and array.dtype != object:
        _check_no_kinds(kinds, "images and series")
        if len(array) == 0:
            raise DataError(f"found an array of shape {array.shape} with no examples in it")
        if wanted == "table":
            raise DataError(f"space='table' needs an array of 2 dimensions, got {ndim}; reshape it to (n, D)")
        if wanted == "series" or (wanted is None and ndim == 3 and _looks_like_series(array)):
            return _infer_series(array)
        return _infer_image(array)
    if wanted in ("image", "series"):
        raise DataError(f"space={wanted!r} needs an array of 3 or 4 dimensions, got {ndim}")
    return _infer_matrix(as_matrix(X), kinds)


def as_matrix(X: Any) -> np.ndarray:
    """Return `X` as a 2-D array, refusing what is not one in scikit-learn's words."""
    import pandas as pd
    from sklearn.utils import check_array

    if isinstance(X, pd.DataFrame):
        X = X.to_numpy()
    if isinstance(X, torch.Tensor):
        X = X.cpu().numpy()
    X = check_array(X, dtype=None, ensure_all_finite=False, ensure_min_samples=0)
    if X.dtype == object:
        for value in X.ravel():
            if value is not None and not isinstance(value, (str, numbers.Number, np.generic)):
                raise TypeError(f"argument must be a string or a number, not {type(value).__name__!r}")
    return X


def _infer_frame(frame, kinds: dict[str, str]) -> Table:
    names = [str(n) for n in frame.columns]
    doubled = {n for n in names if names.count(n) > 1}
    if doubled:
        raise DataError(f"the column name {min(doubled)!r} occurs more than once; rename one of them")
    _check_overrides(kinds, names)
    _check_rows(*frame.shape)
    found = [_infer_column(name, frame.iloc[:, d], kinds.get(name)) for d, name in enumerate(names)]
    numbered = all(isinstance(n, numbers.Integral) for n in frame.columns)
    return Table(tuple(c for c, _ in found), (len(names),), _guesses(found), numbered=numbered)


def _infer_matrix(X: np.ndarray, kinds: dict[str, str]) -> Table:
    import pandas as pd

    names = [f"x{d}" for d in range(X.shape[1])]
    _check_overrides(kinds, names)
    _check_rows(*X.shape)
    shared = None if kinds else _shared_levels(X)
    if shared is not None:
        columns = tuple(replace(shared, name=n) for n in names)
        return Table(columns, (len(names),), (), str(X.dtype))
    found = [_infer_column(n, pd.Series(X[:, d]).infer_objects(), kinds.get(n)) for d, n in enumerate(names)]
    return Table(tuple(c for c, _ in found), (len(names),), _guesses(found), str(X.dtype))


def _shared_levels(X: np.ndarray) -> Column | None:
    """The pixel all columns share, where every value of an array is a small integer (flattened images, bits)."""
    if X.dtype == object or X.shape[1] < 2 or not np.issubdtype(X.dtype, np.number) and X.dtype != bool:
        return None
    known = X if X.dtype.kind in "iub" else X[~np.isnan(X)]
    if known.size == 0 or not np.isfinite(known).all() or (known != np.round(known)).any():
        return None
    low, high = float(known.min()), float(known.max())
    if X.dtype == np.uint8 and high >= MAX_SPAN:
        low, high = 0.0, 255.0
    elif high == low or high - low >= MAX_SPAN:
        return None
    elif low > 0 and X.shape[1] > 1 and high > low:
        low = float(min(low, 0)) if X.dtype == np.uint8 else low
    as_value = bool if X.dtype == bool else int
    levels = tuple(as_value(v) for v in np.arange(low, high + 1))
    return Column("", "binary" if len(levels) == 2 else "ordinal", levels, str(X.dtype))


def _infer_column(name: str, series, kind: str | None) -> tuple[Column, str | None]:
    """Return the column and, where its kind was a doubtful guess, what else it might be."""
    import pandas as pd

    dtype = str(series.dtype)
    known = series.dropna()
    if len(known) == 0:
        raise DataError(f"column {name!r} is empty: every cell is missing; drop it")
    if isinstance(series.dtype, pd.CategoricalDtype):
        levels = tuple(_plain(v) for v in series.cat.categories)
        guess = "ordinal" if series.cat.ordered else "binary" if len(levels) == 2 else "categorical"
        dtype = "category, ordered" if series.cat.ordered else "category"
        return _levels_column(name, kind or guess, levels, dtype), None
    if pd.api.types.is_datetime64_any_dtype(series.dtype):
        if kind not in (None, "real"):
            raise DataError(f"column {name!r} holds dates, which are real; make them strings to use them as {kind}")
        return _real_column(name, _seconds(known), dtype), None
    if pd.api.types.is_bool_dtype(series.dtype):
        _check_varies(name, known.unique())
        return _levels_column(name, kind or "binary", (False, True), dtype), None
    if not pd.api.types.is_numeric_dtype(series.dtype):
        levels = tuple(sorted({_plain(v) for v in known.unique()}, key=lambda v: (str(type(v)), v)))
        return _levels_column(name, kind or ("binary" if len(levels) == 2 else "categorical"), levels, dtype), None
    values = _as_numbers(known, name)
    if np.isinf(values).any():
        raise DataError(f"column {name!r} holds infinity; replace it by a number or by NaN for missing")
    integers = (values == np.round(values)).all() and np.abs(values).max() < 2**53
    if kind == "real" or (kind is None and not integers):
        return _real_column(name, values, dtype), None
    distinct = np.unique(values)
    if kind == "categorical" or kind == "binary" or (kind is None and len(distinct) == 2):
        levels = tuple(_plain(v) for v in (distinct.astype(int) if integers else distinct))
        return _levels_column(name, kind or "binary", levels, dtype), None
    if not integers:
        raise DataError(f"column {name!r} cannot be a {kind}: it holds {distinct[0]:g}, which is not an integer")
    _check_varies(name, distinct)
    low, high = int(distinct[0]), int(distinct[-1])
    ordinal = high - low < MAX_SPAN
    if kind == "ordinal" or (kind is None and ordinal):
        levels = tuple(range(low, high + 1))
        return _levels_column(name, "ordinal", levels, dtype), "count" if kind is None else None
    return Column(name, "count", (), dtype, 0.0 if low >= 0 else None), "categorical or real" if kind is None else None


def _guesses(found: Sequence[tuple[Column, str | None]]) -> tuple[str, ...]:
    """A sentence for each kind of doubtful guess, naming the columns it was made for."""
    sentences = []
    taken_as = {"count": "a few integers taken as ordered levels", "categorical or real": "integers taken as counts"}
    for other, taken in taken_as.items():
        names = [c.name for c, doubt in found if doubt == other]
        if names:
            noun = "column" if len(names) == 1 else "columns"
            sentences.append(f"{noun} {_some(names)}: {taken} (if {other}: --kind {names[0]}={other.split()[0]})")
    return tuple(sentences)


def _levels_column(name: str, kind: str, levels: tuple, dtype: str) -> Column:
    if kind not in ("binary", "categorical", "ordinal"):
        raise DataError(f"column {name!r} holds values such as {levels[0]!r}; it cannot be of kind {kind!r}")
    if kind == "binary" and len(levels) != 2:
        raise DataError(f"column {name!r} has {len(levels)} distinct values; a binary column has 2")
    if len(levels) > MAX_LEVELS:
        raise DataError(
            f"column {name!r} has {len(levels):,} distinct values; a categorical column may have {MAX_LEVELS:,}. "
            f"If it is an identifier or free text, drop it (--drop {name}); otherwise group its rare values"
        )
    _check_varies(name, levels)
    odd = [v for v in levels if not isinstance(v, (str, bool, int, float))]  # what a file can hold
    if odd:
        raise DataError(f"column {name!r} holds {type(odd[0]).__name__} objects; turn them into strings or numbers")
    return Column(name, kind, levels, dtype)


def _real_column(name: str, values, dtype: str) -> Column:
    values = np.asarray(values)
    _check_varies(name, np.unique([values.min(), values.max()]))  # no sort of a million reals
    return Column(name, "real", (), dtype)


def _infer_image(X: np.ndarray) -> Image:
    if X.ndim == 3:
        layout, shape = "HW", (1, *X.shape[1:])
    elif X.shape[1] not in (1, 3, 4) and X.shape[3] in (1, 3, 4):
        layout, shape = "HWC", (X.shape[3], *X.shape[1:3])
    else:
        layout, shape = "CHW", X.shape[1:]
    _check_rows(len(X), int(np.prod(shape)))
    if not np.isfinite(X).all():
        raise DataError("the images hold NaN or infinity; replace them by numbers")
    high, low = float(X.max()), float(X.min())
    if high == low:
        raise DataError(f"every pixel of every image is {low:g}; there is nothing to learn")
    if low < 0 or high > 255 or (X.dtype.kind == "f" and (X != np.round(X)).any()):
        pixel = Column("pixel", "real", (), str(X.dtype))
    else:
        n_levels = int(high) + 1 if high < MAX_SPAN else 256
        pixel = Column("pixel", "binary" if n_levels == 2 else "ordinal", tuple(range(n_levels)), str(X.dtype))
    return Image.of(tuple(int(s) for s in shape), pixel, layout, str(X.dtype))


def _looks_like_series(X: np.ndarray) -> bool:
    return X.dtype.kind == "f" and X.shape[2] < 8 and (X != np.round(X)).any()


def _infer_series(X: np.ndarray) -> Series:
    _check_rows(len(X), X.shape[1])
    if X.ndim != 3:
        raise DataError(f"space='series' needs windows of shape (n, T, C), got {X.shape}")
    guess = f"an array of shape {X.shape} taken as series of {X.shape[1]} steps (if these are images: space='image')"
    return Series.of(X.shape[1], [f"c{c}" for c in range(X.shape[2])], (guess,))


def _infer_text(X: str | Iterable[str], window: int = 64) -> Text:
    if isinstance(X, str):
        if len(X) < 2:
            raise DataError(f"the text has {len(X)} characters; there is nothing to learn")
        if len(set(X)) == 1:
            raise DataError(f"every character of the text is {X[0]!r}; there is nothing to learn")
        return Text.of(sorted(set(X)), min(window, len(X)), end=False)
    strings = [str(s) for s in X]
    _check_rows(len(strings), 1)
    length = max(map(len, strings))
    if length == 0:
        raise DataError("every string is empty; there is nothing to learn")
    if length > 1024:
        raise DataError(
            f"the longest string has {length:,} characters; at most 1,024 are modelled as one example. "
            "Pass one long string instead of a list to model windows of it"
        )
    return Text.of(sorted(set("".join(strings))), length, end=True)


# ------------------------------------------------------------------------------------------------------ helpers


def _check_rows(n: int, d: int) -> None:
    if d == 0:
        raise DataError(f"found 0 feature(s) (shape=({n}, 0)) while a minimum of 1 is required")
    if n == 0:
        raise DataError(f"found 0 sample(s) (shape=(0, {d})) while a minimum of 2 is required: the data are empty")
    if n == 1:
        raise DataError("found n_samples=1 while a minimum of 2 is required: one example tells of no distribution")


def _check_no_kinds(kinds: dict[str, str], what: str) -> None:
    if kinds:
        raise DataError(f"kinds by column ({_some(list(kinds))}) are for tables; {what} have none")


def _check_overrides(kinds: dict[str, str], names: list[str]) -> None:
    for name, kind in kinds.items():
        if name not in names:
            raise DataError(f"space names a column {name!r}, the data have {_some(names)}")
        if kind not in KINDS:
            raise DataError(f"the kind of {name!r} must be one of {', '.join(KINDS)}; got {kind!r}")


def _check_varies(name: str, distinct: Sequence) -> None:
    if len(distinct) == 1:
        raise DataError(f"column {name!r} is constant: every value is {_plain(distinct[0])!r}; drop it (--drop {name})")


def _compact(codes: np.ndarray, columns: tuple[Column, ...]) -> torch.Tensor:
    """Bytes where every code is a small level, so that 50,000 x 784 bits take 39 MB and not 314."""
    if all(c.levels and c.n_levels <= 256 for c in columns) and not np.isnan(codes).any():
        return torch.from_numpy(codes.astype(np.uint8))
    return torch.from_numpy(np.array(codes, dtype=np.float64))


def _as_numbers(series, name: str) -> np.ndarray:
    if getattr(series.dtype, "kind", "") == "c":
        raise DataError("Complex data not supported: pass real and imaginary parts as two columns")
    try:
        return series.to_numpy(dtype=np.float64, na_value=np.nan)
    except (ValueError, TypeError) as err:
        raise SpaceError(f"column {name!r} was fitted on numbers, got values that are not: {err}") from None


def _seconds(series):
    """Seconds since 1970 of a datetime column, NaN where missing."""
    import pandas as pd

    seconds = (series - pd.Timestamp(0, tz=getattr(series.dt, "tz", None))) / pd.Timedelta(seconds=1)
    return seconds.astype(float)


def _fitting(codes: np.ndarray, dtype: str) -> np.ndarray:
    """Round what is to be an integer, and keep it within its type: a cast would truncate and wrap around."""
    name = dtype.lower()
    if not name.startswith(("int", "uint")):
        return codes
    limits = np.iinfo(name)
    return codes.round() if name.endswith("64") else codes.round().clip(limits.min, limits.max)


def _plain(value: Any) -> Any:
    """A numpy scalar as the Python value that JSON can hold."""
    return value.item() if isinstance(value, np.generic) else value


def _is_infinite(value: Any) -> bool:
    return isinstance(value, numbers.Real) and np.isinf(value)


def _is_sparse(X: Any) -> bool:
    return hasattr(X, "tocsr")


def _all_strings(X: Any) -> bool:
    values = X.tolist() if hasattr(X, "tolist") and getattr(X, "ndim", 0) == 1 else X
    return isinstance(values, (list, tuple)) and len(values) > 0 and all(isinstance(v, str) for v in values)


def _some(values: Sequence, most: int = 6) -> str:
    shown = ", ".join(repr(_plain(v)) for v in list(values)[:most])
    return shown + (f", ... ({len(values)} in all)" if len(values) > most else "")


def _pack(columns: Sequence[Column]) -> list[dict]:
    return [asdict(c) for c in columns]


def _unpack(columns: list[dict]) -> tuple[Column, ...]:
    return tuple(Column(**{**c, "levels": tuple(c["levels"])}) for c in columns)
