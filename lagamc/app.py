"""The page to try a model, built with Gradio; `lagamc.serving` puts it on an address."""

from __future__ import annotations

import os
import tempfile
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import Any

os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # read when gradio is imported

import gradio as gr
import jinja2

from lagamc.classifier import LagamcClassifier
from lagamc.data import Columns
from lagamc.errors import LagamcError
from lagamc.labels import LabelBank
from lagamc.predictions import Prediction
from lagamc.rows import ENDINGS, read_rows
from lagamc.streaming import predict_file
from lagamc.thresholds import Thresholds

MAX_CHARACTERS = 10_000  # of a text
MAX_LABELS = 300
MAX_DESCRIPTION = 1_000  # characters
MAX_UPLOAD = 5 * 2**20  # bytes
MAX_ROWS = 2_000  # of an uploaded file
MAX_WAITING = 20  # requests
SHOWN = 15  # labels that are not given are listed up to this place
STYLE = """
.lagamc-row { display: grid; grid-template-columns: minmax(6rem, 14rem) 1fr 3.5rem; gap: .6rem; align-items: center;
  padding: .15rem 0; }
.lagamc-row.given { font-weight: 600; }
.lagamc-row .name { overflow-wrap: anywhere; }
.lagamc-track { position: relative; background: #8884; height: .9rem; border-radius: .2rem; }
.lagamc-bar { background: #999; height: 100%; border-radius: .2rem; }
.given .lagamc-bar { background: #0072B2; }
.lagamc-limit { position: absolute; top: -.15rem; bottom: -.15rem; width: 2px; background: #D55E00; }
.lagamc-written { width: 100%; border-collapse: collapse; }
.lagamc-written, .lagamc-written tr { border: 0; }
.lagamc-written .lagamc-cell { text-align: left; vertical-align: top; padding: .3rem .6rem .3rem 0; border: 0;
  border-bottom: 1px solid #8884; overflow-wrap: anywhere; }
.lagamc-written .lagamc-cell:last-child { white-space: nowrap; overflow-wrap: normal; padding-right: 0; }
.lagamc-title { margin: 0 0 .5rem; font-size: 1.1rem; }
.lagamc-alert { border-left: 4px solid #D55E00; padding: .4rem .8rem; white-space: pre-wrap; }
"""

Rows = Sequence[Sequence[Any]]


@dataclass(frozen=True)
class Answer:
    """A prediction and what it is shown with, kept while the threshold is moved."""

    prediction: Prediction
    bank: dict[str, str]
    thresholds: Thresholds
    minimum: float | None


class LabelPage:
    """The page: what its parts do, and their layout.

    Args:
        classifier: the model.
        examples: texts to choose from.
        title: heading of the page.
    """

    def __init__(self, classifier: LagamcClassifier, examples: Sequence[str] = (), title: str = "LAGAMC"):
        self.classifier = classifier
        self.examples = list(examples)
        self.title = title
        self._one_at_a_time = threading.Lock()  # the classifier's parts are shared between label sets
        self._with_labels = lru_cache(maxsize=8)(self._make_classifier)
        environment = jinja2.Environment(loader=jinja2.PackageLoader("lagamc"), autoescape=True)
        self._template = environment.get_template("prediction.html")

    # what is computed

    def classifier_for(self, rows: Rows) -> LagamcClassifier:
        """The classifier of an edited label table; the last ones are kept.

        Args:
            rows: label and description; rows without a label are left out.

        Raises:
            LagamcError: the table is no label bank, or too large.
        """
        return self._with_labels(tuple(_labels_of(rows, self.classifier.bank).items()))

    def _make_classifier(self, labels: tuple[tuple[str, str], ...]) -> LagamcClassifier:
        bank = LabelBank(dict(labels))
        return self.classifier if dict(bank) == dict(self.classifier.bank) else self.classifier.with_bank(bank)

    def answer(self, text: str | None, rows: Rows) -> Answer:
        """Predicts one text.

        Raises:
            LagamcError: the text is empty or too long, or the label table is wrong.
        """
        text = text or ""
        if not text.strip():
            raise LagamcError("Write a text first.")
        if len(text) > MAX_CHARACTERS:
            raise LagamcError(f"The text has {len(text):,} characters; this page takes up to {MAX_CHARACTERS:,}.")
        with self._one_at_a_time:
            classifier = self.classifier_for(rows)
            prediction = classifier.predict([text])[0]
        return Answer(
            prediction, dict(classifier.bank), classifier.rules.thresholds, classifier.config.minimum_similarity
        )

    def batch(self, path: str, column: str, rows: Rows, tuned: bool, threshold: float) -> tuple[str, str]:
        """Predicts a file.

        Args:
            path: of the uploaded file.
            column: where the text stands.
            rows: the label table.
            tuned: whether the thresholds of training decide.
            threshold: decides otherwise.

        Returns:
            the file of predictions, and what was done.

        Raises:
            LagamcError: the file is too large or not as expected.
        """
        if os.path.getsize(path) > MAX_UPLOAD:
            raise LagamcError(f"The file is larger than {MAX_UPLOAD // 2**20} MiB; use `lagamc predict`.")
        count = 0
        for number, row in islice(read_rows(path), MAX_ROWS + 1):
            count += 1
            if len(str(row.get(column, ""))) > MAX_CHARACTERS:
                raise LagamcError(
                    f"{path}, line {number}: the text has more than {MAX_CHARACTERS:,} characters; "
                    "use `lagamc predict`."
                )
        if count > MAX_ROWS:
            raise LagamcError(f"The file holds more than {MAX_ROWS:,} rows; use `lagamc predict`.")
        target = Path(tempfile.mkdtemp(dir=os.environ.get("GRADIO_TEMP_DIR"))) / "predictions.jsonl"
        settings: dict[str, Any] = {} if tuned else {"threshold": threshold}
        with self._one_at_a_time:
            classifier = self.classifier_for(rows)
            summary = predict_file(classifier, path, str(target), Columns(text=column), progress=False, **settings)
        return str(target), str(summary)

    def render(self, answer: Answer | None, tuned: bool, threshold: float) -> tuple[str, str]:
        """The parts of the page that show an answer: scores, and written beside matched descriptions."""
        if answer is None:
            return "", ""
        prediction, bank = answer.prediction, answer.bank
        thresholds = answer.thresholds if tuned else Thresholds(overall=threshold)
        limits = dict(zip(bank, thresholds.values(list(bank)).tolist(), strict=True))
        ranked = sorted(prediction.scores, key=lambda name: -prediction.scores[name])
        given = {name for name in ranked if prediction.scores[name] >= limits[name]}
        shown = [name for place, name in enumerate(ranked) if name in given or place < SHOWN]
        fields = {"prediction": prediction, "bank": bank, "limits": limits, "given": given, "shown": shown}
        scores, written = (
            self._template.render(part=part, minimum=answer.minimum, **fields) for part in ("scores", "written")
        )
        return scores, written

    # the layout

    def build(self) -> gr.Blocks:
        """The page, ready to be launched."""
        bank, thresholds = self.classifier.bank, self.classifier.rules.thresholds
        table = [[name, text] for name, text in bank.items()]
        with gr.Blocks(title=self.title, analytics_enabled=False, delete_cache=(3600, 3600)) as page:
            answer = gr.State(None)
            gr.HTML(f"<h1>{_escape(self.title)}</h1>")
            with gr.Row():
                with gr.Column():
                    text = gr.Textbox(label="Text", lines=5, max_length=MAX_CHARACTERS, elem_id="text", autofocus=True)
                    run = gr.Button("Predict", variant="primary", elem_id="predict")
                    tuned = gr.Checkbox(True, label="Thresholds tuned in training", elem_id="tuned")
                    threshold = gr.Slider(
                        0.01, 0.99, thresholds.overall, step=0.01, label="One threshold for all", elem_id="threshold"
                    )
                    samples = self.examples and gr.Examples([[sample] for sample in self.examples], text)
                with gr.Column():
                    message = gr.HTML(elem_id="message")
                    scores = gr.HTML(elem_id="scores")
                    written = gr.HTML(elem_id="written")
            with gr.Accordion("Label set", open=True):
                labels = gr.Dataframe(
                    table,
                    headers=["label", "description"],
                    datatype="str",
                    type="array",
                    column_count=2,
                    column_widths=["25%", "75%"],
                    interactive=True,
                    wrap=True,
                    label="Edit a cell to reword a label, clear its name to leave it out; nothing is retrained",
                    elem_id="labels",
                )
                with gr.Row():
                    name = gr.Textbox(label="New label", scale=1, elem_id="new-label")
                    description = gr.Textbox(
                        label="Its description", scale=3, max_length=MAX_DESCRIPTION, elem_id="new-description"
                    )
                with gr.Row():
                    add = gr.Button("Add the label", elem_id="add")
                    reset = gr.Button("Labels as trained", elem_id="reset")
            with gr.Accordion("A file", open=False):
                file = gr.File(
                    label=f"JSONL, CSV or Parquet, up to {MAX_ROWS:,} rows and {MAX_UPLOAD // 2**20} MiB",
                    file_types=list(ENDINGS),
                    elem_id="file",
                )
                column = gr.Textbox("text", label="Column of the text", elem_id="column")
                predict_all = gr.Button("Predict the file", elem_id="predict-file")
                predictions = gr.File(label="Predictions", interactive=False, elem_id="predictions")
                done = gr.HTML(elem_id="done")

            def on_predict(text: str, rows: Rows, tuned: bool, threshold: float) -> tuple[Any, str, str, str]:
                try:
                    found = self.answer(text, rows)
                except LagamcError as error:
                    return None, "", "", _alert(error)
                return (found, *self.render(found, tuned, threshold), "")

            def on_labels(text: str, rows: Rows, tuned: bool, threshold: float) -> tuple[Any, str, str, str]:
                if (text or "").strip():
                    return on_predict(text, rows, tuned, threshold)
                try:
                    with self._one_at_a_time:
                        self.classifier_for(rows)
                except LagamcError as error:
                    return None, "", "", _alert(error)
                return None, "", "", ""

            def on_add(rows: Rows, name: str, description: str) -> tuple[Rows, str, str, str]:
                try:
                    return _add_label(rows, name, description), "", "", ""
                except LagamcError as error:
                    return rows, name, description, _alert(error)

            def on_file(
                path: str | None, column: str, rows: Rows, tuned: bool, threshold: float
            ) -> tuple[str | None, str]:
                try:
                    if path is None:
                        raise LagamcError("Choose a file first.")
                    target, summary = self.batch(path, column, rows, tuned, threshold)
                except LagamcError as error:
                    name = "" if path is None else path
                    return None, _alert(str(error).replace(name, Path(name).name) if name else error)
                return target, f"<p>{_escape(summary)}</p>"

            private: dict[str, Any] = {"api_visibility": "private"}
            model: dict[str, Any] = {**private, "concurrency_id": "model", "concurrency_limit": 1}
            asked, shown = [text, labels, tuned, threshold], [answer, scores, written, message]
            gr.on([run.click, text.submit], on_predict, asked, shown, **model)
            if samples:
                samples.load_input_event.then(on_predict, asked, shown, **model)
            labels.input(on_labels, asked, shown, **model)
            added = gr.on(
                [add.click, description.submit],
                on_add,
                [labels, name, description],
                [labels, name, description, message],
                **private,
            )
            added.then(on_labels, asked, shown, **model)
            reset.click(lambda: table, None, labels, **private).then(on_labels, asked, shown, **model)
            decided: dict[str, Any] = {
                "fn": self.render,
                "inputs": [answer, tuned, threshold],
                "outputs": [scores, written],
                "show_progress": "hidden",
                **private,
            }
            tuned.input(**decided)
            threshold.input(lambda: False, None, tuned, show_progress="hidden", **private).then(**decided)
            predict_all.click(on_file, [file, column, labels, tuned, threshold], [predictions, done], **model)
        return page.queue(max_size=MAX_WAITING, api_open=False)


def theme() -> gr.themes.Base:
    """The fonts of the machine that shows the page: those that gradio brings lack letters."""
    sans, mono = ("system-ui", "sans-serif"), ("ui-monospace", "monospace")
    return gr.themes.Default(primary_hue="blue", font=sans, font_mono=mono)


def _labels_of(rows: Rows, trained: Mapping[str, str]) -> dict[str, str]:
    """The labels of the table; those that are as trained may be as many and as long as they like."""
    labels: dict[str, str] = {}
    for row in rows:
        name, description = ("" if cell is None else str(cell) for cell in [*row, "", ""][:2])
        if name not in trained:
            name = name.strip()
        if not name:
            continue
        if name in labels:
            raise LagamcError(f"The label {_short(name)} stands twice; keep one of them.")
        if trained.get(name) != description and max(len(name), len(description)) > MAX_DESCRIPTION:
            raise LagamcError(f"The label {_short(name)}: more than {MAX_DESCRIPTION:,} characters.")
        labels[name] = description
    limit = max(MAX_LABELS, 2 * len(trained))
    if len(labels) > limit:
        raise LagamcError(f"{len(labels)} labels; this page takes up to {limit}.")
    return labels


def _add_label(rows: Rows, name: str, description: str) -> Rows:
    name, description = name.strip(), description.strip()
    if not name or not description:
        raise LagamcError("A new label needs a name and a description.")
    if any(name == str(row[0]).strip() for row in rows):
        raise LagamcError(f"The label {_short(name)} is there already; change its description in the table.")
    return [*rows, [name, description]]


def _short(name: str) -> str:
    return repr(name if len(name) <= 40 else f"{name[:40]}…")


def _escape(text: object) -> str:
    return jinja2.filters.escape(str(text))


def _alert(error: object) -> str:
    return f'<div class="lagamc-alert" role="alert">{_escape(error)}</div>'
