"""CSV label files: an id (or a path), labels, perhaps a split; the split may stand in a CSV of its own."""

from __future__ import annotations

from pathlib import Path

from viper.datasets.labels import (
    Clip,
    Columns,
    Format,
    Labels,
    ReadOptions,
    check_splits,
    class_cell,
    identified,
    name_by_class,
    number_cell,
    split_cell,
)
from viper.datasets.words import WordClasses, label_words, read_classes, read_words, scene
from viper.errors import UserError
from viper.files import read_csv_cells
from viper.task import Task

# Tried in turn where a file has no column of the card's name.
ID_COLUMNS = ("file_id", "id", "clip", "clip_id", "path", "file", "filename", "image", "video", "name")
CLASS_COLUMNS = ("label", "class", "emotion", "category")
WORD_COLUMNS = ("emotions", "labels", "words", "emotion", "label")
SPLIT_COLUMNS = ("split", "partition", "set", "mode", "subset")


class Table:
    """A CSV's rows by the names of their columns."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.header, rows = read_csv_cells(path)
        twice = {name for name in self.header if name and self.header.count(name) > 1}
        if twice:
            raise UserError(f"{path}: the column {min(twice)!r} appears twice")
        # A pandas index that was written along has no name; it says nothing of the clip.
        self.rows = [
            (
                f"{path}, line {line}",
                {name: cell.strip() for name, cell in zip(self.header, cells, strict=True) if name},
            )
            for line, cells in rows
        ]

    def find(self, *names: str | None) -> str | None:
        """Return the first of these columns there is; in any case of letters where none is spelled so."""
        folded = {column.casefold(): column for column in self.header if column}
        for name in names:
            if name is not None and name in self.header:
                return name
        return next((folded[name.casefold()] for name in names if name and name.casefold() in folded), None)

    def need(self, given: str | None, what: str, *names: str | None) -> str:
        """Return that column; a UserError where there is none."""
        column = self.find(given) if given else self.find(*names)
        if column is None:
            wanted = repr(given) if given else f"of {what} (such as {', '.join(repr(n) for n in names if n)})"
            raise UserError(f"{self.path}: there is no column {wanted}; the file has {', '.join(self.header)}")
        return column


def read_table(path: Path, task: Task, options: ReadOptions) -> Labels:
    """Read a CSV of any dataset; see `_read`."""
    return _read(path, task, options.columns, classes=_classes(options, task))


def _read_words(path: Path, task: Task, options: ReadOptions) -> Labels:
    """Read words from a JSON or a CSV."""
    if path.suffix.lower() != ".json":
        return read_table(path, task, options)
    return read_words(path, task, _classes(options, task))


def _read_hume(source: Path, task: Task, options: ReadOptions) -> Labels:
    """Read data_info.csv, which has splits, or labels.csv with partition.csv beside it."""
    if source.is_dir():
        found = [source / name for name in ("data_info.csv", "labels.csv") if (source / name).is_file()]
        if not found:
            raise UserError(f"--source {source}: has neither data_info.csv nor labels.csv")
        source = found[0]
    partition = source.with_name("partition.csv")
    is_alone = source.name != "labels.csv" or not partition.is_file()
    return _read(source, task, options.columns, None if is_alone else partition)


def _classes(options: ReadOptions, task: Task) -> WordClasses | None:
    return read_classes(options.classes, task) if options.classes else None


def _read(
    path: Path, task: Task, columns: Columns, partition: Path | None = None, classes: WordClasses | None = None
) -> Labels:
    """Return the clips of a CSV.

    Labels are in a column per target, or in one column: the class (single_label), or words between `;` (multi_label).
    An id may be the path of the clip's file. Where labels are words, ids and movies are those of `words.read_words`.

    Parameters
    ----------
    partition : a CSV of ids and splits, for labels without. Its ids that have no labels are kept, unlabelled.
    """
    table = Table(path)
    identifier = table.need(columns.id, "ids", task.id_column, *ID_COLUMNS)
    split = table.need(columns.split, "splits") if columns.split else table.find(task.split_column, *SPLIT_COLUMNS)
    label = _label_column(table, task, columns.label)
    if label:
        sources = {label: label}
    else:
        sources = {target: table.need(None, f"the label {target}", target) for target in task.targets}
    read = {identifier, split, *sources.values()}
    labels = Labels()
    is_words = label is not None and task.kind == "multi_label"
    for where, cells in table.rows:
        spelled, media = identified(cells[identifier])
        clip, movie = scene(cells[identifier], where) if is_words else (Clip(spelled, where, media=media), "")
        clip.extra = {name: cell for name, cell in cells.items() if name not in read}
        if movie and task.group_column:
            clip.extra.setdefault(task.group_column, movie)
        clip.split = split_cell(cells[split], where) if split and cells[split] else None
        if label and is_words:
            words = [word for word in cells[label].split(";") if word.strip()]
            if not label_words(clip, words, task, labels, classes):
                continue
        else:
            clip.labels = _cells(task, where, {name: cells[column] for name, column in sources.items()})
        labels.clips.append(clip)
    if identifier != task.id_column:
        labels.notes.append(f"{path}: ids are read from the column {identifier!r}")
    if partition is not None:
        _join(labels, partition, task)
    elif split:
        check_splits(labels)
    if task.kind == "single_label" and task.label_column:
        name_by_class(labels, task.label_column)
    return labels


def _label_column(table: Table, task: Task, given: str | None) -> str | None:
    """Return the one column that holds the labels, or None where each target has its own."""
    if task.kind == "single_label":
        return table.need(given, "classes", task.label_column, *CLASS_COLUMNS)
    if task.kind == "regression" and len(task.targets) == 1 and given:
        return table.need(given, task.targets[0])
    if task.kind == "multi_label" and (given or not any(table.find(target) for target in task.targets)):
        return table.need(given, "words", *WORD_COLUMNS)
    return None


def _cells(task: Task, where: str, cells: dict[str, str]) -> dict[str, str]:
    """Return label column -> its cell in the manifest; an empty cell stays empty."""
    if task.label_column is not None:
        (name,) = cells.values()
        return {task.label_column: class_cell(name, where, task) if name else ""}
    return {
        target: number_cell(cell, target, where, task) if cell else ""
        for target, cell in zip(task.targets, cells.values(), strict=True)
    }


def _join(labels: Labels, partition: Path, task: Task) -> None:
    """Give each clip its split out of another file, by id, however each spells it."""
    table = Table(partition)
    if len(table.header) < 2:
        raise UserError(f"{partition}: must have a column of ids and one of partitions")
    identifier = table.find(task.id_column, *ID_COLUMNS) or table.header[0]
    split = table.find(*SPLIT_COLUMNS, "proposal") or next(name for name in table.header if name != identifier)
    listed: dict[str, Clip] = {}
    for where, cells in table.rows:
        clip = Clip(cells[identifier], where, split=split_cell(cells[split], where))
        if clip.id in listed:
            raise UserError(f"{where}: the id {clip.id!r} was already used by {listed[clip.id].where}")
        listed[clip.id] = clip
    known = {clip.id for clip in labels.clips}
    for clip in labels.clips:
        if clip.id not in listed:
            raise UserError(f"{clip.where}: the id {clip.id!r} is not in {partition}")
        clip.split = listed[clip.id].split
    unlabelled = [clip for identifier, clip in listed.items() if identifier not in known]
    for clip in unlabelled:
        clip.labels = dict.fromkeys(task.label_columns, "")
    labels.clips += unlabelled
    if unlabelled:
        labels.notes.append(f"{partition}: {len(unlabelled)} of its ids have no labels, and stay without")


def _is_csv(source: Path, task: Task) -> bool:
    return source.is_file() and source.suffix.lower() == ".csv"


def _is_hume(source: Path, task: Task) -> bool:
    return task.name == "hume_reaction" and (source.is_dir() or _is_csv(source, task))


def _is_json_of_words(source: Path, task: Task) -> bool:
    return task.kind == "multi_label" and source.is_file() and source.suffix.lower() == ".json"


HUME = Format("hume", _read_hume, _is_hume)
WORDS = Format("words", _read_words, _is_json_of_words, "multi_label")
TABLE = Format("table", read_table, _is_csv)
