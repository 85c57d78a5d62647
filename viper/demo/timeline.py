"""How a reaction unfolds: at rest, then rising to its apex, which it holds."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def rise(time: NDArray[np.float64], seconds: float, rng: np.random.Generator) -> NDArray[np.float64]:
    """(T,) in [0, 1] at each `time` (T,) of a clip of `seconds`: 0 at rest, 1 at the apex.

    The onset comes within the first seventh, the apex about a quarter of the clip later, eased at both ends.
    """
    onset = rng.uniform(0.02, 0.14) * seconds
    rising = rng.uniform(0.18, 0.30) * seconds
    x = np.clip((time - onset) / rising, 0, 1)
    return x * x * (3 - 2 * x)
