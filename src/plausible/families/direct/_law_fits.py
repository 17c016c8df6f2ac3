r"""Maximum likelihood for the laws of ``_laws.py``.

A regular law is fitted by Newton's method in a trust region on its mean log-likelihood, in units in which the data are
of order one. The inverse of minus n times the second derivatives there, the observed Fisher information, gives the
standard errors. The others have their own closed forms.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from plausible.families.direct._tally import Tally

PLAIN, AT_LIMIT, ENDS, EXPECTED, GIVEN_N = range(5)
NOTES = (
    "",
    "at the edge of what is possible, where the curvature of the likelihood gives no standard error",
    "the smallest and the largest value; standard errors are those of the extremes of n uniform draws",
    "the likelihood has a corner: standard errors from the expected information",
    "n was given, or has the greatest profile likelihood; the standard error of p is that given n",
)
STREAMED = "needs all values at once, and a stream is not kept; take one with sufficient statistics, such as normal"
MOST_TRIALS = 1e7  # of a binomial, which is a Poisson law long before
MOST_FAILURES = 1e6  # r of a negative binomial
FIRST_LOOK = 20_000  # values that the climb starts on


@dataclass
class Fitted:
    """Parameters of a law in the user's units, their standard errors, and the mean log-likelihood of an example."""

    values: list[float]
    errors: list[float]
    log_lik: float
    n_free: int
    note: int = PLAIN


def regular(law: Any, tally: Tally, given: float | None, low: float | None) -> Fitted | str:
    """Climb to the maximum in standard units, and bring it back to the user's."""
    if law.average is None and tally.sample is None:
        return STREAMED
    shift, scale = _standard(law, tally)
    if law.average is not None:
        m = tally.moments
        m = m._replace(mean=(m.mean - shift) / scale, variance=m.variance / scale**2)
        m = m._replace(log_mean=m.log_mean - math.log(scale))
        start, steps = law.start(m), [lambda p: law.average(m, *p)]
    else:
        x, w = tally.sample
        x = (x - shift) / scale
        start = law.start(x, w / tally.n)
        few = slice(None, None, max(len(x) // FIRST_LOOK, 1))
        parts = [(x[few], w[few]), (x, w)] if len(x) > 2 * FIRST_LOOK and not tally.repeats else [(x, w)]
        end = (torch.tensor(-math.inf if low is None else low, dtype=torch.float64),) if "low" in law.parameters else ()
        steps = [_mean_of(law, torch.from_numpy(a), torch.from_numpy(b / b.sum()), end) for a, b in parts]
    values = torch.tensor(start, dtype=torch.float64)
    for log_lik in steps:
        values, free = _climb(law, log_lik, values)
    errors, note = _errors(steps[-1], values, free, tally.n)
    best = float(steps[-1](values)) - math.log(scale)
    back = [_back(v, u, shift, scale) for v, u in zip(values.tolist(), law.units, strict=True)]
    errors = [e * _unit(u, scale) for e, u in zip(errors, law.units, strict=True)]
    if "low" in law.parameters:
        return Fitted([*back, -math.inf if low is None else low], [*errors, math.nan], best, len(back), note)
    return Fitted(back, errors, best, len(back), note)


def _mean_of(law: Any, x: torch.Tensor, w: torch.Tensor, end: tuple) -> Callable:
    return lambda p: (w * law.log_prob(x, *p, *end)).sum()


def _standard(law: Any, tally: Tally) -> tuple[float, float]:
    """Return (shift, scale) such that (x - shift) / scale is of order one, for laws that such a change leaves a law."""
    if law.kind != "real" or "unit" in law.units:
        return 0.0, 1.0
    if "location" not in law.units:  # laws of what is above zero
        return 0.0, tally.mean
    return (tally.mean, math.sqrt(tally.variance)) if law.average is not None else tally.middle()


def _unit(unit: str, scale: float) -> float:
    return {"location": scale, "scale": scale, "rate": 1 / scale}.get(unit, 1.0)


def _back(value: float, unit: str, shift: float, scale: float) -> float:
    return value * _unit(unit, scale) + {"location": shift, "log location": math.log(scale)}.get(unit, 0.0)


def _climb(law: Any, log_lik: Callable, start: torch.Tensor) -> tuple[torch.Tensor, np.ndarray]:
    """Return the parameters of greatest likelihood, and which are off their bounds."""
    from scipy.optimize import minimize

    positive = torch.tensor(["location" not in u for u in law.units])
    ends = [law.bounds.get(i, (1e-9, 1e9) if p else (-1e9, 1e9)) for i, p in enumerate(positive.tolist())]
    low, high = torch.tensor(ends, dtype=torch.float64).T

    def natural(u):
        return torch.where(positive, u.clamp(-60, 60).exp(), u).clamp(low, high)

    seen: dict[bytes, tuple] = {}

    def at(u):
        """Minus log-likelihood, slope and curvature; the search asks for each of them at the same place."""
        key = u.tobytes()
        if key not in seen:
            seen.clear()
            seen[key] = _derivatives(lambda u: -log_lik(natural(u)), torch.from_numpy(u))
        return seen[key]

    inner = torch.where(positive, start.clamp(low * 1.01, high * 0.99), start)
    u = torch.where(positive, inner.clamp_min(1e-300).log(), inner).numpy()
    value, slope, curvature = (lambda u, i=i: at(u)[i] for i in range(3))
    u = minimize(value, u, (), "trust-exact", slope, curvature, options={"gtol": 1e-6, "maxiter": 100}).x
    for _ in range(3):  # Newton's last steps, to the precision of numbers
        _, g, h = at(u)
        free = np.abs(h).max(1) > 0
        if not free.any() or np.linalg.eigvalsh(h[np.ix_(free, free)]).min() <= 1e-12:
            break
        step = np.linalg.solve(h[np.ix_(free, free)], g[free])
        if np.abs(step).max() > 0.1:
            break
        u = u.copy()
        u[free] -= step
    values = natural(torch.from_numpy(u))
    return values, ((values > low) & (values < high)).numpy()


def _derivatives(f: Callable, u: torch.Tensor) -> tuple[float, np.ndarray, np.ndarray]:
    """f(u), its gradient (k,) and its second derivatives (k, k)."""
    with torch.enable_grad():
        u = u.detach().clone().requires_grad_()
        value = f(u)
        (slope,) = torch.autograd.grad(value, u, create_graph=True)
        curvature = [torch.autograd.grad(s, u, retain_graph=True)[0] for s in slope]
    return float(value.detach()), slope.detach().numpy(), torch.stack(curvature).numpy()


def _errors(log_lik: Callable, values: torch.Tensor, free: np.ndarray, n: float) -> tuple[list[float], int]:
    """Standard errors from the observed information; NaN for what is at a bound."""
    information = -n * _derivatives(log_lik, values)[2][np.ix_(free, free)]
    errors = np.full(len(values), np.nan)
    if free.any() and np.isfinite(information).all() and np.linalg.eigvalsh(information).min() > 0:
        errors[free] = np.sqrt(np.diag(np.linalg.inv(information)))
    return errors.tolist(), PLAIN if np.isfinite(errors).all() else AT_LIMIT


# ---------------------------------------------------------------------------------------------------- closed forms


def uniform(law: Any, tally: Tally, given: Any, low: Any) -> Fitted:
    """The ends at the extreme values."""
    n, reach = tally.n, tally.high - tally.low
    error = reach * math.sqrt(n / ((n + 1) ** 2 * (n + 2)))
    width = reach + (law.kind == "count")
    return Fitted([tally.low, tally.high], [error, error], -math.log(width), 2, ENDS)


def laplace(law: Any, tally: Tally, given: Any, low: Any) -> Fitted | str:
    """The median, and the mean distance from it."""
    if tally.sample is None:
        return STREAMED
    x, w = tally.sample
    (middle,) = tally.quantiles(0.5)
    scale = float(w @ np.abs(x - middle)) / tally.n
    error = scale / math.sqrt(tally.n)
    return Fitted([middle, scale], [error, error], -math.log(2 * scale) - 1, 2, EXPECTED)


def shares(law: Any, tally: Tally, given: Any, low: Any) -> Fitted:
    """Categorical: the shares of the levels, which stand in a table of their own."""
    p = tally.sample[1] / tally.n
    return Fitted([], [], float((p * np.log(p)).sum()), tally.levels - 1)


def levels(law: Any, tally: Tally, given: Any, low: Any) -> Fitted:
    """All levels alike: nothing to be learned."""
    return Fitted([], [], -math.log(tally.levels), 0)


def level_binomial(law: Any, tally: Tally, given: float | None, low: Any) -> Fitted | str:
    """n is known: one less than there are levels."""
    return binomial(law, tally, tally.levels - 1.0 if given is None else given, low)


def negative_binomial(law: Any, tally: Tally, given: Any, low: Any) -> Fitted | str:
    """There is a maximum if the variance is above the mean; else a Poisson law is the limit: r as large as allowed."""
    if tally.variance > tally.mean:
        return regular(law, tally, given, low)
    p = MOST_FAILURES / (MOST_FAILURES + tally.mean)
    x, w = tally.sample
    r, q = (torch.tensor(v, dtype=torch.float64) for v in (MOST_FAILURES, p))
    log_lik = float(torch.from_numpy(w) @ law.log_prob(torch.from_numpy(x), r, q)) / tally.n
    return Fitted([MOST_FAILURES, p], [math.nan, math.nan], log_lik, 2, AT_LIMIT)


def bernoulli(law: Any, tally: Tally, given: Any, low: Any) -> Fitted:
    p, error, log_lik = _proportion(1.0, tally)
    return Fitted([p], [error], log_lik, 1, PLAIN if math.isfinite(error) else AT_LIMIT)


def binomial(law: Any, tally: Tally, given: float | None, low: Any) -> Fitted | str:
    """p = mean / n at the n of greatest profile likelihood; there is one if the variance is below the mean.

    Reference: Levin and Reeds, Compound multinomial likelihood functions are unimodal, 1977.
    """
    n, free = given, 1
    if n is not None and n < tally.high:
        return f"with n = {n:g} has no values above that, and the column holds {tally.high:g}"
    if n is None:
        if tally.variance >= tally.mean:
            return "of unknown n needs a variance below the mean; give n, as in 'binomial(20)', or take 'poisson'"
        n, free = _trials(lambda n: _proportion(n, tally)[2], tally.high), 2
    p, error, log_lik = _proportion(n, tally)
    return Fitted([n, p], [math.nan, error], log_lik, free, GIVEN_N if math.isfinite(error) else AT_LIMIT)


def _trials(profile: Callable[[float], float], least: float) -> float:
    """The integer n >= least that maximises a function with a single peak: strides, then halving."""
    a, step = least, 1.0
    while a + step < MOST_TRIALS and profile(a + step) > profile(a):
        a, step = a + step, 2 * step
    a, b = max(least, a - step / 2), a + step
    while b - a > 2:
        middle = math.floor((a + b) / 2)
        a, b = (middle, b) if profile(middle + 1) > profile(middle) else (a, middle + 1)
    return float(max(np.arange(a, b + 1), key=profile))


def _proportion(n: float, tally: Tally) -> tuple[float, float, float]:
    """p of a binomial with n trials, its standard error, and the mean log-likelihood."""
    from scipy.stats import binom

    p = tally.mean / n
    x, w = tally.sample
    error = math.sqrt(p * (1 - p) / (n * tally.n)) if 0 < p < 1 else math.nan
    return p, error, float(w @ binom.logpmf(x, n, p)) / tally.n
