"""Hashed words of subtitles: without weights."""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from viper.encoders.base import ShortName
from viper.encoders.words import CueEncoder, CueSample
from viper.media.subtitles import Cue
from viper.store import EncoderInfo, Feature


class HashedWordsEncoder(CueEncoder):
    """Bags of hashed words (scikit-learn's HashingVectorizer, signed, unit length): 256 channels, no weights."""

    kind: ClassVar[str] = "hashed"
    names = (ShortName("hashed", "hashed words of subtitles, 256"),)
    packages = ("sklearn",)
    WIDTH = 256

    def info(self) -> EncoderInfo:
        """Return the width; there is nothing to choose."""
        return EncoderInfo(self.kind, self.modality, self.WIDTH)

    def load(self, content: list[Cue] | None) -> CueSample:
        """Do all of the work."""
        from sklearn.feature_extraction.text import HashingVectorizer

        sample = super().load(content)
        if not len(sample):
            return sample
        vectors = HashingVectorizer(n_features=self.WIDTH).transform(sample.texts).toarray()
        return CueSample(sample.texts, sample.times, vectors.astype(np.float32))

    def encode(self, samples: list[CueSample], batch_size: int) -> list[Feature]:
        """Hand on what `load` made."""
        rows = [sample.rows for sample in samples if sample.rows is not None]
        return self.features(np.concatenate(rows) if rows else np.zeros((0, self.WIDTH)), samples, self.WIDTH)
