"""Subtitles through a text network: any transformers text encoder."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from viper.encoders.base import ShortName
from viper.encoders.pretrained import is_model
from viper.encoders.words import ROBERTA, CueEncoder, CueSample, SentenceModel
from viper.store import EncoderInfo, Feature

if TYPE_CHECKING:
    from viper.engine.device import Runtime


class SubtitleEncoder(CueEncoder):
    """A transformers text encoder over subtitles: each cue's class token."""

    kind: ClassVar[str] = "subtitles"
    names = (ShortName("roberta-base", "RoBERTa on subtitles, 768", ROBERTA),)
    packages = ("transformers",)

    def __init__(self, model: str) -> None:
        self.model = model
        self._sentences: SentenceModel | None = None

    @classmethod
    def matches(cls, model: str) -> bool:
        """Take any model."""
        return is_model(model)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_sentences": None}

    def prepare(self, runtime: Runtime) -> None:
        """Load the text encoder."""
        self._sentences = SentenceModel(self.model, runtime)

    def info(self) -> EncoderInfo:
        """Return the weights, which decide the values."""
        assert self._sentences is not None
        options = self._sentences.options
        return EncoderInfo(
            self.kind, self.modality, self._sentences.width, options, self.model, precision=self._sentences.precision
        )

    def encode(self, samples: list[CueSample], batch_size: int) -> list[Feature]:
        """Return one token a cue."""
        assert self._sentences is not None
        texts = [text for sample in samples for text in sample.texts]
        return self.features(self._sentences.embed(texts, batch_size), samples, self._sentences.width)
