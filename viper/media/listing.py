"""Which clips a folder of media holds."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from viper.errors import ClipError, UserError
from viper.files import visible_entries
from viper.fingerprints import fingerprint
from viper.logs import log
from viper.manifest import clip_id
from viper.media.subtitles import SUBTITLE_SUFFIXES

VIDEO_SUFFIXES = (
    ".mp4", ".mov", ".mkv", ".avi", ".mpg", ".mpeg", ".webm", ".m4v", ".wmv", ".flv", ".ts", ".mts", ".m2ts", ".3gp",
    ".ogv", ".vob", ".mxf", ".gif",
)  # fmt: skip
AUDIO_SUFFIXES = (".wav", ".flac", ".mp3", ".ogg", ".opus", ".m4a", ".aac", ".wma", ".aiff", ".aif")


@dataclass(frozen=True)
class MediaClip:
    """One file of one clip; its id is the file's name without the suffix."""

    id: str
    path: Path

    def source(self) -> str:
        """Return a fingerprint of the file; ClipError where it cannot be read."""
        with clip_errors():
            return fingerprint(self.path)


@contextmanager
def clip_errors() -> Iterator[None]:
    """Turn an OSError about a clip's file into a ClipError, one line that names the file."""
    try:
        yield
    except OSError as error:
        raise ClipError(f"{Path(str(error.filename)).name}: cannot be read ({error.strerror})") from error


def list_videos(folder: Path) -> list[MediaClip]:
    """Return the video files of a folder."""
    return list_files(folder, VIDEO_SUFFIXES, "videos")


def list_sounds(folder: Path) -> list[MediaClip]:
    """Return the files of a folder that have, or may have, sound: audio files and videos."""
    return list_files(folder, (*AUDIO_SUFFIXES, *VIDEO_SUFFIXES), "audio or video files")


def list_subtitles(folder: Path) -> list[MediaClip]:
    """Return the subtitle files of a folder, and the videos, which may have subtitles inside."""
    suffixes = {os.path.splitext(name)[1].lower() for name in os.listdir(folder)} if folder.is_dir() else set()
    found = []
    for own, others in ((SUBTITLE_SUFFIXES, VIDEO_SUFFIXES), (VIDEO_SUFFIXES, SUBTITLE_SUFFIXES)):
        if suffixes & set(own):
            found += list_files(folder, own, "subtitles", others)
    return found or list_files(folder, SUBTITLE_SUFFIXES, "subtitles")


def list_files(folder: Path, suffixes: Iterable[str], what: str, others: Iterable[str] = ()) -> list[MediaClip]:
    """Return files with one of these suffixes, in natural order of their names.

    How many there are with no suffix of these, nor of the others, is said in the log.
    Raises UserError when there are none, when two files would be the same clip, and for a name that can be no id.
    """
    suffixes = tuple(suffixes)
    entries = [path for path in visible_entries(folder) if path.is_file()]
    files = [path for path in entries if path.suffix.lower() in suffixes]
    if not files:
        raise UserError(f"{folder}: no {what} in it ({', '.join(suffixes)})")
    clips = [MediaClip(identifier, path) for identifier, path in by_clip(folder, files).items()]
    n_ignored = len(entries) - sum(path.suffix.lower() in (*suffixes, *others) for path in entries)
    if n_ignored:
        log.info("%s: ignoring %d files that are not %s", folder, n_ignored, what)
    return clips


def by_clip(folder: Path, entries: Iterable[Path]) -> dict[str, Path]:
    """Return clip id -> entry, by the entries' names: a folder's whole, a file's without the suffix.

    Raises UserError when two would be the same clip, and for a name that can be no id.
    """
    clips: dict[str, Path] = {}
    for path in entries:
        try:
            identifier = clip_id(path.name if path.is_dir() else path.stem)
        except UserError as error:
            raise UserError(f"{folder}: {path.name!r} can be no clip: {error}") from error
        if identifier in clips:
            raise UserError(f"{folder}: {clips[identifier].name!r} and {path.name!r} would both be clip {identifier!r}")
        clips[identifier] = path
    return clips
