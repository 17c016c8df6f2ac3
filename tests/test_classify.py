"""Bayes' rule: against closed forms, scikit-learn's own generative classifiers, and its checks."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from sklearn.datasets import load_iris
from sklearn.discriminant_analysis import QuadraticDiscriminantAnalysis
from sklearn.naive_bayes import BernoulliNB, GaussianNB
from sklearn.utils.estimator_checks import parametrize_with_checks

import plausible as pl
from plausible.errors import CapabilityError, DataError
from plausible.options import OptionError


@parametrize_with_checks(
    # Several normals a column on the five rows of a class that a check gives it: rounding chooses between their optima.
    [
        pl.BayesClassifier(pl.NaiveBayes(density="gaussian", random_state=0)),
        pl.BayesClassifier(pl.Gaussian(random_state=0)),
    ]
)
def test_scikit_learn(estimator, check):
    check(estimator)


@pytest.fixture(scope="module")
def iris():
    return load_iris(return_X_y=True)


def test_gaussians_are_quadratic_discriminant_analysis(iris):
    X, y = iris
    peer = QuadraticDiscriminantAnalysis(tol=0).fit(X, y)
    # It divides by n - 1 where maximum likelihood divides by n: the same for classes of one size up to that factor.
    ours = pl.BayesClassifier(pl.Gaussian()).fit(X, y)
    log_p = np.stack(
        [
            stats.multivariate_normal(X[y == k].mean(0), np.cov(X[y == k].T, bias=True)).logpdf(X) + np.log(1 / 3)
            for k in range(3)
        ],
        1,
    )
    np.testing.assert_allclose(ours.joint_log_prob(X), log_p, atol=1e-5)
    assert (ours.predict(X) == peer.predict(X)).mean() > 0.99


def test_bernoulli_naive_bayes_is_that_of_scikit_learn():
    rng = np.random.default_rng(0)
    y = rng.integers(3, size=300)
    X = (rng.random((300, 5)) < np.linspace(0.1, 0.9, 15).reshape(3, 5)[y]).astype(int)
    ours = pl.BayesClassifier(pl.NaiveBayes()).fit(X, y)
    peer = BernoulliNB(alpha=0.5, force_alpha=True).fit(X, y)
    np.testing.assert_allclose(ours.predict_proba(X), peer.predict_proba(X), atol=1e-6)


def test_prior_is_the_weighted_share_or_what_the_user_says(iris):
    X, y = iris
    weight = np.where(y == 0, 8.0, 1.0)
    weighted = pl.BayesClassifier(pl.Gaussian()).fit(X, y, sample_weight=weight)
    np.testing.assert_allclose(np.exp(weighted.log_prior_), [0.8, 0.1, 0.1])
    told = pl.BayesClassifier(pl.Gaussian(), prior=[0.5, 0.25, 0.25]).fit(X, y)
    np.testing.assert_allclose(np.exp(told.log_prior_), [0.5, 0.25, 0.25])
    for prior in ([0.5, 0.5], "often", [0.9, 0.1, 0.0]):
        with pytest.raises(DataError, match="prior"):
            pl.BayesClassifier(pl.Gaussian(), prior=prior).fit(X, y)


@pytest.mark.parametrize("model", [pl.NaiveBayes(), pl.Gaussian(), pl.Mixture(n_components=2, random_state=0)])
def test_joint_density_and_samples_agree(model, iris):
    X, y = iris
    labels = np.array(["setosa", "versicolor", "virginica"])[y]
    classifier = pl.BayesClassifier(model).fit(X, labels)
    joint = np.stack([classifier.log_prob(X, np.repeat(c, len(X))) for c in classifier.classes_], 1)
    np.testing.assert_allclose(np.exp(classifier.log_prob(X)), np.exp(joint).sum(1), rtol=1e-10)
    drawn, of = classifier.sample(3000, random_state=0)
    assert drawn.shape == (3000, 4)
    counts = pd.Series(of).value_counts()[classifier.classes_]
    assert stats.chisquare(counts).pvalue > 1e-3
    # Bayes' rule is calibrated on what the model draws: the mean of p(c | x) is the share of c.
    p = classifier.predict_proba(drawn)
    shares = np.stack([of == c for c in classifier.classes_], 1)
    error = np.sqrt((p * (1 - p)).mean(0) / len(p))
    assert (np.abs((p - shares).mean(0)) < 4 * error + 1e-9).all()


def test_mixed_table_with_missing_cells():
    rng = np.random.default_rng(0)
    y = rng.random(400) < 0.4
    X = pd.DataFrame(
        {
            "colour": np.where(rng.random(400) < 0.2 + 0.6 * y, "red", "blue"),
            "length": rng.normal(3 * y, 1),
            "visits": rng.poisson(50 + 20 * y),
        }
    )
    X.loc[::4, "length"] = None
    classifier = pl.BayesClassifier(pl.NaiveBayes()).fit(X, y)
    assert classifier.classes_.dtype == bool
    assert classifier.score(X, y) > 0.9
    unknown = X[:1].assign(colour=None, length=None, visits=None)
    np.testing.assert_allclose(classifier.predict_proba(unknown)[0], np.exp(classifier.log_prior_), atol=1e-6)


def test_conditional_nets_and_images():
    rng = np.random.default_rng(0)
    y = rng.integers(2, size=200)
    images = (rng.random((200, 3, 3)) < np.where(y, 0.8, 0.2)[:, None, None]).astype(np.uint8)
    classifier = pl.BayesClassifier(pl.MADE(hidden=(16,), epochs=30, batch_size=32, random_state=0)).fit(images, y)
    assert len(classifier.models_) == 1
    assert classifier.score(images, y) > 0.9


def test_against_gaussian_naive_bayes(iris):
    X, y = iris
    ours = pl.BayesClassifier(pl.NaiveBayes()).fit(X[::2], y[::2])
    assert ours.score(X[1::2], y[1::2]) >= GaussianNB().fit(X[::2], y[::2]).score(X[1::2], y[1::2]) - 0.03


def test_what_is_refused(iris):
    X, y = iris
    with pytest.raises(CapabilityError, match="no density"):
        pl.BayesClassifier(pl.GAN()).fit(X, y)
    with pytest.raises(DataError, match="one example"):
        pl.BayesClassifier(pl.Gaussian()).fit(X, np.r_[7, y[1:]])
    with pytest.raises(DataError, match="label"):
        pl.BayesClassifier(pl.Gaussian()).fit(X, y[:-1])
    with pytest.raises(DataError, match="zero for all"):
        pl.BayesClassifier(pl.Gaussian()).fit(X, y, sample_weight=np.where(y == 1, 0.0, 1.0))
    with pytest.raises(DataError, match="expected 150 labels"):
        pl.BayesClassifier(pl.Gaussian()).fit(X, y).log_prob(X, y + 5)
    with pytest.raises(OptionError, match="exact density"):
        pl.NaiveBayes(density="gan").fit(X, context=y)
    with pytest.raises(DataError, match="density for each class"):
        pl.NaiveBayes().fit(X, context=X[:, 0])
    labels = pd.DataFrame({"species": np.array(["a", "b", "c"], dtype=object)[y]})
    labels.iloc[3] = None
    with pytest.raises(DataError, match="example 3 is missing"):
        pl.NaiveBayes().fit(X, context=labels)
