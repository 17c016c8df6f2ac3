r"""Few labels and many examples without: Bayes' rule by expectation-maximisation.

    objective = sum_labelled log p(x, y) + lambda sum_unlabelled log sum_c p(x, c),    p(x, c) = p(c) p(x | c)

    E    r_ic = p(c | x_i) of each unlabelled example
    M    p(c) and p(x | c) fitted to the labelled examples with weight 1, to the unlabelled with weight lambda r_ic

The first p(x | c) is that of the labelled examples alone. Where the weighted fit is a maximum-likelihood one in closed
form, no step lowers the objective; a family that is smoothed raises the objective plus the log of its prior. One
trained by gradient comes without that promise: a fit that lowers the objective ends the search, and the one before is
kept. Unlabelled examples help where the classes are what the model would find as clusters, and hurt where they are not:
compare with lambda = 0 on held-out labels.

Reference: Nigam, McCallum, Thrun and Mitchell, Text classification from labeled and unlabeled documents using EM,
Machine Learning, 2000 (lambda: section 5.3.2).
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from sklearn.utils.multiclass import check_classification_targets

from plausible.errors import DataError
from plausible.space import infer
from plausible.uses.class_models import fit_classes
from plausible.uses.classify import BayesClassifier, labels_of, log_evidence, log_posterior, need_density, weights_of

UNLABELLED = -1  # scikit-learn's mark
LEAST = 1e-12  # shares of an example that are smaller are not fitted


class SemiSupervisedClassifier(BayesClassifier):
    """Bayes' rule fitted to examples of which only some have labels; those with the label -1 have none.

    Args:
        model: an estimator with a density, as for `BayesClassifier`; it is fitted anew in each iteration.
        prior: as for `BayesClassifier`; 'frequency' counts the shares of the unlabelled examples too.
        unlabelled_weight: lambda: what an unlabelled example counts beside a labelled one; 0 leaves them out.
        max_iter: fits at most; the first is of the labelled examples alone.
        tol: stop when the objective gains less than this, in nats per example (by weight).
        importance_samples: as for `BayesClassifier`.

    Attributes:
        classes_, models_, contexts_, log_prior_: as of `BayesClassifier`.
        transduction_: the labels given, and the most probable class where there was none, with shape (n,).
        objective_: the objective after each fit, in nats, with shape (n_iter_,).
        n_iter_: fits done.
        termination_condition_: 'no_change', 'max_iter' or 'all_labeled', in scikit-learn's words.

    Examples:
        >>> import numpy as np, plausible as pl
        >>> from plausible.uses.semi_supervised import SemiSupervisedClassifier
        >>> from sklearn.datasets import load_iris
        >>> X, y = load_iris(return_X_y=True)
        >>> few = np.where(np.arange(150) % 10 == 0, y, -1)  # five labels a class
        >>> classifier = SemiSupervisedClassifier(pl.Gaussian()).fit(X, few)
        >>> alone = pl.BayesClassifier(pl.Gaussian()).fit(X[few >= 0], few[few >= 0])
        >>> bool(classifier.score(X, y) > alone.score(X, y))
        True
    """

    def __init__(
        self,
        model: Any,
        *,
        prior: Literal["frequency", "uniform"] | Any = "frequency",
        unlabelled_weight: float = 1.0,
        max_iter: int = 50,
        tol: float = 1e-4,
        importance_samples: int | None = None,
    ):
        super().__init__(model, prior=prior, importance_samples=importance_samples)
        self.unlabelled_weight = unlabelled_weight
        self.max_iter = max_iter
        self.tol = tol

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> SemiSupervisedClassifier:
        """Fit p(x | c) and the shares of the classes.

        Args:
            X: n examples, as the model takes them.
            y: n labels, -1 for those that have none; strings in an array of objects, so that -1 can stand among them.
            sample_weight: non-negative weights, with shape (n,).

        Raises:
            CapabilityError: the model has no density.
            DataError: X and y do not fit together, a setting is out of range, or a class has too few labels to start.
        """
        need_density(self.model)
        self._check()
        space = infer(X, self.model.space)
        k = self._classes(y, len(space.encode(X)))
        weight, _ = weights_of(sample_weight, k, len(self.classes_))
        labelled = np.eye(len(self.classes_))[k] * (weight * (k >= 0))[:, None]  # (n, K)
        unknown, lam = np.flatnonzero(k < 0), self.unlabelled_weight
        most = self.max_iter if lam > 0 and len(unknown) else 1
        enough = self.tol * (weight[k >= 0].sum() + lam * weight[unknown].sum())
        self._maximise(space, X, k, labelled)
        joint = self.joint_log_prob(X)
        objective = [self._objective(joint, k, weight)]
        done, best = most == 1, (self.log_prior_, self.models_, joint)
        while not done and len(objective) < most:
            shared = labelled.copy()
            shared[unknown] = lam * weight[unknown, None] * np.exp(log_posterior(joint[unknown], self.log_prior_))
            self._maximise(space, X, k, shared)
            joint = self.joint_log_prob(X)
            objective.append(self._objective(joint, k, weight))
            done = objective[-1] - objective[-2] < enough
            if objective[-1] >= objective[-2]:  # a fit by gradient may have ended worse
                best = (self.log_prior_, self.models_, joint)
        self.log_prior_, self.models_, joint = best
        self.n_iter_, self.objective_ = len(objective), np.array(objective)
        self.termination_condition_ = "all_labeled" if not len(unknown) else "no_change" if done else "max_iter"
        self.transduction_ = self.classes_[np.where(k < 0, joint.argmax(1), k)]
        self._take_names()
        return self

    def _check(self) -> None:
        for name, low in (("unlabelled_weight", 0), ("max_iter", 1), ("tol", 0)):
            value = getattr(self, name)
            if not isinstance(value, (int, float, np.number)) or not value >= low:
                raise DataError(f"{name} must be a number of at least {low}, got {value!r}")

    def _classes(self, y: Any, n: int) -> np.ndarray:
        """Note the classes; return the number of each example's, -1 where it has no label."""
        y = labels_of(y, n, none=" (-1 for none)")
        if y.dtype.kind == "U":
            raise DataError(
                "labels that are strings leave no place for -1; give them as an array of objects, "
                "such as np.array(['a', -1, 'b'], dtype=object)"
            )
        known = np.array([bool(v != UNLABELLED) for v in y])
        if not known.any():
            raise DataError("no example has a label; expected at least two of each class")
        own = y[known].astype(str) if y.dtype == object and isinstance(y[known][0], str) else y[known]
        check_classification_targets(own)
        self.classes_, k_known = np.unique(own, return_inverse=True)
        if (np.bincount(k_known) < 2).any():
            rare = self.classes_[np.bincount(k_known).argmin()]
            raise DataError(f"class {rare!r} has one label only; the first model of a class needs two examples")
        k = np.full(n, -1)
        k[known] = k_known
        return k

    def _maximise(self, space: Any, X: Any, k: np.ndarray, shares: np.ndarray) -> None:
        """Fit p(c) and p(x | c) to examples that belong to classes by shares (n, K), those of class k wholly."""
        self.log_prior_ = np.log(self._prior(shares.sum(0)))
        rows = [np.flatnonzero((k == j) | (s > LEAST * shares.max())) for j, s in enumerate(shares.T)]
        self.models_, self.contexts_ = fit_classes(
            self.model, space, X, rows, [shares[r, j] for j, r in enumerate(rows)]
        )

    def _objective(self, joint: np.ndarray, k: np.ndarray, weight: np.ndarray) -> float:
        known = k >= 0
        labelled = (weight[known] * joint[known, k[known]]).sum()
        rest = weight[~known] * log_evidence(joint[~known])
        return float(labelled + self.unlabelled_weight * rest[weight[~known] > 0].sum())
