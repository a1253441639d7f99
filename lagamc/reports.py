"""Tables of a run."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
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
    rows: list[tuple[str, str, str]] = []
    found, read = list(read_rows(predictions)), list(read_inputs(str(inputs), columns))
    texts = [row for row in read if isinstance(row, Example)]
    if len(found) != len(texts):
        bad = next((f" ({row})" for row in read if isinstance(row, BadRow)), "")
        raise LagamcError(
            f"{predictions}: holds {len(found)} predictions, but {inputs} holds {len(texts)} texts{bad}; "
            "give the file the predictions were made from"
        )
    for (number, prediction), example in list(zip(found, texts, strict=True))[:limit]:
        problem = _problem(prediction, example)
        if problem:
            raise LagamcError(f"{predictions}, line {number}: {problem}")
        rows.append((example.text, _labels(prediction), str(prediction["generated"]) or "(nothing)"))
    return table(("text", "labels", "generated descriptions"), rows)


def _problem(prediction: dict[str, Any], example: Example) -> str | None:
    """What keeps a row from being a prediction for a text."""
    missing = [name for name in ("labels", "scores", "generated") if name not in prediction]
    if missing:
        return f"expected {missing}, found {sorted(prediction)}"
    labels, scores = prediction["labels"], prediction["scores"]
    if not isinstance(labels, list) or not all(isinstance(name, str) for name in labels):
        return f"labels: expected a list of names, found {labels!r:.60}"
    if not isinstance(scores, dict) or not all(isinstance(value, (int, float)) for value in scores.values()):
        return f"scores: expected a number for each label, found {scores!r:.60}"
    if str(prediction.get("id", example.id)) != example.id:
        return f"expected the prediction for row {example.id!r}, found that for {prediction['id']!r}"
    return None


def _labels(prediction: dict[str, Any]) -> str:
    scores = prediction["scores"]
    named = (f"{name} {scores[name]:.2f}" if name in scores else name for name in prediction["labels"])
    return ", ".join(named) or "(none)"
