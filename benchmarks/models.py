"""Models that the benchmarks measure: trained once by the README's command and kept."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from benchmarks.datasets import ROOT, find_dataset
from lagamc.checkpoints import METRICS_FILE


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
    folder = ROOT / "outputs" / f"benchmark-{name}-{rows}-{epochs}{variant}"
    if not (folder / METRICS_FILE).is_file():
        command = [sys.executable, "-m", "accelerate.commands.launch"]
        command += ["--config_file", str(ROOT / "accelerate_config.yaml"), str(ROOT / "run_train.py")]
        command += ["--config", str(ROOT / "configs" / f"{name}.yaml"), "--data_dir", str(data)]
        command += ["--max_train_rows", str(rows), "--max_dev_rows", "500", "--max_test_rows", "500"]
        command += ["--num_train_epochs", str(epochs), "--output_dir", str(folder), *settings]
        command += ["--eval_strategy", "no", "--save_strategy", "no", "--load_best_model_at_end", "false"]
        subprocess.run(command, check=True, stdout=sys.stderr, cwd=ROOT)
    return folder
