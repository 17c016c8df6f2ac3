"""`plausible complete`: go on with a text."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from plausible.cli.arguments import ModelPath, examples, opened
from plausible.cli.terminal import say

EXAMPLES = examples(
    'complete book.plausible "It was a dark" --length 500',
    "complete book.plausible --include thunder --include kitchen --seed 1",
)


def complete(
    model: ModelPath,
    prompt: Annotated[
        str,
        typer.Argument(
            metavar="PROMPT", help="What comes before; with none the text begins from nothing.", show_default=False
        ),
    ] = "",
    length: Annotated[
        int, typer.Option(min=1, metavar="N", help="Characters (bytes, tokens) to write, at most.")
    ] = 300,
    include: Annotated[
        list[str] | None, typer.Option(metavar="WORD", help="A word that must be in it. Repeatable.")
    ] = None,
    stop: Annotated[str | None, typer.Option(metavar="TEXT", help="Writing ends with this text.")] = None,
    temperature: Annotated[
        float, typer.Option(metavar="T", help="Below 1: what is likely; above: further afield.")
    ] = 1.0,
    top_k: Annotated[int | None, typer.Option(min=1, metavar="K", help="Draw from the K likeliest only.")] = None,
    seed: Annotated[int | None, typer.Option(min=0, metavar="N", help="Of the draw; fresh if not given.")] = None,
) -> None:
    """Continue a text with a fitted model of text."""
    from plausible.uses.complete import complete as completed
    from plausible.uses.complete import stream

    fitted = opened(model)
    if not prompt:
        say("no prompt: the text begins from nothing; give one to go on from it")
    how = {"length": length, "stop": stop, "temperature": temperature, "top_k": top_k, "random_state": seed}
    if include:
        found = completed(fitted, prompt, include=include, **how)
        print(found)
        say(f"no draw from the model's own distribution: {', '.join(found.altered)}")
        return
    characters = stream(fitted, prompt, **how)
    first = next(characters, "")  # what is refused is refused before anything is printed
    for piece in (prompt, first, *([] if not first else characters)):
        sys.stdout.write(piece)
        sys.stdout.flush()
    print()
