r"""Embedding: columns of any kind as points of a real vector space, and back.

    kind                  e(x)                                    coordinates
    binary                -1 or 1                                 1
    categorical           e_1 .. e_K, the unit vectors            K
    ordinal               evenly spaced on [-1, 1]                1
    count, real           the value itself (standardised before)  1

Families that work on real vectors only (diffusion, adversarial nets) see e(x) and stay faithful to what x is: a column
of levels comes back as the level nearest to a vector, a count as the nearest lattice point. No noise is added.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import torch
from torch import nn

from plausible.space import Column, Space


class Levels(nn.Module):
    """d columns with K levels each, level k at the point e_k: codes (n, d) <-> vectors (n, d, w)."""

    def __init__(self, columns: Sequence[Column]):
        super().__init__()
        self.d, self.k = len(columns), columns[0].n_levels
        one_hot = columns[0].kind == "categorical" and self.k > 2
        points = torch.eye(self.k) if one_hot else torch.linspace(-1, 1, max(self.k, 2))[: self.k, None]
        self.width = points.shape[1]
        self.spacing = math.sqrt(2) if one_hot else 2 / max(self.k - 1, 1)  # between neighbouring levels
        self.register_buffer("points", points, persistent=False)  # (K, w)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.points[x.long()]

    def closeness(self, e: torch.Tensor) -> torch.Tensor:
        """Return e . e_k - |e_k|^2 / 2 with shape (n, d, K): largest for the nearest level."""
        half = self.points.square().sum(1) / 2
        return e * self.points[:, 0] - half if self.width == 1 else e @ self.points.T - half

    def nearest(self, e: torch.Tensor) -> torch.Tensor:
        return self.closeness(e).argmax(-1).to(e)


class Numbers(nn.Module):
    """d counts or reals, each its own coordinate: values (n, d) <-> vectors (n, d, 1)."""

    width = 1

    def __init__(self, columns: Sequence[Column]):
        super().__init__()
        self.d, self.lattice = len(columns), columns[0].kind == "count"
        self.smallest_step = min((c.step for c in columns), default=1.0)
        for name, values in (
            ("step", [c.step for c in columns]),
            ("low", [-math.inf if c.low is None else c.low for c in columns]),
        ):
            self.register_buffer(name, torch.tensor(values, dtype=torch.float64), persistent=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x[..., None]

    def nearest(self, e: torch.Tensor) -> torch.Tensor:
        x = e[..., 0]
        if not self.lattice:
            return x
        # Where no lowest value is known the lattice has no origin here; the space rounds when it decodes.
        floating = self.low.isinf()
        low = torch.where(floating, torch.zeros_like(self.low), self.low)
        rounded = low + ((x.double() - low) / self.step).round().clamp_min(0) * self.step
        return torch.where(floating, x.double(), rounded).to(x)


class Embedding(nn.Module):
    """e(x) of whole examples: codes (n, D) <-> vectors (n, E), columns of one kind side by side.

    Args:
        space: the model's space, with reals and counts standardised.
    """

    def __init__(self, space: Space):
        super().__init__()
        grouped: dict[tuple, list[int]] = {}
        for d, column in enumerate(space.columns):
            key = (column.kind == "categorical", column.n_levels) if column.levels else (column.kind,)
            grouped.setdefault(key, []).append(d)
        self.dims = space.dims
        self.groups = nn.ModuleList()
        for g, members in enumerate(grouped.values()):
            columns = [space.columns[d] for d in members]
            self.groups.append(Levels(columns) if columns[0].levels else Numbers(columns))
            self.register_buffer(f"members_{g}", torch.tensor(members), persistent=False)
        self.size = sum(group.d * group.width for group in self.groups)

    def split(self, x: torch.Tensor) -> list[torch.Tensor]:
        """Codes (n, D) -> the codes (n, d) of each group."""
        if len(self.groups) == 1:
            return [x]
        return [x[:, getattr(self, f"members_{g}")] for g in range(len(self.groups))]

    def join(self, parts: Sequence[torch.Tensor]) -> torch.Tensor:
        """Undo `split`."""
        if len(parts) == 1:
            return parts[0]
        x = torch.empty(len(parts[0]), self.dims, dtype=parts[0].dtype, device=parts[0].device)
        for g, part in enumerate(parts):
            x[:, getattr(self, f"members_{g}")] = part
        return x

    def parts(self, e: torch.Tensor, sizes: Sequence[int] | None = None) -> Iterator[torch.Tensor]:
        """(n, E) -> (n, d, w) of each group; with `sizes`, numbers per column other than w."""
        start = 0
        for group, size in zip(self.groups, sizes or [group.width for group in self.groups], strict=True):
            yield e[:, start : start + group.d * size].unflatten(1, (group.d, size))
            start += group.d * size

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Codes (n, D) -> vectors (n, E)."""
        parts = [g(c).flatten(1) for g, c in zip(self.groups, self.split(x), strict=True)]
        return parts[0] if len(parts) == 1 else torch.cat([p.to(x) for p in parts], 1)

    def nearest(self, e: torch.Tensor) -> torch.Tensor:
        """Vectors (n, E) -> codes (n, D) of the nearest levels and lattice points; reals as they are."""
        return self.join([g.nearest(p) for g, p in zip(self.groups, self.parts(e), strict=True)])
