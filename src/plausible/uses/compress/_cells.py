r"""What each dimension of an example may be, as an index 0 .. S-1, and how a model's law of it becomes symbols.

    levels     the K levels of a column, one symbol out of K
    lattice    whole multiples of a step, in base 16: P(digit | digits before) from differences of the cumulative F
    cells      of a transform that puts many integers into one cell: the cell, then one of those in it, all alike

An index that is not coded (a missing cell, one written beside the code) is taken for the likeliest one, so that the
model has something to go on with that both sides know.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from plausible.errors import CapabilityError
from plausible.heads import Head

BASE = 16
IN_TABLE = 1 << 24  # numbers of the tables of values that are held
LITTLE = 2.0**-13  # of a stretch, below which what is in it is taken to be alike
FINEST = 1e-14  # to which a cumulative is trusted
NEVER = 2.0**-30  # frequency of a digit that no number has


@dataclass(frozen=True)
class Lattice:
    """The numbers (low + i) num / den, i = 0 .. size - 1."""

    low: int
    size: int
    num: float = 1.0
    den: float = 1.0

    def value(self, index: Any) -> Any:
        return (index + float(self.low)) * self.num / self.den

    def index(self, value: np.ndarray) -> np.ndarray:
        """The nearest index of values, which have one."""
        return np.rint(np.nan_to_num(value) * self.den / self.num).astype(np.int64) - self.low


@dataclass
class Cells:
    """The dimensions of a model's space.

    Args:
        model: a fitted one.
        lattices: one for each dimension, None where the column has levels.
    """

    model: Any
    lattices: list[Lattice | None]
    _tables: dict = field(default_factory=dict)

    def __post_init__(self):
        columns = self.model.space_.columns
        self.sizes = [c.n_levels if own is None else own.size for c, own in zip(columns, self.lattices, strict=True)]
        # Levels that a head takes for numbers are the lattice 0 .. K-1.
        self.numbers = [own or Lattice(0, size) for own, size in zip(self.lattices, self.sizes, strict=True)]

    # ------------------------------------------------------------------------------------------- in model space

    def seen(self, d: int, index: np.ndarray, shift: float = 0.0) -> torch.Tensor:
        """What the module sees of indices (any shape) of dimension d, moved by `shift` steps."""
        if self.sizes[d] * len(self.sizes) <= IN_TABLE:
            if shift not in self._tables:
                self._tables[shift] = self._table(shift)
            return self._tables[shift][torch.from_numpy(index), d]
        codes = torch.from_numpy(self.numbers[d].value(index + shift))
        return self._through(codes.reshape(-1), d).reshape(codes.shape)

    def _table(self, shift: float) -> torch.Tensor:
        """All indices of all dimensions that are not too large: (S + 1, D)."""
        small = [s for s in self.sizes if s * len(self.sizes) <= IN_TABLE]
        k = np.arange(max(small) + 1)[:, None]
        codes = np.concatenate([self.numbers[d].value(k + shift) for d in range(len(self.sizes))], 1)
        codes[k > np.array(self.sizes)] = np.nan
        with torch.no_grad():
            z = self.model.transforms_.each(torch.from_numpy(codes).reshape(len(k), *self.model.space_.shape))[0]
        return z.flatten(1)

    def _through(self, codes: torch.Tensor, d: int) -> torch.Tensor:
        """Codes (m,) of dimension d, transformed."""
        space, dims = self.model.space_, len(self.sizes)
        alike = space.type == "audio"  # all dimensions are transformed alike
        rows = -(-len(codes) // dims) if alike else len(codes)
        x = torch.full((rows, dims), torch.nan, dtype=torch.float64)
        if alike:
            x.view(-1)[: len(codes)] = codes
        else:
            x[:, d] = codes
        with torch.no_grad():
            z = self.model.transforms_.each(x.reshape(rows, *space.shape))[0].flatten(1)
        return z.reshape(-1)[: len(codes)] if alike else z[:, d]

    # ------------------------------------------------------------------------------------------------- coding

    def by_head(self, coder: Any, d: int, head: Head, params: torch.Tensor, index, coded: np.ndarray) -> np.ndarray:
        """Code dimension d of n examples by what a head says of it: parameters (n, P).

        Args:
            index: (n,) when writing, else None.
            coded: (n,) which of them to code.

        Returns:
            The indices (n,).
        """
        params = params[:, None].double()
        if hasattr(head, "components"):

            def below(edges: np.ndarray) -> np.ndarray:
                return head.cdf(params, self.seen(d, edges, -0.5)).numpy()

            return self.by_cumulative(coder, d, below, len(params), index, coded)
        log_p = head.log_levels(params)[:, 0]
        if self.lattices[d] is None:
            return by_levels(coder, log_p, index, coded)
        return self._by_cells(coder, d, log_p, index, coded)

    def by_cumulative(self, coder: Any, d: int, below: Any, n: int, index, coded: np.ndarray) -> np.ndarray:
        """Code a lattice, digit by digit, from `below`: edges (n, m) -> P(x < edge), up to a constant.

        Where the model leaves a stretch next to no mass, all in it is alike: differences of F have no digits there.
        """
        size, low = self.sizes[d], np.zeros(n, dtype=np.int64)
        stride = BASE ** (len(np.base_repr(max(size - 1, 0), BASE)) - 1)
        while stride and size > 1:
            digits = min(BASE, -(-size // stride))
            edges = np.minimum(low[:, None] + stride * np.arange(digits + 1), size)
            share = (edges - edges[:, :1]) / (edges[:, -1:] - edges[:, :1])
            cumulative = below(edges)
            mass = cumulative[:, -1] - cumulative[:, 0]
            told = coder.guard.round(mass / LITTLE, FINEST / LITTLE) >= 1
            share[told] = (cumulative[told] - cumulative[told, :1]) / mass[told, None]
            tolerance = FINEST / np.maximum(mass, LITTLE)[:, None]
            frequencies = coder.guard.frequencies(np.clip(share[:, 1:-1], 0, 1), tolerance)
            frequencies[edges[:, 1:] == edges[:, :-1]] = NEVER
            known = None if index is None else (index - low) // stride
            low = np.minimum(low + stride * _coded(coder, frequencies, known, coded), size - 1)
            stride //= BASE
        return low

    def _by_cells(self, coder: Any, d: int, log_p: torch.Tensor, index, coded: np.ndarray) -> np.ndarray:
        if "cells" not in self._tables:
            cell = self._through(torch.from_numpy(self.numbers[d].value(np.arange(self.sizes[d]))), d).long().numpy()
            if (np.diff(cell) < 0).any() or cell[-1] >= log_p.shape[1]:
                raise CapabilityError("the transform of this model is not one whose cells can be coded")
            size = np.bincount(cell, minlength=log_p.shape[1])
            self._tables["cells"] = cell, size, np.cumsum(size) - size
        cell, size, first = self._tables["cells"]
        log_p = torch.where(torch.from_numpy(size > 0), log_p, -torch.inf)
        c = by_levels(coder, log_p, None if index is None else cell[index], coded)
        within = np.zeros(len(c), dtype=np.int64)
        several = coded & (size[c] > 1)
        if several.any():
            inside = None if index is None else (index - first[c])[several]
            within[several] = coder.even(size[c][several], inside)
        return first[c] + within


def by_levels(coder: Any, log_p: torch.Tensor, index: np.ndarray | None, coded: np.ndarray) -> np.ndarray:
    """Code levels (n,) with log probabilities (n, K), up to a constant."""
    if log_p.shape[1] == 1:
        return np.zeros(len(log_p), dtype=np.int64)
    top = log_p.max(1, keepdim=True).values
    p = torch.where(top.isinf(), 1.0, (log_p - torch.where(top.isinf(), 0.0, top)).exp())
    below = p.cumsum(1)
    below = below[:, :-1] / below[:, -1:]
    return _coded(coder, coder.guard.frequencies(below.numpy()), index, coded)


def _coded(coder: Any, frequencies: np.ndarray, symbols: np.ndarray | None, coded: np.ndarray) -> np.ndarray:
    if coded.all():
        return coder(frequencies, symbols)
    out = frequencies.argmax(1)
    if coded.any():
        out[coded] = coder(frequencies[coded], None if symbols is None else symbols[coded])
    return out
