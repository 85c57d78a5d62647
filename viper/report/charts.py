"""Bars and curves as HTML and SVG, for the report, the predictions and the web page; the looks are in style sheets."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from viper.evaluation.bootstrap import Interval

CURVE_HEIGHT = 30.0  # of a curve's drawing, which is 100 wide and stretched to its place
_MARGIN = 1.0  # above and below a curve


@dataclass(frozen=True)
class Scale:
    """Numbers along a line: `low` is its left end, `high` its right one."""

    low: float
    high: float

    @classmethod
    def over(cls, values: Iterable[float], low: float = 0.0, high: float = 0.0) -> Scale:
        """Return a scale from `low` to `high`, farther where finite values lie outside; never of no length."""
        known = [value for value in values if math.isfinite(value)]
        low, high = min([low, *known]), max([high, *known])
        return cls(low, high if high > low else low + 1.0)

    @classmethod
    def of(cls, range: tuple[float, float] | None, values: Iterable[float]) -> Scale:
        """Return the scale of a task's range, zero and `values`."""
        low, high = range or (0.0, 0.0)
        return cls.over(values, min(low, 0.0), max(high, 0.0))

    def at(self, value: float) -> float:
        """Return the percent from the left end."""
        share = (value - self.low) / (self.high - self.low)
        return round(100 * min(max(share, 0.0), 1.0), 2)

    @property
    def zero(self) -> float:
        """Where bars begin: at zero, or at the end next to it."""
        return self.at(0.0)

    def span(self, value: float) -> tuple[float, float]:
        """Return left end and width of a bar from zero to the value; no width for NaN."""
        if not math.isfinite(value):
            return self.zero, 0.0
        place = self.at(value)
        return min(place, self.zero), round(abs(place - self.zero), 2)


@dataclass(frozen=True)
class Mark:
    """A bar or a line on a lane.

    Attributes
    ----------
    look : its CSS classes.
    left, width : percent of the lane; a line has no width.
    """

    look: str
    left: float
    width: float | None = None


def lane(look: str, marks: Iterable[Mark]) -> Markup:
    """Draw bars and lines along a lane with these CSS classes, the later ones above. Numbers beside it say the same."""
    drawn = Markup("").join(
        Markup('<i class="{}" style="left:{:g}%"></i>').format(mark.look, mark.left)
        if mark.width is None
        else Markup('<b class="{}" style="left:{:g}%;width:{:g}%"></b>').format(mark.look, mark.left, mark.width)
        for mark in marks
    )
    return Markup('<span class="lane {}" aria-hidden="true">{}</span>').format(look, drawn)


def zero_line(zero: float) -> list[Mark]:
    """Return the line at zero, where bars do not begin at the left end."""
    return [Mark("zero", zero)] if zero > 0 else []


@dataclass(frozen=True)
class Bar:
    """One line of a list of bars.

    Attributes
    ----------
    note : a few words after the name.
    fill, whisker : left end and width in percent; `whisker` is None without an interval.
    zero : where the bars begin.
    """

    name: str
    note: str
    interval: Interval
    is_strong: bool
    fill: tuple[float, float]
    whisker: tuple[float, float] | None
    zero: float

    @property
    def lane(self) -> Markup:
        """The bar and its interval, drawn."""
        fill = [Mark("fill strong" if self.is_strong else "fill", *self.fill)] if self.fill[1] else []
        whisker = [Mark("whisker", *self.whisker)] if self.whisker else []
        return lane("track", [*fill, *zero_line(self.zero), *whisker])


def bars(rows: Sequence[tuple[str, str, Interval, bool]], high: float = 0.0) -> list[Bar]:
    """Return bars of (name, note, interval, whether it is set off) on one scale, which reaches `high` at least."""
    numbers = [number for _, _, each, _ in rows for number in (each.value, each.low, each.high)]
    scale = Scale.over(numbers, high=high)
    return [
        Bar(name, note, each, is_strong, scale.span(each.value), _whisker(scale, each), scale.zero)
        for name, note, each, is_strong in rows
    ]


def _whisker(scale: Scale, interval: Interval) -> tuple[float, float] | None:
    if not (math.isfinite(interval.low) and math.isfinite(interval.high)):
        return None
    left = scale.at(interval.low)
    return left, round(scale.at(interval.high) - left, 2)


def curve(
    seconds: float,
    times: Sequence[float],
    values: Sequence[float],
    scale: Scale,
    description: str,
    before: Sequence[float] | None = None,
) -> Markup:
    """Draw values over a whole clip, as an area from zero with a line above it; a gap where a window has no value.

    A window's value is drawn at its middle; the first and the last window hold to the ends of the clip.

    Parameters
    ----------
    seconds : length of the clip.
    times, values : (windows,) the middle of each window, and its value or NaN.
    description : the same in words.
    before : (windows,) other values to compare with, as a line.
    """
    x = [100 * min(max(time / seconds, 0.0), 1.0) if seconds > 0 else 0.0 for time in times]
    parts = [] if before is None else [_polyline("before", piece) for piece in _pieces(x, before, scale)]
    ground = _height(scale.zero)
    for piece in _pieces(x, values, scale):
        outline = [(piece[0][0], ground), *piece, (piece[-1][0], ground)]
        parts.append(Markup('<polygon class="area" points="{}"/>').format(_points(outline)))
        parts.append(_polyline("now", piece))
    return Markup(
        '<svg class="curve" viewBox="0 0 100 {:g}" preserveAspectRatio="none" role="img" aria-label="{}">{}</svg>'
    ).format(CURVE_HEIGHT, description, Markup("").join(parts))


def _pieces(x: Sequence[float], values: Sequence[float], scale: Scale) -> list[list[tuple[float, float]]]:
    """Return the points of each stretch without a gap; a stretch has two points at least."""
    y = [_height(scale.at(value)) if math.isfinite(value) else math.nan for value in values]
    points = list(zip([0.0, *x, 100.0], [y[0], *y, y[-1]], strict=True))
    grouped = itertools.groupby(points, key=lambda point: math.isfinite(point[1]))
    pieces = [list(piece) for is_known, piece in grouped if is_known]
    return [piece if len(piece) > 1 else piece * 2 for piece in pieces]


def _height(percent: float) -> float:
    return CURVE_HEIGHT - _MARGIN - (CURVE_HEIGHT - 2 * _MARGIN) * percent / 100


def _points(points: Iterable[tuple[float, float]]) -> str:
    return " ".join(f"{across:.2f},{up:.2f}" for across, up in points)


def _polyline(look: str, points: Iterable[tuple[float, float]]) -> Markup:
    return Markup('<polyline class="{}" points="{}" vector-effect="non-scaling-stroke"/>').format(look, _points(points))
