"""Sentences of a report: its summary, and the notes a reader must know."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from viper.evaluation.bootstrap import LEAST_UNITS, Interval
from viper.evaluation.metrics import METRICS
from viper.fusion.attention import has_attention
from viper.inference.run import OpenedRun
from viper.report.words import heading
from viper.training.data import FusionData

FEW_UNITS = 30  # clips or subjects; with fewer, a percentile interval is too narrow
KINDS = {
    "regression": "a number for each of", "single_label": "one class a clip out of",
    "multi_label": "whether a clip has each of", "preference": "an order of clips, by",
}  # fmt: skip


def summary_of(source: OpenedRun, split: str, n_clips: int, headline: Interval, unit: str) -> str:
    """Return the paragraph on the task, the data and the options."""
    task, config = source.task, source.model.config
    column = source.manifest.table[task.split_column]
    splits = ", ".join(f"{int((column == name).sum()):,} in {name}" for name in ("Train", "Val", "Test")
                       if (column == name).any())  # fmt: skip
    encoders = ", ".join(f"{name} ({_encoder(store.info.encoder, store.info.model)})"
                         for name, store in source.stores.items())  # fmt: skip
    shown = ", ".join(task.targets) if len(task.targets) <= 10 else f"{', '.join(task.targets[:10])} ..."
    n_targets = f"{len(task.targets)} target{'s' * (len(task.targets) != 1)}"
    sentences = [
        f"Task {task.name}: {KINDS[task.kind]} {n_targets} ({shown}).",
        f"The manifest has {len(column):,} clips, {splits}; this report is on the {n_clips:,} of {split} that have "
        f"{'a place in an order' if task.kind == 'preference' else 'labels'}.",
        f"Features: {encoders}.",
        f"{_model(source)}.",
        f"{heading(METRICS[task.metrics[0]].title)} on {split}: {interval_text(headline)}, over {headline.n_units:,} "
        f"{unit}.",
    ]
    if config.linear_share:
        sentences.insert(4, f"A linear model of pooled features gives {config.linear_share:.0%} of the answer.")
    return " ".join(sentences)


def interval_text(interval: Interval) -> str:
    """Return a value with its interval."""
    if not math.isfinite(interval.value):
        return "undefined"
    if not math.isfinite(interval.low):
        return f"{interval.value:.3f} (no interval)"
    return f"{interval.value:.3f} (95% interval {interval.low:.3f} to {interval.high:.3f})"


def notes_on(source: OpenedRun, split: str, data: FusionData, headline: Interval, unit: str) -> list[str]:
    """Return what a reader must know, first what changes the meaning of the numbers."""
    config, notes = source.model.config, []
    if split == "Val":
        notes.append(
            "The epoch was selected on this split, so these scores are optimistic. Report a held-out test split."
        )
    elif split == "Train":
        notes.append(
            "The model was trained on these clips: the scores say how well it fits them, not how well it generalizes."
        )
    if headline.n_units < LEAST_UNITS:
        notes.append(f"With only {headline.n_units} {unit}, no intervals are given.")
    elif headline.n_units < FEW_UNITS:
        notes.append(f"With only {headline.n_units} {unit}, the intervals are likely too narrow.")
    if headline.low == headline.high:
        notes.append("All resamples have the same score; other clips may still score differently.")
    if config.group_column:
        notes.append(f"Features are standardized within {config.group_column}: no label is used, but a prediction "
                     "depends on the other clips of its group.")  # fmt: skip
    notes += _on_labels(source, split, data)
    notes += _on_features(split, data)
    if config.linear_share and has_attention(source.model):
        notes.append(f"A linear model gives {config.linear_share:.0%} of each answer; attention does not explain that "
                     "part.")  # fmt: skip
    if not has_attention(source.model):
        reason = "mixes the modalities in every token" if config.fusion == "channels" else "has no attention"
        notes.append(f"{config.fusion} fusion {reason}: no attention is shown.")
    return notes


def _on_labels(source: OpenedRun, split: str, data: FusionData) -> list[str]:
    rows = source.manifest.split(split)
    notes = []
    if unlabelled := len(rows.clips) - len(data):
        what = "are in no order" if source.task.kind == "preference" else "have no label"
        notes.append(f"{unlabelled:,} of the {len(rows.clips):,} clips of {split} {what} and are left out.")
    lacking = 0.0 if data.orders is not None else float(np.isnan(data.labels).mean())
    if lacking:
        notes.append(f"{lacking:.1%} of the labels of these clips are missing; each target is scored on those it has.")
    return notes


def _on_features(split: str, data: FusionData) -> list[str]:
    notes = []
    for name, store in data.stores.items():
        if missing := sum(clip not in store for clip in data.clips):
            notes.append(f"{missing:,} of the {len(data):,} clips of {split} have no {name} features.")
    if without := data.without_any():
        notes.append(f"{_some(without)} no features at all; all such clips get the same answer.")
    return notes


def _some(clips: Sequence[str]) -> str:
    return f"The clip {clips[0]} has" if len(clips) == 1 else f"{len(clips):,} clips ({clips[0]} ...) have"


def _model(source: OpenedRun) -> str:
    config, options = source.model.config, source.card.get("options", {})
    n_parameters = source.model.num_parameters()
    size = f"{n_parameters / 1e6:.1f} million" if n_parameters >= 1e6 else f"{n_parameters:,}"
    parts = [f"Model: {config.fusion} fusion, preset {config.preset}, {size} parameters"]
    if config.fusion == "linear":
        return f"{parts[0]}, fitted by a solver"
    if options.get("n_epochs"):
        parts.append(f"trained for up to {options['n_epochs']} epochs with seed {options.get('seed')}")
    if source.epoch is not None:
        parts.append(f"the checkpoint is that of epoch {source.epoch}")
    return "; ".join(parts)


def _encoder(name: str, model: str) -> str:
    return f"{name}, {model}" if model else name
