"""What the number of labels and the length of the texts cost: time, FLOPs and memory.

    python -m benchmarks.scaling [--quick] [--labels 12 50 200 1000] [--lengths 32 64 128 256] [--repeats 3]

The embedded generator by `configs/caves.yaml`, untrained, on newswire texts of Reuters cut to a length, with
descriptions out of all data sets; where these are too few, pairs of them. A training step of 32 rows, and the fast
scores of 32 texts: by the shipped loss with the whole bank, with `--bank_sample 30`, and by a multi-label head on
MiniLM. Each is a process of its own. The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import itertools
import json
import multiprocessing
import random
import resource
import tempfile
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch

from benchmarks.datasets import SIZES, Task, find_dataset, missing, write_data
from benchmarks.encoder_peers import MultiLabelHead
from benchmarks.outcomes import finish, flops, run, timed
from benchmarks.training_cost import build_trainer, some_batches, step
from lagamc.data import Example, read_examples
from lagamc.descriptions import Texts
from lagamc.generators import embedded_folder, load_tokenizer
from lagamc.labels import LabelBank

KINDS = ("whole_bank", "bank_sample", "peer")
SAMPLE, TEXTS, ROWS = 30, 640, 32
LABELS, LENGTHS = 12, 64  # where only the other one changes


def descriptions(count: int) -> dict[str, str]:
    """So many labels with descriptions, always the same."""
    folders = [folder for name in SIZES if (folder := find_dataset(name))]
    single = [text for folder in folders for text in LabelBank.from_file(folder / "labels.json").descriptions]
    random.Random(1).shuffle(single)
    pairs = (f"{a.rstrip('.')}, and {b}" for a, b in itertools.combinations(single, 2))
    return {f"label {i}": text for i, text in enumerate(itertools.islice(itertools.chain(single, pairs), count))}


def measure(kind: str, labels: int, length: int, repeats: int) -> dict[str, float]:
    """One system at one point.

    Args:
        kind: one of `KINDS`.
        labels: in the bank.
        length: tokens of a text at most.
        repeats: the median of so many is taken.
    """
    chosen, source = random.Random(1), find_dataset("reuters")
    assert source is not None
    bank = LabelBank(descriptions(labels))
    texts = [example.text for example in read_examples(source / "train.jsonl", None, limit=TEXTS)]
    carried = [tuple(chosen.sample(bank.names, chosen.randint(1, 2))) for _ in texts]
    examples = [Example(str(i), text, names) for i, (text, names) in enumerate(zip(texts, carried, strict=True))]
    task = Task("scaling", bank, {"train": examples}, length, 1, 1, 1)
    work, score = peer(task) if kind == "peer" else lagamc(task, kind)
    work()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10
    found = {"step_seconds": median(timed(work) for _ in range(repeats)), "step_peak_mib": round(peak)}
    found["step_tera_flops"] = flops(work) / 1e12
    with torch.no_grad():
        score()
        found["score_seconds"] = median(timed(score) for _ in range(repeats))
    return {name: round(value, 3) for name, value in found.items()}


def lagamc(task: Task, kind: str) -> tuple[Callable[[], object], Callable[[], object]]:
    """A training step of LAGAMC, and its fast scores of the same rows with the bank encoded before."""
    with tempfile.TemporaryDirectory() as folder:
        rows = task.splits["train"]
        write_data(Path(folder), dict(task.bank.items()), {"train": rows, "dev": rows[:20]})
        sample = ["--bank_sample", str(SAMPLE)] if kind == "bank_sample" else []
        length = ["--max_input_length", str(task.max_length)]
        trainer = build_trainer("hybrid", Path(folder), len(rows), *length, *sample)
    batch = some_batches(trainer, 2)[-1]
    inputs = {name: batch[name] for name in ("input_ids", "attention_mask")}
    texts = Texts.apart(batch["text_pieces"], batch["text_lengths"])
    model: Any = trainer.model
    with torch.no_grad():
        encoded = model.eval().encode_bank()

    def score() -> None:
        model.eval().retrieve(model.backbone.read(**inputs), encoded, model.descriptions.joined(texts)[0])

    return lambda: step(trainer, batch), score


def peer(task: Task) -> tuple[Callable[[], object], Callable[[], object]]:
    """The same of a multi-label head on MiniLM; the longest rows, here as there."""
    longest = np.argsort([len(text) for text in task.texts["train"]])[-ROWS:]
    tokenizer = load_tokenizer(embedded_folder())
    cut = {"truncation": True, "max_length": task.max_length, "padding": True, "return_tensors": "pt"}
    inputs = dict(tokenizer([task.texts["train"][row] for row in longest], **cut))
    true = torch.tensor(task.true["train"][longest]).float()
    model = MultiLabelHead(task, None)
    optimizer = torch.optim.AdamW(model.parameters())

    def work() -> None:
        model.train()(**inputs, labels=true)["loss"].backward()
        optimizer.step()
        optimizer.zero_grad()

    return work, lambda: model.eval()(**inputs)


def main() -> None:
    """Prints a row per point, then all as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="two points, one repeat")
    parser.add_argument("--labels", type=int, nargs="+", default=[12, 50, 200, 1000])
    parser.add_argument("--lengths", type=int, nargs="+", default=[32, 64, 128, 256])
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    if find_dataset("reuters") is None:
        print(json.dumps({"skipped": missing("reuters")}))
        return
    if options.quick:
        options.labels, options.lengths, options.repeats = [12, 50], [], 1
    points = [(labels, LENGTHS) for labels in options.labels] + [(LABELS, length) for length in options.lengths]
    figures: dict[str, dict[str, dict[str, float]]] = {}
    for (labels, length), kind in itertools.product(dict.fromkeys(points), KINDS):
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            found = pool.apply(measure, (kind, labels, length, options.repeats))
        figures.setdefault(f"{labels} labels, {length} tokens", {})[kind] = found
        print(f"{labels} labels, {length} tokens, {kind}: {json.dumps(found)}", flush=True)
    finish(figures, options.quick)


if __name__ == "__main__":
    run(main)
