"""`LagamcTrainingArguments`: what `Seq2SeqTrainingArguments` lacks."""

from __future__ import annotations

import logging
import os
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from transformers import Seq2SeqTrainingArguments, TrainingArguments

logger = logging.getLogger(__name__)

PRECISION_VARIABLE = "ACCELERATE_MIXED_PRECISION"  # set by `accelerate launch` from its configuration


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

    Choice: `selection_metric` is the development figure by which the best checkpoint is chosen.

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
        default="micro_f1", metadata={"help": "Development figure that chooses the best checkpoint, or `loss`."}
    )
    early_stopping_patience: int = field(
        default=0, metadata={"help": "Evaluations without improvement before training stops; 0: never."}
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
        self.metric_for_best_model = self.selection_metric
        self.greater_is_better = self.selection_metric not in ("loss", "hamming_loss")
        super().__post_init__()
