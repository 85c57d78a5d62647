"""Where one shot ends and another begins, among the chosen frames of a clip."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

from viper.media.faces.look import colour_histogram, small_copy

# A small copy of the frame, so that its resolution does not matter.
_WIDTH, _HEIGHT = 48, 36
# The second frame may be shifted by so much of its width and height against the first: the camera moves.
_SHIFT = 1 / 7
# How far neighbouring frames are apart, in colours and in structure. In real clips those of one shot differ by less
# than .15 and .3, also a second apart, and those of two by more than .3 and .25; both must differ: a flash, a fade or a
# lamp changes the colours alone, a moving camera or crowd the structure alone. The one makes up for the other in part.
_CUT = np.array([0.25, 0.20])
# Two shots before one wall are nearer. They count where they stand out among the clip's other steps. Both limits are
# low: who is seen on both sides of a cut that is none is found again by the look, two people in one shot are not.
_FAINT_CUT = np.array([0.12, 0.08])
_STANDS_OUT = 4.0
_EVEN = 3.0  # grey levels; a deviation below that is a frame without structure (black, white)


def shot_numbers(images: Sequence[np.ndarray]) -> np.ndarray:
    """Return (n,) int: which shot each image (H, W, 3) uint8 RGB belongs to, counted from 0."""
    steps = np.zeros((len(images), 2))
    before: tuple[np.ndarray, np.ndarray] | None = None
    for number, image in enumerate(images):
        scene = _scene(image)
        if before is not None:
            steps[number] = _step(before, scene)
        before = scene
    # Most steps of a clip are within a shot, but with few frames not many more than half.
    usual = np.quantile(steps[1:], 0.25, axis=0) if len(images) > 1 else np.zeros(2)
    stands_out = (steps > _STANDS_OUT * usual).all(axis=1)
    return np.cumsum((steps > _FAINT_CUT).all(axis=1) & (((steps / _CUT).mean(axis=1) > 1) | stands_out))


def _scene(image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    small = small_copy(image, _WIDTH, _HEIGHT)
    grey = cv2.cvtColor(small, cv2.COLOR_RGB2GRAY).astype(np.float32)
    return colour_histogram(small), np.asarray(cv2.GaussianBlur(grey, (0, 0), 1.0))


def _step(one: tuple[np.ndarray, np.ndarray], other: tuple[np.ndarray, np.ndarray]) -> tuple[float, float]:
    """Return how far two scenes are apart in colours (Hellinger) and in structure (1 - correlation, best shift)."""
    colours = float(np.sqrt(max(0.0, 1.0 - float(one[0] @ other[0]))))
    down, across = round(_HEIGHT * _SHIFT), round(_WIDTH * _SHIFT)
    inner = other[1][down:-down, across:-across]
    if inner.std() < _EVEN or one[1].std() < _EVEN:
        return colours, 1.0
    return colours, 1.0 - float(cv2.matchTemplate(one[1], inner, cv2.TM_CCOEFF_NORMED).max())
