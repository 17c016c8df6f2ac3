r"""Gibbs sampling: one coordinate, or block, at a time from its conditional.

    x_d ~ p(x_d | x_{-d}),    d = 1, ..., D, over and over

The conditionals are the user's (`gibbs`), or come from the joint by trying every level of the coordinate
(`gibbs_discrete`: p(x_d = k | x_-d) is the softmax over k of log p(x_1, ..., k, ..., x_D)). Coordinates without levels,
reals and unbounded integers, take a random-walk Metropolis step each instead (Metropolis within Gibbs).

References: Geman and Geman, 1984. Gelfand and Smith, 1990. Tierney, Markov chains for exploring posterior
distributions, Annals of Statistics 1994 (mixing kernels).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from plausible.errors import DataError
from plausible.sampling._density import LogDensity, Target, _array, starts
from plausible.sampling._run import Kernel, generators, run
from plausible.sampling.result import Draws

Conditional = Callable[[torch.Tensor, torch.Generator], Any]
AT_ONCE = 4_000_000  # numbers of trial points evaluated in one go


def gibbs(
    conditionals: Sequence[Conditional | tuple[Sequence[int], Conditional]],
    start: Any,
    n: int,
    *,
    log_density: LogDensity | None = None,
    chains: int | None = None,
    warmup: int | None = None,
    thin: int = 1,
    random_state: Any = None,
) -> Draws:
    """Draw by sweeps over conditionals that can be drawn from.

    Args:
        conditionals: for each coordinate a function of all points (chains, D) and a ``torch.Generator`` that returns
            new values (chains,) of that coordinate; or pairs of the columns of a block and a function that returns
            (chains, columns).
        start: one point (D,) for all chains, or a point per chain (chains, D).
        n: draws of each chain, one per sweep over all conditionals (`thin` sweeps, if given).
        log_density: if given, its value is noted beside each draw.
        chains, warmup, thin, random_state: as in `metropolis_hastings`.

    Examples:
        A normal with correlation 0.8, by its two conditionals:

        >>> import torch
        >>> from plausible import sampling
        >>> def other(d):
        ...     return lambda x, rng: 0.8 * x[:, 1 - d] + 0.6 * torch.randn(len(x), generator=rng, dtype=x.dtype)
        >>> draws = sampling.gibbs([other(0), other(1)], [0.0, 0.0], 2000, random_state=0)
        >>> bool(abs(draws.flat.T[0] @ draws.flat.T[1] / len(draws) - 0.8) < 0.05)
        True
    """
    target = None if log_density is None else Target(log_density)
    x = starts(start, chains, target)
    kernel = _Conditionals(conditionals, x, generators(random_state)[1], target)
    return run(kernel, n, n if warmup is None else warmup, thin, "Gibbs", target)


class _Conditionals(Kernel):
    def __init__(self, conditionals, x: np.ndarray, rng: torch.Generator, target: Target | None):
        self.x, self.rng, self.target = x, rng, target
        dims = x.shape[1]
        self.blocks = []
        for d, entry in enumerate(conditionals):
            columns, draw = entry if isinstance(entry, tuple) else (d, entry)
            columns = np.atleast_1d(columns)
            if not callable(draw) or columns.max() >= dims or columns.min() < 0:
                raise DataError(
                    f"conditional {d} must be a function, or a pair of columns 0 to {dims - 1} and a function"
                )
            self.blocks.append((columns, draw))
        untouched = set(range(dims)) - {int(c) for columns, _ in self.blocks for c in columns}
        if untouched:
            raise DataError(f"no conditional draws coordinate {min(untouched)}: each of the {dims} needs one")
        self.log_p, self.accept = np.full(len(x), np.nan), np.ones(len(x))

    def step(self) -> None:
        for i, (columns, draw) in enumerate(self.blocks):
            new = _array(draw(torch.from_numpy(self.x.copy()), self.rng))
            if new.shape not in ((len(self.x), len(columns)), (len(self.x),) * (len(columns) == 1)):
                raise DataError(
                    f"conditional {i} must return ({len(self.x)}, {len(columns)}) values, got shape {new.shape}"
                )
            if not np.isfinite(new).all():
                raise DataError(f"conditional {i} returned NaN or infinity")
            self.x = self.x.copy()
            self.x[:, columns] = new.reshape(len(self.x), len(columns))
        if self.target is not None:
            self.log_p = self.target(self.x)


def gibbs_discrete(
    log_density: LogDensity,
    levels: Sequence[Any] | int,
    start: Any,
    n: int,
    *,
    chains: int | None = None,
    warmup: int | None = None,
    thin: int = 1,
    random_state: Any = None,
) -> Draws:
    """Draw from a joint density by trying every level of one coordinate after the other.

    Args:
        log_density: log p up to a constant; takes points (m, D), returns (m,).
        levels: of each coordinate: a number K of levels 0 to K-1, or their values, or ``"integer"`` for all integers or
            None for the line, which take a random-walk step each, its scale learned in warm-up. One number serves all.
        start: one point (D,) for all chains, or a point per chain (chains, D).
        n: draws of each chain, one per sweep over all coordinates (`thin` sweeps, if given).
        chains, warmup, thin, random_state: as in `metropolis_hastings`.

    Examples:
        >>> from plausible import sampling
        >>> draws = sampling.gibbs_discrete(lambda x: (x[:, 0] == x[:, 1]) * 1.0, 2, [0, 0], 4000, random_state=0)
        >>> round(float((draws.flat[:, 0] == draws.flat[:, 1]).mean()), 1)  # e / (1 + e)
        0.7
    """
    target = Target(log_density)
    rng = generators(random_state)[0]
    x = starts(start, chains, target)
    kernel = Sweep(target, x, rng, levels)
    return run(kernel, n, n if warmup is None else warmup, thin, "Gibbs", target)


class Sweep(Kernel):
    """Legend: C chains, K levels of the coordinate at hand."""

    def __init__(self, target: Target, x: np.ndarray, rng: np.random.Generator, levels: Any):
        self.target, self.x, self.rng = target, x, rng
        dims = x.shape[1]
        levels = [levels] * dims if levels is None or isinstance(levels, (int, np.integer, str)) else list(levels)
        if len(levels) != dims:
            raise DataError(f"levels must say something of each of {dims} coordinates, got {len(levels)} entries")
        self.levels = [_values(entry, d) for d, entry in enumerate(levels)]
        self.whole = [isinstance(entry, str) for entry in levels]
        for d, values in enumerate(self.levels):
            allowed = np.isin(x[:, d], values) if values is not None else x[:, d] == np.round(x[:, d])
            if (values is not None or self.whole[d]) and not allowed.all():
                raise DataError(f"start has {x[~allowed, d][0]:g} in coordinate {d}, which is none of its levels")
        self.log_p = target(x)
        self.log_scale, self.t = np.zeros(dims), 0
        self.rates = np.ones((dims, len(x)))
        self.walks = np.flatnonzero([v is None for v in self.levels])
        self.accept = np.ones(len(x))

    def step(self) -> None:
        for d, values in enumerate(self.levels):
            if values is None:
                self._walk(d)
            else:
                self._enumerate(d, values)
        if len(self.walks):
            self.accept = self.rates[self.walks].mean(0)

    def _enumerate(self, d: int, values: np.ndarray) -> None:
        chains, k = len(self.x), len(values)
        trial = np.repeat(self.x, k, 0)
        trial[:, d] = np.tile(values, chains)
        rows = max(1, AT_ONCE // trial.shape[1])
        log_p = np.concatenate([self.target(trial[i : i + rows]) for i in range(0, len(trial), rows)])
        log_p = log_p.reshape(chains, k)
        p = np.exp(log_p - log_p.max(1, keepdims=True)).cumsum(1)
        u = self.rng.random((chains, 1)) * p[:, -1:]
        chosen = (u >= p).sum(1)
        self.x = self.x.copy()
        self.x[:, d], self.log_p = values[chosen], log_p[np.arange(chains), chosen]

    def _walk(self, d: int) -> None:
        noise = np.exp(self.log_scale[d]) * self.rng.standard_normal(len(self.x))
        if self.whole[d]:  # at least one up or down, with the same probability
            noise = np.where(noise >= 0, 1, -1) * np.maximum(np.abs(np.round(noise)), 1)
        y = self.x.copy()
        y[:, d] += noise
        log_p = self.target(y)
        self.rates[d] = np.exp(np.minimum(log_p - self.log_p, 0.0))
        go = self.rng.random(len(y)) < self.rates[d]
        self.x = np.where(go[:, None], y, self.x)
        self.log_p = np.where(go, log_p, self.log_p)

    def adapt(self) -> None:
        self.t += 1
        self.log_scale[self.walks] += 2 * self.t**-0.6 * (self.rates[self.walks].mean(1) - 0.44)

    def settings(self) -> dict[str, Any]:
        return {"scale": np.exp(self.log_scale[self.walks])} if len(self.walks) else {}


def _values(entry: Any, d: int) -> np.ndarray | None:
    if entry is None or (isinstance(entry, str) and entry == "integer"):
        return None
    if isinstance(entry, (int, np.integer)) and not isinstance(entry, bool) and entry >= 1:
        return np.arange(entry, dtype=np.float64)
    if isinstance(entry, str) or np.ndim(entry) != 1 or len(entry) == 0:
        raise DataError(f"levels[{d}] must be a number of levels, their values, 'integer' or None; got {entry!r}")
    return np.unique(_array(entry))
