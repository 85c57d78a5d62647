"""Where a run came from: the records of its folder and stores, and the pictures behind its features."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from viper.engine.failures import FAILURES_FILE, read_failures
from viper.errors import ClipError, UserError
from viper.files import read_csv_rows
from viper.inference.run import OpenedRun
from viper.media.pictures import FrameClip, list_frame_clips, read_image, shrunk
from viper.report.content import ModalityRecord, Provenance, Thumbnail, TrainingCurves
from viper.store import FeatureStore
from viper.training.run_folder import METRICS_FILE

NAMED = 20  # clips of a list; the counts say how many there are
_NOT_METRICS = ("epoch", "training_loss", "n_clips")


def provenance(source: OpenedRun, clips: Sequence[str]) -> Provenance:
    """Return what is on record of a run, and of the features of these clips."""
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
        failures = {FAILURES_FILE: str(error)}
    encoder = {"folder": str(store.folder), **dataclasses.asdict(store.info)}
    return ModalityRecord(encoder, len(missing), missing[:NAMED], dict(list(failures.items())[:NAMED]))


def training_curves(run: Path, best_epoch: int | None) -> TrainingCurves | None:
    """Return metrics.csv of a run; None without one, or with one epoch, as a fitted fusion has."""
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


def settings_that_differ(one: OpenedRun, other: OpenedRun) -> dict[str, tuple[Any, Any]]:
    """Return option -> both runs' values, where they are not the same."""
    names = [*one.settings, *(name for name in other.settings if name not in one.settings)]
    pairs = {name: (one.settings.get(name), other.settings.get(name)) for name in names}
    return {name: pair for name, pair in pairs.items() if pair[0] != pair[1]}


def _number(cell: str) -> float:
    try:
        return float(cell)
    except ValueError:
        return math.nan


N_PICTURES = 5
HEIGHT = 112  # pixels, as a card shows them
PICTURE_SOURCES = ("faces", "frames")  # of EncoderInfo.source, and what the folders are usually called


def find_pictures(source: OpenedRun, clips: Sequence[str]) -> Path | None:
    """Return the folder of frames or face crops: by encoder.json, or beside the features or the run.

    One that has none of the clips is not the one.
    """
    stores = [store for store in source.stores.values() if store.info.source in PICTURE_SOURCES]
    recorded = [store.folder / store.info.input_folder for store in stores if store.info.input_folder]
    places = [store.folder.resolve() for store in source.stores.values()] + [source.folder.resolve()]
    beside = [parent / name for place in places for parent in list(place.parents)[:2] for name in PICTURE_SOURCES]
    for folder in dict.fromkeys(Path(os.path.normpath(path)) for path in (*recorded, *beside)):
        with contextlib.suppress(OSError):  # of a record whose name no folder can have
            if any((folder / name).is_dir() for clip in clips for name in (clip, f"[{clip}]")):
                return folder
    return None


def thumbnails(folder: Path, clips: Sequence[str]) -> dict[str, list[Thumbnail]]:
    """Return clip -> its pictures in order of time, for clips that have some and whose files are sound.

    Raises UserError for a folder that holds no clips' pictures.
    """
    there = {clip.id: clip for clip in list_frame_clips(folder)}
    return {clip: _pictures(there[clip]) for clip in clips if clip in there}


def _pictures(clip: FrameClip) -> list[Thumbnail]:
    """Return pictures evenly spread over the clip; of face crops only those with a face, if any."""
    try:
        entries, paths = clip.record["frames"], clip.paths()
        usable = [k for k, entry in enumerate(entries) if entry.get("found", True)] or list(range(len(entries)))
        places = np.linspace(0, len(usable) - 1, N_PICTURES).round().astype(int)
        rows = [usable[k] for k in dict.fromkeys(places.tolist())]
        return [_thumbnail(float(entries[k]["time"]), read_image(paths[k])) for k in rows]
    except (ClipError, UserError, OSError):
        return []


def _thumbnail(time: float, image: np.ndarray) -> Thumbnail:
    return Thumbnail(time, shrunk(image, HEIGHT / len(image)))
