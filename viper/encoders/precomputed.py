"""The encoder that encodes nothing: features other tools made, brought into a store."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np

from viper.encoders.base import Encoder
from viper.errors import ClipError, UserError
from viper.media.imports.table import Table
from viper.store import EncoderInfo, Feature

DEFAULT_STEP = 1.0  # seconds


class ImportedEncoder(Encoder[Table, Table]):
    """Pass tables on; every clip must have the channels of the first.

    Parameters
    ----------
    modality : the modality they are for.
    example : a clip's table, which settles the width and the channels' names.
    step_seconds : between the tokens of a table without times, `DEFAULT_STEP` where it is None. For tables with times
        it must be None: else a UserError.
    key : what was taken of pickles, where it was the user who chose it; for the record.
    """

    kind: ClassVar[str] = "imported"
    reads: ClassVar[str] = "files"

    def __init__(
        self, modality: str, example: Table, step_seconds: float | None = None, key: str | None = None
    ) -> None:
        if step_seconds is not None and not (np.isfinite(step_seconds) and step_seconds > 0):
            raise UserError(f"--step_seconds {step_seconds:g}: must be above 0")
        if step_seconds is not None and example.times is not None:
            raise UserError("--step_seconds: the files have times of their own; leave it out")
        self.modality = modality
        self._width, self._channels = example.tokens.shape[1], example.channels
        self._step, self._key = step_seconds, key

    @classmethod
    def made(cls, info: EncoderInfo) -> bool:
        """Return whether the record is of features made elsewhere."""
        return info.source == "files"

    @classmethod
    def from_record(cls, info: EncoderInfo, model: str | None) -> ImportedEncoder:
        """Refuse: nothing here can make such features."""
        raise UserError("its features were made elsewhere and brought in; no encoder here can make them")

    def info(self) -> EncoderInfo:
        """Return the channels and what the user said: all that is known."""
        options: dict[str, Any] = {"channels": list(self._channels)}
        told = {"step_seconds": self._step, "key": self._key}
        options |= {name: value for name, value in told.items() if value is not None}
        return EncoderInfo(self.kind, self.modality, self._width, options)

    def load(self, content: Table) -> Table:
        """Check the channels."""
        if content.tokens.shape[1] != self._width:
            raise ClipError(f"{content.tokens.shape[1]} channels, while the first file has {self._width}")
        if content.channels != self._channels:
            raise ClipError("its channels have other names, or another order, than those of the first file")
        return content

    def encode(self, samples: list[Table], batch_size: int) -> list[Feature]:
        """Return them as they are."""
        return [Feature.make(sample.tokens, sample.mask, self._times(sample)) for sample in samples]

    def _times(self, sample: Table) -> np.ndarray:
        if sample.times is not None:
            return sample.times
        return np.arange(len(sample.tokens)) * (DEFAULT_STEP if self._step is None else self._step)
