r"""Named laws of one column: densities from ``torch.distributions``, quantiles from ``scipy.stats``.

levels   categorical, bernoulli, binomial (n one less than the levels), uniform
counts   poisson, geometric P(k) = p (1-p)^k from 0, shifted_geometric P(k) = p (1-p)^(k-1) from 1, binomial,
         negative_binomial P(k) = C(k+r-1, k) p^r (1-p)^k, rounded_normal, uniform
reals    normal, laplace, logistic, gumbel, cauchy, student_t, uniform; exponential from zero on; gamma, weibull
         and log_normal above zero; beta between zero and one
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import torch
from scipy import stats
from torch import distributions as td

from plausible.families.direct import _law_fits as fits
from plausible.families.direct._columns import LOG_SQRT_2PI

EULER = 0.5772156649015329


@dataclass(frozen=True)
class Law:
    """One named law. Functions of parameters take them by position, as numbers, arrays or tensors that broadcast.

    Args:
        name, kind: what it is called; whether it is a law of a 'level', 'count' or 'real' column.
        parameters: their names.
        log_prob: (x, *parameters) -> log density or probability, of values in the support.
        quantile: (u, *parameters) -> value.
        mode: the most likely value.
        least, most, words: the support, whose ends belong to it if `closed`, and what it is in words.
        units: how each parameter changes when x does: 'location', 'scale', 'rate', 'log location'; 'shape' does not,
            and 'unit' says that x may not change.
        start: first guess in standard units, from moments if there is an `average`, else from values and weights.
        average: mean log-likelihood as a function of moments, for a law with sufficient statistics.
        bounds: of parameters by position, in standard units.
        fit: maximum likelihood.
    """

    name: str
    kind: str
    parameters: tuple[str, ...]
    log_prob: Callable
    quantile: Callable
    mode: Callable
    least: float = -math.inf
    most: float = math.inf
    closed: bool = True
    words: str = "numbers"
    units: tuple[str, ...] = ()
    start: Callable | None = None
    average: Callable | None = None
    bounds: dict[int, tuple[float, float]] = field(default_factory=dict)
    fit: Callable = fits.regular

    def inside(self, x: torch.Tensor) -> torch.Tensor:
        """Which values the support holds."""
        if self.closed:
            return (x >= self.least) & (x <= self.most)
        return (x > self.least) & (x < self.most)

    @property
    def streams(self) -> bool:
        """Whether it is fitted from sufficient statistics or counts, without all values at once."""
        return self.kind != "real" or self.average is not None or self.fit is fits.uniform

    def fitted(self, tally, given: float | None = None, low: float | None = None) -> fits.Fitted | str:
        """Fit it to a tally of a column; return what speaks against it, in words, if it cannot be."""
        for x in (tally.low, tally.high):
            if not bool(self.inside(torch.tensor(x, dtype=torch.float64))):
                return f"is a law of {self.words}, and the column holds {x:g}"
        if self.kind != "level" and tally.low == tally.high:
            return f"needs values that vary, and all that have a weight are {tally.low:g}"
        return self.fit(self, tally, given, low)


def _torch(distribution: type) -> Callable:
    return lambda x, *p: distribution(*p, validate_args=False).log_prob(x)


def _log_binomial(x, n, p):
    ways = torch.lgamma(n + 1) - torch.lgamma(x + 1) - torch.lgamma(n - x + 1)
    log_p = ways + torch.special.xlogy(x, p) + torch.special.xlog1py(n - x, -p)
    return torch.where(x <= n, log_p, -torch.inf)


def _log_negative_binomial(x, r, p):
    ways = torch.lgamma(x + r) - torch.lgamma(r) - torch.lgamma(x + 1)
    return ways + r * p.log() + torch.special.xlog1py(x, -p)


def _log_rounded(x, mean, deviation, low):
    upper, lower = (x + 0.5 - mean) / deviation, (x - 0.5 - mean) / deviation
    # Reflected so that both ends lie in the lower tail, where log_ndtr keeps its precision.
    flip = lower + upper > 0
    upper, lower = torch.where(flip, -lower, upper), torch.where(flip, -upper, lower)
    a, b = torch.special.log_ndtr(upper), torch.special.log_ndtr(lower)
    inner = a + torch.log(-torch.expm1((b - a).clamp_max(-1e-300)))
    at_end = x <= low
    end = torch.where(at_end, low, 0.0)  # not minus infinity, which has no gradient
    return torch.where(at_end, torch.special.log_ndtr((end + 0.5 - mean) / deviation), inner)


def _draw_rounded(u, mean, deviation, low):
    return np.maximum(np.round(stats.norm.ppf(u, mean, deviation)), low)


def _log_uniform(step: float) -> Callable:
    return lambda x, low, high: torch.where((x >= low) & (x <= high), -(high - low + step).log(), -torch.inf)


def _log_logistic(x, location, scale):
    y = (x - location) / scale
    return torch.nn.functional.logsigmoid(y) + torch.nn.functional.logsigmoid(-y) - scale.log()


def _log_gumbel(x, location, scale):
    y = (x - location) / scale
    return -y - torch.exp(-y) - scale.log()


def _log_normal(x, mu, sigma):
    y = x.log()
    return -0.5 * ((y - mu) / sigma).square() - sigma.log() - y - LOG_SQRT_2PI


def _log_weibull(x, shape, scale):
    y = (x / scale).log()
    return shape.log() - scale.log() + (shape - 1) * y - torch.exp(shape * y)


def _average_normal(m, mean, deviation):
    return -0.5 * (m.variance + (m.mean - mean).square()) / deviation.square() - deviation.log() - LOG_SQRT_2PI


def _average_gamma(m, shape, rate):
    return shape * rate.log() - torch.lgamma(shape) + (shape - 1) * m.log_mean - rate * m.mean


def _average_log_normal(m, mu, sigma):
    return (
        -0.5 * (m.log_variance + (m.log_mean - mu).square()) / sigma.square() - sigma.log() - m.log_mean - LOG_SQRT_2PI
    )


def _average_beta(m, a, b):
    return torch.lgamma(a + b) - torch.lgamma(a) - torch.lgamma(b) + (a - 1) * m.log_mean + (b - 1) * m.log_rest


def _start_gamma(m):
    s = max(math.log(m.mean) - m.log_mean, 1e-12)
    shape = (3 - s + math.sqrt((s - 3) ** 2 + 24 * s)) / (12 * s)  # Minka, Estimating a Gamma distribution, 2002
    return shape, shape / m.mean


def _start_beta(m):
    size = max(m.mean * (1 - m.mean) / max(m.variance, 1e-12) - 1, 0.1)
    return m.mean * size, (1 - m.mean) * size


def _moments(x, w):
    mean = w @ x
    return mean, math.sqrt(w @ (x - mean) ** 2)


def _start_negative_binomial(x, w):
    mean, deviation = _moments(x, w)
    r = mean**2 / max(deviation**2 - mean, 1e-3 * mean)
    return r, r / (r + mean)


def _start_weibull(x, w):
    _, deviation = _moments(np.log(x), w)
    shape = math.pi / math.sqrt(6) / max(deviation, 1e-9)
    return shape, math.exp(w @ np.log(x) + EULER / shape)


def _mode_beta(a, b):
    inner = (a - 1) / (a + b - 2)
    return torch.where((a > 1) & (b > 1), inner, (a >= b).to(a)).clamp(1e-9, 1 - 1e-9)


def _mode_binomial(n, p):
    return ((n + 1) * p).floor().minimum(n)


def _location(location, scale):
    return location


def _start_gumbel(x, w):
    mean, deviation = _moments(x, w)
    scale = math.sqrt(6) / math.pi * deviation
    return mean - EULER * scale, scale


ABOVE = {"least": 0.0, "closed": False, "words": "numbers above zero"}
WHOLE = {"least": 0.0, "words": "the integers 0, 1, 2, ..."}
LINE = ("location", "scale")
NARROW = {1: (1e-4, 1e9)}  # of a scale, in that of the middle half: values that repeat would shrink it to nothing

# Files know a law by its place here: new ones go to the end.
LAWS = (
    Law("categorical", "level", (), None, None, None, fit=fits.shares),
    Law(
        "bernoulli",
        "level",
        ("p",),
        lambda x, p: _log_binomial(x, torch.ones_like(p), p),
        stats.bernoulli.ppf,
        lambda p: (p > 0.5).to(p),
        fit=fits.bernoulli,
        **WHOLE,
    ),
    Law("binomial", "level", ("n", "p"), _log_binomial, stats.binom.ppf, _mode_binomial, fit=fits.level_binomial),
    Law("uniform", "level", (), None, None, None, fit=fits.levels),
    Law(
        "poisson",
        "count",
        ("rate",),
        _torch(td.Poisson),
        stats.poisson.ppf,
        lambda rate: rate.floor(),
        units=("shape",),
        start=lambda x, w: (w @ x,),
        **WHOLE,
    ),
    Law(
        "geometric",
        "count",
        ("p",),
        _torch(td.Geometric),
        lambda u, p: stats.geom.ppf(u, p) - 1,
        torch.zeros_like,
        units=("shape",),
        start=lambda x, w: (1 / (1 + w @ x),),
        **WHOLE,
    ),
    Law(
        "shifted_geometric",
        "count",
        ("p",),
        lambda x, p: _torch(td.Geometric)(x - 1, p),
        stats.geom.ppf,
        torch.ones_like,
        1.0,
        words="the integers 1, 2, 3, ...",
        units=("shape",),
        start=lambda x, w: (1 / (w @ x),),
    ),
    Law("binomial", "count", ("n", "p"), _log_binomial, stats.binom.ppf, _mode_binomial, fit=fits.binomial, **WHOLE),
    Law(
        "negative_binomial",
        "count",
        ("r", "p"),
        _log_negative_binomial,
        stats.nbinom.ppf,
        lambda r, p: ((r - 1).clamp_min(0) * (1 - p) / p).floor(),
        units=("shape", "shape"),
        start=_start_negative_binomial,
        bounds={0: (1e-6, fits.MOST_FAILURES), 1: (1e-12, 1 - 1e-12)},
        fit=fits.negative_binomial,
        **WHOLE,
    ),
    Law(
        "rounded_normal",
        "count",
        ("mean", "deviation", "low"),
        _log_rounded,
        _draw_rounded,
        lambda mean, deviation, low: torch.maximum(mean.round(), low),
        units=("location", "shape"),
        start=_moments,
        bounds={1: (0.05, 1e9)},
    ),
    Law(
        "uniform",
        "count",
        ("low", "high"),
        _log_uniform(1.0),
        lambda u, low, high: low + np.floor(u * (high - low + 1)),
        lambda low, high: low,
        fit=fits.uniform,
    ),
    Law(
        "normal",
        "real",
        ("mean", "deviation"),
        _torch(td.Normal),
        stats.norm.ppf,
        lambda mean, deviation: mean,
        units=LINE,
        start=lambda m: (m.mean, math.sqrt(m.variance)),
        average=_average_normal,
    ),
    Law("laplace", "real", LINE, _torch(td.Laplace), stats.laplace.ppf, _location, fit=fits.laplace),
    Law(
        "logistic",
        "real",
        LINE,
        _log_logistic,
        stats.logistic.ppf,
        _location,
        units=LINE,
        start=lambda x, w: (0.0, 0.6),
        bounds=NARROW,
    ),
    Law(
        "gumbel",
        "real",
        LINE,
        _log_gumbel,
        stats.gumbel_r.ppf,
        _location,
        units=LINE,
        start=_start_gumbel,
        bounds=NARROW,
    ),
    Law(
        "cauchy",
        "real",
        LINE,
        _torch(td.Cauchy),
        stats.cauchy.ppf,
        _location,
        units=LINE,
        start=lambda x, w: (0.0, 0.675),
        bounds=NARROW,
    ),
    Law(
        "student_t",
        "real",
        (*LINE, "degrees_of_freedom"),
        lambda x, location, scale, nu: td.StudentT(nu, location, scale, validate_args=False).log_prob(x),
        lambda u, location, scale, nu: stats.t.ppf(u, nu, location, scale),
        lambda location, scale, nu: location,
        units=(*LINE, "shape"),
        start=lambda x, w: (0.0, 0.9, 5.0),
        bounds={**NARROW, 2: (0.2, 1e3)},
    ),
    Law(
        "uniform",
        "real",
        ("low", "high"),
        _log_uniform(0.0),
        lambda u, low, high: low + u * (high - low),
        lambda low, high: (low + high) / 2,
        fit=fits.uniform,
    ),
    Law(
        "exponential",
        "real",
        ("rate",),
        _torch(td.Exponential),
        lambda u, rate: stats.expon.ppf(u, scale=1 / rate),
        torch.zeros_like,
        0.0,
        words="numbers from zero on",
        units=("rate",),
        start=lambda m: (1 / m.mean,),
        average=lambda m, rate: rate.log() - rate * m.mean,
    ),
    Law(
        "gamma",
        "real",
        ("shape", "rate"),
        _torch(td.Gamma),
        lambda u, shape, rate: stats.gamma.ppf(u, shape, scale=1 / rate),
        lambda shape, rate: ((shape - 1) / rate).clamp_min(1e-9 / rate),
        units=("shape", "rate"),
        start=_start_gamma,
        average=_average_gamma,
        **ABOVE,
    ),
    Law(
        "weibull",
        "real",
        ("shape", "scale"),
        _log_weibull,
        lambda u, shape, scale: stats.weibull_min.ppf(u, shape, scale=scale),
        lambda shape, scale: scale * (1 - 1 / shape).clamp_min(1e-9) ** (1 / shape),
        units=("shape", "scale"),
        start=_start_weibull,
        **ABOVE,
    ),
    Law(
        "log_normal",
        "real",
        ("mu", "sigma"),
        _log_normal,
        lambda u, mu, sigma: stats.lognorm.ppf(u, sigma, scale=np.exp(mu)),
        lambda mu, sigma: torch.exp(mu - sigma.square()),
        units=("log location", "shape"),
        start=lambda m: (m.log_mean, math.sqrt(m.log_variance)),
        average=_average_log_normal,
        **ABOVE,
    ),
    Law(
        "beta",
        "real",
        ("alpha", "beta"),
        _torch(td.Beta),
        stats.beta.ppf,
        _mode_beta,
        0.0,
        1.0,
        closed=False,
        words="numbers between zero and one",
        units=("unit", "unit"),
        start=_start_beta,
        average=_average_beta,
    ),
)
