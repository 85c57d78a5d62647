"""Pictures of numbers in matplotlib: a colour map, heat maps, bars, curves, histograms, a way to save a PNG.

Nothing here touches pyplot's state.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import QuadMesh
from matplotlib.colors import LinearSegmentedColormap, LogNorm
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.patches import Rectangle
from matplotlib.text import Annotation
from matplotlib.ticker import PercentFormatter

from viper.files import atomic_path

# Equal steps in CIELAB from near-white to dark blue, lightness 98 to 20: twice the difference looks twice as large, and
# a greyscale print keeps the order.
COLOUR_MAP = LinearSegmentedColormap.from_list(
    "viper",
    ["#f8f9fb", "#d3e7f8", "#aed2f3", "#88bbea", "#61a1dd", "#3c83c7", "#1e64a9", "#124784", "#112f60"],
)
INK, FAINT_INK = "#1c1c1e", "#6b6b70"
EMPTY_FACE, EMPTY_HATCH = "#efefef", "#cfcfcf"
DARK, LIGHT = COLOUR_MAP(0.85), COLOUR_MAP(0.4)
_DPI = 150
N_BINS = 30  # of a histogram
_MOST_DOTS = 400  # clips drawn one by one; more are counted in hexagons


@dataclass(frozen=True)
class Matrix:
    """What a heat map shows: rows are true, columns predicted.

    Attributes
    ----------
    counts : (R, R) clips.
    shares : (R, R) each row's counts divided by their sum, NaN in a row without clips.
    ticks : R + 1 labels for the edges of bins, or R labels for classes.
    title, subtitle : what was predicted, and how well.
    """

    counts: np.ndarray
    shares: np.ndarray
    ticks: Sequence[str]
    title: str
    subtitle: str


def matrix_figure(matrix: Matrix) -> Figure:
    """Return one heat map with share and count in each cell, the clips of each row, and the colour scale."""
    size = len(matrix.counts)
    side = max(4.5, 1.6 + 0.56 * size)
    figure = new_figure(side + 1.9, side + 0.9)
    axes = figure.add_subplot()
    cells = heat_map(axes, matrix, annotate=True)
    _colour_bar(figure, cells, [axes], shrink=0.8)
    caption = "In each cell: share of the true row's clips, and their number below. Framed: prediction and truth agree."
    figure.supxlabel(caption, fontsize=8, color=FAINT_INK)
    return figure


def overview_figure(matrices: Sequence[Matrix], title: str) -> Figure:
    """Return small heat maps side by side, colours only, on one colour scale."""
    n_columns = min(len(matrices), max(2, math.ceil(math.sqrt(1.5 * len(matrices)))))
    n_rows = math.ceil(len(matrices) / n_columns)
    figure = new_figure(2.9 * n_columns + 1.2, 3.3 * n_rows + 0.6)
    grid = figure.subplots(n_rows, n_columns, squeeze=False)
    panels = list(grid.flat)
    for axes, matrix in zip(panels, matrices, strict=False):
        cells = heat_map(axes, matrix, annotate=False)
    for axes in panels[len(matrices) :]:
        axes.set_axis_off()
    _colour_bar(figure, cells, panels, shrink=0.8 if n_rows == 1 else 0.6)
    figure.suptitle(title, fontsize=12, color=INK, parse_math=False)
    return figure


def heat_map(axes: Axes, matrix: Matrix, annotate: bool, bare: bool = False) -> QuadMesh:
    """Draw `matrix` on `axes`, first row on top; a row without clips is hatched and says so.

    Parameters
    ----------
    annotate : write share and count into the cells and the clips of each row beside it; for cells of 0.5 inch or more.
    bare : no title, and without `annotate` only the outer and the middle edge of the bins; for a page's own captions.

    Returns
    -------
    The cells, for a colour scale. Colours always span shares of 0 to 1, so that pictures can be compared.
    """
    size = len(matrix.counts)
    edges = np.arange(size + 1) - 0.5
    # Cells rather than a picture's dots: in an SVG each keeps a colour that a page can change.
    cells = axes.pcolormesh(edges, edges, matrix.shares, cmap=COLOUR_MAP, vmin=0.0, vmax=1.0)
    axes.set_aspect("equal")
    axes.set(xlim=(-0.5, size - 0.5), ylim=(size - 0.5, -0.5))
    borders = np.arange(1, size) - 0.5
    axes.hlines(borders, -0.5, size - 0.5, color="white", linewidth=0.8)
    axes.vlines(borders, -0.5, size - 0.5, color="white", linewidth=0.8)
    for row in range(size):
        if matrix.counts[row].any():
            # The diagonal is where a perfect prediction would be.
            frame = Rectangle((row - 0.48, row - 0.48), 0.96, 0.96, fill=False, edgecolor=FAINT_INK, zorder=2.1)
            frame.set_linewidth(0.9 if annotate else 0.5)
            axes.add_patch(frame)
        else:
            _draw_empty_row(axes, row, size, font_size=9.0 if annotate else 5.5, says_so=annotate or not bare)
    if annotate:
        _annotate(axes, matrix)
    step = size // 2 if bare and not annotate and len(matrix.ticks) == size + 1 else 1
    _draw_ticks(axes, matrix.ticks, font_size=9.0 if annotate else 8.0 if bare else 6.0, step=step)
    label_size = 11.0 if annotate else 9.0 if bare else 7.5
    axes.set_xlabel("predicted", fontsize=label_size, color=INK)
    axes.set_ylabel("true", fontsize=label_size, color=INK)
    if not bare:
        _draw_title(axes, matrix, font_size=13.0 if annotate else 9.0)
    for spine in axes.spines.values():
        spine.set_color(FAINT_INK)
    return cells


def bar_figure(
    labels: Sequence[str], values: Sequence[float], title: str, caption: str, emphasised: int | None = None
) -> Figure:
    """Return horizontal bars, the first on top, each with its value beside it; one may be set off by its colour.

    A value that is not finite has no bar and says "none".
    """
    known = np.isfinite(values)
    lengths = np.where(known, values, 0.0)
    longest = max(len(label) for label in labels)
    figure = new_figure(5.5 + 0.075 * longest, 1.3 + 0.29 * len(labels))
    axes = figure.add_subplot()
    colours = [COLOUR_MAP(0.85 if i == emphasised else 0.45) for i in range(len(labels))]
    axes.barh(range(len(labels)), lengths, height=0.72, color=colours)
    for i, (length, is_known) in enumerate(zip(lengths, known, strict=True)):
        text = f"{length:.3f}" if is_known else "none"
        left = length < 0
        _write(axes, text, (length, i), (-4 if left else 4, 0), ha="right" if left else "left", fontsize=8.5,
               color=INK if is_known else FAINT_INK, in_layout=True)  # fmt: skip
    axes.set_yticks(range(len(labels)), labels, fontsize=9, color=INK, parse_math=False)
    axes.set_ylim(len(labels) - 0.4, -0.6)
    axes.axvline(0, color=FAINT_INK, linewidth=0.8)
    # Room for the numbers: at both ends where there are bars to both sides.
    low, high = min(lengths.min(), 0.0), max(lengths.max(), 0.0)
    room = 0.16 * ((high - low) or 1.0)
    axes.set_xlim(low - room if low < 0 else low, high + room)
    axes.tick_params(axis="y", length=0)
    axes.tick_params(axis="x", labelsize=8, color=FAINT_INK, labelcolor=FAINT_INK)
    hide_frame(axes, "top", "right", "left")
    figure.suptitle(title, fontsize=12, color=INK, parse_math=False)
    figure.supxlabel(caption, fontsize=8, color=FAINT_INK, parse_math=False)
    return figure


def hide_frame(axes: Axes, *sides: str) -> None:
    """Remove these sides of the frame and make the others faint."""
    for side, spine in axes.spines.items():
        spine.set_visible(side not in sides)
        spine.set_color(FAINT_INK)


def text_colour(background: Sequence[float]) -> str:
    """Return black or white, whichever has more contrast (WCAG 2) on an RGB colour with channels in [0, 1]."""
    channels = np.asarray(background[:3], float)
    linear = np.where(channels <= 0.04045, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4)
    luminance = float(linear @ (0.2126, 0.7152, 0.0722))
    return "white" if 1.05 / (luminance + 0.05) > (luminance + 0.05) / 0.05 else "black"


def save_png(figure: Figure, path: Path) -> None:
    """Write the figure at 150 dots an inch, atomically."""
    with atomic_path(path) as temporary:
        # Without the program's version in it, the same picture is the same file.
        figure.savefig(temporary, format="png", dpi=_DPI, metadata={"Software": None})


def new_figure(width: float, height: float) -> Figure:
    """Return an empty figure of so many inches, laid out so that nothing overlaps."""
    layout = ConstrainedLayoutEngine(w_pad=0.1, h_pad=0.1)
    figure = Figure(figsize=(width, height), layout=layout, facecolor="white")
    FigureCanvasAgg(figure)
    return figure


def _colour_bar(figure: Figure, cells: QuadMesh, panels: list[Axes], shrink: float) -> None:
    bar = figure.colorbar(cells, ax=panels, shrink=shrink, pad=0.02, aspect=30, format=PercentFormatter(xmax=1.0))
    bar.set_label("share of the true row's clips", fontsize=9, color=INK)
    bar.ax.tick_params(labelsize=8, color=FAINT_INK, labelcolor=INK)
    bar.outline.set_edgecolor(FAINT_INK)


def _annotate(axes: Axes, matrix: Matrix) -> None:
    size = len(matrix.counts)
    for row, column in np.argwhere(matrix.counts > 0):
        share, count = matrix.shares[row, column], matrix.counts[row, column]
        colour = text_colour(COLOUR_MAP(share))
        percent = "<1%" if share < 0.005 else f"{share:.0%}"
        _write(axes, percent, (column, row), (0, 5), fontsize=9.5, color=colour)
        _write(axes, f"{count:,}", (column, row), (0, -9), fontsize=7, color=colour)
    style: dict[str, Any] = {"ha": "left", "fontsize": 8.0, "color": FAINT_INK, "in_layout": True}
    for row, total in enumerate(matrix.counts.sum(axis=1)):
        _write(axes, f"{total:,}", (size - 0.5, row), (7, 0), **style)
    _write(axes, "clips", (size - 0.5, -0.5), (7, 6), **style)


def _write(axes: Axes, text: str, cell: tuple[float, float], offset: tuple[float, float], **style: Any) -> Annotation:
    """Write text `offset` points away from a place given in cells."""
    # Text inside the axes needs no room of its own; measuring it takes nearly as long as drawing it.
    style = {"ha": "center", "va": "center", "in_layout": False, **style}
    return axes.annotate(text, cell, offset, textcoords="offset points", annotation_clip=False, **style)


def _draw_empty_row(axes: Axes, row: int, size: int, font_size: float, says_so: bool) -> None:
    axes.add_patch(
        Rectangle(
            (-0.5, row - 0.5), size, 1, facecolor=EMPTY_FACE, edgecolor=EMPTY_HATCH, hatch="////", linewidth=0.0,
            zorder=2.5,
        )
    )  # fmt: skip
    if not says_so:
        return
    box = {"facecolor": EMPTY_FACE, "edgecolor": "none", "boxstyle": "round,pad=0.2"}
    _write(axes, "no clips", ((size - 1) / 2, row), (0, 0), fontsize=font_size, color=FAINT_INK, bbox=box)


def _draw_title(axes: Axes, matrix: Matrix, font_size: float) -> None:
    # A "$" in a target's name must not be taken for a formula.
    axes.set_title(
        matrix.title, fontsize=font_size, fontweight="bold", color=INK, pad=1.9 * font_size, parse_math=False
    )
    axes.annotate(
        matrix.subtitle, (0.5, 1.0), (0, 0.5 * font_size), xycoords="axes fraction", textcoords="offset points",
        ha="center", va="bottom", fontsize=0.85 * font_size, color=INK, parse_math=False,
    )  # fmt: skip


def _draw_ticks(axes: Axes, ticks: Sequence[str], font_size: float, step: int) -> None:
    size = round(axes.get_xlim()[1] + 0.5)
    at_edges = len(ticks) == size + 1
    positions = (np.arange(len(ticks)) - (0.5 if at_edges else 0.0))[::step]
    ticks = ticks[::step]
    style: dict[str, Any] = {"fontsize": font_size, "color": INK, "parse_math": False}
    axes.set_yticks(positions, ticks, **style)
    if max(len(tick) for tick in ticks) > 6:
        style |= {"rotation": 40, "ha": "right", "rotation_mode": "anchor"}
    axes.set_xticks(positions, ticks, **style)
    axes.tick_params(length=3 if at_edges else 0, color=FAINT_INK)


@dataclass(frozen=True)
class Curve:
    """A label's precision against recall.

    Attributes
    ----------
    precision, recall : (n,) in [0, 1], in the order scikit-learn gives them.
    prevalence : share of clips with the label: the precision of guessing.
    title, subtitle : which label, and how well.
    """

    precision: np.ndarray
    recall: np.ndarray
    prevalence: float
    title: str
    subtitle: str


def curve_figure(curve: Curve) -> Figure:
    """Return one precision-recall curve."""
    figure = new_figure(5.2, 5.0)
    draw_curve(figure.add_subplot(), curve, font_size=12.0)
    figure.supxlabel("Dashed: the share of clips with the label, which is what guessing gives.", fontsize=8,
                     color=FAINT_INK)  # fmt: skip
    return figure


def curves_figure(curves: Sequence[Curve], title: str) -> Figure:
    """Return small precision-recall curves side by side."""
    n_columns = min(len(curves), max(2, math.ceil(math.sqrt(1.5 * len(curves)))))
    n_rows = math.ceil(len(curves) / n_columns)
    figure = new_figure(2.2 * n_columns + 0.6, 2.4 * n_rows + 0.6)
    panels = list(figure.subplots(n_rows, n_columns, squeeze=False).flat)
    for axes, curve in zip(panels, curves, strict=False):
        draw_curve(axes, curve, font_size=8.0)
    for axes in panels[len(curves) :]:
        axes.set_axis_off()
    figure.suptitle(title, fontsize=12, color=INK, parse_math=False)
    return figure


def draw_curve(axes: Axes, curve: Curve, font_size: float, bare: bool = False) -> None:
    """Draw a precision-recall curve, as steps: between two thresholds nothing lies on a straight line.

    `bare`: without a title, for a page that has its own.
    """
    axes.fill_between(curve.recall, curve.precision, step="post", color=LIGHT, alpha=0.35, linewidth=0)
    axes.step(curve.recall, curve.precision, where="post", color=DARK, linewidth=1.6)
    axes.axhline(curve.prevalence, color=FAINT_INK, linewidth=1, linestyle="--")
    axes.set(xlim=(0, 1), ylim=(0, 1.02), xticks=[0, 0.5, 1], yticks=[0, 0.5, 1])
    axes.set_box_aspect(1)
    axes.tick_params(labelsize=0.8 * font_size, color=FAINT_INK, labelcolor=INK)
    axes.set_xlabel("recall", fontsize=0.9 * font_size, color=INK)
    axes.set_ylabel("precision", fontsize=0.9 * font_size, color=INK)
    if not bare:
        axes.set_title(f"{curve.title}\n{curve.subtitle}", fontsize=font_size, color=INK, parse_math=False)
    hide_frame(axes, "top", "right")


def draw_scatter(axes: Axes, true: np.ndarray, predicted: np.ndarray, limits: tuple[float, float]) -> None:
    """Draw predictions against labels: dots, or hexagons by the number of clips (logarithmic) where dots would overlap.

    Parameters
    ----------
    true, predicted : (n,) finite.
    limits : the ends of both axes, and of the dashed line on which both agree.
    """
    axes.plot(limits, limits, color=FAINT_INK, linewidth=0.9, linestyle=(0, (3, 3)), zorder=0.5)
    if len(true) <= _MOST_DOTS:
        # One path for all dots: a page has thousands of them.
        style: dict[str, Any] = {"linestyle": "none", "marker": "o", "markersize": 3, "markeredgewidth": 0}
        axes.plot(true, predicted, color=DARK, alpha=0.5, **style)
        return
    cells = axes.hexbin(true, predicted, gridsize=26, extent=(*limits, *limits), mincnt=1, linewidths=0.2)
    counts = cells.get_array()
    assert counts is not None
    most = max(float(counts.max()), 2.0)
    # A single clip already has a colour that stands out from the paper.
    lowest = most ** (-0.2 / 0.8)
    cells.set(cmap=COLOUR_MAP, norm=LogNorm(lowest, most))


def utilities_figure(less: np.ndarray, more: np.ndarray, title: str) -> Figure:
    """Return histograms of the pairs of a split: the utilities of both clips, and their difference.

    Parameters
    ----------
    less, more : (pairs,) utilities of the less and of the more preferred clip of each pair.
    """
    figure = new_figure(9.0, 4.2)
    left, right = figure.subplots(1, 2)
    edges = np.histogram_bin_edges(np.concatenate([less, more]), N_BINS)
    left.hist(less, edges, color=LIGHT, label="the other clip")
    left.hist(more, edges, histtype="step", color=DARK, linewidth=1.8, label="the preferred clip")
    left.set_xlabel("utility", fontsize=9, color=INK)
    left.legend(fontsize=8, frameon=False, labelcolor=INK)
    difference = more - less
    edges = edges_around_zero(difference)
    # A tie is wrong: its place is in the last bar below zero, not in the first of those that are right.
    wrong = np.minimum(difference[difference <= 0], np.nextafter(0.0, -1.0))
    right.hist(wrong, edges, color=LIGHT, label="wrong")
    right.hist(difference[difference > 0], edges, color=DARK, label="right")
    right.axvline(0, color=INK, linewidth=1)
    right.set_xlabel("utility of the preferred clip less that of the other", fontsize=9, color=INK)
    right.legend(fontsize=8, frameon=False, labelcolor=INK)
    for axes in (left, right):
        axes.set_ylabel("pairs, those of lists included", fontsize=9, color=INK)
        axes.tick_params(labelsize=8, color=FAINT_INK, labelcolor=INK)
        axes.yaxis.get_major_locator().set_params(integer=True)
        hide_frame(axes, "top", "right")
    figure.suptitle(title, fontsize=12, color=INK, parse_math=False)
    return figure


def edges_around_zero(values: np.ndarray) -> np.ndarray:
    """Return (n,) edges of about `N_BINS` equal bins over all values; zero is an edge, with a bin on both sides.

    Parameters
    ----------
    values : (k,) finite.
    """
    low, high = float(values.min(initial=0)), float(values.max(initial=0))
    width = (high - low) / N_BINS or 1.0
    # A value on an edge must not fall out by the rounding of the division.
    return width * np.arange(np.floor(low / width - 1e-9), np.ceil(high / width + 1e-9) + 1)
