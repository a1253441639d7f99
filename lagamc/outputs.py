"""The output of a prediction run: where it goes, what it counts, and streams, which take it as it comes."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from lagamc.errors import LagamcError
from lagamc.rows import STANDARD_STREAM

ERRORS = ".errors.jsonl"
OTHER_KINDS = (".csv", ".tsv", ".parquet", ".gz")  # endings that promise what is not written


@dataclass
class PredictionSummary:
    """What a run over a file, or a part of it, did.

    Args:
        rows: that were predicted.
        failures: bad rows.
        clipped: texts that were cut to the model's input length.
        label_counts: label -> rows it was given to.
        seconds: of this run; those before a stop are not counted.
    """

    rows: int = 0
    failures: int = 0
    clipped: int = 0
    label_counts: dict[str, int] = field(default_factory=dict)
    seconds: float = 0.0

    def add(self, other: PredictionSummary) -> None:
        """Counts another part."""
        self.rows += other.rows
        self.failures += other.failures
        self.clipped += other.clipped
        for label, count in other.label_counts.items():
            self.label_counts[label] = self.label_counts.get(label, 0) + count

    def __str__(self) -> str:
        given = sum(self.label_counts.values())
        counts = ", ".join(f"{k} {v}" for k, v in sorted(self.label_counts.items(), key=lambda pair: -pair[1]))
        rows = max(1, self.rows)
        return (
            f"{self.rows} rows, {given / rows:.2f} labels a row, {self.failures} bad rows left out, "
            f"{self.clipped} texts ({self.clipped / rows:.1%}) cut to the model's input length; "
            f"labels: {counts or 'none'}"
        )


def is_stream(target: str) -> bool:
    """Whether an output is the standard output, a device or a pipe: nothing that could be moved into place."""
    return target == STANDARD_STREAM or (Path(target).exists() and not Path(target).is_file())


def errors_path(target: str) -> Path:
    """Where the bad rows of a run go."""
    path = real_path(target)
    return path.with_name(path.name + ERRORS)


def real_path(target: str) -> Path:
    """What a link points to is written, the link stays."""
    return Path(os.path.realpath(target))


def check_target(target: str, *sources: str) -> None:
    """Fails early where the output could not be written at the end, or would replace what is read.

    Args:
        target: the output.
        sources: files that are read, or have to stay.

    Raises:
        LagamcError: the folder is missing or not writable, or the place is a folder or a source.
    """
    if target == STANDARD_STREAM:
        return
    path = Path(target)
    folder = real_path(target).parent
    with writing(target):
        if path.suffix.lower() in OTHER_KINDS:
            raise LagamcError(
                f"{target}: predictions are written as JSONL, found the ending {path.suffix!r}; name a file that ends "
                "in .jsonl"
            )
        if path.is_dir():
            raise LagamcError(f"{target}: is a folder, expected a file to write")
        if not folder.is_dir() or not (is_stream(target) or os.access(folder, os.W_OK)):
            place = folder if path.is_symlink() else path.parent
            raise LagamcError(f"{target}: the folder {str(place)!r} does not exist or is not writable")
        for source in sources:
            for place in (path, errors_path(target)):
                if source != STANDARD_STREAM and place.exists() and Path(source).exists() and place.samefile(source):
                    what = "the output" if place == path else f"the output's file of bad rows ({place.name})"
                    raise LagamcError(f"{target}: {what} would replace {source}, which is needed; name another file")


@contextmanager
def writing(target: str) -> Iterator[None]:
    """Turns what the system says about a write into an error that names the output."""
    try:
        yield
    except BrokenPipeError:  # the reader of our output went away
        raise
    except OSError as error:
        raise LagamcError(f"{target}: cannot be written ({error.strerror or error})") from error


class StreamOutput:
    """The standard output, a device or a pipe: windows are written as they come, bad rows go to the standard error."""

    windows = 0

    def __init__(self, target: str):
        self.target, self.summary = target, PredictionSummary()
        self._file: IO[bytes] | None = None
        if target != STANDARD_STREAM:
            with writing(target):
                self._file = open(target, "wb", buffering=0)  # noqa: SIM115

    def write(self, lines: Sequence[str], errors: Sequence[Mapping[str, Any]], summary: PredictionSummary) -> None:
        """One window: its lines without their ends, its bad rows, its counts."""
        for error in errors:
            print("left out: {file}, line {line}: {reason}".format(**error), file=sys.stderr)
        with writing("standard output" if self.target == STANDARD_STREAM else self.target):
            content = "".join(line + "\n" for line in lines)
            if self._file is not None:
                data = memoryview(content.encode())
                while data:
                    data = data[self._file.write(data) :]
            elif hasattr(sys.stdout, "buffer"):
                sys.stdout.buffer.write(content.encode())
                sys.stdout.buffer.flush()
            else:
                sys.stdout.write(content)
        self.summary.add(summary)

    def close(self) -> None:
        """Lets go of the file."""
        if self._file is not None:
            self._file.close()
