"""The command line: compare, fit, sample, score, info, families.

A command reads its arguments, calls the library, and prints. Options of a family are made from the signature of its
estimator (`plausible.flags`); no family is known here by name. torch and pandas are imported by the command that needs
them, not by ``plausible --help``.
"""

from __future__ import annotations

import json
import shlex
import sys
import zipfile
from pathlib import Path
from typing import Annotated, Any

import typer

from plausible import __version__
from plausible.errors import DataError, PlausibleError
from plausible.flags import checked, duration, flags_of, with_settings
from plausible.terminal import INTERRUPTED, Group, Steps, aligned, busy, fail, say

READING, RESULT = "Reading the data", "Result"
SHOWN_COLUMNS, SHOWN_EPOCHS, SHOWN_LEVELS = 24, 8, 6

# ------------------------------------------------------------------------------------------------------ arguments

DATA_HELP = (
    "CSV, TSV, JSON lines or text (also as .gz), Parquet, npy, npz, a folder of images, or a bundled data set "
    "(digits, diabetes)."
)
DataPath = Annotated[str, typer.Argument(metavar="DATA", help=DATA_HELP, show_default=False)]
ModelPath = Annotated[
    str, typer.Argument(metavar="MODEL", help="A file that `plausible fit` wrote.", show_default=False)
]
How = Annotated[
    str | None,
    typer.Option(
        "--as",
        metavar="FORM",
        help="What DATA holds: a table, image(s), series, text (one) or lines (a text each).",
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
        help="Steps in a window of a series, characters in a window of a text.",
        rich_help_panel=READING,
    ),
]
Header = Annotated[
    bool | None,
    typer.Option("--header/--no-header", help="Whether the first line names the columns.", rich_help_panel=READING),
]
Context = Annotated[
    list[str] | None,
    typer.Option(
        metavar="COLUMN", help="Model p(x | c): a column, or an array of the .npz, that is the c. Repeatable."
    ),
]
Seed = Annotated[int, typer.Option(min=0, metavar="N", help="Of everything random.")]


def _budget(text: str) -> tuple:
    return (checked(duration, text),)


def _examples(*lines: str) -> str:
    return "\b\nExamples\n" + "\n".join(f"  plausible {line}" for line in lines)


class Commands(Group):
    """The commands; `fit` takes the options of the family that --model names."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        args = [_dashed(arg) for arg in args]
        name, command, rest = super().resolve_command(ctx, args)
        family = _value_of(("--model", "-m"), rest)
        if name == "fit" and family:
            from plausible import registry

            single = typer.Typer(rich_markup_mode="rich", add_completion=False)
            single.command("fit", epilog=FIT_EXAMPLES)(with_settings(fit, registry.get(family)))
            command = typer.main.get_command(single)
            command.see = f"plausible fit --model {family} --help"
        return name, command, rest


def _dashed(arg: str) -> str:
    """``--batch_size=4`` as ``--batch-size=4``."""
    flag, equals, value = arg.partition("=")
    return flag.replace("_", "-") + equals + value if flag.startswith("--") else arg


def _value_of(flags: tuple[str, ...], args: list[str]) -> str | None:
    for i, arg in enumerate(args):
        flag, equals, value = arg.partition("=")
        if flag in flags:
            return value if equals else args[i + 1] if i + 1 < len(args) else None
    return None


app = typer.Typer(
    cls=Commands, rich_markup_mode="rich", add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False
)


def main() -> None:
    """Run the command line."""
    app()


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"plausible {__version__}")
        raise typer.Exit


@app.callback(
    epilog=_examples(
        "compare adult.csv --budget 2m",
        "fit adult.csv --model made -o adult.plausible",
        "sample adult.plausible -n 1000 -o more.csv",
        "score adult.plausible new.csv --per-example",
    )
)
def plausible(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Generative models of your data: compare them, fit one, draw from it, ask it how likely something is."""


# ------------------------------------------------------------------------------------------------------- commands


@app.command(
    epilog=_examples(
        "compare adult.csv",
        "compare photos/ --budget 10m --models independent,vae -o photos.html",
        "compare names.txt --as lines --seed 1",
        "compare adult.csv --drop id --kind grade=ordinal",
    ),
)
def compare(
    ctx: typer.Context,
    data: DataPath,
    budget: Annotated[
        Any,
        typer.Option(parser=_budget, metavar="TIME", help="For everything: 90, 90s, 2m, 1h; 'none' for no limit."),
    ] = "2m",
    models: Annotated[
        str | None, typer.Option(metavar="A,B,...", help="Families to fit. \\[default: all that can]")
    ] = None,
    out: Annotated[str, typer.Option("--out", "-o", help="The report; its numbers go to a .json beside it.")] = (
        "report.html"
    ),
    seed: Seed = 0,
    test_fraction: Annotated[float, typer.Option(metavar="SHARE", help="Of the examples, held out.")] = 0.2,
    samples: Annotated[int, typer.Option(min=1, metavar="N", help="Examples drawn from each model.")] = 1000,
    importance_samples: Annotated[
        int,
        typer.Option(min=0, metavar="N", help="Of the weighted estimate for models that give a bound; 0 for none."),
    ] = 64,
    context: Context = None,
    how: How = None,
    kind: Kinds = None,
    drop: Drop = None,
    key: Key = None,
    length: Length = None,
    header: Header = None,
) -> None:
    """Fit the families that can model DATA, judge them on held-out examples, write a report."""
    from plausible import registry
    from plausible.evaluate import compare as compare_models

    names = None if models is None else [m.strip() for m in models.split(",") if m.strip()]
    for name in names or ():
        registry.get(name)
    page = _writable(Path(out))
    read = _read(data, context, how=how, kinds=_kinds(kind), drop=drop or (), key=key, length=length, header=header)
    seconds = _seconds(budget)
    with Steps(seconds) as steps:
        found = compare_models(
            read.data,
            names,
            budget=seconds,
            test_fraction=test_fraction,
            random_state=seed,
            n_samples=samples,
            importance_samples=importance_samples,
            context=read.context,
            command=_command(ctx),
            progress=steps,
        )
    said = read.data.notes  # on standard error, before the work
    print("\n".join(line for line in str(found).splitlines() if line.partition(": ")[2] not in said), flush=True)
    page = found.report(page)
    say("")
    say(f"Wrote {page} and {page.with_suffix('.json')}")


FIT_EXAMPLES = _examples(
    "fit adult.csv --model gaussian -o adult.plausible",
    "fit adult.csv --model made --hidden 256,256 --budget 5m",
    "fit digits.npz --model vae --context y",
    "fit --model made --help                    its options",
)


def fit(
    data: DataPath,
    model: Annotated[
        str,
        typer.Option(
            "--model", "-m", metavar="NAME", help="A family; with --help, lists its options.", show_default=False
        ),
    ],
    out: Annotated[
        str | None, typer.Option("--out", "-o", metavar="FILE", help="Where to. \\[default: DATA.NAME.plausible]")
    ] = None,
    seed: Seed = 0,
    context: Context = None,
    how: How = None,
    kind: Kinds = None,
    drop: Drop = None,
    key: Key = None,
    length: Length = None,
    header: Header = None,
    *,
    settings: dict[str, Any],
) -> None:
    """Fit one model to DATA and write it to a file."""
    from plausible import registry
    from plausible.options import check_options

    cls = registry.get(model)
    shown = {"verbose": True} if any(f == "verbose" for f in cls().get_params(deep=False)) else {}
    estimator = cls(**settings, random_state=seed, **shown)
    check_options(estimator)
    read = _read(data, context, how=how, kinds=_kinds(kind), drop=drop or (), key=key, length=length, header=header)
    target = _writable(Path(out) if out else Path(f"{read.data.name.split('.')[0]}.{model}.plausible"))
    estimator.set_params(space=read.data.space)
    estimator.fit(read.data.X, context=read.context)
    estimator.save(target)
    print(_fitted(estimator))
    say(f"Wrote {target} ({_size(target)}); try: plausible sample {shlex.quote(str(target))}")
    if estimator.stopped_ == "interrupted":
        raise fail(f"interrupted; what had been learned by then is in {target}", INTERRUPTED)


app.command(epilog=FIT_EXAMPLES)(with_settings(fit))


@app.command(
    epilog=_examples(
        "sample adult.plausible -n 1000 > rows.csv",
        "sample adult.plausible -n 1000 -o rows.parquet --seed 0",
        "sample faces.plausible -n 64 -o faces.png",
        "sample digits.plausible --context digit=3 -o threes/",
    ),
)
def sample(
    model: ModelPath,
    n: Annotated[int, typer.Option("-n", "--number", min=1, metavar="N", help="How many.")] = 10,
    out: Annotated[
        str | None,
        typer.Option(
            "--out",
            "-o",
            metavar="FILE",
            help="A .csv, .tsv, .parquet, .jsonl, .txt, .npz or .npy file; of images a .png (a grid) or a folder. "
            "\\[default: standard output]",
        ),
    ] = None,
    seed: Annotated[int | None, typer.Option(min=0, metavar="N", help="Of the draw; fresh if not given.")] = None,
    context: Annotated[
        list[str] | None,
        typer.Option(metavar="COLUMN=VALUE", help="The c of a model of p(x | c). Repeatable, once for each column."),
    ] = None,
) -> None:
    """Draw new examples from a fitted model."""
    from plausible.data.write import as_text, check_form, write

    fitted = _load(model)
    if out is not None:
        check_form(_writable(Path(out)), fitted.space_)
    elif fitted.space_.type == "image":
        as_text(None, fitted.space_)
    with busy(f"drawing {n:,}"):
        X = fitted.sample(n, context=_given(fitted, context), random_state=seed)
    if out is None:
        sys.stdout.write(as_text(X, fitted.space_))
    else:
        say(f"Wrote {n:,} examples to {write(X, out, fitted.space_)}")


@app.command(
    epilog=_examples(
        "score adult.plausible new.csv",
        "score adult.plausible new.csv --per-example | sort -g | head",
        "score vae.plausible digits.npz --importance-samples 100 -o scores.csv",
    ),
)
def score(
    model: ModelPath,
    data: DataPath,
    out: Annotated[
        str | None, typer.Option("--out", "-o", metavar="FILE", help="A .csv for log_prob of each example.")
    ] = None,
    per_example: Annotated[
        bool, typer.Option("--per-example", help="Print log_prob of each example, in nats, instead of their mean.")
    ] = False,
    importance_samples: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="Of a model that gives a bound, the weighted estimate.")
    ] = None,
    key: Key = None,
) -> None:
    """Say how likely a fitted model finds DATA."""
    from plausible.data.like import read_like
    from plausible.evaluate import likelihood

    fitted = _load(model)
    target = None if out is None else _writable(Path(out))
    with busy(f"reading {data}"):
        X = read_like(data, fitted.space_, key=key)
        context = _context_of(fitted, data)
    with busy("scoring"):
        found = likelihood(fitted, X, context=context, importance_samples=importance_samples)
    lines = "log_prob\n" + "".join(f"{v!r}\n" for v in found.values.tolist())
    if target is not None:
        target.write_text(lines)
    if per_example:
        sys.stdout.write(lines)
        say(str(found))
    else:
        print(found)
    if target is not None:
        say(f"Wrote {target}")


@app.command(epilog=_examples("info adult.plausible"))
def info(model: ModelPath) -> None:
    """Describe a fitted model: what it is, what it was fitted on, how the fit went."""
    from plausible.files import JSON

    fitted = _load(model)
    with zipfile.ZipFile(model) as archive:
        described = json.loads(archive.read(JSON))
    versions = ", ".join(f"{k} {v}" for k, v in described["versions"].items())
    rows = [
        ("family", described["family"]),
        ("model", _one_line(fitted)),
        ("examples", fitted.space_.describe()),
        ("context", "none" if fitted.context_space_ is None else ", ".join(_names(fitted.context_space_))),
        ("log_prob", "none" if fitted.likelihood_kind_ is None else fitted.likelihood_kind_.replace("_", " ")),
        ("measure", fitted.space_.measure),
        ("parameters", f"{fitted.n_parameters_:,}"),
        ("fitted in", f"{fitted.fit_seconds_:.3g} s ({fitted.stopped_}, state of epoch {fitted.kept_epoch_} kept)"),
        ("file", f"{_size(Path(model))}, format {described['format']}, {versions}"),
        ("fingerprint", f"{fitted.fingerprint_} (of the training data)"),
    ]
    print(aligned(rows))
    print(_columns(fitted.space_) + _history(fitted.history_), end="")


@app.command(epilog=_examples("families", "families made"))
def families(
    name: Annotated[str | None, typer.Argument(metavar="[NAME]", help="Of a family.", show_default=False)] = None,
) -> None:
    """List the families and what they can do; with a name, the options of one."""
    from plausible import registry

    if name is not None:
        print(_about(name, registry.get(name)))
        return
    rows = [("name", "log_prob", "examples", "columns", "missing", "context", "")]
    for family in registry.names():
        cls = registry.get(family)
        rows.append((family, *_traits(cls.traits), _summary(cls)))
    print(aligned(rows))
    say("\nOptions of one: plausible families NAME")


# -------------------------------------------------------------------------------------------------------- reading


class _Read:
    """Data, and what they are conditioned on."""

    def __init__(self, data: Any, context: Any):
        self.data, self.context = data, context


def _read(path: str, context: list[str] | None, **reading: Any) -> _Read:
    """Read DATA, say what it was taken for, part the context from it."""
    from plausible.data import read

    with busy(f"reading {path}"):
        data = read(path, **reading)
        found = _Read(data, None) if not context else _parted(path, data, context)
    say(found.data.describe())
    for note in found.data.notes:
        say(f"guessed: {note}")
    return found


def _parted(path: str, data: Any, names: list[str]) -> _Read:
    """Columns of a table, or other arrays of an .npz, taken as the context."""
    import dataclasses

    import pandas as pd

    from plausible.data import read

    if not isinstance(data.X, pd.DataFrame):
        if not str(path).endswith(".npz"):
            raise DataError("--context needs a column of a table or an array of an .npz file")
        arrays = {name: read(path, key=name).X for name in names}
        return _Read(data, pd.DataFrame({name: _labels(name, X, len(data.X)) for name, X in arrays.items()}))
    absent = [n for n in names if n not in data.X.columns]
    if absent:
        raise DataError(f"--context: there is no column {absent[0]!r}; there are {', '.join(data.X.columns)}")
    left = tuple(c for c in data.space.columns if c.name not in names)
    if not left:
        raise DataError("--context: every column is context; nothing is left to model")
    space = dataclasses.replace(data.space, columns=left, shape=(len(left),))
    return _Read(dataclasses.replace(data, X=data.X.drop(columns=names), space=space), data.X[names])


def _labels(name: str, X: Any, n: int) -> Any:
    if len(X) != n or X.ndim != 2 or X.shape[1] != 1:
        raise DataError(f"--context {name}: expected {n:,} labels, one for each example, got shape {X.shape}")
    return X[:, 0]


def _context_of(fitted: Any, path: str) -> Any:
    """The context of each example, from the file that holds the examples."""
    import pandas as pd

    from plausible.data.like import read_like

    space = fitted.context_space_
    if space is None:
        return None
    if str(path).endswith(".npz"):
        arrays = {name: read_like(path, space, key=name) for name in _names(space)}
        return pd.DataFrame({name: pd.DataFrame(X).iloc[:, 0] for name, X in arrays.items()})
    return read_like(path, space)


def _given(fitted: Any, pairs: list[str] | None) -> Any:
    """``digit=3`` as one row of context, each value in the form of its column."""
    import pandas as pd

    space = fitted.context_space_
    if not pairs:
        if space is None:
            return None
        raise DataError(f"the model is of p(x | c); give the c: --context {space.columns[0].name}=VALUE")
    if space is None:
        raise DataError("the model takes no --context; it was fitted without one")
    columns = {c.name: c for c in space.columns}
    values = {}
    for pair in pairs:
        name, equals, text = pair.rpartition("=")
        if not equals and len(columns) == 1:
            name = next(iter(columns))
        if name not in columns:
            raise DataError(f"--context {pair}: expected COLUMN=VALUE with a column of {', '.join(columns)}")
        values[name] = [_value(columns[name], text)]
    absent = [name for name in columns if name not in values]
    if absent:
        raise DataError(f"--context: a value for {absent[0]!r} is missing")
    return pd.DataFrame(values)


def _value(column: Any, text: str) -> Any:
    if column.levels:
        for level in column.levels:
            if str(level) == text:
                return level
        raise DataError(f"--context: {column.name!r} has no level {text!r}; it has {_some(column.levels)}")
    try:
        return float(text)
    except ValueError:
        raise DataError(f"--context: {column.name!r} is a number, got {text!r}") from None


def _kinds(pairs: list[str] | None) -> dict[str, str] | None:
    """``age=real`` as a mapping."""
    found = {}
    for pair in pairs or ():
        name, equals, kind = pair.rpartition("=")
        if not equals or not name:
            raise DataError(f"--kind {pair}: expected COLUMN=KIND, such as --kind grade=ordinal")
        found[name] = kind
    return found or None


def _load(path: str) -> Any:
    from plausible.files import load

    with busy(f"loading {path}"):
        return load(path)


def _writable(path: Path) -> Path:
    """Refuse a place that cannot be written to, before the work and not after it."""
    folder = path.parent
    if not folder.is_dir():
        raise PlausibleError(f"{path}: there is no folder {folder}; make it first")
    return path


def _seconds(budget: Any) -> float | None:
    return budget[0] if isinstance(budget, tuple) else duration(budget)


def _command(ctx: typer.Context) -> str:
    """The command as it was typed."""
    parts = ["plausible", ctx.info_name or ""]
    return shlex.join([*parts, *sys.argv[2:]])


# -------------------------------------------------------------------------------------------------------- wording


def _names(space: Any) -> list[str]:
    return [c.name for c in space.columns]


def _some(values: Any, most: int = SHOWN_LEVELS) -> str:
    shown = ", ".join(str(v) for v in values[:most])
    return shown + (f", ... ({len(values)} in all)" if len(values) > most else "")


def _size(path: Path) -> str:
    from plausible.evaluate.wording import size

    return size(path.stat().st_size)


def _one_line(model: Any) -> str:
    """The estimator as it would be written in Python, settings that are not the default only."""
    flags = {f.name: f.default for f in flags_of(type(model))}
    changed = {k: getattr(model, k) for k, v in flags.items() if getattr(model, k) != v}
    return f"{type(model).__name__}({', '.join(f'{k}={v!r}' for k, v in changed.items())})"


def _fitted(model: Any) -> str:
    """What came of a fit, in a line."""
    text = f"{_one_line(model)}: {model.n_parameters_:,} parameters, fitted in {model.fit_seconds_:.3g} s"
    held_out = model.history_["held_out"].min() if "held_out" in model.history_ else float("nan")
    if held_out == held_out:
        text += f", {len(model.history_)} looks, held-out loss {held_out:.4g} at epoch {model.kept_epoch_}"
    return text


def _columns(space: Any) -> str:
    if space.type != "table":
        return ""
    rows = [(c.name, c.kind, _some(c.levels) if c.levels else "") for c in space.columns[:SHOWN_COLUMNS]]
    more = f"... ({space.dims} in all)\n" if space.dims > SHOWN_COLUMNS else ""
    return "\n" + aligned([("column", "kind", "levels"), *rows]) + "\n" + more


def _history(history: Any) -> str:
    """A few rows of the learning curve, the best of them among these."""
    if "held_out" not in history or len(history) < 2:
        return ""
    step = -(-len(history) // SHOWN_EPOCHS)
    best = int(history["held_out"].argmin()) if history["held_out"].notna().any() else 0
    chosen = sorted({*range(0, len(history), step), best, len(history) - 1})
    rows = [
        (f"{int(r['epoch'])}", f"{r['loss']:.4f}", f"{r['held_out']:.4f}", f"{r['seconds']:.3g}")
        for _, r in history.iloc[chosen].iterrows()
    ]
    return "\n" + aligned([("epoch", "loss", "held out", "seconds"), *rows]) + "\n"


def _traits(traits: Any) -> tuple[str, ...]:
    order = ("table", "image", "text", "series"), ("binary", "categorical", "ordinal", "count", "real")
    events, kinds = (
        [name for name in names if name in held]
        for names, held in zip(order, (traits.events, traits.kinds), strict=True)
    )
    said = "all kinds" if len(kinds) == len(order[1]) else " ".join(kinds)
    density = (traits.density or "none").replace("_", " ")
    return density, " ".join(events), said, "yes" if traits.missing else "no", "yes" if traits.context else "no"


def _summary(cls: type) -> str:
    """The first sentence of the docstring, without the name it may begin with."""
    return (cls.__doc__ or "").strip().splitlines()[0]


def _about(name: str, cls: type) -> str:
    """One family: what it is, what it can do, its options."""
    doc = (cls.__doc__ or "").split("\n    Args:")[0].split("\n    Examples:")[0]
    prose = "\n".join(line.strip() for line in doc.strip().splitlines())
    labels = ("log_prob", "examples", "columns", "missing", "context")
    traits = [*zip(labels, _traits(cls.traits), strict=True), ("given", cls.traits.given or "no")]
    rows = [("option", "value", "default", "")]
    for f in flags_of(cls):
        rows.append((f.switch if f.is_switch else f.flag, "" if f.is_switch else f.values, f.default_text, f.help))
    return f"{name}: {prose}\n\n{aligned(traits)}\n\n{aligned(rows)}"
