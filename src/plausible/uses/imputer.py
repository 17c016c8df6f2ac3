r"""Fill the holes of a table with models of that very table: multiple imputation, and how sure it is.

    p(missing | known) = sum_j w_j 1/B sum_b p_jb(missing | known)

p_jb is candidate j of a grid of settings, fitted with the holes to bootstrap sample b of the rows (EMB), so that draws
show also how little the table says about the model. Known cells are then hidden too, one of a row at a time, and drawn
by the fits whose sample lacks their row. The weights are those under which these cells are most probable (stacking),

    w = argmax sum_i log sum_j w_j mean_b p_jb(hidden of row i | the rest of it),

and intervals reach as far into the draws as it takes to cover as many of these cells as was asked for (conformal).

References: Honaker, King and Blackwell, Amelia II, 2011 (EMB). Breiman, Out-of-bag estimation, 1996. Yao, Vehtari,
Simpson and Gelman, Using stacking to average Bayesian predictive distributions, 2018. Barber, Candes, Ramdas and
Tibshirani, Predictive inference with the jackknife+, 2021 (intervals from cells that a fit has not seen).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from sklearn.base import BaseEstimator, TransformerMixin, clone
from sklearn.model_selection import ParameterGrid
from sklearn.utils.validation import check_is_fitted, validate_data

from plausible import registry
from plausible.errors import CapabilityError, DataError
from plausible.randomness import generator, seed_of
from plausible.space import Space, infer
from plausible.space.matrix import as_matrix
from plausible.uses._parts import filled, log_marginal, need_exact, require_whole

JUDGED = 2000  # rows of which cells are hidden, at most
ROUNDS = 6  # in each of which at most one known cell of a row is hidden: no more than is missing with a missing cell
STACKING_STEPS = 500  # of EM for the weights, at most
AT_ONCE = 4_000_000  # numbers in the draws that are held at a time


class Imputer(TransformerMixin, BaseEstimator):
    """Multiple imputation with a model learned from the table that has the holes.

    Args:
        model: an estimator of a family that fits with missing cells and draws them given the rest, exactly; its fitted
            state, if any, is not used.
        grid: setting -> values to try, as for scikit-learn's GridSearchCV; all are used, weighted by how probable they
            find hidden cells. None leaves the model as it is.
        fits: B, bootstrap samples of the rows.
        draws: from each fit, where values are averaged and intervals cut.
        random_state: seed of the samples, fits and draws; None draws a fresh one.

    Attributes:
        space_: what a row is.
        models_: the fitted models: for each of the candidates a list of B.
        candidates_: the settings of each candidate.
        weights_: of the candidates, adding up to one.
        error_: root mean squared error of the hidden cells, in standard deviations of their columns.
        n_hidden_: how many these were; intervals are calibrated on them.

    Examples:
        >>> import numpy as np, plausible as pl
        >>> rng = np.random.default_rng(0)
        >>> X = rng.normal(size=(200, 1)) + 0.1 * rng.normal(size=(200, 3))  # three readings of one thing
        >>> holes = np.where(rng.random(X.shape) < 0.2, np.nan, X)
        >>> imputer = pl.Imputer(pl.Gaussian(), fits=5, random_state=0).fit(holes)
        >>> full = imputer.transform(holes)
        >>> bool(np.isfinite(full).all() and (full == X)[~np.isnan(holes)].all())
        True
        >>> low, high = imputer.intervals(holes, level=0.9)
        >>> len(imputer.sample(holes, n=3))
        3
    """

    def __init__(
        self,
        model: Any,
        *,
        grid: Mapping[str, Sequence] | None = None,
        fits: int = 20,
        draws: int = 20,
        random_state: Any = None,
    ):
        self.model = model
        self.grid = grid
        self.fits = fits
        self.draws = draws
        self.random_state = random_state

    # ------------------------------------------------------------------------------------------------------- fit

    def fit(self, X: Any, y: Any = None) -> Imputer:
        """Learn from a table with holes.

        Args:
            X: n rows; NaN or None marks a missing cell.
            y: ignored, as scikit-learn asks.

        Raises:
            CapabilityError: the family cannot be fitted with missing cells, or not draw them exactly.
            DataError: a setting is out of range, or X is no table.
        """
        self._check()
        self.space_ = space = infer(X, self.model.space)
        if space.type != "table":
            raise DataError(f"an Imputer fills tables, got {space.describe()}; `given.impute` fills by a fitted model")
        validate_data(self, X, skip_check_array=True)
        x = space.encode(X).double()
        rng = generator(self.random_state)
        self.candidates_ = list(ParameterGrid(dict(self.grid or {})))
        self.models_ = [[] for _ in self.candidates_]
        hidden = _Hidden(x, _ordered(space), len(self.candidates_), self.draws, rng)
        for _ in range(self.fits):
            weight = torch.bincount(torch.randint(len(x), (len(x),), generator=rng), minlength=len(x)).double()
            for j, settings in enumerate(self.candidates_):
                model = clone(self.model).set_params(**settings, space=space, random_state=seed_of(rng))
                model.fit(X, sample_weight=weight.numpy())
                need_exact(model)
                hidden.judge(j, model, weight == 0, rng)
                self.models_[j].append(model)
        self.weights_, self._seed = hidden.weights(), seed_of(rng)
        self._reach, self.error_ = hidden.calibration(self.weights_)
        self.n_hidden_ = len(self._reach)
        return self

    def _check(self) -> None:
        if not self.model.traits.missing or self.model.traits.given != "exact":
            others = registry.capable(lambda f: f.traits.missing and f.traits.given == "exact")
            raise CapabilityError(
                f"{type(self.model).__name__} cannot both learn from rows with missing cells and draw these given the "
                f"rest exactly; these families can: {', '.join(others)}"
            )
        for name, least in (("fits", 2), ("draws", 1)):
            require_whole(name, getattr(self, name), least)

    # -------------------------------------------------------------------------------------------------- fillings

    def transform(self, X: Any) -> Any:
        """Fill each missing cell with its mean, of a column with levels with the most probable one.

        Args:
            X: rows like those it was fitted on, the same or others.

        Returns:
            Rows like X, complete; known values are those of X to the bit.
        """
        x = self._codes(X)
        levels = torch.tensor([bool(c.levels) for c in self.space_.columns])
        parts = []
        for part, drawn, weight in self._drawn(x):
            votes = torch.zeros_like(part)
            for d in levels.nonzero()[:, 0].tolist():
                counts = torch.zeros(len(part), self.space_.columns[d].n_levels, dtype=torch.float64)
                counts.scatter_add_(1, drawn[:, :, d].T.long(), weight.expand(len(part), -1))
                votes[:, d] = counts.argmax(1).double()
            mean = torch.einsum("s,snd->nd", weight, drawn)
            parts.append(torch.where(part.isnan(), torch.where(levels, votes, mean), part))
        return self.space_.decode(torch.cat(parts))

    def sample(self, X: Any, n: int = 5, *, random_state: Any = None) -> list[Any]:
        """Fill X n times, each by a fit of its own as long as there are so many: analyse each, then pool.

        Args:
            X: rows like those it was fitted on, the same or others.
            n: how many fillings.
            random_state: seed of the draws; None draws a fresh one.

        Returns:
            A list of n times X, complete.
        """
        x, rng = self._codes(X), generator(random_state)
        require_whole("n", n)
        # Evenly spaced among the fits in proportion to their weights, in an order by chance.
        places = (torch.arange(n, dtype=torch.float64) + torch.rand(1, generator=rng, dtype=torch.float64)) / n
        ends = torch.from_numpy(np.repeat(self.weights_ / self.fits, self.fits).cumsum())
        models = [model for row in self.models_ for model in row]
        chosen = torch.searchsorted(ends, places).clamp_max(len(models) - 1)[torch.randperm(n, generator=rng)]
        return [self.space_.decode(_draw(models[k], x, 1, rng)[0]) for k in chosen.tolist()]

    def intervals(self, X: Any, level: float = 0.9) -> tuple[Any, Any]:
        """Return between which values each missing cell lies, with probability `level` over the missing cells.

        The promise is that of the cells that were hidden in `fit`, and holds for others that are missing in the same
        way. Of known cells both ends are the value; a missing cell of a column whose levels have no order has none.

        Args:
            X: rows like those it was fitted on, the same or others.
            level: the share of cells that their intervals are to cover.

        Returns:
            (low, high), both like X.
        """
        x = self._codes(X)
        if not 0 < level < 1:
            raise DataError(f"level must lie between 0 and 1, got {level!r}")
        if not self.n_hidden_:
            raise DataError("too few cells are known, and none could be hidden to calibrate intervals on")
        rank = math.ceil((self.n_hidden_ + 1) * level) - 1
        reach = self._reach[rank] if rank < self.n_hidden_ else 0.5
        ends: tuple[list, list] = ([], [])
        for part, drawn, weight in self._drawn(x):
            values, order = drawn.sort(0)
            below = weight[order].cumsum(0)  # (S, n, D)
            for end, share in zip(ends, (0.5 - reach, 0.5 + reach), strict=True):
                place = (below < share).sum(0).clamp_max(len(weight) - 1)
                found = values.gather(0, place[None])[0]
                end.append(torch.where(part.isnan(), torch.where(_ordered(self.space_), found, torch.nan), part))
        low, high = (self.space_.decode(torch.cat(end)) for end in ends)
        return low, high

    def _codes(self, X: Any) -> torch.Tensor:
        check_is_fitted(self, "models_")
        if getattr(X, "ndim", 2) != 2:
            as_matrix(X)  # which says what is wrong
        validate_data(self, X, skip_check_array=True, reset=False)
        return self.space_.encode(X).double()

    def _drawn(self, x: torch.Tensor):
        """Yield rows (n, D), draws of them by all fits (S, n, D) and the weights of these (S,)."""
        each = len(self.candidates_) * self.fits * self.draws
        weight = torch.from_numpy(np.repeat(self.weights_ / (self.fits * self.draws), self.fits * self.draws))
        rng = generator(self._seed)  # the same draws for the mean and for the ends about it
        for part in x.split(max(1, AT_ONCE // (each * self.space_.dims))):
            drawn = [_draw(model, part, self.draws, rng) for row in self.models_ for model in row]
            yield part, torch.cat(drawn), weight

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = True
        return tags


class _Hidden:
    """Known cells that are hidden, and what the fits that have not seen their rows say of them.

    Legend: R rounds, m rows that are judged, D columns, J candidates.
    """

    def __init__(self, x: torch.Tensor, ordered: torch.Tensor, candidates: int, draws: int, rng: torch.Generator):
        self.rows = torch.randperm(len(x), generator=rng)[:JUDGED]
        self.x, self.ordered, self.draws = x[self.rows], ordered, draws
        self.hidden = _in_turn(~self.x.isnan(), rng)
        shape = (candidates, len(self.hidden), *self.x.shape)
        # Sums over fits: of the share of draws below the truth, of the mean of the draws, of one.
        self.below, self.sums = torch.zeros(shape, dtype=torch.float64), torch.zeros(shape, dtype=torch.float64)
        self.total = torch.zeros(shape[:3], dtype=torch.float64)
        self.log_p = torch.full(shape[:3], -torch.inf, dtype=torch.float64)  # of their likelihood

    def judge(self, j: int, model: Any, unseen: torch.Tensor, rng: torch.Generator) -> None:
        """Add what a fit says of rows that its sample lacks."""
        for r, hidden in enumerate(self.hidden):
            rows = (unseen[self.rows] & hidden.any(1)).nonzero()[:, 0]
            if not len(rows):
                continue
            whole = self.x[rows]
            part = torch.where(hidden[rows], torch.nan, whole)
            log_p = log_marginal(model, whole, None) - log_marginal(model, part, None)
            log_p = torch.where(log_p.isnan(), -torch.inf, log_p)  # the rest is impossible, too
            self.log_p[j, r, rows] = torch.logaddexp(self.log_p[j, r, rows], log_p)
            drawn = _draw(model, part, self.draws, rng)
            self.below[j, r, rows] += ((drawn < whole).double() + 0.5 * (drawn == whole)).mean(0)
            self.sums[j, r, rows] += drawn.mean(0)
            self.total[j, r, rows] += 1

    def weights(self) -> np.ndarray:
        """The weights of the candidates (J,): EM from equal ones, which never lowers the objective."""
        log_p = (self.log_p - self.total.log()).flatten(1)
        log_p = log_p[:, (self.total[0] > 0).flatten()]
        log_p = log_p[:, (log_p > -torch.inf).any(0)]
        weight = torch.full((len(log_p), 1), 1 / len(log_p), dtype=torch.float64)
        for _ in range(STACKING_STEPS if log_p.shape[1] else 0):
            before, weight = weight, (log_p + weight.log()).softmax(0).mean(1, keepdim=True)
            if (weight - before).abs().max() < 1e-6:
                break
        return weight[:, 0].numpy()

    def calibration(self, weights: np.ndarray) -> tuple[np.ndarray, float]:
        """How far from the middle of the draws each hidden number lies, sorted; and the error of their mean."""
        w = torch.from_numpy(weights)[:, None, None, None]
        hidden = torch.stack(self.hidden) & (self.total[0] > 0)[..., None] & self.ordered
        share = ((w * self.below).sum(0) / self.total[0][..., None])[hidden]
        mean = ((w * self.sums).sum(0) / self.total[0][..., None])[hidden]
        deviation = torch.from_numpy(np.nanstd(self.x.numpy(), 0)).clamp_min(1e-300).expand(hidden.shape)[hidden]
        error = ((mean - self.x.expand(hidden.shape)[hidden]) / deviation).square().mean().sqrt()
        return np.sort((share - 0.5).abs().numpy()), float(error)


def _in_turn(known: torch.Tensor, rng: torch.Generator) -> list[torch.Tensor]:
    """Cells (m, D) to hide in each round, one of a row at a time; every known cell is hidden with the same probability.

    Of cells that are missing completely at random, the rest of the row of a hidden one is then known as often as that
    of a missing one.
    """
    dims = known.shape[1]
    rounds = min(ROUNDS, dims)
    order = torch.rand(known.shape, generator=rng).masked_fill(~known, torch.inf).argsort(1)
    turns = (known.sum(1) * rounds / dims + torch.rand(len(known), generator=rng)).floor()
    nothing = torch.zeros_like(known)
    return [nothing.scatter(1, order[:, r : r + 1], (r < turns)[:, None]) for r in range(rounds)]


def _ordered(space: Space) -> torch.Tensor:
    return torch.tensor([column.kind not in ("binary", "categorical") for column in space.columns])


def _draw(model: Any, x: torch.Tensor, n: int, rng: torch.Generator) -> torch.Tensor:
    """Draw n completions of codes (rows, D) at once: (n, rows, D)."""
    module = model._evaluator()
    drawn = filled(model, x.repeat(n, 1), lambda z: module.sample_given(z, None, rng=rng), rng)
    return drawn.reshape(n, *x.shape)
