"""Named laws against scipy.stats: its fits, its densities, and second derivatives taken by differences."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

import plausible
from plausible.data.stream import Stream
from plausible.errors import DataError
from plausible.families.direct._law_fits import NOTES
from plausible.families.direct._laws import LAWS
from plausible.families.direct.named_law import NAMES, NamedLaw
from plausible.options import OptionError
from plausible.uses import given as part

N = 1500

# name -> (frozen law of scipy that data are drawn from, our parameters -> the frozen law that we claim)
REALS = {
    "normal": (stats.norm(50, 3), lambda m, s: stats.norm(m, s)),
    "laplace": (stats.laplace(-1, 2), lambda m, s: stats.laplace(m, s)),
    "logistic": (stats.logistic(3, 2), lambda m, s: stats.logistic(m, s)),
    "gumbel": (stats.gumbel_r(3, 2), lambda m, s: stats.gumbel_r(m, s)),
    "cauchy": (stats.cauchy(1, 3), lambda m, s: stats.cauchy(m, s)),
    "student_t": (stats.t(3, 10, 2), lambda m, s, nu: stats.t(nu, m, s)),
    "uniform": (stats.uniform(2, 3), lambda a, b: stats.uniform(a, b - a)),
    "exponential": (stats.expon(scale=3), lambda r: stats.expon(scale=1 / r)),
    "gamma": (stats.gamma(2.5, scale=3), lambda a, r: stats.gamma(a, scale=1 / r)),
    "weibull": (stats.weibull_min(2.5, scale=4), lambda a, s: stats.weibull_min(a, scale=s)),
    "log_normal": (stats.lognorm(0.5, scale=math.e), lambda m, s: stats.lognorm(s, scale=math.exp(m))),
    "beta": (stats.beta(2, 0.7), lambda a, b: stats.beta(a, b)),
}
COUNTS = {
    "poisson": (stats.poisson(3), lambda r: stats.poisson(r)),
    "geometric": (stats.geom(0.2, -1), lambda p: stats.geom(p, -1)),
    "shifted_geometric": (stats.geom(0.3), lambda p: stats.geom(p)),
    "binomial": (stats.binom(50, 0.3), lambda n, p: stats.binom(n, p)),
    "negative_binomial": (stats.nbinom(3, 0.1), lambda r, p: stats.nbinom(r, p)),
    "uniform": (stats.randint(3, 60), lambda a, b: stats.randint(a, b + 1)),
}
# What scipy's own maximum likelihood is called and holds fixed.
THEIRS = {
    "normal": (stats.norm, {}),
    "laplace": (stats.laplace, {}),
    "logistic": (stats.logistic, {}),
    "gumbel": (stats.gumbel_r, {}),
    "cauchy": (stats.cauchy, {}),
    "student_t": (stats.t, {}),
    "uniform": (stats.uniform, {}),
    "exponential": (stats.expon, {"floc": 0}),
    "gamma": (stats.gamma, {"floc": 0}),
    "weibull": (stats.weibull_min, {"floc": 0}),
    "log_normal": (stats.lognorm, {"floc": 0}),
    "beta": (stats.beta, {"floc": 0, "fscale": 1}),
}


def values_of(truth, n: int = N, seed: int = 0) -> pd.DataFrame:
    return pd.DataFrame({"x": truth.rvs(n, random_state=seed)})


def found(model, column: str = "x") -> tuple[list[float], list[float]]:
    table = model.summary_.loc[column]
    return table["value"].tolist(), table["standard_error"].tolist()


# ------------------------------------------------------------------------------------------------ against scipy


@pytest.mark.parametrize("name", REALS)
def test_a_law_of_reals_is_that_of_scipy_and_as_likely_as_scipy_makes_it(name):
    truth, claimed = REALS[name]
    X = values_of(truth)
    model = NamedLaw(law=name).fit(X)
    law = claimed(*found(model)[0])
    assert np.allclose(model.log_prob(X), law.logpdf(X.x), rtol=1e-9, atol=1e-9)
    theirs, fixed = THEIRS[name]
    best = theirs(*theirs.fit(X.x, **fixed)).logpdf(X.x).mean()
    assert best - 1e-9 < model.score(X) < best + 1e-4
    assert model.laws_.loc["x", "log_likelihood"] == pytest.approx(law.logpdf(X.x).sum(), abs=1e-6)


@pytest.mark.parametrize("name", COUNTS)
def test_a_law_of_counts_is_that_of_scipy(name):
    truth, claimed = COUNTS[name]
    X = values_of(truth)
    model = NamedLaw(law=name).fit(X)
    law = claimed(*found(model)[0])
    k = pd.DataFrame({"x": np.arange(0, 300)})
    with np.errstate(divide="ignore"):
        assert np.allclose(model.log_prob(k), law.logpmf(k.x), rtol=1e-9, atol=1e-9)
    assert model.laws_.loc["x", "log_likelihood"] == pytest.approx(law.logpmf(X.x).sum(), abs=1e-6)
    assert model.space_.columns[0].kind == "count" and model.likelihood_kind_ == "exact"


@pytest.mark.parametrize("name", [n for n in (*REALS, *COUNTS) if n not in ("uniform", "laplace")])
def test_standard_errors_are_those_of_the_observed_information(name):
    """Second derivatives of scipy's log-likelihood by central differences, inverted."""
    truth, claimed = (REALS | COUNTS)[name]
    X = values_of(truth)
    model = NamedLaw(law=name).fit(X)
    values, errors = map(np.array, found(model))
    free = np.flatnonzero(~np.isnan(errors))  # not the n of a binomial

    def log_lik(step):
        moved = values.copy()
        moved[free] += step
        law = claimed(*moved)
        return (law.logpdf if name in REALS else law.logpmf)(X.x).sum()

    h = errors[free] * 0.02
    k = len(free)
    hessian = np.empty((k, k))
    for i in range(k):
        for j in range(k):
            a, b = np.eye(k)[i] * h, np.eye(k)[j] * h
            corners = log_lik(a + b) - log_lik(a - b) - log_lik(b - a) + log_lik(-a - b)
            hessian[i, j] = corners / (4 * h[i] * h[j])
    assert np.allclose(errors[free], np.sqrt(np.diag(np.linalg.inv(-hessian))), rtol=2e-3)


def test_maximum_likelihood_in_closed_form():
    rng = np.random.default_rng(1)
    x, k = rng.normal(5, 2, 400), rng.poisson(40, 400)
    X = pd.DataFrame({"x": x, "k": k, "t": rng.exponential(2, 400)})
    model = NamedLaw(law={"x": "normal", "k": "poisson", "t": "exponential"}).fit(X)
    assert np.allclose(found(model, "x"), [[x.mean(), x.std()], [x.std() / 20, x.std() / math.sqrt(800)]])
    assert np.allclose(found(model, "k"), [[k.mean()], [math.sqrt(k.mean()) / 20]])
    assert np.allclose(found(model, "t"), [[1 / X["t"].mean()], [1 / X["t"].mean() / 20]])
    assert model.n_parameters_ == 4


def test_standard_errors_are_the_spread_of_the_estimates():
    """Over 200 samples from a gamma law, the mean stated error is the standard deviation of what was estimated."""
    truth = stats.gamma(2.0, scale=0.5)
    X = pd.DataFrame(truth.rvs((300, 200), random_state=3)).rename(columns=str)
    table = NamedLaw(law="gamma").fit(X).summary_
    for name, value in (("shape", 2.0), ("rate", 2.0)):
        rows = table.xs(name, level="parameter")
        assert rows["value"].mean() == pytest.approx(value, abs=4 * rows["value"].std() / math.sqrt(200) + 0.02)
        assert rows["standard_error"].mean() == pytest.approx(rows["value"].std(), rel=0.15)


def test_the_errors_of_uniform_ends_are_their_spread():
    X = pd.DataFrame(np.random.default_rng(0).uniform(2, 5, (100, 400))).rename(columns=str)
    table = NamedLaw(law="uniform").fit(X).summary_
    for name in ("low", "high"):
        rows = table.xs(name, level="parameter")
        assert rows["standard_error"].mean() == pytest.approx(rows["value"].std(), rel=0.15)


def test_a_rounded_normal_is_differences_of_the_cumulative():
    rng = np.random.default_rng(0)
    for low, data in ((-math.inf, rng.normal(-20, 9, N)), (0.0, np.maximum(rng.normal(4, 4, N), 0))):
        X = pd.DataFrame({"x": np.round(data).astype(int)})
        model = NamedLaw(law="rounded_normal").fit(X)
        mean, deviation, end = found(model)[0]
        assert end == low
        k = np.arange(-90 if low else 0, 90)
        p = stats.norm.cdf(k + 0.5, mean, deviation) - stats.norm.cdf(k - 0.5, mean, deviation)
        p[0] += stats.norm.cdf(k[0] - 0.5, mean, deviation)
        assert np.allclose(np.exp(model.log_prob(pd.DataFrame({"x": k}))), p, atol=1e-12)
        for step in ((0.01, 0), (-0.01, 0), (0, 0.01), (0, -0.01)):  # it is a maximum

            def log_lik(m, s, x=X.x, end=end):
                lower = np.where(x == end, -np.inf, x - 0.5)
                return np.log(stats.norm.cdf(x + 0.5, m, s) - stats.norm.cdf(lower, m, s)).sum()

            assert log_lik(mean + step[0], deviation + step[1]) < log_lik(mean, deviation)


# ---------------------------------------------------------------------------------------------------- the choice


@pytest.mark.parametrize("criterion", ["bic", "aic"])
@pytest.mark.parametrize("name", [*REALS, *(n for n in COUNTS if n != "uniform")])
def test_auto_finds_the_law(name, criterion):
    truth, _ = (REALS | COUNTS)[name]
    model = NamedLaw(criterion=criterion).fit(values_of(truth, 3000))
    assert model.laws_.loc["x", "law"] == name
    row = model.laws_.loc["x"]
    assert row[criterion] == pytest.approx(model.criteria_.loc["x"].min())
    assert row["bic"] - row["aic"] == pytest.approx(row["n_parameters"] * (math.log(3000) - 2))


def test_auto_takes_only_laws_whose_support_holds_the_data(rng):
    X = pd.DataFrame({"any": rng.normal(size=300), "above": rng.gamma(2, 1, 300) + 1, "unit": rng.beta(2, 3, 300)})
    tried = NamedLaw().fit(X).criteria_.notna()
    assert not tried.loc["any", ["gamma", "beta", "exponential", "log_normal", "weibull"]].any()
    assert tried.loc["above", ["gamma", "exponential"]].all() and not tried.loc["above", "beta"]
    assert tried.loc["unit", ["beta", "gamma", "normal"]].all() and "poisson" not in tried


def test_small_integers_are_counts_unless_one_says_otherwise(rng):
    X = pd.DataFrame({"k": rng.poisson(2, 500), "grade": rng.binomial(4, 0.5, 500), "flag": rng.integers(0, 2, 500)})
    model = NamedLaw(space={"grade": "ordinal"}).fit(X)
    assert [c.kind for c in model.space_.columns] == ["count", "ordinal", "binary"]
    assert model.laws_["law"].tolist()[:2] == ["poisson", "binomial"]
    assert np.isfinite(model.log_prob(X.assign(k=40))).all()  # a Poisson law does not end where the data do
    n, p = found(model, "grade")[0]
    assert n == 4 and p == pytest.approx(X.grade.mean() / 4)
    assert NamedLaw(law={"flag": "poisson"}).fit(X).space_.columns[2].kind == "count"
    told = NamedLaw(law={"grade": "poisson"}, space=plausible.space.infer(X)).fit(X)
    assert [c.kind for c in told.space_.columns] == ["ordinal", "count", "binary"]  # a law that is named is obeyed
    assert NamedLaw(law={"k": "categorical"}).fit(X).space_.columns[0].kind == "ordinal"


def test_levels(rng):
    X = pd.DataFrame({"c": rng.choice(list("abc"), 400, p=[0.5, 0.3, 0.2]), "b": rng.random(400) < 0.1})
    model = NamedLaw().fit(X)
    p = X.c.value_counts(normalize=True)
    table = model.summary_
    assert table.loc[("c", "p(a)"), "value"] == p["a"]
    assert table.loc[("c", "p(a)"), "standard_error"] == pytest.approx(math.sqrt(p["a"] * (1 - p["a"]) / 400))
    assert table.loc[("b", "p(True)"), "value"] == X.b.mean()
    expected = np.log(p[X.c].to_numpy()) + np.log(np.where(X.b, X.b.mean(), 1 - X.b.mean()))
    assert np.allclose(model.log_prob(X), expected)
    assert model.n_parameters_ == 3
    even = NamedLaw(law={"c": "uniform"}).fit(X)
    assert np.allclose(even.log_prob(X) - np.log(np.where(X.b, X.b.mean(), 1 - X.b.mean())), -math.log(3))


# ----------------------------------------------------------------------------------------------- what it promises


@pytest.mark.parametrize("name", REALS)
def test_draws_of_reals_follow_the_law(name):
    truth, claimed = REALS[name]
    model = NamedLaw(law=name).fit(values_of(truth))
    drawn = model.sample(5000, random_state=0).x
    assert stats.kstest(drawn, claimed(*found(model)[0]).cdf).pvalue > 1e-3


@pytest.mark.parametrize("name", [*COUNTS, "rounded_normal"])
def test_draws_of_counts_follow_the_law(name):
    X = values_of(COUNTS[name if name in COUNTS else "binomial"][0])
    model = NamedLaw(law=name).fit(X)
    k = np.arange(0, 400)
    p = np.exp(model.log_prob(pd.DataFrame({"x": k})))
    assert p.sum() == pytest.approx(1, abs=1e-9)
    observed = np.bincount(model.sample(20_000, random_state=0).x, minlength=400)[:400]
    often = p * 20_000 > 5
    observed, expected = (np.append(v[often], v[~often].sum()) for v in (observed, p * 20_000))
    assert stats.chisquare(observed + 1e-9, expected + 1e-9, sum_check=False).pvalue > 1e-3


def mixed(rng, n: int = 300) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "hours": rng.gamma(2, 1.5, n),
            "t": rng.standard_t(4, n) * 2 + 10,
            "visits": rng.negative_binomial(3, 0.2, n),
            "colour": rng.choice(list("abc"), n),
            "member": rng.random(n) < 0.3,
        }
    )


def test_weights_are_repetitions(rng):
    X = mixed(rng)
    weight = rng.integers(0, 4, len(X))
    copies = X.loc[np.repeat(X.index, weight)].reset_index(drop=True)
    law = {"hours": "weibull", "t": "student_t", "visits": "negative_binomial"}
    a, b = NamedLaw(law=law).fit(X, sample_weight=weight), NamedLaw(law=law).fit(copies)
    assert np.allclose(a.log_prob(X), b.log_prob(X))
    assert np.allclose(a.summary_["standard_error"], b.summary_["standard_error"], rtol=1e-6)


def test_missing_cells_are_left_out(rng):
    X = mixed(rng)
    holed = X.copy()
    holed.loc[:99, "hours"], holed.loc[200:, "t"] = np.nan, np.nan
    model = NamedLaw().fit(holed)
    for column, rows in (("hours", slice(100, None)), ("t", slice(0, 199))):
        alone = NamedLaw().fit(X.loc[rows, [column]])
        assert np.allclose(model.summary_.loc[column, "value"], alone.summary_.loc[column, "value"])
    assert model.laws_["n"].tolist() == [200, 200, 300, 300, 300]
    row = X.iloc[:1].copy()
    parts = []
    for column in X:
        only = row.astype(object).copy()
        only.loc[:, [c for c in X if c != column]] = None
        parts.append(model.log_prob(only.astype({"hours": float, "t": float, "visits": float}))[0])
    assert sum(parts) == pytest.approx(model.log_prob(row)[0])


def test_likely_values_are_modes(rng):
    X = pd.DataFrame(
        {"g": rng.gamma(3, 2, 500), "k": rng.poisson(4.5, 500), "c": rng.choice(list("ab"), 500, p=[0.8, 0.2])}
    )
    model = NamedLaw(law={"g": "gamma", "k": "poisson"}).fit(X)
    filled = part.impute(model, pd.DataFrame({"g": [np.nan, 1.0], "k": [np.nan, 2], "c": ["b", None]}), how="likely")
    shape, rate = found(model, "g")[0]
    assert filled.g[0] == pytest.approx((shape - 1) / rate)
    grid = pd.DataFrame({"g": filled.g[0], "k": np.arange(30), "c": "a"})
    assert filled.k[0] == model.log_prob(grid).argmax() and filled.c.tolist() == ["b", "a"]


def test_every_mode_is_where_the_density_is_highest():
    for name, (truth, _) in (REALS | COUNTS).items():
        X = values_of(truth)
        model = NamedLaw(law=name).fit(X)
        mode = model.module_.likely_given(torch.full((1, 1), torch.nan, dtype=torch.float64)).item()
        highest = model.log_prob(pd.DataFrame({"x": [mode]}))[0]
        assert highest >= model.log_prob(model.sample(500, random_state=0)).max() - 1e-9, name


def test_what_was_learned_survives_a_file(tmp_path, rng):
    model = NamedLaw(law={"hours": "gamma"}).fit(mixed(rng))
    model.save(tmp_path / "m.plausible")
    other = plausible.load(tmp_path / "m.plausible")
    for table in ("summary_", "laws_", "criteria_"):
        pd.testing.assert_frame_equal(getattr(model, table), getattr(other, table))


def test_a_column_may_be_called_space(tmp_path, rng):
    model = NamedLaw(law={"space": "gamma"}).fit(pd.DataFrame({"space": rng.gamma(2, 1, 50)}))
    model.save(tmp_path / "m.plausible")
    assert plausible.load(tmp_path / "m.plausible").law == {"space": "gamma"}


def test_units(rng):
    X = pd.DataFrame({"a": rng.gamma(2, 3, 400), "b": rng.standard_t(4, 400), "c": rng.lognormal(1, 0.3, 400)})
    law = {"a": "gamma", "b": "student_t", "c": "log_normal"}
    model, other = NamedLaw(law=law).fit(X), NamedLaw(law=law).fit(X * 1000)
    ratio = other.summary_["value"] / model.summary_["value"]
    errors = other.summary_["standard_error"] / model.summary_["standard_error"]
    assert ratio[("a", "rate")] == pytest.approx(1e-3) and errors[("a", "rate")] == pytest.approx(1e-3)
    assert ratio[("b", "scale")] == pytest.approx(1e3) and ratio[("b", "degrees_of_freedom")] == pytest.approx(1)
    moved = other.summary_["value"] - model.summary_["value"]
    assert moved[("c", "mu")] == pytest.approx(math.log(1000)) and moved[("c", "sigma")] == pytest.approx(0, abs=1e-9)
    assert np.allclose(other.log_prob(X * 1000), model.log_prob(X) - 3 * math.log(1000))


def test_dates_and_distant_values_lose_no_precision(rng):
    seconds = 1.7e9 + rng.normal(0, 3, 500)
    model = NamedLaw(law="student_t").fit(seconds[:, None])
    near = NamedLaw(law="student_t").fit(seconds[:, None] - 1.7e9)
    assert np.allclose(found(model, "x0")[1], found(near, "x0")[1], rtol=1e-4)


def test_a_stream_and_two_halves_give_what_memory_gives(tmp_path, rng):
    X = mixed(rng, 500).round(6)
    X.to_csv(tmp_path / "x.csv", index=False)
    law = {"hours": "gamma", "t": "normal"}
    whole, streamed = NamedLaw(law=law).fit(X), NamedLaw(law=law).fit(Stream(tmp_path / "x.csv", chunk=70))
    assert np.allclose(streamed.summary_["value"], whole.summary_["value"])
    assert np.allclose(streamed.summary_["standard_error"], whole.summary_["standard_error"])
    z = whole.space_.encode(X)
    halves = whole._build(whole.space_, None)
    halves.summarise(z[:200], None)
    halves.summarise(z[200:], None)
    halves.update()
    assert torch.allclose(halves.log_prob(z), whole.module_.log_prob(z), rtol=1e-12)
    auto = NamedLaw().fit(Stream(tmp_path / "x.csv", chunk=70))
    assert not {"student_t", "laplace"} & set(auto.criteria_)
    with pytest.raises(DataError, match="'t': the law 'student_t' needs all values at once"):
        NamedLaw(law={"t": "student_t"}).fit(Stream(tmp_path / "x.csv", chunk=70))


@settings(max_examples=25)
@given(st.integers(0, 10**6), st.sampled_from(sorted(set(COUNTS) | {"rounded_normal"})))
def test_probabilities_of_counts_sum_to_one(seed, name):
    rng = np.random.default_rng(seed)
    X = pd.DataFrame({"x": rng.binomial(rng.integers(2, 30), 0.3 + 0.4 * rng.random(), 40) + 1})
    if X.x.nunique() < 2 or (name == "binomial" and X.x.var(ddof=0) >= X.x.mean()):
        return
    model = NamedLaw(law=name).fit(X)
    p = np.exp(model.log_prob(pd.DataFrame({"x": np.arange(0, 3000)})))
    assert p.sum() == pytest.approx(1, abs=1e-7)


# --------------------------------------------------------------------------------------------------- at the edges


def test_edges_are_noted_and_give_no_errors(rng):
    """Warnings are errors here: none is given."""
    X = pd.DataFrame({"k": rng.binomial(20, 0.5, 400), "x": rng.uniform(-1, 1, 400)})
    model = NamedLaw(law={"k": "negative_binomial", "x": "student_t"}).fit(X)
    assert math.isnan(found(model, "k")[1][0])
    assert found(model, "x")[0][2] == pytest.approx(1e3) and math.isnan(found(model, "x")[1][2])
    assert np.isfinite(found(model, "x")[1][:2]).all()
    assert (model.laws_["note"] == NOTES[1]).all()
    close = NamedLaw(law={"k": "poisson", "x": "normal"}).fit(X)
    assert np.allclose(model.log_prob(X), close.log_prob(X), atol=0.02)
    unseen = pd.DataFrame({"c": pd.Categorical(["a", "b"] * 20, categories=["a", "b", "c"])})
    table = NamedLaw().fit(unseen)
    assert math.isinf(table.log_prob(pd.DataFrame({"c": pd.Categorical(["c"], categories=list("abc"))}))[0]) or (
        table.laws_.loc["c", "law"] == "uniform"
    )


def test_values_that_repeat_make_no_spike_without_bound(rng):
    X = np.concatenate([np.full((150, 1), 0.25), rng.normal(size=(50, 1))])
    for law in ("student_t", "cauchy", "laplace", "auto"):
        assert NamedLaw(law=law).fit(X).log_prob(X).max() < 20
    auto = NamedLaw().fit(X)
    assert auto.laws_.loc["x0", "note"] != NOTES[1] and auto.laws_.loc["x0", "law"] == "laplace"


def test_a_value_out_of_the_support_has_probability_zero(rng):
    model = NamedLaw(law={"x": "uniform", "y": "gamma"}).fit(
        pd.DataFrame({"x": rng.random(50), "y": rng.gamma(2, 1, 50)})
    )
    rows = pd.DataFrame({"x": [0.5, 2.0, 0.5], "y": [1.0, 1.0, -1.0]})
    assert np.isfinite(model.log_prob(rows)).tolist() == [True, False, False]


def test_the_n_of_a_binomial(rng):
    X = pd.DataFrame({"k": rng.binomial(12, 0.4, 800)})
    profile = {n: stats.binom.logpmf(X.k, n, X.k.mean() / n).sum() for n in range(X.k.max(), 200)}
    model = NamedLaw(law="binomial").fit(X)
    assert found(model, "k")[0][0] == max(profile, key=profile.get)
    assert model.laws_.loc["k", "n_parameters"] == 2
    told = NamedLaw(law="k=binomial(20)").fit(X)
    assert found(told, "k")[0] == [20, pytest.approx(X.k.mean() / 20)]
    assert found(told, "k")[1][1] == pytest.approx(math.sqrt(X.k.mean() / 20 * (1 - X.k.mean() / 20) / (20 * 800)))
    with pytest.raises(DataError, match="'k': the law 'binomial' with n = 3 has no values above that"):
        NamedLaw(law="binomial(3)").fit(X)
    with pytest.raises(DataError, match="'k': the law 'binomial' of unknown n needs a variance below the mean"):
        NamedLaw(law="binomial").fit(pd.DataFrame({"k": rng.geometric(0.1, 300)}))


def test_bad_input_is_refused_with_a_sentence(rng):
    X = pd.DataFrame({"x": rng.normal(size=50), "k": rng.poisson(400, 50), "c": rng.choice(list("ab"), 50)})
    for law in ("gamma", "log_normal", "weibull"):
        with pytest.raises(DataError, match=f"column 'x': the law '{law}' is a law of numbers above zero.*holds -"):
            NamedLaw(law={"x": law}).fit(X)
    with pytest.raises(DataError, match="between zero and one, and the column holds"):
        NamedLaw(law={"x": "beta"}).fit(X)
    with pytest.raises(DataError, match="'k' is count, and 'normal' is no law of that.*space={'k': 'real'}"):
        NamedLaw(law={"k": "normal"}).fit(X)
    with pytest.raises(DataError, match="'x' is real, and 'poisson' is no law of reals"):
        NamedLaw(law={"x": "poisson"}).fit(X)
    with pytest.raises(DataError, match="'c' is binary, and 'gamma' is no law of that; there are: "):
        NamedLaw(law="gamma").fit(X[["c"]])
    with pytest.raises(OptionError, match="did you mean 'poisson'"):
        NamedLaw(law="poison").fit(X)
    with pytest.raises(OptionError, match="names a column 'y'; there are: x, k, c"):
        NamedLaw(law={"y": "normal"}).fit(X)
    with pytest.raises(OptionError, match="only a binomial law has a number"):
        NamedLaw(law="gamma(3)").fit(X)
    with pytest.raises(DataError, match="'x': the law 'normal' needs values that vary"):
        NamedLaw(law={"x": "normal"}).fit(X, sample_weight=np.eye(50)[3])
    with pytest.raises(DataError, match="'x' has no observed value with a positive weight"):
        NamedLaw().fit(X.assign(x=np.where(np.arange(50) < 25, np.nan, X.x)), sample_weight=np.arange(50) < 25)


def test_the_list_of_laws_only_grows():
    """A file knows a law by its place: this list may get longer at its end."""
    first = ["categorical", "bernoulli", "binomial", "uniform", "poisson", "geometric", "shifted_geometric", "binomial"]
    first += ["negative_binomial", "rounded_normal", "uniform", "normal", "laplace", "logistic", "gumbel", "cauchy"]
    first += ["student_t", "uniform", "exponential", "gamma", "weibull", "log_normal", "beta"]
    assert [law.name for law in LAWS][: len(first)] == first
    assert set(NAMES) == set(first)
