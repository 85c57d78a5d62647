"""The report of a split, by the task's kind: what confusion_matrix writes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from viper.errors import UserError
from viper.evaluation.confusion import ConfusionReport, confusion_report, file_names, number_text, write_table
from viper.evaluation.drawing import Curve, bar_figure, curve_figure, curves_figure, save_png, utilities_figure
from viper.evaluation.metrics import Scores, check_shapes, evaluate
from viper.files import write_json
from viper.manifest import all_pairs
from viper.task import Task

THRESHOLD = 0.5  # of a probability, from which on a label counts as predicted


@dataclass(frozen=True)
class LabelCurve:
    """One label.

    Attributes
    ----------
    precision, recall : (n + 1,) by falling recall, as scikit-learn gives them; empty where no clip has the label.
    threshold : (n,) probabilities from which on the label is predicted.
    counts : clips with and without the label, by whether it is predicted from `THRESHOLD` on: "true_positive" ...
    """

    precision: np.ndarray
    recall: np.ndarray
    threshold: np.ndarray
    counts: dict[str, int]

    @property
    def n(self) -> int:
        """Clips known to have or to lack the label."""
        return sum(self.counts.values())

    @property
    def n_positive(self) -> int:
        """Clips that have it."""
        return self.counts["true_positive"] + self.counts["false_negative"]

    @property
    def prevalence(self) -> float:
        """Share of clips that have it: the average precision of guessing."""
        return self.n_positive / self.n if self.n else math.nan


@dataclass(frozen=True)
class PrecisionRecallReport:
    """All labels of one split."""

    task: Task
    n_clips: int
    labels: dict[str, LabelCurve]
    scores: Scores

    def to_dict(self) -> dict[str, Any]:
        """Return every number but the curves' points, JSON-ready."""
        scores = self.scores.to_dict()
        return {
            "task": self.task.name,
            "n_clips": self.n_clips,
            "mean": scores["mean"],
            "threshold": THRESHOLD,
            "targets": {
                name: {**scores["targets"][name], "n_positive": label.n_positive, **label.counts}
                for name, label in self.labels.items()
            },
        }

    def write(self, folder: Path) -> list[Path]:
        """Write CSV, JSON and PNG into `folder` and return the files written.

        For each label that some clip has, precision_recall_NAME.csv (the curve's points) and .png; then labels.csv
        (counts and average precision), average_precision.png, precision_recall_overview.png and confusion.json.
        """
        names = file_names(self.task.targets)
        title = f"{self.task.name}: mAP {number_text(self.scores.mean('map').value)}, n = {self.n_clips:,}"
        written, curves = [], self.curves()
        for target, curve in curves.items():
            label = self.labels[target]
            stem = folder / f"precision_recall_{names[target]}"
            files = [stem.with_name(f"{stem.name}{end}") for end in (".csv", ".png")]
            points = np.stack([np.append(label.threshold, math.nan), label.precision, label.recall], axis=1)
            write_table(files[0], ["threshold", "precision", "recall"], points.tolist())
            save_png(curve_figure(curve), files[1])
            written += files
        files = [folder / name for name in ("labels.csv", "average_precision.png", "precision_recall_overview.png",
                                            "confusion.json")]  # fmt: skip
        rows = self._rows()
        write_table(files[0], list(rows[0]), [list(row.values()) for row in rows])
        save_png(self._bars(title), files[1])
        if curves:
            save_png(curves_figure(list(curves.values()), title), files[2])
        write_json(files[3], self.to_dict())
        return [*written, *(files if curves else [files[0], files[1], files[3]])]

    def curves(self) -> dict[str, Curve]:
        """Return label -> its curve, of the labels that some clip has."""
        return {target: self._curve(target, label) for target, label in self.labels.items() if label.n_positive}

    def _curve(self, target: str, label: LabelCurve) -> Curve:
        precision = self.scores.targets["map"][target].value
        subtitle = f"AP {number_text(precision)}, {label.n_positive:,} of {label.n:,}"
        return Curve(label.precision, label.recall, label.prevalence, target, subtitle)

    def _bars(self, title: str) -> Any:
        values = {target: self.scores.targets["map"][target].value for target in self.labels}
        ordered = sorted(values, key=lambda target: (math.isnan(values[target]), -values[target]))
        shown = [f"{target} ({self.labels[target].n_positive:,} clips)" for target in ordered]
        caption = "Average precision of each label; in brackets how many clips have it."
        return bar_figure(shown, [values[target] for target in ordered], title, caption)

    def _rows(self) -> list[dict[str, Any]]:
        return [
            {
                "label": target,
                "n": label.n,
                "n_positive": label.n_positive,
                "average_precision": self.scores.targets["map"][target].value,
                **label.counts,
            }
            for target, label in self.labels.items()
        ]


def _precision_recall_report(task: Task, predicted: np.ndarray, true: np.ndarray) -> PrecisionRecallReport:
    """Count everything a PrecisionRecallReport holds.

    Parameters
    ----------
    predicted : (n, labels) finite probabilities.
    true : (n, labels), 1, 0, or NaN where it is not known.
    """
    labels = {
        target: _label(column, truth)
        for target, column, truth in zip(task.targets, predicted.T, true.T, strict=True)
    }  # fmt: skip
    return PrecisionRecallReport(task, len(true), labels, evaluate(task, predicted, true))


def _label(predicted: np.ndarray, true: np.ndarray) -> LabelCurve:
    from sklearn.metrics import precision_recall_curve

    known = ~np.isnan(true)
    predicted, there = predicted[known], true[known] == 1
    chosen = predicted >= THRESHOLD
    counts = {
        "true_positive": int((chosen & there).sum()),
        "false_positive": int((chosen & ~there).sum()),
        "false_negative": int((~chosen & there).sum()),
        "true_negative": int((~chosen & ~there).sum()),
    }
    if not there.any():
        nothing = np.zeros(0)
        return LabelCurve(nothing, nothing, nothing, counts)
    precision, recall, threshold = precision_recall_curve(there, predicted)
    return LabelCurve(precision, recall, threshold, counts)


@dataclass(frozen=True)
class PreferenceReport:
    """Utilities and orders of one split.

    Attributes
    ----------
    clips : n ids.
    utilities : (n,).
    orders : (m, L) rows of clips, from the least to the most preferred, -1 at the end of shorter orders.
    """

    task: Task
    clips: Sequence[str]
    utilities: np.ndarray
    orders: np.ndarray
    scores: Scores

    def to_dict(self) -> dict[str, Any]:
        """Return every number, JSON-ready. "difference" is the preferred clip's utility less the other's."""
        less, more = self.of_pairs()
        shares = np.quantile(more - less, [0.05, 0.25, 0.5, 0.75, 0.95])
        return {
            "task": self.task.name,
            "n_clips": self.scores.n_clips,
            "mean": self.scores.to_dict()["mean"],
            "utility": {"mean": float(self.utilities.mean()), "std": float(self.utilities.std())},
            "difference": dict(zip(("q05", "q25", "median", "q75", "q95"), shares.tolist(), strict=True)),
        }

    def write(self, folder: Path) -> list[Path]:
        """Write utilities.csv (a row a clip), orders.csv (a row a pair or list), utilities.png and confusion.json."""
        files = [folder / name for name in ("utilities.csv", "orders.csv", "utilities.png", "confusion.json")]
        clips = list(zip(self.clips, self.utilities.tolist(), strict=True))
        write_table(files[0], ["clip", self.task.targets[0]], clips)
        ranks = [f"rank_{k + 1}" for k in range(self.orders.shape[1])]
        write_table(files[1], [*ranks, "right"], [self._row(order) for order in self.orders])
        save_png(utilities_figure(*self.of_pairs(), self.title), files[2])
        write_json(files[3], self.to_dict())
        return files

    def of_pairs(self) -> tuple[np.ndarray, np.ndarray]:
        """Return utilities of the less and the more preferred clip of every pair, those of lists included."""
        less, more = all_pairs(self.orders)
        return self.utilities[less], self.utilities[more]

    def _row(self, order: np.ndarray) -> list[Any]:
        """Return one order: its clips from the least preferred on, and whether their utilities rise."""
        rows = order[order >= 0]
        clips = [self.clips[row] for row in rows] + [""] * (len(order) - len(rows))
        return [*clips, int((np.diff(self.utilities[rows]) > 0).all())]

    @property
    def title(self) -> str:
        """The task, and how many pairs and lists are right."""
        parts = [
            f"{score.value:.1%} of {score.n:,} {what} right"
            for what, metric in (("pairs", "pairwise_accuracy"), ("lists", "listwise_accuracy"))
            if (score := self.scores.together[metric]).n
        ]
        return f"{self.task.name}: {', '.join(parts)}"


def _preference_report(task: Task, clips: Sequence[str], predicted: np.ndarray, orders: np.ndarray) -> PreferenceReport:
    """Score utilities (n, 1), which must be finite, by orders of the clips."""
    return PreferenceReport(task, clips, predicted[:, 0], orders, evaluate(task, predicted, orders))


SplitReport = ConfusionReport | PrecisionRecallReport | PreferenceReport


def build_report(task: Task, clips: Sequence[str], predicted: np.ndarray, true: np.ndarray) -> SplitReport:
    """Return the report of a task's predictions for a split.

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
        return _preference_report(task, clips, predicted, true)
    if task.kind == "multi_label":
        return _precision_recall_report(task, predicted, true)
    return confusion_report(task, predicted, true)


def check_predictions(
    task: Task, clips: Sequence[str], predicted: np.ndarray, true: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return both arrays as `viper.evaluation.metrics.check_shapes` gives them; raise what `build_report` does."""
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
