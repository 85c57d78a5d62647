"""crop_images: frames -> faces/<clip>/frame_<index>.jpg and faces.json."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from viper.commands.common import finish
from viper.engine import run as engine
from viper.engine.job import EngineOptions, Job
from viper.files import atomic_folder, write_json
from viper.logs import log
from viper.media import pictures as frames
from viper.media.faces.crop import BATCH_SIZE, CropOptions, Crops, FaceCropper, NumberedFrames
from viper.media.pictures import FrameClip, list_frame_clips

# Not frames.json: a folder of frames is not replaced by one of crops.
_OWN_FILES = rf"frame_\d+\.jpg|{re.escape(frames.FACES_FILE)}"


@dataclass(kw_only=True)
class CropImagesOptions(EngineOptions):
    """Cut the face of one person out of every frame (MTCNN), followed through the clip."""

    input_folder: Path
    """Folder of frames, as get_frame writes it."""
    output_folder: Path
    """Where <clip>/frame_<index>.jpg and <clip>/faces.json are written."""
    batch_size: int = BATCH_SIZE
    """Frames the detector looks at at once."""
    margin: float = CropOptions.margin
    """Share of the face box's longer side that is added on every side."""
    min_face_size: int = CropOptions.min_face_size
    """Smallest face looked for, in pixels. Smaller is slower."""
    image_size: int = CropOptions.image_size
    """Side of the square crops, in pixels."""
    no_face: Literal["whole", "skip"] = CropOptions.no_face
    """A clip without any face: keep whole frames, marked as not found; or write none."""
    device: str = "auto"
    """Where the detector runs: auto, cpu, cuda, cuda:1, mps ..."""


def run(options: CropImagesOptions) -> int:
    """Run the stage; return the exit code."""
    crop_options = CropOptions(options.margin, options.min_face_size, options.image_size, options.no_face)
    crop_options.check()
    # Not above: importing torch takes seconds, and --help should not.
    from viper.engine.device import choose_device

    choose_device(options.device)  # a wrong one is said at once; each copy of the detector chooses for itself
    job = Job(
        stage="crop_images",
        load=_load,
        encode=FaceCropper(crop_options, options.device, options.batch_size),
        save=_Save(options.output_folder, crop_options),
        is_done=_IsDone(options.output_folder, crop_options),
        size=_size,
        batch_size=options.batch_size,
    )
    clips = list_frame_clips(options.input_folder)
    summary = engine.run(job, clips, options.output_folder, options)
    return finish(summary, options.output_folder)


def _load(clip: FrameClip) -> NumberedFrames:
    return NumberedFrames([frame["index"] for frame in clip.record["frames"]], clip.read())


def _size(sample: NumberedFrames) -> int:
    return len(sample.frames.images)


@dataclass(frozen=True)
class _Save:
    output_folder: Path
    options: CropOptions

    def __call__(self, clip: FrameClip, crops: Crops) -> None:
        if not any(entry["found"] for entry in crops.records):
            log.info("crop_images: %s: no face in any frame (%s)", clip.id, self.options.no_face)
        record = {
            "clip": clip.id,
            "source": clip.source(),
            "detector": "mtcnn",
            "options": self.options.record(),
            # How the frames had been chosen, where it is known: what is made of the crops is told by it.
            "sampling": clip.record.get("sampling"),
            "frames": crops.records,
        }
        with atomic_folder(self.output_folder / clip.id, make_parent=False, own=_OWN_FILES) as folder:
            for image, entry in zip(crops.images, crops.records, strict=True):
                frames.write_image(folder / frames.frame_name(entry["index"]), image)
            write_json(folder / frames.FACES_FILE, record)


@dataclass(frozen=True)
class _IsDone:
    output_folder: Path
    options: CropOptions

    def __call__(self, clip: FrameClip) -> bool:
        expected = {"options": self.options.record(), "source": clip.source()}
        return frames.is_complete(self.output_folder / clip.id, frames.FACES_FILE, expected)
