"""All faces of a picture: MTCNN's detections."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import torch

# Detections below this probability are not faces often enough to follow.
MIN_PROBABILITY = 0.8
# On a processor: pictures are large and the networks small, so that memory is what a batch costs.
MOST_ON_CPU = 4


@dataclass(frozen=True)
class Detection:
    """One face: box (x0, y0, x1, y1) and five points (eyes, nose, mouth corners) in pixels, MTCNN's probability."""

    box: np.ndarray
    score: float
    landmarks: np.ndarray


class FaceDetector:
    """facenet-pytorch's MTCNN (Zhang et al. 2016); its weights come with the package."""

    def __init__(self, device: torch.device, min_face_size: int) -> None:
        import torch
        from facenet_pytorch import MTCNN

        from viper.engine.device import DeviceBatches, Runtime

        self._batches = DeviceBatches(Runtime(device), MOST_ON_CPU)
        self._mtcnn: Any = MTCNN(keep_all=True, post_process=False, min_face_size=min_face_size, device=device)
        # Pictures come with their channels last, and pooling is several times faster when they stay there.
        self._mtcnn.to(memory_format=torch.channels_last)

    def detect(self, images: Sequence[np.ndarray], batch_size: int) -> list[list[Detection]]:
        """Return all faces of each (H, W, 3) uint8 image.

        Images of one size are detected together, at most `batch_size`.
        """
        found: list[list[Detection]] = [[] for _ in images]
        by_size: dict[tuple[int, ...], list[int]] = {}
        for position, image in enumerate(images):
            by_size.setdefault(image.shape, []).append(position)
        for positions in by_size.values():
            parts = self._batches.map(self._detect, [images[i] for i in positions], batch_size)
            for position, detections in zip(positions, chain.from_iterable(parts), strict=True):
                found[position] = detections
        return found

    def _detect(self, images: list[np.ndarray]) -> list[list[Detection]]:
        if min(images[0].shape[:2]) < self._mtcnn.min_face_size:
            return [[] for _ in images]
        boxes, scores, points = self._mtcnn.detect(np.stack(images), landmarks=True)
        return [
            []
            if image_boxes is None
            else [
                Detection(np.asarray(box, np.float64), float(score), np.asarray(landmarks, np.float64))
                for box, score, landmarks in zip(image_boxes, image_scores, image_points, strict=True)
                if score >= MIN_PROBABILITY
            ]
            for image_boxes, image_scores, image_points in zip(boxes, scores, points, strict=True)
        ]
