"""What can be asked of a classifier."""

from __future__ import annotations

import numpy as np

from lagamc.classifier import LagamcClassifier
from tests.conftest import ROWS

TEXTS = [str(row["text"]) for row in ROWS]


def test_numbers_of_numpy_are_numbers(classifier: LagamcClassifier) -> None:
    settings = {"batch_size": 4, "top_k": 1, "window_stride": 0, "threshold": 0.5}
    asked = {name: np.float32(0.5) if name == "threshold" else np.int64(value) for name, value in settings.items()}
    assert classifier.predict(TEXTS, **asked) == classifier.predict(TEXTS, **settings)
