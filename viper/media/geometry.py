"""How a stored frame becomes the picture a player shows: square pixels, turned, mirrored."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from fractions import Fraction
from typing import cast

import av
import numpy as np
from av.filter import Graph
from av.sidedata.sidedata import SideData
from av.video.frame import VideoFrame
from av.video.reformatter import Interpolation
from av.video.stream import VideoStream

_SQUARE = Fraction(1)
# Pixels farther from square than this are a mistake: the widest in use (352 x 576 shown at 16:9) are 128:45.
_WIDEST = 4
# Pixels nearer to square than this are rounding of whoever wrote the file; the picture is not resampled for them.
_ROUNDING = 0.01
# As FFmpeg: an angle this near to a quarter turn, in degrees, is that turn.
_ANGLE = 1.0
# To read a frame's own pixel shape from the width of a picture that has it as its shape.
_MEASURE = 10_000


@dataclass(frozen=True)
class Orientation:
    """How a stored frame is turned and mirrored to stand as it is shown.

    Attributes
    ----------
    rotation : 0, 90, 180 or -90, degrees counter-clockwise.
    mirrored : whether left and right are exchanged after that.
    odd_angle : what the file asks for where that is no quarter turn, in degrees; such frames are left as stored.
    """

    rotation: int = 0
    mirrored: bool = False
    odd_angle: float | None = None

    def apply(self, image: np.ndarray) -> np.ndarray:
        """Return a picture (H, W) or (H, W, 3) as it is shown."""
        turned = np.rot90(image, self.rotation // 90 % 4)
        return np.ascontiguousarray(turned[:, ::-1] if self.mirrored else turned)


_AS_STORED = Orientation()


def orientation_of(frame: VideoFrame) -> Orientation:
    """Return the orientation that a frame's display matrix asks for.

    It is a frame's side data: a phone may be turned between two clips joined into one file.
    """
    held = cast(Iterable[SideData], frame.side_data)  # PyAV's stubs have it as a dictionary
    matrix = next((bytes(each) for each in held if each.type.name == "DISPLAYMATRIX"), b"")
    if len(matrix) < 36:
        return _AS_STORED
    # A point (x, y) is shown at (a x + c y, b x + d y), both counted to the right and downwards.
    a, b, _, c, d = np.frombuffer(matrix, np.int32, 5).astype(float).tolist()
    largest = max(abs(value) for value in (a, b, c, d))
    if largest == 0:  # zeros, which some writers leave
        return _AS_STORED
    mirrored = a * d - b * c < 0
    if mirrored:  # without the mirror: the axis to the right is reversed
        a, c = -a, -c
    is_zero = [abs(value) <= largest * math.sin(math.radians(_ANGLE)) for value in (a, b, c, d)]
    if is_zero == [False, True, True, False] and a * d > 0:
        return Orientation(0 if a > 0 else 180, mirrored)
    if is_zero == [True, False, False, True] and b * c < 0:
        return Orientation(90 if c > 0 else -90, mirrored)
    return Orientation(odd_angle=round(math.degrees(math.atan2(-b, a)), 1))


def is_square(aspect: Fraction) -> bool:
    """Return whether pixels of this shape are shown as they are stored."""
    return abs(float(aspect) - 1) < _ROUNDING


class PixelShapes:
    """The shapes of a video's pixels (width : height), which may change on the way.

    What the container says holds for all frames, as for players; else what the frames say. `wild` is one that cannot
    be: its frames are taken to have square pixels.
    """

    def __init__(self, stream: VideoStream) -> None:
        self._codec = stream.codec_context
        own, of_container = self._codec.sample_aspect_ratio, stream.sample_aspect_ratio
        self.wild: Fraction | None = None
        self._of_container = self._believed(of_container) if of_container and of_container != own else None
        # By size: where the shape changes with the size, frames that the decoder holds back still have the old one.
        self._seen: dict[tuple[int, int], list[Fraction]] = {}

    def of(self, frame: VideoFrame) -> Fraction:
        """Return the shape of a frame's pixels; to be asked of every frame, as soon as it is decoded."""
        if self._of_container is not None:
            return self._of_container
        size = frame.width, frame.height
        if frame.key_frame or size not in self._seen:  # others have the shape of the key frame before
            codec = self._codec
            shape = self._believed(codec.sample_aspect_ratio or _SQUARE)
            seen = self._seen.setdefault((codec.width, codec.height), [])
            if shape not in seen:
                seen.append(shape)
        seen = self._seen.get(size, [])
        return seen[0] if len(seen) == 1 else self._believed(_asked(frame))

    def _believed(self, aspect: Fraction) -> Fraction:
        if Fraction(1, _WIDEST) <= aspect <= _WIDEST:
            return _SQUARE if is_square(aspect) else aspect
        self.wild = aspect
        return _SQUARE


def _asked(frame: VideoFrame) -> Fraction:
    """Return the shape of the pixels that is stored with a frame: PyAV does not tell, but FFmpeg's filters see it."""
    graph = Graph()
    source = graph.add_buffer(
        width=frame.width, height=frame.height, format=frame.format, time_base=Fraction(1, av.time_base)
    )
    scale = graph.add("scale", f"w=clip({_MEASURE}*sar\\,1\\,{_MEASURE * 10}):h=1:flags=neighbor:eval=frame")
    sink = graph.add("buffersink")
    source.link_to(scale)
    scale.link_to(sink)
    graph.configure()
    graph.push(frame)
    measured = graph.pull()
    assert isinstance(measured, VideoFrame)
    return Fraction(measured.width, _MEASURE).limit_denominator(500)


def shown_width(frame: VideoFrame, aspect: Fraction) -> int:
    """Return how wide a stored frame is with square pixels; its height stays, as in players."""
    if aspect is _SQUARE:
        return frame.width
    return max(1, round(frame.width * aspect))


def shown(frame: VideoFrame, aspect: Fraction, orientation: Orientation, pixel_format: str) -> np.ndarray:
    """Return a frame as a picture (H, W, 3) or (H, W), with square pixels, turned and mirrored as it is shown."""
    width = shown_width(frame, aspect)
    if width == frame.width:
        image = frame.to_ndarray(format=pixel_format)
    else:
        image = frame.to_ndarray(format=pixel_format, width=width, interpolation=Interpolation.BICUBIC)
    return orientation.apply(image)
