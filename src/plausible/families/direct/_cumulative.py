r"""Nets that are cumulative distribution functions of one number t, D of them side by side.

Both are sigmoid nets H(t) whose first hidden layer sees t; the biases come from outside, a set for every row, so that
what is learned is F(t | what the row knows):

    h_1 = s(w (t - m)),    h_l = s(M_l' h_l-1 + b_l),    s the logistic function

`Positive` has w, M > 0 and output weights v > 0 that sum to one. Then every unit rises with t, the ends h(-oo), h(oo)
are known, and with G = v' h_L

    F(t) = (G(t) - G(-oo)) / (G(oo) - G(-oo)),    f(t) = G'(t) / (G(oo) - G(-oo))

goes from 0 to 1 exactly. A rise s(b) - s(a) = s(b) s(-a) (1 - e^(a-b)) is a product of positive terms and so is the
slope s' = s(t) s(-t); layer by layer their logarithms are summed, so that log f, log F and log(1 - F) have all their
digits in the farthest tail.

`Free` has weights of any sign and H(t) = s(v' h_L + v_0), which is asked to rise only where training looks. What is
evaluated is H made a cumulative: its running maximum R at the nodes t_0 < ... < t_N, scaled to go from 0 to 1, with the
monotone cubic of Fritsch and Carlson between them, and a share of 1e-3 of a logistic distribution for what lies outside
or where H does not rise.

References: Sill, Monotonic networks, 1998. Fritsch and Carlson, Monotone piecewise cubic interpolation, 1980.
Chandrupatla, A new hybrid quadratic/bisection algorithm for finding the zero of a nonlinear function, 1997.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import nn
from torch.nn import functional as F

STEEPEST = 1e3  # slope of a unit in t: a spike on a repeated value may not grow without bound
NODES = 96
FLOOR = 1e-3  # share of the logistic distribution
STEPS = 100  # of an inversion, at most

Part = slice  # which of the D nets


class Cumulative(nn.Module):
    """What the two share. Legend: D nets, n rows (1 where all are alike), T values, K units of a layer, P parameters.

    t has shape (D, n, T), parameters (D, n, P); `part` says which of the D nets they belong to.

    Args:
        hidden: K of each layer.
        low, high: edges of the lattice (D,) below (above) which all mass is the lowest (highest) level's; or infinite.
        step: of the lattice (D,); 0 for a real.
        centre, unit: (D,) about where and how wide t is expected to be.
    """

    outputs: int  # per unit of the last layer, besides its weight

    def __init__(self, hidden: tuple[int, ...], low, high, step, centre, unit):
        super().__init__()
        self.sizes = [hidden[0], hidden[0], *hidden[1:], hidden[-1] + self.outputs]
        self.size, self.lattice = sum(self.sizes), [s > 0 for s in step]
        for name, values in {"low": low, "high": high, "step": step, "centre": centre, "unit": unit}.items():
            self.register_buffer(name, torch.tensor(values, dtype=torch.float64), persistent=False)
        self.between = nn.ParameterList(
            nn.Parameter(torch.randn(len(low), a, b) / 2) for a, b in zip(hidden[:-1], hidden[1:], strict=True)
        )

    def initial(self, hidden: tuple[int, ...]) -> torch.Tensor:
        """Return parameters (D, 1, P) to start from: units spread over where the data are."""
        k = hidden[0]
        spread = 1.2 * torch.special.ndtri((torch.arange(k) + 0.5) / k) if k > 1 else torch.zeros(1)
        unit, centre = self.unit.float()[:, None], self.centre.float()[:, None]
        parts = [(math.log(3.0 if k > 4 else 1.7) - unit.log()).expand(-1, k), centre + unit * spread]
        for width in hidden[1:]:  # spread over the sums of the layer before, which go from 0 to about 10
            parts.append((torch.linspace(-8.0, -2.0, width) if width > 1 else torch.full((1,), -5.0))[None])
        parts.append(self._initial_output(hidden[-1])[None])
        return torch.cat([p.expand(len(centre), -1) for p in parts], 1)[:, None]

    def _split(self, params: torch.Tensor) -> list[torch.Tensor]:
        """log w, m, the biases of the later layers, the output: each (D, n, 1, K)."""
        return list(params[:, :, None].split(self.sizes, -1))

    def _slope(self, log_w: torch.Tensor, part: Part) -> torch.Tensor:
        """log w, kept below what the unit, or the lattice, makes sensible."""
        step = self.step[part].to(log_w)
        most = torch.where(step > 0, 50 / step, STEEPEST / self.unit[part].to(log_w)).log()
        return torch.minimum(log_w, most[:, None, None, None])

    def log_prob(self, t: torch.Tensor, params: torch.Tensor, part: Part = slice(None)) -> torch.Tensor:
        """Return log f(t) of reals, log of the mass of points of a lattice, with shape (D, n, T)."""
        lattice = self.lattice[part]
        if not any(lattice):
            return self.log_density(t, params, part)
        half = (self.step[part] / 2).to(t)[:, None, None]
        mass = self.log_mass(t - half, t + half, *self._at_edges(t, part), params, part)
        if all(lattice):
            return mass
        return torch.where(half > 0, mass, self.log_density(t, params, part))

    def _at_edges(self, t: torch.Tensor, part: Part) -> tuple[torch.Tensor, torch.Tensor]:
        """Whether a point of the lattice is the lowest, or the highest."""
        return t < self.low[part][:, None, None], t > self.high[part][:, None, None]

    def invert(self, u: torch.Tensor, params: torch.Tensor, part: Part) -> torch.Tensor:
        """Return the smallest value, or point of the lattice, with F >= u: u, t (1, n, 1)."""
        prepared = self.prepare(params, part)
        centre, unit = self.centre[part].to(u), self.unit[part].to(u)
        t = solve(lambda t: self.log_cdf(t, params, part, prepared), u, centre, unit)
        if not all(self.lattice[part]):
            return t
        # The lattice goes through its lowest point, or through zero.
        low, high, step = self.low[part], self.high[part], self.step[part]
        first = torch.where(low.isinf(), torch.zeros_like(low), low - step / 2)
        point = first + ((t - first - step / 2) / step).ceil() * step
        return torch.minimum(torch.maximum(point, low - step / 2), high + step / 2)

    def prepare(self, params: torch.Tensor, part: Part):
        """Return what is the same for all t of a row."""
        return None


class Positive(Cumulative):
    """The net that is a cumulative by construction."""

    outputs = 0

    def __init__(self, hidden, *columns):
        super().__init__(hidden, *columns)
        with torch.no_grad():
            for m in self.between:
                m.add_(math.log(10 / m.shape[1]))

    def _initial_output(self, k: int) -> torch.Tensor:
        return torch.zeros(k)

    def _first(self, t, log_w, m):
        """The arguments of the first layer's units, (D, n, T, K)."""
        return log_w.exp() * (t[..., None] - m)

    def _later(self, h: torch.Tensor, biases, weights) -> list[torch.Tensor]:
        """The arguments of the later layers, from the values h of the first."""
        out = []
        for weight, bias in zip(weights, biases, strict=True):
            out.append(_times(h, weight) + bias)
            h = out[-1].sigmoid()
        return out

    def _weights(self, part: Part) -> list[torch.Tensor]:
        return [weight[part].exp() for weight in self.between]

    @staticmethod
    def _rise(log_d: torch.Tensor, low, high, log_v: torch.Tensor, weights) -> torch.Tensor:
        """log of G(t') - G(t) from log h_1(t') - h_1(t) and the later arguments at both."""
        for weight, a, b in zip(weights, low, high, strict=True):
            log_d = F.logsigmoid(b) + F.logsigmoid(-a) + _log_one_less(_log_times(log_d, weight))
        return (log_v + log_d).logsumexp(-1)

    def _ends(self, like: torch.Tensor, biases, weights) -> tuple[list, list]:
        """The later arguments at -oo and oo."""
        ends = torch.cat([torch.zeros_like(like), torch.ones_like(like)], 2)
        both = self._later(ends, biases, weights)
        return [e[:, :, :1] for e in both], [e[:, :, 1:] for e in both]

    def prepare(self, params, part):
        """The later arguments at -oo and oo, the logarithm of the output weights, and log (G(oo) - G(-oo))."""
        log_w, _, *biases, v = self._split(params)
        weights, log_v = self._weights(part), v.log_softmax(-1)
        bottom, top = self._ends(log_w, biases, weights)
        return bottom, top, log_v, self._rise(torch.zeros_like(log_w), bottom, top, log_v, weights), weights

    def log_cdf(self, t, params, part=slice(None), prepared=None):
        """Return log F(t) and log(1 - F(t)), (D, n, T) each."""
        bottom, top, log_v, total, weights = self.prepare(params, part) if prepared is None else prepared
        log_w, m, *biases, _ = self._split(params)
        a = self._first(t, self._slope(log_w, part), m)
        here = self._later(a.sigmoid(), biases, weights)
        log_d = F.logsigmoid(torch.cat([a, -a], 2))
        lows = [torch.cat([end.expand_as(at), at], 2) for end, at in zip(bottom, here, strict=True)]
        highs = [torch.cat([at, end.expand_as(at)], 2) for end, at in zip(top, here, strict=True)]
        return (self._rise(log_d, lows, highs, log_v, weights) - total).chunk(2, 2)

    def log_density(self, t, params, part=slice(None)):
        _, _, log_v, total, weights = self.prepare(params, part)
        log_w, m, *biases, _ = self._split(params)
        log_w = self._slope(log_w, part)
        a = self._first(t, log_w, m)
        log_d = log_w + F.logsigmoid(a) + F.logsigmoid(-a)
        for weight, b in zip(weights, self._later(a.sigmoid(), biases, weights), strict=True):
            log_d = _log_times(log_d, weight) + F.logsigmoid(b) + F.logsigmoid(-b)
        return (log_v + log_d).logsumexp(-1) - total

    def log_mass(self, low, high, lowest, highest, params, part=slice(None)):
        """Return log F(high) - F(low); from -oo where `lowest`, to oo where `highest`."""
        _, _, log_v, total, weights = self.prepare(params, part)
        log_w, m, *biases, _ = self._split(params)
        log_w, lowest, highest = self._slope(log_w, part), lowest[..., None], highest[..., None]
        a, b = self._first(low, log_w, m), self._first(high, log_w, m)
        nothing = torch.zeros_like(a)
        log_d = torch.where(highest, nothing, F.logsigmoid(b)) + torch.where(lowest, nothing, F.logsigmoid(-a))
        width = _log_one_less(log_w + (high - low).clamp_min(torch.finfo(low.dtype).tiny)[..., None].log())
        log_d = log_d + torch.where(lowest | highest, nothing, width)
        a = self._later(torch.where(lowest, nothing, a.sigmoid()), biases, weights)
        b = self._later(torch.where(highest, nothing + 1, b.sigmoid()), biases, weights)
        return self._rise(log_d, a, b, log_v, weights) - total

    def regress(self, t, params):
        """Return log F and log(1 - F), to be trained, and the penalty."""
        return *self.log_cdf(t, params), torch.zeros_like(t)


class Free(Cumulative):
    """The net that is only asked to rise; `nodes` (D, N + 1) must be set from data before it is evaluated."""

    outputs = 1

    def __init__(self, hidden, *columns):
        super().__init__(hidden, *columns)
        with torch.no_grad():
            for m in self.between:
                m.add_(10 / m.shape[1])
        self.register_buffer("nodes", torch.linspace(-5, 5, NODES + 1, dtype=torch.float64).repeat(len(self.low), 1))

    def _initial_output(self, k: int) -> torch.Tensor:
        return torch.cat([torch.full((k,), 8.0 / k), torch.tensor([-4.0])])

    def look(self, t: torch.Tensor) -> None:
        """Place the nodes: half of them even over the range of t (n, D) and one unit beyond, half at its quantiles."""
        t = t.double()
        ends = torch.stack([t.amin(0) - self.unit, t.amax(0) + self.unit])
        share = torch.linspace(0, 1, NODES // 2 + 1, dtype=torch.float64, device=t.device)[:, None]
        even = ends[0] + share * (ends[1] - ends[0])
        at = (share[:-1, 0] * (len(t) - 1)).long()
        nodes = torch.cat([even, t.sort(0).values[at]]).sort(0).values
        apart = 1e-4 * self.unit * torch.arange(len(nodes), device=t.device)[:, None]  # where quantiles coincide
        self.nodes.copy_((nodes + apart).T)

    def _net(self, t, params, part) -> tuple[torch.Tensor, torch.Tensor]:
        """The logit of H and its slope in t."""
        log_w, m, *biases, v = self._split(params)
        w = self._slope(log_w, part).exp()  # the first layer's sign is that of the weights after it
        h = (w * (t[..., None] - m)).sigmoid()
        slope = w * h * (1 - h)
        for weight, bias in zip(self.between, biases, strict=True):
            h, slope = (_times(h, weight[part]) + bias).sigmoid(), _times(slope, weight[part])
            slope = slope * h * (1 - h)
        v, v_0 = v.split([v.shape[-1] - 1, 1], -1)
        return (v * h).sum(-1) + v_0[..., 0], (v * slope).sum(-1)

    def regress(self, t, params):
        """Return log H and log(1 - H), to be trained, and how far H falls: -H' where it is negative."""
        logit, slope = self._net(t, params, slice(None))
        log_h, log_rest = F.logsigmoid(logit), F.logsigmoid(-logit)
        return log_h, log_rest, F.relu(-slope * (log_h + log_rest).exp())

    def prepare(self, params, part):
        """The corrected cumulative at the nodes, and its slopes there: (D, n, N + 1) each."""
        nodes = self.nodes[part].to(params)[:, None]
        logit, slope = self._net(nodes.expand(-1, params.shape[1], -1), params, part)
        h = logit.sigmoid()
        top = h.cummax(-1).values
        ramp = 1e-9 * torch.arange(nodes.shape[-1], device=nodes.device)  # a net that nowhere rises has this left
        total = top[..., -1:] - top[..., :1] + ramp[-1]
        value = (top - top[..., :1] + ramp) / total
        secant = value.diff(dim=-1) / nodes.diff(dim=-1)
        most = 3 * torch.minimum(F.pad(secant, (1, 0), value=math.inf), F.pad(secant, (0, 1), value=math.inf))
        slope = (slope * h * (1 - h)).clamp_min(0) / total  # beside a level stretch `most` is next to nothing
        return value, torch.minimum(slope, most), secant

    def _cubic(self, t, part, prepared) -> tuple[torch.Tensor, torch.Tensor]:
        """The monotone cubic and its slope at t; 0, 1 and no slope outside the nodes."""
        value, slope, secant = prepared
        nodes = self.nodes[part].to(t)
        inside = torch.searchsorted(nodes.contiguous(), t.flatten(1).contiguous(), right=True).view(t.shape) - 1
        k = inside.clamp(0, nodes.shape[1] - 2)
        left = nodes.gather(1, k.flatten(1)).view(t.shape)
        width = nodes.gather(1, k.flatten(1) + 1).view(t.shape) - left
        rows = (t.shape[0], t.shape[1], -1)
        y, d, m0, m1 = (v.expand(rows).gather(2, j) for v, j in ((value, k), (secant, k), (slope, k), (slope, k + 1)))
        x = ((t - left) / width).clamp(0, 1)
        rise = x * (m0 * (1 - x) ** 2 - m1 * x * (1 - x) + d * x * (3 - 2 * x))
        density = 6 * d * x * (1 - x) + m0 * (1 - x) * (1 - 3 * x) + m1 * x * (3 * x - 2)
        outside = (inside < 0) | (inside > nodes.shape[1] - 2)
        return (y + width * rise).clamp(0, 1), torch.where(outside, 0.0, density.clamp_min(0))

    def _floor(self, t, part) -> torch.Tensor:
        return (t - self.centre[part].to(t)[:, None, None]) / self.unit[part].to(t)[:, None, None]

    def log_cdf(self, t, params, part=slice(None), prepared=None):
        prepared = self.prepare(params, part) if prepared is None else prepared
        y, base = self._cubic(t, part, prepared)[0], self._floor(t, part)
        return _mix(y, F.logsigmoid(base)), _mix(1 - y, F.logsigmoid(-base))

    def log_density(self, t, params, part=slice(None)):
        base = self._floor(t, part)
        log_base = F.logsigmoid(base) + F.logsigmoid(-base) - self.unit[part].to(t)[:, None, None].log()
        return _mix(self._cubic(t, part, self.prepare(params, part))[1], log_base)

    def log_mass(self, low, high, lowest, highest, params, part=slice(None)):
        prepared = self.prepare(params, part)
        below = torch.where(lowest, 0.0, self._cubic(low, part, prepared)[0])
        above = torch.where(highest, 1.0, self._cubic(high, part, prepared)[0])
        a, b = self._floor(low, part), self._floor(high, part)
        log_base = torch.where(highest, 0.0, F.logsigmoid(b)) + torch.where(lowest, 0.0, F.logsigmoid(-a))
        width = _log_one_less((b - a).clamp_min(torch.finfo(a.dtype).tiny).log())
        return _mix((above - below).clamp_min(0), log_base + torch.where(lowest | highest, 0.0, width))


def _mix(p: torch.Tensor, log_base: torch.Tensor) -> torch.Tensor:
    """log of (1 - FLOOR) p + FLOOR e^log_base."""
    return torch.logaddexp(
        p.clamp_min(1e-300 if p.dtype == torch.float64 else 1e-37).log() + math.log1p(-FLOOR),
        log_base + math.log(FLOOR),
    )


def _times(h: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """(D, n, T, K) times (D, K, K')."""
    return (h.flatten(1, 2) @ weight).unflatten(1, h.shape[1:3])


def _log_times(log_h: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """log of e^log_h times weight; some digit of every sum is left however small they are."""
    most = log_h.detach().amax(-1, keepdim=True)
    return _times((log_h - most).exp(), weight).log() + most


def _log_one_less(log_x: torch.Tensor) -> torch.Tensor:
    """log(1 - e^-x) from log x, for x > 0 however small."""
    x = log_x.exp().clamp_min(torch.finfo(log_x.dtype).tiny)
    return log_x + (-torch.expm1(-x) / x).log()


def solve(
    log_cdf: Callable[[torch.Tensor], tuple[torch.Tensor, torch.Tensor]],
    u: torch.Tensor,
    centre: torch.Tensor,
    unit: torch.Tensor,
) -> torch.Tensor:
    """Return t with F(t) = u, for all u at once: Chandrupatla's method on the logit of F.

    The tails of the logit are near to straight lines, so that inverse quadratic interpolation is at home there.

    Args:
        log_cdf: t -> (log F, log(1 - F)).
        u: in [0, 1]; its ends are moved inside by a rounding.
        centre, unit: where to look first, and how far to go at first.
    """
    tiny = torch.finfo(u.dtype).eps / 2
    wanted = u.clamp(tiny, 1 - tiny).logit()

    def off(t):
        below, above = log_cdf(t)
        return below - above - wanted

    a, b = ((centre + s * 4 * unit).reshape(-1, *[1] * (u.dim() - 1)).expand_as(u) for s in (-1, 1))
    f_a, f_b = off(a), off(b)
    for _ in range(200):
        if not ((f_a > 0) | (f_b < 0)).any():
            break
        reach = b - a
        a, b = torch.where(f_a > 0, a - reach, a), torch.where(f_b < 0, b + reach, b)
        f_a, f_b = off(a), off(b)
    share = torch.full_like(u, 0.5)
    for _ in range(STEPS):
        t = a + share * (b - a)
        f_t = off(t)
        same = (f_t > 0) == (f_a > 0)  # then the root lies between t and b, else between t and a
        c, f_c = torch.where(same, a, b), torch.where(same, f_a, f_b)
        b, f_b = torch.where(same, b, a), torch.where(same, f_b, f_a)
        a, f_a = t, f_t
        near = 4 * tiny * (a.abs() + unit.max()) / (b - a).abs().clamp_min(1e-300)
        if not (near < 0.5).any():
            break
        x, y = (a - b) / (c - b), (f_a - f_b) / (f_c - f_b)
        smooth = (y.square() < x) & ((1 - y).square() < 1 - x)
        bent = f_a / (f_b - f_a) * f_c / (f_b - f_c) + (c - a) / (b - a) * f_a / (f_c - f_a) * f_b / (f_c - f_b)
        share = torch.where(smooth, bent, 0.5).nan_to_num(0.5)
        share = torch.minimum(torch.maximum(share, near.clamp_max(0.5)), 1 - near.clamp_max(0.5))
    return torch.where(f_a.abs() < f_b.abs(), a, b)
