"""`given.impute` beside scikit-learn: cells hidden at random, what comes in their place, and how sure that is.

    python benchmarks/imputation.py [--tables concrete,wine] [--missing 0.3,0.5] [--seed 0] [--rows 500]

Of every table of numbers 30 % and 50 % of the cells are hidden completely at random, by masks of our own; no row is
held out, as the task is to fill the very table that is learned from. What is measured, over the hidden cells:

    NRMSE = root of the mean of ((true - filled) / standard deviation of the column)^2
    coverage = share of true values inside the 90 % intervals

The model is the same for all tables: mixtures of four sizes, each column bent into a normal first, fitted with the
holes to bootstrap samples of the rows (EMB) and weighted by how probable they find known cells of rows that their
sample lacks; the same cells calibrate the intervals (`plausible.Imputer`). What is filled in is the mean of the draws.
The others have a value only: means, nearest neighbours, and forests for each column in turn, as in missForest.

The settings of the model were chosen on the tables of `TUNED_ON`, which are shown too but do not count.

References: Honaker, King and Blackwell, Amelia II, 2011 (EMB). Stekhoven and Buehlmann, MissForest, 2012.
"""

from __future__ import annotations

import argparse
import time
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
from side_by_side import Others, machine, table
from sklearn.ensemble import RandomForestRegressor
from sklearn.exceptions import ConvergenceWarning
from sklearn.experimental import enable_iterative_imputer  # noqa: F401  (what makes IterativeImputer importable)
from sklearn.impute import IterativeImputer, KNNImputer, SimpleImputer
from sklearn.preprocessing import StandardScaler

import plausible as pl

DATA = Path(__file__).resolve().parents[2] / "shared" / "data"
REPORTED = ("concrete", "wine", "abalone", "banknote_authentication", "wheat-seeds", "housing")
TUNED_ON = ("autompg", "airfoil", "yacht", "energy")
SETTINGS = {"margins": "normal", "n_init": 1, "max_iter": 60, "tol": 1e-3, "prior": 3.0}
GRID = {"n_components": [1, 2, 4, 8]}
FITS, DRAWS = 20, 20  # bootstrap samples, and draws from the fit to each


def read(name: str, rows: int) -> pd.DataFrame:
    """Return the columns of numbers of a table; of a longer one, some rows: forests take their time."""
    folder = DATA / "uci_regression" / name
    path = folder / "data.csv.gz" if folder.is_dir() else DATA / "tabular_misc" / f"{name}.csv"
    X = pd.read_csv(path, header=None).select_dtypes("number").astype(float)
    X = X.loc[:, X.nunique() > 1]
    X.columns = [f"x{d}" for d in range(X.shape[1])]
    return X.sample(min(rows, len(X)), random_state=0).reset_index(drop=True)


def ours(holes: pd.DataFrame, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return what is filled in, and the lower and upper ends of the intervals: (n, D) each."""
    model = pl.Mixture(space={name: "real" for name in holes}, **SETTINGS)
    imputer = pl.Imputer(model, grid=GRID, fits=FITS, draws=DRAWS, random_state=seed).fit(holes)
    low, high = imputer.intervals(holes, level=0.9)
    return imputer.transform(holes).to_numpy(), low.to_numpy(), high.to_numpy()


def others(seed: int) -> dict[str, object]:
    forest = RandomForestRegressor(n_estimators=100, random_state=seed)
    return {
        "mean": SimpleImputer(),
        "kNN": KNNImputer(),
        "forests": IterativeImputer(forest, max_iter=10, random_state=seed),
    }


def line(name: str, share: float, seed: int, rows: int) -> tuple[list[str], bool, float]:
    """Return a line of the table, whether we err least, and the coverage."""
    X = read(name, rows)
    hidden = np.random.default_rng(seed).random(X.shape) < share
    holes, true = X.mask(hidden), X.to_numpy()
    scaler = StandardScaler()
    scaled = scaler.fit_transform(holes)  # distances and forests are of columns alike

    def error(filled: np.ndarray) -> float:
        return float(np.sqrt((((true - filled) / true.std(0)) ** 2)[hidden].mean()))

    found, seconds = {}, {}
    for other, imputer in others(seed).items():
        started = time.perf_counter()
        found[other] = error(scaler.inverse_transform(imputer.fit_transform(scaled)))
        seconds[other] = time.perf_counter() - started
    started = time.perf_counter()
    filled, low, high = ours(holes, seed)
    took = time.perf_counter() - started
    covered, own = float(((low <= true) & (true <= high))[hidden].mean()), error(filled)
    cells = [f"{found[other]:.3f}" for other in found]
    shown = [name, f"{len(X)} x {X.shape[1]}", f"{share:.0%}", *cells, f"**{own:.3f}**", f"{covered:.1%}"]
    return [*shown, f"{seconds['forests']:.0f}", f"{took:.0f}"], own < min(found.values()), covered


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tables", default=",".join((*REPORTED, *TUNED_ON)))
    parser.add_argument("--missing", default="0.3,0.5")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--rows", type=int, default=500, help="of a table, at most")
    asked = parser.parse_args()
    lines, verdict = [], {}
    with Others() as busy, warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        for name in asked.tables.split(","):
            for share in map(float, asked.missing.split(",")):
                shown, least, covered = line(name, share, asked.seed, asked.rows)
                lines.append(shown)
                print("#", *shown, flush=True)  # as it goes
                if name in REPORTED:
                    verdict.setdefault(share, []).append((least, covered))
    print(f"{machine()}; others used {busy}", end="\n\n")
    header = ["table", "rows x columns", "hidden", "mean", "kNN", "forests", "ours", "90 % intervals cover"]
    print(table([*header, "forests, s", "ours, s"], lines), end="\n\n")
    for share, found in verdict.items():
        least, inside = sum(least for least, _ in found), sum(abs(covered - 0.9) <= 0.03 for _, covered in found)
        print(
            f"{share:.0%} hidden, of {len(found)} tables: least error on {least}, coverage within 3 % of 90 on {inside}"
        )


if __name__ == "__main__":
    main()
