"""demo: the whole way on clips made here, with known answers, by the commands a user types."""

from __future__ import annotations

import shlex
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pandas as pd

from viper.commands.common import log, report_scores
from viper.commands.feature_options import MODALITIES
from viper.errors import NothingDoneError, UserError
from viper.evaluation.metrics import evaluate
from viper.evaluation.submission import read_submission
from viper.files import read_json
from viper.manifest import Manifest
from viper.task import load_task

N_TRAIN, N_VAL, N_TEST = 150, 50, 50
N_FRAMES = 8
EXTRACTS = {
    "weight_free": {
        "visual": "--input_folder {faces} --model_name hog",
        "audio": "--input_folder {videos} --model_name logmel --n_fragments 6",
        "textual": "--input_folder {faces} --subtitles {subtitles} --model_name hashed",
        "FAU": "--input_folder {faces} --model_name landmarks",
    },
    "pretrained": {
        "visual": "--input_folder {faces} --model_name vit-base",
        "audio": "--input_folder {videos} --model_name wavlm-base-plus-sv --n_fragments 6",
        "textual": "--input_folder {faces} --subtitles {subtitles} --model_name roberta-base",
        "FAU": "--input_folder {faces} --model_name multitask",
    },
}
TRAINING = "--preset tiny --n_epochs 60 --keep best --device cpu --log_steps 100"


@dataclass(kw_only=True)
class DemoOptions:
    """Make short videos with known answers and take them all the way: frames, faces, features, model, submission."""

    output_folder: Path = Path("demo")
    """Where everything is written. Run again, it goes on where it was."""
    models: Literal["weight_free", "pretrained"] = "weight_free"
    """Encoders that need no weights, or the pretrained ones (fetched on first use)."""
    seed: int = 0
    """Of the clips and of the training."""


def run(config: DemoOptions) -> int:
    """Runs the demo; answers the exit code."""
    from viper.demo import make_dataset

    began = time.monotonic()
    folder = config.output_folder
    if folder.exists() and not folder.is_dir():
        raise UserError(f"--output_folder {folder}: is a file")
    log.info("making %d videos with sound and subtitles in %s ...", N_TRAIN + N_VAL + N_TEST, folder / "videos")
    manifest = make_dataset(folder, N_TRAIN, N_VAL, N_TEST, seed=config.seed)
    paths = {name: folder / name for name in ("videos", "subtitles", "frames", "faces")}
    _type(f"get_frame --input_folder {paths['videos']} --output_folder {paths['frames']} --n_frames {N_FRAMES}")
    _type(f"crop_images --input_folder {paths['frames']} --output_folder {paths['faces']}")
    for name, options in EXTRACTS[config.models].items():
        features = folder / f"features_{config.models}" / name
        _type(f"extract_{name}_features {options.format(**paths)} --output_folder {features}")
    runs = {"all": list(MODALITIES), **{name: [name] for name in MODALITIES}}
    for name, modalities in runs.items():
        _train(config, manifest, modalities, folder / f"runs_{config.models}" / name)
    best = folder / f"runs_{config.models}" / "all"
    inputs = f"--csv_path {manifest} --model_path {best} {_features(config, list(MODALITIES))}"
    submission = folder / "submission.csv"
    _type(f"submission_creation {inputs} --output_path {submission}")
    _type(f"confusion_matrix {inputs} --output_path {folder / 'confusion'}")
    others = " ".join(str(best.with_name(name)) for name in MODALITIES)
    _type(f"report --run {best} --output_path {folder / 'report'} --compare {others}")
    _say_scores(config, list(runs), submission)
    log.info("\nThe whole demo took %.0f s.", time.monotonic() - began)
    return 0


def _train(config: DemoOptions, manifest: Path, modalities: list[str], run_folder: Path) -> None:
    if (run_folder / "summary.json").is_file():
        log.info("\n%s: trained already", run_folder)
        return
    _type(
        f"train_perceiver --csv_path {manifest} {_features(config, modalities)} "
        f"--output_checkpoint_folder {run_folder} {TRAINING} --seed {config.seed} --resume"
    )


def _features(config: DemoOptions, modalities: list[str]) -> str:
    root = config.output_folder / f"features_{config.models}"
    return " ".join(f"--{name} --{name}_features_input_folder {root / name}" for name in modalities)


def _type(line: str) -> None:
    """Shows a command and runs it in this process, which spares it the seconds of importing torch again."""
    from viper.cli import run_command

    log.info("\n$ viper %s", line)
    name, *arguments = shlex.split(line)
    code = run_command(name, arguments)
    if code not in (0, 3):
        raise NothingDoneError(f"the demo ends here: `viper {name}` answered {code}")


def _say_scores(config: DemoOptions, runs: list[str], submission: Path) -> None:
    folder, task = config.output_folder, load_task("hume_reaction")
    table = pd.DataFrame(columns=["Val, mean", *task.targets], dtype=float)
    for name in runs:
        summary = read_json(folder / f"runs_{config.models}" / name / "summary.json")
        per_target = [summary["targets"][target]["pearson"]["value"] for target in task.targets]
        table.loc[name] = [summary["mean"]["pearson"]["value"], *per_target]
    truth = Manifest.load(folder / "test_labels.csv", task)
    predicted = read_submission(submission, task)
    scores = evaluate(task, predicted.loc[truth.clips, list(task.targets)].to_numpy(), truth.labels)
    print("\nPearson on the validation split (its people are in no other split), a model trained on each:\n")
    print(table.to_string(float_format=lambda value: f"{value:.2f}", na_rep="-"))
    print("\nThe submission against the labels the challenge would have kept (all modalities, Test):\n", flush=True)
    report_scores(scores, "Test")
    print(
        f"""
Look at: {folder}/report/report.html   how good it is, on whom, and where it looked
         {folder}/videos          the clips, {folder}/faces the crops
         {folder}/submission.csv  what you would send in
         {folder}/confusion       confusion_overview.png and the numbers
         {folder}/runs_{config.models}/all    config.yaml, metrics.csv, train.log, best/""",
        flush=True,
    )
