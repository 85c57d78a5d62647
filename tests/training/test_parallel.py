"""Training in two processes is training in one with the same batch."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from csv_files import rows_of
from many import IS_LONG, Launcher, long_test
from planted import Planted, plant

from viper.cli import run_command
from viper.errors import UserError
from viper.fusion.checkpoint import load_checkpoint

# No dropout: each process draws its own. CCC is over the batch, so it shows whether the processes share theirs.
TRAINING = ["--preset", "tiny", "--n_epochs", "3", "--batch_size", "12", "--loss", "mse+ccc",
            "--dropout", "0", "--modality_dropout", "0", "--token_dropout", "0", "--feature_dropout", "0"]  # fmt: skip


def _arguments(planted: Planted, run: Path, *options: str) -> list[str]:
    return planted.training(run, *TRAINING, *options)


def _train_in_two(arguments: list[str], trainings: Launcher) -> str:
    """Train in two processes; return what they said."""
    return "".join(trainings.together("train_perceiver", arguments))


def _torchrun(arguments: list[str], trainings: Launcher) -> str:
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2", "--master_port", "0",
               "--rdzv_backend", "c10d", "--rdzv_endpoint", "localhost:0"]  # fmt: skip
    command += ["-m", "viper.cli", "train_perceiver", *arguments]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=180, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stderr


@pytest.mark.parametrize("start", [_train_in_two, *([_torchrun] if IS_LONG else [])])
def test_two_processes_do_what_one_does(
    tmp_path: Path, trainings: Launcher, start: Callable[[list[str], Launcher], str]
) -> None:
    planted = plant(tmp_path)
    # A clip without a label of one target: the processes' shares of the batch have different numbers of labels.
    lines = planted.manifest.read_text().splitlines()
    lines[3] = ",".join([*lines[3].split(",")[:-1], ""])
    planted.manifest.write_text("\n".join(lines) + "\n")
    said = start(_arguments(planted, tmp_path / "two"), trainings)
    # One process speaks.
    assert said.count("best by validation Pearson") == 1
    assert run_command("train_perceiver", _arguments(planted, tmp_path / "one")) == 0
    one, two = (rows_of(tmp_path / name / "metrics.csv") for name in ("one", "two"))
    assert [row["n_clips"] for row in two] == ["24"] * 3
    for name in ("training_loss", "pearson", "mse"):
        np.testing.assert_allclose([float(r[name]) for r in two], [float(r[name]) for r in one], rtol=2e-4)
    a, b = (load_checkpoint(tmp_path / name / "perceiver_3").state_dict() for name in ("one", "two"))
    for name in a:
        # Adam divides by tiny numbers where a gradient is nearly zero, so that rounding shows in a few weights.
        torch.testing.assert_close(a[name], b[name], rtol=1e-2, atol=2e-3)


@long_test
def test_two_processes_learn_the_same_utilities(tmp_path: Path, trainings: Launcher) -> None:
    """Each takes half of a batch's pairs and lists, whose clips are other ones, and more or fewer."""
    planted = plant(tmp_path, "preference")
    options = ("--loss", "plackett_luce+bradley_terry", "--batch_size", "14", "--n_epochs", "2")  # 15 batches of 210
    _train_in_two(_arguments(planted, tmp_path / "two", *options), trainings)
    assert run_command("train_perceiver", _arguments(planted, tmp_path / "one", *options)) == 0
    one, two = (rows_of(tmp_path / name / "metrics.csv") for name in ("one", "two"))
    for name in ("training_loss", "pairwise_accuracy", "kendall_tau"):
        np.testing.assert_allclose([float(r[name]) for r in two], [float(r[name]) for r in one], rtol=2e-4)


def test_a_batch_that_cannot_be_shared_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "5")
    with pytest.raises(UserError, match=r"--batch_size 12.*multiple of the 5 processes"):
        run_command("train_perceiver", _arguments(plant(tmp_path), tmp_path / "run"))
