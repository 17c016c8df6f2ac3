"""KNNDensity against scikit-learn's neighbours, volumes written out, quadrature."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, strategies
from scipy import integrate, stats
from scipy.special import gammaln
from sklearn.neighbors import NearestNeighbors

import plausible
from plausible.checks.audit import CHECKS, Broken
from plausible.checks.cases import Bench
from plausible.errors import DataError
from plausible.families.direct import _neighbours
from plausible.families.direct._neighbours import distinct, neighbours
from plausible.families.direct.gaussian import Gaussian
from plausible.families.direct.kernel_density import KernelDensity
from plausible.families.direct.knn_density import KNNDensity


def heavy(n: int = 300, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_t(3, size=(n, 3)) * [1, 10, 0.1] + [0, 100, 0]


def log_ball(dims: int, radius: np.ndarray) -> np.ndarray:
    return dims / 2 * math.log(math.pi) - gammaln(dims / 2 + 1) + dims * np.log(radius)


# ------------------------------------------------------------------------------------------------------ neighbours


@given(
    strategies.integers(0, 10**6),
    strategies.sampled_from([1, 3, 9, 20]),
    strategies.sampled_from([1, 5, 17]),
    strategies.sampled_from([0.0, 1.0, 1e4]),
)
def test_neighbours_are_the_nearest(seed, dims, k, offset):
    # Beyond a few thousand rows of many dimensions single precision looks first; shared offsets cost it digits.
    rng = np.random.default_rng(seed)
    n = 2500 if dims > 8 else 200
    y = rng.normal(size=(n, dims)) * rng.choice([1e-3, 1.0], size=(n, 1)) + offset
    x = np.concatenate([rng.normal(size=(10, dims)) + offset, y[:5], 100 * rng.normal(size=(5, dims))])
    distance, which = neighbours(torch.from_numpy(x), torch.from_numpy(y), k)
    truth = np.sqrt(((x[:, None] - y) ** 2).sum(2))
    assert np.allclose(distance, np.sort(truth, 1)[:, :k], rtol=1e-12, atol=0)
    assert np.allclose(np.take_along_axis(truth, which.numpy(), 1), distance, rtol=1e-12, atol=0)


def test_rows_in_doubt_are_searched_again(monkeypatch):
    rng = np.random.default_rng(0)
    # Next to far-off rows, products of single precision cannot tell those of a tight cluster apart.
    y = torch.from_numpy(np.concatenate([1e-5 * rng.normal(size=(3000, 12)), 1e3 * rng.normal(size=(10, 12))]))
    assert not _neighbours._screened(y[:50], y, 5, torch.float32)[2].all()
    distance, _ = neighbours(y[:50], y, 5)
    theirs = NearestNeighbors(n_neighbors=5, algorithm="kd_tree").fit(y.numpy()).kneighbors(y[:50].numpy())[0]
    assert np.allclose(distance, theirs, atol=1e-15)


def test_a_row_is_no_neighbour_of_itself():
    x = torch.tensor([[0.0], [0.0], [1.0], [3.0]])
    own = torch.arange(4)
    distance, which = neighbours(x.double(), x.double(), 2, own)
    assert distance.tolist() == [[0, 1], [0, 1], [1, 1], [2, 3]]
    assert not (which == own[:, None]).any()


@given(strategies.lists(strategies.tuples(strategies.integers(0, 3), strategies.integers(0, 2)), min_size=1))
def test_distinct_rows_and_their_weights(rows):
    z = torch.tensor(rows, dtype=torch.float64)
    weight = torch.arange(len(rows), dtype=torch.float64) + 1
    found, w = distinct(z, weight)
    truth = {}
    for row, v in zip(rows, weight.tolist(), strict=True):
        truth[row] = truth.get(row, 0) + v
    assert [tuple(map(int, r)) for r in found.tolist()] == list(truth)
    assert w.tolist() == list(truth.values())


# --------------------------------------------------------------------------------------------------------- balloon


@pytest.mark.parametrize("k", [1, 7])
def test_the_balloon_is_k_over_n_times_the_volume(k):
    X, Q = heavy(), heavy(50, 1)
    model = KNNDensity(estimate="balloon", n_neighbors=k, shape="scalar").fit(X)
    scale = X.std(0)
    radius = NearestNeighbors(n_neighbors=k).fit(X / scale).kneighbors(Q / scale)[0][:, -1]
    truth = math.log(k / len(X)) - log_ball(3, radius) - np.log(scale).sum()
    assert np.allclose(model.log_prob(Q), truth, atol=1e-9)
    whole = KNNDensity(estimate="balloon", n_neighbors=k, shape="full").fit(X)
    root = np.linalg.cholesky(np.cov(X.T, bias=True))
    a, b = np.linalg.solve(root, X.T).T, np.linalg.solve(root, Q.T).T
    radius = NearestNeighbors(n_neighbors=k).fit(a).kneighbors(b)[0][:, -1]
    truth = math.log(k / len(X)) - log_ball(3, radius) - np.linalg.slogdet(root)[1]
    assert np.allclose(whole.log_prob(Q), truth, atol=1e-6)


def test_the_balloon_says_that_it_is_an_estimate_and_its_mass_that_it_is_none():
    X = heavy(100)[:, :1]
    model = KNNDensity(estimate="balloon", n_neighbors=5).fit(X)
    assert model.likelihood_kind_ == "estimate"
    assert KNNDensity(n_neighbors=5, random_state=0).fit(X).likelihood_kind_ == "exact"

    def mass(reach):
        grid = np.concatenate([-np.geomspace(reach, 1e-3, 20_000), np.geomspace(1e-3, reach, 20_000)])
        return integrate.trapezoid(np.exp(model.log_prob(grid[:, None])), grid)

    # Far out p = k / (2 n |x|) on either side: every decade adds log(10) k / n.
    assert mass(1e6) - mass(1e5) == pytest.approx(math.log(10) * 5 / 100, rel=0.01)
    with pytest.raises(Broken, match="the mass over"):
        CHECKS["mass_sums_to_one"].examine(Bench(KNNDensity(estimate="balloon")))


def test_k_of_the_balloon_is_the_best_leave_one_out():
    X = heavy(200)
    model = KNNDensity(estimate="balloon", shape="scalar", random_state=0).fit(X)
    z = X / X.std(0)
    distance = NearestNeighbors(n_neighbors=199).fit(z).kneighbors()[0]
    scores = {k: (math.log(k / 199) - log_ball(3, distance[:, k - 1])).mean() for k in (1, 2, 3, 4, 6, 8, 12, 16, 24)}
    assert int(model.module_.k) == max(scores, key=scores.get)
    assert model.history_["loss"].iloc[0] == pytest.approx(-max(scores.values()))


def test_samples_of_the_balloon_lie_in_the_balls_of_the_rows():
    X = heavy(100)
    model = KNNDensity(estimate="balloon", n_neighbors=4, shape="scalar").fit(X)
    z, S = X / X.std(0), model.sample(3000, random_state=0) / X.std(0)
    radius = NearestNeighbors(n_neighbors=4).fit(z).kneighbors()[0][:, -1]
    inside = np.linalg.norm(S[:, None] - z, axis=2) / radius
    assert (inside.min(1) <= 1 + 1e-9).all()
    alone = (inside <= 1).sum(1) == 1  # of those that can come from one row only
    shares = inside.min(1)[alone & (inside.argmin(1) == radius.argmax())] ** 3
    assert stats.kstest(shares / shares.max(), "uniform").pvalue > 1e-3 if len(shares) > 20 else True


# ---------------------------------------------------------------------------------------------------------- kernel


def test_the_kernel_estimate_is_adaptive_kernels_with_k_chosen():
    X, Q = heavy(150), heavy(40, 1)
    ours = KNNDensity(n_neighbors=5, random_state=0).fit(X)
    same = KernelDensity(adaptive=5, random_state=0).fit(X)
    assert np.array_equal(ours.log_prob(Q), same.log_prob(Q))
    radius = NearestNeighbors(n_neighbors=5).fit(X).kneighbors()[0][:, -1]
    far = ours.module_.spread.numpy()
    assert stats.spearmanr(radius, far).statistic > 0.5 and np.log(far).mean() == pytest.approx(0, abs=1e-9)


def test_on_heavy_tails_it_beats_kernels_of_one_width():
    X, new = heavy(400), heavy(2000, 1)
    score = KNNDensity(random_state=0).fit(X).score(new)
    assert score > KernelDensity(random_state=0).fit(X).score(new) + 0.05
    assert score > Gaussian().fit(X).score(new) + 0.1


# ------------------------------------------------------------------------------------------------------- bad input


@pytest.mark.parametrize("estimate", ["kernel", "balloon"])
@pytest.mark.parametrize("k", [1, 3, "likelihood"])
def test_copies_give_no_infinity(estimate, k):
    X = np.repeat(heavy(20), 10, axis=0)
    model = KNNDensity(estimate=estimate, n_neighbors=k, random_state=0).fit(X)
    assert np.isfinite(model.log_prob(X)).all() and np.isfinite(model.log_prob(X + 0.1)).all()
    assert np.isfinite(model.sample(100, random_state=0)).all()


@pytest.mark.parametrize("estimate", ["kernel", "balloon"])
def test_weights_are_copies(estimate):
    X = heavy(60)
    weight = np.random.default_rng(0).integers(0, 4, 60)
    copied = np.repeat(X, weight, axis=0)
    one = KNNDensity(estimate=estimate, n_neighbors=4, random_state=0).fit(X, sample_weight=weight)
    two = KNNDensity(estimate=estimate, n_neighbors=4, random_state=0).fit(copied)
    assert np.allclose(one.log_prob(X), two.log_prob(X), atol=1e-9)


def test_too_few_rows_are_refused_with_a_number():
    X = heavy(10)
    with pytest.raises(DataError, match="n_neighbors=10.*got 10"):
        KNNDensity(estimate="balloon", n_neighbors=10).fit(X)
    with pytest.raises(DataError, match="got 10"):
        KNNDensity(n_neighbors=9).fit(X)
    with pytest.raises(DataError, match="got 5"):  # of which five are copies
        KNNDensity(n_neighbors=4).fit(np.repeat(heavy(5), 2, axis=0))
    with pytest.raises(DataError, match="measures volumes"):
        KNNDensity(estimate="balloon").fit(np.random.default_rng(0).integers(0, 3, (40, 2)))
    assert np.isfinite(KNNDensity().fit(heavy(2)).log_prob(X)).all()
    assert np.isfinite(KNNDensity(estimate="balloon").fit(heavy(2)).log_prob(X)).all()


def test_a_model_read_from_its_file_is_the_same(tmp_path):
    X = heavy(80)
    for estimate in ("kernel", "balloon"):
        model = KNNDensity(estimate=estimate, random_state=0).fit(X)
        model.save(tmp_path / "m.plausible")
        again = plausible.load(tmp_path / "m.plausible")
        assert np.array_equal(again.log_prob(X), model.log_prob(X))
        assert again.likelihood_kind_ == model.likelihood_kind_
