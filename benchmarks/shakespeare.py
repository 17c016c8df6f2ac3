"""Tiny Shakespeare by the character: nats on the last tenth after a given time of training.

    python benchmarks/shakespeare.py --minutes 60 [--family transformer|rnn|context_table] [--resume]

The first 90 % train, the last 10 % test; nothing is learned from the test part. Training examples are windows that
overlap by half, so that what stands at the start of one stands in the middle of another. Test: windows side by side,
all characters counted, the first of each window too (as in nanoGPT, whose windows are 256); and each character given at
least the half of a window that stands before it. The settings were chosen with `--validate`, which trains on the first
80 % and scores the 10 % after those. A killed run goes on with `--resume` from its checkpoint.

Nats per character; published: nanoGPT's recipe for a CPU 1.88, for a GPU 1.47; a table of counts 1.69; bzip2 1.66.
Bar: 1.60 in an hour on two cores.
"""

from __future__ import annotations

import argparse
import math
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
from side_by_side import Others, machine, table

import plausible as pl
from plausible.errors import BudgetWarning
from plausible.space import Text
from plausible.uses.complete import complete

FILE = Path(__file__).resolve().parents[1] / ".." / "shared" / "data" / "tiny_shakespeare" / "input.txt"
BATCH = {"batch_size": 32, "validation_fraction": 0.0, "patience": None, "epochs": 1000, "random_state": 0}
SETTINGS: dict[str, dict[str, Any]] = {
    "transformer": BATCH
    | {"layers": 4, "hidden": 256, "attention_heads": 4, "learning_rate": 2e-3, "dropout": 0.05, "warmup": 200},
    "rnn": BATCH | {"hidden": 512, "layers": 2, "learning_rate": 2e-3, "dropout": 0.25},
    "context_table": {},
}
LENGTH = {"transformer": 256, "rnn": 256, "context_table": 4096}


def windows(text: str, length: int, stride: int) -> list[str]:
    """Cut a text into windows that begin `stride` characters apart."""
    return [text[i : i + length] for i in range(0, max(len(text) - length, 0) + stride, stride) if text[i : i + length]]


def fit(family: str, text: str, alphabet: list[str], given: argparse.Namespace) -> Any:
    """Train and return the model."""
    length = given.length or LENGTH[family]
    space = Text.of(alphabet, length, end=False)
    if family == "context_table":
        return pl.registry.get(family)(space=space).fit(text)
    changes = {k: float(v) if "." in v or "e-" in v else int(v) for k, v in (one.split("=") for one in given.set)}
    where = {
        "checkpoint": f"{given.checkpoint or family}.shakespeare",
        "resume": given.resume,
        "budget": 60 * given.minutes,
    }
    model = pl.registry.get(family)(space=space, verbose=True, **(SETTINGS[family] | changes | where))
    return model.fit(windows(text, length, length // 2))


def nats_in_context(model: Any, text: str) -> float:
    """Return nats per character, each given at least the half of a window before it (but for the first half window)."""
    length = model.space_.length
    half = length // 2
    parts = windows(text, length, half)
    each = model.log_prob(parts, reduce=None)
    counted = np.concatenate([each[0][:half], *(row[half:] for row in each)])
    return -float(np.nansum(counted)) / int((~np.isnan(counted)).sum())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--family", choices=tuple(SETTINGS), default="transformer")
    parser.add_argument("--length", type=int, help="characters of a window")
    parser.add_argument("--set", nargs="*", default=[], metavar="NAME=NUMBER", help="other settings")
    parser.add_argument("--checkpoint", help="beginning of its name")
    parser.add_argument("--resume", action="store_true")
    parser.add_argument("--validate", action="store_true")
    parser.add_argument("--save", help="file for the model")
    given = parser.parse_args()
    warnings.simplefilter("ignore", BudgetWarning)
    everything = FILE.read_text()
    first, last = (0.8, 0.9) if given.validate else (0.9, 1.0)
    train, test = (
        everything[int(a * len(everything)) : int(b * len(everything))] for a, b in ((0, first), (first, last))
    )
    started = time.perf_counter()
    with Others() as others:
        model = fit(given.family, train, sorted(set(everything)), given)
    seconds = time.perf_counter() - started
    if given.save:
        model.save(given.save)
    nats = -float(np.sum(model.log_prob(test))) / len(test)
    context = nats_in_context(model, test)
    seen = len(model.history_) and float(model.history_["epoch"].iloc[-1])
    print(machine(), end="\n\n")
    header = ["", "minutes", "parameters", "passes", "test nats", "given half a window", "bits", "others used"]
    row = [given.family, f"{seconds / 60:.1f}", f"{model.n_parameters_:,}", seen, f"{nats:.3f}", f"{context:.3f}"]
    print(table(header, [[*row, f"{nats / math.log(2):.3f}", others]]), end="\n\n")
    print(complete(model, "ROMEO:\n", length=300, random_state=0))


if __name__ == "__main__":
    main()
