"""`given` on binarised digits, half of the pixels known: is it exact, do known pixels stay, how many draws a second.

    python benchmarks/given.py [--models mixture] [--minutes 5] [--images 100]

Exactness is held against brute force where that is possible: of a test image 10 pixels are hidden, and all 1,024 ways
to fill them are gone through. For a model that integrates cells out, p(way | the rest) is then p(image) over the sum of
these, from `log_prob` of whole images alone; for one that takes the known cells first, it is the product of 10
conditionals, each from a pass of the net of its own. Printed are the largest difference of log p(way | the rest) from
`given.log_prob`, and the p-value of a chi-squared test of 20,000 draws of `given.sample` against the 1,024
probabilities.
"""

from __future__ import annotations

import argparse
import itertools
import time
import warnings
from pathlib import Path

import numpy as np
import torch
from scipy import stats
from side_by_side import Others, machine, table

import plausible as pl
from plausible.uses import given

DATA = Path(__file__).resolve().parents[2] / "shared" / "data" / "binarized_mnist"
MODELS = ("orderless NADE", "mixture")
HIDDEN, DRAWS = 10, 20_000


def images(part: str) -> np.ndarray:
    return np.load(DATA / f"{part}.npz", allow_pickle=False)["images"]


def fitted(name: str, minutes: float, rows: int) -> pl.OrderlessNADE | pl.Mixture:
    X, budget = images("train")[:rows], 60 * minutes
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", pl.errors.BudgetWarning)
        if name == "mixture":
            return pl.Mixture(n_components=100, n_init=1, budget=budget, random_state=0).fit(X)
        return pl.OrderlessNADE(hidden=(500,), budget=budget, patience=None, random_state=0).fit(X)


def by_force(model: pl.OrderlessNADE | pl.Mixture, ways: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Return log p(way | what is not masked) of images (m, 28, 28), without the functions that are tested."""
    if model.traits.given == "exact":
        whole = model.log_prob(ways)
        return whole - np.logaddexp.reduce(whole)
    module = model._evaluator()
    z = torch.from_numpy(ways).reshape(len(ways), -1).double()
    known = torch.from_numpy(~mask).reshape(1, -1).expand(len(z), -1).clone()
    log_p = torch.zeros(len(z), dtype=torch.float64)
    with torch.no_grad():
        for d in np.flatnonzero(mask):
            on = module.given_known(z, known)[:, d]
            log_p += torch.nn.functional.logsigmoid(torch.where(z[:, d] == 1, on, -on))
            known[:, d] = True
    return log_p.numpy()


def line(name: str, model: pl.OrderlessNADE | pl.Mixture, n_images: int) -> list[str]:
    rng = np.random.default_rng(0)
    X = rng.permutation(images("test"))[:n_images]
    # ten pixels of one image, from among those that vary
    mask = np.zeros(28 * 28, dtype=bool)
    mask[rng.choice(np.flatnonzero((images("train")[:2000].mean(0) > 0.2).ravel()), HIDDEN, replace=False)] = True
    mask = mask.reshape(28, 28)
    ways = np.repeat(X[:1], 2**HIDDEN, 0)
    ways[:, mask] = list(itertools.product((0, 1), repeat=HIDDEN))
    truth = by_force(model, ways, mask)
    off = np.abs(given.log_prob(model, ways, ~mask) - truth).max()
    drawn = given.sample(model, np.repeat(X[:1], DRAWS, 0), mask=mask, random_state=0)
    place = drawn[:, mask] @ 2 ** np.arange(HIDDEN)[::-1]
    expected, observed = DRAWS * np.exp(truth), np.bincount(place, minlength=2**HIDDEN)
    rare = expected < 5  # taken together
    expected = np.append(expected[~rare], expected[rare].sum())
    observed = np.append(observed[~rare], observed[rare].sum())
    p = stats.chisquare(observed, expected / expected.sum() * DRAWS).pvalue
    # half of the pixels, chosen at random and in one piece
    cells, same = {"random half": rng.random(X.shape) < 0.5, "lower half": np.arange(28)[:, None] >= 14}, True
    speed = []
    for hidden in cells.values():
        hidden = np.broadcast_to(hidden, X.shape)
        shown = np.where(hidden, 0, X)  # what is hidden is not there to be seen
        started = time.perf_counter()
        full = given.sample(model, shown, mask=hidden, random_state=0)
        speed.append(f"{len(X) / (time.perf_counter() - started):.0f}")
        same &= bool((full[~hidden] == X[~hidden]).all())
    score = model.log_prob(X).mean()
    total = np.logaddexp.reduce(truth)
    return [name, f"{score:.1f}", f"{off:.1e}", f"{abs(total):.1e}", f"{p:.2f}", "yes" if same else "NO", *speed]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", default=",".join(MODELS))
    parser.add_argument("--minutes", type=float, default=5.0, help="of each fit, at most")
    parser.add_argument("--rows", type=int, default=50_000, help="training images")
    parser.add_argument("--images", type=int, default=100, help="that are completed")
    asked = parser.parse_args()
    with Others() as others:
        names = asked.models.split(",")
        lines = [line(name, fitted(name, asked.minutes, asked.rows), asked.images) for name in names]
    print(f"{machine()}; others used {others}", end="\n\n")
    header = ["model", "test, nats", "off, nats", "log of the sum", "p of draws", "known pixels identical"]
    print(table([*header, "draws a second, random half", "lower half"], lines))


if __name__ == "__main__":
    main()
