"""A training on a machine that lets it down: one line, nothing half-written, and the same result in the end."""

from __future__ import annotations

import logging
import os
import shutil
import signal
import stat
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from many import IS_LONG, Launcher, is_running, long_test
from planted import Planted, plant

from viper.cli import run_command
from viper.errors import UserError
from viper.logs import log
from viper.training.run_folder import LOCK_FILE, STATE_FILE, log_file

TRAINING = ["--preset", "tiny", "--n_epochs", "2", "--batch_size", "20"]
DISK = 16 << 20


@pytest.fixture(scope="module")
def planted(tmp_path_factory: pytest.TempPathFactory) -> Planted:
    return plant(tmp_path_factory.mktemp("planted"))


def _arguments(planted: Planted, run: Path, *options: str) -> list[str]:
    return planted.training(run, *TRAINING, *options)


@pytest.fixture(scope="module")
def usual(planted: Planted) -> Path:
    """The run that nothing happened to."""
    run = planted.root / "usual"
    assert run_command("train_perceiver", _arguments(planted, run)) == 0
    return run


def _assert_same(run: Path, usual: Path) -> None:
    for name in ("metrics.csv", "summary.json", "best/model.safetensors", "perceiver_2/model.safetensors"):
        assert (run / name).read_bytes() == (usual / name).read_bytes(), name
    assert {path.name for path in run.iterdir()} == {path.name for path in usual.iterdir()}


def _error(code: int, said: str) -> str:
    """The one line in which a command ended with exit code 1."""
    assert code == 1, said
    assert "Traceback" not in said
    line = said.splitlines()[-1]
    assert line.startswith("viper: error: ")
    assert ".tmp-" not in line
    return line


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={DISK}", "none", str(folder)]
    if not shutil.which("mount") or subprocess.run(command, check=False, capture_output=True).returncode:
        pytest.skip("mounting is not possible here")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=False, capture_output=True)


# Room in whole weights: where it ends, and whether an epoch is finished then.
MOMENTS = {"the start": (0.0, False), "the first checkpoint": (0.5, False), "the first state": (1.5, True),
           "the second checkpoint": (6.0, True), "the second state": (7.0, True)}  # fmt: skip


@pytest.mark.parametrize("moment", MOMENTS if IS_LONG else ["the second checkpoint"])
def test_a_full_disk(planted: Planted, usual: Path, trainings: Launcher, disk: Path, moment: str) -> None:
    n_weights, is_begun = MOMENTS[moment]
    run, weights = disk / "run", (usual / "best" / "model.safetensors").stat().st_size
    (disk / "filler").write_bytes(bytes(DISK - int(n_weights * weights) - (64 << 10) * (n_weights > 0)))
    line = _error(*trainings.run("train_perceiver", _arguments(planted, run)))
    assert f"{run}/" in line
    assert "No space left on device" in line
    assert not list(run.rglob(".tmp-*"))
    assert run.exists() == is_begun  # what never began does not refuse the next try
    (disk / "filler").unlink()
    code, said = trainings.run("train_perceiver", _arguments(planted, run, *(["--resume"] if is_begun else [])))
    assert code == 0, said
    _assert_same(run, usual)


@pytest.mark.parametrize("file", [STATE_FILE, *(["perceiver_1/model.safetensors"] if IS_LONG else [])])
def test_a_write_that_fails(planted: Planted, usual: Path, trainings: Launcher, tmp_path: Path, file: str) -> None:
    """No root and no mount needed: a limit on the size of files, which the weights or the state exceed."""
    limit = (usual / "best" / "model.safetensors").stat().st_size + (100 if file == STATE_FILE else -100)
    run = tmp_path / "run"
    line = _error(*trainings.run("train_perceiver", _arguments(planted, run), largest_file=limit))
    assert str(run / Path(file).parts[0]) in line
    code, said = trainings.run("train_perceiver", _arguments(planted, run, "--resume"))
    assert code == 0, said
    _assert_same(run, usual)


def test_too_little_memory(planted: Planted, trainings: Launcher, tmp_path: Path) -> None:
    run = tmp_path / "run"
    options = _arguments(planted, run, "--n_latents", "40000", "--batch_size", "1")
    line = _error(*trainings.run("poor_machine:short_of_memory", ["100", "train_perceiver", *options]))
    assert "out of memory" in line
    assert not run.exists()


def test_a_disk_without_permissions_times_and_links(
    planted: Planted, usual: Path, trainings: Launcher, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    options = ["train_perceiver", *_arguments(planted, run)]
    code, said = trainings.run("poor_machine:without_metadata", options)
    assert code == 0, said
    assert not (run / "best").is_symlink()
    _assert_same(run, usual)


@long_test
def test_a_disk_without_locks(planted: Planted, usual: Path, trainings: Launcher, tmp_path: Path) -> None:
    run = tmp_path / "run"
    code, said = trainings.run("poor_machine:without_locks", ["train_perceiver", *_arguments(planted, run)])
    assert code == 0, said
    assert said.splitlines()[0] == (f"{run}: the file system has no locks; use the folder from one process at a time")
    _assert_same(run, usual)


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_a_log_that_cannot_be_written_costs_a_line(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    before = list(log.handlers)
    with log_file(tmp_path / "train.log", append=False), open("/dev/full", "w") as full:
        (handler,) = (each for each in log.handlers if each not in before)
        assert isinstance(handler, logging.StreamHandler)
        handler.setStream(full).close()  # type: ignore[union-attr]
        for line in ("lost", "not tried again"):
            log.info("%s", line)
        assert handler not in log.handlers
    assert [record.getMessage() for record in caplog.records if "the log ends here" in record.getMessage()] == [
        "/dev/full: the log ends here, the training goes on ([Errno 28] No space left on device)"
    ]


@pytest.mark.parametrize("umask", ["002", "022", "077"] if IS_LONG else ["002"])
def test_files_have_the_permissions_that_the_umask_gives(trainings: Launcher, tmp_path: Path, umask: str) -> None:
    planted, run = plant(tmp_path / "planted"), tmp_path / "run"
    before = set(tmp_path.rglob("*"))
    options = _arguments(planted, run, "--n_epochs", "1000")
    first = trainings.start("poor_machine:with_umask", [umask, "train_perceiver", *options])
    _kill_after_an_epoch(first, trainings, run)
    made = {path for path in set(tmp_path.rglob("*")) - before if not path.is_symlink() and ".tmp-" not in str(path)}
    assert {run / STATE_FILE, run / LOCK_FILE, run / "perceiver_1" / "model.safetensors"} <= made
    modes = {path: (stat.S_IMODE(path.stat().st_mode), 0o777 if path.is_dir() else 0o666) for path in made}
    wrong = {str(path): oct(mode) for path, (mode, full) in modes.items() if mode != full & ~int(umask, 8)}
    assert wrong == {}


def _kill_after_an_epoch(process: int, trainings: Launcher, run: Path) -> None:
    deadline = time.monotonic() + 60
    while not (run / STATE_FILE).exists():
        assert time.monotonic() < deadline, trainings.said(process)
        assert is_running(process), trainings.said(process)
        time.sleep(0.01)
    os.kill(process, signal.SIGKILL)
    trainings.wait(process)


def test_one_training_at_a_time_in_a_folder(planted: Planted, usual: Path, trainings: Launcher, tmp_path: Path) -> None:
    run = tmp_path / "run"
    first = trainings.start("train_perceiver", _arguments(planted, run, "--n_epochs", "1000"))
    deadline = time.monotonic() + 60
    while not (run / "perceiver_1").exists():
        assert time.monotonic() < deadline, trainings.said(first)
        time.sleep(0.01)
    for options in (["--resume"], ["--overwrite"], ["--overwrite", "--n_seeds", "2"]):
        with pytest.raises(UserError, match=f"{run}: another training is running in this folder"):
            run_command("train_perceiver", _arguments(planted, run, *options))
    _kill_after_an_epoch(first, trainings, run)
    assert (run / LOCK_FILE).exists()  # and holds nothing up
    assert run_command("train_perceiver", _arguments(planted, run, "--overwrite")) == 0
    _assert_same(run, usual)


def test_what_a_killed_start_left_is_no_run_but_a_file_of_ones_own_stays(
    planted: Planted, usual: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    run.mkdir()
    (run / "config.yaml").write_text("mine: 1\n")
    with pytest.raises(UserError, match="holds a run already"):
        run_command("train_perceiver", _arguments(planted, run))
    assert (run / "config.yaml").read_text() == "mine: 1\n"
    for name in ("config.yaml", "train.log"):
        shutil.copyfile(usual / name, run / name)
    (run / LOCK_FILE).touch()
    # It had other options than the next try, which changes nothing: no epoch was made with them.
    assert run_command("train_perceiver", _arguments(planted, run, "--resume", "--n_epochs", "1", "--seed", "3")) == 0


def _enders(planted: Planted, usual: Path, out: Path) -> dict[str, list[object]]:
    """Commands that write at the end, and their arguments."""
    manifest, task, inputs = ["--csv_path", planted.manifest], ["--task", planted.card], planted.inputs()
    scored = [*manifest, "--model_path", usual, *inputs, "--output_path"]
    small = [*task, "--preset", "tiny", "--n_epochs", "1", "--device", "cpu", *inputs, "--output_path"]
    return {
        "submission_creation": [*scored, out / "submission.csv"],
        "confusion_matrix": [*scored, out],
        "ablate": [*scored, out],
        "report": ["--run", usual, "--n_resamples", "10", "--output_path", out],
        "export": ["--features_input_folder", planted.root / "visual", "--output_folder", out],
        "compare": [*manifest, "--models", "linear", *small, out],
        "tune": [*manifest, "--n_trials", "1", *small, out],
    }


@pytest.mark.parametrize("command", _enders(Planted(Path()), Path(), Path()) if IS_LONG else ["submission_creation"])
def test_what_is_written_at_the_end(
    planted: Planted, usual: Path, trainings: Launcher, tmp_path: Path, command: str
) -> None:
    out = tmp_path / "out"
    arguments = [str(each) for each in _enders(planted, usual, out)[command]]
    line = _error(*trainings.run(command, arguments, largest_file=600))
    assert str(out) in line
    assert "File too large" in line
    code, said = trainings.run("poor_machine:without_metadata", [command, *arguments])
    assert code == 0, said
    assert not list(out.rglob(".tmp-*"))
