"""Working out what one example is, and refusing what nothing can be learned from."""

from __future__ import annotations

import numbers
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from plausible.errors import DataError
from plausible.space.column import KINDS, MAX_LEVELS, MAX_SPAN, Column, as_numbers, plain, seconds_of, some
from plausible.space.matrix import as_matrix
from plausible.space.spaces import Audio, Clips, Image, Series, Space, Table, Text, stacked
from plausible.space.vocabulary import SHORTEST, VOCABULARIES

WINDOW = 64  # of a long text, in what its vocabulary has one code for
LONGEST_STRING = 1024  # characters


def infer(X: Any, how: str | dict | Space | None = None) -> Space:
    """Work out what one example of `X` is.

    Args:
        X: a DataFrame; an array of shape (n, D), (n, H, W), (n, C, H, W), (n, H, W, C) or (n, T, C); a list of
            strings; one long string; `Clips`; with `how` 'series', a list of arrays (T_i, C).
        how: what overrides the guess: a `Space`, one of 'table', 'image', 'series', 'text', 'audio', or a mapping from
            column to kind for a table.

    Raises:
        DataError: nothing can be learned from `X`; the message names the column and the remedy.
    """
    import pandas as pd

    if isinstance(how, Space):
        return how
    kinds = {str(k): v for k, v in how.items()} if isinstance(how, dict) else {}
    wanted = how if isinstance(how, str) else None
    if wanted not in (None, "table", "image", "series", "text", "audio"):
        raise DataError(f"space must be 'table', 'image', 'series', 'text', 'audio', a dict or a Space; got {how!r}")
    if isinstance(X, Clips) and wanted in (None, "audio"):
        return _infer_audio(X)
    if wanted == "audio":
        raise DataError(f"space='audio' needs Clips(arrays, rate), which say the rate; got {type(X).__name__}")
    if isinstance(X, str) or (wanted in (None, "text") and _all_strings(X)):
        _check_no_kinds(kinds, "text")
        return infer_text(X)
    if wanted == "text":
        raise DataError(f"space='text' needs a string or a list of strings, got {type(X).__name__}")
    if isinstance(X, pd.DataFrame):
        if wanted in ("image", "series"):
            raise DataError(f"space={wanted!r} needs an array of 3 or 4 dimensions, got a DataFrame")
        return _infer_frame(X, kinds)
    if wanted == "series" and isinstance(X, (list, tuple)):
        return _infer_sequences(X)
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
        levels = tuple(plain(v) for v in series.cat.categories)
        guess = "ordinal" if series.cat.ordered else "binary" if len(levels) == 2 else "categorical"
        dtype = "category, ordered" if series.cat.ordered else "category"
        return _levels_column(name, kind or guess, levels, dtype), None
    if pd.api.types.is_datetime64_any_dtype(series.dtype):
        if kind not in (None, "real"):
            raise DataError(f"column {name!r} holds dates, which are real; make them strings to use them as {kind}")
        return _real_column(name, seconds_of(known), dtype), None
    if pd.api.types.is_bool_dtype(series.dtype):
        _check_varies(name, known.unique())
        return _levels_column(name, kind or "binary", (False, True), dtype), None
    if not pd.api.types.is_numeric_dtype(series.dtype):
        levels = tuple(sorted({plain(v) for v in known.unique()}, key=lambda v: (str(type(v)), v)))
        return _levels_column(name, kind or ("binary" if len(levels) == 2 else "categorical"), levels, dtype), None
    values = as_numbers(known, name)
    if np.isinf(values).any():
        raise DataError(f"column {name!r} holds infinity; replace it by a number or by NaN for missing")
    integers = (values == np.round(values)).all() and np.abs(values).max() < 2**53
    if kind == "real" or (kind is None and not integers):
        return _real_column(name, values, dtype), None
    distinct = np.unique(values)
    if kind == "categorical" or kind == "binary" or (kind is None and len(distinct) == 2):
        levels = tuple(plain(v) for v in (distinct.astype(int) if integers else distinct))
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
            sentences.append(f"{noun} {some(names)}: {taken} (if {other}: --kind {names[0]}={other.split()[0]})")
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


def _infer_sequences(X: Sequence) -> Series:
    """Sequences of any length, of reals or, if of integers that are 0 and 1, of bits."""
    padded = stacked(X)
    _check_rows(len(padded), padded.shape[2])
    dtypes = {np.asarray(s).dtype for s in X}
    known = padded[~np.isnan(padded)]
    bits = all(t.kind in "biu" for t in dtypes) and set(np.unique(known)) <= {0, 1}
    dtype = str(np.asarray(X[0]).dtype) if bits else None
    return Series.of(padded.shape[1], [f"c{c}" for c in range(padded.shape[2])], (), True, dtype)


def _infer_audio(X: Clips) -> Audio:
    if not len(X):
        raise DataError("there are no clips")
    if len({int(v) for clip in X for v in (clip.min(), clip.max())}) == 1:
        raise DataError("every sample of every clip is the same; there is nothing to learn")
    return Audio.of(min(max(map(len, X)), max(X.rate // 4, 2)), X.rate)


def infer_text(
    X: str | Iterable[str], *, length: int | None = None, vocabulary: str = "characters", size: int = 512
) -> Text:
    """Work out the space of one long text, modelled in windows, or of whole strings.

    Args:
        X: the text, or the strings.
        length: of a window, in what the vocabulary has one code for; None is 64.
        vocabulary: 'characters', those of X; 'bytes' or 'bpe' (byte pairs), which know every character.
        size: tokens of a byte-pair vocabulary.

    Raises:
        DataError: nothing can be learned from X.
    """
    if vocabulary not in VOCABULARIES:
        raise DataError(f"vocabulary must be one of {', '.join(map(repr, VOCABULARIES))}; got {vocabulary!r}")
    if isinstance(X, str):
        _check_one_text(X)
        length = min(WINDOW if length is None else length, len(X))
        if vocabulary == "characters":
            return Text.of(sorted(set(X)), length, end=False)
        length = max(length, SHORTEST) if len(X) < SHORTEST else length
        return Text.bytes(length) if vocabulary == "bytes" else Text.bpe(X, size, length)
    strings = [str(s) for s in X]
    _check_rows(len(strings), 1)
    longest = max(map(len, strings))
    if longest == 0:
        raise DataError("every string is empty; there is nothing to learn")
    if longest > LONGEST_STRING:
        raise DataError(
            f"the longest string has {longest:,} characters; at most {LONGEST_STRING:,} are modelled as one example. "
            "Pass one long string instead of a list to model windows of it"
        )
    if vocabulary == "characters":
        return Text.of(sorted(set("".join(strings))), longest, end=True)
    if vocabulary == "bytes":
        return Text.bytes(max(len(s.encode(errors="replace")) for s in strings), end=True)
    return Text.bpe(strings, size)


def _check_one_text(X: str) -> None:
    if len(X) < 2:
        raise DataError(f"the text has {len(X)} characters; there is nothing to learn")
    if len(set(X)) == 1:
        raise DataError(f"every character of the text is {X[0]!r}; there is nothing to learn")


def _check_rows(n: int, d: int) -> None:
    if d == 0:
        raise DataError(f"found 0 feature(s) (shape=({n}, 0)) while a minimum of 1 is required")
    if n == 0:
        raise DataError(f"found 0 sample(s) (shape=(0, {d})) while a minimum of 2 is required: the data are empty")
    if n == 1:
        raise DataError("found n_samples=1 while a minimum of 2 is required: one example tells of no distribution")


def _check_no_kinds(kinds: dict[str, str], what: str) -> None:
    if kinds:
        raise DataError(f"kinds by column ({some(list(kinds))}) are for tables; {what} have none")


def _check_overrides(kinds: dict[str, str], names: list[str]) -> None:
    for name, kind in kinds.items():
        if name not in names:
            raise DataError(f"space names a column {name!r}, the data have {some(names)}")
        if kind not in KINDS:
            raise DataError(f"the kind of {name!r} must be one of {', '.join(KINDS)}; got {kind!r}")


def _check_varies(name: str, distinct: Sequence) -> None:
    if len(distinct) == 1:
        raise DataError(f"column {name!r} is constant: every value is {plain(distinct[0])!r}; drop it (--drop {name})")


def _is_sparse(X: Any) -> bool:
    return hasattr(X, "tocsr")


def _all_strings(X: Any) -> bool:
    values = X.tolist() if hasattr(X, "tolist") and getattr(X, "ndim", 0) == 1 else X
    return isinstance(values, (list, tuple)) and len(values) > 0 and all(isinstance(v, str) for v in values)
