"""The motion in a video, and its events: the moments at which it is at its height. Frames are streamed, not kept."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from viper.media.video import stream_frames

# Motion is measured on a gray copy at most so wide, in pixels.
FLOW_WIDTH = 320
# Of events, in seconds but for the prominence, which is a share of the clip's range of motion: how far the motion is
# smoothed (the Gaussian's sigma), how far events are apart at least, how far they stand out, and how far one reaches.
SIGMA, DISTANCE, PROMINENCE, HALF_WINDOW = 0.2, 1.0, 0.3, 0.5
# StimuVAR counts 6, 30 and 15 frames, whatever the clip's rate: the above at this one.
STIMUVAR_FPS = 30.0
# Pixels a frame. Motion that varies less over a clip is the arithmetic's noise, not to be blown up to the full range.
_FLAT = 1e-4


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
    """Decode a video and looks for its events, with `assumed_fps` as if that were its rate.

    Raises ClipError when the file cannot be opened, has no video, or frames beyond the limits.
    """
    times: list[float] = []

    def pictures() -> Iterator[np.ndarray]:
        for frame in stream_frames(path):
            times.append(frame.time)
            yield frame.gray()

    return motion_of(list(motion_lengths(pictures())), np.array(times), assumed_fps)


def motion_of(lengths: Sequence[float], times: np.ndarray, assumed_fps: float | None = None) -> Motion:
    """Return the events of frames at these times (N,), given the motion from each to the next (N - 1,) in pixels."""
    from scipy.signal import peak_prominences

    curve = normalized(lengths)
    fps = len(curve) / (times[-1] - times[0]) if len(curve) else 1.0
    rate = assumed_fps or fps
    smooth, peaks = smooth_curve(curve, rate), detect_events(curve, rate)
    return Motion(times, fps, curve, smooth, peaks, peak_prominences(smooth, peaks)[0])


def motion_lengths(frames: Iterable[np.ndarray]) -> Iterator[float]:
    """Return how much moves between each frame and the next, in pixels.

    The mean length of the vectors of a dense optical flow (Farneback 2003; the parameters are StimuVAR's).

    Parameters
    ----------
    frames : N pictures, (H, W) gray or (H, W, 3) RGB, uint8. Two are held at a time, as gray copies of the first one's
        shape, at most `FLOW_WIDTH` wide. The first gives nothing, each further one a number as soon as it comes.
    """
    before: np.ndarray | None = None
    for frame in frames:
        now = _small_gray(frame, None if before is None else before.shape)
        if before is not None:
            flow = cv2.calcOpticalFlowFarneback(
                before, now, None, pyr_scale=0.5, levels=3, winsize=15, iterations=3, poly_n=5, poly_sigma=1.2, flags=0
            )  # type: ignore[call-overload]
            yield float(np.hypot(flow[..., 0], flow[..., 1]).mean())
        before = now


def normalized(lengths: Sequence[float]) -> np.ndarray:
    """Return motion (N - 1,) as shares of its range, float64 in [0, 1]; motion that is the same throughout is zeros."""
    curve = np.array(lengths, np.float64)
    if len(curve) == 0 or np.ptp(curve) < _FLAT:
        return np.zeros(len(curve))
    return np.asarray((curve - curve.min()) / np.ptp(curve))


def _small_gray(frame: np.ndarray, shape: Sequence[int] | None) -> np.ndarray:
    gray = cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) if frame.ndim == 3 else frame
    height, width = gray.shape
    if shape is None:
        shape = (height, width) if width <= FLOW_WIDTH else (max(1, round(height * FLOW_WIDTH / width)), FLOW_WIDTH)
    if gray.shape == tuple(shape):
        return gray
    return np.asarray(cv2.resize(gray, (shape[1], shape[0]), interpolation=cv2.INTER_AREA))


def smooth_curve(curve: np.ndarray, fps: float) -> np.ndarray:
    """Return a motion curve after a Gaussian filter, mirrored at its ends: the curve whose maxima are events."""
    if len(curve) == 0:
        return curve
    from scipy.ndimage import gaussian_filter1d

    # A file may claim any rate; a sigma above the curve's length makes no difference but takes time and memory.
    sigma = min(SIGMA * fps, len(curve))
    return np.asarray(gaussian_filter1d(curve, sigma, mode="reflect"))


def detect_events(curve: np.ndarray, fps: float) -> np.ndarray:
    """Return the moments at which motion is at its height, as StimuVAR (IJCV 2025) finds them, but in seconds.

    Local maxima of the smoothed curve, at least `DISTANCE` apart and standing out by `PROMINENCE`. StimuVAR's own, in
    frames, are those with `fps` = `STIMUVAR_FPS`.

    Parameters
    ----------
    curve : (N - 1,) lengths of `motion_lengths`, `normalized`.
    fps : frames a second, on average. Where the rate varies, seconds are those of this average.

    Returns
    -------
    (P,) int64, rising: peak p is the motion from frame p to p + 1. The clip's very first and last are never among them.
    """
    from scipy.signal import find_peaks

    peaks, _ = find_peaks(smooth_curve(curve, fps), distance=max(1.0, DISTANCE * fps), prominence=PROMINENCE)
    return np.asarray(peaks, np.int64)
