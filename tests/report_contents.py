"""Made-up contents of reports, of every kind of task: what the page is tried with."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np

from viper.evaluation.bootstrap import Interval
from viper.evaluation.calibration import Calibration, CalibrationBin
from viper.evaluation.metrics import METRICS, evaluate
from viper.evaluation.split_report import build_report
from viper.manifest import order_rows
from viper.report.content import (
    Case,
    Comparison,
    GroupColumn,
    ModalityAttention,
    ModalityRecord,
    Provenance,
    ReportContent,
    SubsetScore,
    TargetRow,
    Thumbnail,
    TrainingCurves,
)
from viper.task import DEFAULT_LOSSES, DEFAULT_METRICS, Task

MODALITIES = ("visual", "audio", "textual")
HOSTILE = "<script>alert('1')</script> & \"$x_1$\" — 喜び 😀"


def make_content(
    kind: str, targets: tuple[str, ...], n: int = 200, n_cases: int = 3, name: str = "runs/all"
) -> ReportContent:
    """A report with all its sections; `name` is that of the run, of the first clips, of options and of commands."""
    rng = np.random.default_rng(0)
    task = make_task(kind, targets)
    clips = [f"clip_{row:04d}" if name == "runs/all" else f"{name}{row or ''}" for row in range(n)]
    predicted, true = _arrays(task, clips, rng)
    scores = evaluate(task, predicted, true)
    metrics = {name: _interval(scores.together[name].value, n) for name in task.metrics}
    metric = task.metrics[0]
    return ReportContent(
        task=task,
        run=name,
        split="Test",
        summary=f"{len(targets)} targets of {n} clips, from visual, audio and textual features, 60 epochs of tokens.",
        metric=metric,
        unit="subjects (column Subject)",
        n_resamples=1000,
        confidence=0.95,
        metrics=metrics,
        targets=_rows(task, predicted, true, scores.targets, n),
        clips=clips,
        predicted=predicted,
        true=true,
        split_report=build_report(task, clips, predicted, true),
        training=_training(task, metric, rng),
        subsets=[SubsetScore(each, _interval(0.9 - 0.1 * (3 - len(each)), n)) for each in _subsets()],
        calibration=[_calibration(name, rng) for name in (targets if kind != "preference" else ["pairs"])],
        error_name="mean absolute error",
        best=[make_case(task, clips[i], predicted[i], true, i, rng) for i in range(n_cases, 2 * n_cases)],
        worst=[make_case(task, clips[i], predicted[i], true, i, rng) for i in range(n_cases)],
        groups=[
            GroupColumn("Gender", {"f": _interval(0.82, 90), "m": _interval(0.78, 80)}, _interval(0.04, 170), 20),
            GroupColumn("Country", {"South Africa": _interval(0.8, 150), "?": _interval(math.nan, 3)}, None, 20),
        ],
        comparisons=[
            Comparison("runs/audio", _interval(0.6, n), Interval(-0.2, -0.25, -0.15, n, n), {"visual": (True, False)}),
            Comparison("runs/other", _interval(0.8, n), Interval(0.01, -0.02, 0.03, n, n), {}),
        ],
        provenance=_provenance(name),
        notes=["The epoch was selected on this split, so these scores are optimistic."],
    )


def make_task(kind: str, targets: tuple[str, ...]) -> Task:
    """A task card of that kind."""
    return Task(
        name="hume_reaction",
        kind=kind,
        targets=targets,
        range=None if kind == "preference" else (0.0, 1.0),
        metrics=DEFAULT_METRICS[kind],
        loss=DEFAULT_LOSSES[kind],
        label_column="Emotion" if kind == "single_label" else None,
    )


def bare(content: ReportContent) -> ReportContent:
    """The same without all that a report may lack."""
    return replace(
        content, targets=[], split_report=None, training=None, subsets=[], calibration=[], best=[], worst=[], groups=[],
        comparisons=[], notes=[], provenance=Provenance("best", None, None, {}, {}, {}, {}),
    )  # fmt: skip


def make_case(
    task: Task, clip: str, predicted: np.ndarray, true: np.ndarray, row: int, rng: np.random.Generator
) -> Case:
    """One clip with pictures, attention and answers without each modality."""
    values = dict(zip(task.targets, predicted.tolist(), strict=True))
    labels = [math.nan] if task.kind == "preference" else true[row].tolist()
    shares = rng.dirichlet((3, 2, 1))
    n_tokens = {"visual": 8, "audio": 200, "textual": 1}
    attention = {}
    for modality, share in zip(MODALITIES, shares, strict=True):
        count = n_tokens[modality]
        weights = rng.dirichlet(np.full(count, 0.4), len(task.targets)) * share
        attention[modality] = ModalityAttention((np.arange(count) + 0.5) * 6 / count, weights)
    return Case(
        clip=clip,
        error=0.1234,
        true=dict(zip(task.targets, labels, strict=True)),
        predicted=values,
        hidden={
            modality: {name: value * (0.7 + 0.1 * k) for name, value in values.items()}
            for k, modality in enumerate(MODALITIES)
        },
        attention=attention,
        thumbnails=[Thumbnail(time, picture(rng)) for time in (0.4, 1.6, 2.8, 4.0, 5.2)],
    )


def picture(rng: np.random.Generator, side: int = 120) -> np.ndarray:
    """Something like a face: an ellipse on a ground."""
    rows, columns = np.mgrid[:side, :side] / side - 0.5
    image = np.full((side, side, 3), rng.integers(40, 120, 3), np.uint8)
    image[(rows / 0.42) ** 2 + (columns / 0.3) ** 2 < 1] = (224, 180, 150)
    for across in (-0.12, 0.12):
        image[(rows + 0.08) ** 2 + (columns - across) ** 2 < 0.001] = (40, 30, 30)
    image[(abs(rows - 0.2 + columns**2) < 0.02) & (abs(columns) < 0.14)] = (150, 60, 60)
    return image


def _arrays(task: Task, clips: list[str], rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    shape = (len(clips), len(task.targets))
    if task.kind == "preference":
        utilities = rng.standard_normal((len(clips), 1))
        noisy = utilities[:, 0] + rng.standard_normal(len(clips))
        drawn = [sorted(rng.choice(len(clips), 2, False), key=noisy.__getitem__) for _ in clips]
        return utilities, order_rows([tuple(clips[row] for row in rows) for rows in drawn], clips)
    if task.kind == "single_label":
        own = rng.integers(0, shape[1], len(clips))
        true = np.eye(shape[1])[own]
        logits = 2.2 * true + rng.standard_normal(shape)
        return np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True), true
    if task.kind == "multi_label":
        true = (rng.random(shape) < 0.25).astype(float)
        return 1 / (1 + np.exp(-(2 * true - 1.5 + rng.standard_normal(shape)))), true
    true = rng.beta(0.8, 1.3, shape)
    return np.clip(0.15 + 0.6 * true + 0.12 * rng.standard_normal(shape), 0, 1), true


def _interval(value: float, n: int) -> Interval:
    return Interval(value, value - 0.03, value + 0.025, n, max(n // 4, 1))


def _rows(task: Task, predicted: np.ndarray, true: np.ndarray, scores: dict[str, Any], n: int) -> list[TargetRow]:
    rows = []
    for column, target in enumerate(task.targets):
        labels = np.array([math.nan]) if task.kind == "preference" else true[:, column]
        rows.append(
            TargetRow(
                target, n, {metric: _interval(each[target].value, n) for metric, each in scores.items()},
                float(labels.mean()), float(labels.std()), float(predicted[:, column].mean()),
                float(predicted[:, column].std()),
            )
        )  # fmt: skip
    return rows


def _training(task: Task, metric: str, rng: np.random.Generator) -> TrainingCurves:
    epochs = list(range(1, 61))
    rise = 0.9 * (1 - np.exp(-np.array(epochs) / 12))
    metrics = {metric: (rise + rng.normal(0, 0.006, 60)).tolist()}
    if METRICS[metric].per_target is not None:
        for target in task.targets:
            metrics[f"{metric}_{target}"] = (rise * rng.uniform(0.7, 1.05) + rng.normal(0, 0.01, 60)).tolist()
    return TrainingCurves(epochs, (0.02 + 0.1 * np.exp(-np.array(epochs) / 9)).tolist(), metrics, 47)


def _subsets() -> list[tuple[str, ...]]:
    return [MODALITIES, *(pair for pair in (("visual", "audio"), ("visual", "textual"), ("audio", "textual"))),
            *((each,) for each in MODALITIES)]  # fmt: skip


def _calibration(name: str, rng: np.random.Generator) -> Calibration:
    lows = np.arange(10) / 10
    means = np.clip(lows + rng.normal(0.05, 0.06, 10), 0, 1)
    bins = [
        CalibrationBin(low, low + 0.1, int(rng.integers(1, 60)), low + 0.05, mean)
        for low, mean in zip(lows.tolist(), means.tolist(), strict=True)
    ]
    return Calibration(name, [*bins, CalibrationBin(1.0, 1.1, 0, math.nan, math.nan)], 0.034)


def _provenance(name: str) -> Provenance:
    encoder = {
        "encoder": "hog", "modality": "visual", "width": 1764, "options": {"side": 64, "cell": name}, "model": "",
        "source": "faces",
    }  # fmt: skip
    commands = {
        "get_frame": f"viper get_frame --input_folder '{name}' --output_folder frames",
        "train_perceiver": "viper train_perceiver --csv_path manifest.csv --task hume_reaction --n_epochs 60 "
        "--output_checkpoint_folder runs/all --visual_features_input_folder features/visual",
    }
    records = {name: ModalityRecord({**encoder, "modality": name}, 0, [], {}) for name in MODALITIES}
    records["audio"] = replace(records["audio"], n_missing=2, missing=["a", "b"], failures={name: f"{name}: no sound"})
    options = {"n_epochs": 60, "learning_rate": 0.002, "features": [], "patience": None, "resume": True, name: name}
    return Provenance("perceiver_47", 0, "a28e404", options, {"torch": "2.11.0"}, records, commands)
