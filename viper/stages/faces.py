"""crop_images: frames -> faces/<clip>/frame_<index>.jpg and faces.json."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from viper import engine
from viper.encoders.face import FaceBox, FaceDetector, crop_square, follow
from viper.errors import UserError
from viper.files import atomic_folder, write_json
from viper.jobs import Job
from viper.media import frames
from viper.media.frames import FrameClip, Frames, list_frame_clips
from viper.stages.common import EngineFlags, finish, log


@dataclass(kw_only=True)
class CropImagesConfig(EngineFlags):
    """Cut the face of one person out of every frame (MTCNN), followed through the clip."""

    input_folder: Path
    """Folder of frames, as get_frame writes it."""
    output_folder: Path
    """Where <clip>/frame_<index>.jpg and <clip>/faces.json are written."""
    batch_size: int = 64
    """Frames the detector looks at at once."""
    margin: float = 0.1
    """Share of the face box's longer side that is added on every side."""
    min_face_size: int = 40
    """Smallest face looked for, in pixels. Smaller is slower."""
    image_size: int = 224
    """Side of the square crops, in pixels."""
    no_face: Literal["whole", "skip"] = "whole"
    """A clip without any face: keep whole frames, marked as not found; or write none."""
    device: str = "auto"
    """Where the detector runs: auto, cpu, cuda, cuda:1, mps ..."""


@dataclass(frozen=True)
class _Sample:
    clip: str
    indices: list[int]
    frames: Frames


@dataclass(frozen=True)
class _Crops:
    images: list[np.ndarray]
    records: list[dict[str, Any]]


def run(config: CropImagesConfig) -> int:
    """Runs the stage; answers the exit code."""
    if config.margin < 0 or config.min_face_size < 12 or config.image_size < 16:
        raise UserError("--margin must be at least 0, --min_face_size at least 12, --image_size at least 16")
    # Not above: importing torch takes seconds, and --help should not.
    from viper.encoders.runtime import choose_device

    choose_device(config.device)  # a wrong one is said at once; each copy of the detector chooses for itself
    job = Job(
        stage="crop_images",
        load=_load,
        encode=_Crop(config),
        save=_Save(config),
        is_done=_IsDone(config),
        size=_size,
        batch_size=config.batch_size,
    )
    options = config.engine_options()
    summary = engine.run(job, list_frame_clips(config.input_folder), config.output_folder, options)
    return finish(summary, config.output_folder)


def _load(clip: FrameClip) -> _Sample:
    return _Sample(clip.id, [frame["index"] for frame in clip.record["frames"]], clip.read())


def _size(sample: _Sample) -> int:
    return len(sample.frames.images)


def _options(config: CropImagesConfig) -> dict[str, Any]:
    names = ("margin", "min_face_size", "image_size", "no_face")
    return {name: getattr(config, name) for name in names}


class _Crop:
    """Detects, follows and cuts; the detector is made when the first clip needs it, and by each copy for itself."""

    def __init__(self, config: CropImagesConfig) -> None:
        self._config = config
        self._detector: FaceDetector | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_detector": None}

    def __call__(self, samples: list[_Sample]) -> list[_Crops]:
        if self._detector is None:
            from viper.encoders.runtime import choose_device

            self._detector = FaceDetector(choose_device(self._config.device), self._config.min_face_size)
        images = [image for sample in samples for image in sample.frames.images]
        detections = self._detector.detect(images, self._config.batch_size)
        crops = []
        for sample in samples:
            own, detections = detections[: len(sample.frames.images)], detections[len(sample.frames.images) :]
            crops.append(self._cut(sample, follow(own)))
        return crops

    def _cut(self, sample: _Sample, boxes: list[FaceBox] | None) -> _Crops:
        if boxes is None:
            log.info("crop_images: %s: no face in any frame (%s)", sample.clip, self._config.no_face)
            if self._config.no_face == "skip":
                return _Crops([], [])
        records, images = [], []
        for number, image in enumerate(sample.frames.images):
            record: dict[str, Any] = {"index": sample.indices[number], "time": float(sample.frames.times[number])}
            if boxes is None:
                height, width = image.shape[:2]
                images.append(image)
                record |= {"found": False, "box": None, "score": 0.0, "landmarks": None, "crop": [0, 0, width, height]}
            else:
                face = boxes[number]
                crop, square = crop_square(image, face.box, self._config.margin, self._config.image_size)
                images.append(crop)
                record |= {
                    "found": face.found,
                    "box": np.round(face.box, 2).tolist(),
                    "score": round(face.score, 4),
                    "landmarks": None if face.landmarks is None else np.round(face.landmarks, 2).tolist(),
                    "crop": square,
                }
            records.append(record)
        return _Crops(images, records)


class _Save:
    def __init__(self, config: CropImagesConfig) -> None:
        self._config = config

    def __call__(self, clip: FrameClip, crops: _Crops) -> None:
        with atomic_folder(self._config.output_folder / clip.id, make_parent=False) as folder:
            for image, record in zip(crops.images, crops.records, strict=True):
                frames.write_image(folder / frames.frame_name(record["index"]), image)
            write_json(
                folder / frames.FACES_FILE,
                {
                    "clip": clip.id,
                    "source": clip.source(),
                    "detector": "mtcnn",
                    "options": _options(self._config),
                    "frames": crops.records,
                },
            )


class _IsDone:
    def __init__(self, config: CropImagesConfig) -> None:
        self._config = config

    def __call__(self, clip: FrameClip) -> bool:
        expected = {"options": _options(self._config), "source": clip.source()}
        return frames.is_complete(self._config.output_folder / clip.id, frames.FACES_FILE, expected)
