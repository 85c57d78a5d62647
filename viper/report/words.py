"""How the page says things: names by the kind of task, numbers, times and options."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from viper.evaluation.bootstrap import Interval
from viper.evaluation.metrics import METRICS
from viper.task import Task

_NOUNS = {"single_label": ("class", "classes"), "multi_label": ("label", "labels")}
# Some metrics over all targets are the mean of what has another name for each of them.
_TARGET_TITLES = {"map": "Average precision", "uar": "Recall", "macro_f1": "F1"}


def run_names(runs: Sequence[str]) -> dict[str, str]:
    """Return names of runs: the last two parts of their paths, or the whole path where those are not unique."""
    short = {run: "/".join(Path(run).parts[-2:]).lstrip("/") or run for run in runs}
    taken = Counter(short.values())
    return {run: name if taken[name] == 1 else run for run, name in short.items()}


def noun(task: Task) -> str:
    """Return what one of the task's targets is."""
    return _NOUNS.get(task.kind, ("target", "targets"))[0]


def plural(task: Task) -> str:
    """Return what the task's targets are."""
    return _NOUNS.get(task.kind, ("target", "targets"))[1]


def target_title(metric: str) -> str:
    """Return a metric's name for a single target."""
    return _TARGET_TITLES.get(metric, heading(METRICS[metric].title))


NOTHING = "–"


def number(value: float, digits: int = 3) -> str:
    """Return a number with so many decimals and a true minus sign; a dash for NaN.

    One too small for them keeps two digits, so that a small error does not read as none.
    """
    if 0 < abs(value) < 10.0**-digits:
        return f"{value:.2g}".replace("-", "\N{MINUS SIGN}")
    return fixed(value, digits)


def fixed(value: float, digits: int = 2) -> str:
    """Return a number with so many decimals whatever it is, for columns that are read at a glance."""
    return f"{value:.{digits}f}".replace("-", "\N{MINUS SIGN}") if math.isfinite(value) else NOTHING


def signed(value: float, digits: int = 3) -> str:
    """Return a difference, with its sign."""
    return f"+{fixed(value, digits)}" if value > 0 else fixed(value, digits)


def bounds(interval: Interval, digits: int = 3) -> str:
    """Return the low and high of an interval: "0.812 to 0.867"; nothing where it has none."""
    if not math.isfinite(interval.low) or not math.isfinite(interval.high):
        return ""
    return f"{number(interval.low, digits)} to {number(interval.high, digits)}"


def count(value: int) -> str:
    """Return 1234 as 1,234."""
    return f"{value:,}"


def percent(share: float) -> str:
    """Return 0.456 as "46%"."""
    if not math.isfinite(share):
        return NOTHING
    return "<1%" if 0 < share < 0.005 else f"{100 * share:.0f}%"


def seconds(time: float) -> str:
    """Return 3.25 as "3.2 s", 75 as "1:15"."""
    if not math.isfinite(time):
        return NOTHING
    if time < 60:
        return f"{time:.1f} s"
    minutes, rest = divmod(round(time), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def option(value: Any) -> str:
    """Return a value of an option: nothing is a dash, a list its parts, a mapping its pairs."""
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
    """Return a metric's title for the start of a line: "binary accuracy" gets a capital, "mAP" stays as it is."""
    return title if any(letter.isupper() for letter in title.split()[0]) else title[:1].upper() + title[1:]


FILTERS: dict[str, Callable[..., Any]] = {
    "number": number, "fixed": fixed, "signed": signed, "bounds": bounds, "count": count, "percent": percent,
    "seconds": seconds, "option": option, "heading": heading,
}  # fmt: skip
