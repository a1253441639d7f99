"""Real data sets for the benchmarks: where they are found, and the rows of each that every system gets."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import yaml

from lagamc.data import SPLITS, Example, read_examples
from lagamc.errors import LagamcError
from lagamc.labels import LabelBank
from lagamc.metrics import binarise
from lagamc.training_args import least_epochs

ROOT = Path(__file__).parent.parent
VARIABLE = "LAGAMC_DATA"


def find_dataset(name: str) -> Path | None:
    """The folder of a data set below `$LAGAMC_DATA`, or else `data/` or `../shared/data/`; None where it is absent."""
    return next((place / name for place in _places() if (place / name / "labels.json").is_file()), None)


def missing(name: str) -> str:
    """Where a data set was looked for, and what to do."""
    return f"no data set {name} in {' or '.join(map(str, _places()))}: {VARIABLE} names the folder that holds it"


def _places() -> list[Path]:
    if VARIABLE in os.environ:
        return [Path(os.environ[VARIABLE]).resolve()]
    return [ROOT / "data", ROOT.parent / "shared" / "data"]


def write_data(folder: Path, labels: Mapping[str, str], splits: Mapping[str, Iterable[Example]]) -> None:
    """Writes a `data_dir`: the descriptions of the labels, and the rows of each split."""
    (folder / "labels.json").write_text(json.dumps(dict(labels)), encoding="utf-8")
    for split, found in splits.items():
        lines = [json.dumps({"id": e.id, "text": e.text, "labels": e.labels}) + "\n" for e in found]
        (folder / f"{split}.jsonl").write_text("".join(lines), encoding="utf-8")


@dataclass(frozen=True)
class Task:
    """A data set as every system gets it.

    Args:
        name: of the data set.
        bank: its labels.
        splits: training, development and test rows, all with labels.
        max_length: tokens of a text at most, for all that cut texts.
        epochs: over the training rows, for LAGAMC.
        peer_epochs: the same for peers that train in epochs.
        seed: of whatever is random.
        backbone: folder or Hub name of the model that is fine-tuned, where a system takes any; None is MiniLM.
        config: of `configs/`, for LAGAMC; None is the one of this name.
        settings: of `run_train.py` beside it.
    """

    name: str
    bank: LabelBank
    splits: dict[str, list[Example]]
    max_length: int
    epochs: int
    peer_epochs: int
    seed: int
    backbone: str | None = None
    config: str | None = None
    settings: tuple[str, ...] = ()

    @cached_property
    def texts(self) -> dict[str, list[str]]:
        """Of every split."""
        return {split: [example.text for example in found] for split, found in self.splits.items()}

    @cached_property
    def true(self) -> dict[str, np.ndarray]:
        """(rows, labels) of every split, 0 or 1; wide enough for the numbers that scikit-learn gives to labels."""
        return {
            split: binarise([self.bank.index(e.labels) for e in found], len(self.bank)).astype(int)
            for split, found in self.splits.items()
        }


# rows of each split at most; length and epochs are those of `configs/`, the latter more where rows are few
SIZES: dict[str, dict[str, int]] = {
    "caves": {},
    "reuters": {},
    "goemotions": {"train": 8000, "dev": 2000, "test": 3300},
    "aapd": {},
    "pubmed": {},
    "mixed": {},
}
MIXED_ROWS, MIXED_TEST_ROWS = 500, 100  # of each data set in the mixed one (paper, section 8.4)
WITHOUT_TRAINING = 800  # development rows that train where a data set has no other
LEAST_SEEN_BY_PEERS = 40000  # training rows, as `LEAST_SEEN`: peers need more of them and take less time for each


def usual_tokens(name: str) -> int:
    """Of a text at most, by the config of a data set; all of the mixed one get those of the longest."""
    if name == "mixed":
        return max(usual_tokens(other) for other in SIZES if other != "mixed")
    return _config(name)["max_input_length"]


def _config(name: str) -> dict[str, int]:
    """The settings of a data set, of which those read here are whole numbers."""
    found: dict[str, int] = yaml.safe_load((ROOT / "configs" / f"{name}.yaml").read_text(encoding="utf-8"))
    return found


def load_task(name: str, seed: int = 1, rows: int | None = None, test_rows: int | None = None) -> Task | None:
    """A data set of the main table; None where it is absent.

    Rows without labels are left out. Where there are no training rows, the first development rows take their place.

    Args:
        name: one of `SIZES`.
        seed: see `Task`.
        rows: training rows at most; None takes all of `SIZES`.
        test_rows: the same for test rows.

    Raises:
        LagamcError: a file is bad, or there are no development or test rows.
    """
    if name == "mixed":
        return _mixed(seed, rows, test_rows)
    data = find_dataset(name)
    if data is None:
        return None
    bank = LabelBank.from_file(data / "labels.json")
    splits = {
        split: read_examples(data / f"{split}.jsonl", bank, unlabelled="drop", limit=SIZES[name].get(split))
        for split in SPLITS
        if (data / f"{split}.jsonl").is_file()
    }
    if absent := {"dev", "test"} - splits.keys():
        raise LagamcError(
            f"{data}: expected dev.jsonl and test.jsonl, found no {' and no '.join(sorted(absent))}.jsonl"
        )
    if "train" not in splits:
        splits["train"], splits["dev"] = splits["dev"][:WITHOUT_TRAINING], splits["dev"][WITHOUT_TRAINING:]
    splits["train"], splits["test"] = splits["train"][:rows], splits["test"][:test_rows]
    return Task(name, bank, splits, usual_tokens(name), *_epochs(_config(name), len(splits["train"])), seed)


def _epochs(config: Mapping[str, int], rows: int) -> tuple[int, int]:
    """Of LAGAMC and of its peers."""
    wanted = least_epochs(rows), least_epochs(rows, LEAST_SEEN_BY_PEERS)
    own, peers = (max(config["num_train_epochs"], epochs) for epochs in wanted)
    return own, peers


def _mixed(seed: int, rows: int | None, test_rows: int | None) -> Task | None:
    """The first rows of every data set under all labels, `DATA SET/LABEL`; None where one is absent."""
    parts = [
        load_task(name, seed, rows or MIXED_ROWS, test_rows or MIXED_TEST_ROWS) for name in SIZES if name != "mixed"
    ]
    found = [part for part in parts if part is not None]
    if len(found) < len(parts):
        return None
    bank = LabelBank({f"{part.name}/{name}": text for part in found for name, text in part.bank.items()})
    splits = {
        split: [
            Example(f"{part.name}/{e.id}", e.text, tuple(f"{part.name}/{name}" for name in e.labels))
            for part in found
            for e in part.splits[split][: None if split == "test" else len(part.splits["train"])]
        ]
        for split in SPLITS
    }
    epochs = _epochs({"num_train_epochs": 3}, len(splits["train"]))
    return Task("mixed", bank, splits, usual_tokens("mixed"), *epochs, seed, config="reuters")
