"""train_perceiver: features and a manifest -> a run with checkpoints."""

from __future__ import annotations

import dataclasses
import logging
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from viper.commands.common import log, mean_and_std, over_seeds, report_scores
from viper.commands.feature_options import FeatureOptions
from viper.commands.model_options import ModelOptions
from viper.errors import ClipError, UserError
from viper.files import read_json, remove, sweep, write_json
from viper.manifest import Manifest
from viper.store import FeatureStore
from viper.task import Task, load_task, parse_loss
from viper.training import run_folder
from viper.training.run_folder import CONFIG_FILE, LOG_FILE, SEEDS_FILE, SUMMARY_FILE
from viper.training.training_data import TrainingData

if TYPE_CHECKING:
    from viper.fusion.perceiver import PerceiverFusion
    from viper.training.recorder import Epoch
    from viper.training.state import TrainingState

# What suits each preset; the published recipe is that of `channels`.
LEARNING_RATES = {"tiny": 2e-3, "small": 5e-4, "base": 2e-4, "paper": 1e-4}
CHANNELS_LEARNING_RATE, CHANNELS_STEP_SIZE = 1e-5, 5
TOKENS_LINEAR_SHARE = 0.5


@dataclass(kw_only=True)
class TrainOptions(ModelOptions, FeatureOptions):
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
    """Clips a step, of all processes together; of a preference task, pairs and lists."""
    learning_rate: float | None = None
    """By default 1e-5 for channels; for the others 2e-3 (tiny), 5e-4 (small), 2e-4 (base), 1e-4 (paper)."""
    step_size: int | None = None
    """Halve the learning rate every so many epochs. By default 5 for channels; warm-up and cosine for the others."""
    weight_decay: float = 0.01
    """AdamW's, of matrices only."""
    loss: str | None = None
    """What is minimised: mse, l1, pearson, ccc, bce or kl (regression), ce (single_label), weighted_bce or bce
    (multi_label), plackett_luce or bradley_terry (preference), or a sum such as mse+0.5*ccc. By default the task's."""
    label_smoothing: float = 0.0
    """Share of a label that ce spreads over all classes, and bce moves to the middle of the range."""
    ema: float = 0.0
    """Decay, such as 0.99, of a running average of the weights, which is what is validated and saved then."""
    max_grad_norm: float = 1.0
    """Longer gradients are scaled down to this norm; 0 leaves them as they are."""
    patience: int | None = None
    """Stop after so many epochs without a better validation score. By default all epochs are run."""
    normalize: Literal["train", "group"] = "train"
    """Standardise features by the training split, or within groups of clips: no labels used, but the group's clips."""
    group_column: str | None = None
    """The manifest's column that names the group (subject, speaker), for --normalize group."""
    precision: Literal["auto", "float32", "bf16"] = "auto"
    """Of matrix products. auto: bf16 on a GPU that has it, else float32."""
    compile: bool = False
    """Compile the model first: minutes at the start, faster steps after."""
    log_steps: int = 50
    """Steps between two lines of training loss."""
    report_to: list[str] = field(default_factory=list)
    """Also log to these: tensorboard, wandb, or any other the Trainer knows."""
    seed: int = 0
    """Of the initial weights, the order of clips and dropout."""
    n_seeds: int = 1
    """Train so many times, with seeds from --seed on, each in its own seed_<n>/ of the run."""
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    """Where to train. Which of several GPUs is said by CUDA_VISIBLE_DEVICES."""
    keep: Literal["all", "best"] = "all"
    """Keep every epoch's checkpoint, or only the best ones and the last."""
    resume: bool = False
    """Go on with the run in the output folder after its last finished epoch; start it where there is none."""
    overwrite: bool = False
    """Replace a run that is already in the output folder."""


def run(config: TrainOptions) -> int:
    """Runs the stage; answers the exit code."""
    config = _resolved(config)
    if not _is_first_process():
        log.setLevel(logging.WARNING)
    task = load_task(config.task)
    terms = parse_loss(config.loss or task.loss, task)
    if "bce" in terms and task.kind == "regression" and config.fusion == "channels":
        raise UserError(
            "--loss bce: of a regression, channels fusion has no bounded output to take it; give --loss mse"
        )
    manifest = Manifest.load(config.csv_path, task)
    stores = config.stores()
    _check_modalities_agree(stores)
    data = TrainingData.load(manifest, stores, config.group_column)
    if config.n_seeds == 1:
        _run_one(config, task, data)
    else:
        _run_seeds(config, task, data)
    return 0


def _run_seeds(config: TrainOptions, task: Task, data: TrainingData) -> None:
    folder = config.output_checkpoint_folder
    if (folder / CONFIG_FILE).exists() and not config.overwrite:
        raise UserError(f"{folder}: holds a run of one seed; give another folder, or --overwrite to replace it")
    if _is_first_process() and config.overwrite:
        run_folder.clear(folder)
    values: dict[str, list[float]] = {}
    seeds = list(range(config.seed, config.seed + config.n_seeds))
    for seed in seeds:
        log.info("seed %d, of %d to %d", seed, seeds[0], seeds[-1])
        one = dataclasses.replace(
            config, seed=seed, n_seeds=1, output_checkpoint_folder=folder / f"seed_{seed}", output_log_file=None
        )
        for metric, value in _run_one(one, task, data).items():
            values.setdefault(metric, []).append(value)
    if not _is_first_process():
        return
    scores = {metric: over_seeds(each) for metric, each in values.items()}
    write_json(folder / SEEDS_FILE, {"seeds": seeds, "Val": scores})
    for metric, each in values.items():
        log.info("%d seeds: Val %s %.4f ± %.4f", len(seeds), metric, *mean_and_std(each))


def _run_one(config: TrainOptions, task: Task, data: TrainingData) -> dict[str, float]:
    """One seed; answers the best epoch's validation metrics. A finished run that is resumed is left as it is."""
    folder = config.output_checkpoint_folder
    summary = folder / SUMMARY_FILE
    going_on = config.resume and (folder / CONFIG_FILE).exists()
    description = run_folder.describe(config, data.training.stores, data.manifest)
    if going_on:
        run_folder.check_same(folder, description)
        if summary.is_file():
            log.info("%s: is finished", folder)
            return _means(read_json(summary))
        if _is_first_process():
            sweep(folder)
    elif _is_first_process():
        run_folder.start(folder, description, config.overwrite)
    try:
        best, by_metric = _train_and_report(config, task, data, going_on)
    except (UserError, ClipError):
        # What a user can mend is mended and tried again; a folder without an epoch must not stand in the way.
        if _is_first_process() and not any(folder.glob("perceiver_*")):
            run_folder.clear(folder)
        raise
    result = {"best_epoch": {m: epoch.number for m, epoch in by_metric.items()}, **best.scores.to_dict()}
    if config.normalize == "group":
        result["standardised_within"] = config.group_column
    if _is_first_process():
        from viper.training.state import STATE_FILE

        write_json(summary, result)
        remove(folder / STATE_FILE)
    return _means(result)


def _train_and_report(
    config: TrainOptions, task: Task, data: TrainingData, going_on: bool
) -> tuple[Epoch, dict[str, Epoch]]:
    """Trains, and says what came of it, in the run's log too."""
    with run_folder.log_file(_log_path(config), append=going_on):
        stores = data.training.stores
        log.info("modalities: %s", ", ".join(f"{name} ({store.width})" for name, store in stores.items()))
        try:
            best, by_metric = _train(config, task, data, going_on)
        except KeyboardInterrupt:
            kept = (
                f"the epochs that were finished are in {config.output_checkpoint_folder}, and usable; "
                "--resume goes on, --overwrite starts over"
            )
            raise KeyboardInterrupt(kept) from None
        _report(config, best, by_metric)
    return best, by_metric


def _report(config: TrainOptions, best: Epoch, by_metric: dict[str, Epoch]) -> None:
    from viper.evaluation.metrics import METRICS

    for metric, epoch in by_metric.items():
        value = epoch.scores.selection_value(metric)
        log.info("best by validation %s: epoch %d (%.4f)", METRICS[metric].title, epoch.number, value)
    if config.normalize == "group":
        log.info("features were standardised within %s: report these scores apart", config.group_column)
    report_scores(best.scores, "Val")
    log.info("train_perceiver: %s/best -> perceiver_%d", config.output_checkpoint_folder, best.number)


def _means(summary: dict[str, Any]) -> dict[str, float]:
    """Metric -> the value over all targets; an undefined one is nan."""
    return {metric: float("nan") if s["value"] is None else s["value"] for metric, s in summary["mean"].items()}


def _train(config: TrainOptions, task: Task, data: TrainingData, going_on: bool) -> tuple[Epoch, dict[str, Epoch]]:
    """Builds the model and trains it. transformers is imported here, and not above, so that --help is quick."""
    from transformers import set_seed

    from viper.training.loop import LoopOptions, train
    from viper.training.state import STATE_FILE, TrainingState

    folder, resumed = config.output_checkpoint_folder, None
    if going_on and (folder / STATE_FILE).is_file():
        resumed = TrainingState.load(folder)
        log.info("going on after epoch %d", len(resumed.record["epochs"]))
    set_seed(config.seed)
    model = _make_model(config, task, data, resumed)
    if config.linear_share and resumed is None:
        from viper.training.linear import fit_linear_member

        strength = fit_linear_member(model, task, data.training, data.validation)
        log.info("linear member: L2 penalty chosen on the validation split: %g", strength)
    if config.fusion == "linear":
        return _fit(model, task, data, folder)
    n_parameters = sum(parameter.numel() for parameter in model.parameters())
    log.info("%s fusion, preset %s: %.1f M parameters", config.fusion, config.preset, n_parameters / 1e6)
    orders = "" if data.training.orders is None else f", by {len(data.training.orders)} pairs and lists"
    log.info("%d clips to train on%s; %d to validate", len(data.training), orders, len(data.validation))
    assert config.learning_rate is not None
    options = LoopOptions(
        n_epochs=config.n_epochs,
        batch_size=config.batch_size,
        learning_rate=config.learning_rate,
        step_size=config.step_size,
        weight_decay=config.weight_decay,
        log_steps=config.log_steps,
        seed=config.seed,
        device=config.device,
        keep=config.keep,
        ema=config.ema,
        max_grad_norm=config.max_grad_norm,
        patience=config.patience,
        bf16=_is_bf16(config),
        compile=config.compile,
        report_to=tuple(config.report_to),
    )
    return train(model, task, data.training, data.validation, folder, options, resumed)


def _make_model(config: TrainOptions, task: Task, data: TrainingData, resumed: TrainingState | None) -> PerceiverFusion:
    from viper.fusion.losses import label_weights
    from viper.fusion.perceiver import PerceiverFusion, PerceiverFusionConfig

    training = data.training
    # A checkpoint may be given away: what was typed where, which nobody needs who uses it, stays with the features.
    modalities = {
        name: {
            "width": store.width,
            "encoder": dataclasses.asdict(dataclasses.replace(store.info, input_folder="", command="")),
        }
        for name, store in training.stores.items()
    }
    try:
        settings = PerceiverFusionConfig(
            fusion=config.fusion,
            preset=config.preset,
            modalities=modalities,
            task=task.to_dict(),
            n_tokens=training.max_tokens() if config.fusion == "channels" else None,
            loss=parse_loss(config.loss or task.loss, task),
            label_smoothing=config.label_smoothing,
            pos_weight=label_weights(training.labels) if task.kind == "multi_label" else None,
            linear_share=config.linear_share or 0.0,
            group_column=config.group_column,
            training_data=data.counts(),
            **config.sizes(),
        )
    except ValueError as error:
        raise UserError(str(error)) from None
    model = PerceiverFusion(settings)
    # The published layout was trained on features as they come. Statistics within groups are in the data already, and
    # those of a resumed run are in its state.
    if config.fusion != "channels" and config.normalize == "train" and resumed is None:
        model.set_normalization(training.statistics())
    if config.fusion == "mlp" and resumed is None:
        from viper.training.linear import set_pooling_statistics

        set_pooling_statistics(model, training)
    return model


def _fit(model: PerceiverFusion, task: Task, data: TrainingData, folder: Path) -> tuple[Epoch, dict[str, Epoch]]:
    """The linear fusion has a solver instead of epochs: its run has one."""
    import torch

    from viper.evaluation.metrics import evaluate
    from viper.fusion.checkpoint import point_best, save_checkpoint
    from viper.inference.stored import predict
    from viper.training.linear import BATCH_SIZE, fit_linear
    from viper.training.recorder import Epoch, write_metrics

    strength = fit_linear(model, task, data.training, data.validation)
    log.info("L2 penalty chosen on the validation split: %g", strength)
    predictions = predict(model, data.validation, BATCH_SIZE, torch.device("cpu"))
    epoch = Epoch(1, float("nan"), evaluate(task, predictions, data.validation.truth))
    if _is_first_process():
        model.config.evaluation = epoch.to_evaluation()
        save_checkpoint(folder, 1, model)
        point_best(folder, 1)
        write_metrics(folder, [epoch])
    return epoch, dict.fromkeys(epoch.scores.together, epoch)


def _is_bf16(config: TrainOptions) -> bool:
    from viper.engine.device import choose_device, has_bf16

    if config.precision != "auto":
        return config.precision == "bf16"
    device = choose_device(config.device)
    return device.type == "cuda" and has_bf16(device)


def _resolved(config: TrainOptions) -> TrainOptions:
    """The config with every default that depends on another option filled in; a wrong number is a UserError."""
    for name in ("n_epochs", "batch_size", "log_steps", "n_seeds", "step_size", "patience"):
        value = getattr(config, name)
        if value is not None and value < 1:
            raise UserError(f"--{name} {value}: must be at least 1")
    if not 0 <= config.ema < 1:
        raise UserError(f"--ema {config.ema}: must be at least 0 and below 1")
    if (config.normalize == "group") != (config.group_column is not None):
        raise UserError("--normalize group and --group_column COLUMN go together")
    if config.linear_share and config.fusion == "linear":
        raise UserError("--linear_share: --fusion linear is that linear model already")
    if config.resume and config.overwrite:
        raise UserError("--resume and --overwrite exclude each other")
    is_channels = config.fusion == "channels"
    preset = config.preset or ("paper" if is_channels else "small")
    linear_share = TOKENS_LINEAR_SHARE if config.fusion == "tokens" else 0.0
    learning_rate = CHANNELS_LEARNING_RATE if is_channels else LEARNING_RATES[preset]
    return dataclasses.replace(
        config,
        preset=preset,
        linear_share=linear_share if config.linear_share is None else config.linear_share,
        learning_rate=learning_rate if config.learning_rate is None else config.learning_rate,
        step_size=CHANNELS_STEP_SIZE if is_channels and config.step_size is None else config.step_size,
    )


def _log_path(config: TrainOptions) -> Path:
    if not _is_first_process():
        return Path(os.devnull)
    return config.output_log_file or config.output_checkpoint_folder / LOG_FILE


def _is_first_process() -> bool:
    """Whether this is the one of several processes (torchrun, accelerate launch) that writes."""
    return int(os.environ.get("RANK", 0)) == 0


def _check_modalities_agree(stores: dict[str, FeatureStore]) -> None:
    for name, store in stores.items():
        if store.info.modality in ("visual", "audio", "textual", "FAU") and store.info.modality != name:
            log.warning("%s: holds %s features, used here as %s", store.folder, store.info.modality, name)
