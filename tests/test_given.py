"""Given a part: draws, scores and tables against enumeration, on any family that answers exactly."""

from __future__ import annotations

from itertools import product

import numpy as np
import pandas as pd
import pytest
from scipy import stats

import plausible as pl
from plausible.errors import CapabilityError, DataError
from plausible.uses import given


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


@pytest.fixture(scope="module")
def model(people):
    return pl.Histogram(random_state=0).fit(people)


@pytest.fixture(scope="module")
def joint(model) -> pd.Series:
    """The probability of every state, from log_prob of complete rows alone."""
    states = pd.MultiIndex.from_product([c.levels for c in model.space_.columns], names=[*model.space_.names])
    rows = states.to_frame(index=False)
    return pd.Series(np.exp(model.log_prob(rows)), index=states)


def test_table_is_the_enumerated_one(model, joint):
    assert joint.sum() == pytest.approx(1)
    found = given.table(model, "grade", {"paid": True})
    truth = joint.xs(True, level="paid").groupby("grade").sum()
    np.testing.assert_allclose(found[truth.index], truth / truth.sum(), atol=1e-12)
    both = given.table(model, ["seats", "paid"])
    assert both.sum() == pytest.approx(1)
    np.testing.assert_allclose(both, joint.groupby(["seats", "paid"]).sum()[both.index], atol=1e-12)


def test_log_prob_given_is_the_ratio(model, people, joint):
    found = given.log_prob(model, people[:50], ["paid"])
    rows = pd.MultiIndex.from_frame(people[:50])
    paid = joint.groupby("paid").sum().to_dict()
    truth = np.log(joint[rows].to_numpy() / people.paid[:50].map(paid).to_numpy())
    np.testing.assert_allclose(found, truth, atol=1e-10)
    mask = np.array([False, True, False])
    np.testing.assert_allclose(given.log_prob(model, people[:50], mask), truth, atol=1e-10)


def test_draws_follow_the_conditional(model, joint):
    draws = given.sample(model, pd.DataFrame({"paid": [True] * 4000}), random_state=1)
    assert draws.paid.all() and draws.paid.dtype == bool
    truth = joint.xs(True, level="paid")
    truth = truth / truth.sum()
    observed = draws.groupby(["grade", "seats"]).size().reindex(truth.index, fill_value=0)
    assert stats.chisquare(observed, truth * 4000).pvalue > 1e-3


def test_known_values_come_back_bit_for_bit():
    rng = np.random.default_rng(0)
    X = pd.DataFrame(rng.normal(size=(200, 3)) @ rng.normal(size=(3, 3)) / 7, columns=["a", "b", "c"])
    X["c"] = X["c"].astype("float32")
    model = pl.Histogram(random_state=0).fit(X)
    holes = X.copy()
    holes.loc[::2, "a"] = None
    full = given.sample(model, holes, random_state=0)
    assert not full.isna().any().any()
    assert full.dtypes.equals(X.dtypes)
    known = holes.notna()
    assert full.where(known).equals(holes)
    assert full.loc[::2, "a"].nunique() > 50


def test_several_completions_and_the_seed(model):
    X = pd.DataFrame({"grade": ["low", None], "paid": [None, False]})
    several = given.sample(model, X, n=5, random_state=3)
    assert len(several) == 5 and all(len(s) == 2 for s in several)
    again = given.sample(model, X, n=5, random_state=3)
    assert all(a.equals(b) for a, b in zip(several, again, strict=True))
    assert given.impute(model, X, random_state=3).equals(several[0])


@pytest.mark.parametrize("layout", ["HW", "HWC"])
def test_images_through_a_mask(layout):
    rng = np.random.default_rng(0)
    top = rng.integers(0, 2, (500, 1, 2))
    images = np.concatenate([top, top], 1).astype(np.uint8)  # the lower half repeats the upper
    mask = np.array([[False, False], [True, True]])
    if layout == "HWC":
        images, mask = images[..., None].repeat(3, 3)[..., :1], mask[..., None]
    model = pl.Histogram(random_state=0).fit(images)
    hidden = np.where(mask, 0, images)
    full = given.sample(model, hidden, mask=mask, random_state=0)
    assert full.dtype == np.uint8
    assert (full == images).mean() > 0.99


def test_what_is_refused(model, people):
    with pytest.raises(DataError, match="no column 'height'"):
        given.sample(model, pd.DataFrame({"height": [1.0]}))
    with pytest.raises(DataError, match="True and False"):
        given.sample(model, people, mask=np.zeros(3))
    with pytest.raises(DataError, match="does not fit"):
        given.sample(model, people, mask=np.zeros(7, dtype=bool))
    with pytest.raises(DataError, match="once"):
        given.table(model, "paid", {"paid": True})
    flow = pl.CouplingFlow(epochs=1, random_state=0).fit(np.random.default_rng(0).normal(size=(50, 2)))
    with pytest.raises(CapabilityError, match="histogram"):
        given.sample(flow, np.full((1, 2), np.nan))
    with pytest.raises(CapabilityError, match="integrate"):
        given.log_prob(flow, np.zeros((1, 2)), np.array([True, False]))
    with pytest.raises(CapabilityError, match="most likely"):
        given.impute(model, people, how="likely")
    with pytest.raises(DataError, match="'draw', 'likely' or 'mean'"):
        given.impute(model, people, how="median")
    rounded = pl.Gaussian().fit(np.random.default_rng(0).poisson(30, (200, 2)))
    with pytest.raises(CapabilityError, match="bound"):
        given.sample(rounded, np.full((1, 2), np.nan))


# ------------------------------------------------------------------------------------- where there is no exact answer


@pytest.fixture(scope="module")
def in_order(people):
    return pl.MADE(hidden=(16,), epochs=8, learning_rate=0.02, random_state=0).fit(people)


@pytest.fixture(scope="module")
def in_order_joint(in_order) -> pd.Series:
    states = pd.MultiIndex.from_product([c.levels for c in in_order.space_.columns], names=in_order.space_.names)
    return pd.Series(np.exp(in_order.log_prob(states.to_frame(index=False))), index=states)


def agree(draws: pd.DataFrame, truth: pd.Series) -> float:
    """p-value of draws being of these probabilities."""
    observed = draws.groupby(truth.index.names).size().reindex(truth.index, fill_value=0)
    return stats.chisquare(observed, truth / truth.sum() * len(draws)).pvalue


def test_out_of_order_by_weighted_proposals(in_order, in_order_joint):
    X = pd.DataFrame({"seats": [3] * 800 + [0] * 800})
    with pytest.raises(DataError, match="one after it is known.*'auto'"):
        given.sample(in_order, X)
    found = given.sample(in_order, X, n=2, method="auto", random_state=0)
    assert found.kind == "approximate" and found.method == "importance" and "effective sample size" in repr(found)
    assert found.effective_sample_size.shape == (1600,) and 100 < found.effective_sample_size.max() < 500
    for draws in found.examples:
        assert (draws.seats == X.seats).all() and draws.paid.dtype == bool
        for seats in (3, 0):
            assert agree(draws[draws.seats == seats], in_order_joint.xs(seats, level="seats")) > 1e-3


def test_in_order_is_exact_and_says_so(in_order, people):
    X = people.assign(seats=None)
    found = given.sample(in_order, X, method="auto", random_state=1)
    assert found.kind == "exact" and np.isinf(found.effective_sample_size).all()
    pd.testing.assert_frame_equal(found.examples, given.sample(in_order, X, random_state=1))


def test_weights_average_to_the_probability_of_what_is_known(in_order, in_order_joint):
    rows = pd.DataFrame({"grade": ["low", "top"] * 50, "paid": [True, False] * 50, "seats": [1, 2] * 50})
    found = given.log_prob(in_order, rows, ["seats"], method="auto", random_state=0)
    seats = in_order_joint.groupby("seats").sum()
    truth = np.log(in_order_joint[pd.MultiIndex.from_frame(rows)].to_numpy() / seats[rows.seats].to_numpy())
    assert found.kind == "estimate" and (found.standard_error > 0).all()
    off = (found.values - truth) / found.standard_error
    assert abs(off.mean()) < 0.5 and 0.7 < off.std() < 1.4 and abs(off).max() < 5


def test_an_exact_log_prob_has_no_error(model, people):
    found = given.log_prob(model, people[:9], ["paid"], method="auto")
    assert found.kind == "exact" and not found.standard_error.any()
    np.testing.assert_array_equal(found.values, given.log_prob(model, people[:9], ["paid"]))


def test_a_latent_code_is_weighed(people):
    """Against the integral over a code of one dimension."""
    import torch

    vae = pl.VAE(latent=1, hidden=(16,), epochs=8, learning_rate=0.02, dropout=0.0, random_state=0).fit(people)
    states = pd.MultiIndex.from_product([c.levels for c in vae.space_.columns], names=vae.space_.names)
    x = vae.space_.encode(states.to_frame(index=False)).double()
    h, w = np.polynomial.hermite_e.hermegauss(80)
    module = vae._evaluator()
    with torch.no_grad():
        params = module.decode(torch.from_numpy(h)[:, None])
        each = torch.stack([module.heads.log_prob(params, row.expand(len(h), -1)).sum(1).exp() for row in x])
    joint = pd.Series(each.numpy() @ w / np.sqrt(2 * np.pi), index=states)
    assert joint.sum() == pytest.approx(1, abs=1e-6)
    X = pd.DataFrame({"seats": [3] * 500})
    found = given.sample(vae, X, method="auto", random_state=0)
    assert found.kind == "approximate" and (found.examples.seats == 3).all()
    assert agree(found.examples, joint.xs(3, level="seats")) > 1e-3
    rows = pd.DataFrame({"grade": ["low"] * 60, "paid": [True] * 60, "seats": [0] * 60})
    scored = given.log_prob(vae, rows, ["seats"], method="importance", random_state=0)
    truth = np.log(joint["low", True, 0] / joint.groupby("seats").sum()[0])
    off = (scored.values - truth) / scored.standard_error
    assert abs(off.mean()) < 0.6 and abs(off).max() < 5


def test_a_density_without_conditionals_takes_a_chain(monkeypatch):
    monkeypatch.setattr("plausible.uses.approximate.CHAIN_DRAWS", 100)
    rng = np.random.default_rng(0)
    a = rng.normal(size=400)
    X = np.stack([a, a**2 / 2 + 0.5 * rng.normal(size=400)], 1)
    flow = pl.CouplingFlow(layers=1, hidden=(8,), epochs=5, random_state=0).fit(X)
    found = given.sample(flow, np.array([[np.nan, 1.0], [0.5, 0.5]]), n=200, method="auto", random_state=0)
    assert found.method == "chain" and found.acceptance.shape == (2,) and np.isinf(found.effective_sample_size[1])
    assert all((e[1] == [0.5, 0.5]).all() and e[0, 1] == 1.0 for e in found.examples)
    grid = np.linspace(-6, 6, 2001)
    density = np.exp(flow.log_prob(np.stack([grid, np.ones_like(grid)], 1)))
    below = np.cumsum(density) / density.sum()
    drawn = np.array([e[0, 0] for e in found.examples])
    far = stats.ks_1samp(drawn, lambda x: np.interp(x, grid, below)).statistic
    assert far < 1.95 / np.sqrt(min(found.effective_sample_size[0], 200))


@pytest.mark.parametrize("name", ["MADE", "Markov"])
def test_blanks_of_a_text(name):
    words = ["abca", "cab", "ab", "bcab", "cca", "abab"] * 20
    settings = {"hidden": (16,), "epochs": 10, "learning_rate": 0.02} if name == "MADE" else {}
    model = getattr(pl, name)(random_state=0, **settings).fit(words)
    found = given.sample(model, ["a_c_"] * 600 + ["_b"], blank="_", method="auto", random_state=0)
    assert found.kind == ("exact" if name == "Markov" else "approximate")
    texts = found.examples
    assert all(len(t) == 4 and t[0] == "a" and t[2] == "c" for t in texts[:-1]) and texts[-1][1:] == "b"
    states = [f"a{x}c{y}" for x in "abc" for y in "abc"]
    truth = np.exp(model.log_prob(states))
    observed = np.array([texts[:-1].count(s) for s in states])
    few = truth / truth.sum() < 0.01
    observed, truth = (np.append(v[~few], v[few].sum() + 1e-12) for v in (observed, truth))
    assert stats.chisquare(observed, truth / truth.sum() * 600, sum_check=False).pvalue > 1e-3
    with pytest.raises(DataError, match="no text of the model holds"):
        given.sample(model, ["a_"], blank="a")


def test_bounds_have_no_difference():
    """Counts that are made real by noise have a bound on log p, and what is left of two bounds is none."""
    X = pd.DataFrame(np.random.default_rng(0).poisson(30, size=(300, 2)), columns=["a", "b"])
    model = pl.Gaussian(space={"a": "ordinal"}).fit(X)
    assert model.likelihood_kind_ == "lower_bound"
    for ask in (lambda: given.log_prob(model, X, ["a"]), lambda: given.log_prob(model, X, ["a"], method="auto")):
        with pytest.raises(CapabilityError, match="bound"):
            ask()
    with pytest.raises(CapabilityError, match="bound"):
        given.table(model, "a", {"b": 30})


def test_the_rest_of_a_text_may_be_its_end():
    """A string that is partly known may end behind what is known, and nowhere before."""
    words = ["aba", "ba", "ab", "bb", "b", "bab"] * 20
    model = pl.MADE(hidden=(16,), epochs=10, learning_rate=0.02, random_state=0).fit(words)
    strings = [""] + ["".join(s) for n in (1, 2, 3) for s in product("ab", repeat=n)]
    p = np.exp(model.log_prob(strings))
    assert p.sum() == pytest.approx(1, abs=1e-6)
    known = np.array([False, True, False])
    found = given.log_prob(model, ["ab", "aba", "bb"], known, method="importance", random_state=0)
    with_b = sum(v for s, v in zip(strings, p, strict=True) if s[1:2] == "b")
    truth = np.log([p[strings.index(s)] / with_b for s in ("ab", "aba", "bb")])
    assert np.all(np.abs(found.values - truth) < 5 * found.standard_error + 1e-6)
    assert found.standard_error.max() < 0.2


def test_several_fillings_and_their_mean():
    rng = np.random.default_rng(0)
    X = pd.DataFrame(rng.normal(size=(300, 3)) @ rng.normal(size=(3, 3)), columns=list("abc"))
    model = pl.Gaussian().fit(X)
    holes = X.mask(rng.random(X.shape) < 0.4)
    several = given.impute(model, holes, n=3, random_state=0)
    assert len(several) == 3 and not several[0].equals(several[1])
    assert all(f.where(holes.notna()).equals(holes) and f.notna().all().all() for f in several)
    middle, likely = given.impute(model, holes, "mean", n=900, random_state=0), given.impute(model, holes, "likely")
    assert middle.where(holes.notna()).equals(holes)
    assert (middle - likely).abs().max().max() < 5 * X.std().max() / 30
    with pytest.raises(DataError, match="nothing is known"):
        given.impute(model, X * np.nan)


def test_the_level_drawn_most_often(model, joint):
    X = pd.DataFrame({"grade": ["low", "top"], "paid": [True, True]})
    filled = given.impute(model, X, "mean", n=400, random_state=0)
    assert list(filled.grade) == ["low", "top"]
    assert list(filled.seats) == [joint[grade, True].idxmax() for grade in X.grade]


def test_who_cannot_says_so(people):
    gan = pl.GAN(epochs=1, random_state=0).fit(np.random.default_rng(0).normal(size=(60, 2)))
    for method in ("exact", "auto", "importance", "chain"):
        with pytest.raises(CapabilityError, match="mixture|made"):
            given.sample(gan, np.array([[np.nan, 1.0]]), method=method)
    with pytest.raises(DataError, match="method must be"):
        given.sample(gan, np.array([[np.nan, 1.0]]), method="magic")
