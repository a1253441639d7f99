"""Rows of a batch in parts of similar length."""

from __future__ import annotations

import pytest
import torch

from lagamc.lengths import MOST_PARTS, in_parts, parts_by_length


@pytest.mark.parametrize("lengths", [[5], [3, 3, 3], [4, 30, 4, 31, 4, 4, 90, 4], list(range(1, 40)), [0, 0, 7]])
def test_parts_hold_every_row_once_and_fit(lengths: list[int]) -> None:
    parts = parts_by_length(lengths)
    assert sorted(row for rows, _ in parts for row in rows) == list(range(len(lengths)))
    assert all(width == max([1, *(lengths[row] for row in rows)]) for rows, width in parts)
    assert 1 <= len(parts) <= MOST_PARTS


def test_one_long_response_does_not_make_all_others_long() -> None:
    parts = parts_by_length([10] * 31 + [100])
    assert [(len(rows), width) for rows, width in parts] == [(31, 10), (1, 100)]
    assert len(parts_by_length([10] * 31 + [11])) == 1


def test_rows_computed_in_parts_come_back_in_their_own_order() -> None:
    lengths = torch.tensor([4, 90, 3, 31, 4, 89])
    widths = []

    def compute(rows: list[int], width: int) -> torch.Tensor:
        widths.append(width)
        return torch.tensor(rows)

    assert in_parts(compute, lengths).tolist() == list(range(6))
    assert widths == sorted(widths)
    assert len(widths) > 1
