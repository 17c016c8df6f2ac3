"""NADE (500 hidden units) and FVSBN on binary images of 784 pixels: training and sampling, ours against a plain loop.

    python benchmarks/nade_speed.py [--examples 5120] [--batch 512] [--rounds 3]

The plain loop is the one of most repositories: a `DataLoader` over a `TensorDataset` of floats, a Python loop over the
dimensions with a layer for each, `Adam()` as it comes, float32, `loss.item()`. Ours is the estimator at the same batch
size and learning rate, from the same initial weights; the levers are named in the table. Speed: examples a second of
whole fits, in rotation. Likelihood: nats of 2,000 held-out images after `--epochs` epochs of both.
Sampling: 64 images, against one forward pass of 64 images by the plain net and by ours, and against the naive sampler
(a full pass of our net per pixel); the images are compared pixel by pixel.
Bars: training at least 12 times the plain loop, for both; sampling at most half a forward pass of the plain net.

The images are the binarised MNIST in ../shared/data, or, without that folder, draws from a mixture of as many pixels.
"""

from __future__ import annotations

import argparse
import warnings
from typing import Any

import numpy as np
import plain
import torch
from plain import images, naive, seconds
from side_by_side import Others, machine, ratios, rotate, spread, table
from torch import nn
from torch.nn import functional as F

import plausible as pl
from plausible.heads import N_UNIFORMS
from plausible.nn.compiled import available

HIDDEN, RATE, HELD_OUT, DRAWN = 500, 1e-3, 2000, 64


class PlainNADE(nn.Module):
    """A loop over the dimensions; weights are those of ours at the start."""

    def __init__(self, like: nn.Module):
        super().__init__()
        for name in ("W", "V", "b", "c"):
            setattr(self, name, nn.Parameter(getattr(like, name).detach()[0].clone()))

    def nll(self, x: torch.Tensor) -> torch.Tensor:
        a, logits = self.c.expand(len(x), -1), []
        for d in range(x.shape[1]):
            logits.append(a.sigmoid() @ self.V[d])
            a = a + x[:, d : d + 1] * self.W[d]
        return F.binary_cross_entropy_with_logits(torch.stack(logits, 1) + self.b, x, reduction="none").sum(1)


class PlainFVSBN(nn.Module):
    """A logistic regression for each dimension."""

    def __init__(self, like: nn.Module):
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(d, 1) for d in range(like.dims))
        for layer, bias in zip(self.layers, like.bias.detach()[0], strict=True):
            nn.init.zeros_(layer.weight)
            nn.init.constant_(layer.bias, bias)

    def nll(self, x: torch.Tensor) -> torch.Tensor:
        f = 2 * x - 1
        logits = torch.cat([layer(f[:, :d]) for d, layer in enumerate(self.layers)], 1)
        return F.binary_cross_entropy_with_logits(logits, x, reduction="none").sum(1)


def ours(name: str, x: np.ndarray, epochs: int, batch: int, **more: Any) -> Any:
    """Train and return it."""
    fixed = {"learning_rate": RATE, "schedule": "constant", "validation_fraction": 0.0, "random_state": 0}
    fixed |= {"hidden": HIDDEN} if name == "NADE" else {"penalty": 0.0}
    return getattr(pl, name)(epochs=epochs, batch_size=batch, **(fixed | more)).fit(x)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--examples", type=int, default=5120)
    parser.add_argument("--epochs", type=int, default=2, help="for the likelihoods")
    parser.add_argument("--batch", type=int, default=512)
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    warnings.filterwarnings("ignore", "Initializing zero-element")  # the first dimension's layer has no inputs
    train, test, what = images(given.examples)
    test = np.random.default_rng(0).permutation(test)[:HELD_OUT]
    pixels, x = (torch.from_numpy(part.reshape(len(part), -1)).float() for part in (train, test))
    levers = "one loop compiled by numba" if available() else "blocks of dimensions (no numba)"
    variants: dict[str, dict[str, dict[str, Any]]] = {
        "NADE": {f"ours: {levers}, fused Adam": {}},
        "FVSBN": {
            "ours: one masked product, fused Adam": {"precision": "float32"},
            "the same, bfloat16": {"precision": "bfloat16"},
        },
    }
    rows, drawn = [], []
    with Others() as others, torch.no_grad():
        for name, of_ours in variants.items():
            with torch.enable_grad():  # at a rate of next to nothing: the weights that both start from
                start = ours(name, train, 1, given.batch, learning_rate=1e-30).module_
            cls = {"NADE": PlainNADE, "FVSBN": PlainFVSBN}[name]

            def fit_plain(epochs: int, cls=cls, start=start) -> nn.Module:
                with torch.enable_grad():
                    return plain.train(cls(start), pixels, epochs, given.batch, RATE)

            def fit_ours(epochs: int, more: dict[str, Any], name=name) -> Any:
                with torch.enable_grad():
                    return ours(name, train, epochs, given.batch, **more)

            fits = {"plain": lambda f=fit_plain: f(1)}
            fits |= {label: lambda more=more, f=fit_ours: f(1, more) for label, more in of_ours.items()}
            speed = rotate({k: lambda f=f: len(train) / seconds(f) for k, f in fits.items()}, given.rounds)
            nats = {"plain": fit_plain(given.epochs).nll(x).mean().item()}
            models = {label: fit_ours(given.epochs, more) for label, more in of_ours.items()}
            nats |= {label: -model.score(test) for label, model in models.items()}
            for label in fits:
                faster = "1" if label == "plain" else spread(ratios(speed, label, "plain"), ".1f")
                rows.append([name, label, spread(speed[label], ".0f"), faster, f"{nats[label]:.2f}"])

            module, by_plain = next(iter(models.values())).module_, cls(start)
            u = torch.rand(DRAWN, x.shape[1], N_UNIFORMS, generator=torch.Generator().manual_seed(0))
            some = x[:DRAWN]
            took = rotate(
                {
                    "fast": lambda m=module, u=u: seconds(lambda: m.from_uniforms(u)),
                    "pass": lambda m=module, z=some: seconds(lambda: m.conditionals(z)),
                    "plain pass": lambda m=by_plain, z=some: seconds(lambda: m.nll(z)),
                },
                max(given.rounds, 5),
            )
            slowly = seconds(lambda m=module, u=u: naive(m, u))
            differ = int((naive(module, u) != module.from_uniforms(u)).sum())
            drawn.append(
                [
                    name,
                    spread([1e3 * t for t in took["fast"]], ".1f"),
                    spread(ratios(took, "fast", "plain pass"), ".3f"),
                    spread(ratios(took, "fast", "pass"), ".2f"),
                    f"{slowly / np.median(took['fast']):.0f}",
                    f"{differ} of {u[..., 0].numel():,}",
                ]
            )
    print(f"{machine()}; {what}, {len(train):,} examples, batches of {given.batch}; others used {others}", end="\n\n")
    nats_after = f"held-out nats after {given.epochs} epochs"
    print(table(["net", "training", "examples a second", "times faster (bar: 12)", nats_after], rows), end="\n\n")
    header = [
        "net",
        "64 images, ms",
        "by a plain pass (bar: 0.5)",
        "by our pass",
        "times faster than naive",
        "pixels off",
    ]
    print(table(header, drawn))


if __name__ == "__main__":
    main()
