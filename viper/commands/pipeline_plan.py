"""What a pipeline's YAML says, as the options of the commands that it runs: a mistake is found before anything runs."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from viper.commands import confusion_matrix, report, submission_creation, train_perceiver
from viper.commands.convert import build
from viper.commands.crop_images import CropImagesOptions
from viper.commands.extract_features import EXTRACT_OPTIONS, ExtractOptions
from viper.commands.feature_options import feature_fields
from viper.commands.get_frame import GetFrameOptions
from viper.encoders.user_encoder import is_own_name
from viper.errors import UserError, did_you_mean, either
from viper.evaluation.submission import SUBMISSION_FILE
from viper.files import read_yaml
from viper.logs import shell_line
from viper.training.run_records import SUMMARY_FILE

Options = TypeVar("Options")
SHARED_KEYS = ("subfolders", "id_separator", "n_workers", "device", "offline", "clip_timeout", "engine", "ray_address",
               "num_gpus")  # fmt: skip
SECTIONS = ("frames", "faces", "features", "train", "submission", "confusion", "report")
TOP_KEYS = ("task", "csv_path", "videos", "output", "subtitles", *SHARED_KEYS, *SECTIONS)
REQUIRED_KEYS = ("csv_path", "videos", "output", "features")


@dataclass(frozen=True)
class Step:
    """A command after the extraction.

    Attributes
    ----------
    product : the file that is there once it is done.
    folder : where all of its files are, or `product` itself if there are no others.
    """

    name: str
    run: Callable[[Any], int]
    options: Any
    product: Path
    folder: Path


@dataclass(frozen=True)
class Plan:
    """All that a YAML file asks for, in the order in which it is done.

    `faces` is None where whole frames are used.
    """

    output: Path
    task: str
    csv_path: Path
    videos: Path
    frames: GetFrameOptions
    faces: CropImagesOptions | None
    features: dict[str, ExtractOptions]
    steps: list[Step]

    @property
    def is_offline(self) -> bool:
        """Whether any part of it must not touch the network; then none does."""
        return any(options.offline for options in self.features.values())

    def needs_frames(self) -> bool:
        """Whether any modality is read from pictures."""
        folders = (getattr(options, "input_folder", None) for options in self.features.values())
        return any(folder is not None and folder != self.videos for folder in folders)


def read_plan(path: Path) -> Plan:
    """Return the plan of a YAML file; whatever is wrong in it is a UserError that names the key."""
    return _Planner(path, _read(path)).plan()


class _Planner:
    """Turns sections into options. Paths are relative to the file."""

    def __init__(self, path: Path, card: dict[str, Any]) -> None:
        self._path, self._base, self._card = path, path.parent, card
        self._output = self._base / str(card["output"])
        self._videos = self._base / str(card["videos"])
        self._csv_path = self._base / str(card["csv_path"])
        self._shared = {key: card[key] for key in SHARED_KEYS if key in card}
        task = str(card.get("task", "hume_reaction"))
        self._task = str(self._base / task) if task.endswith((".yaml", ".yml")) else task

    def plan(self) -> Plan:
        """Return the whole plan."""
        frames = self._stage(
            "frames", GetFrameOptions, input_folder=self._videos, output_folder=self._output / "frames", shard=""
        )
        faces = None
        if self._wants("faces"):
            faces = self._stage(
                "faces", CropImagesOptions, input_folder=frames.output_folder, output_folder=self._output / "faces",
                shard="",
            )  # fmt: skip
        pictures = frames.output_folder if faces is None else faces.output_folder
        features = {name: self._extract(name, pictures) for name in self._section("features")}
        if not features:
            raise UserError(f"{self._path}: features names no modality")
        return Plan(
            self._output, self._task, self._csv_path, self._videos, frames, faces, features, self._steps(features)
        )

    def _extract(self, name: str, pictures: Path) -> ExtractOptions:
        options = dict(self._section("features")[name] or {})
        command = options.pop("command", name)
        if command not in EXTRACT_OPTIONS:
            raise UserError(
                f"{self._path}: features.{name}: say which command makes it: `command: {either(list(EXTRACT_OPTIONS))}`"
            )
        if is_own_name(model := str(options.get("model_name", ""))):
            options["model_name"] = str(self._base / model)
        given: dict[str, Any] = {"output_folder": self._output / "features" / name, "shard": ""}
        if not {"from_files", "from_csv"} & options.keys():
            given["input_folder"] = self._videos if command == "audio" else pictures
            if command == "textual":
                given["task"] = self._task
                if self._card.get("subtitles"):
                    given["subtitles"] = self._base / str(self._card["subtitles"])
        return self._stage(f"features.{name}", EXTRACT_OPTIONS[command], options, **given)

    def _steps(self, features: Mapping[str, ExtractOptions]) -> list[Step]:
        """Training and what is made of it."""
        run, output = self._output / "run", self._output
        inputs = feature_fields({name: options.output_folder for name, options in features.items()})
        inputs["csv_path"] = self._csv_path
        train = self._stage(
            "train", train_perceiver.TrainOptions, output_checkpoint_folder=run, task=self._task, overwrite=False,
            resume=False, n_seeds=1, **inputs,
        )  # fmt: skip
        steps = [Step("train", train_perceiver.renew, train, run / SUMMARY_FILE, run)]
        if self._wants("submission"):
            path = output / SUBMISSION_FILE
            options: Any = self._stage(
                "submission", submission_creation.SubmissionOptions, model_path=run, output_path=path, **inputs
            )
            steps.append(Step("submission", submission_creation.run, options, path, path))
        if self._wants("confusion"):
            folder = output / "confusion"
            options = self._stage(
                "confusion", confusion_matrix.ConfusionOptions, model_path=run, output_path=folder, **inputs
            )
            steps.append(Step("confusion", confusion_matrix.run, options, folder / "confusion.json", folder))
        if self._wants("report"):
            folder = output / "report"
            options = self._stage("report", report.ReportOptions, run=run, output_path=folder, **inputs)
            steps.append(Step("report", report.run, options, folder / "report.html", folder))
        return steps

    def _wants(self, key: str) -> bool:
        return self._card.get(key) is not False

    def _section(self, key: str) -> dict[str, Any]:
        section = self._card.get(key)
        if section is None:
            return {}
        if not isinstance(section, dict):
            raise UserError(f"{self._path}: {key} must be a section of options")
        return section

    def _stage(
        self, key: str, options_class: type[Options], section: Mapping[str, Any] | None = None, **given: Any
    ) -> Options:
        """Return a command's options out of its section, the shared keys and what the pipeline itself sets."""
        section = self._section(key) if section is None else section
        names = {field.name for field in dataclasses.fields(options_class)}  # type: ignore[arg-type]
        shared = {name: value for name, value in self._shared.items() if name in names}
        return build(options_class, {**shared, **section}, f"{self._path}: {key}", self._base, given)


def _read(path: Path) -> dict[str, Any]:
    if not path.exists():
        command = shell_line(["viper", "pipeline", path, "--init"])
        raise UserError(f"{path}: no such file; `{command}` writes one to fill in")
    card = read_yaml(path)
    if not isinstance(card, dict):
        raise UserError(f"{path}: must be a mapping with the keys {', '.join(TOP_KEYS)}")
    for key in card:
        if key not in TOP_KEYS:
            hint = did_you_mean(str(key), TOP_KEYS) or f"; there are {', '.join(TOP_KEYS)}"
            raise UserError(f"{path}: unknown key {key!r}{hint}")
    for key in REQUIRED_KEYS:
        if not card.get(key):
            raise UserError(f"{path}: the key {key!r} is missing")
    return card
