"""The tables of BENCHMARKS.md, from what the benchmarks left in `benchmarks/results/`."""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path
from statistics import mean
from typing import Any

import yaml

from benchmarks import loss_forms
from benchmarks.datasets import MIXED_ROWS, MIXED_TEST_ROWS, ROOT, SIZES, usual_tokens
from benchmarks.label_tables import frequency_table, leads_table
from benchmarks.outcomes import RESULTS, read
from benchmarks.result_rows import Row, best_epochs, figure, fine_tuned, grouped, most_systems, peers, read_row, spread
from lagamc.errors import LagamcError
from lagamc.thresholds import GOALS

PAGE, README = ROOT / "BENCHMARKS.md", ROOT / "README.md"


def render(titles: Mapping[str, str]) -> None:
    """Replaces what stands between the marks of every table.

    Args:
        titles: system -> its name in the main table, in the order of the rows.
    """
    rows: list[Row] = []
    titles = dict(titles)
    for row in best_epochs(read_row(path, titles) for path in sorted(RESULTS.glob("main_table/*.json"))):
        departures = [f"on {row['backbone']}"] if row["backbone"] else []
        if row["tokens"] not in (None, usual_tokens(row["dataset"])):
            departures.append(f"{row['tokens']} tokens of a text")
        name = " ".join([row["system"], *departures])  # what departs is a system of its own
        titles[name] = ", ".join([titles[row["system"]], *departures])
        rows.append({**row, "system": name})
    if not rows:
        raise LagamcError(f"{RESULTS / 'main_table'}: expected results, found none; measure a row first")
    forms = [read(path, "form", "rows", *loss_forms.KEYS) for path in sorted(RESULTS.glob("loss_forms/*.json"))]
    others = [_read_figures(path) for path in sorted(RESULTS.glob("*.json"))]
    short = {"short": short_table(rows, titles)}
    page = _replaced(
        PAGE,
        {
            **short,
            "main": main_table(rows, titles),
            "systems": systems_table(rows, titles),
            "curve": learning_curve(rows, titles),
            "thresholds": thresholds_table(rows, titles),
            "mixed": mixed_table(rows, titles),
            "leads": leads_table(rows, titles),
            "frequency": frequency_table(rows, titles),
            "parts": parts_table(rows, titles),
            "errors": errors_table(rows, titles),
            "forms": forms_table(forms),
            "others": other_figures(others),
        },
    )
    for path, text in ((README, _replaced(README, short)), (PAGE, page)):
        path.write_text(text, encoding="utf-8")
    print(json.dumps({"rows": len(rows), "runs": len(forms), "others": len(others)}))


def _read_figures(path: Path) -> Row:
    found = read(path, "command", "machine", "figures")
    if not isinstance(found["figures"], dict):
        raise LagamcError(f"{path}: expected figures by their names, found {found['figures']!r:.60}; measure it again")
    return found


def _replaced(page: Path, tables: Mapping[str, list[str]]) -> str:
    text = page.read_text(encoding="utf-8")
    for name, lines in tables.items():
        place = re.search(rf"<!-- {name}: .*? -->\n(.*?)<!-- end -->", text, re.DOTALL)
        if place is None:
            raise SystemExit(f"{page}: expected a place for the table {name!r}")
        text = text[: place.start(1)] + "\n".join(["", *lines, "", ""]) + text[place.end(1) :]
    return text


def short_table(rows: Iterable[Row], titles: Mapping[str, str]) -> list[str]:
    """LAGAMC against the best peer, each figure by the thresholds for it, wherever a fine-tuned one was measured."""
    lines = ["| | training rows | micro-F1 | best peer | ratio | macro-F1 | best peer | ratio |", "| --- " * 8 + "|"]
    for (dataset, train, _), systems in grouped(rows).items():
        if "lagamc" not in systems or not fine_tuned(systems):
            continue
        cells = [dataset, f"{train:,}"]
        for goal in GOALS:
            means = {one: mean(row[f"test_for_{goal}"][goal] for row in found) for one, found in systems.items()}
            best = max(peers(systems), key=lambda one: means[one])
            ratio = means["lagamc"] / means[best]
            ours, theirs = (figure(systems[one], goal, goal) for one in ("lagamc", best))
            cells += [ours, f"{theirs}, {titles[best]}", f"{ratio:.2f}"]
        lines.append("| " + " | ".join(cells) + " |")
    return lines


def main_table(rows: Iterable[Row], titles: Mapping[str, str]) -> list[str]:
    """A table for each data set: both figures under the thresholds of each goal, its own first."""
    lines: list[str] = []
    for (dataset, train, test), systems in grouped(rows).items():
        dev = next(iter(systems.values()))[0]["rows"]["dev"]
        lines += [f"**{dataset}**, {train:,} training, {dev:,} development, {test:,} test rows", ""]
        lines += ["| | micro-F1 | (macro-F1) | macro-F1 | (micro-F1) | epochs | tokens | seeds | CPU seconds | MiB |"]
        lines += ["| --- " * 10 + "|"]
        for system, title in titles.items():
            if found := systems.get(system):
                cells = []
                for goal in GOALS:
                    other = next(name for name in GOALS if name != goal)
                    cells += [figure(found, goal, name) for name in (goal, other)]
                cells += [
                    *(str(found[0][name] or "") for name in ("epochs", "tokens")),
                    str(len(found)),
                    f"{mean(row.get('cpu_seconds', row['seconds']) for row in found):,.0f}",
                ]
                cells += [f"{max(row['peak_mib'] for row in found):,}"]
                lines.append(f"| {title} | " + " | ".join(cells) + " |")
        lines.append("")
    return lines[:-1]


def systems_table(rows: Iterable[Row], titles: Mapping[str, str]) -> list[str]:
    """What each system is, all of its settings; parameters of the row with the most."""
    lines = ["| | library | setting | trained / all parameters |", "| --- | --- | --- | --- |"]
    for system, title in titles.items():
        if found := [row for row in rows if row["system"] == system]:
            row = max(found, key=lambda row: row["total_parameters"])
            trained = f"{row['trainable_parameters']:,} / {row['total_parameters']:,}"
            trained = trained if row["total_parameters"] else "not counted"
            settings = "; ".join(dict.fromkeys(row["setting"] for row in found))
            lines.append(f"| {title} | {row['library']} | {settings} | {trained} |")
    return lines


def learning_curve(rows: Iterable[Row], titles: Mapping[str, str]) -> list[str]:
    """Micro-F1 / macro-F1, each for its own goal, of all test rows of CAVES by the number of training rows."""
    caves = [row for row in rows if row["dataset"] == "caves"]
    most = max((row["rows"]["test"] for row in caves), default=0)
    sizes = {train: systems for (_, train, test), systems in grouped(caves).items() if test == most}
    lines = ["| | " + " | ".join(f"{train:,}" for train in sorted(sizes)) + " |", "| --- " * (len(sizes) + 1) + "|"]
    for system, title in titles.items():
        cells = [
            " / ".join(figure(sizes[train][system], goal, goal) for goal in GOALS) if system in sizes[train] else ""
            for train in sorted(sizes)
        ]
        if len([cell for cell in cells if cell]) > 1:
            lines.append(f"| {title} | " + " | ".join(cells) + " |")
    return lines


def thresholds_table(rows: Iterable[Row], titles: Mapping[str, str]) -> list[str]:
    """What tuned thresholds add to a probability of one half."""
    lines: list[str] = []
    for dataset, systems in most_systems(rows).items():
        lines += [f"**{dataset}**", "", "| | micro-F1 at 0.5 | tuned | macro-F1 at 0.5 | tuned |", "| --- " * 5 + "|"]
        for system, title in titles.items():
            if found := [row for row in systems.get(system, []) if "test_at_half" in row]:
                cells = [
                    cell
                    for goal in GOALS
                    for cell in (spread([row["test_at_half"][goal] for row in found]), figure(found, goal, goal))
                ]
                lines.append(f"| {title} | " + " | ".join(cells) + " |")
        lines.append("")
    return lines[:-1]


def mixed_table(rows: Iterable[Row], titles: Mapping[str, str]) -> list[str]:
    """Macro-F1 of each data set by itself and among the labels of all (paper, section 8.4), on the same rows."""
    found: dict[str, dict[tuple[str, bool], list[float]]] = defaultdict(lambda: defaultdict(list))
    datasets = [name for name in SIZES if name != "mixed"]
    for row in rows:
        several = len(datasets) if row["dataset"] == "mixed" else 1
        if [row["rows"][split] for split in ("train", "test")] != [MIXED_ROWS * several, MIXED_TEST_ROWS * several]:
            continue
        parts = defaultdict(list)
        for label, (_, _, f1) in row["analysis"]["by_label"].items():
            parts[label.split("/")[0] if row["dataset"] == "mixed" else row["dataset"]].append(f1)
        for dataset, figures in parts.items():
            found[row["system"]][dataset, row["dataset"] == "mixed"].append(mean(figures))
    lines = ["| | " + " | ".join(f"{name} alone | mixed" for name in datasets) + " |"]
    lines.append("| --- " * (2 * len(datasets) + 1) + "|")
    for system, title in titles.items():
        if any(mixed for _, mixed in found[system]):
            places = [(name, mixed) for name in datasets for mixed in (False, True)]
            cells = [spread(found[system][place]) if place in found[system] else "" for place in places]
            lines.append(f"| {title} | " + " | ".join(cells) + " |")
    return lines


def parts_table(rows: Iterable[Row], titles: Mapping[str, str]) -> list[str]:
    """Rare labels, number of labels, length of the descriptions (paper, figures 3 and 6, table 6)."""
    lines: list[str] = []
    for dataset, systems in most_systems(rows).items():
        analyses = {system: [row["analysis"] for row in found] for system, found in systems.items()}
        some = next(iter(analyses.values()))[0]
        counts = [count for count in some["by_count"] if 1 <= int(count) <= 5 and some["by_count"][count][0]]
        heads = ["rare labels, macro-F1", *(f"{count}: {some['by_count'][count][0]:,} true rows" for count in counts)]
        heads += [f"up to {words} words" for words, _ in some["by_length"]]
        lines += [f"**{dataset}**, {systems[next(iter(systems))][0]['rows']['train']:,} training rows", ""]
        lines += ["| | " + " | ".join(heads) + " |", "| --- " * (len(heads) + 1) + "|"]
        for system, title in titles.items():
            if of := analyses.get(system):
                rare = [one["rare_macro_f1"] for one in of]
                cells = [spread(rare) if None not in rare else ""]  # no test row has a rare label
                for count in counts:
                    given = mean(one["by_count"].get(count, [0, 0, 0])[1] for one in of)
                    cells.append(f"{given:,.0f} given, " + spread([one["by_count"][count][2] for one in of]))
                cells += [spread([one["by_length"][i][1] for one in of]) for i in range(len(some["by_length"]))]
                lines.append(f"| {title} | " + " | ".join(cells) + " |")
        lines.append("")
    return lines[:-1]


def errors_table(rows: Iterable[Row], titles: Mapping[str, str], shown: int = 12) -> list[str]:
    """The first test rows that LAGAMC or the best of the others got wrong (paper, table 9)."""
    lines: list[str] = []
    for dataset, systems in most_systems(rows).items():
        if "lagamc" not in systems or not peers(systems):
            continue
        best = max(peers(systems), key=lambda one: systems[one][0]["test_for_micro_f1"]["micro_f1"])
        ours, other = (systems[one][0]["analysis"]["errors"] for one in ("lagamc", best))
        lines += [f"**{dataset}**", "", f"| row | true | LAGAMC | {titles[best]} |", "| --- | --- | --- | --- |"]
        for row in sorted({*ours, *other}, key=lambda row: (len(row), row))[:shown]:
            true = (ours.get(row) or other[row])[0]
            given = [", ".join(errors[row][1]) or "none" if row in errors else "right" for errors in (ours, other)]
            lines.append(f"| {row} | {', '.join(true) or 'none'} | " + " | ".join(given) + " |")
        lines.append("")
    return lines[:-1]


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
        cells += [f"{round(mean(run['collapse'] for run in found), 2) + 0.0:.2f}", str(len(found))]
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
