"""The commands: compare, fit, sample, score, info, families, check; and one for each use of a model (`cli.uses`).

A command reads its arguments, calls the library, and prints. Options of a family come from the signature of its
estimator (`plausible.cli.flags`); no family is known here by name. torch and pandas are imported by the command that
needs them, not by ``plausible --help``.
"""

from __future__ import annotations

import json
import os
import shlex
import sys
import zipfile
from pathlib import Path
from typing import Annotated, Any

import typer

from plausible import __version__, registry
from plausible.atomic import write_atomically
from plausible.cli import uses, wording
from plausible.cli.arguments import (
    ONE,
    OTHER,
    READING,
    Complete,
    Context,
    ContextFile,
    DataPath,
    Drop,
    Header,
    How,
    Key,
    Kinds,
    Length,
    ModelPath,
    Seed,
    Vocabulary,
    VocabularySize,
    examples,
    opened,
)
from plausible.cli.flags import checked, duration, with_settings
from plausible.cli.inputs import context_given, context_of, kinds_of, read_examples, spared, writable
from plausible.cli.terminal import INTERRUPTED, Command, Group, Steps, busy, fail, say

TYPED = "plausible.typed"


def _budget(text: str) -> tuple:
    return (checked(duration, text),)


class Commands(Group):
    """The commands; `fit` takes the options of the family that --model names."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        args = [_dashed(arg) for arg in args]
        name, command, rest = super().resolve_command(ctx, args)
        ctx.meta[TYPED] = ["plausible", *args]
        if name == "fit":
            command = _tailored(command, fit, _value_of(("--model", "-m"), rest), "fit --model {} --help")
        elif name == "check":
            named = rest[0] if rest and not rest[0].startswith("-") and not Path(rest[0]).exists() else None
            command = _tailored(command, check, named, "check {} --help")
        return name, command, rest


def _tailored(command: Any, function: Any, family: str | None, see: str) -> Any:
    """The command with the options of a family, if one is named."""
    if not family:
        return command
    single = typer.Typer(rich_markup_mode="rich", add_completion=False)
    single.command(command.name, cls=Command, epilog=command.epilog)(with_settings(function, registry.get(family)))
    tailored = typer.main.get_command(single)
    tailored.see = f"plausible {see.format(family)}"
    return tailored


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
    # Threads that wait for each other awake stand still for milliseconds when another program wants their core: with
    # small nets, fits took 20 times as long. To be said before torch is imported.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    app()


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"plausible {__version__}")
        raise typer.Exit


@app.callback(
    epilog=examples(
        "compare adult.csv --budget 2m",
        f"fit adult.csv --model {OTHER} -o adult.plausible",
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
    cls=Command,
    epilog=examples(
        "compare adult.csv",
        f"compare photos/ --budget 10m --models {ONE},{OTHER}",
        "compare names.txt --as lines --seed 1 -o names.html",
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
    vocabulary: Vocabulary = "characters",
    vocabulary_size: VocabularySize = 512,
    header: Header = None,
    complete: Complete = False,
) -> None:
    """Fit the families that can model DATA, judge them on held-out examples, write a report."""
    from plausible.evaluate import compare as compare_models
    from plausible.evaluate.report import page_of

    names = None if models is None else [m.strip() for m in models.split(",") if m.strip()]
    for name in names or ():
        registry.get(name)
    page = page_of(writable(Path(out), data, folder=True))
    spared(page.with_suffix(".json"), data)
    reading = {"how": how, "kinds": kinds_of(kind), "drop": drop or (), "key": key, "length": length}
    reading |= {"header": header, "complete": complete, "vocabulary": vocabulary, "vocabulary_size": vocabulary_size}
    read = read_examples(data, context, **reading)
    seconds = budget[0] if isinstance(budget, tuple) else duration(budget)
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
            context_space=read.context_space,
            command=shlex.join(ctx.meta[TYPED]),
            progress=steps,
        )
    said = read.notes  # on standard error, before the work
    print("\n".join(line for line in str(found).splitlines() if line.partition(": ")[2] not in said), flush=True)
    page = found.report(page)
    say("")
    say(f"Wrote {page} and {page.with_suffix('.json')}")
    if found.interrupted:
        raise fail("interrupted; what had been found by then is in the report", INTERRUPTED)


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
    vocabulary: Vocabulary = "characters",
    vocabulary_size: VocabularySize = 512,
    header: Header = None,
    complete: Complete = False,
    stream: Annotated[
        bool,
        typer.Option("--stream", help="Read in chunks: a file larger than memory.", rich_help_panel=READING),
    ] = False,
    *,
    settings: dict[str, Any],
) -> None:
    """Fit one model to DATA and write it to a file."""
    from plausible.options import check_options

    cls = registry.get(model)
    shown = {"verbose": True} if any(f == "verbose" for f in cls().get_params(deep=False)) else {}
    estimator = cls(**settings, random_state=seed, **shown)
    check_options(estimator)
    target = writable(Path(out or f"{Path(data).resolve().name.split('.')[0]}.{model}.plausible"), data)
    reading = {"how": how, "kinds": kinds_of(kind), "drop": drop or (), "key": key, "length": length}
    reading |= {"header": header, "complete": complete, "vocabulary": vocabulary, "vocabulary_size": vocabulary_size}
    read = read_examples(data, context, stream, **reading)
    estimator.set_params(space=read.space, context_space=read.context_space).fit(read.X, context=read.context)
    estimator.save(target)
    print(wording.fitted(estimator))
    say(f"Wrote {target} ({wording.size(target)}); try: plausible sample {shlex.quote(str(target))}")
    if estimator.stopped_ == "interrupted":
        raise fail(f"interrupted; what had been learned by then is in {target}", INTERRUPTED)


app.command(
    cls=Command,
    epilog=examples(
        f"fit adult.csv --model {OTHER} -o adult.plausible",
        "fit adult.csv --model NAME --epochs 20 --budget 5m",
        "fit images.npz --model NAME --context label",
        "fit book.txt --model NAME --vocabulary bpe --vocabulary-size 512",
        "fit --model NAME --help                    the options of NAME",
    ),
)(with_settings(fit))


@app.command(
    cls=Command,
    epilog=examples(
        "sample adult.plausible -n 1000 > rows.csv",
        "sample adult.plausible -n 1000 -o rows.parquet --seed 0",
        "sample faces.plausible -n 64 -o faces.png",
        "sample digits.plausible --context digit=3 -o threes/",
        "sample digits.plausible --context digit=all -o grid.png",
        "sample voice.plausible --length 80000 -o voice.wav",
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
        typer.Option(
            metavar="COLUMN=VALUE",
            help="The c of a model of p(x | c), once for each column; VALUE all takes every level, with -n examples of "
            "each (in a grid: a row). Where c is no table, a file that holds some, or a text.",
        ),
    ] = None,
    jacobi: Annotated[
        bool, typer.Option("--jacobi", help="The same examples by passes over all dimensions at once; may be faster.")
    ] = False,
    length: Annotated[
        int | None,
        typer.Option(
            min=1,
            metavar="STEPS",
            help="One example of text, sound or a series, as long as this, written while it is drawn; -n is not used.",
        ),
    ] = None,
) -> None:
    """Draw new examples from a fitted model."""
    from plausible.data import take
    from plausible.data.write import as_text, check_form, write

    fitted = opened(model)
    if length is not None:
        _grow(fitted, length, out, context=context_given(fitted, context), random_state=seed)
        return
    if out is not None:
        check_form(writable(Path(out), model, folder=True), fitted.space_)
    elif fitted.space_.type == "image":
        as_text(None, fitted.space_)
    given = context_given(fitted, context)
    rows = 1 if given is None else len(given)
    with busy(f"drawing {rows * n:,}"):
        how = {"random_state": seed, "sampler": "jacobi" if jacobi else "steps"}
        given = given if rows == 1 else take(given, [row for row in range(rows) for _ in range(n)])
        X = fitted.sample(rows * n, context=given, **how)
    if out is None:
        sys.stdout.write(as_text(X, fitted.space_))
    else:
        of_each = f" ({n:,} of each of {rows:,} contexts)" if rows > 1 else ""
        path = write(X, out, fitted.space_, across=n if rows > 1 else None)
        say(f"Wrote {rows * n:,} examples{of_each} to {path}")


def _grow(model: Any, length: int, out: str | None, **how: Any) -> None:
    """Write one example while it is drawn."""
    from plausible.data.growing import check_growing, write_growing
    from plausible.uses.stream import stream

    target = None if out is None else writable(Path(out))
    check_growing(target, model.space_)
    where = sys.stdout if target is None else target
    try:
        n = write_growing(stream(model, length=length, **how), where, model.space_)
    except KeyboardInterrupt:
        raise fail("interrupted; what had been drawn by then was written", INTERRUPTED) from None
    if target is not None:
        say(f"Wrote {n:,} {'character' if model.space_.type == 'text' else model.space_.unit}s to {target}")
    elif model.space_.type == "text":
        print()


@app.command(
    cls=Command,
    epilog=examples(
        "score adult.plausible new.csv",
        "score adult.plausible new.csv --per-example | sort -g | head",
        "score digits.plausible digits.npz --importance-samples 100",
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
    context: ContextFile = None,
    key: Key = None,
) -> None:
    """Say how likely a fitted model finds DATA."""
    from plausible.data.like import read_like
    from plausible.evaluate import likelihood

    fitted = opened(model)
    target = None if out is None else writable(Path(out), model, data)
    with busy(f"reading {data}"):
        X = read_like(data, fitted.space_, key=key)
        given = context_of(fitted, data, context)
    with busy("scoring"):
        found = likelihood(fitted, X, context=given, importance_samples=importance_samples)
    lines = "log_prob\n" + "".join(f"{v!r}\n" for v in found.values.tolist())
    if target is not None:
        write_atomically(target, lines.encode())
    summary = str(found)
    if fitted.space_.type == "audio":
        summary += "\n" + wording.beside_sound(X, fitted.space_.rate)
    if per_example:
        sys.stdout.write(lines)
        say(summary)
    else:
        print(summary)
    if target is not None:
        say(f"Wrote {target}")


@app.command(cls=Command, epilog=examples("info adult.plausible"))
def info(model: ModelPath) -> None:
    """Describe a fitted model: what it is, what it was fitted on, how the fit went."""
    from plausible.files import JSON

    fitted = opened(model)
    stored = None
    if registry.format_of(Path(model).suffix) is None:
        with zipfile.ZipFile(model) as archive:
            stored = json.loads(archive.read(JSON))
    print(wording.described(fitted, stored, Path(model)))


@app.command(cls=Command, epilog=examples("families", f"families {OTHER}"))
def families(
    name: Annotated[
        str | None,
        typer.Argument(metavar="NAME", help="Of a family: all about it.", show_default=False),
    ] = None,
) -> None:
    """List the families and what they can do; with NAME, all of one."""
    if name is not None:
        print(wording.family(name, registry.get(name)))
        return
    print(wording.catalogue())
    say("\nOptions of one: plausible families NAME")


def check(
    ctx: typer.Context,
    model: Annotated[
        str,
        typer.Argument(
            metavar="NAME|MODEL", help="A family, or a file that `plausible fit` wrote.", show_default=False
        ),
    ],
    seed: Seed = 0,
    *,
    settings: dict[str, Any],
) -> None:
    """Audit a model: does it keep the promises that every model makes?

    It is fitted some twenty times to small data of known truth. The exit code is 1 if a promise is broken.
    """
    from plausible.checks import check_model

    estimator = opened(model) if Path(model).exists() else registry.get(model)(**settings)
    with busy(f"auditing {type(estimator).__name__}"):
        audit = check_model(estimator, on_fail="report", random_state=seed)
    print(wording.aligned([("check", "outcome", ""), *((o.name, o.status, o.detail) for o in audit)]))
    if audit.failed:
        broken = f"{len(audit.failed)} of {len(audit.outcomes)} promises are broken: {', '.join(audit.failed)}"
        raise fail(f"{type(estimator).__name__}: {broken}", 1)


app.command(cls=Command, epilog=examples(f"check {OTHER}", "check NAME --epochs 5", "check adult.plausible"))(
    with_settings(check)
)

for _name, (_function, _examples) in uses.COMMANDS.items():
    app.command(_name, cls=Command, epilog=_examples)(_function)
