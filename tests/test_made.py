"""The masked autoencoder: a distribution that sums to one, conditionals that see nothing ahead, one pass that is D."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import stats

import plausible as pl
from plausible.errors import CapabilityError, DataError
from plausible.families.autoregressive.made import _MADE, MADE
from plausible.heads import N_UNIFORMS
from plausible.nn.compiled import available
from plausible.options import OptionError
from plausible.space import Column, Space
from plausible.uses import given

BIT = Column("bit", "binary", (0, 1))
REAL = Column("real", "real")
THREE = Column("three", "ordinal", (0, 1, 2))
MIXED = (
    BIT,
    Column("colour", "categorical", ("r", "g", "b")),
    REAL,
    Column("count", "count", low=-1.0, step=0.25),
    Column("pixel", "ordinal", tuple(range(64))),
    REAL,
)


def net(columns, hidden=(24,), orderings=1, direct=True, n_context=0, shape=None, spread=0.7, kind="tanh") -> _MADE:
    """A net of random weights, so strong that every connection shows."""
    space = Space(tuple(columns), shape or (len(columns),))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)  # torch's layers draw their first weights from the global generator
        module = _MADE(space, n_context, hidden, 3, orderings, direct, kind, 0.0).double().eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for p in module.parameters():
            p.add_(spread * torch.randn(p.shape, generator=generator, dtype=p.dtype))
    return module


def every(levels) -> torch.Tensor:
    return torch.tensor(list(itertools.product(*levels)), dtype=torch.float64)


def features_of_context(module: _MADE) -> int:
    return module.of_context[0].in_features if len(module.of_context) else 0


def some(module: _MADE, n: int = 20, seed: int = 0):
    """Examples, and features of a context if there is one."""
    rng = torch.Generator().manual_seed(seed)
    n_context = features_of_context(module)
    c = torch.randn(n, n_context, generator=rng, dtype=torch.float64) if n_context else None
    return module.sample(n, c, rng=rng), c


shapes = pytest.mark.parametrize(
    "options",
    [
        {},
        {"hidden": (24, 16)},
        {"hidden": (24, 16, 20), "direct": False},
        {"direct": False},
        {"hidden": ()},
        {"hidden": (3,)},
        {"n_context": 2},
        {"n_context": 2, "hidden": (24, 16), "direct": False},
        {"n_context": 2, "hidden": ()},
        {"orderings": 3},
        {"orderings": 3, "hidden": (24, 16), "n_context": 1, "direct": False},
    ],
    ids=str,
)


# ------------------------------------------------------------------------------------------------------------ mass


@shapes
def test_the_probabilities_of_all_bits_sum_to_one(options):
    module = net([BIT] * 8, **options)
    z = every([range(2)] * 8)
    n_context = features_of_context(module)
    for c in torch.randn(2, n_context, generator=torch.Generator().manual_seed(1), dtype=torch.float64):
        context = c.expand(len(z), -1) if n_context else None
        assert module.log_prob(z, context).exp().sum().item() == pytest.approx(1, abs=1e-9)


@pytest.mark.parametrize("orderings", [1, 4])
def test_the_probabilities_of_all_small_images_sum_to_one(orderings):
    module = net([THREE] * 4, orderings=orderings, shape=(1, 2, 2))
    z = every([range(3)] * 4).reshape(-1, 1, 2, 2)
    assert module.log_prob(z).exp().sum().item() == pytest.approx(1, abs=1e-9)


@pytest.mark.parametrize("orderings", [1, 2])
def test_a_mixed_table_has_mass_one(orderings):
    module = net([THREE, REAL, BIT, Column("count", "count", low=-1.0, step=0.5)], orderings=orderings, spread=0.3)
    step = 0.1
    z = every([range(3), np.arange(-12, 12, step), range(2), np.arange(-1, 40, 0.5)])
    assert module.log_prob(z).exp().sum().item() * step == pytest.approx(1, abs=1e-4)


def test_mean_of_the_loss_is_minus_the_mean_log_probability(draws):
    module = net([BIT] * 5)
    z, _ = some(module)
    assert torch.equal(module.loss(z, rng=draws), -module.log_prob(z))


# ---------------------------------------------------------------------------------------------------- what sees what


@shapes
def test_a_conditional_depends_on_all_that_is_before_it_and_nothing_else(options):
    module = net([REAL] * 6, **options)
    z, c = some(module, 5)
    for s in range(module.orderings):
        jacobian = torch.autograd.functional.jacobian(lambda v, s=s: module.conditionals(v, c, s).sum(0), z)
        seen = jacobian.abs().sum(1)  # (parameters, D)
        position = module.position[s]
        before = position[None, :] < position[module.heads.owner][:, None]
        assert seen[~before].eq(0).all()
        wide = all(h >= 5 for h in options.get("hidden", (24,)))
        assert seen[before].gt(0).all() or not wide


def test_orderings_are_permutations_and_the_first_two_are_the_natural_one_and_its_reverse():
    position = net([BIT] * 6, orderings=4).position
    assert position[0].tolist() == [1, 2, 3, 4, 5, 6]
    assert position[1].tolist() == [6, 5, 4, 3, 2, 1]
    assert all(sorted(p) == [1, 2, 3, 4, 5, 6] for p in position.tolist())
    assert len({tuple(p) for p in position.tolist()}) == 4
    assert torch.equal(position, net([BIT] * 6, orderings=4).position)  # the same in every process


@pytest.mark.parametrize("hidden", [(24,), (24, 16), ()])
def test_the_context_reaches_every_conditional_the_first_included(hidden):
    module = net([BIT] * 5, hidden=hidden, n_context=2)
    z, c = some(module, 4)
    jacobian = torch.autograd.functional.jacobian(lambda v: module.conditionals(z, v).sum(0), c)
    assert jacobian.abs().sum((1, 2)).gt(0).all()


# --------------------------------------------------------------------------------------------------------- orderings


def test_orderings_are_averaged_as_probabilities_of_whole_examples():
    module = net([BIT] * 5, orderings=3)
    z = every([range(2)] * 5)
    each = torch.stack([module.log_prob_in_order(z, None, s).exp() for s in range(3)])
    assert torch.allclose(each.sum(1), torch.ones(3, dtype=torch.float64))
    assert not torch.allclose(each[0], each[1])
    assert torch.allclose(module.log_prob(z).exp(), each.mean(0))


@pytest.mark.parametrize("orderings", [1, 3])
def test_what_is_masked_in_every_ordering_is_no_parameter(orderings):
    """Those that a gradient reaches in some ordering, where all numbers are what they may be."""
    module = net([BIT, THREE, REAL], hidden=(5, 4), orderings=orderings).double()
    reached = {name: torch.zeros_like(p, dtype=torch.bool) for name, p in module.named_parameters()}
    for s in range(orderings):
        module.zero_grad()
        masked = module._masked(s)
        sum((w * torch.randn_like(w)).sum() for w in masked).backward()
        for name, p in module.named_parameters():
            reached[name] |= p.grad is not None and p.grad != 0
    biases = sum(p.numel() for name, p in module.named_parameters() if name.endswith("bias"))
    assert module.n_parameters == sum(int(r.sum()) for r in reached.values()) + biases


def test_training_takes_one_ordering_at_a_time(draws):
    module = net([BIT] * 5, orderings=3).train()
    z, _ = some(module)
    each = [-module.log_prob_in_order(z, None, s) for s in range(3)]
    losses = [module.loss(z, rng=draws) for _ in range(30)]
    found = [[s for s in range(3) if torch.equal(loss, each[s])] for loss in losses]
    assert all(len(s) == 1 for s in found) and {s[0] for s in found} == {0, 1, 2}


# ------------------------------------------------------------------------------------------------- one step at a time


@shapes
def test_steps_give_the_conditionals_of_the_full_pass(options):
    module = net(MIXED, **options)
    z, c = some(module)
    for s in range(module.orderings):
        params = module.conditionals(z, c, s)
        state, value = module.start(len(z), c, s), None
        for d in state.order:
            step = module.step(state, value)
            assert torch.allclose(step, params[:, module.heads.single(d)[1]], atol=1e-9)
            value = z[:, d]


def uniforms(n: int, dims: int) -> torch.Tensor:
    return torch.rand(n, dims, N_UNIFORMS, generator=torch.Generator().manual_seed(5), dtype=torch.float64)


def drawn_slowly(module: _MADE, u: torch.Tensor, c: torch.Tensor | None, s: int = 0) -> torch.Tensor:
    """By a full pass for every dimension."""
    z = torch.zeros(u.shape[:2], dtype=torch.float64)
    for d in module.order_of(s):
        z[:, d] = module.heads.sample(module.conditionals(z, c, s), u)[:, d]
    return z


@shapes
@pytest.mark.parametrize("columns", [MIXED, (BIT,) * 9], ids=["mixed", "bits"])
def test_the_fast_sampler_is_the_slow_one(columns, options):
    module = net(columns, **options)
    _, c = some(module, 50)
    u = uniforms(50, len(columns))
    for s in range(module.orderings):
        assert torch.allclose(module.from_uniforms(u, c, s=s), drawn_slowly(module, u, c, s), atol=1e-9)


@pytest.mark.skipif(not available(), reason="numba is not installed")
@pytest.mark.parametrize("kind", ["relu", "elu", "gelu", "silu", "tanh"])
def test_bits_are_drawn_with_and_without_numba_alike(monkeypatch, kind):
    module = net((BIT,) * 9, hidden=(24, 16), n_context=1, orderings=2, kind=kind)
    _, c = some(module, 50)
    u, known = uniforms(50, 9), torch.full((50, 9), torch.nan, dtype=torch.float64)
    known[:, :3] = torch.tensor([1.0, 0.0, 1.0])
    asked = [(u, c, None, 0), (u, c, None, 1), (u, c, known, 0), (u, c, known, 1)]
    compiled = [module.from_uniforms(*one) for one in asked]
    monkeypatch.setattr("plausible.nn.compiled.parts", lambda n, fewest: 3)
    assert all(torch.equal(module.from_uniforms(*one), z) for one, z in zip(asked, compiled, strict=True))
    monkeypatch.setattr("plausible.nn.compiled.available", lambda: False)
    assert all(torch.equal(module.from_uniforms(*one), z) for one, z in zip(asked, compiled, strict=True))
    assert torch.equal(compiled[3][:, :3], known[:, :3]) and 0.1 < compiled[3][:, 3:].mean() < 0.9


@pytest.mark.parametrize("options", [{}, {"orderings": 3}, {"hidden": (8, 8), "direct": False}])
def test_draws_follow_the_probabilities(options, draws):
    module = net([BIT, THREE, BIT, BIT], **options)
    levels = [range(2), range(3), range(2), range(2)]
    expected = module.log_prob(every(levels)).exp().detach().numpy() * 20_000
    z = module.sample(20_000, rng=draws).long().numpy()
    found = np.bincount(np.ravel_multi_index(z.T, (2, 3, 2, 2)), minlength=24)
    assert stats.chisquare(found, expected, sum_check=False).pvalue > 1e-3  # level 0.1 %


# ------------------------------------------------------------------------------------------------------------- text

FAST = {"hidden": (32,), "epochs": 15, "random_state": 0, "learning_rate": 1e-2}


def test_the_probabilities_of_all_strings_sum_to_one(rng):
    strings = ["".join(rng.choice(list("ab"), rng.integers(0, 5))) for _ in range(200)]
    model = MADE(**FAST).fit(strings)
    possible = ["".join(s) for length in range(5) for s in itertools.product("ab", repeat=length)]
    assert np.exp(model.log_prob(possible)).sum() == pytest.approx(1, abs=1e-6)
    drawn = model.sample(3000, random_state=0)
    assert set(drawn) <= set(possible)
    found = np.array([drawn.count(s) for s in possible])
    expected = np.exp(model.log_prob(possible)) * 3000
    assert expected.min() > 5
    assert stats.chisquare(found, expected, sum_check=False).pvalue > 1e-3


def test_a_window_cut_short_has_the_mass_of_all_it_may_go_on_with(rng):
    model = MADE(**{**FAST, "epochs": 3}).fit("".join(rng.choice(list("abc"), 64 * 8 + 3)))
    short = model.sample(1, random_state=0)[0][:62]
    longer = [short + "".join(s) for s in itertools.product("abc", repeat=2)]
    assert np.logaddexp.reduce(model.log_prob(longer)) == pytest.approx(model.log_prob([short])[0], abs=1e-6)


def test_text_takes_one_ordering():
    with pytest.raises(OptionError, match="orderings>1.*cannot model text"):
        MADE(orderings=2).fit(["ab", "b"])


# ---------------------------------------------------------------------------------------------------------- learning


def chain(n: int, steps: int, flip: float, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    start = rng.integers(0, 2, (n, 1))
    return (start + np.hstack([np.zeros((n, 1), int), (rng.random((n, steps - 1)) < flip).cumsum(1)])) % 2


@pytest.mark.parametrize("orderings", [1, 2])
def test_it_learns_a_chain_to_its_entropy(orderings):
    flip, steps = 0.1, 8
    entropy = math.log(2) - (steps - 1) * (flip * math.log(flip) + (1 - flip) * math.log(1 - flip))
    model = MADE(hidden=(64,), orderings=orderings, epochs=12, learning_rate=1e-2, random_state=0).fit(
        chain(4000, steps, flip)
    )
    fresh = model.log_prob(chain(4000, steps, flip, seed=1))
    assert -fresh.mean() == pytest.approx(entropy, abs=0.02 * orderings + 3 * fresh.std() / math.sqrt(4000))


def test_it_learns_a_dependent_mixed_table_and_speaks_in_its_units(rng):
    n = 2000
    kind = rng.integers(0, 3, n)
    X = pd.DataFrame({"kind": np.array(list("xyz"))[kind], "size": 100 * kind + rng.normal(size=n)})
    model = MADE(**FAST).fit(X)
    truth = math.log(1 / 3) + stats.norm.logpdf(X["size"] - 100 * kind).mean()
    assert model.score(X) == pytest.approx(truth, abs=0.15)
    metres = X.assign(size=X["size"] / 1000)
    assert MADE(**FAST).fit(metres).score(metres) == pytest.approx(model.score(X) + math.log(1000), abs=1e-3)
    drawn = model.sample(500, random_state=0)
    assert list(drawn.columns) == list(X.columns) and (drawn.dtypes == X.dtypes).all()
    assert ((drawn["size"] - drawn["kind"].map({"x": 0, "y": 100, "z": 200})).abs() < 5).mean() > 0.97


def test_the_context_changes_the_answer_and_each_answer_sums_to_one(rng):
    label = np.array(["left", "right"])[rng.integers(0, 2, 2000)]
    X = (rng.random((2000, 3)) < np.where(label == "left", 0.1, 0.8)[:, None]).astype(int)
    model = MADE(**FAST).fit(X, context=label)
    possible = np.array(list(itertools.product([0, 1], repeat=3)))
    for side in ("left", "right"):
        p = np.exp(model.log_prob(possible, context=[side]))
        assert p.sum() == pytest.approx(1, abs=1e-6)
        rows = X[label == side]
        assert np.allclose(p, [(rows == x).all(1).mean() for x in possible], atol=0.03)
        assert model.sample(2000, context=[side], random_state=0).mean(0) == pytest.approx(rows.mean(0), abs=0.05)


def test_dropout_is_for_training_alone(rng):
    X = rng.integers(0, 2, (300, 4))
    model = MADE(**FAST, dropout=0.5).fit(X)
    assert np.array_equal(model.log_prob(X), model.log_prob(X))
    assert np.exp(model.log_prob(np.array(list(itertools.product([0, 1], repeat=4))))).sum() == pytest.approx(1)


def test_it_starts_from_the_frequencies_of_the_columns(rng):
    module = net([BIT, THREE], hidden=(8,), spread=0.0)
    z = torch.from_numpy(np.stack([rng.random(5000) < 0.2, rng.choice(3, 5000, p=[0.7, 0.2, 0.1])], 1).astype(float))
    module.look(z)
    with torch.no_grad():
        for layer in (*module.layers, module.direct):
            layer.weight.zero_()
    found = module.log_prob(every([range(2), range(3)])).exp().detach().numpy().reshape(2, 3)
    assert np.allclose(found, np.outer([0.8, 0.2], [0.7, 0.2, 0.1]), atol=0.02)


@pytest.mark.parametrize("settings", [{}, {"hidden": (24, 16)}, {"n_context": 2, "direct": False}])
def test_the_fixed_point_is_the_same_sample(settings):
    """Passes over all dimensions at once end where dimension by dimension does, before or at one pass a dimension."""
    module = net(MIXED, **settings)
    u = torch.rand(50, module.dims, N_UNIFORMS, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    n_context = features_of_context(module)
    c = torch.randn(50, n_context, dtype=torch.float64) if n_context else None
    z, passes = module.fixed_point(u, c)
    assert torch.allclose(z, module.from_uniforms(u, c), atol=1e-9)
    assert 2 <= passes <= module.dims + 2


def test_the_rest_given_the_first_dimensions():
    """p(lower | upper) by enumeration; what is known stands; what is out of order is refused."""
    rng = np.random.default_rng(0)
    X = (rng.random((600, 4)) < np.array([0.5, 0.3, 0.6, 0.2])).astype(int)
    X[:, 3] ^= X[:, 0] & X[:, 1]
    model = pl.MADE(hidden=(16,), epochs=20, batch_size=64, learning_rate=0.02, random_state=0).fit(X)
    known = np.array([1.0, 0.0, np.nan, np.nan])
    drawn = given.sample(model, np.tile(known, (4000, 1)), random_state=0)
    assert (drawn[:, :2] == [1, 0]).all()
    states = np.array([[1, 0, a, b] for a in (0, 1) for b in (0, 1)])
    p = np.exp(model.log_prob(states))
    counts = np.array([(drawn == s).all(1).sum() for s in states])
    assert stats.chisquare(counts, 4000 * p / p.sum()).pvalue > 1e-3
    mask = np.array([True, True, False, False])
    np.testing.assert_allclose(given.log_prob(model, states, mask), np.log(p / p.sum()), atol=1e-8)
    with pytest.raises(DataError, match="in order"):
        given.sample(model, np.array([[np.nan, 1.0, 0.0, 1.0]]))
    with pytest.raises(DataError, match="in order"):
        given.log_prob(model, states, ~mask)


def test_log_prob_of_each_dimension():
    """They add up, in the units of the data; a surprise shows where it is."""
    rng = np.random.default_rng(0)
    a = rng.normal(size=(500, 1))
    X = np.concatenate([1000 * a, a + 0.1 * rng.normal(size=(500, 1))], 1)
    model = pl.MADE(hidden=(16,), epochs=20, batch_size=32, learning_rate=5e-3, random_state=0).fit(X)
    each = model.log_prob(X, reduce=None)
    assert each.shape == X.shape
    np.testing.assert_allclose(each.sum(1), model.log_prob(X), atol=1e-10)
    assert abs(each[:, 0].mean() + 0.5 * np.log(2 * np.pi * np.e * 1e6)) < 0.3  # a normal of deviation 1000
    odd = X[:1] + [[0.0, 1.0]]
    change = model.log_prob(odd, reduce=None) - each[:1]
    assert change[0, 0] == 0 and change[0, 1] < -3
    images = rng.integers(0, 2, (50, 3, 4)).astype(np.uint8)
    assert pl.MADE(epochs=1, random_state=0).fit(images).log_prob(images, reduce=None).shape == (50, 3, 4)
    with pytest.raises(CapabilityError, match="orderings=1"):
        pl.MADE(orderings=2, epochs=1, random_state=0).fit(X).log_prob(X, reduce=None)
    with pytest.raises(CapabilityError, match="each dimension"):
        pl.Gaussian().fit(X).log_prob(X, reduce=None)
