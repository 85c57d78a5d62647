"""The drawn figures of a report, as panels of the page: made with the code that draws confusion_matrix's pictures."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from viper.evaluation.calibration import Calibration, CalibrationBin
from viper.evaluation.confusion import ConfusionReport
from viper.evaluation.drawing import (
    DARK,
    FAINT_INK,
    INK,
    LIGHT,
    Curve,
    Matrix,
    draw_curve,
    draw_scatter,
    heat_map,
    hide_frame,
    new_figure,
    utilities_figure,
)
from viper.evaluation.metrics import METRICS
from viper.evaluation.split_report import PrecisionRecallReport
from viper.report.content import ReportContent, TargetRow
from viper.report.html import figure_svg
from viper.report.words import count, heading, noun, number, percent

_SIDE = 2.25  # inches of a small panel
_MOST_NUMBERS = 12  # classes whose matrix has numbers in its cells
_MOST_LETTERS = 24  # of a class's name beside its row
_CURVE_STEPS = 200  # places that can be told apart along an axis of a small panel


@dataclass(frozen=True)
class Panel:
    """A figure, what stands above it, and whether it keeps its size in a box that scrolls."""

    svg: Markup
    title: str
    text: str = ""
    scrolls: bool = False


def training_panels(content: ReportContent) -> list[Panel]:
    """Return loss and headline metric over the epochs, each target's behind it; the reported epoch is marked."""
    curves = content.training
    if curves is None or not curves.epochs:
        return []
    panels = []
    loss = np.array(curves.training_loss, float)
    if np.isfinite(loss).any():
        figure, axes = _wide_axes()
        axes.plot(curves.epochs, loss, color=DARK, linewidth=1.8)
        _finish_training(axes, curves.best_epoch)
        known = loss[np.isfinite(loss)]
        description = f"Training loss over {len(loss)} epochs, from {number(known[0])} to {number(known[-1])}."
        panels.append(Panel(figure_svg(figure, description), "Training loss", "on the clips it learns from"))
    metric = content.metric if content.metric in curves.metrics else next(iter(METRICS.keys() & curves.metrics), None)
    if metric is not None:
        panels.append(_metric_panel(content, metric))
    return panels


def agreement_panels(content: ReportContent) -> list[Panel]:
    """Return truth against prediction: heat maps, or precision-recall curves, or utilities, by the task's kind."""
    report = content.split_report
    if report is None:
        return []
    if isinstance(report, ConfusionReport):
        if len(report.counts) == 1:
            return [_large_matrix(report.target_picture(next(iter(report.counts))))]
        large = [_large_matrix(report.argmax_picture())] if report.has_classes else []
        return [*(_small_matrix(report.target_picture(target)) for target in report.counts), *large]
    if isinstance(report, PrecisionRecallReport):
        return [_curve_panel(target, curve) for target, curve in report.curves().items()]
    less, more = report.of_pairs()
    description = f"Histograms of the utilities of {count(len(less))} pairs. {report.title}."
    figure = utilities_figure(less, more, "")
    return [Panel(figure_svg(figure, description, natural_size=True), "Utilities of the pairs", report.title, True)]


def scatter_panels(content: ReportContent) -> list[Panel]:
    """Return predicted against true for each target; for classes and labels, histograms of their probabilities."""
    if content.task.kind == "preference":
        return []
    return list(_class_panels(content) if content.task.kind != "regression" else _scatter_panels(content))


def calibration_panels(content: ReportContent) -> list[Panel]:
    """Return the mean label of the clips of each bin of predictions."""
    known = [each for each in content.calibration if any(_has_mean(each_bin) for each_bin in each.bins)]
    return [_calibration_panel(content, each) for each in known]


def _metric_panel(content: ReportContent, metric: str) -> Panel:
    curves = content.training
    assert curves is not None
    values = np.array(curves.metrics[metric], float)
    figure, axes = _wide_axes()
    names = [f"{metric}_{target}" for target in content.task.targets]
    of_targets = [curves.metrics[name] for name in names if name in curves.metrics]
    for each in of_targets if len(of_targets) > 1 else []:
        axes.plot(curves.epochs, each, color=LIGHT, linewidth=0.8, alpha=0.6)
    axes.plot(curves.epochs, values, color=DARK, linewidth=1.8)
    title = heading(METRICS[metric].title)
    description = f"{title} on the validation clips over {len(values)} epochs."
    if curves.best_epoch in curves.epochs:
        best = values[curves.epochs.index(curves.best_epoch)]
        if math.isfinite(best):
            axes.plot([curves.best_epoch], [best], "o", color=DARK, markersize=6, markeredgecolor="white")
        description += f" Epoch {curves.best_epoch} is the one reported, with {number(best)}."
    _finish_training(axes, curves.best_epoch)
    text = "on the validation clips" + (f"; thin: each {noun(content.task)}" if len(of_targets) > 1 else "")
    return Panel(figure_svg(figure, description), title, text)


def _finish_training(axes: Axes, best_epoch: int | None) -> None:
    bottom, top = axes.get_ylim()
    axes.set_ylim(bottom, top + 0.08 * (top - bottom))
    if best_epoch is not None:
        axes.axvline(best_epoch, color=FAINT_INK, linewidth=1, linestyle=(0, (3, 3)), zorder=1)
        # The words stand on the side where there is room for them.
        is_late = best_epoch > sum(axes.get_xlim()) / 2
        axes.annotate(
            f"epoch {best_epoch}", (best_epoch, 1.0), (-4 if is_late else 4, -2), xycoords=("data", "axes fraction"),
            textcoords="offset points", va="top", ha="right" if is_late else "left", fontsize=8.5, color=FAINT_INK,
        )  # fmt: skip
    axes.set_xlabel("epoch", fontsize=9, color=INK)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(axis="y", color=FAINT_INK, alpha=0.2, linewidth=0.6)
    _finish(axes)


def _small_matrix(matrix: Matrix) -> Panel:
    figure, axes = _small_axes()
    heat_map(axes, matrix, annotate=False, bare=True)
    return Panel(figure_svg(figure, _matrix_description(matrix)), matrix.title, matrix.subtitle)


def _large_matrix(matrix: Matrix) -> Panel:
    size = len(matrix.counts)
    annotate = size <= _MOST_NUMBERS
    # Long names need room beside and below that the cells must not lose.
    longest = min(max(len(tick) for tick in matrix.ticks), _MOST_LETTERS)
    side = 0.9 + 0.12 * longest + (0.56 if annotate else 0.27) * size
    figure = new_figure(side + 0.5, side)
    # A name longer than the matrix would leave no place for it; the page's tables have it in full.
    ticks = [tick if len(tick) <= _MOST_LETTERS else f"{tick[: _MOST_LETTERS - 1]}…" for tick in matrix.ticks]
    heat_map(figure.add_subplot(), replace(matrix, ticks=ticks), annotate=annotate, bare=True)
    text = f"{matrix.subtitle}. Rows are true, columns predicted; framed: both agree."
    if annotate:
        text += " In each cell the share of the true row's clips, and how many they are."
    svg = figure_svg(figure, _matrix_description(matrix), natural_size=True)
    return Panel(svg, matrix.title, text, scrolls=True)


def _matrix_description(matrix: Matrix) -> str:
    total = matrix.counts.sum()
    share = np.trace(matrix.counts) / total if total else math.nan
    return (
        f"Heat map of true against predicted {matrix.title}: {matrix.subtitle}; "
        f"{percent(share)} of the clips are in the cell that agrees."
    )


def _curve_panel(target: str, curve: Curve) -> Panel:
    figure, axes = _small_axes()
    draw_curve(axes, _thinned(curve), font_size=9.5, bare=True)
    guessing = f"guessing has a precision of {number(curve.prevalence)}"
    description = f"Precision against recall of {target}: {curve.subtitle}; {guessing}."
    return Panel(figure_svg(figure, description), target, curve.subtitle)


def _thinned(curve: Curve) -> Curve:
    """Return the curve without points on the same dot as the one before, to keep the page small."""
    places = np.round(np.stack([curve.recall, curve.precision]) * _CURVE_STEPS)
    keep = np.ones(places.shape[1], bool)
    keep[1:-1] = (places[:, 1:-1] != places[:, :-2]).any(axis=0)
    return Curve(curve.precision[keep], curve.recall[keep], curve.prevalence, curve.title, curve.subtitle)


def _scatter_panels(content: ReportContent) -> Iterator[Panel]:
    rows = {row.target: row for row in content.targets}
    for column, target in enumerate(content.task.targets):
        true, predicted = content.true[:, column], content.predicted[:, column]
        usable = np.isfinite(true) & np.isfinite(predicted)
        if not usable.any():
            continue
        true, predicted = true[usable], predicted[usable]
        low, high = _limits(content, true, predicted)
        figure, axes = _small_axes()
        draw_scatter(axes, true, predicted, (low, high))
        _square(axes, low, high, "true", "predicted")
        said = _first_metric(rows.get(target))
        text = f"{said}n = {count(len(true))}"
        yield Panel(figure_svg(figure, f"Predicted against true {target}: {text}."), target, text)


def _first_metric(row: TargetRow | None) -> str:
    if row is None or not row.metrics:
        return ""
    metric, interval = next(iter(row.metrics.items()))
    return f"{METRICS[metric].title} {number(interval.value)}, "


def _class_panels(content: ReportContent) -> Iterator[Panel]:
    edges = np.linspace(0, 1, 21)
    for column, target in enumerate(content.task.targets):
        true, predicted = content.true[:, column], content.predicted[:, column]
        known = np.isfinite(true) & np.isfinite(predicted)
        has, lacks = predicted[known & (true == 1)], predicted[known & (true != 1)]
        if not len(has):
            continue
        figure, axes = _small_axes()
        shares = [np.histogram(values, edges)[0] / max(len(values), 1) for values in (lacks, has)]
        axes.stairs(shares[0], edges, fill=True, color=LIGHT, alpha=0.55)
        axes.stairs(shares[1], edges, color=DARK, linewidth=1.5)
        axes.set(xlim=(0, 1), xticks=[0, 0.5, 1])
        axes.set_yticks([])
        axes.set_xlabel("predicted probability", fontsize=8.5, color=INK)
        _finish(axes, "left")
        median, other = float(np.median(has)), float(np.median(lacks)) if len(lacks) else math.nan
        text = f"{count(len(has))} clips, median {number(median, 2)}; other clips {number(other, 2)}"
        description = f"Predicted probability of {target} of the clips that have it and of the others: {text}."
        yield Panel(figure_svg(figure, description), target, text)


def _calibration_panel(content: ReportContent, calibration: Calibration) -> Panel:
    bins = [each for each in calibration.bins if _has_mean(each)]
    x, y, n = (np.array([getattr(each, key) for each in bins], float) for key in ("mean_predicted", "mean_true", "n"))
    low, high = _limits(content, x, y)
    figure, axes = _small_axes()
    axes.plot([low, high], [low, high], color=FAINT_INK, linewidth=0.9, linestyle=(0, (3, 3)))
    axes.plot(x, y, color=LIGHT, linewidth=1.2)
    axes.scatter(x, y, s=8 + 60 * n / n.max(), color=DARK, edgecolors="white", linewidths=0.5, zorder=3)
    _square(axes, low, high, "predicted", "true")
    text = f"error {number(calibration.error)}"
    description = f"Calibration of {calibration.name}: mean label against mean prediction in {len(bins)} bins, {text}."
    return Panel(figure_svg(figure, description), calibration.name, text)


def _has_mean(each: CalibrationBin) -> bool:
    return each.n > 0 and math.isfinite(each.mean_true) and math.isfinite(each.mean_predicted)


def _limits(content: ReportContent, *values: np.ndarray) -> tuple[float, float]:
    """Return the task's range, or what the values span; wider where values lie outside it."""
    all_values = np.concatenate(values)
    low, high = float(all_values.min()), float(all_values.max())
    # Of a pair, the order that is predicted has a probability of a half at least.
    bounds = (0.5, 1.0) if content.task.kind == "preference" else content.task.range
    if bounds is not None:
        low, high = min(low, bounds[0]), max(high, bounds[1])
    return (low, high) if high > low else (low - 0.5, high + 0.5)


def _square(axes: Axes, low: float, high: float, across: str, up: str) -> None:
    margin = 0.02 * (high - low)
    ticks = [low, (low + high) / 2, high]
    axes.set(xlim=(low - margin, high + margin), ylim=(low - margin, high + margin))
    axes.set_xticks(ticks, [f"{tick:.3g}" for tick in ticks])
    axes.set_yticks(ticks, [f"{tick:.3g}" for tick in ticks])
    axes.set_box_aspect(1)
    axes.set_xlabel(across, fontsize=9, color=INK)
    axes.set_ylabel(up, fontsize=9, color=INK)
    _finish(axes)


def _finish(axes: Axes, *hidden: str) -> None:
    axes.tick_params(labelsize=8.5, color=FAINT_INK, labelcolor=INK)
    axes.patch.set_visible(False)
    hide_frame(axes, "top", "right", *hidden)


def _small_axes() -> tuple[Figure, Axes]:
    # Margins are fixed: panels side by side are in line, and a layout that measures its text takes as long as drawing.
    figure = Figure(figsize=(_SIDE, _SIDE))
    FigureCanvasAgg(figure)
    return figure, figure.add_axes((0.21, 0.19, 0.76, 0.76))


def _wide_axes() -> tuple[Figure, Axes]:
    figure = Figure(figsize=(5.0, 2.8))
    FigureCanvasAgg(figure)
    return figure, figure.add_axes((0.11, 0.17, 0.87, 0.8))
