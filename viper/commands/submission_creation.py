"""submission_creation: a checkpoint's predictions for a split, as the organisers want them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from viper.commands.feature_options import FeatureOptions
from viper.evaluation.submission import submission_path, write_submission
from viper.logs import log
from viper.manifest import Manifest


@dataclass(kw_only=True)
class SubmissionOptions(FeatureOptions):
    """Predict a split and write the submission. Any subset of the checkpoint's modalities works."""

    csv_path: Path
    """The manifest. Every row of the split is predicted exactly once."""
    model_path: Path
    """A checkpoint folder, or a run (then its best)."""
    output_path: Path = Path("submissions/submission.csv")
    """The submission: a .csv file, or a folder for submission.csv."""
    split: str = "Test"
    """Split to predict: Train, Val or Test."""
    batch_size: int = 64
    """Clips per batch. It does not change the predictions."""
    device: str = "auto"
    """Device of the model: auto, cpu, cuda, cuda:1, mps ..."""


def run(options: SubmissionOptions) -> int:
    """Write the submission and return the exit code."""
    # Not above: importing torch takes seconds, and --help should not.
    from viper.engine.device import choose_device
    from viper.fusion.checkpoint import load_checkpoint, task_of
    from viper.inference.stored import data_for, predict

    path = submission_path(options.output_path)
    model = load_checkpoint(options.model_path)
    task = task_of(model)
    manifest = Manifest.load(options.csv_path, task, options.id_separator())
    stores = options.stores()
    data = data_for(model, stores, manifest, options.split)
    predictions = predict(model, data, options.batch_size, choose_device(options.device))
    write_submission(path, task, manifest.split(options.split).file_ids, predictions)
    log.info("submission_creation: %d clips of %s from %s -> %s", len(data), options.split, ", ".join(stores), path)
    return 0
