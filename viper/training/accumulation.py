"""The gradient of one step, computed in as many parts as memory asks for."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import recursively_apply, send_to_device
from torch import Tensor, nn

from viper.errors import is_out_of_memory
from viper.logs import log

Collate = Callable[[Sequence[Any]], dict[str, Any]]
"""Examples -> a batch: what the model's forward takes, by name."""
Alone = Callable[[], AbstractContextManager[Any]]
"""A context in which the model's loss asks nothing of other processes."""


class Accumulation:
    """Leave the mean gradient of a step's examples in a model's parameters.

    The examples go through the model a part at a time. Where a part does not fit into memory, the step is begun again
    with parts of half the size, and no larger ones are tried again; the gradient stays the mean over all the examples
    (a loss that correlates the clips of a batch, such as ccc, then sees smaller batches).

    Several processes have to agree on the parts, since each waits for the others' gradients: a part larger than any
    before is rehearsed first, by every process alone.

    Parameters
    ----------
    model : what the accelerator prepared of `network`.
    arithmetic : makes the autocast context of the forward pass.
    size : examples per part, in this process.
    """

    def __init__(
        self,
        accelerator: Accelerator,
        model: nn.Module,
        network: nn.Module,
        collate: Collate,
        arithmetic: Callable[[], AbstractContextManager[Any]],
        size: int,
        alone: Alone = nullcontext,
    ) -> None:
        self.size = size
        self._accelerator, self._model, self._network = accelerator, model, network
        self._collate, self._arithmetic, self._alone = collate, arithmetic, alone
        self._device = next(network.parameters()).device
        self._rehearsed = 0
        self._n_steps = 0

    def backward(self, examples: Sequence[Any]) -> Tensor:
        """Compute the gradient; return the mean loss, a detached scalar."""
        several = self._accelerator.num_processes > 1
        if several:
            while not self._all_fit(examples):
                self._halve(len(examples))
        while True:
            try:
                loss = self._attempt(examples)
                break
            except (RuntimeError, MemoryError) as error:
                if several or self.size == 1 or not is_out_of_memory(error):
                    raise
            # Not inside `except`: the exception would still hold the tensors of the failed attempt.
            self._halve(len(examples))
        self._n_steps += 1
        if self._n_steps == 1:
            self._rehearsed = 0  # the optimizer's moments take memory from the second step on
        return loss

    def _parts(self, examples: Sequence[Any]) -> list[Sequence[Any]]:
        return [examples[start : start + self.size] for start in range(0, len(examples), self.size)]

    def _attempt(self, examples: Sequence[Any]) -> Tensor:
        parts = self._parts(examples)
        total = torch.zeros((), device=self._device)
        for part in parts:
            # The processes exchange gradients once, with those of the last part.
            is_last = part is parts[-1]
            with nullcontext() if is_last else self._accelerator.no_sync(self._model):
                loss = self._loss(self._model, part) * (len(part) / len(examples))
                self._accelerator.backward(loss)
            total += loss.detach()
        return total

    def _loss(self, model: nn.Module, part: Sequence[Any]) -> Tensor:
        batch = send_to_device(self._collate(part), self._device, non_blocking=True)
        with self._arithmetic():
            output = model(**batch)
        return (output if isinstance(output, Tensor) else output.loss).float()

    def _all_fit(self, examples: Sequence[Any]) -> bool:
        """Return whether every process has memory for its parts."""
        sizes = [_n_elements(self._collate(part)) for part in self._parts(examples)]
        largest, failed = max(sizes), False
        if largest > self._rehearsed:
            failed = not self._fits(self._parts(examples)[sizes.index(largest)])
        answers = self._accelerator.reduce(torch.tensor(float(failed), device=self._device), "sum")
        if answers.item() and self.size == 1:
            raise torch.OutOfMemoryError("out of memory with one example at a time")
        if not answers.item():
            self._rehearsed = max(self._rehearsed, largest)
        return not answers.item()

    def _fits(self, part: Sequence[Any]) -> bool:
        devices = [self._device] if self._device.type == "cuda" else []
        try:
            with torch.random.fork_rng(devices), self._alone():
                self._loss(self._network, part).backward()
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            return False
        finally:
            self._network.zero_grad()
        return True

    def _halve(self, n_examples: int) -> None:
        self._network.zero_grad()
        if self._device.type == "cuda":
            torch.cuda.empty_cache()
        self.size = min(self.size, n_examples) // 2
        log.warning("out of memory: the %d examples of a step now go through the model %d at a time", n_examples,
                    self.size)  # fmt: skip


def _n_elements(batch: dict[str, Any]) -> int:
    found: list[int] = []
    recursively_apply(lambda tensor: found.append(tensor.numel()), batch)
    return sum(found)
