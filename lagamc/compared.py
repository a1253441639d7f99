"""Which labels of the bank a training step compares with: all, or those of its rows and a sample of the others."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class ComparedLabels:
    """The labels that a step compares with.

    Args:
        labels: (compared,) positions in the bank, ascending.
        counts: (compared,) how many labels each stands for, in all the number of labels.
        carried: (rows, compared) bool, the labels of each row.
    """

    labels: Tensor
    counts: Tensor
    carried: Tensor

    @classmethod
    def of(cls, truth: Tensor, sample: int | None = None) -> ComparedLabels:
        """The labels of the rows, and as many of the others as are drawn.

        Args:
            truth: (rows, labels), 0 or 1.
            sample: how many are drawn; None takes all labels.
        """
        carried = truth.bool()
        there = carried.any(0)
        known, labels = int(there.sum()), len(there)
        if sample is None or known + sample >= labels:
            return cls(torch.arange(labels, device=truth.device), torch.ones_like(there).float(), carried)
        order = torch.rand(labels, device=truth.device).masked_fill(there, -1).argsort()
        chosen = order[: known + sample].sort().values
        return cls(chosen, torch.where(there[chosen], 1.0, (labels - known) / sample), carried[:, chosen])
