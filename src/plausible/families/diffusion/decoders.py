r"""What a denoiser's output means, column by column: the law of e given z_t, and of x given z_0.

Columns with few levels. The net says log p(x = k | the other columns of z_t); with the column's own noisy value

    p(x = k | z_t)  ∝  exp(net_k) N(z_t; alpha_t e_k, sigma_t^2)

whose mean and variance are those of the embedded column. At low noise this rounds to the right level by itself.

Numbers, and columns with many levels. mean = alpha_t z_t + sigma_t net_1, variance = sigma_t^2 exp(net_2): what a
standard normal e would have is net = 0 (this is the v-prediction of Salimans and Ho, 2022,
https://arxiv.org/abs/2202.00512). On a lattice this normal is restricted to the lattice points, p(k) ∝ N(e_k; mean,
variance), once it is narrow enough for that to matter: a net need not learn to round.

At the end, with tau = sigma_0 / alpha_0 and y = z_0 / alpha_0,

    p(x | z_0):   levels  N(y; e_x, tau^2) / sum_k N(y; e_k, tau^2)
                  counts  Phi((x + h - y) / tau) - Phi((x - h - y) / tau), 2 h the step of the lattice
                  reals   N(x; y, tau^2)

each of which is normalised over what x can be, so that the bound is one on p(x) itself and nothing is dequantised.
"""

from __future__ import annotations

import math

import torch
from torch import nn

from plausible.embedding import Levels, Numbers
from plausible.space import MAX_SPAN

FINEST = 0.01  # of a real or count, in standard deviations: finer structure is blurred
BY_LEVEL = MAX_SPAN  # levels up to which the net gives each its own number
NARROW = (
    0.7  # steps of a lattice: a normal at least this wide has the same mean and variance on it to a few parts in 10^4
)
REACH = 4  # lattice points on either side that a narrower one is summed over
SAFE = 7.0  # spacings of levels in units of tau: every level is told from its neighbours


class ByLevel:
    """Columns with few levels."""

    def __init__(self, group: Levels):
        self.group, self.size, self.finest = group, group.k, group.spacing / SAFE

    def start(self, x: torch.Tensor) -> torch.Tensor:
        """Return what the net puts out at first (d, size), from codes (n, d) seen before training."""
        shares = torch.stack([(x == k).double().mean(0) for k in range(self.group.k)], 1)
        return (shares + 1 / (len(x) + self.group.k)).log()

    def moments(self, net, z, alpha, sigma):
        """net (n, d, size), z (n, d, w), alpha and sigma (n, 1, 1) -> mean and variance (n, d, w)."""
        points = self.group.points
        own = z * (alpha / sigma**2)
        if self.group.width == 1:
            logit = net + own * points[:, 0] - (alpha / sigma) ** 2 * (points[:, 0] ** 2 / 2)
        else:  # the unit vectors have the same length, which cancels
            logit = net + own
        p = logit.softmax(-1)
        if self.group.width > 1:
            return p, p * (1 - p)
        mean, square = (p @ torch.cat([points, points**2], 1)).split(1, -1)
        return mean, (square - mean**2).clamp_min(0)


class AsNumber:
    """Numbers, and columns with many levels."""

    size = 2

    def __init__(self, group: Levels | Numbers):
        self.group = group
        step = group.spacing if isinstance(group, Levels) else group.smallest_step if group.lattice else 0.0
        self.finest = max(step / 2, FINEST if isinstance(group, Numbers) else 0.0)

    def start(self, x: torch.Tensor) -> torch.Tensor:
        return x.new_zeros(self.group.d, self.size)  # what a standard normal column would have

    def moments(self, net, z, alpha, sigma):
        shift, log_variance = net.split(1, -1)
        mean, variance = alpha * z + sigma * shift, sigma**2 * log_variance.clamp(-8, 4).exp()
        if isinstance(self.group, Levels):
            return _on_lattice(mean, variance, -1.0, self.group.spacing, self.group.k - 1)
        if self.group.lattice:
            low, step = (v.to(z)[:, None] for v in (self.group.low, self.group.step))
            return _on_lattice(mean, variance, low, step, math.inf)
        return mean, variance


def _on_lattice(mean, variance, low, step, last):
    """Mean and variance (n, d, 1) of a normal restricted to the points low + k step, k = 0 .. last.

    A lattice whose lowest point is not known (low = -inf) leaves them as they are.
    """
    narrow = (variance.sqrt() < NARROW * step) & (mean - low).isfinite()
    k = ((mean - low) / step).nan_to_num(0.0, 0.0, 0.0).round().clamp(0, last).detach()
    k = k + torch.arange(-REACH, REACH + 1, device=k.device)  # (n, d, points)
    place = low + k * step - mean
    exact = narrow & (k >= 0) & (k <= last)
    width = torch.where(narrow, variance, torch.ones_like(variance))
    logit = torch.where(exact, -(place**2) / (2 * width), -torch.inf)
    p = torch.where(narrow, logit, 0.0).softmax(-1)
    place = torch.where(exact, place, 0.0)
    shift = (p * place).sum(-1, keepdim=True)
    spread = ((p * place**2).sum(-1, keepdim=True) - shift**2).clamp_min(0)
    return mean + shift, torch.where(narrow, spread, variance)


def decoder(group: nn.Module) -> ByLevel | AsNumber:
    """Return the decoder of a group of columns of an `Embedding`."""
    by_level = isinstance(group, Levels) and (group.width > 1 or group.k <= BY_LEVEL)
    return ByLevel(group) if by_level else AsNumber(group)


def log_prob_given_clean(group: nn.Module, x: torch.Tensor, y: torch.Tensor, tau: torch.Tensor) -> torch.Tensor:
    """Return log p(x | z_0), x (n, d), y = z_0 / alpha_0 (n, d, w), with shape (n, d)."""
    if isinstance(group, Levels):
        return (group.closeness(y) / tau**2).log_softmax(-1).gather(-1, x.long()[..., None])[..., 0]
    x, y = x.double(), y[..., 0].double()
    if not group.lattice:
        return -0.5 * ((x - y) / tau) ** 2 - tau.log() - 0.5 * math.log(2 * math.pi)
    half = group.step / 2
    upper = (x + half - y) / tau
    lower = torch.where(x < group.low + half, -torch.inf, (x - half - y) / tau)
    # Mirrored where both limits lie in the upper tail, in which Phi rounds to one.
    mirrored = lower > 0
    upper, lower = torch.where(mirrored, -lower, upper), torch.where(mirrored, -upper, lower)
    log_upper, log_lower = torch.special.log_ndtr(upper), torch.special.log_ndtr(lower)
    return log_upper + torch.log(-torch.expm1(log_lower - log_upper))


def draw_given_clean(
    group: nn.Module, y: torch.Tensor, tau: torch.Tensor, u: torch.Tensor, noise: torch.Tensor
) -> torch.Tensor:
    """Draw x (n, d) from p(x | z_0), from uniforms and standard normals (n, d)."""
    if isinstance(group, Levels):
        below = (group.closeness(y) / tau**2).softmax(-1).cumsum(-1)[..., :-1]
        return (u[..., None] >= below).sum(-1).to(y)
    return group.nearest(y + tau * noise[..., None])
