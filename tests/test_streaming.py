from __future__ import annotations

import io
import json
import os
import threading
from pathlib import Path
from typing import Any

import pytest

from lagamc.classifier import LagamcClassifier
from lagamc.data import Columns
from lagamc.errors import LagamcError
from lagamc.streaming import check_target, predict_file
from tests.conftest import ROWS

TEXTS = [str(row["text"]) for row in ROWS]


def write_lines(path: Path, rows: list[Any]) -> str:
    lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return str(path)


def read_lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


@pytest.fixture
def source(tmp_path: Path) -> str:
    """Texts of mixed length, ids that are not sorted."""
    return write_lines(tmp_path / "in.jsonl", [{"id": f"x{(i * 5) % 6}", "text": t} for i, t in enumerate(TEXTS)])


@pytest.mark.parametrize("window", [1, 4, 1024])
def test_one_line_per_input_line_in_order(
    classifier: LagamcClassifier, source: str, tmp_path: Path, window: int
) -> None:
    summary = predict_file(classifier, source, str(tmp_path / "out.jsonl"), window=window, progress=False)
    rows = read_lines(tmp_path / "out.jsonl")
    expected = classifier.predict(TEXTS)
    assert [row["id"] for row in rows] == [f"x{(i * 5) % 6}" for i in range(6)]
    assert all(list(row) == ["id", "labels", "scores", "generated"] for row in rows)
    assert [row["labels"] for row in rows] == [p.labels for p in expected]
    for row, prediction in zip(rows, expected, strict=True):
        assert row["scores"] == pytest.approx(prediction.scores, abs=2e-6)
        assert row["generated"] == prediction.generated
    assert summary.rows == 6
    assert sum(summary.label_counts.values()) == sum(len(p.labels) for p in expected) > 0
    assert not list(tmp_path.glob("*.partial"))


def test_rows_without_an_id_get_their_line_number(classifier: LagamcClassifier, tmp_path: Path) -> None:
    source = write_lines(tmp_path / "in.jsonl", [{"text": "late"}, "", {"text": "broken", "id": 7}, {"text": "x"}])
    predict_file(classifier, source, str(tmp_path / "out.jsonl"), progress=False, generate=False)
    assert [row["id"] for row in read_lines(tmp_path / "out.jsonl")] == ["1", "7", "4"]


def test_columns_and_csv(classifier: LagamcClassifier, tmp_path: Path) -> None:
    (tmp_path / "in.csv").write_text('number,message\n12,"Late, again"\n9,Thanks\n', encoding="utf-8")
    columns = Columns(text="message", id="number")
    predict_file(classifier, str(tmp_path / "in.csv"), str(tmp_path / "out.jsonl"), columns, progress=False)
    assert [row["id"] for row in read_lines(tmp_path / "out.jsonl")] == ["12", "9"]


def test_standard_streams(
    classifier: LagamcClassifier,
    source: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    predict_file(classifier, source, str(tmp_path / "out.jsonl"), progress=False)
    monkeypatch.setattr("sys.stdin", io.StringIO(Path(source).read_text(encoding="utf-8")))
    capsys.readouterr()
    predict_file(classifier, "-", "-")
    assert capsys.readouterr().out == (tmp_path / "out.jsonl").read_text(encoding="utf-8")


def test_bad_line_of_the_standard_input_is_named(
    classifier: LagamcClassifier, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO('{"text": "fine"}\n\n[]\n'))
    with pytest.raises(LagamcError, match="standard input, line 3: expected a JSON object"):
        predict_file(classifier, "-", "-", progress=False)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "line 4: not valid JSON"),
        ({"words": "x"}, "line 4: expected a column 'text'"),
        ({"text": " "}, "line 4: expected a non-empty string"),
        ({"text": 3}, "line 4: expected a non-empty string"),
    ],
)
def test_bad_line_leaves_the_output_as_it_was(
    classifier: LagamcClassifier, tmp_path: Path, line: Any, message: str
) -> None:
    """The bad line comes when windows before it have been written."""
    source = write_lines(tmp_path / "in.jsonl", [{"text": "a"}, {"text": "b"}, {"text": "c"}, line])
    target = tmp_path / "out.jsonl"
    for before in (None, "the last run's\n"):
        if before:
            target.write_text(before, encoding="utf-8")
        with pytest.raises(LagamcError, match=f"in.jsonl, {message}"):
            predict_file(classifier, source, str(target), window=1, progress=False)
        assert (target.read_text(encoding="utf-8") if target.exists() else None) == before
        assert not list(tmp_path.glob("*.partial"))


def test_failure_of_the_model_leaves_no_output(
    classifier: LagamcClassifier, source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise RuntimeError("out of memory")

    monkeypatch.setattr(LagamcClassifier, "predict", fail)
    with pytest.raises(RuntimeError, match="out of memory"):
        predict_file(classifier, source, str(tmp_path / "out.jsonl"), progress=False)
    assert [path.name for path in tmp_path.iterdir()] == ["in.jsonl"]


def test_empty_input(classifier: LagamcClassifier, tmp_path: Path) -> None:
    source = write_lines(tmp_path / "in.jsonl", [""])
    with pytest.raises(LagamcError, match=r"in\.jsonl: holds no rows"):
        predict_file(classifier, source, str(tmp_path / "out.jsonl"), progress=False)
    assert not (tmp_path / "out.jsonl").exists()


def test_target_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("", encoding="utf-8")
    with pytest.raises(LagamcError, match="does not exist or is not writable"):
        check_target(str(tmp_path / "file" / "out.jsonl"))
    with pytest.raises(LagamcError, match="does not exist or is not writable"):
        check_target(str(tmp_path / "nowhere" / "out.jsonl"))
    with pytest.raises(LagamcError, match="is a folder"):
        check_target(str(tmp_path))
    check_target("-")
    check_target(str(tmp_path / "out.jsonl"))
    assert not (tmp_path / "out.jsonl").exists()


# places to write to


def test_a_link_is_written_through(classifier: LagamcClassifier, source: str, tmp_path: Path) -> None:
    (tmp_path / "real.jsonl").write_text("old\n", encoding="utf-8")
    (tmp_path / "link.jsonl").symlink_to(tmp_path / "real.jsonl")
    predict_file(classifier, source, str(tmp_path / "link.jsonl"), progress=False, generate=False)
    assert (tmp_path / "link.jsonl").is_symlink()
    assert len(read_lines(tmp_path / "real.jsonl")) == 6


def test_a_pipe_is_written_to_and_stays(classifier: LagamcClassifier, source: str, tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    found: list[str] = []
    reader = threading.Thread(target=lambda: found.extend(pipe.read_text(encoding="utf-8").splitlines()), daemon=True)
    reader.start()
    predict_file(classifier, source, str(pipe), progress=False, generate=False)
    reader.join(timeout=20)
    assert len(found) == 6
    assert pipe.is_fifo()


def test_a_file_of_the_users_that_ends_in_partial_stays(
    classifier: LagamcClassifier, source: str, tmp_path: Path
) -> None:
    (tmp_path / "out.jsonl.partial").write_text("mine", encoding="utf-8")
    predict_file(classifier, source, str(tmp_path / "out.jsonl"), progress=False, generate=False)
    assert (tmp_path / "out.jsonl.partial").read_text(encoding="utf-8") == "mine"


def test_the_input_is_never_the_output(source: str, tmp_path: Path) -> None:
    (tmp_path / "link.jsonl").symlink_to(source)
    for target in (source, str(tmp_path / "link.jsonl")):
        with pytest.raises(LagamcError, match="input and output are the same file"):
            check_target(target, source)


@pytest.mark.parametrize("text", ["half \ud800 a character", "\udcff"])
def test_half_a_character_is_no_text(classifier: LagamcClassifier, tmp_path: Path, text: str) -> None:
    source = write_lines(tmp_path / "in.jsonl", [json.dumps({"text": text})])
    with pytest.raises(LagamcError, match=r"in.jsonl, line 1: 'text' holds half a character"):
        predict_file(classifier, source, str(tmp_path / "out.jsonl"), progress=False)
    with pytest.raises(LagamcError, match="text 0 is empty or no valid string"):
        classifier.predict([text])


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
def test_a_device_that_is_full(classifier: LagamcClassifier, source: str) -> None:
    with pytest.raises(LagamcError, match="/dev/full: cannot be written"):
        predict_file(classifier, source, "/dev/full", progress=False, generate=False)
