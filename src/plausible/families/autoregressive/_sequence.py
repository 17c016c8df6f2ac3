r"""Examples as sequences: T steps of C dimensions, what a net is shown of each step, and what it says of the next.

    text        T characters            C = 1
    audio       T samples               C = 1
    series      T steps                 C channels
    image       H W pixels, row by row  C colours
    table       D columns               C = 1

Steps of text, audio and series are alike: one set of weights serves them all, and nothing but what went before tells
one from another. Pixels are alike but for a vector learned for each place. Columns of a table are not: each has weights
of its own. Where a step has several dimensions, they are taken one after the other by a masked net (MADE) that is
given what the net made of the steps before,

    p(x_t | x_<t) = prod_c p(x_tc | h_t, x_t,<c).

References: Germain et al., MADE, 2015, https://arxiv.org/abs/1502.03509. Boulanger-Lewandowski, Bengio and Vincent,
Modeling temporal dependencies in high-dimensional sequences, 2012, https://arxiv.org/abs/1206.6392 (such a model in
every step).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from plausible.families._stepwise import Stepwise
from plausible.families.autoregressive._direct import SHOWN, Before, Direct
from plausible.families.autoregressive._shared_hidden import of_dimension
from plausible.families.autoregressive.made import _MADE
from plausible.heads import SMALLEST_SCALE, Categorical, Heads, Mixture
from plausible.space import Column, Space
from plausible.transforms import MuLaw, Standardise, Transform

AT_ONCE = 8_000_000  # numbers of one kind that are held in memory when nothing is learned
ALIKE = ("text", "audio", "series")  # events whose steps are all of one kind


def sequence_transforms(space: Space, mu_law: bool = True) -> list[Transform]:
    """Return the transforms of a family of sequences: sound in mu-law cells, unless samples are taken as numbers."""
    if space.type == "audio" and mu_law:
        return [MuLaw()]
    # Where sequences end at different places, few values may be left to tell the scale of the last steps.
    return [Standardise(shared=space.ragged and space.type in ("audio", "series"))]


class Steps(nn.Module):
    """The steps of the examples of a space.

    Legend: n examples, D = T C dimensions, F features and P parameters of a step (of all steps, for a table), E inputs
    and H outputs of the net.

    Args:
        space: the model's space.
        event: the type of the user's space.
        width: E, what the net takes in for each step.
        hidden: H, what it puts out for each step.
        within: hidden units of the net inside a step, where C > 1; 0 for dimensions that are independent given h_t.
        components: mixture components of the heads.
        dropout: share of the hidden units inside a step dropped while training.
        reals: what the mixtures of reals are of.
        direct: steps before that the next is foreseen from, where steps are alike and of one number; see `_direct`.
    """

    def __init__(
        self,
        space: Space,
        event: str,
        width: int,
        hidden: int,
        within: int,
        components: int,
        dropout: float = 0.0,
        reals: str = "normal",
        direct: int = 0,
    ):
        super().__init__()
        self.T, self.C = _shape(space, event)
        self.alike, self.own = event in ALIKE, event == "table"
        self.dims = space.dims
        self.order = list(range(self.dims))
        self.natural = event != "image" or self.C == 1
        if not self.natural:  # (C, H, W) has the colours of a pixel far apart
            self.order = [c * self.T + t for t in range(self.T) for c in range(self.C)]
        self.heads = Heads(space, components, reals)
        columns = tuple(space.columns[d] for d in self.order[: self.C])
        self.head = self.heads if self.own else Heads(Space(columns, (self.C,)), components, reals)  # of one step
        self.codes = not self.own and self.C == 1 and isinstance(self.head.heads[0], Categorical)
        n_features = self.head.n_features
        self.W = nn.Parameter(torch.randn(n_features, width) * (1.0 if self.codes else max(n_features, 4) ** -0.5))
        self.place = nn.Parameter(0.1 * torch.randn(1 if self.alike else self.T, width))  # what stands for the start
        self.inner = None
        if self.C > 1 and within:
            inside = Space(columns, (self.C,))
            self.inner = _MADE(inside, hidden, (within,), components, 1, True, "relu", dropout, reals)
        else:
            self.V = nn.Parameter(torch.empty(self.head.size, hidden).uniform_(-0.1, 0.1) / hidden**0.5)
            self.b = nn.Parameter(self.head.initial())
        self.direct, lags = None, min(direct, self.T - 1)
        if lags and self.alike and self.C == 1 and isinstance(self.head.heads[0], Mixture):
            self.direct = Direct(lags, _least_scale(columns[0]))
            self.W_direct = nn.Parameter(torch.randn(SHOWN, width) * SHOWN**-0.5)
        with torch.device("cpu"):  # places follow from the space, also where the weights have no memory yet
            places = self._own_places() if self.own else self._places() if self.C > 1 else {}
        for name, place in places.items():
            self.register_buffer(name, place.to(self.W.device), persistent=False)

    def _own_places(self) -> dict[str, torch.Tensor]:
        """Where features and parameters of each column lie among all, and the way back."""
        heads = self._on_cpu(self.heads)
        params_at = of_dimension(heads.owner, self.dims)
        own = (params_at.flatten() < heads.size).nonzero()[:, 0]
        back = torch.empty(heads.size, dtype=torch.long)
        back[params_at.flatten()[own]] = own
        return {"features_at": of_dimension(heads.source, self.dims), "params_at": params_at, "back": back}

    def _places(self) -> dict[str, torch.Tensor]:
        """The dimensions step by step; where in the parameters of the steps, one after the other, those of all lie."""
        whole, step = self._on_cpu(self.heads), self._on_cpu(self.head)
        at = torch.tensor(self.order)
        theirs = at.argsort()[whole.owner].argsort(stable=True)
        ours = (torch.arange(self.T)[:, None] * step.size + step.owner.argsort(stable=True)).flatten()
        back = torch.empty_like(theirs)
        back[theirs] = ours
        return {"at": at, "back": back}

    @staticmethod
    def _on_cpu(heads: Heads) -> Heads:
        """The like of `heads` that has memory, inside `torch.device("cpu")`."""
        return Heads(Space(heads.columns, (heads.dims,)), heads.components, heads.reals)

    def look(self, z: torch.Tensor, weight: torch.Tensor | None = None) -> None:
        """Start from the frequencies of the dimensions: z (n, D), weight (n,)."""
        if self.direct is not None:
            self.direct.look(self._numbers(z), weight)
        if self.inner is not None:
            self.inner.look(self.in_order(z).reshape(-1, self.C))
            return
        with torch.no_grad():
            self.b.copy_(self.head.marginal(z if self.own else self.in_order(z).reshape(-1, self.C)))

    def in_order(self, z: torch.Tensor) -> torch.Tensor:
        """(n, D) with the dimensions of each step side by side."""
        return z if self.natural else z[:, self.at]

    def _steps_of(self, z: torch.Tensor) -> int:
        """The number of steps of examples (n, D), which may be none."""
        return z.shape[1] // self.C

    # ------------------------------------------------------------------------------------------------- all at once

    def embed(self, z: torch.Tensor) -> torch.Tensor:
        """Return what a net is shown of each step: (n, D) -> (n, T, E); zero for one that is missing."""
        if self.own:
            x = F.pad(self.heads.features(z), (0, 1))[:, self.features_at]  # (n, D, F_d)
            return torch.einsum("ndf,dfe->nde", x, F.pad(self.W, (0, 0, 0, 1))[self.features_at])
        if self.codes:
            return F.embedding(torch.nan_to_num(z).long(), self.W) * (~z.isnan())[..., None]
        e = self.head.features(self.in_order(z).reshape(-1, self.C)) @ self.W
        return e.unflatten(0, (len(z), self._steps_of(z)))

    def before(self, z: torch.Tensor) -> torch.Tensor:
        """Return what a net is shown when asked for each step, the one before it: (n, D) -> (n, T, E)."""
        e = self.embed(z)
        if self.alike:
            e = torch.cat([self.place.expand(len(z), 1, -1).to(e.dtype), e[:, :-1]], 1)
            return e if self.direct is None else e + self.direct.foresee(self._numbers(z))[2].to(e) @ self.W_direct
        return F.pad(e[:, :-1], (0, 0, 1, 0)) + self.place

    def read(self, h: torch.Tensor, z: torch.Tensor) -> torch.Tensor:
        """Return the parameters of all conditionals from the net's outputs: (n, T, H), (n, D) -> (n, P)."""
        if not self.own:
            params = self._of_steps(z, self.in_order(z).reshape(-1, self.C), h)
            params = params.unflatten(0, (len(z), self._steps_of(z))).flatten(1)
            return params if self.C == 1 else params[:, self.back]
        V, b = F.pad(self.V, (0, 0, 0, 1))[self.params_at], F.pad(self.b, (0, 1))[self.params_at]
        return (torch.einsum("ndh,dph->ndp", h, V) + b).flatten(1)[:, self.back]

    def _of_steps(self, z: torch.Tensor, inside: torch.Tensor, h: torch.Tensor) -> torch.Tensor:
        """The parameters (n T, P) of all steps of z (n, D), their values (n T, C), from the net's outputs (n, T, H)."""
        h = h.flatten(0, 1)
        params = F.linear(h, self.V, self.b) if self.inner is None else self.inner.conditionals(inside, h)
        if self.direct is None:
            return params
        mean, scale, _ = self.direct.foresee(self._numbers(z))
        return self._moved(params, mean.flatten(), scale.flatten())

    def _numbers(self, z: torch.Tensor) -> torch.Tensor:
        """What is foreseen, in the units of the head: (n, T) -> (n, T)."""
        return self.head.heads[0].standard(z).to(self.W)

    def _moved(self, params: torch.Tensor, mean: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
        """The laws (m, P) of (x - mean) / scale, both (m,), as laws of x."""
        params = params.to(mean.dtype)  # out of half precision, in which the sum would be
        return self.head.heads[0].moved(params[:, None], mean[:, None], scale.log()[:, None])[:, 0]

    def observed(self, z: torch.Tensor) -> torch.Tensor:
        """Leave out the last steps (of those that are alike) where all of the examples (n, D) have ended."""
        if not self.alike:
            return z
        ended = z.isnan().all(0).view(-1, self.C).all(1)
        return z[:, : max(self.T - int(ended.flip(0).long().cumprod(0).sum()), 1) * self.C]

    def log_prob(self, h: torch.Tensor, z: torch.Tensor) -> torch.Tensor:
        """Return log p(z_d | z_<d) from the net's outputs (n, T, H): (n, D); zero where z is missing."""
        if self.own:
            return self.heads.log_prob(self.read(h, z), z)
        inside = self.in_order(z).reshape(-1, self.C)
        terms = self.head.log_prob(self._of_steps(z, inside, h), inside).reshape(z.shape)
        return terms if self.natural else terms[:, self.at.argsort()]

    def log_prob_each(self, outputs: Callable, z: torch.Tensor, c: torch.Tensor | None, memory: int) -> torch.Tensor:
        """Return log p(z_d | z_<d), (n, D), where `outputs(z, c)` is the net: (n, D) -> (n, T, H).

        `memory` is how many numbers the net holds for an example; unless gradients are asked for, examples go through
        it in parts.
        """
        seen = self.observed(z)
        if torch.is_grad_enabled():
            found = self.log_prob(outputs(seen, c), seen)
        else:
            rows = max(1, AT_ONCE // max(memory, self.heads.size))
            parts = [slice(i, i + rows) for i in range(0, max(len(z), 1), rows)]
            found = [self.log_prob(outputs(seen[p], None if c is None else c[p]), seen[p]) for p in parts]
            found = torch.cat(found)
        return F.pad(found, (0, z.shape[1] - seen.shape[1]))

    # ------------------------------------------------------------------------------------------------ step by step

    def shown(self, t: int, values: list[torch.Tensor], weight: torch.Tensor) -> torch.Tensor:
        """Return features times weight (F, G) of step t, whose C values (n,) are given: (n, G)."""
        if self.own:
            head, _, columns = self.heads.single(t)
            return head.features(values[0][:, None]).to(weight) @ weight[columns]
        if self.codes:
            known = ~values[0].isnan()
            return weight[torch.nan_to_num(values[0]).long()] * known[:, None]
        return self.head.features(torch.stack(values, 1)).to(weight) @ weight

    def foreseen(self, before: Before | None, values: list[torch.Tensor], n: int) -> Before:
        """Take the C values (n,) of the step that was foreseen, or none before the first; foresee the next one."""
        if before is None:
            return self.direct.start(n)
        return self.direct.step(before, self._numbers(values[0][:, None])[:, 0])

    def start_step(self, h: torch.Tensor):
        """Return the state inside a step whose net's outputs are h (n, H)."""
        return F.linear(h, self.V, self.b) if self.inner is None else self.inner.start(len(h), h)

    def inside(self, state, c: int, value: torch.Tensor | None) -> torch.Tensor:
        """Take the value (n,) of the dimension before c in a step; return the parameters of dimension c."""
        return state[:, self.head.single(c)[1]] if self.inner is None else self.inner.step(state, value)

    def draw(self, module: Any, state: Any, u: torch.Tensor, known: torch.Tensor | None) -> torch.Tensor:
        """Draw steps of one dimension by inversion with one head: uniforms (n, D, 2) -> z (n, D)."""
        head, uniforms = self.head.heads[0], u[:, :, None].unbind(1)  # of each (n, 1, 2)
        z, value = [], None
        for d in range(self.dims):
            value = head.sample(module.step(state, value)[:, None], uniforms[d])[:, 0]
            if known is not None:
                value = torch.where(known[:, d].isnan(), value, known[:, d].to(value))
            z.append(value)
        return torch.stack(z, 1)

    def params(self, t: int, h: torch.Tensor, before: Before | None = None) -> torch.Tensor:
        """Return the parameters of step t of one dimension from the net's outputs (n, H): (n, P_t)."""
        if not self.own:
            params = F.linear(h, self.V, self.b)
            return params if before is None else self._moved(params, before.mean, before.scale)
        rows = self.heads.single(t)[1]
        return F.linear(h, self.V[rows], self.b[rows])


def embedding_width(space: Space, event: str, hidden: int) -> int:
    """E: as many as a step has features, if these are many, but no more than there are hidden units."""
    n_features = space.shape[1] if event == "series" else 1
    return min(hidden, max(64, n_features))


def _shape(space: Space, event: str) -> tuple[int, int]:
    """T and C."""
    if event == "series":
        return space.shape[0], space.shape[1]
    if event == "image":
        return space.shape[1] * space.shape[2], space.shape[0]
    return space.dims, 1


def _least_scale(column: Column) -> float:
    """Half the distance of neighbouring codes, in the units of the head."""
    return SMALLEST_SCALE if column.kind == "real" else column.step / max(column.n_levels - 1, 2)


class Sequential(Stepwise):
    """A net over the steps of a sequence: it writes `_outputs`, all at once, `start` and `_advance`, step by step."""

    steps: Steps

    @property
    def order(self) -> list[int]:
        return self.steps.order

    @property
    def endless(self) -> bool:
        """Whether `step` may be called for more steps than there are dimensions."""
        return self.steps.alike

    def look(self, z, weight=None):
        """Start from the product of the dimensions, or of those of a step."""
        self.steps.look(z.flatten(1), weight)

    def _outputs(self, z: torch.Tensor, c: torch.Tensor | None) -> torch.Tensor:
        """Return what the net says of every step from those before it, (n, T, H)."""
        raise TypeError(f"{type(self).__name__} does not define _outputs")

    def _advance(self, state: Any, t: int) -> torch.Tensor:
        """Show the net the step before t; return what it says (n, H) of step t."""
        raise TypeError(f"{type(self).__name__} does not define _advance")

    def conditionals(self, z: torch.Tensor, c: torch.Tensor | None = None) -> torch.Tensor:
        """Return the parameters (n, P) of all conditionals, in one pass over z (n, \\*event)."""
        z = z.flatten(1)
        return self.steps.read(self._outputs(z, c), z)

    def step(self, state: Any, value: torch.Tensor | None = None) -> torch.Tensor:
        """Take the value (n,) of the dimension last asked for; return the parameters (n, size_d) of the next one."""
        steps = self.steps
        if value is not None:
            state.values.append(value)
            state.k += 1
        t, c = divmod(state.k, steps.C)
        if c == 0:
            h = self._advance(state, t)
            if steps.C == 1:
                return steps.params(t, h, state.before)
            state.inner, value = steps.start_step(h), None
        return steps.inside(state.inner, c, value)

    def from_uniforms(self, u, c=None, known=None):
        """Draw by inversion: uniforms (n, D, 2) -> z (n, D); one head draws all steps that are alike."""
        steps = self.steps
        if steps.own or steps.C > 1:
            return super().from_uniforms(u, c, known)
        return steps.draw(self, self.start(len(u), c), u, known)
