"""The command line: what it refuses, and what its commands print and write."""

from __future__ import annotations

import io
import json
import re
import runpy
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import lagamc.training
from lagamc import cli
from lagamc.classifier import LagamcClassifier
from lagamc.cli import main
from tests.artifacts import Trained
from tests.conftest import DESCRIPTIONS, ROWS

ROOT = Path(__file__).parent.parent
Refused = Callable[..., str]


@pytest.fixture
def refused(capsys: pytest.CaptureFixture[str]) -> Refused:
    """Runs a command that must fail with one message and exit code 2; returns the message."""

    def run(*words: object) -> str:
        capsys.readouterr()
        code = main([str(word) for word in words])
        captured = capsys.readouterr()
        assert code == 2, captured.err
        assert captured.out == "" or words[0] == "train"
        assert len(re.findall(r"^error: ", captured.err, re.MULTILINE)) == 1, captured.err
        assert "Traceback" not in captured.err
        assert 'File "' not in captured.err
        return captured.err[captured.err.index("error: ") :]

    return run


@pytest.fixture
def inputs(tmp_path: Path) -> Path:
    path = tmp_path / "in.jsonl"
    path.write_text("".join(json.dumps({"id": r["id"], "text": r["text"]}) + "\n" for r in ROWS), encoding="utf-8")
    return path


def replace_line(path: Path, number: int, line: str) -> None:
    lines = path.read_text(encoding="utf-8").splitlines()
    lines[number - 1] = line
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


# bad data


@pytest.fixture
def train_on(refused: Refused, data_dir: Path, tmp_path: Path) -> Refused:
    """Training on `data_dir`, which must be refused before anything is written."""

    def run(*more: object) -> str:
        output = tmp_path / "out"
        message = refused("train", "--data_dir", data_dir, "--output_dir", output, "--unlabelled", "keep", *more)
        assert not output.exists()
        return message

    return run


@pytest.mark.parametrize("name", ["train.jsonl", "labels.json"])
def test_missing_data_file(train_on: Refused, data_dir: Path, name: str) -> None:
    (data_dir / name).unlink()
    assert f"expected {name}, found" in train_on()


def test_missing_data_folder(refused: Refused, tmp_path: Path) -> None:
    message = refused("train", "--data_dir", tmp_path / "nowhere", "--output_dir", tmp_path / "out")
    assert "no such folder" in message
    assert "nowhere" in message


def test_missing_train_file(refused: Refused, data_dir: Path, tmp_path: Path) -> None:
    files = ["--train_file", tmp_path / "gone.jsonl", "--labels_file", data_dir / "labels.json"]
    assert "gone.jsonl: no such file" in refused("train", *files, "--output_dir", tmp_path / "out")


@pytest.mark.parametrize("number", [1, 3, 6])
def test_invalid_json_names_its_line(train_on: Refused, data_dir: Path, number: int) -> None:
    replace_line(data_dir / "train.jsonl", number, '{"text": "broken off')
    assert f"train.jsonl, line {number}: not valid JSON" in train_on()


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ({"labels": []}, "train.jsonl, line 2: expected a column 'text' with the text, found ['labels']"),
        ({"text": "", "labels": []}, "train.jsonl, line 2: expected a non-empty string in 'text', found an empty"),
        ({"text": 7, "labels": []}, "train.jsonl, line 2: expected a non-empty string in 'text', found int"),
        ({"text": "x"}, "train.jsonl, line 2: expected a column 'labels'"),
        ({"text": "x", "labels": ["lost"]}, "train.jsonl, line 2: unknown label 'lost'"),
        ({"text": "x", "labels": [3]}, "train.jsonl, line 2: expected a list of label names"),
    ],
)
def test_bad_row_names_its_line(train_on: Refused, data_dir: Path, row: dict[str, Any], expected: str) -> None:
    replace_line(data_dir / "train.jsonl", 2, json.dumps(row))
    assert expected in train_on()


def test_bad_row_of_the_test_file_is_found_before_training(train_on: Refused, data_dir: Path) -> None:
    replace_line(data_dir / "test.jsonl", 5, json.dumps({"text": "x", "labels": ["lost"]}))
    assert "test.jsonl, line 5: unknown label 'lost'" in train_on()


def test_every_bad_row_is_reported(train_on: Refused, data_dir: Path) -> None:
    replace_line(data_dir / "train.jsonl", 2, json.dumps({"labels": []}))
    replace_line(data_dir / "train.jsonl", 3, "{broken")
    replace_line(data_dir / "train.jsonl", 4, json.dumps({"text": "x", "labels": ["lost"]}))
    message = train_on()
    assert "3 problems" in message
    assert "line 3: not valid JSON" in message
    assert "line 2: expected a column 'text'" in message
    assert "line 4: unknown label 'lost'" in message


def test_row_without_labels_needs_a_decision(refused: Refused, data_dir: Path, tmp_path: Path) -> None:
    message = refused("train", "--data_dir", data_dir, "--output_dir", tmp_path / "out")
    assert "train.jsonl, line 4: the row has no labels; set `unlabelled: keep`" in message


@pytest.mark.parametrize(
    ("bank", "expected"),
    [
        ({**DESCRIPTIONS, "late": ""}, "label 'late' has no description"),
        ({**DESCRIPTIONS, "late": None}, "label 'late' has no description"),
        ({**DESCRIPTIONS, "late": DESCRIPTIONS["refund"]}, "the same description"),
        ({}, "the label bank is empty"),
        ([], "found list"),
    ],
)
def test_bad_bank(train_on: Refused, data_dir: Path, bank: Any, expected: str) -> None:
    (data_dir / "labels.json").write_text(json.dumps(bank), encoding="utf-8")
    message = train_on()
    assert "labels.json" in message
    assert expected in message


# bad settings


def test_unknown_configuration_key(refused: Refused, data_dir: Path, tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(f"data_dir: {data_dir}\nlora_ranks: 4\n", encoding="utf-8")
    message = refused("train", "--config", path)
    assert "config.yaml: unknown key 'lora_ranks'; did you mean 'lora_rank'?" in message


def test_several_bad_settings_at_once(refused: Refused, data_dir: Path, tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    lines = [f"data_dir: {data_dir}", "wrong_key: 1", "semantic_form: cosine", "learning_rate: fast", "beam: 0"]
    path.write_text("\n".join(lines), encoding="utf-8")
    message = refused("train", "--config", path, "--label_order", "random", "--lora_rang", "3")
    for part in ("wrong_key", "semantic_form", "learning_rate", "beam", "label_order", "lora_rang"):
        assert part in message, message
    assert "problems" in message


@pytest.mark.parametrize(
    ("content", "expected"),
    [("a: [1", "not a YAML file"), ("- 1\n- 2", "expected `key: value` lines, found list")],
)
def test_unreadable_configuration(refused: Refused, tmp_path: Path, content: str, expected: str) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(content, encoding="utf-8")
    assert expected in refused("train", "--config", path)


def test_figures_that_cannot_choose_a_checkpoint(train_on: Refused, refused: Refused, data_dir: Path) -> None:
    assert "selection_metric: expected one of ['loss', 'micro_f1'" in train_on("--selection_metric", "acuracy")
    message = refused("train", "--data_dir", data_dir, "--metric_for_best_model", "macro_f1")
    assert "metric_for_best_model: set selection_metric instead" in message


def test_missing_configuration(refused: Refused, tmp_path: Path) -> None:
    assert "no such configuration file" in refused("train", "--config", tmp_path / "gone.yaml")


def test_fp16_with_t5(train_on: Refused, tiny_t5: Path, tiny_encoder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "fp16")
    models = ["--model_name_or_path", tiny_t5, "--sentence_encoder", tiny_encoder, "--use_cpu", "true"]
    message = train_on(*models)
    assert "fp16 with a 't5' model" in message
    assert "overflow" in message
    assert "bf16" in message


def test_model_folder_without_weights(train_on: Refused, tiny_t5: Path, tiny_encoder: Path, tmp_path: Path) -> None:
    folder = tmp_path / "bare"
    folder.mkdir()
    for path in tiny_t5.iterdir():
        if path.suffix != ".safetensors":
            (folder / path.name).write_bytes(path.read_bytes())
    message = train_on("--model_name_or_path", folder, "--sentence_encoder", tiny_encoder, "--use_cpu", "true")
    assert "no generator can be loaded from" in message
    assert "bare" in message
    assert "safetensors" in message


def test_model_that_is_no_encoder_decoder(train_on: Refused, tiny_encoder: Path) -> None:
    message = train_on("--model_name_or_path", tiny_encoder, "--sentence_encoder", tiny_encoder, "--use_cpu", "true")
    assert "expected an encoder-decoder" in message


def test_sentence_encoder_that_is_none(train_on: Refused, tiny_t5: Path, tmp_path: Path) -> None:
    message = train_on("--model_name_or_path", tiny_t5, "--sentence_encoder", tmp_path / "gone", "--use_cpu", "true")
    assert "no sentence encoder can be loaded from" in message


def test_unwritable_output_of_training(refused: Refused, data_dir: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("", encoding="utf-8")
    message = refused("train", "--data_dir", data_dir, "--output_dir", tmp_path / "file" / "out")
    assert "output_dir" in message
    assert str(tmp_path / "file" / "out") in message


# predict and evaluate


def test_predict_writes_what_the_classifier_says(
    trained_t5: Trained, inputs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["predict", "--model", trained_t5.folder, "--input", inputs, "--output", tmp_path / "o", "--device", "cpu"]
    assert main([str(word) for word in words]) == 0
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "6 rows, " in captured.err
    rows = [json.loads(line) for line in (tmp_path / "o").read_text(encoding="utf-8").splitlines()]
    assert [row["id"] for row in rows] == [row["id"] for row in ROWS]
    expected = trained_t5.load().predict([str(row["text"]) for row in ROWS])
    assert [(r["labels"], r["scores"], r["generated"]) for r in rows] == [
        (p.labels, p.scores, p.generated) for p in expected
    ]


def test_predict_from_and_to_the_standard_streams(
    trained_t5: Trained, inputs: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO(inputs.read_text(encoding="utf-8")))
    model = str(trained_t5.folder)
    words = ["predict", "--model", model, "--input", "-", "--device", "cpu", "--decide_by", "generated"]
    assert main(words) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [row["id"] for row in rows] == [row["id"] for row in ROWS]
    assert all(row["scores"] == {} for row in rows)


def test_evaluate_prints_the_figures_of_training(
    trained_bart: Trained, session_data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["evaluate", str(trained_bart.folder), str(session_data / "test.jsonl"), "--device", "cpu"]) == 0
    figures = json.loads(capsys.readouterr().out)
    assert figures["micro_f1"] == trained_bart.figures["test_micro_f1"]
    assert figures["labels"] == trained_bart.figures["test_labels"]


def test_evaluate_on_an_unknown_label(refused: Refused, trained_t5: Trained, tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    path.write_text('{"text": "x", "labels": ["lost"]}\n', encoding="utf-8")
    assert "x.jsonl, line 1: unknown label 'lost'" in refused("evaluate", trained_t5.folder, path)


def test_predict_on_a_missing_file(refused: Refused, trained_t5: Trained, tmp_path: Path) -> None:
    message = refused("predict", "--model", trained_t5.folder, "--input", tmp_path / "gone.jsonl")
    assert "gone.jsonl: no such input file" in message


def test_predict_refuses_an_ending_before_the_model_is_loaded(refused: Refused, tmp_path: Path) -> None:
    (tmp_path / "in.txt").write_text("A text.", encoding="utf-8")
    message = refused("predict", "--model", tmp_path / "no-model", "--input", tmp_path / "in.txt")
    assert "in.txt: expected a file that ends in .jsonl, .json, .csv, .parquet, found '.txt'" in message


def test_predict_on_a_bad_line_leaves_no_output(refused: Refused, trained_t5: Trained, inputs: Path) -> None:
    replace_line(inputs, 6, "{")
    output = inputs.with_name("out.jsonl")
    message = refused(
        "predict", "--model", trained_t5.folder, "--input", inputs, "--output", output, "--device", "cpu"
    )
    assert "in.jsonl, line 6: not valid JSON" in message
    assert [path.name for path in inputs.parent.iterdir()] == ["in.jsonl"]


@pytest.mark.parametrize(
    "part", ["adapter_model.safetensors", "labels.json", "sentence_encoder/model.safetensors", "lagamc_config.json"]
)
@pytest.mark.parametrize("command", ["predict", "evaluate"])
def test_artifact_with_a_part_missing(
    refused: Refused, trained_t5: Trained, inputs: Path, tmp_path: Path, part: str, command: str
) -> None:
    folder = trained_t5.copy_to(tmp_path / "model")
    (folder / part).unlink()
    words = ["predict", "--model", folder, "--input", inputs] if command == "predict" else [command, folder, inputs]
    message = refused(*words)
    assert part in message
    assert str(folder) in message


def test_model_that_is_missing(refused: Refused, inputs: Path, tmp_path: Path) -> None:
    assert "no such model folder" in refused("predict", "--model", tmp_path / "gone", "--input", inputs)
    assert "no such model folder" in refused("evaluate", tmp_path / "gone", inputs)


def test_unwritable_output_is_refused_before_the_model_is_loaded(
    refused: Refused, inputs: Path, tmp_path: Path
) -> None:
    words = ["predict", "--model", tmp_path / "gone", "--input", inputs, "--output"]
    assert "is not writable" in refused(*words, inputs / "out.jsonl")
    assert "is a folder" in refused(*words, tmp_path)


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ([], "expected a command, one of train, evaluate, predict"),
        (["learn"], "found 'learn'"),
        (["predict", "--input", "x"], "--model"),
        (["predict", "--model", "m", "--input", "x", "--batch_size", "0"], "batch_size"),
        (["predict", "--model", "m", "--input", "x", "--decide_by", "coin"], "coin"),
        (["evaluate", "m"], "FILE"),
        (["train", "--data_dir", "demo", "--no_such_thing", "1"], "unknown argument --no_such_thing"),
        (["train"], "expected one of data_dir, train_file or dataset_name"),
    ],
)
def test_usage(capsys: pytest.CaptureFixture[str], words: list[str], expected: str) -> None:
    assert main(words) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert expected in error
    assert "Traceback" not in error


def test_help_names_commands_and_exit_codes(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    text = capsys.readouterr().out
    assert all(word in text for word in ("train", "evaluate", "predict", "exit codes: 0 done, 2 bad input"))


# failures that are ours


@pytest.mark.parametrize("error", [RuntimeError("wires crossed"), ValueError("wires crossed"), KeyError("wires")])
def test_internal_failure_is_exit_code_1_with_a_traceback(
    data_dir: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], error: Exception
) -> None:
    def fail(_: object) -> None:
        raise error

    monkeypatch.setattr(lagamc.training, "train", fail)
    assert main(["train", "--data_dir", str(data_dir), "--use_cpu", "true"]) == 1
    text = capsys.readouterr().err
    assert "Traceback" in text
    assert "wires" in text
    assert "a failure of lagamc, not of your input" in text


def test_an_environment_without_the_packages_is_said(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(*_: object) -> None:
        raise ModuleNotFoundError("No module named 'torch'", name="torch")

    monkeypatch.setitem(cli.COMMANDS, "show", missing)
    assert main(["show"]) == 2
    error = capsys.readouterr().err
    assert "the package 'torch' is not installed in" in error
    assert "source .venv/bin/activate" in error


def test_interruption_is_exit_code_130(
    trained_t5: Trained, inputs: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def stop(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(LagamcClassifier, "predict", stop)
    assert main(["predict", "--model", str(trained_t5.folder), "--input", str(inputs), "--device", "cpu"]) == 130
    assert "Traceback" not in capsys.readouterr().err


# as a user runs it


def test_script_exits_with_2_and_one_line() -> None:
    command = [sys.executable, "run_train.py", "--config", "gone.yaml"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 2, done.stderr
    assert done.stdout == ""
    assert done.stderr == "error: gone.yaml: no such configuration file\n"


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["run_train.py", "--config", "gone.yaml"], "error: gone.yaml: no such configuration file"),
        (["run_infer.py", "--model", "gone", "--input", "gone.jsonl"], "error: gone.jsonl: no such input file"),
    ],
)
def test_scripts_are_doors_to_the_commands(
    words: list[str], expected: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", words)
    with pytest.raises(SystemExit) as caught:
        runpy.run_path(str(ROOT / words[0]), run_name="__main__")
    assert caught.value.code == 2
    assert capsys.readouterr().err.strip() == expected
