"""Pictures that came without a record: which frame each is, and its time, by their names."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from typing import Any, Literal

import numpy as np

from viper.errors import ClipError, UserError

# Pictures without a record of their times are taken to be numbered at the usual rate.
ASSUMED_FPS = 25.0
ORDER = "order"

_NUMBER = re.compile(r"[0-9]+")
_FRAME_WORDS = frozenset(
    ("frame", "frames", "frm", "fr", "f", "image", "img", "im", "idx", "index", "picture", "pic", "no", "num", "number")
)
_FACE_WORDS = frozenset(
    ("face", "faces", "det", "detection", "person", "people", "id", "track", "subject", "speaker", "p")
)
_TIME_WORDS = frozenset(("t", "time", "ts", "timestamp", "sec", "secs", "second", "seconds", "s", "at"))
_UNITS: dict[Literal["seconds", "ms"], re.Pattern[str]] = {
    "seconds": re.compile(r"s(ec(ond)?s?)?(?![A-Za-z])", re.IGNORECASE),
    "ms": re.compile(r"m(illi)?s(ec(ond)?s?)?(?![A-Za-z])", re.IGNORECASE),
}
_FIELDS = ("frame", "seconds", "ms")
_VALUE = r"(?<![0-9])[0-9]+(?:\.[0-9]+)?"
# A first frame number as high as this is rather a time of day or a counter of a camera's, and is remarked on.
_HIGH = 10_000
_HOW = "--picture_names says how: such as '{frame}_0', '*_{seconds}s', or order"


@dataclass(frozen=True)
class PictureNames:
    """How pictures are numbered by their names.

    Attributes
    ----------
    pattern : of the names without suffix: one of {frame}, {seconds} and {ms} or {frame} with one of the others, and *
        for anything; other pictures are left out. "order": by their order. None: by the number that varies.
    fps : frames a second, where the names have no times.
    """

    pattern: str | None = None
    fps: float = ASSUMED_FPS

    def check(self) -> None:
        """Raise a UserError for a pattern or rate that cannot be used."""
        if not (math.isfinite(self.fps) and self.fps > 0):
            raise UserError(f"--picture_fps {self.fps:g}: must be above 0")
        if self.pattern is not None and self.pattern != ORDER:
            self._expression()

    def entries(self, names: Sequence[str]) -> tuple[list[dict[str, Any]], str]:
        """Return what a record would say of pictures, in order of time: `index`, `time` (seconds) and `file`.

        Returns
        -------
        Them, and a remark where it was not plain which number is the frame's; else "".

        Raises
        ------
        ClipError : the names do not say which frame each picture is, or two say the same.
        """
        names = sorted(names, key=_natural)
        if self.pattern == ORDER or not names:
            return self._record([(name, Fraction(place), None) for place, name in enumerate(names)]), ""
        if self.pattern is not None:
            return self._by_pattern(names)
        rows, remark = _by_varying_number(names)
        return self._record(rows), remark

    def is_plain(self, entries: Sequence[dict[str, Any]]) -> bool:
        """Return whether these are what earlier versions made of the names: the last number, at the usual rate."""
        last = [(_NUMBER.findall(_stem(entry["file"])) or ["-1"])[-1] for entry in entries]
        pairs = [(entry["index"], entry["time"]) for entry in entries]
        return pairs == [(int(number), int(number) / ASSUMED_FPS) for number in last]

    def _by_pattern(self, names: Sequence[str]) -> tuple[list[dict[str, Any]], str]:
        expression = self._expression()
        rows: list[_Row] = []
        for name in names:
            match = expression.fullmatch(_stem(name)) or expression.fullmatch(name)
            if match:
                found = match.groupdict()
                seconds = Fraction(found["seconds"]) if "seconds" in found else None
                seconds = Fraction(found["ms"]) / 1000 if "ms" in found else seconds
                rows.append((name, Fraction(found["frame"]) if "frame" in found else None, seconds))
        if not rows:
            raise ClipError(f"none of its pictures is named like --picture_names {self.pattern!r}, such as {names[0]}")
        n = len(names) - len(rows)
        return self._record(
            rows
        ), f"{n} of {len(names)} pictures are not named {self.pattern} and left out" if n else ""

    def _expression(self) -> re.Pattern[str]:
        assert self.pattern is not None
        parts = re.split(r"(\{[^{}]*\}|\*)", self.pattern)
        fields = [part[1:-1] for part in parts if part.startswith("{")]
        is_wrong = any(fields.count(field) > 1 or field not in _FIELDS for field in fields)
        if is_wrong or not fields or {"seconds", "ms"} <= set(fields):
            raise UserError(
                f"--picture_names {self.pattern}: must have {{frame}}, {{seconds}} or {{ms}}; or be {ORDER}"
            )
        made = [
            f"(?P<{part[1:-1]}>{_VALUE})" if part.startswith("{") else ".*?" if part == "*" else re.escape(part)
            for part in parts
        ]
        return re.compile("".join(made), re.IGNORECASE | re.DOTALL)

    def _record(self, rows: Sequence[_Row]) -> list[dict[str, Any]]:
        """Return the entries of pictures, given (name, frame number or None, seconds or None) of each."""
        keys: dict[Fraction, str] = {}
        for name, frame, seconds in rows:
            key = seconds if frame is None else frame
            assert key is not None
            if key in keys:
                raise ClipError(f"{keys[key]} and {name} are pictures of the same frame; keep one of them, or {_HOW}")
            keys[key] = name
        rows = sorted(rows, key=lambda row: (row[2] if row[1] is None else row[1]) or Fraction(0))
        are_whole = all(frame is not None and frame.denominator == 1 for _, frame, _ in rows)
        entries = []
        for place, (name, frame, seconds) in enumerate(rows):
            time = float(seconds) if seconds is not None else float(frame or 0) / self.fps
            entries.append({"index": int(frame or 0) if are_whole else place, "time": time, "file": name})
        times = np.array([entry["time"] for entry in entries], np.float32)
        if (np.diff(times) <= 0).any():
            raise ClipError(
                f"{entries[0]['file']} to {entries[-1]['file']}: these numbers are no frame numbers: their times would "
                f"not rise; {_HOW}"
            )
        return entries


_Row = tuple[str, Fraction | None, Fraction | None]


def _stem(name: str) -> str:
    return name.rpartition(".")[0] or name


def _natural(name: str) -> list[tuple[int, int, str]]:
    """Return a key by which 2 is before 10."""
    parts = re.split(r"([0-9]+)", name)
    return [(1, int(part), part) if place % 2 else (0, 0, part) for place, part in enumerate(parts)]


@dataclass(frozen=True)
class _Number:
    """The numbers that stand at one place of all names, and what the words around them call them."""

    texts: list[str]
    kind: Literal["frame", "face", "seconds", "ms", "decimal", ""]

    @cached_property
    def values(self) -> list[Fraction]:
        return [Fraction(int(text)) if text.isdecimal() else Fraction(text) for text in self.texts]

    @cached_property
    def seconds(self) -> list[Fraction]:
        return [value / 1000 if self.kind == "ms" else value for value in self.values]

    @property
    def is_timed(self) -> bool:
        return self.kind in ("seconds", "ms")

    @cached_property
    def varies(self) -> bool:
        return len(set(self.values)) > 1

    @cached_property
    def is_unique(self) -> bool:
        return len(set(self.values)) == len(self.values)


def _by_varying_number(names: Sequence[str]) -> tuple[list[_Row], str]:
    """Return the rows of pictures, in natural order of their names, and a remark."""
    stems = [_stem(name) for name in names]
    counts = [len(_NUMBER.findall(stem)) for stem in stems]
    if not any(counts):
        remark = "no numbers in its pictures' names: they are taken in order" if len(names) > 1 else ""
        return [(name, Fraction(place), None) for place, name in enumerate(names)], remark
    usual = Counter(counts).most_common(1)[0][0]
    odd = [name for name, count in zip(names, counts, strict=True) if count != usual]
    if odd:
        raise ClipError(f"{odd[0]} is not named like its other pictures; rename or remove it, or {_HOW}")
    if len(names) == 1:
        return [(names[0], Fraction(0), None)], f"{names[0]} is its only picture and taken to be at 0 s ({_HOW})"
    numbers = _numbers(stems)
    varying = [number for number in numbers if number.varies]
    if not varying:
        raise ClipError(f"{names[0]} and {names[1]} are pictures of the same frame; keep one of them, or {_HOW}")
    chosen = _chosen(varying, names)
    timed = next((number for number in varying if number.is_timed and number.is_unique), None)
    frames = [None] * len(names) if chosen.is_timed else chosen.values
    seconds = [None] * len(names) if timed is None else timed.seconds
    is_plain = timed is None and (len(numbers) == 1 or (len(varying) == 1 and chosen is numbers[-1]))
    is_plain &= min(chosen.values) < _HIGH
    what = {"seconds": "its second", "ms": "its millisecond"}.get(chosen.kind, "its frame number")
    remark = "" if is_plain else f"{chosen.texts[0]} in {names[0]} is taken to be {what} ({_HOW})"
    return list(zip(names, frames, seconds, strict=True)), remark


def _numbers(stems: Sequence[str]) -> list[_Number]:
    """Return the numbers in names that have equally many, decimals put together."""
    split = [re.split(r"([0-9]+)", stem) for stem in stems]
    last = len(split[0]) - 2
    numbers: list[_Number] = []
    place = 1
    while place <= last:
        texts, before = [parts[place] for parts in split], [parts[place - 1] for parts in split]
        has_point = place < last and all(parts[place + 1] == "." for parts in split)
        fractions = [parts[place + 2] for parts in split] if has_point else []
        if has_point and len(set(zip(texts, fractions, strict=True))) > 1:
            behind = [parts[place + 3] for parts in split]
            kind = _kind(before, behind, place + 2 == last, is_decimal=True)
            # As in shot010.0001: a version or scene, then the frame.
            widths, is_padded = (
                {len(fraction) for fraction in fractions},
                texts[0].startswith("0") and len(texts[0]) > 1,
            )
            is_scene = len(set(texts)) == 1 and len(widths) == 1 and (is_padded or min(widths) >= 4)
            if kind or not is_scene:
                numbers.append(_Number([f"{a}.{b}" for a, b in zip(texts, fractions, strict=True)], kind or "decimal"))
                place += 4
                continue
        behind = [parts[place + 1] for parts in split]
        numbers.append(_Number(texts, _kind(before, behind, place == last, is_decimal=False)))
        place += 2
    return numbers


def _kind(
    before: Sequence[str], behind: Sequence[str], is_last: bool, is_decimal: bool
) -> Literal["frame", "face", "seconds", "ms", ""]:
    """Return what the words before and the unit behind a number call it, where they do so in all names."""
    found = [re.search(r"([A-Za-z]+)[^A-Za-z]*$", text) for text in before]
    words = {match.group(1).lower() if match else "" for match in found}
    for kind, unit in _UNITS.items():
        matches = [unit.match(text) for text in behind]
        # What ends at the next number is its word: 12s3.
        if all(match and (is_last or match.end() < len(text)) for match, text in zip(matches, behind, strict=True)):
            return kind
    if words <= _FACE_WORDS:
        return "face"
    if words <= _FRAME_WORDS:
        return "frame"
    return "seconds" if is_decimal and words <= _TIME_WORDS else ""


def _chosen(varying: Sequence[_Number], names: Sequence[str]) -> _Number:
    """Return the number, of those that vary, that says which frame (or second) each picture is."""
    called = [number for number in varying if number.kind == "frame"]
    frames = called or [number for number in varying if not number.kind]
    usable = [number for number in frames if number.is_unique]
    if usable and all(number.values == usable[0].values for number in usable):
        # Of hours, minutes and seconds the seconds may all differ, too, but do not rise with the names.
        rises = usable[0].values == sorted(usable[0].values)
        if called or rises or len(frames) == 1:
            return usable[0]
    timed = [number for number in varying if number.is_timed and number.is_unique]
    if timed and not usable:
        return timed[0]
    if usable:
        raise ClipError(f"{names[0]} to {names[-1]}: several numbers vary, and any may be the frame's; {_HOW}")
    decimal = next((number for number in varying if number.kind == "decimal"), None)
    if decimal and not frames:
        raise ClipError(f"{names[0]}: {decimal.texts[0]} may be seconds, or a frame and a face; {_HOW}")
    keys = frames[0].values if frames else [Fraction(0)] * len(names)
    first: dict[Fraction, str] = {}
    one, other = next(
        (first[key], name) for key, name in zip(keys, names, strict=True) if first.setdefault(key, name) != name
    )
    raise ClipError(
        f"{one} and {other}: several pictures of a frame, or of several faces; keep those of one person, or {_HOW}"
    )
