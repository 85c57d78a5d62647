"""Predictions of one model with modalities hidden, several ways in one reading of the features."""

from __future__ import annotations

import itertools
from collections.abc import Hashable, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np
import torch
from torch.utils.data import DataLoader

from viper.fusion.perceiver import PerceiverFusion
from viper.training.data import FusionData

View = TypeVar("View", bound=Hashable)
Subset = tuple[str, ...]
MAX_EVERY_SUBSET = 6  # modalities; 63 subsets


def subsets_of(names: Sequence[str], every_subset: bool = False) -> list[Subset]:
    """Non-empty subsets, smallest first, each in the order of `names`.

    Of more than `MAX_EVERY_SUBSET` names, unless `every_subset`: single ones, all but one, and all.
    """
    sizes: Sequence[int] = range(1, len(names) + 1)
    if len(names) > MAX_EVERY_SUBSET and not every_subset:
        sizes = (1, len(names) - 1, len(names))
    return [subset for size in sizes for subset in itertools.combinations(names, size)]


def views_of(subsets: Sequence[Subset], data: FusionData, n: int | None = None) -> dict[Subset, np.ndarray]:
    """Subset -> what `predict_views` shows of `n` clips (of all): the subset's modalities, and no others."""
    n = len(data) if n is None else n
    return {subset: np.tile([name in subset for name in data.stores], (n, 1)) for subset in subsets}


@torch.inference_mode()
def predict_views(
    model: PerceiverFusion,
    data: FusionData,
    views: Mapping[View, np.ndarray],
    batch_size: int,
    device: torch.device,
    rows: Sequence[int] | None = None,
) -> dict[View, np.ndarray]:
    """Predicts every clip once per view, reading its features once.

    Parameters
    ----------
    views : name -> bool (clips, modalities), True where a clip's modality may be seen; clips as in `data` (or in
        `rows`), modalities in the order of `data.stores`.
    rows : of `data`, which clips are predicted; None: all of them.

    Returns
    -------
    Name -> (clips, targets) float32, in the order of `data` (or of `rows`).
    """
    network: torch.nn.Module = model
    network.to(device).eval()
    found: dict[View, list[np.ndarray]] = {name: [] for name in views}
    start = 0
    for batch in DataLoader(data, batch_size=batch_size, sampler=rows, collate_fn=data.collate):
        inputs = {kind: {name: x.to(device) for name, x in batch[kind].items()} for kind in ("tokens", "mask", "time")}
        n_clips = len(next(iter(inputs["mask"].values())))
        for view, seen in views.items():
            hidden = _hide(inputs, seen[start : start + n_clips])
            found[view].append(network(**hidden).logits.float().cpu().numpy())
        start += n_clips
    return {view: np.concatenate(parts) for view, parts in found.items()}


def _hide(inputs: dict[str, dict[str, torch.Tensor]], seen: np.ndarray) -> dict[str, dict[str, Any]]:
    """A batch with its modalities masked where they may not be seen; one that no clip may see is left out."""
    columns = dict(zip(inputs["mask"], torch.from_numpy(seen.T.copy()), strict=True))
    # A batch has to have a modality, be it masked for every clip.
    names = [name for name, column in columns.items() if column.any()] or list(columns)[:1]
    masks = {name: inputs["mask"][name] & columns[name].to(inputs["mask"][name].device)[:, None] for name in names}
    return {
        "tokens": {name: inputs["tokens"][name] for name in names},
        "mask": masks,
        "time": {name: inputs["time"][name] for name in names},
    }
