"""What the records of a run say, read back: of the kinds that a training writes, or a UserError names the file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from viper.errors import UserError, one_line
from viper.evaluation.metrics import METRICS, Scores
from viper.files import read_json, read_yaml
from viper.store import MODALITIES
from viper.task import Task

CONFIG_FILE = "config.yaml"
SUMMARY_FILE = "summary.json"
_TEXTS = ("csv_path", *(f"{name}_features_input_folder" for name in MODALITIES))


def read_card(run: Path) -> dict[str, Any]:
    """Return a run's config.yaml, see `viper.training.run_folder.describe`; what is missing is empty.

    Of its options, paths are text or None and `features` is a list of NAME=FOLDER; the others may be of any kind.
    """
    path = run / CONFIG_FILE
    card = read_yaml(path, "the record of a run")
    if not isinstance(card, dict):
        raise _wrong(path, "is not a mapping")
    empty: dict[str, Any] = {"command": "", "options": {}, "encoders": {}, "versions": {}, "git_revision": None}
    card = empty | card
    kinds = {"command": str, "options": dict, "encoders": dict, "versions": dict, "git_revision": str | None}
    for name, kind in kinds.items():
        if not isinstance(card[name], kind):
            raise _wrong(path, f"{name} is {card[name]!r}")
    options = card["options"]
    for name in _TEXTS:
        if not isinstance(options.get(name), str | None):
            raise _wrong(path, f"{name} is {options[name]!r}")
    features = options.get("features") or []
    if not isinstance(features, list) or not all(isinstance(pair, str) and "=" in pair for pair in features):
        raise _wrong(path, f"features is {features!r}")
    return card


def _wrong(path: Path, problem: str) -> UserError:
    return UserError(f"{path}: does not describe a run ({one_line(problem)}); train_perceiver writes it")


@dataclass(frozen=True)
class Summary:
    """How a training ended.

    Attributes
    ----------
    best_epoch : metric -> epoch.
    scores : of the best epoch by the task's first metric, on the validation split.
    best_checkpoint : a fingerprint of its checkpoint; None where an older version did not write it.
    """

    best_epoch: dict[str, int]
    scores: Scores
    best_checkpoint: str | None = None


def summary_record(best_epoch: Mapping[str, int], scores: Scores) -> dict[str, Any]:
    """Return the content of summary.json."""
    return {"best_epoch": dict(best_epoch), **scores.to_dict()}


def read_summary(run: Path, task: Task) -> Summary:
    """Return a run's summary.json; one that lacks a metric or target of the task is a UserError."""
    path = run / SUMMARY_FILE
    record = read_json(path)
    try:
        summary = Summary(record["best_epoch"], Scores.from_dict(record), record.get("best_checkpoint"))
        if not all(type(epoch) is int for epoch in summary.best_epoch.values()):
            raise ValueError("best_epoch")
        for metric in task.metrics:
            summary.scores.together[metric]
            if METRICS[metric].per_target is not None and list(summary.scores.targets[metric]) != list(task.targets):
                raise ValueError(f"the targets of {metric}")
    except (AttributeError, LookupError, TypeError, ValueError) as error:
        raise UserError(f"{path}: is not the summary of a training on {task.name} ({one_line(str(error))})") from error
    return summary
