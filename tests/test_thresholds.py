"""Thresholds tuned for a goal."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.special import logit
from sklearn.metrics import f1_score, precision_score, recall_score

from lagamc.errors import LagamcError
from lagamc.thresholds import (
    Thresholds,
    expected_best,
    goal_figure,
    goal_rank,
    tune_thresholds,
    usual_goal,
    wanted_precision,
)

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


def test_macro_shrinks_what_is_best_by_a_labels_true_rows() -> None:
    own = tune_thresholds(SCORES, TRUE, NAMES, "macro_f1", shrinkage=0.0).per_label
    assert 0.65 < own["a"] <= 0.70  # separates
    assert 0.10 < own["b"] <= 0.25
    common = tune_thresholds(SCORES, TRUE, NAMES, "macro_f1", shrinkage=1e9)
    halfway = (logit(common.overall) + logit(expected_best(SCORES))) / 2
    assert logit(common.values(NAMES)) == pytest.approx(halfway, abs=1e-4)
    found = logit(tune_thresholds(SCORES, TRUE, NAMES, "macro_f1", shrinkage=4.0).values(NAMES))
    assert found[0] == pytest.approx(4 / 8 * logit(own["a"]) + 4 / 8 * halfway[0], abs=1e-4)
    assert found[1] == pytest.approx(2 / 6 * logit(own["b"]) + 4 / 6 * halfway[1], abs=1e-4)
    assert found[2] == pytest.approx(halfway[2], abs=1e-4)  # no true row
    assert abs(found[0] - halfway[0]) > 0.1


def test_a_label_that_came_later_takes_the_overall_threshold() -> None:
    thresholds = tune_thresholds(SCORES, TRUE, NAMES, "macro_f1")
    assert thresholds.values(["new", "a"]).tolist() == [thresholds.overall, thresholds.per_label["a"]]


def test_the_best_to_be_expected_is_half_the_best_f1() -> None:
    rng = np.random.default_rng(0)
    probabilities = rng.beta(0.3, 2.0, (200_000, 1))
    limit = expected_best(probabilities)[0]
    true = rng.random(probabilities.shape) < probabilities
    reached = {t: f1_score(true, probabilities >= t) for t in (limit, limit - 0.05, limit + 0.05)}
    assert max(reached, key=lambda t: reached[t]) == limit
    assert limit == pytest.approx(reached[limit] / 2, abs=0.01)


def test_what_is_expected_of_a_rare_label_lies_in_the_order_of_its_scores() -> None:
    rare = np.full((1000, 1), 1e-6)
    rare[:3, 0] = 0.02, 0.004, 0.003
    assert 0.004 < expected_best(rare)[0] < 0.02
    assert expected_best(rare / 2)[0] == pytest.approx(expected_best(rare)[0] / 2, rel=0.02)


def test_scores_that_are_no_probabilities_give_finite_thresholds() -> None:
    scores = np.array([[0.0, 1.0, 0.3], [0.0, 1.0, 0.7]])
    values = tune_thresholds(scores, np.array([[0, 1, 0], [0, 0, 1]]), NAMES, "macro_f1").values(NAMES)
    assert ((values > 0) & (values < 1)).all()
    assert (scores[:, 0] < values[0]).all()  # a label that is never probable is never given


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


def test_a_precision_is_not_reached_by_giving_nothing() -> None:
    true, scores = np.array([[0], [1], [1], [0]]), np.array([[0.7], [0.6], [0.5], [0.4]])
    limit = tune_thresholds(scores, true, ["a"], "precision>=0.9").overall
    assert (scores >= limit).ravel().tolist() == [True, True, True, False]


@pytest.mark.parametrize(("goal", "value"), [("precision>=0.9", 0.9), ("precision>=.75", 0.75), ("micro_f1", None)])
def test_goals(goal: str, value: float | None) -> None:
    assert wanted_precision(goal) == value


def test_a_precision_is_kept_by_one_name() -> None:
    assert {usual_goal(f"precision>={x}") for x in (".9", "0.9", "0.90")} == {"precision>=0.9"}
    for x, usual in (("0", "0.0"), ("0.00001", "0.00001"), ("1", "1.0")):
        assert usual_goal(f"precision>={x}") == usual_goal(f"precision>={usual}") == f"precision>={usual}"
    assert usual_goal("macro_f1") == "macro_f1"


@pytest.mark.parametrize(
    "goal", ["precision>=90", "precision>0.9", "precision>=.\u0669", "precision>=.", "precision", "", "f1", None]
)
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


def test_a_precision_that_is_reached_comes_before_recall() -> None:
    true = np.array([[1, 1, 1, 1, 0, 0]])
    wide, narrow = np.array([[1, 1, 1, 1, 1, 0]]), np.array([[1, 0, 0, 0, 0, 0]])
    assert goal_rank("precision>=0.9", wide, true) == (0.8, 1.0)
    assert goal_rank("precision>=0.9", narrow, true) == (0.9, 0.25)
    assert goal_rank("precision>=0.7", wide, true) == (0.7, 1.0)
    assert goal_rank("micro_f1", narrow, true) == (1.0, pytest.approx(0.4))
