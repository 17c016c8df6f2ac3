r"""Kernel density estimate: a kernel on every training row.

    p(x) = sum_j w_j K_j(x | x_j),     K_j(x | y) = K_H,j(x_R - y_R) prod_{d in G} k(x_d | y_d) prod_{d in T} k(x_d | y_d)

w_j are the rows' shares of the weight, equal rows being one row with their weights together. R are the real columns,

    K_H,j(u) = prod_d k((L^-1 u)_d / s_j) / (s_j^|R| det L),     H = L L'

with k one of six kernels, H a multiple of the identity (of standardised columns), diagonal, or, for the Gaussian, any
positive matrix, and s_j = 1 or, adaptive, proportional to the distance of row j to its k-th neighbour. On lattices G
(counts, ordinal columns) k is the discrete Gaussian of ``_lattice.py``; on levels T (binary, categorical) it is
Aitchison and Aitken's, 1 - a on the level itself and a / (K - 1) on each other. All kernels are products over columns
or Gaussian, so that marginals are exact: a missing cell leaves its factor out.

The default bandwidths maximise the leave-one-out likelihood sum_i w_i log p_-i(x_i), all of them together by EM, in
which r_ij is the share of kernel j in p_-i(x_i):

    H = sum_ij w_i r_ij (x_i - x_j)(x_i - x_j)' / s_j^2,     a_d = sum_ij w_i r_ij [x_id != x_jd]

That is done for the Gaussian kernel; another one gets the width that smooths as much. Of many rows, 2048 stand for all
against 4096 kernels; then, from there times the rate n^(-1 / (D + 4)), 256 to 1024 rows against all kernels set the
common size.

References: Silverman, Density Estimation, 1986. Duin, On the choice of smoothing parameters for Parzen estimators,
1976. Breiman, Meisel and Purcell, Variable kernel estimates, 1977. Aitchison and Aitken, Multivariate binary
discrimination by the kernel method, 1976. Leiva-Murillo and Artes-Rodriguez, Algorithms for maximum-likelihood
bandwidth selection in kernel density estimators, 2012 (the EM).
"""

from __future__ import annotations

import math

import torch

from plausible.base import Generative, Module, Traits
from plausible.errors import DataError
from plausible.families.direct import _kernels, _lattice
from plausible.families.direct._bandwidths import RULES, by_rule
from plausible.families.direct._leave_one_out import Pairs, Rows, average
from plausible.families.direct._neighbours import distinct, neighbours
from plausible.options import OptionError, estimator, option
from plausible.randomness import uniform
from plausible.space import Space
from plausible.training import Events, History, em, run

FLOOR = 1e-3  # smallest bandwidth, in deviations: a value that many rows share is no spike without bound
ROWS, SOME = 2048, 4096  # rows and kernels of the first choice of bandwidths
FEWEST, MOST, TERMS = 256, 1024, 25_000_000  # rows, and terms, of the second, against all kernels
STRIDE = 1.6  # steps of EM are this much longer; below two they still lead uphill
AT_ONCE = 8192  # rows to be scored at a time
FULL_UP_TO = 64  # real columns for which 'auto' takes a full matrix


class _KernelDensity(Module):
    """Legend: n kernels, R real columns, G lattices, T columns of levels; q rows to be scored."""

    variable_buffers = ("centres", "log_weights", "spread")

    def __init__(self, space: Space, kernel: str, bandwidth: str | float, shape: str, adaptive: int | None):
        super().__init__()
        columns = space.columns
        self.kernel, self.bandwidth, self.shape, self.adaptive = kernel, bandwidth, shape, adaptive
        self.dims = space.dims
        reals = [d for d, c in enumerate(columns) if c.kind == "real"]
        lattices = [d for d, c in enumerate(columns) if c.kind in ("ordinal", "count")]
        levels = [d for d, c in enumerate(columns) if c.kind in ("binary", "categorical") and c.n_levels > 1]
        self.n_levels = [columns[d].n_levels for d in levels]

        def buffer(name, values, dtype=torch.float64, persistent=False):
            self.register_buffer(name, torch.tensor(values, dtype=dtype), persistent=persistent)

        for name, places in (("reals", reals), ("lattices", lattices), ("levels", levels)):
            buffer(name, places, torch.long)
        steps = [columns[d].step for d in lattices]
        buffer("step", steps)
        lows = [0.0 if columns[d].levels else columns[d].low for d in lattices]
        highs = [columns[d].n_levels - 1.0 if columns[d].levels else columns[d].high for d in lattices]
        buffer("low", [-math.inf if b is None else round(b / s) for b, s in zip(lows, steps, strict=True)])
        buffer("high", [math.inf if b is None else round(b / s) for b, s in zip(highs, steps, strict=True)])

        r = len(reals)
        self.register_buffer("factor", torch.eye(r, dtype=torch.float64))  # L
        buffer("width", [1.0] * len(lattices), persistent=True)  # h of the lattices, in steps
        buffer("most", [1 - 1 / k for k in self.n_levels])  # the a at which all levels are alike
        buffer("stray", [0.5 - 0.5 / k for k in self.n_levels], persistent=True)  # a
        self.register_buffer("centres", torch.zeros(1, space.dims, dtype=torch.float64))
        self.register_buffer("log_weights", torch.zeros(1, dtype=torch.float64))
        self.register_buffer("spread", torch.ones(1, dtype=torch.float64))  # s, of every kernel or of all

    @property
    def n_parameters(self) -> int:
        r = len(self.reals)
        own = {"scalar": min(r, 1), "diagonal": r, "full": r * (r + 1) // 2}[self.shape]
        return self.centres.numel() + own + len(self.width) + len(self.stray)

    # ------------------------------------------------------------------------------------------------------- fit

    def keep(self, z: torch.Tensor, weight: torch.Tensor | None) -> None:
        """Take the rows as kernels; set the bandwidths by rule, which is also where the choice by likelihood starts."""
        self.centres, share = distinct(z, weight)
        share = share / share.sum()
        self.log_weights = share.log()
        self._start_reals(share)
        self._start_discrete(share)
        self.spread, self._nearest = torch.ones(1, dtype=share.dtype, device=share.device), None
        if self.adaptive and len(self.reals):
            self._adapt()

    def _start_reals(self, share: torch.Tensor) -> None:
        x, r = self.centres[:, self.reals], len(self.reals)
        covariance = torch.cov(x.T, aweights=share, correction=0).reshape(r, r)
        variance = covariance.diagonal()
        self.varies = variance > 1e-18
        variance = torch.where(self.varies, variance, 1.0)  # a column that never changes keeps its unit
        root = variance.sqrt().diag()
        if self.shape == "full":  # two equal columns have a singular covariance
            root = torch.linalg.cholesky(covariance + torch.where(self.varies, 1e-9 * variance, 1.0).diag())
        if isinstance(self.bandwidth, str):
            rule = self.bandwidth if self.bandwidth in RULES else "silverman"
            white = torch.linalg.solve_triangular(root, x.T, upper=False).T
            h = torch.from_numpy(by_rule(rule, white.cpu().numpy(), share.cpu().numpy())).to(x)
            h = (h.log().mean().exp().expand(r) if self.shape == "scalar" and r else h).clamp_min(FLOOR) * self._like
        else:
            h = torch.full((r,), float(self.bandwidth), dtype=x.dtype, device=x.device)
        self.factor.copy_(root * h)

    @property
    def _like(self) -> float:
        """How much wider this kernel is than a Gaussian that smooths as much."""
        return _kernels.canonical(self.kernel, max(len(self.reals), 1))

    def _start_discrete(self, share: torch.Tensor) -> None:
        """Lattices by Silverman's rule; levels at a tenth of what would make them all alike."""
        n = 1 / share.square().sum()
        y = self._lattice(self.centres)
        variance = share @ (y - share @ y).square()
        self.width.copy_(_lattice.width(variance * n ** (-2 / (4 + self.dims)) + 1 / (n + 1)))
        # Not less than if of n + K rows K - 1 had another level than their neighbour: what was not seen may come.
        k = 1 / (1 - self.most)
        self.least = (k - 1) / (n + k)
        self.stray.copy_(torch.maximum(0.1 * self.most, self.least))
        self.alone = 1 / (n + 1)  # and as if of n + 1 one were a step of its lattice off

    def _adapt(self) -> None:
        """Make each kernel's spread follow the distance to its k-th neighbour."""
        n, k = len(self.centres), self.adaptive
        if n < k + 2:
            raise DataError(
                f"KernelDensity(adaptive={k}) needs at least {k + 2} distinct rows, got {n}; use fewer neighbours"
            )
        white = self._white(self.centres)
        distance, which = neighbours(white, white, k + 1, own=True)
        distance = distance.clamp_min(1e-6)  # rows may agree in all reals and differ elsewhere
        middle = distance[:, k - 1].log().mean().exp()
        self.spread, self._nearest = distance[:, k - 1] / middle, (which[:, :k], distance[:, k] / middle)

    def choose(self, rows: int, kernels: int, rng: torch.Generator) -> None:
        """Pick at random the rows and kernels of the leave-one-out likelihood."""
        n = len(self.centres)
        order = torch.randperm(n, generator=rng, device=rng.device).to(self.centres.device)
        self.rows, self.kept = order[:rows].sort().values, order[:kernels].sort().values
        self.own = torch.searchsorted(self.kept, self.rows)  # the rows are among the kernels
        self._pairs = None
        if self._nearest is not None:
            which, further = self._nearest
            place = torch.full((n,), -1, dtype=torch.long, device=which.device)
            place[self.rows] = torch.arange(len(self.rows), device=which.device)
            i = place[which[self.kept]]  # (kernels, k)
            j, _ = (i >= 0).nonzero(as_tuple=True)
            i, order = i[i >= 0].sort()
            self._pairs = Pairs(i, j[order], further[self.kept][j[order]])

    @property
    def learns(self) -> bool:
        """Whether the likelihood chooses anything."""
        by_likelihood = self.bandwidth == "likelihood" and bool(self.varies.any())
        return len(self.centres) > 1 and (by_likelihood or self.dims > len(self.reals))

    def summarise(self, z: torch.Tensor, weight: torch.Tensor | None) -> torch.Tensor:
        """An E-step on rows and kernels chosen from what is kept; return the mean loss, leave-one-out."""
        parts = []
        a, b, c, _ = self._discrete_features(self.centres[self.rows], self.centres[self.kept])
        for index, features in ((self.rows, a), (self.kept, b)):
            z, w = self.centres[index], self.log_weights[index].exp()
            white = self._white(z) * self._like
            parts.append(Rows(white, features, z[:, self.reals], self._lattice(z), z[:, self.levels].long(), w))
        x, y = parts
        spread = self.spread if len(self.spread) == 1 else self.spread[self.kept]
        spread = spread.expand(len(self.kept)).contiguous()
        self._averages = average(x, y, self.own, c + self.log_weights[self.kept], spread, self._pairs)
        r = len(self.reals)
        log_det = self.factor.diagonal().log().sum() - r * math.log(self._like)
        x_part = self._row_constant(self.centres[self.rows])
        constant = (x.weight * x_part).sum() / x.weight.sum() - log_det - r * _kernels.LOG_SQRT_2PI
        return self._averages.loss - constant

    def update(self) -> None:
        """The M-step: of all bandwidths, or, of the real columns, of their common size."""
        _, scatter, squares, differ = self._averages
        self.width.copy_(_lattice.width(squares + self.alone))
        self.stray.copy_(torch.maximum(differ, self.least).minimum(self.most))
        if self.bandwidth != "likelihood" or not self.varies.any():
            return
        live, root = self.varies, self.factor / self._like
        white = torch.linalg.solve_triangular(root, scatter, upper=False)
        white = torch.linalg.solve_triangular(root, white.T, upper=False)  # L^-1 S L^-T: how H is to change
        ratio = white.diagonal().clamp_min(1e-12)
        if self.tied:
            root = root * ratio[live].mean() ** (STRIDE / 2)
        elif self.shape == "full":
            values, vectors = torch.linalg.eigh(white[live][:, live])
            power = vectors * values.clamp_min(1e-12) ** STRIDE @ vectors.T
            block = root[live][:, live]
            new = torch.eye(len(root), dtype=root.dtype, device=root.device) * 0
            new[live.nonzero(), live.nonzero()[:, 0]] = block @ power @ block.T
            middle = new.diagonal()[live].mean()
            root = torch.linalg.cholesky(new + torch.where(live, FLOOR**2, middle).diag())
        else:
            ratio = ratio[live].mean().expand_as(ratio) if self.shape == "scalar" else ratio
            h = root.diagonal() * torch.where(live, ratio, ratio[live].mean()) ** (STRIDE / 2)
            root = h.clamp_min(FLOOR).diag()
        self.factor.copy_(root * self._like)

    def shrink(self, n: int, more: int) -> None:
        """From bandwidths that suit n kernels to those for `more`, at the rate at which the best ones fall."""
        if self.bandwidth == "likelihood":
            self.factor.mul_((n / more) ** (1 / (len(self.reals) + 4)))

    # --------------------------------------------------------------------------------------------------- answers

    def _lattice(self, z: torch.Tensor) -> torch.Tensor:
        """Lattice columns in steps (n, G)."""
        return (z[:, self.lattices] / self.step).round()

    def _white(self, z: torch.Tensor, known: torch.Tensor | None = None) -> torch.Tensor:
        """(L^-1 x_R)' for rows (n, D), or for those of the real columns that are known."""
        return torch.linalg.solve_triangular(self._root(known), z[:, self.reals[self._of(known)]].T, upper=False).T

    def _of(self, known: torch.Tensor | None):
        return slice(None) if known is None else known[self.reals]

    def _root(self, known: torch.Tensor | None) -> torch.Tensor:
        """The factor of H, or of its block of the known columns."""
        if known is None or known[self.reals].all():
            return self.factor
        part = known[self.reals]
        rows = self.factor[part]
        return rows[:, part] if self.shape != "full" else torch.linalg.cholesky(rows @ rows.T)

    def _discrete_features(self, z: torch.Tensor, centres: torch.Tensor, known: torch.Tensor | None = None):
        """a (q, F), b (n, F) and c (n,) of lattices and levels, and which features are of lattices.

        log K = a . b + c + a constant of the row, see `_row_constant`.
        """
        kinds = torch.ones(self.dims, dtype=torch.bool, device=z.device) if known is None else known
        g, t = kinds[self.lattices], kinds[self.levels]
        h = self.width[g]
        x, y = self._lattice(z)[:, g] / h, self._lattice(centres)[:, g] / h
        c = -0.5 * y.square().sum(1)
        for d in g.nonzero()[:, 0].tolist():
            c = c - self._log_z(self._lattice(centres)[:, d], d)
        a, b = [x], [y]
        for d in t.nonzero()[:, 0].tolist():
            k, column = self.n_levels[d], self.levels[d]
            gain = (1 - self.stray[d]).log() - (self.stray[d] / (k - 1)).log()
            i, j = z[:, column], centres[:, column]
            if k == 2:  # [i = j] = (1 + s_i s_j) / 2 with signs s
                a.append((gain / 2 * (2 * i - 1))[:, None])
                b.append((2 * j - 1)[:, None])
                c = c + gain / 2
            else:
                a.append(gain * torch.nn.functional.one_hot(i.long(), k).to(z))
                b.append(torch.nn.functional.one_hot(j.long(), k).to(z))
        return torch.cat(a, 1), torch.cat(b, 1), c, x.shape[1]

    def _log_z(self, y: torch.Tensor, d: int) -> torch.Tensor:
        return _lattice.log_z(y, float(self.width[d]), float(self.low[d]), float(self.high[d]))

    def _row_constant(self, z: torch.Tensor, known: torch.Tensor | None = None) -> torch.Tensor:
        """What of log K depends on the row and not on the kernel: (q,)."""
        kinds = torch.ones(self.dims, dtype=torch.bool, device=z.device) if known is None else known
        g, t = kinds[self.lattices], kinds[self.levels]
        k = 1 / (1 - self.most[t])
        x = self._lattice(z)[:, g] / self.width[g]
        return -0.5 * x.square().sum(1) + (self.stray[t] / (k - 1)).log().sum()

    def _features(self, z: torch.Tensor, known: torch.Tensor, direct: bool):
        """a, b, c and e of `log_sums`, and the constant of every row, for rows with these known cells.

        Args:
            direct: take real columns and lattices from differences, as products of features would lose digits.
        """
        a, b, c, g = self._discrete_features(z, self.centres, known)
        constant = self._row_constant(z, known)
        c = c + self.log_weights
        x, y, s = self._white(z, known), self._white(self.centres, known), self.spread
        r = x.shape[1]
        constant = constant + r * _kernels.log_constant(self.kernel) - self._root(known).diagonal().log().sum()
        c = c - r * s.log()
        if direct or self.kernel != "gaussian":
            x_g, y_g = a[:, :g], b[:, :g]
            if direct:
                c, constant = c + 0.5 * y_g.square().sum(1), constant + 0.5 * x_g.square().sum(1)
                a, b = a[:, g:], b[:, g:]

            def extra(rows, part):
                spread = s if len(s) == 1 else s[part]
                e = _kernels.log_kernel(self.kernel, x[rows], y[part], spread)
                return e + _kernels.log_kernel("gaussian", x_g[rows], y_g[part], s.new_ones(1)) if direct else e

            return a, b, c, extra, constant
        half = -0.5 * y.square().sum(1)
        if len(s) == 1:
            return torch.cat([a, x], 1), torch.cat([b, y], 1), c + half, None, constant - 0.5 * x.square().sum(1)
        inverse = 1 / s.square()
        a = torch.cat([a, x, -0.5 * x.square().sum(1, keepdim=True)], 1)
        return a, torch.cat([b, y * inverse[:, None], inverse[:, None]], 1), c + half * inverse, None, constant

    def _safe(self, z: torch.Tensor, known: torch.Tensor) -> torch.Tensor:
        """Which rows are near enough for products of features to keep their digits: (q,)."""
        if self.kernel != "gaussian":
            return torch.ones(len(z), dtype=torch.bool, device=z.device)
        g = known[self.lattices]
        x = self._white(z, known).square().sum(1) / self.spread.min().square()
        return x + (self._lattice(z)[:, g] / self.width[g]).square().sum(1) < _kernels.SAFE

    def _jobs(self, z: torch.Tensor):
        """(rows, known columns, features) for the rows of z (q, D), by pattern of missing cells; few rows at a time."""
        patterns, which = torch.unique(z.isnan(), dim=0, return_inverse=True)
        for p, missing in enumerate(patterns):
            rows = (which == p).nonzero()[:, 0]
            safe = self._safe(z[rows], ~missing)
            for direct, part in ((False, rows[safe]), (True, rows[~safe])):
                for some in part.split(AT_ONCE) if len(part) else ():
                    yield some, ~missing, self._features(torch.nan_to_num(z[some]), ~missing, direct)

    def log_prob(self, z, c=None, rng=None):
        z = z.reshape(len(z), -1).double()
        log_p = torch.empty(len(z), dtype=torch.float64, device=z.device)
        for rows, _, (*features, constant) in self._jobs(z):
            log_p[rows] = _kernels.log_sums(*features).logsumexp(1) + constant
        return log_p

    def sample(self, n, c=None, *, rng):
        u = uniform(rng, (n,), self.centres)
        below = self.log_weights.exp().cumsum(0)
        j = torch.searchsorted(below, u * below[-1], right=True).clamp_max(len(below) - 1)
        return self._draw(j, rng)

    def sample_given(self, z, c=None, *, rng):
        """Fill the NaN of z: choose a kernel by its weight at what is known, then draw the rest from it."""
        shape, z = z.shape, z.reshape(len(z), -1).double()
        j = torch.empty(len(z), dtype=torch.long, device=z.device)
        u = uniform(rng, (len(z), 2), z)
        for rows, _, (a, b, c, extra, _) in self._jobs(z):
            j[rows] = _kernels.draw_kernels(a, b, c, extra, u[rows])
        drawn = self._draw(j, rng)
        if self.shape == "full" and len(self.reals):
            drawn = self._pulled(z, drawn, j)
        return torch.where(z.isnan(), drawn, z).reshape(shape)

    def _draw(self, j: torch.Tensor, rng) -> torch.Tensor:
        """Draw from the kernels j (n,): rows (n, D)."""
        z = self.centres[j]
        s = self.spread if len(self.spread) == 1 else self.spread[j, None]
        z[:, self.reals] += _kernels.noise(self.kernel, len(j), len(self.reals), rng, z) @ self.factor.T * s
        if len(self.lattices):
            z[:, self.lattices] = _lattice.draw(self._lattice(z), self.width, self.low, self.high, rng) * self.step
        u = uniform(rng, (len(j), 2 * len(self.levels)), z)
        for d, (k, column) in enumerate(zip(self.n_levels, self.levels.tolist(), strict=True)):
            other = (u[:, 2 * d] * (k - 1)).floor().clamp_max(k - 2)
            other = other + (other >= z[:, column]).to(z)
            z[:, column] = torch.where(u[:, 2 * d + 1] < self.stray[d], other, z[:, column])
        return z

    def _pulled(self, z: torch.Tensor, drawn: torch.Tensor, j: torch.Tensor) -> torch.Tensor:
        """Make draws from whole Gaussians draws given the known cells: add H_mo H_oo^-1 (x_o - what was drawn of it)."""
        x, y = z[:, self.reals], drawn[:, self.reals]
        covariance = self.factor @ self.factor.T
        patterns, which = torch.unique(x.isnan(), dim=0, return_inverse=True)
        for p, missing in enumerate(patterns):
            rows, known = (which == p).nonzero()[:, 0], ~missing
            if missing.any() and known.any():
                gain = torch.linalg.solve(covariance[known][:, known], covariance[known][:, missing])
                pull = (x[rows][:, known] - y[rows][:, known]) @ gain
                y[rows[:, None], missing.nonzero()[:, 0]] += pull
        drawn[:, self.reals] = y
        return drawn


@estimator
class KernelDensity(Generative):
    """Kernel density estimate with bandwidths by leave-one-out likelihood; exact, also where cells are missing.

    References: Silverman, Density Estimation, 1986. Duin, 1976.

    Examples:
        >>> import numpy as np, plausible as pl
        >>> from scipy.stats import gaussian_kde
        >>> X = np.random.default_rng(0).normal(size=(200, 2)) @ [[10.0, 9.0], [0.0, 4.0]]
        >>> truth = gaussian_kde(X.T, 0.4 * (199 / 200) ** 0.5).logpdf(X.T)
        >>> bool(np.allclose(pl.KernelDensity(bandwidth=0.4, shape="full").fit(X).log_prob(X), truth))
        True
        >>> pl.KernelDensity(random_state=0).fit(X).sample(3, random_state=0).shape
        (3, 2)
    """

    kernel: str = option("gaussian", "of the real columns", choices=_kernels.NAMES)
    bandwidth: str | float = option(
        "likelihood",
        "of the real columns: in deviations of each, or the rule that chooses it; likelihood is leave-one-out",
        above=0,
        choices=("likelihood", *RULES),
    )
    shape: str = option(
        "auto",
        "of the bandwidth matrix: scalar times the variances, diagonal, or full (Gaussian kernel only)",
        choices=("auto", "scalar", "diagonal", "full"),
    )
    adaptive: int | None = option(
        None, "let each kernel reach as far as its row's k-th neighbour: this k; None for equal kernels", low=1
    )
    max_iter: int = option(30, "passes of EM over the leave-one-out likelihood, at most", low=1)

    traits = Traits(density="exact", events=frozenset({"table", "image", "series"}), marginals=True, given="exact")

    def _build(self, space: Space, context_space: Space) -> Module:
        n_reals = sum(c.kind == "real" for c in space.columns)
        shape = self.shape
        if shape == "full" and self.kernel != "gaussian":
            raise OptionError(
                f"KernelDensity(shape='full', kernel={self.kernel!r}): only the Gaussian kernel takes a full matrix; "
                "the others are products over the columns: use shape='diagonal'"
            )
        if shape == "auto":
            shape = "full" if self.kernel == "gaussian" and n_reals <= FULL_UP_TO else "diagonal"
        return _KernelDensity(space, self.kernel, self.bandwidth, shape, self.adaptive)

    def _train(self, module: Module, train: Events, held_out: Events | None, rng: torch.Generator) -> History:
        z = train.take(slice(None)).z.flatten(1).double()
        module.keep(z, train.weight)
        events = Events(z[:1], None, None, None, torch.float64)  # the module has the data; a step asks for a batch
        settings = {"batch_size": None, "rng": rng, "tolerance": 1e-3, "name": "KernelDensity"}
        n, module.tied = len(module.centres), False
        module.choose(ROWS, SOME, rng)
        if not module.learns:
            return run(_nothing, events, epochs=1, **settings)
        history = run(em(module), events, epochs=self.max_iter, **settings)
        if n > SOME:
            module.tied = True
            module.shrink(SOME, n)
            module.choose(min(max(TERMS // n, FEWEST), MOST), n, rng)
            history = run(em(module), events, epochs=min(self.max_iter, 4), **settings)
        return history


def _nothing(batch, rng) -> dict[str, torch.Tensor]:
    """A step for when rules have said it all."""
    return {"loss": torch.zeros((), dtype=torch.float64)}
