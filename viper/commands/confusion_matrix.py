"""confusion_matrix: how a checkpoint's predictions compare with the labels of a split."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from viper.commands.common import report_scores
from viper.commands.feature_options import FeatureOptions
from viper.errors import UserError
from viper.evaluation.split_report import build_report
from viper.logs import log
from viper.manifest import Manifest


@dataclass(kw_only=True)
class ConfusionOptions(FeatureOptions):
    """Confusion matrices and scores of a split: pictures, tables and JSON.

    For multi_label tasks precision-recall curves, for preference tasks histograms of utilities."""

    csv_path: Path
    """The manifest. Rows without labels are left out."""
    model_path: Path
    """A checkpoint folder, or a run (then its best)."""
    output_path: Path
    """Folder for the PNG, CSV and JSON files."""
    split: str = "Val"
    """Split to compare: Train, Val or Test."""
    batch_size: int = 64
    """Clips per batch. It does not change the predictions."""
    device: str = "auto"
    """Device of the model: auto, cpu, cuda, cuda:1, mps ..."""


def run(options: ConfusionOptions) -> int:
    """Write the report and return the exit code."""
    # Not above: importing torch takes seconds, and --help should not.
    from viper.engine.device import choose_device
    from viper.fusion.checkpoint import load_checkpoint, task_of
    from viper.inference.stored import data_for, predict

    if options.output_path.exists() and not options.output_path.is_dir():
        raise UserError(f"--output_path {options.output_path}: is a file; the report needs a folder")
    model = load_checkpoint(options.model_path)
    task = task_of(model)
    manifest = Manifest.load(options.csv_path, task, options.id_separator())
    data = data_for(model, options.stores(), manifest, options.split, labelled=True)
    predictions = predict(model, data, options.batch_size, choose_device(options.device))
    report = build_report(task, data.clips, predictions, data.truth)
    files = report.write(options.output_path)
    report_scores(report.scores, options.split)
    log.info("confusion_matrix: %d files in %s", len(files), options.output_path)
    return 0
