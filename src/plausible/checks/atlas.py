r"""A space covered by weighted points, so that a sum over them is an integral over it.

    mass = sum_x p(x)                                  over all states of a discrete space
         = E_u[ p(x(u)) / q(x(u)) ],  u ~ U[0, 1]^d    over d reals

x(u) is the quantile function of a Student t with two degrees of freedom in each direction, scaled and turned to the
covariance of data and samples: its tails outweigh those of any model with a variance. u runs over a lattice (equal
steps in one dimension, a Fibonacci lattice in two, a Kronecker sequence in more) that is shifted at random several
times. Each shift is an unbiased estimate, and their spread is the error bar; for a smooth density in one or two
dimensions it is quadrature, correct to many digits. A mixed space takes every state of its discrete columns with every
point of its reals.

References: Cranley and Patterson, Randomization of number theoretic methods for multiple integration, 1976. Sloan and
Joe, Lattice Methods for Multiple Integration, 1994.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
import torch

from plausible.randomness import RowNoise

SHIFTS = 8  # random shifts of the lattice
# Lattice points per shift, by the number of reals (for two, a Fibonacci number), and for more; and the same where each
# point costs many passes through a net.
POINTS, BEYOND = {0: 1, 1: 512, 2: 2584}, 2048
FEWER_POINTS, FEWER_BEYOND = {0: 1, 1: 128, 2: 377}, 512
FIBONACCI = {2584: 1597, 377: 233}  # the number before
MOST_STATES = 4096  # of the discrete columns together
DRAWN_STATES = 512  # per shift, where there are more states than that


@dataclass
class Atlas:
    """Points x of a space and their weights.

    Args:
        codes: (R * M, *shape); R replicates, each of M points that cover the whole space.
        log_q: (R, M), such that the sum over m of f(x_m) exp(-log_q_m) estimates the integral of f.
        whiten: (shift, factor) of the reals: t = factor^-1 (x - shift).
        reals: the indices of the real columns.
        enumerated: whether the points are all there is, so that sums are exact.
    """

    codes: torch.Tensor
    log_q: np.ndarray
    whiten: tuple[np.ndarray, np.ndarray]
    reals: list[int]
    enumerated: bool

    @classmethod
    def of(cls, model: Any, X: Any, seed: int = 0, fine: bool = True) -> Atlas:
        """Cover the space of a fitted model; where data and samples lie tells where to look more closely."""
        space, rng = model.space_, np.random.default_rng(seed)
        seen = torch.cat([space.encode(Y).double().flatten(1) for Y in (X, model.sample(1000, random_state=seed))])
        reals = [d for d, c in enumerate(space.columns) if not c.discrete]
        shift, factor = _spread(seen[:, reals].numpy())
        replicates = []
        for _ in range(SHIFTS if reals or _n_states(space, seen) > MOST_STATES else 1):
            states, log_states = _states(space, seen, rng)
            t, log_t = _lattice(len(reals), rng, fine)
            codes = np.repeat(states, len(t), 0)
            codes[:, reals] = np.tile(shift + t @ factor.T, (len(states), 1))
            log_q = np.repeat(log_states, len(t)) + np.tile(log_t, len(states))
            replicates.append((codes, log_q - np.linalg.slogdet(factor)[1]))
        codes = torch.from_numpy(np.concatenate([c for c, _ in replicates])).reshape(-1, *space.shape)
        enumerated = not reals and len(replicates) == 1
        return cls(codes, np.stack([q for _, q in replicates]), (shift, factor), reals, enumerated)

    def log_prob(self, model: Any) -> np.ndarray:
        """Return the model's log_prob at the points: (R, M)."""
        return model.log_prob(model.space_.decode(self.codes)).reshape(self.log_q.shape)

    def mass(self, log_p: np.ndarray) -> np.ndarray:
        """Return the mass that each point stands for, from log_prob at the points: (R, M)."""
        with np.errstate(over="ignore"):
            return np.exp(log_p - self.log_q)

    def noisy_terms(self, model: Any, method: str, rows: int) -> np.ndarray:
        """Return what the module's `log_prob` or `log_weight` says at the points, for several noises each.

        Args:
            model: a fitted model whose likelihood is a bound.
            method: the name of the method of its module.
            rows: about how many values are computed in all.

        Returns:
            (R, M, k) nats in the units of the data.
        """
        k = max(8 if len(self.log_q) == 1 else 1, rows // self.log_q.size)
        x = self.codes.to(model._device()).repeat_interleave(k, 0)
        place = torch.arange(len(x), device=x.device) % k
        rng = RowNoise(torch.cat([x.double().flatten(1), place[:, None].double()], 1))
        module = model._evaluator()
        dtype = next((p.dtype for p in module.parameters()), torch.float64)
        with torch.no_grad():
            z, log_c = model.transforms_(x, rng)
            terms = getattr(module, method)(z.to(dtype), None, rng).double() + log_c
        return terms.cpu().numpy().reshape(*self.log_q.shape, k)

    def mass_by_importance(self, model: Any, rows: int) -> np.ndarray:
        """Return the same where log_prob is a bound, from single importance weights w, with E[w] = p.

        Returns:
            Independent unbiased estimates: (R, M), or where a single replicate holds all states, one for each weight.
        """
        w = np.exp(self.noisy_terms(model, "log_weight", rows) - self.log_q[..., None])
        return w[0].T if len(w) == 1 else w.mean(2)

    def cells(self, codes: torch.Tensor, n_cells: int = 100) -> np.ndarray:
        """Return which cell each example (n, *shape) is in: (n, D) integers; reals are cut at quantiles of their model.

        Cuts are made along the whitened directions of the reals, into about `n_cells` cells in all.
        """
        flat = codes.double().flatten(1).numpy()
        out = np.nan_to_num(flat, nan=-1.0)
        if self.reals:
            shift, factor = self.whiten
            t = np.linalg.solve(factor, (flat[:, self.reals] - shift).T).T
            states = len(np.unique(out[: self.log_q.shape[1]][:, self._discrete()], axis=0)) if self._discrete() else 1
            bins = int(np.clip(round((n_cells / states) ** (1 / len(self.reals))), 3, 24))
            edges = _normal_quantiles(bins)
            out[:, self.reals] = np.searchsorted(edges, t)
        return out.astype(np.int64)

    def _discrete(self) -> list[int]:
        return [d for d in range(self.codes[0].numel()) if d not in self.reals]


def mean_and_error(replicates: np.ndarray) -> tuple[float, float]:
    """Return the mean of independent estimates and its standard error; zero for a single, exact one."""
    error = replicates.std(ddof=1) / math.sqrt(len(replicates)) if len(replicates) > 1 else 0.0
    return float(replicates.mean()), float(error)


def _normal_quantiles(bins: int) -> np.ndarray:
    from scipy.special import ndtri

    return ndtri(np.arange(1, bins) / bins)


def _spread(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the mean (d,) and a triangular factor (d, d) of the covariance."""
    if x.shape[1] == 0:
        return np.zeros(0), np.zeros((0, 0))
    covariance = np.atleast_2d(np.cov(x.T))
    # A little roundness keeps the points off the edge of a degenerate ellipse.
    covariance = covariance + 1e-3 * np.diag(np.diag(covariance))
    return x.mean(0), np.linalg.cholesky(covariance)


def _lattice(d: int, rng: np.random.Generator, fine: bool) -> tuple[np.ndarray, np.ndarray]:
    """Return points t (M, d) and the log of M times their density (M,)."""
    m = POINTS.get(d, BEYOND) if fine else FEWER_POINTS.get(d, FEWER_BEYOND)
    if d <= 2:
        u = np.arange(m)[:, None] * np.array([1.0, FIBONACCI.get(m, 1)])[:d] / m
    else:
        u = np.arange(m)[:, None] * _plastic(d) ** -np.arange(1.0, d + 1)
    u = np.clip((u + rng.random(d)) % 1.0, 1e-9, 1 - 1e-9)
    t = (2 * u - 1) / np.sqrt(2 * u * (1 - u))
    log_density = -1.5 * np.log1p(t * t / 2) - 1.5 * math.log(2)
    return t, log_density.sum(1) + math.log(len(u))


def _plastic(d: int) -> float:
    """The root above one of r^(d+1) = r + 1, whose powers spread a sequence evenly over d dimensions."""
    r = 1.5
    for _ in range(60):
        r = (1 + r) ** (1 / (d + 1))
    return r


def _codes_of(column, seen: np.ndarray) -> np.ndarray:
    """The codes a discrete column can take; for a count, as far as twenty deviations beyond what was seen."""
    if column.levels:
        return np.arange(column.n_levels, dtype=float)
    reach = 20 * max(np.nanstd(seen), 1.0)
    low = np.nanmin(seen) - reach if column.low is None else column.low
    return np.arange(np.floor(low), np.nanmax(seen) + reach + 1)


def _n_states(space, seen: torch.Tensor) -> int:
    if space.type == "text":
        return 1
    sizes = [len(_codes_of(c, seen[:, d].numpy())) for d, c in enumerate(space.columns) if c.discrete]
    return math.prod(sizes)


def _states(space, seen: torch.Tensor, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Return codes (S, D) of the discrete columns, reals left at zero, and the log of their weight's inverse (S,)."""
    if space.type == "text":
        return _all_strings(space)
    discrete = [d for d, c in enumerate(space.columns) if c.discrete]
    values = [_codes_of(space.columns[d], seen[:, d].numpy()) for d in discrete]
    if _n_states(space, seen) <= MOST_STATES:
        states = np.zeros((math.prod(map(len, values)), space.dims))
        states[:, discrete] = np.array(list(product(*values))).reshape(len(states), -1)
        return states, np.zeros(len(states))
    return _drawn_states(space, seen, discrete, values, rng)


def _drawn_states(space, seen, discrete, values, rng) -> tuple[np.ndarray, np.ndarray]:
    """Too many states to take all: draw some from the product of the columns, kept broad."""
    states, log_q = np.zeros((DRAWN_STATES, space.dims)), np.full(DRAWN_STATES, math.log(DRAWN_STATES))
    for d, codes in zip(discrete, values, strict=True):
        known = seen[:, d].numpy()
        shares = np.array([(known == v).mean() for v in codes])
        q = 0.75 * shares / max(shares.sum(), 1e-12) + 0.25 / len(codes)
        q /= q.sum()
        chosen = rng.choice(len(codes), DRAWN_STATES, p=q)
        states[:, d] = codes[chosen]
        log_q += np.log(q[chosen])
    return states, log_q


def _all_strings(space) -> tuple[np.ndarray, np.ndarray]:
    alphabet = [t for t in space.columns[0].levels if t]
    lengths = range(space.length + 1) if space.end else [space.length]
    codes = space.encode(["".join(s) for k in lengths for s in product(alphabet, repeat=k)])
    return codes.double().numpy(), np.zeros(len(codes))
