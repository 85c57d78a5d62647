"""Words of a cue: without markup, and without what a user does not want of captions."""

from __future__ import annotations

import re
from collections.abc import Collection
from html import unescape
from typing import Literal, get_args

Cleaning = Literal["dashes", "speakers", "notes", "lyrics", "sounds"]
CLEANINGS: tuple[Cleaning, ...] = get_args(Cleaning)

_WORD_TIME = re.compile(r"<\d{1,3}:\d[\d:.,]*>")
_READING = re.compile(r"<rt>[^<>]*</rt>|<rp>[^<>]*</rp>", re.IGNORECASE)
_ANY_TAG = re.compile(r"< ?/? ?[a-zA-Z][^<>]*>")
_KNOWN_TAG = re.compile(
    r"< ?/? ?(?:[biuspvca]|br|em|tt|rb|rt|rp|ins|del|big|sub|sup|div|font|ruby|span|small|strong|strike|center|lang)"
    r"(?:[\s./=][^<>]*)?>",
    re.IGNORECASE,
)
_ANY_OVERRIDE = re.compile(r"\{[^{}]*\}")
_OVERRIDE = re.compile(r"\{\s*\\[^{}]*\}|\{[a-zA-Z]:[^{}]*\}")
_BREAK = re.compile(r"\\[Nnh]")
_HARD_BREAK = re.compile(r"\\[Nh]|\[br\]|< ?br ?/? ?>", re.IGNORECASE)
# Marks of direction, YouTube's empty captions, soft hyphens; joiners are part of words and of emoji.
_NO_WIDTH = re.compile("[\u00ad\u200b\u200e\u200f\u202a-\u202e\u2060\u2066-\u2069\ufeff]")
_NOTES = "♩♪♫♬🎵🎶"
# Nothing is tried twice (the + behind + and *): a line of a million dashes must not take minutes.
_DASH = r"[-\u2010-\u2015\u2212]{1,2}+(?![-\u2010-\u2015\u2212>]|[\d.,]*\d)\s*+"
_TURNS = rf"\s*+(?:{_DASH}|>{{2,}}+\s*+|＞{{2,}}+\s*+)"
_TURN = re.compile(rf"^{_TURNS}++")
_LABEL = re.compile(rf"^(\s*+(?:{_TURNS})*+)(?:[\[(]([^\])\n]{{1,40}})[\])]|([^:\n\[\]()]{{1,40}}))\s?:(?=\s|$)\s*")
_SOUND = re.compile(
    r"\[[^\[\]]*\](?!\s?:)|\([^()]*\)(?!\s?:)|（[^（）]*）|【[^【】]*】|［[^［］]*］|(?<!\S)\*[^*\n]+\*(?!\S)"
)
_SUNG = re.compile(rf"[{_NOTES}]+[^{_NOTES}]*(?:[{_NOTES}]+|$)|(?m:^[ ]*#[ ][^#\n]*[ ]#[ ]*$)")
_MARKED = re.compile(rf"[{_NOTES}]+|(?m:^[ ]*#(?=[ ][^#\n]*[ ]#[ ]*$)|(?<=[ ])#[ ]*$)")


def has_word_times(lines: Collection[str]) -> bool:
    """Return whether words in these lines have times of their own."""
    return any("<" in line and _WORD_TIME.search(line) is not None for line in lines)


def plain_lines(lines: Collection[str], kind: str) -> list[str]:
    """Return lines without markup, entities and characters of no width, and without empty ones.

    Parameters
    ----------
    kind : the format: in "vtt" whatever is between < and > is markup, in "ass" whatever is between { and }; in others
        only what is known as such, since people write words so.
    """
    text = "\n".join(lines)
    text = (_BREAK if kind == "ass" else _HARD_BREAK).sub("\n", text)
    text = (_ANY_OVERRIDE if kind == "ass" else _OVERRIDE).sub("", text)
    if "<" in text:
        text = _READING.sub("", _WORD_TIME.sub("", text))
        text = (_ANY_TAG if kind == "vtt" else _KNOWN_TAG).sub("", text)
    text = _NO_WIDTH.sub("", unescape(text))
    return [plain for line in text.split("\n") if (plain := " ".join(line.split()))]


def cleaned(lines: Collection[str], what: Collection[str]) -> list[str]:
    """Return lines without what is named, and without those of which nothing is left."""
    if not what:
        return list(lines)
    text, before = "\n".join(lines), set(lines)
    if "lyrics" in what:
        text = _SUNG.sub("", text)
    elif "notes" in what:
        text = _MARKED.sub("", text)
    if "speakers" in what:
        text = "\n".join(_without_label(line) for line in text.split("\n"))
    if "sounds" in what:
        text = _SOUND.sub("", text)
    if "dashes" in what:
        text = "\n".join(_TURN.sub("", line) for line in text.split("\n"))
    left = (" ".join(line.split()) for line in text.split("\n"))
    # What is left of a line that had more, a full stop for instance, says nothing.
    return [line for line in left if line and (line in before or re.search(r"\w", line))]


def _without_label(line: str) -> str:
    """Return a line without who speaks: ANN:, [Ann]:, and behind a dash or >> also Ann:."""
    found = _LABEL.match(line)
    if found is None:
        return line
    name = found[2] or found[3]
    is_turn = bool(found[1].strip()) or found[2] is not None
    is_name = len(name.split()) <= 3 and re.search(r"[^\W\d_]", name) is not None
    is_capital = name == name.upper() != name.lower() or (is_turn and name[:1].isupper())
    return f"{found[1]}{line[found.end() :]}" if is_name and is_capital else line
