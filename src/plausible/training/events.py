"""What the loop draws mini-batches from: tensors in memory, or chunks of a file larger than memory."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import torch


class Batch(NamedTuple):
    """A mini-batch in model space."""

    z: torch.Tensor  # (n, *event)
    c: torch.Tensor | None  # (n, F) features of the context
    weight: torch.Tensor | None  # (n,)


@dataclass
class Events:
    """Examples in memory.

    Args:
        x: codes or, where the transforms draw no noise, model-space values, with shape (n, \\*event).
        c: features of the context, with shape (n, F).
        weight: sample weights, with shape (n,).
        prepare: maps a batch of x to model space, with fresh noise each time; None if x is there already.
        dtype: what a batch is cast to; x itself may be bytes.
    """

    x: torch.Tensor
    c: torch.Tensor | None = None
    weight: torch.Tensor | None = None
    prepare: Callable[[torch.Tensor, torch.Generator], torch.Tensor] | None = None
    dtype: torch.dtype = torch.float32

    def __len__(self) -> int:
        return len(self.x)

    def take(self, index: torch.Tensor, rng: torch.Generator | None = None) -> Batch:
        """Return the examples at `index`."""
        x = self.x[index]
        z = (x if self.prepare is None else self.prepare(x, rng)).to(self.dtype)
        return Batch(z, *(None if t is None else t[index] for t in (self.c, self.weight)))

    def batches(self, size: int | None, rng: torch.Generator) -> Iterator[Batch]:
        """Yield each example once, in an order drawn from `rng`; in the given order if `size` is None (one batch)."""
        n = len(self)
        if size is None:
            yield self.take(torch.arange(n, device=self.x.device), rng)
            return
        order = torch.randperm(n, generator=rng, device=rng.device).to(self.x.device)
        for start in range(0, n, size):
            yield self.take(order[start : start + size], rng)

    def n_batches(self, size: int | None) -> int:
        return 1 if size is None else -(-len(self) // size)


@dataclass
class Chunks:
    """Examples that are read chunk by chunk, each shuffled in itself.

    Args:
        source: yields `Events`, anew each time it is iterated.
        n: the number of examples in all.
    """

    source: Iterable[Events]
    n: int

    def __len__(self) -> int:
        return self.n

    def batches(self, size: int | None, rng: torch.Generator) -> Iterator[Batch]:
        for events in self.source:
            yield from events.batches(size, rng)

    def n_batches(self, size: int | None) -> int:
        return -(-self.n // (size or self.n))
