"""Exact answers of a Bayesian network: 200 questions each to alarm (37 variables), and log p of 10,000 incomplete rows.

    python benchmarks/bayes_net_queries.py

The network is read from `../shared/data/bayes_nets`. Questions are random: up to five known variables, their levels
those of a draw of the network. The reference is numpy's einsum over the tables (other code, another order of the sums);
a most likely explanation is held against all changes of two variables. One thread: the tables are small. The time of a
question includes the choice of its order of elimination; medians, and the longest. The time of the processor is what is
left where others use the machine too.
Bar: within 1e-10 of the reference, each question under 10 ms.
"""

from __future__ import annotations

import argparse
import gc
import itertools
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from side_by_side import Others, machine, table

import plausible as pl
from plausible.families.direct import _elimination as elimination
from plausible.uses import given

FOLDER = Path(__file__).parents[2] / "shared" / "data" / "bayes_nets"


def questions(model, n: int) -> list[tuple[dict[int, int], tuple[int, int]]]:
    """Known levels, and two variables to ask about."""
    rng = np.random.default_rng(0)
    asked = []
    for i, row in enumerate(model.module_.sample(n, rng=torch.Generator().manual_seed(0)).long().tolist()):
        chosen = rng.permutation(len(row)).tolist()
        asked.append(({v: row[v] for v in chosen[: i % 6]}, (chosen[6], chosen[7])))
    return asked


def contracted(factors, keep, evidence) -> np.ndarray:
    """p(keep, evidence) by numpy's einsum."""
    operands = []
    for f in factors:
        index = tuple(evidence.get(v, slice(None)) for v in f.variables)
        operands += [f.log_table.exp().numpy()[index], [v for v in f.variables if v not in evidence]]
    return np.einsum(*operands, list(keep), optimize="greedy")


def timed(ask: Callable, asked: list) -> tuple[list, list[float], list[float]]:
    """Answers, and milliseconds of each: on the clock, and of the processor."""
    answers, clock, processor = [], [], []
    for evidence, keep in asked:
        start, own = time.perf_counter(), time.thread_time()
        answers.append(ask(evidence, keep))
        clock.append(1e3 * (time.perf_counter() - start))
        processor.append(1e3 * (time.thread_time() - own))
    return answers, clock, processor


def gain_of_two_changes(factors, levels: torch.Tensor, evidence: dict[int, int]) -> float:
    """How much more likely, in nats, levels (V,) become by changing two unknown ones: zero if nothing is better."""
    cards = {f.child: f.log_table.shape[f.variables.index(f.child)] for f in factors}
    free = [v for v in cards if v not in evidence]
    changes = [
        (v, a, w, b) for v, w in itertools.combinations(free, 2) for a in range(cards[v]) for b in range(cards[w])
    ]
    rows = levels.repeat(len(changes), 1)
    v, a, w, b = torch.tensor(changes).T
    at = torch.arange(len(rows))
    rows[at, v], rows[at, w] = a.double(), b.double()
    return float(elimination.log_evidence(factors, rows).max() - elimination.log_evidence(factors, levels[None])[0])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--network", default="alarm")
    parser.add_argument("--questions", type=int, default=200)
    parser.add_argument("--rows", type=int, default=10_000)
    options = parser.parse_args()
    torch.set_num_threads(1)
    model = pl.load(FOLDER / f"{options.network}.bif")
    factors, columns = model.module_.factors(), model.space_.columns
    asked = questions(model, options.questions)
    rng = torch.Generator().manual_seed(1)

    def in_words(evidence, keep):
        known = {columns[v].name: columns[v].levels[k] for v, k in evidence.items()}
        return given.table(model, columns[keep[0]].name, known).to_numpy()

    one = [contracted(factors, keep[:1], evidence) for evidence, keep in asked]
    two = [contracted(factors, keep, evidence) for evidence, keep in asked]
    conditional = [p / p.sum() for p in one]

    def apart(found, truth) -> str:
        return f"{max(float(np.abs(np.asarray(a) - b).max()) for a, b in zip(found, truth, strict=True)):.0e}"

    def of_first(found) -> str:
        return apart([f[keep[0]] for f, (_, keep) in zip(found, asked, strict=True)], conditional)

    def of_two(found) -> str:
        best = [p[tuple(f[list(keep)].long())] for f, p, (_, keep) in zip(found, two, asked, strict=True)]
        return apart(best, [p.max() for p in two])

    def changed(found) -> str:
        gains = [gain_of_two_changes(factors, f, e) for f, (e, _) in zip(found[:20], asked, strict=False)]
        return f"two changes gain {max(gains):.0e} nats"

    # What is asked, and what is made of the answers.
    asks: dict[str, tuple[Callable, Callable]] = {
        "log p(evidence)": (
            lambda e, k: elimination.log_evidence(factors, e),
            lambda found: apart([f.exp() for f in found], [p.sum() for p in one]),
        ),
        "p(a, evidence)": (
            lambda e, k: elimination.marginal(factors, k[:1], e).log_table,
            lambda found: apart([f.exp() for f in found], one),
        ),
        "p(a, b, evidence)": (
            lambda e, k: elimination.marginal(factors, k, e).log_table,
            lambda found: apart([f.exp() for f in found], two),
        ),
        "p(v given evidence) of all v": (lambda e, k: elimination.posteriors(factors, e), of_first),
        "most likely levels of all": (lambda e, k: elimination.maximise(factors, e), changed),
        "most likely levels of two": (lambda e, k: elimination.maximise(factors, e, over=k), of_two),
        "a draw of all": (lambda e, k: elimination.sample(factors, e, rng=rng), lambda found: ""),
        "p(a given evidence) in words, `given.table`": (in_words, lambda found: apart(found, conditional)),
    }
    gc.collect()
    gc.freeze()  # else one question in a thousand waits for Python to look through all of torch and pandas
    lines = []
    with Others() as others:
        for name, (ask, check) in asks.items():
            timed(ask, asked[:5])
            found, clock, processor = timed(ask, asked)
            times = [f"{np.median(ms):.2f} ({max(ms):.2f})" for ms in (clock, processor)]
            lines.append([name, *times, check(found)])
    print(machine(), f"others used {others}", "bar: 10 ms, 1e-10", sep="; ", end="\n\n")
    print(
        table(
            [f"{options.network}, {len(asked)} questions", "ms (most)", "of the processor", "off the reference"], lines
        )
    )

    rows = model.module_.sample(options.rows, rng=rng)
    complete = rows.clone()
    rows[torch.rand(rows.shape, generator=rng) < 0.3] = torch.nan
    frame = model.space_.decode(rows)
    works: dict[str, Callable] = {
        "log p, complete": lambda: elimination.log_evidence(factors, complete),
        "log p": lambda: elimination.log_evidence(factors, rows),
        "log p of a DataFrame, `model.log_prob`": lambda: model.log_prob(frame),
        "expected counts of all tables (a step of EM)": lambda: elimination.expected_counts(factors, rows),
        "a draw of what is missing": lambda: elimination.sample(factors, rows, rng=rng),
        "most likely levels": lambda: elimination.maximise(factors, rows),
    }
    lines = []
    for name, work in works.items():
        seconds = []
        for _ in range(3):
            start = time.perf_counter()
            work()
            seconds.append(time.perf_counter() - start)
        lines.append([name, f"{np.median(seconds):.3f}"])
    print()
    print(table([f"{options.rows:,} rows with 30 % of the cells missing", "s"], lines))


if __name__ == "__main__":
    main()
