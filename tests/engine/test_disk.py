"""Disks that are full, read-only or gone: one line, exit code 1, nothing half under a final name; and it goes on."""

from __future__ import annotations

import contextlib
import os
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from clips import pictures, write_frames
from many import STAGES, TRIED, Launcher, Stage, content, long_test, n_done
from media import write_coded

from viper.demo.media import write_video

N_CLIPS = 24


@dataclass(frozen=True)
class Case:
    """A stage, its clips, and what it makes of them when nothing goes wrong."""

    stage: Stage
    inputs: Path
    output: Path

    def arguments(self, output: Path, n_workers: int = 0) -> list[str]:
        return self.stage.arguments(self.inputs, output, "--n_workers", n_workers)


@pytest.fixture(scope="module", params=[name for name in TRIED if name in ("get_frame", "crop_images", "visual")])
def case(request: pytest.FixtureRequest, launcher: Launcher, tmp_path_factory: pytest.TempPathFactory) -> Case:
    stage = STAGES[request.param]
    root = tmp_path_factory.mktemp(request.param)
    (root / "in").mkdir()
    stage.make(root / "in", N_CLIPS)
    # The last but one in order has larger results than the others.
    if stage.command == "get_frame":
        write_video(root / "in" / "500.mp4", pictures(8, height=480, width=640), 25)
    else:
        write_frames(root / "in" / "500", pictures(40, height=400, width=400))
    code, said = launcher.run(stage.command, stage.arguments(root / "in", root / "out", "--n_workers", 0))
    assert code == 3, said  # one of the clips is broken
    return Case(stage, root / "in", root / "out")


def assert_said_in_one_line(said: str, output: Path, *reasons: str) -> None:
    (line,) = [line for line in said.splitlines() if line.startswith("viper: error: ")]
    assert str(output) in line
    assert any(reason in line for reason in reasons), line
    assert ".tmp-" not in line
    assert "Traceback" not in said


def assert_goes_on(case: Case, launcher: Launcher, output: Path) -> None:
    """Nothing that is there is half done, and the rest is made."""
    there = content(output)
    expected = content(case.output)
    assert there.items() <= expected.items()
    kept = n_done(output)
    code, said = launcher.run(case.stage.command, case.arguments(output))
    assert code == 3
    assert f"{N_CLIPS + 1 - kept} done, {kept} already there, 1 failed" in said
    assert content(output) == expected


@pytest.mark.parametrize("n_workers", [0, pytest.param(2, marks=long_test)])
def test_a_write_that_fails(case: Case, launcher: Launcher, tmp_path: Path, n_workers: int) -> None:
    """No root and no mount needed: a limit on the size of files that one clip's results exceed."""
    if n_workers and case.stage.command != "get_frame":
        pytest.skip("only get_frame writes in worker processes")
    output = tmp_path / "out"
    sizes = sorted((path.stat().st_size, path) for path in case.output.rglob("*") if "500" in str(path))
    limit = sizes[-1][0] - 100
    code, said = launcher.run(case.stage.command, case.arguments(output, n_workers), largest_file=limit)
    assert code == 1, said
    assert_said_in_one_line(said, output, "File too large")
    assert n_done(output) >= N_CLIPS - 4  # those before it; workers may have been at a few
    assert "500" not in os.listdir(output)
    assert_goes_on(case, launcher, output)


def mounted(folder: Path, *options: str) -> None:
    """Mounts something; skips the test where that is not allowed."""
    folder.mkdir(exist_ok=True)
    try:
        done = subprocess.run(["mount", *options, str(folder)], capture_output=True, text=True, check=False)
    except FileNotFoundError:
        pytest.skip("this system has no mount")
    if done.returncode:
        pytest.skip(f"mounting is not possible here ({' '.join(done.stderr.split())})")


def unmount(folder: Path) -> None:
    subprocess.run(["umount", "--lazy", str(folder)], check=False, capture_output=True)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 256 KiB."""
    folder = tmp_path / "disk"
    mounted(folder, "-t", "tmpfs", "-o", "size=256k", "none")
    yield folder
    unmount(folder)


def fill(disk: Path) -> None:
    """Leaves not a byte."""
    with (disk / "filler").open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(bytes(4096))


def test_a_full_disk(case: Case, launcher: Launcher, disk: Path) -> None:
    output = disk / "out"
    needed = sum(-(-path.stat().st_size // 4096) * 4096 for path in case.output.rglob("*") if path.is_file())
    room = needed // 2
    subprocess.run(["mount", "-o", f"remount,size={max(room, 65536)}", str(disk)], check=True)
    code, said = launcher.run(case.stage.command, case.arguments(output))
    assert code == 1, said
    assert_said_in_one_line(said, output, "No space left on device")
    assert 0 < n_done(output) < N_CLIPS + 1
    # Full to the last byte: the same line again, at once, and what is there stays as it is.
    fill(disk)
    before = content(output)
    code, said = launcher.run(case.stage.command, case.arguments(output))
    assert code == 1
    assert_said_in_one_line(said, output, "No space left on device")
    assert content(output) == before
    (disk / "filler").unlink()
    subprocess.run(["mount", "-o", "remount,size=64m", str(disk)], check=True)
    assert_goes_on(case, launcher, output)


def test_a_disk_too_full_to_list_a_failure(launcher: Launcher, tmp_path: Path, disk: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "1.mp4").write_bytes(b"no video")
    fill(disk)
    (disk / "out").mkdir()
    arguments = STAGES["get_frame"].arguments(tmp_path / "in", disk / "out", "--n_workers", 0)
    code, said = launcher.run("get_frame", arguments)
    assert code == 1
    assert_said_in_one_line(said, disk / "out", "No space left on device")
    assert not (disk / "out" / "failures.csv").exists()


def test_a_folder_that_cannot_be_written(case: Case, launcher: Launcher, tmp_path: Path) -> None:
    """Below a file there is no folder; that holds for root too."""
    (tmp_path / "file").touch()
    for output in (tmp_path / "file", tmp_path / "file" / "out"):
        code, said = launcher.run(case.stage.command, case.arguments(output))
        assert code == 1, said
        assert_said_in_one_line(said, tmp_path / "file", "Not a directory", "File exists")
    assert (tmp_path / "file").read_bytes() == b""


def test_a_read_only_disk(case: Case, launcher: Launcher, tmp_path: Path) -> None:
    output = tmp_path / "out"
    output.mkdir()
    mounted(output, "--bind", str(output))
    try:
        subprocess.run(["mount", "-o", "remount,ro,bind", str(output)], check=True)
        code, said = launcher.run(case.stage.command, case.arguments(output))
        assert code == 1, said
        assert_said_in_one_line(said, output, "Read-only file system")
        assert os.listdir(output) == []
    finally:
        unmount(output)
    assert_goes_on(case, launcher, output)


@pytest.mark.skipif(os.getuid() == 0, reason="root may write everywhere")
def test_a_folder_without_permission(case: Case, launcher: Launcher, tmp_path: Path) -> None:
    output = tmp_path / "out"
    output.mkdir(mode=0o555)
    code, said = launcher.run(case.stage.command, case.arguments(output))
    assert code == 1
    assert_said_in_one_line(said, output, "Permission denied")
    output.chmod(0o755)
    assert_goes_on(case, launcher, output)


def test_a_folder_that_vanishes(case: Case, launcher: Launcher, tmp_path: Path) -> None:
    """As when a disk is unmounted: what follows must not be written to where the disk was."""
    output, away = tmp_path / "out", tmp_path / "away"
    process = launcher.start(case.stage.command, case.arguments(output))
    deadline = time.monotonic() + 30
    while n_done(output) < 2:
        assert time.monotonic() < deadline
        time.sleep(0.001)
    output.rename(away)
    assert launcher.wait(process) == 1
    assert_said_in_one_line(launcher.said(process), output, "No such file or directory")
    assert not output.exists()
    assert 2 <= n_done(away) < N_CLIPS + 1
    away.rename(output)
    code, said = launcher.run(case.stage.command, case.arguments(output))
    assert code == 3, said
    assert content(output) == content(case.output)


def test_outputs_that_are_links_are_replaced_not_written_through(launcher: Launcher, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    write_coded(tmp_path / "in" / "1.mp4", 8)
    precious = tmp_path / "precious"
    precious.mkdir()
    (precious / "frame_0.jpg").write_text("mine")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "1").symlink_to(precious)
    code, said = launcher.run("get_frame", STAGES["get_frame"].arguments(tmp_path / "in", tmp_path / "out"))
    assert code == 0, said
    assert content(precious) == {"frame_0.jpg": b"mine"}
    assert not (tmp_path / "out" / "1").is_symlink()
    assert len(list((tmp_path / "out" / "1").glob("*.jpg"))) == 8
