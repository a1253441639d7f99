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

    A quote that is never closed costs one line: what follows is read again, as if that line were not there. It may
    be the middle of a cell, so of these lines only rows with a cell for every column are taken.

    Raises:
        LagamcError: the header is no valid CSV, or a column stands twice.
    """
    records = _records(lines, source)
    _, _, _, header = next(records, (0, 0, False, list[str]()))
    if isinstance(header, LagamcError):
        raise header
    twice = sorted({name for name in header if header.count(name) > 1})
    if twice:
        raise LagamcError(f"{source}, line 1: the column {twice[0]!r} stands twice")
    for first, last, again, cells in records:
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
        elif cells and again and len(cells) < len(header):
            message = f"{len(cells)} of {len(header)} cells, behind a quote that is not closed"
            yield last, LagamcError(f"{source}, line {last}: {message}")
        elif cells:
            yield last, dict(zip(header, cells + [None] * (len(header) - len(cells)), strict=True))  # type: ignore[list-item]


def _records(lines: Iterable[str], source: str) -> Iterator[tuple[int, int, bool, list[str] | LagamcError]]:
    """First and last line of every record, whether it is read again, and its cells."""
    rest = iter(lines)
    again: deque[str] = deque()  # lines that a damaged record took up
    record: list[str] = []
    number = damaged = 0  # the last line that was taken, and the last one of a damaged record

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
            first, damaged = number - len(record) + 1, max(damaged, number)
            again.extendleft(reversed(record[1:]))
            number = first
            reader = csv.reader(feed(), strict=True)
            yield first, first, False, LagamcError(f"{source}, line {first}: not valid CSV ({error})")
        else:
            first = number - len(record) + 1
            yield first, number, first <= damaged, cells
