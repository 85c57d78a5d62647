from __future__ import annotations

import contextlib
import errno
import multiprocessing
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from viper.engine.failures import Failure, FailureLog, read_failures
from viper.errors import ClipError, UserError, WorkerError
from viper.files import (
    atomic_folder,
    atomic_path,
    create_json,
    digest_of,
    natural_key,
    prepare_outputs,
    read_json,
    sweep,
    visible_entries,
    write_json,
    write_text,
)
from viper.temporaries import temporary_path


def names(folder: Path) -> list[str]:
    """Everything in a folder, hidden and temporary files included."""
    return sorted(os.listdir(folder))


def test_a_file_appears_when_it_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "new" / "x.json"
    with atomic_path(path) as temporary:
        temporary.write_text("1")
        assert temporary.parent == path.parent  # the same disk, so that the replacement is one step
        assert temporary.suffix == ".json"
        assert not path.exists()
    assert path.read_text() == "1"
    assert names(path.parent) == ["x.json"]


@pytest.mark.parametrize("error", [ValueError("no"), KeyboardInterrupt()])
def test_a_writer_that_is_stopped_leaves_the_old_file_and_nothing_else(tmp_path: Path, error: BaseException) -> None:
    path = tmp_path / "x.txt"
    path.write_text("old")
    with pytest.raises(type(error)), atomic_path(path) as temporary:  # noqa: PT012
        temporary.write_text("half")
        raise error
    assert path.read_text() == "old"
    assert names(tmp_path) == ["x.txt"]


def test_a_folder_replaces_the_older_one_as_a_whole(tmp_path: Path) -> None:
    path = tmp_path / "clip"
    for files in (["a", "b"], ["b", "c"]):
        with atomic_folder(path) as temporary:
            for name in files:
                (temporary / name).write_text(str(files))
        assert names(path) == files
    assert names(tmp_path) == ["clip"]


@pytest.mark.parametrize("error", [ValueError("no"), KeyboardInterrupt()])
def test_a_folder_that_is_not_finished_leaves_the_old_one(tmp_path: Path, error: BaseException) -> None:
    path = tmp_path / "clip"
    with atomic_folder(path) as temporary:
        (temporary / "old").touch()
    with pytest.raises(type(error)), atomic_folder(path) as temporary:  # noqa: PT012
        (temporary / "new").touch()
        raise error
    assert names(path) == ["old"]
    assert names(tmp_path) == ["clip"]


def test_json_round_trip(tmp_path: Path) -> None:
    value = {"b": [1, 2.5, None], "a": "表情 é", "nested": {"x": True}}
    write_json(tmp_path / "x.json", value)
    assert read_json(tmp_path / "x.json") == value
    with pytest.raises(ValueError, match="JSON"):
        write_json(tmp_path / "x.json", {"x": float("nan")})
    assert read_json(tmp_path / "x.json") == value


def test_text_is_written_byte_for_byte(tmp_path: Path) -> None:
    write_text(tmp_path / "x.csv", "a\r\né\n")
    assert (tmp_path / "x.csv").read_bytes() == b"a\r\n\xc3\xa9\n"


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b'{"a": 1} x'])
def test_json_that_cannot_be_read(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x.json").write_bytes(content)
    with pytest.raises(UserError, match=r"x\.json: cannot be read as JSON"):
        read_json(tmp_path / "x.json")
    with pytest.raises(UserError, match=r"none\.json"):
        read_json(tmp_path / "none.json")


def test_numbers_in_names_count_as_numbers() -> None:
    ordered = [
        "",
        "2",
        "10",
        "frame_2.jpg",
        "frame_9.jpg",
        "frame_10.jpg",
        "frame_100.jpg",
        "frame_a.jpg",
        "v1.9",
        "v1.10",
    ]
    backwards = ordered[::-1]
    assert sorted(backwards, key=natural_key) == ordered
    sorted(["²", "１２", "x²", "3x"], key=natural_key)  # digits of other scripts are no reason to fail


def test_hidden_and_temporary_entries_are_not_seen(tmp_path: Path) -> None:
    for name in ("10.mp4", "9.mp4", ".DS_Store", ".tmp-abc.mp4"):
        (tmp_path / name).touch()
    (tmp_path / ".tmp-folder").mkdir()
    (tmp_path / "clip").mkdir()
    assert [entry.name for entry in visible_entries(tmp_path)] == ["9.mp4", "10.mp4", "clip"]
    for wrong in (tmp_path / "none", tmp_path / "9.mp4"):
        with pytest.raises(UserError, match="no such folder"):
            visible_entries(wrong)


def test_a_digest_is_of_the_value_not_of_the_order_of_its_keys() -> None:
    assert digest_of({"a": 1, "b": [2]}) == digest_of({"b": [2], "a": 1})
    assert digest_of([1, 2]) != digest_of([2, 1])


def test_failures_are_on_disk_at_once_and_leave_when_fixed(tmp_path: Path) -> None:
    folder = tmp_path / "frames"
    folder.mkdir()
    log = FailureLog(folder, "get_frame")
    assert not list(folder.iterdir())  # a run without failures leaves nothing behind
    log.failed(Failure.of("10", "get_frame", ClipError("no video,\nonly audio")))
    log.failed(Failure.of("9", "get_frame", ValueError('odd "quotes", and commas')))
    assert (folder / "failures.csv").read_text() == (
        "clip,stage,error,message\n"
        '9,get_frame,ValueError,"odd ""quotes"", and commas"\n'
        '10,get_frame,ClipError,"no video, only audio"\n'
    )
    log.failed(Failure.of("9", "get_frame", ValueError("again")))
    assert [(row.clip, row.message) for row in read_failures(folder)] == [
        ("9", "again"),
        ("10", "no video, only audio"),
    ]
    log.succeeded("never failed")
    log.succeeded("9")
    # A later run knows of the failures of earlier ones.
    FailureLog(folder, "get_frame").succeeded("10")
    assert read_failures(folder) == []
    assert not (folder / "failures.csv").exists()


def test_stages_and_shards_share_a_file(tmp_path: Path) -> None:
    first, second = FailureLog(tmp_path, "crop_images"), FailureLog(tmp_path, "crop_images")
    other = FailureLog(tmp_path, "get_frame")
    first.failed(Failure.of("1", "crop_images", ClipError("a")))
    second.failed(Failure.of("2", "crop_images", ClipError("b")))
    other.failed(Failure.of("1", "get_frame", ClipError("c")))
    assert [(row.clip, row.stage) for row in read_failures(tmp_path)] == [
        ("1", "crop_images"), ("1", "get_frame"), ("2", "crop_images"),
    ]  # fmt: skip
    first.succeeded("1")
    assert [(row.clip, row.stage) for row in read_failures(tmp_path)] == [("1", "get_frame"), ("2", "crop_images")]


def test_the_row_of_an_exception() -> None:
    assert Failure.of("1", "s", WorkerError("InvalidDataError", "bad\ndata")) == Failure(
        "1", "s", "InvalidDataError", "bad data"
    )
    assert Failure.of("1", "s", MemoryError()) == Failure("1", "s", "MemoryError", "MemoryError")


def test_a_list_of_failures_that_someone_broke(tmp_path: Path) -> None:
    (tmp_path / "failures.csv").write_text("clip;stage\n1;get_frame\n")
    with pytest.raises(UserError, match=r"failures\.csv"):
        FailureLog(tmp_path, "get_frame")


def test_an_error_names_the_file_that_was_to_be_not_the_temporary_one(tmp_path: Path) -> None:
    def write(inside: Path) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")  # as of a write, which names no file

    for make in (atomic_path, atomic_folder):
        with pytest.raises(OSError, match="No space left") as error, make(tmp_path / "clip") as temporary:
            write(temporary)
        assert error.value.filename == str(tmp_path / "clip")
    with pytest.raises(OSError, match="No such file") as error, atomic_folder(tmp_path / "clip") as temporary:
        (temporary / "nowhere" / "x").write_text("")
    assert error.value.filename == str(tmp_path / "clip")
    assert names(tmp_path) == []


@pytest.mark.parametrize("make", [atomic_path, atomic_folder])
def test_a_folder_of_outputs_that_is_gone_is_not_made_again(tmp_path: Path, make: Callable[..., Any]) -> None:
    with pytest.raises(FileNotFoundError) as error, make(tmp_path / "out" / "clip", make_parent=False) as temporary:
        temporary.write_text("x")
    assert error.value.filename == str(tmp_path / "out" / "clip")
    assert names(tmp_path) == []


@pytest.mark.parametrize("target", ["folder", "file", "nothing"])
def test_a_link_is_replaced_and_what_it_points_to_left_alone(tmp_path: Path, target: str) -> None:
    elsewhere, path = tmp_path / "elsewhere", tmp_path / "out" / "clip"
    if target == "folder":
        elsewhere.mkdir()
        (elsewhere / "precious").touch()
    elif target == "file":
        elsewhere.touch()
    path.parent.mkdir()
    path.symlink_to(elsewhere)
    with atomic_folder(path) as temporary:
        (temporary / "new").touch()
    assert not path.is_symlink()
    assert (names(path), names(path.parent)) == (["new"], ["clip"])
    assert target != "folder" or names(elsewhere) == ["precious"]
    path = tmp_path / "out" / "file"
    path.symlink_to(elsewhere)
    if target == "folder":
        path = path / "precious"  # a file below a link is below what it points to; only the name itself is replaced
    with atomic_path(path) as written:
        written.write_text("new")
    assert path.read_text() == "new"
    assert target != "file" or elsewhere.read_bytes() == b""


def test_a_file_or_a_folder_of_others_is_not_replaced_by_a_folder(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "clip").mkdir()
    (tmp_path / "clip" / ".DS_Store").touch()
    with atomic_folder(tmp_path / "clip", own="new|old") as temporary:
        (temporary / "new").touch()
    assert names(tmp_path / "clip") == ["new"]
    (tmp_path / "clip" / "letter").touch()
    for name, what in (("file", "is a file"), ("clip", "holds 'letter'")):
        with pytest.raises(OSError, match=what) as error, atomic_folder(tmp_path / name, own="new|old"):
            pass
        assert error.value.filename == str(tmp_path / name)
    assert names(tmp_path / "clip") == ["letter", "new"]
    assert names(tmp_path) == ["clip", "file"]


def _write_again_and_again(path: Path, mark: str, is_over: Any) -> None:
    while not is_over.is_set():
        with atomic_folder(path) as temporary:
            for name in "abc":
                (temporary / name).write_text(mark)


def _look(path: Path) -> dict[str, str] | None:
    """What is in a folder; None where there is none, or where it was replaced while being read."""
    with contextlib.ExitStack() as stack:
        try:
            # Held open, for otherwise another folder may get its name and even its number meanwhile.
            folder = os.open(path, os.O_RDONLY)
            stack.callback(os.close, folder)
            content = {}
            for name in os.listdir(folder):
                with open(name, opener=lambda name, flags: os.open(name, flags, dir_fd=folder)) as file:
                    content[name] = file.read()
            return content if os.path.samestat(path.stat(), os.fstat(folder)) else None
        except FileNotFoundError:
            return None


def test_two_processes_that_write_one_folder(tmp_path: Path) -> None:
    """Nobody fails, and at no moment is there a folder with files of both or with files missing."""
    path, began = tmp_path / "clip", time.monotonic()
    context = multiprocessing.get_context("fork")
    is_over = context.Event()
    writers = [context.Process(target=_write_again_and_again, args=(path, mark, is_over)) for mark in "xyz"]
    for writer in writers:
        writer.start()
    seen: list[dict[str, str]] = []
    # Long enough on an idle machine, and often enough on a busy one.
    while time.monotonic() < began + 0.7 or (len(seen) <= 10 and time.monotonic() < began + 60):
        if look := _look(path):
            seen.append(look)
    is_over.set()
    for writer in writers:
        writer.join()
    assert [writer.exitcode for writer in writers] == [0, 0, 0]
    assert names(tmp_path) == ["clip"]
    assert len(seen) > 10
    assert all(look in ({"a": mark, "b": mark, "c": mark} for mark in "xyz") for look in [*seen, _look(path)])


def _leave_temporaries(folder: Path) -> None:
    temporary_path(folder, ".json").touch()
    temporary_path(folder).mkdir()
    link = temporary_path(folder)
    link.symlink_to(folder / "precious")


def test_what_a_dead_process_left_is_swept_away(tmp_path: Path) -> None:
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious" / "file").touch()
    process = multiprocessing.get_context("fork").Process(target=_leave_temporaries, args=(tmp_path,))
    process.start()
    process.join()
    own = temporary_path(tmp_path, ".json")
    own.touch()
    foreign, older = tmp_path / ".tmp-0000abcd-12-345-0123456789ab", tmp_path / ".tmp-0123456789ab.csv"
    foreign.mkdir()
    older.touch()
    for name in (".hidden", ".tmp-notes", "clip"):
        (tmp_path / name).touch()
    # The same number as this process, but another start: the machine gave the number again.
    reused = own.name.split("-")
    reused[3] = str(int(reused[3]) + 1)
    (tmp_path / "-".join(reused)).touch()
    assert sweep(tmp_path) == 4
    kept = {own.name, foreign.name, older.name, ".hidden", ".tmp-notes", "clip", "precious"}
    assert set(names(tmp_path)) == kept
    assert names(tmp_path / "precious") == ["file"]
    assert sweep(tmp_path) == 0
    for path in (own, foreign, older, tmp_path / ".tmp-notes"):
        os.utime(path, (time.time() - 90_000,) * 2)
    assert sweep(tmp_path) == 2  # a day is long enough for those of unknown processes; this one still runs
    assert set(names(tmp_path)) == kept - {foreign.name, older.name}


def test_without_proc_a_process_that_runs_keeps_its_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("viper.temporaries._started", lambda process: None)
    process = multiprocessing.get_context("fork").Process(target=_leave_temporaries, args=(tmp_path,))
    process.start()
    process.join()
    own = temporary_path(tmp_path)
    own.touch()
    temporary_path(tmp_path).with_name(own.name.replace(f"-{os.getpid()}-", "-1-")).touch()  # of another user, maybe
    assert "-0-" in own.name
    assert sweep(tmp_path) == 3
    assert len(names(tmp_path)) == 2


def test_a_run_makes_its_folder_and_sweeps_it(tmp_path: Path) -> None:
    prepare_outputs(tmp_path / "new" / "out")
    process = multiprocessing.get_context("fork").Process(target=_leave_temporaries, args=(tmp_path / "new" / "out",))
    process.start()
    process.join()
    assert len(names(tmp_path / "new" / "out")) == 3
    prepare_outputs(tmp_path / "new" / "out")
    assert names(tmp_path / "new" / "out") == []
    (tmp_path / "file").touch()
    with pytest.raises(NotADirectoryError):
        prepare_outputs(tmp_path / "file" / "out")


def test_a_file_is_created_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for links in (True, False):
        if not links:
            monkeypatch.setattr("os.link", lambda source, target: (_ for _ in ()).throw(OSError(errno.EPERM, "no")))
        path = tmp_path / f"{links}.json"
        assert create_json(path, {"a": 1})
        assert not create_json(path, {"a": 2})
        assert read_json(path) == {"a": 1}
    assert sorted(names(tmp_path)) == ["False.json", "True.json"]
    monkeypatch.setattr("os.link", lambda source, target: (_ for _ in ()).throw(OSError(errno.ENOSPC, "full")))
    with pytest.raises(OSError, match="full") as error:
        create_json(tmp_path / "third.json", {})
    assert error.value.filename == str(tmp_path / "third.json")
    assert len(names(tmp_path)) == 2
