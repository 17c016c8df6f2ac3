"""What Markov chains share: randomness, warm-up and draws, adaptation in warm-up only, and Ctrl-C."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import torch

from plausible.errors import DataError, InterruptedWarning
from plausible.randomness import seed_of
from plausible.sampling._density import count
from plausible.sampling.result import Draws


def generators(random_state: Any) -> tuple[np.random.Generator, torch.Generator]:
    """Return two generators from one seed: numpy's for the sampler's books, torch's for the user's functions."""
    seed = seed_of(random_state)
    rng = np.random.default_rng(seed)
    return rng, torch.Generator().manual_seed(seed_of(rng))


class Kernel:
    """One step of many chains at once. It holds x (C, D), log_p (C,) and accept, the last step's probabilities (C,)."""

    x: np.ndarray
    log_p: np.ndarray
    accept: np.ndarray

    def step(self) -> None:
        raise TypeError(f"{type(self).__name__} does not define step")

    def adapt(self) -> None:
        """Learn from the last step; called in warm-up only."""

    def freeze(self) -> None:
        """Warm-up is over."""

    def settings(self) -> dict[str, Any]:
        return {}


def run(kernel: Kernel, n: int, warmup: int, thin: int, method: str, target: Any = None) -> Draws:
    """Take warm-up steps with adaptation, then n draws a chain, `thin` steps apart; Ctrl-C keeps what was drawn."""
    n, warmup, thin = count(n, "n"), count(warmup, "warmup", 0), count(thin, "thin")
    draws = np.empty((n, *kernel.x.shape))
    log_p = np.empty((n, len(kernel.x)))
    accepted = np.zeros(len(kernel.x))
    done, said = 0, []
    try:
        for _ in range(warmup):
            kernel.step()
            kernel.adapt()
        kernel.freeze()
        for i in range(n):
            for _ in range(thin):
                kernel.step()
                accepted += kernel.accept
            draws[i], log_p[i] = kernel.x, kernel.log_p
            done = i + 1
    except KeyboardInterrupt:
        said = interrupted(done, n)
    return Draws(
        method,
        np.ascontiguousarray(draws[:done].transpose(1, 0, 2)),
        log_p[:done].T.copy(),
        accepted / (max(done, 1) * thin),
        evaluations=getattr(target, "evaluations", 0),
        settings=kernel.settings(),
        warnings=tuple(said),
    )


def interrupted(done: int, n: int) -> list[str]:
    """Warn that Ctrl-C came after `done` of n draws; without any, pass it on."""
    if not done:
        raise KeyboardInterrupt
    said = f"interrupted: {done} of {n} draws of each chain were kept"
    warnings.warn(f"sampling was {said}", InterruptedWarning, stacklevel=4)
    return [said]


class DualAveraging:
    r"""Step sizes (C,) for which the mean acceptance is `aim`.

        log e_t = mu - sqrt(t) / gamma * H_t,    H_t = (1 - 1/(t + t0)) H_{t-1} + (aim - a_t) / (t + t0)

    and log e-bar averages them with weights t^-kappa. Hoffman and Gelman, The No-U-Turn Sampler, JMLR 2014, section
    3.2.
    """

    gamma, t0, kappa = 0.05, 10.0, 0.75

    def __init__(self, step: np.ndarray, aim: float):
        self.aim = aim
        self.mu, self.h, self.t, self.log_mean = (np.zeros(len(step)) for _ in range(4))
        self.restart(np.arange(len(step)), step)

    def restart(self, who: np.ndarray, step: np.ndarray) -> None:
        self.mu[who] = np.log(10 * step)
        self.h[who] = self.t[who] = 0
        self.log_mean[who] = np.log(step)

    def update(self, who: np.ndarray, accept: np.ndarray) -> np.ndarray:
        """Learn from the acceptance of the chains `who`; return their next step sizes."""
        self.t[who] += 1
        t = self.t[who]
        self.h[who] += ((self.aim - accept) - self.h[who]) / (t + self.t0)
        log_step = self.mu[who] - np.sqrt(t) / self.gamma * self.h[who]
        self.log_mean[who] += t**-self.kappa * (log_step - self.log_mean[who])
        return np.exp(log_step)

    def mean(self, who: np.ndarray) -> np.ndarray:
        return np.exp(self.log_mean[who])


class Warmup:
    """Step size and diagonal metric of each chain, as Stan learns them.

    First the step alone, then windows, each twice as long as the one before, at whose ends the variances of the window
    become the metric, then the step alone again. Each chain has its own clock, as chains need not keep pace.
    """

    def __init__(self, step: np.ndarray, dims: int, warmup: int, aim: float):
        chains = len(step)
        self.length = warmup
        self.step, self.variance = step.copy(), np.ones((chains, dims))
        self.tuner = DualAveraging(step, aim)
        self.clock = np.zeros(chains, dtype=int)
        self.first, self.ends = _windows(warmup)
        self.n, self.mean, self.m2 = np.zeros(chains), np.zeros((chains, dims)), np.zeros((chains, dims))

    def update(self, who: np.ndarray, accept: np.ndarray, x: np.ndarray) -> None:
        """Learn from one step of the chains `who` (indices), now at x (len(who), D)."""
        self.step[who] = self.tuner.update(who, accept)
        self.clock[who] += 1
        clock = self.clock[who]
        slow = (clock > self.first) & (clock <= self.ends[-1])
        if slow.any():
            w, x = who[slow], x[slow]
            self.n[w] += 1
            shift = x - self.mean[w]
            self.mean[w] += shift / self.n[w][:, None]
            self.m2[w] += shift * (x - self.mean[w])
            at_end = np.isin(clock[slow], self.ends)
            if at_end.any():
                self._close(w[at_end])
        over = who[clock == self.length]
        if len(over):
            self.step[over] = self.tuner.mean(over)

    def _close(self, who: np.ndarray) -> None:
        n = self.n[who][:, None]
        variance = (self.m2[who] / np.maximum(n - 1, 1)) * n / (n + 5) + 1e-3 * 5 / (n + 5)
        # The typical length of a step in the old metric is kept in the new one, which spares the search some leaps.
        ratio = np.exp(0.5 * np.log(self.variance[who] / variance).mean(1))
        self.variance[who] = variance
        self.step[who] = self.tuner.mean(who) * ratio
        self.tuner.restart(who, self.step[who])
        self.n[who], self.mean[who], self.m2[who] = 0, 0, 0


def _windows(warmup: int) -> tuple[int, np.ndarray]:
    """Return where the first window begins and where each ends: 75, 25, 50, 100, ..., 50 steps, scaled if few."""
    first, last, size = (75, 50, 25) if warmup >= 150 else (int(0.15 * warmup), int(0.1 * warmup), 0)
    size = size or max(warmup - first - last, 1)
    ends, at, stop = [], first, max(warmup - last, first + 1)
    while at < stop:
        at = stop if at + size + 2 * size > stop else at + size
        ends.append(at)
        size *= 2
    return first, np.array(ends)


def reasonable_step(leap, log_joint: np.ndarray, chains: int) -> np.ndarray:
    """Return step sizes (C,) at which the acceptance of one leap crosses 0.8. Hoffman and Gelman, algorithm 4.

    Args:
        leap: takes step sizes (C,), returns the log joint density after one leap, (C,).
        log_joint: that before it.
    """
    step = np.ones(chains)
    direction = np.zeros(chains)
    searching = np.ones(chains, dtype=bool)
    for _ in range(60):
        up = np.where(leap(step) - log_joint > np.log(0.8), 1.0, -1.0)
        direction = np.where(direction == 0, up, direction)
        searching &= up == direction
        if not searching.any():
            return step
        step = np.where(searching, step * 2.0**direction, step)
    raise DataError("no step size suits the density at the start: it is flat, or its gradient is not that of its value")
