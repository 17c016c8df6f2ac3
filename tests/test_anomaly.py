"""Anomalies: p-values against their promise by simulation, scores and blame against closed forms, what is refused."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from sklearn.neighbors import LocalOutlierFactor, NearestNeighbors
from sklearn.utils.estimator_checks import parametrize_with_checks

import plausible as pl
from plausible import registry
from plausible.data.seen import KEPT, Seen
from plausible.errors import CapabilityError, DataError, PlausibleWarning
from plausible.uses import anomaly
from plausible.uses.anomaly import cleaning, conformal
from plausible.uses.anomaly.codecs import nats

COVARIANCE = np.array([[1.0, 0.9, 0.0], [0.9, 1.0, 0.0], [0.0, 0.0, 4.0]])


def normals(n: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).multivariate_normal(np.zeros(3), COVARIANCE, n)


@pytest.fixture(scope="module")
def fitted():
    return pl.Gaussian().fit(normals(5000, 1))


@pytest.fixture(scope="module")
def judge(fitted):
    return anomaly.detector(fitted, normals(500, 2))


# -------------------------------------------------------------------------------------------------- conformal p-values


@given(st.lists(st.integers(0, 6), min_size=1, max_size=30), st.integers(0, 6))
def test_p_values_count(calibration, score):
    """Small integers, so that there are ties."""
    c = np.array(calibration, float)
    by_hand = (1 + sum(x >= score for x in calibration)) / (len(calibration) + 1)
    assert conformal.p_values(np.array([float(score)]), c)[0] == pytest.approx(by_hand, abs=1e-12)
    weights = c + 0.5
    heavier = (2.0 + weights[c >= score].sum()) / (2.0 + weights.sum())
    found = conformal.p_values(np.array([float(score)]), c, weights=weights, own=np.array([2.0]))[0]
    assert found == pytest.approx(heavier, abs=1e-12)
    u = np.array([0.3])
    smooth = (sum(x > score for x in calibration) + 0.3 * (1 + sum(x == score for x in calibration))) / (len(c) + 1)
    assert conformal.p_values(np.array([float(score)]), c, uniform=u)[0] == pytest.approx(smooth, abs=1e-12)


def test_fewest_rows_are_not_one_too_many():
    """1 / (1 / 49) is more than 49 in floating point."""
    assert [conformal.fewest(1 / (k + 1)) for k in range(1, 2000)] == list(range(1, 2000))
    with pytest.warns(PlausibleWarning, match="48"):
        assert pl.AnomalyDetector(alpha=0.01, random_state=0).fit(normals(96, 0)).alpha_ == 1 / 49


@given(st.lists(st.integers(0, 9), min_size=1, max_size=60), st.sampled_from([0.5, 0.3, 0.1, 0.05, 1 / 3, 0.02]))
def test_threshold_is_where_the_p_value_falls_to_alpha(calibration, alpha):
    c, s = np.array(calibration, float), np.arange(-1.0, 11.0)
    flagged = conformal.p_values(s, c) <= alpha
    assert (flagged == (s > conformal.threshold(c, alpha))).all()
    assert flagged.any() == (len(c) >= conformal.fewest(alpha))


@pytest.mark.parametrize("tied", [False, True])
def test_p_values_keep_their_promise(tied):
    """Over many calibration sets: the share below alpha is at most alpha, and exactly that with smoothing."""
    rng = np.random.default_rng(0)
    rounds, n = 20_000, 19
    draw = (lambda *shape: rng.poisson(1.0, shape).astype(float)) if tied else (lambda *shape: rng.normal(size=shape))
    c, s, u = draw(rounds, n), draw(rounds, 1), rng.random((rounds, 1))
    p = np.array([conformal.p_values(a, b)[0] for a, b in zip(s, c, strict=True)])
    smooth = np.array([conformal.p_values(a, b, uniform=v)[0] for a, b, v in zip(s, c, u, strict=True)])
    for alpha in (0.05, 0.2, 0.5):
        error = 4 * math.sqrt(alpha * (1 - alpha) / rounds)
        assert (p <= alpha).mean() < alpha + error
        if not tied:  # alpha (n + 1) is whole
            assert abs((p <= alpha).mean() - alpha) < error
    assert stats.kstest(smooth, "uniform").pvalue > 1e-3
    assert not tied or (p <= 0.2).mean() < 0.15  # which is what smoothing mends


def test_weights_mend_a_known_shift():
    """Calibration rows from N(0, 1), clean rows to come from N(1, 1): the ratio of densities is exp(x - 1/2)."""
    rng = np.random.default_rng(0)
    model = pl.Gaussian().fit(rng.normal(size=(2000, 1)))
    plain, weighted = [], []
    for _ in range(150):
        calibration, X = rng.normal(size=(400, 1)), rng.normal(1.0, 1.0, size=(40, 1))
        how = {"score": lambda X: X[:, 0]}
        plain += list(anomaly.detector(model, calibration, **how).is_anomaly(X, 0.1))
        found = anomaly.detector(model, calibration, weight=lambda X: np.exp(X[:, 0] - 0.5), **how)
        weighted += list(found.p_value(X) <= 0.1)
    assert np.mean(plain) > 0.35  # P(x > 1.28) with x ~ N(1, 1) is 0.39
    assert np.mean(weighted) <= 0.1 + 0.02
    assert np.mean(weighted) > 0.04  # conservative, as x counts in its own disfavour, but not blind


def test_weights_are_checked(fitted):
    clean = normals(200, 3)
    for bad in (lambda X: X, lambda X: -np.ones(len(X)), lambda X: np.zeros(len(X)), lambda X: np.full(len(X), np.nan)):
        with pytest.raises(DataError, match="weight"):
            anomaly.detector(fitted, clean, weight=bad)
    found = anomaly.detector(fitted, clean, weight=lambda X: np.where(X[:, 0] > 10, 1e6, 1.0))
    with pytest.warns(PlausibleWarning, match="1 of 2 examples cannot be flagged"):
        assert not found.is_anomaly(np.array([[20.0, 0, 0], [0, 0, 0]]), 0.05)[0]
    with pytest.raises(DataError, match="threshold of its own"):
        found.threshold(0.05)


@pytest.mark.parametrize("score", ["density", "typicality", "neighbours"])
def test_false_alarms_are_those_promised(score):
    """On new models, calibration rows and clean rows each time; the model is deliberately bad (3 rows of 40)."""
    flagged = 0
    for seed in range(40):
        X = normals(40 + 99 + 50, seed)
        model = pl.Gaussian(random_state=seed).fit(X[:40] ** 3)
        found = anomaly.detector(model, X[40:139] ** 3, score, draws=100, random_state=seed)
        flagged += found.is_anomaly(X[139:] ** 3, alpha=0.05).sum()
    # 2,000 verdicts of 40 calibration sets: Beta(5, 95) each
    spread = math.sqrt(0.05 * 0.95 / 101 / 40 + 0.05 * 0.95 / 2000)
    assert abs(flagged / 2000 - 0.05) < 4 * spread


# ------------------------------------------------------------------------------------------------------------- scores


def test_density_and_typicality_are_in_closed_form(fitted):
    X = normals(50, 4)
    truth = stats.multivariate_normal(np.zeros(3), COVARIANCE)
    density = anomaly.detector(fitted, normals(200, 5), "density")
    np.testing.assert_allclose(density.score(X), -truth.logpdf(X), atol=0.15)
    assert "exact" in density.label and "Gaussian" in repr(density)
    typical = anomaly.detector(fitted, normals(200, 5), "typicality", draws=20_000, random_state=0)
    np.testing.assert_allclose(typical.score(X), np.abs(-truth.logpdf(X) - truth.entropy()), atol=0.2)
    # the mode is the likeliest point of all and yet not typical
    assert typical.score(np.zeros((1, 3)))[0] == pytest.approx(1.5, abs=0.05)  # E[x' S^-1 x] / 2
    assert density.p_value(np.zeros((1, 3)))[0] == 1.0
    assert typical.p_value(np.zeros((1, 3)))[0] < 0.2


def test_ratio_cancels_what_both_models_find_odd():
    rng = np.random.default_rng(0)
    make = lambda n: np.c_[rng.normal(size=n), rng.standard_t(2, size=n)]  # noqa: E731
    model, background = pl.Independent(random_state=0).fit(make(3000)), pl.Gaussian().fit(make(3000) * [5.0, 1.0])
    found = anomaly.detector(model, make(300), "ratio", background=background)
    X = make(20)
    np.testing.assert_allclose(found.score(X), background.log_prob(X) - model.log_prob(X))
    with pytest.raises(DataError, match="go together"):
        anomaly.detector(model, make(300), "ratio")
    with pytest.raises(DataError, match="the background was fitted on"):
        seen = make(300)
        anomaly.detector(model, seen, "ratio", background=pl.Gaussian().fit(seen))


def test_complexity_is_the_length_of_the_shortest_file():
    rng = np.random.default_rng(0)
    flat, noise = np.zeros((3, 16, 16), np.uint8), rng.integers(0, 256, (3, 16, 16)).astype(np.uint8)
    model = pl.Independent(random_state=0).fit(rng.integers(0, 256, (50, 16, 16)).astype(np.uint8))
    lengths = nats(model.space_, np.concatenate([flat, noise])) / (8 * math.log(2))
    assert (lengths[:3] < 100).all() and (lengths[3:] > 256).all() and (lengths == lengths.round()).all()
    found = anomaly.detector(model, rng.integers(0, 256, (50, 16, 16)).astype(np.uint8), "complexity")
    np.testing.assert_allclose(found.score(noise), -model.log_prob(noise) - lengths[3:] * 8 * math.log(2))
    words = ["abab", "abababababababababababababababab", "ba"] * 8
    texts = anomaly.detector(pl.Independent(random_state=0).fit(words), ["baba", "ab"], "complexity")
    assert np.isfinite(texts.score(["abba"])).all()


def test_neighbours_are_half_a_local_outlier_factor():
    """With distances by geometric means, and no copies: the definition, from scikit-learn's neighbours."""
    X, Y = normals(300, 6), normals(20, 7) * 2
    found = anomaly.Neighbours(n_neighbors=5).fit(X)
    a, b = (X - X.mean(0)) / X.std(0), (Y - X.mean(0)) / X.std(0)
    index = NearestNeighbors(n_neighbors=6).fit(a)
    reach = np.log(index.kneighbors(a)[0][:, 1:]).mean(1)
    distance, which = index.kneighbors(b, 5)
    np.testing.assert_allclose(found.distance(Y), np.log(distance).mean(1) - reach[which].mean(1) / 2, atol=0.01)
    local = LocalOutlierFactor(5, novelty=True).fit(a).score_samples(b)
    assert stats.spearmanr(found.distance(Y), -local).statistic > 0.8
    copies = np.repeat([[0.0, 0.0], [1.0, 1.0]], 50, axis=0)
    twice = anomaly.Neighbours().fit(copies).distance(np.array([[0.0, 0.0], [0.5, 0.5], [1.0, 0.0]]))
    assert np.isfinite(twice).all() and twice[0] < twice[1] < twice[2]


def test_families_without_density_are_scored_by_a_stand_in():
    X = normals(300, 8)
    model = pl.GAN(epochs=2, hidden=(8,), random_state=0).fit(X[:200])
    found = anomaly.detector(model, X[200:])
    assert "stand-in" in found.label and "nearest of 2000 draws" in found.label
    assert np.argmax(found.score(np.array([[0, 0, 0], [50.0, -50.0, 50.0]]))) == 1
    with pytest.raises(CapabilityError, match="neighbours"):
        anomaly.detector(model, X[200:], "density")
    with pytest.raises(CapabilityError, match="latent"):
        anomaly.detector(model, X[200:], "reconstruction")


def test_reconstruction_of_a_model_with_a_code():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(600, 1)) + 0.3 * rng.normal(size=(600, 3))
    model = pl.VAE(latent=1, hidden=(16,), epochs=15, learning_rate=1e-2, random_state=0).fit(X[:400])
    found = anomaly.detector(model, X[400:], "reconstruction")
    on, off = found.score(np.array([[1.0, 1.0, 1.0], [1.0, -1.0, 1.0]]))
    assert off > on + 1 and "stand-in" in found.label


def test_a_conditional_model_asks_for_the_context():
    rng = np.random.default_rng(0)
    c = rng.integers(0, 2, 900)
    X = rng.normal(size=(900, 2)) + 6 * c[:, None]
    model = pl.MADE(hidden=(8,), epochs=8, learning_rate=2e-2, random_state=0).fit(X[:600], context=c[:600])
    found = anomaly.detector(model, X[600:], context=c[600:])
    p = found.p_value(np.array([[0.0, 0.0], [0.0, 0.0]]), context=np.array([0, 1]))
    assert p[0] > 0.1 > 0.05 > p[1]
    assert found.explain(X[:3], context=c[:3]).values.shape == (3, 2)
    for score in ("typicality", "neighbours"):
        with pytest.raises(CapabilityError, match=r"p\(x \| c\)"):
            anomaly.detector(model, X[600:], score, context=c[600:])


# -------------------------------------------------------------------------------------------------------------- blame


def test_blame_is_the_conditional_density_in_closed_form(judge):
    """x_0 | x_1 ~ N(0.9 x_1, 0.19); x_2 is on its own."""
    X = normals(40, 9)
    found = judge.explain(X)
    assert found.how == "leave-one-out" and found.names == ("x0", "x1", "x2")
    surprise = -stats.norm(0.9 * X[:, 1], math.sqrt(0.19)).logpdf(X[:, 0])
    offset = surprise - found.values[:, 0]
    assert np.ptp(offset) < 0.4  # the median over calibration rows, one number for the column
    usual = -stats.norm(0, math.sqrt(0.19)).logpdf(math.sqrt(0.19) * 0.674)  # of a chi square with one degree
    assert offset.mean() == pytest.approx(usual, abs=0.15)


@pytest.mark.parametrize("how", ["auto", "replacement"])
def test_blame_finds_the_altered_cell(judge, how):
    rng = np.random.default_rng(0)
    X, which = normals(60, 10), rng.integers(0, 3, 60)
    X[np.arange(60), which] += np.where(which == 2, 16.0, 5.0)
    found = judge.explain(X, how)
    worst = found.values.argmax(1)
    assert (np.isin(worst, which) & (worst == which))[which == 2].all()
    if how == "auto":  # of two columns that go together either may be blamed; the third is never
        assert (worst[which < 2] < 2).all()
    top = found.top(2)
    assert len(top) == 60 and [len(t) for t in top] == [2] * 60 and top[0][0][0] == f"x{worst[0]}"
    assert found.to_frame().shape == (60, 3)


def test_blame_in_order_adds_up_to_the_density():
    rng = np.random.default_rng(0)
    bits = (np.cumsum(rng.random((1500, 6)) < 0.1, 1) + rng.integers(0, 2, (1500, 1))) % 2
    model = pl.FVSBN(epochs=15, learning_rate=0.05, random_state=0).fit(bits[:1000])
    judge = anomaly.detector(model, bits[1000:])
    odd = np.array([[0, 0, 0, 1, 0, 0]])
    found = judge.explain(odd)
    assert found.how == "in order" and set(found.values[0].argsort()[-2:]) == {3, 4}
    medians = found.values - -model.log_prob(odd, reduce=None)
    np.testing.assert_allclose(found.values.sum() - medians.sum(), judge.score(odd)[0], atol=1e-4)
    with pytest.raises(CapabilityError, match="'leave-one-out' is not possible"):
        judge.explain(odd, "leave-one-out")
    with pytest.raises(DataError, match="how must be"):
        judge.explain(odd, "by magic")


@pytest.mark.parametrize("layout", [(5, 4), (5, 4, 3), (3, 5, 4)])
def test_blame_of_pixels_is_laid_out_as_they_are(layout):
    rng = np.random.default_rng(0)
    X = rng.integers(0, 40, (400, *layout)).astype(np.uint8)
    judge = anomaly.detector(pl.Independent(random_state=0).fit(X[:300]), X[300:])
    place = tuple(k - 1 for k in layout)
    odd = X[:2].copy()
    odd[(1, *place)] = 255
    found = judge.explain(odd)
    assert found.values.shape == odd.shape and np.unravel_index(found.values[1].argmax(), layout) == place
    assert found.top(1)[1][0][0] == str(list(place))


def test_missing_cells_are_not_to_blame(judge):
    X = normals(5, 11)
    X[0, 1] = np.nan
    found = judge.explain(X).values
    assert np.isnan(found[0, 1]) and np.isfinite(found[1:]).all() and np.isfinite(found[0, [0, 2]]).all()


def test_a_value_never_heard_of_is_infinitely_odd():
    rng = np.random.default_rng(0)
    frame = pd.DataFrame(
        {"colour": rng.choice(["red", "green"], 400), "size": rng.normal(size=400), "n": rng.poisson(3, 400)}
    )
    for model in (pl.Mixture(n_components=2, random_state=0), anomaly.Neighbours()):
        judge = anomaly.detector(model.fit(frame[:250]), frame[250:])
        X = pd.DataFrame({"colour": ["red", "mauve", None], "size": [0.0, 0.0, 0.1], "n": [3, 3, 2]})
        score = judge.score(X)
        assert np.isfinite(score[[0, 2]]).all() and np.isposinf(score[1])
        assert judge.is_anomaly(X[:2], 0.05).tolist() == [False, True]
        assert judge.explain(X[:2]).top(1)[1] == [("colour", math.inf)]
        assert X["colour"][1] == "mauve"  # the caller's frame is left alone


# ------------------------------------------------------------------------------------------------------------ refused


def test_training_rows_are_refused(fitted, tmp_path):
    train = normals(5000, 1)
    for model in (fitted, pl.load(_saved(fitted, tmp_path))):
        with pytest.raises(DataError, match="are among the rows that the model was fitted on"):
            anomaly.detector(model, train[:100])
        with pytest.raises(DataError, match="hold rows out"):
            anomaly.detector(model, np.concatenate([normals(50, 3), train[-50:]]))
        assert anomaly.detector(model, np.concatenate([normals(400, 3), train[:1]])).n == 401  # an accident
    with pytest.raises(DataError, match="are among the rows"):
        anomaly.detector(anomaly.Neighbours().fit(train), train[:100])


def _saved(model, folder):
    model.save(folder / "model.plausible")
    return folder / "model.plausible"


def test_equal_rows_in_a_small_space_are_no_training_rows():
    """Whatever the number of states: most rows have been seen before, or some, or hardly any."""
    rng = np.random.default_rng(0)
    for states in (16, 64, 300, 3000, 100_000):
        for n in (60, 200, 2000):
            x = torch.from_numpy(rng.geometric(3 / states, (n + 2000, 1)).clip(max=states))
            assert Seen.of(x[:n]).recognises(x[n:]) is None, (states, n)
            if states > 10 * n:
                assert Seen.of(x[:n]).recognises(x[: n // 2]) is not None
    for seed in range(8):  # one row is common beside many that are rare; its hash is among those kept, or not
        x = torch.from_numpy(rng.integers(0, 10**9, (3 * KEPT, 1)))
        x[torch.from_numpy(rng.random(len(x)) < 0.3)] = seed
        assert Seen.of(x[: 2 * KEPT]).recognises(x[2 * KEPT :]) is None
    bits = rng.integers(0, 2, (600, 4))
    model = pl.Histogram(random_state=0).fit(bits[:300])
    assert anomaly.detector(model, bits[300:]).n == 300


@pytest.mark.parametrize("dtype", [np.uint8, np.float64])
def test_the_sketch_of_rows(dtype):
    x = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (3 * KEPT, 11)).astype(dtype))
    seen = Seen.from_json(Seen.of(x[: 2 * KEPT]).to_json())
    assert (len(seen.hashes), seen.n, seen.once, seen.twice, seen.whole) == (KEPT, KEPT, KEPT, 0, False)
    assert seen.recognises(x[2 * KEPT :]) is None
    found, looked_up = seen.recognises(x[: KEPT // 2])
    assert found == looked_up and abs(found - KEPT / 4) < 5 * math.sqrt(KEPT / 8)
    again = Seen.of(torch.cat([x[:5], x[:3]]))
    assert (again.once, again.twice, again.n, again.whole) == (2, 3, 8, True)


def test_too_few_calibration_rows_are_refused(fitted):
    found = anomaly.detector(fitted, normals(98, 2))
    with pytest.raises(DataError, match="at least 99 calibration rows, got 98"):
        found.is_anomaly(normals(5, 3))
    assert found.is_anomaly(normals(5, 3), 1 / 99).dtype == bool
    for alpha in (0.0, 1.0, -0.1, float("nan")):
        with pytest.raises(DataError, match="alpha"):
            found.is_anomaly(normals(5, 3), alpha)
    with pytest.raises(DataError, match="no calibration rows"):
        anomaly.detector(fitted, normals(3, 2)[:0])
    with pytest.raises(DataError, match="score must be"):
        anomaly.detector(fitted, normals(98, 2), "oddness")
    with pytest.raises(DataError, match="one number for each example"):
        anomaly.detector(fitted, normals(98, 2), lambda X: X)


# ---------------------------------------------------------------------------------------------- scikit-learn's manners


@parametrize_with_checks([pl.AnomalyDetector(), pl.AnomalyDetector(pl.Gaussian(), random_state=0)])
@pytest.mark.filterwarnings("ignore::plausible.errors.PlausibleWarning")  # a check's thirty rows promise no 1 %
def test_scikit_learn(estimator, check):
    check(estimator)


@pytest.mark.parametrize("model", [None, pl.Gaussian()])
def test_detector_keeps_its_rate(model):
    flagged = []
    for seed in range(12):
        X = normals(400 + 500, seed)
        found = pl.AnomalyDetector(model, alpha=0.05, random_state=seed).fit(X[:400])
        assert len(found.calibration_rows_) == 100
        flagged.append((found.predict(X[400:]) == -1).mean())
        assert ((found.predict(X[400:]) == -1) == found.detector_.is_anomaly(X[400:], 0.05)).all()
    assert abs(np.mean(flagged) - 0.05) < 4 * math.sqrt(0.05 * 0.95 / 102 / 12 + 0.05 * 0.95 / 6000)


def test_detector_says_what_rate_it_can_keep():
    with pytest.warns(PlausibleWarning, match="smallest rate"):
        found = pl.AnomalyDetector(alpha=0.01, random_state=0).fit(normals(60, 0))
    assert found.alpha_ == pytest.approx(1 / 31)
    assert len(pl.AnomalyDetector(alpha=0.01, random_state=0).fit(normals(240, 0)).calibration_rows_) == 99
    with pytest.raises(DataError, match="calibration_share"):
        pl.AnomalyDetector(calibration_share=1.0).fit(normals(60, 0))


# -------------------------------------------------------------------------------------------- outliers among the rows


def test_clean_fit_takes_the_outliers_out():
    X = normals(600, 12)
    X[:12] = [4.0, -4.0, 0.0] + 0.1 * X[:12]
    found = anomaly.clean_fit(pl.Gaussian(), X, share=0.02)
    assert set(found.outliers) == set(range(12)) and found.converged
    assert (found.weight[:12] == 0).all() and (found.weight[12:] == 1).all()
    np.testing.assert_allclose(found.model.log_prob(X[:50]), pl.Gaussian().fit(X[12:]).log_prob(X[:50]), atol=1e-6)
    assert found.gain > 10 * found.gain_stderr > 0
    assert "12 outliers among 600 rows" in str(found) and "parameters 9 -> 9" in str(found)
    lighter = anomaly.clean_fit(pl.Gaussian(), X, share=0.02, how="weight")
    assert set(lighter.outliers) == set(range(12)) and lighter.weight[:12].max() == 1.0 > lighter.weight[:12].min() > 0
    assert 0 < lighter.gain < found.gain
    clean = anomaly.clean_fit(pl.Gaussian(), normals(600, 13), share=0.02)
    assert clean.gain < 0.1  # nothing much to gain where nothing is wrong


def test_impossible_outliers_have_no_weight():
    np.testing.assert_allclose(cleaning._down(np.array([3.0, np.inf, 4.0])), [1.0, 0.0, np.exp(-1)])
    np.testing.assert_array_equal(cleaning._down(np.array([np.inf, np.inf])), [0.0, 0.0])


def test_clean_fit_refuses():
    X = normals(100, 0)
    for share, match in ((0.0, "between 0 and 0.5"), (0.7, "between 0 and 0.5"), (0.001, "less than one row")):
        with pytest.raises(DataError, match=match):
            anomaly.clean_fit(pl.Gaussian(), X, share=share)
    with pytest.raises(DataError, match="how must be"):
        anomaly.clean_fit(pl.Gaussian(), X, how="burn")
    with pytest.raises(CapabilityError, match="density"):
        anomaly.clean_fit(anomaly.Neighbours(), X, how="weight")
    with pytest.raises(DataError, match="5 folds"):
        anomaly.clean_fit(pl.Gaussian(), X[:8])


def test_unusual_rows_are_ranked_by_models_without_them():
    X = normals(200, 14)
    X[7] = [3.0, -3.0, 0.0]
    for model in (None, pl.KernelDensity(random_state=0)):
        found = anomaly.unusual(model, X)
        assert found.oddest(1)[0] == 7 and found.p_values[7] == pytest.approx(1 / 200)
        np.testing.assert_allclose(np.sort(found.p_values), np.arange(1, 201) / 200)
        for members, judge in found.folds:
            assert judge.model.seen_.found(judge.model.space_.encode(X[members]))[0] == 0
        blame = found.explain([7, 3])
        assert blame.values.shape == (2, 3) and blame.values[0].argmax() < 2
    with pytest.raises(DataError, match="background"):
        anomaly.unusual(None, X, score="ratio")


def test_every_family_can_be_asked():
    """Whatever a family can model, its detector has a score of some kind; of all of them in benchmarks/false_alarms."""
    assert all(hasattr(registry.get(name), "traits") for name in registry.names())


# ------------------------------------------------------------------------------------------------------- command line


def test_command_line(tmp_path, monkeypatch):
    from typer.testing import CliRunner

    from plausible.cli import app

    monkeypatch.chdir(tmp_path)
    for name, rows in (("train", normals(300, 1)), ("clean", normals(200, 2)), ("new", normals(50, 3))):
        if name == "new":
            rows[4] = [3.0, -3.0, 0.0]
        pd.DataFrame(rows, columns=["a", "b", "c"]).to_csv(f"{name}.csv", index=False)
    pl.Gaussian().fit(pd.read_csv("train.csv")).save("m.plausible")

    def run(*args):
        return CliRunner().invoke(app, ["anomalies", *args])

    done = run("m.plausible", "new.csv", "--calibration", "clean.csv", "--explain", "-o", "out.csv")
    assert done.exit_code == 0, done.output
    assert "flagged at alpha = 0.01; 0.5 expected if all are clean" in done.output
    out = pd.read_csv("out.csv")
    assert len(out) == 50 and out["flagged"][4] and out["p_value"].min() == pytest.approx(1 / 201)
    assert out["to blame"][4].split()[0] in "ab"
    alone = run("new.csv", "--alpha", "0.02", "--show", "1", "--explain")
    assert "a = 3.0 (+" in alone.output
    assert alone.exit_code == 0 and "1 of 50 examples flagged" in alone.output and "\n5 " in alone.output
    together = run("m.plausible", "new.csv", "--show", "1")
    assert together.exit_code == 0 and "compared with each other" in together.output and "\n5 " in together.output
    few = run("m.plausible", "new.csv", "--calibration", "clean.csv", "--alpha", "0.001")
    assert few.exit_code != 0
    assert run("m.plausible", "new.csv", "--calibration", "train.csv").exit_code != 0
    assert run("new.csv", "--calibration", "clean.csv").exit_code != 0
