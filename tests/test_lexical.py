"""What the words of a text say about its labels."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from transformers import PreTrainedTokenizerBase

from lagamc import lexical
from lagamc.classifier import LagamcClassifier
from lagamc.errors import LagamcError
from lagamc.generators import load_tokenizer
from lagamc.lexical import NEVER, LexicalScorer
from tests.artifacts import NO_CHECKPOINTS, Trained, train_quickly
from tests.conftest import ROWS

TEXTS = [str(row["text"]) for row in ROWS] * 3
DRAWN = np.random.default_rng(0)
NAMES = ["a", "b", "c"]
TRUE = (DRAWN.random((len(TEXTS), 3)) < 0.4).astype(int)


@pytest.fixture
def tokenizer(tiny_encoder: Path) -> PreTrainedTokenizerBase:
    return load_tokenizer(tiny_encoder)


def test_it_is_a_regression_over_pieces_and_pairs(tokenizer: PreTrainedTokenizerBase) -> None:
    """Against scikit-learn's own chain, whose features are not hashed."""

    def names(text: str) -> list[str]:
        pieces = tokenizer.tokenize(text)
        return [*pieces, *(f"{a} {b}" for a, b in pairwise(pieces))]

    features = TfidfVectorizer(analyzer=names, sublinear_tf=True)
    rows = features.fit_transform(TEXTS)
    new = ["the lamp came late again", "thanks for a new one"]
    found = LexicalScorer.fit(tokenizer, TEXTS, TRUE, NAMES).score([*TEXTS, *new])
    for label in range(3):
        model = LogisticRegression(C=10.0, solver="liblinear").fit(rows, TRUE[:, label])
        expected = model.decision_function(features.transform([*TEXTS, *new]))
        assert found[: len(TEXTS), label] == pytest.approx(expected[: len(TEXTS)], abs=0.02)
        # pieces that no training text has make a text longer here, and are not there for scikit-learn
        assert np.sign(found[-2:, label] - found[-1, label]).tolist() == pytest.approx(
            np.sign(expected[-2:] - expected[-1]).tolist()
        )


def test_labels_of_no_text_and_of_all(tokenizer: PreTrainedTokenizerBase) -> None:
    true = np.stack([np.zeros(len(TEXTS)), np.ones(len(TEXTS)), TRUE[:, 0]], axis=1).astype(int)
    found = LexicalScorer.fit(tokenizer, TEXTS, true, NAMES).score(TEXTS)
    rows = len(TEXTS)
    assert found[:, 0] == pytest.approx(-np.log(2 * rows + 1))
    assert found[:, 1] == pytest.approx(np.log(2 * rows + 1))


def test_there_may_be_no_text_to_score_and_one_without_pieces(tokenizer: PreTrainedTokenizerBase) -> None:
    scorer = LexicalScorer.fit(tokenizer, TEXTS, TRUE, NAMES)
    assert scorer.score([]).shape == (0, 3)
    assert scorer.score([" "]) == pytest.approx(scorer.offsets[None])


def test_many_labels_have_fewer_features(tokenizer: PreTrainedTokenizerBase, monkeypatch: pytest.MonkeyPatch) -> None:
    assert LexicalScorer.fit(tokenizer, TEXTS, TRUE, NAMES).weights.shape == (2**16, 3)
    monkeypatch.setattr(lexical, "WEIGHTS", 1000)
    assert LexicalScorer.fit(tokenizer, TEXTS, TRUE, NAMES).weights.shape == (256, 3)


def test_with_very_many_labels_a_sample_of_the_rows_does(
    tokenizer: PreTrainedTokenizerBase, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts, true = TEXTS * 40, np.zeros((len(TEXTS) * 40, 2), int)
    true[::40] = 1
    whole = LexicalScorer.fit(tokenizer, texts, true, NAMES[:2]).score(TEXTS)
    monkeypatch.setattr(lexical, "PRODUCTS", 1)
    found = LexicalScorer.fit(tokenizer, texts, true, NAMES[:2]).score(TEXTS)
    assert not np.array_equal(found, whole)
    np.testing.assert_array_equal(found, LexicalScorer.fit(tokenizer, texts, true, NAMES[:2]).score(TEXTS))
    np.testing.assert_allclose(found.mean(), whole.mean(), atol=0.5)  # rare as in all rows


def test_another_bank_keeps_what_was_learned(tokenizer: PreTrainedTokenizerBase) -> None:
    scorer = LexicalScorer.fit(tokenizer, TEXTS, TRUE, NAMES)
    other = scorer.of_labels(["c", "new", "a"]).score(TEXTS)
    np.testing.assert_allclose(other[:, [0, 2]], scorer.score(TEXTS)[:, [2, 0]], rtol=1e-6)
    assert other[:, 1] == pytest.approx(NEVER)


def test_a_file_keeps_it_and_a_damaged_one_is_refused(tokenizer: PreTrainedTokenizerBase, tmp_path: Path) -> None:
    scorer, path = LexicalScorer.fit(tokenizer, TEXTS, TRUE, NAMES), tmp_path / "lexical.safetensors"
    scorer.save(path)
    assert np.array_equal(LexicalScorer.load(path, tokenizer).score(TEXTS), scorer.score(TEXTS))
    for wrong in ((scorer.offsets, NAMES[:2]), (np.full(3, np.nan), NAMES)):
        LexicalScorer(tokenizer, scorer.idf, scorer.weights, *wrong).save(path)
        with pytest.raises(LagamcError, match=r"shape \(65536, 3\) are not finite or not those of .* \['a', "):
            LexicalScorer.load(path, tokenizer)
    for idf, weights in (  # empty, of too many dimensions, infinite, beyond half precision
        (np.zeros(0, np.float32), np.zeros((0, 3))),
        (scorer.idf.reshape(256, 256), scorer.weights.reshape(256, 256, 3)),
        (scorer.idf, np.full_like(scorer.weights, np.inf)),
        (scorer.idf, np.full_like(scorer.weights, 1e5)),
    ):
        parts = {"idf": idf, "weights": weights, "offsets": scorer.offsets}
        save_file(parts, path, {"labels": json.dumps(NAMES)})
        with pytest.raises(LagamcError, match="not finite or not those"):
            LexicalScorer.load(path, tokenizer)
    path.write_bytes(path.read_bytes()[:40])
    with pytest.raises(LagamcError, match="cannot be read"):
        LexicalScorer.load(path, tokenizer)


# as a part of a model


def test_it_is_a_source_of_both_kinds_of_scores(trained_t5: Trained) -> None:
    classifier = trained_t5.load()
    texts = [*TEXTS[:6], "nothing of note " * 100 + "refund"]  # further than the model reads
    assert classifier.model.lexical is not None
    expected, evidence = classifier.model.lexical.score(texts), classifier.evidence(texts)
    for scores in ("accurate", "fast"):
        np.testing.assert_allclose(evidence[scores][..., -1], expected, rtol=1e-6)
        assert classifier.scorer.sources(scores) == evidence[scores].shape[-1]
    assert not np.array_equal(expected[-1], classifier.model.lexical.score(["nothing of note " * 100])[0])


def test_other_labels_keep_their_words(trained_t5: Trained, tmp_path: Path) -> None:
    classifier = trained_t5.load()
    first, *_ = classifier.bank.names
    wider = classifier.with_labels({"angry": "Angry words: the customer is not happy with the shop"}, remove=[first])
    wider.save_pretrained(tmp_path)
    again = LagamcClassifier.from_pretrained(tmp_path, "cpu")
    assert classifier.model.lexical is not None
    before = classifier.model.lexical.score(TEXTS)
    for one in (wider, again):
        assert one.model.lexical is not None
        found = one.model.lexical.score(TEXTS)
        np.testing.assert_allclose(found[:, :-1], before[:, 1:], rtol=1e-6)
        assert found[:, -1] == pytest.approx(NEVER)


def test_a_model_without_it(
    tiny_t5: Path, tiny_encoder: Path, session_data: Path, trained_t5: Trained, tmp_path: Path
) -> None:
    settings = ["--lexical", "false", "--max_steps", "2", *NO_CHECKPOINTS]
    folder = trained_t5.copy_to(tmp_path / "run")  # what an earlier run left there goes
    train_quickly(tiny_t5, tiny_encoder, session_data, folder, *settings)
    assert not (folder / "lexical.safetensors").exists()
    classifier = LagamcClassifier.from_pretrained(folder, "cpu")
    assert classifier.model.lexical is None
    assert classifier.evidence(TEXTS[:2])["fast"].shape[-1] == 2
    assert trained_t5.load().evidence(TEXTS[:2])["fast"].shape[-1] == 3


def test_texts_without_a_word_piece_tell_how_frequent_labels_are(tokenizer: PreTrainedTokenizerBase) -> None:
    scorer = LexicalScorer.fit(
        tokenizer, ["\u200b"] * 4, np.array([[1, 0], [1, 0], [1, 0], [0, 0]]), ["often", "never"]
    )
    often, never = scorer.score(["anything"])[0]
    assert often > 0 > never


def test_that_of_another_model_is_refused(trained_t5: Trained, tmp_path: Path) -> None:
    folder = trained_t5.copy_to(tmp_path / "model")
    other = LagamcClassifier.from_pretrained(folder, "cpu").model.lexical
    assert other is not None
    other.names[0] = "some other label"
    other.save(folder / "lexical.safetensors")
    with pytest.raises(LagamcError, match=r"lexical\.safetensors: knows no words of 'late'"):
        LagamcClassifier.from_pretrained(folder, "cpu")


def test_a_model_that_lost_it_is_incomplete(trained_t5: Trained, tmp_path: Path) -> None:
    folder = trained_t5.copy_to(tmp_path / "model")
    (folder / "lexical.safetensors").unlink()
    with pytest.raises(LagamcError, match=r"missing: lexical\.safetensors"):
        LagamcClassifier.from_pretrained(folder, "cpu")
