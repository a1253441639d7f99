"""The main table (paper, table 3): LAGAMC and its peers on the same rows, thresholds tuned the same way.

    python -m benchmarks.main_table --dataset caves --system lagamc --seed 1     one row
    python -m benchmarks.main_table --dataset caves --system one_vs_all --backbone roberta-base     on another model
    python -m benchmarks.main_table --all [--datasets ...] [--systems ...] [--seeds 1 2 3]     all that are missing
    python -m benchmarks.main_table --render     writes the tables of BENCHMARKS.md

A row is measured in a process of its own and kept as JSON in `benchmarks/results/main_table/`; one that is there is
not measured again. `--rows` and `--test_rows` take the first rows alone and keep the result apart; `--quick` is 300 of
each. The last line of a row is its JSON object, of `--all` a list of them. Systems: see `SYSTEMS`.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import re
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import tables
from benchmarks.analysis import analyse
from benchmarks.datasets import ROOT, SIZES, Task, load_task, write_data
from benchmarks.models import WITHOUT_CHECKPOINTS, run_training
from benchmarks.outcomes import RESULTS, machine, write
from benchmarks.peers import Scored, decide
from lagamc import __version__
from lagamc.artifact import read_config
from lagamc.metrics import multi_label_metrics
from lagamc.report_data import read_run
from lagamc.thresholds import GOALS

ROWS = RESULTS / "main_table"


@dataclass(frozen=True)
class System:
    """One row of the table.

    Args:
        title: in the table.
        module: of `benchmarks` that holds it; it is imported when it is measured.
        function: from a task to what it scored.
        seeded: whether another seed gives other figures.
        needs: an environment variable without which it is left out.
        any_backbone: whether `--backbone` may name another model.
    """

    title: str
    module: str
    function: str
    seeded: bool = True
    needs: str = ""
    any_backbone: bool = False

    def __call__(self, task: Task) -> Scored:
        found: Callable[[Task], Scored] = getattr(import_module(self.module), self.function)
        return found(task)


SYSTEMS: dict[str, System] = {
    "lagamc": System("**LAGAMC**, embedded generator", "benchmarks.main_table", "lagamc", any_backbone=True),
    "tfidf_svc": System("TF-IDF + LinearSVC", "benchmarks.peers", "tfidf_svc", seeded=False),
    "tfidf_logistic": System("TF-IDF + logistic regression", "benchmarks.peers", "tfidf_logistic", seeded=False),
    "frozen_minilm": System("frozen MiniLM + logistic regression", "benchmarks.peers", "frozen_minilm", seeded=False),
    "zero_shot_minilm": System("MiniLM, zero-shot", "benchmarks.peers", "zero_shot_minilm", seeded=False),
    "one_vs_all": System(
        "MiniLM, multi-label head (BERT, Renee)", "benchmarks.encoder_peers", "one_vs_all", any_backbone=True
    ),
    "joint_encoding": System(
        "MiniLM, joint encoding of descriptions", "benchmarks.encoder_peers", "joint_encoding", any_backbone=True
    ),
    "label_queries": System("MiniLM, label queries (T5Enc)", "benchmarks.encoder_peers", "label_queries"),
    "dual_encoder": System("MiniLM, dual encoder (SiameseXML, DEXA)", "benchmarks.encoder_peers", "dual_encoder"),
    "set_fit": System("SetFit, MiniLM", "benchmarks.encoder_peers", "set_fit"),
    "parabel": System("Parabel (omikuji)", "benchmarks.tree_peers", "parabel"),
    "probabilistic_tree": System("probabilistic label tree (napkinXC)", "benchmarks.tree_peers", "probabilistic_tree"),
    "pecos": System("PECOS, XR-Linear", "benchmarks.own_environments", "pecos", seeded=False),
    "text_cnn": System("TextCNN (LibMultiLabel)", "benchmarks.own_environments", "text_cnn"),
    "attention_rnn": System(
        "LSTM, attention a label (LibMultiLabel; AttentionXML)", "benchmarks.own_environments", "attention_rnn"
    ),
    "chat": System("chat model, zero-shot", "benchmarks.chat_peer", "chat", seeded=False, needs="LAGAMC_CHAT_MODEL"),
}


def lagamc(task: Task) -> Scored:
    """The README's training command on the rows of the task."""
    with tempfile.TemporaryDirectory() as place:
        data, folder = Path(place, "data"), Path(place, "model")
        data.mkdir()
        write_data(data, dict(task.bank.items()), task.splits)
        settings = ["--data_dir", str(data), "--seed", str(task.seed), "--num_train_epochs", str(task.epochs)]
        settings += [*WITHOUT_CHECKPOINTS, *(["--model_name_or_path", task.backbone] if task.backbone else [])]
        config = task.config or task.name
        run_training(config, folder, *settings, *task.settings)
        run, figures = read_run(folder), read_config(folder).figures
    scores = {split: rows.scores for split, rows in run.splits.items()}
    trainable, total = figures["trainable_parameters"], figures["total_parameters"]
    return Scored(scores, f"lagamc {__version__}", f"configs/{config}.yaml", trainable, total)


def measure(system: str, task: Task) -> dict[str, Any]:
    """One row: figures on the test rows by thresholds tuned on the development rows for each goal."""
    begin = time.perf_counter()
    scored = SYSTEMS[system](task)
    seconds = time.perf_counter() - begin
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    row: dict[str, Any] = {
        "dataset": task.name,
        "system": system,
        "backbone": task.backbone,
        "seed": task.seed,
        "rows": {split: len(found) for split, found in task.splits.items()},
        "library": scored.library,
        "setting": scored.setting,
        "trainable_parameters": scored.trainable,
        "total_parameters": scored.total,
        "seconds": round(seconds, 1),
        "cpu_seconds": round(sum(one.ru_utime + one.ru_stime for one in used), 1),
        "peak_mib": round(max(one.ru_maxrss for one in used) / 1024),
        "machine": machine(),
    }
    given = {goal: decide(task, scored.scores, goal) for goal in GOALS}
    for goal, split in itertools.product(GOALS, scored.scores):
        row[f"{split}_for_{goal}"] = _figures(given[goal][split], task.true[split])
    row["test_at_half"] = _figures(scored.scores["test"] >= 0.5, task.true["test"])
    row["analysis"] = analyse(task, *(given[goal]["test"].astype(int) for goal in GOALS))
    return row


def _figures(given: np.ndarray, true: np.ndarray) -> dict[str, float]:
    figures = multi_label_metrics(given, true)
    return {name: round(figures[name], 4) for name in GOALS}


def result_file(
    dataset: str, system: str, seed: int, rows: int | None, test_rows: int | None, backbone: str | None = None
) -> Path:
    """Where a row is kept."""
    part = "" if backbone is None else "-" + re.sub(r"[^A-Za-z0-9.]+", "-", backbone).strip("-")
    part += "".join(f"-{name}{count}" for name, count in (("train", rows), ("test", test_rows)) if count)
    return ROWS / f"{dataset}-{system}-{seed}{part}.json"


def run_one(
    dataset: str, system: str, seed: int, rows: int | None, test_rows: int | None, backbone: str | None = None
) -> dict[str, Any]:
    """A row, out of its file where it was measured before."""
    path = result_file(dataset, system, seed, rows, test_rows, backbone)
    if not path.is_file():
        needs = SYSTEMS[system].needs
        if needs and not os.environ.get(needs):
            return {"skipped": f"{system}: {needs} is not set"}
        task = load_task(dataset, seed, rows, test_rows)
        if task is None:
            return {"skipped": f"no data set {dataset} is there"}
        write(path, measure(system, replace(task, backbone=backbone)))
    return json.loads(path.read_text(encoding="utf-8"))


def main() -> None:
    """Measures, or writes the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", choices=list(SIZES))
    parser.add_argument("--system", choices=list(SYSTEMS))
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--rows", type=int, help="training rows at most")
    parser.add_argument("--test_rows", type=int, help="test rows at most")
    parser.add_argument("--backbone", help="folder or Hub name in place of MiniLM, for systems that take any")
    parser.add_argument("--quick", action="store_true", help="caves, 300 rows, every system once")
    parser.add_argument("--all", action="store_true", help="every row that is missing, one after the other")
    parser.add_argument("--datasets", nargs="+", default=list(SIZES), choices=list(SIZES))
    parser.add_argument("--systems", nargs="+", default=list(SYSTEMS), choices=list(SYSTEMS))
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--render", action="store_true", help="writes the tables of BENCHMARKS.md")
    options = parser.parse_args()
    if options.render:
        tables.render({name: system.title for name, system in SYSTEMS.items()})
        return
    if options.quick:
        options.all, options.datasets, options.seeds = True, ["caves"], [1]
        options.rows = options.test_rows = 300
    if not options.all:
        if options.dataset is None or options.system is None:
            parser.error("expected --dataset and --system, --all, --quick or --render")
        if options.backbone and not SYSTEMS[options.system].any_backbone:
            fitting = [name for name, system in SYSTEMS.items() if system.any_backbone]
            parser.error(f"--backbone: expected with one of {', '.join(fitting)}, found {options.system}")
        row = run_one(options.dataset, options.system, options.seed, options.rows, options.test_rows, options.backbone)
        print(json.dumps(row))
        return
    found = []
    for seed, dataset, system in itertools.product(options.seeds, options.datasets, options.systems):
        if seed != options.seeds[0] and not SYSTEMS[system].seeded:
            continue
        if options.backbone and not SYSTEMS[system].any_backbone:
            continue
        command = [sys.executable, "-m", "benchmarks.main_table", "--dataset", dataset, "--system", system]
        command += ["--seed", str(seed)]
        for name in ("rows", "test_rows", "backbone"):
            if getattr(options, name):
                command += [f"--{name}", str(getattr(options, name))]
        output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, cwd=ROOT).stdout
        found.append(json.loads(output.strip().splitlines()[-1]))
        print(json.dumps(found[-1]), flush=True)
    print(json.dumps(found))


if __name__ == "__main__":
    main()
