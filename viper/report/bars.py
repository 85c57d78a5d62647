"""Lengths of bars and whiskers, in percent of the place they have on the page."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from viper.evaluation.bootstrap import Interval


@dataclass(frozen=True)
class Scale:
    """Numbers along a line: `low` is its left end, `high` its right one."""

    low: float
    high: float

    @classmethod
    def over(cls, values: Iterable[float], low: float = 0.0, high: float = 0.0) -> Scale:
        """From `low` to `high`, farther where a finite value lies outside; never of no length."""
        known = [value for value in values if math.isfinite(value)]
        low, high = min([low, *known]), max([high, *known])
        return cls(low, high if high > low else low + 1.0)

    def at(self, value: float) -> float:
        """Percent from the left end."""
        share = (value - self.low) / (self.high - self.low)
        return round(100 * min(max(share, 0.0), 1.0), 2)

    @property
    def zero(self) -> float:
        """Where bars begin: at zero, or at the end next to it."""
        return self.at(0.0)

    def span(self, value: float) -> tuple[float, float]:
        """Left end and width of a bar from zero to the value; of no width for what is no number."""
        if not math.isfinite(value):
            return self.zero, 0.0
        place = self.at(value)
        return min(place, self.zero), round(abs(place - self.zero), 2)


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


def bars(rows: Sequence[tuple[str, str, Interval, bool]], high: float = 0.0) -> list[Bar]:
    """Bars of (name, note, interval, whether it is set off) on one scale, which reaches `high` at least."""
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
