"""Predictions of a trained model for the clips of a manifest."""

from __future__ import annotations

import logging

import numpy as np
import torch
from torch.utils.data import DataLoader

from viper.fusion.checkpoint import check_stores
from viper.fusion.perceiver import PerceiverFusion
from viper.manifest import Manifest
from viper.store import FeatureStore
from viper.training.data import NAMED_CLIPS, FusionData
from viper.training.group_standardization import GroupNormalization

log = logging.getLogger("viper")


def data_for(
    model: PerceiverFusion, stores: dict[str, FeatureStore], manifest: Manifest, split: str, labelled: bool = False
) -> FusionData:
    """A split's features as a model wants them; what it cannot read is a UserError.

    Parameters
    ----------
    manifest : all rows. A model that standardises within groups needs the clips of a group in every split.
    labelled : leave out the rows without any label or preference; a split of no other rows is a UserError.
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


@torch.inference_mode()
def predict(model: PerceiverFusion, data: FusionData, batch_size: int, device: torch.device) -> np.ndarray:
    """(clips, targets) float32, in the order of `data`.

    A clip with no features at all gets the answer of the learned queries alone, and is named in a warning.
    """
    without = data.without_any()
    if without:
        some = ", ".join(without[:NAMED_CLIPS]) + (" ..." if len(without) > NAMED_CLIPS else "")
        log.warning("%d clips have no features at all and get the same answer: %s", len(without), some)
    network: torch.nn.Module = model
    network.to(device).eval()
    rows = []
    for batch in DataLoader(data, batch_size=batch_size, collate_fn=data.collate):
        inputs = {kind: {name: x.to(device) for name, x in batch[kind].items()} for kind in ("tokens", "mask", "time")}
        rows.append(network(**inputs).logits.float().cpu().numpy())
    return np.concatenate(rows)
