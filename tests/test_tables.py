"""The tables of BENCHMARKS.md."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from benchmarks import datasets, label_tables, outcomes, result_rows, tables
from lagamc.data import Example
from lagamc.errors import LagamcError
from lagamc.thresholds import GOALS

PARTS = ("short", "systems", "curve", "thresholds", "mixed", "leads", "frequency", "parts", "errors")
PARTS += ("forms", "others")
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
        "test_at_half": {"micro_f1": 0.3, "macro_f1": 0.1},
        "analysis": {"by_label": {}, "rare_macro_f1": 0.0, "by_count": {}, "by_length": [], "errors": {}},
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
    rows = [_row(name, 1, value, epochs=3) for name, value in micro.items()]
    rows[0]["test_for_macro_f1"] = {"macro_f1": 0.1, "micro_f1": 0.5}
    rows += [_row("lagamc", 1, 0.9, "reuters"), _row("b", 1, 0.9, "goemotions"), _row("c", 1, 0.9, "goemotions")]
    rows += [_row("lagamc", 1, 0.9, "aapd"), _row("b", 1, 0.1, "aapd")]  # of peers one that is not fine-tuned alone
    assert tables.short_table(rows, {"b": "B", "c": "C"})[2:] == [
        "| caves | 2,000 | 60.0 | 50.0, B | 1.20 | 30.0 | 20.0, C | 1.50 |"
    ]


def test_another_setting_of_lagamc_is_no_peer_of_it() -> None:
    others = ("lagamc 96 tokens of a text", "lagamc_one_reader")
    rows = [_row("lagamc", 1, 0.6), *(_row(name, 1, 0.8) for name in others)]
    assert len(tables.short_table(rows, {})) == 2
    assert tables.short_table([*rows, _row("b", 1, 0.5, epochs=3)], {"b": "B"})[2].startswith(
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
    assert result_rows.best_epochs(rows) == [more, other, second, elsewhere, longer]


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
    return {**_row(system, 1, micro), "analysis": analysis}


def test_labels_are_taken_together_by_their_training_rows() -> None:
    by_label = {"a": [0, 3, 0.0], "b": [9, 3, 0.5], "c": [1, 3, 0.25], "d": [100, 3, 0.75], "e": [5, 0, 1.0]}
    rows = [_looked_at(system, 0.7, {}) for system in ("a", "b")]
    rows = [{**row, "analysis": {**row["analysis"], "by_label": by_label}} for row in rows]
    assert label_tables.frequency_table(rows, {"b": "System B", "a": "System A"}) == [
        "**caves**, 2,000 training rows",
        "",
        "| | no row: 1 label | 1 to 9: 2 labels | 100 and more: 1 label |",
        "| --- | --- | --- | --- |",
        "| System B | 0.0 | 37.5 | 75.0 |",
        "| System A | 0.0 | 37.5 | 75.0 |",
    ]


def test_leads_are_of_means_over_seeds_and_bold_where_each_seed_is_ahead() -> None:
    def row(system: str, seed: int, micro: float, *f1: float) -> dict[str, Any]:
        tested = zip("abc", (0, 20, 20), (3, 3, 3), f1, strict=True)
        by_label = {name: list(rest) for name, *rest in [*tested, ("d", 5, 0, 0.0)]}
        return {**_row(system, seed, micro, epochs=3), "analysis": {"by_label": by_label}}

    ours = [row("lagamc", 1, 0.7, 0.5, 0.6, 0.8), row("lagamc", 2, 0.72, 0.7, 0.6, 0.8)]
    near = [row("near", 1, 0.69, 0.2, 0.7, 0.8), row("near", 2, 0.6, 0.4, 0.7, 0.8)]
    near[1]["test_for_macro_f1"] = {"macro_f1": 0.355, "micro_f1": 0.6}
    lines = label_tables.leads_table([*ours, *near, row("far", 1, 0.1, 0.0, 0.0, 0.0)], {"far": "F", "near": "N"})
    assert lines[2:] == [  # labels of the nearer one: 30 ahead, 10 behind, as good
        "| caves | 2,000 | F | 2 / 1 | 61.0 | 30.5 | 6.7 | 3 | 0 | 60.0 |  | 70.0 |  |  |",
        "| caves | 2,000 | N | 2 / 2 | **6.5** | 0.5 | 12.0 | 1 | 1 | 30.0 |  | -5.0 |  |  |",
    ]
    assert len(label_tables.leads_table(near, {"near": "N"})) == 2


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
    unseen = {**rows[2], "analysis": {**rows[2]["analysis"], "rare_macro_f1": None}}  # no test row has a rare label
    assert tables.parts_table([rows[0], unseen], titles)[-1] == "| System C |  | 550 given, 70.0 | 80.0 | 50.0 |"
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
    with pytest.raises(LagamcError, match="main_table: expected results, found none"):
        tables.render({})
    assert page.read_text() == PAGE
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


@pytest.mark.parametrize(
    ("field", "value"),
    [
        *(("dataset", "nope"), ("system", "nope"), ("system", []), ("seed", None), ("rows", None)),
        *(("rows", {"train": 1}), ("test_for_micro_f1", {"micro_f1": None}), ("total_parameters", "x")),
        *(("analysis", []), ("analysis", {"by_label": {}}), ("test_at_half", {"micro_f1": 0.3})),
    ],
)
def test_a_row_that_is_none_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, field: str, value: object
) -> None:
    monkeypatch.setattr(tables, "RESULTS", tmp_path)
    path = tmp_path / "main_table" / "row.json"
    outcomes.write(path, {**_row("a", 1, 0.5), field: value})
    with pytest.raises(LagamcError, match=f"^{path}: expected another '{field}' in a result, found "):
        tables.render({"a": "System A"})
    outcomes.write(path, _row("a", 1, 0.5))
    outcomes.write(tmp_path / "speed.json", {"command": "it", "machine": "m", "figures": 3})
    with pytest.raises(LagamcError, match=r"speed\.json: expected figures by their names, found 3"):
        tables.render({"a": "System A"})
