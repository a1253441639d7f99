from __future__ import annotations

import numpy as np
import pytest

from lagamc.analysis import (
    cooccurrence,
    label_numbers,
    length_buckets,
    often_together,
    rare_labels,
    reliability,
    score_sweep,
    similarity_sweep,
    worst_rows,
    written_labels,
    written_similarities,
)
from lagamc.calibration import expected_calibration_error
from lagamc.labels import LabelBank
from lagamc.report_data import MeasuredRows

BANK = LabelBank({"a": "First: one", "b": "Second: one two three", "c": "Third: one two three four five six"})
TRUE = [[1, 0, 0], [1, 1, 0], [0, 1, 1], [0, 0, 0], [1, 0, 0]]
SCORES = [[0.9, 0.1, 0.0], [0.8, 0.4, 0.1], [0.2, 0.7, 0.3], [0.6, 0.0, 0.0], [1.0, 0.0, 0.95]]
MATCHES: list[list[tuple[str | None, float]]] = [
    [("a", 0.9)],
    [("a", 0.8), ("b", 0.3)],
    [("b", 0.9), (None, 0.1)],
    [("c", 0.2)],
    [("a", 1.0)],
]


def measured(matches: list[list[tuple[str | None, float]]] | None = MATCHES) -> MeasuredRows:
    scores = np.array(SCORES)
    texts = [f"text {i}" for i in range(len(TRUE))]
    generated = None if matches is None else [f"written {i}" for i in range(len(TRUE))]
    return MeasuredRows(texts, np.array(TRUE), (scores >= 0.5).astype(int), scores, generated, matches)


def test_score_sweep_takes_one_threshold_for_all() -> None:
    sweep = score_sweep(measured())
    at = sweep.grid.tolist().index(0.5)
    # true 6; predicted a: rows 0 1 3 4, b: row 2, c: row 4; right: a 3, b 1
    assert sweep.micro[at] == pytest.approx(2 * 4 / (6 + 6))
    assert sweep.macro[at] == pytest.approx(np.mean([2 * 3 / 7, 2 / 3, 0]))
    assert sweep.micro[sweep.grid.tolist().index(0.98)] == pytest.approx(2 * 1 / (6 + 1))


def test_similarity_sweep_drops_sentences_below_the_minimum() -> None:
    sweep = similarity_sweep(measured(), BANK)
    assert sweep is not None
    # nothing dropped: a 0 1 4, b 1 2, c 3; true c is row 2
    assert sweep.micro[0] == pytest.approx(2 * 5 / (6 + 6))
    at = sweep.grid.tolist().index(0.4)
    assert sweep.micro[at] == pytest.approx(2 * 4 / (6 + 4))
    assert similarity_sweep(measured(None), BANK) is None


def test_the_best_sentence_of_a_label_counts() -> None:
    matches: list[list[tuple[str | None, float]]] = [[("a", 0.2), ("b", 0.9), ("a", 0.7), (None, 0.95)], []]
    rows = MeasuredRows(["x", "y"], np.zeros((2, 3)), np.zeros((2, 3)), np.zeros((2, 3)), ["", ""], matches)
    none = -np.inf
    assert written_similarities(rows, BANK).tolist() == [[0.7, 0.9, none], [none, none, none]]
    assert written_labels(rows, BANK).tolist() == [[1, 1, 0], [0, 0, 0]]


def test_figures_of_one_label() -> None:
    true, scores = np.array([[1], [1], [0], [0]]), np.array([[0.9], [0.1], [0.8], [0.1]])
    rows = MeasuredRows(list("abcd"), true, (scores >= 0.5).astype(int), scores, None, None)
    sweep = score_sweep(rows)
    assert sweep.micro[sweep.grid.tolist().index(0.5)] == sweep.macro[sweep.grid.tolist().index(0.5)] == 0.5
    assert rare_labels(rows, LabelBank({"a": "First: one"}), {}).macro_f1 == 0.5


def test_label_numbers() -> None:
    numbers = label_numbers(measured(), BANK)
    assert {name: counts.tolist() for name, counts in numbers.items()} == {
        "true": [1, 2, 2],
        "by scores": [0, 4, 1],
        "by descriptions": [0, 4, 1],
    }
    assert list(label_numbers(measured(None), BANK)) == ["true", "by scores"]


def test_length_buckets_hold_every_labelled_row_once() -> None:
    buckets = length_buckets(measured(), BANK, buckets=2)
    # words: a 2, b 4, c 7; rows 2, 6, 11, -, 2
    assert [(b.shortest, b.longest, b.rows) for b in buckets] == [(2, 2, 2), (6, 11, 2)]
    assert buckets[0].f1 == pytest.approx(2 * 2 / (2 + 3))
    assert buckets[1].f1 == pytest.approx(2 * 2 / (4 + 2))


def test_length_buckets_of_one_length_and_of_no_labelled_row() -> None:
    rows = measured()
    one = MeasuredRows(rows.texts, np.eye(1, 3, dtype=int).repeat(5, 0), rows.chosen, rows.scores, None, None)
    assert [bucket.rows for bucket in length_buckets(one, BANK)] == [5]
    none = MeasuredRows(rows.texts, 0 * rows.true, rows.chosen, rows.scores, None, None)
    assert length_buckets(none, BANK) == []


def test_rare_labels_are_those_of_training() -> None:
    rare = rare_labels(measured(), BANK, {"a": 50, "b": 2, "c": 30})
    assert (rare.names, rare.rows) == (["b"], 2)
    assert rare.macro_f1 == pytest.approx(2 / 3)
    assert rare.macro_f1_on_their_rows == pytest.approx(2 / 3)
    # label c: predicted in row 4 alone, true in row 2 alone
    unseen = rare_labels(measured(), BANK, {"a": 50, "b": 2})
    assert (unseen.names, unseen.macro_f1, unseen.rows) == (["c"], 0.0, 1)


def test_rare_labels_without_a_row() -> None:
    rows = measured()
    empty = MeasuredRows(rows.texts, 0 * rows.true, rows.chosen, rows.scores, None, None)
    assert rare_labels(empty, BANK, {}).macro_f1_on_their_rows is None


def test_reliability_counts_pairs_and_weighs_gaps() -> None:
    found = reliability(measured())
    assert found.pairs.sum() == 15
    assert found.pairs[9] == 3  # 0.9, 1.0 and 0.95
    assert found.mean_score[9] == pytest.approx(0.95)
    assert found.true_share[9] == pytest.approx(2 / 3)
    assert found.error == pytest.approx(expected_calibration_error(np.array(SCORES), np.array(TRUE)))
    perfect = MeasuredRows(["x"], np.array([[1, 0]]), np.array([[1, 0]]), np.array([[1.0, 0.0]]), None, None)
    assert reliability(perfect).error == 0


def test_cooccurrence_is_a_share_of_the_rows_of_the_line() -> None:
    shares = cooccurrence(np.array(TRUE))
    assert shares[0, 1] == pytest.approx(1 / 3)
    assert shares[1, 0] == pytest.approx(1 / 2)
    assert shares[2, 1] == 1
    assert np.isnan(np.diag(shares)).all()
    assert np.isnan(cooccurrence(np.array([[1, 0]]))[1]).all()


def test_often_together_keeps_the_banks_order() -> None:
    rows = np.array([[1, 0, 0, 1], [0, 0, 1, 1], [0, 1, 0, 0], [0, 1, 0, 0]])
    assert often_together(rows, rows, 3) == [0, 2, 3]


def test_worst_rows_are_ordered_by_how_certain_the_error_was() -> None:
    wrong = worst_rows(measured(), BANK)
    assert [row.text for row in wrong] == ["text 4", "text 2", "text 1", "text 3"]
    assert (wrong[0].right, wrong[0].missed, wrong[0].false) == (["a"], [], ["c"])
    assert (wrong[1].right, wrong[1].missed) == (["b"], ["c"])
    assert wrong[0].scores == {"a": 1.0, "c": 0.95}
    assert wrong[0].generated == "written 4"
    assert len(worst_rows(measured(), BANK, limit=2)) == 2
