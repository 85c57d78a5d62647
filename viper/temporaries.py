"""Names of files that are not finished yet, which say whose they are: so that those of killed processes are known."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import os
import platform
import re
import time
import uuid
from pathlib import Path

TEMPORARY_PREFIX = ".tmp-"
# Temporaries of other machines (or of names older than this scheme) are kept for so long: their process may live.
FOREIGN_SECONDS = 24 * 3600.0

_OWNED = re.compile(re.escape(TEMPORARY_PREFIX) + r"(?:([0-9a-f]{8})-(\d+)-(\d+)-)?[0-9a-f]{12}(\..*)?")


def temporary_path(folder: Path, suffix: str = "") -> Path:
    """Return a name in `folder` that no one else uses, and that says whose it is.

    It is `.tmp-<where>-<process>-<started>-<random>`; `where` is the machine since it was started (and its container):
    process numbers mean something only there.
    """
    process = os.getpid()
    owner = f"{_where()}-{process}-{_started(process) or 0}"
    return folder / f"{TEMPORARY_PREFIX}{owner}-{uuid.uuid4().hex[:12]}{suffix}"


def is_left_over(path: Path) -> bool:
    """Return whether a file or folder has a name by `temporary_path`, and nobody will finish it.

    Its process ran on this machine and is no more; or it is of another machine, or of no known process, and older than
    a day.
    """
    owner = _OWNED.fullmatch(path.name)
    if owner is None:
        return False
    where, process, began = owner.group(1, 2, 3)
    if where == _where():
        started = _started(int(process))
        # The number of a process is given again: one that began at another time is not the owner.
        return not _runs(int(process)) if started is None else started != int(began)
    try:
        return time.time() - path.lstat().st_mtime > FOREIGN_SECONDS
    except OSError:
        return False


@functools.cache
def _where() -> str:
    """Return a digest of the machine, its last start and the container this process runs in."""
    marks = [platform.node()]
    with contextlib.suppress(OSError):
        marks += [Path("/proc/sys/kernel/random/boot_id").read_text(), os.readlink("/proc/self/ns/pid")]
    return hashlib.blake2b("\n".join(marks).encode(), digest_size=4).hexdigest()


def _started(process: int) -> int | None:
    """Return when a process began, in ticks since the machine's start; -1 if it is over, None if that is not known."""
    try:
        # The fields after the command's name, which may hold anything: the state, ... and, 20th, the start.
        fields = Path(f"/proc/{process}/stat").read_text(errors="replace").rpartition(")")[2].split()
        return -1 if fields[0] in "ZX" else int(fields[19])
    except (OSError, IndexError):
        return None


def _runs(process: int) -> bool:
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except OSError:  # it is someone else's, whom this system may even hide
        return True
    return True
