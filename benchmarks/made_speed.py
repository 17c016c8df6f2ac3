"""MADE with two hidden layers of 500 on 50,000 binary images of 784 pixels: ours against a plain loop.

    python benchmarks/made_speed.py [--epochs 5] [--rounds 5]

The plain loop is the one of most repositories: a `DataLoader` over a `TensorDataset` of floats, the same masked network
with the same initial weights, `Adam()` as it comes, float32, `loss.item()`. Ours is the estimator with the settings
named. Speed: examples a second of whole fits of one epoch, in rotation. Likelihood: nats of 10,000 held-out images
after the same time for each, that of `--epochs` epochs of the plain loop. Bar: 2 times the examples a second at equal
or better likelihood.

The images are the binarised MNIST in ../shared/data, or, without that folder, draws from a mixture of as many pixels.
"""

from __future__ import annotations

import argparse
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from side_by_side import Others, machine, ratios, rotate, spread, table
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

import plausible as pl

FOLDER = Path(__file__).resolve().parents[2] / "shared" / "data" / "binarized_mnist"
HIDDEN = (500, 500)
OURS = {
    "ours, batch 64, float32": {"batch_size": 64, "precision": "float32"},
    "ours, batch 64": {"batch_size": 64},
    "ours, batch 128 (default)": {},
    "ours, batch 256, rate 0.002": {"batch_size": 256, "learning_rate": 2e-3},
}


def images(n: int) -> tuple[np.ndarray, np.ndarray, str]:
    """Return n training and 10,000 held-out images (n, 28, 28) of bytes 0 and 1, and what they are."""
    if FOLDER.exists():
        parts = [np.load(FOLDER / f"{name}.npz", allow_pickle=False)["images"] for name in ("train", "test")]
        return parts[0][:n], parts[1], "binarised MNIST"
    rng = np.random.default_rng(0)
    chances = rng.beta(0.2, 0.8, (20, 28, 28))
    x = (rng.random((n + 10_000, 28, 28)) < chances[rng.integers(20, size=n + 10_000)]).astype(np.uint8)
    return x[:n], x[n:], "draws from a mixture"


class PlainMADE(nn.Module):
    """The textbook's network in the order of the pixels, with direct connections."""

    def __init__(self, like: nn.Module):
        super().__init__()
        nets = [*like.layers, like.direct]
        self.weights = nn.ParameterList(net.weight.detach().clone() for net in nets)
        self.biases = nn.ParameterList(net.bias.detach().clone() for net in like.layers)
        masks = [getattr(like, f"mask_{i}").clone() for i in range(len(nets))]
        for i, mask in enumerate(masks):
            self.register_buffer(f"mask_{i}", mask)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = h = 2 * x - 1
        masked = [w * getattr(self, f"mask_{i}") for i, w in enumerate(self.weights)]
        for i, bias in enumerate(self.biases):
            h = F.linear(h if i == 0 else h.relu(), masked[i], bias)
        return h + F.linear(x, masked[-1])

    def nll(self, x: torch.Tensor) -> torch.Tensor:
        return F.binary_cross_entropy_with_logits(self(x), x, reduction="none").sum(1)


def plain(start: nn.Module, x: np.ndarray, epochs: int, batch: int = 64) -> PlainMADE:
    """Train and return it."""
    model = PlainMADE(start)
    data = TensorDataset(torch.from_numpy(x.reshape(len(x), -1)).float())
    loader = DataLoader(data, batch_size=batch, shuffle=True, generator=torch.Generator().manual_seed(0))
    optimiser = torch.optim.Adam(model.parameters())
    total = 0.0
    for _ in range(epochs):
        for (batch_x,) in loader:
            optimiser.zero_grad()
            loss = model.nll(batch_x).mean()
            loss.backward()
            optimiser.step()
            total += loss.item()
    return model


def score_plain(model: PlainMADE, x: np.ndarray) -> float:
    """Return mean nats."""
    with torch.no_grad():
        return -model.nll(torch.from_numpy(x.reshape(len(x), -1)).float()).mean().item()


def ours(x: np.ndarray, epochs: int, **settings: Any) -> Any:
    """Train and return it; all of x is trained on, as by the plain loop."""
    fixed = {"hidden": HIDDEN, "validation_fraction": 0.0, "random_state": 0}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", pl.errors.BudgetWarning)
        return pl.MADE(epochs=epochs, **fixed, **settings).fit(x)


def timed(fit: Callable[[], Any], n: int) -> float:
    """Examples a second."""
    started = time.perf_counter()
    fit()
    return n / (time.perf_counter() - started)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--examples", type=int, default=50_000)
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--rounds", type=int, default=5)
    given = parser.parse_args()
    train, test, what = images(given.examples)
    start = pl.MADE(hidden=HIDDEN, epochs=1, validation_fraction=0.0, random_state=0).fit(train[:64]).module_
    by_plain = "plain, batch 64"
    fits = {by_plain: lambda: plain(start, train, 1)}
    fits |= {name: lambda s=settings: ours(train, 1, **s) for name, settings in OURS.items()}
    with Others() as others:
        speed = rotate({name: lambda f=fit: timed(f, len(train)) for name, fit in fits.items()}, given.rounds)
        started = time.perf_counter()
        nats = {by_plain: score_plain(plain(start, train, given.epochs), test)}
        seconds = time.perf_counter() - started
        nats |= {name: ours(train, 1000, budget=seconds, **s).score(test) for name, s in OURS.items()}
    rows = []
    for name in fits:
        faster = "1" if name == by_plain else spread(ratios(speed, name, by_plain))
        rows.append([name, spread(speed[name], ".0f"), faster, f"{nats[name]:.2f}"])
    print(f"{machine()}; {what}, {len(train):,} examples; others used {others}; bar: 2 times faster", end="\n\n")
    print(table(["", "examples a second", "times faster", f"held-out nats after {seconds:.0f} s"], rows))


if __name__ == "__main__":
    main()
