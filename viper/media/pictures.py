"""Frames and face crops on disk: frames/<clip>/frame_<index>.jpg with frames.json, faces/ the same with faces.json."""

from __future__ import annotations

import contextlib
import io
import math
import os
import re
import struct
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from PIL import Image

from viper.clip_ids import recorded_separator
from viper.errors import ClipError, UserError
from viper.files import digest_of, read_bytes, read_json, visible_entries, write_json
from viper.fingerprints import fingerprint_folder
from viper.logs import log
from viper.media.listing import Tree, clip_errors, one_each
from viper.media.picture_names import PictureNames
from viper.media.video import MAX_PICTURE_BYTES, MAX_PIXELS, VideoFrames

FRAMES_FILE = "frames.json"
FACES_FILE = "faces.json"
PLOT_FILE = "motion.png"  # beside frames, on request
IMAGE_SUFFIXES = (
    ".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".bmp", ".dib", ".webp", ".tif", ".tiff", ".ppm", ".pgm", ".pbm", ".pnm",
)  # fmt: skip
# In a folder of pictures; elsewhere it is a video.
_FOLDER_SUFFIXES = (*IMAGE_SUFFIXES, ".gif")
# By their content, whatever they are called. PPM: also PGM and PBM.
PICTURE_FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "DIB", "TIFF", "PPM", "GIF")
JPEG_QUALITY = 95
_WRITTEN = re.compile(r"frame_[0-9]+\.jpg")
_ANIMATED = -1
_PNG = b"\x89PNG\r\n\x1a\n"


# What OpenCV has to say of a damaged picture is several lines; viper's is one.
cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)


@dataclass(frozen=True)
class Frames:
    """Pictures of one clip, in memory; what encoders of pictures read.

    Attributes
    ----------
    images : n arrays (H, W, 3) uint8 RGB.
    times : (n,) float64, seconds from the start of the clip.
    found : (n,) bool, False where a face was looked for and not found.
    points : (n, 5, 2) float32: both eyes, nose, both corners of the mouth as shares of the picture's width and height
        (NaN where not found), or None where no face was looked for.
    """

    images: Sequence[np.ndarray]
    times: np.ndarray
    found: np.ndarray
    points: np.ndarray | None = None

    def seen(self) -> Frames:
        """Return those in which a face was found, or not looked for."""
        images = [image for image, found in zip(self.images, self.found, strict=True) if found]
        points = None if self.points is None else self.points[self.found]
        return Frames(images, self.times[self.found], np.ones(len(images), bool), points)


@dataclass(frozen=True)
class FrameClip:
    """A folder of pictures of one clip, made by get_frame, by crop_images or by another tool.

    `names` says how pictures are numbered that have no record.
    """

    id: str
    folder: Path
    names: PictureNames = field(default_factory=PictureNames)
    problem: ClipError | None = field(default=None, kw_only=True, compare=False)  # as of MediaClip

    def check(self) -> None:
        """Raise the problem, if there is one."""
        if self.problem is not None:
            raise self.problem

    @property
    def record(self) -> dict[str, Any]:
        """The content of faces.json or frames.json, or one made from the pictures' names where there is neither.

        Read each time: a run has many clips, and each would keep its own. A record that cannot be read, and a folder
        with neither record nor pictures, are a ClipError.
        """
        self.check()
        for name in (FACES_FILE, FRAMES_FILE):
            if (self.folder / name).is_file():
                return _read_record(self.folder / name)
        return {"frames": self._named()[0]}

    def _named(self) -> tuple[list[dict[str, Any]], str]:
        """Return what the names of pictures without a record say, and a remark on how they were understood."""
        names = [path.name for path in visible_entries(self.folder) if path.suffix.lower() in _FOLDER_SUFFIXES]
        if not names:
            hint = ", only subfolders (--subfolders reads them)" if _only_holds_folders(self.folder) else ""
            raise ClipError(f"{self.id}: no pictures in its folder{hint}")
        try:
            return self.names.entries(names)
        except ClipError as error:
            raise ClipError(f"{self.id}: {error}") from error

    @property
    def has_faces(self) -> bool:
        """Whether the pictures are crops made by crop_images."""
        return os.path.isfile(self.folder / FACES_FILE)

    @property
    def is_whole(self) -> bool:
        """Whether the pictures are frames made by get_frame, not crops."""
        return os.path.isfile(self.folder / FRAMES_FILE) and not self.has_faces

    def source(self) -> str:
        """Return a fingerprint of the pictures, by which features made from older ones are seen to be out of date."""
        self.check()
        with clip_errors():
            names = os.listdir(self.folder)
            record = next((name for name in (FACES_FILE, FRAMES_FILE) if name in names), None)
            if record is None:
                entries, _ = self._named()
                content = fingerprint_folder(self.folder, (entry["file"] for entry in entries))
                return content if self.names.is_plain(entries) else digest_of([content, entries])
            return fingerprint_folder(self.folder, [record, *_written(names)])

    def paths(self) -> list[Path]:
        """Return files of the pictures, in the order of their frame numbers."""
        return self._paths(self.record["frames"])

    def _paths(self, frames: list[dict[str, Any]]) -> list[Path]:
        return [self.folder / frame.get("file", frame_name(frame["index"])) for frame in frames]

    def read(self) -> Frames:
        """Decode all pictures. One that is missing or damaged is a ClipError naming it."""
        frames = self.record["frames"]
        if any("file" in frame for frame in frames):
            _, remark = self._named()
            # A picture that is a clip, as `viper prepare` leaves it, has the clip's name.
            if remark and not (len(frames) == 1 and Path(frames[0]["file"]).stem == self.id):
                log.info("%s: %s", self.id, remark)
        return _frames([read_image(path) for path in self._paths(frames)], frames, self.has_faces)


def _frames(images: Sequence[np.ndarray], entries: Sequence[dict[str, Any]], of_faces: bool) -> Frames:
    """Return pictures with what their record says of each."""
    found = [entry.get("found", True) for entry in entries]
    points = None
    if of_faces:
        points = np.full((len(entries), 5, 2), np.nan, np.float32)
        for row, entry in zip(points, entries, strict=True):
            if entry["found"]:
                x0, y0, x1, y1 = entry["crop"]
                row[:] = (np.array(entry["landmarks"]) - (x0, y0)) / (x1 - x0, y1 - y0)
    times = np.array([entry["time"] for entry in entries], np.float64)
    return Frames(images, times, np.array(found, bool), points)


def as_if_stored(images: Sequence[np.ndarray], entries: Sequence[dict[str, Any]], of_faces: bool) -> Frames:
    """Return what FrameClip.read would answer if these pictures and their record had been written to a folder.

    Nothing is written, but each picture is made a JPEG and decoded again: a file's is not the picture it was made of,
    and features of the two would differ.
    """
    names = [frame_name(entry["index"]) for entry in entries]
    decoded = [_decoded(_encoded(image, name), name) for image, name in zip(images, names, strict=True)]
    return _frames(decoded, entries, of_faces)


def frame_entry(index: int, time: float) -> dict[str, Any]:
    """Return what frames.json says of one frame."""
    return {"index": int(index), "time": round(float(time), 6)}


def frame_entries(video: VideoFrames) -> list[dict[str, Any]]:
    """Return what frames.json says of each of a video's chosen frames."""
    return [frame_entry(index, time) for index, time in zip(video.indices, video.times, strict=True)]


def frame_name(index: int) -> str:
    """Return the file name of frame number `index`."""
    return f"frame_{index}.jpg"


def read_image(path: Path) -> np.ndarray:
    """Return a picture as (H, W, 3) uint8 RGB.

    A damaged one, and one of too many pixels, is a ClipError naming the file.
    """
    name = f"{path.parent.name}/{path.name}"
    try:
        if path.stat().st_size > MAX_PICTURE_BYTES:
            raise ClipError(f"{name}: is larger than any picture, {MAX_PICTURE_BYTES:,} bytes")
        data = read_bytes(path)
    except OSError as error:
        raise ClipError(f"{name}: cannot be read ({error.strerror})") from error
    return _decoded(data, name)


def _decoded(data: bytes, name: str) -> np.ndarray:
    # By its header, before anything is decoded: a file of some bytes can unfold to gigabytes.
    declared = _declared_pixels(data)
    if declared > MAX_PIXELS:
        raise ClipError(f"{name}: declares more than {MAX_PIXELS:,} pixels; such pictures are not decoded")
    if declared == _ANIMATED:
        raise ClipError(f"{name}: holds several pictures; give an animation to get_frame, as a video")
    image = None
    if declared and _has_its_chunks(data):
        with contextlib.suppress(cv2.error):
            image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    if image is None:
        raise ClipError(f"{name}: cannot be decoded as a picture; make the frames again")
    return cv2.cvtColor(image, cv2.COLOR_BGR2RGB)


def _declared_pixels(data: bytes) -> float:
    """Return width times height by the header; 0 if it is not a picture, `_ANIMATED` if it is several."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of a damaged .tif Pillow warns tag by tag
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        try:
            with Image.open(io.BytesIO(data), formats=PICTURE_FORMATS) as header:
                if header.format not in ("JPEG", "MPO") and getattr(header, "is_animated", False):
                    return _ANIMATED
                # A tile is decoded whole, however small the picture is that it is cut to.
                tags = getattr(header, "tag_v2", {})
                return max(header.width * header.height, int(tags.get(322, 0)) * int(tags.get(323, 0)))
        except (Image.DecompressionBombError, Image.DecompressionBombWarning):
            return math.inf
        except Exception:  # of damaged files Pillow raises nearly anything
            return 0


def _has_its_chunks(data: bytes) -> bool:
    """Return whether the chunks of a PNG end within the file.

    OpenCV takes the memory for one (4 GB) before it looks.
    """
    if not data.startswith(_PNG):
        return True
    position = len(_PNG)
    while position + 8 <= len(data):
        length, name = struct.unpack_from(">I4s", data, position)
        position += 12 + length
        if name == b"IEND":
            break
    return position <= len(data)


def shrunk(image: np.ndarray, share: float) -> np.ndarray:
    """Return a picture (H, W, 3) uint8 at this share of its height and width; one of 1 or more leaves it as it is."""
    if share >= 1:
        return image
    height, width = (max(1, round(length * share)) for length in image.shape[:2])
    return np.asarray(cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA))


def write_image(path: Path, image: np.ndarray) -> None:
    """Write (H, W, 3) uint8 RGB as JPEG of quality 95."""
    path.write_bytes(_encoded(image, path.name))


def _encoded(image: np.ndarray, name: str) -> bytes:
    encoded, data = cv2.imencode(
        ".jpg", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY]
    )
    if not encoded:
        raise ClipError(f"{name}: a picture of shape {image.shape} cannot be written as JPEG")
    return data.tobytes()


def list_frame_clips(folder: Path, separator: str | None = None, names: PictureNames | None = None) -> list[FrameClip]:
    """Return every clip's folder of pictures in `folder`, in natural order.

    A name that can be no id, folders that would be one clip, and a link to nowhere are clips with a problem.

    Parameters
    ----------
    separator : joins the names of folders to ids: those in subfolders are clips too. None: only those in `folder` are.
    names : says how pictures are numbered that have no record; that it was asked is logged.

    Raises
    ------
    UserError when there are none.
    """
    if names is not None:
        names.check()
    # What get_frame or crop_images named by subfolders has none.
    is_deep = separator is not None and recorded_separator(folder) is None
    tree = Tree.of(folder, is_deep)
    places = [place for place in tree.places if place.is_folder or _leads_nowhere(place.path)]
    if is_deep:
        places = [place for place in places if not _only_holds_folders(place.path)]
    nowhere = {Path(place.path) for place in places if not place.is_folder}
    clips = []
    for clip in (*one_each(places, separator), *tree.unread):
        problem = clip.problem
        if nowhere and problem is None and clip.path in nowhere:
            problem = ClipError(f"{clip.path.name}: is a link that leads nowhere")
        clips.append(FrameClip(clip.id, clip.path, names or PictureNames(), problem=problem))
    if not clips:
        raise UserError(f"{folder}: no folders of frames in it; make them with get_frame or crop_images")
    tree.warn()
    first = next((clip.folder for clip in clips if clip.problem is None), None)
    if names is not None and first and not any((first / record).is_file() for record in (FACES_FILE, FRAMES_FILE)):
        log.info(
            "%s: pictures without frames.json: their names say which frame each is, at %g frames a second "
            "(--picture_names, --picture_fps)",
            folder, names.fps,
        )  # fmt: skip
    return clips


def _leads_nowhere(path: str) -> bool:
    return os.path.islink(path) and not os.path.exists(path)


def _only_holds_folders(folder: Path | str) -> bool:
    """Return whether a folder has subfolders, and neither pictures nor a record."""
    try:
        with os.scandir(folder) as entries:
            shown = [entry for entry in entries if not entry.name.startswith(".")]
            has_pictures = any(
                entry.name in (FACES_FILE, FRAMES_FILE) or entry.name.lower().endswith(IMAGE_SUFFIXES)
                for entry in shown
            )
            return not has_pictures and any(entry.is_dir() for entry in shown)
    except OSError:
        return False


def write_record(folder: Path, record_name: str, record: dict[str, Any]) -> None:
    """Write the record of a folder that has its pictures, with a digest of both under `content`."""
    write_json(folder / record_name, {**record, "content": _content(folder, record)})


def read_complete(folder: Path, record_name: str, expected: dict[str, Any]) -> dict[str, Any] | None:
    """Return the record of a folder of pictures; None unless it has these entries, and all is as it was written."""
    try:
        record = read_json(folder / record_name)
        if any(record.get(key) != value for key, value in expected.items()):
            return None
        written = record.pop("content", None)
        return record if written == _content(folder, record) else None
    except (UserError, OSError, TypeError, ValueError, AttributeError, RecursionError):
        return None


def _content(folder: Path, record: dict[str, Any]) -> str:
    # Not of a plot beside them: features made of the pictures stay valid when one is added.
    return digest_of([record, fingerprint_folder(folder, _written(os.listdir(folder)))])


def _written(names: Iterable[str]) -> list[str]:
    """Return those names that pictures beside a record have."""
    return [name for name in names if _WRITTEN.fullmatch(name)]


def _read_record(path: Path) -> dict[str, Any]:
    try:
        content = read_json(path)
    except UserError as error:
        raise ClipError(str(error)) from error
    frames = content.get("frames") if isinstance(content, dict) else None
    if not isinstance(frames, list) or not all(_is_frame(frame, path.name == FACES_FILE) for frame in frames):
        raise ClipError(f"{path}: is not a list of frames written by viper; make it again")
    if len({frame["index"] for frame in frames}) < len(frames):  # a line a frame would have each picture read again
        raise ClipError(f"{path}: a frame appears twice; make it again")
    return content


def _is_frame(entry: Any, of_face: bool) -> bool:
    """Return whether an entry of a record has all that is read from it. Names of files are not taken from a record."""
    if not isinstance(entry, dict) or "file" in entry:
        return False
    index, found = entry.get("index"), entry.get("found")
    if not isinstance(index, int) or index < 0 or not _are_numbers(entry.get("time"), ()):
        return False
    if not of_face or found is False:
        return True
    return found is True and _are_numbers(entry.get("crop"), (4,)) and _are_numbers(entry.get("landmarks"), (5, 2))


def _are_numbers(value: Any, shape: tuple[int, ...]) -> bool:
    try:
        array = np.array(value, np.float64)
    except (TypeError, ValueError, OverflowError):
        return False
    return array.shape == shape and bool(np.isfinite(array).all())
