"""Label files as datasets' authors ship them: the table of formats, and one way to read them all.

A dataset with a format of its own is one file with its `Format`, and a line in `FORMATS`.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

from viper.datasets.acted_speech import EMODB, RAVDESS
from viper.datasets.folders import EMOSET, FOLDERS
from viper.datasets.labels import Clip, Columns, Format, Labels, ReadOptions
from viper.datasets.mosi import MOSI
from viper.datasets.tables import HUME, TABLE, WORDS
from viper.datasets.v2v import V2V
from viper.datasets.vce import VCE
from viper.errors import UserError
from viper.task import Task

__all__ = ["FORMATS", "Clip", "Columns", "Format", "FormatName", "Labels", "ReadOptions", "choose_format",
           "read_labels"]  # fmt: skip

# In the order in which --format auto tries them.
FORMATS = (HUME, VCE, V2V, EMOSET, RAVDESS, EMODB, MOSI, FOLDERS, WORDS, TABLE)

if TYPE_CHECKING:
    FormatName = str
else:
    FormatName = Literal[("auto", *(form.name for form in FORMATS))]


def choose_format(task: Task, source: Path) -> Format:
    """Return the format of a source of label files; a UserError says what was looked for."""
    for form in FORMATS:
        if form.matches(source, task):
            return form
    if source.is_dir():
        raise UserError(f"--source {source}: is a folder; for {task.name} give the JSON or CSV of labels itself")
    if not source.is_file():
        raise UserError(f"--source {source}: no such file or folder")
    raise UserError(f"--source {source}: must be a folder, a CSV, or what docs/datasets.md says of {task.name}")


def read_labels(task: Task, source: Path, options: ReadOptions) -> Labels:
    """Return what the label files say, every id and value checked. UserError names the file and the row or key."""
    form = choose_format(task, source) if options.format == "auto" else _named(options.format)
    if form.kind not in (None, task.kind):
        raise UserError(f"--format {form.name}: is for {form.kind} tasks, and {task.name} is one of {task.kind}")
    if options.classes is not None and task.kind != "multi_label":
        raise UserError(f"--classes: is for multi_label tasks, and {task.name} is one of {task.kind}")
    links = options.clips_folder
    if form.takes_every_file and links and links.absolute().is_relative_to(source.absolute()):
        raise UserError(f"--clips_folder {links}: must not be in the source, all of whose files are taken for clips")
    if form.is_folder and not source.is_dir():
        raise UserError(f"--source {source}: must be a folder")
    labels = form.read(source, task, options)
    for column, value in options.keep.items():
        _keep(labels, column, value)
    if form.finish is not None:
        form.finish(labels)
    return labels.check()


def _named(name: str) -> Format:
    for form in FORMATS:
        if form.name == name:
            return form
    raise UserError(f"--format {name}: must be auto, {', '.join(form.name for form in FORMATS)}")


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
