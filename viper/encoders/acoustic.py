"""How something is said: statistics of the measures of a voice, without weights."""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from viper.encoders.acoustics import HOP, N_CEPSTRA, PITCH_REFERENCE, SHAPES, Frames, frames_of, measure
from viper.encoders.base import ShortName
from viper.encoders.windows import MeasuringEncoder
from viper.errors import UserError
from viper.media.sound import SAMPLE_RATE, Sound
from viper.store import EncoderInfo


class AcousticEncoder(MeasuringEncoder):
    """How something is said, in each window: statistics of cepstra, spectral shape, loudness, pitch and voicing.

    The 31 contours of `viper.encoders.acoustics` (20 cepstra, 11 shapes) give, in this order, their mean, standard
    deviation and mean absolute change from frame to frame, the same three over the voiced frames alone (over all where
    none is voiced), and the 20th and 80th percentile. Nine more tell of pitch, see `pitch_statistics`. 257 channels.
    """

    kind: ClassVar[str] = "acoustic"
    names = (ShortName("acoustic", "a voice's cepstra, spectrum, pitch and voicing, 257"),)
    packages = ("librosa",)
    CONTOURS = N_CEPSTRA + len(SHAPES)
    PITCH = 9
    width = 8 * CONTOURS + PITCH

    def info(self) -> EncoderInfo:
        """Return what decides the values: the measures and the windows."""
        measures = {"cepstra": N_CEPSTRA, "shapes": len(SHAPES), "pitch": self.PITCH}
        return EncoderInfo(self.kind, self.modality, self.width, {**measures, **self.options})

    def cut(self, sound: Sound, bounds: np.ndarray) -> list[np.ndarray]:
        """Do all of the work: the contours once, then statistics of the frames of each window."""
        if sound.rate != SAMPLE_RATE:
            raise UserError(f"{self.kind} wants sound at {SAMPLE_RATE} Hz, not {sound.rate}")
        measured = measure(sound.samples)
        contours = np.hstack([measured.cepstra, measured.shapes])
        change = np.abs(np.diff(contours, axis=0, append=contours[-1:]))
        usual = usual_pitch(measured)
        return [
            np.concatenate(
                [
                    contour_statistics(contours[frames], change[frames], ~np.isnan(measured.pitch[frames])),
                    pitch_statistics(measured.pitch[frames], usual),
                ]
            )
            for frames in frames_of(bounds)
        ]


def contour_statistics(contours: np.ndarray, change: np.ndarray, voiced: np.ndarray) -> np.ndarray:
    """Return (8 C,) statistics of (T, C) contours and their absolute changes; `voiced` (T,) marks voiced frames."""
    chosen = voiced if voiced.any() else np.ones_like(voiced)
    parts: list[np.ndarray] = []
    for rows in (np.ones_like(voiced), chosen):
        parts += [contours[rows].mean(axis=0), contours[rows].std(axis=0), change[rows].mean(axis=0)]
    return np.concatenate([*parts, *np.percentile(contours, [20, 80], axis=0)])


def usual_pitch(frames: Frames) -> float:
    """Return the clip's median pitch, which stands in where a window has none; 110 Hz in a clip without any voice."""
    voiced = frames.pitch[~np.isnan(frames.pitch)]
    return float(np.median(voiced)) if len(voiced) else float(12 * np.log2(110 / PITCH_REFERENCE))


def pitch_statistics(pitch: np.ndarray, usual: float) -> np.ndarray:
    """Return nine statistics of a pitch contour (T,) in semitones, NaN where unvoiced.

    Mean, standard deviation, 10th, 50th and 90th percentile; mean absolute change and mean change from one voiced frame
    to the next (semitones in 10 ms); share of voiced frames; voiced stretches a second. Without a voiced frame the
    first and the percentiles are `usual`, the others 0.
    """
    voiced = ~np.isnan(pitch)
    if not voiced.any():
        return np.array([usual, 0, usual, usual, usual, 0, 0, 0, 0])
    heard = pitch[voiced]
    steps = np.diff(pitch)
    steps = steps[~np.isnan(steps)] if np.isfinite(steps).any() else np.zeros(1)
    stretches = voiced[0] + np.count_nonzero(voiced[1:] & ~voiced[:-1])
    rate = stretches * SAMPLE_RATE / HOP / len(pitch)
    return np.array(
        [heard.mean(), heard.std(), *np.percentile(heard, [10, 50, 90]),
         np.abs(steps).mean(), steps.mean(), voiced.mean(), rate]
    )  # fmt: skip
