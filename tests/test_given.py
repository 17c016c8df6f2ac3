"""Given a part: draws, scores and tables against enumeration, on any family that answers exactly."""

from __future__ import annotations

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
