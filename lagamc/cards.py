"""The model card, rendered from the top-level `model_card.md`. What was not measured is left out."""

from __future__ import annotations

import sysconfig
from dataclasses import asdict
from pathlib import Path
from typing import Any

import jinja2
from huggingface_hub import EvalResult, ModelCardData

from lagamc.artifact import ArtifactConfig, library_versions
from lagamc.labels import LabelBank
from lagamc.thresholds import Thresholds

TEMPLATE = "model_card.md"


def template_path() -> Path:
    """The template: in the source tree, or where the wheel puts it."""
    candidates = (
        Path(__file__).parent.parent / TEMPLATE,
        Path(sysconfig.get_path("data")) / "share" / "lagamc" / TEMPLATE,
    )
    for path in candidates:
        if path.is_file():
            return path
    raise FileNotFoundError(f"{TEMPLATE} is in none of {[str(path.parent) for path in candidates]}")


def card_data(config: ArtifactConfig, title: str, dataset: str) -> ModelCardData:
    """The card's metadata; results only where the test rows were measured."""
    evaluation = config.figures.get("evaluation", {})
    base = config.base_model or config.figures.get("base_model")
    results = [
        EvalResult(
            task_type="text-classification",
            task_name="Multi-label text classification",
            dataset_type=dataset,
            dataset_name=dataset,
            dataset_split="test",
            metric_type="f1",
            metric_name=f"{average.capitalize()} F1",
            metric_value=round(evaluation[f"test_{average}_f1"], 4),
        )
        for average in ("micro", "macro")
        if f"test_{average}_f1" in evaluation
    ]
    return ModelCardData(
        library_name="lagamc",
        base_model=None if base is None or Path(base).is_dir() else base,  # a folder is no Hub model
        tags=["multi-label-text-classification", "label-descriptions", "lagamc"],
        pipeline_tag="text-classification",
        model_name=title,
        eval_results=results or None,
    )


def render_card(
    config: ArtifactConfig, bank: LabelBank, title: str = "LAGAMC model", dataset: str | None = None
) -> str:
    """The text of the model card.

    Args:
        config: of the model, with the figures measured.
        bank: its labels.
        title: heading of the card.
        dataset: name of the data set in the metadata.
    """
    environment = jinja2.Environment(undefined=jinja2.StrictUndefined, keep_trailing_newline=True, autoescape=False)
    environment.filters["cell"] = lambda text: " ".join(str(text).split()).replace("|", "\\|")
    evaluation: dict[str, Any] = config.figures.get("evaluation", {})
    thresholds = Thresholds(**config.thresholds)
    fields = {**asdict(config), "versions": config.versions or library_versions()}
    return environment.from_string(template_path().read_text(encoding="utf-8")).render(
        **{
            **fields,
            "card_data": card_data(config, title, dataset or config.figures.get("dataset", "custom")).to_yaml(),
            "title": title,
            "bank": bank,
            "evaluation": evaluation,
            "per_label": evaluation.get("test_labels"),
            "thresholds": dict(zip(bank.names, thresholds.values(bank.names).tolist(), strict=True)),
        }
    )
