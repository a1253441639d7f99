from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from lagamc.data import Columns, Example
from lagamc.errors import LagamcError
from lagamc.inputs import BadRow, check_input, read_inputs, windows


def write(path: Path, *rows: Any) -> str:
    path.write_text(
        "".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows), encoding="utf-8"
    )
    return str(path)


def test_texts_and_bad_rows_in_order(tmp_path: Path) -> None:
    source = write(
        tmp_path / "a.jsonl", {"text": "one", "id": 5}, "{", {"words": "x"}, "", {"text": 7}, {"text": "two"}
    )
    found = list(read_inputs(source, Columns()))
    assert [(row.id, row.text) if isinstance(row, Example) else row.line for row in found] == [
        ("5", "one"),
        2,
        3,
        5,
        ("6", "two"),
    ]
    assert (
        str(found[2]) == f"{source}, line 3: expected a column 'text' with the text (--text_column), found ['words']"
    )


@pytest.mark.parametrize("identity", [["a"], {"a": 1}, True])
def test_ids_that_are_none(tmp_path: Path, identity: Any) -> None:
    found = list(read_inputs(write(tmp_path / "a.jsonl", {"text": "a", "id": identity}), Columns()))
    assert isinstance(found[0], BadRow)
    assert "expected a string or a number in 'id'" in found[0].reason


def test_a_key_that_stands_twice(tmp_path: Path) -> None:
    found = list(read_inputs(write(tmp_path / "a.jsonl", '{"text": "a", "text": "b"}', {"text": "c"}), Columns()))
    assert isinstance(found[0], BadRow)
    assert found[0].reason == "the key 'text' stands twice; keep one of them"
    assert isinstance(found[1], Example)


@pytest.mark.parametrize("name", ["a.jsonl", "a.csv"])
def test_a_column_of_ids_that_was_named_has_to_be_there(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text('{"text": "a"}\n' if name == "a.jsonl" else "text\na\n", encoding="utf-8")
    with pytest.raises(
        LagamcError, match=r"line \d: expected a column 'key' with the id \(--id_column\), found \['text'\]"
    ):
        check_input(str(tmp_path / name), Columns(id="key"))
    assert check_input(str(tmp_path / name), Columns()).rows == 1


def test_reasons_are_short(tmp_path: Path) -> None:
    source = write(tmp_path / "a.jsonl", {f"column {i}": 1 for i in range(10_000)})
    assert len(next(iter(read_inputs(source, Columns()))).reason) == 500  # type: ignore[union-attr]


def test_check_counts_and_tells_files_apart(tmp_path: Path) -> None:
    source = write(tmp_path / "a.jsonl", {"text": "a"}, "{", {"text": "b"})
    found = check_input(source, Columns(), "skip")
    assert (found.rows, found.bad) == (3, 1)
    same = check_input(write(tmp_path / "b.jsonl", {"text": "a"}, "{", {"text": "b"}), Columns(), "skip")
    other = check_input(write(tmp_path / "c.jsonl", {"text": "a"}, "{", {"text": "c"}), Columns(), "skip")
    assert found.fingerprint == same.fingerprint != other.fingerprint
    os.utime(source, (0, 0))
    assert check_input(source, Columns(), "skip").state != found.state


def test_check_names_every_bad_line(tmp_path: Path) -> None:
    source = write(tmp_path / "a.jsonl", {"text": "a"}, "{", {"text": ""})
    with pytest.raises(
        LagamcError, match=r"2 problems(?s:.*)line 2: not valid JSON(?s:.*)line 3(?s:.*)--on_error skip"
    ):
        check_input(source, Columns())
    with pytest.raises(LagamcError, match=r"line 1: not valid JSON(?s:.*)and so in line 2, 3, (?s:.*)and 179 more"):
        check_input(write(tmp_path / "b.jsonl", *["{"] * 1000), Columns())
    with pytest.raises(LagamcError, match="on_error: expected one of"):
        check_input(source, Columns(), "ignore")


@pytest.mark.parametrize(
    ("name", "content"), [("a.jsonl", ""), ("a.jsonl", "\n\n"), ("a.csv", ""), ("a.csv", "text\n")]
)
def test_empty_files(tmp_path: Path, name: str, content: str) -> None:
    (tmp_path / name).write_text(content, encoding="utf-8")
    with pytest.raises(LagamcError, match=rf"{name}: holds no rows"):
        check_input(str(tmp_path / name), Columns(), "skip")


def test_windows_are_bounded_in_rows_and_characters() -> None:
    bad = BadRow("f", 1, "bad")
    rows: list[Example | BadRow] = [Example("x", "a" * length, ()) for length in (1, 1, 1, 50, 1, 1, 1, 1)]
    rows.insert(5, bad)
    assert [len(window) for window in windows(rows, 3, 40)] == [3, 1, 3, 2]
    assert [row for window in windows(rows, 3, 40) for row in window] == rows
    assert list(windows([], 3)) == []
