"""What other lossless compressors make of the same examples: zlib, bz2, xz, zstd; PNG, WebP and FLAC."""

from __future__ import annotations

import bz2
import io
import lzma
import time
import zlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from plausible.data.write import as_text

SHEET = 4096  # pixels a side: images are laid side by side on pages, a file each


@dataclass(frozen=True)
class Coded:
    """What a compressor did.

    Attributes:
        name: of the compressor.
        size: bytes.
        write, read: seconds.
    """

    name: str
    size: int
    write: float
    read: float


def raw(X: Any, space: Any) -> bytes:
    """Examples as plain bytes: pixels (eight bits of them to a byte), samples, UTF-8, or CSV."""
    if space.type == "image":
        X = np.asarray(X)
        if space.pixel.n_levels == 2:
            return np.packbits(X.astype(np.uint8)).tobytes()
        return X.astype(np.uint8).tobytes() if 0 < space.pixel.n_levels <= 256 else np.ascontiguousarray(X).tobytes()
    if space.type == "audio":
        return b"".join(np.asarray(clip).tobytes() for clip in X)
    if space.type == "series":
        return b"".join(np.ascontiguousarray(x).tobytes() for x in X)
    return (X if isinstance(X, str) else as_text(X, space)).encode("utf-8", "surrogatepass")


def others(data: bytes, X: Any = None, space: Any = None) -> list[Coded]:
    """Compress and decompress bytes by each compressor at its highest setting, images and sound by theirs too."""
    ways: list[tuple[str, Callable, Callable]] = [
        ("zlib 9", lambda b: zlib.compress(b, 9), zlib.decompress),
        ("bz2 9", lambda b: bz2.compress(b, 9), bz2.decompress),
        ("xz 9e", lambda b: lzma.compress(b, preset=9 | lzma.PRESET_EXTREME), lzma.decompress),
    ]
    try:
        import zstandard
    except ImportError:
        pass
    else:
        ways.append(("zstd 19", zstandard.ZstdCompressor(19).compress, zstandard.ZstdDecompressor().decompress))
    found = [_timed(name, data, write, read) for name, write, read in ways]
    if space is not None and space.type == "image" and 0 < space.pixel.n_levels <= 256 and space.shape[0] in (1, 3):
        pages = _pages(X, space)
        found.append(_timed("PNG", pages, lambda p: _saved(p, "PNG", optimize=True), _opened))
        found.append(_timed("WebP", pages, lambda p: _saved(p, "WEBP", lossless=True, quality=100, method=6), _opened))
    if space is not None and space.type == "audio":
        found.append(_timed("FLAC", X, lambda clips: flac(clips, space.rate), _heard))
    return found


def flac(clips: Iterable[np.ndarray], rate: int) -> bytes:
    """Mono sound of 16 bits, end to end in one file, at FLAC's highest setting: what is kindest to it."""
    import soundfile

    out = io.BytesIO()
    samples = np.concatenate([np.asarray(clip, np.int16) for clip in clips])
    soundfile.write(out, samples, rate, format="FLAC", subtype="PCM_16", compression_level=1.0)
    return out.getvalue()


def _heard(packed: bytes) -> np.ndarray:
    import soundfile

    return soundfile.read(io.BytesIO(packed), dtype="int16")[0]


def _timed(name: str, data: Any, write: Callable, read: Callable) -> Coded:
    started = time.perf_counter()
    packed = write(data)
    written = time.perf_counter()
    read(packed)
    size = len(packed) if isinstance(packed, bytes) else sum(map(len, packed))
    return Coded(name, size, written - started, time.perf_counter() - written)


def _pages(X: Any, space: Any) -> list:
    """Pictures of many images each, no pixel of them changed."""
    from PIL import Image

    channels, height, width = space.shape
    X = np.asarray(X).astype(np.uint8).reshape(len(X), *np.asarray(X).shape[1:])
    X = np.moveaxis(X, 1, 3) if space.layout == "CHW" else X
    X = X.reshape(len(X), height, width, channels)
    across = min(max(SHEET // width, 1), len(X))
    each, pages = across * max(SHEET // height, 1), []
    for start in range(0, len(X), each):
        part = X[start : start + each]
        down = -(-len(part) // across)
        part = np.concatenate([part, np.zeros((down * across - len(part), *part.shape[1:]), np.uint8)])
        page = part.reshape(down, across, height, width, channels).swapaxes(1, 2).reshape(down * height, -1, channels)
        picture = Image.fromarray(page[..., 0] if channels == 1 else page)
        bits = channels == 1 and space.pixel.n_levels == 2
        pages.append(Image.fromarray(page[..., 0].astype(bool)) if bits else picture)
    return pages


def _saved(pages: list, form: str, **settings: Any) -> list[bytes]:
    found = []
    for page in pages:
        out = io.BytesIO()
        (page.convert("RGB") if form == "WEBP" else page).save(out, form, **settings)
        found.append(out.getvalue())
    return found


def _opened(files: list[bytes]) -> None:
    from PIL import Image

    for file in files:
        Image.open(io.BytesIO(file)).load()
