"""What the columns of a CSV are by their names: ids, times, frames; and the features of its rows."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import PurePosixPath

import numpy as np
import pandas as pd

from viper.clip_ids import cell_id, clip_id
from viper.errors import ClipError, UserError, one_line
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
LABELS = ("label", "labels", "label_id", "target", "targets", "class", "class_id", "gold", "annotation", "sentiment")
ROWS = ("", "unnamed_0", "index")  # where they count the rows
# A cell that ends so names a file.
_SUFFIXES = (*VIDEO_SUFFIXES, *AUDIO_SUFFIXES, ".jpg", ".jpeg", ".png", ".bmp", ".csv", ".npy", ".pt", ".pkl", ".txt")


# What holds several clips, and what numbers them within it.
_WHOLES = (
    "video_id", "videoid", "video_name", "video", "dialogue_id", "dialog_id", "dialogueid", "dialogue", "dialog",
    "session_id", "sessionid", "session", "movie_id", "movie", "film", "episode", "season",
)  # fmt: skip
_PARTS = ("clip_id", "clipid", "clip", "utterance_id", "utterance", "sample_id", "id")


def id_of_cell(cell: str, separator: str | None = None, root: str = "") -> str:
    """Return the clip id that a cell means: the name of a file in it without folder and suffix, or the cell as it is.

    With a separator its folders, below the folder `root`, are part of the id, as in a manifest. UserError where it
    can be none.
    """
    path = plain_cell(cell).removeprefix(root)
    name = PurePosixPath(path).name
    is_file = name.lower().endswith(_SUFFIXES) and not name.startswith(".")
    own = name.rpartition(".")[0] if is_file else name
    if separator is None or name == path:
        return clip_id(own)
    return cell_id(f"{path[: -len(name)] if name else path}{own}", separator)


def folders_above(cells: Iterable[str]) -> str:
    """Return the folders that all paths from the root begin with, down to the last /; empty where there are none."""
    paths = [path for cell in cells if re.match(r"/|[A-Za-z]:/", path := plain_cell(cell))]
    common = [] if not paths else [path.split("/")[:-1] for path in (min(paths), max(paths))]
    n_same = 0
    while common and n_same < min(map(len, common)) and common[0][n_same] == common[1][n_same]:
        n_same += 1
    return "".join(f"{part}/" for part in common[0][:n_same]) if common else ""


def plain_cell(cell: str) -> str:
    return cell.strip().strip("'\"[]").replace("\\", "/")


@dataclass(frozen=True)
class OwnIds:
    """What the rows of one clip's file may call it.

    Attributes
    ----------
    clip : its id.
    name : its file's name without the suffix.
    separator : joins subfolders and name to the id; None: subfolders are not read.
    """

    clip: str
    name: str
    separator: str | None = None

    def has(self, cell: str) -> bool:
        """Return whether a cell means the clip: its id, its file's name, or a path that ends in the clip's own."""
        path = plain_cell(cell)
        parts = path.split("/")
        meant = {_id_or_none(cell, None)} if self.separator is None or len(parts) == 1 else set()
        for place in range(len(parts) if self.separator is not None else 0):
            if _id_or_none("/".join(parts[place:]), self.separator) == self.clip:
                return True
        with contextlib.suppress(UserError):
            meant.add(clip_id(cell))
        return bool(meant & {self.clip, self.name})


def _id_or_none(cell: str, separator: str | None) -> str | None:
    try:
        return id_of_cell(cell, separator)
    except UserError:
        return None


def check_parts(cells: Cells, place: int) -> None:
    """Raise a ClipError where a column that names clips is a number within a video or dialogue of another column.

    Rows of several videos would be one clip.
    """
    if cells.keys[place] not in _PARTS:
        return
    parts = cells.text(place)
    for other in (k for k, key in enumerate(cells.keys) if key in _WHOLES and k != place):
        wholes: dict[str, str] = {}
        for part, whole in zip(parts, cells.text(other), strict=True):
            if (first := wholes.setdefault(part, whole)) != whole:
                shown = one_line(f"{part!r} is in {first!r} and in {whole!r}")[:100]
                raise ClipError(
                    f"column {cells.names[place]!r} does not name clips by itself, {shown} of {cells.names[other]!r}; "
                    f"write a column that does and name it with --id_column (--id_column {cells.names[place]} joins "
                    "such rows)"
                )


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


def names_clip(cells: Cells, place: int, own: OwnIds | None) -> bool:
    """Return whether every cell of a column means the clip."""
    return own is not None and all(map(own.has, set(cells.text(place))))


def looks_like_id(cells: Cells, place: int, own: OwnIds, is_beside_time: bool) -> bool:
    """Return whether a column has the clip's name, or another one, in all rows.

    Numbers are names if they are long, as in a clip called 1 any column may say so; and those of other clips only
    beside the time, where the challenges' organisers put them.
    """
    if place in cells.texts:
        return len(set(cells.text(place))) == 1
    if not is_beside_time or names_clip(cells, place, own):
        return len(own.name) > 3 and names_clip(cells, place, own)
    value = cells.values[0, place]
    return bool(np.isfinite(value) and value >= 1000 and value % 1 == 0 and (cells.values[:, place] == value).all())


def check_ids(cells: Cells, place: int, own: OwnIds) -> None:
    """Raise a ClipError naming the first row of another clip than the file's."""
    known: set[str] = set()
    for line, cell in zip(cells.lines, cells.text(place), strict=True):
        if cell in known:
            continue
        known.add(cell)
        if not own.has(cell):
            meant = _id_or_none(cell, own.separator) or _id_or_none(cell, None)
            shown = one_line(meant if meant and re.search(r"[/\\]", cell) else cell)[:60]
            mine = own.name if own.name == own.clip or own.separator is None else own.clip
            raise ClipError(
                f"line {line} is of clip {shown!r}, not of {mine!r} as the file's name says (a table of many clips is "
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
        # pandas would take 00:00:01,500 for 1500 seconds.
        texts = [re.sub(r",(?=\d+$)", ".", cell.strip()) for cell in cells.text(place)]
        found = pd.to_timedelta(pd.Series([None if "," in text else text for text in texts]), errors="coerce")
        return found.dt.total_seconds().to_numpy(np.float64)
    if place in cells.wrong:
        return cells.values[:, place]
    return cells.numbers([place])[:, 0]
