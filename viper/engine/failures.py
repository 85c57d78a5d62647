"""failures.csv: which clips a stage could not do, and why. A clip that later succeeds leaves it."""

from __future__ import annotations

import csv
import errno
import os
import time
from collections.abc import Callable
from dataclasses import astuple, dataclass, replace
from pathlib import Path

from viper.errors import UnusableEntryError, UserError, WorkerError, one_line
from viper.files import csv_text, files_only, locked, natural_key, write_text

FAILURES_FILE = "failures.csv"
HEADER = ("clip", "stage", "error", "message")
# A list of more rows than FEW_ROWS is written at most so often that it takes a REST_FACTOR-th of the time.
FEW_ROWS = 100
REST_FACTOR = 20


@dataclass(frozen=True)
class Failure:
    """One row: the clip, the stage, the class of the error and its message on one line."""

    clip: str
    stage: str
    error: str
    message: str

    @classmethod
    def of(cls, clip: str, stage: str, error: Exception) -> Failure:
        """Return the row for an exception."""
        name = error.name if isinstance(error, WorkerError) else type(error).__name__
        return cls(clip, stage, name, one_line(str(error)) or name)

    def __str__(self) -> str:
        return f"{self.stage}: {self.clip}: {self.message}"


class FailureLog:
    """The failures of one stage in one output folder, on disk at every moment while they are few.

    Several processes (shards, or two runs of the same command) may write to one folder: each change reads and replaces
    the file under a lock, so that there is one row a clip and stage, that of its last failure. A long list is not
    replaced for every row, or the time for it would grow with the square of its length: `flush` writes what waits.
    """

    def __init__(self, folder: Path, stage: str) -> None:
        self._path = folder / FAILURES_FILE
        self._stage = stage
        self._known: set[str] = set()
        self._waiting: dict[str, Failure | None] = {}
        self._version: tuple[int, ...] | None = None
        self._next_write = 0.0
        self._refresh()

    def failed(self, failure: Failure) -> None:
        """Add a clip, or replace its row."""
        self._change(failure.clip, failure)

    def succeeded(self, clip: str) -> None:
        """Take a clip off the list, whichever process put it there. Costs one look at the file's date if it is not."""
        self._refresh()
        if clip in self._known or clip in self._waiting:
            self._change(clip, None)

    def forget_entries(self, is_gone: Callable[[str], bool]) -> None:
        """Take off rows of what could be no clip and is gone: renamed, it is another clip."""
        for row in read_failures(self._path.parent):
            if row.stage == self._stage and row.error == UnusableEntryError.__name__ and is_gone(row.clip):
                self._change(row.clip, None)

    def flush(self) -> None:
        """Write the rows that wait."""
        if not self._waiting:
            return
        began = time.monotonic()
        if not self._path.parent.is_dir():
            # It vanished during the run (a disk that is gone), and must not be begun again as if nothing had been.
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(self._path.parent))
        with locked(self._path.with_name(f".{FAILURES_FILE}.lock")):
            rows = {(row.clip, row.stage): row for row in read_failures(self._path.parent)}
            for clip, failure in self._waiting.items():
                rows.pop((clip, self._stage), None)
                if failure is not None:
                    rows[clip, self._stage] = failure
            if rows:
                write_text(self._path, _csv(sorted(rows.values(), key=lambda row: natural_key(row.clip))))
            else:
                self._path.unlink(missing_ok=True)
            self._waiting = {}
            self._known = {clip for clip, stage in rows if stage == self._stage}
            self._version = _version(self._path)
        ended = time.monotonic()
        self._next_write = ended + REST_FACTOR * (ended - began) if len(rows) > FEW_ROWS else ended

    def _change(self, clip: str, row: Failure | None) -> None:
        self._waiting[clip] = row
        if time.monotonic() >= self._next_write:
            self.flush()

    def _refresh(self) -> None:
        """Read the file where it is not the one that was read last."""
        # The version first: a file that is replaced meanwhile is read once more than needed, never once too little.
        version = _version(self._path)
        if version != self._version:
            self._known = {row.clip for row in read_failures(self._path.parent) if row.stage == self._stage}
            self._version = version


def read_failures(folder: Path) -> list[Failure]:
    """Return the rows of a folder's failures.csv; none without that file. UserError if it is not such a list."""
    path = folder / FAILURES_FILE
    if not path.is_file():
        return []
    try:
        with open(path, encoding="utf-8-sig", newline="", opener=files_only) as file:
            return [Failure(*(row[name] for name in HEADER)) for row in csv.DictReader(file, restval="")]
    except FileNotFoundError:  # another process has just removed the last row
        return []
    except (KeyError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{path}: is not a list of failures written by viper ({error}); delete it") from error


def _csv(rows: list[Failure]) -> str:
    guarded = []
    for row in rows:
        # A message is for people, who may open the list in a spreadsheet, and quotes what is in files: it must not
        # become a formula there. Ids stay as they are: programs join them with the manifest's, which has the same.
        guard = "'" if row.message.startswith(("=", "+", "-", "@")) else ""
        guarded.append(astuple(replace(row, message=guard + row.message)))
    return csv_text([HEADER, *guarded])


def _version(path: Path) -> tuple[int, ...] | None:
    """Return what changes whenever the file is replaced; None where there is none."""
    try:
        status = path.stat()
    except FileNotFoundError:
        return None
    return status.st_ino, status.st_mtime_ns, status.st_size
