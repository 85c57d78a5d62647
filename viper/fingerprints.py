"""What files hold, as short digests of every byte, remembered so that files that did not change are not read again.

Each fingerprint is a line of <cache folder>/fingerprints-1: a digest of the path, a digest of the file's state, the
fingerprint, and a check of the line. The state is size, modification time, change time and inode: a change time cannot
be set, so that a file that was changed and got its old modification time back is read again. Lines are appended whole,
by any number of processes; damaged ones are ignored. Without a cache folder files are read each time.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import stat
import struct
import threading
import time
import zlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from viper.files import NOT_A_FILE, atomic_path, cache_folder, check_private, files_only

MEMORY_FILE = "fingerprints-1"
MEMORY_BYTES = 32 << 20  # at most; beyond, the older half is forgotten
# What changed so short a time ago may change again within the grain of the clock, and look the same.
RACY_NS = 2_000_000_000
# File systems whose change times are whole hundredths or seconds (FAT, exFAT, HFS+, SFTP) keep no true ones.
COARSE_NS = 10_000_000
CHUNK_BYTES = 1 << 20
DIGEST_BYTES = 16

# Characters of a line: of the place, of the state (both with a blank), of the fingerprint, of the line's check.
_KEY, _CHECK = 17, 8
_PACKED = struct.Struct("<qqqQ")  # a state
_LINE = 2 * _KEY + 2 * DIGEST_BYTES + 1 + _CHECK

State = tuple[int, int, int, int]


def fingerprint(path: Path) -> str:
    """Return a digest of all bytes of a file, the same on any disk and under any name.

    Raises OSError where it cannot be read, is no file, or changes while it is read.
    """
    began, place = time.time_ns(), os.path.abspath(path)
    known = _MEMORY.recall(place, [_state(place, os.stat(place))])
    if known is not None:
        return known
    digest, state = _digest_of_file(place)
    _MEMORY.remember(place, [state], digest, began)
    return digest


def fingerprint_folder(folder: Path, names: Iterable[str]) -> str:
    """Return a digest of these files of a folder, their names and all of their bytes. Raises as `fingerprint`."""
    began, here, names = time.time_ns(), os.path.abspath(folder), sorted(names)
    paths = [f"{here}{os.sep}{name}" for name in names]
    place = "\0".join([here, *names])  # no path of a file has that character in it
    known = _MEMORY.recall(place, [_state_of(status) for status in map(os.stat, paths)])
    if known is not None:
        return known
    states, parts = [], []
    for name, path in zip(names, paths, strict=True):
        digest, state = _digest_of_file(path)
        states.append(state)
        parts += [os.fsencode(name), digest.encode()]
    whole = fingerprint_bytes(*parts)
    _MEMORY.remember(place, states, whole, began)
    return whole


def passes(path: Path, what: str, check: Callable[[], bool]) -> bool:
    """Return whether a check of all that is in a file succeeds. A success is remembered until the file changes.

    `what` names the check.
    """
    began, place = time.time_ns(), f"{os.path.abspath(path)}\0{what}"
    try:
        states = [_state(str(path), os.stat(path))]
    except OSError:
        return False
    if _MEMORY.recall(place, states) is not None:
        return True
    if not check():
        return False
    _MEMORY.remember(place, states, fingerprint_bytes(), began)
    return True


def fingerprint_tree(folder: Path) -> str:
    """Return a digest of all files below a folder, by their places in it. Links to folders are not followed."""
    parts = []
    for here, folders, names in os.walk(folder):
        folders.sort()
        whole = fingerprint_folder(Path(here), (name for name in names if not name.startswith(".")))
        parts += [os.fsencode(os.path.relpath(here, folder)), whole.encode()]
    return fingerprint_bytes(*parts)


def fingerprint_bytes(*parts: bytes | memoryview) -> str:
    """Return a digest of some bytes in memory, which depends on where each part ends."""
    digest = _digest()
    for part in parts:
        digest.update(f"{memoryview(part).nbytes}:".encode())
        digest.update(part)
    return digest.hexdigest()


def _digest() -> hashlib.blake2b:
    return hashlib.blake2b(digest_size=DIGEST_BYTES)


def _digest_of_file(path: str) -> tuple[str, State]:
    """Return the digest of a file's content, and its state, which was the same before and after."""
    digest, buffer = _digest(), bytearray(CHUNK_BYTES)
    view = memoryview(buffer)
    with open(path, "rb", buffering=0, opener=files_only) as file:
        before = _state(path, os.fstat(file.fileno()))
        left = before[0]
        # Not to its end, which a file that grows meanwhile may not have.
        while left > 0 and (n := file.readinto(view[:left])):
            digest.update(view[:n])
            left -= n
        if left or _state(path, os.fstat(file.fileno())) != before:
            raise OSError(errno.EBUSY, "changes while it is read", path)
    return digest.hexdigest(), before


def _state(path: str, status: os.stat_result) -> State:
    if not stat.S_ISREG(status.st_mode):
        raise OSError(errno.EINVAL, NOT_A_FILE, path)
    return _state_of(status)


def _state_of(status: os.stat_result) -> State:
    return status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino


class _Memory:
    """Fingerprints of earlier runs, of this one and of its other processes, by place."""

    def __init__(self) -> None:
        self._known: dict[bytes, bytes] = {}
        self._read_up_to: tuple[int, int] | None = None  # inode and bytes of the file
        self._lock = threading.Lock()

    def recall(self, place: str, states: list[State]) -> str | None:
        """Return the fingerprint of files that are as they were when it was taken."""
        key, state = _hash(place), _hash_of(states)
        return self._found(key, state) or (self._found(key, state) if self._read_on() else None)

    def _found(self, key: bytes, state: bytes) -> str | None:
        rest = self._known.get(key, b"")
        if not rest.startswith(state) or _line(key, rest[:-_CHECK]) != key + rest:
            return None
        return rest[len(state) : -_CHECK].strip().decode()

    def remember(self, place: str, states: list[State], digest: str, began: int) -> None:
        """Keep a fingerprint, here and on disk, unless the files could change and look the same."""
        if os.name == "nt":  # which gives no time of change
            return
        if any(changed > began - RACY_NS or changed % COARSE_NS == 0 for _, _, changed, _ in states):
            return
        line = _line(_hash(place), _hash_of(states) + digest.encode() + b" ")
        self._take(line)
        with (
            contextlib.suppress(OSError),
            _memory_file(os.O_WRONLY | os.O_APPEND | os.O_CREAT) as file,
            open(file, "ab", buffering=0, closefd=False) as lines,
        ):
            # A line break first: what a full disk or a killed machine left of another line does not spoil this one.
            lines.write(b"\n" + line + b"\n")

    def _read_on(self) -> bool:
        """Read what has been written since the last time; return whether that was anything."""
        with self._lock, contextlib.suppress(OSError):
            with _memory_file(os.O_RDONLY) as file:
                status = os.fstat(file)
                now = status.st_ino, status.st_size
                if now == self._read_up_to:
                    return False
                inode, start = self._read_up_to or (0, 0)
                start = start if inode == now[0] and start <= now[1] else 0
                start = max(start, now[1] - MEMORY_BYTES)  # whoever made it larger does not cost this process memory
                os.lseek(file, start, os.SEEK_SET)
                with open(file, "rb", closefd=False) as lines:
                    for line in lines.read(now[1] - start).split(b"\n"):
                        self._take(line)
                is_first, self._read_up_to = self._read_up_to is None, now
            if is_first and now[1] > max(MEMORY_BYTES // 64, min(MEMORY_BYTES, 4 * _LINE * len(self._known))):
                _write_memory(self._known)
            return True
        return False

    def _take(self, line: bytes) -> None:
        if len(line) == _LINE:
            self._known.pop(line[:_KEY], None)  # the latest go to the end
            self._known[line[:_KEY]] = line[_KEY:]


def _hash(content: str | bytes) -> bytes:
    return hashlib.blake2b(os.fsencode(content), digest_size=_KEY // 2).hexdigest().encode() + b" "


def _hash_of(states: list[State]) -> bytes:
    return _hash(b"".join([_PACKED.pack(*state) for state in states]))


def _line(key: bytes, rest: bytes) -> bytes:
    return key + rest + b"%08x" % zlib.crc32(key + rest)


def _write_memory(known: dict[bytes, bytes]) -> None:
    """Write the memory anew, without lines that later ones replaced, and not more than half of what is allowed.

    Lines that other processes append meanwhile are lost: those files will be read once more.
    """
    folder = cache_folder()
    assert folder is not None
    kept = list(known.items())[-(MEMORY_BYTES // 2 // (_LINE + 2)) :]
    with (
        atomic_path(folder / MEMORY_FILE, make_parent=False, is_private=True) as temporary,
        open(temporary, "wb", opener=lambda path, flags: os.open(path, flags, 0o600)) as file,
    ):
        file.writelines(b"\n" + key + rest + b"\n" for key, rest in kept)


@contextlib.contextmanager
def _memory_file(flags: int) -> Iterator[int]:
    """Open the memory; OSError where there is none, and where another user could have written it."""
    folder = cache_folder()
    if folder is None:
        raise FileNotFoundError(errno.ENOENT, "no cache folder")
    if flags & os.O_CREAT:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(FileExistsError):
            folder.mkdir(mode=0o700)
    check_private(os.lstat(folder), folder)
    path = folder / MEMORY_FILE
    file = files_only(os.fspath(path), flags | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_CLOEXEC", 0), 0o600)
    try:
        check_private(os.fstat(file), path)
        yield file
    finally:
        os.close(file)


_MEMORY = _Memory()
