"""get_frame: videos -> frames/<clip>/frame_<index>.jpg and frames.json."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from viper import engine
from viper.errors import UserError
from viper.files import atomic_folder, write_json
from viper.jobs import Job
from viper.media import frames, sampling
from viper.media.events import Motion, read_motion
from viper.media.listing import MediaClip, list_videos
from viper.media.video import VideoFrames, read_frames, read_frames_by_time
from viper.stages.common import EngineFlags, finish

DEFAULT_N_FRAMES = 32
# In the clip's folder, beside its frames. What reads the frames goes by frames.json.
PLOT_FILE = "motion.png"


@dataclass(kw_only=True)
class GetFrameConfig(EngineFlags):
    """Take frames out of every video of a folder: evenly spread, so many a second, or more where most is moving."""

    input_folder: Path
    """Folder of videos (mp4, mov, mkv, avi, mpg, webm, ...). A clip's id is its file's name without the suffix."""
    output_folder: Path
    """Where <clip>/frame_<index>.jpg and <clip>/frames.json are written."""
    sampling: Literal["uniform", "fps", "events", "stimuvar"] = "uniform"
    """uniform: evenly, from the first frame to the last.
    fps: --fps of them a second, by their own times.
    events: moments of most motion, frames around and between them, the last.
    stimuvar: events as published (2025), by frames, not seconds.
    The last two measure the motion between all frames: 10 to 30 ms for each."""
    n_frames: int | None = None
    """Frames a clip, 32 unless given; a clip with fewer gives all it has.
    With --sampling fps a limit only, if given: what is above it is thinned out."""
    fps: float | None = None
    """Frames a second of --sampling fps. None is taken twice: a clip of a lower rate gives all it has."""
    plot: bool = False
    """Also write <clip>/motion.png: motion, events, and the frames taken. Clips without it are done again."""


def run(config: GetFrameConfig) -> int:
    """Runs the stage; answers the exit code."""
    rule = _Rule.of(config)
    job = Job(
        stage="get_frame",
        load=_Load(rule, config.plot),
        save=_Save(config.output_folder, rule, config.plot),
        is_done=_IsDone(config.output_folder, rule, config.plot),
    )
    options = config.engine_options()
    summary = engine.run(job, list_videos(config.input_folder), config.output_folder, options)
    return finish(summary, config.output_folder)


@dataclass(frozen=True)
class _Rule:
    """How frames are chosen; `n_frames` is None where they are as many as `fps` gives."""

    method: Literal["uniform", "fps", "events", "stimuvar"]
    n_frames: int | None
    fps: float | None

    @classmethod
    def of(cls, config: GetFrameConfig) -> _Rule:
        """The rule of a command's options; wrong ones are a UserError."""
        if config.n_frames is not None and config.n_frames < 1:
            raise UserError(f"--n_frames {config.n_frames}: must be at least 1")
        if config.sampling != "fps":
            if config.fps is not None:
                raise UserError(f"--fps {config.fps:g}: is for --sampling fps")
            return cls(config.sampling, config.n_frames or DEFAULT_N_FRAMES, None)
        if config.fps is None:
            raise UserError("--sampling fps: say how many frames a second, such as --fps 5")
        if not (math.isfinite(config.fps) and config.fps > 0):
            raise UserError(f"--fps {config.fps:g}: must be above 0")
        return cls("fps", config.n_frames, config.fps)

    @property
    def is_by_events(self) -> bool:
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

    def by_count(self, n_frames: int) -> np.ndarray:
        assert self.n_frames is not None
        return sampling.uniform_indices(n_frames, self.n_frames)

    def by_time(self, times: np.ndarray) -> np.ndarray:
        assert self.fps is not None
        indices = sampling.rate_indices(times, self.fps)
        return indices if self.n_frames is None else indices[sampling.uniform_indices(len(indices), self.n_frames)]

    def by_events(self, motion: Motion) -> np.ndarray:
        assert self.n_frames is not None
        mode: Literal["events", "stimuvar"] = "stimuvar" if self.method == "stimuvar" else "events"
        n, budget, prominences = len(motion.times), self.n_frames, motion.prominences
        return sampling.select(n, motion.peaks, budget, mode, fps=motion.fps, prominences=prominences)


@dataclass(frozen=True)
class _Sample:
    """The chosen frames, and the motion where they were chosen by it or it is to be drawn."""

    video: VideoFrames
    motion: Motion | None


@dataclass(frozen=True)
class _Load:
    rule: _Rule
    plot: bool

    def __call__(self, clip: MediaClip) -> _Sample:
        rule = self.rule
        motion = read_motion(clip.path, rule.assumed_fps) if rule.is_by_events or self.plot else None
        if rule.method == "uniform":
            return _Sample(read_frames(clip.path, rule.by_count), motion)
        if rule.method == "fps":
            return _Sample(read_frames_by_time(clip.path, rule.by_time), motion)
        assert motion is not None
        indices = rule.by_events(motion)
        return _Sample(read_frames(clip.path, lambda n_frames: indices), motion)


@dataclass(frozen=True)
class _Save:
    output_folder: Path
    rule: _Rule
    plot: bool

    def __call__(self, clip: MediaClip, sample: _Sample) -> None:
        with atomic_folder(self.output_folder / clip.id, make_parent=False) as folder:
            for index, image in zip(sample.video.indices, sample.video.images, strict=True):
                frames.write_image(folder / frames.frame_name(index), image)
            write_json(folder / frames.FRAMES_FILE, self._record(clip, sample))
            if self.plot:
                assert sample.motion is not None
                # Not above: matplotlib takes half a second to import, and --help should not.
                from viper.stages.motion_plot import save_motion_plot

                save_motion_plot(folder / PLOT_FILE, clip.path.name, self.rule.method, sample.motion, sample.video)

    def _record(self, clip: MediaClip, sample: _Sample) -> dict[str, Any]:
        video, motion = sample.video, sample.motion
        height, width = video.images[0].shape[:2]
        record: dict[str, Any] = {
            "clip": clip.id,
            "video": clip.path.name,
            "source": clip.source(),
            "fps": round(video.fps, 6),
            "n_frames": video.n_frames,
            "undecodable_packets": video.n_errors,
            "width": width,
            "height": height,
            "rotation": video.rotation,
            "sampling": self.rule.record(),
        }
        # Of the other methods not, where they are known for the plot: the record must not depend on that.
        if motion is not None and self.rule.is_by_events:
            record["events"] = [
                {**_at(peak, motion.times[peak]), "prominence": round(float(prominence), 6)}
                for peak, prominence in zip(motion.peaks, motion.prominences, strict=True)
            ]
        record["frames"] = [_at(index, time) for index, time in zip(video.indices, video.times, strict=True)]
        return record


def _at(index: int, time: float) -> dict[str, Any]:
    return {"index": int(index), "time": round(float(time), 6)}


@dataclass(frozen=True)
class _IsDone:
    output_folder: Path
    rule: _Rule
    plot: bool

    def __call__(self, clip: MediaClip) -> bool:
        folder = self.output_folder / clip.id
        if self.plot and not (folder / PLOT_FILE).is_file():
            return False
        expected = {"sampling": self.rule.record(), "source": clip.source()}
        return frames.is_complete(folder, frames.FRAMES_FILE, expected)
