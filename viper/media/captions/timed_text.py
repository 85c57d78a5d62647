"""Formats of lines between times: SubRip, WebVTT, YouTube's .sbv, SubViewer, lyrics.

pysubs2 reads the first two as well, but takes any line with two times for a timing: a sentence, and the words with
times of YouTube's captions.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

LONGEST = 5.0  # seconds that a line without an end is shown for, at most
FAR = 600.0  # seconds from a start, beyond which an end is none


@dataclass(frozen=True)
class Timed:
    """Lines and when they are shown, in seconds; `end` is None where the file says none, or one before the start."""

    start: float
    end: float | None
    lines: list[str]


@dataclass
class Found:
    """What a file holds.

    Attributes
    ----------
    cues : in the order of the file.
    notes : what was left out or assumed, for people.
    has_words : whether there is text that is in no cue.
    """

    cues: list[Timed] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    has_words: bool = False


_TIME = r"(-?)(?:(\d{1,3}):)?(\d{1,3}):(\d{1,2})(?:[.,](\d{1,9})|:(\d{3}))?"
_ARROW = re.compile(rf"\s*{_TIME}\s*[-\u2013\u2014]{{1,2}}\s?>\s*(?:{_TIME}(?=\s|$))?(.*)")
_BROKEN_ARROW = re.compile(r"(?=.*\d)\s*(?:\S*\d\S*)?\s*-->\s*(?:\S*\d\S*)?\s*")
_MAX_TIMING = 200  # characters
_COMMA = re.compile(rf"\s*{_TIME}\s*[,;]\s*{_TIME}()\s*")
_SETTING = re.compile(r"[A-Za-z]\w*:\S+")
_BLOCK = re.compile(r"(?:NOTE(?:[ \t].*)?|(?:STYLE|REGION)[ \t]*|WEBVTT(?:[ \t].*)?|X-TIMESTAMP-MAP=.*)")
_CLOCK_MAP = re.compile(rf"X-TIMESTAMP-MAP=(?=.*MPEGTS:(\d{{1,12}}))(?=.*LOCAL:{_TIME})")
_CUT_OFF = re.compile(r"\s*\d[\d:.,]*\s*(?:-{1,2}>?\s*[\d:.,]*)?\s*")
_NUMBER = re.compile(r"\s*#?(\d{1,9})\s*")
_LYRIC = re.compile(r"\s*((?:\[\d{1,3}:\d{1,2}(?:[.:]\d{1,3})?\]\s*)+)(.*)")
_LYRIC_TIME = re.compile(r"\[(\d{1,3}):(\d{1,2})(?:[.:](\d{1,3}))?\]")
_LYRIC_TAG = re.compile(r"\s*\[([a-zA-Z#]+):(.*)\]\s*")


def split_lines(text: str) -> list[str]:
    """Return the lines of a text, whatever ends them."""
    return re.split(r"\r\r?\n|\r|\n", text)


def read_timed_text(text: str, is_webvtt: bool) -> Found:
    """Return what stands between the timings of a file; it may lack empty lines, numbers and ends.

    Only WebVTT has comments, styles and names of cues.
    """
    lines = split_lines(text)
    is_by_commas = any(map(_COMMA.fullmatch, lines)) and not any(_is_arrow(line) for line in lines if ">" in line)
    return _Blocks(lines, _COMMA if is_by_commas else _ARROW, is_webvtt).read()


def _tightened(line: str) -> str:
    """Return a line with an arrow without the blanks that translating programs put into times."""
    return re.sub(r"(?<=\d)\s*([:.,])\s+(?=\d)|(?<=\d)\s+([:.,])\s*(?=\d)", r"\1\2", line) if "-->" in line else line


def _is_arrow(line: str) -> bool:
    """Return whether a line is a timing; it may lack the end if the arrow is as it should be."""
    found = _ARROW.fullmatch(_tightened(line))
    return found is not None and (found[9] is not None or "-->" in line)


class _Blocks:
    """Cues out of lines: each timing begins one, and has the lines up to the next."""

    def __init__(self, lines: list[str], timing: re.Pattern[str], is_webvtt: bool) -> None:
        self._lines, self._timing, self._is_webvtt = lines, timing, is_webvtt
        self._places = [k for k, line in enumerate(lines) if self._is_timing(line)]
        numbered = [k for k in self._places if k and _NUMBER.fullmatch(lines[k - 1])]
        self._is_numbered = len(numbered) > 0.9 * len(self._places)
        named = [k for k in self._places if k and lines[k - 1].strip() and not "".join(lines[k - 2 : k - 1]).strip()]
        # Without a line above the first, what is above the others is text.
        self._is_named = is_webvtt or (len(named) > 0.9 * len(self._places) and self._places[:1] == named[:1])
        self._shift = 0.0
        self._first_map: float | None = None

    def _is_timing(self, line: str) -> bool:
        if self._timing is _COMMA:
            return _COMMA.fullmatch(line) is not None
        if ">" not in line:
            return False
        return _is_arrow(line) or (len(line) < _MAX_TIMING and bool(_BROKEN_ARROW.fullmatch(line)))

    def read(self) -> Found:
        """Return the cues, and what is to be said of them."""
        found, n_unplaced, n_before, number = Found(), 0, 0, 0
        first = self._places[0] if self._places else len(self._lines)
        head = self._without_blocks(self._lines[:first], is_head=True)
        n_stray = sum(bool(re.search(r"[^\W\d_]", line)) for line in head)
        found.has_words = not self._places and n_stray > 0
        above = [line for line in self._lines[:first] if line.strip()]
        if self._places and above and (own := _NUMBER.fullmatch(above[-1])):
            number = int(own[1])
        if self._places and n_stray > self._is_named and not self._is_webvtt and self._timing is _ARROW:
            found.notes.append(f"{n_stray} lines are above the first time, and are left out")
        for k, place in enumerate(self._places):
            is_last = k + 1 == len(self._places)
            body = self._lines[place + 1 : len(self._lines) if is_last else self._places[k + 1]]
            shift = self._shift
            body = self._without_blocks(body)
            body, number = (_without_end(body, number), number) if is_last else self._without_name(body, number)
            cue = self._cue(_tightened(self._lines[place]), body, shift)
            if cue is None:
                n_unplaced += any(line.strip() for line in body)
            elif cue.start < 0 and cue.end is not None and cue.end <= 0:
                n_before += 1
            else:
                found.cues.append(replace(cue, start=max(0.0, cue.start)))
        if n_unplaced:
            found.notes.append(f"{n_unplaced} cues have times that cannot be read, and are left out")
            found.has_words |= not found.cues
        if n_before:
            found.notes.append(f"{n_before} cues are before the beginning, and are left out")
        return found

    def _cue(self, line: str, body: list[str], shift: float) -> Timed | None:
        match = self._timing.fullmatch(line)
        if match is None:
            return None
        start = _seconds(match.groups()[:6]) + shift
        end = None if match[9] is None else _seconds(match.groups()[6:12]) + shift
        rest = (match[13] or "").split()
        words = [] if all(_SETTING.fullmatch(word) for word in rest) else [" ".join(rest)]
        is_end = end is not None and start <= end <= start + FAR
        return Timed(start, end if is_end else None, [*words, *body])

    def _without_blocks(self, body: list[str], is_head: bool = False) -> list[str]:
        """Return lines without WebVTT's comments, styles and headers, and without empty ones at the end."""
        if not self._is_webvtt:
            return body
        kept: list[str] = []
        is_out = False
        for k, line in enumerate(body):
            is_first = (k == 0 and is_head) or (k > 0 and not body[k - 1])
            line = line.lstrip("\ufeff")
            if is_first and _BLOCK.fullmatch(line):
                is_out = True
            if clock := _CLOCK_MAP.match(line):
                self._take_map(clock)
            is_out = is_out and bool(line)
            if not is_out:
                kept.append(line)
        return kept

    def _take_map(self, clock: re.Match[str]) -> None:
        """Follow a header in the middle: parts of a stream that were put together count from their own beginnings."""
        begins = int(clock[1]) / 90_000 - _seconds(clock.groups()[1:7])
        self._first_map = begins if self._first_map is None else self._first_map
        self._shift = begins - self._first_map

    def _without_name(self, body: list[str], number: int) -> tuple[list[str], int]:
        """Return the lines of a cue without the number, or the name, of the next, and the latest number."""
        kept = list(body)
        while kept and not kept[-1].strip():
            kept.pop()
        if len(kept) < len(body):  # in files with empty lines everywhere the number is not right above the time
            own = _NUMBER.fullmatch(kept[-1]) if kept else None
            is_next = own is not None and number > 0 and int(own[1]) == number + 1
            return (kept[:-1], number + 1) if is_next and len(kept) > 1 and not kept[-2].strip() else (body, number)
        if not body:
            return body, number
        is_apart = len(body) > 1 and not body[-2].strip()
        if own := _NUMBER.fullmatch(body[-1]):
            if is_apart or self._is_numbered or int(own[1]) == number + 1:
                return body[:-1], int(own[1])
        elif self._is_named and len(body) > 1 and not body[-2]:
            return body[:-1], number
        return body, number


def _without_end(body: list[str], number: int) -> list[str]:
    """Return the last cue's lines without the next number and half a timing, with which a cut off file ends."""
    kept = [line for line in body if line.strip()]
    for n in (2, 1):
        own = _NUMBER.fullmatch(kept[-n]) if len(kept) >= n else None
        if own is None or int(own[1]) != number + 1:
            continue
        place = max(k for k, line in enumerate(body) if line.strip() == kept[-n].strip())
        is_apart = place > 0 and not body[place - 1].strip()
        if is_apart and len(kept) > n and (n == 1 or _CUT_OFF.fullmatch(kept[-1])):
            return body[:place]
    return body


def _seconds(groups: Sequence[str | None]) -> float:
    """Return the seconds of a time: sign, hours, minutes, seconds, decimals, or milliseconds behind a colon."""
    sign, hours, minutes, seconds, decimals, milliseconds = groups
    whole = 3600 * int(hours or 0) + 60 * int(minutes or 0) + int(seconds or 0)
    part = round(float(f"0.{decimals or milliseconds or 0}"), 6)
    return round(whole + part, 6) * (-1 if sign else 1)


def read_lyrics(text: str) -> Found:
    """Return the lines of an .lrc, each shown until the next begins; the words' own times are left to be markup."""
    offset, times, found = 0.0, [], Found()
    for line in split_lines(text.lstrip("\ufeff")):
        if lyric := _LYRIC.fullmatch(line):
            for minutes, seconds, part in _LYRIC_TIME.findall(lyric[1]):
                times.append((60 * int(minutes) + int(seconds) + float(f"0.{part or 0}"), lyric[2].strip()))
        elif tag := _LYRIC_TAG.fullmatch(line):
            if tag[1].lower() == "offset" and re.fullmatch(r"\s*[-+]?\d{1,7}\s*", tag[2]):
                offset = int(tag[2]) / 1000
        else:
            found.has_words |= bool(re.search(r"[^\W\d_]", line))
    times.sort(key=lambda pair: pair[0])
    found.cues = [Timed(max(0.0, round(time - offset, 6)), None, [words]) for time, words in times]
    found.has_words &= not found.cues
    return found


def with_ends(cues: list[Timed]) -> tuple[list[Timed], int]:
    """Return cues in order of time, each with an end, and how many had none: they last until the next, or `LONGEST`."""
    ordered = sorted(cues, key=lambda cue: cue.start)
    after, n_without = float("inf"), 0
    ended: list[Timed] = []
    for place in range(len(ordered) - 1, -1, -1):
        cue = ordered[place]
        if place + 1 < len(ordered) and ordered[place + 1].start > cue.start:
            after = ordered[place + 1].start
        if cue.end is None:
            n_without += any(line.strip() for line in cue.lines)
            cue = replace(cue, end=min(after, cue.start + LONGEST))
        ended.append(cue)
    return ended[::-1], n_without
