"""Which frames of a clip, and which stretches of its sound, are looked at."""

from __future__ import annotations

import numpy as np


def uniform_indices(n_frames: int, n: int) -> np.ndarray:
    """Rounded linspace(0, n_frames - 1, n) as int64, strictly increasing; all frames where there are fewer than `n`."""
    if n_frames <= n:
        return np.arange(n_frames)
    return np.rint(np.linspace(0, n_frames - 1, n)).astype(np.int64)


def window_bounds(length: int, n: int) -> np.ndarray:
    """n half-overlapping windows over `length` samples.

    Each is 2 * length / (n + 1) long and starts half of that after the one before, so that the first begins at 0 and
    the last ends at `length`. Window lengths are equal to the sample: they are cut to the shortest of the rounded ones.

    Returns
    -------
    (n, 2) int64: first sample, one past the last. Sound with fewer than n + 1 samples gives a single window.
    """
    if length < n + 1:
        return np.array([[0, length]])
    starts = np.rint(np.arange(n) * length / (n + 1)).astype(np.int64)
    width = min(int(np.floor(2 * length / (n + 1))), length - int(starts[-1]))
    return np.stack([starts, starts + width], axis=1)
