"""The main table (paper, table 3): LAGAMC and its peers on the same rows, thresholds tuned the same way.

    python -m benchmarks.main_table --dataset caves --system lagamc --seed 1     one row
    python -m benchmarks.main_table --dataset caves --system one_vs_all --backbone roberta-base     on another model
    python -m benchmarks.main_table --all [--datasets ...] [--systems ...] [--seeds 1 2 3]     all that are missing
    python -m benchmarks.main_table --render     writes the tables of BENCHMARKS.md

A row is measured in a process of its own and kept as JSON in `benchmarks/results/main_table/`; one that is there is
not measured again. `--rows` and `--test_rows` take the first rows alone and keep the result apart; `--quick` is 300 of
each, measured each time and not kept. `--all` passes over what cannot be measured here. Systems that train in
epochs take those of `benchmarks.datasets`, or `--epochs`; the tables show what the epochs that are best on the
development rows gave. Systems that cut a text take the tokens of the config; with `--tokens` they are systems of their
own in the tables, so that all are compared at the same length. The last line of a row is its JSON object, of `--all` a
list of them. The systems are described in `BENCHMARKS.md`.
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
from dataclasses import asdict, dataclass, fields, replace
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
from scipy.special import expit, logit

from benchmarks import tables
from benchmarks.analysis import analyse
from benchmarks.datasets import MIXED_ROWS, MIXED_TEST_ROWS, SIZES, Task, load_task, missing, write_data
from benchmarks.models import WITHOUT_CHECKPOINTS, run_training, run_whole
from benchmarks.outcomes import RESULTS, machine, read, run, write
from benchmarks.peers import Scored, decide
from benchmarks.result_rows import is_ours
from lagamc import __version__
from lagamc.artifact import read_config
from lagamc.calibration import Calibration
from lagamc.cli import positive
from lagamc.data import Example
from lagamc.errors import LagamcError
from lagamc.generators import embedded_folder, load_tokenizer
from lagamc.metrics import multi_label_metrics
from lagamc.report_data import read_run
from lagamc.thresholds import GOALS
from lagamc.training_args import settle_mixed_precision

ROWS = RESULTS / "main_table"
SETTINGS = ("backbone", "epochs", "tokens")  # options of the command that not every system takes
LEAST_TOKENS = 8


@dataclass(frozen=True)
class System:
    """One row of the table.

    Args:
        title: in the table.
        module: of `benchmarks` that holds it; it is imported when it is measured.
        function: from a task to what it scored.
        seeded: whether another seed gives other figures.
        needs: an environment variable without which it is left out.
        takes: the options of `SETTINGS` that it takes.
    """

    title: str
    module: str
    function: str
    seeded: bool = True
    needs: str = ""
    takes: tuple[str, ...] = ()

    def __call__(self, task: Task) -> Scored:
        found: Callable[[Task], Scored] = getattr(import_module(self.module), self.function)
        return found(task)


SYSTEMS: dict[str, System] = {
    "lagamc": System("**LAGAMC**, embedded generator", "benchmarks.main_table", "lagamc", takes=SETTINGS),
    "lagamc_one_reader": System(
        "LAGAMC, texts read by the generator alone", "benchmarks.main_table", "lagamc_one_reader", takes=SETTINGS
    ),
    "tfidf_svc": System("TF-IDF + LinearSVC", "benchmarks.peers", "tfidf_svc", seeded=False),
    "tfidf_logistic": System("TF-IDF + logistic regression", "benchmarks.peers", "tfidf_logistic", seeded=False),
    "frozen_minilm": System("frozen MiniLM + logistic regression", "benchmarks.peers", "frozen_minilm", seeded=False),
    "zero_shot_minilm": System("MiniLM, zero-shot", "benchmarks.peers", "zero_shot_minilm", seeded=False),
    "one_vs_all": System(
        "MiniLM, multi-label head (BERT, Renee)", "benchmarks.encoder_peers", "one_vs_all", takes=SETTINGS
    ),
    "joint_encoding": System(
        "MiniLM, joint encoding of descriptions", "benchmarks.encoder_peers", "joint_encoding", takes=SETTINGS
    ),
    "label_queries": System(
        "MiniLM, label queries (T5Enc)", "benchmarks.encoder_peers", "label_queries", takes=("epochs", "tokens")
    ),
    "dual_encoder": System(
        "MiniLM, dual encoder (SiameseXML, DEXA)", "benchmarks.encoder_peers", "dual_encoder", takes=SETTINGS
    ),
    "set_fit": System("SetFit, MiniLM", "benchmarks.encoder_peers", "set_fit", takes=("tokens",)),
    "parabel": System("Parabel (omikuji)", "benchmarks.tree_peers", "parabel"),
    "probabilistic_tree": System("probabilistic label tree (napkinXC)", "benchmarks.tree_peers", "probabilistic_tree"),
    "pecos": System("PECOS, XR-Linear", "benchmarks.own_environments", "pecos", seeded=False),
    "text_cnn": System("TextCNN (LibMultiLabel)", "benchmarks.own_environments", "text_cnn"),
    "attention_rnn": System(
        "LSTM, attention a label (LibMultiLabel; AttentionXML)", "benchmarks.own_environments", "attention_rnn"
    ),
    "chat": System("chat model, zero-shot", "benchmarks.chat_peer", "chat", seeded=False, needs="LAGAMC_CHAT_MODEL"),
}


@dataclass(frozen=True)
class Variant:
    """How a row departs from the whole data set and the usual setting; each field is an option of the command.

    Args:
        rows: training rows at most.
        test_rows: test rows at most.
        backbone: see `Task`.
        epochs: over the training rows.
        tokens: of a text at most.
    """

    rows: int | None = None
    test_rows: int | None = None
    backbone: str | None = None
    epochs: int | None = None
    tokens: int | None = None

    def __str__(self) -> str:
        """For the name of a file."""
        backbone = re.sub(r"[^A-Za-z0-9.]+", "-", self.backbone or "").strip("-")
        named = {
            "": backbone,
            "train": self.rows,
            "test": self.test_rows,
            "epochs": self.epochs,
            "tokens": self.tokens,
        }
        return "".join(f"-{name}{value}" for name, value in named.items() if value)

    def unfit(self, system: str) -> str | None:
        """The first option that a system does not take, and those that do."""
        for name in SETTINGS:
            if getattr(self, name) is not None and name not in SYSTEMS[system].takes:
                fitting = [one for one, its in SYSTEMS.items() if name in its.takes]
                return f"--{name}: expected with one of {', '.join(fitting)}, found {system}"
        return None


def cut_texts(task: Task) -> dict[str, list[Example]]:
    """The rows of every split with what is left of their texts at the tokens of the task: LAGAMC's sentence encoder
    would read on where its peers cannot."""
    tokenizer = load_tokenizer(task.backbone or embedded_folder())

    def cut(text: str) -> str:
        found = tokenizer(text, truncation=True, max_length=task.max_length, return_offsets_mapping=True)
        return text[: max(end for _, end in found["offset_mapping"])]

    return {split: [replace(e, text=cut(e.text)) for e in rows] for split, rows in task.splits.items()}


def lagamc(task: Task) -> Scored:
    """The README's training command on the rows of the task."""
    with tempfile.TemporaryDirectory() as place:
        data, folder = Path(place, "data"), Path(place, "model")
        data.mkdir()
        write_data(data, dict(task.bank.items()), cut_texts(task))
        settings = ["--data_dir", str(data), "--seed", str(task.seed), "--num_train_epochs", str(task.epochs)]
        settings += ["--max_input_length", str(task.max_length)]
        settings += [*WITHOUT_CHECKPOINTS, *(["--model_name_or_path", task.backbone] if task.backbone else [])]
        config = task.config or task.name
        run_training(config, folder, *settings, *task.settings)
        run, saved = read_run(folder), read_config(folder)
    figures = saved.figures
    # its offset for each label is left out: no peer has one from the development rows
    offsets = Calibration(**saved.calibration[saved.scores]).offsets
    shift = np.array([offsets.get(name, 0.0) for name in task.bank.names])
    scores = {split: expit(logit(rows.scores) - shift) for split, rows in run.splits.items()}
    trainable, total = figures["trainable_parameters"], figures["total_parameters"]
    precision = "" if figures["mixed_precision"] == "no" else f", {figures['mixed_precision']}"
    setting = " ".join([f"configs/{config}.yaml", *task.settings]) + (", words" if saved.lexical else "") + precision
    return Scored(scores, f"lagamc {__version__}", setting, trainable, total)


def lagamc_one_reader(task: Task) -> Scored:
    """Without the sentence encoder as a second reader of the texts."""
    return lagamc(replace(task, settings=("--retrieval_readers", "generator")))


def measure(system: str, task: Task) -> dict[str, Any]:
    """One row: figures on the test rows by thresholds tuned on the development rows for each goal."""
    settle_mixed_precision()  # of the peers that are trained in this process
    begin = time.perf_counter()
    scored = SYSTEMS[system](task)
    seconds = time.perf_counter() - begin
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    row: dict[str, Any] = {
        "dataset": task.name,
        "system": system,
        "backbone": task.backbone,
        "epochs": _epochs(system, task),
        "tokens": _tokens(system, task),
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
    return row | judged(task, scored.scores)


def judged(task: Task, scores: dict[str, np.ndarray]) -> dict[str, Any]:
    """The figures of a row."""
    given, by_rows = {}, {}
    for goal in GOALS:
        given[goal], by_rows[goal] = decide(task, scores, goal)
    figures: dict[str, Any] = {"by_rows": by_rows}
    for goal, split in itertools.product(GOALS, scores):
        figures[f"{split}_for_{goal}"] = _figures(given[goal][split], task.true[split])
    figures["test_at_half"] = _figures(scores["test"] >= 0.5, task.true["test"])
    figures["analysis"] = analyse(task, *(given[goal]["test"].astype(int) for goal in GOALS))
    return figures


def _epochs(system: str, task: Task) -> int | None:
    """Over the training rows; None of a system that does not train in epochs."""
    if "epochs" not in SYSTEMS[system].takes:
        return None
    return task.epochs if is_ours(system) else task.peer_epochs


def _tokens(system: str, task: Task) -> int | None:
    """Of a text at most; None of a system that cuts none."""
    return task.max_length if "tokens" in SYSTEMS[system].takes else None


def _figures(given: np.ndarray, true: np.ndarray) -> dict[str, float]:
    figures = multi_label_metrics(given, true)
    return {name: round(figures[name], 4) for name in GOALS}


def run_one(dataset: str, system: str, seed: int, variant: Variant, quick: bool = False) -> dict[str, Any]:
    """A row, out of its file where it was measured before; that of a quick run is measured each time and not kept.

    Raises:
        LagamcError: something that it needs is not there or bad, or its file holds a row on another model.
    """
    if needs := SYSTEMS[system].needs:
        if not os.environ.get(needs):
            raise LagamcError(f"{system}: {needs} is not set")
        variant = replace(variant, backbone=os.environ[needs])
    seed = seed if SYSTEMS[system].seeded else 1
    path = ROWS / f"{dataset}-{system}-{seed}{variant}.json"
    if quick or not path.is_file():
        task = load_task(dataset, seed, variant.rows, variant.test_rows)
        if task is None:
            raise LagamcError(missing(dataset))
        shorter = _without_the_usual(dataset, system, task, variant)
        if shorter != variant:
            return run_one(dataset, system, seed, shorter, quick)
        own, peers = variant.epochs or task.epochs, variant.epochs or task.peer_epochs
        length = variant.tokens or task.max_length
        task = replace(task, backbone=variant.backbone, epochs=own, peer_epochs=peers, max_length=length)
        row = measure(system, task)
        if not quick:
            write(path, row)
        return row
    row = read(path, "backbone")
    if row["backbone"] != variant.backbone:
        raise LagamcError(
            f"{path}: expected a row on {variant.backbone}, found one on {row['backbone']}; move it away"
        )
    return row


def _without_the_usual(dataset: str, system: str, task: Task, variant: Variant) -> Variant:
    """Settings that change nothing are left out: no row beside the usual one."""
    usual: dict[str, Any] = {"epochs": _epochs(system, task), "tokens": _tokens(system, task)}
    if dataset == "mixed":
        usual |= {"rows": MIXED_ROWS, "test_rows": MIXED_TEST_ROWS}
    elif whole := load_task(dataset):
        for name, split in (("rows", "train"), ("test_rows", "test")):
            limit = getattr(variant, name)
            usual[name] = limit if limit and limit >= len(whole.splits[split]) else None
    return Variant(**{name: None if value == usual.get(name) else value for name, value in asdict(variant).items()})


def _named(text: str) -> str:
    if not text:
        raise argparse.ArgumentTypeError("expected a folder or Hub name, found an empty one")
    return text


def _tokens_of_text(text: str) -> int:
    if (found := positive(text)) < LEAST_TOKENS:
        raise argparse.ArgumentTypeError(f"expected at least {LEAST_TOKENS}, found {found}")
    return found


def _seed(text: str) -> int:
    if (found := positive(text)) >= 2**32:  # scikit-learn takes no other
        raise argparse.ArgumentTypeError(f"expected less than 2^32, found {found}")
    return found


def main() -> None:
    """Measures, or writes the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", choices=list(SIZES))
    parser.add_argument("--system", choices=list(SYSTEMS))
    parser.add_argument("--seed", type=_seed)
    parser.add_argument("--rows", type=positive, help="training rows at most")
    parser.add_argument("--test_rows", type=positive, help="test rows at most")
    parser.add_argument(
        "--backbone", type=_named, help="folder or Hub name in place of MiniLM, for systems that take any"
    )
    parser.add_argument("--epochs", type=positive, help="in place of those by rows, for systems that train in epochs")
    parser.add_argument("--tokens", type=_tokens_of_text, help="in place of the config's, for systems that cut a text")
    parser.add_argument(
        "--quick",
        action="store_true",
        help="300 rows, not kept for the tables; alone: caves, all systems",
    )
    many = parser.add_mutually_exclusive_group()
    many.add_argument("--all", action="store_true", help="every row that is missing, one after the other")
    many.add_argument("--render", action="store_true", help="writes the tables of BENCHMARKS.md")
    parser.add_argument("--datasets", nargs="+", choices=list(SIZES), help="with --all; default: all")
    parser.add_argument("--systems", nargs="+", choices=list(SYSTEMS), help="with --all; default: all")
    parser.add_argument("--seeds", type=_seed, nargs="+", help="with --all; default: 1 2 3")
    options = parser.parse_args()
    if not options.all:
        for name in ("datasets", "systems", "seeds"):
            if getattr(options, name) is not None:
                parser.error(f"--{name}: expected with --all")
    if options.render:
        for name, value in vars(options).items():
            if value and name != "render":
                parser.error(f"--{name}: expected without --render")
        tables.render({name: system.title for name, system in SYSTEMS.items()})
        return
    if options.quick:
        options.rows, options.test_rows = options.rows or 300, options.test_rows or 300
        if not options.all and options.system is None and options.dataset is None:
            options.all, options.datasets, options.seeds = True, ["caves"], [1]
    variant = Variant(*(getattr(options, field.name) for field in fields(Variant)))
    if not options.all:
        if options.dataset is None or options.system is None:
            parser.error("expected --dataset and --system, --all, --quick or --render")
        if problem := variant.unfit(options.system):
            parser.error(problem)
        print(
            json.dumps(
                run_one(options.dataset, options.system, options.seed or 1, variant, options.quick), default=float
            )
        )
        return
    for name in ("dataset", "system", "seed"):
        if getattr(options, name) is not None:
            parser.error(f"--{name}: expected without --all, which takes --{name}s")
    found, failed = [], []
    seeds, datasets, systems = options.seeds or (1, 2, 3), options.datasets or SIZES, options.systems or SYSTEMS
    for seed, dataset, system in itertools.product(seeds, datasets, systems):
        if variant.unfit(system) or (seed != seeds[0] and not SYSTEMS[system].seeded):
            continue
        command = [sys.executable, "-m", "benchmarks.main_table", "--dataset", dataset, "--system", system]
        command += ["--seed", str(seed), *(["--quick"] if options.quick else [])]
        for name, value in asdict(variant).items():
            command += [f"--{name}", str(value)] if value else []
        try:
            found.append(json.loads((run_whole(command, stdout=subprocess.PIPE) or "").strip().splitlines()[-1]))
        except subprocess.CalledProcessError as error:  # it said why
            failed += [f"{system} on {dataset}, seed {seed}"] if error.returncode != 2 else []
            continue
        print(json.dumps(found[-1]), flush=True)
    print(json.dumps(found))
    if failed:
        raise RuntimeError(f"not measured: {'; '.join(failed)}")


if __name__ == "__main__":
    run(main)
