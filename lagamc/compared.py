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
    def of(cls, truth: Tensor, sample: int | None = None, among: Tensor | None = None) -> ComparedLabels:
        """The labels of the rows, and as many of the others as are drawn.

        Args:
            truth: (rows, labels), 0 or 1.
            sample: how many are drawn; None takes all.
            among: (labels,) bool, what is drawn among; None takes all.
        """
        carried = truth.bool()
        there = carried.any(0)
        others = ~there if among is None else among.to(there.device) & ~there
        known, rest = int(there.sum()), int(others.sum())
        if sample is None or sample >= rest:
            every = torch.nonzero(there | others)[:, 0]
            return cls(every, torch.ones_like(every).float(), carried[:, every])
        order = torch.rand(len(there), device=truth.device).masked_fill(there, -1).masked_fill(~(there | others), 2)
        chosen = order.argsort()[: known + sample].sort().values
        return cls(chosen, torch.where(there[chosen], 1.0, rest / sample), carried[:, chosen])
