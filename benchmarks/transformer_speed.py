"""Drawing from a Transformer with keys and values kept, against drawing with the context computed again for each value.

    python benchmarks/transformer_speed.py [--rounds 3] [--skip-images]

Text: 10.6 million parameters (6 layers of 384, 65 characters). Again: for each character one pass over all characters
so far, as in nanoGPT. Images: 64 binary ones of 28x28, 8 layers of 64. Again: a full pass for each of the 784 pixels,
of which one is timed. Both draw from the same uniforms; the characters that differ are counted between the two, the
pixels that differ between what was drawn and what one full pass over it draws. The weights are those after a step of
training.
Bars: one text of 512 characters at least 10 times faster, images at least 200 times; nothing differs.
"""

from __future__ import annotations

import argparse
import statistics
import time
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from side_by_side import Others, machine, ratios, rotate, spread, table
from torch.nn import functional as F

import plausible as pl
from plausible.space import Text

CHARACTERS = "".join(chr(33 + k) for k in range(65))
SETTINGS = {"epochs": 1, "validation_fraction": 0.0, "random_state": 0}


def of_text(length: int) -> Any:
    """Return the module of a model of windows of so many characters."""
    text = "".join(np.random.default_rng(0).choice(list(CHARACTERS), 2 * length))
    space = Text.of(CHARACTERS, length, end=False)
    return pl.Transformer(layers=6, hidden=384, attention_heads=6, space=space, **SETTINGS).fit(text).module_


def of_images() -> Any:
    """Return the module of a model of binary images."""
    x = np.random.default_rng(0).integers(0, 2, (64, 28, 28)).astype(np.uint8)
    return pl.Transformer(layers=8, hidden=64, attention_heads=4, **SETTINGS).fit(x).module_


def again(module: Any, u: torch.Tensor) -> torch.Tensor:
    """Draw characters z (n, T) from uniforms (n, T, 2), each from a pass over those before it."""
    z = torch.zeros(u.shape[:2])
    head = module.heads.single(0)[0]
    for t in range(u.shape[1]):
        h = module.decoder(module._embedded(z[:, : t + 1]))[:, -1]
        z[:, t] = head.sample(F.linear(h, module.W, module.b), u[:, t : t + 1])[:, 0]
    return z


def timed(work: Callable[[], Any], out: dict | None = None, name: str = "") -> float:
    """Return the seconds that work() takes; keep what it returns."""
    with torch.no_grad():
        started = time.perf_counter()
        found = work()
        seconds = time.perf_counter() - started
    if out is not None:
        out[name] = found
    return seconds


def uniforms(n: int, length: int) -> torch.Tensor:
    return torch.rand((n, length, 2), generator=torch.Generator().manual_seed(1))


def text_row(n: int, length: int, rounds: int) -> list:
    module, u, drawn = of_text(length), uniforms(n, length), {}
    ways = {"again": lambda: again(module, u), "kept": lambda: module.from_uniforms(u)}
    with Others() as others:
        seconds = rotate({name: lambda n=name, w=way: timed(w, drawn, n) for name, way in ways.items()}, rounds)
    differ = f"{int((drawn['again'] != drawn['kept']).sum())} of {u[..., 0].numel():,}"
    kept, one = statistics.median(seconds["kept"]), timed(lambda: module.conditionals(drawn["kept"]))
    name = f"text, {n} of {length} characters, {sum(p.numel() for p in module.parameters()) / 1e6:.1f} M parameters"
    cells = [spread(seconds["again"]), spread(seconds["kept"]), spread(ratios(seconds, "again", "kept"), ".1f")]
    return [name, *cells, f"{1000 * kept / length:.2f} ms", f"{kept / one:.1f}", differ, others]


def image_row(rounds: int) -> list:
    module, u = of_images(), uniforms(64, 784)
    ways = {"again": lambda: module.conditionals(torch.zeros(64, 784)), "kept": lambda: module.from_uniforms(u)}
    with Others() as others:
        out = {name: {} for name in ways}
        seconds = rotate({name: lambda n=name, w=way: timed(w, out[n], n) for name, way in ways.items()}, rounds)
    one = statistics.median(seconds["again"])
    seconds["again"] = [784 * s for s in seconds["again"]]
    with torch.no_grad():
        z = out["kept"]["kept"]
        differ = f"{int((module.heads.sample(module.conditionals(z), u) != z).sum())} of {z.numel():,}"
    kept = statistics.median(seconds["kept"])
    cells = [spread(seconds["again"], ".0f"), spread(seconds["kept"]), spread(ratios(seconds, "again", "kept"), ".0f")]
    name = "64 images of 28x28, 8 layers of 64"
    return [name, *cells, f"{1000 * kept / 784:.2f} ms", f"{kept / one:.1f}", differ, others]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--skip-images", action="store_true")
    parser.add_argument("--skip-text", action="store_true")
    given = parser.parse_args()
    warnings.simplefilter("ignore")
    rows = []
    if not given.skip_text:
        rows += [text_row(1, 512, given.rounds), text_row(8, 256, given.rounds)]
    if not given.skip_images:
        rows.append(image_row(given.rounds))
    print(machine(), end="\n\n")
    header = ["", "again, s", "kept, s", "times faster", "a step", "kept / one pass", "differ", "others used"]
    print(table(header, rows))


if __name__ == "__main__":
    main()
