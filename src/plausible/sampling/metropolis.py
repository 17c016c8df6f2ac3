r"""Metropolis-Hastings with a random walk or a proposal of one's own, and Langevin dynamics.

    y ~ q(. | x),    accept with probability min(1, p(y) q(x | y) / (p(x) q(y | x)))

    random walk   y = x + s L xi                                  L L' = covariance seen in warm-up
    Langevin      y = x + e^2/2 V grad log p(x) + e V^1/2 xi      V = variances seen in warm-up

with xi standard normal. The scales s and e are learned in warm-up only, as a chain whose kernel depends on its past
need not converge to p.

References: Metropolis et al., 1953. Hastings, 1970. Haario, Saksman and Tamminen, 2001 (covariance). Roberts and
Tweedie, Exponential convergence of Langevin distributions, Bernoulli 1996. Roberts and Rosenthal, Optimal scaling for
various Metropolis-Hastings algorithms, 2001 (acceptance 0.44 in one dimension, 0.234 in many, 0.574 for Langevin).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from plausible.errors import DataError
from plausible.sampling._density import LogDensity, Target, _array, count, starts
from plausible.sampling._run import Kernel, Warmup, generators, reasonable_step, run
from plausible.sampling.result import Draws

Proposal = Callable[[torch.Tensor, torch.Generator], Any]


def metropolis_hastings(
    log_density: LogDensity,
    start: Any,
    n: int,
    *,
    proposal: Proposal | None = None,
    scale: Any = None,
    chains: int | None = None,
    warmup: int | None = None,
    thin: int = 1,
    random_state: Any = None,
) -> Draws:
    """Draw by Metropolis-Hastings, all chains in one batch.

    Args:
        log_density: log p up to a constant; takes points (chains, D), returns (chains,), as tensor or array.
        start: one point (D,) for all chains, or a point per chain (chains, D).
        n: draws of each chain.
        proposal: takes points (chains, D) and a ``torch.Generator``; returns new points, or a pair of new points and
            log q(x | y) - log q(y | x) where q is not symmetric. By default a random walk with normal steps.
        scale: standard deviation of the random walk's steps, a number or (D,); None learns scale and covariance in
            warm-up.
        chains: how many, where `start` is one point (4).
        warmup: steps of each chain that are thrown away and adapted in (by default n).
        thin: steps from draw to draw.
        random_state: seed of everything random.

    Raises:
        DataError: the density is zero at the start, or NaN, or has not one value per point.

    Examples:
        >>> from plausible import sampling
        >>> draws = sampling.metropolis_hastings(lambda x: -x.abs().sum(1), [0.0], 2000, random_state=0)
        >>> draws.draws.shape, bool(abs(draws.flat.mean()) < 0.2)
        ((4, 2000, 1), True)
    """
    target = Target(log_density)
    rng, torch_rng = generators(random_state)
    x = starts(start, chains, target)
    if proposal is not None:
        kernel: Kernel = _Proposing(target, x, rng, proposal, torch_rng)
    else:
        kernel = _RandomWalk(target, x, rng, scale)
    return run(kernel, n, n if warmup is None else warmup, thin, "Metropolis-Hastings", target)


class _Metropolis(Kernel):
    """Legend: C chains, x and y (C, D), log_p (C,)."""

    def __init__(self, target: Target, x: np.ndarray, rng: np.random.Generator):
        self.target, self.x, self.rng = target, x, rng
        self.log_p = target(x)

    def decide(self, y: np.ndarray, log_q: Any = 0.0) -> None:
        """Go to y (C, D) with probability min(1, exp(log p(y) - log p(x) + log_q))."""
        log_p = self.target(y)
        log_ratio = log_p - self.log_p + log_q
        self.accept = np.exp(np.minimum(log_ratio, 0.0))
        go = self.rng.random(len(y)) < self.accept
        self.x = np.where(go[:, None], y, self.x)
        self.log_p = np.where(go, log_p, self.log_p)


class _Proposing(_Metropolis):
    def __init__(self, target, x, rng, proposal: Proposal, torch_rng: torch.Generator):
        super().__init__(target, x, rng)
        self.proposal, self.torch_rng = proposal, torch_rng

    def step(self) -> None:
        answer = self.proposal(torch.from_numpy(self.x), self.torch_rng)
        y, log_q = answer if isinstance(answer, tuple) else (answer, 0.0)
        y, log_q = _array(y), _array(log_q)
        if y.shape != self.x.shape:
            raise DataError(f"proposal must return points {self.x.shape}, got {y.shape}")
        if log_q.shape not in ((), (len(y),)) or np.isnan(log_q).any():
            raise DataError(f"proposal must return a log ratio (chains,) beside the points, got shape {log_q.shape}")
        self.decide(y, log_q)


class _RandomWalk(_Metropolis):
    """The chains pool what they learn; as they stand still between updates of the kernel, that is harmless."""

    def __init__(self, target, x, rng, scale: Any):
        super().__init__(target, x, rng)
        dims = x.shape[1]
        self.learns = scale is None
        self.log_scale = np.log(2.38 / np.sqrt(dims)) if self.learns else 0.0
        root = np.ones(dims) if self.learns else _array(scale)
        if root.shape not in ((), (dims,)) or not (root > 0).all() or not np.isfinite(root).all():
            raise DataError(f"scale must be a positive number or {dims} of them, got {scale!r}")
        self.root = np.eye(dims) * root
        self.aim = 0.44 if dims == 1 else 0.234
        self.t, self.n = 0, 0.0
        self.mean, self.scatter = np.zeros(dims), np.zeros((dims, dims))

    def step(self) -> None:
        noise = self.rng.standard_normal(self.x.shape)
        self.decide(self.x + np.exp(self.log_scale) * noise @ self.root.T)

    def adapt(self) -> None:
        if not self.learns:
            return
        self.t += 1
        self.log_scale += self.t**-0.6 * (self.accept.mean() - self.aim) * 2
        self._see(self.x)
        # In halves of what there is: the early steps of a chain far from the mode are forgotten.
        if self.t >= 32 and self.t & (self.t - 1) == 0:
            dims = self.x.shape[1]
            covariance = self.scatter / max(self.n - 1, 1)
            ridge = 1e-3 * max(np.trace(covariance) / dims, 1e-12)
            if self.n > 10 * dims:
                shrunk = (self.n * covariance + 5 * ridge * np.eye(dims)) / (self.n + 5)
            else:
                shrunk = np.diag(covariance.diagonal() + ridge)
            # One covariance and a scale for it: the scale is kept where a step is as long as before.
            root = np.linalg.cholesky(shrunk)
            self.log_scale += np.log(np.abs(self.root.diagonal()) / root.diagonal()).mean()
            self.root = root
            self.n, self.mean, self.scatter = 0.0, np.zeros(dims), np.zeros((dims, dims))

    def _see(self, x: np.ndarray) -> None:
        """Add points (C, D) to the mean and the scatter around it."""
        n = self.n + len(x)
        own = x.mean(0)
        shift = own - self.mean
        self.scatter += (x - own).T @ (x - own) + np.outer(shift, shift) * self.n * len(x) / n
        self.mean = self.mean + shift * len(x) / n
        self.n = n

    def settings(self) -> dict[str, Any]:
        return {"scale": float(np.exp(self.log_scale)), "covariance": self.root @ self.root.T}


def mala(
    log_density: LogDensity,
    start: Any,
    n: int,
    *,
    gradient: LogDensity | None = None,
    step_size: float | None = None,
    adjusted: bool = True,
    target_accept: float = 0.574,
    chains: int | None = None,
    warmup: int | None = None,
    thin: int = 1,
    random_state: Any = None,
) -> Draws:
    """Draw by Langevin dynamics: a random walk that drifts uphill, with the Metropolis test (MALA).

    Args:
        gradient: of the log-density, takes and returns (chains, D); None asks torch's autograd.
        step_size: e above; None learns it, and the variances V, in warm-up. Given, V is one.
        adjusted: without the test (False) the draws are biased by an amount that vanishes with `step_size`, which then
            has to be given.
        target_accept: the acceptance that the step size is learned for.
        log_density, start, n, chains, warmup, thin, random_state: as in `metropolis_hastings`.

    Examples:
        >>> from plausible import sampling
        >>> draws = sampling.mala(lambda x: -0.5 * (x**2).sum(1), [0.0, 0.0], 1000, random_state=0)
        >>> bool(abs(draws.flat.std() - 1) < 0.05)
        True
    """
    if not adjusted and step_size is None:
        raise DataError("without the Metropolis test there is no acceptance to learn a step from: give step_size")
    if step_size is not None and not step_size > 0:
        raise DataError(f"step_size must be positive, got {step_size!r}")
    check_share(target_accept)
    target = Target(log_density, gradient)
    warmup = count(n if warmup is None else warmup, "warmup", 0)
    kernel = _Langevin(
        target, starts(start, chains, target), generators(random_state)[0], step_size, warmup, target_accept, adjusted
    )
    method = "Langevin, Metropolis-adjusted" if adjusted else "Langevin, unadjusted (biased by the step size)"
    return run(kernel, n, warmup, thin, method, target)


def check_share(target_accept: float) -> None:
    if not 0 < target_accept < 1:
        raise DataError(f"target_accept must lie between 0 and 1, got {target_accept!r}")


class _Langevin(Kernel):
    def __init__(self, target: Target, x, rng, step_size: float | None, warmup: int, aim: float, adjusted: bool):
        self.target, self.x, self.rng, self.adjusted = target, x, rng, adjusted
        self.log_p, self.slope = target.with_gradient(x, strict=True)
        self.learns = step_size is None and warmup > 0
        self.everyone = np.arange(len(x))
        if step_size is None:
            noise = rng.standard_normal(x.shape)
            step = reasonable_step(lambda e: self._propose(e, noise)[3], np.zeros(len(x)), len(x))
        else:
            step = np.full(len(x), float(step_size))
        self.warm = Warmup(step, x.shape[1], warmup, aim)

    def _propose(self, step: np.ndarray, noise: np.ndarray):
        """Return y, log p(y), its gradient and the log of the acceptance ratio."""
        variance = self.warm.variance if hasattr(self, "warm") else np.ones_like(self.x)
        e = step[:, None]
        with np.errstate(over="ignore", invalid="ignore"):
            y = self.x + 0.5 * e**2 * variance * self.slope + e * np.sqrt(variance) * noise
            log_p, slope = self.target.with_gradient(y)
            back = (self.x - y - 0.5 * e**2 * variance * slope) / (e * np.sqrt(variance))
            log_ratio = log_p - self.log_p + 0.5 * (noise**2 - back**2).sum(1)
        return y, log_p, slope, np.where(np.isnan(log_ratio), -np.inf, log_ratio)

    def step(self) -> None:
        y, log_p, slope, log_ratio = self._propose(self.warm.step, self.rng.standard_normal(self.x.shape))
        if self.adjusted:
            self.accept = np.exp(np.minimum(log_ratio, 0.0))
            go = self.rng.random(len(y)) < self.accept
        else:
            go = log_p > -np.inf  # there is no way back from density zero, where the gradient is zero too
            self.accept = go.astype(float)
        self.x = np.where(go[:, None], y, self.x)
        self.slope = np.where(go[:, None], slope, self.slope)
        self.log_p = np.where(go, log_p, self.log_p)

    def adapt(self) -> None:
        if self.learns:
            self.warm.update(self.everyone, self.accept, self.x)

    def settings(self) -> dict[str, Any]:
        return {"step_size": self.warm.step.copy(), "variance": self.warm.variance.copy()}
