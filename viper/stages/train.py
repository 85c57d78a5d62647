"""train_perceiver: features and a manifest -> a run with checkpoints."""

from __future__ import annotations

import dataclasses
import logging
import platform
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import yaml

import viper
from viper.errors import UserError
from viper.files import remove, write_json, write_text
from viper.manifest import Manifest
from viper.stages.common import log, package_versions, report_scores
from viper.stages.features import FeatureOptions
from viper.store import FeatureStore
from viper.task import Task, load_task

if TYPE_CHECKING:
    from viper.fusion.data import FusionData
    from viper.fusion.train import Epoch

CONFIG_FILE = "config.yaml"
SUMMARY_FILE = "summary.json"
LOG_FILE = "train.log"
RECORDED_PACKAGES = ("torch", "transformers", "accelerate", "numpy", "safetensors")

# What suits each preset of the tokens fusion; the published recipe is that of `channels`.
LEARNING_RATES = {"tiny": 2e-3, "small": 5e-4, "base": 2e-4, "paper": 1e-4}
CHANNELS_LEARNING_RATE, CHANNELS_STEP_SIZE = 1e-5, 5


@dataclass(kw_only=True)
class TrainConfig(FeatureOptions):
    """Train a Perceiver on any subset of modalities, with the validation split to choose the best epoch."""

    csv_path: Path
    """The manifest: File_ID, Split (Train, Val, Test) and a column per target."""
    output_checkpoint_folder: Path
    """The run: config.yaml, metrics.csv, train.log, perceiver_<epoch>/ and best."""
    task: str = "hume_reaction"
    """The task: a card's name or path."""
    output_log_file: Path | None = None
    """Where the log goes. By default train.log in the run."""
    n_epochs: int = 30
    """Passes over the training split."""
    batch_size: int = 16
    """Clips a step."""
    learning_rate: float | None = None
    """By default 1e-5 for channels; for tokens 2e-3 (tiny), 5e-4 (small), 2e-4 (base), 1e-4 (paper)."""
    step_size: int | None = None
    """Halve the learning rate every so many epochs. By default 5 for channels; warm-up and cosine for tokens."""
    weight_decay: float = 0.01
    """AdamW's, of matrices only."""
    log_steps: int = 50
    """Steps between two lines of training loss."""
    seed: int = 0
    """Of the initial weights, the order of clips and dropout."""
    fusion: Literal["tokens", "channels"] = "tokens"
    """tokens: any subset, any number of tokens. channels: the published layout."""
    preset: Literal["tiny", "small", "base", "paper"] | None = None
    """Size of the model. By default small for tokens, paper for channels."""
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    """Where to train. Which of several GPUs is said by CUDA_VISIBLE_DEVICES."""
    keep: Literal["all", "best"] = "all"
    """Keep every epoch's checkpoint, or only the best ones and the last."""
    overwrite: bool = False
    """Replace a run that is already in the output folder."""


def run(config: TrainConfig) -> int:
    """Runs the stage; answers the exit code."""
    config = _resolved(config)
    task = load_task(config.task)
    manifest = Manifest.load(config.csv_path, task)
    stores = config.stores()
    _check_modalities_agree(stores)
    training = _labelled(manifest, "Train", stores)
    validation = _labelled(manifest, "Val", stores)
    folder = _new_run_folder(config)
    with _log_file(config.output_log_file or folder / LOG_FILE):
        write_text(folder / CONFIG_FILE, yaml.safe_dump(_describe(config, stores), sort_keys=False, allow_unicode=True))
        log.info("modalities: %s", ", ".join(f"{name} ({store.width})" for name, store in stores.items()))
        try:
            best, by_metric = _train(config, task, training, validation, folder)
        except KeyboardInterrupt:
            kept = f"the epochs that were finished are in {folder}, and usable; --overwrite starts over"
            raise KeyboardInterrupt(kept) from None
        log.info("best by validation Pearson: epoch %d (%.4f); by MSE: epoch %d (%.5f)",
                 by_metric["pearson"].number, by_metric["pearson"].scores.selection_value("pearson"),
                 by_metric["mse"].number, by_metric["mse"].scores.selection_value("mse"))  # fmt: skip
        report_scores(best.scores, "Val")
        log.info("train_perceiver: %s/best -> perceiver_%d", folder, best.number)
        write_json(
            folder / SUMMARY_FILE,
            {"best_epoch": {metric: epoch.number for metric, epoch in by_metric.items()}, **best.scores.to_dict()},
        )
    return 0


def _train(
    config: TrainConfig, task: Task, training: FusionData, validation: FusionData, folder: Path
) -> tuple[Epoch, dict[str, Epoch]]:
    """Builds the model and trains it. transformers is imported here, and not above, so that --help is quick."""
    from transformers import set_seed

    from viper.fusion.perceiver import PerceiverFusion, PerceiverFusionConfig
    from viper.fusion.train import TrainOptions, train

    set_seed(config.seed)
    modalities = {
        name: {"width": store.width, "encoder": dataclasses.asdict(store.info)}
        for name, store in training.stores.items()
    }
    n_tokens = training.max_tokens() if config.fusion == "channels" else None
    model = PerceiverFusion(
        PerceiverFusionConfig(
            fusion=config.fusion, preset=config.preset, modalities=modalities, task=task.to_dict(), n_tokens=n_tokens
        )
    )
    if config.fusion == "tokens":
        model.set_normalization(training.statistics())
    n_parameters = sum(parameter.numel() for parameter in model.parameters())
    log.info("%s fusion, preset %s: %.1f M parameters", config.fusion, config.preset, n_parameters / 1e6)
    log.info("%d clips to train on, %d to validate", len(training), len(validation))
    assert config.learning_rate is not None
    options = TrainOptions(
        config.n_epochs, config.batch_size, config.learning_rate, config.step_size, config.weight_decay,
        config.log_steps, config.seed, config.device, config.keep,
    )  # fmt: skip
    return train(model, task, training, validation, folder, options)


def _resolved(config: TrainConfig) -> TrainConfig:
    """The config with every default that depends on another option filled in; a wrong number is a UserError."""
    for name in ("n_epochs", "batch_size", "log_steps"):
        if getattr(config, name) < 1:
            raise UserError(f"--{name} {getattr(config, name)}: must be at least 1")
    if config.step_size is not None and config.step_size < 1:
        raise UserError(f"--step_size {config.step_size}: must be at least 1")
    is_channels = config.fusion == "channels"
    preset = config.preset or ("paper" if is_channels else "small")
    learning_rate = CHANNELS_LEARNING_RATE if is_channels else LEARNING_RATES[preset]
    return dataclasses.replace(
        config,
        preset=preset,
        learning_rate=learning_rate if config.learning_rate is None else config.learning_rate,
        step_size=CHANNELS_STEP_SIZE if is_channels and config.step_size is None else config.step_size,
    )


def _check_modalities_agree(stores: dict[str, FeatureStore]) -> None:
    for name, store in stores.items():
        if store.info.modality in ("visual", "audio", "textual", "FAU") and store.info.modality != name:
            log.warning("%s: holds %s features, used here as %s", store.folder, store.info.modality, name)


def _labelled(manifest: Manifest, split: str, stores: dict[str, FeatureStore]) -> FusionData:
    from viper.fusion.data import FusionData

    rows = manifest.split(split).labelled()
    if not rows.clips:
        raise UserError(f"{manifest.path}: no row of the split {split} has a label")
    data = FusionData(stores, rows)
    data.report_missing(split)
    return data


def _new_run_folder(config: TrainConfig) -> Path:
    from viper.fusion.checkpoint import BEST, remove_other_checkpoints
    from viper.fusion.train import METRICS_FILE

    folder = config.output_checkpoint_folder
    if (folder / CONFIG_FILE).exists():
        if not config.overwrite:
            raise UserError(f"{folder}: holds a run already; give another folder, or --overwrite to replace it")
        # Only what a run consists of: whatever else somebody keeps in this folder stays.
        remove_other_checkpoints(folder, keep=set())
        for name in (CONFIG_FILE, METRICS_FILE, SUMMARY_FILE, LOG_FILE, BEST):
            remove(folder / name)
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _describe(config: TrainConfig, stores: dict[str, FeatureStore]) -> dict[str, Any]:
    """All that is needed to make the run again."""
    options = {name: str(v) if isinstance(v, Path) else v for name, v in dataclasses.asdict(config).items()}
    versions = {
        "viper": viper.__version__, "python": platform.python_version(), **package_versions(RECORDED_PACKAGES),
    }  # fmt: skip
    encoders = {name: dataclasses.asdict(store.info) for name, store in stores.items()}
    return {"options": options, "encoders": encoders, "versions": versions, "git_revision": _git_revision()}


def _git_revision() -> str | None:
    """The revision of viper's checkout; None where it was installed without one."""
    try:
        answer = subprocess.run(
            ["git", "rev-parse", "HEAD"], cwd=Path(viper.__file__).parent, capture_output=True, text=True, timeout=10
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return answer.stdout.strip() or None


@contextmanager
def _log_file(path: Path) -> Iterator[None]:
    path.parent.mkdir(parents=True, exist_ok=True)
    handler = logging.FileHandler(path, mode="w", encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s"))
    log.addHandler(handler)
    try:
        yield
    finally:
        log.removeHandler(handler)
        handler.close()
