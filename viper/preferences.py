"""Preferences: which of two clips, or in which order of several, people put them; the file beside a manifest."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

Order = tuple[str, ...]
"""Clip ids from the least to the most preferred; a pair is an order of two."""


def preferences_path(manifest: Path) -> Path:
    """Where the preferences of a manifest stand: clips.csv has them in clips_preferences.csv beside it."""
    return manifest.with_name(f"{manifest.stem}_preferences.csv")


def order_rows(orders: Sequence[Order], clips: Sequence[str]) -> np.ndarray:
    """Orders as rows of clips.

    Returns
    -------
    (len(orders), L) int64: positions in `clips` from the least to the most preferred; -1 fills up shorter orders.
    """
    row = {clip: index for index, clip in enumerate(clips)}
    rows = np.full((len(orders), max((len(order) for order in orders), default=2)), -1, np.int64)
    for index, order in enumerate(orders):
        rows[index, : len(order)] = [row[clip] for clip in order]
    return rows


def all_pairs(orders: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Every pair that orders (n, L) imply: the less preferred clips and the more preferred ones, both (pairs,)."""
    first, second = np.triu_indices(orders.shape[1], k=1)
    less, more = orders[:, first].ravel(), orders[:, second].ravel()
    known = more >= 0
    return less[known], more[known]
