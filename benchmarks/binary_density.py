"""Binary data: FVSBN, NADE, MADE and orderless NADE under one setting each, beside published results.

    python benchmarks/binary_density.py [--sets nltcs dna ...] [--models FVSBN NADE ...]   # minutes a set
    python benchmarks/binary_density.py --mnist NADE --minutes 40                          # fixed binarised MNIST

The sets are those of ../shared/data/debd_binary, on their own splits: fitted on the training part (of which the
estimators hold out a tenth for early stopping or for choosing a penalty), the family chosen on the validation part,
reported on the test part: mean log-likelihood in nats, exact, with its standard error. Nothing is set for a single set.

MNIST is the one binarisation in ../shared/data/binarized_mnist, 50,000 training images, 2,000 of which are held out for
early stopping; the 10,000 validation images are only reported. With `--all` the 10,000 are training images too, and
2,000 of the 60,000 are held out. It stops after `--minutes`; with `--checkpoint` it can be killed and started again.
"""

from __future__ import annotations

import argparse
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
from side_by_side import machine, table

import plausible as pl

DATA = Path(__file__).resolve().parents[2] / "shared" / "data"
# name -> (bar, published: an anchor that we know of)
SETS = {
    "nltcs": (-5.99, "circuit -6.00"),
    "baudio": (-38.6, "circuit -39.62"),
    "accidents": (-26.4, "gated circuit -26.55"),
    "pumsb_star": (-21.9, "ID-SPN -22.40"),
    "dna": (-80.5, "ID-SPN -81.21"),
    "bbc": (-245.0, "EiNet -248.33"),
    "mushrooms": (-9.6, "DARN -9.55, EoNADE -9.69"),
    "nips": (-272.0, "EoNADE -272.39"),
}
MODELS: dict[str, dict[str, Any]] = {
    "FVSBN": {"orderings": 8, "epochs": 50},
    "NADE": {"hidden": 200, "epochs": 80, "learning_rate": 1e-2, "orderings": 8, "patience": None, "refit": True},
    "MADE": {"hidden": (500,), "epochs": 200, "orderings": 8, "dropout": 0.5},
    "OrderlessNADE": {"hidden": (500,), "epochs": 500, "orderings": 16, "dropout": 0.2, "patience": 30},
}
MNIST: dict[str, dict[str, Any]] = {
    "FVSBN": {},
    "NADE": {"hidden": 500, "epochs": 30, "learning_rate": 3e-3},
    "MADE": {"hidden": (500,), "epochs": 300},
    "OrderlessNADE": {"hidden": (500, 500), "epochs": 500, "patience": 50},
}
EXPECTED = {"FVSBN": "97.45", "NADE": "88.33", "MADE": "94.5", "OrderlessNADE": "87.13 (10 orderings)"}


def fitted(name: str, x: np.ndarray, **settings: Any) -> tuple[Any, float]:
    """Fit it; return it and the seconds."""
    started = time.perf_counter()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", pl.errors.BudgetWarning)
        model = getattr(pl, name)(random_state=0, **settings).fit(x)
    return model, time.perf_counter() - started


def debd(sets: list[str], models: list[str]) -> None:
    """Print a table with a row for each set."""
    rows = []
    for name in sets:
        part = np.load(DATA / "debd_binary" / f"{name}.npz", allow_pickle=False)
        bar, published = SETS[name]
        valid, test = {}, {}
        row = [f"{name} ({part['train'].shape[1]}, {len(part['train']):,})"]
        for family in models:
            model, seconds = fitted(family, part["train"], **MODELS[family])
            valid[family], log_p = model.score(part["valid"]), model.log_prob(part["test"])
            test[family] = log_p.mean(), log_p.std() / len(log_p) ** 0.5
            row.append(f"{log_p.mean():.3f} ({seconds:.0f} s)")
            print(f"{name} {family}: valid {valid[family]:.3f}, test {log_p.mean():.3f}, {seconds:.0f} s", flush=True)
        best = max(valid, key=valid.__getitem__)
        mean, error = test[best]
        rows.append(
            [*row, f"**{mean:.3f}** ± {error:.3f} ({best})", f"{bar:g}", "yes" if mean >= bar else "no", published]
        )
    print(f"\n{machine()}\n")
    print(table(["set (D, n)", *models, "best by validation", "bar", "met", "published"], rows))


def mnist(given: argparse.Namespace) -> None:
    """Print a row."""
    name, orderings, everything = given.mnist, given.orderings, given.all
    images = {
        part: np.load(DATA / "binarized_mnist" / f"{part}.npz", allow_pickle=False)["images"]
        for part in ("train", "valid", "test")
    }
    train = np.concatenate([images["train"], images["valid"]]) if everything else images["train"]
    settings = {"budget": 60 * given.minutes, "validation_fraction": 2000 / len(train)} | MNIST[name]
    if given.checkpoint is not None:
        settings |= {"checkpoint": given.checkpoint, "resume": True}
    if name == "MADE":
        settings["orderings"] = orderings
    model, seconds = fitted(name, train, **settings)
    if given.save:
        model.save(given.save)
    if name == "OrderlessNADE":  # whose training is the same
        model.module_.orderings = orderings
    log_p = model.log_prob(images["test"])
    error = log_p.std() / len(log_p) ** 0.5
    valid = "" if everything else f"{-model.score(images['valid'][:: 1 if orderings == 1 else 10]):.2f}"
    trained = f"{seconds / 60:.1f} min, {len(model.history_)} looks, kept {model.kept_epoch_} ({model.stopped_})"
    print(f"{machine()}\n")
    row = [name, f"{-log_p.mean():.2f} ± {error:.2f}", valid, f"{len(train):,}", orderings, trained, EXPECTED[name]]
    header = ["fixed binarised MNIST", "test nats", "valid nats", "images", "orderings", "training", "published"]
    print(table(header, [row]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sets", nargs="+", choices=list(SETS), default=list(SETS))
    parser.add_argument("--models", nargs="+", choices=list(MODELS), default=list(MODELS))
    parser.add_argument("--mnist", choices=list(MNIST))
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--all", action="store_true", help="train on the validation images of MNIST too")
    parser.add_argument("--checkpoint", help="of the run on MNIST; it goes on where it was")
    parser.add_argument("--save", help="file for the model of MNIST")
    parser.add_argument("--orderings", type=int, default=1, help="averaged by MADE or OrderlessNADE on MNIST")
    given = parser.parse_args()
    if given.mnist:
        mnist(given)
    else:
        debd(given.sets, given.models)


if __name__ == "__main__":
    main()
