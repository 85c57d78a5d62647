"""From feature stores and a manifest to batches for the fusion model."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset

from viper.errors import NothingDoneError
from viper.fusion.groups import GroupNormalization
from viper.manifest import Manifest
from viper.store import Feature, FeatureStore

log = logging.getLogger("viper")

# Features up to this size in all are kept in memory once read.
MAX_CACHED_BYTES = 4 << 30
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
    groups : standardises features within groups of clips; None: they are left as they are.
    """

    def __init__(
        self, stores: Mapping[str, FeatureStore], manifest: Manifest, groups: GroupNormalization | None = None
    ) -> None:
        self.stores = dict(stores)
        self.groups = groups
        self.clips = manifest.clips
        self.labels = manifest.labels
        self._present = {name: {clip for clip in self.clips if clip in store} for name, store in self.stores.items()}
        self._cache: dict[int, Example] = {}
        self._cached_bytes = 0

    def __len__(self) -> int:
        return len(self.clips)

    def __getitem__(self, index: int) -> Example:
        if index in self._cache:
            return self._cache[index]
        clip = self.clips[index]
        features = {name: store.read(clip) for name, store in self.stores.items() if clip in self._present[name]}
        if self.groups is not None:
            features = {name: self.groups(name, clip, feature) for name, feature in features.items()}
        example = Example(features, self.labels[index])
        self._cached_bytes += sum(feature.tokens.nbytes for feature in features.values())
        if self._cached_bytes <= MAX_CACHED_BYTES:
            self._cache[index] = example
        return example

    def without_any(self) -> list[str]:
        """Clips that have a file in none of the stores."""
        return [clip for clip in self.clips if not any(clip in present for present in self._present.values())]

    def report_missing(self, split: str) -> None:
        """Says, a line a modality, how many clips lack it. No clip with any feature at all is a NothingDoneError."""
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
        """Modality -> mean and standard deviation (D,) over the unmasked tokens of all clips, computed in float64."""
        statistics = {}
        for name, store in self.stores.items():
            count, total, squares = 0, np.zeros(store.width), np.zeros(store.width)
            for index in range(len(self)):
                feature = self[index].features.get(name)
                if feature is not None:
                    tokens = feature.tokens[feature.mask].astype(np.float64)
                    count += len(tokens)
                    total += tokens.sum(axis=0)
                    squares += np.square(tokens).sum(axis=0)
            if count:
                mean = total / count
                deviation = np.sqrt(np.maximum(squares / count - mean**2, 0))
                statistics[name] = (torch.from_numpy(mean).float(), torch.from_numpy(deviation).float())
        return statistics

    def max_tokens(self) -> int:
        """The longest feature of any clip, in tokens."""
        lengths = (len(f.mask) for i in range(len(self)) for f in self[i].features.values())
        return max(lengths, default=1)

    def collate(self, examples: Sequence[Example]) -> dict[str, Any]:
        """A batch for PerceiverFusion.forward: every modality padded to its longest clip, absent ones masked."""
        batch: dict[str, Any] = {"tokens": {}, "mask": {}, "time": {}}
        for name, store in self.stores.items():
            features = [example.features.get(name) for example in examples]
            length = max((len(feature.mask) for feature in features if feature), default=0)
            tokens = np.zeros((len(examples), length, store.width), np.float32)
            mask = np.zeros((len(examples), length), bool)
            time = np.zeros((len(examples), length), np.float32)
            for row, feature in enumerate(features):
                if feature:
                    n = len(feature.mask)
                    tokens[row, :n], mask[row, :n], time[row, :n] = feature.tokens, feature.mask, feature.time
            batch["tokens"][name] = torch.from_numpy(tokens)
            batch["mask"][name] = torch.from_numpy(mask)
            batch["time"][name] = torch.from_numpy(time)
        batch["labels"] = torch.from_numpy(np.stack([example.labels for example in examples]))
        return batch
