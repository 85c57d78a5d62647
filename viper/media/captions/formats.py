"""Formats that pysubs2 reads: SubStation, MicroDVD, MPL2, TTML."""

from __future__ import annotations

import re

import pysubs2

from viper.errors import ClipError
from viper.media.captions.timed_text import Found, Timed, split_lines

# What pysubs2 takes the columns of [Events] for, whatever the file calls them.
_EVENTS = {
    "ass": ("layer", "start", "end", "style", "name", "marginl", "marginr", "marginv", "effect", "text"),
    "ssa": ("marked", "start", "end", "style", "name", "marginl", "marginr", "marginv", "effect", "text"),
}
_RATE_LINE = re.compile(r"\s*\{\s*([01])\s*\}\s*\{\s*\1\s*\}\s*(\d{1,3}(?:[.,]\d{1,6})?)\s*")
_FRAMES = re.compile(r"\s*\{\s*(\d{1,9})\s*\}\s*\{\s*(\d{0,9})\s*\}(.*)")
_OLD_TTML = re.compile(r"http://www\.w3\.org/2006/(?:\d\d|02)/ttaf1(?=[#\"'])")
RATES = (1.0, 1000.0)  # frames a second that a video may have


def read_substation(text: str) -> Found:
    """Return the dialogue of an .ass or .ssa file; comments and drawings are left out."""
    kind = (
        "ass"
        if re.search(r"^\s*\[V4\+ Styles\]|^\s*ScriptType:\s*v4\.00\+", text, re.IGNORECASE | re.MULTILINE)
        else "ssa"
    )
    lines = [line.strip() for line in split_lines(text)]
    kind = "ass" if kind == "ssa" and not any(line.startswith("Dialogue: Marked=") for line in lines) else kind
    events = pysubs2.SSAFile.from_string("\n".join(_in_usual_order(lines, kind)), format_=kind).events
    cues = [
        Timed(event.start / 1000, event.end / 1000 if event.end >= event.start else None, text.split(r"\N"))
        for event in events
        if not event.is_comment and (text := _without_drawings(event.text) if event.is_drawing else event.text)
    ]
    n_lines = sum(line.startswith("Dialogue:") for line in lines)
    notes = [f"{n_lines - len(cues)} lines are drawings"] if len(cues) < n_lines and not events else []
    return Found(
        cues,
        notes,
        has_words=not cues
        and not any(line.lower().startswith("[script info") or line.lower() == "[events]" for line in lines),
    )


def _without_drawings(text: str) -> str:
    """Return the words before and behind shapes that are drawn; empty where there are none."""
    kept, is_drawing = [], False
    for part in re.split(r"(\{[^{}]*\})", text):
        if part.startswith("{"):
            scales = re.findall(r"\\p(\d+)", part)
            is_drawing = scales[-1].strip("0") != "" if scales else is_drawing
        elif not is_drawing:
            kept.append(part)
    return "".join(kept).strip()


def _in_usual_order(lines: list[str], kind: str) -> list[str]:
    """Return lines with their events' columns in the order that pysubs2 takes for granted."""
    usual, columns = _EVENTS[kind], None
    is_events = False
    kept = []
    for line in lines:
        if line.startswith("["):
            is_events = line.lower() == "[events]"
        if is_events and line.lower().startswith("format:"):
            columns = [name.strip().lower() for name in line[7:].split(",")]
        elif line.startswith(("Dialogue:", "Comment:")) and columns not in (None, list(usual)):
            assert columns is not None
            label, _, rest = line.partition(":")
            if columns[-1:] != ["text"] or not {"start", "end"} <= set(columns):
                raise ClipError("its [Events] lack start, end or text as the last column")
            cells = dict(zip(columns, rest.strip().split(",", len(columns) - 1), strict=False))
            filled = {"layer": "0", "marked": "Marked=0", "marginl": "0", "marginr": "0", "marginv": "0"} | cells
            line = f"{label}: " + ",".join(filled.get(name, "") for name in usual)
        kept.append(line)
    return kept


def microdvd_rate(text: str) -> float | None:
    """Return the frames a second that a MicroDVD file's first line names; None where it does not."""
    first = next((line for line in split_lines(text.lstrip("\ufeff")) if _FRAMES.fullmatch(line)), "")
    found = _RATE_LINE.fullmatch(first)
    rate = float(found[2].replace(",", ".")) if found else 0.0
    return rate if RATES[0] <= rate <= RATES[1] else None


def read_microdvd(text: str, rate: float) -> Found:
    """Return the lines of a MicroDVD file, whose times are numbers of frames, at a rate."""
    found = Found()
    n_else = 0
    kept: list[str] = []
    for line in split_lines(text.lstrip("\ufeff")):
        if _RATE_LINE.fullmatch(line) and not kept:
            continue
        if frames := _FRAMES.fullmatch(line):
            kept.append(f"{{{frames[1]}}}{{{frames[2] or frames[1]}}}{frames[3] or ' '}")
        else:
            n_else += bool(re.search(r"[^\W\d_]", line)) and not line.startswith("{DEFAULT}")
    for event in pysubs2.SSAFile.from_string("\n".join(kept), format_="microdvd", fps=rate).events:
        end = event.end / 1000 if event.end > event.start else None
        found.cues.append(Timed(event.start / 1000, end, [line.lstrip("/") for line in event.text.split(r"\N")]))
    if n_else and found.cues:
        found.notes.append(f"{n_else} lines are without {{frame}}{{frame}}, and are left out")
    found.has_words = bool(n_else) and not found.cues
    return found


def read_mpl2(text: str) -> Found:
    """Return the lines of an MPL2 file, whose times are tenths of a second."""
    events = pysubs2.SSAFile.from_string(text, format_="mpl2").events
    return Found([
        Timed(event.start / 1000, event.end / 1000 if event.end >= event.start else None, event.text.split(r"\N"))
        for event in events
    ])  # fmt: skip


def read_ttml(text: str) -> Found:
    """Return the paragraphs of a TTML (DFXP) file; ClipError for what pysubs2 does not read, and for own entities."""
    if re.search(r"<!(?:DOCTYPE|ENTITY)", text, re.IGNORECASE):
        raise ClipError("declares a document type, which no TTML needs")
    text = _OLD_TTML.sub("http://www.w3.org/ns/ttml", text.lstrip("\ufeff \r\n\t"))
    text = re.sub(r"(<(?:\w+:)?p\b[^<>]*?\s)dur=", r"\1duration=", text)
    events = pysubs2.SSAFile.from_string(text, format_="ttml").events
    cues = [
        Timed(event.start / 1000, event.end / 1000 if event.end >= event.start else None, event.text.split(r"\N"))
        for event in events
    ]
    return Found(
        cues, has_words=not cues and re.search(r">[^<>]*[^\W\d_][^<>]*</(?:\w+:)?(?:p|span)>", text) is not None
    )
