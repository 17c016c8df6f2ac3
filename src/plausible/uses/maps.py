r"""Which pixel, word or column was surprising, and what was expected in its place.

    surprise_d = -log2 p(x_d | x_<d),    mean_d = E[x_d | x_<d],    entropy_d = E[surprise_d | x_<d]

for any model whose family takes the dimensions of an example one after the other (``traits.conditionals``), from one
pass over it. A dimension of high entropy is always a surprise; what stands out is what surprises more than is usual
there, surprise - entropy, which also does not depend on the units of a real column.

    from plausible.uses import maps
    maps.surprise(model, X)                # bits of every cell, laid out like X
    maps.conditionals(model, X).mean       # what was expected of it, from those before
    maps.surprising(model, X)              # the cells that stand out most
    maps.write(model, images, "maps.png")  # images, what was expected of each pixel, its surprise
"""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.utils.validation import check_is_fitted

from plausible.base import ROWS_AT_ONCE
from plausible.errors import PlausibleWarning
from plausible.heads import N_UNIFORMS, Head
from plausible.space import Column
from plausible.space.column import plain
from plausible.space.unheard import tamed
from plausible.uses._parts import require_whole

MOST_VALUES = 4096  # of a count that are added up over
OUTSIDE = 1e-9  # mass of a count that may lie beyond them
DRAWN = 256  # values by which the entropy is estimated where they cannot all be added up
BEFORE = 24  # characters shown before a surprising one
COLOURS = ("red", "green", "blue", "alpha")


@dataclass(frozen=True)
class Conditionals:
    """What a model says of each dimension of each example given those before it, laid out like the examples.

    Of a table, arrays of a row an example and a column a dimension. What is missing, or has ended, is NaN, and so is
    what comes after a value that no row of the fit could have had: nothing follows from it.

    Attributes:
        surprise: -log2 p(x_d | x_<d), in bits; of a real, relative to its unit. Infinite of such a value.
        mean: E[x_d | x_<d] in the user's units; NaN where levels are no numbers.
        entropy: the mean of the surprise, in bits: exact of levels and of counts that take up to `MOST_VALUES` values,
            else from `DRAWN` values.
        likeliest: the code of the likeliest level; for counts and reals, the mean.
    """

    surprise: np.ndarray
    mean: np.ndarray
    entropy: np.ndarray
    likeliest: np.ndarray


def surprise(model: Any, X: Any, *, context: Any = None) -> np.ndarray:
    """Return -log2 p(x_d | x_<d) in bits, laid out like X; NaN where missing.

    A value of a table that no row of the fit could have had, such as a new level, has infinitely many, and what comes
    after it is NaN, as nothing follows from it; a warning says which values.

    Args:
        model: a fitted model of a family that takes dimension after dimension.
        X: examples like those it was fitted on.
        context: as in `fit`.

    Raises:
        CapabilityError: the family does not; the message says which do.
        SpaceError: X does not look like what the model was fitted on.
    """
    known, unheard = tamed(model.space_, X)
    bits = -model.log_prob(known, context=context, reduce=None) / math.log(2)
    if unheard is None:
        return bits
    warnings.warn(f"{unheard}; nothing follows for the cells after them", PlausibleWarning, stacklevel=2)
    return np.where(unheard.where, np.inf, np.where(unheard.after, np.nan, bits))


def conditionals(model: Any, X: Any, *, context: Any = None) -> Conditionals:
    """Return what the model expected of each dimension of X from those before it.

    Args and errors as for `surprise`.
    """
    bits = surprise(model, X, context=context)
    check_is_fitted(model, "module_")
    known, unheard = tamed(model.space_, X)
    x = model._encode(known)
    c = model._encode_context(context, len(x))
    module, parts = model._evaluator(), []
    rows = max(1, ROWS_AT_ONCE // module.heads.size)
    with torch.no_grad():
        for start in range(0, len(x), rows):
            part = slice(start, start + rows)
            parts.append(_expected(model, module, x[part], None if c is None else c[part]))
    if not parts:
        return Conditionals(bits, bits, bits, bits)
    mean, entropy, likeliest = (model.space_.lay_out(np.concatenate(found)) for found in zip(*parts, strict=True))
    missing = np.isnan(bits) if unheard is None else np.isnan(bits) | unheard.after
    return Conditionals(bits, *(np.where(missing, np.nan, found) for found in (mean, entropy, likeliest)))


def surprising(model: Any, X: Any, n: int = 20, *, context: Any = None) -> Any:
    """Return the n cells of X that surprise most beyond what is usual there, the first one most.

    Args:
        model, X, context: as for `surprise`.
        n: how many, at least 1.

    Raises:
        DataError: it is not.

    Returns:
        A ``pandas.DataFrame``: the number of the example (of one long text, of the window it is cut into), the cell
        (a column, a pixel, a place), what is there and what was expected, both in the user's units, the bits, and how
        many are usual (`Conditionals.entropy`). Of texts also what stands before.
    """
    import pandas as pd

    require_whole("n", n)
    space, found = model.space_, conditionals(model, X, context=context)
    known, unheard = tamed(space, X)
    codes = space.lay_out(space.encode(known).double().flatten(1).cpu().numpy()).reshape(-1, space.dims)
    columns = space.lay_out(np.arange(space.dims)[None])[0].flatten()
    flat = {name: part.reshape(codes.shape) for name, part in vars(found).items()}
    excess = flat["surprise"] - flat["entropy"]
    order = np.argsort(-np.nan_to_num(excess, nan=-np.inf), axis=None, kind="stable")
    chosen = [divmod(int(k), codes.shape[1]) for k in order[: min(n, int((~np.isnan(excess)).sum()))]]
    rows = []
    for i, k in chosen:
        d = int(columns[k])
        column = space.columns[d]
        row = {"example": i, "cell": cell_name(space, d)}
        if space.type == "text":
            before = torch.from_numpy(codes[i : i + 1, max(0, k - BEFORE) : k])
            row["before"] = space.decode(before)[0] if k else ""
        row["value"], row["expected"] = (_value(column, v) for v in (codes[i, k], flat["likeliest"][i, k]))
        if unheard is not None and unheard.where[i, d]:
            row["value"] = unheard.values[column.name][i]
        rows.append({**row, "bits": flat["surprise"][i, k], "usual": flat["entropy"][i, k]})
    names = ["example", "cell", *(["before"] if space.type == "text" else []), "value", "expected", "bits", "usual"]
    return pd.DataFrame(rows, columns=names).astype({"value": object, "expected": object})


def write(model: Any, X: Any, path: str | Path, *, context: Any = None) -> Path:
    """Write the surprise of each cell of X to a file; return the path.

    Args:
        model, X, context: as for `surprise`.
        path: a .npy or .npz of the array; of tables, series and texts also a .csv; of images also a .png, which shows
            each image, what was expected of its pixels and their surprise.

    Raises:
        DataError: the suffix is another one; `check_form` says so before the work.
    """
    from plausible.uses import _map_files

    path = Path(path)
    _map_files.check_form(path, model.space_)
    if path.suffix.lower() == ".png":
        return _map_files.write_picture(X, conditionals(model, X, context=context), model.space_, path)
    return _map_files.write_numbers(surprise(model, X, context=context), model.space_, path)


def cell_name(space: Any, d: int) -> str:
    """What a user calls dimension d: ``age``, ``row 3, column 5, red``, ``character 12``."""
    if space.type != "image":
        return space.columns[d].name if space.type in ("table", "series") else f"{space.unit} {d}"
    channel, y, x = (int(k) for k in np.unravel_index(d, space.shape))
    colour = COLOURS[channel] if 3 <= space.shape[0] <= 4 else f"channel {channel}"
    return f"row {y}, column {x}" + (f", {colour}" if space.shape[0] > 1 else "")


# --------------------------------------------------------------------------------------------- what was expected


def _expected(model: Any, module: Any, x: torch.Tensor, c: torch.Tensor | None) -> tuple[np.ndarray, ...]:
    """Mean, entropy in bits and likeliest codes, each (n, D), of codes (n, \\*shape)."""
    z, _ = model.transforms_.each(x.to(model._device()))
    params = module.conditionals(z.to(module.dtype), None if c is None else c.to(module.dtype)).double()
    table, log_c = _table(model, module.heads.columns)
    mean, entropy, likeliest = (torch.full_like(table[:1], torch.nan).repeat(len(x), 1) for _ in range(3))
    for d, column in enumerate(module.heads.columns):
        one, where, _ = module.heads.single(d)
        head, own = one.heads[0], params[:, None, where]  # (n, 1, size)
        values = _values(head, column, own)
        if values is None:
            mean[:, d] = likeliest[:, d] = _linear(table[:, d], head.mean(own)[:, 0])
            entropy[:, d] = _entropy_of_draws(head, own) - log_c[0, d]
            continue
        log_p = _log_p(head, own, values)
        p = log_p.exp()
        of_cells = log_c[: len(values), d] if column.levels else 0.0
        entropy[:, d] = -torch.where(p > 0, p * (log_p + of_cells), 0.0).sum(1)
        if column.levels:
            numbers, best = table[: len(values), d], log_p.argmax(1)
            mean[:, d] = p @ numbers
            likeliest[:, d] = best.double() if model.space_.columns[d].levels else numbers[best]
        else:
            mean[:, d] = likeliest[:, d] = _linear(table[:, d], p @ values)
    return tuple(found.cpu().numpy() for found in (mean, entropy / math.log(2), likeliest))


def _log_p(head: Head, params: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
    """log p of each of the values (K,) under each of the laws (n, 1, size): (n, K)."""
    parts = [
        head.log_prob(params.repeat(len(v), 1, 1), v.repeat_interleave(len(params))[:, None]).view(len(v), -1)
        for v in values.split(max(1, ROWS_AT_ONCE // params.numel()))
    ]
    return torch.cat(parts).T


def _table(model: Any, columns: tuple[Column, ...]) -> tuple[torch.Tensor, torch.Tensor]:
    """The user's number for 0, 1, 2, ... of each column of the model's space (NaN for words), log C there; (K, D)."""
    space = model.space_
    steps = torch.arange(max(2, *(c.n_levels for c in columns)), dtype=torch.float64, device=model._device())
    steps = steps[:, None].expand(-1, space.dims).reshape(-1, *space.shape)
    codes = model.transforms_.centre(steps.contiguous())
    log_c = model.transforms_.each(codes)[1].flatten(1)
    table = codes.flatten(1).clone()
    for d, column in enumerate(space.columns):
        if column.levels:
            table[: column.n_levels, d] = torch.tensor([_number(level) for level in column.levels]).to(table)
    return table, log_c


def _number(level: Any) -> float:
    return float(level) if isinstance(level, (int, float, np.number, np.bool_)) else math.nan


def _linear(numbers: torch.Tensor, z: torch.Tensor) -> torch.Tensor:
    """Counts and reals are shifted and scaled."""
    return numbers[0] + (numbers[1] - numbers[0]) * z


def _values(head: Head, column: Column, params: torch.Tensor) -> torch.Tensor | None:
    """All values (K,) that a column may take but for a mass of `OUTSIDE`; None of a real, and where they are many."""
    if column.levels:
        return torch.arange(column.n_levels, dtype=torch.float64, device=params.device)
    if column.kind == "real":
        return None
    low, high = (math.inf if bound is None else abs(bound) for bound in (column.low, column.high))
    reach = 8.0  # deviations
    while reach < max(low, high) and _beyond(head, params, reach, column.step) > OUTSIDE:
        reach *= 2
    first = -reach if column.low is None else max(-reach, column.low)
    last = reach if column.high is None else min(reach, column.high)
    first, last = round(first / column.step), round(last / column.step)
    return torch.arange(first, last + 1).to(params) * column.step if last - first < MOST_VALUES else None


def _beyond(head: Head, params: torch.Tensor, reach: float, step: float) -> float:
    """The most that any of the laws has outside -reach .. reach."""
    edge = torch.tensor((round(reach / step) + 0.5) * step).to(params)
    return float((head.cdf(params, -edge) + 1 - head.cdf(params, edge)).max())


def _entropy_of_draws(head: Head, params: torch.Tensor) -> torch.Tensor:
    """E[-log p(z)] in nats of laws (n, 1, size), over draws spread evenly: (n,)."""
    u = torch.arange(DRAWN, dtype=torch.float64)[:, None] * torch.tensor([1 / DRAWN, (5**0.5 - 1) / 2]) + 0.5 / DRAWN
    u = (u % 1.0).to(params).repeat_interleave(len(params), 0)[:, None]  # a Fibonacci lattice
    many = params.repeat(DRAWN, 1, 1)
    return -head.log_prob(many, head.sample(many, u[..., :N_UNIFORMS])).view(DRAWN, -1).mean(0)


def _value(column: Column, code: float) -> Any:
    """A code as the user knows it: a level, a date, a number."""
    if column.levels or column.dtype.startswith("datetime"):
        return plain(column.decode(np.array([code])).iloc[0])
    return int(code) if column.kind == "count" and code == round(code) else float(code)
