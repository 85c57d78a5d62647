"""Write video and sound files: any container FFmpeg knows, with or without sound, at a constant or a variable rate."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import NamedTuple, cast

import av
import numpy as np
from av.audio.stream import AudioStream
from av.container import OutputContainer
from av.video.stream import VideoStream
from numpy.typing import NDArray

from viper.files import atomic_path

_VARIABLE_TIME_BASE = Fraction(1, 30000)


class _Container(NamedTuple):
    video: str  # encoder
    sound: str
    sound_rate: int | None  # Hz that the sound encoder insists on
    variable: bool  # whether the container can hold a variable frame rate


_CONTAINERS = {
    ".mp4": _Container("libx264", "aac", None, True),
    ".mov": _Container("libx264", "aac", None, True),
    ".mkv": _Container("libx264", "aac", None, True),
    ".avi": _Container("mpeg4", "libmp3lame", 44100, False),
    ".mpg": _Container("mpeg2video", "mp2", 44100, False),
    ".webm": _Container("libvpx", "libopus", 48000, True),
}
_VIDEO_OPTIONS = {
    # cpu-independent: by default the vector code of x264's rate control (mbtree) reads memory that was never written,
    # so that the same frames give another file each time.
    "libx264": {"preset": "veryfast", "crf": "16", "x264-params": "cpu-independent=1"},
    "libx265": {"preset": "veryfast", "crf": "22", "x265-params": "log-level=error"},
    # Not realtime, in which the time an encode takes decides how well it is done.
    "libvpx": {"deadline": "good", "cpu-used": "5", "crf": "12", "b": "1500k"},
    "mpeg4": {"b": "1500k"},
    "mpeg2video": {"b": "2500k"},
}


def write_video(
    path: str | Path,
    frames: Iterable[NDArray[np.uint8]],
    fps: float | Fraction,
    *,
    samples: NDArray[np.floating] | None = None,
    rate: int | None = None,
    times: Sequence[float] | None = None,
    codec: str | None = None,
    pixel_format: str = "yuv420p",
    rotation: int = 0,
    metadata: Mapping[str, str] | None = None,
) -> int:
    """Write a video file, atomically; the container follows from the file's suffix.

    Parameters
    ----------
    frames
        (H, W, 3) uint8 RGB, all of one size; H and W even, because chroma is stored at half of it.
    fps
        frames per second; with `times` only what the encoder reckons with.
    samples
        sound, (N,) or (N, 2) float in [-1, 1], `rate` Hz; without it the file has no sound stream.
    times
        seconds at which each frame is shown, rising: a variable frame rate.
    codec
        FFmpeg's name of the video encoder; by default H.264, or what the container is used with.
    rotation
        degrees, a multiple of 90, counter-clockwise, by which a player has to turn the frames; they are stored as
        given, so what is seen is `np.rot90(frame, rotation // 90)`. Only .mp4, .mov and .mkv keep it.
    metadata
        tags of the container, such as `comment`.

    Returns
    -------
    The number of frames written.

    Raises
    ------
    ValueError
        for an unknown suffix, no frames, odd sizes, more or fewer times than frames, or what the container cannot hold.
    """
    path = Path(path)
    container_kind = _check(path, samples, rate, times, rotation)
    iterator = iter(frames)
    first = next(iterator, None)
    if first is None:
        raise ValueError(f"{path.name}: a video needs at least one frame")
    if first.shape[0] % 2 or first.shape[1] % 2:
        raise ValueError(f"{path.name}: frames of {first.shape[1]}x{first.shape[0]}; both must be even")
    # bitexact: otherwise .mkv and .webm get a random number.
    options = {"fflags": "bitexact"}
    with atomic_path(path) as temporary, av.open(str(temporary), "w", container_options=options) as container:
        container.metadata.update(metadata or {})
        codec = codec or container_kind.video
        fps = Fraction(fps).limit_denominator(1001)
        video_options = dict(_VIDEO_OPTIONS.get(codec, {}))
        stream = cast(VideoStream, container.add_stream(codec, rate=fps, options=video_options))
        stream.height, stream.width = first.shape[:2]
        stream.pix_fmt = pixel_format
        stream.thread_count = (
            1  # with more the bytes depend on the machine's cores; and a process pool is already parallel
        )
        stream.codec_context.time_base = _VARIABLE_TIME_BASE if times is not None else 1 / fps
        if rotation:
            stream.set_display_rotation(rotation)
        sound = None if samples is None else _Sound(container, container_kind, samples, int(rate or 0))
        return _mux(container, stream, itertools.chain([first], iterator), times, sound)


class _Sound:
    """Sound that is encoded in step with the pictures, so that the file's packets interleave."""

    def __init__(self, container: OutputContainer, kind: _Container, samples: NDArray[np.floating], rate: int) -> None:
        planes = np.atleast_2d(np.asarray(samples, np.float32).T)
        self._planes = np.ascontiguousarray(np.clip(planes, -1, 1))
        self._layout = "mono" if len(planes) == 1 else "stereo"
        self._rate, self._position = rate, 0
        stream = container.add_stream(kind.sound, rate=kind.sound_rate or rate, layout=self._layout)
        self._stream = cast(AudioStream, stream)

    def encode_until(self, seconds: float) -> Iterator[av.Packet]:
        end = min(round(seconds * self._rate), self._planes.shape[1])
        if end > self._position:
            chunk = np.ascontiguousarray(self._planes[:, self._position : end])
            frame = av.AudioFrame.from_ndarray(chunk, format="fltp", layout=self._layout)
            frame.sample_rate, frame.time_base, frame.pts = self._rate, Fraction(1, self._rate), self._position
            self._position = end
            yield from self._stream.encode(frame)

    def finish(self) -> Iterator[av.Packet]:
        yield from self.encode_until(self._planes.shape[1] / self._rate)
        yield from self._stream.encode(None)


def _check(
    path: Path, samples: NDArray[np.floating] | None, rate: int | None, times: Sequence[float] | None, rotation: int
) -> _Container:
    kind = _CONTAINERS.get(path.suffix.lower())
    if kind is None:
        raise ValueError(f"{path.name}: unknown suffix; known are {' '.join(_CONTAINERS)}")
    if samples is not None and not rate:
        raise ValueError(f"{path.name}: sound needs its rate")
    if times is not None and not kind.variable:
        raise ValueError(f"{path.name}: {path.suffix} holds a constant frame rate only")
    if times is not None and np.any(np.diff(times) <= 0):
        raise ValueError(f"{path.name}: the frames' times do not rise")
    if rotation % 90 or (rotation and path.suffix.lower() not in {".mp4", ".mov", ".mkv"}):
        raise ValueError(f"{path.name}: cannot keep a rotation of {rotation} degrees")
    return kind


def _mux(
    container: OutputContainer,
    stream: VideoStream,
    frames: Iterable[NDArray[np.uint8]],
    times: Sequence[float] | None,
    sound: _Sound | None,
) -> int:
    base = stream.codec_context.time_base
    assert base is not None
    count = 0
    for index, pixels in enumerate(frames):
        if times is not None and index == len(times):
            raise ValueError(f"more frames than the {len(times)} times")
        frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
        frame.pts = index if times is None else round(times[index] / base)
        frame.time_base = base
        container.mux(stream.encode(frame))
        if sound is not None:
            for packet in sound.encode_until(float(frame.pts * base)):
                container.mux(packet)
        count += 1
    container.mux(stream.encode(None))
    if sound is not None:
        for packet in sound.finish():
            container.mux(packet)
    if times is not None and count < len(times):
        raise ValueError(f"{count} frames, but {len(times)} times")
    return count
