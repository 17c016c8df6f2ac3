r"""What all autoregressive modules share: conditionals in one pass, and the same conditionals one at a time.

    log p(z) = sum_d log p(z_d | z_<d)

`conditionals` gives the parameters of all D factors in one pass; `start` and `step` give them one dimension at a time,
at the cost of one dimension. Drawing, completing and scoring a part all stand on these; that they agree is what the
audit holds a family to.

    z_d = F_d^-1(u_d | z_<d),    F_d the cumulative of the head

Given the uniforms u the sample is a function of u. The same z is the fixed point of z <- F^-1(u | z), all dimensions at
once, which is reached after D passes at the latest, and after few where dimensions depend on few others (Jacobi).

References: Song, Meng, Liao and Ermon, Accelerating feedforward computation via parallel nonlinear equation solving,
2021, https://arxiv.org/abs/2002.03629 (the fixed point).
"""

from __future__ import annotations

from typing import Any

import torch

from plausible.base import Module
from plausible.errors import CapabilityError, DataError
from plausible.heads import N_UNIFORMS, Heads
from plausible.randomness import uniform

AT_ONCE = 100_000  # values of which a pass of the fixed point is made at a time


class Stepwise(Module):
    """An autoregressive module. It has `dims` dimensions D and `heads`, whose parameters are P numbers an example."""

    dims: int
    heads: Heads
    orderings: int = 1  # whose densities are averaged, in the families that have several

    @property
    def order(self) -> list[int]:
        """The dimensions in the order in which each depends on those before."""
        return list(range(self.dims))

    # ------------------------------------------------------------------------------------- what a family writes

    def conditionals(self, z: torch.Tensor, c: torch.Tensor | None = None) -> torch.Tensor:
        """Return the parameters (n, P) of all conditionals, in one pass over z (n, \\*event)."""
        raise TypeError(f"{type(self).__name__} does not define conditionals")

    def start(self, n: int, c: torch.Tensor | None = None) -> Any:
        """Return the state before any dimension of n examples is known; it has `order`."""
        raise TypeError(f"{type(self).__name__} does not define start")

    def step(self, state: Any, value: torch.Tensor | None = None) -> torch.Tensor:
        """Take the value (n,) of the dimension last asked for; return the parameters (n, size_d) of the next one."""
        raise TypeError(f"{type(self).__name__} does not define step")

    # ------------------------------------------------------------------------------------------------- evaluate

    def log_prob_each(self, z: torch.Tensor, c: torch.Tensor | None = None) -> torch.Tensor:
        """Return log p(z_d | z_<d) with shape (n, D); zero where z is missing."""
        return self.heads.log_prob(self.conditionals(z, c), z.flatten(1))

    def log_prob(self, z, c=None, rng=None):
        return self.log_prob_each(z, c).sum(1)

    # --------------------------------------------------------------------------------------------------- sample

    def sample(self, n, c=None, *, rng):
        return self.from_uniforms(self._uniforms(n, rng), c)

    def sample_at_once(self, n: int, c: torch.Tensor | None = None, *, rng: torch.Generator) -> torch.Tensor:
        """Return what `sample` draws from the same generator, by `fixed_point`."""
        if self.orderings > 1:
            raise CapabilityError("a mixture of orderings is drawn in steps only; leave sampler at 'steps'")
        u, rows = self._uniforms(n, rng), max(1, AT_ONCE // self.dims)
        parts = [slice(i, i + rows) for i in range(0, n, rows)]
        return torch.cat([self.fixed_point(u[p], None if c is None else c[p])[0] for p in parts])

    def sample_given(self, z, c=None, *, rng):
        """Draw the missing dimensions, all of which come after the known ones."""
        self.require_order(z)
        shape = z.shape
        z = z.flatten(1)
        return self.from_uniforms(self._uniforms(len(z), rng), c, known=z).to(z).reshape(shape)

    def propose_given(self, z, c=None, *, rng):
        """Draw the missing dimensions in order, each given those before it: w is the product over the known ones.

        w = prod_{d known} p(z_d | z_<d)    has    E[w f(z)] = p(known) E[f(z) | known]
        """
        if self.orderings > 1:
            raise CapabilityError("a mixture of orderings proposes nothing given a part; fit with orderings=1")
        shape, z = z.shape, z.flatten(1)
        u, filled = self._uniforms(len(z), rng), torch.empty_like(z)
        log_w = torch.zeros(len(z), dtype=torch.float64, device=z.device)
        state, value = self.start(len(z), c), None
        for d in state.order:
            params, head, one = self.step(state, value), self.heads.single(d)[0], slice(d, d + 1)
            log_w += head.log_prob(params, z[:, one])[:, 0]
            value = head.sample(params, u[:, one])[:, 0]
            value = torch.where(z[:, d].isnan(), value, z[:, d].to(value))
            filled[:, d] = value
        return filled.reshape(shape), log_w

    def require_order(self, z: torch.Tensor) -> None:
        """Refuse examples (n, \\*event) in which a missing dimension comes before a known one.

        Raises:
            DataError: names the first such dimension.
        """
        missing = z.flatten(1)[:, self.order].isnan()
        wrong = (missing[:, :-1] & ~missing[:, 1:]).any(0)
        if wrong.any():
            d = self.order[int(wrong.nonzero()[0])]
            raise DataError(
                f"dimension {d} is missing and one after it is known; a model that draws its dimensions in order can "
                "only draw those that come after all known ones; method 'auto' or 'importance' approximates the others"
            )

    def _uniforms(self, n: int, rng: torch.Generator) -> torch.Tensor:
        return uniform(rng, (n, self.dims, N_UNIFORMS), next(self.parameters()))

    def from_uniforms(
        self, u: torch.Tensor, c: torch.Tensor | None = None, known: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Draw by inversion, a dimension at a time: uniforms (n, D, 2) -> z (n, D).

        Where `known` (n, D) is not NaN, its values stand.
        """
        return self._draw(self.start(len(u), c), u, known)

    def _draw(self, state: Any, u: torch.Tensor, known: torch.Tensor | None = None) -> torch.Tensor:
        z, value = torch.empty(u.shape[:2], dtype=u.dtype, device=u.device), None
        for d in state.order:
            params = self.step(state, value)
            value = self.heads.single(d)[0].sample(params, u[:, d : d + 1])[:, 0]
            if known is not None:
                value = torch.where(known[:, d].isnan(), value, known[:, d].to(value))
            z[:, d] = value
        return z

    def fixed_point(self, u: torch.Tensor, c: torch.Tensor | None = None) -> tuple[torch.Tensor, int]:
        """Draw the same z from the same uniforms (n, D, 2) by passes over all dimensions; return z and their number."""
        z = torch.zeros(u.shape[:2], dtype=u.dtype, device=u.device)
        passes, before = 0, None
        while before is None or not torch.equal(before, z):
            before, z = z, self.heads.sample(self.conditionals(z, c), u)
            passes += 1
        return z, passes
