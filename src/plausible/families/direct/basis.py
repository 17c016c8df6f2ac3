r"""The orthogonal series density estimator, by counting means of basis functions.

    f(x) = sum_j theta_j phi_j(x),     theta_j = mean over rows i of phi_j(x_i),     j = (j_1, ..., j_D), j_d < M_d

with phi_j the product of one-dimensional orthonormal functions (``_series.py``): cosines, Legendre polynomials or Haar
wavelets on the interval that the data span, Hermite functions on the line. How many terms M_d each column gets is
chosen by the unbiased (leave-one-out) estimate of the risk, the integral of (f - p)^2 up to a constant, over all
(M_1, ..., M_D) at once:

    R(M) = sum over j < M of  2 / (n - 1) mean_i phi_j(x_i)^2 - (n + 1) / (n - 1) theta_j^2

and what is chosen is shrunk by the share of it that is noise, theta_j (1 - v_j / theta_j^2)_+ with v_j the variance of
theta_j. Or each term for itself is kept, as it is, where theta_j^2 > 2 v_j log K (K candidates; wavelet thresholding).

f may be negative. g is the density nearest to it in L2, max(f - c, 0) with the c that makes its integral one. It is
tabulated on a fine grid and linear between the nodes (constant in the cells of Haar, which is f itself), so that its
integral, marginals and cumulatives are exact sums. At last

    p(x) = (n g(x) + a q(x)) / (n + a)

where q, a product of logistic laws with the mean and the deviation of each column, stands for a pseudo-rows and keeps p
above zero everywhere, also outside of the interval. Rows of a stream that lie outside of the interval, which is that of
a sample, are no rows of g and count as further pseudo-rows.

References: Cencov, Evaluation of an unknown distribution density from observations, 1962. Efromovich, Nonparametric
Curve Estimation, 1999, chapter 3. Rudemo, 1982 (the risk). Donoho, Johnstone, Kerkyacharian and Picard, Density
estimation by wavelet thresholding, 1996. Gajek, On improving density estimators which are not bona fide functions,
1986 (the projection).
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import torch

from plausible.base import Generative, Module, Traits
from plausible.errors import DataError
from plausible.families.direct._columns import patterns
from plausible.families.direct._series import BASES, Grid, features, nearest_density, nodes, weights_of
from plausible.options import OptionError, estimator, option
from plausible.randomness import uniform
from plausible.space import Space
from plausible.training import Events, History

MOST_DIMS = 3
MOST_TERMS = {1: 128, 2: 32, 3: 16}  # to choose from in each of D columns; a power of two, for Haar
CELLS = {1: 4096, 2: 512, 3: 96}  # of the grid, along each of D axes
LOGISTIC = math.sqrt(3) / math.pi  # scale of the logistic law of variance one
ROWS = 2048  # whose features are held at once


class _Series(Module):
    """Legend: D columns, theta (M_1, ..., M_D); low and high (D,) end the box, a and n as above."""

    variable_buffers = ("theta",)

    def __init__(self, space: Space, basis: str, terms: int | str, select: str, shrink: bool, pseudo_rows: float):
        super().__init__()
        self.dims, self.basis, self.select, self.shrink = space.dims, basis, select, shrink
        self.pseudo_rows = pseudo_rows
        self.chosen = terms == "risk"
        self.most = MOST_TERMS[space.dims] if self.chosen else int(terms)
        self.bounded = all(c.low is not None and c.high is not None for c in space.columns)
        self.names = [c.name for c in space.columns]
        low, high = zip(*[(c.low, c.high) if self.bounded else (-1.0, 1.0) for c in space.columns], strict=True)
        self.register_buffer("low", torch.tensor(low, dtype=torch.float64))
        self.register_buffer("high", torch.tensor(high, dtype=torch.float64))
        self.register_buffer("theta", torch.ones((1,) * space.dims, dtype=torch.float64))
        self.register_buffer("rows", torch.zeros(2, dtype=torch.float64))  # inside the box, and outside
        self._sums: list[torch.Tensor] | None = None
        self._grid: Grid | None = None
        self.register_load_state_dict_post_hook(_forget)

    @property
    def n_parameters(self) -> int:
        return max(int((self.theta != 0).sum()) - 1, 0)  # one is spent on the integral

    # ------------------------------------------------------------------------------------------------------- fit

    def look(self, z, weight=None):
        """Put the box around the rows, unless it is known."""
        if self.basis != "hermite" and not self.bounded:
            z = z.flatten(1) if weight is None else z.flatten(1)[weight > 0]
            self.low.copy_(z.amin(0))
            self.high.copy_(z.amax(0))
            flat = self.high <= self.low
            self.low[flat] -= 0.5
            self.high[flat] += 0.5

    def summarise(self, z: torch.Tensor, weight: torch.Tensor | None) -> torch.Tensor:
        """Add up all candidate terms and their squares; in two halves it is the same as at once."""
        z = z.flatten(1)
        w = torch.ones(len(z), dtype=torch.float64, device=z.device) if weight is None else weight.double()
        inside = torch.ones_like(w, dtype=torch.bool) if self.basis == "hermite" else self._inside(z)
        if self.bounded and not inside[w > 0].all():
            beyond = ((z < self.low) | (z > self.high)) & (w > 0)[:, None]
            name = self.names[int(beyond.any(0).nonzero()[0])]
            raise DataError(f"column {name!r} holds values outside of the support; make that wider, or drop such rows")
        if self._sums is None:
            shape = (self.most,) * self.dims
            self._sums = [torch.zeros(2, dtype=z.dtype, device=z.device), z.new_zeros(shape), z.new_zeros(shape)]
        rows, first, second = self._sums
        rows += torch.stack([w[inside].sum(), w[~inside].sum()])
        z, w = z[inside], w[inside]
        for start in range(0, len(z), ROWS):
            phi = self._features(z[start : start + ROWS], [self.most] * self.dims)
            first += _outer_sum(phi, w[start : start + ROWS])
            second += _outer_sum([p.square() for p in phi], w[start : start + ROWS])
        return torch.zeros((), dtype=torch.float64)

    def update(self) -> None:
        """Choose the terms."""
        rows, first, second = self._sums
        self._sums = self._grid = None
        n = rows[0].clamp_min(2.0)
        theta, square = first / rows[0].clamp_min(1e-300), second / rows[0].clamp_min(1e-300)
        noise = (square - theta.square()).clamp_min(0) / (n - 1)
        held, zero = [self.most] * self.dims, (0,) * self.dims
        if self.chosen and self.select == "threshold":
            keep = theta.square() > 2 * math.log(theta.numel()) * noise
            keep[zero] = True
            theta = torch.where(keep, theta, 0.0)
            held = (keep.nonzero().amax(0) + 1).tolist()
        elif self.chosen:
            held = self._least(2 / (n - 1) * square - (n + 1) / (n - 1) * theta.square(), float(n))
            if self.shrink:
                whole = theta[zero].clone()
                theta = theta * (1 - noise / theta.square().clamp_min(1e-300)).clamp_min(0)
                theta[zero] = whole
        if self.basis == "haar":
            held = [1 << (m - 1).bit_length() for m in held]  # whole levels
        self.theta = theta[tuple(slice(m) for m in held)].clone()
        self.rows.copy_(rows)

    def _least(self, risk: torch.Tensor, n: float) -> list[int]:
        """The (M_1, ..., M_D) of least risk, with no more terms than rows."""
        sizes = torch.ones((), dtype=risk.dtype, device=risk.device)
        for d in range(self.dims):
            risk = risk.cumsum(d)
            m = torch.arange(1, self.most + 1, dtype=risk.dtype, device=risk.device)
            if self.basis == "haar":  # whole levels only
                m = torch.where(m.log2().frac() == 0, m, torch.inf)
            sizes = sizes[..., None] * m
        risk = risk.masked_fill(sizes > max(n, 1.0), torch.inf)
        return [int(i) + 1 for i in torch.unravel_index(risk.argmin(), risk.shape)]

    # ------------------------------------------------------------------------------------------------ the series

    @property
    def box(self) -> tuple[torch.Tensor, torch.Tensor]:
        """The ends (D,) of the grid; for Hermite functions, where all of them have vanished."""
        if self.basis != "hermite":
            return self.low, self.high
        reach = math.sqrt(2 * max(self.theta.shape) + 1) + 5
        return torch.full_like(self.low, -reach), torch.full_like(self.low, reach)

    def _inside(self, z: torch.Tensor) -> torch.Tensor:
        low, high = self.box
        return ((z >= low) & (z <= high)).all(1)

    def _features(self, z: torch.Tensor, terms: list[int]) -> list[torch.Tensor]:
        """phi of each column: D tensors (n, M_d)."""
        x = z if self.basis == "hermite" else (z - self.low) / (self.high - self.low)
        return [features(self.basis, x[:, d], m) for d, m in enumerate(terms)]

    def series(self, z: torch.Tensor) -> torch.Tensor:
        """f(z), the series before it is made a density: (n, D) -> (n,). It may be negative."""
        phi = self._features(z, list(self.theta.shape))
        f = self.theta.expand(len(z), *self.theta.shape)
        for p in phi:
            f = torch.einsum("nm...,nm->n...", f, p)
        return torch.where(self._inside(z), f / self._jacobian(), 0.0)

    def _jacobian(self) -> torch.Tensor:
        """The volume of z that theta takes for one."""
        return torch.ones_like(self.low[0]) if self.basis == "hermite" else (self.high - self.low).prod()

    @property
    def grid(self) -> Grid:
        """g on [0, 1]^D, made from theta when it is first asked for."""
        if self._grid is None:
            constant = self.basis == "haar"
            sizes = self.theta.shape if constant else [CELLS[self.dims]] * self.dims
            ends = [nodes(self.basis, m).to(self.theta.device) for m in sizes]
            at = [(x[1:] + x[:-1]) / 2 for x in ends] if constant else ends
            low, high = self.box
            f, w = self.theta, torch.ones_like(self.theta[(0,) * self.dims])
            for d, x in enumerate(at):
                x = low[d] + x * (high[d] - low[d]) if self.basis == "hermite" else x
                f = torch.tensordot(f, features(self.basis, x, self.theta.shape[d]), ([0], [1]))
                w = w[..., None] * weights_of(ends[d], constant)
            volume = (high - low).prod() if self.basis == "hermite" else 1.0
            self._grid = Grid(nearest_density(f * volume, w), ends, constant)
        return self._grid

    # --------------------------------------------------------------------------------------------------- answers

    def log_prob(self, z, c=None, rng=None):
        z = z.reshape(len(z), -1).double()
        out = torch.zeros(len(z), dtype=torch.float64, device=z.device)
        for mask, rows in patterns(z):
            known = mask.nonzero()[:, 0].tolist()
            if known:
                g, q = self._parts(z[rows], known)
                a = self.pseudo_rows + self.rows[1]
                out[rows] = torch.logaddexp(self.rows[0].log() + g.log(), a.log() + q) - (self.rows[0] + a).log()
        return out

    def _parts(self, z: torch.Tensor, known: list[int]) -> tuple[torch.Tensor, torch.Tensor]:
        """g and log q of the known columns: (n,) each."""
        low, high = self.box
        width = (high - low)[known]
        g = self.grid.density((z - low) / (high - low), known) / width.prod()
        if self.bounded:
            inside = ((z >= low) & (z <= high))[:, known].all(1)
            return g, torch.where(inside, -width.log().sum(), -torch.inf)
        y = z[:, known] / LOGISTIC
        log_q = (-y.abs() - 2 * torch.log1p(torch.exp(-y.abs())) - math.log(LOGISTIC)).sum(1)
        return g, log_q

    def sample(self, n, c=None, *, rng):
        u = uniform(rng, (n, 2 * self.dims + 2), self.low)
        a, (low, high) = self.pseudo_rows + self.rows[1], self.box
        from_g = u[:, -1:] < self.rows[0] / (self.rows[0] + a)
        x = torch.where(from_g, self.grid.sample(u[:, : self.dims + 1]), self._draw_q(u[:, self.dims + 1 : -1]))
        return low + x * (high - low)

    def _draw_q(self, u: torch.Tensor) -> torch.Tensor:
        """Draws (n, D) from q, in units of the box, by inversion."""
        if self.bounded:
            return u
        low, high = self.box
        return (torch.logit(u, 1e-300) * LOGISTIC - low) / (high - low)

    def sample_given(self, z, c=None, *, rng):
        """Fill the NaN of z: choose between g and q by what is known, then invert one cumulative after the other."""
        z = z.reshape(len(z), -1).clone()
        u = uniform(rng, (len(z), self.dims + 1), z)
        low, high = self.box
        for mask, rows in patterns(z):
            known = mask.nonzero()[:, 0].tolist()
            for start in range(0, len(rows), ROWS):
                part = rows[start : start + ROWS]
                z[part] = self._complete(z[part], known, u[part], low, high)
        return z

    def _complete(self, z, known: list[int], u, low, high):
        a = self.pseudo_rows + self.rows[1]
        share = self.rows[0] / (self.rows[0] + a)
        if known:
            g, log_q = self._parts(z, known)
            share = self.rows[0] * g / (self.rows[0] * g + a * log_q.exp())
        from_g = u[:, -1] < share
        x, have, q = (z - low) / (high - low), list(known), self._draw_q(u[:, :-1])
        for d in range(self.dims):
            if d in known:
                continue
            x[:, d] = self.grid.draw(self.grid.density(x, have, d), d, u[:, d])
            z[:, d] = low[d] + torch.where(from_g, x[:, d], q[:, d]) * (high[d] - low[d])
            have.append(d)
        return z


def _forget(module: _Series, _: Any) -> None:
    module._grid = None


def _outer_sum(phi: list[torch.Tensor], w: torch.Tensor) -> torch.Tensor:
    """Sum over rows of w phi_1 x ... x phi_D: D tensors (n, M) -> (M, ..., M)."""
    first, rest = phi[0] * w[:, None], torch.ones_like(w)[:, None]
    for p in phi[1:]:
        rest = (rest[:, :, None] * p[:, None, :]).flatten(1)
    return (first.T @ rest).reshape([p.shape[1] for p in phi])


@estimator
class Basis(Generative):
    """Orthogonal series in up to three real columns, its terms chosen by unbiased risk; exact, above zero everywhere.

    A row outside of the range of the training data has the small density of the pseudo-rows, which fall off
    exponentially. With `support`, the interval is that, and beyond it the density is zero (log_prob minus infinity).

    References: Cencov, 1962; Efromovich, Nonparametric Curve Estimation, 1999, chapter 3.

    Examples:
        >>> import numpy as np, plausible as pl
        >>> u = np.random.default_rng(0).random((5000, 1))
        >>> X = np.arccos(1 - 2 * u) / np.pi  # p(x) = pi / 2 sin(pi x)
        >>> model = pl.Basis(support=(0, 1)).fit(X)
        >>> np.exp(model.log_prob([[0.25], [0.5]])).round(1).tolist()
        [1.1, 1.6]
    """

    basis: str = option("cosine", "functions that the series is made of", choices=BASES)
    terms: int | str = option("risk", "terms of each column, or 'risk' to choose them", low=1, choices=("risk",))
    select: str = option(
        "cutoff",
        "how 'risk' chooses: the first M terms of each column, or every term above its noise",
        choices=("cutoff", "threshold"),
    )
    shrink: bool = option(True, "take off each term that 'cutoff' chose the share of it that is noise")
    support: tuple[float, float] | None = option(
        None, "interval that holds all values of every column; None takes the range of the data, and adds tails"
    )
    pseudo_rows: float = option(1.0, "pseudo-rows a, spread over the whole line (over the support, if given)", low=0)

    traits = Traits(
        density="exact",
        events=frozenset({"table"}),
        kinds=frozenset({"real"}),
        marginals=True,
        given="exact",
        streams=True,
    )

    @classmethod
    def can_model(cls, space: Space) -> str | None:
        if space.dims > MOST_DIMS and space.kinds <= cls.traits.kinds and space.type in cls.traits.events:
            return (
                f"{cls.__name__} is a tensor product and models up to {MOST_DIMS} columns, got {space.dims}: the "
                "number of its terms is a power of theirs; choose some columns, or a mixture of normals for all"
            )
        return super().can_model(space)

    def _look_at(self, X: Any, space: Space) -> None:
        if self.basis == "haar" and self.terms != "risk" and self.terms & (self.terms - 1):
            raise OptionError(f"Basis(terms={self.terms}): a Haar basis has whole levels: 1, 2, 4, 8, ... terms")
        if self.support is not None:
            space = self._supported(space)
        super()._look_at(X, space)

    def _supported(self, space: Space) -> Space:
        """Note the support in the columns, whose bounds the transforms carry along."""
        if self.basis == "hermite":
            raise OptionError("Basis(basis='hermite') lives on the whole line; leave out the support, or take 'cosine'")
        if len(self.support) != 2 or not -math.inf < self.support[0] < self.support[1] < math.inf:
            raise OptionError(f"Basis(support={self.support!r}): expected two numbers, the lower one first")
        low, high = map(float, self.support)
        return replace(space, columns=tuple(replace(c, low=low, high=high) for c in space.columns))

    def _build(self, space: Space, context_space: Space) -> Module:
        return _Series(space, self.basis, self.terms, self.select, self.shrink, self.pseudo_rows)

    def _train(self, module: Module, train: Events, held_out: Events | None, rng: torch.Generator) -> History:
        module.look(train.x, getattr(train, "weight", None))  # of a stream, a sample
        return super()._train(module, train, held_out, rng)
