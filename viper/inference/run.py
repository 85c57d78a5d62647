"""A training's run, opened from its folder: its checkpoint, its manifest and its features."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from viper.clip_ids import separator_of
from viper.errors import UserError
from viper.fusion.checkpoint import load_checkpoint, resolve_checkpoint, task_of
from viper.fusion.perceiver import PerceiverFusion
from viper.inference.stored import data_for
from viper.manifest import Manifest
from viper.store import MODALITIES, FeatureStore
from viper.task import Task
from viper.training.data import FusionData
from viper.training.run_folder import FREE_OPTIONS
from viper.training.run_records import CONFIG_FILE, SUMMARY_FILE, read_card, read_summary


@dataclass(frozen=True)
class OpenedRun:
    """A run that can predict.

    Attributes
    ----------
    name : the run as it was given.
    folder : the run's folder, with config.yaml and metrics.csv.
    checkpoint : resolved, so that it names the epoch.
    card : the content of config.yaml; empty where there is none.
    settings : those of its options that decide the result.
    manifest : all rows.
    """

    name: str
    folder: Path
    checkpoint: Path
    card: dict[str, Any]
    settings: dict[str, Any]
    model: PerceiverFusion
    task: Task
    manifest: Manifest
    stores: dict[str, FeatureStore]

    @property
    def epoch(self) -> int | None:
        """The checkpoint's epoch; None where neither its name nor the run's summary says it."""
        if match := re.fullmatch(r"perceiver_(\d+)", self.checkpoint.name):
            return int(match[1])
        if not (self.folder / SUMMARY_FILE).is_file():
            return None
        return read_summary(self.folder, self.task).best_epoch.get(self.task.metrics[0])

    def data(self, split: str, labelled: bool = True) -> FusionData:
        """Return the features of a split's clips: of those with labels, or of all."""
        return data_for(self.model, self.stores, self.manifest, split, labelled)


def open_run(
    path: Path,
    option: str = "run",
    csv_path: Path | None = None,
    folders: Mapping[str, Path] | None = None,
    without: Collection[str] = (),
    in_python: bool = False,
) -> OpenedRun:
    """Open a run by its folder, or by the folder of one of its checkpoints.

    Parameters
    ----------
    option : the option that named the run, for messages.
    csv_path : the manifest, if not the one in config.yaml.
    folders : modality -> features, to replace or add to those in config.yaml. None: error messages do not suggest it.
    without : modalities to leave out.
    in_python : messages suggest arguments of `viper.load_run`, not options of a command.

    Raises
    ------
    UserError : it is not a run, or something config.yaml names is missing: which, and the option to name it.
    """
    path = Path(path)
    checkpoint = resolve_checkpoint(path, option).resolve()
    folder = path if (path / CONFIG_FILE).is_file() else checkpoint.parent
    card = read_card(folder) if (folder / CONFIG_FILE).is_file() else {}
    options = card.get("options", {})
    can_override = folders is not None
    suggest = (_argument_for if in_python else _option_for) if can_override else None
    stores = _open_stores(_recorded_folders(options), folder, folders or {}, without, suggest)
    csv_option = "csv_path=" if in_python else "--csv_path"
    model = load_checkpoint(checkpoint)
    task = task_of(model)
    where = csv_path or (Path(options["csv_path"]) if options.get("csv_path") else None)
    if where is None:
        raise UserError(
            f"{option} {path}: no {CONFIG_FILE} beside the checkpoint says which manifest it was trained on; give "
            f"{csv_option}"
        )
    if csv_path is None and not where.is_file():
        hint = f"; give {csv_option}" if can_override else ""
        raise UserError(f"{where}: no such file, though {folder / CONFIG_FILE} names it as the manifest{hint}")
    settings = {name: value for name, value in options.items() if name not in FREE_OPTIONS}
    manifest = Manifest.load(where, task, separator_of(store.folder for store in stores.values()))
    return OpenedRun(str(path), folder, checkpoint, card, settings, model, task, manifest, stores)


def _recorded_folders(options: Mapping[str, Any]) -> dict[str, Path]:
    """Return modality -> folder of a training, with paths as they were given there.

    Modalities with an option of their own are in NAME_features_input_folder, others in the list `features`.
    """
    folders = {}
    for name in MODALITIES:
        if (folder := options.get(f"{name}_features_input_folder")) is not None and options.get(name, True):
            folders[name] = Path(folder)
    for pair in options.get("features") or []:
        name, _, folder = pair.partition("=")
        folders[name] = Path(folder)
    return folders


def _open_stores(
    recorded: Mapping[str, Path],
    run: Path,
    given: Mapping[str, Path],
    without: Collection[str],
    suggest: Callable[[str], str] | None,
) -> dict[str, FeatureStore]:
    """Open the recorded stores, each replaced by the given one, and leave out those of `without`.

    `suggest` says how to name a modality's features.
    """
    names = [*(name for name in MODALITIES if name in recorded or name in given), *recorded, *given]
    folders = {name: {**recorded, **given}[name] for name in dict.fromkeys(names) if name not in without}
    if not folders:
        if suggest is _argument_for:
            raise UserError(f'{run}: no features are known; give features={{"visual": FOLDER}}')
        raise UserError("no features given: name a folder with --visual_features_input_folder or another of its kind")
    for name, path in folders.items():
        if name not in given and not path.is_dir():
            hint = f"; give {suggest(name)}" if suggest else ""
            raise UserError(f"{path}: no such folder, though {run / CONFIG_FILE} names it for {name} features{hint}")
    return {name: FeatureStore.open(folder) for name, folder in folders.items()}


def _argument_for(name: str) -> str:
    return f'features={{"{name}": FOLDER}}, or leave it out with hidden=["{name}"]'


def _option_for(name: str) -> str:
    if name in MODALITIES:
        return f"--{name}_features_input_folder, or --no-{name} to leave it out"
    return f"--features {name}=FOLDER"
