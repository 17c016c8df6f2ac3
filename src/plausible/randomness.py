"""Random numbers as arguments.

Two sources, one pair of functions (`uniform`, `normal`) to draw from either:

* a ``torch.Generator`` for training and sampling;
* `RowNoise`, which makes the noise of a row a function of the row itself. A bound that averages over
  noise (dequantisation, the reparametrised latent of a VAE) then gives every row the same value whatever
  its neighbours, its place in the batch or the batch size, and the same value the next time.

Nothing here, and nothing in the package, reads or changes the global generators.
"""

from __future__ import annotations

import numbers
from typing import Any

import numpy as np
import torch

# Multipliers of splitmix64 (Steele, Lea and Flood, 2014), as signed 64-bit integers.
GOLDEN, _MIX_1, _MIX_2 = (v - (1 << 64) for v in (0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB))


def seed_of(random_state: Any) -> int:
    """Return a 63-bit seed from what scikit-learn calls a ``random_state``.

    None draws fresh entropy; an integer is itself; a ``numpy`` generator is advanced by one draw.
    """
    if random_state is None:
        return int(np.random.SeedSequence().generate_state(1, np.uint64)[0] >> 1)
    if isinstance(random_state, numbers.Integral):
        return int(random_state) & ((1 << 63) - 1)
    if isinstance(random_state, np.random.Generator):
        return int(random_state.integers(0, 1 << 62))
    if isinstance(random_state, np.random.RandomState):
        return int(random_state.randint(0, 1 << 31))
    if isinstance(random_state, torch.Generator):
        return int(torch.randint(0, 1 << 62, (), generator=random_state, device=random_state.device))
    raise ValueError(f"random_state must be None, an integer or a generator; got {random_state!r}")


def generator(random_state: Any, device: torch.device | str = "cpu") -> torch.Generator:
    """Return a ``torch.Generator`` on `device` seeded from `random_state` (see `seed_of`)."""
    return torch.Generator(device).manual_seed(seed_of(random_state))


class RowNoise:
    """Noise that depends on the row it is for, on nothing else.

    Args:
        x: the rows, with shape (n, \\*event); equal rows get equal noise.
        seed: picks one of many independent noises for the same row.
    """

    def __init__(self, x: torch.Tensor, seed: int = 0):
        self.keys = mix(row_hash(x) + mix(torch.tensor(seed, dtype=torch.int64, device=x.device)))
        self._calls = 0

    def uniform(self, shape: tuple[int, ...]) -> torch.Tensor:
        """Return float64 numbers in (0, 1) of the given shape; its first entry must be the number of rows."""
        n, width = shape[0], int(np.prod(shape[1:], dtype=np.int64))
        if n != len(self.keys):
            raise ValueError(f"expected noise for {len(self.keys)} rows, asked for {n}")
        self._calls += 1
        salt = mix(torch.tensor(self._calls, dtype=torch.int64, device=self.keys.device))
        lane = torch.arange(1, width + 1, dtype=torch.int64, device=self.keys.device) * GOLDEN
        bits = mix((self.keys ^ salt)[:, None] + lane)
        return ((_shift(bits, 11).double() + 0.5) * 2.0**-53).reshape(shape)


def uniform(rng: torch.Generator | RowNoise, shape: tuple[int, ...], like: torch.Tensor) -> torch.Tensor:
    """Draw uniforms in [0, 1) with the dtype and device of `like`."""
    if isinstance(rng, RowNoise):
        return rng.uniform(shape).to(like).clamp_max(1 - torch.finfo(like.dtype).eps / 2)  # a cast may round to one
    _check_generator(rng)
    return torch.rand(shape, generator=rng, dtype=like.dtype, device=like.device)


def normal(rng: torch.Generator | RowNoise, shape: tuple[int, ...], like: torch.Tensor) -> torch.Tensor:
    """Draw standard normals with the dtype and device of `like`."""
    if isinstance(rng, RowNoise):
        return torch.special.ndtri(rng.uniform(shape)).to(like)
    _check_generator(rng)
    return torch.randn(shape, generator=rng, dtype=like.dtype, device=like.device)


def _check_generator(rng: Any) -> None:
    # torch takes None for its global generator, without a word.
    if not isinstance(rng, torch.Generator):
        raise TypeError(f"rng must be a torch.Generator or RowNoise; got {rng!r}")


def _shift(bits: torch.Tensor, by: int) -> torch.Tensor:
    """Logical (unsigned) right shift of int64."""
    return (bits >> by) & ((1 << (64 - by)) - 1)


def mix(bits: torch.Tensor) -> torch.Tensor:
    """The finaliser of splitmix64: every input bit flips every output bit with probability one half."""
    bits = (bits ^ _shift(bits, 30)) * _MIX_1
    bits = (bits ^ _shift(bits, 27)) * _MIX_2
    return bits ^ _shift(bits, 31)


def hash_words(words: torch.Tensor) -> torch.Tensor:
    """Hash each row of 64-bit words: (n, k) -> (n,) int64."""
    lanes = torch.arange(1, words.shape[1] + 1, dtype=torch.int64, device=words.device) * GOLDEN
    return mix(words + lanes).sum(1)  # the sum wraps, as wanted


def row_hash(x: torch.Tensor) -> torch.Tensor:
    """Hash each row: (n, *event) -> (n,) int64. Values are hashed as float64, so that 3 and 3.0 are the same row."""
    flat = x.reshape(len(x), -1).double()
    flat = torch.where(flat == 0, 0.0, flat)  # -0.0 and 0.0 are equal rows
    flat = torch.where(flat.isnan(), torch.nan, flat)  # and so are the NaN of either sign
    return hash_words(flat.view(torch.int64))
