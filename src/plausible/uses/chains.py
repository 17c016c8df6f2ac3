r"""Markov chains on a fitted model: any exact density is a target, whole or with some cells of an example known.

    a ~ p(a | b) ∝ p(a, b),    a = the cells that are not known

The chain moves in model space, where reals are standardised and have no bounds: by NUTS if all free cells are real and
the density has a gradient, by random-walk Metropolis if it has none, by Gibbs over levels (with Metropolis steps for
counts and reals between them) if some cell is discrete. What it draws is approximate, and says how good: acceptance,
effective sample size, R-hat. A family with exact conditionals needs no chain: ask `plausible.uses.given`.

    from plausible.uses import chains
    found = chains.sample(model, 1000, pd.DataFrame({"age": [40]}))    # p(the other columns | age = 40)
    found.examples, found.draws
    sampling.parallel_tempering(t := chains.target(model), t.start(4), 1000)    # any sampler on the same target
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from sklearn.utils.validation import check_is_fitted

from plausible import sampling
from plausible.errors import CapabilityError, DataError
from plausible.randomness import generator, seed_of
from plausible.uses._parts import as_mask, with_all_columns

STARTS = 20  # draws of the model, the likeliest of which begins a chain
Method = Literal["nuts", "metropolis_hastings", "mala", "gibbs"]


class ModelTarget:
    """log p(free cells, known cells) of a fitted model, as a function of the F free cells: (n, F) -> (n,).

    Attributes:
        levels: of each free cell what `sampling.gibbs_discrete` asks for: a number of levels, 'integer', or None for
            reals.
        names: of the free cells.
    """

    def __init__(
        self,
        model: Any,
        known: Any = None,
        *,
        mask: Any = None,
        context: Any = None,
        features: torch.Tensor | None = None,
    ):
        check_is_fitted(model, "module_")
        if model.traits.density != "exact":
            raise CapabilityError(
                f"the density of {type(model).__name__} is {model.traits.density or 'not there'}: a chain on it would "
                "not converge to the model"
            )
        self.model, self.module = model, model._evaluator()
        space = model.space_
        for t in model.transforms_.steps:
            space = t.output(space)
        self.space = space
        self.codes = self._codes(known, mask)
        if self.codes is None:
            z = torch.full((1, *space.shape), torch.nan, dtype=torch.float64)
        else:
            z = model.transforms_(self.codes)[0].double()
        z = z.reshape(1, -1)
        if z.shape[1] != space.dims:
            raise CapabilityError(f"the space of this {type(model).__name__} does not match its columns")
        self.free = z[0].isnan().nonzero()[:, 0]
        if not len(self.free):
            raise DataError("all cells are known: there is nothing to draw")
        columns = [space.columns[int(d)] for d in self.free]
        self.names = [c.name for c in columns]
        self.levels = [c.n_levels if c.levels else "integer" if c.discrete else None for c in columns]
        device = model._device()
        self.known = z[0].to(device)
        self.unit = torch.tensor([c.step if c.kind == "count" else 1.0 for c in columns], dtype=torch.float64)
        bounds = [(c.low, c.high) if c.kind == "count" else (None, None) for c in columns]
        self.low = torch.tensor([-np.inf if b[0] is None else b[0] for b in bounds], dtype=torch.float64) - 1e-9
        self.high = torch.tensor([np.inf if b[1] is None else b[1] for b in bounds], dtype=torch.float64) + 1e-9
        self.c = model._encode_context(context, 1) if features is None else features

    def _codes(self, known: Any, mask: Any) -> torch.Tensor | None:
        if known is None:
            return None
        model = self.model
        if model.likelihood_kind_ != "exact":
            raise CapabilityError(
                f"this {type(model).__name__} adds noise to discrete cells before it models them; a chain cannot hold "
                "such a cell at a known value"
            )
        if not isinstance(known, torch.Tensor):  # codes are as they are
            known = model.space_.encode(with_all_columns(model.space_, known))
        x = known.double().to(model._device())
        if mask is not None:
            x = torch.where(as_mask(model.space_, mask, x), torch.nan, x)
        if len(x) != 1:
            raise DataError(f"a chain is run on one partly known example, got {len(x)}; run one for each")
        return x

    def __call__(self, free: torch.Tensor) -> torch.Tensor:
        z = self._whole(free)
        c = None if self.c is None else self.c.expand(len(z), -1).to(self.module.dtype)
        log_p = self.module.log_prob(z.to(self.module.dtype), c).double().cpu()
        if not self._bounded:
            return log_p
        scaled = free * self.unit
        return torch.where(((scaled >= self.low) & (scaled <= self.high)).all(1), log_p, -torch.inf)

    @property
    def _bounded(self) -> bool:
        return bool(self.low.isfinite().any() | self.high.isfinite().any())

    def _whole(self, free: torch.Tensor) -> torch.Tensor:
        """Examples in model space, (n, *shape), with the known cells in their places."""
        z = self.known.expand(len(free), -1).clone()
        z[:, self.free] = (free * self.unit).to(z.device)
        return z.reshape(len(free), *self.space.shape)

    def start(self, n: int, *, random_state: Any = None) -> np.ndarray:
        """Return n points (n, F) to begin at: of some draws of the model for each, the likeliest with the known cells.

        Raises:
            DataError: none of the draws is possible together with the known cells.
        """
        rng = generator(random_state, self.known.device)
        with torch.no_grad():
            c = None if self.c is None else self.c.expand(n * STARTS, -1).to(self.module.dtype)
            z = self.module.sample(n * STARTS, c, rng=rng).reshape(n * STARTS, -1).double()
            free = z[:, self.free].cpu() / self.unit
            whole = torch.tensor([entry is not None for entry in self.levels])
            free = torch.where(whole, free.round(), free)
            log_p = self(free).reshape(n, STARTS)
        if bool((log_p.amax(1) == -torch.inf).any()):
            raise DataError("no draw of the model agrees with the known cells: their probability is zero or tiny")
        best = log_p.argmax(1)
        return free.reshape(n, STARTS, -1)[torch.arange(n), best].numpy()

    def decode(self, free: Any, *, random_state: Any = None) -> Any:
        """Return the examples that free cells (n, F) make, as the model's data: the known cells bit for bit."""
        return self.model.space_.decode(self.codes_of(free, random_state=random_state))

    def codes_of(self, free: Any, *, random_state: Any = None) -> torch.Tensor:
        """Return the codes (n, \\*shape) of the examples that free cells (n, F) make."""
        rng = generator(random_state, self.known.device)
        with torch.no_grad():
            x = self.model.transforms_.inverse(self._whole(torch.as_tensor(np.asarray(free))).double(), rng)
        if self.codes is not None:
            x = torch.where(self.codes.isnan(), x, self.codes)
        return x


def target(model: Any, known: Any = None, *, mask: Any = None, context: Any = None) -> ModelTarget:
    """Return the density of a fitted model as a target for the functions of `plausible.sampling`.

    Args:
        model: fitted, of a family whose density is exact.
        known: one example, like those it was fitted on, with NaN or None in the cells to be drawn; of a table, columns
            that are unknown may be left out. None draws whole examples.
        mask: True marks further cells to be drawn, with the shape of one example: images hold no NaN.
        context: one row, as in `fit`.

    Raises:
        CapabilityError: the density is a bound, an estimate, or not there.
    """
    return ModelTarget(model, known, mask=mask, context=context)


@dataclass(frozen=True, repr=False)
class Sampled:
    """What a chain on a model drew.

    Args:
        examples: like those the model was fitted on: all draws of the first chain, then those of the second, ...
        draws: the same in model space, with acceptance, effective sample size and R-hat; free cells only.
        names: of the free cells.
    """

    examples: Any
    draws: sampling.Draws
    names: list[str]

    def summary(self):
        """Return the table of `sampling.Draws.summary`, in model space."""
        return self.draws.summary(self.names)

    def __repr__(self) -> str:
        return f"approximate, by Markov chains. {self.draws!r}"


def sample(
    model: Any,
    n: int,
    known: Any = None,
    *,
    mask: Any = None,
    context: Any = None,
    method: Method | None = None,
    chains: int = 4,
    warmup: int | None = None,
    thin: int = 1,
    random_state: Any = None,
) -> Sampled:
    """Draw the cells that are not known from p(unknown | known), by Markov chains on the model's density.

    Args:
        n: draws of each chain.
        method: the sampler; None takes the first of those above that fits.
        chains: how many.
        warmup: steps of each chain that are thrown away; None leaves it to the sampler.
        thin: steps from draw to draw (not of NUTS).
        random_state: seed of everything random.
        model, known, mask, context: as for `target`.

    Raises:
        CapabilityError: the density is a bound, an estimate, or not there.
        DataError: the known cells are impossible under the model, or the method does not fit the free cells.
    """
    rng = generator(random_state)
    goal = target(model, known, mask=mask, context=context)
    draws = run(goal, n, method=method, chains=chains, warmup=warmup, thin=thin, random_state=seed_of(rng))
    return Sampled(goal.decode(draws.flat, random_state=seed_of(rng)), draws, goal.names)


def run(
    goal: ModelTarget,
    n: int,
    *,
    method: Method | None = None,
    chains: int = 4,
    warmup: int | None = None,
    thin: int = 1,
    random_state: Any = None,
) -> sampling.Draws:
    """Run the chains of `sample` on a target; return what they drew of its free cells, in model space."""
    rng = generator(random_state)
    start = goal.start(chains, random_state=seed_of(rng))
    discrete = any(entry is not None for entry in goal.levels)
    if method is None:
        method = "gibbs" if discrete else "nuts" if _has_gradient(goal, start) else "metropolis_hastings"
    if method not in ("nuts", "mala", "metropolis_hastings", "gibbs"):
        raise DataError(f"method must be 'nuts', 'mala', 'metropolis_hastings' or 'gibbs', got {method!r}")
    if discrete and method != "gibbs":
        cell = next(name for name, entry in zip(goal.names, goal.levels, strict=True) if entry is not None)
        raise DataError(f"{method} moves reals only, and {cell!r} is discrete; use method='gibbs'")
    settings = {"warmup": warmup, "random_state": seed_of(rng)}
    if method == "gibbs":
        return sampling.gibbs_discrete(goal, goal.levels, start, n, thin=thin, **settings)
    if method == "nuts":
        return sampling.nuts(goal, start, n, **settings)
    return getattr(sampling, method)(goal, start, n, thin=thin, **settings)


def _has_gradient(goal: ModelTarget, start: np.ndarray) -> bool:
    z = torch.from_numpy(start).clone().requires_grad_()
    with torch.enable_grad():
        log_p = goal(z)
    if not log_p.requires_grad:
        return False
    slope = torch.autograd.grad(log_p.sum(), z, allow_unused=True)[0]
    return slope is not None and bool(slope.isfinite().all() and (slope != 0).any())
