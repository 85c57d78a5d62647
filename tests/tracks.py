"""Media files with sound that has gaps, wrong times, several tracks or many channels; and what can be heard of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np

from viper.media.sound import Sound

FPS = 25


@dataclass(frozen=True)
class Track:
    """A track of sound: `samples` (n,) or (channels, n) float in [-1, 1].

    Attributes
    ----------
    stamp : the second at which a packet is encoded -> the one it is stamped with, None where the packet is missing.
    flags : FFmpeg's dispositions.
    """

    samples: np.ndarray
    rate: int
    codec: str
    layout: str = ""
    stamp: Callable[[float], float | None] = lambda second: second
    language: str = ""
    flags: Sequence[str] = ()


def beeps(at: Sequence[float], seconds: float, rate: int = 48000, length: float = 0.1) -> np.ndarray:
    """Silence with beeps that begin at these seconds, (n,) float32."""
    time = np.arange(round(seconds * rate)) / rate
    is_on = np.any([(time >= second) & (time < second + length) for second in at], axis=0)
    return np.asarray(0.5 * np.sin(2 * np.pi * 440 * time) * is_on, np.float32)


def heard_at(sound: Sound) -> list[float]:
    """The seconds of the file at which beeps begin, to a hundredth."""
    power = np.convolve(np.abs(sound.samples), np.full(160, 1 / 160), "same") > 0.05
    begins = np.flatnonzero(np.diff(np.r_[0, power.astype(int)]) == 1)
    return [round(float(sound.start + begin / sound.rate), 2) for begin in begins]


def write_tracks(path: Path, *tracks: Track, seconds_of_video: float = 0.0, form: str | None = None) -> Path:
    """A file of these tracks, and of a video of that many seconds if there is one."""
    with av.open(str(path), "w", format=form) as container:
        packets: list[Any] = []
        if seconds_of_video:
            packets += _pictures(container, path, round(seconds_of_video * FPS))
        streams = [_stream(container, track) for track in tracks]
        for stream, track in zip(streams, tracks, strict=True):
            for packet in _encoded(stream, track):
                second = float(packet.pts * packet.time_base)
                stamp = track.stamp(second)
                if stamp is not None:
                    moved = round((stamp - second) / packet.time_base)
                    packet.pts, packet.dts = packet.pts + moved, packet.pts + moved
                    packets.append(packet)
        for packet in sorted(packets, key=lambda packet: float(packet.dts * packet.time_base)):
            container.mux(packet)
    return path


def _stream(container: Any, track: Track) -> Any:
    layout = track.layout or ("mono" if track.samples.ndim == 1 else "stereo")
    options = {"strict": "experimental"} if track.codec in ("vorbis", "opus") else {}
    stream = container.add_stream(track.codec, rate=track.rate, layout=layout, options=options)
    if track.language:
        stream.metadata["language"] = track.language
    if track.flags:
        stream.disposition = sum(av.stream.Disposition[flag].value for flag in track.flags)
    return stream


def _encoded(stream: Any, track: Track) -> Iterator[Any]:
    # Interleaved: PyAV cannot take eight channels side by side.
    samples = np.ascontiguousarray(np.atleast_2d(track.samples).T.astype(np.float32)).reshape(1, -1)
    frame = av.AudioFrame.from_ndarray(samples, format="flt", layout=stream.layout.name)
    frame.sample_rate, frame.pts, frame.time_base = track.rate, 0, Fraction(1, track.rate)
    resampler = av.AudioResampler(format=stream.format.name, layout=stream.layout.name, rate=track.rate)
    fifo = av.AudioFifo()
    for part in (*resampler.resample(frame), *resampler.resample(None)):
        fifo.write(part)
    size = stream.codec_context.frame_size or 1024
    while (chunk := fifo.read(size, partial=True)) is not None:
        yield from stream.encode(chunk)
    yield from stream.encode(None)


def _pictures(container: Any, path: Path, n: int) -> Iterator[Any]:
    codec = {".webm": "libvpx", ".avi": "mpeg4"}.get(path.suffix, "libx264")
    stream = container.add_stream(codec, rate=FPS)
    stream.width = stream.height = 32
    stream.pix_fmt = "yuv420p"
    for number in range(n):
        frame = av.VideoFrame.from_ndarray(np.full((32, 32, 3), 2 * number % 256, np.uint8), format="rgb24")
        frame.pts, frame.time_base = number, Fraction(1, FPS)
        yield from stream.encode(frame)
    yield from stream.encode(None)
