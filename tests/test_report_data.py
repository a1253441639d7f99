from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from lagamc.artifact import published_files
from lagamc.errors import LagamcError
from lagamc.metrics import multi_label_metrics
from lagamc.report_data import read_run
from tests.artifacts import NO_CHECKPOINTS, Trained, train_quickly, write_data
from tests.conftest import ROWS
from tests.runs import some_labels, write_run


def test_training_leaves_what_the_report_needs(trained_t5: Trained) -> None:
    run = read_run(trained_t5.folder)
    assert list(run.splits) == ["dev", "test"]
    assert run.measured == "test"
    rows = run.splits["test"]
    assert rows.texts == [row["text"] for row in ROWS]
    assert rows.true.sum(axis=1).tolist() == [len(row["labels"]) for row in ROWS]
    assert rows.scores.shape == (len(ROWS), 4)
    predictions = trained_t5.load().predict(rows.texts)
    assert rows.generated == [prediction.generated for prediction in predictions]
    assert rows.matches is not None
    assert [[label for label, _ in row] for row in rows.matches] == [[m.label for m in p.matches] for p in predictions]
    for split, key in (("dev", "dev_micro_f1"), ("test", "test_micro_f1")):
        measured = multi_label_metrics(run.splits[split].chosen, run.splits[split].true)
        assert measured["micro_f1"] == pytest.approx(trained_t5.figures[key])
    assert [line["step"] for line in run.log if "lambda" in line and "loss" in line] == [10, 20, 30]
    assert np.isfinite(rows.scores).all()


def test_descriptions_are_not_written_for_the_development_rows(trained_whole: Trained) -> None:
    run = read_run(trained_whole.folder)
    assert run.measured == "dev"
    assert run.splits["dev"].generated is None
    assert run.splits["dev"].matches is None


def test_it_is_not_published(trained_t5: Trained) -> None:
    assert (trained_t5.folder / "report_data").is_dir()
    assert [name for name in published_files(trained_t5.folder) if "report" in name] == []


def test_a_new_run_leaves_nothing_of_the_old_one(tiny_bart: Path, tiny_encoder: Path, tmp_path: Path) -> None:
    settings = ["--lora", "false", *NO_CHECKPOINTS, "--max_steps", "1"]
    train_quickly(tiny_bart, tiny_encoder, write_data(tmp_path / "a"), tmp_path / "out", *settings)
    assert read_run(tmp_path / "out").measured == "test"
    train_quickly(tiny_bart, tiny_encoder, write_data(tmp_path / "b", ("train", "dev")), tmp_path / "out", *settings)
    assert read_run(tmp_path / "out").measured == "dev"


@pytest.fixture
def run_folder(tmp_path: Path) -> Path:
    return write_run(tmp_path / "run", some_labels(3), rows=5)


def refused(folder: Path) -> str:
    with pytest.raises(LagamcError) as error:
        read_run(folder)
    return str(error.value)


def test_unfinished_run(run_folder: Path) -> None:
    (run_folder / "metrics.json").unlink()
    assert "holds no metrics.json; expected the output folder of a finished training run" in refused(run_folder)


def test_run_of_a_version_without_reports(run_folder: Path) -> None:
    (run_folder / "report_data" / "log.json").unlink()
    assert "holds no report_data/log.json" in refused(run_folder)


def test_no_rows(run_folder: Path) -> None:
    for path in (run_folder / "report_data").glob("*.jsonl"):
        path.write_text("")
    assert "dev.jsonl: holds no rows" in refused(run_folder)
    for path in (run_folder / "report_data").glob("*.jsonl"):
        path.unlink()
    assert "holds no measured rows" in refused(run_folder)


def test_spoiled_log(run_folder: Path) -> None:
    (run_folder / "report_data" / "log.json").write_text("[{")
    assert "cannot be read" in refused(run_folder)


@pytest.mark.parametrize(
    "row",
    [
        {"text": "x"},
        {"text": "x", "true": ["gone"], "labels": [], "scores": {}},
        {"text": "x", "true": [], "labels": [], "scores": {"delivery 0": 0.1}},
        {"text": "x", "true": 7, "labels": [], "scores": {}},
    ],
)
def test_spoiled_row_names_its_line(run_folder: Path, row: dict[str, object]) -> None:
    path = run_folder / "report_data" / "test.jsonl"
    lines = path.read_text("utf-8").splitlines()
    lines[2] = json.dumps(row)
    path.write_text("\n".join(lines), "utf-8")
    assert "test.jsonl, line 3: no row as training writes it" in refused(run_folder)
