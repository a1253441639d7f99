"""A `LagamcTrainer` on eight rows, for tests."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from peft import PeftModel
from torch import Tensor

from lagamc.artifact import ArtifactConfig
from lagamc.data import Example
from lagamc.encoding import LagamcCollator, encode_examples
from lagamc.modeling import LagamcModel
from lagamc.prompts import Prompt
from lagamc.trainer import LagamcTrainer
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


def make_trainer(model: LagamcModel, folder: Path, compute_metrics: Any = None, **settings: Any) -> LagamcTrainer:
    """Two steps of four rows on the CPU, in order and without checkpoints, unless the settings say otherwise."""
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


def weights_of(model: LagamcModel) -> dict[str, Tensor]:
    """A copy of them all."""
    return {name: value.detach().clone() for name, value in model.state_dict().items()}
