"""Figures of predictions against labels, for a notebook: `run.plot.confusion()`, `viper.plot(...).scatter()`."""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from viper.errors import UserError, either
from viper.evaluation.confusion import ConfusionReport, number_text
from viper.evaluation.drawing import (
    DARK,
    FAINT_INK,
    INK,
    bar_figure,
    curve_figure,
    curves_figure,
    draw_scatter,
    hide_frame,
    matrix_figure,
    new_figure,
    overview_figure,
    utilities_figure,
)
from viper.evaluation.metrics import METRICS, evaluate
from viper.evaluation.split_report import PrecisionRecallReport, PreferenceReport, build_report
from viper.task import Task

FEW_EPOCHS = 30  # each is a dot


@dataclass(frozen=True)
class Compared:
    """Predictions of a split and what they are compared with; rows of both in the order of `clips`."""

    task: Task
    clips: Sequence[str]
    predicted: np.ndarray
    true: np.ndarray


class Plots:
    """Figures of a model's predictions for a split; each is a matplotlib Figure.

    Parameters
    ----------
    compared : split -> its predictions and labels.
    """

    def __init__(self, compared: Callable[[str], Compared]) -> None:
        self._compared = compared

    def __repr__(self) -> str:
        figures = [name for name in dir(type(self)) if not name.startswith("_")]
        return f"{type(self).__name__}: {', '.join(f'.{name}()' for name in figures)}"

    def confusion(self, target: str | None = None, split: str = "Val") -> Figure:
        """Return the confusion matrix of a target, or of all of them side by side.

        A regression's targets are binned; for a single_label task there is one matrix, of the classes.
        """
        compared = self._compared(split)
        task = compared.task
        report = build_report(task, compared.clips, compared.predicted, compared.true)
        if not isinstance(report, ConfusionReport):
            other = "utilities" if task.kind == "preference" else "precision_recall"
            raise UserError(f"plot.confusion: a {task.kind} task has no confusion matrix; plot.{other} shows it")
        if target is not None:
            _check_target(target, list(report.counts))
            return _shown(matrix_figure(report.target_picture(target)))
        if not report.counts:
            return _shown(matrix_figure(report.argmax_picture()))
        pictures = [report.target_picture(name) for name in report.counts]
        return _shown(overview_figure(pictures, _title(compared, split)))

    def precision_recall(self, target: str | None = None, split: str = "Val") -> Figure:
        """Return the precision-recall curve of a label of a multi_label task, or those of all labels."""
        compared = self._compared(split)
        report = build_report(compared.task, compared.clips, compared.predicted, compared.true)
        if not isinstance(report, PrecisionRecallReport):
            raise UserError(f"plot.precision_recall: is for multi_label tasks, not for a {compared.task.kind} task")
        curves = report.curves()
        if target is not None:
            _check_target(target, list(curves))
            return _shown(curve_figure(curves[target]))
        return _shown(curves_figure(list(curves.values()), _title(compared, split)))

    def utilities(self, split: str = "Val") -> Figure:
        """Return histograms of the utilities that a preference task's model gives to the clips of each pair."""
        compared = self._compared(split)
        report = build_report(compared.task, compared.clips, compared.predicted, compared.true)
        if not isinstance(report, PreferenceReport):
            raise UserError(f"plot.utilities: is for preference tasks, not for a {compared.task.kind} task")
        return _shown(utilities_figure(*report.of_pairs(), report.title))

    def scatter(self, target: str | None = None, split: str = "Val") -> Figure:
        """Return predictions against labels, a dot per clip, for one target or for all of them."""
        compared = self._compared(split)
        if compared.task.kind == "preference":
            raise UserError("plot.scatter: a preference task has no labels; plot.utilities shows its pairs")
        targets = list(compared.task.targets)
        if target is not None:
            _check_target(target, targets)
        shown = targets if target is None else [target]
        n_columns = min(len(shown), max(1, math.ceil(math.sqrt(1.5 * len(shown)))))
        n_rows = math.ceil(len(shown) / n_columns)
        side = 2.6 if target is None else 4.0
        figure = new_figure(side * n_columns + 0.6, side * n_rows + 0.8)
        panels = list(figure.subplots(n_rows, n_columns, squeeze=False).flat)
        for axes, name in zip(panels, shown, strict=False):
            column = targets.index(name)
            true, predicted = compared.true[:, column], compared.predicted[:, column]
            known = np.isfinite(true) & np.isfinite(predicted)
            true, predicted = true[known], predicted[known]
            values = np.concatenate([true, predicted, [] if len(true) else [0.0, 1.0]])
            draw_scatter(axes, true, predicted, compared.task.range or (values.min(), values.max()))
            if target is None:
                axes.set_title(name, fontsize=10, color=INK, parse_math=False)
            axes.set_xlabel("true", fontsize=9, color=INK)
            axes.set_ylabel("predicted", fontsize=9, color=INK)
            axes.tick_params(labelsize=8, color=FAINT_INK, labelcolor=INK)
            axes.set_box_aspect(1)
            hide_frame(axes, "top", "right")
        for axes in panels[len(shown) :]:
            axes.set_axis_off()
        figure.suptitle(_title(compared, split, target), fontsize=12, color=INK, parse_math=False)
        return _shown(figure)

    def bars(self, metric: str | None = None, split: str = "Val") -> Figure:
        """Return the score of every target as bars, by one of the task's metrics (default: the first)."""
        compared = self._compared(split)
        scores = evaluate(compared.task, compared.predicted, compared.true)
        per_target = {name: each for name, each in scores.targets.items() if each}
        if not per_target:
            raise UserError(f"plot.bars: a {compared.task.kind} task has no score per target")
        name = next(iter(per_target)) if metric is None else metric
        if name not in per_target:
            raise UserError(f"plot.bars: metric must be {either(list(per_target))}, not {name!r}")
        values = {target: score.value for target, score in per_target[name].items()}
        caption = f"{METRICS[name].title} on {split}"
        return _shown(bar_figure(list(values), list(values.values()), _title(compared, split), caption))


def curves_over_epochs(epochs: Sequence[float], curves: Mapping[str, Sequence[float]]) -> Figure:
    """Return a figure with one panel per curve over the epochs of a training, but for curves without any value."""
    curves = {name: values for name, values in curves.items() if np.isfinite(values).any()} or curves
    figure = new_figure(3.4 * len(curves) + 0.4, 2.8)
    for axes, (name, values) in zip(figure.subplots(1, len(curves), squeeze=False).flat, curves.items(), strict=True):
        marker = "o" if len(epochs) <= FEW_EPOCHS else ""  # a line of one epoch is not seen
        axes.plot(epochs, values, color=DARK, linewidth=1.8, marker=marker, markersize=4)
        if len(epochs) == 1:
            axes.set_xlim(epochs[0] - 1, epochs[0] + 1)
        axes.set_title(name, fontsize=10, color=INK, parse_math=False)
        axes.set_xlabel("epoch", fontsize=9, color=INK)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.tick_params(labelsize=8, color=FAINT_INK, labelcolor=INK)
        hide_frame(axes, "top", "right")
    return _shown(figure)


def _check_target(target: str, targets: Sequence[str]) -> None:
    if target not in targets:
        raise UserError(f"target must be {either(targets)}, not {target!r}" if targets else "there is one matrix only")


def _title(compared: Compared, split: str, target: str | None = None) -> str:
    """Name the task (or the target) and the split, and say the score by the task's first metric."""
    metric = compared.task.metrics[0]
    scores = evaluate(compared.task, compared.predicted, compared.true)
    score = scores.targets.get(metric, {}).get(target or "", scores.mean(metric))
    what = target or compared.task.name
    return f"{what}, {split}: {METRICS[metric].title} {number_text(score.value)}, n = {score.n:,}"


def _shown(figure: Figure) -> Figure:
    """Let a notebook show a figure also where pyplot, which would teach it to, was never imported."""

    def png() -> bytes:
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", dpi=110)
        return buffer.getvalue()

    figure._repr_png_ = png  # type: ignore[attr-defined]
    return figure
