"""Clips whose features were made elsewhere: a folder's files, or the clips of one file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NoReturn

import numpy as np

from viper.clip_ids import clip_id
from viper.engine.failures import FAILURES_FILE
from viper.errors import ClipError, UserError, one_line
from viper.files import digest_of, visible_entries
from viper.fingerprints import fingerprint, fingerprint_bytes
from viper.logs import log
from viper.media.imports.csv_roles import id_of_cell
from viper.media.imports.csv_tables import read_csv_clips
from viper.media.imports.files import (
    COMPANIONS,
    CSV_SUFFIXES,
    FEATURE_SUFFIXES,
    RATE_OF_VIDEO_FEATURES,
    TIMES_OF_VIDEO_FEATURES,
    companions,
    read_table,
)
from viper.media.imports.mmsa import MMSA_SUFFIXES, read_mmsa
from viper.media.imports.npz import read_npz
from viper.media.imports.table import Reading, Table, table_of_array
from viper.media.listing import MediaClip, clip_errors, list_files

# What is not read, and how it can be.
_SAVE = "save each clip's features as <clip>.npy"
NOT_READ: Mapping[str, str] = {
    ".mat": f"MATLAB's files are not read; {_SAVE} (scipy.io.loadmat reads them)",
    ".h5": f"HDF5 is not read; {_SAVE} (h5py reads it)",
    ".hdf5": f"HDF5 is not read; {_SAVE} (h5py reads it)",
    ".csd": f"CMU-MultimodalSDK's files are not read; {_SAVE} (mmsdk or h5py reads them)",
    ".arff": "openSMILE's .arff is not read; have it write CSV (-csvoutput)",
    ".parquet": "Parquet is not read; save it as CSV",
    ".xlsx": "Excel's files are not read; save them as CSV",
    ".json": f"JSON is not read; {_SAVE}",
    ".txt": "text files are not read; save them as CSV",
}


@dataclass(frozen=True)
class ForeignClip(MediaClip):
    """A file of features made elsewhere.

    Attributes
    ----------
    reading : what the user said of the files.
    """

    reading: Reading

    def source(self) -> str:
        """Return a fingerprint of the file, and of those beside it that have its times and mask."""
        self.check()
        with clip_errors():
            beside = {name: fingerprint(path) for name, path in companions(self.path).items()}
            return digest_of([fingerprint(self.path), beside])

    def read(self) -> Table:
        """Return its rows."""
        return read_table(self.path, self.reading, self.id)


@dataclass(frozen=True, eq=False)
class RowsClip:
    """One of the many clips of a pickle made elsewhere: features (T, D), which have been read already."""

    id: str
    rows: np.ndarray

    def source(self) -> str:
        """Return the fingerprint of the values: the other clips of the file may change without it."""
        kind = f"{self.rows.dtype.str}{self.rows.shape}".encode()
        return fingerprint_bytes(kind, np.ascontiguousarray(self.rows).tobytes())

    def read(self) -> Table:
        """Return its rows; those of zeros are of nothing that was found."""
        return replace(table_of_array(self.rows), zeros=True)


@dataclass(frozen=True, eq=False)
class TableClip:
    """One of the many clips of a CSV made elsewhere: a table which has been read already, or why it is none."""

    id: str
    table: Table | ClipError

    def source(self) -> str:
        """Return the fingerprint of the values: the other clips of the file may change without it."""
        table = self.read()
        parts = [table.tokens, table.mask, table.times, table.steps]
        arrays = [b"" if part is None else np.ascontiguousarray(part).tobytes() for part in parts]
        return fingerprint_bytes(repr((table.channels, table.tokens.shape, table.zeros)).encode(), *arrays)

    def read(self) -> Table:
        """Return its rows."""
        if isinstance(self.table, ClipError):
            raise ClipError(str(self.table))
        return self.table


AnyForeignClip = ForeignClip | RowsClip | TableClip


def list_foreign_clips(
    path: Path, reading: Reading, is_key_given: bool = False, separator: str | None = None
) -> Sequence[AnyForeignClip]:
    """Return features made elsewhere: a folder's files, one a clip, or the clips of one pickle, archive or CSV.

    `is_key_given` says that the key of `reading` is the user's own; `separator` as of `list_files`. UserError where
    there is none.
    """
    suffix, reading = path.suffix.lower(), replace(reading, separator=separator)
    if not path.is_file():
        return _of_folder(path, reading, is_key_given, separator)
    if suffix in CSV_SUFFIXES:
        try:
            return [TableClip(*pair) for pair in read_csv_clips(path, reading).items()] or _nothing(path)
        except (ClipError, OSError) as error:
            raise UserError(f"{path}: {one_line(str(error))}") from error
    if suffix == ".npz" and (clips := _of_archive(path, separator)):
        return clips
    if suffix not in (*MMSA_SUFFIXES, ".npz"):
        kinds = "a CSV, an .npz, or a pickle of MMSA"
        raise UserError(f"{path}: {NOT_READ.get(suffix, f'is a file; name its folder (many clips may be in {kinds})')}")
    splits = read_mmsa(path).splits.values()
    rows = [RowsClip(*pair) for split in splits for pair in zip(split.clips, split.rows(reading.key), strict=True)]
    return rows or _nothing(path)


def _nothing(path: Path) -> NoReturn:
    raise UserError(f"{path}: holds no clips")


def _of_archive(path: Path, separator: str | None) -> list[RowsClip | TableClip]:
    """Return the clips of an .npz with an array a clip; none where it has ids, as MMSA's files do."""
    try:
        arrays = read_npz(path)
    except (ClipError, OSError, ValueError) as error:
        raise UserError(f"{path}: {one_line(str(error))}") from error
    if "id" in arrays:
        return []
    clips: dict[str, RowsClip | TableClip] = {}
    for name, array in arrays.items():
        try:
            clip = id_of_cell(name, separator)
        except UserError as error:
            log.warning("%s: an array in it is left out: %s", path.name, error)
            continue
        twice = ClipError(f"{path.name}: several arrays in it would be clip {clip!r}")
        clips[clip] = TableClip(clip, twice) if clip in clips else RowsClip(clip, array)
    return list(clips.values()) or _nothing(path)


def _of_folder(folder: Path, reading: Reading, is_key_given: bool, separator: str | None) -> Sequence[ForeignClip]:
    if folder.is_dir():
        kinds = {path.suffix.lower() for path in visible_entries(folder)}
        readme = () if kinds.isdisjoint(FEATURE_SUFFIXES) else (".txt", ".json")
        for suffix in sorted(kinds & NOT_READ.keys() - {*readme}):
            log.warning("%s: %s files in it: %s", folder, suffix, NOT_READ[suffix])
    files = list_files(folder, FEATURE_SUFFIXES, "features", (), separator, COMPANIONS)
    files = [file for file in files if file.path.name != FAILURES_FILE]
    kind = reading.key if is_key_given else ""
    files = list(_of_video_features(folder, files, kind))
    return [ForeignClip(file.id, file.path, reading, problem=file.problem) for file in files]


def _of_video_features(folder: Path, files: Sequence[MediaClip], kind: str) -> Sequence[MediaClip]:
    """Return the files with their clips' ids, where they are named as video_features names them.

    These are <clip>_<kind>.npy, with <clip>_timestamps_ms.npy and <clip>_fps.npy for some kinds. `kind` is the one that
    is taken. UserError where there are several and none is named.
    """
    # By ids, not names: those in subfolders may be alike.
    arrays = {file.id: file for file in files if file.path.suffix.lower() == ".npy" and file.problem is None}
    beside = (TIMES_OF_VIDEO_FEATURES, RATE_OF_VIDEO_FEATURES)
    timed = {stem.removesuffix(end) for stem in arrays for end in beside if stem.endswith(end)}
    features = {
        stem: file
        for stem, file in arrays.items()
        if not any(stem.endswith(end) and stem.removesuffix(end) in timed for end in beside)
    }
    kinds = {stem.rpartition("_")[2] for stem in features if stem.rpartition("_")[0] in timed}
    is_named = bool(kind) and any(stem.endswith(f"_{kind}") for stem in features)
    if not kinds and not is_named and {stem.rpartition("_")[2] for stem in features} != {"rgb", "flow"}:
        return files
    kinds = kinds or {"rgb", "flow"}
    if is_named:
        kinds = {kind}
    if len(kinds) > 1:
        there = ", ".join(sorted(kinds)[:10])
        raise UserError(f"{folder}: holds <clip>_<kind>.npy of several kinds ({there}); name one with --key")
    (kind,) = kinds
    taken = {stem.removesuffix(f"_{kind}"): file for stem, file in features.items() if stem.endswith(f"_{kind}")}
    said = "%s: %d files <clip>_%s.npy are read; their names without _%s are the clips'"
    log.info(said, folder, len(taken), kind, kind)
    wrong = [file for file in files if file.problem is not None]
    return [*(MediaClip(clip_id(clip), file.path) for clip, file in taken.items() if clip), *wrong]
