"""`plausible compress` and `decompress`: examples in as many bits as a fitted model finds them surprising."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Annotated, Any

import typer

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

    Kept are the values, dtypes and order of columns, not the form of the file: how numbers were written, and the like.
    """
    from plausible.errors import DataError
    from plausible.training.checkpoint import write_atomically
    from plausible.uses.compress import compress as compressed

    if out is None and not benchmark:
        raise DataError("say where to: -o FILE; or --benchmark for the sizes alone")
    place = None if out is None else writable(Path(out))
    fitted = opened(model)
    with busy(f"reading {data}"):
        X, given = _read(data, fitted.space_, key), context_of(fitted, context or data)
    started = time.perf_counter()
    with busy("compressing"):
        found = compressed(fitted, X, precision=_steps(precision), context=given)
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
    from plausible.uses.compress import decompress as decompressed

    fitted = opened(model)
    space, source = fitted.space_, Path(data)
    if out is not None:
        _check_form(writable(Path(out), folder=True), space)
    elif space.type in ("image", "audio"):
        as_text(None, space)  # which says where else to
    if not source.is_file():
        raise ReadError(f"{data}: no such file")
    given = None if fitted.context_space_ is None or context is None else context_of(fitted, context)
    with busy("decompressing"):
        X = decompressed(fitted, source.read_bytes(), context=given)
    if out is None:
        sys.stdout.write(X if isinstance(X, str) else as_text(X, space))
        return
    _write(X, Path(out), space)
    n = f"{len(X):,} {'character' if isinstance(X, str) else 'example'}{'' if len(X) == 1 else 's'}"
    say(f"Wrote {n} to {out}")
    if len(X) and not _comes_back(X, out, space):
        forms = "an .npz file" if space.type in ("image", "series") else "a .parquet file"
        say(f"note: read again, {out} is not what was compressed, as this form cannot hold it; {forms} would")


def _read(path: str, space: Any, key: str | None = None) -> Any:
    """Examples from a file; of one picture, that one."""
    from plausible.data.images import SUFFIXES, read_image
    from plausible.data.like import read_like

    if space.type == "image" and Path(path).suffix.lower() in SUFFIXES and Path(path).is_file():
        return read_image(Path(path))[None]
    return read_like(path, space, key=key)


def _check_form(path: Path, space: Any) -> None:
    from plausible.data.write import check_form

    check_form(path, space)


def _write(X: Any, path: Path, space: Any) -> None:
    from PIL import Image

    from plausible.data.write import pixels, write
    from plausible.training.checkpoint import write_atomically

    if isinstance(X, str):
        write_atomically(path, X.encode())
    elif space.type == "image" and path.suffix.lower() == ".png" and len(X) == 1:
        Image.fromarray(pixels(X, space)[0]).save(path)
    else:
        write(X, path, space)


def _comes_back(X: Any, path: str, space: Any) -> bool:
    """Whether a file, read again, holds the same."""
    from plausible.errors import PlausibleError
    from plausible.uses.compress import digest

    try:
        return digest(_read(path, space)) == digest(X)
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
