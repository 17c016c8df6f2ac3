"""The one face of every generative model: estimate (`fit`), evaluate (`log_prob`), sample.

The estimator here is the shell: it keeps the user's arguments, knows what an example is (`space_`), carries the
transforms between the user's units and the model's, and owns a plain ``torch.nn.Module`` (`module_`) that does the
mathematics in model space. A family writes ``_build`` and, where the defaults do not fit, ``_step`` and
``_transforms``.
"""

from __future__ import annotations

import copy
import hashlib
import math
import threading
import time
from collections.abc import Callable
from typing import Any, ClassVar, Literal, Self

import numpy as np
import torch
from sklearn.base import BaseEstimator, DensityMixin
from sklearn.utils.validation import _check_sample_weight, check_is_fitted, validate_data

from plausible import registry
from plausible.context import Encoder, as_rows, infer_context, transforms_of
from plausible.data.seen import Seen
from plausible.data.stream import Stream
from plausible.errors import CapabilityError, DataError
from plausible.heads import Heads
from plausible.module import Density, Module, Traits
from plausible.options import check_options, estimator, option
from plausible.randomness import RowNoise, generator, seed_of
from plausible.space import Column, Space, Table, infer
from plausible.space.matrix import as_matrix
from plausible.training import Chunks, Coded, Events, History, count, run
from plausible.transforms import Chain, Standardise, Transform

SAMPLERS = {"steps": "sample", "jacobi": "sample_at_once"}  # and the method of the module, which may lack the second
ROWS_AT_ONCE = 2_000_000  # values of model space evaluated or drawn in one go
_building = threading.RLock()  # initial weights come from torch's one global generator


class capability:
    """A method that does not exist where the family's traits do not have it; asking for it says what to use instead."""

    def __init__(self, has: Callable[[Traits], Any], otherwise: str):
        self.has, self.otherwise = has, otherwise

    def __call__(self, method: Callable) -> capability:
        self.method = method
        self.__doc__ = method.__doc__
        return self

    def __get__(self, model: Any, owner: type) -> Any:
        if not self.has(owner.traits):
            raise CapabilityError(f"{owner.__name__} {self.otherwise}")
        return self.method if model is None else self.method.__get__(model, owner)


def _has_density(method: Callable) -> capability:
    return capability(
        lambda traits: traits.density,
        "has no density, so log_prob and score do not exist; judge its samples against held-out data with "
        "plausible.compare, or fit a family that has a density (`plausible families` lists them)",
    )(method)


@estimator
class Generative(DensityMixin, BaseEstimator):
    """Base of all families."""

    random_state: Any = option(None, "seed of everything random in fit; None draws a fresh one")
    space: str | dict | Space | None = option(
        None, "overrides the guess of what an example is: 'table', 'image', 'series', 'text', 'audio' or {column: kind}"
    )
    context_space: str | dict | Space | None = option(None, "overrides the guess of what the context is, likewise")

    traits: ClassVar[Traits]

    # -------------------------------------------------------------------------------------- what a family writes

    def _build(self, space: Space, context_space: Space) -> Module:
        """Return the untrained module on the model's space; `context_space` has one real per feature of the context."""
        raise TypeError(f"{type(self).__name__} does not define _build")

    def _step(self, module: Module) -> Callable:
        """Return what the training loop repeats."""
        return count(module)

    def _transforms(self, space: Space) -> list[Transform]:
        """Return the transforms between the user's codes and the model's space."""
        return [Standardise()]

    def _train(self, module: Module, train: Events, held_out: Events | None, rng: torch.Generator) -> History:
        """Fit the module: by default, one pass over all events."""
        return run(self._step(module), train, epochs=1, batch_size=None, rng=rng, name=type(self).__name__)

    def _held_out_share(self) -> float:
        """Return the share of the examples kept back to watch the training."""
        return 0.0

    def _encoded_features(self) -> int | None:
        """Return how many features are learned of a context that is no table; None if this family learns none."""
        return None

    # ------------------------------------------------------------------------------------------------- estimate

    def fit(self, X: Any, y: Any = None, *, context: Any = None, sample_weight: Any = None) -> Self:
        """Estimate p(x), or p(x | context), from examples.

        Args:
            X: a DataFrame; an array of shape (n, D), (n, H, W), (n, C, H, W) or (n, T, C); a list of strings; one long
                string; ``space.Clips`` of sound; with ``space='series'`` a list of arrays (T_i, C); a ``data.Stream``
                over a file larger than memory. NaN or None marks a missing cell.
            y: ignored, as scikit-learn asks.
            context: the c of p(x | c), with n rows: a label or a vector per example or, for families trained by
                gradient, an image, a string, a series or a clip of sound, of which features are learned.
            sample_weight: non-negative weights, with shape (n,).

        Raises:
            DataError: nothing can be learned from X, or this family cannot model it; said before any training.
        """
        started = time.perf_counter()
        check_options(self)
        rng = generator(self.random_state, self._device())
        if isinstance(X, Stream):
            self._fit_stream(X, context, sample_weight, rng)
        else:
            self._look_at(X, infer(X, self.space))
            x = self._encode_complete(X)
            c = self._fit_context(context, len(x))
            self._fit_codes(x, c, self._weights(sample_weight, x), rng)
        self.fit_seconds_ = time.perf_counter() - started
        return self

    def _look_at(self, X: Any, space: Space) -> None:
        """Note the space, refuse what cannot be modelled."""
        cannot = self.can_model(space)
        if cannot:
            raise DataError(cannot)
        if isinstance(space, Table):
            validate_data(self, X, skip_check_array=True)
        else:
            self.n_features_in_ = space.dims
        self.space_ = space

    def _fit_codes(self, x: torch.Tensor, c: torch.Tensor | None, weight: torch.Tensor | None, rng) -> None:
        if len(x) < 2:
            more = "give more, or a shorter length" if self.space_.type in ("text", "audio", "series") else "give more"
            found = f"n_samples={len(x)} ({self.space_.describe()})"
            raise DataError(f"found {found} while a minimum of 2 is required; {more}")
        device = self._device()
        x, c, weight = (None if t is None else t.to(device) for t in (x, c, weight))
        train, held_out = _hold_out(len(x), self._held_out_share(), rng)
        chain, module = self._assemble(x[train], None if weight is None else weight[train], rng)
        everything = _events(chain, module, x, c, weight)
        self.fingerprint_, self.seen_ = rows_fingerprint(x), Seen.of(x)
        history = self._train(module, everything.part(train), everything.part(held_out) if len(held_out) else None, rng)
        self._keep(chain, module, history)

    def _fit_stream(self, stream: Stream, context: Any, sample_weight: Any, rng) -> None:
        """Fit on a file larger than memory: transforms on a sample of it, the module chunk by chunk."""
        if not self.traits.streams:
            others = registry.capable(lambda f: f.traits.streams)
            raise CapabilityError(f"{type(self).__name__} needs all data in memory; these do not: {', '.join(others)}")
        if context is not None or sample_weight is not None:
            raise DataError("a Stream holds examples only: fit in memory to use a context or sample weights")
        self._look_at(stream.head(2), self.space if isinstance(self.space, Space) else stream.space())
        self._fit_context(None, 0)
        codes = Coded(stream, self._encode_complete, self._held_out_share(), seed_of(rng))
        sample, held_out = (t.to(self._device()) for t in codes.look())
        chain, module = self._assemble(sample, None, rng)

        def events(x):
            return _events(chain, module, x.to(self._device()), None, None)

        self.fingerprint_, self.seen_ = rows_fingerprint(sample), Seen.of(sample)
        train = Chunks(lambda: map(events, codes), codes.n_train, events(sample))
        history = self._train(module, train, events(held_out) if len(held_out) else None, rng)
        self._keep(chain, module, history)

    def _assemble(self, x: torch.Tensor, weight: torch.Tensor | None, rng) -> tuple[Chain, Module]:
        """Fit the transforms on training codes; build the module on the space they lead to."""
        chain = Chain(self._transforms(self.space_)).to(self._device())
        model_space = chain.fit(x, self.space_, rng, weight)
        return chain.to(self._device()), self._seeded_build(model_space, seed_of(rng)).to(self._device())

    def _keep(self, chain: Chain, module: Module, history: History) -> None:
        self.transforms_, self.module_ = chain, module.eval()
        self.history_, self.kept_epoch_, self.stopped_ = history.to_frame(), history.kept_epoch, history.stopped
        self.n_parameters_ = module.n_learned

    def _seeded_build(self, model_space: Space, seed: int) -> Module:
        """Build the module with initial weights from `seed`; torch's global generator ends as it was."""
        with _building, torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            return self._build_whole(model_space)

    def _build_whole(self, model_space: Space) -> Module:
        """Build the module, and into it the encoder of the context if there is one."""
        n_features = len(self.context_columns_)
        module = self._build(model_space, Space(self.context_columns_, (n_features,)))
        if self.context_space_ is not None and self.context_heads_ is None:
            module.context_encoder = Encoder(self.context_model_space_, n_features)
        return module

    # ------------------------------------------------------------------------------------------------- evaluate

    @property
    def likelihood_kind_(self) -> Density | None:
        """What `log_prob` is: the family's own kind, or a bound where a transform makes it one, or several codes do.

        Of text in byte pairs log p of the one sequence of tokens that a string is encoded to is a lower bound of that
        of the string, which others are decoded to as well.
        """
        check_is_fitted(self, "module_")
        if self.traits.density == "exact" and not self.space_.one_code:
            return "lower_bound"
        return self.transforms_.kind if self.traits.density == "exact" else self.traits.density

    @property
    def _noisy(self) -> bool:
        """Whether `log_prob` averages over noise, of the family or of a transform."""
        return self.traits.density != "exact" or self.transforms_.stochastic

    @_has_density
    def log_prob(
        self,
        X: Any,
        *,
        context: Any = None,
        importance_samples: int | None = None,
        reduce: Literal["sum"] | None = "sum",
    ) -> np.ndarray:
        """Return log p(x) (or log p(x | context)) of each example.

        Args:
            X: examples like those the model was fitted on; NaN marks a missing cell and is integrated out.
            context: as in `fit`, with a row per example or one row for all.
            importance_samples: for a bound that has noise, return the importance-weighted estimate with this many
                samples instead (Burda, Grosse and Salakhutdinov, 2016, https://arxiv.org/abs/1509.00519).
            reduce: None for log p of each dimension given those before it, NaN where missing: which pixel, character or
                column was surprising.

        Returns:
            Nats with shape (n,), or with `reduce` None that of X, relative to the measure of `space_`, in the units of
            X. `likelihood_kind_` says whether they are exact, a bound or an estimate.

        Raises:
            SpaceError: X does not look like what the model was fitted on.
            CapabilityError: `reduce` is None, and the model does not take dimension after dimension.
        """
        check_is_fitted(self, "module_")
        x = self._encode(X)
        c = self._encode_context(context, len(x))
        module = self._evaluator()
        rows = max(1, ROWS_AT_ONCE // max(self.space_.dims, 1))
        parts = []
        with torch.no_grad():
            for start in range(0, len(x), rows):
                part = slice(start, start + rows)
                own = None if c is None else c[part]
                if reduce is None:
                    parts.append(self._log_prob_each(module, x[part], own))
                else:
                    parts.append(self._log_prob(module, x[part], own, importance_samples))
        found = torch.cat(parts).cpu().numpy() if parts else np.empty(0)
        return found if reduce else self.space_.lay_out(found)

    @_has_density
    def score_samples(self, X: Any) -> np.ndarray:
        """Return `log_prob` of each example, under scikit-learn's name."""
        return self.log_prob(X)

    @_has_density
    def score(self, X: Any, y: Any = None) -> float:
        """Return the mean `log_prob`, in nats per example; y is ignored."""
        return float(self.log_prob(X).mean())

    def _log_prob(self, module: Module, x: torch.Tensor, c: torch.Tensor | None, samples: int | None) -> torch.Tensor:
        x = x.to(self._device())
        dtype = module.dtype
        c = None if c is None else c.to(dtype)
        if not self._noisy:
            z, log_c = self.transforms_(x)
            return module.log_prob(z.to(dtype), c).double() + log_c
        evaluate = module.log_weight if samples else module.log_prob
        terms = []
        for s in range(samples or module.bound_samples):
            rng = RowNoise(x, seed=s)
            z, log_c = self.transforms_(x, rng)
            terms.append(evaluate(z.to(dtype), c, rng).double() + log_c)
        stacked = torch.stack(terms)  # (samples, n)
        return stacked.logsumexp(0) - math.log(samples) if samples else stacked.mean(0)

    def _log_prob_each(self, module: Module, x: torch.Tensor, c: torch.Tensor | None) -> torch.Tensor:
        """log p of each dimension given those before: (n, D)."""
        if not self.traits.conditionals or self._noisy:
            others = registry.capable(lambda f: f.traits.conditionals and f.can_model(self.space_) is None)
            raise CapabilityError(
                f"{type(self).__name__} has no log-probability of each dimension given those before it; "
                f"these families have: {', '.join(others)}"
            )
        z, terms = self.transforms_.each(x.to(self._device()))
        log_p = module.log_prob_each(z.to(module.dtype), None if c is None else c.to(module.dtype)).double()
        return torch.where(z.flatten(1).isnan(), torch.nan, log_p + terms.flatten(1))

    def _evaluator(self) -> Module:
        """Return the module to evaluate with: in double precision, so that an answer does not depend on the batch.

        A heavy one stays as it is: convolutions in double precision would take an order of magnitude longer.
        """
        single = any(p.dtype == torch.float32 for p in self.module_.parameters())
        return copy.deepcopy(self.module_).double() if single and not self.module_.heavy else self.module_

    # --------------------------------------------------------------------------------------------------- sample

    def sample(self, n: int = 1, *, context: Any = None, random_state: Any = None, sampler: str = "steps") -> Any:
        """Draw examples that look like those the model was fitted on: same type, columns, dtypes and levels.

        Args:
            n: how many.
            context: one row for all n, or n rows (with n left at 1: as many examples as it has rows).
            random_state: seed of the draw; None draws a fresh one each time.
            sampler: 'jacobi' has families that draw dimension after dimension draw the same by passes over all of them,
                until nothing changes: faster where passes are cheap and dimensions depend on few others.
        """
        check_is_fitted(self, "module_")
        return self.space_.decode(self._sample_codes(n, context, random_state, sampler))

    def _sample_codes(self, n: int, context: Any = None, random_state: Any = None, sampler="steps") -> torch.Tensor:
        """Draw codes (n, \\*shape)."""
        draw = getattr(self.module_, SAMPLERS.get(sampler, ""), None)
        if draw is None:
            raise CapabilityError(f"{type(self).__name__} has no sampler {sampler!r}; leave it at 'steps'")
        if not isinstance(n, (int, np.integer)) or n < 1:
            raise DataError(f"sample needs a number of examples of at least 1, got n={n!r}")
        c = self._encode_context(context, None if n == 1 and context is not None else n)
        n = n if c is None else len(c)
        rng = generator(random_state, self._device())
        rows = max(1, ROWS_AT_ONCE // max(self.space_.dims, 1))
        parts = []
        with torch.no_grad():
            for start in range(0, n, rows):
                m = min(rows, n - start)
                z = draw(m, None if c is None else c[start : start + m], rng=rng)
                parts.append(self.transforms_.inverse(z.reshape(m, *self.space_.shape).double(), rng))
        return torch.cat(parts)

    # ----------------------------------------------------------------------------------------------------- files

    def save(self, path: Any) -> None:
        """Write the model to one file: a zip of JSON and safetensors, replaced atomically. See `plausible.load`."""
        from plausible.files import save

        save(self, path)

    # --------------------------------------------------------------------------------------------------- helpers

    @classmethod
    def can_model(cls, space: Space) -> str | None:
        """Return None if this family can model `space`, else a sentence that says why not and what can."""
        if space.type not in cls.traits.events:
            others = registry.capable(lambda f: space.type in f.traits.events)
            return f"{cls.__name__} cannot model {space.type}s; these can: {', '.join(others)}"
        if space.ragged and space.type != "text" and not (cls.traits.prefixes or cls.traits.missing):
            others = registry.capable(lambda f: space.type in f.traits.events and f.traits.prefixes)
            return (
                f"{cls.__name__} cannot model {space.type} of different lengths; these can: {', '.join(others)}. "
                "Or cut all to one length"
            )
        unfit = space.kinds - cls.traits.kinds
        if unfit:
            column = next(c for c in space.columns if c.kind in unfit)
            others = registry.capable(lambda f: space.type in f.traits.events and space.kinds <= f.traits.kinds)
            return (
                f"{cls.__name__} cannot model {column.kind} columns such as {column.name!r}; "
                f"these can: {', '.join(others)}"
            )
        return None

    def _device(self) -> torch.device:
        return torch.device("cpu")

    def _encode(self, X: Any) -> torch.Tensor:
        """Return codes to be scored, refusing missing cells where the family cannot integrate them out."""
        if isinstance(self.space_, Table) and hasattr(self, "n_features_in_"):
            if getattr(X, "ndim", 2) != 2:
                as_matrix(X)  # which says what is wrong
            validate_data(self, X, skip_check_array=True, reset=False)
        x = self.space_.encode(X)
        if not self.traits.marginals:
            self._refuse_missing(x)
        return x

    def _encode_complete(self, X: Any) -> torch.Tensor:
        """Return codes to be fitted on, refusing missing cells where the family needs complete examples."""
        x = self._encode(X)
        self._refuse_missing(x)
        return x

    def _refuse_missing(self, x: torch.Tensor) -> None:
        if not self.traits.missing and not self.space_.ragged and x.is_floating_point() and x.isnan().any():
            where = int(x.isnan().reshape(len(x), -1).any(0).nonzero()[0])
            others = registry.capable(lambda f: f.traits.missing and f.can_model(self.space_) is None)
            raise DataError(
                f"column {self.space_.columns[where].name!r} has missing values (NaN), which {type(self).__name__} "
                f"cannot integrate out; these families can: {', '.join(others)}. "
                "Or fit and score complete rows (fit --drop-missing), or fill them (impute)"
            )

    def _fit_context(self, context: Any, n: int) -> torch.Tensor | None:
        self.context_space_, self.context_columns_ = None, ()
        if context is None:
            return None
        if not self.traits.context:
            others = registry.capable(lambda f: f.traits.context)
            raise CapabilityError(f"{type(self).__name__} takes no context; these families do: {', '.join(others)}")
        self.context_space_ = space = infer_context(context, self.context_space)
        if space.type != "table" and self._encoded_features() is None:
            learn = registry.capable(lambda f: f.traits.context and f()._encoded_features() is not None)
            others = [name for name in learn if registry.get(name).can_model(self.space_) is None]
            raise CapabilityError(
                f"{type(self).__name__} takes labels and vectors as a context, this one is {space.describe()}; "
                f"these families learn features of it: {', '.join(others)}. Or give labels"
            )
        codes = space.encode(as_rows(context, space))
        self.context_transforms_ = transforms_of(space)
        self._set_context(self.context_transforms_.fit(codes, space, None))
        c = self._context_codes(context, n)
        return c.expand(n, *c.shape[1:])

    def _set_context(self, model_space: Space) -> None:
        """Say what the features are made from: codes of this space, by heads of a table and else by an encoder."""
        self.context_model_space_ = model_space
        self.context_heads_ = Heads(model_space) if self.context_space_.type == "table" else None
        n = self._encoded_features() if self.context_heads_ is None else self.context_heads_.n_features
        self.context_columns_ = tuple(Column(f"c{i}", "real") for i in range(n))

    def _context_codes(self, context: Any, n: int | None) -> torch.Tensor:
        """Return what `Module.encode_context` makes features of (of a table, the features), with 1 or n rows."""
        codes = self.context_space_.encode(as_rows(context, self.context_space_))
        if n is not None and len(codes) not in (1, n):
            raise DataError(f"expected a context of 1 or {n} rows, got {len(codes)}")
        z = self.context_transforms_(codes)[0]
        if self.context_heads_ is not None:
            z = self.context_heads_.features(z.float())
        return (z if z.dtype == torch.uint8 else z.float()).to(self._device())

    def _encode_context(self, context: Any, n: int | None) -> torch.Tensor | None:
        """Return features (n, F) of the context; one row serves for all n."""
        if (context is None) != (self.context_space_ is None):
            what = "with a context; give one" if context is None else "without a context; give none"
            raise DataError(f"this {type(self).__name__} was fitted {what}")
        if context is None:
            return None
        codes, encoder = self._context_codes(context, n), self.module_.context_encoder
        features = codes if encoder is None else encoder.features(codes)
        return features.expand(n, -1) if n is not None and len(features) == 1 else features

    def _weights(self, sample_weight: Any, x: torch.Tensor) -> torch.Tensor | None:
        if sample_weight is None:
            return None
        weight = _check_sample_weight(sample_weight, np.empty((len(x), 1)), dtype=np.float64)
        if (weight < 0).any() or weight.sum() == 0:
            raise DataError("sample_weight must be non-negative and not all zero")
        return torch.from_numpy(weight)

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = self.traits.missing
        tags.input_tags.categorical = tags.input_tags.string = "categorical" in self.traits.kinds
        return tags


def _hold_out(n: int, share: float, rng: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """Split 0..n-1 at random into (train, held out); at least one example on either side if share > 0."""
    if not share:
        return torch.arange(n), torch.arange(0)
    order = torch.randperm(n, generator=rng, device=rng.device).cpu()
    k = min(max(round(share * n), 1), n - 1)
    return order[k:].sort().values, order[:k].sort().values


def _events(
    chain: Chain, module: Module, x: torch.Tensor, c: torch.Tensor | None, weight: torch.Tensor | None
) -> Events:
    """Examples in model space; where the transforms draw noise they are codes, to be transformed batch by batch."""
    dtype = module.dtype
    if chain.stochastic:
        return Events(x, c, weight, lambda x, rng: chain(x, rng)[0], dtype)
    z = chain(x)[0]
    return Events(z if z.dtype == torch.uint8 else z.to(dtype), c, weight, None, dtype)


def rows_fingerprint(x: torch.Tensor) -> str:
    """Return what tells one data set from another."""
    return hashlib.sha256(x.cpu().contiguous().numpy().tobytes()).hexdigest()[:16]
