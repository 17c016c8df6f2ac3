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

SMALLEST_BIN = 1e-3  # of the width and of the height of the box
SMALLEST_SLOPE = 1e-3


class RationalQuadratic(nn.Module):
    """The spline with K bins per value; parameters of zero give the identity.

    ``size`` = 3 K - 1 is the number of parameters per value: K widths, K heights, K - 1 slopes.

    Args:
        bins: K.
        bound: B.
    """

    def __init__(self, bins: int, bound: float):
        super().__init__()
        self.bins, self.bound, self.size = bins, bound, 3 * bins - 1
        self.share = 1 - bins * SMALLEST_BIN  # of the box that is left once each bin has the smallest width
        # Rows x, y, slope; columns knots 0 .. K. What the parameters say is added to the inner columns.
        ramp = torch.arange(bins + 1) * SMALLEST_BIN
        ramp[-1] = 1.0
        slope = torch.full((bins + 1,), SMALLEST_SLOPE)
        slope[0] = slope[-1] = 1.0
        self.register_buffer("base", torch.stack([ramp, ramp, slope]), persistent=False)
        self.register_buffer("pair", torch.tensor([0, 1]), persistent=False)

    def forward(
        self, x: torch.Tensor, params: torch.Tensor, inverse: bool = False
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Map x of shape (n, d) with parameters (n, d, size); return y (n, d) and log dy/dx (n, d).

        ``inverse`` takes y and returns x and log dx/dy.
        """
        knots = self._knots(params)  # (n, d, 3, K+1), in units of the box
        inside = x.clamp(-self.bound, self.bound)
        u = (inside + self.bound) / (2 * self.bound)
        row = 1 if inverse else 0
        k = (u[..., None] >= knots[..., row, 1:-1]).sum(-1)  # (n, d)
        ends = (k[..., None, None] + self.pair).expand(*k.shape, 3, 2)
        left, right = knots.gather(-1, ends).unbind(-1)  # (n, d, 3)
        x0, y0, d0 = left.unbind(-1)
        d1 = right[..., 2]
        width, height = (right - left)[..., :2].unbind(-1)
        v, log_slope = (_backward if inverse else _forward)(u, x0, y0, width, height, d0, d1)
        # Beyond the box u stands still at its edge, where the slope is one, and the rest is passed on.
        return (2 * self.bound) * v - self.bound + (x - inside), log_slope

    def _knots(self, params: torch.Tensor) -> torch.Tensor:
        n_bins = self.bins
        shares = params[..., : 2 * n_bins].unflatten(-1, (2, n_bins)).softmax(-1)
        inner = shares.cumsum(-1)[..., :-1] * self.share  # (n, d, 2, K-1)
        # softplus(0 + log(e^(1 - least) - 1)) = 1 - least: parameters of zero give slopes of one.
        slopes = F.softplus(params[..., None, 2 * n_bins :] + math.log(math.expm1(1 - SMALLEST_SLOPE)))
        return self.base + F.pad(torch.cat([inner, slopes], -2), (1, 1))


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
