r"""Uniform dequantisation: a discrete code becomes a real by adding a uniform from [0, 1).

    z = x + u,   u ~ U[0, 1)         P(x) = E_u[ p(z) ]  >=  exp E_u[ log p(z) ]

A density on the reals thus gives a lower bound on the probability of the code.

Reference: Theis, van den Oord and Bethge, A note on the evaluation of generative models, 2016,
https://arxiv.org/abs/1511.01844
"""

from __future__ import annotations

from dataclasses import replace

import torch

from plausible.randomness import uniform
from plausible.space import Space
from plausible.transforms.base import Transform


class Dequantise(Transform):
    """Make every discrete column real; what was real stays as it is."""

    @property
    def kind(self):
        return "lower_bound" if bool(self.discrete.any()) else "exact"

    def prepare(self, space: Space) -> None:
        columns = space.columns
        infinity = float("inf")
        high = [c.n_levels - 1.0 if c.levels else infinity if c.high is None else c.high for c in columns]
        low = [0.0 if c.levels else -infinity if c.low is None else c.low for c in columns]
        self.register_buffer("discrete", torch.tensor([c.discrete for c in columns]).reshape(space.shape))
        self.register_buffer("low", torch.tensor(low, dtype=torch.float64).reshape(space.shape))
        self.register_buffer("high", torch.tensor(high, dtype=torch.float64).reshape(space.shape))

    def output(self, space: Space) -> Space:
        def made_real(c):
            if not c.discrete:
                return c
            bounds = (0.0, float(c.n_levels)) if c.levels else (c.low, None)
            return replace(c, kind="real", levels=(), low=bounds[0], high=bounds[1])

        return space.replace(made_real(c) for c in space.columns)

    def forward(self, x, rng=None):
        x = x.double()
        if not self.discrete.any():
            return x, torch.zeros(len(x), dtype=torch.float64, device=x.device)
        u = uniform(rng, tuple(x.shape), x)
        return torch.where(self.discrete, x + u, x), torch.zeros(len(x), dtype=torch.float64, device=x.device)

    def inverse(self, z, rng=None):
        x = torch.maximum(torch.minimum(z.double().floor(), self.high), self.low)
        return torch.where(self.discrete, x, z.double())
