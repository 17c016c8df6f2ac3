"""Distributions of single columns: mass one, draws that follow it, and the formulas of torch and scipy."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import integrate, stats
from torch import distributions

from plausible.heads import N_UNIFORMS, Heads, head_of
from plausible.space import Column, Space

M = 3  # components
LEVELS = tuple(range(300))
COLUMNS = {
    "binary": Column("a", "binary", (0, 1)),
    "category": Column("b", "categorical", ("x", "y", "z")),
    "wide category": Column("c", "categorical", LEVELS[:40]),
    "grade": Column("d", "ordinal", LEVELS[:5]),
    "pixel": Column("e", "ordinal", LEVELS[:256]),
    "count": Column("f", "count", low=0.0),
    "scaled count": Column("g", "count", low=-0.25 * 7, step=0.25),
    "difference": Column("h", "count", step=0.1),
    "real": Column("i", "real"),
    "sound": Column("j", "count", low=-1.75, high=5.0, step=0.25, coarse=1.0),
}
MIXED = Space(tuple(COLUMNS.values()), (len(COLUMNS),))
DISCRETE = [name for name, c in COLUMNS.items() if c.discrete]


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def alone(name: str) -> Heads:
    return Heads(Space((COLUMNS[name],), (1,)), M)


def parameters(heads: Heads, n: int, seed: int, spread: float = 1.0) -> torch.Tensor:
    """Parameters like a net's: about the start, and as varied as `spread`."""
    noise = torch.randn(n, heads.size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return heads.initial().double() + spread * noise


def codes_of(column: Column) -> torch.Tensor:
    """All codes of a column (k, 1), or so many that no mass is left beyond them."""
    if column.levels:
        return torch.arange(column.n_levels, dtype=torch.float64)[:, None]
    start = 0 if column.low is None else round(column.low / column.step)
    first = start if column.low is not None else -8000
    last = 8000 if column.high is None else round(column.high / column.step) + 1
    return torch.arange(first, last, dtype=torch.float64)[:, None] * column.step


def some_codes(n: int = 50, seed: int = 0) -> torch.Tensor:
    """Codes of every column of MIXED, (n, D)."""
    rng = np.random.default_rng(seed)

    def draw(c: Column):
        if c.kind == "real":
            return rng.normal(size=n)
        return rng.integers(0, c.n_levels, n) if c.levels else rng.integers(0 if c.low == 0 else -7, 9, n) * c.step

    return torch.from_numpy(np.stack([draw(c) for c in MIXED.columns], 1).astype(float))


# ----------------------------------------------------------------------------------------------------------- mass


@pytest.mark.parametrize("spread", [0.0, 1.0])
@pytest.mark.parametrize("name", DISCRETE)
def test_the_probabilities_of_all_codes_sum_to_one(name, spread):
    heads, codes = alone(name), codes_of(COLUMNS[name])
    for params in parameters(heads, 8, seed=1, spread=spread):
        mass = heads.log_prob(params.expand(len(codes), -1), codes).exp().sum()
        assert mass.item() == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize("spread", [0.0, 1.0])
def test_the_density_of_a_real_integrates_to_one(spread):
    heads = alone("real")
    for params in parameters(heads, 6, seed=2, spread=spread):

        def density(x, params=params):
            return heads.log_prob(params[None], torch.tensor([[x]], dtype=torch.float64)).exp().item()

        mean = params[M : 2 * M].tolist()
        mass, _ = integrate.quad(density, -400, 400, points=mean, limit=400)
        assert mass == pytest.approx(1, abs=1e-6)


def test_a_scale_has_a_floor_and_the_mass_stays_one():
    for name in ("pixel", "count", "difference"):
        heads, codes = alone(name), codes_of(COLUMNS[name])
        params = torch.tensor([0.0] * M + [0.3] * M + [-40.0] * M, dtype=torch.float64)
        log_p = heads.log_prob(params.expand(len(codes), -1), codes)[:, 0]
        assert log_p.isfinite().all() and log_p.exp().sum().item() == pytest.approx(1, abs=1e-9)


# -------------------------------------------------------------------------------------------------- known formulas


def test_bernoulli_and_categorical_are_those_of_torch():
    for name in ("binary", "category", "wide category", "grade"):
        heads, codes = alone(name), codes_of(COLUMNS[name])
        params = parameters(heads, len(codes), seed=3, spread=3)
        law = (
            distributions.Bernoulli(logits=params[:, 0])
            if name == "binary"
            else distributions.Categorical(logits=params)
        )
        assert torch.allclose(heads.log_prob(params, codes)[:, 0], law.log_prob(codes[:, 0]))


def test_a_mixture_of_normals_is_that_of_torch():
    params = parameters(alone("real"), 100, seed=4)
    logit, mean, log_scale = params.chunk(3, 1)
    law = distributions.MixtureSameFamily(
        distributions.Categorical(logits=logit), distributions.Normal(mean, log_scale.exp())
    )
    x = torch.linspace(-9, 9, 100, dtype=torch.float64)
    assert torch.allclose(alone("real").log_prob(params, x[:, None])[:, 0], law.log_prob(x))


@pytest.mark.parametrize("name", ["pixel", "count", "scaled count", "difference"])
def test_discretised_logistics_are_differences_of_the_logistic_cumulative(name):
    column, heads = COLUMNS[name], alone(name)
    codes = codes_of(column)
    codes = codes[:300] if column.low is not None or column.levels else codes[7850:8150]
    params = parameters(heads, 1, seed=5)[0]
    weight, mean, scale = params[:M].softmax(0).numpy(), params[M : 2 * M].numpy(), params[2 * M :].exp().numpy()
    centre, unit = ((column.n_levels - 1) / 2, (column.n_levels - 1) / 2) if column.levels else (0, 1)
    half = column.step / unit / 2
    y = (codes.numpy() - centre) / unit
    upper, lower = stats.logistic.cdf(y + half, mean, scale), stats.logistic.cdf(y - half, mean, scale)
    if column.levels or column.low is not None:
        lower[0] = 0
    if column.levels:
        upper[-1] = 1
    expected = (weight * (upper - lower)).sum(1)
    found = heads.log_prob(params.expand(len(codes), -1), codes)[:, 0].exp().numpy()
    assert np.allclose(found, expected, rtol=1e-6, atol=1e-12)


def test_sound_lies_on_two_lattices():
    """Of 0.25 from -1.75 to 5, and of 1 from -1.75 to 4.25: each point has the mass that is nearest to it."""
    heads, codes = alone("sound"), codes_of(COLUMNS["sound"])
    params = parameters(heads, 1, seed=5)[0]
    weight, mean, scale = params[:M].softmax(0).numpy(), params[M : 2 * M].numpy(), params[2 * M : 3 * M].exp().numpy()

    def mass(low: float, high: float) -> float:
        return float((weight * (stats.logistic.cdf(high, mean, scale) - stats.logistic.cdf(low, mean, scale))).sum())

    v = params[-1].sigmoid().item()
    for i, x in enumerate(codes[:, 0].tolist()):
        expected = (1 - v) * mass(x - 0.125 if i else -np.inf, x + 0.125 if x < 5 else np.inf)
        if i % 4 == 0:
            expected += v * mass(x - 0.5 if i else -np.inf, x + 0.5 if x < 4.25 else np.inf)
        assert heads.log_prob(params[None], codes[[i]]).exp().item() == pytest.approx(expected, rel=1e-9)
    edges = torch.arange(-2.125, 5.2, 0.25, dtype=torch.float64)
    below = heads.heads[0].cdf(params[None, None], edges[None])[0]
    p = heads.log_prob(params.expand(len(codes), -1), codes)[:, 0].exp()
    assert torch.allclose(below, torch.cat([torch.zeros(2), p.cumsum(0)]).double()[: len(edges)], atol=1e-9)


def test_a_law_is_moved_as_the_number_is():
    """y has a density f; then by + s y has f((x - by) / s) / s."""
    for reals in ("normal", "laplace", "student_t"):
        head = Heads(Space((COLUMNS["real"],), (1,)), M, reals).heads[0]
        params = head.initial().double() + torch.randn(20, 1, head.size, dtype=torch.float64, generator=seeded(6))
        y, by, log_scale = torch.randn(3, 20, 1, dtype=torch.float64, generator=seeded(7))
        found = head.log_prob(head.moved(params, by, log_scale), by + log_scale.exp() * y)
        assert torch.allclose(found, head.log_prob(params, y) - log_scale, atol=1e-9)


def test_far_in_the_tail_a_discretised_logistic_keeps_its_digits():
    """The logistic tail falls by e per scale, where a difference of cumulatives has long become zero."""
    heads = alone("difference")
    params = torch.tensor([[0.0] * M + [0.0] * M + [0.0] * M], dtype=torch.float64).expand(2, -1)
    near, far = heads.log_prob(params, torch.tensor([[60.0], [61.0]], dtype=torch.float64))[:, 0]
    assert (near - far).item() == pytest.approx(1, abs=1e-9)


# ---------------------------------------------------------------------------------------------------------- draws


@pytest.mark.parametrize("name", DISCRETE)
def test_draws_follow_the_probabilities(name):
    heads, codes = alone(name), codes_of(COLUMNS[name])
    params = parameters(heads, 1, seed=6)
    u = torch.rand(20_000, 1, N_UNIFORMS, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    x = heads.sample(params.expand(len(u), -1), u)
    steps = (x / COLUMNS[name].step).round()
    assert torch.allclose(x, steps * COLUMNS[name].step)
    p = heads.log_prob(params.expand(len(codes), -1), codes)[:, 0].exp().numpy()
    first = round(codes[0].item() / COLUMNS[name].step)
    found = np.bincount((steps[:, 0].long() - first).numpy(), minlength=len(codes))
    often = p * len(u) > 5
    found, p = np.append(found[often], found[~often].sum()), np.append(p[often], p[~often].sum())
    keep = p > 1e-12
    assert found[~keep].sum() == 0
    assert stats.chisquare(found[keep], p[keep] / p[keep].sum() * len(u)).pvalue > 1e-3  # level 0.1 %


def test_half_rounded_sound_is_drawn_by_all_components():
    """The uniform that chooses the lattice is used again to choose the component."""
    heads, codes = alone("sound"), codes_of(COLUMNS["sound"])
    params = torch.tensor([[0.0, 1, 0.5, -1, 1, 3, -2, -1, -2, 0]], dtype=torch.float64)
    u = torch.rand(20_000, 1, N_UNIFORMS, generator=seeded(1), dtype=torch.float64)
    x = heads.sample(params.expand(len(u), -1), u)[:, 0]
    found = torch.bincount(((x + 1.75) / 0.25).round().long(), minlength=len(codes))
    p = heads.log_prob(params.expand(len(codes), -1), codes)[:, 0].exp()
    often = p * len(u) > 5
    assert found[~often].sum() < 60
    assert stats.chisquare(found[often], p[often] / p[often].sum() * found[often].sum()).pvalue > 1e-3


def test_draws_of_a_real_follow_the_mixture():
    heads = alone("real")
    params = parameters(heads, 1, seed=7)
    u = torch.rand(5000, 1, N_UNIFORMS, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    x = heads.sample(params.expand(len(u), -1), u)[:, 0].numpy()
    weight, mean, scale = (
        params[0, :M].softmax(0).numpy(),
        params[0, M : 2 * M].numpy(),
        params[0, 2 * M :].exp().numpy(),
    )
    assert stats.kstest(x, lambda v: (weight * stats.norm.cdf(v[:, None], mean, scale)).sum(1)).pvalue > 1e-3


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_uniforms_at_the_ends_give_values_that_are_possible(dtype):
    heads = Heads(MIXED, M)
    params = parameters(heads, 2, seed=8).to(dtype)
    u = torch.tensor([0.0, 1 - torch.finfo(dtype).eps / 2], dtype=dtype)[:, None, None].expand(
        2, heads.dims, N_UNIFORMS
    )
    x = heads.sample(params, u)
    assert x.isfinite().all() and heads.log_prob(params, x).isfinite().all()


# ------------------------------------------------------------------------------------------------------ gradients


@pytest.mark.parametrize("size", [30.0, 1e4])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_values_and_gradients_are_finite_at_extreme_parameters(dtype, size):
    heads = Heads(MIXED, M)
    x = some_codes(200).to(dtype)
    sign = torch.randn(200, heads.size, generator=torch.Generator().manual_seed(0)).sign()
    params = (heads.initial() + size * sign).to(dtype)
    for head, _, part in heads._groups():  # a log scale of 30 is already a scale of 1e13
        if hasattr(head, "components"):
            own = params[:, part].unflatten(1, (head.d, head.size))
            own[..., 2 * M :].clamp_(-size, 30.0)
            params[:, part] = own.flatten(1)
    params.requires_grad_()
    log_p = heads.log_prob(params, x)
    log_p.sum().backward()
    assert log_p.isfinite().all() and params.grad.isfinite().all()


# --------------------------------------------------------------------------------------------------- side by side


def test_each_kind_of_column_gets_its_head():
    found = {name: head_of(c, M)[0].__name__ for name, c in COLUMNS.items()}
    assert found == {
        "binary": "Bernoulli",
        **dict.fromkeys(["category", "wide category", "grade"], "Categorical"),
        **dict.fromkeys(["pixel", "count", "scaled count", "difference"], "DiscretisedLogistics"),
        "real": "MixtureOfNormals",
        "sound": "Samples",
    }


def test_owner_says_whose_each_parameter_is():
    heads, x = Heads(MIXED, M), some_codes()
    params = parameters(heads, len(x), seed=9).requires_grad_()
    for d in range(heads.dims):
        (gradient,) = torch.autograd.grad(heads.log_prob(params, x)[:, d].sum(), params)
        assert torch.equal(gradient.abs().sum(0) > 0, heads.owner == d)


def test_source_says_whose_each_feature_is():
    heads, x = Heads(MIXED, M), some_codes()
    features = heads.features(x)
    assert features.shape == (len(x), heads.n_features)
    for d in range(heads.dims):
        other = x.clone()
        other[:, d] = x[:, d].roll(1)
        changed = (heads.features(other) != features).any(0)
        assert changed[heads.source == d].any() and not changed[heads.source != d].any()


def test_the_head_of_one_column_is_that_of_the_whole():
    heads, x = Heads(MIXED, M), some_codes()
    params = parameters(heads, len(x), seed=10)
    u = torch.rand(len(x), heads.dims, N_UNIFORMS, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    drawn, features, log_p = heads.sample(params, u), heads.features(x), heads.log_prob(params, x)
    for d in range(heads.dims):
        one, mine, inputs = heads.single(d)
        assert torch.equal(one.log_prob(params[:, mine], x[:, [d]])[:, 0], log_p[:, d])
        assert torch.equal(one.sample(params[:, mine], u[:, [d]])[:, 0], drawn[:, d])
        assert torch.equal(one.features(x[:, [d]]), features[:, inputs])
    with pytest.raises(IndexError):
        heads.single(heads.dims)


def test_columns_that_share_a_head_are_independent_of_their_neighbours():
    columns = tuple(COLUMNS[n] for n in ("real", "grade", "real", "grade"))
    heads = Heads(Space(columns, (4,)), M)
    assert len(heads.heads) == 2
    x = torch.tensor([[0.5, 3, -0.5, 1]], dtype=torch.float64)
    params = parameters(heads, 1, seed=11)
    for d, name in enumerate(["real", "grade", "real", "grade"]):
        own = params[:, heads.owner == d]
        assert torch.allclose(alone(name).log_prob(own, x[:, [d]])[:, 0], heads.log_prob(params, x)[:, d])


# --------------------------------------------------------------------------------------------------------- missing


def test_a_missing_cell_says_nothing():
    heads, x = Heads(MIXED, M), some_codes()
    params = parameters(heads, len(x), seed=12).requires_grad_()
    whole, features = heads.log_prob(params, x).detach(), heads.features(x)
    for d in range(heads.dims):
        holed = x.clone()
        holed[:, d] = torch.nan
        log_p = heads.log_prob(params, holed)
        others = torch.arange(heads.dims) != d
        assert log_p[:, d].eq(0).all() and torch.equal(log_p[:, others], whole[:, others])
        (gradient,) = torch.autograd.grad(log_p.sum(), params)
        assert gradient.isfinite().all() and gradient[:, heads.owner == d].eq(0).all()
        shown = heads.features(holed)
        assert shown[:, heads.source == d].eq(0).all()
        assert torch.equal(shown[:, heads.source != d], features[:, heads.source != d])


# ----------------------------------------------------------------------------------------------------------- start


@pytest.mark.parametrize("name", ["binary", "category", "wide category", "grade"])
def test_the_marginal_start_has_the_frequencies_of_the_data(name):
    heads, codes = alone(name), codes_of(COLUMNS[name])
    rng = np.random.default_rng(0)
    x = torch.from_numpy(rng.choice(len(codes), 20_000, p=rng.dirichlet(np.ones(len(codes)) * 5)).astype(float))[
        :, None
    ]
    x[:500] = torch.nan
    p = heads.log_prob(heads.marginal(x).expand(len(codes), -1), codes)[:, 0].exp().numpy()
    known = x[500:, 0].long().numpy()
    assert np.allclose(p, np.bincount(known, minlength=len(codes)) / len(known), atol=1.5e-3)


def test_a_level_never_seen_starts_possible():
    heads = alone("category")
    params = heads.marginal(torch.zeros(100, 1))
    assert heads.log_prob(params[None], torch.tensor([[2.0]])).item() == pytest.approx(math.log(0.5 / 101.5), abs=1e-5)
    bit = alone("binary")
    log_p = bit.log_prob(bit.marginal(torch.zeros(100, 1))[None], torch.ones(1, 1))
    assert log_p.item() == pytest.approx(math.log(0.001), abs=1e-3)


def test_a_real_starts_near_the_standard_normal():
    heads = Heads(Space((COLUMNS["real"],), (1,)), 10)
    x = torch.randn(5000, 1, generator=torch.Generator().manual_seed(0))
    log_p = heads.log_prob(heads.initial().expand(len(x), -1), x).mean().item()
    entropy = 0.5 * math.log(2 * math.pi * math.e)
    assert -entropy - 0.03 < log_p < -entropy + 0.03


@pytest.mark.parametrize("name", ["pixel", "count"])
@pytest.mark.parametrize("log_scale", [-20.0, 0.0, 10.0, 200.0])
def test_far_means_and_wide_scales_stay_finite_in_float32(name, log_scale):
    """A net that has gone astray for a step gets a gradient that leads it back, not NaN."""
    heads = alone(name)
    params = torch.tensor([[0.0, 1.0, -1.0, 1e7, -1e7, 0.3, *[log_scale] * 3]]).expand(4, -1).requires_grad_()
    x = torch.tensor([[0.0], [1.0], [200.0], [255.0]])
    value = heads.log_prob(params, x)
    (gradient,) = torch.autograd.grad(value.sum(), params)
    assert value.isfinite().all() and gradient.isfinite().all()
