"""`plausible query`: probabilities, means, variances and quantiles of a fitted model of a table."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from plausible.cli.arguments import ModelPath, Seed, examples, opened
from plausible.cli.inputs import context_given, listed, value_of
from plausible.cli.terminal import busy

EXAMPLES = examples(
    "query adult.plausible \"age > 40 and income == '>50K'\" --given sex=F",
    "query adult.plausible --mean age --variance age --quantile age=0.9",
    'query adult.plausible "hours > 40" --atol 0.001 --seed 0',
)


def query(
    model: ModelPath,
    event: Annotated[
        str | None,
        typer.Argument(metavar="EVENT", help="An expression on columns: its probability.", show_default=False),
    ] = None,
    given: Annotated[list[str] | None, typer.Option(metavar="COLUMN=VALUE", help="What is known. Repeatable.")] = None,
    mean: Annotated[list[str] | None, typer.Option(metavar="COLUMN", help="Its mean. Repeatable.")] = None,
    variance: Annotated[list[str] | None, typer.Option(metavar="COLUMN", help="Its variance. Repeatable.")] = None,
    covariance: Annotated[
        list[str] | None, typer.Option(metavar="COLUMN,COLUMN", help="That of two columns or more. Repeatable.")
    ] = None,
    quantile: Annotated[
        list[str] | None, typer.Option(metavar="COLUMN=Q", help="What it is below with probability Q. Repeatable.")
    ] = None,
    expectation: Annotated[
        list[str] | None, typer.Option(metavar="EXPRESSION", help="Its mean, such as 'price * seats'. Repeatable.")
    ] = None,
    atol: Annotated[
        float | None, typer.Option(metavar="X", help="Of estimates: draw until the standard error is at most X.")
    ] = None,
    context: Annotated[
        list[str] | None,
        typer.Option(metavar="COLUMN=VALUE", help="The c of a model of p(x | c). Repeatable, once for each column."),
    ] = None,
    seed: Seed = 0,
) -> None:
    """Ask a fitted model of a table: what is the probability of EVENT, the mean of a column?

    An answer is exact for the model, or an estimate with its error bar. How good the model is, neither says.
    """
    import numpy as np

    from plausible.errors import DataError
    from plausible.uses import query as ask

    if not (event or mean or variance or covariance or quantile or expectation):
        raise DataError('nothing is asked; give an event such as "age > 40", or --mean, --variance, --quantile')
    fitted = opened(model)
    known = _known(fitted.space_, given)
    settings = {"atol": atol, "context": context_given(fitted, context), "random_state": seed}
    questions = [(f"P({event})", lambda: ask.probability(fitted, event, known, **settings))] if event else []
    for name, function, columns in (("mean", ask.mean, mean), ("variance", ask.variance, variance)):
        questions += [
            (f"{name} of {c}", lambda f=function, c=c: f(fitted, c, known, **settings)) for c in columns or ()
        ]
    for names in covariance or ():
        several = [name.strip() for name in names.split(",")]
        questions.append(
            (f"covariance of {names}", lambda several=several: ask.covariance(fitted, several, known, **settings))
        )
    for text in expectation or ():
        questions.append((f"mean of {text}", lambda t=text: ask.expectation(fitted, t, known, **settings)))
    for pair in quantile or ():
        column, q = _share(pair)
        questions.append(
            (f"{q:g} quantile of {column}", lambda c=column, q=q: ask.quantile(fitted, c, q, known, **settings))
        )
    for label, answer in questions:
        with busy("asking"):
            found = answer()
        print(f"{label} = {found!r}" if np.isscalar(found.value) else f"{label}:\n{found!r}")


def _known(space: Any, pairs: list[str] | None) -> dict[str, Any]:
    """``sex=F`` as a mapping, each value in the form of its column."""
    from plausible.errors import DataError

    columns, known = {c.name: c for c in space.columns}, {}
    for pair in pairs or ():
        name, equals, text = pair.partition("=")
        if not equals or name not in columns:
            raise DataError(f"--given {pair}: expected COLUMN=VALUE with a column of {listed(list(columns))}")
        known[name] = value_of(columns[name], text, "--given")
    return known


def _share(pair: str) -> tuple[str, float]:
    from plausible.errors import DataError

    name, _, text = pair.rpartition("=")
    try:
        return name, float(text)
    except ValueError:
        raise DataError(f"--quantile {pair}: expected COLUMN=Q, such as --quantile age=0.9") from None
