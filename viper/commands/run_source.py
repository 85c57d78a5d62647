"""What a run's folder leads to: its checkpoint, its manifest and its features, where training left or found them."""

from __future__ import annotations

from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import yaml

from viper.commands.feature_options import MODALITIES, FeatureOptions
from viper.errors import UserError
from viper.fusion.checkpoint import load_checkpoint, resolve_checkpoint, task_of
from viper.manifest import Manifest
from viper.report.source import RunSource
from viper.store import FeatureStore
from viper.training.run_folder import CONFIG_FILE, FREE_OPTIONS


def open_run(
    path: Path, option: str, csv_path: Path | None = None, features: FeatureOptions | None = None
) -> RunSource:
    """Opens a run by its folder, or that of one of its checkpoints.

    Parameters
    ----------
    option : by which the run was named, for messages.
    csv_path, features : what is given beside it; it counts for more than what config.yaml says.

    Raises
    ------
    UserError : it is no run, or what config.yaml names is not there any more: which, and by what option to name it.
    """
    checkpoint = resolve_checkpoint(path, option).resolve()
    folder = path if (path / CONFIG_FILE).is_file() else checkpoint.parent
    card = _read_card(folder / CONFIG_FILE)
    options = card.get("options", {})
    stores = _stores(folder, options, features or FeatureOptions(), overridable=features is not None)
    model = load_checkpoint(checkpoint)
    task = task_of(model)
    where = csv_path or (Path(options["csv_path"]) if options.get("csv_path") else None)
    if where is None:
        raise UserError(f"{option} {path}: no {CONFIG_FILE} beside the checkpoint says which manifest it was trained "
                        "on; give --csv_path")  # fmt: skip
    if csv_path is None and not where.is_file():
        hint = "; give --csv_path" if features is not None else ""
        raise UserError(f"{where}: no such file, though {folder / CONFIG_FILE} names it as the manifest{hint}")
    settings = {name: value for name, value in options.items() if name not in FREE_OPTIONS}
    return RunSource(str(path), folder, checkpoint, card, settings, model, task, Manifest.load(where, task), stores)


def _read_card(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        card = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise UserError(f"{path}: cannot be read ({' '.join(str(error).split())})") from error
    if not isinstance(card, dict) or not isinstance(card.get("options", {}), dict):
        raise UserError(f"{path}: is no description of a run as train_perceiver writes it")
    return card


def _stores(run: Path, options: dict[str, Any], given: FeatureOptions, overridable: bool) -> dict[str, FeatureStore]:
    """The stores of the options, each of which may be overridden by what is given, or left out by its flag."""
    recorded = _recorded(options)
    merged = replace(recorded)
    for name in MODALITIES:
        folder = f"{name}_features_input_folder"
        if getattr(given, folder) is not None:
            setattr(merged, folder, getattr(given, folder))
            setattr(merged, name, True)
        setattr(merged, name, getattr(merged, name) and getattr(given, name))
    further = {pair.partition("=")[0]: pair for pair in (*recorded.features, *given.features)}
    merged.features = list(further.values())
    folders, own = merged.folders(), set(given.folders()) if _names_any(given) else set()
    for name, path in folders.items():
        if name not in own and not path.is_dir():
            option = f"--{name}_features_input_folder" if name in MODALITIES else f"--features {name}=FOLDER"
            without = f", or --no-{name} to leave it out" if name in MODALITIES else ""
            hint = f"; give {option}{without}" if overridable else ""
            raise UserError(f"{path}: no such folder, though {run / CONFIG_FILE} names it for {name} features{hint}")
    return {name: FeatureStore.open(folder) for name, folder in folders.items()}


def _recorded(options: dict[str, Any]) -> FeatureOptions:
    """The features of a training; paths as they were given there."""
    known = {field.name for field in fields(FeatureOptions)}
    values: dict[str, Any] = {name: value for name, value in options.items() if name in known}
    for name in values:
        if name.endswith("_folder") and values[name] is not None:
            values[name] = Path(values[name])
    return FeatureOptions(**values)


def _names_any(options: FeatureOptions) -> bool:
    folders = (getattr(options, f"{name}_features_input_folder") for name in MODALITIES)
    return bool(options.features) or any(folder is not None for folder in folders)
