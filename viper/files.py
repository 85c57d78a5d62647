"""Small things every stage needs of files: atomic writes, numeric order, fingerprints.

The rule for all that is written or deleted: a folder that the user names may be a link, and links are read through;
but within that folder nothing goes through a link. A file is written under a new name and takes the place of a link;
a folder that viper makes of its own is no link (`own_folder`); what is deleted is a file, a link itself, or a folder
as it is (`remove`).
"""

from __future__ import annotations

import contextlib
import csv
import errno
import functools
import hashlib
import io
import json
import os
import platform
import re
import shutil
import stat
import time
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from viper.errors import UserError, one_line

TEMPORARY_PREFIX = ".tmp-"
# Temporaries of other machines (or of names older than this scheme) are kept for so long: their process may live.
FOREIGN_SECONDS = 24 * 3600.0

_OWNED = re.compile(re.escape(TEMPORARY_PREFIX) + r"(?:([0-9a-f]{8})-(\d+)-(\d+)-)?[0-9a-f]{12}(\..*)?")
# What a folder of files cannot replace in one step: a folder with files in it, a file, a link.
_IN_THE_WAY = (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR)
# What a desktop leaves in any folder that is looked at.
_OF_THE_DESKTOP = r"\.DS_Store|Thumbs\.db|desktop\.ini|\._.*"
NOT_A_FILE = "is not a file but a device, pipe or socket"
# How a file system says that it has no hard links.
_NO_LINKS = (errno.EPERM, errno.EACCES, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL, errno.EXDEV)


@contextlib.contextmanager
def atomic_path(path: Path, make_parent: bool = True) -> Iterator[Path]:
    """Give a temporary name in the folder of `path`; on success it replaces `path`, otherwise nothing is left.

    An OSError names `path`, not the temporary file. Without `make_parent` a missing folder is one: a folder of outputs
    that vanishes during a run (a disk that is gone) must not be begun again as if nothing had been. So is a device,
    pipe or socket of that name.
    """
    with _named(path):
        _refuse_special(path)
        if make_parent:
            path.parent.mkdir(parents=True, exist_ok=True)
        # The suffix is kept because some writers (PyAV, matplotlib) choose the format by it.
        temporary = temporary_path(path.parent, path.suffix)
        try:
            yield temporary
            os.replace(temporary, path)
        finally:
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def atomic_folder(path: Path, make_parent: bool = True, own: str = ".*") -> Iterator[Path]:
    """Do the same for a folder of files that only make sense together. An older one is replaced.

    If several processes write one folder, the last to finish wins. A link of that name is replaced itself: what
    it points to stays as it is. A file of that name, and a folder with more in it than viper writes there, are the
    user's: an OSError.

    Parameters
    ----------
    own : a regular expression of the names of files that viper writes there; by default any.
    """
    with _named(path):
        _refuse_special(path)
        refuse_foreign(path, own)
        if make_parent:
            path.parent.mkdir(parents=True, exist_ok=True)
        temporary = temporary_path(path.parent)
        temporary.mkdir()
        try:
            yield temporary
            refuse_foreign(path, own)
            _replace_folder(temporary, path)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


def _refuse_special(path: Path) -> None:
    """Refuse to replace what is not a file: /dev/null, /dev/stdout, a pipe; also where a link leads there."""
    with contextlib.suppress(FileNotFoundError, NotADirectoryError):
        kind = path.stat().st_mode
        if not (stat.S_ISREG(kind) or stat.S_ISDIR(kind)):
            raise OSError(errno.EINVAL, NOT_A_FILE, str(path))


def refuse_foreign(path: Path, own: str) -> None:
    """Raise an OSError where a folder of viper's own is to be replaced or deleted and there is more in it, or a file.

    `own` is a regular expression of the names of files that viper writes there. A link has nothing in it.
    """
    with contextlib.suppress(FileNotFoundError):
        kind = path.lstat().st_mode
        if stat.S_ISREG(kind):
            raise OSError(errno.ENOTDIR, "is a file, where a folder is to be written; move it away", str(path))
        if stat.S_ISDIR(kind):
            names = re.compile(f"{own}|{_OF_THE_DESKTOP}")
            with os.scandir(path) as entries:
                foreign = sorted(
                    each.name
                    for each in entries
                    if each.is_dir(follow_symlinks=False) or not names.fullmatch(each.name)
                )
            if foreign:
                reason = f"holds {foreign[0]!r}, which would be deleted; move it away, or give another output folder"
                raise OSError(errno.ENOTEMPTY, reason, str(path))


def _replace_folder(new: Path, path: Path) -> None:
    outdated = []
    try:
        while True:
            try:
                os.replace(new, path)
                return
            except OSError as error:
                if error.errno not in _IN_THE_WAY:
                    raise
            # The old one steps aside, so that no half folder is seen. Another process may put its own there meanwhile,
            # or may have moved this one away: then the loop goes round.
            aside = temporary_path(path.parent)
            with contextlib.suppress(FileNotFoundError):
                os.replace(path, aside)
                outdated.append(aside)
    finally:
        for aside in outdated:
            with contextlib.suppress(OSError):
                remove(aside)


@contextlib.contextmanager
def _named(path: Path) -> Iterator[None]:
    """Make an OSError about a temporary file, or about no file at all (as of a full disk), one about `path`."""
    try:
        yield
    except OSError as error:
        if error.filename is None or TEMPORARY_PREFIX in str(error.filename):
            error.filename, error.filename2 = str(path), None
        raise


def temporary_path(folder: Path, suffix: str = "") -> Path:
    """Return a name in `folder` that no one else uses, and that says whose it is.

    It is `.tmp-<where>-<process>-<started>-<random>`; `where` is the machine since it was started (and its container):
    process numbers mean something only there.
    """
    process = os.getpid()
    owner = f"{_where()}-{process}-{_started(process) or 0}"
    return folder / f"{TEMPORARY_PREFIX}{owner}-{uuid.uuid4().hex[:12]}{suffix}"


def prepare_outputs(folder: Path) -> None:
    """Make the folder a run writes to, and remove what killed runs left in it."""
    folder.mkdir(parents=True, exist_ok=True)
    sweep(folder)


def own_folder(folder: Path, *names: str, mode: int = 0o777) -> Path:
    """Make `names`, one below the other, in a folder that the user named, and return the last; no link is followed.

    Whoever made the folder may have put a link there: that is a UserError. A file of such a name is an OSError.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        folder = folder / name
        # In this order: what takes the name between the two steps is looked at too.
        with contextlib.suppress(FileExistsError):
            folder.mkdir(mode)
        _refuse_link(folder)
    return folder


def check_own_folder(folder: Path, *names: str) -> Path:
    """Return the path that `own_folder` would make, and refuse what it would refuse, but make nothing."""
    for name in names:
        folder = folder / name
        with contextlib.suppress(FileNotFoundError):
            _refuse_link(folder)
    return folder


def _refuse_link(path: Path) -> None:
    kind = path.lstat().st_mode
    if stat.S_ISLNK(kind):
        raise UserError(f"{path}: is a link, and nothing is written through it; remove it, or name another folder")
    if not stat.S_ISDIR(kind):
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(path))


def sweep(folder: Path) -> int:
    """Remove the temporary files and folders that killed processes left directly in `folder`; return how many.

    One goes when its process ran on this machine and is no more; one of another machine, or of no known process, when
    it is older than a day. What cannot be removed stays. A link of such a name goes itself.
    """
    removed = 0
    for entry in folder.iterdir():
        if (owner := _OWNED.fullmatch(entry.name)) and _is_left_over(entry, owner):
            with contextlib.suppress(OSError):
                remove(entry)
                removed += 1
    return removed


def _is_left_over(temporary: Path, owner: re.Match[str]) -> bool:
    where, process, began = owner.group(1, 2, 3)
    if where == _where():
        started = _started(int(process))
        # The number of a process is given again: one that began at another time is not the owner.
        return not _runs(int(process)) if started is None else started != int(began)
    try:
        return time.time() - temporary.lstat().st_mtime > FOREIGN_SECONDS
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


def remove(path: Path) -> None:
    """Delete a file, a link (not what it points to) or a folder with all in it; nothing, where there is nothing.

    Links in the folder go themselves. Nothing is looked at first, and so nothing can be put in its place meanwhile:
    `unlink` follows no link, and `rmtree` goes by open folders and refuses a link.
    """
    try:
        path.unlink(missing_ok=True)
    except OSError:  # a folder, or what cannot be deleted
        if not stat.S_ISDIR(path.lstat().st_mode):
            raise
        shutil.rmtree(path)


def write_text(path: Path, text: str) -> None:
    """Write a UTF-8 text file atomically."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="")


def write_json(path: Path, value: Any) -> None:
    """Write `value` as indented JSON, atomically. NaN is refused, since other readers of JSON refuse it."""
    write_text(path, _json_text(value))


def create_json(path: Path, value: Any) -> bool:
    """Write `value` as `write_json` does unless the file exists; return whether it was written.

    If several processes create it at once, on any machine that shares the folder, one succeeds.
    """
    temporary = temporary_path(path.parent, path.suffix)
    with _named(path):
        try:
            write_text(temporary, _json_text(value))
            os.link(temporary, path)
        except FileExistsError:
            return False
        except OSError as error:
            if error.errno not in _NO_LINKS:
                raise
            # A file system without hard links: for a moment others may see the file half written.
            try:
                with path.open("x", encoding="utf-8", newline="") as file:
                    file.write(_json_text(value))
            except FileExistsError:
                return False
        finally:
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)
    return True


def _json_text(value: Any) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def files_only(path: str, flags: int) -> int:
    """Open a file, as the `opener` of `open`; a pipe, which would be waited for, or a device is an OSError."""
    descriptor = os.open(path, flags | getattr(os, "O_NONBLOCK", 0), 0o666)
    kind = os.fstat(descriptor).st_mode
    if stat.S_ISREG(kind):
        return descriptor
    os.close(descriptor)
    if stat.S_ISDIR(kind):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), path)
    raise OSError(errno.EINVAL, NOT_A_FILE, path)


def read_bytes(path: Path, n_bytes: int = -1) -> bytes:
    """Return the first `n_bytes` of a file, or all; a device, pipe or socket is an OSError."""
    with open(path, "rb", opener=files_only) as file:
        return file.read(n_bytes)


def read_text(path: Path, encoding: str = "utf-8") -> str:
    """Return a text file's content, line ends as \\n; a device, pipe or socket is an OSError."""
    with open(path, encoding=encoding, opener=files_only) as file:
        return file.read()


def read_json(path: Path) -> Any:
    """Read a JSON file; one that cannot be read is a UserError naming it."""
    try:
        return json.loads(read_text(path))
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path}: cannot be read as JSON ({error})") from error


def read_yaml(path: Path, what: str = "YAML") -> Any:
    """Return what a YAML file holds; one that cannot be read as `what` it should be is a UserError naming it."""
    try:
        return yaml.safe_load(read_text(path))
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        raise UserError(f"{path}: cannot be read as {what} ({one_line(str(error))})") from error


def csv_text(rows: Iterable[Iterable[Any]]) -> str:
    """Return rows as the text of a CSV file, the header first."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()


def write_csv(path: Path, rows: Iterable[Iterable[Any]]) -> None:
    """Write rows as a CSV file, the header first, atomically."""
    write_text(path, csv_text(rows))


def write_csv_records(path: Path, records: Sequence[Mapping[str, Any]]) -> None:
    """Write at least one row, each column -> value, as a CSV file with the first one's columns, atomically."""
    header = list(records[0])
    write_csv(path, [header, *([record.get(name, "") for name in header] for record in records)])


def read_csv_rows(path: Path) -> list[tuple[int, list[str]]]:
    """Return (line in the file, cells) of every row that is not blank, the header first; cells are text, as they stand.

    Raises UserError naming the file when it is missing, empty, not UTF-8 or no CSV.
    """
    try:
        with open(path, encoding="utf-8-sig", newline="", opener=files_only) as file:
            reader = csv.reader(file, skipinitialspace=True, strict=True)
            rows = [(reader.line_num, row) for row in reader if any(cell.strip() for cell in row)]
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{path}: cannot be read as CSV ({error})") from error
    if not rows:
        raise UserError(f"{path}: the file is empty")
    return rows


def read_csv_cells(path: Path) -> tuple[list[str], list[tuple[int, list[str]]]]:
    """Return a CSV's header, and (line in the file, cells) of each row below it, one cell for each name of the header.

    Cells that a row lacks are empty. Raises UserError as `read_csv_rows`, and for a row with more cells.
    """
    rows = read_csv_rows(path)
    header = [name.strip() for name in rows[0][1]]
    for line, row in rows[1:]:
        if any(row[len(header) :]):
            columns = "1 column" if len(header) == 1 else f"{len(header)} columns"
            raise UserError(f"{path}, line {line}: {len(row)} cells, but the header has {columns}")
    return header, [(line, (row + [""] * len(header))[: len(header)]) for line, row in rows[1:]]


def natural_key(name: str) -> tuple[tuple[int, int | str], ...]:
    """Return a sort key under which frame_9 comes before frame_10."""
    parts = re.findall(r"\d+|\D+", name)
    return tuple((0, int(part)) if part.isdecimal() else (1, part) for part in parts)


def visible_entries(folder: Path) -> list[Path]:
    """Return a folder's entries in natural order, without hidden and temporary ones; UserError if it is missing."""
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder")
    entries = [entry for entry in folder.iterdir() if not entry.name.startswith(".")]
    return sorted(entries, key=lambda entry: natural_key(entry.name))


def fingerprint(path: Path, edge_bytes: int = 65536) -> str:
    """Return a short digest of a file's size and its first and last 64 KiB: cheap, and the same on another disk."""
    digest = hashlib.blake2b(digest_size=12)
    size = path.stat().st_size
    digest.update(str(size).encode())
    with open(path, "rb", opener=files_only) as file:
        digest.update(file.read(edge_bytes))
        if size > edge_bytes:
            file.seek(max(edge_bytes, size - edge_bytes))
            digest.update(file.read(edge_bytes))
    return digest.hexdigest()


def digest_of(value: Any) -> str:
    """Return a short digest of anything JSON can hold, independent of the order of keys."""
    return hashlib.blake2b(json.dumps(value, sort_keys=True).encode(), digest_size=12).hexdigest()
