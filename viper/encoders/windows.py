"""What encoders of sound share: half-overlapping windows, one token each."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from viper.encoders.base import MAX_TOKENS, Encoder, check_whole, split_like
from viper.errors import UserError
from viper.media.sampling import window_bounds
from viper.media.sound import SAMPLE_RATE, Sound, resampled
from viper.store import Feature


def cut_windows(sound: Sound, n: int, longest: float | None) -> tuple[np.ndarray, np.ndarray]:
    """Return bounds (n, 2) of windows in samples, none above `longest` seconds, and the seconds of their middles."""
    bounds = window_bounds(len(sound.samples), n)
    if longest is not None:
        most = max(1, round(longest * sound.rate))
        bounds = np.stack([bounds[:, 0], np.minimum(bounds[:, 1], bounds[:, 0] + most)], axis=1)
    return bounds, sound.start + bounds.mean(axis=1) / sound.rate


@dataclass(frozen=True)
class SoundSample:
    """One clip's windows, each a row of its own length, and the second in the middle of each. No sound: no windows.

    Networks that read spectrograms have several arrays a window, by name.
    """

    windows: list[Any]
    times: np.ndarray

    def __len__(self) -> int:
        return len(self.windows)


class WindowEncoder(Encoder["Sound | None", SoundSample]):
    """An encoder of sound: one token a window; n_fragments half-overlapping windows a clip.

    Parameters
    ----------
    n_fragments : windows a clip.
    fragment_seconds : where given, no window is longer than this (it is cut at its end); a shorter window stays as it
        is: zeros added to it would change its embedding, so none are.
    """

    modality = "audio"
    reads: ClassVar[str] = "sound"

    def __init__(self, n_fragments: int = 32, fragment_seconds: float | None = None) -> None:
        check_whole("n_fragments", n_fragments, 1, MAX_TOKENS)
        if fragment_seconds is not None and not fragment_seconds > 0:
            raise UserError(f"--fragment_seconds {fragment_seconds}: must be above 0")
        self.n_fragments, self.fragment_seconds = n_fragments, fragment_seconds

    @property
    def options(self) -> dict[str, Any]:
        """Return what decides the windows."""
        return {"n_fragments": self.n_fragments, "fragment_seconds": self.fragment_seconds}

    def size(self, sample: SoundSample) -> int:
        """Return the number of windows."""
        return len(sample)

    @property
    def rate(self) -> int:
        """The samples a second that it reads."""
        return SAMPLE_RATE

    def windows(self, sound: Sound) -> tuple[np.ndarray, np.ndarray]:
        """Return the bounds (n, 2) of the windows in samples, and the second in the middle of each."""
        return cut_windows(sound, self.n_fragments, self.fragment_seconds)

    def load(self, content: Sound | None) -> SoundSample:
        """Cut the sound, at the rate that is read, into windows and make each ready."""
        if content is None or not len(content.samples):
            return SoundSample([], np.zeros(0))
        content = resampled(content, self.rate)
        bounds, times = self.windows(content)
        return SoundSample(self.cut(content, bounds), times)

    @abstractmethod
    def cut(self, sound: Sound, bounds: np.ndarray) -> list[Any]:
        """Return the windows' arrays."""

    def features(self, tokens: Any, samples: list[SoundSample], width: int) -> list[Feature]:
        """Return one Feature a sample; zeros, all masked, for a clip without sound."""
        return [
            Feature.make(own, None, sample.times) if len(sample) else Feature.absent(width, self.n_fragments)
            for own, sample in zip(split_like(tokens, samples), samples, strict=True)
        ]


class MeasuringEncoder(WindowEncoder):
    """An encoder whose whole work is done by `cut`, in the worker processes."""

    width: ClassVar[int]

    @abstractmethod
    def cut(self, sound: Sound, bounds: np.ndarray) -> list[np.ndarray]:
        """Return the windows' tokens, each (width,)."""

    def encode(self, samples: list[SoundSample], batch_size: int) -> list[Feature]:
        """Hand on what `load` made."""
        rows = [row for sample in samples for row in sample.windows]
        return self.features(np.array(rows, np.float32).reshape(-1, self.width), samples, self.width)
