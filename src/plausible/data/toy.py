"""Toy distributions of which the truth is known.

Each class draws samples and gives their exact log-density (or, for `BinaryChain`, probability), so that a model can be
held against the truth. The functions with small letters are short for sampling with the usual settings.

    >>> moons = TwoMoons(noise=0.1)
    >>> X = moons.sample(1000, random_state=0)
    >>> X.shape, moons.log_prob(X).shape
    ((1000, 2), (1000,))
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from math import log, pi
from typing import Any

import numpy as np
from scipy.special import logsumexp

from plausible.errors import DataError
from plausible.randomness import seed_of

BLOCK = 4096  # points whose distances to all centres are held at once


@dataclass(frozen=True)
class TwoMoons:
    """Two half circles, uniform along the arc, with normal noise of standard deviation `noise` in both directions.

    The density is the integral of the noise along both arcs, which `log_prob` takes by Gauss-Legendre quadrature at
    `points` points an arc: exact to rounding where their distance is small against the noise.
    """

    noise: float = 0.1
    points: int = 200

    def sample(self, n: int, random_state: Any = None) -> np.ndarray:
        rng = _rng(random_state)
        points = self._arcs(rng.random(n) * pi, rng.random(n) < 0.5)
        return points + self.noise * rng.standard_normal((n, 2))

    def log_prob(self, X: np.ndarray) -> np.ndarray:
        nodes, weights = np.polynomial.legendre.leggauss(self.points)  # on (-1, 1); the weights sum to two
        angles = (nodes + 1) * pi / 2
        centres = np.concatenate([self._arcs(angles, np.full(self.points, side)) for side in (False, True)])
        return _log_mixture(_points(X, 2), centres, self.noise, np.tile(weights, 2) / 4)

    @staticmethod
    def _arcs(angle: np.ndarray, lower: np.ndarray) -> np.ndarray:
        upper = np.stack([np.cos(angle), np.sin(angle)], 1)
        return np.where(lower[:, None], np.array([1.0, 0.5]) - upper, upper)


@dataclass(frozen=True)
class EightGaussians:
    """Eight round normal distributions of standard deviation `scale` on a circle."""

    radius: float = 2.0
    scale: float = 0.2

    @property
    def centres(self) -> np.ndarray:
        angles = np.arange(8) * pi / 4
        return self.radius * np.stack([np.cos(angles), np.sin(angles)], 1)

    def sample(self, n: int, random_state: Any = None) -> np.ndarray:
        rng = _rng(random_state)
        return self.centres[rng.integers(8, size=n)] + self.scale * rng.standard_normal((n, 2))

    def log_prob(self, X: np.ndarray) -> np.ndarray:
        return _log_mixture(_points(X, 2), self.centres, self.scale, np.full(8, 1 / 8))


@dataclass(frozen=True)
class Checkerboard:
    """Uniform on the black squares of a board of `squares` x `squares` unit squares about the origin."""

    squares: int = 4

    def sample(self, n: int, random_state: Any = None) -> np.ndarray:
        rng = _rng(random_state)
        black = self._black()
        return black[rng.integers(len(black), size=n)] + rng.random((n, 2)) - self.squares / 2

    def log_prob(self, X: np.ndarray) -> np.ndarray:
        square = np.floor(_points(X, 2) + self.squares / 2)
        inside = ((square >= 0) & (square < self.squares)).all(1) & (square.sum(1) % 2 == 0)
        return np.where(inside, -log(len(self._black())), -np.inf)

    def _black(self) -> np.ndarray:
        squares = np.array(list(product(range(self.squares), repeat=2)))
        return squares[squares.sum(1) % 2 == 0]


@dataclass(frozen=True)
class CorrelatedGaussian:
    """A normal distribution in `dims` dimensions: deviations 1, 2, ..., any two columns with `correlation`."""

    dims: int = 2
    correlation: float = 0.8

    @property
    def covariance(self) -> np.ndarray:
        scales = np.arange(1, self.dims + 1)
        matrix = np.full((self.dims, self.dims), self.correlation)
        np.fill_diagonal(matrix, 1)
        return matrix * scales * scales[:, None]

    def sample(self, n: int, random_state: Any = None) -> np.ndarray:
        return _rng(random_state).standard_normal((n, self.dims)) @ self._factor().T

    def log_prob(self, X: np.ndarray) -> np.ndarray:
        factor = self._factor()
        white = np.linalg.solve(factor, _points(X, self.dims).T)
        return -0.5 * (white**2).sum(0) - np.log(np.diag(factor)).sum() - 0.5 * self.dims * log(2 * pi)

    def _factor(self) -> np.ndarray:
        try:
            return np.linalg.cholesky(self.covariance)
        except np.linalg.LinAlgError:
            low = -1 / max(1, self.dims - 1)
            raise DataError(f"correlation must lie between {low:.3g} and 1, got {self.correlation}") from None


@dataclass(frozen=True)
class BinaryChain:
    """`length` bits: the first is fair, each next one equals the one before it with probability `stay`."""

    length: int = 8
    stay: float = 0.8

    def sample(self, n: int, random_state: Any = None) -> np.ndarray:
        """(n, length) int64 of 0 and 1."""
        rng = _rng(random_state)
        turns = rng.random((n, self.length)) >= np.r_[0.5, np.full(self.length - 1, self.stay)]
        return np.cumsum(turns, 1) % 2

    def log_prob(self, X: np.ndarray) -> np.ndarray:
        bits = _points(X, self.length)
        turns = (bits[:, 1:] != bits[:, :-1]).sum(1)
        valid = np.isin(bits, (0, 1)).all(1)
        logs = log(0.5) + turns * np.log1p(-self.stay) + (self.length - 1 - turns) * log(self.stay)
        return np.where(valid, logs, -np.inf)

    def enumerate(self) -> tuple[np.ndarray, np.ndarray]:
        """All 2^length states (2^length, length), and the probability of each."""
        states = np.array(list(product((0, 1), repeat=self.length)))
        return states, np.exp(self.log_prob(states))


def two_moons(n: int = 1000, noise: float = 0.1, random_state: Any = None) -> np.ndarray:
    """(n, 2) float64 from `TwoMoons`."""
    return TwoMoons(noise).sample(n, random_state)


def eight_gaussians(n: int = 1000, scale: float = 0.2, random_state: Any = None) -> np.ndarray:
    """(n, 2) float64 from `EightGaussians`."""
    return EightGaussians(scale=scale).sample(n, random_state)


def checkerboard(n: int = 1000, random_state: Any = None) -> np.ndarray:
    """(n, 2) float64 from `Checkerboard`."""
    return Checkerboard().sample(n, random_state)


def correlated_gaussian(n: int = 1000, dims: int = 2, correlation: float = 0.8, random_state: Any = None) -> np.ndarray:
    """(n, dims) float64 from `CorrelatedGaussian`."""
    return CorrelatedGaussian(dims, correlation).sample(n, random_state)


def binary_chain(n: int = 1000, length: int = 8, stay: float = 0.8, random_state: Any = None) -> np.ndarray:
    """(n, length) int64 from `BinaryChain`."""
    return BinaryChain(length, stay).sample(n, random_state)


def _rng(random_state: Any) -> np.random.Generator:
    return np.random.default_rng(seed_of(random_state))


def _points(X: np.ndarray, dims: int) -> np.ndarray:
    X = np.asarray(X, dtype=np.float64)
    if X.ndim != 2 or X.shape[1] != dims:
        raise DataError(f"expected points of shape (n, {dims}), got {X.shape}")
    return X


def _log_mixture(X: np.ndarray, centres: np.ndarray, scale: float, weights: np.ndarray) -> np.ndarray:
    """Log-density (n,) of a mixture of round normals at `centres` (K, D)."""
    constant = X.shape[1] * log(scale * (2 * pi) ** 0.5)
    logs = np.empty(len(X))
    for i in range(0, len(X), BLOCK):
        squares = ((X[i : i + BLOCK, None] - centres) ** 2).sum(2)  # (block, K)
        logs[i : i + BLOCK] = logsumexp(-0.5 * squares / scale**2, axis=1, b=weights) - constant
    return logs
