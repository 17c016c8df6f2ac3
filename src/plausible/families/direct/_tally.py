"""What a law is fitted to: the values of one column, counted where they repeat, and their moments."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np


class Moments(NamedTuple):
    """Means of x, of log x and of log(1 - x), and variances; NaN where a logarithm does not exist."""

    mean: float
    variance: float
    log_mean: float = math.nan
    log_variance: float = math.nan
    log_rest: float = math.nan


class Tally:
    """Weighted values of a column, added chunk by chunk.

    Args:
        repeats: whether values are integers that repeat, so that they are kept as distinct values with their weights.
        keep: whether to keep reals; without, there are their moments only.
        levels: how many there are, of a column that has some; its values are their codes.
    """

    def __init__(self, repeats: bool, keep: bool = True, levels: int = 0):
        self.repeats, self.keep, self.levels = repeats, keep, levels
        self.n, self.low, self.high = 0.0, math.inf, -math.inf
        self._kept: list[tuple[np.ndarray, np.ndarray]] = []
        self._x, self._log, self._rest = (0.0, 0.0, 0.0), (0.0, 0.0, 0.0), (0.0, 0.0, 0.0)

    def add(self, x: np.ndarray, w: np.ndarray) -> None:
        """Add values (n,) with their weights; what is missing or weighs nothing is left out."""
        known = ~np.isnan(x) & (w > 0)
        x, w = (x, w) if known.all() else (x[known], w[known])
        if not len(x):
            return
        self.low, self.high = min(self.low, float(x.min())), max(self.high, float(x.max()))
        if self.repeats:
            self._kept = [_distinct([*self._kept, (x, w)])]
        elif self.keep:
            self._kept.append((x, w))
        self._x = _merge(self._x, x, w)
        if self.low > 0:
            self._log = _merge(self._log, np.log(x), w)
            if self.high < 1:
                self._rest = _merge(self._rest, np.log1p(-x), w)
        self.n = self._x[0]

    @property
    def moments(self) -> Moments:
        n, mean, square = self._x
        positive, unit = self.low > 0, self.low > 0 and self.high < 1
        logs = (self._log[1], self._log[2] / n) if positive else (math.nan, math.nan)
        return Moments(mean, square / n, *logs, self._rest[1] if unit else math.nan)

    @property
    def mean(self) -> float:
        return self._x[1]

    @property
    def variance(self) -> float:
        return self._x[2] / self.n

    @property
    def sample(self) -> tuple[np.ndarray, np.ndarray] | None:
        """Values and their weights; None if they were not kept."""
        if not self._kept:
            return None
        if len(self._kept) > 1:
            self._kept = [tuple(map(np.concatenate, zip(*self._kept, strict=True)))]
        return self._kept[0]

    def quantiles(self, *shares: float) -> list[float]:
        """Weighted quantiles; of an even split, the middle of the two values."""
        x, w = self.sample
        order = x.argsort(kind="stable")
        below = w[order].cumsum()
        aims = np.array(shares) * below[-1]
        places = (np.searchsorted(below, aims * (1 + e)) for e in (-1e-12, 1e-12))
        lower, upper = (x[order][p.clip(0, len(x) - 1)] for p in places)
        return ((lower + upper) / 2).tolist()

    def middle(self) -> tuple[float, float]:
        """Median and a robust deviation: where the data are, and how far apart."""
        low, middle, high = self.quantiles(0.25, 0.5, 0.75)
        return middle, (high - low) / 1.35 or math.sqrt(self.variance)


def _merge(old: tuple[float, float, float], x: np.ndarray, w: np.ndarray) -> tuple[float, float, float]:
    """Weight, mean and sum of squares about it, of what was there and of x (Chan, Golub and LeVeque, 1983)."""
    n = float(w.sum())
    mean = float(w @ x) / n
    square = float(w @ np.square(x - mean))
    total, apart = old[0] + n, mean - old[1]
    return total, old[1] + apart * n / total, old[2] + square + apart**2 * old[0] * n / total


def _distinct(parts: list[tuple[np.ndarray, np.ndarray]]) -> tuple[np.ndarray, np.ndarray]:
    x, w = map(np.concatenate, zip(*parts, strict=True))
    values, which = np.unique(x, return_inverse=True)
    return values, np.bincount(which, w)
