"""What encoders read of a video, in memory: exactly what get_frame and crop_images would have written, read back."""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from viper.errors import ClipError, UserError
from viper.logs import log
from viper.media.captions.names import NamedFile, by_clip, chosen_file
from viper.media.captions.tracks import video_rate
from viper.media.faces.crop import CropOptions, Crops, FaceCropper, NumberedFrames
from viper.media.listing import VIDEO_SUFFIXES
from viper.media.pictures import Frames, as_if_stored, frame_entries, shrunk
from viper.media.sampling import FrameRule, read_chosen
from viper.media.sound import SAMPLE_RATE, Sound, SoundRule, read_sound
from viper.media.subtitles import SUBTITLE_SUFFIXES, Cue, WordRules, read_cues
from viper.media.video import VideoFrames, open_media
from viper.media.windows import Span, Window, read_windows, spans
from viper.store import EncoderInfo

FRAME_SIDE, CROP_SIDE = 320, 96  # pixels of the longer side of a track's pictures


@dataclass(frozen=True)
class PictureSource:
    """Pictures of a video: frames by a rule, or crops of the face in them; `crops` is None for whole frames."""

    rule: FrameRule
    crops: CropOptions | None


@dataclass(frozen=True)
class WordSource:
    """Words of a video's subtitles, read by rules."""

    rules: WordRules


@dataclass(frozen=True)
class WordFolder:
    """A folder with the words of videos that were read from subfolders.

    Attributes
    ----------
    clip : the video's id: its words may be in `<folder>/<clip>.srt`.
    below : the video's own folder, from the one that was read: or else in `<folder>/<below>/<name>.srt`.
    """

    folder: Path
    clip: str
    below: Path


Source = PictureSource | WordSource | SoundRule
Words = Path | WordFolder | None  # a file of subtitles, or a folder with them; None: the video's own folder
Content = Frames | Sound | list[Cue]


def source_of(info: EncoderInfo) -> tuple[Source, bool]:
    """Return what an encoder with this record read, and whether the record says all of it.

    For pictures without a record (from an older version, or another tool) the defaults of get_frame and crop_images are
    assumed. UserError for a source that a video does not have.
    """
    if info.source == "sound":
        sound = info.inputs.get("sound")
        if not isinstance(sound, Mapping | None):
            raise UserError("the record of how its sound was read cannot be read")
        return SoundRule() if sound is None else SoundRule.from_record(sound), True
    if info.source == "subtitles":
        words = info.inputs.get("words")
        if not isinstance(words, Mapping | None):
            raise UserError("the record of how its words were read cannot be read")
        return WordSource(WordRules.from_record(words)), True
    if info.source not in ("frames", "faces"):
        raise UserError(f"its features were made of {info.source or 'something unknown'}, not of a video")
    sampling, faces = info.inputs.get("sampling"), info.inputs.get("faces")
    if not all(isinstance(each, Mapping | None) for each in (sampling, faces)):
        raise UserError("the record of how its pictures were made cannot be read")
    rule = FrameRule() if sampling is None else FrameRule.from_record(sampling)
    if info.source == "frames":
        return PictureSource(rule, None), sampling is not None
    crops = CropOptions() if faces is None else CropOptions.from_record(faces)
    return PictureSource(rule, crops), sampling is not None and faces is not None


@dataclass(frozen=True)
class FaceTrack:
    """The frames of a clip that were looked at.

    Attributes
    ----------
    times : (n,) float64, seconds from the start of the clip (of a window: of the window).
    found : (n,) bool, False where no face was found; True throughout where none was looked for.
    boxes : (n, 4) float64, the face's left, top, right and bottom as shares of the frame's width and height; where
        it was not found, interpolated between neighbours. NaN where the person is not on screen.
    frames : n small copies of the frames, (H, W, 3) uint8 RGB, at most `FRAME_SIDE` on a side.
    crops : n small copies of the crops, at most `CROP_SIDE` on a side; of the frames where no face was looked for.
    """

    times: np.ndarray
    found: np.ndarray
    boxes: np.ndarray
    frames: list[np.ndarray]
    crops: list[np.ndarray]


@dataclass(frozen=True)
class ClipContent:
    """A clip, or a window of one, by what encoders read; a ClipError in the place of what cannot be had says why."""

    start: float
    end: float
    contents: Mapping[Source, Content | ClipError]
    faces: FaceTrack | None


class ClipReader:
    """Reads what a set of encoders wants of a video; what several want is decoded, and its faces looked for, once.

    Sound is read at `rate`, the highest that any of them wants. `words` says what is different for these videos:
    language and encoding of their subtitles.
    """

    def __init__(
        self,
        sources: Iterable[Source],
        device: str = "auto",
        words: WordRules | None = None,
        rate: int = SAMPLE_RATE,
    ) -> None:
        self.sources, self._rate = set(sources), rate
        self._words = {
            source: _own_rules(source.rules, words) for source in self.sources if isinstance(source, WordSource)
        }
        self._pictures = sorted(
            (source for source in self.sources if isinstance(source, PictureSource)), key=lambda source: str(source)
        )
        self._sounds = [source for source in self.sources if isinstance(source, SoundRule)]
        self.rules = list(dict.fromkeys(source.rule for source in self._pictures))
        self._croppers = {s.crops: FaceCropper(s.crops, device) for s in self._pictures if s.crops is not None}

    def read(self, path: Path, subtitles: Words = None) -> ClipContent:
        """Return the whole clip; a file that is no sound or video at all is a ClipError."""
        open_media(path).close()
        chosen = {rule: attempt(lambda rule=rule: read_chosen(path, rule).video) for rule in self.rules}
        contents, faces = self.pictures(chosen)
        contents |= self._read_sounds(path)
        words = self._read_words(path, subtitles)
        length = _length([*chosen.values(), *contents.values(), *words.values()])
        for cues in words.values():
            n_late = 0 if isinstance(cues, ClipError) else sum(cue.start >= length for cue in cues)
            if n_late:
                log.warning("%s: %d of its cues begin after its end: are they of another cut?", path.name, n_late)
        return ClipContent(0.0, length, contents | words, faces)

    def _read_words(self, path: Path, subtitles: Words) -> dict[Source, list[Cue] | ClipError]:
        return {source: attempt(lambda own=own: words_of(path, subtitles, own)) for source, own in self._words.items()}

    def _read_sounds(self, path: Path) -> dict[Source, Sound | ClipError]:
        return {rule: attempt(lambda rule=rule: heard(read_sound(path, self._rate, rule))) for rule in self._sounds}

    def windows(self, path: Path, every: float, window: float, subtitles: Words = None) -> Iterator[ClipContent]:
        """Yield the clip in pieces, see `viper.media.windows.next_span`: by times of the pictures and of sound that
        goes on behind them, else of the words. Pictures are streamed; of sound, what a clip may have is held.

        ClipError for a file that is no sound or video at all, or has nothing that is read.
        """
        open_media(path).close()
        sounds = self._read_sounds(path)
        words = self._read_words(path, subtitles)
        heard_to = _length(sounds.values())
        pieces = read_windows(path, self.rules, every, window, heard_to) if self.rules else iter(())
        first = attempt(lambda: next(pieces, None))
        if isinstance(first, Window):
            for piece in chain([first], pieces):
                lacking = ClipError(f"{path.name}: no frame from {piece.span.start:g} to {piece.span.end:g} s")
                yield self._piece(
                    piece.span, {rule: piece.chosen.get(rule, lacking) for rule in self.rules}, sounds, words
                )
            return
        length = _length([*sounds.values(), *words.values()])
        if not length:
            raise next(each for each in (first, *sounds.values(), *words.values()) if isinstance(each, ClipError))
        for span in spans(length, every, window):
            yield self._piece(span, dict.fromkeys(self.rules, first), sounds, words)

    def _piece(
        self,
        span: Span,
        chosen: Mapping[FrameRule, VideoFrames | ClipError],
        sounds: Mapping[Source, Sound | ClipError],
        words: Mapping[Source, list[Cue] | ClipError],
    ) -> ClipContent:
        contents, faces = self.pictures(chosen)
        for rule, sound in sounds.items():
            contents[rule] = (
                sound if isinstance(sound, ClipError) else attempt(lambda sound=sound: heard(_cut_sound(sound, span)))
            )
        for source, cues in words.items():
            contents[source] = (
                cues if isinstance(cues, ClipError) else attempt(lambda cues=cues: _cut_words(cues, span))
            )
        return ClipContent(span.start, span.end, contents, faces)

    def pictures(
        self, chosen: Mapping[FrameRule, VideoFrames | ClipError]
    ) -> tuple[dict[Source, Content | ClipError], FaceTrack | None]:
        """Return frames and crops from the chosen frames of a video, and the track to show."""
        contents: dict[Source, Content | ClipError] = {}
        tracks: list[FaceTrack] = []
        for rule, video in chosen.items():
            sources = [source for source in self._pictures if source.rule == rule]
            if isinstance(video, ClipError):
                contents |= dict.fromkeys(sources, video)
                continue
            frames = as_if_stored(video.images, frame_entries(video), of_faces=False)
            for source in sources:
                crops = None
                if source.crops is not None:
                    (crops,) = self._croppers[source.crops]([NumberedFrames(video.indices.tolist(), frames)])
                shown = frames if crops is None else as_if_stored(crops.images, crops.records, of_faces=True)
                contents[source] = shown if shown.found.any() else _no_face(frames)
                # What has faces tells more.
                tracks.insert(0 if crops is not None else len(tracks), _track(frames, crops))
        return contents, tracks[0] if tracks else None


def attempt(read: Any) -> Any:
    """Return what `read` answers, or the ClipError it raises."""
    try:
        return read()
    except ClipError as error:
        return error


def heard(sound: Sound | None) -> Sound:
    """Return the sound, if there is some; else a ClipError."""
    if sound is None or not len(sound.samples):
        raise ClipError("no sound in it")
    return sound


def _own_rules(rules: WordRules, other: WordRules | None) -> WordRules:
    if other is None:
        return rules
    return replace(rules, language=other.language or rules.language, encoding=other.encoding, fps=other.fps)


def words_of(path: Path, subtitles: Words, rules: WordRules) -> list[Cue]:
    """Return the cues of a video; none is a ClipError.

    `subtitles` is their file, or a folder that has one of the video's name, by default the video's own. Where there is
    none, those inside the video are read.
    """
    try:
        if isinstance(subtitles, Path) and not subtitles.is_dir():
            file: Path | None = subtitles
        else:
            file = _subtitles_of(path, _places(path, subtitles), rules)
        cues = read_cues(file or path, rules, video_rate(path) if file and file.suffix.lower() == ".sub" else None)
    except OSError as error:
        name = Path(str(error.filename)).name
        raise ClipError(f"{name}: cannot be read ({error.strerror})") from error
    if cues:
        return cues
    if file is None:
        raise ClipError("no subtitles of its name, none inside")
    raise ClipError(f"{file.name}: no words in it")


def _places(path: Path, subtitles: Words) -> list[tuple[Path, str]]:
    """Return the folders that may have a video's words, and what they are called there."""
    own = _composed(path.stem)
    if not isinstance(subtitles, WordFolder):
        return [(subtitles or path.parent, own)]
    # The name alone in the folder itself may be another video's, of the same name in another subfolder.
    places = {(subtitles.folder / subtitles.below, own), (subtitles.folder, subtitles.clip)}
    return sorted(place for place in places if place[0].is_dir())


def _subtitles_of(path: Path, places: Sequence[tuple[Path, str]], rules: WordRules) -> Path | None:
    """Return the file with a video's words, see `viper.media.captions.names`; None where there is none."""
    named: list[NamedFile] = []
    for folder, own in places:
        with os.scandir(folder) as entries:
            near = [Path(e.path) for e in entries if e.is_file() and _composed(e.name).startswith(f"{own}.")]
        files = [(_composed(each.stem), each) for each in sorted(near) if each.suffix.lower() in SUBTITLE_SUFFIXES]
        if files:
            with os.scandir(path.parent) as entries:
                videos = {_composed(Path(e.name).stem) for e in entries if e.name.lower().endswith(VIDEO_SUFFIXES)}
            before = own.removesuffix(_composed(path.stem))
            known = {own, *(f"{before}{video}" for video in videos)}
            named += by_clip(files, known, rules.language).get(own, [])
    if not named:
        return None
    try:
        chosen = chosen_file(_composed(path.stem), named, rules.language)
    except UserError as error:  # this video's only
        raise ClipError(str(error)) from error
    return None if chosen is None else chosen.path


def _composed(name: str) -> str:
    return unicodedata.normalize("NFC", name)


def _cut_sound(sound: Sound, span: Span) -> Sound:
    """Return what is heard in a piece, as a clip of its own."""
    first, last = (round((second - sound.start) * sound.rate) for second in (span.start, span.end))
    return Sound(sound.samples[max(0, first) : max(0, last)], sound.rate, max(0.0, sound.start - span.start))


def _cut_words(words: list[Cue], span: Span) -> list[Cue]:
    """Return the cues whose middle is in a piece, at its own times; without overlap each cue is in one piece."""
    own = [
        Cue(cue.start - span.start, cue.end - span.start, cue.text)
        for cue in words
        if span.start <= (cue.start + cue.end) / 2 < span.end
    ]
    if not own:
        raise ClipError(f"no words from {span.start:g} to {span.end:g} s")
    return own


def _no_face(frames: Frames) -> ClipError:
    return ClipError(f"no face in any of the {len(frames.images)} frames that were looked at")


def _length(contents: Iterable[Any]) -> float:
    """Return the seconds, by the pictures, else by the sound, else by the words."""
    ends = {VideoFrames: 0.0, Sound: 0.0, list: 0.0}
    for content in contents:
        if isinstance(content, VideoFrames):
            last = float(content.times[-1]) if len(content.times) else 0.0  # of pictures that begin behind the sound
            ends[VideoFrames] = max(content.n_frames / content.fps, last + 1 / content.fps)
        elif isinstance(content, Sound):
            ends[Sound] = content.start + len(content.samples) / content.rate
        elif isinstance(content, list):
            ends[list] = max(cue.end for cue in content)
    return next((end for end in ends.values() if end), 0.0)


def _track(frames: Frames, crops: Crops | None) -> FaceTrack:
    small = [_within(image, FRAME_SIDE) for image in frames.images]
    boxes = np.full((len(small), 4), np.nan)
    if crops is None or not crops.records:  # none looked for, or a clip without any was to be skipped
        cut = [_within(image, CROP_SIDE) for image in small]
        return FaceTrack(frames.times, np.full(len(small), crops is None), boxes, small, cut)
    for row, image, record in zip(boxes, frames.images, crops.records, strict=True):
        if record["box"] is not None:
            height, width = image.shape[:2]
            row[:] = np.array(record["box"]) / (width, height, width, height)
    found = np.array([record["found"] for record in crops.records], bool)
    return FaceTrack(frames.times, found, boxes, small, [_within(image, CROP_SIDE) for image in crops.images])


def _within(image: np.ndarray, side: int) -> np.ndarray:
    return shrunk(image, side / max(image.shape[:2]))
