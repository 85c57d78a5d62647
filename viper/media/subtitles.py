"""Cues of a subtitle file (.srt, .vtt)."""

from __future__ import annotations

import codecs
from dataclasses import dataclass
from html import unescape
from pathlib import Path

import pysubs2

from viper.errors import ClipError

SUBTITLE_SUFFIXES = (".srt", ".vtt")


@dataclass(frozen=True)
class Cue:
    """Words and when they are shown, in seconds."""

    start: float
    end: float
    text: str


def read_cues(path: Path) -> list[Cue]:
    """The cues of a subtitle file in order of time, without markup and without empty ones.

    A file that is neither UTF-8 nor marked as UTF-16 is read as Windows-1252, the other encoding in use. Raises
    ClipError when it holds no subtitles in a known format.
    """
    data = path.read_bytes()
    encoding = "utf-16" if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) else "utf-8-sig"
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError:
        text = data.decode("cp1252", errors="replace")
    if not text.strip():
        return []
    try:
        events = pysubs2.SSAFile.from_string(text, format_=path.suffix.lstrip(".").lower()).events
    except (pysubs2.exceptions.Pysubs2Error, ValueError, KeyError) as error:
        raise ClipError(f"{path.name}: cannot be read as subtitles ({error})") from error
    cues = [Cue(event.start / 1000, event.end / 1000, _plain(event)) for event in events]
    return sorted((cue for cue in cues if cue.text), key=lambda cue: cue.start)


def _plain(event: pysubs2.SSAEvent) -> str:
    """Words without markup, entities and line breaks."""
    return " ".join(unescape(event.plaintext).split())
