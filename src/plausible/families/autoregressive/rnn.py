r"""Recurrent net: what went before a step is summed up in a state of fixed size.

    p(x) = prod_t p(x_t | h_t),    h_t = cell(h_{t-1}, f(x_{t-1}), c)

with a gated recurrent unit (GRU)

    r = s(A_r x + U_r h),  u = s(A_u x + U_u h),  g = tanh(A_g x + r * (U_g h)),  h <- (1 - u) * g + u * h

or a long short-term memory (LSTM)

    i, f, o = s(A x + U h),  g = tanh(A_g x + U_g h),  m <- f * m + i * g,  h <- o * tanh(m)

(s the sigmoid), in one or several layers; on a CPU an LSTM trains almost twice as fast. Steps are characters, the time
steps of a series, pixels row by row, or the columns of a table; `_sequence` says what the net is shown of them, and how
the channels of one step are taken in order. A context c sets the first state and is shown at every step. Reals have
mixtures of normals, Laplaces or Student's t.

As what went before is all in the state, a text goes on past the length of a window for as long as one likes.

Expected: tiny Shakespeare, 1.43 nats a character on the last tenth after an hour on two thirds of a core (benchmarks/
shakespeare.py; published: 1.47 for the large recipe of nanoGPT). JSB chorales, 8.5 nats a step with the keys of a step
independent (benchmarks/polyphonic.py; published: LSTM 8.45, GRU 8.43) and 6.3 with the keys in order (published for an
RNN-NADE: 5.56), each after half a minute on one core; Nottingham 3.6 (published: 3.29 and 3.46) and 2.2 after six
minutes.

References: Hochreiter and Schmidhuber, Long short-term memory, 1997. Cho et al., Learning phrase representations using
RNN encoder-decoder, 2014, https://arxiv.org/abs/1406.1078. Graves, Generating sequences with recurrent neural networks,
2013, https://arxiv.org/abs/1308.0850
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from plausible.base import Module, Traits
from plausible.families.autoregressive._sequence import Sequential, Steps, embedding_width, sequence_transforms
from plausible.neural import Neural
from plausible.nn import Dropout
from plausible.nn.recurrent import lstm_cell
from plausible.options import estimator, option
from plausible.space import Space
from plausible.transforms import Transform

CELLS = {"gru": nn.GRU, "lstm": nn.LSTM}


@dataclass
class _State:
    """What a net knows after some dimensions; its weights transposed, so that they are prepared once."""

    order: list[int]
    cells: list[tuple[torch.Tensor, ...]]  # of each layer: weights of its input and of its state, their biases
    shown: torch.Tensor  # (F, gates): what a feature adds to the gates of the first layer
    place: torch.Tensor  # (T or 1, gates): what a place adds
    first: torch.Tensor  # (gates,) or (n, gates): what is always added to them
    h: list[torch.Tensor]
    memory: list[torch.Tensor]
    values: list[torch.Tensor] = field(default_factory=list)  # of the present step
    inner: Any = None  # state inside the step
    before: None = None  # nothing is foreseen by direct connections
    k: int = 0  # dimensions given so far


class _RNN(Sequential):
    """Legend: n examples, T steps, D dimensions, F features of a step, E inputs, H hidden units, P parameters."""

    def __init__(self, space, event, n_context, cell, hidden, layers, within, components, dropout, reals="normal"):
        super().__init__()
        self.dims, self.cell, self.hidden = space.dims, cell, hidden
        width = embedding_width(space, event, hidden)
        self.steps = Steps(space, event, width, hidden, within, components, dropout, reals)
        self.heads = self.steps.heads
        widths = [self.steps.W.shape[1], *[hidden] * layers]
        self.nets = nn.ModuleList(CELLS[cell](e, hidden, batch_first=True) for e in widths[:-1])
        self.dropout = Dropout(dropout)
        if n_context:
            self.of_context = nn.Linear(n_context, widths[0], bias=False)  # at every step
            self.at_start = nn.Linear(n_context, layers * hidden)
            nn.init.normal_(self.of_context.weight, std=0.1 / n_context**0.5)

    def _first_states(self, n: int, c: torch.Tensor | None) -> list[torch.Tensor]:
        """The state h of each layer before the first step."""
        if c is None:
            return [self.steps.W.new_zeros(n, self.hidden) for _ in self.nets]
        return [h.contiguous() for h in self.at_start(c).tanh().chunk(len(self.nets), 1)]

    # ------------------------------------------------------------------------------------------------- all at once

    def _outputs(self, z: torch.Tensor, c: torch.Tensor | None) -> torch.Tensor:
        """Return what the last layer says of each step before it is seen: (n, D) -> (n, T, H)."""
        x = self.steps.before(z)  # (n, T, E)
        if c is not None:
            x = x + self.of_context(c)[:, None]
        for net, h in zip(self.nets, self._first_states(len(z), c), strict=True):
            h = h[None]
            x, _ = net(x, (h, torch.zeros_like(h)) if self.cell == "lstm" else h)
            x = self.dropout(x)
        return x

    def log_prob_each(self, z, c=None):
        z = z.flatten(1)
        return self.steps.log_prob_each(self._outputs, z, c, self.steps.T * self.hidden * 4)

    # ------------------------------------------------------------------------------------------------ step by step

    def start(self, n: int, c: torch.Tensor | None = None) -> _State:
        """Return the state before any dimension of n examples is known; it has `order`."""
        cells = [(net.weight_ih_l0.T, net.weight_hh_l0.T, net.bias_ih_l0, net.bias_hh_l0) for net in self.nets]
        into = cells[0][0]
        first = cells[0][2] if c is None else cells[0][2] + self.of_context(c) @ into
        h = self._first_states(n, c)
        return _State(
            self.order, cells, self.steps.W @ into, self.steps.place @ into, first, h, [torch.zeros_like(x) for x in h]
        )

    def _advance(self, state: _State, t: int) -> torch.Tensor:
        """Take the step before t into the state; return the outputs (n, H) of the last layer."""
        steps = self.steps
        gates = state.first
        if not steps.alike or t == 0:
            gates = gates + state.place[t]
        if t:
            gates = gates + steps.shown(t - 1, state.values, state.shown)
            state.values = []
        for i, (into, across, bias, own) in enumerate(state.cells):
            if i:
                gates = torch.addmm(bias, state.h[i - 1], into)
            back = torch.addmm(own, state.h[i], across)
            if self.cell == "gru":
                state.h[i] = _gru(gates, back, state.h[i])
            else:
                state.h[i], state.memory[i] = lstm_cell(gates + back, state.memory[i])
        return state.h[-1]


def _gru(gates: torch.Tensor, back: torch.Tensor, h: torch.Tensor) -> torch.Tensor:
    """The next state (n, H) from what input and state give the gates r, u, g (n, 3 H)."""
    r, u, g = gates.chunk(3, -1)
    r_back, u_back, g_back = back.chunk(3, -1)
    g = torch.addcmul(g, (r + r_back).sigmoid_(), g_back).tanh_()
    return torch.lerp(g, h, (u + u_back).sigmoid_())


@estimator
class RNN(Neural):
    """Recurrent net (GRU or LSTM): exact autoregressive density of text, series, images, tables and sound.

    References: Hochreiter and Schmidhuber, 1997; Cho et al., 2014, https://arxiv.org/abs/1406.1078

    Examples:
        >>> import plausible as pl
        >>> model = pl.RNN(hidden=16, epochs=40, learning_rate=0.02, random_state=0).fit(["ab", "abab", "ababab"] * 50)
        >>> round(model.score(["ab", "abab", "ababab"]), 1)  # one of three, else nothing to learn: -log 3
        -1.1
        >>> sorted(set(model.sample(50, random_state=0)))
        ['ab', 'abab', 'ababab']
    """

    cell: str = option("lstm", "what carries the state", choices=("lstm", "gru"))
    hidden: int = option(256, "hidden units of each layer", low=1)
    layers: int = option(1, "recurrent layers", low=1)
    within: int = option(
        128, "hidden units of the net that takes the channels of a step in order; 0: given the past, independent", low=0
    )
    components: int = option(10, "mixture components of real, count and many-levelled columns", low=1)
    reals: str = option("normal", "components of the mixtures of reals", choices=("normal", "laplace", "student_t"))
    dropout: float = option(0.0, "share of the outputs of each layer dropped while training", low=0, below=1)
    epochs: int = option(30, "passes over the training examples, at most", low=1)
    batch_size: int = option(64, "examples per step", low=1)
    learning_rate: float = option(2e-3, "of Adam, at the start", above=0)
    clip_norm: float | None = option(1.0, "largest norm of the gradient", above=0)
    patience: int | None = option(
        5, "looks at the held-out loss without improvement before stopping", low=1, choices=(None,)
    )

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
        return _RNN(
            space,
            self.space_.type,
            context_space.dims,
            self.cell,
            self.hidden,
            self.layers,
            self.within,
            self.components,
            self.dropout,
            self.reals,
        )
