"""Long texts in windows."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from lagamc.artifact import artifact_prompt
from lagamc.classifier import LagamcClassifier
from lagamc.encoders import text_pieces
from lagamc.errors import LagamcError
from tests.artifacts import Trained
from tests.conftest import ROWS

TEXTS = [str(row["text"]) for row in ROWS]
LONG = " ".join(TEXTS * 4)


@pytest.mark.parametrize("scores", ["accurate", "fast"])
def test_windows_of_a_long_text_are_merged_by_maximum(trained: Trained, scores: str) -> None:
    """Against every window read as a batch of its own."""
    classifier = trained.load()
    stride = 20
    rows, _, _ = artifact_prompt(classifier.config).encode_windows(
        classifier.model.tokenizer, [LONG], classifier.config.max_input_length, stride
    )
    assert len(rows) > 3
    parts = []
    pieces = text_pieces(classifier.model.sentence_encoder, [LONG])  # as much as it can read
    assert classifier.model.lexical is not None
    lexical = classifier.model.lexical.score([LONG])
    for row in rows:
        with torch.inference_mode():
            batch = classifier.reader.read([row], pieces)
        parts.append(classifier.scorer.evidence(batch.reading, batch.retrieved, scores, lexical)[0])
    expected = classifier.rules.probabilities(np.max(parts, axis=0)[None], scores)[0]
    short, whole, cut = (
        *classifier.predict([TEXTS[0], LONG], batch_size=2, scores=scores, window_stride=stride),
        classifier.predict([LONG], scores=scores)[0],
    )
    assert list(whole.scores.values()) == pytest.approx(expected.tolist(), abs=2e-5)
    assert whole.scores != cut.scores
    assert (whole.clipped, cut.clipped) == (False, True)
    assert len(whole.generated) >= len(cut.generated)
    assert short.scores == pytest.approx(classifier.predict([TEXTS[0]], scores=scores)[0].scores, abs=2e-5)


def test_what_is_written_to_windows_is_joined(classifier: LagamcClassifier) -> None:
    windows = classifier.predict([LONG], scores="none", window_stride=20, decoding="constrained")[0]
    assert windows.labels == list(dict.fromkeys(m.label for m in windows.matches))
    assert windows.labels[: len(set(windows.labels))] == windows.labels
    assert set(windows.labels) >= set(classifier.predict([LONG], scores="none", decoding="constrained")[0].labels)


def test_stride_of_the_model_is_the_default(trained_t5: Trained) -> None:
    classifier = trained_t5.load()
    expected = classifier.predict([LONG], window_stride=30, generate=False)
    evidence = classifier.evidence([LONG])
    classifier.config = replace(classifier.config, window_stride=30)
    assert classifier.predict([LONG], generate=False) == expected
    assert any((classifier.evidence([LONG])[k] > evidence[k]).any() for k in evidence)
    for wrong in (-1, 2.5):
        with pytest.raises(LagamcError, match="window_stride: expected a number of tokens, or 0"):
            classifier.predict([LONG], window_stride=wrong)  # type: ignore[arg-type]
