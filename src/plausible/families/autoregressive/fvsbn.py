r"""Fully visible sigmoid belief network: every conditional is a (generalised) linear model of the dimensions before it.

    p(x_d | x_<d) = head_d(b_d + sum_{i<d} W_di f(x_i))

For bits with f(x) = 2 x - 1 these are D logistic regressions; levels, counts and reals have the heads of the package.
The D regressions are one masked matrix product. The loss has a penalty on the weights,

    - log p(x) + lambda / n sum s_i |W_di|    or    - log p(x) + lambda / (2 n) sum (s_i W_di)^2

where s_i is the deviation of f(x_i), as if columns were standardised: a rare bit may speak as loud as a common one.
lambda is chosen on held-out examples from large to small, each fit starting from the one before; the last fit has the
penalty at the lowest point of a parabola through the best three, and all examples. For bits the problem is convex: what
differs between the fits is the penalty alone, and early stopping has nothing to do.

With S orderings the model is their mixture, p(x) = 1/S sum_s p_s(x), each with weights of its own. The penalty is
chosen in the natural one, and the last fit is of all.

Expected: 97.4 nats on fixed binarised MNIST (published 97.45, Gan et al., 2015); dna 79.6, bbc 236.3 and
nips 271.6 with 8 orderings (`benchmarks/binary_density.py`).

References: Neal, Connectionist learning of belief networks, 1992. Frey, Hinton and Dayan, Does the wake-sleep algorithm
produce good density estimators?, 1996.
"""

from __future__ import annotations

import copy
import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from sklearn.utils.validation import check_is_fitted
from torch import nn

from plausible.base import Module, Traits
from plausible.errors import BudgetWarning, DivergedError
from plausible.families.autoregressive import _fused
from plausible.families.autoregressive._orderings import Orderings, position, refuse_text
from plausible.heads import Heads
from plausible.neural import SEEN_FIRST, Neural
from plausible.nn.compiled import usable
from plausible.options import OptionError, estimator, option
from plausible.space import Space
from plausible.training import Events, History, copied_state

PENALTIES = (300.0, 100.0, 30.0, 10.0, 3.0, 1.0, 0.3, 0.1)  # lambda to choose from
LEAST_SPREAD = 0.1  # a column that hardly varies would have weights of any size
STEPS, FEWEST_EPOCHS, MOST_EPOCHS = 1000, 10, 100  # of one fit with epochs='auto'; the last has four times as many


@dataclass
class _State:
    params: torch.Tensor  # (P, n): sums over the dimensions given so far
    weight: torch.Tensor  # (P, F), masked; of the ordering
    order: list[int]
    natural: bool  # whether that is the order in which they stand
    k: int = 0  # dimensions given so far


class _FVSBN(Orderings):
    """Legend: n examples, D dimensions, F input features, P parameters of all heads, S orderings."""

    def __init__(self, space: Space, n_context: int, components: int, orderings: int = 1, norm: str = "l1"):
        super().__init__()
        self.dims, self.orderings, self.norm, self.looked = space.dims, orderings, norm, False
        self.heads = Heads(space, components)
        self.bits = space.kinds == {"binary"}
        size, n_features = self.heads.size, self.heads.n_features
        self.weight = nn.Parameter(torch.zeros(orderings, size, n_features))
        self.bias = nn.Parameter(self.heads.initial().repeat(orderings, 1))
        self.of_context = nn.Linear(n_context, orderings * size, bias=False) if n_context else None
        if n_context:
            nn.init.normal_(self.of_context.weight, std=0.01)
        at = torch.stack([position(space.dims, s) for s in range(orderings)])
        mask = at[:, self.heads.owner, None] > at[:, None, self.heads.source]
        self.register_buffer("mask", mask.to(torch.float32), persistent=False)  # (S, P, F)
        self.register_buffer("penalty", torch.zeros((), dtype=torch.float64))  # lambda
        self.register_buffer("spread", torch.ones(n_features), persistent=False)  # s
        self.per_example = 0.0  # lambda / n
        self.n_active = orderings  # the first so many are trained

    @property
    def n_masked(self) -> int:
        """Weights that are multiplied by zero."""
        return int((self.mask == 0).sum())

    def look(self, z, weight=None):
        """Start from the product of the columns; a later fit starts where the one before ended."""
        if not self.looked:
            self.looked = True
            with torch.no_grad():
                self.bias.copy_(self.heads.marginal(z.flatten(1)))
                self.spread.copy_(self.heads.features(z.flatten(1)).std(0, correction=0).clamp_min(LEAST_SPREAD))

    def largest_penalty(self, z: torch.Tensor) -> float:
        """Return the lambda / n from which on an l1 penalty leaves no weight: the steepest slope where all are zero."""
        if self.norm == "l2":
            return math.inf
        slope = torch.autograd.grad(self.log_prob_in_order(z).mean(), self.weight)[0][0]
        return float((slope.abs() / self.spread).max())

    def penalise(self, penalty: float, n: float) -> None:
        """Have lambda = `penalty` in the loss of n examples."""
        self.penalty.fill_(penalty)
        self.per_example = penalty / n

    def _biases(self, n: int, c: torch.Tensor | None) -> torch.Tensor:
        """Of all orderings, (n, S, P)."""
        own = self.bias.expand(n, -1, -1)
        return own if c is None else own + self.of_context(c).unflatten(1, self.bias.shape)

    def conditionals(self, z, c=None, s=0):
        x = self.heads.features(z.flatten(1))
        return torch.addmm(self._biases(len(x), c)[:, s], x, (self.weight[s] * self.mask[s]).T)

    def loss(self, z, c=None, *, rng=None):
        """Of the orderings that are trained, on average."""
        z, k = z.flatten(1), self.n_active
        weight = (self.weight * self.mask)[:k]
        params = (self.heads.features(z) @ weight.flatten(0, 1).T).unflatten(1, (k, -1))  # (n, k, P)
        params = params + self._biases(len(z), c)[:, :k]
        loss = -self.heads.log_prob(params.flatten(0, 1), z.repeat_interleave(k, 0)).sum(1).view(-1, k).mean(1)
        if self.training and self.per_example:
            weight = weight * self.spread
            size = weight.abs().sum() if self.norm == "l1" else 0.5 * weight.square().sum()
            loss = loss + self.per_example / k * size
        return loss

    def start(self, n, c=None, s=0):
        return _State(self._biases(n, c)[:, s].T.clone(), self.weight[s] * self.mask[s], self.order_of(s), s == 0)

    def step(self, state, value=None):
        if value is not None:
            head, rows, columns = self.heads.single(state.order[state.k])
            x = head.features(value[:, None]).T  # (F_d, n)
            state.k += 1
            if state.natural and len(self.heads.heads) == 1:  # parameters of later dimensions lie behind these
                state.params[rows.stop :].addmm_(state.weight[rows.stop :, columns], x)
            else:
                state.params.addmm_(state.weight[:, columns], x)
        return state.params[self.heads.single(state.order[state.k])[1]].T

    def from_uniforms(self, u, c=None, known=None, s=0):
        if not (self.bits and usable(self.weight)):
            return super().from_uniforms(u, c, known, s)
        bias = self._biases(len(u), c)[:, s]
        return _fused.sample_masked(u[..., 0], known, self.order_of(s), [self.weight[s]], [bias])


@estimator
class FVSBN(Neural):
    """Fully visible sigmoid belief network: linear conditionals, one after the other; exact.

    References: Neal, Connectionist learning of belief networks, 1992; Frey, Hinton and Dayan, 1996.

    Examples:
        >>> import numpy as np, plausible as pl
        >>> bits = np.random.default_rng(0).integers(0, 2, (2000, 1)) ^ np.array([[0, 1, 0]])
        >>> model = pl.FVSBN(random_state=0).fit(bits)
        >>> round(model.score(bits), 1)  # three copies of one fair coin: -log 2
        -0.7
    """

    penalty: float | str = option(
        "auto",
        "lambda, or 'auto' to choose it on held-out examples; without any there is none then",
        choices=("auto",),
        low=0,
    )
    norm: str = option("l1", "of the weights in the penalty: 'l1' wants few, 'l2' small ones", choices=("l1", "l2"))
    orderings: int = option(1, "orderings whose probabilities are averaged, each with weights of its own", low=1)
    components: int = option(10, "mixture components of real, count and many-levelled columns", low=1)
    epochs: int | str = option(
        "auto",
        f"passes for each penalty, at most; 'auto' for those of {STEPS:,} steps, {FEWEST_EPOCHS} to {MOST_EPOCHS}, "
        "and four times as many in the end",
        choices=("auto",),
        low=1,
    )
    learning_rate: float | str = option(
        "auto", "of Adam, at the start; 'auto' is 8 by the number of features, at most 0.05", choices=("auto",), above=0
    )
    patience: int | None = option(
        None, "looks at the held-out loss without improvement before stopping", low=1, choices=(None,)
    )

    traits = Traits(
        density="exact",
        events=frozenset({"table", "image", "text", "series"}),
        context=True,
        conditionals=True,
        streams=True,
        given="in_order",
    )

    @property
    def penalty_(self) -> float:
        """The lambda of the last fit."""
        check_is_fitted(self, "module_")
        return float(self.module_.penalty)

    def _build(self, space: Space, context_space: Space) -> Module:
        refuse_text("FVSBN", self.orderings, self.space_)
        return _FVSBN(space, context_space.dims, self.components, self.orderings, self.norm)

    def _step(self, module: Module) -> Callable:
        if self.learning_rate != "auto":
            return super()._step(module)
        return self._minimise(module, learning_rate=min(0.05, 8 / module.heads.n_features))  # all weights move by it

    def _train(self, module: Module, train: Events, held_out: Events | None, rng: torch.Generator) -> History:
        if self.penalty != "auto" or held_out is None:
            module.penalty.fill_(0.0 if self.penalty == "auto" else self.penalty)
            return self._fit_once(module, train, held_out, rng, refit=self.refit)
        if self.checkpoint is not None:
            raise OptionError("a checkpoint holds one fit; give the penalty as a number to use one")
        return _Search(self, module, train, held_out, rng)()

    def _run(self, module, train, held_out, rng, epochs, budget):
        module.penalise(float(module.penalty), _size(train))
        return super()._run(module, train, held_out, rng, epochs, budget)

    def _fit_once(self, module, train, held_out, rng, last: bool = True, **changes) -> History:
        """Fit with the penalty that the module has; `changes` are made to the settings."""
        one, changes = copy.copy(self), {"refit": False} | changes
        if self.epochs == "auto":
            epochs = -(-STEPS // max(train.n_batches(self.batch_size), 1))
            changes["epochs"] = min(max(epochs, FEWEST_EPOCHS), MOST_EPOCHS) * (4 if last else 1)
        for name, value in changes.items():
            setattr(one, name, value)
        return super(FVSBN, one)._train(module, train, held_out, rng)


class _Search:
    """Fits with ever smaller penalties, until the held-out loss gets worse; then a fit of all examples."""

    def __init__(self, model: FVSBN, module: Module, train: Events, held_out: Events, rng: torch.Generator):
        self.model, self.module, self.train, self.held_out, self.rng = model, module, train, held_out, rng
        self.so_far = History()
        self.left, self.fits_left = model.budget, len(PENALTIES) + 1

    def __call__(self) -> History:
        losses, best, state, interrupted = [], None, None, False
        self.module.n_active = 1  # what suits the natural ordering suits the others
        penalties = self._penalties()
        for penalty in penalties:
            try:
                history = self._fit(penalty, self.train, self.held_out)
            except DivergedError:
                if best is None:
                    raise
                break
            losses.append(history.best)
            better, interrupted = best is None or history.best < best.best, history.stopped == "interrupted"
            if better:
                best, state = history, copied_state(self.module)
            if interrupted or not better:
                break
        self.module.load_state_dict(state)
        self.module.n_active = self.module.orderings
        if interrupted:
            best.stopped = "interrupted"
        else:
            best = self._last(_lowest(losses, penalties)) or best
        best.rows = self.so_far.rows
        return best

    def _penalties(self) -> list[float]:
        """Those with which a weight is left: without one, fits differ by the noise of their steps alone."""
        z = self.train.take(torch.arange(min(len(self.train.x), SEEN_FIRST), device=self.train.x.device), self.rng).z
        self.module.look(z)
        largest = self.module.largest_penalty(z) * _size(self.train)
        return [penalty for penalty in PENALTIES if penalty < largest] or [PENALTIES[-1]]

    def _last(self, penalty: float) -> History | None:
        """Fit all orderings to all examples, or to those that are not held out where something has to stop it."""
        self.fits_left = 1
        if isinstance(self.train, Events) and self.module.context_encoder is None:
            return self._fit(penalty, self.train.joined(self.held_out), None)
        # The encoder of a context can overfit; what is read in chunks has no end to join.
        return self._fit(penalty, self.train, self.held_out) if self.module.orderings > 1 else None

    def _fit(self, penalty: float, train: Events, held_out: Events | None) -> History:
        self.module.penalty.fill_(penalty)
        last = self.fits_left == 1
        budget = None if self.left is None else max(self.left / self.fits_left, 1e-3)
        with warnings.catch_warnings():
            if self.so_far.rows:  # the first fit has said it
                warnings.simplefilter("ignore", BudgetWarning)
            history = self.model._fit_once(self.module, train, held_out, self.rng, last, budget=budget)
        self.left, self.fits_left = None if self.left is None else self.left - history.seconds, self.fits_left - 1
        self.so_far.append(history)
        history.kept_epoch = self.so_far.kept_epoch
        return history


def _lowest(losses: list[float], penalties: Sequence[float]) -> float:
    """The penalty, on a logarithmic scale, where the parabola through the best of the losses and its two neighbours is
    lowest; that of the best where it has only one."""
    k = min(range(len(losses)), key=losses.__getitem__)
    if not 0 < k < len(losses) - 1:
        return penalties[k]
    x, y = [math.log(p) for p in penalties[k - 1 : k + 2]], losses[k - 1 : k + 2]
    left, right = (y[1] - y[0]) / (x[1] - x[0]), (y[2] - y[1]) / (x[2] - x[1])
    curve = (right - left) / (x[2] - x[0])
    if not curve > 0:
        return penalties[k]
    lowest = 0.5 * (x[0] + x[1]) - left / (2 * curve)
    return math.exp(min(max(lowest, x[2]), x[0]))


def _size(events: Events) -> float:
    """The number of examples, by weight."""
    weight = getattr(events, "weight", None)
    return len(events) if weight is None else float(weight.sum())
