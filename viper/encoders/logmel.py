"""Log-mel statistics: any sound, without weights."""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from viper.encoders.acoustics import BANDS, frames_of, mel_decibels, power_spectrum
from viper.encoders.base import ShortName
from viper.encoders.windows import MeasuringEncoder
from viper.media.sound import Sound
from viper.store import EncoderInfo


class LogMelEncoder(MeasuringEncoder):
    """Statistics of 64 log-mel bands in each window: mean, standard deviation and mean absolute change. No weights.

    25 ms frames every 10 ms, 50 Hz to 8 kHz, power in decibels: 192 channels.
    """

    kind: ClassVar[str] = "logmel"
    names = (ShortName("logmel", "statistics of log-mel bands, 192"),)
    packages = ("librosa",)
    width = 3 * BANDS

    def info(self) -> EncoderInfo:
        """Return the windows, which decide the values."""
        return EncoderInfo(self.kind, self.modality, self.width, {"bands": BANDS, **self.options})

    def cut(self, sound: Sound, bounds: np.ndarray) -> list[np.ndarray]:
        """Do all of the work: the spectrogram once, then statistics of the frames of each window."""
        decibels = mel_decibels(power_spectrum(sound.samples))
        change = np.abs(np.diff(decibels, axis=0, append=decibels[-1:]))
        rows = []
        for frames in frames_of(bounds):
            level = decibels[frames]
            rows.append(np.concatenate([level.mean(axis=0), level.std(axis=0), change[frames].mean(axis=0)]))
        return rows
