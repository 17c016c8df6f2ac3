r"""More examples of each class, drawn from p(x | c), and whether they help a classifier on examples nobody has seen.

    augmented = real examples  +  n made-up ones, each drawn from the model of its class

The check fits models and classifier to the training part of several random splits, draws from these models, and scores
on the held-out part: a model never sees what it is judged by. Examples that a model makes hold no more than it learned
from the real ones and what its family assumes; where that adds nothing, the check says so.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from sklearn.utils.validation import column_or_1d

from plausible.data import take
from plausible.errors import DataError
from plausible.evaluate.examples import joined
from plausible.evaluate.novelty import Copying, Novelty, against, copying, distances, in_shares
from plausible.evaluate.two_sample import features
from plausible.evaluate.utility import Utility, check_scoring, check_splits, default_classifier, score, splits
from plausible.randomness import generator, seed_of
from plausible.space import infer
from plausible.uses.class_models import fit_classes, sample_classes

ALPHA = 0.01  # p-value below which made-up examples are said to copy
Target = Literal["same", "uniform"] | Mapping[Any, int]


@dataclass(frozen=True)
class Augmented:
    """Real examples followed by made-up ones.

    Args:
        X: all examples, the real ones first, in the form they were given.
        y: their labels, (n,).
        synthetic: which were made up, (n,).
        utility: whether training on them helps; None if not asked.
        novelty: how near made-up examples come to those their model was fitted on, against held-out examples, in the
            first of the splits; None if not asked.
        copying: whether they come nearer than chance explains; None if not asked.
    """

    X: Any = field(repr=False)
    y: np.ndarray = field(repr=False)
    synthetic: np.ndarray = field(repr=False)
    utility: Utility | None
    novelty: Novelty | None
    copying: Copying | None

    @property
    def helped(self) -> bool | None:
        """Whether a classifier trained on all examples beat one trained on the real ones; None if not asked."""
        return None if self.utility is None else self.utility.helped("real + synthetic")

    def __str__(self) -> str:
        made = self.synthetic.sum()
        lines = [f"{len(self.y) - made:,} real and {made:,} synthetic examples"]
        if self.utility is not None:
            lines.append(f"training on both {self.utility.verdict('real + synthetic')}")
            lines += [str(self.utility), closeness(self.novelty, self.copying)]
        return "\n".join(lines)


def augment(
    model: Any,
    X: Any,
    y: Any,
    *,
    n: int | None = None,
    target: Target = "same",
    check: bool = True,
    classifier: Any = None,
    scoring: str = "balanced_accuracy",
    repeats: int = 10,
    test_fraction: float = 0.3,
    random_state: Any = None,
) -> Augmented:
    """Fit p(x | c) to labelled examples, draw more of them, and check whether they help.

    Args:
        model: an estimator of any family; its settings are used, not what it may have been fitted on. One that takes a
            context is fitted once, another once for each class.
        X: n examples, as the model takes them.
        y: n labels.
        n: how many to draw; as many as there are by default.
        target: labels of what is drawn: in the shares of the real ones ('same'), so that all classes of the whole are
            as near to equally frequent as n allows ('uniform'), or label -> number (without `n`).
        check: whether to compare training with and without on held-out examples, which takes `repeats` more fits.
        classifier: a scikit-learn classifier, given `evaluate.features` of the examples; a random forest by
            default.
        scoring: what the classifier is judged by, in scikit-learn's words.
        repeats: random splits in the check.
        test_fraction: the share held out in each.
        random_state: seed of models' draws and of splits.

    Raises:
        DataError: X and y do not fit together, or a setting is out of range; said before anything is fitted.
    """
    space = infer(X, model.space)
    codes = space.encode(X)
    y = column_or_1d(np.asarray(y))
    if len(y) != len(codes):
        raise DataError(f"expected a label for each of {len(codes)} examples, got {len(y)}")
    classes, k = np.unique(y, return_inverse=True)
    if len(classes) < 2:
        raise DataError(f"expected labels of two classes or more, got only {classes[0]!r}")
    n = _number(n, target, len(y))
    wanted = _wanted(classes, k, n, target)
    rng = generator(random_state)
    utility = novelty = copied = None
    if check:
        check_scoring(scoring)
        check_splits(repeats, test_fraction)
        learner = default_classifier() if classifier is None else classifier
        utility, novelty, copied = _check(
            model, space, X, codes, k, wanted, learner, scoring, repeats, test_fraction, seed_of(rng)
        )
    made, labels = _draw(model, space, X, k, wanted, seed_of(rng))
    return Augmented(
        X=joined([X, made]),
        y=np.concatenate([y, classes[labels]]),
        synthetic=np.arange(len(y) + len(labels)) >= len(y),
        utility=utility,
        novelty=novelty,
        copying=copied,
    )


def closeness(near: Novelty, test: Copying) -> str:
    """How near made-up examples come to real ones, and a warning where they copy."""
    said = f"to the nearest training example, {near}"
    return said if test.p_value > ALPHA else f"{said}\nwarning: they copy: {test}"


def _number(n: int | None, target: Target, have: int) -> int:
    if isinstance(target, Mapping):
        if n is not None:
            raise DataError("give either n or a target of numbers")
        return sum(target.values())
    n = have if n is None else n
    if not isinstance(n, (int, np.integer)) or n < 1:
        raise DataError(f"n must be a number of examples of at least 1, got {n!r}")
    return int(n)


def _wanted(classes: np.ndarray, k: np.ndarray, n: int, target: Target) -> np.ndarray:
    """How many of each class to draw, (K,)."""
    have = np.bincount(k)
    if isinstance(target, Mapping):
        unknown = [label for label in target if label not in classes]
        if unknown or any(v < 0 for v in target.values()) or not n:
            raise DataError(
                f"target: expected labels among {', '.join(map(str, classes[:10]))} and numbers, got {target}"
            )
        return np.array([target.get(label, 0) for label in classes])
    if target not in ("same", "uniform"):
        raise DataError(f"target must be 'same', 'uniform' or label -> number, got {target!r}")
    if target == "same":
        return _rounded(n * have / len(k), n)
    # Fill the rarest classes up to one level: the largest at which n examples suffice.
    order = np.sort(have)
    levels = (n + order.cumsum()) / np.arange(1, len(order) + 1)
    level = levels[np.flatnonzero(levels >= order)[-1]]
    return _rounded(np.maximum(level - have, 0), n)


def _rounded(shares: np.ndarray, n: int) -> np.ndarray:
    """Whole numbers that add up to n, each within one of its share (largest remainders)."""
    whole = np.floor(shares).astype(int)
    rest = np.argsort(-(shares - whole), kind="stable")[: n - whole.sum()]
    whole[rest] += 1
    return whole


def _draw(model: Any, space: Any, X: Any, k: np.ndarray, wanted: np.ndarray, seed: int) -> tuple[Any, np.ndarray]:
    """Fit to all examples of X with classes k; draw so many of each class: (examples, classes)."""
    fitted, contexts = fit_classes(model, space, X, [np.flatnonzero(k == j) for j in range(len(wanted))])
    labels = np.repeat(np.arange(len(wanted)), wanted)
    return sample_classes(fitted, contexts, labels, random_state=seed), labels


def _check(
    model, space, X, codes, k, wanted, learner, scoring, repeats, test_fraction, seed
) -> tuple[Utility, Novelty, Copying]:
    """Train with and without made-up examples on several splits."""
    names = ("real", "real + synthetic", "synthetic only")
    scores, near, copied = {name: [] for name in names}, None, None
    for r, (train, test) in enumerate(splits(k, repeats, test_fraction, seed)):
        fewer = _rounded(wanted * len(train) / len(k), round(wanted.sum() * len(train) / len(k)))
        made, labels = _draw(model, space, take(X, train), k[train], fewer, seed + r)
        real, unseen, drawn = (
            features(space, part, real=codes[train]) for part in (codes[train], codes[test], space.encode(made))
        )
        fits = {
            "real": (real, k[train]),
            "real + synthetic": (np.concatenate([real, drawn]), np.concatenate([k[train], labels])),
            "synthetic only": (drawn, labels),
        }
        for name, fit in fits.items():
            alone = len(np.unique(fit[1])) == 1  # made up of one class only, there is nothing to learn
            scores[name].append(np.nan if alone else score(learner, scoring, fit, (unseen, k[test]))[0])
        if near is None:
            theirs, own = distances(unseen, real), distances(drawn, real)  # class by class: their shares may differ
            near, copied = (in_shares(theirs, k[test], labels), own), copying(own, theirs, labels, k[test])
    kept = {name: np.array(v) for name, v in scores.items() if not np.isnan(v).any()}
    return Utility(scoring, kept, len(test) / len(train)), against(*near), copied
