r"""Densities from the distance to the k-th neighbour.

    kernel     p(x) = sum_j w_j N(x; x_j, (h r_k(x_j))^2 S)          the sample-point estimate: a density
    balloon    p(x) = W_k(x) / (V_D r_k(x)^D sqrt det S)             the classical one: no density

r_k(x) is the distance from x to the k-th nearest training row, where |u|^2 = u' S^-1 u; V_D the volume of the unit ball
of D dimensions and W_k(x) the share of the weight of these k rows, k / n if all weigh the same. In `kernel` each row
has a Gaussian that reaches as far as its own k-th neighbour; S and h are fitted with k, by leave-one-out likelihood: it
is `KernelDensity` with adaptive kernels; columns that are not real have kernels of one width.

`balloon` asks how many rows there are around x. Its integral diverges, as its tails fall like |x|^-D only: what it
gives is an estimate of p(x) near the data, its `likelihood_kind_` is 'estimate', and its samples (a row, and a uniform
draw from the ball about it) are those of another density.

Equal rows are one row with their weights together, so that they are nobody's neighbour at distance zero; a query that
is a training row counts its weight and takes the k-th neighbour beyond. Nothing is infinite.

References: Loftsgaarden and Quesenberry, A nonparametric estimate of a multivariate density function, 1965. Breiman,
Meisel and Purcell, Variable kernel estimates of multivariate densities, 1977. Terrell and Scott, Variable kernel
density estimation, 1992.
"""

from __future__ import annotations

import math

import torch

from plausible.base import Generative, Module, Traits
from plausible.errors import DataError
from plausible.families.direct._neighbours import distinct, neighbours
from plausible.families.direct.kernel_density import FULL_UP_TO, NUMBERS, _KernelDensity, fit_bandwidths
from plausible.options import estimator, option
from plausible.randomness import uniform
from plausible.space import Space
from plausible.training import Events, History, run

COPY = 1e-9  # deviations: nearer than that is the same row
ROWS = 2000  # for the leave-one-out likelihood of the balloon
CANDIDATES = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024)  # k of the balloon
MOST = 128  # the largest of them in more dimensions than a tree is good for


class _Balloon(Module):
    """Legend: n distinct rows, D columns."""

    variable_buffers = ("rows", "weights")
    bound_samples = 1  # an estimate without noise

    def __init__(self, dims: int, shape: str):
        super().__init__()
        self.dims, self.shape = dims, shape
        self.register_buffer("rows", torch.zeros(1, dims, dtype=torch.float64))  # S^-1/2 x
        self.register_buffer("weights", torch.ones(1, dtype=torch.float64))
        self.register_buffer("factor", torch.eye(dims, dtype=torch.float64))  # S = factor factor'
        self.register_buffer("k", torch.ones((), dtype=torch.long))

    @property
    def n_parameters(self) -> int:
        return self.rows.numel() + 1 + (self.dims * (self.dims + 1) // 2 if self.shape == "full" else 0)

    def keep(self, z: torch.Tensor, weight: torch.Tensor | None) -> None:
        z, w = distinct(z, weight)
        self.weights = w / w.sum()
        if self.shape == "full":
            covariance = torch.cov(z.T, aweights=w, correction=0).reshape(self.dims, self.dims)
            variance = covariance.diagonal()
            # Columns that never change keep their unit; two equal ones have a singular covariance.
            ridge = torch.where(variance > 1e-18, 1e-9 * variance, 1.0)
            self.factor.copy_(torch.linalg.cholesky(covariance + ridge.diag()))
        self.rows = self._white(z)

    def _white(self, z: torch.Tensor) -> torch.Tensor:
        return torch.linalg.solve_triangular(self.factor, z.T, upper=False).T.contiguous()

    def choose(self, k: int | str, rng: torch.Generator) -> torch.Tensor:
        """Set k, or that with the best leave-one-out likelihood; return the loss of it, in nats."""
        n = len(self.rows)
        some = torch.randperm(n, generator=rng, device=rng.device)[:ROWS].to(self.rows.device)
        if isinstance(k, int) and k >= n:
            raise DataError(f"KNNDensity(n_neighbors={k}) needs more than {k} distinct rows, got {n}")
        most = CANDIDATES[-1] if self.dims <= 8 else MOST
        numbers = [k] if isinstance(k, int) else [m for m in CANDIDATES if m <= min(n - 1, most)]
        if not numbers:
            return torch.zeros((), dtype=torch.float64)
        distance, which = neighbours(self.rows[some], self.rows, numbers[-1], some)
        others = self.weights[which].cumsum(1) / (1 - self.weights[some, None])
        log_p = others.log() - self._log_volume(distance.clamp_min(COPY))
        scores = self.weights[some] @ log_p[:, [m - 1 for m in numbers]] / self.weights[some].sum()
        self.k.fill_(numbers[int(scores.argmax())])
        return -scores.max()

    def _log_volume(self, radius: torch.Tensor) -> torch.Tensor:
        """log of the volume of balls, in model space."""
        unit = 0.5 * self.dims * math.log(math.pi) - math.lgamma(0.5 * self.dims + 1)
        return unit + self.dims * radius.log() + self.factor.diagonal().log().sum()

    def log_prob(self, z, c=None, rng=None):
        k = min(int(self.k), len(self.rows) - 1) if len(self.rows) > 1 else 1
        x = self._white(z.reshape(len(z), -1).double())
        distance, which = neighbours(x, self.rows, min(k + 1, len(self.rows)))
        weight = self.weights[which].cumsum(1)
        last = k - (distance[:, :1] > COPY).long()  # one further where the nearest is the row itself
        last = last.clamp_max(distance.shape[1] - 1)
        radius = distance.gather(1, last)[:, 0].clamp_min(COPY)
        return weight.gather(1, last)[:, 0].log() - self._log_volume(radius)

    def sample(self, n, c=None, *, rng):
        below = self.weights.cumsum(0)
        u = uniform(rng, (n, 2), below)
        j = torch.searchsorted(below, u[:, 0].contiguous() * below[-1], right=True).clamp_max(len(below) - 1)
        radius = torch.ones(n, dtype=below.dtype, device=below.device)
        if len(below) > 1:
            k = min(int(self.k), len(below) - 1)
            radius = neighbours(self.rows[j], self.rows, k, j)[0][:, -1]
        e = torch.randn(n, self.dims, generator=rng, dtype=below.dtype, device=below.device)
        e = e / e.norm(dim=1, keepdim=True).clamp_min(1e-300) * (u[:, 1] ** (1 / self.dims) * radius)[:, None]
        return (self.rows[j] + e) @ self.factor.T


@estimator
class KNNDensity(Generative):
    """Density by the distance to the k-th neighbour, k by leave-one-out likelihood; exact as `kernel`, the default.

    References: Loftsgaarden and Quesenberry, 1965; Breiman, Meisel and Purcell, 1977.

    Examples:
        >>> import numpy as np, plausible as pl
        >>> X = np.random.default_rng(0).random((1000, 1))
        >>> model = pl.KNNDensity(estimate="balloon", n_neighbors=100).fit(X)
        >>> bool(abs(model.log_prob([[0.5]])[0]) < 0.3)  # the uniform density is 1
        True
        >>> model.likelihood_kind_
        'estimate'
    """

    n_neighbors: int | str = option(
        "likelihood", "k, or how to choose it: the best leave-one-out likelihood", low=1, choices=("likelihood",)
    )
    estimate: str = option(
        "kernel",
        "kernel: a Gaussian on each row, as wide as its k-th neighbour is far, a density; balloon: k / (n V), none",
        choices=("kernel", "balloon"),
    )
    shape: str = option(
        "auto",
        "what distances are measured by: scalar, the columns' deviations; full, a covariance (auto up to 64 columns)",
        choices=("auto", "scalar", "full"),
    )
    max_iter: int = option(30, "passes of EM for the width of the kernels, at most", low=1)

    traits = Traits(density="exact", events=frozenset({"table", "image", "series"}))

    @property
    def likelihood_kind_(self):
        """What `log_prob` is: exact for `kernel`, an estimate for `balloon`, whose integral diverges."""
        kind = super().likelihood_kind_
        return "estimate" if self.estimate == "balloon" else kind

    def _build(self, space: Space, context_space: Space) -> Module:
        n_reals = sum(c.kind == "real" for c in space.columns)
        shape = self.shape if self.shape != "auto" else "full" if n_reals <= FULL_UP_TO else "scalar"
        if self.estimate == "balloon":
            discrete = [c for c in space.columns if c.discrete]
            if discrete:
                raise DataError(
                    f"KNNDensity(estimate='balloon') measures volumes, and column {discrete[0].name!r} is "
                    f"{discrete[0].kind}; take estimate='kernel', or leave that column out"
                )
            return _Balloon(space.dims, shape)
        numbers = (self.n_neighbors,) if isinstance(self.n_neighbors, int) else NUMBERS
        return _KernelDensity(space, "gaussian", "likelihood", shape, numbers)

    def _train(self, module: Module, train: Events, held_out: Events | None, rng: torch.Generator) -> History:
        if self.estimate == "kernel":
            return fit_bandwidths(module, train, self.max_iter, rng, type(self).__name__)
        module.keep(train.take(slice(None)).z.flatten(1).double(), train.weight)
        loss = module.choose(self.n_neighbors, rng)

        def report(batch, rng) -> dict[str, torch.Tensor]:
            return {"loss": loss}

        return run(report, train, epochs=1, batch_size=None, rng=rng, name=type(self).__name__)
