"""Multiple imputation: means and intervals against the closed form of a normal, stacked weights, what is refused."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import stats
from sklearn.utils.estimator_checks import parametrize_with_checks

import plausible as pl
from plausible.errors import CapabilityError, DataError
from plausible.uses.imputer import _in_turn

MEAN, SCATTER = np.array([1.0, -2.0, 0.5]), np.array([[1.0, 0.8, 0.3], [0.8, 2.0, 0.0], [0.3, 0.0, 0.5]])


def with_holes(n: int, share: float = 0.3, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Rows of a normal, and the same with cells missing."""
    rng = np.random.default_rng(seed)
    X = rng.multivariate_normal(MEAN, SCATTER, n)
    return X, np.where(rng.random(X.shape) < share, np.nan, X)


def by_regression(holes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """E and standard deviation of each missing cell given the known ones of its row, under the true law."""
    mean, deviation = holes.copy(), np.zeros_like(holes)
    for i, row in enumerate(holes):
        m, o = np.isnan(row), ~np.isnan(row)
        back = SCATTER[np.ix_(m, o)] @ np.linalg.inv(SCATTER[np.ix_(o, o)])
        mean[i, m] = MEAN[m] + back @ (row[o] - MEAN[o])
        deviation[i, m] = np.sqrt(np.diag(SCATTER[np.ix_(m, m)] - back @ SCATTER[np.ix_(o, m)]))
    return mean, deviation


@pytest.fixture(scope="module")
def fitted():
    X, holes = with_holes(1500)
    return X, holes, pl.Imputer(pl.Gaussian(), fits=6, draws=50, random_state=0).fit(holes)


def test_what_is_filled_in_is_the_conditional_mean(fitted):
    _, holes, imputer = fitted
    filled, missing = imputer.transform(holes), np.isnan(holes)
    mean, deviation = by_regression(holes)
    assert (filled == holes)[~missing].all()
    off = (filled - mean)[missing] / deviation[missing]
    assert np.sqrt((off**2).mean()) < 0.12  # of 300 draws 0.06, the rest is the fits'


@pytest.mark.parametrize("level", [0.5, 0.9])
def test_intervals_are_those_of_the_normal_and_cover(fitted, level):
    X, holes, imputer = fitted
    missing = np.isnan(holes)
    low, high = imputer.intervals(holes, level=level)
    assert (low == holes)[~missing].all() and (high == holes)[~missing].all()
    covered = ((low <= X) & (X <= high))[missing]
    assert abs(covered.mean() - level) < 4 * np.sqrt(level * (1 - level) / missing.sum()) + 0.01
    _, deviation = by_regression(holes)
    width = (high - low)[missing] / deviation[missing] / (2 * stats.norm.ppf(0.5 + level / 2))
    assert abs(width.mean() - 1) < 0.08


def test_a_model_that_is_not_sure_enough_is_corrected():
    """A normal takes columns of heavy tails to be wide: its own intervals cover too much, calibrated ones do not."""
    rng = np.random.default_rng(0)
    X = rng.standard_t(1.5, size=(1500, 2))
    X[:, 1] += X[:, 0]
    holes = np.where(rng.random(X.shape) < 0.3, np.nan, X)
    imputer = pl.Imputer(pl.Gaussian(), fits=4, draws=50, random_state=0).fit(holes)
    missing = np.isnan(holes)
    low, high = imputer.intervals(holes, level=0.8)
    draws = np.stack(imputer.sample(holes, n=100, random_state=0))
    own = [np.quantile(draws, q, axis=0) for q in (0.1, 0.9)]
    covered, before = (((lo <= X) & (X <= hi))[missing].mean() for lo, hi in ((low, high), own))
    assert before > 0.9 and abs(covered - 0.8) < 0.05  # two standard errors, of the hidden cells and of the missing


def test_weights_go_to_the_candidate_that_finds_hidden_cells():
    rng = np.random.default_rng(0)
    cluster = rng.integers(0, 4, 400)
    X = np.stack([cluster // 2, cluster % 2, cluster == 3], 1) * 6.0 + rng.normal(size=(400, 3))
    holes = np.where(rng.random(X.shape) < 0.2, np.nan, X)
    grid = {"n_components": [1, 4]}
    imputer = pl.Imputer(pl.Mixture(n_init=1), grid=grid, fits=3, draws=10, random_state=0).fit(holes)
    assert imputer.candidates_ == [{"n_components": 1}, {"n_components": 4}]
    assert imputer.weights_[1] > 0.9 and imputer.weights_.sum() == pytest.approx(1)
    assert [len(models) for models in imputer.models_] == [3, 3]


def test_draws_keep_the_spread_and_a_table_its_columns():
    rng = np.random.default_rng(0)
    x = rng.normal(size=600)
    table = pd.DataFrame({"x": x, "side": np.where(x > 0, "up", "down"), "n": rng.poisson(30, 600)})
    holes = table.mask(rng.random(table.shape) < 0.25)
    imputer = pl.Imputer(pl.Mixture(n_components=3, n_init=1), fits=3, random_state=0).fit(holes)
    full, known = imputer.transform(holes), holes.notna()
    assert list(full) == list(table) and full.notna().all().all() and full.where(known).equals(holes.where(known))
    gaps = holes["side"].isna() & holes["x"].notna()
    assert (full["side"] == table["side"])[gaps].mean() > 0.85
    low, high = imputer.intervals(holes)
    assert low["side"].isna().equals(holes["side"].isna()) and (low["n"] <= high["n"]).all()
    first, again = (imputer.sample(holes, n=4, random_state=7) for _ in range(2))
    assert all(a.equals(b) for a, b in zip(first, again, strict=True)) and not first[0].equals(first[1])
    drawn = pd.concat([d.loc[holes["x"].isna(), "x"] for d in first])
    assert abs(drawn.std() / x.std() - 1) < 0.15
    assert full.loc[holes["x"].isna(), "x"].std() < 0.9 * x.std()


def test_of_many_rows_some_are_judged(monkeypatch):
    _, holes = with_holes(400)
    monkeypatch.setattr("plausible.uses.imputer.JUDGED", 100)
    imputer = pl.Imputer(pl.Gaussian(), fits=3, draws=4, random_state=0).fit(holes)
    assert 100 < imputer.n_hidden_ < 210  # the known cells of a hundred rows, less those of rows in all samples
    assert 0.5 < imputer.error_ < 1.5


def test_every_known_cell_is_hidden_as_often_and_the_rest_of_its_row_stays():
    rng = torch.Generator().manual_seed(0)
    known = torch.rand(4000, 12, generator=rng) < torch.linspace(0.1, 1, 12)
    rounds = torch.stack(_in_turn(known, rng))
    assert (rounds.sum(2) <= 1).all() and (rounds.sum(0) <= known).all() and len(rounds) == 6
    each = rounds.sum(0).sum(0) / known.sum(0)
    assert (each - 0.5).abs().max() < 0.1  # six rounds, twelve columns
    few = known.sum(1) < 5
    assert abs(rounds[:, few].sum() / known[few].sum() - 0.5) < 0.05
    assert torch.equal(torch.stack(_in_turn(known[:, :5], rng)).sum(0).bool(), known[:, :5])  # all of few columns


def test_new_rows_and_the_same_answer_twice(fitted):
    _, _, imputer = fitted
    _, new = with_holes(40, seed=5)
    assert np.isfinite(imputer.transform(new)).all()
    assert (imputer.transform(new) == imputer.transform(new)).all()


def test_what_cannot_be_done_is_refused_before_work():
    _, holes = with_holes(30)
    with pytest.raises(CapabilityError, match="mixture"):
        pl.Imputer(pl.MADE()).fit(holes)
    with pytest.raises(DataError, match="fits"):
        pl.Imputer(pl.Gaussian(), fits=1).fit(holes)
    with pytest.raises(DataError, match="tables"):
        pl.Imputer(pl.Mixture()).fit(["ab", "ba"])
    imputer = pl.Imputer(pl.Gaussian(), fits=2, random_state=0).fit(holes)
    for wrong in (0, 1, 1.5):
        with pytest.raises(DataError, match="level"):
            imputer.intervals(holes, level=wrong)
    with pytest.raises(DataError, match="n must"):
        imputer.sample(holes, n=0)


@parametrize_with_checks([pl.Imputer(pl.Mixture(n_components=1, max_iter=5), fits=2, draws=2, random_state=0)])
def test_scikit_learn(estimator, check):
    check(estimator)
