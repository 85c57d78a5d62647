"""Frames -> square crops of one person's face, with what faces.json says of each and of everybody seen."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import cv2
import numpy as np

from viper.errors import UserError
from viper.logs import log
from viper.media.faces.choose import boxes_of, rank
from viper.media.faces.detect import Detection, FaceDetector
from viper.media.faces.follow import faces_in, follow
from viper.media.faces.shots import shot_numbers
from viper.media.pictures import Frames

BATCH_SIZE = 64
# How the person is followed and chosen: raised where the same frames give other crops, so that those are made again.
# Records of the first way, which joined boxes by overlap alone, do not have it.
FOLLOWING = 2
# Of a crowd faces.json names the first.
MOST_PEOPLE = 20
MAX_MARGIN, MAX_SIDE = 10, 4096


@dataclass(frozen=True)
class CropOptions:
    """All that decides the crops; see the options of crop_images, which are called the same."""

    margin: float = 0.1
    min_face_size: int = 40
    image_size: int = 224
    no_face: Literal["whole", "skip"] = "whole"

    def check(self) -> None:
        """Raise a UserError for wrong ones."""
        if self.margin < 0 or self.min_face_size < 12 or self.image_size < 16:
            raise UserError("--margin must be at least 0, --min_face_size at least 12, --image_size at least 16")
        if not self.margin <= MAX_MARGIN or self.image_size > MAX_SIDE or int(self.image_size) != self.image_size:
            raise UserError(f"--margin must be at most {MAX_MARGIN}, --image_size a whole number, at most {MAX_SIDE}")

    def record(self) -> dict[str, Any]:
        """Return the options as faces.json has them."""
        return dataclasses.asdict(self) | {"following": FOLLOWING}

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> CropOptions:
        """Return the options whose record this is; others than this version has are a UserError."""
        known = dict(record)
        following = known.pop("following", None)
        if following is None:
            log.warning(
                "faces were followed by an earlier version of viper: of several people this one may take another"
            )
        elif following != FOLLOWING:
            raise UserError(f"faces were followed in a way that this version of viper does not know ({following!r})")
        try:
            options = cls(**known)
            options.check()
        except TypeError as error:
            raise UserError(
                f"faces were cropped in a way that this version of viper does not know ({error})"
            ) from error
        if options.no_face not in ("whole", "skip"):
            raise UserError(f"faces were cropped with --no_face {options.no_face}, which is neither whole nor skip")
        return options


@dataclass(frozen=True)
class NumberedFrames:
    """Frames of one clip with their numbers in the video, which name the crops."""

    indices: list[int]
    frames: Frames


@dataclass(frozen=True)
class Crops:
    """The crops of one clip.

    Attributes
    ----------
    images : crops (size, size, 3) uint8; whole frames of a clip without any face.
    records : what faces.json says of each.
    people : what faces.json says of those who were seen, the followed one first.
    n_people : how many were seen often enough to count.
    cuts : the frame numbers with which a new shot begins.
    """

    images: list[np.ndarray]
    records: list[dict[str, Any]]
    people: list[dict[str, Any]]
    n_people: int
    cuts: list[int]

    def record(self) -> dict[str, Any]:
        """Return what faces.json says of the clip as a whole."""
        return {"n_people": self.n_people, "people": self.people, "cuts": self.cuts}


class FaceCropper:
    """Detects, follows and cuts; the detector is made when the first clip needs it, and by each copy for itself."""

    def __init__(self, options: CropOptions, device: str = "auto", batch_size: int = BATCH_SIZE) -> None:
        self._options, self._device, self._batch_size = options, device, batch_size
        self._detector: FaceDetector | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_detector": None}

    def __call__(self, samples: Sequence[NumberedFrames]) -> list[Crops]:
        """Return the crops of each clip, whose frames go through the detector together with the others'."""
        if self._detector is None:
            # Not above: importing torch takes seconds, and --help should not.
            from viper.engine.device import choose_device

            self._detector = FaceDetector(choose_device(self._device), self._options.min_face_size)
        images = [image for sample in samples for image in sample.frames.images]
        detections = self._detector.detect(images, self._batch_size)
        crops = []
        for sample in samples:
            own, detections = detections[: len(sample.frames.images)], detections[len(sample.frames.images) :]
            crops.append(crop_one(sample, own, self._options))
        return crops


def crop_one(sample: NumberedFrames, detections: Sequence[Sequence[Detection]], options: CropOptions) -> Crops:
    """Return the crops of one clip from the faces detected in each of its frames.

    A frame in which the followed person is not on screen gets a black crop: what else is there is not theirs.
    """
    images, times = sample.frames.images, sample.frames.times
    shots = shot_numbers(images)
    seen = [faces_in(image, faces) for image, faces in zip(images, detections, strict=True)]
    people = rank(follow(seen, times, shots), times)
    cuts = [sample.indices[number] for number in np.flatnonzero(np.diff(shots)) + 1]
    n_people, known = sum(person.counts for person in people), [person.record() for person in people[:MOST_PEOPLE]]
    if not n_people:
        return Crops(*_without_face(sample, options), known, n_people, cuts)
    sizes = np.array([image.shape[1::-1] for image in images])
    crops, records = [], []
    for number, face in enumerate(boxes_of(people[0], sizes, times, shots)):
        record: dict[str, Any] = {"index": sample.indices[number], "time": float(times[number])}
        if face is None:
            crops.append(np.zeros((options.image_size, options.image_size, 3), np.uint8))
            record |= {"found": False, "box": None, "score": 0.0, "landmarks": None, "crop": None}
        else:
            crop, square = crop_square(images[number], face.box, options.margin, options.image_size)
            crops.append(crop)
            record |= {
                "found": face.found,
                "box": np.round(face.box, 2).tolist(),
                "score": round(face.score, 4),
                "landmarks": None if face.landmarks is None else np.round(face.landmarks, 2).tolist(),
                "crop": square,
            }
        records.append(record)
    return Crops(crops, records, known, n_people, cuts)


def _without_face(sample: NumberedFrames, options: CropOptions) -> tuple[list[np.ndarray], list[dict[str, Any]]]:
    """Return what is kept of a clip without a face, and its records."""
    if options.no_face == "skip":
        return [], []
    records = []
    for index, image, time in zip(sample.indices, sample.frames.images, sample.frames.times, strict=True):
        height, width = image.shape[:2]
        square = [0, 0, width, height]
        records.append(
            {"index": index, "time": float(time), "found": False, "box": None, "score": 0.0, "landmarks": None,
             "crop": square}
        )  # fmt: skip
    return list(sample.frames.images), records


def crop_square(image: np.ndarray, box: np.ndarray, margin: float, size: int) -> tuple[np.ndarray, list[float]]:
    """Return the square around a face, `margin` of the box's longer side added on every side, resized to `size`.

    What lies outside the picture is filled with its nearest pixels, so that faces keep their proportions.

    Returns
    -------
    (size, size, 3) uint8, and the square (x0, y0, x1, y1) in the picture's pixels.
    """
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
