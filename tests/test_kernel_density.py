"""KernelDensity against scipy, scikit-learn, sums over kernels written out, quadrature and closed forms."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, strategies
from scipy import integrate, stats
from scipy.special import logsumexp
from sklearn.neighbors import KernelDensity as Theirs

import plausible
from plausible.errors import DataError
from plausible.families.direct import _bandwidths, _kernels, _lattice
from plausible.families.direct.kernel_density import KernelDensity
from plausible.options import OptionError
from plausible.space import infer

KERNELS = _kernels.NAMES


def clusters(n: int = 300, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    group = rng.integers(0, 2, n)
    return np.array([[0, 50.0], [4, 80]])[group] + rng.normal(size=(n, 2)) @ [[1, 8], [0, 3]]


def mixed(n: int = 250, seed: int = 0) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    group = rng.integers(0, 3, n)
    return pd.DataFrame(
        {
            "flag": rng.random(n) < 0.2 + 0.3 * group,
            "colour": np.array(list("rgb"))[(group + (rng.random(n) < 0.2)) % 3],
            "grade": pd.Categorical(rng.binomial(4, 0.2 + 0.3 * group), categories=range(5), ordered=True),
            "visits": rng.poisson(6 + 25 * group),
            "length": rng.normal(group, 0.5),
            "width": rng.normal(-group, 0.3),
        }
    )


def written_out(model: KernelDensity, X) -> np.ndarray:
    """log p as a double loop's worth of differences, with the fitted bandwidths, in the units of X."""
    m, chain = model.module_, model.transforms_
    z, log_c = chain(model.space_.encode(X).double())
    y, columns = m.centres.numpy(), model.space_.columns
    x, total = z.numpy(), m.log_weights.numpy()[None].repeat(len(z), 0)
    spread = np.broadcast_to(m.spread.numpy(), len(y))
    reals = m.reals.numpy()
    u = (x[:, None, reals] - y[None][:, :, reals]) @ np.linalg.inv(m.factor.numpy()).T / spread[:, None]
    with np.errstate(divide="ignore"):
        laws = {
            "gaussian": stats.norm.logpdf,
            "epanechnikov": lambda u: np.log(np.maximum(0.75 * (1 - u**2), 0)),
            "tophat": lambda u: np.log(0.5 * (np.abs(u) <= 1)),
            "exponential": stats.laplace.logpdf,
            "triangular": lambda u: np.log(np.maximum(1 - np.abs(u), 0)),
            "cosine": lambda u: np.log(np.where(np.abs(u) < 1, np.pi / 4 * np.cos(np.pi / 2 * u), 0)),
        }
        total = total + laws[m.kernel](u).sum(2) - len(reals) * np.log(spread)
    total = total - np.linalg.slogdet(m.factor.numpy())[1]
    for d, h in zip(m.lattices.tolist(), m.width.tolist(), strict=True):
        c, step = columns[d], chain.steps[0].output(model.space_).columns[d].step
        a, b = np.round(x[:, d] / step), np.round(y[:, d] / step)
        shift = chain.steps[0].shift.numpy()[d]
        low, high = (0, c.n_levels - 1) if c.levels else (-math.inf if c.low is None else c.low - shift, math.inf)
        points = np.arange(max(low, b.min() - 400), min(high, b.max() + 400) + 1)
        log_z = logsumexp(-0.5 * ((points[:, None] - b) / h) ** 2, axis=0)
        total = total - 0.5 * ((a[:, None] - b) / h) ** 2 - log_z
    for d, stray in zip(m.levels.tolist(), m.stray.tolist(), strict=True):
        same = x[:, d, None] == y[None, :, d]
        total = total + np.where(same, np.log(1 - stray), np.log(stray / (columns[d].n_levels - 1)))
    return logsumexp(total, axis=1) + log_c.numpy()


# ---------------------------------------------------------------------------------------------------------- values


@pytest.mark.parametrize("bandwidth", ["scott", "silverman", 0.3])
def test_a_full_matrix_is_scipys(bandwidth):
    X, Q = clusters(), clusters(50, 1)
    model = KernelDensity(bandwidth=bandwidth, shape="full").fit(X)
    # scipy divides the covariance by n - 1, the likelihood by n
    factor = stats.gaussian_kde(X.T, bandwidth).factor * math.sqrt(1 - 1 / len(X))
    assert np.allclose(model.log_prob(Q), stats.gaussian_kde(X.T, factor).logpdf(Q.T), atol=1e-6)


@pytest.mark.parametrize("kernel", KERNELS)
def test_a_column_is_scikit_learns(kernel):
    # Distances of 1,000 times the unit: nothing needs to be standardised beforehand.
    X = clusters()[:, :1] * 1000
    name = {"triangular": "linear"}.get(kernel, kernel)
    Q = X[:100] + 37.0
    theirs = Theirs(bandwidth=0.4 * X.std(), kernel=name, rtol=0, atol=0, algorithm="ball_tree").fit(X)
    ours = KernelDensity(bandwidth=0.4, kernel=kernel).fit(X)
    assert np.allclose(ours.log_prob(Q), theirs.score_samples(Q), atol=1e-9)


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("adaptive", [None, 6])
def test_values_are_sums_over_the_kernels(kernel, adaptive):
    X = np.column_stack([clusters(), np.random.default_rng(1).normal(size=(300, 1))])
    model = KernelDensity(kernel=kernel, adaptive=adaptive, random_state=0).fit(X)
    Q = X[::5] + 0.01
    with np.errstate(invalid="ignore"):
        assert np.allclose(model.log_prob(Q), written_out(model, Q), atol=1e-8)


@pytest.mark.parametrize("options", [{}, {"shape": "diagonal", "adaptive": 4}, {"kernel": "exponential"}])
def test_mixed_columns_are_sums_over_the_kernels(options):
    X = mixed()
    model = KernelDensity(random_state=0, **options).fit(X)
    assert np.allclose(model.log_prob(X), written_out(model, X), atol=1e-8)


@pytest.mark.parametrize("options", [{}, {"adaptive": 10}, {"shape": "diagonal"}])
def test_far_tails_keep_their_digits(options, rng):
    X = rng.normal(size=(500, 4)) * [1, 10, 0.1, 1] + [5, -300, 0, 0]
    model = KernelDensity(random_state=0, **options).fit(X)
    for far in (1, 10, 30, 1000):
        Q = X[:20] + far * rng.normal(size=(20, 4)) * X.std(0)
        assert np.abs(model.log_prob(Q) - written_out(model, Q)).max() < 1e-6


def test_farther_than_products_keep_their_digits_differences_are_taken(rng):
    X = rng.normal(size=(200, 3))
    model = KernelDensity(bandwidth=0.01, shape="scalar").fit(X)
    Q = np.concatenate([X[:3], X[:3] + 30, X[:3] + 3000])
    z = model.transforms_(model._encode(Q))[0]
    assert model.module_._safe(z, torch.ones(3, dtype=torch.bool)).tolist() == [True] * 6 + [False] * 3
    truth = written_out(model, Q)  # its own last digit is at 1e-16 of it
    assert (np.abs(model.log_prob(Q) - truth) < np.maximum(1e-6, 1e-14 * np.abs(truth))).all()


def test_tight_clusters_far_from_each_other_keep_their_digits(rng):
    X = np.concatenate([rng.normal(size=(150, 3)), 1e6 + 1e-3 * rng.normal(size=(150, 3))])
    model = KernelDensity(bandwidth=1e-6, shape="scalar").fit(X)
    assert np.allclose(model.log_prob(X), written_out(model, X), atol=1e-6)


@given(strategies.integers(0, 10**6), strategies.sampled_from(KERNELS), strategies.integers(1, 3))
def test_every_kernel_has_mass_one_and_its_draws_follow_it(seed, kernel, dims):
    rng = torch.Generator().manual_seed(seed)
    like = torch.zeros(1, dtype=torch.float64)
    u = torch.linspace(-25, 25, 50_001, dtype=torch.float64)
    log_k = _kernels.log_kernel(kernel, u[:, None], like[None], like + 1)[:, 0] + _kernels.log_constant(kernel)
    mass, cdf = torch.trapezoid(log_k.exp(), u), torch.cumulative_trapezoid(log_k.exp(), u)
    assert mass.item() == pytest.approx(1, abs=1e-3)  # the edges of the top-hat lie on points
    square = torch.trapezoid((2 * log_k).exp(), u).item()
    variance = torch.trapezoid(log_k.exp() * u**2, u).item()
    assert _kernels._LAWS[kernel][1:] == pytest.approx((square, variance), rel=3e-3)
    drawn = _kernels.noise(kernel, 2000, dims, rng, like)
    assert drawn.shape == (2000, dims)
    p = stats.kstest(drawn[:, -1].numpy(), lambda v: np.interp(v, u[1:].numpy(), cdf.numpy())).pvalue
    assert p > 1e-5


@given(
    strategies.floats(0.1, 30),
    strategies.integers(0, 40),
    strategies.sampled_from([-math.inf, 0.0]),
    strategies.booleans(),
)
def test_the_discrete_gaussian(h, y, low, ends):
    high = 45.0 if ends else math.inf
    points = np.arange(max(low, -400), min(high, 500) + 1)
    truth = logsumexp(-0.5 * ((points - y) / h) ** 2)
    y = torch.tensor([float(y)], dtype=torch.float64)
    assert _lattice.log_z(y, h, low, high).item() == pytest.approx(truth, abs=1e-12)
    if not ends and low < 0:
        second = (np.exp(-0.5 * ((points - y.item()) / h) ** 2 - truth) * (points - y.item()) ** 2).sum()
        if second > 1e-12:
            assert _lattice.width(torch.tensor([second], dtype=torch.float64)).item() == pytest.approx(h, rel=1e-6)
    draws = _lattice.draw(y.expand(3000)[:, None], *(torch.tensor([v]).double() for v in (h, low, high)), _rng())
    p = np.exp(-0.5 * ((points - y.item()) / h) ** 2 - truth)
    seen = np.array([(draws == v).sum().item() for v in points])
    often = p * 3000 > 5
    chi2 = ((seen - 3000 * p)[often] ** 2 / (3000 * p)[often]).sum()
    assert seen.sum() == 3000 and stats.chi2.sf(chi2, often.sum()) > 1e-6


def _rng() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def test_the_midpoint_rule_of_wide_lattices_meets_the_sum(monkeypatch):
    y = torch.tensor([0.0, 3.0, 500.0], dtype=torch.float64)
    by_sum = _lattice.log_z(y, 2000.0, 0.0, math.inf)
    monkeypatch.setattr(_lattice, "SUMMED", 1.0)
    assert torch.allclose(_lattice.log_z(y, 2000.0, 0.0, math.inf), by_sum, atol=1e-7)


# ------------------------------------------------------------------------------------------------------ bandwidths


def leave_one_out(x: np.ndarray, h: float) -> float:
    square = (x[:, None] - x) ** 2
    np.fill_diagonal(square, np.inf)
    return float((logsumexp(-0.5 * square / h**2, axis=1) - math.log(h)).mean())


def test_the_likelihood_chooses_the_best_leave_one_out_bandwidth(rng):
    x = np.concatenate([rng.normal(-3, 0.3, 200), rng.normal(2, 1, 200)])
    model = KernelDensity(random_state=0, max_iter=100).fit(x[:, None])
    grid = np.geomspace(0.1, 1, 100)
    scores = [leave_one_out(x, h) for h in grid]
    h = model.module_.factor.item() * x.std()
    assert leave_one_out(x, h) == pytest.approx(max(scores), abs=1e-3)
    loss = model.history_["loss"].to_numpy()  # in standardised units, before the last step
    assert -loss[-1] == pytest.approx(
        max(scores) + math.log(x.std()) - math.log(399 * math.sqrt(2 * math.pi)), abs=2e-3
    )
    assert (np.diff(loss) < 1e-9).all()


def test_adaptive_kernels_are_left_out_of_each_others_spread(rng):
    X = rng.standard_t(3, size=(60, 2))
    model = KernelDensity(adaptive=1, shape="scalar", max_iter=1, random_state=0).fit(X)
    z = (X - X.mean(0)) / X.std(0)
    h = (60 * 4 / 4) ** (-1 / 6)  # Silverman's, with which the first pass is made
    near = np.sort(np.linalg.norm(z[:, None] - z, axis=2), axis=1)[:, 1]
    middle = np.exp(np.log(near).mean())
    total = 0.0
    for i in range(60):
        others = np.delete(z, i, 0)
        distance = np.linalg.norm(others[:, None] - others, axis=2) + np.diag(np.full(59, np.inf))
        s = h * distance.min(1) / middle
        d = ((z[i] - others) ** 2).sum(1)
        total += logsumexp(-0.5 * d / s**2 - 2 * np.log(s)) - math.log(59 * 2 * math.pi)
    assert model.history_["loss"].iloc[0] == pytest.approx(-total / 60, abs=1e-9)


def test_the_likelihood_chooses_how_far_levels_stray(rng):
    """Against the leave-one-out likelihood written out, over distinct rows with their counts as weights."""
    X = np.array([[0, 0, 0], [1, 1, 1], [0, 0, 1], [1, 1, 2], [0, 1, 2]])[
        rng.choice(5, 300, p=[0.4, 0.3, 0.1, 0.1, 0.1])
    ]
    space = {"x0": "binary", "x1": "binary", "x2": "categorical"}
    model = KernelDensity(random_state=0, space=space, max_iter=200).fit(X)
    rows, counts = np.unique(X, axis=0, return_counts=True)
    same = rows[:, None] == rows

    def score(stray) -> float:
        k = np.array([2, 2, 3])
        log_k = np.where(same, np.log1p(-stray), np.log(stray / (k - 1))).sum(2) + np.log(counts)
        np.fill_diagonal(log_k, -np.inf)
        return float((counts * (logsumexp(log_k, axis=1) - np.log(300 - counts))).sum() / 300)

    found = model.module_.stray.numpy()
    grid = [np.linspace(0.02, m, 12) for m in (0.499, 0.499, 0.666)]
    best = max(score(np.array(a)) for a in itertools.product(*grid))
    assert score(found) > best - 5e-3
    assert -model.history_["loss"].iloc[-1] == pytest.approx(score(found), abs=5e-3)


def test_a_full_matrix_beats_a_diagonal_one_where_columns_go_together(rng):
    X = rng.normal(size=(400, 3)) @ np.array([[1, 0.9, 0.8], [0, 0.3, 0.2], [0, 0, 0.3]])
    new = rng.normal(size=(2000, 3)) @ np.array([[1, 0.9, 0.8], [0, 0.3, 0.2], [0, 0, 0.3]])
    score = {s: KernelDensity(shape=s, random_state=0).fit(X).score(new) for s in ("full", "diagonal", "scalar")}
    assert score["full"] > max(score["diagonal"], score["scalar"]) + 0.05


def test_isj_sees_both_modes_where_silverman_smooths_them_away(rng):
    x = np.concatenate([rng.normal(-5, 0.2, 2000), rng.normal(5, 0.2, 2000)])
    one = np.ones(len(x))
    # That of one mode with half the rows, by the formula for a normal density
    assert _bandwidths.isj(x, one) == pytest.approx(0.2 * (0.75 * 2000) ** -0.2, rel=0.15)
    assert _bandwidths.isj(x * 1e6, one) == pytest.approx(1e6 * _bandwidths.isj(x, one), rel=1e-6)
    assert _bandwidths.isj(np.repeat(x, 2), np.ones(2 * len(x)) / 2) != _bandwidths.isj(x, one)
    normal = rng.normal(size=20_000)
    assert _bandwidths.isj(normal, np.ones(20_000)) == pytest.approx((0.75 * 20_000) ** -0.2, rel=0.1)


def test_the_mean_squared_error_is_that_of_theory(rng):
    """Marron and Wand's closed form of the expected integrated squared error of a Gaussian kernel on N(0, 1)."""
    n, h, grid = 400, 0.3, np.linspace(-6, 6, 200)
    errors = []
    for _ in range(40):
        x = rng.normal(size=n)
        z = KernelDensity(bandwidth=h / x.std()).fit(x[:, None])
        errors.append(integrate.trapezoid((np.exp(z.log_prob(grid[:, None])) - stats.norm.pdf(grid)) ** 2, grid))
    phi = lambda v: 1 / math.sqrt(2 * math.pi * v)  # noqa: E731
    truth = phi(2 * h * h) / n + (1 - 1 / n) * phi(2 + 2 * h * h) - 2 * phi(2 + h * h) + phi(2)
    assert np.mean(errors) == pytest.approx(truth, abs=4 * np.std(errors) / math.sqrt(40))


def test_many_rows_are_chosen_for_by_a_part_of_them(monkeypatch, rng):
    from plausible.families.direct import kernel_density

    X, new = rng.normal(size=(1200, 2)), rng.normal(size=(1000, 2))
    whole = KernelDensity(random_state=0).fit(X).score(new)
    monkeypatch.setattr(kernel_density, "ROWS", 200)
    monkeypatch.setattr(kernel_density, "SOME", 400)
    assert KernelDensity(random_state=0).fit(X).score(new) == pytest.approx(whole, abs=0.02)


# ---------------------------------------------------------------------------------------------- weights and copies


@pytest.mark.parametrize("options", [{}, {"bandwidth": "isj", "shape": "diagonal"}, {"adaptive": 5}])
def test_weights_are_copies(options):
    X = mixed(120)
    weight = np.random.default_rng(0).integers(0, 4, 120)
    copied = X.iloc[np.repeat(np.arange(120), weight)].reset_index(drop=True)
    one = KernelDensity(random_state=0, **options).fit(X, sample_weight=weight)
    two = KernelDensity(random_state=0, **options).fit(copied)
    assert np.allclose(one.log_prob(copied), two.log_prob(copied), atol=1e-9)
    scaled = KernelDensity(random_state=0, **options).fit(X, sample_weight=weight / 7)
    assert np.allclose(one.log_prob(copied), scaled.log_prob(copied), atol=1e-9)


@pytest.mark.parametrize("options", [{}, {"adaptive": 3}, {"shape": "diagonal"}, {"bandwidth": "isj"}])
def test_copies_and_columns_that_never_change_give_no_infinity(options, rng):
    X = np.repeat(rng.normal(size=(30, 2)), 5, axis=0)
    X = np.column_stack([X, np.full(150, 7.5), X[:, 0]])  # and two columns that are equal
    space = infer(rng.normal(size=(10, 4)))  # what is guessed from a column that never changes is an error
    model = KernelDensity(random_state=0, space=space, **options).fit(X)
    assert np.isfinite(model.log_prob(X)).all()
    assert np.isfinite(model.log_prob(X + 1)).all()
    assert model.module_.factor.diagonal().min() > 0


def test_rows_that_are_all_equal_leave_one_kernel():
    model = KernelDensity(random_state=0, space=infer(np.eye(2) / 2)).fit(np.full((10, 2), 3.0))
    assert np.isfinite(model.log_prob([[3.0, 3.0], [4.0, 3.0]])).all()


def test_what_cannot_be_is_refused():
    X = clusters(20)
    with pytest.raises(OptionError, match="only the Gaussian kernel"):
        KernelDensity(kernel="tophat", shape="full").fit(X)
    with pytest.raises(OptionError, match="bandwidth"):
        KernelDensity(bandwidth=0).fit(X)
    with pytest.raises(DataError, match="more distinct rows"):
        KernelDensity(adaptive=19).fit(X)
    assert np.isfinite(KernelDensity(adaptive=18).fit(X).log_prob(X)).all()
    with pytest.raises(DataError, match="non-negative"):
        KernelDensity().fit(X, sample_weight=-np.ones(20))


def test_nothing_is_where_a_kernel_of_finite_reach_does_not_reach():
    model = KernelDensity(kernel="epanechnikov", bandwidth=0.1).fit(clusters())
    assert (model.log_prob([[1e3, 0.0]]) == -np.inf).all()
    assert np.isfinite(KernelDensity(bandwidth=0.1).fit(clusters()).log_prob([[1e3, 0.0]])).all()


# ------------------------------------------------------------------------------------------ marginals, given, files


@pytest.mark.parametrize("options", [{}, {"shape": "diagonal"}, {"adaptive": 4}, {"kernel": "cosine", "adaptive": 4}])
def test_marginals_are_sums_over_what_is_missing(options):
    X = mixed(80)[["flag", "grade", "length", "width"]]
    model = KernelDensity(random_state=0, **options).fit(X)
    row = X.iloc[:1]
    hole = row.astype(object).assign(width=None)
    width = np.linspace(-6, 6, 6_001)
    many = pd.concat([row] * len(width), ignore_index=True).assign(width=width)
    whole = np.exp(model.log_prob(many)).sum() * (width[1] - width[0])
    assert model.log_prob(hole)[0] == pytest.approx(math.log(whole), abs=1e-4)
    hole = hole.assign(flag=None, grade=None)
    levels = list(itertools.product([False, True], range(5)))
    many = pd.concat([row] * 10, ignore_index=True).astype(object).assign(width=None)
    many = many.assign(flag=[f for f, _ in levels], grade=[g for _, g in levels])
    assert model.log_prob(hole)[0] == pytest.approx(logsumexp(model.log_prob(many)), abs=1e-9)
    nothing = row.astype(object).assign(flag=None, grade=None, length=None, width=None)
    assert model.log_prob(nothing)[0] == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("options", [{}, {"adaptive": 5}, {"kernel": "triangular"}, {"kernel": "exponential"}])
def test_draws_given_a_part_follow_the_conditional(options):
    X = clusters(200)
    model = KernelDensity(random_state=0, **options).fit(X)
    z, _ = model.transforms_(model.space_.encode(X[:1]))
    z = torch.tensor([[z[0, 0].item(), math.nan]], dtype=torch.float64).expand(4000, 2)
    drawn = model.module_.sample_given(z, rng=_rng())
    assert torch.equal(drawn[:, 0], z[:, 0])
    grid = torch.linspace(-6, 6, 4001, dtype=torch.float64)
    density = model.module_.log_prob(torch.stack([z[:1, 0].expand(4001), grid], 1)).exp().numpy()
    cdf = integrate.cumulative_trapezoid(density, grid.numpy(), initial=0)
    assert stats.kstest(drawn[:, 1].numpy(), lambda v: np.interp(v, grid.numpy(), cdf / cdf[-1])).pvalue > 1e-4


def test_kernels_are_drawn_by_their_weights_across_tiles(monkeypatch, rng):
    monkeypatch.setattr(_kernels, "KERNELS", 7)
    monkeypatch.setattr(_kernels, "QUERIES", 5)
    c = torch.from_numpy(rng.normal(size=30))
    a, b = torch.from_numpy(rng.normal(size=(1, 3))), torch.from_numpy(rng.normal(size=(30, 3)))
    u = torch.rand(20_000, 2, generator=_rng(), dtype=torch.float64)
    j = _kernels.draw_kernels(a.expand(20_000, 3), b, c, None, u)
    p = (a @ b.T + c).softmax(1)[0].numpy()
    assert stats.chisquare(np.bincount(j, minlength=30), p * 20_000).pvalue > 1e-4
    sums = _kernels.log_sums(a, b, c).logsumexp(1)
    assert torch.allclose(sums, (a @ b.T + c).logsumexp(1), atol=1e-12)


def test_a_model_read_from_its_file_is_the_same(tmp_path):
    X = mixed(60)
    model = KernelDensity(random_state=0, max_iter=3, adaptive="likelihood").fit(X)
    model.save(tmp_path / "m.plausible")
    again = plausible.load(tmp_path / "m.plausible")
    assert np.array_equal(again.log_prob(X), model.log_prob(X))
    assert again.n_parameters_ == model.n_parameters_


def test_images_of_grey_levels_are_lattices(rng):
    X = np.clip(rng.normal(120, 40, size=(60, 1, 1)) + rng.normal(0, 5, size=(60, 2, 3)), 0, 255).astype(np.uint8)
    model = KernelDensity(random_state=0).fit(X)
    assert model.space_.type == "image" and model.likelihood_kind_ == "exact"
    S = model.sample(50, random_state=0)
    assert S.dtype == np.uint8 and np.isfinite(model.log_prob(S)).all()
    independent = plausible.Independent().fit(X)
    assert model.score(X[::2]) > independent.score(X[::2]) + 5
