"""The learned cumulative: it goes from 0 to 1 and never falls, its derivative is the density, its inverse draws."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import stats

import plausible as pl
from plausible.data import toy
from plausible.families.direct._cumulative import Free, Positive, solve
from plausible.families.direct.neural_cdf import NeuralCDF, _NeuralCDF
from plausible.options import OptionError
from plausible.randomness import generator
from plausible.space import Column, Space

REAL = Column("real", "real")
BIT = Column("bit", "binary", (0, 1))
THREE = Column("three", "ordinal", (0, 1, 2))
COUNT = Column("count", "count", low=-1.0, step=0.5)
OPEN_COUNT = Column("integer", "count", step=1.0)


def net(columns, hidden=(6, 5), free=False, n_context=0, cumulative=False, spread=1.0, seed=0) -> _NeuralCDF:
    """A net of random weights, so strong that every connection shows."""
    space = Space(tuple(columns), (len(columns),))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)  # the first weights come from the global generator
        module = _NeuralCDF(space, n_context, hidden, 7, free, cumulative, 1.0, 4).double().eval()
    rng = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in module.parameters():
            p.add_(spread * torch.randn(p.shape, generator=rng, dtype=p.dtype))
    return module


def some(n: int, dims: int, seed: int = 0) -> torch.Tensor:
    return 1.5 * torch.randn(n, dims, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


nets = pytest.mark.parametrize("hidden", [(6,), (6, 5), (6, 5, 4)], ids=str)
kinds = pytest.mark.parametrize("free", [False, True], ids=["construction", "penalty"])


# ------------------------------------------------------------------------------------------------ the cumulative


def cumulative_of(module, t, row=None):
    """log F and log(1 - F) of the last column at t (m,), after one row of the columns before."""
    z = torch.zeros(1, module.dims, dtype=torch.float64) if row is None else row[None]
    part = slice(module.dims - 1, module.dims)
    params = module.parameters_of(z, None)[part]
    return [v[0, 0] for v in module.net.log_cdf(t[None, None], params, part)]


@kinds
@nets
def test_a_cumulative_rises_from_zero_to_one(hidden, free):
    with torch.no_grad():
        module = net([REAL, REAL], hidden, free)
        t = torch.cat([torch.tensor([-1e6, -1e4]), torch.linspace(-40, 40, 4001), torch.tensor([1e4, 1e6])]).double()
        for row in some(3, 2):
            below, above = cumulative_of(module, t, row)
            f = below.exp()
            assert f[0] < 1e-9 and f[-1] > 1 - 1e-9
            assert (f.diff() >= -1e-12).all()
            torch.testing.assert_close(f + above.exp(), torch.ones_like(f), rtol=0, atol=1e-9)


@nets
def test_the_density_is_the_derivative_of_the_cumulative(hidden):
    module = net([REAL, REAL], hidden)
    t = torch.linspace(-6, 6, 101, dtype=torch.float64, requires_grad=True)
    row = some(1, 2)[0]
    below, _ = cumulative_of(module, t, row)
    (slope,) = torch.autograd.grad(below.exp().sum(), t)
    z = torch.stack([row[:1].expand(101), t.detach()], 1)
    first = module.net.log_prob(z.T[:, :, None], module.parameters_of(z, None))[0, :, 0]
    torch.testing.assert_close(module.log_prob(z) - first, slope.log(), rtol=1e-7, atol=1e-7)


def test_the_density_of_a_free_net_is_the_derivative_of_what_was_made_of_it():
    with torch.no_grad():
        module = net([REAL], (6, 5), free=True)
        t = torch.linspace(-6, 6, 4001, dtype=torch.float64) + 1e-4  # off the nodes
        step = 1e-6
        slope = (cumulative_of(module, t + step)[0].exp() - cumulative_of(module, t - step)[0].exp()) / (2 * step)
        torch.testing.assert_close(module.log_prob(t[:, None]).exp(), slope, rtol=1e-5, atol=1e-7)
        assert (slope > 0).all()


def test_a_free_net_that_rises_is_left_as_it_is():
    """Where H rises everywhere, what is evaluated is H between its values at the ends, to the error of a cubic."""
    with torch.no_grad():
        module = net([REAL], (6,), free=True, spread=0.0)
        t = torch.linspace(-4.9, 4.9, 501, dtype=torch.float64)
        logit, slope = module.net._net(t[None, None], module.bias, slice(None))
        assert (slope > 0).all()
        ends = module.net._net(torch.tensor([[[-5.0, 5.0]]]).double(), module.bias, slice(None))[0].sigmoid()[0, 0]
        h = (logit.sigmoid()[0, 0] - ends[0]) / (ends[1] - ends[0])
        f = 0.999 * h + 0.001 * t.sigmoid()
        torch.testing.assert_close(cumulative_of(module, t)[0].exp(), f, rtol=0, atol=1e-4)


@nets
def test_the_farthest_tails_keep_their_digits(hidden):
    """The log-density falls along a straight line: no digit is lost to a cumulative that has become 1."""
    with torch.no_grad():
        module = net([REAL], hidden, spread=0.3)
        for sign in (-1.0, 1.0):
            t = sign * torch.tensor([400.0, 600.0, 800.0], dtype=torch.float64)
            log_f = module.log_prob(t[:, None])
            assert torch.isfinite(log_f).all() and log_f[2] < -150
            assert (log_f[2] - log_f[1]).item() == pytest.approx((log_f[1] - log_f[0]).item(), rel=1e-9)
            below, above = cumulative_of(module, t)
            tail = above if sign > 0 else below
            hazard = (log_f - tail).exp()  # constant where a tail is exponential
            assert hazard[0].item() == pytest.approx(hazard[2].item(), rel=1e-9)


def test_solve_inverts_a_cumulative():
    u = torch.linspace(0, 1, 1001, dtype=torch.float64)[None, :, None]
    centre, unit = torch.tensor([30.0], dtype=torch.float64), torch.tensor([0.01], dtype=torch.float64)

    def log_cdf(t):
        x = t.numpy()
        return torch.from_numpy(stats.logistic.logcdf(x)), torch.from_numpy(stats.logistic.logsf(x))

    t = solve(log_cdf, u, centre, unit)[0, 1:-1, 0].numpy()
    np.testing.assert_allclose(t, stats.logistic.ppf(u[0, 1:-1, 0].numpy()), rtol=1e-9, atol=1e-9)


# ------------------------------------------------------------------------------------------------------ the mass


@kinds
def test_the_mass_of_two_reals_is_one(free):
    with torch.no_grad():
        module = net([REAL, REAL], (6, 5), free, spread=0.3)
        for z_0 in (-2.0, 0.3):
            s = torch.linspace(-1 + 1e-9, 1 - 1e-9, 100_001, dtype=torch.float64)
            t = 6 * s.atanh()
            z = torch.stack([torch.full_like(t, z_0), t], 1)
            part = slice(1, 2)
            params = module.parameters_of(z[:1], None)[part]
            p = module.net.log_prob(t[None, None], params, part)[0, 0].exp()
            mass = torch.trapezoid(p * 6 / (1 - s * s), s)
            assert mass.item() == pytest.approx(1, abs=2e-5)


@kinds
@nets
def test_the_masses_of_all_levels_and_counts_sum_to_one(hidden, free):
    with torch.no_grad():
        module = net([BIT, THREE, COUNT, OPEN_COUNT], hidden, free, spread=0.3)  # nearly nothing beyond the values
        counts, integers = torch.arange(0, 40) * 0.5 - 1, torch.arange(-20, 21)
        values = [torch.arange(2), torch.arange(3), counts, integers]
        total = 0.0
        for first in itertools.product(*values[:2]):
            z = torch.cartesian_prod(*[v.double()[None] if v.dim() == 0 else v.double() for v in (*first, *values[2:])])
            p = module.log_prob(z).exp()
            assert (p > 0).all() or free
            total += p.sum().item()
        assert total == pytest.approx(1, abs=2e-3 if free else 1e-4)


def test_log_prob_in_pieces_is_log_prob_at_once(monkeypatch):
    for free in (False, True):
        module, z = net([REAL, COUNT, REAL], free=free, n_context=2), some(50, 3)
        z[:, 1] = (z[:, 1].abs() / 0.5).round() * 0.5 - 1
        c = some(50, 2, seed=1)
        whole = module.log_prob(z, c).detach()
        monkeypatch.setattr("plausible.families.direct.neural_cdf.NUMBERS_AT_ONCE", 3000)
        with torch.no_grad():
            torch.testing.assert_close(module.log_prob(z, c), whole)


# --------------------------------------------------------------------------------------------------------- draws


@kinds
def test_draws_have_the_cumulative_as_uniform(free):
    """If z came from the uniforms u by inversion, F of z is u again."""
    with torch.no_grad():
        module = net([REAL, REAL, REAL], (6, 5), free, n_context=2)
        rng, c = generator(0), some(200, 2, seed=3)
        u = torch.rand(200, 3, generator=rng, dtype=torch.float64)
        z = module.from_uniforms(u, c)
        log_f, _ = module.net.log_cdf(z.T[:, :, None], module.parameters_of(z, c))
        torch.testing.assert_close(log_f[..., 0].T.exp(), u, rtol=0, atol=1e-9)


@kinds
def test_draws_have_the_probabilities_of_the_lattice(free):
    with torch.no_grad():
        module = net([BIT, THREE, COUNT], (6, 5), free)
        z = module.sample(5000, rng=generator(0))
        keys, counts = z.unique(dim=0, return_counts=True)
        p = module.log_prob(keys).exp()
        often = p * len(z) > 5
        assert p[often].sum() > 0.8
        chi = ((counts[often] - p[often] * len(z)).square() / (p[often] * len(z))).sum().item()
        assert stats.chi2.sf(chi, int(often.sum())) > 1e-4
        assert (z[:, 2] >= -1).all() and z[:, 1].max() <= 2


# ------------------------------------------------------------------------------------------------------ learning


def test_the_loss_of_the_cumulative_is_least_at_the_truth():
    """Of a single column, the cross-entropy at thresholds is entropy plus divergence from the empirical cumulative."""
    module = net([REAL], (6,), cumulative=True, spread=0.0).train()
    x = torch.linspace(-2, 2, 9, dtype=torch.float64)[:, None]
    weight = torch.tensor([0.0, 1, 1, 1, 1, 1, 1, 1, 1])
    module.see(x, weight)
    values, below = module.empirical
    torch.testing.assert_close(below, torch.tensor([0, 0, 1, 2, 3, 4, 5, 6, 7, 8], dtype=torch.float64) / 8)
    t = module._alone(x, generator(1))[0, 0]
    loss = module.loss(x, rng=generator(1))
    target = torch.tensor([(weight[x[:, 0] <= s].sum() / 8).item() for s in t], dtype=torch.float64)
    f = cumulative_of(module, t)[0].exp()
    torch.testing.assert_close(loss, -(target * f.log() + (1 - target) * (1 - f).log()))


def test_thresholds_come_from_the_others():
    module = net([REAL, COUNT], cumulative=True)
    z = torch.stack([torch.arange(50.0), torch.arange(50.0) * 0.5 - 1], 1).double()
    t = module._thresholds(z, generator(0))
    assert t.shape == (2, 50, 4)
    on_data = t[0] == t[0].round()
    assert 0.7 < on_data.double().mean() < 0.9  # the rest was moved off
    assert not (t[0] == z[:, :1]).any()
    few = module._thresholds(z[:3], generator(1))[0]
    assert not (few == z[:3, :1]).any() and len(few[few == few.round()].unique()) == 3
    assert ((t[1] + 1) / 0.5 - 0.5 == ((t[1] + 1) / 0.5 - 0.5).round()).all()  # a count's lie between its points


def test_a_net_that_falls_is_penalised():
    module = net([REAL], (1,), free=True, cumulative=True, spread=0.0).train()
    x = some(500, 1)
    module.see(x, None)
    rising = module.loss(x, rng=generator(0)).mean()
    with torch.no_grad():
        module.bias[..., -2:] *= -1  # of the output: now it falls
    t = module._alone(x, generator(0))
    fall = module.net.regress(t, module.bias)[2]
    assert (fall > 0).all()
    module.penalty = 0.0
    without = module.loss(x, rng=generator(0)).mean()
    module.penalty = 2.0
    assert module.loss(x, rng=generator(0)).mean().item() == pytest.approx((without + 2 * fall.mean()).item())
    assert without > rising


@pytest.fixture(scope="module")
def two_normals() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    x = rng.choice([-1.5, 1.5], size=12_000) + 0.5 * rng.standard_normal(12_000)
    return x[:1500, None], x[1500:, None]


def kolmogorov(model, x) -> float:
    """The largest distance between the cumulative of two normals and the model's, from its draws' exact values."""
    t = torch.linspace(-4, 4, 401, dtype=torch.float64)[:, None]
    module = model._evaluator()
    with torch.no_grad():
        f = cumulative_of(module, model.transforms_(t)[0][:, 0])[0].exp().numpy()
    truth = 0.5 * stats.norm(-1.5, 0.5).cdf(t[:, 0]) + 0.5 * stats.norm(1.5, 0.5).cdf(t[:, 0])
    return float(np.abs(f - truth).max())


@pytest.mark.parametrize(
    "options", [{}, {"monotone": "penalty"}, {"learn": "likelihood"}, {"hidden": (16, 16)}], ids=str
)
def test_two_normals_are_learned(two_normals, options):
    train, test = two_normals
    model = NeuralCDF(random_state=0, epochs=60, **options).fit(train)
    truth = np.mean(np.logaddexp(*(stats.norm(m, 0.5).logpdf(test[:, 0]) for m in (-1.5, 1.5))) - math.log(2))
    assert truth - 0.06 < model.score(test) < truth + 0.001
    assert model.score(test) > pl.Gaussian().fit(train).score(test) + 0.3
    assert kolmogorov(model, train) < 0.05  # that of the empirical one is about 0.02
    draws = model.sample(4000, random_state=0)[:, 0]
    assert stats.ks_2samp(draws, test[:, 0]).statistic < 0.08


def test_one_column_beats_the_histogram_where_the_density_is_smooth():
    rng = np.random.default_rng(1)
    train, test = rng.standard_normal((300, 1)), rng.standard_normal((5000, 1))
    ours, bins = NeuralCDF(random_state=0).fit(train).score(test), pl.Histogram().fit(train).score(test)
    assert ours > bins
    assert ours > np.mean(stats.norm.logpdf(test)) - 0.06


def test_two_moons_beat_the_histogram():
    train, test = toy.two_moons(1000, random_state=0), toy.two_moons(3000, random_state=1)
    scores = {
        f: f.fit(train).score(test) for f in (NeuralCDF(random_state=0, epochs=60), pl.Histogram(), pl.Gaussian())
    }
    ours, bins, normal = scores.values()
    assert ours > bins + 0.05 and ours > normal + 0.5


@pytest.mark.parametrize("monotone", ["construction", "penalty"])
def test_the_cumulative_of_a_second_column_is_learned_given_the_first(monotone):
    """On y | x ~ N(x, 0.5^2), the learned F(y | x) is near the normal one."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal(2000)
    X = np.column_stack([x, x + 0.5 * rng.standard_normal(2000)])
    model = NeuralCDF(monotone=monotone, learn="cumulative", random_state=0, epochs=25).fit(X)
    assert model.module_.cumulative
    new = np.column_stack([q := rng.standard_normal(2000), q + 0.5 * rng.standard_normal(2000)])
    z, module = model.transforms_(torch.from_numpy(new))[0], model._evaluator()
    with torch.no_grad():
        f = module.net.log_cdf(z.T[:, :, None], module.parameters_of(z, None))[0][1, :, 0].exp().numpy()
    assert np.abs(f - stats.norm.cdf((new[:, 1] - new[:, 0]) / 0.5)).mean() < 0.03
    truth = stats.norm.logpdf(new[:, 0]).mean() + stats.norm(new[:, 0], 0.5).logpdf(new[:, 1]).mean()
    assert model.score(new) > truth - 0.25


def test_counts_and_levels_are_learned():
    rng = np.random.default_rng(0)
    grade = rng.binomial(4, 0.5, size=3000)
    X = pd.DataFrame({"grade": grade, "visits": rng.poisson(15 + 5 * grade)})
    train, test = X[:2000], X[2000:]
    truth = stats.binom(4, 0.5).logpmf(test.grade) + stats.poisson(15 + 5 * test.grade).logpmf(test.visits)
    for options in ({}, {"learn": "cumulative"}):
        model = NeuralCDF(random_state=0, epochs=25, **options).fit(train)
        assert model.likelihood_kind_ == "exact"
        assert truth.mean() - 0.12 < model.score(test) < truth.mean() + 0.05


def test_a_context_moves_the_cumulative():
    rng = np.random.default_rng(0)
    label = rng.integers(2, size=2000)
    x = (3.0 * label + rng.standard_normal(2000))[:, None]
    for options in ({}, {"learn": "cumulative"}):
        model = NeuralCDF(random_state=0, epochs=15, **options).fit(x, context=label)
        assert abs(model.sample(2000, context=1, random_state=0).mean() - 3) < 0.2
        assert abs(model.sample(2000, context=0, random_state=0).mean()) < 0.2


def test_repeated_values_and_a_constant_column_do_no_harm():
    x = np.repeat([1.0, 2.0, 5.0], [50, 30, 20])[:, None]
    for options in ({"learn": "cumulative"}, {"learn": "likelihood"}, {"monotone": "penalty"}):
        for X in (x, np.column_stack([x, np.full(100, 7.0)])):
            model = NeuralCDF(random_state=0, epochs=5, **options).fit(X)
            assert np.isfinite(model.log_prob(X)).all()
            assert np.isfinite(model.sample(50, random_state=0)).all()


def test_weights_count_in_the_empirical_cumulative():
    rng = np.random.default_rng(0)
    x = rng.standard_normal((2000, 1))
    model = NeuralCDF(random_state=0, epochs=40).fit(x, sample_weight=np.where(x[:, 0] > 0, 3.0, 1.0))
    with torch.no_grad():
        below, _ = cumulative_of(model._evaluator(), model.transforms_(torch.zeros(1, 1))[0][:, 0])
    assert below.exp().item() == pytest.approx(0.25, abs=0.04)


def test_what_cannot_be_learned_is_refused():
    with pytest.raises(OptionError, match="penalty.*no likelihood"):
        NeuralCDF(monotone="penalty", learn="likelihood").fit(np.arange(10.0)[:, None])
    with pytest.raises(OptionError, match="monotone"):
        NeuralCDF(monotone="no").fit(np.arange(10.0)[:, None])


def test_a_saved_penalty_model_scores_the_same(tmp_path):
    X = toy.two_moons(300, random_state=0)
    model = NeuralCDF(monotone="penalty", random_state=0, epochs=3).fit(X)
    model.save(tmp_path / "m.plausible")
    np.testing.assert_array_equal(pl.load(tmp_path / "m.plausible").log_prob(X), model.log_prob(X))


def test_both_nets_have_the_same_face():
    for make in (Positive, Free):
        assert {"log_cdf", "log_density", "log_mass", "regress", "prepare"} <= set(dir(make))
