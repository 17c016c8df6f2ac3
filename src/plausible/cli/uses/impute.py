"""`plausible impute`: fill the missing cells of a table, the hidden part of images, the blanks of a text.

By a fitted model or, of a table, by many fits to that very table (see `plausible.uses.imputer`).
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from plausible import registry
from plausible.cli.arguments import OTHER, ContextFile, Drop, Header, Key, Kinds, examples, model_or_not, opened, parted
from plausible.cli.flags import flags_of
from plausible.cli.inputs import context_of, kinds_of, read_examples, writable
from plausible.cli.terminal import busy, say
from plausible.errors import DataError

EXAMPLES = examples(
    "impute adult.plausible holes.csv -o filled.csv",
    "impute adult.plausible holes.csv -o filled.csv --draws 5     filled-1.csv ... filled-5.csv",
    "impute adult.plausible holes.csv --how mean > filled.csv",
    f"impute holes.csv --model {OTHER} --how mean -o filled.csv          by fits to the table itself",
    f"impute holes.csv --model {OTHER} --level 0.9 -o filled.csv         and filled-low.csv, filled-high.csv",
    "impute digits.plausible digits.npz --mask top.png -o completed.png",
    "impute names.plausible names.txt --blank _ --method auto",
)
Files = model_or_not("what is to be filled in")
_LEARNED: dict[str, Any] = {"rich_help_panel": "Without MODEL: fits to DATA itself"}


def impute(
    files: Files,
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
    family: Annotated[
        str | None,
        typer.Option("--model", "-m", metavar="NAME", help="Without MODEL: the family to fit to DATA.", **_LEARNED),
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="SETTING=VALUE",
            help="Of that family. Repeatable; several values of one setting are all tried, and weighted.",
            **_LEARNED,
        ),
    ] = None,
    fits: Annotated[
        int, typer.Option(min=2, metavar="N", help="To as many bootstrap samples of the rows.", **_LEARNED)
    ] = 20,
    level: Annotated[
        float | None,
        typer.Option(
            metavar="SHARE",
            help="Also write FILE-low and FILE-high: intervals that hold this share of the missing cells.",
            **_LEARNED,
        ),
    ] = None,
    key: Key = None,
    kind: Kinds = None,
    drop: Drop = None,
    header: Header = None,
) -> None:
    """Fill in what is missing in DATA; what is known stays as it is.

    With MODEL by a fitted model. Without, a table is filled by fits of a family (--model) to that table itself.
    """
    model, data = parted(files)
    if draws is not None and (out is None or how != "draw"):
        raise DataError("--draws writes several files of draws: name them with -o FILE, and leave --how as it is")
    if model is not None:
        own = {"model": family, "set": settings, "level": level, "kind": kind, "drop": drop}
        _refuse(own, "is of a fit to DATA itself: leave out MODEL")
        _by_model(model, data, out, how, draws, mask, blank, method, unseen, seed, context, key)
        return
    if family is None:
        raise DataError(
            "give a model file, plausible impute MODEL DATA, or a family to fit to DATA itself: --model NAME"
        )
    own = {"mask": mask, "blank": blank, "context": context, "method": None if method == "exact" else method}
    _refuse(own, "needs a MODEL: plausible impute MODEL DATA")
    if out is not None:
        writable(Path(out), data, folder=True)
    reading = {"how": None, "kinds": kinds_of(kind), "drop": drop or (), "key": key, "length": None, "header": header}
    read = read_examples(data, None, complete=False, **reading)
    _learned(read, family, settings or [], fits, level, out, how, draws, seed)


def _refuse(flags: dict[str, Any], why: str) -> None:
    for name, value in flags.items():
        if value is not None:
            raise DataError(f"--{name} {why}")


def _learned(read, family, settings, fits, level, out, how, draws, seed) -> None:
    """Fill a table by fits to itself."""
    from plausible.data.write import as_text, check_form, write
    from plausible.uses.imputer import Imputer

    if how not in ("draw", "mean"):
        raise DataError(f"--how {how} needs a MODEL; without one there are draw and mean")
    if level is not None and (out is None or not 0 < level < 1):
        raise DataError("--level takes a share such as 0.9, and writes files: name them with -o FILE")
    if out is not None:
        check_form(Path(out), read.space)
    model, grid = registry.get(family)(space=read.space), _grid(family, settings)
    imputer = Imputer(model, grid=grid, fits=fits, random_state=seed)
    with busy("fitting"):
        imputer.fit(read.X)
    for candidate, weight in zip(imputer.candidates_, imputer.weights_, strict=True):
        if candidate:
            say(f"weight {weight:.2f}: {', '.join(f'{name} = {value}' for name, value in candidate.items())}")
    if imputer.n_hidden_:
        say(f"{imputer.n_hidden_:,} known cells, hidden as a test: off by {imputer.error_:.3f} of their deviations")
    with busy("filling in"):
        found = [imputer.transform(read.X)] if how == "mean" else imputer.sample(read.X, draws or 1, random_state=seed)
        ends = () if level is None else imputer.intervals(read.X, level)
    if out is None:
        sys.stdout.write(as_text(found[0], read.space))
        return
    for i, filled in enumerate(found):
        place = _numbered(Path(out), i + 1) if draws else out
        say(f"Wrote {len(filled):,} examples to {write(filled, place, read.space)}")
    for word, end in zip(("low", "high"), ends, strict=False):
        say(f"Wrote the {word} ends to {write(end, _numbered(Path(out), word), read.space)}")


def _grid(family: str, pairs: list[str]) -> dict[str, list]:
    """``n_components=4`` as settings of a family, with all values of each."""
    flags, grid = {flag.name: flag for flag in flags_of(registry.get(family))}, {}
    for pair in pairs:
        name, equals, text = pair.partition("=")
        flag = flags.get(name.replace("-", "_"))
        if not equals or flag is None:
            raise DataError(f"--set {pair}: expected SETTING=VALUE with a setting of {family}: {', '.join(flags)}")
        try:
            grid.setdefault(flag.name, []).append(flag.parse(text))
        except ValueError as err:
            raise DataError(f"--set {pair}: {err}") from None
    return grid


def _by_model(model, data, out, how, draws, mask, blank, method, unseen, seed, context, key) -> None:
    """Fill by a fitted model."""
    from plausible.data.like import read_like
    from plausible.data.write import as_text, check_form, write
    from plausible.uses import given
    from plausible.uses._parts import codes_of, heard

    fitted = opened(model)
    space = fitted.space_
    if out is not None:
        check_form(writable(Path(out), model, data, folder=True), space)
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


def _numbered(path: Path, i: int | str) -> Path:
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
