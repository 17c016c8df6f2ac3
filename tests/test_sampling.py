"""Draws from known densities, against their moments, their cumulatives and sums over all states."""

from __future__ import annotations

import itertools
import math
import warnings

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given as examples
from hypothesis import strategies as st
from scipy import stats
from scipy.special import polygamma, psi

import plausible as pl
from plausible import sampling
from plausible.errors import CapabilityError, DataError, InterruptedWarning, PlausibleError, PlausibleWarning
from plausible.sampling._density import Target
from plausible.sampling.hamiltonian import _Trees, leapfrog
from plausible.uses import chains

MEAN = np.array([1.0, -2.0, 30.0])
FACTOR = np.array([[1.0, 0, 0], [0.6, 0.8, 0], [1, 1, 2]])
COVARIANCE = FACTOR @ FACTOR.T


def normal(x):
    """Three correlated normals."""
    away = (x - torch.tensor(MEAN)) @ torch.tensor(np.linalg.inv(FACTOR).T)
    return -0.5 * (away**2).sum(1)


def log_gamma(x):
    """The logarithm of a gamma variable of shape 3, which is skewed: mean psi(3), variance psi'(3)."""
    return (3 * x - torch.exp(x)).sum(1)


def standard(x):
    return -0.5 * (x**2).sum(1)


def funnel(x):
    return -0.5 * (x[:, 0] / 3) ** 2 - 0.5 * (x[:, 1:] ** 2 * torch.exp(-x[:, :1])).sum(1) - 0.5 * x[:, 0] * 9


def two_modes(x):
    near, far = -0.5 * ((x - 10) ** 2).sum(1) + math.log(0.3), -0.5 * ((x + 10) ** 2).sum(1) + math.log(0.7)
    return torch.logaddexp(near, far)


def agree(values: np.ndarray, truth: float, sigmas: float = 4.0) -> bool:
    """Whether the mean over chains (C, n) lies within its standard error, judged by the chains' own means."""
    means = values.mean(1)
    return bool(abs(means.mean() - truth) < sigmas * means.std(ddof=1) / math.sqrt(len(means)))


# ------------------------------------------------------------------------------------------------------ inversion


@pytest.mark.parametrize(
    "law", [stats.norm(5, 0.01), stats.gamma(0.3), stats.t(2), stats.beta(0.5, 3), stats.poisson(4.3), stats.expon(-7)]
)
def test_quantiles_are_those_of_scipy(law):
    u = np.random.default_rng(0).random(2000)
    assert np.allclose(sampling.quantile(law.cdf, u), law.ppf(u), rtol=1e-8, atol=1e-12)
    low, high = law.support()
    assert np.allclose(sampling.quantile(law.cdf, u, support=(low - 1, high)), law.ppf(u), rtol=1e-8, atol=1e-12)


@examples(st.lists(st.floats(0.01, 10), min_size=1, max_size=6), st.integers(0, 100))
def test_quantiles_of_step_functions_are_the_smallest_that_reach(weights, seed):
    p = np.cumsum(weights) / np.sum(weights)
    p[-1] = 1.0
    places = np.arange(len(p)) * 1.5 - 2

    def cdf(x):
        return np.concatenate([[0], p])[np.searchsorted(places, np.asarray(x), side="right")]

    u = np.random.default_rng(seed).random(50) * 0.999 + 0.0005
    assert np.allclose(sampling.quantile(cdf, u, support=(-3.0, 20.0)), places[np.searchsorted(p, u)])


def test_draws_by_inversion_follow_the_cumulative():
    x = sampling.inverse_transform(torch.special.ndtr, 5000, random_state=0)
    assert stats.kstest(x, "norm").pvalue > 0.01
    assert np.array_equal(x, sampling.inverse_transform(torch.special.ndtr, 5000, random_state=0))


def test_marginal_then_conditional():
    def first(x, before):
        assert before.shape == (len(x), 0)
        return torch.special.ndtr(x)

    def second(y, before):
        return torch.special.ndtr((y - 0.8 * before[:, 0]) / 0.6)

    x = sampling.inverse_conditionals([first, second], 5000, random_state=1)
    assert stats.kstest(x[:, 1], "norm").pvalue > 0.01
    assert stats.kstest((x[:, 1] - 0.8 * x[:, 0]) / 0.6, "norm").pvalue > 0.01
    assert abs(np.corrcoef(x.T)[0, 1] - 0.8) < 0.02


def test_inversion_of_a_density_in_one_dimension():
    x, log_integral = sampling.inverse_density(lambda x: x[:, 0].log() + 4 * (1 - x[:, 0]).log(), 5000, 0, 1)
    assert abs(log_integral - (math.lgamma(2) + math.lgamma(5) - math.lgamma(7))) < 1e-6
    x, _ = sampling.inverse_density(lambda x: 0.5 * x[:, 0].log() - 2 * x[:, 0], 5000, 0, math.inf, random_state=0)
    assert stats.kstest(x[:, 0], stats.gamma(1.5, scale=0.5).cdf).pvalue > 0.01
    x, log_integral = sampling.inverse_density(standard, 5000, -math.inf, math.inf, random_state=0)
    assert abs(log_integral - 0.5 * math.log(2 * math.pi)) < 1e-8 and stats.kstest(x[:, 0], "norm").pvalue > 0.01


def test_inversion_of_a_density_in_two_and_three_dimensions():
    x, log_integral = sampling.inverse_density(two_modes, 3000, [-17, -17], [17, 17], random_state=0)
    assert abs(log_integral - math.log(2 * math.pi)) < 1e-6
    assert stats.binomtest(int((x[:, 0] > 0).sum()), 3000, 0.3).pvalue > 0.01 and (x[:, 0] * x[:, 1] > 0).all()
    assert stats.kstest(np.abs(x[:, 1]) - 10, "norm").pvalue > 0.01

    def sphere(x):  # x_3 has density 2 x_3 on (0, 1), x_1 has it too; x_2 is exp(1) cut at 2
        return x[:, 0].log() + x[:, 2].log() - x[:, 1]

    x, log_integral = sampling.inverse_density(sphere, 500, [0, 0, 0], [1, 2, 1], random_state=0)
    assert abs(log_integral - math.log(0.25 * (1 - math.exp(-2)))) < 1e-6
    for d, law in enumerate([stats.beta(2, 1), stats.truncexpon(2), stats.beta(2, 1)]):
        assert stats.kstest(x[:, d], law.cdf).pvalue > 0.01


def test_inversion_refuses_what_is_no_cumulative():
    with pytest.raises(DataError, match="between 0 and 1"):
        sampling.inverse_transform(lambda x: x * 0 + 2, 5)
    with pytest.raises(DataError, match="goes to 0.9"):
        sampling.quantile(lambda x: 0.9 * torch.special.ndtr(x), [0.95])
    with pytest.raises(DataError, match="at the end of its support"):
        sampling.quantile(torch.special.ndtr, [0.999], support=(-1, 1))
    with pytest.raises(DataError, match="falls"):
        sampling.inverse_transform(lambda x: torch.where(x < -0.5, 0.0, torch.where(x < 0.55, 1 - x.abs(), 1)), 99)
    with pytest.raises(DataError, match="shape"):
        sampling.inverse_transform(lambda x: x.sum(), 5)
    with pytest.raises(DataError, match="rise from low to high"):
        sampling.inverse_transform(torch.special.ndtr, 5, support=(1, 0))
    with pytest.raises(PlausibleError, match="too sharp"):
        sampling.inverse_density(lambda x: -0.5 * (x / 1e-9).pow(2).sum(1), 5, [-1.1] * 3, [1, 1, 1])
    with pytest.raises(PlausibleError, match="zero at all"):
        sampling.inverse_density(lambda x: x[:, 0] * 0 - math.inf, 5, 0, 1)


# ----------------------------------------------------------------------------------- rejection and importance


def test_rejection_from_a_beta_and_its_rate():
    law = stats.beta(2, 5)
    top = law.logpdf(0.2)
    draws = sampling.rejection(lambda x: law.logpdf(x[:, 0]), stats.uniform(), 5000, log_bound=top, random_state=0)
    assert stats.kstest(draws.flat[:, 0], law.cdf).pvalue > 0.01 and draws.draws.shape == (5000, 1)
    tried = draws.settings["proposals"]
    assert abs(draws.acceptance - math.exp(-top)) < 4 * math.sqrt(0.25 / tried)
    assert not draws.problems()


def test_rejection_from_a_truncated_normal_in_two_dimensions():
    def corner(x):
        return torch.where((x > 0.5).all(1), standard(x), -torch.inf)

    draws = sampling.rejection(
        corner, stats.multivariate_normal(np.zeros(2)), 2000, log_bound=math.log(2 * math.pi), random_state=0
    )
    for d in range(2):
        assert stats.kstest(draws.flat[:, d], stats.truncnorm(0.5, np.inf).cdf).pvalue > 0.01


def test_a_violated_envelope_is_said_and_mended():
    law = stats.beta(2, 5)

    def density(x):
        return law.logpdf(x[:, 0])

    with pytest.warns(PlausibleWarning, match="exceeded the bound 0 by up to 0.89"):
        draws = sampling.rejection(density, stats.uniform(), 5000, log_bound=0.0, random_state=0)
    assert "approximate" in draws.problems()[0]
    assert stats.kstest(draws.flat[:, 0], law.cdf).pvalue > 0.01  # what was accepted under the old bound was thinned
    guessed = sampling.rejection(density, stats.uniform(), 5000, random_state=2)
    assert "guessed" in repr(guessed) and stats.kstest(guessed.flat[:, 0], law.cdf).pvalue > 0.01


def test_what_a_wrong_envelope_let_in_is_thinned():
    calls = []

    def draw(n, rng):  # zeros first, of ratio exp(-1); then ones, of ratio 4
        calls.append(n)
        return torch.full((n, 1), float(len(calls) > 1), dtype=torch.float64)

    with pytest.warns(PlausibleWarning, match="exceeded the bound 0 by up to 1.39"):
        draws = sampling.rejection(
            lambda x: torch.where(x[:, 0] > 0, math.log(4), -1.0), (draw, lambda x: 0 * x[:, 0]), 1000, log_bound=0
        )
    assert calls[0] == 1000 and 40 < (draws.flat == 0).sum() < 150  # 1000 / e / 4, give or take


def test_proposals_of_ones_own():
    pair = (lambda n, rng: torch.rand(n, 2, generator=rng, dtype=torch.float64), lambda x: x[:, 0] * 0)
    draws = sampling.rejection(lambda x: x[:, 0].log(), pair, 3000, log_bound=0, random_state=0)
    assert stats.kstest(draws.flat[:, 0], stats.beta(2, 1).cdf).pvalue > 0.01
    model = pl.Gaussian().fit(np.random.default_rng(0).normal(size=(500, 2)))
    weighted = sampling.importance(standard, model, 5000, random_state=0)
    assert abs(weighted.log_normaliser[0] - math.log(2 * math.pi)) < 0.02 and weighted.ess()[0] > 4000
    with pytest.raises(DataError, match="proposal must be"):
        sampling.importance(standard, torch.distributions.Normal(0, 1), 10)  # it draws from the global generator


def test_rejection_ends():
    with pytest.raises(PlausibleError, match="none of 1,000 proposals"):
        sampling.rejection(standard, stats.norm(), 5, log_bound=50, max_proposals=1000, random_state=0)
    with pytest.raises(PlausibleError, match="zero at all"):
        sampling.rejection(lambda x: x[:, 0] - math.inf, stats.norm(), 5)
    with pytest.warns(PlausibleWarning, match="of 50 draws after max_proposals=100"):
        draws = sampling.rejection(standard, stats.norm(), 50, log_bound=3, max_proposals=100, random_state=0)
    assert 0 < len(draws) < 50


def test_importance_weights_estimates_and_their_errors():
    # p = N(1, 1) from q = N(0, s^2): E[w^2] / E[w]^2 has a closed form, which the effective sample size approaches
    s, n = 1.5, 20_000
    draws = sampling.importance(lambda x: -0.5 * (x[:, 0] - 1) ** 2, stats.norm(0, s), n, random_state=0)
    w = draws.weights
    assert math.isclose(w.sum(), 1) and math.isclose(draws.ess()[0], 1 / (w**2).sum())
    grid = np.linspace(-30, 30, 200_001)
    second = np.trapezoid(stats.norm(1, 1).pdf(grid) ** 2 / stats.norm(0, s).pdf(grid), grid)
    assert abs(draws.ess()[0] / n * second - 1) < 0.05
    mean, error = draws.expect()
    assert abs(mean[0] - 1) < 4 * error[0]
    square, error_2 = draws.expect(lambda x: x[:, 0] ** 2)
    assert abs(square - 2) < 4 * error_2
    value, error_3 = draws.log_normaliser
    assert abs(value - 0.5 * math.log(2 * math.pi)) < 4 * error_3
    assert stats.kstest(draws.resample(2000, random_state=1)[:, 0], stats.norm(1).cdf).pvalue > 0.01
    table = draws.summary(["a"])
    assert abs(table.loc["a", "50%"] - 1) < 0.1 and abs(table.loc["a", "sd"] - 1) < 0.05


def test_errors_of_importance_estimates_cover():
    hits = 0
    for seed in range(200):
        draws = sampling.importance(lambda x: -0.5 * (x[:, 0] - 1) ** 2, stats.norm(0, 1.5), 300, random_state=seed)
        mean, error = draws.expect()
        hits += abs(mean[0] - 1) < 1.96 * error[0]
    assert 180 <= hits <= 199


def test_a_proposal_that_misses_is_said():
    draws = sampling.importance(lambda x: -0.5 * (x[:, 0] - 8) ** 2, stats.norm(), 1000, random_state=0)
    assert "the proposal misses the target" in repr(draws)
    with pytest.raises(PlausibleError, match="zero at all"):
        sampling.importance(lambda x: torch.where(x[:, 0] > 90, 0.0, -torch.inf), stats.norm(), 100)


# ------------------------------------------------------------------------------------------------------- chains


@pytest.mark.parametrize(
    "method, n, settings",
    [("metropolis_hastings", 1500, {}), ("mala", 1000, {}), ("nuts", 100, {"warmup": 100})],
)
def test_chains_find_the_moments_of_correlated_normals(method, n, settings):
    draws = getattr(sampling, method)(normal, MEAN + 1, n, chains=60, random_state=0, **settings)
    x = draws.draws
    for d in range(3):
        assert agree(x[:, :, d], MEAN[d]) and agree((x[:, :, d] - MEAN[d]) ** 2, COVARIANCE[d, d])
    assert agree((x[:, :, 0] - MEAN[0]) * (x[:, :, 2] - MEAN[2]), COVARIANCE[0, 2])
    assert np.allclose(draws.log_density[5], normal(torch.from_numpy(x[5])))
    assert np.array_equal(
        x, getattr(sampling, method)(normal, MEAN + 1, n, chains=60, random_state=0, **settings).draws
    )


@pytest.mark.parametrize(
    "method, n, settings",
    [
        ("metropolis_hastings", 1500, {"scale": 1.0}),
        ("mala", 600, {"step_size": 0.8}),
        ("nuts", 250, {"step_size": 1.5, "warmup": 20}),  # a step so long that most of the work is left to the test
        ("parallel_tempering", 600, {"temperatures": [1.0, 2.0, 4.0]}),
    ],
)
def test_the_kernel_leaves_a_skewed_density_as_it_is(method, n, settings):
    """Chains that begin in the density stay in it, whatever the step: what detailed balance is for."""
    start = np.log(np.random.default_rng(0).gamma(3, size=(300, 1)))
    draws = getattr(sampling, method)(log_gamma, start, n, random_state=1, **{"warmup": 0, **settings})
    x = draws.draws[:, :, 0]
    assert agree(x, psi(3)) and agree((x - psi(3)) ** 2, polygamma(1, 3))
    for at in (n // 2, n - 1):  # one draw of each of 300 independent chains
        assert stats.kstest(np.exp(x[:, at]), stats.gamma(3).cdf).pvalue > 0.005


def test_without_the_test_langevin_is_biased_and_says_so():
    step = 1.0
    draws = sampling.mala(standard, [0.0], 2000, chains=60, warmup=50, step_size=step, adjusted=False, random_state=0)
    assert "biased" in repr(draws)
    # x' = (1 - e^2/2) x + e xi is stationary with variance 1 / (1 - e^2/4)
    assert agree(draws.draws[:, :, 0] ** 2, 1 / (1 - step**2 / 4))
    with pytest.raises(DataError, match="give step_size"):
        sampling.mala(standard, [0.0], 10, adjusted=False)


@pytest.mark.parametrize("sampler", ["metropolis_hastings", "mala", "nuts", "parallel_tempering"])
def test_the_same_seed_gives_the_same_draws(sampler):
    runs = [getattr(sampling, sampler)(normal, MEAN, 20, warmup=20, random_state=s).draws for s in (3, 3, 4)]
    assert np.array_equal(runs[0], runs[1]) and not np.array_equal(runs[0], runs[2])


def test_a_proposal_of_ones_own_with_its_ratio():
    def doubling(x, rng):  # x times or over a log-normal: q(x | y) / q(y | x) = y / x
        y = x * torch.exp(torch.randn(x.shape, generator=rng, dtype=x.dtype))
        return y, (y / x).log()[:, 0]

    start = np.random.default_rng(0).gamma(3, size=(300, 1))
    gamma = sampling.metropolis_hastings(
        lambda x: 2 * x[:, 0].log() - x[:, 0], start, 500, proposal=doubling, warmup=0, random_state=0
    )
    assert agree(gamma.draws[:, :, 0], 3) and stats.kstest(gamma.draws[:, -1, 0], stats.gamma(3).cdf).pvalue > 0.01


def test_leapfrog_is_reversible_and_keeps_volume(rng):
    target, variance = Target(funnel), np.exp(rng.normal(size=(5, 10)))
    x, p = rng.normal(size=(5, 10)), rng.normal(size=(5, 10))
    step = np.full((5, 1), 0.1)

    def walk(x, p, step):
        slope = target.with_gradient(x)[1]
        for _ in range(7):
            x, p, _, slope = leapfrog(target, x, p, slope, step, variance)
        return x, p

    there = walk(x, p, step)
    back = walk(*there, -step)
    assert np.allclose(back[0], x, atol=1e-10) and np.allclose(back[1], p, atol=1e-10)
    one_x, one_p = x[:1], p[:1]

    def flat(v):
        steps = np.full((1, 1), 0.1)
        variance_1 = variance[:1]
        x, p = v[None, :10], v[None, 10:]
        slope = target.with_gradient(x)[1]
        for _ in range(3):
            x, p, _, slope = leapfrog(target, x, p, slope, steps, variance_1)
        return np.concatenate([x[0], p[0]])

    v, h = np.concatenate([one_x[0], one_p[0]]), 1e-5
    jacobian = np.stack([(flat(v + h * e) - flat(v - h * e)) / (2 * h) for e in np.eye(20)], 1)
    assert abs(np.linalg.det(jacobian) - 1) < 1e-5


def test_u_turns_of_all_balanced_subtrees_are_looked_for(rng):
    """The stack against every balanced subtree that ends at a leaf, one by one."""
    trees = _Trees(Target(standard), np.zeros((1, 3)), 5, rng)
    seen = []
    for _ in range(40):
        p = rng.normal(size=(16, 3)) + [0.9, 0, 0]
        trees.sub_rho[:] = 0
        for i in range(16):
            trees.leaf[:] = i
            trees.sub_rho += p[i]
            sizes = [2**k for k in range(1, 5) if (i + 1) % 2**k == 0]
            parts = [p[i + 1 - size : i + 1] for size in sizes]
            inner = [(q, q.sum(0) - 0.5 * (q[0] + q[-1])) for q in parts]
            expected = any(q[0] @ rho <= 0 or q[-1] @ rho <= 0 for q, rho in inner)
            assert trees._closes(p[i : i + 1])[0] == expected
            seen.append(expected)
    assert 20 < sum(seen) < 500


def test_nuts_reports_that_a_funnel_is_not_explored():
    settings = {"chains": 20, "warmup": 100, "max_depth": 5, "random_state": 0}
    draws = sampling.nuts(funnel, np.zeros(10), 40, **settings)
    assert draws.divergences.shape == (20,) and draws.divergences.sum() > 0
    assert "diverged" in repr(draws)
    # in coordinates without the neck there is nothing to report
    calm = sampling.nuts(lambda x: -0.5 * (x[:, 0] / 3) ** 2 + standard(x[:, 1:]), np.zeros(10), 40, **settings)
    assert calm.divergences.sum() == 0


def test_nuts_learns_step_and_metric():
    draws = sampling.nuts(normal, MEAN, 100, chains=10, warmup=250, random_state=0)
    ratio = draws.settings["variance"] / COVARIANCE.diagonal()
    assert 0.7 < np.median(ratio) < 1.4
    assert 0.75 < draws.acceptance.mean() < 0.97
    eager = sampling.nuts(normal, MEAN, 20, chains=10, warmup=150, target_accept=0.95, random_state=0)
    assert eager.settings["step_size"].mean() < draws.settings["step_size"].mean()


def test_nuts_takes_a_gradient_of_ones_own():
    calls = []

    def gradient(x):
        calls.append(len(x))
        return -np.asarray(x)

    draws = sampling.nuts(lambda x: -0.5 * (np.asarray(x) ** 2).sum(1), [0.0], 50, gradient=gradient, random_state=0)
    assert calls and len(draws) == 200
    with pytest.raises(DataError, match="cannot be differentiated"):
        sampling.nuts(lambda x: -0.5 * (x.detach() ** 2).sum(1), [0.0], 50)
    with pytest.raises(DataError, match="cannot be differentiated"):
        sampling.nuts(lambda x: -0.5 * (x.numpy() ** 2).sum(1), [0.0], 50)
    with pytest.raises(DataError, match="must have that shape"):
        sampling.nuts(standard, [0.0], 50, gradient=lambda x: x.sum(1))


def test_short_trees_say_so():
    draws = sampling.nuts(normal, MEAN, 50, max_depth=1, step_size=0.01, warmup=5, random_state=0)
    assert "max_depth=1" in repr(draws) and (draws.settings["mean_leaps"] == 1).all()


def test_tempering_weighs_separated_modes():
    draws = sampling.parallel_tempering(two_modes, [10.0, 10.0], 1000, chains=16, warmup=1000, random_state=0)
    assert agree((draws.draws[:, :, 0] > 0).astype(float), 0.3)
    away = np.where(draws.draws[:, :, 0] > 0, draws.draws[:, :, 0] - 10, draws.draws[:, :, 0] + 10)
    assert agree(away**2, 1.0)
    rates = draws.settings["swap_rates"]
    assert rates.min() > 0.3 and rates.max() - rates.min() < 0.25  # the ladder was spaced
    # one chain without it never leaves the mode it began in
    alone = sampling.metropolis_hastings(two_modes, [10.0, 10.0], 1000, random_state=0)
    assert (alone.flat[:, 0] > 0).all()


def test_a_ladder_that_states_do_not_climb_is_said():
    draws = sampling.parallel_tempering(
        lambda x: 1000 * standard(x), np.zeros(8), 100, temperatures=[1.0, 1e4], random_state=0
    )
    assert "states hardly pass" in repr(draws)
    with pytest.raises(DataError, match="rise from 1"):
        sampling.parallel_tempering(standard, [0.0], 5, temperatures=[2.0, 1.0])


# -------------------------------------------------------------------------------------------------------- Gibbs


def test_gibbs_from_conditionals():
    def other(d):
        return lambda x, rng: 0.9 * x[:, 1 - d] + math.sqrt(0.19) * torch.randn(len(x), generator=rng, dtype=x.dtype)

    draws = sampling.gibbs([other(0), other(1)], [0.0, 0.0], 500, chains=60, random_state=0)
    x = draws.draws
    assert agree(x[:, :, 0] * x[:, :, 1], 0.9) and agree(x[:, :, 1] ** 2, 1)

    def both(x, rng):
        return torch.randn(len(x), 2, generator=rng, dtype=x.dtype) @ torch.tensor([[1, 0.9], [0, 0.19**0.5]]).double()

    block = sampling.gibbs([([0, 1], both)], [0.0, 0.0], 500, chains=60, log_density=standard, random_state=0)
    assert agree(block.draws[:, :, 0] * block.draws[:, :, 1], 0.9)
    assert np.allclose(block.log_density, -0.5 * (block.draws**2).sum(2))
    with pytest.raises(DataError, match="no conditional draws coordinate 1"):
        sampling.gibbs([other(0)], [0.0, 0.0], 5)
    with pytest.raises(DataError, match="must return"):
        sampling.gibbs([lambda x, rng: x, other(1)], [0.0, 0.0], 5, chains=3)


@examples(st.integers(0, 10_000))
def test_gibbs_over_levels_against_enumeration(seed):
    levels = [2, 3, [-1.0, 0.5]]
    table = np.random.default_rng(seed).normal(size=(2, 3, 2)) * 1.5
    places = np.array([-1.0, 0.5])

    def log_p(x):
        x = x.numpy()
        return table[x[:, 0].astype(int), x[:, 1].astype(int), np.searchsorted(places, x[:, 2])]

    draws = sampling.gibbs_discrete(log_p, levels, [0, 0, 0.5], 30, chains=400, warmup=20, random_state=seed)
    p = np.exp(table) / np.exp(table).sum()
    last = draws.draws[:, -1]  # of 400 independent chains
    counts = np.zeros(table.shape)
    np.add.at(counts, (last[:, 0].astype(int), last[:, 1].astype(int), np.searchsorted(places, last[:, 2])), 1)
    expected = 400 * p.reshape(-1)
    chi2 = ((counts.reshape(-1) - expected) ** 2 / expected).sum()
    assert chi2 < stats.chi2(11).ppf(1 - 1e-5)


def test_gibbs_with_integers_and_reals_between_levels():
    # k ~ Poisson(4) cut at nothing, b | k, y | b ~ N(3 b, 0.5^2)
    def log_p(x):
        k, b, y = x.T
        law = k * math.log(4) - torch.lgamma(k.clamp_min(0) + 1)
        law = torch.where(k >= 0, law, -torch.inf)
        return law + b * (k - 4) * 0.5 - 2 * (y - 3 * b) ** 2

    draws = sampling.gibbs_discrete(log_p, ["integer", 2, None], [4, 0, 0.0], 600, chains=100, random_state=0)
    k = np.arange(60)
    joint = np.array([stats.poisson(4).pmf(k), stats.poisson(4).pmf(k) * np.exp(0.5 * (k - 4))])
    joint /= joint.sum()
    x = draws.draws
    assert agree(x[:, :, 0], (joint.sum(0) * k).sum()) and agree(x[:, :, 1], joint[1].sum())
    assert agree(x[:, :, 2], 3 * joint[1].sum()) and (x[:, :, 0] == x[:, :, 0].round()).all()
    with pytest.raises(DataError, match="none of its levels"):
        sampling.gibbs_discrete(log_p, 2, [4, 0, 0.0], 5)
    with pytest.raises(DataError, match="levels must say"):
        sampling.gibbs_discrete(log_p, [2, 2], [0, 0, 0], 5)


# --------------------------------------------------------------------------------------------------- diagnostics


def autoregressive(chains: int, n: int, rho: float, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    x = np.empty((chains, n))
    x[:, 0] = rng.standard_normal(chains)
    for t in range(1, n):
        x[:, t] = rho * x[:, t - 1] + math.sqrt(1 - rho**2) * rng.standard_normal(chains)
    return x


def test_effective_sample_size_of_a_known_autocorrelation():
    for rho in (0.0, 0.5, 0.9):
        x = autoregressive(8, 5000, rho, seed=1)
        truth = x.size * (1 - rho) / (1 + rho)
        draws = sampling.Draws("test", x[:, :, None], np.zeros(x.shape))
        assert 0.85 < draws.ess()[0] / truth < 1.15
        assert abs(draws.standard_error()[0] * math.sqrt(truth) - 1) < 0.1
        assert draws.r_hat()[0] < 1.01


def test_r_hat_by_its_definition():
    """The formulas of Vehtari et al. (2021), section 3, written out."""
    x = autoregressive(4, 1000, 0.3, seed=2)
    x[3] += 0.4
    halves = x.reshape(8, 500)

    def r_hat(values):
        z = stats.norm.ppf((stats.rankdata(values).reshape(values.shape) - 3 / 8) / (values.size + 1 / 4))
        within, between = z.var(1, ddof=1).mean(), 500 * z.mean(1).var(ddof=1)
        return math.sqrt((499 / 500 * within + between / 500) / within)

    truth = max(r_hat(halves), r_hat(np.abs(halves - np.median(halves))))
    draws = sampling.Draws("test", x[:, :, None], np.zeros(x.shape))
    assert math.isclose(draws.r_hat()[0], truth, rel_tol=1e-9) and truth > 1.01
    assert any("chains disagree" in p for p in draws.problems())
    # chains of equal mean and unequal spread are caught by the folded one
    wide = np.concatenate([x[:3], 4 * x[:1]])
    assert sampling.Draws("test", wide[:, :, None], np.zeros(x.shape)).r_hat()[0] > 1.05


def test_a_single_chain_is_held_against_itself():
    drifting = np.linspace(0, 3, 400)[None, :, None] + np.random.default_rng(0).normal(size=(1, 400, 1))
    assert sampling.Draws("test", drifting, np.zeros((1, 400))).r_hat()[0] > 1.2


def test_the_summary_is_a_table():
    draws = sampling.nuts(normal, MEAN, 100, chains=4, warmup=200, random_state=0)
    table = draws.summary(["a", "b", "c"])
    assert list(table.index) == ["a", "b", "c"] and {"mean", "sd", "ess bulk", "ess tail", "r_hat"} <= set(table)
    assert np.allclose(table["mean"], draws.flat.mean(0)) and draws.flat.shape == (400, 3)
    assert "NUTS: 4 chains of 100 draws in 3 dimensions" in repr(draws)
    with pytest.raises(DataError, match="names"):
        draws.summary(["a"])


# ----------------------------------------------------------------------------------------------------- bad input

CHAINS = [
    sampling.metropolis_hastings,
    sampling.mala,
    sampling.nuts,
    sampling.parallel_tempering,
    lambda f, start, n, **kw: sampling.gibbs_discrete(f, None, start, n, **kw),
]


@pytest.mark.parametrize("sampler", CHAINS)
def test_chains_refuse_what_cannot_be_sampled(sampler):
    with pytest.raises(DataError, match="density zero"):
        sampler(lambda x: torch.where(x[:, 0] > 5, standard(x), -torch.inf), [0.0], 10)
    with pytest.raises(DataError, match="NaN"):
        sampler(lambda x: standard(x) * torch.nan, [0.0], 10)
    with pytest.raises(DataError, match="inf"):
        sampler(lambda x: standard(x) + torch.inf, [0.0], 10)
    with pytest.raises(DataError, match="must return one number each"):
        sampler(lambda x: x, [0.0, 0.0], 10)
    with pytest.raises(DataError, match="n must be an integer of at least 1"):
        sampler(standard, [0.0], 0)
    with pytest.raises(DataError, match="warmup"):
        sampler(standard, [0.0], 10, warmup=-1)
    with pytest.raises(DataError, match="start must be"):
        sampler(standard, 0.0, 10)
    with pytest.raises(DataError, match="start holds NaN"):
        sampler(standard, [np.nan], 10)
    with pytest.raises(DataError, match="2 points for 3 chains"):
        sampler(standard, [[0.0], [1.0]], 10, chains=3)


def test_nan_on_the_way_is_refused_where_it_is_no_accident():
    def broken(x):
        return torch.where(x[:, 0].abs() < 1, standard(x), torch.nan)

    with pytest.raises(DataError, match="log_density is NaN at"):
        sampling.metropolis_hastings(broken, [0.0], 500, random_state=0)
    draws = sampling.nuts(broken, [0.0], 100, random_state=0)  # there the trajectory ends, as at the edge of a support
    assert (np.abs(draws.flat) < 1).all() and draws.divergences.sum() > 0


class Stopping:
    """A log-density during whose evaluation Ctrl-C is pressed."""

    def __init__(self, after: int):
        self.left = after

    def __call__(self, x):
        self.left -= 1
        if self.left == 0:
            raise KeyboardInterrupt
        return standard(x)


@pytest.mark.parametrize("sampler", CHAINS)
def test_an_interrupt_keeps_what_was_drawn(sampler):
    with pytest.warns(InterruptedWarning, match="draws of each chain were kept"):
        draws = sampler(Stopping(300), [0.0], 100_000, warmup=10, random_state=0)
    assert 1 <= draws.draws.shape[1] <= 300 and draws.log_density.shape == draws.draws.shape[:2]
    assert np.isfinite(draws.draws).all() and "interrupted" in repr(draws)
    with pytest.raises(KeyboardInterrupt):
        sampler(Stopping(20), [0.0], 100, warmup=10_000, random_state=0)


def test_nothing_global_is_touched():
    before = torch.random.get_rng_state(), np.random.get_state()[1].copy()
    sampling.nuts(standard, [0.0], 5, warmup=5)
    sampling.rejection(standard, stats.norm(), 5, log_bound=1)
    sampling.parallel_tempering(standard, [0.0], 5)
    assert torch.equal(before[0], torch.random.get_rng_state()) and (before[1] == np.random.get_state()[1]).all()


# ------------------------------------------------------------------------------------------- models as targets


@pytest.fixture(scope="module")
def gaussian():
    X = stats.multivariate_normal([10, -3, 0.5], [[4, 1.5, 0.1], [1.5, 1, 0.0], [0.1, 0.0, 0.01]]).rvs(
        400, random_state=0
    )
    return pl.Gaussian().fit(X), X


@pytest.mark.parametrize("method", [None, "metropolis_hastings", "mala"])
def test_a_model_given_a_part_against_its_closed_form(gaussian, method):
    model, X = gaussian
    mean, covariance = X.mean(0), np.cov(X.T, bias=True)
    known = np.array([[13.0, np.nan, np.nan]])
    found = chains.sample(model, 300 if method else 100, known, chains=20, warmup=150, method=method, random_state=0)
    truth = mean[1:] + covariance[1:, 0] / covariance[0, 0] * (13 - mean[0])
    rest = covariance[1:, 1:] - np.outer(covariance[1:, 0], covariance[0, 1:]) / covariance[0, 0]
    drawn = found.examples.reshape(20, -1, 3)
    assert (found.examples[:, 0] == 13.0).all() and found.names == ["x1", "x2"]
    for d in range(2):
        assert agree(drawn[:, :, d + 1], truth[d]) and agree((drawn[:, :, d + 1] - truth[d]) ** 2, rest[d, d])
    assert "approximate" in repr(found) and "acceptance" in repr(found)


def test_a_model_of_mixed_columns_by_gibbs():
    rng = np.random.default_rng(1)
    group = rng.integers(0, 2, 300)
    df = pd.DataFrame(
        {"flag": rng.random(300) < 0.2 + 0.6 * group, "visits": rng.poisson(40 + 4 * group), "size": rng.normal(group)}
    )
    model = pl.Mixture(n_components=2, random_state=0).fit(df)
    found = chains.sample(model, 300, pd.DataFrame({"size": [1.0]}), chains=40, warmup=150, random_state=0)
    # p(flag, visits | size), by the density at every flag and every number of visits
    grid = pd.DataFrame(list(itertools.product([False, True], range(0, 140))), columns=["flag", "visits"])
    p = np.exp(model.log_prob(grid.assign(size=1.0)))
    p /= p.sum()
    assert agree(found.examples["flag"].to_numpy(dtype=float).reshape(40, -1), p[grid["flag"]].sum())
    assert agree(found.examples["visits"].to_numpy(dtype=float).reshape(40, -1), (p * grid["visits"]).sum())
    assert list(found.examples.columns) == list(df.columns) and (found.examples["size"] == 1.0).all()
    assert found.examples["visits"].dtype == df["visits"].dtype
    with pytest.raises(DataError, match="'flag' is discrete"):
        chains.sample(model, 10, pd.DataFrame({"size": [1.0]}), method="nuts")


def test_whole_examples_of_a_model(gaussian):
    model, X = gaussian
    found = chains.sample(model, 50, chains=20, warmup=60, random_state=0)
    assert agree(found.examples[:, 1].reshape(20, -1), X[:, 1].mean())
    assert found.examples.shape == (1000, 3)


def test_a_target_is_a_target_for_any_sampler(gaussian):
    target = chains.target(gaussian[0])
    z = target.start(50, random_state=0)
    log_p = target(torch.from_numpy(z)).numpy()
    x = target.decode(z)
    away = gaussian[0].log_prob(x) - log_p
    assert np.allclose(away, away[0])  # the log-determinant of the standardisation
    draws = sampling.parallel_tempering(target, z[:4], 50, random_state=0)
    assert draws.draws.shape == (4, 50, 3)


def test_models_that_chains_cannot_be_run_on(gaussian):
    model, X = gaussian
    vae = pl.VAE(epochs=1, random_state=0).fit(X[:50])
    with pytest.raises(CapabilityError, match="lower_bound"):
        chains.target(vae)
    with pytest.raises(DataError, match="all cells are known"):
        chains.target(model, X[:1])
    with pytest.raises(DataError, match="one partly known example"):
        chains.target(model, X[:2])
    counted = pl.Gaussian().fit(np.random.default_rng(0).integers(0, 2, (50, 2)))
    with pytest.raises(CapabilityError, match="noise"):
        chains.target(counted, [[0, np.nan]])


def test_the_tests_of_warnings_are_quiet():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        sampling.nuts(funnel, np.zeros(10), 20, warmup=20, random_state=0).summary()
