"""Videos whose pictures say which frame they are."""

from __future__ import annotations

import json
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from viper.demo.media import write_video

_BITS = 12
_BLOCK = 16


def coded_frame(number: int, height: int = 64) -> np.ndarray:
    """A picture that holds its number, one block a bit: white or black, the lowest bit leftmost.

    The upper half shows the number and the lower half its complement, so that a picture that is upside down, on its
    side or a mixture of two is no valid code.
    """
    bits = (number >> np.arange(_BITS)) & 1
    row = np.repeat(bits, _BLOCK)
    halves = np.repeat(np.stack([row, 1 - row]), height // 2, axis=0)
    return np.repeat((16 + 219 * halves).astype(np.uint8)[..., None], 3, axis=2)


def coded_frames(n: int) -> Iterator[np.ndarray]:
    """Frames 0 to n - 1."""
    return (coded_frame(number) for number in range(n))


def read_code(image: np.ndarray) -> int:
    """The number a picture holds. Raises ValueError when it holds none."""
    height, width = image.shape[:2]
    if width != _BITS * _BLOCK:
        raise ValueError(f"no coded picture is {width} wide")
    centres = np.arange(_BLOCK // 2, width, _BLOCK)
    upper, lower = (image[row, centres].astype(int).mean(axis=1) > 127 for row in (height // 4, 3 * height // 4))
    if (upper == lower).any():
        raise ValueError("the two halves of the picture disagree")
    return int((upper << np.arange(_BITS)).sum())


def write_coded(path: Path, n: int, fps: float | Fraction = 25, **options: object) -> Path:
    """A video of `n` coded frames."""
    write_video(path, coded_frames(n), fps, **options)  # type: ignore[arg-type]
    return path


def tone(seconds: float, rate: int, hertz: float = 440.0) -> np.ndarray:
    """A quiet sine wave, (N,) float32."""
    return (0.25 * np.sin(2 * np.pi * hertz * np.arange(round(seconds * rate)) / rate)).astype(np.float32)


def frames_record(clip: Path) -> dict[str, Any]:
    """What get_frame wrote down of a clip: its frames.json."""
    content: dict[str, Any] = json.loads((clip / "frames.json").read_text())
    return content
