"""Where the F1 of a system comes from: rare labels, rows with many labels, long descriptions, single errors."""

from __future__ import annotations

from typing import Any

import numpy as np
from sklearn.metrics import f1_score

from benchmarks.datasets import Task

RARE = 0.15  # share of the labels (paper, section 8.2)
BUCKETS = 4
LOOKED_AT = 100  # first test rows whose errors are listed


def analyse(task: Task, for_micro: np.ndarray, for_macro: np.ndarray) -> dict[str, Any]:
    """Figures of parts of the test rows.

    Args:
        task: rows and labels.
        for_micro: (test rows, labels), the labels given under the thresholds for micro-F1.
        for_macro: the same for macro-F1.

    Returns:
        `by_label`: label -> training rows, test rows, F1 for the macro goal (the paper's figure 3 is of the rarest);
        `rare_macro_f1`: of the rarest labels of the training rows, on the test rows that have one (section 8.2);
        `by_count`: number of labels -> true rows, rows given as many, micro-F1 of the true rows (table 6);
        `by_length`: words of the joined descriptions at most, micro-F1, for equal parts of the rows (figure 6);
        `errors`: id -> true labels, labels given, of those of the first rows where they differ (table 9).
    """
    true, names = task.true["test"], task.bank.names
    trained = task.true["train"].sum(axis=0)
    for_label = f1_score(true, for_macro, average=None, zero_division=0)
    rarest = np.argsort(trained, kind="stable")[: max(1, round(RARE * len(names)))]
    has_rare = true[:, rarest].any(axis=1)
    counts, given = true.sum(axis=1), for_micro.sum(axis=1)
    words = np.array([len(description.split()) for description in task.bank.descriptions])
    by_length = np.array_split(np.argsort(true @ words, kind="stable"), min(BUCKETS, len(true)))
    return {
        "by_label": {
            name: [int(trained[i]), int(true[:, i].sum()), round(float(for_label[i]), 4)]
            for i, name in enumerate(names)
        },
        "rare_macro_f1": _f1(true[has_rare][:, rarest], for_macro[has_rare][:, rarest], "macro"),
        "by_count": {
            str(count): [
                int((counts == count).sum()),
                int((given == count).sum()),
                _f1(true[counts == count], for_micro[counts == count]),
            ]
            for count in range(int(max(counts.max(), given.max())) + 1)
        },
        "by_length": [[int((true @ words)[rows].max()), _f1(true[rows], for_micro[rows])] for rows in by_length],
        "errors": {
            task.splits["test"][row].id: [[names[i] for i in np.flatnonzero(some[row])] for some in (true, for_micro)]
            for row in range(min(LOOKED_AT, len(true)))
            if (for_micro[row] != true[row]).any()
        },
    }


def _f1(true: np.ndarray, given: np.ndarray, average: str = "micro") -> float | None:
    """None where there are no rows."""
    return round(float(f1_score(true, given, average=average, zero_division=0)), 4) if len(true) else None
