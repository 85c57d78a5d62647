"""Submissions: the CSV of predictions that a challenge's organisers are sent."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from viper.clip_ids import cell_id
from viper.errors import UserError, one_line
from viper.files import read_csv_rows, write_csv
from viper.task import Task

SUBMISSION_FILE = "submission.csv"
Spans = Sequence[tuple[float, float]]


def submission_path(path: str | Path) -> Path:
    """Return the file that `--output_path` means.

    A name ending in .csv is the file itself. A folder, or a name without any suffix, is a folder that receives
    submission.csv. Any other suffix is a UserError, as is a name without a suffix that is a file already.
    """
    path = Path(path)
    if path.is_dir():
        return path / SUBMISSION_FILE
    if path.suffix.lower() == ".csv":
        return path
    if path.suffix or path.exists():
        raise UserError(f"{path}: a submission is a .csv file; give a name ending in .csv, or a folder")
    return path / SUBMISSION_FILE


def write_submission(path: str | Path, task: Task, file_ids: Sequence[str], predicted: np.ndarray) -> Path:
    """Write a submission, all of it or nothing.

    Parameters
    ----------
    path : a file or a folder, see `submission_path`.
    file_ids : the clips in the order of the rows, spelled as the manifest spells them.
    predicted : (len(file_ids), targets), one row a clip. Values outside the task's range are clipped to it. As many
        digits are written as it takes to read the same number back. Below a label column stands the target with the
        highest value.

    Returns
    -------
    The file written.

    Raises
    ------
    UserError naming the clip: one without a prediction, one given twice (`[7]` and `7` are one clip), a prediction
    that is NaN or infinite. Also when there is no clip at all.
    OSError naming the file, if it cannot be written.
    """
    path = submission_path(path)
    predicted = _checked(task, file_ids, np.asarray(predicted))
    rows = [submission_cells(task, file_id, row) for file_id, row in zip(file_ids, predicted, strict=True)]
    write_csv(path, [list(task.submission_columns), *rows])
    return path


def write_timelines(path: str | Path, task: Task, timelines: Iterable[tuple[str, Spans, np.ndarray]]) -> Path:
    """Write predictions over time: a submission's columns, with the start and end of each window after the id.

    Parameters
    ----------
    path : a file or a folder, see `submission_path`.
    timelines : for each clip its id, the (start, end) of each window in seconds, and (windows, targets) predictions. A
        window of NaN gets empty cells.

    Returns
    -------
    The file written.
    """
    columns = list(task.submission_columns.values())
    place = columns.index(task.id_column) + 1 if task.id_column in columns else 0

    def with_span(cells: list[str], span: Sequence[str]) -> list[str]:
        return [*cells[:place], *span, *cells[place:]]

    rows = [with_span(list(task.submission_columns), ["start", "end"])]
    for file_id, spans, predicted in timelines:
        for span, row in zip(spans, predicted, strict=True):
            rows.append(with_span(submission_cells(task, file_id, row), [f"{second:.3f}" for second in span]))
    path = submission_path(path)
    write_csv(path, rows)
    return path


def submission_cells(task: Task, file_id: str, row: np.ndarray) -> list[str]:
    """Return the cells of one row of a submission; `row` (targets,), all NaN where nothing is predicted."""
    if np.isnan(row).all():
        return [file_id if column == task.id_column else "" for column in task.submission_columns.values()]
    if task.range is not None:
        row = row.clip(*task.range)
    row = row + 0.0  # turns -0.0 into 0.0, which is how people expect to see it
    # The shortest decimal that reads back as the same float32 or float64, never in scientific notation.
    cells = [np.format_float_positional(value, trim="0") for value in row]
    cell = {**dict(zip(task.targets, cells, strict=True)), task.id_column: file_id}
    if task.label_column is not None:
        cell[task.label_column] = task.targets[int(row.argmax())]
    return [cell[column] for column in task.submission_columns.values()]


def read_submission(path: str | Path, task: Task) -> pd.DataFrame:
    """Read a submission back and check it.

    Returns
    -------
    One row a clip in the order of the file, indexed by clip id ("clip"): the task's id column as the file spells it,
    then each target as float64, in the task's order whatever the file's.

    Raises
    ------
    UserError naming the file and, where there is one, the line: unreadable file, missing, unknown or repeated column,
    no rows, a row of another length, a duplicate or unusable id, a value that is not a number in the task's range.
    """
    path = Path(path)
    rows = read_csv_rows(path)
    _, header = rows[0]
    if sorted(header) != sorted(task.submission_columns):
        raise UserError(
            f"{path}: the columns are {one_line(', '.join(header))}; a submission to {task.name} has "
            f"{', '.join(task.submission_columns)}"
        )
    if lacking := [target for target in task.targets if target not in task.submission_columns.values()]:
        raise UserError(f"{path}: a submission to {task.name} does not hold the prediction of {lacking[0]}")
    if len(rows) == 1:
        raise UserError(f"{path}: the submission has no rows")
    for line, row in rows[1:]:
        if len(row) != len(header):
            raise UserError(f"{path}, line {line}: {len(row)} cells, where the header has {len(header)}")
    lines = [line for line, _ in rows[1:]]
    cells = pd.DataFrame([row for _, row in rows[1:]], columns=pd.Index(header), dtype=str)
    table = cells.rename(columns=task.submission_columns)[[task.id_column, *task.targets]].copy()
    table.index = pd.Index(_unique_clips(table[task.id_column], path, lines), name="clip")
    for target in task.targets:
        table[target] = _numbers(table[target], task, path, lines)
    return table


def _checked(task: Task, file_ids: Sequence[str], predicted: np.ndarray) -> np.ndarray:
    """Return `predicted` as float32 or float64, after every check that does not need the file."""
    if predicted.ndim != 2 or predicted.shape[1] != len(task.targets):
        raise ValueError(f"predicted {predicted.shape} must be (clips, {len(task.targets)} targets)")
    if predicted.dtype != np.float32:
        predicted = predicted.astype(np.float64)
    if not len(file_ids):
        raise UserError("a submission needs at least one clip")
    if len(predicted) < len(file_ids):
        missing = file_ids[len(predicted)]
        raise UserError(f"clip {missing!r}: no prediction ({len(file_ids)} clips, {len(predicted)} predictions)")
    if len(predicted) > len(file_ids):
        raise UserError(
            f"{len(predicted)} predictions for {len(file_ids)} clips: too many, the last clip is {file_ids[-1]!r}"
        )
    seen: set[str] = set()
    for file_id in file_ids:
        clip = cell_id(file_id)
        if clip in seen:
            raise UserError(f"clip {file_id!r}: given more than once")
        seen.add(clip)
    unusable = ~np.isfinite(predicted)
    if unusable.any():
        row, column = np.argwhere(unusable)[0]
        value = predicted[row, column]
        raise UserError(f"clip {file_ids[row]!r}: the prediction of {task.targets[column]} is {value}, not a number")
    return predicted


def _unique_clips(file_ids: Iterable[str], path: Path, lines: list[int]) -> list[str]:
    first_line: dict[str, int] = {}
    for line, file_id in zip(lines, file_ids, strict=True):
        try:
            clip = cell_id(file_id)
        except UserError as error:
            raise UserError(f"{path}, line {line}: {error}") from None
        if clip in first_line:
            raise UserError(f"{path}, line {line}: the id {clip!r} was already used in line {first_line[clip]}")
        first_line[clip] = line
    return list(first_line)


def _numbers(cells: pd.Series, task: Task, path: Path, lines: list[int]) -> pd.Series:
    values = pd.to_numeric(cells, errors="coerce").astype(np.float64)
    lowest, highest = task.range or (-np.inf, np.inf)
    wrong = ~(np.isfinite(values) & (values >= lowest) & (values <= highest))
    if wrong.any():
        where = int(np.flatnonzero(wrong)[0])
        allowed = f"a number in [{lowest:g}, {highest:g}]" if task.range else "a finite number"
        raise UserError(f"{path}, line {lines[where]}: {cells.name} is {cells.iloc[where]!r}, not {allowed}")
    return values
