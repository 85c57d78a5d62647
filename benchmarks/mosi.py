"""CMU-MOSI: words, sound and picture of an utterance, without and with the utterances around it in its video.

    python benchmarks/mosi.py --n_seeds 5
    python benchmarks/mosi.py --n_seeds 1 --training="--fusion linear"

Neighbours are tokens of a modality of their own (text_context beside text ...), each at the time by which its position
differs from the utterance's. The best epoch is chosen by a seeded share of the training videos, so that no video is in
two splits; the labels of the test split are kept aside and looked at after that. Those training videos also trained the
text and video features, so their scores, and with them the choice of an epoch, are far more optimistic than the test's.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import tyro

from viper.cli import run_command
from viper.evaluation.metrics import evaluate
from viper.evaluation.submission import read_submission
from viper.manifest import Manifest
from viper.store import EncoderInfo, Feature, FeatureStore
from viper.task import Task, load_task

MODALITIES = {"T": "text", "A": "audio", "V": "video"}
ROWS = ("T", "A", "V", "TAV")
# The defaults, but for a small model, averaged weights, and more modality dropout: none is to be relied on alone.
RECIPE = (
    "--preset tiny --n_epochs 15 --batch_size 32 --learning_rate 1e-3 --weight_decay 0.05 --ema 0.99 "
    "--modality_dropout 0.3"
)


@dataclass
class Config:
    """Options."""

    data: Path = Path(__file__).parents[2] / "shared" / "data" / "mosi" / "mosi_utterances.npz"
    """The utterances' features and labels."""
    n_seeds: int = 5
    """Seeds 0, 1, ..."""
    neighbours: int = 10
    """How many utterances before and after are seen."""
    validation_share: float = 0.15
    """Share of the training videos that validate."""
    rows: tuple[str, ...] = ROWS
    """Sets of modalities, out of the letters T, A and V."""
    training: str = RECIPE
    """Options of train_perceiver."""


def windows(ids: Sequence[str], reach: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """For every utterance, the rows of the others around it in its video and their relative positions.

    An id is "video_segment"; positions are ranks of the segments, which are not always consecutive, nor in order.
    """
    videos: dict[str, list[tuple[int, int]]] = {}
    for row, name in enumerate(ids):
        video, segment = name.rsplit("_", 1)
        videos.setdefault(video, []).append((int(segment), row))
    found: dict[int, tuple[np.ndarray, np.ndarray]] = {}
    for members in videos.values():
        rows = np.array([row for _, row in sorted(members)])
        for position, row in enumerate(rows):
            positions = np.arange(max(0, position - reach), min(len(rows), position + reach + 1))
            positions = positions[positions != position]
            found[row] = rows[positions], positions - position
    return [found[row] for row in range(len(ids))]


def prepare(config: Config, folder: Path) -> Path:
    """Writes a manifest without the test labels, one with all labels, and the stores; answers the latter manifest."""
    data = dict(np.load(config.data))
    ids = [str(name) for name in data["id"]]
    for name in MODALITIES.values():
        own, context = (
            FeatureStore.create(folder / each, EncoderInfo("files", each, data[name].shape[1], source="files"))
            for each in (name, f"{name}_context")
        )
        for row, (clip, (rows, time)) in enumerate(zip(ids, windows(ids, config.neighbours), strict=True)):
            own.write(clip, Feature.make(data[name][[row]]))
            if len(rows):  # a video of one utterance has no neighbours
                context.write(clip, Feature.make(data[name][rows], time=time))
    video = np.array([name.rsplit("_", 1)[0] for name in ids])
    split = np.where(data["split"] == "train", "Train", "Test")
    videos = np.unique(video[split == "Train"])
    chosen = np.random.default_rng(0).permutation(videos)[: round(config.validation_share * len(videos))]
    split[np.isin(video, chosen)] = "Val"
    labels = pd.DataFrame({"File_ID": ids, "Split": split, "sentiment": data["label_cont"]})
    labels.to_csv(folder / "labels.csv", index=False)
    hidden = labels["sentiment"].where(labels["Split"] != "Test")
    labels.assign(sentiment=hidden).to_csv(folder / "manifest.csv", index=False)
    return folder / "labels.csv"


def predictions(config: Config, row: str, kind: str, folder: Path, task: Task, clips: list[str]) -> list[np.ndarray]:
    """Trains a model per seed on the modalities of a row; answers each one's test predictions (clips, 1)."""
    run = folder / f"run_{row}_{kind}"
    names = [MODALITIES[letter] for letter in row]
    if kind == "with":
        names += [f"{name}_context" for name in names]
    stores = [part for name in names for part in ("--features", f"{name}={folder / name}")]
    data = ["--csv_path", str(folder / "manifest.csv"), *stores]
    options = [*config.training.split(), "--keep", "best", "--device", "cpu", "--task", "mosi"]
    found = []
    for seed in range(config.n_seeds):
        model = run / f"seed_{seed}"
        training = [*data, *options, "--seed", str(seed), "--output_checkpoint_folder", str(model)]
        assert run_command("train_perceiver", training) == 0
        submission = model / "submission.csv"
        predict = [*data, "--model_path", str(model), "--output_path", str(submission), "--device", "cpu"]
        assert run_command("submission_creation", predict) == 0
        found.append(read_submission(submission, task).loc[clips, list(task.targets)].to_numpy())
    return found


def main() -> None:
    """Prints a row per set of modalities, without and with neighbours."""
    config = tyro.cli(Config, use_underscores=True)
    if not config.data.is_file():
        raise SystemExit(f"{config.data}: no such file; give the data's path with --data")
    if wrong := [row for row in config.rows if not re.fullmatch("[TAV]+", row)]:
        raise SystemExit(f"--rows {' '.join(wrong)}: out of the letters T, A and V")
    print(f"Seeds: {config.n_seeds}. train_perceiver {config.training}\n")
    print(
        "| modalities | neighbours | accuracy | Pearson | accuracy of the seeds' mean |\n|---|---|---|---|---|",
        flush=True,
    )
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        task = load_task("mosi")
        truth = Manifest.load(prepare(config, folder), task).split("Test")
        for row in config.rows:
            for kind in ("without", "with"):
                members = predictions(config, row, kind, folder, task, truth.clips)
                scores = [evaluate(task, member, truth.labels) for member in members]
                both = evaluate(task, np.mean(members, axis=0), truth.labels).mean("binary_accuracy").value
                cells = []
                for metric, scale, digits in (("binary_accuracy", 100, 1), ("pearson", 1, 3)):
                    values = scale * np.array([score.mean(metric).value for score in scores])
                    spread = values.std(ddof=1) if len(values) > 1 else np.nan
                    cells.append(f"{values.mean():.{digits}f} ± {spread:.{digits}f}")
                print(f"| {'+'.join(row)} | {kind} | {' | '.join(cells)} | {100 * both:.1f} |", flush=True)


if __name__ == "__main__":
    main()
