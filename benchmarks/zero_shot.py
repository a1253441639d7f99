"""Labels held out of training, added by `with_labels`, against a bi-encoder that was not trained (paper, section 8.1).

    python -m benchmarks.zero_shot [--quick] [--datasets caves reuters] [--seeds 1] [--share 0.8]

Five labels are drawn, among those with enough test rows; training and development rows that carry one of them are left
out. The model is trained on the first 2,000 other rows, gets the five descriptions, and predicts all test rows.
`--share` is the `--unseen_encoder_share` of the training.

* `unseen_macro_f1`: by the thresholds that the model tuned for the labels it knew. `bi_encoder_macro_f1`: cosine of
  text and description under all-MiniLM-L6-v2, by one threshold, tuned on the same labels and all development rows
  (the model's on the first 500 of them).
* `unseen_macro_f1_tuned`, `bi_encoder_macro_f1_tuned`: by one threshold, tuned on development rows that have the
  five labels.
* `unseen_map`, `bi_encoder_map`: mean average precision, without a threshold.
* `seen_macro_f1`: of the labels that were trained.

The last line is one JSON object: data set -> the means over the seeds, and the labels of each.
"""

from __future__ import annotations

import argparse
import json
import random
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.metrics import average_precision_score

from benchmarks.datasets import find_dataset, missing, write_data
from benchmarks.models import WITHOUT_CHECKPOINTS, kept_folder, run_training
from benchmarks.outcomes import finish, run
from lagamc.checkpoints import METRICS_FILE
from lagamc.classifier import LagamcClassifier
from lagamc.config import ModelArguments
from lagamc.data import Example, read_examples
from lagamc.encoders import load_sentence_encoder, unit_embeddings
from lagamc.generators import embedded_folder
from lagamc.labels import LabelBank
from lagamc.metrics import binarise
from lagamc.thresholds import goal_figure

UNSEEN, MINIMUM_ROWS = 5, 20
USUAL_SHARE = ModelArguments().unseen_encoder_share
GRID = np.linspace(-0.2, 1, 241)  # cosines and probabilities


def draw_labels(bank: LabelBank, test: list[Example], seed: int) -> list[str]:
    """Labels to hold out, in bank order."""
    counts = Counter(label for example in test for label in example.labels)
    drawn = random.Random(seed).sample([name for name in bank if counts[name] >= MINIMUM_ROWS], UNSEEN)
    return [name for name in bank if name in drawn]


def train_without(name: str, data: Path, unseen: list[str], seed: int, rows: int, share: float, folder: Path) -> None:
    """One training on the rows without the labels."""
    with tempfile.TemporaryDirectory() as place:
        bank = LabelBank.from_file(data / "labels.json")
        seen = {label: text for label, text in bank.items() if label not in unseen}
        splits = {
            split: [e for e in read_examples(data / f"{split}.jsonl", bank) if not set(e.labels) & set(unseen)]
            for split in ("train", "dev")
        }
        write_data(Path(place), seen, splits)
        settings = ["--data_dir", place, "--seed", str(seed), "--max_train_rows", str(rows)]
        settings += ["--max_dev_rows", "500", "--num_train_epochs", "2", *WITHOUT_CHECKPOINTS]
        settings += ["--unseen_encoder_share", str(share)]
        run_training(name, folder, *settings)


def best_threshold(scores: np.ndarray, true: np.ndarray) -> float:
    """The one with the best macro-F1."""
    return float(max(GRID, key=lambda value: goal_figure("macro_f1", scores >= value, true)))


def similarities(texts: list[str], bank: LabelBank) -> np.ndarray:
    """Cosine of every text and description under the untrained encoder, (texts, labels)."""
    encoder = load_sentence_encoder(embedded_folder())
    return unit_embeddings(encoder, texts) @ unit_embeddings(encoder, bank.descriptions).T


def measure(name: str, data: Path, seed: int, rows: int, limit: int | None, share: float) -> dict[str, Any]:
    """The figures of one draw."""
    bank = LabelBank.from_file(data / "labels.json")
    splits = {split: read_examples(data / f"{split}.jsonl", bank, limit=limit) for split in ("dev", "test")}
    unseen = draw_labels(bank, read_examples(data / "test.jsonl", bank), seed)
    folder = kept_folder(f"zero-shot-{name}-{rows}-{seed}-{share}")
    if not (folder / METRICS_FILE).is_file():
        train_without(name, data, unseen, seed, rows, share, folder)
    classifier = LagamcClassifier.from_pretrained(folder, "cpu").with_labels({label: bank[label] for label in unseen})
    names = classifier.bank.names
    columns = [names.index(label) for label in unseen]
    others = [i for i in range(len(names)) if i not in columns]
    texts = {split: [example.text for example in found] for split, found in splits.items()}
    true = {split: binarise([classifier.bank.index(e.labels) for e in s], len(names)) for split, s in splits.items()}
    known = true["dev"][:, columns].sum(1) == 0  # the development rows that training could use

    predictions = classifier.predict(texts["test"], goal="macro_f1", generate=False)
    chosen = binarise([classifier.bank.index(p.labels) for p in predictions], len(names))
    ours = {
        "test": np.array([[p.scores[label] for label in names] for p in predictions]),
        "dev": classifier.scores(texts["dev"]),
    }
    theirs = {split: similarities(texts[split], classifier.bank) for split in splits}
    strict = best_threshold(theirs["dev"][known][:, others], true["dev"][known][:, others])
    unseen_true = true["test"][:, columns]
    figures: dict[str, Any] = {
        "unseen_macro_f1": goal_figure("macro_f1", chosen[:, columns], unseen_true),
        "bi_encoder_macro_f1": goal_figure("macro_f1", theirs["test"][:, columns] >= strict, unseen_true),
        "seen_macro_f1": goal_figure("macro_f1", chosen[:, others], true["test"][:, others]),
        "labels": unseen,
    }
    for system, scores in (("unseen", ours), ("bi_encoder", theirs)):
        tuned = best_threshold(scores["dev"][:, columns], true["dev"][:, columns])
        figures[f"{system}_macro_f1_tuned"] = goal_figure("macro_f1", scores["test"][:, columns] >= tuned, unseen_true)
        figures[f"{system}_map"] = float(average_precision_score(unseen_true, scores["test"][:, columns]))
    return figures


def main() -> None:
    """Prints a row per draw, then the means as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="caves alone, 300 training rows, 200 rows measured")
    parser.add_argument("--datasets", nargs="+", default=["caves", "reuters"])
    parser.add_argument("--seeds", type=int, nargs="+", default=[1])
    parser.add_argument(
        "--share", type=float, default=USUAL_SHARE, help="of trained weights in the encoder of labels added later"
    )
    options = parser.parse_args()
    if not 0 <= options.share <= 1:
        parser.error(f"--share: expected a number from 0 to 1, found {options.share}")
    results: dict[str, Any] = {}
    for name in ["caves"] if options.quick else options.datasets:
        data = find_dataset(name)
        if data is None:
            results[name] = {"skipped": missing(name)}
            continue
        draws = []
        for seed in options.seeds:
            rows, limit = (300, 200) if options.quick else (2000, None)
            draws.append(measure(name, data, seed, rows, limit, options.share))
            print(f"{name}, seed {seed}: {json.dumps(draws[-1])}", flush=True)
        labels = [draw.pop("labels") for draw in draws]
        results[name] = {key: round(float(np.mean([draw[key] for draw in draws])), 4) for key in draws[0]}
        results[name]["labels"] = labels
    finish(results, options.quick)


if __name__ == "__main__":
    run(main)
