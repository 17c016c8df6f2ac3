"""`plausible compress` and `decompress`: examples in as many bits as a fitted model finds them surprising."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Annotated, Any

import typer

from plausible.atomic import write_atomically
from plausible.cli.arguments import DataPath, Key, ModelPath, examples, opened
from plausible.cli.inputs import context_of, writable
from plausible.cli.terminal import busy, say

EXAMPLES = examples(
    "compress book.plausible chapter.txt -o chapter.pls",
    "compress adult.plausible new.csv -o new.pls --precision hours=0.5",
    "compress digits.plausible digits.npz --benchmark",
)
BACK = examples(
    "decompress book.plausible chapter.pls -o chapter.txt",
    "decompress digits.plausible digits.pls -o digits.npz",
)
ContextPath = Annotated[
    str | None,
    typer.Option("--context", metavar="FILE", help="Of a model of p(x | c): what holds the c of each example."),
]


def compress(
    model: ModelPath,
    data: DataPath,
    out: Annotated[
        str | None,
        typer.Option("--out", "-o", metavar="FILE", help="Where to; with --benchmark it may be left out."),
    ] = None,
    precision: Annotated[
        list[str] | None,
        typer.Option(
            metavar="[COLUMN=]STEP", help="Round the reals of a column (or all) to a step; else none is. Repeatable."
        ),
    ] = None,
    benchmark: Annotated[
        bool, typer.Option("--benchmark", help="Print sizes and seconds beside those of other compressors.")
    ] = False,
    context: ContextPath = None,
    key: Key = None,
) -> None:
    """Compress DATA without loss by a fitted model; the same model is needed to decompress.

    Kept are the values, dtypes and order of columns; of the form of a file whether it has a header, and its delimiter.
    """
    from plausible.errors import DataError
    from plausible.uses.compress import compress as compressed

    if out is None and not benchmark:
        raise DataError("say where to: -o FILE; or --benchmark for the sizes alone")
    place = None if out is None else writable(Path(out), model, data)
    fitted = opened(model)
    with busy(f"reading {data}"):
        form = _form(data, fitted)
        X, given = _read(data, fitted.space_, key, form), context_of(fitted, context or data)
    started = time.perf_counter()
    with busy("compressing"):
        found = compressed(fitted, X, precision=_steps(precision), context=given, note=form)
    took = time.perf_counter() - started
    if place is not None:
        write_atomically(place, found)
        say(f"Wrote {len(found):,} bytes to {place}")
    if benchmark:
        _print_table(fitted, data, X, found, given, took)


def decompress(
    model: ModelPath,
    data: Annotated[str, typer.Argument(metavar="FILE", help="What `plausible compress` wrote.", show_default=False)],
    out: Annotated[
        str | None,
        typer.Option("--out", "-o", metavar="FILE", help="As of `plausible sample`. \\[default: standard output]"),
    ] = None,
    context: ContextPath = None,
) -> None:
    """Decompress what `plausible compress` wrote with the same model."""
    from plausible.data.write import as_text
    from plausible.errors import ReadError
    from plausible.evaluate.likelihood import counted
    from plausible.uses.compress import decompress as decompressed
    from plausible.uses.compress import note_of

    fitted = opened(model)
    space, source = fitted.space_, Path(data)
    if out is not None:
        _check_form(writable(Path(out), model, data, folder=True), space)
    elif space.type in ("image", "audio"):
        as_text(None, space)  # which says where else to
    if not source.is_file():
        raise ReadError(f"{data}: no such file")
    given = None if fitted.context_space_ is None or context is None else context_of(fitted, context)
    with busy("decompressing"):
        packed = source.read_bytes()
        X, form = decompressed(fitted, packed, context=given), note_of(packed)
    if out is None:
        as_it_was = X if isinstance(X, str) else as_text(X, space) if form is None else _delimited(X, space, form)
        sys.stdout.write(as_it_was)
        return
    _write(X, Path(out), space, form)
    noun = "character" if isinstance(X, str) else "recording" if space.type == "audio" else "example"
    say(f"Wrote {counted(len(X), noun)} to {out}")
    if len(X) and not _comes_back(X, out, space, form):
        forms = {"image": "an .npz file", "series": "an .npz file", "audio": "a folder"}.get(
            space.type, "a .parquet file"
        )
        say(f"note: read again, {out} is not what was compressed, as this form cannot hold it; {forms} would")


def _form(path: str, model: Any) -> dict | None:
    """How a delimited file of a table is written, where not as usual: the note that goes with what is in it.

    Raises:
        SpaceError: it has columns that would be lost.
    """
    from plausible.data.like import dialect_like
    from plausible.errors import SpaceError

    found, space, context = dialect_like(path, model.space_), model.space_, model.context_space_
    if found is None:
        return None
    known = {*space.names, *(context.names if context is not None and context.type == "table" else ())}
    lost = [name for name in found.columns if name not in known]
    if lost and set(space.names) <= set(found.columns):
        raise SpaceError(f"{path}: the model does not know the column {lost[0]!r}; take it out, as it would be lost")
    order = [space.names.index(name) for name in found.columns if name in space.names]
    delimiter = " " if found.delimiter == r"\s+" else found.delimiter
    if found.header and delimiter == "," and order == list(range(space.dims)):
        return None  # as it would be written anyway
    return {"order": order, "header": found.header, "delimiter": delimiter}


def _read(path: str, space: Any, key: str | None = None, form: dict | None = None) -> Any:
    """Examples from a file: of one picture that one, recordings whole, columns in the order of the file."""
    from plausible.data import sounds
    from plausible.data.images import SUFFIXES, read_image
    from plausible.data.like import read_like

    place = Path(path)
    if space.type == "image" and place.suffix.lower() in SUFFIXES and place.is_file():
        return read_image(place)[None]
    if space.type == "audio" and (place.is_dir() or place.suffix.lower() in sounds.SUFFIXES) and place.exists():
        return sounds.read_sounds(place)
    X = read_like(path, space, key=key)
    return X.iloc[:, form["order"]] if form is not None and hasattr(X, "iloc") else X


def _check_form(path: Path, space: Any) -> None:
    from plausible.data.write import check_form

    check_form(path, space)


def _delimited(X: Any, space: Any, form: dict, delimiter: str | None = None) -> str:
    """A table as the file was that it came from; an array has its columns in the order of the model."""
    from plausible.data.write import as_frame

    frame = as_frame(X, space)
    frame = frame if frame is X else frame.iloc[:, form["order"]]
    return frame.to_csv(index=False, header=form["header"], sep=delimiter or form["delimiter"])


def _write(X: Any, path: Path, space: Any, form: dict | None) -> None:
    from PIL import Image

    from plausible.data.write import pixels, write

    if isinstance(X, str):
        write_atomically(path, X.encode())
    elif form is not None and path.suffix.lower() in (".csv", ".tsv"):
        tab = "\t" if path.suffix.lower() == ".tsv" else None
        write_atomically(path, _delimited(X, space, form, tab).encode())
    elif space.type == "image" and path.suffix.lower() == ".png" and len(X) == 1:
        Image.fromarray(pixels(X, space)[0]).save(path)
    else:
        write(X, path, space)


def _comes_back(X: Any, path: str, space: Any, form: dict | None) -> bool:
    """Whether a file, read again, holds the same."""
    from plausible.errors import PlausibleError
    from plausible.uses.compress import digest

    try:
        return digest(_read(path, space, form=form)) == digest(X)
    except PlausibleError:
        return False


def _steps(pairs: list[str] | None) -> Any:
    """``weight=0.1`` as a mapping; a number alone is for all columns."""
    from plausible.errors import DataError

    found = {}
    for pair in pairs or ():
        name, _, step = pair.rpartition("=")
        try:
            found[name] = float(step)
        except ValueError:
            raise DataError(f"--precision {pair}: expected COLUMN=STEP, such as --precision weight=0.1") from None
    if "" in found and len(found) > 1:
        raise DataError("--precision: give one step for all columns, or one for each; not both")
    return found.get("", found or None)


def _print_table(fitted: Any, path: str, X: Any, found: bytes, context: Any, took: float) -> None:
    """Sizes and seconds, the model's beside those of others."""
    import math
    from contextlib import suppress

    from plausible.errors import SpaceError
    from plausible.uses.compress import decompress as decompressed
    from plausible.uses.compress.beside import Coded, others, raw

    space, file = fitted.space_, Path(path)
    plain = raw(X, space)
    if space.type in ("table", "text") and file.is_file() and file.suffix.lower() not in (".npz", ".npy", ".parquet"):
        plain = file.read_bytes()
    started = time.perf_counter()
    with busy("decompressing"):
        decompressed(fitted, found, context=context)
    own = Coded(type(fitted).__name__, len(found), took, time.perf_counter() - started)
    with busy("others"):
        rows = [own, *others(plain, X, space)]
    print(f"{'':10}{'bytes':>12}{'of plain':>10}{'write, s':>10}{'read, s':>10}")
    print(f"{'plain':10}{len(plain):12,}{1:10.1%}")
    for row in sorted(rows, key=lambda r: r.size):
        print(f"{row.name:10}{row.size:12,}{row.size / len(plain):10.1%}{row.write:10.2f}{row.read:10.2f}")
    if space.measure == "counting" and fitted.traits.density is not None:
        with suppress(SpaceError):  # of what was written beside the code the model has no probability
            size = -fitted.log_prob(X, context=context).sum() / math.log(2) / 8
            say(f"-log2 p under the model ({fitted.likelihood_kind_}): {size:,.0f} bytes")
