"""The model card, rendered from the top-level `model_card.md`. What was not measured is left out."""

from __future__ import annotations

import re
import sysconfig
from collections import defaultdict
from dataclasses import asdict
from pathlib import Path
from typing import Any

import jinja2
from huggingface_hub import EvalResult, ModelCardData
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id

from lagamc.artifact import CARD_FILE, ArtifactConfig, card_digest, edited_card, library_versions
from lagamc.labels import LabelBank
from lagamc.losses import LossSettings
from lagamc.thresholds import Thresholds

TEMPLATE = "model_card.md"
FEW_ROWS = 10  # training rows below which a label is named among the risks
# what Markdown or HTML could take for more than text; an underscore inside a word is none
_MARKS = re.compile(r"[&<>|`*\[\]\\~$]|(?<!\w)_|_(?!\w)")
_CONTROLS = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]+")


def template_path() -> Path:
    """The template: in the source tree, or where the wheel puts it."""
    candidates = (
        Path(__file__).parent.parent / TEMPLATE,
        *(
            Path(sysconfig.get_path("data", scheme)) / "share" / "lagamc" / TEMPLATE
            for scheme in (sysconfig.get_default_scheme(), sysconfig.get_preferred_scheme("user"))
        ),
        Path(__file__).parent.parent / "share" / "lagamc" / TEMPLATE,  # of `pip install --target`
    )
    for path in candidates:
        if path.is_file():
            return path
    raise FileNotFoundError(f"{TEMPLATE} is in none of {[str(path.parent) for path in candidates]}")


def card_data(config: ArtifactConfig, title: str, dataset: str) -> ModelCardData:
    """The card's metadata; results only where the test rows were measured."""
    figures = config.figures
    evaluation = figures.get("evaluation", {})
    on_hub = figures.get("dataset_on_hub")
    results = [
        EvalResult(
            task_type="text-classification",
            task_name="Multi-label text classification",
            dataset_type=on_hub or dataset,
            dataset_name=dataset,
            dataset_split="test",
            dataset_revision=figures.get("dataset_revision"),
            metric_type="f1",
            metric_name=f"{average.capitalize()} F1",
            metric_value=round(evaluation[f"test_{average}_f1"], 4),
        )
        for average in ("micro", "macro")
        if f"test_{average}_f1" in evaluation
    ]
    return ModelCardData(
        library_name="lagamc",
        license=figures.get("license"),
        base_model=_base_model(config),
        datasets=[on_hub] if on_hub else None,
        tags=["multi-label-text-classification", "label-descriptions", "lagamc"],
        pipeline_tag="text-classification",
        model_name=title,
        eval_results=results or None,
    )


def render_card(
    config: ArtifactConfig,
    bank: LabelBank,
    title: str | None = None,
    dataset: str | None = None,
) -> str:
    """The text of the model card.

    Args:
        config: of the model, with the figures measured.
        bank: its labels.
        title: heading of the card; None names the data set.
        dataset: name of the data set in the metadata; None takes the recorded one.
    """
    dataset = dataset or config.figures.get("dataset") or "custom"
    if title is None:
        title = f"LAGAMC on {dataset}" if config.figures.get("dataset") else "LAGAMC model"
    environment = jinja2.Environment(
        undefined=jinja2.StrictUndefined,
        keep_trailing_newline=True,
        autoescape=False,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"plain": plain, "count": "{:,}".format, "figure": _figure, "percent": _percent}
    evaluation: dict[str, Any] = config.figures.get("evaluation", {})
    per_label = evaluation.get("test_labels", {})
    limits = Thresholds(**config.thresholds).values(bank.names).tolist()
    command = str(config.figures.get("command") or "")
    card = environment.from_string(template_path().read_text(encoding="utf-8")).render(
        **{
            **asdict(config),
            "loss": LossSettings(**config.loss),  # settings that a model was trained before are the usual ones
            "figures": defaultdict(lambda: None, config.figures),
            "versions": config.versions or library_versions(),
            "card_data": card_data(config, title, dataset).to_yaml(),
            "title": title,
            "bank": bank,
            "model_id": config.figures.get("model_id"),
            "base_model_id": _base_model(config),
            "base_commit": config.base_revision or config.figures.get("base_revision"),
            "evaluation": defaultdict(lambda: None, evaluation),
            "per_label": per_label if all(name in per_label for name in bank) else None,
            "limits": dict(zip(bank.names, limits, strict=True)),
            "few": FEW_ROWS,
            "absent": [name for name in config.untrained if config.label_counts.get(name) == 0],
            "added": [name for name in config.untrained if config.label_counts.get(name) != 0],
            "rare": [
                name
                for name in bank
                if 0 <= config.label_counts.get(name, -1) < FEW_ROWS and name not in config.untrained
            ],
            "fence": "`" * max([3, *(len(run) + 1 for run in re.findall("`+", command))]),
        }
    )
    return re.sub(r"\n{3,}", "\n\n", card).rstrip() + "\n"


def rewrite_card(folder: str | Path, config: ArtifactConfig, bank: LabelBank, target: str | Path) -> bool:
    """Writes the card of a folder anew, after its configuration has changed.

    Args:
        folder: of the model.
        config: to be written after it: the card's digest is set.
        bank: the labels.
        target: folder that it is written to.

    Returns:
        False where the card was changed by hand and is left as it is.

    Raises:
        OSError: it cannot be written.
    """
    if edited_card(folder, config) is not None:
        return False
    text = render_card(config, bank)
    (Path(target) / CARD_FILE).write_text(text, encoding="utf-8")
    config.card_digest = card_digest(text)
    return True


def plain(text: object) -> str:
    """A text as it stands on one line: nothing in it is taken for Markdown or HTML, and it cannot leave its cell."""
    line = " ".join(_CONTROLS.sub(" ", str(text)).split())
    return _MARKS.sub(lambda mark: f"&#{ord(mark[0])};", line)


def _figure(number: float, digits: int = 3) -> str:
    return f"{number:.{digits}f}"


def _percent(share: float, digits: int = 1) -> str:
    return f"{100 * share:.{digits}f} %"


def without_evaluation(figures: dict[str, Any]) -> dict[str, Any]:
    """The figures of a model whose thresholds or labels are no longer those that were measured."""
    return {name: value for name, value in figures.items() if name not in ("evaluation", "calibration")}


def _base_model(config: ArtifactConfig) -> str | None:
    """Its name on the Hub; a folder has none."""
    name = config.figures.get("base_model", config.base_model)
    if name is None or Path(name).is_dir():
        return None
    try:
        validate_repo_id(name)
    except HFValidationError:
        return None
    return str(name)
