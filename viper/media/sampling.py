"""Which frames of a clip, and which stretches of its sound, are looked at."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Literal

import cv2
import numpy as np

# Motion is measured on a gray copy at most so wide, in pixels.
FLOW_WIDTH = 320
# Of events, in seconds but for the prominence, which is a share of the clip's range of motion: how far the motion is
# smoothed (the Gaussian's sigma), how far events are apart at least, how far they stand out, and how far one reaches.
SIGMA, DISTANCE, PROMINENCE, HALF_WINDOW = 0.2, 1.0, 0.3, 0.5
# StimuVAR counts 6, 30 and 15 frames, whatever the clip's rate: the above at this one.
STIMUVAR_FPS = 30.0
# Pixels a frame. Motion that varies less over a clip is the arithmetic's noise, not to be blown up to the full range.
_FLAT = 1e-4


def uniform_indices(n_frames: int, n: int) -> np.ndarray:
    """Rounded linspace(0, n_frames - 1, n) as int64, strictly increasing; all frames where there are fewer than `n`."""
    if n_frames <= n:
        return np.arange(n_frames)
    return np.rint(np.linspace(0, n_frames - 1, n)).astype(np.int64)


def rate_indices(times: np.ndarray, fps: float) -> np.ndarray:
    """The frames nearest to 0, 1 / fps, 2 / fps ... seconds after the first, up to the end of the clip.

    Parameters
    ----------
    times : (N,) rising, seconds; of two frames as near as each other the earlier is taken.
    fps : frames to take a second.

    Returns
    -------
    (n,) int64, strictly increasing. No frame is taken twice, and none for a moment that it is farther from than
    0.5 / fps seconds: a clip whose own rate is lower, for a while or all through, gives all it has there.
    """
    if len(times) < 2:
        return np.arange(len(times))
    position = (times - times[0]) * fps
    target = np.rint(position)
    # The last frame is shown as long as the others are on average. Rounding: 1 / 30 s is no exact number.
    end = position[-1] * len(times) / (len(times) - 1)
    order = np.lexsort((np.round(np.abs(position - target), 6), target))
    order = order[target[order] < end - 1e-6]
    nearest = np.unique(target[order], return_index=True)[1]
    return np.asarray(order[nearest], np.int64)


def motion_curve(frames: Iterable[np.ndarray]) -> np.ndarray:
    """How much moves between each frame and the next, as shares of the clip's range: (N - 1,) float64 in [0, 1].

    Those of `motion_lengths`, `normalized`; empty where there are fewer than two frames.
    """
    return normalized(list(motion_lengths(frames)))


def motion_lengths(frames: Iterable[np.ndarray]) -> Iterator[float]:
    """How much moves between each frame and the next, in pixels.

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
    """Motion (N - 1,) as shares of its range, float64 in [0, 1]; motion that is the same throughout is zeros."""
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
    """A motion curve after a Gaussian filter, mirrored at its ends: the curve whose maxima are events."""
    if len(curve) == 0:
        return curve
    from scipy.ndimage import gaussian_filter1d

    # A file may claim any rate; a sigma above the curve's length makes no difference but takes time and memory.
    sigma = min(SIGMA * fps, len(curve))
    return np.asarray(gaussian_filter1d(curve, sigma, mode="reflect"))


def detect_events(curve: np.ndarray, fps: float) -> np.ndarray:
    """The moments at which motion is at its height, as StimuVAR (IJCV 2025) finds them, but in seconds.

    Local maxima of the smoothed curve, at least `DISTANCE` apart and standing out by `PROMINENCE`. StimuVAR's own, in
    frames, are those with `fps` = `STIMUVAR_FPS`.

    Parameters
    ----------
    curve : (N - 1,) from `motion_curve`.
    fps : frames a second, on average. Where the rate varies, seconds are those of this average.

    Returns
    -------
    (P,) int64, rising: peak p is the motion from frame p to p + 1. The clip's very first and last are never among them.
    """
    from scipy.signal import find_peaks

    peaks, _ = find_peaks(smooth_curve(curve, fps), distance=max(1.0, DISTANCE * fps), prominence=PROMINENCE)
    return np.asarray(peaks, np.int64)


def select(
    n_frames: int,
    peaks: Sequence[int] | np.ndarray,
    total: int,
    mode: Literal["events", "stimuvar"] = "events",
    *,
    fps: float = STIMUVAR_FPS,
    prominences: Sequence[float] | np.ndarray | None = None,
) -> np.ndarray:
    """Frames of a clip, around its events and between them.

    `events`: every event and the rest of the clip get an equal share of the budget, total // (P + 1) frames. An event's
    are its peak and others spread over `HALF_WINDOW` on both sides. What is left goes to the last frame, to the first,
    and between those chosen so that the longest gap is as short as can be. With as many peaks as frames to choose,
    these are the peaks; with more, the most prominent. Without peaks they are `uniform_indices`.

    `stimuvar`: the published choice (StimuVAR, IJCV 2025), which differs in that the peak itself is not always taken,
    the last frame never, and windows are of 30 frames at any rate. It fails where fewer frames are outside the windows
    than are to be taken there, or more than 30 inside; here such a clip is sampled uniformly, as it samples one without
    events. Windows that reach beyond the clip are cut off there.

    Parameters
    ----------
    n_frames : N, frames of the clip.
    peaks : (P,) frame numbers, strictly increasing, from `detect_events`.
    total : the budget, at least 1.
    fps : frames a second, for the windows of `events`.
    prominences : (P,), by which peaks are preferred when they are more than the budget; without them every so many are
        taken.

    Returns
    -------
    (min(N, total),) int64, strictly increasing.
    """
    peaks = np.asarray(peaks, np.int64)
    if n_frames <= total:
        return np.arange(n_frames)
    if mode == "stimuvar":
        return _select_stimuvar(n_frames, peaks, total)
    if len(peaks) == 0:
        return uniform_indices(n_frames, total)
    if len(peaks) >= total:
        if prominences is None:
            return peaks[uniform_indices(len(peaks), total)]
        return np.sort(peaks[np.argsort(-np.asarray(prominences, np.float64), kind="stable")[:total]])
    return _select_events(n_frames, peaks, total, HALF_WINDOW * fps)


def _select_events(n_frames: int, peaks: np.ndarray, total: int, half: float) -> np.ndarray:
    share = total // (len(peaks) + 1)
    steps = np.rint((np.arange(share) - share // 2) * 2 * half / share).astype(np.int64)  # 0, the peak, is among them
    around = (peaks[:, None] + steps).ravel()
    chosen = set(around[(around >= 0) & (around < n_frames)].tolist())
    for end in (n_frames - 1, 0):
        if len(chosen) < total:
            chosen.add(end)
    return _fill(np.array(sorted(chosen), np.int64), total)


def _fill(chosen: np.ndarray, total: int) -> np.ndarray:
    """Frames between the chosen ones added, until there are `total`, so that the longest gap is as short as can be."""
    gaps = np.diff(chosen)
    n_added = np.zeros(len(gaps), np.int64)
    for _ in range(total - len(chosen)):
        # A gap of g has g - 1 frames in it; one that is full is as short as 1.
        n_added[np.argmax(gaps / (n_added + 1))] += 1
    parts = [np.rint(np.linspace(first, first + gap, n + 2))[:-1]
             for first, gap, n in zip(chosen[:-1], gaps, n_added, strict=True)]  # fmt: skip
    return np.concatenate([*parts, chosen[-1:]]).astype(np.int64)


def _select_stimuvar(n_frames: int, peaks: np.ndarray, total: int) -> np.ndarray:
    uniform = np.arange(total) * (n_frames // total)
    if not 0 < len(peaks) < total - 1:
        return uniform
    window = round(2 * HALF_WINDOW * STIMUVAR_FPS)
    share = total // (len(peaks) + 1)
    if share > window:
        return uniform
    is_inside = np.zeros(n_frames, bool)
    around: set[int] = set()
    for peak in peaks.tolist():
        first, end = max(0, peak - window // 2), min(n_frames, peak + window // 2)
        is_inside[first:end] = True
        around |= set(range(first, end, window // share)[:share])
    outside = np.flatnonzero(~is_inside)
    step = max(0, len(outside) - 1) // (total - len(around))
    if step == 0:
        return uniform
    # More than the rest of the budget may come of this step; cutting the union off is the published way.
    return np.union1d(outside[::step], sorted(around))[:total]


def window_bounds(length: int, n: int) -> np.ndarray:
    """n half-overlapping windows over `length` samples.

    Each is 2 * length / (n + 1) long and starts half of that after the one before, so that the first begins at 0 and
    the last ends at `length`. Window lengths are equal to the sample: they are cut to the shortest of the rounded ones.

    Returns
    -------
    (n, 2) int64: first sample, one past the last. Sound with fewer than n + 1 samples gives a single window.
    """
    if length < n + 1:
        return np.array([[0, length]])
    starts = np.rint(np.arange(n) * length / (n + 1)).astype(np.int64)
    width = min(int(np.floor(2 * length / (n + 1))), length - int(starts[-1]))
    return np.stack([starts, starts + width], axis=1)
