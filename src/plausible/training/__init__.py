"""Training: one loop, and the steps it takes."""

from plausible.training.events import Batch, Events
from plausible.training.loop import History, run
from plausible.training.steps import alternate, count, em, minimise

__all__ = ["Batch", "Events", "History", "alternate", "count", "em", "minimise", "run"]
