"""Thresholds tuned for a goal."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import f1_score, precision_score, recall_score

from lagamc.errors import LagamcError
from lagamc.thresholds import Thresholds, goal_figure, tune_thresholds, wanted_precision

NAMES = ["a", "b", "c"]
TRUE = np.array([[1, 1, 0], [1, 0, 0], [1, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 0], [0, 0, 0], [0, 0, 0]])
SCORES = np.array(
    [
        [0.90, 0.30, 0.05],
        [0.80, 0.05, 0.05],
        [0.75, 0.05, 0.45],
        [0.70, 0.10, 0.05],
        [0.20, 0.25, 0.05],
        [0.60, 0.05, 0.05],
        [0.10, 0.05, 0.05],
        [0.65, 0.10, 0.05],
    ]
)


def test_micro_takes_one_threshold_that_is_the_best() -> None:
    thresholds = tune_thresholds(SCORES, TRUE, NAMES, "micro_f1")
    assert thresholds.goal == "micro_f1"
    assert thresholds.per_label == {}
    reached = f1_score(TRUE, thresholds.overall <= SCORES, average="micro")
    others = [f1_score(TRUE, t <= SCORES, average="micro", zero_division=0) for t in np.arange(0.02, 0.99, 0.005)]
    assert reached == pytest.approx(max(others))
    assert thresholds.values(NAMES).tolist() == [thresholds.overall] * 3


def test_macro_shrinks_each_label_by_its_true_rows() -> None:
    own = tune_thresholds(SCORES, TRUE, NAMES, "macro_f1", shrinkage=0.0).per_label
    assert 0.65 < own["a"] <= 0.70  # separates
    assert 0.10 < own["b"] <= 0.25
    thresholds = tune_thresholds(SCORES, TRUE, NAMES, "macro_f1", shrinkage=4.0)
    overall = thresholds.overall
    assert thresholds.per_label["a"] == pytest.approx(4 / 8 * own["a"] + 4 / 8 * overall, abs=1e-4)
    assert thresholds.per_label["b"] == pytest.approx(2 / 6 * own["b"] + 4 / 6 * overall, abs=1e-4)
    assert abs(own["a"] - overall) + abs(own["b"] - overall) > 0.1


def test_labels_without_a_true_row_take_the_overall_threshold() -> None:
    thresholds = tune_thresholds(SCORES, TRUE, NAMES, "macro_f1")
    assert set(thresholds.per_label) == {"a", "b"}
    assert thresholds.values(["c", "new", "a"]).tolist() == [
        thresholds.overall,
        thresholds.overall,
        thresholds.per_label["a"],
    ]


def test_the_middle_of_a_plateau_is_taken() -> None:
    true, scores = np.array([[1], [0]]), np.array([[0.8], [0.2]])
    assert tune_thresholds(scores, true, ["a"]).overall == pytest.approx(0.5, abs=0.02)


def test_unknown_goals_are_refused() -> None:
    with pytest.raises(LagamcError, match=r"goal: expected .*micro_f1.* found 'accuracy'"):
        tune_thresholds(SCORES, TRUE, NAMES, "accuracy")


def test_thresholds_survive_their_dictionary() -> None:
    thresholds = Thresholds("macro_f1", 0.4, {"a": 0.3})
    assert Thresholds(**thresholds.to_dict()) == thresholds


def test_a_wanted_precision_is_reached_with_all_the_recall_it_leaves() -> None:
    rng = np.random.default_rng(0)
    true = (rng.random((400, 5)) < 0.3).astype(int)
    scores = np.clip(0.35 * true + 0.65 * rng.random((400, 5)), 0, 1)
    limits = [tune_thresholds(scores, true, list("abcde"), f"precision>={x}").overall for x in (0.5, 0.7, 0.9)]
    assert limits == sorted(set(limits))
    for wanted, limit in zip((0.5, 0.7, 0.9), limits, strict=True):
        assert precision_score(true, scores >= limit, average="micro") >= wanted
        assert precision_score(true, scores >= limit - 0.01, average="micro") < wanted or limit < 0.03


def test_a_precision_out_of_reach_takes_the_best_there_is() -> None:
    true, scores = np.array([[0], [1], [0], [0]]), np.array([[0.9899], [0.6], [0.5], [0.4]])
    limit = tune_thresholds(scores, true, ["a"], "precision>=0.9").overall
    assert limit <= 0.6
    assert precision_score(true.ravel(), scores.ravel() >= limit) == 0.5


@pytest.mark.parametrize(("goal", "value"), [("precision>=0.9", 0.9), ("precision>=.75", 0.75), ("micro_f1", None)])
def test_goals(goal: str, value: float | None) -> None:
    assert wanted_precision(goal) == value


@pytest.mark.parametrize("goal", ["precision>=90", "precision>0.9", "precision", "", "f1", None])
def test_what_is_no_goal(goal: str) -> None:
    with pytest.raises(LagamcError, match=r"goal: expected micro_f1, macro_f1 or precision>=x"):
        wanted_precision(goal)


def test_figures_of_goals() -> None:
    predicted = np.array([[1, 0], [1, 1], [0, 0]])
    true = np.array([[1, 1], [1, 0], [0, 1]])
    assert goal_figure("micro_f1", predicted, true) == pytest.approx(f1_score(true, predicted, average="micro"))
    assert goal_figure("macro_f1", predicted, true) == pytest.approx(f1_score(true, predicted, average="macro"))
    recall = recall_score(true, predicted, average="micro")
    assert goal_figure("precision>=0.5", predicted, true) == pytest.approx(recall)
