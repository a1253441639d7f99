from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.transforms import Bbox
from PIL import Image

from lagamc import plots
from lagamc.analysis import Reliability


def figures(count: int) -> list[dict[str, float]]:
    random = np.random.default_rng(0)
    supports = np.maximum(1, 400 / np.arange(1, count + 1)).astype(int)
    return [
        {"support": int(n), "predicted": int(n), "precision": p, "recall": r, "f1": 2 * p * r / (p + r)}
        for n, p, r in zip(supports, random.uniform(0.3, 1, count), random.uniform(0.3, 1, count), strict=True)
    ]


def overlapping(boxes: list[Bbox]) -> list[tuple[int, int]]:
    return [(i, j) for i, box in enumerate(boxes) for j in range(i) if box.overlaps(boxes[j])]


def names(count: int) -> list[str]:
    return [f"a label with quite a long name {i}" if i % 3 else f"short {i}" for i in range(count)]


@pytest.mark.parametrize("count", [1, 2, 12, 90])
def test_names_of_labels_do_not_overlap(count: int) -> None:
    figure = plots.label_bars(names(count), figures(count))
    figure.draw_without_rendering()
    for axes in figure.axes:
        texts = [t for t in (*axes.get_yticklabels(), *axes.texts) if t.get_visible() and t.get_text()]
        assert overlapping([text.get_window_extent() for text in texts]) == []
    labels = list(figure.axes[0].get_yticklabels())
    assert len(labels) == count
    assert min(text.get_window_extent().x0 for text in labels) >= 0


@pytest.mark.parametrize("count", [1, 14, plots.LABEL_LIMIT])
def test_names_of_rare_labels_do_not_overlap(count: int) -> None:
    figure = plots.rare_bars(names(count), [row["f1"] for row in figures(count)], list(range(count)), 0.4, 0.8)
    figure.draw_without_rendering()
    (axes,) = figure.axes
    texts = [*axes.get_yticklabels(), *axes.texts]
    assert overlapping([text.get_window_extent() for text in texts]) == []
    assert [line.get_xdata()[0] for line in axes.lines] == [0.4, 0.8]


@pytest.mark.parametrize("count", [2, 12, 90])
def test_names_of_dots_do_not_overlap(count: int) -> None:
    figure = plots.f1_against_support(names(count), figures(count))
    figure.draw_without_rendering()
    (axes,) = figure.axes
    assert len(axes.lines[0].get_xdata()) == count
    boxes = [text.get_window_extent() for text in axes.texts]
    assert boxes
    assert overlapping(boxes) == []
    assert all(axes.bbox.fully_contains(*corner) for box in boxes for corner in (box.min, box.max))


@pytest.mark.parametrize("count", [2, 12, plots.MATRIX_LIMIT])
def test_names_of_matrices_do_not_overlap(count: int) -> None:
    shares = np.random.default_rng(0).uniform(size=(count, count))
    figure = plots.matrices(names(count), shares, shares)
    figure.draw_without_rendering()
    for axes in figure.axes[:2]:
        for texts in (axes.get_xticklabels(), axes.get_yticklabels()):
            assert overlapping([text.get_window_extent() for text in texts]) == []


def test_matrix_without_any_share() -> None:
    nothing = np.full((2, 2), np.nan)
    assert isinstance(plots.matrices(["a", "b"], nothing, nothing), Figure)


def test_names_are_no_formulas(tmp_path: Path) -> None:
    figure = plots.label_bars([r"$\frac{1}{2}$", r"$\undefined$", "100 $", "a_b^c"], figures(4))
    assert plots.save(figure, tmp_path / "x.png")
    assert next(text.get_text() for text in figure.axes[0].get_yticklabels()) == r"$\frac{1}{2}$"
    assert not any(text.get_parse_math() for text in figure.axes[0].get_yticklabels())


def test_axes_show_no_formulas() -> None:
    counts = np.array([20000, 300, 20, 10, 0, 0, 4, 2, 1, 500])
    nothing = np.full(10, np.nan)
    for figure in (
        plots.f1_against_support(names(90), figures(90)),
        plots.label_bars(names(90), figures(90)),
        plots.reliability_diagram(Reliability(nothing, nothing, counts, 0.1)),
    ):
        figure.draw_without_rendering()
        texts = [t.get_text() for a in figure.axes for t in (*a.get_xticklabels(), *a.get_yticklabels(), *a.texts)]
        assert texts
        assert [text for text in texts if "$" in text] == []


def test_missing_glyphs_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plots, "FONTS", ())
    assert plots.save(plots.label_bars(["plain"], figures(1)), tmp_path / "x.png")
    assert not plots.save(plots.label_bars(["日本"], figures(1)), tmp_path / "x.png")


def test_a_png_is_written(tmp_path: Path) -> None:
    plots.save(plots.label_bars(names(90), figures(90)), tmp_path / "x.png")
    with Image.open(tmp_path / "x.png") as image:
        assert image.format == "PNG"
        assert image.height > 90 * 15


@pytest.mark.parametrize(
    ("name", "expected"),
    [("short", "short"), ("two\nlines\t", "two lines"), ("x" * 40, "x" * 27 + "…"), ("\u202egnp", "gnp")],
)
def test_short(name: str, expected: str) -> None:
    assert plots.short(name) == expected


def test_losses_leave_out_what_was_not_trained() -> None:
    log = [{"step": step, "loss": 1 / step, "cross_entropy": 2 / step, "semantic": 0.0} for step in (10, 20)]
    (left, right) = plots.losses([*log, {"train_runtime": 3.0, "step": 20}]).axes
    assert [line.get_label() for line in left.lines] == ["loss", "cross entropy"]
    assert not right.lines


def test_one_log_line_is_a_mark() -> None:
    left, right = plots.losses([{"step": 3, "loss": 1.0, "lambda": 0.5}]).axes
    assert left.lines[0].get_marker() == "x"
    assert right.lines[0].get_marker() == "x"
