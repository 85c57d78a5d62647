"""What is read of a file of features that others made."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from viper.errors import ClipError


@dataclass(frozen=True)
class Table:
    """Rows of a foreign file.

    Attributes
    ----------
    tokens : (T, D) float32.
    mask : (T,) bool, False where a value is not finite, or too large for float32.
    times : (T,) float64 seconds, or None where the file does not say.
    channels : D names, or none where the file has none.
    """

    tokens: np.ndarray
    mask: np.ndarray
    times: np.ndarray | None
    channels: tuple[str, ...] = ()


def table_of_array(array: np.ndarray) -> Table:
    """Return a table of an array (T, D), (1, T, D) or (D,), as the published scripts' files are.

    ClipError for any other.
    """
    if array.dtype.kind not in "fiub":
        raise ClipError("holds no single array of numbers")
    while array.ndim > 2 and array.shape[0] == 1:
        array = array[0]
    if array.ndim == 1:
        array = array[None]
    if array.ndim != 2 or not array.shape[1]:
        raise ClipError(f"an array of shape {array.shape} is not (tokens, channels)")
    tokens = float32(array)
    return Table(tokens, np.isfinite(tokens).all(axis=1), None)


def float32(array: np.ndarray) -> np.ndarray:
    """Return the array as float32; what is too large for it is infinite, and masked."""
    with np.errstate(over="ignore"):
        return array.astype(np.float32)
