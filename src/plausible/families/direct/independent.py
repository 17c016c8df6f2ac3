r"""The product of the columns: the baseline in every comparison.

    p(x) = prod_d p_d(x_d)

Each p_d is as good as a one-dimensional density gets: a table of smoothed frequencies for a column of levels, a
mixture of M normals (discretised for counts), fitted by EM, for the rest. Every normal has a share of a pseudo-row with
the variance of the column, so that it does not collapse onto a few rows. What a better model gains over this one, it
gained from the dependence between the columns.

Reference: Bishop, Pattern Recognition and Machine Learning, 2006, sections 2.2 and 9.2. Carreira-Perpinan,
Mode-finding for mixtures of Gaussian distributions, 2000.
"""

from __future__ import annotations

import math

import torch

from plausible.base import Generative, Module, Traits
from plausible.families.direct._columns import Columns, parts, quantiles
from plausible.options import estimator, option
from plausible.randomness import uniform
from plausible.space import Space
from plausible.training import Events, History, em, run
from plausible.transforms import MuLaw, Transform

ENOUGH_ROWS = 20_000
FADES = 10  # rows of a component that halve its pseudo-row; chosen on held-out rows of six small tables
MODE_STEPS = 200  # of the ascent to the modes of a mixture of normals
TOLERANCE = 1e-4  # nats a column by which an iteration must improve the fit for another to follow


class _Independent(Module):
    """Shapes: log_levels (n_levels,); log_weight, mean, deviation (G, M) for the G normal columns."""

    def __init__(self, space: Space, components: int):
        super().__init__()
        self.dims, self.components = space.dims, components
        self.columns = Columns(space)
        shape = (self.columns.n_normals, components)
        self.register_buffer("log_levels", torch.zeros(self.columns.n_levels, dtype=torch.float64))
        self.register_buffer("log_weights", torch.zeros(shape, dtype=torch.float64))
        self.register_buffer("mean", torch.zeros(shape, dtype=torch.float64))
        self.register_buffer("deviation", torch.ones(shape, dtype=torch.float64))
        self._sums: list[torch.Tensor] | None = None

    @property
    def n_parameters(self) -> int:
        levels = self.columns.n_levels - self.columns.n_tables
        return levels + self.columns.n_normals * (3 * self.components - 1)

    def look(self, z, weight=None):
        """Count the levels; note the values that EM runs on; put the components of each column on its quantiles."""
        w = torch.ones(len(z), dtype=torch.float64, device=z.device) if weight is None else weight.double()
        self._levels = sum(w[part] @ self.columns.one_hot(z[part].double()) for part in parts(len(z)))
        self._total = w.sum()
        if not self.columns.n_normals:
            return
        x, w = self._values, self._shares = self._distinct(z, w)
        self._scale = max(len(z) / ENOUGH_ROWS, 1.0) if len(x) == ENOUGH_ROWS else 1.0  # rows left out, in the loss
        # A value that many rows share (a zero, say) counts by the root of their number: it gets a component of its own,
        # and the other values get the others.
        rooted = _rooted(x, w)
        m = torch.arange(self.components + 1, dtype=x.dtype, device=x.device) / self.components
        self.mean.copy_(quantiles(x, rooted, m[:-1] + 0.5 / self.components))
        width = quantiles(x, rooted, m).diff(dim=1) / 2
        self.deviation.copy_(torch.maximum(width, self.columns.floor[:, None]))
        self.log_weights.fill_(-torch.tensor(float(self.components)).log())

    def _distinct(self, z: torch.Tensor, w: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Values (V, G) of the normal columns and the weight of each, zero where missing.

        Fine levels are counted: V is then their number, however many rows there are. Otherwise values are those of the
        rows, or of enough of them to settle a density of one dimension.
        """
        highest = float(self.columns.high.max())
        if not math.isinf(highest):
            values = torch.arange(highest + 1, dtype=torch.float64, device=z.device)
            counts = torch.zeros(len(values), self.columns.n_normals, dtype=torch.float64, device=z.device)
            for part in parts(len(z)):
                x = z[part][:, self.columns.normals].double()
                known = w[part, None] * ~x.isnan()
                counts.scatter_add_(0, torch.nan_to_num(x).long(), known)
            return values[:, None].expand_as(counts), counts
        if len(z) > ENOUGH_ROWS:
            rows = torch.randperm(len(z), generator=torch.Generator().manual_seed(0))[:ENOUGH_ROWS].to(z.device)
            z, w = z[rows], w[rows]
        x = z[:, self.columns.normals].double()
        return torch.nan_to_num(x), w[:, None] * ~x.isnan()

    def _log_joint(self, x: torch.Tensor, log_p) -> torch.Tensor:
        """(n, G) -> log w_m p_m(x) with shape (M, n, G), for a log_p(x, mean, deviation) of the columns."""
        terms = [
            log_p(x, self.mean[:, m], self.deviation[:, m]) + self.log_weights[:, m] for m in range(self.components)
        ]
        return torch.stack(terms)

    def summarise(self, z: torch.Tensor, weight: torch.Tensor | None) -> torch.Tensor:
        """The E-step over the values noted in `look`: sums of responsibilities r, r x and r x^2."""
        sums, loss = [torch.zeros_like(self.mean) for _ in range(3)], -(self._levels * self.log_levels).sum()
        for part in parts(len(self._values) if self.columns.n_normals else 0):
            x, w = self._values[part], self._shares[part]
            joint = self._log_joint(x, self.columns.log_spread)
            log_p = joint.logsumexp(0)
            r = (joint - log_p).exp() * w  # (M, V, G)
            loss = loss - (w * log_p).sum() * self._scale
            for total in sums:
                total += r.sum(1).T
                r = r * x
        self._sums = sums
        return loss / self._total

    def update(self) -> None:
        """The M-step."""
        zeroth, first, second = self._sums
        self.log_levels.copy_(self.columns.smoothed(self._levels))
        # One pseudo-row spread over the components keeps the weight of an idle one from vanishing.
        weight = (zeroth + 1 / self.components) / (zeroth.sum(1, keepdim=True) + 1)
        self.log_weights.copy_(weight.log())
        safe = zeroth.clamp_min(1e-10)
        mean = first / safe
        # What a pseudo-row widens a component by fades with its rows: a value that many share may have a spike.
        total = zeroth.sum(1, keepdim=True).clamp_min(1e-10)
        column = second.sum(1, keepdim=True) / total - (first.sum(1, keepdim=True) / total).square()
        a = 1 / (1 + zeroth / FADES)
        variance = ((second - first * mean).clamp_min(0) + a * column.clamp_min(0)) / (safe + a)
        held = zeroth > 1e-6
        self.mean.copy_(torch.where(held, mean, self.mean))
        self.deviation.copy_(torch.where(held, self.columns.deviation(variance.T).T, self.deviation))

    def log_prob(self, z, c=None, rng=None):
        z = z.reshape(len(z), -1).double()
        levels = self.columns.one_hot(z) @ self.log_levels
        x = z[:, self.columns.normals]
        normals = torch.where(x.isnan(), 0.0, self._log_joint(x, self.columns.log_normal).logsumexp(0))
        return levels + normals.sum(1)

    def sample(self, n, c=None, *, rng):
        z = torch.empty(n, self.dims, dtype=torch.float64, device=self.mean.device)
        u = uniform(rng, (n, self.dims), z)
        z[:, self.columns.tables] = self.columns.draw_tables(self.log_levels.expand(n, -1), u[:, self.columns.tables])
        v = u[:, self.columns.normals]
        below = self.log_weights.softmax(1).cumsum(1)[:, :-1]  # (G, M - 1)
        m = (v[:, :, None] >= below).sum(2)  # (n, G)
        g = torch.arange(m.shape[1], device=m.device)
        noise = torch.randn(m.shape, generator=rng, dtype=torch.float64, device=m.device)
        z[:, self.columns.normals] = self.columns.round_lattice(self.mean[g, m] + self.deviation[g, m] * noise)
        return z

    def sample_given(self, z, c=None, *, rng):
        """The columns know nothing of each other."""
        drawn = self.sample(len(z), rng=rng)
        return torch.where(z.isnan(), drawn.reshape(z.shape), z)

    def likely_given(self, z, c=None):
        return torch.where(z.isnan(), self._modes().reshape(1, *z.shape[1:]), z)

    def _modes(self) -> torch.Tensor:
        """The most likely value of each column (D,)."""
        columns, out = self.columns, torch.empty(self.dims, dtype=torch.float64, device=self.mean.device)
        for t, level in enumerate(self.log_levels.split(columns.levels)):
            out[columns.tables[t]] = level.argmax()
        if not columns.n_normals:
            return out
        # Modes lie between the means, and uphill of one: each step goes to the mean of the components at x.
        x = self.mean.T  # (M, G)
        for _ in range(MODE_STEPS):
            pull = self._log_joint(x, columns.log_spread).softmax(0) / self.deviation.T.square()[:, None, :]
            x = (pull * self.mean.T[:, None, :]).sum(0) / pull.sum(0)
        x = torch.cat([x, self.mean.T])
        if columns.any_lattice:  # the peak of a lattice lies on a neighbour, or at an end, where all beyond it is
            step = torch.where(columns.is_lattice, 2 * columns.half_step, 0.0)
            ends = torch.stack([torch.where(e.isinf(), x[0], e) for e in (columns.low, columns.high)])
            x = columns.round_lattice(torch.cat([x - step, x, x + step, ends]))
        best = self._log_joint(x, columns.log_normal).logsumexp(0).argmax(0)
        out[columns.normals] = x.gather(0, best[None])[0]
        return out


def _rooted(x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
    """Weights (n, G) under which each distinct value of a column weighs the root of what it weighs under w."""
    out = torch.empty_like(w)
    for g in range(x.shape[1]):
        _, which = torch.unique(x[:, g], return_inverse=True)
        total = torch.zeros(len(x), dtype=w.dtype, device=w.device).index_add_(0, which, w[:, g])
        out[:, g] = w[:, g] / total[which].clamp_min(1e-300).sqrt()
    return out


@estimator
class Independent(Generative):
    """Product of one-dimensional densities, one per column; exact, also with missing cells.

    References: Bishop, Pattern Recognition and Machine Learning, 2006, sections 2.2 and 9.2.

    Examples:
        >>> import numpy as np, plausible as pl
        >>> X = np.random.default_rng(0).normal(size=(1000, 2))
        >>> model = pl.Independent(random_state=0).fit(X)
        >>> round(model.score(X), 1)  # the entropy of two standard normals is 2.84 nats
        -2.8
    """

    components: int = option(5, "normals per real or count column", low=1)
    max_iter: int = option(50, "EM iterations, at most", low=1)

    traits = Traits(
        density="exact", events=frozenset({"table", "image", "text", "series", "audio"}), missing=True, given="exact"
    )

    def _transforms(self, space: Space) -> list[Transform]:
        return [MuLaw()] if space.type == "audio" else super()._transforms(space)

    def _build(self, space: Space, context_space: Space) -> Module:
        return _Independent(space, self.components)

    def _train(self, module: Module, train: Events, held_out: Events | None, rng: torch.Generator) -> History:
        module.look(train.take(torch.arange(len(train))).z.flatten(1), train.weight)
        flat = Events(train.x.flatten(1), None, train.weight, None, train.dtype)
        iterations = self.max_iter if module.columns.n_normals else 1
        tolerance = TOLERANCE * max(module.columns.n_normals, 1)
        return run(
            em(module), flat, epochs=iterations, batch_size=None, rng=rng, tolerance=tolerance, name="Independent"
        )
