"""One channel from many: the mean of two, the standard mix of surround sound, one of two that would cancel out."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

# ITU-R BS.775-3, table 2, to one channel: left and right 0.7071, centre 1, surround 0.5 (a single one 0.7071), without
# the low-frequency effects. It knows no channels above or below the listener, which are taken as surround.
_WEIGHTS = {
    **dict.fromkeys(("FL", "FR", "FLC", "FRC", "BC", "DL", "DR"), 0.5**0.5),
    **dict.fromkeys(("BL", "BR", "SL", "SR", "WL", "WR", "SDL", "SDR", "SSL", "SSR"), 0.5),
    **dict.fromkeys(("TC", "TFL", "TFC", "TFR", "TBL", "TBC", "TBR", "TSL", "TSR", "TTL", "TTR"), 0.5),
    **dict.fromkeys(("BFL", "BFC", "BFR"), 0.5),
    "FC": 1.0,
    "LFE": 0.0,
    "LFE2": 0.0,
}
# Of the channels of one microphone for all directions (ambisonics), the first has all of them; others would cancel out.
_ALL_DIRECTIONS = "AMBI0"
# Correlation of two channels at which one is the other upside down, as by a cable of the wrong polarity. The two
# microphones of a room do not come near it over a whole clip.
_UPSIDE_DOWN = -0.8


def mix_weights(channels: Sequence[str]) -> np.ndarray | None:
    """Return the share of each channel, by FFmpeg's names, in the mix: (n,) float32 that sum to 1.

    None for equal shares: of one or two channels, and of more whose places are not known.
    """
    if _ALL_DIRECTIONS in channels:
        weights = np.array([float(name == _ALL_DIRECTIONS) for name in channels])
    elif len(channels) > 2 and all(name in _WEIGHTS for name in channels):
        weights = np.array([_WEIGHTS[name] for name in channels])
    else:
        return None
    return np.asarray(weights / weights.sum(), np.float32) if weights.any() else None


class Downmix:
    """Mixes sound to one channel, piece by piece, and notices two channels that cancel out.

    With `is_left`, the first of two channels is taken instead of their mean.
    """

    def __init__(self, is_left: bool = False) -> None:
        self._is_left = is_left
        self._products = np.zeros((2, 2))  # sums over all samples of left and right with each other

    def __call__(self, channels: np.ndarray, weights: np.ndarray | None) -> np.ndarray:
        """Return (n,) float32 from (n, channels) float32; `weights` are those of `mix_weights`."""
        if channels.shape[1] == 2:
            self._products += channels.T @ channels
            if self._is_left:
                return np.ascontiguousarray(channels[:, 0])
        return channels.mean(axis=1, dtype=np.float32) if weights is None else channels @ weights

    @property
    def cancels_out(self) -> bool:
        """Whether the two channels, over all that was mixed, are nearly each other's opposite."""
        (left, product), (_, right) = self._products
        return bool(product < _UPSIDE_DOWN * np.sqrt(left * right))
