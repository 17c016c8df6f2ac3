"""`plausible novelty`: new examples, or training rows handed out?"""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Annotated

import typer

from plausible.cli.arguments import ContextFile, Key, ModelPath, examples, opened
from plausible.cli.inputs import context_of, writable
from plausible.cli.terminal import busy, say
from plausible.errors import PlausibleWarning

EXAMPLES = examples(
    "novelty adult.plausible adult-train.csv adult-test.csv",
    "novelty digits.plausible train.npz test.npz -o pairs.png",
    "novelty book.plausible train.txt test.txt -n 2000 -o novelty.html",
)


def novelty(
    model: ModelPath,
    train: Annotated[
        str, typer.Argument(metavar="TRAIN", help="The data that the model was fitted on.", show_default=False)
    ],
    held_out: Annotated[
        str, typer.Argument(metavar="HELD_OUT", help="Such data that it has not seen.", show_default=False)
    ],
    n: Annotated[
        int | None, typer.Option("-n", "--number", min=1, metavar="N", help="Samples. \\[default: as many as held out]")
    ] = None,
    out: Annotated[
        str | None,
        typer.Option(
            "--out",
            "-o",
            metavar="FILE",
            help="The samples nearest to a training row, beside it: a .html page; of images a .png, of tables and "
            "texts a .csv.",
        ),
    ] = None,
    pairs: Annotated[int, typer.Option(min=1, metavar="N", help="How many of these.")] = 12,
    seed: Annotated[int | None, typer.Option(min=0, metavar="N", help="Of the draw; fresh if not given.")] = None,
    context: ContextFile = None,
    key: Key = None,
) -> None:
    """Say whether a model draws new examples or copies its training rows."""
    from plausible.data.like import read_like
    from plausible.uses.novelty import check_form
    from plausible.uses.novelty import novelty as found_of

    fitted = opened(model)
    if out is not None:
        check_form(writable(Path(out), model, train, held_out), fitted.space_)
    with busy("reading"):
        X, new = (read_like(path, fitted.space_, key=key) for path in (train, held_out))
        c = context_of(fitted, held_out, context)
    with busy("drawing and searching"), warnings.catch_warnings():
        warnings.simplefilter("ignore", PlausibleWarning)  # which are among the notes that are printed
        found = found_of(fitted, X, new, n=n, context=c, random_state=seed)
    print(found)
    if out is not None:
        say(f"Wrote {found.write(out, pairs)}")
