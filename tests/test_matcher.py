"""Generated sentences to labels."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lagamc.encoders import load_sentence_encoder
from lagamc.labels import LabelBank
from lagamc.matcher import LabelMatcher

SENTENCES = {
    "About cats": [1, 0, 0],
    "About dogs": [0, 1, 0],
    "They bark": [0, 0, 1],
    "Cats mostly": [0.8, 0.6, 0],
    "Dogs mostly": [0.5, 0.8, 0.3],
    "Barking": [0.1, 0.2, 0.97],
    "Rather far": [0.5, 0.5, -0.7],
}
BANK = LabelBank({"cat": "About cats.", "dog": "About dogs. They bark"})


class StubEncoder:
    """Looks embeddings up and counts what it was asked for."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    def encode(self, sentences: Sequence[str], normalize_embeddings: bool = False, **_: Any) -> np.ndarray:
        self.asked += sentences
        rows = np.array([SENTENCES[sentence] for sentence in sentences], dtype=np.float32)
        return rows / np.linalg.norm(rows, axis=1, keepdims=True) if normalize_embeddings else rows


def _matcher(minimum_similarity: float | None = None) -> LabelMatcher:
    return LabelMatcher(BANK, StubEncoder(), minimum_similarity)  # type: ignore[arg-type]


def test_every_sentence_goes_to_the_nearest_label() -> None:
    assert _matcher().labels(["Cats mostly.", "Dogs mostly.", "Dogs mostly. Cats mostly.", ""]) == [
        ["cat"],
        ["dog"],
        ["dog", "cat"],
        [],
    ]


def test_every_sentence_of_a_description_is_an_entry_of_its_label() -> None:
    [[match]] = _matcher().match(["Barking."])
    assert (match.sentence, match.label) == ("Barking", "dog")
    assert match.similarity == pytest.approx(0.97 / np.linalg.norm([0.1, 0.2, 0.97]), abs=1e-5)


def test_duplicates_are_merged() -> None:
    response = "About dogs. They bark. Barking. About cats. About dogs."
    assert _matcher().labels([response]) == [["dog", "cat"]]
    assert [match.label for match in _matcher().match([response])[0]] == ["dog", "dog", "dog", "cat", "dog"]


def test_sentences_below_the_minimum_similarity_get_no_label() -> None:
    response = "About cats. Rather far."  # 0.5 of a length of about 1
    assert _matcher().labels([response, "Rather far"]) == [["cat"], ["cat"]]
    matcher = _matcher(0.6)
    assert matcher.labels([response, "Rather far"]) == [["cat"], []]
    far = matcher.match(["Rather far"])[0][0]
    assert far.label is None
    assert far.similarity == pytest.approx(0.5 / np.linalg.norm([0.5, 0.5, -0.7]), abs=1e-5)


def test_a_sentence_is_encoded_once() -> None:
    matcher = _matcher()
    matcher.labels(["Barking. Cats mostly.", "Barking."])
    matcher.labels(["Cats mostly."])
    assert sorted(matcher.encoder.asked[3:]) == ["Barking", "Cats mostly"]  # type: ignore[attr-defined]


def test_descriptions_are_compared_as_the_generator_writes_them() -> None:
    matcher = LabelMatcher(
        LabelBank({"cat": "ABOUT CATS", "dog": "ABOUT DOGS"}),
        StubEncoder(),  # type: ignore[arg-type]
        normalise=str.capitalize,
    )
    assert matcher.encoder.asked == ["About cats", "About dogs"]  # type: ignore[attr-defined]


def test_descriptions_match_themselves_under_a_real_encoder(tiny_encoder: Path, bank: LabelBank) -> None:
    matcher = LabelMatcher(bank, load_sentence_encoder(tiny_encoder))
    assert matcher.labels([text + "." for text in bank.descriptions]) == [[name] for name in bank]
    assert matcher.labels([". ".join(bank.descriptions)]) == [list(bank)]
    assert matcher.match(["The customer is happy."])[0][0].similarity == pytest.approx(1.0, abs=1e-5)


@pytest.mark.parametrize("block_bytes", [1, 4 * 7 * 5, 10**9])
def test_blocks_change_nothing(block_bytes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """One sentence at a time, some at a time, all at once."""
    rng = np.random.default_rng(0)
    matcher = _matcher()
    matcher.embeddings = rng.normal(size=(7, 16)).astype(np.float32)
    matcher.owners = np.array([0, 0, 1, 2, 3, 3, 4])
    sentences = rng.normal(size=(23, 16)).astype(np.float32)
    monkeypatch.setattr("lagamc.matcher.BLOCK_BYTES", block_bytes)
    labels, similarities = matcher.nearest(sentences)
    expected = (sentences.astype(np.float64) @ matcher.embeddings.T.astype(np.float64)).argmax(axis=1)
    assert labels.tolist() == matcher.owners[expected].tolist()
    assert similarities.dtype == np.float32
    assert (np.abs(similarities) <= 1).all()
    assert [a.shape for a in matcher.nearest(sentences[:0])] == [(0,), (0,)]
