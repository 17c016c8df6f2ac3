"""Every family that takes 2-D arrays of reals is a scikit-learn estimator: all its checks, without an exception.

The checks fit arrays of ten columns and of integers: a family that says it can model no such space is not asked.
"""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV
from sklearn.utils.estimator_checks import parametrize_with_checks

from plausible import registry
from plausible.data.toy import correlated_gaussian
from plausible.space import infer

SHORT = {"epochs": 1, "hidden": 8, "layers": 1, "blocks": 1, "steps": 4, "sampling_steps": 4, "n_components": 2}
TRAITS = {name: registry.get(name).traits for name in registry.names()}
FAMILIES = [name for name, traits in TRAITS.items() if "table" in traits.events and "real" in traits.kinds]
# What the checks fit: reals in many columns, small integers, large ones.
FITTED = [infer(np.arange(20.0).reshape(2, 10) * scale) for scale in (0.1, 1.0, 7.0)]


def fits_all(name: str) -> bool:
    return all(registry.get(name).can_model(space) is None for space in FITTED)


def short(name: str):
    """Return an estimator of the family that is fitted in a moment, each setting in the form its default has."""
    cls = registry.get(name)
    own = cls().get_params()
    chosen = {k: v for k, v in SHORT.items() if k in own}
    return cls(**{k: (v,) if isinstance(own[k], tuple) else v for k, v in chosen.items()})


@parametrize_with_checks([short(name) for name in FAMILIES if fits_all(name)])
def test_scikit_learn(estimator, check):
    check(estimator)


@pytest.mark.parametrize("name", FAMILIES)
def test_parameters(name):
    model = short(name).set_params(random_state=3)
    X = correlated_gaussian(60, random_state=0)
    before = model.get_params()
    twin = clone(model.fit(X))
    assert model.get_params() == before == twin.get_params()
    assert not hasattr(twin, "module_")
    assert all(getattr(type(model)(**before), k) == v for k, v in before.items())
    with pytest.raises(ValueError, match="no_such_setting"):
        model.set_params(no_such_setting=1)


@pytest.mark.parametrize("name", [n for n in FAMILIES if TRAITS[n].density])
def test_grid_search(name):
    """The held-out log-likelihood chooses between two settings of whatever the family's first numeric option is."""
    model = short(name).set_params(random_state=0)
    option = "learning_rate" if hasattr(model, "learning_rate") else "random_state"
    grid = {option: [1e-3, 1e-2] if option == "learning_rate" else [0, 1]}
    X = correlated_gaussian(90, random_state=0)
    search = GridSearchCV(model, grid, cv=2, error_score="raise").fit(X)
    assert np.isfinite(search.cv_results_["mean_test_score"]).all()
    assert search.best_params_[option] in grid[option]
    assert search.score(X) == pytest.approx(search.best_estimator_.score(X))
