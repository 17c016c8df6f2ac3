"""Density: log_prob is a number of its own row, and it adds up to one."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch

from plausible.checks.atlas import mean_and_error
from plausible.checks.audit import Broken, NotApplicable, check
from plausible.checks.cases import Bench, rows_of

ROUNDING = 1e-5  # relative; convolutions are evaluated in single precision
SUM, INTEGRAL = 1e-5, 2e-3  # how far one that ought to be one may be off
ESTIMATED_MASS = 0.05
BOUND_TERMS = 8000  # evaluations of a bound that has noise, over all states
WIDEST_ERROR = 0.05  # of an integral that is taken as having settled


@check
def log_prob_is_finite(bench: Bench) -> str:
    """log_prob is finite, one float64 per example, for the training data and for the model's own samples."""
    for case in bench.with_density():
        model = bench.fitted(case)
        for what, X in (("the data", case.draw()), ("its own samples", model.sample(100, random_state=0))):
            log_p = model.log_prob(X)
            if not isinstance(log_p, np.ndarray) or log_p.shape != (len(X),) or log_p.dtype != np.float64:
                raise Broken(f"on {case.name}, log_prob of {len(X)} examples is no float64 array of shape ({len(X)},)")
            if not np.isfinite(log_p).all():
                raise Broken(f"on {case.name}, log_prob is not finite for {(~np.isfinite(log_p)).sum()} of {what}")
    return "on the data and on samples"


@check
def log_prob_is_deterministic(bench: Bench) -> str:
    """Two calls of log_prob give the same numbers to the bit."""
    for case in bench.with_density():
        model, X = bench.fitted(case), case.draw()
        if not np.array_equal(model.log_prob(X), model.log_prob(X)):
            raise Broken(f"on {case.name}, two calls differ")
    return "to the bit"


@check
def log_prob_ignores_order(bench: Bench) -> str:
    """The log_prob of an example does not depend on its place among the others."""
    worst = 0.0
    for case in bench.with_density():
        model, X = bench.fitted(case), case.draw()
        order = np.random.default_rng(0).permutation(len(X))
        worst = max(worst, _same(model.log_prob(X)[order], model.log_prob(rows_of(X, order)), case.name, "order"))
    return f"to {worst:.1g}"


@check
def log_prob_ignores_the_batch(bench: Bench) -> str:
    """The log_prob of an example does not depend on which others, or how many, are scored with it."""
    worst = 0.0
    for case in bench.with_density():
        model, X = bench.fitted(case), case.draw()
        whole = model.log_prob(X)
        for rows in ([0], [1, 2, 3], range(100)):
            alone = model.log_prob(rows_of(X, rows))
            worst = max(worst, _same(whole[list(rows)], alone, case.name, f"a batch of {len(rows)}"))
    return f"to {worst:.1g}"


def _same(a: np.ndarray, b: np.ndarray, where: str, what: str) -> float:
    off = float((np.abs(a - b) / np.maximum(np.abs(a), 1)).max())
    if not off < ROUNDING:
        raise Broken(f"on {where}, {what} changes log_prob by up to {np.abs(a - b).max():.3g} nats")
    return off


@check
def mass_sums_to_one(bench: Bench) -> str:
    """exp(log_prob) sums or integrates to one over the space; that of a lower bound to no more than one.

    Sums over all states of discrete columns and integrals over reals, with an error bar: see `atlas`.
    """
    found = []
    for case in bench.with_density():
        kind = bench.fitted(case).likelihood_kind_
        atlas, log_p, _ = bench.covered(case)
        mass, error = mean_and_error(atlas.mass(log_p).sum(1))
        if bench.is_bound(case) and atlas.enumerated:  # no spread between replicates tells of the noise
            mass, error = _mass_of_a_noisy_bound(bench.fitted(case), atlas)
        slack = 5 * error + (ESTIMATED_MASS if kind == "estimate" else SUM if atlas.enumerated else INTEGRAL)
        text = f"{case.name}: {mass:.5f}" + (f" ± {error:.1g}" if error else "")
        too_much = not mass <= 1 + slack and kind != "upper_bound"
        too_little = not mass >= 1 - slack and kind != "lower_bound"
        if too_much or too_little:
            raise Broken(f"the mass over {text}, of a likelihood that is {kind}")
        if error > WIDEST_ERROR and not bench.is_bound(case):
            raise Broken(f"the mass over {text} does not settle")
        found.append(text)
    return ", ".join(found)


def _mass_of_a_noisy_bound(model: Any, atlas: Any) -> tuple[float, float]:
    """The mass over all states of a bound that is a mean over noise, from more noise than log_prob itself takes."""
    terms = atlas.noisy_terms(model, "log_prob", BOUND_TERMS)[0]  # (M, k)
    p = np.exp(terms.mean(1))
    return float(p.sum()), float(np.sqrt((p**2 * terms.var(1) / terms.shape[1]).sum()))


@check
def importance_weights_average_to_one(bench: Bench) -> str:
    """The importance weights beside a bound are unbiased: the mass of their mean over the space is one."""
    bench.with_density()
    found = []
    for case in _bounds(bench):
        mass, error = mean_and_error(bench.covered(case)[2].sum(1))
        text = f"{case.name}: {mass:.3f} ± {error:.1g}"
        if not abs(mass - 1) <= 0.01 + 5 * error:
            raise Broken(f"the importance-weighted mass over {text}")
        found.append(text)
    return ", ".join(found)


def _bounds(bench: Bench) -> list:
    cases = [c for c in bench.with_density() if bench.is_bound(c)]
    if not cases:
        raise NotApplicable("its likelihood is no bound")
    return cases


@check
def a_bound_lies_on_its_side(bench: Bench) -> str:
    """On average a lower bound lies below the importance-weighted estimate, an upper bound above it."""
    gaps = []
    for case in _bounds(bench):
        model, X = bench.fitted(case), case.draw(100)
        gap = model.log_prob(X, importance_samples=16) - model.log_prob(X)
        gap = -gap if model.likelihood_kind_ == "upper_bound" else gap
        if not gap.mean() >= -4 * gap.std() / np.sqrt(len(gap)) - 1e-9:
            raise Broken(f"on {case.name} the {model.likelihood_kind_} lies {-gap.mean():.3g} nats on the wrong side")
        gaps.append(f"{case.name}: {gap.mean():.2g} nats")
    return ", ".join(gaps)


@check
def missing_cells_are_integrated_out(bench: Bench) -> str:
    """The mass of an example with a missing cell is the sum, or integral, of that of all its completions."""
    if not (bench.traits.missing or bench.traits.marginals):
        raise NotApplicable("it does not take missing cells")
    bench.with_density()
    found = []
    for case in bench.some("tables", lambda space: space.type == "table"):
        model = bench.fitted(case)
        if model.likelihood_kind_ != "exact" or model.space_.dims < 2:
            continue
        marginal, completions = _marginal_both_ways(model, case.draw(5, seed=3))
        possible = ~(np.isneginf(marginal) & np.isneginf(completions))  # kernels of finite reach do not reach all
        off = np.abs(marginal - completions, where=possible, out=np.zeros(len(marginal))).max()
        if not off < 1e-3:
            raise Broken(f"on {case.name}, an incomplete example's log_prob is {off:.3g} nats off its completions'")
        found.append(f"{case.name}: {off:.0e} nats off")
    if not found:
        raise NotApplicable("its likelihood is exact on no table")
    return ", ".join(found)


def _marginal_both_ways(model: Any, X: Any, points: int = 20_001) -> tuple[np.ndarray, np.ndarray]:
    """log p of rows without their last cell: as the model says it, and by adding up over the cell."""
    x = model.space_.encode(X).double()
    column = model.space_.columns[-1]
    log_dx = torch.zeros(1, dtype=torch.float64)
    if column.levels:
        values = torch.arange(column.n_levels, dtype=torch.float64)
    elif column.discrete:
        values = torch.arange(2000, dtype=torch.float64)
    else:  # quantiles of a Student t with two degrees of freedom: close together where the data are
        u = (torch.arange(points, dtype=torch.float64) + 0.5) / points
        spread = (2 * u * (1 - u)).sqrt()
        values = x[:, -1].mean() + x[:, -1].std() * (2 * u - 1) / spread
        log_dx = x[:, -1].std().log() - math.log(points) - 3 * spread.log()
    full = x.repeat_interleave(len(values), 0)
    full[:, -1] = values.repeat(len(x))
    log_p = torch.from_numpy(model.log_prob(model.space_.decode(full))).reshape(len(x), -1)
    x[:, -1] = torch.nan
    return model.log_prob(model.space_.decode(x)), (log_p + log_dx).logsumexp(1).numpy()
