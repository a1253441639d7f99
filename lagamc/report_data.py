"""What a run leaves for its report: measured rows and the log. It holds the user's texts and is never published."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lagamc.artifact import LABELS_FILE, ArtifactConfig, read_config
from lagamc.checkpoints import METRICS_FILE, REPORT_DATA_FOLDER
from lagamc.data import Example
from lagamc.errors import LagamcError
from lagamc.labels import LabelBank
from lagamc.metrics import binarise
from lagamc.predictions import Prediction
from lagamc.rows import read_rows

LOG_FILE = "log.json"


@dataclass(frozen=True)
class MeasuredRows:
    """The rows of a split with what the model says about them.

    Args:
        texts: as they were given.
        true: (rows, labels), 0 or 1.
        chosen: (rows, labels), 0 or 1, by scores and thresholds.
        scores: (rows, labels), probabilities.
        generated: the written descriptions; None where none were written.
        matches: for every row the label (or None) and the similarity of each written sentence; None as above.
    """

    texts: list[str]
    true: np.ndarray
    chosen: np.ndarray
    scores: np.ndarray
    generated: list[str] | None
    matches: list[list[tuple[str | None, float]]] | None


@dataclass(frozen=True)
class Run:
    """A finished run as its report needs it; `log` holds the lines of the Trainer."""

    folder: Path
    config: ArtifactConfig
    bank: LabelBank
    metrics: dict[str, Any]
    log: list[dict[str, Any]]
    splits: dict[str, MeasuredRows]

    @property
    def measured(self) -> str:
        """The split that figures are given for: the test rows, or the development rows where there are none."""
        return "test" if "test" in self.splits else "dev"


def write_log(folder: str | Path, log: Sequence[dict[str, Any]]) -> None:
    """Begins the report's data anew with the log of the Trainer."""
    place = Path(folder) / REPORT_DATA_FOLDER
    shutil.rmtree(place, ignore_errors=True)  # of an earlier run
    place.mkdir(parents=True)
    (place / LOG_FILE).write_text(json.dumps(list(log), indent=1) + "\n", encoding="utf-8")


def write_rows(
    folder: str | Path,
    split: str,
    examples: Sequence[Example],
    bank: LabelBank,
    scores: np.ndarray,
    chosen: np.ndarray,
    predictions: Sequence[Prediction] | None = None,
) -> None:
    """Writes the measured rows of a split.

    Args:
        folder: of the run.
        split: `dev` or `test`.
        examples: with their true labels.
        bank: the labels.
        scores: (rows, labels), probabilities.
        chosen: (rows, labels), 0 or 1, the labels that are given.
        predictions: of the same rows, where descriptions were written.
    """
    with (Path(folder) / REPORT_DATA_FOLDER / f"{split}.jsonl").open("w", encoding="utf-8") as file:
        for i, example in enumerate(examples):
            row: dict[str, Any] = {"id": example.id, "text": example.text, "true": list(example.labels)}
            row["labels"] = [bank.names[label] for label in np.flatnonzero(chosen[i])]
            row["scores"] = dict(zip(bank.names, scores[i].round(6).tolist(), strict=True))
            if predictions is not None:
                row["generated"] = predictions[i].generated
                row["matches"] = [(match.label, round(match.similarity, 4)) for match in predictions[i].matches]
            file.write(json.dumps(row, ensure_ascii=False) + "\n")


def read_run(folder: str | Path) -> Run:
    """Reads the output folder of a finished training run.

    Raises:
        LagamcError: it is none, the run is unfinished, or its data are missing or spoiled.
    """
    folder = Path(folder)
    config = read_config(folder)
    place = folder / REPORT_DATA_FOLDER
    if not (folder / METRICS_FILE).is_file():
        raise LagamcError(
            f"{folder}: holds no {METRICS_FILE}; expected the output folder of a finished training run. A model that "
            "was copied or published does not carry what a report needs: give the folder it was trained in"
        )
    if not (place / LOG_FILE).is_file():
        raise LagamcError(
            f"{folder}: holds no {REPORT_DATA_FOLDER}/{LOG_FILE}, so there is nothing to report; training writes it: "
            "train again"
        )
    bank = LabelBank.from_json(folder / LABELS_FILE)
    try:
        metrics = json.loads((folder / METRICS_FILE).read_text(encoding="utf-8"))
        log = json.loads((place / LOG_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise LagamcError(
            f"{folder}: {METRICS_FILE} or {REPORT_DATA_FOLDER}/{LOG_FILE} cannot be read ({error})"
        ) from error
    splits = {
        name: _read_split(place / f"{name}.jsonl", bank)
        for name in ("dev", "test")
        if (place / f"{name}.jsonl").is_file()
    }
    if not splits:
        raise LagamcError(f"{place}: holds no measured rows (dev.jsonl, test.jsonl); train again")
    return Run(folder, config, bank, metrics, log, splits)


def _read_split(path: Path, bank: LabelBank) -> MeasuredRows:
    rows = []
    for number, row in read_rows(path):
        try:
            indexed = bank.index(row["true"]), bank.index(row["labels"]), [row["scores"][name] for name in bank]
            matches = [(label, float(similarity)) for label, similarity in row.get("matches", [])]
            rows.append((str(row["text"]), *indexed, row.get("generated"), matches))
        except (KeyError, TypeError, ValueError) as error:
            raise LagamcError(
                f"{path}, line {number}: no row as training writes it ({type(error).__name__}: {error}); was it or "
                f"{LABELS_FILE} changed since? Train again"
            ) from error
    if not rows:
        raise LagamcError(f"{path}: holds no rows; train again")
    columns: list[Any] = [list(column) for column in zip(*rows, strict=True)]
    texts, true, chosen, scores, generated, matches = columns
    written = all(text is not None for text in generated)
    return MeasuredRows(
        texts,
        binarise(true, len(bank)),
        binarise(chosen, len(bank)),
        np.array(scores, dtype=float),
        generated if written else None,
        matches if written else None,
    )
