"""CMU-MOSI as MMSA ships it: label.csv beside Raw/<video>/<clip>.mp4, or a pickle of features and labels."""

from __future__ import annotations

import math
from pathlib import Path

from viper.datasets.labels import Clip, Format, Labels, ReadOptions, number_cell, split_cell
from viper.datasets.tables import Table
from viper.errors import UserError
from viper.media.imports.mmsa import MMSA_SUFFIXES, read_mmsa
from viper.task import Task


def _read_table(path: Path, task: Task) -> Labels:
    """Return the clips of label.csv.

    Its columns are video_id, clip_id, label, mode (train, valid, test) and any others, which are kept.

    An id is <video_id>_<clip_id>; the video is the group.
    """
    table = Table(path)
    video, clip = (table.need(None, "ids", name) for name in ("video_id", "clip_id"))
    label = table.need(None, "sentiments", "label", *task.targets)
    mode = table.find("mode", task.split_column)
    target = task.targets[0]
    labels = Labels()
    for where, cells in table.rows:
        value = cells[label]
        extra = {task.group_column or "video": cells[video]}
        extra |= {name: cell for name, cell in cells.items() if name not in (video, clip, label, mode)}
        labels.clips.append(
            Clip(
                f"{cells[video]}_{cells[clip]}",
                where,
                {target: number_cell(value, target, where, task) if value else ""},
                split_cell(cells[mode], where) if mode else None,
                extra,
                f"Raw/{cells[video]}/{cells[clip]}.mp4",
            )
        )
    return labels


def _read_pickle(path: Path, task: Task) -> Labels:
    """Return the clips of an MMSA feature file.

    They have the ids, labels and splits of what `--from_files` brings into a store.
    """
    labels = Labels()
    for name, part in read_mmsa(path).splits.items():
        if not name:
            raise UserError(f"{path}: has no splits (train, valid, test); give label.csv")
        for spelled, clip, value in zip(part.ids, part.clips, part.regression_labels.tolist(), strict=True):
            where = f"{path}, {name}, {spelled}"
            video, _, piece = spelled.partition("$_$")
            cell = "" if math.isnan(value) else number_cell(round(value, 6), task.targets[0], where, task)
            extra = {task.group_column or "video": video}
            media = f"Raw/{video}/{piece}.mp4" if piece else None
            labels.clips.append(Clip(clip, where, {task.targets[0]: cell}, split_cell(name, where), extra, media))
    return labels


def read_mosi(source: Path, task: Task, _: ReadOptions) -> Labels:
    """Read the folder of label.csv, that file itself, or an MMSA feature file."""
    if source.suffix.lower() in MMSA_SUFFIXES:
        return _read_pickle(source, task)
    return _read_table(source / "label.csv" if source.is_dir() else source, task)


def _matches(source: Path, task: Task) -> bool:
    if source.is_file() and source.suffix.lower() in MMSA_SUFFIXES:
        return True
    if task.name != "mosi" or source.is_dir():
        return task.name == "mosi"
    if source.suffix.lower() != ".csv" or not source.is_file():
        return False
    table = Table(source)
    return table.find("video_id") is not None and table.find("clip_id") is not None


MOSI = Format("mosi", read_mosi, _matches, "regression")
