from __future__ import annotations

import base64
import json
from html.parser import HTMLParser
from pathlib import Path

import pytest

from lagamc.cli import main
from lagamc.errors import LagamcError
from lagamc.report_page import write_report
from tests.artifacts import Trained
from tests.runs import some_labels, write_run

PLOTS = ("losses", "labels", "f1_against_support", "number_of_labels", "description_length", "thresholds")
PLOTS = (*PLOTS, "rare_labels", "reliability", "cooccurrence")
HOSTILE = {
    "<script>alert(1)</script>": "Script: <b>bold</b> & more",
    r"$\undefined{1}$ costs $5": "Money: about $ signs",
    "a" * 200: "Long: a name without a space",
    "日本語": "Japanese: a label",
    "new\nline": "Newline: in a name",
    "{{ 7 * 7 }}": "Template: {% raw %}",
    "' onmouseover='alert(1)": 'Quote: break " out',
}


class Tags(HTMLParser):
    """Every tag with its attributes, and all text."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data


def page_of(folder: Path) -> Tags:
    return Tags(write_report(folder).read_text(encoding="utf-8"))


def test_command_on_a_trained_run(trained_t5: Trained, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = trained_t5.copy_to(tmp_path / "run")
    assert main(["report", str(folder)]) == 0
    assert f"the report is {folder / 'report' / 'report.html'}" in capsys.readouterr().out
    text = (folder / "report" / "report.html").read_text("utf-8")
    assert f"{trained_t5.figures['test_micro_f1']:.3f}" in text
    lines = (folder / "report_data" / "test.jsonl").read_text("utf-8").splitlines()
    for row in map(json.loads, lines):
        assert (row["text"] in text) == (sorted(row["true"]) != sorted(row["labels"]))


@pytest.mark.parametrize("count", [2, 12, 90])
def test_one_page_that_holds_everything(tmp_path: Path, count: int) -> None:
    folder = write_run(tmp_path / "run", some_labels(count), rows=60)
    page = page_of(folder)
    pictures = [attributes["src"] or "" for tag, attributes in page.tags if tag == "img"]
    assert sorted(path.stem for path in (folder / "report").glob("*.png")) == sorted(PLOTS)
    files = {path.read_bytes() for path in (folder / "report").glob("*.png")}
    assert {base64.b64decode(source.removeprefix("data:image/png;base64,")) for source in pictures} == files
    links = [attributes[key] or "" for _, attributes in page.tags for key in ("src", "href") if key in attributes]
    assert all(link.startswith(("data:image/png;base64,", "#")) for link in links)
    anchors = {link[1:] for link in links if link.startswith("#")}
    assert anchors <= {attributes.get("id") for _, attributes in page.tags}
    assert len(anchors) == 10
    assert all(attributes.get("alt") for tag, attributes in page.tags if tag == "img")
    assert sum(tag == "figcaption" for tag, _ in page.tags) == len(PLOTS)
    assert all(name in page.text for name in some_labels(count))


def test_hostile_names_and_texts_are_text(tmp_path: Path) -> None:
    text = "<img src=x onerror=alert(1)><script>alert(2)</script>{{7*7}}" + "x" * 5000
    page = page_of(write_run(tmp_path / "run", HOSTILE, rows=30, texts=dict.fromkeys(range(30), text)))
    assert "script" not in {tag for tag, _ in page.tags}
    assert all(not key.startswith("on") for _, attributes in page.tags for key in attributes)
    assert all((a["src"] or "").startswith("data:") for tag, a in page.tags if tag == "img")
    assert text[:480] in page.text
    assert "x" * 1000 not in page.text
    assert all(name in page.text for name in HOSTILE)
    assert "the plots show boxes" in page.text or "CJK" in page.text


def test_without_test_rows_it_says_what_the_figures_are(tmp_path: Path) -> None:
    page = page_of(write_run(tmp_path / "run", some_labels(4), rows=30, test=False))
    assert "they flatter the" in page.text
    assert "30 development rows" in page.text
    assert "(not written)" in page.text


def test_a_run_without_errors(tmp_path: Path) -> None:
    page = page_of(write_run(tmp_path / "run", some_labels(3), rows=20, quality=9))
    assert "No row has a wrong label." in page.text


def test_one_label(tmp_path: Path) -> None:
    page = page_of(write_run(tmp_path / "run", some_labels(1), rows=20))
    assert "cooccurrence.png" not in page.text


def test_tables_hold_the_measured_figures(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run", some_labels(12), rows=100)
    metrics = json.loads((folder / "metrics.json").read_text())
    shown = f"by scores{metrics['test_micro_f1']:.3f}{metrics['test_macro_f1']:.3f}"
    assert shown in page_of(folder).text


def test_thresholds_that_were_tuned_since_are_told(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run", some_labels(3), rows=20)
    assert "were changed after the run" not in page_of(folder).text
    config = json.loads((folder / "lagamc_config.json").read_text("utf-8"))
    for changed in (
        {**config, "thresholds": {**config["thresholds"], "per_label": {"damaged 1": 0.9}}},
        {**config, "figures": {**config["figures"], "tuned_rows": 9}},  # a row may keep its labels all the same
    ):
        (folder / "lagamc_config.json").write_text(json.dumps(changed), "utf-8")
        assert "were changed after the run" in page_of(folder).text


def test_another_place(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run", some_labels(2), rows=10)
    assert write_report(folder, tmp_path / "deep" / "er") == tmp_path / "deep" / "er" / "report.html"
    assert not (folder / "report").exists()
    (tmp_path / "file").touch()
    with pytest.raises(LagamcError, match="the report cannot be written"):
        write_report(folder, tmp_path / "file")


def test_no_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", str(tmp_path / "nowhere")]) == 2
    assert "no such model folder" in capsys.readouterr().err
