"""What the measured rows of a run say (paper, section 8): numbers alone, which `plots` draws and `reports` shows."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from lagamc.calibration import expected_calibration_error
from lagamc.labels import LabelBank
from lagamc.report_data import MeasuredRows
from lagamc.thresholds import counts, f1_of_counts, goal_figure

RARE_SHARE = 0.15
SCORE_GRID = np.round(np.arange(0.02, 1.0, 0.02), 2)
SIMILARITY_GRID = np.round(np.arange(0.0, 1.0, 0.02), 2)


@dataclass(frozen=True)
class Sweep:
    """F1 over a grid of thresholds."""

    grid: np.ndarray
    micro: np.ndarray
    macro: np.ndarray


def score_sweep(rows: MeasuredRows) -> Sweep:
    """F1 by one probability threshold for all labels."""
    return _sweep(SCORE_GRID, rows.scores, rows.true)


def similarity_sweep(rows: MeasuredRows, bank: LabelBank) -> Sweep | None:
    """F1 of the written descriptions by the matcher's minimum similarity (paper, section 8.5)."""
    if rows.matches is None:
        return None
    return _sweep(SIMILARITY_GRID, written_similarities(rows, bank), rows.true)


def _sweep(grid: np.ndarray, values: np.ndarray, true: np.ndarray) -> Sweep:
    given, right = counts(values, true, grid)
    carried = true.sum(axis=0)
    micro = f1_of_counts(right.sum(axis=1), given.sum(axis=1), carried.sum())
    return Sweep(grid, micro, f1_of_counts(right, given, carried).mean(axis=1))


def written_similarities(rows: MeasuredRows, bank: LabelBank) -> np.ndarray:
    """How similar each label's best written sentence is to it, (rows, labels); minus infinity where none is."""
    assert rows.matches is not None
    places = {name: place for place, name in enumerate(bank)}
    similarities = np.full(rows.true.shape, -np.inf)
    for i, matches in enumerate(rows.matches):
        for label, value in matches:
            if label is not None:
                similarities[i, places[label]] = max(similarities[i, places[label]], value)
    return similarities


def written_labels(rows: MeasuredRows, bank: LabelBank) -> np.ndarray:
    """The labels of the written sentences, (rows, labels), 0 or 1."""
    return np.isfinite(written_similarities(rows, bank)).astype(np.int8)


def label_numbers(rows: MeasuredRows, bank: LabelBank) -> dict[str, np.ndarray]:
    """How many rows have 0, 1, 2, ... labels: truly, by scores and, where they were written, by the descriptions
    (paper, table 6)."""
    sets = {"true": rows.true, "by scores": rows.chosen}
    if rows.matches is not None:
        sets["by descriptions"] = written_labels(rows, bank)
    most = max(int(members.sum(axis=1).max()) for members in sets.values())
    return {name: np.bincount(members.sum(axis=1), minlength=most + 1) for name, members in sets.items()}


@dataclass(frozen=True)
class Bucket:
    """Rows whose true descriptions have a similar length together: words from, to, rows, micro-F1."""

    shortest: int
    longest: int
    rows: int
    f1: float


def length_buckets(rows: MeasuredRows, bank: LabelBank, buckets: int = 6) -> list[Bucket]:
    """Micro-F1 by the length of a row's true descriptions, in buckets of about as many rows (paper, figures 4-6).

    Rows of one length stay together, so where few lengths occur there are fewer buckets. Rows without labels are
    left out.
    """
    words = np.array([len(text.split()) for text in bank.descriptions])
    lengths = rows.true @ words
    labelled = np.flatnonzero(rows.true.any(axis=1))
    if not len(labelled):
        return []
    ends = np.unique(np.quantile(lengths[labelled], np.arange(1, buckets + 1) / buckets, method="inverted_cdf"))
    where = np.searchsorted(ends, lengths[labelled])
    found = []
    for bucket in np.unique(where):
        members = labelled[where == bucket]
        f1 = goal_figure("micro_f1", rows.chosen[members], rows.true[members])
        found.append(Bucket(int(lengths[members].min()), int(lengths[members].max()), len(members), f1))
    return found


@dataclass(frozen=True)
class RareLabels:
    """The least frequent labels of training.

    Args:
        names: least frequent first.
        macro_f1: over them, on all rows.
        macro_f1_on_their_rows: over them, on the rows that truly have one of them (the paper's figure).
        rows: how many those are.
    """

    names: list[str]
    macro_f1: float
    macro_f1_on_their_rows: float | None
    rows: int


def rare_labels(rows: MeasuredRows, bank: LabelBank, training_counts: Mapping[str, int]) -> RareLabels:
    """Figures of the least frequent 15 % of the labels (paper, section 8.2)."""
    ranked = sorted(bank.names, key=lambda name: training_counts.get(name, 0))
    names = ranked[: math.ceil(RARE_SHARE * len(bank))]
    columns = bank.index(names)
    true, chosen = rows.true[:, columns], rows.chosen[:, columns]
    theirs = true.any(axis=1)
    on_theirs = goal_figure("macro_f1", chosen[theirs], true[theirs]) if theirs.any() else None
    return RareLabels(names, goal_figure("macro_f1", chosen, true), on_theirs, int(theirs.sum()))


@dataclass(frozen=True)
class Reliability:
    """Scores against what became true, over all pairs of a row and a label, in ten bins of equal width.

    Args:
        mean_score: of each bin, NaN where it is empty.
        true_share: of each bin, NaN where it is empty.
        pairs: in each bin.
        error: the expected calibration error, as training measures it.
    """

    mean_score: np.ndarray
    true_share: np.ndarray
    pairs: np.ndarray
    error: float


def reliability(rows: MeasuredRows, bins: int = 10) -> Reliability:
    """The reliability of the scores."""
    scores, true = rows.scores.ravel(), rows.true.ravel()
    where = np.minimum((scores * bins).astype(int), bins - 1)
    pairs = np.bincount(where, minlength=bins)
    with np.errstate(invalid="ignore"):
        mean_score = np.bincount(where, scores, bins) / pairs
        true_share = np.bincount(where, true, bins) / pairs
    return Reliability(mean_score, true_share, pairs, expected_calibration_error(rows.scores, rows.true))


def cooccurrence(rows: np.ndarray) -> np.ndarray:
    """Of the rows with a label, the share that also has another, (labels, labels); NaN for labels without rows.

    Args:
        rows: (rows, labels), 0 or 1.
    """
    together = rows.astype(int).T @ rows.astype(int)
    with np.errstate(invalid="ignore"):
        shares = together / np.diag(together)[:, None]
    np.fill_diagonal(shares, np.nan)
    return shares


def often_together(true: np.ndarray, chosen: np.ndarray, limit: int) -> list[int]:
    """The labels that occur beside others most often, in the bank's order.

    Args:
        true: (rows, labels), 0 or 1.
        chosen: (rows, labels), 0 or 1.
        limit: how many.
    """
    several = [rows[rows.sum(axis=1) > 1].sum(axis=0) for rows in (true, chosen)]
    return sorted(np.argsort(-(several[0] + several[1]), kind="stable")[:limit].tolist())


@dataclass(frozen=True)
class WrongRow:
    """A row with wrong labels.

    Args:
        text: of the row.
        right, missed, false: names of its labels, the most wrong first.
        scores: label -> probability, of those.
        generated: what was written, or None.
    """

    text: str
    right: list[str]
    missed: list[str]
    false: list[str]
    scores: dict[str, float]
    generated: str | None


def worst_rows(rows: MeasuredRows, bank: LabelBank, limit: int = 20) -> list[WrongRow]:
    """The rows with the worst errors: by the sum of |truth - score| over their wrong labels (paper, table 9)."""
    gaps = np.abs(rows.true - rows.scores) * (rows.true != rows.chosen)
    worst = np.argsort(-gaps.sum(axis=1), kind="stable")[:limit]
    found = []
    for i in worst[(rows.true[worst] != rows.chosen[worst]).any(axis=1)]:
        order = np.argsort(-gaps[i], kind="stable")
        true, chosen = rows.true[i].astype(bool), rows.chosen[i].astype(bool)
        right, missed, false = (
            [bank.names[label] for label in order if kept[label]]
            for kept in (true & chosen, true & ~chosen, ~true & chosen)
        )
        scores = {name: float(rows.scores[i, bank.index([name])[0]]) for name in (*right, *missed, *false)}
        generated = None if rows.generated is None else rows.generated[i]
        found.append(WrongRow(rows.texts[i], right, missed, false, scores, generated))
    return found
