"""One model of a comparison: fit it, score the held-out examples, draw samples and hold them against real ones.

Whatever goes wrong is written into the row of the model. Time is kept throughout: a model has a share of the budget,
and what would take far longer than the share allows is left out, and said to be.
"""

from __future__ import annotations

import tempfile
import time
import warnings
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch

from plausible import registry
from plausible.data import take
from plausible.errors import PlausibleError, PlausibleWarning
from plausible.evaluate.comparison import Row
from plausible.evaluate.examples import joined, marginals, mean_image
from plausible.evaluate.likelihood import finite, typed, weighs
from plausible.evaluate.novelty import against, distances
from plausible.evaluate.two_sample import (
    TwoSample,
    classifier_two_sample_test,
    features,
    median_distance,
    mmd,
    sliced_wasserstein,
)
from plausible.space import Space

LEAST_ROWS = 10  # on each side of a two-sample test
LEAST_WEIGHTED = 8  # importance samples below which the estimate is hardly better than the bound
OVERDRAFT = 3  # times what is left of its share that a model may take for what the table needs
PROBE = 16  # samples, or examples, in the first part of many; each later part is GROWTH times as large
GROWTH = 4
MOST_TRAINING = 20_000  # training rows searched for the nearest one
MOST_EPOCHS = 500  # points of a learning curve that are kept
EVALUATION_SHARE = 0.3  # of a model's time, before it is known how long evaluations take
GRACE = 0.1, 1.0  # of its share, and seconds: left to a model for each thing asked of it, however late it is


@dataclass(frozen=True)
class Task:
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


@dataclass
class Purse:
    """Time, shared out evenly among the models still to come; what one leaves over, the others get."""

    deadline: float | None
    waiting: int  # models to come that can be told how long to train
    evaluation: float = 0.0  # the longest so far, kept back by each of them
    ends: float = np.inf
    grace: float = 0.0

    def open(self, priced: bool) -> float | None:
        """Begin with the next model; return the seconds it may train, or None if there is no limit."""
        if self.deadline is None:
            return None
        now = time.perf_counter()
        share = max(self.deadline - now, 0.0) / max(self.waiting, 1)
        self.ends, self.grace = now + share, max(GRACE[0] * share, GRACE[1])
        self.waiting -= priced
        return max(share - max(self.evaluation, EVALUATION_SHARE * share), share / 2, 0.1)

    def left(self) -> float:
        """Seconds left of the share of the present model."""
        return max(self.ends - time.perf_counter(), self.grace)


# ------------------------------------------------------------------------------------------------------ one model


def priced(model: Any) -> bool:
    """Whether the model can be told how long to train."""
    return "budget" in model.get_params(deep=False)


def judge(row: Row, model: Any, task: Task, purse: Purse) -> Row:
    """Fit and evaluate one model, and fill in its row."""
    row.why = refusal(model, task)
    if row.why:
        row.status = "skipped"
        return row
    seconds, began = purse.open(priced(model)), time.perf_counter()
    if seconds is not None and priced(model):
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


def refusal(model: Any, task: Task) -> str | None:
    """Why the model cannot be fitted to these data, or None."""
    can_model = getattr(type(model), "can_model", None)
    why = can_model(task.space) if can_model else None
    traits = getattr(type(model), "traits", None)
    if why is None and task.missing and traits is not None and not traits.missing:
        able = registry.capable(lambda f: f.traits.missing and f.can_model(task.space) is None)
        name = type(model).__name__
        return f"{name} cannot fit examples with missing values; these can: {', '.join(able) or 'none'}"
    return why


def _fit(row: Row, model: Any, task: Task, purse: Purse) -> None:
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


def _score(row: Row, model: Any, task: Task, purse: Purse) -> None:
    """The likelihood of the held-out examples, and the least plausible of them."""
    row.density = hasattr(model, "log_prob")
    if not row.density:
        return
    began = time.perf_counter()
    values = _in_time(model, task, purse, None)
    if values is None:
        row.notes.append(f"too slow for the likelihood of {len(task.test_codes):,} examples inside the budget")
        return
    row.likelihood = found = typed(values, model, task.test)
    worst = np.argsort(found.values, kind="stable")[: 12 if task.space.type != "image" else 40]
    row.worst, row.worst_log_prob = take(task.test, worst), found.values[worst].tolist()
    bound = found.kind in ("lower_bound", "upper_bound") and weighs(model)
    if bound and time.perf_counter() - began < purse.left():
        _estimate(row, model, task, purse)


def _estimate(row: Row, model: Any, task: Task, purse: Purse) -> None:
    """The importance-weighted estimate, from as many samples as there is time for."""
    few = min(LEAST_WEIGHTED, task.importance_samples)
    if not few:
        return
    began = time.perf_counter()
    _part_log_prob(model, task, slice(0, PROBE), few)
    each = (time.perf_counter() - began) / few / min(PROBE, len(task.test_codes)) * len(task.test_codes)
    samples = int(min(task.importance_samples, 0.5 * purse.left() / max(each, 1e-9)))
    if samples >= few:
        values = _in_time(model, task, purse, samples)
        row.estimate = None if values is None else typed(values, model, task.test, importance_samples=samples)


def _in_time(model: Any, task: Task, purse: Purse, samples: int | None) -> np.ndarray | None:
    """log_prob of all held-out examples; None if the first parts show that it would overdraw the budget too far."""
    n, done, size, parts, pace = len(task.test_codes), 0, PROBE, [], []
    while True:
        part = slice(done, min(done + size, n))
        began = time.perf_counter()
        parts.append(_part_log_prob(model, task, part, samples))
        pace.append((time.perf_counter() - began, part.stop - part.start))
        done, size = part.stop, size * GROWTH
        if done == n:
            return np.concatenate(parts)
        if _still(pace, n - done) > OVERDRAFT * purse.left():
            return None


def _still(pace: list[tuple[float, int]], n: int) -> float:
    """Seconds that n more would take at once, from the (seconds, size) of parts so far: a line through the last two."""
    (before, few), (seconds, size) = ([(0.0, 0)] + pace)[-2:]
    if len(pace) == 1 or size <= few:  # the first part also pays for what is done once
        return seconds
    return seconds + max((seconds - before) / (size - few), 0.0) * max(n - size, 0)


def _part_log_prob(model: Any, task: Task, part: slice, samples: int | None) -> np.ndarray:
    rows = np.arange(part.start, min(part.stop, len(task.test_codes)))
    settings = {k: take(v, rows) for k, v in _context(model, task.test_context).items()}
    if samples:
        settings["importance_samples"] = samples
    return np.asarray(model.log_prob(take(task.test, rows), **settings), dtype=np.float64)


def _draw(row: Row, model: Any, task: Task, purse: Purse) -> None:
    """Samples, and how they compare with held-out examples."""
    row.samples, row.samples_per_second = _samples(model, task, purse)
    codes = _with_holes(task.space.encode(row.samples), task)
    row.marginals = marginals(task.space, task.test_codes, codes)
    row.mean_image = mean_image(task.space, task.test_codes, codes)
    made, n = task.features(codes), len(codes)
    row.novelty = against(task.distances[0], distances(made, task.training), task.distances[1])
    if n < task.n_tested:  # with fewer samples a difference is harder to see, and the model would look better
        row.notes.append(f"too slow for two-sample tests inside the budget: {n} of {task.n_tested} samples drawn")
        return
    for name, found in task.tests(made).items():
        setattr(row, name, found)


def _samples(model: Any, task: Task, purse: Purse) -> tuple[Any, float]:
    """As many samples as are wanted and there is time for, and how many came in a second in the last part of them."""
    contexts = _context(model, task.test_context)
    n, parts, drawn = task.n_samples, [], 0
    size = n if np.isinf(purse.left()) else PROBE
    while True:
        index = np.arange(drawn, min(drawn + size, n))
        rows = {k: take(v, index % len(v)) for k, v in contexts.items()}
        began = time.perf_counter()
        parts.append(model.sample(len(index), **rows, random_state=task.seed + 1 + len(parts)))
        seconds = max(time.perf_counter() - began, 1e-9)
        drawn, size = drawn + len(index), size * GROWTH
        left = purse.left() * (OVERDRAFT if drawn < task.n_tested else 0.5)
        if drawn == n or GROWTH * seconds > left:
            return joined(parts), len(index) / seconds


def _with_holes(codes: torch.Tensor, task: Task) -> torch.Tensor:
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
