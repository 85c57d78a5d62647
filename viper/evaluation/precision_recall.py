"""What a multi_label task's predictions are worth: average precision and a precision-recall curve for each label."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from viper.evaluation.confusion import file_names, number_text
from viper.evaluation.curves import Curve, curve_figure, curves_figure
from viper.evaluation.drawing import bar_figure, save_png
from viper.evaluation.metrics import Scores, evaluate
from viper.files import write_json, write_text
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
        """Clips of which it is known whether they have the label."""
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
        """Every number but the curves' points, JSON-ready."""
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
        """Writes CSV, JSON and PNG into `folder` and answers the files written.

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
            points = {"threshold": [*label.threshold, math.nan], "precision": label.precision, "recall": label.recall}
            write_text(files[0], pd.DataFrame(points).to_csv(index=False, lineterminator="\n"))
            save_png(curve_figure(curve), files[1])
            written += files
        files = [folder / name for name in ("labels.csv", "average_precision.png", "precision_recall_overview.png",
                                            "confusion.json")]  # fmt: skip
        write_text(files[0], pd.DataFrame(self._rows()).to_csv(index=False, lineterminator="\n"))
        save_png(self._bars(title), files[1])
        if curves:
            save_png(curves_figure(list(curves.values()), title), files[2])
        write_json(files[3], self.to_dict())
        return [*written, *(files if curves else [files[0], files[1], files[3]])]

    def curves(self) -> dict[str, Curve]:
        """Label -> its curve, of the labels that some clip has."""
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


def precision_recall_report(task: Task, predicted: np.ndarray, true: np.ndarray) -> PrecisionRecallReport:
    """Counts everything a PrecisionRecallReport holds.

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
