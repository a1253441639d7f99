"""`lagamc predict` as a user types it, on a tiny model."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lagamc import streaming
from lagamc.classifier import LagamcClassifier
from lagamc.cli import main
from tests.artifacts import Trained
from tests.conftest import DESCRIPTIONS, ROWS

ROOT = Path(__file__).parent.parent
TEXTS = [str(row["text"]) for row in ROWS]


@pytest.fixture
def source(tmp_path: Path) -> Path:
    lines = [json.dumps({"id": row["id"], "text": row["text"]}) for row in ROWS]
    (tmp_path / "in.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return tmp_path / "in.jsonl"


@pytest.fixture
def predict(trained_t5: Trained, source: Path, tmp_path: Path) -> Callable[..., int]:
    """Runs the command on the rows of `conftest`."""

    def run(*words: object, model: Path = trained_t5.folder) -> int:
        files = ["--model", model, "--input", source, "--output", tmp_path / "out.jsonl", "--device", "cpu"]
        return main(["predict", *(str(word) for word in [*files, *words])])

    return run


def read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


@pytest.mark.parametrize(
    ("words", "settings"),
    [
        (["--threshold", "0.01"], {"threshold": 0.01}),
        (["--threshold", "0.9", "--scores", "fast"], {"threshold": 0.9, "scores": "fast"}),
        (["--goal", "micro_f1"], {"goal": "micro_f1"}),
        (["--top_k", "2", "--scores", "accurate"], {"top_k": 2, "scores": "accurate"}),
        (["--scores", "none", "--decoding", "constrained"], {"scores": "none", "decoding": "constrained"}),
        (["--decide_by", "generated", "--batch_size", "2"], {"decide_by": "generated", "batch_size": 2}),
    ],
)
def test_settings_reach_the_classifier(
    predict: Callable[..., int],
    classifier: LagamcClassifier,
    tmp_path: Path,
    words: list[str],
    settings: dict[str, Any],
) -> None:
    assert predict(*words) == 0
    expected = classifier.predict(TEXTS, **settings)
    assert [(row["labels"], row["generated"]) for row in read(tmp_path / "out.jsonl")] == [
        (p.labels, p.generated) for p in expected
    ]


def test_other_labels(predict: Callable[..., int], classifier: LagamcClassifier, tmp_path: Path) -> None:
    labels = {"late": DESCRIPTIONS["late"], "parking": "Parking: the customer asks where to park."}
    (tmp_path / "labels.json").write_text(json.dumps(labels), encoding="utf-8")
    assert predict("--labels", tmp_path / "labels.json", "--top_k", 1) == 0
    other = classifier.with_labels(labels, remove=["broken", "refund", "praise"])
    rows = read(tmp_path / "out.jsonl")
    assert [row["labels"] for row in rows] == [p.labels for p in other.predict(TEXTS, top_k=1)]
    assert all(list(row["scores"]) == ["late", "parking"] for row in rows)


def test_weights_in_bfloat16(predict: Callable[..., int], classifier: LagamcClassifier, tmp_path: Path) -> None:
    for scores in ("accurate", "fast"):
        assert predict("--dtype", "bfloat16", "--scores", scores) == 0
        for row, expected in zip(read(tmp_path / "out.jsonl"), classifier.predict(TEXTS, scores=scores), strict=True):
            assert row["scores"] == pytest.approx(expected.scores, abs=0.1)
            assert row["scores"] != expected.scores


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--dtype", "float16"], "dtype: a T5 model overflows in float16; take bfloat16 or float32"),
        (["--threshold", "1.5"], "expected a probability from 0 to 1, found '1.5'"),
        (["--threshold", "nan"], "expected a probability from 0 to 1, found 'nan'"),
        (["--window_stride", "-1"], "expected a number of at least 0, found '-1'"),
        (["--batch_size", "some"], "expected a number of at least 1, found 'some'"),
        (["--goal", "accuracy"], "goal: expected"),
        (["--goal", "micro_f1", "--threshold", "0.5"], "--threshold takes the place of the thresholds"),
        (["--scores", "none", "--top_k", "2"], "--top_k picks labels by their scores, which are not asked for"),
        (["--decide_by", "generated", "--threshold", "0.5"], "--threshold picks labels by their scores"),
        (["--output", "-", "--resume"], "resume: needs an input and an output file, found '-'"),
        (["--labels", "gone.json"], "gone.json"),
        (["--output", "out.csv"], "predictions are written as JSONL, found the ending '.csv'"),
        (["--text_column", "Text"], "line 1: expected a column 'Text' with the text (--text_column), found ["),
    ],
)
def test_what_cannot_be_is_refused(
    predict: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str], message: str
) -> None:
    assert predict(*words) == 2
    error = capsys.readouterr().err
    assert message in error
    assert "Traceback" not in error
    assert [path.name for path in tmp_path.iterdir()] == ["in.jsonl"]


def test_bad_lines_stop_the_run_before_the_model_is_loaded(
    predict: Callable[..., int], source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: Any
) -> None:
    monkeypatch.setattr(LagamcClassifier, "from_pretrained", None)
    with source.open("a", encoding="utf-8") as file:
        file.write("{\n[]\n")
    assert predict() == 2
    error = capsys.readouterr().err
    assert "in.jsonl, line 7: not valid JSON" in error
    assert "in.jsonl, line 8: expected a JSON object" in error
    assert [path.name for path in tmp_path.iterdir()] == ["in.jsonl"]


def test_bad_lines_left_out(
    predict: Callable[..., int], source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with source.open("a", encoding="utf-8") as file:
        file.write("{\n")
    assert predict("--on_error", "skip", "--scores", "fast") == 0
    assert [row["id"] for row in read(tmp_path / "out.jsonl")] == [row["id"] for row in ROWS]
    assert [row["line"] for row in read(tmp_path / "out.jsonl.errors.jsonl")] == [7]
    said = capsys.readouterr().err
    assert "6 rows, " in said
    assert "1 bad rows left out" in said
    assert "the bad rows are in " in said


def test_interrupted_and_resumed(
    predict: Callable[..., int], source: Path, tmp_path: Path, monkeypatch: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    """Ctrl-C in the second window; other settings are refused, the same go on behind the first."""
    monkeypatch.setattr(streaming, "window_size", lambda _: 4)
    assert predict("--scores", "fast") == 0
    whole = (tmp_path / "out.jsonl").read_bytes()
    (tmp_path / "out.jsonl").unlink()
    original, calls = LagamcClassifier.predict, list[int]()

    def stop(self: LagamcClassifier, texts: list[str], **settings: Any) -> Any:
        calls.append(len(texts))
        if len(calls) == 2:
            raise KeyboardInterrupt
        return original(self, texts, **settings)

    with monkeypatch.context() as patch:
        patch.setattr(LagamcClassifier, "predict", stop)
        assert predict("--scores", "fast") == 130
    said = capsys.readouterr().err
    assert "4 rows are done and kept in" in said
    assert "Traceback" not in said
    assert predict("--scores", "fast") == 2
    assert predict("--scores", "accurate", "--resume") == 2
    assert "scores (was 'fast', is 'accurate')" in capsys.readouterr().err
    assert predict("--scores", "fast", "--resume", "--batch_size", 3) == 0
    assert (tmp_path / "out.jsonl").read_bytes() == whole
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.jsonl", "out.jsonl"]


def test_a_model_that_changed_is_not_resumed(
    trained_t5: Trained, predict: Callable[..., int], tmp_path: Path, monkeypatch: Any, capsys: Any
) -> None:
    model = trained_t5.copy_to(tmp_path / "model")
    monkeypatch.setattr(streaming, "window_size", lambda _: 4)
    original = LagamcClassifier.predict

    def stop(self: LagamcClassifier, texts: list[str], **settings: Any) -> Any:
        if len(texts) == 2:
            raise KeyboardInterrupt
        return original(self, texts, **settings)

    with monkeypatch.context() as patch:
        patch.setattr(LagamcClassifier, "predict", stop)
        assert predict("--scores", "fast", model=model) == 130
    config = json.loads((model / "lagamc_config.json").read_text(encoding="utf-8"))
    config["thresholds"]["overall"] = 0.123
    (model / "lagamc_config.json").write_text(json.dumps(config), encoding="utf-8")
    assert predict("--scores", "fast", "--resume", model=model) == 2
    assert "have changed: the model;" in capsys.readouterr().err


def test_several_processes_cannot_share_a_stream(
    predict: Callable[..., int], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setattr(streaming, "join", lambda *_: "cpu")
    assert predict("--output", "-") == 2
    assert "2 processes cannot share '-'; give files, or run one process" in capsys.readouterr().err
    monkeypatch.undo()


@pytest.mark.slow
def test_two_processes_write_what_one_writes(
    trained_t5: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Under `accelerate launch`, over several windows of unequal texts and a bad line."""
    source = tmp_path / "in.jsonl"
    lines = [json.dumps({"text": " ".join(TEXTS[i % 6] for _ in range(1 + i % 3)), "id": i}) for i in range(2600)]
    lines[1500] = "{bad"
    source.write_text("\n".join(lines) + "\n", encoding="utf-8")
    words = ["--model", str(trained_t5.folder), "--scores", "fast", "--decoding", "constrained"]
    words += ["--on_error", "skip", "--input", str(source), "--output"]
    assert main(["predict", *words, str(tmp_path / "one.jsonl")]) == 0
    launch = ["-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2", "--main_process_port", "0"]
    done = subprocess.run(
        [sys.executable, *launch, str(ROOT / "run_infer.py"), *words, str(tmp_path / "two.jsonl")],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "2599 rows, " in done.stderr
    for ending in (".jsonl", ".jsonl.errors.jsonl"):
        assert (tmp_path / f"two{ending}").read_bytes() == (tmp_path / f"one{ending}").read_bytes()
    assert not (tmp_path / "two.jsonl.unfinished").exists()
