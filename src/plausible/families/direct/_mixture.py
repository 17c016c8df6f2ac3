"""The mathematics of `Mixture`, in model space; its formulas stand in ``mixture.py``, its reals in ``_reals.py``."""

from __future__ import annotations

import math
import warnings
from typing import Any, NamedTuple

import numpy as np
import torch

from plausible.base import Module
from plausible.families.direct import _normal
from plausible.families.direct._columns import LOG_SQRT_2PI, Columns, mean_of, parts, variance_of
from plausible.families.direct._reals import (
    POOLED_ABOVE,
    Dense,
    Diagonal,
    Factors,
    degrees_of,
    diagonal_distance,
    robust_variance,
)
from plausible.randomness import uniform
from plausible.space import Space

IN_CACHE = 400_000  # numbers that a core's cache holds: so many rows are handled at a time, with what is made of them
PATTERNS = 4_000_000  # numbers in the covariances of all patterns of missing cells of the rows handled at a time
MANY = 64  # components that start from random rows and not from k-means++
START_DEGREES = 10.0


class Natural(NamedTuple):
    """What the E-step needs of the parameters: log w_k p_k = theta f + constant, and what is not linear apart."""

    theta: torch.Tensor  # (K, F)
    constant: torch.Tensor  # (K, 1)
    law: tuple | None  # of the reals, where they are no part of theta


class Kept(NamedTuple):
    """What the M-step needs of the E-step, of complete rows."""

    features: torch.Tensor  # (F, n)
    distance: torch.Tensor | None  # (K, n)
    white: torch.Tensor | None  # of factors


class MixtureModule(Module):
    """Legend: K components, L levels of all tables, G lattices, R real columns."""

    def __init__(self, space: Space, components: int | None, covariance: str, rank: int, degrees: Any, prior: float):
        super().__init__()
        self.dims, self.prior, self.degrees_given = space.dims, prior, degrees
        self.columns = columns = Columns(space, reals_apart=True)
        r = columns.n_reals
        shared = covariance in ("tied", "spherical")
        self.law = (
            Factors(r, rank)
            if covariance == "factors"
            else (Diagonal if covariance in ("diagonal", "spherical") else Dense)(r, shared)
        )
        self.student = degrees is not None and r > 0
        self.linear = not self.student and (not r or covariance != "factors")
        self.register_buffer("tried", torch.zeros(0, dtype=torch.int64))
        self.register_buffer("scores", torch.zeros(0, dtype=torch.float64))
        self.allocate(components or 1)
        self.variable_buffers = ("tried", "scores") if components else tuple(self.state_dict())
        # Of complete rows, the first level of a table is what the others leave.
        free = [(t, j) for t, k in enumerate(columns.levels) for j in range(1, k)]
        starts = [sum(columns.levels[:t]) for t in range(columns.n_tables)]

        def buffer(name, values):
            self.register_buffer(name, torch.tensor(values, dtype=torch.long), persistent=False)

        buffer("first", starts)
        buffer("free", [starts[t] + j for t, j in free])
        buffer("table_of_free", [t for t, _ in free])
        buffer("level_of_free", [j for _, j in free])
        self.register_buffer("column_of_free", columns.tables[self.table_of_free], persistent=False)
        self.sizes = [len(free), columns.n_normals, columns.n_normals, self.law.n_features if r else 0]
        self._sums: list[torch.Tensor] | None = None
        self._complete = False

    def allocate(self, components: int) -> None:
        """Make room for so many components."""
        c, device = self.columns, self.tried.device
        shapes = {"log_weights": (), "log_levels": (c.n_levels,), "mean": (c.n_normals,), "variance": (c.n_normals,)}
        if self.student:
            shapes["degrees"] = ()
        for name, shape in shapes.items():
            self.register_buffer(name, torch.zeros((components, *shape), dtype=torch.float64, device=device))
        self.law.allocate(components, device)

    @property
    def components(self) -> int:
        return len(self.log_weights)

    @property
    def n_parameters(self) -> int:
        c = self.columns
        own = 1 + c.n_levels - c.n_tables + 2 * c.n_normals + (self.student and self.degrees_given == "fit")
        return self.components * own - 1 + (self.law.n_parameters if c.n_reals else 0)

    # ----------------------------------------------------------------------------------------------------- start

    def look(self, z: torch.Tensor, weight: torch.Tensor | None = None, all_seen: bool = True) -> None:
        """Note the statistics of the whole data (or of a sample): what a component's pseudo-rows look like."""
        w = torch.ones(len(z), dtype=torch.float64, device=z.device) if weight is None else weight
        x, y = z[:, self.columns.normals], z[:, self.columns.reals]
        levels = sum(w[part] @ self.columns.one_hot(z[part]) for part in parts(len(z)))
        shares = self.columns.smoothed(levels).exp()
        self._complete = all_seen and not bool(z.isnan().any())
        spread = variance_of(y, w)
        if self.student:  # a far row must not make the pseudo-rows wide
            spread = robust_variance(y, w).minimum(spread)
        if self.student or (y.isnan().any() and isinstance(self.law, Diagonal)):
            covariance = torch.diag(spread)
        elif y.isnan().any():
            covariance = _normal.estimate(y, w, self._parts(y))[1]
        else:
            covariance = torch.cov(y.T, aweights=w, correction=0).reshape(len(y.T), len(y.T))
        self._whole = (shares, mean_of(x, w), variance_of(x, w), mean_of(y, w), covariance)

    def start(self, z: torch.Tensor, weight: torch.Tensor | None, seed: int) -> None:
        """Give each component the rows of one cluster of a sample of the data."""
        generator = torch.Generator().manual_seed(seed)
        order = torch.randperm(len(z), generator=generator).to(z.device)
        if weight is not None:
            order = order[weight[order] > 0]
        rows = order[: max(10_000, 20 * self.components)]
        z, w = z[rows], None if weight is None else weight[rows]
        clusters = self._clusters(z, w, seed).to(z.device)
        r = torch.nn.functional.one_hot(clusters, self.components).double().T.contiguous()
        r = r if w is None else r * w
        flat = self._flat_statistics(z, r, None)
        self._update_flat(flat)
        if self.columns.n_reals:
            self._start_reals(z[:, self.columns.reals], r)
        if self.student:
            self.degrees.fill_(START_DEGREES if self.degrees_given == "fit" else self.degrees_given)

    def _clusters(self, z: torch.Tensor, weight: torch.Tensor | None, seed: int) -> torch.Tensor:
        """The cluster (n,) of each row, by a few steps of k-means."""
        from sklearn.cluster import KMeans
        from sklearn.exceptions import ConvergenceWarning
        from threadpoolctl import threadpool_limits

        features = self._scaled(z).cpu().numpy()
        many = self.components > MANY  # careful seeding would take longer than EM
        features = features.astype(np.float32) if many else features
        # With more threads than free cores, k-means on small data spins for longer than it computes.
        with warnings.catch_warnings(), threadpool_limits(limits=1, user_api="openmp"):
            # of fewer distinct rows than components, which the pseudo-rows bear
            warnings.simplefilter("ignore", ConvergenceWarning)
            init = "random" if many else "k-means++"
            means = KMeans(self.components, init=init, n_init=1, max_iter=5, random_state=seed % 2**32)
            means.fit(features, sample_weight=None if weight is None else weight.cpu().numpy())
        return torch.from_numpy(means.labels_).long()

    def _scaled(self, z: torch.Tensor) -> torch.Tensor:
        """Numbers of comparable size for every column, for the distances of k-means."""
        _, mean, variance, centre, covariance = self._whole
        x = torch.nan_to_num((z[:, self.columns.normals] - mean) / (variance.sqrt() + 1e-9))
        y = torch.nan_to_num((z[:, self.columns.reals] - centre) / (covariance.diagonal().sqrt() + 1e-9))
        if self.student:
            y = y.clamp(-5, 5)  # or far rows would be clusters
        levels = (z[:, self.column_of_free] == self.level_of_free).double()
        return torch.cat([levels, x, y], 1)

    def _start_reals(self, y: torch.Tensor, r: torch.Tensor) -> None:
        """Centres and scales of the clusters."""
        *_, average, whole = self._whole
        law, size = self.law, r.sum(1)
        law.begin(whole, whole, average.expand(self.components, -1))  # what missing reals are taken for, at first
        if not isinstance(law, Factors):
            law.update(size, law.statistics_of(y, r, r), whole, average, self.prior)
            return
        y = torch.where(y.isnan(), average, y)
        centre = torch.where(size[:, None] > 0, r @ y / size.clamp_min(1e-300)[:, None], average)
        left = y - centre[r.argmax(0)]
        within = (left * r.sum(0)[:, None]).T @ left / size.sum()
        if law.reals <= POOLED_ABOVE:  # as many rows as columns of the average cluster join each
            own = torch.stack([(left * rk[:, None]).T @ left for rk in r])
            within = (own + law.reals * within) / (size + law.reals)[:, None, None]
        law.begin(whole, within, centre)

    # -------------------------------------------------------------------------------------------------------- EM

    def summarise(self, z: torch.Tensor, weight: torch.Tensor | None) -> torch.Tensor:
        """The E-step over all rows, in pieces that stay in cache."""
        total, weights = 0.0, 0.0
        natural = self._natural()
        for part in self._parts(z, IN_CACHE // (sum(self.sizes) + 2 * self.components)):
            joint, kept = self._log_joint(z[part], natural)
            r = joint.softmax(0)
            log_p = joint.amax(0) - r.amax(0).log()  # the same component: r_k = w_k p_k / p, without a second exp
            w = torch.ones_like(log_p) if weight is None else weight[part]
            r = r if weight is None else r.mul_(w)
            total, weights = total - (w * log_p).sum(), weights + w.sum()
            new = self._statistics(z[part], r, kept, natural)
            self._sums = new if self._sums is None else [a + b for a, b in zip(self._sums, new, strict=True)]
        return total / weights

    def _parts(self, z: torch.Tensor, rows: int = 4096) -> list[slice]:
        """Pieces of the rows; smaller ones where each may need a covariance of its own."""
        if isinstance(self.law, Dense) and not self._complete and self.columns.n_reals:
            rows = min(rows, PATTERNS // self.columns.n_reals**2)
        return parts(len(z), rows)

    def update(self) -> None:
        """The M-step: statistics of the rows of each component and of its pseudo-rows."""
        flat, sums = self._sums[:6], self._sums[6:]
        self._sums = None
        size = flat[0]
        *_, average, whole = self._whole
        self._update_flat(flat)
        if self.student and self.degrees_given == "fit":
            surplus = sums.pop()
            self.degrees.copy_(degrees_of(surplus / size.clamp_min(1e-300), self.degrees))
        if self.columns.n_reals:
            self.law.update(size, sums, whole, average, self.prior)

    def _update_flat(self, flat: list[torch.Tensor]) -> None:
        """Weights, tables and lattices."""
        size, in_tables, free, in_normals, x1, x2 = flat
        c, a = self.columns, self.prior
        shares, mean, variance, *_ = self._whole
        self.log_weights.copy_(((size + a) / (size + a).sum()).log())
        levels = free.new_zeros(self.components, c.n_levels)
        levels[:, self.free] = free
        rest = in_tables.expand(-1, c.n_tables).index_add(1, self.table_of_free, -free)
        levels[:, self.first] = rest.clamp_min(0)
        self.log_levels.copy_(c.smoothed(levels + a * shares, prior=1e-9))
        # The pseudo-rows widen a component but do not move it: they lie around its own mean.
        n = in_normals.expand_as(x1)
        held = n > 1e-6
        self.mean.copy_(torch.where(held, x1 / n.clamp_min(1e-9), mean))
        within = (x2 - self.mean * x1 * 2 + self.mean.square() * n).clamp_min(0)
        within, n = (torch.where(held, t, 0.0) for t in (within, n))
        a = max(a, 1e-9)
        self.variance.copy_((within + a * variance) / (n + a) + c.rounding * 1e-3)

    def _natural(self) -> Natural:
        """Lattices count as continuous here, of the variance of their values: a tenth of the work."""
        c = self.columns
        variance = self._spread()
        linear = self.mean / variance
        constant = self.log_weights + self.log_levels[:, self.first].sum(1) + (2 * c.half_step).log().sum()
        constant = constant - 0.5 * (linear * self.mean + variance.log()).sum(1) - c.n_normals * LOG_SQRT_2PI
        theta, constant, law = [self._log_odds(), linear, -0.5 / variance], constant[:, None], None
        if c.n_reals:
            law = self.law.natural()
            if self.linear:
                theta.append(-0.5 * law[0])
                constant = constant + self._log_tail(law[1], law[2], c.n_reals)
        return Natural(torch.cat(theta, 1), constant, law)

    def _log_odds(self) -> torch.Tensor:
        """log probabilities of levels against the first of their tables: (K, levels that are not the first)."""
        return self.log_levels[:, self.free] - self.log_levels[:, self.first][:, self.table_of_free]

    def _spread(self) -> torch.Tensor:
        return self.variance.maximum(self.columns.floor.square())

    def _log_tail(self, distance: torch.Tensor, log_det: torch.Tensor, d: int | torch.Tensor) -> torch.Tensor:
        """log density of d reals at a distance: (K, n)."""
        if not self.student:
            return -0.5 * (distance + log_det) - d * LOG_SQRT_2PI
        nu = self.degrees[:, None]
        d = torch.as_tensor(d, dtype=nu.dtype, device=nu.device)
        constant = torch.lgamma((nu + d) / 2) - torch.lgamma(nu / 2) - d / 2 * (nu * math.pi).log()
        return constant - 0.5 * log_det - (nu + d) / 2 * torch.log1p(distance.clamp_min(0) / nu)

    def _features(self, z: torch.Tensor) -> torch.Tensor:
        """(F, n) of complete rows: a row per feature, so that products of columns run along memory."""
        out = z.new_empty(sum(self.sizes), len(z))
        levels, x, squares, y = out.split(self.sizes)
        if len(levels):
            levels.copy_(z.T[self.column_of_free] == self.level_of_free[:, None])
        torch.index_select(z.T, 0, self.columns.normals, out=x)
        torch.mul(x, x, out=squares)
        if len(y):
            torch.index_select(z.T, 0, self.columns.reals, out=y[: self.columns.n_reals])
            self.law.write(y)
        return out

    def _log_joint(self, z: torch.Tensor, natural: Natural) -> tuple[torch.Tensor, Kept | torch.Tensor | None]:
        """log w_k p_k(x) with shape (K, n), and what the M-step needs; of rows with missing cells, the distances."""
        if self._has_gaps(z):
            return self._log_joint_gaps(z, exact=False)
        f = self._features(z)
        if self.linear:
            return torch.addmm(natural.constant, natural.theta, f), Kept(f, None, None)
        flat = len(f) - self.sizes[-1]
        joint = torch.addmm(natural.constant, natural.theta, f[:flat])
        distance, white = self.law.distance(f[flat:], natural.law)
        joint += self._log_tail(distance, natural.law[2], self.columns.n_reals)
        return joint, Kept(f, distance, white)

    def _log_joint_gaps(self, z: torch.Tensor, exact: bool) -> tuple[torch.Tensor, torch.Tensor | None]:
        """log w_k p_k of the cells that are there (K, n), and the distances (K, n); lattices discretised if exact."""
        c = self.columns
        joint = torch.addmm(self.log_weights[:, None], self.log_levels, c.one_hot(z).T)
        x, y = z[:, c.normals], z[:, c.reals]
        if c.n_normals and exact:
            deviation = c.deviation(self.variance)
            for k in range(self.components):
                joint[k] += c.log_normal(x, self.mean[k], deviation[k]).sum(1)
        elif c.n_normals:
            distance, log_det = diagonal_distance(x, self.mean, self._spread())
            steps = (~x.isnan()).double() @ ((2 * c.half_step).log() - LOG_SQRT_2PI)
            joint += steps - 0.5 * (distance + log_det)
        if not c.n_reals:
            return joint, None
        distance, log_det = self.law.distance_of(y)
        joint += self._log_tail(distance, log_det, (~y.isnan()).sum(1))
        return joint, distance

    def _has_gaps(self, z: torch.Tensor) -> bool:
        """Whether cells of these rows are missing; asked of every part, unless none of the data had any."""
        return not self._complete and bool(z.isnan().any())

    def _statistics(self, z: torch.Tensor, r: torch.Tensor, kept: Any, natural: Natural) -> list[torch.Tensor]:
        """Sums over rows, weighted by r (K, n): of tables and lattices, of the reals, of the degrees of freedom."""
        c, law = self.columns, self.law
        gaps = not isinstance(kept, Kept)
        if self.linear and not gaps:
            products = r @ kept.features.T
            flat, reals = products.split([products.shape[1] - self.sizes[-1], self.sizes[-1]], 1)
            sums = self._split_flat(flat, r.sum(1))
            return sums + (law.statistics(reals, r, r) if c.n_reals else [])
        sums = self._flat_statistics(z, r, None if gaps else kept.features)
        if not c.n_reals:
            return sums
        y, g, surplus = z[:, c.reals], r, []
        if self.student:
            distance = kept if gaps else kept.distance
            top = self.degrees[:, None] + (~y.isnan()).sum(1) if gaps else self.degrees[:, None] + c.n_reals
            bottom = self.degrees[:, None] + distance.clamp_min(0)
            g = r * top / bottom
            if self.degrees_given == "fit":  # of E log u over E u
                surplus = [(r * (torch.digamma(top / 2) - (bottom / 2).log())).sum(1) - g.sum(1)]
        if gaps:
            return sums + law.statistics_of(y, r, g) + surplus
        f = kept.features[-self.sizes[-1] :]
        return sums + law.statistics(g @ f.T, r, g, f, kept.white, natural.law) + surplus

    def _flat_statistics(self, z: torch.Tensor, r: torch.Tensor, features: torch.Tensor | None) -> list[torch.Tensor]:
        """Sizes (K,), then of tables and of lattices: rows that have the cell, and sums over these."""
        if features is not None:
            return self._split_flat(r @ features[: len(features) - self.sizes[-1]].T, r.sum(1))
        c = self.columns
        x, known = torch.nan_to_num(z[:, c.normals]), (~z.isnan()).double()
        free = (z[:, self.column_of_free] == self.level_of_free).double()
        return [r.sum(1), r @ known[:, c.tables], r @ free, r @ known[:, c.normals], r @ x, r @ x.square()]

    def _split_flat(self, products: torch.Tensor, size: torch.Tensor) -> list[torch.Tensor]:
        free, x1, x2 = products.split(self.sizes[:3], 1)
        return [size, size[:, None], free, size[:, None], x1, x2]

    # --------------------------------------------------------------------------------------------------- answers

    def log_prob(self, z, c=None, rng=None):
        z = z.reshape(len(z), -1).double()
        found = [self._log_joint_gaps(z[part], exact=True)[0].logsumexp(0) for part in self._parts(z)]
        return torch.cat(found) if found else z.new_zeros(0)

    def sample(self, n, c=None, *, rng):
        k = torch.multinomial(self.log_weights.exp(), n, replacement=True, generator=rng)
        return self._draw(k, None, None, rng)

    def sample_given(self, z, c=None, *, rng):
        flat = z.reshape(len(z), -1).double()
        filled = [self._fill(flat[part], rng) for part in self._parts(flat)]
        return torch.cat(filled).reshape(z.shape) if filled else z

    def moments_given(self, z, c=None):
        """Of the reals, E = sum_k r_k m_k and Cov = sum_k r_k (C_k + m_k m_k') - E E', with r_k = p(k | known).

        NaN of the other columns, and where a Student-t component has no moments.
        """
        z, reals = z.reshape(len(z), -1).double(), self.columns.reals
        mean, covariance = torch.full_like(z, torch.nan), z.new_full((len(z), self.dims, self.dims), torch.nan)
        if not self.columns.n_reals:
            return mean, covariance
        joint, distance = self._log_joint_gaps(z, exact=True)
        y, r = z[:, reals], joint.softmax(0)[:, :, None]
        means, spreads = (
            torch.stack(t) for t in zip(*(self.law.given(y, k) for k in range(self.components)), strict=True)
        )
        if self.student:
            nu = self.degrees[:, None] + (~y.isnan()).sum(1)
            wider = (self.degrees[:, None] + distance.clamp_min(0)) / (nu - 2)
            spreads = spreads * torch.where(nu > 2, wider, torch.nan)[:, :, None, None]
        mean[:, reals] = centre = (r * means).sum(0)
        off = means - centre
        spread = (r[..., None] * (spreads + off[..., None] * off[..., None, :])).sum(0)
        covariance[:, reals[:, None], reals] = spread
        return mean, covariance

    def _fill(self, z: torch.Tensor, rng: torch.Generator) -> torch.Tensor:
        """Draw the component given what is known, then the missing cells from it."""
        joint, distance = self._log_joint_gaps(z, exact=True)
        below = joint.softmax(0).cumsum(0)
        u = uniform(rng, (len(z),), z) * below[-1]
        k = (u >= below).sum(0).clamp_max(self.components - 1)
        distance = None if distance is None else distance[k, torch.arange(len(z), device=z.device)]
        return torch.where(z.isnan(), self._draw(k, z, distance, rng), z)

    def _draw(self, k: torch.Tensor, known: torch.Tensor | None, distance: torch.Tensor | None, rng) -> torch.Tensor:
        """Draw rows of components k (n,), the reals given those of `known`, at a `distance` from the centre."""
        c, n = self.columns, len(k)
        z = torch.empty(n, self.dims, dtype=torch.float64, device=k.device)
        z[:, c.tables] = c.draw_tables(self.log_levels[k], uniform(rng, (n, c.n_tables), z))
        noise = torch.randn(n, c.n_normals, generator=rng, dtype=z.dtype, device=z.device)
        z[:, c.normals] = c.round_lattice(self.mean[k] + c.deviation(self.variance)[k] * noise)
        if not c.n_reals:
            return z
        given = None if known is None else known[:, c.reals]
        spread = torch.ones(n, 1, dtype=z.dtype, device=z.device)
        if self.student:
            shape, rate = self.degrees[k] / 2, self.degrees[k] / 2
            if given is not None:
                shape, rate = shape + (~given.isnan()).sum(1) / 2, rate + distance.clamp_min(0) / 2
            spread = (rate / torch._standard_gamma(shape, generator=rng).clamp_min(1e-300)).sqrt()[:, None]
        y = self.law.draw(k, spread, rng)
        if given is not None:
            y = y + self.law.regress(torch.nan_to_num(given - y), given.isnan(), k)
        z[:, c.reals] = y
        return z
