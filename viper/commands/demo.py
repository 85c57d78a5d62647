"""demo: the whole way on clips made here, with known answers, by the commands a user types."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pandas as pd

from viper.commands.common import report_scores
from viper.commands.convert import arguments_of
from viper.commands.feature_options import feature_fields
from viper.errors import NothingDoneError, UserError
from viper.evaluation.metrics import evaluate
from viper.evaluation.submission import SUBMISSION_FILE, read_submission
from viper.files import check_own_folder
from viper.logs import log, running, say, shell_line
from viper.manifest import Manifest
from viper.offline import go_offline
from viper.store import MODALITIES
from viper.task import load_task
from viper.training.run_records import read_summary

N_TRAIN, N_VAL, N_TEST = 150, 50, 50
N_FRAMES = 8
N_FRAGMENTS = 6
MODELS = {
    "weight_free": {"visual": "hog", "audio": "logmel", "textual": "hashed", "FAU": "landmarks"},
    "pretrained": {
        "visual": "vit-base", "audio": "wavlm-base-plus-sv", "textual": "roberta-base", "FAU": "multitask",
    },
}  # fmt: skip
TRAINING: dict[str, Any] = {"preset": "tiny", "n_epochs": 60, "keep": "best", "device": "cpu", "log_steps": 100}


@dataclass(kw_only=True)
class DemoOptions:
    """Make short videos with known answers and take them all the way: frames, faces, features, model, submission."""

    output_folder: Path = Path("demo")
    """Where everything is written. Run again, it goes on where it was."""
    models: Literal["weight_free", "pretrained"] = "weight_free"
    """Encoders that need no weights, or the pretrained ones (fetched on first use)."""
    seed: int = 0
    """Seed of the clips and of the training."""
    offline: bool = False
    """Never touch the network (as HF_HUB_OFFLINE=1 does)."""


def run(options: DemoOptions) -> int:
    """Run the demo; return the exit code."""
    from viper.demo import make_dataset

    if options.offline:
        go_offline()
    began = time.monotonic()
    folder = options.output_folder
    if folder.exists() and not folder.is_dir():
        raise UserError(f"--output_folder {folder}: is a file")
    for name in ("videos", "subtitles", "frames", "faces", "confusion", "report"):
        check_own_folder(folder, name)
    for name, parts in (("features", MODALITIES), ("runs", ("all", *MODALITIES))):
        for part in parts:
            check_own_folder(folder, f"{name}_{options.models}", part)
    log.info("making %d videos with sound and subtitles in %s ...", N_TRAIN + N_VAL + N_TEST, folder / "videos")
    manifest = make_dataset(folder, N_TRAIN, N_VAL, N_TEST, seed=options.seed)
    _extract(options)
    runs = {"all": list(MODALITIES), **{name: [name] for name in MODALITIES}}
    for name, modalities in runs.items():
        _train(options, manifest, modalities, folder / f"runs_{options.models}" / name)
    _look_at(options, manifest)
    _say_scores(options, list(runs), folder / SUBMISSION_FILE)
    log.info("\nThe whole demo took %.0f s.", time.monotonic() - began)
    return 0


def _extract(options: DemoOptions) -> None:
    # The commands are imported when they run, so that --help is quick.
    from viper.commands import crop_images, extract_features, get_frame

    folder, names = options.output_folder, MODELS[options.models]
    videos, frames, faces = folder / "videos", folder / "frames", folder / "faces"
    _do("get_frame", get_frame.run,
        get_frame.GetFrameOptions(input_folder=videos, output_folder=frames, n_frames=N_FRAMES))  # fmt: skip
    _do("crop_images", crop_images.run, crop_images.CropImagesOptions(input_folder=frames, output_folder=faces))
    stores = folder / f"features_{options.models}"
    for each in (
        extract_features.VisualOptions(
            input_folder=faces, model_name=names["visual"], output_folder=stores / "visual"
        ),
        extract_features.AudioOptions(
            input_folder=videos, model_name=names["audio"], n_fragments=N_FRAGMENTS, output_folder=stores / "audio"
        ),
        extract_features.TextualOptions(
            input_folder=faces, subtitles=folder / "subtitles", model_name=names["textual"],
            output_folder=stores / "textual",
        ),
        extract_features.FAUOptions(input_folder=faces, model_name=names["FAU"], output_folder=stores / "FAU"),
    ):  # fmt: skip
        named = dataclasses.replace(each, offline=options.offline)
        _do(f"extract_{each.modality}_features", extract_features.run, named)


def _train(options: DemoOptions, manifest: Path, modalities: Sequence[str], run_folder: Path) -> None:
    from viper.commands import train_perceiver

    training = train_perceiver.TrainOptions(
        csv_path=manifest, output_checkpoint_folder=run_folder, seed=options.seed, resume=True, **TRAINING,
        **_features(options, modalities),
    )  # fmt: skip
    _do("train_perceiver", train_perceiver.renew, training)


def _look_at(options: DemoOptions, manifest: Path) -> None:
    """Make the submission, the matrices and the report of the model that reads all modalities."""
    from viper.commands import confusion_matrix, report, submission_creation

    folder = options.output_folder
    best = folder / f"runs_{options.models}" / "all"
    inputs = {"csv_path": manifest, "model_path": best, **_features(options, MODALITIES)}
    _do("submission_creation", submission_creation.run,
        submission_creation.SubmissionOptions(output_path=folder / SUBMISSION_FILE, **inputs))  # fmt: skip
    _do("confusion_matrix", confusion_matrix.run,
        confusion_matrix.ConfusionOptions(output_path=folder / "confusion", **inputs))  # fmt: skip
    others = [best.with_name(name) for name in MODALITIES]
    _do("report", report.run, report.ReportOptions(run=best, output_path=folder / "report", compare=others))


def _features(options: DemoOptions, modalities: Sequence[str]) -> Mapping[str, Any]:
    root = options.output_folder / f"features_{options.models}"
    return feature_fields({name: root / name for name in modalities})


def _do(name: str, run_command: Callable[[Any], int], options: Any) -> None:
    """Show a command as it is typed, and run it here, which spares it the seconds of importing torch again."""
    arguments = arguments_of(options)
    log.info("\n$ %s", shell_line(["viper", name, *arguments]))
    with running(name, arguments):
        code = run_command(options)
    if code not in (0, 3):
        raise NothingDoneError(f"the demo ends here: `viper {name}` returned {code}")


def _say_scores(options: DemoOptions, runs: list[str], submission: Path) -> None:
    folder, task = options.output_folder, load_task("hume_reaction")
    table = pd.DataFrame(columns=["Val, mean", *task.targets], dtype=float)
    for name in runs:
        scores = read_summary(folder / f"runs_{options.models}" / name, task).scores
        per_target = [scores.targets["pearson"][target].value for target in task.targets]
        table.loc[name] = [scores.together["pearson"].value, *per_target]
    truth = Manifest.load(folder / "test_labels.csv", task)
    predicted = read_submission(submission, task)
    scores = evaluate(task, predicted.loc[truth.clips, list(task.targets)].to_numpy(), truth.labels)
    say("", "Pearson on the validation split (its people are in no other split), a model trained on each:", "")
    say(*table.to_string(float_format=lambda value: f"{value:.2f}", na_rep="-").split("\n"))
    say("", "The submission against the labels the challenge would have kept (all modalities, Test):", "")
    report_scores(scores, "Test")
    say(
        "",
        f"Look at: {folder}/report/report.html   how good it is, on whom, and where it looked",
        f"         {folder}/videos          the clips, {folder}/faces the crops",
        f"         {folder}/submission.csv  what you would send in",
        f"         {folder}/confusion       confusion_overview.png and the numbers",
        f"         {folder}/runs_{options.models}/all    config.yaml, metrics.csv, train.log, best/",
    )
