"""The law of a sample of sound, which may have been rounded before it was stored."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch.nn import functional as F

from plausible.heads.laws import DiscretisedLogistics
from plausible.space import Column


class Samples(DiscretisedLogistics):
    r"""Sound: P(x) = (1 - v) P_h(x) + v P_H(x), 2 h the step, 2 H that of sound which was rounded before it was stored.

    Both lattices start at the lowest value, and share a mixture of logistics.
    """

    n_features = 4

    def __init__(self, columns: Sequence[Column], components: int):
        super().__init__(columns, components)
        self.size = 3 * components + 1
        self.register_buffer("coarse", torch.tensor([c.coarse for c in columns], dtype=torch.float64), persistent=False)
        last = self.low + ((self.high - self.low) / self.coarse + 1e-6).floor() * self.coarse
        self.register_buffer("last", last, persistent=False)  # of the coarse lattice

    def _split(self, params: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return the parameters of the mixture for the fine and for the coarse lattice, and the logit of v."""
        fine, logit = params[..., :-1], params[..., -1]
        floor = (self.coarse / 100).log().to(params)[..., None]  # a hundred scales to a step: see `_log_mass`
        others, log_scale = fine.split([2 * self.components, self.components], -1)
        return fine, torch.cat([others, torch.maximum(log_scale, floor)], -1), logit

    def _off(self, x: torch.Tensor) -> torch.Tensor:
        """Whether x is not on the coarse lattice."""
        at = (x - self.low) / self.coarse
        return (at - at.round()).abs() > self.step / self.coarse / 2

    def features(self, x):
        return torch.cat([super().features(x), self._off(x).to(x)[..., None]], -1)

    def initial(self):
        return torch.cat([super().initial(), torch.full((self.d, 1), -2.0)], 1)

    def log_prob(self, params, x):
        fine, coarse, logit = self._split(params)
        on_fine = F.logsigmoid(-logit) + super().log_prob(fine, x)
        half = self.coarse / 2
        on_coarse = self._log_mass(coarse, x, self.coarse, x < self.low + half, x > self.last - half)
        on_coarse = F.logsigmoid(logit) + on_coarse
        return torch.where(self._off(x), on_fine, torch.logaddexp(on_fine, on_coarse))

    def cdf(self, params, x):
        fine, coarse, logit = self._split(params)
        v = logit.sigmoid()
        edge = self.low + (((x - self.low) / self.coarse).ceil() - 0.5) * self.coarse  # below the next coarse point
        return (1 - v) * super().cdf(fine, x) + v * super().cdf(coarse, torch.where(x > self.last, math.inf, edge))

    def mean(self, params):
        return super().mean(params[..., :-1])

    def sample(self, params, u):
        fine, coarse, logit = self._split(params)
        v, first = logit.sigmoid(), u[..., 0]
        rounded = first < v
        first = torch.where(rounded, first / v, (first - v) / (1 - v))
        u = torch.stack([first, u[..., 1]], -1)
        step, high = torch.where(rounded, self.coarse, self.step), torch.where(rounded, self.last, self.high)
        return self._on_lattice(torch.where(rounded[..., None], coarse, fine), u, step, high)
