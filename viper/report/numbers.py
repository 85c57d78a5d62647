"""How numbers, times and options stand on the page."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from viper.evaluation.bootstrap import Interval

NOTHING = "–"


def number(value: float, digits: int = 3) -> str:
    """A number with so many decimals and a true minus sign; a dash for what is no number.

    One too small for them keeps two digits, so that a small error does not read as none.
    """
    if 0 < abs(value) < 10.0**-digits:
        return f"{value:.2g}".replace("-", "\N{MINUS SIGN}")
    return fixed(value, digits)


def fixed(value: float, digits: int = 2) -> str:
    """A number with so many decimals whatever it is, for columns that are read at a glance."""
    return f"{value:.{digits}f}".replace("-", "\N{MINUS SIGN}") if math.isfinite(value) else NOTHING


def signed(value: float, digits: int = 3) -> str:
    """A difference, with its sign."""
    return f"+{fixed(value, digits)}" if value > 0 else fixed(value, digits)


def bounds(interval: Interval, digits: int = 3) -> str:
    """Low and high of an interval: "0.812 to 0.867"; nothing where it has none."""
    if not math.isfinite(interval.low) or not math.isfinite(interval.high):
        return ""
    return f"{number(interval.low, digits)} to {number(interval.high, digits)}"


def count(value: int) -> str:
    """1234 as 1,234."""
    return f"{value:,}"


def percent(share: float) -> str:
    """0.456 as "46 %"."""
    if not math.isfinite(share):
        return NOTHING
    return "<1 %" if 0 < share < 0.005 else f"{100 * share:.0f} %"


def seconds(time: float) -> str:
    """3.25 as "3.2 s", 75 as "1:15"."""
    if not math.isfinite(time):
        return NOTHING
    if time < 60:
        return f"{time:.1f} s"
    minutes, rest = divmod(round(time), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def option(value: Any) -> str:
    """A value of an option: nothing is a dash, a list its parts, a mapping its pairs."""
    if value is None or value == [] or value == {} or value == "":
        return NOTHING
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list | tuple):
        return ", ".join(option(each) for each in value)
    if isinstance(value, dict):
        return ", ".join(f"{key} {option(each)}" for key, each in value.items())
    return str(value)


def heading(title: str) -> str:
    """A metric's title where a line begins: "binary accuracy" gets a capital, "mAP" stays as it is."""
    return title if any(letter.isupper() for letter in title.split()[0]) else title[:1].upper() + title[1:]


FILTERS: dict[str, Callable[..., Any]] = {
    "number": number, "fixed": fixed, "signed": signed, "bounds": bounds, "count": count, "percent": percent,
    "seconds": seconds, "option": option, "heading": heading,
}  # fmt: skip
