"""train_perceiver: features and a manifest -> a run with checkpoints."""

from __future__ import annotations

import dataclasses
import logging
import os
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from viper.commands.common import mean_and_std, over_seeds, report_scores
from viper.commands.feature_options import FeatureOptions
from viper.errors import UserError
from viper.files import check_own_folder, remove, sweep, write_json
from viper.logs import command_line, log, package_versions
from viper.manifest import Manifest
from viper.store import FeatureStore
from viper.task import Task, load_task, parse_loss
from viper.training import run_folder
from viper.training.options import (
    CHANNELS_LEARNING_RATE,
    CHANNELS_STEP_SIZE,
    LEARNING_RATES,
    TOKENS_LINEAR_SHARE,
    LoopOptions,
    ModelOptions,
)
from viper.training.run_folder import LOG_FILE, METRICS_FILE, SEEDS_FILE, STATE_FILE
from viper.training.run_records import SUMMARY_FILE, read_summary, summary_record

if TYPE_CHECKING:
    from collections.abc import Callable

    import torch

    from viper.evaluation.metrics import Scores
    from viper.fusion.perceiver import PerceiverFusion
    from viper.training.data import TrainingData
    from viper.training.linear import Predict
    from viper.training.recorder import Epoch, Recorder
    from viper.training.state import TrainingState

FIT_BATCH_SIZE = 64  # clips at once for the linear models; it does not change them


@dataclass(kw_only=True)
class TrainOptions(LoopOptions, ModelOptions, FeatureOptions):
    """Train a Perceiver on any subset of modalities, with the validation split to choose the best epoch."""

    csv_path: Path
    """The manifest: File_ID, Split (Train, Val, Test) and a column per target."""
    output_checkpoint_folder: Path
    """The run: config.yaml, metrics.csv, train.log, perceiver_<epoch>/ and best."""
    task: str = "hume_reaction"
    """The task: a card's name or path."""
    output_log_file: Path | None = None
    """Where the log goes: a file, which is replaced unless the run is resumed. By default train.log in the run."""
    loss: str | None = None
    """Loss: mse, l1, pearson, ccc, bce or kl (regression), ce (single_label), weighted_bce or bce (multi_label),
    plackett_luce or bradley_terry (preference), or a sum such as mse+0.5*ccc. By default the task's."""
    label_smoothing: float = 0.0
    """Share of a label that ce spreads over all classes, and bce moves to the middle of the range."""
    patience: int | None = None
    """Early stopping: stop after so many epochs without a better validation score. By default all epochs are run."""
    normalize: Literal["train", "group"] = "train"
    """Standardize features by the training split, or within groups of clips: no labels used, but the group's clips."""
    group_column: str | None = None
    """The manifest's column that names the group (subject, speaker), for --normalize group."""
    n_seeds: int = 1
    """Train so many times, with seeds from --seed on, each in its own seed_<n>/ of the run."""
    keep: Literal["all", "best"] = "all"
    """Keep every epoch's checkpoint, or only the best ones and the last."""
    resume: bool = False
    """Resume the run in the output folder after its last finished epoch; start it if there is none."""
    overwrite: bool = False
    """Replace a run that is already in the output folder."""


def run(options: TrainOptions) -> int:
    """Run the stage; return the exit code."""
    train(options)
    return 0


def renew(options: TrainOptions) -> int:
    """Resume the run in the output folder if it is this training and undamaged; else replace it."""
    # A run of an older version does not say of which data it was made.
    if (options.output_checkpoint_folder / run_folder.DATA_FILE).is_file():
        try:
            return run(dataclasses.replace(options, resume=True, overwrite=False))
        except run_folder.OtherRunError as error:
            log.info("%s", str(error).partition(";")[0])
    return run(dataclasses.replace(options, resume=False, overwrite=True))


def train(options: TrainOptions) -> None:
    """Train one run, or one for each of several seeds."""
    from viper.training.data import TrainingData

    options = _resolved(options)
    if not _is_first_process():
        log.setLevel(logging.WARNING)
    task = load_task(options.task)
    terms = parse_loss(options.loss or task.loss, task)
    if "bce" in terms and task.kind == "regression" and options.fusion == "channels":
        raise UserError("--loss bce: channels fusion has no bounded output for a regression; give --loss mse")
    manifest = Manifest.load(options.csv_path, task, options.id_separator())
    stores = options.stores()
    _check_modalities_agree(stores)
    data = TrainingData.load(manifest, stores, options.group_column)
    if options.n_seeds == 1:
        _run_one(options, task, data)
    else:
        _run_seeds(options, task, data)


def _run_seeds(options: TrainOptions, task: Task, data: TrainingData) -> None:
    folder = options.output_checkpoint_folder
    with _held(folder):
        if (folder / METRICS_FILE).exists() and not options.overwrite:
            raise UserError(f"{folder}: holds a run of one seed; give another folder, or --overwrite to replace it")
        if _is_first_process() and options.overwrite:
            run_folder.clear(folder)
        values: dict[str, list[float]] = {}
        seeds = list(range(options.seed, options.seed + options.n_seeds))
        for seed in seeds:
            check_own_folder(folder, f"seed_{seed}")
        for seed in seeds:
            log.info("seed %d, of %d to %d", seed, seeds[0], seeds[-1])
            one = dataclasses.replace(
                options, seed=seed, n_seeds=1, output_checkpoint_folder=folder / f"seed_{seed}", output_log_file=None
            )
            for metric, value in _run_one(one, task, data).items():
                values.setdefault(metric, []).append(value)
        if not _is_first_process():
            return
        scores = {metric: over_seeds(each) for metric, each in values.items()}
        write_json(folder / SEEDS_FILE, {"seeds": seeds, "Val": scores})
        for metric, each in values.items():
            log.info("%d seeds: Val %s %.4f ± %.4f", len(seeds), metric, *mean_and_std(each))


def _held(folder: Path) -> AbstractContextManager[None]:
    """Keep other trainings out of a folder; one of several processes does it for all."""
    return run_folder.held(folder) if _is_first_process() else nullcontext()


def _run_one(options: TrainOptions, task: Task, data: TrainingData) -> dict[str, float]:
    """Train one seed; return the best epoch's validation metrics. A finished run that is resumed is left as it is."""
    from viper.fusion.checkpoint import best_fingerprint, is_intact

    folder = options.output_checkpoint_folder
    summary = folder / SUMMARY_FILE
    packages = package_versions(run_folder.RECORDED_PACKAGES)
    description = run_folder.describe(options, data.training.stores, command_line(), packages)
    if options.resume and summary.is_file():
        run_folder.check_same(folder, description, data.record, TrainOptions)
        finished = read_summary(folder, task)
        if not is_intact(folder, finished.best_checkpoint):
            raise run_folder.OtherRunError(
                f"{folder}: its best checkpoint is not as it was written; --overwrite starts the run over"
            )
        log.info("%s: is finished", folder)
        return _means(finished.scores)
    with _held(folder):
        going_on = options.resume and run_folder.holds_run(folder)
        if going_on:
            run_folder.check_same(folder, description, data.record, TrainOptions)
        elif _is_first_process():
            run_folder.make_room(folder, options.overwrite)
        if _is_first_process():
            sweep(folder)
        try:
            if not going_on and _is_first_process():
                run_folder.start(folder, description, data.record)
            best, by_metric = _train_and_report(options, task, data, going_on)
        finally:
            # What stopped it is looked into and it is tried again: a folder without an epoch must not stand in the way.
            if _is_first_process() and not run_folder.holds_run(folder):
                with suppress(OSError):
                    run_folder.clear(folder)
        result = summary_record({m: epoch.number for m, epoch in by_metric.items()}, best.scores)
        if options.normalize == "group":
            result["standardised_within"] = options.group_column
        if _is_first_process():
            write_json(summary, {**result, "best_checkpoint": best_fingerprint(folder)})
            remove(folder / STATE_FILE)
        return _means(best.scores)


def _train_and_report(
    options: TrainOptions, task: Task, data: TrainingData, going_on: bool
) -> tuple[Epoch, dict[str, Epoch]]:
    """Train, and log the result, in the run's log too."""
    with run_folder.log_file(_log_path(options), append=going_on):
        stores = data.training.stores
        log.info("modalities: %s", ", ".join(f"{name} ({store.width})" for name, store in stores.items()))
        try:
            best, by_metric = _train(options, task, data, going_on)
        except KeyboardInterrupt:
            kept = (
                f"the epochs that were finished are in {options.output_checkpoint_folder}, and usable; "
                "--resume goes on, --overwrite starts over"
            )
            raise KeyboardInterrupt(kept) from None
        _report(options, best, by_metric)
    return best, by_metric


def _report(options: TrainOptions, best: Epoch, by_metric: dict[str, Epoch]) -> None:
    from viper.evaluation.metrics import METRICS

    for metric, epoch in by_metric.items():
        value = epoch.scores.selection_value(metric)
        log.info("best by validation %s: epoch %d (%.4f)", METRICS[metric].title, epoch.number, value)
    if options.normalize == "group":
        log.info("features were standardised within %s: report these scores apart", options.group_column)
    report_scores(best.scores, "Val")
    log.info("train_perceiver: %s/best -> perceiver_%d", options.output_checkpoint_folder, best.number)


def _means(scores: Scores) -> dict[str, float]:
    """Metric -> the value over all targets; an undefined one is nan."""
    return {metric: score.value for metric, score in scores.together.items()}


def _train(options: TrainOptions, task: Task, data: TrainingData, going_on: bool) -> tuple[Epoch, dict[str, Epoch]]:
    """Build the model and train it; return the best epoch, and the best by each metric."""
    from accelerate.utils import set_seed

    from viper.fusion.losses import alone
    from viper.training import loop
    from viper.training.data import OrderData
    from viper.training.linear import fit_linear_member
    from viper.training.recorder import Recorder
    from viper.training.state import TrainingState, threads_of

    folder, resumed = options.output_checkpoint_folder, None
    if going_on and (folder / STATE_FILE).is_file():
        resumed = TrainingState.load(folder)
        log.info("going on after epoch %d", resumed.record["epoch"])
    set_seed(options.seed)
    predict = _predictor()
    model = _make_model(options, task, data, resumed)
    if options.linear_share and resumed is None:
        strength = fit_linear_member(model, task, data.training, data.validation, predict)
        log.info("linear member: L2 penalty chosen on the validation split: %g", strength)
    recorder = Recorder(model, task, folder, options.keep, options.patience, _is_first_process())
    if options.fusion == "linear":
        _fit(model, task, data, recorder, predict)
    else:
        n_parameters = model.num_parameters()
        log.info("%s fusion, preset %s: %.1f M parameters", options.fusion, options.preset, n_parameters / 1e6)
        orders = "" if data.training.orders is None else f", by {len(data.training.orders)} pairs and lists"
        log.info("%d clips to train on%s; %d to validate", len(data.training), orders, len(data.validation))
        examples = data.training if data.training.orders is None else OrderData(data.training)
        validate = _validator(task, data, options.batch_size)
        with threads_of(resumed):
            loop.train(model, examples, examples.collate, options, validate, recorder, folder, resumed, alone)
    return recorder.best(task.metrics[0]), recorder.best_by_metric()


def _predictor() -> Predict:
    """Return what the linear models are fitted with: predictions on the CPU."""
    import torch

    from viper.inference.stored import predict

    return lambda model, data: predict(model, data, FIT_BATCH_SIZE, torch.device("cpu"))


def _validator(task: Task, data: TrainingData, batch_size: int) -> Callable[[torch.nn.Module], Scores]:
    """Return what scores a model on the validation split; several processes share its clips."""
    import numpy as np
    import torch
    from accelerate import PartialState
    from accelerate.utils import gather

    from viper.evaluation.metrics import evaluate
    from viper.inference.stored import predict, predict_views
    from viper.logs import without_warnings

    processes, validation = PartialState(), data.validation

    def validate(model: Any) -> Scores:
        device = next(model.parameters()).device
        with without_warnings():  # the clips without features have been named
            if processes.num_processes == 1:
                predictions = predict(model, validation, batch_size, device)
            else:
                n = -(-len(validation) // processes.num_processes)
                rows = np.arange(n * processes.process_index, n * (processes.process_index + 1))
                own = np.minimum(rows, len(validation) - 1).tolist()
                seen = {"all": np.ones((n, len(validation.stores)), bool)}
                share = batch_size // processes.num_processes
                found = predict_views(model, validation, seen, share, device, own)["all"]
                predictions = gather(torch.from_numpy(found).to(device)).cpu().numpy()[: len(validation)]
        return evaluate(task, predictions, validation.truth)

    return validate


def _fit(model: PerceiverFusion, task: Task, data: TrainingData, recorder: Recorder, predict: Predict) -> None:
    """Fit the linear fusion, which has a solver instead of epochs: its run has one."""
    from viper.evaluation.metrics import evaluate
    from viper.training.linear import fit_linear

    strength = fit_linear(model, task, data.training, data.validation, predict)
    log.info("L2 penalty chosen on the validation split: %g", strength)
    predictions = predict(model, data.validation)
    recorder.record(1, float("nan"), evaluate(task, predictions, data.validation.truth))


def _make_model(
    options: TrainOptions, task: Task, data: TrainingData, resumed: TrainingState | None
) -> PerceiverFusion:
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
            fusion=options.fusion,
            preset=options.preset,
            modalities=modalities,
            task=task.to_dict(),
            n_tokens=training.max_tokens() if options.fusion == "channels" else None,
            loss=parse_loss(options.loss or task.loss, task),
            label_smoothing=options.label_smoothing,
            pos_weight=label_weights(training.labels) if task.kind == "multi_label" else None,
            linear_share=options.linear_share or 0.0,
            group_column=options.group_column,
            training_data=data.counts(),
            **options.sizes(),
        )
    except ValueError as error:
        raise UserError(str(error)) from None
    model = PerceiverFusion(settings)
    # The published layout was trained on features as they come. Statistics within groups are in the data already, and
    # those of a resumed run are in its state.
    if options.fusion != "channels" and options.normalize == "train" and resumed is None:
        model.set_normalization(training.statistics())
    if options.fusion == "mlp" and resumed is None:
        from viper.training.linear import set_pooling_statistics

        set_pooling_statistics(model, training, _predictor())
    return model


def _resolved(options: TrainOptions) -> TrainOptions:
    """Return the options with every default that depends on another one; a wrong number is a UserError."""
    options.check()
    for name in ("n_seeds", "patience"):
        value = getattr(options, name)
        if value is not None and value < 1:
            raise UserError(f"--{name} {value}: must be at least 1")
    if (options.normalize == "group") != (options.group_column is not None):
        raise UserError("--normalize group and --group_column COLUMN go together")
    if options.linear_share and options.fusion == "linear":
        raise UserError("--linear_share: --fusion linear is that linear model already")
    if options.resume and options.overwrite:
        raise UserError("--resume and --overwrite exclude each other")
    is_channels = options.fusion == "channels"
    preset = options.preset or ("paper" if is_channels else "small")
    linear_share = TOKENS_LINEAR_SHARE if options.fusion == "tokens" else 0.0
    learning_rate = CHANNELS_LEARNING_RATE if is_channels else LEARNING_RATES[preset]
    return dataclasses.replace(
        options,
        preset=preset,
        linear_share=linear_share if options.linear_share is None else options.linear_share,
        learning_rate=learning_rate if options.learning_rate is None else options.learning_rate,
        step_size=CHANNELS_STEP_SIZE if is_channels and options.step_size is None else options.step_size,
    )


def _log_path(options: TrainOptions) -> Path | None:
    if not _is_first_process():
        return None
    return options.output_log_file or options.output_checkpoint_folder / LOG_FILE


def _is_first_process() -> bool:
    """Return whether this is the one of several processes (torchrun, accelerate launch) that writes."""
    return int(os.environ.get("RANK", 0)) == 0


def _check_modalities_agree(stores: dict[str, FeatureStore]) -> None:
    for name, store in stores.items():
        if store.info.modality in ("visual", "audio", "textual", "FAU") and store.info.modality != name:
            log.warning("%s: holds %s features, used here as %s", store.folder, store.info.modality, name)
