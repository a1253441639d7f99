"""From which probability on a label is given: thresholds tuned for a goal on labelled rows."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from scipy.special import expit, logit
from sklearn.metrics import f1_score, precision_score, recall_score

from lagamc.errors import LagamcError

GOALS = ("micro_f1", "macro_f1")
GOALS_HELP = "micro_f1, macro_f1 or precision>=x, such as precision>=0.9"
_PRECISION = re.compile(r"precision>=(0(\.\d*)?|\.\d+|1(\.0*)?)", re.ASCII)
_GRID = np.round(np.arange(0.02, 0.99, 0.01), 2)
_LEAST = 1e-6  # a probability nearer to 0 or 1 counts as this near


@dataclass
class Thresholds:
    """From which probability on a label is given.

    Args:
        goal: what they were tuned for, written as `usual_goal` writes it.
        overall: one value for every label.
        per_label: label -> value, where it differs.
    """

    goal: str = "micro_f1"
    overall: float = 0.5
    per_label: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.goal = usual_goal(self.goal)

    def values(self, names: Sequence[str]) -> np.ndarray:
        """Thresholds in bank order; a label that was not there when they were tuned gets the overall one."""
        return np.array([self.per_label.get(name, self.overall) for name in names])

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def wanted_precision(goal: str) -> float | None:
    """The x of a goal `precision>=x`; None for an F1.

    Raises:
        LagamcError: it is no goal.
    """
    if goal in GOALS:
        return None
    found = _PRECISION.fullmatch(goal) if isinstance(goal, str) else None
    if found is None:
        raise LagamcError(f"goal: expected {GOALS_HELP}, found {goal!r}")
    return float(found[1])


def usual_goal(goal: str) -> str:
    """A goal as thresholds are kept by: `precision>=.90` and `precision>=0.9` are the same.

    Raises:
        LagamcError: it is no goal.
    """
    wanted = wanted_precision(goal)
    return goal if wanted is None else f"precision>={np.format_float_positional(wanted, trim='0')}"


def goal_figure(goal: str, predicted: np.ndarray, true: np.ndarray) -> float:
    """What a goal is about: the F1 it names; the micro-averaged recall for a wanted precision.

    Args:
        goal: see `tune_thresholds`.
        predicted: (rows, labels), 0 or 1.
        true: (rows, labels), 0 or 1.
    """
    if wanted_precision(goal) is not None:
        return float(recall_score(true.ravel(), predicted.ravel(), zero_division=0))
    if goal == "micro_f1":  # over all pairs: scikit-learn would count both classes where there is one label
        return float(f1_score(true.ravel(), predicted.ravel(), zero_division=0))
    return float(f1_score(true, predicted, average="macro" if true.shape[1] > 1 else "binary", zero_division=0))


def goal_rank(goal: str, predicted: np.ndarray, true: np.ndarray) -> tuple[float, float]:
    """By which predictions are compared for a goal: how much of a wanted precision is reached, then `goal_figure`."""
    wanted = wanted_precision(goal)
    reached = 1.0 if wanted is None else min(wanted, precision_score(true.ravel(), predicted.ravel(), zero_division=0))
    return float(reached), goal_figure(goal, predicted, true)


def tune_thresholds(
    scores: np.ndarray, true: np.ndarray, names: Sequence[str], goal: str = "micro_f1", shrinkage: float = 200.0
) -> Thresholds:
    """Thresholds for a goal from scored development rows.

    For `micro_f1` one value serves all labels. For `macro_f1` each label has its own, half-way in log-odds between the
    one that is best for all and `expected_best`: what is best for a single label by its true rows is mostly noise. A
    label with n true rows keeps n / (n + shrinkage) of that. For `precision>=x` one value serves all labels: the
    lowest from which on the micro-averaged precision stays at x; the one with the best precision where it is never
    reached.

    Args:
        scores: (rows, labels) probabilities; those that are none still have an order, which suits the other goals.
        true: (rows, labels), 0 or 1.
        names: of the labels.
        goal: one of `GOALS`, or `precision>=x`.
        shrinkage: true rows at which what is best by them counts half.
    """
    precision = wanted_precision(goal)
    if goal != "macro_f1":  # over all pairs, as if of one label
        scores, true = scores.reshape(-1, 1), true.reshape(-1, 1)
    given, right = counts(scores, true)
    if precision is not None:
        some = given[:, 0] > 0  # where nothing is given nothing was reached
        reached = np.where(some, right[:, 0] / np.maximum(given[:, 0], 1), -1.0)
        below = np.flatnonzero(some & (reached < precision))
        first = 0 if len(below) == 0 else int(below[-1]) + 1
        first = first if first < len(_GRID) and some[first] else int(np.argmax(reached))
        return Thresholds(goal, float(_GRID[first]))
    by_label = f1_of_counts(right, given, true.sum(0))
    overall = _best(by_label.mean(1))
    per_label: dict[str, float] = {}
    if goal == "macro_f1":
        support = true.sum(0)
        share = support / np.maximum(support + shrinkage, 1e-9)  # 0 without a true row, whatever the shrinkage
        common = (logit(overall) + logit(expected_best(scores))) / 2
        own = logit([_best(values) for values in by_label.T])
        chosen = expit(share * own + (1 - share) * common)
        per_label = dict(zip(names, chosen.round(6).tolist(), strict=True))
    return Thresholds(goal, overall, per_label)


def expected_best(scores: np.ndarray) -> np.ndarray:
    """The threshold of each label with the best F1 to be expected, by its probabilities alone, (labels,).

    If S is the sum of a label's probabilities and P that of the k highest, giving it to these rows has an F1 of about
    2 P / (k + S) (plug-in rule; Lipton et al., 2014: the best threshold is half the best F1). P and S are divided by
    1 - exp(-S), the chance of a true row: a label that no row has says nothing about its threshold.

    Args:
        scores: (rows, labels) probabilities.
    """
    ranked = -np.sort(-scores.clip(_LEAST, 1 - _LEAST), axis=0)
    total = ranked.sum(0)
    given = np.arange(1, len(ranked) + 1)[:, None]
    best = (np.cumsum(ranked, axis=0) / (given * -np.expm1(-total) + total)).argmax(0)
    edge = np.stack([best, np.minimum(best + 1, len(ranked) - 1)])  # half-way between given and not given
    return expit(logit(np.take_along_axis(ranked, edge, axis=0)).mean(0))


def counts(scores: np.ndarray, true: np.ndarray, grid: np.ndarray = _GRID) -> tuple[np.ndarray, np.ndarray]:
    """Rows that are given each label at each threshold of a grid, and those of them that carry it.

    A call of scikit-learn for each would take minutes with a hundred labels.

    Returns:
        twice (thresholds, labels).
    """
    carried = true.astype(bool)
    found = [(one.sum(0), (one & carried).sum(0)) for one in (scores >= threshold for threshold in grid)]
    given, right = zip(*found, strict=True)
    return np.array(given), np.array(right)


def f1_of_counts(right: np.ndarray, given: np.ndarray, carried: np.ndarray) -> np.ndarray:
    """F1 of labels that are given to so many rows and carried by so many; 0 where both are 0."""
    return 2 * right / np.maximum(given + carried, 1)


def _best(values: np.ndarray) -> float:
    """The middle of the thresholds that give the best value: the edge of a plateau generalises worse."""
    best = np.flatnonzero(values >= values.max() - 1e-12)
    return float(_GRID[best[len(best) // 2]])
