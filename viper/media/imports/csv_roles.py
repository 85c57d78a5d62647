"""What the columns of a CSV are by their names: ids, times, frames; and the features of its rows."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import PurePosixPath

import numpy as np
import pandas as pd

from viper.errors import ClipError, UserError, one_line
from viper.manifest import clip_id
from viper.media.imports.csv_cells import Cells
from viper.media.imports.table import Reading, Table, float32
from viper.media.listing import AUDIO_SUFFIXES, VIDEO_SUFFIXES

MILLISECOND_STEP = 10.0  # a step of so many units or more is one of milliseconds
_UNITS = r"s|secs?|seconds?|ms|msecs?|milliseconds?|us|usecs?|microseconds?|ns|nanoseconds?"
_TIME = re.compile(rf"(frame_?)?(times?|time_?stamps?)(_in)?(_({_UNITS}))?|secs?|seconds?|ms|milliseconds?")
_SHORT_TIME = ("t", "ts", "pts")  # among the first two columns
_UNIT_OF_NAME = re.compile(rf"(.*_)?({_UNITS})")
_PER_SECOND = {"s": 1.0, "m": 1e3, "u": 1e6, "n": 1e9}  # by a unit's first letter; microseconds is looked at first
_STARTS = ("start", "start_time", "starttime", "start_s", "onset", "begin", "begin_time")
_ENDS = ("end", "end_time", "endtime", "end_s", "offset", "stop", "stop_time")
LATEST = 1e6  # seconds; what begins later is a date, which float32 could not hold
FRAMES = (
    "frame", "frames", "frame_id", "frame_idx", "frame_index", "frameindex", "frame_no", "frame_num", "frame_number",
    "framenumber", "frameid",
)  # fmt: skip
IDS = (
    "file_id", "fileid", "clip_id", "clipid", "clip", "video_id", "videoid", "video_name", "video", "filename",
    "file_name", "filepath", "file_path", "file", "path", "name", "input", "utterance_id", "utterance", "sample_id",
    "id",
)  # fmt: skip
FILES = ("filename", "file_name", "filepath", "file_path", "file", "path", "input")  # of a clip, or of a picture
SEGMENTS = ("segment_id",)
ROWS = ("", "unnamed_0", "index")  # where they count the rows
# A cell that ends so names a file.
_SUFFIXES = (*VIDEO_SUFFIXES, *AUDIO_SUFFIXES, ".jpg", ".jpeg", ".png", ".bmp", ".csv", ".npy", ".pt", ".pkl", ".txt")


def id_of_cell(cell: str) -> str:
    """Return the clip id that a cell means: the name of a file in it without folder and suffix, or the cell as it is.

    UserError where it can be none.
    """
    name = PurePosixPath(cell.strip().strip("'\"[]").replace("\\", "/")).name
    is_file = name.lower().endswith(_SUFFIXES) and not name.startswith(".")
    return clip_id(name.rpartition(".")[0] if is_file else name)


def plain_cell(cell: str) -> str:
    return cell.strip().strip("'\"[]").replace("\\", "/")


def is_time(key: str) -> bool:
    """Return whether a column of that name has times."""
    return _TIME.fullmatch(key) is not None


def time_place(cells: Cells, reading: Reading, notes: list[str]) -> int | None:
    """Return the column of times, by its name, with a note where that is a guess."""
    keys = cells.keys
    if (place := next((place for place, key in enumerate(keys) if is_time(key)), None)) is not None:
        return place
    for place, key in enumerate(keys[:2]):
        is_chosen = bool(reading.columns) and cells.names[place].startswith(reading.columns)
        if place not in cells.texts and not is_chosen and (key in _SHORT_TIME or "time" in key):
            notes.append(f"column {cells.names[place]!r} is taken for the time (--columns says what features are)")
            return place
    return None


def in_the_middle(cells: Cells, notes: list[str]) -> tuple[Cells, int | None, set[int]]:
    """Return cells with the middle of each row in its column of starts; its place; and those of starts and ends."""
    start, end = place_of(cells, *_STARTS), place_of(cells, *_ENDS)
    if start is None or end is None or {start, end} & cells.texts.keys():
        return cells, None, set()
    notes.append(f"a row stands in the middle of {cells.names[start]!r} and {cells.names[end]!r}")
    values = cells.values.copy()
    values[:, start] = (values[:, start] + values[:, end]) / 2
    return replace(cells, values=values), start, {start, end}


def place_of(cells: Cells, *names: str) -> int | None:
    keys = cells.keys
    return next((keys.index(name) for name in names if name in keys), None)


def names_clip(cells: Cells, place: int, clip: str | None) -> bool:
    """Return whether every cell of a column means the clip."""
    if clip is None:
        return False
    for cell in set(cells.text(place)):
        try:
            if clip not in (id_of_cell(cell), clip_id(cell)):
                return False
        except UserError:
            return False
    return True


def looks_like_id(cells: Cells, place: int, clip: str, is_beside_time: bool) -> bool:
    """Return whether a column has the clip's name, or another one, in all rows.

    Numbers are names if they are long, as in a clip called 1 any column may say so; and those of other clips only
    beside the time, where the challenges' organisers put them.
    """
    if place in cells.texts:
        return len(set(cells.text(place))) == 1
    if not is_beside_time or names_clip(cells, place, clip):
        return len(clip) > 3 and names_clip(cells, place, clip)
    value = cells.values[0, place]
    return bool(np.isfinite(value) and value >= 1000 and value % 1 == 0 and (cells.values[:, place] == value).all())


def check_ids(cells: Cells, place: int, clip: str) -> None:
    """Raise a ClipError naming the first row of another clip than the file's."""
    known: set[str] = set()
    for line, cell in zip(cells.lines, cells.text(place), strict=True):
        if cell in known:
            continue
        known.add(cell)
        try:
            others = {id_of_cell(cell), clip_id(cell)}
        except UserError:
            try:
                others = {id_of_cell(cell)}
            except UserError:
                others = set()
        if clip not in others:
            shown = one_line(min(others, key=len) if others and re.search(r"[/\\]", cell) else cell)[:60]
            raise ClipError(
                f"line {line} is of clip {shown!r}, not of {clip!r} as the file's name says (a table of many clips is "
                "read if the file itself is named instead of its folder)"
            )


def table_of(
    cells: Cells, channels: list[int], times: np.ndarray | None, steps: np.ndarray | None, notes: Sequence[str]
) -> Table:
    if not len(cells) or not channels:
        raise ClipError("has no row of features")
    tokens = float32(cells.numbers(channels))
    names = names_of(cells, channels)
    return Table(tokens, np.ones(len(tokens), bool), times, names, steps, None, tuple(notes))


def names_of(cells: Cells, channels: list[int]) -> tuple[str, ...]:
    return tuple(cells.names[place] for place in channels) if any(cells.names) else ()


def chosen(cells: Cells, places: list[int], columns: tuple[str, ...]) -> list[int]:
    """Return the places of columns whose names begin with one of `columns`; all where there are none."""
    chosen = [place for place in places if cells.names[place].startswith(columns)] if columns else places
    if columns and not chosen:
        raise ClipError(f"has no column that begins with {' or '.join(columns)}")
    return chosen


def when(
    cells: Cells, time: int | None, frame: int | None, reading: Reading, unit: str = ""
) -> tuple[np.ndarray | None, np.ndarray | None, list[str]]:
    """Return times (rows,) in seconds, or None with the places of the rows in steps, and what was decided.

    `unit` is that of the layout's times, if known.
    """
    notes: list[str] = []
    if time is not None:
        times = seconds(cells, time)
        if len(times) < 2 or times.any():
            check_times(times, cells.lines)
            key = cells.keys[time]
            if reading.time_unit != "auto":
                unit = reading.time_unit
            elif time in cells.texts:
                unit = "s"  # they are written as 00:01:02.5
            elif not unit and (named := _UNIT_OF_NAME.fullmatch(key)):
                unit = "us" if named[2].startswith("micro") else named[2]
            elif not unit:
                step = np.median(np.diff(times)) if len(times) > 1 else times[0] if len(times) else 0
                if step >= MILLISECOND_STEP:
                    unit = "ms"
                    notes.append("its times, of steps of 10 and more, are taken for milliseconds (--time_unit)")
            times = times / _PER_SECOND[unit[:1] or "s"]
            if len(times) and abs(times[0]) > LATEST:
                notes.append("its times are of a calendar, and are counted from the first row")
                times = times - times[0]
            return times, None, notes
        notes.append("all its times are 0, so they are not used")
    elif len(cells) < 2:
        return np.zeros(len(cells)), None, notes  # one row is of the whole clip
    if frame is None:
        return None, None, [*notes, "its rows have no times, and are --step_seconds apart"]
    steps = cells.numbers([frame])[:, 0]
    check_times(steps, cells.lines, "frame")
    first = 1 if len(steps) and ("success" in cells.keys or steps[0] == 1) else 0  # OpenFace counts from 1
    return None, steps - first, [*notes, "its frames are numbered, and --step_seconds apart (1 / frames per second)"]


def check_times(times: np.ndarray, lines: np.ndarray, what: str = "time") -> None:
    if not np.isfinite(times).all():
        raise ClipError(f"a {what} that is no number, in line {lines[np.flatnonzero(~np.isfinite(times))[0]]}")
    if (steps := np.diff(times) <= 0).any():
        raise ClipError(f"the {what} in line {lines[np.flatnonzero(steps)[0] + 1]} is not after the one before it")


def seconds(cells: Cells, place: int) -> np.ndarray:
    """Return (rows,) float64 of times such as 0 days 00:00:01.5, or of numbers; NaN where there is none."""
    if place in cells.texts and place not in cells.wrong:
        found = pd.to_timedelta(pd.Series(cells.text(place)), errors="coerce")
        return found.dt.total_seconds().to_numpy(np.float64)
    if place in cells.wrong:
        return cells.values[:, place]
    return cells.numbers([place])[:, 0]
