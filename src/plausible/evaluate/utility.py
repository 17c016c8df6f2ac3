r"""Do made-up examples help a classifier? Trained with and without them, judged on real examples that nobody has seen.

    d_r = score(trained on the other set) - score(trained on real examples),    split r = 1 .. R
    var(mean d) = (1/R + n_test / n_train) var(d)

The splits of one data set share most of their rows, so their scores vary together: the second term corrects for that.
A difference counts where it is beyond the 97.5 % quantile of Student's t with R - 1 degrees of freedom.

Reference: Nadeau and Bengio, Inference for the generalization error, Machine Learning, 2003.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from plausible.errors import DataError

CONFIDENCE = 0.975
LEAST_SPLITS = 3
BASE = "real"


@dataclass(frozen=True)
class Utility:
    """Scores of a classifier trained on several sets of examples, over R splits.

    Args:
        scoring: what was scored, in scikit-learn's words; higher is better.
        scores: name of the training set -> scores (R,); the first is 'real'.
        test_ratio: test examples for each training example of a split.
    """

    scoring: str
    scores: Mapping[str, np.ndarray]
    test_ratio: float

    def difference(self, name: str) -> tuple[float, float]:
        """Return the mean difference to training on real examples alone, and its standard error."""
        d = self.scores[name] - self.scores[BASE]
        return float(d.mean()), math.sqrt((1 / len(d) + self.test_ratio) * d.var(ddof=1))

    def verdict(self, name: str) -> str:
        """'helped', 'hurt' or 'did not help': the last where the difference is within chance."""
        from scipy.stats import t

        mean, stderr = self.difference(name)
        if abs(mean) <= t.ppf(CONFIDENCE, len(self.scores[BASE]) - 1) * stderr or mean == 0:
            return "did not help"
        return "helped" if mean > 0 else "hurt"

    def helped(self, name: str) -> bool:
        return self.verdict(name) == "helped"

    def table(self) -> Any:
        """Return a DataFrame: a row for each training set, its mean score, the difference and its standard error."""
        import pandas as pd

        rows = {}
        for name, values in self.scores.items():
            mean, stderr = self.difference(name) if name != BASE else (math.nan, math.nan)
            rows[name] = {self.scoring: values.mean(), "difference": mean, "stderr": stderr}
            rows[name]["verdict"] = "" if name == BASE else self.verdict(name)
        return pd.DataFrame.from_dict(rows, orient="index")

    def __str__(self) -> str:
        lines = [f"{self.scoring} on held-out examples, {len(self.scores[BASE])} splits"]
        width = max(map(len, self.scores))
        for name, values in self.scores.items():
            line = f"  {name:{width}}  {values.mean():.4f}"
            if name != BASE:
                mean, stderr = self.difference(name)
                line += f"  ({mean:+.4f} ± {stderr:.4f}: {self.verdict(name)})"
            lines.append(line)
        return "\n".join(lines)


def splits(k: np.ndarray, repeats: int, test_fraction: float, seed: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield (train, test) indices of `repeats` random splits, each with all classes k (n,) in proportion.

    Raises:
        DataError: a class has too few examples, or a setting is out of range.
    """
    from sklearn.model_selection import StratifiedShuffleSplit

    check_splits(repeats, test_fraction)
    least, need = int(np.unique(k, return_counts=True)[1].min()), fewest(test_fraction)
    if least < need:
        raise DataError(
            f"the check needs {need} examples of each class at least, and one has {least}; go without the check"
        )
    yield from StratifiedShuffleSplit(repeats, test_size=test_fraction, random_state=seed % 2**32).split(k, k)


def fewest(test_fraction: float) -> int:
    """How many examples of a class are enough for some of them on either side of every split."""
    return max(4, math.ceil(1 / test_fraction), math.ceil(1 / (1 - test_fraction)))


def check_splits(repeats: int, test_fraction: float) -> None:
    """Refuse settings of `splits` that are out of range."""
    if not isinstance(repeats, (int, np.integer)) or repeats < LEAST_SPLITS:
        raise DataError(f"repeats must be at least {LEAST_SPLITS} for a standard error, got {repeats!r}")
    if not 0 < test_fraction < 1:
        raise DataError(f"test_fraction must lie between 0 and 1, got {test_fraction!r}")


def default_classifier() -> Any:
    """A random forest: right for tables of any kind and size, without settings that need care.

    Boosted trees want 20 examples to a leaf by default, so that on few examples mere copies of them seem to help.
    """
    from sklearn.ensemble import RandomForestClassifier

    return RandomForestClassifier(n_estimators=100, random_state=0)


def score(
    classifier: Any, scoring: str, fit: tuple[np.ndarray, np.ndarray], *tests: tuple[np.ndarray, np.ndarray]
) -> list[float]:
    """Fit a clone of a scikit-learn classifier to (features, classes) and score it on each test set of the kind.

    NaN where a score is not defined, such as some are of a test set of one class.
    """
    from sklearn.base import clone
    from sklearn.metrics import get_scorer
    from threadpoolctl import threadpool_limits

    # On so few rows a second thread gains little, and on a busy machine its barriers cost 40 times the work.
    with threadpool_limits(limits=1, user_api="openmp"), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "y_pred contains classes not in y_true")  # a small group may lack a class
        fitted = clone(classifier).fit(*fit)
        warnings.filterwarnings("ignore", "Only one class is present|A single label was found")
        return [_scored(get_scorer(scoring), fitted, *test) for test in tests]


def _scored(scorer: Any, fitted: Any, x: np.ndarray, y: np.ndarray) -> float:
    try:
        return float(scorer(fitted, x, y))
    except ValueError:
        if set(np.unique(y)) == set(fitted.classes_):
            raise
        return math.nan


def check_scoring(scoring: str) -> None:
    """Refuse a score that scikit-learn does not know."""
    from sklearn.metrics import get_scorer, get_scorer_names

    try:
        get_scorer(scoring)
    except ValueError:
        known = [n for n in get_scorer_names() if n in ("accuracy", "balanced_accuracy", "f1_macro", "neg_log_loss")]
        raise DataError(f"scoring must be one of scikit-learn's, such as {', '.join(known)}; got {scoring!r}") from None
