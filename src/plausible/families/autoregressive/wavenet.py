r"""WaveNet: dilated causal convolutions, whose sight doubles with every layer.

    p(x) = prod_t p(x_t | x_{t-R}, .., x_{t-1}),    R = (sum of all dilations) + 1 steps are seen

Layer l with dilation d_l = 1, 2, 4, ..., again and again, takes a step and the one d_l before it,

    g_t = tanh(A h_t + A' h_{t-d} + C c) * s(B h_t + B' h_{t-d} + E c),    h_t <- h_t + U g_t,    skip_t += V g_t

and what the layers skip to goes through two rectified layers to the parameters of p(x_t | ...).

Samples of sound, integers of 16 bits, are either put into 256 mu-law cells with a flat density inside (a categorical
head; `transforms.mu_law`), or are modelled as they are by mixtures of discretised logistics. Both are exact densities
of the integers, so that bits per sample compare with those of a lossless coder.

Where steps are single numbers, sound as logistics or a series of one channel, the net is beside direct connections
(`_direct`): what it says is of (x_t - m_t) / s_t, with m_t a linear prediction from the last steps and s_t the size of
its last errors. Without them the net has long to learn what any coder of sound does by these.

One sample is drawn at the cost of one column of the net: each layer keeps a queue of what it computed for the last d_l
steps. All steps at once are one matrix product per layer; nothing here is a convolution of a library.

Expected (benchmarks/fsdd.py --heads logistic --channels 16 --minutes 0.8): 8.15 bits a sample on the test recordings of
spoken digits, where FLAC at its highest setting needs 8.49; 15,000 parameters, a minute on one busy core. On a twelfth
of them, after a few seconds on a tenth of the training recordings: 8.45, and 10.49 with direct=0.

References: van den Oord et al., WaveNet, 2016, https://arxiv.org/abs/1609.03499. Paine et al., Fast WaveNet generation
algorithm, 2016, https://arxiv.org/abs/1611.09482. Salimans et al., PixelCNN++, 2017 (the logistics).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from plausible.base import Module, Traits
from plausible.families.autoregressive._direct import Before
from plausible.families.autoregressive._sequence import Sequential, Steps, sequence_transforms
from plausible.neural import Neural
from plausible.nn import Dropout
from plausible.options import estimator, option
from plausible.space import Space
from plausible.transforms import Transform


@dataclass
class _State:
    """What each layer computed for its last steps."""

    order: list[int]
    layers: list[tuple]  # weights (H, 4 H), bias with the context, weights (H, H + S), bias; prepared once
    queues: list[torch.Tensor]  # of each layer (d, n, 2 H): what steps t - d .. t - 1 add to those d later
    values: list[torch.Tensor] = field(default_factory=list)  # of the present step
    inner: Any = None  # state inside the step
    before: Before | None = None  # of the direct connections
    k: int = 0  # dimensions given so far


class _WaveNet(Sequential):
    """Legend: n examples, T steps, D dimensions, H channels, S channels of the skips, P parameters of a step."""

    def __init__(
        self,
        space,
        event,
        n_context,
        channels,
        skips,
        layers,
        stacks,
        within,
        components,
        dropout,
        reals="normal",
        direct=0,
    ):
        super().__init__()
        self.dims, self.channels, self.skips = space.dims, channels, skips
        self.steps = Steps(space, event, channels, skips, within, components, dropout, reals, direct)
        self.heads = self.steps.heads
        self.dilations = [2**i for i in range(layers)] * stacks
        self.gates = nn.ModuleList(nn.Linear(channels, 4 * channels, bias=False) for _ in self.dilations)
        self.biases = nn.Parameter(torch.zeros(len(self.dilations), 2 * channels))
        # The last layer has nothing to hand on but its skip.
        ways = [channels] * (len(self.dilations) - 1) + [0]
        self.ways = nn.ModuleList(nn.Linear(channels, way + skips) for way in ways)
        self.of_context = nn.ModuleList(
            nn.Linear(n_context, 2 * channels, bias=False) for _ in self.dilations if n_context
        )
        self.last = nn.Linear(skips, skips)
        self.dropout = Dropout(dropout)

    @property
    def receptive_field(self) -> int:
        """R: how many steps before it a step depends on."""
        return sum(self.dilations) + 1

    @property
    def multiply_adds(self) -> int:
        """Of one example: every weight is used at every step."""
        return self.steps.T * sum(m.weight.numel() for m in self.own_modules() if isinstance(m, nn.Linear))

    # ------------------------------------------------------------------------------------------------- all at once

    def _outputs(self, z: torch.Tensor, c: torch.Tensor | None) -> torch.Tensor:
        """Return what the net says of each step before it is seen: (n, D) -> (n, T, S)."""
        h = self.steps.before(z)  # (n, T, H)
        skip = 0.0
        for i, (d, gate, way) in enumerate(zip(self.dilations, self.gates, self.ways, strict=True)):
            now, later = gate(h).chunk(2, -1)  # what a step adds to itself, and to the one d after it
            sums = now + (self.biases[i] if c is None else self.biases[i] + self.of_context[i](c)[:, None])
            if d < h.shape[1]:
                sums = sums + F.pad(later[:, :-d], (0, 0, d, 0))
            u, v = sums.chunk(2, -1)
            out = way(self.dropout(u.tanh() * v.sigmoid()))
            skip = skip + out[..., -self.skips :]
            if out.shape[-1] > self.skips:
                h = h + out[..., : -self.skips]
        return self.last(skip.relu()).relu()

    def log_prob_each(self, z, c=None):
        z = z.flatten(1)
        return self.steps.log_prob_each(self._outputs, z, c, self.steps.T * self.channels * 4)

    # ------------------------------------------------------------------------------------------------ step by step

    def start(self, n: int, c: torch.Tensor | None = None) -> _State:
        """Return the state before any dimension of n examples is known; it has `order`."""
        layers = []
        for i, (gate, way) in enumerate(zip(self.gates, self.ways, strict=True)):
            bias = self.biases[i] if c is None else self.biases[i] + self.of_context[i](c)
            layers.append((gate.weight.T.contiguous(), bias, way.weight.T.contiguous(), way.bias))
        queues = [self.biases.new_zeros(d, n, 2 * self.channels) for d in self.dilations]
        return _State(self.order, layers, queues)

    def _advance(self, state: _State, t: int) -> torch.Tensor:
        """Show the net the step before t; return its outputs (n, S) for step t."""
        steps = self.steps
        h = steps.place[0 if steps.alike else t].expand(state.queues[0].shape[1], -1)
        if t:
            shown = steps.shown(t - 1, state.values, steps.W)
            h = shown if steps.alike else h + shown
        if steps.direct is not None:
            state.before = steps.foreseen(state.before, state.values, len(h))
            h = h + state.before.shown @ steps.W_direct
        state.values = []
        skip = 0.0
        for i, (gate, bias, way, way_bias) in enumerate(state.layers):
            both = h @ gate
            queue, place = state.queues[i], t % self.dilations[i]
            sums = both[:, : 2 * self.channels] + bias + queue[place]
            queue[place] = both[:, 2 * self.channels :]
            u, v = sums.chunk(2, -1)
            out = torch.addmm(way_bias, u.tanh() * v.sigmoid(), way)
            skip = skip + out[:, -self.skips :]
            if i + 1 < len(state.layers):
                h = h + out[:, : -self.skips]
        return self.last(skip.relu()).relu()


@estimator
class WaveNet(Neural):
    """Dilated causal convolutions: exact autoregressive density of sound, text, series and images.

    References: van den Oord et al., 2016, https://arxiv.org/abs/1609.03499

    Examples:
        >>> import numpy as np, plausible as pl
        >>> t = np.arange(4000)
        >>> tone = (3000 * np.sin(t / 5) + np.random.default_rng(0).normal(0, 30, 4000)).astype(np.int16)
        >>> clips = pl.space.Clips(np.split(tone, 20), rate=8000)
        >>> settings = {"channels": 16, "skips": 16, "layers": 4, "stacks": 1, "epochs": 20, "learning_rate": 0.01}
        >>> model = pl.WaveNet(head="logistic", random_state=0, **settings).fit(clips)
        >>> bits = -model.log_prob(clips).sum() / 4000 / np.log(2)
        >>> bool(bits < 10)  # the logarithm of the 65,536 values is 16
        True
        >>> model.sample(2, random_state=0).rate
        8000
    """

    channels: int = option(32, "channels of every layer", low=1)
    skips: int = option(64, "channels that every layer adds to", low=1)
    layers: int = option(9, "layers of a stack, with dilations 1, 2, 4, ...", low=1)
    stacks: int = option(2, "stacks, one after the other", low=1)
    head: str = option("mu_law", "law of a sample of sound: 256 cells, or mixtures", choices=("mu_law", "logistic"))
    within: int = option(
        128, "hidden units of the net that takes the channels of a step in order; 0: given the past, independent", low=0
    )
    components: int = option(10, "mixture components of real, count and many-levelled columns", low=1)
    reals: str = option("normal", "components of the mixtures of reals", choices=("normal", "laplace", "student_t"))
    direct: int = option(
        32, "steps from which a linear prediction of the next number is made, where the net starts; 0 for none", low=0
    )
    dropout: float = option(0.0, "share of the outputs of each layer dropped while training", low=0, below=1)
    epochs: int = option(30, "passes over the training examples, at most", low=1)
    batch_size: int = option(16, "examples per step", low=1)
    learning_rate: float = option(2e-3, "of Adam, at the start", above=0)
    clip_norm: float | None = option(1.0, "largest norm of the gradient", above=0)
    patience: int | None = option(
        5, "looks at the held-out loss without improvement before stopping", low=1, choices=(None,)
    )

    traits = Traits(
        density="exact",
        events=frozenset({"audio", "image", "text", "series"}),
        context=True,
        conditionals=True,
        prefixes=True,
        streams=True,
        given="in_order",
    )

    def _transforms(self, space: Space) -> list[Transform]:
        return sequence_transforms(space, mu_law=self.head == "mu_law")

    def _build(self, space: Space, context_space: Space) -> Module:
        return _WaveNet(
            space,
            self.space_.type,
            context_space.dims,
            self.channels,
            self.skips,
            self.layers,
            self.stacks,
            self.within,
            self.components,
            self.dropout,
            self.reals,
            self.direct,
        )
