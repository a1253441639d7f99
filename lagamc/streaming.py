"""Prediction over files: reading in windows, writing in input order."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import IO, Any

from tqdm.auto import tqdm

from lagamc.classifier import LagamcClassifier, Prediction
from lagamc.data import Columns, Example, parse_example, parse_json_row, read_rows
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
            raise LagamcError(f"{source}: holds no rows")
    return summary


def read_inputs(source: str, columns: Columns) -> Iterator[Example]:
    """Texts of a file, one at a time, checked."""
    if source == STANDARD_STREAM:
        rows = (
            (number, parse_json_row(line, f"standard input, line {number}"))
            for number, line in enumerate(sys.stdin, start=1)
            if line.strip()
        )
        name = "standard input"
    else:
        rows, name = read_rows(source), source  # type: ignore[assignment]
    for number, row in rows:
        yield parse_example(row, f"{name}, line {number}", columns, str(number))


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
        yield sys.stdout
        return
    path = Path(target)
    partial = path.with_name(path.name + ".partial")
    try:
        with partial.open("w", encoding="utf-8") as output:
            yield output
        os.replace(partial, path)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise LagamcError(f"{target}: cannot be written ({error.strerror or error})") from error
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


def check_target(target: str) -> None:
    """Fails early where the output could not be written at the end.

    Raises:
        LagamcError: the folder is missing or not writable, or the place is a folder.
    """
    if target == STANDARD_STREAM:
        return
    path = Path(target)
    folder = path.parent
    if path.is_dir():
        raise LagamcError(f"{target}: is a folder, expected a file to write")
    if not folder.is_dir() or not os.access(folder, os.W_OK):
        raise LagamcError(f"{target}: the folder {str(folder)!r} does not exist or is not writable")
