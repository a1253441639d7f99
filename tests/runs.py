"""Output folders of finished runs with made-up but likely figures, without a model: for the report."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

import numpy as np

from lagamc.artifact import ArtifactConfig
from lagamc.data import Example
from lagamc.labels import LabelBank
from lagamc.matcher import Match
from lagamc.metrics import multi_label_metrics
from lagamc.predictions import Prediction
from lagamc.report_data import write_log, write_rows

PARTS = (
    *(f"sentence_encoder/{name}" for name in ("modules.json", "model.safetensors", "tokenizer.json")),
    "retrieval.safetensors",
)
GENERATOR = tuple(f"generator/{name}" for name in ("config.json", "model.safetensors", "tokenizer.json"))
WORDS = [
    *("parcel", "lamp", "refund", "shop", "colour", "teapot", "invoice", "address"),
    *("curtains", "voucher", "sofa", "thanks", "late", "broken", "wrong"),
]


def some_labels(count: int) -> dict[str, str]:
    """Label names of different lengths with descriptions of different lengths."""
    kinds = ["delivery", "damaged", "wrong or missing article", "refund", "praise", "account"]
    return {
        f"{kinds[i % len(kinds)]} {i}": f"Case {i} of {kinds[i % len(kinds)]}: " + " ".join(WORDS[: 2 + i % 9])
        for i in range(count)
    }


def write_run(
    folder: Path,
    labels: Mapping[str, str],
    rows: int = 400,
    texts: Mapping[int, str] | None = None,
    test: bool = True,
    quality: float = 1.0,
) -> Path:
    """A run whose labels are Zipf-distributed and whose scores are noisy.

    Args:
        folder: is made.
        labels: the bank.
        rows: of each split.
        texts: row -> text, in place of a made-up one.
        test: whether there is a test split.
        quality: 0 is chance, 3 nearly perfect.
    """
    bank = LabelBank(labels)
    for part in (*PARTS, *GENERATOR):
        (folder / part).parent.mkdir(parents=True, exist_ok=True)
        (folder / part).touch()
    bank.to_json(folder / "labels.json")
    random = np.random.default_rng(0)
    shares = np.minimum(0.6, 1.2 / np.arange(1, len(bank) + 1) ** 0.9)
    metrics: dict[str, object] = {"threshold_goal": "micro_f1"}
    write_log(folder, _log())
    for split in ("dev", "test") if test else ("dev",):
        true = (random.random((rows, len(bank))) < shares).astype(np.int8)
        # every third label comes with the one before it
        true[:, 2::3] |= (true[:, 1:-1:3] & (random.random(true[:, 1:-1:3].shape) < 0.5)).astype(np.int8)
        logits = (2 * true - 1) * 2.0 * quality + random.normal(0, 1.6, true.shape) - 1.0
        scores = 1 / (1 + np.exp(-logits))
        chosen = (scores >= 0.4).astype(np.int8)
        examples = [
            Example(
                str(i),
                (texts or {}).get(i, " ".join(random.choice(WORDS, random.integers(5, 120)))),
                tuple(bank.names[label] for label in np.flatnonzero(true[i])),
            )
            for i in range(rows)
        ]
        predictions = [_predict(bank, scores[i], random) for i in range(rows)]
        write_rows(folder, split, examples, bank, scores, chosen, predictions if split == "test" else None)
        metrics |= {f"{split}_{name}": value for name, value in multi_label_metrics(chosen, true).items()}
    (folder / "metrics.json").write_text(json.dumps(metrics), encoding="utf-8")
    config = ArtifactConfig(
        prompt={},
        max_input_length=64,
        max_response_length=64,
        label_counts={name: int(share * 4 * rows) for name, share in zip(bank.names, shares, strict=True)},
        thresholds={"goal": "micro_f1", "overall": 0.4, "per_label": {}},
        figures={"dataset": "made-up", "generator": "none", "train_rows": 4 * rows, "train_seconds": 61.0},
    )
    (folder / "lagamc_config.json").write_text(json.dumps(asdict(config)), encoding="utf-8")
    return folder


def _predict(bank: LabelBank, scores: np.ndarray, random: np.random.Generator) -> Prediction:
    written = [i for i in range(len(bank)) if scores[i] >= 0.5]
    matches = [
        Match(bank.descriptions[i], bank.names[i], float(min(1.0, random.beta(8, 2) + 0.2 * (scores[i] > 0.7))))
        for i in written
    ]
    return Prediction([bank.names[i] for i in written], {}, ". ".join(bank.descriptions[i] for i in written), matches)


def _log() -> list[dict[str, float]]:
    lines: list[dict[str, float]] = []
    for step in range(20, 601, 20):
        fall = float(np.exp(-step / 150))
        parts = {"cross_entropy": 0.3 + 2 * fall, "semantic": 0.02 + 0.5 * fall, "retrieval": 0.1 + 0.4 * fall}
        parts |= {"decision_loss": 0.2 + 1.5 * fall, "loss": 0.2 + 1.6 * fall, "lambda": 0.5 + 0.3 * (1 - fall)}
        lines.append({**parts, "step": step, "epoch": step / 100})
        if step % 100 == 0:
            lines.append({f"eval_{name}": 1.1 * value for name, value in parts.items()} | {"step": step})
    return lines
