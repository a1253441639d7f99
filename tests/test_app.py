from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import gradio as gr
import pytest

from lagamc import app
from lagamc.app import Answer, LabelPage
from lagamc.classifier import LagamcClassifier
from lagamc.errors import LagamcError
from lagamc.matcher import Match
from lagamc.predictions import Prediction
from lagamc.thresholds import Thresholds
from tests.conftest import DESCRIPTIONS, ROWS

TABLE = [[name, text] for name, text in DESCRIPTIONS.items()]
HOSTILE = "<img src=x onerror=alert(1)>"


@pytest.fixture
def page(classifier: LagamcClassifier) -> LabelPage:
    return LabelPage(classifier)


def refused(action: Any, *arguments: Any) -> str:
    with pytest.raises(LagamcError) as error:
        action(*arguments)
    return str(error.value)


def names_of(html: str) -> list[tuple[str, bool, float]]:
    """Names, whether they are given, and scores, as they stand on the page."""
    rows = re.findall(
        r'class="lagamc-row( given)?">\s*<span class="name">(?:✓ )?(.*?)</span>.*?score">(.*?)<', html, re.S
    )
    return [(name, bool(given), float(score)) for given, name, score in rows]


# predicting


def test_answer_is_the_classifiers(page: LabelPage, classifier: LagamcClassifier) -> None:
    answer = page.answer(ROWS[0]["text"], TABLE)
    assert answer.prediction == classifier.predict([ROWS[0]["text"]])[0]
    shown = names_of(page.render(answer, True, 0.5)[0])
    assert [name for name, _, _ in shown] == sorted(DESCRIPTIONS, key=lambda n: -answer.prediction.scores[n])
    assert {name for name, given, _ in shown if given} == set(answer.prediction.labels)


def test_threshold_of_the_slider_replaces_the_tuned_ones(page: LabelPage) -> None:
    answer = page.answer(ROWS[1]["text"], TABLE)
    scores = answer.prediction.scores
    for threshold in (0.01, 0.99, sorted(scores.values())[1]):
        given = {name for name, given, _ in names_of(page.render(answer, False, threshold)[0]) if given}
        assert given == {name for name, score in scores.items() if score >= threshold}


def test_nothing_is_shown_before_a_text(page: LabelPage) -> None:
    assert page.render(None, True, 0.5) == ("", "")


@pytest.mark.parametrize("text", [None, "", "  \n"])
def test_empty_text(page: LabelPage, text: str | None) -> None:
    assert refused(page.answer, text, TABLE) == "Write a text first."


def test_long_text(page: LabelPage) -> None:
    assert page.answer("word " * 2000, TABLE)
    assert "10,001 characters; this page takes up to 10,000" in refused(page.answer, "x" * 10_001, TABLE)


# labels


def test_an_added_label_is_predicted(page: LabelPage) -> None:
    table = [*TABLE, ["parking", "Parking: where to leave the car."]]
    answer = page.answer("Where can I park?", table)
    assert list(answer.prediction.scores) == [*DESCRIPTIONS, "parking"]
    assert "parking" in [name for name, _, _ in names_of(page.render(answer, True, 0.5)[0])]


def test_rows_without_a_name_leave_a_label_out(page: LabelPage) -> None:
    answer = page.answer("Where is it?", [*TABLE[:2], ["", TABLE[2][1]], [None, None]])
    assert list(answer.prediction.scores) == list(DESCRIPTIONS)[:2]


def test_a_reworded_label(page: LabelPage) -> None:
    table = [["late", "Tardy post: nothing came."], *TABLE[1:]]
    assert page.classifier_for(table).bank["late"] == "Tardy post: nothing came"
    assert page.classifier.bank["late"] == DESCRIPTIONS["late"].rstrip(".")


def test_classifiers_of_label_sets_are_kept(page: LabelPage) -> None:
    table = [*TABLE, ["parking", "Parking: where to leave the car."]]
    assert page.classifier_for(table) is page.classifier_for([list(row) for row in table])
    assert page.classifier_for(TABLE) is page.classifier
    assert page.classifier_for(TABLE[:2]) is not page.classifier


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ([*TABLE, ["late", "Late again: another one."]], "The label 'late' stands twice"),
        ([*TABLE, ["x", ""]], "label 'x' has no description"),
        ([*TABLE, ["x", DESCRIPTIONS["late"]]], "have the same description"),
        ([*TABLE, ["x", "word " * 300]], "more than 1,000 characters"),
        ([*TABLE, ["x" * 1001, "a description"]], "more than 1,000 characters"),
        ([[f"label {i}", f"Number {i}: one of many"] for i in range(301)], "301 labels; this page takes up to 300"),
        ([["", ""]], "the label bank is empty"),
        ([*TABLE, ["x"]], "label 'x' has no description"),
    ],
)
def test_a_wrong_table(page: LabelPage, table: list[list[str]], message: str) -> None:
    assert message in refused(page.answer, "A text.", table)


def test_the_labels_as_trained_are_never_too_many_or_too_long(
    classifier: LagamcClassifier, monkeypatch: pytest.MonkeyPatch
) -> None:
    odd = {" padded ": "Padded: a name with white space around it", "two\nlines": "Lines: a name of two of them"}
    page = LabelPage(classifier.with_labels(odd))
    table = [*TABLE, *([name, text] for name, text in odd.items())]
    monkeypatch.setattr(app, "MAX_LABELS", 2)
    monkeypatch.setattr(app, "MAX_DESCRIPTION", 5)
    assert page.classifier_for([[name, text] for name, text in page.classifier.bank.items()]) is page.classifier
    assert "more than 5 characters" in refused(page.classifier_for, table)  # a final full stop is an edit
    monkeypatch.setattr(app, "MAX_DESCRIPTION", 1000)
    more = [[f"label {i}", f"Number {i}: one of many"] for i in range(7)]
    assert "13 labels; this page takes up to 12" in refused(page.classifier_for, [*table, *more])


def test_adding_to_the_table() -> None:
    assert app._add_label(TABLE, " parking ", " Parking: a place. ") == [*TABLE, ["parking", "Parking: a place."]]
    assert "needs a name and a description" in refused(app._add_label, TABLE, "x", " ")
    assert "is there already" in refused(app._add_label, TABLE, "late", "x")


# files


def write(path: Path, rows: list[dict[str, Any]]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def test_a_file_is_predicted(page: LabelPage, tmp_path: Path) -> None:
    source = write(tmp_path / "in.jsonl", [{"id": row["id"], "message": row["text"]} for row in ROWS])
    target, summary = page.batch(source, "message", TABLE, True, 0.5)
    lines = [json.loads(line) for line in Path(target).read_text("utf-8").splitlines()]
    assert [line["id"] for line in lines] == [row["id"] for row in ROWS]
    assert [line["labels"] for line in lines] == [p.labels for p in page.classifier.predict([r["text"] for r in ROWS])]
    assert summary.startswith("6 rows")
    assert Path(target).name == "predictions.jsonl"


def test_a_file_by_the_sliders_threshold_and_other_labels(page: LabelPage, tmp_path: Path) -> None:
    source = write(tmp_path / "in.jsonl", [{"text": "Where is it?"}])
    table = [*TABLE, ["parking", "Parking: where to leave the car."]]
    target, _ = page.batch(source, "text", table, False, 0.01)
    line = json.loads(Path(target).read_text("utf-8"))
    assert list(line["scores"]) == [*DESCRIPTIONS, "parking"]
    assert set(line["labels"]) == {name for name, score in line["scores"].items() if score >= 0.01}


def test_the_sliders_threshold_is_for_one_file(page: LabelPage, tmp_path: Path) -> None:
    source = write(tmp_path / "in.jsonl", ROWS)
    targets = [page.batch(source, "text", TABLE, tuned, 0.01)[0] for tuned in (True, False, True)]
    first, second, third = (
        [json.loads(line)["labels"] for line in Path(target).read_text("utf-8").splitlines()] for target in targets
    )
    assert first == third
    assert first != second
    assert page.classifier.rules.thresholds.per_label


def test_files_that_are_too_large(page: LabelPage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = write(tmp_path / "in.jsonl", [{"text": "x"}] * 4)
    monkeypatch.setattr(app, "MAX_ROWS", 3)
    assert "more than 3 rows; use `lagamc predict`" in refused(page.batch, source, "text", TABLE, True, 0.5)
    monkeypatch.setattr(app, "MAX_ROWS", 4)
    assert page.batch(source, "text", TABLE, True, 0.5)
    monkeypatch.setattr(app, "MAX_CHARACTERS", 1)
    assert page.batch(source, "text", TABLE, True, 0.5)
    long = write(tmp_path / "long.jsonl", [{"text": "x"}, {"text": "xx"}])
    assert "line 2: the text has more than 1 characters" in refused(page.batch, long, "text", TABLE, True, 0.5)
    monkeypatch.setattr(app, "MAX_UPLOAD", 10)
    assert "larger than" in refused(page.batch, source, "text", TABLE, True, 0.5)


def test_a_bad_file_names_its_line(page: LabelPage, tmp_path: Path) -> None:
    source = write(tmp_path / "in.jsonl", [{"text": "x"}, {"other": "x"}])
    assert "line 2: expected a column 'text'" in refused(page.batch, source, "text", TABLE, True, 0.5)


# what is shown


def answer_of(labels: dict[str, str], scores: dict[str, float], *matches: Match) -> Answer:
    return Answer(Prediction([], scores, "", list(matches)), labels, Thresholds(overall=0.5), 0.4)


def test_hostile_text_is_text(page: LabelPage) -> None:
    labels = {HOSTILE: f"Bad: {HOSTILE}", "${7*7}": "{{ 7*7 }}"}
    answer = answer_of(labels, {HOSTILE: 0.9, "${7*7}": 0.1}, Match(HOSTILE, HOSTILE, 0.9), Match(HOSTILE, None, 0.1))
    for html in page.render(answer, True, 0.5):
        assert "<img" not in html
        assert "&lt;img src=x onerror=alert(1)&gt;" in html
    assert "<img" not in app._alert(HOSTILE)
    assert "${7*7}" in page.render(answer, True, 0.5)[0]


def test_written_beside_matched(page: LabelPage) -> None:
    answer = answer_of({"a": "First: one"}, {"a": 0.9}, Match("first one", "a", 0.875), Match("else", None, 0.2))
    written = page.render(answer, True, 0.5)[1]
    assert re.search(r"first one</td><td[^>]*><strong>a</strong>: First: one</td><td[^>]*>0.875", written)
    assert "(none: less similar than 0.4 to every description)" in written
    assert "The model wrote nothing" in page.render(answer_of({"a": "x"}, {"a": 0.1}), True, 0.5)[1]


def test_low_scores_are_left_out_where_there_are_many(page: LabelPage) -> None:
    scores = {f"label {i}": 0.6 - i / 1000 for i in range(90)}
    answer = answer_of({name: f"It is {name}" for name in scores}, scores)
    assert len(names_of(page.render(answer, False, 0.9)[0])) == app.SHOWN
    assert "75 with lower scores are not shown" in page.render(answer, False, 0.9)[0]
    assert len(names_of(page.render(answer, False, 0.57)[0])) == 31  # every label that is given


# the layout


def test_the_page_offers_no_interface_to_programs(page: LabelPage) -> None:
    page.examples = ["One.", "Two."]
    blocks = page.build()
    config = blocks.get_config_file()
    assert not blocks.analytics_enabled
    assert not blocks.api_open
    assert {dependency["api_visibility"] for dependency in config["dependencies"]} <= {"private", "undocumented"}
    labels = {component["props"].get("label") for component in config["components"]}
    assert {"Text", "One threshold for all", "Predictions"} <= labels


def test_events_use_the_model_one_at_a_time(page: LabelPage) -> None:
    functions = page.build().fns.values()
    limits = {function.concurrency_limit for function in functions if function.concurrency_id == "model"}
    assert limits == {1}
    assert isinstance(page.build(), gr.Blocks)
