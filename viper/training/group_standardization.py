"""Features standardized within groups of clips: a subject's, a speaker's."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import torch

from viper.errors import UserError
from viper.fusion.layers import divisible
from viper.manifest import Manifest
from viper.store import Feature, FeatureStore
from viper.training.packing import Statistics, moments


class GroupNormalization:
    """Mean and standard deviation of every modality's channels within each group of a manifest's rows.

    They are computed over the unmasked tokens of all clips of the group, in whatever split: no label is used, but a
    clip's features then depend on the other clips of its group, which must be there at inference too.

    Parameters
    ----------
    stores : modality -> store.
    manifest : all rows, of every split.
    column : the manifest's column that names the group.

    Raises
    ------
    UserError : there is no such column, or a row names no group.
    """

    def __init__(self, stores: Mapping[str, FeatureStore], manifest: Manifest, column: str) -> None:
        if column not in manifest.table.columns:
            raise UserError(f"{manifest.path}: there is no column {column!r} to standardise within")
        groups = manifest.table[column].astype(str).str.strip()
        if (groups == "").any():
            clip = groups.index[int(np.flatnonzero(groups == "")[0])]
            raise UserError(
                f"{manifest.path}: the clip {clip!r} has an empty {column}; features are standardised by it"
            )
        self._group_of: dict[str, str] = dict(zip(manifest.clips, groups, strict=True))
        self._statistics = {name: self._of_store(store) for name, store in stores.items()}

    def _of_store(self, store: FeatureStore) -> dict[str, Statistics]:
        clips: dict[str, list[str]] = {}
        for clip, group in self._group_of.items():
            if clip in store:
                clips.setdefault(group, []).append(clip)
        found = {group: moments(_present_tokens(store, members)) for group, members in clips.items()}
        return {group: _divisible(*both) for group, both in found.items() if both is not None}

    def group_of(self, clip: str) -> str:
        """Return the name of a clip's group."""
        return self._group_of[clip]

    def __call__(self, name: str, clip: str, feature: Feature) -> Feature:
        """Return a clip's feature, standardized within its group; masked tokens stay zeros."""
        return _standardized(feature, self._statistics[name].get(self._group_of[clip]))


def standardize_together(clips: Sequence[Mapping[str, Feature]]) -> list[dict[str, Feature]]:
    """Return features of clips, by modality, standardized as one group of their own."""
    statistics: dict[str, Statistics] = {}
    for name in {name for clip in clips for name in clip}:
        found = moments(clip[name].tokens[clip[name].mask] for clip in clips if name in clip)
        if found is not None:
            statistics[name] = _divisible(*found)
    return [{name: _standardized(feature, statistics.get(name)) for name, feature in clip.items()} for clip in clips]


def _standardized(feature: Feature, statistics: Statistics | None) -> Feature:
    """Masked tokens stay zeros; so does all of it where not one token of the whole group is unmasked."""
    if statistics is None:
        return feature
    mean, deviation = statistics
    tokens = np.where(feature.mask[:, None], (feature.tokens - mean) / deviation, 0.0)
    return dataclasses.replace(feature, tokens=tokens.astype(np.float32))


def _present_tokens(store: FeatureStore, clips: Sequence[str]) -> Iterator[np.ndarray]:
    for clip in clips:
        feature = store.read(clip)
        yield feature.tokens[feature.mask]


def _divisible(mean: np.ndarray, std: np.ndarray) -> Statistics:
    return mean, divisible(torch.from_numpy(mean), torch.from_numpy(std)).numpy()
