"""`WaveNet` on the Free Spoken Digit Dataset: bits per 16-bit sample of the test recordings, beside lossless coders.

    python benchmarks/fsdd.py [--minutes 20] [--heads logistic,mu_law] [--channels 32] [--checkpoint F]

Official split: takes 0 to 4 of every digit and speaker are test (300 recordings), 5 to 49 training (2,700). Training is
on windows; the test recordings are read whole, each from its first sample, by the same weights. Both heads give exact
probabilities of the integers. FLAC at its highest setting: the recordings end to end as one file, which is kindest to
it, and each as a file of its own. xz of the same bytes, as what a coder without a model of sound does.
"""

from __future__ import annotations

import argparse
import io
import lzma
import math
import time
import warnings
from pathlib import Path

import numpy as np
import soundfile
from side_by_side import Others, machine, table

import plausible as pl
from plausible.space import Audio, Clips

DATA = Path(__file__).resolve().parents[2] / "shared" / "data" / "fsdd" / "fsdd.npz"


def recordings() -> tuple[Clips, Clips]:
    """Training and test."""
    stored = np.load(DATA, allow_pickle=False)
    clips = np.split(stored["audio"], np.cumsum(stored["lengths"])[:-1])
    test, rate = stored["index"] < 5, int(stored["sample_rate"].item())
    return tuple(Clips([c for c, t in zip(clips, test, strict=True) if t == part], rate) for part in (False, True))


def flac(samples: np.ndarray, rate: int) -> int:
    """Bits of the file."""
    out = io.BytesIO()
    soundfile.write(out, samples, rate, format="FLAC", subtype="PCM_16", compression_level=1.0)
    return 8 * len(out.getvalue())


def bits_per_sample(model: pl.WaveNet, clips: Clips) -> float:
    """Read whole recordings, however long, with the weights of a model of windows."""
    space = Audio.of(max(map(len, clips)), clips.rate)
    settings = model.get_params() | {"space": space, "epochs": 1, "budget": None, "checkpoint": None}
    longer = pl.WaveNet(**settings | {"validation_fraction": 0.0}).fit([clip[:64] for clip in clips[:2]])
    longer.module_.load_state_dict(model.module_.state_dict())
    # Scale and shift are the same for every sample.
    for of_whole, learned in zip(longer.transforms_.buffers(), model.transforms_.buffers(), strict=True):
        of_whole.copy_(learned.flatten()[0].expand_as(of_whole) if len(learned) == model.space_.dims else learned)
    return -sum(float(longer.log_prob([clip])[0]) for clip in clips) / math.log(2) / sum(map(len, clips))


def fitted(head: str, train: Clips, given: argparse.Namespace) -> tuple[pl.WaveNet, float]:
    """The model, and how many seconds it took."""
    model = pl.WaveNet(
        head=head,
        channels=given.channels,
        skips=2 * given.channels,
        layers=given.layers,
        stacks=given.stacks,
        batch_size=given.batch,
        learning_rate=given.rate,
        epochs=given.epochs,
        budget=60 * given.minutes,
        validation_fraction=0.02,
        checkpoint=None if given.checkpoint is None else f"{given.checkpoint}.{head}",
        resume=given.checkpoint is not None,
        space=Audio.of(given.window, train.rate),
        random_state=0,
    )
    started = time.perf_counter()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", pl.errors.BudgetWarning)
        model.fit(train)
    return model, time.perf_counter() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=20.0, help="of each fit, at most")
    parser.add_argument("--heads", default="logistic,mu_law")
    parser.add_argument("--channels", type=int, default=32)
    parser.add_argument("--layers", type=int, default=8)
    parser.add_argument("--stacks", type=int, default=2)
    parser.add_argument("--window", type=int, default=2048)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--rate", type=float, default=3e-3)
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--checkpoint", help="file to go on from; the head is added to its name")
    given = parser.parse_args()
    train, test = recordings()
    end_to_end, n = np.concatenate(list(test)), sum(map(len, test))
    lines = [
        ["FLAC, highest setting, end to end", f"{flac(end_to_end, test.rate) / n:.3f}", "", ""],
        ["FLAC, highest setting, a file each", f"{sum(flac(c, test.rate) for c in test) / n:.3f}", "", ""],
        ["xz -9", f"{8 * len(lzma.compress(end_to_end.tobytes(), preset=9)) / n:.3f}", "", ""],
    ]
    with Others() as others:
        for head in given.heads.split(","):
            model, seconds = fitted(head, train, given)
            bits = bits_per_sample(model, test)
            lines.append([f"WaveNet, {head}", f"{bits:.3f}", f"{model.n_parameters_:,}", f"{seconds:.0f}"])
    print(f"{machine()}; {len(test)} recordings, {n:,} samples; others used {others}", end="\n\n")
    print(table(["", "bits a sample", "parameters", "fit, s"], lines))


if __name__ == "__main__":
    main()
