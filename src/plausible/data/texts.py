"""Text from files: one long string, or a list of short ones."""

from __future__ import annotations

import re
from statistics import median

from plausible.errors import ReadError

PROSE = frozenset((".md", ".tex", ".py", ".rst", ".html", ".c", ".h", ".js", ".rs", ".java", ".go", ".r", ".sh"))


def decode(raw: bytes) -> str:
    """Bytes as UTF-8 text.

    Raises:
        ReadError: they are not; the message holds the offset of the first bad byte.
    """
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as err:
        raise ReadError(
            f"byte {err.start:,} (0x{raw[err.start]:02x}) is not UTF-8; convert the file (iconv -f latin1 -t utf-8)"
        ) from None


def items(text: str) -> list[str]:
    """The lines of a text that hold something."""
    return [line.strip() for line in text.splitlines() if line.strip()]


def looks_like_items(text: str) -> bool:
    """Whether the lines are examples of their own: names, words, sentences; and not the lines of one long text."""
    lines = text.rstrip().splitlines()
    held = [line for line in lines if line.strip()]
    if len(held) < 20 or len(held) < 0.99 * len(lines):  # blank lines part paragraphs
        return False
    if median(map(len, held)) >= 60 or max(map(len, held)) > 200:
        return False
    if sum(bool(re.search(r"[{}<>;=\\]", line)) for line in held) > 0.05 * len(held):  # code, or markup
        return False
    words = median(len(line.split()) for line in held)
    sentences = sum(bool(re.search(r"[.!?][\"')]?\s*$", line)) for line in held)
    return words <= 3 or sentences > 0.8 * len(held)


def looks_like_table(text: str) -> bool:
    """Whether each line of a file of no known kind holds the same number of cells, most of them numbers."""
    from plausible.data.tables import is_number, sniff, split_rows

    head = text[: 1 << 16]
    lines = [line for line in head.splitlines() if line.strip()][:100]
    if len(head) < len(text):
        lines = lines[:-1]
    if len(lines) < 3:
        return False
    dialect = sniff("\n".join(lines), whole=True)
    rows = split_rows(lines, dialect.delimiter, dialect.quote)
    cells = [cell for row in rows[1:] for cell in row]
    return len({len(row) for row in rows}) == 1 and len(rows[0]) > 1 and sum(map(is_number, cells)) >= len(cells) / 2
