"""Fingerprints: of every byte, remembered only while nothing can have changed, and by nobody but the user."""

from __future__ import annotations

import errno
import multiprocessing
import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from mishaps import spoil

from viper import fingerprints
from viper.fingerprints import (
    MEMORY_FILE,
    RACY_NS,
    fingerprint,
    fingerprint_bytes,
    fingerprint_folder,
    fingerprint_tree,
    passes,
)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty memory, in which files count that were made just now."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(fingerprints, "RACY_NS", -RACY_NS)
    forget(monkeypatch)
    return tmp_path / "cache" / "viper"


def forget(monkeypatch: pytest.MonkeyPatch) -> None:
    """As another process that starts now."""
    monkeypatch.setattr(fingerprints, "_MEMORY", fingerprints._Memory())


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The files whose content is read from now on."""
    names: list[str] = []
    digest_of_file = fingerprints._digest_of_file

    def noted(path: str) -> tuple[str, fingerprints.State]:
        names.append(Path(path).name)
        return digest_of_file(path)

    monkeypatch.setattr(fingerprints, "_digest_of_file", noted)
    return names


def made(path: Path, size: int = 300_000, seed: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(bytes((7 * i + seed) % 251 for i in range(1000)) * (size // 1000))
    return path


def test_every_byte_counts_and_nothing_else_does(tmp_path: Path) -> None:
    path = made(tmp_path / "a.bin")
    before = fingerprint(path)
    assert fingerprint(path) == before
    (tmp_path / "b.bin").write_bytes(path.read_bytes())
    os.utime(path, ns=(0, 0))
    assert fingerprint(path) == fingerprint(tmp_path / "b.bin") == before
    spoil(path)
    assert fingerprint(path) != before
    spoil(path)
    assert fingerprint(path) == before
    assert len({fingerprint(made(tmp_path / "c.bin", size)) for size in (0, 1000, 2000, 2_000_000)}) == 4
    assert fingerprint_bytes(b"ab", b"c") != fingerprint_bytes(b"a", b"bc")


def test_a_large_file_is_read_in_pieces(tmp_path: Path) -> None:
    """Beyond what 32 bits count; the file is nothing but a hole, and read at memory's speed, its end only here."""
    assert fingerprints.CHUNK_BYTES <= 4 << 20
    path = tmp_path / "large"
    with path.open("wb") as file:
        file.truncate(3 * fingerprints.CHUNK_BYTES + 5)
    before = fingerprint(path)
    with path.open("r+b") as file:
        file.seek(-1, os.SEEK_END)
        file.write(b"x")
    assert fingerprint(path) != before


def test_what_did_not_change_is_not_read_again(
    tmp_path: Path, read: list[str], cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, folder = made(tmp_path / "a.bin"), tmp_path / "folder"
    for name in ("x", "y"):
        made(folder / name)
    for _ in range(3):
        fingerprint(path)
        fingerprint_folder(folder, ["y", "x"])
        assert passes(path, "check", lambda: not read.append("checked"))
        assert read == ["a.bin", "x", "y", "checked"]
        forget(monkeypatch)
    assert cache.stat().st_mode & 0o077 == 0
    spoil(folder / "y")
    fingerprint_folder(folder, ["y", "x"])
    assert read[4:] == ["x", "y"]
    assert not passes(tmp_path / "none", "check", lambda: True)
    spoil(path)
    assert not passes(path, "check", lambda: False)
    assert not passes(path, "check", lambda: False)  # a failure is not remembered


def test_names_and_places_count_in_a_folder(tmp_path: Path) -> None:
    def written(root: Path, **files: str) -> Path:
        for name, content in files.items():
            (root / name.replace("_", "/")).parent.mkdir(parents=True, exist_ok=True)
            (root / name.replace("_", "/")).write_text(content)
        return root

    folders = [
        written(tmp_path / "1", a="1", b="2"),
        written(tmp_path / "2", a="2", b="1"),
        written(tmp_path / "3", a="1", c="2"),
        written(tmp_path / "4", d_a="1", d_b="2"),
    ]
    assert len({fingerprint_tree(folder) for folder in folders}) == 4
    assert fingerprint_folder(folders[0], ["a"]) != fingerprint_folder(folders[0], ["a", "b"])
    assert fingerprint_tree(written(tmp_path / "5", a="1", b="2")) == fingerprint_tree(folders[0])


def test_what_changed_just_now_is_not_remembered(
    tmp_path: Path, read: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may change again within the grain of the clock, and keep its size and all of its times."""
    path = made(tmp_path / "a.bin")
    monkeypatch.setattr(fingerprints, "RACY_NS", RACY_NS)
    os.utime(path, ns=(0, 0))  # an old time of modification does not make it old
    fingerprint(path)
    fingerprint(path)
    assert read == ["a.bin", "a.bin"]
    monkeypatch.setattr(time, "time_ns", lambda: path.stat().st_ctime_ns + RACY_NS + 1)
    fingerprint(path)
    fingerprint(path)
    assert read == ["a.bin"] * 3


def test_a_coarse_time_of_change_is_not_trusted(
    tmp_path: Path, read: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = made(tmp_path / "a.bin")
    state = fingerprints._state

    def of_fat(path: str, status: os.stat_result) -> fingerprints.State:
        size, *_ = state(path, status)
        return size, 2_000_000_000, 2_000_000_000, 1

    monkeypatch.setattr(fingerprints, "_state", of_fat)
    before = fingerprint(path)
    spoil(path)
    assert fingerprint(path) != before


def a_line_cut_off(memory: Path) -> None:
    memory.write_bytes(memory.read_bytes()[:-20])


def a_bit_flipped(memory: Path) -> None:
    data = bytearray(memory.read_bytes())
    data[60] ^= 1  # within the fingerprint
    memory.write_bytes(data)


def no_text(memory: Path) -> None:
    memory.write_bytes(os.urandom(5000) + b"\n" * 50)


def a_pipe(memory: Path) -> None:
    memory.unlink()
    os.mkfifo(memory)


def a_link(memory: Path) -> None:
    memory.rename(memory.with_name("elsewhere"))
    memory.symlink_to("elsewhere")


def writable_by_others(memory: Path) -> None:
    memory.chmod(0o666)


def a_folder_of_others(memory: Path) -> None:
    memory.parent.chmod(0o777)


def a_folder(memory: Path) -> None:
    memory.unlink()
    memory.mkdir()


@pytest.mark.parametrize(
    "damage",
    [a_line_cut_off, a_bit_flipped, no_text, a_pipe, a_link, writable_by_others, a_folder_of_others, a_folder],
)
def test_a_memory_that_is_damaged_or_not_the_users_own_is_not_believed(
    tmp_path: Path, read: list[str], cache: Path, monkeypatch: pytest.MonkeyPatch, damage: Callable[[Path], None]
) -> None:
    path = made(tmp_path / "a.bin")
    before = fingerprint(path)
    damage(cache / MEMORY_FILE)
    forget(monkeypatch)
    assert fingerprint(path) == before
    assert read == ["a.bin", "a.bin"]


@pytest.mark.parametrize("home", ["relative", "/dev/null/none", "/proc/none"])
def test_without_a_memory_files_are_read(
    tmp_path: Path, read: list[str], monkeypatch: pytest.MonkeyPatch, home: str
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", home)
    path = made(tmp_path / "a.bin")
    for _ in range(2):
        fingerprint(path)
        forget(monkeypatch)
    assert read == ["a.bin", "a.bin"]


def _fingerprint_all(folder: Path) -> None:
    fingerprints._MEMORY = fingerprints._Memory()
    for path in sorted(folder.iterdir()):
        fingerprint(path)


def test_processes_share_a_memory(tmp_path: Path, read: list[str]) -> None:
    for number in range(60):
        made(tmp_path / "files" / str(number), 1000, number)
    fingerprint(tmp_path / "files" / "0")  # what others add later is found, too
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=_fingerprint_all, args=(tmp_path / "files",)) for _ in range(4)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    read.clear()
    for number in range(60):
        fingerprint(tmp_path / "files" / str(number))
    assert read == []


def test_a_memory_does_not_grow_forever(
    tmp_path: Path, read: list[str], cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fingerprints, "MEMORY_BYTES", 4000)
    paths = [made(tmp_path / "files" / str(number), 1000) for number in range(80)]
    for path in paths:
        fingerprint(path)
    assert (cache / MEMORY_FILE).stat().st_size > 4000
    forget(monkeypatch)
    read.clear()
    fingerprint(paths[-1])
    assert (cache / MEMORY_FILE).stat().st_size <= 4000
    assert (cache / MEMORY_FILE).stat().st_mode & 0o077 == 0
    forget(monkeypatch)
    for path in paths[::-1]:
        fingerprint(path)
    assert read[:1] == ["54"]  # the latest are kept


def test_what_cannot_be_read_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(FileNotFoundError):
        fingerprint(tmp_path / "none")
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path, tmp_path / "pipe"):
        with pytest.raises(OSError, match="is not a file"):
            fingerprint(path)
    path = made(tmp_path / "a.bin")
    states = iter([(300_000, 1, 1, 1), (300_000, 1, 1, 1), (300_000, 1, 2, 1)])
    monkeypatch.setattr(fingerprints, "_state", lambda *_: next(states))
    with pytest.raises(OSError, match="changes while it is read") as error:
        fingerprint(path)
    assert (error.value.errno, error.value.filename) == (errno.EBUSY, str(path))


def test_a_memory_beyond_its_bounds_takes_no_memory(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"content")
    before = fingerprint(path)
    os.truncate(cache / MEMORY_FILE, 1 << 40)
    forget(monkeypatch)
    assert fingerprint(path) == before
    assert (cache / MEMORY_FILE).stat().st_size < 1 << 20  # and it is written anew
