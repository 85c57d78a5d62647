"""The training loop: epochs of AdamW steps for any model with ``forward(**batch) -> loss``.

It knows no task and no fusion. What a step learns from comes in as examples and a function that collates them; how an
epoch is validated, and what is kept of it, as two callables.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any, Protocol, cast

import torch
from accelerate import Accelerator
from accelerate.utils import ProjectConfiguration, set_seed
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from viper.engine.device import choose_device, has_bf16
from viper.errors import UserError
from viper.files import check_own_folder
from viper.logs import log, progress_bar
from viper.training.accumulation import Accumulation, Alone, Collate
from viper.training.optimizer import averaged_weights, learning_rate_factor, make_average, make_optimizer
from viper.training.options import LoopOptions
from viper.training.state import TrainingState, gather_state, of_this_training, restore_state


class Recorder(Protocol):
    """What is kept of a training."""

    @property
    def is_done(self) -> bool:
        """Whether training may stop before the last epoch."""

    def record(self, epoch: int, loss: float, validation: Any) -> dict[str, float]:
        """Keep an epoch (counted from 1); return numbers for the trackers. The model has the weights to be kept."""

    def state_dict(self) -> dict[str, Any]:
        """Return all of it, JSON-ready."""

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from there."""


def train(
    network: nn.Module,
    examples: Dataset[Any],
    collate: Collate,
    options: LoopOptions,
    validate: Callable[[nn.Module], Any],
    recorder: Recorder,
    folder: Path,
    resumed: TrainingState | None = None,
    alone: Alone = nullcontext,
) -> None:
    """Train a network; after every epoch validate it, have it recorded, and write the state of the training.

    Parameters
    ----------
    network : ``network(**batch)`` returns a loss, or an output with one as `loss`.
    options : with a learning rate.
    validate : what it returns for the network is handed to the recorder. It is called in every process.
    folder : gets the state, and what trackers write.
    resumed : the state after the last epoch that was finished; training goes on from there, exact to the bit on the
        processor if torch has as many threads as before (viper.training.state.threads_of).
    alone : see `viper.training.accumulation`.
    """
    accelerator = make_accelerator(options, folder)
    device = accelerator.device if accelerator.num_processes > 1 else choose_device(options.device)
    arithmetic = _arithmetic(options, device)
    set_seed(options.seed, device_specific=True)
    network.to(device)
    assert options.learning_rate is not None
    optimizer = make_optimizer(network, options.learning_rate, options.weight_decay)
    average = make_average(network, options.ema) if options.ema else None
    model: nn.Module = accelerator.prepare(network, device_placement=[False])
    if options.compile:
        model = cast(nn.Module, torch.compile(model))
    part = options.batch_size // accelerator.num_processes
    accumulation = Accumulation(accelerator, model, network, collate, arithmetic, part, alone)
    n_examples, start = len(examples), 0  # type: ignore[arg-type]
    if resumed is not None:
        with of_this_training(folder):
            restore_state(resumed, folder, accelerator, network, average, optimizer)
            recorder.load_state_dict(resumed.record["recorder"])
        start, accumulation.size = resumed.record["epoch"], resumed.record["part"]
    steps_per_epoch = math.ceil(n_examples / (options.batch_size * options.accumulate_steps))
    factor = learning_rate_factor(options, steps_per_epoch)
    step = start * steps_per_epoch
    bar = progress_bar(total=options.n_epochs * steps_per_epoch, initial=step, leave=False, unit="step",
                       is_wanted=accelerator.is_main_process)  # fmt: skip
    recent: list[Tensor] = []
    for epoch in range(start, options.n_epochs):
        if recorder.is_done:
            break
        model.train()
        losses: list[Tensor] = []
        steps = Steps(n_examples, options, epoch, accelerator)
        for items in DataLoader(examples, batch_sampler=steps, collate_fn=list):
            for group in optimizer.param_groups:
                group["lr"] = options.learning_rate * factor(step)
            losses.append(accumulation.backward(items))
            if options.max_grad_norm:
                accelerator.clip_grad_norm_(network.parameters(), options.max_grad_norm)
            optimizer.step()
            optimizer.zero_grad()
            if average is not None:
                average.update_parameters(network)
            step += 1
            bar.update()
            recent.append(losses[-1])
            if step % options.log_steps == 0:
                _say(accelerator, recent, step, step / steps_per_epoch, optimizer)
                recent.clear()
        loss = accelerator.reduce(torch.stack(losses).mean(), "mean").item()
        with averaged_weights(network, average):
            with arithmetic():
                validation = validate(network)
            accelerator.log(recorder.record(epoch + 1, loss, validation), step)
        state = gather_state(accelerator, network, average, optimizer)
        state.record |= {"epoch": epoch + 1, "part": accumulation.size, "recorder": recorder.state_dict()}
        if accelerator.is_main_process:
            state.save(folder)
    bar.close()
    for tracker in accelerator.trackers:
        tracker.finish()


def _arithmetic(options: LoopOptions, device: torch.device) -> Callable[[], torch.autocast]:
    """Return what makes the context in which the network is called: bf16 or float32."""
    is_native = device.type == "cuda" and has_bf16(device)
    is_bf16 = options.precision == "bf16" or (options.precision == "auto" and is_native)
    return lambda: torch.autocast(device.type, torch.bfloat16, enabled=is_bf16)


class Steps:
    """The examples of each optimizer step of an epoch that this process computes: lists of indices.

    All processes draw one order. Each batch is shared among them evenly; a last, smaller one is filled up from the
    start of the order until it can be.
    """

    def __init__(self, n_examples: int, options: LoopOptions, epoch: int, accelerator: Accelerator) -> None:
        generator = torch.Generator().manual_seed(options.seed + epoch)
        self._order = torch.randperm(n_examples, generator=generator).tolist()
        self._batch_size, self._n_batches = options.batch_size, options.accumulate_steps
        self._n_processes, self._rank = accelerator.num_processes, accelerator.process_index

    def __iter__(self) -> Iterator[list[int]]:
        batches = [self._share(start) for start in range(0, len(self._order), self._batch_size)]
        for first in range(0, len(batches), self._n_batches):
            yield [index for batch in batches[first : first + self._n_batches] for index in batch]

    def _share(self, start: int) -> list[int]:
        batch = self._order[start : start + self._batch_size]
        batch += (self._order * self._n_processes)[: -len(batch) % self._n_processes]
        n = len(batch) // self._n_processes
        return batch[self._rank * n : (self._rank + 1) * n]


def make_accelerator(options: LoopOptions, folder: Path) -> Accelerator:
    """Return accelerate's handle on the processes (torchrun, accelerate launch) and the trackers.

    Raises
    ------
    UserError : a batch that the processes cannot share, or a tracker that is not there.
    """
    n_processes = int(os.environ.get("WORLD_SIZE", 1))
    if options.batch_size % n_processes:
        raise UserError(f"--batch_size {options.batch_size}: must be a multiple of the {n_processes} processes")
    names = list(options.report_to)
    if names:
        check_own_folder(folder, "tensorboard", "viper")
    project = ProjectConfiguration(project_dir=str(folder), logging_dir=str(folder / "tensorboard"))
    try:
        # In one process accelerate keeps its first device for good, so the loop places the model itself. Precision is
        # the loop's, too: accelerate keeps the first one as well.
        accelerator = Accelerator(
            cpu=n_processes > 1 and options.device == "cpu",
            mixed_precision="no",
            log_with=names or None,
            project_config=project,
        )
        accelerator.init_trackers("viper")
    except (RuntimeError, ValueError, ImportError) as error:
        if names:
            raise UserError(f"--report_to {' '.join(names)}: {error}") from None
        raise
    missing = {name for name in names if name != "all"} - {str(tracker.name) for tracker in accelerator.trackers}
    if missing and accelerator.is_main_process:
        raise UserError(
            f"--report_to {' '.join(sorted(missing))}: not installed; pip install {' '.join(sorted(missing))}"
        )
    return accelerator


def _say(
    accelerator: Accelerator, losses: Sequence[Tensor], step: int, epochs: float, optimizer: torch.optim.Optimizer
) -> None:
    """Log the mean of the losses since it was last done."""
    loss, rate = torch.stack(list(losses)).mean().item(), optimizer.param_groups[0]["lr"]
    log.info("epoch %5.2f  training loss %.5f  learning rate %.2e", epochs, loss, rate)
    accelerator.log({"training_loss": loss, "learning_rate": rate, "epoch": epochs}, step)
