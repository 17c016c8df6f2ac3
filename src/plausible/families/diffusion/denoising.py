r"""Denoising diffusion, as the hierarchical latent-variable model that it is.

An example x is embedded as a vector e(x) and then drowned in noise, step by step; a net learns to undo a step:

    q(z_t | x) = N(alpha_t e(x), sigma_t^2),  t = 0 .. T        p(z_T) = N(0, 1)
    p(z_s | z_t) = N(a z_t + b m, v + b^2 w),  s = t - 1        m, w = mean and variance of e given z_t, from the net

    log p(x) >= E_q log p(x | z_0) - KL(q(z_T | x) || p(z_T)) - sum_t E_q KL(q(z_s | z_t, x) || p(z_s | z_t))

Every term is known in closed form given z_t: with Delta = SNR_s - SNR_t a coordinate of a step costs

    KL = 1/2 [ log(1 + Delta w) + Delta ((e - m)^2 - w) / (1 + Delta w) ]

which for w = 0 is Delta/2 times the squared error of the denoised example, or of the predicted noise in other units.
The log signal-to-noise ratio falls linearly in t, so that the squared errors of the noise weigh equally at all t: the
loss of Ho et al. and the bound are then the same thing. The decoders p(x | z_0) are normalised over the levels of x,
the lattice, or the line, so this bounds log p(x) of tables with any columns and of images without dequantisation.

Held out: load_digits, 8x8 pixels of 17 levels, fitted on the first 1,500 images and scored on the other 297: -80.8 nats
an image (bound); independent pixels have -104.9. Two moons (noise 0.1, 2,000 points): -1.19; the truth has -1.01.
`pytest --all tests/test_diffusion.py` repeats the first.

Notation: n examples, D columns, E coordinates of the embedding, T steps, lambda = log SNR, s < t.

References: Ho, Jain and Abbeel, 2020, https://arxiv.org/abs/2006.11239. Sohl-Dickstein et al., 2015,
https://arxiv.org/abs/1503.03585 (the bound). Kingma et al., Variational diffusion models, 2021,
https://arxiv.org/abs/2107.00630. Nichol and Dhariwal, 2021, https://arxiv.org/abs/2102.09672 (learned variances).
Dieleman et al., 2022, https://arxiv.org/abs/2211.15089 (categories by score interpolation). Samplers: `samplers.py`.
"""

from __future__ import annotations

import math

import torch
from torch import nn

from plausible.base import Module, Traits
from plausible.embedding import Embedding
from plausible.families.diffusion.decoders import decoder, draw_given_clean, log_prob_given_clean
from plausible.families.diffusion.samplers import SAMPLERS, alpha_sigma, posterior
from plausible.neural import Neural
from plausible.nn.residual import ResidualMLP
from plausible.nn.unet import UNet
from plausible.options import estimator, option
from plausible.randomness import RowNoise, normal, uniform
from plausible.space import Space

NOISIEST = -6.0  # lambda_T: what is left of an example there costs 0.001 nats a coordinate
ROWS_AT_ONCE = 4096  # rows that pass through the net together
STEPS_PER_LOOK = 8  # steps of the T that an example's held-out loss is estimated from


class _Diffusion(Module):
    bound_samples = 2  # paths

    def __init__(self, space: Space, steps: int, sampler: str, sampling_steps: int, build_net):
        super().__init__()
        self.steps, self.sampler, self.sampling_steps = steps, sampler, sampling_steps
        self.embedding = Embedding(space)
        self.decoders = [decoder(group) for group in self.embedding.groups]
        cleanest = -2 * math.log(min(d.finest for d in self.decoders))
        self.register_buffer("log_snr", torch.linspace(cleanest, NOISIEST, steps + 1), persistent=False)  # (T + 1,)
        self.sizes = [d.size for d in self.decoders]
        self.net = build_net(self.embedding.size, sum(d.size * d.group.d for d in self.decoders))

    def look(self, z, weight=None):
        """Start from independent columns: the net's constant is the log share of each level."""
        codes = self.embedding.split(z.flatten(1))
        starts = [d.start(x).flatten() for d, x in zip(self.decoders, codes, strict=True)]
        self.net.start_from(torch.cat(starts).to(z))

    # ------------------------------------------------------------------------------------------- the denoiser

    def denoise(self, z: torch.Tensor, log_snr: torch.Tensor, c: torch.Tensor | None = None):
        """Return mean and variance (n, E) of e given z_t (n, E) at log_snr (n,)."""
        out = self.net(z, log_snr, c).to(z.dtype)
        alpha, sigma = (v[:, None, None] for v in alpha_sigma(log_snr))
        parts = zip(self.decoders, self.embedding.parts(out, self.sizes), self.embedding.parts(z), strict=True)
        moments = [[m.flatten(1) for m in d.moments(net, own, alpha, sigma)] for d, net, own in parts]
        return moments[0] if len(moments) == 1 else [torch.cat(m, 1) for m in zip(*moments, strict=True)]

    def _step_kl(self, e: torch.Tensor, t: torch.Tensor, noise: torch.Tensor, c: torch.Tensor | None) -> torch.Tensor:
        """Return KL(q(z_s | z_t, x) || p(z_s | z_t)) with shape (n,), at steps t (n,) in 1 .. T."""
        lambda_s, lambda_t = self.log_snr[t - 1], self.log_snr[t]
        alpha, sigma = alpha_sigma(lambda_t)
        m, w = self.denoise(alpha[:, None] * e + sigma[:, None] * noise, lambda_t, c)
        delta = (lambda_s.exp() * -torch.expm1(lambda_t - lambda_s))[:, None]
        terms = torch.log1p(delta * w) + delta * ((e - m) ** 2 - w) / (1 + delta * w)
        return 0.5 * terms.sum(1)

    # -------------------------------------------------------------------------------------------- the two ends

    def _prior_kl(self, e: torch.Tensor) -> torch.Tensor:
        """Return KL(q(z_T | x) || N(0, 1)) with shape (n,)."""
        alpha, sigma = alpha_sigma(self.log_snr[-1].double())
        return 0.5 * (sigma**2 - 1 - 2 * sigma.log() + alpha**2 * e.double() ** 2).sum(1)

    def _reconstruction(self, x: torch.Tensor, z_0: torch.Tensor) -> torch.Tensor:
        """Return log p(x | z_0) with shape (n,)."""
        alpha, sigma = alpha_sigma(self.log_snr[0])
        parts = zip(self.embedding.groups, self.embedding.split(x), self.embedding.parts(z_0 / alpha), strict=True)
        return sum(log_prob_given_clean(g, codes, y, sigma / alpha).double().sum(1) for g, codes, y in parts)

    def _decode(self, z_0: torch.Tensor, rng) -> torch.Tensor:
        """Draw x (n, D) from p(x | z_0)."""
        alpha, sigma = alpha_sigma(self.log_snr[0])
        shape = (len(z_0), self.embedding.dims)
        us, noises = (self.embedding.split(draw(rng, shape, z_0)) for draw in (uniform, normal))
        parts = zip(self.embedding.groups, self.embedding.parts(z_0 / alpha), us, noises, strict=True)
        return self.embedding.join([draw_given_clean(g, y, sigma / alpha, u, n) for g, y, u, n in parts])

    # -------------------------------------------------------------------------------------- bound and weights

    def log_prob(self, z, c=None, rng=None):
        """Return an unbiased estimate of the bound: the log weight of one path.

        Along a path the noise in the KL terms and the noise in the steps nearly cancel (altogether, in a perfect
        model), so one path says more than T terms at independent noise.
        """
        return self.log_weight(z, c, rng)

    def loss(self, z, c=None, *, rng=None):
        """Minus the bound, its sum over t estimated from one t per example."""
        n = len(z)
        if isinstance(rng, RowNoise):
            place = uniform(rng, (n, 1), z)
        else:  # low variance: the batch shares out the range of t among its examples
            place = ((torch.arange(n, device=z.device) + uniform(rng, (1,), z)) / n)[:, None]
        return -self._bound(z, c, rng, place, 1)

    def held_out_loss(self, z, c=None, *, rng=None):
        """Minus the bound, from more steps per example than `loss` takes, spread evenly."""
        n, k = len(z), min(STEPS_PER_LOOK, self.steps)
        return -self._bound(z, c, rng, torch.arange(k, device=z.device) + uniform(rng, (n, k), z), k)

    def _bound(self, z, c, rng, place: torch.Tensor, k: int) -> torch.Tensor:
        """The bound (n,), from k steps per example at `place` (n, k) in [0, k]."""
        x = z.flatten(1)
        e = self.embedding(x)
        alpha, sigma = alpha_sigma(self.log_snr[0])
        reconstruction = self._reconstruction(x, alpha * e + sigma * normal(rng, tuple(e.shape), e))
        t = 1 + (place * (self.steps / k)).long().clamp_max(self.steps - 1)  # (n, k)
        noise = normal(rng, (len(e), k, e.shape[1]), e).flatten(0, 1)
        c = None if c is None else c.repeat_interleave(k, 0)
        costs = []
        for rows in torch.arange(len(e) * k, device=e.device).split(ROWS_AT_ONCE):
            costs.append(self._step_kl(e[rows // k], t.flatten()[rows], noise[rows], None if c is None else c[rows]))
        cost = torch.cat(costs).unflatten(0, (-1, k)).double().mean(1) * self.steps
        return reconstruction - self._prior_kl(e) - cost

    def log_weight(self, z, c=None, rng=None):
        """Return log p(x, z_0 .. z_T) - log q(z_0 .. z_T | x) along one path drawn from q; the mean of w is p(x)."""
        x = z.flatten(1)
        e = self.embedding(x)
        alpha, sigma = alpha_sigma(self.log_snr[-1])
        noise = normal(rng, tuple(e.shape), e)
        z_t = alpha * e + sigma * noise
        total = (0.5 * (noise**2 - z_t**2) + sigma.log()).double().sum(1)
        for t in range(self.steps, 0, -1):
            lambda_t, lambda_s = self.log_snr[t], self.log_snr[t - 1]
            m, w = self._denoise_all(z_t, lambda_t, c)
            a, b, v = posterior(lambda_s, lambda_t)
            noise = normal(rng, tuple(e.shape), e)
            z_s = a * z_t + b * e + v.sqrt() * noise
            gain = torch.log1p(b**2 * w / v) + (z_s - a * z_t - b * m) ** 2 / (v + b**2 * w) - noise**2
            total, z_t = total - 0.5 * gain.double().sum(1), z_s
        return total + self._reconstruction(x, z_t)

    def _denoise_all(self, z: torch.Tensor, log_snr: torch.Tensor, c: torch.Tensor | None):
        """`denoise` at one log_snr for all of many rows."""
        parts = []
        for rows in torch.arange(len(z), device=z.device).split(ROWS_AT_ONCE):
            parts.append(self.denoise(z[rows], log_snr.expand(len(rows)), None if c is None else c[rows]))
        return [torch.cat(m) for m in zip(*parts, strict=True)]

    # ----------------------------------------------------------------------------------------------- sampling

    def sample(self, n, c=None, *, rng):
        n_steps = min(self.sampling_steps, self.steps)
        index = torch.linspace(self.steps, 0, n_steps + 1, device=self.log_snr.device).round().long()
        start = normal(rng, (n, self.embedding.size), self.log_snr)
        run = SAMPLERS[self.sampler]
        z_0 = run(lambda z, log_snr: self._denoise_all(z, log_snr, c), start, self.log_snr[index], rng)
        return self._decode(z_0, rng)


class _ImageNet(nn.Module):
    """A U-Net between flat vectors: (n, D), one coordinate per pixel value -> (n, D * size), value by value."""

    def __init__(self, shape: tuple[int, int, int], size: int, channels: int, n_context: int, dropout: float):
        super().__init__()
        self.shape, self.size = shape, size
        self.net = UNet(shape, shape[0] * size, channels, n_context, dropout)

    def forward(self, z, t, c=None):
        out = self.net(z.unflatten(1, self.shape), t, c)  # (n, C * size, H, W)
        return out.unflatten(1, (self.shape[0], self.size)).movedim(2, -1).flatten(1)

    @torch.no_grad()
    def start_from(self, constant: torch.Tensor) -> None:
        """Put out this (D * size,) at first."""
        places = constant.reshape(*self.shape, self.size).movedim(-1, 1)  # (C, size, H, W)
        self.net.bias.copy_(places.flatten(0, 1))


@estimator
class Diffusion(Neural):
    """Denoising diffusion: a lower bound on the probability of tables (any columns), images and real series.

    `log_prob` is the variational bound in T steps; `importance_samples=k` turns it into an estimate from k paths.

    References: Ho, Jain and Abbeel, Denoising diffusion probabilistic models, 2020, https://arxiv.org/abs/2006.11239

    Examples:
        >>> import numpy as np, plausible as pl
        >>> bits = np.random.default_rng(0).integers(0, 2, (500, 1)) ^ np.array([[0, 1, 0]])
        >>> model = pl.Diffusion(hidden=32, blocks=1, epochs=40, random_state=0).fit(bits)
        >>> round(model.score(bits), 1)  # three copies of one fair coin: -log 2
        -0.7
        >>> model.sample(2, random_state=0).shape
        (2, 3)
    """

    steps: int = option(100, "T, steps from data to noise", low=2)
    hidden: int = option(128, "width of the residual blocks (tables, series, tiny images)", low=1)
    blocks: int = option(3, "residual blocks (tables, series, tiny images)", low=1)
    channels: int = option(16, "channels of the U-Net at full resolution (images from 5x5)", low=1)
    dropout: float = option(0.0, "share of hidden units dropped while training", low=0, below=1)
    sampler: str = option("ddpm", "how samples are drawn; ddim and heun are deterministic", choices=tuple(SAMPLERS))
    sampling_steps: int = option(100, "steps a sample takes, of the T", low=1)
    epochs: int = option(80, "passes over the training examples, at most", low=1)
    batch_size: int = option(64, "examples per step", low=1)
    learning_rate: float = option(1e-3, "of Adam, at the start", above=0)
    patience: int | None = option(20, "looks at the held-out loss without improvement before stopping", low=1)
    ema: float | None = option(0.999, "decay of the average of the weights that is kept", low=0, below=1)

    traits = Traits(density="lower_bound", events=frozenset({"table", "image", "series"}), context=True)

    def _build(self, space: Space, context_space: Space) -> Module:
        def build_net(n_in: int, n_out: int) -> nn.Module:
            if len(space.shape) == 3 and n_in == space.dims and min(space.shape[1:]) > 4:
                return _ImageNet(space.shape, n_out // n_in, self.channels, context_space.dims, self.dropout)
            return ResidualMLP(n_in, n_out, self.hidden, self.blocks, context_space.dims, self.dropout)

        return _Diffusion(space, self.steps, self.sampler, self.sampling_steps, build_net)
