"""Figures of a trained model on labelled examples, and thresholds tuned on them."""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError

from lagamc.artifact import (
    CONFIG_FILE,
    LABELS_FILE,
    UNSEEN_FOLDER,
    find_artifact,
    read_config,
    write_backgrounds,
    write_config,
)
from lagamc.cards import rewrite_card
from lagamc.classifier import LagamcClassifier
from lagamc.data import Columns, Example, read_examples
from lagamc.decisions import UNTUNED
from lagamc.errors import LagamcError
from lagamc.labels import LabelBank
from lagamc.metrics import binarise, label_metrics, multi_label_metrics, ranking_metrics
from lagamc.predictions import Prediction
from lagamc.thresholds import usual_goal


def evaluate(classifier: LagamcClassifier, examples: Sequence[Example], **settings: Any) -> dict[str, Any]:
    """Figures of a model on labelled examples: by scores and thresholds, and by the generated descriptions."""
    predictions = classifier.predict([example.text for example in examples], **settings)
    return measure(predictions, examples, classifier.bank)


def measure(predictions: Sequence[Prediction], examples: Sequence[Example], bank: LabelBank) -> dict[str, Any]:
    """The figures of `evaluate` from what was predicted."""
    true = _truth(examples, bank)
    scores = np.array([[p.scores[name] for name in bank] for p in predictions])
    chosen = binarise([bank.index(p.labels) for p in predictions], len(bank))
    figures: dict[str, Any] = {**multi_label_metrics(chosen, true), **ranking_metrics(scores, true)}
    written = binarise([bank.index({m.label for m in p.matches if m.label}) for p in predictions], len(bank))
    figures |= {f"generated_{k}": v for k, v in multi_label_metrics(written, true).items() if k.endswith("_f1")}
    figures["rows"] = len(examples)
    figures["labels"] = label_metrics(chosen, true, bank.names)
    return figures


def _truth(examples: Sequence[Example], bank: LabelBank) -> np.ndarray:
    return binarise([bank.index(example.labels) for example in examples], len(bank))


def evaluate_from_options(options: argparse.Namespace) -> None:
    """What `lagamc evaluate` does: reads the examples, tunes where asked to, measures, and prints the figures as JSON.

    Raises:
        LagamcError: the examples or the model are bad, or the thresholds cannot be written.
    """
    goal = None if options.goal is None else usual_goal(options.goal)
    source = find_artifact(options.model)
    if options.tune and source.commit is not None:
        raise LagamcError(
            f"{source}: --tune writes into the model's folder, and this model is on the Hub; tune in Python instead "
            "(`classifier.tune`), and save it or push it to a repo of your own"
        )
    with source.named():
        read_config(source.folder)
        bank = LabelBank.from_file(options.labels or source.folder / LABELS_FILE)
    columns = Columns(options.text_column, options.labels_column)
    examples = read_examples(options.file, bank, columns, options.unlabelled)
    with source.named():
        classifier = LagamcClassifier.from_pretrained(
            source.folder, options.device, dtype=options.dtype, trust_remote_code=options.trust_remote_code
        )
    if options.labels:
        classifier = classifier.with_bank(bank)
    figures: dict[str, Any] = {}
    rules = classifier.rules
    if not (options.tune or rules.tuned or options.threshold is not None):
        print(f"warning: {source}: {UNTUNED}", file=sys.stderr)
    if options.tune:
        texts, labels = [e.text for e in examples], [e.labels for e in examples]
        figures["tuned"] = classifier.tune(texts, labels, goal, options.batch_size, "tuning thresholds")
        _write_tuned(classifier, source.folder)
        print(f"{source}: decides by {rules.scores} scores for {rules.thresholds.goal} from now on", file=sys.stderr)
    names = ("batch_size", "scores", "threshold", "window_stride")
    settings = {name: getattr(options, name) for name in names} | {"goal": goal}
    figures["scores"] = options.scores or rules.scores
    if options.threshold is None and rules.tuned:
        figures["goal"] = goal or rules.thresholds.goal
    figures |= evaluate(classifier, examples, progress="evaluating", **settings)
    print(json.dumps(figures, indent=1, ensure_ascii=False))


def _write_tuned(classifier: LagamcClassifier, folder: Path) -> None:
    """All is written beside the model first: what fails on the way leaves it as it was."""
    config = classifier.current_config()
    try:
        with tempfile.TemporaryDirectory(prefix=".tuned-", dir=folder) as beside:
            (Path(beside) / UNSEEN_FOLDER).mkdir()
            if not rewrite_card(folder, config, classifier.bank, beside):
                print(
                    f"warning: {folder}: the model card was changed by hand and is left as it is; the figures and "
                    "thresholds in it are those from before",
                    file=sys.stderr,
                )
            write_backgrounds(beside, classifier.model)
            write_config(beside, config)
            written = [path for path in Path(beside).rglob("*") if path.is_file()]
            for path in sorted(written, key=lambda path: path.name == CONFIG_FILE):
                path.replace(folder / path.relative_to(beside))
    except (OSError, SafetensorError) as error:
        reason = getattr(error, "strerror", None) or error
        raise LagamcError(f"{folder}: thresholds cannot be written ({reason}); the model is as it was") from error
