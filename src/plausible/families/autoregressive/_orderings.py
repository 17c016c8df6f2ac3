r"""Several orderings of the dimensions, whose densities are averaged.

    p(x) = sum_s pi_s p_s(x),    p_s(x) = prod_k p_s(x_{o_k} | x_{o_1}, ..., x_{o_{k-1}}),    sum_s pi_s = 1

The probabilities of whole examples are averaged, never logits, whose average is no distribution. The conditionals of a
net do not agree on one joint, so that each ordering o makes a density of its own. The first is the natural one, the
second its reverse: columns that belong together stand side by side in both. The others are fixed at random. All pi_s
are 1/S, unless the orderings have weights of their own and pi is learned with them.
"""

from __future__ import annotations

import math
from typing import Any

import torch

from plausible.errors import CapabilityError
from plausible.families._stepwise import Stepwise
from plausible.options import OptionError
from plausible.space import Space


def ordering(dims: int, s: int) -> list[int]:
    """Return the dimensions in the order of ordering s."""
    natural = list(range(dims))
    if s < 2:
        return natural[::-1] if s else natural
    return torch.randperm(dims, generator=torch.Generator("cpu").manual_seed(s), device="cpu").tolist()


def inverse(order: list[int]) -> list[int]:
    """Return the place of each dimension in an order."""
    return sorted(range(len(order)), key=order.__getitem__)


def position(dims: int, s: int) -> torch.Tensor:
    """Return the position of each dimension in ordering s, from 1."""
    return torch.tensor(inverse(ordering(dims, s))) + 1


def refuse_text(name: str, orderings: int, space: Space) -> None:
    """Refuse several orderings of strings.

    Raises:
        OptionError: says what to use.
    """
    if orderings > 1 and space.type == "text":
        raise OptionError(
            f"{name}(orderings>1) cannot model text, whose strings end at different places; use orderings=1"
        )


class Orderings(Stepwise):
    """An autoregressive module with S orderings: `conditionals`, `start` and `from_uniforms` take s as well."""

    def conditionals(self, z: torch.Tensor, c: torch.Tensor | None = None, s: int = 0) -> torch.Tensor:
        """Return the parameters (n, P) of all conditionals in ordering s."""
        raise TypeError(f"{type(self).__name__} does not define conditionals")

    def start(self, n: int, c: torch.Tensor | None = None, s: int = 0) -> Any:
        """Return the state before any dimension is known; its `order` is that of s."""
        raise TypeError(f"{type(self).__name__} does not define start")

    def order_of(self, s: int) -> list[int]:
        """The dimensions in ordering s."""
        return ordering(self.dims, s)

    def log_prob_in_order(self, z: torch.Tensor, c: torch.Tensor | None = None, s: int = 0) -> torch.Tensor:
        """Return log p_s(z) with shape (n,)."""
        return self.heads.log_prob(self.conditionals(z, c, s), z.flatten(1)).sum(1)

    def log_prob_in_orders(self, z: torch.Tensor, c: torch.Tensor | None = None) -> torch.Tensor:
        """Return log p_s(z) of all orderings with shape (S, n)."""
        return torch.stack([self.log_prob_in_order(z, c, s) for s in range(self.orderings)])

    def log_pi(self, like: torch.Tensor) -> torch.Tensor:
        """Return log pi with shape (S,), where numbers are like these: all are equal."""
        return like.new_full((self.orderings,), -math.log(self.orderings))

    def mixed(self, log_p: torch.Tensor) -> torch.Tensor:
        """Return log p with shape (n,) of the log p_s (S, n)."""
        return log_p[0] if len(log_p) == 1 else (log_p + self.log_pi(log_p)[:, None]).logsumexp(0)

    def log_prob(self, z, c=None, rng=None):
        return self.mixed(self.log_prob_in_orders(z, c))

    def log_prob_each(self, z, c=None):
        if self.orderings > 1:
            raise CapabilityError(
                "a mixture of orderings has no log-probability of each dimension; fit with orderings=1 for that"
            )
        return super().log_prob_each(z, c)

    def sample(self, n, c=None, *, rng):
        u = self._uniforms(n, rng)
        if self.orderings == 1:
            return self.from_uniforms(u, c)
        which = torch.multinomial(self.log_pi(u).exp(), n, replacement=True, generator=rng)
        z = torch.empty(n, self.dims, dtype=u.dtype, device=u.device)
        for s in which.unique().tolist():
            rows = (which == s).nonzero().flatten()
            z[rows] = self.from_uniforms(u[rows], None if c is None else c[rows], s=s).to(z)
        return z

    def sample_given(self, z, c=None, *, rng):
        if self.orderings > 1:
            raise CapabilityError("a mixture of orderings draws nothing given a part exactly; fit with orderings=1")
        return super().sample_given(z, c, rng=rng)

    def from_uniforms(self, u, c=None, known=None, s: int = 0):
        return self._draw(self.start(len(u), c, s), u, known)
