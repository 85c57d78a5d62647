"""The inference loop: what a model answers for clips whose features are stored, once or with modalities hidden."""

from __future__ import annotations

import itertools
from collections.abc import Hashable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np
import torch
from torch.utils.data import DataLoader

from viper.fusion.checkpoint import check_stores
from viper.fusion.perceiver import PerceiverFusion
from viper.logs import log
from viper.manifest import Manifest
from viper.store import FeatureStore
from viper.training.data import NAMED_CLIPS, FusionData
from viper.training.group_standardization import GroupNormalization

View = TypeVar("View", bound=Hashable)
Subset = tuple[str, ...]
Inputs = dict[str, dict[str, torch.Tensor]]  # "tokens", "mask" and "time", each by modality
MAX_EVERY_SUBSET = 6  # modalities; 63 subsets


def data_for(
    model: PerceiverFusion, stores: dict[str, FeatureStore], manifest: Manifest, split: str, labelled: bool = False
) -> FusionData:
    """Return a split's features as a model wants them; features it cannot read are a UserError.

    Parameters
    ----------
    manifest : all rows. A model that standardizes within groups needs the clips of a group in every split.
    labelled : leave out the rows without any label or preference; a split without any labelled row is a UserError.
    """
    check_stores(model, stores)
    rows = manifest.split(split)
    if labelled:
        rows = rows.labelled()
    column = model.config.group_column
    if column is None:
        data = FusionData(stores, rows, pack=False)
    else:
        log.info("features are standardised within %s: a prediction depends on the other clips of its group", column)
        data = FusionData(stores, rows, GroupNormalization(stores, manifest, column), pack=False)
    data.report_missing(split)
    return data


def predict(model: PerceiverFusion, data: FusionData, batch_size: int, device: torch.device) -> np.ndarray:
    """Return (clips, targets) float32, in the order of `data`; the model is left on `device`, in eval mode.

    A clip with no features at all gets the answer of the learned queries alone, and is named in a warning.
    """
    without = data.without_any()
    if without:
        some = ", ".join(without[:NAMED_CLIPS]) + (" ..." if len(without) > NAMED_CLIPS else "")
        log.warning("%d clips have no features at all and get the same answer: %s", len(without), some)
    network = ready(model, device)
    return np.concatenate([answers(network, inputs) for inputs in batches(data, batch_size, device)])


def predict_views(
    model: PerceiverFusion,
    data: FusionData,
    views: Mapping[View, np.ndarray],
    batch_size: int,
    device: torch.device,
    rows: Sequence[int] | None = None,
) -> dict[View, np.ndarray]:
    """Predict every clip once per view, reading its features once.

    Parameters
    ----------
    views : name -> bool (clips, modalities), True where a clip's modality may be seen; clips as in `data` (or in
        `rows`), modalities in the order of `data.stores`.
    rows : the clips of `data` to predict; None: all of them.

    Returns
    -------
    Name -> (clips, targets) float32, in the order of `data` (or of `rows`).
    """
    network = ready(model, device)
    found: dict[View, list[np.ndarray]] = {name: [] for name in views}
    start = 0
    for inputs in batches(data, batch_size, device, rows):
        n_clips = len(next(iter(inputs["mask"].values())))
        for view, seen in views.items():
            found[view].append(answers(network, _hide(inputs, seen[start : start + n_clips])))
        start += n_clips
    return {view: np.concatenate(parts) for view, parts in found.items()}


def subsets_of(names: Sequence[str], every_subset: bool = False) -> list[Subset]:
    """Return the non-empty subsets, smallest first, each in the order of `names`.

    With more than `MAX_EVERY_SUBSET` names, unless `every_subset`: single ones, all but one, and all.
    """
    sizes: Sequence[int] = range(1, len(names) + 1)
    if len(names) > MAX_EVERY_SUBSET and not every_subset:
        sizes = (1, len(names) - 1, len(names))
    return [subset for size in sizes for subset in itertools.combinations(names, size)]


def views_of(subsets: Sequence[Subset], data: FusionData, n: int | None = None) -> dict[Subset, np.ndarray]:
    """Return subset -> the view of `n` clips (default: all) that shows the subset's modalities and no others."""
    n = len(data) if n is None else n
    return {subset: np.tile([name in subset for name in data.stores], (n, 1)) for subset in subsets}


def ready(model: PerceiverFusion, device: torch.device) -> Any:
    """Move a model to a device, in eval mode."""
    network: torch.nn.Module = model
    return network.to(device).eval()


def batches(
    data: FusionData, batch_size: int, device: torch.device, rows: Sequence[int] | None = None
) -> Iterator[Inputs]:
    """Yield the inputs of a model for all clips (or those of `rows`), in order, on the device."""
    for batch in DataLoader(data, batch_size=batch_size, sampler=rows, collate_fn=data.collate):
        yield on_device(batch, device)


def on_device(batch: Mapping[str, Any], device: torch.device) -> Inputs:
    """Return the inputs of a collated batch on a device; labels are left behind."""
    return {kind: {name: x.to(device) for name, x in batch[kind].items()} for kind in ("tokens", "mask", "time")}


@torch.inference_mode()
def answers(network: Any, inputs: Inputs) -> np.ndarray:
    """Return a batch's predictions, (clips, targets) float32."""
    predicted: np.ndarray = network(**inputs).logits.float().cpu().numpy()
    return predicted


def _hide(inputs: Inputs, seen: np.ndarray) -> Inputs:
    """Mask the modalities of a batch where they may not be seen; leave out one that no clip may see."""
    columns = dict(zip(inputs["mask"], torch.from_numpy(seen.T.copy()), strict=True))
    # A batch has to have a modality, be it masked for every clip.
    names = [name for name, column in columns.items() if column.any()] or list(columns)[:1]
    masks = {name: inputs["mask"][name] & columns[name].to(inputs["mask"][name].device)[:, None] for name in names}
    return {
        "tokens": {name: inputs["tokens"][name] for name in names},
        "mask": masks,
        "time": {name: inputs["time"][name] for name in names},
    }
