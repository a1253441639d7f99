"""Tables of a run."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lagamc.data import Columns
from lagamc.errors import LagamcError
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
        inputs: what they were made from, in the same order.
        columns: where the text stands in the inputs.
        limit: the first rows alone.

    Raises:
        LagamcError: a file cannot be read, or the two do not belong together.
    """
    rows: list[tuple[str, str, str]] = []
    pairs = list(read_rows(predictions)), list(read_rows(inputs))
    if len(pairs[0]) != len(pairs[1]):
        raise LagamcError(
            f"{predictions}: holds {len(pairs[0])} predictions, but {inputs} holds {len(pairs[1])} texts; "
            "give the file the predictions were made from"
        )
    for (number, prediction), (_, row) in list(zip(*pairs, strict=True))[:limit]:
        missing = [name for name in ("labels", "scores", "generated") if name not in prediction]
        if missing or columns.text not in row:
            raise LagamcError(
                f"{predictions}, line {number}: expected {missing or columns.text}, found {sorted(prediction)}"
            )
        rows.append((str(row[columns.text]), _labels(prediction), str(prediction["generated"]) or "(nothing)"))
    return table(("text", "labels", "generated descriptions"), rows)


def _labels(prediction: dict[str, Any]) -> str:
    scores = prediction["scores"]
    return (
        ", ".join(f"{name} {scores[name]:.2f}" if name in scores else name for name in prediction["labels"])
        or "(none)"
    )
