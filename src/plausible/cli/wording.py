"""A fitted model and a family, described for people."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from plausible.cli.flags import flags_of

SHOWN_COLUMNS, SHOWN_EPOCHS, SHOWN_LEVELS = 24, 8, 6
ENDS = {"epochs": "all of them", "patience": "no more gain", "budget": "the budget was spent"}


def aligned(rows: Sequence[Sequence[str]]) -> str:
    """Rows of cells as lines, columns one under the other; the last one may be of any length."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = ["  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)) for row in rows]
    return "\n".join(line.rstrip() for line in lines)


def size(path: Path) -> str:
    """Of a file: ``24 kB``."""
    from plausible.evaluate.wording import size as in_words

    return in_words(path.stat().st_size)


# --------------------------------------------------------------------------------------------------- fitted models


def one_line(model: Any) -> str:
    """The estimator as it would be written in Python, settings that are not the default only."""
    flags = {f.name: f.default for f in flags_of(type(model))}
    changed = {k: getattr(model, k) for k, v in flags.items() if getattr(model, k) != v}
    return f"{type(model).__name__}({', '.join(f'{k}={v!r}' for k, v in changed.items())})"


def fitted(model: Any) -> str:
    """What came of a fit, in a line."""
    from plausible.evaluate.likelihood import example_name

    text = f"{one_line(model)}: {model.n_parameters_:,} parameters, fitted in {model.fit_seconds_:.3g} s"
    held_out = model.history_["held_out"].min() if "held_out" in model.history_ else float("nan")
    if held_out == held_out:
        text += f", held-out loss {held_out:.4g} per {example_name(model.space_)}"
        text += f" at epoch {_best_epoch(model)} of {_last_epoch(model)}"
    return text + (f", {_again(model)}" if _refitted(model) else "")


def _last_epoch(model: Any) -> int:
    """Of those that were watched; all of them, where none was."""
    epochs = model.history_["epoch"]
    return int(epochs[model.history_["held_out"].notna()].iloc[-1] if _refitted(model) else epochs.iloc[-1])


def _best_epoch(model: Any) -> int:
    return int(model.history_["epoch"][model.history_["held_out"].idxmin()]) if _refitted(model) else model.kept_epoch_


def _refitted(model: Any) -> bool:
    """Whether a fit to all examples followed the one that was watched."""
    if "held_out" not in model.history_:
        return False
    watched = model.history_["held_out"].notna()
    return bool(watched.any() and not watched.iloc[-1])


def _again(model: Any) -> str:
    n = model.kept_epoch_ - _last_epoch(model)
    return f"then once more to all examples in {n} epoch{'' if n == 1 else 's'}"


def described(model: Any, stored: dict | None, path: Path) -> str:
    """All that is known of a fitted model; `stored` is the JSON of its file, None for one of another program."""
    from plausible import registry

    written, of = f"in the format {path.suffix}", "the file"
    if stored is not None:
        versions = ", ".join(f"{k} {v}" for k, v in stored["versions"].items())
        written, of = f"format {stored['format']}, {versions}", "the training data"
    context = model.context_space_
    rows = [
        ("family", registry.name_of(type(model))),
        ("model", one_line(model)),
        ("examples", model.space_.describe()),
        ("context", "none" if context is None else _context(context)),
        ("log_prob", "none" if model.likelihood_kind_ is None else model.likelihood_kind_.replace("_", " ")),
        ("measure", model.space_.measure),
        ("parameters", _parameters(model)),
        ("fitted in", f"{model.fit_seconds_:.3g} s, {_ended(model)}"),
        ("seed", str(model.random_state)),
        ("file", f"{size(path)}, {written}"),
        ("fingerprint", f"{model.fingerprint_} (of {of})"),
    ]
    return "\n".join([aligned(rows), *_columns(model.space_), *_summary(model), *_history(model.history_)])


def _context(space: Any) -> str:
    return ", ".join(space.names) if space.type == "table" else space.describe()


def _parameters(model: Any) -> str:
    """The number of parameters, beside those of tables of probabilities where the columns have levels."""
    from plausible.space.counting import in_figures, parameter_counts

    counts = parameter_counts(model.space_)
    tables = "" if counts is None else ", ".join(f"{name} {in_figures(count)}" for name, count in counts.items())
    return f"{model.n_parameters_:,}" + (f" ({tables})" if tables else "")


def _ended(model: Any) -> str:
    """How the training ended: ``43 epochs (no more gain), the state of epoch 33 kept``."""
    if model.stopped_ == "read":
        return "read from a file"
    if not len(model.history_):
        return "in one pass"
    last, why = _last_epoch(model), ENDS.get(model.stopped_, model.stopped_)
    kept = _again(model) if _refitted(model) else f"the state of epoch {model.kept_epoch_} kept"
    return f"{last} epoch{'' if last == 1 else 's'} ({why}), {kept}"


def _columns(space: Any) -> list[str]:
    if space.type != "table":
        return []
    rows = [(c.name, c.kind, _some(c.levels) if c.levels else "") for c in space.columns[:SHOWN_COLUMNS]]
    more = [f"... ({space.dims} in all)"] if space.dims > SHOWN_COLUMNS else []
    return ["", aligned([("column", "kind", "levels"), *rows]), *more]


def _summary(model: Any) -> list[str]:
    """The parameters of a model that has few enough to be named, a line each."""
    summary = getattr(model, "summary_", None)
    if summary is None or len(summary) > 4 * SHOWN_COLUMNS:
        return []
    summary = summary.reset_index()
    rows = [[f"{v:.6g}" if isinstance(v, float) else str(v) for v in row] for row in summary.itertuples(index=False)]
    return ["", aligned([tuple(summary.columns), *rows])]


def _history(history: Any) -> list[str]:
    """A few rows of the learning curve, the best of them among these."""
    if "held_out" not in history or len(history) < 2:
        return []
    step = -(-len(history) // SHOWN_EPOCHS)
    best = int(history["held_out"].argmin()) if history["held_out"].notna().any() else 0
    chosen = history.iloc[sorted({*range(0, len(history), step), best, len(history) - 1})]
    rows = [
        (str(int(epoch)), f"{loss:.4f}", "" if held_out != held_out else f"{held_out:.4f}", f"{seconds:.3g}")
        for epoch, loss, held_out, seconds in zip(
            *(chosen[c] for c in ("epoch", "loss", "held_out", "seconds")), strict=True
        )
    ]
    return ["", aligned([("epoch", "loss", "held out", "seconds"), *rows])]


def _some(values: Sequence) -> str:
    more = f", ... ({len(values)} in all)" if len(values) > SHOWN_LEVELS else ""
    return ", ".join(str(v) for v in values[:SHOWN_LEVELS]) + more


def beside_sound(clips: Any, rate: int) -> str:
    """What others need for the same recordings."""
    from plausible.uses.compress.beside import flac

    bits = 8 * len(flac(clips, rate)) / sum(map(len, clips))
    return f"FLAC at its highest setting {bits:.3f} bits per sample, mu-law (with loss) 8, as they are 16"


# -------------------------------------------------------------------------------------------------------- families


def catalogue() -> str:
    """Every family with its traits, a line each."""
    from plausible import registry

    rows = [("name", "log_prob", "examples", "columns", "missing", "given", "context", "")]
    for name in registry.names():
        cls = registry.get(name)
        rows.append((name, *_traits(cls.traits).values(), summary(cls)))
    return aligned(rows)


def family(name: str, cls: type) -> str:
    """One family: what it is, what it can do, its options."""
    doc = (cls.__doc__ or "").split("\n    Args:")[0].split("\n    Examples:")[0]
    prose = "\n".join(line.strip() for line in doc.strip().splitlines())
    traits = {**_traits(cls.traits), "latent": _yes(cls.traits.latent)}
    rows = [("option", "value", "default", "")]
    for f in flags_of(cls):
        rows.append((f.switch if f.is_switch else f.flag, "" if f.is_switch else f.values, f.default_text, f.help))
    return f"{name}: {prose}\n\n{aligned([*traits.items()])}\n\n{aligned(rows)}"


def summary(cls: type) -> str:
    """What the first line of the docstring calls it, without what it goes on to say."""
    return re.split(r"[:;.]", (cls.__doc__ or "").strip().splitlines()[0])[0]


def _traits(traits: Any) -> dict[str, str]:
    from plausible.space import KINDS

    kinds = "all kinds" if traits.kinds >= set(KINDS) else ", ".join(k for k in KINDS if k in traits.kinds)
    return {
        "log_prob": (traits.density or "none").replace("_", " "),
        "examples": ", ".join(e for e in ("table", "image", "text", "series", "audio") if e in traits.events),
        "columns": kinds,
        "missing": "to score" if traits.marginals and not traits.missing else _yes(traits.missing),
        "given": (traits.given or "no").replace("_", " "),
        "context": _yes(traits.context),
    }


def _yes(value: object) -> str:
    return "yes" if value else "no"
