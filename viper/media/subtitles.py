"""Cues of a subtitle file (.srt, .vtt)."""

from __future__ import annotations

import codecs
import re
from dataclasses import dataclass
from html import unescape
from pathlib import Path

import pysubs2

from viper.errors import ClipError, one_line
from viper.files import read_bytes

SUBTITLE_SUFFIXES = (".srt", ".vtt")
MAX_BYTES = 16 << 20  # a feature film's are a hundredth of it


@dataclass(frozen=True)
class Cue:
    """Words and when they are shown, in seconds."""

    start: float
    end: float
    text: str


def read_cues(path: Path) -> list[Cue]:
    """Return the cues of a subtitle file in order of time, without markup and without empty ones.

    A file that is neither UTF-8 nor marked as UTF-16 is read as Windows-1252, the other encoding in use. Raises
    ClipError when it holds no subtitles in a known format, or more than `MAX_BYTES`.
    """
    data = read_bytes(path, MAX_BYTES + 1)
    if len(data) > MAX_BYTES:
        raise ClipError(f"{path.name}: of more than {MAX_BYTES >> 20} MiB, these are no subtitles")
    text = _decoded(data)
    if not text.strip():
        return []
    try:
        # Tags are kept, to be removed below: pysubs2 takes time that grows with the square of the text's length.
        format_ = path.suffix.lstrip(".").lower()
        events = pysubs2.SSAFile.from_string(_without_gaps(text), format_=format_, keep_html_tags=True).events
        cues = [Cue(event.start / 1000, event.end / 1000, _plain(event.text)) for event in events]
    except Exception as error:  # not only its own: it was not made for files that lie
        raise ClipError(f"{path.name}: cannot be read as subtitles ({one_line(str(error))})") from error
    return sorted((cue for cue in cues if cue.text), key=lambda cue: cue.start)


def _decoded(data: bytes) -> str:
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return data.decode("utf-16", errors="replace")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        return data.decode("cp1252", errors="replace")


def _without_gaps(text: str) -> str:
    """Return lines without blanks around them, at most one empty in a row: with more pysubs2 takes quadratic time."""
    lines: list[str] = []
    for line in text.splitlines():
        line = line.strip()
        if line or (lines and lines[-1]):
            lines.append(line)
    return "\n".join(lines)


def _plain(text: str) -> str:
    """Return words without markup ({...} of SubStation, <...> of HTML), entities and line breaks."""
    text = re.sub(r"\\[Nnh]", " ", re.sub(r"\{[^{}]*\}", "", text))
    text = re.sub(r"< ?/? ?[a-zA-Z][^<>]*>", "", " ".join(text.split()))
    return " ".join(unescape(text).split())
