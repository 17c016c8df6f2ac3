r"""Finite mixtures of products, fitted by EM.

    p(x) = sum_k w_k p_k(x),    p_k(x) = p(x_R; m_k, S_k)  prod_{d in G} N(x_d; mu_kd, s_kd)  prod_{d in T} P_kd(x_d)

R are the real columns, normal or Student-t (`degrees`) with a scale matrix S_k of the shape that `covariance` says
(``_reals.py``), G the lattices (counts and fine ordinal columns, whose normals are discretised), T the tables
(binary, categorical, ordinal). A mixture of Gaussians, of factor analysers, of Bernoullis or of categoricals is what
remains when the data have one kind of column.

    E-step: r_nk = w_k p_k(x_n) / p(x_n)            M-step: weighted frequencies, means and covariances

Both are matrix products: log p_k of normals and tables is linear in features of a row, and the sufficient statistics
are r' phi. A Student-t is a normal whose precision is multiplied by u ~ Gamma(nu/2, nu/2); its rows count by
E u = (nu + d) / (nu + distance), so that the far ones count little. Missing cells are integrated out. Every component
owns `prior` pseudo-rows of the whole data, so that none collapses.

Given a part of a row, the rest is a mixture again, with weights p(k | known): drawn exactly.

References: Dempster, Laird and Rubin, 1977. McLachlan and Peel, Finite Mixture Models, 2000. Liu and Rubin, ML
estimation of the t distribution using EM and its extensions, 1995. Schwarz, Estimating the dimension of a model, 1978.
"""

from __future__ import annotations

import math
import time
from typing import Any

import torch
from sklearn.utils.validation import check_is_fitted

from plausible.base import Generative, Module, Traits
from plausible.errors import DataError
from plausible.families.direct._mixture import MixtureModule
from plausible.options import estimator, option
from plausible.randomness import seed_of
from plausible.space import Space
from plausible.training import Chunks, Events, History, copied_state, em, run
from plausible.transforms import NormalMargins, Standardise, Transform

COVARIANCES = ("full", "tied", "diagonal", "spherical", "factors")
FULL_UP_TO = 64  # real columns for which 'auto' takes a full covariance
START_ITERATIONS = 10  # of every restart, before the best one is carried on
HELD_OUT_SHARE = 0.1  # of the rows, where they choose the number of components
LADDER = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512)  # numbers of components to choose from
PATIENCE = 2  # of these in a row that are no better end the choice


@estimator
class Mixture(Generative):
    """Mixture of Gaussians, Student-t, Bernoullis, categoricals or mixed columns, by EM; exact, with missing cells too.

    After a fit, `n_components_` is the number of components and `selection_` says what it was chosen by.

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
        >>> pl.Mixture(n_components="bic", random_state=0).fit(X).n_components_
        2
    """

    n_components: int | str = option(
        10,
        "components K, or what chooses them: 'bic', 'held_out' (a tenth of the rows)",
        low=1,
        choices=("bic", "held_out"),
    )
    covariance: str = option(
        "auto", "of the real columns; 'auto' is full up to 64 of them, then diagonal", choices=("auto", *COVARIANCES)
    )
    rank: int = option(2, "factors of covariance='factors' (at most one less than there are real columns)", low=1)
    degrees: float | str | None = option(
        None,
        "degrees of freedom of Student-t reals, or 'fit' for one per component; None is normal",
        above=0,
        choices=("fit",),
    )
    margins: str = option(
        "plain",
        "of the real columns: 'normal' bends each into a normal first, which suits skewed ones and those of few values",
        choices=("plain", "normal"),
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
        streams=True,
    )

    @property
    def n_components_(self) -> int:
        """The number of components of the fitted model."""
        check_is_fitted(self, "module_")
        return self.module_.components

    @property
    def selection_(self) -> dict[int, float]:
        """Scores of the numbers of components that were tried: BIC (smaller is better), or held-out nats a row."""
        check_is_fitted(self, "module_")
        return dict(zip(self.module_.tried.tolist(), self.module_.scores.tolist(), strict=True))

    def _transforms(self, space: Space) -> list[Transform]:
        return [Standardise()] if self.margins == "plain" else [NormalMargins(), Standardise()]

    def _build(self, space: Space, context_space: Space) -> Module:
        n_reals = sum(c.kind == "real" for c in space.columns)
        covariance = self.covariance
        if covariance == "auto":
            covariance = "full" if 1 < n_reals <= FULL_UP_TO else "diagonal"
        components = None if isinstance(self.n_components, str) else self.n_components
        return MixtureModule(space, components, covariance, self.rank, self.degrees, self.prior)

    def _held_out_share(self) -> float:
        return HELD_OUT_SHARE if self.n_components == "held_out" else 0.0

    def _train(self, module: Module, train: Events, held_out: Events | None, rng: torch.Generator) -> History:
        fitting = _Fitting(self, module, train, rng)
        if not isinstance(self.n_components, str):
            fitting.refuse_too_few(self.n_components)
            fitting.start(self.n_components)
            return fitting.improve(self.max_iter)
        return fitting.choose(held_out)


class _Fitting:
    """Restarts, the choice of the number of components, and the clock over both."""

    def __init__(self, settings: Mixture, module: MixtureModule, train: Events | Chunks, rng: torch.Generator):
        self.settings, self.module, self.rng = settings, module, rng
        streamed = isinstance(train, Chunks)
        self.sample = _flat(train.sample if streamed else train)
        self.events = Chunks(lambda: map(_flat, train.source()), train.n, self.sample) if streamed else self.sample
        module.look(self.sample.x, self.sample.weight, all_seen=not streamed)
        self.end = math.inf if settings.budget is None else time.perf_counter() + settings.budget

    @property
    def late(self) -> bool:
        return time.perf_counter() > self.end

    def refuse_too_few(self, components: int) -> None:
        weight = self.sample.weight
        n = len(self.sample) if weight is None else int((weight > 0).sum())
        if n < components:
            raise DataError(
                f"Mixture(n_components={components}) needs at least as many examples, "
                f"got n_samples={n}; use fewer components"
            )

    def improve(self, iterations: int, events: Any = None, share: float = 1.0) -> History:
        """EM until it has converged."""
        left = None if math.isinf(self.end) else max((self.end - time.perf_counter()) * share, 1e-3)
        settings = {"batch_size": None, "rng": self.rng, "tolerance": self.settings.tol, "budget": left}
        return run(em(self.module), events or self.events, epochs=iterations, name="Mixture", **settings)

    def start(self, components: int) -> None:
        """The best of several starts after a few iterations each, on what is in memory."""
        if components != self.module.components:
            self.module.allocate(components)
        n_init, best, best_state = self.settings.n_init, math.inf, None
        for i in range(n_init):
            if best_state is not None and self.late:
                break
            self.module.start(self.sample.x, self.sample.weight, seed_of(self.rng))
            few = min(START_ITERATIONS, self.settings.max_iter)
            loss = self.improve(few, self.sample, 1 / (n_init - i + 1)).best if n_init > 1 else -math.inf
            if loss < best:
                best, best_state = loss, copied_state(self.module)
        self.module.load_state_dict(best_state)

    def choose(self, held_out: Events | None) -> History:
        """Climb the ladder of numbers of components until it gets no better; keep the best."""
        judge = None if held_out is None else _flat(held_out)
        weight = self.sample.weight
        rows = len(self.sample) if weight is None else int((weight > 0).sum())
        tried, scores, best_state = [], [], None
        for k in (k for k in LADDER if k <= rows):
            self.start(k)
            self.improve(self.settings.max_iter)
            tried.append(k)
            scores.append(self._score(judge))
            if scores[-1] == max(scores):
                best_state = copied_state(self.module)
            if self.late or max(scores[-PATIENCE:]) < max(scores):
                break
        self.module.allocate(tried[scores.index(max(scores))])
        self.module.load_state_dict(best_state)
        if judge is not None and isinstance(self.events, Events):  # what was held out has done its work: learn from it
            self.events = _joined(self.events, judge)
            self.module.look(self.events.x, self.events.weight)
        history = self.improve(self.settings.max_iter)
        signs = 1.0 if judge is not None else -1.0
        self.module.tried = torch.tensor(tried, device=self.module.tried.device)
        self.module.scores = signs * torch.tensor(scores, dtype=torch.float64, device=self.module.tried.device)
        return history

    def _score(self, judge: Events | None) -> float:
        """Mean log-likelihood of what is held out, or minus BIC of what is not: the larger, the better."""
        on = judge or self.sample
        log_p = self.module.log_prob(on.x)
        if judge is not None:
            return float(log_p.mean() if on.weight is None else (log_p @ on.weight) / on.weight.sum().clamp_min(1e-300))
        n, total = (len(log_p), log_p.sum()) if on.weight is None else (float(on.weight.sum()), log_p @ on.weight)
        return float(2 * total - self.module.n_parameters * math.log(n))


def _flat(events: Events) -> Events:
    """Rows (n, D) in double precision."""
    return Events(events.take(slice(None)).z.flatten(1).double(), None, events.weight, None, torch.float64)


def _joined(a: Events, b: Events) -> Events:
    weight = None if a.weight is None else torch.cat([a.weight, b.weight])
    return Events(torch.cat([a.x, b.x]), None, weight, None, torch.float64)
