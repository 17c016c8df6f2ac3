"""Few labels, many examples without: EM against the same by numpy, and Bayes' rule against its closed form."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from scipy.special import logsumexp
from sklearn.utils.estimator_checks import parametrize_with_checks

import plausible as pl
from plausible.errors import CapabilityError, DataError
from plausible.uses.classify import classify
from plausible.uses.semi_supervised import SemiSupervisedClassifier


def exceptions(_):
    """scikit-learn excuses its own semi-supervised classifiers by name."""
    return {"check_classifiers_classes": "fits labels -1 and 1, and -1 marks an example without"}


@parametrize_with_checks([SemiSupervisedClassifier(pl.Gaussian(random_state=0))], expected_failed_checks=exceptions)
def test_scikit_learn(estimator, check):
    check(estimator)


def two_normals(n: int, labels: int, seed: int = 0):
    """Examples of two normals in the plane, their classes, and classes with all but a few of each blanked."""
    rng = np.random.default_rng(seed)
    y = rng.permutation(np.arange(n) % 3 == 0).astype(int)
    X = rng.normal(size=(n, 2)) @ np.array([[1.0, 0.4], [0.0, 0.8]]) + np.array([3.5, 1.0]) * y[:, None]
    few = np.full(n, -1)
    for c in (0, 1):
        few[np.flatnonzero(y == c)[:labels]] = c
    return X, y, few


def em_by_numpy(X, few, lam, iterations):
    """The same EM, written out for a normal of each class: (shares, means, covariances, objective)."""
    one_hot = np.stack([few == 0, few == 1], 1).astype(float)
    w, objective = one_hot, []
    for _ in range(iterations + 1):
        share = w.sum(0) / w.sum()
        mean = (w.T @ X) / w.sum(0)[:, None]
        cov = [((X - m).T * w[:, j]) @ (X - m) / w[:, j].sum() for j, m in enumerate(mean)]
        joint = np.stack([stats.multivariate_normal(mean[j], cov[j]).logpdf(X) for j in (0, 1)], 1) + np.log(share)
        known = few >= 0
        rest = logsumexp(joint[~known], axis=1)
        objective.append(joint[known, few[known]].sum() + lam * rest.sum())
        w = np.where(known[:, None], one_hot, lam * np.exp(joint - logsumexp(joint, axis=1)[:, None]))
    return share, mean, cov, np.array(objective)


@pytest.mark.parametrize("lam", [1.0, 0.3])
def test_em_is_that_of_numpy_step_by_step(lam):
    X, _, few = two_normals(300, 5)
    model = SemiSupervisedClassifier(pl.Gaussian(), unlabelled_weight=lam, max_iter=9, tol=0.0).fit(X, few)
    share, mean, cov, objective = em_by_numpy(X, few, lam, 8)
    assert model.n_iter_ == 9
    np.testing.assert_allclose(model.objective_, objective, rtol=1e-6)
    np.testing.assert_allclose(np.exp(model.log_prior_), share, rtol=1e-6)
    joint = np.stack([stats.multivariate_normal(mean[j], cov[j]).logpdf(X) for j in (0, 1)], 1) + np.log(share)
    np.testing.assert_allclose(model.joint_log_prob(X), joint, atol=1e-5)


def test_objective_never_falls_and_em_ends_at_its_fixed_point():
    for seed in range(3):
        X, _, few = two_normals(120, 4, seed)
        model = SemiSupervisedClassifier(pl.Gaussian(), max_iter=100, tol=1e-6).fit(X, few)
        assert (np.diff(model.objective_) > -1e-7).all()
        assert model.termination_condition_ == "no_change"
        *_, objective = em_by_numpy(X, few, 1.0, 500)
        assert model.objective_[-1] == pytest.approx(objective[-1], abs=0.02)
    assert SemiSupervisedClassifier(pl.Gaussian(), max_iter=2).fit(X, few).termination_condition_ == "max_iter"


def bits(n: int, labels: int, seed: int):
    """Ten bits that are more often on in one class, and few labels."""
    rng = np.random.default_rng(seed)
    y = rng.integers(2, size=n)
    X = (rng.random((n, 10)) < np.where(y, 0.75, 0.3)[:, None]).astype(int)
    few = np.full(n, -1)
    for c in (0, 1):
        few[np.flatnonzero(y == c)[:labels]] = c
    return X, y, few


def test_smoothed_tables_raise_objective_plus_prior():
    """A Bernoulli with half a pseudo-row of each level: EM climbs the objective plus 0.5 sum log(p (1 - p))."""
    X, _, few = bits(400, 6, 0)
    climbed = []
    for iterations in range(6):
        model = SemiSupervisedClassifier(pl.NaiveBayes(), max_iter=iterations + 1, tol=0.0).fit(X, few)
        # Of the densities of one bit on and of none, all but that bit's odds cancels: (10, 2).
        odds = _given(model, np.eye(10, dtype=int)) - _given(model, np.zeros((1, 10), dtype=int))
        p = 1 / (1 + np.exp(-odds))
        climbed.append(model.objective_[-1] + 0.5 * (np.log(p) + np.log1p(-p)).sum())
    assert (np.diff(climbed) > -1e-8).all()
    assert climbed[-1] > climbed[0] + 1


def _given(model, X):
    return model.joint_log_prob(X) - model.log_prior_


def test_without_weight_the_unlabelled_do_not_count():
    X, _, few = two_normals(300, 6)
    known = few >= 0
    alone = pl.BayesClassifier(pl.Gaussian()).fit(X[known], few[known])
    for how in ({"unlabelled_weight": 0}, {"max_iter": 1}):
        model = SemiSupervisedClassifier(pl.Gaussian(), **how).fit(X, few)
        np.testing.assert_allclose(model.predict_proba(X), alone.predict_proba(X), atol=1e-5)
    everything = SemiSupervisedClassifier(pl.Gaussian()).fit(X[known], few[known])
    assert everything.termination_condition_ == "all_labeled"
    np.testing.assert_allclose(everything.predict_proba(X), alone.predict_proba(X), atol=1e-5)


def test_unlabelled_examples_help_where_classes_are_clusters():
    gains = []
    for seed in range(8):
        X, y, few = bits(300, 3, seed)
        alone = pl.BayesClassifier(pl.NaiveBayes()).fit(X[few >= 0], few[few >= 0])
        more = SemiSupervisedClassifier(pl.NaiveBayes(), max_iter=10).fit(X, few)
        gains.append(more.score(X, y) - alone.score(X, y))
    assert np.mean(gains) > 3 * np.std(gains, ddof=1) / np.sqrt(len(gains)) > 0


def test_a_sample_of_weight_two_is_that_sample_twice():
    X, _, few = two_normals(150, 5)
    weight = np.where(np.arange(150) % 4 == 0, 2.0, 1.0)
    twice = np.repeat(np.arange(150), weight.astype(int))
    weighted = SemiSupervisedClassifier(pl.Gaussian(), max_iter=4, tol=0.0).fit(X, few, sample_weight=weight)
    repeated = SemiSupervisedClassifier(pl.Gaussian(), max_iter=4, tol=0.0).fit(X[twice], few[twice])
    np.testing.assert_allclose(weighted.objective_, repeated.objective_, rtol=1e-6)
    np.testing.assert_allclose(weighted.predict_proba(X), repeated.predict_proba(X), atol=1e-5)


def test_names_as_labels_and_missing_cells():
    X, y, few = two_normals(300, 8)
    names = np.array(["left", "right"], dtype=object)
    labels = np.where(few < 0, -1, names[few])
    X[::5, 0] = np.nan
    model = SemiSupervisedClassifier(pl.Gaussian(), max_iter=10).fit(X, labels)
    assert list(model.classes_) == ["left", "right"]
    assert (model.predict(X) == names[y]).mean() > 0.85
    known = few >= 0
    assert (model.transduction_[known] == names[few[known]]).all()
    assert (model.transduction_[~known] == model.predict(X)[~known]).all()


def test_families_with_a_context_are_fitted_once_to_shares():
    rng = np.random.default_rng(0)
    y = rng.integers(2, size=300)
    X = (rng.random((300, 8)) < np.where(y, 0.8, 0.2)[:, None]).astype(int)
    few = np.where(np.arange(300) < 10, y, -1)
    net = pl.MADE(hidden=(8,), epochs=8, batch_size=64, learning_rate=0.05, random_state=0)
    model = SemiSupervisedClassifier(net, max_iter=3).fit(X, few)
    assert len(model.models_) == 1
    assert model.score(X, y) > 0.85


def test_refused():
    X, _, few = two_normals(60, 5)
    with pytest.raises(CapabilityError, match="no density"):
        SemiSupervisedClassifier(pl.GAN()).fit(X, few)
    with pytest.raises(DataError, match="no example has a label"):
        SemiSupervisedClassifier(pl.Gaussian()).fit(X, np.full(60, -1))
    with pytest.raises(DataError, match="array of objects"):
        SemiSupervisedClassifier(pl.Gaussian()).fit(X, few.astype(str))
    with pytest.raises(DataError, match="one label only"):
        SemiSupervisedClassifier(pl.Gaussian()).fit(X, np.where(few == 1, -1, few) + 2 * (np.arange(60) == 0))
    with pytest.raises(DataError, match="unlabelled_weight"):
        SemiSupervisedClassifier(pl.Gaussian(), unlabelled_weight=-1).fit(X, few)
    with pytest.raises(DataError, match="each of 60 examples"):
        SemiSupervisedClassifier(pl.Gaussian()).fit(X, few[:-1])


# ------------------------------------------------------------------------------------ classify: a model that is there


def test_classify_is_bayes_rule_in_closed_form():
    """Two normals with known parameters' estimates: the posterior is a logistic function of their densities."""
    X, y, _ = two_normals(400, 2)
    model = pl.NaiveBayes(density="gaussian").fit(X, context=y)
    log_p = np.stack(
        [stats.multivariate_normal(X[y == c].mean(0), np.cov(X[y == c].T, bias=True)).logpdf(X) for c in (0, 1)]
    )
    for prior in (0.5, 0.9):
        found = classify(model, [1, 0], prior=[1 - prior, prior])  # in the order of the labels
        truth = 1 / (1 + np.exp(-(log_p[1] - log_p[0] + np.log((1 - prior) / prior))))
        np.testing.assert_allclose(found.predict_proba(X)[:, 1], truth, atol=1e-5)
        assert list(found.classes_) == [0, 1]
        by_name = classify(model, prior={0: prior, 1: 1 - prior})
        np.testing.assert_allclose(by_name.predict_proba(X), found.predict_proba(X))
    np.testing.assert_allclose(classify(model).log_prior_, np.log([0.5, 0.5]))


def test_classify_by_several_columns_of_context():
    rng = np.random.default_rng(0)
    context = pd.DataFrame({"a": rng.choice(["x", "y"], 400), "b": rng.choice(["u", "v"], 400)})
    X = rng.normal(size=(400, 2)) + np.stack([4 * (context.a == "y"), 4 * (context.b == "v")], 1)
    model = pl.NaiveBayes(density="gaussian").fit(X, context=context)
    labels = {a + b: {"a": a, "b": b} for a in "xy" for b in "uv"}
    found = classify(model, labels)
    assert (found.predict(X) == context.a + context.b).mean() > 0.9
    assert list(found.classes_) == ["xu", "xv", "yu", "yv"]
    rows, of = found.sample(200, random_state=0)
    assert (found.predict(rows) == of).mean() > 0.9
    with pytest.raises(DataError, match="columns a, b"):
        classify(model)
    with pytest.raises(DataError, match="expected a context with a, b"):
        classify(model, {"x": {"a": "x"}})


def test_classify_refuses():
    X, y, _ = two_normals(100, 2)
    with pytest.raises(CapabilityError, match="without a context"):
        classify(pl.Gaussian().fit(X))
    model = pl.NaiveBayes(density="gaussian").fit(X, context=y)
    with pytest.raises(DataError):
        classify(model, [0, 7])
    with pytest.raises(DataError, match="prior"):
        classify(model, [0, 1], prior=[0.5, 0.4])
    with pytest.raises(DataError, match="prior"):
        classify(model, prior={0: 0.5})
