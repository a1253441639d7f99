"""Reading and checking examples."""

from __future__ import annotations

import csv
import json
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import datasets
import pyarrow
import pytest
from pyarrow import parquet

from lagamc.data import Columns, Example, carve_dev, check_data, load_hub_splits, read_examples, read_hub_split
from lagamc.errors import LagamcError
from lagamc.labels import LabelBank
from lagamc.rows import read_rows
from tests.batches import example
from tests.conftest import ROWS


def write(path: Path, *lines: object, ends: str = "\n", mark: str = "") -> Path:
    """Writes lines as they are, other values as JSON."""
    text = "".join((line if isinstance(line, str) else json.dumps(line)) + ends for line in lines)
    path.write_bytes((mark + text).encode())
    return path


def contents(examples: Sequence[Example]) -> list[tuple[str, str, list[str]]]:
    return [(example.id, example.text, list(example.labels)) for example in examples]


EXPECTED = [(row["id"], row["text"], row["labels"]) for row in ROWS]


# kinds of files


@pytest.mark.parametrize("ends", ["\n", "\r\n"])
@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_jsonl(tmp_path: Path, bank: LabelBank, ends: str, mark: str) -> None:
    path = write(tmp_path / "rows.jsonl", *ROWS[:2], "", *ROWS[2:], ends=ends, mark=mark)
    examples = read_examples(path, bank, unlabelled="keep")
    assert contents(examples) == EXPECTED
    assert examples[2].where == f"{path}, line 4"


def test_line_separators_inside_a_text_are_kept(tmp_path: Path) -> None:
    text = "one\u2028two\x85three\nfour"
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps({"text": text}, ensure_ascii=False) + "\n", encoding="utf-8")
    assert [e.text for e in read_examples(path, None)] == [text]


@pytest.mark.parametrize("ends", ["\n", "\r\n"])
@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_csv(tmp_path: Path, bank: LabelBank, ends: str, mark: str) -> None:
    path = tmp_path / "rows.csv"
    with path.open("w", encoding="utf-8", newline="") as file:
        file.write(mark)
        writer = csv.writer(file, lineterminator=ends)
        writer.writerow(["id", "text", "labels"])
        writer.writerows([i, text, " | ".join(labels)] for i, text, labels in EXPECTED)
    assert contents(read_examples(path, bank, unlabelled="keep")) == EXPECTED


def test_csv_with_line_breaks_in_a_cell(tmp_path: Path, bank: LabelBank) -> None:
    path = write(tmp_path / "rows.csv", "text,labels", '"one\ntwo",late', "three,nope")
    with pytest.raises(LagamcError, match=r"rows\.csv, line 4: unknown label 'nope'"):
        read_examples(path, bank)
    assert next(read_rows(path))[1] == {"text": "one\ntwo", "labels": "late"}


def test_csv_cell_beyond_all_bounds(tmp_path: Path) -> None:
    path = write(tmp_path / "rows.csv", "text", "short", "x" * 200_000)
    with pytest.raises(LagamcError, match=r"rows\.csv, line 3: not valid CSV \(field larger"):
        read_examples(path, None)


def test_parquet(tmp_path: Path, bank: LabelBank) -> None:
    path = tmp_path / "rows.parquet"
    parquet.write_table(pyarrow.Table.from_pylist(ROWS), path, row_group_size=2)
    assert contents(read_examples(path, bank, unlabelled="keep")) == EXPECTED
    assert [number for number, _ in read_rows(path)] == [1, 2, 3, 4, 5, 6]


@pytest.mark.parametrize("suffix", ["jsonl", "csv", "parquet"])
def test_column_mapping(tmp_path: Path, bank: LabelBank, suffix: str) -> None:
    path = tmp_path / f"rows.{suffix}"
    row = {"nr": 7, "message": "Where is it?", "tags": "late|broken", "text": "another column"}
    if suffix == "jsonl":
        write(path, row)
    elif suffix == "csv":
        write(path, ",".join(row), ",".join(str(value) for value in row.values()))
    else:
        parquet.write_table(pyarrow.Table.from_pylist([row]), path)
    examples = read_examples(path, bank, Columns("message", "tags", "nr"))
    assert contents(examples) == [("7", "Where is it?", ["late", "broken"])]


def test_ids_are_optional_and_labels_stand_once(tmp_path: Path, bank: LabelBank) -> None:
    path = write(tmp_path / "rows.jsonl", {"text": "a", "labels": ["late", "praise", "late"]})
    assert contents(read_examples(path, bank)) == [("1", "a", ["late", "praise"])]


def test_texts_alone(tmp_path: Path) -> None:
    path = write(tmp_path / "rows.jsonl", {"text": "a", "labels": ["whatever"]}, {"text": "b"})
    assert contents(read_examples(path, None)) == [("1", "a", []), ("2", "b", [])]


def test_limit(tmp_path: Path, bank: LabelBank) -> None:
    path = write(tmp_path / "rows.jsonl", *ROWS)
    assert contents(read_examples(path, bank, unlabelled="drop", limit=4)) == [*EXPECTED[:3], EXPECTED[4]]


# what is wrong with files


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ('{"text": "a", ', r"not valid JSON \(.+\); expected one object a line"),
        ('["a"]', "expected a JSON object, found list"),
        ({"labels": ["late"]}, r"expected a column 'text' with the text \(--text_column\), found \['labels'\]"),
        ({"text": "", "labels": ["late"]}, "expected a non-empty string in 'text', found an empty text"),
        ({"text": " \n ", "labels": ["late"]}, "expected a non-empty string in 'text', found an empty text"),
        ({"text": None, "labels": ["late"]}, "expected a non-empty string in 'text', found NoneType"),
        ({"text": 5, "labels": ["late"]}, r"expected a non-empty string in 'text', found int \(5\)"),
        ({"text": "a", "labels": ["late", "nope"]}, r"unknown label 'nope'; the label bank holds \['late', 'broken'"),
        ({"text": "a"}, r"expected a column 'labels' with the labels \(--labels_column\), found \['text'\]"),
        ({"text": "a", "labels": [1]}, r"expected a list of label names in 'labels', found \[1\]"),
        ({"text": "a", "labels": None}, "expected a list of label names in 'labels', found None"),
        ({"text": "a", "labels": {"late": 1}}, "expected a list of label names in 'labels', found {'late': 1}"),
        ({"text": "a", "labels": []}, "the row has no labels; set `unlabelled: keep`"),
    ],
)
def test_bad_row_is_reported_with_file_and_line(tmp_path: Path, bank: LabelBank, bad: Any, message: str) -> None:
    path = write(tmp_path / "rows.jsonl", ROWS[0], "", bad, ROWS[1])
    with pytest.raises(LagamcError, match=f"{re.escape(str(path))}, line 3: {message}"):
        read_examples(path, bank)


def test_bad_rows_of_csv_and_parquet(tmp_path: Path, bank: LabelBank) -> None:
    path = write(tmp_path / "rows.csv", "text,labels", "a,late", ",late", "b,nope")
    with pytest.raises(LagamcError) as error:
        read_examples(path, bank)
    assert f"{path}, line 3: expected a non-empty string" in str(error.value)
    assert f"{path}, line 4: unknown label 'nope'" in str(error.value)
    path = tmp_path / "rows.parquet"
    parquet.write_table(pyarrow.Table.from_pylist([ROWS[0], {"text": None, "labels": ["late"]}]), path)
    with pytest.raises(LagamcError, match=r"rows\.parquet, line 2: expected a non-empty string"):
        read_examples(path, bank)


def test_a_file_of_bad_rows_is_not_read_to_its_end(tmp_path: Path, bank: LabelBank) -> None:
    path = write(tmp_path / "rows.jsonl", *[{"text": "a", "labels": ["nope"]}] * 300)
    with pytest.raises(LagamcError, match=r"^examples, read as far as line 200: .*rows\.jsonl, line 1: unknown label"):
        read_examples(path, bank)


def test_all_problems_at_once(tmp_path: Path, bank: LabelBank) -> None:
    bad = [{"text": ""}, {"labels": []}, {"text": "a", "labels": ["nope"]}, {"text": "b", "labels": []}]
    path = write(tmp_path / "rows.jsonl", bad[0], ROWS[0], *bad[1:])
    with pytest.raises(LagamcError) as error:
        read_examples(path, bank)
    assert "4 problems" in str(error.value)
    assert re.findall(r"rows\.jsonl, line (\d)", str(error.value)) == ["1", "3", "4", "5"]


def test_very_many_problems_are_counted(tmp_path: Path) -> None:
    path = write(tmp_path / "rows.jsonl", *[{"text": ""}] * 100)
    with pytest.raises(LagamcError, match=r"line 1: (?s:.*)and so in line 2, 3, 4, (?s:.*), 21 and 79 more$") as error:
        read_examples(path, None)
    assert len(str(error.value).splitlines()) == 2
    path = write(tmp_path / "rows.jsonl", *[{"text": "a", "labels": [f"label {i}"]} for i in range(100)], {"text": ""})
    with pytest.raises(LagamcError, match=r"101 problems(?s:.*)and 81 more$"):
        read_examples(path, LabelBank({"late": "Late: it has not come"}))


def test_invalid_json_is_reported_with_its_line(tmp_path: Path) -> None:
    path = write(tmp_path / "rows.jsonl", {"text": "a"}, "{'text': 'b'}")
    with pytest.raises(LagamcError, match=r"rows\.jsonl, line 2: not valid JSON"):
        list(read_rows(path))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("rows.jsonl", None, r"rows\.jsonl: no such file"),
        ("rows.txt", b"a", r"expected a file that ends in \.jsonl, \.json, \.csv, \.parquet, found '\.txt'"),
        ("rows", b"a", "found 'no ending'"),
        ("rows.jsonl", '{"text": "ä"}'.encode("latin-1"), "not UTF-8 text .* at byte 10"),
        ("rows.csv", "text\nä\n".encode("latin-1"), "not UTF-8 text"),
        ("rows.parquet", b"no parquet at all", "not a Parquet file"),
        ("rows.jsonl", b"\n\n", "holds no examples"),
        ("rows.csv", b"text,labels\n", "holds no examples"),
        ("rows.csv", b"", "holds no examples"),
    ],
)
def test_bad_files(tmp_path: Path, name: str, content: bytes | None, message: str) -> None:
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(LagamcError, match=message):
        read_examples(path, None)


def test_folder_in_place_of_a_file(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").mkdir()
    with pytest.raises(LagamcError, match=r"rows\.jsonl: is a folder, expected a file"):
        read_examples(tmp_path / "rows.jsonl", None)


def test_rows_without_labels(tmp_path: Path, bank: LabelBank) -> None:
    path = write(tmp_path / "rows.jsonl", *ROWS)
    with pytest.raises(LagamcError, match=r"line 4: the row has no labels; set `unlabelled: keep`.*: drop`"):
        read_examples(path, bank)
    assert [e.id for e in read_examples(path, bank, unlabelled="keep")] == ["a", "b", "c", "d", "e", "f"]
    assert [e.id for e in read_examples(path, bank, unlabelled="drop")] == ["a", "b", "c", "e", "f"]
    path = write(tmp_path / "empty.jsonl", {"text": "a", "labels": []})
    with pytest.raises(LagamcError, match="holds no examples"):
        read_examples(path, bank, unlabelled="drop")


# `datasets` data sets


@pytest.fixture
def hub_data() -> datasets.Dataset:
    names = ["late", "broken", "praise"]
    features = datasets.Features(
        {"message": datasets.Value("string"), "tags": datasets.Sequence(datasets.ClassLabel(names=names))}
    )
    return datasets.Dataset.from_dict({"message": ["a", "b", "c"], "tags": [[0, 2], [1], []]}, features=features)


COLUMNS = Columns("message", "tags")


def test_data_set_folder_with_splits(tmp_path: Path, hub_data: datasets.Dataset, bank: LabelBank) -> None:
    splits = datasets.DatasetDict(train=hub_data, validation=hub_data.select([1]))
    splits.save_to_disk(str(tmp_path / "data"))
    name = str(tmp_path / "data")
    assert contents(read_hub_split(load_hub_splits(name)["train"], name, bank, COLUMNS, "keep")) == [
        ("1", "a", ["late", "praise"]),
        ("2", "b", ["broken"]),
        ("3", "c", []),
    ]
    assert contents(read_hub_split(load_hub_splits(name)["train"], name, bank, COLUMNS, "drop", limit=1)) == [
        ("1", "a", ["late", "praise"])
    ]
    assert [e.text for e in read_hub_split(load_hub_splits(name)["validation"], name, bank, COLUMNS, "error")] == ["b"]
    with pytest.raises(LagamcError, match="data, row 3: the row has no labels"):
        read_hub_split(load_hub_splits(name)["train"], name, bank, COLUMNS, "error")
    with pytest.raises(LagamcError, match="cannot be loaded"):
        load_hub_splits(str(tmp_path / "nowhere"))
    with pytest.raises(LagamcError, match=r"expected the columns \['text', 'labels'\], found \['message', 'tags'\]"):
        read_hub_split(load_hub_splits(name)["train"], name, bank, Columns(), "keep")
    with pytest.raises(LagamcError, match="data, row 1: unknown label 'praise'"):
        read_hub_split(load_hub_splits(name)["train"], name, bank.remove(["praise"]), COLUMNS, "keep")


def test_data_set_folder_without_splits_is_training_data(
    tmp_path: Path, hub_data: datasets.Dataset, bank: LabelBank
) -> None:
    """It must not be its own test split."""
    name = str(tmp_path / "data")
    hub_data.save_to_disk(name)
    assert len(read_hub_split(load_hub_splits(name)["train"], name, bank, COLUMNS, "keep")) == 3
    assert list(load_hub_splits(name)) == ["train"]


def test_data_set_with_a_script(tmp_path: Path) -> None:
    (tmp_path / "mail").mkdir()
    (tmp_path / "mail" / "mail.py").write_text("", encoding="utf-8")
    with pytest.raises(LagamcError, match="cannot be loaded"):
        load_hub_splits(str(tmp_path / "mail"))


@pytest.mark.parametrize("name", ["state.json", "dataset_info.json"])
def test_damaged_data_set_folder(tmp_path: Path, hub_data: datasets.Dataset, name: str) -> None:
    hub_data.save_to_disk(str(tmp_path / "data"))
    (tmp_path / "data" / name).write_text("{", encoding="utf-8")
    with pytest.raises(LagamcError, match=r"data set .*data': cannot be loaded"):
        load_hub_splits(str(tmp_path / "data"))


@pytest.mark.parametrize("value", [-1, None])
def test_data_set_with_one_label_a_row(tmp_path: Path, bank: LabelBank, value: int | None) -> None:
    """-1 and None, which stand for a label that is not known, never become the last label."""
    features = datasets.Features(
        {"text": datasets.Value("string"), "labels": datasets.ClassLabel(names=["late", "praise"])}
    )
    rows = {"text": ["a", "b"], "labels": [1, 0]}
    datasets.Dataset.from_dict(rows, features=features).save_to_disk(str(tmp_path / "good"))
    assert contents(
        read_hub_split(load_hub_splits(str(tmp_path / "good"))["train"], "good", bank, Columns(), "error")
    ) == [
        ("1", "a", ["praise"]),
        ("2", "b", ["late"]),
    ]
    rows["labels"] = [1, value]  # type: ignore[list-item]
    datasets.Dataset.from_dict(rows, features=features).save_to_disk(str(tmp_path / "bad"))
    with pytest.raises(LagamcError, match=rf"bad, row 2: expected a list of label names .*\[{value}\]"):
        read_hub_split(load_hub_splits(str(tmp_path / "bad"))["train"], "bad", bank, Columns(), "error")


# development rows


def many(count: int = 50) -> list[Example]:
    return [example(f"text {i}", "common", *(["rare"] if i % 10 == 0 else [])) for i in range(count)]


def test_carve_dev_is_deterministic() -> None:
    examples = many()
    train, dev = carve_dev(examples, 0.2)
    assert (train, dev) == carve_dev(many(), 0.2)
    assert len(dev) == 10
    assert sorted(e.id for e in train + dev) == sorted(e.id for e in examples)
    assert dev != carve_dev(examples, 0.2, seed=14)[1]
    assert dev != examples[:10]
    assert dev != examples[-10:]
    assert [e for e in examples if e in dev] == dev


@pytest.mark.parametrize("seed", range(5))
def test_carve_dev_keeps_the_last_example_of_a_label(seed: int) -> None:
    examples = [example(f"{label}{i}", label) for label in "abcd" for i in range(2)] + [example("e0", "a", "e")]
    train, dev = carve_dev(examples, 0.9, seed)
    assert {label for e in train for label in e.labels} == set("abcde")
    assert Counter(label for e in dev for label in e.labels)["e"] == 0
    assert 4 <= len(dev) <= 5


def test_carve_dev_takes_at_least_one_row() -> None:
    assert len(carve_dev(many(20), 0.001)[1]) == 1


@pytest.mark.parametrize("examples", [[example("x", "a"), example("y", "b")], [example("x")]])
def test_carve_dev_from_too_few_examples(examples: list[Example]) -> None:
    with pytest.raises(LagamcError, match="too few to take development examples from"):
        carve_dev(examples, 0.5)


# the check


def test_check_data_counts(bank: LabelBank) -> None:
    train = [example("one two three", "late"), example("x", "late", "broken"), example("y z")]
    report = check_data({"train": [*train, example("q", "refund", "praise")], "test": train[:1]}, bank)
    assert report.splits == {"train": 4, "test": 1}
    assert report.label_counts["train"] == {"late": 2, "broken": 1, "refund": 1, "praise": 1}
    assert report.label_counts["test"] == {"late": 1, "broken": 0, "refund": 0, "praise": 0}
    line = next(line for line in report.lines if line.startswith("train: "))
    assert "4 rows, 1.25 labels a row (most 2, none in 1)" in line
    assert line.endswith("longest 3")
    assert report.warnings == ["1 texts stand in both train and test"]


def test_check_data_warnings(bank: LabelBank) -> None:
    train = [example("Same text", "late"), example("same  TEXT ", "late"), example("other", "broken")]
    report = check_data(
        {"train": train, "dev": [example("SAME text", "refund")], "test": [example("Other", "praise")]}, bank
    )
    assert report.warnings == [
        "train: 1 texts stand more than once",
        "1 texts stand in both train and dev",
        "1 texts stand in both train and test",
        "the 1 dev rows choose checkpoint and thresholds; labels that none of them has: late, broken, praise",
        "2 labels have no training example: refund, praise; scored by how near a text is to their descriptions, as "
        "labels that are added later",
    ]


def test_of_many_labels_ten_are_named() -> None:
    bank = LabelBank({f"label-{i}": f"{i} parcels are late" for i in range(13)})
    report = check_data({"train": [example("x", "label-0")]}, bank)
    assert report.warnings[-1].startswith("12 labels have no training example: label-1, ")
    assert "label-10 and 2 more; scored" in report.warnings[-1]


def test_check_data_passes_on_the_warnings_of_the_bank(bank: LabelBank) -> None:
    bank = LabelBank({"a": "Late parcel", "b": "Late parcel again"})
    report = check_data({"train": [example("x", "a", "b")]}, bank)
    assert report.warnings
    assert report.warnings == bank.warnings()
