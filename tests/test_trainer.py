"""`LagamcTrainer` on tiny models."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Dense
from torch import Tensor
from transformers import EvalPrediction

from lagamc.artifact import ArtifactConfig
from lagamc.data import Example, LagamcCollator, encode_examples
from lagamc.errors import LagamcError
from lagamc.losses import LossBalance
from lagamc.modeling import LagamcModel
from lagamc.prompts import Prompt
from lagamc.trainer import LagamcTrainer, build_compute_metrics, response_texts
from lagamc.training_args import LagamcTrainingArguments

EXAMPLES = [
    Example("0", "Where is my parcel? I have waited for two weeks.", ("late",)),
    Example("1", "The lamp is cracked and I want my money back.", ("broken", "refund")),
    Example("2", "Lovely shop, thank you!", ("praise",)),
    Example("3", "It came late and it was broken, refund please.", ("late", "broken", "refund")),
    Example("4", "Still nothing in the post.", ("late",)),
    Example("5", "Thank you, but it was late.", ("late", "praise")),
    Example("6", "Please refund the lamp.", ("refund",)),
    Example("7", "Cracked on arrival.", ("broken",)),
]


def _trainer(model: LagamcModel, folder: Path, compute_metrics: Any = None, **settings: Any) -> LagamcTrainer:
    data, _ = encode_examples(EXAMPLES, model.tokenizer, Prompt(), model.codec, 64, 128)
    defaults: dict[str, Any] = {
        "output_dir": str(folder),
        "per_device_train_batch_size": 4,
        "per_device_eval_batch_size": 4,
        "max_steps": 2,
        "logging_steps": 1,
        "eval_strategy": "no",
        "save_strategy": "no",
        "load_best_model_at_end": False,
        "train_sampling_strategy": "sequential",
        "warmup_steps": 0,
        "disable_tqdm": True,
        "use_cpu": True,
        "dataloader_pin_memory": False,
    }
    base_model = model.base_generator.name_or_path if isinstance(model.generator, PeftModel) else None
    return LagamcTrainer(
        model=model,
        args=LagamcTrainingArguments(**{**defaults, **settings}),
        artifact_config=ArtifactConfig(Prompt().to_dict(), 64, 12, base_model=base_model),
        data_collator=LagamcCollator(model.tokenizer.pad_token_id, len(model.codec.bank)),
        train_dataset=data,
        eval_dataset=data,
        compute_metrics=compute_metrics,
    )


def _logged(trainer: LagamcTrainer, key: str) -> list[dict[str, float]]:
    return [line for line in trainer.state.log_history if key in line]


def _weights(model: LagamcModel) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in model.state_dict().items()}


# what is logged


def test_components_and_lambda_are_logged(
    make_model: Callable[..., LagamcModel], tiny_t5: Path, tmp_path: Path
) -> None:
    model = make_model(tiny_t5, lora=True, balance=LossBalance("learnable", 0.3), retrieval_weight=0.5)
    trainer = _trainer(model, tmp_path, max_steps=3, lambda_learning_rate=0.05)
    trainer.train()
    lines = _logged(trainer, "loss")
    assert len(lines) == 3
    assert lines[0]["semantic"] > 0
    assert lines[0]["decision_loss"] > 0
    before = 0.3
    for line in lines:  # lambda is logged behind its step, the loss is of before
        supervised = line["cross_entropy"] + 0.5 * line["retrieval"]
        assert line["loss"] == pytest.approx(before * supervised + (1 - before) * line["semantic"], abs=1e-4)
        assert line["retrieval"] > 0
        assert line["lambda"] != pytest.approx(before, abs=1e-4)
        before = line["lambda"]
    assert float(model.balance.value.detach()) == pytest.approx(before, abs=1e-5)


def test_components_are_means_since_the_last_line(
    make_model: Callable[..., LagamcModel], tiny_t5: Path, tmp_path: Path
) -> None:
    def lines(every: int) -> list[dict[str, float]]:
        trainer = _trainer(make_model(tiny_t5, lora=True), tmp_path, max_steps=4, logging_steps=every)
        trainer.train()
        return _logged(trainer, "loss")

    single, double = lines(1), lines(2)
    assert len(double) == 2
    for i, line in enumerate(double):
        for key in ("loss", "cross_entropy", "semantic", "decision_loss"):
            assert line[key] == pytest.approx((single[2 * i][key] + single[2 * i + 1][key]) / 2, abs=1e-4)


def test_evaluation_logs_components_lambda_and_collapse(
    make_model: Callable[..., LagamcModel], tiny_t5: Path, tmp_path: Path
) -> None:
    model = make_model(tiny_t5, lora=True, balance=LossBalance("fixed", 0.7))
    trainer = _trainer(model, tmp_path)
    trainer.evaluate()
    [line] = _logged(trainer, "eval_loss")
    expected = 0.7 * line["eval_cross_entropy"] + 0.3 * line["eval_semantic"]
    assert line["eval_loss"] == pytest.approx(expected, abs=1e-4)
    assert line["eval_lambda"] == pytest.approx(0.7)
    assert line["eval_collapse"] == pytest.approx(model.collapse(), abs=1e-4)
    assert line["eval_decision_loss"] > 0


def test_without_a_semantic_form_the_loss_is_the_cross_entropy(
    make_model: Callable[..., LagamcModel], tiny_t5: Path, tmp_path: Path
) -> None:
    model = make_model(tiny_t5, lora=True, semantic_form="none")
    trainer = _trainer(model, tmp_path, max_steps=1)
    before = _weights(model)
    trainer.train()
    [line] = _logged(trainer, "loss")
    assert line["loss"] == pytest.approx(line["cross_entropy"], abs=1e-5)
    assert line["lambda"] == pytest.approx(0.5)
    after = model.state_dict()
    assert any(not torch.equal(after[n], v) for n, v in before.items() if "lora_" in n)


# the size of the loss


@pytest.mark.parametrize(("form", "retrieval_weight"), [("none", 0.0), ("response", 0.0), ("response", 0.5)])
def test_accumulated_micro_batches_equal_one_batch(
    form: str, retrieval_weight: float, make_model: Callable[..., LagamcModel], tiny_t5: Path, tmp_path: Path
) -> None:
    def run(size: int, steps: int) -> tuple[dict[str, float], dict[str, Tensor]]:
        model = make_model(tiny_t5, lora=True, semantic_form=form, retrieval_weight=retrieval_weight)
        trainer = _trainer(
            model,
            tmp_path,
            max_steps=1,
            per_device_train_batch_size=size,
            gradient_accumulation_steps=steps,
            max_grad_norm=0.0,
        )
        gradients: dict[str, Tensor] = {}
        trainer.create_optimizer()
        assert trainer.optimizer is not None
        trainer.optimizer.register_step_pre_hook(
            lambda *_: gradients.update({n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None})
        )
        trainer.train()
        return _logged(trainer, "loss")[0], gradients

    (whole, gradients), (spread, accumulated) = run(8, 1), run(2, 4)
    for key in ("loss", "cross_entropy", "semantic", "decision_loss"):
        assert spread[key] == pytest.approx(whole[key], abs=1e-5)
    assert set(accumulated) == set(gradients)
    assert gradients
    assert any(gradient.abs().max() > 1e-3 for gradient in gradients.values())
    for name, gradient in gradients.items():
        assert torch.allclose(accumulated[name], gradient, atol=1e-5), name


def test_a_loss_that_is_not_finite_names_its_rows(
    make_model: Callable[..., LagamcModel], tiny_t5: Path, tmp_path: Path
) -> None:
    model = make_model(tiny_t5, lora=True)
    trainer = _trainer(model, tmp_path, per_device_train_batch_size=3, max_steps=3)
    forward = model.forward

    def poisoned(**inputs: Tensor) -> Any:
        output = forward(**inputs)
        if trainer.state.global_step == 1:
            output.cross_entropy = output.cross_entropy * float("nan")
        return output

    model.forward = poisoned  # type: ignore[method-assign]
    with pytest.raises(LagamcError, match=r"not finite \(cross-entropy nan.* at step 1 on rows \[3, 4, 5\]"):
        trainer.train()


def test_the_temperature_follows_the_run(
    make_model: Callable[..., LagamcModel], tiny_t5: Path, tmp_path: Path
) -> None:
    trainer = _trainer(make_model(tiny_t5, temperature=4.0, final_temperature=1.0), tmp_path, max_steps=4)
    trainer.train()
    assert [line["temperature"] for line in _logged(trainer, "loss")] == pytest.approx(
        [4 * 0.25 ** (i / 4) for i in range(4)], abs=1e-5
    )


def test_a_collapse_is_said_at_each_evaluation(
    make_model: Callable[..., LagamcModel],
    tiny_t5: Path,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("lagamc.trainer.COLLAPSE_LIMIT", 0.99)  # a tiny encoder is near the real one from the start
    model = make_model(tiny_t5)
    trainer = _trainer(model, tmp_path)
    trainer.evaluate()
    assert "collapsed" not in caplog.text
    with torch.no_grad():  # all descriptions to one point
        for name, parameter in model.sentence_encoder.named_parameters():
            parameter.fill_(1.0 if name.endswith("LayerNorm.bias") else 0.0)
    trainer.evaluate()
    assert "mean cosine of 1.00" in caplog.text


# learning rates


@pytest.mark.parametrize(("generator", "lora"), [("tiny_t5", False), ("tiny_bart", True)])
def test_learning_rates_by_part(
    generator: str,
    lora: bool,
    make_model: Callable[..., LagamcModel],
    tmp_path: Path,
    request: pytest.FixtureRequest,
) -> None:
    model = make_model(request.getfixturevalue(generator), lora=lora, retrieval_weight=0.5)
    rates = {"learning_rate": 1e-3, "encoder_learning_rate": 2e-3, "sentence_encoder_learning_rate": 3e-3}
    trainer = _trainer(model, tmp_path, **rates, lambda_learning_rate=4e-3, weight_decay=0.1)
    groups = trainer.create_optimizer().param_groups
    found = {id(p): (group["lr"], group["weight_decay"]) for group in groups for p in group["params"]}
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    assert set(found) == {id(p) for p in trained.values()}
    assert sum(len(group["params"]) for group in groups) == len(trained)
    seen = set()
    for name, parameter in trained.items():
        if name.startswith("balance.") or name in ("retrieval.log_scale", "retrieval.offset"):
            expected = (4e-3, 0.0)
        elif name.startswith("sentence_encoder."):
            expected = (3e-3, 0.0 if "LayerNorm" in name or name.endswith("bias") else 0.1)
        else:
            rate = 2e-3 if ".encoder." in name else 1e-3
            expected = (rate, 0.0 if "layer_norm" in name or "bias" in name else 0.1)
        assert found[id(parameter)] == expected, name
        seen.add(expected[0])
    assert seen == {1e-3, 2e-3, 3e-3, 4e-3}


def test_the_generators_encoder_follows_the_generator_unless_told(
    make_model: Callable[..., LagamcModel], tiny_t5: Path, tmp_path: Path
) -> None:
    trainer = _trainer(make_model(tiny_t5), tmp_path, learning_rate=1e-3)
    assert {group["lr"] for group in trainer.create_optimizer().param_groups} == {1e-3, 2e-5, 1e-2}


# compute_metrics


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
    texts = response_texts(_written(model, [["refund"], [], ["late", "refund"]], 60), model)
    late, refund = model.codec.bank["late"] + ".", model.codec.bank["refund"] + "."
    assert texts == [refund, "", f"{late} {refund}"]


def test_evaluation_generates_and_counts(
    make_model: Callable[..., LagamcModel], tiny_t5: Path, tmp_path: Path
) -> None:
    model = make_model(tiny_t5, lora=True)
    trainer = _trainer(model, tmp_path, build_compute_metrics(model))
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
    trainer = _trainer(
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
    trainer = _trainer(
        model,
        tmp_path,
        build_compute_metrics(model),
        per_device_train_batch_size=batch,
        per_device_eval_batch_size=batch,
        dataloader_drop_last=True,
    )
    assert len(trainer.predict(trainer.eval_dataset).label_ids) == len(EXAMPLES)
    assert [len(loader) for loader in (trainer.get_eval_dataloader(), trainer.get_train_dataloader())] == [2, 1]


# checkpoints


def _train_with_best_in_the_middle(model: LagamcModel, folder: Path) -> list[dict[str, Tensor]]:
    """Three evaluations of which the second is said to be the best; returns the weights at each."""
    snapshots: list[dict[str, Tensor]] = []

    def compute_metrics(_: EvalPrediction) -> dict[str, float]:
        snapshots.append(_weights(model))
        return {"micro_f1": [0.1, 0.9, 0.2][len(snapshots) - 1]}

    trainer = _trainer(
        model,
        folder,
        compute_metrics,
        max_steps=3,
        eval_strategy="steps",
        eval_steps=1,
        save_strategy="steps",
        save_steps=1,
        save_total_limit=2,
        load_best_model_at_end=True,
        lr_scheduler_type="constant",
        learning_rate=1e-2,
        sentence_encoder_learning_rate=1e-2,
        lambda_learning_rate=0.1,
    )
    trainer.train()
    assert trainer.state.best_model_checkpoint == str(folder / "checkpoint-2")
    return snapshots


@pytest.mark.parametrize(("generator", "lora"), [("tiny_t5", True), ("tiny_t5", False), ("tiny_bart", True)])
def test_the_best_checkpoint_is_really_restored(
    generator: str,
    lora: bool,
    make_model: Callable[..., LagamcModel],
    tmp_path: Path,
    request: pytest.FixtureRequest,
) -> None:
    model = make_model(request.getfixturevalue(generator), lora=lora)
    _, best, last = _train_with_best_in_the_middle(model, tmp_path)
    restored = model.state_dict()
    assert set(restored) == set(best)
    assert all(torch.equal(restored[name], value) for name, value in best.items())
    trained = [name for name, p in model.named_parameters() if p.requires_grad]
    moved = {name.split(".")[0] for name in trained if not torch.equal(last[name], best[name])}
    assert moved == {"generator", "sentence_encoder", "balance"}  # the last weights were others


def test_all_modules_of_the_sentence_encoder_are_restored(
    make_model: Callable[..., LagamcModel], tiny_t5: Path, tiny_encoder: Path, tmp_path: Path
) -> None:
    """Encoders such as sentence-t5 have a dense layer behind the pooling."""
    model = make_model(tiny_t5, lora=True)
    torch.manual_seed(2)
    model.sentence_encoder = SentenceTransformer(modules=[*model.sentence_encoder, Dense(16, 8)], device="cpu")
    model.set_labels(model.codec)
    _, best, last = _train_with_best_in_the_middle(model, tmp_path)
    name = "sentence_encoder.2.linear.weight"
    assert not torch.equal(last[name], best[name])
    assert torch.equal(model.state_dict()[name], best[name])


@pytest.mark.parametrize("lora", [True, False])
def test_a_checkpoint_holds_the_artifact_and_the_trainers_state_alone(
    lora: bool, make_model: Callable[..., LagamcModel], tiny_t5: Path, tmp_path: Path
) -> None:
    model = make_model(tiny_t5, lora=lora)
    trainer = _trainer(model, tmp_path, max_steps=1, save_strategy="steps", save_steps=1)
    trainer.train()
    folder = tmp_path / "checkpoint-1"
    generator = {"adapter_config.json", "adapter_model.safetensors"} if lora else {"generator"}
    state = {"optimizer.pt", "scheduler.pt", "rng_state.pth", "trainer_state.json"}
    assert {path.name for path in folder.iterdir()} == {
        "sentence_encoder",
        "lagamc_config.json",
        "labels.json",
        "README.md",
        *generator,
        *state,
    }
    inside = {path.suffix for path in folder.rglob("*") if path.is_file() and path.name not in (*state, "README.md")}
    assert inside == {".json", ".safetensors"}
    if lora:
        adapter = load_file(folder / "adapter_model.safetensors")
        assert all(".lora_" in name for name in adapter)
        assert len(adapter) == 24
    saved = json.loads((folder / "lagamc_config.json").read_text(encoding="utf-8"))
    assert saved["lambda_value"] == pytest.approx(float(model.balance.value.detach()))
    assert saved["lambda_state"] == {"logit": [pytest.approx(float(model.balance.logit.detach()))]}


def test_training_resumes_where_it_stopped(
    make_model: Callable[..., LagamcModel], tiny_t5: Path, tmp_path: Path
) -> None:
    settings: dict[str, Any] = {"max_steps": 3, "save_strategy": "steps", "save_steps": 2}
    through = make_model(tiny_t5, lora=True)
    _trainer(through, tmp_path, **settings).train()
    resumed = make_model(tiny_t5, lora=True)
    trainer = _trainer(resumed, tmp_path, **settings)
    trainer.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
    assert trainer.state.global_step == 3
    expected = through.state_dict()
    assert all(torch.allclose(value, expected[name], atol=1e-6) for name, value in resumed.state_dict().items())
