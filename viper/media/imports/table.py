"""What is read of a file of features that others made, and how such files are read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from viper.errors import ClipError

TimeUnit = Literal["auto", "s", "ms"]


@dataclass(frozen=True)
class Reading:
    """What the user said of the files.

    Attributes
    ----------
    key : what is taken of a file that holds several arrays by name.
    columns : what the names of the columns taken of a CSV begin with; none: all that are features by their layout.
    id_column : the column of a CSV that names the clips; empty: found by its name.
    time_unit : of a CSV's times; auto: by the column's name, else by their steps.
    separator : joins folders and names to ids, see `list_files`; None: folders are no part of an id.
    """

    key: str = ""
    columns: tuple[str, ...] = ()
    id_column: str = ""
    time_unit: TimeUnit = "auto"
    separator: str | None = None


NOTHING_SAID = Reading()


@dataclass(frozen=True)
class Table:
    """Rows of a foreign file.

    Attributes
    ----------
    tokens : (T, D) float32, as in the file: where it has no number, or one that float32 cannot hold, not finite.
    mask : (T,) bool, False where the file says that a row counts for nothing.
    times : (T,) float64 seconds, or None where the file does not say.
    channels : D names, or none where the file has none.
    steps : (T,) float64, the place of each row in steps of unknown length (frame numbers); None: one row a step.
    zeros : what a row of nothing but zeros is: True nothing that was found, False a row like others, None unknown.
    notes : what was decided about the file and the user may want otherwise, in words.
    """

    tokens: np.ndarray
    mask: np.ndarray
    times: np.ndarray | None
    channels: tuple[str, ...] = ()
    steps: np.ndarray | None = None
    zeros: bool | None = None
    notes: tuple[str, ...] = ()

    def noted(self, notes: Sequence[str]) -> Table:
        """Return the table with notes before its own."""
        return replace(self, notes=(*notes, *self.notes)) if notes else self


def table_of_array(array: np.ndarray) -> Table:
    """Return a table of an array (T, D), (1, T, D), (T, D, 1, 1) or (D,), as others' scripts write them.

    ClipError for any other.
    """
    if array.dtype.kind not in "fiub":
        raise ClipError("holds no single array of numbers")
    shape = array.shape
    while array.ndim > 2 and array.shape[0] == 1:
        array = array[0]
    if array.ndim > 2:  # what a network's pooling leaves: (T, D, 1, 1), (T, 1, D)
        array = array.reshape(len(array), -1) if sum(n != 1 for n in array.shape[1:]) <= 1 else array
    if array.ndim == 1:
        array = array[None]
    if array.ndim != 2 or not array.shape[1]:
        raise ClipError(f"an array of shape {shape} is not (tokens, channels)")
    return Table(float32(array), np.ones(len(array), bool), None)


def float32(array: np.ndarray) -> np.ndarray:
    """Return the array as float32; what is too large for it is infinite."""
    with np.errstate(over="ignore"):
        return array.astype(np.float32)
