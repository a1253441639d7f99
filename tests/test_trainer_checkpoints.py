"""What `LagamcTrainer` saves, restores and goes on from."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Dense
from torch import Tensor
from transformers import EvalPrediction

from lagamc.modeling import LagamcModel
from tests.trainers import EXAMPLES, make_trainer, weights_of


def _train(model: LagamcModel, folder: Path, figures: tuple[float, ...], best: int) -> list[dict[str, Tensor]]:
    """Three evaluations that are said to have these figures; returns the weights at each.

    Args:
        model: is trained.
        folder: for the checkpoints.
        figures: one an evaluation.
        best: the step of the checkpoint that has to be restored.
    """
    snapshots: list[dict[str, Tensor]] = []

    def compute_metrics(_: EvalPrediction) -> dict[str, float]:
        snapshots.append(weights_of(model))
        return {"micro_f1": figures[len(snapshots) - 1]}

    trainer = make_trainer(
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
    assert trainer.state.best_model_checkpoint == str(folder / f"checkpoint-{best}")
    return snapshots


def test_of_equal_checkpoints_the_later_is_kept(
    make_model: Callable[..., LagamcModel], tiny_t5: Path, tmp_path: Path
) -> None:
    """With few rows what is written stays the same while the scores improve."""
    _train(make_model(tiny_t5, lora=True), tmp_path, (0.1, 0.9, 0.9), best=3)


@pytest.mark.parametrize(("generator", "lora"), [("tiny_t5", True), ("tiny_t5", False), ("tiny_bart", True)])
def test_the_best_checkpoint_is_really_restored(
    generator: str,
    lora: bool,
    make_model: Callable[..., LagamcModel],
    tmp_path: Path,
    request: pytest.FixtureRequest,
) -> None:
    model = make_model(request.getfixturevalue(generator), lora=lora)
    _, best, last = _train(model, tmp_path, (0.1, 0.9, 0.2), best=2)
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
    _, best, last = _train(model, tmp_path, (0.1, 0.9, 0.2), best=2)
    name = "sentence_encoder.2.linear.weight"
    assert not torch.equal(last[name], best[name])
    assert torch.equal(model.state_dict()[name], best[name])


@pytest.mark.parametrize("lora", [True, False])
def test_a_checkpoint_holds_the_artifact_and_the_trainers_state_alone(
    lora: bool, make_model: Callable[..., LagamcModel], tiny_t5: Path, tmp_path: Path
) -> None:
    model = make_model(tiny_t5, lora=lora)
    trainer = make_trainer(model, tmp_path, max_steps=1, save_strategy="steps", save_steps=1)
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


def test_an_epoch_that_is_gone_on_with_keeps_its_order(
    make_model: Callable[..., LagamcModel], tiny_t5: Path, tmp_path: Path
) -> None:
    settings: dict[str, Any] = {"save_strategy": "steps", "train_sampling_strategy": "group_by_length"}
    settings |= {"per_device_train_batch_size": 1, "save_steps": len(EXAMPLES) + 2, "max_steps": 2 * len(EXAMPLES)}
    seen: list[list[int]] = []
    for checkpoint in (None, str(tmp_path / f"checkpoint-{len(EXAMPLES) + 2}")):
        trainer = make_trainer(make_model(tiny_t5, lora=True), tmp_path, **settings)
        seen.append([])
        collate = trainer.data_collator

        def noted(rows: list[Any], collate: Any = collate, seen: list[int] = seen[-1]) -> Any:
            batch = collate(rows)
            seen.extend(batch["row"].tolist())
            return batch

        trainer.data_collator = noted
        trainer.train(resume_from_checkpoint=checkpoint)
    through, resumed = seen
    second = through[len(EXAMPLES) :]
    assert sorted(second) == sorted(through[: len(EXAMPLES)])
    assert second != through[: len(EXAMPLES)]  # another order in each epoch
    assert resumed[-len(second) + 2 :] == second[2:]


def test_training_resumes_where_it_stopped(
    make_model: Callable[..., LagamcModel], tiny_t5: Path, tmp_path: Path
) -> None:
    settings: dict[str, Any] = {"max_steps": 3, "save_strategy": "steps", "save_steps": 2}
    through = make_model(tiny_t5, lora=True)
    make_trainer(through, tmp_path, **settings).train()
    resumed = make_model(tiny_t5, lora=True)
    trainer = make_trainer(resumed, tmp_path, **settings)
    trainer.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
    assert trainer.state.global_step == 3
    expected = through.state_dict()
    assert all(torch.allclose(value, expected[name], atol=1e-6) for name, value in resumed.state_dict().items())
