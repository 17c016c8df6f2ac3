r"""Hidden Markov models, fitted by Baum-Welch.

    p(x) = sum_s pi(s_1) prod_{t>1} A(s_{t-1}, s_t) prod_t p(x_t | s_t)

A step x_t of a series has C channels, of a text one character, of a table one column; given its state, its channels
are independent (levels by a table, counts by a discretised normal, reals by a normal) or, where all are real, follow a
normal with full covariance. The emissions are the same at every step, except in a table whose columns differ: there
each column has its own, and the states carry what neighbouring columns have in common.

    E-step: gamma_t(i) = p(s_t = i | x), expected transitions        M-step: weighted frequencies, means, covariances

by forward-backward (`_chain`). Missing cells and steps are integrated out: they emit nothing. What follows the END of
a string is no step at all. Each state owns `prior` pseudo-steps of the whole data, so that none collapses, and each row
of A `prior` pseudo-transitions, spread evenly.

References: Rabiner, A tutorial on hidden Markov models, 1989. Baum, Petrie, Soules and Weiss, A maximization technique
occurring in the statistical analysis of probabilistic functions of Markov chains, 1970.
"""

from __future__ import annotations

import math
import time

import torch

from plausible.base import Generative, Module, Traits
from plausible.families.direct import _normal
from plausible.families.direct._chain import Chain
from plausible.families.direct._columns import Columns
from plausible.options import OptionError, estimator, option
from plausible.randomness import normal, seed_of, uniform
from plausible.space import Space
from plausible.training import Events, History, copied_state, em, run
from plausible.transforms import Standardise

RIDGE = 1e-6  # added to variances of about one
FULL_UP_TO = 64  # channels for which 'auto' takes a full covariance
AT_ONCE = 1 << 21  # numbers of (n, T, S) held at the same time
START_ITERATIONS = 10  # of every restart, before the best one is carried on
START_ROWS = 20_000  # steps that k-means sees


class _HMM(Module):
    """Legend: n sequences, T steps, S states, F columns: the C channels of a step, or all D columns of a table.

    Emissions: L levels of all tables, G normal columns, R real columns with full covariance.
    """

    def __init__(self, space: Space, steps: int, shared: bool, states: int, full: bool, prior: float, ends: int | None):
        super().__init__()
        self.dims, self.steps, self.shared, self.states = space.dims, steps, shared, states
        self.prior, self.ends = prior, ends
        self.columns = columns = Columns(space, reals_apart=full)
        step = [0] * space.dims if shared else list(range(space.dims))
        self.width = space.dims if shared else 1  # channels of a step

        def buffer(name, *shape, value=0.0):
            self.register_buffer(name, torch.full(shape, value, dtype=torch.float64))

        buffer("start_p", states, value=1 / states)
        buffer("transition", states, states, value=1 / states)
        buffer("log_levels", states, columns.n_levels)
        buffer("mean", states, columns.n_normals)
        buffer("variance", states, columns.n_normals)  # of the values on their lattice, rounding included
        buffer("centre", states, columns.n_reals)
        buffer("covariance", states, columns.n_reals, columns.n_reals)
        self.register_buffer("step", torch.tensor(step), persistent=False)
        self._sums: list[torch.Tensor] | None = None

    @property
    def n_parameters(self) -> int:
        c, s, r = self.columns, self.states, self.columns.n_reals
        emission = c.n_levels - c.n_tables + 2 * c.n_normals + r + r * (r + 1) // 2
        return s * s - 1 + s * emission

    @property
    def chain(self) -> Chain:
        """The chain of the hidden states."""
        return Chain(self.start_p, self.transition)

    # ------------------------------------------------------------------------------------------------------ emission

    def _steps(self, z: torch.Tensor) -> torch.Tensor:
        """(n, \\*event) -> (N, F): a row per step where the emissions are shared, per sequence where they are not."""
        z = z.reshape(len(z), -1).double()
        return z.reshape(-1, self.width) if self.shared else z

    def log_emission(self, z: torch.Tensor) -> torch.Tensor:
        """log p(x_t | s_t = i) of the known cells of each step, (n, T, S)."""
        columns, x = self.columns, self._steps(z)
        out = torch.zeros(len(x), 1 if self.shared else self.dims, self.states, dtype=torch.float64, device=z.device)
        hot, values, reals = columns.one_hot(x), x[:, columns.normals], x[:, columns.reals]
        if self.shared:
            out[:, 0] += hot @ self.log_levels.T
        else:
            of_level = columns.tables[columns.of_level]
            out.index_add_(1, of_level, hot[:, :, None] * self.log_levels.T)
        deviation = columns.deviation(self.variance)
        for s in range(self.states):
            if columns.n_normals:
                log_p = columns.log_normal(values, self.mean[s], deviation[s])
                out[:, :, s].index_add_(1, self.step[columns.normals], log_p)
            if columns.n_reals:
                out[:, 0, s] += _normal.log_marginal(reals, self.centre[s], self.covariance[s])
        return out.reshape(len(z), self.steps, self.states)

    def _parts(self, n: int) -> list[slice]:
        rows = max(AT_ONCE // max(self.steps * self.states, 1), 1)
        return [slice(start, start + rows) for start in range(0, n, rows)]

    # ------------------------------------------------------------------------------------------------------------ EM

    def look(self, z: torch.Tensor, weight: torch.Tensor | None = None) -> None:
        """Note the statistics of the whole data: what a state's pseudo-steps look like."""
        w = torch.ones(len(z), dtype=torch.float64, device=z.device) if weight is None else weight
        x = self._steps(z)
        w = w.repeat_interleave(self.steps) if self.shared else w
        everything = self._statistics(x, torch.ones(len(x), 1 if self.shared else self.dims, 1) * w[:, None, None])
        levels, known, first, second, size, sums, products = [t[0] for t in everything]
        mean = first / known.clamp_min(1e-300)
        centre = sums / size.clamp_min(1e-300)
        covariance = products / size.clamp_min(1e-300) - centre[:, None] * centre
        share = self.columns.smoothed(levels, 0.5).exp()
        self._whole = share, mean, (second / known.clamp_min(1e-300) - mean.square()).clamp_min(0), centre, covariance

    def begin(self, z: torch.Tensor, weight: torch.Tensor | None, seed: int) -> None:
        """Start from clusters of single steps, of a table from clusters of its rows; noise breaks their ties."""
        generator = torch.Generator().manual_seed(seed)
        share, mean, variance, centre, covariance = self._whole
        self.centre.copy_(centre.expand_as(self.centre))  # what missing reals are taken for, at first
        self.covariance.copy_(covariance.expand_as(self.covariance))
        self.transition.fill_(1 / self.states)
        rows = torch.randperm(len(z), generator=generator)[: max(START_ROWS // self.steps, 100)].to(z.device)
        x, w = self._steps(z[rows]), torch.ones(len(rows)) if weight is None else weight[rows]
        clusters = self._clusters(x, seed)
        r = torch.rand(len(x), 1 if self.shared else self.dims, self.states, generator=generator, dtype=torch.float64)
        r = r / r.sum(2, keepdim=True) + 2 * torch.nn.functional.one_hot(clusters, self.states)[:, None]
        w = w.repeat_interleave(self.steps) if self.shared else w
        transition = torch.ones_like(self.transition)
        if not self.shared:  # a cluster of rows is a state that lasts
            transition += self.states * torch.eye(self.states, dtype=torch.float64, device=transition.device)
        self._sums = [
            transition,
            torch.ones_like(self.start_p),
            *self._statistics(x, (r / 3).to(z.device) * w[:, None, None].to(z)),
        ]
        self.update()

    def _clusters(self, x: torch.Tensor, seed: int) -> torch.Tensor:
        """k-means of rows (N, F), as labels (N,)."""
        import warnings

        from sklearn.cluster import KMeans
        from sklearn.exceptions import ConvergenceWarning
        from threadpoolctl import threadpool_limits

        _, mean, variance, centre, covariance = self._whole
        values = torch.nan_to_num((x[:, self.columns.normals] - mean) / (variance.sqrt() + 1e-9))
        reals = torch.nan_to_num((x[:, self.columns.reals] - centre) / (covariance.diagonal().sqrt() + 1e-9))
        features = torch.cat([self.columns.one_hot(x), values, reals], 1).cpu().numpy()
        with warnings.catch_warnings(), threadpool_limits(limits=1, user_api="openmp"):
            warnings.simplefilter("ignore", ConvergenceWarning)  # fewer distinct steps than states
            states = min(self.states, len(features))
            labels = KMeans(states, n_init=1, max_iter=10, random_state=seed % 2**32).fit(features).labels_
        return torch.from_numpy(labels).long()

    def summarise(self, z: torch.Tensor, weight: torch.Tensor | None) -> torch.Tensor:
        """The E-step: expected transitions, starts and emissions of each state."""
        total, weights = 0.0, 0.0
        for part in self._parts(len(z)):
            x = z[part]
            w = torch.ones(len(x), dtype=torch.float64, device=z.device) if weight is None else weight[part]
            log_p, alpha = self.chain.filter(self.log_emission(x))
            # Steps past the last one that is known (the padding of a string) tell nothing of the transitions.
            known = (~x.reshape(len(x), self.steps, -1).isnan()).any(2)
            reached = known.flip(1).cumsum(1).flip(1) > 0
            gamma, transitions = self.chain.smooth(alpha, w[:, None] * reached)
            r = gamma * w[:, None, None]
            start = r[:, 0].sum(0)
            r = r.reshape(-1, 1, self.states) if self.shared else r
            new = [transitions, start, *self._statistics(self._steps(x), r)]
            self._sums = new if self._sums is None else [a + b for a, b in zip(self._sums, new, strict=True)]
            total, weights = total - w @ log_p, weights + w.sum()
        return total / weights

    def _statistics(self, x: torch.Tensor, r: torch.Tensor) -> list[torch.Tensor]:
        """Sums over the rows x (N, F), weighted by r (N, 1 or D, S): levels, known, x and x^2; sizes, y and y y'."""
        columns = self.columns
        values, reals = x[:, columns.normals], x[:, columns.reals]
        of_level, of_normal = columns.tables[columns.of_level], columns.normals

        def weighed(f: torch.Tensor, of: torch.Tensor) -> torch.Tensor:
            return r[:, 0].T @ f if self.shared else torch.einsum("nfs,nf->sf", r[:, of], f)

        known = (~values.isnan()).double()
        values = torch.nan_to_num(values)
        sums = [weighed(columns.one_hot(x), of_level), weighed(known, of_normal), weighed(values, of_normal)]
        sums += [weighed(values.square(), of_normal), r[:, 0].sum(0)]
        first, second = x.new_zeros(r.shape[2], columns.n_reals), x.new_zeros(r.shape[2], *[columns.n_reals] * 2)
        for s in range(r.shape[2] if columns.n_reals else 0):
            if hasattr(self, "_whole"):
                first[s], second[s] = _normal.moments(reals, r[:, 0, s], self.centre[s], self.covariance[s])
            else:  # before there is any covariance: of complete steps, or of what is there
                mean = torch.nanmean(reals, 0)
                filled = torch.where(reals.isnan(), mean, reals)
                first[s], second[s] = r[:, 0, s] @ filled, (filled * r[:, 0, s, None]).T @ filled
        return [*sums, first, second]

    def update(self) -> None:
        """The M-step: statistics of the steps of each state and of its pseudo-steps."""
        transitions, start, levels, known, x1, x2, size, y1, y2 = self._sums
        self._sums = None
        a = self.prior
        share, mean, variance, centre, covariance = self._whole
        smoothed = transitions + max(a, 1e-6) / self.states
        self.transition.copy_(smoothed / smoothed.sum(1, keepdim=True))
        start = start + max(a, 1e-6) / self.states
        self.start_p.copy_(start / start.sum())
        self.log_levels.copy_(self.columns.smoothed(levels + a * share, prior=1e-9))
        # The pseudo-steps widen a state but do not move it: they lie around its own mean.
        safe = known.clamp_min(1e-9)
        self.mean.copy_(torch.where(known > 1e-6, x1 / safe, mean))
        within = (x2 - self.mean * x1 * 2 + self.mean.square() * known).clamp_min(0)
        self.variance.copy_((within + a * variance) / (safe + a) + self.columns.rounding * 1e-3)
        n, held = size.clamp_min(1e-9)[:, None], size[:, None] > 1e-6
        self.centre.copy_(torch.where(held, y1 / n, centre))
        scatter = y2 - n[:, :, None] * self.centre[:, :, None] * self.centre[:, None, :]
        scatter = torch.where(held[:, :, None], scatter, torch.zeros_like(scatter))
        ridge = RIDGE * torch.eye(self.columns.n_reals, dtype=torch.float64, device=scatter.device)
        self.covariance.copy_((scatter + a * covariance) / (n[:, :, None] + a) + ridge)

    # ------------------------------------------------------------------------------------------------------ evaluate

    def log_prob(self, z, c=None, rng=None):
        parts = [self.chain.filter(self.log_emission(z[part]))[0] for part in self._parts(len(z))]
        return torch.cat(parts) if parts else torch.zeros(0, dtype=torch.float64)

    def state_probabilities(self, z: torch.Tensor) -> torch.Tensor:
        """Return p(s_t = i | x) of each step, (n, T, S)."""
        alpha = self.chain.filter(self.log_emission(z))[1]
        return self.chain.smooth(alpha, torch.ones_like(alpha[:, :, 0]))[0]

    def likely_states(self, z: torch.Tensor) -> torch.Tensor:
        """Return the jointly most likely states (n, T) given x (Viterbi)."""
        return self.chain.likely(self.log_emission(z))[0]

    # -------------------------------------------------------------------------------------------------------- sample

    def sample(self, n, c=None, *, rng):
        z = torch.empty(n, self.steps * self.width, dtype=torch.float64, device=self.mean.device)
        path = self.chain.sample(uniform(rng, (n, self.steps), z))
        return self._end(self._emit(path, None, rng))

    def sample_given(self, z, c=None, *, rng):
        """Fill the NaN of z: states by forward filtering and backward sampling, then cells given their state."""
        out = []
        for part in self._parts(len(z)):
            x = z[part]
            alpha = self.chain.filter(self.log_emission(x))[1]
            path = self.chain.draw(alpha, uniform(rng, (len(x), self.steps), alpha))
            out.append(self._emit(path, self._steps(x), rng).reshape(x.shape))
        return torch.cat(out) if out else z

    def _emit(self, path: torch.Tensor, x: torch.Tensor | None, rng) -> torch.Tensor:
        """Draw (n, T * width) given states (n, T), keeping the cells of x (N, F) that are known."""
        columns, n = self.columns, len(path)
        s = path.reshape(-1, 1) if self.shared else path  # (N, 1) or (N, D)
        drawn = torch.empty(len(s), self.dims, dtype=torch.float64, device=path.device)
        u = uniform(rng, (len(s), columns.n_tables), drawn)
        of_level = self.step[columns.tables[columns.of_level]]
        levels = torch.arange(columns.n_levels, device=path.device)
        drawn[:, columns.tables] = columns.draw_tables(self.log_levels[s[:, of_level], levels], u)
        g, of_normal = torch.arange(columns.n_normals, device=path.device), s[:, self.step[columns.normals]]
        noise = normal(rng, (len(s), columns.n_normals), drawn)
        values = self.mean[of_normal, g] + columns.deviation(self.variance)[of_normal, g] * noise
        drawn[:, columns.normals] = columns.round_lattice(values)
        if columns.n_reals:
            given = torch.full_like(drawn[:, columns.reals], torch.nan) if x is None else x[:, columns.reals]
            drawn[:, columns.reals] = self._emit_reals(s[:, 0], given, rng)
        if x is not None:
            drawn = torch.where(x.isnan(), drawn, x)
        return drawn.reshape(n, -1)

    def _emit_reals(self, s: torch.Tensor, given: torch.Tensor, rng) -> torch.Tensor:
        """Draw the NaN of rows (N, R) from the normal of their state given the rest (Matheron's rule).

        A joint draw y, moved by what the known cells say of its error: y + E[x - y | x_o - y_o].
        """
        cholesky = torch.linalg.cholesky(self.covariance)
        y = self.centre[s] + torch.einsum("nij,nj->ni", cholesky[s], normal(rng, tuple(given.shape), given))
        missing = given.isnan()
        if missing.all():
            return y
        for k in range(self.states):
            rows = ((s == k) & ~missing.all(1)).nonzero()[:, 0]
            error = (given[rows] - y[rows]).nan_to_num(0.0)
            y[rows] += _normal.regress(error, missing[rows], self.covariance[k])
        return torch.where(missing, y, given)

    def _end(self, z: torch.Tensor) -> torch.Tensor:
        """Nothing follows the END of a string."""
        if self.ends is None:
            return z
        over = (z == self.ends).cumsum(1) - (z == self.ends).long() > 0
        return torch.where(over, torch.nan, z)


@estimator
class HMM(Generative):
    """Hidden Markov model of series, text and rows in order; emissions of any kind; exact, also with missing cells.

    References: Rabiner, 1989.

    Examples:
        >>> import numpy as np, plausible as pl
        >>> rng = np.random.default_rng(0)
        >>> state = np.cumsum(rng.random((200, 30)) < 0.1, 1) % 2  # two states that last for ten steps
        >>> series = (4.0 * state + rng.normal(size=(200, 30)))[:, :, None]
        >>> model = pl.HMM(n_states=2, random_state=0).fit(series)
        >>> model.module_.transition.diagonal().numpy().round(1)
        array([0.9, 0.9])
    """

    n_states: int = option(8, "hidden states S", low=1)
    covariance: str = option(
        "auto", "of the channels of a series; 'auto' is full up to 64 of them", choices=("auto", "full", "diagonal")
    )
    n_init: int = option(3, "restarts, of which the best is carried on", low=1)
    max_iter: int = option(300, "iterations of Baum-Welch, at most", low=1)
    tol: float = option(1e-5, "nats a step by which an iteration must improve the fit for another to follow", low=0)
    prior: float = option(1.0, "pseudo-steps of the whole data that each state owns", low=0)
    budget: float | None = option(None, "seconds after which no further iteration or restart is begun", above=0)

    traits = Traits(
        density="exact", events=frozenset({"table", "text", "series"}), missing=True, given="exact", latent=True
    )

    def _transforms(self, space: Space):
        # Each step of a series has the same channels: they are put on one scale, not one for each step.
        return [Standardise(shared=True)] if space.type == "series" else [Standardise()]

    def _build(self, space: Space, context_space: Space) -> Module:
        event, columns = self.space_.type, space.columns
        width = space.shape[1] if event == "series" else 1
        shared = event in ("series", "text") or all(
            c.levels and (c.kind, c.levels) == (columns[0].kind, columns[0].levels) for c in columns
        )
        one = Space(columns[:width], (width,)) if shared else space
        reals = sum(c.kind == "real" for c in one.columns)
        full = shared and (self.covariance == "full" or (self.covariance == "auto" and 1 < reals <= FULL_UP_TO))
        if self.covariance == "full" and not shared:
            raise OptionError(
                "HMM(covariance='full') is for series of several channels; a step of a table is one column: "
                "use covariance='auto'"
            )
        ends = columns[0].n_levels - 1 if event == "text" and self.space_.end else None
        return _HMM(one, space.dims // width, shared, self.n_states, full, self.prior, ends)

    def _train(self, module: Module, train: Events, held_out: Events | None, rng: torch.Generator) -> History:
        z = train.take(torch.arange(len(train), device=train.x.device)).z.double()
        events = Events(z, None, train.weight, None, torch.float64)
        module.look(z, train.weight)
        end = math.inf if self.budget is None else time.perf_counter() + self.budget
        tolerance = self.tol * module.steps

        def improve(iterations: int, share: float) -> History:
            left = None if self.budget is None else max((end - time.perf_counter()) * share, 1e-3)
            settings = {"batch_size": None, "rng": rng, "tolerance": tolerance, "budget": left, "name": "HMM"}
            return run(em(module), events, epochs=iterations, **settings)

        best, best_state = math.inf, None
        for i in range(self.n_init):
            if best_state is not None and time.perf_counter() > end:
                break
            module.begin(z, train.weight, seed_of(rng))
            few = min(START_ITERATIONS, self.max_iter)
            loss = improve(few, 1 / (self.n_init - i + 1)).best if self.n_init > 1 else -math.inf
            if loss < best:
                best, best_state = loss, copied_state(module)
        module.load_state_dict(best_state)
        return improve(self.max_iter, 1.0)
