"""report.html: everything a ReportContent says, on one page."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from viper.evaluation.bootstrap import Interval
from viper.evaluation.metrics import METRICS
from viper.files import write_text
from viper.report.cards import cards
from viper.report.charts import Bar, bars
from viper.report.content import Comparison, GroupColumn, ReportContent
from viper.report.figures import agreement_panels, calibration_panels, scatter_panels, training_panels
from viper.report.html import render
from viper.report.words import noun, plural, run_names, target_title

REPORT_FILE = "report.html"


@dataclass(frozen=True)
class Verdict:
    """What the difference to another run says: "good" and "bad" are this run's point of view of the other."""

    words: str
    tone: str


def write_report(content: ReportContent, folder: Path) -> list[Path]:
    """Write report.html into `folder`, atomically, and return the files written."""
    path = folder / REPORT_FILE
    write_text(path, report_page(content))
    return [path]


def report_page(content: ReportContent) -> str:
    """Return the page's text. What the content has nothing of is left out."""
    metric = METRICS[content.metric]
    high = _high(content.metric)
    columns = _columns(content)
    names = run_names(list(dict.fromkeys([content.run, *(each.name for each in content.comparisons)])))
    has_labels = any(math.isfinite(row.true_mean) for row in content.targets)
    values: dict[str, Any] = {
        "content": content,
        "names": names,
        "metrics": METRICS,
        "metric": metric,
        "columns": columns,
        "has_labels": has_labels,
        "has_rows": bool(columns or has_labels),
        "target_title": target_title,
        "noun": noun(content.task),
        "plural": plural(content.task),
        "target_bars": _target_bars(content, columns[0]) if columns else {},
        "training": training_panels(content),
        "agreement": agreement_panels(content),
        "scatter": scatter_panels(content),
        "subsets": _subset_bars(content, high),
        "calibration": calibration_panels(content),
        "worst": cards(content, content.worst),
        "best": cards(content, content.best),
        "groups": [(column, _group_bars(column, high)) for column in content.groups],
        "comparisons": [(each, verdict(each, metric.direction)) for each in content.comparisons],
        "comparison_bars": _comparison_bars(content, names, high),
        "commands": _by_command(content.provenance.commands),
    }
    return render("report.html", sections=_sections(content, values), **values)


def _by_command(commands: dict[str, str]) -> dict[str, str]:
    """Return command line -> the stages it ran, in words: `viper pipeline` runs many."""
    stages: dict[str, list[str]] = {}
    for stage, command in commands.items():
        stages.setdefault(command, []).append(stage)
    return {command: ", ".join(names) for command, names in stages.items()}


def verdict(comparison: Comparison, direction: str) -> Verdict:
    """Return whether the interval of the difference leaves a doubt about which run is better."""
    difference = comparison.difference
    if not (math.isfinite(difference.low) and math.isfinite(difference.high)):
        return Verdict("not known", "")
    if difference.low <= 0 <= difference.high:
        return Verdict("no clear difference", "")
    is_better = (difference.value > 0) == (direction == "maximise")
    return Verdict("better than this run", "good") if is_better else Verdict("worse than this run", "bad")


def _sections(content: ReportContent, values: dict[str, Any]) -> dict[str, str]:
    """Return anchor -> title of the sections there are, in their order."""
    agreement = {
        "multi_label": "Precision and recall", "preference": "Utilities",
    }.get(content.task.kind, "Confusion")  # fmt: skip
    scatter = "Predicted and true" if content.task.kind == "regression" else "Probabilities"
    sections = [
        ("summary", "Summary", True),
        ("targets", plural(content.task).capitalize(), values["has_rows"]),
        ("training", "Training", values["training"]),
        ("confusion", agreement, values["agreement"]),
        ("scatter", scatter, values["scatter"]),
        ("modalities", "Modalities", len(content.subsets) > 1),
        ("calibration", "Calibration", values["calibration"]),
        ("worst", "Worst clips", content.worst),
        ("best", "Best clips", content.best),
        ("groups", "Groups", content.groups),
        ("comparisons", "Other runs", content.comparisons),
        ("provenance", "Provenance", True),
    ]
    return {anchor: title for anchor, title, is_there in sections if is_there}


def _high(metric: str) -> float:
    """Return the end of a metric's bars: metrics that get better upwards end at 1."""
    return 1.0 if METRICS[metric].direction == "maximise" else 0.0


def _columns(content: ReportContent) -> list[str]:
    """Return the metrics that some target has, the headline first."""
    there = {metric for row in content.targets for metric in row.metrics}
    return [metric for metric in dict.fromkeys([content.metric, *content.metrics, *sorted(there)]) if metric in there]


def _target_bars(content: ReportContent, metric: str) -> dict[str, Bar]:
    rows = [(row.target, "", row.metrics[metric], True) for row in content.targets if metric in row.metrics]
    high = _high(metric)
    return {bar.name: bar for bar in bars(rows, high)}


def _subset_bars(content: ReportContent, high: float) -> list[Bar]:
    """Return a bar per subset: all modalities first and set off, then by score."""
    most = max((len(each.modalities) for each in content.subsets), default=0)
    worse = -1.0 if METRICS[content.metric].direction == "maximise" else 1.0

    def order(interval: Interval) -> float:
        return worse * interval.value if math.isfinite(interval.value) else math.inf

    subsets = sorted(content.subsets, key=lambda each: (len(each.modalities) < most, order(each.score)))
    rows = [(" + ".join(each.modalities), "", each.score, len(each.modalities) == most) for each in subsets]
    return bars(rows, high)


def _group_bars(column: GroupColumn, high: float) -> list[Bar]:
    rows = [(name, _clips(each.n), each, each.n >= column.least_n) for name, each in column.groups.items()]
    return bars(rows, high)


def _comparison_bars(content: ReportContent, names: dict[str, str], high: float) -> list[Bar]:
    others = [(names[each.name], "", each.score, False) for each in content.comparisons]
    return bars([(names[content.run], "this run", content.headline, True), *others], high)


def _clips(n: int) -> str:
    return f"{n:,} clip" if n == 1 else f"{n:,} clips"
