r"""Draw one long example, block by block as it is drawn: of sound, of a series, of text.

    x_t ~ p(x_t | prompt, x_<t)

Each step costs what one step costs (`start` and `step` of the module). It goes on for as long as one likes: where the
state of a module holds all that went before (``endless`` of the module, and no transform that knows one step from
another), from that; else a new window begins with the last half of the one before.

    from plausible.uses.stream import stream
    for samples in stream(model, random_state=0):  # for ever
        play(samples)
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from sklearn.utils.validation import check_is_fitted

from plausible import registry
from plausible.errors import CapabilityError, SpaceError
from plausible.randomness import generator, uniform
from plausible.uses import complete
from plausible.uses._parts import require_whole

BLOCK = 256  # steps


def stream(
    model: Any,
    prompt: Any = None,
    *,
    length: int | None = None,
    block: int = BLOCK,
    context: Any = None,
    random_state: Any = None,
) -> Iterator[Any]:
    """Yield an example as it is drawn.

    Args:
        model: a fitted model of sound, series or text whose family takes step after step.
        prompt: what comes before: samples (m,), `Clips` of one, steps (m, C) of a series, a string; None for nothing.
        length: steps to draw; None never ends. Of text: characters, bytes or tokens, as its vocabulary has it.
        block: steps of sound or of a series that are yielded together, at most.
        context: one row, as in `fit`.
        random_state: seed; None draws a fresh one.

    Yields:
        int16 samples (m,) of sound, steps (m, C) of a series, or pieces of text, as soon as they are drawn.

    Raises:
        CapabilityError: the model is of something else, or its family has no steps; the message says which have.
        SpaceError: the prompt is not of the kind that the model was fitted on: a rate, a character, a shape.
        DataError: a setting is out of range.
    """
    check_is_fitted(model, "module_")
    if model.space_.type == "text":
        return complete.stream(model, prompt or "", length=length, context=context, random_state=random_state)
    require_whole("block", block)
    if length is not None:
        require_whole("length", length)
    pen = _Pen(model, context, generator(random_state, model._device()))
    pen.read(_steps(model.space_, prompt))
    return _blocks(pen, length, block)


def _blocks(pen: _Pen, length: int | None, block: int) -> Iterator[np.ndarray]:
    drawn = 0
    while length is None or drawn < length:
        found = pen.write(block if length is None else min(block, length - drawn))
        drawn += len(found)
        yield pen.decode(found)


class _Pen:
    """A place in a sequence: the state of the module, and what went before.

    Legend: T steps of a window, C channels, m steps that are read or drawn.
    """

    def __init__(self, model: Any, context: Any, rng: torch.Generator):
        self.space, self.module, self.chain, self.rng = model.space_, model.module_, model.transforms_, rng
        self.T = self.space.shape[0]
        self.C = self.space.dims // self.T
        _require_steps(model)
        self.c = model._encode_context(context, 1)
        self.endless = getattr(self.module, "endless", False) and self._alike()
        self.known = torch.empty(0, self.C, dtype=torch.float64, device=model._device())  # codes, of a window at most
        self._begin(self.known)

    def _alike(self) -> bool:
        """Whether the transforms do the same to every step."""
        probes = torch.tensor([0.0, 1.0], dtype=torch.float64, device=self.rng.device)
        z = self.chain(probes[:, None].expand(2, self.space.dims).reshape(2, *self.space.shape))[0]
        z = z.reshape(2, self.T, self.C)
        return bool((z == z[:, :1]).all())

    def _begin(self, x: torch.Tensor) -> None:
        """Start a window with these codes (m, C)."""
        with torch.no_grad():
            self.state, self.at = self.module.start(1, self.c), 0
            self.params = self.module.step(self.state, None)
        self._take(x)

    def _take(self, x: torch.Tensor) -> None:
        """Show the module codes (m, C), which the window has room for."""
        for part in x.split(self.T):  # which an endless one may be shown at any place
            z = self._to_model(part)
            with torch.no_grad():
                for i, value in enumerate(z.flatten()):
                    if self.endless or self.at * self.C + i + 1 < self.space.dims:
                        self.params = self.module.step(self.state, value[None])
            self.at += len(part)

    def _to_model(self, x: torch.Tensor) -> torch.Tensor:
        """Codes (m, C) of the next steps in model space."""
        whole, place = self._laid(x)
        return self.chain(whole)[0].reshape(self.T, self.C)[place].to(self.module.dtype)

    def _laid(self, values: torch.Tensor) -> tuple[torch.Tensor, slice]:
        """An example (1, \\*shape) that holds the values (m, C) of the next steps, and where."""
        first = 0 if self.endless else self.at
        place = slice(first, first + len(values))
        whole = torch.full((self.T, self.C), torch.nan, dtype=torch.float64, device=values.device)
        whole[place] = values.double()
        return whole.reshape(1, *self.space.shape), place

    def read(self, x: torch.Tensor) -> None:
        """Take in what comes before: codes (m, C), of which a module that is not endless sees the last."""
        room = self.T if len(x) <= self.T else complete.seen_again(self.T)
        x = x.to(self.known)
        self._take(x if self.endless else x[len(x) - min(room, len(x)) :])
        self.known = x[-self.T :]

    def write(self, m: int) -> torch.Tensor:
        """Draw up to m of the next steps; return their codes."""
        if self.at >= self.T and not self.endless:
            self._begin(self.known[len(self.known) - complete.seen_again(self.T) :])
        m = min(m, self.T if self.endless else self.T - self.at)
        u = uniform(self.rng, (m * self.C, 1, 1, 2), self.params)
        z = torch.empty(m * self.C, dtype=self.params.dtype, device=self.params.device)
        with torch.no_grad():
            for i in range(m * self.C):
                at = self.at * self.C + i
                z[i] = self.module.heads.single(at % self.space.dims)[0].sample(self.params, u[i])[0, 0]
                if self.endless or at + 1 < self.space.dims:
                    self.params = self.module.step(self.state, z[i : i + 1])
        whole, place = self._laid(z.reshape(m, self.C))
        x = self.chain.inverse(whole, self.rng).reshape(self.T, self.C)[place]
        self.at += m
        self.known = torch.cat([self.known, x])[-self.T :]
        return x

    def decode(self, x: torch.Tensor) -> np.ndarray:
        """Codes (m, C) as the user has them."""
        values = x.cpu().numpy()
        dtype = np.dtype(self.space.columns[0].dtype)
        values = np.clip(values.round(), -32768, 32767) if self.space.type == "audio" else values
        return (values[:, 0] if self.space.type == "audio" else values).astype(dtype)


def _require_steps(model: Any) -> None:
    space = model.space_
    if space.type not in ("audio", "series") or not model.traits.conditionals or model.transforms_.stochastic:
        able = registry.capable(lambda f: f.traits.conditionals and {"audio", "series"} & f.traits.events)
        raise CapabilityError(
            f"this {type(model).__name__} was fitted on {space.describe()}, and draws no step after the other; "
            f"fit one of {', '.join(able)} on sound, a series or text"
        )
    if list(model.module_.order) != list(range(space.dims)) or getattr(model.module_, "orderings", 1) > 1:
        raise CapabilityError(
            f"this {type(model).__name__} takes the steps in another order than that of time; fit one that does not"
        )


def _steps(space: Any, prompt: Any) -> torch.Tensor:
    """What comes before as codes (m, C)."""
    channels = space.dims // space.shape[0]
    if prompt is not None and (isinstance(prompt, str) or not isinstance(prompt, Sequence | np.ndarray)):
        raise SpaceError(f"expected a prompt of {space.describe()}, got {type(prompt).__name__}")
    if prompt is None or len(prompt) == 0:
        return torch.empty(0, channels)
    if space.type == "audio":
        clips = [prompt] if np.ndim(prompt[0]) == 0 else prompt
        if len(clips) > 1:
            raise SpaceError(f"expected a prompt of one recording, got {len(clips)}")
        codes = space.encode(clips).flatten()
        return codes[~codes.isnan()][:, None]
    values = np.asarray(prompt, dtype=np.float64)
    if values.ndim != 2 or values.shape[1] != channels or not np.isfinite(values).all():
        raise SpaceError(f"expected a prompt of shape (steps, {channels}) without missing values, got {values.shape}")
    parts = [values[i : i + space.shape[0]] for i in range(0, len(values), space.shape[0])]
    padded = [np.pad(p, ((0, space.shape[0] - len(p)), (0, 0)), constant_values=np.nan) for p in parts]
    return torch.cat([space.encode(p[None])[0][: len(q)] for p, q in zip(padded, parts, strict=True)])
