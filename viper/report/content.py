"""All that a report says, as data: what is measured fills it, the page and report.json are made of it."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from viper.evaluation.bootstrap import Interval
from viper.evaluation.calibration import Calibration
from viper.evaluation.split_report import SplitReport
from viper.task import Task

DIGITS = 7  # of a number in report.json: predictions are float32, which has no more


@dataclass(frozen=True)
class TargetRow:
    """One target: its metrics, and how its labels and predictions are spread (nan where there are none)."""

    target: str
    n: int
    metrics: dict[str, Interval]
    true_mean: float
    true_std: float
    predicted_mean: float
    predicted_std: float


@dataclass(frozen=True)
class TrainingCurves:
    """metrics.csv: `epochs` (E,), and by name a column of E values (nan where empty); the epoch that is reported on."""

    epochs: list[int]
    training_loss: list[float]
    metrics: dict[str, list[float]]
    best_epoch: int | None


@dataclass(frozen=True)
class SubsetScore:
    """What a subset of the modalities scores; the same checkpoint, the others hidden."""

    modalities: tuple[str, ...]
    score: Interval


@dataclass(frozen=True)
class Thumbnail:
    """A picture of a clip: second from its start, (H, W, 3) uint8 RGB."""

    time: float
    image: np.ndarray


@dataclass(frozen=True)
class ModalityAttention:
    """Where one clip's answers looked in one modality.

    Attributes
    ----------
    times : (T,) seconds of its present tokens.
    weights : (targets, T) shares of an answer's attention; over all modalities (and the model's empty token) they add
        up to 1 for each target.
    """

    times: np.ndarray
    weights: np.ndarray

    @property
    def share(self) -> float:
        """Share of the attention, averaged over the targets."""
        return float(self.weights.sum(axis=1).mean())


@dataclass(frozen=True)
class Case:
    """One clip in detail.

    Attributes
    ----------
    error : by which clips are ranked; `ReportContent.error_name` says what it is.
    true, predicted : target -> value; nan where there is no label.
    hidden : modality -> target -> prediction without that modality.
    attention : modality -> where was looked; empty where the fusion has no attention.
    thumbnails : a few pictures in order of time; none where they are not at hand.
    """

    clip: str
    error: float
    true: dict[str, float]
    predicted: dict[str, float]
    hidden: dict[str, dict[str, float]] = field(default_factory=dict)
    attention: dict[str, ModalityAttention] = field(default_factory=dict)
    thumbnails: list[Thumbnail] = field(default_factory=list)


@dataclass(frozen=True)
class GroupColumn:
    """The headline metric within the groups of a manifest's column (age, country, gender ...).

    Attributes
    ----------
    groups : group -> its interval, largest group first; groups too small to score are nan.
    gap : the largest minus the smallest value among groups of at least `least_n` clips, with its interval; None with
        fewer than two such groups.
    """

    column: str
    groups: dict[str, Interval]
    gap: Interval | None
    least_n: int


@dataclass(frozen=True)
class Comparison:
    """Another run on the same clips.

    Attributes
    ----------
    name : the run, as it was given.
    score : its headline metric.
    difference : its headline metric minus this run's, on the same resamples (paired).
    options : option -> (this run's, the other's), where they differ.
    """

    name: str
    score: Interval
    difference: Interval
    options: dict[str, tuple[Any, Any]]


@dataclass(frozen=True)
class ModalityRecord:
    """Where a modality's features came from: encoder.json, clips that lack it, and failures.csv (clip -> message)."""

    encoder: dict[str, Any]
    n_missing: int
    missing: list[str]
    failures: dict[str, str]


@dataclass(frozen=True)
class Provenance:
    """What is needed to make the run again.

    Attributes
    ----------
    options : of the training, as resolved. Paths as they were given.
    versions : package -> version, when trained.
    commands : what was typed, as far as it was recorded: stage -> command line.
    """

    checkpoint: str
    seed: int | None
    git_revision: str | None
    options: dict[str, Any]
    versions: dict[str, str]
    modalities: dict[str, ModalityRecord]
    commands: dict[str, str]


@dataclass(frozen=True)
class ReportContent:
    """Everything on the page.

    Attributes
    ----------
    summary : the paragraph on the task, the data and the options.
    metric : the headline metric's key in `viper.evaluation.metrics.METRICS`: the one that selected the epoch.
    unit : what the bootstrap drew, in words for people: "clips", "subjects (column Subject)", "orders".
    n_resamples, confidence : of the bootstrap.
    metrics : metric -> over all targets; the headline is among them, first.
    clips : ids (n), in the order of the rows of `predicted` and `true`.
    true : (n, targets) labels, NaN where there are none; of a preference task the orders, see
        `viper.manifest.order_rows`.
    split_report : confusion matrices, precision-recall curves or utilities, by the task's kind: what confusion_matrix
        writes, and the page draws with the same code; None of a regression without a range.
    best, worst : clips with the least and the largest error, most extreme first.
    notes : sentences a reader must know (the split chose the epoch; half of the answer is a linear member's ...).
    """

    task: Task
    run: str
    split: str
    summary: str
    metric: str
    unit: str
    n_resamples: int
    confidence: float
    metrics: dict[str, Interval]
    targets: list[TargetRow]
    clips: list[str]
    predicted: np.ndarray
    true: np.ndarray
    split_report: SplitReport | None
    training: TrainingCurves | None
    subsets: list[SubsetScore]
    calibration: list[Calibration]
    error_name: str
    best: list[Case]
    worst: list[Case]
    groups: list[GroupColumn]
    comparisons: list[Comparison]
    provenance: Provenance
    notes: list[str]

    @property
    def headline(self) -> Interval:
        """The metric that selected the epoch, over all targets."""
        return self.metrics[self.metric]

    def to_dict(self) -> dict[str, Any]:
        """Return every number, JSON-ready: report.json. What is undefined is None; pictures are left out."""
        record = {entry.name: getattr(self, entry.name) for entry in dataclasses.fields(self)}
        split_report = None if self.split_report is None else self.split_report.to_dict()
        return _plain({**record, "task": self.task.to_dict(), "split_report": split_report})


def _plain(value: Any) -> Any:
    """Return dataclasses as dicts, arrays as lists, and numbers that JSON lacks as None."""
    if isinstance(value, Thumbnail):
        return {"time": value.time}
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {entry.name: _plain(getattr(value, entry.name)) for entry in dataclasses.fields(value)}
    if isinstance(value, dict):
        return {str(key): _plain(each) for key, each in value.items()}
    if isinstance(value, np.ndarray):
        return _plain(value.tolist())
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    if isinstance(value, np.generic):
        return _plain(value.item())
    if isinstance(value, float):
        return float(f"{value:.{DIGITS}g}") if math.isfinite(value) else None
    return value
