"""`WaveNet` on the Free Spoken Digit Dataset: bits per 16-bit sample of the test recordings, beside lossless coders.

    python benchmarks/fsdd.py [--minutes 5] [--heads logistic,mu_law] [--channels 32] [--checkpoint F]

Official split: takes 0 to 4 of every digit and speaker are test (300 recordings), 5 to 49 training (2,700). Training is
on windows; the test recordings are read whole, each from its first sample, by the same weights. Both heads give exact
probabilities of the integers. FLAC at its highest setting: the recordings end to end as one file, which is kindest to
it, and each as a file of its own. xz of the same bytes, as what a coder without a model of sound does.

Those of one of the six speakers were rounded to 8 bits before they were stored in 16: multiples of 256, to which FLAC
gives no bits for the eight that are zero, and the head of logistics a lattice of its own. They are also shown apart.
"""

from __future__ import annotations

import argparse
import copy
import lzma
import math
import time
import warnings
from pathlib import Path

import numpy as np
from side_by_side import Others, machine, table

import plausible as pl
from plausible.space import Audio, Clips
from plausible.transforms import Chain
from plausible.uses.compress.beside import flac

DATA = Path(__file__).resolve().parents[2] / "shared" / "data" / "fsdd" / "fsdd.npz"


def recordings() -> tuple[Clips, Clips]:
    """Training and test."""
    stored = np.load(DATA, allow_pickle=False)
    clips = np.split(stored["audio"], np.cumsum(stored["lengths"])[:-1])
    test, rate = stored["index"] < 5, int(stored["sample_rate"].item())
    return tuple(Clips([c for c, t in zip(clips, test, strict=True) if t == part], rate) for part in (False, True))


def flac_bits(samples: np.ndarray, rate: int) -> int:
    """Of the file."""
    return 8 * len(flac([samples], rate))


def xz(samples: np.ndarray) -> int:
    """Bits of the file."""
    return 8 * len(lzma.compress(samples.tobytes(), preset=9))


def bits(model: pl.WaveNet, clips: Clips) -> list[float]:
    """Of each recording, read whole, however long, with the weights and the scale of a model of windows."""
    longer = copy.copy(model)
    longer.space_ = Audio.of(max(map(len, clips)), clips.rate)
    longer.transforms_ = Chain(model._transforms(longer.space_))
    # What standardises is the same for every sample.
    learned = {name: value[:1].expand(longer.space_.dims) for name, value in model.transforms_.state_dict().items()}
    longer.module_ = longer._seeded_build(longer.transforms_.restore(learned, longer.space_), 0).eval()
    longer.module_.load_state_dict(model.module_.state_dict())
    return [-float(longer.log_prob([clip])[0]) / math.log(2) for clip in clips]


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
    parser.add_argument("--minutes", type=float, default=5.0, help="of each fit, at most")
    parser.add_argument("--heads", default="logistic,mu_law")
    parser.add_argument("--channels", type=int, default=32)
    parser.add_argument("--layers", type=int, default=7)
    parser.add_argument("--stacks", type=int, default=1)
    parser.add_argument("--window", type=int, default=512)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--rate", type=float, default=3e-3)
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--checkpoint", help="file to go on from; the head is added to its name")
    given = parser.parse_args()
    train, test = recordings()
    rounded = np.array([not (clip % 256).any() for clip in test])
    parts = [np.ones_like(rounded), ~rounded, rounded]  # all, of 16 bits, of 8

    def end_to_end(coder) -> list[str]:
        joined = [np.concatenate([clip for clip, own in zip(test, part, strict=True) if own]) for part in parts]
        return [f"{coder(samples) / len(samples):.3f}" for samples in joined]

    def each(of_clip: list[float]) -> list[str]:
        sizes = np.array([len(clip) for clip in test])
        return [f"{np.array(of_clip)[part].sum() / sizes[part].sum():.3f}" for part in parts]

    lines = [
        ["FLAC, highest setting, end to end", *end_to_end(lambda samples: flac_bits(samples, test.rate)), "", ""],
        ["FLAC, highest setting, a file each", *each([flac_bits(clip, test.rate) for clip in test]), "", ""],
        ["xz -9, end to end", *end_to_end(xz), "", ""],
    ]
    with Others() as others:
        for head in given.heads.split(","):
            model, seconds = fitted(head, train, given)
            found = each(bits(model, test))
            lines.append([f"WaveNet, {head}", *found, f"{model.n_parameters_:,}", f"{seconds:.0f}"])
    print(f"{machine()}; {len(test)} recordings, {sum(map(len, test)):,} samples; others used {others}", end="\n\n")
    header = ["", "bits a sample", "of those in 16 bits", "of those in 8", "parameters", "fit, s"]
    print(table(header, lines))


if __name__ == "__main__":
    main()
