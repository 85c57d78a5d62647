"""Label files as datasets' authors ship them: which format is whose, and one way to read them all."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from viper.datasets.cognitive import read_v2v, read_vce
from viper.datasets.folders import LISTS, read_emoset, read_folders
from viper.datasets.mosi import read_mosi, read_mosi_pickle
from viper.datasets.names import one_a_performance, read_emodb, read_ravdess
from viper.datasets.rows import Clip, Labels
from viper.datasets.tables import Columns, Table, read_table
from viper.datasets.words import read_classes, read_words
from viper.errors import UserError
from viper.media.imports.mmsa import MMSA_SUFFIXES
from viper.task import Task

__all__ = ["Clip", "Format", "Labels", "ReadOptions", "choose_format", "read_labels"]

Format = Literal["auto", "hume", "vce", "v2v", "folders", "emoset", "ravdess", "emodb", "words", "mosi", "table"]
# The format of a card's own files; other cards are read by what the source is.
_OWN = {
    "hume_reaction": "hume", "vce": "vce", "v2v": "v2v", "ravdess": "ravdess", "emodb": "emodb", "mosi": "mosi",
    "moviegraphs_top10": "words", "moviegraphs_top25": "words", "emotic": "words",
}  # fmt: skip
_KIND_OF_TASK = {
    "v2v": "preference", "folders": "single_label", "emoset": "single_label", "ravdess": "single_label",
    "emodb": "single_label", "words": "multi_label", "mosi": "regression", "vce": "regression",
}  # fmt: skip


@dataclass(frozen=True)
class ReadOptions:
    """How label files are read.

    Attributes
    ----------
    format : auto: the card's own, or what the source looks like.
    columns : what a CSV calls its columns.
    classes : a JSON {class: [words]}, of multi-label tasks.
    lists_split : the split of V2V's lists.
    keep : column -> the only value of it that is kept.
    clips_folder : where links to the clips go, which must not be where files are taken for clips.
    """

    format: Format = "auto"
    columns: Columns = field(default_factory=Columns)
    classes: Path | None = None
    lists_split: str = "Test"
    keep: Mapping[str, str] = field(default_factory=dict)
    clips_folder: Path | None = None


def choose_format(task: Task, source: Path) -> str:
    """Which format a source of label files is in; a UserError says what was looked for."""
    if source.is_dir():
        if task.kind == "single_label" and all((source / name).is_file() for name in LISTS):
            return "emoset"
        own = _OWN.get(task.name)
        by_kind = {"single_label": "folders", "preference": "v2v"}.get(task.kind)
        if own not in (None, "words"):
            return str(own)
        if by_kind:
            return by_kind
        raise UserError(f"--source {source}: is a folder; for {task.name} give the JSON or CSV of labels itself")
    if not source.is_file():
        raise UserError(f"--source {source}: no such file or folder")
    suffix = source.suffix.lower()
    if suffix in MMSA_SUFFIXES:
        return "mosi"
    if suffix == ".json" and task.kind == "multi_label":
        return "words"
    if suffix != ".csv":
        raise UserError(f"--source {source}: must be a folder, a CSV, or what docs/datasets.md says of {task.name}")
    if task.name == "mosi":
        return "mosi" if _is_of_mmsa(source) else "table"
    return "hume" if task.name == "hume_reaction" else "table"


def read_labels(task: Task, source: Path, options: ReadOptions) -> Labels:
    """What the label files say, every id and value checked. UserError names the file and the row or key."""
    form = choose_format(task, source) if options.format == "auto" else options.format
    if _KIND_OF_TASK.get(form, task.kind) != task.kind:
        raise UserError(f"--format {form}: is for {_KIND_OF_TASK[form]} tasks, and {task.name} is one of {task.kind}")
    if options.classes is not None and task.kind != "multi_label":
        raise UserError(f"--classes: is for multi_label tasks, and {task.name} is one of {task.kind}")
    links = options.clips_folder
    if form in ("folders", "ravdess", "emodb") and links and links.absolute().is_relative_to(source.absolute()):
        raise UserError(f"--clips_folder {links}: must not be in the source, all of whose files are taken for clips")
    labels = _read(form, task, source, options)
    for column, value in options.keep.items():
        _keep(labels, column, value)
    if form == "ravdess":
        one_a_performance(labels)
    return labels.check()


def _read(form: str, task: Task, source: Path, options: ReadOptions) -> Labels:
    classes = read_classes(options.classes, task) if options.classes else None
    if form == "hume":
        return _read_hume(source, task, options.columns)
    if form == "v2v":
        return read_v2v(source, task, options.lists_split)
    if form == "words" and source.suffix.lower() == ".json":
        return read_words(source, task, classes)
    if form in ("words", "table"):
        return read_table(source, task, options.columns, classes=classes)
    if form == "mosi":
        if source.suffix.lower() in MMSA_SUFFIXES:
            return read_mosi_pickle(source, task)
        return read_mosi(source / "label.csv" if source.is_dir() else source, task)
    readers = {"vce": read_vce, "folders": read_folders, "emoset": read_emoset, "ravdess": read_ravdess,
               "emodb": read_emodb}  # fmt: skip
    if not source.is_dir():
        raise UserError(f"--source {source}: must be a folder")
    return readers[form](source, task)


def _read_hume(source: Path, task: Task, columns: Columns) -> Labels:
    """data_info.csv, which has splits, or labels.csv with partition.csv beside it."""
    if source.is_dir():
        found = [source / name for name in ("data_info.csv", "labels.csv") if (source / name).is_file()]
        if not found:
            raise UserError(f"--source {source}: has neither data_info.csv nor labels.csv")
        source = found[0]
    partition = source.with_name("partition.csv")
    is_alone = source.name != "labels.csv" or not partition.is_file()
    return read_table(source, task, columns, None if is_alone else partition)


def _is_of_mmsa(source: Path) -> bool:
    table = Table(source)
    return table.find("video_id") is not None and table.find("clip_id") is not None


def _keep(labels: Labels, column: str, value: str) -> None:
    if not any(column in clip.extra for clip in labels.clips):
        there = sorted({name for clip in labels.clips for name in clip.extra})
        raise UserError(f"--keep {column}={value}: there is no such column; there are {', '.join(there) or 'none'}")
    values = sorted({clip.extra.get(column, "") for clip in labels.clips})
    if value not in values:
        raise UserError(f"--keep {column}={value}: no clip has that; there are {', '.join(values[:20])}")
    for clip in labels.clips:
        if clip.extra.get(column) != value:
            labels.drop(f"clips whose {column} is not {value}", clip.id)
    labels.clips = [clip for clip in labels.clips if clip.extra.get(column) == value]
