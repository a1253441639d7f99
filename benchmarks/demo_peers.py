"""The demonstration corpus: LAGAMC as it is installed against linear peers on the same rows.

Thresholds of all are tuned on the development rows; LAGAMC has its offset for each label, too.

    python -m benchmarks.demo_peers [--quick]

`--quick` runs one seed. The last line is `{"lagamc": {...}, "linear": {...}, "frozen": {...}}`.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import numpy as np

from benchmarks.datasets import Task
from benchmarks.models import run_training
from benchmarks.outcomes import finish, run
from benchmarks.peers import decide, frozen_minilm, tfidf_svc
from lagamc.config import DataArguments
from lagamc.metrics import multi_label_metrics
from lagamc.training_data import load_data

SEEDS = (1, 2, 3)


def train_lagamc(seed: int, folder: Path) -> dict[str, float]:
    """The README's training command with another seed."""
    figures = run_training("demo", folder, "--seed", str(seed), "--save_total_limit", "1")
    return {name: figures[f"test_{name}"] for name in ("micro_f1", "macro_f1")}


def main() -> None:
    """Prints a row per system and seed, then the means as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one seed")
    seeds = SEEDS[:1] if parser.parse_args().quick else SEEDS
    data = load_data(DataArguments(data_dir="demo", unlabelled="keep"))
    results: dict[str, list[dict[str, float]]] = {"lagamc": [], "linear": [], "frozen": []}
    for seed in seeds:
        task = Task("demo", data.bank, data.splits, max_length=64, epochs=6, peer_epochs=6, seed=seed)
        for name, peer in (("linear", tfidf_svc), ("frozen", frozen_minilm)):
            given, _ = decide(task, peer(task).scores, "micro_f1")
            results[name].append(multi_label_metrics(given["test"], task.true["test"]))
        with tempfile.TemporaryDirectory() as folder:
            results["lagamc"].append(train_lagamc(seed, Path(folder)))
        for name, rows in results.items():
            print(f"seed {seed} {name:7} micro-F1 {rows[-1]['micro_f1']:.4f} macro-F1 {rows[-1]['macro_f1']:.4f}")
    means = {
        name: {key: round(float(np.mean([row[key] for row in rows])), 4) for key in ("micro_f1", "macro_f1")}
        for name, rows in results.items()
    }
    finish(means, len(seeds) == 1)


if __name__ == "__main__":
    run(main)
