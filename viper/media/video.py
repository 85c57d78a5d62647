"""Frames of a video file: counted, not believed; chosen, then converted; with times from the stream."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from av.error import FFmpegError
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from viper.errors import ClipError
from viper.media.threads import notice_damage, same_by_threads, set_threads

# Limits on what a file may claim: above them it is a lie, a mistake or an attack, and would fill the memory.
# Pixels of one picture or frame. 8K video has 33 million; 16,000 x 16,000 would be 256 million and 768 MB as RGB.
MAX_PIXELS = 80_000_000
# Bytes of one picture's file: as many as it holds without compression.
MAX_PICTURE_BYTES = 3 * MAX_PIXELS
# Pixels of all frames taken from one video: 36 frames of 8K, 3.6 GB as RGB.
MAX_CLIP_PIXELS = 1_200_000_000
# Seconds of one clip's sound: 460 MB at 16 kHz. A tiny file of silence can claim, and decode to, weeks.
MAX_SOUND_SECONDS = 2 * 3600
# Hz. Resampling from rates outside would blow up the sound or the filter.
SOUND_RATES = (1000, 768_000)

# What FFmpeg may call a picture that came with a sound file; it is no video.
_COVER = "attached_pic"
# FFmpeg's names of the formats that are read, whatever a file is called. Others are not tried: a playlist called .mp4
# would have FFmpeg open the files and addresses it lists.
_FORMATS = (
    "mov", "matroska", "avi", "mpeg", "mpegvideo", "mpegts", "m4v", "h264", "hevc", "asf", "flv", "mxf", "ogg", "gif",
    "wav", "w64", "flac", "mp3", "aac", "aiff",
)  # fmt: skip
_OPTIONS = {
    "format_whitelist": ",".join(_FORMATS),
    "protocol_whitelist": "file",
    # Also while the file is opened: FFmpeg then decodes a frame or two to find out what is in it.
    "max_pixels": str(MAX_PIXELS),
}


@dataclass(frozen=True)
class VideoFrames:
    """The chosen frames of a video.

    Attributes
    ----------
    images : chosen frames, each (H, W, 3) uint8 RGB, upright.
    indices : (n,) their frame numbers.
    times : (n,) float64, seconds from the start of the file.
    n_frames : how many frames could be decoded in all.
    fps : their average rate.
    rotation : degrees, counter-clockwise, by which the stored frames were turned to stand upright.
    n_errors : packets that could not be decoded.
    """

    images: list[np.ndarray]
    indices: np.ndarray
    times: np.ndarray
    n_frames: int
    fps: float
    rotation: int
    n_errors: int


@same_by_threads
def read_frames(path: Path, choose: Callable[[np.ndarray], np.ndarray]) -> VideoFrames:
    """Decode a video once and keep the frames `choose(times of all frames)` names; times are (N,) float64, seconds.

    The packets' times are read first without decoding them, which is cheap; only when decoding yields others (damaged
    or hidden frames) and that changes the choice, the file is decoded a second time.

    Raises ClipError when the file cannot be opened, has no video or no decodable frame, or frames beyond the limits.
    """
    expected = _packet_times(path)
    frames, times = _decode(path, choose(expected))
    if len(times) == 0:
        raise ClipError(f"{path.name}: no frame of its video could be decoded")
    as_expected = len(times) == len(expected) and np.allclose(times, expected, rtol=0, atol=1e-6)
    if not as_expected:
        notice_damage()
    if not as_expected and not np.array_equal(choose(times), frames.indices):
        frames, _ = _decode(path, choose(times))
    return frames


class StreamedFrame:
    """A frame that was decoded, at a time in seconds; it is converted when it is asked for."""

    def __init__(self, time: float, frame: VideoFrame) -> None:
        self.time = time
        self._frame = frame

    @property
    def n_pixels(self) -> int:
        """Pixels of the frame."""
        return self._frame.width * self._frame.height

    @property
    def rotation(self) -> int:
        """As in VideoFrames."""
        return _rotation(self._frame)

    def rgb(self) -> np.ndarray:
        """Return (H, W, 3) uint8, upright."""
        return _upright(self._frame, "rgb24")

    def gray(self) -> np.ndarray:
        """Return (H, W) uint8, upright."""
        return _upright(self._frame, "gray")


def stream_frames(path: Path) -> Iterator[StreamedFrame]:
    """Return every frame that can be decoded, one after the other; none is kept.

    They are the frames that `read_frames` numbers from 0. Raises ClipError as that does, but a video without any
    decodable frame gives none.
    """
    with open_media(path) as container:
        stream = _video_stream(container, path)
        clock = _Clock(stream, start_seconds(container))
        for frame in _decoded(container, stream, _Errors()):
            yield StreamedFrame(clock.seconds(frame.time), frame)


def open_media(path: Path) -> av.container.InputContainer:
    """Open a media file; one that FFmpeg cannot read is a ClipError."""
    try:
        if path.stat().st_size == 0:
            raise ClipError(f"{path.name}: the file is empty")
        # metadata_errors: a title in some old encoding must not make a clip unreadable.
        # file: a name such as 12:30.mp4 would otherwise be taken for an address.
        return av.open(f"file:{path}", options=_OPTIONS, metadata_errors="ignore")
    except (FFmpegError, OSError) as error:
        raise ClipError(f"{path.name}: cannot be opened as audio or video ({_reason(error)})") from error


def _reason(error: Exception) -> str:
    return str(getattr(error, "strerror", None) or error)


def start_seconds(container: av.container.InputContainer) -> float:
    """Return when the file says it begins, in seconds; times of its video and of its sound both count from here."""
    return (container.start_time or 0) / av.time_base


def _video_stream(container: av.container.InputContainer, path: Path) -> VideoStream:
    for stream in container.streams.video:
        if not stream.disposition & av.stream.Disposition[_COVER]:
            _check(stream, path)
            set_threads(stream)
            return stream
    others = ", ".join(stream.type for stream in container.streams) or "an empty list of streams"
    raise ClipError(f"{path.name}: has no video, only {others}")


def _check(stream: VideoStream, path: Path) -> None:
    codec = stream.codec_context
    if codec is None:
        raise ClipError(f"{path.name}: its video is in a format that FFmpeg cannot decode")
    if codec.width * codec.height > MAX_PIXELS:
        raise ClipError(
            f"{path.name}: its frames are {codec.width}x{codec.height}; over {MAX_PIXELS:,} pixels are not decoded"
        )
    codec.options = {"max_pixels": str(MAX_PIXELS)}  # the size may change on the way


def _packet_times(path: Path) -> np.ndarray:
    """Return the times frames will have if each packet holds one, up to the first packet that cannot be read."""
    stamps: list[float | None] = []
    with open_media(path) as container:
        stream = _video_stream(container, path)
        with contextlib.suppress(FFmpegError):
            for packet in container.demux(stream):
                if packet.size:
                    stamps.append(None if packet.pts is None else float(packet.pts * packet.time_base))
        # Packets come in the order of decoding. Some of an avi's have no time; then all frames are counted by the rate.
        known = sorted(stamp for stamp in stamps if stamp is not None)
        in_order = known if len(known) == len(stamps) else [None] * len(stamps)
        clock = _Clock(stream, start_seconds(container))
        return np.array([clock.seconds(stamp) for stamp in in_order])


def _decode(path: Path, wanted: np.ndarray) -> tuple[VideoFrames, np.ndarray]:
    """Return the frames with these numbers, and the times of all."""
    chosen = set(wanted.tolist())
    images: list[np.ndarray] = []
    indices: list[int] = []
    times: list[float] = []
    rotation, n_pixels = 0, 0
    with open_media(path) as container:
        stream = _video_stream(container, path)
        errors = _Errors()
        clock = _Clock(stream, start_seconds(container))
        for frame in _decoded(container, stream, errors):
            if len(times) in chosen:
                n_pixels += frame.width * frame.height
                if n_pixels > MAX_CLIP_PIXELS:
                    raise ClipError(
                        f"{path.name}: {len(chosen)} frames of {frame.width}x{frame.height} are too large together; "
                        "take fewer frames"
                    )
                # The angle is a frame's side data: a phone may be turned between two clips joined into one file.
                rotation = _rotation(frame)
                images.append(_upright(frame, "rgb24"))
                indices.append(len(times))
            times.append(clock.seconds(frame.time))
    timeline, numbers, n = np.array(times), np.array(indices, np.int64), len(times)
    return VideoFrames(images, numbers, timeline[numbers], n, clock.fps(n), rotation, errors.count), timeline


class _Errors:
    def __init__(self) -> None:
        self.count = 0


def _decoded(container: av.container.InputContainer, stream: VideoStream, errors: _Errors) -> Iterator[VideoFrame]:
    """Return every frame that can be decoded; what cannot is counted and passed over."""
    packets = container.demux(stream)
    while True:
        try:
            packet = next(packets)
        except StopIteration:
            return
        except FFmpegError:
            notice_damage()
            errors.count += 1
            return
        try:
            frames = packet.decode()
        except FFmpegError:
            notice_damage()
            errors.count += 1
            continue
        for frame in frames:
            if isinstance(frame, VideoFrame):
                notice_damage(frame)
                yield frame


class _Clock:
    """Times of frames in decoding order: the stream's own, or by the average rate where it has none."""

    def __init__(self, stream: VideoStream, start: float) -> None:
        self._start = start
        self._rate = float(stream.average_rate or stream.guessed_rate or Fraction(25))
        self._first: float | None = None
        self._last = -1.0 / self._rate

    def seconds(self, stamp: float | None) -> float:
        time = None if stamp is None else stamp - self._start
        if time is None or time <= self._last:
            time = self._last + 1.0 / self._rate
        self._last = time
        self._first = time if self._first is None else self._first
        return time

    def fps(self, count: int) -> float:
        if count < 2 or self._first is None or self._last <= self._first:
            return self._rate
        return (count - 1) / (self._last - self._first)


def _rotation(frame: VideoFrame) -> int:
    # A matrix of zeros, which some writers leave, has no angle: FFmpeg says NaN, and PyAV makes it the smallest number.
    return frame.rotation if abs(frame.rotation) <= 360 else 0


def _upright(frame: VideoFrame, pixel_format: str) -> np.ndarray:
    image = frame.to_ndarray(format=pixel_format)
    # FFmpeg's angle says how far the picture must be turned counter-clockwise, as np.rot90 turns.
    return np.ascontiguousarray(np.rot90(image, round(_rotation(frame) / 90) % 4))
