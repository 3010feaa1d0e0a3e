"""Lists that are tables: CSV and Parquet, read row by row so that a bad row costs itself alone."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from curation.formats.base import Entry, malformed
from warehouse.errors import FormatError

_WHOLE = re.compile(r"(\d{1,18})(?:\.0*)?", re.ASCII)


@dataclass(frozen=True)
class Row:
    """One row of a CSV file and the lines that it takes."""

    where: str
    cells: tuple[str, ...]


def csv_rows(path: Path) -> Iterator[Row | Entry]:
    """Rows of a CSV file in UTF-8 (with or without a byte order mark); for a row that is none, an entry that says why.

    Empty lines are passed over. Quotes may hold line breaks, and are doubled inside, as RFC 4180 has it.

    Raises:
        FormatError: the file cannot be read.
    """
    try:
        text = path.read_bytes().decode("utf-8-sig", "surrogateescape")
    except OSError as error:
        raise FormatError(f"{path} cannot be read ({error.strerror}); name a CSV file") from error
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    while True:
        first = reader.line_num + 1
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            yield malformed(_lines(first, reader.line_num), "bad_csv", f"it is no row of a CSV file: {error}")
            continue
        where = _lines(first, reader.line_num)
        if any(_is_foreign(cell) for cell in cells):
            yield malformed(where, "not_utf8", "it is not in UTF-8; convert the list, with iconv for example")
        elif cells:
            yield Row(where, tuple(cells))


def _lines(first: int, last: int) -> str:
    return f"line {first}" if last <= first else f"lines {first} to {last}"


def _is_foreign(text: str) -> bool:
    return any("\udc80" <= character <= "\udcff" for character in text)


def headed_rows(path: Path, required: Sequence[str]) -> Iterator[tuple[str, dict[str, Any]] | Entry]:
    """(place, values by column) of every row of a CSV or Parquet file with a header; an empty cell is None.

    Raises:
        FormatError: the file cannot be read, or its header lacks a required column or names one twice.
    """
    if path.suffix == ".parquet":
        yield from _parquet_rows(path, required)
        return
    rows = csv_rows(path)
    header = next(rows, None)
    if not isinstance(header, Row):
        why = f": {header.detail}" if header else ""
        raise FormatError(f"{path} has no header; expected a first line with {', '.join(required)}{why}")
    names = [cell.strip() for cell in header.cells]
    _check_header(path, names, required)
    for row in rows:
        if isinstance(row, Entry):
            yield row
        elif len(row.cells) != len(header.cells):
            found = f"it has {len(row.cells)} columns, the header {len(header.cells)}"
            yield malformed(row.where, "wrong_columns", f"{found}; commas in a caption need quotes around it")
        else:
            yield row.where, {n: c or None for n, c in zip(names, row.cells, strict=True)}


def _check_header(path: Path, names: Sequence[str], required: Sequence[str]) -> None:
    missing = [n for n in required if n not in names]
    doubled = sorted({n for n in names if names.count(n) > 1})
    if missing or doubled:
        what = f"lacks {', '.join(missing)}" if missing else f"names {', '.join(doubled)} twice"
        raise FormatError(f"the header of {path} {what}; it has {', '.join(names)}")


def _parquet_rows(path: Path, required: Sequence[str]) -> Iterator[tuple[str, dict[str, Any]]]:
    try:
        file = pq.ParquetFile(path)
    except (pa.ArrowInvalid, OSError) as error:
        raise FormatError(f"{path} cannot be read as Parquet: {error}") from error
    with file:
        _check_header(path, file.schema_arrow.names, required)
        number = 0
        for batch in file.iter_batches(batch_size=1024):
            for values in batch.to_pylist():
                number += 1
                yield f"row {number}", values


def write_csv(path: Path, rows: Sequence[Sequence[Any]]) -> None:
    """Writes rows as UTF-8 with plain line ends; None is an empty cell, a float keeps all its digits."""
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows(rows)


def whole(value: Any) -> int | None:
    """A cell as a number of frames; None where it is something else.

    ``83.0`` is one: a data frame in which any cell of the column is missing holds floats, and writes them so.
    """
    found = _WHOLE.fullmatch(str(value).strip())
    return int(found[1]) if found else None
