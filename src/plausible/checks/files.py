"""Files: a model read back in a process that never saw it gives the same answers, to the bit."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from plausible import registry
from plausible.checks.audit import Broken, NotApplicable, check
from plausible.checks.cases import Bench

PATIENCE = 120  # seconds for the other process to answer


class Reopener:
    """The other process. It is started at once, so that its imports run beside the audit; ``ask`` sends it the jobs."""

    def __init__(self, bench: Bench):
        self.bench = bench
        bench.reopener = self

    def __enter__(self) -> Reopener:
        self.process = None
        if registry.name_of(type(self.bench.model)) is not None:
            environment = os.environ | {"PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
            self.process = subprocess.Popen(
                [sys.executable, "-m", "plausible.checks.reopen"],
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                text=True,
                env=environment,
            )
        return self

    def ask(self, jobs: list[dict[str, Any]]) -> None:
        """Have every job done; raise `Broken` with the last line of its error if the process fails."""
        try:
            _, err = self.process.communicate(json.dumps(jobs), timeout=PATIENCE)
        except subprocess.TimeoutExpired:
            raise Broken(f"the fresh process did not answer within {PATIENCE} seconds") from None
        if self.process.returncode:
            raise Broken(f"in a fresh process: {err.strip().splitlines()[-1] if err.strip() else 'it died'}")

    def __exit__(self, *error: Any) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.kill()
        if self.process is not None:
            self.process.wait()
            self.process.stdin.close()
            self.process.stderr.close()


@check
def files_round_trip(bench: Bench) -> str:
    """Saved, and loaded in a fresh process, a model gives the same log_prob and the same samples to the bit."""
    if registry.name_of(type(bench.model)) is None:
        raise NotApplicable("not registered, so that no file of it could be opened")
    models = [(c.name, bench.fitted(c), c.draw(20, seed=4), None) for c in bench.some("toy data")]
    if bench.traits.context:
        model, X, labels = bench.conditional
        models.append(("data with a context", model, X[:20], labels[:20].tolist()))
    with tempfile.TemporaryDirectory() as folder:
        jobs = [_job(Path(folder), i, *given[1:]) for i, given in enumerate(models)]
        bench.reopener.ask(jobs)
        for job, (name, model, X, context) in zip(jobs, models, strict=True):
            _compare(name, model, X, context, np.load(job["out"]))
    return f"{len(models)} models"


def _job(folder: Path, i: int, model: Any, X: Any, context: list | None) -> dict[str, Any]:
    paths = {k: str(folder / f"{i}.{end}") for k, end in (("model", "plausible"), ("codes", "npy"), ("out", "npz"))}
    model.save(paths["model"])
    np.save(paths["codes"], model.space_.encode(X).numpy())
    return paths | {"context": context}


def _compare(name: str, model: Any, X: Any, context: list | None, found: Any) -> None:
    for what, value in answers(model, X, context).items():
        if not np.array_equal(found[what], value, equal_nan=value.dtype.kind == "f"):
            raise Broken(f"on {name}, {what} differs after a round trip through a file")


def answers(model: Any, X: Any, context: list | None) -> dict[str, np.ndarray]:
    """Return what is compared on both sides."""
    sample = model.sample(len(X), context=context, random_state=0)
    out = {"the samples": model.space_.encode(sample).numpy(), "the printed model": np.array(repr(model))}
    out["the description of the space"] = np.array(model.space_.describe())
    if model.traits.density:
        out["log_prob"] = model.log_prob(X, context=context)
    return out
