r"""Given a part of an example: draw the rest, score it, or ask for its most likely values.

    x = (a, b):   draw a ~ p(a | b),    log p(a | b) = log p(a, b) - log p(b),    argmax_a p(a | b)

for a model whose family answers exactly (``traits.given``). What is known comes back bit for bit.

    from plausible.uses import given
    given.sample(model, df_with_holes)                           # NaN or None marks what to draw
    given.sample(model, pd.DataFrame({"age": [40, 50]}), n=100)  # columns that are absent are unknown
    given.table(model, "income", {"age": 40})                    # p(income | age = 40)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import product
from typing import Any, Literal

import numpy as np
import torch
from sklearn.utils.validation import check_is_fitted

from plausible import registry
from plausible.errors import CapabilityError, DataError
from plausible.randomness import generator

EXACTLY = ("exact", "in_order")
MOST_COMBINATIONS = 1_000_000  # of the levels of the columns that `table` is asked for


def sample(
    model: Any, X: Any, n: int | None = None, *, mask: Any = None, context: Any = None, random_state: Any = None
) -> Any:
    """Draw the unknown cells of each example from p(unknown | known).

    Args:
        model: a fitted model of a family whose ``traits.given`` is 'exact', or 'in_order' where all that is unknown
            comes after all that is known (of an image, the lower part).
        X: examples like those it was fitted on, with NaN or None in the cells to be drawn; of a table, columns that
            are all unknown may be left out, and a dictionary of columns will do.
        n: how many completions of X; None for one.
        mask: True marks further cells to be drawn, with the shape of X or of one example: images hold no NaN.
        context: as in `fit`.
        random_state: seed of the draw; None draws a fresh one.

    Returns:
        Examples like X, complete; with `n`, a list of n of them. Known values are those of X to the bit.

    Raises:
        CapabilityError: the model has no exact conditionals; the message says which have.
        DataError: what is known of some example has probability zero.
    """
    x, c = _prepared(model, X, mask, context)
    rng = generator(random_state, model._device())
    module = model._evaluator()
    draws = [_completed(model, x, lambda z: module.sample_given(z, c, rng=rng), rng) for _ in range(n or 1)]
    return draws[0] if n is None else draws


def impute(
    model: Any,
    X: Any,
    how: Literal["draw", "likely"] = "draw",
    *,
    mask: Any = None,
    context: Any = None,
    random_state: Any = None,
) -> Any:
    """Fill the unknown cells of each example.

    Args:
        model, X, mask, context, random_state: as for `sample`.
        how: 'draw' one value from p(unknown | known), which keeps the spread that data have; 'likely' takes the
            jointly most likely values, where the family knows them.

    Returns:
        Examples like X, complete.

    Raises:
        CapabilityError: the family cannot; the message says which can.
        DataError: what is known of some example has probability zero.
    """
    if how not in ("draw", "likely"):
        raise DataError(f"how must be 'draw' or 'likely', got {how!r}")
    if how == "draw":
        return sample(model, X, mask=mask, context=context, random_state=random_state)
    x, c = _prepared(model, X, mask, context)
    module = model._evaluator()
    if not hasattr(module, "likely_given"):
        raise CapabilityError(
            f"{type(model).__name__} does not know the most likely values of unknown cells; "
            "how='draw' draws them from p(unknown | known)"
        )
    return _completed(model, x, lambda z: module.likely_given(z, c), generator(0, model._device()))


def log_prob(model: Any, X: Any, given: Any, *, context: Any = None) -> np.ndarray:
    """Return log p(rest | known part) of each example.

    Args:
        model: a fitted model of a family that integrates missing cells out.
        X: complete examples.
        given: what is known: column names of a table, or a mask that is True where known, with the shape of X or of
            one example.
        context: as in `fit`.

    Returns:
        Nats with shape (n,), relative to the measure of the cells that are not given.

    Raises:
        CapabilityError: the family cannot integrate cells out; the message says which can.
        DataError: what is known of some example has probability zero.
    """
    check_is_fitted(model, "module_")
    if model.traits.given != "in_order":
        _need_marginals(model)
    x = model.space_.encode(X).double()
    c = model._encode_context(context, len(x))
    if _is_names(given):
        known = torch.zeros(model.space_.shape, dtype=torch.bool)
        known[[_place(model.space_, name) for name in given]] = True
        known = known.expand(x.shape)
    else:
        known = _as_mask(model.space_, given, x)
    if hasattr(model.module_, "log_prob_given"):
        return _log_prob_given(model, x, known, c)
    part = torch.where(known, x, torch.nan)
    if not _has_marginals(model):
        model.module_.require_order(part)
    marginal = _log_marginal(model, part, c)
    _refuse_impossible(marginal)
    return (_log_marginal(model, x, c) - marginal).cpu().numpy()


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
        CapabilityError: the family cannot integrate cells out; the message says which can.
        DataError: a column is unknown or has no levels, or `given` has probability zero.
    """
    import pandas as pd

    check_is_fitted(model, "module_")
    _need_marginals(model)
    space, names = model.space_, [of] if isinstance(of, str) else list(of)
    places = [_place(space, name) for name in names]
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
        d = _place(space, name)
        x[:, d] = float(space.columns[d].encode(pd.Series([value]).to_numpy(dtype=object))[0])
    combinations = list(product(*(range(c.n_levels) for c in columns)))
    x[:, places] = torch.tensor(combinations, dtype=torch.float64)
    log_p = _log_marginal(model, x, model._encode_context(context, len(x)))
    _refuse_impossible(log_p.logsumexp(0, keepdim=True))
    levels = [[c.levels[k] for c, k in zip(columns, row, strict=True)] for row in combinations]
    index = pd.Index([row[0] for row in levels], name=names[0]) if len(names) == 1 else None
    index = pd.MultiIndex.from_tuples(map(tuple, levels), names=names) if index is None else index
    return pd.Series(log_p.softmax(0).cpu().numpy(), index=index, name="probability")


# --------------------------------------------------------------------------------------------------------- helpers


def _prepared(model: Any, X: Any, mask: Any, context: Any) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Return codes with NaN where to draw, and the features of the context."""
    check_is_fitted(model, "module_")
    if model.traits.given not in EXACTLY:
        raise CapabilityError(
            f"{type(model).__name__} cannot draw a part of an example given the rest exactly; these families can: "
            f"{', '.join(registry.capable(lambda f: f.traits.given in EXACTLY))}"
        )
    if model.likelihood_kind_ != "exact":
        raise CapabilityError(
            f"the likelihood of this {type(model).__name__} is a bound, as its data are discrete and its density is "
            "not; what it draws given a part would not be exact"
        )
    x = model.space_.encode(_with_all_columns(model.space_, X)).double().to(model._device())
    if mask is not None:
        x = torch.where(_as_mask(model.space_, mask, x), torch.nan, x)
    c = model._encode_context(context, len(x))
    if _has_marginals(model):
        _refuse_impossible(_log_marginal(model, x, c))
    return x, None if c is None else c.to(model.module_.dtype)


def _completed(model: Any, x: torch.Tensor, fill: Any, rng: torch.Generator) -> Any:
    """Fill codes in model space, put the known ones back, and return them as data."""
    with torch.no_grad():
        z, _ = model.transforms_(x, rng)
        filled = model.transforms_.inverse(fill(z.double()).reshape(z.shape).double(), rng)
    return model.space_.decode(torch.where(x.isnan(), filled, x))


def _has_marginals(model: Any) -> bool:
    return model.traits.missing or model.traits.marginals


def _need_marginals(model: Any) -> None:
    if not _has_marginals(model):
        raise CapabilityError(
            f"{type(model).__name__} cannot integrate unknown cells out; these families can: "
            f"{', '.join(registry.capable(lambda f: f.traits.missing or f.traits.marginals))}"
        )


def _log_marginal(model: Any, x: torch.Tensor, c: torch.Tensor | None) -> torch.Tensor:
    """log p of the known cells of codes (n, *shape): (n,)."""
    with torch.no_grad():
        return model._log_prob(model._evaluator(), x, c, None)


def _log_prob_given(model: Any, x: torch.Tensor, known: torch.Tensor, c: torch.Tensor | None) -> np.ndarray:
    """log p(rest | known) of codes (n, *shape) by a module that takes the known cells first: (n,)."""
    module = model._evaluator()
    with torch.no_grad():
        z, terms = model.transforms_.each(x.to(model._device()))
        known = known.to(z.device).flatten(1)
        found = module.log_prob_given(z.flatten(1).to(module.dtype), known, None if c is None else c.to(module.dtype))
        return (found.double() + torch.where(known, 0.0, terms.flatten(1)).sum(1)).cpu().numpy()


def _refuse_impossible(log_p: torch.Tensor) -> None:
    if bool((log_p == -torch.inf).any()):
        row = int((log_p == -torch.inf).nonzero()[0])
        raise DataError(f"what is known of example {row} has probability zero under the model: nothing follows from it")


def _with_all_columns(space: Any, X: Any) -> Any:
    """Add the columns of a table that X leaves out, as unknown."""
    import pandas as pd

    X = pd.DataFrame(X) if isinstance(X, Mapping) else X
    if space.type != "table" or not isinstance(X, pd.DataFrame):
        return X
    have = {str(name) for name in X.columns}
    unknown = have - set(space.names)
    if unknown:
        _place(space, sorted(unknown)[0])
    return X.assign(**{name: None for name in space.names if name not in have})


def _is_names(given: Any) -> bool:
    return isinstance(given, (list, tuple, set)) and all(isinstance(name, str) for name in given)


def _place(space: Any, name: str) -> int:
    names = [c.name for c in space.columns]
    if name not in names:
        raise DataError(f"there is no column {name!r}; there are: {', '.join(names[:20])}")
    return names.index(name)


def _as_mask(space: Any, mask: Any, x: torch.Tensor) -> torch.Tensor:
    """Return a user's mask, of one example or of all, in the shape of codes."""
    mask = np.asarray(mask)
    if mask.dtype != bool:
        raise DataError(f"expected a mask of True and False, got {mask.dtype}")
    if space.type == "image":
        channels, height, width = space.shape
        if space.layout == "HWC" and mask.shape[-1] == channels:
            mask = np.moveaxis(mask, -1, -3)
        elif mask.shape[-2:] == (height, width) and (mask.ndim == 2 or space.layout != "CHW"):
            mask = mask[..., None, :, :]
    try:
        return torch.from_numpy(np.ascontiguousarray(np.broadcast_to(mask, tuple(x.shape)))).to(x.device)
    except ValueError:
        raise DataError(f"a mask of shape {mask.shape} does not fit examples of shape {tuple(x.shape)}") from None
