"""The contract, over every registered family: no family is named here, none is skipped."""

from __future__ import annotations

import functools

import pytest

import plausible
from plausible import checks, registry

# Settings that shorten a fit, for the families that have them; the contract holds for any parameters.
SHORT = {
    "epochs": 12,
    "batch_size": 32,
    "learning_rate": 5e-3,
    "hidden": 32,
    "layers": 2,
    "blocks": 1,
    "steps": 20,
    "sampling_steps": 20,
}


def short(cls: type):
    """Return an estimator of the class with short settings, each in the form its default has."""
    own = cls().get_params()
    chosen = {name: value for name, value in SHORT.items() if name in own}
    return cls(**{name: (value,) if isinstance(own[name], tuple) else value for name, value in chosen.items()})


@functools.cache
def audit(name: str) -> checks.Audit:
    """Return the audit of a family, made once for all its tests."""
    return plausible.check_model(short(registry.get(name)), on_fail="report")


@pytest.mark.parametrize("check", checks.names())
@pytest.mark.parametrize("name", registry.names())
def test_contract(name, check):
    outcome = audit(name)[check]
    assert outcome.status != "failed", f"{outcome.detail}\npromised: {outcome.promise}"


@pytest.mark.parametrize("name", registry.names())
def test_most_of_the_contract_applies(name):
    """A check that never applies protects nobody."""
    outcomes = list(audit(name))
    assert sum(o.status == "passed" for o in outcomes) >= 10
    assert not any(o.status == "excepted" for o in outcomes)


@pytest.mark.parametrize("check", checks.names())
def test_each_check_applies_to_some_family(check):
    assert any(audit(name)[check].status == "passed" for name in registry.names())
