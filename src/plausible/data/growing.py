"""Files that grow as an example is drawn: what was written stays, whenever one stops."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

from plausible.errors import DataError
from plausible.space import Space

FORMS = {"text": (".txt",), "series": (".csv",), "audio": (".wav", ".flac")}


def check_growing(path: Path | None, space: Space) -> None:
    """Refuse what no example of this space can be written to piece by piece; None is standard output."""
    if space.type not in FORMS:
        raise DataError(f"{space.type} samples are drawn whole; only text, series and sound go on and on")
    forms = FORMS[space.type]
    if path is None and space.type == "audio":
        raise DataError(f"sounds cannot be printed; write them to a file: -o sample{forms[0]}")
    if path is not None and path.suffix.lower() not in forms:
        raise DataError(f"{space.type} that grows can be written to {', '.join(forms)}; got {path.name!r}")


def write_growing(blocks: Iterable[Any], where: Path | TextIO, space: Space) -> int:
    """Write blocks of one example as they come.

    Args:
        blocks: as `uses.stream.stream` yields them.
        where: .txt for text, .csv for a series, .wav or .flac for sound; or an open stream for the first two.
        space: what they are of (``model.space_``).

    Returns:
        How many steps (or characters) were written. An interrupt leaves a whole file of those until then.
    """
    n = 0
    with _writer(where, space) as put:
        for block in blocks:
            put(block)
            n += len(block)
    return n


@contextmanager
def _writer(where: Path | TextIO, space: Space) -> Iterator[Callable[[Any], None]]:
    """What writes a block."""
    if space.type == "audio":
        import soundfile

        with soundfile.SoundFile(where, "w", space.rate, 1, "PCM_16") as sound:
            yield sound.write
    elif isinstance(where, Path):
        with where.open("w", newline="") as file:
            yield _lines(file, space)
    else:
        yield _lines(where, space)


def _lines(file: TextIO, space: Space) -> Callable[[Any], None]:
    rows = csv.writer(file, lineterminator="\n")
    if space.type == "series":
        rows.writerow(c.name.rpartition("[")[0] for c in space.columns[: space.shape[1]])

    def put(block: Any) -> None:
        if space.type == "text":
            file.write(block)
        else:
            rows.writerows(block.tolist())
        file.flush()

    return put
