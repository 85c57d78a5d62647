"""Clips that go wrong in every way a clip can, for the tests of the engine.

Apart from them because worker processes import this module: it must be quick to import.
"""

from __future__ import annotations

import ctypes
import errno
import os
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from viper.errors import ClipError, UserError
from viper.files import write_text


@dataclass(frozen=True)
class Clip:
    id: str
    what: str = ""
    size: int = 1


@dataclass(frozen=True)
class Sample:
    clip: Clip
    pid: int


class TwoArgumentsError(Exception):
    """Pickle can take it apart but not put it together again, as many libraries' exceptions."""

    def __init__(self, first: str, second: str) -> None:
        super().__init__(f"{first} {second}")


@dataclass(frozen=True)
class Load:
    """Notes that it ran, and does what the clip's `what` says."""

    notes: Path

    def __call__(self, clip: Clip) -> Sample:
        is_first = not any(self.notes.glob(f"{clip.id}.*"))
        (self.notes / f"{clip.id}.{os.getpid()}.{time.monotonic_ns()}").touch()
        if clip.what == "killed once" and is_first:
            os.kill(os.getpid(), signal.SIGKILL)
        if clip.what in _MISHAPS:
            _MISHAPS[clip.what]()
        return Sample(clip, os.getpid()) if clip.what != "unpicklable sample" else lambda: None  # type: ignore[return-value]


@dataclass(frozen=True)
class Second:
    """What one of several jobs makes of a content that was read once; one clip in particular displeases it."""

    name: str

    def __call__(self, sample: Sample) -> Sample:
        if sample.clip.what == self.name:
            raise ClipError(f"{self.name} cannot use it")
        return sample


def _raise(error: BaseException) -> Callable[[], None]:
    def act() -> None:
        raise error

    return act


_MISHAPS: dict[str, Callable[[], Any]] = {
    "slow": lambda: time.sleep(0.3),
    # Inside C, with the interpreter's lock held: neither a signal's handler nor another thread would get to run.
    "hang": lambda: ctypes.PyDLL(None).sleep(1000),
    "exit": lambda: os._exit(7),
    "segfault": lambda: ctypes.string_at(0),
    "kill": lambda: os.kill(os.getpid(), signal.SIGKILL),
    "sys.exit": lambda: sys.exit(1),
    "clip error": _raise(ClipError("corrupt,\nsaid the decoder")),
    "value error": _raise(ValueError("odd")),
    "two arguments": _raise(TwoArgumentsError("not", "portable")),
    "unpicklable error": _raise(ValueError("holds a function", lambda: None)),
    "user error": _raise(UserError("--layer 99: there is none")),
    "no input": _raise(FileNotFoundError(errno.ENOENT, "No such file or directory", "x.mp4")),
    "memory": _raise(MemoryError()),
    "interrupt": _raise(KeyboardInterrupt()),
}


@dataclass(frozen=True)
class Save:
    output: Path

    def __call__(self, clip: Clip, result: Any) -> None:
        if clip.what == "full disk":
            Path("/dev/full").write_text("x")
        if clip.what == "unwritable":
            raise ClipError("a picture that cannot be written")
        text = result if isinstance(result, str) else result.clip.id
        write_text(self.output / f"{clip.id}.txt", f"{text} {os.getpid()}")


def spoil(path: Path) -> None:
    """Changes one byte in the middle, in place, and gives the file its modification time back."""
    status = path.stat()
    with path.open("r+b") as file:
        file.seek(status.st_size // 2)
        byte = file.read(1)[0]
        file.seek(status.st_size // 2)
        file.write(bytes([byte ^ 1]))
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
