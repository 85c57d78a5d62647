"""What the extract commands read of a clip, by modality, and which clips a folder has for them."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from viper.errors import ClipError, UserError
from viper.files import digest_of, natural_key
from viper.logs import log
from viper.media.captions.names import NO_LANGUAGE, NamedFile, by_clip, chosen_file, readings
from viper.media.captions.tracks import video_rate
from viper.media.foreign import AnyForeignClip
from viper.media.imports.table import Table
from viper.media.listing import AUDIO_SUFFIXES, VIDEO_SUFFIXES, MediaClip, list_sounds, list_subtitles
from viper.media.picture_names import PictureNames
from viper.media.pictures import FrameClip, Frames, list_frame_clips
from viper.media.sound import ANY_TRACK, SAMPLE_RATE, SOUND_READ_AS, Sound, SoundRule, read_sound
from viper.media.subtitles import SUBTITLE_SUFFIXES, WORDS_READ_AS, Cue, WordRules, read_cues


@dataclass(frozen=True)
class SoundClip(MediaClip):
    """A file whose sound is read, at a rate, and how."""

    rule: SoundRule = ANY_TRACK
    rate: int = SAMPLE_RATE

    def source(self) -> str:
        """Return a fingerprint of the file and of how it is read; ClipError where it cannot be read."""
        return digest_of([super().source(), SOUND_READ_AS, self.rule.record()])

    def read(self) -> Sound | None:
        """Return its sound; None, and a line in the log, where there is none."""
        sound = read_sound(self.path, self.rate, self.rule)
        if sound is None:
            log.info("extract_audio_features: %s: no sound in it; its tokens are masked", self.id)
        return sound


@dataclass(frozen=True)
class SubtitleClip:
    """A clip whose subtitles are read; it may have none.

    Attributes
    ----------
    path : the subtitle file, or a video with a track of words.
    rules : how words are read.
    frames : the clip's folder of frames, whose record says at which rate the video counts them.
    """

    id: str
    path: Path | None
    rules: WordRules = field(default_factory=WordRules)
    frames: Path | None = None
    problem: ClipError | None = field(default=None, kw_only=True, compare=False)  # as of MediaClip

    def source(self) -> str:
        """Return the fingerprint of the file and of how it is read."""
        if self.problem is not None:
            raise self.problem
        if self.path is None:
            return "none"
        return digest_of([MediaClip(self.id, self.path).source(), WORDS_READ_AS, self.rules.record, self._rate()])

    def _rate(self) -> float | None:
        """Return the frames a second of the video, where words are counted in frames."""
        if self.path is None or self.path.suffix.lower() != ".sub":
            return None
        if self.frames is not None:
            with contextlib.suppress(ClipError):
                rate = FrameClip(self.id, self.frames).record.get("fps")
                if isinstance(rate, int | float):
                    return float(rate)
        names = [name for name, _, _ in readings(self.path.stem)]  # clip.en.sub is beside clip.mp4
        videos = (self.path.parent / f"{name}{suffix}" for name in names for suffix in VIDEO_SUFFIXES)
        video = next((path for path in videos if path.is_file()), None)
        return None if video is None else video_rate(video)

    def read(self) -> list[Cue] | None:
        """Return its cues; None, and a line in the log, where there are none."""
        cues = read_cues(self.path, self.rules, self._rate()) if self.path else None
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
    """Return how the pictures of a folder were made, or its sound is read, for encoder.json; nothing if unknown.

    The first clip with a record speaks for all: the stages make a folder anew when their options change. Of words, how
    they were read of subtitles.
    """
    for clip in clips:
        if isinstance(clip, SubtitleClip):
            return {"words": clip.rules.record}
        if isinstance(clip, SoundClip):
            return {"sound": clip.rule.record()}
        if isinstance(clip, FrameClip):
            try:
                record = clip.record
            except ClipError:
                continue
            known = {"sampling": record.get("sampling"), "faces": record.get("options") if clip.has_faces else None}
            return {name: value for name, value in known.items() if isinstance(value, dict)}
    return {}


def is_usable(clip: Clip) -> bool:
    """Return whether nothing is known yet that keeps the clip from being read."""
    return getattr(clip, "problem", None) is None


def first_usable(clips: Sequence[Clip]) -> Clip:
    """Return the first clip that may be read, or the first."""
    return next(filter(is_usable, clips), clips[0])


def list_sound_clips(
    folder: Path | None,
    rule: SoundRule,
    separator: str | None = None,
    prefer: Literal["audio", "video"] = "audio",
) -> Sequence[Clip]:
    """Return the files of a folder that have, or may have, sound, see `list_sounds`, to be read by a rule.

    No folder is a UserError.
    """
    if folder is None:
        raise UserError("--input_folder is missing")
    clips = list_sounds(folder, separator, prefer)
    return [SoundClip(clip.id, clip.path, rule, problem=clip.problem) for clip in clips]


def list_subtitle_clips(
    folder: Path, rules: WordRules, pictures: Sequence[FrameClip] | None = None, separator: str | None = None
) -> Sequence[Clip]:
    """Return the clips of a folder of subtitles, and of videos that may have them inside.

    Parameters
    ----------
    pictures : the clips that there are; None: those that the files' names say. Which language a name ends in, and
        whether it does, is decided by `by_clip`, and said in the log.
    separator : as of `list_files`.

    Raises
    ------
    UserError : no such folder, no subtitles, or several languages of a clip and none asked for.
    """
    rules.check()
    files = list_subtitles(folder, separator)
    problems = {file.path: file.problem for file in files}
    wrong = {clip.id: clip.problem for clip in pictures or ()}
    words = [(file.id, file.path) for file in files if file.path.suffix.lower() in SUBTITLE_SUFFIXES]
    videos = {file.id: file.path for file in files if file.path.suffix.lower() not in SUBTITLE_SUFFIXES}
    frames = None if pictures is None else {clip.id: clip.folder for clip in pictures}
    is_closed, known = frames is not None, {*(frames or {}), *videos}
    named = by_clip(words, known, rules.language, is_closed, (*VIDEO_SUFFIXES, *AUDIO_SUFFIXES))
    clips = []
    names = sorted({*named, *videos}, key=natural_key) if videos else list(named)
    for clip in names if frames is None else frames:
        path, problem = videos.get(clip), wrong.get(clip)
        try:
            if clip in named:
                chosen = chosen_file(clip, named[clip], rules.language)
                path = path if chosen is None else chosen.path
        except ClipError as error:
            problem = problem or error
        problem = problem or (problems.get(path) if path else None)
        clips.append(SubtitleClip(clip, path, rules, None if frames is None else frames[clip], problem=problem))
    _say_languages(folder, named, rules)
    _say_left_out(folder, [path for _, path in words], named, clips)
    return clips


def _say_languages(folder: Path, named: Mapping[str, Sequence[NamedFile]], rules: WordRules) -> None:
    """Log which part of the files' names was taken for a language."""
    cut = [(file.path.name, clip) for clip, files in named.items() for file in files if file.language or file.kind]
    if cut:
        log.info(
            "%s: %d files are named by their language: %s is of the clip %s (--language %s takes names whole)",
            folder, len(cut), cut[0][0], cut[0][1], NO_LANGUAGE,
        )  # fmt: skip


def _say_left_out(
    folder: Path, files: Sequence[Path], named: Mapping[str, Sequence[NamedFile]], clips: Sequence[SubtitleClip]
) -> None:
    """Log files that are of no clip, and clips whose files are all in other languages."""
    taken = {file.path for own in named.values() for file in own}
    left = [path.name for path in files if path not in taken]
    lacking = [clip.id for clip in clips if clip.path is None and clip.problem is None]
    if left:
        (log.warning if lacking else log.info)(
            "%s: %d files are of no clip of the input folder and are left out, such as %s", folder, len(left), left[0]
        )
    others = [clip for clip in lacking if clip in named]
    if others:
        there = sorted({file.language for file in named[others[0]]})
        log.warning(
            "%s: %d clips have subtitles in other languages only, such as %s (%s); their tokens are masked",
            folder, len(others), others[0], ", ".join(there),
        )  # fmt: skip


def list_picture_clips(
    folder: Path | None,
    names: PictureNames | None = None,
    option: str = "--from_files",
    separator: str | None = None,
) -> Sequence[Clip]:
    """Return folders of pictures; `names` and `separator` as of `list_frame_clips`.

    No folder is a UserError, which names `option`.
    """
    if folder is None:
        raise UserError(f"--input_folder is missing (or {option}, for features made elsewhere)")
    return list_frame_clips(folder, separator, names)
