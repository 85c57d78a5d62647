"""A visitor's clip: read once, predicted at every click."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from av.error import FFmpegError

from viper.demo import EMOTIONS, Identity, write_clip
from viper.errors import ClipError
from viper.media.video import open_media

if TYPE_CHECKING:
    from viper.inference.predictor import ClipPredictor, ClipReading


def check_length(path: Path, max_seconds: float) -> None:
    """Raise ClipError for a longer clip. The length is measured: browsers record files that do not say it."""
    with open_media(path) as container:
        first, last = None, 0.0
        try:
            for packet in container.demux():
                if packet.pts is None or packet.time_base is None:
                    continue
                begins = float(packet.pts * packet.time_base)
                first = begins if first is None else min(first, begins)
                last = max(last, begins + float((packet.duration or 0) * packet.time_base))
                if last - first > max_seconds:
                    raise ClipError(f"{path.name}: is longer than the {max_seconds:g} seconds that this page takes")
        except FFmpegError:
            return  # what can be read before the damage is; how the rest is dealt with is up to the reader


N_WINDOWS = 8  # of the predictions over time, at most
MIN_STEP = 0.5  # seconds between two of them
SAMPLE_SECONDS = 2.0


@dataclass(frozen=True)
class Session:
    """A clip that was read; its file is gone.

    Attributes
    ----------
    name : of the clip's file.
    reading : the whole clip.
    windows : its timeline; empty before it is read, and for a clip that is too short for one.
    shown : target -> what a made-up clip was made to show; nothing for others.
    has_words : whether subtitles came with it.
    hidden : modalities that the visitor has switched off since; the same set while the windows are still being read.
    """

    name: str
    reading: ClipReading
    windows: tuple[ClipReading, ...] = ()
    shown: dict[str, float] = dataclasses.field(default_factory=dict)
    has_words: bool = False
    hidden: set[str] = dataclasses.field(default_factory=set)

    @property
    def seconds(self) -> float:
        """The clip's length."""
        return self.reading.end - self.reading.start

    @property
    def step(self) -> float | None:
        """Seconds between two windows of its timeline; None: it is too short for one."""
        step = max(MIN_STEP, self.seconds / N_WINDOWS)
        return step if self.seconds >= 2 * step else None

    @property
    def middles(self) -> np.ndarray:
        """(windows,) seconds of the clip in the middle of each window."""
        return np.array([(window.start + window.end) / 2 for window in self.windows])


@dataclass(frozen=True)
class Answers:
    """What a checkpoint answers when only some modalities may be used.

    Attributes
    ----------
    clip : (targets,).
    timeline : (windows, targets), NaN for a window with nothing to look at.
    """

    clip: np.ndarray
    timeline: np.ndarray


def answer(predictor: ClipPredictor, session: Session, hidden: Collection[str]) -> Answers:
    """Predict from what was read."""
    timeline = np.zeros((0, len(predictor.task.targets)))
    if session.windows:
        timeline = predictor.predict(session.windows, hidden).astype(float)
        timeline[[not window.features.keys() - set(hidden) for window in session.windows]] = np.nan
    return Answers(predictor.predict([session.reading], hidden)[0], timeline)


def write_sample(folder: Path, number: int) -> tuple[Path, Path, dict[str, float]]:
    """Write a made-up clip and subtitles; return them and what it shows. Equal numbers give equal clips."""
    rng = np.random.default_rng(number)
    strong = rng.choice(len(EMOTIONS), size=3, replace=False)
    shown = {name: float(rng.uniform(0.6, 1.0) if k in strong else rng.uniform(0, 0.15))
             for k, name in enumerate(EMOTIONS)}  # fmt: skip
    clip, words = folder / f"made-up clip {number + 1}.mp4", folder / f"made-up clip {number + 1}.srt"
    write_clip(clip, shown, Identity.from_seed(number), number, seconds=SAMPLE_SECONDS, subtitles=words)
    return clip, words, shown
