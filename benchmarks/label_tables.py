"""Tables of single labels: F1 by the training rows that they had, and by how much LAGAMC is ahead there."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from statistics import mean, stdev

from benchmarks.result_rows import Row, fine_tuned, grouped, most_systems, spread
from lagamc.thresholds import GOALS

# training rows of a label at least
FREQUENCIES = {0: "no row", 1: "1 to 9", 10: "10 to 29", 30: "30 to 99", 100: "100 and more"}


def _by_frequency(row: Row) -> dict[str, list[str]]:
    """The labels that some test row has, by the training rows that they had; kinds without a label are left out."""
    kinds: dict[str, list[str]] = {kind: [] for kind in FREQUENCIES.values()}
    for name, (trained, tested, _) in row["analysis"]["by_label"].items():
        if tested:
            kinds[next(kind for least, kind in reversed(FREQUENCIES.items()) if trained >= least)].append(name)
    return {kind: names for kind, names in kinds.items() if names}


def frequency_table(rows: Iterable[Row], titles: Mapping[str, str]) -> list[str]:
    """Mean F1 of labels by the training rows that they had; of the labels that some test row has."""
    lines: list[str] = []
    for dataset, systems in most_systems(rows).items():
        some = next(iter(systems.values()))[0]
        kinds = _by_frequency(some)
        heads = [f"{kind}: {len(names)} label{'s' * (len(names) > 1)}" for kind, names in kinds.items()]
        lines += [f"**{dataset}**, {some['rows']['train']:,} training rows", ""]
        lines += ["| | " + " | ".join(heads) + " |", "| --- " * (len(heads) + 1) + "|"]
        for system, title in titles.items():
            if of := systems.get(system):
                by_label = [row["analysis"]["by_label"] for row in of]
                cells = [
                    spread([mean(one[name][2] for name in names) for one in by_label]) for names in kinds.values()
                ]
                lines.append(f"| {title} | " + " | ".join(cells) + " |")
        lines.append("")
    return lines[:-1]


def leads_table(rows: Iterable[Row], titles: Mapping[str, str]) -> list[str]:
    """Points by which LAGAMC is ahead of each peer that trains in epochs, each figure by the thresholds for it.

    The standard error is that of the mean over the labels that some test row has, of what the mean over the seeds
    gives a label.
    """
    heads = ["training rows", "peer", "seeds", "micro-F1", "macro-F1", "standard error", "labels better", "worse"]
    heads += FREQUENCIES.values()
    lines = ["| | " + " | ".join(heads) + " |", "| --- " * (len(heads) + 1) + "|"]
    for (dataset, train, _), systems in grouped(rows).items():
        if "lagamc" not in systems:
            continue
        ours = systems["lagamc"]
        for system in (one for one in titles if one in fine_tuned(systems)):
            theirs = systems[system]
            kinds = _by_frequency(theirs[0])
            leads = {name: _f1(ours, name) - _f1(theirs, name) for names in kinds.values() for name in names}
            error = f"{stdev(leads.values()) / len(leads) ** 0.5:.1f}" if len(leads) > 1 else ""
            cells = [dataset, f"{train:,}", titles[system], f"{len(ours)} / {len(theirs)}"]
            cells += [_lead(ours, theirs, goal) for goal in GOALS]
            cells += [error, *(str(sum(sign * lead > 0 for lead in leads.values())) for sign in (1, -1))]
            cells += [
                _points(mean(leads[name] for name in kinds[kind])) if kind in kinds else ""
                for kind in FREQUENCIES.values()
            ]
            lines.append("| " + " | ".join(cells) + " |")
    return lines


def _f1(rows: list[Row], label: str) -> float:
    """Of a label in percent, mean over the seeds."""
    return round(100 * mean(row["analysis"]["by_label"][label][2] for row in rows), 4)  # what is equal shows as such


def _lead(ours: list[Row], theirs: list[Row], goal: str) -> str:
    """Between the means; bold where both have several seeds and the worst of ours is ahead of the best of theirs."""
    first, second = ([row[f"test_for_{goal}"][goal] for row in rows] for rows in (ours, theirs))
    shown = _points(100 * (mean(first) - mean(second)))
    return f"**{shown}**" if len(first) > 1 and len(second) > 1 and min(first) > max(second) else shown


def _points(lead: float) -> str:
    return f"{round(lead, 1) + 0.0:.1f}"  # no -0.0
