"""An example of which a part is known: as codes with NaN where it is not, its probability, and exact draws of the rest.

What `given`, `query` and `chains` have in common, and what all uses refuse alike.
"""

from __future__ import annotations

import numbers
import warnings
from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
import torch

from plausible import registry
from plausible.errors import CapabilityError, DataError, PlausibleWarning, SpaceError
from plausible.randomness import RowNoise
from plausible.space.unheard import tamed

EXACTLY = ("exact", "in_order")
TRIES = 100  # at blanks, until none of them is drawn as the end of the text


def require_whole(name: str, value: Any, least: int = 1) -> None:
    """Refuse what is no whole number of at least `least`.

    Raises:
        DataError: says so.
    """
    if not isinstance(value, numbers.Integral) or value < least:
        raise DataError(f"{name} must be a whole number of at least {least}, got {value!r}")


def codes_of(model: Any, X: Any, mask: Any, blank: str | None) -> tuple[torch.Tensor, torch.Tensor]:
    """Return codes with NaN where to draw, and where that is. What follows the end of an example is no hole."""
    space = model.space_
    if blank is not None:
        return _blanks(space, X, blank)
    x = space.encode(with_all_columns(space, X)).double().to(model._device())
    if mask is not None:
        x = torch.where(as_mask(space, mask, x), torch.nan, x)
    return x, x.isnan()


def heard(space: Any, X: Any, unseen: Literal["refuse", "missing"]) -> Any:
    """Return X with cells that no row of the fit could have had (a new level) made missing, or refuse them."""
    if unseen not in ("refuse", "missing"):
        raise DataError(f"unseen must be 'refuse' or 'missing', got {unseen!r}")
    known, unheard = tamed(space, with_all_columns(space, X), missing=True)
    if unheard is None:
        return X
    if unseen == "refuse":
        raise SpaceError(
            f"{unheard}, the first of them row {int(unheard.rows.argmax()) + 1}. Correct them, or take such cells for "
            "missing, which fills them in, too: unseen='missing' (--unseen missing)"
        )
    warnings.warn(f"{unheard}; these cells are taken for missing and filled in, too", PlausibleWarning, stacklevel=3)
    return known


def _blanks(space: Any, X: Any, blank: str) -> tuple[torch.Tensor, torch.Tensor]:
    if space.type != "text":
        raise DataError(f"blank={blank!r} is of text, and the model is of {space.describe()}; use NaN or a mask")
    levels = space.columns[0].levels
    if space.unit != "character":
        raise DataError(f"blanks stand for characters, and the model is one of {space.unit}s; fit one of characters")
    if len(blank) != 1 or blank in levels:
        raise DataError(f"blank must be one character that no text of the model holds, got {blank!r}")
    strings = space.windows(X)
    x = space.encode([s.replace(blank, levels[0]) for s in strings]).double()
    holes = torch.tensor([[c == blank for c in s.ljust(space.length, levels[0])] for s in strings])
    return torch.where(holes, torch.nan, x), holes


def need_no_bound(model: Any) -> None:
    """Refuse a model whose likelihood is a bound: what follows from a difference of two is neither."""
    if model.likelihood_kind_ != "exact":
        raise CapabilityError(
            f"the likelihood of this {type(model).__name__} is a bound, as its data are discrete and its density is "
            "not, or several codes stand for one text; an answer given a part would not be exact"
        )


def need_exact(model: Any) -> None:
    if model.traits.given not in EXACTLY:
        raise CapabilityError(
            f"{type(model).__name__} cannot draw a part of an example given the rest exactly; these families can: "
            f"{', '.join(registry.capable(lambda f: f.traits.given in EXACTLY))}. "
            "method='auto' approximates where that can be had"
        )
    need_no_bound(model)


def draw_exactly(
    model: Any, x: torch.Tensor, holes: torch.Tensor, c: torch.Tensor | None, n: int, rng
) -> list[torch.Tensor]:
    """Draw n completions of codes, exactly."""
    refuse_the_impossible(model, x, c)
    module = model._evaluator()
    c = None if c is None else c.to(module.dtype)

    def fill(part: torch.Tensor) -> torch.Tensor:
        return filled(model, part, lambda z: module.sample_given(z, c, rng=rng), rng)

    if model.space_.type != "text" or not model.space_.end or torch.equal(holes, x.isnan()):
        return [fill(x) for _ in range(n)]
    end, draws = len(model.space_.columns[0].levels) - 1, []
    for _ in range(n):  # a blank is a character, and not the end of the text
        found, wrong = x, torch.ones(len(x), dtype=torch.bool, device=x.device)
        for _ in range(TRIES):
            found = torch.where(wrong[:, None], fill(x), found)
            wrong = ((found == end) & holes).any(1)
            if not wrong.any():
                break
        else:
            raise DataError(f"in {TRIES} draws a blank of string {int(wrong.nonzero()[0])} was always the end of it")
        draws.append(torch.where(holes, found, x))
    return draws


def latent_codes(model: Any, X: Any, context: Any) -> tuple[Any, torch.Tensor, Any, torch.Tensor, torch.Tensor]:
    """Latent codes of examples: the module that was asked, z (n, *event), c or None, log C (n,), and the codes."""
    module = model._evaluator()
    x = model._encode(X).to(model._device())
    c = model._encode_context(context, len(x))
    c = None if c is None else c.to(module.dtype)
    with torch.no_grad():
        z, log_c = model.transforms_(x, RowNoise(x))
        z = z.to(module.dtype)
        return module, z, c, log_c, module.encode(z, c)


def refuse_the_impossible(model: Any, x: torch.Tensor, c: torch.Tensor | None) -> None:
    if has_marginals(model):
        refuse_impossible(log_marginal(model, x, c))


def filled(model: Any, x: torch.Tensor, fill: Any, rng: torch.Generator) -> torch.Tensor:
    """Fill codes in model space, and put the known ones back."""
    with torch.no_grad():
        z, _ = model.transforms_(x, rng)
        filled = model.transforms_.inverse(fill(z.double()).reshape(z.shape).double(), rng)
    return torch.where(x.isnan(), filled, x)


def has_marginals(model: Any) -> bool:
    return model.traits.missing or model.traits.marginals


def need_marginals(model: Any) -> None:
    """Refuse a model that cannot integrate cells out, exactly."""
    if not has_marginals(model):
        raise CapabilityError(
            f"{type(model).__name__} cannot integrate unknown cells out; these families can: "
            f"{', '.join(registry.capable(lambda f: f.traits.missing or f.traits.marginals))}"
        )
    need_no_bound(model)


def log_marginal(model: Any, x: torch.Tensor, c: torch.Tensor | None) -> torch.Tensor:
    """log p of the known cells of codes (n, *shape): (n,)."""
    with torch.no_grad():
        return model._log_prob(model._evaluator(), x, c, None)


def log_prob_given(model: Any, x: torch.Tensor, known: torch.Tensor, c: torch.Tensor | None) -> np.ndarray:
    """log p(rest | known) of codes (n, *shape) by a module that takes the known cells first: (n,)."""
    module = model._evaluator()
    with torch.no_grad():
        z, terms = model.transforms_.each(x.to(model._device()))
        known = known.to(z.device).flatten(1)
        found = module.log_prob_given(z.flatten(1).to(module.dtype), known, None if c is None else c.to(module.dtype))
        return (found.double() + torch.where(known, 0.0, terms.flatten(1)).sum(1)).cpu().numpy()


def refuse_impossible(log_p: torch.Tensor) -> None:
    if bool((log_p == -torch.inf).any()):
        row = int((log_p == -torch.inf).nonzero()[0])
        raise DataError(f"what is known of example {row} has probability zero under the model: nothing follows from it")


def with_all_columns(space: Any, X: Any) -> Any:
    """Add the columns of a table that X leaves out, as unknown."""
    import pandas as pd

    X = pd.DataFrame(X) if isinstance(X, Mapping) else X
    if space.type != "table" or not isinstance(X, pd.DataFrame):
        return X
    have = {str(name) for name in X.columns}
    unknown = have - set(space.names)
    if unknown:
        place_of(space, sorted(unknown)[0])
    X = X.assign(**{name: None for name in space.names if name not in have})
    return X if space.array_dtype is None else X.rename(columns=str)[space.names]


def is_names(given: Any) -> bool:
    return isinstance(given, (list, tuple, set)) and all(isinstance(name, str) for name in given)


def place_of(space: Any, name: str) -> int:
    names = [c.name for c in space.columns]
    if name not in names:
        raise DataError(f"there is no column {name!r}; there are: {', '.join(names[:20])}")
    return names.index(name)


def as_mask(space: Any, mask: Any, x: torch.Tensor) -> torch.Tensor:
    """Return a user's mask, of one example or of all, in the shape of codes."""
    mask = np.asarray(mask)
    if mask.dtype != bool:
        raise DataError(f"expected a mask of True and False, got {mask.dtype}")
    if space.type == "image":
        channels, height, width = space.shape
        if space.layout == "HWC" and mask.shape[-1] == channels:
            mask = np.moveaxis(mask, -1, -3)
        elif mask.shape[-2:] == (height, width) and (mask.ndim == 2 or space.layout != "CHW"):
            mask = mask[..., None, :, :]
    try:
        return torch.from_numpy(np.array(np.broadcast_to(mask, tuple(x.shape)))).to(x.device)
    except ValueError:
        raise DataError(f"a mask of shape {mask.shape} does not fit examples of shape {tuple(x.shape)}") from None
