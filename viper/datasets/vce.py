"""VCE (Mazeika et al. 2022): JSON files of 27 emotions' intensities."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from viper.datasets.labels import (
    Clip,
    Format,
    Labels,
    ReadOptions,
    as_mapping,
    identified,
    is_card_folder,
    load_json,
    number_cell,
)
from viper.errors import UserError
from viper.task import Task

METADATA_FILE = "metadata.json"


def read_vce(folder: Path, task: Task, _: ReadOptions) -> Labels:
    """Return the clips of `train_labels.json` and `test_labels.json`.

    They map ids to {"emotions": {name: number}, "file", "topK"}.

    A clip's id is its file's name. `topK` is checked but not used: it follows from the intensities. Seconds come from
    `metadata.json`, where it is there.
    """
    labels, seconds = Labels(), _seconds(folder / METADATA_FILE)
    contradicting = 0
    for name, split in (("train", "Train"), ("val", "Val"), ("test", "Test")):
        path = folder / f"{name}_labels.json"
        if name == "val" and not path.is_file():
            continue
        for key, entry in as_mapping(load_json(path), str(path), "a mapping from ids").items():
            where = f"{path}, key {key!r}"
            clip = _vce_clip(where, entry, task)
            clip.split = split
            if seconds is not None:
                clip.extra["duration"] = seconds.get(clip.id, "")
            contradicting += not _top_agrees(entry, where, task)
            labels.clips.append(clip)
    if contradicting:
        labels.notes.append(
            f"{contradicting} clips' topK are not their highest intensities, in order; topK is not used"
        )
    unknown = [clip.id for clip in labels.clips if clip.extra.get("duration") == ""]
    if unknown:
        labels.notes.append(f"{METADATA_FILE} lacks {len(unknown)} clips, {unknown[0]} the first")
    return labels


def _vce_clip(where: str, entry: Any, task: Task) -> Clip:
    for field in ("emotions", "file"):
        if field not in as_mapping(entry, where, '{"emotions": {...}, "file": ...}'):
            raise UserError(f"{where}: the key {field!r} is missing")
    emotions = as_mapping(entry["emotions"], f"{where}, emotions", "{emotion: number}")
    for name in emotions:
        if name not in task.targets:
            raise UserError(f"{where}: {name!r} is not one of the emotions {', '.join(task.targets)}")
    missing = [target for target in task.targets if target not in emotions]
    if missing:
        raise UserError(f"{where}: the emotion {missing[0]!r} is missing")
    if not isinstance(entry["file"], str):
        raise UserError(f"{where}: file is {entry['file']!r:.60}, not a path")
    spelled, media = identified(entry["file"])
    cells = {target: number_cell(emotions[target], target, where, task) for target in task.targets}
    return Clip(spelled, where, cells, media=media)


def _top_agrees(entry: dict[str, Any], where: str, task: Task) -> bool:
    """Return whether topK names the highest intensities in falling order; a name that is no emotion is a UserError."""
    top = entry.get("topK", [])
    if not isinstance(top, list) or any(name not in task.targets for name in top):
        raise UserError(f"{where}: topK {top!r} must be a list of emotions")
    values = {name: float(value) for name, value in entry["emotions"].items()}  # which may be spelled as text
    return [values[name] for name in top] == sorted(values.values(), reverse=True)[: len(top)]


def _seconds(path: Path) -> dict[str, str] | None:
    """Return clip id -> its duration, or None where there is no such file."""
    if not path.is_file():
        return None
    seconds = {}
    for key, entry in as_mapping(load_json(path), str(path), "a mapping from ids").items():
        fields = as_mapping(entry, f"{path}, key {key!r}", '{"duration": ..., "file": ...}')
        spelled, _ = identified(str(fields.get("file", key)))
        seconds[spelled] = str(fields.get("duration", ""))
    return seconds


VCE = Format("vce", read_vce, is_card_folder("vce"), "regression", is_folder=True)
