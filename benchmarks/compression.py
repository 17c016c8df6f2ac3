"""What `compress` makes of images and texts that the model has not seen, decoded and compared; beside others.

    python benchmarks/compression.py --sets shakespeare canterbury
    python benchmarks/compression.py --sets binarized_mnist [--model nade.plausible] [--minutes 10]
    python benchmarks/compression.py --sets mnist --model pixels.plausible [--images 10000]

Binarised MNIST: a NADE of 500 hidden units, fitted here for `--minutes` unless a model is given; MNIST in grey: a model
fitted elsewhere, such as a PixelCNN on the training images. Each text: a ContextTable of the first nine tenths in
windows of 4,096 characters, its last tenth compressed; the other compressors are given the same last tenth, and, in
the second row of each, what the first nine tenths save them (the size of all less that of the first part).
Bars: 0.165 bits a pixel, 1.35 bits a pixel, less than xz and bz2; size within 1 % + 64 bytes of -log2 p; entropy coding
at most 20 % of the model's time.
"""

from __future__ import annotations

import argparse
import math
import time
from pathlib import Path
from typing import Any

import numpy as np
from side_by_side import machine, table

import plausible as pl
from plausible.space import Text
from plausible.uses.compress import _coding, compress, decompress
from plausible.uses.compress.beside import Coded, others, raw

DATA = Path(__file__).resolve().parents[2] / "shared" / "data"
TEXTS = {
    "shakespeare": ("tiny_shakespeare/input.txt",),
    "canterbury": ("canterbury_text/alice29.txt", "canterbury_text/asyoulik.txt"),
}
SETS = ("binarized_mnist", "mnist", *TEXTS)


class Stopwatch:
    """Seconds inside of some methods, while it is on."""

    def __init__(self, *methods: tuple[type, str]):
        self.methods, self.seconds = methods, 0.0

    def __enter__(self) -> Stopwatch:
        self.plain = [getattr(cls, name) for cls, name in self.methods]
        for (cls, name), method in zip(self.methods, self.plain, strict=True):
            setattr(cls, name, self._timing(method))
        return self

    def __exit__(self, *_: Any) -> None:
        for (cls, name), method in zip(self.methods, self.plain, strict=True):
            setattr(cls, name, method)

    def _timing(self, method: Any) -> Any:
        def timed(*args: Any, **kwargs: Any) -> Any:
            started = time.perf_counter()
            try:
                return method(*args, **kwargs)
            finally:
                self.seconds += time.perf_counter() - started

        return timed


CODERS = ((_coding.Writer, "__call__"), (_coding.Reader, "__call__"), (_coding.Guard, "frequencies"))


def measured(model: Any, X: Any, what: str) -> list[list]:
    """Compress, decompress, compare; a line for the model and one for each of the others."""
    n = len(X) if isinstance(X, str) else X.size
    with Stopwatch(*CODERS) as coding:
        started = time.perf_counter()
        data = compress(model, X)
        written = time.perf_counter()
        back = decompress(model, data)
        read = time.perf_counter()
    assert back == X if isinstance(X, str) else (back == X).all(), "what came back is not what went in"
    said = -model.log_prob(X).sum() / math.log(2) / 8
    own = Coded(type(model).__name__, len(data), written - started, read - written)
    share = coding.seconds / (read - started - coding.seconds)
    lines = [[*_cells_of(what, own, n), f"{len(data) - said:+,.0f} of {said:,.0f}", f"{share:.0%}"]]
    return lines + [[*_cells_of(what, coded, n), "", ""] for coded in others(raw(X, model.space_), X, model.space_)]


def _cells_of(what: str, coded: Coded, n: int) -> list[str]:
    return [what, coded.name, f"{coded.size:,}", f"{8 * coded.size / n:.4f}", f"{coded.write:.1f}", f"{coded.read:.1f}"]


def of_text(file: str) -> list[list]:
    everything = (DATA / file).read_text()
    cut = int(0.9 * len(everything))
    space = Text.of(sorted(set(everything)), 4096, end=False)
    model = pl.ContextTable(space=space).fit(everything[:cut])
    lines = measured(model, everything[cut:], file)
    before = {c.name: c for c in others(everything[:cut].encode())}
    for whole in others(everything.encode()):
        first = before[whole.name]
        saved = Coded(
            f"{whole.name}, primed", whole.size - first.size, whole.write - first.write, whole.read - first.read
        )
        lines.append([*_cells_of(file, saved, len(everything) - cut), "", ""])
    return lines


def of_images(name: str, model: str | None, minutes: float, n: int) -> list[list]:
    parts = {p: np.load(DATA / name / f"{p}.npz", allow_pickle=False)["images"] for p in ("train", "test")}
    if model is not None:
        fitted = pl.load(model)
    elif name == "binarized_mnist":
        fitted = pl.NADE(hidden=500, epochs=300, patience=20, budget=60 * minutes, random_state=0).fit(parts["train"])
    else:
        raise SystemExit("give a --model for MNIST in grey: it takes longer to fit than this script should")
    return measured(fitted, parts["test"][:n], name)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sets", nargs="+", choices=SETS, default=["shakespeare", "canterbury"])
    parser.add_argument("--model", help="a saved model of the images")
    parser.add_argument("--minutes", type=float, default=10, help="to fit for, without a model")
    parser.add_argument("--images", type=int, default=10_000, help="of the test images")
    given = parser.parse_args()
    lines = []
    for name in given.sets:
        if name in TEXTS:
            lines += [line for file in TEXTS[name] for line in of_text(file)]
        else:
            lines += of_images(name, given.model, given.minutes, given.images)
    print(machine(), end="\n\n")
    header = ["data", "by", "bytes", "bits each", "write, s", "read, s", "above -log2 p", "coding / model"]
    print(table(header, lines))


if __name__ == "__main__":
    main()
