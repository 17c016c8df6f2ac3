r"""The forward process of diffusion, and ways to run it backwards.

    q(z_t | e) = N(alpha_t e, sigma_t^2),   alpha_t^2 = 1 / (1 + exp(-lambda_t)),   sigma_t^2 = 1 - alpha_t^2

lambda_t = log alpha_t^2 / sigma_t^2 is the log signal-to-noise ratio; it falls as t rises. For s < t the reverse step,
were e known, would be

    q(z_s | z_t, e) = N(a z_t + b e, v),   rho = exp(lambda_t - lambda_s)
    a = rho alpha_s / alpha_t,   b = (1 - rho) alpha_s,   v = (1 - rho) sigma_s^2

A denoiser gives the mean m (and the variance w) of e given z_t; every sampler puts m in the place of e:

    ddpm      z_s ~ N(a z_t + b m, v + b^2 w)       the model that the bound is of
    ddim      z_s = alpha_s m + sqrt(sigma_s^2 - eta^2 v) n_hat + eta sqrt(v) noise,  n_hat = (z_t - alpha_t m)/sigma_t
    heun      the same at eta = 0, dy = n_hat d(sigma/alpha) with y = z/alpha, by the second-order rule of Heun

With eta = 0 the last two are deterministic; ddim with eta = 1 is ddpm with w = 0.

References: Ho, Jain and Abbeel, 2020, https://arxiv.org/abs/2006.11239 (ddpm). Song, Meng and Ermon, 2020,
https://arxiv.org/abs/2010.02502 (ddim). Karras et al., 2022, https://arxiv.org/abs/2206.00364 (heun). Kingma et al.,
2021, https://arxiv.org/abs/2107.00630 (in terms of lambda). Bao et al., Analytic-DPM, 2022,
https://arxiv.org/abs/2201.06503 (that the best variance is v + b^2 w).
"""

from __future__ import annotations

from collections.abc import Callable

import torch

from plausible.randomness import normal

Denoise = Callable[[torch.Tensor, torch.Tensor], tuple[torch.Tensor, torch.Tensor]]


def alpha_sigma(log_snr: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return alpha and sigma of any shape."""
    return log_snr.sigmoid().sqrt(), (-log_snr).sigmoid().sqrt()


def posterior(log_snr_s: torch.Tensor, log_snr_t: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return a, b and v of q(z_s | z_t, e) = N(a z_t + b e, v), for log_snr_s > log_snr_t."""
    (alpha_s, sigma_s), (alpha_t, _) = alpha_sigma(log_snr_s), alpha_sigma(log_snr_t)
    gap = -torch.expm1(log_snr_t - log_snr_s)
    return (log_snr_t - log_snr_s).exp() * alpha_s / alpha_t, gap * alpha_s, gap * sigma_s.square()


def ddpm(denoise: Denoise, z: torch.Tensor, log_snr: torch.Tensor, rng: torch.Generator) -> torch.Tensor:
    """Ancestral sampling from z_T (n, E) along falling indices: log_snr (steps + 1,) rises from T to 0."""
    for t, s in zip(log_snr[:-1], log_snr[1:], strict=True):
        mean, variance = denoise(z, t)
        a, b, v = posterior(s, t)
        z = a * z + b * mean + (v + b**2 * variance).sqrt() * normal(rng, tuple(z.shape), z)
    return z


def ddim(
    denoise: Denoise, z: torch.Tensor, log_snr: torch.Tensor, rng: torch.Generator, eta: float = 0.0
) -> torch.Tensor:
    """Implicit sampling: deterministic at eta = 0."""
    for t, s in zip(log_snr[:-1], log_snr[1:], strict=True):
        mean, _ = denoise(z, t)
        (alpha_s, sigma_s), (alpha_t, sigma_t) = alpha_sigma(s), alpha_sigma(t)
        drawn = eta**2 * posterior(s, t)[2]
        noise = (z - alpha_t * mean) / sigma_t
        z = alpha_s * mean + (sigma_s**2 - drawn).sqrt() * noise
        if eta:
            z = z + drawn.sqrt() * normal(rng, tuple(z.shape), z)
    return z


def heun(denoise: Denoise, z: torch.Tensor, log_snr: torch.Tensor, rng: torch.Generator) -> torch.Tensor:
    """Heun's rule for the probability-flow equation; two calls of the denoiser a step, except at the last."""
    last = len(log_snr) - 2
    for i, (t, s) in enumerate(zip(log_snr[:-1], log_snr[1:], strict=True)):
        (alpha_s, sigma_s), (alpha_t, sigma_t) = alpha_sigma(s), alpha_sigma(t)
        step = sigma_s / alpha_s - sigma_t / alpha_t
        slope = (z - alpha_t * denoise(z, t)[0]) / sigma_t
        end = alpha_s * (z / alpha_t + step * slope)
        if i < last:
            slope_end = (end - alpha_s * denoise(end, s)[0]) / sigma_s
            end = alpha_s * (z / alpha_t + step * (slope + slope_end) / 2)
        z = end
    return z


SAMPLERS: dict[str, Callable] = {"ddpm": ddpm, "ddim": ddim, "heun": heun}
