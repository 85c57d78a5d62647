"""Where each frame of sound belongs by the file's clock: gaps are kept, jitter and wrong time stamps are not."""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass
from typing import Generic, NamedTuple, TypeVar

ItemT = TypeVar("ItemT")

# Seconds by which a time stamp may miss the end of the sound before it: containers round to milliseconds, recorders
# jitter, and 50 ms too early or too late is not noticed beside a picture.
TOLERANCE = 0.05
# Seconds for which frames must go on by a new clock before it is believed: a single packet may bear any time, and one
# packet of a broadcast holds several frames.
_PROOF = 1.0
# Frames that are held for that at most: they may be of a sample each.
_MOST_HELD = 1000
# Seconds of a jump at the end of a file that is believed without that.
_BELIEVED_AT_END = 60.0
# Seconds by which a clock steps back that has begun anew (files joined byte by byte): later jumps count from there.
# What a smaller step took back, a later jump ahead gives again.
_RESTART = 1.0
# Frames whose stamps show how much they jitter: one that is as late as these but for half the tolerance is no step.
_RECENT = 32
# Share by which a clock may be slower than the samples to be followed. No recorder is farther off; such a clock counts
# something else, and most of the sound might be cut out.
_MOST_SLOW = 0.05


class Placed(NamedTuple, Generic[ItemT]):
    """A frame, and the second of the file at which it begins; None: where the one before it ends."""

    item: ItemT
    begin: float | None


class _Stamped(NamedTuple, Generic[ItemT]):
    item: ItemT
    time: float | None
    seconds: float


@dataclass
class Findings:
    """What a clock met, for the log.

    Attributes
    ----------
    n_gaps, silence : jumps ahead that were followed, and the seconds of silence they left.
    n_back : times that it stepped back.
    n_wrong : frames with a stamp that those behind them contradict.
    n_beyond : jumps ahead that led beyond the end of the file, or the limit on its length.
    cut : seconds cut out of the sound, which was longer than its clock.
    """

    n_gaps: int = 0
    silence: float = 0.0
    n_back: int = 0
    n_wrong: int = 0
    n_beyond: int = 0
    cut: float = 0.0


class SoundClock(Generic[ItemT]):
    """Takes frames with their time stamps in decoding order, and gives them back, in that order, with their places.

    By the number of its samples a frame begins where the one before it ends. Its stamp overrules that where it is

    - ahead by more than `TOLERANCE`, at once or little by little, if the frames behind it agree: silence is between;
    - behind by as much little by little: there are more samples than seconds, and some are cut out.

    A clock that steps back at once is not followed, for sound would be laid over sound; nor is one that leads beyond
    the end of the file.

    Parameters
    ----------
    seconds : the file's length as it says; None where it does not.
    longest : the most seconds of sound that are read.

    Attributes
    ----------
    start : second of the file at which the first frame begins.
    findings : what was met so far.
    """

    def __init__(self, seconds: float | None, longest: float) -> None:
        self.start = 0.0
        self.findings = Findings()
        self._says, self._longest = seconds, longest
        self._n_frames = 0
        self._end = 0.0  # where the next frame begins by the samples
        self._shift = 0.0  # from the clock, since it began anew, to seconds of the file
        self._recent: deque[float] = deque(maxlen=_RECENT)  # by how much the last stamps were ahead
        self._anchor = 0.0  # where the clock was compared with the sound for the last time, to go on from there
        self._late = 0.0  # what the clock has stepped back by, at most 0
        self._back = 0.0  # seconds of sound since it seems to have begun anew
        self._held: list[_Stamped[ItemT]] = []  # the frames behind a jump ahead that is not proved yet

    def add(self, item: ItemT, time: float | None, seconds: float) -> list[Placed[ItemT]]:
        """Take a frame of so many seconds, stamped with a second of the file; return those that are placed by now."""
        return self._take(_Stamped(item, time, seconds))

    def finish(self) -> list[Placed[ItemT]]:
        """Return what is left at the end of the file."""
        placed: list[Placed[ItemT]] = []
        while self._held:
            placed += self._release(is_proved=self._ahead_of(self._held[0]) <= _BELIEVED_AT_END)
        return placed

    def _take(self, frame: _Stamped[ItemT]) -> list[Placed[ItemT]]:
        if self._n_frames == 0:
            self.start = self._end = self._anchor = max(0.0, frame.time or 0.0)
            return [self._append(frame)]
        placed: list[Placed[ItemT]] = []
        if self._held:
            if not self._returns(frame):
                self._held.append(frame)
                return self._release(is_proved=True) if self._is_proved() else []
            placed = self._release(is_proved=False)
        if self._ahead_of(frame) > TOLERANCE:
            self._held = [frame]
            return placed
        return [*placed, self._place(frame)]

    def _ahead_of(self, frame: _Stamped[ItemT]) -> float:
        """Return by how many seconds a frame's stamp is ahead of the sound so far."""
        return 0.0 if frame.time is None else frame.time + self._shift - self._end

    def _is_proved(self) -> bool:
        """Return whether the frames behind a jump have gone on for long enough, by their stamps or by their samples."""
        stamps = [frame.time for frame in self._held if frame.time is not None]
        span = max(stamps) + self._held[-1].seconds - stamps[0]
        return max(span, sum(frame.seconds for frame in self._held)) >= _PROOF or len(self._held) >= _MOST_HELD

    def _returns(self, frame: _Stamped[ItemT]) -> bool:
        """Return whether a frame behind a jump goes on as if there had been none."""
        if frame.time is None:
            return False
        stamps = [(index, held.time) for index, held in enumerate(self._held) if held.time is not None]
        last, stamp = stamps[-1]
        if frame.time < stamps[0][1]:
            return True
        by_jump = frame.time - stamp - sum(held.seconds for held in self._held[last:])
        by_samples = self._ahead_of(frame) - sum(held.seconds for held in self._held)
        return abs(by_samples) <= TOLERANCE and abs(by_samples) < abs(by_jump)

    def _release(self, is_proved: bool) -> list[Placed[ItemT]]:
        """Place the frames behind a jump: where the first is stamped, or where the sound before it ends."""
        held, self._held = self._held, []
        if is_proved:
            return [self._jump(held[0]), *(placed for frame in held[1:] for placed in self._take(frame))]
        self.findings.n_wrong += len(held)
        return [self._append(frame) for frame in held]

    def _jump(self, frame: _Stamped[ItemT]) -> Placed[ItemT]:
        """Place a frame behind silence."""
        ahead = self._ahead_of(frame)
        self._begin_anew()
        if self._end + ahead > self._most():
            self.findings.n_beyond += 1
            self._shift -= ahead
            return self._append(frame)
        self.findings.n_gaps += 1
        self.findings.silence += ahead
        return self._append(frame, self._end + ahead)

    def _place(self, frame: _Stamped[ItemT]) -> Placed[ItemT]:
        """Place a frame that is not ahead."""
        if frame.time is None:
            return self._append(frame)
        error = self._ahead_of(frame)
        is_step = error < min(self._recent, default=0.0) - TOLERANCE / 2
        self._recent.append(error)
        if error < -_RESTART:
            return self._restart(frame, error)
        self._back = 0.0
        if error - self._late > TOLERANCE:
            self._late = min(0.0, error)
        behind = self._late - error
        if behind <= TOLERANCE:
            return self._append(frame)
        elapsed, self._anchor = self._end - self._anchor, self._end
        self._recent.clear()
        if not is_step and behind <= _MOST_SLOW * elapsed:
            self.findings.cut += behind
            self._recent.append(self._late)
            return self._append(frame, self._end - behind)
        self.findings.n_back += 1
        self._late = error
        self._recent.append(error)
        return self._append(frame)

    def _restart(self, frame: _Stamped[ItemT], error: float) -> Placed[ItemT]:
        """Place a frame whose clock is far behind."""
        if self._n_frames == 1:  # the file's first stamp was the wrong one
            self.findings.n_wrong += 1
            seconds = self._end - self.start
            self.start = max(0.0, self.start + error)
            self._end = self.start + seconds
            self._begin_anew()
            return self._append(frame)
        self.findings.n_back += self._back == 0.0
        self._back += frame.seconds
        if self._back >= _PROOF:
            self._shift -= error
            self._begin_anew()
        return self._append(frame)

    def _begin_anew(self) -> None:
        """Forget how the clock ran before; the next stamps are compared with a frame that is where it says."""
        self._late = self._back = 0.0
        self._anchor = self._end
        self._recent.clear()

    def _append(self, frame: _Stamped[ItemT], begin: float | None = None) -> Placed[ItemT]:
        self._end = (self._end if begin is None else begin) + frame.seconds
        self._n_frames += 1
        return Placed(frame.item, begin)

    def _most(self) -> float:
        """Return the second up to which silence is believed; a length that the sound is beyond already is not."""
        says = math.inf if self._says is None or self._says < self._end - 1.0 else self._says
        return min(says + TOLERANCE, self.start + self._longest)
