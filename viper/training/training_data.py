"""What train_perceiver learns from and what it validates on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from viper.errors import UserError
from viper.manifest import SPLITS, Manifest
from viper.store import FeatureStore

if TYPE_CHECKING:
    from viper.training.data import FusionData


@dataclass(frozen=True)
class TrainingData:
    """The splits of a manifest, with features; every seed is trained on the same."""

    manifest: Manifest
    training: FusionData
    validation: FusionData

    @classmethod
    def load(cls, manifest: Manifest, stores: dict[str, FeatureStore], group_column: str | None) -> TrainingData:
        """The labelled clips of Train and Val.

        Parameters
        ----------
        group_column : the manifest's column within whose groups features are standardised; None: they are not.

        Raises
        ------
        UserError : a split without labels or preferences, or whose preferences do not tell one epoch from another.
        NothingDoneError : no clip of a split has any feature.
        """
        # Not above: importing torch takes seconds, and --help should not.
        from viper.training.data import FusionData
        from viper.training.group_standardization import GroupNormalization

        groups = GroupNormalization(stores, manifest, group_column) if group_column is not None else None
        splits = []
        for split in ("Train", "Val"):
            splits.append(FusionData(stores, manifest.split(split).labelled(), groups))
            splits[-1].report_missing(split)
        _check_orders(splits[1], manifest)
        return cls(manifest, *splits)

    def counts(self) -> dict[str, Any]:
        """Rows of each split, JSON-ready: {"splits": {split: {"clips", "labelled", ...}}, "group_column"}.

        With "groups", how many of them there are, where the manifest has the task's group column; a preference task has
        "orders" (pairs and lists) and no labels.
        """
        task, table = self.manifest.task, self.manifest.table
        column = task.group_column if task.group_column in table.columns else None
        splits: dict[str, dict[str, int]] = {}
        for split in (name for name in SPLITS if (table[task.split_column] == name).any()):
            rows = self.manifest.split(split)
            splits[split] = {"clips": len(rows.clips)}
            if task.kind == "preference":
                splits[split]["orders"] = len(rows.orders)
            else:
                splits[split]["labelled"] = int((~np.isnan(rows.labels)).any(axis=1).sum())
            if column is not None:
                splits[split]["groups"] = int(rows.table[column].nunique())
        return {"splits": splits, "group_column": column}


def _check_orders(validation: FusionData, manifest: Manifest) -> None:
    if validation.orders is None:
        return
    metric, lengths = manifest.task.metrics[0], (validation.orders >= 0).sum(axis=1)
    what, n = ("pairs", sum(lengths == 2)) if metric == "pairwise_accuracy" else ("lists", sum(lengths > 2))
    if not n:
        raise UserError(
            f"{manifest.path}: the preferences of the split Val hold no {what}, and {metric} chooses the best epoch; "
            "add some, or put another metric first in a card of your own"
        )
