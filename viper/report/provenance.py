"""Where a run came from: what its folder and its stores have on record."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from viper.engine.failures import read_failures
from viper.errors import UserError
from viper.files import read_csv_rows
from viper.report.content import ModalityRecord, Provenance, TrainingCurves
from viper.report.source import RunSource
from viper.store import FeatureStore
from viper.training.run_folder import METRICS_FILE

NAMED = 20  # clips of a list; the counts say how many there are
_NOT_METRICS = ("epoch", "training_loss", "n_clips")


def provenance(source: RunSource, clips: Sequence[str]) -> Provenance:
    """What is on record of a run, and of the features of these clips."""
    card = source.card
    commands = {f"{name} features": store.info.command for name, store in source.stores.items()}
    commands["train_perceiver"] = card.get("command", "")
    return Provenance(
        checkpoint=str(source.checkpoint),
        seed=card.get("options", {}).get("seed"),
        git_revision=card.get("git_revision"),
        options=dict(card.get("options", {})),
        versions=dict(card.get("versions", {})),
        modalities={name: _record(store, clips) for name, store in source.stores.items()},
        commands={stage: command for stage, command in commands.items() if command},
    )


def _record(store: FeatureStore, clips: Sequence[str]) -> ModalityRecord:
    missing = [clip for clip in clips if clip not in store]
    among = set(clips)
    try:
        failures = {row.clip: f"{row.stage}: {row.message}" for row in read_failures(store.folder) if row.clip in among}
    except UserError as error:
        failures = {"failures.csv": str(error)}
    encoder = {"folder": str(store.folder), **dataclasses.asdict(store.info)}
    return ModalityRecord(encoder, len(missing), missing[:NAMED], dict(list(failures.items())[:NAMED]))


def training_curves(run: Path, best_epoch: int | None) -> TrainingCurves | None:
    """metrics.csv of a run; None without one, and of a single epoch, as a fusion that is fitted by a solver has."""
    path = run / METRICS_FILE
    if not path.is_file():
        return None
    (_, header), *rows = read_csv_rows(path)
    columns = {
        name: [_number(row[k]) if k < len(row) else math.nan for _, row in rows] for k, name in enumerate(header)
    }
    if len(rows) < 2 or not all(math.isfinite(epoch) for epoch in columns.get("epoch", [math.nan])):
        return None
    metrics = {name: values for name, values in columns.items() if name not in _NOT_METRICS}
    losses = columns.get("training_loss", [math.nan] * len(rows))
    return TrainingCurves([int(epoch) for epoch in columns["epoch"]], losses, metrics, best_epoch)


def settings_that_differ(one: RunSource, other: RunSource) -> dict[str, tuple[Any, Any]]:
    """Option -> both runs' values, where they are not the same."""
    names = [*one.settings, *(name for name in other.settings if name not in one.settings)]
    pairs = {name: (one.settings.get(name), other.settings.get(name)) for name in names}
    return {name: pair for name, pair in pairs.items() if pair[0] != pair[1]}


def _number(cell: str) -> float:
    try:
        return float(cell)
    except ValueError:
        return math.nan
