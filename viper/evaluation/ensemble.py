"""Ensembles: a weighted average of several models' predictions for the same clips."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from scipy.optimize import nnls

from viper.errors import UserError
from viper.evaluation.submission import read_submission
from viper.task import Task

N_FOLDS = 5


def read_members(paths: Sequence[Path], task: Task) -> tuple[list[str], list[str], np.ndarray]:
    """Read prediction files of the same clips, joined by id.

    Returns
    -------
    Clip ids and ids as spelled, both in the order of the first file, and the predictions (members, clips, targets).

    Raises
    ------
    UserError naming the file: see `read_submission`; a clip that only one of two files has.
    """
    tables = [read_submission(path, task) for path in paths]
    first = tables[0]
    for path, table in zip(paths[1:], tables[1:], strict=True):
        check_same_clips(list(first.index), str(paths[0]), list(table.index), str(path))
    targets = list(task.targets)
    predicted = np.stack([table.loc[first.index, targets].to_numpy(np.float64) for table in tables])
    return list(first.index), list(first[task.id_column]), predicted


def check_same_clips(clips: Sequence[str], source: str, others: Sequence[str], other_source: str) -> None:
    """Refuse two sets of clips that differ, naming the first clip that one of them lacks."""
    for ours, there, theirs, lacking in ((clips, source, set(others), other_source),
                                         (others, other_source, set(clips), source)):  # fmt: skip
        missing = [clip for clip in ours if clip not in theirs]
        if missing:
            more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
            raise UserError(f"{lacking}: no row for the clip {missing[0]!r}{more}, which {there} has")


def combine(predicted: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Return weighted averages (clips, targets) of (members, clips, targets), with weights (members, targets)."""
    return np.einsum("mct,mt->ct", predicted, weights)


def equal_weights(n_members: int, n_targets: int) -> np.ndarray:
    """Return (members, targets) of the plain average."""
    return np.full((n_members, n_targets), 1 / n_members)


def fit_weights(task: Task, predicted: np.ndarray, true: np.ndarray) -> np.ndarray:
    """Return weights (members, targets), not negative and summing to one, with the least squared error on these clips.

    Not negative and of sum one, because then the ensemble is a true average: it stays within the task's range, a
    probability stays one, and with as few parameters as members there is little to overfit. The squared error, because
    it is convex, so the answer is unique and exact, and no single member does better by it; of probabilities it is the
    Brier score. The classes of a single_label task share their weights, or the probabilities would not sum to one.

    Parameters
    ----------
    predicted : (members, clips, targets).
    true : (clips, targets), NaN where there is no label. A target without any gets equal weights.
    """
    if task.kind == "single_label":
        known = ~np.isnan(true)
        shared = _simplex_least_squares(predicted[:, known].T - true[known][:, None])
        return np.repeat(shared[:, None], true.shape[1], axis=1)
    columns = []
    for k in range(true.shape[1]):
        known = ~np.isnan(true[:, k])
        columns.append(_simplex_least_squares(predicted[:, known, k].T - true[known, k][:, None]))
    return np.stack(columns, axis=1)


def cross_validated(task: Task, predicted: np.ndarray, true: np.ndarray) -> np.ndarray:
    """Return averages (clips, targets) in which each clip's weights were fitted without it: what new clips may expect.

    Folds are every fifth clip in the order of their ids, which the caller gives; arrays as in `fit_weights`.
    """
    fold = np.arange(len(true)) % min(N_FOLDS, len(true))
    held_out = np.empty_like(true, dtype=np.float64)
    for k in range(fold.max() + 1):
        weights = fit_weights(task, predicted[:, fold != k], true[fold != k])
        held_out[fold == k] = combine(predicted[:, fold == k], weights)
    return held_out


def _simplex_least_squares(errors: np.ndarray) -> np.ndarray:
    """Return the w >= 0 with sum(w) = 1 that minimises |errors @ w|^2; errors (n, members). Equal weights where n is 0.

    Exact, by non-negative least squares: in |errors @ w|^2 + (sum(w) - 1)^2 write w = s v with sum(v) = 1. The best s
    leaves q / (1 + q) with q = |errors @ v|^2, which is least where q is. So one row of ones below the errors, and a
    division by the sum afterwards, do it.
    """
    n, n_members = errors.shape
    scale = np.sqrt(np.mean(errors**2)) if n else 0.0
    if scale == 0.0:
        return np.full(n_members, 1 / n_members)
    rows = np.concatenate([errors / (scale * np.sqrt(n)), np.ones((1, n_members))])
    solution, _ = nnls(rows, np.concatenate([np.zeros(n), [1.0]]))
    return solution / solution.sum()
