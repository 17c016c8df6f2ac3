r"""What a sampler returns: draws, and how far they can be trusted.

    R-hat   sqrt(var+ / W) of rank-normalised halves of chains: 1 if all explore the same distribution
    ESS     n / (1 + 2 sum_t rho_t): independent draws that would estimate as well

Both from arviz-stats, as in Vehtari, Gelman, Simpson, Carpenter and Bürkner, Rank-normalization, folding, and
localization: an improved R-hat, Bayesian Analysis, 2021, https://arxiv.org/abs/1903.08008
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from plausible.errors import DataError
from plausible.randomness import seed_of
from plausible.sampling._density import _array, count

R_HAT = 1.01  # above it, chains disagree (Vehtari et al., 2021, section 4)
ESS_PER_CHAIN = 100  # below it, the diagnostics themselves are too noisy to believe (the same)
COORDINATES_SHOWN = 50  # more, and a repr would take seconds


@dataclasses.dataclass(frozen=True, repr=False, eq=False)
class Draws:
    """Draws from a target and their diagnostics.

    Args:
        method: how they were drawn.
        draws: (chains, n, D) of a Markov chain, (n, D) if independent.
        log_density: of each draw, up to the target's constant; (chains, n) or (n,).
        acceptance: mean probability of acceptance of each chain, (chains,); of independent draws, a share.
        divergences: per chain, trajectories whose energy error says that the density is too curved for the step.
        evaluations: points at which the log-density was asked for, warm-up included.
        settings: what the sampler ended up with (step size, scale, temperatures, ...).
        warnings: what went wrong on the way.
    """

    method: str
    draws: np.ndarray
    log_density: np.ndarray
    acceptance: Any = 1.0
    divergences: np.ndarray | None = None
    evaluations: int = 0
    settings: dict[str, Any] = dataclasses.field(default_factory=dict)
    warnings: tuple[str, ...] = ()

    def __post_init__(self):
        object.__setattr__(self, "_cache", {})

    @property
    def chains(self) -> np.ndarray:
        """The draws with an axis for chains: (chains, n, D); independent draws are one chain."""
        return self.draws if self.draws.ndim == 3 else self.draws[None]

    @property
    def flat(self) -> np.ndarray:
        """All draws as rows, (chains * n, D)."""
        return self.draws.reshape(-1, self.draws.shape[-1])

    def __len__(self) -> int:
        return len(self.flat)

    def ess(self, kind: str = "bulk") -> np.ndarray:
        """Return the effective sample size of every coordinate, (D,), for its centre ('bulk') or 5 % tails ('tail')."""
        if kind not in ("bulk", "tail"):
            raise DataError(f"kind must be 'bulk' or 'tail', got {kind!r}")
        more = {"prob": (0.05, 0.95)} if kind == "tail" else {}
        return self._diagnose("ess", method=kind, **more)

    def r_hat(self) -> np.ndarray:
        """Return rank-normalised split R-hat of every coordinate, (D,); NaN where a coordinate never moves."""
        return self._diagnose("rhat", method="rank")

    def standard_error(self) -> np.ndarray:
        """Return the Monte Carlo standard error of the mean of every coordinate, (D,)."""
        return self._diagnose("mcse", method="mean")

    def _diagnose(self, name: str, **settings) -> np.ndarray:
        key = (name, *settings.values())
        if key not in self._cache:
            from arviz_stats.base import array_stats

            x = self.chains
            if name == "rhat" and len(x) == 1:  # one chain is held against itself: its halves are two
                half = x.shape[1] // 2
                x = np.concatenate([x[:, :half], x[:, -half:]])
            if x.shape[1] < 4:
                return np.full(x.shape[2], np.nan)
            with np.errstate(invalid="ignore", divide="ignore"):  # a constant has no variance to divide by
                self._cache[key] = getattr(array_stats, name)(x, chain_axis=0, draw_axis=1, **settings)
        return self._cache[key]

    def problems(self) -> list[str]:
        """Return a sentence for each reason to distrust these draws; none is no proof that there is none."""
        found = list(self.warnings)
        if self.divergences is not None and self.divergences.sum():
            found.append(
                f"{self.divergences.sum()} trajectories diverged: regions of high curvature are not explored; "
                "reparametrise, or raise target_accept"
            )
        if self.draws.ndim == 3 and self.draws.shape[-1] <= COORDINATES_SHOWN:
            r_hat, ess = self.r_hat(), np.minimum(self.ess(), self.ess("tail"))
            if np.nanmax(r_hat, initial=1) > R_HAT:
                found.append(f"chains disagree: R-hat is {np.nanmax(r_hat):.3f}, not below {R_HAT}; draw more")
            few = ESS_PER_CHAIN * len(self.chains)
            if np.nanmin(ess, initial=math.inf) < few:
                found.append(f"effective sample size is {np.nanmin(ess):.0f}, not above {few}; draw more")
        return found

    def summary(self, names: Sequence[str] | None = None):
        """Return a DataFrame with a row per coordinate: moments, quantiles, standard error, ESS and R-hat."""
        import pandas as pd

        flat = self.flat
        names = [f"x[{d}]" for d in range(flat.shape[1])] if names is None else list(names)
        if len(names) != flat.shape[1]:
            raise DataError(f"expected {flat.shape[1]} names, got {len(names)}")
        quantiles = np.quantile(flat, [0.05, 0.5, 0.95], axis=0)
        columns = {"mean": flat.mean(0), "sd": flat.std(0), "5%": quantiles[0], "50%": quantiles[1]}
        columns |= {"95%": quantiles[2], "standard error": self.standard_error(), "ess bulk": self.ess()}
        columns |= {"ess tail": self.ess("tail"), "r_hat": self.r_hat()}
        return pd.DataFrame(columns, index=names)

    def __repr__(self) -> str:
        chains, n, dims = self.chains.shape
        how = f"{chains} chains of {n:,} draws" if self.draws.ndim == 3 else f"{n:,} independent draws"
        lines = [f"{self.method}: {how} in {dims} dimension{'s' * (dims > 1)}, {self.evaluations:,} evaluations"]
        facts = [f"acceptance {np.mean(self.acceptance):.3g}"]
        if self.draws.ndim == 3 and dims <= COORDINATES_SHOWN and n >= 4:
            facts.append(f"smallest effective sample size {np.nanmin(self.ess(), initial=math.inf):,.0f}")
            facts.append(f"largest R-hat {np.nanmax(self.r_hat(), initial=-math.inf):.3f}")
        lines += [", ".join(facts), *(f"! {p}" for p in self.problems())]
        return "\n    ".join(lines)


@dataclasses.dataclass(frozen=True, repr=False, eq=False)
class Weighted(Draws):
    r"""Independent draws of a proposal q, with weights w = p / q that make up for it.

    Args:
        log_weights: log p(x) - log q(x) of each draw, (n,), p up to its constant.
    """

    log_weights: np.ndarray = dataclasses.field(default_factory=lambda: np.zeros(0))

    @property
    def weights(self) -> np.ndarray:
        """The weights, which sum to one: (n,)."""
        w = np.exp(self.log_weights - self.log_weights.max())
        return w / w.sum()

    def ess(self, kind: str = "bulk") -> np.ndarray:
        """Return (sum w)^2 / sum w^2, the same for every coordinate, (D,). Kong, Liu and Wong, 1994."""
        return np.full(self.draws.shape[1], 1 / (self.weights**2).sum())

    def r_hat(self) -> np.ndarray:
        """Return NaN: there are no chains."""
        return np.full(self.draws.shape[1], np.nan)

    def expect(self, f: Callable[[np.ndarray], Any] | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Return the estimate of E[f(x)] and its standard error.

        Args:
            f: takes draws (n, D), returns (n,) or (n, K); None is x itself.
        """
        values = self.draws if f is None else _array(f(self.draws))
        if len(values) != len(self.draws):
            raise DataError(f"f must return a value per draw ({len(self.draws)}), got shape {values.shape}")
        w = self.weights.reshape(-1, *[1] * (values.ndim - 1))
        mean = (w * values).sum(0)
        return mean, np.sqrt((w**2 * (values - mean) ** 2).sum(0))

    def standard_error(self) -> np.ndarray:
        """Return the standard error of the weighted mean of every coordinate, (D,)."""
        return self.expect()[1]

    @property
    def log_normaliser(self) -> tuple[float, float]:
        """log of the integral of the unnormalised density, and its standard error by the delta method."""
        top = self.log_weights.max()
        w = np.exp(self.log_weights - top)
        return float(top + np.log(w.mean())), float(w.std(ddof=1) / w.mean() / math.sqrt(len(w)))

    def resample(self, n: int | None = None, *, random_state: Any = None) -> np.ndarray:
        """Return n draws (n, D) with equal weights, by systematic resampling, in random order."""
        n = len(self.draws) if n is None else count(n, "n")
        rng = np.random.default_rng(seed_of(random_state))
        at = (np.arange(n) + rng.random()) / n
        chosen = np.searchsorted(np.cumsum(self.weights), at, side="right").clip(max=len(self.draws) - 1)
        return self.draws[rng.permutation(chosen)]

    def problems(self) -> list[str]:
        found, ess = list(self.warnings), self.ess()[0]
        if ess < ESS_PER_CHAIN:
            found.append(f"effective sample size is {ess:.1f} of {len(self)}: the proposal misses the target")
        return found

    def summary(self, names: Sequence[str] | None = None):
        """Return a DataFrame with a row per coordinate: weighted moments and quantiles, standard error, ESS."""
        import pandas as pd

        x, w = self.draws, self.weights
        names = [f"x[{d}]" for d in range(x.shape[1])] if names is None else list(names)
        mean, error = self.expect()
        columns = {"mean": mean, "sd": np.sqrt(w @ (x - mean) ** 2)}
        order = np.argsort(x, 0)
        below = np.cumsum(w[order], 0)
        for q in (0.05, 0.5, 0.95):
            at = (below < q).sum(0).clip(max=len(x) - 1)
            columns[f"{q:.0%}"] = np.take_along_axis(x, np.take_along_axis(order, at[None], 0), 0)[0]
        return pd.DataFrame({**columns, "standard error": error, "ess": self.ess()}, index=names)

    def __repr__(self) -> str:
        n, dims = self.draws.shape
        value, error = self.log_normaliser
        lines = [f"{self.method}: {n:,} weighted draws in {dims} dimension{'s' * (dims > 1)}"]
        lines.append(f"effective sample size {self.ess()[0]:,.0f}, log of the integral {value:.4f} +- {error:.2g}")
        return "\n    ".join([*lines, *(f"! {p}" for p in self.problems())])
