"""Training on transformers' Trainer: what is particular to this project is when to save, what is best, and the log."""

from __future__ import annotations

import csv
import logging
import math
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_callback import PrinterCallback, ProgressCallback
from transformers.trainer_utils import EvalPrediction

from viper.errors import NothingDoneError
from viper.evaluation.metrics import METRICS, Scores, evaluate
from viper.fusion.checkpoint import point_best, remove_other_checkpoints, save_checkpoint
from viper.fusion.data import FusionData
from viper.fusion.perceiver import PerceiverFusion
from viper.task import Task

log = logging.getLogger("viper")

METRICS_FILE = "metrics.csv"
WARM_UP_SHARE = 0.1


@dataclass(frozen=True)
class TrainOptions:
    """How a model is trained; everything resolved.

    Attributes
    ----------
    step_size : epochs after which the learning rate is halved, over and over (the published StepLR); None: a linear
        warm-up over the first tenth of the steps, then half a cosine down to zero.
    weight_decay : of matrices only; biases, norms and learned queries are left free.
    keep : "all" epochs' checkpoints, or only the "best" ones and the last.
    """

    n_epochs: int
    batch_size: int
    learning_rate: float
    step_size: int | None
    weight_decay: float
    log_steps: int
    seed: int
    device: str
    keep: str


@dataclass(frozen=True)
class Epoch:
    """One epoch: its number, its mean training loss, its scores on the validation split."""

    number: int
    loss: float
    scores: Scores


def train(
    model: PerceiverFusion, task: Task, training: FusionData, validation: FusionData, run: Path, options: TrainOptions
) -> tuple[Epoch, dict[str, Epoch]]:
    """Trains a model, writes the run's checkpoints and metrics.csv.

    Returns
    -------
    The best epoch by the task's first metric, and the best by each metric.
    """
    recorder = _Recorder(model, task, run, options.keep)
    with tempfile.TemporaryDirectory() as scratch:
        # The Trainer's own checkpoints hold pickles, so it saves none; the recorder writes each epoch's.
        arguments = TrainingArguments(
            output_dir=scratch,
            num_train_epochs=options.n_epochs,
            per_device_train_batch_size=options.batch_size,
            per_device_eval_batch_size=options.batch_size,
            learning_rate=options.learning_rate,
            max_grad_norm=1.0,
            eval_strategy="epoch",
            save_strategy="no",
            logging_strategy="steps",
            logging_steps=options.log_steps,
            report_to=[],
            seed=options.seed,
            data_seed=options.seed,
            use_cpu=options.device == "cpu",
            remove_unused_columns=False,
            label_names=["labels"],
            disable_tqdm=True,
            dataloader_pin_memory=torch.cuda.is_available(),
        )
        # Several visible GPUs would be used by copying the model to each; one process drives one.
        arguments._n_gpu = min(arguments.n_gpu, 1)
        optimizer = make_optimizer(model, options.learning_rate, options.weight_decay)
        steps_per_epoch = math.ceil(len(training) / options.batch_size)
        trainer = _Trainer(
            recorder.losses,
            model=model,
            args=arguments,
            data_collator=training.collate,
            train_dataset=training,
            eval_dataset=validation,
            compute_metrics=recorder.compute_metrics,
            optimizers=(optimizer, make_schedule(optimizer, options, steps_per_epoch)),
            callbacks=[recorder, *([_Bar()] if sys.stderr.isatty() else [])],
        )
        # The Trainer's default prints raw dictionaries; the recorder says the same better.
        trainer.pop_callback(PrinterCallback)
        trainer.train()
    if not recorder.best:
        raise NothingDoneError("training ended without a single epoch")
    return recorder.best[task.metrics[0]], recorder.best


def make_optimizer(model: torch.nn.Module, learning_rate: float, weight_decay: float) -> torch.optim.AdamW:
    """AdamW that decays the weights of linear maps only."""
    matrices = {id(m.weight) for m in model.modules() if isinstance(m, torch.nn.Linear)}
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    groups = [
        {"params": [p for p in parameters if id(p) in matrices], "weight_decay": weight_decay},
        {"params": [p for p in parameters if id(p) not in matrices], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=learning_rate)


def make_schedule(
    optimizer: torch.optim.Optimizer, options: TrainOptions, steps_per_epoch: int
) -> torch.optim.lr_scheduler.LambdaLR:
    """The learning rate by optimiser step: StepLR x 0.5 in epochs, or warm-up and cosine."""
    n_steps = options.n_epochs * steps_per_epoch
    n_warm_up = max(1, round(WARM_UP_SHARE * n_steps))

    def factor(step: int) -> float:
        if options.step_size is not None:
            return 0.5 ** (step // steps_per_epoch // options.step_size)
        if step < n_warm_up:
            return (step + 1) / n_warm_up
        return 0.5 * (1 + math.cos(math.pi * (step - n_warm_up) / max(1, n_steps - n_warm_up)))

    return torch.optim.lr_scheduler.LambdaLR(optimizer, factor)


class _Recorder(TrainerCallback):
    """After every epoch: scores, a row of metrics.csv, a checkpoint, and `best`."""

    def __init__(self, model: PerceiverFusion, task: Task, run: Path, keep: str) -> None:
        self._model, self._task, self._run, self._keep = model, task, run, keep
        self.losses: list[torch.Tensor] = []
        self._scores: Scores | None = None
        self.best: dict[str, Epoch] = {}

    def compute_metrics(self, prediction: EvalPrediction) -> dict[str, float]:
        """For the Trainer, which wants numbers; the scores behind them are kept for on_evaluate."""
        self._scores = evaluate(self._task, np.asarray(prediction.predictions), np.asarray(prediction.label_ids))
        return {metric: self._scores.selection_value(metric) for metric in METRICS}

    def on_log(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, logs: Any = None, **kwargs: Any
    ) -> None:
        """Says the training loss now and then."""
        if logs and "loss" in logs:
            log.info("epoch %5.2f  training loss %.5f  learning rate %.2e", logs["epoch"], float(logs["loss"]),
                     logs["learning_rate"])  # fmt: skip

    def on_evaluate(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Records an epoch."""
        assert self._scores is not None
        epoch = Epoch(round(state.epoch or 0), float(torch.stack(self.losses).mean()), self._scores)
        self.losses.clear()
        save_checkpoint(self._run, epoch.number, self._model)
        for metric, direction in METRICS.items():
            value = epoch.scores.selection_value(metric)
            old = self.best[metric].scores.selection_value(metric) if metric in self.best else None
            if old is None or (value > old if direction == "maximise" else value < old):
                self.best[metric] = epoch
        point_best(self._run, self.best[self._task.metrics[0]].number)
        if self._keep == "best":
            remove_other_checkpoints(self._run, {epoch.number, *(best.number for best in self.best.values())})
        self._write_row(epoch)
        per_target = "  ".join(
            f"{target} {score.value:.3f}" for target, score in epoch.scores.targets["pearson"].items()
        )
        log.info("epoch %d  validation Pearson %.4f  MSE %.5f  (%s)", epoch.number,
                 epoch.scores.selection_value("pearson"), epoch.scores.selection_value("mse"), per_target)  # fmt: skip

    def _write_row(self, epoch: Epoch) -> None:
        path = self._run / METRICS_FILE
        targets = {f"{metric}_{target}": score.value for metric, scores in epoch.scores.targets.items()
                   for target, score in scores.items()}  # fmt: skip
        means = {metric: epoch.scores.selection_value(metric) for metric in METRICS}
        row = {"epoch": epoch.number, "training_loss": epoch.loss, "n_clips": epoch.scores.n_clips, **means, **targets}
        is_new = not path.exists()
        with path.open("a", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, list(row), lineterminator="\n")
            if is_new:
                writer.writeheader()
            writer.writerow(
                {name: f"{value:.6g}" if isinstance(value, float) else value for name, value in row.items()}
            )


class _Trainer(Trainer):
    """The Trainer, with every step's loss kept for the recorder: its own average does not end with the epoch."""

    def __init__(self, losses: list[torch.Tensor], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._losses = losses

    def training_step(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        """One step."""
        loss = super().training_step(*args, **kwargs)
        self._losses.append(loss.detach())
        return loss


class _Bar(ProgressCallback):
    """The Trainer's bars, without its lines between them."""

    def on_log(self, *args: Any, **kwargs: Any) -> None:
        """The recorder's."""
