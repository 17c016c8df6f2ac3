r"""Which rows a model was fitted on: a sketch small enough to go into its file.

Kept are the K smallest distinct 64-bit hashes of the rows (all of them where there are fewer). Of other rows, those
with a hash in that range can be looked up: m of them, of which some are found. Rows that the model has not seen may
equal one that it has, in a small discrete space often; by Good and Turing that happens with probability

    q = 1 - n_1 / n ± ((n_1 (1 - n_1 / n) + 2 n_2) / n^2)^(1/2),    n_k = hashes that k rows of the fit have,

n in all, so that more than Binomial(m, q) finds, with q four deviations up, are rows of the fit.

References: Bar-Yossef et al., Counting distinct elements in a data stream, 2002 (the sketch). Good, The population
frequencies of species and the estimation of population parameters, 1953. Esty, A normal limit law for a nonparametric
estimator of the coverage of a random sample, 1983.
"""

from __future__ import annotations

import base64
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from plausible.data.split import row_keys
from plausible.randomness import hash_words

KEPT = 4096  # hashes: 32 kB
DEVIATIONS = 4.0
CHANCE = 1e-4  # below this probability, so many equal rows are no accident


@dataclass(frozen=True, eq=False)
class Seen:
    """A sketch of the rows of a fit.

    Args:
        hashes: the smallest distinct hashes, increasing; int64.
        n: how many rows have one of these.
        once: of the hashes, how many belong to one row.
        twice: how many to two.
        whole: whether all distinct hashes are there.
    """

    hashes: np.ndarray
    n: int
    once: int
    twice: int
    whole: bool

    @classmethod
    def of(cls, x: torch.Tensor) -> Seen:
        """Sketch the rows of x, codes (n, \\*shape)."""
        distinct, counts = np.unique(_keys(x), return_counts=True)
        counts = counts[:KEPT]
        once, twice = (int((counts == k).sum()) for k in (1, 2))
        return cls(distinct[:KEPT], int(counts.sum()), once, twice, len(distinct) <= KEPT)

    def found(self, x: torch.Tensor) -> tuple[int, int]:
        """Return how many rows of x (m, \\*shape) are rows of the fit, of how many that could be looked up."""
        keys = _keys(x)
        if not self.whole:
            keys = keys[keys <= self.hashes[-1]]
        return int(np.isin(keys, self.hashes).sum()), len(keys)

    def recognises(self, x: torch.Tensor) -> tuple[int, int] | None:
        """Return `found` where it is more than chance explains, else None."""
        from scipy.stats import binom

        found, looked_up = self.found(x)
        share = self.once / self.n
        q = 1 - share + DEVIATIONS * math.sqrt((share * (1 - share) + 2 * self.twice / self.n) / self.n)
        q = min(q + 1 / self.n, 1.0)  # an accident in a continuous space is no proof
        return (found, looked_up) if found and binom.sf(found - 1, looked_up, q) < CHANCE else None

    def to_json(self) -> dict[str, Any]:
        packed = base64.b64encode(self.hashes.astype("<i8").tobytes()).decode("ascii")
        return {"hashes": packed, "n": self.n, "once": self.once, "twice": self.twice, "whole": self.whole}

    @classmethod
    def from_json(cls, stored: dict[str, Any]) -> Seen:
        hashes = np.frombuffer(base64.b64decode(stored["hashes"], validate=True), dtype="<i8").astype(np.int64)
        n, once, twice = (int(stored[key]) for key in ("n", "once", "twice"))
        if not (0 < len(hashes) <= n and 0 <= once <= n and 0 <= twice <= n):
            raise ValueError("the sketch of the rows of the fit has impossible counts")
        return cls(hashes, n, once, twice, bool(stored["whole"]))


def _keys(x: torch.Tensor) -> np.ndarray:
    """Hash each row of codes; bytes, eight at a time."""
    if x.dtype != torch.uint8:
        return row_keys(x).numpy()
    flat = x.reshape(len(x), -1).cpu()
    words = torch.nn.functional.pad(flat, (0, -flat.shape[1] % 8)).contiguous().view(torch.int64)
    return torch.cat([hash_words(part) for part in words.split(2048)]).numpy()
