"""Audio encoders without weights: what is measured in each window of the sound.

`logmel` describes any sound, `acoustic` a voice; `egemaps` is the standard set of the field, by opensmile.
"""

from __future__ import annotations

import importlib.util
from abc import abstractmethod
from functools import cached_property
from typing import Any, ClassVar

import numpy as np

from viper.encoders.acoustics import (
    N_CEPSTRA,
    PITCH_REFERENCE,
    SHAPES,
    Frames,
    measure,
    mel_decibels,
    power_spectrum,
)
from viper.encoders.audio import SoundSample, WindowEncoder
from viper.errors import UserError
from viper.media.sound import SAMPLE_RATE, Sound
from viper.store import EncoderInfo, Feature

HOP = SAMPLE_RATE // 100


class MeasuringEncoder(WindowEncoder):
    """An encoder whose whole work is done by `cut`, in the worker processes."""

    width: ClassVar[int]

    @abstractmethod
    def cut(self, sound: Sound, bounds: np.ndarray) -> list[np.ndarray]:
        """The windows' tokens, each (width,)."""

    def encode(self, samples: list[SoundSample], batch_size: int) -> list[Feature]:
        """Hands on what `load` made."""
        rows = [row for sample in samples for row in sample.windows]
        return self.features(np.array(rows, np.float32).reshape(-1, self.width), samples, self.width)


def frames_of(bounds: np.ndarray) -> list[slice]:
    """The 10 ms frames of windows whose bounds are in samples; at least one each."""
    return [slice(start, max(stop, start + 1)) for start, stop in bounds // HOP]


class LogMelEncoder(MeasuringEncoder):
    """Statistics of 64 log-mel bands in each window: mean, standard deviation and mean absolute change. No weights.

    25 ms frames every 10 ms, 50 Hz to 8 kHz, power in decibels: 192 channels.
    """

    kind: ClassVar[str] = "logmel"
    BANDS = 64
    width = 3 * BANDS

    def info(self) -> EncoderInfo:
        """The windows decide the values."""
        return EncoderInfo(self.kind, self.modality, self.width, {"bands": self.BANDS, **self.options})

    def cut(self, sound: Sound, bounds: np.ndarray) -> list[np.ndarray]:
        """All of the work: the spectrogram once, then statistics of the frames of each window."""
        decibels = self._decibels(sound)
        change = np.abs(np.diff(decibels, axis=0, append=decibels[-1:]))
        rows = []
        for frames in frames_of(bounds):
            level = decibels[frames]
            rows.append(np.concatenate([level.mean(axis=0), level.std(axis=0), change[frames].mean(axis=0)]))
        return rows

    def _decibels(self, sound: Sound) -> np.ndarray:
        """Return (10 ms frames, bands) power in decibels; digital silence is -100."""
        return mel_decibels(power_spectrum(sound.samples))


class AcousticEncoder(MeasuringEncoder):
    """How something is said, in each window: statistics of cepstra, spectral shape, loudness, pitch and voicing.

    The 31 contours of `viper.encoders.acoustics` (20 cepstra, 11 shapes) give, in this order, their mean, standard
    deviation and mean absolute change from frame to frame, the same three over the voiced frames alone (over all where
    none is voiced), and the 20th and 80th percentile. Nine more tell of pitch, see `pitch_statistics`. 257 channels.
    """

    kind: ClassVar[str] = "acoustic"
    CONTOURS = N_CEPSTRA + len(SHAPES)
    PITCH = 9
    width = 8 * CONTOURS + PITCH

    def info(self) -> EncoderInfo:
        """The windows decide the values."""
        measures = {"cepstra": N_CEPSTRA, "shapes": len(SHAPES), "pitch": self.PITCH}
        return EncoderInfo(self.kind, self.modality, self.width, {**measures, **self.options})

    def cut(self, sound: Sound, bounds: np.ndarray) -> list[np.ndarray]:
        """All of the work: the contours once, then statistics of the frames of each window."""
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
    """(8 C,) statistics of (T, C) contours and their absolute changes, of which `voiced` (T,) says which are voiced."""
    chosen = voiced if voiced.any() else np.ones_like(voiced)
    parts: list[np.ndarray] = []
    for rows in (np.ones_like(voiced), chosen):
        parts += [contours[rows].mean(axis=0), contours[rows].std(axis=0), change[rows].mean(axis=0)]
    return np.concatenate([*parts, *np.percentile(contours, [20, 80], axis=0)])


def usual_pitch(frames: Frames) -> float:
    """The clip's median pitch, which stands in where a window has none; 110 Hz in a clip without any voice."""
    voiced = frames.pitch[~np.isnan(frames.pitch)]
    return float(np.median(voiced)) if len(voiced) else float(12 * np.log2(110 / PITCH_REFERENCE))


def pitch_statistics(pitch: np.ndarray, usual: float) -> np.ndarray:
    """Nine statistics of a pitch contour (T,) in semitones, NaN where unvoiced.

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


class EgemapsEncoder(MeasuringEncoder):
    """The 88 functionals of eGeMAPS v02 (Eyben et al. 2016) of each window, by opensmile.

    opensmile is no part of viper and is free for research and private use only: a product needs audEERING's licence.
    """

    kind: ClassVar[str] = "egemaps"
    width = 88
    # Shorter windows are repeated up to this: opensmile needs some 60 ms frames to have anything to say.
    MIN_SECONDS = 0.2

    def __init__(self, n_fragments: int = 32, fragment_seconds: float | None = None) -> None:
        super().__init__(n_fragments, fragment_seconds)
        if importlib.util.find_spec("opensmile") is None:
            raise UserError(
                "--model_name egemaps: needs opensmile (its licence: research only): pip install 'viper[opensmile]'"
            )

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "_smile"}

    @cached_property
    def _smile(self) -> Any:
        import opensmile

        return opensmile.Smile(opensmile.FeatureSet.eGeMAPSv02, opensmile.FeatureLevel.Functionals)

    def info(self) -> EncoderInfo:
        """The set and the windows decide the values."""
        return EncoderInfo(self.kind, self.modality, self.width, {"set": "eGeMAPSv02", **self.options})

    def cut(self, sound: Sound, bounds: np.ndarray) -> list[np.ndarray]:
        """Each window by itself; what opensmile cannot tell (it answers NaN) is 0."""
        shortest = round(self.MIN_SECONDS * sound.rate)
        rows = []
        for start, stop in bounds:
            window = sound.samples[start:stop]
            window = np.resize(window, shortest) if len(window) < shortest else window
            rows.append(np.nan_to_num(self._smile.process_signal(window, sound.rate).to_numpy()[0]))
        return rows
