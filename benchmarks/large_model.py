"""What a training step of FLAN-T5-large costs: hybrid against cross-entropy, label against full vocabulary.

    python -m benchmarks.large_model [--quick] [--batches 8 32] [--inputs 128 256]

The model is built from its configuration with random weights and LoRA of rank 2, the sentence encoder is MiniLM, the
loss that of `configs/paper`: the whole response, bf16. Every input has as many tokens as named; responses hold as
many labels of the demonstration corpus as fit 128 tokens.

On a GPU steps are timed: `seconds`, `samples_per_second`, `peak_gib`. Without one the figures are an estimate: FLOPs
and the bytes of activations kept for the backward pass, in float32 (bf16 needs about half), are counted with 1 and 2
layers and batches of 2 and 4, and led to the whole model and batch; both grow linearly in layers and in rows. The last
line is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import time
from functools import partial
from statistics import median
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerFast, T5Config, T5ForConditionalGeneration, set_seed

from benchmarks.bridge_fidelity import t5_tokenizer
from benchmarks.outcomes import finish, flops, run
from lagamc.config import DataArguments
from lagamc.data import Example
from lagamc.encoders import load_sentence_encoder
from lagamc.encoding import LagamcCollator, encode_examples
from lagamc.generators import LoraSettings, add_lora, embedded_folder
from lagamc.losses import LossBalance, LossSettings
from lagamc.modeling import LagamcModel
from lagamc.prompts import PROMPTS, ResponseCodec
from lagamc.training_data import load_data

LAYERS, RESPONSE = 24, 128
SIZE: dict[str, Any] = {"vocab_size": 32128, "d_model": 1024, "d_kv": 64, "d_ff": 2816, "num_heads": 16}
STYLE: dict[str, Any] = {
    "decoder_start_token_id": 0,
    "feed_forward_proj": "gated-gelu",
    "tie_word_embeddings": False,
    "dropout_rate": 0.0,
}
VARIANTS = {"ce": ("none", True), "hybrid": ("response", True), "full": ("response", False)}


def build(variant: str, layers: int, tokenizer: PreTrainedTokenizerFast, device: str) -> LagamcModel:
    """FLAN-T5-large with so many layers in encoder and decoder."""
    set_seed(1)
    form, label_vocabulary = VARIANTS[variant]
    config = T5Config(**SIZE, **STYLE, num_layers=layers, num_decoder_layers=layers)
    generator = add_lora(T5ForConditionalGeneration(config), LoraSettings(2, None, 0.0, None))
    bank = load_data(DataArguments(data_dir="demo", unlabelled="keep")).bank
    encoder = load_sentence_encoder(embedded_folder())
    codec, settings = ResponseCodec(bank, tokenizer), LossSettings(semantic_form=form)
    return LagamcModel(generator, encoder, tokenizer, codec, LossBalance(), settings, label_vocabulary).to(device)


def batch_of(model: LagamcModel, rows: int, tokens: int) -> dict[str, Tensor]:
    """Rows of full length."""
    names = model.codec.bank.names
    examples = []
    for row in range(rows):
        labels: list[str] = []
        for name in names[row % len(names) :] + names[: row % len(names)]:
            if model.codec.longest([model.codec.bank.index([*labels, name])]) <= RESPONSE:
                labels.append(name)
        examples.append(Example(str(row), "the parcel is late again " * tokens, tuple(labels)))
    encoded, _ = encode_examples(examples, model.tokenizer, PROMPTS["general"], model.codec, tokens, RESPONSE)
    collator = LagamcCollator(model.backbone.padding_id, len(names), model.backbone.padding_side)
    batch = collator([encoded[i] for i in range(rows)])
    return {name: batch[name].to(model.device) for name in batch if name != "row"}


def forward_backward(model: LagamcModel, batch: dict[str, Tensor]) -> None:
    """One step without its optimizer, which LoRA leaves little to do."""
    with torch.autocast("cuda", torch.bfloat16, enabled=model.device.type == "cuda"):
        output = model(**batch)
    assert output.cross_entropy is not None
    assert output.semantic is not None
    model.balance(output.cross_entropy, output.semantic).backward()
    model.zero_grad()


def kept_bytes(model: LagamcModel, batch: dict[str, Tensor]) -> int:
    """Activations that a forward pass keeps for the backward pass; the weights are no part of them."""
    weights = {p.untyped_storage().data_ptr() for p in model.parameters()}
    kept: dict[int, int] = {}

    def keep(saved: Tensor) -> Tensor:
        storage = saved.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
        return saved

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda saved: saved):
        output = model(**batch)  # while it lives, no storage is given twice
        size = sum(kept.values())
        del output
    return size


def estimated(tokenizer: PreTrainedTokenizerFast, batches: list[int], inputs: list[int]) -> dict[str, Any]:
    """Tera-FLOPs and GiB of a step of the whole model for each variant, input length and batch."""
    found: dict[str, Any] = {}
    for variant in VARIANTS:
        models = {layers: build(variant, layers, tokenizer, "cpu") for layers in (1, 2)}
        for tokens in inputs:
            counts: dict[tuple[int, int], tuple[float, float]] = {}
            for layers, model in models.items():
                for rows in (2, 4):
                    batch = batch_of(model, rows, tokens)
                    counted = flops(partial(forward_backward, model, batch))
                    counts[layers, rows] = counted / 1e12, kept_bytes(model, batch) / 2**30
            for rows in batches:
                share = (rows - 2) / 2

                def at(layers: int, what: int, share: float = share, counts: Any = counts) -> float:
                    return counts[layers, 2][what] + share * (counts[layers, 4][what] - counts[layers, 2][what])

                whole = [at(1, what) + (LAYERS - 1) * (at(2, what) - at(1, what)) for what in (0, 1)]
                key = f"batch {rows}, input {tokens}"
                found.setdefault(key, {})[variant] = {
                    "tera_flops": round(whole[0], 3),
                    "activations_gib": round(whole[1], 2),
                }
    return found


def timed(tokenizer: PreTrainedTokenizerFast, batches: list[int], inputs: list[int], repeats: int) -> dict[str, Any]:
    """Seconds, samples per second and memory of a step on the GPU."""
    found: dict[str, Any] = {}
    for variant in VARIANTS:
        model = build(variant, LAYERS, tokenizer, "cuda")
        optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad])
        for tokens in inputs:
            for rows in batches:
                batch = batch_of(model, rows, tokens)
                torch.cuda.reset_peak_memory_stats()
                seconds = []
                for repeat in range(repeats + 2):
                    torch.cuda.synchronize()
                    begin = time.perf_counter()
                    forward_backward(model, batch)
                    optimizer.step()
                    torch.cuda.synchronize()
                    if repeat > 1:
                        seconds.append(time.perf_counter() - begin)
                found.setdefault(f"batch {rows}, input {tokens}", {})[variant] = {
                    "seconds": round(median(seconds), 4),
                    "samples_per_second": round(rows / median(seconds), 2),
                    "peak_gib": round(torch.cuda.max_memory_allocated() / 2**30, 2),
                }
        del model, optimizer
        torch.cuda.empty_cache()
    return found


def main() -> None:
    """Prints the figures as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one batch and input length, few repeats")
    parser.add_argument("--batches", type=int, nargs="+", default=[8, 32])
    parser.add_argument("--inputs", type=int, nargs="+", default=[128, 256])
    parser.add_argument("--repeats", type=int, default=10)
    options = parser.parse_args()
    tokenizer = t5_tokenizer()
    if tokenizer is None:
        print(json.dumps({"skipped": "no T5 tokenizer could be fetched"}))
        return
    batches, inputs = (options.batches[:1], options.inputs[:1]) if options.quick else (options.batches, options.inputs)
    on_gpu = torch.cuda.is_available()
    if on_gpu:
        found = timed(tokenizer, batches, inputs, 2 if options.quick else options.repeats)
    else:
        found = estimated(tokenizer, batches, inputs)
    cost = "seconds" if on_gpu else "tera_flops"
    for figures in found.values():
        figures["hybrid_over_ce"] = round(figures["hybrid"][cost] / figures["ce"][cost], 3)
        figures["full_over_label_vocabulary"] = round(figures["full"][cost] / figures["hybrid"][cost], 3)
    device = torch.cuda.get_device_name() if on_gpu else "estimate from counted FLOPs and bytes"
    finish({"device": device, **found}, options.quick)


if __name__ == "__main__":
    run(main)
