"""Time an epoch of training in this checkout against another one: the same data, the same command, in turns.

    python benchmarks/training_loop.py --other ../viper-before
    python benchmarks/training_loop.py --other ../viper-before --preset small --n_clips 512 --repeats 5

Both train the `tokens` fusion on random features of the published widths. An epoch is the time between two lines of the
run's log, validation and checkpoint included; the first epoch is left out. CPU seconds are those of the whole process,
imports included: on a machine that is busy with other work they tell more than the clock.
"""

from __future__ import annotations

import csv
import os
import re
import resource
import statistics
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from datetime import datetime
from itertools import pairwise
from pathlib import Path

import numpy as np
import tyro

HERE = Path(__file__).parents[1]
WIDTHS = {"visual": 768, "audio": 512, "textual": 768, "FAU": 27}


@dataclass
class Config:
    """Options."""

    other: Path
    """The other checkout (git worktree add)."""
    preset: str = "tiny"
    """Size of the model."""
    n_clips: int = 256
    """Clips to train on; a quarter as many validate."""
    n_tokens: int = 16
    """Tokens of every modality."""
    n_epochs: int = 6
    """Epochs of a run."""
    batch_size: int = 16
    """Clips per batch."""
    repeats: int = 3
    """Runs of each checkout."""
    threads: int = 1
    """CPU threads."""
    device: str = "cpu"
    """Where to train."""


def write_data(root: Path, config: Config) -> list[str]:
    """Write a manifest and random features; return the options that name them."""
    from viper.store import EncoderInfo, Feature, FeatureStore
    from viper.task import load_task

    rng, targets = np.random.default_rng(0), load_task("hume_reaction").targets
    splits = ["Train"] * config.n_clips + ["Val"] * (config.n_clips // 4)
    with (root / "manifest.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["File_ID", "Split", *targets])
        writer.writerows([i, split, *rng.uniform(size=len(targets)).round(4)] for i, split in enumerate(splits))
    options = ["--csv_path", str(root / "manifest.csv")]
    for name, width in WIDTHS.items():
        store = FeatureStore.create(root / name, EncoderInfo("random", name, width, source="faces"))
        for i in range(len(splits)):
            tokens = rng.normal(size=(config.n_tokens, width))
            store.write(str(i), Feature.make(tokens, None, np.arange(config.n_tokens) / 4), source="random")
        options += [f"--{name}_features_input_folder", str(root / name)]
    return options


def train(checkout: Path, root: Path, options: list[str], config: Config) -> tuple[float, float]:
    """Train once with a checkout's code; return the median seconds of an epoch, and the CPU seconds of the process."""
    run = root / "run"
    command = [sys.executable, "-m", "viper.cli", "train_perceiver", *options, "--output_checkpoint_folder", str(run)]
    command += ["--preset", config.preset, "--n_epochs", str(config.n_epochs), "--batch_size", str(config.batch_size)]
    command += ["--device", config.device, "--keep", "best", "--linear_share", "0", "--overwrite"]
    environment = {**os.environ, "PYTHONPATH": str(checkout.resolve()), "OMP_NUM_THREADS": str(config.threads)}
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(command, env=environment, cwd=root, check=False, stderr=subprocess.PIPE, text=True)
    if done.returncode:
        raise SystemExit(f"{checkout}: {done.stderr[-2000:]}")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    lines = re.findall(r"^([\d-]+ [\d:]+,\d+) epoch \d+  validation", (run / "train.log").read_text(), re.MULTILINE)
    times = [datetime.strptime(line, "%Y-%m-%d %H:%M:%S,%f") for line in lines]
    epochs = [(b - a).total_seconds() for a, b in pairwise(times)]
    return statistics.median(epochs), after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main() -> None:
    """Print a row per checkout, and this one's time as a share of the other's."""
    config = tyro.cli(Config, use_underscores=True)
    found: dict[str, list[tuple[float, float]]] = {"this": [], "other": []}
    with tempfile.TemporaryDirectory() as folder:
        options = write_data(Path(folder), config)
        for checkout in (HERE, config.other):  # packs the features, unmeasured
            train(checkout, Path(folder), options, config)
        for turn in range(config.repeats):
            names = list(found) if turn % 2 == 0 else list(found)[::-1]
            for name in names:
                found[name].append(train(HERE if name == "this" else config.other, Path(folder), options, config))
    print("| checkout | s an epoch | CPU s of the process |\n|---|---|---|")
    medians = {name: [statistics.median(column) for column in zip(*runs, strict=True)] for name, runs in found.items()}
    for name, (epoch, cpu) in medians.items():
        print(f"| {name} | {epoch:.3f} | {cpu:.1f} |")
    print(f"| this / other | {medians['this'][0] / medians['other'][0]:.2f} "
          f"| {medians['this'][1] / medians['other'][1]:.2f} |")  # fmt: skip


if __name__ == "__main__":
    main()
