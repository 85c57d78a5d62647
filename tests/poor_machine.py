"""Commands on machines that lack something; for `many.Launcher` to run, as "poor_machine:short_of_memory"."""

from __future__ import annotations

import errno
import os
import resource
from pathlib import Path
from typing import Any, NoReturn

from viper import cli


def short_of_memory(mebibytes: str, command: str, *arguments: str) -> None:
    """So much memory is left beyond what the process has."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * os.sysconf("SC_PAGE_SIZE") + (int(mebibytes) << 20)
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    cli.main(command, list(arguments))


def without_metadata(command: str, *arguments: str) -> None:
    """Files have no permissions, no times one can set, and no links, as on FAT or a network share."""
    for name in ("chmod", "fchmod", "lchmod", "chown", "utime", "symlink", "link", "setxattr"):
        if hasattr(os, name):
            setattr(os, name, _refuse(errno.EPERM))
    cli.main(command, list(arguments))


def without_locks(command: str, *arguments: str) -> None:
    """As on a network file system that is mounted without them."""
    import fcntl

    fcntl.flock = _refuse(errno.ENOSYS)
    cli.main(command, list(arguments))


def with_umask(octal: str, command: str, *arguments: str) -> None:
    """As on a machine where groups share files (002), or nobody does (077)."""
    os.umask(int(octal, 8))
    cli.main(command, list(arguments))


def _refuse(number: int) -> Any:
    def refuse(*_: object, **__: object) -> NoReturn:
        raise OSError(number, os.strerror(number))

    return refuse
