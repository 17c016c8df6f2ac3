r"""The product of the columns: the baseline in every comparison.

    p(x) = prod_d p_d(x_d)

Each p_d is as good as a one-dimensional density gets: a table of smoothed frequencies for a column of levels, a
mixture of M normals (discretised for counts), fitted by EM, for the rest. What a better model gains over this one, it
gained from the dependence between the columns.

Reference: Bishop, Pattern Recognition and Machine Learning, 2006, sections 2.2 and 9.2.

"""

from __future__ import annotations

import torch

from plausible.base import Generative, Module, Traits
from plausible.families.direct._columns import Columns
from plausible.options import estimator, option
from plausible.randomness import uniform
from plausible.space import Space
from plausible.training import Events, History, em, run


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
        """Put the components of each normal column on its quantiles."""
        if not self.columns.n_normals:
            return
        shares = (torch.arange(self.components, dtype=z.dtype, device=z.device) + 0.5) / self.components
        x = z[:, self.columns.normals]
        w = torch.ones(len(z), dtype=z.dtype, device=z.device) if weight is None else weight
        w = w[:, None] * ~x.isnan()
        self.mean.copy_(_quantiles(x, w, shares))
        off = torch.nan_to_num(x - (w * torch.nan_to_num(x)).sum(0) / w.sum(0))
        spread = ((w * off.square()).sum(0) / w.sum(0)).sqrt() / self.components
        self.deviation.copy_(torch.maximum(spread, self.columns.floor)[:, None].expand_as(self.deviation))
        self.log_weights.fill_(-torch.tensor(float(self.components)).log())

    def _log_joint(self, x: torch.Tensor) -> torch.Tensor:
        """(n, G) -> log w_m p_m(x) with shape (M, n, G)."""
        terms = [
            self.columns.log_normal(x, self.mean[:, m], self.deviation[:, m]) + self.log_weights[:, m]
            for m in range(self.components)
        ]
        return torch.stack(terms)

    def summarise(self, z: torch.Tensor, weight: torch.Tensor | None) -> torch.Tensor:
        """The E-step: collect sums over rows of responsibilities r, r x and r x^2, and counts of levels."""
        w = torch.ones(len(z), dtype=torch.float64, device=z.device) if weight is None else weight
        z = z.double()
        sums = [torch.zeros_like(self.log_levels), *(torch.zeros_like(self.mean) for _ in range(3))]
        log_p = torch.zeros(len(z), dtype=torch.float64, device=z.device)
        rows = max(1, 400_000 // (self.components * max(self.columns.n_normals, 1)))
        for start in range(0, len(z), rows):
            part = slice(start, start + rows)
            sums[0] += w[part] @ self.columns.one_hot(z[part])
            log_p[part] += self._summarise_normals(z[part][:, self.columns.normals], w[part], sums)
        self._sums = sums
        return -(w * log_p).sum() / w.sum()

    def _summarise_normals(self, x, w, sums):
        joint = self._log_joint(x)
        total = joint.logsumexp(0)
        known = ~x.isnan()
        r = (joint - total).exp() * (w[:, None] * known)  # (M, n, G)
        x = torch.nan_to_num(x)
        for k, power in enumerate((torch.ones_like(x), x, x * x)):
            sums[k + 1] += torch.einsum("mng,ng->gm", r, power)
        return torch.where(known, total, 0.0).sum(1)

    def update(self) -> None:
        """The M-step."""
        levels, zeroth, first, second = self._sums
        self.log_levels.copy_(self.columns.smoothed(levels))
        # One pseudo-row spread over the components keeps the weight of an idle one from vanishing.
        weight = (zeroth + 1 / self.components) / (zeroth.sum(1, keepdim=True) + 1)
        self.log_weights.copy_(weight.log())
        safe = zeroth.clamp_min(1e-10)
        mean = first / safe
        variance = (second / safe - mean.square()).clamp_min(0)
        held = zeroth > 1e-6
        self.mean.copy_(torch.where(held, mean, self.mean))
        self.deviation.copy_(torch.where(held, self.columns.deviation(variance.T).T, self.deviation))

    def log_prob(self, z, c=None, rng=None):
        z = z.reshape(len(z), -1).double()
        levels = self.columns.one_hot(z) @ self.log_levels
        x = z[:, self.columns.normals]
        normals = torch.where(x.isnan(), 0.0, self._log_joint(x).logsumexp(0))
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


def _quantiles(x: torch.Tensor, w: torch.Tensor, shares: torch.Tensor) -> torch.Tensor:
    """Weighted quantiles of each column: values and weights (n, G), shares (M,) -> (G, M)."""
    order = x.argsort(0)  # missing values, of weight zero, come last
    below = w.gather(0, order).cumsum(0)
    place = torch.searchsorted((below / below[-1]).T.contiguous(), shares.expand(x.shape[1], -1).contiguous())
    return x.gather(0, order).T.gather(1, place.clamp_max(len(x) - 1))


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
    max_iter: int = option(100, "EM iterations, at most", low=1)

    traits = Traits(density="exact", events=frozenset({"table", "image", "text", "series"}), missing=True)

    def _build(self, space: Space, context_space: Space) -> Module:
        return _Independent(space, self.components)

    def _train(self, module: Module, train: Events, held_out: Events | None, rng: torch.Generator) -> History:
        module.look(train.take(torch.arange(len(train))).z.flatten(1), train.weight)
        flat = Events(train.x.flatten(1), None, train.weight, None, train.dtype)
        iterations = self.max_iter if module.columns.n_normals else 1
        return run(
            em(module), flat, epochs=iterations, batch_size=None, rng=rng, tolerance=1e-5, name=type(self).__name__
        )
