"""ensemble: one CSV of predictions out of several."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from viper.commands.common import report_scores
from viper.errors import UserError
from viper.evaluation.submission import submission_path, write_submission
from viper.files import write_json
from viper.logs import log
from viper.manifest import Manifest
from viper.task import Task, load_task

if TYPE_CHECKING:
    import numpy as np


@dataclass(kw_only=True)
class EnsembleOptions:
    """Average prediction CSVs joined by id, evenly or with weights fitted on the validation labels."""

    predictions: list[Path]
    """CSVs of submission_creation, all for the same clips."""
    output_path: Path
    """Where the average is written: a .csv file, or a folder that gets a submission.csv. A .json goes beside it."""
    task: str = "hume_reaction"
    """The task: a card's name or path."""
    csv_path: Path | None = None
    """The manifest; weights are fitted on its validation labels."""
    validation_predictions: list[Path] = field(default_factory=list)
    """The same models' predictions of the validation split (submission_creation --split Val), in the same order."""


def run(options: EnsembleOptions) -> int:
    """Run the stage; return the exit code."""
    # Not above: scipy takes a second to import, and --help should not.
    from viper.evaluation.ensemble import combine, equal_weights, read_members

    task = load_task(options.task)
    _check(options, task)
    path = submission_path(options.output_path)
    _, file_ids, predicted = read_members(options.predictions, task)
    weights = equal_weights(len(options.predictions), len(task.targets))
    validation: dict[str, Any] | None = None
    if options.csv_path is not None:
        weights, validation = _fit(options, task, options.csv_path)
    write_submission(path, task, file_ids, combine(predicted, weights))
    described: dict[str, Any] = {
        "task": task.name,
        "n_clips": len(file_ids),
        "members": [str(member) for member in options.predictions],
        "weights": {target: [float(weight) for weight in weights[:, k]] for k, target in enumerate(task.targets)},
        "validation": validation,
    }
    write_json(path.with_suffix(".json"), described)
    for target, shares in described["weights"].items():
        log.info("  %-20s %s", target, "  ".join(f"{share:.3f}" for share in shares))
    log.info("ensemble: %d clips, the average of %d -> %s", len(file_ids), len(predicted), path)
    return 0


def _check(options: EnsembleOptions, task: Task) -> None:
    if len(options.predictions) < 2:
        raise UserError("--predictions: an ensemble has at least two members")
    for option, paths in (
        ("--predictions", options.predictions),
        ("--validation_predictions", options.validation_predictions),
    ):
        for path in paths:
            if paths.count(path) > 1:
                raise UserError(f"{option} {path}: given twice")
    if options.csv_path is not None and task.kind == "preference":
        raise UserError(f"--csv_path: the weights of {task.name} cannot be fitted, utilities are only averaged")
    if (options.csv_path is None) != (not options.validation_predictions):
        raise UserError("fitted weights need both --csv_path and --validation_predictions")
    n, n_validation = len(options.predictions), len(options.validation_predictions)
    if n_validation and n_validation != n:
        raise UserError(f"--validation_predictions: {n_validation} files for {n} in --predictions; one each, in order")


def _fit(options: EnsembleOptions, task: Task, csv_path: Path) -> tuple[np.ndarray, dict[str, Any]]:
    """Return weights (members, targets), and what the JSON says about the validation split."""
    from viper.evaluation.ensemble import check_same_clips, combine, cross_validated, fit_weights, read_members
    from viper.evaluation.metrics import evaluate

    manifest = Manifest.load(csv_path, task).split("Val")
    clips, _, predicted = read_members(options.validation_predictions, task)
    check_same_clips(manifest.clips, f"{csv_path} (Val)", clips, str(options.validation_predictions[0]))
    # In one order, whatever that of the files, so that the folds and the numbers are the same.
    order = sorted(range(len(clips)), key=lambda i: clips[i])
    predicted = predicted[:, order]
    true = manifest.table.loc[[clips[i] for i in order], list(task.targets)].to_numpy(float)
    manifest.labelled()  # a split without any label has nothing to fit weights on
    weights = fit_weights(task, predicted, true)
    members = {str(path): evaluate(task, p, true) for path, p in zip(options.predictions, predicted, strict=True)}
    scores = evaluate(task, combine(predicted, weights), true)
    held_out = evaluate(task, cross_validated(task, predicted, true), true)
    metric = task.metrics[0]
    for name, member in members.items():
        log.info("  validation %s %.4f  %s", metric, member.selection_value(metric), name)
    log.info("  validation %s %.4f  the ensemble (%.4f with each clip's weights fitted without it)", metric,
             scores.selection_value(metric), held_out.selection_value(metric))  # fmt: skip
    report_scores(scores, "Val")
    return weights, {
        "members": {name: member.to_dict() for name, member in members.items()},
        "ensemble": scores.to_dict(),
        "ensemble_cross_validated": held_out.to_dict(),
    }
