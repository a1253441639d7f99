from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pyarrow
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pyarrow import parquet

from lagamc import csv_rows, rows
from lagamc.csv_rows import scan_csv_rows
from lagamc.errors import LagamcError
from lagamc.rows import check_ending, read_rows, scan_rows

Found = list[tuple[int, Any]]


def scanned(path: Path, content: bytes | None = None) -> Found:
    """Line numbers with rows, or with the first words of what is wrong."""
    if content is not None:
        path.write_bytes(content)
    found = []
    for number, row in scan_rows(path):
        if isinstance(row, LagamcError):
            where, _, reason = str(row).partition(": ")
            assert where == f"{path}, line {number}"
            found.append((number, " ".join(reason.split()[:3])))
        else:
            found.append((number, row))
    return found


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("a.jsonl", ".jsonl"),
        ("a.b.JSONL.GZ", ".jsonl"),
        ("a.csv.gz", ".csv"),
        ("a.json", ".json"),
        ("a.parquet", ".parquet"),
    ],
)
def test_endings(name: str, expected: str) -> None:
    assert check_ending(name) == expected


@pytest.mark.parametrize("name", ["a", "a.gz", "a.txt", "a.txt.gz", "a.parquet.gz", "jsonl"])
def test_other_endings_are_refused(name: str) -> None:
    with pytest.raises(LagamcError, match=r"expected a file that ends in \.jsonl.*may end in \.gz"):
        check_ending(name)


def test_damaged_lines_cost_themselves_alone(tmp_path: Path) -> None:
    lines = [
        b'\xef\xbb\xbf{"a": 1}\r',
        b'{"a": ',
        b"[1]",
        b"",
        b'{"a": "\xff"}',
        b'{"a": "\x00"}',
        b"   \t",
        b'{"a": 1e999}',
        b'{"a": %s}' % (b"9" * 5000),
        b"[" * 100_000,
        b'\xef\xbb\xbf{"a": 2}',
        b'{"a": 3}',
    ]
    assert scanned(tmp_path / "a.jsonl", b"\n".join(lines)) == [
        (1, {"a": 1}),
        (2, "not valid JSON"),
        (3, "expected a JSON"),
        (5, "not UTF-8 text"),
        (6, "not valid JSON"),
        (8, {"a": float("inf")}),
        (9, "not valid JSON"),
        (10, "not valid JSON"),
        (11, "not valid JSON"),
        (12, {"a": 3}),
    ]


@pytest.mark.parametrize("ends", [b"\n", b""])
def test_a_line_too_long_to_be_held_is_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ends: bytes
) -> None:
    monkeypatch.setattr(rows, "MAX_LINE", 100)
    fits = b'{"a": "%s"}' % (b"x" * 91)
    assert len(fits) == 100
    long = [b"x" * length for length in (101, 200, 201, 1000)]
    found = scanned(tmp_path / "a.jsonl", b"\n".join([fits, long[0], fits, *long[1:]]) + ends)
    assert [(number, "longer" in row if isinstance(row, str) else row["a"][0]) for number, row in found] == [
        (1, "x"),
        (2, True),
        (3, "x"),
        *((number, True) for number in (4, 5, 6)),
    ]


def test_utf_16_is_said_once(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes('{"a": 1}\n'.encode("utf-16"))
    with pytest.raises(LagamcError, match=r"a\.jsonl: not UTF-8 text \(it begins as UTF-16 does\)"):
        list(scan_rows(tmp_path / "a.jsonl"))


def test_gzip(tmp_path: Path) -> None:
    for name, content in (("a.jsonl.gz", b'{"a": "1"}\n{\n{"a": "2"}\n'), ("a.csv.gz", b'a\n1\n"\n2\n')):
        assert [row for _, row in scanned(tmp_path / name, gzip.compress(content)) if isinstance(row, dict)] == [
            {"a": "1"},
            {"a": "2"},
        ]


@pytest.mark.parametrize(
    "spoil", [lambda data: data[:-12], lambda data: b"no gzip", lambda data: data[:40] + b"\0" * 40]
)
def test_damaged_gzip_stops(tmp_path: Path, spoil: Any) -> None:
    content = b"".join(b'{"a": %d}\n' % number for number in range(1000))
    (tmp_path / "a.jsonl.gz").write_bytes(spoil(gzip.compress(content)))
    with pytest.raises(LagamcError, match=r"a\.jsonl\.gz: not a whole gzip file"):
        list(scan_rows(tmp_path / "a.jsonl.gz"))


def test_csv_rows_that_are_damaged(tmp_path: Path) -> None:
    content = b'a,b\n1,2\n1,2,3\n"x" y,1\n\n"never closed,1\n3,4\n\xff,5\n6\n7,"ends, here'
    assert scanned(tmp_path / "a.csv", content) == [
        (2, {"a": "1", "b": "2"}),
        (3, "1 more cells"),
        (4, "not valid CSV"),
        (6, "not valid CSV"),
        (7, {"a": "3", "b": "4"}),
        (8, "not UTF-8 text;"),
        (9, "1 of 2"),
        (10, "not valid CSV"),
    ]


def test_csv_line_and_row_too_long(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rows, "MAX_LINE", 200)
    monkeypatch.setattr(csv_rows, "MAX_RECORD", 100)
    monkeypatch.setattr(rows, "MAX_RECORD", 100)
    many = b"".join(b'","\n' for _ in range(60))  # each closes a cell and opens the next
    found = scanned(tmp_path / "a.csv", b"a\n" + b"x" * 300 + b"\n1\n" + b'"\n' + many + b"2\n")
    assert [number for number, row in found if row == {"a": "1"}] == [3]
    assert found[0] == (2, "not valid CSV")
    assert found[-1] == (65, {"a": "2"})


def test_parquet_reads_the_columns_that_are_needed(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    parquet.write_table(pyarrow.table({"text": ["a", "b"], "more": [1, 2], "id": [5, 6]}), path)
    assert list(scan_rows(path, ["text", "id"])) == [(1, {"text": "a", "id": 5}), (2, {"text": "b", "id": 6})]
    assert [sorted(row) for _, row in scan_rows(path, ["none"])] == [["id", "more", "text"]] * 2  # type: ignore[arg-type]


def test_parquet_cells_that_are_no_text_cost_their_row(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    texts = pyarrow.array([b"a", b"\xff", b"c"]).view(pyarrow.string())
    parquet.write_table(pyarrow.table({"text": texts}), path)
    assert scanned(path) == [(1, {"text": "a"}), (2, "cannot be read"), (3, {"text": "c"})]


def test_damaged_parquet(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    parquet.write_table(pyarrow.table({"text": [f"text {i}" for i in range(5000)]}), path, compression="snappy")
    content = path.read_bytes()
    for spoilt in (content[:-20], content[:500] + b"\0" * 3000 + content[3500:], b"PAR1"):
        path.write_bytes(spoilt)
        with pytest.raises(LagamcError, match=r"a\.parquet: not a Parquet file, or damaged"):
            list(scan_rows(path))


def test_first_damaged_line_stops_unless_problems_are_taken(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text('a\n1\n"x"y\n2\n', encoding="utf-8")
    with pytest.raises(LagamcError, match="line 3: not valid CSV"):
        list(read_rows(tmp_path / "a.csv"))
    problems: list[str] = []
    assert [row["a"] for _, row in read_rows(tmp_path / "a.csv", problems)] == ["1", "2"]
    assert len(problems) == 1


# any bytes at all

PIECES = st.one_of(
    st.binary(max_size=30),
    st.sampled_from(
        [b'{"text": "a"}', b'{"text": ', b'"', b",", b'""', b"\r", b"\xef\xbb\xbf", b"\x00", b"\xff", b"[" * 9999]
    ),
    st.recursive(
        st.none() | st.booleans() | st.floats() | st.integers() | st.text(st.characters(), max_size=8),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
        max_leaves=6,
    ).map(lambda value: json.dumps(value).encode()),
)
LINES = st.lists(st.lists(PIECES, max_size=4).map(b"".join), max_size=20)


@settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))
@given(LINES)
def test_every_line_of_any_bytes_is_a_row_or_a_problem(tmp_path: Path, lines: list[bytes]) -> None:
    content = b"\n".join(lines)
    expected = [
        number for number, line in enumerate(content.removeprefix(b"\xef\xbb\xbf").split(b"\n"), 1) if line.strip()
    ]
    if content.startswith((b"\xff\xfe", b"\xfe\xff")):
        return
    assert [number for number, _ in scanned(tmp_path / "a.jsonl", content)] == expected


@settings(max_examples=100, deadline=None)
@given(st.lists(st.text(st.sampled_from('a",\r\n'), max_size=8), max_size=12))
def test_every_line_of_any_csv_is_in_a_row_or_a_problem(lines: list[str]) -> None:
    """Rows and problems take up the lines one after the other; only a row takes more than one."""
    text = ["a,b\n", *(line + "\n" for line in "\n".join(lines).split("\n"))]
    before = 1
    for number, row in scan_csv_rows(text, "x"):
        assert number > before
        if isinstance(row, LagamcError) and "not valid CSV" in str(row):
            assert all(not line.strip("\r\n") for line in text[before : number - 1])
        before = number
    assert all(not line.strip("\r\n") for line in text[before:])


def test_behind_an_open_quote_a_row_needs_all_its_cells(tmp_path: Path) -> None:
    """Else the lines of a text would be taken for rows."""
    content = b'a,b\n"one\ntwo\nthree" four,1\n5,6\n7\n'
    assert scanned(tmp_path / "a.csv", content) == [
        (2, "not valid CSV"),
        (3, "1 of 2"),
        (4, {"a": 'three" four', "b": "1"}),
        (5, {"a": "5", "b": "6"}),
        (6, {"a": "7", "b": None}),
    ]


def test_a_folder_that_may_not_be_entered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path) -> bool:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "is_file", refuse)
    with pytest.raises(LagamcError, match=r"rows\.jsonl: cannot be read \(Permission denied\)"):
        list(read_rows(tmp_path / "rows.jsonl"))
