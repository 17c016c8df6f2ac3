"""What shows a person how far a fit is: a bar on a terminal, nothing in a pipe; TensorBoard when asked for."""

from __future__ import annotations

import sys
from typing import Any

from plausible.errors import PlausibleError


class Progress:
    """A progress bar with rate and remaining time on standard error, and a TensorBoard log.

    Args:
        name: what is being fitted.
        bar: whether to show a bar; it is shown on a terminal only.
        tensorboard: the folder of a TensorBoard log, or None.
    """

    def __init__(self, name: str, *, bar: bool = False, tensorboard: str | None = None):
        self._bar = _bar(name) if bar and sys.stderr.isatty() else None
        self._task: Any = None
        self._name = name
        self._text = ""
        self._writer = _writer(tensorboard) if tensorboard else None

    def step(self, done: int, total: int, history) -> None:
        if self._bar is None:
            return
        if self._task is None:
            self._bar.start()
            self._task = self._bar.add_task(self._name, total=total, scores="")
        self._bar.update(self._task, completed=done, scores=self._text)

    def look(self, row: dict[str, float]) -> None:
        held_out = row["held_out"]
        self._text = f"loss {row['loss']:.4g}" + (f", held out {held_out:.4g}" if held_out == held_out else "")
        if self._writer is not None:
            for key in ("loss", "held_out", "learning_rate"):
                self._writer.add_scalar(key, row[key], int(row["epoch"]))

    def close(self) -> None:
        if self._bar is not None and self._task is not None:
            self._bar.stop()
        if self._writer is not None:
            self._writer.close()


def _bar(name: str):
    from rich.console import Console
    from rich.progress import BarColumn, Progress, ProgressColumn, TaskProgressColumn, TextColumn, TimeRemainingColumn
    from rich.text import Text

    class Rate(ProgressColumn):
        """Steps a second."""

        def render(self, task):
            return Text("" if task.speed is None else f"{task.speed:,.0f} steps/s", style="dim")

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TaskProgressColumn(),
        Rate(),
        TimeRemainingColumn(),
        TextColumn("[dim]{task.fields[scores]}"),
    )
    return Progress(*columns, console=Console(stderr=True), transient=True)


def _writer(folder: str):
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        raise PlausibleError(
            "logging to TensorBoard needs the package tensorboard: pip install 'plausible[tensorboard]'"
        ) from None
    return SummaryWriter(folder)
