"""`plausible impute`: fill the missing cells of a table, the hidden part of images, the blanks of a text."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from plausible.cli.arguments import ContextFile, DataPath, Key, ModelPath, examples, opened
from plausible.cli.inputs import context_of, writable
from plausible.cli.terminal import busy, say

EXAMPLES = examples(
    "impute adult.plausible holes.csv -o filled.csv",
    "impute adult.plausible holes.csv -o filled.csv --draws 5     filled-1.csv ... filled-5.csv",
    "impute adult.plausible holes.csv --how mean > filled.csv",
    "impute digits.plausible digits.npz --mask top.png -o completed.png",
    "impute names.plausible names.txt --blank _ --method auto",
)


def impute(
    model: ModelPath,
    data: DataPath,
    out: Annotated[
        str | None,
        typer.Option("--out", "-o", metavar="FILE", help="As of `plausible sample`. \\[default: standard output]"),
    ] = None,
    how: Annotated[
        str,
        typer.Option(metavar="HOW", help="draw: a draw from p(missing | known); mean; likely: the likeliest values."),
    ] = "draw",
    draws: Annotated[
        int | None,
        typer.Option(min=1, metavar="N", help="Fill in several times, each to a file of its own: FILE-1, FILE-2, ..."),
    ] = None,
    mask: Annotated[
        str | None,
        typer.Option(metavar="FILE", help="A .png (what is black is unknown) or .npy (True is) of what to fill in."),
    ] = None,
    blank: Annotated[
        str | None, typer.Option(metavar="C", help="The character of a text that stands for one unknown.")
    ] = None,
    method: Annotated[
        str, typer.Option(metavar="METHOD", help="exact; importance or chain: approximate; auto: the first there is.")
    ] = "exact",
    unseen: Annotated[
        str,
        typer.Option(
            metavar="refuse|missing",
            help="A cell that the fit had no value like, such as a new level: an error, or filled in as if missing.",
        ),
    ] = "refuse",
    seed: Annotated[int | None, typer.Option(min=0, metavar="N", help="Of the draws; fresh if not given.")] = None,
    context: ContextFile = None,
    key: Key = None,
) -> None:
    """Fill in what is missing in DATA, with a fitted model; what is known stays as it is."""
    from plausible.data.like import read_like
    from plausible.data.write import as_text, check_form, write
    from plausible.errors import DataError
    from plausible.uses import given
    from plausible.uses._parts import codes_of, heard

    if draws is not None and (out is None or how != "draw"):
        raise DataError("--draws writes several files of draws: name them with -o FILE, and leave --how as it is")
    fitted = opened(model)
    space = fitted.space_
    if out is not None:
        check_form(writable(Path(out), folder=True), space)
    elif space.type == "image":
        as_text(None, space)
    with busy(f"reading {data}"):
        X = read_like(data, space, key=key)
        c = context_of(fitted, data, context)
        hidden = None if mask is None else _mask(Path(mask))
    X = heard(space, X, unseen)
    unmarked = space.type == "text" and blank is None  # only a blank marks what a text does not have
    if unmarked or not codes_of(fitted, X, hidden, blank)[1].any():
        how_to = {"text": "; name the character of a blank: --blank _", "image": "; hide a part of it: --mask FILE"}
        say(f"nothing is missing in {data}, which stays as it is{how_to.get(space.type, '')}")
    with busy("filling in"):
        settings = {"mask": hidden, "blank": blank, "context": c, "method": method, "random_state": seed}
        found = given.impute(fitted, X, how, draws, **settings)
    if method != "exact":
        say(repr(found))
        found = found.examples
    if out is None:
        sys.stdout.write(as_text(found, space))
        return
    for i, filled in enumerate(found if draws else [found]):
        place = _numbered(Path(out), i + 1) if draws else out
        say(f"Wrote {len(filled):,} examples to {write(filled, place, space)}")


def _numbered(path: Path, i: int) -> Path:
    return path.with_name(f"{path.stem}-{i}{path.suffix}")


def _mask(path: Path) -> Any:
    """A picture's dark pixels, or an array of True and False."""
    import numpy as np

    from plausible.data.images import read_image
    from plausible.errors import ReadError

    if not path.is_file():
        raise ReadError(f"{path}: no such file")
    if path.suffix.lower() != ".npy":
        picture = read_image(path)
        dark = picture if picture.ndim == 2 else picture[..., :3].mean(2)
        return dark < (dark.max() + 1) / 2
    try:
        mask = np.load(path, allow_pickle=False)
    except ValueError as err:
        raise ReadError(f"{path.name}: not an array ({err})") from None
    return mask.astype(bool) if set(np.unique(mask).tolist()) <= {0, 1} else mask
