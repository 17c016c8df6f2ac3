"""Files under a folder, and the sub-folders that say what is in them."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

FOLDER = "folder"  # what the sub-folder of an image is called, as a context


def files_in(folder: Path, suffixes: Collection[str]) -> list[Path]:
    """The files under a folder with one of these suffixes, at any depth, in alphabetical order; hidden ones are passed
    over."""
    found = (p for p in folder.rglob("*") if p.suffix.lower() in suffixes and p.is_file())
    return sorted(p for p in found if not any(part.startswith(".") for part in p.relative_to(folder).parts))


def folder_labels(folder: str | Path) -> list[str] | None:
    """Return the sub-folder that each image under a folder lies in, in the order in which `read` takes the images.

    None where some lie in the folder itself.
    """
    from plausible.data.images import image_files

    folder = Path(folder)
    parts = [file.relative_to(folder).parts for file in image_files(folder)] if folder.is_dir() else []
    labels = [first for first, *rest in parts if rest]
    return labels if labels and len(labels) == len(parts) else None
