"""VCE and V2V (Mazeika et al. 2022): JSON files of 27 intensities, and of which videos are preferred."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from viper.datasets.rows import Clip, Labels, as_mapping, identified, load_json, number_cell, split_cell
from viper.errors import UserError
from viper.manifest import SPLITS, Order
from viper.task import Task

METADATA_FILE = "metadata.json"
LISTS_FILE = "listwise_labels.json"
LEFT_OUT = "clips of which no comparison is left"
CROSSING = "comparisons of clips that are in different splits"


def read_vce(folder: Path, task: Task) -> Labels:
    """Clips of `train_labels.json` and `test_labels.json`: id -> {"emotions": {name: number}, "file", "topK"}.

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
            raise UserError(f"{where}: {name!r} is none of the emotions {', '.join(task.targets)}")
    missing = [target for target in task.targets if target not in emotions]
    if missing:
        raise UserError(f"{where}: the emotion {missing[0]!r} is missing")
    if not isinstance(entry["file"], str):
        raise UserError(f"{where}: file is {entry['file']!r:.60}, not a path")
    spelled, media = identified(entry["file"])
    cells = {target: number_cell(emotions[target], target, where, task) for target in task.targets}
    return Clip(spelled, where, cells, media=media)


def _top_agrees(entry: dict[str, Any], where: str, task: Task) -> bool:
    """Whether topK names the highest intensities in falling order; a name that is no emotion is a UserError."""
    top = entry.get("topK", [])
    if not isinstance(top, list) or any(name not in task.targets for name in top):
        raise UserError(f"{where}: topK {top!r} must be a list of emotions")
    values = {name: float(value) for name, value in entry["emotions"].items()}  # which may be spelled as text
    return [values[name] for name in top] == sorted(values.values(), reverse=True)[: len(top)]


def _seconds(path: Path) -> dict[str, str] | None:
    """Clip id -> its duration, or None where there is no such file."""
    if not path.is_file():
        return None
    seconds = {}
    for key, entry in as_mapping(load_json(path), str(path), "a mapping from ids").items():
        fields = as_mapping(entry, f"{path}, key {key!r}", '{"duration": ..., "file": ...}')
        spelled, _ = identified(str(fields.get("file", key)))
        seconds[spelled] = str(fields.get("duration", ""))
    return seconds


def read_v2v(folder: Path, task: Task, lists_split: str = "Test") -> Labels:
    """Pairs of `train_labels.json` and `test_labels.json`, and lists of `listwise_labels.json` (may be absent).

    Each is {"comparisons": [[least preferred, ..., most preferred], ...]}, or the bare list. A clip is in the split of
    the file that names it; one that several files name is in Test before Val before Train, and comparisons that then
    cross splits are dropped. The same comparison again counts again, and two that disagree are both kept.
    """
    labels = Labels()
    split_of: dict[str, tuple[str, str]] = {}
    orders: list[Order] = []
    lists_split = split_cell(lists_split, "--lists_split")
    files = [("train_labels.json", "Train"), ("val_labels.json", "Val"), ("test_labels.json", "Test")]
    for name, split in [*files, (LISTS_FILE, lists_split)]:
        path = folder / name
        if name in ("val_labels.json", LISTS_FILE) and not path.is_file():
            continue
        for where, order in _comparisons(path):
            orders.append(order)
            for identifier in order:
                known, first = split_of.get(identifier, (split, where))
                split_of[identifier] = (max(known, split, key=SPLITS.index), first)
    labels.orders = orders
    repeated = len(orders) - len(set(orders))
    if repeated:
        labels.notes.append(
            f"{repeated} comparisons repeat an earlier one; each counts, as in the dataset's own scores"
        )
    labels.clips = [Clip(identifier, where, split=split) for identifier, (split, where) in split_of.items()]
    drop_crossing(labels)
    return labels


def _comparisons(path: Path) -> list[tuple[str, Order]]:
    """(where it stands, clip ids) of each comparison."""
    content = load_json(path)
    if isinstance(content, dict) and len(content) == 1:
        content = next(iter(content.values()))
    if not isinstance(content, list):
        raise UserError(f'{path}: must be {{"comparisons": [[less, more], ...]}}, or a list of such lists')
    comparisons = []
    for number, entry in enumerate(content, 1):
        where = f"{path}, comparison {number}"
        if not isinstance(entry, list) or len(entry) < 2 or not all(_is_name(name) for name in entry):
            raise UserError(f"{where}: {entry!r:.60} is no list of two or more ids")
        order = tuple(Clip(identified(str(name))[0], where).id for name in entry)
        if len(set(order)) < len(order):
            raise UserError(f"{where}: {entry!r:.60} names a clip twice")
        comparisons.append((where, order))
    return comparisons


def _is_name(value: Any) -> bool:
    return isinstance(value, str | int) and not isinstance(value, bool)


def components(orders: Iterable[Order]) -> dict[str, str]:
    """Clip id -> the name (its first id) of the set of clips it is joined with by comparisons, directly or not."""
    # Not above: scipy's clustering takes a while to import, and --help should not.
    from scipy.cluster.hierarchy import DisjointSet

    joined = DisjointSet()
    for order in orders:
        for identifier in order:
            joined.add(identifier)
            joined.merge(order[0], identifier)
    return {identifier: min(together) for together in joined.subsets() for identifier in together}


def drop_crossing(labels: Labels) -> None:
    """Leaves out comparisons of clips that are in different splits, and clips of which none is left."""
    split_of = {clip.id: clip.split for clip in labels.clips}
    drop_orders(labels, CROSSING, lambda order: len({split_of[identifier] for identifier in order}) > 1)
    keep_compared(labels)


def drop_orders(labels: Labels, reason: str, is_out: Callable[[Order], bool]) -> bool:
    """Leaves out those comparisons; answers whether any are left."""
    kept = []
    for order in labels.orders:
        if is_out(order):
            labels.drop(reason, " < ".join(order))
        else:
            kept.append(order)
    labels.orders = kept
    return bool(kept)


def keep_compared(labels: Labels) -> None:
    """Leaves out the clips that no comparison names (any more)."""
    compared = {identifier for order in labels.orders for identifier in order}
    for clip in labels.clips:
        if clip.id not in compared:
            labels.drop(LEFT_OUT, clip.id)
    labels.clips = [clip for clip in labels.clips if clip.id in compared]
