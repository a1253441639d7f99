from __future__ import annotations

from pathlib import Path

import pytest

from lagamc.config import DataArguments, ModelArguments
from lagamc.hub import ModelFolder
from lagamc.origins import command_line, data_origin, license_of, model_origin


@pytest.mark.parametrize(
    ("words", "shown"),
    [
        (["/x/bin/lagamc", "train", "--data_dir", "demo"], "lagamc train --data_dir demo"),
        (["./run_train.py", "--config", "a b.yaml"], "python run_train.py --config 'a b.yaml'"),
        (["run_train.py", "--hub_token", "secret"], "python run_train.py --hub_token '[token]'"),
        (["run_train.py", "--hub_token=secret"], "python run_train.py '--hub_token=[token]'"),
        (["run_train.py", "--hub-token", "secret"], "python run_train.py --hub-token '[token]'"),
        (["run_train.py", "--hub-token=secret"], "python run_train.py '--hub-token=[token]'"),
        (["run_train.py", "--hub_tokn", "hf_abcdefghijk"], "python run_train.py --hub_tokn [token]"),
        (["run_train.py", "--data_dir", f"{Path.home()}/mail"], "python run_train.py --data_dir ~/mail"),
        (["ipykernel_launcher.py", "-f", "kernel.json"], None),
        ([], None),
    ],
)
def test_training_command(words: list[str], shown: str | None) -> None:
    assert command_line(words) == shown
    launched = shown and f"ACCELERATE_MIXED_PRECISION=bf16 {shown}"
    assert command_line(words, "bf16") == launched


def test_licence_of_a_model(tmp_path: Path) -> None:
    assert license_of(tmp_path) is None
    card = tmp_path / "README.md"
    for text, expected in (("license: mit", "mit"), ("license: [", None), ("tags: [x]", None), ("license: [a]", None)):
        card.write_text(f"---\n{text}\n---\n# T5\n", encoding="utf-8")
        assert license_of(tmp_path) == expected, text


def test_a_folder_is_no_name_on_the_hub(tmp_path: Path) -> None:
    commit = "0" * 40
    hub = model_origin(ModelArguments(sentence_encoder="them/encoder"), ModelFolder(tmp_path, "them/t5", commit))
    assert (hub["base_model"], hub["base_revision"], hub["generator"]) == ("them/t5", commit, "them/t5")
    assert (hub["sentence_encoder"], hub["license"]) == ("them/encoder", None)
    local = model_origin(ModelArguments(license="mit"), ModelFolder(tmp_path, str(tmp_path)))
    assert (local["base_model"], local["generator"], local["license"]) == (None, tmp_path.name, "mit")
    embedded = model_origin(ModelArguments(decoder_layers=1), None)
    assert embedded["generator"] == "embedded all-MiniLM-L6-v2, 1 decoder layer"
    assert embedded["license"] == "apache-2.0"


def test_data_sets(tmp_path: Path) -> None:
    hub = data_origin(DataArguments(dataset_name="them/mail", dataset_revision="v1"))
    assert hub == {"dataset": "them/mail", "dataset_on_hub": "them/mail", "dataset_revision": "v1"}
    assert data_origin(DataArguments(data_dir=f"{tmp_path}/")) == {"dataset": tmp_path.name}
    assert data_origin(DataArguments(dataset_name=str(tmp_path))) == {"dataset": tmp_path.name}
