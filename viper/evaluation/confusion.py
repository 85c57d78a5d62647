"""Confusion matrices: true against predicted intensity in bins, and the strongest target, or the class, as a class."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from viper.errors import UserError
from viper.evaluation.drawing import Matrix, matrix_figure, overview_figure, save_png
from viper.evaluation.measures import Score
from viper.evaluation.metrics import METRICS, Scores, evaluate
from viper.files import write_csv, write_json
from viper.task import Task

N_BINS = 10
_FLOAT32_EPSILON = float(np.finfo(np.float32).eps)


def bin_edges(range: tuple[float, float], n_bins: int = N_BINS) -> np.ndarray:
    """Return (n_bins + 1,) edges of equal bins from the lowest to the highest value."""
    return np.linspace(*range, n_bins + 1)


def bin_index(values: np.ndarray, range: tuple[float, float], n_bins: int = N_BINS) -> np.ndarray:
    """Return the bin of each value: bin k holds edge k and all below edge k + 1, the last bin its upper edge too.

    A value that float32 cannot tell from an edge counts as that edge: 0.7 read as float32 is below 0.7, and belongs to
    bin 7 of [0, 1] nonetheless. Values outside the range are clipped to it.

    Returns
    -------
    int64 of the shape of `values`. NaN is a ValueError.
    """
    values = np.asarray(values, np.float64)
    if np.isnan(values).any():
        raise ValueError("NaN belongs to no bin")
    lowest, highest = range
    position = (values.clip(lowest, highest) - lowest) / (highest - lowest) * n_bins
    tolerance = 2 * _FLOAT32_EPSILON * max(abs(lowest), abs(highest)) / (highest - lowest) * n_bins
    nearest = np.round(position)
    position = np.where(np.abs(position - nearest) <= tolerance, nearest, np.floor(position))
    return np.minimum(position, n_bins - 1).astype(np.int64)


def binned_matrix(
    predicted: np.ndarray, true: np.ndarray, range: tuple[float, float], n_bins: int = N_BINS
) -> np.ndarray:
    """Return (n_bins, n_bins) counts of clips, rows the bin of the label, columns the bin of the prediction.

    Parameters
    ----------
    predicted, true : (n,). Clips whose label is NaN are left out; a prediction that is NaN is a ValueError.
    """
    labelled = ~np.isnan(true)
    rows = bin_index(np.asarray(true)[labelled], range, n_bins)
    columns = bin_index(np.asarray(predicted)[labelled], range, n_bins)
    return _count(rows, columns, n_bins)


def argmax_matrix(predicted: np.ndarray, true: np.ndarray) -> np.ndarray:
    """Return (K, K) counts of clips, rows the target with the highest label, columns with the highest prediction.

    If several are equally high, the first one counts. Clips that lack a label of any target are left out.

    Parameters
    ----------
    predicted, true : (n, K).
    """
    labelled = ~np.isnan(true).any(axis=1)
    return _count(np.argmax(true[labelled], axis=1), np.argmax(predicted[labelled], axis=1), true.shape[1])


def normalise_rows(counts: np.ndarray) -> np.ndarray:
    """Return float64 shares that add up to 1 in each row; a row without clips is all NaN, not 0."""
    totals = counts.sum(axis=1, keepdims=True)
    return np.divide(counts, totals, out=np.full(counts.shape, np.nan), where=totals > 0)


def _count(rows: np.ndarray, columns: np.ndarray, size: int) -> np.ndarray:
    return np.bincount(rows * size + columns, minlength=size * size).reshape(size, size)


@dataclass(frozen=True)
class ConfusionReport:
    """All confusion matrices of one split of a regression or single_label task.

    Attributes
    ----------
    task : its targets are the classes, its range is what the bins divide.
    n_clips : rows the report was built from.
    counts : target -> (10, 10) clips, see `binned_matrix`; none for a single_label task.
    scores : the task's metrics.
    argmax_counts : (targets, targets) clips, see `argmax_matrix`.
    n_tied : clips of `argmax_counts` whose highest label is shared by several targets.
    """

    task: Task
    n_clips: int
    counts: dict[str, np.ndarray]
    scores: Scores
    argmax_counts: np.ndarray
    n_tied: int

    @cached_property
    def normalised(self) -> dict[str, np.ndarray]:
        """Target -> (10, 10) shares, NaN in rows without clips."""
        return {target: normalise_rows(counts) for target, counts in self.counts.items()}

    @property
    def has_classes(self) -> bool:
        """Whether the arg-max matrix says anything: of a single target, every clip is predicted right."""
        return len(self.task.targets) > 1

    @property
    def accuracy(self) -> Score:
        """Share of clips whose strongest target was predicted to be the strongest; nan without clips."""
        n = int(self.argmax_counts.sum())
        return Score(float(np.trace(self.argmax_counts)) / n if n else math.nan, n)

    @property
    def uar(self) -> Score:
        """Unweighted average recall: the mean, over classes that have clips, of the share predicted right."""
        n = int(self.argmax_counts.sum())
        return Score(float(np.nanmean(np.diag(normalise_rows(self.argmax_counts)))) if n else math.nan, n)

    def to_dict(self) -> dict[str, Any]:
        """Return every number, JSON-ready; None for shares of a row without clips and for "argmax" without classes."""
        scores = self.scores.to_dict()
        argmax = {
            "classes": list(self.task.targets),
            "accuracy": self.accuracy.to_dict(),
            "uar": self.uar.to_dict(),
            "n_tied": self.n_tied,
            **_matrix_dict(self.argmax_counts),
        }
        return {
            "task": self.task.name,
            "n_clips": self.n_clips,
            "bin_edges": _edges(self.task).tolist(),
            "mean": scores["mean"],
            "targets": {
                target: {**metrics, **(_matrix_dict(self.counts[target]) if target in self.counts else {})}
                for target, metrics in scores["targets"].items()
            },
            "argmax": argmax if self.has_classes else None,
        }

    def write(self, folder: Path) -> list[Path]:
        """Write CSV, JSON and PNG into `folder` and return the files written.

        For each target, and for `argmax` where there are several: confusion_NAME.csv (clips),
        confusion_NAME_normalised.csv (shares, empty in a row without clips) and confusion_NAME.png; then
        confusion_overview.png and, when all else is there, confusion.json. In NAME, characters of a target that do not
        suit a file name are replaced by underscores.
        """
        names, intervals = file_names(self.task.targets), _intervals(_edges(self.task))
        pictures = {names[target]: self.target_picture(target) for target in self.counts}
        in_overview = list(pictures.values())
        if self.has_classes:
            pictures["argmax"] = self.argmax_picture()
        overview = overview_figure(in_overview or [pictures["argmax"]], self._overview_title())
        written = []
        for name, picture in pictures.items():
            labels = self.task.targets if name == "argmax" else intervals
            files = [folder / f"confusion_{name}{end}" for end in (".csv", "_normalised.csv", ".png")]
            _write_matrix(files[0], picture.counts, labels)
            _write_matrix(files[1], picture.shares, labels)
            save_png(matrix_figure(picture), files[2])
            written += files
        save_png(overview, folder / "confusion_overview.png")
        write_json(folder / "confusion.json", self.to_dict())
        return [*written, folder / "confusion_overview.png", folder / "confusion.json"]

    def _overview_title(self) -> str:
        metric, mean = self._metric, self.scores.mean(self._metric)
        title = "mean Pearson r" if metric == "pearson" else METRICS[metric].title
        return f"{self.task.name}: {title} {number_text(mean.value)}, n = {mean.n:,}"

    @property
    def _metric(self) -> str:
        """What the pictures say of a target: its correlation, or else what selects the best epoch."""
        return "pearson" if "pearson" in self.scores.targets else self.task.metrics[0]

    def target_picture(self, target: str) -> Matrix:
        """Return a target's bins as a heat map shows them."""
        score = self.scores.targets[self._metric][target]
        ticks = _edge_labels(_edges(self.task))
        title = "Pearson r" if self._metric == "pearson" else METRICS[self._metric].title
        subtitle = f"{title} {number_text(score.value)}, n = {score.n:,}"
        return Matrix(self.counts[target], self.normalised[target], ticks, target, subtitle)

    def argmax_picture(self) -> Matrix:
        """Return the strongest targets, or the classes, as a heat map shows them."""
        shares = normalise_rows(self.argmax_counts)
        subtitle = (
            f"accuracy {number_text(self.accuracy.value)}, UAR {number_text(self.uar.value)}, n = {self.accuracy.n:,}"
        )
        title = "Class" if self.task.kind == "single_label" else "Strongest target"
        return Matrix(self.argmax_counts, shares, self.task.targets, title, subtitle)


def confusion_report(task: Task, predicted: np.ndarray, true: np.ndarray) -> ConfusionReport:
    """Count everything a ConfusionReport holds.

    Parameters
    ----------
    predicted, true : (n, targets) float64, finite but for NaN in `true` where there is no label.

    Raises
    ------
    UserError : a task without a range.
    """
    if task.range is None:
        raise UserError(f"task {task.name}: confusion matrices need a range, and its card gives none")
    complete = true[~np.isnan(true).any(axis=1)]
    return ConfusionReport(
        task=task,
        n_clips=len(true),
        counts={
            target: binned_matrix(predicted[:, column], true[:, column], task.range)
            for column, target in enumerate(task.targets)
            if task.kind != "single_label"
        },
        scores=evaluate(task, predicted, true),
        argmax_counts=argmax_matrix(predicted, true),
        n_tied=int(((complete == complete.max(axis=1, keepdims=True)).sum(axis=1) > 1).sum()) if len(complete) else 0,
    )


def _edges(task: Task) -> np.ndarray:
    assert task.range is not None, "build_report makes no report of a task without a range"
    return bin_edges(task.range).round(9) + 0.0  # without -0.0 and the last digit's noise


def _edge_labels(edges: np.ndarray) -> list[str]:
    """Return edges with the fewest decimals that are exact, at least one."""
    for decimals in (1, 2, 3, 4):
        if np.allclose(edges.round(decimals), edges, rtol=0, atol=1e-9):
            return [f"{edge:.{decimals}f}" for edge in edges]
    return [f"{edge:g}" for edge in edges]


def _intervals(edges: np.ndarray) -> list[str]:
    labels = _edge_labels(edges)
    closing = [")"] * (len(labels) - 2) + ["]"]
    return [f"[{low}, {high}{end}" for low, high, end in zip(labels[:-1], labels[1:], closing, strict=True)]


def number_text(value: float) -> str:
    """Return a score as titles show it."""
    return "undefined" if math.isnan(value) else f"= {value:.3f}"


def file_names(targets: Sequence[str]) -> dict[str, str]:
    """Return a name for each target's files, different from the report's other files on every file system."""
    taken = {"argmax", "argmax_normalised", "overview"}
    names: dict[str, str] = {}
    for target in targets:
        stem = re.sub(r"[^\w.-]+", "_", target).strip("_") or "target"
        names[target] = next(
            name
            for name in (stem, *(f"{stem}_{number}" for number in range(2, len(targets) + 3)))
            if not {name.lower(), f"{name}_normalised".lower()} & taken
        )
        taken |= {names[target].lower(), f"{names[target]}_normalised".lower()}
    return names


def _matrix_dict(counts: np.ndarray) -> dict[str, Any]:
    shares = [[None if math.isnan(share) else share for share in row] for row in normalise_rows(counts).tolist()]
    return {"counts": counts.tolist(), "normalised": shares}


def _write_matrix(path: Path, matrix: np.ndarray, labels: Sequence[str]) -> None:
    rows = [[label, *row] for label, row in zip(labels, matrix.tolist(), strict=True)]
    write_table(path, ["true \\ predicted", *labels], rows)


def write_table(path: Path, header: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Write a CSV file of numbers and names; NaN is an empty cell."""
    cells = ([("" if isinstance(cell, float) and math.isnan(cell) else cell) for cell in row] for row in rows)
    write_csv(path, [header, *cells])
