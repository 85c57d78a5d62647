"""failures.csv: which clips a stage could not do, and why. A clip that later succeeds leaves it."""

from __future__ import annotations

import csv
import io
from dataclasses import astuple, dataclass
from pathlib import Path

from filelock import FileLock

from viper.errors import UserError, WorkerError
from viper.files import natural_key, write_text

FILE_NAME = "failures.csv"
HEADER = ("clip", "stage", "error", "message")


@dataclass(frozen=True)
class Failure:
    """One row: the clip, the stage, the class of the error and its message on one line."""

    clip: str
    stage: str
    error: str
    message: str

    @classmethod
    def of(cls, clip: str, stage: str, error: Exception) -> Failure:
        """The row for an exception."""
        name = error.name if isinstance(error, WorkerError) else type(error).__name__
        message = " ".join(str(error).split())
        return cls(clip, stage, name, message or name)

    def __str__(self) -> str:
        return f"{self.stage}: {self.clip}: {self.message}"


class FailureLog:
    """The failures of one stage in one output folder, on disk at every moment.

    Several processes (shards) may write to one folder: each change reads and replaces the file under a lock.
    """

    def __init__(self, folder: Path, stage: str) -> None:
        self._path = folder / FILE_NAME
        self._stage = stage
        self._known = {row.clip for row in read_failures(folder) if row.stage == stage}

    def failed(self, failure: Failure) -> None:
        """Adds a clip, or replaces its row."""
        self._known.add(failure.clip)
        self._replace(failure.clip, failure)

    def succeeded(self, clip: str) -> None:
        """Takes a clip off the list, if it was on it."""
        if clip in self._known:
            self._known.discard(clip)
            self._replace(clip, None)

    def _replace(self, clip: str, row: Failure | None) -> None:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(self._path.with_name(f".{FILE_NAME}.lock")):
            rows = [old for old in read_failures(self._path.parent) if (old.clip, old.stage) != (clip, self._stage)]
            rows = sorted([*rows, row] if row else rows, key=lambda row: natural_key(row.clip))
            if rows:
                buffer = io.StringIO()
                writer = csv.writer(buffer, lineterminator="\n")
                writer.writerow(HEADER)
                writer.writerows(astuple(row) for row in rows)
                write_text(self._path, buffer.getvalue())
            else:
                self._path.unlink(missing_ok=True)


def read_failures(folder: Path) -> list[Failure]:
    """The rows of a folder's failures.csv; none where there is no such file. A file that is no such list: UserError."""
    path = folder / FILE_NAME
    if not path.is_file():
        return []
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            return [Failure(*(row[name] for name in HEADER)) for row in csv.DictReader(file, restval="")]
    except (KeyError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{path}: is no list of failures as viper writes it ({error}); delete it") from error
