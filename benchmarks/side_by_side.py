"""Measure things beside each other: in rotation, in one process, as ratios per round.

Speeds of one machine drift by a fifth from minute to minute, those of two machines differ by more. What the scripts of
this folder report is therefore the median, over rounds, of the ratio of two times taken one right after the other, with
the smallest and the largest ratio beside it.
"""

from __future__ import annotations

import os
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path

Timings = dict[str, list[float]]


def rotate(variants: dict[str, Callable[[], float]], rounds: int = 5) -> Timings:
    """Run every variant once a round, in turn, each round starting one further on.

    Args:
        variants: name -> what to run; it returns what it measured, such as seconds a step.
        rounds: how often; a first round that does not count comes before them.

    Returns:
        name -> one number per round.
    """
    names = list(variants)
    measured: Timings = {name: [] for name in names}
    for r in range(rounds + 1):
        for name in names[r % len(names) :] + names[: r % len(names)]:
            value = variants[name]()
            if r:
                measured[name].append(value)
    return measured


def ratios(measured: Timings, above: str, below: str) -> list[float]:
    """Return above / below, round by round."""
    return [a / b for a, b in zip(measured[above], measured[below], strict=True)]


def spread(values: list[float], form: str = ".2f") -> str:
    """Median (min to max)."""
    return f"{statistics.median(values):{form}} ({min(values):{form}} to {max(values):{form}})"


class Others:
    """Cores that everything else on the machine kept busy meanwhile: timings beside a loud neighbour are noise.

    >>> with Others() as others:
    ...     pass
    >>> str(others).endswith("cores")
    True
    """

    def __enter__(self) -> Others:
        self.start = (time.perf_counter(), _busy(), _own())
        return self

    def __exit__(self, *_: object) -> None:
        wall, busy, own = (b - a for a, b in zip(self.start, (time.perf_counter(), _busy(), _own()), strict=True))
        self.cores = max(busy - own, 0.0) / max(wall, 1e-9)

    def __str__(self) -> str:
        return f"{self.cores:.1f} cores"


def _own() -> float:
    t = os.times()
    return t.user + t.system + t.children_user + t.children_system


def _busy() -> float:
    """CPU seconds of the whole machine since it started, without idle and waiting."""
    user, nice, system, _idle, _wait, irq, soft, *_ = map(
        int, Path("/proc/stat").read_text().split("\n")[0].split()[1:]
    )
    return (user + nice + system + irq + soft) / os.sysconf("SC_CLK_TCK")


def machine() -> str:
    """Describe the machine and the versions in one line."""
    import torch

    names = [line.split(":")[1].strip() for line in _lines("/proc/cpuinfo") if line.startswith("model name")]
    cpu = f"{os.cpu_count()} x {names[0] if names else platform.machine()}"
    return f"{cpu}, {torch.get_num_threads()} threads, Python {platform.python_version()}, torch {torch.__version__}"


def _lines(path: str) -> list[str]:
    return Path(path).read_text().splitlines() if Path(path).exists() else []


def table(header: list[str], rows: list[list[object]]) -> str:
    """Return a markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)
