"""Rows of CSV files, with the mistakes found that the standard library lets pass."""

from __future__ import annotations

import csv
from collections import deque
from collections.abc import Iterable, Iterator

from lagamc.errors import LagamcError

MAX_RECORD = 2**20  # characters of a row, line breaks in its cells included


def read_csv_rows(lines: Iterable[str], source: str) -> Iterator[tuple[int, dict[str, str]]]:
    """Line number and cells of every row.

    Args:
        lines: of the file, the header first.
        source: for messages.

    Raises:
        LagamcError: no valid CSV, a column stands twice, or a row has more cells than columns.
    """
    for number, row in scan_csv_rows(lines, source):
        if isinstance(row, LagamcError):
            raise row
        yield number, row


def scan_csv_rows(lines: Iterable[str], source: str) -> Iterator[tuple[int, dict[str, str] | LagamcError]]:
    """As `read_csv_rows`, but a damaged row is given as its error, and reading goes on.

    A quote that is never closed costs one line: what follows is read again, as if that line were not there.

    Raises:
        LagamcError: the header is no valid CSV, or a column stands twice.
    """
    records = _records(lines, source)
    _, _, header = next(records, (0, 0, list[str]()))
    if isinstance(header, LagamcError):
        raise header
    twice = sorted({name for name in header if header.count(name) > 1})
    if twice:
        raise LagamcError(f"{source}, line 1: the column {twice[0]!r} stands twice")
    for first, last, cells in records:
        if isinstance(cells, LagamcError):
            yield first, cells
        elif len(cells) > len(header):
            extra = cells[len(header) :]
            yield (
                last,
                LagamcError(
                    f"{source}, line {last}: {len(extra)} more cells than columns ({extra!r:.60}); "
                    "put a text that holds commas into double quotes"
                ),
            )
        elif cells:
            yield last, dict(zip(header, cells + [None] * (len(header) - len(cells)), strict=True))  # type: ignore[list-item]


def _records(lines: Iterable[str], source: str) -> Iterator[tuple[int, int, list[str] | LagamcError]]:
    """First and last line and the cells of every record."""
    rest = iter(lines)
    again: deque[str] = deque()  # lines that a damaged record took up
    record: list[str] = []
    number = 0  # of the last line that was taken

    def feed() -> Iterator[str]:
        nonlocal number
        length = 0
        while (line := again.popleft() if again else next(rest, None)) is not None:
            number += 1
            if not record:
                length = 0
            record.append(line)
            length += len(line)
            if length > MAX_RECORD:
                raise csv.Error(f"the row is longer than {MAX_RECORD:,} characters")
            yield line

    reader = csv.reader(feed(), strict=True)
    while True:
        record.clear()
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            first = number - len(record) + 1
            again.extendleft(reversed(record[1:]))
            number = first
            reader = csv.reader(feed(), strict=True)
            yield first, first, LagamcError(f"{source}, line {first}: not valid CSV ({error})")
        else:
            yield number - len(record) + 1, number, cells
