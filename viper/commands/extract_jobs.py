"""What the stage extract_features does with a clip: read, load, encode, save; and whether it is done."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from viper.encoders.base import Encoder
from viper.errors import ClipError
from viper.fingerprints import passes
from viper.media.clips import Clip, Content, SoundClip
from viper.media.sources import Sourced, read_sourced
from viper.store import Feature, FeatureStore


@dataclass(frozen=True)
class Read:
    """Reads what encoders are given; sound at the rate that the encoder wants, so that it is resampled once."""

    rate: int | None

    def __call__(self, clip: Clip) -> Sourced[Content]:
        if isinstance(clip, SoundClip) and self.rate is not None:
            clip = dataclasses.replace(clip, rate=self.rate)
        return read_sourced(clip, clip.read)


@dataclass(frozen=True)
class Load:
    """The encoder's work on the host."""

    encoder: Encoder[Any, Any]

    def __call__(self, content: Sourced[Content]) -> Sourced[Any]:
        return Sourced(self.encoder.load(content.value), content.source)


@dataclass(frozen=True)
class Size:
    """How many device items are in a sample."""

    encoder: Encoder[Any, Any]

    def __call__(self, sample: Sourced[Any]) -> int:
        return self.encoder.size(sample.value)


class Encode:
    """The encoder on its device; a copy of this, in another process, loads the weights when it is first called."""

    def __init__(self, encoder: Encoder[Any, Any], batch_size: int, runtime: tuple[str, str, bool]) -> None:
        """`runtime` : device, precision and whether to compile, as `viper.engine.device.choose_runtime` takes them."""
        self.encoder, self.batch_size, self._runtime_options = encoder, batch_size, runtime
        self._is_prepared = False

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_is_prepared": False}

    def prepare(self, recorded: str | None = None) -> None:
        """Load the weights onto the device that the options name; `recorded` is the precision that `auto` keeps.

        Copies of this, in other processes and on other machines, compute in the precision that is chosen here.
        """
        # Not above: importing torch takes seconds, and --help should not.
        from viper.engine.device import choose_runtime, keep_freed_memory

        device, precision, compiled = self._runtime_options
        runtime = choose_runtime(device, precision, compiled, recorded)
        if runtime.device.type == "cpu":
            keep_freed_memory()
        self._runtime_options = (device, runtime.precision_name, compiled)
        self.encoder.prepare(runtime)
        self._is_prepared = True

    def __call__(self, samples: list[Sourced[Any]]) -> list[Sourced[Feature]]:
        if not self._is_prepared:
            self.prepare()
        features = self.encoder.encode([sample.value for sample in samples], self.batch_size)
        return [Sourced(feature, sample.source) for feature, sample in zip(features, samples, strict=True)]


@dataclass(frozen=True)
class Save:
    """Writes a clip's feature, with the fingerprint of what it was made from."""

    store: FeatureStore

    def __call__(self, clip: Clip, feature: Sourced[Feature]) -> None:
        self.store.write(clip.id, feature.value, feature.source)


@dataclass(frozen=True)
class IsDone:
    """Whether a clip's feature exists, is valid, and was made from what the clip now is."""

    store: FeatureStore

    def __call__(self, clip: Clip) -> bool:
        # What is not there yet is read once, by the process that makes it.
        if clip.id not in self.store:
            return False
        try:
            source = clip.source()
        except ClipError:
            return False
        # A file that was found to be whole, and made from this by this encoder, need not be opened until it changes.
        what = f"{source} {self.store.info.identity}"
        return passes(self.store.path(clip.id), what, lambda: self._is_current(clip.id, source))

    def _is_current(self, clip: str, source: str) -> bool:
        return self.store.is_current(clip, source) and self.store.problem(clip, verify=True) is None
