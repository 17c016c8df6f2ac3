"""Red wine in RNADE's ten folds: `NADE` with mixtures of normals and of Laplaces, and `MADE` averaged over orderings.

    python benchmarks/red_wine.py [--folds 1 2 ...] [--models NADE-MoG ...] [--validate]

As published: standardised by the training part, mean test log-likelihood in nats of standardised rows, averaged over
the folds. A model is fitted on the training part and stopped by a tenth of it; settings are the same in all folds, and
were chosen with `--validate`, which scores the validation parts and never opens a test part.
Bar: -9.1. Published (Uria et al., 2013): RNADE-MoG -9.36, RNADE-MoL -9.46, mixture of factor analysers -10.19.
"""

from __future__ import annotations

import argparse
import ast
import time
from pathlib import Path
from typing import Any

import numpy as np
from side_by_side import Others, machine, table

import plausible as pl

FILE = Path(__file__).resolve().parents[2] / "shared" / "data" / "rnade_red_wine" / "red_wine.npz"
MODELS: dict[str, tuple[Any, dict[str, Any]]] = {
    "NADE-MoG": (pl.NADE, {"hidden": 100, "components": 20, "epochs": 30, "learning_rate": 3e-3, "patience": None}),
    "NADE-MoL": (
        pl.NADE,
        {"hidden": 100, "components": 20, "epochs": 30, "learning_rate": 3e-3, "patience": None, "reals": "laplace"},
    ),
    "MADE x 16": (
        pl.MADE,
        {"hidden": (300, 300), "components": 20, "orderings": 16, "epochs": 300, "dropout": 0.2, "patience": 20},
    ),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folds", nargs="+", type=int, default=list(range(1, 11)))
    parser.add_argument("--models", nargs="+", choices=list(MODELS), default=list(MODELS))
    parser.add_argument("--validate", action="store_true", help="score the validation parts instead")
    parser.add_argument("--set", nargs="*", default=[], metavar="NAME=VALUE", help="other settings")
    given = parser.parse_args()
    changes = {name: ast.literal_eval(value) for name, value in (one.split("=") for one in given.set)}
    held = np.load(FILE, allow_pickle=False)
    rows = []
    with Others() as others:
        for name in given.models:
            make, settings = MODELS[name]
            scores, started = [], time.perf_counter()
            for fold in given.folds:
                train, valid, test = (held[f"fold{fold}_{part}"].astype(float) for part in ("train", "valid", "test"))
                mean, deviation = train.mean(0), train.std(0)
                model = make(random_state=0, **(settings | changes)).fit((train - mean) / deviation)
                scores.append(model.score(((valid if given.validate else test) - mean) / deviation))
                print(f"{name}, fold {fold}: {scores[-1]:.3f}, kept {model.kept_epoch_}", flush=True)
            error = np.std(scores, ddof=1) / len(scores) ** 0.5 if len(scores) > 1 else float("nan")
            seconds = f"{time.perf_counter() - started:.0f}"
            rows.append([name, f"**{np.mean(scores):.2f}** ± {error:.2f}", f"{min(scores):.2f}", seconds])
    print(f"\n{machine()}; {len(given.folds)} folds; others used {others}\n")
    part = "validation" if given.validate else "test"
    print(table(["", f"{part} nats (bar -9.1)", "worst fold", "all fits, s"], rows))


if __name__ == "__main__":
    main()
