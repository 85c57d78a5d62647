"""Planted tasks: 27 intensities as VCE ships them, preferences as V2V does; from video files to scores.

    python benchmarks/planted_tasks.py --output_folder planted

Miniatures of both datasets are made (tests/miniatures.py), in the authors' own files, and go the way a user's do:
prepare, get_frame, extract_visual_features (hog, no weights), train_perceiver over seeds, confusion_matrix on Test. The
best epoch is chosen on Val, which prepare makes out of Train; nothing is chosen on Test. Beside the model stands what
needs no video: of VCE the majority (emotions ranked by how often each is the strongest in Train), of V2V chance.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
import tyro
from miniatures import write_v2v, write_vce

from viper.cli import run_command
from viper.evaluation.metrics import evaluate
from viper.files import read_json
from viper.manifest import Manifest
from viper.task import load_task

# The miniatures are the tests'.
sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

RECIPE = "--preset tiny --n_epochs 30 --batch_size 32 --ema 0.99"


@dataclass
class Config:
    """Options."""

    output_folder: Path
    """Where clips, features and runs go. What is there is not made again."""
    tasks: list[Literal["vce", "v2v"]] = field(default_factory=lambda: ["vce", "v2v"])
    """Which of the two."""
    n_seeds: int = 5
    """Seeds 0, 1, ..."""
    training: str = RECIPE
    """Options of train_perceiver, besides the seeds."""


MAKERS: dict[str, Callable[[Path], object]] = {
    "vce": lambda folder: write_vce(folder, n_train=700, n_test=200),
    "v2v": lambda folder: write_v2v(folder, n_train=400, n_test=120, n_lists=80),
}


def command(name: str, **options: object) -> None:
    """Runs a command of viper with these options."""
    arguments = [part for option, value in options.items() for part in (f"--{option}", str(value))]
    assert run_command(name, arguments) == 0


def prepare(task: str, folder: Path) -> tuple[Path, list[str]]:
    """From nothing to a manifest and the options that name the features."""
    source, manifest = folder / "source", folder / "manifest.csv"
    if not manifest.exists():
        MAKERS[task](source)
        options = ["--source", str(source), "--output", str(manifest), "--clips_folder", str(folder / "clips")]
        assert run_command("prepare", [task, *options]) == 0
    frames, features = folder / "frames", folder / "visual"
    command("get_frame", input_folder=folder / "clips", output_folder=frames, n_frames=10)
    command("extract_visual_features", input_folder=frames, output_folder=features, model_name="hog", device="cpu")
    return manifest, ["--visual_features_input_folder", str(features)]


def measure(task: str, config: Config, folder: Path) -> dict[str, np.ndarray]:
    """Metric and split -> the value of each seed."""
    manifest, features = prepare(task, folder)
    run, data = folder / "run", ["--csv_path", str(manifest), *features]
    options = [*config.training.split(), "--task", task, "--n_seeds", str(config.n_seeds), "--keep", "best"]
    output = ["--output_checkpoint_folder", str(run), "--device", "cpu", "--overwrite"]
    assert run_command("train_perceiver", [*data, *options, *output]) == 0
    values: dict[str, list[float]] = {}
    for seed in range(config.n_seeds):
        model = run / f"seed_{seed}" if config.n_seeds > 1 else run
        for split in ("Val", "Test"):
            report = model / f"report_{split}"
            where = ["--model_path", str(model), "--split", split, "--output_path", str(report), "--device", "cpu"]
            assert run_command("confusion_matrix", [*data, *where]) == 0
            for metric, score in read_json(report / "confusion.json")["mean"].items():
                values.setdefault(f"{metric} {split}", []).append(score["value"])
    return {name: np.array(each, float) for name, each in values.items()}


def majority(folder: Path) -> dict[str, float]:
    """VCE's metrics of one constant answer: each emotion as high as it is often the strongest in Train."""
    task = load_task("vce")
    manifest = Manifest.load(folder / "manifest.csv", task)
    counts = np.bincount(manifest.split("Train").labels.argmax(axis=1), minlength=len(task.targets))
    # A little by position, so that two emotions that are as frequent are told apart and none is lost to a tie.
    answer = counts + np.linspace(0.1, 0, len(counts))
    test = manifest.split("Test")
    scores = evaluate(task, np.tile(answer, (len(test.clips), 1)), test.labels)
    return {metric: scores.mean(metric).value for metric in ("vce_top3", "top1", "prediction_in_true_top3")}


def main() -> None:
    """Prints a row per task, metric and split."""
    config = tyro.cli(Config, use_underscores=True)
    rows = ["| task | metric | Val | Test | without looking (Test) |", "|---|---|---|---|---|"]
    for task in config.tasks:
        folder = config.output_folder / task
        values = measure(task, config, folder)
        # Half of the lists are of three clips, half of four: 1/2 (1/6 + 1/24) are ordered right by chance.
        chance = {"pairwise_accuracy": 0.5, "listwise_accuracy": 5 / 48, "kendall_tau": 0.0}
        blind = majority(folder) if task == "vce" else chance
        for metric in load_task(task).metrics:
            cells = [_cell(values[f"{metric} {split}"]) for split in ("Val", "Test")]
            rows.append(f"| {task} | {metric} | {' | '.join(cells)} | {_cell(np.array([blind.get(metric, np.nan)]))} |")
    print(f"Seeds: {config.n_seeds}. train_perceiver {config.training}\n")
    print("\n".join(rows))


def _cell(values: np.ndarray) -> str:
    if np.isnan(values).all():
        return "-"
    return f"{values.mean():.3f}" + (f" ± {values.std(ddof=1):.3f}" if len(values) > 1 else "")


if __name__ == "__main__":
    main()
