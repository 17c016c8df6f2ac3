r"""The discrete Gaussian: a kernel on a lattice that is a product of features.

    k(x | y) = exp(-(x - y)^2 / (2 h^2)) / Z_h(y),     Z_h(y) = sum over the lattice points x of the numerator

x, y and h in steps of the lattice, whose ends (if it has any) are those of the column. All the mass lies on points
that the column can take.
"""

from __future__ import annotations

import math

import torch

from plausible.randomness import normal, uniform

SUMMED = 1e4  # steps of h up to which Z is summed; beyond, the midpoint rule is exact to 1e-9
NARROWEST = 0.08  # steps: a neighbour is e^-78 times less likely


def log_z(y: torch.Tensor, h: float, low: float, high: float) -> torch.Tensor:
    """log Z_h of lattice points y (n,)."""
    if h > SUMMED:
        upper, lower = torch.special.ndtr((high + 0.5 - y) / h), torch.special.ndtr((low - 0.5 - y) / h)
        return (upper - lower).log() + math.log(h * math.sqrt(2 * math.pi))
    reach = math.ceil(9 * h) + 1  # exp(-9^2 / 2) is 3e-18
    j = torch.arange(-reach, reach + 1, dtype=y.dtype, device=y.device)
    below = torch.nn.functional.pad((-0.5 * (j / h) ** 2).exp().cumsum(0), (1, 0))
    last = (high - y).clamp(0, reach).long() + reach + 1
    first = (low - y).clamp(-reach, 0).long() + reach
    return (below[last] - below[first]).log()


def width(square: torch.Tensor) -> torch.Tensor:
    """The h for which the mean of (x - y)^2 on an endless lattice is `square` (G,)."""
    low = torch.full_like(square, math.log(NARROWEST))
    high = torch.full_like(square, math.log(4.0))
    k = torch.arange(1, 40, dtype=square.dtype, device=square.device)[:, None]
    for _ in range(50):
        h = (0.5 * (low + high)).exp()
        g = (-0.5 * (k / h) ** 2).exp()
        small = 2 * (k**2 * g).sum(0) / (1 + 2 * g.sum(0)) < square
        low, high = torch.where(small, h.log(), low), torch.where(small, high, h.log())
    # From a few steps on the mean is h^2, to all digits.
    return torch.where(square > 9, square.sqrt(), (0.5 * (low + high)).exp())


def draw(y: torch.Tensor, h: torch.Tensor, low: torch.Tensor, high: torch.Tensor, rng) -> torch.Tensor:
    """Draw x about y (n, G), for h, low and high (G,): rounded normals, thinned to the discrete Gaussian.

    The ratio of exp(-k^2 / 2 h^2) to the mass of the cell about k is largest at k = 0.
    """
    x = y.clone()
    todo = torch.ones_like(y, dtype=torch.bool)
    while todo.any():
        k = (normal(rng, tuple(y.shape), y) * h).round()
        v = uniform(rng, tuple(y.shape), y)
        log_ratio = -0.5 * (k / h) ** 2 + _log_cell(torch.zeros_like(k), h) - _log_cell(k, h)
        good = todo & (v.log() < log_ratio) & (y + k >= low) & (y + k <= high)
        x = torch.where(good, y + k, x)
        todo &= ~good
    return x


def _log_cell(k: torch.Tensor, h: torch.Tensor) -> torch.Tensor:
    """log of the mass that a normal of deviation h has between k - 1/2 and k + 1/2."""
    k = -k.abs()  # in the lower tail, where log_ndtr keeps its precision
    upper, lower = torch.special.log_ndtr((k + 0.5) / h), torch.special.log_ndtr((k - 0.5) / h)
    return upper + torch.log(-torch.expm1(lower - upper))
