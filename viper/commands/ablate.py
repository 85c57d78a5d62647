"""ablate: what each modality is worth, from one checkpoint."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from viper.commands.common import csv_cell
from viper.commands.feature_options import FeatureOptions
from viper.files import write_csv_records, write_json
from viper.logs import log, say, without_warnings
from viper.manifest import Manifest
from viper.store import FeatureStore
from viper.task import Task

if TYPE_CHECKING:
    from viper.evaluation.metrics import Scores
    from viper.inference.stored import Subset


@dataclass(kw_only=True)
class AblateOptions(FeatureOptions):
    """Score every subset of a checkpoint's modalities, without training anything."""

    csv_path: Path
    """The manifest. Rows without labels are left out."""
    model_path: Path
    """A checkpoint folder, or a run (then its best)."""
    output_path: Path
    """Folder that gets ablation.csv, ablation.json and ablation.png."""
    split: str = "Val"
    """Which split is scored: Train, Val or Test."""
    every_subset: bool = False
    """Every subset of more than 6 modalities, too; otherwise single ones, all but one, and all."""
    batch_size: int = 64
    """Clips at once. It does not change the predictions."""
    device: str = "auto"
    """Where the model runs: auto, cpu, cuda, cuda:1, mps ..."""


def run(options: AblateOptions) -> int:
    """Run the stage; return the exit code."""
    # Not above: importing torch takes seconds, and --help should not.
    from viper.engine.device import choose_device
    from viper.evaluation.metrics import evaluate
    from viper.fusion.checkpoint import load_checkpoint, task_of
    from viper.inference.stored import data_for, predict_views, subsets_of, views_of

    model = load_checkpoint(options.model_path)
    task = task_of(model)
    stores = options.stores()
    manifest = Manifest.load(options.csv_path, task, options.id_separator())
    data = data_for(model, stores, manifest, options.split, labelled=True)
    subsets = subsets_of(list(stores), options.every_subset)
    views = views_of(subsets, data)
    predictions = predict_views(model, data, views, options.batch_size, choose_device(options.device))
    with without_warnings():
        scores = {subset: evaluate(task, predictions[subset], data.truth) for subset in subsets}
    lacking = {name: [clip for clip in data.clips if clip not in store] for name, store in stores.items()}
    _write(options, task, stores, scores, lacking)
    _print(task, scores)
    log.info("ablate: %d subsets on %d clips of %s -> %s", len(scores), len(data.clips), options.split,
             options.output_path)  # fmt: skip
    return 0


def _write(
    options: AblateOptions,
    task: Task,
    stores: Mapping[str, FeatureStore],
    scores: Mapping[Subset, Scores],
    lacking: Mapping[str, list[str]],
) -> None:
    from viper.evaluation.drawing import bar_figure, save_png
    from viper.evaluation.metrics import METRICS

    folder = options.output_path
    rows = [{name: int(name in subset) for name in stores} | flatten(each) for subset, each in scores.items()]
    write_csv_records(folder / "ablation.csv", rows)
    write_json(
        folder / "ablation.json",
        {
            "model": str(options.model_path),
            "task": task.name,
            "split": options.split,
            "metric": task.metrics[0],
            "clips_without": lacking,
            "subsets": [{"modalities": list(subset), **each.to_dict()} for subset, each in scores.items()],
        },
    )
    metric = METRICS[task.metrics[0]]
    best_first = _best_first(task, scores)
    n_clips = next(iter(scores.values())).n_clips
    figure = bar_figure(
        [" + ".join(subset) for subset in best_first],
        [scores[subset].mean(task.metrics[0]).value for subset in best_first],
        title=f"{metric.title} with each subset of the modalities",
        caption=f"one checkpoint, {n_clips:,} clips of {options.split}",
        emphasised=best_first.index(max(scores, key=len)),
    )
    save_png(figure, folder / "ablation.png")


def flatten(scores: Scores) -> dict[str, Any]:
    """Return a row of a table: n, each metric over all targets and of each target; empty where it has no value."""
    row: dict[str, Any] = {"n": scores.n_clips}
    row |= {metric: csv_cell(score.value) for metric, score in scores.together.items()}
    return row | {
        f"{metric}_{target}": csv_cell(score.value)
        for metric, each in scores.targets.items()
        for target, score in each.items()
    }


def _best_first(task: Task, scores: Mapping[Subset, Scores]) -> list[Subset]:
    from viper.evaluation.metrics import METRICS

    metric = task.metrics[0]
    return sorted(
        scores,
        key=lambda subset: scores[subset].selection_value(metric),
        reverse=METRICS[metric].direction == "maximise",
    )


def _print(task: Task, scores: Mapping[Subset, Scores]) -> None:
    import pandas as pd

    metric = task.metrics[0]
    rows = {}
    for subset in _best_first(task, scores):
        per_target = {target: score.value for target, score in scores[subset].targets.get(metric, {}).items()}
        rows[" + ".join(subset)] = {metric: scores[subset].mean(metric).value, **per_target}
    table = pd.DataFrame.from_dict(rows, orient="index")
    say(*table.to_string(float_format=lambda value: f"{value:.3f}", na_rep="-").split("\n"))
