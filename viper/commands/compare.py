"""compare: the fusions and the baselines on the same data, several seeds each, in one table."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from viper.commands.common import csv_cell, mean_and_std, over_seeds
from viper.commands.feature_options import FeatureOptions
from viper.commands.trainings import parse_train_options, train_again, train_options
from viper.errors import UserError
from viper.files import check_own_folder, write_csv_records, write_json, write_text
from viper.logs import log, say, without_warnings
from viper.manifest import Manifest
from viper.task import Task, load_task
from viper.training.options import LEARNING_RATES

if TYPE_CHECKING:
    import numpy as np

    from viper.evaluation.metrics import Scores
    from viper.training.data import FusionData

ModelName = Literal["tokens", "linear", "mlp", "gru", "perceiver-channels"]
FUSIONS = {"tokens": "tokens", "linear": "linear", "mlp": "mlp", "gru": "gru", "perceiver-channels": "channels"}
BATCH_SIZE = 64  # clips at once in scoring; it does not change the scores
Values = dict[str, list[float]]  # metric -> a value a seed


@dataclass(kw_only=True)
class CompareOptions(FeatureOptions):
    """Train every model on the same data with the same options, and put their scores into one table."""

    csv_path: Path
    """The manifest: File_ID, Split (Train, Val, Test) and a column per target."""
    output_path: Path
    """Folder that gets a folder of runs per model, and compare.csv, compare.json and compare.md."""
    task: str = "hume_reaction"
    """The task: a card's name or path."""
    models: tuple[ModelName, ...] = ("tokens", "linear", "mlp", "gru", "perceiver-channels")
    """Models to compare."""
    preset: Literal["tiny", "small", "base", "paper"] = "small"
    """Size of all models. Hidden layers of mlp and gru are as wide as the preset's latents."""
    n_epochs: int = 30
    """Passes over the training split."""
    batch_size: int = 16
    """Clips per batch."""
    n_seeds: int = 5
    """Trainings of each model, with different seeds. linear has no randomness and is fitted once."""
    seed: int = 0
    """The first seed; it also draws the modalities to hide."""
    train_options: Annotated[list[str], tyro.conf.arg(metavar="NAME=VALUE")] = field(default_factory=list)
    """Further options of train_perceiver for all models: weight_decay=0.1 loss=mse+0.5*ccc ..."""
    test_csv_path: Path | None = None
    """A manifest with labels of the test split, which is scored once all models are trained. By default it is not."""
    missing: float = 0.0
    """Share of clips that lack one modality, drawn at random, in a second scoring; the same ones for all models."""
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    """Where the models are trained and run."""


@dataclass(frozen=True)
class Result:
    """One model: its runs and, per view of a split ("Val", "Val, one missing" ...), each metric for every run."""

    model: str
    runs: list[Path]
    n_parameters: int
    views: dict[str, Values]


def run(options: CompareOptions) -> int:
    """Run the stage; return the exit code."""
    task = load_task(options.task)
    _check(options)
    runs = {model: _train(options, model) for model in options.models}
    # Only now: no choice is left that a test split could have a part in.
    splits = _splits(options, task, next(iter(runs.values()))[0])
    seen = {split: hidden_at_random(data, options.missing, options.seed) for split, data in splits.items()}
    results = [_score(options, task, model, folders, splits, seen) for model, folders in runs.items()]
    _write(options, task, results, splits, seen)
    say(*table(task, results).split("\n"))
    log.info("compare: %d models -> %s", len(results), options.output_path)
    return 0


def _check(options: CompareOptions) -> None:
    if not options.models:
        raise UserError("--models: name at least one")
    if options.n_seeds < 1:
        raise UserError(f"--n_seeds {options.n_seeds}: must be at least 1")
    if not 0 <= options.missing <= 1:
        raise UserError(f"--missing {options.missing}: must be a share between 0 and 1")
    if options.missing and len(options.folders()) < 2:
        raise UserError("--missing: hiding one modality needs at least two")
    parse_train_options(options.train_options, _own_options(options))


def _own_options(options: CompareOptions) -> set[str]:
    return {"fusion", *vars(options)}


def _train(options: CompareOptions, model: str) -> list[Path]:
    """Train what is not trained yet; return the runs, one per seed."""
    folder = options.output_path / model
    n_seeds = 1 if model == "linear" else options.n_seeds
    seeds = range(options.seed, options.seed + n_seeds)
    runs = [check_own_folder(options.output_path, model, f"seed_{seed}") for seed in seeds]
    values = parse_train_options(options.train_options, _own_options(options))
    if model == "perceiver-channels" and options.preset != "paper":
        values = _channels_schedule(options) | values
    values |= {
        name: getattr(options, name)
        for name in ("csv_path", "task", "preset", "n_epochs", "batch_size", "seed", "device")
    }
    values |= {"fusion": FUSIONS[model], "n_seeds": n_seeds}
    # A training of one seed has no folder per seed.
    values["output_checkpoint_folder"] = folder if n_seeds > 1 else runs[0]
    log.info("\n%s: %d %s", model, n_seeds, "run" if n_seeds == 1 else "runs")
    train_again(train_options(options, values))
    return runs


def _channels_schedule(options: CompareOptions) -> dict[str, Any]:
    """Return a learning rate that suits the size: the published 1e-5, halved every 5 epochs, is for 283 M parameters.

    With it a small model would hardly leave its initial weights, and be a baseline for show.
    """
    return {"learning_rate": LEARNING_RATES[options.preset], "step_size": max(1, options.n_epochs // 4)}


def _splits(options: CompareOptions, task: Task, checkpoint: Path) -> dict[str, FusionData]:
    from viper.fusion.checkpoint import load_checkpoint
    from viper.inference.stored import data_for

    model, stores = load_checkpoint(checkpoint), options.stores()
    separator = options.id_separator()
    manifest = Manifest.load(options.csv_path, task, separator)
    splits = {"Val": data_for(model, stores, manifest, "Val", labelled=True)}
    if options.test_csv_path is not None:
        manifest = Manifest.load(options.test_csv_path, task, separator)
        splits["Test"] = data_for(model, stores, manifest, "Test", labelled=True)
    return splits


def hidden_at_random(data: FusionData, share: float, seed: int) -> np.ndarray:
    """Return which modalities stay visible when a share of the clips loses one it has, drawn with a seed.

    Returns
    -------
    bool (clips, modalities). Of the clips with two modalities or more, `share` (of all clips, rounded) lose one.
    """
    import numpy as np

    rng = np.random.default_rng(seed)
    present = np.array([[clip in store for store in data.stores.values()] for clip in data.clips])
    candidates = np.flatnonzero(present.sum(axis=1) >= 2)
    n = min(len(candidates), round(share * len(data)))
    seen = np.ones_like(present)
    for clip in rng.choice(candidates, n, replace=False):
        seen[clip, rng.choice(np.flatnonzero(present[clip]))] = False
    return seen


def _score(
    options: CompareOptions,
    task: Task,
    model: str,
    runs: Sequence[Path],
    splits: Mapping[str, FusionData],
    seen: Mapping[str, np.ndarray],
) -> Result:
    import numpy as np

    from viper.engine.device import choose_device
    from viper.evaluation.metrics import evaluate
    from viper.fusion.checkpoint import load_checkpoint
    from viper.inference.stored import predict_views

    views: dict[str, Values] = {}
    for folder in runs:
        fusion = load_checkpoint(folder)
        for split, data in splits.items():
            masks = {split: np.ones_like(seen[split])}
            if options.missing:
                masks[f"{split}, one missing"] = seen[split]
            predictions = predict_views(fusion, data, masks, BATCH_SIZE, choose_device(options.device))
            for view, predicted in predictions.items():
                with without_warnings():
                    scores = evaluate(task, predicted, data.truth)
                for metric, value in _values(scores).items():
                    views.setdefault(view, {}).setdefault(metric, []).append(value)
    n_parameters = fusion.num_parameters()
    return Result(model, list(runs), n_parameters, views)


def _values(scores: Scores) -> dict[str, float]:
    """Return the values by which epochs are compared.

    An undefined Pearson counts 0, so that a mean over seeds does not lose the worst.
    """
    return {metric: scores.reported_value(metric) for metric in scores.together}


def table(task: Task, results: Sequence[Result]) -> str:
    """Return Markdown: a row per model, a column per view of a split, mean ± standard deviation over seeds."""
    from viper.evaluation.metrics import METRICS

    metric = task.metrics[0]
    views = list(results[0].views)
    header = ["model", "parameters", "runs", *(f"{view}: {METRICS[metric].title}" for view in views)]
    rows = [header, ["---", *["---:"] * (len(header) - 1)]]
    for result in results:
        cells = [result.model, _readable(result.n_parameters), str(len(result.runs))]
        for view in views:
            mean, std = mean_and_std(result.views[view][metric])
            cells.append(f"{mean:.3f}" if math.isnan(std) else f"{mean:.3f} ± {std:.3f}")
        rows.append(cells)
    widths = [max(len(row[k]) for row in rows) for k in range(len(header))]
    return "\n".join(
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |" for row in rows
    )


def _readable(n: int) -> str:
    return f"{n / 1e6:.1f} M" if n >= 1e6 else f"{n / 1e3:.1f} k"


def _write(
    options: CompareOptions,
    task: Task,
    results: Sequence[Result],
    splits: Mapping[str, FusionData],
    seen: Mapping[str, np.ndarray],
) -> None:
    rows = []
    for result in results:
        row: dict[str, Any] = {"model": result.model, "n_runs": len(result.runs), "n_parameters": result.n_parameters}
        for view, values in result.views.items():
            for metric, each in values.items():
                mean, std = mean_and_std(each)
                row[f"{view} {metric}"], row[f"{view} {metric} std"] = csv_cell(mean), csv_cell(std)
        rows.append(row)
    folder = options.output_path
    write_csv_records(folder / "compare.csv", rows)
    write_text(folder / "compare.md", _page(options, task, results, splits))
    hidden = {
        split: {data.clips[clip]: list(data.stores)[name] for clip, name in zip(*(~seen[split]).nonzero(), strict=True)}
        for split, data in splits.items()
    }
    write_json(
        folder / "compare.json",
        {
            "task": task.name,
            "metric": task.metrics[0],
            "n_clips": {split: len(data) for split, data in splits.items()},
            "missing": {"share": options.missing, "seed": options.seed, "hidden": hidden},
            "options": {"preset": options.preset, "n_epochs": options.n_epochs, "train_options": options.train_options},
            "models": {
                result.model: {
                    "runs": [str(folder) for folder in result.runs],
                    "n_parameters": result.n_parameters,
                    "scores": {
                        view: {metric: over_seeds(each) for metric, each in values.items()}
                        for view, values in result.views.items()
                    },
                }
                for result in results
            },
        },
    )


def _page(options: CompareOptions, task: Task, results: Sequence[Result], splits: Mapping[str, FusionData]) -> str:
    clips = ", ".join(f"{len(data):,} clips of {split}" for split, data in splits.items())
    lines = [table(task, results), "", f"{task.name}, {clips}; {', '.join(next(iter(splits.values())).stores)}."]
    lines.append(
        "Mean ± standard deviation over seeds. Each run's epoch was chosen on the validation split, which flatters its "
        "score there."
    )
    if options.missing:
        lines.append(
            f"One missing: {options.missing:.0%} of the clips lack one modality, the same one for every model."
        )
    return "\n".join(lines) + "\n"
