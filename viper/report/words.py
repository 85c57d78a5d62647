"""What the page calls things, by the kind of task."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from viper.evaluation.metrics import METRICS
from viper.report.numbers import heading
from viper.task import Task

_NOUNS = {"single_label": ("class", "classes"), "multi_label": ("label", "labels")}
# Some metrics over all targets are the mean of what has another name for each of them.
_TARGET_TITLES = {"map": "Average precision", "uar": "Recall", "macro_f1": "F1"}


def run_names(runs: Sequence[str]) -> dict[str, str]:
    """Runs by the last two parts of their paths; by all of them, where that does not tell them apart."""
    short = {run: "/".join(Path(run).parts[-2:]).lstrip("/") or run for run in runs}
    taken = Counter(short.values())
    return {run: name if taken[name] == 1 else run for run, name in short.items()}


def noun(task: Task) -> str:
    """What one of the task's targets is."""
    return _NOUNS.get(task.kind, ("target", "targets"))[0]


def plural(task: Task) -> str:
    """What the task's targets are."""
    return _NOUNS.get(task.kind, ("target", "targets"))[1]


def target_title(metric: str) -> str:
    """A metric's name where it is of a single target."""
    return _TARGET_TITLES.get(metric, heading(METRICS[metric].title))
