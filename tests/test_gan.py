"""GAN: each loss against its closed form, the two players apart, and what comes out."""

import math

import numpy as np
import pandas as pd
import pytest
import torch

import plausible as pl
from plausible.errors import CapabilityError
from plausible.families.adversarial.gan import _GAN, _draw_category
from plausible.space import Column, Space
from plausible.training import Batch


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


def reals(d):
    return Space(tuple(Column(f"x{i}", "real") for i in range(d)), (d,))


def test_at_the_best_critic_the_loss_is_the_jensen_shannon_divergence():
    """Real N(0, 1), generated N(1, 1): the best critic is log p - log q = 1/2 - x, here put in by hand."""
    module = _GAN(reals(1), 0, 1, (), penalty=0.0).double()
    with torch.no_grad():
        module.generator[0].weight.fill_(1.0)
        module.generator[0].bias.fill_(1.0)
        module.critic[0].weight.fill_(-1.0)
        module.critic[0].bias.fill_(0.5)
    z = torch.randn(400_000, 1, generator=rng(1), dtype=torch.float64)
    loss = module.critic_loss(z, rng=rng(2)).detach()
    x = np.linspace(-12, 13, 200_001)
    p, q = (np.exp(-0.5 * (x - m) ** 2) / math.sqrt(2 * math.pi) for m in (0, 1))
    mixed = (p + q) / 2
    js = 0.5 * np.trapezoid(p * np.log(p / mixed) + q * np.log(q / mixed), x)
    found = math.log(2) - loss.mean().item() / 2
    assert found == pytest.approx(js, abs=4 * loss.std().item() / 2 / math.sqrt(len(loss)))


def test_the_penalty_is_the_squared_gradient_at_real_examples():
    module = _GAN(reals(3), 0, 2, (8,), penalty=2.0).double()
    z = torch.randn(5, 3, generator=rng(), dtype=torch.float64)
    with_penalty = module.critic_loss(z, rng=rng(1))
    module.penalty = 0.0
    penalty = (with_penalty - module.critic_loss(z, rng=rng(1))).detach()
    step = 1e-6
    slopes = [
        (module.judge(z + step * e, None) - module.judge(z - step * e, None)) / (2 * step)
        for e in torch.eye(3, dtype=torch.float64)
    ]
    assert torch.allclose(penalty, torch.stack(slopes).square().sum(0).detach(), atol=1e-6)


def test_categories_are_drawn_with_the_probabilities_of_their_logits():
    logits = torch.tensor([1.0, 0.0, -1.0]).requires_grad_()
    drawn = _draw_category(logits.expand(60_000, 1, 3), torch.rand(60_000, 1, 3, generator=rng()))
    assert torch.equal(drawn.detach().round(), drawn.detach().round().clamp(0, 1))
    shares = drawn[:, 0].mean(0).detach()
    assert torch.allclose(shares, logits.softmax(0).detach(), atol=4 * 0.5 / math.sqrt(60_000))
    (gradient,) = torch.autograd.grad(drawn[:, 0, 0].mean(), logits)
    assert gradient[0] > 0 > gradient[1]  # a larger logit makes its category likelier


def test_each_player_moves_its_own_parameters_only():
    model = pl.GAN(hidden=(8,), latent=2)
    module = _GAN(reals(2), 0, 2, (8,), penalty=1.0)
    model.space_ = reals(2)
    step = model._step(module)
    batch = Batch(torch.randn(64, 2, generator=rng()), None, None)
    before = {k: v.clone() for k, v in module.named_parameters()}
    step.opponent(batch, rng(1))
    moved = {k.split(".")[0] for k, v in module.named_parameters() if not torch.equal(v, before[k])}
    assert moved == {"critic"}
    before = {k: v.clone() for k, v in module.named_parameters()}
    step.player(batch, rng(2))
    moved = {k.split(".")[0] for k, v in module.named_parameters() if not torch.equal(v, before[k])}
    assert moved == {"generator"}


def test_the_held_out_loss_is_smallest_for_the_right_generator():
    """Energy distance: a generator of N(0, 1) against held-out N(0, 1), and one that is off by one."""
    losses = []
    for shift in (0.0, 1.0):
        module = _GAN(reals(1), 0, 1, (), penalty=0.0)
        with torch.no_grad():
            module.generator[0].weight.fill_(1.0)
            module.generator[0].bias.fill_(shift)
        z = torch.randn(2000, 1, generator=rng(1))
        losses.append(module.held_out_loss(z, rng=rng(2)).mean().item())
    # 2 E|x - y| - E|y - y'| of normals with difference m: E|N(m, 2)| in closed form
    expected = [2 * _mean_absolute(m) - _mean_absolute(0.0) for m in (0.0, 1.0)]
    assert losses == pytest.approx(expected, abs=0.1)


def _mean_absolute(m, variance=2.0):
    s = math.sqrt(variance)
    return s * math.sqrt(2 / math.pi) * math.exp(-m * m / (2 * variance)) + m * math.erf(m / (s * math.sqrt(2)))


def test_what_comes_out_is_like_what_went_in():
    g = np.random.default_rng(0)
    df = pd.DataFrame(
        {
            "x": g.normal(10, 2, 300),
            "n": g.poisson(40, 300),
            "flag": g.random(300) < 0.3,
            "k": pd.Categorical(g.choice(list("abc"), 300)),
            "grade": g.integers(1, 6, 300),
        }
    )
    model = pl.GAN(hidden=(16,), epochs=20, random_state=0).fit(df)
    drawn = model.sample(200, random_state=1)
    assert (drawn.dtypes == df.dtypes).all() and list(drawn) == list(df)
    assert set(drawn["k"]) <= set("abc") and drawn["grade"].between(1, 5).all() and (drawn["n"] >= 0).all()
    with pytest.raises(CapabilityError, match="no density.*plausible.compare"):
        model.log_prob(df)


def test_a_context_is_heeded():
    g = np.random.default_rng(0)
    label = g.integers(0, 2, 1000)
    X = g.normal(size=(1000, 1)) + 6 * label[:, None]
    model = pl.GAN(hidden=(32,), epochs=100, random_state=0).fit(X, context=label)
    means = [model.sample(500, context=[k], random_state=0).mean() for k in (0, 1)]
    assert means == pytest.approx([0, 6], abs=1.0)


@pytest.mark.slow
def test_all_eight_modes_of_a_ring_are_found():
    g = np.random.default_rng(0)
    angle = g.integers(8, size=4000) * np.pi / 4
    ring = np.stack([np.cos(angle), np.sin(angle)], 1)
    drawn = pl.GAN(random_state=0, epochs=200).fit(ring + 0.02 * g.normal(size=ring.shape)).sample(2500, random_state=0)
    centres = np.stack([np.cos(np.arange(8) * np.pi / 4), np.sin(np.arange(8) * np.pi / 4)], 1)
    nearest = ((drawn[:, None] - centres) ** 2).sum(2).argmin(1)
    assert np.bincount(nearest, minlength=8).min() > 2500 / 8 / 3
