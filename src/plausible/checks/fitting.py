"""Fit: what it leaves behind, and what of the data it may depend on."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from plausible import registry
from plausible.checks.audit import Broken, NotApplicable, check
from plausible.checks.cases import Bench, accepted, labels_of, rows_of

FITTED = ("space_", "transforms_", "module_", "history_", "fit_seconds_", "n_parameters_", "n_features_in_")
# Powers of two near a thousand and a thousandth: rounding is the same in both units, so that even a long training by
# gradient takes the same path, and what is left is the formula.
UNITS = (1024.0, 1 / 1024)


@check
def fits_what_it_says_it_can(bench: Bench) -> str:
    """A family fits every sort of data that its traits accept, and leaves behind what the contract names.

    What it cannot model it refuses with one sentence before any training.
    """
    if not accepted(bench.model):
        raise Broken("its traits accept none of the toy data; look at traits.events and traits.kinds")
    cases = bench.cases
    for name, err in bench.refused.items():
        raise Broken(f"fit fails on {name} with {type(err).__name__}: {err}")
    for case in cases:
        model = bench.fitted(case)
        absent = [a for a in FITTED if not hasattr(model, a)]
        if absent:
            raise Broken(f"after fit on {case.name} there is no {', '.join(absent)}")
    return ", ".join(c.name for c in cases)


@check
def beats_independent(bench: Bench) -> str:
    """On data whose columns depend on each other, the likelihood of new examples is above that of their product."""
    bench.with_density()
    if not bench.traits.dependence or registry.name_of(type(bench.model)) == registry.BASELINE:
        raise NotApplicable("it is a product of columns")
    gains = []
    for case in bench.some("examples of several dimensions", lambda space: space.dims > 1)[:2]:
        model, new = bench.fitted(case), case.draw(200, seed=1)
        baseline = registry.get(registry.BASELINE)().fit(case.draw())
        gain = estimate(model, new) - baseline.log_prob(new)
        if gain.mean() <= 0:
            raise Broken(f"on {case.name} it is {-gain.mean():.2f} nats an example below the product of the columns")
        gains.append(f"{case.name}: +{gain.mean():.2f} nats")
    return ", ".join(gains)


@check
def change_of_units(bench: Bench) -> str:
    """Multiplying every real column by s moves log_prob of each example by exactly -log s a column."""
    bench.with_density()
    worst = 0.0
    for case in bench.some("reals", lambda space: "real" in space.kinds):
        model, X = bench.fitted(case), case.draw()
        n_real = sum(c.kind == "real" for c in model.space_.columns)
        own = model.log_prob(X)
        for s in UNITS if case is bench.cases[0] else UNITS[:1]:
            other = bench.fit(_scaled(X, s, model.space_))
            moved = other.log_prob(_scaled(X, s, other.space_)) - own + n_real * np.log(s)
            off = np.abs(moved) / np.maximum(np.abs(own), 1)
            if model.likelihood_kind_ != "exact":  # the noise of a bound is another for other numbers
                off = np.maximum(np.abs(moved.mean()) - 4 * moved.std() / np.sqrt(len(moved)), 0)[None]
            worst = max(worst, off.max())
            if not worst < 1e-6:
                most = moved[np.abs(moved).argmax()]
                raise Broken(
                    f"on {case.name}, reals multiplied by {s:g}, log_prob misses its shift by up to {most:.3g} nats"
                    f" (mean {moved.mean():.4g})"
                )
    return f"largest deviation {worst:.1g}, relative"


def _scaled(X: Any, s: float, space: Any) -> Any:
    if isinstance(X, pd.DataFrame):
        return X.assign(**{c.name: X[c.name] * s for c in space.columns if c.kind == "real"})
    return X * s


def estimate(model: Any, X: Any, samples: int = 16) -> np.ndarray:
    """Return log_prob, or the importance-weighted estimate of it where it is a bound."""
    bound = model.likelihood_kind_ in ("lower_bound", "upper_bound")
    return model.log_prob(X, importance_samples=samples if bound else None)


@check
def sample_weight_counts(bench: Bench) -> str:
    """Sample weights are accepted and pull the fit towards the examples that have more.

    For a family that is not trained by gradient a weight of k does what k copies do; since random starts may differ
    between the two, it is the mean log_prob that is compared.
    """
    case = bench.some("toy data")[0]
    X = case.draw()
    heavy = labels_of(bench.fitted(case), X) == "high"
    weight = np.where(heavy, 4, 1)
    model = bench.fit(X, sample_weight=weight.astype(float))
    if bench.traits.density is None:
        return "accepted"
    before, after = (m.log_prob(X) for m in (bench.fitted(case), model))
    pull = (after - before)[heavy].mean() - (after - before)[~heavy].mean()
    if not pull > 0:
        raise Broken(f"on {case.name}, examples with four times the weight gain {pull:.2g} nats over the others")
    if any(p.requires_grad for p in model.module_.parameters()):
        return f"four times the weight is worth {pull:.2g} nats"
    copied = rows_of(X, np.repeat(np.arange(len(X)), weight))
    off = abs(model.score(copied) - bench.fit(copied).score(copied))
    if not off < 0.05:
        raise Broken(f"on {case.name}, weights and copies differ by {off:.3g} nats in the mean")
    return f"weights and copies differ by {off:.1g} nats in the mean"
