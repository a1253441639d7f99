"""`LagamcTrainer` in evaluation and prediction, on tiny models."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import EvalPrediction

from lagamc.modeling import LagamcModel
from lagamc.trainer import build_compute_metrics
from tests.trainers import EXAMPLES, make_trainer


def _written(model: LagamcModel, label_sets: list[list[str]], width: int) -> np.ndarray:
    """Rows as they are generated: the response, filled up with -100."""
    rows = np.full((len(label_sets), width), -100)
    for row, labels in enumerate(label_sets):
        response, _ = model.codec.encode(model.codec.bank.index(labels))
        rows[row, : len(response.token_ids)] = response.token_ids
    return rows


@pytest.mark.parametrize("generator", ["tiny_t5", "tiny_bart"])
def test_compute_metrics_runs_the_matcher(
    generator: str, make_model: Callable[..., LagamcModel], request: pytest.FixtureRequest
) -> None:
    model = make_model(request.getfixturevalue(generator)).train()
    written = _written(model, [["late", "refund"], [], ["praise"], ["broken"]], 80)
    true = np.array([[1, 0, 1, 0], [0, 0, 0, 0], [0, 0, 0, 1], [1, 0, 0, 0]])
    figures = build_compute_metrics(model)(EvalPrediction(predictions=written, label_ids=true))
    # 3 right, 'broken' wrong, 'late' missed once
    assert figures["micro_f1"] == pytest.approx(6 / 8)
    assert figures["subset_accuracy"] == pytest.approx(3 / 4)
    assert figures["hamming_loss"] == pytest.approx(2 / 16)
    per_label = {name: figures[f"f1_{name}"] for name in model.codec.bank}
    assert per_label == pytest.approx({"late": 2 / 3, "broken": 0.0, "refund": 1.0, "praise": 1.0})
    assert figures["macro_f1"] == pytest.approx((2 / 3 + 0 + 1 + 1) / 4)
    assert model.training
    strict = build_compute_metrics(model, minimum_similarity=1.5)(EvalPrediction(predictions=written, label_ids=true))
    assert strict["labels_per_row"] == 0  # nothing is similar enough: it is the matcher that gives labels


def test_response_texts_are_the_descriptions(make_model: Callable[..., LagamcModel], tiny_bart: Path) -> None:
    model = make_model(tiny_bart)
    texts = model.response_texts(_written(model, [["refund"], [], ["late", "refund"]], 60))
    late, refund = model.codec.bank["late"] + ".", model.codec.bank["refund"] + "."
    assert texts == [refund, "", f"{late} {refund}"]


def test_evaluation_generates_and_counts(
    make_model: Callable[..., LagamcModel], tiny_t5: Path, tmp_path: Path
) -> None:
    model = make_model(tiny_t5, lora=True)
    trainer = make_trainer(model, tmp_path, build_compute_metrics(model))
    figures = trainer.evaluate()
    assert 0 <= figures["eval_micro_f1"] <= 1
    assert {f"eval_f1_{name}" for name in model.codec.bank} < set(figures)
    prediction = trainer.predict(trainer.eval_dataset)
    assert prediction.label_ids.tolist() == [[int(name in e.labels) for name in model.codec.bank] for e in EXAMPLES]
    allowed = {*model.vocabulary.token_ids.tolist(), 0, -100}
    assert set(prediction.predictions.flatten().tolist()) <= allowed


def test_predict_keeps_the_order_of_the_rows(
    make_model: Callable[..., LagamcModel], tiny_t5: Path, tmp_path: Path
) -> None:
    """Also where batches are of texts of similar length, as they are by default."""
    model = make_model(tiny_t5)
    trainer = make_trainer(
        model,
        tmp_path,
        build_compute_metrics(model),
        per_device_eval_batch_size=1,
        train_sampling_strategy="group_by_length",
    )
    rows = trainer.eval_dataset.sort("length")
    found = [np.flatnonzero(row).tolist() for row in trainer.predict(rows).label_ids]
    assert found == [sorted(row["truth"]) for row in rows]
    assert trainer.args.train_sampling_strategy == "group_by_length"


def test_no_row_is_dropped_in_evaluation(
    make_model: Callable[..., LagamcModel], tiny_t5: Path, tmp_path: Path
) -> None:
    model = make_model(tiny_t5)
    batch = len(EXAMPLES) - 1
    trainer = make_trainer(
        model,
        tmp_path,
        build_compute_metrics(model),
        per_device_train_batch_size=batch,
        per_device_eval_batch_size=batch,
        dataloader_drop_last=True,
    )
    assert len(trainer.predict(trainer.eval_dataset).label_ids) == len(EXAMPLES)
    assert [len(loader) for loader in (trainer.get_eval_dataloader(), trainer.get_train_dataloader())] == [2, 1]


@pytest.mark.parametrize("form", ["response", "contrastive", "none"])
def test_the_bank_is_encoded_once_an_evaluation(
    form: str, make_model: Callable[..., LagamcModel], tiny_t5: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = make_model(tiny_t5, semantic_form=form, retrieval_weight=1.0).eval()
    trainer = make_trainer(model, tmp_path, build_compute_metrics(model), per_device_eval_batch_size=2)
    with monkeypatch.context() as patch:
        patch.setattr(model.descriptions, "keeping_bank", nullcontext)
        expected = trainer.evaluate()["eval_loss"]
    encoded = []
    single = model.descriptions.single
    monkeypatch.setattr(model.descriptions, "single", lambda labels: encoded.append(len(labels)) or single(labels))
    assert trainer.evaluate()["eval_loss"] == pytest.approx(expected, rel=1e-5)
    assert encoded == [len(model.codec.bank)]
    with torch.no_grad():
        next(model.sentence_encoder.parameters()).mul_(2)
    assert trainer.evaluate()["eval_loss"] != pytest.approx(expected, rel=1e-5)
