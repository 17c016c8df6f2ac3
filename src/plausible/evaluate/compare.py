"""Every family on the same held-out examples.

    data ── split ──┬── training part ── fit each model, within its share of the budget
                    └── held-out part ── likelihood of each example
                         └─ halved: samples against the first half, beside the second half against the first

What an example is gets inferred once, over all of the data, so that a level that occurs only in the held-out part is
known to every model. A model that cannot, or that fails, stays in the table with the reason.
"""

from __future__ import annotations

import inspect
import re
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from plausible import registry
from plausible.context import infer_context
from plausible.data import Data, read, split, take
from plausible.errors import DataError, InterruptedWarning, PlausibleError
from plausible.evaluate.comparison import CUT_SHORT, Comparison, Row
from plausible.evaluate.examples import MOST
from plausible.evaluate.judge import LEAST_ROWS, MOST_TRAINING, Purse, Task, judge, priced, refusal
from plausible.randomness import seed_of
from plausible.space import Audio, Space, Text

Progress = Callable[[int, int, str], None]  # models done, models in all, what happens now

# Settings that are no part of a model's label.
UNTOLD = frozenset({"space", "context_space", "random_state", "verbose", "budget"})


def compare(
    X: Any,
    models: Sequence[Any] | Mapping[str, Any] | None = None,
    *,
    test_fraction: float = 0.2,
    budget: float | None = None,
    random_state: Any = 0,
    n_samples: int = 1000,
    importance_samples: int = 64,
    space: str | dict | Space | None = None,
    context: Any = None,
    context_space: str | dict | Space | None = None,
    title: str | None = None,
    command: str | None = None,
    progress: Progress | None = None,
) -> Comparison:
    """Fit models to one part of the data and judge them on the other.

    Args:
        X: what `fit` takes, a path, the name of a bundled data set, or a `plausible.data.Data`.
        models: names of families, estimators (they are cloned), or a mapping from label to either; all families by
            default. The baseline of independent columns is always among them.
        test_fraction: share of the examples that is held out.
        budget: seconds for everything. What models with a `budget` setting do not use goes to those after them; None
            lets each model train as long as its own settings say.
        random_state: seed of the split and of the samples, and of those models that have none.
        n_samples: how many examples to draw from each model; fewer where the budget does not allow it.
        importance_samples: of the weighted estimate for models that give a bound; fewer where the budget does not
            allow it, 0 for none.
        space: what an example is, where the guess is wrong (see `plausible.space.infer`).
        context: the c of p(x | c), a row per example; models that take no context are fitted without it.
        context_space: what a context is, where the guess is wrong.
        title: of the report; the name of the data by default.
        command: the shell command that makes this comparison, for the report.
        progress: called with (models done, models in all, what happens now).

    Returns:
        Comparison: print it, or write its `report`.

    Raises:
        DataError: the data cannot be read, split or learned from.
        PlausibleError: there is no family of a name in `models`.
    """
    started, seed = time.perf_counter(), seed_of(random_state)
    data = _data(X, space)
    settings = {"space": data.space, "random_state": seed}
    if context is not None:
        if isinstance(data.X, str) or len(context) != len(data.X):
            raise DataError(f"expected a context with a row for each of {len(data)} examples, got {len(context)}")
        settings["context_space"] = infer_context(context, context_space)
    candidates = _candidates(_names(context) if models is None else models, settings)
    task = _prepare(data, context, test_fraction, seed, n_samples, importance_samples)
    waiting = sum(priced(c.model) and refusal(c.model, task) is None for c in candidates)
    purse = Purse(None if budget is None else started + budget, waiting)
    rows, fitted = _judge_all(sorted(candidates, key=lambda c: priced(c.model)), task, purse, progress)
    shown = take(task.test, task.order[: MOST[data.space.type]])
    return Comparison(rows, fitted, data.space, _about(data, task), task.real, shown, seed, title or data.name, command)


# ----------------------------------------------------------------------------------------------------------- data


def _data(X: Any, space: Any) -> Data:
    if isinstance(X, Data):
        return X if space is None else Data.of(X.X, how=space, name=X.name)
    if isinstance(X, Path) or (isinstance(X, str) and _is_path(X)):
        how, kinds = (None, space) if isinstance(space, dict) else (space, None)
        if isinstance(space, Space):
            return Data.of(read(X).X, how=space, name=Path(X).name)
        return read(X, how=how, kinds=kinds)
    return Data.of(X, how=space)


def _is_path(text: str) -> bool:
    """Whether a string names a file, a folder or a bundled data set, and is not itself the text to be modelled."""
    from plausible.data import bundled

    if "\0" in text or "\n" in text or len(text) > 1000:
        return False
    return Path(text).exists() or text in bundled.names() or bool(re.fullmatch(r"\S*[/\\]\S*|\S+\.\w{1,8}", text))


def _prepare(
    data: Data, context: Any, test_fraction: float, seed: int, n_samples: int, importance_samples: int
) -> Task:
    train, test = split(data, test_fraction=test_fraction, seed=seed)
    parts, contexts = [take(data.X, i) for i in (train, test)], [None, None]
    if context is not None:
        contexts = [take(context, i) for i in (train, test)]
    if isinstance(data.space, (Text, Audio)):
        parts = [data.space.windows(part) for part in parts]
    codes = [data.space.encode(part) for part in parts]
    missing = not data.space.ragged and any(c.is_floating_point() and bool(c.isnan().any()) for c in codes)
    return Task(data.space, *parts, *codes, *contexts, missing, seed, n_samples, importance_samples)


def _about(data: Data, task: Task) -> dict:
    notes = [n for n in data.notes if n not in data.space.guesses]
    if not task.n_tested:
        notes.append(f"{len(task.test_codes)} held-out examples are too few for two-sample tests ({2 * LEAST_ROWS})")
    if len(task.train_codes) > MOST_TRAINING:
        notes.append(f"novelty: distances are to {MOST_TRAINING:,} of {len(task.train_codes):,} training examples")
    return {
        "name": data.name,
        "description": data.space.describe(),
        "guesses": list(data.space.guesses),
        "notes": notes,
        "n_train": len(task.train_codes),
        "n_test": len(task.test_codes),
        "fingerprint": data.fingerprint or None,
    }


# --------------------------------------------------------------------------------------------------------- models


@dataclass
class _Candidate:
    row: Row
    model: Any


def _names(context: Any) -> list[str]:
    """All families, but without a context not those that have nothing to add to the product of the columns then."""
    traits = {name: registry.get(name).traits for name in registry.names()}
    return [n for n, t in traits.items() if context is not None or t.dependence or not t.context]


def _candidates(models: Sequence[Any] | Mapping[str, Any], settings: Mapping[str, Any]) -> list[_Candidate]:
    """The models by name or as they come, with `settings` where they have none of their own."""
    if isinstance(models, str):
        models = [models]
    if isinstance(models, Mapping):
        named = [(str(label), _estimator(m)) for label, m in models.items()]
    else:
        named = [(None, _estimator(m)) for m in models]
    baseline = registry.get(registry.BASELINE)
    if not any(type(model) is baseline for _, model in named):
        named.insert(0, (None, baseline()))
    found: list[_Candidate] = []
    for label, model in named:
        name = registry.name_of(type(model)) or type(model).__name__
        taken = sum(c.row.name.split(" ")[0] == name for c in found)
        row = Row(f"{name} {taken + 1}" if taken else name, label or "", _told(model), type(model) is baseline)
        row.label = label or (f"{row.name}({_listed(row.params)})" if row.params else row.name)
        ours = model.get_params(deep=False)
        model.set_params(**{k: v for k, v in settings.items() if k in ours and ours[k] is None})
        found.append(_Candidate(row, model))
    return found


def _estimator(model: Any) -> Any:
    """An unfitted estimator of its own."""
    from sklearn.base import clone

    if isinstance(model, str):
        return registry.get(model)()
    if isinstance(model, type):
        return model()
    if not hasattr(model, "get_params"):
        raise PlausibleError(f"models must be names of families or estimators, got {type(model).__name__}")
    return clone(model)


def _told(model: Any) -> dict:
    """The settings that are not the default, as JSON has them."""
    plain = {k: p.default for k, p in inspect.signature(type(model)).parameters.items()}
    changed = {k: v for k, v in model.get_params(deep=False).items() if k not in UNTOLD and v != plain.get(k)}
    return {k: v if isinstance(v, (bool, int, float, str, type(None))) else str(v) for k, v in changed.items()}


def _listed(params: dict) -> str:
    return ", ".join(f"{k}={v}" for k, v in params.items())


def _judge_all(
    candidates: list[_Candidate], task: Task, purse: Purse, progress: Progress | None
) -> tuple[list[Row], dict[str, Any]]:
    """Judge one model after the other; an interrupt ends with what was found by then."""
    fitted: dict[str, Any] = {}
    try:
        for done, candidate in enumerate(candidates):
            if progress:
                progress(done, len(candidates), f"fitting {candidate.row.label}")
            if judge(candidate.row, candidate.model, task, purse).status == "ok":
                fitted[candidate.row.name] = candidate.model
            if getattr(candidate.model, "stopped_", None) == "interrupted":  # it kept what it had; so do we
                raise KeyboardInterrupt
    except KeyboardInterrupt:
        if not fitted:
            raise
        for late in (c.row for c in candidates if c.row.status == "ok" and c.row.name not in fitted):
            late.status, late.why = "skipped", CUT_SHORT
        warnings.warn(
            f"the comparison was interrupted; {len(fitted)} of {len(candidates)} models were judged by then",
            InterruptedWarning,
            stacklevel=3,
        )
    if progress:
        progress(len(candidates), len(candidates), "done")
    return [c.row for c in candidates], fitted
