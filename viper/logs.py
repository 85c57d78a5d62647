"""The log: one line a message on standard error, and other libraries' chatter kept out of it."""

from __future__ import annotations

import contextlib
import logging
import sys
import threading
from collections.abc import Iterator


class _Lines(logging.Handler):
    """Lines on standard error that do not tear a progress bar apart."""

    def emit(self, record: logging.LogRecord) -> None:
        from tqdm import tqdm

        tqdm.write(self.format(record), file=sys.stderr)


def start_logging() -> None:
    """Sends viper's log to standard error; in worker processes too."""
    from tqdm import tqdm

    # Its own lock is a semaphore of the system's, about which Python complains when a process is ended from outside.
    tqdm.set_lock(threading.RLock())
    handler = _Lines()
    handler.setFormatter(logging.Formatter("%(message)s"))
    logger = logging.getLogger("viper")
    logger.handlers = [handler]
    logger.setLevel(logging.INFO)
    logger.propagate = False


@contextlib.contextmanager
def quiet_transformers() -> Iterator[None]:
    """Silences the bars and notes of transformers; what matters of them is checked and said by viper."""
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
    """Holds back viper's warnings, where the same thing is done many times over and its outcome shows elsewhere."""
    logger = logging.getLogger("viper")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)
