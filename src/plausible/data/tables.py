"""Tables from files: CSV and its relatives, Parquet, JSON lines.

A delimited file says nothing of its own dialect, so `sniff` works it out from the first lines: delimiter, quote,
decimal sign, whether there is a header. `parse` then reads all of it, or chunks of it, in that dialect; `tidy` does
what pandas leaves undone: stray spaces, dates, cells that are lists.
"""

from __future__ import annotations

import csv
import io
import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import date
from typing import Any, TextIO

import numpy as np
import pandas as pd

from plausible.errors import ReadError
from plausible.space import MAX_LEVELS

MISSING = ("?", "", "NA", "N/A", "n/a", "NaN", "nan", "-nan", "-NaN", "null", "NULL", "None", "<NA>", "#N/A", "#NA")
SAMPLE = 1 << 18  # characters that the dialect is worked out from
DAY, TIME = r"\d{1,4}[-/.](\d{1,2}|[A-Za-z]{3})([-/.]\d{2,4})?", r"\d{1,2}(:?\d{2}){0,2}(\.\d+)?(Z|[+-]\d{2}:?\d{2})?"
DATE = re.compile(f"{DAY}([ T]{TIME})?")
DATE_FORMATS = ("ISO8601", "%Y/%m/%d", "%d.%m.%Y", "%d-%b-%y", "%d-%b-%Y", "%m/%d/%Y", "%d/%m/%Y", "%Y/%m/%d %H:%M:%S")


@dataclass(frozen=True)
class Dialect:
    """How a delimited file is written.

    Args:
        names: the columns, from the header, or c0, c1, ... where there is none.
        delimiter: one character, or ``\\s+`` for runs of blanks.
        skip: lines before the first row: comments, blank lines, the header.
        quote: what cells with a delimiter inside are wrapped in.
        decimal: '.' or ','.
        numbered: the first column has no name and counts the rows, as pandas writes an index; it is left out.
        header: whether the first row names the columns.
        notes: what was guessed, each with the way to override it.
    """

    names: tuple[str, ...]
    delimiter: str = ","
    skip: int = 0
    quote: str = '"'
    decimal: str = "."
    numbered: bool = False
    header: bool = True
    notes: tuple[str, ...] = ()

    @property
    def columns(self) -> tuple[str, ...]:
        """The names of what is read."""
        return self.names[self.numbered :]


# ------------------------------------------------------------------------------------------------------- dialect


def sniff(head: str, *, whole: bool, tabs: bool = False, header: bool | None = None) -> Dialect:
    """Work out the dialect of a delimited file from its first characters.

    Args:
        head: the first `SAMPLE` characters.
        whole: whether that is the whole file; if not, the last line is cut and is left out.
        tabs: the name of the file says that tabs delimit it.
        header: whether the first line names the columns; None guesses.
    """
    lines = [line.rstrip("\r\n") for line in io.StringIO(head, newline="")]
    start = next((i for i, line in enumerate(lines) if line.strip() and not line.startswith("#")), len(lines))
    body = lines[start:] if whole else lines[start:-1]
    body = [line for line in body if line.strip()][:2000]
    if not body:
        raise ReadError("the file holds no rows; expected lines of values")
    quote = _quote(body)
    delimiter = "\t" if tabs and any("\t" in line for line in body) else _delimiter(body, quote)
    rows = split_rows(body, delimiter, quote)
    decimal = "," if delimiter != "," and _decimal_comma(rows) else "."
    if decimal == ",":
        rows = [[cell.replace(",", ".") for cell in row] for row in rows]
    named, certain = _has_header(rows) if header is None else (header, True)
    notes = []
    if not named and header is None:
        notes.append("no header line found: columns named c0, c1, ... (if the first line is one: --header)")
    if named and not certain:
        notes.append("the first line taken as a header, as its words never occur again (if it is a row: --no-header)")
    if decimal == ",":
        notes.append("commas taken as decimal signs, as the delimiter is another")
    numbered = named and not rows[0][0] and _counts([r[0] for r in rows[1:]])
    if numbered:
        notes.append("the first column has no name and counts the rows: left out")
    names = [(named and cell) or f"c{i}" for i, cell in enumerate(rows[0])]
    return Dialect(tuple(names), delimiter, start + named, quote, decimal, numbered, named, tuple(notes))


def split_rows(lines: Iterable[str], delimiter: str, quote: str = '"') -> list[list[str]]:
    """Cut lines into stripped cells."""
    if delimiter == r"\s+":
        return [line.split() for line in lines]
    reader = csv.reader(lines, delimiter=delimiter, quotechar=quote, skipinitialspace=True)
    try:
        return [[cell.strip() for cell in row] for row in reader if row]
    except csv.Error as err:  # a cell of more than 131,072 characters
        raise ReadError(f"this cannot be read as a table ({err}); read it as text (--as text)") from None


def is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


def _quote(lines: list[str]) -> str:
    """A single quote where every one of them stands at the edge of a cell, as in some files of the UCI repository."""
    cells = [c.strip() for line in lines[:200] for c in re.split(r"[,;\t]", line)]
    quoted = [c for c in cells if "'" in c]
    wrapped = [c for c in quoted if len(c) > 1 and c[0] == c[-1] == "'" and c.count("'") == 2]
    return "'" if quoted and len(wrapped) == len(quoted) else '"'


def _delimiter(lines: list[str], quote: str) -> str:
    """The delimiter that cuts most lines into the same number (above one) of cells; ties go to more cells."""
    best, best_score = ",", (0.0, 0)
    for delimiter in (",", ";", "\t", "|"):
        counts = Counter(len(row) for row in split_rows(lines[:500], delimiter, quote))
        width, times = counts.most_common(1)[0]
        score = (round(times / sum(counts.values()), 1), width)
        if width > 1 and score > best_score:
            best, best_score = delimiter, score
    if best_score == (0.0, 0):
        rows = [line.split() for line in lines]
        if len(rows[0]) > 1 and all(len(r) == len(rows[0]) for r in rows) and all(map(is_number, rows[-1])):
            return r"\s+"
    return best


def _decimal_comma(rows: list[list[str]]) -> bool:
    cells = [cell for row in rows[1:] for cell in row]
    commas = sum(bool(re.fullmatch(r"-?\d+,\d+", c)) for c in cells)
    return commas > 0 and not any(re.fullmatch(r"-?\d+\.\d+", c) for c in cells)


def _counts(cells: list[str]) -> bool:
    """Whether the cells are 0, 1, 2, ... or 1, 2, 3, ..."""
    return len(cells) > 1 and any(cells == [str(i + s) for i in range(len(cells))] for s in (0, 1))


def _type(cell: str) -> str | None:
    if cell in MISSING:
        return None
    return "number" if is_number(cell) else "date" if DATE.fullmatch(cell) else "word"


def _has_header(rows: list[list[str]]) -> tuple[bool, bool]:
    """Whether the first row is a header: words over columns that hold something else, or that never occur again.

    Also returns whether that is certain.
    """
    first, rest = rows[0], rows[1:]
    if not rest:
        return not any(map(is_number, first)), True
    types = [{_type(r[d]) for r in rest if d < len(r)} - {None} for d in range(len(first))]
    if any(_type(cell) == "word" and held and "word" not in held for cell, held in zip(first, types, strict=True)):
        return True, True
    if any(_type(cell) in ("number", "date") for cell in first):
        return len(first) > 2 and _counts(first), True
    again = [any(d < len(r) and r[d] == cell for r in rest) for d, cell in enumerate(first)]
    return not any(again) and all(first), False


# ------------------------------------------------------------------------------------------------------- reading


def parse(handle: TextIO, dialect: Dialect, *, dtype: dict[str, Any] | None = None, chunk: int | None = None) -> Any:
    """Read a delimited file: a DataFrame, or an iterator of DataFrames of `chunk` rows.

    Raises:
        ReadError: a line has more cells than the first one, or a quote is never closed.
    """
    for _ in range(dialect.skip):
        handle.readline()
    names = dialect.names
    types = {d: dtype[name] for d, name in enumerate(names) if name in dtype} if dtype else None
    try:
        found = pd.read_csv(
            handle,
            sep=dialect.delimiter,
            header=None,
            na_values=list(MISSING),
            skipinitialspace=True,
            dtype=types,
            quotechar=dialect.quote,
            decimal=dialect.decimal,
            chunksize=chunk,
            low_memory=False,
        )
        return _named(found, dialect) if chunk is None else _chunks(found, dialect)
    except (pd.errors.ParserError, pd.errors.EmptyDataError) as err:
        raise _parse_error(err, dialect) from None


def _chunks(reader: Iterable, dialect: Dialect) -> Iterator[pd.DataFrame]:
    try:
        for frame in reader:
            yield _named(frame, dialect)
    except pd.errors.ParserError as err:
        raise _parse_error(err, dialect) from None
    except UnicodeDecodeError:
        raise ReadError("the file is not UTF-8 text; convert it (iconv -f latin1 -t utf-8)") from None


def _named(frame: pd.DataFrame, dialect: Dialect) -> pd.DataFrame:
    if frame.shape[1] != len(dialect.names):
        raise ReadError(
            f"the header names {len(dialect.names)} columns, but the rows have {frame.shape[1]} cells; "
            "mend the header, or say that there is none (--no-header)"
        )
    frame.columns = pd.Index(dialect.names)
    return frame.iloc[:, 1:] if dialect.numbered else frame


def _parse_error(err: Exception, dialect: Dialect) -> ReadError:
    if isinstance(err, pd.errors.EmptyDataError):
        return ReadError("the file holds a header line but no rows; at least 2 rows are needed")
    ragged = re.search(r"Expected (\d+) fields in line (\d+), saw (\d+)", str(err))
    if ragged:
        expected, line, saw = map(int, ragged.groups())
        return _ragged(line + dialect.skip, saw, expected)
    return ReadError(f"this cannot be read as a table ({str(err).strip()}); mend it, or read it as text (--as text)")


def _ragged(line: int, saw: int, expected: int) -> ReadError:
    return ReadError(f"line {line} has {saw} cells where the first row has {expected}; mend that line")


def check_widths(text: str, dialect: Dialect) -> None:
    """Raise where a row is shorter than the first: pandas fills such rows with missing cells and says nothing."""
    width = len(dialect.names)
    if dialect.delimiter == r"\s+":
        rows = ((i, line.split()) for i, line in enumerate(text.splitlines(), 1))
    else:
        lines = io.StringIO(text, newline="")
        reader = csv.reader(lines, delimiter=dialect.delimiter, quotechar=dialect.quote, skipinitialspace=True)
        rows = ((reader.line_num, row) for row in reader)
    for line, row in rows:
        if line > dialect.skip and len(row) < width and any(cell.strip() for cell in row):
            raise _ragged(line, len(row), width)


def read_delimited(text: str, *, tabs: bool = False, header: bool | None = None) -> tuple[pd.DataFrame, tuple]:
    """Return the frame that a delimited text holds and what was guessed about it."""
    dialect = sniff(text[:SAMPLE], whole=len(text) <= SAMPLE, tabs=tabs, header=header)
    frame = parse(io.StringIO(text, newline=""), dialect)
    if frame.iloc[:, -1].isna().any():
        check_widths(text, dialect)
    return frame, dialect.notes


def read_json(text: str) -> pd.DataFrame:
    """Read JSON lines (an object on each), or one JSON array of objects."""
    try:
        rows = json.loads(text)
    except json.JSONDecodeError as err:
        if text.lstrip().startswith("["):
            raise ReadError(f"line {err.lineno} is not JSON ({err.msg})") from None
        rows = [_json_line(i, line) for i, line in enumerate(text.splitlines(), 1) if line.strip()]
    rows = [rows] if isinstance(rows, dict) and "\n" not in text.strip() else rows
    if not rows or not all(isinstance(row, dict) for row in rows):
        raise ReadError('expected a JSON object on each line, such as {"age": 39, "sex": "Male"}')
    return pd.DataFrame.from_records(rows)


def _json_line(number: int, line: str) -> Any:
    try:
        return json.loads(line)
    except json.JSONDecodeError as err:
        raise ReadError(f"line {number} is not JSON ({err.msg}); expected one object on each line") from None


# ---------------------------------------------------------------------------------------------------------- tidy


def is_words(column: pd.Series) -> bool:
    """Whether a column holds strings (and not, say, booleans among missing cells)."""
    return isinstance(column.dtype, pd.StringDtype) or (
        column.dtype == object and pd.api.types.infer_dtype(column, skipna=True) == "string"
    )


def tidy(frame: pd.DataFrame, *, untouched: Iterable[str] = ()) -> tuple[pd.DataFrame, tuple[str, ...]]:
    """Strip spaces, turn dates into datetimes, refuse cells that are lists.

    Args:
        frame: as read.
        untouched: columns whose kind the user has given, which are never taken for dates.
    """
    frame, notes = frame.copy(deep=False), []
    frame.columns = pd.Index([str(n) for n in frame.columns])
    if not frame.columns.is_unique:
        return frame, ()  # `space.infer` names the column that occurs twice
    for name in frame.columns:
        frame[name] = tidy_column(name, frame[name])
        if name not in untouched and is_words(frame[name]):
            format = date_format(frame[name])
            if format is not None:
                frame[name] = pd.to_datetime(frame[name], format=format)
                notes.append(f"column {name!r} read as dates (to keep it as levels: --kind {name}=categorical)")
    return frame, tuple(notes)


def tidy_column(name: str, column: pd.Series) -> pd.Series:
    if is_words(column):
        stripped = column.str.strip()
        if (stripped.str.len() < column.str.len()).any():
            stripped = stripped.mask(stripped.isin(MISSING))
            numbers = pd.to_numeric(stripped, errors="coerce")
            return numbers if (numbers.isna() == stripped.isna()).all() else stripped
        _check_numbers(name, column)
        return column
    if column.dtype == object:
        known = column.dropna()
        if len(known) and isinstance(known.iloc[0], (list, dict, tuple, np.ndarray)):
            raise ReadError(f"column {name!r} holds a {type(known.iloc[0]).__name__}; drop it (--drop {name})")
        if len(known) and isinstance(known.iloc[0], date):
            return pd.to_datetime(column)
    if pd.api.types.is_timedelta64_dtype(column.dtype):
        return column.dt.total_seconds()
    return column


def _check_numbers(name: str, column: pd.Series) -> None:
    """Raise where a column would be of numbers but for a few cells: its thousand strings are no levels."""
    known = column.dropna()
    if known.nunique() <= MAX_LEVELS:
        return
    other = known[pd.to_numeric(known, errors="coerce").isna()]
    if len(other) <= 0.05 * len(known):
        row = column.index.get_loc(other.index[0]) + 1
        raise ReadError(
            f"column {name!r} holds numbers, but also {other.iloc[0]!r} (row {row}; {len(other)} such cells); "
            f"mend or empty those cells, or drop the column (--drop {name})"
        )


def looks_like_dates(column: pd.Series) -> bool:
    """Whether each of the first known values of a column of strings has the shape of a date."""
    known = column.dropna()
    return len(known) > 0 and all(DATE.fullmatch(v) for v in known.head(50))


def date_format(column: pd.Series) -> str | None:
    """The format in which every known value of a column of strings is a date, or None.

    10/12/2020 is a day in October or in December: where both readings are possible, the one that makes the column
    increase or decrease throughout is taken, else the first.
    """
    if not looks_like_dates(column):
        return None
    possible = {}
    for format in DATE_FORMATS:
        try:
            dates = pd.to_datetime(column, format=format, errors="coerce")
        except ValueError:  # time zones that differ from row to row
            continue
        if dates.dtype != object and (dates.isna() == column.isna()).all():
            possible[format] = dates.is_monotonic_increasing or dates.is_monotonic_decreasing
    return max(possible, key=possible.get, default=None)  # the first of those that are ordered, else the first
