"""Figures of multi-label classification."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import f1_score, multilabel_confusion_matrix

from lagamc.metrics import binarise, label_metrics, multi_label_metrics, ranking_metrics

TRUE = np.array([[1, 0, 1, 0], [0, 1, 0, 0], [1, 1, 0, 0], [0, 0, 0, 0], [0, 0, 1, 0]])
PREDICTED = np.array([[1, 0, 0, 0], [0, 1, 0, 0], [1, 0, 0, 0], [0, 0, 0, 0], [1, 0, 1, 0]])


def test_figures_counted_by_hand() -> None:
    figures = multi_label_metrics(PREDICTED, TRUE)
    # 4 right, 1 wrong, 2 missed; F1 per label 4/5, 2/3, 2/3 and, never true nor predicted, 0
    assert figures["micro_precision"] == pytest.approx(4 / 5)
    assert figures["micro_recall"] == pytest.approx(4 / 6)
    assert figures["micro_f1"] == pytest.approx(8 / 11)
    assert figures["macro_f1"] == pytest.approx((4 / 5 + 2 / 3 + 2 / 3 + 0) / 4)
    assert figures["macro_precision"] == pytest.approx((2 / 3 + 1 + 1 + 0) / 4)
    assert figures["macro_recall"] == pytest.approx((1 + 1 / 2 + 1 / 2 + 0) / 4)
    assert figures["subset_accuracy"] == pytest.approx(2 / 5)
    assert figures["hamming_loss"] == pytest.approx(3 / 20)
    assert figures["labels_per_row"] == pytest.approx(1.0)


def test_figures_agree_with_scikit_learn() -> None:
    draw = np.random.default_rng(0)
    true, predicted = draw.random((200, 9)) < 0.2, draw.random((200, 9)) < 0.3
    figures = multi_label_metrics(predicted, true)
    matrices = multilabel_confusion_matrix(true, predicted)
    wrong, missed, right = matrices[:, 0, 1], matrices[:, 1, 0], matrices[:, 1, 1]
    assert figures["micro_f1"] == pytest.approx(2 * right.sum() / (2 * right + wrong + missed).sum())
    assert figures["macro_f1"] == pytest.approx(f1_score(true, predicted, average="macro"))
    assert figures["hamming_loss"] == pytest.approx((wrong + missed).sum() / true.size)
    assert figures["subset_accuracy"] == pytest.approx((true == predicted).all(axis=1).mean())


def test_figures_per_label() -> None:
    figures = label_metrics(PREDICTED, TRUE, ["a", "b", "c", "d"])
    assert list(figures) == ["a", "b", "c", "d"]
    assert figures["a"] == pytest.approx({"support": 2, "predicted": 3, "precision": 2 / 3, "recall": 1, "f1": 0.8})
    assert figures["c"] == pytest.approx({"support": 2, "predicted": 1, "precision": 1, "recall": 0.5, "f1": 2 / 3})
    assert figures["d"] == {"support": 0, "predicted": 0, "precision": 0.0, "recall": 0.0, "f1": 0.0}


def test_one_label_is_one_class() -> None:
    predicted, true = np.array([[1], [1], [0], [0]]), np.array([[1], [0], [1], [0]])
    figures = multi_label_metrics(predicted, true)
    assert (figures["micro_f1"], figures["macro_f1"], figures["subset_accuracy"]) == (0.5, 0.5, 0.5)
    predicted[0] = 0
    assert multi_label_metrics(predicted, true)["micro_f1"] == 0
    assert label_metrics(predicted, true, ["a"])["a"]["f1"] == 0


def test_binarise() -> None:
    assert binarise([[2, 0], [], [1, 1]], 3).tolist() == [[1, 0, 1], [0, 0, 0], [0, 1, 0]]


def test_ranking_by_hand() -> None:
    scores = np.array([[0.9, 0.2, 0.4, 0.1], [0.3, 0.8, 0.1, 0.7], [0.5, 0.4, 0.3, 0.2]])
    true = np.array([[1, 0, 0, 1], [0, 1, 0, 1], [0, 0, 0, 0]])  # the last row has nothing to find
    figures = ranking_metrics(scores, true)
    assert figures["precision_at_1"] == 1.0
    assert figures["precision_at_3"] == pytest.approx((1 / 3 + 2 / 3) / 2)
    assert figures["mean_average_precision"] == pytest.approx(((1 + 2 / 4) / 2 + 1) / 2)
    best = 1 + 1 / np.log2(3)
    assert figures["ndcg_at_3"] == pytest.approx((1 / best + 1) / 2)
    assert "precision_at_5" not in figures  # there are four labels
    assert ranking_metrics(scores, np.zeros_like(true)) == {}
    assert ranking_metrics(scores[:, :1], true[:, :1]) == {}
