"""What speech tells besides its words, measured every 10 ms without weights: spectrum, loudness, pitch and voicing.

The measures are those of the field's standard sets (Eyben et al., "The Geneva Minimalistic Acoustic Parameter Set",
IEEE Transactions on Affective Computing 7(2), 2016). Sound is mono at 16 kHz; T frames stand 10 ms apart, the middle of
frame t at t * 10 ms.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import librosa  # its parts are imported when they are first used, which takes a second or two
import numpy as np

from viper.media.sound import SAMPLE_RATE

HOP = SAMPLE_RATE // 100
BANDS = 64
N_FFT, SPECTRUM_WINDOW = 1024, 400
N_CEPSTRA = 20
SHAPES = (
    "energy", "centroid", "spread", "roll-off", "flatness", "flux", "alpha ratio", "Hammarberg index",
    "slope below 500 Hz", "slope 500 to 1500 Hz", "harmonics to noise",
)  # fmt: skip
SILENCE = 1e-10  # power that counts as none: -100 dB

LOWEST_PITCH, HIGHEST_PITCH = 60.0, 500.0  # Hz
PITCH_WINDOW = 3 * round(SAMPLE_RATE / LOWEST_PITCH)  # three periods, as few as Boersma's method wants
PITCH_REFERENCE = 27.5  # Hz: semitones are counted from this A, as in eGeMAPS
# A frame is voiced when its autocorrelation at the pitch period is above this (Praat's default), and when it is at most
# so many decibels below the clip's loudest (0.03 of the amplitude, Praat's silence threshold).
VOICED_STRENGTH, VOICED_RANGE = 0.45, 30.0
# Taken off a candidate's autocorrelation per octave below the highest pitch: two periods correlate as well as one.
OCTAVE_COST = 0.02


@dataclass(frozen=True)
class Frames:
    """The measures of a sound's frames.

    Attributes
    ----------
    cepstra : (T, 20) mel-frequency cepstral coefficients 1 to 20: the DCT-II, orthonormal, of 64 mel bands in decibels.
    shapes : (T, 11) in the order of `SHAPES`: energy, alpha ratio, Hammarberg index, flatness and harmonics to noise in
        decibels; centroid, spread and 85 % roll-off in octaves (above 50 Hz); slopes in decibels per kilohertz; flux
        between 0 (the spectrum of the frame before) and the square root of 2 (nothing in common).
    pitch : (T,) semitones above 27.5 Hz, NaN where the frame is not voiced.
    """

    cepstra: np.ndarray
    shapes: np.ndarray
    pitch: np.ndarray


def measure(samples: np.ndarray) -> Frames:
    """Return all measures of the frames of `samples` (n,) float32 at 16 kHz; T = n // 160 + 1."""
    power = power_spectrum(samples)
    cepstra = librosa.feature.mfcc(S=mel_decibels(power).T, n_mfcc=N_CEPSTRA + 1)[1:].T
    pitch, strength = track_pitch(samples)
    odds = np.clip(strength, 0.001, 0.999)
    harmonics_to_noise = decibels(odds / (1 - odds))
    return Frames(cepstra, np.column_stack([spectral_shapes(power), harmonics_to_noise]), pitch)


def frames_of(bounds: np.ndarray) -> list[slice]:
    """Return the 10 ms frames of windows whose bounds are in samples; at least one each."""
    return [slice(start, max(stop, start + 1)) for start, stop in bounds // HOP]


def decibels(power: np.ndarray) -> np.ndarray:
    """Return 10 log10 of power; -100 for digital silence."""
    return 10 * np.log10(np.maximum(power, SILENCE))


def power_spectrum(samples: np.ndarray) -> np.ndarray:
    """Return the (T, 513) power of 25 ms Hann windows, 0 to 8 kHz, of `samples` (n,) at 16 kHz."""
    # Padded here because librosa warns of a sound that is shorter than its window.
    spectrum = librosa.stft(
        np.pad(samples, N_FFT // 2), n_fft=N_FFT, win_length=SPECTRUM_WINDOW, hop_length=HOP, center=False
    )
    with np.errstate(over="ignore"):  # of a sound far too loud the power is infinite, and its clip is refused
        return np.square(np.abs(spectrum)).T.astype(np.float64)


def mel_decibels(power: np.ndarray) -> np.ndarray:
    """Return (T, 64) decibels of mel bands between 50 Hz and 8 kHz, of a (T, 513) power spectrum."""
    with np.errstate(invalid="ignore"):
        return decibels(power @ _mel_bands())


def spectral_shapes(power: np.ndarray) -> np.ndarray:
    """Return (T, 10) measures, in the order of `SHAPES` without the last, of a (T, 513) power spectrum.

    Alpha ratio: power in 50 Hz to 1 kHz over that in 1 to 5 kHz. Hammarberg index: the strongest component below 2 kHz
    over the strongest in 2 to 5 kHz (both Eyben et al. 2016). Flux: distance between the square roots of neighbouring
    frames' spectra of sum 1, so that loudness does not count.
    """
    hertz = librosa.fft_frequencies(sr=SAMPLE_RATE, n_fft=N_FFT)
    power = power + SILENCE  # a silent frame has a flat spectrum, not none
    level = decibels(power)
    octaves, columns = np.log2(np.maximum(hertz, 50) / 50), power.T
    centroid = librosa.feature.spectral_centroid(S=columns, freq=octaves)
    spread = librosa.feature.spectral_bandwidth(S=columns, freq=octaves, centroid=centroid)
    rolloff = librosa.feature.spectral_rolloff(S=columns, freq=octaves, roll_percent=0.85)
    flatness = decibels(librosa.feature.spectral_flatness(S=columns, power=1.0))
    root = np.sqrt(power / power.sum(axis=1, keepdims=True))
    flux = np.linalg.norm(np.diff(root, axis=0, prepend=root[:1]), axis=1)

    def band(low: float, high: float) -> np.ndarray:
        return (hertz >= low) & (hertz < high)

    def band_level(low: float, high: float) -> np.ndarray:
        return decibels(power[:, band(low, high)].sum(axis=1))

    def slope(low: float, high: float) -> np.ndarray:
        kilohertz = hertz[band(low, high)] / 1000
        kilohertz -= kilohertz.mean()
        return level[:, band(low, high)] @ kilohertz / (kilohertz @ kilohertz)

    alpha_ratio = band_level(50, 1000) - band_level(1000, 5000)
    hammarberg = level[:, band(0, 2000)].max(axis=1) - level[:, band(2000, 5000)].max(axis=1)
    energy = decibels(power.sum(axis=1) / N_FFT)
    return np.column_stack(
        [energy, centroid[0], spread[0], rolloff[0], flatness[0], flux, alpha_ratio, hammarberg, slope(0, 500),
         slope(500, 1500)]
    )  # fmt: skip


def track_pitch(samples: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return pitch and periodicity of every frame, by the autocorrelation corrected for the window's own.

    The method of Boersma, "Accurate short-term analysis of the fundamental frequency and the harmonics-to-noise ratio
    of a sampled sound" (1993), with the best candidate of each frame taken by itself. librosa's pyin makes fewer octave
    errors but runs at 9 times real time, this at 130; its yin is faster, but makes more of them and has no voicing.

    Returns
    -------
    pitch : (T,) semitones above 27.5 Hz; NaN where unvoiced.
    strength : (T,) autocorrelation at the period, near 0 for noise and 1 for a periodic sound; 0 without a candidate.
    """
    correlation, power = _autocorrelation(samples)
    first, last = round(SAMPLE_RATE / HIGHEST_PITCH), round(SAMPLE_RATE / LOWEST_PITCH)
    lags = np.arange(first, last + 1)
    before, at, after = (correlation[:, first + step : last + 1 + step] for step in (-1, 0, 1))
    is_peak = (at >= before) & (at > after)
    # A peak's top lies between samples: that of the parabola through it and its neighbours. Without it the multiple of
    # a short period that happens to fall on a sample would win.
    curvature = np.where(is_peak, np.minimum(before - 2 * at + after, -SILENCE), -1.0)
    shift = np.clip((after - before) / (-2 * curvature), -0.5, 0.5)
    top = at + shift * (after - before) / 4
    score = np.where(is_peak, top - OCTAVE_COST * np.log2(lags / first), -np.inf)
    rows, best = np.arange(len(score)), score.argmax(axis=1)
    strength = np.where(is_peak.any(axis=1), top[rows, best], 0.0)
    period = lags[best] + np.where(is_peak[rows, best], shift[rows, best], 0.0)
    level = decibels(power)
    voiced = (strength > VOICED_STRENGTH) & (level > level.max() - VOICED_RANGE)
    return np.where(voiced, 12 * np.log2(SAMPLE_RATE / period / PITCH_REFERENCE), np.nan), strength


def _autocorrelation(samples: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return (T, lags) normalised autocorrelation, 1 at lag 0 and all 0 for a silent frame.

    (T,) power of the frames.
    """
    # Not above: the encoders' names are learned by importing this, and scipy.signal takes half a second.
    from scipy.fft import irfft, next_fast_len, rfft
    from scipy.signal.windows import hann

    window = hann(PITCH_WINDOW)
    size = next_fast_len(2 * PITCH_WINDOW, real=True)

    def correlate(rows: np.ndarray) -> np.ndarray:
        return irfft(np.abs(rfft(rows, size)) ** 2, size)[..., :PITCH_WINDOW]

    padded = np.pad(samples.astype(np.float64), (PITCH_WINDOW // 2, PITCH_WINDOW))
    starts = np.arange(len(samples) // HOP + 1) * HOP
    frames = np.lib.stride_tricks.sliding_window_view(padded, PITCH_WINDOW)[starts]
    own, raw = correlate(window), correlate((frames - frames.mean(axis=1, keepdims=True)) * window)
    power = raw[:, 0] / own[0]
    audible = power[:, None] > SILENCE
    # Lags near the window's length have next to nothing of the window left to divide by; none of them is looked at.
    return np.where(audible, raw / np.maximum(raw[:, :1], own[0] * SILENCE), 0) * own[0] / np.maximum(own, 1e-6), power


@cache
def _mel_bands() -> np.ndarray:
    """Return (513, 64) triangles, evenly spaced in mel (HTK's formula), each 1 at its top."""
    bands = librosa.filters.mel(
        sr=SAMPLE_RATE, n_fft=N_FFT, n_mels=BANDS, fmin=50, fmax=SAMPLE_RATE / 2, htk=True, norm=None, dtype=np.float64
    )
    return bands.T
