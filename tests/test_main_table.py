"""The rows of the benchmark, and what is kept of a benchmark."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import torch

from benchmarks import datasets, main_table, outcomes
from benchmarks.datasets import Task
from benchmarks.main_table import Variant
from benchmarks.peers import Scored
from lagamc.data import Example
from lagamc.errors import LagamcError
from lagamc.labels import LabelBank
from lagamc.training_args import PRECISION_VARIABLE


def test_a_quick_run_keeps_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(outcomes, "RESULTS", tmp_path)
    monkeypatch.setattr("sys.argv", ["/some/where/speed.py", "--dataset", "caves"])
    outcomes.finish({"ratio": 2.0}, quick=True)
    outcomes.finish({"skipped": "no data"}, quick=False)
    outcomes.finish({"reuters": {"ratio": 2.0}, "caves": {"skipped": "no data"}}, quick=False)
    assert list(tmp_path.iterdir()) == []
    outcomes.finish({"ratio": 3.0}, quick=False)
    kept = json.loads((tmp_path / "speed-dataset-caves.json").read_text())
    assert kept["command"] == "python -m benchmarks.speed --dataset caves"
    assert kept["figures"] == json.loads(capsys.readouterr().out.splitlines()[-1]) == {"ratio": 3.0}


def test_fused_attention_counts_as_well() -> None:
    states = torch.zeros(2, 3, 8, 4)
    found = outcomes.flops(lambda: torch.nn.functional.scaled_dot_product_attention(states, states, states))
    assert found == 2 * (2 * 2 * 3 * 8 * 8 * 4)


def test_rows_are_measured_once_and_tuned_on_the_development_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bank = LabelBank({"a": "First thing.", "b": "Second thing."})
    examples = [Example("0", "x", ("a",)), Example("1", "y", ("b",)), Example("2", "z", ("a", "b"))]
    task = Task("caves", bank, {"train": examples, "dev": examples, "test": examples[:2]}, 16, 1, 1, 1)
    scores = np.array([[0.3, 0.1], [0.1, 0.3], [0.3, 0.3]])
    asked, settings, precisions = [], [], set()

    def system(task: Task) -> Scored:
        asked.append(task.seed)
        precisions.add(os.environ[PRECISION_VARIABLE])
        settings.append((task.backbone, task.epochs, task.peer_epochs, task.max_length))
        return Scored({"dev": scores, "test": np.array([[0.3, 0.28], [0.1, 0.3]])}, "library 1", "set", 5, 6)

    monkeypatch.setattr(main_table, "ROWS", tmp_path)
    monkeypatch.setattr(main_table, "load_task", lambda *_: task)
    monkeypatch.setenv(PRECISION_VARIABLE, "bf16")
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: False)
    monkeypatch.setattr("lagamc.training_args._cpu_multiplies_bf16", lambda: False)
    one = main_table.System("One", "of no module", "system", takes=("epochs", "tokens"))
    monkeypatch.setitem(main_table.SYSTEMS, "one", one)
    monkeypatch.setattr(main_table.System, "__call__", lambda _, task: system(task))
    row = main_table.run_one("caves", "one", 1, Variant(backbone="some/model", epochs=4, tokens=8))
    assert (row["backbone"], row["epochs"], row["tokens"]) == ("some/model", 4, 8)
    assert settings == [("some/model", 4, 4, 8)]
    assert [path.name for path in tmp_path.iterdir()] == ["caves-one-1-some-model-epochs4-tokens8.json"]
    assert main_table.run_one("caves", "one", 1, Variant())["backbone"] is None
    assert settings[1:] == [(None, 1, 1, 16)]
    row = main_table.run_one("caves", "one", 1, Variant(epochs=1, tokens=16))
    assert (row["epochs"], row["tokens"]) == (1, 16)
    assert len(settings) == len(list(tmp_path.iterdir())) == 2  # that is the usual setting: no row of its own
    asked.clear()
    row = main_table.run_one("caves", "one", 2, Variant())
    assert row == main_table.run_one("caves", "one", 2, Variant())
    assert asked == [1]
    assert row["rows"] == {"train": 3, "dev": 3, "test": 2}
    assert row == main_table.run_one("caves", "one", 2, Variant(rows=3, test_rows=99))  # all there are: the same row
    for _ in range(2):  # measured each time, and not kept
        main_table.run_one("caves", "one", 2, Variant(rows=2), quick=True)
    assert asked == [1, 1, 1]
    assert len(list(tmp_path.iterdir())) == 3
    assert row["dev_for_micro_f1"] == {"micro_f1": 1.0, "macro_f1": 1.0}
    assert row["test_for_micro_f1"]["micro_f1"] == pytest.approx(0.8)  # 0.28 lies above the threshold of 0.2
    assert row["analysis"]["by_count"] == {"0": [0, 0, None], "1": [2, 1, 0.8], "2": [0, 1, None]}
    assert row["analysis"]["by_label"] == {"a": [2, 1, 1.0], "b": [2, 1, pytest.approx(0.6667)]}
    assert row["analysis"]["rare_macro_f1"] == 1.0  # the first of two equally rare labels, on the one row that has it
    assert row["analysis"]["errors"] == {"0": [["a"], ["a", "b"]]}
    monkeypatch.setitem(main_table.SYSTEMS, "fixed", replace(one, seeded=False))
    for seed in (3, 1):  # another seed of what takes none is the same row
        main_table.run_one("caves", "fixed", seed, Variant())
    assert [path.name for path in tmp_path.glob("caves-fixed*")] == ["caves-fixed-1.json"]
    assert precisions == {"no"}  # a CPU without instructions for bf16 takes float32 for all


def test_a_row_that_is_damaged_or_of_another_model_is_not_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(main_table, "ROWS", tmp_path)
    path = tmp_path / "caves-lagamc-1-a-b.json"
    outcomes.write(path, {"backbone": "a/b"})
    assert list(tmp_path.glob("*.[0-9]*")) == []
    assert main_table.run_one("caves", "lagamc", 1, Variant(backbone="a/b")) == {"backbone": "a/b"}
    with pytest.raises(LagamcError, match="expected a row on a_b, found one on a/b; move it away"):
        main_table.run_one("caves", "lagamc", 1, Variant(backbone="a_b"))
    path.write_text(path.read_text()[:9])
    with pytest.raises(LagamcError, match=f"^{path}: expected a result in JSON"):
        main_table.run_one("caves", "lagamc", 1, Variant(backbone="a/b"))
    for text in ('{"backbone": NaN}', "[" * 100_000):
        path.write_text(text)
        with pytest.raises(LagamcError, match=f"^{path}: expected a result in JSON"):
            main_table.run_one("caves", "lagamc", 1, Variant(backbone="a/b"))
    for text, absent in (("[1]", "JSON object"), ('{"seed": 1}', "backbone")):
        path.write_text(text)
        with pytest.raises(LagamcError, match=f"^{path}: expected a result, found no {absent}; remove it"):
            main_table.run_one("caves", "lagamc", 1, Variant(backbone="a/b"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--rows", "0"], "--rows: expected a number of at least 1, found '0'"),
        (["--epochs", "-1"], "--epochs: expected a number of at least 1, found '-1'"),
        (["--tokens", "2"], "--tokens: expected at least 8, found 2"),
        (["--backbone", ""], "--backbone: expected a folder or Hub name, found an empty one"),
        (["--seeds", "1", "2"], "--seeds: expected with --all"),
        (["--render", "--all"], "not allowed with argument"),
        (["--render"], "--dataset: expected without --render"),
        (["--seed", str(2**32)], "--seed: expected less than 2^32, found 4294967296"),
        (["--all"], "--dataset: expected without --all, which takes --datasets"),
    ],
)
def test_bad_options(arguments: list[str], message: str, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.setattr("sys.argv", ["main_table", "--dataset", "caves", "--system", "lagamc", *arguments])
    with pytest.raises(SystemExit) as caught:
        main_table.main()
    assert caught.value.code == 2
    assert message in capsys.readouterr().err


def test_all_goes_on_behind_a_row_that_fails(monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    codes = iter([2, 1, 0])

    def run(command: list[str], **_: Any) -> str:
        if code := next(codes):
            raise subprocess.CalledProcessError(code, command)
        return '{"row": 3}\n'

    monkeypatch.setattr(main_table, "run_whole", run)
    chosen = ["--datasets", "caves", "--systems", "tfidf_svc", "pecos", "parabel", "--seeds", "1"]
    monkeypatch.setattr("sys.argv", ["main_table", "--all", *chosen])
    with pytest.raises(RuntimeError, match=r"^not measured: pecos on caves, seed 1$"):
        main_table.main()
    assert capsys.readouterr().out.splitlines() == ['{"row": 3}', '[{"row": 3}]']


def test_a_stopped_benchmark_stops_what_its_command_started(tmp_path: Path) -> None:
    waiting = "import os, time, pathlib; pathlib.Path('pid').write_text(str(os.getpid())); time.sleep(600)"
    outer = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {waiting!r}])"
    script = (
        "import sys; from benchmarks.models import run_whole; from benchmarks.outcomes import run\n"
        f"run(lambda: run_whole([sys.executable, '-c', {outer!r}]))"
    )
    environment = {**os.environ, "PYTHONPATH": str(datasets.ROOT)}
    with subprocess.Popen([sys.executable, "-c", script], cwd=tmp_path, env=environment) as process:
        pid = tmp_path / "pid"
        while not (pid.is_file() and pid.read_text()):
            assert process.poll() is None
            time.sleep(0.05)
        process.terminate()
        assert process.wait() == 143
    with suppress(psutil.NoSuchProcess):
        left = psutil.Process(int(pid.read_text()))
        for _ in range(1000):
            if left.status() == psutil.STATUS_ZOMBIE:  # ended, but nobody waits for it
                return
            time.sleep(0.05)
        pytest.fail("it still runs")


def test_all_of_another_setting_leaves_out_the_systems_that_take_none(monkeypatch: pytest.MonkeyPatch) -> None:
    commands: list[str] = []

    def run(command: list[str], **_: Any) -> str:
        commands.append(" ".join(command[3:]))
        return "{}\n"

    monkeypatch.setattr(main_table, "run_whole", run)
    chosen = ["--all", "--datasets", "caves", "--systems", "lagamc", "tfidf_svc", "--seeds", "1", "2"]
    monkeypatch.setattr("sys.argv", ["main_table", *chosen, "--rows", "9"])
    main_table.main()
    assert commands == [
        "--dataset caves --system lagamc --seed 1 --rows 9",
        "--dataset caves --system tfidf_svc --seed 1 --rows 9",
        "--dataset caves --system lagamc --seed 2 --rows 9",
    ]
    commands.clear()
    monkeypatch.setattr("sys.argv", ["main_table", *chosen, "--backbone", "some/model"])
    main_table.main()
    assert commands == [f"--dataset caves --system lagamc --seed {seed} --backbone some/model" for seed in (1, 2)]
    commands.clear()
    chosen[4:6] = ["tfidf_svc", "label_queries"]
    monkeypatch.setattr("sys.argv", ["main_table", *chosen, "--epochs", "7"])
    main_table.main()
    assert commands == [f"--dataset caves --system label_queries --seed {seed} --epochs 7" for seed in (1, 2)]
