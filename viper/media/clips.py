"""What the extract commands read of a clip, by modality, and which clips a folder has for them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from viper.errors import ClipError, UserError
from viper.logs import log
from viper.media.foreign import AnyForeignClip
from viper.media.imports.table import Table
from viper.media.listing import MediaClip, list_sounds
from viper.media.pictures import FrameClip, Frames, list_frame_clips
from viper.media.sound import Sound, read_sound
from viper.media.subtitles import Cue, read_cues


@dataclass(frozen=True)
class SoundClip(MediaClip):
    """A file whose sound is read."""

    def read(self) -> Sound | None:
        """Return its sound; None, and a line in the log, where there is none."""
        sound = read_sound(self.path)
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


Clip = FrameClip | SoundClip | SubtitleClip | AnyForeignClip
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
