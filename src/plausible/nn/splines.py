r"""Monotone rational-quadratic splines from [-B, B] onto itself, continued by the identity.

Between knots (x_k, y_k) and (x_k+1, y_k+1), with s = (y_k+1 - y_k) / (x_k+1 - x_k), slopes d_k at the knots and
xi = (x - x_k) / (x_k+1 - x_k):

    y = y_k + (y_k+1 - y_k) (s xi^2 + d_k xi (1 - xi)) / (s + (d_k+1 + d_k - 2 s) xi (1 - xi))
    dy/dx = s^2 (d_k+1 xi^2 + 2 s xi (1 - xi) + d_k (1 - xi)^2) / (s + (d_k+1 + d_k - 2 s) xi (1 - xi))^2

The slopes at -B and B are one, so that the derivative is continuous there too.

Reference: Durkan, Bekasov, Murray and Papamakarios, Neural spline flows, 2019, https://arxiv.org/abs/1906.04032
(equations 4 to 8).
"""

from __future__ import annotations

import math

import torch
from torch import nn
from torch.nn import functional as F

SMALLEST_BIN = 2.0**-10  # of the width and of the height of the box; a power of two, so that knots K and 1 agree
SMALLEST_SLOPE = 1e-3


class RationalQuadratic(nn.Module):
    """The spline with K bins per value; parameters of zero give the identity.

    Parameters are the leading axis, so that every operation runs along memory. ``size`` = 3 K - 1 is how many there are
    per value: K widths, K heights, K - 1 slopes.

    Args:
        bins: K.
        bound: B.
    """

    def __init__(self, bins: int, bound: float):
        super().__init__()
        self.bins, self.bound, self.size = bins, bound, 3 * bins - 1
        # Knot k lies at the sum of the first k shares, once each bin has the smallest width.
        sums = torch.ones(bins + 1, bins).tril(-1) * (1 - bins * SMALLEST_BIN)
        least = torch.arange(bins + 1.0)[:, None] * SMALLEST_BIN
        self.register_buffer("sums", sums.expand(2, -1, -1), persistent=False)  # (2, K+1, K)
        self.register_buffer("least", least, persistent=False)  # (K+1, 1)

    def forward(
        self, x: torch.Tensor, params: torch.Tensor, inverse: bool = False
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Map x of any shape, with parameters (size, \\*shape), to y and log dy/dx.

        ``inverse`` takes y and returns x and log dx/dy.
        """
        shape, x, params = x.shape, x.reshape(-1), params.reshape(self.size, -1)
        inside = x.clamp(-self.bound, self.bound)
        u = (inside + self.bound) / (2 * self.bound)  # (N,), in units of the box
        shares = params[: 2 * self.bins].unflatten(0, (2, self.bins)).softmax(1)
        knots = torch.baddbmm(self.least, self.sums, shares)  # (2, K+1, N): x and y of the knots
        k = (u >= knots[int(inverse), 1:-1]).sum(0)  # (N,)
        ends = torch.stack([k, k + 1])  # (2, N)
        (x0, x1), (y0, y1) = knots.gather(1, ends.expand(2, -1, -1))
        # softplus(0 + log(e^(1 - least) - 1)) = 1 - least: parameters of zero give slopes of one, as beyond the ends.
        raw = F.pad(params[2 * self.bins :], (0, 0, 1, 1)).gather(0, ends)
        d0, d1 = F.softplus(raw + math.log(math.expm1(1 - SMALLEST_SLOPE))) + SMALLEST_SLOPE
        v, log_slope = (_backward if inverse else _forward)(u, x0, y0, x1 - x0, y1 - y0, d0, d1)
        # Beyond the box u stands still at its edge, where the slope is one, and the rest is passed on.
        y = torch.add(x - inside, v, alpha=2 * self.bound) - self.bound
        return y.view(shape), log_slope.view(shape)


def _forward(u, x0, y0, width, height, d0, d1):
    s = height / width
    xi = (u - x0) / width
    rest = 1 - xi
    both = xi * rest
    below = torch.addcmul(s, d0 + d1 - 2 * s, both)
    v = torch.addcmul(y0, height / below, torch.addcmul(s * xi * xi, d0, both))
    above = torch.addcmul(torch.addcmul(2 * s * both, d1, xi * xi), d0, rest * rest)  # a sum of positive terms
    ratio = s / below
    return v, (above * ratio * ratio).log()


def _backward(v, x0, y0, width, height, d0, d1):
    s = height / width
    bend = d0 + d1 - 2 * s
    rise = v - y0
    # The root in [0, 1] of a xi^2 + b xi + c, in the form that loses no digits as a goes to zero.
    a = height * (s - d0) + rise * bend
    b = height * d0 - rise * bend
    c = -s * rise
    root = (b.square() - 4 * a * c).clamp_min(0).sqrt()
    xi = 2 * c / (-b - root)
    u = x0 + xi * width
    return u, -_forward(u, x0, y0, width, height, d0, d1)[1]
