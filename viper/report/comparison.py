"""Another run on the same clips: paired differences of the headline metric."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from viper.errors import UserError
from viper.evaluation.bootstrap import Bootstrap, interval
from viper.evaluation.measures import Score
from viper.inference.run import OpenedRun
from viper.inference.stored import predict
from viper.logs import without_warnings
from viper.report.content import Comparison
from viper.report.provenance import settings_that_differ
from viper.training.data import FusionData


def compared(
    source: OpenedRun,
    other: OpenedRun,
    split: str,
    data: FusionData,
    predicted: np.ndarray,
    bootstrap: Bootstrap,
    batch_size: int,
    device: torch.device,
) -> tuple[Comparison, int]:
    """Return how another run does on the clips that both have labels for, or the orders that both know.

    Both are scored by this run's labels and on the same resamples, so that what makes clips hard for both cancels.

    Parameters
    ----------
    data, predicted, bootstrap : of the run that is reported on, its clips of the split.

    Returns
    -------
    The comparison, and the number of clips (orders) it is made on.

    Raises
    ------
    UserError : the other run is of another task, or there is no such clip.
    """
    task, metric = source.task, source.task.metrics[0]
    if (other.task.kind, other.task.targets) != (task.kind, task.targets):
        raise UserError(f"--compare {other.name}: is of the task {other.task.name}, not of {task.name}")
    theirs = other.data(split)
    with without_warnings():
        their_predictions = predict(other.model, theirs, batch_size, device).astype(np.float64)
    known = {clip: row for row, clip in enumerate(theirs.clips)}
    rows = _common_orders(data, theirs) if task.kind == "preference" else _common_clips(data, theirs)
    if not len(rows):
        raise UserError(f"--compare {other.name}: has labels of none of the clips of {split} that {source.name} has")
    aligned = np.full_like(predicted, np.nan)
    for row, clip in enumerate(data.clips):
        if clip in known:
            aligned[row] = their_predictions[known[clip]]
    part, true = bootstrap.of(rows), data.truth[rows]
    choose = slice(None) if task.kind == "preference" else rows
    own, their = (part.measure(task, metric, values[choose], true) for values in (predicted, aligned))
    difference = interval(
        Score(their.together.value - own.together.value, their.together.n), their.samples - own.samples,
        their.together.n_units,
    )  # fmt: skip
    return Comparison(other.name, their.together, difference, settings_that_differ(source, other)), len(rows)


def _common_clips(data: FusionData, theirs: FusionData) -> np.ndarray:
    """Return rows of `data` whose clips the other run has labels for too."""
    known = set(theirs.clips)
    return np.array([row for row, clip in enumerate(data.clips) if clip in known], np.int64)


def _common_orders(data: FusionData, theirs: FusionData) -> np.ndarray:
    """Return rows of the orders that both runs have."""
    known = set(_orders(theirs))
    return np.array([row for row, order in enumerate(_orders(data)) if order in known], np.int64)


def _orders(data: FusionData) -> Sequence[tuple[str, ...]]:
    return [tuple(data.clips[row] for row in order if row >= 0) for order in data.truth]
