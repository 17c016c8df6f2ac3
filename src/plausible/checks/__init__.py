"""The public audit: does a model keep the promises that every model of this package makes?

    audit = plausible.check_model(model)      # raises AuditError and names what is broken
    print(plausible.check_model(model, on_fail="report"))

``names()`` lists the checks. Each is a small function in one of the modules of this folder; its docstring is the
promise.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Any, Literal

from sklearn.base import clone

from plausible.base import Generative
from plausible.checks.audit import CHECKS, Audit, Broken, Check, NotApplicable, Outcome
from plausible.checks.cases import Bench
from plausible.errors import PlausibleError

# Each module registers its checks, in the order in which they are made and reported.
from plausible.checks import fitting, density, drawing, inside, manners, files  # isort: skip

__all__ = ["Audit", "Outcome", "check_model", "names"]
_MODULES = (fitting, density, drawing, inside, manners, files)


def names() -> list[str]:
    """Return the names of all checks."""
    return list(CHECKS)


def check_model(
    model: Any,
    *,
    exceptions: Mapping[str, str] | None = None,
    on_fail: Literal["raise", "report"] = "raise",
    random_state: int = 0,
) -> Audit:
    """Audit a model: fit it to small made-up data of every sort it accepts, and hold it to the contract.

    The model is fitted some twenty times with its own settings: give it short ones, such as few epochs. What is
    promised holds for any parameters, except that a model which is to beat the product of its columns must have learned
    something.

    Args:
        model: an estimator (a fitted one is audited through unfitted copies), or its class.
        exceptions: name of a check -> why this model may break it. The check is still made; if the promise is kept
            after all, it says so.
        on_fail: 'raise' an error that names the broken promises, or only 'report' them.
        random_state: seed of the data and the draws, and of the fits of a model that has none.

    Returns:
        The outcome of each check.

    Raises:
        AuditError: a promise is broken, and `on_fail` is 'raise'.
        PlausibleError: the model is no estimator of ours, or an exception names no check or gives no reason.

    Examples:
        >>> import plausible as pl
        >>> audit = pl.check_model(pl.Gaussian())
        >>> audit["mass_sums_to_one"].status
        'passed'
    """
    exceptions = dict(exceptions or {})
    _check_arguments(exceptions, on_fail)
    model = model() if isinstance(model, type) else model
    if not isinstance(model, Generative):
        raise PlausibleError(
            f"check_model audits estimators derived from plausible.base.Generative, got {type(model).__name__}"
        )
    bench = Bench(clone(model), random_state)
    with files.Reopener(bench):
        outcomes = tuple(_examine(check, bench, exceptions.get(check.name)) for check in CHECKS.values())
    audit = Audit(repr(model), outcomes)
    if on_fail == "raise":
        audit.raise_if_failed()
    return audit


def _check_arguments(exceptions: dict[str, str], on_fail: str) -> None:
    if on_fail not in ("raise", "report"):
        raise PlausibleError(f"on_fail must be 'raise' or 'report'; got {on_fail!r}")
    for name, reason in exceptions.items():
        if name not in CHECKS:
            near = difflib.get_close_matches(name, CHECKS, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"there are: {', '.join(CHECKS)}"
            raise PlausibleError(f"no check is called {name!r}; {hint}")
        if not isinstance(reason, str) or not reason.strip():
            raise PlausibleError(f"the exception from {name!r} needs a reason in words; got {reason!r}")


def _examine(check: Check, bench: Bench, reason: str | None) -> Outcome:
    try:
        status, detail = "passed", check.examine(bench)
    except NotApplicable as why:
        status, detail = "not applicable", str(why)
    except Broken as why:
        status, detail = "failed", str(why)
    except Exception as err:  # a check that cannot be made is a promise not kept
        status, detail = "failed", f"raised {type(err).__name__}: {err}"
    if reason is not None:
        if status == "failed":
            status, detail = "excepted", f"{reason}; found: {detail}"
        else:
            detail = f"{detail}; the exception is not needed any more"
    return Outcome(check.name, status, detail, check.promise)
