from __future__ import annotations

import io
import json
import os
import re
import threading
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tqdm import tqdm

from lagamc.classifier import LagamcClassifier
from lagamc.data import Columns
from lagamc.errors import LagamcError
from lagamc.outputs import check_target
from lagamc.predictions import Prediction
from lagamc.streaming import PredictionJob, Predictor, predict_file, window_size
from tests.artifacts import Trained
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
        with pytest.raises(LagamcError, match="the output would replace"):
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


# batches and memory


class Counting(tqdm):  # type: ignore[type-arg]
    """A bar that keeps its steps."""

    def __init__(self, **settings: Any):
        self.steps: list[int] = []
        super().__init__(**settings)

    def update(self, n: float | None = 1) -> bool | None:
        self.steps.append(int(n or 0))
        return super().update(n)


class Forgetful:
    """A classifier whose memory holds eight texts at a time."""

    def __init__(self, error: Exception, fits: int = 8):
        self.error, self.fits, self.device, self.sizes = error, fits, torch.device("cpu"), list[int]()

    def predict(self, texts: list[str], batch_size: int, **_: Any) -> list[Prediction]:
        self.sizes.append(batch_size)
        if batch_size > self.fits:
            raise self.error
        return [Prediction([], {}, text, []) for text in texts]


MEMORY = [torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20 GiB."), MemoryError()]


@pytest.mark.parametrize(
    "error", [*MEMORY, RuntimeError("[enforce] DefaultCPUAllocator: can't allocate memory: 1 GB")]
)
def test_batches_are_halved_until_they_fit(error: Exception, capsys: pytest.CaptureFixture[str]) -> None:
    classifier = Forgetful(error)
    predictor = Predictor(classifier, "auto")  # type: ignore[arg-type]
    assert [p.generated for p in predictor(["a", "b"])] == ["a", "b"]
    predictor(["c"])
    assert classifier.sizes == [32, 16, 8, 8]
    said = capsys.readouterr().err
    assert "out of memory with 32 texts at a time, going on with 16" in said
    assert "going on with 8" in said


def test_the_bar_moves_with_every_batch(trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bars: list[Counting] = []
    monkeypatch.setattr("lagamc.streaming.tqdm", lambda **settings: bars.append(Counting(**settings)) or bars[-1])
    source, target = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    lines = [json.dumps({"text": "late " * (1 + row * 4)}) for row in range(6)]
    source.write_text("\n".join([*lines, "{bad", *lines]) + "\n", encoding="utf-8")
    settings: dict[str, Any] = {"on_error": "skip", "window_stride": 4}
    predict_file(trained.load(), str(source), str(target), window=10, batch_size=2, **settings)
    assert bars[0].n == 13
    assert max(bars[0].steps) <= 2
    assert sum(bars[0].steps) == 13


def test_memory_that_does_not_suffice() -> None:
    with pytest.raises(LagamcError, match=r"out of memory with 32 texts .*: --batch_size auto finds one that fits"):
        Predictor(Forgetful(MEMORY[0]), 32)(["a"])  # type: ignore[arg-type]
    with pytest.raises(LagamcError, match=r"out of memory with 1 texts .*: take a smaller model or dtype"):
        Predictor(Forgetful(MEMORY[0], 0), "auto")(["a"])  # type: ignore[arg-type]
    with pytest.raises(RuntimeError, match="wires"):
        Predictor(Forgetful(RuntimeError("wires crossed")), "auto")(["a"])  # type: ignore[arg-type]


def test_windows_are_smaller_with_very_many_labels() -> None:
    assert [window_size(labels) for labels in (1, 100, 10_000, 10**6)] == [1024, 1024, 400, 32]


# ten thousand damaged lines


def count_lines(path: Path) -> int:
    return len(path.read_bytes().splitlines()) if path.exists() else 0


def account(folder: Path, content: bytes) -> tuple[int, int]:
    """Predicts with damaged lines left out: how many lines came out, and how many are in the file of bad rows."""
    source, target = folder / "in.jsonl", folder / "out.jsonl"
    source.write_bytes(content)
    target.unlink(missing_ok=True)
    try:
        with pytest.MonkeyPatch.context() as patch, PredictionJob(str(source), str(target), on_error="skip") as job:
            patch.setattr(os, "fsync", lambda _: None)  # the disk takes its time
            summary = job.run(
                lambda texts, _: [Prediction([], {}, text, []) for text in texts], window=7, progress=False
            )
            assert (summary.rows, summary.failures) == (
                count_lines(target),
                count_lines(Path(f"{target}.errors.jsonl")),
            )
    except LagamcError as error:
        assert re.search("holds no rows|none of the .* is a text|begins as UTF-16", str(error))  # noqa: PT017
        if "is a text" not in str(error):
            return 0, 0
    for line in read_lines(Path(f"{target}.errors.jsonl")) if Path(f"{target}.errors.jsonl").exists() else []:
        assert line["reason"]
        assert line["line"] >= 1
    return count_lines(target), count_lines(Path(f"{target}.errors.jsonl"))


VALUES = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers(-(10**40), 10**40) | st.text(st.characters(), max_size=6),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
    max_leaves=4,
)
OBJECTS = st.dictionaries(st.sampled_from(["text", "id", "labels"]), VALUES, max_size=3).map(json.dumps)
DAMAGED = st.one_of(
    OBJECTS.map(str.encode),
    st.tuples(OBJECTS, st.integers(0, 30)).map(lambda cut: cut[0][: cut[1]].encode()),
    st.binary(max_size=20),
    st.sampled_from(
        [b'{"text": "fine"}', b'{"text": "\\ud800"}', b'{"text": "a\\u0000"}', b"\xef\xbb\xbf{}", b"\r", b"{}\r"]
    ),
)


def check_lines(folder: Path, lines: list[bytes]) -> None:
    content = b"\n".join(lines)
    if not content.startswith((b"\xff\xfe", b"\xfe\xff")):
        wanted = sum(bool(line.strip()) for line in content.removeprefix(b"\xef\xbb\xbf").split(b"\n"))
        assert sum(account(folder, content)) == wanted


@settings(max_examples=20, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.lists(DAMAGED, min_size=25, max_size=25))
def test_every_damaged_line_is_accounted_for(tmp_path: Path, lines: list[bytes]) -> None:
    check_lines(tmp_path, lines)


@pytest.mark.slow
@settings(max_examples=400, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.lists(DAMAGED, min_size=25, max_size=25))
def test_ten_thousand_damaged_lines_are_accounted_for(tmp_path: Path, lines: list[bytes]) -> None:
    check_lines(tmp_path, lines)


GOOD = b'{"text": "fine"}'


@pytest.mark.parametrize(
    ("content", "rows", "bad"),
    [
        (GOOD + b"\r\n" + GOOD + b"\r\n", 2, 0),
        (b"\xef\xbb\xbf" + GOOD, 1, 0),
        (GOOD + b"\n" + GOOD[:9], 1, 1),
        (GOOD + b"\n" + GOOD[:-2] + b"x" * 10 * 2**20 + b'"}\n' + GOOD, 2, 1),
        (GOOD + b'\n{"text": ' + b"[" * 10**6 + b"\n", 1, 1),
        (GOOD + b'\n{"text": "a", "x": ' + b"[" * 900 + b"]" * 900 + b"}\n", 2, 0),
        (b'{"text": "a", "id": 7}\n' * 3, 3, 0),
        (b'{"text": "a", "id": 1e999}\n{"text": "a", "id": %s}\n' % (b"9" * 10_000), 1, 1),
        (b'{"text": "\x00"}\n{"text": "\\u0000 a"}\n\x00\n', 1, 2),
        (b'{"text": "\\udc80"}\n' + GOOD, 1, 1),
        (b'{"text": 7}\n[]\n"text"\nnull\nNaN\n', 0, 5),
        (b"", 0, 0),
        (b"\n\r\n  \n", 0, 0),
        (b"{\n" * 3000, 0, 3000),
    ],
)
def test_damage_by_hand(tmp_path: Path, content: bytes, rows: int, bad: int) -> None:
    assert account(tmp_path, content) == (rows, bad)


def test_the_benchmark_predicts_with_its_stub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOKENIZERS_PARALLELISM", "false")  # which the benchmark sets; put back afterwards
    from benchmarks import streaming

    streaming.write_rows(tmp_path / "in.jsonl", 300)
    streaming.predict(tmp_path / "in.jsonl", tmp_path / "out.jsonl", figures=tmp_path / "figures.json")
    assert len({row["id"] for row in read_lines(tmp_path / "out.jsonl")}) == 300
    assert json.loads((tmp_path / "figures.json").read_text())["rows"] == 300
