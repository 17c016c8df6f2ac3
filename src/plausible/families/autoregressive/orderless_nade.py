r"""Orderless NADE: one net for the conditionals of every order.

    p_o(x) = prod_k p(x_{o_k} | x_{o_1}, ..., x_{o_{k-1}})
    p(x_d | x_m) = head_d(b_d + V_d h),    h = net(f(x) m, m),    m in {0, 1}^D: what is known

Training draws an order and a cut for each example: k - 1 dimensions m are known, and the loss of all others,

    D / (D - k + 1) sum_{d not in m} -log p(x_d | x_m),

has as its mean the mean of -log p_o(x) over orders. Every order o makes a density, and these are not the same: the
conditionals of a net do not agree on one joint. So that it is plain what is meant:

* `log_prob` is that of the natural order, or, with S `orderings`, of the mixture p(x) = 1/S sum_s p_s(x) of the natural
  and S - 1 fixed random ones: the probabilities of whole examples are averaged, never logits.
* Completions, and `given.log_prob`, are exact for the order in which what is known comes first and the rest follows as
  it stands. With one ordering, and where what is known does stand first, that is p(x).

p_o takes D passes of the net, of which the first layer is computed once.

Expected, on fixed binarised MNIST with two hidden layers of 500: 109.9 nats for one ordering after 12 minutes on one
core, and still falling (benchmarks/binary_density.py --mnist OrderlessNADE --minutes 12); it takes hours. Published:
87.13 for 10 orderings, 84.65 for 128, both with the input of five steps of inference.

References: Uria, Murray and Larochelle, A deep and tractable density estimator, 2014, https://arxiv.org/abs/1310.1757
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional as F

from plausible.base import Module, Traits
from plausible.families.autoregressive._orderings import Orderings
from plausible.families.autoregressive._shared_hidden import at_once, by_blocks
from plausible.heads import Heads
from plausible.neural import Neural
from plausible.nn import Dropout, activation
from plausible.options import OptionError, estimator, option
from plausible.randomness import uniform
from plausible.space import Space


@dataclass
class _State:
    sums: torch.Tensor  # (n, H): of the first layer, over what is known so far
    biases: list[torch.Tensor]  # of the layers above and of the parameters, (n, .)
    order: list[int]
    k: int = 0  # dimensions given so far


class _OrderlessNADE(Orderings):
    """Legend: n examples, D dimensions, F input features, H hidden units, P parameters of all heads, S orderings."""

    def __init__(self, space: Space, n_context: int, hidden, components, reals, orderings, nonlinearity, dropout):
        super().__init__()
        self.dims, self.orderings = space.dims, orderings
        self.heads = Heads(space, components, reals)
        n_inputs, size = self.heads.n_features + space.dims, self.heads.size
        self.W = nn.Parameter(torch.empty(n_inputs, hidden[0]).uniform_(-1, 1) / n_inputs**0.5)
        self.c = nn.Parameter(torch.zeros(hidden[0]))
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in zip(hidden[:-1], hidden[1:], strict=True))
        self.V = nn.Parameter(torch.empty(size, hidden[-1]).uniform_(-0.1, 0.1) / hidden[-1] ** 0.5)
        self.b = nn.Parameter(self.heads.initial())
        self.of_context = nn.ModuleList(nn.Linear(n_context, k, bias=False) for k in (*hidden, size) if n_context)
        self.nonlinearity, self.dropout = activation(nonlinearity), Dropout(dropout)
        source = torch.cat([self.heads.source, torch.arange(space.dims)])  # of the features, then of the mask
        self.register_buffer("source", source, persistent=False)

    def look(self, z, weight=None):
        """Start from the product of the columns."""
        with torch.no_grad():
            self.b.copy_(self.heads.marginal(z.flatten(1)))

    def _inputs(self, z: torch.Tensor, known: torch.Tensor | None = None) -> torch.Tensor:
        """Features and mask (n, F + D) of z (n, D), of which what is not `known` is not shown."""
        x, shown = self.heads.features(z), ~z.isnan()
        shown = shown.to(x) if known is None else (shown & known).to(x)
        return torch.cat([x * shown[:, self.heads.source], shown], 1)

    def _biases(self, n: int, c: torch.Tensor | None) -> list[torch.Tensor]:
        """Of all layers and of the parameters, (n, .)."""
        own = [b.expand(n, -1) for b in (self.c, *(layer.bias for layer in self.layers), self.b)]
        return own if c is None else [b + net(c) for b, net in zip(own, self.of_context, strict=True)]

    def _top(self, sums: torch.Tensor, biases: list[torch.Tensor]) -> torch.Tensor:
        """From the sums (..., n, H) of the first layer to the last hidden layer."""
        h = self.dropout(self.nonlinearity(sums))
        for layer, bias in zip(self.layers, biases, strict=True):
            h = self.dropout(self.nonlinearity(F.linear(h, layer.weight) + bias))
        return h

    # ------------------------------------------------------------------------------------------------- evaluate

    def given_known(self, z: torch.Tensor, known: torch.Tensor, c: torch.Tensor | None = None) -> torch.Tensor:
        """Return the parameters (n, P) of p(z_d | those of z that are known) for all d, in one pass of the net."""
        first, *above, last = self._biases(len(z), c)
        return F.linear(self._top(self._inputs(z, known) @ self.W + first, above), self.V) + last

    def conditionals(self, z: torch.Tensor, c: torch.Tensor | None = None, s: int = 0) -> torch.Tensor:
        """Return the parameters (n, P) of all conditionals in ordering s."""
        z, parts = z.flatten(1), []
        rows = max(1, at_once() // max(self.W.shape[1], *(layer.out_features for layer in self.layers), 1))
        for i in range(0, len(z), rows):
            own = None if c is None else c[i : i + rows]
            first, *above, last = self._biases(len(z[i : i + rows]), own)
            x, order = self._inputs(z[i : i + rows]), self.order_of(s)
            net = (self.source, self.heads.owner, order, lambda sums, above=above: self._top(sums, above))
            parts.append(last + by_blocks(x, self.W, self.V, first, *net))
        return torch.cat(parts) if parts else z.new_zeros(0, self.heads.size)

    def loss(self, z, c=None, *, rng=None):
        return self.held_out_loss(z, c, rng=rng) if self.training else -self.log_prob(z, c)

    def held_out_loss(self, z, c=None, *, rng):
        """Return an estimate of the mean of -log p_o(z) over orders o, from one order and one cut: (n,)."""
        z = z.flatten(1)
        u = uniform(rng, (len(z), self.dims + 1), self.W)
        n_known = (u[:, 0] * self.dims).long().clamp_max(self.dims - 1)  # 0 to D - 1
        known = u[:, 1:].argsort(1).argsort(1) < n_known[:, None]
        terms = -self.heads.log_prob(self.given_known(z, known, c), z) * ~known
        return terms.sum(1) * (self.dims / (self.dims - n_known))

    # --------------------------------------------------------------------------------------------------- sample

    def start(self, n: int, c: torch.Tensor | None = None, s: int = 0) -> _State:
        """Return the state before any dimension is known."""
        first, *above = self._biases(n, c)
        return _State(first.clone(), above, self.order_of(s))

    def step(self, state: _State, value: torch.Tensor | None = None) -> torch.Tensor:
        """Take the value (n,) of the dimension last asked for; return the parameters (n, size_d) of the next one."""
        if value is not None:
            self._add(state.sums, state.order[state.k], value)
            state.k += 1
        return self._params(state.sums, state.biases, state.order[state.k])

    def _add(self, sums: torch.Tensor, d: int, value: torch.Tensor) -> None:
        """Add to the sums (n, H) that dimension d has these values (n,)."""
        head, _, columns = self.heads.single(d)
        shown = ~value.isnan()
        sums.addmm_(head.features(value[:, None]).to(sums), self.W[columns])
        sums.addmm_(shown[:, None].to(sums), self.W[self.heads.n_features + d][None])

    def _params(self, sums: torch.Tensor, biases: list[torch.Tensor], d: int) -> torch.Tensor:
        _, rows, _ = self.heads.single(d)
        return F.linear(self._top(sums, biases[:-1]), self.V[rows]) + biases[-1][:, rows]

    # ---------------------------------------------------------------------------------------------------- given

    def sample_given(self, z, c=None, *, rng):
        """Draw the missing dimensions, wherever they are, in the order in which the known ones come first."""
        shape, filled = z.shape, z.flatten(1).clone()
        u = self._uniforms(len(filled), rng)
        for d, rows, params in self._rest(filled, filled.isnan(), c):
            filled[rows, d] = self.heads.single(d)[0].sample(params, u[rows, d : d + 1])[:, 0].to(filled)
        return filled.reshape(shape)

    def log_prob_given(self, z, known, c=None):
        """Return log p(the others | those that are known), `known` a mask (n, \\*event), in that order: (n,)."""
        z, known = z.flatten(1), known.flatten(1)
        total = torch.zeros(len(z), dtype=self.W.dtype, device=z.device)
        for d, rows, params in self._rest(z, ~known, c):
            total[rows] += self.heads.single(d)[0].log_prob(params, z[rows, d : d + 1])[:, 0]
        return total

    def _rest(self, z: torch.Tensor, missing: torch.Tensor, c: torch.Tensor | None):
        """Yield each dimension d that is missing (n, D) in some rows, those rows, and the parameters of z_d there.

        What stands in z when the next one is asked for is known from then on.
        """
        first, *above = self._biases(len(z), c)
        sums = self._inputs(z.to(self.W), ~missing) @ self.W + first
        for d in missing.any(0).nonzero().flatten().tolist():
            rows = missing[:, d].nonzero().flatten()
            own = sums[rows]
            yield d, rows, self._params(own, [bias[rows] for bias in above], d)
            self._add(own, d, z[rows, d].to(own))
            sums[rows] = own


@estimator
class OrderlessNADE(Neural):
    """Orderless NADE: one net for every order, whose ensemble is averaged; exact. It completes whatever is missing.

    Completions are drawn in the order in which what is known comes first; `log_prob` is that of the natural order, or
    the mean of `orderings` of them. Different orders of one net are different densities.

    References: Uria, Murray and Larochelle, A deep and tractable density estimator, 2014,
    https://arxiv.org/abs/1310.1757

    Examples:
        >>> import numpy as np, plausible as pl
        >>> from plausible.uses import given
        >>> bits = np.random.default_rng(0).integers(0, 2, (2000, 1)) ^ np.array([[0, 1, 0]])
        >>> model = pl.OrderlessNADE(hidden=(32,), epochs=40, learning_rate=0.02, random_state=0).fit(bits)
        >>> round(model.score(bits), 1)  # three copies of one fair coin: -log 2
        -0.7
        >>> given.sample(model, np.array([[np.nan, np.nan, 1]]), random_state=0).tolist()
        [[1, 0, 1]]
    """

    hidden: tuple[int, ...] = option((500, 500), "widths of the hidden layers", low=1)
    orderings: int = option(1, "orderings whose probabilities are averaged; the training is the same", low=1)
    components: int = option(10, "mixture components of real, count and many-levelled columns", low=1)
    reals: str = option("normal", "components of the mixtures of reals", choices=("normal", "laplace"))
    nonlinearity: str = option("relu", "of the hidden units", choices=("relu", "elu", "gelu", "silu", "tanh"))
    dropout: float = option(0.0, "share of hidden units dropped while training", low=0, below=1)

    traits = Traits(
        density="exact",
        events=frozenset({"table", "image", "series"}),
        context=True,
        conditionals=True,
        streams=True,
        given="in_order",
    )

    def _build(self, space: Space, context_space: Space) -> Module:
        if not self.hidden:
            raise OptionError("OrderlessNADE needs at least one hidden layer, as in hidden=(500,)")
        return _OrderlessNADE(
            space,
            context_space.dims,
            self.hidden,
            self.components,
            self.reals,
            self.orderings,
            self.nonlinearity,
            self.dropout,
        )
