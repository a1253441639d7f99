"""Rows of the main table as they were kept: read, put together by data set and size, and what is shown of several."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from benchmarks.datasets import SIZES
from benchmarks.outcomes import read
from lagamc.errors import LagamcError
from lagamc.thresholds import GOALS

FIGURES = ["test_at_half", *(f"{split}_for_{goal}" for split in ("dev", "test") for goal in GOALS)]
KINDS: dict[str, Any] = dict.fromkeys(("dataset", "system", "library", "setting"), str)
KINDS |= dict.fromkeys(("seed", "trainable_parameters", "total_parameters", "peak_mib"), int)
KINDS |= {"backbone": str | None, "epochs": int | None, "tokens": int | None, "seconds": int | float, "rows": dict}
KINDS |= dict.fromkeys([*FIGURES, "analysis"], dict)
ANALYSIS = {"by_label": dict, "rare_macro_f1": float | None, "by_count": dict, "by_length": list, "errors": dict}
Row = Mapping[str, Any]


def read_row(path: Path, titles: Mapping[str, str]) -> Row:
    """A row out of its file.

    Args:
        path: a file of `benchmarks/results/main_table/`.
        titles: the systems that there are, by their names.

    Raises:
        LagamcError: it holds something else.
    """
    row = read(path, *KINDS)
    wrong = [name for name, kind in KINDS.items() if not isinstance(row[name], kind)]
    wrong = wrong or [name for name, known in (("dataset", SIZES), ("system", titles)) if row[name] not in known]
    numbers = {"rows": ("train", "dev", "test"), **dict.fromkeys(FIGURES, GOALS)}
    wrong = wrong or [
        name for name, keys in numbers.items() if not all(isinstance(row[name].get(key), int | float) for key in keys)
    ]
    wrong = wrong or [
        "analysis" for name, kind in ANALYSIS.items() if not isinstance(row["analysis"].get(name, ...), kind)
    ]
    if wrong:
        raise LagamcError(
            f"{path}: expected another {wrong[0]!r} in a result, found {row[wrong[0]]!r:.60}; remove it and measure "
            "it again"
        )
    return row


def grouped(rows: Iterable[Row]) -> dict[tuple[str, int, int], dict[str, list[Row]]]:
    """(data set, training rows, test rows) -> system -> its rows, one a seed.

    Data sets come in the order of `SIZES`, and those of the most rows first.
    """
    found: dict[tuple[str, int, int], dict[str, list[Row]]] = defaultdict(lambda: defaultdict(list))
    order = list(SIZES)

    def place(row: Row) -> tuple[int, ...]:
        return order.index(row["dataset"]), -row["rows"]["train"], -row["rows"]["test"], row["seed"]

    for row in sorted(rows, key=place):
        found[row["dataset"], row["rows"]["train"], row["rows"]["test"]][row["system"]].append(row)
    return found


def best_epochs(rows: Iterable[Row]) -> list[Row]:
    """Of systems that were trained for several numbers of epochs, the rows of the best by development micro-F1."""
    rows = list(rows)
    found: dict[Any, dict[int | None, list[float]]] = defaultdict(lambda: defaultdict(list))

    def place(row: Row) -> tuple[Any, ...]:
        sizes = row["rows"]["train"], row["rows"]["test"]
        return row["dataset"], row["system"], row["backbone"], row["tokens"], *sizes

    for row in rows:
        found[place(row)][row["epochs"]].append(row["dev_for_micro_f1"]["micro_f1"])
    best = {where: max(by_epochs, key=lambda one: mean(by_epochs[one])) for where, by_epochs in found.items()}
    return [row for row in rows if row["epochs"] == best[place(row)]]


def spread(values: list[float]) -> str:
    """Mean in percent, and the standard deviation where there are several."""
    shown = f"{100 * mean(values):.1f}"
    return shown if len(values) == 1 else f"{shown} ± {100 * stdev(values):.1f}"


def figure(rows: list[Row], goal: str, name: str) -> str:
    """`spread` of a figure under the thresholds for a goal."""
    return spread([row[f"test_for_{goal}"][name] for row in rows])


def is_ours(system: str) -> bool:
    """Whether it is LAGAMC, in whatever setting."""
    return system.startswith("lagamc")


def peers(systems: Iterable[str]) -> list[str]:
    """Those that are not LAGAMC."""
    return [system for system in systems if not is_ours(system)]


def fine_tuned(systems: Mapping[str, list[Row]]) -> list[str]:
    """The peers that train in epochs."""
    return [system for system in peers(systems) if any(row["epochs"] for row in systems[system])]


def most_systems(rows: Iterable[Row]) -> dict[str, dict[str, list[Row]]]:
    """Data set -> system -> rows of the size that most systems were measured with, two at least."""
    found: dict[str, dict[str, list[Row]]] = {}
    for (dataset, *_), systems in grouped(rows).items():
        if len(systems) > len(found.get(dataset, "-")):
            found[dataset] = systems
    return found
