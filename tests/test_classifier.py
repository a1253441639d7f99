from __future__ import annotations

import json
import math
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from lagamc.artifact import CONFIG_FILE
from lagamc.classifier import LagamcClassifier
from lagamc.data import Columns, read_examples
from lagamc.errors import LagamcError
from lagamc.evaluation import evaluate
from lagamc.predictions import Prediction
from tests.artifacts import Trained
from tests.conftest import DESCRIPTIONS, ROWS

TEXTS = [str(row["text"]) for row in ROWS]
MIXED = [*TEXTS, "Late.", " ".join(["Where is my parcel?"] * 40), "w v u t"]


def assert_same(first: list[Prediction], second: list[Prediction]) -> None:
    """Equal predictions; batches of other shapes may differ in the last bits of a score."""
    assert [p.labels for p in first] == [p.labels for p in second]
    assert [p.generated for p in first] == [p.generated for p in second]
    assert [p.clipped for p in first] == [p.clipped for p in second]
    for one, other in zip(first, second, strict=True):
        assert one.scores == pytest.approx(other.scores, abs=2e-6)


def test_batch_size_does_not_matter(trained: Trained) -> None:
    classifier = trained.load()
    assert_same(classifier.predict(MIXED, batch_size=1), classifier.predict(MIXED, batch_size=64))


def test_order_of_the_texts_is_kept(classifier: LagamcClassifier) -> None:
    together = classifier.predict(MIXED, batch_size=3)
    assert_same(together, list(reversed(classifier.predict(MIXED[::-1], batch_size=4))))
    assert together[3].scores == pytest.approx(classifier.predict([MIXED[3]])[0].scores, abs=2e-6)
    assert len({tuple(p.scores.values()) for p in together}) == len(MIXED), "texts have the same scores"


def test_only_the_long_text_is_clipped(classifier: LagamcClassifier) -> None:
    clipped = [text for text, p in zip(MIXED, classifier.predict(MIXED, generate=False), strict=True) if p.clipped]
    assert clipped == [MIXED[len(TEXTS) + 1]]


def test_labels_are_those_at_their_threshold_most_probable_first(classifier: LagamcClassifier) -> None:
    predictions = classifier.predict(MIXED)
    per_label = dict(
        zip(classifier.bank.names, classifier.rules.thresholds.values(classifier.bank.names), strict=True)
    )
    for p in predictions:
        assert list(p.scores) == classifier.bank.names
        assert all(0.0 <= value <= 1.0 for value in p.scores.values())
        assert set(p.labels) == {name for name, value in p.scores.items() if value >= per_label[name]}
        assert p.labels == sorted(p.labels, key=lambda name: -p.scores[name])
    assert {len(p.labels) for p in predictions} - {0, len(DESCRIPTIONS)}, "thresholds decide nothing"


def test_decided_by_the_written_descriptions(trained_whole: Trained) -> None:
    written = trained_whole.load().predict(MIXED, decide_by="generated")
    assert any(p.labels for p in written)
    for p in written:
        assert p.labels == list(dict.fromkeys(match.label for match in p.matches))
        assert p.scores == {}


def test_without_generation_scores_are_the_same(classifier: LagamcClassifier) -> None:
    full, short = classifier.predict(TEXTS), classifier.predict(TEXTS, generate=False)
    assert [p.scores for p in full] == [p.scores for p in short]
    assert all(p.generated == "" and p.matches == [] for p in short)
    expected = [[p.scores[name] for name in DESCRIPTIONS] for p in full]
    np.testing.assert_array_equal(classifier.scores(TEXTS), expected)


def test_no_texts_give_no_predictions(classifier: LagamcClassifier) -> None:
    assert classifier.predict([]) == []
    assert classifier.scores([]).shape == (0, len(DESCRIPTIONS))


@pytest.mark.parametrize(
    ("texts", "settings", "message"),
    [
        ("one string", {}, "expected a list of texts"),
        (["fine", " \n"], {}, "text 1 is empty"),
        (["fine", "fine", None], {}, "text 2 is empty or no valid string"),
        (["fine"], {"decide_by": "coin"}, "decide_by.*'coin'"),
        (["fine"], {"progress": 1}, "progress: expected the title of a bar, a function or None, found 1"),
        (["fine"], {"batch_size": True}, "batch_size: expected a number of at least 1, found True"),
        (["fine"], {"threshold": True}, "threshold: expected a probability from 0 to 1, found True"),
    ],
)
def test_bad_arguments(classifier: LagamcClassifier, texts: list[str], settings: dict, message: str) -> None:
    with pytest.raises(LagamcError, match=message):
        classifier.predict(texts, **settings)


# the reloaded model against the one in memory


@pytest.mark.parametrize("kind", ["t5", "bart"])
def test_reloaded_model_reaches_the_figures_of_its_training(
    request: pytest.FixtureRequest, session_data: Path, kind: str
) -> None:
    trained: Trained = request.getfixturevalue(f"trained_{kind}")
    loaded = trained.load()
    figures = evaluate(loaded, read_examples(session_data / "test.jsonl", loaded.bank, Columns(), "keep"))
    assert {f"test_{name}": value for name, value in figures.items()} == {
        name: value for name, value in trained.figures.items() if name.startswith("test_")
    }


# other labels


def weights(classifier: LagamcClassifier) -> dict[str, np.ndarray]:
    return {name: p.detach().numpy().copy() for name, p in classifier.model.named_parameters()}


NEW = {"angry": "Angry words: the customer is not happy with the shop"}


@pytest.mark.parametrize(
    ("descriptions", "remove", "names"),
    [
        (NEW, [], [*DESCRIPTIONS, "angry"]),
        ({}, ["late"], ["broken", "refund", "praise"]),
        ({"late": "Still waiting: two weeks"}, [], list(DESCRIPTIONS)),
        ({**NEW, "praise": "Lovely shop"}, ["broken", "late"], ["refund", "praise", "angry"]),
    ],
)
def test_with_labels_changes_the_bank_and_nothing_else(
    trained: Trained, tmp_path: Path, descriptions: dict[str, str], remove: list[str], names: list[str]
) -> None:
    classifier = trained.load()
    before, predicted = weights(classifier), classifier.predict(TEXTS)
    changed = classifier.with_labels(descriptions, remove)
    answers = changed.predict(TEXTS)

    assert changed.bank.names == names
    assert {name: changed.bank[name] for name in descriptions} == descriptions
    assert all(list(p.scores) == names for p in answers)
    for one, other in ((before, weights(classifier)), (before, weights(changed))):
        assert one.keys() == other.keys()
        assert all(np.array_equal(values, other[name]) for name, values in one.items())
    assert changed.model.generator is classifier.model.generator
    assert classifier.bank.names == list(DESCRIPTIONS)
    assert classifier.predict(TEXTS) == predicted

    folder = trained.copy_to(tmp_path / "relabelled")
    (folder / "labels.json").write_text(json.dumps(dict(changed.bank)), encoding="utf-8")
    settings = json.loads((folder / "lagamc_config.json").read_text(encoding="utf-8"))
    settings |= {name: getattr(changed.config, name) for name in ("untrained", "decoding", "max_response_length")}
    settings |= changed.rules.to_dict()
    (folder / "lagamc_config.json").write_text(json.dumps(settings), encoding="utf-8")
    assert_same(LagamcClassifier.from_pretrained(folder, "cpu").predict(TEXTS), answers)


def test_after_rewording_only_descriptions_of_the_bank_are_written(classifier: LagamcClassifier) -> None:
    """Left free, the generator would spell the old ones in what is left of their tokens."""
    reworded = {name: f"Case {name}: something else" for name in DESCRIPTIONS}
    changed = classifier.with_labels(reworded)
    for prediction in changed.predict(TEXTS):
        assert all(match.similarity == pytest.approx(1, abs=1e-4) for match in prediction.matches)
        assert sorted(prediction.generated.split(". ")) == sorted(set(prediction.generated.split(". ")))
    assert classifier.with_labels(NEW).config.decoding == classifier.config.decoding == "exact"
    assert classifier.with_labels({}, ["late"]).config.decoding == "constrained"


def test_a_new_label_can_be_given(classifier: LagamcClassifier) -> None:
    """Worded like `late` and in place of it, the new label takes over what `late` had."""
    old = classifier.predict(TEXTS)
    renamed = classifier.with_labels({}, ["late"]).with_labels({"delayed": DESCRIPTIONS["late"]})
    renamed.rules.thresholds.per_label = {}
    renamed.rules.thresholds.overall = 0.0
    assert all("delayed" in p.labels for p in renamed.predict(TEXTS))
    assert [p.scores["late"] for p in old] != [p.scores["praise"] for p in old]


def test_a_new_label_gets_the_threshold_of_unseen_ones(classifier: LagamcClassifier) -> None:
    changed = classifier.with_labels(NEW)
    values = dict(zip(changed.bank.names, changed.rules.thresholds.values(changed.bank.names), strict=True))
    assert values["angry"] == classifier.rules.tuned["unseen"][classifier.rules.thresholds.goal].overall
    assert {name: values[name] for name in DESCRIPTIONS} == classifier.rules.thresholds.per_label


def test_changed_labels_survive_saving(trained_t5: Trained, tmp_path: Path) -> None:
    changed = trained_t5.load().with_labels(NEW, ["refund"])
    changed.save_pretrained(tmp_path / "model")
    loaded = LagamcClassifier.from_pretrained(tmp_path / "model", "cpu")
    assert loaded.bank == changed.bank
    assert loaded.predict(TEXTS) == changed.predict(TEXTS)


def test_with_labels_refuses_what_the_bank_refuses(classifier: LagamcClassifier) -> None:
    with pytest.raises(LagamcError, match="'nothing'"):
        classifier.with_labels({}, ["nothing"])
    with pytest.raises(LagamcError, match="no description"):
        classifier.with_labels({"angry": " "})
    with pytest.raises(LagamcError, match="empty"):
        classifier.with_labels({}, list(DESCRIPTIONS))


@pytest.mark.parametrize("size", [0, -1, 2.5, "3", None])
def test_batch_sizes_that_are_none(classifier: LagamcClassifier, size: Any) -> None:
    with pytest.raises(LagamcError, match="batch_size: expected a number of at least 1"):
        classifier.predict(["A text."], batch_size=size)


def test_damaged_weights_give_no_silent_answer(trained_t5: Trained) -> None:
    broken = trained_t5.load()
    with torch.no_grad():
        next(broken.model.sentence_encoder.parameters()).fill_(float("nan"))
    with pytest.raises(LagamcError, match="scores are not finite"):
        broken.predict(["A text."])


def test_longer_descriptions_may_be_written(trained_bart: Trained) -> None:
    classifier = trained_bart.load()
    classifier.rules.thresholds.overall = 0.123
    longer = classifier.with_labels({"late": "Late parcel: " + "the customer waits " * 12})
    lengths = [max(len(ids) for ids in c.model.codec.token_ids) + 1 for c in (classifier, longer)]
    as_many = classifier.config.max_response_length * lengths[1] / lengths[0]
    assert lengths[1] < longer.config.max_response_length == min(256, math.ceil(as_many))  # positions of the model
    assert longer.rules.thresholds.overall == 0.123
    with pytest.raises(LagamcError, match="a response: the generator knows 256 positions"):
        classifier.with_labels({"late": "Late parcel: " + "the customer waits " * 100})
    only = classifier.with_labels({"new": "Newness: it is new."}, remove=list(classifier.bank))
    assert only.bank.names == ["new"]
    with pytest.raises(LagamcError, match="'gone' is no label of the bank"):
        classifier.with_labels({}, remove=["gone"])
    with pytest.raises(LagamcError, match=r"\['late'\] is no label of the bank"):
        classifier.with_labels({}, remove=[["late"]])  # type: ignore[list-item]
    with pytest.raises(LagamcError, match="expected a list of labels to remove, found 'late'"):
        classifier.with_labels({}, remove="late")
    assert "late" not in classifier.with_labels({}, remove=(name for name in ["late"])).bank


@pytest.mark.parametrize("device", ["foo", "meta"])  # unknown; one that holds no numbers
def test_a_device_that_cannot_be_used(device: str, trained_t5: Trained) -> None:
    with pytest.raises(LagamcError, match=f"device: '{device}' cannot be used here"):
        LagamcClassifier.from_pretrained(trained_t5.folder, device)


# goals, thresholds, kinds of scores


def test_both_kinds_of_scores_were_tuned(trained: Trained) -> None:
    classifier = trained.load()
    assert set(classifier.rules.tuned) == {"accurate", "fast", "unseen"}
    for scores in ("accurate", "fast"):
        found = classifier.predict(MIXED, scores=scores, goal="macro_f1")
        limits = classifier.rules.tuned[scores]["macro_f1"].values(classifier.bank.names)
        for p in found:
            expected = {
                n for n, limit in zip(classifier.bank.names, limits, strict=True) if p.scores[n] >= limit - 1e-6
            }
            assert set(p.labels) <= expected
    default = classifier.predict(MIXED)
    assert default == classifier.predict(MIXED, scores=classifier.rules.scores)


def test_no_scores_mean_the_written_descriptions(classifier: LagamcClassifier) -> None:
    assert classifier.predict(MIXED, scores="none") == classifier.predict(MIXED, decide_by="generated")


def test_a_threshold_and_a_number_of_labels(classifier: LagamcClassifier) -> None:
    names = classifier.bank.names
    assert all(sorted(p.labels) == sorted(names) for p in classifier.predict(TEXTS, threshold=0.0))
    two = classifier.predict(TEXTS, top_k=2)
    for p in two:
        assert p.labels == sorted(names, key=lambda name: -p.scores[name])[:2]
    limited = classifier.predict(TEXTS, top_k=1, threshold=0.5)
    for p, everything in zip(limited, classifier.predict(TEXTS, threshold=0.5), strict=True):
        assert p.labels == everything.labels[:1]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"scores": "slow"}, "scores: expected one of"),
        ({"goal": "accuracy"}, "goal: expected micro_f1"),
        ({"goal": "precision>=0.9"}, "no thresholds of .* scores were tuned for 'precision>=0.9', found .*macro_f1"),
        ({"threshold": 1.5}, "threshold: expected a probability"),
        ({"threshold": 0.5, "goal": "micro_f1"}, "takes the place of tuned ones"),
        ({"top_k": 0}, "top_k: expected a number of at least 1"),
        ({"scores": "none", "threshold": 0.5}, "threshold: picks labels by their scores, which are not asked for"),
        ({"decide_by": "generated", "top_k": 1}, "top_k: picks labels by their scores"),
        ({"decoding": "generate", "beams": 0}, "beams: expected a number of at least 1"),
    ],
)
def test_bad_choices_of_labels(classifier: LagamcClassifier, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(LagamcError, match=message):
        classifier.predict(["A text."], **settings)


def test_tuned_again_for_a_precision_and_saved(trained_bart: Trained, tmp_path: Path) -> None:
    classifier = trained_bart.load()
    labels = [row["labels"] for row in ROWS]
    figures = classifier.tune(TEXTS, labels, "precision>=0.6")
    assert set(figures) == {"accurate", "fast"}
    assert all(0 <= figures[s][key] <= 1 for s in figures for key in ("ece_before", "ece_after", "goal"))
    assert classifier.rules.thresholds.goal == "precision>=0.6"
    assert classifier.rules.scores == max(("fast", "accurate"), key=lambda s: figures[s]["goal"])
    classifier.save_pretrained(tmp_path / "model")
    loaded = LagamcClassifier.from_pretrained(tmp_path / "model", "cpu")
    assert loaded.predict(TEXTS) == classifier.predict(TEXTS)
    assert loaded.predict(TEXTS, goal="precision>=.60") == classifier.predict(TEXTS)


def test_a_precision_that_is_stored_by_another_name(trained_bart: Trained, tmp_path: Path) -> None:
    classifier = trained_bart.load()
    classifier.tune(TEXTS, [row["labels"] for row in ROWS], "precision>=0.6")
    classifier.save_pretrained(tmp_path / "model")
    path = tmp_path / "model" / CONFIG_FILE
    path.write_text(path.read_text(encoding="utf-8").replace("precision>=0.6", "precision>=.60"), encoding="utf-8")
    loaded = LagamcClassifier.from_pretrained(tmp_path / "model", "cpu")
    assert loaded.rules.thresholds.goal == "precision>=0.6"
    assert loaded.predict(TEXTS, goal="precision>=0.6") == classifier.predict(TEXTS)


@pytest.mark.parametrize(
    ("texts", "labels", "message"),
    [
        ([], [], "expected labels for every text, found 0 texts, 0 labels"),
        (TEXTS[:2], [["late"]], "expected labels for every text, found 2 texts, 1 labels"),
        (None, [["late"]], "tune: expected lists of texts and of their labels, found None"),
        (TEXTS[:1], [["gone"]], r"labels \['gone'\] are not in the bank"),
        (TEXTS[:1], ["late"], r"expected a list of labels, found 'late'; write \['late'\]"),
        (TEXTS[:1], [["late"]], "expected texts with 20 labels in all at least, .* found 1 labels on 1 texts"),
    ],
)
def test_what_cannot_be_tuned_leaves_the_model_as_it_is(
    trained_bart: Trained, texts: list[str], labels: list[Any], message: str
) -> None:
    classifier = trained_bart.load()
    classifier.tune(TEXTS * 4, [row["labels"] for row in ROWS] * 4)
    before, background = classifier.current_config(), classifier.model.background
    with pytest.raises(LagamcError, match=message):
        classifier.tune(texts, labels)
    assert classifier.current_config() == before
    assert classifier.model.background is background


@pytest.mark.parametrize("bank", [None, 1, "labels.json"])
def test_what_is_no_bank_is_refused(classifier: LagamcClassifier, bank: Any) -> None:
    with pytest.raises(LagamcError, match="expected label -> description, found"):
        classifier.with_bank(bank)


def test_threads_do_not_disturb_each_other(trained_bart: Trained) -> None:
    """A classifier with other labels shares the generator, whose head a batch changes for a moment."""
    classifier = trained_bart.load()
    both = [classifier, classifier.with_labels(NEW)] * 6
    expected = [one.predict(TEXTS, batch_size=1) for one in both[:2]] * 6
    with ThreadPoolExecutor(4) as pool:
        for found, alone in zip(pool.map(lambda one: one.predict(TEXTS, batch_size=1), both), expected, strict=True):
            assert found == alone


def test_new_labels_are_scored_by_retrieval_alone(trained_bart: Trained) -> None:
    """Two models that differ in what the generator thinks agree on a new label and disagree on the old ones."""
    classifier = trained_bart.load().with_labels(NEW)
    assert classifier.config.untrained == ["angry"]
    fast, accurate = (classifier.predict(TEXTS, scores=s, threshold=0.5) for s in ("fast", "accurate"))
    assert [p.scores["angry"] for p in fast] == [p.scores["angry"] for p in accurate]
    assert [p.scores["late"] for p in fast] != [p.scores["late"] for p in accurate]
    assert classifier.with_labels({}, ["angry"]).config.untrained == []
