"""The orthogonal series against known series, quadrature, and the rates of theory."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import special, stats

import plausible
from plausible.data.stream import Stream
from plausible.errors import DataError
from plausible.families.direct._series import BASES, Grid, features, nearest_density, nodes, weights_of
from plausible.families.direct.basis import Basis
from plausible.options import OptionError
from plausible.randomness import generator
from plausible.uses import given as part


def midpoints(low: float, high: float, m: int) -> tuple[np.ndarray, float]:
    edges = np.linspace(low, high, m + 1)
    return (edges[1:] + edges[:-1]) / 2, (high - low) / m


def correlated(n: int, dims: int = 2, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n, dims))
    X[:, 1:] += 0.8 * X[:, :1]
    return X * np.array([1.0, 20.0, 0.1])[:dims] + np.array([0.0, 100.0, 3.0])[:dims]


# ------------------------------------------------------------------------------------------------------- the bases


@pytest.mark.parametrize("basis", BASES)
def test_bases_are_orthonormal(basis):
    if basis == "hermite":
        x, w = np.polynomial.hermite.hermgauss(80)
        w = w * np.exp(x**2)
    elif basis == "haar":
        x, step = midpoints(0, 1, 1024)
        w = np.full(1024, step)
    else:
        x, w = np.polynomial.legendre.leggauss(200)
        x, w = (x + 1) / 2, w / 2
    phi = features(basis, torch.from_numpy(x), 32).numpy()
    assert np.allclose(phi.T @ (w[:, None] * phi), np.eye(32), atol=1e-9)


def test_bases_are_the_functions_of_scipy():
    u = np.linspace(0, 1, 41)
    z = np.linspace(-5, 5, 41)
    for j in (0, 1, 2, 7, 20):
        legendre = math.sqrt(2 * j + 1) * special.eval_legendre(j, 2 * u - 1)
        norm = math.sqrt(2.0**j * special.factorial(j) * math.sqrt(math.pi))
        hermite = special.eval_hermite(j, z) * np.exp(-(z**2) / 2) / norm
        assert np.allclose(features("legendre", torch.from_numpy(u), j + 1)[:, j], legendre)
        assert np.allclose(features("hermite", torch.from_numpy(z), j + 1)[:, j], hermite)


def test_haar_wavelets_are_halves_of_their_interval():
    phi = features("haar", torch.tensor([0.1, 0.3, 0.6, 0.9, 1.0], dtype=torch.float64), 4)
    r = math.sqrt(2)
    expected = [[1, 1, r, 0], [1, 1, -r, 0], [1, -1, 0, r], [1, -1, 0, -r], [1, -1, 0, -r]]
    assert np.allclose(phi, expected)


# ---------------------------------------------------------------------------------------------------- the series


def test_coefficients_of_a_density_that_is_two_cosines():
    """p(x) = 1 + 0.6 cos(2 pi x) on [0, 1]: theta_2 = 0.6 / sqrt(2), the others are zero."""
    rng = np.random.default_rng(0)
    n = 40_000
    x = rng.random(4 * n)
    X = x[rng.random(4 * n) * 1.6 < 1 + 0.6 * np.cos(2 * np.pi * x)][:n, None]
    model = Basis(support=(0, 1), terms=6).fit(X)
    theta = model.module_.theta.numpy()
    assert theta[0] == 1
    assert np.allclose(theta, [1, 0, 0.6 / math.sqrt(2), 0, 0, 0], atol=4 / math.sqrt(n))
    chosen = Basis(support=(0, 1)).fit(X)
    grid = np.linspace(0, 1, 201)[:, None]
    assert 3 <= len(chosen.module_.theta) <= 12
    assert np.allclose(np.exp(chosen.log_prob(grid)), 1 + 0.6 * np.cos(2 * np.pi * grid[:, 0]), atol=0.06)


@pytest.mark.parametrize("basis", BASES)
def test_coefficients_are_means_of_the_functions(basis, rng):
    X = rng.normal(5, 2, (300, 1))
    model = Basis(basis=basis, terms=8).fit(X)
    z = (X[:, 0] - X.mean()) / X.std()
    at = z if basis == "hermite" else (z - z.min()) / (z.max() - z.min())
    phi = features(basis, torch.from_numpy(at), 8).numpy()
    theta = phi.mean(0)
    assert np.allclose(model.module_.theta, theta)
    assert model.n_parameters_ == 7
    inner = (z > z.min()) & (z < z.max())  # where rounding puts no row out of the interval
    z, phi, width = z[inner], phi[inner], z.max() - z.min()
    f = model.module_.series(torch.from_numpy(z[:, None])).numpy()
    assert np.allclose(f * (1 if basis == "hermite" else width), phi @ theta)


def test_the_risk_is_the_leave_one_out_risk(rng):
    """Chosen terms minimise int f^2 - 2/n sum_i f_-i(x_i), each f_-i made without row i."""
    X = rng.beta(2, 5, (60, 1))
    phi = features("cosine", torch.from_numpy(X[:, 0]), 40).numpy()
    others = (phi.sum(0) - phi) / 59
    risk = np.cumsum((phi.mean(0) ** 2) - 2 * (others * phi).mean(0))
    assert len(Basis(support=(0, 1)).fit(X).module_.theta) == risk.argmin() + 1
    weight = rng.integers(1, 4, 60)
    Z = np.repeat(X, weight, 0)
    a, b = Basis(support=(0, 1)).fit(X, sample_weight=weight), Basis(support=(0, 1)).fit(Z)
    assert torch.allclose(a.module_.theta, b.module_.theta) and a.module_.theta.shape == b.module_.theta.shape
    grid = np.linspace(0.01, 0.99, 50)[:, None]
    assert np.allclose(a.log_prob(grid), b.log_prob(grid))


def test_a_normal_law_is_one_hermite_function(rng):
    X = rng.normal(-3, 0.5, (4000, 1))
    model = Basis(basis="hermite", terms=1).fit(X)
    grid = np.linspace(-4.5, -1.5, 50)[:, None]
    assert np.allclose(model.log_prob(grid), stats.norm.logpdf(grid[:, 0], X.mean(), X.std()), atol=5e-3)


def test_a_haar_series_of_all_levels_is_the_histogram(rng):
    X = np.clip(rng.beta(2, 3, (1000, 1)), 0, 1)
    model = Basis(basis="haar", terms=16, support=(0, 1), pseudo_rows=0).fit(X)
    counts = np.histogram(X, 16, (0, 1))[0]
    found = np.exp(model.log_prob((np.arange(16)[:, None] + 0.5) / 16))
    assert np.allclose(found, counts / 1000 * 16)


def test_thresholds_keep_the_terms_above_their_noise(rng):
    """A narrow bump on a flat ground: few wavelets, at many levels."""
    X = np.concatenate([rng.random(8000), 0.7 + 0.005 * rng.random(2000)])[:, None]
    model = Basis(basis="haar", select="threshold", support=(0, 1)).fit(X)
    theta = model.module_.theta
    assert theta.numel() == 128 and model.n_parameters_ < 20
    assert math.exp(model.log_prob([[0.7025]])[0]) > 10
    assert math.exp(model.log_prob([[0.2]])[0]) == pytest.approx(0.8, abs=0.05)
    cut = Basis(basis="haar", support=(0, 1), shrink=False).fit(X)
    assert cut.n_parameters_ > 100


# ------------------------------------------------------------------------------------------------------- the grid


@settings(max_examples=30)
@given(st.integers(0, 10**6), st.integers(1, 3))
def test_the_projection_is_the_nearest_density(seed, dims):
    rng = np.random.default_rng(seed)
    w = torch.from_numpy(rng.random((6,) * dims))
    w /= w.sum()
    f = torch.from_numpy(rng.normal(1, 2, (6,) * dims))
    g = nearest_density(f, w)
    assert g.min() >= 0 and (w * g).sum() == pytest.approx(1)
    if (w * f.clamp_min(0)).sum() > 1:
        c = (f - g)[g > 0]
        assert torch.allclose(c, c[0].expand_as(c)) and c[0] >= 0  # one constant off where positive ...
        assert (f[g == 0] <= c[0] + 1e-12).all()  # ... and below it elsewhere
    other = torch.from_numpy(rng.random((6,) * dims))
    other /= (w * other).sum()
    assert (w * (f - g) ** 2).sum() <= (w * (f - other) ** 2).sum() + 1e-9 or (w * f.clamp_min(0)).sum() <= 1


@pytest.mark.parametrize("constant", [True, False])
def test_marginals_and_draws_of_a_grid(constant, rng):
    ends = [nodes(b, m) for b, m in (("cosine", 4), ("legendre", 3), ("cosine", 5))]
    shape = [len(x) - constant for x in ends]
    values = torch.from_numpy(rng.random(shape))
    w = torch.ones(())
    for x in ends:
        w = w[..., None] * weights_of(x, constant)
    grid = Grid(values / (w * values).sum(), ends, constant)
    u = torch.from_numpy(rng.random((7, 3)))
    fine, step = midpoints(0, 1, 60)
    a, b = (torch.from_numpy(v.ravel()) for v in np.meshgrid(fine, fine))
    for known in ([0], [1], [2]):
        rest = [d for d in range(3) if d not in known]
        for row in u[:2]:
            full = row.repeat(len(a), 1)
            full[:, rest[0]], full[:, rest[1]] = a, b
            mass = grid.density(full, [0, 1, 2]).sum() * step**2
            assert grid.density(row[None], known)[0] == pytest.approx(mass.item(), rel=2e-3)
    drawn = grid.sample(torch.from_numpy(rng.random((40_000, 4)))).numpy()
    for d in range(3):
        x = np.linspace(0, 1, 2001)
        p = grid.density(torch.from_numpy(np.repeat(x[:, None], 3, 1)), [d]).numpy()
        cdf = np.r_[0, np.cumsum((p[1:] + p[:-1]) / 2 * np.diff(x))]
        assert stats.kstest(drawn[:, d], lambda t, x=x, cdf=cdf: np.interp(t, x, cdf)).pvalue > 1e-3
    expected = [[grid.density(torch.tensor([[s, t, 0.0]]), [0, 1])[0].item() for t in fine[::3]] for s in fine[::3]]
    counts = np.histogram2d(drawn[:, 0], drawn[:, 1], 5, [[0, 1], [0, 1]])[0] / 40_000
    blocks = np.array(expected).reshape(5, 4, 5, 4).sum((1, 3))
    assert np.allclose(counts, blocks / blocks.sum(), atol=0.015)


@pytest.mark.parametrize("basis", BASES)
@pytest.mark.parametrize("dims", [1, 2, 3])
def test_the_mass_is_one(basis, dims):
    X = correlated(500, dims)
    model = Basis(basis=basis).fit(X)
    m = {1: 20_000, 2: 700, 3: 90}[dims]
    axes = [midpoints(X[:, d].mean() - 10 * X[:, d].std(), X[:, d].mean() + 10 * X[:, d].std(), m) for d in range(dims)]
    grid = np.stack(np.meshgrid(*[a for a, _ in axes], indexing="ij"), -1).reshape(-1, dims)
    mass = np.exp(model.log_prob(grid)).sum() * math.prod(s for _, s in axes)
    jumps = 3 if basis == "haar" else 1  # which midpoints do not resolve
    assert mass == pytest.approx(1, abs={1: 1e-4, 2: 2e-3, 3: 2e-2}[dims] * jumps)


@pytest.mark.parametrize("basis", BASES)
def test_draws_follow_the_density(basis):
    X = correlated(600)
    model = Basis(basis=basis).fit(X)
    drawn = model.sample(20_000, random_state=0)
    rows = np.stack([np.full(20_000, 0.5), np.full(20_000, np.nan)], 1)
    conditional = part.sample(model, rows, random_state=0)
    assert (conditional[:, 0] == 0.5).all()
    y, step = midpoints(0, 220, 20_000)
    known = np.stack([np.full(20_000, 0.5), y], 1)
    for values, log_p in (
        (drawn[:, 1], model.log_prob(np.stack([np.full(20_000, np.nan), y], 1))),
        (conditional[:, 1], model.log_prob(known) - model.log_prob(rows[:1])),
    ):
        cdf = np.cumsum(np.exp(log_p)) * step
        assert cdf[-1] == pytest.approx(1, abs=1e-3)
        assert stats.kstest(values, lambda t, cdf=cdf: np.interp(t, y + step / 2, cdf)).pvalue > 1e-3


def test_the_tabulated_series_is_the_series(rng):
    """Between nodes as well: what the grid loses is below a percent of the density's height."""
    for dims, tolerance in ((1, 1e-4), (2, 5e-3), (3, 2e-2)):
        X = correlated(20_000, dims)
        module = Basis().fit(X).module_
        z = (torch.from_numpy(X[:500]) - torch.from_numpy(X.mean(0))) / torch.from_numpy(X.std(0))
        f = module.series(z)
        g = (module.log_prob(z).exp() * (module.rows[0] + 1) - module._parts(z, [*range(dims)])[1].exp()) / module.rows[
            0
        ]
        off = (f - g)[f > 0.2 * f.max()]
        assert (off - off.median()).abs().max() < tolerance * f.max()  # but for the constant of the projection


# ----------------------------------------------------------------------------------------------------- its quality


def ise(model, truth, low: float, high: float) -> float:
    x, step = midpoints(low, high, 2000)
    return float(((np.exp(model.log_prob(x[:, None])) - truth(x)) ** 2).sum() * step)


@pytest.mark.parametrize("basis,least", [("cosine", 0.7), ("haar", 0.5)])
def test_the_error_falls_at_the_rate_of_theory(basis, least):
    """Mean integrated squared error over n: n^-4/5 for two derivatives, faster for more; n^-2/3 for Haar's steps."""
    truth = stats.beta(3, 4)
    sizes, errors = [200, 1600, 12_800], []
    for n in sizes:
        draws = truth.rvs((16, n), random_state=n)
        errors.append(np.mean([ise(Basis(basis=basis).fit(x[:, None]), truth.pdf, 0, 1) for x in draws]))
    slope = np.polyfit(np.log(sizes), np.log(errors), 1)[0]
    assert -1.1 < slope < -least
    assert errors[-1] < 0.01


def test_the_choice_is_near_the_best_number_of_terms():
    truth = stats.norm(0, 1)
    X = truth.rvs((12, 1000), random_state=0)

    def mean_error(**settings):
        return np.mean([ise(Basis(**settings).fit(x[:, None]), truth.pdf, -6, 6) for x in X])

    fixed = [mean_error(terms=m) for m in (3, 5, 8, 30)]
    assert mean_error() < min(2.5 * min(fixed), 0.5 * fixed[0], 0.3 * fixed[-1])
    assert mean_error() < mean_error(shrink=False)


def test_shrinkage_takes_off_the_noise(rng):
    X = rng.beta(2, 5, (60, 1))
    raw, model = (Basis(support=(0, 1), shrink=s).fit(X).module_.theta.numpy() for s in (False, True))
    phi = features("cosine", torch.from_numpy(X[:, 0]), len(raw)).numpy()
    noise = phi.var(0, ddof=1) / 60
    noise[0] = 0
    assert np.allclose(model, raw * np.maximum(1 - noise / raw**2, 0)) and np.allclose(raw, phi.mean(0))


# --------------------------------------------------------------------------------------------- where rows are not


def test_a_row_out_of_range_is_improbable_not_impossible(rng):
    X = rng.random((1000, 1))
    model = Basis().fit(X)
    log_p = model.log_prob([[-1.0], [1.01], [3.0], [50.0]])
    assert np.isfinite(log_p).all() and (log_p < -5).all() and log_p[1] > log_p[2] > log_p[3]
    hole = np.concatenate([rng.random((300, 2)), 5 + rng.random((300, 2))])
    assert np.isfinite(Basis().fit(hole).log_prob([[0.5, 5.5], [3.0, 3.0]])).all()
    support = Basis(support=(0, 2)).fit(X)
    assert np.isfinite(support.log_prob([[1.5]])[0]) and support.log_prob([[2.5], [-0.1]]).tolist() == [-math.inf] * 2
    with pytest.raises(DataError, match="column 'x0' holds values outside of the support"):
        Basis(support=(0, 0.5)).fit(X)


def test_rows_that_repeat_and_few_rows(rng):
    X = np.concatenate([np.full((100, 1), 0.3), rng.normal(size=(50, 1))])
    for basis in BASES:
        assert np.isfinite(Basis(basis=basis).fit(X).log_prob(X)).all()
        assert np.isfinite(Basis(basis=basis).fit(X[-2:]).log_prob(X)).all()
        small = Basis(basis=basis).fit(rng.normal(size=(4, 3)))
        assert np.isfinite(small.sample(20, random_state=0)).all()


def test_a_stream_and_two_halves_give_what_memory_gives(tmp_path):
    X = pd.DataFrame(correlated(900), columns=list("ab")).round(6)
    X.to_csv(tmp_path / "x.csv", index=False)
    whole, streamed = Basis().fit(X), Basis().fit(Stream(tmp_path / "x.csv", chunk=130))
    assert np.allclose(streamed.log_prob(X), whole.log_prob(X), atol=1e-8)
    z = whole.transforms_(whole.space_.encode(X))[0]
    halves = whole._build(
        whole.transforms_.output_space if hasattr(whole.transforms_, "output_space") else whole.space_, None
    )
    halves.look(z)
    halves.summarise(z[:300], None)
    halves.summarise(z[300:], None)
    halves.update()
    assert torch.allclose(halves.theta, whole.module_.theta) and torch.allclose(
        halves.log_prob(z), whole.module_.log_prob(z)
    )


def test_rows_of_a_stream_out_of_the_interval_of_its_sample_count_as_pseudo_rows(rng):
    z = torch.from_numpy(rng.normal(size=(1000, 1)))
    module = Basis(terms=6)._build(Basis().fit(z.numpy()).space_, None)
    module.look(z[z[:, 0].abs() < 2])
    module.summarise(z, None)
    module.update()
    outside = float((z.abs() >= 2).sum())
    assert module.rows.tolist() == [1000 - outside, outside]
    x, step = midpoints(-30, 30, 60_000)
    assert module.log_prob(torch.from_numpy(x[:, None])).exp().sum().item() * step == pytest.approx(1, abs=1e-4)


@pytest.mark.parametrize("basis", BASES)
def test_what_was_learned_survives_a_file(basis, tmp_path):
    X = correlated(300)
    model = Basis(basis=basis, support=None if basis == "hermite" else (-200, 300)).fit(X)
    model.save(tmp_path / "m.plausible")
    other = plausible.load(tmp_path / "m.plausible")
    assert np.array_equal(other.log_prob(X), model.log_prob(X))
    assert np.array_equal(other.sample(20, random_state=0), model.sample(20, random_state=0))


def test_other_parameters_make_another_grid():
    one, two = Basis(terms=4).fit(correlated(200)), Basis(terms=4).fit(correlated(200, seed=1))
    z = torch.zeros(1, 2, dtype=torch.float64)
    one.module_.log_prob(z), one.module_.sample(3, rng=generator(0))
    one.module_.load_state_dict(two.module_.state_dict())
    assert torch.equal(one.module_.log_prob(z), two.module_.log_prob(z))


def test_bad_settings_are_refused(rng):
    X = rng.random((50, 1))
    with pytest.raises(DataError, match="models up to 3 columns, got 4"):
        Basis().fit(rng.random((50, 4)))
    with pytest.raises(OptionError, match="a Haar basis has whole levels"):
        Basis(basis="haar", terms=5).fit(X)
    with pytest.raises(OptionError, match="lives on the whole line"):
        Basis(basis="hermite", support=(0, 1)).fit(X)
    for support in ((1, 0), (0, math.inf), (0, 1, 2)):
        with pytest.raises(OptionError, match="expected two numbers, the lower one first"):
            Basis(support=support).fit(X)
