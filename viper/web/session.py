"""A visitor's clip: taken from the browser and deleted, read once, predicted at every click."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from av.error import FFmpegError

from viper.demo import EMOTIONS, Identity, write_clip
from viper.errors import ClipError
from viper.files import remove
from viper.media.video import open_media

if TYPE_CHECKING:
    from viper.inference.predictor import ClipPredictor, ClipReading

# Seconds after which a file that nobody read is deleted: of a browser that was closed in the middle of an upload.
MAX_AGE = 600.0
# A clip, its subtitles, and what it was made to show: target -> intensity, nothing for a clip of somebody.
Made = tuple[Path, Path | None, dict[str, float]]
_BEING_READ = "reading-"
# The browser shows what was sent until it is told that it was read, and would complain of a file that is gone.
PREVIEW_SECONDS = 1.0
MAX_NAME = 80  # characters of a file's name that are kept


@dataclass(frozen=True)
class Uploads:
    """A folder for files from browsers.

    Attributes
    ----------
    folder : where Gradio puts uploads; of this page alone, and deleted with it.
    max_mb : megabytes (2^20 bytes, as Gradio counts them) a file may have.
    max_seconds : how long a clip may be.
    """

    folder: Path
    max_mb: float
    max_seconds: float

    @property
    def max_bytes(self) -> int:
        """The same in bytes."""
        return int(self.max_mb * 2**20)

    @contextlib.contextmanager
    def taken(self, clip: str, subtitles: str | None = None) -> Iterator[Made]:
        """Yield the clip and its subtitles in a folder of their own, which is deleted however this ends.

        Raises
        ------
        ClipError : a file that is no longer there, or is larger or longer than allowed.
        """
        began = time.monotonic()
        try:
            with self._private_folder() as private:
                words = self._linked(Path(subtitles), private) if subtitles else None
                path = self._linked(Path(clip), private)
                check_length(path, self.max_seconds)
                yield path, words, {}
        finally:
            time.sleep(max(0.0, began + PREVIEW_SECONDS - time.monotonic()))
            for sent in filter(None, (clip, subtitles)):
                self._delete(Path(sent))

    @contextlib.contextmanager
    def made(self, write: Callable[[Path], Made]) -> Iterator[Made]:
        """Yield a clip that is made here, in a folder that `write` is given, which is deleted too."""
        with self._private_folder() as private:
            yield write(private)

    @contextlib.contextmanager
    def _private_folder(self) -> Iterator[Path]:
        self.sweep()
        private = Path(tempfile.mkdtemp(prefix=_BEING_READ, dir=self.folder))
        try:
            yield private
        finally:
            shutil.rmtree(private, ignore_errors=True)

    def sweep(self, max_age: float = MAX_AGE) -> None:
        """Delete what has lain here for so many seconds without being read."""
        oldest = time.time() - max_age
        for path in list(self.folder.iterdir()):
            with contextlib.suppress(OSError):
                if path.lstat().st_mtime < oldest and not path.name.startswith(_BEING_READ):
                    remove(path)

    def _is_here(self, path: Path) -> bool:
        """Return whether a path from the browser is a file in the folder. Nothing else may be read or deleted."""
        return path.resolve().is_relative_to(self.folder.resolve()) and path.is_file()

    def _delete(self, path: Path) -> None:
        if self._is_here(path):
            path.unlink(missing_ok=True)
            with contextlib.suppress(OSError):  # Gradio puts each file into a folder of its own
                path.parent.rmdir()

    def _linked(self, path: Path, folder: Path) -> Path:
        """Link the file under another name: of two visitors who send the same file, one must not delete the other's."""
        if not self._is_here(path):
            raise ClipError("the file is no longer here; send it again")
        target = folder / f"{path.stem[:MAX_NAME]}{path.suffix[:MAX_NAME]}"
        try:
            os.link(path, target)
        except OSError:
            shutil.copyfile(path, target)
        # The browser is told so before it sends anything, and the server stops reading then; this is for neither.
        if target.stat().st_size > self.max_bytes:
            raise ClipError(f"{target.name}: is larger than the {self.max_mb:g} MB that this page takes")
        return target


def check_length(path: Path, max_seconds: float) -> None:
    """Raise ClipError for a longer clip. The length is measured: browsers record files that do not say it."""
    with open_media(path) as container:
        first, last = None, 0.0
        try:
            for packet in container.demux():
                if packet.pts is None or packet.time_base is None:
                    continue
                begins = float(packet.pts * packet.time_base)
                first = begins if first is None else min(first, begins)
                last = max(last, begins + float((packet.duration or 0) * packet.time_base))
                if last - first > max_seconds:
                    raise ClipError(f"{path.name}: is longer than the {max_seconds:g} seconds that this page takes")
        except FFmpegError:
            return  # what can be read before the damage is; how the rest is dealt with is up to the reader


N_WINDOWS = 8  # of the predictions over time, at most
MIN_STEP = 0.5  # seconds between two of them
SAMPLE_SECONDS = 2.0


@dataclass(frozen=True)
class Session:
    """A clip that was read; its file is gone.

    Attributes
    ----------
    name : of the clip's file.
    reading : the whole clip.
    windows : its timeline; empty before it is read, and for a clip that is too short for one.
    shown : target -> what a made-up clip was made to show; nothing for others.
    has_words : whether subtitles came with it.
    hidden : modalities that the visitor has switched off since; the same set while the windows are still being read.
    """

    name: str
    reading: ClipReading
    windows: tuple[ClipReading, ...] = ()
    shown: dict[str, float] = dataclasses.field(default_factory=dict)
    has_words: bool = False
    hidden: set[str] = dataclasses.field(default_factory=set)

    @property
    def seconds(self) -> float:
        """The clip's length."""
        return self.reading.end - self.reading.start

    @property
    def step(self) -> float | None:
        """Seconds between two windows of its timeline; None: it is too short for one."""
        step = max(MIN_STEP, self.seconds / N_WINDOWS)
        return step if self.seconds >= 2 * step else None

    @property
    def middles(self) -> np.ndarray:
        """(windows,) seconds of the clip in the middle of each window."""
        return np.array([(window.start + window.end) / 2 for window in self.windows])


@dataclass(frozen=True)
class Answers:
    """What a checkpoint answers when only some modalities may be used.

    Attributes
    ----------
    clip : (targets,).
    timeline : (windows, targets), NaN for a window with nothing to look at.
    """

    clip: np.ndarray
    timeline: np.ndarray


def read_session(
    predictor: ClipPredictor, path: Path, subtitles: Path | None, shown: dict[str, float] | None = None
) -> Iterator[Session]:
    """Yield the clip as a whole first, then with more and more of its timeline. ClipError for a bad file."""
    reading = predictor.read(path, subtitles)
    session = Session(path.name, reading, shown=shown or {}, has_words=subtitles is not None)
    yield session
    if session.step is not None:
        for window in predictor.read_windows(path, every=session.step, subtitles=subtitles):
            # Its pictures are not shown, and a session is kept in memory.
            session = dataclasses.replace(session, windows=(*session.windows, dataclasses.replace(window, faces=None)))
            yield session


def answer(predictor: ClipPredictor, session: Session, hidden: Collection[str]) -> Answers:
    """Predict from what was read."""
    timeline = np.zeros((0, len(predictor.task.targets)))
    if session.windows:
        timeline = predictor.predict(session.windows, hidden).astype(float)
        timeline[[not window.features.keys() - set(hidden) for window in session.windows]] = np.nan
    return Answers(predictor.predict([session.reading], hidden)[0], timeline)


def write_sample(folder: Path, number: int) -> tuple[Path, Path, dict[str, float]]:
    """Write a made-up clip and subtitles; return them and what it shows. Equal numbers give equal clips."""
    rng = np.random.default_rng(number)
    strong = rng.choice(len(EMOTIONS), size=3, replace=False)
    shown = {name: float(rng.uniform(0.6, 1.0) if k in strong else rng.uniform(0, 0.15))
             for k, name in enumerate(EMOTIONS)}  # fmt: skip
    clip, words = folder / f"made-up clip {number + 1}.mp4", folder / f"made-up clip {number + 1}.srt"
    write_clip(clip, shown, Identity.from_seed(number), number, seconds=SAMPLE_SECONDS, subtitles=words)
    return clip, words, shown
