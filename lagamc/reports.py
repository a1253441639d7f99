"""Tables of a run."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Any

from lagamc.data import Columns, Example
from lagamc.errors import LagamcError
from lagamc.inputs import BadRow, read_inputs
from lagamc.rows import read_rows

WIDTHS = (46, 20, 48)


def table(header: Sequence[str], rows: Sequence[Sequence[str]], widths: Sequence[int] = WIDTHS) -> str:
    """Rows of text as a table whose cells wrap.

    Args:
        header: a title per column.
        rows: cells.
        widths: characters per column.
    """
    rule = "-+-".join("-" * width for width in widths)

    def lines(cells: Sequence[str]) -> list[str]:
        wrapped = [textwrap.wrap(cell, width) or [""] for cell, width in zip(cells, widths, strict=True)]
        return [
            " | ".join(
                (part[i] if i < len(part) else "").ljust(width) for part, width in zip(wrapped, widths, strict=True)
            )
            for i in range(max(map(len, wrapped)))
        ]

    parts = [*lines(header), rule]
    for cells in rows:
        parts += [*lines(cells), rule]
    return "\n".join(line.rstrip() for line in parts)


def prediction_table(predictions: str | Path, inputs: str | Path, columns: Columns, limit: int | None = None) -> str:
    """Texts beside their predicted labels and generated descriptions.

    Args:
        predictions: as `run_infer.py` wrote them.
        inputs: what they were made from, in the same order; rows that hold no text have no prediction.
        columns: where the text stands in the inputs.
        limit: the first rows alone.

    Raises:
        LagamcError: a file cannot be read, or the two do not belong together.
    """
    bad: list[BadRow] = []

    def texts() -> Iterator[Example]:
        for row in read_inputs(str(inputs), columns):
            if isinstance(row, Example):
                yield row
            else:
                bad[:] = bad or [row]

    rows: list[tuple[str, str, str]] = []
    held = [0, 0]  # predictions, texts: all are counted, the first ones alone are kept
    for found, example in zip_longest(read_rows(predictions), texts()):
        held = [number + (one is not None) for number, one in zip(held, (found, example), strict=True)]
        if found is not None and example is not None and (limit is None or len(rows) < limit):
            number, prediction = found
            problem = _problem(prediction, example)
            if problem:
                raise LagamcError(f"{predictions}, line {number}: {problem}")
            rows.append((example.text, _labels(prediction), str(prediction["generated"]) or "(nothing)"))
    if held[0] != held[1]:
        raise LagamcError(
            f"{predictions}: holds {held[0]} predictions, but {inputs} holds {held[1]} texts"
            f"{f' ({bad[0]})' if bad else ''}; give the file the predictions were made from"
        )
    return table(("text", "labels", "generated descriptions"), rows)


def _problem(prediction: dict[str, Any], example: Example) -> str | None:
    """What keeps a row from being a prediction for a text."""
    missing = [name for name in ("labels", "scores", "generated") if name not in prediction]
    if missing:
        return f"expected {missing}, found {sorted(prediction)}"
    labels, scores = prediction["labels"], prediction["scores"]
    if not isinstance(labels, list) or not all(isinstance(name, str) for name in labels):
        return f"labels: expected a list of names, found {labels!r:.60}"
    if not isinstance(scores, dict) or not all(map(_is_probability, scores.values())):
        return f"scores: expected a number from 0 to 1 for each label, found {scores!r:.60}"
    if str(prediction.get("id", example.id)) != example.id:
        return f"expected the prediction for row {example.id!r}, found that for {prediction['id']!r}"
    return None


def _is_probability(value: object) -> bool:
    return isinstance(value, (int, float)) and 0 <= value <= 1


def _labels(prediction: dict[str, Any]) -> str:
    scores = prediction["scores"]
    named = (f"{name} {scores[name]:.2f}" if name in scores else name for name in prediction["labels"])
    return ", ".join(named) or "(none)"
