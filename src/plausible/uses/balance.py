r"""Raise a named group of the rows of a table to a target share, by drawing more of it from a fitted model.

    a = (t n - g) / (1 - t)  rows are added to the g of n rows that are of the group, so that (g + a) / (n + a) = t

A drawn row takes what names the group from a real row of it, and the rest from p(rest | group): by the context of a
model of p(x | c), or given the columns of the group where the family can (`given.sample`). Other families draw until
a row is of the group, which is exact too and takes 1 / p(group) draws. Real rows stay as they are.

Said beside it: whether made-up rows can be told from real ones of the group, how near they come to them, and, for a
label to be predicted, what each group gains on held-out rows, next to what mere copies of its rows would have brought.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
from sklearn.base import clone
from sklearn.utils.validation import check_is_fitted

from plausible.context import as_rows
from plausible.errors import CapabilityError, DataError
from plausible.evaluate.examples import joined
from plausible.evaluate.novelty import Copying, Novelty, against, copying, distances
from plausible.evaluate.two_sample import TwoSample, features, mmd
from plausible.evaluate.utility import (
    LEAST_SPLITS,
    Utility,
    check_scoring,
    check_splits,
    default_classifier,
    fewest,
    score,
    splits,
)
from plausible.randomness import generator, seed_of
from plausible.uses import given
from plausible.uses.augment import closeness
from plausible.uses.expression import Expression

Group = Mapping[str, Any] | str
MOST_DRAWS = 2_000_000  # rows drawn and thrown away before a group is said to be too rare for the model
BATCH = 10_000
MOST_COMPARED = 1000  # rows of the group, real and made up, on each side of the two-sample test
PERMUTATIONS = 200
OTHERS = "all others"


@dataclass(frozen=True)
class Balanced:
    """Real rows followed by rows made up of one group.

    Args:
        X: all rows, the real ones first, with the columns of the model's table.
        context: their contexts, where the model is of p(x | c); else None.
        synthetic: which were made up.
        group: the group, in words.
        share_before, share_after: of the group among real rows, and among all.
        difference: MMD^2 of made-up rows to real rows of the group, with a p-value; None where either are fewer than
            10. A small p-value says that they can be told apart.
        novelty: how near made-up rows come to real rows of the group, against how near these come to each other.
        copying: whether they come nearer than chance explains.
        utility: for each of the group, all others and all rows: what training on the balanced rows brought, beside
            what copies of the group's rows brought, where the score is defined; None without a label.
    """

    X: Any = field(repr=False)
    context: Any = field(repr=False)
    synthetic: np.ndarray = field(repr=False)
    group: str
    share_before: float
    share_after: float
    difference: TwoSample | None
    novelty: Novelty
    copying: Copying
    utility: Mapping[str, Utility] | None

    def table(self) -> Any:
        """Return scores before and after, group by group, as a DataFrame.

        Raises:
            DataError: no label was given, so nothing was predicted.
        """
        if self.utility is None:
            raise DataError("no label was given, so nothing was predicted; call balance with label=COLUMN")
        return pd.concat({name: found.table() for name, found in self.utility.items()}, names=["rows", "trained on"])

    def __str__(self) -> str:
        made = int(self.synthetic.sum())
        lines = [f"{self.group}: {self.share_before:.2%} before, {self.share_after:.2%} after ({made:,} rows added)"]
        if self.difference is not None:
            told = "can be told" if self.difference.p_value < 0.01 else "cannot be told"
            lines.append(f"rows added {told} from real ones of the group: MMD^2 {self.difference}")
        lines.append(closeness(self.novelty, self.copying))
        for name, found in (self.utility or {}).items():
            lines.append(f"{name}: {found}")
        return "\n".join(lines)


def balance(
    model: Any,
    X: Any,
    *,
    group: Group,
    target: float,
    context: Any = None,
    label: str | None = None,
    classifier: Any = None,
    scoring: str = "balanced_accuracy",
    repeats: int = 5,
    test_fraction: float = 0.3,
    random_state: Any = None,
) -> Balanced:
    """Add rows of a group, drawn from a fitted model, until the group has a target share.

    Args:
        model: a fitted model of tables.
        X: n rows, like those it was fitted on.
        group: column -> value or list of values, all of which a row of the group has; or an expression on columns, such
            as "age > 60 and sex == 'Female'" (see `uses.expression`). Columns may be of X or of the context.
        target: the share of the group after it, between its present one and 1.
        context: of a model of p(x | c), the context of X as a DataFrame.
        label: a column that a classifier is to predict; None for no such check. Models and classifiers are then
            fitted anew on the training part of `repeats` random splits and judged on the other part.
        classifier: a scikit-learn classifier, given `evaluate.features`; a random forest by default.
        scoring: what it is judged by, in scikit-learn's words.
        repeats, test_fraction: of the check.
        random_state: seed of draws and splits.

    Raises:
        DataError: the group is empty, its share is at the target already, or the model hardly ever draws it.
    """
    check_is_fitted(model, "module_")
    if model.space_.type != "table":
        raise DataError(f"balance is of the rows of a table; this model is of {model.space_.type}s")
    X = _frame(X, model.space_)
    context = _contexts(model, context)
    who = _Members(model, group)
    member = who.among(X, context)
    added = _to_add(member, target)
    rng = generator(random_state)
    utility = None
    if label is not None:
        check_scoring(scoring)
        check_splits(repeats, test_fraction)
        learner = default_classifier() if classifier is None else classifier
        utility = _check(model, X, context, who, target, label, learner, scoring, repeats, test_fraction, seed_of(rng))
    made, made_context = _draw(model, X, context, who, added, rng)
    difference, novelty, copied = _compared(model.space_, X, made, member, seed_of(rng))
    return Balanced(
        X=_as_given(joined([X, made]), model.space_),
        context=None if context is None else joined([context, made_context]),
        synthetic=np.arange(len(X) + added) >= len(X),
        group=who.words,
        share_before=float(member.mean()),
        share_after=float((member.sum() + added) / (len(X) + added)),
        difference=difference,
        novelty=novelty,
        copying=copied,
        utility=utility,
    )


def _draw(
    model: Any, X: pd.DataFrame, context: pd.DataFrame | None, who: _Members, n: int, rng: Any
) -> tuple[pd.DataFrame, pd.DataFrame | None]:
    """Draw n rows of a group that is among X: (rows, their contexts)."""
    member = np.flatnonzero(who.among(X, context))
    like = member[np.random.default_rng(seed_of(rng)).integers(len(member), size=n)]
    own = None if context is None else context.iloc[like].reset_index(drop=True)
    columns = [name for name in who.names if name in model.space_.names]
    if not columns:
        return _frame(model.sample(n, context=own, random_state=seed_of(rng)), model.space_), own
    unknown = X[columns].iloc[like].reset_index(drop=True).reindex(columns=X.columns)
    try:
        found = given.sample(model, _as_given(unknown, model.space_), context=own, random_state=seed_of(rng))
        return _frame(found, model.space_), own
    except (CapabilityError, DataError):  # it cannot, or not from columns in these places
        return _rejected(model, who, n, own, rng), own


def _rejected(model: Any, who: _Members, n: int, context: pd.DataFrame | None, rng: Any) -> pd.DataFrame:
    """Draw until n rows are of the group; for each context, until one of it is."""
    rows: list[Any] = [None] * n
    waiting, drawn = np.arange(n), 0
    while len(waiting):
        if drawn >= MOST_DRAWS:
            raise DataError(
                f"of {drawn:,} rows that the model drew, {n - len(waiting)} were of the group {who.words}; expected "
                f"{n:,}. Fit the model with what names the group as its context"
            )
        batch = np.resize(waiting, BATCH)  # which of the n rows each draw could be
        own = None if context is None else context.iloc[batch].reset_index(drop=True)
        found = _frame(model.sample(BATCH, context=own, random_state=seed_of(rng)), model.space_)
        drawn += BATCH
        hits = np.flatnonzero(who.among(found, own))
        if context is None:  # any row will do for any place
            places, hits = waiting[: len(hits)], hits[: len(waiting)]
        else:
            places, first = np.unique(batch[hits], return_index=True)
            hits = hits[first]
        for place, hit in zip(places, hits, strict=True):
            rows[place] = found.iloc[[hit]]
        waiting = np.setdiff1d(waiting, places)
    return pd.concat(rows, ignore_index=True)


# ------------------------------------------------------------------------------------------------------ the group


class _Members:
    """Who belongs to a group: `names` of the columns that say so, and the group in words."""

    def __init__(self, model: Any, group: Group):
        columns = [*model.space_.columns, *(() if model.context_space_ is None else model.context_space_.columns)]
        if isinstance(group, str):
            self.expression = Expression(group, columns)
            self.names, self.words = list(self.expression.names), group
            return
        known = [c.name for c in columns]
        absent = [name for name in group if name not in known]
        if absent or not group:
            what = f"there is no column {absent[0]!r}" if absent else "it names no column"
            raise DataError(f"group: {what}; there are: {', '.join(known[:20])}")
        self.expression, self.names = None, list(group)
        self.values = {k: list(v) if isinstance(v, (list, tuple, set)) else [v] for k, v in group.items()}
        self.words = " and ".join(f"{k} = {' or '.join(map(str, v))}" for k, v in self.values.items())

    def among(self, X: pd.DataFrame, context: pd.DataFrame | None) -> np.ndarray:
        """Return which rows belong to it, (n,)."""
        whole = X if context is None else pd.concat([X, context], axis=1)
        if self.expression is not None:
            values = {name: whole[name].to_numpy() for name in self.names}
            return np.asarray(self.expression(values)).astype(bool)
        return np.logical_and.reduce([whole[name].isin(v).to_numpy() for name, v in self.values.items()])


def _contexts(model: Any, context: Any) -> pd.DataFrame | None:
    """The context as a table, with the names of the columns that the model was fitted on."""
    if (context is None) != (model.context_space_ is None):
        raise DataError(f"this model was fitted {'with a context; give one' if context is None else 'without one'}")
    if context is None:
        return None
    if model.context_space_.type != "table":
        raise DataError("balance needs a context that is a table, or none")
    return _frame(as_rows(context, model.context_space_), model.context_space_)


def _to_add(member: np.ndarray, target: float) -> int:
    share = member.mean()
    if not member.any():
        raise DataError("no row is of the group")
    if not isinstance(target, (int, float)) or not share < target < 1:
        raise DataError(f"target must lie between the present share of the group, {share:.4f}, and 1; got {target!r}")
    return _needed(member, target)


def _needed(member: np.ndarray, target: float) -> int:
    """How many rows make the group's share the target; one, where it has that already."""
    return max(round((target * len(member) - member.sum()) / (1 - target)), 1)


def _frame(X: Any, space: Any) -> pd.DataFrame:
    """Rows as a DataFrame with the names that the space has."""
    if isinstance(X, pd.DataFrame):
        return X.reset_index(drop=True).set_axis([str(name) for name in X.columns], axis=1)
    return pd.DataFrame(np.asarray(X), columns=space.names)


def _as_given(X: pd.DataFrame, space: Any) -> Any:
    """The way back from `_frame`."""
    if space.array_dtype is not None:
        return X.to_numpy()
    return X.rename(columns=int) if space.numbered else X


# ------------------------------------------------------------------------------------------------------ the checks


def _compared(
    space: Any, X: Any, made: Any, member: np.ndarray, seed: int
) -> tuple[TwoSample | None, Novelty, Copying]:
    """Made-up rows against real rows of the group: can they be told apart, and how near do they come?"""
    rng = np.random.default_rng(seed)
    everything = space.encode(_as_given(X, space))
    real = features(space, everything[member], real=everything)
    drawn = features(space, space.encode(_as_given(made, space)), real=everything)
    a, b = (x[rng.permutation(len(x))[:MOST_COMPARED]] for x in (drawn, real))
    told = mmd(a, b, permutations=PERMUTATIONS, random_state=seed) if min(len(a), len(b)) >= 10 else None
    half = rng.permutation(len(real))
    first, second = real[half[: max(len(half) // 2, 1)]], real[half[len(half) // 2 :]]
    yardstick, near = distances(first, second), distances(drawn, second)
    return told, against(yardstick, near), copying(near, yardstick)


def _check(model, X, context, who, target, label, learner, scoring, repeats, test_fraction, seed) -> dict[str, Utility]:
    """Train before and after, on several splits; score the group, all others, and all rows."""
    space = model.space_
    place = space.names.index(label) if label in space.names else None
    if place is None:
        raise DataError(f"label: there is no column {label!r} in the table; there are: {', '.join(space.names[:20])}")
    member, (classes, k) = who.among(X, context), np.unique(X[label].astype(str), return_inverse=True)
    if len(classes) < 2:
        raise DataError(f"label: expected two classes or more in {label!r}, got only {classes[0]!r}")

    def xy(rows: pd.DataFrame, like: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
        codes, base = (space.encode(_as_given(part, space)) for part in (rows, like))
        keep = [d for d in range(len(space.names)) if d != place]
        part = _without(space, keep)
        return features(part, codes[:, keep], real=base[:, keep]), np.searchsorted(classes, rows[label].astype(str))

    names = {"the group": lambda m: m, OTHERS: lambda m: ~m, "all rows": lambda m: np.ones_like(m)}
    trained = ("real", "balanced by the model", "balanced by copies")
    scores = {name: {how: [] for how in trained} for name in names}
    strata = 2 * k + member  # as far as they are large enough, else the group alone
    strata = strata if np.unique(strata, return_counts=True)[1].min() >= fewest(test_fraction) else member.astype(int)
    for r, (train, test) in enumerate(splits(strata, repeats, test_fraction, seed)):
        rows, c = X.iloc[train].reset_index(drop=True), None if context is None else context.iloc[train]
        c = None if c is None else c.reset_index(drop=True)
        own = clone(model).set_params(space=space).fit(_as_given(rows, space), context=c)
        here = np.flatnonzero(member[train])
        added = _needed(member[train], target)  # the share of the group is not quite that of all rows
        made, _ = _draw(own, rows, c, who, added, generator(seed + r))
        copies = rows.iloc[here[np.random.default_rng(seed + r).integers(len(here), size=added)]]
        sets = dict(zip(trained, (rows, joined([rows, made]), joined([rows, copies])), strict=True))
        tests = [xy(X.iloc[test[which(member[test])]], rows) for which in names.values()]
        for how, part in sets.items():
            for name, value in zip(names, score(learner, scoring, xy(part, rows), *tests), strict=True):
                scores[name][how].append(value)
    utility, ratio = {}, len(test) / len(train)
    for name, found in scores.items():
        defined = ~np.isnan(list(found.values())).any(0)  # a score may not be of a split whose test rows lack a class
        if defined.sum() >= LEAST_SPLITS:
            utility[name] = Utility(scoring, {how: np.array(v)[defined] for how, v in found.items()}, ratio)
    return utility


def _without(space: Any, keep: list[int]) -> Any:
    """The space of some columns of a table."""
    return dataclasses.replace(space, columns=tuple(space.columns[d] for d in keep), shape=(len(keep),))
