"""`lagamc evaluate`: its figures, other labels and thresholds, what it refuses."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from safetensors import SafetensorError

from lagamc.artifact import read_config
from lagamc.cli import main
from tests.artifacts import Trained, edit_json
from tests.commands import Refused
from tests.conftest import DESCRIPTIONS


def test_prints_the_figures_of_training(
    trained_bart: Trained, session_data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["evaluate", str(trained_bart.folder), str(session_data / "test.jsonl"), "--device", "cpu"]) == 0
    figures = json.loads(capsys.readouterr().out)
    assert (figures["scores"], figures["goal"]) == (read_config(trained_bart.folder).scores, "micro_f1")
    assert figures["micro_f1"] == trained_bart.figures["test_micro_f1"]
    assert figures["labels"] == trained_bart.figures["test_labels"]


def test_a_model_that_was_never_tuned_is_told(
    trained_t5: Trained, session_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """As one whose training was stopped before that."""
    folder = trained_t5.copy_to(tmp_path / "model")
    test, device = session_data / "test.jsonl", ["--device", "cpu"]
    commands = [["evaluate", str(folder), str(test), *device]]
    commands += [["predict", "--model", str(folder), "--input", str(test), "--output", str(tmp_path / "o"), *device]]
    said = "no thresholds were tuned"
    for words in commands:
        assert main(words) == 0
        assert said not in capsys.readouterr().err
    edit_json(folder / "lagamc_config.json", tuned={}, thresholds={}, calibration={})
    for words in commands:
        assert main(words) == 0
        written = capsys.readouterr()
        assert f"warning: {folder}: {said}" in written.err
        assert '"goal"' not in written.out
        assert main([*words, "--threshold", "0"]) == 0
        assert said not in capsys.readouterr().err


def test_by_other_labels_and_one_threshold(
    trained_t5: Trained, session_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bank = {**DESCRIPTIONS, "angry": "Angry: the customer is not happy"}
    labels, rows = tmp_path / "labels.json", tmp_path / "rows.jsonl"
    labels.write_text(json.dumps(bank), encoding="utf-8")
    rows.write_text('{"text": "What a mess!", "labels": ["angry"]}\n', encoding="utf-8")
    words = ["evaluate", trained_t5.folder, rows, "--labels", labels, "--threshold", "0", "--device", "cpu"]
    assert main([str(word) for word in [*words, "--window_stride", "4"]]) == 0
    figures = json.loads(capsys.readouterr().out)
    assert list(figures["labels"]) == list(bank)
    assert "goal" not in figures
    assert figures["labels"]["angry"]["f1"] == 1
    assert figures["micro_f1"] == pytest.approx(2 / (1 + len(bank)))


def test_settings_that_contradict(refused: Refused, trained_t5: Trained, tmp_path: Path) -> None:
    words = ("evaluate", trained_t5.folder, tmp_path / "rows.jsonl")
    assert "leave out --window_stride or --tune" in refused(*words, "--tune", "--window_stride", "0")
    assert "leave out --labels or --tune" in refused(*words, "--tune", "--labels", tmp_path / "labels.json")
    assert "give one of the two" in refused(*words, "--threshold", "0.5", "--goal", "micro_f1")


def test_on_an_unknown_label(refused: Refused, trained_t5: Trained, tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    path.write_text('{"text": "x", "labels": ["lost"]}\n', encoding="utf-8")
    assert "x.jsonl, line 1: unknown label 'lost'" in refused("evaluate", trained_t5.folder, path)


def test_tuning_that_cannot_be_written_leaves_the_model_as_it_was(
    refused: Refused,
    trained_t5: Trained,
    session_data: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder = trained_t5.copy_to(tmp_path / "model")

    def files() -> dict[str, bytes]:
        return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}

    before = files()
    monkeypatch.setattr("lagamc.unseen.save_file", full_disk)
    words = ["evaluate", folder, session_data / "test.jsonl", "--tune", "--unlabelled", "drop", "--device", "cpu"]
    assert "thresholds cannot be written (No space left on device)" in refused(*words)
    assert files() == before
    monkeypatch.undo()
    assert main([*map(str, words), "--goal", "precision>=.50"]) == 0
    output = capsys.readouterr()
    assert "scores for precision>=0.5 from now on" in output.err
    assert json.loads(output.out)["goal"] == "precision>=0.5"
    assert read_config(folder).thresholds["goal"] == "precision>=0.5"
    assert files().keys() == before.keys()
    assert files() != before


def test_texts_that_are_too_few_to_calibrate_on_are_told(
    trained_t5: Trained, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder, rows = trained_t5.copy_to(tmp_path / "model"), tmp_path / "rows.jsonl"
    edit_json(folder / "lagamc_config.json", tuned={}, thresholds={}, calibration={})
    rows.write_text('{"text": "What a mess!", "labels": ["late"]}\n', encoding="utf-8")
    assert main(["evaluate", str(folder), str(rows), "--tune", "--device", "cpu"]) == 0
    assert "1 labels on 1 texts are too few to calibrate on" in caplog.text


def full_disk(*_: object) -> None:
    """In place of what writes safetensors."""
    raise SafetensorError("No space left on device")
