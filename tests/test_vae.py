"""The VAE against closed forms: linear-Gaussian decoders, quadrature over a one-dimensional code, known divergences."""

import itertools
import math

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.datasets import load_digits

import plausible as pl
from plausible.families.latent.vae import _VAE, kl_from_standard
from plausible.space import Column, Space


def a_vae(kind, dims, latent, n_context=0, hidden=(6,), components=1, beta=1.0, seed=0):
    """A module with random parameters in double precision."""
    levels = (0, 1) if kind == "binary" else ()
    space = Space(tuple(Column(f"x{d}", kind, levels=levels) for d in range(dims)), (dims,))
    module = _VAE(space, n_context, latent, hidden, beta, components, "tanh", 0.0).double()
    rng = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in module.parameters():
            p.copy_(0.7 * torch.randn(p.shape, generator=rng, dtype=p.dtype))
    return module


def normals(*shape, seed=1):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


class Linear:
    """x = W h + b + s * noise with codes h of two dimensions: p(x) = N(b, W W' + diag s^2), in closed form."""

    def __init__(self):
        self.W = torch.tensor([[1.0, 0.5], [2.0, -0.5], [0.5, 1.0]], dtype=torch.float64)
        self.b = torch.tensor([0.3, -1.0, 2.0], dtype=torch.float64)
        self.s = torch.tensor([0.5, 0.5, 0.5], dtype=torch.float64)
        # Columns of W made orthogonal, so that the true posterior is a diagonal normal.
        w0, w1 = self.W.T
        self.W[:, 1] = w1 - (w0 @ w1) / (w0 @ w0) * w0
        precision = torch.eye(2, dtype=torch.float64) + self.W.T @ torch.diag(self.s**-2) @ self.W
        self.posterior_variance = torch.linalg.inv(precision)

    def log_prob(self, x):
        covariance = self.W @ self.W.T + torch.diag(self.s**2)
        return torch.distributions.MultivariateNormal(self.b, covariance).log_prob(x)

    def module(self, exact_posterior):
        """The same model as a VAE; its encoder is the true posterior, or another linear one."""
        vae = a_vae("real", 3, 2, hidden=())
        vae.heads.features = lambda z: z  # instead of asinh z: the true posterior is linear in z
        with torch.no_grad():
            for p in vae.parameters():
                p.zero_()
            means = torch.arange(3) * 3 + 1  # parameters of a column: logit, mean, log scale
            vae.decoder.direct.weight[means] = self.W
            vae.decoder.bias[means], vae.decoder.bias[means + 1] = self.b, self.s.log()
            gain = self.posterior_variance @ self.W.T @ torch.diag(self.s**-2)
            vae.encoder.direct.weight[:2], vae.encoder.bias[:2] = gain, -gain @ self.b
            vae.encoder.bias[2:] = 0.5 * self.posterior_variance.diagonal().log()
            if not exact_posterior:
                vae.encoder.bias[:2] += 0.2
                vae.encoder.bias[2:] += 0.3
        return vae


# ----------------------------------------------------------------------------------------------------- the module


def test_kl_is_that_of_torch():
    mu, log_sigma = normals(7, 3), normals(7, 3, seed=2)
    q = torch.distributions.Normal(mu, log_sigma.exp())
    p = torch.distributions.Normal(torch.zeros_like(mu), torch.ones_like(mu))
    torch.testing.assert_close(kl_from_standard(mu, log_sigma), torch.distributions.kl_divergence(q, p).sum(1))


def test_weights_under_the_true_posterior_are_the_likelihood():
    linear = Linear()
    vae, x = linear.module(exact_posterior=True), normals(20, 3)
    rng = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for _ in range(3):  # whatever the noise
            torch.testing.assert_close(vae.log_weight(x, rng=rng), linear.log_prob(x))
        bound = vae.log_prob(x.repeat(20_000, 1), rng=rng).view(-1, 20).mean(0)
    torch.testing.assert_close(bound, linear.log_prob(x), atol=0.1, rtol=0)


def test_bound_below_importance_weighted_below_likelihood():
    linear = Linear()
    vae, x = linear.module(exact_posterior=False), normals(20, 3)
    truth = linear.log_prob(x)
    rng = torch.Generator().manual_seed(0)
    many = x.repeat(20_000, 1)
    with torch.no_grad():
        elbo = vae.log_prob(many, rng=rng).view(-1, 20).mean(0)
        w = vae.log_weight(many, rng=rng).view(-1, 20)
    iw = w.unflatten(0, (-1, 5)).logsumexp(1).sub(math.log(5)).mean(0)
    assert bool((elbo < iw).all()) and bool((iw < truth).all())
    torch.testing.assert_close(elbo, w.mean(0), atol=0.1, rtol=0)  # analytic and sampled KL
    torch.testing.assert_close(w.logsumexp(0) - math.log(20_000), truth, atol=0.05, rtol=0)  # E[w] = p(x)
    # The gap of the bound is KL(q || posterior), here known: equal shifts and scales in both dimensions.
    v = linear.posterior_variance.diagonal()
    gap = (0.5 * (0.04 / v + math.exp(0.6) - 1 - 0.6)).sum()
    torch.testing.assert_close(truth - elbo, gap.expand(20), atol=0.12, rtol=0)


def by_quadrature(vae, x, c=None, nodes=200):
    """p(x) of a VAE with a one-dimensional code, by Gauss-Hermite quadrature over h."""
    h, weight = np.polynomial.hermite_e.hermegauss(nodes)
    h, weight = torch.tensor(h)[:, None], torch.tensor(weight / weight.sum())
    terms = [vae.reconstruction(row.expand(nodes, -1), h, None if c is None else c.expand(nodes, -1)) for row in x]
    return torch.stack([(weight * t.exp()).sum() for t in terms])


@pytest.mark.parametrize("n_context", [0, 2])
def test_mass_over_all_bits_is_one_and_weights_average_to_it(n_context):
    vae = a_vae("binary", 4, 1, n_context)
    with torch.no_grad():
        for p in vae.encoder.parameters():
            p.mul_(0.1)  # codes as broad as the prior, so that the weights have a small variance
    x = torch.tensor(list(itertools.product([0.0, 1.0], repeat=4)), dtype=torch.float64)
    c = torch.tensor([[0.5, -1.0]], dtype=torch.float64) if n_context else None
    many = x.repeat(20_000, 1)
    with torch.no_grad():
        p = by_quadrature(vae, x, c)
        w = vae.log_weight(many, None if c is None else c.expand(len(many), -1), torch.Generator().manual_seed(0))
    w = w.view(-1, 16)
    assert float(p.sum()) == pytest.approx(1.0, abs=1e-9)
    torch.testing.assert_close(w.exp().mean(0), p, atol=1e-4, rtol=0.05)
    assert bool((w.mean(0) < p.log()).all())


def test_samples_have_the_probabilities_of_the_density():
    vae = a_vae("binary", 3, 1)
    x = torch.tensor(list(itertools.product([0.0, 1.0], repeat=3)), dtype=torch.float64)
    with torch.no_grad():
        p = by_quadrature(vae, x)
        drawn = vae.sample(20_000, rng=torch.Generator().manual_seed(0))
    share = torch.bincount((drawn @ torch.tensor([4.0, 2.0, 1.0], dtype=torch.float64)).long(), minlength=8) / 20_000
    torch.testing.assert_close(share.double(), p, atol=0.015, rtol=0)


def test_loss_is_the_negative_bound_and_beta_weighs_the_kl_of_the_loss_only():
    x = normals(9, 2)
    plain, heavy = a_vae("real", 2, 3), a_vae("real", 2, 3, beta=4.0)

    def rng():
        return torch.Generator().manual_seed(5)

    with torch.no_grad():
        torch.testing.assert_close(plain.loss(x, rng=rng()), -plain.log_prob(x, rng=rng()))
        torch.testing.assert_close(heavy.log_prob(x, rng=rng()), plain.log_prob(x, rng=rng()))
        kl = kl_from_standard(*plain.posterior(x))
        torch.testing.assert_close(heavy.loss(x, rng=rng()), plain.loss(x, rng=rng()) + 3 * kl)


def test_every_parameter_is_learned():
    vae = a_vae("real", 3, 2, components=2)
    vae.loss(normals(32, 3), rng=torch.Generator().manual_seed(0)).mean().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in vae.parameters())


# -------------------------------------------------------------------------------------------------- the estimator


@pytest.fixture(scope="module")
def correlated():
    """Three readings of one cause, 2,000 rows; its log-likelihood by closed form."""
    rng = np.random.default_rng(0)
    return rng.normal(size=(2000, 1)) * [[1, -2, 3]] + 0.5 * rng.normal(size=(2000, 3))


def test_finds_the_one_cause(correlated):
    vae = pl.VAE(latent=2, hidden=(32,), learning_rate=5e-3, epochs=40, random_state=0).fit(correlated[:1500])
    truth = pl.Gaussian().fit(correlated[:1500]).score(correlated[1500:])
    bound = vae.score(correlated[1500:])
    tighter = vae.log_prob(correlated[1500:], importance_samples=64).mean()
    assert bound < tighter < truth + 0.05
    assert tighter > truth - 0.25
    assert vae.likelihood_kind_ == "lower_bound"
    cause = correlated[1500:, 2]
    codes = vae.module_.encode(vae.transforms_(vae.space_.encode(correlated[1500:]))[0].float()).detach().numpy()
    assert max(abs(np.corrcoef(code, cause)[0, 1]) for code in codes.T) > 0.95


def test_answer_depends_on_the_row_only(correlated):
    vae = pl.VAE(latent=2, hidden=(8,), epochs=2, random_state=0).fit(correlated)
    whole = vae.log_prob(correlated[:50])
    np.testing.assert_allclose(vae.log_prob(correlated[:50][::-1])[::-1], whole, rtol=1e-12)
    np.testing.assert_allclose(vae.log_prob(correlated[7:8]), whole[7:8], rtol=1e-9)


def test_mixed_table_samples_look_like_it_and_beat_independence():
    rng = np.random.default_rng(0)
    n = 1200
    kind = rng.integers(0, 3, n)
    X = pd.DataFrame(
        {
            "real": 3.0 * kind + rng.normal(size=n),
            "count": rng.poisson(4.0 * kind + 0.2).clip(0, 12),
            "label": pd.Categorical(np.array(["a", "b", "c"])[kind]),
            "flag": kind > 0,
            "grade": kind + 1,
        }
    )
    train, held_out = X[:900], X[900:].reset_index(drop=True)
    vae = pl.VAE(latent=4, hidden=(64, 64), random_state=0).fit(train)
    assert vae.score(held_out) > pl.Independent().fit(train).score(held_out) + 1
    drawn = vae.sample(500, random_state=0)
    assert list(drawn.columns) == list(X.columns) and (drawn.dtypes == X.dtypes).all()
    agree = (drawn["label"].cat.codes + 1 == drawn["grade"]).mean()
    assert agree > 0.85  # one third if the columns were independent


@pytest.mark.parametrize("shape", [(60, 3, 4), (60, 2, 3, 3)])
def test_images_and_series(shape):
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, shape).astype(np.uint8)
    vae = pl.VAE(latent=2, hidden=(16,), epochs=2, random_state=0).fit(images)
    assert np.isfinite(vae.log_prob(images)).all()
    drawn = vae.sample(3, random_state=0)
    assert drawn.shape == (3, *shape[1:]) and drawn.dtype == np.uint8
    series = rng.normal(size=(60, 5, 2)).cumsum(1)
    vae = pl.VAE(latent=2, hidden=(16,), epochs=2, random_state=0, space="series").fit(series)
    assert vae.sample(3, random_state=0).shape == (3, 5, 2)


def test_context_moves_the_density():
    rng = np.random.default_rng(0)
    label = rng.integers(0, 2, 1000)
    X = rng.normal(size=(1000, 1)) + 6 * label[:, None]
    vae = pl.VAE(latent=1, hidden=(16,), epochs=60, random_state=0).fit(X, context=label)
    assert vae.log_prob(np.array([[6.0]]), context=1)[0] > vae.log_prob(np.array([[6.0]]), context=0)[0] + 3
    assert np.mean(vae.sample(200, context=1, random_state=0)) == pytest.approx(6.0, abs=0.5)


@pytest.mark.slow
def test_held_out_digits():
    images = load_digits().images.astype(np.uint8)
    vae = pl.VAE(random_state=0).fit(images[:1500])
    assert vae.score(images[1500:]) == pytest.approx(-94.0, abs=1.5)
    assert vae.log_prob(images[1500:], importance_samples=50).mean() == pytest.approx(-91.3, abs=1.5)
