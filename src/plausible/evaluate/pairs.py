"""Samples beside the training rows nearest to them: as one picture, and as a page in the style of the report."""

from __future__ import annotations

import io
from typing import Any

import numpy as np

from plausible.data.write import grid, pixels
from plausible.evaluate import drawing, wording
from plausible.evaluate.examples import as_json, joined
from plausible.evaluate.report import environment, numeric, shortened
from plausible.space import Space

BETWEEN, APART = 1, 12  # pixels between the two of a pair (enlarged with them), and between pairs


def picture(space: Space, made: Any, real: Any) -> bytes:
    """Return a PNG of pairs of images: on the left a sample, on the right its training row."""
    from PIL import Image

    both = pixels(joined([made, real]), space)  # together, so that they share black and white
    left, right = both[: len(made)], both[len(made) :]
    line = np.full((*left.shape[:2], BETWEEN, *left.shape[3:]), 255, np.uint8)
    out = io.BytesIO()
    Image.fromarray(grid(np.concatenate([left, line, right], 2), gap=APART)).save(out, "PNG")
    return out.getvalue()


def page(found: Any, n: int) -> str:
    """Return what a `uses.novelty.Memory` says, with its n nearest pairs, as one self-contained HTML page."""
    made, real, distance = found.pairs(n)
    summary, test = found.summary, found.copying
    numbers = [
        ("distance to the nearest training row, median", f"{summary.ratio:.2f} times", "1"),
        ("equal to a training row", wording.percent(summary.copies), wording.percent(summary.real_copies)),
        ("as near as the nearest 1 % held out", wording.percent(summary.near_copies), wording.percent(0.01)),
        ("further off than a held-out row", wording.percent(test.further), wording.percent(0.5)),
    ]
    return (
        environment()
        .get_template("novelty.html")
        .render(
            verdict=found.verdict,
            notes=found.notes,
            numbers=numbers,
            z=test.z,
            p=found.p_value,
            n_samples=len(found.distance),
            pairs=_shown(found.space, made, real, distance.tolist()),
        )
    )


def _shown(space: Space, made: Any, real: Any, distance: list[float]) -> dict:
    """Pairs as the template wants them: (sample, training row, distance), drawn by their type."""
    both = as_json(space, joined([made, real]), most=2 * len(distance))
    if both["type"] == "image":
        scale = drawing.pixel_scale(both)
        items = [drawing.single_image(tile) for tile in drawing.to_bytes(both, scale)]
    elif both["type"] == "table":
        items = both["rows"]
    elif both["type"] == "text":
        items = [shortened(s) for s in both["strings"]]
    else:
        ranges = drawing.series_range(both)
        items = [drawing.sparkline(window, ranges) for window in both["values"]]
    pairs = list(zip(items[: len(distance)], items[len(distance) :], distance, strict=True))
    columns = both.get("columns", [])
    return {"type": both["type"], "columns": columns, "numeric": numeric(items) if columns else [], "pairs": pairs}
