"""Models that the benchmarks measure: trained once by the README's command and kept."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

from benchmarks.datasets import ROOT, find_dataset
from lagamc.checkpoints import METRICS_FILE

WITHOUT_CHECKPOINTS = (
    *("--eval_strategy", "no", "--save_strategy", "no"),
    *("--load_best_model_at_end", "false"),
)


def run_whole(command: list[str], **settings: Any) -> str | None:
    """Runs a command that ends with us, whatever it started: `accelerate launch` alone leaves a training behind.

    Args:
        command: with its arguments.
        settings: of `subprocess.Popen`.

    Returns:
        What it printed, where `settings` ask for that.

    Raises:
        subprocess.CalledProcessError: it failed.
    """
    with subprocess.Popen(command, start_new_session=True, text=True, **settings) as process:
        try:
            output, _ = process.communicate()
        except BaseException:
            os.killpg(process.pid, signal.SIGTERM)
            raise
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, command)
    return output


def run_training(config: str, folder: Path, *settings: str) -> dict[str, Any]:
    """One run of the README's training command in a process of its own; its figures.

    Args:
        config: below `configs/`, without its ending.
        folder: where the model is written.
        settings: further arguments of `run_train.py`.
    """
    command = [sys.executable, "-m", "accelerate.commands.launch"]
    command += ["--config_file", str(ROOT / "accelerate_config.yaml"), str(ROOT / "run_train.py")]
    command += ["--config", str(ROOT / "configs" / f"{config}.yaml"), "--output_dir", str(folder), *settings]
    run_whole(command, stdout=sys.stderr, cwd=ROOT)
    return json.loads((folder / METRICS_FILE).read_text(encoding="utf-8"))


def kept_folder(name: str) -> Path:
    """Where a trained model is kept; another one after a change to what trains it."""
    sources = sorted([*(ROOT / "lagamc").rglob("*.py"), *(ROOT / "configs").rglob("*.yaml")])
    state = hashlib.sha256(b"".join(source.read_bytes() for source in sources)).hexdigest()[:8]
    return ROOT / "outputs" / f"benchmark-{name}-{state}"


def trained_model(name: str, *settings: str, rows: int = 2000, epochs: int = 2, variant: str = "") -> Path | None:
    """The folder of an embedded model trained on the first rows of a data set; None where the data set is absent.

    Args:
        name: of the data set and of its config.
        settings: further arguments of `run_train.py`.
        rows: training rows.
        epochs: over them.
        variant: tells models with other settings apart.
    """
    data = find_dataset(name)
    if data is None:
        return None
    folder = kept_folder(f"{name}-{rows}-{epochs}{variant}")
    if not (folder / METRICS_FILE).is_file():
        limits = ["--max_train_rows", str(rows), "--max_dev_rows", "500", "--max_test_rows", "500"]
        limits += ["--num_train_epochs", str(epochs), *WITHOUT_CHECKPOINTS]
        run_training(name, folder, "--data_dir", str(data), *limits, *settings)
    return folder
