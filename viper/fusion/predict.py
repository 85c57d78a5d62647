"""Predictions of a trained model for the clips of a manifest."""

from __future__ import annotations

import logging

import numpy as np
import torch
from torch.utils.data import DataLoader

from viper.fusion.data import NAMED_CLIPS, FusionData
from viper.fusion.perceiver import PerceiverFusion

log = logging.getLogger("viper")


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
