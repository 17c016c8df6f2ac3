r"""A transform takes an example to another space and says what that did to its density.

    log p(x) = log p(z) + log C(x, z)

``forward`` returns z and log C together. For a bijection log C is the log-determinant of the Jacobian; for a
transform that draws noise (dequantisation) E[C p(z)] = p(x), so that log p(z) + log C is on average a lower bound.

Reference: Nielsen et al., SurVAE Flows, 2020, https://arxiv.org/abs/2007.02731
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Literal

import torch
from torch import nn

from plausible.randomness import RowNoise
from plausible.space import Space

Rng = torch.Generator | RowNoise


class Transform(nn.Module):
    """One change of variables, acting on whole examples of shape (n, \\*shape); NaN (missing) stays NaN.

    The life of a transform: ``prepare(space)`` makes its buffers, ``fit(x)`` (or loading a file) fills them,
    ``output(space)`` tells what the examples are afterwards.
    """

    variable_buffers: ClassVar[tuple[str, ...]] = ()  # those whose shape depends on the data

    @property
    def kind(self) -> Literal["exact", "lower_bound"]:
        """What becomes of an exact likelihood behind this transform."""
        return "exact"

    def prepare(self, space: Space) -> None:
        """Make the buffers this transform needs on `space`, unfilled."""

    def fit(self, x: torch.Tensor, weight: torch.Tensor | None = None) -> None:
        """Fill the buffers from training examples of shape (n, \\*shape), with weights (n,) or None for equal ones."""

    def output(self, space: Space) -> Space:
        """Return the space of the transformed examples."""
        return space

    def forward(self, x: torch.Tensor, rng: Rng | None = None) -> tuple[torch.Tensor, torch.Tensor]:
        """Return z of shape (n, \\*shape) and log C of shape (n,)."""
        raise TypeError(f"{type(self).__name__} does not define forward")

    def each(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return z and log C of each dimension on its own, both of shape (n, \\*shape): of a transform that has it."""
        raise TypeError(f"{type(self).__name__} does not act on each dimension on its own")

    def inverse(self, z: torch.Tensor, rng: Rng | None = None) -> torch.Tensor:
        """Return x of shape (n, \\*shape); a transform that lost something draws it with `rng`."""
        raise TypeError(f"{type(self).__name__} does not define inverse")

    def centre(self, z: torch.Tensor) -> torch.Tensor:
        """Return E[x | z] of shape (n, \\*shape): the inverse, of a transform that loses nothing."""
        return self.inverse(z)

    def breaks(self, d: int) -> torch.Tensor:
        """Return where the density may jump in dimension d of x: integrals are best cut there."""
        return torch.zeros(0, dtype=torch.float64)


class Chain(nn.Module):
    """Transforms one after the other."""

    def __init__(self, transforms: Sequence[Transform] = ()):
        super().__init__()
        self.steps = nn.ModuleList(transforms)

    @property
    def kind(self) -> Literal["exact", "lower_bound"]:
        return "lower_bound" if any(t.kind == "lower_bound" for t in self.steps) else "exact"

    @property
    def stochastic(self) -> bool:
        """Whether forward draws noise, so that it has to be repeated for every epoch."""
        return self.kind == "lower_bound"

    def fit(self, x: torch.Tensor, space: Space, rng: Rng, weight: torch.Tensor | None = None) -> Space:
        """Fit each transform on what the ones before make of x; return the space of the result."""
        for i, t in enumerate(self.steps):
            t.prepare(space)
            t.fit(x, weight)
            space = t.output(space)
            if i + 1 < len(self.steps):
                x, _ = t(x, rng)
        return space

    def restore(self, state: dict[str, torch.Tensor], space: Space) -> Space:
        """Fill the transforms from a saved state dict; return the space of the result."""
        for i, t in enumerate(self.steps):
            t.prepare(space)
            prefix = f"steps.{i}."
            own = {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}
            for name in t.variable_buffers:
                setattr(t, name, torch.empty_like(own[name]))
            t.load_state_dict(own)
            space = t.output(space)
        return space

    def forward(self, x: torch.Tensor, rng: Rng | None = None) -> tuple[torch.Tensor, torch.Tensor]:
        log_c = torch.zeros(len(x), dtype=torch.float64, device=x.device)
        for t in self.steps:
            x, term = t(x, rng)
            log_c = log_c + term
        return x, log_c

    def each(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return z and log C of each dimension on its own, both of shape (n, \\*shape)."""
        log_c = torch.zeros(x.shape, dtype=torch.float64, device=x.device)
        for t in self.steps:
            x, term = t.each(x)
            log_c = log_c + term
        return x, log_c

    def inverse(self, z: torch.Tensor, rng: Rng | None = None) -> torch.Tensor:
        for t in reversed(self.steps):
            z = t.inverse(z, rng)
        return z

    def centre(self, z: torch.Tensor) -> torch.Tensor:
        for t in reversed(self.steps):
            z = t.centre(z)
        return z

    def breaks(self, d: int) -> torch.Tensor:
        """Return where the first transform may make the density jump in dimension d."""
        return self.steps[0].breaks(d) if len(self.steps) else torch.zeros(0, dtype=torch.float64)


def sum_over(term: torch.Tensor) -> torch.Tensor:
    """Sum a term per dimension over each example, leaving out missing cells: (n, \\*shape) -> (n,)."""
    return term.flatten(1).nansum(1)
