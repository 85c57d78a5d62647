"""How far a metric would move with other clips of the same kind: percentile intervals of the bootstrap.

Efron and Tibshirani (1993), An Introduction to the Bootstrap, chapters 8 and 13. Clips are drawn with replacement, or
subjects with all their clips: clips of one person are alike, and counting them as independent makes intervals too
narrow. Of a preference task its orders are drawn.

A metric is computed on all resamples at once, by sums weighted with how often each row was drawn: 5,000 clips and 7
targets take a second. A metric without such a formula, and a resample that is nearly constant, are computed one by one
with `viper.evaluation.metrics`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from viper.evaluation.measures import ROUNDING, Score
from viper.evaluation.metrics import METRICS, Scores, evaluate
from viper.logs import without_warnings
from viper.task import Task

CONFIDENCE = 0.95
# A metric that is undefined on more of the resamples than this has no interval: what is left would be a choice of them.
MOST_UNDEFINED = 0.5
# Of two subjects there are three different resamples: their spread says nothing of other subjects.
LEAST_UNITS = 5
# Below this standard deviation (the largest deviation being 1) sums of squares have lost too many digits, and a
# resample may count as constant: it is computed as it is.
_SMALL_SPREAD = 1e-3
BLOCK_VALUES = 1 << 20  # draws looked at together: 8 MiB in float64
# A clip's own contribution to a metric that is a mean over clips.
_CONTRIBUTIONS: dict[str, Callable[[np.ndarray, np.ndarray], np.ndarray]] = {
    "mse": lambda predicted, true: (predicted - true) ** 2,
    "mae": lambda predicted, true: np.abs(predicted - true),
    "binary_accuracy": lambda predicted, true: np.isfinite(predicted) & ((predicted >= 0) == (true >= 0)),
}
_OF_ORDERS = ("pairwise_accuracy", "listwise_accuracy", "kendall_tau")
# Means over rows (clips or orders) of what the metric is of that row alone.
_MEANS = frozenset({"accuracy", "top1", "top3", "vce_top3", "prediction_in_true_top3", *_OF_ORDERS})


@dataclass(frozen=True)
class Interval:
    """A metric's value with a percentile interval of the bootstrap.

    Attributes
    ----------
    value : on the clips as they are; nan where it is undefined.
    low, high : bounds of the interval; nan where too few resamples had a value.
    n : clips (of a preference task: orders) the value was computed on.
    n_units : what was drawn with replacement: clips, subjects or orders.
    """

    value: float
    low: float
    high: float
    n: int
    n_units: int


@dataclass(frozen=True)
class Measured:
    """One metric: its interval over all targets and of each, and the values over all targets on the resamples (R,)."""

    together: Interval
    targets: dict[str, Interval]
    samples: np.ndarray = field(repr=False)


@dataclass(frozen=True)
class Bootstrap:
    """Resamples of rows: of clips, or of a preference task's orders.

    Attributes
    ----------
    counts : (R, n) uint16, how often each resample has each row.
    unit : (n,) int64, which unit each row belongs to; rows of a unit are drawn together.
    """

    counts: np.ndarray
    unit: np.ndarray

    @classmethod
    def draw(cls, n_rows: int, subjects: Sequence[str] | None, n_resamples: int, seed: int) -> Bootstrap:
        """Draw the resamples; the same arguments draw the same ones.

        Parameters
        ----------
        subjects : of each row, whose rows are drawn together; None: each row by itself. A row whose subject is empty is
            one by itself, too.
        """
        if subjects is None:
            unit = np.arange(n_rows)
        else:
            unit = np.unique([name or f"\0{row}" for row, name in enumerate(subjects)], return_inverse=True)[1]
        rng, n_units = np.random.default_rng(seed), int(unit.max(initial=-1)) + 1
        drawn = np.empty((n_resamples, n_units), np.uint16)
        for row in drawn:
            row[:] = np.bincount(rng.integers(0, n_units, n_units), minlength=n_units)
        return cls(drawn[:, unit], unit)

    def of(self, rows: np.ndarray) -> Bootstrap:
        """Return the same resamples of some of the rows, so that comparisons between parts are paired."""
        return Bootstrap(self.counts[:, rows], self.unit[rows])

    def measure(self, task: Task, metric: str, predicted: np.ndarray, true: np.ndarray) -> Measured:
        """Return one metric with its intervals; arrays as of `viper.evaluation.metrics.evaluate`."""
        return self.measure_all(task, predicted, true, [metric])[metric]

    def measure_all(
        self, task: Task, predicted: np.ndarray, true: np.ndarray, metrics: Sequence[str] = ()
    ) -> dict[str, Measured]:
        """Return every metric that `evaluate` computes for the task (or those named), with its intervals."""
        with without_warnings():
            scores = evaluate(task, predicted, true)
        predicted = np.asarray(predicted, np.float64)
        true = np.asarray(true) if task.kind == "preference" else np.asarray(true, np.float64)
        return {metric: self._measure(task, metric, predicted, true, scores) for metric in (metrics or scores.together)}

    def _measure(self, task: Task, metric: str, predicted: np.ndarray, true: np.ndarray, scores: Scores) -> Measured:
        each = resampled_targets(metric, predicted, true, self.counts)
        together = resampled_together(metric, predicted, true, self.counts, each)
        intervals = {}
        if each is not None:
            for k, target in enumerate(task.targets):
                score = scores.targets[metric][target]
                intervals[target] = self._interval(score, each[:, k], _rows_of_target(task, true[:, k]))
        rows = _rows(task, metric, predicted, true)
        return Measured(self._interval(scores.together[metric], together, rows), intervals, together)

    def _interval(self, score: Score, samples: np.ndarray, rows: np.ndarray) -> Interval:
        return interval(score, samples, len(np.unique(self.unit[rows])))


def interval(score: Score, samples: np.ndarray, n_units: int) -> Interval:
    """Return a value with the middle 95% of its values on the resamples (R,), without the undefined ones."""
    defined = samples[np.isfinite(samples)]
    too_few = len(defined) < max(1, (1 - MOST_UNDEFINED) * len(samples))
    if n_units < LEAST_UNITS or not math.isfinite(score.value) or too_few:
        return Interval(score.value, math.nan, math.nan, score.n, n_units)
    low, high = np.quantile(defined, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return Interval(score.value, float(low), float(high), score.n, n_units)


def _rows(task: Task, metric: str, predicted: np.ndarray, true: np.ndarray) -> np.ndarray:
    """Return (n,) bool, the rows that a metric over all targets is computed on."""
    if task.kind == "preference":
        return ~np.isnan(contributions(metric, predicted, true))
    known = ~np.isnan(true)
    return known.any(axis=1) if METRICS[metric].together is None else known.all(axis=1)


def _rows_of_target(task: Task, true: np.ndarray) -> np.ndarray:
    """Return (n,) bool, the rows that a target's metric is computed on: of a class, its own clips."""
    return true == 1 if task.kind == "single_label" else ~np.isnan(true)


def resampled_targets(metric: str, predicted: np.ndarray, true: np.ndarray, counts: np.ndarray) -> np.ndarray | None:
    """Return a metric of every target on every resample.

    Parameters
    ----------
    metric : key of `viper.evaluation.metrics.METRICS`.
    predicted, true : (n, targets), NaN in `true` where there is no label.
    counts : (R, n), how often each resample has each row.

    Returns
    -------
    (R, targets) float64, nan where it is undefined; None for a metric that is defined over the targets together only.
    """
    if METRICS[metric].per_target is None:
        return None
    return np.concatenate([_targets(metric, predicted, true, weights) for weights in _blocks(counts)])


def _targets(metric: str, predicted: np.ndarray, true: np.ndarray, weights: np.ndarray) -> np.ndarray:
    if metric in ("uar", "macro_f1"):
        return _of_classes(metric, predicted, true, weights)
    formulas = {"pearson": _correlation, "ccc": _correlation, "map": _average_precision}
    if metric not in formulas and metric not in _CONTRIBUTIONS:
        return np.array([_one_by_one(metric, predicted, true, row) for row in weights])
    result = np.full((len(weights), predicted.shape[1]), np.nan)
    for k, (p, t) in enumerate(zip(predicted.T, true.T, strict=True)):
        labelled = ~np.isnan(t)
        p, t, own = p[labelled], t[labelled], weights if labelled.all() else weights[:, labelled]
        if metric in formulas:
            result[:, k] = formulas[metric](metric, p, t, own)
        else:
            result[:, k] = _weighted_mean(_CONTRIBUTIONS[metric](p, t), own)
    return result


def resampled_together(
    metric: str, predicted: np.ndarray, true: np.ndarray, counts: np.ndarray, targets: np.ndarray | None
) -> np.ndarray:
    """Return a metric over all targets on every resample: (R,), nan where it is undefined.

    Parameters
    ----------
    predicted, true, counts : as of `resampled_targets`; of a preference task `true` holds orders (n, L), and they are
        what `counts` counts.
    targets : what `resampled_targets` gave.
    """
    described = METRICS[metric]
    if described.together is None:
        assert targets is not None
        if not described.skips_undefined:
            return targets.mean(axis=1)
        defined = ~np.isnan(targets)
        n = defined.sum(axis=1)
        return np.where(n > 0, np.where(defined, targets, 0.0).sum(axis=1) / np.maximum(n, 1), np.nan)
    if metric not in _MEANS:
        return np.array([described.together(*_drawn(metric, predicted, true, row)).value for row in counts])
    own = contributions(metric, predicted, true)
    known = ~np.isnan(own)
    return np.concatenate([_weighted_mean(own[known], weights[:, known]) for weights in _blocks(counts)])


def _blocks(counts: np.ndarray) -> Iterator[np.ndarray]:
    """Return the resamples in parts, as float64: a thousand of a large split at once would be gigabytes."""
    size = max(1, BLOCK_VALUES // max(1, counts.shape[1]))
    for first in range(0, len(counts), size):
        yield counts[first : first + size].astype(np.float64)


def contributions(metric: str, predicted: np.ndarray, true: np.ndarray) -> np.ndarray:
    """Return (n,) a metric of each row alone, for metrics that are means over rows; nan for rows left out."""
    together = METRICS[metric].together
    assert together is not None
    rows = (slice(i, i + 1) for i in range(len(true)))
    whole = metric in _OF_ORDERS  # orders name rows of all predictions
    return np.array([together(predicted if whole else predicted[row], true[row]).value for row in rows], np.float64)


def _drawn(metric: str, predicted: np.ndarray, true: np.ndarray, counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the rows of one resample."""
    rows = np.repeat(np.arange(len(true)), counts.astype(np.int64))
    return (predicted if metric in _OF_ORDERS else predicted[rows]), true[rows]


def _one_by_one(metric: str, predicted: np.ndarray, true: np.ndarray, counts: np.ndarray) -> list[float]:
    per_target = METRICS[metric].per_target
    assert per_target is not None
    return [score.value for score in per_target(*_drawn(metric, predicted, true, counts))]


def _weighted_mean(values: np.ndarray, weights: np.ndarray) -> np.ndarray:
    total = weights.sum(axis=1)
    return np.where(total > 0, weights @ values.astype(np.float64) / np.maximum(total, 1), np.nan)


def _correlation(metric: str, p: np.ndarray, t: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Return Pearson or CCC of two vectors (n,) from the moments of each resample, (R,)."""
    n = weights.sum(axis=1)
    usable, value = np.zeros(len(n), bool), np.full(len(n), np.nan)
    if len(p) and np.isfinite(p).all():
        # Around zero and in units of the larger of both spreads: sums of squares then keep their digits.
        scale = max(np.abs(p - p.mean()).max(), np.abs(t - t.mean()).max()) or 1.0
        x, y = (p - p.mean()) / scale, (t - t.mean()) / scale
        with np.errstate(invalid="ignore", divide="ignore"):
            mx, my, xx, yy, xy = (weights @ np.stack([x, y, x * x, y * y, x * y], axis=1) / n[:, None]).T
            vx, vy, covariance = xx - mx**2, yy - my**2, xy - mx * my
            usable = (n >= 2) & _varies(vx, x, p, scale) & _varies(vy, y, t, scale)
            if metric == "pearson":
                value = np.clip(covariance / np.sqrt(vx * vy), -1.0, 1.0)
            else:
                shift = mx - my + (p.mean() - t.mean()) / scale
                value = 2 * covariance / (vx + vy + shift**2)
    for row in np.flatnonzero(~usable):
        value[row] = _one_by_one(metric, p[:, None], t[:, None], weights[row])[0]
    return value


def _varies(variance: np.ndarray, scaled: np.ndarray, values: np.ndarray, scale: float) -> np.ndarray:
    """Return whether each resample varies beyond rounding: its range is at least its standard deviation."""
    least = max(_SMALL_SPREAD * np.abs(scaled).max(), ROUNDING * np.abs(values).max() / scale)
    return variance > least**2


def _average_precision(metric: str, p: np.ndarray, t: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Return the average precision of a label, (R,): precision at each threshold, weighted by the gain in recall."""
    if not len(p) or not np.isfinite(p).all():
        return np.full(len(weights), np.nan)
    order = np.argsort(-p, kind="stable")
    last = np.flatnonzero(np.append(np.diff(p[order]) != 0, True))  # of the clips that share a score
    # Clips along the first axis: sums over it are then of whole rows, which is what makes this quick.
    rows = np.ascontiguousarray(weights.T)[order]
    drawn = np.cumsum(rows, axis=0)[last]
    hits = np.cumsum(rows * (t[order] == 1)[:, None], axis=0)[last]
    gained = np.diff(hits, axis=0, prepend=0.0)
    total = (gained * (hits / np.maximum(drawn, 1))).sum(axis=0)
    return np.where(hits[-1] > 0, total / np.maximum(hits[-1], 1), math.nan)


def _of_classes(metric: str, predicted: np.ndarray, true: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Return the recall or F1 of each class, (R, classes), from each resample's counts of hits, answers and clips."""
    labelled = ~np.isnan(true).any(axis=1)
    scores, weights, classes = predicted[labelled], counts[:, labelled], np.arange(true.shape[1])
    answer = np.where(np.isfinite(scores).all(axis=1), scores.argmax(axis=1), -1)[:, None] == classes
    truth = true[labelled].argmax(axis=1)[:, None] == classes
    hits, answered, there = (weights @ part.astype(np.float64) for part in (answer & truth, answer, truth))
    above, below = (hits, there) if metric == "uar" else (2 * hits, answered + there)
    return np.where(below > 0, above / np.maximum(below, 1), math.nan)
