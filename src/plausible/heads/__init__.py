r"""Heads: p(x_d | parameters), one dimension at a time.

A network puts out numbers; a head says what distribution over a column they are the parameters of. A family is then a
network times a head: the same heads end an autoregressive net and are the observation model of a VAE.

    kind                                  head                                     parameters
    binary                                Bernoulli by logit                       1
    categorical, ordinal to 32 levels     categorical by logits                    K
    ordinal beyond, count                 mixture of M discretised logistics       3 M
    sound                                 the same, on a fine and a coarse lattice 3 M + 1
    real                                  mixture of M normals or Laplaces         3 M
                                          mixture of M Student's t                 4 M

Every head draws by inversion from two uniforms per dimension that the caller gives, so that a fast and a slow sampler
that share their uniforms draw the same values. (``torch.distributions`` would read the global generator.)

References: Bishop, Mixture density networks, 1994. Salimans et al., PixelCNN++, 2017, https://arxiv.org/abs/1701.05517
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import nn

from plausible.heads.laws import (
    N_UNIFORMS,
    SMALLEST_SCALE,
    Bernoulli,
    Categorical,
    DiscretisedLogistics,
    Head,
    Mixture,
    MixtureOfLaplaces,
    MixtureOfNormals,
    MixtureOfStudents,
)
from plausible.heads.sound import Samples
from plausible.space import MAX_SPAN, Column, Space

__all__ = [
    "N_UNIFORMS",
    "SMALLEST_SCALE",
    "Bernoulli",
    "Categorical",
    "DiscretisedLogistics",
    "Head",
    "Heads",
    "Mixture",
    "MixtureOfLaplaces",
    "MixtureOfNormals",
    "MixtureOfStudents",
    "Samples",
    "head_of",
]

OF_REALS = {"normal": MixtureOfNormals, "laplace": MixtureOfLaplaces, "student_t": MixtureOfStudents}


def head_of(column: Column, components: int, reals: str = "normal") -> tuple:
    """What tells which columns share a head: its class and sizes."""
    if column.kind == "binary":
        return (Bernoulli,)
    if column.levels and (column.kind == "categorical" or column.n_levels <= MAX_SPAN):
        return (Categorical, column.n_levels)
    if column.kind == "real":
        return (OF_REALS[reals], components)
    if column.coarse is not None:
        return (Samples, components)
    return (DiscretisedLogistics, components)


class Heads(nn.Module):
    """The heads of all columns of a space, side by side.

    Parameters and features are laid out head by head. ``owner`` (one entry per parameter) and ``source`` (one per
    feature) say which dimension each belongs to: what a masked net needs to know.

    Args:
        space: the model's space; columns with the same kind share one head.
        components: mixture components M of real, count and many-levelled columns.
        reals: what the mixtures of reals are of: 'normal', 'laplace' or 'student_t'.
    """

    def __init__(self, space: Space, components: int = 10, reals: str = "normal"):
        super().__init__()
        groups: dict[tuple, list[int]] = {}
        for d, column in enumerate(space.columns):
            groups.setdefault(head_of(column, components, reals), []).append(d)
        self.dims, self.columns, self.components, self.reals = space.dims, space.columns, components, reals
        self._singles: dict[Column, Heads] = {}
        self._places: dict[int, tuple[Heads, slice, slice]] = {}
        self.heads = nn.ModuleList()
        owner, source = [], []
        for g, (key, members) in enumerate(groups.items()):
            columns = [space.columns[d] for d in members]
            mixture = issubclass(key[0], Mixture)
            head = key[0](columns, components) if mixture else key[0](columns)
            self.heads.append(head)
            self.register_buffer(f"members_{g}", torch.tensor(members), persistent=False)
            owner += [d for d in members for _ in range(head.size)]
            source += [d for d in members for _ in range(head.n_features)]
        self.register_buffer("owner", torch.tensor(owner), persistent=False)
        self.register_buffer("source", torch.tensor(source), persistent=False)
        self.size, self.n_features = len(owner), len(source)

    def _groups(self):
        start = 0
        for g, head in enumerate(self.heads):
            stop = start + head.d * head.size
            yield head, getattr(self, f"members_{g}"), slice(start, stop)
            start = stop

    def _columns(self, x: torch.Tensor, members: torch.Tensor) -> torch.Tensor:
        return x if len(members) == self.dims else x[:, members]

    def features(self, x: torch.Tensor) -> torch.Tensor:
        """(n, D) codes -> (n, n_features)."""
        parts = [head.features(self._columns(x, members)).flatten(1) for head, members, _ in self._groups()]
        return parts[0] if len(parts) == 1 else torch.cat(parts, 1)

    def log_prob(self, params: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        """(n, size), (n, D) -> (n, D); zero for a missing cell, which says nothing."""
        missing = x.isnan()
        x = torch.nan_to_num(x)
        out = None
        for head, members, part in self._groups():
            terms = head.log_prob(params[:, part].unflatten(1, (head.d, head.size)), self._columns(x, members))
            if len(self.heads) == 1:
                out = terms
            else:
                out = torch.empty_like(x, dtype=terms.dtype) if out is None else out
                out = out.index_copy(1, members, terms)
        return torch.where(missing, torch.zeros_like(out), out)

    def sample(self, params: torch.Tensor, u: torch.Tensor) -> torch.Tensor:
        """(n, size), uniforms (n, D, 2) -> codes (n, D)."""
        if len(self.heads) == 1:  # as of a single dimension: a sampler asks for each in turn
            head = self.heads[0]
            return head.sample(params.unflatten(1, (head.d, head.size)), u).to(params.dtype)
        x = torch.empty(len(params), self.dims, dtype=params.dtype, device=params.device)
        for head, members, part in self._groups():
            x[:, members] = head.sample(params[:, part].unflatten(1, (head.d, head.size)), u[:, members])
        return x

    def initial(self) -> torch.Tensor:
        """Parameters (size,) to start a net's output bias from."""
        return torch.cat([head.initial().flatten() for head in self.heads])

    def marginal(self, x: torch.Tensor) -> torch.Tensor:
        """Parameters (size,) under which levels have the frequencies they have in x (n, D)."""
        return torch.cat([head.marginal(self._columns(x, members)).flatten() for head, members, _ in self._groups()])

    def single(self, d: int) -> tuple[Heads, slice, slice]:
        """Return a head for dimension d alone, and where its parameters and its features lie among those of all."""
        if d in self._places:
            return self._places[d]
        start = first = 0
        for head, members, _ in self._groups():
            place = (members == d).nonzero()
            if len(place):
                p, f = start + int(place) * head.size, first + int(place) * head.n_features
                column = replace(self.columns[d], name="")
                if column not in self._singles:
                    one = Heads(Space((column,), (1,)), self.components, self.reals).to(members.device)
                    self._singles[column] = one
                self._places[d] = self._singles[column], slice(p, p + head.size), slice(f, f + head.n_features)
                return self._places[d]
            start, first = start + head.d * head.size, first + head.d * head.n_features
        raise IndexError(f"dimension {d} of {self.dims}")
