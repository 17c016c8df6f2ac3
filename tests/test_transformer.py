"""The Transformer: mass by enumeration, what sees what by gradients, the cache against the full pass, prompts."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from torch.nn import functional as F

import plausible as pl
from plausible.nn import attention, compiled
from plausible.nn.attention import CausalAttention, Decoder
from plausible.options import OptionError
from plausible.randomness import generator
from plausible.space import Text
from plausible.training import minimise
from plausible.uses import given
from plausible.uses.complete import complete

SMALL = {"layers": 2, "hidden": 16, "attention_heads": 2, "learning_rate": 5e-3, "batch_size": 32, "random_state": 0}
WAYS = [pytest.param(True, marks=pytest.mark.skipif(not compiled.available(), reason="numba is not installed")), False]
RHYME = "the cat sat on the mat and the rat sat on the cat. " * 20


@pytest.fixture(scope="module")
def strings():
    rng = np.random.default_rng(0)
    return ["".join("ab"[b] for b in rng.integers(0, 2, rng.integers(0, 5))) for _ in range(200)]


@pytest.fixture(scope="module")
def whole(strings):
    return pl.Transformer(epochs=5, **SMALL).fit(strings)


@pytest.fixture(scope="module")
def windows():
    space = Text.of(sorted(set(RHYME)), 16, end=False)
    return pl.Transformer(epochs=60, space=space, warmup=0, **(SMALL | {"learning_rate": 1e-2})).fit(RHYME)


@pytest.fixture(scope="module")
def colour():
    """Images of 2 x 2 pixels with 3 channels of 2 levels, and a model of them."""
    rng = np.random.default_rng(0)
    x = (rng.random((200, 1, 2, 2)) < 0.5) ^ (rng.random((200, 3, 2, 2)) < 0.1)
    return x.astype(np.uint8), pl.Transformer(epochs=5, **SMALL).fit(x.astype(np.uint8))


def module_of(dims: int, **settings):
    """A double-precision module of bits, with weights that are not small."""
    x = np.random.default_rng(0).integers(0, 2, (40, dims))
    module = pl.Transformer(epochs=1, **(SMALL | settings)).fit(x)._evaluator()
    with torch.no_grad():
        for p in module.decoder.parameters():
            p.mul_(5)
    return module


# ------------------------------------------------------------------------------------------------------------- mass


def test_all_strings_have_mass_one(whole):
    strings = ["".join(s) for k in range(5) for s in itertools.product("ab", repeat=k)]
    assert np.exp(whole.log_prob(strings)).sum() == pytest.approx(1, abs=1e-10)


def test_all_images_have_mass_one(colour):
    x = np.array(list(itertools.product((0, 1), repeat=12)), dtype=np.uint8).reshape(-1, 3, 2, 2)
    assert np.exp(colour[1].log_prob(x)).sum() == pytest.approx(1, abs=1e-10)


def test_images_of_three_levels_have_mass_one():
    x = np.random.default_rng(0).integers(0, 3, (100, 2, 3)).astype(np.uint8)
    model = pl.Transformer(epochs=2, **SMALL).fit(x)
    every = np.array(list(itertools.product(range(3), repeat=6)), dtype=np.uint8).reshape(-1, 2, 3)
    assert np.exp(model.log_prob(every)).sum() == pytest.approx(1, abs=1e-10)


# --------------------------------------------------------------------------------------------------- what sees what


def test_a_channel_sees_pixels_before_and_channels_before(colour):
    """Raster order, the channels of a pixel one after the other: dimension (c, pixel) is the (3 pixel + c)-th."""
    model = colour[1]
    place = [3 * pixel + channel for channel in range(3) for pixel in range(4)]
    assert [place[d] for d in model.module_.order] == list(range(12))
    seen = who_sees_whom(model._evaluator(), 12)
    for asked, known in itertools.product(range(12), range(12)):
        assert seen[asked, known] == (place[known] < place[asked]), (asked, known)


@pytest.mark.parametrize("positions", ["learned", "rotary"])
def test_an_order_is_obeyed(positions):
    order = (3, 1, 4, 0, 2)
    module = module_of(5, order=order, positions=positions)
    seen = who_sees_whom(module, 5)
    for asked, known in itertools.product(range(5), range(5)):
        assert seen[asked, known] == (order.index(known) < order.index(asked))


def who_sees_whom(module, dims: int) -> np.ndarray:
    """(asked, known): whether the parameters of one dimension have a gradient by the features of another."""
    z = torch.rand(1, dims, dtype=torch.float64, generator=generator(0))
    rows = torch.autograd.functional.jacobian(lambda z: module.conditionals(z)[0], z)[:, 0].abs()
    assert module.heads.size == dims
    return (rows > 1e-12).numpy()


def test_what_follows_the_end_changes_nothing(whole):
    z = torch.tensor([[0.0, 1.0, 2.0, torch.nan]], dtype=torch.float64)  # 2 ends the string
    other = torch.tensor([[0.0, 1.0, 2.0, 1.0]], dtype=torch.float64)
    module = whole._evaluator()
    with torch.no_grad():
        each, conditionals = module.log_prob_each(z), [module.conditionals(t).view(4, 3) for t in (z, other)]
    assert each[0, 3] == 0 and torch.equal(conditionals[0], conditionals[1])


# ---------------------------------------------------------------------------------------------------------- the cache


@pytest.mark.parametrize("positions", ["learned", "rotary"])
def test_kept_keys_give_the_full_pass(positions):
    """One position at a time, and several at a time from any place, to rounding."""
    module = module_of(9, positions=positions)
    z = torch.randint(0, 2, (7, 9), generator=generator(0)).double()
    with torch.no_grad():
        full = module.conditionals(z)
        for parts in ([1] * 8, [8], [3, 4, 1], [1, 7]):
            state = module.start(7)
            found, at = [module.step(state)], 0
            for m in parts:
                found += module.prime(state, z[:, at : at + m])
                at += m
            torch.testing.assert_close(torch.cat(found, 1), full, rtol=1e-10, atol=1e-10)
        state = module.start(7)
        module.step(state)
        assert len(module.prime(state, z)) == 8  # nothing follows the last


def test_a_mixed_table_is_primed_column_by_column():
    import pandas as pd

    rng = np.random.default_rng(0)
    x = pd.DataFrame({"a": rng.integers(0, 3, 60), "b": rng.normal(size=60), "c": rng.poisson(60, 60)})
    model = pl.Transformer(epochs=1, **SMALL).fit(x)
    module, z = model._evaluator(), model.transforms_(model._encode(x))[0].double()[:5]
    with torch.no_grad():
        full, state = module.conditionals(z), module.start(5)
        found = [module.step(state), *module.prime(state, z[:, :2])]
    for d, params in enumerate(found):
        torch.testing.assert_close(params, full[:, module.heads.single(d)[1]], rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("loops", WAYS)
@pytest.mark.parametrize("rotary", [True, False])
@pytest.mark.parametrize("dtype, tolerance", [(torch.float64, 1e-12), (torch.float32, 5e-6)])
def test_positions_one_by_one_are_those_of_a_pass(monkeypatch, loops, rotary, dtype, tolerance):
    """More than lie in two blocks of the memory, some of them read at once; examples shared by three threads."""
    monkeypatch.setattr(attention, "usable", lambda like: loops)
    monkeypatch.setattr(compiled, "parts", lambda n, fewest: 3)
    rng = generator(0)
    net = Decoder(24, 2, 3, 150, rotary, dropout=0.0, n_context=2).to(dtype).eval()
    with torch.no_grad():
        for p in net.parameters():
            p.copy_(0.4 * torch.randn(p.shape, generator=rng, dtype=dtype))
        x, c = (torch.randn(shape, generator=rng, dtype=dtype) for shape in ((8, 150, 24), (8, 2)))
        memory, found = net.memory(8, c), []
        assert (memory.steps is not None) == loops
        for part in x.split([1] * 60 + [75] + [1] * 15, 1):
            found.append(net.extend(part, memory))
        torch.testing.assert_close(torch.cat(found, 1), net(x, c), rtol=tolerance, atol=tolerance)
        with pytest.raises(ValueError, match="room for 150 positions"):
            net.extend(x[:, :1], memory)


def test_heads_of_odd_sizes_are_left_to_torch():
    assert Decoder(6, 1, 2, 5, rotary=False, dropout=0.0).eval().memory(1).steps is None


@pytest.mark.skipif(not compiled.available(), reason="numba is not installed")
def test_functions_of_the_loops_are_exact_to_single_precision():
    from plausible.nn import _attention_loops as loops

    x = np.linspace(-9, 9, 20_001, dtype=np.float32)[None]
    found = x.copy()
    loops._gelu(found, True)
    np.testing.assert_allclose(found, F.gelu(torch.from_numpy(x).double()), rtol=3e-7, atol=5e-7)
    x = np.linspace(-86, 0, 1001, dtype=np.float32)
    np.testing.assert_allclose([loops._exp(v) for v in x], np.exp(x, dtype=np.float64), rtol=3e-7)


@pytest.mark.parametrize("loops", WAYS)
def test_draws_are_those_of_full_passes(monkeypatch, loops):
    """With one set of uniforms; in parts of some rows; and by passes over all dimensions at once."""
    monkeypatch.setattr(attention, "usable", lambda like: loops)
    module = module_of(12)
    u = torch.rand(20, 12, 2, dtype=torch.float64, generator=generator(1))
    with torch.no_grad():
        z = module.from_uniforms(u)
        assert torch.equal(module.heads.sample(module.conditionals(z), u), z)
        assert torch.equal(module.fixed_point(u)[0], z)
        monkeypatch.setattr("plausible.families.autoregressive.transformer.KEPT", 2 * 2 * 12 * 16 * 3)
        assert torch.equal(module.from_uniforms(u), z)
    assert 0.05 < z.mean() < 0.95


def test_a_known_beginning_is_read_at_once(monkeypatch):
    """Rows that know different parts: what all know is read in one pass, the rest value by value."""
    module = module_of(6)
    u = torch.rand(30, 6, 2, dtype=torch.float64, generator=generator(1))
    known = torch.randint(0, 2, (30, 6), generator=generator(2)).double()
    known[:15, 3:] = torch.nan
    known[15:, 4:] = torch.nan
    read = []
    prime = type(module).prime
    monkeypatch.setattr(type(module), "prime", lambda self, state, z: read.append(z.shape[1]) or prime(self, state, z))
    with torch.no_grad():
        z = module.from_uniforms(u, known=known)
        drawn = module.heads.sample(module.conditionals(z), u)
        complete = module.from_uniforms(u, known=z)
    assert read[0] == 3 and torch.equal(complete, z)
    assert torch.equal(z, torch.where(known.isnan(), drawn, known))


def test_the_lower_half_given_the_upper(colour):
    x, model = colour
    mask = np.zeros((2, 2), dtype=bool)
    mask[1] = True
    drawn = given.sample(model, x[:50], mask=mask, random_state=0)
    assert (drawn[:, :, 0] == x[:50, :, 0]).all() and not (drawn == x[:50]).all()


# ----------------------------------------------------------------------------------------------------------- context


def test_context_matters():
    rng = np.random.default_rng(0)
    label = rng.integers(0, 2, 300)
    x = np.where(rng.random((300, 4)) < np.where(label, 0.9, 0.1)[:, None], 1, 0)
    model = pl.Transformer(epochs=10, **SMALL).fit(x, context=label)
    assert (model.log_prob(x, context=label) - model.log_prob(x, context=1 - label)).mean() > 2
    drawn = model.sample(200, context=[1], random_state=0)
    assert drawn.mean() > 0.8


# ---------------------------------------------------------------------------------------------------------- windows


def test_windows_are_continued(windows):
    one = complete(windows, "the cat ", length=120, random_state=0)
    assert len(one.text) == 120 and one.text.count("the") > 5


def test_a_prompt_at_once_is_a_prompt_step_by_step(windows, monkeypatch):
    """Also where it is longer than a window, and in what is written after it."""
    at_once = complete(windows, RHYME[:53], length=60, random_state=1)
    module = type(windows.module_)
    prime = module.prime

    def by_steps(self, state, values):
        return [p for value in values.T for p in prime(self, state, value[:, None])]

    monkeypatch.setattr(module, "prime", by_steps)
    one_by_one = complete(windows, RHYME[:53], length=60, random_state=1)
    assert at_once.text == one_by_one.text
    assert at_once.log_prob == pytest.approx(one_by_one.log_prob, abs=1e-9)


def test_inside_a_window_a_completion_is_scored_by_log_prob(windows):
    one = complete(windows, "the ", length=10, random_state=0)
    expected = windows.log_prob([str(one)])[0] - windows.log_prob(["the "])[0]
    assert one.log_prob == pytest.approx(expected, abs=1e-9)


def test_a_series_that_ends_early_is_its_beginning():
    rng = np.random.default_rng(0)
    x = [rng.normal(size=(int(t), 2)) for t in rng.integers(2, 6, 60)]
    model = pl.Transformer(epochs=1, space="series", **SMALL).fit(x)
    short = next(s for s in x if len(s) == 3)
    padded = np.concatenate([short, rng.normal(size=(2, 2))])
    each = model.log_prob([padded], reduce=None)
    assert model.log_prob([short])[0] == pytest.approx(np.nansum(each[0].reshape(-1)[:6]), abs=1e-9)


# ------------------------------------------------------------------------------------------------- the building blocks


def test_attention_is_that_of_the_formula():
    """Against loops over positions and heads."""
    torch_rng = generator(0)
    net = CausalAttention(6, 2).double()
    with torch.no_grad():
        for p in net.parameters():
            p.copy_(torch.randn(p.shape, generator=torch_rng, dtype=p.dtype))
        x = torch.randn(1, 5, 6, generator=torch_rng, dtype=torch.float64)
        q, k, v = (x[0] @ net.qkv.weight[i : i + 6].T for i in (0, 6, 12))
        rows = torch.zeros(5, 6, dtype=torch.float64)
        for t, h in itertools.product(range(5), range(2)):
            part = slice(3 * h, 3 * h + 3)
            weight = (k[: t + 1, part] @ q[t, part] / 3**0.5).softmax(0)
            rows[t, part] = weight @ v[: t + 1, part]
        torch.testing.assert_close(net(x)[0], rows @ net.out.weight.T)


@pytest.mark.parametrize("length", [7, 128, 300])
def test_blocks_are_causal_attention(length):
    q, k, v = torch.randn(3, 2, 2, length, 4, generator=generator(0), dtype=torch.float64)
    wanted = F.scaled_dot_product_attention(q, k, v, is_causal=True)
    torch.testing.assert_close(attention._by_blocks(q, k, v), wanted)


def test_rotary_scores_depend_on_the_distance_alone():
    net = Decoder(4, 1, 1, 20, rotary=True, dropout=0.0).double()
    q, k = torch.randn(2, 1, 1, 1, 1, 4, generator=generator(0), dtype=torch.float64)

    def score(i, j):
        return (attention._rotate(q, net.turn(i, i + 1)) * attention._rotate(k, net.turn(j, j + 1))).sum()

    assert score(3, 1) == pytest.approx(score(17, 15).item()) != pytest.approx(score(3, 2).item())


def test_warm_up_then_cosine():
    step = minimise(module_of(2), learning_rate=1.0, schedule="cosine", warmup=4)
    rates = []
    for i in range(8):
        step.progress(i / 8)
        rates.append(step.rate)
        step._steps += 1
    falls = 0.5 * (1 + np.cos(np.pi * np.arange(8) / 8))
    np.testing.assert_allclose(rates, falls * np.minimum((np.arange(8) + 1) / 4, 1))


def test_dropout_and_bfloat16_train():
    x = np.random.default_rng(0).integers(0, 2, (64, 6))
    model = pl.Transformer(epochs=2, dropout=0.2, precision="bfloat16", **SMALL).fit(x)
    again = pl.Transformer(epochs=2, dropout=0.2, precision="bfloat16", **SMALL).fit(x)
    assert np.isfinite(model.score(x)) and model.score(x) == again.score(x)


# ------------------------------------------------------------------------------------------------------- bad settings


@pytest.mark.parametrize(
    "settings, says",
    [
        ({"hidden": 10, "attention_heads": 4}, "multiple of 4"),
        ({"hidden": 6, "attention_heads": 2, "positions": "rotary"}, "multiple of 4"),
        ({"order": (0, 1, 1)}, "each of 0 .. 2 once"),
    ],
)
def test_bad_settings_are_refused(settings, says):
    with pytest.raises(OptionError, match=says):
        pl.Transformer(**settings).fit(np.random.default_rng(0).integers(0, 2, (20, 3)))


def test_text_has_one_order(strings):
    with pytest.raises(OptionError, match="one order"):
        pl.Transformer(order=(3, 2, 1, 0)).fit(strings)


def test_what_ends_early_has_one_order():
    pieces = [np.zeros((1 + i % 2, 1)) + i % 5 for i in range(40)]
    with pytest.raises(OptionError, match="ends early"):
        pl.Transformer(layers=1, hidden=8, epochs=1, order=(1, 0), space="series").fit(pieces)


@pytest.mark.parametrize("family", [pl.RNN, pl.WaveNet, pl.Transformer])
def test_no_series_have_no_log_prob(family):
    x = np.random.default_rng(0).normal(size=(40, 3, 2))
    model = family(epochs=1, random_state=0).fit(x)
    assert model.log_prob(x[:0]).shape == (0,)
    assert model.log_prob(x[:0], reduce=None).shape == (0, 3, 2)
