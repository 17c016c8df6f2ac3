"""The laws of single columns: levels, and mixtures over numbers. See `plausible.heads`."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import nn
from torch.nn import functional as F

from plausible.space import Column

N_UNIFORMS = 2  # uniforms a head needs to draw one dimension
SMALLEST_SCALE = 1e-3  # of a normal, in standardised units: a spike on a repeated value may not grow without bound
INITIAL_DEGREES, MOST_DEGREES = 8.0, 200.0  # of freedom of Student's t; of more, the normal is no worse


class Head(nn.Module):
    """The distribution of d columns of one kind.

    ``size`` is the number of parameters per column, ``n_features`` the number of inputs by which a net is told the
    value of a column. Codes have shape (n, d), parameters (n, d, size), features (n, d, n_features).
    """

    size: int
    n_features: int

    def __init__(self, columns: Sequence[Column]):
        super().__init__()
        self.d = len(columns)

    def features(self, x: torch.Tensor) -> torch.Tensor:
        """Return what a net is shown of x; zero everywhere for a missing cell."""
        raise TypeError(f"{type(self).__name__} does not define features")

    def log_prob(self, params: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        """Return log p(x_d | params_d) with shape (n, d)."""
        raise TypeError(f"{type(self).__name__} does not define log_prob")

    def sample(self, params: torch.Tensor, u: torch.Tensor) -> torch.Tensor:
        """Return codes (n, d) drawn by inversion from uniforms u of shape (n, d, 2)."""
        raise TypeError(f"{type(self).__name__} does not define sample")

    def log_levels(self, params: torch.Tensor) -> torch.Tensor:
        """Return log p of each level, (n, d, K), of a head that has levels."""
        raise TypeError(f"{type(self).__name__} has no levels")

    def cdf(self, params: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        """Return P(X < x) of a head over numbers, x not on the lattice of one of counts; params and x may broadcast."""
        raise TypeError(f"{type(self).__name__} is not over numbers")

    def mean(self, params: torch.Tensor) -> torch.Tensor:
        """Return E[x], (n, d), of a head over numbers; NaN where there is none."""
        raise TypeError(f"{type(self).__name__} is not over numbers")

    def initial(self) -> torch.Tensor:
        """Return parameters (d, size) to start from: a broad distribution."""
        return torch.zeros(self.d, self.size)

    def marginal(self, x: torch.Tensor) -> torch.Tensor:
        """Return parameters (d, size) under which each column has the frequencies it has in x (n, d), if it has any."""
        return self.initial().to(x)


class Bernoulli(Head):
    """One logit; x is 0 or 1."""

    size = 1
    n_features = 1

    def features(self, x):
        return torch.nan_to_num(2 * x - 1)[..., None]

    def marginal(self, x):
        mean = x.mean(0)
        mean = torch.nanmean(x, 0) if mean.isnan().any() else mean  # which takes thirty times as long
        return (mean * 0.998 + 0.001).logit()[:, None]

    def log_prob(self, params, x):
        return -F.binary_cross_entropy_with_logits(params[..., 0], x, reduction="none")

    def log_levels(self, params):
        return F.logsigmoid(torch.cat([-params, params], -1))

    def sample(self, params, u):
        return (u[..., 0] < params[..., 0].sigmoid()).to(params)


class Categorical(Head):
    """K logits; x is 0 .. K-1."""

    def __init__(self, columns: Sequence[Column]):
        super().__init__(columns)
        self.size = self.n_features = columns[0].n_levels

    def features(self, x):
        known = ~x.isnan()
        one_hot = F.one_hot(torch.nan_to_num(x).long(), self.size).to(x)
        return one_hot * known[..., None]

    def marginal(self, x):
        counts = self.features(x).sum(0) + 0.5  # (d, K)
        return (counts / counts.sum(1, keepdim=True)).log()

    def log_prob(self, params, x):
        return params.log_softmax(-1).gather(-1, torch.nan_to_num(x).long()[..., None])[..., 0]

    def log_levels(self, params):
        return params.log_softmax(-1)

    def sample(self, params, u):
        below = params.softmax(-1).cumsum(-1)[..., :-1]
        return (u[..., :1] >= below).sum(-1).to(params)


class Mixture(Head):
    """M components, each with a logit, a mean and a log scale."""

    def __init__(self, columns: Sequence[Column], components: int):
        super().__init__(columns)
        self.components = components
        self.size = 3 * components

    def initial(self):
        m = self.components
        spread = torch.special.ndtri((torch.arange(m) + 0.5) / m) if m > 1 else torch.zeros(1)
        start = torch.cat([torch.zeros(m), spread, torch.full((m,), math.log(0.6 if m > 1 else 1.0))])
        return start.repeat(self.d, 1)

    def standard(self, x: torch.Tensor) -> torch.Tensor:
        """(n, d) codes in the units of the means."""
        return x

    def moved(self, params: torch.Tensor, by: torch.Tensor, log_scale: torch.Tensor) -> torch.Tensor:
        """Return the parameters of the laws stretched by e^log_scale, then moved by `by`, both (n, d)."""
        m = self.components
        logit, mean, log, others = params.split([m, m, m, self.size - 3 * m], -1)
        by, log_scale = by[..., None], log_scale[..., None]
        return torch.cat([logit, by + log_scale.exp() * mean, log + log_scale, others], -1)

    def cdf(self, params, x):
        weight, below = params[..., : self.components].softmax(-1), 0
        for m in range(self.components):  # one after the other: x may be many for each of params
            below = below + weight[..., m] * self._below(params[..., m :: self.components], x)
        return below

    def _below(self, params: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        """P(X < x) of one component, (n, d), with parameters (n, d, 3): logit, mean and log scale."""
        raise TypeError(f"{type(self).__name__} does not define _below")

    @staticmethod
    def _pick(log_weight: torch.Tensor, u: torch.Tensor) -> torch.Tensor:
        """Choose a component by inversion: (n, d, M), (n, d) -> (n, d, 1)."""
        return (u[..., None] >= log_weight.softmax(-1).cumsum(-1)[..., :-1]).sum(-1, keepdim=True)


class MixtureOfNormals(Mixture):
    r"""p(x) = sum_m w_m N(x; mu_m, sigma_m^2)."""

    n_features = 1

    def features(self, x):
        return torch.nan_to_num(x.asinh())[..., None]  # linear near zero, logarithmic in heavy tails

    def log_prob(self, params, x):
        logit, mean, log_scale = params.chunk(3, -1)
        log_scale = log_scale.clamp_min(math.log(SMALLEST_SCALE))
        standard = (x[..., None] - mean) * (-log_scale).exp()
        return torch.logsumexp(logit.log_softmax(-1) + self._log_density(standard) - log_scale, -1)

    def _below(self, params, x):
        return self._cumulative((x - params[..., 1]) * (-params[..., 2].clamp_min(math.log(SMALLEST_SCALE))).exp())

    def mean(self, params):
        logit, mean = params[..., : 2 * self.components].chunk(2, -1)
        return (logit.softmax(-1) * mean).sum(-1)

    def sample(self, params, u):
        logit, mean, log_scale = params.chunk(3, -1)
        m = self._pick(logit, u[..., 0])
        scale = log_scale.gather(-1, m)[..., 0].clamp_min(math.log(SMALLEST_SCALE)).exp()
        return mean.gather(-1, m)[..., 0] + scale * self._quantile(_inside(u[..., 1]))

    @staticmethod
    def _log_density(standard: torch.Tensor) -> torch.Tensor:
        return -0.5 * standard.square() - 0.5 * math.log(2 * math.pi)

    @staticmethod
    def _cumulative(standard: torch.Tensor) -> torch.Tensor:
        return torch.special.ndtr(standard)

    @staticmethod
    def _quantile(u: torch.Tensor) -> torch.Tensor:
        return torch.special.ndtri(u)


class MixtureOfLaplaces(MixtureOfNormals):
    r"""p(x) = sum_m w_m exp(-|x - mu_m| / s_m) / (2 s_m)."""

    @staticmethod
    def _log_density(standard: torch.Tensor) -> torch.Tensor:
        return -standard.abs() - math.log(2)

    @staticmethod
    def _cumulative(standard: torch.Tensor) -> torch.Tensor:
        tail = 0.5 * (-standard.abs()).exp()
        return torch.where(standard < 0, tail, 1 - tail)

    @staticmethod
    def _quantile(u: torch.Tensor) -> torch.Tensor:
        return -(u - 0.5).sign() * torch.log1p(-2 * (u - 0.5).abs())


class MixtureOfStudents(MixtureOfNormals):
    r"""p(x) = sum_m w_m t(x; nu_m, mu_m, s_m), tails of any weight from Cauchy's (nu = 1) to nearly the normal's."""

    def __init__(self, columns: Sequence[Column], components: int):
        super().__init__(columns, components)
        self.size = 4 * components

    def initial(self):
        return torch.cat([super().initial(), torch.full((self.d, self.components), math.log(INITIAL_DEGREES - 1))], 1)

    @staticmethod
    def _degrees(raw: torch.Tensor) -> torch.Tensor:
        return 1 + raw.clamp_max(math.log(MOST_DEGREES)).exp()

    def log_prob(self, params, x):
        logit, mean, log_scale, raw = params.chunk(4, -1)
        log_scale, nu = log_scale.clamp_min(math.log(SMALLEST_SCALE)), self._degrees(raw)
        standard = (x[..., None] - mean) * (-log_scale).exp()
        log_norm = torch.lgamma((nu + 1) / 2) - torch.lgamma(nu / 2) - 0.5 * (nu * math.pi).log()
        log_p = log_norm - (nu + 1) / 2 * torch.log1p(standard.square() / nu)
        return torch.logsumexp(logit.log_softmax(-1) + log_p - log_scale, -1)

    def _below(self, params, x):
        standard = (x - params[..., 1]) * (-params[..., 2].clamp_min(math.log(SMALLEST_SCALE))).exp()
        return _by_scipy("stdtr", self._degrees(params[..., 3]), standard)

    def sample(self, params, u):
        logit, *others = params.chunk(4, -1)
        m = self._pick(logit, u[..., 0])
        mean, log_scale, raw = (p.gather(-1, m)[..., 0] for p in others)
        quantile = _by_scipy("stdtrit", self._degrees(raw), _inside(u[..., 1]))
        return mean + log_scale.clamp_min(math.log(SMALLEST_SCALE)).exp() * quantile


class DiscretisedLogistics(Mixture):
    r"""P(x) = sum_m w_m [F((x + h - mu_m) / s_m) - F((x - h - mu_m) / s_m)], F the logistic cumulative.

    2 h is the step of the lattice; the lowest (highest) lattice point, where there is one, gets all mass below (above).
    """

    n_features = 3

    def __init__(self, columns: Sequence[Column], components: int):
        super().__init__(columns, components)
        levels = [c.n_levels for c in columns]
        low = [0.0 if k else -math.inf if c.low is None else c.low for c, k in zip(columns, levels, strict=True)]
        high = [k - 1.0 if k else math.inf if c.high is None else c.high for c, k in zip(columns, levels, strict=True)]
        # Levels are 0 .. K-1 and are put on [-1, 1]; counts come standardised already.
        unit = [(k - 1) / 2 if k else 1.0 for k in levels]
        self.register_buffer("low", torch.tensor(low, dtype=torch.float64), persistent=False)
        self.register_buffer("high", torch.tensor(high, dtype=torch.float64), persistent=False)
        self.register_buffer("unit", torch.tensor(unit, dtype=torch.float64), persistent=False)
        self.register_buffer("centre", torch.tensor([(k - 1) / 2 if k else 0.0 for k in levels]), persistent=False)
        self.register_buffer("step", torch.tensor([c.step for c in columns], dtype=torch.float64), persistent=False)

    def standard(self, x):
        return (x - self.centre) / self.unit

    def _at_edges(self, x):
        half = self.step / 2
        return x < self.low + half, x > self.high - half

    def features(self, x):
        lowest, highest = self._at_edges(x)
        y = self.standard(x).asinh().to(x)
        return torch.nan_to_num(torch.stack([y, lowest.to(x), highest.to(x)], -1))

    def log_prob(self, params, x):
        return self._log_mass(params, x, self.step, *self._at_edges(x))

    def _log_mass(self, params, x, step, lowest, highest):
        """log P(x) on a lattice of a step, of whose points x is the lowest or the highest where it is said to be."""
        logit, mean, log_scale = params.chunk(3, -1)
        half = (step / self.unit / 2).to(params)[..., None]
        y = self.standard(x).to(params)[..., None]
        # A step of a hundredth of the scale, or a hundred scales to a step, is as fine or as sharp as need be.
        log_scale = torch.maximum(log_scale, (half / 50).log())
        rate = (-log_scale).exp()
        upper, lower = (y + half - mean) * rate, (y - half - mean) * rate
        # log(F(b) - F(a)) = log F(b) + log(1 - F(a)) + log(1 - e^{a-b}), exact and stable in both tails; b - a is not
        # taken as a difference, which is 0 in float32 where the mean is far away.
        width = (2 * half * rate).clamp_min(torch.finfo(rate.dtype).tiny)
        log_mass = F.logsigmoid(upper) + F.logsigmoid(-lower) + torch.log(-torch.expm1(-width))
        log_mass = torch.where(lowest[..., None], F.logsigmoid(upper), log_mass)
        log_mass = torch.where(highest[..., None], F.logsigmoid(-lower), log_mass)
        return torch.logsumexp(logit.log_softmax(-1) + log_mass, -1)

    def cdf(self, params, x):
        inside = super().cdf(params, self.standard(x).to(params))
        return torch.where(x < self.low, 0.0, torch.where(x > self.high, 1.0, inside))

    def _below(self, params, x):
        half = (self.step / self.unit / 2).to(params)
        return torch.sigmoid((x - params[..., 1]) * (-torch.maximum(params[..., 2], (half / 50).log())).exp())

    def mean(self, params):
        """E[x], on a lattice that is fine beside the scales."""
        logit, mean, log_scale = params.chunk(3, -1)
        low, high = (((end - self.centre) / self.unit).to(params)[..., None] for end in (self.low, self.high))
        scale = log_scale.exp()
        # what is beyond an end is at that end: E max(low - y, 0) is added, E max(y - high, 0) taken away
        mean = mean + scale * (F.softplus((low - mean) / scale) - F.softplus((mean - high) / scale))
        return (logit.softmax(-1) * mean).sum(-1).double() * self.unit + self.centre

    def sample(self, params, u):
        return self._on_lattice(params, u, self.step, self.high)

    def _on_lattice(self, params, u, step, high):
        """Draw on a lattice of a step, up to its highest point."""
        logit, mean, log_scale = params.chunk(3, -1)
        m = self._pick(logit, u[..., 0])
        half = (self.step / self.unit / 2).to(params)
        scale = torch.maximum(log_scale.gather(-1, m)[..., 0], (half / 50).log()).exp()
        y = (mean.gather(-1, m)[..., 0] + scale * _inside(u[..., 1]).logit()).double()
        x = y * self.unit + self.centre
        start = torch.where(self.low.isinf(), torch.zeros_like(self.low), self.low)
        x = start + ((x - start) / step).round() * step
        return torch.maximum(torch.minimum(x, high), self.low).to(params)


def _by_scipy(name: str, *values: torch.Tensor) -> torch.Tensor:
    """A function of scipy.special that torch lacks, in double precision; it has no gradient."""
    from scipy import special

    first = values[0]
    found = getattr(special, name)(*(v.detach().cpu().double().numpy() for v in values))
    return torch.as_tensor(found).to(first)


def _inside(u: torch.Tensor) -> torch.Tensor:
    """Keep uniforms off 0 and 1, whose quantiles are infinite."""
    tiny = torch.finfo(u.dtype).eps / 2
    return u.clamp(tiny, 1 - tiny)
