"""crop_images: frames -> faces/<clip>/frame_<index>.jpg and faces.json."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from viper.commands.common import PictureOptions, finish, pass_on_ids
from viper.engine import run as engine
from viper.engine.job import EngineOptions, Job
from viper.files import atomic_folder
from viper.logs import log
from viper.media import pictures as frames
from viper.media.faces.crop import BATCH_SIZE, CropOptions, Crops, FaceCropper, NumberedFrames
from viper.media.pictures import FrameClip, list_frame_clips
from viper.media.sources import Sourced, is_made_from, read_sourced

# Not frames.json: a folder of frames is not replaced by one of crops.
_OWN_FILES = rf"frame_\d+\.jpg|{re.escape(frames.FACES_FILE)}"


@dataclass(kw_only=True)
class CropImagesOptions(PictureOptions, EngineOptions):
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
        encode=_Crop(FaceCropper(crop_options, options.device, options.batch_size)),
        save=_Save(options.output_folder, crop_options),
        is_done=_IsDone(options.output_folder, crop_options),
        size=_size,
        batch_size=options.batch_size,
    )
    clips = list_frame_clips(options.input_folder, options.separator, options.names)
    pass_on_ids(options, [options.input_folder], options.output_folder)
    summary = engine.run(job, clips, options.output_folder, options)
    return finish(summary, options.output_folder)


@dataclass(frozen=True)
class _Sample:
    """The frames of a clip, and how they had been chosen, where that is known: what reads the crops is told."""

    frames: NumberedFrames
    sampling: Any


@dataclass(frozen=True)
class _Result:
    """The crops of a clip, and how its frames had been chosen."""

    crops: Crops
    sampling: Any


def _load(clip: FrameClip) -> Sourced[_Sample]:
    return read_sourced(clip, lambda: _read(clip))


def _read(clip: FrameClip) -> _Sample:
    record = clip.record
    return _Sample(NumberedFrames([frame["index"] for frame in record["frames"]], clip.read()), record.get("sampling"))


def _size(sample: Sourced[_Sample]) -> int:
    return len(sample.value.frames.frames.images)


@dataclass(frozen=True)
class _Crop:
    """Crops the frames of several clips."""

    cropper: FaceCropper

    def __call__(self, samples: Sequence[Sourced[_Sample]]) -> list[Sourced[_Result]]:
        crops = self.cropper([sample.value.frames for sample in samples])
        return [
            Sourced(_Result(own, sample.value.sampling), sample.source)
            for sample, own in zip(samples, crops, strict=True)
        ]


@dataclass(frozen=True)
class _Save:
    output_folder: Path
    options: CropOptions

    def __call__(self, clip: FrameClip, result: Sourced[_Result]) -> None:
        crops = result.value.crops
        _tell(clip.id, crops, self.options.no_face)
        record = {
            "clip": clip.id,
            "source": result.source,
            "detector": "mtcnn",
            "options": self.options.record(),
            "sampling": result.value.sampling,
            **crops.record(),
            "frames": crops.records,
        }
        with atomic_folder(self.output_folder / clip.id, make_parent=False, own=_OWN_FILES) as folder:
            for image, entry in zip(crops.images, crops.records, strict=True):
                frames.write_image(folder / frames.frame_name(entry["index"]), image)
            frames.write_record(folder, frames.FACES_FILE, record)


def _tell(clip: str, crops: Crops, no_face: str) -> None:
    """Say what had to be decided about a clip: that there is no face in it, or who of several is followed."""
    people = crops.people
    if not crops.n_people:
        kept = "whole frames are kept and masked" if no_face == "whole" else "no crops are written"
        doubtful = ""
        if people:
            doubtful = (
                f"; what was taken for one in {people[0]['frames']} of its frames "
                f"(probability {people[0]['score']:.2f}) is too seldom or too faint to count"
            )
        log.info("crop_images: %s: no face found%s; %s", clip, doubtful, kept)
    elif crops.n_people > 1:
        longest = max((person for person in people[1:] if person["counts"]), key=lambda person: person["seconds"])
        log.info(
            "crop_images: %s: %d people; the one followed is on screen for %.3g s, the next longest for %.3g s%s",
            clip, crops.n_people, people[0]["seconds"], longest["seconds"],
            " (a picture that never changes)" if longest["still"] and not people[0]["still"] else "",
        )  # fmt: skip


@dataclass(frozen=True)
class _IsDone:
    output_folder: Path
    options: CropOptions

    def __call__(self, clip: FrameClip) -> bool:
        expected = {"options": self.options.record()}
        record = frames.read_complete(self.output_folder / clip.id, frames.FACES_FILE, expected)
        return record is not None and is_made_from(clip, record.get("source"))
