"""get_frame: videos -> frames/<clip>/frame_<index>.jpg and frames.json."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from viper import engine
from viper.errors import UserError
from viper.files import atomic_folder, write_json
from viper.jobs import Job
from viper.media import frames
from viper.media.listing import MediaClip, list_videos
from viper.media.sampling import uniform_indices
from viper.media.video import VideoFrames, read_frames
from viper.stages.common import EngineFlags, finish


@dataclass(kw_only=True)
class GetFrameConfig(EngineFlags):
    """Take frames out of every video of a folder: n_frames of them, evenly spread from the first to the last."""

    input_folder: Path
    """Folder of videos (mp4, mov, mkv, avi, mpg, webm, ...). A clip's id is its file's name without the suffix."""
    output_folder: Path
    """Where <clip>/frame_<index>.jpg and <clip>/frames.json are written."""
    n_frames: int = 32
    """Frames a clip. A clip that has fewer gives all it has."""


def run(config: GetFrameConfig) -> int:
    """Runs the stage; answers the exit code."""
    if config.n_frames < 1:
        raise UserError(f"--n_frames {config.n_frames}: must be at least 1")
    job = Job(
        stage="get_frame",
        load=_Load(config.n_frames),
        save=_Save(config.output_folder, config.n_frames),
        is_done=_IsDone(config.output_folder, config.n_frames),
    )
    options = config.engine_options()
    summary = engine.run(job, list_videos(config.input_folder), config.output_folder, options)
    return finish(summary, config.output_folder)


def _sampling(n_frames: int) -> dict[str, Any]:
    return {"method": "uniform", "n_frames": n_frames}


@dataclass(frozen=True)
class _Load:
    n_frames: int

    def __call__(self, clip: MediaClip) -> VideoFrames:
        return read_frames(clip.path, self.choose)

    def choose(self, n_frames: int) -> np.ndarray:
        return uniform_indices(n_frames, self.n_frames)


@dataclass(frozen=True)
class _Save:
    output_folder: Path
    n_frames: int

    def __call__(self, clip: MediaClip, video: VideoFrames) -> None:
        height, width = video.images[0].shape[:2]
        with atomic_folder(self.output_folder / clip.id, make_parent=False) as folder:
            for index, image in zip(video.indices, video.images, strict=True):
                frames.write_image(folder / frames.frame_name(index), image)
            write_json(
                folder / frames.FRAMES_FILE,
                {
                    "clip": clip.id,
                    "video": clip.path.name,
                    "source": clip.source(),
                    "fps": round(video.fps, 6),
                    "n_frames": video.n_frames,
                    "undecodable_packets": video.n_errors,
                    "width": width,
                    "height": height,
                    "rotation": video.rotation,
                    "sampling": _sampling(self.n_frames),
                    "frames": [
                        {"index": int(index), "time": round(float(time), 6)}
                        for index, time in zip(video.indices, video.times, strict=True)
                    ],
                },
            )


@dataclass(frozen=True)
class _IsDone:
    output_folder: Path
    n_frames: int

    def __call__(self, clip: MediaClip) -> bool:
        expected = {"sampling": _sampling(self.n_frames), "source": clip.source()}
        return frames.is_complete(self.output_folder / clip.id, frames.FRAMES_FILE, expected)
