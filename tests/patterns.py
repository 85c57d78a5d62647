"""Pictures and sound whose measures without weights follow given levels: what a miniature's clips show and play."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

SIDE = 96
N_ROWS, N_COLUMNS = 8, 4
MAX_LEVELS = N_ROWS * N_COLUMNS
FPS = 10
RATE = 16000
_PERIOD = 6  # pixels a stripe and its gap take
_CONTRAST = 80
_GRAIN = 3.0  # standard deviation of the pixels' noise
_LOWEST, _STEP = 250.0, 1.7  # Hz of the first tone; each further one is higher by this factor
_SLICES = 20  # into which a sound is cut; a tone is on or off in each


def stripe_frames(levels: Sequence[float], n_frames: int, rng: np.random.Generator) -> Iterator[NDArray[np.uint8]]:
    """n_frames pictures (96, 96, 3) uint8 of 8 x 4 patches of stripes, upright or level.

    Patches k, k + K, k + 2K ... belong to the k-th of K levels, each in [0, 1]: they are upright in that share of the
    frames and level in the others. Histograms of oriented gradients normalise contrast away, but not direction, and
    their mean over the frames of a clip is linear in the levels. Raises ValueError for more than 32 levels.
    """
    if not 0 < len(levels) <= MAX_LEVELS:
        raise ValueError(f"{len(levels)} levels; a picture shows 1 to {MAX_LEVELS}")
    across, down = np.meshgrid(np.arange(SIDE), np.arange(SIDE))
    upright, level = across % _PERIOD < _PERIOD // 2, down % _PERIOD < _PERIOD // 2
    owner, rank = np.arange(MAX_LEVELS) % len(levels), np.arange(MAX_LEVELS) // len(levels)
    shares = np.asarray(levels)[owner]
    # A level's patches begin a part of a frame after one another: together they show more than n_frames + 1 values.
    phases = rng.uniform(size=len(levels))[owner] + rank / (MAX_LEVELS / len(levels)) / n_frames
    for number in range(n_frames):
        patches = ((number / n_frames + phases) % 1 < shares).reshape(N_ROWS, N_COLUMNS)
        mask = np.repeat(np.repeat(patches, SIDE // N_ROWS, axis=0), SIDE // N_COLUMNS, axis=1)
        grey = 128 + _CONTRAST * np.where(np.where(mask, upright, level), 1.0, -1.0)
        grey += rng.normal(0, _GRAIN, grey.shape)
        yield np.repeat(grey.clip(0, 255).astype(np.uint8)[..., None], 3, axis=2)


def tones(levels: Sequence[float], seconds: float, rng: np.random.Generator) -> NDArray[np.float32]:
    """(N,) samples at 16 kHz: a tone a level, which sounds in that share of the time, over a little noise.

    The mean of the log-mel bands is linear in the levels. Raises ValueError for more than 6 of them.
    """
    if not 0 < len(levels) <= 6:
        raise ValueError(f"{len(levels)} levels; a sound has 1 to 6")
    time = np.arange(round(seconds * RATE)) / RATE
    slices = np.minimum(time / seconds * _SLICES, _SLICES - 1).astype(int)
    samples = rng.normal(0, 0.003, len(time))
    for number, level in enumerate(levels):
        # The slices in which it sounds, in an order of its own.
        on = np.zeros(_SLICES)
        on[rng.permutation(_SLICES)[: round(level * _SLICES)]] = 1
        wave = np.sin(2 * np.pi * _LOWEST * _STEP**number * time + rng.uniform(0, 2 * np.pi))
        samples += 0.12 * on[slices] * wave
    return samples.astype(np.float32)
