"""The kinds of error a user is meant to see, each as one line."""

from __future__ import annotations

import difflib
import re
import threading
from collections.abc import Collection, Sequence
from typing import NoReturn

MAX_MESSAGE = 1000  # characters; some libraries' messages list a whole file


# Not seen, so that two names look the same, or a line is shown in another order than it is written in: soft hyphen,
# zero width space, word joiners, byte order mark, marks of direction and annotation. Joiners within a word or an emoji
# are part of it, and so are combining marks.
UNSEEN = "\u00ad\u061c\u180e\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb"
# With what steers a terminal (the controls of ASCII and of its 8-bit extension, where escape sequences begin) and what
# cannot be written as UTF-8 (lone surrogates: bytes of a name that were no text).
_NOT_SHOWN = re.compile(f"[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff{UNSEEN}]")


def _escaped(match: re.Match[str]) -> str:
    return match[0].encode("unicode_escape", "surrogatepass").decode()


def printable(text: str) -> str:
    """Return text for a terminal: what steers it, is not seen or is no text is escaped; line breaks and tabs stay."""
    return _NOT_SHOWN.sub(_escaped, text)


def unbroken(text: str) -> str:
    """Return text for one line of several: as `printable`, with line breaks and tabs escaped too."""
    return printable(text).replace("\n", "\\n").replace("\t", "\\t")


def one_line(text: str) -> str:
    """Text as one line of printable UTF-8, cut where it is long.

    What is said of a file quotes its name and content, which may hold line breaks, bytes that are no UTF-8, or what
    steers a terminal.
    """
    shown = printable(" ".join(text[: 2 * MAX_MESSAGE].split()))
    return shown if len(shown) <= MAX_MESSAGE else f"{shown[:MAX_MESSAGE]} ..."


def first_line(error: BaseException) -> str:
    """Return the first line of an exception's message, or its class if it has none."""
    return one_line((str(error).strip() or type(error).__name__).splitlines()[0])


def either(names: Sequence[str]) -> str:
    """Return names as a sentence lists what is allowed: "a", "a or b", "a, b or c"."""
    return " or ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)


def did_you_mean(name: str, known: Collection[str]) -> str:
    """Return "; did you mean ...?" with the known name that is nearest; empty where none is near."""
    near = difflib.get_close_matches(name, known, n=1)
    return f"; did you mean {near[0]}?" if near else ""


class UserError(Exception):
    """A mistake in the options, the manifest or a file given by the user: says which, what is wrong and what to do.

    The command line prints its message alone and exits with 2.
    """


class ClipError(Exception):
    """One clip cannot be used (corrupt, empty, of the wrong kind): a row of failures.csv, and the others go on."""


class UnusableEntryError(ClipError):
    """What is in a folder can be no clip: a name that is no id, a subfolder that cannot be read.

    Its row in failures.csv goes once it is not there any more.
    """


class WorkerError(Exception):
    """An exception of some library, raised in a worker process: (name of its class, its message)."""

    def __init__(self, name: str, message: str) -> None:
        super().__init__(name, message)
        self.name = name

    def __str__(self) -> str:
        return str(self.args[1])


class OutputError(OSError):
    """An output cannot be written (a full disk, a folder without permission): no clip's fault, the run stops."""


# How allocators say that there is no room: CUDA and MPS; malloc on Linux and on Windows; cuBLAS and cuDNN; oneDNN; C++;
# the system to whoever loads a library, maps a file or starts a thread.
_NO_ROOM = (
    "out of memory", "can't allocate memory", "not enough memory", "ALLOC_FAILED", "could not create a primitive",
    "bad_alloc", "failed to map segment", "Cannot allocate memory", "can't start new thread",
)  # fmt: skip


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an allocator ran out of memory, on the device or the host."""
    return isinstance(error, MemoryError) or any(part in str(error) for part in _NO_ROOM)


class NothingDoneError(Exception):
    """A command ran as told, yet nothing usable came of it. Exit code 1."""


_interrupted = threading.Event()


def interrupt(signum: int, frame: object) -> NoReturn:
    """Handle SIGINT and SIGTERM: stop what is going on, and remember it, for compiled libraries may swallow this."""
    _interrupted.set()
    raise KeyboardInterrupt


def raise_if_interrupted() -> None:
    """Raise KeyboardInterrupt once after a signal that some library swallowed; to be called between clips."""
    if _interrupted.is_set():
        _interrupted.clear()
        raise KeyboardInterrupt


def forget_interruption() -> None:
    """Clear what an earlier command of this process left."""
    _interrupted.clear()
