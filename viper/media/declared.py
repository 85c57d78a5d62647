"""What a file declares of its length, against what can be read of it: files that were cut short say so."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import av
from av.container import InputContainer
from av.packet import Packet
from av.stream import Stream
from av.video.stream import VideoStream

# Containers whose header tells a duration. FFmpeg finds that of others (.ts, .mpg) by looking at their end.
_WITH_DURATION = ("matroska", "mov", "flv", "asf")
# Frames in a container's table. One of more is not looked through.
_MAX_ENTRIES = 2_000_000
# Seconds. Writers disagree by so much about how long the last frame or the last piece of sound is.
_SLACK = 0.5


@dataclass(frozen=True)
class Declared:
    """More frames, or seconds, than can be read: `n` of them were declared, `found` are there."""

    unit: str
    n: float
    found: float

    def __str__(self) -> str:
        return f"declares {self.n:g} {self.unit}, {self.found:g} can be read; frames are taken of these"


class Tally:
    """Counts what is read of a file while its frames are decoded.

    Attributes
    ----------
    stream : the video's.
    streams : those whose packets are to be read, the video's among them.
    n_errors : packets that could not be decoded.
    """

    def __init__(self, container: InputContainer, stream: VideoStream, path: Path) -> None:
        self.streams: Sequence[Stream] = [stream]
        self.n_errors = 0
        self.stream, self._path = stream, path
        self._kind = container.format.name.split(",")[0]
        self._ticks = {each.index: float(each.time_base or 0) for each in container.streams}
        self._n_slots = 0
        self._seconds, self._end = 0.0, 0.0
        has_index = self._kind == "mov" and stream.frames
        if self._kind in _WITH_DURATION and container.duration and not has_index:
            self._seconds = container.duration / av.time_base
            # The sound may be longer than the video.
            self.streams = [each for each in container.streams if each.type in ("video", "audio")]

    def saw(self, packet: Packet) -> None:
        """Count a packet of one of the streams."""
        if self._seconds and packet.pts is not None:
            end = (packet.pts + (packet.duration or 0)) * self._ticks[packet.stream.index]
            self._end = max(self._end, end)
        if self._kind == "avi" and packet.dts is not None:
            self._n_slots = max(self._n_slots, packet.dts + 1)  # also frames that stay the same, which have no bytes

    def declared(self, n_frames: int) -> Declared | None:
        """Return what was declared if that is more than these decoded frames; None otherwise.

        To be asked when the file has been read to its end, before it is closed.
        """
        n_declared, is_lacking = 0, self.n_errors > 0
        if self._kind == "mov" and len(self.stream.index_entries) <= _MAX_ENTRIES:
            # Not `stream.frames`: an edit list may leave some out. An entry beyond the end is a frame that is missing.
            size = self._path.stat().st_size
            entries = [entry for entry in self.stream.index_entries if not entry.is_discard]
            n_declared = len(entries)
            is_lacking |= any(entry.pos + entry.size > size for entry in entries)
        elif self._kind == "avi":
            n_declared = self.stream.frames
            is_lacking |= self._n_slots + 1 < n_declared
        if is_lacking and n_frames < n_declared:
            return Declared("frames", n_declared, n_frames)
        if self._end + _SLACK < self._seconds:
            return Declared("seconds", round(self._seconds, 3), round(self._end, 3))
        return None
