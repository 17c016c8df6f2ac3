"""NADE, RNADE, orderless NADE: the formula written out, enumeration, quadrature; compiled loops beside plain torch."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given as examples
from hypothesis import settings
from hypothesis import strategies as st
from scipy import integrate, stats

import plausible as pl
from plausible.errors import CapabilityError, DataError
from plausible.families.autoregressive import _fused, _shared_hidden
from plausible.families.autoregressive.nade import _NADE
from plausible.families.autoregressive.orderless_nade import _OrderlessNADE
from plausible.heads import N_UNIFORMS
from plausible.nn.compiled import alone, available, parts, share
from plausible.options import OptionError
from plausible.space import Column, Space
from plausible.uses import given

BIT = Column("bit", "binary", (0, 1))
REAL = Column("real", "real")
MIXED = (
    BIT,
    Column("colour", "categorical", ("r", "g", "b")),
    REAL,
    Column("count", "count", low=-1.0, step=0.25),
    Column("pixel", "ordinal", tuple(range(64))),
    REAL,
)
KINDS = tuple(_fused.KINDS)
needs_numba = pytest.mark.skipif(not available(), reason="numba is not installed")


def strong(module, spread: float = 0.7):
    """Random weights, so strong that every connection shows."""
    generator = torch.Generator().manual_seed(0)
    module = module.double().eval()
    with torch.no_grad():
        for p in module.parameters():
            p.add_(spread * torch.randn(p.shape, generator=generator, dtype=p.dtype))
    return module


def nade(columns, hidden=12, kind="sigmoid", n_context=0, reals="normal", spread=0.7, orderings=1) -> _NADE:
    space = Space(tuple(columns), (len(columns),))
    with torch.random.fork_rng(devices=[]):
        module = strong(_NADE(space, n_context, hidden, 3, reals, kind, orderings), spread)
    with torch.no_grad():
        if module.bits:
            module.usual[::3] = 1  # bits of which 1 is the more frequent value
    return module


def orderless(columns, hidden=(12,), n_context=0, orderings=1, reals="normal", spread=0.7) -> _OrderlessNADE:
    space = Space(tuple(columns), (len(columns),))
    with torch.random.fork_rng(devices=[]):
        return strong(_OrderlessNADE(space, n_context, hidden, 3, reals, orderings, "tanh", 0.0), spread)


def every(levels) -> torch.Tensor:
    return torch.tensor(list(itertools.product(*levels)), dtype=torch.float64)


def uniforms(n: int, dims: int, seed: int = 5) -> torch.Tensor:
    return torch.rand(n, dims, N_UNIFORMS, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def context(module, n: int) -> torch.Tensor | None:
    width = module.of_context[0].in_features if len(module.of_context) else 0
    return torch.randn(n, width, generator=torch.Generator().manual_seed(3), dtype=torch.float64) if width else None


def hidden_dots_written_out(x, W, V, a, kind):
    """V_d . act(a + sum_{i<d} x_i W_i), a dimension at a time."""
    act, out = {"sigmoid": torch.sigmoid, "tanh": torch.tanh, "relu": torch.relu}[kind], []
    for d in range(x.shape[1]):
        out.append(act(a) @ V[d])
        a = a + x[:, d : d + 1] * W[d]
    return torch.stack(out, 1)


# ------------------------------------------------------------------------------------------------- the compiled loops


@needs_numba
@settings(max_examples=30, deadline=None)
@examples(st.integers(1, 21), st.integers(2, 9), st.integers(1, 19), st.sampled_from(KINDS), st.floats(0, 1))
def test_compiled_loops_are_the_formula_with_its_gradients(n, dims, hidden, kind, share):
    draw = torch.Generator().manual_seed(n * 100 + dims)
    x = (torch.rand(n, dims, generator=draw) < share).double() * torch.randn(dims, generator=draw).sign()
    W, V = (torch.randn(dims, hidden, generator=draw, dtype=torch.float64, requires_grad=True) for _ in range(2))
    a = torch.randn(n, hidden, generator=draw, dtype=torch.float64, requires_grad=True)
    g = torch.randn(n, dims, generator=draw, dtype=torch.float64)
    found, wanted = _fused.hidden_dots(x, W, V, a, kind), hidden_dots_written_out(x, W, V, a, kind)
    assert torch.allclose(found, wanted, atol=1e-10)
    pairs = zip(torch.autograd.grad(found, (W, V, a), g), torch.autograd.grad(wanted, (W, V, a), g), strict=True)
    for ours, theirs in pairs:
        assert torch.allclose(ours, theirs, atol=1e-10)


@needs_numba
@pytest.mark.parametrize("kind", KINDS)
def test_compiled_loops_in_single_precision(kind):
    """To rounding, for sums of any size: the quick tanh and sigmoid are as exact as single precision is."""
    draw = torch.Generator().manual_seed(0)
    x = (torch.rand(40, 60, generator=draw) < 0.2).float()
    W, V = (torch.randn(60, 33, generator=draw).requires_grad_() for _ in range(2))
    a = (5 * torch.randn(40, 33, generator=draw)).requires_grad_()
    g = torch.randn(40, 60, generator=draw)
    found = _fused.hidden_dots(x, W, V, a, kind)
    wanted = hidden_dots_written_out(x, *(t.double() for t in (W, V, a)), kind)
    pairs = [(found, wanted)]
    pairs += zip(torch.autograd.grad(found, (W, V, a), g), torch.autograd.grad(wanted, (W, V, a), g), strict=True)
    for ours, exact in pairs:
        assert (ours - exact).abs().max() < 2e-6 * exact.abs().max()


@needs_numba
def test_threads_change_nothing_but_the_order_of_sums(monkeypatch):
    module = nade([BIT] * 6)
    z = every([range(2)] * 6)
    one = torch.autograd.grad(module.log_prob(z).sum(), module.parameters(), allow_unused=True)
    monkeypatch.setattr("plausible.nn.compiled.parts", lambda n, fewest: 3)
    three = torch.autograd.grad(module.log_prob(z).sum(), module.parameters(), allow_unused=True)
    for a, b in zip(one, three, strict=True):
        assert torch.allclose(a, b, atol=1e-10)


@needs_numba
def test_while_the_loops_train_torch_has_one_thread_and_gets_the_others_back(monkeypatch):
    had, seen = torch.get_num_threads(), []
    torch.set_num_threads(3)
    try:
        original = _fused.compiled.share

        def noted(n, fewest, work):
            seen.append((torch.get_num_threads(), parts(n, fewest)))
            return original(n, fewest, work)

        monkeypatch.setattr(_fused.compiled, "share", noted)
        X = np.random.default_rng(0).integers(0, 2, (200, 3))
        pl.NADE(hidden=4, epochs=1, batch_size=64, random_state=0).fit(X)
        assert torch.get_num_threads() == 3
        assert set(seen) == {(1, 3), (1, 1)}  # of a batch, and of the twenty examples held out
        with pytest.raises(ZeroDivisionError), alone():
            1 / 0  # noqa: B018
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(had)


def test_of_two_who_are_alone_at_once_the_first_to_leave_takes_nothing_from_the_other():
    had = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        first, second = alone(), alone()
        first.__enter__()
        second.__enter__()
        first.__exit__(None, None, None)
        assert parts(100, 1) == 3
        second.__exit__(None, None, None)
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(had)


@needs_numba
def test_an_error_in_a_thread_is_not_lost(monkeypatch):
    monkeypatch.setattr("plausible.nn.compiled.parts", lambda n, fewest: 2)

    def work(part, first, last):
        if part == 1:
            raise ValueError("in a thread")

    with pytest.raises(ValueError, match="in a thread"):
        share(10, 1, work)


@needs_numba
@pytest.mark.parametrize("n_context", [0, 2])
def test_with_and_without_numba_the_same(monkeypatch, n_context):
    """Values, gradients and draws; the plain way in one block, in several, and a dimension at a time."""
    module = nade([BIT] * 7, n_context=n_context)
    z, u = every([range(2)] * 7), uniforms(50, 7)
    c, few = context(module, len(z)), context(module, 50)
    known = torch.full((50, 7), torch.nan, dtype=torch.float64)
    known[:, :3] = torch.tensor([1.0, 0.0, 1.0])

    def answers():
        log_p = module.log_prob(z, c)
        return [
            log_p,
            *torch.autograd.grad(log_p.sum(), list(module.parameters())),
            module.from_uniforms(u, few),
            module.from_uniforms(u, few, known),
        ]

    compiled = answers()
    assert torch.equal(compiled[-1][:, :3], known[:, :3])
    monkeypatch.setattr("plausible.nn.compiled.available", lambda: False)
    for at_once in (4_000_000, 128 * 12 * 3, 128 * 12):
        monkeypatch.setattr(_shared_hidden, "AT_ONCE", at_once)
        for a, b in zip(compiled, answers(), strict=True):
            assert torch.allclose(a, b, atol=1e-9)
    monkeypatch.setattr(_shared_hidden, "IN_CACHE", 12 * 5)
    with torch.no_grad():
        assert torch.allclose(compiled[0], module.log_prob(z, c), atol=1e-9)


# --------------------------------------------------------------------------------------------------------- the density


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("n_context", [0, 2])
def test_the_probabilities_of_all_bits_sum_to_one(kind, n_context):
    module = nade([BIT] * 8, kind=kind, n_context=n_context)
    z = every([range(2)] * 8)
    c = context(module, 1)
    log_p = module.log_prob(z, None if c is None else c.expand(len(z), -1))
    assert log_p.exp().sum().item() == pytest.approx(1, abs=1e-9)
    assert log_p.std() > 1


@pytest.mark.parametrize("columns", [[BIT] * 5, MIXED], ids=["bits", "mixed"])
@pytest.mark.parametrize("s", [0, 2])
def test_conditionals_are_the_formula(columns, s):
    """V_d act(c + sum_{i before d} W_i f(x_i)) + b_d, dimension by dimension."""
    module = nade(columns, orderings=3)
    z = module.from_uniforms(uniforms(9, len(columns)))
    x, heads, order = module._features(z), module.heads, module.order_of(s)
    for k, d in enumerate(order):
        before = torch.isin(heads.source, torch.tensor(order[:k]))
        h = module.act(module.c[s] + x[:, before] @ module.W[s, before])
        mine = heads.owner == d
        wanted = h @ module.V[s, mine].T + module.b[s, mine]
        assert torch.allclose(module.conditionals(z, None, s)[:, mine], wanted, atol=1e-10)


def test_orderings_are_mixed_and_each_learns_for_itself():
    module, z = nade([BIT] * 6, orderings=3), every([range(2)] * 6)
    each = torch.stack([module.log_prob_in_order(z, None, s) for s in range(3)])
    pi = module.mixing.softmax(0)
    assert pi.max() - pi.min() > 0.01
    assert torch.allclose(module.log_prob(z).exp(), pi @ each.exp(), atol=1e-12)
    assert module.log_prob(z).exp().sum().item() == pytest.approx(1, abs=1e-9)
    assert torch.allclose(module.loss(z), -module.log_prob(z), atol=1e-12)
    assert torch.allclose(module.train().loss(z), -each.mean(0), atol=1e-12)


def test_the_shares_of_the_orderings_have_the_slope_of_the_mixture_and_the_nets_that_of_their_own():
    module = nade([BIT] * 4, orderings=3).train()
    z = module.from_uniforms(uniforms(50, 4))
    module.loss(z).mean().backward()
    of_pi, of_nets = module.mixing.grad.clone(), module.V.grad.clone()
    module.zero_grad()
    each = module.log_prob_in_orders(z).detach().exp()
    (-(module.mixing.softmax(0) @ each).log().mean()).backward()
    assert torch.allclose(of_pi, module.mixing.grad, atol=1e-12) and of_pi.abs().max() > 1e-3
    module.zero_grad()
    (-module.log_prob_in_order(z, s=1).mean() / 3).backward()
    assert torch.allclose(of_nets[1], module.V.grad[1], atol=1e-12)


def test_draws_of_a_mixture_of_orderings_follow_its_probabilities(draws):
    module = nade([BIT] * 4, orderings=3)
    expected = module.log_prob(every([range(2)] * 4)).exp().detach().numpy() * 20_000
    z = module.sample(20_000, rng=draws).long().numpy()
    found = np.bincount(np.ravel_multi_index(z.T, (2,) * 4), minlength=16)
    assert stats.chisquare(found, expected, sum_check=False).pvalue > 1e-3


@pytest.mark.parametrize("reals", ["normal", "laplace"])
@pytest.mark.parametrize("make", [nade, orderless])
def test_rnade_integrates_to_one(reals, make):
    module = make([REAL, REAL], reals=reals, spread=0.3)

    grid = torch.linspace(-20, 20, 501, dtype=torch.float64)
    with torch.no_grad():
        p = module.log_prob(torch.cartesian_prod(grid, grid)).exp().reshape(501, 501).numpy()
    total = integrate.simpson(integrate.simpson(p, x=grid.numpy()), x=grid.numpy())
    assert total == pytest.approx(1, abs=2e-3 if reals == "laplace" else 1e-6)  # a Laplace has a kink


def test_a_mixture_of_laplaces_is_the_sum_of_its_components():
    module = nade([REAL], reals="laplace")
    z = torch.linspace(-4, 4, 21, dtype=torch.float64)[:, None]
    logit, mean, log_scale = module.conditionals(z)[0].detach().reshape(3, 3).numpy()
    weight = np.exp(logit) / np.exp(logit).sum()
    wanted = sum(w * stats.laplace.pdf(z[:, 0], m, np.exp(s)) for w, m, s in zip(weight, mean, log_scale, strict=True))
    assert np.allclose(module.log_prob(z).exp().detach(), wanted)
    drawn = module.from_uniforms(uniforms(20_000, 1)).detach().numpy()[:, 0]

    def cumulative(x):
        return sum(w * stats.laplace.cdf(x, m, np.exp(s)) for w, m, s in zip(weight, mean, log_scale, strict=True))

    assert stats.kstest(drawn, cumulative).pvalue > 1e-3


@pytest.mark.parametrize("make", [nade, orderless])
@pytest.mark.parametrize("n_context", [0, 2])
@pytest.mark.parametrize("s", [0, 1])
@pytest.mark.parametrize("columns", [[BIT] * 6, MIXED], ids=["bits", "mixed"])
def test_steps_and_draws_are_those_of_the_full_pass(make, n_context, s, columns):
    module = make(columns, n_context=n_context, orderings=2)
    c, u = context(module, 30), uniforms(30, 6)
    slow = torch.zeros(30, 6, dtype=torch.float64)
    for d in module.order_of(s):
        slow[:, d] = module.heads.sample(module.conditionals(slow, c, s), u)[:, d]
    assert torch.allclose(module.from_uniforms(u, c, s=s), slow, atol=1e-9)
    params, state, value = module.conditionals(slow, c, s), module.start(30, c, s), None
    for d in module.order_of(s):
        assert torch.allclose(module.step(state, value), params[:, module.heads.single(d)[1]], atol=1e-9)
        value = slow[:, d]


def test_the_usual_value_of_a_bit_is_noted_and_saved(tmp_path):
    rng = np.random.default_rng(0)
    X = (rng.random((400, 3)) < [0.9, 0.5, 0.1]).astype(int)
    model = pl.NADE(hidden=4, epochs=2, random_state=0).fit(X)
    assert model.module_.usual[[0, 2]].tolist() == [1, 0]
    model.save(tmp_path / "m.plausible")
    assert np.array_equal(pl.load(tmp_path / "m.plausible").log_prob(X), model.log_prob(X))


def test_it_learns_what_no_linear_model_can():
    """The third bit is the exclusive or of the others: log 4 nats; a linear model cannot see it."""
    bits = np.random.default_rng(0).integers(0, 2, (2000, 2))
    X = np.column_stack([bits, bits[:, 0] ^ bits[:, 1]])
    model = pl.NADE(hidden=32, epochs=60, learning_rate=0.02, random_state=0).fit(X)
    assert model.score(X) == pytest.approx(-np.log(4), abs=0.02)


def test_weights_count_examples():
    """An example of weight two is two examples: the gradients of the mean loss are the same."""
    module = nade([BIT] * 4)
    z = every([range(2)] * 4)
    w = 1.0 + torch.arange(len(z), dtype=torch.float64) % 2
    twice = torch.cat([z, z[1::2]])
    a = torch.autograd.grad((module.log_prob(z) * w).sum(), module.W)[0]
    b = torch.autograd.grad(module.log_prob(twice).sum(), module.W)[0]
    assert torch.allclose(a, b, atol=1e-10)


def test_strings_end_where_they_end():
    rng = np.random.default_rng(0)
    words = ["".join(rng.choice(list("ab"), rng.integers(1, 4))) for _ in range(300)]
    model = pl.NADE(hidden=16, epochs=5, random_state=0).fit(words)
    all_words = ["".join(p) for k in range(4) for p in itertools.product("ab", repeat=k)]
    assert np.exp(model.log_prob(all_words)).sum() == pytest.approx(1, abs=1e-6)


# ----------------------------------------------------------------------------------------------------------- orderless


@pytest.mark.parametrize("hidden", [(12,), (12, 9)])
@pytest.mark.parametrize("n_context", [0, 2])
def test_every_order_sums_to_one_and_the_ensemble_averages_probabilities(hidden, n_context):
    module = orderless([BIT] * 6, hidden, n_context, orderings=3)
    z = every([range(2)] * 6)
    c = context(module, 1)
    c = None if c is None else c.expand(len(z), -1)
    each = [module.heads.log_prob(module.conditionals(z, c, s), z).sum(1).exp() for s in range(3)]
    for p in each:
        assert p.sum().item() == pytest.approx(1, abs=1e-9)
    assert not torch.allclose(each[0], each[1], rtol=0.1)
    assert torch.allclose(module.log_prob(z, c).exp(), torch.stack(each).mean(0), atol=1e-12)
    assert sorted(module.order_of(2)) == list(range(6)) and module.order_of(0) == list(range(6))
    with pytest.raises(CapabilityError, match="orderings=1"):
        module.log_prob_each(z, c)


def test_draws_of_the_ensemble_follow_its_probabilities(draws):
    module = orderless([BIT] * 3, orderings=3)
    expected = module.log_prob(every([range(2)] * 3)).exp().detach().numpy() * 20_000
    z = module.sample(20_000, rng=draws).long().numpy()
    found = np.bincount(np.ravel_multi_index(z.T, (2, 2, 2)), minlength=8)
    assert stats.chisquare(found, expected, sum_check=False).pvalue > 1e-3


@pytest.mark.parametrize("columns", [[BIT] * 5, MIXED], ids=["bits", "mixed"])
@pytest.mark.parametrize("hidden", [(12,), (12, 9)])
def test_conditionals_of_an_order_are_passes_with_a_mask(columns, hidden):
    """The first layer that grows by a term is the net on what is known, for every cut of an order."""
    module = orderless(columns, hidden, orderings=2)
    z = module.from_uniforms(uniforms(9, len(columns)))
    params, known = module.conditionals(z, None, 1), torch.zeros(9, len(columns), dtype=torch.bool)
    for d in module.order_of(1):
        mine = module.heads.owner == d
        assert torch.allclose(module.given_known(z, known)[:, mine], params[:, mine], atol=1e-10)
        known[:, d] = True


def test_the_training_loss_is_the_mean_over_all_orders():
    """Over all orders and cuts by enumeration: the mean of -log p_o(x) over the 6 orders of 3 bits."""
    module = orderless([BIT] * 3)
    z = every([range(2)] * 3)
    total = torch.zeros(len(z), dtype=torch.float64)
    for o in itertools.permutations(range(3)):
        known = torch.zeros(len(z), 3, dtype=torch.bool)
        for d in o:
            total -= module.heads.log_prob(module.given_known(z, known), z)[:, d] / 6
            known[:, d] = True
    n = 20_000
    draw = torch.Generator().manual_seed(0)
    for x, wanted in zip(z[:3], total.tolist(), strict=False):
        losses = module.held_out_loss(x.expand(n, -1), rng=draw)
        assert losses.mean().item() == pytest.approx(wanted, abs=4 * losses.std().item() / n**0.5)


def test_completions_are_exact_for_the_order_with_the_known_first():
    """Enumeration of the missing cells, which come before, between and after the known ones."""
    module = orderless([BIT] * 5, (12, 9))
    z = torch.tensor([[torch.nan, 1, torch.nan, 0, torch.nan]], dtype=torch.float64).expand(20_000, -1)
    rest = every([range(2)] * 3)
    states = torch.zeros(8, 5, dtype=torch.float64)
    states[:, [0, 2, 4]], states[:, 1] = rest, 1
    known = torch.tensor([False, True, False, True, False]).expand(8, -1)
    log_p = torch.zeros(8, dtype=torch.float64)
    seen = known.clone()
    for d in (0, 2, 4):
        log_p += module.heads.log_prob(module.given_known(states, seen), states)[:, d]
        seen[:, d] = True
    assert log_p.exp().sum().item() == pytest.approx(1, abs=1e-9)
    assert torch.allclose(module.log_prob_given(states, known), log_p, atol=1e-10)
    drawn = module.sample_given(z, rng=torch.Generator().manual_seed(1))
    assert (drawn[:, 1] == 1).all() and (drawn[:, 3] == 0).all()
    found = np.bincount(np.ravel_multi_index(drawn[:, [0, 2, 4]].long().numpy().T, (2, 2, 2)), minlength=8)
    assert stats.chisquare(found, log_p.exp().detach().numpy() * 20_000, sum_check=False).pvalue > 1e-3


def test_rows_with_different_holes_are_completed_side_by_side():
    module = orderless([BIT] * 5)
    z = module.from_uniforms(uniforms(40, 5)).detach()
    hole = torch.rand(40, 5, generator=torch.Generator().manual_seed(2)) < 0.5
    together = module.log_prob_given(z, ~hole)
    alone = torch.cat([module.log_prob_given(z[i : i + 1], ~hole[i : i + 1]) for i in range(40)])
    assert torch.allclose(together, alone, atol=1e-10)


def test_given_in_the_units_of_the_data():
    rng = np.random.default_rng(0)
    X = rng.multivariate_normal([0, 100, 0], [[1, 8, 0], [8, 100, 3], [0, 3, 1]], 1500)
    model = pl.OrderlessNADE(hidden=(64,), epochs=40, batch_size=64, learning_rate=5e-3, components=1, random_state=0)
    model.fit(X)
    mask = np.array([False, True, False])
    wanted = stats.multivariate_normal([0, 0], [[0.36, -0.24], [-0.24, 0.91]])
    mean = np.outer(X[:, 1] - 100, [0.08, 0.03])
    found = given.log_prob(model, X, mask)
    assert found.mean() == pytest.approx(wanted.logpdf(X[:, [0, 2]] - mean).mean(), abs=0.1)
    first = np.array([True, False, False])  # in order: p(x) itself
    log_p = model.log_prob(X, reduce=None)
    np.testing.assert_allclose(given.log_prob(model, X, first), log_p[:, 1:].sum(1), atol=1e-8)
    holes = np.where(mask, X, np.nan)
    drawn = given.sample(model, holes, random_state=0)
    assert (drawn[:, 1] == X[:, 1]).all()
    assert np.cov((drawn[:, [0, 2]] - mean).T) == pytest.approx(np.array([[0.36, -0.24], [-0.24, 0.91]]), abs=0.2)


def test_what_cannot_be_is_refused():
    X = np.random.default_rng(0).integers(0, 2, (50, 3))
    with pytest.raises(OptionError, match="hidden layer"):
        pl.OrderlessNADE(hidden=()).fit(X)
    with pytest.raises(OptionError, match="laplace"):
        pl.NADE(reals="cauchy").fit(X)
    with pytest.raises(DataError, match="cannot model text"):
        pl.OrderlessNADE().fit(["ab", "ba"])
    model = pl.NADE(hidden=4, epochs=1, random_state=0).fit(X)
    with pytest.raises(DataError, match="in order"):
        given.sample(model, np.array([[np.nan, 1.0, 0.0]]))
