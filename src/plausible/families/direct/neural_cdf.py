r"""Learning the cumulative with a net; the density is its derivative.

    p(x) = prod_d f_d(x_d | x_<d),     f_d = dF_d/dx_d,     F_d(t | x_<d) = P(X_d <= t | x_<d)

One net a column, F_d, is a function of t and of what comes before: a_d = tanh(c + sum_{i<d} W_i x_i) sets the biases of
a net of sigmoids in t (`_cumulative`). It is learned in one of two ways.

    cumulative    at thresholds t drawn from the data, F_d(t | x_<d) is regressed on the indicator 1[x_d <= t]:

                      loss = - sum_d E_t ( 1[x_d <= t] log F_d + 1[x_d > t] log(1 - F_d) )

                  whose least is at F_d = P(X_d <= t | x_<d) for every t. A single column has nothing before it, so that
                  the mean of its indicators, the empirical distribution F_n(t), takes their place. (Magdon-Ismail and
                  Atiya regress on n sorted uniforms drawn afresh each time; F_n is their mean without the noise, and
                  the cross-entropy weighs errors by 1 / F(1 - F), without which the tails would not be seen.)
    likelihood    - sum_d log f_d(x_d | x_<d)

'auto' regresses a single column, for which that is about as good, and maximises the likelihood of several, where one
indicator a condition says less than the density does (on two moons: by 0.1 to 0.2 nats).

Held out, from 3,000 rows: two normals (-1.5 and 1.5, deviation 0.5) -1.416 nats, a histogram -1.421, a Gaussian -1.877;
two moons (noise 0.1) -1.075, a histogram -1.13, a Gaussian -1.91, the truth -1.01.

With monotone='construction' the net cannot fall and goes from 0 to 1. With 'penalty', the idea of 1998, its weights are
free and the loss has `penalty` E_t max(0, -dF/dt) added; what is evaluated is its running maximum on a grid, so that
this density, too, has mass one. Columns of levels and counts have differences of F as their probabilities. Samples come
by inversion, a column after the other.

References: Magdon-Ismail and Atiya, Neural networks for density estimation, NIPS 1998; Density estimation and random
variate generation using multilayer networks, IEEE Transactions on Neural Networks 13(3), 2002. Chilinski and Silva,
Neural likelihoods via cumulative distribution functions, 2020, https://arxiv.org/abs/1811.00974
"""

from __future__ import annotations

import copy
import math

import torch
from torch import nn
from torch.nn import functional as F

from plausible.base import Module, Traits
from plausible.families.direct._cumulative import Free, Positive
from plausible.neural import Neural
from plausible.options import OptionError, estimator, option
from plausible.randomness import normal, uniform
from plausible.space import Column, Space

NUMBERS_AT_ONCE = 2**20  # held at once where no gradient is taken
BLUR = 0.5  # deviations by which some thresholds are moved off the data, so that gaps and tails are seen too
BLURRED = 0.2  # share of these


class _NeuralCDF(Module):
    """Legend: n examples, D dimensions, E units of the embedding a, P parameters of a net in t, T thresholds."""

    def __init__(self, space: Space, n_context: int, hidden, embedding: int, free: bool, cumulative: bool, penalty, t):
        super().__init__()
        self.dims, self.cumulative, self.penalty, self.thresholds = space.dims, cumulative, penalty, t
        columns = [_frame(c) for c in space.columns]
        self.net = (Free if free else Positive)(hidden, *(list(v) for v in zip(*columns, strict=True)))
        self.bias = nn.Parameter(self.net.initial(hidden))  # (D, 1, P)
        self.alone = space.dims == 1 and not n_context
        if not self.alone:
            self.weight = nn.Parameter(torch.randn(space.dims - 1, embedding) / 2)  # W
            self.offset = nn.Parameter(torch.randn(embedding) / 2)  # c
            self.out = nn.Parameter(0.1 / math.sqrt(embedding) * torch.randn(space.dims, embedding, self.net.size))
            self.of_context = nn.Linear(n_context, embedding, bias=False) if n_context else None
        self.empirical: tuple[torch.Tensor, torch.Tensor] | None = None

    def see(self, z: torch.Tensor, weight: torch.Tensor | None) -> None:
        """Keep the empirical distribution of a single column; place the nodes of a free net."""
        z = z.flatten(1)
        if isinstance(self.net, Free):
            self.net.look(z)
        if self.alone and self.cumulative:
            self.empirical = _empirical(z[:, 0], weight)

    def _features(self, z: torch.Tensor, part: slice = slice(None)) -> torch.Tensor:
        """What later columns are told of these (n, D): linear near the centre, logarithmic in heavy tails."""
        return ((z - self.net.centre[part].to(z)) / self.net.unit[part].to(z)).asinh()

    def parameters_of(self, z: torch.Tensor, c: torch.Tensor | None) -> torch.Tensor:
        """Parameters (D, n, P) of all conditionals; (1, 1, P) of a single column, the same for all n."""
        if self.alone:
            return self.bias
        start = self._start(len(z), c)
        terms = self._features(z).T[:-1, :, None] * self.weight[:, None]  # (D - 1, n, E)
        a = (start + torch.cat([torch.zeros_like(start)[None], terms.cumsum(0)])).tanh()
        return torch.baddbmm(self.bias, a, self.out)

    def _start(self, n: int, c: torch.Tensor | None) -> torch.Tensor:
        """The sums (n, E) before any column is known."""
        return self.offset.expand(n, -1) if c is None else self.offset + self.of_context(c)

    def log_prob(self, z, c=None, rng=None):
        z = z.flatten(1)
        if torch.is_grad_enabled():
            return self._log_prob(z, c)
        width = self.dims * (self.net.size * 4 + (self.net.nodes.shape[1] * 8 if isinstance(self.net, Free) else 0))
        size = max(1, NUMBERS_AT_ONCE // width)
        cs = [None] * len(range(0, len(z), size)) if c is None else c.split(size)
        parts = [self._log_prob(x, c) for x, c in zip(z.split(size), cs, strict=True)]
        return torch.cat(parts) if parts else z.new_zeros(0)

    def _log_prob(self, z, c):
        params = self.parameters_of(z, c)
        if self.alone:
            return self.net.log_prob(z.T[:, None], params)[0, 0]
        return self.net.log_prob(z.T[:, :, None], params).sum(0)[:, 0]

    def loss(self, z, c=None, *, rng=None):
        if not (self.training and self.cumulative):
            return -self.log_prob(z, c)
        z = z.flatten(1)
        t = self._alone(z, rng) if self.alone else self._thresholds(z, rng)  # (D, n, T); of a single column (1, 1, n)
        params = self.parameters_of(z, c)
        log_f, log_rest, fall = self.net.regress(t, params)
        if self.alone:
            values, below = self.empirical or _empirical(z[:, 0], None)
            target = below[torch.searchsorted(values, t[0, 0], right=True)]
            return (self.penalty * fall - torch.lerp(log_rest, log_f, target))[0, 0]
        under = z.T[:, :, None] <= t
        return (self.penalty * fall - torch.where(under, log_f, log_rest)).mean(2).sum(0)

    def _alone(self, z, rng):
        return self._blurred(z.T[:, None], rng)

    def _thresholds(self, z, rng):
        """Of each example those of `thresholds` others, so that its own place says nothing."""
        n = len(z)
        away = 1 + (uniform(rng, (self.thresholds,), z) * max(n - 1, 1)).long()
        others = (torch.arange(n, device=z.device)[:, None] + away) % n  # (n, T)
        return self._blurred(z.T[:, others], rng)

    def _blurred(self, t, rng):
        """Move some thresholds off the data; between the points of a lattice, half a step."""
        step, unit = (v.to(t)[:, None, None] for v in (self.net.step, self.net.unit))
        moved = uniform(rng, t.shape, t) < BLURRED
        real = (step == 0) & moved
        return t + step / 2 + torch.where(real, BLUR * unit * normal(rng, t.shape, t), 0.0)

    def sample(self, n, c=None, *, rng):
        if self.bias.dtype != torch.float64:
            return copy.deepcopy(self).double().sample(n, None if c is None else c.double(), rng=rng)
        u = uniform(rng, (n, self.dims), self.bias)
        size = max(1, NUMBERS_AT_ONCE // (self.net.size * 16))
        parts = [self.from_uniforms(u[i : i + size], None if c is None else c[i : i + size]) for i in range(0, n, size)]
        return torch.cat(parts)

    def from_uniforms(self, u: torch.Tensor, c: torch.Tensor | None = None) -> torch.Tensor:
        """Draw by inversion: uniforms (n, D) -> z (n, D), a column at a time."""
        if self.alone:
            return self.net.invert(u.T[:, None], self.bias, slice(0, 1))[0].T
        z = torch.empty_like(u)
        sums = self._start(len(u), c)
        for d in range(self.dims):
            part = slice(d, d + 1)
            params = self.bias[part] + (sums.tanh() @ self.out[d])[None]
            z[:, d] = self.net.invert(u[None, :, part], params, part)[0, :, 0]
            if d + 1 < self.dims:
                sums = sums + self._features(z[:, part], part) * self.weight[d]
        return z


def _frame(column: Column) -> tuple[float, float, float, float, float]:
    """Of a column in model space: the edges low and high of its lattice, its step, its centre and unit."""
    if column.kind == "real":
        return -math.inf, math.inf, 0.0, 0.0, 1.0
    if column.levels:
        half = (column.n_levels - 1) / 2
        return 0.5, column.n_levels - 1.5, 1.0, half, max(half, 0.5)
    return (-math.inf if column.low is None else column.low + column.step / 2), math.inf, column.step, 0.0, 1.0


def _empirical(x: torch.Tensor, weight: torch.Tensor | None) -> tuple[torch.Tensor, torch.Tensor]:
    """Values (m,) and the share of the rows below each, and at the end of all: (m + 1,)."""
    values, order = x.sort()
    w = torch.ones_like(values, dtype=torch.float64) if weight is None else weight.double()[order]
    below = F.pad(w.cumsum(0), (1, 0))
    return values.contiguous(), (below / below[-1]).to(x)


@estimator
class NeuralCDF(Neural):
    """The cumulative learned by a net, column after column: density by derivative, samples by inversion; exact.

    References: Magdon-Ismail and Atiya, Neural networks for density estimation, NIPS 1998.

    Examples:
        >>> import numpy as np, plausible as pl
        >>> X = np.random.default_rng(0).exponential(size=(2000, 1))
        >>> model = pl.NeuralCDF(random_state=0).fit(X)
        >>> round(model.score(X), 1)  # the truth has -1
        -1.0
        >>> model.sample(2, random_state=0).shape
        (2, 1)
    """

    monotone: str = option(
        "construction", "what keeps the cumulative from falling", choices=("construction", "penalty")
    )
    learn: str = option(
        "auto",
        "what is trained: the cumulative itself, or the likelihood; 'auto' takes the first for one column",
        choices=("auto", "cumulative", "likelihood"),
    )
    hidden: tuple[int, ...] = option((16,), "widths of the hidden layers of each net", low=1)
    embedding: int = option(64, "units that tell a net of the columns before", low=1)
    thresholds: int = option(
        8, "thresholds of each example and step, with learn='cumulative' of several columns", low=1
    )
    penalty: float = option(1.0, "weight of the slope where it falls, with monotone='penalty'", low=0)
    batch_size: int = option(256, "examples per step", low=1)
    learning_rate: float = option(2e-2, "of Adam, at the start", above=0)
    patience: int | None = option(
        20, "looks at the held-out loss without improvement before stopping", low=1, choices=(None,)
    )
    clip_norm: float | None = option(5.0, "largest norm of the gradient", above=0, choices=(None,))

    traits = Traits(
        density="exact",
        events=frozenset({"table", "image", "series"}),
        kinds=frozenset({"binary", "ordinal", "count", "real"}),
        context=True,
        streams=True,
    )

    def _build(self, space: Space, context_space: Space) -> Module:
        free = self.monotone == "penalty"
        if free and self.learn == "likelihood":
            raise OptionError("NeuralCDF(monotone='penalty') has no likelihood while it falls; use learn='cumulative'")
        single = space.dims + context_space.dims == 1
        cumulative = free or self.learn == "cumulative" or (self.learn == "auto" and single)
        hidden = tuple(self.hidden) if isinstance(self.hidden, (tuple, list)) else (self.hidden,)
        return _NeuralCDF(
            space, context_space.dims, hidden, self.embedding, free, cumulative, self.penalty, self.thresholds
        )

    def _train(self, module, train, held_out, rng):
        everything = train.take(torch.arange(len(train.x), device=train.x.device), rng)
        module.see(everything.z, everything.weight)
        history = super()._train(module, train, held_out, rng)
        module.empirical = None
        return history
