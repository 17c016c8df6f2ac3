"""Densities written down directly, against scipy, scikit-learn, numpy and sums over all there is."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import integrate, stats
from scipy.special import logsumexp
from sklearn.mixture import GaussianMixture

from plausible.data.stream import Stream
from plausible.errors import DataError
from plausible.families.direct import _normal
from plausible.families.direct.gaussian import Gaussian
from plausible.families.direct.histogram import Histogram
from plausible.families.direct.independent import Independent
from plausible.families.direct.mixture import Mixture

TRUTH = stats.multivariate_normal([10, -3, 0.5], [[4, 1.5, 0.1], [1.5, 1, 0.0], [0.1, 0.0, 0.01]])


def gaussians(n: int = 400, seed: int = 0) -> np.ndarray:
    return TRUTH.rvs(n, random_state=seed)


def clusters(n: int = 600, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    centres = np.array([[-4, 0], [3, 3], [4, -4]])
    group = rng.integers(0, 3, n)
    return centres[group] + rng.normal(size=(n, 2)) @ [[1, 0.5], [0, 0.7]] * np.array([0.6, 1, 1.2])[group, None]


def mixed_frame(n: int = 300, seed: int = 0) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    group = rng.integers(0, 3, n)
    return pd.DataFrame(
        {
            "flag": rng.random(n) < 0.2 + 0.3 * group,
            "colour": np.array(list("rgb"))[(group + (rng.random(n) < 0.2)) % 3],
            "grade": pd.Categorical(rng.integers(0, 3, n) + 0, categories=[0, 1, 2], ordered=True),
            "visits": rng.poisson(6 + 25 * group),
            "length": rng.normal(group, 0.5),
        }
    )


def holed(X: np.ndarray, share: float = 0.25, seed: int = 1) -> np.ndarray:
    """X with cells missing at random, at least one left in every row."""
    missing = np.random.default_rng(seed).random(X.shape) < share
    missing[np.arange(len(X)), np.arange(len(X)) % X.shape[1]] = False
    return np.where(missing, np.nan, X)


def mass_of_levels(model, columns) -> float:
    """Sum of the probabilities of all rows of the given levels."""
    return np.exp(model.log_prob(np.array(list(itertools.product(*columns)), dtype=float))).sum()


def repeated(X, weight):
    rows = np.repeat(np.arange(len(X)), weight)
    return X.iloc[rows].reset_index(drop=True) if isinstance(X, pd.DataFrame) else X[rows]


def falls(history: pd.DataFrame, slack: float = 1e-9) -> bool:
    return bool((history["loss"].diff().dropna() <= slack).all())


# ---------------------------------------------------------------------------------------------------- independent


def test_independent_levels_have_their_smoothed_frequencies(rng):
    X = pd.DataFrame({"a": rng.choice(list("xyz"), 200, p=[0.6, 0.3, 0.1]), "b": rng.integers(0, 2, 200)})
    model = Independent().fit(X)
    expected = sum(np.log((X[c].map(X[c].value_counts()) + 0.5) / (200 + 0.5 * X[c].nunique())) for c in X)
    assert np.allclose(model.log_prob(X), expected)
    assert model.likelihood_kind_ == "exact" and model.space_.measure == "counting"


def test_independent_with_one_component_is_a_product_of_normals():
    X = gaussians()
    model = Independent(components=1).fit(X)
    assert np.allclose(model.log_prob(X), stats.norm.logpdf(X, X.mean(0), X.std(0)).sum(1))
    half = holed(X)
    mean, std = np.nanmean(half, 0), np.nanstd(half, 0)
    model = Independent(components=1).fit(half)
    assert np.allclose(model.log_prob(half), np.nansum(stats.norm.logpdf(half, mean, std), 1))


def test_independent_counts_are_a_discretised_normal_with_all_mass_on_the_integers(rng):
    X = pd.DataFrame({"n": rng.poisson(40, 500)})
    model = Independent(components=1).fit(X)
    k = np.arange(0, 400)
    mean, std = X.n.mean(), math.sqrt(X.n.var(ddof=0) - 1 / 12)
    upper, lower = stats.norm.cdf(k + 0.5, mean, std), stats.norm.cdf(k - 0.5, mean, std)
    lower[0] = 0
    found = np.exp(model.log_prob(pd.DataFrame({"n": k})))
    assert np.allclose(found, upper - lower, atol=1e-9)
    assert found.sum() == pytest.approx(1, abs=1e-9)


@pytest.mark.parametrize("low", [0, -60])
def test_independent_mixtures_of_counts_sum_to_one(low, rng):
    X = pd.DataFrame({"n": np.maximum(rng.poisson(3 + 40 * rng.integers(0, 2, 500)) + low, low)})
    model = Independent(components=4).fit(X)
    every = pd.DataFrame({"n": np.arange(low and -3000, 3000)})
    assert np.exp(model.log_prob(every)).sum() == pytest.approx(1, abs=1e-9)


@pytest.mark.parametrize("family", [Independent, Mixture])
def test_fine_levels_are_a_lattice_with_all_mass_between_its_ends(family, rng):
    X = np.stack([rng.binomial(40, 0.9, 300), rng.binomial(40, 0.05, 300)], 1).astype(float)
    model = family(space={"x0": "ordinal", "x1": "ordinal"}, random_state=0).fit(np.vstack([X, [[0, 40], [40, 0]]]))
    assert mass_of_levels(model, [range(41)] * 2) == pytest.approx(1, abs=1e-9)


def test_a_repeated_real_is_no_spike_without_bound(rng):
    X = np.concatenate([np.full((100, 1), 50.0), rng.normal(size=(100, 1))])
    highest = Independent(components=5).fit(X).log_prob(X).max()
    assert highest < stats.norm.logpdf(0, 0, 1e-3 * X.std()) + 1e-9


def test_independent_fits_a_column_as_well_as_scikit_learn_and_its_density_integrates_to_one(rng):
    X = np.concatenate([rng.normal(-3, 0.5, (300, 1)), rng.exponential(2, (300, 1))])
    model = Independent(components=5).fit(X)
    theirs = GaussianMixture(5, n_init=3, random_state=0).fit(X)
    assert model.score(X) > theirs.score(X) - 0.1  # theirs is the best of three starts
    mass, _ = integrate.quad(lambda v: math.exp(model.log_prob([[v]])[0]), -12, 30, limit=200, epsabs=1e-7)
    assert mass == pytest.approx(1, abs=1e-5)
    drawn = model.sample(4000, random_state=0)[:, 0]
    weight = model.module_.log_weights.exp().numpy()[0]
    shift, scale = model.transforms_.steps[0].shift.item(), model.transforms_.steps[0].scale.item()
    mean, std = model.module_.mean.numpy()[0] * scale + shift, model.module_.deviation.numpy()[0] * scale
    assert stats.kstest(drawn, lambda v: (weight * stats.norm.cdf(v[:, None], mean, std)).sum(1)).pvalue > 1e-3


def test_independent_knows_no_dependence():
    X = mixed_frame()
    model = Independent(random_state=0).fit(X)
    shuffled = X.apply(lambda c: c.sample(frac=1, random_state=3).to_numpy())
    assert model.log_prob(X).sum() == pytest.approx(model.log_prob(shuffled).sum())
    drawn = model.sample(3000, random_state=0)
    assert abs(np.corrcoef(drawn["visits"], drawn["length"])[0, 1]) < 4 / math.sqrt(3000)
    p = X["colour"].value_counts(normalize=True)
    assert np.allclose(drawn["colour"].value_counts(normalize=True)[p.index], p, atol=0.03)


def test_independent_weights_are_repetitions(rng):
    X = mixed_frame(80)
    weight = rng.integers(0, 4, 80)
    a = Independent(components=3).fit(X, sample_weight=weight)
    b = Independent(components=3).fit(repeated(X, weight))
    assert np.allclose(a.log_prob(X), b.log_prob(X))


# ------------------------------------------------------------------------------------------------------- gaussian


def test_gaussian_is_the_maximum_likelihood_normal_of_scipy():
    X = gaussians()
    model = Gaussian().fit(X)
    truth = stats.multivariate_normal(X.mean(0), np.cov(X.T, bias=True))
    assert np.allclose(model.log_prob(X), truth.logpdf(X))
    assert model.n_parameters_ == 3 + 6
    assert np.allclose(Gaussian().fit(X * 1000).log_prob(X * 1000), model.log_prob(X) - 3 * math.log(1000))


def test_gaussian_draws_have_its_moments():
    X = gaussians()
    drawn = Gaussian().fit(X).sample(20_000, random_state=0)
    white = np.linalg.solve(np.linalg.cholesky(np.cov(X.T, bias=True)), (drawn - X.mean(0)).T).T
    assert np.abs(white.mean(0)).max() < 4 / math.sqrt(20_000)
    assert np.abs(np.cov(white.T) - np.eye(3)).max() < 0.04
    assert stats.kstest(white.ravel(), "norm").pvalue > 1e-3


def test_gaussian_weights_are_repetitions(rng):
    X = holed(gaussians(120))
    weight = rng.integers(0, 4, 120)
    a, b = Gaussian(max_iter=20).fit(X, sample_weight=weight), Gaussian(max_iter=20).fit(repeated(X, weight))
    assert np.allclose(a.log_prob(X), b.log_prob(X), atol=1e-6)


def test_gaussian_integrates_missing_cells_out():
    X = gaussians()
    model = Gaussian().fit(X)
    mean, covariance = X.mean(0), np.cov(X.T, bias=True)
    rows = holed(X[:60], share=0.5)
    rows[0] = np.nan
    found = model.log_prob(rows)
    assert found[0] == 0
    for row, log_p in list(zip(rows, found, strict=True))[1:]:
        o = ~np.isnan(row)
        assert log_p == pytest.approx(stats.multivariate_normal(mean[o], covariance[np.ix_(o, o)]).logpdf(row[o]))


def test_gaussian_em_climbs_to_where_the_slope_is_zero():
    X = holed(gaussians(300), share=0.35)
    model = Gaussian(max_iter=500).fit(X)
    assert len(model.history_) > 5 and falls(model.history_)
    whole = X[~np.isnan(X).any(1)]
    complete_cases = Gaussian().fit(whole)
    assert model.score(X) > complete_cases.score(X)
    z = model.transforms_(torch.from_numpy(X))[0]
    mean = model.module_.mean.clone().requires_grad_()
    factor = torch.linalg.cholesky(model.module_.covariance).requires_grad_()
    _normal.log_marginal(z, mean, factor @ factor.T).mean().backward()
    assert mean.grad.abs().max() < 1e-3 and factor.grad.tril().abs().max() < 1e-3


def test_gaussian_em_finds_the_closed_form_of_a_monotone_pattern():
    """x is always there, y is missing where x is large: the regression of y on x fills the gap (Anderson, 1957)."""
    rng = np.random.default_rng(0)
    x = rng.normal(5, 2, 500)
    y = 1 + 0.8 * x + rng.normal(0, 0.5, 500)
    there = x < 6
    (slope, start), spread = np.polyfit(x[there], y[there], 1), None
    spread = (y[there] - start - slope * x[there]).var()
    mean = np.array([x.mean(), start + slope * x.mean()])
    covariance = x.var() * np.array([[1, slope], [slope, slope**2]]) + [[0, 0], [0, spread]]
    model = Gaussian(max_iter=2000).fit(np.stack([x, np.where(there, y, np.nan)], 1))
    grid = rng.normal(5, 3, (50, 2))
    truth = stats.multivariate_normal(mean, covariance).logpdf(grid)
    assert np.allclose(model.log_prob(grid), truth, rtol=1e-3, atol=1e-3)


def test_gaussian_on_levels_is_a_bound_whose_weighted_estimate_sums_to_one(rng):
    X = rng.binomial(4, 0.3, (500, 1)) + rng.integers(0, 2, (500, 2))
    model = Gaussian(random_state=0).fit(X)
    assert model.likelihood_kind_ == "lower_bound"
    every = np.array(list(itertools.product(range(X.min(), X.max() + 1), repeat=2)))
    estimate = model.log_prob(every, importance_samples=400)
    assert np.exp(estimate).sum() == pytest.approx(1, abs=0.02)
    assert (model.log_prob(every) < estimate + 0.3).all() and model.log_prob(every).mean() < estimate.mean() - 0.5


def test_gaussian_survives_equal_columns_and_fewer_rows_than_columns(rng):
    x = rng.normal(size=(50, 1))
    assert np.isfinite(Gaussian().fit(np.hstack([x, x])).log_prob(np.hstack([x, x]))).all()
    X = rng.normal(size=(4, 8))
    assert np.isfinite(Gaussian().fit(X).log_prob(X)).all()


def test_gaussian_from_a_stream_is_that_from_memory(tmp_path):
    X = pd.DataFrame(gaussians(500), columns=list("abc"))
    X.to_csv(tmp_path / "x.csv", index=False)
    streamed = Gaussian().fit(Stream(tmp_path / "x.csv", chunk=70))
    assert np.allclose(streamed.log_prob(X), Gaussian().fit(X).log_prob(X), atol=1e-8)


# -------------------------------------------------------------------------------------------------------- mixture


def user_units(model):
    """Weights, means and covariances of a mixture of reals, in the units of the data."""
    s, m = model.transforms_.steps[0], model.module_
    scale, shift = s.scale.numpy(), s.shift.numpy()
    return (
        m.log_weights.exp().numpy(),
        m.law.centre.numpy() * scale + shift,
        m.law.covariance.numpy() * np.outer(scale, scale),
    )


def test_mixture_is_that_of_scikit_learn_at_the_same_parameters():
    X = clusters()
    model = Mixture(n_components=3, random_state=0).fit(X)
    weights, means, covariances = user_units(model)
    theirs = GaussianMixture(3)
    theirs.weights_, theirs.means_, theirs.covariances_ = weights, means, covariances
    theirs.precisions_cholesky_ = np.linalg.inv(np.linalg.cholesky(covariances)).transpose(0, 2, 1)
    assert np.allclose(model.log_prob(X), theirs.score_samples(X))
    assert model.n_parameters_ == theirs._n_parameters() == 17
    assert np.allclose(np.sort(means[:, 0]), [-4, 3, 4], atol=0.3)


@pytest.mark.parametrize("covariance", ["full", "diagonal"])
def test_mixture_reaches_the_likelihood_of_scikit_learn(covariance):
    X = clusters()
    model = Mixture(n_components=3, covariance=covariance, prior=0, tol=1e-8, random_state=0).fit(X)
    theirs = GaussianMixture(3, covariance_type=covariance[:4], n_init=3, tol=1e-8, max_iter=500, random_state=0).fit(X)
    assert model.score(X) == pytest.approx(theirs.score(X), abs=1e-3)
    assert falls(model.history_)


def test_mixture_em_never_goes_down(rng):
    bits = (rng.random((300, 6)) < rng.random((3, 6))[rng.integers(0, 3, 300)]).astype(float)
    grades = rng.integers(0, 4, (300, 3)) * rng.integers(0, 2, (300, 1))
    for X in (bits, holed(bits), grades, holed(clusters(300)), np.hstack([clusters(300), bits])):
        for covariance in ("full", "diagonal"):
            options = {"prior": 0.0, "tol": 0.0, "n_init": 1, "max_iter": 25, "covariance": covariance}
            assert falls(Mixture(n_components=3, random_state=0, **options).fit(X).history_, 1e-6)


def test_one_component_is_the_gaussian_and_the_product():
    X = clusters()
    assert np.allclose(Mixture(n_components=1, prior=0).fit(X).log_prob(X), Gaussian().fit(X).log_prob(X), atol=1e-4)
    diagonal = Mixture(n_components=1, prior=0, covariance="diagonal").fit(X)
    assert np.allclose(diagonal.log_prob(X), Independent(components=1).fit(X).log_prob(X), atol=1e-4)


def test_mixtures_of_levels_sum_to_one_and_marginalise_by_sums(rng):
    for levels in (2, 3):
        X = (rng.integers(0, levels, (200, 1)) + (rng.random((200, 5)) < 0.3)) % levels
        model = Mixture(n_components=4, random_state=0).fit(X)
        assert mass_of_levels(model, [range(levels)] * 5) == pytest.approx(1, abs=1e-9)
        rows = holed(X[:20].astype(float), 0.5)
        for row, log_p in zip(rows, model.log_prob(rows), strict=True):
            filled = itertools.product(*[range(levels) if np.isnan(v) else [v] for v in row])
            assert log_p == pytest.approx(logsumexp(model.log_prob(np.array(list(filled), dtype=float))))


@pytest.mark.parametrize("covariance", ["full", "diagonal"])
def test_mixture_of_mixed_columns_has_mass_one_and_marginalises_by_integrals(covariance):
    X = mixed_frame().drop(columns="grade")
    model = Mixture(n_components=3, covariance=covariance, random_state=0).fit(X)
    length = np.linspace(-6, 8, 281)
    visits = np.arange(0, 200)

    def mass(flags, colours, counts, lengths):
        grid = pd.MultiIndex.from_product([flags, colours, counts, lengths], names=X.columns).to_frame(index=False)
        return np.exp(logsumexp(model.log_prob(grid))) * (0.05 if len(lengths) > 1 else 1)

    assert mass([True, False], list("rgb"), visits, length) == pytest.approx(1, abs=1e-4)
    row = X.iloc[[0]].astype(object)
    options = {"flag": [True, False], "colour": list("rgb"), "visits": visits, "length": length}
    for hidden in ([], ["colour"], ["length"], ["visits", "flag"], ["length", "colour"]):
        partly = row.copy()
        partly[hidden] = None
        expected = mass(*[options[c] if c in hidden else [row[c].iloc[0]] for c in X.columns])
        partly = partly.astype({"visits": float, "length": float})
        assert math.exp(model.log_prob(partly)[0]) == pytest.approx(expected, rel=1e-3)


def test_missing_reals_of_a_mixture_are_integrated_out():
    X = clusters()
    model = Mixture(n_components=3, random_state=0).fit(X)
    weights, means, covariances = user_units(model)
    rows = np.array([[0.5, np.nan], [np.nan, -2.0], [np.nan, np.nan], [1.0, 2.0]])
    for d, row in enumerate(rows[:2]):
        p = weights @ stats.norm.pdf(row[d], means[:, d], np.sqrt(covariances[:, d, d]))
        assert model.log_prob(rows)[d] == pytest.approx(math.log(p))
    assert model.log_prob(rows)[2] == pytest.approx(0, abs=1e-9)
    assert model.log_prob(rows)[3] == pytest.approx(model.log_prob(rows[3:])[0])


@pytest.mark.parametrize("covariance", ["full", "diagonal"])
def test_a_mixture_fitted_with_holes_finds_the_clusters(covariance):
    X = clusters(900)
    partly = Mixture(n_components=3, covariance=covariance, random_state=0).fit(holed(X, 0.2))
    whole = Mixture(n_components=3, covariance=covariance, random_state=0).fit(X)
    fresh = clusters(900, seed=5)
    assert partly.score(fresh) == pytest.approx(whole.score(fresh), abs=0.05)


def test_mixture_draws_follow_it():
    model = Mixture(n_components=3, random_state=0).fit(clusters())
    weights, means, covariances = user_units(model)
    drawn = model.sample(5000, random_state=0)
    for direction in ([1, 0], [0, 1], [1, 1], [1, -1]):
        std = np.sqrt(np.einsum("i,kij,j->k", direction, covariances, direction))
        cdf = lambda v, m=means @ direction, s=std: (weights * stats.norm.cdf(v[:, None], m, s)).sum(1)  # noqa: E731
        assert stats.kstest(drawn @ direction, cdf).pvalue > 1e-3


def test_draws_of_mixed_columns_follow_their_probabilities():
    X = mixed_frame()[["flag", "colour", "visits"]]
    model = Mixture(n_components=3, random_state=0).fit(X)
    drawn = model.sample(20_000, random_state=0)
    cells = pd.MultiIndex.from_product([[True, False], list("rgb"), np.arange(200)], names=X.columns).to_frame(
        index=False
    )
    p = np.exp(model.log_prob(cells))
    found = drawn.groupby(list(X.columns)).size().reindex(pd.MultiIndex.from_frame(cells), fill_value=0).to_numpy()
    often = p * 20_000 > 5
    expected = np.append(p[often], p[~often].sum()) * 20_000
    assert stats.chisquare(np.append(found[often], found[~often].sum()), expected, sum_check=False).pvalue > 1e-3


@pytest.mark.parametrize("covariance", ["full", "diagonal"])
def test_no_component_collapses_on_a_repeated_row(covariance, rng):
    X = np.concatenate([np.zeros((40, 2)), rng.normal(size=(60, 2))])
    model = Mixture(n_components=6, covariance=covariance, random_state=0).fit(X)
    assert np.isfinite(model.log_prob(X)).all() and model.log_prob(X).max() < 8
    bits = np.repeat(np.eye(4), 10, 0)
    assert np.isfinite(Mixture(n_components=6, random_state=0).fit(bits).log_prob(1 - bits)).all()


def test_more_components_than_rows_are_refused():
    with pytest.raises(DataError, match=r"n_components=10.*n_samples=4; use fewer components"):
        Mixture().fit(clusters(4))


@pytest.mark.parametrize("holes", [False, True])
def test_a_weight_counts_as_a_repetition_in_every_step_of_em(holes, rng):
    X = clusters(60)
    X = np.hstack([holed(X) if holes else X, rng.integers(0, 3, (60, 1))])
    X[:2, :2] = [[0.1, 0.2], [0.3, 0.4]]
    model = Mixture(n_components=3, random_state=0).fit(X)
    weight = rng.integers(0, 4, 60)
    z = model.transforms_(model.space_.encode(X))[0]
    states = []
    start = {k: v.clone() for k, v in model.module_.state_dict().items()}
    for x, w in ((z, torch.from_numpy(weight).double()), (torch.from_numpy(repeated(z.numpy(), weight)), None)):
        model.module_.load_state_dict(start)
        model.module_.look(x, w)
        loss = model.module_.summarise(x, w)
        model.module_.update()
        states.append({"loss": loss, **{k: v.clone() for k, v in model.module_.state_dict().items()}})
    for name in states[0]:
        assert torch.allclose(states[0][name], states[1][name]), name


# ------------------------------------------------------------------------------------------------------ histogram


def test_histogram_is_that_of_numpy_where_there_are_rows(rng):
    X = rng.normal(size=(20_000, 1))
    model = Histogram(bins=20).fit(X)
    density, edges = np.histogram(X, 20, density=True)
    middle = (edges[:-1] + edges[1:])[:, None] / 2
    full = density * np.diff(edges) * len(X) > 200
    assert np.allclose(np.exp(model.log_prob(middle[full])), density[full], rtol=0.01)


def test_histogram_of_two_columns_is_its_formula(rng):
    X = np.stack([rng.integers(0, 3, 300), rng.integers(0, 4, 300)], 1)
    X[:, 1] = np.maximum(X[:, 0], X[:, 1])
    model = Histogram().fit(X)
    counts = np.zeros((4, 4))
    np.add.at(counts, (X[:, 0], X[:, 1]), 1)
    q = [(np.bincount(x, minlength=4) + 0.5) / (300 + 2) for x in X.T]
    a = model.module_.smoothing.item()
    expected = (counts + a * np.outer(*q)) / (300 + a)
    found = np.exp(model.log_prob(np.array(list(itertools.product(range(4), repeat=2))))).reshape(4, 4)
    assert np.allclose(found, expected) and found.sum() == pytest.approx(1)


@pytest.mark.parametrize("bins", [1, 7, "risk", "fd"])
def test_the_mass_of_a_histogram_is_one_also_out_of_range(bins, rng):
    X = pd.DataFrame({"x": rng.normal(3, 2, 200), "n": rng.poisson(40, 200), "c": rng.choice(list("ab"), 200)})
    model = Histogram(bins=bins, space={"n": "count"}).fit(X)
    t = model.transforms_.steps[0]
    low, high, tail = t.edges[0, 0].item(), t.edges[0, t.counts[0]].item(), t.tail[0].item()
    n, c = np.arange(0, 700), ["a", "b"]

    def mass(lengths):
        grid = pd.MultiIndex.from_product([lengths, n, c], names=["x", "n", "c"]).to_frame(index=False)
        return np.exp(model.log_prob(grid)).reshape(len(lengths), -1).sum(1)

    edges = t.edges[0, : t.counts[0] + 1].numpy()
    inside = (mass((edges[:-1] + edges[1:]) / 2) * np.diff(edges)).sum()  # flat in each bin
    beyond = (mass([low - 1e-9])[0] + mass([high + 1e-9])[0]) * tail  # exponential
    assert inside + beyond == pytest.approx(1, abs=1e-6)
    assert 0 < beyond < 0.05
    assert mass([low - 2 * tail])[0] == pytest.approx(mass([low - 1e-9])[0] * math.exp(-2), rel=1e-6)


def test_histogram_smooths_independent_columns_and_trusts_copies(rng):
    one, other = rng.integers(0, 6, (400, 1)), rng.integers(0, 6, (400, 1))
    free = Histogram().fit(np.hstack([one, other])).module_.smoothing.item()
    copied = Histogram().fit(np.hstack([one, one])).module_.smoothing.item()
    assert free >= 256 and copied <= 1


def test_leave_one_out_takes_bins_that_generalise(rng):
    X, fresh = rng.normal(size=(2, 2000, 2))
    chosen = Histogram().fit(X).score(fresh)
    assert chosen > max(Histogram(bins=m).fit(X).score(fresh) for m in (1, 2, 4, 8, 128))
    assert chosen > stats.norm.logpdf(fresh).sum(1).mean() - 0.1


def test_histogram_counts_in_parts_what_it_counts_at_once(tmp_path):
    X = mixed_frame(500)
    X["length"] = X["length"].round(6)
    X["grade"] = X["grade"].astype(int)
    X.to_csv(tmp_path / "x.csv", index=False)
    whole = Histogram(bins=6).fit(X)
    streamed = Histogram(bins=6).fit(Stream(tmp_path / "x.csv", chunk=90))
    rows = streamed.sample(5, random_state=0)
    assert np.allclose(streamed.log_prob(rows), whole.log_prob(rows.astype(X.dtypes.to_dict())))
    z = whole.transforms_(whole.space_.encode(X))[0]
    parts, at_once = whole._build(whole.transforms_.restore(whole.transforms_.state_dict(), whole.space_), None), None
    for part in (z[:123], z[123:]):
        parts.summarise(part, None)
    parts.update()
    at_once = whole.module_
    assert torch.equal(parts.log_prob(z), at_once.log_prob(z))


@pytest.mark.parametrize("bins", ["risk", 5])
def test_histogram_weights_are_repetitions(bins, rng):
    X = mixed_frame(120)
    weight = rng.integers(1, 4, 120)
    a, b = Histogram(bins=bins).fit(X, sample_weight=weight), Histogram(bins=bins).fit(repeated(X, weight))
    assert np.allclose(a.log_prob(X), b.log_prob(X))


def test_histogram_draws_follow_its_cells(rng):
    X = np.stack([rng.integers(0, 5, 400), rng.integers(0, 5, 400)], 1)
    X[:, 1] = np.minimum(X[:, 0] + (rng.random(400) < 0.2), 4)
    model = Histogram().fit(X)
    drawn = model.sample(20_000, random_state=0)
    cells = np.array(list(itertools.product(range(5), repeat=2)))
    expected = np.exp(model.log_prob(cells)) * 20_000
    found = np.bincount(drawn[:, 0] * 5 + drawn[:, 1], minlength=25)
    often = expected > 5
    found, expected = (np.append(v[often], v[~often].sum()) for v in (found, expected))
    assert stats.chisquare(found, expected, sum_check=False).pvalue > 1e-3


def test_histogram_of_images_with_a_dead_pixel(rng):
    X = rng.normal(size=(60, 3, 3))
    X[:, 0, 0] = 7.0
    model = Histogram().fit(X)
    assert np.abs(model.log_prob(X)).max() < 100
    assert np.abs(model.sample(50, random_state=0)[:, 0, 0] - 7).max() < 3
