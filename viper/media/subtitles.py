"""Cues of a subtitle file: SubRip, WebVTT, SubStation, MicroDVD, TTML and others, in whatever encoding."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from viper.errors import ClipError, UserError, one_line
from viper.files import read_bytes
from viper.logs import log
from viper.media.captions.encodings import Decoded, check_encoding, decode
from viper.media.captions.formats import RATES, microdvd_rate, read_microdvd, read_mpl2, read_substation, read_ttml
from viper.media.captions.markup import CLEANINGS, Cleaning, cleaned, has_word_times, plain_lines
from viper.media.captions.names import check_language
from viper.media.captions.rolling import without_highlights, without_repeats
from viper.media.captions.timed_text import Found, Timed, read_lyrics, read_timed_text, with_ends
from viper.media.captions.tracks import read_track

SUBTITLE_SUFFIXES = (".srt", ".vtt", ".ass", ".ssa", ".sub", ".sbv", ".ttml", ".dfxp", ".lrc")
# Of how words are read: another one makes features that were made by an earlier one again.
WORDS_READ_AS = 2
MAX_BYTES = 16 << 20  # a feature film's are a hundredth of it
_VOBSUB = b"\x00\x00\x01\xba"


@dataclass(frozen=True)
class Cue:
    """Words and when they are shown, in seconds."""

    start: float
    end: float
    text: str


@dataclass(frozen=True)
class WordRules:
    """How words are read of subtitles.

    Attributes
    ----------
    clean : what is left out of them, of `CLEANINGS`.
    language : whose subtitles are read where there are several; None: the only ones, or those whose name has none.
    encoding : what the files are in; None: told from each.
    fps : frames a second of subtitles that count frames; None: as their first line or the video says.
    """

    clean: tuple[Cleaning, ...] = ()
    language: str | None = None
    encoding: str | None = None
    fps: float | None = None

    def check(self) -> None:
        """Refuse values that cannot be, as a UserError that names the option."""
        check_encoding(self.encoding)
        check_language(self.language)
        if self.fps is not None and not RATES[0] <= self.fps <= RATES[1]:
            raise UserError(f"--subtitle_fps {self.fps:g}: must be from {RATES[0]:g} to {RATES[1]:g}")

    @property
    def record(self) -> dict[str, Any]:
        """What encoder.json says of the words."""
        given = {"language": self.language, "encoding": self.encoding, "fps": self.fps}
        what: dict[str, Any] = {"clean": [each for each in CLEANINGS if each in self.clean]}
        return what | {name: value for name, value in given.items() if value is not None}

    @classmethod
    def from_record(cls, record: Mapping[str, Any] | None) -> WordRules:
        """Return the rules that hold for other clips too: what is left out, and the language.

        Without a record, as of features from before there was one, nothing is left out. UserError for one that cannot
        be read.
        """
        if record is None:
            return cls()
        clean, language = record.get("clean", []), record.get("language")
        if not isinstance(clean, list) or not all(each in get_args(Cleaning) for each in clean):
            raise UserError("the record of how its words were cleaned cannot be read")
        return cls(tuple(clean), language if isinstance(language, str) else None)


def read_cues(path: Path, rules: WordRules | None = None, video_fps: float | None = None) -> list[Cue]:
    """Return the cues of a subtitle file, or of a video's track, in order of time, without markup and empty ones.

    What was decided of the file, such as its encoding, is said in the log.

    Parameters
    ----------
    video_fps : of the video, for subtitles that count frames and do not say at which rate.

    Raises
    ------
    ClipError
        When it holds words but no cue, no subtitles in a known format, or more than `MAX_BYTES`.
    """
    rules = rules or WordRules()
    if path.suffix.lower() not in SUBTITLE_SUFFIXES:
        return _cues_of_track(path, rules)
    data = read_bytes(path, MAX_BYTES + 1)
    if len(data) > MAX_BYTES:
        raise ClipError(f"{path.name}: of more than {MAX_BYTES >> 20} MiB, these are no subtitles")
    if data.startswith(_VOBSUB):
        raise ClipError(f"{path.name}: VobSub, pictures of words; convert it to .srt by a program that recognises them")
    decoded = decode(data, rules.encoding)
    if not decoded.text.strip("\0\ufeff \t\r\n"):
        return []
    try:
        kind, found = _read(path, decoded.text, rules, video_fps)
        cues = _cues(path, kind, found, rules)
    except ClipError as error:
        raise ClipError(f"{path.name}: {error}{_guess(decoded)}") from error
    except Exception as error:  # not only pysubs2's own: it was not made for files that lie
        raise ClipError(f"{path.name}: cannot be read as subtitles ({one_line(str(error))})") from error
    if not cues and found.has_words:
        raise ClipError(f"{path.name}: has words, but no cue with a time{_guess(decoded)}")
    if decoded.note and cues:
        (log.warning if decoded.is_doubtful else log.info)("%s: %s", path.name, decoded.note)
    return cues


def _cues_of_track(path: Path, rules: WordRules) -> list[Cue]:
    timed, note = read_track(path, rules.language)
    if note:
        log.info("%s: %s", path.name, note)
    return _cues(path, "ass", Found(timed), rules)


def _guess(decoded: Decoded) -> str:
    return "" if decoded.is_known else f" (read as {decoded.encoding}; --encoding decides)"


def _read(path: Path, text: str, rules: WordRules, video_fps: float | None) -> tuple[str, Found]:
    """Return the format, by which its markup is known, and what is in it. The content says which, then the name."""
    start = text[:4096].lstrip("\ufeff \t\r\n")
    suffix = path.suffix.lower()
    if re.match(r"\[Script Info", start, re.IGNORECASE) or suffix in (".ass", ".ssa"):
        return "ass", read_substation(text)
    if re.match(r"WEBVTT(?:\s|$)", start):
        return "vtt", read_timed_text(text, is_webvtt=True)
    if re.match(r"(?:<\?xml[^<>]*>\s*)?(?:<!--.*?-->\s*)*<(?:\w+:)?tt[\s>]", start, re.DOTALL) or suffix in (
        ".ttml",
        ".dfxp",
    ):
        return "srt", read_ttml(text)
    if suffix == ".lrc":
        return "srt", read_lyrics(text)
    if start.startswith("{") and re.search(r"^\s*\{\s*\d+\s*\}\s*\{\s*\d*\s*\}", start, re.MULTILINE):
        return "srt", read_microdvd(text, _rate(path, text, rules, video_fps))
    if re.match(r"\[\d+\]\s*\[\d*\]", start):
        return "srt", read_mpl2(text)
    return ("vtt" if suffix == ".vtt" else "srt"), read_timed_text(text, is_webvtt=suffix == ".vtt")


def _rate(path: Path, text: str, rules: WordRules, video_fps: float | None) -> float:
    """Return the frames a second of MicroDVD's numbers: by the option, the file, the video; never assumed."""
    own = microdvd_rate(text)
    for rate, said_by in ((rules.fps, "--subtitle_fps"), (own, "its first line"), (video_fps, "the video")):
        if rate is not None:
            log.info("%s: counts frames, %g a second by %s", path.name, rate, said_by)
            return rate
    raise ClipError("counts frames, and neither it nor a video says how many a second; give --subtitle_fps")


def _cues(path: Path, kind: str, found: Found, rules: WordRules) -> list[Cue]:
    has_times = any(has_word_times(cue.lines) for cue in found.cues)
    timed, n_without = with_ends(found.cues)
    plain = [Timed(cue.start, cue.end, plain_lines(cue.lines, kind)) for cue in timed]
    if not has_times:
        plain = without_highlights(plain, timed)
    cues = []
    for cue in without_repeats(plain, is_rolling=has_times and kind == "vtt"):
        text = " ".join(cleaned(cue.lines, rules.clean))
        if text:
            assert cue.end is not None
            cues.append(Cue(cue.start, cue.end, text))
    notes = list(found.notes)
    if n_without and path.suffix.lower() != ".lrc":
        notes.append(
            f"{n_without} cues have no end, or one before or far behind their start: they last until the next, "
            "at most 5 s"
        )
    for note in notes:
        log.warning("%s: %s", path.name, note)
    return cues
