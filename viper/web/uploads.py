"""Files from browsers: taken within limits, each for the visitor who sent it, and deleted."""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import shutil
import tempfile
import threading
import time
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from viper.errors import ClipError
from viper.files import remove
from viper.temporaries import is_left_over, temporary_path

# Seconds after which a file that nobody read is deleted: of a browser that was closed in the middle of an upload.
MAX_AGE = 600.0
# The browser shows what was sent until it is told that it was read, and would complain of a file that is gone.
PREVIEW_SECONDS = 1.0
# Of all visitors together: how many times the largest upload, how many files, how many of them on their way at once.
MAX_TOTAL, MAX_FILES, MAX_COMING = 8, 64, 16
COMING_OF_VISITOR = 2  # a clip and its subtitles
READ_SOON = 30.0  # seconds for which a file keeps its place when there is no room for others
MAX_OF_VISITOR = 4  # files that wait to be read; another one takes the place of the oldest
MAX_STEM, MAX_SUFFIX = 50, 10  # characters of a file's name that are kept; a character may have four bytes
FORM_BYTES = 16 * 1024  # what a form may have besides its file
# Seconds an upload is granted, and the bytes a second it must have on average after that.
PATIENCE, MIN_RATE = 20.0, 32 * 1024

_FOLDER_SUFFIX = ".viper-page"
_BEING_READ = "reading-"
# Of a name: what is no letter, digit or mark that means nothing in an address, on a command line or on a disk.
_ODD = re.compile(r"[^\w .()\[\]+,=@-]")


class RefusedError(Exception):
    """An upload that is not taken: the HTTP status, and one line that says why."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status = status


@dataclass(eq=False)
class _Upload:
    """A file that was sent: where it is, whose it is, when it came, how many readings use it."""

    path: Path
    visitor: str
    n_bytes: int
    came: float
    n_uses: int = 0


class Uploads:
    """A folder for files from browsers, each of which belongs to one visitor, also if several send the same.

    Parameters
    ----------
    folder : of this page alone, and deleted with it.
    max_mb : megabytes (2^20 bytes, as Gradio counts them) a file may have.
    max_seconds : how long a clip may be.
    max_age : seconds after which a file that nobody read is deleted.
    """

    def __init__(self, folder: Path, max_mb: float, max_seconds: float, max_age: float = MAX_AGE) -> None:
        self.folder, self.max_mb, self.max_seconds, self._max_age = folder, max_mb, max_seconds, max_age
        self._lock = threading.Lock()
        self._kept: dict[str, _Upload] = {}  # by the name that the browser is given
        self._n_bytes = 0
        self._coming: Counter[str] = Counter()  # visitors, and how many files each is sending

    @property
    def max_bytes(self) -> int:
        """The largest file in bytes."""
        return int(self.max_mb * 2**20)

    # --- from the browser ---------------------------------------------------------------------------------------------

    async def receive(self, visitor: str, headers: Any, chunks: AsyncIterator[bytes]) -> str:
        """Take one file from the body of a request; return the name to ask for it by.

        Parameters
        ----------
        headers : the request's (Starlette's Headers).
        chunks : the body. Not more of it is read than may be kept.

        Raises
        ------
        RefusedError : too large, too slow, not one file named "files", or no room now.
        """
        with self._counted(visitor) as count:
            from starlette.concurrency import run_in_threadpool
            from starlette.formparsers import MultiPartException, MultiPartParser

            try:
                form = await MultiPartParser(
                    headers, self._within_limits(chunks, count), max_files=1, max_fields=0
                ).parse()
            except (MultiPartException, KeyError, ValueError) as error:
                raise RefusedError(400, "this is no form with one file") from error
            try:
                sent = form.get("files")
                if sent is None or isinstance(sent, str):
                    raise RefusedError(400, "this is no form with one file named files")
                if (sent.size or 0) > self.max_bytes:
                    raise self._too_large()
                return await run_in_threadpool(self._keep, visitor, sent.filename or "clip", sent.file)
            finally:
                await form.close()

    @contextlib.contextmanager
    def _counted(self, visitor: str) -> Iterator[Callable[[int], None]]:
        """Yield what counts bytes that come in, which are given back at the end, for those of kept files count too."""
        mine = 0

        def count(n_bytes: int) -> None:
            nonlocal mine
            while not self._has_room(n_bytes):
                self._make_room()
            with self._lock:
                self._n_bytes += n_bytes
                mine += n_bytes

        with self._lock:
            if self._coming.total() >= MAX_COMING or self._coming[visitor] >= COMING_OF_VISITOR:
                raise RefusedError(503, "too many files are being sent to the page now; try again in a minute")
            self._coming[visitor] += 1
        try:
            yield count
        finally:
            with self._lock:
                self._coming = +(self._coming - Counter([visitor]))
                self._n_bytes -= mine

    async def _within_limits(self, chunks: AsyncIterator[bytes], count: Callable[[int], None]) -> AsyncGenerator[bytes]:
        began, n_bytes = time.monotonic(), 0
        async for chunk in chunks:
            n_bytes += len(chunk)
            if n_bytes > self.max_bytes + FORM_BYTES:
                raise self._too_large()
            if time.monotonic() - began > PATIENCE + n_bytes / MIN_RATE:
                raise RefusedError(408, "the file comes too slowly")
            count(len(chunk))
            yield chunk

    def _too_large(self) -> RefusedError:
        return RefusedError(413, f"the file is larger than the {self.max_mb:g} MB that this page takes")

    def _keep(self, visitor: str, name: str, file: Any) -> str:
        key, name = secrets.token_hex(16), _plain_name(name)
        own = self.folder / key
        own.mkdir(mode=0o700)
        try:
            with (own / name).open("xb") as kept:
                shutil.copyfileobj(file, kept)
                n_bytes = kept.tell()
            while len(self._kept) >= MAX_FILES:
                self._make_room()
            with self._lock:
                self._kept[f"{key}/{name}"] = _Upload(own / name, visitor, n_bytes, time.monotonic())
                self._n_bytes += n_bytes
                waiting = [
                    each for each, upload in self._kept.items() if upload.visitor == visitor and not upload.n_uses
                ]
        except BaseException:
            shutil.rmtree(own, ignore_errors=True)
            raise
        for oldest in waiting[:-MAX_OF_VISITOR]:
            self._drop(oldest)
        return f"{key}/{name}"

    def _has_room(self, n_bytes: int) -> bool:
        with self._lock:
            return self._n_bytes + n_bytes <= MAX_TOTAL * self.max_bytes + FORM_BYTES

    def _make_room(self) -> None:
        """Delete the oldest file that has not been read soon after it came: nobody can fill the page and go away."""
        soon = time.monotonic() - READ_SOON
        with self._lock:
            waiting = [each for each in self._kept.items() if not each[1].n_uses and each[1].came < soon]
        if not waiting:
            raise RefusedError(507, "the page has no room for more files now; try again in a minute")
        self._drop(min(waiting, key=lambda each: each[1].came)[0])

    # --- what was sent ------------------------------------------------------------------------------------------------

    def path_of(self, name: str, visitor: str) -> Path | None:
        """Return where a file is that this visitor sent; None for any other name."""
        with self._lock:
            upload = self._kept.get(name)
            return upload.path if upload is not None and upload.visitor == visitor else None

    @contextlib.contextmanager
    def taken(self, visitor: str, clip: str, subtitles: str | None = None) -> Iterator[tuple[Path, Path | None]]:
        """Yield where a clip and its subtitles are, which are deleted however this ends.

        Parameters
        ----------
        clip, subtitles : paths by `path_of`.

        Raises
        ------
        ClipError : a file that is no longer there, or that this visitor has not sent.
        """
        began = time.monotonic()
        names = [self._use(visitor, Path(path)) for path in (clip, subtitles) if path is not None]
        try:
            if None in names:
                raise ClipError("the file is no longer here; send it again")
            yield Path(clip), None if subtitles is None else Path(subtitles)
        finally:
            time.sleep(max(0.0, began + PREVIEW_SECONDS - time.monotonic()))
            for name in filter(None, names):
                self._drop(name, n_uses=1)

    @contextlib.contextmanager
    def private_folder(self) -> Iterator[Path]:
        """Yield a folder for a clip that is made here; it is deleted too."""
        private = Path(tempfile.mkdtemp(prefix=_BEING_READ, dir=self.folder))
        try:
            yield private
        finally:
            shutil.rmtree(private, ignore_errors=True)

    def _use(self, visitor: str, path: Path) -> str | None:
        name = f"{path.parent.name}/{path.name}"
        with self._lock:
            upload = self._kept.get(name)
            if upload is None or upload.visitor != visitor or upload.path != path:
                return None
            upload.n_uses += 1
            return name

    def _drop(self, name: str, n_uses: int = 0) -> None:
        """Give up so many uses of a file, and delete it if nobody else uses it."""
        with self._lock:
            upload = self._kept.get(name)
            if upload is None:
                return
            upload.n_uses -= n_uses
            if upload.n_uses > 0:
                return
            del self._kept[name]
            self._n_bytes -= upload.n_bytes
        # A file that a slow browser still takes would keep its place on the disk, and count nowhere.
        with contextlib.suppress(OSError):
            os.truncate(upload.path, 0)
        shutil.rmtree(upload.path.parent, ignore_errors=True)

    # --- in time ------------------------------------------------------------------------------------------------------

    def sweep(self) -> None:
        """Delete what has lain here for too long without being read."""
        oldest = time.monotonic() - self._max_age
        with self._lock:
            old = [name for name, upload in self._kept.items() if upload.came < oldest and not upload.n_uses]
        for name in old:
            self._drop(name)
        with contextlib.suppress(OSError):
            os.utime(self.folder)  # the page lives, also for those who cannot see its process

    @contextlib.contextmanager
    def swept(self) -> Iterator[None]:
        """Sweep now and then while inside, whether anybody visits or not."""
        ended = threading.Event()

        def sweep_on() -> None:
            while not ended.wait(min(10.0, self._max_age / 4)):
                self.sweep()

        thread = threading.Thread(target=sweep_on, daemon=True, name="sweep of uploads")
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()


def _plain_name(name: str) -> str:
    """Return a file's name without anything in it that is more than a name."""
    name = _ODD.sub("_", re.split(r"[/\\]", name)[-1]).strip(" .") or "clip"
    stem, dot, suffix = name.rpartition(".")
    return f"{stem[:MAX_STEM]}.{suffix[:MAX_SUFFIX]}" if dot and stem else name[:MAX_STEM]


def remove_left_over(place: Path) -> None:
    """Delete the folders of pages that were killed: only the user's own, and only of processes that are no more."""
    own = os.getuid() if hasattr(os, "getuid") else None
    with os.scandir(place) as entries:
        for entry in entries:
            with contextlib.suppress(OSError):
                if (
                    entry.name.endswith(_FOLDER_SUFFIX)
                    and entry.is_dir(follow_symlinks=False)
                    and (own is None or entry.stat(follow_symlinks=False).st_uid == own)
                    and is_left_over(Path(entry.path))
                ):
                    remove(Path(entry.path))


@contextlib.contextmanager
def upload_folder() -> Iterator[Path]:
    """Yield a folder for uploads, deleted at the end; Gradio, imported only after this, uses it and stays offline."""
    place = Path(tempfile.gettempdir())
    remove_left_over(place)
    folder = temporary_path(place, _FOLDER_SUFFIX)
    folder.mkdir(mode=0o700)
    settings = {
        "GRADIO_TEMP_DIR": str(folder), "GRADIO_ANALYTICS_ENABLED": "False", "HF_HUB_DISABLE_TELEMETRY": "1",
        "GRADIO_ALLOWED_PATHS": "", "GRADIO_RUN_HISTORY": "False", "GRADIO_ANALYTICS_MAX_EVENTS": "16",
    }  # fmt: skip
    before = {name: os.environ.get(name) for name in settings}
    os.environ.update(settings)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
