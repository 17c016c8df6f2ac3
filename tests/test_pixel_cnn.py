"""PixelCNN: sums to one, sees what is before it and no more, and draws fast what full passes would draw."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given as drawn_from
from hypothesis import settings
from hypothesis import strategies as st
from scipy import stats

import plausible as pl
from pixels import (
    BIT,
    BYTE,
    REAL,
    THREE,
    assert_fast_is_slow,
    assert_in_order,
    every,
    gap_to_stripes,
    influence,
    shaken,
    stripes,
    uniforms,
)
from plausible.errors import DataError
from plausible.families.autoregressive import _pixels
from plausible.families.autoregressive.pixel_cnn import _PixelCNN
from plausible.nn import causal_steps
from plausible.nn.causal import CausalConv, GatedNet, MaskedNet
from plausible.options import OptionError
from plausible.uses import given

ARCHITECTURES = ("gated", "residual", "masked")

architectures = pytest.mark.parametrize("architecture", ARCHITECTURES)


def net(column, shape, architecture="gated", n_context=0, spread=0.4, seed=0, **settings) -> _PixelCNN:
    """A net of random weights, so strong that every connection shows."""
    settings = {"channels": 6, "blocks": 2, "dilations": (1, 2), "mixing": 2} | settings
    return shaken(lambda space: _PixelCNN(space, n_context, 3, architecture, **settings), column, shape, spread, seed)


# -------------------------------------------------------------------------------------------------- a distribution


@architectures
@pytest.mark.parametrize(
    "column, shape", [(THREE, (1, 2, 3)), (BIT, (3, 2, 2)), (THREE, (2, 1, 3)), (BYTE, (3, 1, 1)), (BYTE, (1, 1, 2))]
)
def test_it_sums_to_one(architecture, column, shape):
    module = net(column, shape, architecture)
    z = every(column.n_levels, module.dims)
    with torch.no_grad():
        p = torch.cat([module.log_prob(part.view(-1, *shape)).exp() for part in z.split(4000)])
    assert p.sum().item() == pytest.approx(1, abs=1e-9)
    assert p.std() > 0.1 * p.mean()  # it is not flat


def test_it_sums_to_one_for_each_context():
    module = net(THREE, (1, 2, 3), n_context=2)
    z = every(3, 6)
    found = []
    for c in ([0.0, 1.0], [1.0, -1.0]):
        found.append(module.log_prob(z.view(-1, 1, 2, 3), torch.tensor([c]).double().expand(len(z), -1)).exp().detach())
        assert found[-1].sum().item() == pytest.approx(1, abs=1e-9)
    assert (found[0] - found[1]).abs().sum() > 0.1


def test_colour_of_many_levels_is_one_mixture_for_all_channels():
    """The product of our conditionals is the sum over components of PixelCNN++, written down as it stands there."""
    module = net(BYTE, (3, 1, 1))
    m, k = 3, BYTE.n_levels
    x = torch.randint(0, k, (200, 3), generator=torch.Generator().manual_seed(1)).double()
    x[:20] = 0
    x[20:40, 1] = k - 1
    with torch.no_grad():
        ours = module.log_prob(x.view(-1, 3, 1, 1)).numpy()
        black = torch.zeros(1, 1, 1, 9, dtype=torch.float64)  # a first pixel has seen nothing
        hidden = module.of_pixels(module.net(black).relu()).relu()
        raw = (torch.nn.functional.linear(hidden, module.out.weight) + module.bias)[0, 0, 0].numpy()
    weight = np.exp(raw[:m]) / np.exp(raw[:m]).sum()
    means, log_scales, slopes = raw[m : 4 * m].reshape(3, m), raw[4 * m : 7 * m].reshape(3, m), np.tanh(raw[7 * m :])
    y = (x.numpy() - (k - 1) / 2) / ((k - 1) / 2)
    half = 1 / (k - 1)
    scales = np.maximum(np.exp(log_scales), half / 50)
    total = np.zeros(len(x))
    for i in range(m):
        alpha, beta, gamma = slopes.reshape(3, m)[:, i]
        mean = [
            np.full(len(y), means[0, i]),
            means[1, i] + alpha * y[:, 0],
            means[2, i] + beta * y[:, 0] + gamma * y[:, 1],
        ]
        p = weight[i] * np.ones(len(y))
        for j in range(3):
            law = stats.logistic(mean[j], scales[j, i])
            upper = np.where(x[:, j] == k - 1, 1.0, law.cdf(y[:, j] + half))
            lower = np.where(x[:, j] == 0, 0.0, law.cdf(y[:, j] - half))
            p *= upper - lower
        total += p
    seen = total > 1e-9  # differences of cumulatives are lost to rounding below
    assert seen.sum() > 50
    np.testing.assert_allclose(ours[seen], np.log(total[seen]), atol=1e-5)


# ------------------------------------------------------------------------------------------ who sees whom


def causal_net(architecture, shape, blocks, reach=1, **settings):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        if architecture == "gated":
            return GatedNet(1, shape, 4, blocks, reach, **settings).double()
        return MaskedNet(1, shape, 4, blocks, reach, residual=architecture == "residual", **settings).double()


@architectures
@pytest.mark.parametrize("settings", [{}, {"dilations": (1, 2, 3)}, {"mixing": 3}], ids=str)
def test_no_pixel_sees_itself_or_a_later_one(architecture, settings):
    shape = (5, 6)
    causal = causal_net(architecture, shape, blocks=5, **settings)
    for y, x in itertools.product(range(5), range(6)):
        later = influence(causal, shape, (y, x)).flatten()[y * 6 + x :]
        assert later.max() == 0


@pytest.mark.parametrize("dilations", [(1,), (1, 2, 4)])
def test_gated_has_no_blind_spot(dilations):
    shape = (6, 7)
    for y, x in itertools.product(range(6), range(7)):
        seen = influence(causal_net("gated", shape, blocks=6, dilations=dilations), shape, (y, x)).flatten()
        assert (seen[: y * 7 + x] > 0).all()


def test_a_single_stack_has_a_blind_spot():
    shape = (6, 7)
    seen = influence(causal_net("residual", shape, blocks=6), shape, (2, 2))
    assert seen[1, 3] > 0 and seen[1, 4] == 0  # of the row above, one pixel to the right and no further


def test_dilated_convolutions_see_further():
    """Of the rows above: one by the first convolution, and d more by each block."""
    shape = (9, 9)
    for dilations, rows in [((1,), 4), ((1, 2, 4), 8), ((2,), 7)]:
        seen = influence(causal_net("residual", shape, blocks=3, dilations=dilations), shape, (8, 4))
        assert np.flatnonzero((seen > 0).any(1)).min() == 8 - rows


@architectures
def test_with_mixing_every_pixel_before_is_seen(architecture):
    """Two blocks by themselves reach a few rows."""
    shape = (6, 7)
    seen = influence(causal_net(architecture, shape, blocks=2, mixing=8), shape, (5, 6)).flatten()
    assert (seen[:41] > 0).all() and seen[41] == 0


@architectures
@pytest.mark.parametrize("shape", [(3, 2, 3), (1, 3, 3), (2, 3, 2)])
def test_each_value_depends_on_those_before_it_in_order(architecture, shape):
    module = net(REAL, shape, architecture)
    seen = assert_in_order(module)
    channels = shape[0]
    for d in range(module.dims):  # the channels before it in its pixel, and the pixel to the left
        first = d - d % channels
        assert (seen[d, first:d] > 0).all()
        if (d // channels) % shape[2]:
            assert (seen[d, first - channels : first] > 0).all()


def test_the_channels_of_a_pixel_come_one_after_the_other():
    channels, height, width = 3, 2, 2
    order = net(BIT, (channels, height, width)).order
    places = [(k, y, x) for y in range(height) for x in range(width) for k in range(channels)]
    assert order == [np.ravel_multi_index(p, (channels, height, width)) for p in places]


@pytest.mark.parametrize("channel", [0, 1, 2])
def test_of_the_mixture_later_channels_see_earlier_ones(channel):
    module = net(BYTE, (3, 1, 2))
    z = torch.full((1, 6), 16.0, dtype=torch.float64)
    other = z.clone()
    other[0, 2 * channel] = 20  # the first pixel of that channel
    params = [module.conditionals(v).view(3, 2, -1) for v in (z, other)]
    changed = (params[0] - params[1]).abs().amax(2) > 0
    assert changed[:, 0].tolist() == [k > channel for k in range(3)]
    assert changed[:, 1].all()


def test_masked_weights_count_as_none():
    """As many count as a gradient reaches, in some net of several: in each, some units are switched off."""
    z = (torch.rand(100, 2, 8, 8, generator=torch.Generator().manual_seed(0)) < 0.5).double()
    modules = [net(BIT, (2, 8, 8), channels=4, blocks=1, seed=seed) for seed in range(4)]
    for module in modules:
        module.log_prob(z).sum().backward()
    gradients = zip(*([p.grad != 0 for p in module.parameters()] for module in modules), strict=True)
    reached = sum(int(torch.stack(several).any(0).sum()) for several in gradients)
    assert module.n_parameters == reached < sum(p.numel() for p in module.parameters())


@settings(deadline=None, max_examples=20)
@drawn_from(
    rows=st.integers(1, 3),
    left=st.integers(0, 3),
    right=st.integers(0, 2),
    n_in=st.integers(1, 3),
    dilation=st.integers(1, 4),
    seed=st.integers(0),
)
def test_double_precision_convolves_as_single_does(rows, left, right, n_in, dilation, seed):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed % 2**31)
        for here in {left, left + 1, left + 1 + right} - {0}:
            conv = CausalConv(n_in, 3, rows, left, right, here, dilation=dilation)
            x = torch.randn(2, 4, 5, n_in)
            torch.testing.assert_close(conv(x).double(), conv.double()(x.double()), atol=1e-5, rtol=1e-5)


# ----------------------------------------------------------------------------------------------------------- draws


@settings(deadline=None, max_examples=40)
@drawn_from(
    architecture=st.sampled_from(ARCHITECTURES),
    column=st.sampled_from((BIT, THREE, BYTE, REAL)),
    shape=st.tuples(st.integers(1, 3), st.integers(1, 5), st.integers(1, 5)),
    n_context=st.integers(0, 2),
    blocks=st.integers(0, 6),
    dilations=st.lists(st.integers(1, 6), min_size=1, max_size=3),
    mixing=st.sampled_from((0, 1, 9)),
    seed=st.integers(0, 100),
)
def test_the_fast_sampler_is_the_slow_one(architecture, column, shape, n_context, blocks, dilations, mixing, seed):
    settings = {"channels": 3, "blocks": blocks, "dilations": dilations, "mixing": mixing}
    module = net(column, shape, architecture, n_context, seed=seed, **settings)
    c = torch.randn(5, n_context, generator=torch.Generator().manual_seed(seed)).double() if n_context else None
    assert_fast_is_slow(module, c, seed=seed)


@architectures
@pytest.mark.parametrize("column", [BIT, BYTE])
def test_elsewhere_than_on_the_cpu_the_same_is_drawn(architecture, column, monkeypatch):
    """Torch's arithmetic in the place of numpy's, as on a GPU."""
    module = net(column, (2, 3, 4), architecture, n_context=1, dilations=(2, 1))
    c = torch.ones(5, 1).double()
    z = assert_fast_is_slow(module, c)
    for where in (causal_steps, _pixels):
        monkeypatch.setattr(where, "arithmetic", lambda device: causal_steps._ELSEWHERE)
    with torch.no_grad():
        assert torch.equal(assert_fast_is_slow(module, c), z)


@pytest.mark.parametrize("column", [BIT, BYTE])
@pytest.mark.parametrize("shape", [(1, 5, 4), (2, 1, 3)])
def test_without_compiled_loops_the_same_is_drawn(column, shape, monkeypatch):
    pytest.importorskip("numba")
    module = net(column, shape, "residual", n_context=1, channels=5, blocks=2, dilations=(1, 2))
    assert isinstance(module.net_steps(2, torch.ones(2, 1).double()), causal_steps._ResidualLoops)
    c = torch.ones(5, 1).double()
    z = assert_fast_is_slow(module, c)
    monkeypatch.setattr(causal_steps, "usable", lambda like: False)
    assert not isinstance(module.net_steps(2, c[:2]), causal_steps._ResidualLoops)
    with torch.no_grad():
        assert torch.equal(assert_fast_is_slow(module, c), z)


@architectures
def test_single_precision_draws_the_same_bits(architecture):
    module = net(BIT, (1, 12, 11), architecture, blocks=3, spread=0.2, dilations=(1, 2, 4)).float()
    u = uniforms(module, 300)  # more than are drawn side by side
    with torch.no_grad():
        z = module.from_uniforms(u)
        assert torch.equal(z, module.heads.sample(module.conditionals(z), u))
    assert 0.2 < z.mean() < 0.8


def test_a_step_leaves_what_it_gave_before_alone():
    module = net(THREE, (1, 2, 2))
    state = module.start(4)
    first = module.step(state)
    kept = first.clone()
    module.step(state, torch.ones(4))
    assert torch.equal(first, kept)


# -------------------------------------------------------------------------------------------------------- learning

FAST = {"channels": 8, "blocks": 1, "learning_rate": 0.02, "batch_size": 64, "random_state": 0}


@architectures
@pytest.mark.parametrize("mixing", [0, 4])
def test_it_learns_stripes_to_their_entropy(architecture, mixing):
    model = pl.PixelCNN(architecture=architecture, mixing=mixing, epochs=8, **FAST).fit(stripes(3000))
    assert gap_to_stripes(model.log_prob) < 0.02


def echoes(n, seed=0):
    """A first row that comes again as the last one, further than two blocks reach; noise in between."""
    x = np.random.default_rng(seed).integers(0, 2, (n, 7, 7)).astype(np.uint8)
    x[:, -1] = x[:, 0]
    return x


@pytest.mark.parametrize(
    "settings, found",
    [({"dilations": (1,)}, False), ({"dilations": (3,)}, True), ({"dilations": (1,), "mixing": 4}, True)],
    ids=str,
)
def test_what_lies_far_apart_is_found_by_dilation_or_mixing(settings, found):
    """Else it says 49 bits of an image that has 42."""
    wide = FAST | {"architecture": "residual", "blocks": 2, "channels": 16} | settings
    model = pl.PixelCNN(epochs=12, **wide).fit(echoes(2000))
    bits = -model.log_prob(echoes(1000, seed=1)).mean() / math.log(2)
    assert 41.9 < bits < 48 if found else bits > 48.9


@pytest.mark.parametrize(
    "settings, shape, said",
    [
        ({"dilations": ()}, (3, 3), "at least one"),
        ({"dilations": (0,)}, (3, 3), "at least 1"),
        ({"mixing": 1, "blocks": 0}, (3, 3), "one at least"),
        ({"mixing": 1}, (65, 64), "at most 4,096 of them; these have 65 x 64"),
    ],
    ids=str,
)
def test_settings_that_make_no_net_are_refused(settings, shape, said):
    with pytest.raises(OptionError, match=said):
        pl.PixelCNN(**settings).fit(np.random.default_rng(0).integers(0, 2, (20, *shape)).astype(np.uint8))


def test_the_lower_half_given_the_upper():
    model = pl.PixelCNN(epochs=8, **FAST).fit(stripes(1500, 0.3))
    upper = np.array([[1, 0], [0, 0], [0, 0]], dtype=np.uint8)
    below = np.zeros((3, 2), dtype=bool)
    below[1:] = True
    drawn = given.sample(model, np.tile(upper, (4000, 1, 1)), mask=below, random_state=0)
    assert (drawn[:, 0] == [1, 0]).all()
    states = np.array([[[1, 0], s[:2], s[2:]] for s in itertools.product([0, 1], repeat=4)], dtype=np.uint8)
    p = np.exp(model.log_prob(states))
    counts = np.array([(drawn == s).all((1, 2)).sum() for s in states])
    assert stats.chisquare(counts, 4000 * p / p.sum()).pvalue > 1e-3
    np.testing.assert_allclose(given.log_prob(model, states, ~below), np.log(p / p.sum()), atol=1e-8)
    with pytest.raises(DataError, match="in order"):
        given.sample(model, states, mask=~below)


def test_colour_is_completed_within_a_pixel():
    """Red and green known, blue drawn: what is in order is a matter of channels too."""
    rng = np.random.default_rng(0)
    red = rng.integers(0, 2, (800, 1, 1, 1))
    images = np.concatenate([red, 1 - red, red], 1).repeat(2, 3).astype(np.uint8)
    model = pl.PixelCNN(epochs=15, space=None, **FAST).fit(images)
    assert model.score(images) == pytest.approx(-math.log(2), abs=0.1)
    mask = np.zeros((3, 1, 2), dtype=bool)
    mask[2, 0, 0] = mask[:, 0, 1] = True  # all from the blue of the first pixel on
    drawn = given.sample(model, images[:200], mask=mask, random_state=0)
    assert (drawn == images[:200]).all((1, 2, 3)).mean() > 0.9


def test_class_conditional():
    rng = np.random.default_rng(0)
    label = rng.integers(0, 2, 1500)
    images = (rng.random((1500, 3, 3)) < np.where(label, 0.8, 0.2)[:, None, None]).astype(np.uint8)
    names = np.array(["dark", "light"])[label]
    model = pl.PixelCNN(epochs=8, **FAST).fit(images, context=names)
    for name, share in (("dark", 0.2), ("light", 0.8)):
        drawn = model.sample(1000, context=[name], random_state=0)
        assert drawn.mean() == pytest.approx(share, abs=0.03)
    right = model.log_prob(images, context=names).mean()
    assert right == pytest.approx(9 * (0.2 * math.log(0.2) + 0.8 * math.log(0.8)), abs=0.2)
    assert right > model.log_prob(images, context=np.array(["dark", "light"])[1 - label]).mean() + 5


def test_grey_of_many_levels_is_learned():
    """Rows that repeat a tone with a little noise: far fewer bits than a flat or an independent model needs."""
    rng = np.random.default_rng(0)
    first = rng.integers(10, 240, (1000, 3, 1))
    images = np.clip(first + rng.integers(-3, 4, (1000, 3, 4)), 0, 255).astype(np.uint8)
    fast = FAST | {"batch_size": 32, "learning_rate": 5e-3}
    model = pl.PixelCNN(epochs=15, **fast).fit(images)
    bits = -model.score(images) / (12 * math.log(2))
    truth = (math.log2(230) + 4 * math.log2(7)) / 4  # nearly
    assert truth - 0.2 < bits < truth + 1.0
    drawn = model.sample(300, random_state=0).astype(int)
    assert drawn.shape == (300, 3, 4) and np.median(np.abs(np.diff(drawn, axis=2))) < 8


def test_large_nets_are_evaluated_in_single_precision():
    small, large = (net(BIT, shape, channels=16, blocks=4).float() for shape in ((1, 3, 3), (1, 28, 28)))
    assert not small.heavy and large.heavy
    assert large.multiply_adds > 50 * small.multiply_adds


def test_halfway_through_training_in_half_precision_nothing_is_lost():
    images = stripes(1000)
    found = [pl.PixelCNN(epochs=6, precision=p, **FAST).fit(images).score(images) for p in ("float32", "bfloat16")]
    assert found[0] == pytest.approx(found[1], abs=0.03)
