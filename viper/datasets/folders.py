"""A folder per class: <class>/<clip>.mp4, perhaps below train/, val/ and test/; and EmoSet's lists of such files."""

from __future__ import annotations

from pathlib import Path

from viper.datasets.labels import (
    MEDIA_SUFFIXES,
    Clip,
    Format,
    Labels,
    ReadOptions,
    class_cell,
    identified,
    is_class,
    load_json,
    media_below,
    name_by_class,
    split_cell,
)
from viper.errors import UserError
from viper.files import visible_entries
from viper.manifest import canonical_split
from viper.task import Task

LISTS = ("train.json", "val.json", "test.json")


def read_folders(folder: Path, task: Task, _: ReadOptions) -> Labels:
    """Return the clips of a folder per class, at any depth below it; a class's folder may be written in any case.

    A folder with media that is no class is a UserError. Files of one name in two classes become <class>_<name>.
    """
    assert task.label_column is not None
    labels = Labels()
    by_split = _split_folders(folder)
    for split, parent in by_split or [(None, folder)]:
        for entry in visible_entries(parent):
            files = media_below(entry) if entry.is_dir() else []
            if files and not is_class(entry.name, task):
                raise UserError(
                    f"{entry}: holds {len(files)} media files, but {entry.name!r} is not one of the classes "
                    f"{', '.join(task.targets)}"
                )
            if entry.is_file() and entry.suffix.lower() in MEDIA_SUFFIXES:
                labels.drop("media files outside the classes' folders", str(entry.relative_to(folder)))
            for path in files:
                relative = path.relative_to(folder).as_posix()
                name = class_cell(entry.name, str(entry), task)
                labels.clips.append(Clip(path.stem, str(path), {task.label_column: name}, split, media=relative))
    _finish(labels, task)
    return labels


def read_emoset(folder: Path, task: Task, _: ReadOptions) -> Labels:
    """Return the clips of EmoSet's `train.json`, `val.json`, `test.json`.

    They are lists of [class, path of the picture, annotation].
    """
    assert task.label_column is not None
    labels = Labels()
    for name in LISTS:
        path = folder / name
        content = load_json(path)
        if not isinstance(content, list):
            raise UserError(f"{path}: must be a list of [class, path of the picture, ...]")
        for number, entry in enumerate(content, 1):
            where = f"{path}, entry {number}"
            if not isinstance(entry, list) or len(entry) < 2 or not all(isinstance(part, str) for part in entry[:2]):
                raise UserError(f"{where}: {entry!r:.60} is no [class, path of the picture, ...]")
            spelled, media = identified(entry[1])
            cells = {task.label_column: class_cell(entry[0], where, task)}
            labels.clips.append(Clip(spelled, where, cells, split_cell(path.stem, where), media=media))
    _finish(labels, task)
    return labels


def _finish(labels: Labels, task: Task) -> None:
    assert task.label_column is not None
    name_by_class(labels, task.label_column)
    there = {clip.labels[task.label_column] for clip in labels.clips}
    lacking = [target for target in task.targets if target not in there]
    if lacking and there:
        labels.notes.append(f"no clip is of the class {', '.join(lacking)}")


def _split_folders(folder: Path) -> list[tuple[str | None, Path]]:
    """Return (split, folder) where the folders with media are named after splits; empty where they are not."""
    folders = [entry for entry in visible_entries(folder) if entry.is_dir()]
    found: list[tuple[str | None, Path]] = []
    for entry in folders:
        try:
            found.append((canonical_split(entry.name), entry))
        except UserError:
            if media_below(entry):
                return []
    return found


def _is_folder(source: Path, task: Task) -> bool:
    return task.kind == "single_label" and source.is_dir()


def _is_emoset(source: Path, task: Task) -> bool:
    return _is_folder(source, task) and all((source / name).is_file() for name in LISTS)


EMOSET = Format("emoset", read_emoset, _is_emoset, "single_label", is_folder=True)
FOLDERS = Format("folders", read_folders, _is_folder, "single_label", is_folder=True, takes_every_file=True)
