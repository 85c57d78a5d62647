"""The metrics of every kind of task, per target and together, each with the number of clips it was computed on."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from viper.evaluation import measures
from viper.evaluation.measures import Score
from viper.logs import log
from viper.task import DEFAULT_METRICS, Task


@dataclass(frozen=True)
class Metric:
    """How a metric is computed and read.

    Attributes
    ----------
    title : for people, of the metric over all targets.
    direction : in which it gets better.
    per_target : (predicted, true), both (n, targets) with NaN in `true` where there is no label -> a Score a target;
        None for a metric that is defined over the targets together only.
    together : the same arrays -> the Score of them all; None: the mean over targets. Of a preference task the
        arrays are utilities and orders, see `viper.evaluation.measures.pairwise_accuracy`.
    skips_undefined : whether targets without a value are left out of that mean, or make it undefined.
    """

    title: str
    direction: Literal["maximise", "minimise"]
    per_target: Callable[[np.ndarray, np.ndarray], list[Score]] | None = None
    together: Callable[[np.ndarray, np.ndarray], Score] | None = None
    skips_undefined: bool = False

    @property
    def worst(self) -> float:
        """What a model without a value counts as, when the best epoch is chosen."""
        return 0.0 if self.direction == "maximise" else math.inf


@dataclass(frozen=True)
class Scores:
    """The metrics of a task: those its card names, in its order, then those every task of its kind has.

    Attributes
    ----------
    targets : metric -> target -> Score, targets in the task's order; nothing for a metric of all targets together.
    together : metric -> Score of all targets. Where it is a mean, it is nan when it is nan for one of them, so that no
        target drops out unseen; the classes or labels without a positive clip are left out of it.
    n_clips : clips that have a label of at least one target, or a place in an order.
    """

    targets: dict[str, dict[str, Score]]
    together: dict[str, Score]
    n_clips: int

    def mean(self, metric: str) -> Score:
        """Return a metric over all targets."""
        return self.together[metric]

    def selection_value(self, metric: str) -> float:
        """Return the value by which epochs are compared, never nan.

        A target whose Pearson (or CCC) is nan counts 0. An error that is nan because a prediction is not finite makes
        the value infinite, the worst there is; a target without any label is left out of an error.
        """
        worst, scores = METRICS[metric].worst, list(self.targets.get(metric, {}).values())
        if METRICS[metric].skips_undefined or not scores:
            value = self.together[metric].value
        elif METRICS[metric].direction == "maximise":
            value = float(np.mean([worst if math.isnan(score.value) else score.value for score in scores]))
        else:
            errors = [score.value for score in scores if score.n > 0]
            value = float(np.mean(errors)) if errors else worst
        return worst if math.isnan(value) else value

    def reported_value(self, metric: str) -> float:
        """Return `selection_value`, but nan for a metric without clips (such as lists on Val)."""
        return self.selection_value(metric) if self.together[metric].n else math.nan

    def to_dict(self) -> dict[str, Any]:
        """Return, JSON-ready, {"n_clips", "mean": {metric: score}, "targets": {target: {metric: score}}}."""
        names = next((list(scores) for scores in self.targets.values()), [])
        return {
            "n_clips": self.n_clips,
            "mean": {metric: score.to_dict() for metric, score in self.together.items()},
            "targets": {
                name: {metric: scores[name].to_dict() for metric, scores in self.targets.items()} for name in names
            },
        }

    @classmethod
    def from_dict(cls, record: dict[str, Any]) -> Scores:
        """Return the inverse of `to_dict`; other records raise LookupError, TypeError, AttributeError or ValueError."""
        if type(record["n_clips"]) is not int:
            raise ValueError(f"n_clips is {record['n_clips']!r}")
        metrics = next((list(scores) for scores in record["targets"].values()), [])
        return cls(
            targets={
                metric: {name: Score.from_dict(scores[metric]) for name, scores in record["targets"].items()}
                for metric in metrics
            },
            together={metric: Score.from_dict(score) for metric, score in record["mean"].items()},
            n_clips=record["n_clips"],
        )


def is_better(metric: str, value: float, than: float) -> bool:
    """Return whether a metric's value beats another."""
    return value > than if METRICS[metric].direction == "maximise" else value < than


def _each(metric: Callable[[np.ndarray, np.ndarray], Score]) -> Callable[[np.ndarray, np.ndarray], list[Score]]:
    return lambda predicted, true: [metric(*columns) for columns in zip(predicted.T, true.T, strict=True)]


METRICS: dict[str, Metric] = {
    "pearson": Metric("Pearson", "maximise", _each(measures.pearson)),
    "ccc": Metric("CCC", "maximise", _each(measures.ccc)),
    "mse": Metric("MSE", "minimise", _each(measures.mse)),
    "mae": Metric("MAE", "minimise", _each(measures.mae)),
    "binary_accuracy": Metric("binary accuracy", "maximise", _each(measures.binary_accuracy)),
    "uar": Metric("UAR", "maximise", measures.recalls, skips_undefined=True),
    "accuracy": Metric("accuracy", "maximise", together=measures.accuracy),
    "macro_f1": Metric("macro F1", "maximise", measures.f1_scores, skips_undefined=True),
    "top3": Metric("top-3 accuracy", "maximise", together=measures.top3),
    "top1": Metric("top-1 accuracy", "maximise", together=measures.top1),
    "vce_top3": Metric("VCE top-3 accuracy", "maximise", together=measures.top3),
    "prediction_in_true_top3": Metric(
        "prediction in true top 3", "maximise", together=measures.prediction_in_true_top3
    ),
    "map": Metric("mAP", "maximise", measures.average_precisions, skips_undefined=True),
    "pairwise_accuracy": Metric("pairwise accuracy", "maximise", together=measures.pairwise_accuracy),
    "listwise_accuracy": Metric("listwise accuracy", "maximise", together=measures.listwise_accuracy),
    "kendall_tau": Metric("Kendall's tau", "maximise", together=measures.kendall_tau),
}
"""Every metric a task card may name."""


def evaluate(task: Task, predicted: np.ndarray, true: np.ndarray) -> Scores:
    """Return the metrics of a task: those its card names and those all tasks of its kind have.

    Targets whose Pearson is undefined are named, with the reason, in a warning of the logger "viper", and so are labels
    that mAP leaves out.

    Parameters
    ----------
    predicted, true : (n, targets), rows for the same clips; NaN in `true` where there is no label. Of a preference task
        `true` holds the orders instead, see `viper.evaluation.measures.pairwise_accuracy`.

    Raises
    ------
    ValueError : the arrays do not have that shape.
    """
    predicted, true = check_shapes(task, predicted, true)
    n_clips = _n_clips(task, true)
    targets: dict[str, dict[str, Score]] = {}
    together: dict[str, Score] = {}
    for name in dict.fromkeys((*task.metrics, *DEFAULT_METRICS[task.kind])):
        metric = METRICS[name]
        if metric.per_target is not None:
            targets[name] = dict(zip(task.targets, metric.per_target(predicted, true), strict=True))
        if metric.together is not None:
            together[name] = metric.together(predicted, true)
        else:
            together[name] = Score(_mean(targets[name], metric.skips_undefined), n_clips)
    if "map" in targets:
        without = [name for name, score in targets["map"].items() if math.isnan(score.value)]
        if without:
            log.warning("mAP leaves out %s: no clip has the label, or a prediction is not finite", ", ".join(without))
    if "pearson" in targets:
        _warn_of_undefined(task, predicted, true)
    return Scores(targets, together, n_clips)


def _n_clips(task: Task, true: np.ndarray) -> int:
    if task.kind == "preference":
        return len(np.unique(true[true >= 0]))
    return int((~np.isnan(true)).any(axis=1).sum())


def _mean(scores: dict[str, Score], skips_undefined: bool) -> float:
    values = [score.value for score in scores.values() if not (skips_undefined and math.isnan(score.value))]
    return float(np.mean(values)) if values else math.nan


def _warn_of_undefined(task: Task, predicted: np.ndarray, true: np.ndarray) -> None:
    undefined: dict[str, list[str]] = {}
    for target, *column in zip(task.targets, predicted.T, true.T, strict=True):
        if reason := measures.why_undefined(*measures.labelled(*column)):
            undefined.setdefault(reason, []).append(target)
    for reason, names in undefined.items():
        log.warning("no Pearson for %s: %s", ", ".join(names), reason)


def check_shapes(task: Task, predicted: np.ndarray, true: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return both as float64 (n, targets), but orders as they are. Raises ValueError when one has another shape."""
    predicted, true = np.asarray(predicted, np.float64), np.asarray(true)
    if task.kind == "preference":
        if predicted.ndim != 2 or predicted.shape[1] != 1 or true.ndim != 2 or true.max(initial=0) >= len(predicted):
            raise ValueError(f"predicted {predicted.shape} must be (clips, 1), orders {true.shape} rows of it")
        return predicted, true
    true = true.astype(np.float64)
    if predicted.shape != true.shape or true.ndim != 2 or true.shape[1] != len(task.targets):
        raise ValueError(
            f"predicted {predicted.shape} and true {true.shape} must both be (clips, {len(task.targets)} targets)"
        )
    return predicted, true
