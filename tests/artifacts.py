"""Models trained for some steps through `lagamc.training.train`, once a session and only when asked for."""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pytest

from lagamc.classifier import LagamcClassifier
from lagamc.config import parse_arguments
from lagamc.predictions import Prediction
from lagamc.training import train
from tests.conftest import DESCRIPTIONS, ROWS

QUICK = ["--max_steps", "30", "--per_device_train_batch_size", "3", "--use_cpu", "true", "--disable_tqdm", "true"]
NO_CHECKPOINTS = ["--eval_strategy", "no", "--save_strategy", "no", "--load_best_model_at_end", "false"]
TWO_CHECKPOINTS = ["--eval_strategy", "steps", "--save_strategy", "steps", "--eval_steps", "15", "--save_steps", "15"]


@dataclass(frozen=True)
class Trained:
    """A finished run: its output folder, its figures and the base model it started from."""

    folder: Path
    figures: dict[str, Any]
    base: Path

    def load(self) -> LagamcClassifier:
        return LagamcClassifier.from_pretrained(self.folder, "cpu")

    def copy_to(self, target: Path) -> Path:
        """A copy without checkpoints that a test may spoil."""
        shutil.copytree(self.folder, target, ignore=shutil.ignore_patterns("checkpoint-*", "training_args.bin"))
        return target


def write_data(folder: Path, splits: tuple[str, ...] = ("train", "dev", "test")) -> Path:
    """The rows of `conftest` as a data set folder."""
    folder.mkdir(parents=True)
    for split in splits:
        lines = [json.dumps({**row, "id": f"{split}-{row['id']}"}) for row in ROWS]
        (folder / f"{split}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    (folder / "labels.json").write_text(json.dumps(DESCRIPTIONS), encoding="utf-8")
    return folder


def edit_json(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text(encoding="utf-8")), **changes}), encoding="utf-8")


def train_quickly(base: Path, encoder: Path, data: Path, output: Path, *more: str) -> Trained:
    """A few steps of training with LoRA, unless `more` says otherwise."""
    settings = ["--model_name_or_path", str(base), "--sentence_encoder", str(encoder), "--data_dir", str(data)]
    settings += [
        "--output_dir",
        str(output),
        "--unlabelled",
        "keep",
        "--learning_rate",
        "0.02",
        "--lora_rank",
        "8",
        "--logging_steps",
        "10",
        *QUICK,
        *more,
    ]
    return Trained(output, train(parse_arguments(settings)), base)


@pytest.fixture(scope="session")
def session_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_data(tmp_path_factory.mktemp("session") / "data")


@pytest.fixture(scope="session")
def trained_t5(
    tiny_t5: Path, tiny_encoder: Path, session_data: Path, tmp_path_factory: pytest.TempPathFactory
) -> Trained:
    """T5 with LoRA, with checkpoints, tuned for macro-F1."""
    output = tmp_path_factory.mktemp("trained") / "t5"
    return train_quickly(tiny_t5, tiny_encoder, session_data, output, "--threshold_goal", "macro_f1", *TWO_CHECKPOINTS)


@pytest.fixture(scope="session")
def trained_bart(
    tiny_bart: Path, tiny_encoder: Path, session_data: Path, tmp_path_factory: pytest.TempPathFactory
) -> Trained:
    """BART with LoRA, texts read by the generator alone."""
    output = tmp_path_factory.mktemp("trained") / "bart"
    settings = ["--retrieval_readers", "generator", "--retrieval_pooling", "mean", *NO_CHECKPOINTS]
    return train_quickly(tiny_bart, tiny_encoder, session_data, output, *settings)


@pytest.fixture(scope="session")
def trained_llama(
    tiny_llama: Path, tiny_encoder: Path, session_data: Path, tmp_path_factory: pytest.TempPathFactory
) -> Trained:
    """Llama with LoRA."""
    output = tmp_path_factory.mktemp("trained") / "llama"
    return train_quickly(tiny_llama, tiny_encoder, session_data, output, *NO_CHECKPOINTS)


@pytest.fixture(scope="session")
def trained_whole(tiny_bart: Path, tiny_encoder: Path, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """BART without LoRA, on data without a test split."""
    folder = tmp_path_factory.mktemp("trained-whole")
    data = write_data(folder / "data", ("train", "dev"))
    return train_quickly(tiny_bart, tiny_encoder, data, folder / "bart", "--lora", "false", *NO_CHECKPOINTS)


@pytest.fixture(scope="session", params=["t5", "bart", "whole"])
def trained(request: pytest.FixtureRequest) -> Trained:
    """Each kind of model in turn."""
    return request.getfixturevalue(f"trained_{request.param}")


@pytest.fixture(scope="session")
def classifier(trained_t5: Trained) -> LagamcClassifier:
    """The T5 loaded once; tests leave it as it is."""
    return trained_t5.load()


def assert_alike(found: list[dict[str, Any]], expected: list[Prediction]) -> None:
    """The same predictions, as another process wrote them; it adds up in another order, so last digits may differ."""
    for theirs, ours in zip(found, expected, strict=True):
        like: dict[str, Any] = {**asdict(ours), "scores": pytest.approx(ours.scores, abs=2e-6)}
        for match in like["matches"]:
            match["similarity"] = pytest.approx(match["similarity"])
        assert theirs == like
