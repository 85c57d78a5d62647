"""The CSV files of known tools: OpenFace, py-feat, openSMILE."""

from __future__ import annotations

import re

import numpy as np

from viper.errors import ClipError
from viper.media.imports.csv_cells import Cells
from viper.media.imports.csv_roles import (
    ROWS,
    OwnIds,
    check_ids,
    check_times,
    chosen,
    names_of,
    place_of,
    seconds,
    table_of,
    when,
)
from viper.media.imports.table import Reading, Table, float32

_OPENFACE_OTHERS = ("frame", "face_id", "face", "timestamp", "confidence", "success")
_EMOTIONS = ("anger", "disgust", "fear", "happiness", "sadness", "surprise", "neutral", "happy", "sad")


def openface(cells: Cells, reading: Reading) -> Table:
    """Read OpenFace's: the action units' intensities (AU.._r) and presences (AU.._c); `success` 0 masks a frame.

    FeatureExtraction writes frame, face_id, timestamp (0 for a folder of pictures), confidence, success;
    FaceLandmarkImg, whose rows are the faces of one picture, face and confidence only.
    """
    keys = cells.keys
    if reading.columns:
        named = [place for place, key in enumerate(keys) if key not in _OPENFACE_OTHERS]
        channels = chosen(cells, named, reading.columns)
    else:
        channels = [place for place, key in enumerate(keys) if re.fullmatch(r"au\d+_[rc]", key)]
    if not channels:
        raise ClipError("an OpenFace table without AU columns (--columns takes others)")
    notes: list[str] = []
    success = place_of(cells, "success")
    if not len(cells) and success is None:
        notes = ["OpenFace found no face in the picture; it is masked"]
    face = place_of(cells, "face_id", "face")
    if face is not None and len(cells):
        cells, notes = _one_person(cells, face, success)
    if not len(cells) and success is not None:
        raise ClipError("has no row of features")
    is_found = np.ones(len(cells), bool) if success is None else cells.numbers([success])[:, 0] == 1
    time, frame = place_of(cells, "timestamp"), place_of(cells, "frame")
    times, steps, more = when(cells, time, frame, reading, "s")
    tokens = float32(cells.numbers(channels))
    return Table(tokens, is_found, times, names_of(cells, channels), steps, False, (*notes, *more))


def _one_person(cells: Cells, face: int, success: int | None) -> tuple[Cells, list[str]]:
    """Return the rows of the person who is in the picture longest; of two, the one seen with more confidence."""
    faces = cells.numbers([face])[:, 0]
    known = np.unique(faces)
    if len(known) <= 1:
        return cells, []
    confidence = place_of(cells, "confidence")
    sure = np.ones(len(cells)) if confidence is None else np.nan_to_num(cells.numbers([confidence])[:, 0])
    found = np.ones(len(cells), bool) if success is None else cells.numbers([success])[:, 0] == 1
    frames = [(int(found[faces == each].sum()), float(sure[(faces == each) & found].sum()), -each) for each in known]
    best = known[frames.index(max(frames))]
    how = "is longest in the picture" if success is not None else "was found with most confidence"
    return cells.take(faces == best), [f"several faces; the one that {how} is taken"]


def pyfeat(cells: Cells, reading: Reading) -> Table:
    """Read py-feat's: action units and emotions; a frame without a face has no numbers, or a score of 0.

    Of several faces in a frame, the one is taken whose Identity is in most frames, or without identities the largest.
    """
    keys = cells.keys
    units = [place for place, key in enumerate(keys) if re.fullmatch(r"au\d+", key) or key in _EMOTIONS]
    others = ("frame", "input", "facescore", "approx_time", "identity", *ROWS)
    named = [place for place, key in enumerate(keys) if key not in others and place not in cells.texts]
    channels = chosen(cells, named, reading.columns) if reading.columns else units
    if not channels or not len(cells):
        raise ClipError("has no row of features")
    notes: list[str] = []
    frame, identity = place_of(cells, "frame"), place_of(cells, "identity")
    numbers = np.arange(len(cells)) if frame is None else cells.numbers([frame])[:, 0]
    if len(np.unique(numbers)) < len(numbers):
        size = np.arange(len(cells), 0, -1.0)
        places = [place_of(cells, name) for name in ("facerectwidth", "facerectheight")]
        if None not in places:
            size = np.nan_to_num(cells.numbers([place for place in places if place is not None]).prod(axis=1))
        if identity is not None:
            is_text = identity in cells.texts
            people = np.array(cells.text(identity) if is_text else cells.values[:, identity].astype(str))
            names, counts = np.unique(people[people != ""], return_counts=True)
            size = size + (people == names[counts.argmax()]) * (size.max() + 1)
        best = sorted({int(np.flatnonzero(numbers == n)[size[numbers == n].argmax()]) for n in np.unique(numbers)})
        cells = cells.take(np.array(best))
        notes = [
            "several faces in a frame; " + ("the largest" if identity is None else "the person in most frames")
            + " is taken"
        ]  # fmt: skip
    score = place_of(cells, "facescore")
    is_found = np.ones(len(cells), bool) if score is None else ~(cells.values[:, score] == 0)
    times, steps, more = when(cells, None, frame, reading)
    tokens = float32(cells.numbers(channels))
    return Table(tokens, is_found, times, names_of(cells, channels), steps, False, (*notes, *more))


def opensmile(cells: Cells, reading: Reading) -> Table:
    """Read SMILExtract's: `name;frameTime;...`; without frameTime one row of functionals for the whole file.

    The name is whatever -instname said, 'unknown' by default; two of them are two clips.
    """
    # "frameIndex" and "frameTime" stand there or not, by the configuration.
    others = [place for place, key in enumerate(cells.keys[:3]) if key in ("name", "frameindex", "frametime")]
    name, frame_time = place_of(cells, "name"), place_of(cells, "frametime")
    if name is not None and name in others:
        names = cells.text(name)
        line = next((number for number, each in zip(cells.lines, names, strict=True) if each != names[0]), None)
        if line is not None:
            raise ClipError(f"line {line} has another name than the lines above it; one clip a file is read")
    named = [place for place in range(len(cells.names)) if place not in others]
    frame = place_of(cells, "frameindex")
    at = when(cells, frame_time, frame, reading, "s")
    return table_of(cells, chosen(cells, named, reading.columns), *at)


def opensmile_python(cells: Cells, reading: Reading, own: OwnIds | None) -> Table:
    """Return the package opensmile: `file,start,end,...`, times as 0 days 00:00:01.5; a token stands in its middle."""
    of = {key: place for place, key in enumerate(cells.keys[:3]) if key in ("file", "start", "end")}
    if "file" in of and own is not None:
        check_ids(cells, of["file"], own)
    start, end = (seconds(cells, of[name]) for name in ("start", "end"))
    times = np.where(np.isfinite(end), (start + end) / 2, start)
    check_times(times, cells.lines)
    named = [place for place in range(len(cells.names)) if place not in of.values()]
    return table_of(cells, chosen(cells, named, reading.columns), times, None, [])
