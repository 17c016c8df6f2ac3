"""The ways of training, each a step that the one loop repeats.

    count        sufficient statistics in one pass, then parameters      Gaussian, Histogram
    em           the same with responsibilities, pass after pass         Mixture
    minimise     gradient descent on the module's own loss               MADE, flows, VAE, Diffusion
    alternate    two players with a loss each                            GAN

A step is called with a batch and a generator and returns numbers to be averaged, among them ``loss``. It may define
``end_epoch()``, ``progress(share)`` (how much of the training is over) and ``state()/restore(state)`` for checkpoints.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterable, Mapping

import torch
from torch import nn

from plausible.nn import Dropout
from plausible.training.events import Batch

ENCODER_RATE = 2e-3  # the highest rate at which the encoder of a context learns


class _Summarise:
    """Collect sufficient statistics batch by batch; set the parameters from them at the end of the epoch.

    The module offers ``summarise(z, weight) -> total loss of the batch`` and ``update()``.
    """

    def __init__(self, module: nn.Module):
        self.module = module

    def __call__(self, batch: Batch, rng: torch.Generator) -> Mapping[str, torch.Tensor]:
        with torch.no_grad():
            return {"loss": self.module.summarise(batch.z, batch.weight)}

    def end_epoch(self) -> None:
        with torch.no_grad():
            self.module.update()


def count(module: nn.Module) -> _Summarise:
    """Counting and other closed forms: to be run for one epoch."""
    return _Summarise(module)


def em(module: nn.Module) -> _Summarise:
    """Expectation-maximisation: each epoch is an E-step over all batches and an M-step at its end.

    Reference: Dempster, Laird and Rubin, 1977.
    """
    return _Summarise(module)


class minimise:
    """Adam on the mean of ``module.loss(z, c, rng=rng)``, which returns one value per example.

    Args:
        module: owns its loss.
        learning_rate: of Adam, at the start.
        schedule: 'constant' or 'cosine' (down to zero).
        clip_norm: the largest norm of the gradient, or None.
        ema: decay of the exponential moving average of the weights that is kept and evaluated, or None.
        weight_decay: of AdamW.
        bfloat16: run the forward pass under autocast.
        parameters: those to be trained; all of the module's by default.
        warmup: steps in which the learning rate rises linearly from zero; the schedule goes on meanwhile.
    """

    def __init__(
        self,
        module: nn.Module,
        *,
        learning_rate: float = 1e-3,
        schedule: str = "constant",
        clip_norm: float | None = None,
        ema: float | None = None,
        weight_decay: float = 0.0,
        bfloat16: bool = False,
        parameters: Iterable[nn.Parameter] | None = None,
        loss: str = "loss",
        betas: tuple[float, float] = (0.9, 0.999),
        warmup: int = 0,
    ):
        if schedule not in ("constant", "cosine"):
            raise ValueError(f"schedule must be 'constant' or 'cosine'; got {schedule!r}")
        self.module, self.learning_rate, self.schedule, self.clip_norm = module, learning_rate, schedule, clip_norm
        self.loss = getattr(module, loss)
        self.encode = getattr(module, "encode_context", lambda c: c)
        self.parameters = [p for p in (module.parameters() if parameters is None else parameters) if p.requires_grad]
        kind = torch.optim.AdamW if weight_decay else torch.optim.Adam
        settings = {"lr": learning_rate, "betas": betas, "weight_decay": weight_decay, "fused": True}
        self.optimiser = kind(self._groups(), **settings)
        self._set_rate(learning_rate)
        self.ema = ema
        self.average = [p.detach().clone() for p in self.parameters] if ema else []
        self.warmup, self._steps = warmup, 0
        self._dropouts = [m for m in module.modules() if isinstance(m, Dropout)]
        device = self.parameters[0].device.type
        self._autocast = torch.autocast(device, torch.bfloat16) if bfloat16 else contextlib.nullcontext()

    def __call__(self, batch: Batch, rng: torch.Generator) -> Mapping[str, torch.Tensor]:
        self.optimiser.zero_grad(set_to_none=True)
        for dropout in self._dropouts:
            dropout.rng = rng
        c = self.encode(batch.c)
        with self._autocast:
            losses = self.loss(batch.z, c, rng=rng)  # (n,)
        losses = losses.float() if losses.dtype == torch.bfloat16 else losses
        weight = batch.weight
        loss = losses.mean() if weight is None else (losses * weight).sum() / weight.sum().clamp_min(1e-12)
        for dropout in self._dropouts:
            dropout.rng = None
        loss.backward()
        if self.clip_norm is not None:
            nn.utils.clip_grad_norm_(self.parameters, self.clip_norm)
        self.optimiser.step()
        self._steps += 1
        if self.ema:
            # The average forgets the random start: its memory grows with the number of steps taken.
            decay = min(self.ema, (1 + self._steps) / (10 + self._steps))
            torch._foreach_lerp_(self.average, [p.detach() for p in self.parameters], 1 - decay)
        return {"loss": loss.detach()}

    def progress(self, share: float) -> None:
        """Set the learning rate for a share in [0, 1] of the training being over."""
        if self.schedule == "constant" and not self.warmup:
            return
        falls = 0.5 * (1 + math.cos(math.pi * min(share, 1.0))) if self.schedule == "cosine" else 1.0
        rises = min((self._steps + 1) / self.warmup, 1.0) if self.warmup else 1.0
        self._set_rate(self.learning_rate * falls * rises)

    def _groups(self) -> list[dict]:
        """The parameters; those of an encoder apart: what suits a linear model is too fast for convolutions."""
        encoder = getattr(self.module, "context_encoder", None)
        theirs = set() if encoder is None else set(encoder.parameters())
        own = {"params": [p for p in self.parameters if p not in theirs], "share": 1.0}
        apart = {"params": [p for p in self.parameters if p in theirs]}
        apart["share"] = min(1.0, ENCODER_RATE / self.learning_rate)
        return [group for group in (own, apart) if group["params"]]

    def _set_rate(self, rate: float) -> None:
        for group in self.optimiser.param_groups:
            group["lr"] = rate * group["share"]

    @property
    def rate(self) -> float:
        return self.optimiser.param_groups[0]["lr"]

    @contextlib.contextmanager
    def averaged(self):
        """Inside, the module has the averaged weights, if there is an average."""
        if not self.ema:
            yield
            return
        own = [p.detach().clone() for p in self.parameters]
        with torch.no_grad():
            torch._foreach_copy_(self.parameters, self.average)
        try:
            yield
        finally:
            with torch.no_grad():
                torch._foreach_copy_(self.parameters, own)

    def state(self) -> dict[str, torch.Tensor]:
        """All that the next step depends on, besides the module, as tensors by name."""
        tensors = {f"average.{i}": t for i, t in enumerate(self.average)}
        tensors["steps"] = torch.tensor(self._steps)
        tensors["rate"] = torch.tensor(self.rate, dtype=torch.float64)
        for i, slots in self.optimiser.state_dict()["state"].items():
            tensors.update({f"adam.{i}.{name}": torch.as_tensor(value) for name, value in slots.items()})
        return tensors

    def restore(self, tensors: Mapping[str, torch.Tensor]) -> None:
        """Undo `state`."""
        for i, average in enumerate(self.average):
            average.copy_(tensors[f"average.{i}"])
        self._steps = int(tensors["steps"])
        slots: dict[int, dict[str, torch.Tensor]] = {}
        for key, value in tensors.items():
            if key.startswith("adam."):
                _, i, name = key.split(".")
                slots.setdefault(int(i), {})[name] = value.clone()
        groups = self.optimiser.state_dict()["param_groups"]
        self.optimiser.load_state_dict({"state": slots, "param_groups": groups})
        self._set_rate(float(tensors["rate"]))


class alternate:
    """Two players take turns: the opponent `opponent_steps` times on its loss, then the player once on its own.

    Reference: Goodfellow et al., Generative adversarial nets, 2014, https://arxiv.org/abs/1406.2661

    Args:
        player, opponent: `minimise` steps over disjoint parameters of one module.
        opponent_steps: updates of the opponent per update of the player.
    """

    def __init__(self, player: minimise, opponent: minimise, opponent_steps: int = 1):
        self.player, self.opponent, self.opponent_steps = player, opponent, opponent_steps
        self._turn = 0
        self._last = torch.zeros(())

    @property
    def module(self) -> nn.Module:
        return self.player.module

    def __call__(self, batch: Batch, rng: torch.Generator) -> Mapping[str, torch.Tensor]:
        opponent = self.opponent(batch, rng)["loss"]
        self._turn += 1
        if self._turn % self.opponent_steps == 0:
            self._last = self.player(batch, rng)["loss"]
        return {"loss": self._last, "opponent": opponent}

    def progress(self, share: float) -> None:
        self.player.progress(share)
        self.opponent.progress(share)

    @property
    def rate(self) -> float:
        return self.player.rate

    def averaged(self):
        return self.player.averaged()

    def state(self) -> dict[str, torch.Tensor]:
        both = {"player": self.player, "opponent": self.opponent}
        tensors = {f"{name}.{k}": v for name, step in both.items() for k, v in step.state().items()}
        return {**tensors, "turn": torch.tensor(self._turn), "last": self._last}

    def restore(self, tensors: Mapping[str, torch.Tensor]) -> None:
        for name, step in (("player", self.player), ("opponent", self.opponent)):
            step.restore({k.removeprefix(f"{name}."): v for k, v in tensors.items() if k.startswith(f"{name}.")})
        self._turn, self._last = int(tensors["turn"]), tensors["last"]
