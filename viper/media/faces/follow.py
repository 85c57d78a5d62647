"""Finding one person's face through a clip: MTCNN's detections, followed from frame to frame."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import torch

# Two boxes in neighbouring frames belong to one person when, grown to so many times their size, they overlap at least
# so much (intersection over union). Chosen frames may be a second apart, in which a head moves by its own width.
REACH = 2.0
SAME_PERSON_OVERLAP = 0.2
# Detections below this probability are not faces often enough to follow.
MIN_PROBABILITY = 0.8


@dataclass(frozen=True)
class Detection:
    """One face: box (x0, y0, x1, y1) and five points (eyes, nose, mouth corners) in pixels, MTCNN's probability."""

    box: np.ndarray
    score: float
    landmarks: np.ndarray

    @property
    def weight(self) -> float:
        """Size times probability, by which the person the clip is about is chosen."""
        width, height = self.box[2:] - self.box[:2]
        return float(max(width, 0) * max(height, 0) * self.score)


@dataclass(frozen=True)
class FaceBox:
    """Where the followed face is in a frame; `found` is False where the box was taken from its neighbours."""

    box: np.ndarray
    found: bool
    score: float = 0.0
    landmarks: np.ndarray | None = None


# On a processor: pictures are large and the networks small, so that memory is what a batch costs.
MOST_ON_CPU = 4


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
        """All faces of each (H, W, 3) uint8 image. Images of one size are detected together, at most `batch_size`."""
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


def overlap(box: np.ndarray, other: np.ndarray) -> float:
    """Intersection over union of two boxes (x0, y0, x1, y1)."""
    width, height = np.minimum(box[2:], other[2:]) - np.maximum(box[:2], other[:2])
    if width <= 0 or height <= 0:
        return 0.0
    union = np.prod(box[2:] - box[:2]) + np.prod(other[2:] - other[:2]) - width * height
    return float(width * height / union)


def _grown(box: np.ndarray) -> np.ndarray:
    middle, half = (box[:2] + box[2:]) / 2, (box[2:] - box[:2]) / 2
    return np.concatenate([middle - REACH * half, middle + REACH * half])


def follow(detections: Sequence[Sequence[Detection]]) -> list[FaceBox] | None:
    """Follows ONE person through the frames of a clip.

    Every detection joins the person whose last box it overlaps most, both boxes grown; the person with the largest sum
    of size times probability is kept. A frame in which that person was not detected takes the box between the
    neighbouring ones, or the nearest one at either end, and is marked as not found.

    Returns None when no frame has a face.
    """
    people: list[dict[int, Detection]] = []
    for number, faces in enumerate(detections):
        pairs = sorted(
            ((overlap(_grown(person[max(person)].box), _grown(face.box)), p, f)
             for p, person in enumerate(people) for f, face in enumerate(faces)),
            reverse=True,
        )  # fmt: skip
        joined: set[int] = set()
        for shared, p, f in pairs:
            if shared >= SAME_PERSON_OVERLAP and f not in joined and number not in people[p]:
                people[p][number] = faces[f]
                joined.add(f)
        people.extend({number: face} for f, face in enumerate(faces) if f not in joined)
    if not people:
        return None
    person = max(people, key=lambda person: sum(face.weight for face in person.values()))
    known = sorted(person)
    boxes = np.stack([person[number].box for number in known])
    between = np.stack([np.interp(range(len(detections)), known, boxes[:, side]) for side in range(4)], axis=1)
    return [
        FaceBox(person[i].box, True, person[i].score, person[i].landmarks) if i in person else FaceBox(box, False)
        for i, box in enumerate(between)
    ]


def crop_square(image: np.ndarray, box: np.ndarray, margin: float, size: int) -> tuple[np.ndarray, list[float]]:
    """The square around a face, `margin` of the box's longer side added on every side, resized to `size`.

    What lies outside the picture is filled with its nearest pixels, so that faces keep their proportions.

    Returns
    -------
    (size, size, 3) uint8, and the square (x0, y0, x1, y1) in the picture's pixels.
    """
    import cv2

    centre = (box[:2] + box[2:]) / 2
    side = max(1.0, float(max(box[2:] - box[:2])) * (1 + 2 * margin))
    x0, y0 = (centre - side / 2).tolist()
    shrink = side / size
    # INTER_AREA of a shrinking resize averages what falls into a pixel; warpAffine would skip pixels and flicker.
    pad = np.ceil([max(0, -y0), max(0, y0 + side - image.shape[0]), max(0, -x0), max(0, x0 + side - image.shape[1])])
    top, bottom, left, right = (int(value) for value in pad)
    if top or bottom or left or right:
        image = cv2.copyMakeBorder(image, top, bottom, left, right, cv2.BORDER_REPLICATE)
    rows = slice(round(y0 + top), max(round(y0 + top) + 1, round(y0 + top + side)))
    columns = slice(round(x0 + left), max(round(x0 + left) + 1, round(x0 + left + side)))
    interpolation = cv2.INTER_AREA if shrink > 1 else cv2.INTER_CUBIC
    square = cv2.resize(image[rows, columns], (size, size), interpolation=interpolation)
    return square, [round(value, 2) for value in (x0, y0, x0 + side, y0 + side)]
