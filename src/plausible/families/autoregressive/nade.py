r"""Neural autoregressive distribution estimator.

    p(x_d | x_<d) = head_d(b_d + V_d h_d),    h_d = act(c + sum_{i<d} W_i f(x_i))

One hidden layer for every dimension, all with the same weights W: h_d costs one more term than h_{d-1}. Bits have one
logit, levels K; reals have a mixture of normals or of Laplaces, which makes it RNADE. Of bits, f is the difference from
the more frequent value of the column, so that most f are 0 and h_d is most often h_{d-1}.

With S orderings the model is their mixture, p(x) = sum_s pi_s p_s(x), each with weights of its own; pi is learned too.

Where all columns are bits and numba is installed, both passes and the sampler are loops compiled by it (`_kernels`),
with the same numbers to rounding; otherwise the dimensions are taken in blocks.

Expected: 87.3 nats on fixed binarised MNIST with 500 hidden units (published 88.33); red wine, mean test log-likelihood
of the ten folds, -9.7 with mixtures of normals and -9.9 with mixtures of Laplaces (published -9.36 and -9.46).

References: Larochelle and Murray, The neural autoregressive distribution estimator, 2011. Uria, Murray and Larochelle,
RNADE: the real-valued neural autoregressive density-estimator, 2013, https://arxiv.org/abs/1306.0186
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from plausible.base import Module, Traits
from plausible.families.autoregressive import _fused
from plausible.families.autoregressive._orderings import Orderings, inverse, refuse_text
from plausible.families.autoregressive._shared_hidden import at_once, by_blocks
from plausible.heads import Heads
from plausible.neural import Neural
from plausible.nn.compiled import usable
from plausible.options import estimator, option
from plausible.space import Space

NONLINEARITIES = {"sigmoid": torch.sigmoid, "tanh": torch.tanh, "relu": torch.relu}


@dataclass
class _State:
    sums: torch.Tensor  # (n, H): c + sum of W_i f(x_i) over the dimensions given so far
    bias: torch.Tensor  # (n, P)
    W: torch.Tensor  # (F, H), of the ordering
    V: torch.Tensor  # (P, H)
    order: list[int]
    k: int = 0  # dimensions given so far


class _NADE(Orderings):
    """Legend: n examples, D dimensions, F input features, H hidden units, P parameters of all heads, S orderings."""

    def __init__(
        self,
        space: Space,
        n_context: int,
        hidden: int,
        components: int,
        reals: str,
        nonlinearity: str,
        orderings: int = 1,
    ):
        super().__init__()
        self.dims, self.orderings, self.nonlinearity = space.dims, orderings, nonlinearity
        self.heads = Heads(space, components, reals)
        self.bits = space.kinds == {"binary"}
        S, n_features, size = orderings, self.heads.n_features, self.heads.size
        self.W = nn.Parameter(torch.empty(S, n_features, hidden).uniform_(-1, 1) / n_features**0.5)
        self.V = nn.Parameter(torch.empty(S, size, hidden).uniform_(-0.1, 0.1) / hidden**0.5)
        self.b = nn.Parameter(self.heads.initial().repeat(S, 1))
        self.c = nn.Parameter(torch.zeros(S, hidden))
        self.mixing = nn.Parameter(torch.zeros(S)) if S > 1 else None  # its softmax is pi
        self.of_context = nn.ModuleList(nn.Linear(n_context, S * k, bias=False) for k in (hidden, size) if n_context)
        for net in self.of_context:
            nn.init.normal_(net.weight, std=0.1 / n_context**0.5)
        self.register_buffer("usual", torch.zeros(space.dims))  # the more frequent value of each bit

    @property
    def trains_in_loops(self) -> bool:
        return self.bits and usable(self.W)

    def look(self, z, weight=None):
        """Start from the product of the columns; note which value of each bit is the more frequent."""
        z = z.flatten(1)
        with torch.no_grad():
            self.b.copy_(self.heads.marginal(z))
            if self.bits:
                self.usual.copy_(self.b[0] > 0)

    def act(self, sums: torch.Tensor) -> torch.Tensor:
        """The nonlinearity of the hidden units."""
        return NONLINEARITIES[self.nonlinearity](sums)

    def _features(self, z: torch.Tensor) -> torch.Tensor:
        """(n, D) -> (n, F)."""
        return torch.nan_to_num(z - self.usual) if self.bits else self.heads.features(z)

    def _before_all(self, n: int, c: torch.Tensor | None, s: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the sums (n, H) and the biases (n, P) before any dimension is known."""
        own = self.c[s].expand(n, -1), self.b[s].expand(n, -1)
        if c is None:
            return own
        return tuple(
            b + net(c).unflatten(1, (self.orderings, -1))[:, s] for b, net in zip(own, self.of_context, strict=True)
        )

    # ------------------------------------------------------------------------------------------------- one pass

    def conditionals(self, z: torch.Tensor, c: torch.Tensor | None = None, s: int = 0) -> torch.Tensor:
        """Return the parameters (n, P) of all conditionals in ordering s."""
        z = z.flatten(1)
        sums, bias = self._before_all(len(z), c, s)
        x, W, V, order = self._features(z), self.W[s], self.V[s], self.order_of(s)
        if self.bits and usable(W):
            if s == 0:
                return bias + _fused.hidden_dots(x, W, V, sums, self.nonlinearity)
            dots = _fused.hidden_dots(x[:, order], W[order], V[order], sums, self.nonlinearity)
            return bias + dots[:, inverse(order)]
        net = (self.heads.source, self.heads.owner, order, self.act)
        rows = max(1, at_once() // W.shape[1])
        parts = [by_blocks(x[i : i + rows], W, V, sums[i : i + rows], *net) for i in range(0, len(z), rows)]
        return bias + torch.cat(parts) if parts else bias

    def log_pi(self, like):
        return self.mixing.log_softmax(0)

    def loss(self, z, c=None, *, rng=None):
        """Of each ordering, on average, while training: their weights have nothing to do with each other.

        The slope with regard to pi is that of the mixture, to the value of which it adds nothing.
        """
        if not self.training:
            return -self.log_prob(z, c)
        log_p = self.log_prob_in_orders(z, c)
        of_pi = self.mixed(log_p.detach())
        return of_pi.detach() - of_pi - log_p.mean(0)

    # -------------------------------------------------------------------------------------------- step by step

    def start(self, n: int, c: torch.Tensor | None = None, s: int = 0) -> _State:
        """Return the state before any dimension is known."""
        sums, bias = self._before_all(n, c, s)
        return _State(sums.clone(), bias, self.W[s], self.V[s], self.order_of(s))

    def step(self, state: _State, value: torch.Tensor | None = None) -> torch.Tensor:
        """Take the value (n,) of the dimension last asked for; return the parameters (n, size_d) of the next one."""
        if value is not None:
            d = state.order[state.k]
            head, _, columns = self.heads.single(d)
            x = torch.nan_to_num(value - self.usual[d])[:, None] if self.bits else head.features(value[:, None])
            state.sums.addmm_(x.to(state.sums), state.W[columns])
            state.k += 1
        _, rows, _ = self.heads.single(state.order[state.k])
        return torch.addmm(state.bias[:, rows], self.act(state.sums), state.V[rows].T)

    def from_uniforms(self, u, c=None, known=None, s=0):
        if not (self.bits and usable(self.W)):
            return super().from_uniforms(u, c, known, s)
        order = slice(None) if s == 0 else self.order_of(s)  # of the natural one nothing is copied
        (sums, bias), W, V = self._before_all(len(u), c, s), self.W[s, order], self.V[s, order]
        net = self.usual[order], W, V, bias[:, order], sums, self.nonlinearity
        z = _fused.sample_bits(u[:, order, 0], None if known is None else known[:, order], *net)
        return z if s == 0 else z[:, inverse(order)]


@estimator
class NADE(Neural):
    """Neural autoregressive distribution estimator: one hidden layer for every dimension, weights shared; exact.

    Reals have mixtures (RNADE). With numba installed (`pip install 'plausible[fast]'`), bits are trained and drawn an
    order of magnitude faster.

    References: Larochelle and Murray, 2011; Uria, Murray and Larochelle, 2013, https://arxiv.org/abs/1306.0186

    Examples:
        >>> import numpy as np, plausible as pl
        >>> bits = np.random.default_rng(0).integers(0, 2, (2000, 1)) ^ np.array([[0, 1, 0]])
        >>> model = pl.NADE(hidden=16, epochs=40, learning_rate=0.05, random_state=0).fit(bits)
        >>> round(model.score(bits), 1)  # three copies of one fair coin: -log 2
        -0.7
    """

    hidden: int = option(500, "hidden units", low=1)
    orderings: int = option(1, "orderings that are mixed, each with weights of its own", low=1)
    components: int = option(10, "mixture components of real, count and many-levelled columns", low=1)
    reals: str = option("normal", "components of the mixtures of reals", choices=("normal", "laplace"))
    nonlinearity: str = option("auto", "of the hidden units", choices=("auto", "sigmoid", "tanh", "relu"))
    learning_rate: float = option(5e-3, "of Adam, at the start", above=0)

    traits = Traits(
        density="exact",
        events=frozenset({"table", "image", "text", "series"}),
        context=True,
        conditionals=True,
        streams=True,
        given="in_order",
    )

    def _build(self, space: Space, context_space: Space) -> Module:
        refuse_text("NADE", self.orderings, self.space_)
        nonlinearity = self.nonlinearity
        if nonlinearity == "auto":  # as published: sigmoids for bits, rectified units for reals
            nonlinearity = "sigmoid" if space.kinds == {"binary"} else "relu"
        sizes = context_space.dims, self.hidden, self.components
        return _NADE(space, *sizes, self.reals, nonlinearity, self.orderings)
