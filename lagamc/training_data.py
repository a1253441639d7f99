"""The data of a training run: which files or Hub data set the arguments name, read and checked."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy.optimize import brentq

from lagamc.config import DataArguments
from lagamc.data import (
    SPLITS,
    Columns,
    DataReport,
    Example,
    carve_dev,
    check_data,
    load_hub_splits,
    read_examples,
    read_hub_split,
)
from lagamc.errors import LagamcError
from lagamc.labels import LabelBank

DEMO = "demo"
LONGEST = 1.25  # times the training rows that an epoch has at most


@dataclass
class TrainingData:
    """The examples of a run and the bank that describes their labels."""

    bank: LabelBank
    splits: dict[str, list[Example]]
    report: DataReport


def load_data(arguments: DataArguments) -> TrainingData:
    """Reads and checks all splits; no model is touched.

    Raises:
        LagamcError: one message with every problem of a file.
    """
    columns = Columns(arguments.text_column, arguments.labels_column, arguments.id_column)
    limits = dict(
        zip(SPLITS, (arguments.max_train_rows, arguments.max_dev_rows, arguments.max_test_rows), strict=True)
    )
    splits: dict[str, list[Example]] = {}
    if arguments.dataset_name:
        name = arguments.dataset_name
        found = load_hub_splits(name, arguments.dataset_config, arguments.dataset_revision)
        if "train" not in found:
            raise LagamcError(f"data set {name!r}: expected a split 'train', found {sorted(found)}")
        if arguments.labels_file:
            bank = LabelBank.from_file(arguments.labels_file)
        else:
            bank = LabelBank.from_features(found["train"].features, arguments.labels_column)
        for split in SPLITS:
            data = found.get("validation", found.get(split)) if split == "dev" else found.get(split)
            if data is not None:
                splits[split] = read_hub_split(data, name, bank, columns, arguments.unlabelled, limits[split])
    else:
        files = data_files(arguments)
        bank = LabelBank.from_file(files["labels"])
        for split in SPLITS:
            if split in files:
                splits[split] = read_examples(files[split], bank, columns, arguments.unlabelled, limits[split])
    if "dev" not in splits:
        splits["train"], splits["dev"] = carve_dev(splits["train"], arguments.dev_fraction)
    if not any(example.labels for example in splits["train"]):
        raise LagamcError(
            f"train: expected rows with labels, found none in {len(splits['train'])} rows; there is nothing to learn"
        )
    if arguments.atomic_labels:
        bank = bank.atomic()
    return TrainingData(bank, splits, check_data(splits, bank))


def times_in_epoch(examples: Sequence[Example], counts: Mapping[str, int], threshold: float, seed: int) -> np.ndarray:
    """How often each row is trained on in an epoch, (rows,): repeat factor sampling (Gupta et al., 2019).

    A row comes sqrt(threshold / f) times, where f is the share of the rows that has its rarest label, and once where
    that share is not below the threshold. What is left over from whole times is drawn, by one number for all rows, so
    that the sum is what it should be. Where an epoch would be longer than `LONGEST` times the rows, as with very many
    labels, the threshold is lowered until it is not.

    Args:
        examples: the training rows, one at least.
        counts: label -> rows that have it.
        threshold: share of the rows; 0 repeats none.
        seed: of what is drawn.
    """
    rows = len(examples)
    rarest = np.array([min((counts[label] for label in e.labels), default=rows) for e in examples])

    def times(limit: float) -> np.ndarray:
        return np.maximum(1, np.sqrt(limit * rows / rarest))

    if times(threshold).mean() > LONGEST:
        threshold = brentq(lambda limit: times(limit).mean() - LONGEST, 0, threshold)
    drawn = np.random.default_rng(seed).random()
    return np.diff(np.floor(np.cumsum(times(threshold)) + drawn), prepend=0).astype(int)


def data_files(arguments: DataArguments) -> dict[str, Path]:
    """The files of `data_dir`, and those named one by one, which take their place.

    Raises:
        LagamcError: the folder is missing, or its training or labels file where none is named.
    """
    given = {split: getattr(arguments, f"{split}_file") for split in SPLITS} | {"labels": arguments.labels_file}
    named = {name: Path(path) for name, path in given.items() if path}
    if not arguments.data_dir:
        return named
    folder = Path(__file__).parent / DEMO if arguments.data_dir == DEMO else Path(arguments.data_dir)
    if not folder.is_dir():
        raise LagamcError(f"data_dir: no such folder {str(folder)!r}; it should hold train.jsonl and labels.json")
    files = {split: folder / f"{split}.jsonl" for split in SPLITS} | {"labels": folder / "labels.json"}
    files |= named
    own = [path for name, path in files.items() if name not in named]
    if odd := [path.name for path in own if os.path.lexists(path) and not path.is_file()]:
        raise LagamcError(f"data_dir {str(folder)!r}: {odd[0]} is a folder or leads nowhere, expected a file")
    missing = [files[name].name for name in ("train", "labels") if name not in named and not files[name].is_file()]
    if missing:
        raise LagamcError(
            f"data_dir {str(folder)!r}: expected {' and '.join(missing)}, found {sorted(os.listdir(folder))}"
        )
    return {name: path for name, path in files.items() if path.is_file() or name in named}
