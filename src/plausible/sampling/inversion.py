r"""Inversion: the quantile of a uniform is a draw.

    one dimension    F(x) = u,                               u ~ U(0, 1)
    several          F_d(x_d | x_1, ..., x_d-1) = u_d        marginal first, then conditional after conditional

F is given, or is the integral of a given density: Gauss-Legendre in panels, refined until halving them changes nothing;
inside a panel the density is the polynomial through its nodes, whose integral is inverted. In several dimensions the
later coordinates are integrated out at the drawn values of the earlier ones, not at values rounded to a grid.

References: Devroye, Non-Uniform Random Variate Generation, 1986, chapter 2 and section 11.1 (the conditional
distribution method). Ford, Improved algorithms of Illinois-type for the numerical solution of nonlinear equations, 1995
(the step of Anderson and Björck).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from plausible.errors import DataError, PlausibleError
from plausible.sampling._density import LogDensity, Target, _array, count
from plausible.sampling._run import generators

NODES = 8  # of Gauss-Legendre in a panel
PANELS = (16, 8192), (8, 64), (4, 16)  # first and most, in 1, 2 and 3 dimensions
ACCURATE = 1e-9  # share of the mass by which halving the panels may move it
AT_ONCE = 4_000_000  # numbers evaluated in one go


def quantile(
    cdf: Callable[[torch.Tensor], Any], u: Any, *, support: tuple[float, float] = (-math.inf, math.inf)
) -> np.ndarray:
    """Return the smallest x with F(x) >= u, to the last digits, for every u at once.

    Args:
        cdf: F; takes and returns (n,), as tensor or array (such as ``scipy.stats.norm().cdf``); jumps are allowed.
        u: levels in (0, 1), with shape (n,).
        support: where F rises from 0 to 1.

    Raises:
        DataError: F falls, leaves [0, 1], or does not reach u.

    Examples:
        >>> from scipy import stats
        >>> from plausible import sampling
        >>> sampling.quantile(stats.norm().cdf, [0.9, 0.975]).round(2)
        array([1.28, 1.96])
    """
    u = _array(u)
    if u.ndim != 1 or not ((u > 0) & (u < 1)).all():
        raise DataError("u must be numbers strictly between 0 and 1, with shape (n,)")

    return _invert(lambda x, who: cdf(torch.from_numpy(x)), u, *_support(support))


def inverse_transform(
    cdf: Callable[[torch.Tensor], Any],
    n: int,
    *,
    support: tuple[float, float] = (-math.inf, math.inf),
    random_state: Any = None,
) -> np.ndarray:
    """Draw n numbers (n,) from a cumulative distribution function by inverting it at uniforms; see `quantile`.

    Examples:
        >>> from scipy import stats
        >>> from plausible import sampling
        >>> x = sampling.inverse_transform(stats.gamma(3).cdf, 10_000, support=(0, float("inf")), random_state=0)
        >>> round(float(x.mean()), 1)
        3.0
    """
    return quantile(cdf, _uniform(generators(random_state)[0], count(n, "n")), support=support)


def inverse_conditionals(
    cdfs: Sequence[Callable[..., Any]],
    n: int,
    *,
    support: Any = (-math.inf, math.inf),
    random_state: Any = None,
) -> np.ndarray:
    """Draw n points (n, D): the first coordinate from its marginal, each other one given those before it.

    Args:
        cdfs: D functions; the d-th takes values x_d (m,) and the coordinates before it (m, d - 1), and returns
            F_d(x_d | x_1, ..., x_d-1), (m,). The first gets (m, 0).
        n: how many.
        support: a pair for all coordinates, or one pair for each.
        random_state: seed of the uniforms.

    Examples:
        >>> from plausible import sampling
        >>> square = sampling.inverse_conditionals(  # x uniform; y uniform between 0 and x
        ...     [lambda x, before: x.clamp(0, 1), lambda y, before: (y / before[:, 0]).clamp(0, 1)], 10_000,
        ...     support=(0, 1), random_state=0)
        >>> square.mean(0).round(2)
        array([0.5 , 0.25])
    """
    n = count(n, "n")
    cdfs = list(cdfs)
    supports = [_support(s) for s in np.broadcast_to(_array(support), (len(cdfs), 2))]
    rng = generators(random_state)[0]
    x = np.empty((n, len(cdfs)))
    for d, (cdf, (low, high)) in enumerate(zip(cdfs, supports, strict=True)):
        before = torch.from_numpy(x[:, :d].copy())

        def f(values, who, cdf=cdf, before=before):
            return cdf(torch.from_numpy(values), before[torch.from_numpy(who)])

        x[:, d] = _invert(f, _uniform(rng, n), low, high)
    return x


def inverse_density(
    log_density: LogDensity, n: int, low: Any, high: Any, *, random_state: Any = None
) -> tuple[np.ndarray, float]:
    """Draw n independent points from a density on a box in one, two or three dimensions, by quadrature.

    Args:
        log_density: log p up to a constant; takes points (m, D), returns (m,).
        n: how many.
        low, high: corners of the box, numbers for one dimension, else (D,); infinite is allowed, for a density whose
            bulk lies within some units of zero.
        random_state: seed of the uniforms.

    Returns:
        Points (n, D) and the log of the integral of exp(log_density).

    Raises:
        PlausibleError: the density is too sharp for the finest grid (use a chain), or zero on the whole box.

    Examples:
        >>> from plausible import sampling
        >>> half = lambda x: -0.5 * (x**2).sum(1)  # of a normal in two dimensions
        >>> x, log_integral = sampling.inverse_density(half, 5000, [-9, 0], [9, 9], random_state=0)
        >>> x.shape, round(log_integral, 4)  # log of pi, half of 2 pi
        ((5000, 2), 1.1447)
    """
    n = count(n, "n")
    low, high = np.atleast_1d(_array(low)), np.atleast_1d(_array(high))
    if low.shape != high.shape or low.ndim != 1 or not 1 <= len(low) <= 3:
        raise DataError(f"low and high must be corners of a box in 1 to 3 dimensions, got {low.shape} and {high.shape}")
    for a, b in zip(low, high, strict=True):
        _support((a, b))
    grid = _Grid(Target(log_density), low, high)
    grid.refine()
    return grid.draw(generators(random_state)[0], n)


# ------------------------------------------------------------------------------------------------- root finding


def _invert(f: Callable[..., np.ndarray], u: np.ndarray, low: float, high: float) -> np.ndarray:
    """Return the smallest x with F(x) >= u, elementwise: brackets that shrink by false position or by halves.

    Args:
        f: F(x) of values x (k,) that belong to the rows `who` (k,) of u.
    """
    a, b, fa, fb = _bracket(f, u, low, high)
    out, who = b.copy(), np.arange(len(u))
    ga, gb = fa - u, fb - u  # < 0 and >= 0; false position rescales them, as Anderson and Björck do
    side, stale = np.zeros(len(u)), np.zeros(len(u))
    for _ in range(300):
        width = b - a
        with np.errstate(invalid="ignore", divide="ignore"):
            x = a - ga * width / (gb - ga)
        x = np.where((stale >= 2) | ~((x > a) & (x < b)), a + 0.5 * width, x)
        open_ = (x > a) & (x < b) & (width > 4e-16 * np.maximum(np.abs(a), np.abs(b)))
        if not open_.all():  # work on those that are left
            out[who] = b
            who, u, x, width, a, b, fa, fb, ga, gb, side, stale = (
                v[open_] for v in (who, u, x, width, a, b, fa, fb, ga, gb, side, stale)
            )
            if not len(who):
                return out
        fx = _cumulative(f, x, who)
        if ((fx < fa - 1e-9) | (fx > fb + 1e-9)).any():
            raise DataError("cdf falls: a cumulative never does")
        g = fx - u
        up = g >= 0
        with np.errstate(invalid="ignore", divide="ignore"):
            shrink_a = np.where(1 - g / gb > 0, 1 - g / gb, 0.5)
            shrink_b = np.where(1 - g / ga > 0, 1 - g / ga, 0.5)
        ga = np.where(up & (side == 1), ga * shrink_a, ga)  # the end that stays twice in a row weighs less
        gb = np.where(~up & (side == -1), gb * shrink_b, gb)
        b, fb, gb = (np.where(up, new, old) for new, old in ((x, b), (fx, fb), (g, gb)))
        a, fa, ga = (np.where(up, old, new) for new, old in ((x, a), (fx, fa), (g, ga)))
        side = np.where(up, 1, -1)
        stale = np.where(b - a > 0.5 * width, stale + 1, 0)
    out[who] = b
    return out


def _bracket(f, u, low, high):
    """Return a, b with f(a) < u <= f(b), and the values there: ends of the support, or doubled until they reach."""
    n = len(u)
    ends = []
    for end, sign in ((low, -1.0), (high, 1.0)):
        if math.isfinite(end):
            value = _cumulative(f, np.full(n, end), np.arange(n)) if sign > 0 else np.zeros(n)
            if sign > 0 and (value < u).any():
                if value.min() < 1 - 1e-6:
                    raise DataError(f"cdf is {value.min():.6g} at the end of its support, {end:g}; it should be 1")
                value = np.maximum(value, u)  # rounding
            ends.append((np.full(n, end), value))
            continue
        other = high if sign < 0 else low
        origin = other if math.isfinite(other) else 0.0
        x = np.full(n, origin + sign)
        value = _cumulative(f, x, np.arange(n))
        for k in range(1, 1024):
            missed = value >= u if sign < 0 else value < u
            if not missed.any():
                break
            x = np.where(missed, origin + sign * 2.0**k, x)
            value = np.where(missed, _cumulative(f, x, np.arange(n)), value)
        else:
            worst = value.min() if sign > 0 else value.max()
            raise DataError(f"cdf goes to {worst:.6g} at {'+' if sign > 0 else '-'}infinity, not to {int(sign > 0)}")
        ends.append((x, value))
    (a, fa), (b, fb) = ends
    return a, b, fa, fb


def _cumulative(f, x: np.ndarray, who: np.ndarray) -> np.ndarray:
    value = _array(f(x, who))
    if value.shape != x.shape:
        raise DataError(f"cdf of values of shape {x.shape} must return that shape, got {value.shape}")
    if not ((value >= -1e-9) & (value <= 1 + 1e-9)).all():
        bad = value[~((value >= -1e-9) & (value <= 1 + 1e-9))][0]
        raise DataError(f"cdf must lie between 0 and 1, got {bad:g}")
    return value


def _uniform(rng: np.random.Generator, n: int) -> np.ndarray:
    return np.maximum(rng.random(n), 2.0**-60)


def _support(support: Any) -> tuple[float, float]:
    low, high = (float(v) for v in support)
    if not low < high:
        raise DataError(f"support must rise from low to high, got ({low:g}, {high:g})")
    return low, high


# ---------------------------------------------------------------------------------------------------- quadrature


def _integrals() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return nodes and weights on [-1, 1], and A (NODES + 1, NODES): coefficients in t of the integral from -1 to t."""
    t, w = np.polynomial.legendre.leggauss(NODES)
    basis = np.polynomial.legendre.legvander(t, NODES - 1)  # (node, degree)
    expand = (basis * w[:, None]).T * (np.arange(NODES) + 0.5)[:, None]  # values at the nodes -> Legendre coefficients
    primitive = np.stack([np.polynomial.legendre.legint(row, lbnd=-1) for row in np.eye(NODES)], 1)
    power = np.stack([_padded(np.polynomial.legendre.leg2poly(column), NODES + 1) for column in primitive.T], 1)
    return t, w, power @ expand


def _padded(row: np.ndarray, length: int) -> np.ndarray:
    return np.concatenate([row, np.zeros(length - len(row))])


_T, _W, _A = _integrals()


class _Axis:
    """One coordinate as a function x(t) of t in P equal panels of (0, 1): linear, or the line's ends brought near."""

    def __init__(self, low: float, high: float, panels: int):
        self.low, self.high, self.panels = low, high, panels
        left = np.arange(panels) / panels
        self.t = (left[:, None] + (_T + 1) / (2 * panels)).reshape(-1)  # (P * NODES,)
        self.x, log_slope = self.place(self.t)
        self.log_w = np.log(np.tile(_W, panels) / (2 * panels)) + log_slope

    def place(self, t: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return x(t) and log dx/dt."""
        low, high = self.low, self.high
        if math.isfinite(low) and math.isfinite(high):
            return low + (high - low) * t, np.full_like(t, math.log(high - low))
        if math.isfinite(low) or math.isfinite(high):
            s = t if math.isfinite(low) else 1 - t
            away = s / (1 - s)
            return (low + away if math.isfinite(low) else high - away), -2 * np.log1p(-s)
        s = 2 * t - 1
        return s / (1 - s * s), np.log(2 * (1 + s * s)) - 2 * np.log((1 - s) * (1 + s))


class _Grid:
    def __init__(self, target: Target, low: np.ndarray, high: np.ndarray):
        self.target, self.low, self.high, self.dims = target, low, high, len(low)

    def axes(self, panels: int) -> list[_Axis]:
        return [_Axis(a, b, panels) for a, b in zip(self.low, self.high, strict=True)]

    def later(self, before: np.ndarray, d: int) -> np.ndarray:
        """log of the density in t of coordinate d at its nodes, the ones after it integrated out: (m, P * NODES).

        Args:
            before: values (m, d) of the coordinates before it.
        """
        axes = self._axes[d:]
        shape = [len(a.x) for a in axes]
        mesh = np.stack([g.reshape(-1) for g in np.meshgrid(*(a.x for a in axes), indexing="ij")], 1)
        log_w = sum(g.reshape(-1) for g in np.meshgrid(*(a.log_w for a in axes), indexing="ij"))
        size = max(1, AT_ONCE // (len(mesh) * self.dims))
        out = []
        for i in range(0, len(before), size):
            part = before[i : i + size]
            x = np.concatenate([np.repeat(part, len(mesh), 0), np.tile(mesh, (len(part), 1))], 1)
            log_p = (self.target(x).reshape(len(part), -1) + log_w).reshape(len(part), shape[0], -1)
            top = log_p.max(2)
            safe = np.where(np.isneginf(top), 0.0, top)
            with np.errstate(divide="ignore"):
                out.append(safe + np.log(np.exp(log_p - safe[:, :, None]).sum(2)))
        return np.concatenate(out)

    def refine(self) -> None:
        """Double the panels until that moves neither a panel's mass nor the whole."""
        panels, most = PANELS[self.dims - 1]
        previous, error = None, math.inf
        while panels <= most:
            self._axes = self.axes(panels)
            log_mass = self.later(np.empty((1, 0)), 0)[0]
            top = log_mass.max()
            if np.isfinite(top):
                log_panel = np.log(np.exp(log_mass - top).reshape(panels, NODES).sum(1) + 1e-300) + top
                if previous is not None:
                    scale = max(log_panel.max(), previous.max())
                    mass = np.exp(log_panel - scale).reshape(-1, 2).sum(1)
                    error = np.abs(mass - np.exp(previous - scale)).sum() / max(mass.sum(), 1e-300)
                    if error < ACCURATE:
                        return
                previous = log_panel
            panels *= 2
        if not np.isfinite(top):
            raise PlausibleError("the density is zero at all nodes of the grid: is it on this box?")
        if error > 5e-3:
            raise PlausibleError(
                f"the density is too sharp for the grid: its finest halving still moves {error:.2%} of the mass; "
                "take a smaller box around it, or a chain (nuts, metropolis_hastings)"
            )

    def draw(self, rng: np.random.Generator, n: int) -> tuple[np.ndarray, float]:
        x = np.empty((n, self.dims))
        first = self.later(np.empty((1, 0)), 0)
        top = first.max()
        log_integral = float(top + np.log(np.exp(first - top).sum()))
        size = max(1, AT_ONCE // (len(self._axes[0].x) * 4))
        for i in range(0, n, size):
            part = slice(i, min(i + size, n))
            for d in range(self.dims):
                log_mass = first if d == 0 else self.later(x[part, :d], d)
                x[part, d] = self._draw_axis(d, log_mass, rng.random(part.stop - part.start))
        return x, log_integral

    def _draw_axis(self, d: int, log_mass: np.ndarray, u: np.ndarray) -> np.ndarray:
        """Invert the cumulative whose node masses are given, (m, P * NODES) or (1, ...), at u (m,)."""
        axis = self._axes[d]
        top = log_mass.max(1, keepdims=True)
        mass = np.exp(log_mass - np.where(np.isneginf(top), 0, top)).reshape(len(log_mass), axis.panels, NODES)
        below = mass.sum(2).cumsum(1)
        u = u * below[:, -1]
        if len(mass) == 1:
            panel = np.searchsorted(below[0], u, side="right").clip(max=axis.panels - 1)
            row = np.zeros(len(u), dtype=int)
        else:
            panel = (u[:, None] >= below).sum(1).clip(max=axis.panels - 1)
            row = np.arange(len(u))
        height = mass[row, panel] / _W  # density at the nodes, up to a constant
        coefficients = height @ _A.T  # of the integral from -1 to t, a polynomial in t
        inside = u - (below[row, panel] - mass[row, panel].sum(1))
        a, b = -np.ones(len(u)), np.ones(len(u))
        for _ in range(52):
            t = 0.5 * (a + b)
            value = coefficients[:, -1]
            for k in range(NODES - 1, -1, -1):
                value = value * t + coefficients[:, k]
            a, b = np.where(value < inside, t, a), np.where(value < inside, b, t)
        return axis.place((panel + (0.5 * (a + b) + 1) / 2) / axis.panels)[0]
