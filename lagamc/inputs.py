"""The texts of a prediction run: read one by one, checked before a model is loaded, told apart from others."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from lagamc.data import Columns, Example, parse_example
from lagamc.errors import LagamcError
from lagamc.rows import STANDARD_STREAM, scan_rows

ON_ERROR = ("fail", "skip")
WINDOW_CHARACTERS = 4 * 2**20  # of the texts held in memory at a time; the last one may go beyond
MOST_PROBLEMS = 200  # that are read before a run is refused
MOST_REASON = 500  # characters of a reason that are kept


@dataclass(frozen=True)
class BadRow:
    """A row that holds no text: where it stands, and why."""

    file: str
    line: int
    reason: str

    def __str__(self) -> str:
        return f"{self.file}, line {self.line}: {self.reason}"


@dataclass(frozen=True)
class InputCheck:
    """What a first pass over a file found.

    Args:
        rows: of the file, bad ones included.
        bad: those that hold no text.
        fingerprint: of the content.
        state: size in bytes and time of change.
    """

    rows: int
    bad: int
    fingerprint: str
    state: tuple[int, int]


def input_name(source: str) -> str:
    """As messages name it."""
    return "standard input" if source == STANDARD_STREAM else source


def read_inputs(source: str, columns: Columns) -> Iterator[Example | BadRow]:
    """Texts of a file, one at a time; a damaged row is given as such, and reading goes on.

    Args:
        source: as `rows.scan_rows` takes it.
        columns: where text and id stand.

    Raises:
        LagamcError: the file cannot be read as a whole.
    """
    name = input_name(source)
    for number, row in scan_rows(source, [columns.text, columns.id]):
        where = f"{name}, line {number}"
        try:
            if isinstance(row, LagamcError):
                raise row
            yield parse_example(row, where, columns, str(number))
        except LagamcError as error:
            yield BadRow(name, number, str(error).removeprefix(f"{where}: ")[:MOST_REASON])


def check_input(source: str, columns: Columns, on_error: str = "fail") -> InputCheck:
    """Reads a file once from end to end.

    Args:
        source: of a file.
        columns: where text and id stand.
        on_error: `fail`, bad rows are an error; `skip`, they are counted.

    Raises:
        LagamcError: rows are bad (with their lines), there are none, or the file cannot be read.
    """
    if on_error not in ON_ERROR:
        raise LagamcError(f"on_error: expected one of {list(ON_ERROR)}, found {on_error!r}")
    rows, bad, problems = 0, 0, list[str]()
    for row in read_inputs(source, columns):
        rows += 1
        if isinstance(row, BadRow):
            bad += 1
            if on_error == "fail":
                problems.append(str(row))
                if len(problems) == MOST_PROBLEMS:
                    break
    if problems:
        raise LagamcError(
            f"{LagamcError.from_problems('input', problems)}\n"
            "correct them, or go on without them: --on_error skip writes them into a file of their own"
        )
    if not rows:
        raise LagamcError(f"{input_name(source)}: holds no rows")
    return InputCheck(rows, bad, fingerprint([source]), file_state(source))


def file_state(path: str) -> tuple[int, int]:
    """Size and time of change (nanoseconds) of a file; zeros where it is gone."""
    try:
        found = os.stat(path)
    except OSError:
        return 0, 0
    return found.st_size, found.st_mtime_ns


def fingerprint(paths: Iterable[str | Path]) -> str:
    """A digest of the contents of files.

    Raises:
        LagamcError: one cannot be read.
    """
    digest = hashlib.sha256()
    for path in paths:
        try:
            with open(path, "rb") as file:
                single = hashlib.sha256()
                while block := file.read(2**20):
                    single.update(block)
        except OSError as error:
            raise LagamcError(f"{path}: cannot be read ({error.strerror or error})") from error
        digest.update(single.digest())
    return digest.hexdigest()


def windows(
    rows: Iterable[Example | BadRow], size: int, characters: int = WINDOW_CHARACTERS
) -> Iterator[list[Example | BadRow]]:
    """Rows in groups, which depend on nothing but the rows.

    Args:
        rows: any number.
        size: rows of a window at most.
        characters: of its texts, from which on it is closed.
    """
    window: list[Example | BadRow] = []
    length = 0
    for row in rows:
        window.append(row)
        length += len(row.text) + len(row.id) if isinstance(row, Example) else 0
        if len(window) == size or length >= characters:
            yield window
            window, length = [], 0
    if window:
        yield window
