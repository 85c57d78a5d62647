"""Landmark geometry: facial expressions without weights."""

from __future__ import annotations

from typing import ClassVar

import cv2
import numpy as np

from viper.encoders.base import ShortName
from viper.encoders.pictures import PictureEncoder, PictureSample
from viper.errors import UserError
from viper.media.pictures import Frames
from viper.store import EncoderInfo, Feature

# Where the five points go in the aligned picture, as shares of its side: eyes, nose, corners of the mouth.
_TEMPLATE = np.array([(0.32, 0.36), (0.68, 0.36), (0.5, 0.56), (0.36, 0.74), (0.64, 0.74)])
# Parts of the aligned picture in which action units show: (left, top, right, bottom), as shares.
_PARTS = {
    "left brow": (0.18, 0.18, 0.46, 0.32),
    "right brow": (0.54, 0.18, 0.82, 0.32),
    "glabella": (0.42, 0.22, 0.58, 0.42),
    "left eye": (0.20, 0.30, 0.44, 0.42),
    "right eye": (0.56, 0.30, 0.80, 0.42),
    "nose": (0.38, 0.44, 0.62, 0.62),
    "left cheek": (0.16, 0.52, 0.36, 0.72),
    "right cheek": (0.64, 0.52, 0.84, 0.72),
    "upper lip": (0.36, 0.62, 0.64, 0.70),
    "mouth": (0.34, 0.68, 0.66, 0.84),
    "chin": (0.36, 0.84, 0.64, 0.98),
}


class LandmarkEncoder(PictureEncoder):
    """Landmark geometry and the texture around it, from MTCNN's five points and the crop: no weights.

    Nine distances and angles between the points, measured in eye distances with the head's roll taken out; then, in the
    face aligned to a template by its eyes and nose, the brightness (mean, deviation) and the strength of horizontal and
    vertical edges in eleven parts of the face, relative to the whole face. 53 channels.
    """

    kind: ClassVar[str] = "landmarks"
    modality = "FAU"
    names = (ShortName("landmarks", "landmark geometry and texture of face crops, 53"),)
    SIDE = 96
    N_GEOMETRY = 9
    N_TEXTURE = 4

    def info(self) -> EncoderInfo:
        """Return the width; there is nothing to choose."""
        return EncoderInfo(self.kind, self.modality, self.N_GEOMETRY + self.N_TEXTURE * len(_PARTS))

    def load(self, content: Frames) -> PictureSample:
        """Refuse pictures without points."""
        if content.points is None:
            raise UserError("landmarks are made from face crops: give the output of crop_images as --input_folder")
        return super().load(content)

    def rows(self, frames: Frames) -> np.ndarray:
        """Do all of the work."""
        assert frames.points is not None
        rows = np.zeros((len(frames.images), self.info().width), np.float32)
        for row, image, points in zip(rows, frames.images, frames.points, strict=True):
            pixels = points * (image.shape[1], image.shape[0])
            row[: self.N_GEOMETRY] = _geometry(pixels)
            row[self.N_GEOMETRY :] = self._texture(image, pixels)
        return rows

    def encode(self, samples: list[PictureSample], batch_size: int) -> list[Feature]:
        """Hand on what `load` made."""
        return self.on_host(samples)

    def _texture(self, image: np.ndarray, points: np.ndarray) -> np.ndarray:
        # The mouth moves with the expression, so it must not steer the alignment.
        matrix = _similarity(points[:3], _TEMPLATE[:3] * self.SIDE)
        grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
        face = cv2.warpAffine(grey, matrix, (self.SIDE, self.SIDE), borderMode=cv2.BORDER_REPLICATE).astype(np.float32)
        face = (face - face.mean()) / max(float(face.std()), 1.0)
        across, down = cv2.Sobel(face, cv2.CV_32F, 1, 0, scale=0.25), cv2.Sobel(face, cv2.CV_32F, 0, 1, scale=0.25)
        values = []
        for left, top, right, bottom in _PARTS.values():
            part = (
                slice(int(top * self.SIDE), int(bottom * self.SIDE)),
                slice(int(left * self.SIDE), int(right * self.SIDE)),
            )
            values += [face[part].mean(), face[part].std(), np.abs(across[part]).mean(), np.abs(down[part]).mean()]
        return np.array(values, np.float32)


def _geometry(points: np.ndarray) -> np.ndarray:
    """Return nine numbers of five points (5, 2) in pixels: eye distances, along and across the line of the eyes."""
    left_eye, right_eye, nose, left_mouth, right_mouth = points.astype(np.float64)
    along = right_eye - left_eye
    distance = max(float(np.hypot(*along)), 1e-6)
    axis = along / distance
    rotation = np.array([axis, (-axis[1], axis[0])])
    middle = (left_eye + right_eye) / 2
    nose, left, right = ((rotation @ (point - middle)) / distance for point in (nose, left_mouth, right_mouth))
    mouth = (left + right) / 2
    return np.array([
        *nose, *mouth,
        np.hypot(*(right - left)),  # width of the mouth
        np.hypot(*(mouth - nose)),  # from nose to mouth
        right[1] - left[1],  # slant of the mouth
        (left[0] + right[0]) / 2 - nose[0],  # turn of the head
        np.arctan2(axis[1], axis[0]),  # roll of the head
    ])  # fmt: skip


def _similarity(points: np.ndarray, goals: np.ndarray) -> np.ndarray:
    """Return the 2 x 3 similarity (rotation, scale, shift) that brings `points` nearest to `goals` (Umeyama 1991)."""
    from skimage.transform import SimilarityTransform

    return SimilarityTransform.from_estimate(points, goals).params[:2]
