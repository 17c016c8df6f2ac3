"""`plausible augment`: more examples of each class; `plausible balance`: more of a rare group."""

from __future__ import annotations

import dataclasses
import io
from pathlib import Path
from typing import Annotated, Any

import typer

from plausible.atomic import write_atomically
from plausible.cli.arguments import DataPath, Key, ModelPath, examples, opened
from plausible.cli.inputs import context_of, listed, value_of, writable
from plausible.cli.terminal import busy, say
from plausible.errors import DataError

AUGMENT_EXAMPLES = examples(
    "augment adult.plausible adult.csv --label income -n 5000 -o more.csv",
    "augment adult.plausible adult.csv --label income --target uniform -o even.csv",
    "augment digits.plausible digits.npz --label y -o more.npz",
)
BALANCE_EXAMPLES = examples(
    "balance adult.plausible adult.csv --group sex=Female --target 0.5 -o even.csv",
    "balance adult.plausible adult.csv --group sex=Female --target 0.5 --label income -o even.csv",
    "balance adult.plausible adult.csv --where 'age > 70' --target 0.1 -o older.csv",
    "balance faces.plausible faces.npz -o even.npz     whatever is rare, by the density of the model",
)
Out = Annotated[
    str | None,
    typer.Option("--out", "-o", metavar="FILE", help="All of them: a .csv, .tsv, .parquet or .jsonl; of images .npz."),
]
Seed = Annotated[int | None, typer.Option(min=0, metavar="N", help="Of draws and splits; fresh if not given.")]
Repeats = Annotated[int, typer.Option(min=3, metavar="N", help="Random splits of the check.")]
Scoring = Annotated[str, typer.Option(metavar="NAME", help="What the check scores, in scikit-learn's words.")]


def augment(
    model: ModelPath,
    data: DataPath,
    label: Annotated[
        str,
        typer.Option(
            metavar="COLUMN",
            help="The class: a column of the model's table, or the context it was fitted with.",
            show_default=False,
        ),
    ],
    n: Annotated[
        int | None, typer.Option("-n", "--number", min=1, metavar="N", help="To draw. \\[default: as many as in DATA]")
    ] = None,
    target: Annotated[
        str, typer.Option(metavar="same|uniform", help="Classes in their shares, or as evenly as N allows.")
    ] = "same",
    out: Out = None,
    check: Annotated[
        bool, typer.Option("--check/--no-check", help="Whether they help a classifier on held-out examples.")
    ] = True,
    scoring: Scoring = "balanced_accuracy",
    repeats: Repeats = 5,
    seed: Seed = None,
    key: Key = None,
) -> None:
    """Draw more examples of each class with the settings of MODEL, and check whether they help.

    Models are fitted anew: to DATA without the label, and to parts of it for the check.
    """
    from sklearn.base import clone

    from plausible.uses.augment import augment as augmented

    fitted = opened(model)
    place = _place(out, fitted, model, data)
    with busy(f"reading {data}"):
        X, y, space, after = _labelled(fitted, data, label, key)
    settings = {"n": n, "target": target, "check": check, "scoring": scoring, "repeats": repeats, "random_state": seed}
    with busy("fitting and drawing" + (f", {repeats + 1} times" if check else "")):
        found = augmented(clone(fitted).set_params(space=space), X, y, **settings)
    print(found)
    if place is not None:
        _write(found.X, {label: found.y, "synthetic": found.synthetic}, place, space, after)


def balance(
    model: ModelPath,
    data: DataPath,
    group: Annotated[
        list[str] | None,
        typer.Option(metavar="COLUMN=VALUE", help="What a row of the group has. Repeatable: all of them."),
    ] = None,
    where: Annotated[
        str | None, typer.Option(metavar="EXPRESSION", help="The group as an expression on columns: 'age > 70'.")
    ] = None,
    target: Annotated[
        float | None, typer.Option(metavar="SHARE", help="Of the group afterwards.", show_default=False)
    ] = None,
    label: Annotated[
        str | None,
        typer.Option(metavar="COLUMN", help="Also check what predicting this column gains, group by group."),
    ] = None,
    keep: Annotated[
        float, typer.Option(metavar="SHARE", help="Without a group: the effective sample size that is left.")
    ] = 0.5,
    out: Out = None,
    scoring: Scoring = "balanced_accuracy",
    repeats: Repeats = 5,
    seed: Seed = None,
    key: Key = None,
) -> None:
    """Raise a group of rows to a target share by drawing more of it; without a group, draw rare examples more often."""
    from plausible.data.like import read_like
    from plausible.uses.balance import balance as balanced
    from plausible.uses.debias import debias

    fitted = opened(model)
    place = _place(out, fitted, model, data)
    who = _group(fitted, group, where)
    if (who is None) != (target is None):
        raise DataError("a group and its --target go together: --group COLUMN=VALUE --target SHARE")
    with busy(f"reading {data}"):
        X, context = read_like(data, fitted.space_, key=key), context_of(fitted, data)
    with busy("drawing"):
        if who is None:
            found = debias(fitted, X, keep=keep, context=context, random_state=seed)
            more = {} if context is None else context.iloc[found.index].to_dict("list")
        else:
            check = {"label": label, "scoring": scoring, "repeats": repeats}
            found = balanced(fitted, X, group=who, target=target, context=context, random_state=seed, **check)
            more = {} if found.context is None else found.context.to_dict("list")
            more["synthetic"] = found.synthetic
    print(found)
    if place is not None:
        _write(found.X, more, place, fitted.space_)


def _group(model: Any, pairs: list[str] | None, where: str | None) -> Any:
    """``sex=Female`` as a mapping, each value in the form of its column; or the expression."""
    if not pairs or where is not None:
        if pairs:
            raise DataError("give either --group or --where")
        return where
    spaces = [model.space_, *([] if model.context_space_ is None else [model.context_space_])]
    columns = {c.name: c for space in spaces for c in space.columns}
    found: dict[str, list] = {}
    for pair in pairs:
        name, equals, text = pair.rpartition("=")
        if not equals or name not in columns:
            raise DataError(f"--group {pair}: expected COLUMN=VALUE with a column of {listed(list(columns))}")
        found.setdefault(name, []).append(value_of(columns[name], text, "--group"))
    return found


def _labelled(model: Any, data: str, label: str, key: str | None) -> tuple[Any, Any, Any, int | None]:
    """Examples, their labels, the space of an example without its label, and where the label's column stood."""
    from plausible.data.like import read_like

    space, context = model.space_, model.context_space_
    if context is not None and [c.name for c in context.columns] == [label]:
        return read_like(data, space, key=key), context_of(model, data)[label], space, None
    names = [c.name for c in space.columns] if space.type == "table" else []
    if label not in names or context is not None:
        raise DataError(
            f"--label {label}: expected the context that the model was fitted with, and no other, or a column of its "
            f"table{': ' + listed(names) if names else ''}"
        )
    X, place = read_like(data, space), names.index(label)
    columns = tuple(c for c in space.columns if c.name != label)
    if not columns:
        raise DataError("--label: every column is label; nothing is left to draw")
    left = dataclasses.replace(space, columns=columns, shape=(len(columns),))
    if hasattr(X, "columns"):
        return X.drop(columns=[label]), X[label], left, place
    others = [d for d in range(len(names)) if d != place]
    return X[:, others], X[:, place], left, place


def _place(out: str | None, model: Any, *read: str) -> Path | None:
    """Where to write, refused before the work where it cannot be; the files `read` are not written over."""
    if out is None:
        return None
    path, table = writable(Path(out), *read), model.space_.type in ("table", "text")
    forms = (".csv", ".tsv", ".parquet", ".jsonl") if table else (".npz",)
    if path.suffix not in forms:
        raise DataError(f"{model.space_.type}s with their labels are written to {', '.join(forms)}; got {path.name!r}")
    return path


def _write(X: Any, more: dict[str, Any], path: Path, space: Any, after: int | None = None) -> None:
    """Write examples with more columns; the first of these stands at `after`, the others at the end."""
    import numpy as np

    from plausible.data.write import as_frame, write

    if path.suffix == ".npz":
        out = io.BytesIO()
        np.savez_compressed(out, X=np.asarray(X), **{name: np.asarray(values) for name, values in more.items()})
        write_atomically(path, out.getvalue())
    else:
        frame = as_frame(X, space).reset_index(drop=True)
        for i, (name, values) in enumerate(more.items()):
            frame.insert(after if i == 0 and after is not None else frame.shape[1], name, values)
        write(frame, path, space)
    say(f"Wrote {len(X):,} examples to {path}")
