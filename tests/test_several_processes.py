"""Training in several processes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from tests.conftest import DESCRIPTIONS, ROWS

ROOT = Path(__file__).parent.parent


def _train(processes: int, batch: int, data: Path, folder: Path, generator: Path, encoder: Path) -> dict[str, Any]:
    """The lines that a run by `accelerate launch` logged."""
    command = [sys.executable, "-m", "accelerate.commands.launch", "--num_processes", str(processes)]
    command += ["--multi_gpu"] if processes > 1 else []
    command += ["--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", "0"]
    command += [str(ROOT / "run_train.py"), "--data_dir", str(data), "--output_dir", str(folder)]
    command += ["--model_name_or_path", str(generator), "--sentence_encoder", str(encoder), "--unlabelled", "keep"]
    command += ["--per_device_train_batch_size", str(batch), "--per_device_eval_batch_size", "2"]
    command += ["--train_sampling_strategy", "random", "--max_steps", "3"]
    command += ["--eval_strategy", "steps", "--eval_steps", "1", "--save_strategy", "steps", "--save_steps", "3"]
    command += ["--logging_steps", "1", "--learning_rate", "0.02", "--lora_rank", "8"]
    command += ["--text_dropout", "0"]  # drawn for each process by itself
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, cwd=ROOT, timeout=600)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    last = max(folder.glob("checkpoint-*"), key=lambda path: int(path.name.split("-")[1]))
    lines = json.loads((last / "trainer_state.json").read_text(encoding="utf-8"))["log_history"]
    # losses in evaluation are means over batches, and repeated rows fill up the last one
    batchwise = ("loss", "semantic", "cross_entropy", "retrieval")
    timed = ("runtime", "per_second", "grad_norm")
    lines = [
        {k: v for k, v in line.items() if not k.endswith(timed) and not (k[:5] == "eval_" and k.endswith(batchwise))}
        for line in lines
    ]
    return {"lines": lines, "last": last}


@pytest.mark.slow
def test_two_processes_learn_and_measure_as_one(tiny_t5: Path, tiny_encoder: Path, tmp_path: Path) -> None:
    """An odd number of training and of development rows; the steps end before rows are repeated to fill a batch."""
    data = tmp_path / "data"
    data.mkdir()
    rows = [*ROWS, {"id": "g", "text": "Thank you, but it was late.", "labels": ["late", "praise"]}]
    assert len(rows) % 2 == 1
    for split, part in (("train", rows), ("dev", rows[:5])):
        (data / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in part), encoding="utf-8")
    (data / "labels.json").write_text(json.dumps(DESCRIPTIONS), encoding="utf-8")
    one = _train(1, 2, data, tmp_path / "one", tiny_t5, tiny_encoder)
    two = _train(2, 1, data, tmp_path / "two", tiny_t5, tiny_encoder)

    assert len(one["lines"]) == len(two["lines"]) == 6
    for first, second in zip(one["lines"], two["lines"], strict=True):
        assert first == pytest.approx(second, abs=2e-4), (first, second)
    assert {"loss", "semantic", "cross_entropy", "retrieval", "lambda"} < set(one["lines"][0])
    assert {"eval_micro_f1", "eval_macro_f1", "eval_lambda"} < set(one["lines"][1])
    # one of the five development rows has no labels: a repeated row would show in the share
    assert 0.2 in [line.get("eval_subset_accuracy") for line in two["lines"]]
    for part in ("adapter_model.safetensors", "sentence_encoder/model.safetensors", "retrieval.safetensors"):
        expected, found = load_file(one["last"] / part), load_file(two["last"] / part)
        assert set(expected) == set(found)
        for name, weight in expected.items():
            torch.testing.assert_close(found[name], weight, atol=1e-4, rtol=1e-4, msg=lambda m, n=name: f"{n}: {m}")
