r"""The hidden states of sequences, for any model that has some.

    gamma_t(i) = p(s_t = i | x)                  posterior: how sure each step is of each state, on its own
    argmax_s p(s_1 .. s_T | x)                   likely: the path that is the most likely as a whole (Viterbi)

    from plausible.uses import states
    states.likely(model, series)                 # (n, T) state numbers
    states.posterior(model, series)              # (n, T, S), adding up to one over S

The two need not agree: the states that are each the most likely at their step may make a path that cannot be.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from sklearn.utils.validation import check_is_fitted

from plausible.errors import CapabilityError


def likely(model: Any, X: Any) -> np.ndarray:
    """Return the jointly most likely hidden states of each example.

    Args:
        model: a fitted model with hidden states, such as a hidden Markov model.
        X: n examples like those it was fitted on; what is missing is integrated out.

    Returns:
        State numbers (n, T), int64, from 0. Steps after the end of a string have -1.

    Raises:
        CapabilityError: the model has no hidden states over steps.
    """
    z, known = _prepared(model, X, "likely_states")
    with torch.no_grad():
        found = model.module_.likely_states(z)
    return torch.where(known, found, -1).cpu().numpy()


def posterior(model: Any, X: Any) -> np.ndarray:
    """Return the probability of each hidden state at each step, given the whole example.

    Args:
        model, X: as for `likely`.

    Returns:
        Probabilities (n, T, S). Steps after the end of a string have NaN.

    Raises:
        CapabilityError: the model has no hidden states over steps.
    """
    z, known = _prepared(model, X, "state_probabilities")
    with torch.no_grad():
        found = model.module_.state_probabilities(z)
    return torch.where(known[:, :, None], found, torch.nan).cpu().numpy()


def _prepared(model: Any, X: Any, what: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Return examples in model space, and which of their steps (n, T) are part of them."""
    check_is_fitted(model, "module_")
    if not hasattr(model.module_, what):
        raise CapabilityError(
            f"{type(model).__name__} has no hidden states that follow each other; a hidden Markov model has "
            "(`plausible families` says which models there are)"
        )
    x = model._encode(X)
    z, _ = model.transforms_(x.to(model._device()))
    steps = z.reshape(len(z), model.module_.steps, -1)
    known = ~steps.isnan().any(2) if model.space_.type == "text" else torch.ones_like(steps[:, :, 0], dtype=torch.bool)
    return z.to(model.module_.dtype), known
