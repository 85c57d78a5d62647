"""Pearson's r and mean squared error, per target and averaged, each with the number of clips it was computed on."""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from viper.task import Task

logger = logging.getLogger("viper")

METRICS: dict[str, Literal["maximise", "minimise"]] = {"pearson": "maximise", "mse": "minimise"}
"""Every metric a task card may name, and the direction in which it gets better."""

# Predictions come out of float32 arithmetic: a spread of a few units in the last place is a constant with rounding.
_ROUNDING = 4 * float(np.finfo(np.float32).eps)


@dataclass(frozen=True)
class Score:
    """A metric's value (nan where it has none) and the number of clips it was computed on."""

    value: float
    n: int

    def to_dict(self) -> dict[str, float | int | None]:
        """JSON-ready: a value that is nan or infinite becomes None."""
        return {"value": self.value if math.isfinite(self.value) else None, "n": self.n}


@dataclass(frozen=True)
class Scores:
    """Every metric of METRICS for every target of a task.

    Attributes
    ----------
    targets : metric -> target -> Score, targets in the task's order.
    n_clips : clips that have a label of at least one target.
    """

    targets: dict[str, dict[str, Score]]
    n_clips: int

    def mean(self, metric: str) -> Score:
        """The mean over targets; nan when it is nan for one of them, so that no target drops out unseen."""
        return Score(float(np.mean([score.value for score in self.targets[metric].values()])), self.n_clips)

    def selection_value(self, metric: str) -> float:
        """The mean by which epochs are compared, never nan.

        A Pearson that is nan counts 0. A mean squared error that is nan because a prediction is not finite makes the
        value infinite, the worst there is; a target without any label is left out of the mean squared error.
        """
        scores = self.targets[metric].values()
        if metric == "pearson":
            return float(np.mean([0.0 if math.isnan(score.value) else score.value for score in scores]))
        errors = [score.value for score in scores if score.n > 0]
        value = float(np.mean(errors)) if errors else math.inf
        return math.inf if math.isnan(value) else value

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready: {"n_clips", "mean": {metric: score}, "targets": {target: {metric: score}}}."""
        names = next(iter(self.targets.values()))
        return {
            "n_clips": self.n_clips,
            "mean": {metric: self.mean(metric).to_dict() for metric in self.targets},
            "targets": {
                name: {metric: scores[name].to_dict() for metric, scores in self.targets.items()} for name in names
            },
        }


def pearson(predicted: np.ndarray, true: np.ndarray) -> Score:
    """Pearson's correlation coefficient of two vectors, in float64.

    Parameters
    ----------
    predicted, true : (n,). Clips whose label is NaN are left out and not counted.

    Returns
    -------
    Score, whose value is nan where r is undefined: fewer than two labelled clips, a prediction or label that is the
    same for all of them (up to the rounding of float32), or a prediction that is not finite.
    """
    predicted, true = _labelled(predicted, true)
    if _why_undefined(predicted, true):
        return Score(math.nan, len(true))
    # Each vector is brought to unit length before the product, which therefore cannot over- or underflow.
    deviation_predicted, deviation_true = _unit_deviation(predicted), _unit_deviation(true)
    return Score(float(np.clip(deviation_predicted @ deviation_true, -1.0, 1.0)), len(true))


def mse(predicted: np.ndarray, true: np.ndarray) -> Score:
    """Mean squared error of two vectors (n,), in float64; clips whose label is NaN are left out and not counted."""
    predicted, true = _labelled(predicted, true)
    return Score(float(np.mean((predicted - true) ** 2)) if len(true) else math.nan, len(true))


def evaluate(task: Task, predicted: np.ndarray, true: np.ndarray) -> Scores:
    """All metrics of all targets, whichever of them the task's card names for choosing the best epoch.

    Targets whose Pearson is undefined are named, with the reason, in a warning of the logger "viper".

    Parameters
    ----------
    predicted, true : (n, targets), rows for the same clips; NaN in `true` where there is no label.

    Raises
    ------
    ValueError : the arrays do not have that shape.
    """
    predicted, true = check_shapes(task, predicted, true)
    columns = list(zip(task.targets, predicted.T, true.T, strict=True))
    scores = Scores(
        targets={
            "pearson": {target: pearson(*column) for target, *column in columns},
            "mse": {target: mse(*column) for target, *column in columns},
        },
        n_clips=int((~np.isnan(true)).any(axis=1).sum()),
    )
    undefined: dict[str, list[str]] = {}
    for target, *column in columns:
        if reason := _why_undefined(*_labelled(*column)):
            undefined.setdefault(reason, []).append(target)
    for reason, names in undefined.items():
        logger.warning("no Pearson for %s: %s", ", ".join(names), reason)
    return scores


def check_shapes(task: Task, predicted: np.ndarray, true: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Both as float64 (n, targets). Raises ValueError when one has another shape."""
    predicted, true = np.asarray(predicted, np.float64), np.asarray(true, np.float64)
    if predicted.shape != true.shape or true.ndim != 2 or true.shape[1] != len(task.targets):
        raise ValueError(
            f"predicted {predicted.shape} and true {true.shape} must both be (clips, {len(task.targets)} targets)"
        )
    return predicted, true


def _labelled(predicted: np.ndarray, true: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    predicted, true = np.asarray(predicted, np.float64), np.asarray(true, np.float64)
    if predicted.shape != true.shape or true.ndim != 1:
        raise ValueError(f"predicted {predicted.shape} and true {true.shape} must be vectors of one length")
    labelled = ~np.isnan(true)
    return predicted[labelled], true[labelled]


def _why_undefined(predicted: np.ndarray, true: np.ndarray) -> str:
    """Why two labelled vectors have no Pearson; empty where they have one."""
    if len(true) < 2:
        return f"{len(true)} labelled clip{'s' * (len(true) != 1)}, two are needed"
    if not np.isfinite(predicted).all():
        return "a prediction is not finite"
    if _is_constant(predicted):
        return f"the prediction is constant over {len(true)} clips"
    if _is_constant(true):
        return f"the label is constant over {len(true)} clips"
    return ""


def _is_constant(values: np.ndarray) -> bool:
    lowest, highest = values.min(), values.max()
    return bool(highest - lowest <= _ROUNDING * max(abs(lowest), abs(highest)))


def _unit_deviation(values: np.ndarray) -> np.ndarray:
    deviation = values - values.mean()
    deviation /= np.abs(deviation).max()
    return deviation / np.linalg.norm(deviation)
