"""What encoders of pictures share: one token a frame, masked where no face was found."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from viper.encoders.base import Encoder, split_like
from viper.media.pictures import Frames
from viper.store import Feature


@dataclass(frozen=True)
class PictureSample:
    """One clip's pictures ready for the device, with the times and the mask of its T frames.

    `rows` is (n, 3, H, W) uint8 for a network, or (n, D) float32 where the host did all of the work: of the n frames
    that are `found` only. The token of another frame is masked, whatever is in the picture.
    """

    rows: np.ndarray
    times: np.ndarray
    found: np.ndarray

    def __len__(self) -> int:
        return len(self.rows)


def blank_frames() -> Frames:
    """Return one black picture, on which a network is tried."""
    return Frames([np.zeros((64, 64, 3), np.uint8)], np.zeros(1), np.ones(1, bool))


class PictureEncoder(Encoder[Frames, PictureSample]):
    """An encoder of pictures: one token a frame, masked where no face was found."""

    modality = "visual"
    reads: ClassVar[str] = "frames"

    def size(self, sample: PictureSample) -> int:
        """Return the number of frames that are looked at."""
        return len(sample)

    def load(self, content: Frames) -> PictureSample:
        """Make the pictures ready that a face was found in, or not looked for."""
        seen = content.seen()
        rows = self.rows(seen) if len(seen.images) else np.zeros((0, 1), np.float32)
        return PictureSample(rows, content.times, content.found)

    @abstractmethod
    def rows(self, frames: Frames) -> np.ndarray:
        """Return what `load` makes of at least one picture: see PictureSample."""

    @staticmethod
    def features(tokens: np.ndarray, samples: list[PictureSample], width: int) -> list[Feature]:
        """Put the tokens of all samples' rows in the places of their frames; a clip without frames is absent."""
        features = []
        for own, sample in zip(split_like(tokens, samples), samples, strict=True):
            placed = np.zeros((len(sample.times), width), np.float32)
            placed[sample.found] = own
            features.append(Feature.make(placed, sample.found, sample.times) if len(placed) else Feature.absent(width))
        return features

    def on_host(self, samples: list[PictureSample]) -> list[Feature]:
        """Return the features of an encoder whose `load` did all of the work."""
        width = self.info().width
        return self.features(np.concatenate([sample.rows.reshape(-1, width) for sample in samples]), samples, width)
