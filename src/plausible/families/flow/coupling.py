r"""Coupling flow: an invertible net made of layers that change one half of the dimensions, given the other half.

    log p(x) = log N(u; 0, I) + log |det du/dx|,      u = f_L( ... f_1(x))

Each layer f splits its input into a and b, leaves a as it is and maps every entry of b by a monotone function g whose
parameters a net computes from a (and from the context c):

    y_a = a,    y_b = g(b; net(a, c)),    log |det| = sum_d log g'(b_d)

    affine    g(b; s, t) = b e^s + t
    spline    g: a rational-quadratic spline of K bins on [-B, B], the identity outside

The Jacobian is triangular whatever the net, and the inverse costs the same one pass as f: density and sampling are both
exact and parallel. Layers come in pairs that swap the halves; between pairs stand permutations that are fixed at random.

References: Dinh, Sohl-Dickstein and Bengio, Density estimation using Real NVP, 2017, https://arxiv.org/abs/1605.08803
Durkan et al., Neural spline flows, 2019, https://arxiv.org/abs/1906.04032
"""

from __future__ import annotations

import math

import torch
from torch import nn

from plausible.base import Module, Traits
from plausible.neural import Neural
from plausible.nn import MLP, RationalQuadratic
from plausible.options import estimator, option
from plausible.randomness import normal
from plausible.space import Space
from plausible.transforms import Dequantise, Logit, Standardise

STEEPEST = 3.0  # largest |s| of an affine layer: one layer stretches by at most e^3


class _Affine(nn.Module):
    """g(b; s, t) = b e^s + t, with s kept within (-3, 3)."""

    size = 2

    def forward(self, x: torch.Tensor, params: torch.Tensor, inverse: bool = False):
        s, t = params.unbind(-1)
        s = STEEPEST * torch.tanh(s / STEEPEST)
        return ((x - t) * (-s).exp(), -s) if inverse else (x * s.exp() + t, s)


class _Coupling(nn.Module):
    """One layer on D = kept + moved dimensions; what is moved is put first, so that the next layer keeps it.

    With nothing to look at (D = 1 and no context) the parameters of g are free parameters of the layer.
    """

    def __init__(self, kept: int, moved: int, n_context: int, g: nn.Module, hidden, nonlinearity: str, dropout: float):
        super().__init__()
        self.kept, self.moved, self.g = kept, moved, g
        self.net = self.params = None
        if kept + n_context:
            self.net = MLP(kept + n_context, moved * g.size, hidden, nonlinearity, dropout)
            with torch.no_grad():
                self.net[-1].weight.mul_(0.1)  # start near the identity
                self.net[-1].bias.zero_()
        else:
            self.params = nn.Parameter(torch.zeros(1, moved * g.size))

    def _params(self, a: torch.Tensor, c: torch.Tensor | None) -> torch.Tensor:
        if self.net is None:
            params = self.params.expand(len(a), -1)
        else:
            params = self.net(a if c is None else torch.cat([a, c], 1))
        return params.unflatten(1, (self.moved, self.g.size))

    def forward(self, x: torch.Tensor, c: torch.Tensor | None) -> tuple[torch.Tensor, torch.Tensor]:
        a, b = x.split([self.kept, self.moved], 1)
        b, log_slope = self.g(b, self._params(a, c))
        return torch.cat([b, a], 1), log_slope.sum(1)

    def inverse(self, y: torch.Tensor, c: torch.Tensor | None) -> torch.Tensor:
        b, a = y.split([self.moved, self.kept], 1)
        return torch.cat([a, self.g(b, self._params(a, c), inverse=True)[0]], 1)


class _CouplingFlow(Module):
    """Legend: n examples, D dimensions, L layers, F features of the context."""

    def __init__(self, dims: int, n_context: int, g: nn.Module, layers: int, hidden, nonlinearity: str, dropout: float):
        super().__init__()
        self.dims = dims
        half = dims // 2
        self.layers = nn.ModuleList()
        for i in range(layers):
            kept = half if i % 2 == 0 or dims == 1 else dims - half
            self.layers.append(_Coupling(kept, dims - kept, n_context, g, hidden, nonlinearity, dropout))
        orders = torch.stack([_order(dims, i) for i in range(0, layers, 2)])
        self.register_buffer("orders", orders, persistent=False)  # (L/2, D), one before each pair
        self.register_buffer("backs", orders.argsort(1), persistent=False)

    def forward(self, z: torch.Tensor, c: torch.Tensor | None = None) -> tuple[torch.Tensor, torch.Tensor]:
        """z (n, D) -> u (n, D), log |det du/dz| (n,)."""
        log_det = 0.0
        for i, layer in enumerate(self.layers):
            if i % 2 == 0:
                z = z[:, self.orders[i // 2]]
            z, term = layer(z, c)
            log_det = log_det + term
        return z, log_det

    def inverse(self, u: torch.Tensor, c: torch.Tensor | None = None) -> torch.Tensor:
        """u (n, D) -> z (n, D)."""
        for i, layer in reversed(list(enumerate(self.layers))):
            u = layer.inverse(u, c)
            if i % 2 == 0:
                u = u[:, self.backs[i // 2]]
        return u

    def log_prob(self, z, c=None, rng=None):
        u, log_det = self(z.flatten(1), c)
        return log_det - 0.5 * u.square().sum(1) - 0.5 * self.dims * math.log(2 * math.pi)

    def sample(self, n, c=None, *, rng):
        return self.inverse(normal(rng, (n, self.dims), next(self.parameters())), c)


def _order(dims: int, seed: int) -> torch.Tensor:
    """Return a permutation of the dimensions; 0 is the natural order, the others are fixed at random."""
    if seed == 0:
        return torch.arange(dims)
    order = torch.randperm(dims, generator=torch.Generator("cpu").manual_seed(seed), device="cpu")
    return order.to(torch.get_default_device())


@estimator
class CouplingFlow(Neural):
    """Coupling flow (RealNVP, neural spline flow): exact density and one-pass samples of reals.

    Discrete columns are dequantised, which makes their likelihood a lower bound.

    References: Dinh, Sohl-Dickstein and Bengio, Real NVP, 2017, https://arxiv.org/abs/1605.08803. Durkan et al., Neural
    spline flows, 2019, https://arxiv.org/abs/1906.04032
    """

    transform: str = option("spline", "of one half given the other", choices=("spline", "affine"))
    layers: int = option(6, "coupling layers", low=1)
    hidden: tuple[int, ...] = option((64, 64), "widths of the hidden layers of each net", low=1)
    bins: int = option(8, "bins of a spline", low=2)
    bound: float = option(4.0, "B: beyond this many standard deviations a spline is the identity", above=0)
    nonlinearity: str = option("relu", "of the hidden units", choices=("relu", "elu", "gelu", "silu", "tanh"))
    dropout: float = option(0.0, "share of hidden units dropped while training", low=0)
    clip_norm: float | None = option(5.0, "largest norm of the gradient", above=0)

    traits = Traits(density="exact", context=True)

    def _build(self, space: Space, context_space: Space) -> Module:
        g = RationalQuadratic(self.bins, self.bound) if self.transform == "spline" else _Affine()
        return _CouplingFlow(
            space.dims, context_space.dims, g, self.layers, self.hidden, self.nonlinearity, self.dropout
        )

    def _transforms(self, space: Space):
        return [Dequantise(), Logit(), Standardise()]
