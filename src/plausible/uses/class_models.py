r"""p(x | c) for classes 0 .. K-1: one conditional model, or one model for each class where the family takes no context.

What Bayes' rule, expectation-maximisation over labels and class-conditional augmentation have in common.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from sklearn.base import clone

from plausible.data import take
from plausible.evaluate.examples import joined
from plausible.randomness import generator, seed_of


def fit_classes(
    model: Any, space: Any, X: Any, rows: Sequence[np.ndarray], weights: Sequence[np.ndarray] | None = None
) -> tuple[list[Any], Any]:
    """Fit clones of `model` to the examples of each class.

    Args:
        model: an estimator; its fitted state, if any, is not used.
        space: what an example is, inferred from all classes together, so that they agree on columns and levels.
        X: n examples.
        rows: for each of K classes, which examples belong to it; one may belong to several, each with a weight.
        weights: for each class, the weights of its examples; None for one each.

    Returns:
        (models, contexts): one model and the context of each class, a DataFrame of K rows; or K models and None.
    """
    if len(rows) > 1 and model.traits.context:
        # In the order of X: what a net sees first should not be one class after the other.
        row, k = np.concatenate(rows), np.repeat(np.arange(len(rows)), [len(r) for r in rows])
        order = np.argsort(row, kind="stable")
        weight = None if weights is None else np.concatenate(weights)[order]
        contexts = names(len(rows))
        given = contexts.iloc[k[order]].reset_index(drop=True)
        fitted = clone(model).set_params(space=space).fit(take(X, row[order]), context=given, sample_weight=weight)
        return [fitted], contexts
    weights = weights or [None] * len(rows)
    own = clone(model).set_params(space=space)
    return [clone(own).fit(take(X, r), sample_weight=w) for r, w in zip(rows, weights, strict=True)], None


def names(n: int) -> Any:
    """The classes as names, a DataFrame of n rows: numbers would be taken for what they are not."""
    import pandas as pd

    width = len(str(n))
    return pd.DataFrame({"class": [f"{j:0{width}d}" for j in range(n)]})


def log_prob_classes(models: list[Any], contexts: Any, X: Any, **how: Any) -> np.ndarray:
    """Return log p(x | c) of each example for each class: nats, with shape (n, K)."""
    if contexts is None:
        return np.stack([m.log_prob(X, **how) for m in models], 1)
    one = models[0]
    return np.stack([one.log_prob(X, context=contexts.iloc[[j]], **how) for j in range(len(contexts))], 1)


def sample_classes(models: list[Any], contexts: Any, k: np.ndarray, random_state: Any = None) -> Any:
    """Draw an example of each of the classes k (n,), in that order."""
    rng = generator(random_state)
    if contexts is not None:
        return models[0].sample(len(k), context=contexts.iloc[k].reset_index(drop=True), random_state=seed_of(rng))
    present = np.unique(k)
    parts = [models[j].sample(int((k == j).sum()), random_state=seed_of(rng)) for j in present]
    place = np.empty(len(k), dtype=np.int64)  # the parts stand class after class
    place[np.argsort(k, kind="stable")] = np.arange(len(k))
    return take(joined(parts), place)
