from __future__ import annotations

import json
from pathlib import Path

import pytest

from lagamc.config import DataArguments
from lagamc.data import Example
from lagamc.errors import LagamcError
from lagamc.training_data import data_files, load_data, times_in_epoch
from tests.conftest import DESCRIPTIONS


def test_labels_file_takes_the_place_of_the_folder_s_own(data_dir: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.json"
    other.write_text(json.dumps({**DESCRIPTIONS, "late": "Delay"}), encoding="utf-8")
    data = load_data(DataArguments(data_dir=str(data_dir), labels_file=str(other), unlabelled="keep"))
    assert data.bank["late"] == "Delay"
    with pytest.raises(LagamcError, match=r"none\.json: no such labels file"):
        load_data(DataArguments(data_dir=str(data_dir), labels_file=str(tmp_path / "none.json")))


def test_dev_is_carved_out_of_training_where_it_is_absent(data_dir: Path) -> None:
    (data_dir / "dev.jsonl").unlink()
    data = load_data(DataArguments(data_dir=str(data_dir), unlabelled="keep", dev_fraction=0.2))
    ids = {split: {example.id for example in examples} for split, examples in data.splits.items()}
    assert len(ids["dev"]) == 1
    assert ids["train"] | ids["dev"] == {f"train-{letter}" for letter in "abcdef"}
    assert not ids["train"] & ids["dev"]


def test_limits_of_rows(data_dir: Path) -> None:
    arguments = DataArguments(data_dir=str(data_dir), unlabelled="keep", max_train_rows=4, max_test_rows=2)
    assert {name: len(rows) for name, rows in load_data(arguments).splits.items()} == {"train": 4, "dev": 6, "test": 2}


def test_demo_is_a_folder_of_the_package() -> None:
    files = data_files(DataArguments(data_dir="demo"))
    assert set(files) == {"train", "dev", "test", "labels"}
    assert all(path.is_file() for path in files.values())


def test_named_files_take_the_place_of_the_folders(data_dir: Path, tmp_path: Path) -> None:
    arguments = DataArguments(data_dir=str(data_dir), dev_file=str(tmp_path / "gone.jsonl"), unlabelled="keep")
    with pytest.raises(LagamcError, match="no such file"):
        load_data(arguments)


def test_a_file_that_is_none_is_not_passed_over(data_dir: Path) -> None:
    """Rows would be carved out of training in the place of those that were meant."""
    (data_dir / "dev.jsonl").unlink()
    (data_dir / "dev.jsonl").mkdir()
    with pytest.raises(LagamcError, match=r"dev\.jsonl is a folder or leads nowhere, expected a file"):
        load_data(DataArguments(data_dir=str(data_dir)))
    (data_dir / "dev.jsonl").rmdir()
    (data_dir / "dev.jsonl").symlink_to(data_dir / "gone.jsonl")
    with pytest.raises(LagamcError, match=r"dev\.jsonl is a folder or leads nowhere, expected a file"):
        load_data(DataArguments(data_dir=str(data_dir)))


def test_rows_of_rare_labels_are_repeated() -> None:
    """As often as the rarest label of a row asks, and the others once, in order."""
    rows = [("rare",), ("often", "rare"), *[("often",)] * 97, ()]
    examples = [Example(str(i), "A text.", labels) for i, labels in enumerate(rows)]
    counts = {"rare": 2, "often": 98, "never": 0}
    for threshold, times in ((0.0, [1, 1]), (0.02, [1, 1]), (0.18, [3, 3])):
        assert times_in_epoch(examples, counts, threshold, 1).tolist() == [*times, *[1] * 98]


def test_what_is_left_over_from_whole_repeats_is_drawn() -> None:
    examples = [Example(str(i), "A text.", ("a",) if i < 500 else ()) for i in range(1000)]
    draws = [times_in_epoch(examples, {"a": 500}, 0.8, seed).tolist() for seed in (1, 1, 2, 3, 4)]
    assert all(sum(times) == pytest.approx(500 * 1.6**0.5 + 500, abs=1) for times in draws)
    assert all({*times[:500]} == {1, 2} for times in draws)
    assert draws[0] == draws[1]
    assert len({tuple(times) for times in draws}) > 1


def test_repeats_make_an_epoch_a_quarter_longer_at_most() -> None:
    """Where all labels are rare all rows would come several times; few rows keep to it as well."""
    for rows, most in ((2000, 2500), (10, 13), (1, 2)):
        examples = [Example(str(i), "A text.", (f"label-{i // 4}",)) for i in range(rows)]
        counts = {f"label-{i}": 4 for i in range(500)}
        assert rows * 1.25 // 1 <= times_in_epoch(examples, counts, 1.0, 1).sum() <= most


def test_training_without_any_label_teaches_nothing(data_dir: Path) -> None:
    path = data_dir / "train.jsonl"
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    path.write_text("".join(json.dumps({**row, "labels": []}) + "\n" for row in rows), encoding="utf-8")
    with pytest.raises(LagamcError, match="train: expected rows with labels, found none in 6 rows"):
        load_data(DataArguments(data_dir=str(data_dir), unlabelled="keep"))
