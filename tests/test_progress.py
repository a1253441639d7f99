"""The bar of a training run."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.artifacts import Trained, train_quickly


def test_the_bar_tells_samples_per_second_and_time_left(
    tiny_t5: Path, tiny_encoder: Path, session_data: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    settings = ["--max_steps", "4", "--disable_tqdm", "false", "--save_steps", "2", "--save_strategy", "steps"]
    settings += ["--eval_strategy", "no", "--load_best_model_at_end", "false", "--per_device_train_batch_size", "2"]
    folder = tmp_path / "run"
    train_quickly(tiny_t5, tiny_encoder, session_data, folder, *settings)
    shown = capfd.readouterr().err
    assert re.search(r"4/4 \[.*<.*[\d.]+ samples/s\]", shown), shown[-500:]

    # resumed in the middle the bar begins there
    Path(folder, "metrics.json").unlink()
    again = train_quickly(
        tiny_t5,
        tiny_encoder,
        session_data,
        folder,
        *settings,
        "--resume_from_checkpoint",
        str(folder / "checkpoint-2"),
    )
    assert isinstance(again, Trained)
    shown = capfd.readouterr().err
    assert "2/4" in shown
    assert "1/4" not in shown


def test_without_a_bar_none_is_shown(
    tiny_t5: Path, tiny_encoder: Path, session_data: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    settings = ["--max_steps", "1", "--eval_strategy", "no", "--save_strategy", "no"]
    train_quickly(
        tiny_t5, tiny_encoder, session_data, tmp_path / "run", *settings, "--load_best_model_at_end", "false"
    )
    assert "samples/s" not in capfd.readouterr().err
