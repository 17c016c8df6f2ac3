"""Geometry of the report's pictures: scales, outlines and contact sheets; the markup is in `templates/`.

Charts are laid out in percent (the likelihood plot, which stretches with its column) or in the units of a fixed
`viewBox` (the small multiples). Colours are the style sheet's business, so that one drawing serves light and dark.
"""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from plausible.evaluate.wording import fixed, is_number

SHEET_WIDTH = 288  # CSS pixels a contact sheet may take


@dataclass(frozen=True)
class Axis:
    """A linear scale with round ticks.

    >>> axis = Axis.over([-180, -118])
    >>> axis.ticks
    (-180.0, -160.0, -140.0, -120.0)
    """

    low: float
    high: float
    ticks: tuple[float, ...]

    @classmethod
    def over(cls, values: Sequence[float], ticks: int = 4, pad: float = 0.06) -> Axis:
        low, high = min(values), max(values)
        room = (high - low) * pad if high > low else max(abs(high) * 0.05, 1e-9)
        low, high = low - room, high + room
        rough = (high - low) / ticks
        power = 10.0 ** math.floor(math.log10(rough))
        step = next(power * m for m in (1, 2, 2.5, 5, 10) if power * m >= rough * 0.999)
        first = math.ceil(low / step - 1e-9)
        count = math.floor(high / step + 1e-9) - first + 1
        return cls(low, high, tuple(round((first + i) * step, 12) for i in range(count)))

    @property
    def labels(self) -> list[dict]:
        """Where the ticks are, in percent, and their texts, all to the same number of decimals."""
        places = next((p for p in range(7) if all(abs(t - round(t, p)) < 1e-9 for t in self.ticks)), 6)
        return [{"x": self.at(t), "text": fixed(t, places)} for t in self.ticks]

    def at(self, value: float, start: float = 0.0, end: float = 100.0, *, inside: bool = True) -> float:
        """Where `value` lies between `start` and `end`, held inside them unless told otherwise."""
        share = (value - self.low) / (self.high - self.low)
        return round(start + (end - start) * (min(1.0, max(0.0, share)) if inside else share), 2)

    def holds(self, value: float) -> bool:
        return self.low <= value <= self.high


# --------------------------------------------------------------------------------------------- the likelihood plot


def likelihood_axis(scores: Sequence[dict]) -> Axis | None:
    """An axis for the means with two standard errors, which leaves out what is hopelessly far below the rest.

    A family is left out (and drawn as an arrow) when it trails the best by more than six times what the middle one
    does, so that one failure does not flatten the picture for all others.
    """
    means = sorted((s["mean"] for s in scores), reverse=True)
    if not means:
        return None
    typical = means[0] - means[len(means) // 2]
    reach = 6 * typical if typical > 0 else math.inf
    near = [s for s in scores if means[0] - s["mean"] <= reach]
    spread = [2 * s["stderr"] if is_number(s.get("stderr")) else 0.0 for s in near]
    edges = [s["mean"] + sign * w for s, w in zip(near, spread, strict=True) for sign in (-1, 1)]
    return Axis.over(edges)


def dot(score: dict | None, axis: Axis | None, gap: dict | None = None) -> dict | None:
    """One mark of the likelihood plot, in percent of the axis.

    Two pairs of ends: two standard errors of the mean, and of the paired difference `gap` to the best. The second is
    the one to compare families by; the first is mostly how unlike each other the examples are, for all families.
    """
    if axis is None or not score or not is_number(score.get("mean")):
        return None
    mean = score["mean"]
    errors = [2 * s["stderr"] if s and is_number(s.get("stderr")) else 0.0 for s in (score, gap)]
    ends, paired = ([axis.at(mean - e), axis.at(mean + e)] for e in errors)
    return {"kind": score["kind"], "x": axis.at(mean), "ends": ends, "paired": paired, "off": not axis.holds(mean)}


# ------------------------------------------------------------------------------------------------ learning curves


def curve(history: Sequence[dict], kept: int | None, width: int = 300, height: int = 132) -> dict | None:
    """Loss and held-out loss against epochs, in the units of a `viewBox` of `width` by `height`.

    The first few epochs of a fit are often far above the rest; the vertical axis ends where 95 % of the values do,
    and the lines run out of the picture.
    """
    if len(history) < 3:
        return None
    lines = {key: [(h["epoch"], h[key]) for h in history if is_number(h.get(key))] for key in ("loss", "held_out")}
    values = [v for points in lines.values() for _, v in points]
    if len(values) < 2:
        return None
    top = float(np.quantile(values, 0.95)) if len(values) > 12 else max(values)
    across = Axis.over([history[0]["epoch"], history[-1]["epoch"]], pad=0.0)
    up = Axis.over([min(values), max(top, min(values) + 1e-9)], ticks=4)
    left, right, bottom, upper = 0.0, float(width), float(height), 6.0

    def place(epoch: float, value: float) -> tuple[float, float]:
        return across.at(epoch, left, right), max(-4.0 * height, up.at(value, bottom, upper, inside=False))

    paths = {key: polyline([place(*p) for p in points]) for key, points in lines.items()}
    at = {h["epoch"]: h for h in history}.get(kept) if kept is not None else None
    mark = None
    if at is not None:
        shown = at["held_out"] if is_number(at.get("held_out")) else at["loss"]
        mark = dict(zip(("x", "y"), place(at["epoch"], shown), strict=True)) if is_number(shown) else None
    return {
        "width": width,
        "height": height,
        "loss": paths["loss"],
        "held_out": paths["held_out"],
        "kept": mark,
        "y_ticks": [{"y": bottom + (upper - bottom) * t["x"] / 100, "text": t["text"]} for t in up.labels],
        "first": history[0]["epoch"],
        "last": history[-1]["epoch"],
    }


def polyline(points: Sequence[tuple[float, float]]) -> str:
    """The `points` attribute of an SVG polyline."""
    return " ".join(f"{x:g},{y:g}" for x, y in points)


# ------------------------------------------------------------------------------------------------------ marginals


def marginal(found: dict, width: int = 200, height: int = 72, most: int = 8) -> dict:
    """One column, real against sampled: outlines of two histograms, or bars where there are few levels.

    `distance` is the total variation between the two: the share of the mass that would have to move.
    """
    real, sampled = _shares(found["real"]), _shares(found["sampled"])
    shown = {"column": found["column"], "kind": found["kind"], "distance": 0.5 * float(np.abs(real - sampled).sum())}
    levels = found.get("levels")
    if levels is not None and (len(levels) <= most or found["kind"] in ("binary", "categorical")):
        return {**shown, "bars": _bars(levels, real, sampled, most)}
    edges = np.asarray(found["edges"] if levels is None else np.arange(len(levels) + 1), dtype=float)
    widths = np.maximum(np.diff(edges), 1e-12)
    heights = real / widths, sampled / widths
    peak = max(float(h.max()) for h in heights) or 1.0
    across = Axis(float(edges[0]), float(edges[-1]), ())
    ends = (levels[0], levels[-1]) if levels is not None else (float(edges[0]), float(edges[-1]))
    if found["kind"] == "count":  # an edge lies between two integers
        ends = math.ceil(edges[0]), math.floor(edges[-1])
    real_path, sampled_path = (_steps(edges, h / peak, across, width, height) for h in heights)
    return {**shown, "width": width, "height": height, "real": real_path, "sampled": sampled_path, "ends": ends}


def _shares(counts: Sequence[float]) -> np.ndarray:
    counts = np.nan_to_num(np.asarray(counts, dtype=float))
    return counts / counts.sum() if counts.sum() > 0 else counts


def _steps(edges: np.ndarray, heights: np.ndarray, across: Axis, width: int, height: int) -> str:
    """A closed outline of a histogram, one unit of air above the peak."""
    points = [(across.at(edges[0], 1, width - 1), float(height))]
    for low, high, h in zip(edges[:-1], edges[1:], heights, strict=True):
        y = round(height - (height - 2) * float(h), 2)
        points += [(across.at(low, 1, width - 1), y), (across.at(high, 1, width - 1), y)]
    return polyline([*points, (across.at(edges[-1], 1, width - 1), float(height))])


def _bars(levels: Sequence, real: np.ndarray, sampled: np.ndarray, most: int) -> list[dict]:
    """A bar per level, the commonest first where not all fit; the rest becomes one bar."""
    order = list(range(len(levels)))
    rest = []
    if len(levels) > most:
        by_share = sorted(order, key=lambda i: -real[i])
        order, rest = by_share[: most - 1], by_share[most - 1 :]
    rows = [(levels[i], float(real[i]), float(sampled[i])) for i in order]
    if rest:
        rows.append(("all others", float(real[rest].sum()), float(sampled[rest].sum())))
    peak = max(max(r, s) for _, r, s in rows) or 1.0
    return [
        {"level": level, "real": round(98 * r / peak, 2), "sampled": round(98 * s / peak, 2), "shares": (r, s)}
        for level, r, s in rows
    ]


# --------------------------------------------------------------------------------------------------------- images


def to_bytes(examples: dict, scale: tuple[float, float]) -> np.ndarray:
    """The pixels of an EXAMPLES dict as uint8 of shape (n, H, W, C), black at scale[0] and white at scale[1]."""
    channels, height, width = examples["shape"]
    pixels = np.asarray(examples["pixels"], dtype=float).reshape(-1, channels, height, width)
    low, high = scale
    shares = (np.nan_to_num(pixels) - low) / ((high - low) or 1.0)
    return (255 * np.clip(shares, 0, 1)).round().astype(np.uint8).transpose(0, 2, 3, 1)


def pixel_scale(examples: dict) -> tuple[float, float]:
    """What is black and what is white: the ends of the levels, or the range of the real pixels."""
    if examples.get("levels"):
        return 0.0, float(examples["levels"] - 1)
    pixels = np.asarray(examples["pixels"], dtype=float)
    if not pixels.size or not np.isfinite(pixels).any():
        return 0.0, 1.0
    return float(np.nanmin(pixels)), float(np.nanmax(pixels))


def contact_sheet(examples: dict, scale: tuple[float, float], rows: int = 4) -> dict | None:
    """A grid of images as one PNG, and the whole number of CSS pixels each of its pixels should take."""
    tiles = to_bytes(examples, scale)
    if not len(tiles):
        return None
    height, width = tiles.shape[1:3]
    gap = max(1, width // 8)

    def shown(columns: int) -> int:
        native = columns * (width + gap) - gap
        return native * max(1, SHEET_WIDTH // native)

    wide = [c for c in (6, 5, 4) if 0.8 * SHEET_WIDTH <= shown(c) <= SHEET_WIDTH]
    columns = min(wide[0] if wide else 4, len(tiles))
    lines = min(rows, math.ceil(len(tiles) / columns))
    tiles = tiles[: lines * columns]
    lines = math.ceil(len(tiles) / columns)
    sheet = np.zeros((lines * (height + gap) - gap, columns * (width + gap) - gap, 4), np.uint8)
    for i, tile in enumerate(tiles):
        top, left = (i // columns) * (height + gap), (i % columns) * (width + gap)
        sheet[top : top + height, left : left + width] = _rgba(tile)
    factor = max(1, SHEET_WIDTH // sheet.shape[1])
    return {"src": data_uri(sheet), "width": factor * sheet.shape[1], "n": len(tiles)}


def single_image(tile: np.ndarray, aim: int = 64) -> dict:
    """One image of shape (H, W, C) as a PNG, about `aim` CSS pixels wide."""
    return {"src": data_uri(_rgba(tile)), "width": max(1, round(aim / tile.shape[1])) * tile.shape[1]}


def _rgba(tile: np.ndarray) -> np.ndarray:
    """Grey, RGB or RGBA; of any other number of channels, the first as grey."""
    if tile.shape[-1] == 4:
        return tile
    colour = tile if tile.shape[-1] == 3 else np.repeat(tile[..., :1], 3, axis=-1)
    return np.concatenate([colour, np.full((*tile.shape[:2], 1), 255, np.uint8)], axis=-1)


def data_uri(pixels: np.ndarray) -> str:
    """Pixels of shape (H, W, 4) as a PNG in a `data:` address."""
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


# --------------------------------------------------------------------------------------------------------- series


def series_range(examples: dict) -> list[tuple[float, float]]:
    """The range of each channel of the real windows, with a tenth of air."""
    values = np.asarray(examples["values"], dtype=float).reshape(-1, *examples["shape"])
    ranges = []
    for c in range(values.shape[-1]):
        found = values[..., c][np.isfinite(values[..., c])]
        low, high = (float(found.min()), float(found.max())) if found.size else (0.0, 1.0)
        air = 0.1 * (high - low) or 1.0
        ranges.append((low - air, high + air))
    return ranges


def sparkline(window: Sequence, ranges: Sequence[tuple[float, float]], width: int = 120, height: int = 40) -> list[str]:
    """A polyline per channel of one window of shape (T, C), every channel scaled by its real range."""
    values = np.asarray(window, dtype=float).reshape(-1, len(ranges))
    across = Axis(0.0, max(1.0, len(values) - 1.0), ())
    lines = []
    for c, (low, high) in enumerate(ranges):
        up = Axis(low, high, ())
        known = [(t, v) for t, v in enumerate(values[:, c]) if math.isfinite(v)]
        lines.append(polyline([(across.at(t, 1, width - 1), up.at(v, height - 1, 1)) for t, v in known]))
    return lines
