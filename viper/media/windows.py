"""A long video in pieces: each with the frames that a rule would take of it alone, and never the whole in memory."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from viper.errors import ClipError, UserError
from viper.media.motion import motion_lengths, motion_of
from viper.media.sampling import FrameRule
from viper.media.video import MAX_CLIP_PIXELS, StreamedFrame, VideoFrames, stream_frames

# Rounding of times: a frame at 2 s may be said to be at 1.9999999.
_SLACK = 1e-6
# Of a piece with a single frame.
_ASSUMED_FPS = 25.0


@dataclass(frozen=True)
class Span:
    """A stretch of a file, in seconds from its start; `is_last` where none follows."""

    start: float
    end: float
    is_last: bool


def check_windows(every: float, window: float) -> None:
    """Raise a UserError for wrong lengths."""
    for option, value in (("every", every), ("window", window)):
        if not (math.isfinite(value) and value > 0):
            raise UserError(f"--{option} {value:g}: seconds, above 0")


def next_span(number: int, every: float, window: float, seen: float, is_all: bool) -> Span | None:
    """Return the window with this number, from 0: `window` seconds from `number` times `every` on.

    The last one is shorter where the file ends in it. One of less than half a window is not made: the one before then
    goes on to the end, unless there is a gap between the two.

    Parameters
    ----------
    seen : seconds of the file that are known to be there; `is_all` says that there are no more.

    Returns
    -------
    None where more of the file must be seen first.
    """
    start = float(number * every)
    end, following = start + window, start + every
    if not is_all and seen < max(end, following + window / 2):
        return None
    if is_all and end >= seen - _SLACK:
        return Span(start, seen, True)
    if seen - following >= window / 2:
        return Span(start, end, False)
    return Span(start, seen if following <= end else end, True)


def spans(length: float, every: float, window: float) -> Iterator[Span]:
    """Return all windows of a file of so many seconds."""
    number = 0
    while span := next_span(number, every, window, length, is_all=True):
        yield span
        if span.is_last:
            return
        number += 1


@dataclass(frozen=True)
class Window:
    """A stretch of a video and the frames taken of it, by rule; their times count from its start. Without a frame in it
    `chosen` is empty.
    """

    span: Span
    chosen: dict[FrameRule, VideoFrames]


def read_windows(
    path: Path, rules: Sequence[FrameRule], every: float, window: float, at_least: float = 0.0
) -> Iterator[Window]:
    """Decode a video piece by piece.

    The file is decoded twice side by side: one decoder runs ahead, so that it is known which frames a piece has, and
    the other keeps those that are chosen. What is held are the chosen frames of a piece (of all that overlap it).

    `at_least` is up to where there is something else, in seconds: where the pictures end half a window or more before
    that (the last one may be held, as by screen recorders), pieces without frames follow.

    Raises ClipError as `viper.media.video.read_frames` does, and where the frames of one piece are too large together.
    """
    scout = _Scout(path, rules, at_least, window / 2)
    frames = enumerate(stream_frames(path))
    held: dict[int, np.ndarray] = {}
    plans: deque[_Plan] = deque()
    number = 0
    is_done = False
    while plans or not is_done:
        # Frames of this piece may be wanted by all that begin before its end, so these are planned before it is read.
        while not is_done and (not plans or number * every < plans[0].span.end):
            span = scout.span(number, every, window)
            plans.append(scout.plan(span))
            number, is_done = number + 1, span.is_last
        _hold(path, frames, held, plans)
        plan = plans.popleft()
        yield plan.window(held)
        if plans:
            scout.forget(plans[0].first)
        kept = _wanted(plans)
        held = {index: each for index, each in held.items() if index in kept}


@dataclass(frozen=True)
class _Plan:
    """What is known of a piece before its frames are kept.

    Attributes
    ----------
    first : number, in the file, of its first frame.
    times : (n,) of all its frames, seconds from its start.
    chosen : rule -> which of them, from 0; nothing where there are none.
    """

    span: Span
    first: int
    times: np.ndarray
    chosen: dict[FrameRule, np.ndarray]

    def window(self, held: Mapping[int, np.ndarray]) -> Window:
        chosen: dict[FrameRule, VideoFrames] = {}
        n = len(self.times)
        fps = (n - 1) / (self.times[-1] - self.times[0]) if n > 1 else _ASSUMED_FPS
        for rule, indices in self.chosen.items():
            images = [held[self.first + index] for index in indices.tolist()]
            chosen[rule] = VideoFrames(images, indices, self.times[indices], n, fps)
        return Window(self.span, chosen)


def _wanted(plans: Iterable[_Plan]) -> set[int]:
    """Return the numbers, in the file, of the frames that are chosen."""
    return {plan.first + index for plan in plans for indices in plan.chosen.values() for index in indices.tolist()}


def _hold(
    path: Path, frames: Iterator[tuple[int, StreamedFrame]], held: dict[int, np.ndarray], plans: deque[_Plan]
) -> None:
    """Decode to the end of the first plan, and keep what any of them wants."""
    wanted = _wanted(plans)
    missing = _wanted([plans[0]]) - held.keys()
    while missing:
        index, frame = next(frames)
        if index in wanted:
            held[index] = frame.rgb()
            missing.discard(index)
            if sum(each.size // 3 for each in held.values()) > MAX_CLIP_PIXELS:
                raise ClipError(
                    f"{path.name}: the frames of {plans[0].span.end - plans[0].span.start:g} seconds are too large "
                    "together; take shorter windows, or fewer that overlap"
                )


class _Scout:
    """The decoder that runs ahead: times of frames, and the motion between them where a rule wants it."""

    def __init__(self, path: Path, rules: Sequence[FrameRule], at_least: float, slack: float) -> None:
        self._name, self._rules = path.name, rules
        self._at_least, self._slack = at_least, slack
        self._frames = stream_frames(path, logs=True)
        self._motion = motion_lengths(self._pictures()) if any(rule.is_by_events for rule in rules) else None
        self._first = 0  # the number of the frame that the lists begin with
        self._times: list[float] = []
        self._lengths: list[float] = []  # from that frame to the next
        self._n_frames, self._began = 0, 0.0
        self._is_all = False

    def _pictures(self) -> Iterator[np.ndarray]:
        for frame in self._frames:
            self._saw(frame)
            yield frame.gray()

    def _saw(self, frame: StreamedFrame) -> None:
        if not self._n_frames:
            self._began = frame.time
        self._times.append(frame.time)
        self._n_frames += 1

    def _advance(self) -> None:
        try:
            if self._motion is None:
                self._saw(next(self._frames))
            else:
                self._lengths.append(next(self._motion))
        except StopIteration:
            self._is_all = True
            if not self._n_frames:
                raise ClipError(f"{self._name}: no frame of its video could be decoded") from None

    @property
    def _seen(self) -> float:
        """Seconds whose frames are all known; at the end of the file, its length."""
        if not self._times:
            return 0.0
        last = self._times[-1]
        if not self._is_all:
            return last
        # The last frame is shown as long as the others are on average.
        end = last + ((last - self._began) / (self._n_frames - 1) if self._n_frames > 1 else 1 / _ASSUMED_FPS)
        return self._at_least if self._at_least - end >= self._slack else end

    def span(self, number: int, every: float, window: float) -> Span:
        """Return the window of that number; see `next_span`."""
        while (span := next_span(number, every, window, self._seen, self._is_all)) is None:
            self._advance()
        return span

    def plan(self, span: Span) -> _Plan:
        """Return the frames of a piece; what stands before the first second belongs to the first."""
        times = np.array(self._times)
        begin = int(np.searchsorted(times, span.start - _SLACK)) if span.start > 0 else 0
        end = int(np.searchsorted(times, span.end - _SLACK))
        own = times[begin:end] - span.start
        chosen: dict[FrameRule, np.ndarray] = {}
        for rule in self._rules if len(own) else ():
            motion = None
            if rule.is_by_events:
                motion = motion_of(self._lengths[begin : end - 1], own, rule.assumed_fps)
            chosen[rule] = rule.choose(own, motion)
        return _Plan(span, self._first + begin, own, chosen)

    def forget(self, first: int) -> None:
        """Drop what is before that frame: it will not be asked for."""
        n = min(first - self._first, len(self._times) - 1)
        del self._times[:n], self._lengths[:n]
        self._first += n
