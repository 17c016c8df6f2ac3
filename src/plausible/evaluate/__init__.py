"""How good is it? Typed likelihoods, two-sample tests, novelty, and the comparison that puts them side by side."""

from plausible.evaluate.compare import compare
from plausible.evaluate.comparison import Comparison, Row
from plausible.evaluate.likelihood import Difference, Likelihood, comparable, difference, likelihood, verdict
from plausible.evaluate.novelty import Novelty, novelty
from plausible.evaluate.two_sample import (
    TwoSample,
    classifier_two_sample_test,
    features,
    mmd,
    sliced_wasserstein,
)

__all__ = [
    "Comparison",
    "Difference",
    "Likelihood",
    "Novelty",
    "Row",
    "TwoSample",
    "classifier_two_sample_test",
    "comparable",
    "compare",
    "difference",
    "features",
    "likelihood",
    "mmd",
    "novelty",
    "sliced_wasserstein",
    "verdict",
]
