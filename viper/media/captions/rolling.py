"""Lines that stay on the screen, or move up, while the next are added: each is kept once, when it first comes."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise

from viper.media.captions.timed_text import Timed

# Seconds: what repeats the lines before for no longer is no speech of its own; YouTube's lasts 10 ms.
BLINK = 0.05
_MARK = r"(?:<[^<>]*>|\{[^{}]*\})"
_OUTER_MARKS = re.compile(rf"^{_MARK}++|{_MARK}++$")
_INNER_MARK = re.compile(_MARK)
_OFTEN = 0.5  # share of a file's neighbours that repeat each other, from which on this is how it is written


def without_repeats(cues: Sequence[Timed], is_rolling: bool) -> list[Timed]:
    """Return cues in order of time without lines that were on the screen before.

    `is_rolling`: the file says so, by the words' own times. Otherwise it is seen by cues that follow one another
    without a pause and begin with what the one before ended with: where half of them also add something, or last a
    moment only. Speech that is said twice is not repeated that way.
    """
    cues = _once(cues)
    pairs = [(first, second) for first, second in pairwise(cues) if second.start <= _end(first) + BLINK]
    rolls = sum(_is_roll(first, second) for first, second in pairs)
    grows = sum(_n_grown(first.lines, second.lines) is not None for first, second in pairs)
    n = max(len(cues) - 1, 4)
    is_rolling |= rolls >= _OFTEN * n
    is_growing = grows >= _OFTEN * n
    if not is_rolling and not is_growing:
        return cues
    kept: list[Timed] = []
    shown: Timed | None = None
    for cue in cues:
        lines = cue.lines
        if shown is not None and cue.start <= _end(shown) + BLINK:
            grown = _n_grown(shown.lines, lines) if is_growing else None
            n_same = _n_same(shown.lines, lines) if is_rolling else 0
            # One line in the place of an equal one, for longer than a blink, is said again.
            is_again = len(lines) == len(shown.lines) == n_same == 1 and _end(cue) - cue.start > BLINK
            if n_same and not is_again:
                lines = lines[n_same:]
            elif grown is not None:
                place, length = grown
                lines = [lines[place][length:].strip(), *lines[place + 1 :]]
        if lines:
            kept.append(replace(cue, lines=lines))
        if cue.lines:
            shown = cue
    return kept


def without_highlights(cues: Sequence[Timed], raw: Sequence[Timed]) -> list[Timed]:
    """Return cues in order of time, those joined that show the same words while the mark moves from word to word.

    Whisper's `highlight_words` and karaoke are written so. `raw` has the same cues with their markup. Where no line is
    marked in part, the same words with another markup are said again.
    """
    marked = ["\n".join(cue.lines).split() for cue in raw]
    same = [
        first.lines == second.lines and bool(first.lines) and second.start <= _end(first) + BLINK and before != now
        for (first, second), (before, now) in zip(pairwise(cues), pairwise(marked), strict=True)
    ]
    if not any(is_same and (_has_part(raw[k]) or _has_part(raw[k + 1])) for k, is_same in enumerate(same)):
        return list(cues)
    kept = list(cues[:1])
    for is_same, cue in zip(same, cues[1:], strict=True):
        if is_same:
            kept[-1] = replace(kept[-1], end=max(_end(kept[-1]), _end(cue)))
        else:
            kept.append(cue)
    return kept


def _has_part(cue: Timed) -> bool:
    """Return whether markup stands within a line, not only around it."""
    return any(_INNER_MARK.search(_OUTER_MARKS.sub("", line.strip())) is not None for line in cue.lines)


def _once(cues: Sequence[Timed]) -> list[Timed]:
    """Return cues without those that say the same at the same time: a text's layers, a stream's overlapping parts."""
    seen: set[tuple[float, float | None, str]] = set()
    kept = []
    for cue in cues:
        key = cue.start, cue.end, "\n".join(cue.lines)
        if key not in seen:
            seen.add(key)
            kept.append(cue)
    return kept


def _end(cue: Timed) -> float:
    return cue.start if cue.end is None else cue.end


def _n_same(before: Sequence[str], now: Sequence[str]) -> int:
    """Return with how many lines the second begins that the first ends with."""
    return next((n for n in range(min(len(before), len(now)), 0, -1) if before[-n:] == now[:n]), 0)


def _is_roll(first: Timed, second: Timed) -> bool:
    n = _n_same(first.lines, second.lines)
    return n > 0 and (n < len(second.lines) or _end(second) - second.start <= BLINK)


def _n_grown(before: Sequence[str], now: Sequence[str]) -> tuple[int, int] | None:
    """Return which line of the second is the first's last with more words behind it, and how long that was."""
    if not before or not before[-1]:
        return None
    for n in range(min(len(before), len(now)), 0, -1):
        if list(before[-n:-1]) == list(now[: n - 1]) and now[n - 1].startswith(f"{before[-1]} "):
            return n - 1, len(before[-1])
    return None
