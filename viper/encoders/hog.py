"""Histograms of oriented gradients: pictures without weights."""

from __future__ import annotations

from typing import ClassVar

import cv2
import numpy as np

from viper.encoders.base import ShortName
from viper.encoders.pictures import PictureEncoder, PictureSample
from viper.media.pictures import Frames
from viper.store import EncoderInfo, Feature


class HogEncoder(PictureEncoder):
    """Histograms of oriented gradients (Dalal and Triggs 2005) of the grey picture at 64 x 64: no weights.

    9 orientations in cells of 8 x 8 pixels, normalised in blocks of 2 x 2 cells: 1764 channels.
    """

    kind: ClassVar[str] = "hog"
    names = (ShortName("hog", "histograms of oriented gradients, 1764"),)
    SIDE = 64
    CELL = 8
    BLOCK = 2
    ORIENTATIONS = 9

    def info(self) -> EncoderInfo:
        """Return the geometry, which decides the values."""
        blocks = self.SIDE // self.CELL - self.BLOCK + 1
        width = blocks * blocks * self.BLOCK * self.BLOCK * self.ORIENTATIONS
        return EncoderInfo(self.kind, self.modality, width, {"side": self.SIDE, "cell": self.CELL, "block": self.BLOCK})

    def rows(self, frames: Frames) -> np.ndarray:
        """Do all of the work: it needs no device."""
        from skimage.feature import hog

        rows = []
        for image in frames.images:
            grey = cv2.resize(
                cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), (self.SIDE, self.SIDE), interpolation=cv2.INTER_AREA
            )
            rows.append(hog(grey, self.ORIENTATIONS, (self.CELL, self.CELL), (self.BLOCK, self.BLOCK)))
        return np.array(rows, np.float32)

    def encode(self, samples: list[PictureSample], batch_size: int) -> list[Feature]:
        """Hand on what `load` made."""
        return self.on_host(samples)
