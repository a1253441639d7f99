"""Plots of a run: matplotlib figures in the Okabe-Ito colours, which colour-blind people can tell apart."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import wraps
from pathlib import Path
from typing import Any, ParamSpec

import matplotlib
import numpy as np
from matplotlib import font_manager
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lagamc.analysis import Bucket, Reliability, Sweep

BLUE, ORANGE, GREEN, RED, PURPLE, SKY, GREY = (
    *("#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9"),
    "#999999",
)
LABEL_LIMIT = 100  # labels that a plot with a line for each shows
MATRIX_LIMIT = 30
NAME_LENGTH = 28
WIDTH = 9.0  # inches
ABOVE: dict[str, Any] = {"ncols": 2, "loc": "lower left", "bbox_to_anchor": (0, 1), "fontsize": 8}  # of a legend
# beside matplotlib's own: those that write other scripts, taken where they are installed
FONTS = (
    *("Noto Sans CJK SC", "Noto Sans CJK JP", "WenQuanYi Zen Hei", "Microsoft YaHei", "Hiragino Sans GB"),
    *("Noto Sans Devanagari", "Noto Sans Arabic", "Noto Sans", "Arial Unicode MS"),
)
COMPONENTS = {
    "loss": (PURPLE, "-"),
    "cross_entropy": (BLUE, "-"),
    "semantic": (ORANGE, "--"),
    "retrieval": (GREEN, "-."),
    "decision_loss": (RED, ":"),
}

P = ParamSpec("P")


@contextmanager
def _style() -> Iterator[None]:
    installed = set(font_manager.get_font_names())
    settings: Any = {
        "font.family": ["DejaVu Sans", *(name for name in FONTS if name in installed)],
        "font.size": 9,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.grid": True,
        "grid.color": "#dddddd",
        "grid.linewidth": 0.6,
        "axes.axisbelow": True,
        "legend.frameon": False,
        "text.parse_math": False,  # a `$` in a label's name is a `$`
    }
    with matplotlib.rc_context(settings), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph")  # `save` looks for them
        yield


def _styled(draw: Callable[P, Figure]) -> Callable[P, Figure]:
    @wraps(draw)
    def styled(*args: P.args, **kwargs: P.kwargs) -> Figure:
        with _style():
            return draw(*args, **kwargs)

    return styled


def save(figure: Figure, path: Path) -> bool:
    """Writes a PNG; returns whether every character had a glyph in the fonts at hand."""
    with _style(), warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        figure.savefig(path, dpi=110, metadata={"Software": None})
    return not any("Glyph" in str(warning.message) for warning in caught)


def short(name: str, length: int = NAME_LENGTH) -> str:
    """A label's name on one line, cut to a length."""
    line = " ".join("".join(c if c.isprintable() else " " for c in name).split())
    return line if len(line) <= length else line[: length - 1] + "…"


def _axes(width: float, height: float, columns: int = 1, **settings: Any) -> tuple[Figure, list[Axes]]:
    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.subplots(1, columns, squeeze=False, **settings)
    return figure, list(axes[0])


@_styled
def losses(log: Sequence[dict[str, Any]]) -> Figure:
    """Components of the loss and lambda over the steps of training; dots are development rows."""
    figure, (left, right) = _axes(WIDTH, 3.6, 2, width_ratios=[2, 1])
    for name, (colour, style) in COMPONENTS.items():
        points = [(row["step"], row[name]) for row in log if name in row and "step" in row]
        measured = [(row["step"], row[f"eval_{name}"]) for row in log if f"eval_{name}" in row and "step" in row]
        if any(value for _, value in points):
            marker = "" if len(points) > 1 else "x"
            left.plot(*zip(*points, strict=True), style, color=colour, marker=marker, label=name.replace("_", " "))
            if measured:
                left.plot(*zip(*measured, strict=True), "o", color=colour, markersize=4, markeredgecolor="white")
    left.set(xlabel="step", ylabel="loss")
    if left.has_data():
        left.legend(**{**ABOVE, "ncols": 3})
        left.set_ylim(bottom=min(0, left.get_ylim()[0]))
    points = [(row["step"], row["lambda"]) for row in log if "lambda" in row and "step" in row]
    if points:
        right.plot(*zip(*points, strict=True), color=BLUE, marker="" if len(points) > 1 else "x")
    right.set(xlabel="step", ylabel="lambda", ylim=(0, 1))
    return figure


@_styled
def label_bars(names: Sequence[str], figures: Sequence[dict[str, float]]) -> Figure:
    """F1, precision and recall of each label beside its support, a line for each."""
    places = np.arange(len(names))
    figure, (left, right) = _axes(WIDTH, 1.3 + 0.21 * len(names), 2, width_ratios=[3, 1], sharey=True)
    left.barh(places, [row["f1"] for row in figures], color=SKY, height=0.7, label="F1")
    for key, colour, marker in (("precision", RED, ">"), ("recall", BLUE, "<")):
        left.plot([row[key] for row in figures], places, marker, color=colour, markersize=4, label=key)
    left.set_yticks(places, [short(name) for name in names], fontsize=8)
    left.set(xlim=(0, 1.02), ylim=(len(names) - 0.5, -0.5))
    left.legend(**{**ABOVE, "ncols": 3})
    bars = right.barh(places, [row["support"] for row in figures], color=GREY, height=0.7)
    right.bar_label(bars, padding=2, fontsize=7)
    right.set_xscale("symlog", linthresh=1)
    right.set(xlabel="support (rows, log scale)", xlim=(0, 4 * max(row["support"] for row in figures) + 1))
    right.xaxis.set_major_locator(matplotlib.ticker.NullLocator())
    right.xaxis.set_minor_locator(matplotlib.ticker.NullLocator())
    for axes in (left, right):
        axes.grid(visible=False, axis="y")
        axes.tick_params(axis="y", length=0)
    return figure


@_styled
def f1_against_support(names: Sequence[str], figures: Sequence[dict[str, float]]) -> Figure:
    """A dot for each label that has true rows, named where there is room for a name."""
    figure, (axes,) = _axes(WIDTH, 4.2)
    rows = [(name, row) for name, row in zip(names, figures, strict=True) if row["support"]]
    axes.plot([row["support"] for _, row in rows], [row["f1"] for _, row in rows], "o", color=BLUE, alpha=0.8)
    supports = [row["support"] for _, row in rows] or [1]
    ticks = (1, 2, 5) if max(supports) > 20 * min(supports) else (1, 1.5, 2, 3, 4, 5, 7)
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(matplotlib.ticker.LogLocator(subs=ticks))
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")  # the default one writes formulas
    axes.xaxis.set_minor_locator(matplotlib.ticker.NullLocator())
    axes.set(xlabel="support (true rows)", ylabel="F1", ylim=(-0.05, 1.08))
    axes.set_xlim(min(supports) / 1.5, max(supports) * 1.8)
    figure.draw_without_rendering()  # places the axes: names are laid out in pixels
    taken = [axes.transData.transform((row["support"], row["f1"])) for _, row in rows]
    boxes = [matplotlib.transforms.Bbox.from_bounds(x - 6, y - 6, 12, 12) for x, y in taken]
    for name, row in sorted(rows, key=lambda pair: pair[1]["f1"]):  # what goes badly is named first
        place = (row["support"], row["f1"])
        for offset, anchor in (((7, 2), "left"), ((7, -8), "left"), ((-7, 2), "right"), ((-7, -8), "right")):
            text = axes.annotate(
                short(name, 22), place, offset, textcoords="offset points", ha=anchor, fontsize=7, color="#333333"
            )
            box = text.get_window_extent().padded(3, 1)
            if (
                axes.bbox.fully_contains(*box.min)
                and axes.bbox.fully_contains(*box.max)
                and not box.count_overlaps(boxes)
            ):
                boxes.append(box)
                break
            text.remove()
    return figure


@_styled
def rare_bars(
    names: Sequence[str], figures: Sequence[float], counts: Sequence[int], theirs: float, every: float
) -> Figure:
    """F1 of the labels that training saw least, a line for each, beside macro-F1 over them and over all labels.

    Args:
        names: of the labels.
        figures: F1 of each.
        counts: training rows of each.
        theirs: macro-F1 over them.
        every: macro-F1 over all labels.
    """
    figure, (axes,) = _axes(WIDTH, 1.5 + 0.21 * len(names))
    places = range(len(names))
    axes.barh(places, figures, color=SKY, height=0.7)
    for place, value in zip(places, figures, strict=True):  # in a column of their own, which no line crosses
        axes.text(1.08, place, f"{value:.2f}", ha="right", va="center", fontsize=7)
    titles = [f"{short(name)} ({count:,})" for name, count in zip(names, counts, strict=True)]
    axes.set_yticks(places, titles, fontsize=8)
    axes.axvline(theirs, color=BLUE, linestyle="--", label=f"macro-F1 of the least frequent: {theirs:.2f}")
    axes.axvline(every, color=RED, linestyle=":", label=f"macro-F1 of all labels: {every:.2f}")
    axes.set(xlabel="F1", xlim=(0, 1.09), ylim=(len(names) - 0.4, -0.6))
    axes.legend(**ABOVE)
    axes.grid(visible=False, axis="y")
    axes.tick_params(axis="y", length=0)
    return figure


@_styled
def grouped_bars(values: dict[str, np.ndarray], xlabel: str, ylabel: str) -> Figure:
    """Counts by a whole number, a group of bars for each."""
    figure, (axes,) = _axes(WIDTH, 3.4)
    width = 0.8 / len(values)
    for i, ((name, counts), colour) in enumerate(zip(values.items(), (GREY, BLUE, ORANGE), strict=False)):
        axes.bar(np.arange(len(counts)) + (i - (len(values) - 1) / 2) * width, counts, width, color=colour, label=name)
    axes.set(xlabel=xlabel, ylabel=ylabel)
    axes.xaxis.set_major_locator(matplotlib.ticker.MaxNLocator(integer=True))
    axes.grid(visible=False, axis="x")
    axes.legend()
    return figure


@_styled
def length_bars(buckets: Sequence[Bucket]) -> Figure:
    """Micro-F1 by the length of the true descriptions."""
    figure, (axes,) = _axes(WIDTH, 3.4)
    bars = axes.bar(range(len(buckets)), [bucket.f1 for bucket in buckets], 0.7, color=BLUE)
    axes.bar_label(bars, [f"{bucket.f1:.2f}" for bucket in buckets], padding=2)
    names = [f"{b.shortest}-{b.longest}" if b.longest > b.shortest else str(b.shortest) for b in buckets]
    axes.set_xticks(range(len(buckets)), [f"{name}\n({b.rows} rows)" for name, b in zip(names, buckets, strict=True)])
    axes.set(xlabel="words of a row's true descriptions", ylabel="micro-F1", ylim=(0, 1.1))
    axes.grid(visible=False, axis="x")
    return figure


@_styled
def sweeps(
    dev: Sweep | None, measured: Sweep | None, tuned: float, written: Sweep | None, minimum: float | None
) -> Figure:
    """F1 over thresholds: of the scores (left), and of the matcher where descriptions were written (right)."""
    figure, axes = _axes(WIDTH, 3.6, 1 if written is None else 2, sharey=True)
    for sweep, style, name in ((dev, "--", "development"), (measured, "-", "test")):
        if sweep is not None:
            axes[0].plot(sweep.grid, sweep.micro, style, color=BLUE, label=f"micro-F1, {name}")
            axes[0].plot(sweep.grid, sweep.macro, style, color=ORANGE, label=f"macro-F1, {name}")
    axes[0].axvline(tuned, color=GREY, linestyle=":", label=f"tuned: {tuned:.2f}")
    axes[0].set(xlabel="probability from which a label is given", ylabel="F1", xlim=(0, 1), ylim=(0, 1))
    axes[0].legend(**ABOVE)
    if written is not None:
        axes[1].plot(written.grid, written.micro, color=BLUE, label="micro-F1, test")
        axes[1].plot(written.grid, written.macro, "--", color=ORANGE, label="macro-F1, test")
        if minimum is not None:
            axes[1].axvline(minimum, color=GREY, linestyle=":", label=f"this model: {minimum:.2f}")
        axes[1].set(xlabel="minimum similarity of a written sentence", xlim=(0, 1))
        axes[1].legend(**ABOVE)
    return figure


@_styled
def reliability_diagram(figures: Reliability) -> Figure:
    """How often a label is true at each score, and how many scores there are."""
    figure, (left, right) = _axes(WIDTH, 3.8, 2)
    left.plot([0, 1], [0, 1], color=GREY, linestyle=":", label="perfect")
    there = figures.pairs > 0
    left.plot(figures.mean_score[there], figures.true_share[there], "o-", color=BLUE, label="this model")
    left.set(xlabel="score (mean of the bin)", ylabel="share that is true", xlim=(-0.02, 1.02), ylim=(-0.02, 1.02))
    left.legend(loc="upper left")
    middles = (np.arange(len(figures.pairs)) + 0.5) / len(figures.pairs)
    bars = right.bar(middles, figures.pairs, 0.9 / len(figures.pairs), color=SKY)
    right.bar_label(bars, fmt=matplotlib.ticker.EngFormatter(sep="", places=0), fontsize=8)
    right.set(
        xlabel="score",
        ylabel="pairs (log scale)",
        xlim=(0, 1),
        yscale="log",
        ylim=(0.5, 3 * figures.pairs.max()),
    )
    right.yaxis.set_major_locator(matplotlib.ticker.NullLocator())
    right.yaxis.set_minor_locator(matplotlib.ticker.NullLocator())
    return figure


@_styled
def matrices(names: Sequence[str], true: np.ndarray, chosen: np.ndarray) -> Figure:
    """Two label co-occurrences beside each other, true and predicted."""
    figure, axes = _axes(WIDTH, 5.0, 2, sharey=True)
    known = np.concatenate([true.ravel(), chosen.ravel(), [0.01]])
    highest = np.nanmax(known)
    shown = [short(name, 20) for name in names]
    for panel, shares, title in zip(axes, (true, chosen), ("true", "predicted"), strict=True):
        image = panel.imshow(shares, cmap="cividis", vmin=0, vmax=highest)
        fontsize = 8 if len(names) <= 15 else 6
        panel.set_xticks(range(len(names)), shown, rotation=90, fontsize=fontsize)
        panel.set_yticks(range(len(names)), shown, fontsize=fontsize)
        panel.set_title(title, fontsize=10)
        panel.grid(visible=False)
        panel.set_facecolor("#eeeeee")
    axes[0].set_ylabel("rows with this label …")
    figure.supxlabel("… also have this one", fontsize=9)
    figure.colorbar(image, ax=axes, shrink=0.8, label="share of rows")
    return figure
