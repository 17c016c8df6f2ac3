"""Coupling flows and their splines against the textbook formula, autodiff, quadrature and known densities."""

import math

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.datasets import load_digits, make_moons

import plausible as pl
from plausible.nn import RationalQuadratic
from plausible.nn.splines import SMALLEST_BIN, SMALLEST_SLOPE
from plausible.options import OptionError
from plausible.space import Column, Space

COUPLINGS = ("spline", "affine")
MOONS_FLOOR = 1.0076  # entropy of make_moons(noise=0.1), nats


def reals(dims):
    return Space(tuple(Column(f"x{d}", "real") for d in range(dims)), (dims,))


def a_flow(dims, coupling, n_context=0, layers=4, seed=0, scale=0.4):
    """A flow with random parameters, far from the identity, in double precision."""
    model = pl.CouplingFlow(coupling=coupling, layers=layers, hidden=(8,), bins=5, bound=3.0, dropout=0.0)
    module = model._build(reals(dims), reals(n_context)).double()
    rng = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in module.parameters():
            p.copy_(scale * torch.randn(p.shape, generator=rng, dtype=p.dtype))
    return module


def points(n, dims, seed=1, scale=2.0):
    """Most inside the splines' box of [-3, 3], some in the tails."""
    return scale * torch.randn(n, dims, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def textbook_spline(x, params, bins, bound):
    """Equations 4 and 5 of Durkan et al. for one number x, by hand. Returns y, dy/dx and the knots' x."""

    def knots(raw):
        shares = np.exp(raw) / np.exp(raw).sum()
        shares = SMALLEST_BIN + (1 - SMALLEST_BIN * bins) * shares
        return -bound + 2 * bound * np.concatenate([[0.0], np.cumsum(shares)])

    xs, ys = knots(params[:bins]), knots(params[bins : 2 * bins])
    offset = math.log(math.expm1(1 - SMALLEST_SLOPE))
    slopes = np.concatenate([[1.0], SMALLEST_SLOPE + np.log1p(np.exp(params[2 * bins :] + offset)), [1.0]])
    if abs(x) >= bound:
        return x, 1.0, xs
    k = int(np.searchsorted(xs, x, side="right")) - 1
    width, height = xs[k + 1] - xs[k], ys[k + 1] - ys[k]
    s, xi = height / width, (x - xs[k]) / width
    below = s + (slopes[k + 1] + slopes[k] - 2 * s) * xi * (1 - xi)
    y = ys[k] + height * (s * xi**2 + slopes[k] * xi * (1 - xi)) / below
    above = s**2 * (slopes[k + 1] * xi**2 + 2 * s * xi * (1 - xi) + slopes[k] * (1 - xi) ** 2)
    return y, above / below**2, xs


# ------------------------------------------------------------------------------------------------------- splines


@pytest.fixture
def spline():
    """A spline with 6 bins on [-3, 3], and random parameters for one value."""
    g = RationalQuadratic(6, 3.0).double()
    params = torch.randn(g.size, 1, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    return g, params


def test_spline_follows_the_textbook(spline):
    g, params = spline
    x = torch.linspace(-4, 4, 401, dtype=torch.float64)
    y, log_slope = g(x, params.expand(-1, len(x)))
    truth = [textbook_spline(v, params[:, 0].numpy(), 6, 3.0)[:2] for v in x.tolist()]
    np.testing.assert_allclose(y, [t[0] for t in truth], atol=1e-12)
    np.testing.assert_allclose(log_slope.exp(), [t[1] for t in truth], rtol=1e-10)


def test_spline_of_zeros_is_the_identity():
    g = RationalQuadratic(6, 3.0).double()
    x = torch.linspace(-5, 5, 101, dtype=torch.float64)
    y, log_slope = g(x, torch.zeros(g.size, 101, dtype=torch.float64))
    torch.testing.assert_close(y, x, atol=1e-12, rtol=0)
    torch.testing.assert_close(log_slope, torch.zeros_like(x), atol=1e-12, rtol=0)


def test_spline_and_its_slope_are_continuous_at_knots_and_tails(spline):
    g, params = spline
    knots = textbook_spline(0.0, params[:, 0].numpy(), 6, 3.0)[2]
    edges = torch.tensor(knots, dtype=torch.float64)
    (left, slope_left), (right, slope_right) = (g(edges + e, params.expand(-1, 7)) for e in (-1e-9, 1e-9))
    torch.testing.assert_close(left, right, atol=1e-6, rtol=0)
    torch.testing.assert_close(slope_left, slope_right, atol=1e-6, rtol=0)


def test_spline_is_the_identity_in_the_tails(spline):
    g, params = spline
    x = torch.tensor([-100.0, -3.5, -3.0, 3.0, 3.5, 1e6], dtype=torch.float64, requires_grad=True)
    y, log_slope = g(x, params.expand(-1, 6))
    torch.testing.assert_close(y, x)
    torch.testing.assert_close(log_slope, torch.zeros_like(x), atol=1e-12, rtol=0)
    (slope,) = torch.autograd.grad(y[[0, 1, 4, 5]].sum(), x)
    assert slope[[0, 1, 4, 5]].tolist() == [1.0] * 4


def test_spline_slope_is_its_derivative_and_the_inverse_undoes_it():
    g = RationalQuadratic(8, 3.0).double()
    x = points(3, 40).requires_grad_()
    params = 2 * torch.randn(g.size, 3, 40, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    y, log_slope = g(x, params)
    (slope,) = torch.autograd.grad(y.sum(), x)
    torch.testing.assert_close(log_slope, slope.log())
    back, log_back = g(y, params, inverse=True)
    torch.testing.assert_close(back, x, atol=1e-6, rtol=0)
    torch.testing.assert_close(log_back, -log_slope, atol=1e-6, rtol=0)


# ----------------------------------------------------------------------------------------------------- the module


@pytest.mark.parametrize("coupling", COUPLINGS)
@pytest.mark.parametrize("dims", [1, 2, 5])
@pytest.mark.parametrize("n_context", [0, 2])
def test_log_det_is_that_of_the_jacobian_and_the_inverse_undoes(dims, coupling, n_context):
    flow = a_flow(dims, coupling, n_context)
    z = points(6, dims)
    c = points(6, n_context, seed=2) if n_context else None
    u, log_det = flow(z, c)

    for i in range(len(z)):
        ci = None if c is None else c[i : i + 1]
        jacobian = torch.autograd.functional.jacobian(lambda x, ci=ci: flow(x[None], ci)[0][0], z[i])
        torch.testing.assert_close(torch.linalg.slogdet(jacobian)[1], log_det[i], atol=1e-8, rtol=0)
    torch.testing.assert_close(flow.inverse(u, c), z, atol=1e-6, rtol=0)
    assert (u - z).abs().max() > 0.3  # not the identity


@pytest.mark.parametrize("coupling", COUPLINGS)
@pytest.mark.parametrize("n_context", [0, 2])
def test_density_integrates_to_one(coupling, n_context):
    flow = a_flow(2, coupling, n_context, scale=0.2)
    axis = torch.linspace(-10, 10, 601, dtype=torch.float64)
    grid = torch.cartesian_prod(axis, axis)
    c = torch.tensor([[0.7, -1.2]], dtype=torch.float64).expand(len(grid), -1) if n_context else None
    with torch.no_grad():
        mass = flow.log_prob(grid, c).exp().sum() * (axis[1] - axis[0]) ** 2
    assert float(mass) == pytest.approx(1.0, abs=1e-3)


@pytest.mark.parametrize("coupling", COUPLINGS)
def test_samples_are_the_inverse_of_normals(coupling):
    flow = a_flow(5, coupling)
    with torch.no_grad():
        z = flow.sample(50, rng=torch.Generator().manual_seed(4))
        u, _ = flow(z)
    normals = torch.randn(50, 5, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    torch.testing.assert_close(u, normals, atol=1e-6, rtol=0)


@pytest.mark.parametrize("coupling", COUPLINGS)
def test_starts_near_the_identity(coupling):
    flow = pl.CouplingFlow(coupling=coupling)._build(reals(4), reals(0))
    z = points(100, 4, scale=1.0).float()
    standard = -0.5 * z.square().sum(1) - 2 * math.log(2 * math.pi)
    torch.testing.assert_close(flow.log_prob(z), standard, atol=1.0, rtol=0)
    assert (flow.log_prob(z) - standard).abs().mean() < 0.3


@pytest.mark.parametrize("coupling", COUPLINGS)
@pytest.mark.parametrize("dims", [1, 2, 3])
def test_every_parameter_is_learned_and_every_dimension_moved(dims, coupling):
    flow = a_flow(dims, coupling)
    z = points(64, dims, scale=1.0)
    flow.loss(z).mean().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in flow.parameters())
    u = flow(z)[0].detach()
    assert bool(((u - z).abs().amax(0) > 0.01).all())


def test_permutations_are_the_same_whatever_the_seed():
    one, other = a_flow(6, "affine", seed=0), a_flow(6, "affine", seed=9)
    assert torch.equal(one.orders, other.orders)
    assert not torch.equal(one.orders[0], one.orders[1])


# -------------------------------------------------------------------------------------------------- the estimator


@pytest.mark.parametrize("coupling", COUPLINGS)
def test_learns_a_known_density(coupling):
    rng = np.random.default_rng(0)
    x = rng.normal(size=3000)
    X = np.column_stack([1000 * x, x**2 + 0.3 * rng.normal(size=3000)])
    flow = pl.CouplingFlow(coupling=coupling, layers=4, epochs=40, dropout=0.0, random_state=0).fit(X[:2000])
    assert flow.likelihood_kind_ == "exact"
    truth = -math.log(2 * math.pi * math.e * 0.3) - math.log(1000)
    assert flow.score(X[2000:]) == pytest.approx(truth, abs=0.15)
    assert flow.score(flow.sample(2000, random_state=0)) == pytest.approx(truth, abs=0.15)


def test_one_column():
    X = np.random.default_rng(0).gamma(2.0, size=(2000, 1))
    flow = pl.CouplingFlow(layers=2, epochs=60, random_state=0).fit(X)
    x = np.linspace(-5, 30, 4001)
    density = np.exp(flow.log_prob(x[:, None]))
    assert density.sum() * (x[1] - x[0]) == pytest.approx(1.0, abs=0.01)
    entropy = 1.577  # of the gamma distribution with shape 2, nats
    assert flow.score(X) == pytest.approx(-entropy, abs=0.08)


def test_mixed_table_is_a_bound_and_samples_look_like_it():
    rng = np.random.default_rng(0)
    n = 300
    kind = rng.integers(0, 3, n)
    X = pd.DataFrame(
        {
            "real": kind + rng.normal(size=n),
            "count": rng.poisson(kind + 1.0),
            "label": pd.Categorical(np.array(["a", "b", "c"])[kind]),
            "flag": kind > 0,
            "grade": kind + 1,
        }
    )
    flow = pl.CouplingFlow(layers=2, epochs=5, random_state=0).fit(X)
    assert flow.likelihood_kind_ == "lower_bound"
    drawn = flow.sample(20, random_state=0)
    assert list(drawn.columns) == list(X.columns) and (drawn.dtypes == X.dtypes).all()
    assert set(drawn["grade"]) <= {1, 2, 3} and drawn["count"].min() >= 0


def test_bound_on_bits_and_its_importance_weighted_mass():
    bits = np.random.default_rng(0).integers(0, 2, (500, 1)) ^ np.array([[0, 1]])
    flow = pl.CouplingFlow(layers=2, epochs=10, random_state=0).fit(bits)
    every = np.array([[0, 0], [0, 1], [1, 0], [1, 1]])
    bound, estimate = flow.log_prob(every), flow.log_prob(every, importance_samples=2000)
    assert np.exp(bound).sum() < 1
    assert (bound < estimate).all()
    assert np.exp(estimate).sum() == pytest.approx(1.0, abs=0.05)


@pytest.mark.parametrize("shape", [(60, 3, 4), (60, 2, 3, 3)])
def test_images_and_series(shape):
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, shape).astype(np.uint8)
    flow = pl.CouplingFlow(layers=2, epochs=2, random_state=0).fit(images)
    assert np.isfinite(flow.log_prob(images)).all()
    drawn = flow.sample(3, random_state=0)
    assert drawn.shape == (3, *shape[1:]) and drawn.dtype == np.uint8
    series = rng.normal(size=(60, 5, 2)).cumsum(1)
    flow = pl.CouplingFlow(layers=2, epochs=2, random_state=0, space="series").fit(series)
    assert flow.sample(3, random_state=0).shape == (3, 5, 2)


def test_context_moves_the_density():
    rng = np.random.default_rng(0)
    label = rng.integers(0, 2, 1000)
    X = rng.normal(size=(1000, 1)) + 6 * label[:, None]
    flow = pl.CouplingFlow(layers=2, epochs=20, random_state=0).fit(X, context=label)
    assert flow.log_prob(np.array([[6.0]]), context=1)[0] > flow.log_prob(np.array([[6.0]]), context=0)[0] + 3
    assert np.mean(flow.sample(200, context=1, random_state=0)) == pytest.approx(6.0, abs=0.5)


def test_says_what_coupling_it_has():
    with pytest.raises(OptionError, match="'spline', 'affine'"):
        pl.CouplingFlow(coupling="cubic").fit(np.zeros((10, 2)))


def test_a_short_fit_of_two_moons():
    X, held_out = (make_moons(2000, noise=0.1, random_state=s)[0] for s in (0, 1))
    flow = pl.CouplingFlow(layers=4, epochs=30, random_state=0).fit(X)
    nll = -flow.score(held_out)
    assert MOONS_FLOOR - 0.05 < nll < MOONS_FLOOR + 0.3  # a normal has 1.91


@pytest.mark.slow
def test_two_moons():
    X, held_out = (make_moons(10_000, noise=0.1, random_state=s)[0] for s in (0, 1))
    flow = pl.CouplingFlow(random_state=0).fit(X)
    assert MOONS_FLOOR - 0.02 < -flow.score(held_out) < MOONS_FLOOR + 0.05


@pytest.mark.slow
@pytest.mark.parametrize(("coupling", "expected"), [("spline", -86.4), ("affine", -97.6)])
def test_held_out_digits(coupling, expected):
    images = load_digits().images.astype(np.uint8)
    flow = pl.CouplingFlow(coupling=coupling, random_state=0).fit(images[:1500])
    assert flow.score(images[1500:]) == pytest.approx(expected, abs=1.5)
