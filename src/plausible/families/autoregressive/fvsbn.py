r"""Fully visible sigmoid belief network: every conditional is a (generalised) linear model of the dimensions before it.

    p(x_d | x_<d) = head_d(b_d + sum_{i<d} W_di f(x_i))

For bits with f(x) = 2 x - 1 these are D logistic regressions; levels, counts and reals have the heads of the package.
The D regressions are one masked matrix product. The loss has a penalty on the weights,

    - log p(x) + lambda / (2 n) sum W^2

with lambda chosen on held-out examples from large to small, each fit starting from the one before: the problem is
convex for bits, so what differs between the fits is the penalty alone.

Expected: 97.4 nats on fixed binarised MNIST (published 97.45, Gan et al., 2015).

References: Neal, Connectionist learning of belief networks, 1992. Frey, Hinton and Dayan, Does the wake-sleep algorithm
produce good density estimators?, 1996.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional as F

from plausible.base import Module, Traits
from plausible.families.autoregressive._stepwise import Stepwise
from plausible.heads import Heads
from plausible.neural import Neural
from plausible.options import OptionError, estimator, option
from plausible.space import Space
from plausible.training import Events, History

PENALTIES = (300.0, 100.0, 30.0, 10.0, 3.0, 1.0, 0.3, 0.1)  # lambda to choose from


@dataclass
class _State:
    params: torch.Tensor  # (P, n): sums over the dimensions given so far
    weight: torch.Tensor  # (P, F), masked
    order: list[int]
    k: int = 0  # dimensions given so far


class _FVSBN(Stepwise):
    """Legend: n examples, D dimensions, F input features, P parameters of all heads."""

    def __init__(self, space: Space, n_context: int, components: int):
        super().__init__()
        self.dims, self.penalty = space.dims, 0.0
        self.heads = Heads(space, components)
        self.weight = nn.Parameter(torch.zeros(self.heads.size, self.heads.n_features))
        self.bias = nn.Parameter(self.heads.initial())
        self.of_context = nn.Linear(n_context, self.heads.size, bias=False) if n_context else None
        if n_context:
            nn.init.normal_(self.of_context.weight, std=0.01)
        mask = self.heads.owner[:, None] > self.heads.source
        self.register_buffer("mask", mask.to(torch.float32), persistent=False)

    @property
    def n_parameters(self) -> int:
        entries = (self.heads.owner[:, None] > self.heads.source).sum() + self.bias.numel()
        return int(entries) + (self.of_context.weight.numel() if self.of_context is not None else 0)

    def look(self, z, weight=None):
        """Start from the product of the columns."""
        with torch.no_grad():
            self.bias.copy_(self.heads.marginal(z.flatten(1)))

    def conditionals(self, z, c=None):
        params = F.linear(self.heads.features(z.flatten(1)), self.weight * self.mask, self.bias)
        return params if c is None else params + self.of_context(c)

    def loss(self, z, c=None, *, rng=None):
        loss = -self.log_prob(z, c)
        if self.training and self.penalty:
            loss = loss + 0.5 * self.penalty * (self.weight * self.mask).square().sum()
        return loss

    def start(self, n, c=None):
        params = self.bias[:, None].expand(-1, n).clone()
        if c is not None:
            params += self.of_context(c).T
        return _State(params, self.weight * self.mask, self.order)

    def step(self, state, value=None):
        if value is not None:
            head, rows, columns = self.heads.single(state.order[state.k])
            x = head.features(value[:, None]).T  # (F_d, n)
            state.k += 1
            if len(self.heads.heads) == 1:  # parameters of later dimensions lie behind those of this one
                state.params[rows.stop :].addmm_(state.weight[rows.stop :, columns], x)
            else:
                state.params.addmm_(state.weight[:, columns], x)
        return state.params[self.heads.single(state.order[state.k])[1]].T


@estimator
class FVSBN(Neural):
    """Fully visible sigmoid belief network: linear conditionals, one after the other; exact.

    References: Neal, Connectionist learning of belief networks, 1992; Frey, Hinton and Dayan, 1996.

    Examples:
        >>> import numpy as np, plausible as pl
        >>> bits = np.random.default_rng(0).integers(0, 2, (2000, 1)) ^ np.array([[0, 1, 0]])
        >>> model = pl.FVSBN(random_state=0).fit(bits)
        >>> round(model.score(bits), 1)  # three copies of one fair coin: -log 2
        -0.7
    """

    penalty: float | str = option(
        "auto", "lambda, or 'auto' to choose it on held-out examples", choices=("auto",), low=0
    )
    components: int = option(10, "mixture components of real, count and many-levelled columns", low=1)
    learning_rate: float = option(1e-2, "of Adam, at the start", above=0)
    patience: int | None = option(
        3, "looks at the held-out loss without improvement before stopping", low=1, choices=(None,)
    )

    traits = Traits(
        density="exact",
        events=frozenset({"table", "image", "text", "series"}),
        context=True,
        conditionals=True,
        streams=True,
        given="in_order",
    )

    def _build(self, space: Space, context_space: Space) -> Module:
        return _FVSBN(space, context_space.dims, self.components)

    def _train(self, module: Module, train: Events, held_out: Events | None, rng: torch.Generator) -> History:
        if self.penalty != "auto" or held_out is None:
            module.penalty = (0.0 if self.penalty == "auto" else self.penalty) / len(train)
            return super()._train(module, train, held_out, rng)
        if self.checkpoint is not None:
            raise OptionError("a checkpoint holds one fit; give the penalty as a number to use one")
        return self._choose(module, train, held_out, rng)

    def _choose(self, module: Module, train: Events, held_out: Events, rng: torch.Generator) -> History:
        """Fit with ever smaller penalties until the held-out loss gets worse; keep the best."""
        best, state, rows, budget = None, None, [], self.budget
        for penalty in PENALTIES:
            module.penalty = penalty / len(train)
            if budget is not None:
                self.budget = budget / len(PENALTIES)
            try:
                history = super()._train(module, train, held_out, rng)
            finally:
                self.budget = budget
            rows += [row | {"penalty": penalty, "epoch": len(rows) + i + 1} for i, row in enumerate(history.rows)]
            if best is not None and history.best >= best.best:
                break
            best, state = history, {k: v.clone() for k, v in module.state_dict().items()}
            best.kept_epoch = len(rows) - len(history.rows) + (history.kept_epoch or 0)
            if history.stopped == "interrupted":
                break
        module.load_state_dict(state)
        best.rows = rows
        return best
