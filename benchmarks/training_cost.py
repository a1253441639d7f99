"""What a training step costs: hybrid against cross-entropy alone, label against full vocabulary, ours against stock.

    python -m benchmarks.training_cost [--quick] [--batches 8] [--repeats 2]

The embedded generator on CAVES by `configs/caves.yaml`, the same batches for all, in turns; ratios are medians over
the batches and repeats of whole steps (forward, backward, clipping, optimizer).

* `hybrid_over_ce`: the shipped loss against cross-entropy alone; `flops_hybrid_over_ce`: its floor, the FLOPs counted.
* `full_over_label_vocabulary`: the shipped loss over all tokens against over those of the descriptions.
* `both_readers_over_one`: the shipped loss against that without the sentence encoder as a second reader.
* `samples_per_second_over_stock`: a run of this trainer, the shipped loss included, against one of an unmodified
  `Seq2SeqTrainer` with the same model on the same rows.
* `samples_per_second_bf16_over_float32`: such a run as `accelerate_config.yaml` has it against one in float32.
* `peak_mib`: of a process (on a GPU: of its memory) that takes some steps with each.

The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import resource
import tempfile
import time
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import torch
from datasets import Dataset
from transformers import DataCollatorForSeq2Seq, Seq2SeqTrainer, Seq2SeqTrainingArguments, set_seed

from benchmarks.datasets import ROOT, find_dataset, missing
from benchmarks.models import WITHOUT_CHECKPOINTS
from benchmarks.outcomes import finish, flops, run
from lagamc.config import parse_arguments
from lagamc.encoders import pieces_to_read
from lagamc.encoding import LagamcCollator, encode_examples
from lagamc.prompts import prompt_from
from lagamc.trainer import LagamcTrainer
from lagamc.training import build_model
from lagamc.training_args import PRECISION_VARIABLE
from lagamc.training_data import load_data

VARIANTS: dict[str, list[str]] = {
    "ce": ["--semantic_form", "none", "--retrieval_weight", "0"],
    "hybrid": [],
    "full": ["--label_vocabulary", "false"],
    "one": ["--retrieval_readers", "generator"],
}


def build_trainer(variant: str, data: Path, rows: int, *more: str) -> LagamcTrainer:
    """A trainer with its model and encoded rows."""
    arguments = ["--config", str(ROOT / "configs" / "caves.yaml"), "--data_dir", str(data), *VARIANTS[variant], *more]
    arguments += ["--max_train_rows", str(rows), "--output_dir", tempfile.gettempdir(), "--disable_tqdm", "true"]
    model_arguments, data_arguments, training = parse_arguments([*arguments, *WITHOUT_CHECKPOINTS])
    set_seed(1)
    found = load_data(data_arguments)
    model, config = build_model(model_arguments, data_arguments, found)
    lengths = (config.max_input_length, config.max_response_length)
    examples = found.splits["train"]
    pieces = pieces_to_read(model, [example.text for example in examples], config.max_input_length)
    encoded, _ = encode_examples(
        examples, model.tokenizer, prompt_from(config.prompt), model.codec, *lengths, text_pieces=pieces
    )
    collator = LagamcCollator(model.backbone.padding_id, len(found.bank), model.backbone.padding_side)
    trainer = LagamcTrainer(
        model=model, args=training, artifact_config=config, train_dataset=encoded, data_collator=collator
    )
    trainer.create_optimizer()
    return trainer


def build_stock(trainer: LagamcTrainer) -> Seq2SeqTrainer:
    """An unmodified trainer for the same generator, rows and batch size."""
    rows = trainer.train_dataset
    assert isinstance(rows, Dataset)
    generator: Any = trainer.model.generator
    arguments = Seq2SeqTrainingArguments(
        output_dir=tempfile.gettempdir(),
        per_device_train_batch_size=trainer.args.per_device_train_batch_size,
        num_train_epochs=1,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        seed=1,
    )
    return Seq2SeqTrainer(
        model=generator,
        args=arguments,
        train_dataset=rows.select_columns(["input_ids", "labels"]),
        data_collator=DataCollatorForSeq2Seq(trainer.model.tokenizer, model=generator),
    )


def some_batches(trainer: LagamcTrainer, count: int) -> list[dict[str, Any]]:
    """Batches of rows of similar length, from the shortest to the longest."""
    rows = trainer.train_dataset
    assert isinstance(rows, Dataset)
    size = trainer.args.per_device_train_batch_size
    ordered = rows.sort("length")
    starts = [round(i * (len(ordered) - size) / max(1, count - 1)) for i in range(count)]
    return [trainer.data_collator([ordered[start + i] for i in range(size)]) for start in starts]


def step(trainer: LagamcTrainer, batch: dict[str, Any]) -> float:
    """Seconds of one step."""
    assert trainer.optimizer is not None
    trainer.model.train()
    batch = trainer._prepare_inputs(batch)
    begin = time.perf_counter()
    trainer.compute_loss(trainer.model, batch).backward()
    torch.nn.utils.clip_grad_norm_(trainer.model.parameters(), trainer.args.max_grad_norm)
    trainer.optimizer.step()
    trainer.optimizer.zero_grad()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - begin


def peak_mib(variant: str, data: Path, rows: int) -> float:
    """The most memory of a process of its own that takes steps on the longest rows."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(_peak, (variant, data, rows))


def _peak(variant: str, data: Path, rows: int) -> float:
    trainer = build_trainer(variant, data, rows)
    for _ in range(2):
        step(trainer, some_batches(trainer, 2)[-1])
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10


def speed_over_stock(data: Path, rows: int, repeats: int) -> list[float]:
    """Ratios of the samples per second that two runs of one epoch report."""
    ratios = []
    for _ in range(repeats):
        ours = build_trainer("hybrid", data, rows, "--num_train_epochs", "1")
        stock = build_stock(build_trainer("ce", data, rows))
        speeds = [run.train().metrics["train_samples_per_second"] for run in (ours, stock)]
        print(f"samples per second: {speeds[0]:.2f}, stock {speeds[1]:.2f}", flush=True)
        ratios.append(speeds[0] / speeds[1])
    return ratios


def speed_of_bf16(data: Path, rows: int, repeats: int) -> list[float]:
    """The same ratios for bf16 and float32; 1 where `settle_mixed_precision` finds no bf16 to gain from."""
    ratios = []
    for _ in range(repeats):
        speeds = []
        for precision in ("bf16", "no"):
            os.environ[PRECISION_VARIABLE] = precision
            run = build_trainer("hybrid", data, rows, "--num_train_epochs", "1")
            speeds.append(run.train().metrics["train_samples_per_second"])
        print(f"samples per second: {speeds[0]:.2f} in bf16, {speeds[1]:.2f} in float32", flush=True)
        ratios.append(speeds[0] / speeds[1])
    return ratios


def main() -> None:
    """Prints a row per batch, then the figures as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="two batches, one repeat, few rows")
    parser.add_argument("--batches", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--rows", type=int, default=640, help="rows of a run against the stock trainer")
    options = parser.parse_args()
    data = find_dataset("caves")
    if data is None:
        print(json.dumps({"skipped": missing("caves")}))
        return
    batches, repeats, rows = (2, 1, 64) if options.quick else (options.batches, options.repeats, options.rows)
    # before this process grows: a new one starts with the peak of its parent
    peaks = {variant: round(peak_mib(variant, data, 2000)) for variant in VARIANTS}
    trainers = {variant: build_trainer(variant, data, max(rows, 2000)) for variant in VARIANTS}
    parts = some_batches(trainers["hybrid"], batches)  # what the others do not take they pass over
    counted = {
        variant: sum(flops(partial(step, trainer, part)) for part in parts) for variant, trainer in trainers.items()
    }
    seconds: dict[str, list[float]] = {variant: [] for variant in VARIANTS}
    for _ in range(repeats):
        for part in parts:
            for variant, trainer in trainers.items():
                seconds[variant].append(step(trainer, part))
            shape = f"{part['input_ids'].shape[1]} + {part['labels'].shape[1]} tokens"
            print(shape, ", ".join(f"{v} {times[-1]:.2f} s" for v, times in seconds.items()), flush=True)

    def ratio(variant: str, other: str) -> float:
        return round(median(a / b for a, b in zip(seconds[variant], seconds[other], strict=True)), 3)

    figures = {
        "hybrid_over_ce": ratio("hybrid", "ce"),
        "flops_hybrid_over_ce": round(counted["hybrid"] / counted["ce"], 3),
        "full_over_label_vocabulary": ratio("full", "hybrid"),
        "flops_full_over_label_vocabulary": round(counted["full"] / counted["hybrid"], 3),
        "both_readers_over_one": ratio("hybrid", "one"),
        "flops_both_readers_over_one": round(counted["hybrid"] / counted["one"], 3),
        "tera_flops_a_step": {v: round(count / batches / 1e12, 3) for v, count in counted.items()},
        "label_vocabulary": len(trainers["hybrid"].model.vocabulary),
        "batch": trainers["hybrid"].args.per_device_train_batch_size,
    }
    del trainers
    figures["samples_per_second_over_stock"] = round(median(speed_over_stock(data, rows, repeats)), 3)
    figures["samples_per_second_bf16_over_float32"] = round(median(speed_of_bf16(data, rows, repeats)), 3)
    figures["peak_mib"] = peaks
    finish(figures, options.quick)


if __name__ == "__main__":
    run(main)
