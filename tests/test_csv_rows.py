from __future__ import annotations

import pytest

from lagamc.csv_rows import read_csv_rows
from lagamc.errors import LagamcError


def test_rows_with_their_lines() -> None:
    rows = list(read_csv_rows(["text,labels\n", '"one,\n', 'two",late\n', "three\n"], "a.csv"))
    assert rows == [(3, {"text": "one,\ntwo", "labels": "late"}), (4, {"text": "three", "labels": None})]


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (
            ["label,description\n", "late,Late parcel, very late\n"],
            "line 2: 1 more cells than columns",
        ),
        (["text,text\n", "a,b\n"], "line 1: the column 'text' stands twice"),
        (["text\n", "x" * 200_000], "line 2: not valid CSV"),
    ],
)
def test_what_would_be_lost_is_an_error(lines: list[str], message: str) -> None:
    with pytest.raises(LagamcError, match=message):
        list(read_csv_rows(lines, "a.csv"))
