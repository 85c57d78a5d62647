"""The picture of a clip's motion: where its events are, and which frames were taken."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from viper.evaluation.drawing import COLOUR_MAP, FAINT_INK, INK, hide_frame, new_figure, save_png
from viper.media.events import Motion
from viper.media.sampling import HALF_WINDOW, STIMUVAR_FPS
from viper.media.video import VideoFrames

_EVENT = "#c2410c"
_TITLE_LENGTH = 100


def save_motion_plot(path: Path, title: str, method: str, motion: Motion, video: VideoFrames) -> None:
    """Writes the picture as PNG, atomically. `title` is the video's name, `method` the sampling's."""
    figure = motion_figure(title, method, motion, video)
    with warnings.catch_warnings():
        # A name may be in a script that the font has no letters of: boxes then, and nothing to be said.
        warnings.filterwarnings("ignore", message="Glyph .* missing")
        save_png(figure, path)


def motion_figure(title: str, method: str, motion: Motion, video: VideoFrames) -> Figure:
    """The motion and its smoothed curve against seconds, events marked, and a strip of the frames that were taken."""
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
    axes.tick_params(labelsize=8, color=FAINT_INK, labelcolor=FAINT_INK)
    axes.margins(x=0.01)
    hide_frame(axes, "top", "right")
