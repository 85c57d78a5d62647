"""Training on transformers' Trainer: the optimiser, the averaged weights, and resuming without pickles."""

from __future__ import annotations

import contextlib
import logging
import math
import os
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.optim.swa_utils import AveragedModel
from transformers import Trainer, TrainerCallback, TrainingArguments
from transformers.trainer_callback import PrinterCallback, ProgressCallback

from viper.errors import NothingDoneError, UserError
from viper.fusion.perceiver import PerceiverFusion
from viper.task import Task
from viper.training.data import Example, FusionData
from viper.training.orders import OrderData
from viper.training.recorder import Epoch, Recorder
from viper.training.state import (
    TrainingState,
    optimizer_groups,
    optimizer_tensors,
    random_tensors,
    restore_optimizer,
    restore_random,
)

log = logging.getLogger("viper")

WARM_UP_SHARE = 0.1


@dataclass(frozen=True)
class LoopOptions:
    """How a model is trained; everything resolved.

    Attributes
    ----------
    batch_size : clips a step, of all processes together.
    step_size : epochs after which the learning rate is halved, over and over (the published StepLR); None: a linear
        warm-up over the first tenth of the steps, then half a cosine down to zero.
    weight_decay : of matrices only; biases, norms and learned queries are left free.
    ema : decay of the running average of the weights that is validated and saved; 0: the weights themselves are.
    max_grad_norm : gradients are scaled down to this norm; 0: never.
    bf16 : whether matrix products are done in bfloat16.
    keep, patience : as in `viper.training.recorder.Recorder`.
    report_to : the Trainer's loggers, e.g. "tensorboard", "wandb".
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
    ema: float = 0.0
    max_grad_norm: float = 1.0
    patience: int | None = None
    bf16: bool = False
    compile: bool = False
    report_to: tuple[str, ...] = ()


def train(
    model: PerceiverFusion,
    task: Task,
    training: FusionData,
    validation: FusionData,
    run: Path,
    options: LoopOptions,
    resumed: TrainingState | None = None,
) -> tuple[Epoch, dict[str, Epoch]]:
    """Trains a model, writes the run's checkpoints, metrics.csv and, after every epoch, its training state.

    Parameters
    ----------
    resumed : the state after the last epoch that was finished; training goes on from there.

    Returns
    -------
    The best epoch by the task's first metric, and the best by each metric.
    """
    with tempfile.TemporaryDirectory() as scratch:
        arguments = _training_arguments(options, run, Path(scratch))
        truth = validation.truth
        recorder = Recorder(model, task, truth, run, options.keep, options.patience, arguments.should_save)
        examples = training if training.orders is None else OrderData(training)
        optimizer = make_optimizer(model, options.learning_rate, options.weight_decay)
        steps_per_epoch = math.ceil(len(examples) / options.batch_size)
        try:
            trainer = _Trainer(
                recorder,
                run,
                options.ema,
                resumed,
                model=model,
                args=arguments,
                data_collator=_collator(training, examples),
                train_dataset=examples,
                eval_dataset=validation,
                compute_metrics=recorder.compute_metrics,
                optimizers=(optimizer, make_schedule(optimizer, options, steps_per_epoch)),
                callbacks=[recorder, *([_Bar()] if sys.stderr.isatty() else [])],
            )
        except (RuntimeError, ValueError) as error:
            if options.report_to:
                raise UserError(f"--report_to {' '.join(options.report_to)}: {error}") from None
            raise
        # The Trainer's default prints raw dictionaries; the recorder says the same better.
        trainer.pop_callback(PrinterCallback)
        if resumed is None:
            trainer.train()
        else:
            recorder.epochs = [Epoch.from_dict(record) for record in resumed.record["epochs"]]
            (Path(scratch) / "trainer_state.json").write_text(resumed.record["trainer"], encoding="utf-8")
            trainer.train(resume_from_checkpoint=scratch)
    if not recorder.epochs:
        raise NothingDoneError("training ended without a single epoch")
    return recorder.best(task.metrics[0]), {metric: recorder.best(metric) for metric in recorder.metrics}


def _collator(clips: FusionData, examples: FusionData | OrderData) -> Callable[[Sequence[Any]], dict[str, Any]]:
    """The Trainer has one collator for both splits: orders are trained on, but single clips are validated."""

    def collate(items: Sequence[Any]) -> dict[str, Any]:
        return clips.collate(items) if isinstance(items[0], Example) else examples.collate(items)

    return collate


def _training_arguments(options: LoopOptions, run: Path, scratch: Path) -> TrainingArguments:
    if "tensorboard" in options.report_to:
        # The Trainer knows no other way to be told where TensorBoard's files go.
        os.environ["TENSORBOARD_LOGGING_DIR"] = str(run / "tensorboard")
    on_cpu = options.device == "cpu"
    n_processes = int(os.environ.get("WORLD_SIZE", 1))
    if options.batch_size % n_processes:
        raise UserError(f"--batch_size {options.batch_size}: must be a multiple of the {n_processes} processes")
    arguments = TrainingArguments(
        output_dir=str(scratch),
        num_train_epochs=options.n_epochs,
        per_device_train_batch_size=options.batch_size // n_processes,
        per_device_eval_batch_size=options.batch_size // n_processes,
        learning_rate=options.learning_rate,
        max_grad_norm=options.max_grad_norm,
        bf16=options.bf16,
        torch_compile=options.compile,
        eval_strategy="epoch",
        save_strategy="epoch",
        logging_strategy="steps",
        logging_steps=options.log_steps,
        report_to=list(options.report_to) or "none",
        seed=options.seed,
        data_seed=options.seed,
        use_cpu=on_cpu,
        ddp_backend="gloo" if on_cpu and n_processes > 1 else None,
        ddp_find_unused_parameters=False if n_processes > 1 else None,
        remove_unused_columns=False,
        label_names=["labels"],
        disable_tqdm=True,
        dataloader_pin_memory=torch.cuda.is_available(),
    )
    # Several visible GPUs would be used by copying the model to each; one process drives one.
    arguments._n_gpu = min(arguments.n_gpu, 1)
    return arguments


def make_optimizer(model: torch.nn.Module, learning_rate: float, weight_decay: float) -> torch.optim.AdamW:
    """AdamW that decays matrices only: the weights of linear and recurrent maps."""
    matrices = {
        id(parameter)
        for module in model.modules()
        if isinstance(module, torch.nn.Linear | torch.nn.RNNBase)
        for parameter in module.parameters()
        if parameter.ndim > 1
    }
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    groups = [
        {"params": [p for p in parameters if id(p) in matrices], "weight_decay": weight_decay},
        {"params": [p for p in parameters if id(p) not in matrices], "weight_decay": 0.0},
    ]
    # Fused: one pass over the parameters instead of ten. It takes 5 % off a step of the small preset on a CPU.
    return torch.optim.AdamW(groups, lr=learning_rate, fused=True)


def make_schedule(
    optimizer: torch.optim.Optimizer, options: LoopOptions, steps_per_epoch: int
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


def make_average(model: torch.nn.Module, decay: float) -> AveragedModel:
    """A running average of a model's parameters.

    The decay grows to its full value as (1 + n) / (10 + n) with the number of updates n, so that a short training's
    average does not remember the initial weights.
    """

    def average(averaged: Tensor, current: Tensor, n: Tensor | int) -> Tensor:
        share = min(decay, (1 + int(n)) / (10 + int(n)))
        return torch.lerp(current, averaged, share)

    return AveragedModel(model, avg_fn=average)


class _Trainer(Trainer):
    """The Trainer with averaged weights, every step's loss for the recorder, and a state of its own.

    The Trainer's own checkpoints hold pickles; the methods with which it writes and reads them are replaced.
    """

    def __init__(
        self,
        recorder: Recorder,
        run: Path,
        ema: float,
        resumed: TrainingState | None,
        model: PerceiverFusion,
        **kwargs: Any,
    ) -> None:
        super().__init__(model=model, **kwargs)
        self._recorder, self._run, self._network = recorder, run, model
        self._average = make_average(model, ema) if ema else None
        if self._average is not None:
            self.add_callback(_Averaging(self._average, model))
        self._resumed = resumed

    def training_step(self, *args: Any, **kwargs: Any) -> Tensor:
        """One step. Its loss is kept: the Trainer's own average does not end with the epoch."""
        loss = super().training_step(*args, **kwargs)
        self._recorder.losses.append(loss.detach())
        return loss

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        """Scores, and the recorder's checkpoint, of the averaged weights where there are such."""
        if self._average is None:
            return super().evaluate(*args, **kwargs)
        with self._averaged_weights():
            return super().evaluate(*args, **kwargs)

    @contextlib.contextmanager
    def _averaged_weights(self) -> Iterator[None]:
        assert self._average is not None
        own = [parameter.detach().clone() for parameter in self._network.parameters()]
        _copy(self._average.module.parameters(), self._network.parameters())
        try:
            yield
        finally:
            _copy(own, self._network.parameters())

    def _save_checkpoint(self, model: torch.nn.Module, trial: Any) -> None:
        """After an epoch: the state, by the first process, with every process's generators."""
        generators = {
            name: self.accelerator.gather(state.to(self.args.device).unsqueeze(0))
            for name, state in random_tensors().items()
        }
        if not self.args.should_save:
            return
        assert self.optimizer is not None
        assert self.lr_scheduler is not None
        tensors = {f"model.{name}": tensor for name, tensor in self._network.state_dict().items()}
        if self._average is not None:
            tensors |= {f"average.{name}": tensor for name, tensor in self._average.state_dict().items()}
        schedule = {name: v for name, v in self.lr_scheduler.state_dict().items() if name != "lr_lambdas"}
        record = {
            "trainer": _json_of(self.state),
            "schedule": schedule,
            "optimizer": optimizer_groups(self.optimizer),
            "epochs": [epoch.to_dict() for epoch in self._recorder.epochs],
            "n_processes": self.args.world_size,
        }
        TrainingState({**tensors, **optimizer_tensors(self.optimizer), **generators}, record).save(self._run)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: torch.nn.Module | None = None) -> None:
        assert self._resumed is not None
        if self._resumed.record["n_processes"] != self.args.world_size:
            raise UserError(
                f"{self._run}: was trained by {self._resumed.record['n_processes']} processes, and can only be resumed "
                f"by as many, not by {self.args.world_size}"
            )
        self._network.load_state_dict(self._resumed.part("model"))
        if self._average is not None:
            self._average.load_state_dict(self._resumed.part("average"))

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        assert self._resumed is not None
        assert self.optimizer is not None
        assert self.lr_scheduler is not None
        restore_optimizer(self.optimizer, self._resumed)
        self.lr_scheduler.load_state_dict({**self._resumed.record["schedule"], "lr_lambdas": [None, None]})

    def _load_rng_state(self, checkpoint: str | None) -> None:
        assert self._resumed is not None
        restore_random(self._resumed, self.args.process_index)


@torch.no_grad()
def _copy(source: Any, target: Any) -> None:
    for parameter, value in zip(target, source, strict=True):
        parameter.copy_(value)


def _json_of(state: Any) -> str:
    """The Trainer's counters as it writes them itself."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "trainer_state.json"
        state.save_to_json(str(path))
        return path.read_text(encoding="utf-8")


class _Averaging(TrainerCallback):
    """Updates the running average after every step."""

    def __init__(self, average: AveragedModel, model: PerceiverFusion) -> None:
        self._average, self._model = average, model

    def on_step_end(self, *args: Any, **kwargs: Any) -> None:
        """One step."""
        self._average.update_parameters(self._model)


class _Bar(ProgressCallback):
    """The Trainer's bars, without its lines between them."""

    def on_log(self, *args: Any, **kwargs: Any) -> None:
        """The recorder's."""
