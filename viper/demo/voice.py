"""A speech-like sound track: a glottal source through formant resonators, syllable by syllable.

The source-filter model of Fant, with Rosenberg's (1971) glottal pulse and Klatt's (1980) second-order resonators. Fear
raises the pitch, hurries the syllables and presses the voice (a shorter open phase: a brighter spectrum); Anxiety makes
it tremble (tremolo, jitter) and breathe.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.signal import butter, lfilter, sosfilt

from viper.demo.identity import Identity
from viper.demo.reaction import check_intensities, rise

Samples = NDArray[np.float64]

# First three formants (Hz) of an adult male's vowels, after Peterson and Barney (1952): i, e, ae, a, o, u, schwa.
_VOWELS = np.array(
    [
        (270, 2290, 3010),
        (530, 1840, 2480),
        (660, 1720, 2410),
        (730, 1090, 2440),
        (570, 840, 2410),
        (300, 870, 2240),
        (500, 1500, 2500),
    ],
    dtype=float,
)
_BANDWIDTHS = (70.0, 100.0, 140.0)  # Hz
_SYLLABLES_PER_SECOND = 3.0
_RINGING = 0.04  # seconds for which the mouth resonates after a syllable
_ROOM_NOISE = 0.0015
_LEVEL = 0.075  # standard deviation at rest; loud enough, and hardly ever clipped


class _Syllable(NamedTuple):
    start: float  # seconds
    length: float
    vowel: int
    stress: float


def voice(
    intensities: Mapping[str, float], identity: Identity, seconds: float, rate: int, rng: np.random.Generator
) -> NDArray[np.float32]:
    """Return (round(seconds * rate),) float32 in [-1, 1]: the identity says nonsense syllables in a mood.

    Only Fear and Anxiety of `intensities` are heard. They rise to their apex as the face does.
    """
    values = check_intensities(intensities)
    n = round(seconds * rate)
    time = np.arange(n) / rate
    fear = values["Fear"] * rise(time, seconds, rng)
    anxiety = values["Anxiety"] * rise(time, seconds, rng)
    syllables = _syllables(fear, seconds, rate, rng)
    source = _glottal_source(_pitch(identity, fear, anxiety, syllables, time, rng), 0.62 - 0.30 * fear, rate)
    speech = np.zeros(n)
    for syllable in syllables:
        begin = round(syllable.start * rate)
        piece = source[begin : begin + round(syllable.length * rate)]
        envelope = syllable.stress * np.sin(np.pi * np.linspace(0, 1, len(piece))) ** 0.6
        ringing = _formants(np.pad(piece * envelope, (0, round(_RINGING * rate))), syllable.vowel, identity, rate)
        speech[begin : begin + len(ringing)] += ringing[: n - begin]
    tremor = 0.5 * anxiety * (1 - np.cos(2 * np.pi * rng.uniform(7.0, 9.0) * time + rng.uniform(0, 6)))
    speech = _at_level(speech * (1 - 0.8 * tremor)) * (1 + 0.5 * fear)
    breath = _at_level(sosfilt(_breath_filter(identity, rate), rng.standard_normal(n)))
    flutter = 1 + 0.3 * np.sin(2 * np.pi * rng.uniform(0.8, 1.4) * time + rng.uniform(0, 6))
    mixed = speech + (0.01 + 0.45 * anxiety) * flutter * breath
    mixed = _LEVEL * rng.uniform(0.85, 1.15) * mixed + _ROOM_NOISE * rng.standard_normal(n)
    return np.clip(mixed, -1, 1).astype(np.float32)


def _syllables(fear: Samples, seconds: float, rate: int, rng: np.random.Generator) -> list[_Syllable]:
    syllables = []
    start = rng.uniform(0.02, 0.10)
    while start < seconds - 0.06:
        tempo = _SYLLABLES_PER_SECOND * (1 + 1.2 * fear[min(round(start * rate), len(fear) - 1)])
        period = rng.uniform(0.85, 1.15) / tempo
        length = min(0.75 * period, seconds - start)
        syllables.append(_Syllable(start, length, int(rng.integers(len(_VOWELS))), rng.uniform(0.8, 1.1)))
        start += period
    return syllables


def _pitch(
    identity: Identity,
    fear: Samples,
    anxiety: Samples,
    syllables: list[_Syllable],
    time: Samples,
    rng: np.random.Generator,
) -> Samples:
    """Return the fundamental frequency at each sample, Hz: accents, and an octave's rise at full Fear."""
    accents = np.interp(time, [s.start for s in syllables], rng.normal(0, 1.0, len(syllables))) if syllables else 0.0
    knots = np.arange(0, len(time) + 400, 400)
    jitter = np.interp(np.arange(len(time)), knots, rng.standard_normal(len(knots)))
    vibrato = np.sin(2 * np.pi * rng.uniform(6, 8) * time + rng.uniform(0, 6))
    semitones = accents - 1.0 * time + 12.0 * fear + anxiety * (0.7 * jitter + 0.6 * vibrato) + 0.08 * jitter
    return np.asarray(identity.pitch * 2 ** (semitones / 12))


def _glottal_source(pitch: Samples, open_quotient: Samples, rate: int) -> Samples:
    """Return the derivative of Rosenberg's glottal flow; `open_quotient` is the part of a cycle with open glottis."""
    phase = np.cumsum(pitch) / rate % 1.0
    opening, closing = 0.7 * open_quotient, 0.3 * open_quotient
    rising = 0.5 * (1 - np.cos(np.pi * np.minimum(phase / opening, 1)))
    falling = np.cos(0.5 * np.pi * np.clip((phase - opening) / closing, 0, 1))
    return np.diff(rising * falling, prepend=0.0)


def _formants(piece: Samples, vowel: int, identity: Identity, rate: int) -> Samples:
    for frequency, bandwidth in zip(_VOWELS[vowel] * identity.formant_scale, _BANDWIDTHS, strict=True):
        radius = np.exp(-np.pi * bandwidth / rate)
        feedback = [1.0, -2 * radius * np.cos(2 * np.pi * frequency / rate), radius**2]
        piece = lfilter([sum(feedback)], feedback, piece)  # the sum gives unit gain at 0 Hz
    return piece


def _breath_filter(identity: Identity, rate: int) -> NDArray[np.float64]:
    low = 1400.0 * identity.formant_scale
    return np.asarray(butter(2, [low, min(4.5 * low, 0.45 * rate)], "bandpass", fs=rate, output="sos"))


def _at_level(samples: Samples) -> Samples:
    return samples / (np.sqrt(np.mean(samples**2)) + 1e-9)
