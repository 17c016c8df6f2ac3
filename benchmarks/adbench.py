"""Anomalies in the 22 tables of ADBench that are at hand: AUC-ROC beside the published columns, and time beside PyOD.

    python benchmarks/adbench.py                       # both protocols
    python benchmarks/adbench.py --sets wine,thyroid   # some sets
    python benchmarks/adbench.py --pyod                # and PyOD's KNN, ECOD and IForest, with times, where installed

Two protocols, both fitted on half of the normal rows and judged on the other half and all anomalies:

  published   what the DTE authors' code does: sets under 1,000 rows resampled to 1,000 (copies of training rows are in
              the test half), sets over 50,000 subsampled, the first half of the normal rows in that order; seeds 0 to 4
  shuffled    no resampling, the half drawn at random; what is to be trusted

`kNN` is the distance to the fifth neighbour in columns standardised by the training rows, which is the published KNN
column. `default` is the score of AnomalyDetector without arguments, here from all training rows, as the published ones
are; `AnomalyDetector` is the estimator as it comes, which keeps a quarter of the rows for its p-values.
Bar: kNN within 0.1 of the published column where that has no chance in it; the mean of `default` above every published
column.
"""

from __future__ import annotations

import argparse
import csv
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from side_by_side import machine, table
from sklearn.metrics import roc_auc_score
from sklearn.neighbors import NearestNeighbors

from plausible.uses import anomaly

DATA = Path(__file__).resolve().parents[2] / "shared" / "data" / "adbench_classical"
SEEDS = range(5)
LEAST, MOST = 1000, 50_000  # rows, between which the published protocol draws nothing at random
Split = tuple[np.ndarray, np.ndarray, np.ndarray]  # training rows, test rows, labels of these


def published_split(X: np.ndarray, y: np.ndarray, seed: int) -> Split:
    draw = np.random.RandomState(seed)
    if len(y) < LEAST or len(y) > MOST:
        rows = draw.choice(len(y), LEAST if len(y) < LEAST else MOST, replace=len(y) < LEAST)
        X, y = X[rows], y[rows]
    return halves(X, y, np.flatnonzero(y == 0))


def shuffled_split(X: np.ndarray, y: np.ndarray, seed: int) -> Split:
    rng = np.random.default_rng(seed)
    if len(y) > MOST:
        rows = rng.choice(len(y), MOST, replace=False)
        X, y = X[rows], y[rows]
    return halves(X, y, rng.permutation(np.flatnonzero(y == 0)))


def halves(X: np.ndarray, y: np.ndarray, normal: np.ndarray) -> Split:
    half = round(0.5 * len(normal))
    test = np.concatenate([normal[half:], np.flatnonzero(y == 1)])
    return X[normal[:half]], X[test], y[test]


def knn(train: np.ndarray, test: np.ndarray) -> np.ndarray:
    mean, scale = train.mean(0), train.std(0)
    scale[scale < 10 * np.finfo(float).eps] = 1.0
    index = NearestNeighbors(n_neighbors=5).fit((train - mean) / scale)
    return index.kneighbors((test - mean) / scale)[0][:, -1]


def default(train: np.ndarray, test: np.ndarray) -> np.ndarray:
    return anomaly.Neighbours().fit(train).distance(test)


def detector(train: np.ndarray, test: np.ndarray) -> np.ndarray:
    return -anomaly.AnomalyDetector(random_state=0, alpha=0.1).fit(train).score_samples(test)


def pyod_methods() -> dict:
    from pyod.models.ecod import ECOD
    from pyod.models.iforest import IForest
    from pyod.models.knn import KNN

    def scored(make):
        def run(train, test):
            mean, scale = train.mean(0), np.where(train.std(0) > 0, train.std(0), 1.0)
            return make().fit((train - mean) / scale).decision_function((test - mean) / scale)

        return run

    return {
        "PyOD KNN": scored(KNN),
        "PyOD ECOD": scored(ECOD),
        "PyOD IForest": scored(lambda: IForest(random_state=0)),
    }


def sets(names: list[str]) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    for path in sorted(DATA.glob("*.npz"), key=lambda p: int(p.stem.split("_")[0])):
        if not names or path.stem.split("_", 1)[1] in names:
            arrays = np.load(path)
            yield path.stem, arrays["X"].astype(np.float64), arrays["y"]


def published() -> dict[str, dict[str, float]]:
    with open(DATA / "published_aucroc_semi.csv") as file:
        rows = list(csv.DictReader(file))
    columns = [name.removesuffix("_mean") for name in rows[0] if name.endswith("_mean")]
    return {row["dataset"]: {c: float(row[f"{c}_mean"]) for c in columns} for row in rows}


def run(protocol: str, methods: dict, names: list[str], known: dict, n_seeds: int) -> None:
    split = published_split if protocol == "published" else shuffled_split
    found: dict[str, dict[str, float]] = {}
    seconds = dict.fromkeys(methods, 0.0)
    for name, X, y in sets(names):
        chance = protocol == "shuffled" or not LEAST <= len(y) <= MOST
        aucs: dict[str, list[float]] = {m: [] for m in methods}
        for seed in list(SEEDS)[: n_seeds if chance else 1]:
            train, test, labels = split(X, y, seed)
            for method, score in methods.items():
                started = time.perf_counter()
                s = score(train, test)
                seconds[method] += time.perf_counter() - started
                aucs[method].append(100 * roc_auc_score(labels, s))
        found[name] = {m: float(np.mean(v)) for m, v in aucs.items()}
        print(name, {m: round(v, 2) for m, v in found[name].items()}, flush=True)
    beside = ["KNN", "DTE-NP", "LOF", "ECOD", "IForest"] if protocol == "published" else []
    rows = [[n, *(f"{known[n][c]:.2f}" for c in beside), *(f"{v:.2f}" for v in f.values())] for n, f in found.items()]
    means = {m: np.mean([f[m] for f in found.values()]) for m in methods}
    mean_known = {c: np.mean([known[n][c] for n in found]) for c in next(iter(known.values()))}
    rows.append(["mean", *(f"{mean_known[c]:.2f}" for c in beside), *(f"{v:.2f}" for v in means.values())])
    rows.append(["seconds", *([""] * len(beside)), *(f"{v:.1f}" for v in seconds.values())])
    print(f"\n{protocol} protocol, {len(found)} sets\n")
    print(table(["set", *(f"{c} (published)" for c in beside), *methods], rows))
    if protocol != "published":
        return
    sizes = {name: len(y) for name, _, y in sets(names)}
    fixed = [n for n in found if LEAST <= sizes[n] <= MOST]
    if fixed:
        off = max(abs(found[n]["kNN"] - known[n]["KNN"]) for n in fixed)
        print(f"\nkNN against the published column, {len(fixed)} sets without chance: at most {off:.3f} apart")
    whole = [n for n in found if sizes[n] >= LEAST]
    for label, members in (("all sets", list(found)), ("sets that are not resampled", whole)):
        best = max(next(iter(known.values())), key=lambda c, m=members: np.mean([known[n][c] for n in m]))
        theirs, ours = (
            np.mean([source[n][key] for n in members]) for source, key in ((known, best), (found, "default"))
        )
        print(f"{label} ({len(members)}): default {ours:.2f}, best published column {best} {theirs:.2f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sets", default="", help="names, with commas between")
    parser.add_argument("--protocol", choices=("published", "shuffled", "both"), default="both")
    parser.add_argument("--seeds", type=int, default=5, help="where there is chance in a split")
    parser.add_argument("--pyod", action="store_true")
    given = parser.parse_args()
    methods = {"kNN": knn, "default": default, "AnomalyDetector": detector}
    if given.pyod:
        methods |= pyod_methods()
    known, names = published(), [n for n in given.sets.split(",") if n]
    for protocol in ("published", "shuffled") if given.protocol == "both" else (given.protocol,):
        run(protocol, methods, names, known, given.seeds)
    print(f"\n{machine()}")


if __name__ == "__main__":
    main()
