"""Decoding a video by several threads, where there are more cores than processes that decode: the same frames."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from functools import wraps
from typing import ParamSpec, TypeVar

from av.video.frame import VideoFrame
from av.video.stream import VideoStream

P = ParamSpec("P")
T = TypeVar("T")

_allowed: ContextVar[int] = ContextVar("threads that may decode", default=1)
# Formats of which FFmpeg says when a frame is damaged. HEVC's garbage it often takes for a picture, and for another one
# with more threads.
_FORMATS = ("h264",)
_used: ContextVar[int] = ContextVar("threads that decode", default=1)


class _DamagedError(Exception):
    """A file is damaged, and what several threads make of it is not what one makes."""


@contextlib.contextmanager
def decoding_threads(n_threads: int) -> Iterator[None]:
    """Allow functions that are `same_by_threads` to decode with so many threads, in this context."""
    token = _allowed.set(max(1, n_threads))
    try:
        yield
    finally:
        _allowed.reset(token)


def same_by_threads(read: Callable[P, T]) -> Callable[P, T]:
    """Let a function decode with the threads that are allowed, and again with one where the file is damaged.

    How FFmpeg patches up a damaged frame, and which frames it gives up, depends on its threads.
    """

    @wraps(read)
    def reads(*args: P.args, **kwargs: P.kwargs) -> T:
        token = _used.set(_allowed.get())
        try:
            return read(*args, **kwargs)
        except _DamagedError:
            _used.set(1)
            return read(*args, **kwargs)
        finally:
            _used.reset(token)

    return reads


def set_threads(stream: VideoStream) -> None:
    """Say how many threads decode a stream: one, unless it is H.264 and a function that is `same_by_threads` reads."""
    if _used.get() == 1 or stream.codec_context.name not in _FORMATS:
        stream.thread_type = "NONE"
    else:
        stream.thread_type = "AUTO"
        stream.codec_context.thread_count = _used.get()
        # What FFmpeg would patch up without a word is an error, which `notice_damage` is told of.
        stream.codec_context.options = {**stream.codec_context.options, "err_detect": "explode"}


def notice_damage(frame: VideoFrame | None = None) -> None:
    """Stop decoding by several threads at a frame that was patched up, or, without one, at what is no frame at all."""
    if _used.get() > 1 and (frame is None or frame.is_corrupt):
        raise _DamagedError
