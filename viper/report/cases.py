"""The clips a model does best and worst on, in detail."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from viper.fusion.attention import attention_to_tokens, has_attention
from viper.fusion.perceiver import PerceiverFusion
from viper.inference.stored import on_device
from viper.manifest import all_pairs
from viper.report.content import Case, ModalityAttention, Thumbnail
from viper.task import Task
from viper.training.data import FusionData

ERROR_NAMES = {
    "regression": "mean absolute error",
    "single_label": "1 - probability of the true class",
    "multi_label": "mean absolute error of the probabilities",
    "preference": "share of its pairs in the wrong order",
}
"""By kind of task, what clips are ranked by."""


@dataclass(frozen=True)
class Predictions:
    """Predictions for a split's clips (n), in the order of its data.

    Attributes
    ----------
    predicted : (n, targets).
    true : labels or orders, as of `viper.evaluation.metrics.evaluate`.
    without : modality -> (n, targets) predicted without it.
    """

    task: Task
    clips: Sequence[str]
    predicted: np.ndarray
    true: np.ndarray
    without: Mapping[str, np.ndarray]


def clip_errors(task: Task, predicted: np.ndarray, true: np.ndarray) -> np.ndarray:
    """Return (n,) the error of each clip, see `ERROR_NAMES`; a tie of utilities is a pair in the wrong order."""
    if task.kind == "preference":
        return _wrong_pairs(predicted[:, 0], true)[0]
    if task.kind == "single_label":
        return np.where(np.isnan(true).any(axis=1), np.nan, 1 - (predicted * true).sum(axis=1))
    known = ~np.isnan(true)
    distances = np.where(known, np.abs(predicted - true), 0.0).sum(axis=1)
    return np.where(known.any(axis=1), distances / np.maximum(known.sum(axis=1), 1), np.nan)


def best_and_worst(task: Task, predicted: np.ndarray, true: np.ndarray, n: int) -> tuple[list[int], list[int]]:
    """Return the rows with the smallest and with the largest error, most extreme first, at most `n` of each.

    No clip is in both: of few clips each list has half. Clips of a preference task whose pairs are all right, or all
    wrong, are told apart by how far.
    """
    errors = clip_errors(task, predicted, true)
    margins = -_wrong_pairs(predicted[:, 0], true)[1] if task.kind == "preference" else errors
    order = [int(row) for row in np.lexsort((margins, errors)) if not np.isnan(errors[row])]
    n = max(1, min(n, len(order) // 2))
    return order[:n], order[::-1][:n]


def describe(
    rows: Sequence[int],
    predictions: Predictions,
    attention: Mapping[int, dict[str, ModalityAttention]],
    pictures: Mapping[str, list[Thumbnail]],
) -> list[Case]:
    """Return the cases of these rows."""
    p, targets = predictions, predictions.task.targets
    errors = clip_errors(p.task, p.predicted, p.true)
    has_labels = p.task.kind != "preference"

    def named(values: np.ndarray) -> dict[str, float]:
        return dict(zip(targets, values.tolist(), strict=True))

    return [
        Case(
            clip=p.clips[row],
            error=float(errors[row]),
            true=named(p.true[row] if has_labels else np.full(len(targets), np.nan)),
            predicted=named(p.predicted[row]),
            hidden={name: named(values[row]) for name, values in p.without.items()},
            attention=attention.get(row, {}),
            thumbnails=pictures.get(p.clips[row], []),
        )
        for row in rows
    ]


def attention_of(
    model: PerceiverFusion, data: FusionData, rows: Sequence[int], batch_size: int, device: torch.device
) -> dict[int, dict[str, ModalityAttention]]:
    """Return row -> modality -> the attention of that clip's answers; empty where the fusion has no attention."""
    if not has_attention(model):
        return {}
    found = {}
    model.to(device)  # type: ignore[arg-type]
    for first in range(0, len(rows), batch_size):
        chosen = rows[first : first + batch_size]
        batch = data.collate([data[row] for row in chosen])
        found_weights = attention_to_tokens(model, **on_device(batch, device))
        weights = {name: x.float().cpu().numpy() for name, x in found_weights.items()}
        for k, row in enumerate(chosen):
            masks = {name: batch["mask"][name][k].numpy() for name in weights}
            found[row] = {
                name: ModalityAttention(batch["time"][name][k].numpy()[mask], weights[name][k][:, mask])
                for name, mask in masks.items()
                if mask.any()
            }
    return found


def _wrong_pairs(utilities: np.ndarray, orders: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return (n,) the share of each clip's pairs in the wrong order, and the mean margin of its pairs."""
    less, more = all_pairs(orders)
    margin = utilities[more] - utilities[less]
    clips, n = np.concatenate([less, more]), len(utilities)
    pairs = np.bincount(clips, minlength=n)
    wrong = np.bincount(clips, np.tile(~(margin > 0), 2), minlength=n)
    margins = np.bincount(clips, np.tile(margin, 2), minlength=n)
    with np.errstate(invalid="ignore", divide="ignore"):
        return wrong / pairs, margins / pairs
