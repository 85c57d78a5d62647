"""One person's face through the frames of a clip, from the detections in each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from viper.media.faces.detect import Detection

# Two boxes in neighbouring frames belong to one person when, grown to so many times their size, they overlap at least
# so much (intersection over union). Chosen frames may be a second apart, in which a head moves by its own width.
REACH = 2.0
SAME_PERSON_OVERLAP = 0.2


@dataclass(frozen=True)
class FaceBox:
    """Where the followed face is in a frame; `found` is False where the box was taken from its neighbours."""

    box: np.ndarray
    found: bool
    score: float = 0.0
    landmarks: np.ndarray | None = None


def overlap(box: np.ndarray, other: np.ndarray) -> float:
    """Return the intersection over union of two boxes (x0, y0, x1, y1)."""
    width, height = np.minimum(box[2:], other[2:]) - np.maximum(box[:2], other[:2])
    if width <= 0 or height <= 0:
        return 0.0
    union = np.prod(box[2:] - box[:2]) + np.prod(other[2:] - other[:2]) - width * height
    return float(width * height / union)


def _grown(box: np.ndarray) -> np.ndarray:
    middle, half = (box[:2] + box[2:]) / 2, (box[2:] - box[:2]) / 2
    return np.concatenate([middle - REACH * half, middle + REACH * half])


def follow(detections: Sequence[Sequence[Detection]]) -> list[FaceBox] | None:
    """Follow ONE person through the frames of a clip.

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
