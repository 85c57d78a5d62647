"""failures.csv when several processes write it at once, and when what it says comes from hostile files."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest
from csv_files import rows_of

from viper.engine.failures import FAILURES_FILE, Failure, FailureLog, read_failures
from viper.errors import ClipError
from viper.files import write_text

STAGE = "get_frame"

# Does what it is told on standard input, a line a step: "failed CLIP" or "succeeded CLIP".
PROCESS = """
import sys
import time
from pathlib import Path
from viper.engine.failures import Failure, FailureLog
log = FailureLog(Path(sys.argv[1]), "get_frame")
print("ready", flush=True)
for line in sys.stdin:
    what, clip = line.split()
    log.failed(Failure(clip, "get_frame", "ClipError", sys.argv[2])) if what == "failed" else log.succeeded(clip)
    print("done", flush=True)
"""


class Process:
    """A run that writes the list of `folder`."""

    def __init__(self, folder: Path, name: str) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-c", PROCESS, str(folder), name],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        self._wait_for("ready")

    def tell(self, step: str) -> None:
        """One step, finished when this returns."""
        self.send(step)
        self._wait_for("done")

    def send(self, *steps: str) -> None:
        """Several steps, not waited for."""
        assert self._process.stdin is not None
        self._process.stdin.write("".join(f"{step}\n" for step in steps))
        self._process.stdin.flush()

    def end(self) -> None:
        """Waits until all steps are done; it must not have died of one."""
        self._process.communicate(timeout=60)
        assert self._process.returncode == 0

    def _wait_for(self, line: str) -> None:
        assert self._process.stdout is not None
        assert self._process.stdout.readline().strip() == line


def rows(folder: Path) -> list[tuple[str, str]]:
    return [(row.clip, row.message) for row in read_failures(folder)]


def test_a_clip_that_another_run_failed_meanwhile_leaves_when_this_one_succeeds(tmp_path: Path) -> None:
    first, second = Process(tmp_path, "first"), Process(tmp_path, "second")  # neither knows of any failure
    first.tell("failed 7")
    first.tell("failed 8")
    second.tell("failed 7")
    assert rows(tmp_path) == [("7", "second"), ("8", "first")]
    second.tell("succeeded 7")
    second.tell("succeeded 8")
    assert not (tmp_path / FAILURES_FILE).exists()
    second.tell("failed 9")
    first.tell("succeeded 9")
    assert rows(tmp_path) == []
    first.end()
    second.end()


def test_two_runs_at_once_leave_one_row_a_clip(tmp_path: Path) -> None:
    processes = [Process(tmp_path, name) for name in ("first", "second")]
    for process in processes:
        # The first half fails in both runs, then succeeds; the others only fail.
        process.send(*(f"failed {clip}" for clip in range(30)), *(f"succeeded {clip}" for clip in range(15)))
    for process in processes:
        process.end()
    left = [clip for clip, _ in rows(tmp_path)]
    assert len(left) == len(set(left))
    assert set(left) >= {str(clip) for clip in range(15, 30)}
    # One of the first half may have been failed by the slower run after the faster one's success: no more than that.
    log = FailureLog(tmp_path, STAGE)
    for clip in range(15):
        log.succeeded(str(clip))
    assert [clip for clip, _ in rows(tmp_path)] == [str(clip) for clip in range(15, 30)]
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".tmp")] == []


def test_a_success_does_not_read_a_list_that_is_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    FailureLog(tmp_path, STAGE).failed(Failure.of("bad", STAGE, ClipError("x")))
    log = FailureLog(tmp_path, STAGE)
    reads: list[Path] = []

    def read(folder: Path) -> list[Failure]:
        reads.append(folder)
        return []

    monkeypatch.setattr("viper.engine.failures.read_failures", read)
    for clip in range(100):
        log.succeeded(str(clip))
    assert reads == []


def test_a_folder_that_vanished_is_not_made_again(tmp_path: Path) -> None:
    folder = tmp_path / "out"
    folder.mkdir()
    log = FailureLog(folder, STAGE)
    folder.rmdir()
    with pytest.raises(FileNotFoundError) as error:
        log.failed(Failure.of("1", STAGE, ClipError("x")))
    assert error.value.filename == str(folder)
    assert not folder.exists()


def test_a_long_list_is_not_written_for_every_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    writes: list[int] = []

    def slow_write(path: Path, text: str) -> None:
        writes.append(text.count("\n") - 1)
        time.sleep(0.01)
        write_text(path, text)

    monkeypatch.setattr("viper.engine.failures.write_text", slow_write)
    log = FailureLog(tmp_path, STAGE)
    for clip in range(1000):
        log.failed(Failure.of(str(clip), STAGE, ClipError("x")))
    assert writes[:101] == list(range(1, 102))  # while they are few each is on disk at once
    assert len(writes) < 130
    log.succeeded("999")
    log.succeeded("0")
    log.flush()
    assert [clip for clip, _ in rows(tmp_path)] == [str(clip) for clip in range(1, 999)]


@pytest.mark.parametrize(
    "message",
    ["\x1b[2J\x1b[31mall is well\x07", "caf\udce9.mp4: gone", "nul\x00byte", "turned \u202egpj.exe", "one\u2028two",
     "x" * 200_000],
    ids=["escapes", "bytes", "nul", "right-to-left", "line-separator", "long"],
)  # fmt: skip
def test_whatever_a_message_quotes_is_one_printable_line_that_reads_back(tmp_path: Path, message: str) -> None:
    failure = Failure.of("7", STAGE, ClipError(message))
    assert failure.message.isprintable()
    assert len(failure.message) < 1100
    FailureLog(tmp_path, STAGE).failed(failure)
    assert read_failures(tmp_path) == [failure]


@pytest.mark.parametrize("text", ["=cmd()", "+1", "-1+2", "@x"])
def test_a_message_is_no_formula_and_an_id_stays_an_id(tmp_path: Path, text: str) -> None:
    FailureLog(tmp_path, STAGE).failed(Failure.of(text, STAGE, ClipError(f"{text}.npy: cannot be read")))
    FailureLog(tmp_path, STAGE).failed(Failure.of("other", STAGE, ClipError("x")))  # the list is written again
    written = {row["clip"]: row["message"] for row in rows_of(tmp_path / FAILURES_FILE)}
    assert written == {text: f"'{text}.npy: cannot be read", "other": "x"}
    FailureLog(tmp_path, STAGE).succeeded(text)
    assert rows(tmp_path) == [("other", "x")]


def test_a_list_that_is_a_link_is_replaced_and_what_it_points_to_is_left_alone(tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere.csv"
    elsewhere.write_text("clip,stage,error,message\n7,get_frame,ClipError,x\n")
    folder = tmp_path / "out"
    folder.mkdir()
    (folder / FAILURES_FILE).symlink_to(elsewhere)
    before = elsewhere.read_text()
    FailureLog(folder, STAGE).failed(Failure.of("8", STAGE, ClipError("y")))
    assert elsewhere.read_text() == before
    assert not (folder / FAILURES_FILE).is_symlink()
    assert rows(folder) == [("7", "x"), ("8", "y")]


def test_a_lock_that_is_a_link_is_not_written_through(tmp_path: Path) -> None:
    precious = tmp_path / "precious.txt"
    precious.write_text("precious")
    folder = tmp_path / "out"
    folder.mkdir()
    (folder / f".{FAILURES_FILE}.lock").symlink_to(precious)
    with pytest.raises(OSError, match="lock"):
        FailureLog(folder, STAGE).failed(Failure.of("8", STAGE, ClipError("y")))
    assert precious.read_text() == "precious"
