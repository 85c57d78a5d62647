"""Standard input, output and error as a command may rely on them, whatever it was started with."""

from __future__ import annotations

import io
import os
import sys
from typing import Any, TextIO


def settle_streams() -> None:
    """Make the three standard streams usable; to be called first of all by every process of the command line.

    - One that was closed (`2>&-`) is the null device. Otherwise the next file that is opened would get its number, and
      whatever a library says would go into that file.
    - A letter that the terminal's encoding lacks is written as an escape such as ``\\xe9``.
    - What nobody reads any more (`| head -1`, a terminal that is gone) is dropped, and what is said about the work on
      standard error never stops the work. Results that cannot be written, as to a full disk, stay an OSError.
    """
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            # The lowest number that is free is given, and those below are open.
            os.open(os.devnull, os.O_RDWR)
    if sys.stdin is None:
        sys.stdin = io.TextIOWrapper(io.FileIO(0, closefd=False), "utf-8")
    sys.stdout = _settled(sys.stdout, sys.__stdout__, 1, BrokenPipeError)
    sys.stderr = _settled(sys.stderr, sys.__stderr__, 2, OSError)


class _Lossy(io.FileIO):
    """A file descriptor for writing that drops what cannot be written, for these reasons."""

    def __init__(self, descriptor: int, reason: type[OSError]) -> None:
        super().__init__(descriptor, "w", closefd=False)
        self._reason = reason

    def write(self, data: Any) -> int:
        try:
            return super().write(data)
        except BlockingIOError:
            raise
        except self._reason:
            return len(memoryview(data).cast("B"))


def _settled(stream: TextIO | None, original: TextIO | None, descriptor: int, reason: type[OSError]) -> TextIO:
    if stream is not None and stream is not original:  # a notebook's, or a test's: its own affair
        return stream
    encoding, is_immediate = "utf-8", descriptor == 2
    if isinstance(stream, io.TextIOWrapper):
        stream.flush()
        encoding, is_immediate = stream.encoding, is_immediate or stream.write_through
        if not isinstance(getattr(stream.buffer, "raw", stream.buffer), io.FileIO):  # a console of Windows
            stream.reconfigure(errors="backslashreplace")
            return stream
    lossy = _Lossy(descriptor, reason)
    return io.TextIOWrapper(
        io.BufferedWriter(lossy),
        encoding,
        errors="backslashreplace",
        line_buffering=is_immediate or lossy.isatty(),
        write_through=is_immediate,
    )
