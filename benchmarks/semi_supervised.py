"""What unlabelled examples add to few labels: accuracy against the number of labels, with and without them.

    python benchmarks/semi_supervised.py [--seeds 10]

digits      load_digits of scikit-learn, 8x8 pixels, ten classes: as bits (pixels of 8 or more), naive Bayes
seeds       wheat kernels of three kinds, seven lengths (shared/data/tabular_misc): a normal for each class
banknotes   genuine or forged, four statistics of pictures (the same folder): a normal for each class, and a mixture

Half of the examples are held out; of the other half so many of each class keep their label, the rest is unlabelled.
`labelled only` is `BayesClassifier` on those with a label; EM is `SemiSupervisedClassifier`, unlabelled examples with
weight 1 or 0.1; `self-training` is scikit-learn's, around the same `BayesClassifier`. Mean accuracy on the held-out
half over the seeds, with its standard error; `all labels` is what the half gives with none blanked.
"""

from __future__ import annotations

import argparse
import time
import warnings
from pathlib import Path

import numpy as np
from side_by_side import machine, table
from sklearn.datasets import load_digits
from sklearn.semi_supervised import SelfTrainingClassifier

import plausible as pl
from plausible.uses.semi_supervised import SemiSupervisedClassifier

DATA = Path(__file__).resolve().parents[2] / "shared" / "data" / "tabular_misc"


def digits() -> tuple[np.ndarray, np.ndarray]:
    X, y = load_digits(return_X_y=True)
    return (X >= 8).astype(np.uint8), y


def from_file(name: str) -> tuple[np.ndarray, np.ndarray]:
    rows = np.loadtxt(DATA / f"{name}.csv", delimiter=",")
    return rows[:, :-1], rows[:, -1].astype(int)


# name -> (examples, labels), the model of a class, labels a class
TASKS = {
    "digits, naive Bayes": (digits, pl.NaiveBayes(random_state=0), (2, 5, 10, 25)),
    "seeds, a normal a class": (lambda: from_file("wheat-seeds"), pl.Gaussian(random_state=0), (3, 8, 12, 20)),
    "banknotes, a normal a class": (
        lambda: from_file("banknote_authentication"),
        pl.Gaussian(random_state=0),
        (3, 6, 12, 50),
    ),
    "banknotes, a mixture a class": (
        lambda: from_file("banknote_authentication"),
        pl.Mixture(n_components=4, n_init=1, random_state=0),
        (12, 50),
    ),
}


def accuracies(X: np.ndarray, y: np.ndarray, model, labels: int, seed: int) -> dict[str, float]:
    """Of every way to learn from so many labels a class."""
    order = np.random.default_rng(seed).permutation(len(y))
    train, test = order[: len(y) // 2], order[len(y) // 2 :]
    kept = np.concatenate([train[y[train] == c][:labels] for c in np.unique(y)])
    few = np.where(np.isin(train, kept), y[train], -1)
    ways = {
        "labelled only": pl.BayesClassifier(model).fit(X[kept], y[kept]),
        "EM": SemiSupervisedClassifier(model, max_iter=20).fit(X[train], few),
        "EM, weight 0.1": SemiSupervisedClassifier(model, unlabelled_weight=0.1, max_iter=20).fit(X[train], few),
        "self-training": SelfTrainingClassifier(pl.BayesClassifier(model), threshold=0.95).fit(X[train], few),
        "all labels": pl.BayesClassifier(model).fit(X[train], y[train]),
    }
    return {name: float((found.predict(X[test]) == y[test]).mean()) for name, found in ways.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--tasks", default=",".join(TASKS), help="those whose name begins so")
    given = parser.parse_args()
    warnings.simplefilter("ignore")  # of self-training, where no further example is sure
    print(machine(), end="\n\n")
    for name, (load, model, numbers) in TASKS.items():
        if not any(name.startswith(asked.strip()) for asked in given.tasks.split(",")):
            continue
        X, y = load()
        lines, started = [], time.perf_counter()
        for labels in numbers:
            found = [accuracies(X, y, model, labels, seed) for seed in range(given.seeds)]
            values = {way: np.array([f[way] for f in found]) for way in found[0]}
            cells = [f"{v.mean():.3f} ± {v.std(ddof=1) / np.sqrt(len(v)):.3f}" for v in values.values()]
            gain = values["EM"] - values["labelled only"]
            cells.append(f"{gain.mean():+.3f} ± {gain.std(ddof=1) / np.sqrt(len(gain)):.3f}")
            lines.append([labels, *cells])
        header = ["labels a class", *values, "EM − labelled only"]
        print(f"{name} ({len(y)} examples, {given.seeds} seeds, {time.perf_counter() - started:.0f} s)\n")
        print(table(header, lines), end="\n\n", flush=True)


if __name__ == "__main__":
    main()
