"""The command line: what `predict` prints, writes and refuses, help, exit codes."""

from __future__ import annotations

import errno
import io
import json
import os
import runpy
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import lagamc.training
from lagamc import cli
from lagamc.classifier import LagamcClassifier
from lagamc.cli import main
from tests.artifacts import Trained
from tests.commands import Refused, replace_line
from tests.conftest import ROWS

ROOT = Path(__file__).parent.parent


@pytest.fixture
def inputs(tmp_path: Path) -> Path:
    path = tmp_path / "in.jsonl"
    path.write_text("".join(json.dumps({"id": r["id"], "text": r["text"]}) + "\n" for r in ROWS), encoding="utf-8")
    return path


# predict


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


def test_predict_on_a_missing_file(refused: Refused, trained_t5: Trained, tmp_path: Path) -> None:
    message = refused("predict", "--model", trained_t5.folder, "--input", tmp_path / "gone.jsonl")
    assert "gone.jsonl: no such input file" in message
    message = refused("predict", "--model", trained_t5.folder, "--input", tmp_path)
    assert f"{tmp_path}: is no regular file; expected one, or - for the standard input" in message


def test_a_prediction_does_not_replace_its_model(
    refused: Refused, trained_t5: Trained, inputs: Path, tmp_path: Path
) -> None:
    folder = trained_t5.copy_to(tmp_path / "model")
    for name in ("labels.json", "metrics.json", "report_data/test.jsonl", "checkpoint-30/trainer_state.json"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).touch()
        before = (folder / name).read_bytes()
        message = refused("predict", "--model", folder, "--input", inputs, "--output", folder / name)
        assert f"the output would replace {folder / name}, which is needed; name another file" in message
        assert (folder / name).read_bytes() == before


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
    (tmp_path / "link").symlink_to(tmp_path / "missing" / "out.jsonl")
    assert f"the folder '{tmp_path}/missing' does not exist" in refused(*words, tmp_path / "link")


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ([], "expected a command, one of train, evaluate, predict"),
        (["learn"], "found 'learn'"),
        (["predict", "--input", "x"], "--model"),
        (["predict", "--model", "m", "--input", "x", "--batch_size", "0"], "batch_size"),
        (["predict", "--model", "m", "--input", "x", "--decide_by", "coin"], "coin"),
        (["evaluate", "m"], "FILE"),
        (["describe", "rows.jsonl", "--offline", "--output", "labels.csv"], "a name that ends in .json"),
        (["train", "--data_dir", "demo", "--no_such_thing", "1"], "unknown argument --no_such_thing"),
        (["predict", "--model", "m", "--input", ""], "expected a value after --input, found an empty one"),
        (["show", "", "--input", "i"], "expected a value, found an empty one"),
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


def test_help_names_the_defaults_that_there_are(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        main(["train", "--help"])
    text = " ".join(capsys.readouterr().out.split())
    assert "The same as --lexical false." in text
    assert "lambda and of the retrieval scale. (default: 0.01)" in text
    assert "`true` from its last checkpoint" in text
    assert "(default: None)" not in text


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"lagamc {lagamc.__version__}\n"


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


def test_what_the_output_has_no_characters_for(tmp_path: Path) -> None:
    (tmp_path / "in.jsonl").write_text('{"text": "na\u00efve"}\n', encoding="utf-8")
    line = '{"id": "1", "labels": [], "scores": {}, "generated": ""}\n'
    (tmp_path / "out.jsonl").write_text(line, encoding="utf-8")
    words = ["show", str(tmp_path / "out.jsonl"), "--input", str(tmp_path / "in.jsonl")]
    done = subprocess.run(
        [sys.executable, "-m", "lagamc.cli", *words],
        env={**os.environ, "PYTHONIOENCODING": "ascii"},
        capture_output=True,
        text=True,
        cwd=ROOT,
    )
    assert done.returncode == 0, done.stderr
    assert "na\\xefve" in done.stdout


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.ENAMETOOLONG])
def test_what_the_system_refuses_is_no_failure_of_ours(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], number: int
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(number, os.strerror(number), "there")

    monkeypatch.setitem(cli.COMMANDS, "show", refuse)
    assert main(["show"]) == 2
    assert f"error: there: {os.strerror(number)}" in capsys.readouterr().err


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


PREDICTION = {"id": "1", "labels": ["late"], "scores": {"late": 0.7}, "generated": "Late."}


def show_what_was_predicted(folder: Path, texts: list[str], *predictions: dict[str, Any]) -> int:
    """The exit code of `lagamc show` for lines of texts and predictions."""
    (folder / "texts.jsonl").write_text("".join(f"{line}\n" for line in texts), encoding="utf-8")
    (folder / "found.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in predictions), encoding="utf-8")
    return main(["show", str(folder / "found.jsonl"), "--input", str(folder / "texts.jsonl")])


def test_show_passes_over_rows_that_were_skipped(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    texts = ['{"id": "0"', '{"id": "1", "text": "Where is it?"}', '{"id": "2", "text": ""}']
    assert show_what_was_predicted(tmp_path, texts, PREDICTION) == 0
    assert capsys.readouterr().out.splitlines()[2].split(" | ") == [
        "Where is it?".ljust(46),
        "late 0.70".ljust(20),
        "Late.",
    ]


@pytest.mark.parametrize(
    ("prediction", "message"),
    [
        ({**PREDICTION, "id": "7"}, "found.jsonl, line 1: expected the prediction for row '1', found that for '7'"),
        ({**PREDICTION, "labels": None}, "line 1: labels: expected a list of names, found None"),
        ({**PREDICTION, "scores": {"late": "x"}}, "line 1: scores: expected a number from 0 to 1 for each label"),
        ({**PREDICTION, "scores": {"late": 10**400}}, "line 1: scores: expected a number from 0 to 1 for each label"),
        ({"labels": []}, "line 1: expected ['scores', 'generated'], found ['labels']"),
    ],
)
def test_show_says_what_is_no_prediction(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], prediction: dict[str, Any], message: str
) -> None:
    assert show_what_was_predicted(tmp_path, ['{"id": "1", "text": "Where is it?"}'], prediction) == 2
    assert message in capsys.readouterr().err


def test_show_names_the_first_bad_row_where_numbers_differ(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert show_what_was_predicted(tmp_path, ['{"id": "1", "words": "Where is it?"}'], PREDICTION) == 2
    assert "holds 1 predictions, but" in (said := capsys.readouterr().err)
    assert "holds 0 texts (" in said
    assert "texts.jsonl, line 1: " in said
