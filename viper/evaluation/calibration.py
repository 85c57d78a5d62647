"""Whether predictions mean what they say: of clips predicted at .7, is the mean label .7?"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np

from viper.manifest import all_pairs
from viper.task import Task

N_BINS = 10
LEAST_CLIPS = 5  # in a bin of a regression, as far as there are so many


@dataclass(frozen=True)
class CalibrationBin:
    """Clips whose prediction lies in [low, high): how many, their mean prediction and their mean label."""

    low: float
    high: float
    n: int
    mean_predicted: float
    mean_true: float


@dataclass(frozen=True)
class Calibration:
    """Calibration of one target (for a preference task, of the pairs): do predictions of .7 come true at .7?

    `error` is the mean distance of a bin's prediction from its label, weighted by clips (the expected calibration error
    of probabilities); in the units of the labels.
    """

    name: str
    bins: list[CalibrationBin]
    error: float


def calibrations(task: Task, predicted: np.ndarray, true: np.ndarray) -> list[Calibration]:
    """Return how a task's predictions are calibrated; arrays as of `viper.evaluation.metrics.evaluate`.

    A regression: each target, in bins of equally many clips. Probabilities: in ten equal bins from 0 to 1, whose mean
    distance is the expected calibration error (Guo et al., 2017, arXiv:1706.04599); of classes, first the probability
    of the predicted class against whether it is right. Preferences: of all pairs, the probability of the predicted
    order by Bradley and Terry's model, which is the sigmoid of how far the utilities are apart, against the share of
    pairs that people put in that order. What has no label at all is left out.
    """
    if task.kind == "preference":
        return _made("pairs", *_pairs(predicted[:, 0], true), _equal_edges())
    known = ~np.isnan(true)
    result = []
    if task.kind == "single_label":
        rows = known.all(axis=1)
        right = predicted[rows].argmax(axis=1) == true[rows].argmax(axis=1)
        result += _made("highest probability", predicted[rows].max(axis=1, initial=0), right, _equal_edges())
    for k, target in enumerate(task.targets):
        x, y = predicted[known[:, k], k], true[known[:, k], k]
        result += _made(target, x, y, _quantile_edges(x) if task.kind == "regression" else _equal_edges())
    return result


def _pairs(utilities: np.ndarray, orders: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the probability of the predicted order of each pair, and whether it is true (half for a tie)."""
    from scipy.special import expit

    less, more = all_pairs(orders)
    difference = utilities[more] - utilities[less]
    return expit(np.abs(difference)), (np.sign(difference) + 1) / 2


def _equal_edges() -> np.ndarray:
    return np.linspace(0, 1, N_BINS + 1)


def _quantile_edges(values: np.ndarray) -> np.ndarray:
    """Return edges of bins with equally many values: ten, or fewer for few or equal values."""
    if not len(values):
        return np.zeros(2)
    n_bins = int(np.clip(len(values) // LEAST_CLIPS, 1, N_BINS))
    edges = np.unique(np.quantile(values, np.linspace(0, 1, n_bins + 1)))
    return edges if len(edges) > 1 else np.repeat(edges, 2)


def _made(name: str, predicted: np.ndarray, true: np.ndarray, edges: np.ndarray) -> list[Calibration]:
    """Return the calibration of these values in these bins, as a list of one; an empty list without values."""
    if not len(predicted):
        return []
    place = np.clip(np.searchsorted(edges, predicted, side="right") - 1, 0, len(edges) - 2)
    bins = []
    for k, (low, high) in enumerate(itertools.pairwise(edges)):
        rows = place == k
        if rows.any():
            means = float(predicted[rows].mean()), float(true[rows].mean())
            bins.append(CalibrationBin(float(low), float(high), int(rows.sum()), *means))
    error = sum(each.n * abs(each.mean_predicted - each.mean_true) for each in bins) / len(predicted)
    return [Calibration(name, bins, float(error))]
