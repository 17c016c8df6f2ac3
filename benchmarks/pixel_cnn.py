"""`PixelCNN` or `PixelRNN` on fixed binarised MNIST (nats), on MNIST with 256 levels (bits per dimension): test images.

    python benchmarks/pixel_cnn.py [--data binary|grey] [--minutes 60] [--checkpoint FILE] [--test 10000]
                                   [--architecture residual] [--channels 16] [--blocks 15] [--batch 64] [--rate 0.002]
                                   [--decay 0] [--dropout 0] [--dilations 1 2 4] [--mixing 0]
    python benchmarks/pixel_cnn.py --family pixel_rnn --architecture diagonal --channels 32 --blocks 1

The images of training and validation are taken together, a twentieth of them held out at random: by these alone the
epoch is chosen. The rate of learning falls as a cosine over the minutes given, and what is kept is an average of the
weights. With --checkpoint a run that was stopped goes on where it was when it is called again. The test images are
scored once, at the end. Bars on two cores: binary 83.0 nats in 60 minutes, 82.5 in 90; grey 1.05 bits in 60.
Published: 81.30 (PixelCNN), 80.10 (gated), 80.75 and 79.20 (PixelRNN over diagonals, one layer of 32 and seven of 16
channels); grey 1.14 (sparse probabilistic circuits).
"""

from __future__ import annotations

import argparse
import math
import time
import warnings
from pathlib import Path

import numpy as np
from side_by_side import Others, machine, table

import plausible as pl

DATA = Path(__file__).resolve().parents[2] / "shared" / "data"


def images(data: str) -> tuple[np.ndarray, np.ndarray]:
    """Return training and test images (n, 28, 28)."""

    def read(folder: str, *names: str) -> np.ndarray:
        parts = [np.load(DATA / folder / f"{name}.npz", allow_pickle=False)["images"] for name in names]
        return np.concatenate(parts)

    if data == "binary":
        return read("binarized_mnist", "train", "valid"), read("binarized_mnist", "test")
    return read("mnist", "train"), read("mnist", "test")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--family", choices=("pixel_cnn", "pixel_rnn"), default="pixel_cnn")
    parser.add_argument("--data", choices=("binary", "grey"), default="binary")
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--checkpoint")
    parser.add_argument("--architecture", default="residual", help="of the net; for pixel_rnn: diagonal or row")
    parser.add_argument("--channels", type=int, default=16)
    parser.add_argument("--blocks", type=int, default=15, help="or layers, of pixel_rnn")
    parser.add_argument("--dilations", type=int, nargs="+", default=(1, 2, 4), help="of the blocks, in turn")
    parser.add_argument("--mixing", type=int, default=0, help="channels mixed over all places")
    parser.add_argument("--components", type=int, default=5)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--rate", type=float, default=2e-3)
    parser.add_argument("--decay", type=float, default=0.0, help="of the weights")
    parser.add_argument("--dropout", type=float, default=0.0)
    parser.add_argument("--epochs", type=int, default=1000)
    parser.add_argument("--examples", type=int, help="training images, all by default")
    parser.add_argument("--test", type=int, default=10_000, help="test images")
    parser.add_argument("--save", help="file for the model")
    parser.add_argument("--history", action="store_true", help="print the held-out loss of every epoch")
    given = parser.parse_args()
    train, test = images(given.data)
    some = np.random.default_rng(0).permutation(len(test))[: given.test]  # they are sorted by digit
    train, test = train[: given.examples], test[some]
    family = pl.registry.get(given.family)
    depth = {"layers": given.blocks}
    if given.family == "pixel_cnn":
        depth = {"blocks": given.blocks, "dilations": tuple(given.dilations), "mixing": given.mixing}
    model = family(
        **depth,
        architecture=given.architecture,
        channels=given.channels,
        components=given.components,
        dropout=given.dropout,
        batch_size=given.batch,
        learning_rate=given.rate,
        weight_decay=given.decay,
        epochs=given.epochs,
        budget=60 * given.minutes,
        validation_fraction=0.05,
        patience=None,
        ema=0.999,
        clip_norm=100.0 if given.data == "binary" else 1000.0,
        checkpoint=given.checkpoint,
        resume=given.checkpoint is not None,
        random_state=0,
    )
    with Others() as others, warnings.catch_warnings():
        warnings.simplefilter("ignore", pl.errors.BudgetWarning)
        started = time.perf_counter()
        model.fit(train)
        fitted = time.perf_counter() - started
        if given.save:
            model.save(given.save)
        started = time.perf_counter()
        nats = -model.log_prob(test)
        scored = time.perf_counter() - started
    if given.history:
        print(model.history_.to_string(index=False), end="\n\n")
    measure = nats if given.data == "binary" else nats / (784 * math.log(2))
    unit, bar = ("nats", "83.0") if given.data == "binary" else ("bits per dimension", "1.05")
    error = measure.std() / math.sqrt(len(measure))
    print(f"{machine()}; {given.data} MNIST, {len(train):,} images; others used {others}", end="\n\n")
    settings = [f"{name} {value}" for name, value in depth.items()]
    name = ", ".join([family.__name__, given.architecture, f"channels {given.channels}", *settings])
    head = ["net", "parameters", "minutes", "epochs", f"test {unit}", "bar", f"scoring {len(test):,}, s"]
    epochs = f"{int(model.history_['epoch'].max())}, kept {model.kept_epoch_}"
    row = [name, f"{model.n_parameters_:,}", f"{fitted / 60:.1f}", epochs]
    print(table(head, [[*row, f"{measure.mean():.3f} ± {error:.3f}", bar, f"{scored:.0f}"]]))


if __name__ == "__main__":
    main()
