"""Batches of orders for preference tasks: pairs and lists of clips, each clip of a batch read and computed once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset

from viper.training.data import FusionData


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
        """A batch for PerceiverFusion.forward: the different clips of B orders, and `orders` (B, L), rows of them."""
        stacked = np.stack(orders)
        rows, positions = np.unique(stacked, return_inverse=True)
        n_padding = int(rows[0] < 0)  # -1, where some order is shorter, comes first
        batch = self._data.collate([self._data[int(row)] for row in rows[n_padding:]])
        del batch["labels"]  # a clip by itself has none
        return batch | {"orders": torch.from_numpy(positions.reshape(stacked.shape) - n_padding)}
