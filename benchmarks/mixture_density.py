"""How likely mixtures find what they have not seen: held-out log-likelihoods on data with published numbers.

    python benchmarks/mixture_density.py [mnist] [wine] [binary] [--families mixture,tree] [--sets nltcs,dna]

mnist   Binarized MNIST of fixed draws, a mixture of 500 products of Bernoullis: 50,000 images to learn from, nats of
        10,000 test images. Bar: at most 126.5 nats in under 60 s on two cores (remembered for this model: 137.64).
wine    Red wine as RNADE takes it: ten folds, standardised by the training part; law and number of components by the
        validation part of each fold, then fitted on both. Bar: -10.19 nats, the published mixture of factor analysers.
binary  Sets of bits with the standard splits: mixtures of 8, 32 or 128 components with 0.3, 1 or 3 pseudo-rows
        each, of which the validation part chooses, and the best tree (Chow and Liu). Bar: an earlier, plain EM.

Where the published figures come from, and which are from memory, is said in the notes on published numbers. The
validation parts only choose. The test parts are read once, at the end.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import numpy as np
from side_by_side import Others, machine, table

import plausible as pl
from plausible.space import Column, Table

DATA = Path(__file__).resolve().parents[2] / "shared" / "data"
PARTS = ("train", "valid", "test")
LAWS = (
    {"covariance": "full"},
    {"covariance": "full", "degrees": "fit"},
    {"covariance": "factors", "rank": 4, "degrees": "fit"},
)
# Settings to choose from, stage after stage: those of a later stage come on top of the best of the one before.
FAMILIES = {
    "mixture": (pl.Mixture, [[{"n_components": k} for k in (8, 32, 128)], [{"prior": a} for a in (0.3, 3.0)]]),
    "tree": (pl.BayesNet, [[{"structure": "tree"}]]),
}
# Nats of test rows, larger is better. The last is our own plain EM from before there was this package.
PUBLISHED = ("LearnSPN", "ID-SPN", "EiNet", "circuit", "NADE", "plain EM mixture")
BINARY = {
    "nltcs": (-6.11, -6.02, -6.015, -6.00, None, -6.011),
    "baudio": (-40.50, -39.79, -39.88, -39.62, None, -39.95),
    "accidents": (-30.04, -26.98, -35.59, -26.64, None, -35.58),
    "pumsb_star": (-24.78, -22.40, -31.95, -22.78, None, -30.60),
    "dna": (-82.52, -81.21, -96.09, -87.78, None, -97.89),
    "mushrooms": (None, None, None, None, -9.81, -14.64),
    "nips": (None, None, None, None, -273.08, -283.99),
    "bbc": (-250.69, -248.93, -248.33, -269.58, None, None),
}


def mnist(_: argparse.Namespace) -> str:
    """One fit of the settings that the validation images liked best."""
    train, valid, test = (np.load(DATA / "binarized_mnist" / f"{part}.npz")["images"] for part in PARTS)
    lines = []
    for iterations in (10, 20):
        model = pl.Mixture(n_components=500, n_init=1, max_iter=iterations, tol=0.0, random_state=0)
        started = time.perf_counter()
        model.fit(train)
        seconds = time.perf_counter() - started
        lines.append([iterations, f"{seconds:.1f}", *(f"{-model.score(x):.2f}" for x in (valid, test))])
    return table(["EM iterations", "fit, s", "validation, nats", "test, nats (bar: 126.5)"], lines)


def wine(_: argparse.Namespace) -> str:
    """Ten folds; a table of what was chosen and what came of it."""
    held = np.load(DATA / "rnade_red_wine" / "red_wine.npz")
    lines, scores, started = [], [], time.perf_counter()
    for fold in range(1, 11):
        train, valid, test = (held[f"fold{fold}_{part}"].astype(float) for part in PARTS)
        mean, deviation = (f(np.concatenate([train, valid]), axis=0) for f in (np.mean, np.std))
        train, valid, test = ((x - mean) / deviation for x in (train, valid, test))
        tried = {}
        for i, law in enumerate(LAWS):
            for k in (8, 16, 32):
                tried[i, k] = pl.Mixture(n_components=k, random_state=0, **law).fit(train).score(valid)
        best, k = max(tried, key=tried.get)
        model = pl.Mixture(n_components=k, random_state=0, **LAWS[best]).fit(np.concatenate([train, valid]))
        scores.append(model.score(test))
        chosen = ", ".join(f"{name} {value}" for name, value in LAWS[best].items())
        lines.append([fold, f"{chosen}, K = {k}", f"{tried[best, k]:.2f}", f"{scores[-1]:.2f}"])
    error = np.std(scores, ddof=1) / np.sqrt(10)
    lines.append(["all", f"{time.perf_counter() - started:.0f} s", "", f"**{np.mean(scores):.2f}** +- {error:.2f}"])
    return table(["fold", "chosen by the validation part", "validation, nats", "test, nats (bar: -10.19)"], lines)


def chosen(family: str, space: Table, train: np.ndarray, valid: np.ndarray) -> tuple[dict, Any]:
    """The settings of a family that the validation part likes best, and the model fitted with them."""
    make, stages = FAMILIES[family]
    found: list[tuple[float, dict, Any]] = []
    for stage in stages:
        base = max(found, key=lambda f: f[0])[1] if found else {}
        for more in stage:
            model = make(random_state=0, space=space, **base, **more).fit(train)
            found.append((model.score(valid), base | more, model))
    return max(found, key=lambda f: f[0])[1:]


def binary(given: argparse.Namespace) -> str:
    """A row per set: ours, then the published."""
    lines, families = [], given.families.split(",")
    for name in given.sets.split(","):
        published, held = BINARY[name], np.load(DATA / "debd_binary" / f"{name}.npz")
        train, valid, test = (held[part] for part in PARTS)
        # Said outright, as some columns are constant in the training part.
        columns = tuple(Column(f"x{d}", "binary", (0, 1), "uint8") for d in range(train.shape[1]))
        space = Table(columns, (train.shape[1],), array_dtype="uint8")
        cells = []
        for family in families:
            started = time.perf_counter()
            settings, model = chosen(family, space, train, valid)
            what = ", ".join(f"{key} {value}" for key, value in settings.items())
            cells += [f"{model.score(test):.3f} ({what})", f"{time.perf_counter() - started:.0f}"]
        shown = ["" if p is None else f"{p:.3f}" for p in published]
        lines.append([f"{name} ({train.shape[1]}, {len(train)})", *cells, *shown])
    header = [cell for family in families for cell in (f"ours: {family}", "all fits, s")]
    return table(["set (columns, rows)", *header, *PUBLISHED], lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    sections = {"mnist": mnist, "wine": wine, "binary": binary}
    parser.add_argument("sections", nargs="*", choices=[*sections, []], help="all if none is named")
    parser.add_argument("--families", default="mixture,tree", help="rows of the table of bits: " + ", ".join(FAMILIES))
    parser.add_argument("--sets", default=",".join(BINARY), help="of bits")
    given = parser.parse_args()
    for asked, known in ((given.families, FAMILIES), (given.sets, BINARY)):
        if set(asked.split(",")) - set(known):
            parser.error(f"expected some of {','.join(known)}, got {asked}")
    print(machine(), end="\n\n")
    for name in given.sections or sections:
        with Others() as others:
            lines = sections[name](given)
        print(f"{name} (others used {others})", lines, sep="\n\n", end="\n\n", flush=True)


if __name__ == "__main__":
    main()
