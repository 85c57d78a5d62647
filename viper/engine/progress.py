"""How far a run is: a bar on a terminal; elsewhere a line now and then."""

from __future__ import annotations

import logging
import sys
import time

from tqdm.auto import tqdm

log = logging.getLogger("viper")

LOG_EVERY_SECONDS = 30.0


class Progress:
    """Counts clips that are done or failed.

    Parameters
    ----------
    name : what is being done.
    total : clips in all.
    """

    def __init__(self, name: str, total: int) -> None:
        self._bar = tqdm(total=total, desc=name, unit="clip", disable=not sys.stderr.isatty() or total == 0)
        self._name, self._total, self._done = name, total, 0
        self._began = self._said = time.monotonic()

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()

    def advance(self, n_failed: int) -> None:
        """One more clip; `n_failed` have failed so far."""
        self._done += 1
        self._bar.set_postfix_str(f"{n_failed} failed", refresh=False)
        self._bar.update()
        now = time.monotonic()
        if self._bar.disable and now - self._said >= LOG_EVERY_SECONDS:
            self._said = now
            rate = self._done / (now - self._began)
            left = (self._total - self._done) / rate
            log.info("%s: %d of %d clips, %.1f clips/s, %.0f s left, %d failed",
                     self._name, self._done, self._total, rate, left, n_failed)  # fmt: skip
