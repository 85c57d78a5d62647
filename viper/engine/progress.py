"""How far a run is: a bar on a terminal and in a notebook; elsewhere a line now and then."""

from __future__ import annotations

import time

from viper.logs import duration, log, pace, progress_bar

LOG_EVERY_SECONDS = 30.0


class Progress:
    """Counts clips that are done or failed.

    Parameters
    ----------
    name : what is being done.
    total : clips in all.
    """

    def __init__(self, name: str, total: int) -> None:
        self._bar = progress_bar(total=total, desc=name, unit="clip") if total else None
        self._name, self._total, self._done = name, total, 0
        self._began = self._said = time.monotonic()

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.close()

    def advance(self, n_failed: int) -> None:
        """Count one more clip; `n_failed` have failed so far."""
        assert self._bar is not None
        self._done += 1
        self._bar.set_postfix_str(f"{n_failed} failed", refresh=False)
        self._bar.update()
        now = time.monotonic()
        if self._bar.disable and now - self._said >= LOG_EVERY_SECONDS:
            self._said = now
            rate = self._done / (now - self._began)
            left = duration((self._total - self._done) / rate)
            log.info("%s: %d of %d clips, %s, %s left, %d failed",
                     self._name, self._done, self._total, pace(rate), left, n_failed)  # fmt: skip
