"""Training rows and held-out rows.

Which side a row falls on is decided by a hash of the row: the same in every process and on every machine, untouched
by the rows around it, so that a file that grows keeps its held-out rows. Equal rows fall on the same side, so that no
model is tested on a row it has seen. What follows in time (series, one long text) is split by time: the end is held
out.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch

from plausible.errors import DataError
from plausible.randomness import GOLDEN, hash_words, mix
from plausible.space import Clips, Text, infer

BLOCK = 1 << 17  # values hashed at once: 1 MB, which stays in the cache (ten times faster than 32 MB)


def split(
    data: Any, *, test_fraction: float = 0.2, seed: int = 0, order: str | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Split examples into a training part and a held-out part.

    Args:
        data: a `Data`, or examples: DataFrame, array, list of strings, one long string.
        test_fraction: the share to hold out, between 0 and 1.
        seed: picks one of many splits.
        order: "time" holds out the last part; "hash" decides by the hash of each row; None takes what `data` says,
            and time for a long text or windows of a series.

    Returns:
        (train, test): increasing int64 indices, neither empty, for `take`. Of a long text they count characters.

    Raises:
        DataError: there are too few examples, or they are all equal.

    Notes:
        Where fewer than half of the rows are distinct (a few binary columns, say), equal rows are no accident: keeping
        them together would hold out *values*, and the two parts would follow different distributions. Then the k-th
        copy of a row is hashed as such, and copies fall on both sides.
        Where the hash leaves one side with less than a quarter of its share (small data), the rows with the smallest
        hashes are held out instead.
    """
    from plausible.data.read import Data

    if not 0 < test_fraction < 1:
        raise DataError(f"test_fraction must lie between 0 and 1, got {test_fraction!r}")
    if order not in (None, "time", "hash"):
        raise DataError(f"order must be 'time', 'hash' or None, got {order!r}")
    X = data.X if isinstance(data, Data) else data
    if order is None:
        order = data.order if isinstance(data, Data) else _order(X)
    if order == "time" or isinstance(X, str):
        length = data.space.length if isinstance(data, Data) and isinstance(data.space, Text) else None
        return _by_time(X, test_fraction, length)
    return _by_hash(row_keys(X), test_fraction, seed)


def take(X: Any, index: Sequence[int] | np.ndarray) -> Any:
    """The examples of `X` at `index`, in that order; of one long string, the characters from the first to the last."""
    if isinstance(X, str):
        first, last = int(index[0]), int(index[-1]) + 1
        if last - first != len(index):
            raise DataError("a long text can be cut into stretches only; give indices that follow one another")
        return X[first:last]
    if isinstance(X, pd.DataFrame):
        return X.iloc[np.asarray(index)]
    if isinstance(X, (list, tuple)):
        taken = [X[i] for i in index]
        return Clips(taken, X.rate) if isinstance(X, Clips) else taken
    return X[torch.as_tensor(np.asarray(index))] if isinstance(X, torch.Tensor) else np.asarray(X)[np.asarray(index)]


def _order(X: Any) -> str | None:
    if isinstance(X, str):
        return "time"
    if isinstance(X, (pd.DataFrame, list, tuple)) or getattr(X, "ndim", 0) != 3:
        return None
    X = np.asarray(X)
    return "time" if X.dtype.kind == "f" and len(X) > 1 and infer(X).type == "series" else None


def _by_time(X: Any, test_fraction: float, length: int | None) -> tuple[np.ndarray, np.ndarray]:
    n = len(X)
    unit = 1
    if isinstance(X, str):  # cut between windows, unless the text is too short for that
        unit = length or (infer(X).length if n > 1 else 1)
        unit = unit if n >= 2 * unit else 1
    held_out = min(max(round(n * test_fraction / unit), 1) * unit, (n - 1) // unit * unit)
    cut = (n - held_out) // unit * unit
    if not 0 < cut < n:
        raise DataError(f"cannot split {n} example(s) in two; at least 2 are needed")
    return np.arange(cut), np.arange(cut, n)


def _by_hash(keys: torch.Tensor, test_fraction: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    n = len(keys)
    if n < 2:
        raise DataError(f"cannot split {n} example(s) in two; at least 2 are needed")
    distinct, copy_of = np.unique(keys.numpy(), return_inverse=True)
    if len(distinct) == 1:
        raise DataError(f"all {n:,} examples are equal; there is nothing to hold out")
    if 2 * len(distinct) < n:
        keys = mix(keys + torch.from_numpy(_occurrence(copy_of)) * GOLDEN)
    hashed = mix(keys ^ mix(torch.tensor(seed, dtype=torch.int64)))
    unit = ((hashed >> 11) & ((1 << 53) - 1)).double().numpy() * 2.0**-53
    test = unit < test_fraction
    if test.sum() < n * test_fraction / 4 or n - test.sum() < n * (1 - test_fraction) / 4:
        test = _smallest(unit, round(n * test_fraction))
    return np.flatnonzero(~test), np.flatnonzero(test)


def _smallest(unit: np.ndarray, wanted: int) -> np.ndarray:
    """Mark about `wanted` rows, those of the smallest hashes; equal rows together, at least one row on each side."""
    values, counts = np.unique(unit, return_counts=True)
    groups = int(np.argmin(np.abs(np.cumsum(counts) - max(wanted, 1)))) + 1
    return unit <= values[min(groups, len(values) - 1) - 1]


def _occurrence(group: np.ndarray) -> np.ndarray:
    """How many equal rows stand before each row."""
    order = np.argsort(group, kind="stable")
    ordered = group[order]
    starts = np.flatnonzero(np.r_[True, ordered[1:] != ordered[:-1]])
    counted = np.arange(len(group)) - np.repeat(starts, np.diff(np.r_[starts, len(group)]))
    occurrence = np.empty(len(group), dtype=np.int64)
    occurrence[order] = counted
    return occurrence


# ---------------------------------------------------------------------------------------------------------- keys


def row_keys(X: Any) -> torch.Tensor:
    """Hash each example to 64 bits: (n,) int64.

    The values are hashed, not their codes: a code depends on which other levels occur, so a new row could move old
    ones. Numbers are hashed as float64, so a column of integers that becomes real with a new row keeps its hashes.
    """
    if isinstance(X, pd.DataFrame):
        total = torch.zeros(len(X), dtype=torch.int64)
        for d, lane in enumerate(torch.arange(1, X.shape[1] + 1, dtype=torch.int64) * GOLDEN):
            total += mix(_column_keys(X.iloc[:, d]) + lane)
        return total
    if isinstance(X, (list, tuple)) and all(isinstance(s, str) for s in X):
        return _string_keys(np.array(X, dtype=object))
    if isinstance(X, (list, tuple)) and len({np.shape(x) for x in X}) > 1:  # sequences of different lengths
        digests = [hashlib.blake2b(np.asarray(x, dtype=np.float64).tobytes(), digest_size=8).digest() for x in X]
        return torch.from_numpy(np.frombuffer(b"".join(digests), dtype="<i8").astype(np.int64))
    values = X.detach().cpu().numpy() if isinstance(X, torch.Tensor) else np.asarray(X)
    if values.dtype.kind not in "biuf":
        return row_keys(pd.DataFrame(values.reshape(len(values), -1)).infer_objects())
    flat = values.reshape(len(values), -1)
    step = max(1, BLOCK // max(1, flat.shape[1]))
    blocks = (hash_words(_bits(flat[i : i + step])) for i in range(0, len(flat), step))
    return torch.cat(list(blocks)) if len(flat) else torch.empty(0, dtype=torch.int64)


def _bits(values: np.ndarray) -> torch.Tensor:
    """The 64 bits of each number, the same for -0 and 0, and for every NaN."""
    numbers = np.array(values, dtype=np.float64)
    numbers[numbers == 0] = 0.0
    numbers[np.isnan(numbers)] = np.nan
    return torch.from_numpy(numbers.view(np.int64))


def _column_keys(column: pd.Series) -> torch.Tensor:
    if isinstance(column.dtype, pd.CategoricalDtype):
        column = column.astype(column.cat.categories.dtype)
    if pd.api.types.is_datetime64_any_dtype(column.dtype):
        column = (column - pd.Timestamp(0, tz=getattr(column.dt, "tz", None))) / pd.Timedelta(seconds=1)
    if pd.api.types.is_numeric_dtype(column.dtype):
        return _bits(column.to_numpy(dtype=np.float64, na_value=np.nan))
    return _string_keys(column.to_numpy(dtype=object))


def _string_keys(values: np.ndarray) -> torch.Tensor:
    """Hash strings, and whatever else stands among them by its `str`; a missing cell is hashed as one."""
    codes, distinct = pd.factorize(values)
    digests = [hashlib.blake2b(str(v).encode("utf-8", "surrogatepass"), digest_size=8).digest() for v in distinct]
    keys = np.frombuffer(b"".join([*digests, b"\xff" * 8]), dtype="<i8").astype(np.int64)
    return torch.from_numpy(keys[codes])  # a missing cell has the code -1: the last key
