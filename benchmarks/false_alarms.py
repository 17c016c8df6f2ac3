"""Do detectors keep the rate of false alarms that they promise? Every family, on clean rows that it has not seen.

    python benchmarks/false_alarms.py
    python benchmarks/false_alarms.py --families gaussian,gan

For each of 20 seeds: 200 rows to fit, 1,999 to calibrate, 200 to judge, all from one source of the audit's made-up
data, so that every flag is a false alarm. Nothing is said about the model: the fits are short, and some are bad. Flags
are `is_anomaly`, which with ties (rows of levels repeat) flags fewer than alpha; smoothed are p-values whose ties are
broken at random, which promise alpha exactly. The interval is binomial for 4,000 verdicts, two-sided at 99.9 %, as
there are some sixty of them; that the 200 verdicts of a seed share their calibration rows widens the truth by a
twentieth.
Bar: flags not above the interval, smoothed inside it.
"""

from __future__ import annotations

import argparse
import time
import warnings

import numpy as np
from scipy.stats import binom
from side_by_side import machine, table

from plausible import registry
from plausible.checks.cases import accepted
from plausible.data import take
from plausible.space import infer
from plausible.uses import anomaly

SEEDS, FIT, CALIBRATION, JUDGED = 20, 200, 1999, 200
ALPHAS = (0.01, 0.05)
LEVEL = 0.999
SHORT = {"epochs": 2, "hidden": 8, "layers": 1, "blocks": 1, "steps": 4, "sampling_steps": 4, "n_components": 2}
# The most that a family can model comes first.
ORDER = ("a table of levels and a real", "four reals", "bits", "images", "strings", "series")


def short(name: str):
    cls = registry.get(name)
    own = cls().get_params()
    chosen = {k: v for k, v in SHORT.items() if k in own}
    return cls(**{k: (v,) if isinstance(own[k], tuple) else v for k, v in chosen.items()})


def source(name: str):
    """The first sort of data in `ORDER` that the family can model, or whatever it can."""
    found = {case.name: case for case in accepted(short(name))}
    return next((found[n] for n in ORDER if n in found), next(iter(found.values())))


def rates(make, case, score: str) -> tuple[list[float], list[float], str]:
    """Shares flagged and smoothed at each alpha, and what the score is."""
    flagged, smoothed, label = np.zeros(len(ALPHAS)), np.zeros(len(ALPHAS)), ""
    for seed in range(SEEDS):
        X = case.draw(FIT + CALIBRATION + JUDGED, seed)
        parts = np.split(np.arange(FIT + CALIBRATION + JUDGED), [FIT, FIT + CALIBRATION])
        train, clean, judged = (take(X, part) for part in parts)
        model = make().set_params(random_state=seed, space=infer(X)).fit(train)
        judge = anomaly.detector(model, clean, score, random_state=seed)
        smooth = judge.p_value(judged, smooth=True, random_state=seed)
        for i, alpha in enumerate(ALPHAS):
            flagged[i] += judge.is_anomaly(judged, alpha).sum()
            smoothed[i] += (smooth <= alpha).sum()
        label = judge.label
    n = SEEDS * JUDGED
    return list(flagged / n), list(smoothed / n), label


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--families", default="", help="names, with commas between")
    given = parser.parse_args()
    warnings.simplefilter("ignore")
    names = given.families.split(",") if given.families else registry.names()
    tried = [(name, "auto") for name in names]
    tried += [("gaussian", s) for s in ("typicality", "complexity", "neighbours") if "gaussian" in names]
    n = SEEDS * JUDGED
    intervals = [np.array(binom.interval(LEVEL, n, alpha)) / n for alpha in ALPHAS]
    started, rows, outside = time.perf_counter(), [], []
    for name, score in tried:
        case = source(name)
        flagged, smoothed, label = rates(lambda name=name: short(name), case, score)
        kept = all(
            f <= high and low <= s <= high for f, s, (low, high) in zip(flagged, smoothed, intervals, strict=True)
        )
        shares = [f"{100 * v:.2f}" for pair in zip(flagged, smoothed, strict=True) for v in pair]
        rows.append([name, case.name, label.split(" (")[0], *shares, "yes" if kept else "NO"])
        outside += [] if kept else [f"{name} ({score})"]
        print(" ".join(map(str, rows[-1])), flush=True)
    header = ["family", "data", "score"]
    header += [f"{what} at {alpha:.0%}, %" for alpha in ALPHAS for what in ("flagged", "smoothed")]
    print(f"\n{table([*header, 'kept'], rows)}\n")
    for alpha, (low, high) in zip(ALPHAS, intervals, strict=True):
        print(f"alpha = {alpha:.0%}: {100 * low:.2f} to {100 * high:.2f} % of {n:,} verdicts")
    print(f"outside: {', '.join(outside) or 'none'}; {time.perf_counter() - started:.0f} s; {machine()}")


if __name__ == "__main__":
    main()
