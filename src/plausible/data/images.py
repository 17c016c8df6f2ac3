"""A folder of images as one array."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from plausible.data.folders import files_in
from plausible.errors import ReadError

SUFFIXES = frozenset((".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm", ".pbm"))
MODES = {"1": "1", "L": "L", "RGB": "RGB", "RGBA": "RGBA", "LA": "RGBA", "PA": "RGBA", "CMYK": "RGB", "YCbCr": "RGB"}


def image_files(folder: Path) -> list[Path]:
    """The images under a folder, as `files_in` finds them."""
    return files_in(folder, SUFFIXES)


def read_images(folder: Path) -> np.ndarray:
    """Return (n, H, W) for grey or black-and-white images, (n, H, W, C) for colour; uint8.

    Raises:
        ReadError: no images, one that cannot be opened, or two that differ in size or mode; named.
    """
    files = image_files(folder)
    if not files:
        listed = ", ".join(sorted(s[1:] for s in SUFFIXES))
        raise ReadError(f"the folder holds no images (files ending in {listed}); to read another kind, give one file")
    first = read_image(files[0], folder)
    images = np.empty((len(files), *first.shape), dtype=np.uint8)
    for i, file in enumerate(files):
        image = first if i == 0 else read_image(file, folder)
        if image.shape != first.shape:
            raise ReadError(
                f"the images differ: {_label(files[0], folder)} is {_size(first)}, {_label(file, folder)} is "
                f"{_size(image)}; bring them to one size and one mode first"
            )
        images[i] = image
    return images


def read_image(file: Path, folder: Path | None = None) -> np.ndarray:
    """Return one image as uint8: (H, W), or (H, W, C) in colour; bits stay 0 and 1."""
    from PIL import Image

    name = _label(file, folder or file.parent)
    try:
        with Image.open(file) as image:
            if image.mode in ("I", "F") or image.mode.startswith("I;"):
                raise ReadError(f"the image {name} has more than 8 bits a pixel; save it with 8, or pass an .npy array")
            mode = ("RGBA" if "transparency" in image.info else "RGB") if image.mode == "P" else MODES.get(image.mode)
            return np.asarray(image if mode == image.mode else image.convert(mode or "RGB")).astype(np.uint8)
    except ReadError:
        raise
    except Exception as err:  # Pillow raises many kinds for a broken file; each one means this
        raise ReadError(f"the image {name} cannot be read ({_reason(err)}); mend it or take it away") from None


def _reason(err: Exception) -> str:
    return "not an image, or cut short" if "cannot identify" in str(err) else str(err)


def _label(file: Path, folder: Path) -> str:
    return str(file.relative_to(folder))


def _size(image: np.ndarray) -> str:
    mode = "grey" if image.ndim == 2 else {3: "colour", 4: "RGBA"}[image.shape[2]]
    return f"{image.shape[1]}x{image.shape[0]} {mode}"
