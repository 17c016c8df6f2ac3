"""`RNN` on polyphonic music: JSB chorales and Nottingham, nats per step of 88 keys, beside what was published.

    python benchmarks/polyphonic.py [--sets jsb,nottingham] [--minutes 10] [--hidden 200] [--within 200] [--shifts 5]

A piece is a series of steps of 88 bits; pieces have different lengths, and each is one example. For training, pieces
are cut at 256 steps, and a tenth of the cuttings, chosen at random, stops it; valid and test are read whole, by the
same weights, once at the end. Nats are those of all steps, over their number, as published. With `--shifts 5` the
pieces of the training part are also learned from when moved by 1 to 5 keys up and down. Then no piece is held out, as
its copies would be known, and training ends after its time or passes, at a rate that has fallen to zero.

Two models of each set: keys that are independent given the steps before (`within=0`), as in the published GRU and LSTM;
and keys one after the other, low to high (the family as it comes), as in the published RNN-NADE: only these know which
keys go together in a chord.
"""

from __future__ import annotations

import argparse
import time
import warnings
from itertools import product
from pathlib import Path

import numpy as np
from side_by_side import Others, machine, table

import plausible as pl
from plausible.space import Series

DATA = Path(__file__).resolve().parents[2] / "shared" / "data" / "polyphonic_music"
SETS = {"jsb": "JSB_Chorales", "nottingham": "Nottingham"}
PUBLISHED = {  # Bai, Kolter and Koltun, 2018, of LSTM, GRU, TCN; RNN-NADE: Boulanger-Lewandowski et al., 2012
    ("jsb", 0): "LSTM 8.45, GRU 8.43, TCN 8.10",
    ("nottingham", 0): "LSTM 3.29, GRU 3.46, TCN 3.07",
    ("jsb", 1): "RNN-NADE 5.56",
    ("nottingham", 1): "",
}
LONGEST = 256  # steps of a piece that are learned from at a time


def pieces(name: str, part: str) -> list[np.ndarray]:
    """Return arrays (steps, 88) of 0 and 1."""
    stored = np.load(DATA / f"{SETS[name]}.npz", allow_pickle=False)
    return np.split(stored[part], np.cumsum(stored[f"{part}_lengths"])[:-1])


def cut(sequences: list[np.ndarray]) -> list[np.ndarray]:
    return [s[i : i + LONGEST] for s in sequences for i in range(0, len(s), LONGEST)]


def moved(sequences: list[np.ndarray], shifts: int) -> list[np.ndarray]:
    """The pieces moved by up to so many keys up and down, as far as no note falls off the keyboard."""
    found = []
    for by in range(-shifts, shifts + 1):
        lost = slice(0, -by) if by < 0 else slice(88 - by, 88)
        found += [np.roll(s, by, 1) for s in sequences if not s[:, lost].any()]
    return found


def nats_per_step(model: pl.RNN, sequences: list[np.ndarray]) -> float:
    """Read whole pieces, however long, with the weights of a model of shorter ones."""
    longest = max(map(len, sequences))
    space = Series.of(longest, [f"c{c}" for c in range(88)], ragged=True, bits="uint8")
    settings = model.get_params() | {"space": space, "epochs": 1, "budget": None, "validation_fraction": 0.0}
    longer = pl.RNN(**settings).fit([s[:2] for s in sequences[:2]])
    longer.module_.load_state_dict(model.module_.state_dict())
    return -sum(float(longer.log_prob([s])[0]) for s in sequences) / sum(map(len, sequences))


def line(name: str, within: int, given: argparse.Namespace) -> list[str]:
    model = pl.RNN(
        cell=given.cell,
        hidden=given.hidden,
        within=within,
        dropout=given.dropout,
        epochs=given.epochs,
        batch_size=given.batch,
        learning_rate=given.rate,
        patience=10,
        validation_fraction=0.0 if given.shifts else 0.1,
        weight_decay=given.decay,
        budget=60 * given.minutes,
        space="series",
        random_state=0,
    )
    started = time.perf_counter()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", pl.errors.BudgetWarning)
        model.fit(cut(moved(pieces(name, "train"), given.shifts)))
    seconds = time.perf_counter() - started
    valid, test = (nats_per_step(model, pieces(name, part)) for part in ("valid", "test"))
    kind = "keys in order" if within else "keys independent"
    return [
        name,
        kind,
        f"{valid:.2f}",
        f"{test:.2f}",
        PUBLISHED[name, min(within, 1)],
        str(model.kept_epoch_),
        f"{seconds:.0f}",
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sets", default="jsb,nottingham")
    parser.add_argument("--minutes", type=float, default=10.0, help="of each fit, at most")
    parser.add_argument("--epochs", type=int, default=300)
    parser.add_argument("--cell", default="lstm", choices=("lstm", "gru"))
    parser.add_argument("--hidden", type=int, default=200)
    parser.add_argument("--within", type=int, default=200, help="hidden units of the net inside a step")
    parser.add_argument("--dropout", type=float, default=0.5)
    parser.add_argument("--rate", type=float, default=2e-3)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--decay", type=float, default=0.0, help="of the weights")
    parser.add_argument("--shifts", type=int, default=0, help="keys up and down by which training pieces are moved")
    parser.add_argument("--models", default="0,1", help="0: keys independent, 1: keys in order")
    given = parser.parse_args()
    with Others() as others:
        asked = product(given.sets.split(","), given.models.split(","))
        lines = [line(name, given.within * int(model), given) for name, model in asked]
    print(f"{machine()}; others used {others}", end="\n\n")
    print(table(["set", "model", "valid", "test, nats a step", "published", "epoch kept", "fit, s"], lines))


if __name__ == "__main__":
    main()
