r"""Integers out of a model's floats, the same in both directions, and the entropy coders they drive.

A coder needs P(x < k) as integers c_k = round(2^20 F_k), and needs *the same* integers when it decodes, though the last
bits of F differ with the number of threads, the build of a library, the processor. So whoever encodes also writes down
which of its numbers lie so close to a boundary of rounding that another machine might round them the other way, and to
which side it went. Then decoding gets the same integers as long as it computes F to within the tolerance: some
thousands of the last bits of a double. All that follows, down to the bytes, is arithmetic that is the same everywhere.

Entropy coding is that of constriction: a range coder, and for bits-back asymmetric numeral systems, with 24 bits.

References: Martin, Range encoding, 1979. Duda, Asymmetric numeral systems, 2013, https://arxiv.org/abs/1311.2540
Bamler, Understanding entropy coding with asymmetric numeral systems, 2022, https://arxiv.org/abs/2201.01741
"""

from __future__ import annotations

from typing import Any

import constriction
import numpy as np

from plausible.errors import ReadError

BITS = 20  # of a cumulative probability
LEAST = 1 / 16  # of 2^-20: what a symbol has that the model takes for impossible
TOLERANCE = 2e-12  # of all cumulatives of a symbol together
FINEST = 1e-13  # of one
_CATEGORICAL = constriction.stream.model.Categorical(perfect=False)
_UNIFORM = constriction.stream.model.Uniform()


class Guard:
    """Rounds numbers, and notes (or is told) to which side those went that lie at a boundary.

    Args:
        places, odd: of a file: the running numbers of those that were noted, and whether they were rounded to odd ones.
    """

    def __init__(self, places: np.ndarray | None = None, odd: np.ndarray | None = None):
        self.reads = places is not None
        self.places, self.odd = places, odd
        self.noted: list[np.ndarray] = []
        self.at = 0  # the running number of the next one

    def round(self, x: np.ndarray, tolerance: float | np.ndarray) -> np.ndarray:
        """Return integers, as floats, of the shape of x."""
        x = np.ascontiguousarray(x)
        whole = np.rint(x)
        start, self.at = self.at, self.at + x.size
        if self.reads:
            first, last = np.searchsorted(self.places, (start, self.at))
            if first < last:
                here = self.places[first:last] - start
                flat, off = whole.reshape(-1), x.reshape(-1)[here]
                wrong = (flat[here] % 2 == 1) != self.odd[first:last]
                flat[here] += np.where(wrong, np.where(off > flat[here], 1, -1), 0)
            return whole
        near = np.nonzero((np.abs(x - whole) > 0.5 - tolerance).reshape(-1))[0]
        if len(near):
            self.noted.append(np.stack([near + start, whole.reshape(-1)[near] % 2 == 1]))
        return whole

    def notes(self) -> bytes:
        """What was noted, as bytes that `noted_in` reads."""
        if not self.noted:
            return b""
        places, odd = np.concatenate(self.noted, 1).astype(np.int64)
        order = places.argsort(kind="stable")
        out = bytearray()
        for gap in (np.diff(places[order], prepend=0) * 2 + odd[order]).tolist():
            out += varint(gap)
        return bytes(out)

    @classmethod
    def of(cls, notes: bytes) -> Guard:
        """Return the guard that decodes with the notes of the one that encoded."""
        gaps, at = [], 0
        while at < len(notes):
            gap, at = read_varint(notes, at)
            gaps.append(gap)
        gaps = np.array(gaps, dtype=np.int64)
        return cls(np.cumsum(gaps >> 1), gaps % 2 == 1)

    def frequencies(self, below: np.ndarray, tolerance: np.ndarray | None = None) -> np.ndarray:
        """P(x < k), k = 1 .. K-1, of each of n symbols, (n, K-1) -> frequencies (n, K), none of them zero."""
        whole = float(1 << BITS)
        if tolerance is None:
            tolerance = max(TOLERANCE / max(below.shape[1], 1), FINEST)
        out = np.empty((len(below), below.shape[1] + 1))
        out[:, :-1] = self.round(below * whole, tolerance * whole)
        out[:, -1] = whole
        out[:, 1:] -= out[:, :-1].copy()
        return np.maximum(out, 0, out=out) + LEAST


class Writer:
    """Symbols to bytes, first in first out."""

    writes = True

    def __init__(self):
        self.guard, self._coder = Guard(), constriction.stream.queue.RangeEncoder()

    def __call__(self, frequencies: np.ndarray, symbols: np.ndarray | None) -> np.ndarray:
        """Code symbols (n,) with frequencies (n, K); return them."""
        self._coder.encode(symbols.astype(np.int32), _CATEGORICAL, frequencies)
        return symbols

    def even(self, sizes: np.ndarray, symbols: np.ndarray | None) -> np.ndarray:
        """Code symbols (n,), each one of so many (n,) that are alike."""
        self._coder.encode(symbols.astype(np.int32), _UNIFORM, sizes.astype(np.int32))
        return symbols

    def data(self) -> bytes:
        return to_bytes(self._coder.get_compressed())


class Reader:
    """Bytes to symbols: the calls of the `Writer`, with None for the symbols."""

    writes = False

    def __init__(self, data: bytes, notes: bytes):
        self.guard, self._coder = Guard.of(notes), constriction.stream.queue.RangeDecoder(to_words(data))

    def __call__(self, frequencies: np.ndarray, symbols: None) -> np.ndarray:
        return _told(self._coder.decode, _CATEGORICAL, frequencies).astype(np.int64)

    def even(self, sizes: np.ndarray, symbols: None) -> np.ndarray:
        return _told(self._coder.decode, _UNIFORM, sizes.astype(np.int32)).astype(np.int64)


class Stack:
    """A stack of bits: what is pushed last is popped first. Popping from a law that was not pushed draws from it.

    `__call__` takes note of symbols that are then pushed together, by `push`, so that they are popped in order.
    """

    def __init__(self, words: np.ndarray, guard: Guard, writes: bool):
        self.guard, self.writes = guard, writes
        self._coder = constriction.stream.stack.AnsCoder(words)
        self._kept: list[tuple] = []

    def __call__(self, frequencies: np.ndarray, symbols: np.ndarray | None) -> np.ndarray:
        if not self.writes:
            return _told(self._coder.decode, _CATEGORICAL, frequencies).astype(np.int64)
        self._kept.append((symbols.astype(np.int32), _CATEGORICAL, frequencies))
        return symbols

    def even(self, sizes: np.ndarray, symbols: np.ndarray | None) -> np.ndarray:
        if not self.writes:
            return _told(self._coder.decode, _UNIFORM, sizes.astype(np.int32)).astype(np.int64)
        self._kept.append((symbols.astype(np.int32), _UNIFORM, sizes.astype(np.int32)))
        return symbols

    def push(self) -> None:
        """Push what was taken note of."""
        for call in reversed(self._kept):
            self._coder.encode_reverse(*call)
        self._kept = []

    def push_normal(self, symbols: np.ndarray, mean: np.ndarray, deviation: np.ndarray, reach: int) -> None:
        """Push integers (n,) of -reach .. reach by normals cut into cells of width one."""
        law = constriction.stream.model.QuantizedGaussian(-reach, reach)
        self._coder.encode_reverse(symbols.astype(np.int32), law, mean, deviation)

    def pop_normal(self, mean: np.ndarray, deviation: np.ndarray, reach: int) -> np.ndarray:
        """Pop integers (n,) that `push_normal` pushed."""
        law = constriction.stream.model.QuantizedGaussian(-reach, reach)
        return _told(self._coder.decode, law, mean, deviation)

    @property
    def bits(self) -> int:
        """How many there are."""
        return self._coder.num_bits()

    def words(self) -> np.ndarray:
        return self._coder.get_compressed()


def _told(decode: Any, *args: Any) -> np.ndarray:
    try:
        return decode(*args)
    except (AssertionError, ValueError, OverflowError) as err:  # what constriction raises where no symbol is meant
        raise ReadError(f"the compressed data cannot be decoded with this model: {err}") from None


def to_bytes(words: np.ndarray) -> bytes:
    return words.astype("<u4").tobytes()


def to_words(data: bytes) -> np.ndarray:
    return np.frombuffer(data, dtype="<u4").astype(np.uint32)


def varint(value: int) -> bytes:
    """A non-negative integer, seven bits a byte, the lowest first."""
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    out.append(value)
    return bytes(out)


def read_varint(data: bytes, at: int) -> tuple[int, int]:
    """Return the integer that begins at a place, and the place after it."""
    value = shift = 0
    while True:
        if at >= len(data) or shift > 63:
            raise ReadError("a number in the compressed data has no end: they are damaged")
        byte = data[at]
        value, shift, at = value | (byte & 127) << shift, shift + 7, at + 1
        if byte < 128:
            return value, at
