"""The encoder that encodes nothing: features other tools made, brought into a store."""

from __future__ import annotations

from typing import ClassVar

from viper.encoders.base import Encoder
from viper.errors import ClipError
from viper.media.features import Table
from viper.store import EncoderInfo, Feature


class ImportedEncoder(Encoder[Table, Table]):
    """Passes tables on; every clip must have the channels of the first.

    Parameters
    ----------
    modality : the modality they are for.
    example : a clip's table, which settles the width and the channels' names.
    """

    kind: ClassVar[str] = "imported"
    reads: ClassVar[str] = "files"

    def __init__(self, modality: str, example: Table) -> None:
        self.modality = modality
        self._width, self._channels = example.tokens.shape[1], example.channels

    def info(self) -> EncoderInfo:
        """The channels are all that is known."""
        return EncoderInfo(self.kind, self.modality, self._width, {"channels": list(self._channels)})

    def load(self, content: Table) -> Table:
        """Checks the channels."""
        if content.tokens.shape[1] != self._width:
            raise ClipError(f"{content.tokens.shape[1]} channels, while the first file has {self._width}")
        if content.channels != self._channels:
            raise ClipError("its channels have other names, or another order, than those of the first file")
        return content

    def encode(self, samples: list[Table], batch_size: int) -> list[Feature]:
        """As they are."""
        return [Feature.make(sample.tokens, sample.mask, sample.times) for sample in samples]
