"""Log-odds to probabilities."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy.special import expit, logit

from lagamc.artifact import ArtifactConfig
from lagamc.calibration import Calibration, expected_calibration_error, familiarity, fit_calibration
from lagamc.decisions import DecisionRules
from lagamc.scoring import SCORES
from lagamc.unseen import NEARNESS, UNSEEN

RNG = np.random.default_rng(3)
TRUTH = RNG.normal(-1.0, 2.0, size=(600, 6))  # true log-odds
LABELS = (RNG.random(TRUTH.shape) < expit(TRUTH)).astype(int)


def test_overconfident_sources_are_brought_to_frequencies() -> None:
    evidence = np.stack([3 * TRUTH + 1, 2 * TRUTH - 2], axis=-1)
    before, after = Calibration().apply(evidence), fit_calibration(evidence, LABELS).apply(evidence)
    assert before == pytest.approx((expit(evidence[..., 0]) + expit(evidence[..., 1])) / 2)
    assert expected_calibration_error(before, LABELS) > 0.05
    assert expected_calibration_error(after, LABELS) < 0.02
    assert np.abs(after - expit(TRUTH)).mean() < 0.02


def test_two_weak_sources_give_one_strong() -> None:
    noise = RNG.normal(size=(2, *TRUTH.shape)) * 2
    evidence = np.stack([TRUTH + noise[0], TRUTH + noise[1]], axis=-1)
    calibration = fit_calibration(evidence, LABELS)
    assert all(weight > 0.1 for weight in calibration.weights)
    alone = [fit_calibration(evidence[..., [i]], LABELS).apply(evidence[..., [i]]) for i in (0, 1)]
    joined = calibration.apply(evidence)

    def log_loss(values: np.ndarray) -> float:
        return float(-np.log(np.where(LABELS == 1, values, 1 - values)).mean())

    assert log_loss(joined) < min(log_loss(values) for values in alone) - 0.01


def test_a_source_that_counts_against_its_label_is_left_out() -> None:
    calibration = fit_calibration(np.stack([TRUTH, -TRUTH + RNG.normal(size=TRUTH.shape)], axis=-1), LABELS)
    assert calibration.weights[1] == 0.0
    assert calibration.weights[0] == pytest.approx(1.0, abs=0.15)
    assert fit_calibration(-TRUTH[..., None], LABELS) == Calibration()


@pytest.mark.parametrize("labels", [np.zeros_like(LABELS), np.ones_like(LABELS)])
def test_nothing_is_fitted_to_rows_that_tell_nothing(labels: np.ndarray) -> None:
    assert fit_calibration(TRUTH[..., None], labels) == Calibration()
    few = np.zeros_like(LABELS)
    few[:5, 0] = 1
    assert fit_calibration(TRUTH[..., None], few) == Calibration()


def test_each_label_gets_an_offset_that_rows_give_reason_for() -> None:
    names = list("abcdef")
    shifted = TRUTH[..., None] + np.array([1, -1, 0, 0, 0, 0.5])[:, None]
    common, own = fit_calibration(shifted, LABELS), fit_calibration(shifted, LABELS, names)
    assert own.apply(shifted) == pytest.approx(expit(shifted @ own.weights + own.bias))

    def error(values: np.ndarray) -> np.ndarray:
        return np.abs(values - expit(TRUTH)).mean(axis=0)

    assert (error(own.apply(shifted, names)) < error(common.apply(shifted)))[[0, 1, 5]].all()
    assert own.offsets["a"] < -0.4 < 0.4 < own.offsets["b"]
    assert own.apply(shifted[:, ::-1], names[::-1]) == pytest.approx(own.apply(shifted, names)[:, ::-1])
    few = fit_calibration(shifted[:40], LABELS[:40], names)
    assert abs(few.offsets["a"]) < abs(own.offsets["a"]) / 2


def test_a_label_with_another_wording_keeps_no_offset() -> None:
    calibration = {"fast": Calibration([1.0], 0.0, {"old": 2.0, "reworded": 2.0}).to_dict()}
    config = ArtifactConfig(prompt={}, max_input_length=8, max_response_length=8, calibration=calibration)
    evidence = np.zeros((1, 3, 1))
    for untrained, expected in (([], [2.0, 2.0, 0.0]), (["reworded", "new"], [2.0, 0.0, 0.0])):
        rules = DecisionRules(replace(config, untrained=untrained), ["old", "reworded", "new"], True)
        assert rules.probabilities(evidence, "fast")[0] == pytest.approx(expit(expected))
    assert rules.to_dict()["calibration"]["fast"]["offsets"] == {"old": 2.0}


def test_a_label_without_a_training_row_is_as_rare_whatever_stands_beside_it() -> None:
    counts = {"a": 3, "b": 5, "none": 0}
    config = ArtifactConfig(
        prompt={}, max_input_length=8, max_response_length=8, label_counts=counts, untrained=["none", "new"]
    )
    for names in (["a", "b", "none", "new"], ["b", "none", "new"], ["none", "new"]):
        assert DecisionRules(config, names, True).rarity == pytest.approx([-np.log(1 + 4), 0])
    assert DecisionRules(replace(config, label_counts={"none": 0}), ["none"], True).rarity.tolist() == [0]


def test_familiarity_by_hand() -> None:
    found = familiarity({"most": 15, "some": 3, "none": 0, "gone": 1}, ["none", "most", "new", "some"])
    assert found == pytest.approx([0, 1, 0, 0.5])  # log 16 is twice log 4
    assert familiarity({}, ["any"]) is None
    assert familiarity({"none": 0}, ["none"]) is None


def test_scarce_labels_lean_on_the_source_that_tells_them() -> None:
    """One source tells the labels of many rows, the other those of few, which are given too seldom as well."""
    familiar = np.array([1.0, 1.0, 1.0, 0.0, 0.0, 0.25])
    noise = RNG.normal(size=(2, *TRUTH.shape))
    trained = familiar * TRUTH + noise[0]
    near = (1 - familiar) * (TRUTH + 2) + noise[1]
    evidence = np.stack([trained, near], axis=-1)
    same, apart = fit_calibration(evidence, LABELS), fit_calibration(evidence, LABELS, None, familiar)
    assert apart.weights[0] > 2 * apart.scarce_weights[0]
    assert apart.scarce_weights[1] > 2 * apart.weights[1]
    assert min(apart.weights + apart.scarce_weights) >= 0
    by_hand = [
        expit(evidence[:, 0] @ apart.weights + apart.bias),
        expit(evidence[:, 4] @ apart.scarce_weights + apart.scarce_bias),
        expit(
            evidence[:, 5] @ (np.array(apart.weights) + 3 * np.array(apart.scarce_weights)) / 4
            + (apart.bias + 3 * apart.scarce_bias) / 4
        ),
    ]
    found = apart.apply(evidence, None, familiar)
    assert found[:, [0, 4, 5]] == pytest.approx(np.stack(by_hand, axis=-1))

    def loss(values: np.ndarray) -> float:
        return float(-np.log(np.where(LABELS, values, 1 - values)).mean())

    assert loss(found) < loss(same.apply(evidence)) - 0.02
    # labels that are all alike in this have nothing to tell two ends by
    alike = fit_calibration(evidence, LABELS, None, np.ones(6))
    assert alike.scarce_weights == pytest.approx(alike.weights, abs=0.01)
    few = fit_calibration(evidence[:20], LABELS[:20], None, familiar)
    assert abs(few.scarce_bias - few.bias) < abs(apart.scarce_bias - apart.bias) / 2


def test_only_a_source_without_any_weight_is_dropped() -> None:
    for weights, scarce, expected in (
        ([0.5, 0.0], [0.5, 0.0], ([0.5], [0.5])),
        ([0.5, 0.0], [0.5, 0.1], ([0.5, 0.0], [0.5, 0.1])),
        ([0.5, 0.1], [0.5, 0.0], ([0.5, 0.1], [0.5, 0.0])),
        ([0.5, 0.0], [], ([0.5], [])),
        ([], [], ([], [])),
    ):
        calibration = Calibration(weights, scarce_weights=scarce)
        calibration.drop_last_if_unused()
        assert (calibration.weights, calibration.scarce_weights) == expected


def test_rules_know_the_labels_by_their_training_rows() -> None:
    calibration = {"fast": Calibration([2.0], 0.0, scarce_weights=[0.0], scarce_bias=-1.0).to_dict()}
    config = ArtifactConfig(prompt={}, max_input_length=8, max_response_length=8, calibration=calibration)
    evidence = np.ones((1, 2, 1))
    rules = DecisionRules(replace(config, label_counts={"rare": 0, "often": 7}), ["rare", "often"], True)
    assert rules.probabilities(evidence, "fast")[0] == pytest.approx(expit([-1.0, 2.0]))
    unknown = DecisionRules(config, ["rare", "often"], True)  # a model without counts
    assert unknown.probabilities(evidence, "fast")[0] == pytest.approx(expit([2.0, 2.0]))
    sources = dict.fromkeys((*SCORES, NEARNESS, UNSEEN), TRUTH[:, :2, None])
    for known, ends in ((rules, 1), (unknown, 0)):
        known.tune(sources, LABELS[:, :2], "micro_f1")
        assert bool(known.calibration["fast"].scarce_weights) == ends


def test_calibrations_survive_their_dictionary() -> None:
    calibration = Calibration([0.5, 1.25], -0.75, {"a": 0.5}, [0.25, 1.5], -2.0)
    assert sorted(calibration.numbers()) == [-2.0, -0.75, 0.25, 0.5, 0.5, 1.25, 1.5]
    assert Calibration(**calibration.to_dict()) == calibration


def test_error_by_hand() -> None:
    probabilities = np.array([[0.9, 0.92], [0.1, 0.06]])
    true = np.array([[1, 0], [0, 0]])
    # 0.9 and 0.92 fall into bins of their own, and so do 0.1 and 0.06
    expected = (abs(0.9 - 1) + abs(0.92) + abs(0.1) + abs(0.06)) / 4
    assert expected_calibration_error(probabilities, true, bins=12) == pytest.approx(expected)
    assert expected_calibration_error(np.array([[0.0, 1.0]]), np.array([[0, 1]])) == 0.0
    assert expected_calibration_error(expit(logit(np.full((4, 1), 0.75))), np.array([[1], [1], [1], [0]])) == 0.0
