r"""Given a part of an example, where the family has no exact answer: weighted proposals, or a chain.

    importance    a_i ~ q(a | b) with weights w_i,    E[w f(a)] = p(b) E[f(a) | b]
                  a draw is a_i with probability w_i / sum w,    p(b) ~ mean of w,    ESS = (sum w)^2 / sum w^2
    chain         Markov chains on p(a, b) over a, by `plausible.uses.chains`

What proposes is a capability of the module (``propose_given``): an autoregressive net runs its own conditionals with
the known cells held, a model with a latent code proposes codes by its encoder. The draws are approximate, and say how
good: with an effective sample size (ESS) of k, a draw is one of about k values.

References: Rubin, Using the SIR algorithm to simulate posterior distributions, 1988. Kong, Liu and Wong, Sequential
imputations and Bayesian missing data problems, 1994. Mattei and Frellsen, MIWAE, 2019, https://arxiv.org/abs/1812.02633
"""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch

from plausible import registry
from plausible.base import ROWS_AT_ONCE
from plausible.errors import CapabilityError, DataError, PlausibleWarning
from plausible.randomness import seed_of, uniform
from plausible.uses import chains
from plausible.uses._parts import EXACTLY

Method = Literal["exact", "importance", "chain"]
PROPOSALS = 500  # for each example in a round
ENOUGH = 100  # effective proposals of an example after which no further round follows
ROUNDS = 16  # at most
FEW = 10  # effective draws below which a result warns
CHAINS, CHAIN_DRAWS = 4, 250  # for each example, at least


@dataclass(frozen=True, repr=False)
class Given:
    """Completed examples, and how they were drawn.

    Attributes:
        examples: like those the model was fitted on, complete; a list of them if several were asked for.
        method: 'exact', 'importance' or 'chain'.
        effective_sample_size: of each example: how many independent draws the proposals or the chain are worth;
            infinite where exact.
        acceptance: of each example, the share of a chain's moves that were accepted; None without a chain.
    """

    examples: Any
    method: Method
    effective_sample_size: np.ndarray
    acceptance: np.ndarray | None = None

    @property
    def kind(self) -> Literal["exact", "approximate"]:
        return "exact" if self.method == "exact" else "approximate"

    def __repr__(self) -> str:
        if self.kind == "exact":
            return f"exact draws of the model given the known cells of {len(self.effective_sample_size)} examples"
        ess = self.effective_sample_size
        how = {"importance": "weighted proposals", "chain": "Markov chains"}[self.method]
        moves = "" if self.acceptance is None else f", acceptance {np.mean(self.acceptance):.2f}"
        size = f"{np.median(ess):.0f} ({ess.min():.0f} to {ess.max():.0f})"
        return f"approximate, by {how}: effective sample size of an example {size}{moves}"


@dataclass(frozen=True, repr=False)
class LogProb:
    """log p(rest | known) of examples, (n,) each, in nats.

    Attributes:
        values: the logarithms.
        standard_error: of each; zero where exact.
        kind: 'exact' or 'estimate'.
        effective_sample_size: of the proposals behind each; infinite where exact.
    """

    values: np.ndarray
    standard_error: np.ndarray
    kind: Literal["exact", "estimate"]
    effective_sample_size: np.ndarray

    def __repr__(self) -> str:
        if self.kind == "exact":
            return f"exact log-probabilities of {len(self.values)} examples, mean {self.values.mean():.4g} nats"
        return (
            f"estimated log-probabilities of {len(self.values)} examples, mean {self.values.mean():.4g} nats, standard "
            f"error of one {np.median(self.standard_error):.2g} ({self.standard_error.max():.2g} at most)"
        )


def way(model: Any, x: torch.Tensor) -> Method:
    """Return the first method by which codes, with NaN where to draw, can be completed.

    Raises:
        CapabilityError: there is none; the message says which families have one.
    """
    if model.traits.given in EXACTLY and model.likelihood_kind_ == "exact":
        if model.traits.given == "exact" or hasattr(model.module_, "log_prob_given"):
            return "exact"
        try:
            model.module_.require_order(x)
            return "exact"
        except DataError:
            pass  # known cells come after unknown ones
    method: Method = "importance" if _proposes(model) else "chain"
    refuse(model, method)
    return method


def refuse(model: Any, method: Method) -> None:
    """Refuse a method that does not fit the model.

    Raises:
        CapabilityError: the message says which families can.
    """
    if method == "importance" and not _proposes(model) and _has_chain(model):
        able = registry.capable(lambda f: f.traits.given in ("in_order", "approximate"))
        raise CapabilityError(
            f"{type(model).__name__} proposes no completions that could be weighed; method='chain' does without. "
            f"These families propose some: {', '.join(able)}"
        )
    if not (_proposes(model) if method == "importance" else _has_chain(model)):
        exact = registry.capable(lambda f: f.traits.given in EXACTLY)
        nearly = registry.capable(lambda f: f.traits.given == "approximate" or f.traits.density == "exact")
        density = {None: "not there", "lower_bound": "a lower bound", "upper_bound": "an upper bound"}
        raise CapabilityError(
            f"{type(model).__name__} cannot draw a part of an example given the rest by this method: the density of "
            f"this one is {density.get(model.likelihood_kind_, 'no target of a chain')}. These families can, exactly: "
            f"{', '.join(exact)}; approximately: {', '.join(n for n in nearly if n not in exact)}"
        )


def draw(
    model: Any, x: torch.Tensor, holes: torch.Tensor, c: torch.Tensor | None, n: int, method: Method, rng
) -> tuple[list[torch.Tensor], np.ndarray, np.ndarray | None]:
    """Complete codes x (m, \\*shape) at the holes, n times: the completions, effective sizes (m,), acceptance (m,)."""
    if method == "chain":
        return _by_chains(model, x, c, n, rng)
    kept, size, _ = _weigh(model, x, holes, c, n, rng)
    if (size < FEW).any():
        warnings.warn(
            f"the draws given what is known of {int((size < FEW).sum())} of {len(x)} examples come from few proposals "
            f"(effective sample size {size.min():.1f}); method='chain' may do better",
            PlausibleWarning,
            stacklevel=4,
        )
    return list(kept.unbind(1)), size, None


def log_prob(
    model: Any, x: torch.Tensor, known: torch.Tensor, c: torch.Tensor | None, rng
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Estimate log p(rest | known) of codes x: values, standard errors and effective sizes, (m,) each."""
    nothing = torch.zeros_like(known)
    _, whole_size, whole = _weigh(model, x, nothing, c, 0, rng)
    part = torch.where(known, x, torch.nan)
    _, size, marginal = _weigh(model, part, _before_known(part), c, 0, rng)
    values = (whole[:, 0] - marginal[:, 0]).cpu().numpy()
    error = (whole[:, 1] + marginal[:, 1]).sqrt().cpu().numpy()
    return values, error, np.minimum(size, whole_size)


def propose(
    model: Any, module: Any, x: torch.Tensor, holes: torch.Tensor, c: torch.Tensor | None, rng
) -> tuple[torch.Tensor, torch.Tensor]:
    """A weighted completion of each of codes x: (m, \\*shape), and log w (m,), E[w] = p(what is known of x)."""
    with torch.no_grad():
        z, log_c = model.transforms_(x, rng)
        filled, log_w = module.propose_given(z.to(module.dtype), None if c is None else c.to(module.dtype), rng=rng)
        drawn = model.transforms_.inverse(filled.reshape(z.shape).double(), rng)
    log_w = log_w.double() + log_c
    if model.space_.type == "text" and model.space_.end:  # a blank is a character, and not the end
        ended = (drawn == len(model.space_.columns[0].levels) - 1) & holes
        log_w = torch.where(ended.flatten(1).any(1), -torch.inf, log_w)
    return torch.where(holes, drawn, x), log_w


def _before_known(x: torch.Tensor) -> torch.Tensor:
    """Where codes are missing before a known one: of a text, where its end cannot be."""
    known = ~x.flatten(1).isnan()
    later = known.flip(1).cumsum(1).flip(1) > 0
    return (later & ~known).reshape(x.shape)


def _proposes(model: Any) -> bool:
    return hasattr(model.module_, "propose_given") and not model.transforms_.stochastic


def _has_chain(model: Any) -> bool:
    return model.traits.density == "exact" and model.likelihood_kind_ == "exact" and model.space_.type != "text"


def _weigh(
    model: Any, x: torch.Tensor, holes: torch.Tensor, c: torch.Tensor | None, n: int, rng
) -> tuple[torch.Tensor, np.ndarray, torch.Tensor]:
    """Propose, round after round, until the effective size of every example is large enough.

    Returns:
        n picks by weight of each example (m, n, \\*shape), effective sizes (m,), and log of the mean weight with its
        variance (m, 2).
    """
    module, m = model._evaluator(), len(x)
    kept = x[:, None].expand(m, n, *x.shape[1:]).clone()
    first = torch.full((m,), -torch.inf, dtype=torch.float64, device=x.device)  # log of the sum of the weights
    second, count = first.clone(), torch.zeros_like(first)  # of the sum of their squares; proposals
    at_once = max(1, ROWS_AT_ONCE // (PROPOSALS * model.space_.dims))
    for _ in range(ROUNDS):
        wanting = (first.isinf() | (2 * first - second < math.log(ENOUGH))).nonzero()[:, 0]
        if not len(wanting):
            break
        for rows in wanting.split(at_once):
            many = x[rows].repeat_interleave(PROPOSALS, 0)
            own = None if c is None else c[rows].repeat_interleave(PROPOSALS, 0)
            filled, log_w = propose(model, module, many, holes[rows].repeat_interleave(PROPOSALS, 0), own, rng)
            log_w = log_w.reshape(len(rows), PROPOSALS)
            total = log_w.logsumexp(1)
            before, first[rows] = first[rows], torch.logaddexp(first[rows], total)
            second[rows] = torch.logaddexp(second[rows], (2 * log_w).logsumexp(1))
            count[rows] += PROPOSALS
            if n:
                possible = total > -torch.inf
                picks = _pick(torch.where(possible[:, None], log_w, 0.0), n, rng)  # (rows, n)
                new = filled.reshape(len(rows), PROPOSALS, -1)
                new = new.gather(1, picks[..., None].expand(-1, -1, new.shape[2])).reshape(kept[rows].shape)
                take = (total - torch.logaddexp(before, total)).exp().nan_to_num(0.0)[:, None]  # their share of all
                take = (uniform(rng, (len(rows), n), take) < take) & possible[:, None]
                kept[rows] = torch.where(take.reshape(*take.shape, *[1] * (x.dim() - 1)), new, kept[rows])
    if bool(first.isinf().any()):
        row = int(first.isinf().nonzero()[0])
        raise DataError(
            f"what is known of example {row} has probability zero under the model, or next to it: none of "
            f"{int(count[row]):,} proposals agrees with it"
        )
    size = (2 * first - second).exp()
    # of w, var(mean w) / (mean w)^2 = (1 / ESS - 1 / N) to first order; that is the variance of log mean w
    moments = torch.stack([first - count.log(), (1 / size - 1 / count).clamp_min(0)], 1)
    return kept, size.cpu().numpy(), moments


def _pick(log_w: torch.Tensor, n: int, rng) -> torch.Tensor:
    """n places of each row of log_w (m, k), by weight: (m, n)."""
    below = log_w.softmax(1).cumsum(1)
    u = uniform(rng, (len(log_w), n), below) * below[:, -1:]
    return torch.searchsorted(below, u, right=True).clamp_max(log_w.shape[1] - 1)


def _by_chains(model: Any, x: torch.Tensor, c: torch.Tensor | None, n: int, rng):
    """Chains of their own for each example: (completions, effective sizes, acceptance)."""
    draws = torch.empty(n, *x.shape, dtype=torch.float64, device=x.device)
    size, acceptance = np.empty(len(x)), np.empty(len(x))
    for i, row in enumerate(x):
        if not row.isnan().any():
            draws[:, i], size[i], acceptance[i] = row, np.inf, 1.0
            continue
        goal = chains.ModelTarget(model, row[None], features=None if c is None else c[i : i + 1])
        found = chains.run(goal, max(CHAIN_DRAWS, -(-n // CHAINS)), chains=CHAINS, random_state=seed_of(rng))
        flat = found.flat[np.linspace(0, len(found.flat) - 1, n).round().astype(int)]  # spread over all chains
        draws[:, i] = goal.codes_of(flat, random_state=seed_of(rng))
        size[i], acceptance[i] = np.min(found.ess()), np.mean(found.acceptance)
    return list(draws), size, acceptance
