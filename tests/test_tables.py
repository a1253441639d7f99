"""The tables of BENCHMARKS.md."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import torch

from benchmarks import datasets, main_table, outcomes, tables
from benchmarks.datasets import Task
from benchmarks.main_table import Variant
from benchmarks.peers import Scored
from lagamc.data import Example
from lagamc.errors import LagamcError
from lagamc.labels import LabelBank
from lagamc.thresholds import GOALS

PARTS = ("short", "systems", "curve", "thresholds", "mixed", "parts", "errors", "forms", "others")
PAGE = "# Page\n\n<!-- main: rendered -->\nbefore\n<!-- end -->\n\nwords\n\n" + "".join(
    f"<!-- {name}: rendered -->\n<!-- end -->\n" for name in PARTS
)


def _row(
    system: str,
    seed: int,
    micro: float,
    dataset: str = "caves",
    train: int = 2000,
    epochs: int | None = None,
    tokens: int | None = None,
) -> dict[str, Any]:
    figures = {"micro_f1": micro, "macro_f1": micro / 2}
    return {
        "dataset": dataset,
        "system": system,
        "backbone": None,
        "epochs": epochs,
        "tokens": tokens,
        "seed": seed,
        "library": "a 1.0",
        "setting": "s",
        "seconds": 60.0,
        "rows": {"train": train, "dev": 500, "test": 1000},
        "peak_mib": 1200,
        "trainable_parameters": 10,
        "total_parameters": 20,
        **{f"{split}_for_{goal}": figures for split in ("dev", "test") for goal in ("micro_f1", "macro_f1")},
    }


def test_a_table_for_each_data_set_with_mean_and_spread() -> None:
    rows = [
        _row("b", 1, 0.5),
        _row("a", 2, 0.74, epochs=6, tokens=64),
        _row("a", 1, 0.70, epochs=6, tokens=64),
        _row("a", 1, 0.3, "reuters", 6769),
    ]
    lines = tables.main_table(rows, {"a": "System A", "b": "System B"})
    assert [line for line in lines if line.startswith("**")] == [
        "**caves**, 2,000 training, 500 development, 1,000 test rows",
        "**reuters**, 6,769 training, 500 development, 1,000 test rows",
    ]
    body = [line for line in lines if line.startswith("| System")]
    assert body[0] == "| System A | 72.0 ± 2.8 | 36.0 ± 1.4 | 36.0 ± 1.4 | 72.0 ± 2.8 | 6 | 64 | 2 | 60 | 1,200 |"
    assert body[1] == "| System B | 50.0 | 25.0 | 25.0 | 50.0 |  |  | 1 | 60 | 1,200 |"
    assert len(body) == 3


def test_in_short_each_figure_has_its_best_peer() -> None:
    micro = {"b": 0.5, "c": 0.4, "lagamc": 0.6}
    rows = [_row(name, 1, value) for name, value in micro.items()]
    rows[0]["test_for_macro_f1"] = {"macro_f1": 0.1, "micro_f1": 0.5}
    rows += [_row("lagamc", 1, 0.9, "reuters"), _row("b", 1, 0.9, "goemotions"), _row("c", 1, 0.9, "goemotions")]
    assert tables.short_table(rows, {"b": "B", "c": "C"})[2:] == [
        "| caves | 2,000 | 60.0 | 50.0, B | 1.20 | 30.0 | 20.0, C | 1.50 |"
    ]


def test_another_setting_of_lagamc_is_no_peer_of_it() -> None:
    others = ("lagamc 96 tokens of a text", "lagamc_one_reader")
    rows = [_row("lagamc", 1, 0.6), *(_row(name, 1, 0.8) for name in others)]
    assert len(tables.short_table(rows, {})) == 2
    assert tables.short_table([*rows, _row("b", 1, 0.5)], {"b": "B"})[2].startswith(
        "| caves | 2,000 | 60.0 | 50.0, B |"
    )


def test_epochs_are_those_that_were_best_on_the_development_rows() -> None:
    few, more, most = (_row("a", 1, micro, epochs=epochs) for micro, epochs in ((0.5, 5), (0.6, 10), (0.4, 20)))
    other = _row("a", 1, 0.1, train=50, epochs=40)
    most["test_for_micro_f1"] = {"micro_f1": 0.9, "macro_f1": 0.9}
    second = _row("a", 2, 0.58, epochs=10)
    elsewhere = {**few, "backbone": "some/model"}
    longer = _row("a", 1, 0.3, epochs=5, tokens=96)
    rows = [few, more, most, other, second, elsewhere, longer]
    assert tables.best_epochs(rows) == [more, other, second, elsewhere, longer]


def test_learning_curve_needs_several_sizes() -> None:
    rows = [_row("a", 1, 0.4, train=50), _row("a", 1, 0.6), _row("a", 2, 0.7), _row("b", 1, 0.5)]
    assert tables.learning_curve(rows, {"b": "System B", "a": "System A"}) == [
        "| | 50 | 2,000 |",
        "| --- | --- | --- |",
        "| System A | 40.0 / 20.0 | 65.0 ± 7.1 / 32.5 ± 3.5 |",
    ]
    fewer = _row("a", 3, 0.9)
    fewer["rows"]["test"] = 100
    assert tables.learning_curve([*rows, fewer], {"a": "A"}) == tables.learning_curve(rows, {"a": "A"})
    assert len(tables.main_table([*rows, fewer], {"a": "A"})) == len(tables.main_table(rows, {"a": "A"})) + 6


def test_mixed_labels_go_to_their_data_sets() -> None:
    alone, mixed = _row("a", 1, 0.5, train=500), _row("a", 1, 0.5, "mixed", 2500)
    other = _row("a", 1, 0.2, train=50)  # of fewer rows: not compared
    for row, count in ((alone, 100), (mixed, 500), (other, 100)):
        row["rows"]["test"] = count
    other["analysis"] = {"by_label": {"x": [1, 1, 0.1]}}
    alone["analysis"] = {"by_label": {"x": [1, 1, 0.5], "y": [1, 1, 0.9]}}
    mixed["analysis"] = {"by_label": {"caves/x": [1, 1, 0.5], "caves/y": [1, 1, 0.7], "aapd/x": [1, 1, 0.1]}}
    lines = tables.mixed_table([alone, mixed, other, _row("a", 1, 0.9)], {"a": "System A", "b": "System B"})
    assert lines[2:] == ["| System A | 70.0 | 60.0 |  |  |  |  |  | 10.0 |  |  |"]


def test_the_mixed_task_holds_the_rows_of_all(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for i, name in enumerate(n for n in datasets.SIZES if n != "mixed"):
        (tmp_path / name).mkdir()
        rows = [Example(str(j), f"{name} {j}", ("x",)) for j in range(8)]
        splits = dict.fromkeys(("train", "dev", "test"), rows)
        datasets.write_data(tmp_path / name, {"x": f"Thing {i}.", "y": f"Other thing {i}."}, splits)
    monkeypatch.setenv(datasets.VARIABLE, str(tmp_path))
    task = datasets.load_task("mixed", rows=5, test_rows=2)
    assert task is not None
    assert {split: len(found) for split, found in task.splits.items()} == {"train": 25, "dev": 25, "test": 10}
    assert len(task.bank) == 10
    assert task.splits["test"][2] == Example("reuters/0", "reuters 0", ("reuters/x",))
    (tmp_path / "aapd" / "labels.json").unlink()
    assert datasets.load_task("mixed") is None


def _looked_at(system: str, micro: float, errors: dict[str, Any]) -> dict[str, Any]:
    analysis = {
        "rare_macro_f1": 0.25,
        "by_count": {"0": [3, 5, 0.0], "1": [600, 550, 0.7], "2": [0, 40, None]},
        "by_length": [[9, 0.8], [17, 0.5]],
        "errors": errors,
    }
    return {**_row(system, 1, micro), "analysis": analysis, "test_at_half": {"micro_f1": 0.3, "macro_f1": 0.1}}


def test_parts_and_errors_are_those_of_the_rows_that_were_looked_at() -> None:
    rows = [
        _looked_at("lagamc", 0.7, {"t9": [["a"], []]}),
        _looked_at("b", 0.6, {"t10": [["a", "b"], ["a"]], "t9": [["a"], ["b"]]}),
        _looked_at("c", 0.5, {}),
        _row("a", 1, 0.9, train=5000),
    ]
    rows += [{**row, "rows": {**row["rows"], "train": 3000}} for row in rows[:2]]  # more rows, fewer systems
    titles = {"lagamc": "LAGAMC", "b": "System B", "c": "System C"}
    parts = tables.parts_table(rows, titles)
    assert parts[0] == "**caves**, 2,000 training rows"
    assert parts[2] == "| | rare labels, macro-F1 | 1: 600 true rows | up to 9 words | up to 17 words |"
    assert parts[4:] == [f"| {title} | 25.0 | 550 given, 70.0 | 80.0 | 50.0 |" for title in titles.values()]
    assert tables.thresholds_table(rows, titles)[4] == "| LAGAMC | 30.0 | 70.0 | 10.0 | 35.0 |"
    assert tables.errors_table(rows, titles)[2:] == [
        "| row | true | LAGAMC | System B |",
        "| --- | --- | --- | --- |",
        "| t9 | a | none | b |",
        "| t10 | a, b | right | a |",
    ]


def test_rendering_replaces_the_tables_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = tmp_path / "BENCHMARKS.md"
    page.write_text(PAGE)
    readme = tmp_path / "README.md"
    readme.write_text("# Readme\n\n<!-- short: rendered -->\n<!-- end -->\n\nmore\n")
    monkeypatch.setattr(tables, "PAGE", page)
    monkeypatch.setattr(tables, "README", readme)
    monkeypatch.setattr(tables, "RESULTS", tmp_path)
    outcomes.write(tmp_path / "main_table" / "row.json", _row("a", 1, 0.5))
    outcomes.write(tmp_path / "main_table" / "more.json", {**_row("a", 1, 0.4, train=50), "setting": "t"})
    other = {**_row("a", 1, 0.8), "backbone": "some/model"}
    outcomes.write(tmp_path / "main_table" / "other.json", other)
    for tokens in (64, 96):  # those of the config and others
        outcomes.write(tmp_path / "main_table" / f"{tokens}.json", _row("c", 1, tokens / 100, tokens=tokens))
    figures = {f"{split}_{goal}": 0.25 for split in ("dev", "test", "test_generated") for goal in GOALS}
    for seed, rows in ((1, 2000), (2, 2000), (1, 300)):
        run = {"form": "whole", "seed": seed, "rows": rows, **figures, "collapse": 0.4}
        outcomes.write(tmp_path / "loss_forms" / f"{seed}-{rows}.json", run)
    outcomes.write(tmp_path / "speed.json", {"command": "python -m it", "machine": "m", "figures": {"ratio": 1.5}})
    for _ in range(2):
        tables.render({"a": "System A", "c": "System C"})
        text = page.read_text()
        assert text.count("| System A | 50.0 |") == 1
        assert text.count("| System A, on some/model | 80.0 |") == 1
        assert text.count("| System C | 64.0 |") == 1
        assert text.count("| System C, 96 tokens of a text | 96.0 |") == 1
        assert text.count("| System A | a 1.0 | t; s | 10 / 20 |") == 1
        assert text.count("| whole | 25.0 ± 0.0 / 25.0 ± 0.0 |") == 1
        assert text.count("`python -m it` (m)\n\n```yaml\nratio: 1.5\n```") == 1
        assert "before" not in text
        assert text.count("<!-- end -->") == PAGE.count("<!-- end -->")
        assert "\nwords\n" in text
        assert readme.read_text() == "# Readme\n\n<!-- short: rendered -->\n\n" + "\n".join(
            [*tables.short_table([], {}), "", "<!-- end -->\n\nmore\n"]
        )


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
    asked, settings = [], []

    def system(task: Task) -> Scored:
        asked.append(task.seed)
        settings.append((task.backbone, task.epochs, task.peer_epochs, task.max_length))
        return Scored({"dev": scores, "test": np.array([[0.3, 0.28], [0.1, 0.3]])}, "library 1", "set", 5, 6)

    monkeypatch.setattr(main_table, "ROWS", tmp_path)
    monkeypatch.setattr(main_table, "load_task", lambda *_: task)
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
