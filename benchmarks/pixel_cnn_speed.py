"""PixelCNN: drawing against a full pass per pixel, training against a plain loop.

    python benchmarks/pixel_cnn_speed.py [--rounds 5] [--examples 4096] [--dilations 1 2 4] [--only drawing|training]

Drawing: 64 binary images of 28x28 from nets that are trained a little. The naive sampler makes one full pass over the
batch for every pixel; its time is 784 times that of a pass of our own net. That is faster than a pass of the plain net
below, in which drawing is measured, too. Pixels that differ: with the same uniforms, of the 50,176, between what is
drawn and what full passes give. Bars: a 15-block 16-channel residual net at least 200 times faster and at most 5
passes, gated 4x32 300 times and 2 passes.

Training: examples a second of whole fits of an epoch of the 15-block 16-channel net on binarised MNIST (or, without
../shared/data, on noise), in rotation. The plain loop is that of most repositories: a `DataLoader`, masked `Conv2d`s of
whole kernels in torch's default layout, `Adam()` as it comes, float32, `loss.item()`; the same weights at first,
of which it is shown that they give the same loss. Likelihood: nats of 2,000 held-out images after the same number of
epochs. Bar: 1.8 times at equal batch and likelihood.
"""

from __future__ import annotations

import argparse
import time
import warnings
from typing import Any

import numpy as np
import plain
import torch
from plain import images, seconds
from side_by_side import Others, machine, ratios, rotate, spread, table
from torch import nn
from torch.nn import functional as F

import plausible as pl

BATCH = 64
NETS = {
    "residual, 15 blocks, 16 channels": ({"architecture": "residual", "channels": 16, "blocks": 15}, 200, 5),
    "gated, 4 layers, 32 channels": ({"architecture": "gated", "channels": 32, "blocks": 4}, 300, 2),
    "masked, 6 layers, 32 channels": ({"architecture": "masked", "channels": 32, "blocks": 6}, None, None),
    "residual, 12 blocks, 32 channels, 16 mixed": (
        {"architecture": "residual", "channels": 32, "blocks": 12, "mixing": 16},
        None,
        None,
    ),
}
TRAINED = NETS["residual, 15 blocks, 16 channels"][0]


def drawing(x: np.ndarray, rounds: int, dilations: tuple[int, ...]) -> list[list[str]]:
    """One row a net."""
    rows = []
    for name, (settings, least, most) in NETS.items():
        module = ours(x[:1024], 3, learning_rate=3e-3, dilations=dilations, **settings).module_
        u = torch.rand(BATCH, module.dims, 2, generator=torch.Generator().manual_seed(0))
        with torch.no_grad():
            z = module.from_uniforms(u)
            differ = int((z != module.heads.sample(module.conditionals(z), u)).sum())
            jacobi, passes = module.fixed_point(u)
            same = int((jacobi != z).sum())
            variants = {
                "fast": lambda m=module, u=u: seconds(lambda: m.from_uniforms(u)),
                "pass": lambda m=module, z=z: min(seconds(lambda: m.conditionals(z)) for _ in range(5)),
            }
            if settings is TRAINED:
                net, pixels = PlainPixelCNN(module), z.view(-1, 1, *module.shape[1:]).float()
                variants["plain"] = lambda m=net, x=pixels: min(seconds(lambda: m(x)) for _ in range(5))
            found = rotate(variants, rounds)
        in_passes = ratios(found, "fast", "pass")
        of_plain = spread(ratios(found, "fast", "plain")) if "plain" in found else ""
        rows.append(
            [
                name,
                spread([1000 * s for s in found["pass"]], ".0f"),
                spread([1000 * s for s in found["fast"]], ".0f"),
                spread([module.dims / r for r in in_passes], ".0f") + (f"; bar {least}" if least else ""),
                spread(in_passes) + (f"; bar {most}" if most else ""),
                of_plain,
                f"{differ}",
                f"{passes} passes, {same} differ",
            ]
        )
    return rows


class MaskedConv(nn.Conv2d):
    """As in most repositories: the whole kernel, with zeros where it must not look."""

    def __init__(self, n_in: int, n_out: int, size: int, own: bool, dilation: int):
        super().__init__(n_in, n_out, size, padding=dilation * (size // 2), dilation=dilation)
        mask = torch.ones(size, size)
        mask[size // 2, size // 2 + own :] = 0
        mask[size // 2 + 1 :] = 0
        self.register_buffer("mask", mask)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.conv2d(x, self.weight * self.mask, self.bias, 1, self.padding, self.dilation)


def whole(conv: nn.Module) -> MaskedConv:
    """The same convolution, with its whole kernel."""
    copy = MaskedConv(conv.n_in, conv.n_out, 2 * conv.rows - 1, conv.here > conv.left, conv.dilation)
    with torch.no_grad():
        copy.weight[:, :, : conv.rows] = conv.kernel()
        copy.bias.copy_(conv.bias)
    return copy


def pointwise(linear: nn.Module) -> nn.Conv2d:
    conv = nn.Conv2d(linear.in_features, linear.out_features, 1, bias=linear.bias is not None)
    with torch.no_grad():
        conv.weight.copy_(linear.weight[:, :, None, None])
        if linear.bias is not None:
            conv.bias.copy_(linear.bias)
    return conv


class PlainPixelCNN(nn.Module):
    """The same function of the pixels, of a net without mixing."""

    def __init__(self, like: nn.Module):
        super().__init__()
        net = like.net
        self.first = whole(net.first)
        self.blocks = nn.ModuleList(
            nn.Sequential(
                nn.ReLU(),
                pointwise(block.narrow),
                nn.ReLU(),
                whole(block.conv),
                nn.ReLU(),
                pointwise(block.widen),
            )
            for block in net.blocks
        )
        self.head = nn.Sequential(nn.ReLU(), pointwise(like.of_pixels), nn.ReLU(), pointwise(like.out))
        self.place = nn.Parameter(net.place.detach().permute(2, 0, 1).clone())
        self.bias = nn.Parameter(like.bias.detach().permute(2, 0, 1).clone())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = self.first(2 * x - 1) + self.place
        for block in self.blocks:
            h = h + block(h)
        return self.head(h) + self.bias

    def nll(self, x: torch.Tensor) -> torch.Tensor:
        return F.binary_cross_entropy_with_logits(self(x), x, reduction="none").flatten(1).sum(1)


def score_plain(model: PlainPixelCNN, x: np.ndarray) -> float:
    """Return mean nats."""
    with torch.no_grad():
        parts = [model.nll(part) for part in torch.from_numpy(x[:, None]).float().split(500)]
    return torch.cat(parts).mean().item()


def ours(x: np.ndarray, epochs: int, **settings: Any) -> pl.PixelCNN:
    fixed = {"validation_fraction": 0.0, "schedule": "constant", "random_state": 0, "batch_size": BATCH}
    return pl.PixelCNN(epochs=epochs, **(fixed | TRAINED | settings)).fit(x)


def untrained(x: np.ndarray, **settings: Any) -> pl.PixelCNN:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return ours(x[:BATCH], 1, learning_rate=1e-12, **settings)


def training(train: np.ndarray, test: np.ndarray, rounds: int, dilations: tuple[int, ...]) -> list[list[str]]:
    """One row a way of training."""
    start = untrained(train, dilations=dilations)
    by_plain, pixels = score_plain(PlainPixelCNN(start.module_), test[:500]), torch.from_numpy(train[:, None]).float()
    assert abs(by_plain + start.score(test[:500])) < 1e-2, "not the same network"
    variants = {
        f"plain, batch {BATCH}": lambda: plain.train(PlainPixelCNN(start.module_), pixels, 1, BATCH),
        f"ours, batch {BATCH}, float32": lambda: ours(train, 1, dilations=dilations, precision="float32"),
        f"ours, batch {BATCH}": lambda: ours(train, 1, dilations=dilations),
    }
    models: dict[str, Any] = {}

    def speed(name: str) -> float:
        started = time.perf_counter()
        models[name] = variants[name]()
        return len(train) / (time.perf_counter() - started)

    found = rotate({name: lambda n=name: speed(n) for name in variants}, rounds)
    first = next(iter(variants))
    rows = []
    for name, model in models.items():
        nats = score_plain(model, test) if name == first else -model.score(test)
        faster = "1" if name == first else spread(ratios(found, name, first)) + "; bar 1.8"
        rows.append([name, spread(found[name], ".0f"), faster, f"{nats:.2f}"])
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--examples", type=int, default=4096)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--dilations", type=int, nargs="+", default=(1, 2, 4), help="of the blocks, in turn")
    parser.add_argument("--only", choices=("drawing", "training"))
    given = parser.parse_args()
    train, test, what = images(given.examples)
    with Others() as others:
        dilations = tuple(given.dilations)
        drawn = drawing(train, given.rounds, dilations) if given.only != "training" else []
        some = np.random.default_rng(0).permutation(len(test))[:2000]  # they are sorted by digit
        trained = training(train, test[some], given.rounds, dilations) if given.only != "drawing" else []
    print(f"{machine()}; {what}; others used {others}", end="\n\n")
    if drawn:
        head = ["net", "a pass, ms", "drawing 64, ms", "times faster than naive", "in passes", "in plain passes"]
        head += ["differ", "Jacobi"]
        print(table(head, drawn), end="\n\n")
    if trained:
        print(table(["training", "examples a second", "times faster", "nats after an epoch"], trained))


if __name__ == "__main__":
    main()
