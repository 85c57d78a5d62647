"""get_frame: videos -> frames/<clip>/frame_<index>.jpg and frames.json."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from viper.commands.common import finish
from viper.engine import run as engine
from viper.engine.job import EngineOptions, Job
from viper.errors import UserError
from viper.files import atomic_folder, write_json
from viper.media import pictures as frames
from viper.media.frame_rule import DEFAULT_N_FRAMES, ChosenFrames, FrameRule, read_chosen
from viper.media.listing import MediaClip, list_videos

# In the clip's folder, beside its frames. What reads the frames goes by frames.json.
PLOT_FILE = "motion.png"


@dataclass(kw_only=True)
class GetFrameOptions(EngineOptions):
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


def run(config: GetFrameOptions) -> int:
    """Runs the stage; answers the exit code."""
    rule = _rule(config)
    job = Job(
        stage="get_frame",
        load=_Load(rule, config.plot),
        save=_Save(config.output_folder, rule, config.plot),
        is_done=_IsDone(config.output_folder, rule, config.plot),
    )
    summary = engine.run(job, list_videos(config.input_folder), config.output_folder, config)
    return finish(summary, config.output_folder)


def _rule(config: GetFrameOptions) -> FrameRule:
    """The rule of a command's options; wrong ones are a UserError."""
    if config.n_frames is not None and config.n_frames < 1:
        raise UserError(f"--n_frames {config.n_frames}: must be at least 1")
    if config.sampling != "fps":
        if config.fps is not None:
            raise UserError(f"--fps {config.fps:g}: is for --sampling fps")
        return FrameRule(config.sampling, config.n_frames or DEFAULT_N_FRAMES)
    if config.fps is None:
        raise UserError("--sampling fps: say how many frames a second, such as --fps 5")
    if not (math.isfinite(config.fps) and config.fps > 0):
        raise UserError(f"--fps {config.fps:g}: must be above 0")
    return FrameRule("fps", config.n_frames, config.fps)


@dataclass(frozen=True)
class _Load:
    rule: FrameRule
    plot: bool

    def __call__(self, clip: MediaClip) -> ChosenFrames:
        return read_chosen(clip.path, self.rule, self.plot)


@dataclass(frozen=True)
class _Save:
    output_folder: Path
    rule: FrameRule
    plot: bool

    def __call__(self, clip: MediaClip, sample: ChosenFrames) -> None:
        with atomic_folder(self.output_folder / clip.id, make_parent=False) as folder:
            for index, image in zip(sample.video.indices, sample.video.images, strict=True):
                frames.write_image(folder / frames.frame_name(index), image)
            write_json(folder / frames.FRAMES_FILE, self._record(clip, sample))
            if self.plot:
                assert sample.motion is not None
                # Not above: matplotlib takes half a second to import, and --help should not.
                from viper.commands.motion_plot import save_motion_plot

                save_motion_plot(folder / PLOT_FILE, clip.path.name, self.rule.method, sample.motion, sample.video)

    def _record(self, clip: MediaClip, sample: ChosenFrames) -> dict[str, Any]:
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
                {**frames.frame_entry(peak, motion.times[peak]), "prominence": round(float(prominence), 6)}
                for peak, prominence in zip(motion.peaks, motion.prominences, strict=True)
            ]
        record["frames"] = frames.frame_entries(video)
        return record


@dataclass(frozen=True)
class _IsDone:
    output_folder: Path
    rule: FrameRule
    plot: bool

    def __call__(self, clip: MediaClip) -> bool:
        folder = self.output_folder / clip.id
        if self.plot and not (folder / PLOT_FILE).is_file():
            return False
        expected = {"sampling": self.rule.record(), "source": clip.source()}
        return frames.is_complete(folder, frames.FRAMES_FILE, expected)
