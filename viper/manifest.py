"""The manifest: which clips there are, in which split, with which labels; and the preferences beside it."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from viper.clip_ids import SEPARATOR, cell_id, quoted_cell, spelling_note
from viper.clip_ids import clip_id as clip_id
from viper.errors import UserError, one_line
from viper.files import read_csv_cells, read_csv_rows
from viper.logs import log
from viper.task import Task, load_task

SPLITS = ("Train", "Val", "Test")
_SAID: set[tuple[Path, str]] = set()  # a pipeline reads its manifest at every step
Order = tuple[str, ...]
"""Clip ids from the least to the most preferred; a pair is an order of two."""
_SPLIT_NAMES = {
    "train": "Train", "training": "Train",
    "val": "Val", "valid": "Val", "validation": "Val", "dev": "Val", "devel": "Val",
    "test": "Test",
}  # fmt: skip


def canonical_split(name: str) -> str:
    """Return Train, Val or Test for any of the spellings in use (train, devel, validation ...)."""
    try:
        return _SPLIT_NAMES[str(name).strip().lower()]
    except KeyError:
        raise UserError(
            f"the split {quoted_cell(str(name))} must be Train, Val or Test (devel and validation mean Val)"
        ) from None


@dataclass(frozen=True)
class Manifest:
    """The rows of a manifest, checked.

    Attributes
    ----------
    path : the CSV it came from, for messages.
    task : the task whose targets were read.
    table : one row a clip, indexed by clip id: the task's id column as spelled in the file, its split column
        (canonical), each target as float (NaN where empty; a class is 1 where it is the clip's and else 0), and every
        further column as text. The target of a preference task is NaN.
    orders : of a preference task, the clips of these rows that were put in order; see `read_preferences`.
    """

    path: Path
    task: Task
    table: pd.DataFrame
    orders: tuple[Order, ...] = ()

    @classmethod
    def load(
        cls, path: str | os.PathLike[str], task: Task | str | os.PathLike[str], separator: str = SEPARATOR
    ) -> Manifest:
        """Read and check a manifest, and the preferences beside it.

        `task` is the task, the name of its card, or the path of its YAML. `separator` joins the parts of an id that is
        a path: that of the folders of features, see `viper.clip_ids.separator_of`.

        Raises UserError naming the file and the line (the header is line 1): unreadable file, missing column,
        unusable or duplicate id, unknown split, label that is no number, outside the task's range or no class of it.
        """
        path = Path(path)
        task = task if isinstance(task, Task) else load_task(str(task))
        table = _read_csv(path)
        for column in (task.id_column, task.split_column, *task.label_columns):
            if column not in table.columns:
                raise UserError(
                    f"{path}: there is no column {column!r}; the file has {one_line(', '.join(table.columns))}"
                )
            if list(table.columns).count(column) > 1:
                raise UserError(f"{path}: the column {column!r} appears twice")
        if table.empty:
            raise UserError(f"{path}: the manifest has no rows")
        clips = pd.Index(_per_row(path, table[task.id_column], lambda cell: cell_id(cell, separator)), name="clip")
        if clips.has_duplicates:
            where = int(np.flatnonzero(clips.duplicated())[0])
            raise UserError(f"{path}, line {table.index[where]}: the id {clips[where]!r} was already used above")
        note = spelling_note(table[task.id_column], clips)
        if note is not None and (path, note) not in _SAID:
            _SAID.add((path, note))
            log.info("%s: %s", path, note)
        table[task.split_column] = _per_row(path, table[task.split_column], canonical_split)
        orders: list[Order] = []
        if task.kind == "preference":
            table[list(task.targets)] = np.nan
            splits = dict(zip(clips, table[task.split_column], strict=True))
            orders = read_preferences(preferences_path(path), splits, separator)
        elif task.label_column is not None:
            table = table.drop(columns=list(task.targets), errors="ignore").join(_classes(path, table, task))
        else:
            for target in task.targets:
                table[target] = _labels(path, table[target], target, task)
        return cls(path, task, table.set_index(clips), tuple(orders))

    def __repr__(self) -> str:
        counts = self.table[self.task.split_column].value_counts()
        sizes = ", ".join(f"{counts[split]} {split}" for split in SPLITS if split in counts)
        return f"Manifest({str(self.path)!r}: {len(self.table)} clips ({sizes}) of the task {self.task.name})"

    def split(self, name: str) -> Manifest:
        """Return the rows of one split; a split without rows is a UserError."""
        rows = self.table[self.table[self.task.split_column] == canonical_split(name)]
        if rows.empty:
            there = ", ".join(sorted(set(self.table[self.task.split_column])))
            raise UserError(f"{self.path}: no row has the split {canonical_split(name)!r}; there are {there}")
        # An order's clips are all in one split.
        return Manifest(self.path, self.task, rows, tuple(order for order in self.orders if order[0] in rows.index))

    def labelled(self) -> Manifest:
        """Return the rows that have a label of at least one target, or a place in an order; none is a UserError."""
        if self.task.kind == "preference":
            known = self.table.index.isin([clip for order in self.orders for clip in order])
        else:
            known = self.table[list(self.task.targets)].notna().any(axis=1).to_numpy()
        if not known.any():
            splits = ", ".join(sorted(set(self.table[self.task.split_column])))
            lacking = f"a preference in {preferences_path(self.path)}" if self.task.kind == "preference" else "a label"
            raise UserError(f"{self.path}: no row of the split {splits} has {lacking}")
        return Manifest(self.path, self.task, self.table[known], self.orders)

    @property
    def clips(self) -> list[str]:
        """Clip ids in the order of the file."""
        return list(self.table.index)

    @property
    def file_ids(self) -> list[str]:
        """Ids as the file spells them."""
        return list(self.table[self.task.id_column])

    @property
    def labels(self) -> np.ndarray:
        """(clips, targets) float32, NaN where the cell is empty."""
        return self.table[list(self.task.targets)].to_numpy(np.float32)

    @property
    def truth(self) -> np.ndarray:
        """What predictions are scored against: the labels or, of a preference task, `order_rows` of these clips."""
        return order_rows(self.orders, self.clips) if self.task.kind == "preference" else self.labels


def preferences_path(manifest: Path) -> Path:
    """Return the path of a manifest's preferences: those of clips.csv are in clips_preferences.csv beside it."""
    return manifest.with_name(f"{manifest.stem}_preferences.csv")


def order_rows(orders: Sequence[Order], clips: Sequence[str]) -> np.ndarray:
    """Return orders as rows of clips.

    Returns
    -------
    (len(orders), L) int64: positions in `clips` from the least to the most preferred; -1 fills up shorter orders.
    """
    row = {clip: index for index, clip in enumerate(clips)}
    rows = np.full((len(orders), max((len(order) for order in orders), default=2)), -1, np.int64)
    for index, order in enumerate(orders):
        rows[index, : len(order)] = [row[clip] for clip in order]
    return rows


def all_pairs(orders: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return every pair that orders (n, L) imply.

    First the less preferred clips, then the more preferred ones, both (pairs,).
    """
    first, second = np.triu_indices(orders.shape[1], k=1)
    less, more = orders[:, first].ravel(), orders[:, second].ravel()
    known = more >= 0
    return less[known], more[known]


def read_preferences(path: Path, splits: Mapping[str, str], separator: str = SEPARATOR) -> list[Order]:
    """Read the preferences of a manifest; none where there is no file, as for clips that are only to be predicted.

    Parameters
    ----------
    path : a CSV whose columns are rank_1 (the least preferred), rank_2 ...; shorter orders leave the last cells empty.
    splits : clip id -> its split.
    separator : as of `Manifest.load`.

    Raises
    ------
    UserError naming the file and the line: another header, an order of fewer than two clips, with a gap, with a clip
    twice, with one that the manifest lacks, or with clips of different splits.
    """
    if not path.exists():
        return []
    rows = read_csv_rows(path)
    header = [name.strip() for name in rows[0][1]]
    if len(header) < 2 or header != [f"rank_{k}" for k in range(1, len(header) + 1)]:
        raise UserError(f"{path}: the columns must be rank_1 (least preferred), rank_2, ... and nothing else")
    orders = []
    for line, row in rows[1:]:
        try:
            orders.append(_order(row, len(header), splits, separator))
        except UserError as error:
            raise UserError(f"{path}, line {line}: {error}") from None
    return orders


def _order(row: Sequence[str], n_columns: int, splits: Mapping[str, str], separator: str) -> Order:
    cells = [cell.strip() for cell in row]
    while cells and not cells[-1]:
        cells.pop()
    if len(cells) > n_columns or not all(cells):
        raise UserError("an order fills its cells from rank_1 on, without a gap")
    clips = tuple(cell_id(cell, separator) for cell in cells)
    if len(clips) < 2:
        raise UserError("an order has at least two clips")
    for clip in clips:
        if clip not in splits:
            raise UserError(f"the clip {clip!r} is not in the manifest")
        if clips.count(clip) > 1:
            raise UserError(f"the clip {clip!r} appears twice")
        if splits[clip] != splits[clips[0]]:
            raise UserError(
                f"clips of different splits: {clips[0]!r} is in {splits[clips[0]]}, {clip!r} in {splits[clip]}"
            )
    return clips


def _read_csv(path: Path) -> pd.DataFrame:
    """Return the cells as text, indexed by their line in the file.

    An id of 0010 must stay so, and "NA" may be a name.
    """
    columns, rows = read_csv_cells(path)
    lines, cells = [line for line, _ in rows], [row for _, row in rows]
    return pd.DataFrame(cells, index=lines, columns=columns, dtype=str)


def _per_row(path: Path, column: pd.Series, convert: Callable[[str], str]) -> list[str]:
    values = []
    for line, cell in column.items():
        try:
            values.append(convert(cell))
        except UserError as error:
            raise UserError(f"{path}, line {line}: {error}") from None
    return values


def _labels(path: Path, column: pd.Series, target: str, task: Task) -> pd.Series:
    text = column.str.strip()
    empty = text == ""
    values = pd.to_numeric(text.where(~empty), errors="coerce").astype(np.float64)
    lowest, highest = task.range or (-np.inf, np.inf)
    wrong = ~empty & ~(np.isfinite(values) & (values >= lowest) & (values <= highest))
    if task.kind == "multi_label":
        wrong |= ~empty & ~values.isin([0.0, 1.0])
    if wrong.any():
        where = int(np.flatnonzero(wrong)[0])
        allowed = f"a number in [{lowest:g}, {highest:g}]" if task.range else "a finite number"
        allowed = "0 or 1" if task.kind == "multi_label" else allowed
        raise UserError(f"{path}, line {text.index[where]}: {target} is {quoted_cell(text.iloc[where])}, not {allowed}")
    return values


def _classes(path: Path, table: pd.DataFrame, task: Task) -> pd.DataFrame:
    """Return a column per class, 1 where it is the row's and else 0; NaN in rows without a label."""
    assert task.label_column is not None
    names = table[task.label_column].str.strip()
    wrong = ~names.isin(["", *task.targets])
    if wrong.any():
        where = int(np.flatnonzero(wrong)[0])
        raise UserError(
            f"{path}, line {names.index[where]}: {task.label_column} is {quoted_cell(names.iloc[where])}, none of "
            + ", ".join(task.targets)
        )
    one_hot = pd.DataFrame({name: (names == name).astype(np.float64) for name in task.targets}, index=table.index)
    return one_hot.where(names != "")
