"""One training run: from arguments to a saved, evaluated model."""

from __future__ import annotations

import json
import logging
import os
import sys
from collections.abc import Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import PartialState
from transformers import EarlyStoppingCallback, PreTrainedTokenizerBase, TrainerCallback, set_seed

from lagamc.artifact import ArtifactConfig, check_own, save_artifact
from lagamc.backbones import check_lengths
from lagamc.cards import render_card
from lagamc.checkpoints import (
    ADAPTER_SETTINGS,
    METRICS_FILE,
    ClearCallback,
    check_labels,
    check_settings,
    checkpoint_to_resume,
)
from lagamc.classifier import LagamcClassifier
from lagamc.config import Arguments, DataArguments, ModelArguments
from lagamc.data import Example
from lagamc.encoders import draw_back, drawn_back, load_sentence_encoder, pieces_to_read
from lagamc.encoding import LagamcCollator, encode_examples
from lagamc.errors import LagamcError
from lagamc.evaluation import measure
from lagamc.generators import (
    LoraSettings,
    add_lora,
    build_embedded,
    embedded_folder,
    find_generator,
    load_config,
    load_generator,
    load_tokenizer,
    refuse_half_precision,
    trainable_parameters,
)
from lagamc.hub import HubAccess, ModelFolder
from lagamc.lexical import LexicalScorer
from lagamc.losses import LossBalance, LossSettings
from lagamc.metrics import FIGURES, binarise
from lagamc.modeling import LagamcModel
from lagamc.origins import command_line, data_origin, model_origin
from lagamc.prompts import RESPONSE_LEAD, ResponseCodec, prompt_from
from lagamc.report_data import write_log, write_rows
from lagamc.trainer import COLLAPSE_LIMIT, LagamcTrainer, build_compute_metrics, collapse_message
from lagamc.training_args import least_epochs, settle_mixed_precision
from lagamc.training_data import TrainingData, load_data, times_in_epoch

logger = logging.getLogger(__name__)

MOST_TEXTS = 32  # that are tuned and tested on at a time
FIDELITY_LIMIT = 0.9


def build_model(
    model_arguments: ModelArguments, data_arguments: DataArguments, data: TrainingData, mixed_precision: str = "no"
) -> tuple[LagamcModel, ArtifactConfig]:
    """Generator, sentence encoder and lambda as the arguments say, and the configuration that goes with them."""
    name = model_arguments.model_name_or_path
    access = HubAccess(trust_remote_code=model_arguments.trust_remote_code)
    tokenizer: PreTrainedTokenizerBase
    generator: Any
    lora = name is not None if model_arguments.lora is None else model_arguments.lora
    base: ModelFolder | None = None
    if name is None:
        tokenizer = load_tokenizer(embedded_folder())
        generator = build_embedded(tokenizer, model_arguments.decoder_layers)
    else:
        base = find_generator(name, model_arguments.model_revision, access)
        name, trusted = base.name, access.trust_remote_code
        refuse_half_precision(load_config(base.folder, trusted).model_type, mixed_precision)
        tokenizer = load_tokenizer(base.folder, trusted)
        generator = load_generator(base.folder, trusted)
    if lora:
        targets = tuple(part.strip() for part in (model_arguments.lora_targets or "").split(",") if part.strip())
        generator = add_lora(
            generator,
            LoraSettings(
                model_arguments.lora_rank, model_arguments.lora_alpha, model_arguments.lora_dropout, targets or None
            ),
            base,
        )
    encoder = load_sentence_encoder(
        model_arguments.sentence_encoder or embedded_folder(), model_arguments.sentence_encoder_revision, access
    )
    encoder.requires_grad_(model_arguments.train_sentence_encoder)
    counts = data.report.label_counts["train"]
    codec = ResponseCodec(data.bank, tokenizer, data_arguments.label_order, counts)
    settings = LossSettings(**{f.name: getattr(model_arguments, f.name) for f in fields(LossSettings)})
    balance = LossBalance(model_arguments.lambda_mode, model_arguments.lambda_initial, model_arguments.lambda_minimum)
    model = LagamcModel(generator, encoder, tokenizer, codec, balance, settings, model_arguments.label_vocabulary)
    absent = [label for label, count in counts.items() if not count]
    if 0 < len(absent) < len(counts):
        model.learned = torch.tensor([count > 0 for count in counts.values()])
    shortest = codec.longest_description  # also labels that no row has are to be written
    longest = codec.longest([data.bank.index(e.labels) for split in data.splits.values() for e in split])
    needed = max(longest, shortest)
    response_length = data_arguments.max_response_length or min(needed, model.backbone.positions or needed)
    if response_length < shortest:
        raise LagamcError(
            f"max_response_length: {response_length} tokens do not hold the longest description ({shortest} tokens)"
        )
    check_lengths(model.backbone, data_arguments.max_input_length, response_length)
    trainable, total = trainable_parameters(model)
    prompt = prompt_from(data_arguments.prompt, data_arguments.instruction, data_arguments.task_description)
    if not generator.config.is_encoder_decoder:  # the response follows the text: they need a seam between them
        prompt = replace(prompt, ending=RESPONSE_LEAD, closed=False)
    config = ArtifactConfig(
        prompt=prompt.to_dict(),
        max_input_length=data_arguments.max_input_length,
        window_stride=data_arguments.window_stride,
        max_response_length=response_length,
        label_order=data_arguments.label_order,
        label_counts=counts,
        untrained=absent,
        label_vocabulary=model_arguments.label_vocabulary,
        base_model=name if lora else None,
        base_revision=base.commit if base is not None and lora else None,
        minimum_similarity=model_arguments.minimum_similarity,
        beam=model_arguments.beam,
        loss=settings.to_dict(),
        lambda_mode=model_arguments.lambda_mode,
        figures={
            **model_origin(model_arguments, base),
            "sentence_encoder_trained": model_arguments.train_sentence_encoder
            and (settings.semantic_form != "none" or settings.retrieval_weight > 0),
            "repeat_threshold": data_arguments.repeat_threshold,
            "sentence_encoder_share": model_arguments.sentence_encoder_share,
            "unseen_encoder_share": model_arguments.unseen_encoder_share,
            **{name: getattr(model_arguments, name) if lora else None for name in ADAPTER_SETTINGS},
            "trainable_parameters": trainable,
            "total_parameters": total,
        },
    )
    return model, config


def train(arguments: Arguments) -> dict[str, Any]:
    """Trains, evaluates and saves; the figures are also written to `metrics.json`.

    Raises:
        LagamcError: bad data or settings.
    """
    model_arguments, data_arguments, training = arguments
    state = PartialState()
    say = print if state.is_main_process else (lambda *_: None)
    assert training.output_dir is not None
    _check_output(training.output_dir, model_arguments)
    checkpoint = checkpoint_to_resume(training.resume_from_checkpoint, training.output_dir, say)
    data = load_data(data_arguments)
    if checkpoint is not None:
        check_labels(checkpoint, data.bank)
    trained = [name for name, count in data.report.label_counts["train"].items() if count]
    choices = ["loss", *FIGURES, *(f"f1_{name}" for name in trained)]
    if training.selection_metric not in choices:
        raise LagamcError(f"selection_metric: expected one of {choices}, found {training.selection_metric!r}")
    say("\n".join(data.report.lines))
    for warning in data.report.warnings:
        say(f"warning: {warning}")
    count, epochs = len(data.splits["train"]), training.num_train_epochs
    least = least_epochs(count)
    if model_arguments.model_name_or_path is None and training.max_steps < 0 and epochs < least:
        say(f"{count:,} training rows are few for {epochs:g} epochs: --num_train_epochs {least} suits them")

    set_seed(training.seed)
    precision = settle_mixed_precision()
    model, config = build_model(model_arguments, data_arguments, data, precision)
    config.figures |= {"seed": training.seed, "data_seed": training.data_seed}
    if checkpoint is not None:
        check_settings(checkpoint, config)
    prompt = prompt_from(config.prompt)
    encoded = {}
    for split in ("train", "dev"):
        examples = data.splits[split]
        texts = [example.text for example in examples]
        encoded[split], clipped = encode_examples(
            examples,
            model.tokenizer,
            prompt,
            model.codec,
            config.max_input_length,
            config.max_response_length,
            config.window_stride,
            pieces_to_read(model, texts, config.max_input_length, config.window_stride),
        )
        config.figures[f"{split}_clipped_texts"] = clipped.prompts
        config.figures[f"{split}_clipped_responses"] = clipped.responses
        say(
            f"{split}: {clipped.prompts:.1%} of the texts are cut to {config.max_input_length} tokens, "
            f"{clipped.responses:.1%} of the responses to {config.max_response_length}"
            + (f"; {len(examples)} texts give {len(encoded[split])} windows" if config.window_stride else "")
        )
    rows = data.splits["train"]
    times = times_in_epoch(rows, config.label_counts, data_arguments.repeat_threshold, training.seed)
    if more := int(times.sum()) - len(rows):
        say(f"train: {more:,} rows more in each epoch, repeated for their rare labels")
        owners = np.array(encoded["train"]["row"])
        encoded["train"] = encoded["train"].select(np.repeat(np.arange(len(owners)), times[owners]))
    config.bridge_fidelity = measure_bridge(model, say)
    trainable, total = config.figures["trainable_parameters"], config.figures["total_parameters"]
    say(f"{trainable:,} of {total:,} parameters are trained ({trainable / total:.2%})")
    config.figures["train_rows"] = len(rows)
    config.figures |= data_origin(data_arguments) | {"mixed_precision": precision}
    config.figures["command"] = command_line(sys.argv, precision)

    callbacks: list[TrainerCallback] = [ClearCallback(checkpoint)]
    if training.early_stopping_patience:
        callbacks.append(EarlyStoppingCallback(training.early_stopping_patience))
    trainer = LagamcTrainer(
        model=model,
        args=training,
        artifact_config=config,
        data_collator=LagamcCollator(
            model.backbone.padding_id, len(data.bank), model.backbone.padding_side, model.descriptions.padding_id
        ),
        train_dataset=encoded["train"],
        eval_dataset=encoded["dev"],
        compute_metrics=build_compute_metrics(model, config.minimum_similarity),
        callbacks=callbacks,
    )
    if model_arguments.lexical and state.is_main_process:  # which alone saves and measures
        true = binarise([data.bank.index(example.labels) for example in rows], len(data.bank))
        texts, tokenizer = [row.text for row in rows], model.sentence_encoder.tokenizer
        model.lexical = LexicalScorer.fit(tokenizer, texts, true, data.bank.names)
    share, unseen_share = model_arguments.sentence_encoder_share, model_arguments.unseen_encoder_share
    start = {}
    if model_arguments.train_sentence_encoder and min(share, unseen_share) < 1:  # before a checkpoint is loaded
        start = {name: value.detach().clone() for name, value in model.sentence_encoder.named_parameters()}
    result = trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))
    if start:
        if unseen_share != share:
            model.unseen_encoder = drawn_back(model.sentence_encoder, start, unseen_share)
        draw_back(model.sentence_encoder, start, share)
    config.figures["train_seconds"] = round(result.metrics["train_runtime"], 1)
    figures: dict[str, Any] = {}
    if state.is_main_process:
        save_artifact(model, training.output_dir, config, render_card)  # whatever happens while it is measured
        figures = finish(trainer, model, config, data, training.threshold_goal, say)
        save_artifact(model, training.output_dir, config, render_card)
        text = json.dumps(figures, indent=1, ensure_ascii=False)
        Path(training.output_dir, METRICS_FILE).write_text(text + "\n", encoding="utf-8")
        say(f"the model is in {training.output_dir}")
        if training.push_to_hub:
            say(f"pushing to {trainer.hub_model_id}")
            say(f"the model is at {trainer.publish(training.output_dir, 'End of training').commit_url}")
    state.wait_for_everyone()
    return figures


def measure_bridge(model: LagamcModel, say: Any) -> dict[str, float]:
    """Mean and lowest fidelity of the bridge over the descriptions; says so, and warns where it is low."""
    similarities = model.bridge_similarities()
    lowest = int(similarities.argmin())
    found = {"mean": round(float(similarities.mean()), 4), "min": round(float(similarities[lowest]), 4)}
    say(
        f"bridge: descriptions reach the sentence encoder with cosine {found['mean']:.3f}, at least {found['min']:.3f}"
    )
    if found["min"] < FIDELITY_LIMIT:
        name = model.codec.bank.names[lowest]
        say(
            f"warning: the description of {name!r} does not survive the generator's tokenizer, it becomes "
            f"{model.codec.round_trip(model.codec.bank[name])!r}; reword it without what is lost"
        )
    return found


def finish(
    trainer: LagamcTrainer, model: LagamcModel, config: ArtifactConfig, data: TrainingData, goal: str, say: Any
) -> dict[str, Any]:
    """Calibrates and tunes the thresholds on the development rows and measures on the test rows."""
    classifier = LagamcClassifier(model, config, str(trainer.args.device))
    output = str(trainer.args.output_dir)
    write_log(output, trainer.state.log_history)
    dev = data.splits["dev"]
    texts = [example.text for example in dev]
    size = min(MOST_TEXTS, trainer.args.per_device_eval_batch_size)
    tuned = classifier.tune(texts, [e.labels for e in dev], goal, size, "tuning thresholds")
    for name, value in vars(classifier.current_config()).items():
        setattr(config, name, value)
    goal = config.thresholds["goal"]  # by its usual name
    say(
        f"dev: {goal} "
        + ", ".join(f"{figures['goal']:.4f} by {scores} scores" for scores, figures in tuned.items())
        + f"; {config.scores} scores are the default, their calibration error "
        f"{tuned[config.scores]['ece_before']:.4f} before and {tuned[config.scores]['ece_after']:.4f} after"
    )
    config.figures.pop("tuned_rows")  # the development rows, of which the card speaks anyway
    config.figures["collapse"] = round(model.collapse(), 4)
    if config.figures["collapse"] > COLLAPSE_LIMIT:
        say(f"warning: {collapse_message(config.figures['collapse'])}")
    figures: dict[str, Any] = {
        "threshold_goal": goal,
        "scores": config.scores,
        "calibration": config.figures["calibration"],
        "train_seconds": config.figures["train_seconds"],
        "collapse": config.figures["collapse"],
    }
    measured = _measured(classifier, "dev", dev, output, batch_size=size, generate=False)
    figures |= {f"dev_{k}": measured[k] for k in FIGURES}
    if "test" in data.splits:
        measured = _measured(classifier, "test", data.splits["test"], output, batch_size=size, progress="testing")
        figures |= {f"test_{k}": v for k, v in measured.items()}
        say(
            f"test: micro-F1 {measured['micro_f1']:.4f}, macro-F1 {measured['macro_f1']:.4f} "
            f"(by the written descriptions {measured['generated_micro_f1']:.4f} / "
            f"{measured['generated_macro_f1']:.4f})"
        )
    config.figures["evaluation"] = figures
    return figures


def _measured(
    classifier: LagamcClassifier, split: str, examples: Sequence[Example], output: str, **settings: Any
) -> dict[str, Any]:
    """As `evaluation.evaluate`; the rows are kept for the report."""
    predictions = classifier.predict([example.text for example in examples], **settings)
    bank = classifier.bank
    scores = np.array([[prediction.scores[name] for name in bank] for prediction in predictions])
    chosen = binarise([bank.index(prediction.labels) for prediction in predictions], len(bank))
    written = predictions if settings.get("generate", True) else None
    write_rows(output, split, examples, bank, scores, chosen, written)
    return measure(predictions, examples, bank)


def _check_output(folder: str, model: ModelArguments) -> None:
    if not folder.strip():
        raise LagamcError(f"output_dir: expected a folder to write the model to, found {folder!r}")
    path = Path(folder).absolute()
    there = next(place for place in (path, *path.parents) if os.path.lexists(place))
    if not there.is_dir():
        raise LagamcError(f"output_dir {folder!r}: cannot be made ({str(there)!r} is no folder)")
    if not os.access(there, os.W_OK):
        raise LagamcError(f"output_dir {folder!r}: {str(there)!r} is not writable")
    for name in ("model_name_or_path", "sentence_encoder"):
        source = getattr(model, name)
        if source and Path(source).resolve() == path.resolve():
            raise LagamcError(
                f"output_dir {folder!r}: is the {name} as well, which the run would write over; name another"
            )
    check_own(path)
