"""Diffusion against closed forms: normal data, of which the best denoiser, all samplers and the density are known;
quadrature for the decoders; and sums over all that a small table can be.
"""

import itertools
import math

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.datasets import load_digits

import plausible as pl
from plausible.embedding import Embedding, Levels, Numbers
from plausible.families.diffusion.decoders import (
    ByLevel,
    _on_lattice,
    draw_given_clean,
    log_prob_given_clean,
)
from plausible.families.diffusion.denoising import _Diffusion, _ImageNet
from plausible.families.diffusion.samplers import alpha_sigma, ddim, ddpm, heun, posterior
from plausible.nn.unet import UNet
from plausible.randomness import RowNoise
from plausible.space import Column, Space


def draws(seed=0):
    return torch.Generator().manual_seed(seed)


def normals(*shape, seed=1):
    return torch.randn(*shape, generator=draws(seed), dtype=torch.float64)


def tensor(*values):
    return torch.tensor(values, dtype=torch.float64)


class Normal:
    """Data x ~ N(0, S): the mean of x given z_t is linear in z_t, its covariance does not depend on z_t."""

    def __init__(self, covariance):
        self.covariance = covariance
        self.d = len(covariance)

    def log_prob(self, x):
        zero = torch.zeros(self.d, dtype=torch.float64)
        return torch.distributions.MultivariateNormal(zero, self.covariance).log_prob(x)

    def sample(self, n, seed):
        return normals(n, self.d, seed=seed) @ torch.linalg.cholesky(self.covariance).T

    def moments(self, z, log_snr):
        """Mean and variance of x given z_t, coordinate by coordinate, at one log_snr or one for each row."""
        alpha, sigma = (v.reshape(-1, 1, 1) for v in alpha_sigma(log_snr))
        gain = (
            alpha
            * self.covariance
            @ torch.linalg.inv(alpha**2 * self.covariance + sigma**2 * torch.eye(self.d, dtype=torch.float64))
        )
        left = self.covariance - alpha * gain @ self.covariance
        return (gain @ z[..., None])[..., 0], left.diagonal(dim1=1, dim2=2).expand_as(z)

    def net(self, z, log_snr, c=None):
        """The same in the numbers that a net puts out: shift and log variance of each coordinate."""
        mean, variance = self.moments(z, log_snr)
        alpha, sigma = (v[:, None] for v in alpha_sigma(log_snr))
        return torch.stack([(mean - alpha * z) / sigma, (variance / sigma**2).log()], -1).flatten(1)


ROUND = Normal(torch.eye(2, dtype=torch.float64))
OBLIQUE = Normal(tensor([1.0, 0.6], [0.6, 1.0]))


def reals(d):
    return Space(tuple(Column(f"x{i}", "real") for i in range(d)), (d,))


class Net(torch.nn.Module):
    def __init__(self, f):
        super().__init__()
        self.f = f
        self.weight = torch.nn.Parameter(torch.zeros(1))

    def forward(self, z, log_snr, c=None):
        return self.f(z, log_snr, c)


def with_net(space, f, steps, sampler="ddpm", sampling_steps=10**6):
    return _Diffusion(space, steps, sampler, sampling_steps, lambda n_in, n_out: Net(f)).double()


# -------------------------------------------------------------------------------------------------- the process


def test_the_reverse_step_is_bayes_rule():
    """q(z_s | z_t, e) from its definition: the joint normal of z_s and z_t, conditioned."""
    lambda_s, lambda_t = tensor(1.3), tensor(0.4)
    (alpha_s, sigma_s), (alpha_t, sigma_t) = alpha_sigma(lambda_s), alpha_sigma(lambda_t)
    e, z_t = 0.7, -1.1
    # z_t = r z_s + noise: Cov(z_s, z_t) = r sigma_s^2 given e.
    gain = alpha_t / alpha_s * sigma_s**2 / sigma_t**2
    a, b, v = posterior(lambda_s, lambda_t)
    assert torch.allclose(a * z_t + b * e, alpha_s * e + gain * (z_t - alpha_t * e))
    assert torch.allclose(v, sigma_s**2 - gain**2 * sigma_t**2)


@pytest.mark.parametrize("log_snr", [9.0, 0.0, -5.0])
def test_alpha_and_sigma_are_the_signal_and_the_noise(log_snr):
    alpha, sigma = alpha_sigma(tensor(log_snr))
    assert float(alpha**2 + sigma**2) == pytest.approx(1)
    assert float(2 * (alpha / sigma).log()) == pytest.approx(log_snr)


# --------------------------------------------------------------------------------------------------- the samplers


@pytest.mark.parametrize("sampler, steps", [("ddpm", 300), ("ddim", 300), ("heun", 60)])
@pytest.mark.parametrize("truth", [ROUND, OBLIQUE], ids=["round", "oblique"])
def test_with_the_best_denoiser_every_sampler_draws_the_data(sampler, steps, truth):
    module = with_net(reals(2), truth.net, steps, sampler)
    x = module.sample(20_000, rng=draws())
    error = 5 / math.sqrt(len(x))
    assert x.mean(0).abs().max() < error
    assert (torch.cov(x.T) - truth.covariance).abs().max() < 1.5 * error


def test_with_the_variance_of_the_best_denoiser_few_ancestral_steps_are_enough():
    """For independent normal columns the reverse step is normal, however long."""
    x = with_net(reals(2), ROUND.net, steps=3).sample(20_000, rng=draws())
    assert (torch.cov(x.T) - ROUND.covariance).abs().max() < 7 / math.sqrt(len(x))


def test_ddim_with_eta_one_is_ddpm_without_the_denoiser_s_variance():
    def denoise(z, log_snr):
        mean, _ = OBLIQUE.moments(z, log_snr.expand(len(z)))
        return mean, torch.zeros_like(z)

    start, log_snr = normals(50, 2), torch.linspace(-6, 5, 21, dtype=torch.float64)
    assert torch.allclose(ddim(denoise, start, log_snr, draws(), eta=1.0), ddpm(denoise, start, log_snr, draws()))


def test_deterministic_samplers_solve_the_probability_flow():
    """For x ~ N(0, v): z_t / sqrt(alpha_t^2 v + sigma_t^2) is constant along the flow. Heun is of second order."""
    truth = Normal(tensor([0.3]).reshape(1, 1))
    start = normals(20, 1)

    def error(sampler, steps):
        log_snr = torch.linspace(-6, 5, steps + 1, dtype=torch.float64)
        z = sampler(lambda z, t: truth.moments(z, t.expand(len(z))), start, log_snr, None)
        spread = [(0.3 * a**2 + s**2).sqrt() for a, s in (alpha_sigma(log_snr[0]), alpha_sigma(log_snr[-1]))]
        return float((z - start / spread[0] * spread[1]).abs().max())

    assert error(heun, 80) < 0.3 * error(ddim, 80)
    assert error(heun, 160) / error(heun, 80) == pytest.approx(1 / 4, abs=0.08)
    assert error(ddim, 160) / error(ddim, 80) == pytest.approx(1 / 2, abs=0.08)


# ------------------------------------------------------------------------------------------------------ the bound


def test_the_bound_of_the_best_denoiser_tends_to_the_density():
    x = OBLIQUE.sample(2000, seed=3)
    exact = OBLIQUE.log_prob(x).mean()
    gaps = {}
    for steps in (10, 40, 160):
        module = with_net(reals(2), OBLIQUE.net, steps)
        bound = torch.stack([module.log_prob(x, rng=RowNoise(x, s)) for s in range(4)]).mean(0)
        gaps[steps] = float(exact - bound.mean())
    assert gaps[10] > gaps[40] > gaps[160] > -0.01
    assert gaps[160] < 0.02


def test_paths_and_terms_estimate_the_same_bound():
    x = OBLIQUE.sample(4000, seed=4)
    module = with_net(reals(2), lambda z, t, c: 0.3 * torch.cat([z, z], 1), steps=12)
    module.log_snr = torch.linspace(4, -0.5, 13, dtype=torch.float64)  # ends early, so that the prior counts
    by_path = module.log_prob(x, rng=RowNoise(x, 0))
    by_term = -module.held_out_loss(x, rng=RowNoise(x, 1))
    by_one = -module.loss(x, rng=draws())
    for other in (by_term, by_one):
        gap = by_path - other
        assert abs(float(gap.mean())) < 4 * float(gap.std()) / math.sqrt(len(x))


def test_a_step_costs_the_divergence_of_its_two_normals():
    module = with_net(reals(1), lambda z, t, c: torch.stack([0.4 * z + 0.1, 0.2 * z], -1).flatten(1), steps=10)
    e, noise, t = normals(6, 1), normals(6, 1, seed=2), torch.tensor([1, 2, 4, 6, 8, 10])
    cost = module._step_kl(e, t, noise, None).detach()
    lambda_s, lambda_t = module.log_snr[t - 1][:, None], module.log_snr[t][:, None]
    alpha, sigma = alpha_sigma(lambda_t)
    z_t = alpha * e + sigma * noise
    m, w = module.denoise(z_t, lambda_t[:, 0])
    a, b, v = posterior(lambda_s, lambda_t)
    q = torch.distributions.Normal(a * z_t + b * e, v.sqrt())
    p = torch.distributions.Normal(a * z_t + b * m, (v + b**2 * w).sqrt())
    assert torch.allclose(cost, torch.distributions.kl_divergence(q, p)[:, 0])


def test_the_end_costs_the_divergence_from_the_prior():
    module = with_net(reals(3), lambda z, t, c: z, steps=4)
    module.log_snr = torch.linspace(3, -1, 5, dtype=torch.float64)
    e = normals(5, 3)
    alpha, sigma = alpha_sigma(module.log_snr[-1])
    q, p = torch.distributions.Normal(alpha * e, sigma), torch.distributions.Normal(0, 1)
    assert torch.allclose(module._prior_kl(e), torch.distributions.kl_divergence(q, p).sum(1))


def test_a_bound_on_all_that_a_small_table_can_be():
    """An untrained, wrong denoiser: the bounds sum to less than one, the importance-weighted estimates to one."""
    columns = (Column("b", "binary", (0, 1)), Column("c", "categorical", (0, 1, 2)), Column("o", "ordinal", (0, 1, 2)))
    space = Space(columns, (3,))
    weight = 0.5 * normals(2 + 3 + 3, 5, seed=7)
    module = with_net(space, lambda z, t, c: (z @ weight.T).sin(), steps=30)
    every = torch.tensor(list(itertools.product(range(2), range(3), range(3))), dtype=torch.float64)
    repeated = every.repeat(2000, 1)
    log_w = module.log_weight(repeated, rng=draws(2)).unflatten(0, (2000, -1))
    w = log_w.exp().sum(1)  # its mean is the sum of p(x) over all x
    assert float(w.mean()) == pytest.approx(1, abs=4 * float(w.std()) / math.sqrt(len(w)))
    bound = module.log_prob(repeated, rng=draws(3)).unflatten(0, (2000, -1)).mean(0)
    assert 0.1 < float(bound.exp().sum()) < 1
    x = module.sample(20_000, rng=draws(1))
    share = torch.stack([(x == row).all(1).double().mean() for row in every])
    assert torch.allclose(share, log_w.exp().mean(0), atol=0.02)


# --------------------------------------------------------------------------------------------------- the decoders


def level_group(kind, k):
    return Levels([Column("x", kind, tuple(range(k)))]).double()


@pytest.mark.parametrize("kind, k", [("binary", 2), ("categorical", 4), ("ordinal", 5)])
def test_the_mean_of_a_column_of_levels_is_bayes_rule(kind, k):
    group = level_group(kind, k)
    alpha, sigma = tensor(0.8), tensor(0.6)
    net, z = normals(3, 1, k), normals(3, 1, group.width, seed=2)
    mean, variance = ByLevel(group).moments(net, z, alpha, sigma)
    distance = (z[:, 0, None] - 0.8 * group.points).square().sum(-1)
    p = (net[:, 0] - distance / (2 * 0.36)).softmax(-1)
    assert torch.allclose(mean[:, 0], p @ group.points)
    assert torch.allclose(variance[:, 0], p @ group.points**2 - (p @ group.points) ** 2)


@pytest.mark.parametrize("where, width", [(3.3, 0.2), (3.3, 0.69), (0.1, 0.6), (-0.5, 0.3), (7.2, 0.5), (3.3, 0.8)])
def test_a_normal_restricted_to_a_lattice(where, width):
    points = -1 + 0.25 * torch.arange(8, dtype=torch.float64)
    mean, variance = tensor([[-1 + 0.25 * where]]), tensor([[(0.25 * width) ** 2]])
    p = (-((points - mean[0, 0, 0]) ** 2) / (2 * variance[0, 0, 0])).softmax(-1)
    m, v = _on_lattice(mean, variance, -1.0, 0.25, 7)
    if width < 0.7:
        assert torch.allclose(m, (p @ points).reshape(1, 1, 1), atol=1e-4)
        assert torch.allclose(v, (p @ points**2 - (p @ points) ** 2).reshape(1, 1, 1), atol=1e-4)
    else:
        assert torch.equal(m, mean) and torch.equal(v, variance)


def test_the_last_decoder_is_normalised():
    tau, step = tensor(0.1)[0], 0.25
    for kind, k in (("binary", 2), ("categorical", 4), ("ordinal", 300)):
        group = level_group(kind, k)
        y = normals(1, 1, group.width, seed=5)
        total = sum(log_prob_given_clean(group, tensor([float(x)]), y, tau).exp() for x in range(k))
        assert float(total) == pytest.approx(1)
    for low, y in ((0.0, 0.03), (0.0, 4.4), (-2.0, -1.99)):
        group = Numbers([Column("x", "count", low=low, step=step)]).double()
        x = low + step * torch.arange(60, dtype=torch.float64)[:, None]
        total = log_prob_given_clean(group, x, tensor([[y]]).expand(60, 1, 1), tau).exp().sum()
        assert float(total) == pytest.approx(1)
        far = log_prob_given_clean(group, x[-1:], tensor([[y]]), tau)
        assert far.isfinite().all() and far < -100
    group = Numbers([Column("x", "real")]).double()
    x = torch.linspace(-1, 1, 4001, dtype=torch.float64)[:, None]
    density = log_prob_given_clean(group, x, tensor([[0.2]]).expand(4001, 1, 1), tau).exp()
    assert float(torch.trapezoid(density[:, 0], x[:, 0])) == pytest.approx(1)


def test_what_is_drawn_at_the_end_follows_the_last_decoder():
    group, tau = level_group("ordinal", 3), tensor(0.8)[0]
    y = tensor([[0.4]]).expand(20_000, 1, 1)
    u = torch.rand(20_000, 1, generator=draws(), dtype=torch.float64)
    x = draw_given_clean(group, y, tau, u, u)
    expected = [log_prob_given_clean(group, tensor([float(k)]), y[:1], tau).exp().item() for k in range(3)]
    assert np.allclose([(x == k).double().mean().item() for k in range(3)], expected, atol=0.015)


def test_the_embedding_comes_back():
    columns = (
        Column("c", "categorical", ("a", "b", "c")),
        Column("n", "count", low=-0.5, step=0.25),
        Column("b", "binary", (0, 1)),
        Column("r", "real"),
        Column("o", "ordinal", tuple(range(5))),
        Column("d", "categorical", ("x", "y", "z")),
    )
    embedding = Embedding(Space(columns, (6,))).double()
    x = tensor([0, 0.25, 1, 0.3, 4, 2], [2, -0.5, 0, -1.7, 2, 0])
    e = embedding(x)
    assert e.shape == (2, embedding.size) == (2, 3 + 1 + 1 + 1 + 1 + 3)
    assert torch.equal(embedding.nearest(e), x)
    assert torch.equal(embedding.nearest(e + 0.05)[:, [0, 2, 4, 5]], x[:, [0, 2, 4, 5]])
    assert e.abs().max() <= 1.7


# --------------------------------------------------------------------------------------------------------- nets


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 9, 6), (1, 28, 28), (2, 5, 17)])
def test_the_unet_keeps_the_shape_and_sees_every_pixel(shape):
    net = UNet(shape, 2, channels=4)
    with torch.no_grad():
        for p in net.parameters():
            p.normal_(0, 0.2, generator=draws())
    x = torch.zeros(2, *shape, requires_grad=True)
    out = net(x, torch.tensor([0.3, -2.0]))
    assert out.shape == (2, 2, *shape[1:])
    (slope,) = torch.autograd.grad(out[0, 0, 0, 0], x)
    assert (slope[0] != 0).all() and (slope[1] == 0).all()


def test_the_image_net_puts_the_numbers_of_a_pixel_side_by_side():
    net = _ImageNet((2, 5, 6), 3, channels=4, n_context=0, dropout=0.0)
    with torch.no_grad():
        net.net.bias.copy_(torch.arange(2 * 3 * 30.0).reshape(6, 5, 6))
    out = net(torch.zeros(1, 60), torch.zeros(1)).reshape(2, 5, 6, 3)
    assert torch.equal(out[1, 2, 3].detach(), net.net.bias[3:6, 2, 3].detach())


@pytest.mark.parametrize("shape", [(6,), (1, 5, 6)])
def test_training_starts_from_independent_columns(shape, rng):
    """Where all is noise, the untrained denoiser knows the frequency of each level."""
    d = math.prod(shape)
    x = torch.from_numpy(rng.choice(3, p=[0.6, 0.3, 0.1], size=(500, *shape)))
    model = pl.Diffusion(channels=4, hidden=16)
    space = Space((Column("x", "ordinal", (0, 1, 2)),) * d, shape)
    module = model._build(space, Space((), (0,)))
    module.look(x.float())
    mean, _ = module.denoise(torch.zeros(1, d), torch.tensor([-30.0]))
    assert torch.allclose(mean[0], x.flatten(1).float().mean(0) - 1, atol=0.02)


# --------------------------------------------------------------------------------------------------- the estimator

SMALL = {"hidden": 32, "blocks": 1, "steps": 30, "random_state": 0}


def test_what_comes_out_is_like_what_went_in(rng):
    n = 300
    frame = pd.DataFrame(
        {
            "colour": pd.Categorical(rng.choice(["red", "green", "blue"], n)),
            "visits": rng.poisson(40, n),
            "length": rng.normal(5, 2, n),
            "grade": rng.integers(1, 6, n),
            "member": rng.random(n) < 0.3,
        }
    )
    model = pl.Diffusion(epochs=10, **SMALL).fit(frame)
    drawn = model.sample(200, random_state=0)
    assert (drawn.dtypes == frame.dtypes).all()
    assert set(drawn["colour"]) <= {"red", "green", "blue"} and set(drawn["grade"]) <= set(range(1, 6))
    assert np.isfinite(model.log_prob(drawn)).all()
    assert model.likelihood_kind_ == "lower_bound"


def test_images_and_series_keep_their_shape(rng):
    images = rng.integers(0, 4, (60, 8, 8)).astype("uint8")
    model = pl.Diffusion(channels=4, steps=10, epochs=2, random_state=0).fit(images)
    drawn = model.sample(3, random_state=0)
    assert drawn.shape == (3, 8, 8) and drawn.dtype == np.uint8 and drawn.max() <= images.max()
    assert model.log_prob(images[:5]).shape == (5,)
    series = rng.normal(size=(60, 12, 2))
    model = pl.Diffusion(epochs=2, space="series", **SMALL).fit(series)
    assert model.sample(3, random_state=0).shape == (3, 12, 2)


@pytest.mark.parametrize("sampler", ["ddpm", "ddim", "heun"])
def test_a_context_is_heeded_by_every_sampler(rng, sampler):
    label = rng.integers(0, 2, 600)
    X = np.where(label == 1, 3.0, -3.0)[:, None] + rng.normal(size=(600, 1))
    model = pl.Diffusion(epochs=30, sampler=sampler, sampling_steps=15, **SMALL).fit(X, context=label)
    for value, mean in ((0, -3), (1, 3)):
        drawn = model.sample(400, context=[value] * 400, random_state=0)
        assert drawn.mean() == pytest.approx(mean, abs=0.5)


def test_importance_samples_estimate_the_probabilities(rng):
    bits = rng.integers(0, 2, (300, 1)) ^ np.array([[0, 1, 0]])
    model = pl.Diffusion(epochs=10, **SMALL | {"steps": 8}).fit(bits)  # few steps: a bound far from tight
    every = np.array(list(itertools.product((0, 1), repeat=3)))
    assert np.exp(model.log_prob(every, importance_samples=500)).sum() == pytest.approx(1, abs=0.1)


@pytest.mark.slow
def test_held_out_digits():
    """The number in the family's docstring."""
    images = load_digits().images.astype("uint8")
    model = pl.Diffusion(random_state=0).fit(images[:1500])
    assert model.score(images[1500:]) == pytest.approx(EXPECTED_DIGITS, abs=1.0)


EXPECTED_DIGITS = -80.8
