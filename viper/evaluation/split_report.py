"""The report of a split, by the task's kind: what confusion_matrix writes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from viper.errors import UserError
from viper.evaluation.confusion import ConfusionReport, confusion_report
from viper.evaluation.metrics import check_shapes
from viper.evaluation.precision_recall import PrecisionRecallReport, precision_recall_report
from viper.evaluation.preference_report import PreferenceReport, preference_report
from viper.task import Task

SplitReport = ConfusionReport | PrecisionRecallReport | PreferenceReport


def build_report(task: Task, clips: Sequence[str], predicted: np.ndarray, true: np.ndarray) -> SplitReport:
    """The report of a task's predictions for a split.

    Parameters
    ----------
    clips : n ids, for messages.
    predicted, true : (n, targets), rows in the order of `clips`; NaN in `true` where there is no label. Of a preference
        task, `true` holds the orders: see `viper.manifest.order_rows`.

    Raises
    ------
    UserError : a regression without a range, no label at all, a prediction that is not finite (naming the clip).
    ValueError : the arrays do not have that shape.
    """
    predicted, true = check_predictions(task, clips, predicted, true)
    if task.kind == "preference":
        return preference_report(task, clips, predicted, true)
    if task.kind == "multi_label":
        return precision_recall_report(task, predicted, true)
    return confusion_report(task, predicted, true)


def check_predictions(
    task: Task, clips: Sequence[str], predicted: np.ndarray, true: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Both arrays as `viper.evaluation.metrics.check_shapes` gives them; raises what `build_report` does."""
    predicted, true = check_shapes(task, predicted, true)
    if len(clips) != len(predicted):
        raise ValueError(f"{len(clips)} clips for {len(predicted)} rows of predictions")
    if not len(true) if task.kind == "preference" else np.isnan(true).all():
        what = "preference" if task.kind == "preference" else "label"
        raise UserError(f"task {task.name}: none of the {len(clips)} clips has a {what} to compare with")
    unusable = ~np.isfinite(predicted)
    if unusable.any():
        row, column = np.argwhere(unusable)[0]
        raise UserError(f"clip {clips[row]!r}: the prediction of {task.targets[column]} is {predicted[row, column]}")
    return predicted, true
