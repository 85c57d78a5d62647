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
# Correlation of two channels, over a second or so, at which one is the other upside down, as by a cable of the wrong
# polarity; once it is, the one at which it no longer is. The two microphones of a room do not come near it.
_UPSIDE_DOWN, _UPRIGHT_AGAIN = -0.8, -0.5
# Root mean square of what is too faint to tell (-60 dB): a codec's noise in a pause may have any correlation.
_FAINT = 1e-3
_TOO_FEW = 2000  # samples


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
    """Mixes sound to one channel, a second or so at once.

    Where one of two channels is the other upside down their mean would be next to nothing, so the first is taken.

    Attributes
    ----------
    n_upside_down : samples of which only the first channel was taken.
    """

    def __init__(self) -> None:
        self.n_upside_down = 0
        self._is_upside_down = False

    def __call__(self, channels: np.ndarray, weights: np.ndarray | None) -> np.ndarray:
        """Return (n,) float32 from (n, channels) float32; `weights` are those of `mix_weights`."""
        if channels.shape[1] == 2 and self._cancel_out(channels):
            self.n_upside_down += len(channels)
            return np.ascontiguousarray(channels[:, 0])
        return channels.mean(axis=1, dtype=np.float32) if weights is None else channels @ weights

    def _cancel_out(self, channels: np.ndarray) -> bool:
        wide = channels.astype(np.float64)  # the square of a sample that is far too loud is beyond float32
        (left, product), (_, right) = wide.T @ wide
        level = (left * right) ** 0.5
        if len(channels) >= _TOO_FEW and level > _FAINT**2 * len(channels):
            self._is_upside_down = product < level * (_UPRIGHT_AGAIN if self._is_upside_down else _UPSIDE_DOWN)
        return self._is_upside_down
