"""Stages killed, interrupted and run twice at once: the same files as of a run that nothing happened to.

With VIPER_LONG_TESTS=1: 20 kills a stage, with and without worker processes, and more clips.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import pytest
from many import (
    BROKEN,
    IS_LONG,
    ROOT,
    STAGES,
    TRIED,
    Launcher,
    Stage,
    content,
    long_test,
    n_done,
    session_members,
    wait_for_end,
)

from viper.engine.failures import read_failures

pytestmark = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="this system has no /proc")

N_KILLS = 20 if IS_LONG else 3
# As many clips as take a stage about a second.
N_CLIPS = {"get_frame": 60, "crop_images": 12, "visual": 60, "FAU": 200, "audio": 60, "textual": 200}


@dataclass(frozen=True)
class Reference:
    """What an uninterrupted run makes of a stage's clips, and how long it takes."""

    stage: Stage
    inputs: Path
    output: Path
    seconds: float
    n_clips: int


@pytest.fixture(scope="module", params=TRIED)
def reference(
    request: pytest.FixtureRequest, launcher: Launcher, tmp_path_factory: pytest.TempPathFactory
) -> Reference:
    stage, n_clips = STAGES[request.param], N_CLIPS[request.param] * (4 if IS_LONG else 1)
    root = tmp_path_factory.mktemp(request.param)
    (root / "in").mkdir()
    stage.make(root / "in", n_clips)
    began = time.monotonic()
    code, said = launcher.run(stage.command, stage.arguments(root / "in", root / "out", "--n_workers", 0))
    assert (code, n_done(root / "out")) == (3, n_clips), said
    return Reference(stage, root / "in", root / "out", time.monotonic() - began, n_clips)


def _assert_same(output: Path, reference: Reference) -> None:
    ours, theirs = content(output), content(reference.output)
    assert ours.keys() == theirs.keys()  # temporary files too: none is left
    assert [name for name in ours if ours[name] != theirs[name]] == []
    assert [row.clip for row in read_failures(output)] == [BROKEN]
    assert not [entry.name for entry in output.iterdir() if entry.name.startswith(".tmp")]


@pytest.mark.parametrize("n_workers", [0, 2])
def test_killed_at_any_moment(reference: Reference, launcher: Launcher, tmp_path: Path, n_workers: int) -> None:
    """Killed again and again in the same folder, each time going on where the last one was stopped."""
    stage, output = reference.stage, tmp_path / "out"
    if n_workers and stage.command != "get_frame" and not IS_LONG:
        pytest.skip("worker processes of the other stages only read; starting them takes seconds")
    arguments = stage.arguments(reference.inputs, output, "--n_workers", n_workers)
    moments = random.Random(f"{stage.command} {n_workers}")
    n_hits, n_left = 0, 0
    for number in range(N_KILLS):
        # By what is done and not by the time alone: how fast a machine is changes from one minute to the next.
        latest = reference.n_clips * (number + 1) // (N_KILLS + 1)
        process = launcher.start(stage.command, arguments)
        if number % 2:  # at any moment of the work; the others at any moment from the start on
            goal = moments.randint(1, max(1, latest))
            while n_done(output) < goal and process in session_members(process):
                time.sleep(0.002)
            time.sleep(moments.uniform(0, reference.seconds / reference.n_clips))
        else:
            time.sleep(moments.uniform(0, reference.seconds / N_KILLS / 2))
        if process in session_members(process):
            os.kill(process, signal.SIGKILL)
        n_hits += launcher.wait(process) == -signal.SIGKILL
        wait_for_end(process)
        n_left += any(name.startswith(".tmp") for name in (os.listdir(output) if output.is_dir() else []))
    code, said = launcher.run(stage.command, arguments)
    assert code == 3, said
    print(f"{stage.command}: {n_hits} of {N_KILLS} kills hit, {n_left} left temporary files; then {said}")
    assert n_hits >= N_KILLS / 2, "most runs were over before they could be killed"
    _assert_same(output, reference)


def test_interrupted_by_ctrl_c(reference: Reference, launcher: Launcher, tmp_path: Path) -> None:
    """It reaches the whole process group, as from a terminal."""
    stage, output = reference.stage, tmp_path / "out"
    n_workers = 2 if stage.command == "get_frame" else 0
    arguments = stage.arguments(reference.inputs, output, "--n_workers", n_workers)
    process = launcher.start(stage.command, arguments)
    deadline = time.monotonic() + 30
    while n_done(output) < 2:
        assert time.monotonic() < deadline
        time.sleep(0.002)
    began = time.monotonic()
    os.killpg(process, signal.SIGINT)
    assert launcher.wait(process) == 130
    assert time.monotonic() - began < 10
    wait_for_end(process)
    said = launcher.said(process)
    assert sum("interrupted; what was finished is kept" in line for line in said.splitlines()) == 1
    assert "Traceback" not in said
    kept = n_done(output)
    assert 2 <= kept < reference.n_clips
    assert not [name for name in os.listdir(output) if name.startswith(".tmp")]
    code, said = launcher.run(stage.command, arguments)
    assert code == 3
    assert f"{reference.n_clips - kept} done, {kept} already there, 1 failed" in said
    _assert_same(output, reference)


def test_two_runs_in_one_folder_at_once(reference: Reference, launcher: Launcher, tmp_path: Path) -> None:
    stage, output = reference.stage, tmp_path / "out"
    arguments = stage.arguments(reference.inputs, output, "--n_workers", 0, "--no-incremental")
    processes = [launcher.start(stage.command, arguments) for _ in range(2)]
    codes = [launcher.wait(process) for process in processes]
    said = [launcher.said(process) for process in processes]
    assert codes == [3, 3], said
    assert all(f"{reference.n_clips} done, 0 already there, 1 failed" in each for each in said)
    _assert_same(output, reference)


@long_test
def test_the_command_itself_is_killed_and_taken_up(reference: Reference, tmp_path: Path) -> None:
    """As above, without the launcher: the interpreter and its imports may be where it is killed."""
    output = tmp_path / "out"
    command = [sys.executable, "-m", "viper.cli", reference.stage.command,
               *reference.stage.arguments(reference.inputs, output, "--n_workers", 2)]  # fmt: skip
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    for share in (0.3, 0.6):
        process = subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL, start_new_session=True)
        deadline = time.monotonic() + 60
        while n_done(output) < share * reference.n_clips and time.monotonic() < deadline:
            time.sleep(0.005)
        process.kill()
        process.wait()
        wait_for_end(process.pid)
    assert n_done(output) < reference.n_clips, "it was over before it could be killed"
    assert subprocess.run(command, env=environment, stderr=subprocess.DEVNULL, check=False).returncode == 3
    _assert_same(output, reference)
