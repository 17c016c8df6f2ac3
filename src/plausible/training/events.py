"""What the loop draws mini-batches from: tensors in memory, or chunks of a file larger than memory."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch


class Batch(NamedTuple):
    """A mini-batch in model space."""

    z: torch.Tensor  # (n, *event)
    c: torch.Tensor | None  # (n, F) features of the context, or what is encoded to such
    weight: torch.Tensor | None  # (n,)


@dataclass
class Events:
    """Examples in memory.

    Args:
        x: codes or, where the transforms draw no noise, model-space values, with shape (n, \\*event).
        c: features of the context, with shape (n, F), or codes (n, \\*shape) of which an encoder makes them.
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

    def take(self, index: torch.Tensor | slice, rng: torch.Generator | None = None) -> Batch:
        """Return the examples at `index`; of a slice no copy is made."""
        x = self.x[index]
        z = (x if self.prepare is None else self.prepare(x, rng)).to(self.dtype)
        return Batch(z, *(None if t is None else t[index] for t in (self.c, self.weight)))

    def part(self, index: torch.Tensor) -> Events:
        """Return the examples at `index`, as events."""
        c, weight = (None if t is None else t[index] for t in (self.c, self.weight))
        return Events(self.x[index], c, weight, self.prepare, self.dtype)

    def joined(self, other: Events) -> Events:
        """Return these examples and the others."""
        both = ((self.x, other.x), (self.c, other.c), (self.weight, other.weight))
        return Events(*(None if a is None else torch.cat([a, b]) for a, b in both), self.prepare, self.dtype)

    def batches(self, size: int | None, rng: torch.Generator) -> Iterator[Batch]:
        """Yield each example once, in an order drawn from `rng`; in the given order if `size` is None (one batch)."""
        n = len(self)
        if size is None:
            yield self.take(slice(None), rng)
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
        source: called for every epoch; returns the chunks as `Events`.
        n: the number of examples in all.
        sample: a sample of them that fits in memory.
    """

    source: Callable[[], Iterable[Events]]
    n: int
    sample: Events

    def __len__(self) -> int:
        return self.n

    @property
    def x(self) -> torch.Tensor:
        """A sample of the examples, for what needs to see some before the first step."""
        return self.sample.x

    def take(self, index: torch.Tensor, rng: torch.Generator | None = None) -> Batch:
        """Return those of the sample at `index`."""
        return self.sample.take(index, rng)

    def batches(self, size: int | None, rng: torch.Generator) -> Iterator[Batch]:
        for events in self.source():
            yield from events.batches(size, rng)

    def n_batches(self, size: int | None) -> int:
        return -(-self.n // (size or self.n))


class Coded:
    """The training part of a stream of user data, as codes: iterate for a pass over it.

    Args:
        stream: offers ``len()`` and, each time it is iterated, its chunks.
        encode: maps a chunk to codes (n, \\*event).
        share: of the rows that are held out.
        seed: picks the rows that are held out and those of the sample.
        most: rows of the sample and of the held-out part, at most.
    """

    def __init__(self, stream, encode: Callable, share: float, seed: int, most: int = 100_000):
        self.stream, self.encode = stream, encode
        order = np.random.default_rng(seed).permutation(len(stream))
        n_held_out = min(max(round(share * len(stream)), 1), most, len(stream) - 1) if share else 0
        self._held_out = np.sort(order[:n_held_out])
        self._sample = np.sort(order[n_held_out : n_held_out + most])
        self.n_train = len(stream) - n_held_out

    def look(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the codes of the sample and of the held-out rows, from one pass."""
        sample, held_out = [], []
        for x, start in self._codes():
            sample.append(x[_within(self._sample, start, len(x))])
            held_out.append(x[_within(self._held_out, start, len(x))])
        return torch.cat(sample), torch.cat(held_out)

    def __iter__(self) -> Iterator[torch.Tensor]:
        for x, start in self._codes():
            kept = np.ones(len(x), dtype=bool)
            kept[_within(self._held_out, start, len(x))] = False
            yield x[torch.from_numpy(kept)]

    def _codes(self) -> Iterator[tuple[torch.Tensor, int]]:
        start = 0
        for chunk in self.stream:
            x = self.encode(chunk)
            yield x, start
            start += len(x)


def _within(rows: np.ndarray, start: int, n: int) -> np.ndarray:
    """Those of the sorted rows that lie in start .. start + n - 1, counted from start."""
    first, last = np.searchsorted(rows, [start, start + n])
    return rows[first:last] - start
