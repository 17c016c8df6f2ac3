"""Our training loop against a loop written by hand: time per step of the same network, batch and optimiser.

    python benchmarks/engine.py

The loop by hand is what one writes at a first go and does well: tensors in memory, a random permutation per epoch,
fused Adam, no `.item()`. Ours does the same and, on top of it, keeps the clock, the history and the learning rate.
Bar: 1.10.
"""

from __future__ import annotations

import copy
import time

import numpy as np
import torch
from side_by_side import Others, machine, ratios, rotate, spread, table
from torch import nn

import plausible as pl
from plausible.base import Module
from plausible.randomness import generator
from plausible.training import Events, minimise, run


class NormalNet(Module):
    """p(x_8 | x_1 .. x_7) = N(f(x), exp(g(x))^2) with an MLP for f and g."""

    def __init__(self, dims: int = 8, width: int = 64):
        super().__init__()
        self.net = nn.Sequential(
            nn.Linear(dims - 1, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 2)
        )

    def log_prob(self, z, c=None, rng=None):
        mean, log_scale = self.net(z[:, :-1]).unbind(1)
        return -0.5 * ((z[:, -1] - mean) * (-log_scale).exp()).square() - log_scale


def by_hand(module: nn.Module, x: torch.Tensor, batch: int, epochs: int) -> float:
    """Train; return seconds a step."""
    module = copy.deepcopy(module).train()
    rng = torch.Generator().manual_seed(0)
    optimiser = torch.optim.Adam(module.parameters(), lr=1e-3, fused=True)
    started, steps = time.perf_counter(), 0
    for _ in range(epochs):
        order = torch.randperm(len(x), generator=rng)
        for start in range(0, len(x), batch):
            z = x[order[start : start + batch]].to(torch.float32)
            optimiser.zero_grad()
            loss = module.loss(z).mean()
            loss.backward()
            optimiser.step()
            steps += 1
    return (time.perf_counter() - started) / steps


def ours(module: nn.Module, x: torch.Tensor, batch: int, epochs: int) -> float:
    """Train; return seconds a step."""
    module = copy.deepcopy(module)
    rng = generator(0)
    started = time.perf_counter()
    run(minimise(module, schedule="cosine"), Events(x), epochs=epochs, batch_size=batch, rng=rng)
    return (time.perf_counter() - started) / (epochs * -(-len(x) // batch))


def main() -> None:
    rng = np.random.default_rng(0)
    bits = rng.integers(0, 2, (3200, 784)).astype(np.uint8)
    made = pl.MADE(hidden=(500,), epochs=1, random_state=0, precision="float32").fit(bits[:200]).module_
    reals = torch.from_numpy(rng.standard_normal((12_800, 8))).float()
    rows = []
    for name, module, x, batch, epochs in (
        ("MLP 7-64-64-2", NormalNet(), reals, 128, 10),
        ("MADE 784-500", made, torch.from_numpy(bits), 64, 2),
    ):
        variants = {
            "ours": lambda m=module, x=x, b=batch, e=epochs: ours(m, x, b, e),
            "by hand": lambda m=module, x=x, b=batch, e=epochs: by_hand(m, x, b, e),
        }
        with Others() as others:
            seconds = rotate(variants, rounds=9)
        cells = [spread([1e6 * s for s in seconds[v]], ".0f") for v in ("ours", "by hand")]
        rows.append([name, batch, *cells, spread(ratios(seconds, "ours", "by hand")), others])
    print(machine(), end="\n\n")
    print(table(["network", "batch", "ours, us/step", "by hand, us/step", "ratio (bar 1.10)", "others used"], rows))


if __name__ == "__main__":
    main()
