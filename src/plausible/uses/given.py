r"""Given a part of an example: draw the rest, score it, or ask for its most likely values.

    x = (a, b):   draw a ~ p(a | b),    log p(a | b) = log p(a, b) - log p(b),    argmax_a p(a | b)

What is known comes back bit for bit. An answer is exact unless another `method` is asked for: then it says in its own
words that it is approximate, and how good (see `plausible.uses.approximate`).

    from plausible.uses import given
    given.sample(model, df_with_holes)                           # NaN or None marks what to draw
    given.sample(model, pd.DataFrame({"age": [40, 50]}), n=100)  # columns that are absent are unknown
    given.sample(model, ["th_ c_t"], blank="_", method="auto")   # characters that are not known
    given.impute(model, df_with_holes, n=5)                      # multiple imputation
    given.table(model, "income", {"age": 40})                    # p(income | age = 40)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import product
from typing import Any, Literal

import numpy as np
import torch
from sklearn.utils.validation import check_is_fitted

from plausible.errors import CapabilityError, DataError
from plausible.randomness import generator
from plausible.uses import approximate
from plausible.uses._parts import (
    as_mask,
    codes_of,
    draw_exactly,
    filled,
    has_marginals,
    heard,
    is_names,
    log_marginal,
    log_prob_given,
    need_exact,
    need_marginals,
    need_no_bound,
    place_of,
    refuse_impossible,
    refuse_the_impossible,
)
from plausible.uses.approximate import Given, LogProb

Asked = Literal["exact", "auto", "importance", "chain"]
MOST_COMBINATIONS = 1_000_000  # of the levels of the columns that `table` is asked for
FOR_A_MEAN = 100  # draws that are averaged for how='mean'


def sample(
    model: Any,
    X: Any,
    n: int | None = None,
    *,
    mask: Any = None,
    blank: str | None = None,
    context: Any = None,
    method: Asked = "exact",
    random_state: Any = None,
) -> Any | Given:
    """Draw the unknown cells of each example from p(unknown | known).

    Args:
        model: a fitted model.
        X: examples like those it was fitted on, with NaN or None in the cells to be drawn; of a table, columns that
            are all unknown may be left out, and a dictionary of columns will do. Where nothing is known it is a draw
            from p(x).
        n: how many completions of X; None for one.
        mask: True marks further cells to be drawn, with the shape of X or of one example: images hold no NaN.
        blank: of text, the character that stands for one that is not known.
        context: as in `fit`.
        method: 'exact' refuses where the family has no exact answer: it has one if its ``traits.given`` is 'exact', or
            'in_order' and all that is unknown comes after all that is known (of an image, the lower part).
            'importance' draws by weight from the family's own proposals, 'chain' by Markov chains on its density, a
            few for each example; 'auto' takes the first of these that can be had.
        random_state: seed of the draw; None draws a fresh one.

    Returns:
        Examples like X, complete; with `n`, a list of n of them. Known values are those of X to the bit. Of a method
        other than 'exact', a `Given` that holds them as its ``examples`` and says how they came about.

    Raises:
        CapabilityError: the model has no exact conditionals, or cannot do it in that way; the message says which can.
        DataError: what is known of some example has probability zero, or (exact, 'in_order') comes after what is not.
    """
    drawn = _Drawn(model, X, n or 1, mask, blank, context, method, random_state)
    completed = [model.space_.decode(codes) for codes in drawn.codes]
    return drawn.labelled(completed[0] if n is None else completed)


def impute(
    model: Any,
    X: Any,
    how: Literal["draw", "likely", "mean"] = "draw",
    n: int | None = None,
    *,
    mask: Any = None,
    blank: str | None = None,
    context: Any = None,
    method: Asked = "exact",
    unseen: Literal["refuse", "missing"] = "refuse",
    random_state: Any = None,
) -> Any | Given:
    """Fill the unknown cells of each example, by one fitted model.

    `plausible.Imputer` fills a table by many fits to that very table, and says between which values a cell lies.

    Args:
        model, X, mask, blank, context, method, random_state: as for `sample`.
        how: 'draw' takes a value from p(unknown | known), which keeps the spread that data have; 'mean' the average of
            `n` such draws, cell by cell (the level drawn most often where a column has levels), which errs least and
            has no spread; 'likely' the jointly most likely values, where the family knows them.
        n: of draws, how many fillings of X to return (multiple imputation: analyse each, then pool); of 'mean', how
            many are averaged (100 by default).
        unseen: what becomes of a cell of a table that no row of the fit could have had, such as a new level: the rows
            are refused, or the cell is taken for 'missing' and filled in, with a warning.

    Returns:
        Examples like X, complete; of draws with `n`, a list of n of them. A `Given` of these where `method` is not
        'exact'.

    Raises:
        CapabilityError: the family cannot; the message says which can.
        SpaceError: a value is unseen, and not to be taken for missing; the message says where.
        DataError: nothing is known in any example, or what is known of some example has probability zero.
    """
    if how not in ("draw", "likely", "mean"):
        raise DataError(f"how must be 'draw', 'likely' or 'mean', got {how!r}")
    check_is_fitted(model, "module_")
    X = heard(model.space_, X, unseen)
    x, holes = codes_of(model, X, mask, blank)
    if len(x) and bool(holes.all()):
        raise DataError(
            "nothing is known in any of the examples, and nothing to go by; `sample` of the model draws new ones"
        )
    if how == "draw":
        settings = {"mask": mask, "blank": blank, "context": context, "method": method, "random_state": random_state}
        return sample(model, X, n, **settings)
    if how == "mean":
        drawn = _Drawn(model, X, n or FOR_A_MEAN, mask, blank, context, method, random_state)
        return drawn.labelled(model.space_.decode(drawn.average()))
    need_exact(model)
    c = model._encode_context(context, len(x))
    module = model._evaluator()
    if not hasattr(module, "likely_given"):
        raise CapabilityError(
            f"{type(model).__name__} does not know the most likely values of unknown cells; "
            "how='draw' draws them from p(unknown | known), how='mean' averages such draws"
        )
    refuse_the_impossible(model, x, c)
    c = None if c is None else c.to(module.dtype)
    return model.space_.decode(filled(model, x, lambda z: module.likely_given(z, c), generator(0, model._device())))


def log_prob(
    model: Any, X: Any, given: Any, *, context: Any = None, method: Asked = "exact", random_state: Any = None
) -> np.ndarray | LogProb:
    """Return log p(rest | known part) of each example.

    Args:
        model: a fitted model; for an exact answer, of a family that integrates missing cells out.
        X: complete examples.
        given: what is known: column names of a table, or a mask that is True where known, with the shape of X or of
            one example.
        context: as in `fit`.
        method: 'exact' refuses where the family has no exact answer, 'importance' averages weighted proposals, 'auto'
            takes the first that can be had.
        random_state: seed of the proposals.

    Returns:
        Nats with shape (n,), relative to the measure of the cells that are not given. Of a method other than 'exact',
        a `LogProb` of these with their standard errors.

    Raises:
        CapabilityError: the family cannot integrate cells out (the message says which can), or its density is a bound.
        DataError: what is known of some example has probability zero.
    """
    if method not in ("exact", "auto", "importance"):
        raise DataError(f"log_prob knows the methods 'exact', 'auto' and 'importance', got {method!r}")
    check_is_fitted(model, "module_")
    if method == "exact":
        if model.traits.given == "in_order":
            need_no_bound(model)
        else:
            need_marginals(model)
    x = model.space_.encode(X).double()
    c = model._encode_context(context, len(x))
    if is_names(given):
        known = torch.zeros(model.space_.shape, dtype=torch.bool)
        known[[place_of(model.space_, name) for name in given]] = True
        known = known.expand(x.shape)
    else:
        known = as_mask(model.space_, given, x)
    if method == "exact":
        return _exact_log_prob(model, x, known, c)
    summed = has_marginals(model) and model.likelihood_kind_ == "exact"
    if method == "auto" and (summed or approximate.way(model, torch.where(known, x, torch.nan)) == "exact"):
        values = _exact_log_prob(model, x, known, c)
        return LogProb(values, np.zeros(len(x)), "exact", np.full(len(x), np.inf))
    approximate.refuse(model, "importance")
    x, known = x.to(model._device()), known.to(model._device())
    values, error, size = approximate.log_prob(model, x, known, c, generator(random_state, model._device()))
    return LogProb(values, error, "estimate", size)


def _exact_log_prob(model: Any, x: torch.Tensor, known: torch.Tensor, c: torch.Tensor | None) -> np.ndarray:
    if hasattr(model.module_, "log_prob_given"):
        return log_prob_given(model, x, known, c)
    part = torch.where(known, x, torch.nan)
    if not has_marginals(model):
        model.module_.require_order(part)
    marginal = log_marginal(model, part, c)
    refuse_impossible(marginal)
    return (log_marginal(model, x, c) - marginal).cpu().numpy()


def table(model: Any, of: str | Sequence[str], given: Mapping[str, Any] | None = None, *, context: Any = None) -> Any:
    """Return the probabilities p(of | given) of all combinations of levels of some columns, exactly.

    Args:
        model: a fitted model of a table, of a family that integrates missing cells out.
        of: one or several columns that have levels.
        given: column -> known value; the other columns are integrated out.
        context: one row, as in `fit`.

    Returns:
        A ``pandas.Series`` of probabilities that sum to one, indexed by the levels.

    Raises:
        CapabilityError: the family cannot integrate cells out (the message says which can), or its density is a bound.
        DataError: a column is unknown or has no levels, or `given` has probability zero.
    """
    import pandas as pd

    check_is_fitted(model, "module_")
    need_marginals(model)
    space, names = model.space_, [of] if isinstance(of, str) else list(of)
    places = [place_of(space, name) for name in names]
    columns = [space.columns[d] for d in places]
    for column in columns:
        if not column.levels:
            raise DataError(
                f"column {column.name!r} is {column.kind} and has no levels; ask for columns that have some"
            )
    if set(names) & set(given or {}) or len(set(places)) < len(places):
        raise DataError(f"every column may be asked for once, and not be given too; got of={names}, given={given}")
    size = int(np.prod([c.n_levels for c in columns]))
    if size > MOST_COMBINATIONS:
        raise DataError(f"the table has {size:,} entries; ask for fewer columns at a time")
    x = torch.full((size, space.dims), torch.nan, dtype=torch.float64)
    for name, value in (given or {}).items():
        d = place_of(space, name)
        x[:, d] = float(space.columns[d].encode(pd.Series([value]).to_numpy(dtype=object))[0])
    combinations = list(product(*(range(c.n_levels) for c in columns)))
    x[:, places] = torch.tensor(combinations, dtype=torch.float64)
    log_p = log_marginal(model, x, model._encode_context(context, len(x)))
    refuse_impossible(log_p.logsumexp(0, keepdim=True))
    levels = [[c.levels[k] for c, k in zip(columns, row, strict=True)] for row in combinations]
    index = pd.Index([row[0] for row in levels], name=names[0]) if len(names) == 1 else None
    index = pd.MultiIndex.from_tuples(map(tuple, levels), names=names) if index is None else index
    return pd.Series(log_p.softmax(0).cpu().numpy(), index=index, name="probability")


# --------------------------------------------------------------------------------------------------------- helpers


class _Drawn:
    """Several completions of examples, as codes."""

    def __init__(
        self, model: Any, X: Any, n: int, mask: Any, blank: str | None, context: Any, method: Asked, seed: Any
    ):
        if method not in ("exact", "auto", "importance", "chain"):
            raise DataError(f"method must be 'exact', 'auto', 'importance' or 'chain', got {method!r}")
        check_is_fitted(model, "module_")
        self.space, self.asked = model.space_, method
        self.x, self.holes = codes_of(model, X, mask, blank)
        if method == "exact":
            need_exact(model)
        c = model._encode_context(context, len(self.x))
        rng = generator(seed, model._device())
        self.way = approximate.way(model, self.x) if method == "auto" else method
        self.size, self.acceptance = np.full(len(self.x), np.inf), None
        if self.way == "exact":
            self.codes = draw_exactly(model, self.x, self.holes, c, n, rng)
            return
        approximate.refuse(model, self.way)
        found = approximate.draw(model, self.x, self.holes, c, n, self.way, rng)
        self.codes, self.size, self.acceptance = found

    def labelled(self, examples: Any) -> Any:
        """The examples, with how they were drawn unless that was asked for to be exact."""
        return examples if self.asked == "exact" else Given(examples, self.way, self.size, self.acceptance)

    def average(self) -> torch.Tensor:
        """All completions as one: means of numbers, the level drawn most often."""
        drawn = torch.stack(self.codes)
        levels = torch.tensor([bool(c.levels) for c in self.space.columns]).reshape(self.space.shape).to(drawn.device)
        found = torch.where(levels, drawn.nan_to_num(-1).mode(0).values, drawn.mean(0))
        return torch.where(self.holes, found, self.x)
