"""Rows of similar length together, in batches and in parts of one: padding costs as much as words."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor
from transformers.trainer_pt_utils import LengthGroupedSampler

MOST_PARTS = 4  # that a batch is computed in
WORTHWHILE = 0.1  # share of the tokens that a split has to save


class EpochLengthSampler(LengthGroupedSampler):
    """Rows of similar length together, in an order that depends on seed and epoch alone.

    Drawn from the global generator, an epoch that a killed run goes on with would have another order than before: rows
    that were trained would be trained again, and others left out.

    Args:
        batch_size: rows that belong together.
        lengths: tokens of each row.
        seed: of the order.
        epoch: tells which one begins.
    """

    def __init__(self, batch_size: int, lengths: list[int], seed: int, epoch: Callable[[], int]):
        super().__init__(batch_size, lengths=lengths, generator=torch.Generator())
        self.seed, self.epoch = seed, epoch

    def __iter__(self) -> Iterator[int]:
        self.generator.manual_seed(self.seed + self.epoch())
        return iter(super().__iter__())


def in_parts(compute: Callable[[list[int], int], Tensor], lengths: Tensor) -> Tensor:
    """Computes rows in parts of similar length.

    Args:
        compute: from the rows of a part and its width to a tensor with these rows first.
        lengths: (rows,) tokens of each.

    Returns:
        what `compute` gave, the rows in their own order.
    """
    parts = parts_by_length(lengths.tolist())
    order = torch.tensor([row for rows, _ in parts for row in rows], device=lengths.device)
    return torch.cat([compute(rows, width) for rows, width in parts])[order.argsort()]


def parts_by_length(lengths: Sequence[int]) -> list[tuple[list[int], int]]:
    """Rows of a batch in parts of similar length, and the width of each part; together the parts hold every row once.

    A few rows with many labels would otherwise make the responses of all others as long as theirs: a part is split
    where that saves more than `WORTHWHILE` of the batch's tokens.

    Args:
        lengths: tokens of each row.
    """
    parts = [sorted(range(len(lengths)), key=lambda row: lengths[row])]
    while len(parts) < MOST_PARTS:
        needed = WORTHWHILE * sum(len(part) * lengths[part[-1]] for part in parts)
        saved, number, cut = max(
            (j * (lengths[part[-1]] - lengths[part[j - 1]]), i, j)
            for i, part in enumerate(parts)
            for j in range(1, len(part) + 1)
        )
        if saved <= needed:
            break
        parts[number : number + 1] = [parts[number][:cut], parts[number][cut:]]
    return [(part, max(1, lengths[part[-1]])) for part in parts]
