"""Which of some directions is nearest to each picture, as float32 has it, found in bf16 where that settles it."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from viper.logs import log

# Pictures that are computed both ways before bf16 is trusted with any.
TRIED = 16
# So many times the largest error that was seen in bf16 must the nearest direction be ahead of every other.
SAFETY = 4.0
# With more pictures done twice than this, bf16 does not pay.
MOST_AGAIN = 0.5

Embed = Callable[[Sequence[np.ndarray], int], np.ndarray]


class Nearest:
    """Chooses for each picture the direction with the largest cosine.

    What bf16 changes in a picture's own direction moves its cosines with all others together; a choice depends on the
    differences of two cosines. How far bf16 moves those, for directions as far apart as the two are, is measured on the
    first pictures, and on all that are computed both ways later. A picture whose choice could be another one with
    several times the largest such error is computed again in float32.

    Parameters
    ----------
    directions : (n, width) float32, of length 1.
    exact, fast : arrays of pictures, and how many may be computed at once -> (pictures, width), of length 1, in float32
        and in bf16; without `fast` all are float32's.
    """

    def __init__(self, directions: np.ndarray, exact: Embed, fast: Embed | None = None) -> None:
        self._directions, self._exact, self._fast = directions, exact, fast
        products = directions @ directions.T
        # Two unit vectors' distance; of a direction and itself, or the same one again, infinitely small.
        self._apart = np.sqrt(np.maximum(2.0 - 2.0 * products, 0.0))
        self._error = 1e-6
        self._n_tried = self._n_again = self._n_seen = 0

    def choose(self, pictures: Sequence[np.ndarray], batch_size: int) -> np.ndarray:
        """Return (pictures,) int64, the number of each one's nearest direction."""
        rows = [row[None] for array in pictures for row in array]
        if self._fast is None or not rows:
            return self._best(self._exact(pictures, batch_size)) if rows else np.zeros(0, np.int64)
        chosen = np.zeros(len(rows), np.int64)
        rough = self._fast(pictures, batch_size)
        n_tried = max(0, min(TRIED - self._n_tried, len(rows)))
        if n_tried:
            chosen[:n_tried] = self._compared(rows[:n_tried], rough[:n_tried], batch_size)
            self._n_tried += n_tried
        chosen[n_tried:] = self._best(rough[n_tried:])
        again = n_tried + np.flatnonzero(~self._is_settled(rough[n_tried:], chosen[n_tried:]))
        if len(again):
            chosen[again] = self._compared([rows[i] for i in again], rough[again], batch_size)
        self._n_seen += len(rows) - n_tried
        self._n_again += len(again)
        if self._n_seen >= 4 * TRIED and self._n_again > MOST_AGAIN * self._n_seen:
            log.info("%d of %d frames' prompts are too near each other for bf16; going on in float32",
                     self._n_again, self._n_seen)  # fmt: skip
            self._fast = None
        return chosen

    def _best(self, embedded: np.ndarray) -> np.ndarray:
        return (embedded @ self._directions.T).argmax(axis=1)

    def _is_settled(self, embedded: np.ndarray, best: np.ndarray) -> np.ndarray:
        """Return for each picture whether no other direction comes near its best one."""
        cosines = embedded @ self._directions.T
        ahead = cosines[np.arange(len(best)), best][:, None] - cosines
        is_ahead = ahead > SAFETY * self._error * self._apart[best] + 1e-6
        is_ahead[np.arange(len(best)), best] = True
        return is_ahead.all(axis=1)

    def _compared(self, rows: Sequence[np.ndarray], rough: np.ndarray, batch_size: int) -> np.ndarray:
        """Return float32's choices, and learn from them how far bf16 is off."""
        exact = self._exact(rows, batch_size)
        best = self._best(exact)
        errors = (rough - exact) @ self._directions.T
        differences = np.abs(errors - errors[np.arange(len(best)), best][:, None])
        apart = self._apart[best]
        relative = np.divide(differences, apart, out=np.zeros_like(differences), where=apart > 1e-3)
        self._error = max(self._error, float(relative.max(initial=0.0)))
        return best
