"""The log, one line per message on standard error, and what is recorded of a run: its command and packages."""

from __future__ import annotations

import contextlib
import logging
import os
import shlex
import sys
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextvars import ContextVar
from importlib.metadata import PackageNotFoundError, version
from os import PathLike
from typing import Any

log = logging.getLogger("viper")
# What stages say belongs in a run's train.log also when they are called from Python; only the command line prints it.
log.setLevel(logging.INFO)


class _Lines(logging.Handler):
    """Lines on standard error that do not tear a progress bar apart."""

    def emit(self, record: logging.LogRecord) -> None:
        from tqdm import tqdm

        tqdm.write(self.format(record), file=sys.stderr)


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


def progress_bar(items: Iterable[Any] | None = None, **options: Any) -> Any:
    """Return tqdm's bar over `items`, shown on a terminal and in a notebook; elsewhere its `disable` is true."""
    from tqdm.auto import tqdm

    # In a notebook tqdm.auto is another class than the one for terminals.
    is_shown = sys.stderr.isatty() or "notebook" in "".join(each.__module__ for each in tqdm.__mro__)
    return tqdm(items, disable=not is_shown, **options)


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
