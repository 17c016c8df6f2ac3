"""Mixtures of every law of the reals, their conditionals and their choice of K, against scipy, scikit-learn and sums.

What mixtures of full and diagonal Gaussians and of tables share with other direct densities is in test_direct.py.
"""

from __future__ import annotations

import itertools

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import stats
from scipy.special import logsumexp
from sklearn.decomposition import FactorAnalysis
from sklearn.mixture import GaussianMixture

import plausible
from plausible.data.stream import Stream
from plausible.errors import DataError
from plausible.families.direct import _normal
from plausible.families.direct.gaussian import Gaussian
from plausible.families.direct.independent import Independent
from plausible.families.direct.mixture import Mixture
from plausible.uses import given

LAWS = ("full", "tied", "diagonal", "spherical", "factors")
TAILS = (None, "fit")


def clusters(n: int = 400, d: int = 4, k: int = 3, seed: int = 0) -> np.ndarray:
    """Rows (n, d) of k clusters whose columns share a factor."""
    rng = np.random.default_rng(seed)
    centres, loadings = 3 * rng.normal(size=(k, d)), rng.normal(size=(k, d))
    which = rng.integers(0, k, n)
    return centres[which] + loadings[which] * rng.normal(size=(n, 1)) + 0.5 * rng.normal(size=(n, d))


def with_far_rows(X: np.ndarray, share: float = 0.1) -> np.ndarray:
    rng = np.random.default_rng(7)
    return X + (rng.random((len(X), 1)) < share) * rng.normal(size=X.shape) * 15


def holed(X: np.ndarray, share: float = 0.25, seed: int = 1) -> np.ndarray:
    missing = np.random.default_rng(seed).random(X.shape) < share
    missing[np.arange(len(X)), np.arange(len(X)) % X.shape[1]] = False
    return np.where(missing, np.nan, X)


def scale_matrices(module) -> np.ndarray:
    """The scale matrices (K, R, R) of the reals."""
    law, r = module.law, module.columns.n_reals
    if hasattr(law, "covariance"):
        return law.covariance.expand(module.components, r, r).numpy()
    if hasattr(law, "variance"):
        return torch.diag_embed(law.variance.expand(-1, r)).numpy()
    return (law.loadings @ law.loadings.mT + torch.diag_embed(law.noise)).numpy()


def log_components(module, z: np.ndarray) -> np.ndarray:
    """log w_k p_k (n, K) of reals with scipy, the missing ones left out."""
    out = np.empty((len(z), module.components))
    log_w, centre = module.log_weights.numpy(), module.law.centre.numpy()
    for k, scale in enumerate(scale_matrices(module)):
        for i, row in enumerate(z):
            o = ~np.isnan(row)
            if not o.any():
                out[i, k] = log_w[k]
            elif module.student:
                law = stats.multivariate_t(centre[k, o], scale[np.ix_(o, o)], float(module.degrees[k]))
                out[i, k] = log_w[k] + law.logpdf(row[o])
            else:
                out[i, k] = log_w[k] + stats.multivariate_normal(centre[k, o], scale[np.ix_(o, o)]).logpdf(row[o])
    return out


def codes(model, X) -> np.ndarray:
    return model.transforms_(model.space_.encode(X))[0].numpy()


# --------------------------------------------------------------------------------------------------------- density


@pytest.mark.parametrize("degrees", [None, 3.0])
@pytest.mark.parametrize("covariance", LAWS)
def test_log_prob_is_that_of_scipy_with_and_without_missing_cells(covariance, degrees):
    X = clusters()
    model = Mixture(n_components=3, covariance=covariance, degrees=degrees, random_state=0).fit(X)
    rows = np.concatenate([X[:10], holed(X[:10], 0.5), np.full((1, 4), np.nan)])
    z = codes(model, rows)
    expected = logsumexp(log_components(model.module_, z), axis=1)
    assert np.allclose(model.module_.log_prob(torch.from_numpy(z)).numpy(), expected, atol=1e-8)
    model.module_._complete = False  # the rows that it was fitted on were
    # What EM takes for it: the same, from features of complete rows or from those that are there.
    for part in (z[:10], z[10:]):
        joint, _ = model.module_._log_joint(torch.from_numpy(part), model.module_._natural())
        assert np.allclose(joint.logsumexp(0).numpy(), logsumexp(log_components(model.module_, part), axis=1))


@pytest.mark.parametrize(("covariance", "theirs"), [("tied", "tied"), ("spherical", "spherical"), ("full", "full")])
def test_mixture_reaches_the_likelihood_of_scikit_learn(covariance, theirs):
    X = clusters(800)
    z = (X - X.mean(0)) / X.std(0)  # spherical in units of the deviations
    model = Mixture(n_components=3, covariance=covariance, prior=0, tol=1e-8, random_state=0).fit(z)
    sk = GaussianMixture(3, covariance_type=theirs, n_init=5, tol=1e-8, max_iter=500, random_state=0).fit(z)
    assert model.score(z) == pytest.approx(sk.score(z), abs=1e-4)
    assert model.n_parameters_ == sk._n_parameters()


def test_one_factor_analyser_is_that_of_scikit_learn():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(500, 2)) @ rng.normal(size=(2, 6)) + rng.normal(size=(500, 6)) * np.linspace(0.7, 1, 6)
    z = (X - X.mean(0)) / X.std(0)
    theirs = FactorAnalysis(2, svd_method="lapack").fit(z)
    model = Mixture(n_components=1, covariance="factors", rank=2, prior=0, tol=1e-8, max_iter=500, n_init=1).fit(z)
    assert model.score(z) == pytest.approx(theirs.score(z), abs=2e-3)
    assert np.allclose(scale_matrices(model.module_)[0], theirs.get_covariance(), atol=0.02)
    law = model.module_.law
    theirs.mean_, theirs.components_ = law.centre[0].numpy(), law.loadings[0].T.numpy()
    theirs.noise_variance_ = law.noise[0].numpy()
    assert model.score(z) == pytest.approx(theirs.score(z), abs=1e-6)
    assert model.n_parameters_ == 6 * 2 + 6 * 2 - 1


def test_a_student_t_is_that_of_scipy():
    x = stats.t(2.5, 10, 3).rvs(3000, random_state=0)
    model = Mixture(n_components=1, degrees="fit", prior=0, tol=1e-9, max_iter=2000, n_init=1).fit(x[:, None])
    degrees, loc, scale = stats.t.fit(x)
    assert model.score(x[:, None]) == pytest.approx(stats.t.logpdf(x, degrees, loc, scale).mean(), abs=1e-5)
    assert model.module_.degrees.item() == pytest.approx(degrees, rel=1e-2)
    fixed = Mixture(n_components=1, degrees=4.0, prior=0, tol=1e-10, max_iter=2000, n_init=1).fit(x[:, None])
    _, loc, scale = stats.t.fit(x, f0=4)
    assert fixed.score(x[:, None]) == pytest.approx(stats.t.logpdf(x, 4, loc, scale).mean(), abs=1e-5)
    assert fixed.n_parameters_ == 2 and model.n_parameters_ == 3


def test_a_student_t_bears_rows_that_are_far_off():
    X, fresh = clusters(600, d=2, k=1), clusters(600, d=2, k=1, seed=0)[::-1]
    far = np.concatenate([X, np.random.default_rng(0).uniform(-300, 300, (20, 2))])
    for covariance in LAWS:
        options = {"n_components": 1, "covariance": covariance, "random_state": 0}
        robust, plain = (Mixture(degrees=d, **options).fit(far).score(fresh) for d in ("fit", None))
        assert plain + 2 < robust > Mixture(**options).fit(X).score(fresh) - 0.7, covariance


# --------------------------------------------------------------------------------------------------------------- EM


def log_prior(module) -> float:
    """What the pseudo-rows add to the log-likelihood; EM climbs the sum."""
    a, (shares, _, variance, _, whole) = module.prior, module._whole
    s = torch.from_numpy(scale_matrices(module))
    out = (shares * module.log_levels).sum() + module.log_weights.sum()
    out = out - 0.5 * (module.variance.log() + variance / module.variance).sum()
    if hasattr(module.law, "noise"):
        noise = module.law.noise
        return float(a * (out - 0.5 * (noise.log() + whole.diagonal() / noise).sum()))
    terms = torch.logdet(s) + torch.linalg.solve(s, whole.expand_as(s)).diagonal(dim1=1, dim2=2).sum(1)
    spherical = hasattr(module.law, "variance")
    terms = terms[:1] if module.law.shared and not spherical else terms  # a tied matrix has its pseudo-rows once
    return float(a * (out - 0.5 * terms.sum()))


@pytest.mark.parametrize("degrees", TAILS)
@pytest.mark.parametrize("covariance", LAWS)
@pytest.mark.parametrize("prior", [0.0, 2.0])
def test_em_climbs_the_penalised_likelihood(covariance, degrees, prior):
    rng = np.random.default_rng(3)
    X = with_far_rows(clusters(150)) if degrees else clusters(150)
    levels = (X[:, :1] > 0) + rng.integers(0, 2, (150, 1))
    for rows in (X, np.hstack([X, levels]), holed(np.hstack([X, levels]))):
        options = {"covariance": covariance, "degrees": degrees, "prior": prior, "n_init": 1, "max_iter": 1}
        model = Mixture(n_components=3, random_state=0, **options).fit(rows)
        module, z = model.module_, torch.from_numpy(codes(model, rows))
        climbed = []
        for _ in range(12):
            loss = module.summarise(z, None)
            climbed.append(-float(loss) * len(z) + (log_prior(module) if prior else 0.0))
            module.update()
        assert np.diff(climbed).min() > -2e-3 and climbed[-1] > climbed[0]


@pytest.mark.parametrize("degrees", [None, 3.0])
@pytest.mark.parametrize("covariance", LAWS)
def test_where_em_stops_the_likelihood_is_flat(covariance, degrees):
    X = holed(clusters(80, d=3, k=2), 0.2)
    options = {"prior": 0.0, "tol": 1e-9, "n_init": 1, "max_iter": 250, "rank": 1}
    model = Mixture(n_components=2, covariance=covariance, degrees=degrees, random_state=0, **options).fit(X)
    module, z = model.module_, torch.from_numpy(codes(model, X))
    names = [f"law.{n}" for n in module.law.shapes(2)]
    free = {name: module.get_buffer(name).clone().requires_grad_() for name in names}
    for name, tensor in free.items():
        owner, _, last = name.rpartition(".")
        setattr(module.get_submodule(owner), last, tensor)
    module.log_prob(z).mean().backward()
    for name, tensor in free.items():
        slope = tensor.grad
        if name == "law.noise":  # some may go to zero (Heywood, 1931)
            slope = slope * tensor
        assert slope.abs().max() < 1e-2, name


@pytest.mark.parametrize("degrees", TAILS)
@pytest.mark.parametrize("covariance", LAWS)
def test_a_weight_counts_as_a_repetition(covariance, degrees):
    X = holed(clusters(60))
    weight = np.random.default_rng(0).integers(0, 4, 60)
    model = Mixture(n_components=3, covariance=covariance, degrees=degrees, max_iter=2, random_state=0).fit(X)
    z = torch.from_numpy(codes(model, X))
    start, states = {k: v.clone() for k, v in model.module_.state_dict().items()}, []
    for x, w in ((z, torch.from_numpy(weight).double()), (z.repeat_interleave(torch.from_numpy(weight), 0), None)):
        model.module_.load_state_dict(start)
        model.module_.look(x, w)
        model.module_.summarise(x, w)
        model.module_.update()
        states.append({k: v.clone() for k, v in model.module_.state_dict().items()})
    for name in states[0]:
        assert torch.allclose(states[0][name], states[1][name]), name


def test_rows_in_parts_are_rows_at_once(monkeypatch):
    X = holed(clusters(700))
    for covariance in LAWS:
        model = Mixture(n_components=2, covariance=covariance, degrees="fit", max_iter=3, random_state=0).fit(X)
        z = torch.from_numpy(codes(model, X))
        states = []
        for rows in (256, 4096):
            module = Mixture(n_components=2, covariance=covariance, degrees="fit")._build(model.space_, None)
            module.load_state_dict(model.module_.state_dict())
            module.look(z)
            monkeypatch.setattr(module, "_parts", lambda z, _=0, n=rows: [slice(s, s + n) for s in range(0, len(z), n)])
            module.summarise(z, None)
            module.update()
            states.append(module.state_dict())
        for name in states[0]:
            assert torch.allclose(states[0][name], states[1][name]), (covariance, name)


# ------------------------------------------------------------------------------------------------ draws, conditionals


def follows(drawn: np.ndarray, cdf) -> bool:
    return stats.kstest(drawn, cdf).pvalue > 1e-3


def cdf_of(grid: np.ndarray, log_p: np.ndarray):
    """The cumulative of a density known on an even grid."""
    p = np.exp(log_p - log_p.max())
    below = np.concatenate([[0], np.cumsum((p[1:] + p[:-1]) / 2)])
    return lambda v: np.interp(v, grid, below / below[-1])


@pytest.mark.parametrize("degrees", [None, 3.0])
@pytest.mark.parametrize("covariance", LAWS)
def test_draws_follow_the_density_and_its_conditionals(covariance, degrees):
    X = clusters(300, d=3)
    model = Mixture(n_components=3, covariance=covariance, degrees=degrees, random_state=0).fit(X)
    grid = np.linspace(-200, 200, 20_001)
    alone = np.full((len(grid), 3), np.nan)
    alone[:, 1] = grid
    assert follows(model.sample(4000, random_state=1)[:, 1], cdf_of(grid, model.log_prob(alone)))
    row = X[0].copy()
    for known in ([0], [0, 2]):
        asked = np.full((4000, 3), np.nan)
        asked[:, known] = row[known]
        drawn = given.sample(model, asked, random_state=2)
        assert (drawn[:, known] == row[known]).all()
        line = np.full((len(grid), 3), np.nan)
        line[:, known], line[:, 1] = row[known], grid
        assert follows(drawn[:, 1], cdf_of(grid, model.log_prob(line))), known


def test_dependence_between_drawn_cells_is_that_of_the_model():
    """Two unknown cells given a third: their product's mean, against the mixture of closed-form conditionals."""
    X = clusters(300, d=3)
    for covariance in ("full", "factors"):
        model = Mixture(n_components=3, covariance=covariance, random_state=0).fit(X)
        row = np.array([[X[:, 0].mean(), np.nan, np.nan]])
        z0 = codes(model, row)[0, 0]
        module = model.module_
        joint = log_components(module, np.array([[z0, np.nan, np.nan]]))[0]
        w = np.exp(joint - logsumexp(joint))
        second, mean = np.zeros((2, 2)), np.zeros(2)
        for k, s in enumerate(scale_matrices(module)):
            m = module.law.centre[k].numpy()
            at = m[1:] + s[1:, 0] / s[0, 0] * (z0 - m[0])
            second += w[k] * (s[1:, 1:] - np.outer(s[1:, 0], s[1:, 0]) / s[0, 0] + np.outer(at, at))
            mean += w[k] * at
        drawn = codes(model, given.sample(model, np.repeat(row, 20_000, 0), random_state=0))[:, 1:]
        assert np.allclose(drawn.mean(0), mean, atol=0.05)
        assert np.allclose(drawn.T @ drawn / len(drawn), second, atol=0.08)


def test_conditionals_of_bits_are_those_of_enumeration(rng):
    X = (rng.random((300, 5)) < rng.random((3, 5))[rng.integers(0, 3, 300)]).astype(int)
    model = Mixture(n_components=4, random_state=0).fit(X)
    asked = np.array([[1, np.nan, 0, np.nan, np.nan]])
    filled = np.array([[1, a, 0, b, c] for a, b, c in itertools.product([0, 1], repeat=3)])
    log_p = model.log_prob(filled)
    drawn = given.sample(model, np.repeat(asked, 20_000, 0), random_state=0)
    found = np.bincount((drawn[:, [1, 3, 4]] @ [4, 2, 1]).astype(int), minlength=8)
    assert stats.chisquare(found, np.exp(log_p - logsumexp(log_p)) * 20_000).pvalue > 1e-3


def test_conditionals_of_mixed_columns_are_those_of_sums(rng):
    group = rng.integers(0, 3, 400)
    X = pd.DataFrame(
        {
            "colour": np.array(list("rgb"))[(group + (rng.random(400) < 0.2)) % 3],
            "visits": rng.poisson(6 + 25 * group),
            "length": rng.normal(group, 0.5),
            "width": rng.normal(-group, 0.5),
        }
    )
    model = Mixture(n_components=3, random_state=0).fit(X)
    asked = pd.DataFrame({"length": np.full(20_000, 0.6), "width": np.full(20_000, -0.8)})
    drawn = given.sample(model, asked, random_state=0)
    assert (drawn["length"] == 0.6).all() and list(drawn.columns) == list(X.columns)
    cells = pd.MultiIndex.from_product([list("rgb"), np.arange(200)], names=["colour", "visits"])
    p = np.exp(given_log(model, cells.to_frame(index=False).assign(length=0.6, width=-0.8), ["length", "width"]))
    assert p.sum() == pytest.approx(1, abs=1e-4)
    found = drawn.groupby(["colour", "visits"]).size().reindex(cells, fill_value=0).to_numpy()
    often = p * 20_000 > 5
    expected = np.append(p[often], p[~often].sum()) * 20_000
    assert stats.chisquare(np.append(found[often], found[~often].sum()), expected, sum_check=False).pvalue > 1e-3


def given_log(model, X, known):
    return given.log_prob(model, X, known)


def test_gaussian_conditionals_are_the_closed_form(rng):
    truth = np.array([[4, 1.5, 0.8], [1.5, 1, 0.2], [0.8, 0.2, 2]])
    X = rng.multivariate_normal([10, -3, 0.5], truth, 500)
    model = Gaussian().fit(X)
    mean, cov = X.mean(0), np.cov(X.T, bias=True)
    row = np.array([11.0, np.nan, np.nan])
    expected = mean[1:] + cov[1:, 0] / cov[0, 0] * (row[0] - mean[0])
    left = cov[1:, 1:] - np.outer(cov[1:, 0], cov[1:, 0]) / cov[0, 0]
    likely = given.impute(model, row[None], "likely")
    assert likely[0, 0] == 11.0 and np.allclose(likely[0, 1:], expected)
    drawn = given.sample(model, np.repeat(row[None], 20_000, 0), random_state=0)[:, 1:]
    white = np.linalg.solve(np.linalg.cholesky(left), (drawn - expected).T)
    assert all(follows(w, stats.norm.cdf) for w in [*white, (white[0] + white[1]) / np.sqrt(2)])


def test_independent_draws_and_modes_are_those_of_its_columns(rng):
    X = pd.DataFrame(
        {
            "colour": rng.choice(list("rgb"), 500, p=[0.2, 0.5, 0.3]),
            "visits": np.where(rng.random(500) < 0.4, 0, rng.poisson(40, 500)),
            "length": np.where(rng.random(500) < 0.3, rng.normal(-4, 0.1, 500), rng.normal(3, 1, 500)),
        }
    )
    model = Independent(random_state=0).fit(X)
    asked = pd.DataFrame({"colour": ["r", None, None], "visits": [None, 3.0, None], "length": [None, None, 0.25]})
    likely = given.impute(model, asked, "likely")
    assert likely["colour"].tolist() == ["r", "g", "g"] and likely["visits"].tolist()[1] == 3

    def mode(column, values):
        table = pd.DataFrame({c: [None] * len(values) if c != column else values for c in X.columns})
        return values[model.log_prob(table).argmax()]

    assert likely["visits"].iloc[0] == mode("visits", np.arange(100.0))
    assert likely["length"].iloc[0] == pytest.approx(mode("length", np.linspace(-8, 8, 16_001)), abs=2e-3)
    drawn = given.sample(model, pd.concat([asked.iloc[:1]] * 5000, ignore_index=True), random_state=0)
    fresh = model.sample(5000, random_state=1)
    assert (drawn["colour"] == "r").all()
    assert stats.ks_2samp(drawn["length"], fresh["length"]).pvalue > 1e-3


# ------------------------------------------------------------------------------------------------------ choosing K


@pytest.mark.parametrize("how", ["bic", "held_out"])
def test_the_number_of_components_is_chosen(how, tmp_path):
    X = clusters(600, d=2)
    model = Mixture(n_components=how, random_state=0).fit(X)
    scores = model.selection_
    best = min if how == "bic" else max
    assert model.n_components_ == best(scores, key=scores.get) == len(model.module_.log_weights)
    assert 3 <= model.n_components_ <= 4 and list(scores)[:3] == [1, 2, 3]
    model.save(tmp_path / "m.plausible")
    again = plausible.load(tmp_path / "m.plausible")
    assert again.n_components_ == model.n_components_ and again.selection_ == scores
    assert (again.log_prob(X) == model.log_prob(X)).all()


def test_bic_is_that_of_scikit_learn():
    X = clusters(500, d=2)
    z = (X - X.mean(0)) / X.std(0)
    model = Mixture(n_components="bic", prior=0, tol=1e-7, random_state=0).fit(z)
    for k in (1, 2, 3):
        theirs = GaussianMixture(k, n_init=5, tol=1e-7, max_iter=500, random_state=0).fit(z)
        assert model.selection_[k] == pytest.approx(theirs.bic(z), abs=1.0)


def test_bic_counts_a_weight_as_repetitions():
    X = clusters(200, d=2)
    weighted = Mixture(n_components="bic", random_state=0).fit(X, sample_weight=np.full(200, 3.0))
    copied = Mixture(n_components="bic", random_state=0).fit(np.repeat(X, 3, 0))
    assert weighted.n_components_ == copied.n_components_
    assert weighted.selection_[1] == pytest.approx(copied.selection_[1], rel=1e-6)


def test_what_was_held_out_is_learned_from_in_the_end():
    X = clusters(300, d=2)
    model = Mixture(n_components="held_out", tol=1e-7, prior=0, random_state=0).fit(X)
    fixed = Mixture(n_components=model.n_components_, tol=1e-7, prior=0, random_state=0).fit(X)
    assert model.score(X) == pytest.approx(fixed.score(X), abs=0.05)


# -------------------------------------------------------------------------------------------------------- bad input


@pytest.mark.parametrize("degrees", TAILS)
@pytest.mark.parametrize("covariance", LAWS)
def test_equal_few_and_repeated_data_are_borne(covariance, degrees, rng):
    options = {"n_components": 4, "covariance": covariance, "degrees": degrees, "n_init": 1, "max_iter": 20}
    model = Mixture(random_state=0, **options)
    x = rng.normal(size=(30, 1))
    rows = {
        "hardly varying column": np.hstack([x, 7.5 + (np.arange(30)[:, None] == 3), rng.normal(size=(30, 1))]),
        "equal columns": np.hstack([x, x, x]),
        "one row again and again": np.concatenate([np.tile([[0.1, 0.2, 0.3]], (20, 1)), rng.normal(size=(10, 3))]),
        "all rows equal but one": np.r_[np.tile([[0.1, 0.2, 0.3]], (10, 1)), [[0.4, 0.5, 0.6]]],
        "hardly any rows": rng.normal(size=(4, 3)),
        "one column": x,
    }
    for name, X in rows.items():
        fitted = model.fit(X)
        log_p = fitted.log_prob(X)
        assert np.isfinite(log_p).all(), name
        assert np.isfinite(fitted.sample(5, random_state=0)).all(), name
    bare = Mixture(random_state=0, prior=0, **options)
    for name in ("hardly varying column", "equal columns", "all rows equal but one"):
        assert np.isfinite(bare.fit(rows[name]).log_prob(rows[name])).all(), name


def test_a_component_needs_a_row_of_some_weight():
    X, weight = clusters(12), np.r_[np.ones(3), np.zeros(9)]
    with pytest.raises(DataError, match="n_components=4.*n_samples=3; use fewer components"):
        Mixture(n_components=4).fit(X, sample_weight=weight)
    model = Mixture(n_components=2, random_state=0).fit(X, sample_weight=weight)
    other = np.concatenate([X[:3], X[3:] + 100])
    assert np.allclose(model.log_prob(X), Mixture(n_components=2, random_state=0).fit(X[:3]).log_prob(X), atol=1e-6)
    assert model.log_prob(other)[3:].max() < -100


def test_settings_out_of_range_are_refused():
    for wrong in ({"n_components": "aic"}, {"n_components": 0}, {"degrees": 0}, {"degrees": "free"}, {"rank": 0}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            Mixture(**wrong).fit(clusters(20))


# ---------------------------------------------------------------------------------------------------------- streams


def test_a_mixture_from_a_stream_is_that_from_memory(tmp_path):
    X = pd.DataFrame(clusters(500, d=3), columns=list("abc"))
    X.to_csv(tmp_path / "rows.csv", index=False)
    options = {"n_components": 3, "random_state": 0, "tol": 1e-8}
    memory = Mixture(**options).fit(X)
    streamed = Mixture(**options).fit(Stream(tmp_path / "rows.csv", chunk=130))
    assert streamed.score(X) == pytest.approx(memory.score(X), abs=1e-4)


@pytest.mark.parametrize(("patterns", "repeats"), [(1, 40), (3, 40), (12, 2)])
def test_rows_that_share_a_pattern_are_solved_for_as_each_would_be(patterns, repeats):
    """By one factor for all rows of a pattern, or by a factor for each row; against inverses of the observed part."""
    rng = np.random.default_rng(0)
    A = rng.normal(size=(5, 5))
    S, mean = torch.from_numpy(A @ A.T + np.eye(5)), torch.from_numpy(rng.normal(size=5))
    missing = np.repeat(rng.random((patterns, 5)) < 0.4, repeats, 0)
    missing[:, 0] = False
    x = torch.from_numpy(np.where(missing, np.nan, rng.normal(size=missing.shape))[rng.permutation(len(missing))])
    distance, log_det = _normal.distance_of(x, mean, S)
    foretold = _normal.regress(torch.nan_to_num(x - mean), x.isnan(), S)
    for i, row in enumerate(x):
        o = ~row.isnan()
        e, part = (row - mean)[o], S[o][:, o]
        solved = torch.linalg.solve(part, e)
        assert torch.isclose(distance[i], e @ solved) and torch.isclose(log_det[i], part.logdet())
        torch.testing.assert_close(foretold[i], S[:, o] @ solved)


def test_pseudo_rows_of_data_with_holes_hang_together_as_the_data_do():
    rng = np.random.default_rng(0)
    scatter = np.array([[1.0, 0.9, 0.5], [0.9, 1.0, 0.4], [0.5, 0.4, 1.0]])
    X = rng.multivariate_normal(np.zeros(3), scatter, 2000)
    X[rng.random(X.shape) < 0.4] = np.nan
    module = Mixture(n_components=2, n_init=1, max_iter=3, prior=1e6, random_state=0).fit(X).module_
    d = module.law.covariance.diagonal(dim1=1, dim2=2).sqrt()
    correlation = module.law.covariance / d[:, :, None] / d[:, None, :]
    assert (correlation - torch.from_numpy(scatter)).abs().max() < 0.06


def test_margins_bent_into_normals_fit_skewed_columns_better():
    rng = np.random.default_rng(0)
    X, new = (np.exp(rng.multivariate_normal([0, 3], [[1, 0.8], [0.8, 1]], n)) for n in (1000, 5000))
    new[rng.random(new.shape) < 0.2] = np.nan
    plain, bent = (Mixture(n_components=1, margins=m, random_state=0).fit(X).score(new) for m in ("plain", "normal"))
    logs, known = np.log(np.nan_to_num(new, nan=1.0)), ~np.isnan(new)
    both = stats.multivariate_normal([0, 3], [[1, 0.8], [0.8, 1]]).logpdf(logs)
    one = [stats.norm(m, 1).logpdf(logs[:, d]) for d, m in enumerate((0, 3))]
    truth = np.where(known.all(1), both, (known * np.stack(one, 1)).sum(1)) - (known * logs).sum(1)
    assert truth.mean() - bent < 0.06 < 0.5 < truth.mean() - plain
