"""Training: one loop, and the steps it takes."""

from plausible.training.events import Batch, Chunks, Coded, Events
from plausible.training.loop import History, copied_state, run
from plausible.training.steps import alternate, count, em, minimise

__all__ = [
    "Batch",
    "Chunks",
    "Coded",
    "Events",
    "History",
    "alternate",
    "copied_state",
    "count",
    "em",
    "minimise",
    "run",
]
