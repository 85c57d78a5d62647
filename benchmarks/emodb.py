"""Emotions of unknown speakers: Berlin EmoDB, leave one speaker out, unweighted average recall (UAR) of seven classes.

    python benchmarks/emodb.py --wav_folder ../shared/data/emodb/wav --output_folder emodb

Every model and feature goes the way a user's does: extract_audio_features once, then for each of the ten speakers
`viper prepare emodb --test_groups SPEAKER --val_groups ANOTHER`, train_perceiver, submission_creation. One of the other
nine speakers, a different one for each fold and the same for every model, is the validation split: it alone chooses the
epoch (--epoch best; --epoch last takes that of the fixed schedule, where nothing is chosen) and the penalty of
`linear`; nothing is fitted on the test speaker. With `speaker` standardisation the features are standardised within
each speaker over all of that speaker's clips, the test speaker's too; no label is used.

The UAR is that of all 535 test predictions together; the mean of the ten speakers' own is in results.csv beside it.
"""

from __future__ import annotations

import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd
import tyro
from sklearn.metrics import recall_score

from viper.cli import run_command
from viper.evaluation.submission import read_submission
from viper.files import write_text
from viper.task import load_task

COMMON = ["--task", "emodb", "--batch_size", "32", "--keep", "best", "--device", "cpu"]
N_EPOCHS = 25
NEURAL = f"--preset tiny --n_epochs {N_EPOCHS} --ema 0.99 --label_smoothing 0.1 --weight_decay 0.05".split()
PERCEIVER = [*NEURAL, "--n_latents", "4", "--n_layers", "1", "--learning_rate", "2e-3"]
RECIPES = {
    "linear": ["--fusion", "linear"],
    # The share was chosen on the validation speakers.
    "tokens": ["--fusion", "tokens", *PERCEIVER, "--linear_share", "0.8"],
    "tokens-alone": ["--fusion", "tokens", *PERCEIVER, "--linear_share", "0"],
    "mlp": ["--fusion", "mlp", *NEURAL, "--learning_rate", "1e-3"],
    "gru": ["--fusion", "gru", *NEURAL, "--learning_rate", "1e-3"],
}
STANDARDISATION = {"training": [], "speaker": ["--normalize", "group", "--group_column", "speaker"]}
SPLIT_SEED = 0


@dataclass
class Config:
    """Options."""

    wav_folder: Path
    """EmoDB's 535 wav files."""
    output_folder: Path
    """Features, and results.csv. Features that are there are not made again."""
    features: list[Literal["logmel", "acoustic", "egemaps"]] = field(default_factory=lambda: ["acoustic"])
    """Which encoders. egemaps needs opensmile."""
    models: list[Literal["linear", "tokens", "tokens-alone", "mlp", "gru"]] = field(
        default_factory=lambda: ["linear", "tokens"]
    )
    """Which models: tokens with its linear member, and without."""
    standardisation: list[Literal["training", "speaker"]] = field(default_factory=lambda: ["training", "speaker"])
    """By the statistics of the training speakers, or within each speaker."""
    n_fragments: int = 4
    """Windows a clip."""
    epoch: Literal["best", "last"] = "last"
    """Epoch that is scored: the last, or the best on the validation speaker, whose some 50 clips choose by chance."""
    n_seeds: int = 5
    """Seeds 0, 1, ... `linear` has nothing random and is fitted once."""


def prepare(folder: Path, manifest: Path, *options: str) -> pd.DataFrame:
    """Writes a manifest of the wav files; answers File_ID, Split, speaker and emotion of each, by the file's name."""
    arguments = ["emodb", "--source", str(folder), "--output", str(manifest), *options]
    assert run_command("prepare", arguments) == 0
    return pd.read_csv(manifest, dtype=str)


def validation_speakers(speakers: list[str]) -> dict[str, str]:
    """Test speaker -> validation speaker: the next one in a shuffled ring, so that each is validated on once."""
    ring = list(np.random.default_rng(SPLIT_SEED).permutation(speakers))
    return {str(speaker): str(ring[(i + 1) % len(ring)]) for i, speaker in enumerate(ring)}


def predict_speaker(
    wav_folder: Path,
    test: str,
    validation: str,
    store: Path,
    training: list[str],
    n_seeds: int,
    checkpoint: str = "best",
) -> list[pd.Series]:
    """The emotion predicted for each clip of the test speaker, by clip, for each seed."""
    with tempfile.TemporaryDirectory() as scratch:
        manifest, run = Path(scratch) / "manifest.csv", Path(scratch) / "run"
        prepare(wav_folder, manifest, "--test_groups", test, "--val_groups", validation)
        data = ["--csv_path", str(manifest), "--audio_features_input_folder", str(store)]
        seeds = ["--seed", "0", "--n_seeds", str(n_seeds)]
        options = [*data, "--output_checkpoint_folder", str(run), *COMMON, *training, *seeds]
        assert run_command("train_perceiver", options) == 0
        task = load_task("emodb")
        predictions = []
        for seed in range(n_seeds):
            model = (run / f"seed_{seed}" if n_seeds > 1 else run) / checkpoint
            answers = run / f"submission_{seed}.csv"
            assert (
                run_command("submission_creation", [*data, "--model_path", str(model), "--output_path", str(answers)])
                == 0
            )
            predictions.append(read_submission(answers, task)[list(task.targets)].idxmax(axis=1))
        return predictions


def uar(true: pd.Series, predicted: pd.Series) -> float:
    """Unweighted average recall of the classes that `true` has: not every speaker spoke with every emotion."""
    return float(recall_score(true, predicted, average="macro", labels=true.unique()))


def measure(
    wav_folder: Path, clips: pd.DataFrame, store: Path, training: list[str], n_seeds: int, checkpoint: str = "best"
) -> np.ndarray:
    """(seeds, 2): UAR of all predictions together, and the mean of the speakers' own UAR."""
    pairs = validation_speakers(sorted(clips.speaker.unique()))
    folds = [predict_speaker(wav_folder, *pair, store, training, n_seeds, checkpoint) for pair in sorted(pairs.items())]
    truth = clips.set_index("File_ID")
    rows = []
    for predictions in zip(*folds, strict=True):
        together = pd.concat(predictions)
        own = [uar(truth.emotion[part.index], part) for part in predictions]
        rows.append((uar(truth.emotion[together.index], together), np.mean(own)))
    return np.array(rows)


def main() -> None:
    """Prints a row per encoder, model and standardisation, as each is done."""
    config = tyro.cli(Config, use_underscores=True)
    with tempfile.TemporaryDirectory() as scratch:
        clips = prepare(config.wav_folder, Path(scratch) / "all.csv")
    results = []
    print(
        "| features | model | standardised by | UAR | mean of speakers' UAR | s |\n|---|---|---|---|---|---|",
        flush=True,
    )
    for name in config.features:
        store = config.output_folder / f"{name}_{config.n_fragments}"
        extraction = ["--input_folder", str(config.wav_folder), "--output_folder", str(store), "--model_name", name]
        assert run_command("extract_audio_features", [*extraction, "--n_fragments", str(config.n_fragments)]) == 0
        for standardisation in config.standardisation:
            for model in config.models:
                start = time.monotonic()
                n_seeds = 1 if model == "linear" else config.n_seeds
                options = [*RECIPES[model], *STANDARDISATION[standardisation]]
                chosen = f"perceiver_{N_EPOCHS}" if config.epoch == "last" and model != "linear" else "best"
                rows = measure(config.wav_folder, clips, store, options, n_seeds, chosen)
                seconds = time.monotonic() - start
                cells = " | ".join(_cell(column) for column in rows.T)
                print(f"| {name} | {model} | {standardisation} | {cells} | {seconds:.0f} |", flush=True)
                results += [
                    {"features": name, "model": model, "standardised_by": standardisation, "seed": seed,
                     "uar": f"{row[0]:.4f}", "mean_of_speakers": f"{row[1]:.4f}"}
                    for seed, row in enumerate(rows)
                ]  # fmt: skip
                _write(config.output_folder / "results.csv", results)


def _cell(values: np.ndarray) -> str:
    return f"{values.mean():.3f}" + (f" ± {values.std(ddof=1):.3f}" if len(values) > 1 else "")


def _write(path: Path, rows: list[dict[str, str | int]]) -> None:
    lines = [list(rows[0]), *(list(row.values()) for row in rows)]
    write_text(path, "".join(",".join(map(str, line)) + "\n" for line in lines))


if __name__ == "__main__":
    main()
