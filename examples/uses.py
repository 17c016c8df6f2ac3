"""A fitted model put to use: does it copy, does it help a classifier, what do few labels with many examples give?

    python examples/uses.py

On the iris of scikit-learn and on its digits as bits. Each use says how far it can be trusted.
"""

from __future__ import annotations

import numpy as np
from sklearn.datasets import load_digits, load_iris

import plausible as pl
from plausible.uses.augment import augment
from plausible.uses.balance import balance
from plausible.uses.classify import classify
from plausible.uses.novelty import novelty
from plausible.uses.semi_supervised import SemiSupervisedClassifier


def main() -> None:
    X, y = load_iris(return_X_y=True, as_frame=True)
    X.columns = ["sepal_length", "sepal_width", "petal_length", "petal_width"]
    train, test = X[::2], X[1::2]

    print("Does it copy? A kernel density with its own bandwidth, and with one that is far too small:\n")
    for model in (pl.KernelDensity(), pl.KernelDensity(bandwidth=1e-3)):
        print(novelty(model.fit(train), train, test, random_state=0), end="\n\n")

    print("Do made-up examples help a classifier?\n")
    print(augment(pl.Gaussian(), X, y, n=300, random_state=0), end="\n\n")

    print("More of what is rare, by a name for it:\n")
    model = pl.Mixture(n_components=3, random_state=0).fit(X)
    print(balance(model, X, group="sepal_length > 7", target=0.25, random_state=0), end="\n\n")

    print("A classifier from a model of p(x | c) that is there already, for shares of the classes that it never saw:\n")
    conditional = pl.NaiveBayes(random_state=0).fit(train, context=y[::2])
    print(classify(conditional, prior={0: 0.1, 1: 0.45, 2: 0.45}).predict_proba(test[49:52]).round(3), end="\n\n")

    print("Two labels of each digit, and 900 digits without:\n")
    pixels, digit = load_digits(return_X_y=True)
    bits, known = (
        (pixels >= 8).astype(np.uint8),
        np.concatenate([np.flatnonzero(digit[:900] == d)[:2] for d in range(10)]),
    )
    few = np.where(np.isin(np.arange(900), known), digit[:900], -1)
    alone = pl.BayesClassifier(pl.NaiveBayes()).fit(bits[known], digit[known])
    with_more = SemiSupervisedClassifier(pl.NaiveBayes(), max_iter=10).fit(bits[:900], few)
    for name, found in (("labelled only", alone), ("with the others, by EM", with_more)):
        print(f"{name:24} {found.score(bits[900:], digit[900:]):.3f} of held-out digits are right")


if __name__ == "__main__":
    main()
