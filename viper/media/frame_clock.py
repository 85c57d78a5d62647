"""When each frame of a video is shown, by its stamps: rising, whatever the stamps do."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

# Seconds by which a clock steps back that has begun anew (files joined byte by byte): later stamps count from there.
# A smaller step is disorder, and passes.
_RESTART = 1.0
# Seconds ahead at once that are not believed if they lead so far beyond the end that the file declares. An end that
# the frames have passed already is not believed itself.
_JUMP = 1.0


class FrameClock:
    """Takes the stamps of frames in the order in which they are shown; gives times that rise.

    These are the stamps but where there is none, or one that cannot be: then a frame comes at the average rate.

    Parameters
    ----------
    rate : frames a second.
    start : what counts as 0, in seconds of the stamps.
    seconds : the file's length as it says; None where it does not.
    slots : the times to give instead of the stamps', where those are no times; see `viper.media.video`.

    Attributes
    ----------
    n_back : times that the clock began anew.
    n_wrong : stamps that were not followed, for the next frame's contradicts them, or the file's length.
    """

    def __init__(
        self, rate: float, start: float = 0.0, seconds: float | None = None, slots: Sequence[float] | None = None
    ) -> None:
        self.n_back = self.n_wrong = 0
        self._rate, self._slots = rate, slots
        self._says = seconds or math.inf
        self._shift = -start  # from the stamps, since the clock began anew, to seconds of the file
        self._first: float | None = None
        self._last = -1.0 / rate
        self._count = 0

    def seconds(self, stamp: float | None, following: float | None = None, n_lost: int = 0) -> float:
        """Return the next frame's time, given its stamp, that of the frame after it, and how many before were lost."""
        if self._slots is None:
            time = self._believed(stamp, following)
        else:
            slot = self._count + n_lost
            time = self._slots[slot] + self._shift if slot < len(self._slots) else None
        self._count += 1
        if time is None or time <= self._last:
            time = self._last + 1.0 / self._rate
        self._last = time
        self._first = time if self._first is None else self._first
        return time

    def fps(self) -> float:
        """Return the average rate of the frames so far."""
        if self._count < 2 or self._first is None or self._last <= self._first:
            return self._rate
        return (self._count - 1) / (self._last - self._first)

    def remarks(self) -> Iterator[str]:
        """Return what the log is to say."""
        if self.n_back:
            often = "once" if self.n_back == 1 else f"{self.n_back} times"
            yield f"the clock of its pictures begins anew {often}; they go on without a gap"
        if self.n_wrong:
            yield f"wrong times of its pictures, of {self.n_wrong} frames, are not followed"

    def _believed(self, stamp: float | None, following: float | None) -> float | None:
        """Return the time that a stamp says; None where it cannot be."""
        if stamp is None:
            return None
        time = stamp + self._shift
        last = self._last if self._count else -math.inf
        if following is not None and last < following + self._shift < time:
            self.n_wrong += 1
            return None
        if self._count and time < self._last - _RESTART:
            self.n_back += 1
        elif time > self._last + _JUMP and time > self._says + _JUMP >= self._last and self._count:
            self.n_wrong += 1
        else:
            return time
        self._shift += self._last + 1.0 / self._rate - time
        return None
