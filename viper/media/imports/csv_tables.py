"""Features in CSV files: OpenFace's, py-feat's, LibreFace's, openSMILE's, the challenges' organisers' and others'."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np

from viper.errors import ClipError, UserError, one_line
from viper.logs import log
from viper.media.imports.csv_cells import Cells, read_cells
from viper.media.imports.csv_roles import (
    FILES,
    FRAMES,
    IDS,
    LABELS,
    ROWS,
    SEGMENTS,
    OwnIds,
    check_ids,
    check_parts,
    chosen,
    folders_above,
    id_of_cell,
    in_the_middle,
    is_time,
    looks_like_id,
    names_clip,
    place_of,
    plain_cell,
    table_of,
    time_place,
    when,
)
from viper.media.imports.csv_tools import openface, opensmile, opensmile_python, pyfeat
from viper.media.imports.table import Reading, Table

EVEN = 0.02  # of a step, by which times that are rounded may be off


def read_csv_table(path: Path, reading: Reading, clip: str) -> Table:
    """Read a CSV of one clip's features, whose id is `clip`; the header says whose it is.

    Raises ClipError naming the line where it holds another clip's row, a time that is no number or does not follow the
    one before, or a cell that is no number.
    """
    cells = read_cells(path)
    return lay_out(cells, OwnIds(clip, path.stem, reading.separator), reading).noted(cells.notes)


def read_csv_clips(path: Path, reading: Reading) -> dict[str, Table | ClipError]:
    """Read a CSV of many clips' features: a column names the clips. Return id -> its rows, or why they are no table.

    Rows whose name can be no id are left out, with a warning; two names of one id are an error of that clip. Raises
    ClipError where no column names the clips, or the one that does is a number within another one's videos.
    """
    cells = read_cells(path)
    place = _id_place(cells, reading)
    if place is None:
        raise ClipError(
            "no column names the clips of its rows; name it with --id_column, or the folder if the file is of one clip"
        )
    if not reading.id_column:
        check_parts(cells, place)
    rows: dict[str, list[int]] = {}
    spelled: dict[str, str] = {}
    ids: dict[str, str] = {}
    found: dict[str, Table | ClipError] = {}
    names = cells.text(place)
    root = "" if reading.separator is None else folders_above(dict.fromkeys(names))
    for row, cell in enumerate(names):
        if cell not in ids:
            try:
                ids[cell] = id_of_cell(cell, reading.separator, root)
            except UserError as error:
                log.warning("%s, line %d: its rows are left out: %s", path.name, cells.lines[row], error)
                ids[cell] = ""
                continue
            first = spelled.setdefault(ids[cell], cell)
            if plain_cell(first) != plain_cell(cell):
                said = f"{one_line(first)!r} and {one_line(cell)!r} would both be clip {ids[cell]!r}"
                is_path = reading.separator is None and "/" in plain_cell(first) + plain_cell(cell)
                found[ids[cell]] = ClipError(said + " (--subfolders makes ids of paths)" * is_path)
        if ids[cell]:
            rows.setdefault(ids[cell], []).append(row)
    others = cells.without(place)
    note = f"the clips are named by column {cells.names[place]!r} (--id_column)"
    if any("/" in plain_cell(cell) for cell in ids):
        whose = f"below {root}" if root else "as they stand"
        note += f", their paths {whose} being the ids" * (reading.separator is not None)
        note += ", without its folders (--subfolders makes them part of the ids)" * (reading.separator is None)
    for clip, numbers in rows.items():
        if clip in found:
            continue
        try:
            found[clip] = lay_out(others.take(np.array(numbers)), None, reading).noted((note, *cells.notes))
        except ClipError as error:
            found[clip] = error
    return found


def lay_out(cells: Cells, own: OwnIds | None, reading: Reading) -> Table:
    """Return the features of one clip's rows; the columns' names say which layout it is.

    `own` is what rows may call the clip; None where they have been sorted by it.
    """
    keys = cells.keys
    has_units = any(re.fullmatch(r"au\d+_[rc]", key) for key in keys)
    if "success" in keys or (has_units and "confidence" in keys):
        return openface(cells, reading)
    if {"facescore", "facerectx"} & set(keys):
        return pyfeat(cells, reading)
    if {"start", "end"} <= set(keys[:3]):
        return opensmile_python(cells, reading, own)
    if "frametime" in keys[:3] or (keys[:1] == ["name"] and own is not None and not any(map(is_time, keys))):
        return opensmile(cells, reading)
    return _general(cells, own, reading)


def _id_place(cells: Cells, reading: Reading) -> int | None:
    if reading.id_column:
        wanted = re.sub(r"\W+", "_", reading.id_column.lower()).strip("_")
        place = cells.names.index(reading.id_column) if reading.id_column in cells.names else place_of(cells, wanted)
        if place is None:
            raise ClipError(f"has no column {reading.id_column!r}; there are {one_line(', '.join(cells.names))}")
        return place
    place = place_of(cells, *IDS)
    return 0 if place is None and len(cells) and 0 in cells.texts and 0 not in cells.wrong else place


def _general(cells: Cells, own: OwnIds | None, reading: Reading) -> Table:
    """Read any other layout: columns called an id, a time or a frame are those, the others are features.

    The challenges' organisers begin with id and time, in either order, whatever they call them. An id called segment_id
    counts the segments of a recording, and is not the clip's.
    """
    keys = cells.keys
    if not len(cells):
        raise ClipError("has no row of features")
    notes: list[str] = []
    cells, time, spans = in_the_middle(cells, notes)
    time = time_place(cells, reading, notes) if time is None else time
    frame = place_of(cells, *FRAMES)
    roles = {time, frame, *spans, *(place for place, key in enumerate(keys) if key in SEGMENTS)} - {None}
    counted = 0 if keys[0] in ROWS and 0 not in roles and any(cells.names) else None
    if counted is not None and 0 not in cells.texts:
        does_count = own is None or (np.diff(cells.values[:, 0]) == 1).all()
        if not does_count and not names_clip(cells, 0, own):
            raise ClipError(f"its first column, called {cells.names[0]!r}, does not count the rows; rename it")
        if not names_clip(cells, 0, own):
            roles.add(0)
            notes.append("the first column, which counts the rows, is left out")
    if own is not None:
        place = _id_place(cells, reading) if any(cells.names) else None
        if place is not None and keys[place] in FILES and len(set(cells.text(place))) == len(cells) > 1:
            notes.append(f"column {cells.names[place]!r} names a file a row, and is left out")
            roles.add(place)
        if place in roles:
            place = None
        if place is None:
            first = (k for k in range(min(2, len(keys))) if k not in roles)
            place = next((k for k in first if looks_like_id(cells, k, own, time in (0, 1))), None)
        if place is not None:
            check_ids(cells, place, own)
            roles.add(place)
            time, more = _unnamed_time(cells, place, time, frame, reading)
            roles |= {time} - {None}
            notes += more
    named = [place for place in range(len(keys)) if place not in roles]
    channels = chosen(cells, named, reading.columns) if reading.columns else named
    texts = [place for place in channels if place in cells.texts and place not in cells.wrong]
    channels = [place for place in channels if place not in texts]
    if not reading.columns and _is_libreface(keys):
        channels = [place for place in channels if re.fullmatch(r"au_\d+(_intensity)?", keys[place])]
        texts = []
        notes.append("of LibreFace's columns the action units are taken (--columns takes others)")
    if not channels:
        if texts:
            cell = cells.texts[texts[0]][0]
            raise ClipError(f"line {cells.lines[0]} has a cell that is no number: {one_line(str(cell))[:60]!r}")
        raise ClipError("has no column of features beside id and time")
    if texts:
        names = ", ".join(cells.names[place] for place in texts)
        notes.append(f"columns of text are left out: {one_line(names)[:100]}")
    labels = [cells.names[place] for place in channels if keys[place] in LABELS]
    if labels and not reading.columns:
        notes.append(f"column {labels[0]!r} is a feature like the others, though it is called like a label (--columns)")
    times, steps, more = when(cells, time, frame, reading)
    table = table_of(cells, channels, times, steps, more)
    return table.noted(notes)


def _is_libreface(keys: list[str]) -> bool:
    return "frame_time_in_ms" in keys and any(re.fullmatch(r"au_\d+_intensity", key) for key in keys)


def _unnamed_time(
    cells: Cells, place: int, time: int | None, frame: int | None, reading: Reading
) -> tuple[int | None, list[str]]:
    """Return the time's column; where none is called so, the one beside the id if it grows in even steps.

    Steps are even where each is a multiple of the least: rows may be left out.
    """
    other = 1 - place
    if time is not None or frame is not None or other not in (0, 1) or len(cells) < 3 or len(cells.names) < 3:
        return time, []
    steps = np.diff(cells.values[:, other])
    is_chosen = bool(reading.columns) and cells.names[other].startswith(reading.columns)
    if is_chosen or not (steps > 0).all():
        return None, []
    shares = steps / steps.min()
    if np.abs(shares - np.round(shares)).max() > EVEN:
        return None, []
    name = cells.names[other]
    return other, [f"column {name!r} beside the id grows, and is taken for the time (--columns says what features are)"]
