"""Prediction over files: reading in windows, writing in input order."""

from __future__ import annotations

import io
import json
import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import IO, Any

from tqdm.auto import tqdm

from lagamc.classifier import LagamcClassifier, Prediction
from lagamc.data import Columns, Example, parse_example
from lagamc.rows import parse_json_row, read_rows
from lagamc.errors import LagamcError

STANDARD_STREAM = "-"


@dataclass
class PredictionSummary:
    """What a run over a file did."""

    rows: int = 0
    clipped: int = 0
    label_counts: dict[str, int] = field(default_factory=dict)

    def add(self, predictions: list[Prediction]) -> None:
        """Counts a window."""
        self.rows += len(predictions)
        for prediction in predictions:
            self.clipped += prediction.clipped
            for label in prediction.labels:
                self.label_counts[label] = self.label_counts.get(label, 0) + 1

    def __str__(self) -> str:
        given = sum(self.label_counts.values())
        counts = ", ".join(f"{k} {v}" for k, v in sorted(self.label_counts.items(), key=lambda pair: -pair[1]))
        return (
            f"{self.rows} rows, {given / max(1, self.rows):.2f} labels a row, "
            f"{self.clipped} texts cut to the model's input length; labels: {counts or 'none'}"
        )


def predict_file(
    classifier: LagamcClassifier,
    source: str,
    target: str,
    columns: Columns | None = None,
    window: int = 1024,
    progress: bool = True,
    **settings: Any,
) -> PredictionSummary:
    """Predicts every row of a file.

    The output appears whole or not at all: it is written beside its place and moved there at the end.

    Args:
        classifier: the model.
        source: JSONL, CSV or Parquet; `-` reads JSONL from the standard input.
        target: JSONL; `-` writes to the standard output.
        columns: where text and id stand.
        window: rows held in memory and sorted by length at a time.
        progress: whether a bar is shown on the standard error.
        settings: of `LagamcClassifier.predict`.

    Raises:
        LagamcError: a row is bad (with its line), the input is empty, or the output cannot be written.
    """
    summary = PredictionSummary()
    examples = read_inputs(source, columns or Columns())
    with _open_target(target) as output, tqdm(unit=" texts", disable=not progress, file=sys.stderr) as bar:
        while rows := list(islice(examples, window)):
            predictions = classifier.predict([row.text for row in rows], **settings)
            for row, prediction in zip(rows, predictions, strict=True):
                output.write(as_json(row.id, prediction) + "\n")
            summary.add(predictions)
            bar.update(len(rows))
        if summary.rows == 0:
            raise LagamcError(f"{'the standard input' if source == STANDARD_STREAM else source}: holds no rows")
    return summary


def read_inputs(source: str, columns: Columns) -> Iterator[Example]:
    """Texts of a file, one at a time, checked."""
    if source == STANDARD_STREAM:
        rows, name = _standard_input(), "standard input"
    else:
        rows, name = read_rows(source), source
    for number, row in rows:
        yield parse_example(row, f"{name}, line {number}", columns, str(number))


def _standard_input() -> Iterator[tuple[int, dict[str, Any]]]:
    stream = getattr(sys.stdin, "buffer", None)
    lines = sys.stdin if stream is None else io.TextIOWrapper(stream, encoding="utf-8-sig")
    try:
        for number, line in enumerate(lines, start=1):
            if line.strip():
                yield number, parse_json_row(line, f"standard input, line {number}")
    except UnicodeDecodeError as error:
        raise LagamcError(f"standard input: not UTF-8 text ({error.reason}); convert it first") from error


def as_json(identity: str, prediction: Prediction) -> str:
    """One line of the output."""
    return json.dumps(
        {
            "id": identity,
            "labels": prediction.labels,
            "scores": prediction.scores,
            "generated": prediction.generated,
        },
        ensure_ascii=False,
    )


@contextmanager
def _open_target(target: str) -> Iterator[IO[str]]:
    if target == STANDARD_STREAM:
        if isinstance(sys.stdout, io.TextIOWrapper):
            sys.stdout.reconfigure(encoding="utf-8")
        yield sys.stdout
        return
    path = Path(target).resolve()  # what a link points to is written, the link stays
    partial = None
    try:
        if path.exists() and not path.is_file():  # a device or a pipe: nothing to move into place
            with path.open("w", encoding="utf-8") as output:
                yield output
            return
        with tempfile.NamedTemporaryFile(
            "w", encoding="utf-8", dir=path.parent, prefix=f"{path.name}.", suffix=".partial", delete=False
        ) as output:
            partial = Path(output.name)
            yield output
        partial.chmod(0o666 & ~_umask())
        os.replace(partial, path)
    except OSError as error:
        raise LagamcError(f"{target}: cannot be written ({error.strerror or error})") from error
    finally:
        if partial is not None:
            partial.unlink(missing_ok=True)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def check_target(target: str, source: str = STANDARD_STREAM) -> None:
    """Fails early where the output could not be written at the end, or would replace the input.

    Raises:
        LagamcError: the folder is missing or not writable, or the place is a folder or the input.
    """
    if target == STANDARD_STREAM:
        return
    path = Path(target)
    folder = path.parent
    if path.is_dir():
        raise LagamcError(f"{target}: is a folder, expected a file to write")
    if not folder.is_dir() or not os.access(folder, os.W_OK):
        raise LagamcError(f"{target}: the folder {str(folder)!r} does not exist or is not writable")
    if source != STANDARD_STREAM and path.exists() and Path(source).exists() and path.samefile(source):
        raise LagamcError(f"{target}: input and output are the same file; the predictions would replace the texts")
