"""The recurrent net: mass one, conditionals that see nothing ahead, a state that is the whole past."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from scipy import stats
from torch import nn

import plausible as pl
from plausible.errors import DataError, SpaceError
from plausible.families.autoregressive.rnn import _RNN, RNN
from plausible.heads import N_UNIFORMS
from plausible.space import Column, Series, Space
from plausible.uses import given
from plausible.uses.complete import complete

BIT, REAL = Column("bit", "binary", (0, 1)), Column("real", "real")
THREE = Column("three", "categorical", (0, 1, 2))
MIXED = (BIT, THREE, REAL, Column("count", "count", low=-1.0, step=0.25), Column("pixel", "ordinal", tuple(range(64))))

# event, shape and columns of one example
EVENTS = {
    "text": ("text", (5,), (THREE,) * 5),
    "table": ("table", (5,), MIXED),
    "bits of a series": ("series", (3, 2), (BIT,) * 6),
    "reals of a series": ("series", (3, 2), (REAL,) * 6),
    "grey image": ("image", (1, 2, 3), (THREE,) * 6),
    "colour image": ("image", (3, 2, 1), (BIT,) * 6),
}
events = pytest.mark.parametrize("event", EVENTS)
NETS = [{}, {"cell": "gru"}, {"layers": 2, "n_context": 2}, {"cell": "gru", "layers": 2, "within": 0}]
nets = pytest.mark.parametrize("options", NETS, ids=str)


def net(event="text", cell="lstm", layers=1, n_context=0, within=6) -> _RNN:
    """A net of random weights, so strong that every connection shows."""
    kind, shape, columns = EVENTS[event]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        module = _RNN(Space(columns, shape), kind, n_context, cell, 8, layers, within, 2, 0.0).double().eval()
    rng = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for p in module.parameters():
            p.add_(0.4 * torch.randn(p.shape, generator=rng, dtype=p.dtype))
    return module


def features(n: int, options: dict, seed: int = 1):
    width = options.get("n_context", 0)
    c = torch.randn(n, width, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return c if width else None


def draw(module: _RNN, options: dict, n: int = 8):
    c = features(n, options)
    with torch.no_grad():
        return module.sample(n, c, rng=torch.Generator().manual_seed(2)), c


# ------------------------------------------------------------------------------------------------------------ mass


@nets
@pytest.mark.parametrize("event", ["text", "bits of a series", "grey image", "colour image"])
def test_the_probabilities_of_all_examples_sum_to_one(event, options):
    module = net(event, **options)
    levels = [range(c.n_levels) for c in EVENTS[event][2]]
    z = torch.tensor(list(itertools.product(*levels)), dtype=torch.float64)
    c = features(1, options)
    with torch.no_grad():
        log_p = module.log_prob(z, None if c is None else c.expand(len(z), -1))
    assert log_p.exp().sum().item() == pytest.approx(1, abs=1e-9)


def test_the_density_of_a_series_integrates_to_one():
    module = net("reals of a series")
    step = 0.06
    line = torch.arange(-9, 9, step, dtype=torch.float64)
    z = torch.full((len(line) ** 2, 6), torch.nan, dtype=torch.float64)  # steps after the first are not observed
    z[:, :2] = torch.cartesian_prod(line, line)
    with torch.no_grad():
        assert module.log_prob(z).exp().sum().item() * step**2 == pytest.approx(1, abs=1e-3)


def test_all_short_strings_sum_to_one(rng):
    strings = ["".join(rng.choice(list("ab"), rng.integers(0, 5))) for _ in range(100)]
    model = RNN(hidden=12, epochs=3, random_state=0).fit(strings)
    possible = ["".join(s) for k in range(5) for s in itertools.product("ab", repeat=k)]
    assert np.exp(model.log_prob(possible)).sum() == pytest.approx(1, abs=1e-9)
    assert set(model.sample(200, random_state=0)) <= set(possible)


# ---------------------------------------------------------------------------------------------------- what sees what


@nets
@events
def test_a_conditional_depends_on_what_is_before_it_and_nothing_else(event, options):
    module = net(event, **options)
    z, c = draw(module, options, 4)
    with torch.no_grad():
        params = module.conditionals(z, c)
        for place, d in enumerate(module.order):
            other = z.clone()
            levels = EVENTS[event][2][d].n_levels
            other[:, d] = (z[:, d] + 1) % levels if levels else z[:, d] + 1
            changed = (module.conditionals(other, c) != params).any(0)
            for later, e in enumerate(module.order):
                rows = module.heads.single(e)[1]
                if later <= place:
                    assert not changed[rows].any()
                elif options.get("within", 6) or later // module.steps.C > place // module.steps.C:
                    assert changed[rows].any()
                else:  # independent inside the step
                    assert not changed[rows].any()


def test_the_past_and_the_context_reach_every_step_by_gradient():
    module = net("reals of a series", layers=2, n_context=2)
    z, c = draw(module, {"n_context": 2}, 3)
    by_past = torch.autograd.functional.jacobian(lambda v: module.log_prob_each(v, c).sum(0), z).abs().sum(1)
    assert by_past.triu(1).eq(0).all() and by_past.tril(-1)[5, :5].gt(0).all()
    by_context = torch.autograd.functional.jacobian(lambda v: module.log_prob_each(z, v).sum(0), c)
    assert by_context.abs().sum((1, 2)).gt(0).all()


@events
def test_what_is_not_observed_changes_nothing(event):
    module = net(event)
    z, _ = draw(module, {})
    whole = module.log_prob_each(z)
    for d in (1, 3):
        cut = z.clone()
        cut[:, module.order[d:]] = torch.nan
        each = module.log_prob_each(cut)
        assert torch.allclose(each[:, module.order[:d]], whole[:, module.order[:d]], atol=1e-12)
        assert each[:, module.order[d:]].eq(0).all()


# ------------------------------------------------------------------------------------------------- one step at a time


@nets
@events
def test_steps_give_the_conditionals_of_the_full_pass(event, options):
    module = net(event, **options)
    z, c = draw(module, options)
    with torch.no_grad():
        params, state, value = module.conditionals(z, c), module.start(len(z), c), None
        for d in state.order:
            assert torch.allclose(module.step(state, value), params[:, module.heads.single(d)[1]], atol=1e-9)
            value = z[:, d]


@nets
@events
def test_the_fast_sampler_is_the_slow_one(event, options):
    module = net(event, **options)
    c = features(20, options)
    u = torch.rand(20, module.dims, N_UNIFORMS, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    with torch.no_grad():
        slow = torch.zeros(20, module.dims, dtype=torch.float64)
        for d in module.order:
            slow[:, d] = module.heads.sample(module.conditionals(slow, c), u)[:, d]
        assert torch.allclose(module.from_uniforms(u, c), slow, atol=1e-9)
        known = torch.full_like(slow, torch.nan)
        known[:, module.order[:2]] = slow[:, module.order[:2]]
        assert torch.allclose(module.from_uniforms(u, c, known), slow, atol=1e-9)


@pytest.mark.parametrize("cell", ["lstm", "gru"])
def test_cells_are_those_of_torch(cell):
    """A net of its own formulas, beside torch's single-step cells."""
    module = net("text", cell)
    kind = nn.LSTMCell if cell == "lstm" else nn.GRUCell
    ours = module.nets[0]
    theirs = kind(ours.input_size, 8).double()
    with torch.no_grad():
        for name, p in theirs.named_parameters():
            p.copy_(getattr(ours, f"{name}_l0"))
        z = torch.tensor([[0.0, 2, 1, 1, 0]], dtype=torch.float64)
        x = torch.cat([module.steps.place, module.steps.W[z[0, :-1].long()]])
        h = torch.zeros(1, 8, dtype=torch.float64)
        state = (h, h) if cell == "lstm" else h
        log_p = 0.0
        for t in range(5):
            state = theirs(x[t : t + 1], state)
            out = state[0] if cell == "lstm" else state
            log_p += (out @ module.steps.V.T + module.steps.b).log_softmax(1)[0, int(z[0, t])]
        assert module.log_prob(z).item() == pytest.approx(float(log_p), abs=1e-9)


# ---------------------------------------------------------------------------------------------------------- learning


def test_it_approaches_the_likelihood_of_an_autoregressive_process(rng):
    a, n, steps = 0.8, 600, 12

    def process(n):
        x = [rng.normal(0, 1 / math.sqrt(1 - a * a), n)]
        for _ in range(steps - 1):
            x.append(a * x[-1] + rng.normal(size=n))
        return np.stack(x, 1)[:, :, None]

    def truth(x):
        x = x[:, :, 0]
        return stats.norm.logpdf(x[:, 0], 0, 1 / math.sqrt(1 - a * a)) + stats.norm.logpdf(
            x[:, 1:] - a * x[:, :-1]
        ).sum(1)

    model = RNN(hidden=16, components=2, epochs=25, learning_rate=1e-2, random_state=0).fit(process(n))
    fresh = process(500)
    gap = (truth(fresh) - model.log_prob(fresh)).mean()  # the divergence of the model from the process
    assert 0 < gap < 0.2
    drawn = model.sample(2000, random_state=0)[:, :, 0]
    assert np.corrcoef(drawn[:, 5], drawn[:, 6])[0, 1] == pytest.approx(a, abs=0.06)


def test_sequences_of_different_lengths(rng):
    pieces = [(rng.random((int(k), 3)) < 0.3).astype(np.uint8) for k in rng.integers(2, 9, 80)]
    model = RNN(hidden=8, within=4, epochs=2, space="series", random_state=0).fit(pieces)
    assert model.space_.shape == (8, 3) and model.space_.measure == "counting"
    each = model.log_prob(pieces, reduce=None)
    assert [int((~np.isnan(e[:, 0])).sum()) for e in each] == [len(p) for p in pieces]
    assert np.allclose(np.nansum(each, (1, 2)), model.log_prob(pieces))
    assert np.allclose([model.log_prob([p])[0] for p in pieces[:5]], model.log_prob(pieces)[:5])
    sides = np.array(list(itertools.product([0, 1], repeat=6))).reshape(-1, 2, 3)
    assert np.exp(model.log_prob(list(sides))).sum() == pytest.approx(1, abs=1e-9)  # of all pieces of two steps
    drawn = model.sample(3, random_state=0)
    assert drawn.shape == (3, 8, 3) and drawn.dtype == np.uint8
    with pytest.raises(DataError, match="MADE cannot model series of different lengths; these can: .*rnn"):
        pl.MADE(space="series").fit(pieces)
    with pytest.raises(DataError, match="before its end"):
        model.log_prob(np.where(np.arange(8)[None, :, None] == 1, np.nan, np.zeros((2, 8, 3))))
    with pytest.raises(SpaceError, match="0 and 1"):
        model.log_prob([np.full((2, 3), 2)])
    with pytest.raises(DataError, match="of shape \\(4,\\)"):
        RNN(space="series").fit([np.zeros((3, 1)), np.zeros(4)])


def test_a_model_of_longer_sequences_has_the_same_weights():
    short, long = (Series.of(k, ["a", "b"], ragged=True, bits="uint8") for k in (4, 9))
    nets = [_RNN(s, "series", 0, "lstm", 8, 1, 4, 2, 0.0).double() for s in (short, long)]
    nets[1].load_state_dict(nets[0].state_dict())
    z = (torch.rand(5, 4, 2, generator=torch.Generator().manual_seed(0)) < 0.5).double()
    longer = torch.cat([z, torch.full((5, 5, 2), torch.nan, dtype=torch.float64)], 1)
    assert torch.allclose(nets[0].log_prob(z), nets[1].log_prob(longer), atol=1e-12)


def test_text_goes_on_past_the_window_from_the_state():
    """What is written is scored by one state that has seen all of it, however many windows long."""
    model = RNN(hidden=16, epochs=4, batch_size=8, learning_rate=2e-2, random_state=0).fit("abcdefghij" * 120)
    length = 2 * model.space_.length + 9
    found = complete(model, "abc", length=length, random_state=0)
    assert len(found.text) == length
    module, levels = model._evaluator(), model.space_.columns[0].levels
    state, value, log_p = module.start(1), None, 0.0
    with torch.no_grad():
        for k, character in enumerate(str(found)):
            params = module.step(state, value)[0].log_softmax(0)
            value = torch.tensor([float(levels.index(character))], dtype=torch.float64)
            log_p += float(params[levels.index(character)]) if k >= 3 else 0.0
    assert found.log_prob == pytest.approx(log_p, abs=1e-6)


def test_the_lower_part_of_an_image_given_the_upper(rng):
    X = np.repeat(rng.integers(0, 2, (300, 1, 3)), 4, 1).astype(np.uint8)  # every row is the first
    model = RNN(hidden=24, epochs=30, learning_rate=2e-2, random_state=0).fit(X)
    mask = np.zeros((4, 3), bool)
    mask[1:] = True
    filled = given.sample(model, X[:50], mask=mask, random_state=0)
    assert np.array_equal(filled[:, 0], X[:50, 0]) and (filled == X[:50]).mean() > 0.95


def test_dropout_reads_no_global_generator(rng):
    X = ["".join(rng.choice(list("ab"), 4)) for _ in range(60)]
    before = torch.random.get_rng_state()
    settings = {"hidden": 8, "layers": 2, "dropout": 0.5, "epochs": 2, "random_state": 0}
    first, again = (RNN(**settings).fit(X).log_prob(X) for _ in range(2))
    assert np.array_equal(first, again) and torch.equal(before, torch.random.get_rng_state())
