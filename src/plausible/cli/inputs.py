"""What a command is given: data, what they are conditioned on, kinds of columns, places to write to."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path
from typing import Any

from plausible.cli.terminal import busy, say
from plausible.errors import DataError, PlausibleError


@dataclasses.dataclass(frozen=True)
class Examples:
    """What a model is fitted on.

    Args:
        X: examples, as `fit` takes them.
        space: what one of them is.
        name: of the file.
        notes: what was guessed, each with the flag that overrides it.
        data: the `Data` they come from, with the context taken out; None for a stream.
        context: a row for each example, or None.
    """

    X: Any
    space: Any
    name: str
    notes: tuple[str, ...]
    data: Any = None
    context: Any = None


def read_examples(path: str, context: list[str] | None, stream: bool = False, **reading: Any) -> Examples:
    """Read DATA and say what they were taken for."""
    with busy(f"reading {path}"):
        found = _streamed(path, context, **reading) if stream else _in_memory(path, context, **reading)
    rows = f"{len(found.X):,} rows, read in chunks; {found.space.describe()}"
    say(f"{found.name}: {rows}" if found.data is None else found.data.describe())
    for note in found.notes:
        say(f"guessed: {note}")
    return found


def _in_memory(path: str, context: list[str] | None, complete: bool, **reading: Any) -> Examples:
    from plausible.data import read

    data, given = read(path, **reading), None
    if complete:
        data = _complete(data, reading["kinds"])
    if context:
        data, given = _parted(path, data, context)
    return Examples(data.X, data.space, data.name, data.notes, data, given)


def _complete(data: Any, kinds: dict[str, str] | None) -> Any:
    """The rows of a table that lack nothing."""
    import pandas as pd

    from plausible.space import infer

    if data.space.type != "table":
        raise DataError("--drop-missing leaves out rows of a table; these are no rows")
    whole = pd.DataFrame(data.X).notna().all(axis=1).to_numpy()
    if whole.sum() < 2:
        raise DataError(f"--drop-missing: {whole.sum()} of {len(whole):,} rows lack nothing; at least 2 are needed")
    X = data.X[whole].reset_index(drop=True) if isinstance(data.X, pd.DataFrame) else data.X[whole]
    space = infer(X, kinds)
    notes = [n for n in data.notes if n not in data.space.guesses]
    left_out = f"{(~whole).sum():,} of {len(whole):,} rows have missing cells and were left out (--drop-missing)"
    return dataclasses.replace(data, X=X, space=space, notes=(*notes, left_out, *space.guesses))


def _streamed(path: str, context: list[str] | None, complete: bool, **reading: Any) -> Examples:
    from plausible.data import Stream

    given = {"as": reading.pop("how"), "key": reading.pop("key"), "length": reading.pop("length")}
    given["vocabulary"] = reading.pop("vocabulary") != "characters"
    del reading["vocabulary_size"]
    refused = [flag for flag, value in {**given, "context": context, "drop-missing": complete}.items() if value]
    if refused:
        raise DataError(f"--{refused[0]} needs the data in memory; leave out --stream")
    stream = Stream(path, **reading)
    space = stream.space()
    return Examples(stream, space, Path(path).name, space.guesses)


def kinds_of(pairs: list[str] | None) -> dict[str, str] | None:
    """``age=real`` as a mapping."""
    found = {}
    for pair in pairs or ():
        name, equals, kind = pair.rpartition("=")
        if not equals or not name:
            raise DataError(f"--kind {pair}: expected COLUMN=KIND, such as --kind grade=ordinal")
        found[name] = kind
    return found or None


def writable(path: Path, *, folder: bool = False) -> Path:
    """Refuse a place that cannot be written to, before the work and not after it; `folder`: it may be one."""
    if path.is_dir():
        if not folder:
            raise PlausibleError(f"{path} is a folder; give the name of a file in it")
    elif not path.parent.is_dir():
        raise PlausibleError(f"{path}: there is no folder {path.parent}; make it first")
    if not os.access(path if path.is_dir() else path.parent, os.W_OK):
        raise PlausibleError(f"{path}: you may not write there; choose another place")
    return path


# -------------------------------------------------------------------------------------------------------- context


def _parted(path: str, data: Any, names: list[str]) -> tuple[Any, Any]:
    """Columns of a table, or other arrays of an .npz, taken as the context: (data without them, context)."""
    import pandas as pd

    from plausible.data import read

    if not isinstance(data.X, pd.DataFrame):
        if not str(path).endswith(".npz"):
            raise DataError("--context needs a column of a table or an array of an .npz file")
        arrays = {name: read(path, key=name).X for name in names}
        return data, pd.DataFrame({name: _labels(name, X, len(data.X)) for name, X in arrays.items()})
    absent = [n for n in names if n not in data.X.columns]
    if absent:
        raise DataError(f"--context: there is no column {absent[0]!r}; there are {_some(list(data.X.columns))}")
    left = tuple(c for c in data.space.columns if c.name not in names)
    if not left:
        raise DataError("--context: every column is context; nothing is left to model")
    space = dataclasses.replace(data.space, columns=left, shape=(len(left),))
    return dataclasses.replace(data, X=data.X.drop(columns=names), space=space), data.X[names]


def _labels(name: str, X: Any, n: int) -> Any:
    if len(X) != n or X.ndim != 2 or X.shape[1] != 1:
        raise DataError(f"--context {name}: expected {n:,} labels, one for each example, got shape {X.shape}")
    return X[:, 0]


def context_of(model: Any, path: str) -> Any:
    """The context of each example that a fitted model asks for, from the file that holds the examples."""
    import pandas as pd

    from plausible.data.like import read_like

    space = model.context_space_
    if space is None or not str(path).endswith(".npz"):
        return None if space is None else read_like(path, space)
    whole = {c.name: dataclasses.replace(space, columns=(c,), shape=(1,)) for c in space.columns}
    return pd.DataFrame({name: read_like(path, one, key=name).iloc[:, 0] for name, one in whole.items()})


def context_given(model: Any, pairs: list[str] | None) -> Any:
    """``digit=3`` as one row of context, each value in the form of its column."""
    import pandas as pd

    space = model.context_space_
    if space is None:
        if pairs:
            raise DataError("the model takes no --context; it was fitted without one")
        return None
    columns = {c.name: c for c in space.columns}
    values = {}
    for pair in pairs or ():
        name, equals, text = pair.rpartition("=")
        name = next(iter(columns)) if not equals and len(columns) == 1 else name
        if name not in columns:
            raise DataError(f"--context {pair}: expected COLUMN=VALUE with a column of {_some(list(columns))}")
        values[name] = [value_of(columns[name], text, "--context")]
    absent = [name for name in columns if name not in values]
    if absent:
        raise DataError(f"the model is of p(x | c) and asks for a value of c: --context {absent[0]}=VALUE")
    return pd.DataFrame(values)


def value_of(column: Any, text: str, flag: str) -> Any:
    """A value of a column from the command line, in the form that the column has it."""
    if column.levels:
        for level in column.levels:
            if str(level) == text:
                return level
        raise DataError(f"{flag}: {column.name!r} has no level {text!r}; it has {_some(column.levels)}")
    try:
        return float(text)
    except ValueError:
        raise DataError(f"{flag}: {column.name!r} is a number, got {text!r}") from None


def _some(values: Any, most: int = 8) -> str:
    return ", ".join(str(v) for v in values[:most]) + (f", ... ({len(values)} in all)" if len(values) > most else "")
