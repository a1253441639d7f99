"""How near texts are to descriptions."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from scipy.special import expit
from sentence_transformers import SentenceTransformer

from lagamc.calibration import Calibration
from lagamc.classifier import LagamcClassifier
from lagamc.errors import LagamcError
from lagamc.labels import LabelBank
from lagamc.unseen import NEARNESS, UNSEEN, Background
from tests.artifacts import Trained
from tests.conftest import DESCRIPTIONS, ROWS

TEXTS = [str(row["text"]) for row in ROWS]
NEW = {"angry": "Angry words: the customer is not happy with the shop"}


def unit(rows: int, seed: int) -> np.ndarray:
    values = np.random.default_rng(seed).normal(0.3, 1.0, (rows, 6))
    return values / np.linalg.norm(values, axis=1, keepdims=True)


def test_cosines_over_the_same_texts_have_mean_0_and_spread_1() -> None:
    texts, descriptions = unit(200, 0), unit(5, 1)
    found = Background.of(texts).standardise(texts, descriptions)
    np.testing.assert_allclose(found.mean(axis=0), 0, atol=1e-9)
    np.testing.assert_allclose(found.std(axis=0), 1, atol=1e-9)
    cosines = texts @ descriptions.T
    np.testing.assert_allclose(found, (cosines - cosines.mean(0)) / cosines.std(0), atol=1e-9)


def test_a_label_counts_less_beside_one_that_is_far_nearer() -> None:
    background = Background.of(unit(200, 0))
    texts, descriptions = unit(20, 2), unit(5, 1)
    far, near = background.standardise(texts, descriptions), background.score(texts, descriptions)
    assert (near.argmax(axis=1) == far.argmax(axis=1)).all()
    lost = far - near
    np.testing.assert_allclose(lost, np.repeat(lost[:, :1], 5, axis=1))
    assert np.corrcoef(lost[:, 0], far.max(axis=1))[0, 1] == pytest.approx(1)


def test_one_text_and_equal_texts_give_finite_scores() -> None:
    texts = np.repeat(unit(1, 0), 3, axis=0)
    for background in (Background.of(texts), Background.of(texts[:1])):
        assert np.isfinite(background.standardise(unit(4, 1), unit(2, 2))).all()


def test_a_file_keeps_it_and_a_damaged_one_is_refused(tmp_path: Path) -> None:
    background, path = Background.of(unit(50, 0)), tmp_path / "background.safetensors"
    background.save(path)
    texts, descriptions = unit(3, 1), unit(2, 2)
    again = Background.load(path, 6).standardise(texts, descriptions)
    np.testing.assert_allclose(again, background.standardise(texts, descriptions), atol=1e-4)
    with pytest.raises(LagamcError, match="expected finite numbers for 7 dimensions"):
        Background.load(path, 7)
    Background(np.full(6, np.nan), background.covariance).save(path)
    with pytest.raises(LagamcError, match="expected finite numbers"):
        Background.load(path, 6)
    path.write_bytes(path.read_bytes()[:40])
    with pytest.raises(LagamcError, match="cannot be read"):
        Background.load(path, 6)


def tuned(trained_t5: Trained) -> LagamcClassifier:
    """Tuned on rows that are many enough for a calibration."""
    classifier = trained_t5.load()
    classifier.tune(TEXTS * 6, [list(row["labels"]) for row in ROWS] * 6, "micro_f1")
    return classifier


def test_an_added_label_is_scored_by_an_encoder_of_its_own(trained_t5: Trained) -> None:
    classifier = tuned(trained_t5)
    wider = classifier.with_labels(NEW)
    limit = wider.rules.thresholds.per_label["angry"]
    assert limit == classifier.rules.tuned[UNSEEN]["micro_f1"].overall
    predictions = wider.predict(TEXTS)
    encoder = SentenceTransformer(str(trained_t5.folder / "unseen_encoder"), device="cpu").float()
    texts, descriptions, tuned_on = (
        encoder.encode(part, normalize_embeddings=True).astype(float)
        for part in (TEXTS, [f"{text}." for text in wider.bank.descriptions], TEXTS * 6)
    )
    known = Background.of(tuned_on)
    calibration = classifier.rules.calibration[UNSEEN]
    expected = calibration.apply(known.score(texts, descriptions)[..., None])[:, -1]
    assert [p.scores["angry"] for p in predictions] == pytest.approx(expected.tolist(), abs=1e-4)
    for prediction in predictions:
        assert ("angry" in prediction.labels) == (prediction.scores["angry"] >= limit)
    # the others are as they were
    fast = [c.predict(TEXTS, scores="fast") for c in (classifier, wider)]
    for before, after in zip(*fast, strict=True):
        assert {name: after.scores[name] for name in DESCRIPTIONS} == pytest.approx(before.scores, abs=2e-6)


def test_saved_and_read_again_it_scores_the_same(trained_t5: Trained, tmp_path: Path) -> None:
    wider = tuned(trained_t5).with_labels(NEW)
    wider.save_pretrained(tmp_path)
    again = LagamcClassifier.from_pretrained(tmp_path, "cpu")
    for first, second in zip(wider.predict(TEXTS), again.predict(TEXTS), strict=True):
        assert first.scores == pytest.approx(second.scores, abs=1e-4)
        assert first.labels == second.labels
    for name in ("unseen_encoder/background.safetensors", "unseen_encoder/modules.json", "background.safetensors"):
        kept = (tmp_path / name).read_bytes()
        (tmp_path / name).unlink()
        with pytest.raises(LagamcError, match=f"missing: {name}"):
            LagamcClassifier.from_pretrained(tmp_path, "cpu")
        (tmp_path / name).write_bytes(kept)


def test_without_an_encoder_of_its_own_it_is_scored_by_the_sentence_encoder(
    trained_t5: Trained, tmp_path: Path
) -> None:
    classifier = trained_t5.load()
    classifier.model.unseen_encoder = None
    classifier.tune(TEXTS * 6, [list(row["labels"]) for row in ROWS] * 6, "micro_f1")
    wider = classifier.with_labels(NEW)
    wider.save_pretrained(trained_t5.copy_to(tmp_path / "model"))
    assert not (tmp_path / "model" / "unseen_encoder").exists()
    again = LagamcClassifier.from_pretrained(tmp_path / "model", "cpu")
    evidence = again.evidence(TEXTS)
    assert np.array_equal(evidence[UNSEEN], evidence[NEARNESS])
    expected = again.rules.calibration[UNSEEN].apply(evidence[NEARNESS])[:, -1]
    for one in (wider, again):
        assert [p.scores["angry"] for p in one.predict(TEXTS)] == pytest.approx(expected.tolist(), abs=1e-4)


def test_texts_of_added_labels_alone_do_not_cost_the_calibration(trained_t5: Trained) -> None:
    classifier = tuned(trained_t5)
    wider, new = classifier.with_labels(NEW), [[*NEW]] * 30
    before, backgrounds = wider.current_config(), (wider.model.background, wider.model.unseen_background)
    for labels, found in ((new, 0), ([[*DESCRIPTIONS]] * 30, 30 * len(DESCRIPTIONS))):
        with pytest.raises(LagamcError, match=f"added ones not counted, and .* found {found} labels on 30 texts"):
            wider.tune(TEXTS * 5, labels)
    assert (wider.model.background, wider.model.unseen_background) == backgrounds
    assert wider.current_config() == before
    only = classifier.with_bank(LabelBank(NEW))  # nothing is left that it could be fitted to
    only.tune(TEXTS * 5, new)
    for one in (wider, only):
        assert one.rules.calibration["fast"].weights == classifier.rules.calibration["fast"].weights != []


def test_trained_labels_are_judged_by_it_as_well(trained_t5: Trained) -> None:
    """Probabilities join it with the other sources where rows showed that it tells something."""
    classifier = tuned(trained_t5)
    evidence, names = classifier.evidence(TEXTS), classifier.bank.names
    known, retrieved = evidence[NEARNESS], evidence["fast"]
    alone = Calibration([0.5] * retrieved.shape[2], -0.25, {names[0]: 0.5})
    joined = Calibration([*alone.weights, 1.5], alone.bias, alone.offsets)
    for calibration, sources in ((alone, [retrieved]), (joined, [retrieved, known])):
        classifier.rules.calibration["fast"] = calibration
        found = classifier.predict(TEXTS, scores="fast", generate=False)
        expected = calibration.apply(np.concatenate(sources, axis=-1), names)
        assert np.array([[p.scores[name] for name in names] for p in found]) == pytest.approx(expected, abs=2e-6)


def test_a_source_that_tells_nothing_is_not_asked_for(trained_t5: Trained) -> None:
    classifier = trained_t5.load()
    names, rng = classifier.bank.names, np.random.default_rng(0)
    odds = rng.normal(size=(200, len(names), 1))
    true = (rng.random(odds.shape[:2]) < expit(3 * odds[..., 0])).astype(int)
    noise = rng.normal(size=odds.shape)
    for near, weights in ((noise - true[..., None], 1), (noise + true[..., None], 2)):
        classifier.rules.tune({"fast": odds, "accurate": odds, NEARNESS: near, UNSEEN: near}, true, "micro_f1")
        assert len(classifier.rules.calibration["fast"].weights) == weights
        assert classifier.rules.joins_nearness("fast", 1) == (weights == 2)


def test_labels_added_later_take_nothing_from_the_others() -> None:
    rng = np.random.default_rng(1)
    texts, descriptions = rng.normal(size=(20, 6)), rng.normal(size=(4, 6))
    known = Background.of(texts)
    few, all_of_them = known.score(texts, descriptions[:3]), known.score(texts, descriptions, untrained=[3])
    assert all_of_them[:, :3] == pytest.approx(few)
    assert all_of_them[:, 3] == pytest.approx(known.score(texts, descriptions)[:, 3])
