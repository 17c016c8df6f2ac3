"""`plausible anomalies`: which examples do not belong."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from plausible import registry
from plausible.atomic import write_atomically
from plausible.cli.arguments import (
    OTHER,
    Drop,
    Header,
    How,
    Key,
    Kinds,
    Length,
    Seed,
    examples,
    model_or_not,
    opened,
    parted,
)
from plausible.cli.inputs import kinds_of, read_examples, writable
from plausible.cli.terminal import busy, say
from plausible.cli.wording import aligned
from plausible.errors import PlausibleError

EXAMPLES = examples(
    "anomalies adult.plausible new.csv --calibration clean.csv --alpha 0.01 -o flagged.csv",
    "anomalies adult.plausible new.csv --calibration clean.csv --explain",
    "anomalies adult.csv --explain                     the oddest rows of one file",
    f"anomalies adult.csv --model {OTHER} --show 20",
)
Files = model_or_not("the examples to be judged")
CELLS = 3  # named of an example


def anomalies(
    files: Files,
    calibration: Annotated[
        str | None,
        typer.Option(metavar="FILE", help="Clean examples that MODEL was not fitted on; they make the promise."),
    ] = None,
    alpha: Annotated[
        float, typer.Option(metavar="RATE", help="The share of clean examples that may be flagged.")
    ] = 0.01,
    score: Annotated[
        str,
        typer.Option(
            metavar="NAME", help="auto, density, typicality, ratio, complexity, reconstruction or neighbours."
        ),
    ] = "auto",
    background: Annotated[
        str | None, typer.Option(metavar="MODEL", help="The model that --score ratio compares with.")
    ] = None,
    explain: Annotated[bool, typer.Option("--explain", help="Name the cells that are to blame.")] = False,
    show: Annotated[int, typer.Option(min=0, metavar="N", help="How many examples to print, oddest first.")] = 10,
    out: Annotated[
        str | None, typer.Option("--out", "-o", metavar="FILE", help="A .csv with a line for each example.")
    ] = None,
    family: Annotated[
        str | None,
        typer.Option("--model", "-m", metavar="NAME", help="Without MODEL: the family to fit. \\[default: neighbours]"),
    ] = None,
    seed: Seed = 0,
    how: How = None,
    kind: Kinds = None,
    drop: Drop = None,
    key: Key = None,
    length: Length = None,
    header: Header = None,
) -> None:
    """Find the examples that do not belong.

    With MODEL and --calibration at most the share alpha of clean examples is flagged.

    Without --calibration the examples of DATA are compared with each other, and the oddest share alpha is flagged.

    Without MODEL each is judged by a fit on the others: by default, by the distance to its nearest neighbours.
    """
    from plausible.uses.anomaly.conformal import check_alpha

    check_alpha(alpha)
    model, data = parted(files)
    target = None if out is None else writable(Path(out), *files)
    if model is None:
        if calibration or background:
            raise PlausibleError("--calibration and --background need a MODEL: plausible anomalies MODEL DATA")
        reading = {"how": how, "kinds": kinds_of(kind), "drop": drop or (), "key": key, "length": length}
        read = read_examples(data, None, complete=False, header=header, **reading)
        found, blame = _compared(read, family, score, alpha, seed)
    else:
        if family is not None:
            raise PlausibleError("--model names a family to fit where there is no MODEL; give one or the other")
        found, blame = _judged(model, data, calibration, background, score, alpha, seed, key)
    order = found.sort_values(["p_value", "score"], ascending=[True, False], kind="stable").index
    shown = order[:show]
    if explain and len(found):
        with busy("explaining"):
            named = blame(order if target is not None else shown)
        found.loc[named.index, "to blame"] = named
    flagged = int(found["flagged"].sum())
    print(f"{flagged:,} of {len(found):,} examples flagged at alpha = {alpha:g}", end="")
    print(f"; {alpha * len(found):.3g} expected if all are clean" if calibration else "")
    if len(shown):
        print(aligned([tuple(found.columns), *(_line(found.loc[i]) for i in shown)]))
    if target is not None:
        write_atomically(target, found.to_csv(index=False).encode())
        say(f"Wrote {target}")


def _judged(model, data, calibration, background, score, alpha, seed, key) -> tuple[Any, Any]:
    """Examples judged by a fitted model: a line for each, and what names the cells to blame of some."""
    from plausible.cli.inputs import context_of
    from plausible.data import take
    from plausible.data.like import read_like
    from plausible.uses import anomaly

    fitted = opened(model)
    other = None if background is None else opened(background)
    with busy("reading"):
        X, clean = (read_like(path, fitted.space_, key=key) for path in (data, calibration or data))
        contexts = [context_of(fitted, path) for path in (data, calibration or data)]
    with busy("scoring"):
        judge = anomaly.detector(fitted, clean, score, context=contexts[1], background=other, random_state=seed)
        if calibration is not None:
            judge.threshold(alpha)  # which refuses too few calibration rows
        p = judge.p_value(X, context=contexts[0])
        found = _lines(judge.score(X, context=contexts[0]), p, p <= alpha)
    say(f"score: {judge.label}")
    if calibration is None:
        say("without --calibration the examples are compared with each other")

    def blame(rows):
        own = None if contexts[0] is None else contexts[0].iloc[rows]
        part = take(X, rows)
        return _named(judge.explain(part, context=own), rows, part)

    return found, blame


def _compared(read, family, score, alpha, seed) -> tuple[Any, Any]:
    """Examples compared with each other: a line for each, and what names the cells to blame of some."""
    from plausible.data import take
    from plausible.uses import anomaly

    estimator = None if family is None else registry.get(family)(random_state=seed, space=read.space)
    if estimator is None:
        estimator = anomaly.Neighbours(space=read.space)
    with busy("comparing"):
        odd = anomaly.unusual(estimator, read.X, score=score, random_state=seed)
    say(f"score: {odd.label}, by a fit on the other examples")
    found = _lines(odd.scores, odd.p_values, odd.p_values <= alpha)
    return found, lambda rows: _named(odd.explain(rows), rows, take(read.X, rows))


def _lines(scores: Any, p: Any, flagged: Any) -> Any:
    import numpy as np
    import pandas as pd

    return pd.DataFrame({"row": np.arange(1, len(p) + 1), "score": scores, "p_value": p, "flagged": flagged})


def _named(blame: Any, rows: Any, X: Any) -> Any:
    """The cells to blame of examples X, worst first; of a table with their values."""
    import pandas as pd

    say(f"to blame: {blame.label}")
    held = X.rename(columns=str).to_dict("records") if isinstance(X, pd.DataFrame) else [{}] * len(rows)
    cells = [
        ", ".join(_cell(name, own, value) for name, value in top if value > 0)
        for top, own in zip(blame.top(CELLS), held, strict=True)
    ]
    return pd.Series(cells, index=rows, dtype=object)


def _cell(name: str, own: dict[str, Any], value: float) -> str:
    return f"{name} = {own[name]} ({value:+.2f})" if name in own else f"{name} ({value:+.2f})"


def _line(row: Any) -> tuple[str, ...]:
    rest = (str(row["to blame"]),) if "to blame" in row.index else ()
    return (str(row["row"]), f"{row['score']:.4g}", f"{row['p_value']:.3g}", "yes" if row["flagged"] else "no", *rest)
