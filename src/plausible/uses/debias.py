r"""Examples of kinds that are rare, drawn more often, without naming the kinds: by the density of a fitted model.

    w_i ~ q(x_i)^-b,    0 <= b <= 1 as large as an effective sample size (sum w)^2 / sum w^2 >= keep n allows

q is the density of the latent code of x_i, a histogram of each of its dimensions, where the family has a code; else it
is p(x_i). With b = 1 and exact densities, all that occurs would be equally frequent; the effective sample size is what
is left of n examples after weighting, and bounds how often a single one is repeated.

Reference: Amini, Soleimany, Schwarting, Bhatia and Rus, Uncovering and mitigating algorithmic bias through learned
latent structure, 2019, https://doi.org/10.1145/3306618.3314243 (there, w = prod_l 1 / (q_l + alpha)).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from scipy.optimize import brentq
from scipy.special import logsumexp
from sklearn.utils.validation import check_is_fitted

from plausible import registry
from plausible.data import take
from plausible.errors import CapabilityError, DataError
from plausible.randomness import generator, seed_of
from plausible.uses._parts import latent_codes

BINS = 10  # of the histogram of a dimension of the code


@dataclass(frozen=True)
class Debiased:
    """A resampling of examples.

    Args:
        X: what was drawn, examples as they were given.
        index: which of the examples each is, (m,).
        weights: of all n examples, their mean is 1.
        by: what rarity was measured by: 'latent code' or 'density'.
        power: b.
    """

    X: Any = field(repr=False)
    index: np.ndarray = field(repr=False)
    weights: np.ndarray = field(repr=False)
    by: str
    power: float

    @property
    def effective(self) -> float:
        """The effective sample size of the weights, as a share of n."""
        return float(1 / np.mean(self.weights**2))

    def shares(self, labels: Any) -> Any:
        """Return the share of each label (n,) before and after, a DataFrame: what became of groups that have names.

        Raises:
            DataError: there is not one label for each of the n examples.
        """
        import pandas as pd

        labels = pd.Series(np.asarray(labels))
        if len(labels) != len(self.weights):
            raise DataError(f"expected a label for each of {len(self.weights)} examples, got {len(labels)}")
        now = labels.iloc[self.index].value_counts(normalize=True)
        return pd.DataFrame({"before": labels.value_counts(normalize=True), "after": now}).fillna(0.0)

    def __str__(self) -> str:
        most = np.bincount(self.index).max()
        return (
            f"{len(self.index):,} examples drawn with weights q^-{self.power:.3g} by the {self.by}; effective sample "
            f"size {self.effective:.0%}, {len(np.unique(self.index)):,} different ones, each at most {most} times"
        )


def debias(
    model: Any, X: Any, *, n: int | None = None, keep: float = 0.5, context: Any = None, random_state: Any = None
) -> Debiased:
    """Draw from examples so that rare ones come more often.

    Args:
        model: a fitted model with a latent code or a density.
        X: examples like those it was fitted on.
        n: how many to draw; as many as there are by default.
        keep: the effective sample size of the weights, as a share of n: 1 changes nothing, less goes further.
        context: as in `fit`.
        random_state: seed of the draw.

    Raises:
        CapabilityError: the model has neither.
        DataError: a setting is out of range, or the model finds an example impossible.
    """
    weights, by, power = rarity(model, X, keep=keep, context=context)
    n = len(weights) if n is None else n
    if not isinstance(n, (int, np.integer)) or n < 1:
        raise DataError(f"n must be a number of examples of at least 1, got {n!r}")
    # Systematic resampling: an example of weight w comes floor or ceil(w n / len(X)) times.
    start = np.random.default_rng(seed_of(generator(random_state))).random()
    index = np.searchsorted(np.cumsum(weights) / weights.sum(), (start + np.arange(n)) / n).clip(0, len(weights) - 1)
    return Debiased(take(X, index), index, weights, by, power)


def rarity(model: Any, X: Any, *, keep: float = 0.5, context: Any = None) -> tuple[np.ndarray, str, float]:
    """Return weights with mean 1 that are larger for rarer examples (n,), what they are by, and b.

    Args:
        model, X, keep, context: as for `debias`.

    Raises:
        CapabilityError: the model has neither a latent code nor a density.
        DataError: `keep` is out of range, or the model finds an example impossible.
    """
    check_is_fitted(model, "module_")
    if not 0 < keep <= 1:
        raise DataError(f"keep must be a share between 0 and 1, got {keep!r}")
    if model.traits.latent and hasattr(model.module_, "encode"):
        codes = latent_codes(model, X, context)[-1]
        by, log_q = "latent code", _code_density(codes.flatten(1).double().cpu().numpy())
    elif model.traits.density:
        by, log_q = "density", model.log_prob(X, context=context)
    else:
        able = registry.capable(lambda f: f.traits.latent or f.traits.density)
        raise CapabilityError(
            f"{type(model).__name__} has no latent code and no density; these families have one: {', '.join(able)}"
        )
    if not np.isfinite(log_q).all():
        row = int(np.flatnonzero(~np.isfinite(log_q))[0])
        raise DataError(f"the model finds example {row} impossible (log-density {log_q[row]}); leave it out")
    power = _power(log_q, keep)
    weights = np.exp(-power * (log_q - log_q.max()) - logsumexp(-power * (log_q - log_q.max()))) * len(log_q)
    return weights, by, power


def _power(log_q: np.ndarray, keep: float) -> float:
    """The largest b in [0, 1] that leaves an effective sample size of `keep` n: it falls as b grows."""

    def spare(b: float) -> float:
        return 2 * logsumexp(-b * log_q) - logsumexp(-2 * b * log_q) - np.log(keep * len(log_q))

    if spare(1.0) >= 0:
        return 1.0
    return 0.0 if keep == 1 else float(brentq(spare, 0.0, 1.0, xtol=1e-9))


def _code_density(codes: np.ndarray) -> np.ndarray:
    """log prod_l q_l(h_l), each q_l a histogram of one dimension: (n,)."""
    log_q = np.zeros(len(codes))
    for h in codes.T:
        counts, edges = np.histogram(h, BINS)
        log_q += np.log(counts[np.clip(np.digitize(h, edges) - 1, 0, BINS - 1)] / len(h))
    return log_q
