"""eGeMAPS: the field's standard set of acoustic measures, by the package opensmile."""

from __future__ import annotations

import importlib.util
from functools import cached_property
from typing import Any, ClassVar

import numpy as np

from viper.encoders.base import ShortName
from viper.encoders.windows import MeasuringEncoder
from viper.errors import UserError
from viper.media.sound import Sound
from viper.store import EncoderInfo


class EgemapsEncoder(MeasuringEncoder):
    """The 88 functionals of eGeMAPS v02 (Eyben et al. 2016) of each window, by opensmile.

    opensmile is no part of viper and is free for research and private use only: a product needs audEERING's licence.
    """

    kind: ClassVar[str] = "egemaps"
    names = (ShortName("egemaps", "eGeMAPS v02 by opensmile (licence: research only), 88"),)
    packages = ("opensmile",)
    extra = "opensmile"
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
        """Return what decides the values: the set and the windows."""
        return EncoderInfo(self.kind, self.modality, self.width, {"set": "eGeMAPSv02", **self.options})

    def cut(self, sound: Sound, bounds: np.ndarray) -> list[np.ndarray]:
        """Measure each window by itself; what opensmile cannot tell (it answers NaN) is 0."""
        shortest = round(self.MIN_SECONDS * sound.rate)
        rows = []
        for start, stop in bounds:
            window = sound.samples[start:stop]
            window = np.resize(window, shortest) if len(window) < shortest else window
            rows.append(np.nan_to_num(self._smile.process_signal(window, sound.rate).to_numpy()[0]))
        return rows
