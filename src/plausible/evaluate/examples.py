"""What a report shows of examples: plain JSON values for pictures, rows, strings and curves, and their marginals."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import torch

from plausible.space import Column, Image, Series, Space, Table

MOST = {"image": 40, "table": 12, "text": 12, "series": 12, "audio": 12}
MAX_MARGINALS = 24
MAX_LEVELS = 40  # bars of one marginal; the rarer levels are counted together
BINS = 30
CURVE = 400  # points of the curve that shows a sound


def as_json(space: Space, X: Any, *, most: int | None = None) -> dict:
    """Return at most `most` examples as JSON has them.

    Args:
        space: what one example is.
        X: examples as a user has them.
        most: 40 images, 12 of anything else by default.

    Returns:
        ``{"type": "image", "shape": [C, H, W], "levels", "pixels"}``, ``{"type": "table", "columns", "rows"}``,
        ``{"type": "text", "strings"}`` or ``{"type": "series", "shape": [T, C], "values"}``.
    """
    X = head(X, MOST[space.type] if most is None else most)
    if isinstance(space, Image):
        pixels = space.encode(X).reshape(len(X), -1)
        levels = space.pixel.n_levels or None
        return {"type": "image", "shape": list(space.shape), "levels": levels, "pixels": _rounded(pixels)}
    if isinstance(space, Series):
        return {"type": "series", "shape": list(space.shape), "values": _rounded(space.encode(X))}
    if space.type == "audio":  # a curve of at most some hundred points, silence after the end
        x = np.nan_to_num(space.encode(X).numpy())[:, :: -(-space.dims // CURVE)]
        return {"type": "series", "shape": [x.shape[1], 1], "values": _rounded(x[:, :, None])}
    if isinstance(space, Table):
        rows = X.itertuples(index=False, name=None) if hasattr(X, "itertuples") else list(X)
        return {"type": "table", "columns": space.names, "rows": [[_cell(v) for v in row] for row in rows]}
    return {"type": "text", "strings": [str(s) for s in X]}


def head(X: Any, n: int) -> Any:
    """The first `n` examples."""
    return X.iloc[:n] if hasattr(X, "iloc") else X[:n]


def joined(parts: list) -> Any:
    """Examples of several parts, one after the other."""
    if hasattr(parts[0], "iloc"):
        return pd.concat(parts, ignore_index=True)
    return sum(parts, []) if isinstance(parts[0], list) else np.concatenate(parts)


def marginals(space: Space, real: torch.Tensor, made: torch.Tensor) -> list[dict]:
    """Return the distribution of single columns in real and in sampled codes, as shares of the observed cells.

    For images, all pixel values together; for text, all characters together, and the length; for series, a histogram
    for each channel. Values beyond the middle 99 % of the real ones are counted in the outermost bins.
    """
    real, made = (np.asarray(x.detach().cpu().reshape(len(x), -1), dtype=float) for x in (real, made))
    if space.type == "image":
        return [_marginal("pixel value", space.columns[0], real.ravel(), made.ravel())]
    if space.type == "audio":
        return [_marginal("sample", space.columns[0], real.ravel(), made.ravel())]
    if space.type == "text":
        return _text_marginals(space, real, made)
    if space.type == "series":
        channels = space.shape[1]
        names = [c.name.partition("[")[0] for c in space.columns[:channels]]
        return [
            _marginal(name, space.columns[c], real[:, c::channels].ravel(), made[:, c::channels].ravel())
            for c, name in enumerate(names[:MAX_MARGINALS])
        ]
    return [_marginal(c.name, c, real[:, d], made[:, d]) for d, c in enumerate(space.columns[:MAX_MARGINALS])]


def _text_marginals(space: Space, real: np.ndarray, made: np.ndarray) -> list[dict]:
    levels = space.columns[0].levels
    character = Column("character", "categorical", tuple(level or "(end)" for level in levels))
    end = levels.index("") if "" in levels else np.nan
    lengths = [(~np.isnan(x) & (x != end)).sum(1) for x in (real, made)]
    shown = [_marginal("character", character, real.ravel(), made.ravel())]
    return shown + ([_marginal("length", Column("length", "count"), *lengths)] if np.ptp(lengths[0]) else [])


def mean_image(space: Space, real: torch.Tensor, made: torch.Tensor) -> dict | None:
    """The mean of real and of sampled images, pixel by pixel; None where examples are not images."""
    if space.type != "image":
        return None
    return {
        "shape": list(space.shape),
        "real": _rounded(real.double().mean(0).flatten()),
        "sampled": _rounded(made.double().mean(0).flatten()),
    }


def _marginal(name: str, column: Column, real: np.ndarray, made: np.ndarray) -> dict:
    real, made = real[~np.isnan(real)], made[~np.isnan(made)]
    shown = {"column": name, "kind": column.kind}
    if column.levels:
        counts = [np.bincount(x.astype(int), minlength=column.n_levels).astype(float) for x in (real, made)]
        levels, counts = _grouped([_cell(v) for v in column.levels], *counts)
        return {**shown, "levels": levels, "real": _shares(counts[0]), "sampled": _shares(counts[1])}
    edges = _edges(real, column.kind == "count" and column.step == 1)
    counts = [np.histogram(np.clip(x, edges[0], edges[-1]), edges)[0] for x in (real, made)]
    return {**shown, "edges": edges.tolist(), "real": _shares(counts[0]), "sampled": _shares(counts[1])}


def _grouped(levels: list, real: np.ndarray, made: np.ndarray) -> tuple[list, tuple[np.ndarray, np.ndarray]]:
    """Keep the commonest levels in their order, and count the others together."""
    if len(levels) <= MAX_LEVELS:
        return levels, (real, made)
    kept = np.sort(np.argsort(-real, kind="stable")[: MAX_LEVELS - 1])
    rest = np.setdiff1d(np.arange(len(levels)), kept)
    counts = tuple(np.append(x[kept], x[rest].sum()) for x in (real, made))
    return [*(levels[i] for i in kept), f"{len(rest)} others"], counts


def _edges(real: np.ndarray, whole: bool) -> np.ndarray:
    low, high = np.quantile(real, (0.005, 0.995)) if len(real) else (0.0, 1.0)
    if whole:
        low, high = np.floor(low) - 0.5, np.ceil(high) + 0.5  # so that no bin holds one integer more than another
        width = max(1, int(np.ceil((high - low) / BINS)))
        return np.arange(low, high + width, width)
    if not high > low:
        low, high = low - 0.5, high + 0.5
    return np.linspace(low, high, BINS + 1)


def _shares(counts: np.ndarray) -> list[float]:
    return _rounded(counts / max(counts.sum(), 1))


def _rounded(values: Any) -> list:
    """Nested lists; integers where all are whole, else six significant digits, enough for a picture."""
    values = np.asarray(values)
    if values.dtype.kind in "iub" or (np.isfinite(values).all() and (values == np.round(values)).all()):
        return values.astype(int).tolist()
    return _null(values.tolist())


def _null(values: Any) -> Any:
    """Six significant digits, NaN and infinity as None, at any depth."""
    if isinstance(values, list):
        return [_null(v) for v in values]
    return float(f"{values:.6g}") if np.isfinite(values) else None


def _cell(value: Any) -> Any:
    """One cell as JSON has it: None where missing, dates as text."""
    if isinstance(value, np.generic):
        value = value.item()
    if value is None or value is pd.NA or value != value or value in (np.inf, -np.inf):  # NaN and NaT: x != x
        return None
    return value if isinstance(value, (bool, int, float, str)) else str(value)
