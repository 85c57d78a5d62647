"""Frames of a video file: counted, not believed; chosen, then converted; with times from the stream."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from av.error import FFmpegError
from av.stream import Disposition
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from viper.errors import ClipError
from viper.fingerprints import passes
from viper.logs import log
from viper.media.declared import Declared, Tally
from viper.media.frame_clock import FrameClock
from viper.media.geometry import Orientation, PixelShapes, is_square, orientation_of, shown, shown_width
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

# What FFmpeg calls a picture that came with a sound file, and what belongs to another video; neither is the video.
_COVER = Disposition.attached_pic | Disposition.timed_thumbnails | Disposition.dependent
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
    images : chosen frames, each (H, W, 3) uint8 RGB, as a player shows them: upright, with square pixels, and each of
        its own size, which may change on the way.
    indices : (n,) their frame numbers.
    times : (n,) float64, seconds from the start of the file.
    n_frames : how many frames could be decoded in all.
    fps : their average rate.
    rotation : degrees, counter-clockwise, by which the stored frames were turned to stand upright.
    n_errors : packets that could not be decoded.
    mirrored : whether left and right were exchanged after that.
    pixel_shape : width : height of the stored pixels; the frames were widened or narrowed by it.
    declared : what the file declares where that is more than can be read.
    """

    images: list[np.ndarray]
    indices: np.ndarray
    times: np.ndarray
    n_frames: int
    fps: float
    rotation: int = 0
    n_errors: int = 0
    mirrored: bool = False
    pixel_shape: Fraction = Fraction(1)
    declared: Declared | None = None


@same_by_threads
def read_frames(path: Path, choose: Callable[[np.ndarray], np.ndarray]) -> VideoFrames:
    """Decode a video once and keep the frames `choose(times of all frames)` names; times are (N,) float64, seconds.

    The packets' times are read first without decoding them, which is cheap; only when decoding yields others (damaged
    or hidden frames) and that changes the choice, the file is decoded a second time.

    Raises ClipError when the file cannot be opened, has no video or no decodable frame, or frames beyond the limits.
    """
    expected = _packet_times(path)
    reading = _decode(path, choose(expected))
    times = reading.times
    if len(times) == 0:
        raise ClipError(f"{path.name}: no frame of its video could be decoded")
    as_expected = len(times) == len(expected) and np.allclose(times, expected, rtol=0, atol=1e-6)
    if not as_expected:
        notice_damage()
    if not as_expected and not np.array_equal(choose(times), reading.frames.indices):
        reading = _decode(path, choose(times))
    reading.log_remarks(path)
    return reading.frames


@dataclass(frozen=True)
class StreamedFrame:
    """A frame that was decoded, at a time in seconds; it is converted when it is asked for.

    `pixel_shape` is width : height of its pixels as they are stored.
    """

    time: float
    frame: VideoFrame
    pixel_shape: Fraction

    def rgb(self) -> np.ndarray:
        """Return (H, W, 3) uint8, as VideoFrames has it."""
        return shown(self.frame, self.pixel_shape, orientation_of(self.frame), "rgb24")

    def gray(self) -> np.ndarray:
        """Return (H, W) uint8, as VideoFrames has it."""
        return shown(self.frame, self.pixel_shape, orientation_of(self.frame), "gray")


def stream_frames(path: Path, logs: bool = False) -> Iterator[StreamedFrame]:
    """Return every frame that can be decoded, one after the other; none is kept.

    They are the frames that `read_frames` numbers from 0. Raises ClipError as that does, but a video without any
    decodable frame gives none. `logs`: whether it is said what is wrong with the file's length and times.
    """
    with open_media(path) as container:
        stream = _video_stream(container, path)
        tally, clock = Tally(container, stream, path), _clock(container, stream, path)
        n_frames = 0
        for frame in _timed(container, tally, clock, PixelShapes(stream), path):
            n_frames += 1
            yield frame
        if logs:
            _log_lengths(path, tally.declared(n_frames), clock.remarks())


def is_shown_as_stored(path: Path) -> bool:
    """Return whether versions of viper that knew neither shapes of pixels nor mirrors took the same frames of a file.

    Also whether they had the times of an .avi with B-frames right, those of a clock that begins anew or has wild
    stamps, and the stream of several.
    """
    return passes(path, "shown as stored, at its stamps", lambda: _is_shown_as_stored(path))


def _is_shown_as_stored(path: Path) -> bool:
    try:
        with open_media(path) as container:
            stream = _video_stream(container, path)
            first = next(each for each in container.streams.video if not each.disposition & _COVER)
            is_late = container.format.name == "avi" and stream.codec_context.has_b_frames
            if first is not stream or is_late:
                return False
            shapes = PixelShapes(stream)
            frame = next(_decoded(container, Tally(container, stream, path)), None)
            if frame is None:
                return False
            orientation = orientation_of(frame)
            if not is_square(shapes.of(frame)) or orientation.mirrored or orientation.odd_angle is not None:
                return False
        return not _has_odd_stamps(path)
    except ClipError:
        return False


def _has_odd_stamps(path: Path) -> bool:
    """Return whether a file's packets are not in order, or one is shown more than a few seconds after it is decoded."""
    before, shown_late = -math.inf, 5.0
    with open_media(path) as container, contextlib.suppress(FFmpegError):
        for packet in container.demux(_video_stream(container, path)):
            if packet.dts is not None and packet.time_base is not None:
                late = 0.0 if packet.pts is None else float((packet.pts - packet.dts) * packet.time_base)
                if packet.dts < before or late > shown_late:
                    return True
                before = packet.dts
    return False


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
    """Return the video: of several the first that the file calls the default, as players do."""
    videos = [stream for stream in container.streams.video if not stream.disposition & _COVER]
    if not videos:
        others = ", ".join(stream.type for stream in container.streams) or "an empty list of streams"
        raise ClipError(f"{path.name}: has no video, only {others}")
    readable = [stream for stream in videos if stream.codec_context is not None] or videos
    stream = next((each for each in readable if each.disposition & Disposition.default), readable[0])
    _check(stream, path)
    set_threads(stream)
    return stream


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
        # Packets come in the order of decoding.
        known = sorted(stamp for stamp in stamps if stamp is not None)
        in_order = known if len(known) == len(stamps) else [None] * len(stamps)
        clock = _clock(container, stream, path)
        return np.array([clock.seconds(stamp) for stamp in in_order])


def _clock(container: av.container.InputContainer, stream: VideoStream, path: Path) -> FrameClock:
    rate = float(stream.average_rate or stream.guessed_rate or Fraction(25))
    seconds = None if container.duration is None else container.duration / av.time_base
    return FrameClock(rate, start_seconds(container), seconds, _slots(container, path))


def _slots(opened: av.container.InputContainer, path: Path) -> list[float] | None:
    """Return the times at which an .avi shows its frames, in seconds; None for other files, whose frames have times.

    An .avi only counts its packets, in the order of decoding: where B-frames change the order, what FFmpeg makes of the
    counts are no frame's times. But there is one frame for each packet. Packets without bytes repeat the frame before.
    """
    if opened.format.name != "avi":
        return None
    with open_media(path) as container:
        stream = _video_stream(container, path)
        counts: list[float] = []
        with contextlib.suppress(FFmpegError):
            for packet in container.demux(stream):
                if packet.size and packet.dts is not None:
                    counts.append(float(packet.dts * packet.time_base))
        return sorted(counts)


@dataclass(frozen=True)
class _Reading:
    """A video, decoded from beginning to end; `times` are those of all frames."""

    frames: VideoFrames
    times: np.ndarray
    shapes: PixelShapes
    clock: FrameClock
    odd_angle: float | None
    n_videos: int

    def log_remarks(self, path: Path) -> None:
        """Log what was decided about the file, and what is wrong with it, a line for each."""
        _log_lengths(path, self.frames.declared, self.clock.remarks())
        if self.odd_angle is not None:
            log.warning(
                "%s: asks to be turned by %g degrees; only quarter turns are made, so it is left as it is stored",
                path.name,
                self.odd_angle,
            )
        if self.shapes.wild is not None:
            log.warning(
                "%s: says that its pixels are %s; they are taken to be square", path.name, _colon(self.shapes.wild)
            )
        if self.n_videos > 1:
            log.info(
                "%s: has %d videos; the default one is read (ffmpeg -map 0:v:N makes a file of another)",
                path.name, self.n_videos,
            )  # fmt: skip
        sizes = list(dict.fromkeys(image.shape[1::-1] for image in self.frames.images))
        if len(sizes) > 1:
            log.info("%s: its size changes: %s", path.name, ", ".join(f"{width}x{height}" for width, height in sizes))
        if self.frames.pixel_shape != 1:
            log.info(
                "%s: its pixels are %s; frames are made %s to have square ones",
                path.name, _colon(self.frames.pixel_shape), "wider" if self.frames.pixel_shape > 1 else "narrower",
            )  # fmt: skip


def _log_lengths(path: Path, declared: Declared | None, remarks: Iterable[str]) -> None:
    if declared is not None:
        log.warning("%s: %s", path.name, declared)
    for remark in remarks:
        log.info("%s: %s", path.name, remark)


def _colon(shape: Fraction) -> str:
    return f"{shape.numerator}:{shape.denominator}"


def _decode(path: Path, wanted: np.ndarray) -> _Reading:
    """Return the frames with these numbers, and the times of all."""
    chosen = set(wanted.tolist())
    images: list[np.ndarray] = []
    indices: list[int] = []
    times: list[float] = []
    orientation, odd_angle, pixel_shape, n_pixels = Orientation(), None, Fraction(1), 0
    with open_media(path) as container:
        stream = _video_stream(container, path)
        tally, clock, shapes = Tally(container, stream, path), _clock(container, stream, path), PixelShapes(stream)
        for each in _timed(container, tally, clock, shapes, path):
            frame, shape = each.frame, each.pixel_shape
            if len(times) in chosen:
                width = shown_width(frame, shape)
                n_pixels += width * frame.height
                if n_pixels > MAX_CLIP_PIXELS:
                    raise ClipError(
                        f"{path.name}: {len(chosen)} frames of {width}x{frame.height} are too large together; "
                        "take fewer frames"
                    )
                orientation, pixel_shape = orientation_of(frame), shape
                odd_angle = orientation.odd_angle if odd_angle is None else odd_angle
                images.append(shown(frame, shape, orientation, "rgb24"))
                indices.append(len(times))
            times.append(each.time)
        n_videos = sum(not each.disposition & _COVER for each in container.streams.video)
        declared = tally.declared(len(times))
    timeline, numbers, n = np.array(times), np.array(indices, np.int64), len(times)
    frames = VideoFrames(
        images, numbers, timeline[numbers], n, clock.fps(), orientation.rotation, tally.n_errors,
        orientation.mirrored, pixel_shape, declared,
    )  # fmt: skip
    return _Reading(frames, timeline, shapes, clock, odd_angle, n_videos)


def _checked_shape(frame: VideoFrame, shapes: PixelShapes, path: Path) -> Fraction:
    """Return the shape of a frame's pixels; ClipError where square ones would be too many."""
    shape = shapes.of(frame)
    width = shown_width(frame, shape)
    if width * frame.height > MAX_PIXELS:
        raise ClipError(
            f"{path.name}: its frames are {width}x{frame.height}; over {MAX_PIXELS:,} pixels are not decoded"
        )
    return shape


def _timed(
    container: av.container.InputContainer, tally: Tally, clock: FrameClock, shapes: PixelShapes, path: Path
) -> Iterator[StreamedFrame]:
    """Return every frame that can be decoded, with its time: when the next one is there, which may contradict it."""
    held: tuple[VideoFrame, Fraction, int] | None = None
    for frame in _decoded(container, tally):
        if held is not None:
            yield StreamedFrame(clock.seconds(held[0].time, frame.time, held[2]), *held[:2])
        held = frame, _checked_shape(frame, shapes, path), tally.n_errors
    if held is not None:
        yield StreamedFrame(clock.seconds(held[0].time, None, held[2]), *held[:2])


def _decoded(container: av.container.InputContainer, tally: Tally) -> Iterator[VideoFrame]:
    """Return every frame that can be decoded; what cannot is counted and passed over."""
    packets = container.demux(*tally.streams)
    while True:
        try:
            packet = next(packets)
        except StopIteration:
            return
        except FFmpegError:
            notice_damage()
            tally.n_errors += 1
            return
        tally.saw(packet)
        if packet.stream is not tally.stream:
            continue
        try:
            frames = packet.decode()
        except FFmpegError:
            notice_damage()
            tally.n_errors += 1
            continue
        for frame in frames:
            if isinstance(frame, VideoFrame):
                notice_damage(frame)
                yield frame
