"""Small things every stage needs of files: atomic writes, numeric order, reading and writing text.

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
import re
import shutil
import stat
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from viper.bounded import MAX_DIGITS, MAX_JSON_BYTES, MAX_YAML_BYTES, parse_json, parse_yaml
from viper.errors import UserError, one_line
from viper.logs import log
from viper.temporaries import TEMPORARY_PREFIX, is_left_over, temporary_path

MAX_COLUMNS = 20_000
MAX_EMPTY_CELLS = 10**6  # of a table, which a file of a few bytes a row may claim to have
# What a folder of files cannot replace in one step: a folder with files in it, a file, a link.
_IN_THE_WAY = (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR)
# How Rust ends what it says of the system's errors.
_SYSTEM_ERROR = re.compile(r"\(os error (\d+)\)$")
# What a desktop leaves in any folder that is looked at.
_OF_THE_DESKTOP = r"\.DS_Store|Thumbs\.db|desktop\.ini|\._.*"
NOT_A_FILE = "is not a file but a device, pipe or socket"
# How a file system says that it has no hard links.
_NO_LINKS = (errno.EPERM, errno.EACCES, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL, errno.EXDEV)
# How it says that it has no locks.
_NO_LOCKS = (errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOLCK, errno.EINVAL, errno.EBADF)


@contextlib.contextmanager
def atomic_path(path: Path, make_parent: bool = True, is_private: bool = False) -> Iterator[Path]:
    """Give a temporary name in the folder of `path`; on success it replaces `path`, otherwise nothing is left.

    An OSError names `path`, not the temporary file. Without `make_parent` a missing folder is one: a folder of outputs
    that vanishes during a run (a disk that is gone) must not be begun again as if nothing had been. So is a device,
    pipe or socket of that name.

    A file that its writer made for this user alone gets the permissions of other files, unless it `is_private`.
    """
    with _named(path):
        _refuse_special(path)
        if make_parent:
            path.parent.mkdir(parents=True, exist_ok=True)
        # The suffix is kept because some writers (PyAV, matplotlib) choose the format by it.
        temporary = temporary_path(path.parent, path.suffix)
        try:
            yield temporary
            if not is_private:
                _share_as_usual(temporary, path.parent)
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
            for file in temporary.iterdir():
                _share_as_usual(file, path.parent)
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
    """Make an OSError about a temporary file, or about no file at all (as of a full disk), one about `path`.

    Libraries written in Rust have errors of their own for what the system says: these become an OSError too.
    """
    try:
        yield
    except OSError as error:
        if error.filename is None or TEMPORARY_PREFIX in f"{error.filename} {error.filename2}":
            error.filename, error.filename2 = str(path), None
        raise
    except Exception as error:
        if number := _SYSTEM_ERROR.search(str(error)):
            raise OSError(int(number[1]), os.strerror(int(number[1])), str(path)) from error
        raise


def _share_as_usual(path: Path, folder: Path) -> None:
    """Give a file that its writer made private (safetensors does) the permissions of any new file in `folder`."""
    status = path.lstat()
    if not stat.S_ISREG(status.st_mode) or status.st_mode & 0o077:
        return
    usual = _usual_mode(folder)
    if stat.S_IMODE(status.st_mode) != usual:
        with contextlib.suppress(OSError):  # a file system without permissions
            path.chmod(usual)


@functools.cache
def _usual_mode(folder: Path) -> int:
    """Return the permissions of a new file in a folder, as the umask and the folder's access list have them."""
    probe = temporary_path(folder)
    try:
        with probe.open("xb") as file:
            return stat.S_IMODE(os.fstat(file.fileno()).st_mode)
    finally:
        probe.unlink(missing_ok=True)


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

    What cannot be removed stays. A link of such a name goes itself.
    """
    removed = 0
    for entry in folder.iterdir():
        if is_left_over(entry):
            with contextlib.suppress(OSError):
                remove(entry)
                removed += 1
    return removed


@contextlib.contextmanager
def locked(path: Path, refusal: str = "", waiting: str = "") -> Iterator[None]:
    """Hold the lock that a file stands for; the system lets go of it when a process ends, however it ends.

    A file system without locks costs a line of the log, and the work goes on without.

    Parameters
    ----------
    path : the file, which stays.
    refusal : what the UserError says if another process holds the lock; by default its end is waited for.
    waiting : what the log says before that.
    """
    # Not above: it takes a while to import, and --help should be quick.
    from filelock import FileLock, Timeout

    # The library's stand-in for locks is a file that a killed process of another machine leaves for good.
    lock = FileLock(path, fallback_to_soft=False)
    try:
        try:
            lock.acquire(timeout=0)
        except Timeout:
            if refusal:
                raise UserError(refusal) from None
            if waiting:
                log.info("%s", waiting)
            lock.acquire()
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
        log.warning("%s: the file system has no locks; use the folder from one process at a time", path.parent)
    try:
        yield
    finally:
        lock.release()


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


def copy_file(source: Path, path: Path) -> None:
    """Copy a file's content atomically, and its time where the file system has times one can set."""
    with atomic_path(path) as temporary:
        shutil.copyfile(source, temporary)
        status = source.stat()
        with contextlib.suppress(OSError):
            os.utime(temporary, ns=(status.st_atime_ns, status.st_mtime_ns))


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


def files_only(path: str, flags: int, mode: int = 0o666) -> int:
    """Open a file, as the `opener` of `open`; a pipe, which would be waited for, or a device is an OSError."""
    descriptor = os.open(path, flags | getattr(os, "O_NONBLOCK", 0), mode)
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


def read_text(path: Path, max_bytes: int) -> str:
    """Return a UTF-8 file's text, without the mark that some editors begin it with.

    Raises OSError for a device, pipe or socket and ValueError for a larger file or one of other bytes.
    """
    content = read_bytes(path, max_bytes + 1)
    if len(content) > max_bytes:
        raise ValueError(f"the file is larger than {max_bytes >> 20} MiB")
    return content.decode("utf-8-sig")


def read_json(path: Path, max_bytes: int = MAX_JSON_BYTES) -> Any:
    """Read a JSON file; one that cannot be read, see `parse_json`, is a UserError naming it."""
    try:
        return parse_json(read_text(path, max_bytes))
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read as JSON ({one_line(_reason(error))})") from error


def read_yaml(path: Path, what: str = "YAML") -> Any:
    """Return what a YAML file holds.

    One that cannot be read, see `parse_yaml`, as `what` it should be is a UserError naming it and the line.
    """
    try:
        return parse_yaml(read_text(path, MAX_YAML_BYTES))
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read as {what} ({one_line(_reason(error))})") from error


def _reason(error: Exception) -> str:
    return (error.strerror or str(error)) if isinstance(error, OSError) else str(error)


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

    Cells that a row lacks are empty. Raises UserError as `read_csv_rows`, for a row with more cells, and for a header
    so long that the table would be a multiple of what the file holds.
    """
    rows = read_csv_rows(path)
    header = [name.strip() for name in rows[0][1]]
    if len(header) > MAX_COLUMNS:
        raise UserError(f"{path}: the header has {len(header)} columns; at most {MAX_COLUMNS} are read")
    n_cells = len(header) * len(rows)
    if n_cells > MAX_EMPTY_CELLS + 10 * sum(len(row) for _, row in rows):
        raise UserError(f"{path}: the header has {len(header)} columns, and most of the {len(rows) - 1} rows lack most")
    for line, row in rows[1:]:
        if any(row[len(header) :]):
            columns = "1 column" if len(header) == 1 else f"{len(header)} columns"
            raise UserError(f"{path}, line {line}: {len(row)} cells, but the header has {columns}")
    return header, [(line, (row + [""] * len(header))[: len(header)]) for line, row in rows[1:]]


def natural_key(name: str) -> tuple[tuple[int, int | str], ...]:
    """Return a sort key under which frame_9 comes before frame_10."""
    parts = re.findall(r"\d+|\D+", name)
    # Python takes no numbers of thousands of digits, which a row of a CSV may hold.
    return tuple((0, int(part)) if part.isdecimal() and len(part) <= MAX_DIGITS else (1, part) for part in parts)


def visible_entries(folder: Path) -> list[Path]:
    """Return a folder's entries in natural order, without hidden and temporary ones; UserError if it is missing."""
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder")
    entries = [entry for entry in folder.iterdir() if not entry.name.startswith(".")]
    return sorted(entries, key=lambda entry: natural_key(entry.name))


def cache_folder() -> Path | None:
    """Return the folder for what viper may lose at any time: ~/.cache/viper, below XDG_CACHE_HOME where that is set.

    None for a user without a home.
    """
    caches = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    return Path(caches) / "viper" if os.path.isabs(caches) else None


def check_private(status: os.stat_result, path: Path) -> None:
    """Refuse what others could have put into the cache: a link, a file or folder of another user or open to others.

    Raises PermissionError, naming it.
    """
    if stat.S_ISLNK(status.st_mode) or (hasattr(os, "geteuid") and status.st_uid != os.geteuid()):
        raise PermissionError(errno.EPERM, "is a link, or belongs to another user", str(path))
    if os.name != "nt" and status.st_mode & 0o022:
        raise PermissionError(errno.EPERM, "others may write to it (chmod go-w)", str(path))


def digest_of(value: Any) -> str:
    """Return a short digest of anything JSON can hold, independent of the order of keys."""
    return hashlib.blake2b(json.dumps(value, sort_keys=True).encode(), digest_size=12).hexdigest()
