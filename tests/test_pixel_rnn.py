"""PixelRNN: sums to one, is the recurrence it says, sees what is before it and no more, and draws fast."""

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
from plausible.families.autoregressive.pixel_rnn import _PixelRNN
from plausible.nn import causal_steps
from plausible.nn.recurrent import DiagonalLSTM, RecurrentNet, RowLSTM
from plausible.uses import given

ARCHITECTURES = ("diagonal", "row")

architectures = pytest.mark.parametrize("architecture", ARCHITECTURES)


def net(column, shape, architecture="diagonal", n_context=0, channels=4, layers=2, spread=0.4, seed=0) -> _PixelRNN:
    """A net of random weights, so strong that every connection shows."""
    return shaken(
        lambda space: _PixelRNN(space, n_context, architecture, channels, layers, 3, 0.0), column, shape, spread, seed
    )


def layer_of(cls, *args, seed=0):
    """A layer of random weights, in double precision."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        layer = cls(*args).double()
        for p in layer.parameters():
            torch.nn.init.normal_(p, std=0.5)
    return layer


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


# -------------------------------------------------------------------------------------------------- a distribution


@architectures
@pytest.mark.parametrize(
    "column, shape", [(THREE, (1, 2, 3)), (BIT, (3, 2, 2)), (BIT, (1, 4, 2)), (BYTE, (3, 1, 1)), (BYTE, (1, 1, 2))]
)
def test_it_sums_to_one(architecture, column, shape):
    module = net(column, shape, architecture)
    z = every(column.n_levels, module.dims)
    with torch.no_grad():
        p = torch.cat([module.log_prob(part.view(-1, *shape)).exp() for part in z.split(4000)])
    assert p.sum().item() == pytest.approx(1, abs=1e-9)
    assert p.std() > 0.1 * p.mean()  # it is not flat


@architectures
def test_it_sums_to_one_for_each_context(architecture):
    module = net(THREE, (1, 2, 3), architecture, n_context=2)
    z = every(3, 6)
    found = []
    for c in ([0.0, 1.0], [1.0, -1.0]):
        found.append(module.log_prob(z.view(-1, 1, 2, 3), torch.tensor([c]).double().expand(len(z), -1)).exp().detach())
        assert found[-1].sum().item() == pytest.approx(1, abs=1e-9)
    assert (found[0] - found[1]).abs().sum() > 0.1


# ------------------------------------------------------------------------------------------------- the recurrence


def test_down_a_column_rows_are_torchs_lstm():
    layer, lstm = layer_of(RowLSTM, 4, 3), torch.nn.LSTM(4, 3, batch_first=True).double()
    with torch.no_grad():
        lstm.weight_ih_l0.copy_(layer.into.kernel()[:, :, 0, 1])  # of its taps, the one at the pixel
        lstm.weight_hh_l0.copy_(layer.across.weight[:, 3:6])  # and of the three above, the one in the middle
        lstm.bias_ih_l0.copy_(layer.into.bias)
        lstm.bias_hh_l0.zero_()
        x = normal(2, 7, 1, 4)
        torch.testing.assert_close(layer(x), x + layer.out(lstm(x[:, :, 0])[0])[:, :, None])


def test_along_the_first_row_diagonals_are_torchs_lstm_from_either_side():
    height, width = 3, 6
    layer = layer_of(DiagonalLSTM, 4, 3, (height, width), 2)
    x, pixels = normal(2, height, width, 4), normal(2, height, width, 2, seed=1)
    left, right = layer.out.weight.detach().clone().chunk(2, 1)
    inputs = [x[:, 0] @ w + b for w, b in zip(layer.into_weight, layer.bias, strict=True)]
    inputs[1] = (inputs[1] + pixels[:, 0] @ layer.own_weight).flip(1)
    states = []
    with torch.no_grad():
        for side in (0, 1):
            lstm = torch.nn.LSTM(12, 3, bias=False, batch_first=True).double()
            lstm.weight_ih_l0.copy_(torch.eye(12))
            lstm.weight_hh_l0.copy_(layer.across_weight[side, :3].T)  # of the state beside; there is none above
            states.append(lstm(inputs[side])[0])
        both = layer(x, pixels)
        torch.testing.assert_close(both[:, 0], x[:, 0] + states[0] @ left.T + layer.out.bias)
        layer.out.weight[:, 3:] = 0  # what the row above says, from the right
        torch.testing.assert_close((both - layer(x, pixels))[:, 1], states[1].flip(1) @ right.T)


def cell(sums: np.ndarray, memory: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    i, f, g, o = np.split(sums, 4, -1)
    memory = memory / (1 + np.exp(-f)) + np.tanh(g) / (1 + np.exp(-i))
    return np.tanh(memory) / (1 + np.exp(-o)), memory


@pytest.mark.parametrize("shape", [(4, 3), (2, 5), (1, 3), (3, 1)])
def test_both_are_the_recurrence_pixel_by_pixel(shape):
    """As the formulas stand, one pixel after the other, with zeros for what is outside."""
    (height, width), c = shape, 3
    x, pixels = normal(2, *shape, 4), normal(2, *shape, 2, seed=1)
    rows, diagonals = layer_of(RowLSTM, 4, c), layer_of(DiagonalLSTM, 4, c, shape, 2)
    weights = {name: p.detach().numpy() for name, p in diagonals.named_parameters()}
    k, u = rows.into.kernel().detach().numpy()[:, :, 0], rows.across.weight.detach().numpy()
    given_in, shown = x.numpy(), pixels.numpy()
    # h[side][:, y + 1, x + 1], with a frame of zeros
    h, m = np.zeros((3, 2, height + 2, width + 2, c)), np.zeros((3, 2, height + 2, width + 2, c))
    for y, x_ in itertools.product(range(height), range(width)):
        left = given_in[:, y, x_ - 1] @ k[:, :, 0].T if x_ else 0
        near = np.concatenate([h[2, :, y, x_ + j] for j in range(3)], 1)
        sums = given_in[:, y, x_] @ k[:, :, 1].T + left + near @ u.T + rows.into.bias.detach().numpy()
        h[2, :, y + 1, x_ + 1], m[2, :, y + 1, x_ + 1] = cell(sums, m[2, :, y, x_ + 1])
        for side, at, beside in ((0, x_, x_), (1, width - 1 - x_, width - x_ + 1)):
            near = np.concatenate([h[side, :, y + 1, beside], h[side, :, y, at + 1]], 1)
            sums = given_in[:, y, at] @ weights["into_weight"][side] + near @ weights["across_weight"][side]
            sums = sums + weights["bias"][side] + side * shown[:, y, at] @ weights["own_weight"]
            h[side, :, y + 1, at + 1], m[side, :, y + 1, at + 1] = cell(sums, m[side, :, y + 1, beside])
    inside = h[:, :, 1:-1, 1:-1]
    told = np.concatenate([inside[0], h[1, :, :-2, 1:-1]], -1)  # from the right: the row above
    with torch.no_grad():
        torch.testing.assert_close(rows(x), x + rows.out(torch.from_numpy(inside[2])))
        torch.testing.assert_close(diagonals(x, pixels), x + diagonals.out(torch.from_numpy(told)))


# ------------------------------------------------------------------------------------------ who sees whom


def causal_net(architecture, shape, layers, reach=1):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return RecurrentNet(1, shape, 4, layers, diagonal=architecture == "diagonal", reach=reach).double()


@architectures
@pytest.mark.parametrize("layers", [1, 3])
def test_no_pixel_sees_itself_or_a_later_one(architecture, layers):
    height, width = shape = (5, 6)
    causal = causal_net(architecture, shape, layers)
    for y, x in itertools.product(range(height), range(width)):
        later = influence(causal, shape, (y, x)).flatten()[y * width + x :]
        assert later.max() == 0


@pytest.mark.parametrize("shape", [(6, 7), (3, 9), (5, 1), (1, 6)])
def test_one_layer_of_diagonals_sees_all_that_is_before(shape):
    height, width = shape
    causal = causal_net("diagonal", shape, layers=1)
    for y, x in itertools.product(range(height), range(width)):
        assert (influence(causal, shape, (y, x)).flatten()[: y * width + x] > 0).all()


def test_a_layer_of_rows_sees_its_triangle():
    """Of the row k above, k + 2 pixels to the left and k to the right; of its own row, two to the left."""
    height, width = shape = (5, 12)
    causal = causal_net("row", shape, layers=1)
    for y, x in itertools.product(range(height), range(width)):
        wanted = torch.zeros(shape, dtype=torch.bool)
        wanted[y, max(0, x - 2) : x] = True
        for k in range(1, y + 1):
            wanted[y - k, max(0, x - k - 2) : x + k + 1] = True
        assert torch.equal(influence(causal, shape, (y, x)) > 0, wanted)


@architectures
@pytest.mark.parametrize("shape", [(3, 2, 3), (1, 3, 3), (2, 3, 2)])
def test_each_value_depends_on_those_before_it_in_order(architecture, shape):
    module = net(REAL, shape, architecture)
    seen = assert_in_order(module)
    for d in range(module.dims):  # nothing of what is before is out of sight
        near = 0 if architecture == "diagonal" else d - d % shape[0]
        assert (seen[d, near:d] > 0).all()


def test_masked_weights_count_as_none():
    """As many count as a gradient reaches, in some net of several: in each, some units are switched off."""
    z = (torch.rand(100, 2, 8, 8, generator=torch.Generator().manual_seed(0)) < 0.5).double()
    modules = [net(BIT, (2, 8, 8), layers=1, seed=seed) for seed in range(4)]
    for module in modules:
        module.log_prob(z).sum().backward()
    gradients = zip(*([p.grad != 0 for p in module.parameters()] for module in modules), strict=True)
    reached = sum(int(torch.stack(several).any(0).sum()) for several in gradients)
    assert module.n_parameters == reached < sum(p.numel() for p in module.parameters())


# ----------------------------------------------------------------------------------------------------------- draws


@settings(deadline=None, max_examples=30)
@drawn_from(
    architecture=st.sampled_from(ARCHITECTURES),
    column=st.sampled_from((BIT, THREE, BYTE, REAL)),
    shape=st.tuples(st.integers(1, 3), st.integers(1, 4), st.integers(1, 4)),
    n_context=st.integers(0, 2),
    layers=st.integers(1, 3),
    seed=st.integers(0, 100),
)
def test_the_fast_sampler_is_the_slow_one(architecture, column, shape, n_context, layers, seed):
    module = net(column, shape, architecture, n_context, channels=3, layers=layers, seed=seed)
    c = normal(5, n_context, seed=seed) if n_context else None
    assert_fast_is_slow(module, c, seed=seed)


@architectures
@pytest.mark.parametrize("column", [BIT, BYTE])
def test_elsewhere_than_on_the_cpu_the_same_is_drawn(architecture, column, monkeypatch):
    """Torch's arithmetic in the place of numpy's, as on a GPU."""
    module = net(column, (2, 3, 4), architecture, n_context=1)
    c = torch.ones(5, 1).double()
    z = assert_fast_is_slow(module, c)
    for where in (causal_steps, _pixels):
        monkeypatch.setattr(where, "arithmetic", lambda device: causal_steps._ELSEWHERE)
    with torch.no_grad():
        assert torch.equal(assert_fast_is_slow(module, c), z)


@architectures
def test_single_precision_draws_the_same_bits(architecture):
    module = net(BIT, (1, 10, 9), architecture, spread=0.2).float()
    u = uniforms(module, 300)  # more than are drawn side by side
    with torch.no_grad():
        z = module.from_uniforms(u)
        assert torch.equal(z, module.heads.sample(module.conditionals(z), u))
    assert 0.2 < z.mean() < 0.8


# -------------------------------------------------------------------------------------------------------- learning

FAST = {"channels": 8, "layers": 1, "learning_rate": 0.02, "batch_size": 64, "random_state": 0}


@architectures
def test_it_learns_stripes_to_their_entropy(architecture):
    model = pl.PixelRNN(architecture=architecture, epochs=8, **FAST).fit(stripes(3000))
    assert gap_to_stripes(model.log_prob) < 0.02


def test_the_lower_half_given_the_upper():
    model = pl.PixelRNN(epochs=6, **FAST).fit(stripes(1500, 0.3))
    upper = np.array([[1, 0], [0, 0], [0, 0]], dtype=np.uint8)
    below = np.zeros((3, 2), dtype=bool)
    below[1:] = True
    drawn = given.sample(model, np.tile(upper, (4000, 1, 1)), mask=below, random_state=0)
    assert (drawn[:, 0] == [1, 0]).all()
    states = np.array([[[1, 0], s[:2], s[2:]] for s in itertools.product([0, 1], repeat=4)], dtype=np.uint8)
    p = np.exp(model.log_prob(states))
    counts = np.array([(drawn == s).all((1, 2)).sum() for s in states])
    assert stats.chisquare(counts, 4000 * p / p.sum()).pvalue > 1e-3
    with pytest.raises(DataError, match="in order"):
        given.sample(model, states, mask=~below)


@architectures
def test_class_conditional(architecture):
    rng = np.random.default_rng(0)
    label = rng.integers(0, 2, 2000)
    images = (rng.random((2000, 3, 2)) < np.where(label, 0.8, 0.2)[:, None, None]).astype(np.uint8)
    names = np.array(["dark", "light"])[label]
    model = pl.PixelRNN(architecture=architecture, epochs=12, **FAST).fit(images, context=names)
    for name, share in (("dark", 0.2), ("light", 0.8)):
        assert model.sample(1000, context=[name], random_state=0).mean() == pytest.approx(share, abs=0.03)
    right = model.log_prob(images, context=names).mean()
    assert right == pytest.approx(6 * (0.2 * math.log(0.2) + 0.8 * math.log(0.8)), abs=0.15)


@architectures
def test_training_in_half_precision_loses_nothing(architecture):
    images = stripes(1000)
    found = [
        pl.PixelRNN(architecture=architecture, epochs=6, precision=p, **FAST).fit(images).score(images)
        for p in ("float32", "bfloat16")
    ]
    assert found[0] == pytest.approx(found[1], abs=0.03)
