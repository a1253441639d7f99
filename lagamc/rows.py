"""Rows of JSONL, CSV and Parquet files, one after the other in constant memory; a damaged line is found alone."""

from __future__ import annotations

import gzip
import io
import json
import sys
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from lagamc.csv_rows import MAX_RECORD, scan_csv_rows
from lagamc.errors import LagamcError

STANDARD_STREAM = "-"
ENDINGS = (".jsonl", ".json", ".csv", ".parquet")
COMPRESSED = ".gz"
MAX_LINE = 8 * 2**20  # bytes of a line
BATCH = 1024  # rows of a Parquet file in memory

Row = dict[str, Any]


def check_ending(path: str | Path) -> str:
    """The ending that tells a file's format, in small letters and without that of compression.

    Raises:
        LagamcError: it is none of a format that can be read.
    """
    suffixes = [suffix.lower() for suffix in Path(path).suffixes]
    compressed = suffixes[-1:] == [COMPRESSED]
    ending = "".join(suffixes[-2 if compressed else -1 :][:1])
    if ending not in ENDINGS or (compressed and ending == ".parquet"):
        found = "".join(suffixes[-2 if compressed else -1 :]) or "no ending"
        raise LagamcError(
            f"{path}: expected a file that ends in {', '.join(ENDINGS)}, found {found!r}; "
            f"JSONL and CSV may end in {COMPRESSED} too"
        )
    return ending


def read_rows(path: str | Path, problems: list[str] | None = None) -> Iterator[tuple[int, Row]]:
    """Rows of a file with their line (Parquet: row) numbers, from 1.

    Args:
        path: JSONL, CSV or Parquet; `-` is JSONL from the standard input.
        problems: takes the message of every line that cannot be read, in place of an error.

    Raises:
        LagamcError: the file is missing or of another kind, or a line cannot be read.
    """
    for number, row in scan_rows(path):
        if not isinstance(row, LagamcError):
            yield number, row
        elif problems is None:
            raise row
        else:
            problems.append(str(row))


def scan_rows(path: str | Path, columns: list[str] | None = None) -> Iterator[tuple[int, Row | LagamcError]]:
    """As `read_rows`, but a damaged line is given as its error, and reading goes on. Blank lines are passed over.

    Args:
        path: of the file, or `-`.
        columns: those that are needed; saves the reading of others in a Parquet file.

    Raises:
        LagamcError: the file is missing, of another kind, or damaged as a whole.
    """
    if str(path) == STANDARD_STREAM:
        yield from _scan_jsonl(_standard_input(), "standard input")
        return
    path = Path(path)
    ending = check_ending(path)
    try:
        if not path.is_file():
            raise LagamcError(f"{path}: {'is a folder, expected a file' if path.exists() else 'no such file'}")
        if ending == ".parquet":
            yield from _scan_parquet(path, columns)
            return
        with gzip.open(path) if path.suffix.lower() == COMPRESSED else path.open("rb") as stream:
            yield from (_scan_csv if ending == ".csv" else _scan_jsonl)(stream, str(path))  # type: ignore[arg-type]
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise LagamcError(f"{path}: not a whole gzip file ({error}); copy or compress it again") from error
    except OSError as error:
        raise LagamcError(f"{path}: cannot be read ({error.strerror or error})") from error


def parse_json_row(line: str, where: str) -> Row:
    """One line of JSONL.

    Raises:
        LagamcError: the line is not one JSON object, or a key stands twice in it.
    """
    try:
        row = json.loads(line, object_pairs_hook=without_repeats)
    except LagamcError as error:
        raise LagamcError(f"{where}: {error}") from error
    except (ValueError, RecursionError) as error:
        reason = getattr(error, "msg", None) or f"{type(error).__name__}: {error}"
        raise LagamcError(f"{where}: not valid JSON ({reason}); expected one object a line") from error
    if not isinstance(row, dict):
        raise LagamcError(f"{where}: expected a JSON object, found {type(row).__name__}")
    return row


def without_repeats(pairs: list[tuple[str, Any]], noun: str = "key") -> Row:
    """An object of JSON from the pairs that `object_pairs_hook` is given.

    Args:
        pairs: key and value.
        noun: what a key is called.

    Raises:
        LagamcError: a key stands twice; `json` would take the last one.
    """
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise LagamcError(f"the {noun} {twice!r} stands twice; keep one of them")
    return found


NO_TEXT = "holds half a character (a lone surrogate), which is no text"  # what is not encodable


def is_encodable(text: str) -> bool:
    """Whether a string can be written as UTF-8: one with a lone surrogate cannot."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def _lines(stream: IO[bytes], source: str) -> Iterator[tuple[int, bytes | None]]:
    """Lines with their numbers, None for one that is too long."""
    number = 0
    while line := stream.readline(MAX_LINE + 1):
        number += 1
        if number == 1:
            if line.startswith((b"\xff\xfe", b"\xfe\xff")):
                raise LagamcError(f"{source}: not UTF-8 text (it begins as UTF-16 does); convert it first")
            line = line.removeprefix(b"\xef\xbb\xbf")
        if len(line) > MAX_LINE and not line.endswith(b"\n"):
            while (rest := stream.readline(MAX_LINE)) and not rest.endswith(b"\n"):
                pass
            yield number, None
        else:
            yield number, line


def _scan_jsonl(stream: IO[bytes], source: str) -> Iterator[tuple[int, Row | LagamcError]]:
    for number, line in _lines(stream, source):
        where = f"{source}, line {number}"
        try:
            if line is None:
                raise LagamcError(f"{where}: longer than {MAX_LINE:,} bytes; cut its text into several rows")
            if line.strip():
                yield number, parse_json_row(line.decode(), where)
        except UnicodeDecodeError as error:
            yield (
                number,
                LagamcError(f"{where}: not UTF-8 text ({error.reason} at byte {error.start}); convert it first"),
            )
        except LagamcError as error:
            yield number, error


def _scan_csv(stream: IO[bytes], source: str) -> Iterator[tuple[int, Row | LagamcError]]:
    refused = " " * (MAX_RECORD + 1)  # in place of a line too long to be held, which no reader of records takes either
    lines = (refused if line is None else line.decode(errors="surrogateescape") for _, line in _lines(stream, source))
    for number, row in scan_csv_rows(lines, source):
        if not isinstance(row, LagamcError) and not all(is_encodable(cell or "") for cell in row.values()):
            row = LagamcError(f"{source}, line {number}: not UTF-8 text; convert it first")
        yield number, row


def _scan_parquet(path: Path, columns: list[str] | None) -> Iterator[tuple[int, Row | LagamcError]]:
    import pyarrow
    from pyarrow import parquet

    number = 0
    try:
        with parquet.ParquetFile(path, buffer_size=2**16, pre_buffer=False) as file:
            found = file.schema_arrow.names
            wanted = None if columns is None else [name for name in columns if name in found]
            # without any of the columns the rows must still be counted and reported
            for batch in file.iter_batches(BATCH, columns=wanted or None):
                for row in _batch_rows(batch):
                    number += 1
                    if isinstance(row, str):
                        yield number, LagamcError(f"{path}, line {number}: cannot be read ({row})")
                    else:
                        yield number, row
    except (pyarrow.ArrowException, OSError) as error:
        at = f" behind row {number}" if number else ""
        raise LagamcError(f"{path}: not a Parquet file, or damaged{at} ({error})") from error


def _batch_rows(batch: Any) -> Iterator[Row | str]:
    """Rows of a batch, or why one cannot be had: Parquet keeps bytes that are no text, and dates beyond all years."""
    try:
        yield from batch.to_pylist()
        return
    except (ValueError, OverflowError):
        pass
    for place in range(batch.num_rows):
        try:
            yield batch.slice(place, 1).to_pylist()[0]
        except (ValueError, OverflowError) as error:
            yield f"{type(error).__name__}: {error}"


def _standard_input() -> IO[bytes]:
    stream = getattr(sys.stdin, "buffer", None)
    return io.BytesIO(sys.stdin.read().encode()) if stream is None else stream
