"""Compare a dozen families on two real data sets that are there after installation, and write a report on each.

    make demo          or, where plausible is installed:   python examples/demo.py [FOLDER]

1. The handwritten digits that ship with scikit-learn: 1,797 images of 8 x 8 pixels with 17 levels, modelled as the
   discrete data they are.
2. A mixed table made from scikit-learn's diabetes data: 442 patients; reals, counts, a binary column and a category.

Each family gets its share of a budget in seconds; all are judged on the same held-out examples.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import plausible as pl

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # before torch: see plausible.cli.commands.main

# One or two of every way of writing p(x), so that each has time: `plausible compare` takes all that can.
SHARED = ("independent", "gaussian", "mixture", "bayes_net", "made", "coupling_flow", "vae", "diffusion", "gan")
MODELS = {
    "digits": (*SHARED, "histogram", "fvsbn", "pixel_cnn"),
    "diabetes": (*SHARED, "named_law", "histogram", "kernel_density"),
}
BUDGETS = {"digits": 100, "diabetes": 50}  # seconds
TITLES = {"digits": "Handwritten digits", "diabetes": "Patients with diabetes"}
FILES = {"digits": "digits.html", "diabetes": "table.html"}


def say(done: int, total: int, what: str) -> None:
    """Show what happens now, on a terminal only."""
    if sys.stderr.isatty():
        line = f"  {done}/{total} {what}" if done < total else ""
        print(f"\r\033[K{line}", end="", file=sys.stderr, flush=True)


def main(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, budget in BUDGETS.items():
        found = pl.compare(
            name,
            MODELS[name],
            budget=budget,
            random_state=0,
            title=TITLES[name],
            command=f"plausible compare {name} --models {','.join(MODELS[name])} --budget {budget}s --seed 0",
            progress=say,
        )
        print(f"\n{TITLES[name]}\n\n{found}\n")
        print(f"report: {found.report(folder / FILES[name])}")


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "demo"))
