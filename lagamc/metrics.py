"""Figures of multi-label classification, as a local `evaluate` metric."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from typing import Any

import datasets
import evaluate
import numpy as np
from sklearn.metrics import (
    accuracy_score,
    f1_score,
    hamming_loss,
    label_ranking_average_precision_score,
    ndcg_score,
    precision_score,
    recall_score,
)

from lagamc.thresholds import f1_of_counts

FIGURES = (
    *("micro_f1", "micro_precision", "micro_recall", "macro_f1", "macro_precision", "macro_recall"),
    *("subset_accuracy", "hamming_loss", "labels_per_row"),
)


class MultiLabelMetric(evaluate.Metric):
    """Micro and macro F1, precision and recall, subset accuracy and Hamming loss, all fractions.

    Predictions and references are binary rows, (rows, labels). A label without a true and without a predicted row
    counts as F1 0, as in scikit-learn.
    """

    def _info(self) -> evaluate.MetricInfo:
        row = datasets.Sequence(datasets.Value("int8"))
        return evaluate.MetricInfo(
            description=self.__doc__ or "",
            citation="",
            inputs_description="binary rows, one column per label",
            features=datasets.Features({"predictions": row, "references": row}),
        )

    def _compute(self, predictions: Any, references: Any) -> dict[str, float]:
        predicted, true = np.asarray(predictions), np.asarray(references)
        figures: dict[str, float] = {}
        for average in ("micro", "macro"):
            # of one column scikit-learn would make two classes, the label and its absence
            options: dict[str, Any] = {"average": average if true.shape[1] > 1 else "binary", "zero_division": 0}
            figures[f"{average}_f1"] = f1_score(true, predicted, **options)
            figures[f"{average}_precision"] = precision_score(true, predicted, **options)
            figures[f"{average}_recall"] = recall_score(true, predicted, **options)
        figures["subset_accuracy"] = accuracy_score(true, predicted)
        figures["hamming_loss"] = hamming_loss(true, predicted)
        figures["labels_per_row"] = float(predicted.sum(axis=1).mean())
        return {name: float(value) for name, value in figures.items()}


def multi_label_metrics(predicted: np.ndarray, true: np.ndarray) -> dict[str, float]:
    """The figures of `MultiLabelMetric`.

    Args:
        predicted: (rows, labels), 0 or 1.
        true: (rows, labels), 0 or 1.
    """
    with tempfile.TemporaryDirectory(prefix="lagamc-") as folder:  # the usual one may not be writable
        metric = MultiLabelMetric(keep_in_memory=True, cache_dir=folder)
        result = metric.compute(predictions=predicted.astype(np.int8), references=true.astype(np.int8))
    assert result is not None
    return result


def ranking_metrics(scores: np.ndarray, true: np.ndarray, places: Sequence[int] = (1, 3, 5)) -> dict[str, float]:
    """How well the labels of each row are ranked: P@k, nDCG@k and mean average precision, over the rows with labels.

    Args:
        scores: (rows, labels).
        true: (rows, labels), 0 or 1.
        places: values of k; those beyond the number of labels are left out.

    Returns:
        fractions `precision_at_K`, `ndcg_at_K`, `mean_average_precision`; nothing where there is nothing to rank.
    """
    rows = true.any(axis=1)
    if not rows.any() or true.shape[1] < 2:
        return {}
    scores, true = scores[rows], true[rows]
    ranked = np.take_along_axis(true, np.argsort(-scores, axis=1, kind="stable"), axis=1)
    figures = {}
    for k in places:
        if k <= true.shape[1]:
            figures[f"precision_at_{k}"] = float(ranked[:, :k].mean())
            figures[f"ndcg_at_{k}"] = float(ndcg_score(true, scores, k=k))
    figures["mean_average_precision"] = float(label_ranking_average_precision_score(true, scores))
    return figures


def label_metrics(predicted: np.ndarray, true: np.ndarray, names: Sequence[str]) -> dict[str, dict[str, float]]:
    """Per label: support (true rows), predicted rows, precision, recall and F1.

    Args:
        predicted: (rows, labels), 0 or 1.
        true: (rows, labels), 0 or 1.
        names: of the labels.
    """
    right, given, supports = (predicted.astype(bool) & true.astype(bool)).sum(0), predicted.sum(0), true.sum(0)
    columns = (part.tolist() for part in (right, given, supports, f1_of_counts(right, given, supports)))
    return {
        name: {
            "support": support,
            "predicted": count,
            "precision": hits / max(1, count),
            "recall": hits / max(1, support),
            "f1": f1,
        }
        for name, hits, count, support, f1 in zip(names, *columns, strict=True)
    }


def binarise(label_sets: Sequence[Sequence[int]], labels: int) -> np.ndarray:
    """Sets of bank positions as binary rows, (rows, labels)."""
    rows = np.zeros((len(label_sets), labels), dtype=np.int8)
    for row, members in enumerate(label_sets):
        rows[row, list(members)] = 1
    return rows
