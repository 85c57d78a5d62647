"""A synthetic reaction: its seven targets, the channel in which each is seen, heard or read, and how it unfolds."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

EMOTIONS: tuple[str, ...] = ("Adoration", "Amusement", "Anxiety", "Disgust", "Empathic-Pain", "Fear", "Surprise")
"""The targets of the Hume-Reaction data set, in the order of its label file."""

FACE_EMOTIONS: tuple[str, ...] = ("Amusement", "Disgust", "Surprise")
VOICE_EMOTIONS: tuple[str, ...] = ("Anxiety", "Fear")
WORD_EMOTIONS: tuple[str, ...] = ("Adoration", "Empathic-Pain")

CHANNELS: dict[str, tuple[str, ...]] = {"face": FACE_EMOTIONS, "voice": VOICE_EMOTIONS, "words": WORD_EMOTIONS}
"""The ONLY channel that carries each emotion: nothing in the face tells Fear, nothing in the voice tells Amusement.

So no single modality can answer more than three of the seven targets, and what fusion is worth is known beforehand.
"""


def check_intensities(intensities: Mapping[str, float]) -> dict[str, float]:
    """Return the seven intensities in the order of `EMOTIONS`; an emotion not named is 0.

    Raises
    ------
    ValueError
        for a name that is not in `EMOTIONS`, or an intensity outside [0, 1].
    """
    unknown = set(intensities) - set(EMOTIONS)
    if unknown:
        raise ValueError(f"unknown emotions {sorted(unknown)}; they are {', '.join(EMOTIONS)}")
    values = {name: float(intensities.get(name, 0.0)) for name in EMOTIONS}
    for name, value in values.items():
        if not 0.0 <= value <= 1.0:  # NaN fails this comparison as well
            raise ValueError(f"intensity of {name} is {value}, outside [0, 1]")
    return values


def rise(time: NDArray[np.float64], seconds: float, rng: np.random.Generator) -> NDArray[np.float64]:
    """Return (T,) in [0, 1] at each `time` (T,) of a clip of `seconds`: 0 at rest, 1 at the apex it then holds.

    The onset comes within the first seventh, the apex about a quarter of the clip later, eased at both ends.
    """
    onset = rng.uniform(0.02, 0.14) * seconds
    rising = rng.uniform(0.18, 0.30) * seconds
    x = np.clip((time - onset) / rising, 0, 1)
    return x * x * (3 - 2 * x)
