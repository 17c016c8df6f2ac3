r"""Parallel tempering: chains at higher temperatures cross between modes and pass their states down.

    chain k explores p(x)^beta_k,    1 = beta_1 > ... > beta_K
    neighbours swap states with probability min(1, exp((beta_k - beta_k+1) (log p(x_k+1) - log p(x_k))))

Swaps are tried between even and odd pairs in turn, which carries states through the ladder without reversing; in
warm-up the ladder is moved so that all pairs are refused equally often. Within a temperature, random-walk Metropolis,
its covariance learned in warm-up.

References: Geyer, 1991. Syed, Bouchard-Côté, Deligiannidis and Doucet, Non-reversible parallel tempering, JRSS B 2022,
https://arxiv.org/abs/1905.02939
"""

from __future__ import annotations

from typing import Any

import numpy as np

from plausible.errors import DataError
from plausible.sampling._density import LogDensity, Target, _array, count, starts
from plausible.sampling._run import Kernel, generators, run
from plausible.sampling.result import Draws

FEW_SWAPS = 0.05  # states hardly ever pass


def parallel_tempering(
    log_density: LogDensity,
    start: Any,
    n: int,
    *,
    temperatures: Any = 8,
    hottest: float = 50.0,
    chains: int | None = None,
    warmup: int | None = None,
    thin: int = 1,
    random_state: Any = None,
) -> Draws:
    """Draw from a density whose modes lie far apart.

    Args:
        log_density: log p up to a constant, of points (m, D); returns (m,).
        start: one point (D,) for all chains, or a point per chain (chains, D).
        n: draws of each chain.
        temperatures: how many, spread between 1 and `hottest` by what is seen in warm-up; or the temperatures
            themselves, the first of them 1, which are then kept.
        hottest: the highest temperature: p^(1/hottest) should have no barrier left.
        chains: independent ladders, where `start` is one point (4).
        warmup, thin, random_state: as in `metropolis_hastings`.

    Returns:
        Draws at temperature 1; `settings` holds the temperatures and how often each pair of neighbours swapped.

    Examples:
        >>> from plausible import sampling
        >>> two = lambda x: (-0.5 * (x.abs() - 10) ** 2).sum(1)  # modes at -10 and 10
        >>> draws = sampling.parallel_tempering(two, [10.0], 4000, random_state=0)
        >>> round(float((draws.flat > 0).mean()), 1)
        0.5
    """
    target = Target(log_density)
    rng = generators(random_state)[0]
    x = starts(start, chains, target)
    learns = isinstance(temperatures, (int, np.integer))
    if learns:
        k = count(temperatures, "temperatures", 2)
        if not hottest > 1:
            raise DataError(f"hottest must be above 1, got {hottest!r}")
        ladder = np.geomspace(1.0, hottest, k)
    else:
        ladder = _array(temperatures)
        if ladder.ndim != 1 or len(ladder) < 2 or ladder[0] != 1 or not (np.diff(ladder) > 0).all():
            raise DataError("temperatures must be a number of at least 2, or rise from 1")
    kernel = _Ladder(target, x, 1 / ladder, learns, rng)
    draws = run(kernel, n, n if warmup is None else warmup, thin, "parallel tempering", target)
    rates = draws.settings["swap_rates"]
    if rates.min() < FEW_SWAPS:
        low = 1 / kernel.beta[rates.argmin()]
        said = f"states hardly pass at temperature {low:.3g} (swaps: {rates.min():.1%}); use more temperatures"
        object.__setattr__(draws, "warnings", (*draws.warnings, said))
    return draws


class _Ladder(Kernel):
    """Legend: C ladders, K temperatures; y (C, K, D) are the states, log_py (C, K) their untempered log density."""

    def __init__(self, target: Target, x: np.ndarray, beta: np.ndarray, learns: bool, rng: np.random.Generator):
        self.target, self.beta, self.learns, self.rng = target, beta, learns, rng
        c, d = x.shape
        k = len(beta)
        self.y = np.repeat(x[:, None], k, 1)
        self.log_py = np.repeat(target(x)[:, None], k, 1)
        self.log_scale = np.log(2.38 / np.sqrt(d) / np.sqrt(beta))
        self.root = np.tile(np.eye(d), (k, 1, 1))
        self.aim = 0.44 if d == 1 else 0.234
        self.t = self.turn = 0
        self._look_from(self.y)
        self._forget()
        self.x, self.log_p, self.accept = x, self.log_py[:, 0], np.ones(c)

    def _forget(self) -> None:
        self.refused, self.asked = np.zeros(len(self.beta) - 1), np.zeros(len(self.beta) - 1)

    def step(self) -> None:
        c, k, d = self.y.shape
        noise = self.rng.standard_normal((c, k, d, 1))
        y = self.y + np.exp(self.log_scale)[:, None] * (self.root @ noise)[..., 0]
        log_py = self.target(y.reshape(c * k, d)).reshape(c, k)
        self.rate = np.exp(np.minimum(self.beta * (log_py - self.log_py), 0.0))
        go = self.rng.random((c, k)) < self.rate
        self.y = np.where(go[:, :, None], y, self.y)
        self.log_py = np.where(go, log_py, self.log_py)
        self._swap()
        self.x, self.log_p, self.accept = self.y[:, 0].copy(), self.log_py[:, 0].copy(), self.rate[:, 0]

    def _swap(self) -> None:
        low = np.arange(self.turn, len(self.beta) - 1, 2)
        self.turn = 1 - self.turn
        if not len(low):
            return
        gain = (self.beta[low] - self.beta[low + 1]) * (self.log_py[:, low + 1] - self.log_py[:, low])
        probability = np.exp(np.minimum(gain, 0.0))
        self.refused[low] += (1 - probability).mean(0)
        self.asked[low] += 1
        c, i = np.nonzero(self.rng.random(gain.shape) < probability)
        i = low[i]
        self.y[c, i], self.y[c, i + 1] = self.y[c, i + 1], self.y[c, i]
        self.log_py[c, i], self.log_py[c, i + 1] = self.log_py[c, i + 1], self.log_py[c, i]

    def adapt(self) -> None:
        self.t += 1
        self.log_scale += 2 * self.t**-0.6 * (self.rate.mean(0) - self.aim)
        self._see()
        if self.t >= 32 and self.t & (self.t - 1) == 0:
            self._reshape()
            if self.learns:
                self._respace()

    def _look_from(self, y: np.ndarray) -> None:
        """Sums of what each temperature sees start again, around the present mean."""
        _, k, d = y.shape
        self.origin, self.n = y.mean(0), 0
        self.first, self.second = np.zeros((k, d)), np.zeros((k, d, d))

    def _see(self) -> None:
        away = (self.y - self.origin).transpose(1, 0, 2)  # (K, C, D)
        self.n += away.shape[1]
        self.first += away.sum(1)
        self.second += away.transpose(0, 2, 1) @ away

    def _reshape(self) -> None:
        """Take the covariance of what each temperature has seen since the last time."""
        d = self.y.shape[2]
        mean = self.first / self.n
        covariance = self.second / self.n - mean[:, :, None] * mean[:, None, :]
        variance = np.einsum("kii->ki", covariance)
        if self.n < 20 * d:
            covariance = np.einsum("ki,ij->kij", variance, np.eye(d))
        self._look_from(self.y)
        ridge = 1e-3 * np.maximum(variance.mean(1), 1e-12)
        root = np.linalg.cholesky(covariance + ridge[:, None, None] * np.eye(d))
        was, now = (np.log(np.einsum("kii->ki", r)).mean(1) for r in (self.root, root))
        self.log_scale += was - now
        self.root = root

    def _respace(self) -> None:
        """Move the inner temperatures so that the pairs share the refusals equally."""
        rate = self.refused / np.maximum(self.asked, 1)
        barrier = np.concatenate([[0], np.cumsum(np.maximum(rate, 1e-3))])
        even = np.linspace(0, barrier[-1], len(self.beta))
        moved = np.exp(np.interp(even, barrier, np.log(self.beta)))
        scale = np.interp(np.log(moved), np.log(self.beta[::-1]), self.log_scale[::-1])
        self.beta, self.log_scale = moved, scale
        self._forget()

    def freeze(self) -> None:
        self._forget()

    def settings(self) -> dict[str, Any]:
        swaps = 1 - self.refused / np.maximum(self.asked, 1)
        return {"temperatures": 1 / self.beta, "swap_rates": swaps, "scale": np.exp(self.log_scale)}
