"""The state of a training between two epochs, in one file: what it takes to go on as if nothing had happened.

Everything is tensors and JSON in a safetensors file, which is replaced as a whole: a process that is killed leaves the
old state or the new one. Nothing is pickled.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from viper.errors import UserError, first_line
from viper.files import atomic_path
from viper.logs import log
from viper.training.run_folder import STATE_FILE, OtherRunError

_RECORD = "record"
MOST_THREADS = 1024  # a state that says more is damaged, and torch would try


@dataclass
class TrainingState:
    """A training after an epoch.

    Attributes
    ----------
    tensors : by name: "model.*" the weights, "average.*" their running average, "optimizer.<parameter>.*" the moments,
        "rng.*" the generators of every process, stacked.
    record : JSON: "epoch" (how many are finished), "recorder" (its state), "part" (examples in the model at
        once), "n_processes", "n_threads" (of each, on the processor).
    """

    tensors: dict[str, Tensor]
    record: dict[str, Any]

    def save(self, run: Path) -> None:
        """Write the state into a run's folder."""
        tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in self.tensors.items()}
        with atomic_path(run / STATE_FILE) as temporary:
            save_file(tensors, temporary, metadata={_RECORD: json.dumps(self.record)})

    @classmethod
    def load(cls, run: Path) -> TrainingState:
        """Return the state of a run; a file that does not hold one is an OtherRunError."""
        path = run / STATE_FILE
        try:
            with safe_open(path, framework="pt") as file:
                record = json.loads((file.metadata() or {})[_RECORD])
                for name in ("epoch", "part"):
                    if type(record[name]) is not int or record[name] < 1:
                        raise ValueError(f"{name} is {record[name]!r}")
                return cls({name: file.get_tensor(name) for name in file.keys()}, record)  # noqa: SIM118
        except OSError as error:
            raise UserError(f"{path}: cannot be read ({error.strerror or error})") from error
        except (SafetensorError, LookupError, TypeError, ValueError, RecursionError) as error:
            said = first_line(error)
            raise OtherRunError(f"{path}: not a training's state ({said}); --overwrite starts the run over") from error

    def part(self, prefix: str) -> dict[str, Tensor]:
        """Return the tensors under a prefix, by the rest of their names."""
        start = f"{prefix}."
        return {name.removeprefix(start): tensor for name, tensor in self.tensors.items() if name.startswith(start)}


def gather_state(
    accelerator: Accelerator, network: nn.Module, average: nn.Module | None, optimizer: torch.optim.Optimizer
) -> TrainingState:
    """Return the state after an epoch. Every process has to call it, for the generators of all of them."""
    tensors = {f"model.{name}": tensor for name, tensor in network.state_dict().items()}
    if average is not None:
        tensors |= {f"average.{name}": tensor for name, tensor in average.state_dict().items()}
    described = optimizer.state_dict()
    for index, moments in described["state"].items():
        tensors |= {f"optimizer.{index}.{name}": tensor for name, tensor in moments.items()}
    device = next(network.parameters()).device
    for name, generator in _generators().items():
        tensors[f"rng.{name}"] = accelerator.gather(generator.to(device).unsqueeze(0))
    counts = {"n_processes": accelerator.num_processes, "n_threads": torch.get_num_threads()}
    return TrainingState(tensors, counts)


@contextlib.contextmanager
def threads_of(state: TrainingState | None) -> Iterator[None]:
    """Let torch compute with as many threads as before; how sums are split among them decides their last bits."""
    here = torch.get_num_threads()
    before = state.record.get("n_threads") if state else None
    if before == here or not isinstance(before, int) or not 1 <= before <= MOST_THREADS:
        yield
        return
    log.info("resuming with %d threads, as before, so that the weights are the same", before)
    torch.set_num_threads(before)
    try:
        yield
    finally:
        torch.set_num_threads(here)


@contextlib.contextmanager
def of_this_training(folder: Path) -> Iterator[None]:
    """Make what goes wrong with the state of another training, or with a damaged one, an OtherRunError."""
    try:
        yield
    except (AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
        raise OtherRunError(
            f"{folder}: its {STATE_FILE} is not one of this training ({first_line(error)}); --overwrite starts over"
        ) from error


def restore_state(
    state: TrainingState,
    folder: Path,
    accelerator: Accelerator,
    network: nn.Module,
    average: nn.Module | None,
    optimizer: torch.optim.Optimizer,
) -> None:
    """Put back what `gather_state` collected; another number of processes: OtherRunError."""
    n_processes = state.record.get("n_processes")
    if n_processes != accelerator.num_processes:
        raise OtherRunError(
            f"{folder}: was trained by {n_processes} processes, and can only be resumed by as many, not by "
            f"{accelerator.num_processes}"
        )
    network.load_state_dict(state.part("model"))
    if average is not None:
        average.load_state_dict(state.part("average"))
    moments: dict[int, dict[str, Tensor]] = {}
    for name, tensor in state.part("optimizer").items():
        index, _, key = name.partition(".")
        moments.setdefault(int(index), {})[key] = tensor
    # Its settings are those of the options, with which the training is resumed.
    optimizer.load_state_dict({"state": moments, "param_groups": optimizer.state_dict()["param_groups"]})
    for parameter, kept in optimizer.state.items():
        if kept.keys() != {"step", "exp_avg", "exp_avg_sq"}:
            raise ValueError(f"moments {', '.join(kept)}")
        for name, value in kept.items():
            if value.ndim and value.shape != parameter.shape:
                raise ValueError(f"a moment {name} is {tuple(value.shape)}, its weight {tuple(parameter.shape)}")
    generators = state.part("rng")
    torch.set_rng_state(generators["cpu"][accelerator.process_index].cpu())
    if torch.cuda.is_available() and "cuda" in generators:
        torch.cuda.set_rng_state(generators["cuda"][accelerator.process_index].cpu())


def _generators() -> dict[str, Tensor]:
    """Return the states of this process's random number generators."""
    states = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        states["cuda"] = torch.cuda.get_rng_state()
    return states
