"""pipeline: every stage for one data set from one YAML; what is up to date is not done again."""

from __future__ import annotations

import dataclasses
import importlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import tyro
import yaml

from viper.commands.common import log
from viper.commands.feature_options import MODALITIES
from viper.encoders.user_encoder import is_own_name
from viper.errors import UserError
from viper.files import digest_of, fingerprint, read_json, write_json, write_text
from viper.preferences import preferences_path
from viper.store import ENCODER_FILE, FeatureStore

if TYPE_CHECKING:
    from viper.commands.extract_features import ExtractOptions

STATE_FILE = "pipeline.json"
SHARED_KEYS = ("n_workers", "device", "offline", "clip_timeout", "engine", "ray_address", "num_gpus")
TOP_KEYS = ("task", "csv_path", "videos", "output", "subtitles", *SHARED_KEYS,
            "frames", "faces", "features", "train", "submission", "confusion", "report")  # fmt: skip
BEGUN = "train begun"  # in the state: of which inputs
REQUIRED_KEYS = ("csv_path", "videos", "output", "features")

TEMPLATE = """\
# One data set, from videos to a submission:  viper pipeline {name}
# Run it again after a stop or a change: only what is out of date is done again. Paths are relative to this file.

task: hume_reaction          # a card's name, or the path of your own
csv_path: manifest.csv       # File_ID, Split (Train, Val, Test), a column per target
videos: videos               # <File_ID without brackets>.mp4, .mov, .mkv, ...
output: work                 # frames, faces, features, run, submission.csv, matrices and report go here
# subtitles: subtitles       # <clip>.srt or .vtt; textual features are then made of words, not frames
device: auto                 # auto, cpu, cuda, cuda:1, mps
n_workers: -1                # processes that decode; -1: one a core
offline: false               # true: never touch the network
clip_timeout: 600            # seconds to read one clip, before it counts as failed
engine: local                # or ray, with ray_address and num_gpus

# Below, each section takes the options of the command it is named after, spelled as there (viper COMMAND --help).
frames:                      # get_frame
  n_frames: 32
faces:                       # crop_images; write `faces: false` to use whole frames
  margin: 0.1

features:                    # one entry a modality; leave out those you do not want
  visual:                    # extract_visual_features
    model_name: vit-base     # or hog, which needs no weights
  audio:                     # extract_audio_features
    model_name: wavlm-base-plus-sv   # or logmel or acoustic, which need no weights
    n_fragments: 32
  textual:                   # extract_textual_features
    batch_size: 64           # with subtitles: `model_name: hashed` needs no weights
  FAU:                       # extract_FAU_features
    model_name: multitask    # or landmarks, which needs no weights
  # A further modality of any name says which command makes it:
  # age:
  #   command: visual
  #   model_name: vit-age    # or an encoder of your own: FILE.py:Class

train:                       # train_perceiver
  n_epochs: 30
  preset: small

submission:                  # submission_creation; `submission: false` for none
  split: Test

confusion:                   # confusion_matrix; `confusion: false` for none
  split: Val

report:                      # report; `report: false` for none
  split: Val
"""


@dataclass(kw_only=True)
class PipelineOptions:
    """Run every stage for one data set, as a YAML file says. Resumable: only what is out of date is done again."""

    config: tyro.conf.Positional[Path]
    """The YAML file."""
    init: bool = False
    """Write a commented YAML to that path, to be filled in, and do nothing else."""


def run(config: PipelineOptions) -> int:
    """Runs the pipeline; answers the exit code: 3 when some clips failed on the way."""
    if config.init:
        if config.config.exists():
            raise UserError(f"{config.config}: is there already and is left alone; give another name")
        write_text(config.config, TEMPLATE.format(name=config.config))
        log.info("pipeline: wrote %s; fill it in, then: viper pipeline %s", config.config, config.config)
        return 0
    return _Pipeline(config.config).run()


class _Pipeline:
    """The stages' configs, made from the file before anything runs, so that a mistake is found at once."""

    def __init__(self, path: Path) -> None:
        self._path, self._base = path, path.parent
        self._card = _read(path)
        self._output = self._base / str(self._card["output"])
        self._state_path = self._output / STATE_FILE
        self._shared = {key: self._card[key] for key in SHARED_KEYS if key in self._card}
        frames, faces = self._output / "frames", self._output / "faces"
        self._frames = self._stage(
            "frames", "get_frame", "GetFrameOptions", input_folder=self._videos, output_folder=frames, shard=""
        )
        self._faces = None
        if self._card.get("faces") is not False:
            self._faces = self._stage(
                "faces", "crop_images", "CropImagesOptions", input_folder=frames, output_folder=faces, shard=""
            )
        self._extracts = {name: self._extract(name) for name in self._section("features")}
        if not self._extracts:
            raise UserError(f"{path}: features names no modality")
        run = self._output / "run"
        self._train = self._stage("train", "train_perceiver", "TrainOptions", overwrite=True, resume=False, n_seeds=1,
                                  csv_path=self._csv_path, output_checkpoint_folder=run, **self._task,
                                  **self._inputs())  # fmt: skip
        self._submission = self._follower("submission", "SubmissionOptions", self._output / "submission.csv")
        self._confusion = self._follower("confusion", "ConfusionOptions", self._output / "confusion")
        self._report = None
        if self._card.get("report") is not False:
            self._report = self._stage("report", "report", "ReportOptions", run=run, csv_path=self._csv_path,
                                       output_path=self._output / "report", **self._inputs())  # fmt: skip

    @property
    def _videos(self) -> Path:
        return self._base / str(self._card["videos"])

    @property
    def _csv_path(self) -> Path:
        return self._base / str(self._card["csv_path"])

    @property
    def _task(self) -> dict[str, Any]:
        task = str(self._card.get("task", "hume_reaction"))
        return {"task": str(self._base / task) if task.endswith((".yaml", ".yml")) else task}

    def run(self) -> int:
        """Runs what is out of date, in order; a stage that does nothing usable ends it."""
        needs_frames = any("input_folder" in vars(c) and self._reads_frames(c) for c in self._extracts.values())
        stages = [self._frames, self._faces] if needs_frames else []
        worst = 0
        for configs in [*([config] for config in stages if config is not None), *self._groups()]:
            codes = _run_stages(configs)
            if not set(codes) <= {0, 3}:
                return next(code for code in codes if code not in (0, 3))
            worst = max(worst, *codes)
        trained = digest_of([self._input_digest(), _plain(self._train)])
        for name, config, product in (
            ("train", self._train, self._output / "run" / "summary.json"),
            ("submission", self._submission, self._output / "submission.csv"),
            ("confusion", self._confusion, self._output / "confusion" / "confusion.json"),
            ("report", self._report, self._output / "report" / "report.html"),
        ):
            if config is not None:
                code = self._once(name, digest_of([trained, _plain(config)]), product, config)
                if code:
                    return code
        return worst

    def _groups(self) -> list[list[ExtractOptions]]:
        """The modalities, those together that read the same pictures in the same way: each picture is decoded once."""
        groups: dict[Any, list[ExtractOptions]] = {}
        for name, config in self._extracts.items():
            options = config.engine_options()
            is_alone = config.pictures is None or options.engine != "local"
            groups.setdefault(name if is_alone else (config.pictures, options), []).append(config)
        return list(groups.values())

    def _once(self, name: str, digest: str, product: Path, config: Any) -> int:
        """Runs a stage unless its product is there and was made from the same inputs."""
        state = read_json(self._state_path) if self._state_path.is_file() else {}
        if state.get(name) == digest and product.exists():
            log.info("%s: up to date", name)
            return 0
        if name == "train":
            # A training of the same inputs that was stopped is gone on with; any other is replaced.
            begun = state.get(BEGUN) == digest
            config = dataclasses.replace(config, resume=begun, overwrite=not begun)
            state = {**state, BEGUN: digest}
            write_json(self._state_path, state)
        try:
            code = _run_stage(config)
        except KeyboardInterrupt:
            # Not in the words of the stage, whose options to go on with are not this command's.
            raise KeyboardInterrupt from None
        if code == 0:
            write_json(self._state_path, {**state, name: digest})
        return code

    def _reads_frames(self, config: Any) -> bool:
        folder = config.input_folder
        return folder is not None and folder != self._videos

    def _input_digest(self) -> str:
        """Of the manifest and the preferences beside it, every encoder and every feature."""
        beside = preferences_path(self._csv_path)
        parts: list[Any] = [fingerprint(path) for path in (self._csv_path, beside) if path.is_file()]
        for name, config in self._extracts.items():
            store = FeatureStore.open(config.output_folder)
            parts.append([name, fingerprint(store.folder / ENCODER_FILE)])
            parts += [[clip, fingerprint(store.path(clip))] for clip in store.clips()]
        return digest_of(parts)

    def _section(self, key: str) -> dict[str, Any]:
        section = self._card.get(key)
        if section is None:
            return {}
        if not isinstance(section, dict):
            raise UserError(f"{self._path}: {key} must be a section of options")
        return section

    def _stage(self, key: str, module: str, name: str, options: dict[str, Any] | None = None, **given: Any) -> Any:
        """A stage's config out of its section; an unknown key is a UserError naming it."""
        config_class = getattr(importlib.import_module(f"viper.commands.{module}"), name)
        fields = {field.name: field for field in dataclasses.fields(config_class)}
        options = dict(self._section(key) if options is None else options)
        for option in options:
            if option not in fields or option in given:
                free = ", ".join(sorted(fields.keys() - given.keys()))
                raise UserError(f"{self._path}: {key} has no option {option!r}; it takes {free}")
        values: dict[str, Any] = {option: value for option, value in self._shared.items() if option in fields}
        values |= options
        for option, value in values.items():
            values[option] = _converted(value, str(fields[option].type), self._base, f"{self._path}: {key}.{option}")
        return config_class(**values, **given)

    def _extract(self, name: str) -> Any:
        options = dict(self._section("features")[name] or {})
        command = options.pop("command", name)
        if command not in MODALITIES:
            raise UserError(
                f"{self._path}: features.{name}: say which command makes it, `command:` one of {', '.join(MODALITIES)}"
            )
        if is_own_name(model := str(options.get("model_name", ""))):
            options["model_name"] = str(self._base / model)
        given: dict[str, Any] = {"output_folder": self._output / "features" / name, "shard": ""}
        foreign = {"from_files", "from_csv"} & options.keys()
        if command == "audio" and not foreign:
            given["input_folder"] = self._videos
        elif not foreign:
            given["input_folder"] = self._output / ("frames" if self._faces is None else "faces")
        if command == "textual" and not foreign:
            given |= self._task
            if self._card.get("subtitles"):
                given["subtitles"] = self._base / str(self._card["subtitles"])
        return self._stage(
            f"features.{name}", "extract_features", f"{command[0].upper()}{command[1:]}Options", options, **given
        )

    def _inputs(self) -> dict[str, Any]:
        named = {f"{name}_features_input_folder": config.output_folder
                 for name, config in self._extracts.items() if name in MODALITIES}  # fmt: skip
        others = [f"{name}={c.output_folder}" for name, c in self._extracts.items() if name not in MODALITIES]
        return {**named, "features": others}

    def _follower(self, key: str, name: str, output: Path) -> Any:
        if self._card.get(key) is False:
            return None
        module = {"submission": "submission_creation", "confusion": "confusion_matrix"}[key]
        return self._stage(key, module, name, csv_path=self._csv_path, model_path=self._output / "run",
                           output_path=output, **self._inputs())  # fmt: skip


def _run_stage(config: Any) -> int:
    return int(importlib.import_module(type(config).__module__).run(config))


def _run_stages(configs: Sequence[Any]) -> list[int]:
    if len(configs) == 1:
        return [_run_stage(configs[0])]
    return list(importlib.import_module(type(configs[0]).__module__).run_together(configs))


def _plain(config: Any) -> dict[str, Any]:
    """A config for a digest; neither the processes, the device nor the batch of an inference change a result."""
    neutral = ("n_workers", "device", "offline", "overwrite", "resume")
    options = {name: value for name, value in dataclasses.asdict(config).items() if name not in neutral}
    return {name: str(value) if isinstance(value, Path) else value for name, value in options.items()}


def _read(path: Path) -> dict[str, Any]:
    try:
        card = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; `viper pipeline {path} --init` writes one to fill in") from None
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UserError(f"{path}: cannot be read as YAML ({' '.join(str(error).split())})") from error
    if not isinstance(card, dict):
        raise UserError(f"{path}: must be a mapping with the keys {', '.join(TOP_KEYS)}")
    for key in card:
        if key not in TOP_KEYS:
            raise UserError(f"{path}: unknown key {key!r}; there are {', '.join(TOP_KEYS)}")
    for key in REQUIRED_KEYS:
        if not card.get(key):
            raise UserError(f"{path}: the key {key!r} is missing")
    return card


def _converted(value: Any, annotation: str, base: Path, where: str) -> Any:
    """A YAML value as the field's type; one of another type is a UserError."""
    if value is None:
        if "None" in annotation:
            return None
    elif "list[" in annotation:
        if isinstance(value, list):
            return [str(each) for each in value]
    elif "Path" in annotation:
        return base / str(value)
    elif "bool" in annotation:
        if isinstance(value, bool):
            return value
    elif "float" in annotation:
        if isinstance(value, int | float) and not isinstance(value, bool):
            return float(value)
        # YAML reads 1e-4 as text.
        if isinstance(value, str) and _is_number(value):
            return float(value)
    elif "int" in annotation:
        if isinstance(value, int) and not isinstance(value, bool):
            return value
    elif "Literal" in annotation:
        if f'"{value}"' in annotation or f"'{value}'" in annotation:
            return value
    elif isinstance(value, str):
        return value
    raise UserError(f"{where}: {value!r} is no {annotation}")


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
