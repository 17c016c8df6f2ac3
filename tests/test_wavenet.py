"""Dilated causal convolutions: mass one, sight that ends where it should, queues that forget nothing."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from plausible.families.autoregressive._direct import Direct
from plausible.families.autoregressive.wavenet import _WaveNet
from plausible.heads import N_UNIFORMS
from plausible.space import Column, Space

BIT, REAL = Column("bit", "binary", (0, 1)), Column("real", "real")
THREE = Column("three", "categorical", (0, 1, 2))

EVENTS = {
    "text": ("text", (9,), (THREE,) * 9),
    "audio": ("audio", (9,), (Column("sample", "count", low=-2.0, high=2.0, step=0.5, coarse=1.0),) * 9),
    "one real": ("series", (9, 1), (REAL,) * 9),
    "reals of a series": ("series", (5, 2), (REAL,) * 10),
    "colour image": ("image", (2, 2, 2), (BIT,) * 8),
}
events = pytest.mark.parametrize("event", EVENTS)
NETS = [{}, {"stacks": 2}, {"n_context": 2, "layers": 3}, {"direct": 3}]
nets = pytest.mark.parametrize("options", NETS, ids=str)


def net(event="text", layers=2, stacks=1, n_context=0, length=None, direct=0) -> _WaveNet:
    """A net of random weights, so strong that every connection shows."""
    kind, shape, columns = EVENTS[event]
    if length is not None:
        shape, columns = (length,), columns[:1] * length
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        module = _WaveNet(Space(columns, shape), kind, n_context, 6, 8, layers, stacks, 5, 2, 0.0, direct=direct)
    module = module.double().eval()
    rng = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for p in module.parameters():
            p.add_(0.4 * torch.randn(p.shape, generator=rng, dtype=p.dtype))
        for name, b in [] if module.steps.direct is None else module.steps.direct.named_buffers():
            b.add_(0.3 * torch.randn(b.shape, generator=rng, dtype=b.dtype))
            b.copy_(b if name in ("weights", "constant", "level") else b.abs())
    return module


def features(n: int, options: dict):
    width = options.get("n_context", 0)
    return torch.randn(n, width, generator=torch.Generator().manual_seed(1), dtype=torch.float64) if width else None


@nets
@pytest.mark.parametrize("event", ["text", "audio", "colour image"])
def test_the_probabilities_of_all_examples_sum_to_one(event, options):
    module = net(event, **options, length=None if event == "colour image" else 5)
    column = EVENTS[event][2][0]
    values = range(column.n_levels) if column.levels else np.arange(-2, 2.1, 0.5)  # low to high, ends included
    z = torch.tensor(list(itertools.product(values, repeat=module.dims))).double()
    c = features(1, options)
    with torch.no_grad():
        log_p = module.log_prob(z, None if c is None else c.expand(len(z), -1))
    assert log_p.exp().sum().item() == pytest.approx(1, abs=1e-9)


@pytest.mark.parametrize(("layers", "stacks", "field"), [(1, 1, 2), (2, 1, 4), (3, 1, 8), (2, 2, 7)])
def test_a_step_sees_as_far_as_the_dilations_reach(layers, stacks, field):
    module = net(layers=layers, stacks=stacks, length=14)
    assert module.receptive_field == field
    rng = torch.Generator().manual_seed(0)
    z = torch.randint(3, (200, 14), generator=rng).double()
    with torch.no_grad():
        params = module.conditionals(z).unflatten(1, (14, 3))
        for d in range(14):
            other = z.clone()
            other[:, d] = (z[:, d] + 1) % 3
            changed = (module.conditionals(other).unflatten(1, (14, 3)) - params).abs().amax((0, 2)) > 1e-12
            assert changed.nonzero()[:, 0].tolist() == list(range(d + 1, min(d + 1 + field, 14)))


def arch(n: int, steps: int) -> torch.Tensor:
    """A series (n, T) with m_t = 0.2 + 1.2 x_{t-1} - 0.5 x_{t-2} and s_t = 0.1 + 0.4 |e_{t-1}| + 0.3 |e_{t-3}|."""
    noise = torch.randn(n, steps + 100, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    x, e = torch.zeros_like(noise), torch.zeros_like(noise)
    for t in range(3, noise.shape[1]):
        e[:, t] = (0.1 + 0.4 * e[:, t - 1].abs() + 0.3 * e[:, t - 3].abs()) * noise[:, t] * (math.pi / 2) ** 0.5
        x[:, t] = 0.2 + 1.2 * x[:, t - 1] - 0.5 * x[:, t - 2] + e[:, t]
    return x[:, 100:]


def test_direct_connections_find_the_series_that_was_drawn():
    """The noise has mean size 1, so that s is what its factor is."""
    direct = Direct(4, 1e-3).double()
    direct.look(arch(100, 3000))
    assert torch.allclose(direct.weights, torch.tensor([0, 0, -0.5, 1.2]).double(), atol=0.01)
    assert direct.constant.item() == pytest.approx(0.2, abs=0.005)
    assert torch.allclose(direct.of_errors, torch.tensor([0, 0.3, 0, 0.4]).double(), atol=0.02)
    assert direct.least.item() == pytest.approx(0.1, abs=0.005)


def test_a_net_that_starts_from_direct_connections_is_near_the_truth_untrained():
    """The truth: normal noise about m_t."""
    x = arch(60, 400)
    mean, scale = torch.zeros_like(x), torch.ones_like(x)
    mean[:, 2:] = 0.2 + 1.2 * x[:, 1:-1] - 0.5 * x[:, :-2]
    error = (x - mean).abs()
    scale[:, 3:] = 0.1 + 0.4 * error[:, 2:-1] + 0.3 * error[:, :-3]
    truth = torch.distributions.Normal(mean, scale * (math.pi / 2) ** 0.5).log_prob(x)[:, 5:].mean().item()
    found = {}
    for lags in (0, 8):
        module = _WaveNet(Space((REAL,) * 400, (400, 1)), "series", 0, 8, 8, 2, 1, 0, 10, 0.0, direct=lags).double()
        module.look(x)
        with torch.no_grad():
            found[lags] = module.log_prob_each(x)[:, 5:].mean().item()
    assert found[0] < truth - 0.3 and truth - 0.1 < found[8] < truth


def test_gradients_reach_earlier_values_only():
    module = net("reals of a series", layers=3)
    z = torch.randn(3, 10, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    jacobian = torch.autograd.functional.jacobian(lambda v: module.log_prob_each(v).sum(0), z).abs().sum(1)
    assert jacobian.triu(1).eq(0).all() and jacobian.tril().ne(0).sum() == 55


def test_the_products_are_convolutions_of_a_library():
    module = net(layers=2, stacks=1)
    z = torch.randint(3, (4, 9), generator=torch.Generator().manual_seed(0)).double()
    with torch.no_grad():
        h, skip = module.steps.before(z).transpose(1, 2), 0.0
        for i, d in enumerate(module.dilations):
            now, later = module.gates[i].weight.chunk(2)
            kernel = torch.stack([later, now], 2)  # the earlier step first
            sums = F.conv1d(F.pad(h, (d, 0)), kernel, module.biases[i], dilation=d)
            u, v = sums.chunk(2, 1)
            out = F.conv1d(u.tanh() * v.sigmoid(), module.ways[i].weight[:, :, None], module.ways[i].bias)
            skip = skip + out[:, -8:]
            h = h + out[:, :-8] if i == 0 else h
        wanted = module.last(skip.relu().transpose(1, 2)).relu() @ module.steps.V.T + module.steps.b
        assert torch.allclose(module.conditionals(z), wanted.flatten(1), atol=1e-12)


@nets
@events
def test_steps_give_the_conditionals_of_the_full_pass(event, options):
    module = net(event, **options)
    c = features(6, options)
    with torch.no_grad():
        z = module.sample(6, c, rng=torch.Generator().manual_seed(2))
        params, state, value = module.conditionals(z, c), module.start(6, c), None
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


def test_drawing_does_the_work_of_one_column_for_each_step(monkeypatch):
    """Each layer is asked for one row an example and step, whatever has been drawn before."""
    module = net(layers=3, stacks=2, length=30)
    rows = []
    addmm = torch.addmm
    monkeypatch.setattr(torch, "addmm", lambda b, x, w: rows.append(len(x)) or addmm(b, x, w))
    with torch.no_grad():
        module.sample(2, rng=torch.Generator().manual_seed(0))
    assert rows == [2] * (6 * 30)


def test_what_is_foreseen_does_not_know_of_half_precision():
    x = 0.37 * torch.arange(40.0).sin()[None]
    direct = Direct(4, 1e-3)
    direct.look(x)
    exact = direct.foresee(x)
    with torch.autocast("cpu", torch.bfloat16):
        again = direct.foresee(x)
    assert all(torch.equal(a, b) for a, b in zip(exact, again, strict=True))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        module = _WaveNet(Space((REAL,) * 40, (40, 1)), "series", 0, 8, 8, 2, 1, 0, 3, 0.0, direct=4)
    module.look(x)
    with torch.no_grad():
        exact = module.log_prob(x)
        with torch.autocast("cpu", torch.bfloat16):
            again = module.log_prob(x)
    assert again.item() == pytest.approx(exact.item(), abs=0.05 * 40)  # nats of 40 steps; 60 where they are not exact


def test_direct_connections_count_examples_by_their_weight():
    x, noise = arch(60, 300), torch.randn(60, 300, generator=torch.Generator().manual_seed(0)).double()
    alone, weighted, twice = (Direct(4, 1e-3).double() for _ in range(3))
    alone.look(x)
    weighted.look(torch.cat([x, noise]), torch.cat([torch.ones(60), torch.zeros(60)]))
    assert torch.allclose(alone.weights, weighted.weights, atol=1e-12)
    assert torch.allclose(alone.of_errors, weighted.of_errors, atol=1e-12)
    half = torch.cat([torch.full((60,), 2.0), torch.ones(60)])
    weighted.look(torch.cat([x, noise]), half)
    twice.look(torch.cat([x, x, noise]))
    assert torch.allclose(twice.weights, weighted.weights, atol=1e-10)
    assert torch.allclose(twice.usual, weighted.usual, atol=1e-10)
