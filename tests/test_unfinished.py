"""Runs over files that are stopped anywhere and go on; the model is a function of the text."""

from __future__ import annotations

import errno
import json
import multiprocessing
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from lagamc.errors import LagamcError
from lagamc.outputs import PredictionSummary
from lagamc.predictions import Prediction
from lagamc.processes import Processes
from lagamc.streaming import PredictionJob

FORK = multiprocessing.get_context("fork")
IDENTITY = {"model": "m", "labels": None, "settings": {"goal": None}}
ROWS = 10


def answers(texts: list[str], *_: Any) -> list[Prediction]:
    return [Prediction([f"l{len(text) % 3}"], {"l0": len(text) / 100}, text.upper(), []) for text in texts]


def run(source: Path, target: Path, predict: Any = answers, **settings: Any) -> PredictionSummary:
    settings = {"identity": IDENTITY, "on_error": "skip", **settings}
    with PredictionJob(str(source), str(target), **settings) as job:
        return job.run(predict, window=3, progress=False)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Ten rows, the fifth is bad: four windows."""
    lines = [json.dumps({"text": "x" * i + "ü"}) if i != 5 else "{bad" for i in range(1, ROWS + 1)]
    (tmp_path / "in.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return tmp_path / "in.jsonl"


@pytest.fixture
def whole(source: Path, tmp_path: Path) -> dict[str, bytes]:
    """The files of a run that nothing disturbs."""
    (tmp_path / "whole").mkdir()
    run(source, tmp_path / "whole" / "out.jsonl")
    return files(tmp_path / "whole")


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name.startswith("out.jsonl")}


def stopping_at(count: int, error: BaseException) -> Callable[..., list[Prediction]]:
    """Predicts so many windows."""
    calls = iter(range(count))

    def predict(texts: list[str], *_: Any) -> list[Prediction]:
        if next(calls, None) is None:
            raise error
        return answers(texts)

    return predict


def test_undisturbed(whole: dict[str, bytes]) -> None:
    assert sorted(whole) == ["out.jsonl", "out.jsonl.errors.jsonl"]
    assert [json.loads(line)["id"] for line in whole["out.jsonl"].splitlines()] == [*list("12346789"), "10"]
    (error,) = [json.loads(line) for line in whole["out.jsonl.errors.jsonl"].splitlines()]
    assert (Path(error["file"]).name, error["line"], error["reason"][:14]) == ("in.jsonl", 5, "not valid JSON")


# stopped and resumed


@pytest.mark.parametrize("error", [KeyboardInterrupt(), RuntimeError("wires crossed"), LagamcError("broken")])
def test_what_was_done_is_kept_and_gone_on_with(
    source: Path, tmp_path: Path, whole: dict[str, bytes], error: BaseException, capsys: pytest.CaptureFixture[str]
) -> None:
    target = tmp_path / "out.jsonl"
    with pytest.raises(type(error)):
        run(source, target, stopping_at(2, error))
    assert "6 rows are done and kept in" in capsys.readouterr().err
    assert not target.exists()
    with pytest.raises(LagamcError, match="unfinished work of a run that was stopped; go on with it by --resume"):
        run(source, target)
    seen: list[str] = []
    summary = run(source, target, lambda texts, _: seen.extend(texts) or answers(texts), resume=True)
    assert [len(text) for text in seen] == [8, 9, 10, 11]
    assert files(tmp_path) == whole
    assert (summary.rows, summary.failures, sum(summary.label_counts.values())) == (9, 1, 9)


def test_nothing_done_is_nothing_kept(source: Path, tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        run(source, tmp_path / "out.jsonl", stopping_at(0, KeyboardInterrupt()))
    assert files(tmp_path) == {}


def test_nothing_to_resume_is_a_new_run(source: Path, tmp_path: Path, whole: dict[str, bytes]) -> None:
    run(source, tmp_path / "out.jsonl", resume=True)
    assert files(tmp_path) == whole


@pytest.mark.parametrize(
    ("owner", "name"), [(os, "fsync"), (os, "replace"), (os, "link"), (Path, "rename"), (Path, "unlink")]
)
def test_killed_at_every_step(source: Path, tmp_path: Path, whole: dict[str, bytes], owner: Any, name: str) -> None:
    """SIGKILL before each call of a function that changes the disk, then a run that goes on."""
    target = tmp_path / "out.jsonl"

    def child(step: int) -> None:
        original, steps = getattr(owner, name), iter(range(step))

        def dying(*args: Any, **kwargs: Any) -> Any:
            if next(steps, None) is None:
                os.kill(os.getpid(), signal.SIGKILL)
            return original(*args, **kwargs)

        setattr(owner, name, dying)
        run(source, target)

    def start(step: int) -> int | None:
        process = FORK.Process(target=child, args=(step,))
        process.start()
        process.join(60)
        return process.exitcode

    step = 0
    while (code := start(step)) != 0:
        assert code == -signal.SIGKILL
        run(source, target, resume=True)
        assert files(tmp_path) == whole, step
        target.unlink()
        step += 1
    assert step >= 1
    assert files(tmp_path) == whole


def test_killed_again_and_again(source: Path, tmp_path: Path, whole: dict[str, bytes]) -> None:
    target = tmp_path / "out.jsonl"

    def child() -> None:
        run(source, target, stopping_at(1, SystemExit()), resume=True)

    for kept in (1, 2, 3):
        process = FORK.Process(target=child)
        process.start()
        process.join(60)
        assert len((tmp_path / "out.jsonl.unfinished/part-0000.journal").read_bytes().splitlines()) == kept
    run(source, target, resume=True)
    assert files(tmp_path) == whole


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"identity": {**IDENTITY, "model": "n"}}, "these have changed: the model;"),
        ({"identity": {**IDENTITY, "labels": "x"}}, "the labels"),
        ({"identity": {**IDENTITY, "settings": {"goal": "macro_f1"}}}, r"goal \(was None, is 'macro_f1'\)"),
        ({"processes": Processes(0, 2)}, r"processes \(was 1, is 2\)"),
    ],
)
def test_another_run_is_not_resumed(
    source: Path, tmp_path: Path, changed: dict[str, Any], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Processes, "wait", lambda _: None)
    with pytest.raises(KeyboardInterrupt):
        run(source, tmp_path / "out.jsonl", stopping_at(1, KeyboardInterrupt()))
    before = files(tmp_path / "out.jsonl.unfinished")
    with pytest.raises(LagamcError, match=message):
        run(source, tmp_path / "out.jsonl", resume=True, **changed)
    assert files(tmp_path / "out.jsonl.unfinished") == before
    run(source, tmp_path / "out.jsonl", resume=True)


def test_another_input_is_not_resumed(source: Path, tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        run(source, tmp_path / "out.jsonl", stopping_at(1, KeyboardInterrupt()))
    content = source.read_text(encoding="utf-8")
    source.write_text(content.replace("xxxxxxxxxx", "yyyyyyyyyy"), encoding="utf-8")
    with pytest.raises(LagamcError, match="have changed: the input; put them back, or delete that folder"):
        run(source, tmp_path / "out.jsonl", resume=True)
    source.unlink()
    with pytest.raises(LagamcError, match=r"in\.jsonl: no such file"):
        run(source, tmp_path / "out.jsonl", resume=True)
    source.write_text(content, encoding="utf-8")
    assert run(source, tmp_path / "out.jsonl", resume=True).rows == 9


def test_half_a_window_does_not_count(source: Path, tmp_path: Path, whole: dict[str, bytes]) -> None:
    with pytest.raises(KeyboardInterrupt):
        run(source, tmp_path / "out.jsonl", stopping_at(2, KeyboardInterrupt()))
    for name in ("part-0000.jsonl", "part-0000.errors.jsonl", "part-0000.journal"):
        with (tmp_path / "out.jsonl.unfinished" / name).open("ab") as file:
            file.write(b'{"bytes": 1')
    run(source, tmp_path / "out.jsonl", resume=True)
    assert files(tmp_path) == whole


def test_work_that_was_cut_is_refused(source: Path, tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        run(source, tmp_path / "out.jsonl", stopping_at(2, KeyboardInterrupt()))
    os.truncate(tmp_path / "out.jsonl.unfinished/part-0000.jsonl", 5)
    with pytest.raises(LagamcError, match=r"part-0000\.jsonl: is shorter than its journal says"):
        run(source, tmp_path / "out.jsonl", resume=True)


@pytest.mark.parametrize("resume", [False, True])
def test_work_whose_description_is_damaged_stays(source: Path, tmp_path: Path, resume: bool) -> None:
    with pytest.raises(KeyboardInterrupt):
        run(source, tmp_path / "out.jsonl", stopping_at(2, KeyboardInterrupt()))
    (tmp_path / "out.jsonl.unfinished/run.json").write_text("{", encoding="utf-8")
    before = files(tmp_path / "out.jsonl.unfinished")
    with pytest.raises(LagamcError, match=r"unfinished: its run\.json cannot be read"):
        run(source, tmp_path / "out.jsonl", resume=resume)
    assert files(tmp_path / "out.jsonl.unfinished") == before
    (tmp_path / "out.jsonl.unfinished/run.json").unlink()  # as where a kill cut short the removal of the folder
    run(source, tmp_path / "out.jsonl", resume=resume)


# what is in the way


def test_two_runs_do_not_write_one_output(source: Path, tmp_path: Path) -> None:
    def second(texts: list[str], *_: Any) -> list[Prediction]:
        with pytest.raises(LagamcError, match="another run is writing it at this moment"):
            run(source, tmp_path / "out.jsonl", resume=True)
        return answers(texts)

    assert run(source, tmp_path / "out.jsonl", second).rows == 9


def test_what_is_not_ours_stays(source: Path, tmp_path: Path) -> None:
    folder = tmp_path / "out.jsonl.unfinished"
    folder.write_text("mine", encoding="utf-8")
    with pytest.raises(LagamcError, match=r"out\.jsonl\.unfinished: is in the way"):
        run(source, tmp_path / "out.jsonl")
    folder.unlink()
    folder.mkdir()
    (folder / "thesis.tex").write_text("mine", encoding="utf-8")
    with pytest.raises(LagamcError, match=r"holds 'thesis\.tex', which is not ours"):
        run(source, tmp_path / "out.jsonl", resume=True)
    assert [path.name for path in folder.iterdir()] == ["thesis.tex"]


def test_a_full_disk_is_said_and_what_was_done_is_kept(
    source: Path, tmp_path: Path, whole: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    steps: Iterator[int] = iter(range(4))  # the second window fails at its journal

    def full(file: int) -> None:
        if next(steps, None) is None:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(LagamcError, match=r"out\.jsonl: cannot be written \(No space left on device\)"):
            run(source, tmp_path / "out.jsonl")
    assert not (tmp_path / "out.jsonl").exists()
    run(source, tmp_path / "out.jsonl", resume=True)
    assert files(tmp_path) == whole


def test_a_folder_that_cannot_be_written(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(os, "access", lambda *_: False)
        with pytest.raises(LagamcError, match="does not exist or is not writable"):
            run(source, tmp_path / "out.jsonl")
    monkeypatch.setattr(Path, "mkdir", lambda *_, **__: os.mkdir("/proc/none"))
    with pytest.raises(LagamcError, match=r"out\.jsonl: cannot be written"):
        run(source, tmp_path / "out.jsonl")


def test_input_that_changes_under_the_run(source: Path, tmp_path: Path) -> None:
    def grow(texts: list[str], *_: Any) -> list[Prediction]:
        with source.open("a", encoding="utf-8") as file:
            file.write('{"text": "more"}\n')
        return answers(texts)

    with pytest.raises(LagamcError, match=r"in\.jsonl: was changed while it was read"):
        run(source, tmp_path / "out.jsonl", grow)
    assert not (tmp_path / "out.jsonl").exists()


def test_input_that_is_deleted_before_the_run(source: Path, tmp_path: Path) -> None:
    with PredictionJob(str(source), str(tmp_path / "out.jsonl"), on_error="skip") as job:
        source.unlink()
        with pytest.raises(LagamcError, match=r"in\.jsonl: no such file"):
            job.run(answers, progress=False)


# bad rows


def test_bad_rows_of_an_earlier_run_do_not_stay(source: Path, tmp_path: Path) -> None:
    run(source, tmp_path / "out.jsonl")
    assert len((tmp_path / "out.jsonl.errors.jsonl").read_bytes().splitlines()) == 1
    source.write_text('{"text": "a"}\n', encoding="utf-8")
    run(source, tmp_path / "out.jsonl")
    assert sorted(files(tmp_path)) == ["out.jsonl"]


def test_nothing_but_bad_rows(source: Path, tmp_path: Path) -> None:
    """Nothing is predicted, nothing is lost, and the run says that it failed."""
    source.write_text("{\n[]\n", encoding="utf-8")
    (tmp_path / "out.jsonl").write_text("the last run's\n", encoding="utf-8")
    with pytest.raises(LagamcError, match=r"none of the 2 rows is a text, see .*out\.jsonl\.errors\.jsonl"):
        PredictionJob(str(source), str(tmp_path / "out.jsonl"), on_error="skip")
    found = files(tmp_path)
    assert sorted(found) == ["out.jsonl", "out.jsonl.errors.jsonl"]
    assert found["out.jsonl"] == b"the last run's\n"
    assert [json.loads(line)["line"] for line in found["out.jsonl.errors.jsonl"].splitlines()] == [1, 2]


def test_the_file_of_bad_rows_is_never_the_input(tmp_path: Path) -> None:
    source = tmp_path / "out.jsonl.errors.jsonl"
    source.write_text('{"text": "a"}\n', encoding="utf-8")
    with pytest.raises(LagamcError, match=r"file of bad rows .* would replace"):
        run(source, tmp_path / "out.jsonl")
    assert source.exists()


# several processes, one after the other


@pytest.mark.parametrize("count", [2, 3, 7])
def test_processes_take_windows_in_turn(
    source: Path, tmp_path: Path, whole: dict[str, bytes], count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Processes, "wait", lambda _: None)
    target = str(tmp_path / "out.jsonl")
    jobs = [
        PredictionJob(str(source), target, on_error="skip", identity=IDENTITY, processes=Processes(index, count))
        for index in range(count)
    ]
    seen: dict[int, list[str]] = {}
    for index in reversed(range(count)):
        seen[index] = []

        def predict(texts: list[str], _: Any, index: int = index) -> list[Prediction]:
            seen[index] += texts
            return answers(texts)

        with jobs[index] as job:
            summary = job.run(predict, window=3, progress=False)
    assert files(tmp_path) == whole
    assert sum(map(len, seen.values())) == summary.rows == 9
    assert [len(text) - 1 for text in seen[1]] == [4, 6, 10][: 3 if count == 2 else 2]


def test_a_share_that_is_missing_is_found(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Processes, "wait", lambda _: None)
    target = str(tmp_path / "out.jsonl")
    with PredictionJob(str(source), target, on_error="skip", processes=Processes(0, 2)) as job:
        with pytest.raises(LagamcError, match=r"part-0001\.jsonl is missing; several machines need"):
            job.run(answers, window=3, progress=False)
        PredictionJob(str(source), target, on_error="skip", processes=Processes(1, 2))
        assert job.work is not None
        with pytest.raises(LagamcError, match="holds 3 of 10 rows; did all processes read the same input"):
            job.work.finish(2, ROWS)
    assert not Path(target).exists()
