"""Which frames of a video are taken: the rule that get_frame is given, and that frames.json keeps."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from viper.errors import UserError
from viper.media import sampling
from viper.media.events import Motion, read_motion
from viper.media.video import VideoFrames, read_frames_by_time

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
        return sampling.STIMUVAR_FPS if self.method == "stimuvar" else None

    def record(self) -> dict[str, Any]:
        """All that decides the choice, of events as numbers too: where one changes, the clip is done again."""
        if self.method == "uniform":
            return {"method": "uniform", "n_frames": self.n_frames}
        if self.method == "fps":
            return {"method": "fps", "n_frames": self.n_frames, "fps": self.fps}
        return {
            "method": self.method,
            "n_frames": self.n_frames,
            "assumed_fps": self.assumed_fps,
            "flow_width": sampling.FLOW_WIDTH,
            "sigma": sampling.SIGMA,
            "distance": sampling.DISTANCE,
            "prominence": sampling.PROMINENCE,
            "half_window": sampling.HALF_WINDOW,
        }

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> FrameRule:
        """The rule whose record this is; one of frames that this version chooses otherwise is a UserError."""
        method, n_frames, fps = record.get("method"), record.get("n_frames"), record.get("fps")
        are_numbers = (isinstance(n_frames, int) and n_frames > 0) or (n_frames is None and method == "fps")
        are_numbers &= method != "fps" or (isinstance(fps, int | float) and fps > 0)
        if method in ("uniform", "fps", "events", "stimuvar") and are_numbers:
            rule = cls(method, n_frames, fps)
            if rule.record() == dict(record):
                return rule
        raise UserError(f"frames were chosen in a way that this version of viper does not know ({dict(record)})")

    def choose(self, times: np.ndarray, motion: Motion | None = None) -> np.ndarray:
        """Which of the frames at these times (N,), in seconds, are taken: (n,) int64, strictly increasing.

        `motion` is that between the same frames, which events need.
        """
        if self.method == "uniform":
            assert self.n_frames is not None
            return sampling.uniform_indices(len(times), self.n_frames)
        if self.method == "fps":
            assert self.fps is not None
            indices = sampling.rate_indices(times, self.fps)
            return indices if self.n_frames is None else indices[sampling.uniform_indices(len(indices), self.n_frames)]
        assert self.n_frames is not None
        assert motion is not None
        mode: Literal["events", "stimuvar"] = "stimuvar" if self.method == "stimuvar" else "events"
        prominences = motion.prominences
        return sampling.select(len(times), motion.peaks, self.n_frames, mode, fps=motion.fps, prominences=prominences)


@dataclass(frozen=True)
class ChosenFrames:
    """The chosen frames of a video, and the motion where they were chosen by it or it was asked for."""

    video: VideoFrames
    motion: Motion | None


def read_chosen(path: Path, rule: FrameRule, with_motion: bool = False) -> ChosenFrames:
    """Decodes a video and keeps the frames of the rule; ClipError as `viper.media.video.read_frames_by_time`."""
    motion = read_motion(path, rule.assumed_fps) if rule.is_by_events or with_motion else None
    if not rule.is_by_events:
        return ChosenFrames(read_frames_by_time(path, rule.choose), motion)
    assert motion is not None
    indices = rule.choose(motion.times, motion)
    return ChosenFrames(read_frames_by_time(path, lambda times: indices), motion)
