"""What a killed run can be resumed from: one safetensors file, replaced atomically."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from plausible.atomic import write_atomically
from plausible.errors import ModelFileError


class Checkpoint:
    """A checkpoint file of one fit.

    Args:
        path: the file.
        fingerprint: of the data and the settings; a checkpoint of another fit is refused.
        resume: continue from the file if it is there; otherwise start anew and overwrite it.
        every: seconds between two savings; when they happen has no influence on the result.

    Raises:
        ModelFileError: there is no such folder, or the file is there and no checkpoint.
    """

    def __init__(self, path: str | os.PathLike, fingerprint: str, *, resume: bool, every: float = 30.0):
        self.path, self.fingerprint, self.resume, self.every = Path(path), fingerprint, resume, every
        self._last = time.perf_counter()
        self._own = False  # whether what lies there is of this fit
        if not self.path.absolute().parent.is_dir():
            raise ModelFileError(f"cannot write the checkpoint {self.path}: there is no such folder; make it first")
        self._found = self._read() if self.path.exists() else None  # what a file that is there says of itself

    def save_if_due(self, state: Callable[[], tuple[dict[str, torch.Tensor], dict[str, Any]]]) -> None:
        """Save what `state()` returns (tensors, and notes that JSON can hold) if it is time to."""
        if time.perf_counter() - self._last < self.every:
            return
        tensors, notes = state()
        write_tensors(self.path, tensors, {"fingerprint": self.fingerprint, "notes": json.dumps(notes)})
        self._last, self._own = time.perf_counter(), True

    def load(self) -> tuple[dict[str, torch.Tensor], dict[str, Any]] | None:
        """Return what was saved, or None where there is nothing to resume."""
        if not self.resume or self._found is None:
            return None
        from safetensors.torch import load_file

        if self._found["fingerprint"] != self.fingerprint:
            raise ModelFileError(
                f"{self.path} is the checkpoint of another fit (other data or settings); remove it to start anew, "
                "or give this fit another checkpoint path"
            )
        self._own = True
        return load_file(self.path), json.loads(self._found["notes"])

    def _read(self) -> dict[str, str]:
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(self.path, "pt") as file:
                meta = file.metadata() or {}
        except (SafetensorError, OSError) as err:
            raise ModelFileError(
                f"{self.path} is there and cannot be read as a checkpoint ({err}); remove it, or give another path"
            ) from None
        if not {"fingerprint", "notes"} <= set(meta):
            raise ModelFileError(f"{self.path} is there and is no checkpoint; give the checkpoint another path")
        return meta

    def remove(self) -> None:
        """The fit has ended: nothing is left to resume."""
        if self._own:
            self.path.unlink(missing_ok=True)


def write_tensors(path: Path, tensors: dict[str, torch.Tensor], metadata: dict[str, str]) -> None:
    """Write a safetensors file so that a reader sees the old one or the new one, never half of one."""
    from safetensors.torch import save

    blob = save({k: v.detach().cpu().contiguous().clone() for k, v in tensors.items()}, metadata)
    write_atomically(path, blob)
