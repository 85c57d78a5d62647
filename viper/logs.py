"""The log, one line per message on standard error, and what is recorded of a run: its command and packages."""

from __future__ import annotations

import contextlib
import logging
import math
import os
import shlex
import sys
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextvars import ContextVar
from importlib.metadata import PackageNotFoundError, version
from os import PathLike
from typing import Any, TextIO, cast

from viper.errors import printable, unbroken

log = logging.getLogger("viper")
_BAR = "{l_bar}{bar}| {n_fmt}/{total_fmt} [{elapsed}, {pace}{left}{postfix}]"
# What stages say belongs in a run's train.log also when they are called from Python; only the command line prints it.
log.setLevel(logging.INFO)


def _as_shown(record: logging.LogRecord) -> bool:
    """Make a record what may be shown, for whichever handler takes it: a terminal, train.log, a notebook.

    The text of a message is viper's and may have line breaks; what is filled in may be anybody's, and has none.
    """
    if isinstance(record.args, tuple):
        record.args = tuple(each if hasattr(each, "__float__") else unbroken(str(each)) for each in record.args)
    record.msg, record.args = printable(record.getMessage()), None
    if record.exc_info:
        record.exc_text = printable(logging.Formatter().formatException(record.exc_info))
    return True


log.addFilter(_as_shown)


class _Shown:
    """A text stream that escapes what would steer a terminal, whoever writes: viper, a library, a traceback.

    It claims to be no terminal, since colours and movements of the cursor do not pass. All else is the stream's.
    """

    def __init__(self, stream: TextIO) -> None:
        self.stream = stream

    def write(self, text: str) -> int:
        self.stream.write(printable(text))
        return len(text)

    def writelines(self, lines: Iterable[str]) -> None:
        for line in lines:
            self.write(line)

    def isatty(self) -> bool:
        return False

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)


def guard_terminal() -> None:
    """Let nothing that this process prints steer the terminal: for commands and their workers, until they end."""
    sys.stdout, sys.stderr = (
        cast(TextIO, stream if stream is None or isinstance(stream, _Shown) else _Shown(stream))
        for stream in (sys.stdout, sys.stderr)
    )


def _unguarded(stream: TextIO) -> TextIO:
    return stream.stream if isinstance(stream, _Shown) else stream


@contextlib.contextmanager
def colours() -> Iterator[None]:
    """Take the guard off: only around what prints none but viper's own text, in colours."""
    guarded = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = map(_unguarded, guarded)
    try:
        yield
    finally:
        sys.stdout, sys.stderr = guarded


def say(*lines: str, file: TextIO | None = None) -> None:
    """Print on standard output, unless another stream is given: each argument is one line, whatever it quotes."""
    print("\n".join(map(unbroken, lines)), file=file, flush=True)


class _Lines(logging.Handler):
    """Lines on standard error that do not tear a progress bar apart."""

    def emit(self, record: logging.LogRecord) -> None:
        from tqdm import tqdm

        tqdm.write(printable(self.format(record)), file=_unguarded(sys.stderr))


def start_logging() -> None:
    """Send viper's log to standard error; in worker processes too."""
    from tqdm import tqdm

    # Its own lock is a semaphore of the system's, about which Python complains when a process is ended from outside.
    tqdm.set_lock(threading.RLock())
    handler = _Lines()
    handler.setFormatter(logging.Formatter("%(message)s"))
    log.handlers = [handler]
    log.setLevel(logging.INFO)
    log.propagate = False


def pace(per_second: float, unit: str = "clip") -> str:
    """Return a rate in words: "2.3 clips/s", below one a second "21 clips/min", below one a minute "2.5 min a clip"."""
    if per_second >= 1:
        return f"{per_second:.{1 if per_second < 100 else 0}f} {unit}s/s"
    per_minute = 60 * per_second
    if per_minute >= 1:
        return f"{per_minute:.{1 if per_minute < 10 else 0}f} {unit}s/min"
    minutes = 1 / per_minute if per_minute > 0 else math.inf
    if minutes < 60:
        return f"{minutes:.1f} min a {unit}"
    return f"{minutes / 60:.1f} h a {unit}" if math.isfinite(minutes) else f"no {unit} yet"


def duration(seconds: float) -> str:
    """Return a time in words, rounded: "45 s", "12 min", "2 h 5 min", "3 days 4 h"."""
    if round(seconds) < 60:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    if minutes < 60:
        return f"{minutes} min"
    if minutes < 48 * 60:
        return f"{minutes // 60} h {minutes % 60} min"
    hours = round(seconds / 3600)
    return f"{hours // 24} days {hours % 24} h"


def progress_bar(items: Iterable[Any] | None = None, desc: str = "", is_wanted: bool = True, **options: Any) -> Any:
    """Return tqdm's bar over `items`, shown on a terminal and in a notebook; elsewhere its `disable` is true.

    It says how fast it goes, and how long it will take, as `pace` and `duration` do.
    """
    from tqdm.auto import tqdm

    class Bar(tqdm):
        @property
        def format_dict(self) -> dict[str, Any]:
            state = dict(super().format_dict)
            done, elapsed = state["n"] - state["initial"], state["elapsed"]
            rate = state["rate"] or (done / elapsed if elapsed else 0)
            left = (state["total"] - state["n"]) / rate if state["total"] and rate else None
            state["pace"] = pace(rate, state["unit"]) if done else f"no {state['unit']} yet"
            state["left"] = "" if left is None else f", {duration(left)} left"
            return state

    stream = _unguarded(sys.stderr)  # the bar moves the cursor
    # In a notebook tqdm.auto is another class than the one for terminals.
    is_shown = stream.isatty() or "notebook" in "".join(each.__module__ for each in tqdm.__mro__)
    options |= {"desc": unbroken(desc) or None, "file": stream, "bar_format": _BAR}
    return Bar(items, disable=not (is_shown and is_wanted), **options)


@contextlib.contextmanager
def quiet_transformers() -> Iterator[None]:
    """Silence the bars and notes of transformers; viper checks and says what matters of them."""
    from transformers.utils import logging

    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()


@contextlib.contextmanager
def without_warnings() -> Iterator[None]:
    """Hold back viper's warnings, where the same thing is done many times over and its outcome shows elsewhere."""
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        yield
    finally:
        log.setLevel(level)


def shell_line(arguments: Iterable[str | PathLike[str]]) -> str:
    """Return arguments as one line that a shell reads back as they are, whatever is in them.

    A path that begins with a dash gets ./ before it, since it would be taken for an option.
    """
    return " ".join(_quoted(path_argument(each) if isinstance(each, PathLike) else each) for each in arguments)


def path_argument(path: str | PathLike[str]) -> str:
    """Return a path as an argument that cannot be taken for an option."""
    text = os.fspath(path)
    return f"./{text}" if text.startswith("-") else text


def _quoted(argument: str) -> str:
    if argument.isprintable():
        return shlex.quote(argument)
    escaped = (c if c.isprintable() and c not in "\\'" else _escaped(c) for c in argument)
    return f"$'{''.join(escaped)}'"


def _escaped(character: str) -> str:
    """Return a character as $'...' has it; a byte that is no text, which Python keeps as a surrogate, as that byte."""
    return "".join(f"\\x{byte:02x}" for byte in os.fsencode(character))


_command: ContextVar[str] = ContextVar("command", default="")


@contextlib.contextmanager
def running(command: str, arguments: Sequence[str]) -> Iterator[None]:
    """Make this viper command the one of `command_line` while inside."""
    token = _command.set(shell_line(["viper", command, *arguments]))
    try:
        yield
    finally:
        _command.reset(token)


def command_line() -> str:
    """Return the running command as typed in a shell, for the record; empty where a stage is called from Python."""
    return _command.get()


def package_versions(names: Sequence[str]) -> dict[str, str]:
    """Return the versions of those of these packages that are installed."""
    versions = {}
    for name in names:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            continue
    return versions
