"""What the extract commands read of a clip, by modality, and which clips a folder has for them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from viper.engine.failures import FAILURES_FILE
from viper.errors import ClipError, UserError
from viper.files import digest_of
from viper.fingerprints import fingerprint, fingerprint_bytes
from viper.logs import log
from viper.media.imports.files import FEATURE_SUFFIXES, companions, read_table
from viper.media.imports.mmsa import MMSA_SUFFIXES, read_mmsa
from viper.media.imports.table import Table, table_of_array
from viper.media.listing import MediaClip, clip_errors, list_files, list_sounds
from viper.media.pictures import FrameClip, Frames, list_frame_clips
from viper.media.sound import SAMPLE_RATE, Sound, read_sound
from viper.media.subtitles import Cue, read_cues


@dataclass(frozen=True)
class SoundClip(MediaClip):
    """A file whose sound is read, at a rate."""

    rate: int = SAMPLE_RATE

    def read(self) -> Sound | None:
        """Return its sound; None, and a line in the log, where there is none."""
        sound = read_sound(self.path, self.rate)
        if sound is None:
            log.info("extract_audio_features: %s: no sound in it; its tokens are masked", self.path.name)
        return sound


@dataclass(frozen=True)
class SubtitleClip:
    """A clip whose subtitles are read; it may have none."""

    id: str
    path: Path | None

    def source(self) -> str:
        """Return the fingerprint of the file."""
        return MediaClip(self.id, self.path).source() if self.path else "none"

    def read(self) -> list[Cue] | None:
        """Return its cues; None, and a line in the log, where there are none."""
        cues = read_cues(self.path) if self.path else None
        if not cues:
            log.info("extract_textual_features: %s: no subtitles; its tokens are masked", self.id)
        return cues


@dataclass(frozen=True)
class ForeignClip(MediaClip):
    """A file of features made elsewhere.

    Attributes
    ----------
    key : what is taken of a pickle that holds a dictionary.
    columns : what the names of the columns taken of a CSV begin with; none: its default.
    """

    key: str = ""
    columns: tuple[str, ...] = ()

    def source(self) -> str:
        """Return a fingerprint of the file, and of those beside it that have its times and mask."""
        with clip_errors():
            beside = {name: fingerprint(path) for name, path in companions(self.path).items()}
            return digest_of([fingerprint(self.path), beside])

    def read(self) -> Table:
        """Return its rows."""
        return read_table(self.path, self.key, self.columns)


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
        """Return its rows; a clip of zeros only, or of nothing, is one without this modality: a masked token."""
        table = table_of_array(self.rows)
        if self.rows.any():
            return table
        return Table(np.zeros((1, table.tokens.shape[1]), np.float32), np.zeros(1, bool), None)


Clip = FrameClip | SoundClip | SubtitleClip | ForeignClip | RowsClip
Content = Frames | Sound | list[Cue] | Table | None


def source_of(clip: Clip) -> str:
    """Return the kind of what is read of a clip, as encoder.json names it."""
    if isinstance(clip, FrameClip):
        return "faces" if clip.has_faces else "frames"
    return {SoundClip: "sound", SubtitleClip: "subtitles"}.get(type(clip), "files")


def inputs_of(clips: Sequence[Clip]) -> dict[str, Any]:
    """Return how the pictures of a folder were made, for encoder.json; nothing if not pictures, or if unknown.

    The first clip with a record speaks for all: the stages make a folder anew when their options change.
    """
    for clip in clips:
        if isinstance(clip, FrameClip):
            try:
                record = clip.record
            except ClipError:
                continue
            known = {"sampling": record.get("sampling"), "faces": record.get("options") if clip.has_faces else None}
            return {name: value for name, value in known.items() if isinstance(value, dict)}
    return {}


def list_sound_clips(folder: Path | None) -> Sequence[Clip]:
    """Return the files of a folder that have, or may have, sound. No folder is a UserError."""
    if folder is None:
        raise UserError("--input_folder is missing")
    return [SoundClip(clip.id, clip.path) for clip in list_sounds(folder)]


def list_picture_clips(folder: Path | None, option: str = "--from_files") -> Sequence[Clip]:
    """Return folders of pictures. No folder is a UserError, which also names `option`."""
    if folder is None:
        raise UserError(f"--input_folder is missing (or {option}, for features made elsewhere)")
    return list_frame_clips(folder)


def list_foreign_clips(path: Path, key: str, columns: tuple[str, ...]) -> Sequence[Clip]:
    """Return features made elsewhere: a folder's files, one a clip, or the clips of one pickle, as MMSA makes it.

    `key` and `columns` as of ForeignClip. UserError where there is none.
    """
    if not path.is_file():
        files = list_files(path, FEATURE_SUFFIXES, "features")
        return [ForeignClip(file.id, file.path, key, columns) for file in files if file.path.name != FAILURES_FILE]
    if path.suffix.lower() not in MMSA_SUFFIXES:
        raise UserError(f"{path}: is a file; name its folder (one file may hold many clips only as a pickle of MMSA)")
    splits = read_mmsa(path).splits.values()
    clips = [RowsClip(*pair) for split in splits for pair in zip(split.clips, split.rows(key), strict=True)]
    if not clips:
        raise UserError(f"{path}: holds no clips")
    return clips
