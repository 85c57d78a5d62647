"""What the engine does with a clip of the extract commands; it can be sent to other processes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from viper.media.clips import Clip, Content
from viper.store import Feature, FeatureStore

if TYPE_CHECKING:
    from viper.commands.extract_features import ExtractOptions
    from viper.encoders.base import Encoder


def read_clip(clip: Clip) -> Content:
    """What encoders are given."""
    return clip.read()


class Encode:
    """The encoder on its device; a copy of this, in another process, loads the weights when it is first called."""

    def __init__(self, encoder: Encoder[Any, Any], config: ExtractOptions) -> None:
        self.encoder = encoder
        self.batch_size: int = getattr(config, "batch_size")  # noqa: B009  each subclass has it, with its own default
        self._runtime_options = (config.device, config.precision, config.compile)
        self._is_prepared = False

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_is_prepared": False}

    def prepare(self, recorded: str | None = None) -> None:
        """Load the weights onto the device that the options name; `recorded` is the precision `auto` goes on in.

        Copies of this, in other processes and on other machines, compute in the precision that is chosen here.
        """
        # Not above: importing torch takes seconds, and --help should not.
        from viper.engine.device import choose_runtime

        device, precision, compiled = self._runtime_options
        runtime = choose_runtime(device, precision, compiled, recorded)
        self._runtime_options = (device, runtime.precision_name, compiled)
        self.encoder.prepare(runtime)
        self._is_prepared = True

    def __call__(self, samples: list[Any]) -> list[Feature]:
        if not self._is_prepared:
            self.prepare()
        return self.encoder.encode(samples, self.batch_size)


@dataclass(frozen=True)
class Save:
    """Writes a clip's feature, with the fingerprint of what it was made from."""

    store: FeatureStore

    def __call__(self, clip: Clip, feature: Feature) -> None:
        self.store.write(clip.id, feature, clip.source())


@dataclass(frozen=True)
class IsDone:
    """Whether a clip's feature is there, valid, and made from what the clip now is."""

    store: FeatureStore

    def __call__(self, clip: Clip) -> bool:
        return self.store.is_current(clip.id, clip.source())
