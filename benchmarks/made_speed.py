"""MADE with two hidden layers of 500 on 50,000 binary images of 784 pixels: training and drawing, against plain ways.

    python benchmarks/made_speed.py [--epochs 5] [--rounds 5] [--only training|drawing]

The plain loop is the one of most repositories: a `DataLoader` over a `TensorDataset` of floats, the same masked network
with the same initial weights, `Adam()` as it comes, float32, `loss.item()`. Ours is the estimator with the settings
named. Speed: examples a second of whole fits of one epoch, in rotation. Likelihood: nats of 10,000 held-out images
after the same time for each, that of `--epochs` epochs of the plain loop. Bar: 2 times the examples a second at equal
or better likelihood.

Drawing: 64 images from the same uniforms, against a full pass for each pixel. Bar: 60 times faster, no pixel differs.

The images are the binarised MNIST in ../shared/data, or, without that folder, draws from a mixture of as many pixels.
"""

from __future__ import annotations

import argparse
import time
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import plain
import torch
from plain import images, naive, seconds
from side_by_side import Others, machine, ratios, rotate, spread, table
from torch import nn
from torch.nn import functional as F

import plausible as pl

HIDDEN = (500, 500)
OURS = {
    "ours, batch 64, float32": {"batch_size": 64, "precision": "float32"},
    "ours, batch 64": {"batch_size": 64},
    "ours, batch 128 (default)": {},
    "ours, batch 256, rate 0.002": {"batch_size": 256, "learning_rate": 2e-3},
}


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


def training(given: argparse.Namespace) -> None:
    """Print a row a way of training."""
    train, test, what = images(given.examples)
    pixels = torch.from_numpy(train.reshape(len(train), -1)).float()
    start = pl.MADE(hidden=HIDDEN, epochs=1, validation_fraction=0.0, random_state=0).fit(train[:64]).module_

    def plainly(epochs: int) -> Any:
        return plain.train(PlainMADE(start), pixels, epochs, 64)

    by_plain = "plain, batch 64"
    fits = {by_plain: lambda: plainly(1)}
    fits |= {name: lambda s=settings: ours(train, 1, **s) for name, settings in OURS.items()}
    with Others() as others:
        speed = rotate({name: lambda f=fit: len(train) / seconds(f) for name, fit in fits.items()}, given.rounds)
        started = time.perf_counter()
        nats = {by_plain: score_plain(plainly(given.epochs), test)}
        allowed = time.perf_counter() - started
        nats |= {name: ours(train, 1000, budget=allowed, **s).score(test) for name, s in OURS.items()}
    rows = []
    for name in fits:
        faster = "1" if name == by_plain else spread(ratios(speed, name, by_plain))
        rows.append([name, spread(speed[name], ".0f"), faster, f"{nats[name]:.2f}"])
    print(f"{machine()}; {what}, {len(train):,} examples; others used {others}; bar: 2 times faster", end="\n\n")
    print(table(["", "examples a second", "times faster", f"held-out nats after {allowed:.0f} s"], rows), end="\n\n")


def drawing(given: argparse.Namespace) -> None:
    """Print how fast 64 images are drawn."""
    module = ours(images(5120)[0], 2).module_
    u = torch.rand(64, module.dims, 2, generator=torch.Generator().manual_seed(0))
    drawn: dict[str, torch.Tensor] = {}

    def draw(name: str, how: Callable[[torch.Tensor], torch.Tensor]) -> float:
        return seconds(lambda: drawn.update({name: how(u)}))

    with Others() as others, torch.no_grad():
        ways = {"fast": module.from_uniforms, "naive": lambda u: naive(module, u)}
        took = rotate({name: lambda n=name, h=how: draw(n, h) for name, how in ways.items()}, given.rounds)
    fast, slow = (spread([1e3 * t for t in took[name]], ".1f") for name in ways)
    faster, differ = spread(ratios(took, "naive", "fast"), ".0f"), int((drawn["fast"] != drawn["naive"]).sum())
    print(f"{machine()}; others used {others}", end="\n\n")
    header = ["64 images, ms", "a pass for each pixel, ms", "times faster (bar: 60)", "pixels that differ"]
    print(table(header, [[fast, slow, faster, differ]]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--examples", type=int, default=50_000)
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", choices=("training", "drawing"))
    given = parser.parse_args()
    if given.only != "drawing":
        training(given)
    if given.only != "training":
        drawing(given)


if __name__ == "__main__":
    main()
