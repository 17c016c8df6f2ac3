"""One dimension of an example, and the way between its values and its codes."""

from __future__ import annotations

import numbers
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

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
        coarse: a multiple of the step; the codes of some examples are all so many of it above `low`, as those of sound
            of 8 bits that is stored in 16. None where nothing is known of such.
    """

    name: str
    kind: Kind
    levels: tuple = ()
    dtype: str = "float64"
    low: float | None = None
    high: float | None = None
    step: float = 1.0
    coarse: float | None = None

    def __deepcopy__(self, memo: dict) -> Column:
        """Return itself, of which nothing changes: copies of a model of images would make thousands."""
        return self

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
            series = seconds_of(series)
        codes = as_numbers(series, self.name)
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
            whole = self.kind == "ordinal" and pd.api.types.is_integer_dtype(index.dtype)
            count = f", or fit with space={{{self.name!r}: 'count'}} if it may hold any integer" if whole else ""
            raise SpaceError(
                f"column {self.name!r} holds {plain(value)!r}, a level not seen when fitting "
                f"({some(self.levels)}); drop those rows, or fit on data that hold it{count}"
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


def as_numbers(series, name: str) -> np.ndarray:
    if getattr(series.dtype, "kind", "") == "c":
        raise DataError("Complex data not supported: pass real and imaginary parts as two columns")
    try:
        return series.to_numpy(dtype=np.float64, na_value=np.nan)
    except (ValueError, TypeError) as err:
        raise SpaceError(f"column {name!r} was fitted on numbers, got values that are not: {err}") from None


def seconds_of(series):
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


def plain(value: Any) -> Any:
    """A numpy scalar as the Python value that JSON can hold."""
    return value.item() if isinstance(value, np.generic) else value


def _is_infinite(value: Any) -> bool:
    return isinstance(value, numbers.Real) and np.isinf(value)


def some(values: Sequence, most: int = 6) -> str:
    shown = ", ".join(repr(plain(v)) for v in list(values)[:most])
    return shown + (f", ... ({len(values)} in all)" if len(values) > most else "")
