"""Sound files: a folder of clips, or one recording."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np

from plausible.data.folders import files_in
from plausible.errors import DataError, ReadError
from plausible.space import Clips

SUFFIXES = frozenset((".wav", ".flac"))


def sound_files(folder: Path) -> list[Path]:
    """The sounds under a folder, as `files_in` finds them."""
    return files_in(folder, SUFFIXES)


def read_sounds(path: Path) -> Clips:
    """Return the clips of a folder, or the one of a file.

    Raises:
        ReadError: there are none, one cannot be read, is not mono with 16 bits, or has another rate; it is named.
    """
    files = sound_files(path) if path.is_dir() else [path]
    if not files:
        raise ReadError(f"the folder holds no sounds (files ending in {', '.join(sorted(SUFFIXES))})")
    read = [_read(file, str(file.relative_to(path)) if path.is_dir() else file.name) for file in files]
    rate = read[0][1]
    for file, (_, other) in zip(files, read, strict=True):
        if other != rate:
            raise ReadError(
                f"the sounds differ: {files[0].name} has {rate} samples a second, {file.name} has {other}; resample "
                "them to one rate first"
            )
    return Clips([clip for clip, _ in read], rate)


def _read(file: Path, name: str) -> tuple[np.ndarray, int]:
    import soundfile

    try:
        with soundfile.SoundFile(file) as sound:
            if sound.channels != 1:
                raise ReadError(f"the sound {name} has {sound.channels} channels; mix it down to one")
            if sound.subtype != "PCM_16":
                raise ReadError(
                    f"the sound {name} is stored as {sound.subtype}; save it with 16 bits a sample (PCM_16)"
                )
            clip, rate = sound.read(dtype="int16"), sound.samplerate
    except soundfile.LibsndfileError as err:
        raise ReadError(f"the sound {name} cannot be read ({err}); mend it or take it away") from None
    if not len(clip):
        raise ReadError(f"the sound {name} holds no samples; take it away")
    return clip, rate


def packed(clips: Clips, rate: int, suffix: str) -> bytes:
    """The clips end to end, as a file of that suffix."""
    import soundfile

    if suffix not in SUFFIXES:
        raise DataError(f"sounds can be written to {', '.join(sorted(SUFFIXES))}; got {suffix!r}")
    out = io.BytesIO()
    soundfile.write(out, np.concatenate(list(clips)), rate, format=suffix[1:].upper(), subtype="PCM_16")
    return out.getvalue()
