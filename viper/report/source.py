"""A run that a report is made of: its checkpoint, its manifest and its features."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from viper.files import read_json
from viper.fusion.perceiver import PerceiverFusion
from viper.inference.stored import data_for
from viper.manifest import Manifest
from viper.store import FeatureStore
from viper.task import Task
from viper.training.data import FusionData


@dataclass(frozen=True)
class RunSource:
    """A run that can be predicted with.

    Attributes
    ----------
    name : the run as it was given.
    folder : the run's, in which config.yaml and metrics.csv are.
    checkpoint : resolved, so that it names the epoch.
    card : the content of config.yaml; empty where there is none.
    settings : of its options those that decide what comes out.
    manifest : all rows.
    """

    name: str
    folder: Path
    checkpoint: Path
    card: dict[str, Any]
    settings: dict[str, Any]
    model: PerceiverFusion
    task: Task
    manifest: Manifest
    stores: dict[str, FeatureStore]

    @property
    def epoch(self) -> int | None:
        """That of the checkpoint; None where neither its name nor the run's summary says it."""
        if match := re.fullmatch(r"perceiver_(\d+)", self.checkpoint.name):
            return int(match[1])
        summary = self.folder / "summary.json"
        return read_json(summary)["best_epoch"].get(self.task.metrics[0]) if summary.is_file() else None

    def data(self, split: str) -> FusionData:
        """The split's clips that have labels, with their features."""
        return data_for(self.model, self.stores, self.manifest, split, labelled=True)
