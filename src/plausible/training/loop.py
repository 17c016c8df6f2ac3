"""The one loop over epochs.

It owns batches and their order, the clock, held-out early stopping and the best state, checkpoints, progress and
Ctrl-C; it knows no loss and no family. What is done with a batch is a step (``training/steps.py``).
"""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from plausible.errors import BudgetWarning, DivergedError, DivergedWarning, InterruptedWarning
from plausible.training.checkpoint import Checkpoint
from plausible.training.progress import Progress

# Held-out evaluation of tiny data after every epoch would cost more than the training it watches.
STEPS_BETWEEN_LOOKS = 20
FORECAST_AFTER = 0.5  # seconds of steps that the cost forecast is made from


@dataclass
class History:
    """What happened: a row per look, the epoch whose state was kept, and why training ended."""

    rows: list[dict[str, float]] = field(default_factory=list)
    kept_epoch: int | None = None
    best: float = math.inf
    stopped: str = "epochs"
    seconds: float = 0.0

    def to_frame(self):
        """Return the rows as a DataFrame with columns epoch, loss, held_out, seconds, learning_rate."""
        import pandas as pd

        return pd.DataFrame(self.rows, columns=["epoch", "loss", "held_out", "seconds", "learning_rate"])

    def append(self, later: History) -> None:
        """Go on with the looks of a later fit, its epochs and seconds counted on from here."""
        epoch = int(self.rows[-1]["epoch"]) if self.rows else 0
        for row in later.rows:
            self.rows.append(row | {"epoch": epoch + row["epoch"], "seconds": self.seconds + row["seconds"]})
        self.kept_epoch, self.seconds = epoch + (later.kept_epoch or 0), self.seconds + later.seconds


def copied_state(module: nn.Module) -> dict[str, torch.Tensor]:
    """Return the state of a module, to be put back later."""
    return {k: v.clone() for k, v in module.state_dict().items()}


def run(
    step: Callable[..., Mapping[str, Any]],
    events: Any,
    *,
    epochs: int,
    batch_size: int | None,
    rng: torch.Generator,
    watch: Callable[[], float] | None = None,
    patience: int | None = None,
    tolerance: float = 0.0,
    budget: float | None = None,
    checkpoint: Checkpoint | None = None,
    progress: Progress | None = None,
    name: str = "the model",
) -> History:
    """Repeat `step` over mini-batches of `events`.

    Args:
        step: called as ``step(batch, rng)``; returns numbers to average, among them ``loss``.
        events: offers ``batches(size, rng)`` and ``n_batches(size)``.
        epochs: passes over the events, at most.
        batch_size: examples per step; None for all of them in one step.
        rng: the order of the examples and the noise inside the step.
        watch: returns the held-out loss; the state with the smallest one is kept. Without it the last state is.
        patience: looks without improvement before stopping; None never stops early.
        tolerance: without `watch`, stop when the training loss improves by less than this (EM has converged).
        budget: seconds; training stops when they are spent.
        checkpoint: where to save what a killed run can be resumed from.
        progress: what shows a person how far it is.
        name: of the model, in messages.

    Raises:
        DivergedError: the loss was not finite before any usable state was reached.
    """
    return _Run(step, events, epochs, batch_size, rng, watch, patience, tolerance, budget, checkpoint, progress, name)()


@dataclass
class _Run:
    step: Any
    events: Any
    epochs: int
    batch_size: int | None
    rng: torch.Generator
    watch: Callable[[], float] | None
    patience: int | None
    tolerance: float
    budget: float | None
    checkpoint: Checkpoint | None
    progress: Progress | None
    name: str

    def __post_init__(self):
        self.history = History()
        self.best_state: dict[str, torch.Tensor] | None = None
        self.epoch = self.taken = self.looks_without_gain = 0
        self.per_epoch = max(self.events.n_batches(self.batch_size), 1)
        self.look_every = max(1, -(-STEPS_BETWEEN_LOOKS // self.per_epoch)) if self.watch else 1
        self.totals: dict[str, Any] = {}
        self.summed = 0
        self.spent_before = 0.0

    def __call__(self) -> History:
        if self.checkpoint is not None:
            self._resume()
        self.started = time.perf_counter()
        try:
            self._train()
        except KeyboardInterrupt:
            self._interrupted()
        self.history.seconds = self._elapsed()
        self._settle()
        if self.progress:
            self.progress.close()
        if self.checkpoint is not None:
            self.checkpoint.remove()
        return self.history

    def _train(self) -> None:
        last = math.inf
        while self.epoch < self.epochs and self.history.stopped == "epochs":
            self._one_epoch()
            if self.history.stopped not in ("epochs", "budget"):
                return
            self.epoch += 1
            at_end = self.epoch == self.epochs or self.history.stopped == "budget"
            if self.epoch % self.look_every and not at_end:
                continue
            loss = self._look()
            if loss is None:
                return
            if self.watch is None and self.tolerance and last - loss < self.tolerance:
                self.history.stopped = "converged"
            last = loss
            if self.patience is not None and self.looks_without_gain >= self.patience:
                self.history.stopped = "patience"
            if self.checkpoint is not None and self.history.stopped == "epochs":
                self.checkpoint.save_if_due(self._state)

    def _one_epoch(self) -> None:
        module = getattr(self.step, "module", None)
        if isinstance(module, nn.Module):
            module.train()
        schedule = getattr(self.step, "progress", None)
        total = self.epochs * self.per_epoch
        for i, batch in enumerate(self.events.batches(self.batch_size, self.rng)):
            done = self.epoch * self.per_epoch + i
            if schedule is not None:
                share = done / total
                schedule(share if self.budget is None else max(share, self._elapsed() / self.budget))
            for key, value in self.step(batch, self.rng).items():
                self.totals[key] = self.totals.get(key, 0.0) + value
            self.summed += 1
            self.taken += 1
            if self.budget is not None:
                self._mind_the_budget(done + 1, total)
                if self.history.stopped == "budget":
                    break
            if self.progress:
                self.progress.step(done + 1, total, self.history)
        end = getattr(self.step, "end_epoch", None)
        if end is not None:
            end()

    def _mind_the_budget(self, done: int, total: int) -> None:
        elapsed = self._elapsed()
        here = elapsed - self.spent_before
        if elapsed >= self.budget:
            self.history.stopped = "budget"
            if done < total and not self.tolerance and not hasattr(self, "_forecast"):  # too early to be foretold
                warnings.warn(
                    f"the budget of {_duration(self.budget)} ended training {self.name} in epoch {self.epoch + 1} of "
                    f"{self.epochs}",
                    BudgetWarning,
                    stacklevel=2,
                )
        elif self.tolerance:
            return  # it ends when it has converged, which nobody can foretell
        elif self.taken > 3 and not hasattr(self, "_forecast") and here > min(FORECAST_AFTER, self.budget / 10):
            self._forecast = here / self.taken * total
            if self._forecast > 1.2 * self.budget:
                epochs = max(int(self.epochs * self.budget / self._forecast), 1)
                warnings.warn(
                    f"all {self.epochs} epochs of {self.name} would take about {_duration(self._forecast)}; the budget "
                    f"of {_duration(self.budget)} ends it after about {epochs}, unless early stopping does so before",
                    BudgetWarning,
                    stacklevel=2,
                )

    def _look(self) -> float | None:
        """Note how things stand; keep the state if it is the best. Return the training loss, None if it diverged."""
        means = {k: float(v) / max(self.summed, 1) for k, v in self.totals.items()}
        self.totals, self.summed = {}, 0
        loss = means.get("loss", math.nan)
        held_out = self._held_out()
        decisive = loss if held_out is None else held_out
        if not math.isfinite(decisive) or not math.isfinite(loss):
            self._diverged(decisive)
            return None
        row = {"epoch": self.epoch, **means, "held_out": math.nan if held_out is None else held_out}
        row |= {"seconds": self._elapsed(), "learning_rate": getattr(self.step, "rate", math.nan)}
        self.history.rows.append(row)
        if self.progress:
            self.progress.look(row)
        if held_out is None:
            self.history.kept_epoch, self.history.best = self.epoch, loss
        elif held_out < self.history.best:
            self._keep(held_out)
        else:
            self.looks_without_gain += 1
        return loss

    def _held_out(self) -> float | None:
        if self.watch is None:
            return None
        self._module().eval()
        with self._averaged(), torch.no_grad():
            return float(self.watch())

    def _keep(self, held_out: float) -> None:
        self.history.best, self.history.kept_epoch, self.looks_without_gain = held_out, self.epoch, 0
        with self._averaged():
            self.best_state = copied_state(self._module())

    def _settle(self) -> None:
        """Leave the best state in the module; where nothing was held out to find one, the last, or the average."""
        if self.best_state is None and hasattr(self.step, "averaged"):
            with self._averaged():
                self.best_state = copied_state(self._module())
        if self.best_state is not None:
            self._module().load_state_dict(self.best_state)

    def _diverged(self, value: float) -> None:
        remedy = "try a smaller learning_rate or a clip_norm, and look for extreme values in the data"
        if self.best_state is None:
            raise DivergedError(f"training {self.name} diverged in epoch {self.epoch} (loss {value}); {remedy}")
        self.history.stopped = "diverged"
        warnings.warn(
            f"training {self.name} diverged in epoch {self.epoch} (loss {value}); the state of epoch "
            f"{self.history.kept_epoch} was kept. {remedy[0].upper()}{remedy[1:]}",
            DivergedWarning,
            stacklevel=2,
        )

    def _interrupted(self) -> None:
        """Keep what was learned: the best state, or the present one if none was looked at yet."""
        self.history.stopped = "interrupted"
        if self.watch is not None and self.best_state is None:
            if self.taken == 0:
                raise KeyboardInterrupt
            self._look()
        end = getattr(self.step, "end_epoch", None)
        if self.watch is None and end is not None and self.summed and not self.history.rows:
            end()
        warnings.warn(
            f"training {self.name} was interrupted in epoch {self.epoch + 1}; the state of epoch "
            f"{self.history.kept_epoch or self.epoch} was kept",
            InterruptedWarning,
            stacklevel=2,
        )

    def _module(self) -> nn.Module:
        return self.step.module

    def _averaged(self):
        import contextlib

        return getattr(self.step, "averaged", contextlib.nullcontext)()

    def _elapsed(self) -> float:
        return self.spent_before + time.perf_counter() - self.started

    # ------------------------------------------------------------------------------------------- checkpoints

    def _state(self) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
        tensors = {f"module.{k}": v for k, v in self._module().state_dict().items()}
        tensors |= {f"best.{k}": v for k, v in (self.best_state or {}).items()}
        tensors |= {f"step.{k}": v for k, v in self.step.state().items()}
        tensors["rng"] = self.rng.get_state()
        notes = {
            "epoch": self.epoch,
            "rows": self.history.rows,
            "kept_epoch": self.history.kept_epoch,
            "best": self.history.best,
            "looks_without_gain": self.looks_without_gain,
            "seconds": self._elapsed(),
        }
        return tensors, notes

    def _resume(self) -> None:
        found = self.checkpoint.load()
        if found is None:
            return
        tensors, notes = found

        def part(prefix):
            return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}

        self._module().load_state_dict(part("module."))
        self.best_state = part("best.") or None
        self.step.restore(part("step."))
        self.rng.set_state(tensors["rng"])
        self.epoch, self.looks_without_gain = notes["epoch"], notes["looks_without_gain"]
        self.history.rows, self.history.kept_epoch = notes["rows"], notes["kept_epoch"]
        self.history.best, self.spent_before = notes["best"], notes["seconds"]


def _duration(seconds: float) -> str:
    """12.3 s, 4 min, 2.5 h."""
    if seconds < 90:
        return f"{seconds:.3g} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
