"""The numbers by which models are judged, against closed forms, enumeration and known laws."""

from __future__ import annotations

import itertools
import json
import math
import warnings
from dataclasses import dataclass
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import stats
from sklearn.base import BaseEstimator

import plausible
from plausible import registry
from plausible.errors import CapabilityError, DataError, DivergedWarning, InterruptedWarning, PlausibleError, ReadError
from plausible.evaluate import (
    Comparison,
    Likelihood,
    Row,
    classifier_two_sample_test,
    comparable,
    compare,
    difference,
    features,
    likelihood,
    mmd,
    novelty,
    sliced_wasserstein,
    verdict,
)
from plausible.evaluate.comparison import ranked
from plausible.evaluate.examples import as_json, marginals
from plausible.evaluate.novelty import distances
from plausible.space import infer


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


def typed(values, kind="exact", measure="counting") -> Likelihood:
    return Likelihood(np.asarray(values, float), kind, measure, "row", "column", 1.0)


class Fixed:
    """A fitted model whose log-densities are given."""

    def __init__(self, X, values, kind="exact"):
        self.space_, self.likelihood_kind_, self.values = infer(X), kind, np.asarray(values, float)

    def log_prob(self, X, *, importance_samples=None):
        return self.values + (0.25 if importance_samples else 0.0)


# ----------------------------------------------------------------------------------------------------- likelihood


def test_mean_standard_error_and_bits_are_the_textbook_ones(rng):
    X = rng.normal(size=(500, 3))
    values = stats.norm.logpdf(X).sum(1)
    found = likelihood(Fixed(X, values), X)
    assert found.mean == pytest.approx(values.mean())
    assert found.stderr == pytest.approx(stats.sem(values))
    assert found.bits_per_dim == pytest.approx(-values.mean() / 3 / math.log(2))
    assert (found.measure, found.per, found.kind, found.mark) == ("Lebesgue", "row", "exact", "=")


def test_fair_coins_cost_one_bit_each_and_missing_cells_cost_none(rng):
    X = rng.integers(0, 2, (200, 6)).astype(float)
    X[rng.random(X.shape) < 0.3] = np.nan
    values = -math.log(2) * (~np.isnan(X)).sum(1)
    assert likelihood(Fixed(X, values), X).bits_per_dim == pytest.approx(1.0)


def test_padding_of_short_strings_is_not_counted():
    X = ["ab", "b", "abba", ""]
    values = [-math.log(3) * min(len(s) + 1, 4) for s in X]  # a, b and the end, equally likely; after four, the end
    found = likelihood(Fixed(X, values), X)
    assert found.bits_per_dim == pytest.approx(math.log2(3))
    assert found.per == "string"
    assert found.bits_per_byte == pytest.approx(found.bits_per_dim)  # each character and each end is a byte
    assert "1.585 bits per character, 1.585 per byte" in str(found)


def test_bits_per_byte_count_the_bytes_of_characters():
    X = ["aé", "é€", "a"]  # 1, 2 and 3 bytes a character; the third string ends early
    values = [-2 * math.log(4)] * 3
    found = likelihood(Fixed(X, values), X)
    assert found.bits_per_dim == pytest.approx(2)
    assert found.bits_per_byte == pytest.approx(12 / (3 + 5 + 2))
    assert "2.000 bits per character, 1.200 per byte" in str(found)
    assert likelihood(Fixed(np.eye(3), [-1.0] * 3), np.eye(3)).bits_per_byte is None


def test_prints_as_a_person_would_write_it():
    images = np.zeros((10_000, 2, 2), np.uint8)
    images[:, 0, 0] = np.arange(10_000) % 2
    values = np.where(np.arange(10_000) % 2, -2.0, -1.0)
    found = likelihood(Fixed(images, values, "lower_bound"), images)
    expected = (
        "≥ -1.50 ± 0.01 nats per image (lower bound, counting measure, 10,000 images) = 0.541 bits per pixel value"
    )
    assert str(found) == expected


def test_weighted_values_are_an_estimate_and_say_from_how_many_samples(rng):
    X = rng.normal(size=(20, 2))
    model = Fixed(X, np.full(20, -3.0), "lower_bound")
    found = likelihood(model, X, importance_samples=50)
    assert (found.kind, found.mark, found.n_importance_samples, found.mean) == ("estimate", "≈", 50, -2.75)
    assert "estimate from 50 importance samples each" in str(found)
    exact = likelihood(Fixed(X, np.full(20, -3.0)), X, importance_samples=50)
    assert (exact.kind, exact.n_importance_samples, exact.mean) == ("exact", None, -3.0)


def test_impossible_examples_are_counted_and_leave_the_json_finite(rng):
    X = rng.integers(0, 2, (5, 2))
    found = likelihood(Fixed(X, [-1, -1, -np.inf, -1, -1]), X)
    assert found.mean == -np.inf and found.n_impossible == 1 and "1 row called impossible" in str(found)
    assert json.loads(json.dumps(found.to_json(), allow_nan=False))["mean"] is None


def test_a_model_without_density_is_told_what_to_use():
    with pytest.raises(CapabilityError, match="classifier_two_sample_test"):
        likelihood(SimpleNamespace(), np.zeros((3, 2)))


@pytest.mark.parametrize(("values", "message"), [([np.nan, 0.0], "diverged"), (np.zeros((2, 2)), "shape")])
def test_values_that_are_no_likelihood_are_refused(values, message):
    X = np.array([[0.5, 1.0], [2.5, 3.0]])
    with pytest.raises(DataError, match=message):
        likelihood(Fixed(X, values), X)


# ------------------------------------------------------------------------------------------------ two likelihoods


def test_paired_difference_is_far_sharper_than_the_means(rng):
    hardness = rng.normal(scale=30, size=400)
    a, b = typed(hardness + 1 + 0.1 * rng.normal(size=400)), typed(hardness)
    gap = difference(a, b)
    assert gap.mean == pytest.approx(np.mean(a.values - b.values))
    assert gap.stderr == pytest.approx(stats.sem(a.values - b.values))
    assert gap.stderr < 0.01 < a.stderr and gap.decided


def test_differences_need_the_same_examples_and_measure():
    with pytest.raises(DataError, match="3 and 4"):
        difference(typed([1, 2, 3]), typed([1, 2, 3, 4]))
    with pytest.raises(DataError, match="Lebesgue"):
        difference(typed([1, 2]), typed([1, 2], measure="Lebesgue"))


def test_rows_impossible_under_both_make_no_difference():
    gap = difference(typed([-1, -np.inf]), typed([-2, -np.inf]))
    assert gap.mean == 0.5
    assert difference(typed([-1, -1]), typed([-2, -np.inf])).decided
    assert not difference(typed([-np.inf, -1]), typed([-2, -np.inf])).decided


HIGH, LOW = np.array([-1.0, -1.1, -0.9, -1.0]), np.array([-5.0, -5.1, -4.9, -5.2])


@pytest.mark.parametrize(
    ("a", "b", "expected"),
    [
        (("exact", HIGH), ("exact", LOW), "better"),
        (("exact", LOW), ("exact", HIGH), "worse"),
        (("exact", HIGH), ("exact", HIGH), "tied"),
        (("lower_bound", HIGH), ("exact", LOW), "better"),  # the truth is higher still
        (("lower_bound", LOW), ("exact", HIGH), "undecided"),  # the truth may be anywhere above
        (("exact", HIGH), ("lower_bound", LOW), "undecided"),
        (("exact", LOW), ("lower_bound", HIGH), "worse"),
        (("upper_bound", LOW), ("exact", HIGH), "worse"),
        (("upper_bound", HIGH), ("exact", LOW), "undecided"),
        (("lower_bound", HIGH), ("upper_bound", LOW), "better"),
        (("lower_bound", HIGH), ("lower_bound", LOW), "undecided"),
        (("upper_bound", HIGH), ("upper_bound", LOW), "undecided"),
        (("estimate", HIGH), ("exact", LOW), "undecided"),  # an estimate proves nothing
        (("estimate", LOW), ("exact", HIGH), "undecided"),
    ],
)
def test_verdicts_claim_what_is_proved_and_no_more(a, b, expected):
    assert verdict(typed(a[1], a[0]), typed(b[1], b[0])) == expected


def test_verdicts_agree_with_the_truth_behind_the_bounds(rng):
    """Whatever the true values are, bounds drawn on their own sides of them never prove what is false."""
    kinds = {"exact": 0.0, "lower_bound": -1.0, "upper_bound": 1.0}
    for (kind_a, side_a), (kind_b, side_b) in itertools.product(kinds.items(), repeat=2):
        for _ in range(50):
            true_a, true_b = rng.normal(size=(2, 1)) + np.zeros((2, 30))
            a = typed(true_a + side_a * rng.exponential(size=30), kind_a)
            b = typed(true_b + side_b * rng.exponential(size=30), kind_b)
            found = verdict(a, b)
            assert found != "better" or true_a[0] > true_b[0]
            assert found != "worse" or true_a[0] < true_b[0]


def test_only_exact_values_on_one_measure_are_comparable():
    assert comparable(typed([1, 2]), typed([3, 4]))
    assert not comparable(typed([1, 2]), typed([3, 4], "lower_bound"))
    assert not comparable(typed([1, 2]), typed([3, 4], measure="mixed"))
    assert verdict(typed([9, 9]), typed([3, 4], measure="mixed")) == "undecided"


# -------------------------------------------------------------------------------------------------------- ranking


def row(name, values=None, kind="exact", c2st=None, **settings) -> Row:
    score = None if values is None else typed(values, kind)
    test = None if c2st is None else SimpleNamespace(value=c2st)
    return Row(name, name, likelihood=score, c2st=test, **settings)


def test_a_bound_is_ranked_above_an_exact_value_only_where_it_proves_it():
    middle = (HIGH + LOW) / 2
    rows = [
        row("gan worse", c2st=0.9),
        row("flattering estimate", HIGH + 9, "estimate"),
        row("flattering upper bound", HIGH + 9, "upper_bound"),
        row("low", LOW),
        row("hopeless lower bound", LOW - 9, "lower_bound"),
        row("gan", c2st=0.6),
        row("broken", status="failed", why="it broke"),
        row("lower bound", middle, "lower_bound"),
        row("not for these data", status="skipped", why="no"),
        row("high", HIGH),
    ]
    found = ranked(rows, "counting")
    assert [r.name for r in found] == [
        "high", "lower bound", "low", "hopeless lower bound", "flattering estimate", "flattering upper bound",
        "gan", "gan worse", "not for these data", "broken",
    ]  # fmt: skip
    assert {r.name: r.rank for r in found if r.rank} == {"high": 1, "low": 2}


def test_a_lower_bound_above_all_exact_values_comes_first_without_a_rank():
    found = ranked([row("exact", LOW), row("bound", HIGH, "lower_bound")], "counting")
    assert [(r.name, r.rank) for r in found] == [("bound", None), ("exact", 1)]
    assert found[0].difference.mean > 0 and found[0].difference_to == "exact"


def test_ties_are_within_two_standard_errors_of_the_paired_difference(rng):
    base = rng.normal(size=300)
    rows = [row("a", base), row("b", base - 0.001 + rng.normal(size=300)), row("c", base - 1 + rng.normal(size=300))]
    found = {r.name: r for r in ranked(rows, "counting")}
    assert found["a"].difference is None and not found["a"].tied
    assert found["b"].tied and not found["c"].tied


# ------------------------------------------------------------------------------------------------------- features


def test_features_hold_indicators_for_categories_and_standard_units_for_numbers():
    frame = pd.DataFrame({"colour": ["r", "g", "b", "g"], "n": [1.5, 2.5, np.nan, 6.5]})
    space = infer(frame)
    found = features(space, space.encode(frame))
    np.testing.assert_array_equal(found[:, :3], [[0, 0, 1], [0, 1, 0], [1, 0, 0], [0, 1, 0]])
    known = found[[0, 1, 3], 3]
    assert known.mean() == pytest.approx(0) and known.std() == pytest.approx(1) and found[2, 3] == 0


def test_features_of_samples_use_the_scale_of_real_rows(rng):
    real, made = rng.normal(5, 10, (1000, 1)), rng.normal(25, 10, (1000, 1))
    space = infer(real)
    assert features(space, space.encode(made), real=space.encode(real)).mean() == pytest.approx(2, abs=0.1)


def test_features_of_text_are_frequencies_that_tell_order():
    space = infer(["abab", "aabb", "abc"])
    real = space.encode(["abab", "aabb", "abc"])
    same, sorted_, short = features(space, space.encode(["abab", "aabb", "ab"]), real=real)
    assert len(same) == 4 + 6 + 1  # a, b, c and the end; ab, ba, aa, bb, bc and c at the end; the length
    letters = slice(0, 3)
    np.testing.assert_allclose(same[letters], sorted_[letters])
    assert not np.allclose(same, sorted_) and short[-1] < same[-1]


# --------------------------------------------------------------------------------------------------- two samples


def test_mmd_of_two_gaussians_is_the_closed_form(rng):
    d, shift, h = 3, 0.8, 1.5
    a, b = rng.normal(size=(3000, d)), rng.normal(size=(3000, d)) + shift / math.sqrt(d)

    def mean_kernel(distance):  # E k(x, y) for x - y ~ N(distance, 2 I)
        return (h**2 / (h**2 + 2)) ** (d / 2) * math.exp(-(distance**2) / (2 * (h**2 + 2)))

    found = mmd(a, b, bandwidth=h)
    assert found.value == pytest.approx(2 * mean_kernel(0) - 2 * mean_kernel(shift), abs=3 * found.stderr)
    assert found.stderr < 0.01


def test_mmd_is_the_u_statistic_and_does_not_depend_on_the_chunks(rng, monkeypatch):
    a, b = rng.normal(size=(7, 2)), rng.normal(size=(5, 2))

    def kernel(x, y):
        return np.exp(-((x[:, None] - y) ** 2).sum(-1) / 2)

    off_a, off_b = kernel(a, a)[~np.eye(7, dtype=bool)], kernel(b, b)[~np.eye(5, dtype=bool)]
    expected = off_a.mean() + off_b.mean() - 2 * kernel(a, b).mean()
    assert mmd(a, b, bandwidth=1.0).value == pytest.approx(expected)
    monkeypatch.setattr("plausible.evaluate.two_sample.CHUNK", 24)
    assert mmd(a, b, bandwidth=1.0).value == pytest.approx(expected)


def test_mmd_scatters_as_its_standard_error_says():
    rng = np.random.default_rng(1)
    draws = [mmd(*(rng.normal(size=(2, 80, 2)) + [[[1.0]], [[0.0]]]), bandwidth=1.4) for _ in range(200)]
    scatter, claimed = np.std([d.value for d in draws]), np.mean([d.stderr for d in draws])
    assert 0.85 < claimed / scatter < 1.25


def test_permutation_p_values_are_uniform_without_a_difference():
    rng = np.random.default_rng(2)
    found = [mmd(*rng.normal(size=(2, 40, 3)), permutations=99, random_state=s).p_value for s in range(200)]
    assert stats.kstest(found, "uniform").pvalue > 0.01
    assert mmd(*(rng.normal(size=(2, 40, 3)) + [[[2.0]], [[0.0]]]), permutations=99).p_value == 0.01


@pytest.mark.parametrize("m", [2000, 1700])
def test_sliced_wasserstein_of_shifted_gaussians_is_the_closed_form(rng, m):
    d, shift = 5, 2.0
    a, b = rng.normal(size=(2000, d)), rng.normal(size=(m, d))
    b[:, 0] += shift
    found = sliced_wasserstein(a, b, projections=500)
    assert found.value == pytest.approx(shift / math.sqrt(d), abs=0.05)  # E <theta, e_1>^2 = 1/d


def test_sliced_wasserstein_in_one_dimension_is_the_quantile_distance(rng):
    a, b = rng.normal(size=(30, 1)), rng.exponential(size=(12, 1))
    quantiles = (np.arange(60) + 0.5) / 60  # 60 = lcm(30, 12): both quantile functions are constant on each piece
    gaps = np.sort(a[:, 0])[(quantiles * 30).astype(int)] - np.sort(b[:, 0])[(quantiles * 12).astype(int)]
    assert sliced_wasserstein(a, b).value == pytest.approx(math.sqrt(np.mean(gaps**2)))


def test_sliced_wasserstein_scatters_as_its_standard_error_says():
    rng = np.random.default_rng(3)
    draws = [sliced_wasserstein(*(rng.normal(size=(2, 100, 3)) + [[[1.0]], [[0.0]]])) for _ in range(100)]
    scatter, claimed = np.std([d.value for d in draws]), np.mean([d.stderr for d in draws])
    assert 0.7 < claimed / scatter < 1.4


def test_classifier_tells_what_can_be_told():
    """Two normals at distance s are told apart with accuracy Phi(s/2) at best; equal ones not at all."""
    rng = np.random.default_rng(4)
    a, b = rng.normal(size=(600, 2)), rng.normal(size=(600, 2))
    found = classifier_two_sample_test(a + [2.0, 0.0], b)
    assert stats.norm.cdf(1) - 0.06 < found.value < stats.norm.cdf(1) + 0.02
    assert found.p_value < 1e-6
    same = classifier_two_sample_test(a, b)
    assert abs(same.value - 0.5) < 2.5 * same.stderr and same.p_value > 0.01


def test_classifier_sees_a_dependence_that_no_single_column_shows():
    rng = np.random.default_rng(5)
    a = rng.normal(size=(400, 2))
    b = rng.multivariate_normal([0, 0], [[1, 0.9], [0.9, 1]], 400)
    assert classifier_two_sample_test(a, b).value > 0.65


def test_classifier_p_values_are_not_small_too_often_without_a_difference():
    rng = np.random.default_rng(6)
    found = [
        classifier_two_sample_test(*rng.normal(size=(2, 30, 2)), folds=3, random_state=s).p_value for s in range(40)
    ]
    assert np.mean(np.array(found) < 0.05) < 0.12 and np.mean(np.array(found) > 0.5) > 0.3


def test_classifier_is_not_fooled_by_rows_shuffled_with_the_same_seed():
    """Folds drawn by the permutation that shuffled the rows would hold whole clusters, and accuracy would fall."""
    centres = np.repeat([[-3.0, 0.0], [3.0, 0.0]], 200, axis=0)
    clusters = (centres + np.random.default_rng(7).normal(size=(400, 2)))[np.random.default_rng(0).permutation(400)]
    blob = np.random.default_rng(8).normal(size=(400, 2)) * clusters.std(0)
    assert classifier_two_sample_test(clusters, blob, random_state=0).value > 0.6


def test_larger_samples_are_thinned_so_that_half_is_still_chance():
    rng = np.random.default_rng(9)
    assert classifier_two_sample_test(rng.normal(size=(900, 2)), rng.normal(size=(100, 2))).value < 0.65


@pytest.mark.parametrize("test", [classifier_two_sample_test, mmd, sliced_wasserstein])
def test_two_sample_tests_repeat_and_refuse_what_they_cannot_use(test, rng):
    a, b = rng.normal(size=(2, 30, 2))
    assert test(a, b) == test(a, b)
    with pytest.raises(DataError, match=r"shapes \(30, 2\) and \(30, 1\)"):
        test(a, b[:, :1])
    with pytest.raises(DataError, match="at least"):
        test(a, b[:1])
    with pytest.raises(DataError, match="first sample holds NaN or infinity in 1 rows"):
        test(np.where(np.arange(60).reshape(30, 2) == 4, np.inf, a), b)


# -------------------------------------------------------------------------------------------------------- novelty


def test_copies_are_found_and_fresh_rows_are_as_far_as_real_ones():
    rng = np.random.default_rng(10)
    train, held_out, second, fresh = (rng.normal(size=(n, 3)) for n in (2000, 400, 400, 400))
    same = novelty(fresh, train, held_out, second=second)
    assert same.ratio == pytest.approx(1, abs=0.12) and same.real_ratio == pytest.approx(1, abs=0.12)
    assert same.copies == 0 and same.near_copies < 0.05
    half = novelty(np.concatenate([train[:200], fresh[:200]]), train, held_out)
    assert half.copies == 0.5 and half.near_copies == pytest.approx(0.5, abs=0.02)
    far = novelty(3 * fresh, train, held_out)
    assert far.ratio > 3


def test_in_a_small_discrete_space_real_rows_repeat_too(rng):
    train, held_out, made = (rng.integers(0, 2, (n, 3)).astype(float) for n in (500, 100, 100))
    found = novelty(made, train, held_out)
    assert found.copies == found.real_copies == 1 and math.isnan(found.ratio)


def test_a_copy_is_at_distance_zero_however_large_its_numbers():
    train = 1e6 + np.random.default_rng(11).normal(size=(300, 20))
    assert (distances(train[:50], train) == 0).all()
    assert (distances(train[:50] + 0.5, train) > 0).all()


# ------------------------------------------------------------------------------------------------ what is shown


def test_examples_are_plain_json():
    frame = pd.DataFrame(
        {
            "when": pd.to_datetime(["2020-01-01", "2021-01-01", "2022-01-01"]),
            "x": [1.5, np.nan, 2.5],
            "c": pd.Categorical(["a", "b", "a"]),
        }
    )
    series = np.array([[[0.5, 1.0], [2.0, np.nan]]] * 2)
    images = np.arange(8, dtype=np.uint8).reshape(2, 2, 2)
    table = as_json(infer(frame), frame, most=2)
    assert table["rows"] == [["2020-01-01 00:00:00", 1.5, "a"], ["2021-01-01 00:00:00", None, "b"]]
    assert as_json(infer(images), images) == {
        "type": "image", "shape": [1, 2, 2], "levels": 8, "pixels": [[0, 1, 2, 3], [4, 5, 6, 7]],
    }  # fmt: skip
    assert as_json(infer(series, "series"), series)["values"][0] == [[0.5, 1.0], [2.0, None]]
    assert as_json(infer(["ab", "c"]), ["ab", "c"]) == {"type": "text", "strings": ["ab", "c"]}


def test_marginals_are_shares_that_sum_to_one(rng):
    frame = pd.DataFrame(
        {
            "c": rng.choice(["a", "b", "c"], 300),
            "n": rng.poisson(40, 300),
            "x": np.where(rng.random(300) < 0.1, np.nan, rng.standard_cauchy(300)),
        }
    )
    space = infer(frame)
    codes = space.encode(frame)
    found = marginals(space, codes[:200], codes[200:])
    assert [m["column"] for m in found] == ["c", "n", "x"] and found[0]["levels"] == ["a", "b", "c"]
    assert all(sum(m[side]) == pytest.approx(1, abs=1e-3) for m in found for side in ("real", "sampled"))
    assert found[0]["real"] == [pytest.approx((frame["c"][:200] == c).mean(), abs=1e-5) for c in "abc"]
    assert all(e % 1 == 0.5 for e in found[1]["edges"])


# -------------------------------------------------------------------------------------------------------- compare


@dataclass(kw_only=True, repr=False, eq=False)
class Unit(BaseEstimator):
    """The uniform law on [0, 1]^d, with what a test wants to be wrong."""

    traits = SimpleNamespace(density="exact", missing=False, context=False)
    space: object = None
    random_state: object = None
    trouble: str = ""
    kind: str = "exact"
    shift: float = 0.0

    def fit(self, X):
        if self.trouble == "fit":
            raise ValueError("it would not fit")
        if self.trouble == "warns":
            warnings.warn("the loss was not a number in epoch 3", DivergedWarning, stacklevel=2)
        self.space_, self.likelihood_kind_, self.n_features_in_ = self.space, self.kind, self.space.dims
        return self

    def log_prob(self, X, importance_samples=None):
        if self.trouble == "log_prob":
            raise DataError("no density today")
        x = self.space_.encode(X).numpy()
        return np.where(((x >= 0) & (x <= 1)).all(1), 0.0, -np.inf) + self.shift

    def sample(self, n=1, *, random_state=None):
        if self.trouble == "sample":
            raise ArithmeticError("no samples")
        x = np.random.default_rng(random_state).random((n, self.n_features_in_))
        return self.space_.decode(torch.from_numpy(x))


@dataclass(kw_only=True, repr=False, eq=False)
class Paid(Unit):
    """One that can be told how long to train, and does nothing with it."""

    budget: float | None = None


@pytest.fixture(scope="module")
def cube() -> np.ndarray:
    return np.random.default_rng(12).random((400, 2))


def test_the_truth_wins_and_its_samples_are_as_good_as_real(cube):
    found = compare(cube, {"truth": Unit()}, n_samples=500)
    assert [r.name for r in found.rows] == ["Unit", "independent"]
    truth, baseline = found["truth"], found["independent"]
    assert truth.likelihood.mean == 0.0 and truth.rank == 1 and baseline.rank == 2 and baseline.baseline
    values = found.models["independent"].log_prob(cube[np.abs(cube).sum(1) > 0])
    assert len(values) == 400
    assert baseline.difference.mean == pytest.approx(baseline.likelihood.mean) and baseline.difference_to == "Unit"
    for test in ("c2st", "mmd", "sliced_wasserstein"):
        made, real = getattr(truth, test), found.real[test]
        assert made.value - real.value < 3 * math.hypot(made.stderr, real.stderr)
    assert truth.novelty.ratio == pytest.approx(1, abs=0.3) and truth.novelty.copies == 0


def test_a_bound_never_leads_on_its_own_word(cube):
    models = {
        "truth": Unit(),
        "boasts": Unit(kind="upper_bound", shift=5.0),
        "guesses": Unit(kind="estimate", shift=5.0),
    }
    found = compare(cube, models, n_samples=60)
    assert [r.label for r in found.rows] == ["truth", "independent", "boasts", "guesses"]
    assert found.best is found.models["Unit"] and found["boasts"].rank is None


def test_failures_are_told_with_their_reason_and_do_not_end_the_comparison(cube):
    models = {t: Unit(trouble=t) for t in ("fit", "log_prob", "sample", "warns")}
    found = compare(cube, models, n_samples=60)
    why = {r.label: r.why for r in found.rows if r.status == "failed"}
    assert why == {
        "fit": "fit: ValueError: it would not fit",
        "log_prob": "log_prob: no density today",
        "sample": "sample: ArithmeticError: no samples",
    }
    assert found["warns"].status == "ok" and found["warns"].notes == ["the loss was not a number in epoch 3"]
    assert isinstance(found["fit"].error, ValueError) and found["sample"].rank is None
    assert all(sentence in str(found) for sentence in why.values())


def test_a_family_that_cannot_is_skipped_with_the_reason(rng):
    frame = pd.DataFrame({"a": rng.choice(["x", "y", "z"], 200), "b": rng.normal(size=200)})
    frame.loc[:20, "b"] = np.nan
    found = compare(frame, [Unit()], n_samples=50)
    assert found["Unit"].status == "skipped" and "missing values" in found["Unit"].why
    assert found["independent"].status == "ok"


def test_missing_cells_do_not_give_complete_samples_away():
    rng = np.random.default_rng(13)
    X = rng.normal(size=(600, 3))
    X[rng.random(X.shape) < 0.4] = np.nan
    row = compare(X, [], n_samples=200)["independent"]
    assert row.c2st.value < 0.62


def test_levels_of_held_out_rows_are_known_to_every_model(rng):
    frame = pd.DataFrame({"a": [*"xyz" * 60, "rare"], "b": rng.normal(size=181)})
    for seed in range(50):
        train, _ = plausible.data.split(frame, seed=seed)
        if 180 not in train:
            break
    found = compare(frame, [], random_state=seed, n_samples=50)
    assert found["independent"].status == "ok" and np.isfinite(found["independent"].likelihood.mean)


def test_the_budget_is_shared_and_what_is_left_over_goes_to_those_that_follow(cube):
    found = compare(cube, {"a": Paid(), "b": Paid(), "c": Paid(budget=1e-3)}, budget=300.0, n_samples=30)
    first, second = (found.models[name].budget for name in ("Paid", "Paid 2"))
    assert 50 <= first <= 100 < second <= 150  # a third of all, then half of what a did not use
    assert found.models["Paid 3"].budget == 1e-3
    assert compare(cube, [Paid()], n_samples=30).models["Paid"].budget is None


class Refusing(Paid):
    """One that can model nothing."""

    @classmethod
    def can_model(cls, space):
        return "it can model nothing"


def test_a_model_that_will_be_skipped_gets_no_share_of_the_budget(cube):
    found = compare(cube, {"a": Paid(), "b": Refusing(), "c": Refusing()}, budget=300.0, n_samples=30)
    assert found["b"].status == found["c"].status == "skipped"
    assert found.models["Paid"].budget > 200


def test_an_interrupt_ends_a_comparison_with_what_was_found(cube, monkeypatch):
    def interrupted(self, X):
        raise KeyboardInterrupt

    monkeypatch.setattr(Refusing, "can_model", classmethod(lambda cls, space: None))
    monkeypatch.setattr(Refusing, "fit", interrupted)
    with pytest.warns(InterruptedWarning, match="2 of 4 models were judged"):
        found = compare(cube, {"a": Paid(), "b": Refusing(), "c": Paid()}, n_samples=30)
    assert found.interrupted and found["a"].status == "ok"
    assert found["b"].why == found["c"].why == "the comparison was interrupted"


def test_the_same_seed_gives_the_same_comparison(cube):
    def numbers(seed):
        table = compare(cube, [Unit()], random_state=seed, n_samples=60).table
        return table.drop(columns=["seconds_fit", "samples_per_second", "bytes"])

    once = numbers(3)
    pd.testing.assert_frame_equal(once, numbers(3))
    assert not once.equals(numbers(4))


def test_models_given_are_left_unfitted_and_labels_tell_settings(cube):
    model = Unit(shift=-1.0)
    found = compare(cube, [model, Unit()], n_samples=30)
    assert not hasattr(model, "space_") and model.space is None
    assert {r.label for r in found.rows} == {"Unit(shift=-1.0)", "Unit 2", "independent"}
    assert found["Unit"].params == {"shift": -1.0}


def test_progress_tells_what_is_done(cube):
    told = []
    compare(cube, [Unit()], n_samples=30, progress=lambda *told_: told.append(told_))
    assert told == [(0, 2, "fitting independent"), (1, 2, "fitting Unit"), (2, 2, "done")]


def test_too_few_held_out_rows_are_said_not_tested(rng):
    found = compare(rng.normal(size=(30, 2)), [], n_samples=30)
    assert found["independent"].c2st is None and found.real == {}
    assert any("too few for two-sample tests" in note for note in found.data["notes"])
    json.dumps(found.to_json(), allow_nan=False)


@pytest.mark.parametrize(
    "X",
    [
        pytest.param("digits", id="bundled images"),
        pytest.param([w * k for w in ("ab", "ba", "abc") for k in range(1, 60)], id="strings"),
        pytest.param("to be or not to be, that is the question. " * 200, id="one long text"),
        pytest.param(np.random.default_rng(14).normal(size=(120, 6, 2)), id="series"),
        pytest.param(
            pd.DataFrame({"a": list("xyz") * 50, "n": range(150), "r": np.linspace(0.1, 9.9, 150)}), id="mixed table"
        ),
    ],
)
def test_json_and_report_of_every_kind_of_data(X, tmp_path):
    found = compare(X, [], n_samples=100, command="plausible compare it")
    told = json.loads(json.dumps(found.to_json(), allow_nan=False))
    row = told["rows"][0]
    assert told["format"] == 1 and told["command"] == "plausible compare it" and row["baseline"] and row["rank"] == 1
    assert row["likelihood"]["measure"] == told["data"]["measure"]
    assert row["samples"]["type"] == told["real"]["type"] == row["worst"]["examples"]["type"] == told["data"]["type"]
    assert row["worst"]["log_prob"] == sorted(row["worst"]["log_prob"])
    assert {"value", "stderr", "real"} <= set(row["c2st"]) and row["marginals"] and row["bytes"] > 0
    page = found.report(tmp_path)
    assert page == tmp_path / "report.html"
    assert json.loads((tmp_path / "report.json").read_text())["rows"][0]["name"] == registry.BASELINE


def test_files_are_read_and_bad_paths_are_not_taken_for_text(tmp_path, rng):
    path = tmp_path / "some table.csv"
    pd.DataFrame(rng.normal(size=(100, 2)), columns=["a", "b"]).to_csv(path, index=False)
    assert compare(str(path), [], n_samples=30).data["name"] == "some table.csv"
    with pytest.raises(ReadError, match="nowhere.csv"):
        compare("nowhere.csv", [])


def test_a_report_without_a_baseline_is_refused(cube, tmp_path):
    found = compare(cube, [], n_samples=30)
    broken = Row("independent", "independent", baseline=True, status="failed", why="fit: no")
    told = Comparison([broken], {}, found.space, found.data, {}, found.examples, 0, "t")
    with pytest.raises(PlausibleError, match="baseline 'independent' failed"):
        told.report(tmp_path)
    assert told.best is None


def test_models_must_be_estimators_or_names(cube):
    with pytest.raises(PlausibleError, match="no family is called"):
        compare(cube, ["nonesuch"])
    with pytest.raises(PlausibleError, match="got int"):
        compare(cube, [3])


def test_global_generators_are_left_alone(cube):
    before = np.random.get_state()[1].copy(), torch.get_rng_state()
    compare(cube, [Unit()], n_samples=30)
    assert (np.random.get_state()[1] == before[0]).all() and torch.equal(torch.get_rng_state(), before[1])


def test_what_would_overdraw_the_budget_is_left_out_and_said(cube, monkeypatch):
    monkeypatch.setattr("plausible.evaluate.judge.Purse.left", lambda purse: 0.0)
    found = compare(cube, [Unit()], budget=1.0, n_samples=60, test_fraction=0.4)
    row = found["Unit"]
    assert row.status == "ok" and row.likelihood is None and row.c2st is None and row.novelty is not None
    assert row.density
    assert row.notes == [
        f"too slow for the likelihood of {found.data['n_test']} examples inside the budget",
        "too slow for two-sample tests inside the budget: 16 of 60 samples drawn",
    ]


@dataclass(kw_only=True, repr=False, eq=False)
class Conditional(Unit):
    """One that takes context, and checks that each row comes with its own."""

    traits = SimpleNamespace(density="exact", missing=False, context=True)

    def fit(self, X, context=None):
        assert (context["c"].to_numpy() == X[:, 0]).all()
        return super().fit(X)

    def log_prob(self, X, context=None, importance_samples=None):
        assert (context["c"].to_numpy() == X[:, 0]).all()
        return super().log_prob(X)

    def sample(self, n=1, *, context=None, random_state=None):
        assert len(context) == n
        return super().sample(n, random_state=random_state)


def test_context_goes_to_those_that_take_it(cube):
    found = compare(cube, [Conditional(), Unit()], context=pd.DataFrame({"c": cube[:, 0]}), n_samples=60)
    assert found["Conditional"].status == "ok" and not found["Conditional"].notes
    assert found["Unit"].notes == ["fitted without the context, which this family does not take"]
    with pytest.raises(DataError, match="a row for each of 400 examples, got 7"):
        compare(cube, [Unit()], context=np.zeros(7))


def test_a_density_on_whole_numbers_is_a_bound_with_a_weighted_estimate_above_it():
    images = plausible.data.bundled.load("digits")[:300, 2:5, 2:5]
    found = compare(images, ["gaussian"], n_samples=40, importance_samples=32)
    row = found["gaussian"]
    assert row.likelihood.kind == "lower_bound" and row.rank is None and "≥" in str(found)
    assert row.estimate.n_importance_samples == 32
    gap = difference(row.estimate, row.likelihood)
    assert gap.mean > 2 * gap.stderr
    assert compare(images, ["gaussian"], n_samples=40, importance_samples=0)["gaussian"].estimate is None
