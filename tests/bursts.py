"""Clips in which something happens at known moments: a texture that drifts, and rushes in bursts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from fractions import Fraction
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from viper.demo.media import write_video

DRIFT, RUSH = 0.37, 4.0  # pixels a frame
BURST_FRAMES = 17


def burst_frames(
    n_frames: int, centres: Sequence[int], *, size: tuple[int, int] = (96, 160), seed: int = 0
) -> Iterator[NDArray[np.uint8]]:
    """Pictures of a texture that moves to the right, `RUSH` pixels a frame in bursts and `DRIFT` elsewhere.

    Parameters
    ----------
    n_frames
        frames in all; without one, nothing.
    centres
        the frames in the middle of each burst: the texture rushes from `BURST_FRAMES` // 2 frames before one until
        as many after it.
    size
        height and width in pixels.

    Yields
    ------
    (H, W, 3) uint8 RGB; what leaves the picture on the right comes in again on the left.
    """
    height, width = size
    noise = np.random.default_rng(seed).normal(size=(height, width, 3))
    # Details of some ten pixels: the flow of finer ones is lost when they move by 4.
    texture = np.stack([gaussian_filter(channel, 3, mode="wrap") for channel in np.moveaxis(noise, 2, 0)], axis=2)
    texture = np.clip(128 + 50 * texture / texture.std(), 0, 255).astype(np.float32)
    frame = np.arange(max(0, n_frames - 1))
    rushes = (np.abs(frame[:, None] - np.asarray(centres, np.int64)) <= BURST_FRAMES // 2).any(axis=1)
    for offset in np.concatenate([[0.0], np.cumsum(np.where(rushes, RUSH, DRIFT))])[:n_frames]:
        move = np.array([[1, 0, offset % width], [0, 1, 0]], np.float32)
        moved = cv2.warpAffine(texture, move, (width, height), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_WRAP)
        yield np.rint(moved).astype(np.uint8)


def write_bursts(
    path: str | Path, n_frames: int, centres: Sequence[int], fps: float | Fraction, *,
    size: tuple[int, int] = (96, 160), seed: int = 0,
) -> int:  # fmt: skip
    """Writes `burst_frames` as a video, atomically; the container follows from the suffix. Answers how many frames."""
    return write_video(path, burst_frames(n_frames, centres, size=size, seed=seed), fps)
