"""What `lagamc train` refuses before anything is written."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.commands import Refused, replace_line
from tests.conftest import DESCRIPTIONS

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
        (
            {"labels": []},
            "train.jsonl, line 2: expected a column 'text' with the text (--text_column), found ['labels']",
        ),
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


def test_output_folder_without_a_name(refused: Refused, data_dir: Path) -> None:
    message = refused("train", "--data_dir", data_dir, "--output_dir", "")
    assert "output_dir: expected a folder to write the model to, found ''" in message


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


def test_a_model_is_not_trained_into_the_one_it_starts_from(refused: Refused, data_dir: Path, tiny_t5: Path) -> None:
    words = ["train", "--data_dir", data_dir, "--unlabelled", "keep", "--output_dir", tiny_t5, "--use_cpu", "true"]
    assert "is the model_name_or_path as well" in refused(*words, "--model_name_or_path", tiny_t5)
    assert "is the sentence_encoder as well" in refused(*words, "--sentence_encoder", tiny_t5)
