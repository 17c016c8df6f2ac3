"""`plausible surprise`: which pixel, word or column of an example a model did not expect."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from plausible.cli.arguments import ContextFile, Key, ModelPath, examples, opened
from plausible.cli.inputs import context_of, writable
from plausible.cli.terminal import busy, say

EXAMPLES = examples(
    "surprise digits.plausible digits.npz -o maps.png",
    "surprise adult.plausible new.csv -n 50",
    "surprise book.plausible letter.txt",
)


def surprise(
    model: ModelPath,
    data: Annotated[
        str, typer.Argument(metavar="DATA", help="Examples like those it was fitted on.", show_default=False)
    ],
    out: Annotated[
        str | None,
        typer.Option(
            "--out",
            "-o",
            metavar="FILE",
            help="The bits of every cell: a .npy or .npz, of tables a .csv; of images also a .png, which shows the "
            "first images, what was expected and the surprise.",
        ),
    ] = None,
    n: Annotated[
        int, typer.Option("-n", "--number", min=1, metavar="N", help="Cells to print, or images to show.")
    ] = 16,
    context: ContextFile = None,
    key: Key = None,
) -> None:
    """Say which cells of DATA a fitted model did not expect, given those before them.

    Without -o the cells are printed that surprise most beyond what is usual in their place.
    """
    from plausible.cli.wording import aligned
    from plausible.data.like import read_like
    from plausible.uses import _map_files, maps

    fitted = opened(model)
    if out is not None:
        _map_files.check_form(writable(Path(out), model, data), fitted.space_)
    with busy(f"reading {data}"):
        X = read_like(data, fitted.space_, key=key)
        given = context_of(fitted, data, context)
    if out is not None:
        shown = slice(n if out.lower().endswith(".png") else None)
        with busy("scoring"):
            maps.write(fitted, X[shown], out, context=None if given is None else given[shown])
        say(f"Wrote {out}")
        return
    with busy("scoring"):
        found = maps.surprising(fitted, X, n, context=given)
    rows = [[_short(*cell, fitted.space_.type) for cell in row.items()] for row in found.to_dict("records")]
    print(aligned([tuple(found.columns), *rows]))


def _short(name: str, value: Any, event: str) -> str:
    """A cell of the table; characters with their quotes, so that spaces are seen."""
    if name in ("bits", "usual"):
        return f"{value:.1f}"
    if event == "text" and name != "cell":
        return repr(value) if isinstance(value, str) else str(value)
    return f"{value:.6g}" if isinstance(value, float) else str(value)
