r"""The multivariate normal, by its closed form.

    p(x) = N(x; mu, S),    mu = mean of the rows,    S = their covariance (divided by n: maximum likelihood)

With missing cells there is no closed form; EM with the expectations of ``_normal.py`` takes its place and reaches the
same maximum of the marginal likelihood. Discrete ordered columns are dequantised, which makes the likelihood a bound,
and mapped to the whole line, so that no mass lies outside their levels.

References: Anderson, An Introduction to Multivariate Statistical Analysis, 2003, chapter 3. Little and Rubin,
Statistical Analysis with Missing Data, 2019, section 11.2.
"""

from __future__ import annotations

import torch

from plausible.base import Generative, Module, Traits
from plausible.families.direct import _normal
from plausible.options import estimator, option
from plausible.space import Space
from plausible.training import Events, History, count, em, run
from plausible.transforms import Dequantise, Logit, Standardise

ROWS = 1024  # filled in at a time: each may have a pattern, and so a covariance, of its own
RIDGE = 1e-9  # added to variances of one: two equal columns have a singular covariance


class _Gaussian(Module):
    """Shapes: mean (D,), covariance (D, D)."""

    def __init__(self, dims: int):
        super().__init__()
        self.dims = dims
        self.register_buffer("mean", torch.zeros(dims, dtype=torch.float64))
        self.register_buffer("covariance", torch.eye(dims, dtype=torch.float64))
        self._sums = None

    @property
    def n_parameters(self) -> int:
        return self.dims + self.dims * (self.dims + 1) // 2

    def summarise(self, z: torch.Tensor, weight: torch.Tensor | None) -> torch.Tensor:
        z = z.flatten(1)
        w = torch.ones(len(z), dtype=torch.float64, device=z.device) if weight is None else weight
        loss = -(w * self.log_prob(z)).sum() / w.sum()
        new = (w.sum(), *_normal.moments(z, w, self.mean, self.covariance))
        self._sums = new if self._sums is None else tuple(a + b for a, b in zip(self._sums, new, strict=True))
        return loss

    def update(self) -> None:
        total, first, second = self._sums
        self._sums = None
        self.mean.copy_(first / total)
        covariance = second / total - torch.outer(self.mean, self.mean)
        self.covariance.copy_(covariance + RIDGE * torch.eye(self.dims, dtype=torch.float64, device=covariance.device))

    def log_prob(self, z, c=None, rng=None):
        return _normal.log_marginal(z.flatten(1), self.mean, self.covariance)

    def sample(self, n, c=None, *, rng):
        noise = torch.randn(n, self.dims, generator=rng, dtype=torch.float64, device=self.mean.device)
        return self.mean + noise @ torch.linalg.cholesky(self.covariance).T

    def sample_given(self, z, c=None, *, rng):
        drawn = self.sample(len(z), rng=rng)
        return self._filled(z, drawn)

    def likely_given(self, z, c=None):
        """The mode of a normal is its mean: E[z_m | z_o]."""
        return self._filled(z, self.mean.expand(len(z), -1))

    def moments_given(self, z, c=None):
        """E[z_m | z_o], beside the known cells, and Cov[z_m | z_o] = S_mm - S_mo S_oo^-1 S_om."""
        covariance = torch.stack([_normal.conditional_covariance(m, self.covariance) for m in z.flatten(1).isnan()])
        return self.likely_given(z, c).flatten(1), covariance

    def _filled(self, z: torch.Tensor, at: torch.Tensor) -> torch.Tensor:
        """Put at_m + S_mo S_oo^-1 (z_o - at_o) into the missing cells m."""
        flat = z.flatten(1)
        missing = flat.isnan()
        filled = [
            torch.where(m, a + _normal.regress(torch.nan_to_num(x - a), m, self.covariance), x)
            for x, a, m in zip(flat.split(ROWS), at.split(ROWS), missing.split(ROWS), strict=True)
        ]
        return torch.cat(filled).reshape(z.shape)


@estimator
class Gaussian(Generative):
    """Multivariate normal with full covariance, by maximum likelihood; exact for reals, also with missing cells.

    References: Anderson, An Introduction to Multivariate Statistical Analysis, 2003, chapter 3.

    Examples:
        >>> import numpy as np, plausible as pl
        >>> from scipy.stats import multivariate_normal
        >>> X = np.random.default_rng(0).normal(size=(100, 2)) @ [[1, 0.9], [0, 0.4]]
        >>> model = pl.Gaussian().fit(X)
        >>> truth = multivariate_normal(X.mean(0), np.cov(X.T, bias=True)).logpdf(X)
        >>> bool(np.allclose(model.log_prob(X), truth))
        True
    """

    max_iter: int = option(200, "EM iterations where cells are missing, at most", low=1)

    traits = Traits(
        density="exact",
        kinds=frozenset({"binary", "ordinal", "count", "real"}),
        missing=True,
        given="exact",
        streams=True,
    )

    def _build(self, space: Space, context_space: Space) -> Module:
        return _Gaussian(space.dims)

    def _transforms(self, space: Space):
        return [Dequantise(), Logit(), Standardise()]

    def _train(self, module: Module, train: Events, held_out: Events | None, rng: torch.Generator) -> History:
        missing = train.x.is_floating_point() and bool(train.x.isnan().any())
        step, epochs = (em(module), self.max_iter) if missing else (count(module), 1)
        return run(step, train, epochs=epochs, batch_size=None, rng=rng, tolerance=1e-8, name=type(self).__name__)
