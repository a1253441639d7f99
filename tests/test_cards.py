from __future__ import annotations

import dataclasses
import re
from typing import Any

import pytest
from huggingface_hub import ModelCard

from lagamc.artifact import ArtifactConfig, read_config
from lagamc.cards import render_card
from lagamc.labels import LabelBank
from tests.artifacts import Trained

NOTHING = re.compile(r"\b(none|nan|null|undefined)\b|\{\{|\}\}|\{%", re.IGNORECASE)


@pytest.fixture
def without_test(trained_t5: Trained) -> ArtifactConfig:
    """The configuration of an adapter whose run had no test rows."""
    config = read_config(trained_t5.folder)
    evaluation = {k: v for k, v in config.figures["evaluation"].items() if not k.startswith("test_")}
    return dataclasses.replace(config, figures={**config.figures, "evaluation": evaluation})


@pytest.fixture
def whole_with_test(trained_t5: Trained, trained_whole: Trained) -> ArtifactConfig:
    """The configuration of a generator trained whole whose run had test rows."""
    config = read_config(trained_whole.folder)
    evaluation = read_config(trained_t5.folder).figures["evaluation"]
    return dataclasses.replace(config, figures={**config.figures, "evaluation": evaluation})


@pytest.fixture(params=["adapter", "adapter without test", "generator", "generator without test"])
def case(request: pytest.FixtureRequest) -> tuple[str, ArtifactConfig]:
    if request.param == "adapter":
        return request.param, read_config(request.getfixturevalue("trained_t5").folder)
    if request.param == "generator without test":
        return request.param, read_config(request.getfixturevalue("trained_whole").folder)
    return request.param, request.getfixturevalue(
        {"adapter without test": "without_test", "generator": "whole_with_test"}[request.param]
    )


def results(card: ModelCard) -> dict[str, Any]:
    return {result.metric_name: result.metric_value for result in card.data.eval_results or []}


def test_card_of_every_kind(case: tuple[str, ArtifactConfig], bank: LabelBank) -> None:
    kind, config = case
    text = render_card(config, bank, title="Shop mail", dataset="shop-mail")
    card = ModelCard(text)
    assert NOTHING.search(text) is None, NOTHING.search(text)
    assert card.data.library_name == "lagamc"
    assert card.data.pipeline_tag == "text-classification"
    assert text.count("# Shop mail") == 1
    assert all(f"`{name}` | {description} |" in text for name, description in bank.items())

    adapter = kind.startswith("adapter")
    assert card.data.base_model is None  # a folder is no name on the Hub
    config.base_model = "google/flan-t5-large" if adapter else None
    again = ModelCard(render_card(config, bank))
    assert again.data.base_model == config.base_model
    assert ("LoRA rank" in text) == adapter

    evaluation = config.figures["evaluation"]
    if kind.endswith("without test"):
        assert results(card) == {}
        assert "| test" not in text
        assert "test rows" not in text
    else:
        assert results(card) == {
            "Micro F1": round(evaluation["test_micro_f1"], 4),
            "Macro F1": round(evaluation["test_macro_f1"], 4),
        }
        assert card.data.eval_results[0].dataset_name == "shop-mail"
        assert f"| test | {evaluation['test_micro_f1']:.4f} | {evaluation['test_macro_f1']:.4f} |" in text
    assert f"| development | {evaluation['dev_micro_f1']:.4f} | {evaluation['dev_macro_f1']:.4f} |" in text


def test_tables_have_rows_of_one_width(case: tuple[str, ArtifactConfig], bank: LabelBank) -> None:
    _, config = case
    tables, rows = [], []
    for line in [*render_card(config, bank).splitlines(), ""]:
        if line.startswith("|"):
            rows.append(line.replace("\\|", "").count("|"))
        elif rows:
            tables.append(rows)
            rows = []
    assert len(tables) == 3
    assert all(len(set(rows)) == 1 for rows in tables), tables


def test_card_before_any_evaluation(trained_t5: Trained, bank: LabelBank) -> None:
    config = read_config(trained_t5.folder)
    for absent in ("evaluation", "train_seconds", "collapse"):
        config.figures.pop(absent)
    text = render_card(config, bank)
    assert NOTHING.search(text) is None
    assert "## Results" not in text
    assert results(ModelCard(text)) == {}


def test_figure_of_zero_is_a_result(trained_t5: Trained, bank: LabelBank) -> None:
    config = read_config(trained_t5.folder)
    config.figures["evaluation"] |= {"test_micro_f1": 0.0, "test_macro_f1": 0.0}
    assert results(ModelCard(render_card(config, bank))) == {"Micro F1": 0.0, "Macro F1": 0.0}


def test_pipes_and_line_breaks_stay_in_their_cell(trained_whole: Trained) -> None:
    bank = LabelBank({"a|b": "This | that", "c": "Other\nthings"})
    text = render_card(read_config(trained_whole.folder), bank)
    assert "| `a\\|b` | This \\| that |" in text
    assert "| `c` | Other things |" in text


def test_thresholds_are_shown(trained_t5: Trained, bank: LabelBank) -> None:
    config = read_config(trained_t5.folder)
    config.thresholds = {"goal": "macro_f1", "overall": 0.31, "per_label": {"late": 0.77}}
    rows = {line.split("`")[1]: line for line in render_card(config, bank).splitlines() if line.startswith("| `")}
    assert rows["late"].endswith("| 0.77 |")
    assert rows["praise"].endswith("| 0.31 |")


def test_collapsed_encoder_is_said(trained_t5: Trained, bank: LabelBank) -> None:
    config = read_config(trained_t5.folder)
    config.figures["collapse"] = 0.95
    assert "**collapsed**" in render_card(config, bank)
    config.figures["collapse"] = 0.5
    assert "**collapsed**" not in render_card(config, bank)


def test_a_training_run_writes_its_card(trained: Trained) -> None:
    text = (trained.folder / "README.md").read_text(encoding="utf-8")
    card = ModelCard(text)
    assert results(card) == {
        name: round(trained.figures[key], 4)
        for name, key in (("Micro F1", "test_micro_f1"), ("Macro F1", "test_macro_f1"))
        if key in trained.figures
    }
    assert NOTHING.search(text) is None
