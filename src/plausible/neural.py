"""Families trained by gradient: the settings they share, and how they hand their step to the loop."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import re
import warnings
from collections.abc import Callable

import torch
from torch import nn

from plausible.base import Generative, Module
from plausible.errors import BudgetWarning
from plausible.nn import compiled
from plausible.options import OptionError, estimator, option
from plausible.randomness import RowNoise
from plausible.training import Batch, Events, History, copied_state, minimise, run
from plausible.training.checkpoint import Checkpoint
from plausible.training.progress import Progress

# Below this many multiply-adds a forward pass, autocast to bfloat16 costs more than it saves (benchmarks/README.md).
BFLOAT16_FROM = 8e7
SEEN_FIRST = 10_000  # examples a module may look at before the first step


@estimator
class Neural(Generative):
    """Base of the families trained by gradient."""

    epochs: int = option(100, "passes over the training examples, at most", low=1)
    batch_size: int = option(128, "examples per step", low=1)
    learning_rate: float = option(1e-3, "of Adam, at the start", above=0)
    schedule: str = option("cosine", "of the learning rate", choices=("cosine", "constant"))
    patience: int | None = option(
        10, "looks at the held-out loss without improvement before stopping", low=1, choices=(None,)
    )
    validation_fraction: float = option(
        0.1, "share of the examples held out for early stopping; 0 for none", low=0, below=1
    )
    refit: bool = option(False, "fit once more, to the held-out examples too, for as many epochs as were best")
    clip_norm: float | None = option(None, "largest norm of the gradient", above=0)
    ema: float | None = option(None, "decay of the average of the weights that is kept", low=0, below=1)
    weight_decay: float = option(0.0, "of AdamW", low=0)
    budget: float | None = option(None, "seconds after which training stops", above=0)
    device: str = option("auto", "'auto' (a GPU if there is one), 'cpu', 'cuda'")
    precision: str = option("auto", "of training", choices=("auto", "float32", "bfloat16"))
    context_features: int = option(64, "features learned of a context of images, text, series or audio", low=1)
    checkpoint: str | None = option(None, "file that a killed fit can be resumed from")
    checkpoint_every: float = option(30.0, "seconds between two savings of the checkpoint", low=0)
    resume: bool = option(False, "continue from the checkpoint, if it is there")
    tensorboard: str | None = option(None, "folder of a TensorBoard log")
    verbose: bool = option(False, "show a progress bar on a terminal")

    def _step(self, module: Module) -> Callable:
        return self._minimise(module)

    def _minimise(self, module: Module, **changes) -> minimise:
        """Gradient descent with the settings of this estimator; `changes` override them."""
        settings = {name: getattr(self, name) for name in ("learning_rate", "schedule", "clip_norm", "ema")}
        settings |= {"weight_decay": self.weight_decay, "bfloat16": self._bfloat16(module)}
        return minimise(module, **(settings | changes))

    def _train(self, module: Module, train: Events, held_out: Events | None, rng: torch.Generator) -> History:
        some = torch.arange(min(len(train.x), SEEN_FIRST), device=train.x.device)
        first = train.take(some, rng)
        module.look(first.z, first.weight)
        if self.device != "auto" and _absent(torch.device(self.device)):
            raise OptionError(f"device={self.device!r}, but torch finds no such GPU here; use 'auto' or 'cpu'")
        if not self.refit or held_out is None:
            return self._run(module, train, held_out, rng, self.epochs, self.budget)
        return self._refit(module, train, held_out, rng)

    def _run(self, module, train, held_out: Events | None, rng, epochs: int, budget: float | None) -> History:
        with compiled.alone() if module.trains_in_loops else contextlib.nullcontext():
            return run(
                self._step(module),
                train,
                epochs=epochs,
                batch_size=self.batch_size,
                rng=rng,
                watch=None if held_out is None else Watch(module, held_out),
                patience=self.patience,
                budget=budget,
                checkpoint=self._checkpoint(train),
                progress=Progress(type(self).__name__, bar=self.verbose, tensorboard=self.tensorboard),
                name=type(self).__name__,
            )

    def _refit(self, module: Module, train: Events, held_out: Events, rng: torch.Generator) -> History:
        """Find the best epoch; then start again, with all examples, in so many epochs, at the end of which the rate has
        fallen as the schedule says. Each fit has half of the budget."""
        if self.checkpoint is not None:
            raise OptionError("a checkpoint holds one fit; use refit=False with one")
        if not isinstance(train, Events):
            raise OptionError("refit=True needs the examples in memory; use refit=False for what is read in chunks")
        budget, start = None if self.budget is None else self.budget / 2, copied_state(module)
        first = self._run(module, train, held_out, rng, self.epochs, budget)
        if first.stopped == "interrupted":
            return first
        best = copied_state(module)
        module.load_state_dict(start)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", BudgetWarning)  # the first fit has said it
            second = self._run(module, train.joined(held_out), None, rng, first.kept_epoch, budget)
        if second.stopped in ("interrupted", "diverged"):
            module.load_state_dict(best)
            first.stopped, first.seconds = second.stopped, first.seconds + second.seconds
            return first
        first.append(second)
        return first

    def _held_out_share(self) -> float:
        return self.validation_fraction

    def _encoded_features(self) -> int | None:
        return self.context_features

    def _device(self) -> torch.device:
        """The device to compute on: the CPU where a model that was fitted elsewhere finds no GPU."""
        if self.device == "auto":
            return torch.device("cuda" if torch.cuda.is_available() else "cpu")
        if not re.fullmatch(r"cpu|cuda(:\d+)?", str(self.device)):
            raise OptionError(f"device must be 'auto', 'cpu', 'cuda' or 'cuda:1'; got {self.device!r}")
        device = torch.device(self.device)
        return torch.device("cpu") if _absent(device) else device

    def _bfloat16(self, module: Module) -> bool:
        """Whether to train in bfloat16: where the machine multiplies it faster and the net is large enough to gain.

        Of numbers in a table or a series the eight bits may not be enough: what one column tells of another to 1 in
        1,000 is lost.
        """
        if self.precision != "auto":
            return self.precision == "bfloat16"
        if self.space_.type in ("table", "series") and self.space_.kinds & {"real", "count"}:
            return False
        return _multiplies_bfloat16(self._device()) and _multiply_adds(module) * self.batch_size >= BFLOAT16_FROM

    def _checkpoint(self, train: Events) -> Checkpoint | None:
        if self.checkpoint is None:
            if self.resume:
                raise OptionError("resume=True needs the path of a checkpoint; give checkpoint='FILE'")
            return None
        if self.random_state is None:
            raise OptionError(
                "a fit without a random_state is another each time and cannot be resumed; give checkpoint a "
                "random_state, such as 0"
            )
        free = {"checkpoint", "checkpoint_every", "resume", "verbose", "tensorboard", "budget", "device", "space"}
        free |= {"context_space"}
        settings = {f.name: repr(getattr(self, f.name)) for f in dataclasses.fields(self) if f.name not in free}
        settings["device"] = self._device().type  # another kind has another kind of generator
        digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode())
        for data in (train.x, getattr(train, "c", None), getattr(train, "weight", None)):
            digest.update(b"" if data is None else data.cpu().contiguous().numpy().tobytes())
        return Checkpoint(self.checkpoint, digest.hexdigest(), resume=self.resume, every=self.checkpoint_every)


class Watch:
    """The held-out loss, with the same noise at every look, so that looks can be compared.

    A module whose loss says nothing about quality (an adversary's) offers ``held_out_loss(z, c, rng)`` instead.
    """

    def __init__(self, module: Module, events: Events, rows: int = 4096):
        self.module, self.events, self.rows = module, events, rows

    def __call__(self) -> float:
        total = weight = 0.0
        measure = getattr(self.module, "held_out_loss", None) or self.module.loss
        encode = getattr(self.module, "encode_context", lambda c: c)
        for start in range(0, len(self.events), self.rows):
            index = torch.arange(start, min(start + self.rows, len(self.events)), device=self.events.x.device)
            noise = RowNoise(index[:, None])  # of the place, not of the numbers: those change with the unit
            batch: Batch = self.events.take(index, noise)
            losses = measure(batch.z, encode(batch.c), rng=noise).double()
            w = torch.ones_like(losses) if batch.weight is None else batch.weight
            total, weight = total + float((losses * w).sum()), weight + float(w.sum())
        return total / max(weight, 1e-12)


def _absent(device: torch.device) -> bool:
    return device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count()


def _multiplies_bfloat16(device: torch.device) -> bool:
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device)[0] >= 8
    return bool(torch.cpu._is_avx512_bf16_supported())


def _multiply_adds(module: Module) -> int:
    """Multiply-adds per example: one per weight of a linear layer, or what a module says that uses weights again."""
    if hasattr(module, "multiply_adds"):
        return module.multiply_adds
    return sum(m.weight.numel() for m in module.own_modules() if isinstance(m, (nn.Linear, nn.modules.conv._ConvNd)))
