"""Rows of CSV files, with the mistakes found that the standard library lets pass."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Iterator

from lagamc.errors import LagamcError


def read_csv_rows(lines: Iterable[str], source: str) -> Iterator[tuple[int, dict[str, str]]]:
    """Line number and cells of every row.

    Args:
        lines: of the file, the header first.
        source: for messages.

    Raises:
        LagamcError: no valid CSV, a column stands twice, or a row has more cells than columns.
    """
    reader = csv.DictReader(lines)
    try:
        names = list(reader.fieldnames or [])
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise LagamcError(f"{source}, line 1: the column {twice[0]!r} stands twice")
        for row in reader:
            if None in row:
                extra = row[None]
                raise LagamcError(
                    f"{source}, line {reader.line_num}: {len(extra)} more cells than columns ({extra!r:.60}); "
                    "put a text that holds commas into double quotes"
                )
            yield reader.line_num, dict(row)
    except csv.Error as error:
        raise LagamcError(f"{source}, line {reader.line_num + 1}: not valid CSV ({error})") from error
