r"""Independent draws by way of a proposal q that is easy to draw from.

    rejection     x ~ q, kept with probability p(x) / (M q(x)), where p <= M q everywhere
    importance    x ~ q with weight w = p(x) / q(x);    E_p[f] = sum w f / sum w,    ESS = (sum w)^2 / sum w^2

References: von Neumann, 1951. Caffo, Booth and Davis, Empirical supremum rejection sampling, Biometrika 2002. Kong, Liu
and Wong, Sequential imputations, JASA 1994. Owen, Monte Carlo theory, methods and examples, 2013, chapter 9.
"""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import torch

from plausible.errors import DataError, PlausibleError, PlausibleWarning
from plausible.randomness import seed_of
from plausible.sampling._density import LogDensity, Target, _array, count
from plausible.sampling._run import generators, interrupted
from plausible.sampling.result import Draws, Weighted

PILOT = 10_000  # proposals from which a bound is guessed
SLACK = 1e-9  # nats by which rounding may lift p over its bound


class Proposal:
    """What can be drawn from and scored: a frozen distribution of scipy, a fitted model, or a pair of functions."""

    def __init__(self, proposal: Any, rng: np.random.Generator, torch_rng: torch.Generator):
        self.rng, self.torch_rng = rng, torch_rng
        if isinstance(proposal, tuple) and len(proposal) == 2 and all(map(callable, proposal)):
            draw, density = proposal
            self._draw = lambda n: draw(n, torch_rng)
            self._density = lambda x: density(torch.from_numpy(x))
        elif hasattr(proposal, "rvs") and hasattr(proposal, "logpdf"):
            self._draw = lambda n: proposal.rvs(size=n, random_state=rng)
            self._density = lambda x: proposal.logpdf(x[:, 0] if x.shape[1] == 1 else x)
        elif hasattr(proposal, "sample") and hasattr(proposal, "log_prob") and not hasattr(proposal, "rsample"):
            self._draw = lambda n: proposal.sample(n, random_state=seed_of(rng))
            self._density = proposal.log_prob
        else:
            raise DataError(
                "proposal must be a frozen distribution of scipy.stats, a fitted model, or a pair of functions "
                f"(draw(n, generator) -> (n, D), log_density(x) -> (n,)); got {type(proposal).__name__}"
            )

    def __call__(self, n: int) -> tuple[np.ndarray, np.ndarray]:
        """Return draws (n, D) and their log q (n,)."""
        x = _array(self._draw(n))
        x = np.ascontiguousarray(x.reshape(n, -1))
        log_q = _array(self._density(x)).reshape(-1)
        if log_q.shape != (n,) or not np.isfinite(log_q).all():
            raise DataError(f"the proposal must have a finite log density for each of its {n} draws")
        return x, log_q


def rejection(
    log_density: LogDensity,
    proposal: Any,
    n: int,
    *,
    log_bound: float | None = None,
    max_proposals: int = 100_000_000,
    random_state: Any = None,
) -> Draws:
    """Draw independently and exactly, given a bound on log p - log q.

    If a proposal shows that the bound does not hold, the bound is raised to what was seen, the draws so far are thinned
    to fit it (each stays with probability old bound / new bound), a warning says by how much it was wrong, and so does
    the result: draws under a bound that was only seen, not known, are approximate.

    Args:
        log_density: log p up to a constant; takes points (m, D), returns (m,).
        proposal: q: a frozen distribution of ``scipy.stats``, a fitted model, or a pair of functions draw(n, generator)
            and log_density(x).
        n: how many draws.
        log_bound: log M, at least log p - log q everywhere; None guesses it from 10,000 proposals, which the result
            says.
        max_proposals: after so many it ends with what it has.
        random_state: seed of everything random.

    Raises:
        PlausibleError: nothing was accepted.

    Examples:
        >>> from scipy import stats
        >>> from plausible import sampling
        >>> triangle = sampling.rejection(lambda x: x[:, 0].log(), stats.uniform(), 1000, log_bound=0, random_state=0)
        >>> round(float(triangle.flat.mean()), 1), round(triangle.acceptance, 1)
        (0.7, 0.5)
    """
    n, max_proposals = count(n, "n"), count(max_proposals, "max_proposals")
    target = Target(log_density)
    rng, torch_rng = generators(random_state)
    propose = Proposal(proposal, rng, torch_rng)
    said: list[str] = []
    if log_bound is None:
        x, log_q = propose(PILOT)
        log_bound = float((target(x) - log_q).max())
        if log_bound == -np.inf:
            raise PlausibleError(f"the density is zero at all of {PILOT} proposals: they miss it")
        said.append(f"the bound {log_bound:.4g} was guessed from {PILOT} proposals: the draws are approximate")
    elif not np.isfinite(log_bound):
        raise DataError(f"log_bound must be finite, got {log_bound!r}")
    first_bound, tried, raised = log_bound, 0, 0.0
    kept: list[tuple[np.ndarray, ...]] = []
    have, size = 0, max(1000, n)
    try:
        while have < n and tried < max_proposals:
            x, log_q = propose(min(size, max_proposals - tried))
            log_p = target(x)
            log_ratio = log_p - log_q
            tried += len(x)
            over = log_ratio.max() - log_bound
            if over > SLACK:
                log_bound, raised = log_bound + over, raised + over
                kept = [_thinned(part, rng.random(len(part[0])) < np.exp(-over)) for part in kept]
            go = np.flatnonzero(np.log(rng.random(len(x))) < log_ratio - log_bound)
            kept.append((x[go], log_p[go]))
            have = sum(len(part[0]) for part in kept)
            size = int(min(max(1.2 * (n - have) * tried / max(have, 1), 1000), 1_000_000, tried * 10))
    except KeyboardInterrupt:
        said += interrupted(min(have, n), n)
    if not have:
        raise PlausibleError(
            f"none of {tried:,} proposals was accepted: the bound {log_bound:.4g} is far too high, or the proposal "
            "misses the density; use a chain (nuts, metropolis_hastings) instead"
        )
    if raised and first_bound != log_bound:
        said.append(
            f"log p - log q exceeded the bound {first_bound:.6g} by up to {raised:.3g}: the draws are approximate"
        )
        warnings.warn(f"rejection sampling: {said[-1]}; give a larger log_bound", PlausibleWarning, stacklevel=2)
    if have < n and not any(s.startswith("interrupted") for s in said):
        said.append(f"{have} of {n} draws after max_proposals={max_proposals:,}")
        warnings.warn(f"rejection sampling: {said[-1]}", PlausibleWarning, stacklevel=2)
    x, log_p = (np.concatenate(parts)[:n] for parts in zip(*kept, strict=True))
    settings = {"log_bound": log_bound, "proposals": tried}
    return Draws("rejection", x, log_p, have / tried, None, target.evaluations, settings, tuple(said))


def _thinned(part: tuple[np.ndarray, ...], stays: np.ndarray) -> tuple[np.ndarray, ...]:
    return tuple(a[stays] for a in part)


def importance(log_density: LogDensity, proposal: Any, n: int, *, random_state: Any = None) -> Weighted:
    """Draw from a proposal and weigh: expectations under the density, its normaliser, and how much the draws are worth.

    Args:
        log_density: log p up to a constant; takes points (n, D), returns (n,).
        proposal: q, as in `rejection`; it must be positive wherever p is, with heavier tails.
        n: how many draws.
        random_state: seed of everything random.

    Raises:
        PlausibleError: the density is zero at all draws.

    Examples:
        >>> from scipy import stats
        >>> from plausible import sampling
        >>> draws = sampling.importance(lambda x: -0.5 * (x[:, 0] - 1) ** 2, stats.t(4), 20_000, random_state=0)
        >>> mean, error = draws.expect()
        >>> bool(abs(mean[0] - 1) < 4 * error[0]), round(draws.log_normaliser[0], 1)  # log of the root of 2 pi
        (True, 0.9)
    """
    n = count(n, "n", 2)
    target = Target(log_density)
    x, log_q = Proposal(proposal, *generators(random_state))(n)
    log_p = target(x)
    log_w = log_p - log_q
    if log_w.max() == -np.inf:
        raise PlausibleError(f"the density is zero at all of {n} draws: the proposal misses it")
    return Weighted("importance", x, log_p, 1.0, None, target.evaluations, {}, (), log_weights=log_w)
