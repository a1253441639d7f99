"""Whole and half-written checkpoints; a run that is killed and resumed."""

from __future__ import annotations

import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from lagamc.checkpoints import checkpoint_to_resume, checkpoints, clear, problem_of
from lagamc.errors import LagamcError
from tests.artifacts import Trained, train_quickly, write_data

ROOT = Path(__file__).parent.parent


@pytest.fixture
def run(trained_t5: Trained, tmp_path: Path) -> Path:
    """The folder of a run that was killed behind its checkpoints 15 and 30."""
    folder = tmp_path / "run"
    shutil.copytree(trained_t5.folder, folder)
    (folder / "metrics.json").unlink()
    return folder


def test_the_newest_whole_checkpoint_is_taken(run: Path) -> None:
    said: list[str] = []
    assert [path.name for path in checkpoints(run)] == ["checkpoint-30", "checkpoint-15"]
    assert checkpoint_to_resume("true", run, said.append) == run / "checkpoint-30"
    assert said == [f"going on from {run / 'checkpoint-30'}"]


@pytest.mark.parametrize("part", ["trainer_state.json", "sentence_encoder/model.safetensors", "lagamc_config.json"])
def test_a_half_written_checkpoint_is_passed_over(run: Path, part: str) -> None:
    (run / "checkpoint-30" / part).unlink()
    said: list[str] = []
    assert checkpoint_to_resume("true", run, said.append) == run / "checkpoint-15"
    assert "checkpoint-30 cannot be resumed from and is passed over" in said[0]
    assert part in said[0]
    clear(run, run / "checkpoint-15")
    assert [path.name for path in checkpoints(run)] == ["checkpoint-15"]


def test_a_checkpoint_is_known_by_any_path(run: Path) -> None:
    other = run / ".." / run.name / "checkpoint-15"
    assert checkpoint_to_resume(str(other), run, print) == other
    clear(run, other)
    assert [path.name for path in checkpoints(run)] == ["checkpoint-15"]


def test_a_state_that_is_cut_short(run: Path) -> None:
    state = run / "checkpoint-30" / "trainer_state.json"
    state.write_text(state.read_text(encoding="utf-8")[:100], encoding="utf-8")
    assert problem_of(run / "checkpoint-30") == "its trainer_state.json is cut short"
    with pytest.raises(LagamcError, match="is cut short"):
        checkpoint_to_resume(str(run / "checkpoint-30"), run, print)


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("trainer_state.json", b"[]", "cannot be read"),
        ("trainer_state.json", b'{"zzz": 1}', "cannot be read"),
        ("trainer_state.json", b"\xff\xfe", "cannot be read"),
        ("trainer_state.json", b"[" * 100_000, "cannot be read"),
        ("trainer_state.json", b"{}", "tells no step"),
        ("optimizer.pt", b"PK\x03\x04", "is cut short"),
        ("scheduler.pt", b"", "is cut short"),
        ("rng_state.pth", b"PK", "is cut short"),
        ("sentence_encoder/model.safetensors", b"{", "is cut short"),
    ],
)
def test_a_damaged_state_is_passed_over(run: Path, name: str, content: bytes, reason: str) -> None:
    (run / "checkpoint-30" / name).write_bytes(content)
    said: list[str] = []
    assert checkpoint_to_resume("true", run, said.append) == run / "checkpoint-15"
    assert f"its {name} {reason}" in said[0]


def test_without_any_checkpoint_the_run_starts_from_the_beginning(tmp_path: Path) -> None:
    said: list[str] = []
    (tmp_path / "checkpoint-5").write_text("no folder", encoding="utf-8")
    assert checkpoint_to_resume("true", tmp_path, said.append) is None
    assert "starting from the beginning" in said[0]
    (tmp_path / "metrics.json").write_text("{}", encoding="utf-8")
    assert checkpoint_to_resume("true", tmp_path, said.append) is None
    assert said[2:] == [f"{tmp_path}: holds a finished run, which this one replaces"]


@pytest.mark.parametrize("setting", [None, "false", "elsewhere"])
def test_a_new_run_does_not_write_over_an_unfinished_one(run: Path, tmp_path: Path, setting: str | None) -> None:
    if setting == "elsewhere":
        setting = str(tmp_path / "elsewhere")
        (run / "checkpoint-15").rename(setting)
    with pytest.raises(LagamcError, match="holds checkpoint-30 of an unfinished run"):
        checkpoint_to_resume(setting, run, print)
    (run / "metrics.json").write_text("{}", encoding="utf-8")  # finished: its checkpoints make room
    said: list[str] = []
    checkpoint_to_resume(setting, run, said.append)
    assert said == [f"{run}: holds a finished run, which this one replaces"]
    (run / ".push-x" / "generator").mkdir(parents=True)
    (run / "checkpoint-99").symlink_to(tmp_path)
    clear(run, None)
    assert checkpoints(run) == []
    assert not (run / ".push-x").exists()
    assert not (run / "metrics.json").exists()


def test_other_labels_are_no_continuation(run: Path, trained_t5: Trained, tiny_encoder: Path, tmp_path: Path) -> None:
    data = write_data(tmp_path / "data")
    labels = json.loads((data / "labels.json").read_text(encoding="utf-8"))
    (data / "labels.json").write_text(json.dumps({**labels, "praise": "Applause: all is well."}), encoding="utf-8")
    with pytest.raises(LagamcError, match=r"other labels or descriptions \(praise\)"):
        train_quickly(trained_t5.base, tiny_encoder, data, run, "--resume_from_checkpoint", "true")
    (data / "labels.json").write_text(json.dumps(dict(reversed(labels.items()))), encoding="utf-8")
    with pytest.raises(LagamcError, match=r"other labels or descriptions \(the same in another order\)"):
        train_quickly(trained_t5.base, tiny_encoder, data, run, "--resume_from_checkpoint", "true")
    (data / "labels.json").write_text(json.dumps(labels), encoding="utf-8")
    rows = (data / "train.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)
    (data / "train.jsonl").write_text("".join(rows[:-1]), encoding="utf-8")
    with pytest.raises(LagamcError, match=r"was trained on other rows: '\w+' had \d+ of them, now \d+; go on"):
        train_quickly(trained_t5.base, tiny_encoder, data, run, "--resume_from_checkpoint", "true")
    assert len(checkpoints(run)) == 2


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        (["--lora_alpha", "5"], "another lora_alpha (none, now 5)"),
        (["--lora_targets", "q"], "another lora_targets (none, now q)"),
        (["--learning_rate", "0.5"], "initial_lr 0.02, now 0.5"),
        (["--lambda_learning_rate", "0.02", "--weight_decay", "0.1"], "weight_decay 0.0, now 0.1"),
        (["--optim", "adafactor"], "was set up in another way"),
        (["--lambda_mode", "fixed"], "another lambda_mode (learnable, now fixed)"),
        (["--retrieval_weight", "0"], "another retrieval_weight (above 0, now 0)"),
        (["--retrieval_readers", "generator"], "another retrieval_readers (both, now generator)"),
        (["--repeat_threshold", "0.9"], "another repeat_threshold (0.01, now 0.9)"),
        (["--seed", "5"], "another seed (42, now 5)"),
        (["--data_seed", "5"], "another data_seed (None, now 5)"),
        (["--window_stride", "4"], "another window_stride (0, now 4)"),
        (["--max_input_length", "70"], "another max_input_length (128, now 70)"),
        (["--retrieval_pooling", "mean"], "another retrieval_pooling (attention, now mean)"),
        (
            ["--lora_rank", "3", "--train_sentence_encoder", "false"],
            "another train_sentence_encoder (True, now False), lo",
        ),
    ],
)
def test_other_trained_weights_are_no_continuation(
    run: Path, trained_t5: Trained, tiny_encoder: Path, session_data: Path, settings: list[str], expected: str
) -> None:
    with pytest.raises(LagamcError, match=re.escape(expected)):
        train_quickly(trained_t5.base, tiny_encoder, session_data, run, "--resume_from_checkpoint", "true", *settings)
    assert len(checkpoints(run)) == 2


def test_another_base_model_is_no_continuation(
    run: Path, trained_t5: Trained, tiny_encoder: Path, session_data: Path, tmp_path: Path
) -> None:
    other = shutil.copytree(trained_t5.base, tmp_path / "other-model")
    with pytest.raises(LagamcError, match=r"another model_name_or_path \(.*, now other-model\)"):
        train_quickly(other, tiny_encoder, session_data, run, "--resume_from_checkpoint", "true")


@pytest.mark.slow
def test_ten_kills_end_like_an_undisturbed_run(
    tiny_bart: Path, tiny_encoder: Path, session_data: Path, tmp_path: Path
) -> None:
    """SIGKILL at random moments, also while checkpoints are written; dropout and Gumbel noise included."""
    command = [sys.executable, str(ROOT / "run_train.py"), "--model_name_or_path", str(tiny_bart), "--lora", "false"]
    command += ["--sentence_encoder", str(tiny_encoder), "--data_dir", str(session_data), "--unlabelled", "keep"]
    command += [
        "--max_steps",
        "240",
        "--per_device_train_batch_size",
        "2",
        "--soft_tokens",
        "gumbel",
        "--use_cpu",
        "true",
    ]
    command += ["--eval_strategy", "steps", "--save_strategy", "steps", "--eval_steps", "10", "--save_steps", "10"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}

    def start(folder: Path) -> subprocess.Popen[bytes]:
        words = [*command, "--output_dir", str(folder), "--resume_from_checkpoint", "true"]
        return subprocess.Popen(words, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, cwd=ROOT)

    through = start(tmp_path / "through")
    output, _ = through.communicate(timeout=600)
    assert through.returncode == 0, output.decode()
    rng, folder, kills = random.Random(0), tmp_path / "killed", 0
    for _ in range(60):
        before = len(checkpoints(folder)) and int(checkpoints(folder)[0].name.split("-")[1])
        process = start(folder)
        if kills < 10:
            # once it has begun to train, a little later
            while process.poll() is None and not (
                checkpoints(folder) and int(checkpoints(folder)[0].name.split("-")[1]) > before
            ):
                time.sleep(0.01)
            time.sleep(rng.random() * 0.5)
            process.send_signal(signal.SIGKILL)
            kills += process.wait() == -signal.SIGKILL
        output, _ = process.communicate(timeout=600)
        if process.returncode == 0:
            break
    assert kills == 10
    assert process.returncode == 0, output.decode()
    for part in ("generator/model.safetensors", "sentence_encoder/model.safetensors", "retrieval.safetensors"):
        expected, found = load_file(tmp_path / "through" / part), load_file(folder / part)
        assert all(torch.equal(found[name], weight) for name, weight in expected.items()), part
    configs = [json.loads((tmp_path / n / "lagamc_config.json").read_text("utf-8")) for n in ("through", "killed")]
    assert configs[0]["lambda_state"] == configs[1]["lambda_state"]
    assert configs[0]["thresholds"] == configs[1]["thresholds"]
