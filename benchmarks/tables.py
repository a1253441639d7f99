"""The tables of BENCHMARKS.md, from what the benchmarks left in `benchmarks/results/`."""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import yaml

from benchmarks.datasets import ROOT, SIZES
from benchmarks.outcomes import RESULTS
from lagamc.thresholds import GOALS

PAGE = ROOT / "BENCHMARKS.md"
Row = Mapping[str, Any]


def render(titles: Mapping[str, str]) -> None:
    """Replaces what stands between the marks of every table.

    Args:
        titles: system -> its name in the main table, in the order of the rows.
    """
    rows = [_read(path) for path in sorted(RESULTS.glob("main_table/*.json"))]
    forms = [_read(path) for path in sorted(RESULTS.glob("loss_forms/*.json"))]
    others = [_read(path) for path in sorted(RESULTS.glob("*.json"))]
    text = PAGE.read_text(encoding="utf-8")
    for name, lines in {
        "main": main_table(rows, titles),
        "systems": systems_table(rows, titles),
        "forms": forms_table(forms),
        "others": other_figures(others),
    }.items():
        place = re.search(rf"<!-- {name}: .*? -->\n(.*?)<!-- end -->", text, re.DOTALL)
        if place is None:
            raise SystemExit(f"{PAGE}: expected a place for the table {name!r}")
        text = text[: place.start(1)] + "\n".join(["", *lines, "", ""]) + text[place.end(1) :]
    PAGE.write_text(text, encoding="utf-8")
    print(json.dumps({"rows": len(rows), "runs": len(forms), "others": len(others)}))


def _read(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def grouped(rows: Iterable[Row]) -> dict[tuple[str, int], dict[str, list[Row]]]:
    """(data set, training rows) -> system -> its rows, one a seed; data sets in the order of `SIZES`."""
    found: dict[tuple[str, int], dict[str, list[Row]]] = defaultdict(lambda: defaultdict(list))
    order = list(SIZES)
    for row in sorted(rows, key=lambda row: (order.index(row["dataset"]), -row["rows"]["train"], row["seed"])):
        found[row["dataset"], row["rows"]["train"]][row["system"]].append(row)
    return found


def spread(values: list[float]) -> str:
    """Mean in percent, and the standard deviation where there are several."""
    shown = f"{100 * mean(values):.1f}"
    return shown if len(values) == 1 else f"{shown} ± {100 * stdev(values):.1f}"


def main_table(rows: Iterable[Row], titles: Mapping[str, str]) -> list[str]:
    """A table for each data set: both figures under the thresholds of each goal, its own first."""
    lines: list[str] = []
    for (dataset, train), systems in grouped(rows).items():
        some = next(iter(systems.values()))[0]["rows"]
        lines += [f"**{dataset}**, {train:,} training, {some['dev']:,} development, {some['test']:,} test rows", ""]
        lines += ["| | micro-F1 | (macro-F1) | macro-F1 | (micro-F1) | seeds | seconds | MiB |"]
        lines += ["| --- | --- | --- | --- | --- | --- | --- | --- |"]
        for system, title in titles.items():
            if found := systems.get(system):
                cells = []
                for goal in GOALS:
                    other = next(name for name in GOALS if name != goal)
                    cells += [spread([row[f"test_for_{goal}"][name] for row in found]) for name in (goal, other)]
                cells += [str(len(found)), f"{mean(row['seconds'] for row in found):,.0f}"]
                cells += [f"{max(row['peak_mib'] for row in found):,}"]
                lines.append(f"| {title} | " + " | ".join(cells) + " |")
        lines.append("")
    return lines[:-1]


def systems_table(rows: Iterable[Row], titles: Mapping[str, str]) -> list[str]:
    """What each system is; parameters of the row with the most."""
    lines = ["| | library | setting | trained / all parameters |", "| --- | --- | --- | --- |"]
    for system, title in titles.items():
        if found := [row for row in rows if row["system"] == system]:
            row = max(found, key=lambda row: row["total_parameters"])
            trained = f"{row['trainable_parameters']:,} / {row['total_parameters']:,}"
            trained = trained if row["total_parameters"] else "not counted"
            lines.append(f"| {title} | {row['library']} | {row['setting']} | {trained} |")
    return lines


def forms_table(runs: Iterable[Row]) -> list[str]:
    """The forms of the loss: mean and spread over the seeds.

    Args:
        runs: as `benchmarks.loss_forms` keeps them.
    """
    forms: dict[str, list[Row]] = defaultdict(list)
    for run in runs:
        if run["rows"] == 2000:
            forms[run["form"]].append(run)
    columns = {"dev": "dev", "test": "test", "test_generated": "test, as written"}
    lines = ["| | " + " | ".join(f"{title} micro / macro" for title in columns.values()) + " | collapse | seeds |"]
    lines.append("| --- " * (len(columns) + 3) + "|")
    for form, found in forms.items():
        cells = [" / ".join(spread([run[f"{split}_{goal}"] for run in found]) for goal in GOALS) for split in columns]
        cells += [f"{mean(run['collapse'] for run in found):.2f}", str(len(found))]
        lines.append(f"| {form} | " + " | ".join(cells) + " |")
    return lines


def other_figures(kept: Iterable[Mapping[str, Any]]) -> list[str]:
    """What the other benchmarks printed last, with their commands."""
    lines = []
    for found in kept:
        figures = "".join(
            yaml.safe_dump({key: value}, default_flow_style=None if isinstance(value, dict) else False, width=110)
            for key, value in found["figures"].items()
        )
        lines += [f"`{found['command']}` ({found['machine']})", "", "```yaml", *figures.splitlines(), "```", ""]
    return lines[:-1]
