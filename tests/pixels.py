"""What the tests of models that go pixel by pixel share: columns, nets of random weights, and what all must hold."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import numpy as np
import torch

from plausible.space import Column, Space

BIT = Column("bit", "binary", (0, 1))
THREE = Column("three", "ordinal", (0, 1, 2))
BYTE = Column("pixel", "ordinal", tuple(range(33)))  # more levels than 32: a mixture of discretised logistics
REAL = Column("real", "real")


def shaken(make: Callable[[Space], torch.nn.Module], column: Column, shape, spread: float, seed: int):
    """A net of random weights, so strong that every connection shows."""
    space = Space((column,) * math.prod(shape), shape)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)  # torch's layers draw their first weights from the global generator
        module = make(space).double().eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in module.parameters():
            p.add_(spread * torch.randn(p.shape, generator=generator, dtype=p.dtype))
    return module


def every(levels: int, dims: int) -> torch.Tensor:
    return torch.tensor(list(itertools.product(range(levels), repeat=dims)), dtype=torch.float64)


def uniforms(module, n: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(n, module.dims, 2, generator=generator, dtype=module.dtype)


def influence(causal, shape, at) -> torch.Tensor:
    """The size of the gradient of the output at a pixel with respect to each pixel of the input, over some images."""
    x = torch.randn(30, *shape, 1, generator=torch.Generator().manual_seed(0), dtype=torch.float64, requires_grad=True)
    causal(x)[:, at[0], at[1]].sum().backward()
    return x.grad[..., 0].abs().sum(0)


def assert_in_order(module) -> torch.Tensor:
    """Real pixels let gradients through: the Jacobian in the order R, G, B, pixel by pixel, is strictly triangular.

    Returns it, (D, D) by that order.
    """
    z = torch.randn(8, module.dims, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    jacobian = torch.autograd.functional.jacobian(lambda v: module.conditionals(v).sum(0), z)  # (P, n, D)
    jacobian = jacobian.abs().amax(1).view(module.dims, module.size, module.dims)
    seen = jacobian.amax(1)[module.order][:, module.order]
    assert seen.triu().max() == 0
    return seen


def assert_fast_is_slow(module, c=None, n=5, seed=0) -> torch.Tensor:
    """Steps give the conditionals of the full pass, and draw what full passes would; returns what was drawn."""
    u = uniforms(module, n, seed)
    with torch.no_grad():
        z = module.from_uniforms(u, c)
        torch.testing.assert_close(z, module.heads.sample(module.conditionals(z, c), u), atol=1e-9, rtol=1e-9)
        full, state, value = module.conditionals(z, c), module.start(n, c), None
        assert sorted(state.order) == list(range(module.dims))
        for d in state.order:
            params = module.step(state, value)
            torch.testing.assert_close(params, full[:, module.heads.single(d)[1]], atol=1e-9, rtol=1e-9)
            value = z[:, d]
        again, passes = module.fixed_point(u, c)
    torch.testing.assert_close(again, z, atol=1e-9, rtol=1e-9)
    assert passes <= module.dims + 1
    return z


def stripes(n: int, flip: float = 0.1, seed: int = 0) -> np.ndarray:
    """Images of 3x2 bits whose rows repeat the first one, but for some flips."""
    rng = np.random.default_rng(seed)
    rows = rng.integers(0, 2, (n, 1, 2)).repeat(3, 1)
    rows[:, 1:] ^= rng.random((n, 2, 2)) < flip
    return rows.astype(np.uint8)


def gap_to_stripes(log_prob: Callable) -> float:
    """KL(truth || model) of `stripes`, in nats.

    A row is the first one with flips, so each of the later rows is known up to the flips of both.
    """
    images = np.array(list(itertools.product([0, 1], repeat=6))).reshape(-1, 3, 2)
    rare = (images[:, 1:] != images[:, :1]).sum((1, 2))
    p = 0.25 * 0.1**rare * 0.9 ** (4 - rare)
    found = np.exp(log_prob(images.astype(np.uint8)))
    assert abs(found.sum() - 1) < 1e-9
    return float((p * np.log(p / found)).sum())
