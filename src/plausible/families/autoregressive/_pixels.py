r"""What models of images have in common that go pixel by pixel, in raster order, by a causal net.

    p(x) = prod_{y,x} prod_k p(x_kyx | pixels before (y, x), channels before k of this pixel)

The net turns the pixels before (y, x) into h_yx. A small net at each pixel turns h_yx and the channels already known
there into the parameters of channel k:

    a_k = relu(A_k h + sum_{j<k} B_kj f(x_j)),    params_k = b_k + sum_{j<=k} W_kj a_j

Colour of many levels has the mixture of discretised logistics of PixelCNN++ instead. Component m has one weight for all
channels of a pixel, and means that depend linearly on the channels before:

    P(r, g, b) = sum_m w_m L(r; mu_rm, s_rm) L(g; mu_gm + alpha_m r, s_gm) L(b; mu_bm + beta_m r + gamma_m g, s_bm)

Channel by channel that is the mixture whose weights are those of the components given the channels known,
w_m L(r) / sum_m' w_m' L(r), so each conditional is the package's own head.

Reference: Salimans et al., PixelCNN++, 2017, https://arxiv.org/abs/1701.05517 (the mixture).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from plausible.families._stepwise import Stepwise
from plausible.heads import Bernoulli, DiscretisedLogistics, Heads
from plausible.nn.causal import CausalNet, Mixing, Pointwise
from plausible.nn.causal_steps import PixelSteps, arithmetic
from plausible.space import Space

HEAVY_FROM = 1e7  # multiply-adds an image from which it is evaluated in single precision
ROWS_AT_ONCE = 256  # images drawn side by side: the rows kept of them stay in the cache of the machine (not what mixes)


class Pixels(Stepwise):
    """Legend: n images of C channels, H rows, W columns; F features of a value; Q parameters a pixel.

    Args:
        space: the model's space.
        n_context: features of a context.
        components: mixture components of real and many-levelled pixels.
        make_net: from the features of a pixel and the shape (H, W) to the causal net.
    """

    def __init__(self, space: Space, n_context: int, components: int, make_net: Callable[..., CausalNet]):
        super().__init__()
        self.dims, self.shape = space.dims, tuple(space.shape)
        self.heads = Heads(space, components)
        self.head = self.heads.heads[0]  # all pixels are of one kind
        self.size, self.n_features = self.head.size, self.head.n_features
        n_channels, height, width = self.shape
        self.mixes = n_channels > 1 and isinstance(self.head, DiscretisedLogistics)
        n_in = n_channels * self.n_features
        self.net = make_net(n_in, (height, width))
        # The small net at each pixel: `parts` groups of hidden units, one per channel that is told apart.
        self.parts = 1 if self.mixes else n_channels
        n_hidden, self.n_hidden = self.net.width * self.parts, self.net.width
        self.n_out = components * (1 + 2 * n_channels + n_channels * (n_channels - 1) // 2)
        self.n_out = self.n_out if self.mixes else n_channels * self.size
        self.of_pixels = Pointwise(self.net.width, n_hidden)
        self.of_channels = nn.Linear(n_in, n_hidden, bias=False) if self.parts > 1 else None
        self.of_context = nn.Linear(n_context, n_hidden, bias=False) if n_context else None
        self.out = nn.Linear(n_hidden, self.n_out, bias=False)
        self.bias = nn.Parameter(torch.zeros(height, width, self.n_out))
        nn.init.normal_(self.out.weight, std=0.1 / math.sqrt(n_hidden))
        part = torch.arange(self.parts)
        hidden, told = part.repeat_interleave(self.n_hidden), part.repeat_interleave(n_in // self.parts)
        given_out = part.repeat_interleave(self.n_out // self.parts)
        self.register_buffer("mask_in", (hidden[:, None] > told).float(), persistent=False)
        self.register_buffer("mask_out", (given_out[:, None] >= hidden).float(), persistent=False)

    def net_steps(self, n: int, c: torch.Tensor | None) -> PixelSteps:
        """Return the net for n examples with context c (n, F), to be called pixel by pixel."""
        raise TypeError(f"{type(self).__name__} does not define net_steps")

    # ------------------------------------------------------------------------------------------- size and precision

    @property
    def n_masked(self) -> int:
        """Weights of the small nets that are multiplied by zero; the convolutions count their own."""
        return int((self.mask_in == 0).sum()) + int((self.mask_out == 0).sum()) if self.parts > 1 else 0

    @property
    def multiply_adds(self) -> int:
        """Of one pass over one image."""
        modules = list(self.own_modules())
        per_pixel = sum(m.weight.numel() for m in modules if getattr(m, "weight", None) is not None)
        mixing = sum(m.multiply_adds for m in modules if isinstance(m, Mixing))
        return per_pixel * self.shape[1] * self.shape[2] + mixing

    @property
    def heavy(self) -> bool:
        return self.multiply_adds > HEAVY_FROM

    # ------------------------------------------------------------------------------------------------------ evaluate

    @property
    def order(self) -> list[int]:
        """Pixel by pixel, the channels of a pixel one after the other."""
        n_channels, height, width = self.shape
        return [k * height * width + place for place in range(height * width) for k in range(n_channels)]

    def look(self, z, weight=None):
        """Start from the product of the columns, as far as the heads can be told it."""
        n_channels, height, width = self.shape
        start = self.heads.marginal(z.flatten(1)).view(n_channels, height, width, self.size)
        if self.mixes:
            m = self.head.components
            start = start[:, 0, 0]
            none = start.new_zeros(self.n_out - m * (1 + 2 * n_channels))
            start = torch.cat([start[0, :m], start[:, m : 2 * m].flatten(), start[:, 2 * m :].flatten(), none])
            start = start.expand(height, width, -1)
        else:
            start = start.permute(1, 2, 0, 3).flatten(2)
        with torch.no_grad():
            self.bias.copy_(start)

    def conditionals(self, z, c=None):
        n_channels, height, width = self.shape
        x = z.reshape(len(z), *self.shape).permute(0, 2, 3, 1)  # (n, H, W, C)
        f = self.heads.features(z.flatten(1)).view(len(z), *self.shape, self.n_features)
        f = f.permute(0, 2, 3, 1, 4).reshape(len(z), height, width, -1)
        a = self.of_pixels(F.relu(self.net(f, c)))
        if self.of_channels is not None:
            a = a + F.linear(f, self.of_channels.weight * self.mask_in)
        if c is not None:
            a = a + self.of_context(c)[:, None, None]
        raw = F.linear(F.relu(a), self.out.weight * self.mask_out if self.parts > 1 else self.out.weight)
        raw = raw.to(self.bias.dtype) + self.bias  # (n, H, W, Q), out of bfloat16 if that was on
        if self.mixes:
            params = torch.stack([self._mixed(raw, x, k) for k in range(n_channels)], 1)
        else:
            params = raw.unflatten(3, (n_channels, self.size)).permute(0, 3, 1, 2, 4)
        return params.flatten(1)

    def _mixed(self, raw: torch.Tensor, x: torch.Tensor, k: int) -> torch.Tensor:
        """Parameters (..., 3 M) of channel k, from the numbers (..., Q) of a pixel and its channels x (..., >=k)."""
        n_channels, m = self.shape[0], self.head.components
        logit, means, log_scales, slopes = raw.split(
            [m, m * n_channels, m * n_channels, self.n_out - m * (1 + 2 * n_channels)], -1
        )
        means, log_scales = (t.unflatten(-1, (n_channels, m)) for t in (means, log_scales))
        slopes = slopes.tanh().unflatten(-1, (-1, m))
        known = torch.nan_to_num(x[..., :k])
        y = ((known - self.head.centre[0]) / self.head.unit[0]).to(raw)[..., None]  # (..., k, 1), in [-1, 1]
        shifted, at = [], 0
        for j in range(k + 1):
            mean = means[..., j, :]
            if j:
                mean = mean + (slopes[..., at : at + j, :] * y[..., :j, :]).sum(-2)
                at += j
            shifted.append(mean)
            if j < k:
                logit = logit + self._log_mass(mean, log_scales[..., j, :], known[..., j])
        return torch.cat([logit, shifted[k], log_scales[..., k, :]], -1)

    def _log_mass(self, mean: torch.Tensor, log_scale: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        """log L(x) of each component by itself: (..., M), (..., M), (...) -> (..., M)."""
        each = torch.stack([torch.zeros_like(mean), mean, log_scale], -1)[..., None, :]
        return self._one().log_prob(each, x.to(mean)[..., None, None])[..., 0]

    def _one(self) -> nn.Module:
        """The head of a single value."""
        return self.heads.single(0)[0].heads[0]

    # ---------------------------------------------------------------------------------------------------------- draw

    def start(self, n: int, c: torch.Tensor | None = None) -> _Drawing:
        return _Drawing(self, n, c)

    def step(self, state: _Drawing, value: torch.Tensor | None = None) -> torch.Tensor:
        if value is not None:
            state.note(value)
        return state.params().clone()

    @torch.no_grad()
    def from_uniforms(self, u, c=None, known=None):
        parts = []
        for i in range(0, len(u), ROWS_AT_ONCE):
            rows = slice(i, i + ROWS_AT_ONCE)
            state = self.start(len(u[rows]), None if c is None else c[rows])
            draw = self._draw_bits if isinstance(self.head, Bernoulli) and known is None else self._draw
            parts.append(draw(state, u[rows], None if known is None else known[rows]))
        return torch.cat(parts)

    def _draw(self, state, u, known=None):
        z = torch.empty(u.shape[:2], dtype=u.dtype, device=u.device)
        head, value = self._one(), None
        for d in state.order:
            if value is not None:
                state.note(value)
            value = head.sample(state.params()[:, None], u[:, d : d + 1])[:, 0]
            if known is not None:
                value = torch.where(known[:, d].isnan(), value, known[:, d].to(value))
            z[:, d] = value
        return z

    def _draw_bits(self, state: _Drawing, u: torch.Tensor, known: None) -> torch.Tensor:
        """u < sigmoid(logit), which is logit(u) < logit, and so without an exponential a step."""
        level = state.xp.array(u[..., 0].logit().T)  # (D, n)
        z = state.xp.zeros(level.shape, level)
        before = None
        for d in state.order:
            if before is not None:
                state.take(2 * before - 1)
            z[d] = level[d] < state.raw()[0]
            before = z[d : d + 1]
        return state.xp.tensor(z).T.contiguous()


class _Drawing:
    """A state of `Pixels`: the net at the present pixel, and the channels of it that are known."""

    @torch.no_grad()
    def __init__(self, module: Pixels, n: int, c: torch.Tensor | None):
        self.module, self.order, self.k = module, module.order, 0
        self.xp, self.net = arithmetic(module.bias.device), module.net_steps(n, c)
        array, zeros, hidden = self.xp.array, self.net.zeros, module.n_hidden
        bias = module.of_pixels.bias[:, None]
        bias = bias.expand(-1, n) if c is None else bias + module.of_context(c).T
        self.bias_in, self.weight_in = array(bias), array(module.of_pixels.weight)
        out = module.out.weight * module.mask_out if module.parts > 1 else module.out.weight
        rows = module.n_out // module.parts
        self.weight_out = [array(out[p * rows : (p + 1) * rows, : (p + 1) * hidden]) for p in range(module.parts)]
        self.bias_out = array(module.bias.reshape(-1, rows)[..., None])  # (H W parts, rows, 1): dimension by dimension
        if module.parts > 1:
            told = module.of_channels.weight * module.mask_in
            f = module.n_features
            self.told = [array(told[:, k * f : (k + 1) * f]) for k in range(module.parts)]
        self.a, self.zero, self.term = (zeros(hidden * module.parts) for _ in range(3))
        self.h, self.none = zeros(module.net.width), zeros(module.net.width)
        self.active = zeros(hidden * module.parts)
        self.result = zeros(rows)
        self.pixel = zeros(module.shape[0] * module.n_features)
        self.known = torch.zeros(n, module.shape[0], dtype=module.dtype, device=module.bias.device)
        self.fresh = False  # whether the net has seen all before the present pixel

    def raw(self) -> Any:
        """The parameters (size, n) of the present dimension or, with mixtures, the numbers (Q, n) of its pixel."""
        module, xp = self.module, self.xp
        channel = self.k % module.shape[0]
        if not self.fresh:
            h = self.net.advance(self.pixel if self.k else None)
            xp.maximum(h[:-1], self.none, self.h)
            xp.dot(self.weight_in, self.h, self.a)
            xp.add(self.a, self.bias_in, self.a)
            self.fresh = True
        if module.mixes and channel:
            return self.result
        part = 0 if module.mixes else channel
        last = (part + 1) * module.n_hidden
        xp.maximum(self.a, self.zero, self.active)
        xp.dot(self.weight_out[part], self.active[:last], self.result)
        dimension = self.k // module.shape[0] * module.parts + part
        return xp.add(self.result, self.bias_out[dimension], self.result)

    def params(self) -> torch.Tensor:
        """The parameters (n, size) of the present dimension."""
        raw = self.xp.tensor(self.raw()).T
        return self.module._mixed(raw, self.known, self.k % self.module.shape[0]) if self.module.mixes else raw

    def note(self, value: torch.Tensor) -> None:
        """Take the value (n,) of the present dimension."""
        value = value.to(self.known)
        channel = self.k % self.module.shape[0]
        if self.module.mixes:
            self.known[:, channel] = value
        self.take(self.xp.array(self.module._one().features(value[:, None])[:, 0].T))

    def take(self, features: Any) -> None:
        """Take the features (F, n) of the value of the present dimension."""
        module = self.module
        channel, f = self.k % module.shape[0], module.n_features
        self.pixel[channel * f : (channel + 1) * f] = features
        self.k += 1
        if channel + 1 == module.shape[0]:
            self.fresh = False
        elif module.parts > 1:
            self.xp.dot(self.told[channel], self.pixel[channel * f : (channel + 1) * f], self.term)
            self.xp.add(self.a, self.term, self.a)
