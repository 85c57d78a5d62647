"""What the extract commands read of a clip, by modality, and which clips a folder has for them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from viper.errors import UserError
from viper.media.features import FEATURE_SUFFIXES, Table, read_table
from viper.media.frames import FrameClip, Frames, list_frame_clips
from viper.media.listing import MediaClip, list_files, list_sounds
from viper.media.sound import Sound, read_sound
from viper.media.subtitles import Cue, read_cues
from viper.stages.common import log


@dataclass(frozen=True)
class SoundClip(MediaClip):
    """A file whose sound is read."""

    def read(self) -> Sound | None:
        """Its sound; None, and a line in the log, where there is none."""
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
        """Fingerprint of the file."""
        return MediaClip(self.id, self.path).source() if self.path else "none"

    def read(self) -> list[Cue] | None:
        """Its cues; None, and a line in the log, where there are none."""
        cues = read_cues(self.path) if self.path else None
        if not cues:
            log.info("extract_textual_features: %s: no subtitles; its tokens are masked", self.id)
        return cues


@dataclass(frozen=True)
class ForeignClip(MediaClip):
    """A file of features made elsewhere."""

    def read(self) -> Table:
        """Its rows."""
        return read_table(self.path)


Clip = FrameClip | SoundClip | SubtitleClip | ForeignClip
Content = Frames | Sound | list[Cue] | Table | None


def source_of(clip: Clip) -> str:
    """The kind of what is read of a clip, as encoder.json names it."""
    if isinstance(clip, FrameClip):
        return "faces" if clip.has_faces else "frames"
    return {SoundClip: "sound", SubtitleClip: "subtitles", ForeignClip: "files"}[type(clip)]


def list_sound_clips(folder: Path | None) -> Sequence[Clip]:
    """The files of a folder that have, or may have, sound. No folder is a UserError."""
    if folder is None:
        raise UserError("--input_folder is missing")
    return [SoundClip(clip.id, clip.path) for clip in list_sounds(folder)]


def list_picture_clips(folder: Path | None, foreign: Path | None, option: str = "--from_files") -> Sequence[Clip]:
    """Folders of pictures, or the files of features made elsewhere. Neither: a UserError naming `option`."""
    if foreign is not None:
        return list_foreign_clips(foreign)
    if folder is None:
        raise UserError(f"--input_folder is missing (or {option}, for features made elsewhere)")
    return list_frame_clips(folder)


def list_foreign_clips(folder: Path) -> Sequence[Clip]:
    """Files of features made elsewhere."""
    clips = list_files(folder, FEATURE_SUFFIXES, "features")
    return [ForeignClip(clip.id, clip.path) for clip in clips if clip.path.name != "failures.csv"]
