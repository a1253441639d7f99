from __future__ import annotations

import dataclasses
import json
import re
from html import unescape
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import ModelCard

from lagamc import cards, cli
from lagamc.artifact import CARD_FILE, ArtifactConfig, read_config
from lagamc.cards import render_card
from lagamc.classifier import LagamcClassifier
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
    assert all(f"| {name} | {description} |" in text for name, description in bank.items())

    adapter = kind.startswith("adapter")
    assert card.data.base_model is None  # a folder is no name on the Hub
    config.figures |= {"base_model": "google/flan-t5-large", "base_revision": "0" * 40}
    again = ModelCard(render_card(config, bank))
    assert again.data.base_model == "google/flan-t5-large"
    assert f"revision `{'0' * 40}`" in again.content
    assert ("LoRA rank" in text) == adapter

    evaluation = config.figures["evaluation"]
    if kind.endswith("without test"):
        assert results(card) == {}
        assert "| test" not in text
        assert "| test rows |" not in text
    else:
        assert results(card) == {
            "Micro F1": round(evaluation["test_micro_f1"], 4),
            "Macro F1": round(evaluation["test_macro_f1"], 4),
        }
        assert card.data.eval_results[0].dataset_name == "shop-mail"
        assert f"| test | {evaluation['test_micro_f1']:.4f} | {evaluation['test_macro_f1']:.4f} |" in text
    assert f"flatters the model) | {evaluation['dev_micro_f1']:.4f} | {evaluation['dev_macro_f1']:.4f} |" in text


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


ODD = {
    "a|b `x`": "This | that",
    "<script>alert(1)</script>": "Other\nthings \\| and \\",
    "*bold* _under_ wrong_item": "[link](http://x.y) ![picture](z) <b>bold</b> $x$ ~~gone~~ &amp; & co",
    "{{ 7 * 7 }}": "{% if x %} \u202ebackwards\u202c",
    "émoji 👩\u200d👧": "# no heading",
}


def test_odd_labels_stay_in_their_cell_as_they_are(trained_whole: Trained) -> None:
    markdown_it = pytest.importorskip("markdown_it")
    bank = LabelBank(ODD)
    config = read_config(trained_whole.folder)
    config.figures["dataset"] = "my | `data` <i>"
    config.untrained = list(ODD)
    config.figures.pop("evaluation")
    config.figures.pop("collapse", None)  # of a tiny encoder: near the limit, above it or below
    text = render_card(config, bank)
    html = markdown_it.MarkdownIt("gfm-like", {"html": True, "linkify": False}).render(ModelCard(text).text)
    assert not re.findall(r"<(script|b|i|em|strong|img|del)\b", html)
    assert "<h1>LAGAMC on my | `data` &lt;i&gt;</h1>" in html
    assert html.count("http://x.y") == 1
    assert 'href="http://x.y"' not in html
    rows = [re.findall(r"<td>(.*?)</td>", row, flags=re.DOTALL) for row in html.split("<tr>")]
    shown = {unescape(row[0]): unescape(row[1]) for row in rows if len(row) == 3}
    expected = {name: " ".join(re.sub("[\u202c\u202e]", " ", text).split()) for name, text in bank.items()}
    assert shown == expected


def test_thresholds_are_shown(trained_t5: Trained, bank: LabelBank) -> None:
    config = read_config(trained_t5.folder)
    config.thresholds = {"goal": "macro_f1", "overall": 0.31, "per_label": {"late": 0.77}}
    lines = [line for line in render_card(config, bank).splitlines() if line.startswith("| ")]
    rows = {line.split(" ")[1]: line for line in lines}
    assert rows["late"].endswith("| 0.77 |")
    assert rows["praise"].endswith("| 0.31 |")


def test_the_template_of_an_installation_for_one_user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = tmp_path / "user" / "share" / "lagamc"
    place.mkdir(parents=True)
    (place / cards.TEMPLATE).write_text("a card", encoding="utf-8")
    user = cards.sysconfig.get_preferred_scheme("user")
    monkeypatch.setattr(cards, "__file__", str(tmp_path / "site-packages" / "lagamc" / "cards.py"))
    monkeypatch.setattr(cards.sysconfig, "get_path", lambda _, scheme: tmp_path / ("user" if scheme == user else "no"))
    assert cards.template_path() == place / cards.TEMPLATE


@pytest.mark.parametrize("lexical", [False, True])
@pytest.mark.parametrize("stride", [0, 16])
def test_long_texts_are_cut_or_read_in_windows(
    trained_t5: Trained, bank: LabelBank, stride: int, lexical: bool
) -> None:
    config = dataclasses.replace(trained_t5.load().config, window_stride=stride, lexical=lexical)
    card = render_card(config, bank)
    assert ("are cut; what stands behind is not read" in card) is not (bool(stride) or lexical)
    assert ("are read in windows" in card) is bool(stride)
    assert ("its words" in card) is lexical


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
    config = read_config(trained.folder)
    assert f"{config.lambda_mode}, {config.lambda_value:.3f} at the end" in text
    assert abs(config.lambda_value - 0.5) > 1e-4, "lambda at the start was shown"


def test_a_run_of_which_little_is_known(bank: LabelBank) -> None:
    """As of the folder of a model that was put together in Python: nothing is made up, nothing fails."""
    config = ArtifactConfig(prompt={}, max_input_length=64, max_response_length=32)
    config.loss["semantic_form"] = "none"
    text = render_card(config, bank)
    assert NOTHING.search(text) is None
    facts = text.split("## Limits")[0]
    absent = ("lambda", "fidelity", "cosine", "## Results", "training rows", "licence", "calibration error")
    assert [word for word in absent if word in facts] == []
    assert text.count("```") == 2, "no command is known"
    assert "Thresholds were not tuned and probabilities not calibrated" in text
    assert ModelCard(text).data.license is None
    assert ModelCard(text).data.base_model is None


def test_cross_entropy_alone_has_no_lambda(trained_whole: Trained, bank: LabelBank) -> None:
    config = read_config(trained_whole.folder)
    config.loss |= {"semantic_form": "none", "retrieval_weight": 0.0}
    config.figures["sentence_encoder_trained"] = False
    text = render_card(config, bank)
    assert "lambda" not in text
    assert "retrieval term" not in text
    assert "trained together with it" not in text
    assert ", as it was |" in text


def test_metadata_of_data_set_and_licence(trained_t5: Trained, bank: LabelBank) -> None:
    config = read_config(trained_t5.folder)
    config.figures |= {"dataset": "you/mail", "dataset_on_hub": "you/mail", "license": "mit"}
    data = ModelCard(render_card(config, bank)).data
    assert (data.license, data.datasets) == ("mit", ["you/mail"])
    assert data.eval_results[0].dataset_type == "you/mail"


def test_fence_of_the_command_is_longer_than_its_own(trained_t5: Trained, bank: LabelBank) -> None:
    config = read_config(trained_t5.folder)
    config.figures["command"] = "lagamc train --instruction '````'"
    assert "\n`````\nlagamc train --instruction '````'\n`````\n" in render_card(config, bank)


def test_card_follows_new_thresholds_and_labels(
    trained_t5: Trained, session_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = trained_t5.copy_to(tmp_path / "model")
    words = ["evaluate", str(folder), str(session_data / "test.jsonl"), "--tune", "--device", "cpu"]
    assert cli.main([*words, "--goal", "precision>=0.9", "--unlabelled", "drop"]) == 0
    config, text = read_config(folder), (folder / CARD_FILE).read_text(encoding="utf-8")
    assert f"| {config.thresholds['overall']:.2f} |" in text
    assert "tuned again after training, on 5 rows: thresholds for precision>=0.9" in text
    tuned = json.loads(capsys.readouterr().out)["tuned"][config.scores]
    assert f"{tuned['ece_before']:.4f} before, {tuned['ece_after']:.4f} after" in text
    for old in ("## Results", "recall", "| test rows |"):
        assert old not in text, "figures of the old thresholds"
    assert results(ModelCard(text)) == {}

    wider = LagamcClassifier.from_pretrained(folder, "cpu").with_labels({"angry": "Angry: the customer is not happy"})
    wider.save_pretrained(tmp_path / "wider")
    text = (tmp_path / "wider" / CARD_FILE).read_text(encoding="utf-8")
    assert "| angry | Angry: the customer is not happy |" in text
    assert "never measured: angry." in text

    (folder / CARD_FILE).write_text("# My own card", encoding="utf-8")
    assert cli.main([*words, "--goal", "macro_f1"]) == 0
    assert (folder / CARD_FILE).read_text(encoding="utf-8") == "# My own card"
    assert "the model card was changed by hand and is left as it is" in capsys.readouterr().err
    assert read_config(folder).thresholds["goal"] == "macro_f1"
