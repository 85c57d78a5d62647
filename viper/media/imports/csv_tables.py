"""Features in CSV files, one a clip: OpenFace's, openSMILE's, and those of the challenges' organisers."""

from __future__ import annotations

import csv
import warnings
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import pandas as pd
from pandas.errors import ParserWarning

from viper.errors import ClipError, UserError, first_line, one_line
from viper.files import files_only
from viper.manifest import clip_id
from viper.media.imports.table import Table, float32

_OPENFACE_OTHERS = ("frame", "face_id", "timestamp", "confidence", "success")
_LONGEST_HEADER = 2**20  # characters
MILLISECOND_STEP = 10.0  # a step of so many units or more is one of milliseconds


def read_csv_table(path: Path, columns: tuple[str, ...] = ()) -> Table:
    """Read a CSV of one clip's features; the header says whose it is.

    Parameters
    ----------
    path : the file; its name is the clip's id.
    columns : take only the features whose names begin with one of these; by default all, and of OpenFace's the action
        units.

    Raises ClipError naming the line where it holds another clip's row, a time that is no number or does not follow the
    one before, or a cell that is no number.
    """
    with open(path, encoding="utf-8-sig", opener=files_only) as file:
        header = file.readline(_LONGEST_HEADER)
    if not header:
        raise ClipError("cannot be read as CSV (it is empty)")
    separator = ";" if header.count(";") > header.count(",") else ","
    names = [name.strip() for name in next(csv.reader([header], delimiter=separator, skipinitialspace=True), [])]
    lower = [name.lower() for name in names]
    if "success" in lower:
        return _openface(_read(path, separator), columns)
    if {"start", "end"} <= set(lower[:3]):
        return _opensmile_python(_read(path, separator, text="file"), columns, path)
    if "frametime" in lower[:3] or lower[:1] == ["name"]:
        return _opensmile(_read(path, separator, text="name"), columns)
    if len(names) < 3:
        raise ClipError("wants an id, a time and then features, one row a step")
    time = 0 if _is_time(names[0]) and not _is_time(names[1]) else 1
    return _organisers(_read(path, separator, text=lower[1 - time]), time, columns, path)


def _read(path: Path, separator: str, text: str = "") -> pd.DataFrame:
    """Return the columns, named without blanks around.

    The one called `text` is text: 010 is not 10, and NA is a name.
    """
    with warnings.catch_warnings():
        # Of rows longer than the header pandas would make an index, or drop the end, and columns would be mixed up.
        warnings.simplefilter("error", ParserWarning)
        how: Any = {"sep": separator, "encoding": "utf-8-sig", "skipinitialspace": True, "index_col": False}
        table = pd.read_csv(path, **how)
        table.columns = [str(column).strip() for column in table.columns]
        place = next((i for i, name in enumerate(table.columns) if text and name.lower() == text), None)
        if place is not None:
            cells = pd.read_csv(path, usecols=[place], dtype=str, keep_default_na=False, **how)
            table.isetitem(place, cells.iloc[:, 0])
    # Where lines end in a comma there is a last column without a name or a value.
    table = table.drop(columns=[c for c in table.columns if c.startswith("Unnamed:") and table[c].isna().all()])
    if table.columns.has_duplicates:
        raise ClipError(f"two columns are called {table.columns[table.columns.duplicated()][0]!r}")
    return table


def _is_time(name: str) -> bool:
    return "time" in name.lower()


def _openface(table: pd.DataFrame, columns: tuple[str, ...]) -> Table:
    """Read OpenFace's: the action units' intensities (AU.._r) and presences (AU.._c); `success` 0 masks a frame."""
    table = table.rename(columns={name: name.lower() for name in table.columns if name.lower() in _OPENFACE_OTHERS})
    if columns:
        channels = _chosen([name for name in table.columns if name not in _OPENFACE_OTHERS], columns)
    else:
        channels = [name for name in table.columns if name.startswith("AU") and name[-2:] in ("_r", "_c")]
    if not channels:
        raise ClipError("an OpenFace table without AU columns")
    if "face_id" in table.columns and table["face_id"].nunique() > 1:
        # Several people: the one that is seen best in most frames.
        confidence = pd.Series(_numbers(table, ["confidence" if "confidence" in table.columns else "success"])[:, 0])
        seen = confidence.groupby(table["face_id"].to_numpy()).sum()
        table = table[table["face_id"] == seen.idxmax()]
    times = _times(table, "timestamp") if "timestamp" in table.columns else None
    tokens = float32(_numbers(table, channels))
    mask = (_numbers(table, ["success"])[:, 0] == 1) & np.isfinite(tokens).all(axis=1)
    return Table(tokens, mask, times, tuple(channels))


def _opensmile(table: pd.DataFrame, columns: tuple[str, ...]) -> Table:
    """Read SMILExtract's: `name;frameTime;...`; without frameTime one row of functionals for the whole file.

    The name is whatever -instname said, 'unknown' by default; two of them are two clips.
    """
    # "frameIndex" and "frameTime" stand there or not, by the configuration.
    frame_time = next((name for name in table.columns[:3] if name.lower() == "frametime"), None)
    others = [name for name in table.columns[:3] if name.lower() in ("name", "frameindex", "frametime")]
    names = [name for name in others if name.lower() == "name"]
    if names and table[names[0]].nunique(dropna=False) > 1:
        first = table[names[0]].iloc[0]
        line = table.index[table[names[0]] != first][0] + 2
        raise ClipError(f"line {line} has another name than the lines above it; one clip a file is read")
    whole = np.zeros(1) if len(table) == 1 else None
    times = whole if frame_time is None else _times(table, frame_time)
    return _table(table, _chosen([name for name in table.columns if name not in others], columns), times)


def _opensmile_python(table: pd.DataFrame, columns: tuple[str, ...], path: Path) -> Table:
    """Return the package opensmile: `file,start,end,...`, times as 0 days 00:00:01.5; a token stands in its middle."""
    others = [name for name in table.columns[:3] if name.lower() in ("file", "start", "end")]
    of = {name.lower(): name for name in others}
    if "file" in of:
        stems = [PurePosixPath(str(cell).replace("\\", "/")).stem for cell in table[of["file"]]]
        _check_ids(pd.Series(stems, index=table.index), path)
    start, end = (_seconds(table, of[name]) for name in ("start", "end"))
    times = np.where(np.isfinite(end), (start + end) / 2, start)
    _check_times(times, table.index)
    return _table(table, _chosen([name for name in table.columns if name not in others], columns), times)


def _organisers(table: pd.DataFrame, time: int, columns: tuple[str, ...], path: Path) -> Table:
    """Read the challenges' own layout.

    The first two columns are the clip's id and the time, features from the third on.

    They stand in either order where one of them is called a time. MuSe's are in milliseconds, and are recognised by
    steps of at least 10: nobody samples faces every ten seconds. An id called segment_id counts the segments of a
    recording, and is not the clip's. `time` is the number of the time's column.
    """
    if table.shape[1] < 3 or table.empty:
        raise ClipError("wants an id, a time and then features, one row a step")
    names = list(table.columns)
    if names[1 - time].lower() != "segment_id":
        _check_ids(table[names[1 - time]], path)
    times = _times(table, names[time])
    if (np.median(np.diff(times)) if len(times) > 1 else times[0]) >= MILLISECOND_STEP:
        times = times / 1000
    return _table(table, _chosen(names[2:], columns), times)


def _table(table: pd.DataFrame, channels: list[str], times: np.ndarray | None) -> Table:
    if table.empty or not channels:
        raise ClipError("has no row of features")
    tokens = float32(_numbers(table, channels))
    return Table(tokens, np.isfinite(tokens).all(axis=1), times, tuple(channels))


def _chosen(names: list[str], columns: tuple[str, ...]) -> list[str]:
    """Return the names that begin with one of `columns`; all where there are none."""
    chosen = [name for name in names if name.startswith(columns)] if columns else names
    if columns and not chosen:
        raise ClipError(f"has no column that begins with {' or '.join(columns)}")
    return chosen


def _check_ids(ids: pd.Series, path: Path) -> None:
    """Raise a ClipError naming the first row of another clip than the file's."""
    clip = clip_id(path.stem)
    for line, cell in ids[~ids.duplicated()].items():
        try:
            other = clip_id(str(cell))
        except UserError:
            other = ""
        if other != clip:
            shown = one_line(str(cell))[:60]
            raise ClipError(f"line {int(str(line)) + 2} is of clip {shown!r}, not of {clip!r} as the file's name says")


def _times(table: pd.DataFrame, column: str) -> np.ndarray:
    """Return (rows,) float64, later ones after earlier ones."""
    times = _numbers(table, [column])[:, 0]
    _check_times(times, table.index)
    return times


def _check_times(times: np.ndarray, index: pd.Index) -> None:
    if not np.isfinite(times).all():
        raise ClipError(f"a time that is no number, in line {index[np.flatnonzero(~np.isfinite(times))[0]] + 2}")
    if (steps := np.diff(times) <= 0).any():
        raise ClipError(f"the time in line {index[np.flatnonzero(steps)[0] + 1] + 2} is not after the one before it")


def _seconds(table: pd.DataFrame, column: str) -> np.ndarray:
    """Return (rows,) float64 of times such as 0 days 00:00:01.5, or of seconds; NaN where there is none."""
    if pd.api.types.is_numeric_dtype(table[column]):
        return table[column].to_numpy(np.float64)
    return pd.to_timedelta(table[column], errors="coerce").dt.total_seconds().to_numpy(np.float64)


def _numbers(table: pd.DataFrame, columns: list[str]) -> np.ndarray:
    """Return (rows, columns) float64, NaN where a cell is empty."""
    try:
        return table[columns].to_numpy(np.float64)
    except (ValueError, TypeError, OverflowError) as error:
        raise ClipError(f"has a cell that is no number ({first_line(error)})") from error
