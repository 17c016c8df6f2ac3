"""`ContextTable` on fixed binarized MNIST and on tiny Shakespeare, with settings as they come.

    python benchmarks/context_table.py

Images: one table of the nearest causal pixels (20 at most), no position; nats on the 10,000 test images.
Text: the first 90 % train, the last 10 % test; bits per character. A text is modelled in windows, and the first
characters of a window know only what stands before them in the window: at 4,096 characters a window that costs little
(28 windows); the 64 that a long text is cut into by default cost a tenth of a bit. No context is carried from window to
window, and nothing is learned from the test part. Compressors: bzip2 2.40, xz 2.52 bits per character (the size of
both parts less that of the first).
Bars: 100.3 nats and 30 s on two cores; 2.30 bits per character.
"""

from __future__ import annotations

import argparse
import math
import time
from pathlib import Path

import numpy as np
from side_by_side import Others, machine, table

import plausible as pl
from plausible.space import Text

DATA = Path(__file__).resolve().parents[1] / ".." / "shared" / "data"


def images() -> list:
    """Fit on the training images, score the test images."""
    train, test = (np.load(DATA / "binarized_mnist" / f"{part}.npz")["images"] for part in ("train", "test"))
    model, fit = _timed(lambda: pl.ContextTable().fit(train))
    nats, score = _timed(lambda: -model.score(test))
    return ["binarized MNIST", f"{nats:.2f} nats", "100.3", *_cells(model, fit, score)]


def text(length: int) -> list:
    """Fit on the first nine tenths of the text, score the rest, in windows of `length` characters."""
    everything = (DATA / "tiny_shakespeare" / "input.txt").read_text()
    cut = int(0.9 * len(everything))
    space = Text.of(sorted(set(everything)), length, end=False)
    model, fit = _timed(lambda: pl.ContextTable(space=space).fit(everything[:cut]))
    nats, score = _timed(lambda: -model.log_prob(everything[cut:]).sum())
    bits = nats / math.log(2) / (len(everything) - cut)
    return [f"tiny Shakespeare, windows of {length:,}", f"{bits:.3f} bits", "2.30", *_cells(model, fit, score)]


def _timed(work):
    started = time.perf_counter()
    found = work()
    return found, time.perf_counter() - started


def _cells(model, fit: float, score: float) -> list:
    return [len(model.module_.laws) - 1, f"{model.n_parameters_:,}", f"{fit:.1f}", f"{score:.1f}"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.parse_args()
    lines = []
    for work in (images, lambda: text(4096), lambda: text(64)):
        with Others() as others:
            line = work()
        lines.append([*line, others])
    print(machine(), end="\n\n")
    header = ["data", "test", "bar", "context", "counts", "fit, s", "score, s", "others used"]
    print(table(header, lines))


if __name__ == "__main__":
    main()
