"""The length of an example by lossless codecs that know nothing of the data: how complex it is.

Images of at most 256 levels by PNG and WebP, strings and everything else by zlib, bz2 and LZMA; the shortest counts.
"""

from __future__ import annotations

import bz2
import io
import lzma
import math
import zlib
from typing import Any

import numpy as np

from plausible.space import Image, Space, Text

RAW = [{"id": lzma.FILTER_LZMA2, "preset": 9}]


def nats(space: Space, X: Any) -> np.ndarray:
    """Return the length of each example: (n,) in nats, headers included."""
    return 8 * math.log(2) * np.array([float(_shortest(e)) for e in _examples(space, X)])


def _examples(space: Space, X: Any) -> list[Any]:
    """Strings and rows as bytes, images as arrays (H, W) or (H, W, C) of bytes."""
    if isinstance(space, Text):
        return [s.encode() for s in space.windows(X)]
    codes = space.encode(X).cpu().numpy()
    levels = max(c.n_levels for c in space.columns)
    small = all(c.levels for c in space.columns) and levels <= 256 and not np.isnan(codes).any()
    codes = codes.astype(np.uint8) if small else codes.astype(np.float64)
    if small and isinstance(space, Image) and space.shape[0] in (1, 3):
        stretched = codes * (255 // max(levels - 1, 1)) if levels < 256 else codes
        return [np.squeeze(np.moveaxis(c, 0, -1), -1) if len(c) == 1 else np.moveaxis(c, 0, -1) for c in stretched]
    return [c.tobytes() for c in codes]


def _shortest(example: Any) -> int:
    if isinstance(example, np.ndarray):
        return min(_picture(example, "PNG", optimize=True), _picture(example, "WEBP", lossless=True))
    packed = (zlib.compress(example, 9), bz2.compress(example), lzma.compress(example, lzma.FORMAT_RAW, filters=RAW))
    return min(map(len, packed))


def _picture(pixels: np.ndarray, form: str, **how: Any) -> int:
    from PIL import Image as Picture
    from PIL import features

    if form == "WEBP" and not features.check("webp"):  # Pillow may have been built without it
        form, how = "PNG", {"optimize": True}
    out = io.BytesIO()
    Picture.fromarray(pixels).save(out, form, **how)
    return out.tell()
