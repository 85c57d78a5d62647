"""Pictures of classifications with any number of labels, and of preferences: curves and histograms."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from viper.evaluation.drawing import COLOUR_MAP, FAINT_INK, INK, hide_frame, new_figure

_DARK, _LIGHT = COLOUR_MAP(0.85), COLOUR_MAP(0.4)
N_BINS = 30


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
    """One precision-recall curve."""
    figure = new_figure(5.2, 5.0)
    draw_curve(figure.add_subplot(), curve, font_size=12.0)
    figure.supxlabel("Dashed: the share of clips with the label, which is what guessing gives.", fontsize=8,
                     color=FAINT_INK)  # fmt: skip
    return figure


def curves_figure(curves: Sequence[Curve], title: str) -> Figure:
    """Small precision-recall curves side by side."""
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
    """Draws a precision-recall curve, as steps: between two thresholds nothing lies on a straight line.

    `bare`: without a title, for a page that has its own.
    """
    axes.fill_between(curve.recall, curve.precision, step="post", color=_LIGHT, alpha=0.35, linewidth=0)
    axes.step(curve.recall, curve.precision, where="post", color=_DARK, linewidth=1.6)
    axes.axhline(curve.prevalence, color=FAINT_INK, linewidth=1, linestyle="--")
    axes.set(xlim=(0, 1), ylim=(0, 1.02), xticks=[0, 0.5, 1], yticks=[0, 0.5, 1])
    axes.set_box_aspect(1)
    axes.tick_params(labelsize=0.8 * font_size, color=FAINT_INK, labelcolor=INK)
    axes.set_xlabel("recall", fontsize=0.9 * font_size, color=INK)
    axes.set_ylabel("precision", fontsize=0.9 * font_size, color=INK)
    if not bare:
        axes.set_title(f"{curve.title}\n{curve.subtitle}", fontsize=font_size, color=INK, parse_math=False)
    hide_frame(axes, "top", "right")


def utilities_figure(less: np.ndarray, more: np.ndarray, title: str) -> Figure:
    """Histograms of the pairs of a split: the utilities of both clips, and how much the preferred one's is higher.

    Parameters
    ----------
    less, more : (pairs,) utilities of the less and of the more preferred clip of each pair.
    """
    figure = new_figure(9.0, 4.2)
    left, right = figure.subplots(1, 2)
    edges = np.histogram_bin_edges(np.concatenate([less, more]), N_BINS)
    left.hist(less, edges, color=_LIGHT, label="the other clip")
    left.hist(more, edges, histtype="step", color=_DARK, linewidth=1.8, label="the preferred clip")
    left.set_xlabel("utility", fontsize=9, color=INK)
    left.legend(fontsize=8, frameon=False, labelcolor=INK)
    difference = more - less
    edges = edges_around_zero(difference)
    # A tie is wrong: its place is in the last bar below zero, not in the first of those that are right.
    wrong = np.minimum(difference[difference <= 0], np.nextafter(0.0, -1.0))
    right.hist(wrong, edges, color=_LIGHT, label="wrong")
    right.hist(difference[difference > 0], edges, color=_DARK, label="right")
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
    """(n,) rising edges of some `N_BINS` equal bins over all values, with zero among them and a bin on both its sides.

    Parameters
    ----------
    values : (k,) finite.
    """
    low, high = float(values.min(initial=0)), float(values.max(initial=0))
    width = (high - low) / N_BINS or 1.0
    # A value on an edge must not fall out by the rounding of the division.
    return width * np.arange(np.floor(low / width - 1e-9), np.ceil(high / width + 1e-9) + 1)
