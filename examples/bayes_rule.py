"""Classifiers by Bayes' rule beside logistic regression and a support vector machine, on two bundled data sets.

    python examples/bayes_rule.py

A generative classifier models p(x | c) and turns it around; a discriminative one learns p(c | x) alone. Printed are the
accuracy and the log loss (nats per example) over five folds, with standard errors, once with all training examples
and once with 5 per class. On these data the discriminative ones have the smaller log loss: columns that depend on each
other make naive Bayes surer than it should be. What the generative ones give beside it: how likely an example is at
all, new examples of a class, answers where cells are missing (Ng and Jordan, 2001, compare the two kinds).
"""

from __future__ import annotations

import warnings

import numpy as np
from sklearn.datasets import load_breast_cancer, load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss
from sklearn.model_selection import StratifiedKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC

import plausible as pl

FEW = 5  # examples per class


def classifiers() -> dict:
    return {
        "naive Bayes": pl.BayesClassifier(pl.NaiveBayes(random_state=0)),
        "a Gaussian per class": pl.BayesClassifier(pl.Gaussian(random_state=0)),
        "a mixture per class": pl.BayesClassifier(pl.Mixture(n_components=3, random_state=0)),
        "logistic regression": make_pipeline(StandardScaler(), LogisticRegression(max_iter=2000)),
        "support vector machine": make_pipeline(StandardScaler(), SVC(probability=True, random_state=0)),
    }


def folds(X: np.ndarray, y: np.ndarray, few: bool):
    for train, test in StratifiedKFold(5, shuffle=True, random_state=0).split(X, y):
        if few:
            train = np.concatenate([train[y[train] == c][:FEW] for c in np.unique(y)])
        yield train, test


def main() -> None:
    warnings.simplefilter("ignore")  # scikit-learn's on SVC(probability=True), whose successor is not there yet
    for name, load in (("breast cancer, 30 reals", load_breast_cancer), ("digits, 64 pixels", load_digits)):
        X, y = load(return_X_y=True)
        X = X.astype(np.uint8) if name.startswith("digits") else X
        for few in (False, True):
            print(f"\n{name}, {f'{FEW} examples per class' if few else 'all examples'}")
            print(f"{'':24}{'accuracy':>16}{'log loss':>16}")
            for label, classifier in classifiers().items():
                scores = []
                for train, test in folds(X, y, few):
                    p = classifier.fit(X[train], y[train]).predict_proba(X[test]).clip(1e-15)
                    p /= p.sum(1, keepdims=True)
                    right = classifier.classes_[p.argmax(1)] == y[test]
                    scores.append((right.mean(), log_loss(y[test], p, labels=classifier.classes_)))
                mean, error = np.mean(scores, 0), np.std(scores, 0, ddof=1) / np.sqrt(len(scores))
                print(f"{label:24}" + "".join(f"{m:8.3f} ± {e:5.3f}" for m, e in zip(mean, error, strict=True)))


if __name__ == "__main__":
    main()
