"""What a browser sends: how large and how long it may be, and that it is gone once it was read."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from av.error import FFmpegError

from viper.errors import ClipError
from viper.files import remove
from viper.media.video import open_media

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
        """The clip and its subtitles in a place of their own, which is deleted however this ends.

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
        """The same for a clip that is made here, in a folder that `write` is given."""
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
        """Deletes what has lain here for so many seconds without being read."""
        oldest = time.time() - max_age
        for path in list(self.folder.iterdir()):
            with contextlib.suppress(OSError):
                if path.lstat().st_mtime < oldest and not path.name.startswith(_BEING_READ):
                    remove(path)

    def _is_here(self, path: Path) -> bool:
        """What the browser says is the path of its file. Nothing else may be read, let alone be deleted."""
        return path.resolve().is_relative_to(self.folder.resolve()) and path.is_file()

    def _delete(self, path: Path) -> None:
        if self._is_here(path):
            path.unlink(missing_ok=True)
            with contextlib.suppress(OSError):  # Gradio puts each file into a folder of its own
                path.parent.rmdir()

    def _linked(self, path: Path, folder: Path) -> Path:
        """Another name: of two visitors who send the same file, one must not delete it under the other's hands."""
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
    """A clip longer than that is a ClipError. Measured, not believed: browsers record files that do not say."""
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
