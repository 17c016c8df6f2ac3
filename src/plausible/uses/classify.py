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

from typing import Any, Literal

import numpy as np
from sklearn.base import BaseEstimator, ClassifierMixin, clone
from sklearn.utils import check_array
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import _check_sample_weight, check_is_fitted, column_or_1d

from plausible import registry
from plausible.data import take
from plausible.errors import CapabilityError, DataError
from plausible.randomness import generator, seed_of
from plausible.space import infer


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
        if not self.model.traits.density:
            others = registry.capable(lambda f: f.traits.density)
            raise CapabilityError(
                f"{type(self.model).__name__} has no density, and Bayes' rule needs p(x | c); "
                f"these families have one: {', '.join(others)}"
            )
        if y is None:
            raise ValueError("requires y to be passed, but the target y is None")
        space = infer(X, self.model.space)  # of all classes together, so that they agree on columns and levels
        y = check_array(column_or_1d(y, warn=True), ensure_2d=False, dtype=None, input_name="y")
        check_classification_targets(y)
        n = len(space.encode(X))
        if len(y) != n:
            raise DataError(f"expected a label for each of {n} examples, got {len(y)}")
        self.classes_, k = np.unique(y, return_inverse=True)
        weight = _check_sample_weight(sample_weight, np.empty((n, 1)), dtype=np.float64)
        shares = np.bincount(k, weight, len(self.classes_))
        if (np.bincount(k) < 2).any() and not self.model.traits.context:
            rare = self.classes_[np.bincount(k).argmin()]
            raise DataError(f"class {rare!r} has one example only; a model of its own needs two. Leave the class out")
        if (weight < 0).any() or (shares == 0).any():
            raise DataError("sample_weight must be non-negative, and not zero for all examples of a class")
        self.log_prior_ = np.log(self._prior(shares))
        w = None if sample_weight is None else weight
        if len(self.classes_) == 1:
            self.models_ = [clone(self.model).fit(X, sample_weight=w)]
        elif self.model.traits.context:
            self.models_ = [clone(self.model).fit(X, context=self._as_context(k), sample_weight=w)]
        else:
            self.models_ = [self._fit_class(space, X, np.flatnonzero(k == j), w) for j in range(len(self.classes_))]
        for name in ("n_features_in_", "feature_names_in_"):
            if hasattr(self.models_[0], name):
                setattr(self, name, getattr(self.models_[0], name))
        return self

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

    def _as_context(self, k: np.ndarray) -> Any:
        """The classes as names: numbers would be taken for what they are not."""
        import pandas as pd

        width = len(str(len(self.classes_)))
        return pd.DataFrame({"class": [f"{j:0{width}d}" for j in k]})

    def _fit_class(self, space: Any, X: Any, rows: np.ndarray, weight: np.ndarray | None) -> Any:
        model = clone(self.model).set_params(space=space)
        return model.fit(take(X, rows), sample_weight=None if weight is None else weight[rows])

    # --------------------------------------------------------------------------------------------------- predict

    def joint_log_prob(self, X: Any) -> np.ndarray:
        """Return log p(x, c) of each example with each class: nats, with shape (n, K)."""
        check_is_fitted(self, "models_")
        how = {"importance_samples": self.importance_samples}
        columns = []
        for j in range(len(self.classes_)):
            if len(self.models_) == 1 and self.models_[0].context_space_ is not None:
                context = self._as_context(np.array([j]))
                columns.append(self.models_[0].log_prob(X, context=context, **how))
            else:
                columns.append(self.models_[j].log_prob(X, **how))
        return np.stack(columns, 1) + self.log_prior_

    def predict_log_proba(self, X: Any) -> np.ndarray:
        """Return log p(c | x), with shape (n, K).

        An example that every class finds impossible has the probabilities of the prior.
        """
        joint = self.joint_log_prob(X)
        joint = np.where(np.isneginf(joint).all(1, keepdims=True), self.log_prior_, joint)
        return joint - _logsumexp(joint)[:, None]

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
            return _logsumexp(joint)
        y = np.asarray(y)
        place = np.searchsorted(self.classes_, y).clip(0, len(self.classes_) - 1)
        if y.shape != (len(joint),) or (self.classes_[place] != y).any():
            raise DataError(f"expected {len(joint)} labels, each of {', '.join(map(str, self.classes_[:10]))}")
        return joint[np.arange(len(joint)), place]

    def sample(self, n: int = 1, *, random_state: Any = None) -> tuple[Any, np.ndarray]:
        """Draw n labels from p(c), and an example of each: (X, y)."""
        check_is_fitted(self, "models_")
        rng = np.random.default_rng(random_state if random_state is None else seed_of(generator(random_state)))
        k = rng.choice(len(self.classes_), n, p=np.exp(self.log_prior_))
        seed = int(rng.integers(2**31))
        if len(self.models_) == 1 and self.models_[0].context_space_ is not None:
            return self.models_[0].sample(n, context=self._as_context(k), random_state=seed), self.classes_[k]
        k.sort()
        parts = [self.models_[j].sample(int((k == j).sum()), random_state=seed + int(j)) for j in np.unique(k)]
        order = rng.permutation(n)
        return take(_joined(parts), order), self.classes_[k[order]]

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        inner = self.model.__sklearn_tags__().input_tags
        tags.input_tags.allow_nan, tags.input_tags.categorical = inner.allow_nan, inner.categorical
        tags.input_tags.string = inner.string
        return tags


def _logsumexp(joint: np.ndarray) -> np.ndarray:
    from scipy.special import logsumexp

    return logsumexp(joint, axis=1)


def _joined(parts: list[Any]) -> Any:
    """One data set of several."""
    import pandas as pd

    if isinstance(parts[0], pd.DataFrame):
        return pd.concat(parts, ignore_index=True)
    return sum(parts, []) if isinstance(parts[0], list) else np.concatenate(parts)
