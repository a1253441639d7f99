"""`LagamcTrainer` in training, on tiny models."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from lagamc.errors import LagamcError
from lagamc.losses import LossBalance
from lagamc.modeling import LagamcModel
from lagamc.trainer import LagamcTrainer
from tests.trainers import make_trainer, weights_of


def _logged(trainer: LagamcTrainer, key: str) -> list[dict[str, float]]:
    return [line for line in trainer.state.log_history if key in line]


# what is logged


def test_components_and_lambda_are_logged(
    make_model: Callable[..., LagamcModel], tiny_t5: Path, tmp_path: Path
) -> None:
    model = make_model(tiny_t5, lora=True, balance=LossBalance("learnable", 0.3), retrieval_weight=0.5)
    trainer = make_trainer(model, tmp_path, max_steps=3, lambda_learning_rate=0.05)
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
        trainer = make_trainer(make_model(tiny_t5, lora=True), tmp_path, max_steps=4, logging_steps=every)
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
    trainer = make_trainer(model, tmp_path)
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
    trainer = make_trainer(model, tmp_path, max_steps=1)
    before = weights_of(model)
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
        trainer = make_trainer(
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
    trainer = make_trainer(model, tmp_path, per_device_train_batch_size=3, max_steps=3)
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
    trainer = make_trainer(make_model(tiny_t5, temperature=4.0, final_temperature=1.0), tmp_path, max_steps=4)
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
    trainer = make_trainer(model, tmp_path)
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
    trainer = make_trainer(model, tmp_path, **rates, lambda_learning_rate=4e-3, weight_decay=0.1)
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


@pytest.mark.parametrize(
    ("setting", "value", "named"),
    [
        ("adam_beta1", 5.0, "optim"),
        ("warmup_steps", float("nan"), "lr_scheduler_type"),
        ("lr_scheduler_type", "cosine_with_min_lr", "lr_scheduler_type"),
        ("lr_scheduler_kwargs", {"zzz": 1}, "lr_scheduler_type"),
    ],
)
def test_settings_that_an_optimizer_does_not_take(
    make_model: Callable[..., LagamcModel], tiny_t5: Path, tmp_path: Path, setting: str, value: object, named: str
) -> None:
    with pytest.raises(LagamcError, match=f"{named} .* cannot be set up as it is asked for"):
        make_trainer(make_model(tiny_t5), tmp_path, **{setting: value}).create_optimizer_and_scheduler(10)


def test_the_generators_encoder_follows_the_generator_unless_told(
    make_model: Callable[..., LagamcModel], tiny_t5: Path, tmp_path: Path
) -> None:
    trainer = make_trainer(make_model(tiny_t5), tmp_path, learning_rate=1e-3)
    assert {group["lr"] for group in trainer.create_optimizer().param_groups} == {1e-3, 2e-5, 1e-2}
