"""How sure the demo's table is: every model of `viper demo` trained again with several seeds, on the same features.

    viper demo --output_folder demo
    python benchmarks/demo_seeds.py --demo demo --n_seeds 5

The best epoch is chosen on the validation split; the test labels, which the demo keeps aside, are looked at after that.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tyro

from viper.cli import run_command
from viper.evaluation.metrics import evaluate
from viper.evaluation.submission import read_submission
from viper.files import read_json
from viper.manifest import Manifest
from viper.stages.demo import TRAINING
from viper.stages.features import MODALITIES
from viper.task import load_task


@dataclass
class Config:
    """Options."""

    demo: Path = Path("demo")
    """Folder of a finished demo."""
    n_seeds: int = 5
    """Seeds 0, 1, ..."""


def scores(demo: Path, modalities: list[str], seed: int, scratch: Path) -> tuple[float, float]:
    """Mean Pearson on the validation and on the test split of one training."""
    run = scratch / f"{'_'.join(modalities)}_{seed}"
    features = [
        part
        for name in modalities
        for part in (f"--{name}_features_input_folder", str(demo / "features_weight_free" / name))
    ]
    data = ["--csv_path", str(demo / "manifest.csv"), *features]
    training = [*data, "--output_checkpoint_folder", str(run), *TRAINING.split(), "--seed", str(seed)]
    assert run_command("train_perceiver", training) == 0
    submission = run / "submission.csv"
    assert run_command("submission_creation", [*data, "--model_path", str(run), "--output_path", str(submission)]) == 0
    task = load_task("hume_reaction")
    truth = Manifest.load(demo / "test_labels.csv", task)
    predicted = read_submission(submission, task).loc[truth.clips, list(task.targets)].to_numpy()
    validation = read_json(run / "summary.json")["mean"]["pearson"]["value"]
    return validation, evaluate(task, predicted, truth.labels).mean("pearson").value


def main() -> None:
    """Prints a row per set of modalities."""
    config = tyro.cli(Config, use_underscores=True)
    print("| trained on | Val Pearson | Test Pearson |\n|---|---|---|", flush=True)
    with tempfile.TemporaryDirectory() as scratch:
        for modalities in [list(MODALITIES), *([name] for name in MODALITIES)]:
            rows = np.array([scores(config.demo, modalities, s, Path(scratch)) for s in range(config.n_seeds)])
            mean, deviation = rows.mean(axis=0), rows.std(axis=0, ddof=1)
            cells = " | ".join(f"{m:.3f} ± {d:.3f}" for m, d in zip(mean, deviation, strict=True))
            print(f"| {'all' if len(modalities) > 1 else modalities[0]} | {cells} |", flush=True)


if __name__ == "__main__":
    main()
