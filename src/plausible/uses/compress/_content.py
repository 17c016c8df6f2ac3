"""What a user hands over, as indices of cells and what is kept beside them; and the way back, to the bit.

Kept beside the code: what the model has no place for (an unseen level, a fraction among integers, a string that is too
long), where cells are missing, lengths, dtypes, names and order of columns, the lattice that the numbers of a column
lie on. Not kept: an index of rows, which of None and NaN marked a missing cell, the sign of a zero.
"""

from __future__ import annotations

import lzma
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from plausible.errors import DataError, SpaceError
from plausible.space import Clips
from plausible.space.column import as_numbers, plain, seconds_of
from plausible.space.matrix import as_matrix
from plausible.uses.compress._cells import Lattice
from plausible.uses.compress._digest import digest

LARGEST = 2**53  # of an integer that a double holds
DENOMINATORS = (*(10.0**k for k in range(13)), 255.0, 65535.0, *(2.0**k for k in range(1, 49)))
FEW = 0.01  # share of the numbers of a column that may lie off its lattice, and are written beside the code


@dataclass
class Packed:
    """n examples.

    Args:
        index: (n, D) which cell each dimension is in.
        coded: (n, D) where there is one to be coded.
        lattices: for each dimension; None where it has levels.
        meta: what else is needed, as JSON can hold it.
        mask: where cells of complete examples are not coded, packed.
    """

    index: np.ndarray
    coded: np.ndarray
    lattices: list[Lattice | None]
    meta: dict = field(default_factory=dict)
    mask: bytes = b""


def pack(space: Any, X: Any, precision: float | dict | None = None) -> Packed:
    """Take examples apart; see `compress` for the arguments and what is refused."""
    codes, raw, meta, lattices = _PARTS[space.type][0](space, X, precision)
    n, dims = len(codes), space.dims
    codes = codes.reshape(n, dims)
    coded, beside = ~np.isnan(codes), np.zeros((n, dims), dtype=bool)
    for d, (rows, _) in raw.items():
        beside[rows, d] = True
    mask = b""
    if getattr(space, "end", False):
        coded = np.ones((n, dims), dtype=bool)  # up to the END, which is a level
    elif space.ragged:
        lengths = coded.sum(1)
        short = np.flatnonzero(lengths != dims)
        if len(short) == 1 and short[0] == n - 1:
            meta["last"] = int(lengths[-1])
        elif len(short):
            meta["short"] = [short.tolist(), lengths[short].tolist()]
    elif (missing := ~coded & ~beside).any():
        mask = lzma.compress(np.packbits(missing.ravel()).tobytes(), lzma.FORMAT_ALONE)
    if raw:
        meta["raw"] = {str(d): [rows.tolist(), values] for d, (rows, values) in raw.items()}
    index = np.empty((n, dims), dtype=np.int64)
    for d, lattice in enumerate(lattices):
        index[:, d] = np.nan_to_num(codes[:, d]) if lattice is None else lattice.index(codes[:, d])
    index[~coded] = 0
    groups = [lattice for lattice in dict.fromkeys(lattices) if lattice is not None]
    if groups:
        meta["lattices"] = [[g.low, g.size, g.num, g.den] for g in groups]
        meta["lies"] = [groups.index(g) if g is not None else -1 for g in lattices]
        if len(set(meta["lies"])) == 1:
            meta["lies"] = meta["lies"][0]
    return Packed(index, coded, lattices, {"n": n, **meta}, mask)


def prepared(space: Any, meta: dict, mask: bytes) -> Packed:
    """Return what `pack` gave, but for the indices."""
    n, dims = meta["n"], space.dims
    coded = np.ones((n, dims), dtype=bool)
    if "short" in meta:
        for row, length in zip(*meta["short"], strict=True):
            coded[row, length:] = False
    if "last" in meta:
        coded[-1, meta["last"] :] = False
    if mask:
        packed = np.frombuffer(lzma.decompress(mask, lzma.FORMAT_ALONE), np.uint8)
        coded &= ~np.unpackbits(packed, count=n * dims).reshape(n, dims).astype(bool)
    for d, (rows, _) in meta.get("raw", {}).items():
        coded[rows, int(d)] = False
    lies = meta.get("lies", -1)
    groups = [Lattice(int(a), int(b), float(c), float(d)) for a, b, c, d in meta.get("lattices", [])]
    lies = [lies] * dims if isinstance(lies, int) else lies
    return Packed(np.zeros((n, dims), np.int64), coded, [None if g < 0 else groups[g] for g in lies], meta, mask)


def unpack(space: Any, packed: Packed) -> Any:
    """Return the examples."""
    codes = np.empty(packed.index.shape)
    for d, lattice in enumerate(packed.lattices):
        codes[:, d] = packed.index[:, d] if lattice is None else lattice.value(packed.index[:, d])
    codes[~packed.coded | (packed.index < 0)] = np.nan
    return _PARTS[space.type][1](space, codes, packed.meta)


def check(X: Any, again: Any, space: Any, precision: Any) -> None:
    """Refuse examples that would not come back to the bit; rounding to a stated precision is not meant."""
    import pandas as pd

    if precision is None or space.type != "table":
        same = precision is not None or digest(X) == digest(again)
        where = ""
    else:
        rounded = {c.name for c in space.columns if not c.discrete and _step(precision, c.name)}
        old, new = (pd.DataFrame(t) for t in (X, again))
        names = [str(n) if isinstance(X, pd.DataFrame) else space.columns[i].name for i, n in enumerate(old.columns)]
        wrong = [
            n for i, n in enumerate(names) if n not in rounded and digest(old.iloc[:, [i]]) != digest(new.iloc[:, [i]])
        ]
        same, where = not wrong, f" (column {wrong[0]!r})" if wrong else ""
    if not same:
        if isinstance(X, pd.DataFrame) and not where:
            bad = [str(n) for i, n in enumerate(X.columns) if digest(X.iloc[:, [i]]) != digest(again.iloc[:, [i]])]
            where = f" (column {bad[0]!r})" if bad else ""
        raise DataError(
            f"the examples would not come back to the bit{where}: their numbers or dtypes do not fit in the model's "
            "columns; hand them over as they were when it was fitted, or state the precision that is enough"
        )


# ---------------------------------------------------------------------------------------------------------- tables


def _pack_table(space: Any, X: Any, precision: Any) -> tuple:
    import pandas as pd

    frame = isinstance(X, pd.DataFrame)
    if not frame:
        X = as_matrix(X)
        if X.shape[1] != space.dims:
            space.encode(X)  # which says what is wrong
        if all(c.levels for c in space.columns):
            try:
                codes = space.encode(X).double().numpy()
                return codes, {}, {"dtype": str(X.dtype)}, [None] * space.dims
            except DataError:
                pass  # it holds a level that was not seen
        columns, meta = [pd.Series(X[:, d]) for d in range(space.dims)], {"dtype": str(X.dtype)}
    else:
        columns, meta = _columns_of(space, X)
    codes, raw, lattices = np.empty((len(X), space.dims)), {}, []
    for d, (column, series) in enumerate(zip(space.columns, columns, strict=True)):
        series = series.reset_index(drop=True)
        codes[:, d], beside = _codes_of(column, series)
        lattice = None
        if not column.levels:
            step = _step(precision, column.name) if not column.discrete else None
            lattice, off = lattice_of(codes[:, d], column.name, step, series.dtype)
            beside |= off
            codes[off, d] = np.nan
        if beside.any():
            raw[d] = np.flatnonzero(beside), [_kept(v, column.name) for v in series[beside]]
        lattices.append(lattice)
    return codes, raw, meta, lattices


def _columns_of(space: Any, X: Any) -> tuple[list, dict]:
    """The columns of a DataFrame in the order of the model, and what was otherwise than the model has it."""
    names = [str(n) for n in X.columns]
    if space.array_dtype is not None:
        raise SpaceError("the model was fitted on arrays; hand over an array (frame.to_numpy())")
    unknown = [n for n in names if n not in space.names]
    absent = [n for n in space.names if n not in names]
    if unknown or absent or len(set(names)) < len(names):
        what = (
            f"does not know the column {unknown[0]!r}" if unknown else f"needs the column {(absent or names)[0]!r} once"
        )
        raise SpaceError(f"the model {what}; hand over the columns {', '.join(space.names)}, each once")
    columns = [X.iloc[:, names.index(n)] for n in space.names]
    meta: dict = {"dtypes": [_token(c, s.dtype) for c, s in zip(space.columns, columns, strict=True)]}
    if all(t is None for t in meta["dtypes"]):
        del meta["dtypes"]
    given = [plain(n) for n in X.columns]
    if given != ([int(n) for n in names] if space.numbered else space.names):
        meta["names"] = given
    return columns, meta


def _token(column: Any, dtype: Any) -> Any:
    """What tells a dtype, or None if it is the one that the model gives back."""
    import pandas as pd

    if isinstance(dtype, pd.CategoricalDtype):
        own = tuple(plain(v) for v in dtype.categories) == tuple(plain(v) for v in column.levels)
        if own and column.dtype == ("category, ordered" if dtype.ordered else "category"):
            return None
        return [[_kept(v, column.name) for v in dtype.categories], bool(dtype.ordered)]
    return None if str(dtype) == column.dtype else str(dtype)


def _dtype(token: Any) -> Any:
    import pandas as pd

    return pd.CategoricalDtype(token[0], ordered=token[1]) if isinstance(token, list) else token


def _codes_of(column: Any, series: Any) -> tuple[np.ndarray, np.ndarray]:
    """Codes of a column, NaN where missing, and where its values are none that the model knows."""
    import pandas as pd

    missing = series.isna().to_numpy()
    if column.levels:
        values = series.to_numpy(dtype=object, na_value=None)
        index = pd.Index(column.levels)
        if not pd.api.types.is_numeric_dtype(index.dtype):
            index = index.astype(object)
        codes = index.get_indexer(pd.Index(values, dtype=object)).astype(float)
        beside = (codes < 0) & ~missing
        return np.where(codes < 0, np.nan, codes), beside
    if pd.api.types.is_datetime64_any_dtype(series.dtype):
        series = seconds_of(series)
    codes = as_numbers(series, column.name)
    beside = np.isinf(codes)
    if column.kind == "count":
        low = -np.inf if column.low is None else column.low
        high = np.inf if column.high is None else column.high
        with np.errstate(invalid="ignore"):
            beside |= ~missing & ((codes != np.round(codes)) | (codes < low) | (codes > high) | (abs(codes) >= LARGEST))
    return np.where(beside, np.nan, codes), beside


def _kept(value: Any, name: str) -> Any:
    value = plain(value)
    if not isinstance(value, str | int | float | bool):
        raise DataError(
            f"column {name!r} holds {value!r}, which the model does not know and which cannot be written beside "
            "the code; drop those rows"
        )
    return value


def _unpack_table(space: Any, codes: np.ndarray, meta: dict) -> Any:
    import pandas as pd

    raw, frame = meta.get("raw", {}), "dtype" not in meta
    if not frame and not raw and all(c.levels for c in space.columns):
        found = space.decode(torch.from_numpy(codes))
        return found.to_numpy() if hasattr(found, "to_numpy") else found.astype(meta["dtype"])
    columns = {}
    for d, column in enumerate(space.columns):
        series = column.decode(codes[:, d])
        token = _dtype((meta.get("dtypes") or [None] * space.dims)[d])
        if str(d) in raw:
            rows, values = raw[str(d)]
            series = series.astype(object)
            series.iloc[rows] = np.array([*values, None], dtype=object)[:-1]
        if frame and (token is not None or str(d) in raw):
            series = series.astype(_own_dtype(column) if token is None else token)
        elif frame and len(series) == 0 and not column.dtype.startswith("category"):
            series = series.astype(column.dtype)
        columns[d] = series
    if not frame:
        return np.stack([columns[d].to_numpy() for d in range(space.dims)], 1).astype(meta["dtype"])
    found = pd.DataFrame({column.name: columns[d] for d, column in enumerate(space.columns)})
    if "names" in meta:
        found = found[[str(n) for n in meta["names"]]]
        return found.set_axis(meta["names"], axis=1)
    return found.rename(columns=int) if space.numbered else found


def _own_dtype(column: Any) -> Any:
    import pandas as pd

    if column.dtype.startswith("category"):
        return pd.CategoricalDtype(list(column.levels), ordered=column.dtype.endswith("ordered"))
    return column.dtype


# --------------------------------------------------------------------------------------------------------- lattices


def _step(precision: float | dict | None, name: str) -> float | None:
    step = precision.get(name) if isinstance(precision, dict) else precision
    if step is not None and not (isinstance(step, int | float) and step > 0 and np.isfinite(step)):
        raise DataError(f"precision must be a step above 0, or one for each column, got {step!r}")
    return step


def lattice_of(codes: np.ndarray, name: str, step: float | None, dtype: Any = "float64") -> tuple[Lattice, np.ndarray]:
    """Find the coarsest lattice that numbers lie on, to the bit; and which few do not.

    Args:
        codes: any shape; NaN where there is none.
        name: of the column, for errors.
        step: the lattice to round them to, instead.
        dtype: in which they have to come back.

    Raises:
        DataError: there is no such lattice.
    """
    x = codes[~np.isnan(codes)]
    off = np.zeros(codes.shape, dtype=bool)
    single = np.float32 if "float32" in str(dtype).lower() else np.float64
    if not len(x):
        return Lattice(0, 1), off
    if step is not None:
        whole = round(1 / step) if step < 1 else 0
        num, den = (1.0, float(whole)) if whole and abs(whole * step - 1) < 1e-9 else (float(step), 1.0)
        return _over(np.rint(x * den / num), num, den, name), off
    nearly = None
    for den in DENOMINATORS:
        i = np.rint(x * den)
        good = (np.abs(i) < LARGEST) & ((i / den).astype(single) == x.astype(single))
        if good.all():
            return _over(i, 1.0, den, name), off
        if nearly is None and den <= 1e6 and good.mean() > 1 - FEW:
            nearly = den
    if nearly is None:
        example = float(x[np.argmax(x != np.round(x, 3))])
        raise DataError(
            f"{name!r} holds reals such as {example!r} that are no multiples of any step; state the precision that is "
            f"enough (precision={{{name!r}: 0.001}}; on the command line --precision {name}=0.001)"
        )
    i = np.rint(codes * nearly)
    off = ~np.isnan(codes) & ~((np.abs(i) < LARGEST) & ((i / nearly).astype(single) == codes.astype(single)))
    return _over(i[~off & ~np.isnan(codes)], 1.0, nearly, name), off


def _over(i: np.ndarray, num: float, den: float, name: str) -> Lattice:
    low, high = float(i.min()), float(i.max())
    if max(abs(low), abs(high), high - low) >= LARGEST:
        raise DataError(f"{name!r} spans more steps of {num / den:g} than a double holds; state a coarser precision")
    return Lattice(int(low), int(high - low) + 1, num, den)


# ------------------------------------------------------------------------------------- images, series, sound, text


def _pack_image(space: Any, X: Any, precision: Any) -> tuple:
    X = np.asarray(X)
    codes = space.encode(X).double().numpy().reshape(len(X), space.dims)
    meta = {} if str(X.dtype) == space.dtype else {"dtype": str(X.dtype)}
    lattice = None
    if not space.pixel.levels:
        lattice, off = lattice_of(codes, "pixels", _step(precision, "pixels"), X.dtype)
        _none_off(off, "pixels")
    return codes, {}, meta, [lattice] * space.dims


def _none_off(off: np.ndarray, name: str) -> None:
    if off.any():
        raise DataError(
            f"some of the {name} lie on no lattice that the others lie on; state the precision that is enough"
        )


def _unpack_image(space: Any, codes: np.ndarray, meta: dict) -> np.ndarray:
    if space.pixel.levels:
        return space.decode(torch.from_numpy(codes)).astype(meta.get("dtype", space.dtype))
    return space.lay_out(codes).astype(meta.get("dtype", space.dtype))


def _pack_series(space: Any, X: Any, precision: Any) -> tuple:
    given = isinstance(X, list | tuple)
    arrays = [np.asarray(x) for x in X] if given else [np.asarray(X)]
    if not sum(map(len, arrays)):
        codes = np.empty((0, space.dims))
    else:
        codes = space.encode(list(arrays) if given else arrays[0]).double().numpy().reshape(len(X), -1)
    dtypes = {str(a.dtype) for a in arrays} or {"float64"}
    meta = {"dtype": dtypes.pop(), "list": given}
    if dtypes:
        raise DataError("the sequences have several dtypes; give them one")
    if space.ragged and not given and len(X):
        meta["steps"] = arrays[0].shape[1]
    channels = space.shape[1]
    lattices: list = []
    for c in range(channels):
        column, lattice = space.columns[c], None
        if not column.levels:
            name = column.name.rpartition("[")[0]
            lattice, off = lattice_of(codes[:, c::channels], name, _step(precision, name), meta["dtype"])
            _none_off(off, name)
        lattices.append(lattice)
    return codes, {}, meta, lattices * space.shape[0]


def _unpack_series(space: Any, codes: np.ndarray, meta: dict) -> Any:
    X = codes.reshape(len(codes), *space.shape)
    if not meta["list"]:
        return X[:, : meta.get("steps", X.shape[1])].astype(meta["dtype"])
    return [x[~np.isnan(x).all(1)].astype(meta["dtype"]) if space.ragged else x.astype(meta["dtype"]) for x in X]


def _pack_audio(space: Any, X: Any, precision: Any) -> tuple:
    codes = space.encode(X).double().numpy() if len(X) else np.empty((0, space.dims))
    first = space.columns[0]
    lattice = Lattice(int(first.low), int(first.high - first.low) + 1)
    return codes, {}, {"clips": [len(clip) for clip in X]}, [lattice] * space.dims


def _unpack_audio(space: Any, codes: np.ndarray, meta: dict) -> Any:
    samples = codes.ravel()
    samples = samples[~np.isnan(samples)].astype(np.int16)
    return Clips(np.split(samples, np.cumsum(meta["clips"])[:-1]) if meta["clips"] else [], space.rate)


def _pack_text(space: Any, X: Any, precision: Any) -> tuple:
    meta: dict = {"one": True} if isinstance(X, str) else {}
    beside = []
    if isinstance(X, str):
        X = _with_known(space, X, beside)
    else:
        X = list(X)
        wrong = next((i for i, s in enumerate(X) if not isinstance(s, str)), None)
        if wrong is not None:
            raise DataError(f"expected strings, got {X[wrong]!r} at place {wrong}")
        for i, s in enumerate(X):
            if not _fits(space, s):
                beside.append([i, s])
                X[i] = ""
    if beside:
        meta["beside"] = beside
    codes = space.encode(X).double().numpy() if len(X) else np.empty((0, space.dims))
    return codes, {}, meta, [None] * space.dims


def _with_known(space: Any, text: str, beside: list) -> str:
    """A long text with characters that were not seen replaced by one that was; they go beside."""
    alphabet = getattr(space.vocabulary, "alphabet", None)
    if alphabet is None or not set(text) - set(alphabet):
        return text
    known = set(alphabet)
    beside += [[i, c] for i, c in enumerate(text) if c not in known]
    return "".join(c if c in known else alphabet[0] for c in text)


def _fits(space: Any, text: str) -> bool:
    try:
        space.encode([text])
    except SpaceError:
        return False
    return True


def _unpack_text(space: Any, codes: np.ndarray, meta: dict) -> Any:
    strings = space.decode(torch.from_numpy(codes)) if len(codes) else []
    if "one" not in meta:
        for i, s in meta.get("beside", []):
            strings[i] = s
        return strings
    text = list("".join(strings))
    for i, c in meta.get("beside", []):
        text[i] = c
    return "".join(text)


_PARTS = {
    "table": (_pack_table, _unpack_table),
    "image": (_pack_image, _unpack_image),
    "series": (_pack_series, _unpack_series),
    "audio": (_pack_audio, _unpack_audio),
    "text": (_pack_text, _unpack_text),
}
