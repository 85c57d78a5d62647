"""The page of `viper predict --html`: what a checkpoint answers for new videos, and how that changes over time."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from markupsafe import Markup

from viper.files import write_text
from viper.report.cards import Pair, Picture, pictures
from viper.report.charts import Scale, curve
from viper.report.content import Thumbnail
from viper.report.html import render
from viper.report.words import fixed, seconds

_MOST_PICTURES = 8  # along a line of time
_PICTURES_WIDTH = 88.0  # percent of the line that they fill


@dataclass(frozen=True)
class VideoPrediction:
    """One video.

    Attributes
    ----------
    seconds : how long it is.
    values : target -> intensity; none where `error` says why.
    summary : what `values` are of: "the whole video", "mean of 12 pieces of 2 s".
    used : modalities the answer rests on.
    absent : modality -> why it was left out.
    faces : pictures of it, in order of time.
    times : (windows,) seconds, the middles of the windows; none without them.
    timeline : target -> (windows,) intensities; nan where nothing could be read.
    error : why there is no answer.
    """

    name: str
    seconds: float
    values: dict[str, float]
    summary: str
    used: list[str]
    absent: dict[str, str]
    faces: list[Thumbnail] = field(default_factory=list)
    times: list[float] = field(default_factory=list)
    timeline: dict[str, list[float]] = field(default_factory=dict)
    error: str | None = None


@dataclass(frozen=True)
class PredictionPage:
    """Everything on the page.

    Attributes
    ----------
    title : its heading.
    model : what made the answers: fact -> text.
    targets : in the order of the model's outputs.
    range : the lowest and highest value of the task; None: what the answers span.
    command : what was typed.
    """

    title: str
    model: dict[str, str]
    targets: list[str]
    range: tuple[float, float] | None
    videos: list[VideoPrediction]
    command: str


@dataclass(frozen=True)
class Line:
    """The timeline of one target as a drawing, and its lowest and highest value."""

    name: str
    svg: Markup
    low: float
    high: float


@dataclass(frozen=True)
class View:
    """A video as the template has it.

    Attributes
    ----------
    along : pictures along the line of time, with the percent of it their middles are at.
    width : of each of them, in percent of the line.
    """

    video: VideoPrediction
    pictures: list[Picture]
    pairs: list[Pair]
    lines: list[Line]
    along: list[tuple[float, Picture]]
    width: float


def write_prediction(page: PredictionPage, path: Path) -> None:
    """Write the page, atomically."""
    write_text(path, prediction_page(page))


def prediction_page(page: PredictionPage) -> str:
    """Return the page's text."""
    scale = _scale(page)
    views = [_view(page, video, scale) for video in page.videos]
    return render("prediction.html", page=page, views=views, scale=scale)


def _scale(page: PredictionPage) -> Scale:
    answers = [value for video in page.videos for value in video.values.values()]
    answers += [value for video in page.videos for values in video.timeline.values() for value in values]
    return Scale.of(page.range, answers)


def _view(page: PredictionPage, video: VideoPrediction, scale: Scale) -> View:
    values = {target: video.values[target] for target in page.targets if target in video.values}
    lines = [
        _line(target, video, scale) for target in page.targets if np.isfinite(video.timeline.get(target, [])).any()
    ]
    shown = pictures(video.faces)
    along = _along(shown, video.seconds) if lines else []
    return View(
        video=video,
        pictures=shown,
        pairs=[Pair(name, math.nan, value, None, scale.span(value), scale.zero) for name, value in values.items()],
        lines=lines,
        along=along,
        width=_PICTURES_WIDTH / _MOST_PICTURES,
    )


def _along(shown: Sequence[Picture], length: float) -> list[tuple[float, Picture]]:
    """Return, for equal parts of the video, the picture nearest to the middle of each, if any."""
    part = length / _MOST_PICTURES
    along = []
    for number in range(_MOST_PICTURES):
        middle = (number + 0.5) * part
        nearest = min(shown, key=lambda each: abs(each.time - middle), default=None)
        if nearest is not None and abs(nearest.time - middle) <= part:
            along.append((100 * (number + 0.5) / _MOST_PICTURES, nearest))
    return along


def _line(target: str, video: VideoPrediction, scale: Scale) -> Line:
    values = np.asarray(video.timeline[target], float)
    low, high, peak = float(np.nanmin(values)), float(np.nanmax(values)), int(np.nanargmax(values))
    said = f"{target} over time, from {fixed(low)} to {fixed(high)}, highest around {seconds(video.times[peak])}."
    return Line(target, curve(video.seconds, video.times, values.tolist(), scale, said), low, high)
