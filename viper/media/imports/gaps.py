"""What becomes of values that are not there: cells without a number, rows of zeros."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from viper.media.imports.table import Table

NanRule = Literal["mean", "zero", "mask"]
ZeroRule = Literal["auto", "mask", "keep"]
LEAST_SHARE = 0.5  # of a row's values that must be there for the others to be filled in
WIDE = 8  # of so many channels not all are zero by chance


@dataclass(frozen=True)
class Gaps:
    """What was missing in a clip's table.

    Attributes
    ----------
    filled : (D,) int, cells of each channel that were filled in.
    empty : (D,) bool, channels without any number in the rows that count.
    without_numbers : rows masked because numbers are missing.
    of_zeros : rows masked because they are zeros.
    """

    filled: np.ndarray
    empty: np.ndarray
    without_numbers: int = 0
    of_zeros: int = 0


def without_gaps(table: Table, nan: NanRule = "mean", zero_rows: ZeroRule = "auto") -> tuple[Table, Gaps]:
    """Return a table whose unmasked tokens are all finite, and what was missing.

    Parameters
    ----------
    nan : what becomes of values that are not finite. mask: their whole token is masked. zero: they are 0. mean: they
        are the mean of the channel's other values in the same clip (never of other clips, some of which are held out),
        and 0 where the clip has none. For zero and mean a token is masked if less than half of its values are there.
    zero_rows : whether a token of nothing but zeros is masked. auto: where the file's tool is known to write zeros for
        nothing found, or where nothing is known of it, a token has at least 8 channels, and not all values of the
        clip's other tokens are whole, as counts and presences are.
    """
    tokens, mask = table.tokens.copy(), table.mask.copy()
    width = tokens.shape[1]
    there = np.isfinite(tokens)
    is_masked = zero_rows == "mask" or (
        zero_rows == "auto" and (_is_measured(tokens) if table.zeros is None else table.zeros)
    )
    # Beside zeros, what is not there says nothing: a ratio of two zeros.
    of_zeros = mask & there.any(axis=1) & ~np.where(there, tokens, 0).any(axis=1) & is_masked
    mask &= ~of_zeros
    least = width if nan == "mask" else max(1, int(np.ceil(LEAST_SHARE * width)))
    without = mask & (there.sum(axis=1) < least)
    empty = mask.any() & ~there[mask].any(axis=0)
    mask &= ~without
    gaps = ~there & mask[:, None]
    if gaps.any() and nan == "mean":
        known = there & mask[:, None]
        n_known = known.sum(axis=0)
        sums = np.where(known, tokens, 0).sum(axis=0, dtype=np.float64)
        means = np.divide(sums, n_known, out=np.zeros(width), where=n_known > 0)
        tokens = np.where(gaps, means.astype(np.float32), tokens)
    elif gaps.any():
        tokens[gaps] = 0
    tokens[~mask] = 0
    found = Gaps(gaps.sum(axis=0), np.broadcast_to(empty, (width,)).copy(), int(without.sum()), int(of_zeros.sum()))
    return replace(table, tokens=tokens, mask=mask), found


def _is_measured(tokens: np.ndarray) -> bool:
    """Return whether rows of zeros only would be odd among these, or there are no others."""
    others = tokens[np.isfinite(tokens) & (tokens != 0)]
    return tokens.shape[1] >= WIDE and not (others.size and (others == np.round(others)).all())
