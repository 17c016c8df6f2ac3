"""Maps to files: the numbers, or of images a picture of three rows: the image, what was expected, the surprise."""

from __future__ import annotations

import io
import math
from pathlib import Path
from typing import Any

import numpy as np

from plausible.atomic import write_atomically
from plausible.data.write import pixels
from plausible.errors import DataError
from plausible.evaluate.drawing import Axis

FORMS = {"image": (".png", ".npy", ".npz"), "table": (".csv", ".npy", ".npz")}
ARRAYS = (".npy", ".npz")

# Of the picture, in pixels of it: made twice as large as it is looked at, so that the letters are smooth.
TILE, GAP, BAND, MARGIN, TEXT, ACROSS = 168, 16, 44, 40, 22, 8
PAPER, INK, SOFT = (251, 250, 247), (29, 30, 33), (98, 101, 109)
RAMP = ((240, 237, 230), (247, 205, 146), (232, 138, 46), (168, 67, 15), (70, 16, 6))  # nothing .. all of it
SEEN = 0.9995  # of the pixels lie on the scale; the rest are as dark as its end


def check_form(path: Path, space: Any) -> None:
    """Refuse a suffix that names no form of these maps."""
    forms = FORMS.get(space.type, ARRAYS)
    if path.suffix.lower() not in forms:
        raise DataError(f"maps of {space.type} data can be written to {', '.join(forms)}; got {path.name!r}")


def write_numbers(bits: np.ndarray, space: Any, path: Path) -> Path:
    """Write an array of bits."""
    out = io.BytesIO()
    if path.suffix.lower() == ".csv":
        import pandas as pd

        out.write(pd.DataFrame(bits, columns=space.names).to_csv(index=False).encode())
    elif path.suffix.lower() == ".npz":
        np.savez_compressed(out, surprise=bits)
    else:
        np.save(out, bits, allow_pickle=False)
    write_atomically(path, out.getvalue())
    return path


def write_picture(X: Any, found: Any, space: Any, path: Path) -> Path:
    """Write images, what was expected of them and their surprise as one PNG."""
    out = io.BytesIO()
    picture(X, found, space).save(out, "PNG")
    write_atomically(path, out.getvalue())
    return path


def picture(X: Any, found: Any, space: Any) -> Any:
    """Bands of three rows, `ACROSS` images to a band, above a scale; a PIL image."""
    from PIL import Image, ImageDraw, ImageFont

    bits = np.asarray(found.surprise, dtype=float)
    axis_of_channels = {"HW": None, "CHW": 1, "HWC": 3}[space.layout]
    bits = bits if axis_of_channels is None else bits.sum(axis_of_channels)
    scale = scale_of(bits)
    rows = {"image": _rgb(X, space), _expected(space): _rgb(found.mean, space), "surprise": coloured(bits, scale)}
    n, height, width = bits.shape
    times = max(1, TILE // max(height, width))
    font = ImageFont.load_default(size=TEXT)
    left = MARGIN + max(int(font.getlength(name)) for name in rows) + 2 * GAP
    across, high, wide = min(n, ACROSS), height * times, width * times
    bands = math.ceil(n / across)
    band = len(rows) * (high + GAP) + TEXT + BAND
    right = max(left + across * (wide + GAP) - GAP, left + 7 * TILE)  # at least the width of the scale and its words
    page = Image.new("RGB", (right + MARGIN, MARGIN + bands * band + 2 * TEXT + MARGIN), PAPER)
    draw = ImageDraw.Draw(page)
    for b in range(bands):
        top = MARGIN + b * band
        for r, (name, tiles) in enumerate(rows.items()):
            y = top + r * (high + GAP)
            draw.text((left - GAP, y + high / 2), name, INK, font, anchor="rm")
            for k, tile in enumerate(tiles[b * across : (b + 1) * across]):
                tile = Image.fromarray(tile.repeat(times, 0).repeat(times, 1))
                page.paste(tile, (left + k * (wide + GAP), y))
        for k, total in enumerate(bits[b * across : (b + 1) * across].sum((1, 2))):
            middle = left + k * (wide + GAP) + wide / 2
            draw.text((middle, top + len(rows) * (high + GAP)), _count(total), SOFT, font, anchor="ma")
    _draw_scale(page, draw, font, scale, left, MARGIN + bands * band, float(bits.max()))
    return page


def scale_of(bits: np.ndarray) -> Axis:
    """A scale from tick to tick: not from zero where all pixels have many bits, or reals fewer than none."""
    low, high = float(np.quantile(bits, 1 - SEEN)), float(np.quantile(bits, SEEN))
    ticks = Axis.over([low, max(high, low + 1e-9)], pad=0.0).ticks
    step = ticks[1] - ticks[0] if len(ticks) > 1 else 1.0
    return Axis.over([math.floor(low / step + 1e-9) * step, math.ceil(high / step - 1e-9) * step], pad=0.0)


def coloured(bits: np.ndarray, scale: Axis) -> np.ndarray:
    """Bits (...,) as colours (..., 3) of the ramp."""
    share = np.clip((bits - scale.low) / (scale.high - scale.low), 0, 1) * (len(RAMP) - 1)
    stops = np.arange(len(RAMP))
    return np.stack([np.interp(share, stops, [c[i] for c in RAMP]) for i in range(3)], -1).round().astype(np.uint8)


def _draw_scale(page: Any, draw: Any, font: Any, scale: Axis, left: int, top: int, most: float) -> None:
    from PIL import Image

    length, thick = 2 * TILE, TEXT
    bar = coloured(np.linspace(scale.low, scale.high, length)[None].repeat(thick, 0), scale)
    page.paste(Image.fromarray(bar), (left, top))
    for tick in scale.labels:
        x = left + tick["x"] / 100 * (length - 1)
        draw.line([(x, top + thick), (x, top + thick + 6)], SOFT, 2)
        draw.text((x, top + thick + 10), tick["text"], SOFT, font, anchor="ma")
    more = f"bits of surprise at a pixel, given those above it and to its left; {most:.1f} at most"
    draw.text((left + length + GAP, top + thick / 2), more, SOFT, font, anchor="lm")


def _rgb(X: Any, space: Any) -> np.ndarray:
    """Images as (n, H, W, 3) bytes."""
    found = pixels(X, space)
    return found[..., :3] if found.ndim == 4 else found[..., None].repeat(3, -1)


def _expected(space: Any) -> str:
    return "p(on)" if space.pixel.kind == "binary" else "expected"


def _count(bits: float) -> str:
    return f"{bits:,.0f} bits" if abs(bits) >= 10 else f"{bits:.1f} bits"
