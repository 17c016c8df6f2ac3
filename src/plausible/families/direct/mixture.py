r"""Finite mixtures of products, fitted by EM.

    p(x) = sum_k w_k p_k(x),    p_k(x) = N(x_R; mu_k, S_k)  prod_{d in G} N(x_d; m_kd, s_kd)  prod_{d in T} P_kd(x_d)

R are the real columns (with a full covariance; with a diagonal one they join G), G the lattices (counts and fine
ordinal columns, whose normals are discretised), T the tables (binary, categorical, ordinal). A mixture of Gaussians,
of Bernoullis or of categoricals is what remains when the data have one kind of column.

    E-step: r_nk = w_k p_k(x_n) / p(x_n)            M-step: weighted frequencies, means and covariances

Both are matrix products: log p_k is linear in the features phi(x) = (levels, x_G, x_G^2, x_R, x_R x_R'), and the
sufficient statistics are r' phi. Missing cells are integrated out; under a full covariance their expected statistics
take the place of the observed ones. Every component owns `prior` pseudo-rows of the whole data, so that none collapses.

References: Dempster, Laird and Rubin, 1977. McLachlan and Peel, Finite Mixture Models, 2000. Ghahramani and Jordan,
Supervised learning from incomplete data via an EM approach, 1994.
"""

from __future__ import annotations

import math
import time
import warnings

import torch

from plausible.base import Generative, Module, Traits
from plausible.errors import DataError
from plausible.families.direct import _normal
from plausible.families.direct._columns import LOG_SQRT_2PI, Columns, parts
from plausible.options import estimator, option
from plausible.randomness import seed_of, uniform
from plausible.space import Space
from plausible.training import Events, History, em, run

RIDGE = 1e-6  # added to variances of about one
FULL_UP_TO = 64  # real columns for which 'auto' takes a full covariance
IN_CACHE = 400_000  # numbers that a core's cache holds: features of so many rows are made and used at a time
START_ITERATIONS = 10  # of every restart, before the best one is carried on


class _Mixture(Module):
    """Legend: K components, L levels of all tables, G normal columns, R real columns with full covariance."""

    def __init__(self, space: Space, components: int, full: bool, prior: float):
        super().__init__()
        self.dims, self.components, self.prior = space.dims, components, prior
        self.columns = columns = Columns(space, reals_apart=full)
        k, g, r = components, columns.n_normals, columns.n_reals

        def buffer(name, *shape):
            self.register_buffer(name, torch.zeros(shape, dtype=torch.float64))

        buffer("log_weights", k)
        buffer("log_levels", k, columns.n_levels)
        buffer("mean", k, g)
        buffer("variance", k, g)  # of the values on their lattice, rounding included
        buffer("centre", k, r)
        buffer("covariance", k, r, r)
        upper = torch.triu_indices(r, r)
        self.register_buffer("upper", upper, persistent=False)
        self._sums: list[torch.Tensor] | None = None

    @property
    def n_parameters(self) -> int:
        c, r = self.columns, self.columns.n_reals
        return self.components * (1 + c.n_levels - c.n_tables + 2 * c.n_normals + r + r * (r + 1) // 2) - 1

    # ----------------------------------------------------------------------------------------------------- start

    def look(self, z: torch.Tensor, weight: torch.Tensor | None = None) -> None:
        """Note the statistics of the whole data: what a component's pseudo-rows look like."""
        w = torch.ones(len(z), dtype=torch.float64, device=z.device) if weight is None else weight
        x, y = z[:, self.columns.normals], z[:, self.columns.reals]
        levels = sum(w[part] @ self.columns.one_hot(z[part]) for part in parts(len(z)))
        log_levels = self.columns.smoothed(levels)
        variance = _variance(x, w)
        complete = not y.isnan().any()
        self._complete = not bool(z.isnan().any())
        covariance = (
            torch.cov(y.T, aweights=w, correction=0).reshape(len(y.T), len(y.T))
            if complete
            else (torch.diag(_variance(y, w)))
        )
        self._whole = (log_levels.exp(), _mean(x, w), variance, _mean(y, w), covariance)

    def start(self, z: torch.Tensor, weight: torch.Tensor | None, seed: int) -> None:
        """Give each component the rows of one cluster of a sample of the data."""
        from sklearn.cluster import KMeans
        from sklearn.exceptions import ConvergenceWarning
        from threadpoolctl import threadpool_limits

        generator = torch.Generator().manual_seed(seed)
        rows = torch.randperm(len(z), generator=generator)[: max(10_000, 20 * self.components)].to(z.device)
        features = self._scaled(z[rows]).cpu().numpy()
        # With more threads than free cores, k-means on small data spins for longer than it computes.
        with warnings.catch_warnings(), threadpool_limits(limits=1, user_api="openmp"):
            # of fewer distinct rows than components, which the pseudo-rows bear
            warnings.simplefilter("ignore", ConvergenceWarning)
            clusters = KMeans(self.components, n_init=1, max_iter=5, random_state=seed % 2**32).fit(features).labels_
        r = torch.nn.functional.one_hot(torch.from_numpy(clusters).long(), self.components).double().to(z.device)
        w = None if weight is None else weight[rows]
        _, mean, variance, centre, covariance = self._whole
        self.centre.copy_(centre.expand_as(self.centre))  # what missing reals are taken for, at first
        self.covariance.copy_(covariance.expand_as(self.covariance))
        self._sums = self._statistics(z[rows], (r if w is None else r * w[:, None]).T.contiguous())
        self.update()

    def _scaled(self, z: torch.Tensor) -> torch.Tensor:
        """Numbers of comparable size for every column, for the distances of k-means."""
        _, mean, variance, centre, covariance = self._whole
        x = torch.nan_to_num((z[:, self.columns.normals] - mean) / (variance.sqrt() + 1e-9))
        y = torch.nan_to_num((z[:, self.columns.reals] - centre) / (covariance.diagonal().sqrt() + 1e-9))
        return torch.cat([self.columns.one_hot(z), x, y], 1)

    # -------------------------------------------------------------------------------------------------------- EM

    def summarise(self, z: torch.Tensor, weight: torch.Tensor | None) -> torch.Tensor:
        """The E-step over all rows, in pieces that stay in cache."""
        total, weights = 0.0, 0.0
        natural = self._natural()
        for part in parts(len(z), IN_CACHE // max(sum(self._sizes), 1)):
            joint, features = self._log_joint(z[part], natural)
            r = joint.softmax(0)
            log_p = joint.amax(0) - r.amax(0).log()  # the same component: r_k = w_k p_k / p, without a second exp
            w = torch.ones_like(log_p) if weight is None else weight[part]
            r = r if weight is None else r.mul_(w)
            total, weights = total - (w * log_p).sum(), weights + w.sum()
            new = self._statistics(z[part], r, features)
            self._sums = new if self._sums is None else [a.add_(b) for a, b in zip(self._sums, new, strict=True)]
        return total / weights

    def update(self) -> None:
        """The M-step: statistics of the rows of each component and of its pseudo-rows."""
        size, levels, x1, x2, y1, y2 = self._sums
        self._sums = None
        a = self.prior
        level_shares, mean, variance, centre, covariance = self._whole
        self.log_weights.copy_(((size + a) / (size + a).sum()).log())
        self.log_levels.copy_(self.columns.smoothed(levels + a * level_shares, prior=1e-9))
        n = (size + a)[:, None]
        # The pseudo-rows widen a component but do not move it: they lie around its own mean.
        safe = size.clamp_min(1e-9)[:, None]
        held = size[:, None] > 1e-6
        self.mean.copy_(torch.where(held, x1 / safe, mean))
        within = (x2 - self.mean * x1 * 2 + self.mean.square() * size[:, None]).clamp_min(0)
        self.variance.copy_((within + a * variance) / n + self.columns.rounding * 1e-3)
        self.centre.copy_(torch.where(held, y1 / safe, centre))
        scatter = y2 - safe[:, :, None] * self.centre[:, :, None] * self.centre[:, None, :]
        scatter = torch.where(held[:, :, None], scatter, torch.zeros_like(scatter))
        ridge = RIDGE * torch.eye(self.columns.n_reals, dtype=torch.float64, device=scatter.device)
        self.covariance.copy_((scatter + a * covariance) / n[:, :, None] + ridge)

    def _natural(self) -> tuple[torch.Tensor, torch.Tensor]:
        """log w_k p_k as a linear function of the features: (K, F) and (K, 1). Lattices count as continuous here."""
        columns, k, r = self.columns, self.components, self.columns.n_reals
        variance = self.variance.maximum(columns.floor.square())
        parts = [self.log_levels.T, (self.mean / variance).T, (-0.5 / variance).T]
        constant = self.log_weights - (0.5 * self.mean.square() / variance + 0.5 * variance.log()).sum(1)
        constant = (
            constant
            - columns.n_normals * LOG_SQRT_2PI
            + columns.rounding.mul(12).clamp_min(1e-300).log().mul(0.5 * (columns.rounding > 0)).sum()
        )
        if r:
            cholesky = torch.linalg.cholesky(self.covariance)
            precision = torch.cholesky_inverse(cholesky)
            linear = (precision @ self.centre[:, :, None])[:, :, 0]
            i, j = self.upper
            quadratic = -precision[:, i, j] * torch.where(i == j, 0.5, 1.0)
            parts += [linear.T, quadratic.T]
            constant = constant - 0.5 * (linear * self.centre).sum(1) - r * LOG_SQRT_2PI
            constant = constant - cholesky.diagonal(dim1=1, dim2=2).log().sum(1)
        return torch.cat(parts).T.contiguous() if parts else constant.new_zeros(k, 0), constant[:, None]

    @property
    def _sizes(self) -> list[int]:
        """Of the groups of features: levels, x, x^2, y, y y'."""
        c = self.columns
        return [c.n_levels, c.n_normals, c.n_normals, c.n_reals, len(self.upper[0])]

    def _features(self, z: torch.Tensor) -> torch.Tensor:
        """(F, n): a row per feature, so that products of columns run along memory."""
        features = z.new_empty(sum(self._sizes), len(z))
        levels, x, squares, y, products = features.split(self._sizes)
        if self.columns.n_levels:
            levels.copy_(self.columns.one_hot(z).T)
        torch.index_select(z.T, 0, self.columns.normals, out=x)
        torch.mul(x, x, out=squares)
        torch.index_select(z.T, 0, self.columns.reals, out=y)
        start = 0
        for i in range(len(y)):  # the order of `upper`
            torch.mul(y[i:], y[i], out=products[start : start + len(y) - i])
            start += len(y) - i
        return features

    def _log_joint(self, z, natural) -> tuple[torch.Tensor, torch.Tensor | None]:
        """log w_k p_k(x) with shape (K, n), and the features where no cell is missing."""
        if self._has_gaps(z):
            return self._log_joint_exact(z).T.contiguous(), None
        theta, constant = natural
        features = self._features(z)
        return torch.addmm(constant, theta, features), features

    def _statistics(self, z, r, features=None) -> list[torch.Tensor]:
        """Sums over rows, weighted by r (K, n): sizes, levels, x, x^2, y, y y'."""
        k, count = self.components, self.columns.n_reals
        if features is None and not self._has_gaps(z):
            features = self._features(z)
        if features is None:
            return self._statistics_missing(z, r.T)
        levels, x1, x2, y1, upper = (r @ features.T).split(self._sizes, 1)
        y2 = r.new_zeros(k, count, count)
        y2[:, self.upper[0], self.upper[1]] = upper
        y2[:, self.upper[1], self.upper[0]] = upper
        return [r.sum(1), levels, x1, x2, y1, y2]

    def _has_gaps(self, z: torch.Tensor) -> bool:
        """Whether cells of these rows are missing; asked of every part, unless none of the data had any."""
        return not self._complete and bool(z.isnan().any())

    def _statistics_missing(self, z, r) -> list[torch.Tensor]:
        x, y = z[:, self.columns.normals], z[:, self.columns.reals]
        unknown = x.isnan()[:, None, :]
        # A missing normal counts by its expectation under each component.
        filled = torch.where(unknown, self.mean, x[:, None, :])
        squares = torch.where(unknown, self.mean.square() + self.variance, x[:, None, :].square())
        x1 = torch.einsum("nk,nkg->kg", r, filled)
        x2 = torch.einsum("nk,nkg->kg", r, squares)
        pairs = [_normal.moments(y, r[:, j], self.centre[j], self.covariance[j]) for j in range(self.components)]
        y1, y2 = (torch.stack(p) for p in zip(*pairs, strict=True))
        return [r.sum(0), r.T @ self.columns.one_hot(z), x1, x2, y1, y2]

    # --------------------------------------------------------------------------------------------------- answers

    def _log_joint_exact(self, z: torch.Tensor) -> torch.Tensor:
        """log w_k p_k(x) with shape (n, K): lattices discretised, missing cells integrated out."""
        x, y = z[:, self.columns.normals], z[:, self.columns.reals]
        joint = self.log_weights + self.columns.one_hot(z) @ self.log_levels.T
        deviation = self.columns.deviation(self.variance)
        for k in range(self.components):
            if self.columns.n_normals:
                joint[:, k] += self.columns.log_normal(x, self.mean[k], deviation[k]).sum(1)
            if self.columns.n_reals:
                joint[:, k] += _normal.log_marginal(y, self.centre[k], self.covariance[k])
        return joint

    def log_prob(self, z, c=None, rng=None):
        z = z.reshape(len(z), -1).double()
        return torch.cat([self._log_joint_exact(z[part]).logsumexp(1) for part in parts(len(z))])

    def sample(self, n, c=None, *, rng):
        columns = self.columns
        z = torch.empty(n, self.dims, dtype=torch.float64, device=self.mean.device)
        k = torch.multinomial(self.log_weights.exp(), n, replacement=True, generator=rng)
        u = uniform(rng, (n, columns.n_tables), z)
        z[:, columns.tables] = columns.draw_tables(self.log_levels[k], u)
        noise = torch.randn(n, columns.n_normals + columns.n_reals, generator=rng, dtype=z.dtype, device=z.device)
        x = self.mean[k] + columns.deviation(self.variance)[k] * noise[:, : columns.n_normals]
        z[:, columns.normals] = columns.round_lattice(x)
        cholesky = torch.linalg.cholesky(self.covariance)
        y = torch.einsum("nij,nj->ni", cholesky[k], noise[:, columns.n_normals :])
        z[:, columns.reals] = self.centre[k] + y
        return z


@estimator
class Mixture(Generative):
    """Mixture of Gaussians, Bernoullis, categoricals or mixed columns, by EM; exact, also with missing cells.

    References: McLachlan and Peel, Finite Mixture Models, 2000.

    Examples:
        >>> import numpy as np, plausible as pl
        >>> rng = np.random.default_rng(0)
        >>> X = np.concatenate([rng.normal(-3, 1, (500, 2)), rng.normal(3, 1, (500, 2))])
        >>> model = pl.Mixture(n_components=2, random_state=0).fit(X)
        >>> round(model.score(X), 1)  # log 2 more than the 2.84 nats of one cluster
        -3.5
        >>> model.log_prob([[0.0, np.nan]]).shape  # the missing cell is integrated out
        (1,)
    """

    n_components: int = option(10, "components K", low=1)
    covariance: str = option(
        "auto", "of the real columns; 'auto' is full up to 64 of them", choices=("auto", "full", "diagonal")
    )
    n_init: int = option(3, "restarts, of which the best is carried on", low=1)
    max_iter: int = option(200, "EM iterations, at most", low=1)
    tol: float = option(1e-4, "nats a row by which an iteration must improve the fit for another to follow", low=0)
    prior: float = option(1.0, "pseudo-rows of the whole data that each component owns", low=0)
    budget: float | None = option(None, "seconds after which no further iteration or restart is begun", above=0)

    traits = Traits(
        density="exact",
        events=frozenset({"table", "image", "text", "series"}),
        missing=True,
        given="exact",
        latent=True,
    )

    def _build(self, space: Space, context_space: Space) -> Module:
        n_reals = sum(c.kind == "real" for c in space.columns)
        full = self.covariance == "full" or (self.covariance == "auto" and 1 < n_reals <= FULL_UP_TO)
        return _Mixture(space, self.n_components, full, self.prior)

    def _train(self, module: Module, train: Events, held_out: Events | None, rng: torch.Generator) -> History:
        if len(train) < self.n_components:
            raise DataError(
                f"Mixture(n_components={self.n_components}) needs at least as many examples, "
                f"got n_samples={len(train)}; use fewer components"
            )
        z = train.take(torch.arange(len(train), device=train.x.device)).z.flatten(1).double()
        events = Events(z, None, train.weight, None, torch.float64)
        module.look(z, train.weight)

        end = math.inf if self.budget is None else time.perf_counter() + self.budget

        def improve(iterations: int, share: float) -> History:
            left = None if self.budget is None else max((end - time.perf_counter()) * share, 1e-3)
            settings = {"batch_size": None, "rng": rng, "tolerance": self.tol, "budget": left, "name": "Mixture"}
            return run(em(module), events, epochs=iterations, **settings)

        best, best_state = math.inf, None
        for i in range(self.n_init):
            if best_state is not None and time.perf_counter() > end:
                break
            module.start(z, train.weight, seed_of(rng))
            few = min(START_ITERATIONS, self.max_iter)
            loss = improve(few, 1 / (self.n_init - i + 1)).best if self.n_init > 1 else -math.inf
            if loss < best:
                best, best_state = loss, {k: v.clone() for k, v in module.state_dict().items()}
        module.load_state_dict(best_state)
        return improve(self.max_iter, 1.0)


def _mean(x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
    known = ~x.isnan() * w[:, None]
    return (torch.nan_to_num(x) * known).sum(0) / known.sum(0).clamp_min(1e-300)


def _variance(x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
    return _mean((x - _mean(x, w)).square(), w)
