"""Networks for tests: asia as a file has it, random ones, and their joint distributions by enumeration."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

import plausible
from plausible.families.direct._bif import Network
from plausible.families.direct._elimination import Factor

FOLDER = Path(plausible.__file__).parents[3] / "shared" / "data" / "bayes_nets"

# Lauritzen and Spiegelhalter, 1988.
ASIA = """network unknown {
}
variable asia {
  type discrete [ 2 ] { yes, no };
}
variable tub {
  type discrete [ 2 ] { yes, no };
}
variable smoke {
  type discrete [ 2 ] { yes, no };
}
variable lung {
  type discrete [ 2 ] { yes, no };
}
variable bronc {
  type discrete [ 2 ] { yes, no };
}
variable either {
  type discrete [ 2 ] { yes, no };
}
variable xray {
  type discrete [ 2 ] { yes, no };
}
variable dysp {
  type discrete [ 2 ] { yes, no };
}
probability ( asia ) {
  table 0.01, 0.99;
}
probability ( tub | asia ) {
  (yes) 0.05, 0.95;
  (no) 0.01, 0.99;
}
probability ( smoke ) {
  table 0.5, 0.5;
}
probability ( lung | smoke ) {
  (yes) 0.1, 0.9;
  (no) 0.01, 0.99;
}
probability ( bronc | smoke ) {
  (yes) 0.6, 0.4;
  (no) 0.3, 0.7;
}
probability ( either | lung, tub ) {
  (yes, yes) 1.0, 0.0;
  (no, yes) 1.0, 0.0;
  (yes, no) 1.0, 0.0;
  (no, no) 0.0, 1.0;
}
probability ( xray | either ) {
  (yes) 0.98, 0.02;
  (no) 0.05, 0.95;
}
probability ( dysp | bronc, either ) {
  (yes, yes) 0.9, 0.1;
  (no, yes) 0.7, 0.3;
  (yes, no) 0.8, 0.2;
  (no, no) 0.1, 0.9;
}
"""


def factors_of(network: Network) -> list[Factor]:
    """The tables of a network, its variables numbered in their order."""
    number = {name: i for i, name in enumerate(network.variables)}
    out = []
    for name, table in network.tables.items():
        scope = tuple(number[v] for v in (name, *network.parents[name]))
        out.append(Factor(scope, torch.from_numpy(table / table.sum(0)).log(), child=number[name]))
    return out


def random_factors(seed: int, zeros: float = 0.2) -> tuple[list[int], list[Factor]]:
    """A random DAG of at most seven variables of one to three levels, with tables of which a share is zero."""
    rng = np.random.default_rng(seed)
    dims = int(rng.integers(1, 8))
    cards = [int(k) for k in rng.integers(1, 4, dims)]
    order = [int(v) for v in rng.permutation(dims)]
    factors = []
    for i, v in enumerate(order):
        parents = [int(p) for p in rng.permutation(order[:i])[: rng.integers(0, 4)]]
        table = rng.dirichlet(np.ones(cards[v]), [cards[p] for p in parents])
        table[..., 1:][rng.random(table[..., 1:].shape) < zeros] = 0
        table = np.moveaxis(table / table.sum(-1, keepdims=True), -1, 0)
        factors.append(Factor((v, *parents), torch.from_numpy(table.copy()).log(), child=v))
    return cards, factors


def enumerated(factors: list[Factor]) -> np.ndarray:
    """The joint distribution, an axis per variable."""
    dims = 1 + max(v for f in factors for v in f.variables)
    joint = np.ones((1,) * dims)
    for f in factors:
        axes = sorted(range(len(f.variables)), key=lambda i: f.variables[i])
        table = f.log_table.exp().numpy().transpose(axes)
        shape = np.ones(dims, dtype=int)
        shape[[f.variables[i] for i in axes]] = table.shape
        joint = joint * table.reshape(shape)
    return joint


def agreeing(joint: np.ndarray, row: torch.Tensor) -> np.ndarray:
    """The joint distribution with zeros where it contradicts the known cells of a row (V,), NaN being unknown."""
    out = joint.copy()
    for v, level in enumerate(row.tolist()):
        if level == level:
            other = np.arange(joint.shape[v]) != int(level)
            out[(slice(None),) * v + (other,)] = 0
    return out


def onto(joint: np.ndarray, variables: tuple[int, ...]) -> np.ndarray:
    """A margin, its axes in the order asked for."""
    left = sorted(variables)
    margin = joint.sum(tuple(v for v in range(joint.ndim) if v not in left))
    return margin.transpose([left.index(v) for v in variables])


def contracted(factors: list[Factor], keep: tuple[int, ...], evidence: dict[int, int]) -> np.ndarray:
    """p(keep, evidence) by numpy's einsum: other code, another order of the sums, no logarithms."""
    operands = []
    for f in factors:
        index = tuple(evidence.get(v, slice(None)) for v in f.variables)
        operands += [f.log_table.exp().numpy()[index], [v for v in f.variables if v not in evidence]]
    return np.einsum(*operands, list(keep), optimize="greedy")
