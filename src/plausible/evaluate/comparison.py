"""What a comparison found: the rows, their order, and how they are shown.

Order. Exact likelihoods on the measure of the data are ranked by their means. A lower bound stands above the first
ranked row that it provably beats (see `likelihood.verdict`), and otherwise below all of them, without a rank: its
truth may be anywhere above. Upper bounds and estimates stand below too, since they may flatter themselves. Then come
models without a likelihood, those whose samples are hardest to tell from real ones first; then the skipped and failed.
"""

from __future__ import annotations

import math
import os
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from plausible import __version__
from plausible.errors import PlausibleError
from plausible.evaluate import wording
from plausible.evaluate.examples import as_json
from plausible.evaluate.likelihood import MARKS, Difference, Likelihood, difference, finite, verdict
from plausible.evaluate.novelty import Novelty
from plausible.evaluate.two_sample import TwoSample
from plausible.space import Space, Table

TESTS = ("c2st", "mmd", "sliced_wasserstein")
CUT_SHORT = "the comparison was interrupted"


@dataclass(eq=False)
class Row:
    """What is known of one model.

    Args:
        name: unique in its comparison: the name of the family, numbered where it occurs again.
        label: for people, with the settings that are not the default.
        status: 'ok', 'skipped' (it cannot model these data) or 'failed'; `why` is the sentence.
        density: whether the model has one; without a likelihood it was not scored, and a note says why.
        likelihood, estimate: of the held-out examples; the estimate is importance-weighted, for models with a bound.
        c2st, mmd, sliced_wasserstein: samples against held-out examples.
        worst, worst_log_prob: the least plausible held-out examples.
        notes: what the fit had to say: diverged, interrupted, out of time.
        error: the exception behind a failure.
    """

    name: str
    label: str
    params: dict = field(default_factory=dict)
    baseline: bool = False
    status: str = "ok"
    why: str | None = None
    rank: int | None = None
    density: bool = False
    likelihood: Likelihood | None = None
    estimate: Likelihood | None = None
    difference: Difference | None = None
    difference_to: str | None = None
    c2st: TwoSample | None = None
    mmd: TwoSample | None = None
    sliced_wasserstein: TwoSample | None = None
    novelty: Novelty | None = None
    seconds_fit: float | None = None
    seconds_evaluate: float | None = None
    samples_per_second: float | None = None
    n_parameters: int | None = None
    bytes: int | None = None
    history: list[dict] = field(default_factory=list)
    kept_epoch: int | None = None
    samples: Any = None
    marginals: list[dict] = field(default_factory=list)
    mean_image: dict | None = None
    worst: Any = None
    worst_log_prob: list[float] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    error: Exception | None = None

    @property
    def tied(self) -> bool:
        """Whether it cannot be told from the best: exact, and within two standard errors of the paired difference."""
        return self.difference is not None and self.likelihood.kind == "exact" and not self.difference.decided

    def to_json(self, space: Space, real: dict[str, TwoSample]) -> dict:
        plain = {
            key: getattr(self, key)
            for key in ("name", "label", "params", "status", "why", "baseline", "rank", "seconds_fit",
                        "seconds_evaluate", "samples_per_second", "n_parameters", "bytes", "history", "kept_epoch",
                        "marginals", "mean_image", "notes")
        }  # fmt: skip
        return plain | {
            "density": self.density,
            "likelihood": self.likelihood and self.likelihood.to_json(),
            "estimate": self.estimate and self.estimate.to_json(),
            "difference": self._difference_json(),
            **{test: _test_json(getattr(self, test), real.get(test)) for test in TESTS},
            "novelty": self.novelty and {k: finite(v) for k, v in asdict(self.novelty).items()},
            "samples": None if self.samples is None else as_json(space, self.samples),
            "worst": None if self.worst is None else self._worst_json(space),
        }

    def _difference_json(self) -> dict | None:
        gap = self.difference
        if gap is None:
            return None
        return {"to": self.difference_to, "mean": finite(gap.mean), "stderr": finite(gap.stderr), "tied": self.tied}

    def _worst_json(self, space: Space) -> dict:
        return {"examples": as_json(space, self.worst), "log_prob": [finite(v) for v in self.worst_log_prob]}


def _test_json(test: TwoSample | None, real: TwoSample | None) -> dict | None:
    if test is None:
        return None
    beside = {"real": finite(real.value), "real_stderr": finite(real.stderr)} if real else {"real": None}
    return {"value": finite(test.value), "stderr": finite(test.stderr), "p_value": test.p_value, **beside}


# -------------------------------------------------------------------------------------------------------- ranking


def ranked(rows: list[Row], measure: str) -> list[Row]:
    """Return the rows in the order told at the top of this file, with `rank` and `difference` set."""
    fitted = [r for r in rows if r.status == "ok"]
    scored = [r for r in fitted if r.likelihood is not None and r.likelihood.measure == measure]
    scored.sort(key=lambda r: -r.likelihood.mean)
    order = [r for r in scored if r.likelihood.kind == "exact"]
    for rank, row in enumerate(order, start=1):
        row.rank = rank
    best = order[0] if order else None
    for row in scored:
        if best is not None and row is not best:
            row.difference, row.difference_to = difference(row.likelihood, best.likelihood), best.name
    bounds = [r for r in scored if r.likelihood.kind == "lower_bound"]
    for row in bounds:
        beaten = (i for i, other in enumerate(order) if other.rank and _beats(row, other))
        order.insert(next(beaten, len(order)), row)
    rest = [r for r in scored if r not in order]
    mute = sorted((r for r in fitted if r not in scored), key=lambda r: r.c2st.value if r.c2st else math.inf)
    left = sorted((r for r in rows if r.status != "ok"), key=lambda r: r.status != "skipped")
    return [*order, *rest, *mute, *left]


def _beats(row: Row, other: Row) -> bool:
    return verdict(row.likelihood, other.likelihood) == "better"


# ----------------------------------------------------------------------------------------------------- comparison


@dataclass(eq=False)
class Comparison:
    """What `compare` found. Print it for a leaderboard, `report` it for a page, index it by name for a `Row`.

    Args:
        rows: one for each model, best first.
        models: the fitted models, by the name of their row.
        space: what one example is.
        data: name, description, fingerprint, sizes of the two parts, guesses and notes.
        real: the two-sample numbers of real examples against real examples.
        examples: held-out examples, as a user has them.
        seed: the seed that split the data, and fitted and sampled every model that brought none.
        title, command: what the report says of itself; the command reproduces it.
    """

    rows: list[Row]
    models: dict[str, Any]
    space: Space
    data: dict
    real: dict[str, TwoSample]
    examples: Any
    seed: int
    title: str
    command: str | None = None
    created: str = field(default_factory=lambda: datetime.now(UTC).isoformat(timespec="seconds"))

    def __post_init__(self):
        self.rows = ranked(self.rows, self.space.measure)

    def __getitem__(self, name: str) -> Row:
        for row in self.rows:
            if name in (row.name, row.label):
                return row
        raise KeyError(f"no model is called {name!r}; there are: {', '.join(r.name for r in self.rows)}")

    @property
    def best(self) -> Any:
        """The fitted model at the top, or None if none could be fitted."""
        return next((self.models[r.name] for r in self.rows if r.status == "ok"), None)

    @property
    def interrupted(self) -> bool:
        """Whether an interrupt ended the comparison, or the last fit of it, early."""
        stopped = any(getattr(model, "stopped_", None) == "interrupted" for model in self.models.values())
        return stopped or any(row.why == CUT_SHORT for row in self.rows)

    @property
    def table(self) -> Any:
        """The leaderboard as a DataFrame, one model a row, numbers as numbers."""
        import pandas as pd

        return pd.DataFrame([_flat(row) for row in self.rows]).set_index("model").astype({"rank": "Int64"})

    def to_json(self) -> dict:
        """The content of report.json, format 1: JSON values only, null for what is not known or not finite."""
        columns = None
        if isinstance(self.space, Table):
            columns = [{"name": c.name, "kind": c.kind} for c in self.space.columns[:200]]
        about = {"measure": self.space.measure, "unit": self.space.unit, "type": self.space.type, "columns": columns}
        return {
            "format": 1,
            "title": self.title,
            "created": self.created,
            "version": __version__,
            "command": self.command,
            "seed": self.seed,
            "data": {**self.data, **about},
            "rows": [row.to_json(self.space, self.real) for row in self.rows],
            "real": as_json(self.space, self.examples),
        }

    def report(self, path: str | os.PathLike) -> Path:
        """Write the report, one self-contained page, and report.json beside it; return the path of the page.

        Args:
            path: a folder, which receives report.html and report.json, or the path of the page.

        Raises:
            PlausibleError: the baseline could not be fitted; a comparison without one tells nothing.
        """
        from plausible.evaluate.report import write

        missing = [r for r in self.rows if r.baseline and r.status != "ok"]
        if missing:
            raise PlausibleError(
                f"the baseline {missing[0].name!r} {missing[0].status}, and a report without it would say nothing of "
                f"how good the others are: {missing[0].why}"
            )
        return write(self.to_json(), path)

    def __str__(self) -> str:
        return leaderboard(self)

    def __repr__(self) -> str:
        return f"<Comparison of {len(self.rows)} models on {self.data['name']}>"


def _flat(row: Row) -> dict:
    score, gap = row.likelihood, row.difference
    return {
        "model": row.name,
        "label": row.label,
        "status": row.status,
        "rank": row.rank,
        "mark": score and score.mark,
        "nats": score and score.mean,
        "stderr": score and score.stderr,
        "kind": score and score.kind,
        "measure": score and score.measure,
        "bits_per_dim": score and score.bits_per_dim,
        "estimate": row.estimate and row.estimate.mean,
        "difference": gap and gap.mean,
        "difference_stderr": gap and gap.stderr,
        "tied": row.tied,
        **{test: getattr(row, test) and getattr(row, test).value for test in TESTS},
        "novelty": row.novelty and row.novelty.ratio,
        "copies": row.novelty and row.novelty.copies,
        "seconds_fit": row.seconds_fit,
        "samples_per_second": row.samples_per_second,
        "n_parameters": row.n_parameters,
        "bytes": row.bytes,
        "why": row.why,
    }


# ---------------------------------------------------------------------------------------------------- leaderboard


def leaderboard(found: Comparison) -> str:
    """The comparison as lines of text, for a terminal at least 100 columns wide."""
    scores = [r.likelihood for r in found.rows if r.likelihood]
    per = scores[0].per if scores else "example"
    columns = [
        ("", "right", [str(r.rank or "") for r in _shown(found)]),
        ("model", "left", [r.label + (" (baseline)" if r.baseline else "") for r in _shown(found)]),
        (f"nats per {per}", "right", [_score(r.likelihood) for r in _shown(found)]),
        ("to the best", "right", [_gap(r) for r in _shown(found)]),
        (f"bits/{found.space.unit}", "right", [_bits(r.likelihood) for r in _shown(found)]),
        ("told apart", "right", [_test(r.c2st) for r in _shown(found)]),
        ("novelty", "right", [wording.fixed(r.novelty and r.novelty.ratio, 2) for r in _shown(found)]),
        ("fit", "right", [wording.duration(r.seconds_fit) for r in _shown(found)]),
        ("samples/s", "right", [wording.compact(r.samples_per_second) for r in _shown(found)]),
    ]
    return "\n".join([*_heading(found), "", *_aligned(columns), "", *_footing(found)]).rstrip()


def _shown(found: Comparison) -> list[Row]:
    return [r for r in found.rows if r.status == "ok"]


def _heading(found: Comparison) -> list[str]:
    data = found.data
    lines = [f"{data['name']}: {data['description']}"]
    lines.append(f"{data['n_train']:,} examples to fit, {data['n_test']:,} held out (seed {found.seed})")
    return lines + [f"guessed: {guess}" for guess in data["guesses"]] + [f"note: {note}" for note in data["notes"]]


def _footing(found: Comparison) -> list[str]:
    marks = {r.likelihood.kind for r in _shown(found) if r.likelihood}
    lines = []
    if marks - {"exact"}:
        words = [f"{mark} {kind.replace('_', ' ')}" for kind, mark in MARKS.items() if kind in marks]
        lines.append(f"Likelihood on {found.space.measure} measure: {', '.join(words)}. Only exact values are ranked.")
    if any(r.tied for r in found.rows):
        lines.append("A tie is a paired difference to the best within two standard errors.")
    if "c2st" in found.real:
        real = wording.fixed(found.real["c2st"].value, 2)
        lines.append(f"Told apart: accuracy of a classifier, samples against held-out; real against real {real}.")
    for row in found.rows:
        lines += [f"{row.label}: {row.estimate}"] if row.estimate else []
        lines += [f"{row.label}: {note}" for note in row.notes]
    lines += [f"{row.status} {row.label}: {row.why}" for row in found.rows if row.status != "ok"]
    return lines


def _score(score: Likelihood | None) -> str:
    return wording.DASH if score is None else f"{score.mark} {wording.plus_minus(score.mean, score.stderr)}"


def _gap(row: Row) -> str:
    if row.difference is None:
        return ""
    gap = wording.plus_minus(row.difference.mean, row.difference.stderr)
    return ("+" if row.difference.mean > 0 else "") + gap + (" tie" if row.tied else "    ")


def _bits(score: Likelihood | None) -> str:
    return wording.DASH if score is None else wording.fixed(score.bits_per_dim, 3)


def _test(test: TwoSample | None) -> str:
    return wording.DASH if test is None else wording.fixed(test.value, 2)


def _aligned(columns: list[tuple[str, str, list[str]]]) -> list[str]:
    padded = []
    for title, side, cells in columns:
        width = max(map(len, [title, *cells]))
        padded.append([c.ljust(width) if side == "left" else c.rjust(width) for c in [title, *cells]])
    return ["  ".join(cells).rstrip() for cells in zip(*padded, strict=True)]
