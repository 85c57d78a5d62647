"""Which frames of a video are taken: the rule that get_frame is given and frames.json keeps; windows of a sound."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from viper.errors import UserError
from viper.media.motion import (
    DISTANCE,
    FLOW_WIDTH,
    HALF_WINDOW,
    PROMINENCE,
    SIGMA,
    STIMUVAR_FPS,
    Motion,
    read_motion,
)
from viper.media.video import VideoFrames, read_frames

DEFAULT_N_FRAMES = 32


@dataclass(frozen=True)
class FrameRule:
    """How frames are chosen; `n_frames` is None where they are as many as `fps` gives."""

    method: Literal["uniform", "fps", "events", "stimuvar"] = "uniform"
    n_frames: int | None = DEFAULT_N_FRAMES
    fps: float | None = None

    @property
    def is_by_events(self) -> bool:
        """Whether the motion between all frames decides."""
        return self.method in ("events", "stimuvar")

    @property
    def assumed_fps(self) -> float | None:
        """The rate that events are looked for at, where it is not the clip's own."""
        return STIMUVAR_FPS if self.method == "stimuvar" else None

    def record(self) -> dict[str, Any]:
        """Return all that decides the choice, of events as numbers too: where one changes, the clip is done again."""
        if self.method == "uniform":
            return {"method": "uniform", "n_frames": self.n_frames}
        if self.method == "fps":
            return {"method": "fps", "n_frames": self.n_frames, "fps": self.fps}
        return {
            "method": self.method,
            "n_frames": self.n_frames,
            "assumed_fps": self.assumed_fps,
            "flow_width": FLOW_WIDTH,
            "sigma": SIGMA,
            "distance": DISTANCE,
            "prominence": PROMINENCE,
            "half_window": HALF_WINDOW,
        }

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> FrameRule:
        """Return the rule whose record this is; one of frames that this version chooses otherwise is a UserError."""
        method, n_frames, fps = record.get("method"), record.get("n_frames"), record.get("fps")
        are_numbers = (isinstance(n_frames, int) and n_frames > 0) or (n_frames is None and method == "fps")
        are_numbers &= method != "fps" or (isinstance(fps, int | float) and fps > 0)
        if method in ("uniform", "fps", "events", "stimuvar") and are_numbers:
            rule = cls(method, n_frames, fps)
            if rule.record() == dict(record):
                return rule
        raise UserError(f"frames were chosen in a way that this version of viper does not know ({dict(record)})")

    def choose(self, times: np.ndarray, motion: Motion | None = None) -> np.ndarray:
        """Return which of the frames at these times (N,), in seconds, are taken: (n,) int64, strictly increasing.

        `motion` is that between the same frames, which events need.
        """
        if self.method == "uniform":
            assert self.n_frames is not None
            return uniform_indices(len(times), self.n_frames)
        if self.method == "fps":
            assert self.fps is not None
            indices = rate_indices(times, self.fps)
            return indices if self.n_frames is None else indices[uniform_indices(len(indices), self.n_frames)]
        assert self.n_frames is not None
        assert motion is not None
        mode: Literal["events", "stimuvar"] = "stimuvar" if self.method == "stimuvar" else "events"
        prominences = motion.prominences
        return select(len(times), motion.peaks, self.n_frames, mode, fps=motion.fps, prominences=prominences)


@dataclass(frozen=True)
class ChosenFrames:
    """The chosen frames of a video, and the motion where they were chosen by it or it was asked for."""

    video: VideoFrames
    motion: Motion | None


def read_chosen(path: Path, rule: FrameRule, with_motion: bool = False) -> ChosenFrames:
    """Decode a video and keep the frames of the rule; ClipError as `viper.media.video.read_frames`."""
    motion = read_motion(path, rule.assumed_fps) if rule.is_by_events or with_motion else None
    if not rule.is_by_events:
        return ChosenFrames(read_frames(path, rule.choose), motion)
    assert motion is not None
    indices = rule.choose(motion.times, motion)
    return ChosenFrames(read_frames(path, lambda times: indices), motion)


def uniform_indices(n_frames: int, n: int) -> np.ndarray:
    """Return linspace(0, n_frames - 1, n) rounded, int64, strictly increasing; all frames if fewer than `n`."""
    if n_frames <= n:
        return np.arange(n_frames)
    return np.rint(np.linspace(0, n_frames - 1, n)).astype(np.int64)


def rate_indices(times: np.ndarray, fps: float) -> np.ndarray:
    """Return the frames nearest to 0, 1 / fps, 2 / fps ... seconds after the first, up to the end of the clip.

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


def select(
    n_frames: int,
    peaks: Sequence[int] | np.ndarray,
    total: int,
    mode: Literal["events", "stimuvar"] = "events",
    *,
    fps: float = STIMUVAR_FPS,
    prominences: Sequence[float] | np.ndarray | None = None,
) -> np.ndarray:
    """Return frames of a clip, around its events and between them.

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
    """Return the chosen frames and others between them, `total` in all; the longest gap is as short as can be."""
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
    """Return the bounds of n half-overlapping windows over `length` samples.

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
