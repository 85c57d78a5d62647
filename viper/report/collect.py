"""A run -> all that its report says."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch

from viper.errors import UserError
from viper.evaluation.bootstrap import CONFIDENCE, Bootstrap, Measured
from viper.evaluation.calibration import calibrations
from viper.evaluation.split_report import SplitReport, build_report, check_predictions
from viper.inference.run import OpenedRun
from viper.inference.stored import Subset, predict_views, subsets_of, views_of
from viper.logs import without_warnings
from viper.manifest import canonical_split
from viper.report.cases import ERROR_NAMES, Predictions, attention_of, best_and_worst, describe
from viper.report.comparison import compared
from viper.report.content import Case, Comparison, GroupColumn, ReportContent, SubsetScore, TargetRow
from viper.report.groups import MAX_GROUPS, group_columns, has_too_many, scored_groups, subject_column
from viper.report.notes import notes_on, summary_of
from viper.report.provenance import find_pictures, provenance, thumbnails, training_curves
from viper.task import Task


@dataclass(frozen=True)
class Wanted:
    """What a report is asked for; the options of `viper report` of the same names."""

    split: str = "Val"
    frames_folder: Path | None = None
    subject_column: str | None = None
    group_columns: Sequence[str] = ()
    n_resamples: int = 1000
    seed: int = 0
    n_cases: int = 10
    subset_clips: int = 200
    batch_size: int = 64
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))


def collect(source: OpenedRun, others: Sequence[OpenedRun], wanted: Wanted) -> ReportContent:
    """Predict a split and measure everything for a report.

    Raises
    ------
    UserError : the split has no labels, a column or a folder that was named is not there, another run does not fit.
    NothingDoneError : no clip has any feature.
    """
    return _Collector(source, wanted).content(others)


class _Collector:
    """What the parts of a report are made of: a split's features, labels, predictions and resamples."""

    def __init__(self, source: OpenedRun, wanted: Wanted) -> None:
        self.source, self.wanted, self.task = source, wanted, source.task
        self.split = canonical_split(wanted.split)
        self.metric = source.task.metrics[0]
        self.data = source.data(self.split)
        self.table = source.manifest.table.loc[self.data.clips]
        self.notes: list[str] = []
        self.unit, subjects = self._subjects()
        self.bootstrap = Bootstrap.draw(len(self.data.truth), subjects, wanted.n_resamples, wanted.seed)
        self.predicted = self._predict([tuple(self.data.stores)], range(len(self.data))).popitem()[1]
        self.true = self.data.truth if self.task.kind == "preference" else self.data.labels.astype(np.float64)
        check_predictions(self.task, self.data.clips, self.predicted, self.true)

    def _predict(self, subsets: Sequence[Subset], rows: Sequence[int]) -> dict[Subset, np.ndarray]:
        """Return subset of the modalities -> (clips, targets) predicted from it; NaN for clips not in `rows`."""
        wanted, views = self.wanted, views_of(subsets, self.data, len(rows))
        found = predict_views(self.source.model, self.data, views, wanted.batch_size, wanted.device, rows)
        result = {}
        for subset, values in found.items():
            result[subset] = np.full((len(self.data), len(self.task.targets)), np.nan)
            result[subset][rows] = values
        return result

    def content(self, others: Sequence[OpenedRun]) -> ReportContent:
        """Return the whole content."""
        source, task, data = self.source, self.task, self.data
        measured = self.bootstrap.measure_all(task, self.predicted, self.true)
        headline = measured[self.metric].together
        split_report, (best, worst) = self._split_report(), self._cases()
        subsets, comparisons, groups = self._subsets(), self._comparisons(others), self._groups()
        return ReportContent(
            task=task,
            run=source.name,
            split=self.split,
            summary=summary_of(source, self.split, len(data), headline, self.unit),
            metric=self.metric,
            unit=self.unit,
            n_resamples=self.wanted.n_resamples,
            confidence=CONFIDENCE,
            metrics={m: each.together for m, each in measured.items() if each.together.n or m == self.metric},
            targets=_target_rows(task, measured, self.predicted, self.true),
            clips=data.clips,
            predicted=self.predicted,
            true=self.true,
            split_report=split_report,
            training=training_curves(source.folder, source.epoch),
            subsets=subsets,
            calibration=calibrations(task, self.predicted, self.true),
            error_name=ERROR_NAMES[task.kind],
            best=best,
            worst=worst,
            groups=groups,
            comparisons=comparisons,
            provenance=provenance(source, data.clips),
            notes=[*notes_on(source, self.split, data, headline, self.unit), *self.notes],
        )

    def _subjects(self) -> tuple[str, list[str] | None]:
        """Return what is resampled, in words, and the subject of each row; None: rows by themselves."""
        if self.task.kind == "preference":
            return "orders", None
        column = subject_column(self.source.manifest, self.wanted.subject_column)
        if column is None:
            return "clips", None
        subjects = self.table[column].astype(str).str.strip()
        if subjects.nunique() > 1:
            return f"subjects (column {column})", list(subjects)
        if self.wanted.subject_column is not None:
            raise UserError(f"--subject_column {column}: the clips of {self.split} are all of one subject")
        self.notes.append(f"By the column {column}, these clips are all of one subject: intervals treat the clips as "
                          "independent and say nothing about other subjects.")  # fmt: skip
        return "clips", None

    def _split_report(self) -> SplitReport | None:
        if self.task.kind == "regression" and self.task.range is None:
            self.notes.append("The task's card gives no range, so there are no confusion matrices.")
            return None
        with without_warnings():
            return build_report(self.task, self.data.clips, self.predicted, self.true)

    def _subsets(self) -> list[SubsetScore]:
        """Return the scores of all subsets, on a sample of the clips, since each subset is predicted anew."""
        if len(self.data.stores) < 2:
            return []
        is_preference, most = self.task.kind == "preference", self.wanted.subset_clips
        most = max(1, most // 2) if is_preference else most  # an order has two clips or more
        chosen = np.arange(len(self.true))
        if most and len(chosen) > most:
            chosen = np.sort(np.random.default_rng(self.wanted.seed).choice(len(chosen), most, replace=False))
            what = "orders" if is_preference else "clips"
            self.notes.append(f"Subsets of the modalities are scored on {most:,} of the {what}, drawn at random; "
                              "--subset_clips 0 takes all.")  # fmt: skip
        true, bootstrap = self.true[chosen], self.bootstrap.of(chosen)
        rows = np.unique(true[true >= 0]) if is_preference else chosen
        everything = tuple(self.data.stores)
        others = [subset for subset in subsets_of(everything) if subset != everything]
        found = {**self._predict(others, rows.tolist()), everything: self.predicted}
        result = []
        for subset, predicted in found.items():
            own = predicted if is_preference else predicted[chosen]
            result.append(SubsetScore(subset, bootstrap.measure(self.task, self.metric, own, true).together))
        return result

    def _cases(self) -> tuple[list[Case], list[Case]]:
        wanted, data = self.wanted, self.data
        best, worst = best_and_worst(self.task, self.predicted, self.true, wanted.n_cases)
        rows = list(dict.fromkeys([*best, *worst]))
        attention = attention_of(self.source.model, data, rows, wanted.batch_size, wanted.device)
        clips = [data.clips[row] for row in rows]
        folder = wanted.frames_folder or find_pictures(self.source, clips)
        if folder is None:
            self.notes.append("No folder of frames or faces was found, so clips have no pictures; name one with "
                              "--frames_folder.")  # fmt: skip
        pictures = thumbnails(folder, clips) if folder else {}
        predictions = Predictions(self.task, data.clips, self.predicted, self.true, self._without_each(rows))
        first, last = (describe(rows, predictions, attention, pictures) for rows in (best, worst))
        return first, last

    def _without_each(self, rows: Sequence[int]) -> dict[str, np.ndarray]:
        """Return modality -> predictions of these rows without it; empty with a single modality."""
        names = tuple(self.data.stores)
        others = {name: tuple(n for n in names if n != name) for name in names if len(names) > 1}
        found = self._predict(list(others.values()), rows) if others else {}
        return {name: found[subset] for name, subset in others.items()}

    def _groups(self) -> list[GroupColumn]:
        result = []
        for name in group_columns(self.source.manifest, self.wanted.group_columns):
            if has_too_many(self.source.manifest.table[name]):
                text = f"the column {name} has more than {MAX_GROUPS} values: too many to be groups"
                if self.wanted.group_columns:
                    raise UserError(f"--group_columns {name}: {text}")
                self.notes.append(f"Not scored by group: {text}.")
                continue
            found = scored_groups(self.task, self.metric, self.table[name], self.predicted, self.true, self.bootstrap)
            if found is not None:
                result.append(found)
        return result

    def _comparisons(self, others: Sequence[OpenedRun]) -> list[Comparison]:
        result = []
        for other in others:
            comparison, n = compared(self.source, other, self.split, self.data, self.predicted, self.bootstrap,
                                     self.wanted.batch_size, self.wanted.device)  # fmt: skip
            if n < len(self.true):
                what = "orders" if self.task.kind == "preference" else "clips"
                self.notes.append(f"{other.name} is compared on the {n:,} {what} that both runs have.")
            result.append(comparison)
        return result


def _target_rows(task: Task, measured: dict[str, Measured], predicted: np.ndarray, true: np.ndarray) -> list[TargetRow]:
    rows = []
    for k, target in enumerate(task.targets):
        metrics = {metric: each.targets[target] for metric, each in measured.items() if each.targets}
        if task.kind == "preference":
            known, labels = np.ones(len(predicted), bool), np.empty(0)
        else:
            known = ~np.isnan(true[:, k])
            labels = true[known, k]
        rows.append(TargetRow(target, int(known.sum()), metrics, *_spread(labels), *_spread(predicted[known, k])))
    return rows


def _spread(values: np.ndarray) -> tuple[float, float]:
    return (float(values.mean()), float(values.std())) if len(values) else (float("nan"), float("nan"))
