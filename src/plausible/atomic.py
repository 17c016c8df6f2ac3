"""Files that are there whole or not at all."""

from __future__ import annotations

import os
from pathlib import Path


def write_atomically(path: str | os.PathLike, blob: bytes) -> None:
    """Write a file beside `path`, then rename it onto `path`: a reader sees the old one or the new one."""
    path = Path(path)
    half = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(half, "wb") as file:
            file.write(blob)
            file.flush()
            os.fsync(file.fileno())
        os.replace(half, path)
    finally:
        half.unlink(missing_ok=True)
