"""What every sampler asks of its target: values and gradients of a callable log-density, with its promises checked.

The samplers keep their books in numpy (a tenth of the overhead of torch on small arrays); the log-density gets a
float64 tensor of all chains at once.
"""

from __future__ import annotations

import numbers
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from plausible.errors import DataError

LogDensity = Callable[[torch.Tensor], Any]


class Target:
    """log p up to a constant, at many points at once.

    Args:
        log_density: takes float64 (n, D), returns a tensor or array (n,); -inf where the density is zero.
        gradient: takes float64 (n, D), returns (n, D); None asks torch's autograd.
    """

    def __init__(self, log_density: LogDensity, gradient: LogDensity | None = None):
        if not callable(log_density):
            raise DataError(f"log_density must be a function of points (n, D), got {type(log_density).__name__}")
        self._log_density, self._gradient = log_density, gradient
        self.evaluations = 0

    def __call__(self, x: np.ndarray, strict: bool = True) -> np.ndarray:
        """Return log p (n,) of x (n, D). NaN is refused, or taken as density zero where it is not `strict`."""
        self.evaluations += len(x)
        with torch.no_grad():
            value = self._log_density(torch.from_numpy(x))
        return self._checked(value, x, strict)

    def with_gradient(self, x: np.ndarray, strict: bool = False) -> tuple[np.ndarray, np.ndarray]:
        """Return log p (n,) and its gradient (n, D); where log p is not finite the gradient is zero.

        A trajectory that leaves for infinity ends in NaN of itself: that counts as density zero.
        """
        self.evaluations += len(x)
        z = torch.from_numpy(x)
        if self._gradient is not None:
            with torch.no_grad():
                value, slope = self._log_density(z), self._gradient(z)
            slope = _array(slope)
            if slope.shape != x.shape:
                raise DataError(f"gradient of points {x.shape} must have that shape, got {slope.shape}")
        else:
            value, slope = self._differentiated(z)
        log_p = self._checked(value, x, strict)
        usable = np.isfinite(log_p)
        if not usable.all() or not np.isfinite(slope).all():
            usable &= np.isfinite(slope).all(1)
            log_p = np.where(usable, log_p, -np.inf)
            slope = np.where(usable[:, None], slope, 0.0)
        return log_p, slope

    def _differentiated(self, z: torch.Tensor) -> tuple[torch.Tensor, np.ndarray]:
        z = z.clone().requires_grad_()
        hint = "write it with torch, give gradient=, or use a sampler without gradients (metropolis_hastings)"
        try:
            with torch.enable_grad():
                value = self._log_density(z)
        except RuntimeError as err:
            if "requires grad" in str(err):  # it was turned into an array on the way
                raise DataError(f"log_density cannot be differentiated; {hint}") from err
            raise
        if not isinstance(value, torch.Tensor) or not value.requires_grad:
            raise DataError(f"log_density cannot be differentiated; {hint}")
        slope = torch.autograd.grad(value.sum(), z)[0]
        return value.detach(), slope.numpy()

    def _checked(self, value: Any, x: np.ndarray, strict: bool) -> np.ndarray:
        log_p = _array(value)
        if log_p.shape != (len(x),):
            raise DataError(
                f"log_density of points of shape {x.shape} must return one number each, shape ({len(x)},); "
                f"got {log_p.shape}"
            )
        total = log_p.sum()  # NaN and +inf show in it, and it is one pass
        if np.isfinite(total):
            return log_p
        if (log_p == np.inf).any():
            raise DataError(f"log_density is +inf at {_point(x[log_p == np.inf][0])}: a density must be finite")
        nan = np.isnan(log_p)
        if nan.any() and strict:
            raise DataError(
                f"log_density is NaN at {nan.sum()} of {len(x)} points, such as {_point(x[nan][0])}; "
                "return -inf where the density is zero"
            )
        return np.where(nan, -np.inf, log_p)


def starts(start: Any, chains: int | None, target: Target | None) -> np.ndarray:
    """Return the starting points (chains, D); one point (D,) serves for all chains (4 of them, unless said)."""
    x = np.array(_array(start))
    if x.ndim not in (1, 2) or x.size == 0:
        raise DataError(f"start must be one point (D,) or one per chain (chains, D), got shape {x.shape}")
    if x.ndim == 1:
        x = np.tile(x, (count(4 if chains is None else chains, "chains"), 1))
    elif chains not in (None, len(x)):
        raise DataError(f"start holds {len(x)} points for {chains} chains; give one point (D,), or one per chain")
    if not np.isfinite(x).all():
        raise DataError("start holds NaN or infinity")
    if target is not None:
        refuse_zero(target(x), x)
    return x


def refuse_zero(log_p: np.ndarray, x: np.ndarray) -> None:
    if np.isneginf(log_p).any():
        where = _point(x[np.isneginf(log_p)][0])
        raise DataError(f"start has density zero at {where}; start where the density is positive")


def count(value: Any, name: str, low: int = 1) -> int:
    """Return an integer of at least `low`, or refuse it by name."""
    if not isinstance(value, numbers.Integral) or isinstance(value, bool) or value < low:
        raise DataError(f"{name} must be an integer of at least {low}, got {value!r}")
    return int(value)


def _array(value: Any) -> np.ndarray:
    if isinstance(value, torch.Tensor):
        value = value.detach().cpu().numpy()
    try:
        return np.asarray(value, dtype=np.float64)
    except (TypeError, ValueError):
        raise DataError(f"expected numbers, got {type(value).__name__}") from None


def _point(x: np.ndarray) -> str:
    return np.array2string(x, precision=4, threshold=6, edgeitems=3)
