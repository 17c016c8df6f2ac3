"""Manners: what a model takes and gives, what it refuses and in which words, and what it leaves alone."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import torch

from plausible import registry
from plausible.checks.audit import Broken, NotApplicable, check
from plausible.checks.cases import Bench, labels_of
from plausible.errors import CapabilityError, DataError


@check
def samples_look_like_the_data(bench: Bench) -> str:
    """`sample` returns what was put in: same type, shape, columns, dtypes and levels; and as many as asked for."""
    for case in bench.some("toy data"):
        model, X = bench.fitted(case), case.draw()
        S = model.sample(50, random_state=0)
        if type(S) is not type(X) or len(S) != 50:
            raise Broken(
                f"on {case.name}, 50 samples came as {len(S)} in a {type(S).__name__}, not a {type(X).__name__}"
            )
        if isinstance(X, pd.DataFrame):
            wanted, got = X.dtypes.astype(str).to_dict(), S.dtypes.astype(str).to_dict()
        elif isinstance(X, np.ndarray):
            wanted, got = (str(X.dtype), X.shape[1:]), (str(S.dtype), S.shape[1:])
        else:
            wanted, got = type(X[0]), type(S[0])
        if wanted != got:
            raise Broken(f"on {case.name}, samples are {got}, the data {wanted}")
        codes = model.space_.encode(S).double()  # raises where a level is not one of the data's
        if model.space_.type != "text" and codes.isnan().any():
            raise Broken(f"on {case.name}, samples have missing cells")
    return ", ".join(c.name for c in bench.cases)


@check
def samples_follow_the_seed(bench: Bench) -> str:
    """The same random_state gives the same samples, another one gives others."""
    for case in bench.some("toy data"):
        model = bench.fitted(case)
        first, again, other = (model.space_.encode(model.sample(50, random_state=s)) for s in (1, 1, 2))
        if not _equal(first, again):
            raise Broken(f"on {case.name}, two draws with random_state=1 differ")
        if _equal(first, other):
            raise Broken(f"on {case.name}, draws with random_state 1 and 2 are the same")
    return "same seed, same samples"


@check
def same_seed_same_fit(bench: Bench) -> str:
    """Two fits with the same random_state give the same model, whatever the state of the global generators."""
    case = bench.some("toy data")[0]
    X = case.draw()
    with _kept_global_state():
        models = []
        for seed in (1, 2):
            random.seed(seed), np.random.seed(seed), torch.manual_seed(seed)
            models.append(bench.fit(X))
    one, two = (m.module_.state_dict() for m in models)
    differing = [k for k in one if not _equal(one[k], two[k])]
    if differing:
        raise Broken(f"on {case.name}, two fits with the same seed differ in {', '.join(differing[:3])}")
    one, two = (m.space_.encode(m.sample(20, random_state=0)) for m in models)
    if not _equal(one, two):
        raise Broken(f"on {case.name}, two fits with the same seed draw differently")
    return f"on {case.name}, every tensor is equal to the bit"


@check
def global_state_is_left_alone(bench: Bench) -> str:
    """fit, sample and log_prob change no global generator (Python, NumPy, torch) and no default of torch."""
    case = bench.some("toy data")[0]
    X = case.draw()
    with _kept_global_state():
        # An unusual state: seeding a generator as someone did before would otherwise go unseen.
        random.seed(90210), np.random.seed(90210), torch.manual_seed(90210)
        acts: dict[str, Callable[[], Any]] = {"fit": lambda: bench.fit(X)}
        acts["sample"] = lambda: bench.fitted(case).sample(5)
        if bench.traits.density:
            acts["log_prob"] = lambda: bench.fitted(case).log_prob(X)
        for name, act in acts.items():
            before = _global_state()
            act()
            changed = [k for k, v in _global_state().items() if not v == before[k]]
            if changed:
                raise Broken(f"{name} changes {', '.join(changed)}")
    return ", ".join(acts)


def _global_state() -> dict[str, Any]:
    return {
        "the generator of random": random.getstate(),
        "the generator of numpy.random": str(np.random.get_state()),
        "the generator of torch": bytes(torch.random.get_rng_state().numpy().tobytes()),
        "torch's default dtype": torch.get_default_dtype(),
        "torch's number of threads": torch.get_num_threads(),
        "whether torch builds gradients": torch.is_grad_enabled(),
    }


class _kept_global_state:
    """Puts the global generators back as they were."""

    def __enter__(self) -> None:
        self.states = random.getstate(), np.random.get_state(), torch.random.get_rng_state()

    def __exit__(self, *error: Any) -> None:
        random.setstate(self.states[0])
        np.random.set_state(self.states[1])
        torch.random.set_rng_state(self.states[2])


def _equal(a: torch.Tensor, b: torch.Tensor) -> bool:
    """Equal to the bit, missing cells included."""
    return a.shape == b.shape and torch.equal(torch.nan_to_num(a.double()), torch.nan_to_num(b.double()))


@check
def absent_capabilities_say_so(bench: Bench) -> str:
    """A capability that a family does not have is no attribute of it; asking for it says what to use instead."""
    if bench.traits.density:
        raise NotApplicable("it has a density")
    model = bench.fitted(bench.some("toy data")[0])
    for name in ("log_prob", "score", "score_samples"):
        if hasattr(model, name):
            raise Broken(f"it has no density, and yet an attribute {name}")
        message = _refuses(lambda name=name: getattr(model, name), CapabilityError, name, ["plausible.", "famil"])
    if model.likelihood_kind_ is not None:
        raise Broken(f"it has no density, and yet a likelihood of kind {model.likelihood_kind_!r}")
    return message


@check
def context_changes_the_answer(bench: Bench) -> str:
    """Where a context is accepted, the density and the samples depend on it."""
    model, X, labels = bench.conditional
    other = np.where(labels == "high", "low", "high")
    draws = [model.space_.encode(model.sample(50, context=[side] * 50, random_state=0)) for side in ("high", "low")]
    if _equal(*draws):
        raise Broken("samples are the same under two contexts")
    if not bench.traits.density:
        return "samples differ"
    gain = model.log_prob(X, context=labels) - model.log_prob(X, context=other)
    if not np.abs(gain).max() > 1e-6:
        raise Broken("log_prob is the same under two contexts")
    return f"the right context is worth {gain.mean():.2g} nats"


@check
def missing_cells(bench: Bench) -> str:
    """A family with traits.missing fits and scores examples with missing cells; another says which families can.

    The score of an incomplete example is the mass of all its completions; see `missing_cells_are_integrated_out`.
    """
    case = bench.some("tables", lambda space: space.type == "table")[0]
    X = with_holes(case.draw())
    if bench.traits.missing:
        model = bench.fit(X)
        if bench.traits.density and not np.isfinite(model.log_prob(X)).all():
            raise Broken(f"on {case.name} with missing cells, log_prob is not finite")
        return f"fitted and scored {case.name} with a tenth of the cells missing"
    others = registry.capable(lambda f: f.traits.missing)
    return _refuses(lambda: bench.fit(X), DataError, "missing cells", others)


def with_holes(X: Any, share: float = 0.1) -> Any:
    """Return a copy of a table with a share of the cells missing."""
    holes = np.random.default_rng(2).random((len(X), np.shape(X)[1])) < share
    if isinstance(X, pd.DataFrame):
        return X.astype(object).mask(holes).infer_objects()
    return np.where(holes, np.nan, X)


@check
def context_is_refused_where_it_means_nothing(bench: Bench) -> str:
    """A context is refused with a sentence by a family that takes none, and by a model that was fitted without one."""
    case = bench.some("toy data")[0]
    X = case.draw()
    labels = labels_of(bench.fitted(case), X)
    model = bench.fitted(case)
    ask = model.log_prob if bench.traits.density else lambda X, context: model.sample(len(X), context=context)
    _refuses(lambda: ask(X, context=labels), DataError, "a context it was not fitted with", [])
    if bench.traits.context:
        conditional, _, _ = bench.conditional
        _refuses(lambda: conditional.sample(3), DataError, "no context where one is needed", [])
        return "refused where the fit had none, demanded where it had one"
    others = registry.capable(lambda f: f.traits.context)
    return _refuses(lambda: bench.fit(X, context=labels), CapabilityError, "a context", others)


def _refuses(act: Any, error: type[Exception], what: str, others: list[str]) -> str:
    """Run what ought to be refused; return the message."""
    try:
        act()
    except error as message:
        if others and not any(name in str(message) for name in others):
            raise Broken(f"it refuses {what} without naming a family that accepts it: {message}") from None
        return f"refused: {message}"
    except Exception as err:
        raise Broken(f"{what}: expected a {error.__name__}, got {type(err).__name__}: {err}") from None
    raise Broken(f"it accepts {what} and says nothing")
