"""Samples to files: the way back from `read`.

table    .csv .tsv .parquet .jsonl         image    folder of .png, one .png (a grid of all), .npz, .npy
text     .txt .csv .jsonl                  series   .csv (a step a line), .npz, .npy
audio    folder of .wav; .wav or .flac (all end to end)
"""

from __future__ import annotations

import io
import math
from pathlib import Path
from typing import Any

import numpy as np

from plausible.atomic import write_atomically
from plausible.data import sounds
from plausible.errors import DataError
from plausible.space import Image, Space

FORMS = {
    "table": (".csv", ".tsv", ".parquet", ".jsonl", ".npz", ".npy"),
    "text": (".txt", ".csv", ".jsonl"),
    "image": (".png", ".npz", ".npy"),
    "series": (".csv", ".npz", ".npy"),
    "audio": (".wav", ".flac"),
}
SEPARATOR = "-----"  # a line between texts that may have several lines
TILE = 64  # pixels: smaller images are enlarged, by a whole factor, in a grid


def write(X: Any, path: str | Path, space: Space, *, across: int | None = None) -> Path:
    """Write examples in the form that the suffix of `path` names; return the path.

    Args:
        X: examples, as ``model.sample`` returns them.
        path: where to; for images and sounds without a suffix, a folder that receives one .png or .wav for each.
        space: what they are (``model.space_``).
        across: images in a row of the grid; by default about as many as there are rows.

    Raises:
        DataError: examples of this kind have no such form; the message lists those that they have.
    """

    path = Path(path)
    if space.type == "image" and (path.is_dir() or not path.suffix):
        return _write_folder(pixels(X, space), path)
    if space.type == "audio" and (path.is_dir() or not path.suffix):
        return _write_clips(X, path, space.rate)
    check_form(path, space)
    write_atomically(path, _packed(X, path.suffix.lower(), space, across))
    return path


def check_form(path: Path, space: Space) -> None:
    """Refuse a suffix that says no form for examples of this space; said before anything is drawn."""
    forms = FORMS[space.type]
    if space.type == "table" and getattr(space, "array_dtype", None) is None:
        forms = forms[:4]  # columns of several dtypes are no array
    if space.type in ("image", "audio") and (path.is_dir() or not path.suffix):
        return
    if path.suffix.lower() not in forms:
        folder = " or a folder" if space.type in ("image", "audio") else ""
        raise DataError(f"{space.type} samples can be written to {', '.join(forms)}{folder}; got {path.name!r}")


def as_text(X: Any, space: Space) -> str:
    """Examples as lines of text: CSV with a header, or one string a line.

    Windows of a long text, and strings that have line breaks in them, are parted by a line ``-----``; .csv and .jsonl
    keep apart also those that hold such a line themselves.

    Raises:
        DataError: they are images.
    """
    if space.type == "image":
        raise DataError("images cannot be printed; write them to a folder or a picture: -o samples/ or -o samples.png")
    if space.type == "audio":
        raise DataError("sounds cannot be printed; write them to a folder or a file: -o samples/ or -o samples.wav")
    if space.type == "text":
        several = not space.end or any("\n" in s for s in X)
        return f"\n{SEPARATOR}\n".join(X) + "\n" if several else "".join(f"{s}\n" for s in X)
    return as_frame(X, space).to_csv(index=False)


def _packed(X: Any, suffix: str, space: Space, across: int | None) -> bytes:
    out = io.BytesIO()
    if suffix == ".npz":
        np.savez_compressed(out, X=np.asarray(X))
    elif suffix == ".npy":
        np.save(out, np.asarray(X), allow_pickle=False)
    elif suffix == ".png":
        _picture(grid(pixels(X, space), across=across)).save(out, "PNG")
    elif space.type == "audio":
        return sounds.packed(X, space.rate, suffix)
    elif suffix == ".parquet":
        as_frame(X, space).to_parquet(out, index=False)
    elif suffix == ".jsonl":
        return as_frame(X, space).to_json(orient="records", lines=True, force_ascii=False, date_format="iso").encode()
    elif suffix == ".txt":
        return as_text(X, space).encode()
    else:
        return as_frame(X, space).to_csv(index=False, sep="\t" if suffix == ".tsv" else ",").encode()
    return out.getvalue()


def as_frame(X: Any, space: Space) -> Any:
    """Examples as a DataFrame: a row each, or of a series a row for each step of each window."""
    import pandas as pd

    if isinstance(X, pd.DataFrame):
        return X
    if space.type == "text":
        return pd.DataFrame({"text": list(X)})
    X = np.asarray(X)
    if space.type != "series":
        return pd.DataFrame(X, columns=[c.name for c in space.columns])
    n, steps, channels = X.shape
    names = [c.name.rpartition("[")[0] for c in space.columns[:channels]]
    frame = pd.DataFrame(X.reshape(n * steps, channels), columns=names)
    frame.insert(0, "step", np.tile(np.arange(steps), n))
    frame.insert(0, "window", np.repeat(np.arange(n), steps))
    return frame


def _write_clips(clips: Any, folder: Path, rate: int) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    digits = len(str(len(clips) - 1))
    for i, clip in enumerate(clips):
        (folder / f"{i:0{digits}}.wav").write_bytes(sounds.packed([clip], rate, ".wav"))
    return folder


# --------------------------------------------------------------------------------------------------------- images


def pixels(X: Any, space: Space) -> np.ndarray:
    """Images as pictures have them: (n, H, W) or (n, H, W, C), uint8, 0 to 255.

    Images of fewer levels are stretched over the 256; real pixels are taken as 0..1 or 0..255 where they lie in one of
    these, and stretched from the least to the largest otherwise.
    """
    X = np.asarray(X)
    if not isinstance(space, Image):
        raise DataError(f"{space.type} samples are no pictures")
    X = np.moveaxis(X, 1, 3) if space.layout == "CHW" else X
    X = X[..., 0] if X.ndim == 4 and X.shape[3] == 1 else X
    if X.ndim == 4 and X.shape[3] not in (3, 4):
        raise DataError(f"images of {X.shape[3]} channels have no picture; write them to an .npz file")
    if space.pixel.levels:
        return np.round(X.astype(np.float64) * (255 / max(space.pixel.n_levels - 1, 1))).astype(np.uint8)
    low, high = float(X.min()), float(X.max())
    if low < 0 or high > 255:
        X = (X - low) * (255 / max(high - low, 1e-12))
    elif high <= 1:
        X = X * 255
    return np.clip(np.round(X), 0, 255).astype(np.uint8)


def grid(images: np.ndarray, gap: int = 2, across: int | None = None) -> np.ndarray:
    """Pictures (n, H, W[, C]) in one, `across` side by side: by default as many as there are rows. Small ones grow."""
    times = max(1, TILE // max(images.shape[1:3]))
    images = images.repeat(times, 1).repeat(times, 2)
    n, height, width = images.shape[:3]
    across = math.ceil(math.sqrt(n)) if across is None else across
    down = math.ceil(n / across)
    page = np.full((down * (height + gap) + gap, across * (width + gap) + gap, *images.shape[3:]), 255, np.uint8)
    for i, image in enumerate(images):
        top, left = gap + i // across * (height + gap), gap + i % across * (width + gap)
        page[top : top + height, left : left + width] = image
    return page


def _write_folder(images: np.ndarray, folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    digits = len(str(len(images) - 1))
    binary = set(np.unique(images).tolist()) <= {0, 255}
    for i, image in enumerate(images):
        picture = _picture(image)
        picture = picture.convert("1") if binary and image.ndim == 2 else picture  # `read` keeps bits as bits
        picture.save(folder / f"{i:0{digits}}.png")
    return folder


def _picture(image: np.ndarray) -> Any:
    from PIL import Image as Picture

    return Picture.fromarray(image)
