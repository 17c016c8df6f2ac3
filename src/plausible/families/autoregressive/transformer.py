r"""Transformer: every conditional from one causal net, in which a position looks back at all positions before it.

    p(x) = prod_t p(x_{o_t} | x_{o_1}, ..., x_{o_{t-1}}) = prod_t head(b + V h_t),    h = Decoder(e)
    e_1 = s + q_1,    e_t = f(x_{o_{t-1}}) W + q_t

o is the order in which dimensions are taken: of an image by rows, the channels of a pixel one after the other. f are
the features of a value, q_t tells its position (or queries and keys are turned by it: rotary), s stands where nothing
is known yet. The places of a text share W, and V = W; pixels, samples of sound (in 256 mu-law cells) and the steps of a
series share W and V; the columns of a table have rows of W and V of their own.

`start` and `step` keep the keys and values of the positions before, so that drawing T values costs about one pass and
not T; `prime` takes in many known values in one pass.

Expected (benchmarks/shakespeare.py): 1.57 nats a character on the last tenth of tiny Shakespeare after 14 minutes on
one core (published: 1.88 with the small and 1.47 with the large recipe of nanoGPT).

References: Vaswani et al., Attention is all you need, 2017, https://arxiv.org/abs/1706.03762. Radford et al., 2019
(GPT-2). Chen et al., Generative pretraining from pixels, 2020 (images).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional as F

from plausible.base import Module, Traits
from plausible.families._stepwise import Stepwise
from plausible.families.autoregressive._sequence import ALIKE, sequence_transforms
from plausible.heads import Categorical, Heads
from plausible.neural import Neural
from plausible.nn import Dropout
from plausible.nn.attention import INITIAL_STD, Decoder, Memory
from plausible.options import OptionError, estimator, option
from plausible.space import Image, Space
from plausible.transforms import Transform

AT_ONCE = 4_000_000  # numbers of a layer that are held in memory at a time, where no gradient is wanted
KEPT = 100_000_000  # keys and values that are held in memory at a time


@dataclass
class _State:
    memory: Memory
    order: list[int]
    k: int = 0  # dimensions given so far


class _Transformer(Stepwise):
    """Legend: n examples, D dimensions, W width, F input features, P parameters of all heads, F_d and P_d of one."""

    def __init__(
        self,
        space: Space,
        n_context: int,
        *,
        kind: str,
        order: Sequence[int],
        rotary: bool,
        width: int,
        layers: int,
        attention_heads: int,
        components: int,
        dropout: float,
        reals: str = "normal",
    ):
        super().__init__()
        self.dims, self._order = space.dims, list(order)
        self.heads = Heads(space, components, reals)
        self.shared = kind != "table"  # one W and V for all dimensions
        self.same_bias = kind in ALIKE
        self.in_order = self._order == list(range(space.dims))
        n_features, size = self.heads.n_features, self.heads.size
        if self.shared:
            n_features, size = n_features // space.dims, size // space.dims
        self.by_level = self.shared and isinstance(self.heads.heads[0], Categorical)
        self.W = nn.Parameter(torch.empty(n_features, width))
        self.V = None if kind == "text" and self.by_level else nn.Parameter(torch.empty(size, width))
        self.s = nn.Parameter(torch.empty(width))
        self.q = None if rotary else nn.Parameter(torch.empty(space.dims, width))
        for weight in (self.W, self.V, self.s, self.q):
            if weight is not None:
                nn.init.normal_(weight, std=INITIAL_STD)
        initial = self.heads.initial()
        self.b = nn.Parameter(initial[:size].clone() if self.same_bias else initial)
        self.dropout = Dropout(dropout)
        self.decoder = Decoder(width, layers, attention_heads, space.dims, rotary, dropout, n_context)
        self.register_buffer("taken", torch.tensor(self._order), persistent=False)
        self.register_buffer("rank", torch.tensor(self._order).argsort(), persistent=False)

    @property
    def order(self) -> list[int]:
        return list(self._order)

    @property
    def multiply_adds(self) -> int:
        """Of one example: each weight is used at every position."""
        return self.dims * sum(p.numel() for p in self.decoder.parameters())

    def look(self, z, weight=None):
        """Start from the product of the columns; characters and steps of a series have one column for all."""
        z = z.flatten(1)
        with torch.no_grad():
            if self.same_bias:
                known = z.flatten()[~z.flatten().isnan()]
                self.b.copy_(self.heads.single(0)[0].marginal(known[:, None]))
            else:
                self.b.copy_(self.heads.marginal(z))

    # --------------------------------------------------------------------------------- values in, parameters out

    def _shown(self, x: torch.Tensor) -> torch.Tensor:
        """Return f(x) W of values x (n, m) of dimensions that share W: (n, m, W); zero where missing."""
        if self.by_level:
            return F.embedding(torch.nan_to_num(x).long(), self.W) * ~x.isnan()[..., None]
        features = self.heads.single(0)[0].features(x.reshape(-1, 1))
        return (features.to(self.W.dtype) @ self.W).unflatten(0, x.shape)

    def _embedded(self, z: torch.Tensor) -> torch.Tensor:
        """Return e (n, D, W): what stands at each position of examples z (n, D)."""
        if self.shared:
            seen = self._shown((z if self.in_order else z[:, self.taken])[:, :-1])
        else:
            seen, first = z.new_zeros(*z.shape, self.W.shape[1], dtype=self.W.dtype), 0
            for head, members, _ in self.heads._groups():
                last = first + head.d * head.n_features
                features = head.features(z[:, members]).to(self.W.dtype)  # (n, d, F_d)
                rows = torch.einsum("ndf,dfw->ndw", features, self.W[first:last].unflatten(0, (head.d, -1)))
                seen, first = seen.index_copy(1, members, rows.to(seen.dtype)), last
            seen = seen[:, self.taken[:-1]]
        e = torch.cat([self.s.expand(len(z), 1, -1), seen], 1)
        return e if self.q is None else e + self.q

    def _to_parameters(self, h: torch.Tensor) -> torch.Tensor:
        """Return the parameters (n, P) of all conditionals from h (n, D, W)."""
        V = self.W if self.V is None else self.V
        if self.shared:
            params = h @ V.T
            params = (params if self.in_order else params[:, self.rank]).flatten(1)
            return params + (self.b.repeat(self.dims) if self.same_bias else self.b)
        parts = []
        for head, members, part in self.heads._groups():
            rows = V[part].unflatten(0, (head.d, -1))  # (d, P_d, W)
            parts.append(torch.einsum("ndw,dpw->ndp", h[:, self.rank[members]], rows).flatten(1))
        return torch.cat(parts, 1) + self.b

    # ------------------------------------------------------------------------------------------------- one pass

    def conditionals(self, z: torch.Tensor, c: torch.Tensor | None = None) -> torch.Tensor:
        """Return the parameters (n, P) of all conditionals."""
        return self._to_parameters(self.decoder(self.dropout(self._embedded(z.flatten(1))), c))

    def log_prob_each(self, z, c=None):
        if torch.is_grad_enabled():
            return super().log_prob_each(z, c)
        part = super().log_prob_each
        return self._by_rows(AT_ONCE // (4 * self.dims * self.W.shape[1]), part, z.flatten(1), c)

    def _by_rows(self, rows: int, of: Callable[..., torch.Tensor], *tensors: torch.Tensor | None) -> torch.Tensor:
        """Return of(*tensors), taken some rows at a time."""
        rows, n = max(rows, 1), len(tensors[0])
        parts = (of(*(None if t is None else t[first : first + rows] for t in tensors)) for first in range(0, n, rows))
        return torch.cat(list(parts)) if n else of(*tensors)

    # -------------------------------------------------------------------------------------------- step by step

    def start(self, n: int, c: torch.Tensor | None = None) -> _State:
        """Return the state before any dimension is known."""
        return _State(self.decoder.memory(n, c), self.order)

    def step(self, state: _State, value: torch.Tensor | None = None) -> torch.Tensor:
        """Take the value (n,) of the dimension last asked for; return the parameters (n, size_d) of the next one."""
        if value is not None:
            return self.prime(state, value[:, None])[0]
        n = len(state.memory.keys[0]) // self.decoder.heads
        return self._ahead(state, self.s.expand(n, 1, -1))[0]

    def prime(self, state: _State, values: torch.Tensor) -> list[torch.Tensor]:
        """Take the values (n, m) of the dimension last asked for and of those after it, in one pass.

        Returns:
            What m calls of `step` would: for each value the parameters (n, size_d) of the dimension after it, of which
            there is none for the last dimension of all.
        """
        asked = state.order[state.k : state.k + values.shape[1]]
        state.k += len(asked)
        values = values[:, : len(asked) - (state.k == self.dims)]
        if not values.shape[1]:
            return []
        if self.shared:
            return self._ahead(state, self._shown(values))
        shown = []
        for d, value in zip(asked, values.T, strict=False):
            head, _, columns = self.heads.single(d)
            shown.append(head.features(value[:, None]).to(self.W.dtype) @ self.W[columns])
        return self._ahead(state, torch.stack(shown, 1))

    def _ahead(self, state: _State, e: torch.Tensor) -> list[torch.Tensor]:
        """Take the next m positions (n, m, W); return the parameters that each leads to."""
        at, m = state.memory.at, e.shape[1]
        h = self.decoder.extend(e if self.q is None else e + self.q[at : at + m], state.memory)
        V = self.W if self.V is None else self.V
        if self.same_bias:
            return list(F.linear(h, V, self.b).unbind(1))
        params = []
        for i, d in enumerate(state.order[at : at + m]):
            rows = self.heads.single(d)[1]
            params.append(F.linear(h[:, i], V if self.shared else V[rows], self.b[rows]))
        return params

    def from_uniforms(self, u, c=None, known=None):
        rows = KEPT // (2 * len(self.decoder.blocks) * self.dims * self.W.shape[1])
        return self._by_rows(rows, lambda u, c, known: self._draw(self.start(len(u), c), u, known), u, c, known)

    def _draw(self, state: _State, u: torch.Tensor, known: torch.Tensor | None = None) -> torch.Tensor:
        z = torch.empty(u.shape[:2], dtype=u.dtype, device=u.device)
        first = 0 if known is None else self._known_by_all(known)
        params = self.step(state)
        if first:  # what is known of all examples is read in one pass
            z[:, self.taken[:first]] = known[:, self.taken[:first]].to(z)
            params = self.prime(state, z[:, self.taken[:first]])[-1] if first < self.dims else None
        for k, d in enumerate(state.order[first:], first):
            value = self.heads.single(d)[0].sample(params, u[:, d : d + 1])[:, 0]
            if known is not None:
                value = torch.where(known[:, d].isnan(), value, known[:, d].to(value))
            z[:, d] = value
            if k + 1 < self.dims:
                params = self.step(state, value)
        return z

    def _known_by_all(self, known: torch.Tensor) -> int:
        """The number of dimensions, from the first on, that are known of all examples."""
        holes = known[:, self.taken].isnan().any(0).nonzero()
        return int(holes[0]) if len(holes) else self.dims


@estimator
class Transformer(Neural):
    """Decoder of causal attention: exact autoregressive density of text, images, series, sound and tables.

    With numba installed (`pip install 'plausible[fast]'`) a text, or many images, are drawn twice as fast on CPUs.

    References: Vaswani et al., 2017, https://arxiv.org/abs/1706.03762; Radford et al., 2019

    Examples:
        >>> import plausible as pl
        >>> model = pl.Transformer(layers=1, hidden=32, epochs=20, batch_size=16, learning_rate=5e-3, random_state=0)
        >>> model = model.fit(["abab", "baba"] * 50)
        >>> round(model.score(["abab", "baba"]), 1)  # one of two: -log 2
        -0.7
    """

    layers: int = option(4, "layers of attention", low=1)
    hidden: int = option(128, "numbers that stand for each position", low=1)
    attention_heads: int = option(4, "heads of attention, which share these numbers", low=1)
    positions: str = option(
        "auto",
        "how positions are told; 'auto' is rotary for text, series and sound",
        choices=("auto", "learned", "rotary"),
    )
    order: tuple[int, ...] | None = option(
        None, "in which the dimensions are taken; None is as they come, of images row by row, all channels of a pixel"
    )
    components: int = option(10, "mixture components of real, count and many-levelled columns", low=1)
    reals: str = option("normal", "components of the mixtures of reals", choices=("normal", "laplace", "student_t"))
    dropout: float = option(0.0, "share of what each layer adds that is dropped while training", low=0, below=1)
    batch_size: int = option(64, "examples per step", low=1)
    warmup: int = option(20, "steps in which the learning rate rises from zero", low=0)
    clip_norm: float | None = option(1.0, "largest norm of the gradient", above=0)

    traits = Traits(
        density="exact",
        events=frozenset({"table", "image", "text", "series", "audio"}),
        context=True,
        conditionals=True,
        prefixes=True,
        streams=True,
        given="in_order",
    )

    def _transforms(self, space: Space) -> list[Transform]:
        return sequence_transforms(space)

    def _build(self, space: Space, context_space: Space) -> Module:
        rotary = self.positions == "rotary" or (self.positions == "auto" and self.space_.type in ALIKE)
        if self.hidden % self.attention_heads or (rotary and self.hidden // self.attention_heads % 2):
            even = " to an even number each, as rotary positions need" if rotary else ""
            raise OptionError(
                f"Transformer(hidden={self.hidden}, attention_heads={self.attention_heads}): the heads share the "
                f"hidden numbers{even}; let hidden be a multiple of {self.attention_heads * (1 + rotary)}"
            )
        return _Transformer(
            space,
            context_space.dims,
            kind=self.space_.type,
            order=self._taken(),
            rotary=rotary,
            width=self.hidden,
            layers=self.layers,
            attention_heads=self.attention_heads,
            components=self.components,
            dropout=self.dropout,
            reals=self.reals,
        )

    def _taken(self) -> list[int]:
        """Return the order of the dimensions."""
        dims = self.space_.dims
        if self.order is None:
            if not isinstance(self.space_, Image):
                return list(range(dims))
            channels, height, width = self.space_.shape
            pixels = height * width
            return [channel * pixels + pixel for pixel in range(pixels) for channel in range(channels)]
        if sorted(self.order) != list(range(dims)):
            raise OptionError(f"order must hold each of 0 .. {dims - 1} once; got {len(self.order)} entries")
        ends = self.space_.type == "text" or self.space_.ragged
        if ends and list(self.order) != list(range(dims)):
            raise OptionError("what ends early has one order: that in which it comes to its end; leave order at None")
        return [int(d) for d in self.order]

    def _step(self, module: Module) -> Callable:
        return self._minimise(module, warmup=self.warmup, betas=(0.9, 0.99))
