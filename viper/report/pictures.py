"""A few small pictures of a clip, from the frames or face crops that its features were made from."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from viper.errors import ClipError, UserError
from viper.inference.run import OpenedRun
from viper.media.pictures import FrameClip, list_frame_clips, read_image, shrunk
from viper.report.content import Thumbnail

N_PICTURES = 5
HEIGHT = 112  # pixels, as a card shows them
PICTURE_SOURCES = ("faces", "frames")  # of EncoderInfo.source, and what the folders are usually called


def find_pictures(source: OpenedRun, clips: Sequence[str]) -> Path | None:
    """The folder of frames or face crops, as far as it can be known: by encoder.json, or lying beside features or run.

    One that has none of the clips is not the one.
    """
    stores = [store for store in source.stores.values() if store.info.source in PICTURE_SOURCES]
    recorded = [store.folder / store.info.input_folder for store in stores if store.info.input_folder]
    places = [store.folder.resolve() for store in source.stores.values()] + [source.folder.resolve()]
    beside = [parent / name for place in places for parent in list(place.parents)[:2] for name in PICTURE_SOURCES]
    for folder in dict.fromkeys(Path(os.path.normpath(path)) for path in (*recorded, *beside)):
        if any((folder / name).is_dir() for clip in clips for name in (clip, f"[{clip}]")):
            return folder
    return None


def thumbnails(folder: Path, clips: Sequence[str]) -> dict[str, list[Thumbnail]]:
    """Clip -> its pictures in order of time; those of a clip that has none, or whose files are damaged, are left out.

    Raises UserError for a folder that holds no clips' pictures.
    """
    there = {clip.id: clip for clip in list_frame_clips(folder)}
    return {clip: _pictures(there[clip]) for clip in clips if clip in there}


def _pictures(clip: FrameClip) -> list[Thumbnail]:
    """Evenly spread over the clip; of face crops only those with a face, where there is one."""
    try:
        entries, paths = clip.record["frames"], clip.paths()
        usable = [k for k, entry in enumerate(entries) if entry.get("found", True)] or list(range(len(entries)))
        places = np.linspace(0, len(usable) - 1, N_PICTURES).round().astype(int)
        rows = [usable[k] for k in dict.fromkeys(places.tolist())]
        return [_thumbnail(float(entries[k]["time"]), read_image(paths[k])) for k in rows]
    except (ClipError, UserError, OSError):
        return []


def _thumbnail(time: float, image: np.ndarray) -> Thumbnail:
    return Thumbnail(time, shrunk(image, HEIGHT / len(image)))
