"""Every family on the same held-out examples.

    data ── split ──┬── training part ── fit each model, within its share of the budget
                    └── held-out part ── likelihood of each example
                         └─ halved: samples against the first half, beside the second half against the first

What an example is gets inferred once, over all of the data, so that a level that occurs only in the held-out part is
known to every model. A model that cannot, or that fails, stays in the table with the reason.
"""

from __future__ import annotations

import re
import tempfile
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch

from plausible import registry
from plausible.data import Data, read, split, take
from plausible.errors import DataError, PlausibleError, PlausibleWarning
from plausible.evaluate.comparison import Comparison, Row
from plausible.evaluate.examples import MOST, marginals, mean_image
from plausible.evaluate.likelihood import finite, likelihood
from plausible.evaluate.novelty import against, distances
from plausible.evaluate.two_sample import (
    TwoSample,
    classifier_two_sample_test,
    features,
    median_distance,
    mmd,
    sliced_wasserstein,
)
from plausible.randomness import seed_of
from plausible.space import Space, Text

Progress = Callable[[int, int, str], None]  # models done, models in all, what happens now

LEAST_ROWS = 10  # on each side of a two-sample test
LEAST_SAMPLES = 50  # drawn however slow the model is
PROBE = 16  # samples, or examples, on which a rate is measured
MOST_TRAINING = 20_000  # training rows searched for the nearest one
MOST_EPOCHS = 500  # points of a learning curve that are kept
EVALUATION_SHARE = 0.25  # of a model's time, before it is known how long evaluations take
UNTOLD = frozenset({"space", "random_state", "verbose", "budget"})  # settings that are no part of a model's label


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
    candidates = _candidates(models, data.space, seed)
    task = _prepare(data, context, test_fraction, seed, n_samples, importance_samples)
    purse = _Purse(None if budget is None else started + budget, sum(c.priced for c in candidates))
    rows, fitted = [], {}
    for done, candidate in enumerate(sorted(candidates, key=lambda c: c.priced)):
        if progress:
            progress(done, len(candidates), f"fitting {candidate.row.label}")
        rows.append(_judge(candidate, task, purse))
        if candidate.row.status == "ok":
            fitted[candidate.row.name] = candidate.model
    if progress:
        progress(len(candidates), len(candidates), "done")
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


@dataclass(frozen=True)
class _Task:
    """The two parts of the data, and what every model is measured against."""

    space: Space
    train: Any
    test: Any
    train_codes: torch.Tensor
    test_codes: torch.Tensor
    train_context: Any
    test_context: Any
    missing: bool
    seed: int
    n_samples: int
    importance_samples: int

    @cached_property
    def order(self) -> np.ndarray:
        """The held-out examples, shuffled: the first half is what samples are held against."""
        return np.random.default_rng([self.seed, 1]).permutation(len(self.test_codes))

    @cached_property
    def n_tested(self) -> int:
        """Examples on each side of a two-sample test; 0 where there are too few."""
        n = min(len(self.order) // 2, self.n_samples)
        return n if n >= LEAST_ROWS else 0

    @cached_property
    def basis(self) -> torch.Tensor:
        """Codes of the held-out half that features are standardised on."""
        return self.test_codes[self.order[: max(len(self.order) // 2, 1)]]

    @cached_property
    def halves(self) -> tuple[np.ndarray, np.ndarray]:
        """Features of the two halves of the held-out examples, equally many of each."""
        n = max(self.n_tested, 1)
        first, second = self.order[:n], self.order[len(self.order) // 2 :][:n]
        return self.features(self.test_codes[first]), self.features(self.test_codes[second])

    @cached_property
    def bandwidth(self) -> float:
        return median_distance(self.halves[0])

    @cached_property
    def training(self) -> np.ndarray:
        n = len(self.train_codes)
        index = np.arange(n)
        if n > MOST_TRAINING:
            index = np.random.default_rng([self.seed, 2]).permutation(n)[:MOST_TRAINING]
        return self.features(self.train_codes[index])

    @cached_property
    def distances(self) -> tuple[np.ndarray, np.ndarray]:
        """From the two halves to the training rows."""
        return distances(self.halves[0], self.training), distances(self.halves[1], self.training)

    @cached_property
    def real(self) -> dict[str, TwoSample]:
        return self.tests(self.halves[1])

    def features(self, codes: torch.Tensor) -> np.ndarray:
        return features(self.space, codes, real=self.basis)

    def tests(self, other: np.ndarray) -> dict[str, TwoSample]:
        """Two-sample tests of features against the first half; none where there are too few rows."""
        if not self.n_tested:
            return {}
        real, other = self.halves[0], other[: self.n_tested]
        seed = self.seed
        return {
            "c2st": classifier_two_sample_test(other, real, random_state=seed),
            "mmd": mmd(other, real, bandwidth=self.bandwidth, random_state=seed),
            "sliced_wasserstein": sliced_wasserstein(other, real, random_state=seed),
        }


def _prepare(
    data: Data, context: Any, test_fraction: float, seed: int, n_samples: int, importance_samples: int
) -> _Task:
    train, test = split(data, test_fraction=test_fraction, seed=seed)
    parts, contexts = [take(data.X, i) for i in (train, test)], [None, None]
    if context is not None:
        if isinstance(data.X, str) or len(context) != len(data.X):
            raise DataError(f"expected a context with a row for each of {len(data)} examples, got {len(context)}")
        contexts = [take(context, i) for i in (train, test)]
    if isinstance(data.space, Text):
        parts = [data.space.windows(part) for part in parts]
    codes = [data.space.encode(part) for part in parts]
    missing = data.space.type != "text" and any(c.is_floating_point() and bool(c.isnan().any()) for c in codes)
    return _Task(data.space, *parts, *codes, *contexts, missing, seed, n_samples, importance_samples)


def _about(data: Data, task: _Task) -> dict:
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

    @property
    def priced(self) -> bool:
        """Whether the model can be told how long to train."""
        return "budget" in self.model.get_params(deep=False)


def _candidates(models: Sequence[Any] | Mapping[str, Any] | None, space: Space, seed: int) -> list[_Candidate]:
    if isinstance(models, str):
        models = [models]
    wanted = models if isinstance(models, Mapping) else {i: m for i, m in enumerate(registry.names() if models is None else models)}
    baseline = registry.get(registry.BASELINE)
    named = [(str(k) if isinstance(models, Mapping) else None, _estimator(m)) for k, m in wanted.items()]
    if not any(type(model) is baseline for _, model in named):
        named.insert(0, (None, baseline()))
    found: list[_Candidate] = []
    for label, model in named:
        name = registry.name_of(type(model)) or type(model).__name__
        taken = sum(c.row.name.split(" ")[0] == name for c in found)
        row = Row(f"{name} {taken + 1}" if taken else name, label or "", _told(model), type(model) is baseline)
        row.label = label or (f"{row.name}({_listed(row.params)})" if row.params else row.name)
        ours = model.get_params(deep=False)
        unset = {"space": space, "random_state": seed}
        model.set_params(**{k: v for k, v in unset.items() if k in ours and ours[k] is None})
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
    plain = type(model)().get_params(deep=False)
    changed = {k: v for k, v in model.get_params(deep=False).items() if k not in UNTOLD and v != plain[k]}
    return {k: v if isinstance(v, (bool, int, float, str, type(None))) else str(v) for k, v in changed.items()}


def _listed(params: dict) -> str:
    return ", ".join(f"{k}={v}" for k, v in params.items())


@dataclass
class _Purse:
    """Time, shared out evenly among the models still to come; what one leaves over, the others get."""

    deadline: float | None
    waiting: int  # models to come that can be told how long to train
    evaluation: float = 0.0  # the longest so far, kept back by each of them
    ends: float = np.inf

    def open(self, priced: bool) -> float | None:
        """Begin with the next model; return the seconds it may train, or None if there is no limit."""
        if self.deadline is None:
            return None
        now = time.perf_counter()
        share = max(self.deadline - now, 0.0) / max(self.waiting, 1)
        self.ends = now + share
        self.waiting -= priced
        return max(share - max(self.evaluation, EVALUATION_SHARE * share), share / 2, 0.1)

    def left(self) -> float:
        """Seconds left of the share of the present model."""
        return max(self.ends - time.perf_counter(), 0.0)


# ------------------------------------------------------------------------------------------------------ one model


def _judge(candidate: _Candidate, task: _Task, purse: _Purse) -> Row:
    """Fit and evaluate one model; whatever goes wrong is written into its row."""
    row, model = candidate.row, candidate.model
    row.why = _refusal(model, task)
    if row.why:
        row.status = "skipped"
        purse.waiting -= candidate.priced
        return row
    seconds, began = purse.open(candidate.priced), time.perf_counter()
    if seconds is not None and candidate.priced:
        own = model.get_params(deep=False)["budget"]
        model.set_params(budget=seconds if own is None else min(own, seconds))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for stage, step in (("fit", _fit), ("log_prob", _score), ("sample", _draw)):
            try:
                step(row, model, task, purse)
            except Exception as error:  # one model's failure is a finding about it, not the end of the comparison
                row.status, row.why, row.error = "failed", f"{stage}: {_sentence(error)}", error
                break
    if row.status == "ok":
        row.seconds_evaluate = time.perf_counter() - began - row.seconds_fit
        purse.evaluation = max(purse.evaluation, row.seconds_evaluate)
    row.notes += dict.fromkeys(str(w.message) for w in caught if isinstance(w.message, PlausibleWarning))
    for other in (w for w in caught if not isinstance(w.message, PlausibleWarning)):
        warnings.warn_explicit(other.message, other.category, other.filename, other.lineno)
    return row


def _refusal(model: Any, task: _Task) -> str | None:
    """Why the model cannot be fitted to these data, or None."""
    can_model = getattr(type(model), "can_model", None)
    refusal = can_model(task.space) if can_model else None
    traits = getattr(type(model), "traits", None)
    if refusal is None and task.missing and traits is not None and not traits.missing:
        able = registry.capable(lambda f: f.traits.missing and task.space.type in f.traits.events)
        name = type(model).__name__
        return f"{name} cannot fit examples with missing values; these can: {', '.join(able) or 'none'}"
    return refusal


def _fit(row: Row, model: Any, task: _Task, purse: _Purse) -> None:
    began = time.perf_counter()
    model.fit(task.train, **_context(model, task.train_context))
    row.seconds_fit = time.perf_counter() - began
    row.n_parameters = getattr(model, "n_parameters_", None)
    row.kept_epoch = getattr(model, "kept_epoch_", None)
    row.history = _history(getattr(model, "history_", None))
    row.bytes = _file_size(model)
    if task.train_context is not None and not _context(model, task.train_context):
        row.notes.append("fitted without the context, which this family does not take")


def _context(model: Any, context: Any) -> dict:
    takes = getattr(getattr(type(model), "traits", None), "context", False)
    return {"context": context} if context is not None and takes else {}


def _history(frame: Any) -> list[dict]:
    if frame is None or not len(frame):
        return []
    step = -(-len(frame) // MOST_EPOCHS)
    columns = [c for c in ("epoch", "loss", "held_out", "seconds") if c in frame]
    return [
        {k: int(v) if k == "epoch" else finite(v) for k, v in at.items()}
        for at in frame[columns].iloc[::step].to_dict("records")
    ]


def _file_size(model: Any) -> int | None:
    if not hasattr(model, "save"):
        return None
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.plausible"
        model.save(path)
        return path.stat().st_size


def _score(row: Row, model: Any, task: _Task, purse: _Purse) -> None:
    """The likelihood of the held-out examples, and the least plausible of them."""
    if not hasattr(model, "log_prob"):
        return
    context = _context(model, task.test_context)
    row.likelihood = found = likelihood(model, task.test, **context)
    worst = np.argsort(found.values, kind="stable")[: 12 if task.space.type != "image" else 40]
    row.worst, row.worst_log_prob = take(task.test, worst), found.values[worst].tolist()
    wanted = task.importance_samples
    if found.kind in ("lower_bound", "upper_bound") and wanted:
        first = np.arange(min(PROBE, found.n))
        some = {k: take(v, first) for k, v in context.items()}
        began = time.perf_counter()
        model.log_prob(take(task.test, first), **some, importance_samples=wanted)
        cost = (time.perf_counter() - began) * found.n / len(first)
        affordable = int(wanted * min(1.0, 0.5 * purse.left() / max(cost, 1e-9)))
        if affordable >= 2:
            row.estimate = likelihood(model, task.test, **context, importance_samples=affordable)


def _draw(row: Row, model: Any, task: _Task, purse: _Purse) -> None:
    """Samples, and how they compare with held-out examples."""
    contexts = _context(model, task.test_context)
    _, seconds = _timed_sample(model, min(PROBE, task.n_samples), contexts, task.seed + 1)
    affordable = 0.5 * purse.left() * PROBE / max(seconds, 1e-9)
    n = int(min(task.n_samples, max(affordable, LEAST_SAMPLES)))
    samples, seconds = _timed_sample(model, n, contexts, task.seed + 2)
    row.samples_per_second = n / max(seconds, 1e-9)
    row.samples = samples
    codes = _with_holes(task.space.encode(samples), task)
    row.marginals = marginals(task.space, task.test_codes, codes)
    row.mean_image = mean_image(task.space, task.test_codes, codes)
    made = task.features(codes)
    if n < task.n_tested:
        row.notes.append(f"{n} samples, fewer than the {task.n_tested} wanted, for want of time")
    for name, found in task.tests(made).items():
        setattr(row, name, found)
    row.novelty = against(task.distances[0], distances(made, task.training), task.distances[1])


def _timed_sample(model: Any, n: int, contexts: dict, seed: int) -> tuple[Any, float]:
    rows = {k: take(v, np.arange(n) % len(v)) for k, v in contexts.items()}
    began = time.perf_counter()
    return model.sample(n, **rows, random_state=seed), time.perf_counter() - began


def _with_holes(codes: torch.Tensor, task: _Task) -> torch.Tensor:
    """Blank cells of samples as they are blank in held-out rows, so that holes alone do not tell the two apart."""
    if not task.missing:
        return codes
    rng = np.random.default_rng([task.seed, 3])
    like = task.test_codes[rng.integers(len(task.test_codes), size=len(codes))]
    return torch.where(like.isnan(), torch.nan, codes.double())


def _sentence(error: Exception) -> str:
    """The message of an error in one paragraph; the name of its type where it was not raised on purpose."""
    text = " ".join(str(error).split())[:500]
    return text if isinstance(error, PlausibleError) else f"{type(error).__name__}: {text}"
