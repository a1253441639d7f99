"""What each form of the loss gives: the ablation configs on the first training rows of CAVES.

    python -m benchmarks.loss_forms [--quick] [--rows 2000] [--seeds 1 2 3] [--only NAME ...]

Every row is a run of `run_train.py` with a config of `configs/ablations` or a change to it: the first training rows,
all development rows, on which one threshold is tuned, and the first 1,000 test rows. The generator alone reads the
texts of the retrieval term, and what their words say is no source of the scores.
Finished runs are kept in `benchmarks/results/loss_forms/` and not repeated. The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import itertools
import json
import re
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.datasets import find_dataset, missing
from benchmarks.models import WITHOUT_CHECKPOINTS, run_training
from benchmarks.outcomes import RESULTS, read, run, write

RUNS = RESULTS / "loss_forms"
FORMS: dict[str, tuple[str, list[str]]] = {
    "cross-entropy": ("cross_entropy", []),
    "hybrid, response": ("hybrid", []),
    "hybrid, description": ("hybrid", ["--semantic_form", "description"]),
    "hybrid, contrastive": ("hybrid", ["--semantic_form", "contrastive"]),
    "retrieval, no semantic term": ("retrieval", []),
    "retrieval, response, lambda learnable": ("hybrid", ["--retrieval_weight", "0.3"]),
    "retrieval, response, lambda fixed": ("hybrid", ["--retrieval_weight", "0.3", "--lambda_mode", "fixed"]),
    "retrieval, response, uncertainty": ("hybrid", ["--retrieval_weight", "0.3", "--lambda_mode", "uncertainty"]),
    "retrieval, description": ("description", []),
    "retrieval, contrastive": ("contrastive", []),
    "retrieval, atomic labels": ("atomic_labels", []),
    "retrieval, frozen encoder": ("frozen_encoder", []),
}
KEYS = (
    *("dev_micro_f1", "dev_macro_f1", "test_micro_f1", "test_macro_f1"),
    *("test_generated_micro_f1", "test_generated_macro_f1", "collapse"),
)


def measure(form: str, seed: int, rows: int, data: Path, quick: bool) -> dict[str, Any]:
    """One training, out of its file where it was run before: form, seed, rows and its figures."""
    path = RUNS / f"{re.sub('[^a-z]+', '-', form)}-{seed}-train{rows}.json"
    if quick or not path.is_file():
        config, changes = FORMS[form]
        settings = ["--data_dir", str(data), "--max_train_rows", str(rows), "--max_test_rows", "1000"]
        settings += ["--seed", str(seed), "--retrieval_readers", "generator", *WITHOUT_CHECKPOINTS]
        with tempfile.TemporaryDirectory() as folder:
            figures = run_training(f"ablations/{config}", Path(folder), *changes, *settings)
        row = {"form": form, "seed": seed, "rows": rows, **{key: figures[key] for key in KEYS}}
        if quick:
            return row
        write(path, row)
    return read(path, "form", *KEYS)


def main() -> None:
    """Prints a row per form, then mean and standard deviation of every figure as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="300 rows, one seed, not kept for the tables")
    parser.add_argument("--rows", type=int, default=2000, help="training rows")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--only", nargs="+", choices=list(FORMS), default=list(FORMS), metavar="NAME")
    options = parser.parse_args()
    data = find_dataset("caves")
    if data is None:
        print(json.dumps({"skipped": missing("caves")}))
        return
    rows, seeds = (300, [1]) if options.quick else (options.rows, options.seeds)
    found: dict[str, list[dict[str, Any]]] = {form: [] for form in options.only}
    for seed, form in itertools.product(seeds, options.only):
        found[form].append(measure(form, seed, rows, data, options.quick))
    summary: dict[str, dict[str, list[float]]] = {}
    for form, figures in found.items():
        summary[form] = {
            name: [round(float(f([row[name] for row in figures])), 4) for f in (np.mean, np.std)] for name in KEYS
        }
        print(f"{form}: " + ", ".join(f"{name} {m:.4f} (±{s:.4f})" for name, (m, s) in summary[form].items()))
    print(json.dumps(summary))


if __name__ == "__main__":
    run(main)
