"""What a fusion learns from: the clips of a manifest with their features, the orders of a preference task, batches."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset

from viper.errors import NothingDoneError, UserError
from viper.files import digest_of
from viper.fingerprints import fingerprint
from viper.logs import log
from viper.manifest import SPLITS, Manifest
from viper.store import Feature, FeatureStore
from viper.training.group_standardization import GroupNormalization
from viper.training.packing import Features, StoredFeatures, find_pack, open_features, scan

NAMED_CLIPS = 5


@dataclass(frozen=True)
class Example:
    """One clip: the features it has, by modality, and its labels (targets,), NaN where it has none."""

    features: dict[str, Feature]
    labels: np.ndarray


class FusionData(Dataset[Example]):
    """The clips of a manifest with their features from several stores.

    Parameters
    ----------
    stores : modality -> store. A clip that has no file in one of them lacks that modality.
    manifest : the rows; their order is the order of the examples.
    groups : standardizes features within groups of clips; None: they are left as they are.
    pack : keep the features in memory-mapped packs (`viper.training.packing`), made when the first of them is needed.
        False writes nothing and, where a training has left no pack of these clips, reads the files: for a single pass.
    """

    def __init__(
        self,
        stores: Mapping[str, FeatureStore],
        manifest: Manifest,
        groups: GroupNormalization | None = None,
        pack: bool = True,
    ) -> None:
        self.stores = dict(stores)
        self.groups = groups
        self.clips = manifest.clips
        self.labels = manifest.labels
        self.orders = manifest.truth if manifest.task.kind == "preference" else None
        self._pack = pack
        self._split = "+".join(sorted(set(manifest.table[manifest.task.split_column])))
        self._states = {name: scan(store, self.clips) for name, store in self.stores.items()}
        self._present = {
            name: {clip for clip, state in zip(self.clips, states, strict=True) if state is not None}
            for name, states in self._states.items()
        }

    @cached_property
    def _features(self) -> dict[str, Features]:
        """Opened when first needed, so that a mistake in the options is reported before a long packing."""
        return {
            name: open_features(store, self.clips, self._states[name], self._split)
            if self._pack
            else find_pack(store, self.clips, self._states[name], self._split)
            or StoredFeatures(store, self.clips, self._states[name])
            for name, store in self.stores.items()
        }

    @property
    def truth(self) -> np.ndarray:
        """Return what predictions are scored against: labels (clips, targets), or orders (n, L) of a preference task,
        see `viper.manifest.order_rows`.
        """
        return self.labels if self.orders is None else self.orders

    def __len__(self) -> int:
        return len(self.clips)

    def __getitem__(self, index: int) -> Example:
        found = {name: features[index] for name, features in self._features.items()}
        present = {name: feature for name, feature in found.items() if feature is not None}
        if self.groups is not None:
            clip = self.clips[index]
            present = {name: self.groups(name, clip, feature) for name, feature in present.items()}
        return Example(present, self.labels[index])

    def without_any(self) -> list[str]:
        """Return the clips that have a file in none of the stores."""
        return [clip for clip in self.clips if not any(clip in present for present in self._present.values())]

    def report_missing(self, split: str) -> None:
        """Log, one line per modality, how many clips lack it; if no clip has any feature at all: NothingDoneError."""
        for name, present in self._present.items():
            missing = [clip for clip in self.clips if clip not in present]
            if missing:
                some = ", ".join(missing[:NAMED_CLIPS]) + (" ..." if len(missing) > NAMED_CLIPS else "")
                log.warning("%s: %d of %d clips have no %s features (%s)", split, len(missing), len(self), name, some)
        if len(self.without_any()) == len(self):
            folders = ", ".join(str(store.folder) for store in self.stores.values())
            raise NothingDoneError(
                f"no clip of the split {split} has features in {folders}: are the manifest's ids the files' names?"
            )

    def statistics(self) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
        """Return modality -> mean and standard deviation (D,) over all unmasked tokens, computed in float64."""
        found = {name: features.statistics() for name, features in self._features.items()}
        return {
            name: (torch.from_numpy(both[0]).float(), torch.from_numpy(both[1]).float())
            for name, both in found.items()
            if both is not None
        }

    def record(self, rows: Any) -> dict[str, Any]:
        """Return what a resumed training compares, JSON-ready: {"rows": digest, "features": {modality: digests}}.

        Parameters
        ----------
        rows : what else the training takes of these clips, in their order.
        """
        return {
            "rows": digest_of([self.clips, rows]),
            "features": {
                name: " ".join(_digest(store, clip) if clip in self._present[name] else "-" for clip in self.clips)
                for name, store in self.stores.items()
            },
        }

    def max_tokens(self) -> int:
        """Return the length of the longest feature, in tokens."""
        return max([1, *(features.longest() for features in self._features.values())])

    def collate(self, examples: Sequence[Example]) -> dict[str, Any]:
        """Return a batch for PerceiverFusion.forward: every modality padded to its longest clip, absent ones masked."""
        widths = {name: store.width for name, store in self.stores.items()}
        batch: dict[str, Any] = collate_features([example.features for example in examples], widths)
        batch["labels"] = torch.from_numpy(np.stack([example.labels for example in examples]))
        return batch


def _digest(store: FeatureStore, clip: str) -> str:
    """Return what tells a clip's feature from another one."""
    return fingerprint(store.path(clip))[:12]


def collate_features(
    clips: Sequence[Mapping[str, Feature]], widths: Mapping[str, int]
) -> dict[str, dict[str, torch.Tensor]]:
    """Return a batch of clips' features by modality: "tokens", "mask" and "time", each modality -> tensor.

    Every modality of `widths` (modality -> channels) is there, padded to its longest clip; what a clip lacks is masked.
    """
    batch: dict[str, dict[str, torch.Tensor]] = {"tokens": {}, "mask": {}, "time": {}}
    for name, width in widths.items():
        features = [clip.get(name) for clip in clips]
        length = max((len(feature.mask) for feature in features if feature), default=0)
        tokens = np.zeros((len(clips), length, width), np.float32)
        mask = np.zeros((len(clips), length), bool)
        time = np.zeros((len(clips), length), np.float32)
        for row, feature in enumerate(features):
            if feature:
                n = len(feature.mask)
                tokens[row, :n], mask[row, :n], time[row, :n] = feature.tokens, feature.mask, feature.time
        batch["tokens"][name] = torch.from_numpy(tokens)
        batch["mask"][name] = torch.from_numpy(mask)
        batch["time"][name] = torch.from_numpy(time)
    return batch


class OrderData(Dataset[np.ndarray]):
    """The orders of a preference task as examples; several of them share the clips of a batch.

    Parameters
    ----------
    data : the clips, with at least one order.
    """

    def __init__(self, data: FusionData) -> None:
        assert data.orders is not None
        self._data, self._orders = data, data.orders

    def __len__(self) -> int:
        return len(self._orders)

    def __getitem__(self, index: int) -> np.ndarray:
        return self._orders[index]

    def collate(self, orders: Sequence[np.ndarray]) -> dict[str, Any]:
        """Return a batch for PerceiverFusion.forward: the clips of B orders, once each, and `orders` (B, L)."""
        stacked = np.stack(orders)
        rows, positions = np.unique(stacked, return_inverse=True)
        n_padding = int(rows[0] < 0)  # -1, where some order is shorter, comes first
        batch = self._data.collate([self._data[int(row)] for row in rows[n_padding:]])
        del batch["labels"]  # a clip by itself has none
        return batch | {"orders": torch.from_numpy(positions.reshape(stacked.shape) - n_padding)}


@dataclass(frozen=True)
class TrainingData:
    """The splits of a manifest, with features; every seed is trained on the same."""

    manifest: Manifest
    training: FusionData
    validation: FusionData

    @classmethod
    def load(cls, manifest: Manifest, stores: dict[str, FeatureStore], group_column: str | None) -> TrainingData:
        """Return the labelled clips of Train and Val.

        Parameters
        ----------
        group_column : the manifest's column within whose groups features are standardized; None: they are not.

        Raises
        ------
        UserError : a split without labels or preferences, or whose preferences do not tell one epoch from another.
        NothingDoneError : no clip of a split has any feature.
        """
        groups = GroupNormalization(stores, manifest, group_column) if group_column is not None else None
        splits = []
        for split in ("Train", "Val"):
            splits.append(FusionData(stores, manifest.split(split).labelled(), groups))
            splits[-1].report_missing(split)
        _check_orders(splits[1], manifest)
        return cls(manifest, *splits)

    @cached_property
    def record(self) -> dict[str, Any]:
        """All that the training takes from its data, JSON-ready: a training that is resumed compares it.

        {"task": digest, "parts": {"Train": see `FusionData.record`, "Val": ...}}. Where features are standardized
        within groups, these have clips of every split: then all features are under a third part, "groups".
        """
        parts = {
            split: data.record(data.truth.astype(float).round(7).astype(str).tolist())
            for split, data in (("Train", self.training), ("Val", self.validation))
        }
        if (groups := self.training.groups) is not None:
            everyone = FusionData(self.training.stores, self.manifest, pack=False)
            parts = {split: {**part, "features": {}} for split, part in parts.items()}
            parts["groups"] = everyone.record([groups.group_of(clip) for clip in everyone.clips])
        return {"task": digest_of(self.manifest.task.to_dict()), "parts": parts}

    def counts(self) -> dict[str, Any]:
        """Return the rows of each split, JSON-ready: {"splits": {split: {"clips", "labelled", ...}}, "group_column"}.

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
