"""How far a metric would move with other clips of the same kind: percentile intervals of the bootstrap.

Efron and Tibshirani (1993), An Introduction to the Bootstrap, chapters 8 and 13. Clips are drawn with replacement, or
subjects with all their clips: clips of one person are alike, and counting them as independent makes intervals too
narrow. Of a preference task its orders are drawn.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from viper.evaluation.metrics import METRICS, Score, Scores, evaluate
from viper.evaluation.resampled import contributions, resampled_targets, resampled_together
from viper.logs import without_warnings
from viper.report.content import Interval
from viper.task import Task

CONFIDENCE = 0.95
# A metric that is undefined on more of the resamples than this has no interval: what is left would be a choice of them.
MOST_UNDEFINED = 0.5
# Of two subjects there are three different resamples: their spread says nothing of other subjects.
LEAST_UNITS = 5


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
        """Draws the resamples; the same arguments draw the same ones.

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
        """The same resamples, of some of the rows only: what is compared between parts is paired then."""
        return Bootstrap(self.counts[:, rows], self.unit[rows])

    def measure(self, task: Task, metric: str, predicted: np.ndarray, true: np.ndarray) -> Measured:
        """One metric with its intervals; arrays as of `viper.evaluation.metrics.evaluate`."""
        return self.measure_all(task, predicted, true, [metric])[metric]

    def measure_all(
        self, task: Task, predicted: np.ndarray, true: np.ndarray, metrics: Sequence[str] = ()
    ) -> dict[str, Measured]:
        """Every metric that `evaluate` computes for the task (or those named), with its intervals."""
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
    """A value with the middle 95 % of what it was on the resamples (R,), those left out on which it was undefined."""
    defined = samples[np.isfinite(samples)]
    too_few = len(defined) < max(1, (1 - MOST_UNDEFINED) * len(samples))
    if n_units < LEAST_UNITS or not math.isfinite(score.value) or too_few:
        return Interval(score.value, math.nan, math.nan, score.n, n_units)
    low, high = np.quantile(defined, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return Interval(score.value, float(low), float(high), score.n, n_units)


def _rows(task: Task, metric: str, predicted: np.ndarray, true: np.ndarray) -> np.ndarray:
    """(n,) bool, the rows that a metric over all targets is computed on."""
    if task.kind == "preference":
        return ~np.isnan(contributions(metric, predicted, true))
    known = ~np.isnan(true)
    return known.any(axis=1) if METRICS[metric].together is None else known.all(axis=1)


def _rows_of_target(task: Task, true: np.ndarray) -> np.ndarray:
    """(n,) bool, the rows that a target's metric is computed on: of a class, its own clips."""
    return true == 1 if task.kind == "single_label" else ~np.isnan(true)
