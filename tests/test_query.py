"""Queries against enumeration, closed forms and quadrature; the error bars of estimates by simulation."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given as over
from hypothesis import strategies as st
from scipy import stats

import plausible as pl
from plausible.errors import CapabilityError, DataError
from plausible.space import Column
from plausible.uses import query
from plausible.uses.expression import Expression


@pytest.fixture(scope="module")
def people() -> pd.DataFrame:
    rng = np.random.default_rng(0)
    grade = rng.integers(3, size=600)
    return pd.DataFrame(
        {
            "grade": np.array(["low", "mid", "top"], dtype=object)[grade],
            "paid": rng.random(600) < 0.2 + 0.3 * grade,
            "seats": rng.binomial(3, 0.2 + 0.3 * grade),
        }
    )


def joint_of(model) -> pd.DataFrame:
    """All states, and p of each, from log_prob of complete rows alone."""
    states = pd.MultiIndex.from_product([c.levels for c in model.space_.columns], names=[*model.space_.names])
    rows = states.to_frame(index=False)
    return rows.assign(p=np.exp(model.log_prob(rows)))


@pytest.fixture(scope="module")
def table(people):
    return pl.Histogram(random_state=0).fit(people)


@pytest.fixture(scope="module")
def normal():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(400, 3)) @ rng.normal(size=(3, 3)) * [1, 20, 0.05] + [0, 50, 3]
    return pl.Gaussian().fit(pd.DataFrame(X, columns=list("abc"))), X.mean(0), np.cov(X.T, bias=True)


@pytest.fixture(scope="module")
def mixed():
    rng = np.random.default_rng(0)
    sex = rng.integers(2, size=500)
    X = pd.DataFrame(
        {
            "sex": np.array(["F", "M"], dtype=object)[sex],
            "age": rng.normal(40 + 5 * sex, 10),
            "visits": rng.poisson(30 + 20 * sex),
        }
    )
    return pl.Mixture(n_components=2, random_state=0, space={"visits": "count"}).fit(X)


# --------------------------------------------------------------------------------------------------------- exact


@pytest.mark.parametrize(
    "event",
    [
        "grade == 'low'",
        "grade != 'low' and (seats >= 2 or paid)",
        "~paid & (seats in [0, 3])",
        "0 < seats <= 2",
        "seats * 2 - 1 > 2 and grade in ('low', 'top')",
    ],
)
def test_events_are_enumerated(table, event):
    states = joint_of(table)
    found = query.probability(table, event)
    assert found.kind == "exact" and found.method == "enumeration" and found.standard_error == 0
    assert repr(found).endswith("(exact for the model, by enumeration)")  # and not about the world
    inside = states.query(event)
    assert float(found) == pytest.approx(inside.p.sum(), abs=1e-10)
    states = states[states.paid]
    inside = inside[inside.paid]
    assert query.probability(table, event, {"paid": True}).value == pytest.approx(inside.p.sum() / states.p.sum())


def test_predicates_and_functions_are_enumerated(table):
    states = joint_of(table)
    inside = states[(states.seats > 1) & (states.grade == "top")]
    found = query.probability(table, lambda df: (df.seats > 1) & (df.grade == "top"))
    assert found.kind == "exact" and found.value == pytest.approx(inside.p.sum())
    found = query.expectation(table, lambda df: df.seats**2 + df.paid)
    assert found.kind == "exact" and found.value == pytest.approx(states.p @ (states.seats**2 + states.paid))


def test_moments_of_levels(table):
    states = joint_of(table)
    p, seats, paid = states.p, states.seats.astype(float), states.paid.astype(float)
    assert query.mean(table, "seats").value == pytest.approx(p @ seats)
    assert list(query.mean(table).value.index) == ["paid", "seats"]
    assert query.variance(table, "seats").value == pytest.approx(p @ seats**2 - (p @ seats) ** 2)
    found = query.covariance(table, ["seats", "paid"])
    assert found.kind == "exact"
    assert found.value.loc["seats", "paid"] == pytest.approx(p @ (seats * paid) - (p @ seats) * (p @ paid))
    for q in (0.1, 0.5, 0.93):
        order = seats.argsort()
        least = seats[order][(p[order].cumsum() >= q - 1e-12).to_numpy().argmax() :].iloc[0]
        assert query.quantile(table, "seats", q).value == least


def test_a_normal_in_closed_form(normal):
    model, mean, covariance = normal
    law = stats.norm(mean[1], np.sqrt(covariance[1, 1]))
    found = query.probability(model, "30 < b <= 55 or b > 70")
    assert found.method == "quadrature"
    assert found.value == pytest.approx(law.cdf(55) - law.cdf(30) + law.sf(70), abs=1e-7)
    for q in (0.001, 0.3, 0.975):
        assert query.quantile(model, "b", q).value == pytest.approx(law.ppf(q), rel=1e-5)
    assert query.expectation(model, "b**2 - b").value == pytest.approx(
        mean[1] ** 2 + covariance[1, 1] - mean[1], rel=1e-6
    )
    np.testing.assert_allclose(query.mean(model).value, mean, rtol=1e-9)
    np.testing.assert_allclose(query.covariance(model).value, covariance, rtol=1e-6)
    known = mean[0] + 1.5
    b = covariance[1:, 0] / covariance[0, 0]
    found = query.mean(model, given={"a": known})
    assert found.method == "closed form"
    np.testing.assert_allclose(found.value, [known, *(mean[1:] + 1.5 * b)], rtol=1e-7)
    left = covariance[1:, 1:] - np.outer(b, covariance[0, 1:])
    np.testing.assert_allclose(query.covariance(model, ["b", "c"], {"a": known}).value, left, rtol=1e-5)
    np.testing.assert_allclose(query.variance(model, ["b", "c"], {"a": known}).value, np.diag(left), rtol=1e-5)
    assert query.quantile(model, "b", 0.5, {"a": known}).value == pytest.approx(mean[1] + 1.5 * b[0], rel=1e-6)


def test_mixed_columns_against_many_draws(mixed):
    draws = mixed.sample(200_000, random_state=1)
    for event in ("age > 45 and sex == 'F'", "visits < 35", "visits >= 40 and sex == 'M' or visits == 33"):
        found = query.probability(mixed, event)
        assert found.kind == "exact"
        p = float(draws.eval(event).mean())
        assert abs(found.value - p) < 4.5 * np.sqrt(p * (1 - p) / len(draws))
    known = draws[draws.sex == "M"]
    assert query.mean(mixed, "visits", {"sex": "M"}).value == pytest.approx(known.visits.mean(), abs=0.15)
    assert query.variance(mixed, "age", {"sex": "M"}).value == pytest.approx(known.age.var(), rel=0.03)
    assert query.quantile(mixed, "visits", 0.9, {"sex": "M"}).value == known.visits.quantile(0.9)
    found = query.covariance(mixed, ["age", "visits"], random_state=0)  # of two numbers, one of them a count
    assert found.kind == "estimate"
    assert (abs(found.value - draws[["age", "visits"]].cov()) < 5 * found.standard_error).all().all()


@pytest.mark.parametrize(
    "settings",
    [{"covariance": "full"}, {"covariance": "tied"}, {"covariance": "spherical"}, {"covariance": "factors", "rank": 1}]
    + [{"degrees": 5.0}],
    ids=lambda s: "-".join(map(str, s.values())),
)
def test_moments_of_a_mixture_are_exact(settings):
    """Of two reals, given a third and a word: against sums of p over a fine grid."""
    rng = np.random.default_rng(0)
    kind = rng.integers(2, size=400)
    base = rng.normal(size=(400, 3)) @ [[1, 0.8, 0.3], [0, 0.5, 0.4], [0, 0, 1]]
    X = pd.DataFrame(base * [1, 20, 0.1] + kind[:, None] * [3, -10, 0.1], columns=list("abc"))
    X["kind"] = np.array(["no", "yes"], dtype=object)[kind]
    model = pl.Mixture(n_components=3, random_state=0, **settings).fit(X)
    a, b = (np.linspace(-s, s, 301) for s in (16, 250))
    for known in ({"kind": "yes"}, {"c": 0.15, "kind": "no"}):
        found, means = query.covariance(model, ["a", "b"], known), query.mean(model, ["a", "b"], known)
        assert found.method == means.method == "closed form"
        grid = pd.DataFrame({"a": np.repeat(a, len(b)), "b": np.tile(b, len(a)), "c": np.nan}).assign(**known)
        p = np.exp(model.log_prob(grid))
        p, points = p / p.sum(), grid[["a", "b"]].to_numpy()
        np.testing.assert_allclose(means.value, p @ points, rtol=1e-3, atol=1e-3)
        off = points - p @ points
        np.testing.assert_allclose(
            found.value, (off * p[:, None]).T @ off, rtol=0.02 if "degrees" in settings else 1e-3
        )


def test_moments_that_a_student_lacks_are_not_in_closed_form():
    X = stats.t.rvs(1.5, size=(300, 2), random_state=0)
    model = pl.Mixture(n_components=1, degrees=1.5, random_state=0).fit(X)
    assert query.variance(model, "x0").kind == "estimate"
    assert query.variance(model, "x0", {"x1": 0.3}).method == "closed form"  # a known column adds a degree of freedom


@pytest.mark.parametrize("columns", [["x"], ["x", "y"]])
def test_a_histogram_is_integrated_bin_by_bin(columns):
    """The density jumps at every edge: the mean is that of the bins, of which the transform knows the edges."""
    rng = np.random.default_rng(0)
    X = pd.DataFrame({"x": rng.gamma(2.0, size=2000), "y": rng.normal(size=2000)})[columns]
    model = pl.Histogram().fit(X)
    found = query.mean(model, "x")
    assert found.method == "quadrature"
    edges = model.transforms_.breaks(0).numpy()
    middle = (edges[:-1] + edges[1:]) / 2
    part = X.iloc[:0].reindex(range(len(middle))).assign(x=middle)
    mass = np.exp(model.log_prob(part)) * np.diff(edges)
    low, high = (
        1 - query.probability(model, f"x {sign} {float(edge)!r}").value
        for sign, edge in ((">", edges[0]), ("<", edges[-1]))
    )
    tail = float(model.transforms_.steps[0].tail[0])
    truth = mass @ middle + low * (edges[0] - tail) + high * (edges[-1] + tail)
    assert found.value == pytest.approx(truth, rel=1e-6)


def test_a_mean_that_does_not_exist_is_not_exact():
    X = stats.cauchy.rvs(size=(300, 1), random_state=0)
    model = pl.Mixture(n_components=1, degrees=1.0, random_state=0).fit(X)
    assert query.probability(model, "x0 > 0").kind == "exact"
    assert query.mean(model, "x0").kind == "estimate"


# ------------------------------------------------------------------------------------------------------ estimates


def test_error_bars_cover(normal):
    """P(a > mean and b > mean) of two normals of correlation r is 1/4 + arcsin(r) / (2 pi)."""
    model, mean, covariance = normal
    r = covariance[0, 1] / np.sqrt(covariance[0, 0] * covariance[1, 1])
    truth = 0.25 + np.arcsin(r) / (2 * np.pi)
    event = f"a > {mean[0]!r} and b > {mean[1]!r}".replace("np.float64(", "").replace(")", "")
    found = [query.probability(model, event, max_draws=400, random_state=s) for s in range(300)]
    assert found[0].kind == "estimate" and found[0].draws == 400
    inside = sum(abs(f.value - truth) < 1.96 * f.standard_error for f in found)
    assert stats.binomtest(inside, 300, 0.95).pvalue > 1e-3
    cov = [
        query.expectation(model, lambda df: (df.a - mean[0]) * (df.b - mean[1]), max_draws=400, random_state=s)
        for s in range(200)
    ]
    inside = sum(abs(f.value - covariance[0, 1]) < 1.96 * f.standard_error for f in cov)
    assert stats.binomtest(inside, 200, 0.95).pvalue > 1e-3


def test_error_bars_of_quantiles_and_variances_cover():
    rng = np.random.default_rng(0)
    X = pd.DataFrame({"a": rng.gamma(3.0, size=300), "b": rng.normal(size=300)})
    model = pl.CouplingFlow(layers=1, hidden=(4,), epochs=1, random_state=0).fit(X)  # no marginals: all is drawn
    many = model.sample(100_000, random_state=99).a
    for ask, truth in (
        (lambda s: query.quantile(model, "a", 0.8, max_draws=500, random_state=s), many.quantile(0.8)),
        (lambda s: query.variance(model, "a", max_draws=500, random_state=s), many.var()),
    ):
        found = [ask(s) for s in range(60)]
        assert found[0].kind == "estimate"
        inside = sum(abs(f.value - truth) < 1.96 * f.standard_error for f in found)
        assert stats.binomtest(inside, 60, 0.94).pvalue > 1e-3


def test_weighted_draws_agree_with_enumeration(people):
    model = pl.MADE(hidden=(16,), epochs=8, learning_rate=0.02, random_state=0).fit(people)
    states = joint_of(model)
    states = states[states.seats == 3]
    truth = states[states.grade == "top"].p.sum() / states.p.sum()
    found = [query.probability(model, "grade == 'top'", {"seats": 3}, max_draws=300, random_state=s) for s in range(80)]
    assert found[0].method == "weighted draws" and 20 < found[0].effective_sample_size < 300
    inside = sum(abs(f.value - truth) < 1.96 * f.standard_error for f in found)
    assert stats.binomtest(inside, 80, 0.95).pvalue > 1e-3


def test_draws_until_it_is_close_enough(normal):
    model, mean, _ = normal
    settings = {"random_state": 0}
    close = query.probability(model, "a > c", atol=0.002, **settings)
    assert close.standard_error <= 0.002 and 4000 < close.draws < 20_000
    capped = query.probability(model, "a > c", atol=1e-9, max_draws=3000, **settings)
    assert capped.draws == 3000 and capped.standard_error > 1e-9
    assert "estimate from 3,000 draws" in repr(capped) and "±" in repr(capped)
    never = query.probability(model, "a > b + 1e9", **settings)
    assert never.value == 0 and never.standard_error > 0


def test_predicates_on_images():
    images = np.random.default_rng(0).integers(0, 2, (300, 3, 3)).astype(np.uint8)
    model = pl.Independent().fit(images)
    p = np.array(
        [0.5 + (query.probability(model, lambda X, i=i: X[:, 0, i] == 1, random_state=0).value - 0.5) for i in range(3)]
    )
    found = query.probability(model, lambda X: X[:, 0].all(1), random_state=1)
    assert abs(found.value - p.prod()) < 5 * found.standard_error + 0.01
    with pytest.raises(DataError, match="no columns to name"):
        query.probability(model, "a > 3")


# ------------------------------------------------------------------------------------------------------ expressions

COLUMNS = (
    Column("a", "real"),
    Column("n", "count"),
    Column("two words", "real"),
    Column("kind", "categorical", ("x", "y")),
)
VALUES = {
    "a": np.array([-1.5, 0.0, 2.0, 7.25]),
    "n": np.array([0.0, 1.0, 2.0, 7.0]),
    "two words": np.array([1.0, 1.0, 2.0, -3.0]),
    "kind": np.array(["x", "y", "y", "x"]),
}
numbers = st.sampled_from(["a", "n", "`two words`", "2", "-1.5", "(a + n)", "(n * 2 - a)", "(a ** 2)"])
conditions = st.one_of(
    st.builds("{} {} {}".format, numbers, st.sampled_from(["<", "<=", ">", ">=", "==", "!="]), numbers),
    st.builds("(kind {} '{}')".format, st.sampled_from(["==", "!="]), st.sampled_from("xy")),
)
events = st.recursive(
    conditions,
    lambda inner: st.builds("(({}) {} ({}))".format, inner, st.sampled_from(["and", "or"]), inner),
    max_leaves=4,
)


@over(events.filter(lambda e: any(c in e for c in ("a ", "n ", "`", "kind"))))
def test_expressions_mean_what_pandas_takes_them_for(event):
    frame = pd.DataFrame(VALUES)
    np.testing.assert_array_equal(Expression(event, COLUMNS)(VALUES), frame.eval(event, engine="python"))


@pytest.mark.parametrize(
    "text",
    [
        "__import__('os').system('true')",
        "a.__class__",
        "kind[0] == 'x'",
        "(lambda: a)() > 1",
        "[x for x in a]",
        "a if a else n",
        "a := 3",
        "f'{a}' == 'x'",
        "a ** n > 1",
        "a ** 1e9 > 1",
        "a >",
        "",
        "1 > 0",
        "b > 3",
        "kind == 'z'",
        "kind in 'xy'",
        "kind > 3",
        "a == 'x'",
        "a" * 20_000,
        "-" * 5000 + "a",
    ],
)
def test_what_is_no_expression_is_refused(text):
    with pytest.raises(DataError):
        Expression(text, COLUMNS)


def test_where_an_expression_steps():
    assert Expression("a > 3 and -1 < a <= 2 or kind == 'x'", COLUMNS).cuts("a") == [-1, 2, 3]
    assert Expression("a > n", COLUMNS).cuts("a") is None
    assert Expression("a * 2 > 3", COLUMNS).cuts("a") is None
    assert Expression("a ** 2 + n", COLUMNS).smooth("a") and not Expression("n / a", COLUMNS).smooth("a")


# ----------------------------------------------------------------------------------------------------------- refused


def test_what_is_refused(table, normal, people):
    for ask in (
        lambda: query.probability(table, "height > 3"),
        lambda: query.probability(table, "seats"),
        lambda: query.probability(table, 3),
        lambda: query.probability(table, "paid", {"height": 3}),
        lambda: query.probability(table, "paid", {"grade": "none"}),
        lambda: query.probability(table, "paid", [3]),
        lambda: query.mean(table, "grade"),
        lambda: query.quantile(table, "seats", 1.5),
        lambda: query.probability(normal[0], "a > b", atol=0),
        lambda: query.expectation(table, lambda df: df.grade),
    ):
        with pytest.raises(DataError):
            ask()
    with pytest.raises(TypeError, match="unexpected"):
        query.mean(table, "seats", tol=3)
    certain = pl.BayesNet(prior=0, structure=[("a", "b")], random_state=0).fit(
        pd.DataFrame({"a": [0, 0, 1, 1, 2], "b": ["x", "x", "y", "y", "y"], "c": list("ststs")}, dtype=object)
    )
    assert query.probability(certain, "b == 'x'", {"a": 0}).value == 1
    with pytest.raises(DataError, match="probability zero"):
        query.probability(certain, "c == 's'", {"a": 0, "b": "y"})
    gan = pl.GAN(epochs=1, random_state=0).fit(np.random.default_rng(0).normal(size=(60, 2)))
    assert query.mean(gan, "x0", max_draws=100, random_state=0).kind == "estimate"
    with pytest.raises(CapabilityError, match="exactly"):
        query.mean(gan, "x0", {"x1": 0.5})
