"""`LagamcTrainingArguments`: what `Seq2SeqTrainingArguments` lacks, and which of its values do not suit."""

from __future__ import annotations

import inspect
import logging
import math
import os
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from accelerate.utils import DynamoBackend
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.checkpoint import checkpoint
from transformers import Seq2SeqTrainingArguments, TrainingArguments

from lagamc.errors import LagamcError, not_between, outside
from lagamc.thresholds import wanted_precision

logger = logging.getLogger(__name__)

# what the training arguments may be where they are set
TRAINING_RANGES: dict[str, tuple[float, float]] = {
    **dict.fromkeys(("learning_rate", "encoder_learning_rate"), (0, 1)),
    **dict.fromkeys(("sentence_encoder_learning_rate", "lambda_learning_rate"), (0, 1)),
    **dict.fromkeys(("per_device_train_batch_size", "per_device_eval_batch_size"), (1, 10**6)),
    **dict.fromkeys(("seed", "data_seed"), (0, 2**32 - 1)),
    **dict.fromkeys(("logging_steps", "eval_steps", "save_steps", "warmup_steps"), (0, 10**9)),
    "num_train_epochs": (1e-6, 1e6),
    "gradient_accumulation_steps": (1, 10**6),
    "weight_decay": (0, 10),
    "max_grad_norm": (0, 1e9),
    "dataloader_num_workers": (0, 1000),
    "early_stopping_patience": (0, 10**9),
}
# arguments of `transformers` that would be ignored, or fail later
UNSUPPORTED = (
    *("label_smoothing_factor", "prediction_loss_only", "remove_unused_columns", "batch_eval_metrics"),
    *("neftune_noise_alpha", "use_liger_kernel", "fsdp", "deepspeed"),
)
# arguments of `transformers` that have another name here
INSTEAD = {
    **dict.fromkeys(
        ("metric_for_best_model", "greater_is_better"),
        "selection_metric instead, the figure of the dev rows that chooses a checkpoint",
    ),
    "generation_max_length": "max_response_length instead, the tokens of a response",
}
# training rows that the embedded generator has to see, repeated ones counted, and epochs at most
LEAST_SEEN, MOST_EPOCHS = 6000, 40
PRECISION_VARIABLE = "ACCELERATE_MIXED_PRECISION"  # set by `accelerate launch` from its configuration


def least_epochs(rows: int, seen: int = LEAST_SEEN) -> int:
    """Epochs by which so many rows were seen, repeated ones counted, where there are `rows`; `MOST_EPOCHS` at most."""
    return min(MOST_EPOCHS, math.ceil(seen / rows))


def settle_mixed_precision() -> str:
    """The mixed precision of the run: Accelerate's, but float32 where a CPU has no instructions for bfloat16.

    There bfloat16 products are several times slower than float32 ones, and nothing is gained.
    """
    precision = os.environ.get(PRECISION_VARIABLE, "no")
    if precision == "bf16" and not torch.accelerator.is_available() and not _cpu_multiplies_bf16():
        logger.warning("this CPU has no instructions for bf16: training in float32, which is faster here")
        os.environ[PRECISION_VARIABLE] = precision = "no"
    return precision


def _cpu_multiplies_bf16() -> bool:
    """Whether the CPU has AMX or AVX-512 BF16, as far as this torch can tell."""
    return any(getattr(torch.cpu, name, bool)() for name in ("_is_amx_tile_supported", "_is_avx512_bf16_supported"))


def suited_attention(arguments: TrainingArguments) -> AbstractContextManager[None]:
    """A context for training steps: on a CPU in bfloat16 the gradients of PyTorch's fused attention take twice the
    time of the plain one's."""
    if arguments.mixed_precision == "bf16" and arguments.device.type == "cpu":
        return sdpa_kernel(SDPBackend.MATH)
    return nullcontext()


def use_all_cores() -> None:
    """Takes the process's share of the cores: without a GPU `accelerate launch` leaves it one thread by default."""
    launched = PRECISION_VARIABLE in os.environ
    if launched and os.environ.get("OMP_NUM_THREADS") == "1" and not torch.accelerator.is_available():
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        torch.set_num_threads(max(1, cores // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))))


@dataclass
class LagamcTrainingArguments(Seq2SeqTrainingArguments):
    """Training arguments.

    All of `Seq2SeqTrainingArguments`, with defaults that suit this trainer, and:

    Learning rates: `learning_rate` is the generator's; its pretrained encoder, the sentence encoder and lambda
    may have their own.

    Choice: `selection_metric` is the development figure of the written descriptions by which the best checkpoint is
    chosen, the later one of equal ones.

    Thresholds: `threshold_goal` is what they are tuned for on the development rows after training.
    """

    _argument_group_name = "training (ours and those of transformers)"

    output_dir: str | None = field(default="lagamc-model", metadata={"help": "Where the model is written."})
    learning_rate: float = field(default=2e-4, metadata={"help": "Learning rate of the generator."})
    encoder_learning_rate: float | None = field(
        default=None,
        metadata={
            "help": "Learning rate of the generator's own encoder where it is trained whole; default: the same."
        },
    )
    sentence_encoder_learning_rate: float = field(
        default=2e-5, metadata={"help": "Learning rate of the sentence encoder."}
    )
    lambda_learning_rate: float = field(
        default=1e-2, metadata={"help": "Learning rate of lambda and of the retrieval scale."}
    )
    selection_metric: str = field(
        default="micro_f1",
        metadata={
            "help": "Development figure of the written descriptions that chooses the best checkpoint, or `loss`."
        },
    )
    early_stopping_patience: int = field(
        default=0, metadata={"help": "Evaluations without improvement before training stops; 0: never."}
    )
    resume_from_checkpoint: str | None = field(
        default=None,
        metadata={
            "help": "Goes on with the run that was stopped: `true` from its last checkpoint, or from a named one."
        },
    )
    threshold_goal: str = field(
        default="micro_f1", metadata={"help": "What the thresholds are tuned for: micro_f1, macro_f1 or precision>=x."}
    )
    eval_strategy: str = field(default="epoch", metadata={"help": "When the development rows are evaluated."})
    save_strategy: str = field(default="epoch", metadata={"help": "When a checkpoint is written."})
    save_total_limit: int | None = field(default=2, metadata={"help": "Checkpoints that are kept."})
    load_best_model_at_end: bool = field(default=True, metadata={"help": "Whether the best checkpoint is restored."})
    predict_with_generate: bool = field(default=True, metadata={"help": "Whether evaluation generates."})
    remove_unused_columns: bool = field(default=False, metadata={"help": "Left to the collator."})
    ddp_find_unused_parameters: bool | None = field(default=False, metadata={"help": "Every weight is used."})
    dataloader_pin_memory: bool = field(
        default_factory=torch.accelerator.is_available, metadata={"help": "Helps where there is a GPU."}
    )
    ddp_timeout: int = field(
        default=30 * 24 * 3600,
        metadata={"help": "Seconds that processes wait for one another: the main one alone tunes and tests."},
    )
    warmup_steps: float = field(default=0.06, metadata={"help": "Steps, or share of the steps, with rising rates."})
    logging_steps: float = field(default=20, metadata={"help": "Steps between two log lines."})
    report_to: str = field(default="none", metadata={"help": "tensorboard, trackio, ... or none."})
    train_sampling_strategy: str = field(
        default="group_by_length", metadata={"help": "Batches of texts of similar length."}
    )

    def __post_init__(self) -> None:
        settle_mixed_precision()  # before `TrainingArguments` reads the variable
        use_all_cores()
        if not torch.accelerator.is_available():
            self.use_cpu = True  # without it accelerate makes no group of several processes there
        self.metric_for_best_model = self.selection_metric
        self.greater_is_better = self.selection_metric not in ("loss", "hamming_loss")
        super().__post_init__()


def training_problems(fields: Mapping[str, Any]) -> list[str]:
    """What is wrong with the values of training arguments, before `transformers` sees them.

    Args:
        fields: name -> value, of all that `LagamcTrainingArguments` takes.
    """
    problems: list[str] = []
    for name, (low, high) in TRAINING_RANGES.items():
        if fields[name] is not None:
            problems += not_between(name, fields[name], low, high)
    if fields["max_steps"] != -1:
        problems += not_between("max_steps", fields["max_steps"], 1, 10**9)
    if fields["torch_compile_backend"] is not None:
        backends = [backend.lower() for backend in DynamoBackend.list()]
        problems += outside("torch_compile_backend", fields["torch_compile_backend"], backends)
    if fields["fp16"] or fields["bf16"]:
        problems.append("fp16, bf16: precision is set in accelerate_config.yaml alone (mixed_precision)")
    for name in ("predict_with_generate", "eval_do_concat_batches"):
        problems += [] if fields[name] else [f"{name}: expected true, found false; evaluation needs it"]
    for name in UNSUPPORTED:
        if fields[name]:
            problems.append(f"{name}: is not supported by this trainer")
    try:
        wanted_precision(fields["threshold_goal"])
    except LagamcError as error:
        problems.append(f"threshold_{error}")
    for name, instead in INSTEAD.items():
        if fields[name] is not None:
            problems.append(f"{name}: set {instead}")
    if fields["early_stopping_patience"] and str(fields["eval_strategy"]) == "no":
        problems.append("early_stopping_patience: needs evaluations, and eval_strategy is no")
    return problems


def checkpointing_problems(arguments: TrainingArguments) -> list[str]:
    """Arguments of gradient checkpointing that torch does not know."""
    known = inspect.signature(checkpoint).parameters
    given = arguments.gradient_checkpointing_kwargs or {}
    return [f"gradient_checkpointing_kwargs: {name!r} is none of torch's" for name in given if name not in known]
