"""get_frame: videos -> frames/<clip>/frame_<index>.jpg and frames.json, and a plot of the motion on request."""

from __future__ import annotations

import math
import re
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from viper.commands.common import finish, pass_on_ids
from viper.engine import run as engine
from viper.engine.job import EngineOptions, Job
from viper.engine.pool import threads_each
from viper.errors import UserError
from viper.files import atomic_folder
from viper.media import pictures as frames
from viper.media.listing import MediaClip, list_videos
from viper.media.motion import HALF_WINDOW, STIMUVAR_FPS, Motion
from viper.media.sampling import DEFAULT_N_FRAMES, ChosenFrames, FrameRule, read_chosen
from viper.media.sources import Sourced, is_made_from, read_sourced
from viper.media.threads import decoding_threads
from viper.media.video import VideoFrames, is_shown_as_stored

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# What reads the frames goes by frames.json.
_OWN_FILES = rf"frame_\d+\.jpg|{re.escape(frames.FRAMES_FILE)}|{re.escape(frames.PLOT_FILE)}"
_EVENT = "#c2410c"
_TITLE_LENGTH = 100


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


def run(options: GetFrameOptions) -> int:
    """Run the stage; return the exit code."""
    rule = _rule(options)
    videos = list_videos(options.input_folder, options.separator)
    # With Ray the processes are those of its machines, each with one core.
    n_threads = threads_each(options.n_workers, len(videos)) if options.engine == "local" else 1
    job = Job(
        stage="get_frame",
        load=_Load(rule, options.plot, n_threads),
        save=_Save(options.output_folder, rule, options.plot),
        is_done=_IsDone(options.output_folder, rule, options.plot),
    )
    pass_on_ids(options, [options.input_folder], options.output_folder)
    summary = engine.run(job, videos, options.output_folder, options)
    return finish(summary, options.output_folder)


def _rule(options: GetFrameOptions) -> FrameRule:
    """Return the rule that a command's options ask for; wrong ones are a UserError."""
    if options.n_frames is not None and options.n_frames < 1:
        raise UserError(f"--n_frames {options.n_frames}: must be at least 1")
    if options.sampling != "fps":
        if options.fps is not None:
            raise UserError(f"--fps {options.fps:g}: is for --sampling fps")
        return FrameRule(options.sampling, options.n_frames or DEFAULT_N_FRAMES)
    if options.fps is None:
        raise UserError("--sampling fps: say how many frames a second, such as --fps 5")
    if not (math.isfinite(options.fps) and options.fps > 0):
        raise UserError(f"--fps {options.fps:g}: must be above 0")
    return FrameRule("fps", options.n_frames, options.fps)


@dataclass(frozen=True)
class _Load:
    rule: FrameRule
    plot: bool
    n_threads: int

    def __call__(self, clip: MediaClip) -> Sourced[ChosenFrames]:
        with decoding_threads(self.n_threads):
            return read_sourced(clip, lambda: read_chosen(clip.path, self.rule, self.plot))


@dataclass(frozen=True)
class _Save:
    output_folder: Path
    rule: FrameRule
    plot: bool

    def __call__(self, clip: MediaClip, sourced: Sourced[ChosenFrames]) -> None:
        sample = sourced.value
        with atomic_folder(self.output_folder / clip.id, make_parent=False, own=_OWN_FILES) as folder:
            for index, image in zip(sample.video.indices, sample.video.images, strict=True):
                frames.write_image(folder / frames.frame_name(index), image)
            if self.plot:
                assert sample.motion is not None
                path = folder / frames.PLOT_FILE
                save_motion_plot(path, clip.path.name, self.rule.method, sample.motion, sample.video)
            frames.write_record(folder, frames.FRAMES_FILE, self._record(clip, sample, sourced.source))

    def _record(self, clip: MediaClip, sample: ChosenFrames, source: str) -> dict[str, Any]:
        video, motion = sample.video, sample.motion
        height, width = video.images[0].shape[:2]
        shape = video.pixel_shape
        record: dict[str, Any] = {
            "clip": clip.id,
            "video": clip.path.name,
            "source": source,
            "fps": round(video.fps, 6),
            "n_frames": video.n_frames,
            "undecodable_packets": video.n_errors,
            "width": width,
            "height": height,
            "rotation": video.rotation,
            "mirrored": video.mirrored,
            "sample_aspect_ratio": f"{shape.numerator}:{shape.denominator}",
            "sampling": self.rule.record(),
        }
        if video.declared is not None:
            record["declared"] = {video.declared.unit: video.declared.n}
        # Of the other methods not, where they are known for the plot: the record must not depend on that.
        if motion is not None and self.rule.is_by_events:
            record["events"] = [
                {**frames.frame_entry(peak, motion.times[peak]), "prominence": round(float(prominence), 6)}
                for peak, prominence in zip(motion.peaks, motion.prominences, strict=True)
            ]
        record["frames"] = frames.frame_entries(video)
        for entry, image in zip(record["frames"], video.images, strict=True):
            if image.shape[:2] != (height, width):
                entry |= {"width": image.shape[1], "height": image.shape[0]}
        return record


@dataclass(frozen=True)
class _IsDone:
    output_folder: Path
    rule: FrameRule
    plot: bool

    def __call__(self, clip: MediaClip) -> bool:
        folder = self.output_folder / clip.id
        if self.plot and not (folder / frames.PLOT_FILE).is_file():
            return False
        record = frames.read_complete(folder, frames.FRAMES_FILE, {"sampling": self.rule.record()})
        if record is None or not is_made_from(clip, record.get("source")):
            return False
        # A folder of a version that did not look at the shape of pixels is right where there was nothing to see.
        return "sample_aspect_ratio" in record or is_shown_as_stored(clip.path)


def save_motion_plot(path: Path, title: str, method: str, motion: Motion, video: VideoFrames) -> None:
    """Draw a clip's motion, its events and the frames taken; write it as PNG, atomically.

    `title` is the video's name, `method` that of the sampling.
    """
    # Not above: matplotlib takes half a second to import, and --help should not.
    from viper.evaluation.drawing import save_png

    figure = motion_figure(title, method, motion, video)
    with warnings.catch_warnings():
        # A name may be in a script that the font has no letters of: boxes then, and nothing to be said.
        warnings.filterwarnings("ignore", message="Glyph .* missing")
        save_png(figure, path)


def motion_figure(title: str, method: str, motion: Motion, video: VideoFrames) -> Figure:
    """Return a plot of motion over seconds, raw and smoothed, events marked, above a strip of the frames taken."""
    from viper.evaluation.drawing import INK, new_figure

    figure = new_figure(10, 4)
    curve_axes, strip = figure.subplots(2, 1, sharex=True, height_ratios=[8, 1])
    _draw_curve(curve_axes, method, motion)
    _draw_strip(strip, motion, video)
    n_events, n_taken = len(motion.peaks), len(video.indices)
    events = f"{n_events} event" if n_events == 1 else f"{n_events} events"
    title = title if len(title) <= _TITLE_LENGTH else f"{title[: _TITLE_LENGTH - 1]}…"
    figure.suptitle(title, x=0.01, ha="left", fontsize=12, fontweight="bold", color=INK, parse_math=False)
    subtitle = f"{events}; {n_taken} of {video.n_frames} frames taken ({method})"
    curve_axes.set_title(subtitle, loc="left", fontsize=9.5, color=INK)
    return figure


def _draw_curve(axes: Axes, method: str, motion: Motion) -> None:
    from viper.evaluation.drawing import COLOUR_MAP, INK

    seconds = motion.times[: len(motion.curve)]
    axes.plot(seconds, motion.curve, color=COLOUR_MAP(0.3), linewidth=1.0, label="motion, frame to frame")
    axes.plot(seconds, motion.smooth, color=COLOUR_MAP(0.85), linewidth=2.0, label="smoothed")
    half = HALF_WINDOW * (STIMUVAR_FPS / motion.fps if method == "stimuvar" else 1.0)
    for number, (second, height) in enumerate(
        zip(motion.times[motion.peaks], motion.smooth[motion.peaks], strict=True)
    ):
        label = f"event, and {half:.2g} s on both sides" if number == 0 else None
        axes.axvspan(second - half, second + half, color=_EVENT, alpha=0.1, linewidth=0)
        axes.plot(second, height, "v", color=_EVENT, markersize=9, label=label, zorder=3)
    axes.set_ylim(-0.03, 1.08)
    axes.set_ylabel("motion (share of the clip's range)", fontsize=9, color=INK)
    # Above the axes, where no curve can run through it.
    axes.legend(loc="lower right", bbox_to_anchor=(1, 1), ncols=3, fontsize=8, frameon=False, labelcolor=INK)
    _style(axes)


def _draw_strip(axes: Axes, motion: Motion, video: VideoFrames) -> None:
    from matplotlib.ticker import MaxNLocator

    from viper.evaluation.drawing import COLOUR_MAP, INK

    is_peak = np.isin(video.indices, motion.peaks)
    axes.vlines(video.times[~is_peak], 0, 1, color=COLOUR_MAP(0.85), linewidth=1.5)
    axes.vlines(video.times[is_peak], 0, 1, color=_EVENT, linewidth=2.0)
    axes.set_yticks([])
    axes.set_ylim(0, 1)
    axes.set_ylabel("taken", fontsize=9, color=INK, rotation=0, ha="right", va="center")
    axes.set_xlabel("seconds", fontsize=9, color=INK)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=12, steps=[1, 2, 5, 10]))
    _style(axes)


def _style(axes: Axes) -> None:
    from viper.evaluation.drawing import FAINT_INK, hide_frame

    axes.tick_params(labelsize=8, color=FAINT_INK, labelcolor=FAINT_INK)
    axes.margins(x=0.01)
    hide_frame(axes, "top", "right")
