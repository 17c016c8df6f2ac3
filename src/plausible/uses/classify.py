r"""Bayes' rule: a classifier from any model of p(x | c).

    p(c | x) = p(c) p(x | c) / sum_c' p(c') p(x | c')

p(x | c) is one conditional model, or one model for each class where the family takes no context; p(c) are the shares of
the classes in the training data, or what the user says they are. Unlike a classifier that learns p(c | x) alone, this
one draws examples of a class, says how likely an example is at all, and stays right when the shares of the classes
change.

References: Bishop, Pattern Recognition and Machine Learning, 2006, section 4.2. Ng and Jordan, On discriminative vs.
generative classifiers, 2001.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils import check_array
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import _check_sample_weight, check_is_fitted, column_or_1d

from plausible import registry
from plausible.errors import CapabilityError, DataError
from plausible.randomness import generator, seed_of
from plausible.space import infer
from plausible.uses.class_models import fit_classes, log_prob_classes, sample_classes


class BayesClassifier(ClassifierMixin, BaseEstimator):
    """Bayes' rule over any conditional family, or over one model for each class.

    Args:
        model: an estimator with a density: of a family that takes a context it is fitted once, with the class as
            context; of another it is fitted once for each class.
        prior: 'frequency' (the weighted shares of the classes), 'uniform', or a probability for each class in the order
            of ``classes_``.
        importance_samples: for a model that gives a bound, weigh this many samples in an estimate of p(x | c) instead:
            bounds of several classes need not be equally loose.

    Attributes:
        classes_: the labels, sorted.
        models_: the fitted models: one, or one for each class.
        contexts_: where there is one model, the context of each class, a DataFrame of K rows; else None.
        log_prior_: log p(c) of each class.

    Examples:
        >>> import plausible as pl
        >>> from sklearn.datasets import load_iris
        >>> X, y = load_iris(return_X_y=True)
        >>> classifier = pl.BayesClassifier(pl.Gaussian()).fit(X, y)
        >>> bool(classifier.score(X, y) > 0.97)
        True
        >>> rows, labels = classifier.sample(5, random_state=0)
        >>> rows.shape, labels.shape
        ((5, 4), (5,))
    """

    def __init__(
        self,
        model: Any,
        *,
        prior: Literal["frequency", "uniform"] | Any = "frequency",
        importance_samples: int | None = None,
    ):
        self.model = model
        self.prior = prior
        self.importance_samples = importance_samples

    # ------------------------------------------------------------------------------------------------------- fit

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> BayesClassifier:
        """Fit p(x | c) and the shares of the classes.

        Args:
            X: n examples, as the model takes them.
            y: n labels.
            sample_weight: non-negative weights, with shape (n,).

        Raises:
            CapabilityError: the model has no density.
            DataError: X and y do not fit together, or the prior is none.
        """
        need_density(self.model)
        space = infer(X, self.model.space)  # of all classes together, so that they agree on columns and levels
        y = labels_of(y, len(space.encode(X)))
        check_classification_targets(y)
        self.classes_, k = np.unique(y, return_inverse=True)
        if (np.bincount(k) < 2).any() and not self.model.traits.context:
            rare = self.classes_[np.bincount(k).argmin()]
            raise DataError(f"class {rare!r} has one example only; a model of its own needs two. Leave the class out")
        weight, shares = weights_of(sample_weight, k, len(self.classes_))
        self.log_prior_ = np.log(self._prior(shares))
        rows = [np.flatnonzero(k == j) for j in range(len(self.classes_))]
        weights = None if sample_weight is None else [weight[r] for r in rows]
        self.models_, self.contexts_ = fit_classes(self.model, space, X, rows, weights)
        self._take_names()
        return self

    def _take_names(self) -> None:
        """scikit-learn's attributes of the columns, from the first model."""
        for name in ("n_features_in_", "feature_names_in_"):
            if hasattr(self.models_[0], name):
                setattr(self, name, getattr(self.models_[0], name))

    def _prior(self, shares: np.ndarray) -> np.ndarray:
        if isinstance(self.prior, str) and self.prior in ("frequency", "uniform"):
            p = shares if self.prior == "frequency" else np.ones_like(shares)
            return p / p.sum()
        p = None if isinstance(self.prior, str) else np.asarray(self.prior, dtype=float)
        if p is None or p.shape != shares.shape or not (p > 0).all() or not np.isclose(p.sum(), 1):
            raise DataError(
                f"prior must be 'frequency', 'uniform' or {len(shares)} positive numbers that add up to one (classes "
                f"{', '.join(map(str, self.classes_[:10]))}), got {self.prior!r}"
            )
        return p

    # --------------------------------------------------------------------------------------------------- predict

    def joint_log_prob(self, X: Any) -> np.ndarray:
        """Return log p(x, c) of each example with each class: nats, with shape (n, K)."""
        check_is_fitted(self, "models_")
        how = {"importance_samples": self.importance_samples}
        return log_prob_classes(self.models_, self.contexts_, X, **how) + self.log_prior_

    def predict_log_proba(self, X: Any) -> np.ndarray:
        """Return log p(c | x), with shape (n, K).

        An example that every class finds impossible has the probabilities of the prior.
        """
        return log_posterior(self.joint_log_prob(X), self.log_prior_)

    def predict_proba(self, X: Any) -> np.ndarray:
        """Return p(c | x), with shape (n, K)."""
        return np.exp(self.predict_log_proba(X))

    def predict(self, X: Any) -> np.ndarray:
        """Return the most probable class of each example, with shape (n,)."""
        k = self.predict_log_proba(X).argmax(1)
        return self.classes_[k]

    # ------------------------------------------------------------------------------------- the generative verbs

    def log_prob(self, X: Any, y: Any = None) -> np.ndarray:
        """Return log p(x) = log sum_c p(x, c) of each example, or log p(x, y) if labels are given: nats, (n,)."""
        joint = self.joint_log_prob(X)
        if y is None:
            return log_evidence(joint)
        y = np.asarray(y)
        place = np.searchsorted(self.classes_, y).clip(0, len(self.classes_) - 1)
        if y.shape != (len(joint),) or (self.classes_[place] != y).any():
            raise DataError(f"expected {len(joint)} labels, each of {', '.join(map(str, self.classes_[:10]))}")
        return joint[np.arange(len(joint)), place]

    def sample(self, n: int = 1, *, random_state: Any = None) -> tuple[Any, np.ndarray]:
        """Draw n labels from p(c), and an example of each: (X, y)."""
        check_is_fitted(self, "models_")
        rng = np.random.default_rng(seed_of(generator(random_state)))
        k = rng.choice(len(self.classes_), n, p=np.exp(self.log_prior_))
        return sample_classes(self.models_, self.contexts_, k, random_state=rng), self.classes_[k]

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        inner = self.model.__sklearn_tags__().input_tags
        tags.input_tags.allow_nan, tags.input_tags.categorical = inner.allow_nan, inner.categorical
        tags.input_tags.string = inner.string
        return tags


def classify(
    model: Any,
    labels: Sequence | Mapping[Any, Mapping[str, Any]] | None = None,
    *,
    prior: Literal["uniform"] | Sequence[float] | Mapping[Any, float] = "uniform",
    importance_samples: int | None = None,
) -> BayesClassifier:
    """Return a classifier from a fitted model of p(x | c), without fitting anything.

    Args:
        model: a fitted model with a density and a context.
        labels: the classes to choose from. Of a model whose context is one column, values of that column (by default,
            all it was fitted on); in general a mapping, label -> context of the class as {column: value}.
        prior: p(c): 'uniform', a probability for each label, or a mapping label -> probability. How often the classes
            occurred when the model was fitted is not known to it.
        importance_samples: as for `BayesClassifier`.

    Raises:
        CapabilityError: the model has no density, or was fitted without a context.
        DataError: a label is unknown to the model, or the prior is none.

    Examples:
        >>> import plausible as pl
        >>> from plausible.uses.classify import classify
        >>> from sklearn.datasets import load_iris
        >>> X, y = load_iris(return_X_y=True)
        >>> model = pl.NaiveBayes(random_state=0).fit(X, context=y)
        >>> classify(model).predict(X[[0, 60, 120]])
        array([0, 1, 2])
        >>> classify(model, [0, 2], prior=[0.9, 0.1]).predict_proba(X[:1]).round(3)
        array([[1., 0.]])
    """
    check_is_fitted(model, "module_")
    need_density(model)
    contexts = _contexts(model, labels)
    classes = np.array(list(contexts))
    order = np.argsort(classes, kind="stable")
    found = BayesClassifier(model, prior=prior, importance_samples=importance_samples)
    found.classes_ = classes[order]
    if isinstance(prior, Mapping):
        unknown = set(prior) ^ set(contexts)
        if unknown:
            raise DataError(f"prior must have a probability for each label and no more; look at {sorted(unknown)[0]!r}")
        found.prior = [prior[list(contexts)[j]] for j in order]
    elif not isinstance(prior, str) and len(prior) == len(order):
        found.prior = [prior[j] for j in order]  # given in the order of `labels`
    found.log_prior_ = np.log(found._prior(np.ones(len(order))))
    found.models_ = [model]
    found.contexts_ = _frame(model, [list(contexts.values())[j] for j in order])
    found._take_names()
    return found


def _contexts(model: Any, labels: Any) -> dict[Any, Mapping[str, Any]]:
    """label -> {column of the context: value}."""
    space = model.context_space_
    if space is None:
        raise CapabilityError(
            f"this {type(model).__name__} was fitted without a context, so it has no p(x | c); fit it with "
            "context=labels, or let BayesClassifier fit one for each class"
        )
    if space.type != "table":
        raise CapabilityError(f"classes are a context of labels; the context of this model is {space.describe()}")
    columns = space.columns
    if isinstance(labels, Mapping):
        return dict(labels)
    if len(columns) != 1:
        names = ", ".join(c.name for c in columns)
        raise DataError(f"the context has columns {names}; give labels as {{label: {{column: value, ...}}}}")
    if labels is None:
        if not columns[0].levels:
            raise DataError(f"the context {columns[0].name!r} is {columns[0].kind}; say which labels to choose from")
        labels = columns[0].levels
    return {label: {columns[0].name: label} for label in labels}


def _frame(model: Any, contexts: list[Mapping[str, Any]]) -> Any:
    """Contexts as rows, refused where the model was not fitted on such."""
    import pandas as pd

    if len(contexts) < 1:
        raise DataError("expected at least one label, got none")
    wanted = model.context_space_.names
    for context in contexts:
        if set(context) != set(wanted):
            raise DataError(f"expected a context with {', '.join(wanted)}, got {', '.join(map(str, context))}")
    frame = pd.DataFrame(contexts, columns=wanted)
    model._encode_context(frame, None)  # says what is wrong with a value
    return frame


def labels_of(y: Any, n: int, none: str = "") -> np.ndarray:
    """Labels as an array (n,); `none` says in words what stands for no label, where something does."""
    if y is None:
        raise ValueError("requires y to be passed, but the target y is None")
    y = check_array(column_or_1d(y, warn=True), ensure_2d=False, dtype=None, input_name="y")
    if len(y) != n:
        raise DataError(f"expected a label for each of {n} examples{none}, got {len(y)}")
    return y


def weights_of(sample_weight: Any, k: np.ndarray, classes: int) -> tuple[np.ndarray, np.ndarray]:
    """The weights of examples of class k (n,), -1 where it is not known, and the sum for each class."""
    weight = _check_sample_weight(sample_weight, np.empty((len(k), 1)), dtype=np.float64)
    shares = np.bincount(k[k >= 0], weight[k >= 0], classes)
    if (weight < 0).any() or (shares == 0).any():
        raise DataError("sample_weight must be non-negative, and not zero for all examples of a class")
    return weight, shares


def need_density(model: Any) -> None:
    """Refuse a model that Bayes' rule cannot be asked of."""
    if not model.traits.density:
        others = registry.capable(lambda f: f.traits.density)
        raise CapabilityError(
            f"{type(model).__name__} has no density, and Bayes' rule needs p(x | c); "
            f"these families have one: {', '.join(others)}"
        )


def log_posterior(joint: np.ndarray, log_prior: np.ndarray) -> np.ndarray:
    """Return log p(c | x) from log p(x, c) (n, K); where no class finds x possible, log p(c)."""
    joint = np.where(np.isneginf(joint).all(1, keepdims=True), log_prior, joint)
    return joint - log_evidence(joint)[:, None]


def log_evidence(joint: np.ndarray) -> np.ndarray:
    """Return log p(x) from log p(x, c) (n, K)."""
    from scipy.special import logsumexp

    return logsumexp(joint, axis=1)
