r"""Kernel density estimate: a kernel on every training row.

    p(x) = sum_j w_j K_j(x | x_j),     K_j(x | y) = K_H,j(x_R - y_R) prod_{d in G, T} k(x_d | y_d)

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
against 4096 kernels, and their common size, which EM approaches ever more slowly, is searched; then, from there times
the rate n^(-1 / (D + 4)), it is searched again with 256 to 1024 rows against all kernels.

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
from plausible.families.direct._kernel_mixture import KernelMixture
from plausible.families.direct._leave_one_out import Pairs, Rows, average
from plausible.families.direct._neighbours import distinct, neighbours
from plausible.options import OptionError, estimator, option
from plausible.space import Space
from plausible.training import Events, History, em, run

FLOOR = 1e-3  # smallest bandwidth, in deviations: a value that many rows share is no spike without bound
ROWS, SOME = 2048, 4096  # rows and kernels of the first choice of bandwidths
FEWEST, MOST, TERMS = 256, 1024, 25_000_000  # rows, and terms, of the second, against all kernels
STRIDE = 1.6  # steps of EM are this much longer; below two they still lead uphill
NUMBERS = (2, 4, 8, 16, 32, 64)  # neighbours to choose from
PASSES = 4  # of EM before choices of them are compared
SIZES, NEAR = 1.5, 0.25  # logarithms of the largest factors by which the common size is searched
FULL_UP_TO = 64  # real columns for which 'auto' takes a full matrix


class _KernelDensity(KernelMixture):
    """What fits the mixture. `candidates` are the k of adaptive kernels, of which the likelihood takes the best."""

    def __init__(self, space: Space, kernel: str, bandwidth: str | float, shape: str, candidates: tuple[int, ...] = ()):
        super().__init__(space, kernel, shape)
        self.bandwidth, self.candidates = bandwidth, candidates

    def keep(self, z: torch.Tensor, weight: torch.Tensor | None) -> None:
        """Take the rows as kernels; set the bandwidths by rule, which is also where the choice by likelihood starts."""
        self.centres, share = distinct(z, weight)
        share = share / share.sum()
        self.log_weights = share.log()
        self._start_reals(share)
        self._start_discrete(share)
        self.spread, self._nearest = torch.ones(1, dtype=share.dtype, device=share.device), None
        self.numbers = self.candidates if len(self.reals) else ()
        if self.numbers:
            self._look_around()

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

    def _look_around(self) -> None:
        """Find the neighbours of all rows, for all k that are possible."""
        n, given = len(self.centres), len(self.numbers) == 1
        self.numbers = tuple(k for k in self.numbers if k <= n - 2)
        if given and not self.numbers:
            raise DataError(f"kernels that adapt to their neighbours need more distinct rows than two plus k; got {n}")
        if self.numbers:
            white = self._white(self.centres)
            k = max(self.numbers) + 1
            distance, self._which = neighbours(white, white, k, torch.arange(n, device=white.device))
            self._distance = distance.clamp_min(1e-6)  # rows may agree in all reals and differ elsewhere

    def reach(self, k: int) -> None:
        """Make each kernel's spread follow the distance to its k-th neighbour."""
        middle = self._distance[:, k - 1].log().mean().exp()
        self.spread = self._distance[:, k - 1] / middle
        self._nearest = self._which[:, :k], self._distance[:, k] / middle

    def choose(self, rows: int, kernels: int, rng: torch.Generator) -> None:
        """Pick at random the rows and kernels of the leave-one-out likelihood."""
        n = len(self.centres)
        order = torch.randperm(n, generator=rng, device=rng.device).to(self.centres.device)
        self.rows, self.kept = order[:rows].sort().values, order[:kernels].sort().values
        self.own = torch.searchsorted(self.kept, self.rows)  # the rows are among the kernels

    def _pairs(self) -> Pairs | None:
        """Where a row at hand is among the neighbours of a kernel at hand."""
        if self._nearest is None:
            return None
        which, further = self._nearest
        place = torch.full((len(self.centres),), -1, dtype=torch.long, device=which.device)
        place[self.rows] = torch.arange(len(self.rows), device=which.device)
        i = place[which[self.kept]]  # (kernels, k)
        j, _ = (i >= 0).nonzero(as_tuple=True)
        i, order = i[i >= 0].sort()
        return Pairs(i, j[order], further[self.kept][j[order]])

    @property
    def learns(self) -> bool:
        """Whether the likelihood chooses anything."""
        by_likelihood = self.bandwidth == "likelihood" and bool(self.varies.any())
        return len(self.centres) > 1 and (by_likelihood or self.dims > len(self.reals))

    def summarise(self, z: torch.Tensor, weight: torch.Tensor | None) -> torch.Tensor:
        """An E-step on rows and kernels chosen from what is kept; return the mean loss, leave-one-out."""
        parts = []
        a, b, c, g = self._discrete_features(self.centres[self.rows], self.centres[self.kept])
        for index, features in ((self.rows, a), (self.kept, b)):
            z, w = self.centres[index], self.log_weights[index].exp()
            white = self._white(z) * self._like
            parts.append(Rows(white, features, z[:, self.reals], self._lattice(z), w))
        x, y = parts
        spread = self.spread if len(self.spread) == 1 else self.spread[self.kept]
        spread = spread.expand(len(self.kept)).contiguous()
        self._averages = average(x, y, self.own, c + self.log_weights[self.kept], spread, self._pairs())
        self._differ = self._differing(self._averages.products[g:])
        r = len(self.reals)
        log_det = self.factor.diagonal().log().sum() - r * math.log(self._like)
        x_part = self._row_constant(self.centres[self.rows])
        constant = (x.weight * x_part).sum() / x.weight.sum() - log_det - r * _kernels.LOG_SQRT_2PI
        return self._averages.loss - constant

    def _differing(self, products: torch.Tensor) -> torch.Tensor:
        """How often levels differ (T,), from the mean products of their features, which are `_gain` times [i = j].

        The gain is never zero, as a stays below what makes all levels alike.
        """
        parts = products.split([1 if k == 2 else k for k in self.n_levels])
        agree = [p.sum() / self._gain(d) + (0.5 if len(p) == 1 else 0.0) for d, p in enumerate(parts)]
        return 1 - torch.stack(agree) if agree else products

    def update(self) -> None:
        """The M-step."""
        _, scatter, squares, _ = self._averages
        self.width.copy_(_lattice.width(squares + self.alone))
        self.stray.copy_(torch.maximum(self._differ, self.least).minimum(0.999 * self.most))
        if self.bandwidth != "likelihood" or not self.varies.any():
            return
        live, root = self.varies, self.factor / self._like
        white = torch.linalg.solve_triangular(root, scatter, upper=False)
        white = torch.linalg.solve_triangular(root, white.T, upper=False)  # L^-1 S L^-T: how H is to change
        ratio = white.diagonal().clamp_min(1e-12)
        if self.shape == "full":
            values, vectors = torch.linalg.eigh(white[live][:, live])
            power = vectors * values.clamp_min(1e-12) ** STRIDE @ vectors.T
            block = root[live][:, live]
            new = torch.zeros_like(root)
            new[live.nonzero(), live.nonzero()[:, 0]] = block @ power @ block.T
            middle = new.diagonal()[live].mean()
            root = torch.linalg.cholesky(new + torch.where(live, FLOOR**2, middle).diag())
        else:
            ratio = ratio[live].mean().expand_as(ratio) if self.shape == "scalar" else ratio
            h = root.diagonal() * torch.where(live, ratio, ratio[live].mean()) ** (STRIDE / 2)
            root = h.clamp_min(FLOOR).diag()
        self.factor.copy_(root * self._like)

    def forget(self) -> None:
        """Let go of what only the fit needed."""
        self._distance = self._which = self._nearest = self._averages = None
        self.rows = self.kept = self.own = None

    def shrink(self, n: int, more: int) -> None:
        """From bandwidths that suit n kernels to those for `more`, at the rate at which the best ones fall."""
        if self.bandwidth == "likelihood":
            self.factor.mul_((n / more) ** (1 / (len(self.reals) + 4)))


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
    adaptive: int | str | None = option(
        None,
        "make each kernel as wide as its row's k-th neighbour is far: this k, or its choice; None for equal kernels",
        low=1,
        choices=("likelihood", None),
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
        numbers = () if self.adaptive is None else NUMBERS if self.adaptive == "likelihood" else (self.adaptive,)
        return _KernelDensity(space, self.kernel, self.bandwidth, shape, numbers)

    def _train(self, module: Module, train: Events, held_out: Events | None, rng: torch.Generator) -> History:
        return fit_bandwidths(module, train, self.max_iter, rng, type(self).__name__)


def fit_bandwidths(module: _KernelDensity, train: Events, max_iter: int, rng: torch.Generator, name: str) -> History:
    """Take the rows as kernels, and choose what the likelihood is to choose."""
    module.keep(train.take(slice(None)).z.flatten(1).double(), train.weight)
    # The module has its data; a step only has to be called.
    events = Events(module.centres[:1], None, None, None, torch.float64)

    def improve(passes: int) -> History:
        step = em(module) if module.learns else _nothing
        return run(step, events, epochs=passes, batch_size=None, rng=rng, tolerance=1e-3, name=name)

    n = len(module.centres)
    module.choose(ROWS, SOME, rng)
    best, state = math.inf, None
    for i, k in enumerate(module.numbers if len(module.numbers) > 1 else ()):
        module.reach(k)
        if i == 0:  # the others start from what suits the one before
            improve(PASSES)
            _set_size(module)
        loss = improve(PASSES).best
        if loss < best:
            best, state = loss, (k, module.factor.clone())
    if state is not None:
        module.factor.copy_(state[1])
    if module.numbers:
        module.reach(state[0] if state else module.numbers[0])
    history = improve(max_iter)
    _set_size(module)
    if n > SOME and module.learns:
        module.shrink(SOME, n)
        module.choose(min(max(TERMS // n, FEWEST), MOST), n, rng)
        _set_size(module, NEAR)  # so few rows could not be trusted further from the rate
    module.forget()
    return history


def _set_size(module: _KernelDensity, reach: float = SIZES) -> None:
    """Search the common size of the real columns' bandwidths, up to exp(reach) times what it is."""
    from scipy.optimize import minimize_scalar

    if module.bandwidth != "likelihood" or not module.learns or not len(module.reals):
        return
    factor = module.factor.clone()
    smallest = float((FLOOR * module._like / factor.diagonal()).log().max())

    def loss(log_size: float) -> float:
        module.factor.copy_(factor * math.exp(log_size))
        return float(module.summarise(module.centres, None))

    bounds = (max(-reach, min(smallest, 0.0)), reach)
    found = minimize_scalar(loss, bounds=bounds, method="bounded", options={"xatol": reach / 50})
    module.factor.copy_(factor * math.exp(found.x) if found.fun < loss(0.0) else factor)


def _nothing(batch, rng) -> dict[str, torch.Tensor]:
    """A step for when rules have said it all."""
    return {"loss": torch.zeros((), dtype=torch.float64)}
