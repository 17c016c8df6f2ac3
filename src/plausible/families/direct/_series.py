r"""Orthonormal bases, and densities on a grid: what the orthogonal series of ``basis.py`` is made of.

Bases phi_0, phi_1, ..., each orthonormal in L2 of its interval:

    cosine     1, sqrt(2) cos(pi j u)                                             on [0, 1]
    legendre   sqrt(2 j + 1) P_j(2 u - 1)                                         on [0, 1]
    haar       1, 2^(l/2) (+1 on the first half of [k, k+1) 2^-l, -1 on the second),  j = 2^l + k,  on [0, 1]
    hermite    H_j(z) exp(-z^2 / 2) / sqrt(2^j j! sqrt(pi))                       on the line
"""

from __future__ import annotations

import itertools
import math

import torch

BASES = ("cosine", "legendre", "hermite", "haar")


def features(basis: str, x: torch.Tensor, terms: int) -> torch.Tensor:
    """phi_j(x) for j < terms: points (n,) -> (n, terms)."""
    return {"cosine": _cosine, "legendre": _legendre, "hermite": _hermite, "haar": _haar}[basis](x, terms)


def _cosine(u, terms):
    j = torch.arange(terms, dtype=u.dtype, device=u.device)
    phi = torch.cos(math.pi * u[:, None] * j).mul_(math.sqrt(2))
    phi[:, 0] = 1
    return phi


def _legendre(u, terms):
    x, phi = 2 * u - 1, [torch.ones_like(u)]
    for j in range(terms - 1):
        last = phi[j - 1] if j else torch.zeros_like(u)
        phi.append(((2 * j + 1) * x * phi[j] - j * last) / (j + 1))
    norm = (2 * torch.arange(terms, dtype=u.dtype, device=u.device) + 1).sqrt()
    return torch.stack(phi, 1) * norm


def _hermite(z, terms):
    phi = [math.pi**-0.25 * torch.exp(-0.5 * z.square())]
    for j in range(terms - 1):
        last = phi[j - 1] if j else torch.zeros_like(z)
        phi.append(math.sqrt(2 / (j + 1)) * z * phi[j] - math.sqrt(j / (j + 1)) * last)
    return torch.stack(phi, 1)


def _haar(u, terms):
    phi = torch.zeros(len(u), terms, dtype=u.dtype, device=u.device)
    phi[:, 0] = 1
    for level in range(terms.bit_length() - 1):
        cell = (u * 2 ** (level + 1)).long().clamp(0, 2 ** (level + 1) - 1)  # the half of a support that u is in
        sign = 1 - 2 * (cell % 2).to(u)
        phi.scatter_(1, 2**level + (cell // 2)[:, None], (2 ** (level / 2) * sign)[:, None])
    return phi


def nodes(basis: str, count: int) -> torch.Tensor:
    """Nodes of a grid on [0, 1] (count + 1,); close together at the ends for Legendre, which turns quickly there."""
    k = torch.arange(count + 1, dtype=torch.float64) / count
    return (1 - torch.cos(math.pi * k)) / 2 if basis == "legendre" else k


def nearest_density(f: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
    """The density nearest to f in L2: max(f - c, 0) with the c for which its integral, the sum over w, is one.

    Where what is positive of f holds less than one, no c >= 0 is; it is scaled instead, which brings it no further from
    any density (Gajek, 1986; Glad, Hjort and Ushakov, 2003).
    """
    positive = f.clamp_min(0)
    total = (w * positive).sum()
    if total <= 1:
        return positive / total
    values, order = f.flatten().sort(descending=True)
    below = w.flatten()[order]
    mass, width = (below * values).cumsum(0), below.cumsum(0)
    c = (mass - 1) / width  # if exactly the largest k values stay above it
    kept = int((values > c).nonzero().max())
    positive = (f - c[kept]).clamp_min(0)
    return positive / (w * positive).sum()  # takes off rounding


class Grid:
    """A density on [0, 1]^D: constant in each cell, or linear between the nodes along every axis. Its sums are exact.

    Args:
        values: (m_1, ..., m_D), of the cells or at the nodes.
        nodes: of each axis: m_d + 1 ends of cells, or m_d nodes.
        constant: whether values are those of cells.
    """

    def __init__(self, values: torch.Tensor, nodes: list[torch.Tensor], constant: bool):
        self.values, self.nodes, self.constant = values, nodes, constant
        self.weights = [weights_of(x, constant) for x in nodes]

    def density(self, u: torch.Tensor, known: list[int], keep: int | None = None) -> torch.Tensor:
        """The marginal density at the known coordinates of u (n, D); zero outside of [0, 1].

        Returns:
            (n,); with `keep`, its profile along that axis as well: (n, m), or (1, m) where nothing is known.
        """
        values = self.values
        for d in reversed(range(self.values.dim())):
            if d not in known and d != keep:
                values = torch.tensordot(values, self.weights[d], ([d], [0]))
        left = sorted([*known, *([] if keep is None else [keep])])
        values = values.permute([left.index(d) for d in (*known, *([] if keep is None else [keep]))])
        shape = values.shape[: len(known)]
        table = values.reshape(math.prod(shape), -1)
        if not known:
            return table[:, 0].expand(len(u)) if keep is None else table
        inside = ((u[:, known] >= 0) & (u[:, known] <= 1)).all(1)
        places = [self._place(u[:, d], d) for d in known]
        out = torch.zeros(len(u), table.shape[1], dtype=table.dtype, device=table.device)
        for corner in itertools.product((0,) if self.constant else (0, 1), repeat=len(known)):
            index, weight = torch.zeros(len(u), dtype=torch.long, device=u.device), inside.to(table.dtype)
            for at, (cell, t), size in zip(corner, places, shape, strict=True):
                index = index * size + cell + at
                weight = weight if self.constant else weight * (t if at else 1 - t)
            out += weight[:, None] * table[index]
        return out[:, 0] if keep is None else out

    def _place(self, u: torch.Tensor, d: int) -> tuple[torch.Tensor, torch.Tensor]:
        """The cell of axis d that each u is in, and how far along."""
        x = self.nodes[d]
        cell = torch.searchsorted(x, u.contiguous(), right=True).sub_(1).clamp_(0, len(x) - 2)
        return cell, ((u - x[cell]) / (x[cell + 1] - x[cell])).clamp(0, 1)

    def draw(self, profile: torch.Tensor, d: int, v: torch.Tensor) -> torch.Tensor:
        """Invert the cumulative of profiles (n, m) or (1, m) along axis d at uniforms v (n,)."""
        x = self.nodes[d]
        width = x.diff()
        left, right = (profile, profile) if self.constant else (profile[:, :-1], profile[:, 1:])
        mass = (left + right) / 2 * width
        cell, rest = _invert(mass, v)

        def at(t):
            return t.expand(len(v), -1).gather(1, cell[:, None])[:, 0]

        return x[cell] + width[cell] * _along(at(left), at(right), rest / width[cell])

    def sample(self, v: torch.Tensor) -> torch.Tensor:
        """Draw from all of it with uniforms v (n, D + 1): a cell, then one coordinate after the other in it."""
        mass, corners = self.values, []
        for d, x in enumerate(self.nodes):
            both = mass if self.constant else (mass.narrow(d, 0, len(x) - 1) + mass.narrow(d, 1, len(x) - 1)) / 2
            mass = both * x.diff().reshape([-1 if e == d else 1 for e in range(len(self.nodes))])
        flat, _ = _invert(mass.reshape(1, -1), v[:, -1])
        cell = torch.unravel_index(flat, mass.shape)
        for at in itertools.product((0,) if self.constant else (0, 1), repeat=len(cell)):
            corners.append(self.values[tuple(c + a for c, a in zip(cell, at, strict=True))])
        sides = 1 if self.constant else 2
        f = torch.stack(corners, 1).reshape(len(v), *[sides] * len(cell))  # the density at the corners of the cell
        u = torch.empty(len(v), len(cell), dtype=v.dtype, device=v.device)
        for d, (c, x) in enumerate(zip(cell, self.nodes, strict=True)):
            edge = f.flatten(2).mean(2) if f.dim() > 2 else f  # along this axis, the later ones integrated out
            f0, f1 = edge[:, 0], edge[:, -1]
            t = _along(f0, f1, v[:, d] * (f0 + f1) / 2)
            u[:, d] = x[c] + t * x.diff()[c]
            t = t.reshape(-1, *[1] * (f.dim() - 2))
            f = f[:, 0] * (1 - t) + f[:, -1] * t
        return u


def _invert(mass: torch.Tensor, v: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The cell in which the cumulative of masses (n, m) or (1, m) reaches the share v (n,), and what it lacks there."""
    below = mass.cumsum(1)
    aim = v[:, None] * below[:, -1:]
    cell = torch.searchsorted(below, aim if len(below) > 1 else aim.T.contiguous(), right=True)
    cell = cell[:, 0] if len(below) > 1 else cell[0]
    # The last cell with mass, where rounding takes the aim beyond it.
    last = (mass > 0).long().mul_(torch.arange(mass.shape[1], device=v.device)).amax(1)
    cell = torch.minimum(cell, last.expand(len(v)))
    row = torch.arange(len(v), device=v.device) if len(below) > 1 else torch.zeros_like(cell)
    return cell, (aim[:, 0] - below[row, cell] + mass[row, cell]).clamp_min(0)


def _along(f0: torch.Tensor, f1: torch.Tensor, mass: torch.Tensor) -> torch.Tensor:
    """The s in [0, 1] with f0 s + (f1 - f0) s^2 / 2 = mass, without a difference of near numbers."""
    root = (f0.square() + 2 * (f1 - f0) * mass).clamp_min(0).sqrt()
    return torch.where(mass > 0, 2 * mass / (f0 + root).clamp_min(1e-300), torch.zeros_like(mass)).clamp(0, 1)


def weights_of(x: torch.Tensor, constant: bool) -> torch.Tensor:
    """What each value counts in the integral over an axis: the width of its cell, or of the trapezoids at its node."""
    width = x.diff()
    if constant:
        return width
    half = torch.zeros_like(x)
    half[:-1] += width / 2
    half[1:] += width / 2
    return half
