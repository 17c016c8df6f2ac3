r"""Questions to a fitted model: probabilities of events, expectations, moments and quantiles, given what is known.

    P(A | b) = sum_a [a in A] p(a | b),    E[f | b] = sum_a f(a) p(a | b)    exact, over the columns that A or f name
    E[f | b] ~ sum_i w_i f(a_i),    standard error^2 = sum_i w_i^2 (f(a_i) - mean)^2    of draws, sum_i w_i = 1

Where the family integrates the other columns out, columns with levels are enumerated, counts are summed over their
lattice, and one real column is integrated by adaptive Gauss-Legendre quadrature, whose total mass must come out as
one; a module that knows its moments is asked for them. All else is drawn, with an error bar, until that is as small as
asked.

    from plausible.uses import query
    query.probability(model, "age > 40 and income == '>50K'", {"sex": "F"})  # 0.12 (exact for the model, by ...)
    query.expectation(model, lambda df: df.a * df.b, atol=0.01)                 # 1.23 ± 0.01 (estimate from ... draws)
    query.quantile(model, "age", 0.9, {"sex": "F"})

References: Owen, Monte Carlo theory, methods and examples, 2013, chapters 2 and 9. Davis and Rabinowitz, Methods of
Numerical Integration, 1984, chapter 6 (adaptive quadrature).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from sklearn.utils.validation import check_is_fitted

from plausible.errors import DataError
from plausible.uses._laws import Draws, Question
from plausible.uses._parts import place_of
from plausible.uses.expression import Expression

DRAWS = 10_000  # where no tolerance is asked for
PILOT = 2_000  # where one is
MOST_DRAWS = 1_000_000


@dataclass(frozen=True, repr=False)
class Answer:
    """A number, or a table of numbers, and what it is worth.

    Attributes:
        value: a float; of several columns, a ``pandas.Series`` or ``DataFrame``.
        standard_error: in the same form; zero where exact.
        kind: 'exact' or 'estimate' of what the model says; neither tells how far the model is from the world.
        method: 'enumeration', 'quadrature' or 'closed form'; 'draws', 'weighted draws' or 'draws of chains'.
        draws: how many it is estimated from; zero where exact.
        effective_sample_size: how many independent draws these are worth.
    """

    value: Any
    standard_error: Any
    kind: Literal["exact", "estimate"]
    method: str
    draws: int = 0
    effective_sample_size: float = np.inf

    def __float__(self) -> float:
        return float(self.value)

    def __repr__(self) -> str:
        if self.kind == "exact":
            how = f"exact for the model, {'in' if self.method == 'closed form' else 'by'} {self.method}"
        else:
            worth = "" if self.method == "draws" else f", worth {self.effective_sample_size:,.0f}"
            how = f"estimate from {self.draws:,} {self.method}{worth}"
        if not np.isscalar(self.value):
            error = "" if self.kind == "exact" else f"\nstandard errors:\n{self.standard_error}"
            return f"{self.value}\n({how}){error}"
        return f"{self.value:.6g} ({how})" if self.kind == "exact" else f"{_rounded(self)} ({how})"


def probability(
    model: Any,
    event: str | Callable,
    given: Mapping[str, Any] | None = None,
    *,
    context: Any = None,
    atol: float | None = None,
    max_draws: int = MOST_DRAWS,
    random_state: Any = None,
) -> Answer:
    """Return the probability of an event.

    Args:
        model: a fitted model.
        event: an expression on the columns of a table, such as "age > 40 and income == '>50K'" (the grammar is in
            `plausible.uses.expression`), or a predicate: from a DataFrame, or from examples as ``model.sample`` gives
            them, to n values True or False.
        given: column -> known value; the other columns are integrated out. Of images and series, one example with
            holes, as for `given.sample`.
        context: one row, as in `fit`.
        atol: of an estimate, draw until the standard error is at most this; None takes 10,000 draws.
        max_draws: at which to stop all the same.
        random_state: seed of an estimate.

    Raises:
        DataError: the expression is none, or what is given has probability zero.
        CapabilityError: the model can neither answer nor draw given a part; the message says which can.
    """
    question = _asked(model, given, context, random_state)
    f = Expression(event, model.space_.columns) if _is_text(question, event) else event
    if not callable(f):
        raise DataError(f"event must be an expression or a predicate, got {type(event).__name__}")

    def truth(found: np.ndarray) -> np.ndarray:
        found = np.asarray(found)
        if found.dtype == object and all(isinstance(v, bool | np.bool_) for v in found):
            found = found.astype(bool)
        if found.dtype != bool:
            raise DataError(
                f"an event is True or False for each example, got {found.dtype} values; compare with something"
            )
        return found.astype(float)

    return _expected(question, f, truth, atol, max_draws, proportion=True)


def expectation(
    model: Any,
    f: str | Callable,
    given: Mapping[str, Any] | None = None,
    *,
    context: Any = None,
    atol: float | None = None,
    max_draws: int = MOST_DRAWS,
    random_state: Any = None,
) -> Answer:
    """Return the expectation of a function.

    Args:
        f: an expression on the columns, such as "price * seats", or a function from a DataFrame (or examples as
            ``model.sample`` gives them) to n numbers.
        model, given, context, atol, max_draws, random_state: as for `probability`.

    Raises:
        DataError, CapabilityError: as for `probability`.
    """
    question = _asked(model, given, context, random_state)
    f = Expression(f, model.space_.columns) if _is_text(question, f) else f
    return _expected(question, f, _numbers, atol, max_draws)


def mean(model: Any, columns: str | Sequence[str] | None = None, given: Any = None, **settings: Any) -> Answer:
    """Return the means of columns of numbers.

    Args:
        columns: one, several, or None for all that hold numbers.
        model, given: as for `probability`.
        settings: `context`, `atol`, `max_draws` and `random_state` of `probability`.
    """
    return _moments(model, columns, given, settings, lambda law, x: law.mean(x), lambda m, s: m, lambda x, mean: x)


def variance(model: Any, columns: str | Sequence[str] | None = None, given: Any = None, **settings: Any) -> Answer:
    """Return the variances of columns of numbers; arguments as for `mean`."""
    return _moments(
        model,
        columns,
        given,
        settings,
        lambda law, x: law.mean((x - law.mean(x)) ** 2),
        lambda m, s: np.diag(s),
        lambda x, mean: (x - mean) ** 2,
    )


def covariance(model: Any, columns: Sequence[str] | None = None, given: Any = None, **settings: Any) -> Answer:
    """Return the covariances of columns of numbers, as a ``DataFrame``; arguments as for `mean`."""
    import pandas as pd

    question, names, settings = _columns_asked(model, columns, given, settings)

    def framed(matrix: np.ndarray) -> Any:
        return pd.DataFrame(np.asarray(matrix, dtype=float).reshape(len(names), -1), index=names, columns=names)

    closed = question.moments(names)
    if closed is not None:
        return Answer(framed(closed[1]), framed(np.zeros((len(names),) * 2)), "exact", "closed form")
    found, methods = np.empty((len(names),) * 2), set()
    for i, a in enumerate(names):
        for j, b in enumerate(names[: i + 1]):
            law = question.law([a] if a == b else [a, b])
            x, y = (None, None) if law is None else (law.values[a], law.values[b])
            value = None if law is None else law.mean((x - law.mean(x)) * (y - law.mean(y)))
            if value is None or not np.isfinite(value):
                break
            found[i, j] = found[j, i] = value
            methods.add(law.method)
        else:
            continue
        break
    else:
        return Answer(
            framed(found),
            framed(np.zeros_like(found)),
            "exact",
            "quadrature" if "quadrature" in methods else "enumeration",
        )

    def products(draws: Draws) -> np.ndarray:
        x = np.stack([draws.values[name] for name in names], 1).astype(float)
        x = x - draws.weight @ x
        return (x[:, :, None] * x[:, None, :]).reshape(len(x), -1)

    return _estimated(question, names, products, framed, **settings)


def quantile(model: Any, column: str, q: float = 0.5, given: Any = None, **settings: Any) -> Answer:
    """Return the value below which a column of numbers stays with probability q; arguments as for `mean`.

    Of a column with gaps between its values: the smallest at which that probability is reached.
    """
    if not 0 < q < 1:
        raise DataError(f"q must lie between 0 and 1, got {q!r}")
    question, (name,), settings = _columns_asked(model, column, given, settings)
    law = question.law([name])
    if law is not None:
        return Answer(law.quantile(name, q), 0.0, "exact", law.method)

    def estimate(draws: Draws) -> tuple[float, float]:
        order = np.argsort(draws.values[name], kind="stable")
        x, below = draws.values[name][order].astype(float), draws.weight[order].cumsum()
        spread = np.sqrt(q * (1 - q) / draws.size)  # of the share below the quantile
        low, at, high = (x[min(np.searchsorted(below, p), len(x) - 1)] for p in (q - spread, q, q + spread))
        return float(at), float(high - low) / 2

    return _until(question, [name], estimate, lambda value: value, **settings)


# --------------------------------------------------------------------------------------------------------- helpers


def _asked(model: Any, given: Any, context: Any, random_state: Any) -> Question:
    check_is_fitted(model, "module_")
    return Question(model, given, context, random_state)


def _is_text(question: Question, f: Any) -> bool:
    if isinstance(f, str) and question.space.type != "table":
        raise DataError(f"the model is of {question.space.describe()}, which have no columns to name; pass a function")
    return isinstance(f, str)


def _columns_asked(model: Any, columns: Any, given: Any, settings: dict) -> tuple[Question, list[str], dict]:
    """The question, the names of the columns, and the settings of an estimate."""
    unknown = set(settings) - {"context", "atol", "max_draws", "random_state"}
    if unknown:
        raise TypeError(f"unexpected argument {sorted(unknown)[0]!r}; there are context, atol, max_draws, random_state")
    question = _asked(model, given, settings.get("context"), settings.get("random_state"))
    space = question.space
    if space.type != "table":
        raise DataError(f"the model is of {space.describe()}, which have no columns to name; use `expectation`")
    numeric = [c.name for c in space.columns if not any(isinstance(v, str) for v in c.levels)]
    if columns is None and not numeric:
        raise DataError("no column of the model holds numbers")
    names = numeric if columns is None else [columns] if isinstance(columns, str) else list(columns)
    for name in names:
        place_of(space, name)
        if name not in numeric:
            raise DataError(f"column {name!r} holds words, not numbers; ask for the probability of one of them")
    limits = {"atol": settings.get("atol"), "max_draws": settings.get("max_draws", MOST_DRAWS)}
    return question, names, limits


def _expected(
    question: Question, f: Any, read: Callable, atol: float | None, max_draws: int, proportion: bool = False
) -> Answer:
    """E[f], where `read` makes numbers of what f returns."""
    names = f.names if isinstance(f, Expression) else None
    law = question.law_of(f)
    if law is not None:
        value = law.mean(read(f(law.values) if names is not None else f(law.examples())))
        if np.isfinite(value):
            return Answer(value, 0.0, "exact", law.method)

    def estimate(draws: Draws) -> tuple[float, float]:
        x = read(f(draws.values) if names is not None else f(draws.examples()))
        if x.shape != draws.weight.shape:
            raise DataError(f"expected a value for each of {len(draws.weight)} examples, got shape {x.shape}")
        value, error = draws.mean(x)
        if proportion:  # where none or all of the draws are in the event, these show no spread
            p = (value * draws.size + 1) / (draws.size + 2)
            error = max(error, np.sqrt(p * (1 - p) / draws.size))
        return value, error

    return _until(question, names, estimate, float, atol, max_draws)


def _moments(model, columns, given, settings, exact: Callable, closed_form: Callable, of_draws: Callable) -> Answer:
    """A number for each column: from its law, in closed form, or the mean of a function of draws and their mean."""
    import pandas as pd

    question, names, settings = _columns_asked(model, columns, given, settings)

    def framed(values: Any) -> Any:
        values = np.asarray(values, dtype=float).reshape(-1)
        return float(values[0]) if isinstance(columns, str) else pd.Series(values, index=names)

    closed, zeros = question.moments(names), np.zeros(len(names))
    if closed is not None:
        return Answer(framed(closed_form(*closed)), framed(zeros), "exact", "closed form")
    laws = [question.law([name]) for name in names]
    if all(law is not None for law in laws):
        values = [exact(law, law.values[name]) for law, name in zip(laws, names, strict=True)]
        if np.isfinite(values).all():
            method = next((law.method for law in laws if law.method == "quadrature"), "enumeration")
            return Answer(framed(values), framed(zeros), "exact", method)

    def numbers(draws: Draws) -> np.ndarray:
        x = np.stack([draws.values[name] for name in names], 1).astype(float)
        return of_draws(x, draws.weight @ x)

    return _estimated(question, names, numbers, framed, **settings)


def _estimated(question, names, numbers: Callable, framed: Callable, atol, max_draws) -> Answer:
    """Means of several numbers (n, k) of each draw."""
    return _until(question, names, lambda draws: draws.mean(numbers(draws)), framed, atol, max_draws)


def _until(question: Question, names, estimate: Callable, framed: Callable, atol, max_draws) -> Answer:
    """Draw until the standard error is small enough."""
    if atol is not None and not atol > 0:
        raise DataError(f"atol must be above 0, got {atol!r}")
    if max_draws < 2:
        raise DataError(f"max_draws must be at least 2, got {max_draws!r}")
    n = min(DRAWS if atol is None else PILOT, max_draws)
    while True:
        draws = question.draws(n, names)
        value, error = estimate(draws)
        largest = float(np.max(error))
        if atol is None or largest <= atol or len(draws.weight) >= max_draws:
            break
        n = int(min(max_draws, max(2 * n, 1.1 * n * (largest / atol) ** 2)))
    return Answer(framed(value), framed(error), "estimate", draws.method, len(draws.weight), draws.size)


def _numbers(found: Any) -> np.ndarray:
    try:
        return np.asarray(found, dtype=float)
    except (TypeError, ValueError):
        raise DataError("the function must return a number for each example") from None


def _rounded(answer: Answer) -> str:
    """The value with as many digits as its error has two of."""
    error = float(answer.standard_error)
    digits = 6 if not 0 < error < np.inf else max(0, 1 - int(np.floor(np.log10(error))))
    return f"{float(answer.value):.{digits}f} ± {error:.2g}"
