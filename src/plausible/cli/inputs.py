"""What a command is given: data, what they are conditioned on, kinds of columns, places to write to."""

from __future__ import annotations

import dataclasses
import itertools
import os
import zipfile
from pathlib import Path
from typing import Any

from plausible.cli.terminal import busy, say
from plausible.errors import DataError, PlausibleError

EVERY = "all"  # levels of a column of the context


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
        context_space: what one of these is, where that is known.
    """

    X: Any
    space: Any
    name: str
    notes: tuple[str, ...]
    data: Any = None
    context: Any = None
    context_space: Any = None


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
    from plausible.data.folders import FOLDER, folder_labels

    data, given, its_space = read(path, **reading), None, None
    if complete:
        data = _complete(data, reading["kinds"])
    folders = len(set(folder_labels(path) or ())) if data.space.type == "image" and context != [FOLDER] else 0
    if folders > 1:
        note = (
            f"the images lie in {folders} sub-folders, which are not told apart (to have them told: --context {FOLDER})"
        )
        data = dataclasses.replace(data, notes=(note, *data.notes))
    if context:
        data, given, its_space = _parted(path, data, context)
    return Examples(data.X, data.space, data.name, data.notes, data, given, its_space)


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


def spared(path: Path, *read: str | Path) -> None:
    """Refuse to write over one of the files that the command reads."""
    if path.is_file() and any(Path(other).exists() and path.samefile(other) for other in read):
        raise PlausibleError(f"{path} is read by this very command and would be lost; write to another file")


def writable(path: Path, *read: str | Path, folder: bool = False) -> Path:
    """Refuse a place that cannot be written to, before the work and not after it.

    Args:
        path: the place.
        read: the files that the command reads, which it is not to replace.
        folder: it may be a folder.
    """
    spared(path, *read)
    if path.is_dir():
        if not folder:
            raise PlausibleError(f"{path} is a folder; give the name of a file in it")
    elif not path.parent.is_dir():
        raise PlausibleError(f"{path}: there is no folder {path.parent}; make it first")
    if not os.access(path if path.is_dir() else path.parent, os.W_OK):
        raise PlausibleError(f"{path}: you may not write there; choose another place")
    return path


# -------------------------------------------------------------------------------------------------------- context


def _parted(path: str, data: Any, names: list[str]) -> tuple[Any, Any, Any]:
    """Columns of a table, other arrays of an .npz, or another file, taken as the context.

    Returns:
        data without them, the context, and its space where that was said (--kind) or is known from the file.
    """
    import pandas as pd

    from plausible.data import read
    from plausible.data.folders import FOLDER

    table, arrays = isinstance(data.X, pd.DataFrame), _arrays(path)
    if names == [FOLDER] and data.space.type == "image" and Path(path).is_dir():
        return data, _folders(path), None
    own = [str(c) for c in data.X.columns] if table else arrays
    if len(names) == 1 and names[0] not in own and Path(names[0]).exists():
        return data, *_alone(names[0], read(names[0]), len(data))
    if not own:
        raise DataError(
            "--context needs a column of a table, an array of an .npz file, a file that holds contexts, or, for images "
            f"in sub-folders, the word {FOLDER}"
        )
    absent = [n for n in names if n not in own]
    if absent:
        what = "column" if table else "array"
        raise DataError(f"--context: there is no {what} {absent[0]!r}; there are {listed(own)}")
    if not table:
        found = {name: read(path, key=name) for name in names}
        if len(names) == 1 and not _is_labels(found[names[0]].X):
            return data, *_alone(names[0], found[names[0]], len(data))
        return data, pd.DataFrame({name: _labels(name, d.X, len(data)) for name, d in found.items()}), None
    parts = [tuple(c for c in data.space.columns if (c.name in names) == given) for given in (False, True)]
    if not parts[0]:
        raise DataError("--context: every column is context; nothing is left to model")
    left, given = (dataclasses.replace(data.space, columns=columns, shape=(len(columns),)) for columns in parts)
    return dataclasses.replace(data, X=data.X.drop(columns=names), space=left), data.X[names], given


def _folders(path: str) -> Any:
    """The sub-folders of the images of a folder, as a column."""
    import pandas as pd

    from plausible.data.folders import FOLDER, folder_labels

    labels = folder_labels(path)
    if labels is None:
        raise DataError(f"--context {FOLDER}: the images of {path} do not all lie in sub-folders of it")
    return pd.DataFrame({FOLDER: labels})


def _alone(name: str, found: Any, n: int) -> tuple[Any, Any]:
    """Contexts that are no columns: as they are, with what they were taken for."""
    if len(found) != n:
        raise DataError(f"--context {name}: expected one for each of {n:,} examples, got {len(found):,}")
    say(f"context: {found.describe()}")
    return found.X, found.space if found.space.type in ("image", "series") else None


def _arrays(path: str) -> list[str]:
    """The names of the arrays of an .npz file."""
    if not str(path).endswith(".npz"):
        return []
    with zipfile.ZipFile(path) as archive:
        return [name.removesuffix(".npy") for name in archive.namelist()]


def _is_labels(X: Any) -> bool:
    from plausible.context import infer_context

    return infer_context(X).type == "table" if isinstance(X, list) else X.ndim == 2 and X.shape[1] == 1


def _labels(name: str, X: Any, n: int) -> Any:
    import numpy as np

    if len(X) != n or not _is_labels(X):
        raise DataError(f"--context {name}: expected {n:,} labels, one for each example, got shape {np.shape(X)}")
    return np.ravel(X)


def context_of(model: Any, path: str, names: list[str] | None = None) -> Any:
    """The context of each example that a fitted model asks for.

    Args:
        model: a fitted model.
        path: the file that holds the examples, and the columns or the arrays that are their context.
        names: the array that holds images, text or the like, or another file; by default the only other array.
    """
    import pandas as pd

    from plausible.data.folders import FOLDER
    from plausible.data.like import read_like

    space, arrays = model.context_space_, _arrays(path)
    if space is None:
        if names:
            raise DataError("the model takes no --context; it was fitted without one")
        return None
    if space.type == "table":
        beside = set(space.names) >= set(names or ())  # in the file of the examples
        source = path if beside else names[0]
        if list(space.names) == [FOLDER] and Path(source).is_dir():
            return _folders(source)
        if (beside and model.space_.type != "table" and not arrays) or (not beside and len(names) > 1):
            raise DataError(
                f"the model is of p(x | c), where c is {space.describe()} ({listed(space.names)}), which {path} does "
                "not hold; say where it is: --context FILE"
            )
        if not _arrays(source):
            return read_like(source, space)
        whole = {c.name: dataclasses.replace(space, columns=(c,), shape=(1,)) for c in space.columns}
        return pd.DataFrame({name: read_like(source, one, key=name).iloc[:, 0] for name, one in whole.items()})
    if not names:
        from plausible.data.read import choose_array

        names = [name for name in arrays if name != choose_array(arrays, None)[0]] if arrays else []
    if len(names) != 1:
        raise DataError(
            f"the model is of p(x | c), where c is {space.describe()}; say where that is: --context ARRAY of the .npz, "
            "or --context FILE"
        )
    return read_like(path, space, key=names[0]) if names[0] in arrays else read_like(names[0], space)


def context_given(model: Any, pairs: list[str] | None) -> Any:
    """Rows of context from the command line.

    ``digit=3`` is one row, ``digit=all`` one for each level. Where the context is images, series or sounds it is the
    file that holds them; where it is text, that text or a file.
    """
    import pandas as pd

    space = model.context_space_
    if space is None:
        if pairs:
            raise DataError("the model takes no --context; it was fitted without one")
        return None
    if space.type != "table":
        return _others_given(space, pairs)
    columns = {c.name: c for c in space.columns}
    values = {}
    for pair in pairs or ():
        name, equals, text = pair.rpartition("=")
        name = next(iter(columns)) if not equals and len(columns) == 1 else name
        if name not in columns:
            raise DataError(f"--context {pair}: expected COLUMN=VALUE with a column of {listed(list(columns))}")
        levels = columns[name].levels
        every = text == EVERY and levels and EVERY not in map(str, levels)
        values[name] = list(levels) if every else [value_of(columns[name], text, "--context")]
    absent = [name for name in columns if name not in values]
    if absent:
        raise DataError(f"the model is of p(x | c) and asks for a value of c: --context {absent[0]}=VALUE")
    return pd.DataFrame(itertools.product(*values.values()), columns=list(values))


def _others_given(space: Any, given: list[str] | None) -> Any:
    from plausible.data.like import read_like

    if not given or len(given) > 1:
        raise DataError(f"the model is of p(x | c), where c is {space.describe()}; give a file of it: --context FILE")
    if space.type == "text" and not Path(given[0]).exists():
        return given
    return read_like(given[0], space)


def value_of(column: Any, text: str, flag: str) -> Any:
    """A value of a column from the command line, in the form that the column has it."""
    if column.levels:
        for level in column.levels:
            if str(level) == text:
                return level
        raise DataError(f"{flag}: {column.name!r} has no level {text!r}; it has {listed(column.levels)}")
    try:
        return float(text)
    except ValueError:
        raise DataError(f"{flag}: {column.name!r} is a number, got {text!r}") from None


def listed(values: Any, most: int = 8) -> str:
    return ", ".join(str(v) for v in values[:most]) + (f", ... ({len(values)} in all)" if len(values) > most else "")
