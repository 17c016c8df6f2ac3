"""Changes of variables: there and back, and a log term that is the log-determinant it claims to be."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import integrate, stats

from plausible import transforms
from plausible.randomness import RowNoise
from plausible.space import Column, Space
from plausible.transforms import Bins, Chain, Dequantise, Logit, NormalMargins, Standardise, Transform

LEVELS = tuple(range(300))
COLUMNS = (
    Column("binary", "binary", (0, 1)),
    Column("category", "categorical", ("a", "b", "c")),
    Column("grade", "ordinal", LEVELS[:5]),
    Column("pixel", "ordinal", LEVELS[:256]),
    Column("count", "count", low=0.0),
    Column("difference", "count"),
    Column("real", "real"),
    Column("share", "real", low=2.0, high=5.0),
    Column("positive", "real", low=1.0),
)
MIXED = Space(COLUMNS, (len(COLUMNS),))
REALS = Space(COLUMNS[6:], (3,))


def transforms_there_are() -> list[type[Transform]]:
    """Every Transform of the package, whoever wrote it."""
    found, todo = [], [Transform]
    while todo:
        todo += (subclasses := todo.pop().__subclasses__())
        found += [c for c in subclasses if c.__module__.startswith("plausible.transforms")]
    return found


# MuLaw takes nothing but samples of sound: tests/test_audio.py.
every_transform = pytest.mark.parametrize(
    "cls", [c for c in transforms_there_are() if c is not transforms.MuLaw], ids=lambda c: c.__name__
)


def examples(space: Space, n: int = 300, seed: int = 0) -> torch.Tensor:
    """Codes that use the whole of each column."""
    rng = np.random.default_rng(seed)
    draw = {
        "count": lambda c: rng.poisson(9, n) if c.low == 0 else np.round(rng.normal(-30.4, 12, n)),
        "real": lambda c: (
            (rng.uniform(c.low, c.high, n) if c.high else c.low + rng.exponential(3, n))
            if c.low is not None
            else rng.normal(7, 3, n)
        ),
    }
    x = [draw[c.kind](c) if c.kind in draw else rng.integers(0, c.n_levels, n) for c in space.columns]
    return torch.from_numpy(np.stack(x, 1).astype(float))


def fitted(transform: Transform, space: Space, x: torch.Tensor, weight=None) -> Transform:
    transform.prepare(space)
    transform.fit(x, weight)
    return transform


def test_the_package_lists_all_its_transforms():
    assert {c.__name__ for c in transforms_there_are()} | {"Chain", "Transform"} == set(transforms.__all__)


# ------------------------------------------------------------------------------------------- every transform there is


@every_transform
@pytest.mark.parametrize("space", [MIXED, REALS], ids=["mixed", "reals"])
def test_there_and_back(cls, space, draws):
    x = examples(space)
    t = fitted(cls(), space, x)
    z, log_c = t(x, draws)
    assert z.shape == x.shape and log_c.shape == (len(x),) and log_c.isfinite().all()
    back = t.inverse(z, draws)
    after = t.output(space)
    coarse = torch.tensor([a.discrete and not b.levels for a, b in zip(after.columns, space.columns, strict=True)])
    coarse &= torch.tensor([bool(c.levels) for c in after.columns])  # cut into bins: only the bin comes back
    assert torch.allclose(back[:, ~coarse], x[:, ~coarse], rtol=1e-9, atol=1e-9)
    assert torch.equal(t(back, draws)[0][:, coarse], z[:, coarse])


@every_transform
def test_codes_land_in_the_space_that_is_announced(cls, draws):
    x = examples(MIXED)
    t = fitted(cls(), MIXED, x)
    z, _ = t(x, draws)
    for d, column in enumerate(t.output(MIXED).columns):
        low = 0 if column.levels else -math.inf if column.low is None else column.low
        high = column.n_levels - 1 if column.levels else math.inf if column.high is None else column.high
        assert low - 1e-9 <= z[:, d].min() and z[:, d].max() <= high + 1e-9
        if column.discrete:  # on a lattice through zero, where heads look for it
            steps = z[:, d] / column.step
            assert torch.allclose(steps, steps.round(), atol=1e-6)


@every_transform
def test_the_log_term_is_the_log_determinant(cls):
    x = examples(REALS, n=20)
    t = fitted(cls(), REALS, examples(REALS))
    if not all(c.kind == "real" for c in t.output(REALS).columns):
        pytest.skip("no bijection: its mass is checked by quadrature below")
    _, log_c = t(x, RowNoise(x))
    for row, term in zip(x, log_c, strict=True):
        noise = RowNoise(row[None])
        jacobian = torch.autograd.functional.jacobian(lambda r, noise=noise: t(r[None], noise)[0][0], row)
        assert term == pytest.approx(torch.linalg.slogdet(jacobian).logabsdet.item(), abs=1e-9)


@every_transform
def test_missing_cells_stay_missing_and_take_their_term_with_them(cls):
    x = examples(MIXED, n=50)
    t = fitted(cls(), MIXED, examples(MIXED))
    _, whole = t(x, RowNoise(x))
    parts = torch.zeros_like(whole)
    for d in range(MIXED.dims):
        holed = x.clone()
        holed[:, d] = torch.nan
        z, log_c = t(holed, RowNoise(x))  # the noise of the whole row
        assert torch.equal(z.isnan(), holed.isnan())
        assert torch.equal(t.inverse(z, RowNoise(x)).isnan(), holed.isnan())
        parts += whole - log_c
    assert torch.allclose(parts, whole, atol=1e-9)


@every_transform
def test_missing_cells_do_not_move_the_fit_of_the_others(cls):
    x = examples(MIXED)
    holed = torch.cat([x, torch.full_like(x[:40], torch.nan)])
    a, b = fitted(cls(), MIXED, x).state_dict(), fitted(cls(), MIXED, holed).state_dict()
    for name in a:
        assert torch.allclose(a[name].double(), b[name].double()), name


@every_transform
def test_a_weight_is_a_repetition(cls):
    x = examples(MIXED, n=60)
    weight = torch.from_numpy(np.random.default_rng(1).integers(1, 4, 60).astype(float))
    options = {"rule": 6} if cls is Bins else {}
    a = fitted(cls(**options), MIXED, x, weight).state_dict()
    b = fitted(cls(**options), MIXED, x.repeat_interleave(weight.long(), 0)).state_dict()
    for name in a:
        assert torch.allclose(a[name].double(), b[name].double()), name


@every_transform
def test_restoring_is_as_fitting(cls, draws):
    x = examples(MIXED)
    chain = Chain([cls()])
    space = chain.fit(x, MIXED, draws)
    again = Chain([cls()])
    assert again.restore(chain.state_dict(), MIXED) == space
    for a, b in zip(chain(x, RowNoise(x)), again(x, RowNoise(x)), strict=True):
        assert torch.equal(a, b)


@every_transform
def test_pixels_that_never_change_do_no_harm(cls, draws):
    space = Space((Column("pixel", "real"),) * 2, (2,))
    x = torch.stack([torch.linspace(-1, 1, 50, dtype=torch.float64), torch.full((50,), 7.0, dtype=torch.float64)], 1)
    t = fitted(cls(), space, x)
    z, log_c = t(x, draws)
    assert z.isfinite().all() and log_c.abs().max() < 50 and t.inverse(z, draws).isfinite().all()


# -------------------------------------------------------------------------------------------------------- chains


def test_a_chain_adds_the_terms_and_undoes_in_reverse(draws):
    x = examples(MIXED)
    chain = Chain([Dequantise(), Logit(), Standardise()])
    space = chain.fit(x, MIXED, draws)
    assert space.kinds == {"real"} and chain.stochastic and chain.kind == "lower_bound"
    assert all(c.low is None and c.high is None for c in space.columns)
    z, log_c = chain(x, RowNoise(x))
    step, total = x, torch.zeros(len(x), dtype=torch.float64)
    for t in chain.steps:
        step, term = t(step, RowNoise(x))
        total += term
    assert torch.equal(z, step) and torch.allclose(log_c, total)
    assert torch.allclose(chain.inverse(z), x, atol=1e-6)


def test_only_noise_makes_a_bound(draws):
    assert Chain([Standardise(), Logit()]).kind == "exact" and not Chain().stochastic
    chain = Chain([Dequantise()])
    chain.fit(examples(REALS), REALS, draws)
    assert chain.kind == "exact"
    assert chain(examples(REALS))[1].eq(0).all()  # and asks for no generator


def test_a_transform_without_its_parts_says_so():
    with pytest.raises(TypeError, match="does not define forward"):
        Transform()(torch.zeros(1, 1))
    with pytest.raises(TypeError, match="does not define inverse"):
        Transform().inverse(torch.zeros(1, 1))


# --------------------------------------------------------------------------------------------------------- units


@pytest.mark.parametrize(
    "transform, columns",
    [
        (Standardise(), (COLUMNS[6], COLUMNS[4])),
        (Bins(7), (COLUMNS[6], COLUMNS[4])),
        (Bins("risk"), (COLUMNS[6], COLUMNS[4])),
        (Bins("scott"), (COLUMNS[6],)),
        (Logit(), (Column("share", "real", low=0.0, high=1.0),)),
    ],
)
def test_a_change_of_units_moves_the_term_by_the_log_of_the_scale(transform, columns):
    space = Space(columns, (len(columns),))
    x = examples(space)
    scale = torch.tensor([1000.0 if c.kind == "real" else 1.0 for c in columns])
    larger = Space(
        tuple(Column(c.name, c.kind, low=c.low, high=c.high and c.high * 1000) for c in columns), (len(columns),)
    )
    z, log_c = fitted(transform, space, x)(x)
    moved, log_moved = fitted(transform, larger, x * scale)(x * scale)
    assert torch.allclose(z, moved)
    assert torch.allclose(log_c - log_moved, scale.log().sum().double())


# --------------------------------------------------------------------------------------------------- standardise


def test_standardise_makes_means_zero_and_deviations_one():
    x = examples(MIXED)
    z, _ = fitted(Standardise(), MIXED, x)(x)
    levels = torch.tensor([bool(c.levels) for c in COLUMNS])
    assert torch.equal(z[:, levels], x[:, levels])
    real = torch.tensor([c.kind == "real" for c in COLUMNS])
    assert torch.allclose(z[:, real].mean(0), torch.zeros(3, dtype=torch.float64), atol=1e-9)
    assert torch.allclose(z[:, ~levels].std(0, correction=0), torch.ones(5, dtype=torch.float64))
    space = fitted(Standardise(), MIXED, x).output(MIXED)
    count = 4
    assert z[:, count].min() >= space.columns[count].low - 1e-12
    assert z[:, count].sort().values.unique().diff().min() == pytest.approx(space.columns[count].step)


def test_moving_a_lattice_changes_no_probability():
    space = Space((COLUMNS[4],), (1,))
    x = examples(space)
    assert fitted(Standardise(), space, x)(x)[1].eq(0).all()


# --------------------------------------------------------------------------------------------------------- logit


def test_logit_keeps_all_mass_inside_the_bounds():
    t = fitted(Logit(), REALS, examples(REALS))
    x = t.inverse(torch.tensor([[-40.0, -40.0, -40.0], [40.0, 40.0, 40.0]], dtype=torch.float64))
    assert x[0, 0] == -40 and x[1, 0] == 40
    assert 2 <= x[0, 1] <= x[1, 1] <= 5
    assert 1 <= x[0, 2] < 1.001 and x[1, 2] == pytest.approx(41)


def test_logit_of_a_value_at_the_bound_is_finite():
    t = fitted(Logit(), REALS, examples(REALS))
    z, log_c = t(torch.tensor([[0.0, 2.0, 1.0], [0.0, 5.0, 1.0]]))
    assert z.isfinite().all() and log_c.isfinite().all()


# ----------------------------------------------------------------------------------------------------- dequantise


def test_dequantising_bounds_the_mass_from_below_and_its_average_is_the_mass():
    space = Space((Column("k", "ordinal", LEVELS[:8]),), (1,))
    t = fitted(Dequantise(), space, torch.zeros(2, 1))
    x = torch.arange(8.0, dtype=torch.float64)[:, None]
    base = torch.distributions.Normal(torch.tensor(4.0, dtype=torch.float64), 1.5)
    terms = []
    for seed in range(4000):
        z, log_c = t(x, RowNoise(x, seed))
        assert ((z >= x) & (z < x + 1)).all()
        terms.append(base.log_prob(z[:, 0]) + log_c)
    mass = torch.log(base.cdf(x[:, 0] + 1) - base.cdf(x[:, 0]))
    terms = torch.stack(terms)
    assert (terms.mean(0) < mass).all()
    assert torch.allclose(terms.logsumexp(0) - math.log(len(terms)), mass, atol=0.02)


def test_what_falls_outside_the_levels_comes_back_inside():
    t = fitted(Dequantise(), MIXED, examples(MIXED))
    low, high = (t.inverse(torch.full((1, MIXED.dims), v)) for v in (-1e6, 1e6))
    assert low[0, :5].eq(0).all() and high[0, :4].tolist() == [1, 2, 4, 255]
    assert low[0, 6] == -1e6


# ----------------------------------------------------------------------------------------------------------- bins


@pytest.mark.parametrize("rule", [1, 5, "risk", "fd", "scott", "sturges"])
def test_the_density_inside_a_bin_integrates_to_one(rule):
    space = Space((Column("real", "real"),), (1,))
    x = examples(space)
    t = fitted(Bins(rule), space, x)
    edges = t.edges[0].tolist()
    tail = t.tail[0].item()
    assert edges[0] == x.min() and edges[-1] == x.max()

    def density(v):
        z, log_c = t(torch.tensor([[v]], dtype=torch.float64))
        return math.exp(log_c.item()), int(z.item())

    pieces = [
        (edges[0] - 60 * tail, edges[0]),
        *zip(edges[:-1], edges[1:], strict=True),
        (edges[-1], edges[-1] + 60 * tail),
    ]
    for k in {*range(min(6, len(pieces))), len(pieces) - 1}:
        a, b = pieces[k]
        inner = 1e-9 * (b - a)
        mass, _ = integrate.quad(lambda v: density(v)[0], a + inner, b - inner)
        assert mass == pytest.approx(1, abs=1e-6)
        assert density((a + b) / 2)[1] == k


def test_the_largest_value_lies_in_the_last_bin():
    space = Space((Column("real", "real"),), (1,))
    x = torch.tensor([[0.0], [1.0], [4.0]], dtype=torch.float64)
    assert fitted(Bins(4), space, x)(x)[0].flatten().tolist() == [1, 2, 4]


@pytest.mark.parametrize("floor", [0.0, None])
@pytest.mark.parametrize("rule", [1, 4, 1000, "risk", "fd"])
def test_the_mass_inside_a_bin_of_integers_sums_to_one(floor, rule):
    space = Space((Column("count", "count", low=floor),), (1,))
    t = fitted(Bins(rule), space, examples(space))
    lattice = torch.arange(0.0 if floor is not None else -4000, 4000, dtype=torch.float64)[:, None]
    z, log_c = t(lattice)
    mass = torch.zeros(t.output(space).columns[0].n_levels, dtype=torch.float64).index_add(
        0, z[:, 0].long(), log_c.exp()
    )
    expected = torch.ones_like(mass)
    if floor is not None:  # nothing lies below the smallest possible count
        expected[0] = 0
    assert torch.allclose(mass, expected, atol=1e-9)
    assert t.output(space).columns[0].low == (1 if floor is not None else 0)


@pytest.mark.parametrize("column", [COLUMNS[4], COLUMNS[5], COLUMNS[6]], ids=lambda c: c.name)
def test_draws_inside_a_bin_have_the_law_inside_a_bin(column, draws):
    space = Space((column,), (1,))
    t = fitted(Bins(4), space, examples(space))
    for k in range(int(t.output(space).columns[0].low or 0), 6):
        z = torch.full((4000, 1), float(k), dtype=torch.float64)
        x = t.inverse(z, draws)
        assert torch.equal(t(x)[0], z)
        if column.kind == "real":
            sign = -1 if k == 0 else 1
            low, high = (t.edges[0, [min(max(k, 1), 4) - 1, min(max(k, 1), 4)]]).tolist()
            law = stats.uniform(low, high - low) if 0 < k < 5 else stats.expon(sign * (low, high)[k > 0], t.tail.item())
            assert stats.kstest(sign * x[:, 0].numpy() if k in (0, 5) else x[:, 0].numpy(), law.cdf).pvalue > 1e-3
        else:
            values, counts = np.unique(x[:, 0].numpy(), return_counts=True)
            p = t(torch.from_numpy(values)[:, None])[1].exp().numpy()
            usual = p * 4000 > 5
            found = [*counts[usual], counts[~usual].sum()]
            expected = [*(4000 * p[usual]), 4000 * (1 - p[usual].sum())]
            if len(found) > 2 or expected[-1] > 1:
                assert stats.chisquare(found, np.maximum(expected, 1e-9), sum_check=False).pvalue > 1e-3


def test_leave_one_out_takes_few_bins_for_flat_data_and_many_for_spikes():
    space = Space((Column("real", "real"),), (1,))
    rng = np.random.default_rng(0)

    def bins(x):
        return int(fitted(Bins("risk"), space, torch.from_numpy(x)[:, None]).counts)

    assert bins(rng.uniform(0, 1, 500)) <= 2
    assert 4 <= bins(rng.normal(0, 1, 500)) <= 32
    assert bins(np.concatenate([rng.normal(m, 0.01, 2000) for m in range(8)])) >= 64


@pytest.mark.parametrize("rule", ["fd", "scott", "sturges"])
def test_the_rules_of_the_trade_are_those_of_numpy(rule):
    space = Space((Column("real", "real"),), (1,))
    x = examples(space, n=900)
    trimmed = np.sort(x[:, 0].numpy())[1:-1]  # the outermost thousandths
    expected = len(np.histogram_bin_edges(trimmed, rule)) - 1
    assert int(fitted(Bins(rule), space, x).counts) == expected


REAL = Space((Column("x", "real"),), (1,))


@pytest.mark.parametrize("law", [stats.norm(3, 2), stats.lognorm(1.0), stats.expon(), stats.t(3), stats.uniform()])
def test_a_column_bent_into_a_normal_is_one_and_has_the_density_it_had(law):
    """Of 2,000 rows; new rows lose little to the law itself, a constant of units apart."""
    rng = np.random.default_rng(0)
    train, new = (torch.from_numpy(law.rvs((n, 1), random_state=rng)) for n in (2000, 20_000))
    t = fitted(NormalMargins(), REAL, train)
    z, log_c = t(new)
    assert stats.kstest(z[:, 0], "norm").statistic < 0.035
    found = stats.norm.logpdf(z[:, 0]) + log_c.numpy()
    assert 0 <= law.logpdf(new[:, 0]).mean() - found.mean() < 0.03


def test_bent_levels_stay_apart_and_rows_out_of_range_go_on():
    x = torch.from_numpy(np.random.default_rng(0).choice([0.0, 1.0, 7.0], (400, 1), p=[0.5, 0.3, 0.2]))
    t = fitted(NormalMargins(), REAL, x)
    z = t(x)[0]
    places = [float(z[x == v].mean()) for v in (0.0, 1.0, 7.0)]
    below = stats.norm.ppf([0.5, 0.8])  # where the mass of one level ends, and that of the next begins
    assert places[0] < below[0] < places[1] < below[1] < places[2] and abs(z.std() - 1) < 0.2
    back = t.inverse(torch.linspace(-3, 3, 1201, dtype=torch.float64)[:, None])
    near = (back - torch.tensor([0.0, 1.0, 7.0])).abs().min(1).values
    assert (near < 0.2).double().mean() > 0.7  # what lies between levels is little of z
    far = torch.tensor([[-1e3], [1e3]], dtype=torch.float64)
    assert torch.allclose(t.inverse(t(far)[0]), far) and t(far)[1].isfinite().all()
