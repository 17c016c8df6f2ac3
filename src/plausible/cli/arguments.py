"""Arguments that several commands take, and what they are read into."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from plausible import registry
from plausible.cli.terminal import busy
from plausible.errors import DataError

READING = "Reading the data"
ONE, OTHER = registry.names()[:2]  # for examples

DATA_HELP = (
    "CSV, TSV, JSON lines or text (also as .gz), Parquet, npy, npz, wav, flac, a folder of images or of sounds, or a "
    "bundled data set (digits, diabetes)."
)
DataPath = Annotated[str, typer.Argument(metavar="DATA", help=DATA_HELP, show_default=False)]
ModelPath = Annotated[
    str, typer.Argument(metavar="MODEL", help="A file that `plausible fit` wrote.", show_default=False)
]


def model_or_not(what: str) -> Any:
    """Return the files of a command that also works without a model; see `parted`.

    Typer takes no argument that may be left out before one that may not.
    """
    about = f"A file that `plausible fit` wrote, which may be left out, and {what}."
    return Annotated[list[str], typer.Argument(metavar="[MODEL] DATA", help=about, show_default=False)]


How = Annotated[
    str | None,
    typer.Option(
        "--as",
        metavar="FORM",
        help="What DATA holds: a table, image(s), series, audio, text (one) or lines (a text each).",
        rich_help_panel=READING,
    ),
]
Kinds = Annotated[
    list[str] | None,
    typer.Option(
        "--kind",
        metavar="COLUMN=KIND",
        help="Kind of a column: binary, categorical, ordinal, count or real. Repeatable.",
        rich_help_panel=READING,
    ),
]
Drop = Annotated[
    list[str] | None,
    typer.Option(metavar="COLUMN", help="Leave a column out. Repeatable.", rich_help_panel=READING),
]
Key = Annotated[str | None, typer.Option(metavar="NAME", help="Which array of an .npz file.", rich_help_panel=READING)]
Length = Annotated[
    int | None,
    typer.Option(
        min=1,
        metavar="N",
        help="Steps in a window of a series, characters (or bytes, or tokens) in a window of a text.",
        rich_help_panel=READING,
    ),
]
Vocabulary = Annotated[
    str,
    typer.Option(
        metavar="WORD",
        help="Of text: characters (those it holds), bytes, or bpe: byte pairs, learned from it.",
        rich_help_panel=READING,
    ),
]
VocabularySize = Annotated[
    int,
    typer.Option(min=257, metavar="N", help="Tokens of a vocabulary of byte pairs.", rich_help_panel=READING),
]
Complete = Annotated[
    bool,
    typer.Option("--drop-missing", help="Leave out the rows that have missing cells.", rich_help_panel=READING),
]
Header = Annotated[
    bool | None,
    typer.Option("--header/--no-header", help="Whether the first line names the columns.", rich_help_panel=READING),
]
Context = Annotated[
    list[str] | None,
    typer.Option(
        metavar="COLUMN",
        help="Model p(x | c): a column or an array of the .npz that is the c, repeatable; or a file that holds it.",
    ),
]
ContextFile = Annotated[
    list[str] | None,
    typer.Option(
        "--context",
        metavar="FILE",
        help="Of a model of p(x | c): a file of the c of each example, or an array of the .npz. \\[default: with DATA]",
    ),
]
Seed = Annotated[int, typer.Option(min=0, metavar="N", help="Of everything random.")]


def parted(files: list[str]) -> tuple[str | None, str]:
    """Return MODEL, or None, and DATA.

    Raises:
        DataError: there are more files.
    """
    if len(files) > 2:
        raise DataError(f"expected [MODEL] DATA, got {len(files)} files: {', '.join(files)}")
    *model, data = files
    return (model[0] if model else None), data


def examples(*lines: str) -> str:
    """Return the end of a command's help."""
    return "\n Examples\n" + "\n".join(f"  plausible {line}" for line in lines)


def opened(path: str) -> Any:
    """Return the model in a file."""
    from plausible.files import load

    with busy(f"loading {path}"):
        return load(path)
