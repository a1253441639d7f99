"""A `lagamc_config.json` that was changed by hand is refused, by what is wrong in it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from lagamc.classifier import LagamcClassifier
from lagamc.errors import LagamcError
from tests.artifacts import Trained, edit_json


def break_json(path: Path) -> None:
    path.write_text("{", encoding="utf-8")


@pytest.mark.parametrize(
    ("spoil", "named"),
    [
        (lambda path: edit_json(path, format_version=2), "format_version is 2.*newer lagamc"),
        (lambda path: edit_json(path, format_version=None), "format_version is None"),
        (lambda path: edit_json(path, wrong_key=1), "wrong_key"),
        (lambda path: edit_json(path, thresholds={"wrong": 1}), "wrong"),
        (lambda path: edit_json(path, lambda_state={}), "lambda_state"),
        (lambda path: edit_json(path, lambda_state={"other": [1.0]}), "lambda_state"),
        (lambda path: path.write_text("[]", encoding="utf-8"), "format_version is None"),
        (
            lambda path: edit_json(path, loss={"retrieval_readers": "x"}),
            "retrieval_readers: expected one of .*found 'x'",
        ),
        (
            lambda path: edit_json(path, loss={"retrieval_pooling": "x"}),
            "retrieval_pooling: expected one of .*found 'x'",
        ),
        (lambda path: edit_json(path, window_stride=-3), "window_stride: expected a whole number, found -3"),
        (lambda path: edit_json(path, label_counts={"late": -1}), "label_counts: expected numbers of training rows"),
        (lambda path: edit_json(path, untrained="late"), r"untrained: expected list\[str\], found 'late'"),
        (lambda path: edit_json(path, label_counts={"late": None}), "label_counts: expected"),
        (lambda path: edit_json(path, label_counts={"late": 10**30}), "label_counts: expected"),
        (lambda path: edit_json(path, figures={"evaluation": []}), r"'evaluation', found \[\]"),
        (lambda path: edit_json(path, prompt={"instruction": None}), "prompt: instruction: expected str, found None"),
        (lambda path: edit_json(path, thresholds={"overall": float("nan")}), r"from 0 to 1, found \[nan\]"),
        (lambda path: edit_json(path, calibration={"fast": {"bias": 10**400}}), "calibration: bias: expected float"),
        (
            lambda path: edit_json(path, calibration={"accurate": {"weights": [1.0] * 7}}),
            "expected 4 weights of accurate scores, found 7 and 0",
        ),
        (
            lambda path: edit_json(path, tuned={}, calibration={"fast": {"weights": [1.0] * 4}}),
            "expected 3 weights of fast scores, found 4 and 0",
        ),
        (break_json, "cannot be read"),
    ],
)
def test_bad_configuration_is_refused(
    trained_t5: Trained, tmp_path: Path, spoil: Callable[[Path], None], named: str
) -> None:
    folder = trained_t5.copy_to(tmp_path / "model")
    spoil(folder / "lagamc_config.json")
    with pytest.raises(LagamcError, match=f"(?s)lagamc_config.json.*{named}"):
        LagamcClassifier.from_pretrained(folder, "cpu")
