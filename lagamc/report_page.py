"""The report of a run: one HTML page that holds its plots, and the plots as PNGs beside it."""

from __future__ import annotations

import base64
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import jinja2
import numpy as np

from lagamc import __version__, analysis, plots
from lagamc.checkpoints import REPORT_FOLDER
from lagamc.errors import LagamcError
from lagamc.metrics import label_metrics, multi_label_metrics
from lagamc.report_data import Run, read_run
from lagamc.thresholds import Thresholds, goal_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PAGE = "report.html"
ROUNDING = 1e-5  # more than the kept scores were rounded by
SPLIT_NAMES = {"dev": "development", "test": "test"}


@dataclass(frozen=True)
class Picture:
    """A plot on the page."""

    file: str
    data: str
    caption: str


class _Gallery:
    """Writes plots and keeps them for the page."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.pictures: dict[str, Picture] = {}
        self.all_glyphs = True

    def add(self, name: str, figure: Figure, caption: str) -> None:
        path = self.folder / f"{name}.png"
        self.all_glyphs &= plots.save(figure, path)
        data = base64.b64encode(path.read_bytes()).decode("ascii")
        self.pictures[name] = Picture(path.name, f"data:image/png;base64,{data}", caption)


def write_report(folder: str | Path, target: str | Path | None = None) -> Path:
    """Writes the report of a finished run.

    Args:
        folder: the output folder of the run.
        target: the folder of page and PNGs; default: `report` in the run's folder.

    Returns:
        the page.

    Raises:
        LagamcError: the folder holds no finished run, or the target cannot be written.
    """
    run = read_run(folder)
    target = Path(target or run.folder / REPORT_FOLDER)
    try:
        target.mkdir(parents=True, exist_ok=True)
        gallery = _Gallery(target)
        _draw(run, gallery)
        page = target / PAGE
        page.write_text(_render(run, gallery), encoding="utf-8")
    except OSError as error:
        raise LagamcError(f"{target}: the report cannot be written ({error.strerror or error})") from error
    return page


def _draw(run: Run, gallery: _Gallery) -> None:
    rows, bank = run.splits[run.measured], run.bank
    split = SPLIT_NAMES[run.measured]
    figures = label_metrics(rows.chosen, rows.true, bank.names)
    ranked = sorted(figures, key=lambda name: -figures[name]["support"])
    shown = ranked[: plots.LABEL_LIMIT]
    thresholds = Thresholds(**run.config.thresholds)

    if any("loss" in line for line in run.log):
        gallery.add(
            "losses",
            plots.losses(run.log),
            "Components of the loss and lambda over the steps of training; dots are the development rows.",
        )
    gallery.add(
        "labels",
        plots.label_bars(shown, [figures[name] for name in shown]),
        f"F1, precision and recall of {_of(shown, ranked, 'labels')}, most frequent first, on the {split} rows. "
        "A label without true and predicted rows counts as 0.",
    )
    absent = sum(not row["support"] for row in figures.values())
    gallery.add(
        "f1_against_support",
        plots.f1_against_support(ranked, [figures[name] for name in ranked]),
        f"F1 of each label against its true {split} rows, named where there is room"
        + (f"; {absent} labels have no {split} row and no dot." if absent else "."),
    )
    rare = analysis.rare_labels(rows, bank, run.config.label_counts)
    rarest = rare.names[: plots.LABEL_LIMIT]
    gallery.add(
        "rare_labels",
        plots.rare_bars(
            rarest,
            [figures[name]["f1"] for name in rarest],
            [run.config.label_counts.get(name, 0) for name in rarest],
            rare.macro_f1,
            goal_figure("macro_f1", rows.chosen, rows.true),
        ),
        f"F1 of the labels that training saw least on the {split} rows; their training rows in brackets. A label "
        "without true and predicted rows counts as 0.",
    )
    gallery.add(
        "number_of_labels",
        plots.grouped_bars(analysis.label_numbers(rows, bank), "labels of a row", "rows"),
        f"How many {split} rows have how many labels.",
    )
    buckets = analysis.length_buckets(rows, bank)
    if buckets:
        gallery.add(
            "description_length",
            plots.length_bars(buckets),
            "Micro-F1 by the length of the true descriptions together; rows without labels are left out.",
        )
    test = run.splits.get("test")
    written = None if test is None else analysis.similarity_sweep(test, bank)
    dev = run.splits.get("dev")
    gallery.add(
        "thresholds",
        plots.sweeps(
            None if dev is None else analysis.score_sweep(dev),
            None if test is None else analysis.score_sweep(test),
            thresholds.overall,
            written,
            run.config.minimum_similarity,
        ),
        "F1 with one probability threshold for all labels"
        + (" (this model has a threshold for each label)." if thresholds.per_label else ".")
        + (" Right: when written sentences less similar to every description get no label." if written else ""),
    )
    gallery.add(
        "reliability",
        plots.reliability_diagram(analysis.reliability(rows)),
        f"Scores against what is true, over all pairs of a {split} row and a label, in ten bins.",
    )
    if len(bank) > 1:
        chosen = analysis.often_together(rows.true, rows.chosen, plots.MATRIX_LIMIT)
        gallery.add(
            "cooccurrence",
            plots.matrices(
                [bank.names[i] for i in chosen],
                *(analysis.cooccurrence(labels[:, chosen]) for labels in (rows.true, rows.chosen)),
            ),
            f"Of the {split} rows with the label of a line, the share that also has that of a column: true and "
            f"predicted, for {_of(chosen, bank, 'labels')}"
            f"{' (those that occur beside others most often)' if len(chosen) < len(bank) else ''}. Grey: no rows.",
        )


def _of(shown: object, every: object, what: str) -> str:
    part, whole = len(shown), len(every)  # type: ignore[arg-type]
    return f"all {whole} {what}" if part == whole else f"{part} of {whole} {what}"


def _render(run: Run, gallery: _Gallery) -> str:
    rows, bank = run.splits[run.measured], run.bank
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("lagamc"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    limits = Thresholds(**run.config.thresholds).values(bank.names)
    differ = rows.chosen != (rows.scores >= limits)
    overall = {"by scores": multi_label_metrics(rows.chosen, rows.true)}
    if rows.matches is not None:
        written = analysis.written_labels(rows, bank)
        overall["by descriptions"] = multi_label_metrics(written, rows.true)
    return environment.get_template(PAGE).render(
        run=run,
        config=run.config,
        title=f"LAGAMC on {run.config.figures.get('dataset') or 'your data'}",
        version=__version__,
        split=SPLIT_NAMES[run.measured],
        rows=rows,
        overall=overall,
        pictures=gallery.pictures,
        all_glyphs=gallery.all_glyphs,
        labels=label_metrics(rows.chosen, rows.true, bank.names),
        thresholds=dict(zip(bank.names, limits.tolist(), strict=True)),
        tuned_since="tuned_rows" in run.config.figures
        or bool((differ & (np.abs(rows.scores - limits) > ROUNDING)).any()),
        numbers=analysis.label_numbers(rows, bank),
        rare=analysis.rare_labels(rows, bank, run.config.label_counts),
        calibration_error=analysis.reliability(rows).error,
        wrong=analysis.worst_rows(rows, bank),
    )
