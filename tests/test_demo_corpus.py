"""The corpus under `lagamc/demo` is what the documentation says of it."""

from __future__ import annotations

import json
import re
from collections import Counter
from itertools import chain
from pathlib import Path

import numpy as np
import pytest
from scipy.sparse import csr_matrix

import lagamc
from lagamc.config import DataArguments
from lagamc.data import SPLITS, Example
from lagamc.labels import LabelBank
from lagamc.rows import read_rows
from lagamc.training_data import TrainingData, load_data

FOLDER = Path(lagamc.__file__).parent / "demo"


@pytest.fixture(scope="module")
def demo() -> TrainingData:
    """Read as a training run reads it."""
    return load_data(DataArguments(data_dir="demo", unlabelled="keep"))


@pytest.fixture(scope="module")
def everything(demo: TrainingData) -> list[Example]:
    return list(chain.from_iterable(demo.splits[split] for split in SPLITS))


def words(text: str) -> set[str]:
    return set(re.findall(r"\w+", text.casefold()))


def highest_jaccard(texts: list[str]) -> tuple[float, int, int]:
    """The most similar pair by their sets of words: similarity and positions."""
    columns: dict[str, int] = {}
    sets = [[columns.setdefault(word, len(columns)) for word in sorted(words(text))] for text in texts]
    starts = np.cumsum([0, *map(len, sets)])
    matrix = csr_matrix((np.ones(starts[-1]), list(chain.from_iterable(sets)), starts))
    shared = (matrix @ matrix.T).tocoo()
    sizes = np.diff(starts)
    similarity = shared.data / (sizes[shared.row] + sizes[shared.col] - shared.data)
    similarity[shared.row >= shared.col] = 0
    best = int(similarity.argmax())
    return float(similarity[best]), int(shared.row[best]), int(shared.col[best])


def test_numbers_of_rows(demo: TrainingData) -> None:
    assert len(demo.splits["train"]) >= 1000
    assert len(demo.splits["dev"]) >= 150
    assert len(demo.splits["test"]) >= 300


def test_every_label_is_frequent_enough(demo: TrainingData) -> None:
    counts = demo.report.label_counts
    assert list(counts["train"]) == demo.bank.names
    assert min(counts["train"].values()) >= 60, counts["train"]
    assert min(counts["dev"].values()) > 0
    assert min(counts["test"].values()) > 0


@pytest.mark.parametrize("split", SPLITS)
def test_labels_per_text(demo: TrainingData, split: str) -> None:
    sizes = Counter(len(example.labels) for example in demo.splits[split])
    assert 1.3 <= sum(size * count for size, count in sizes.items()) / len(demo.splits[split]) <= 1.8
    assert sizes[0] > 0, "some texts have no label"
    assert sum(count for size, count in sizes.items() if size >= 2) > sizes[0]


def test_ids_are_unique_and_of_their_split(demo: TrainingData) -> None:
    ids = [example.id for split in SPLITS for example in demo.splits[split]]
    assert len(set(ids)) == len(ids)
    assert all(example.id.startswith(f"{split}-") for split in SPLITS for example in demo.splits[split])


def test_no_text_stands_twice_or_in_two_splits(demo: TrainingData, everything: list[Example]) -> None:
    owners = Counter(" ".join(example.text.casefold().split()) for example in everything)
    assert [text for text, count in owners.items() if count > 1] == []
    assert demo.report.warnings == []


def test_jaccard_of_known_texts() -> None:
    assert highest_jaccard(["one two three", "no", "Three, one!", "other words"]) == (pytest.approx(2 / 3), 0, 2)


def test_no_two_texts_are_nearly_the_same(everything: list[Example]) -> None:
    similarity, first, second = highest_jaccard([example.text for example in everything])
    assert similarity < 0.5, (everything[first], everything[second])


def test_messages_are_new_texts_without_labels(everything: list[Example]) -> None:
    rows = [row for _, row in read_rows(FOLDER / "messages.jsonl")]
    assert rows
    assert all(set(row) == {"id", "text"} for row in rows)
    assert not {row["text"] for row in rows} & {example.text for example in everything}
    similarity, first, second = highest_jaccard([row["text"] for row in rows] + [e.text for e in everything])
    assert similarity < 0.5, (first, second)


def test_files_have_one_form() -> None:
    for split in SPLITS:
        for line in (FOLDER / f"{split}.jsonl").read_text(encoding="utf-8").splitlines():
            row = json.loads(line)
            assert list(row) == ["id", "text", "labels"], row
            assert len(set(row["labels"])) == len(row["labels"]), row
            assert row["text"] == row["text"].strip(), row


def test_descriptions_can_be_told_apart() -> None:
    assert LabelBank.from_json(FOLDER / "labels.json").warnings() == []
