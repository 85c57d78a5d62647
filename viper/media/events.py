"""Events of a video: when its motion is at its height. Its frames are streamed, not kept."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from viper.media.sampling import detect_events, motion_lengths, normalized, smooth_curve
from viper.media.video import stream_frames


@dataclass(frozen=True)
class Motion:
    """What moves in a clip of N frames, and when most.

    Attributes
    ----------
    times : (N,) float64, seconds from the start of the file.
    fps : their average rate.
    curve : (N - 1,) motion from each frame to the next, in [0, 1].
    smooth : (N - 1,) the same, smoothed.
    peaks : (P,) int64, the frames at which events are.
    prominences : (P,) by how much each stands out of `smooth`.
    """

    times: np.ndarray
    fps: float
    curve: np.ndarray
    smooth: np.ndarray
    peaks: np.ndarray
    prominences: np.ndarray


def read_motion(path: Path, assumed_fps: float | None = None) -> Motion:
    """Decodes a video and looks for its events, with `assumed_fps` as if that were its rate.

    Raises ClipError when the file cannot be opened, has no video, or frames beyond the limits.
    """
    times: list[float] = []

    def pictures() -> Iterator[np.ndarray]:
        for frame in stream_frames(path):
            times.append(frame.time)
            yield frame.gray()

    return motion_of(list(motion_lengths(pictures())), np.array(times), assumed_fps)


def motion_of(lengths: Sequence[float], times: np.ndarray, assumed_fps: float | None = None) -> Motion:
    """Events of frames at these times (N,), given how much moves from each to the next (N - 1,) in pixels."""
    from scipy.signal import peak_prominences

    curve = normalized(lengths)
    fps = len(curve) / (times[-1] - times[0]) if len(curve) else 1.0
    rate = assumed_fps or fps
    smooth, peaks = smooth_curve(curve, rate), detect_events(curve, rate)
    return Motion(times, fps, curve, smooth, peaks, peak_prominences(smooth, peaks)[0])
