"""The state of a training between two epochs, in one file: what it takes to go on as if nothing had happened.

Everything is tensors and JSON in a safetensors file, which is replaced as a whole: a process that is killed leaves the
old state or the new one. Nothing is pickled.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from viper.errors import UserError
from viper.files import atomic_path

STATE_FILE = "training_state.safetensors"
_RECORD = "record"


@dataclass
class TrainingState:
    """A training after an epoch.

    Attributes
    ----------
    tensors : by name: "model.*" the weights, "average.*" their running average, "optimizer.<parameter>.*" the moments,
        "rng.*" the generators of every process, stacked.
    record : JSON: the Trainer's counters, the scheduler, the optimiser's groups, the scores of the epochs so far.
    """

    tensors: dict[str, Tensor]
    record: dict[str, Any]

    def save(self, run: Path) -> None:
        """Writes the state into a run's folder."""
        tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in self.tensors.items()}
        with atomic_path(run / STATE_FILE) as temporary:
            save_file(tensors, temporary, metadata={_RECORD: json.dumps(self.record)})

    @classmethod
    def load(cls, run: Path) -> TrainingState:
        """Reads the state of a run; a file that is none is a UserError."""
        path = run / STATE_FILE
        try:
            with safe_open(path, framework="pt") as file:
                record = json.loads((file.metadata() or {})[_RECORD])
                return cls({name: file.get_tensor(name) for name in file.keys()}, record)  # noqa: SIM118
        except (SafetensorError, OSError, KeyError, ValueError) as error:
            raise UserError(f"{path}: not a training's state ({error}); --overwrite starts the run over") from error

    def part(self, prefix: str) -> dict[str, Tensor]:
        """The tensors under a prefix, by the rest of their names."""
        start = f"{prefix}."
        return {name.removeprefix(start): tensor for name, tensor in self.tensors.items() if name.startswith(start)}


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """The moments of every parameter, by "optimizer.<number of the parameter>.<name>"."""
    return {
        f"optimizer.{index}.{name}": tensor
        for index, moments in optimizer.state_dict()["state"].items()
        for name, tensor in moments.items()
    }


def optimizer_groups(optimizer: torch.optim.Optimizer) -> list[dict[str, Any]]:
    """The optimiser's settings, JSON-ready."""
    groups = optimizer.state_dict()["param_groups"]
    return [{name: list(v) if isinstance(v, tuple) else v for name, v in group.items()} for group in groups]


def restore_optimizer(optimizer: torch.optim.Optimizer, state: TrainingState) -> None:
    """The inverse of the two above."""
    moments: dict[int, dict[str, Tensor]] = {}
    for name, tensor in state.part("optimizer").items():
        index, _, key = name.partition(".")
        moments.setdefault(int(index), {})[key] = tensor
    groups = [
        {name: tuple(v) if name == "betas" else v for name, v in group.items()} for group in state.record["optimizer"]
    ]
    optimizer.load_state_dict({"state": moments, "param_groups": groups})


def random_tensors() -> dict[str, Tensor]:
    """This process's generators, by "rng.*"."""
    states = {"rng.cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        states["rng.cuda"] = torch.cuda.get_rng_state()
    return states


def restore_random(state: TrainingState, rank: int) -> None:
    """Sets this process's generators to what they were."""
    generators = state.part("rng")
    torch.set_rng_state(generators["cpu"][rank])
    if torch.cuda.is_available() and "cuda" in generators:
        torch.cuda.set_rng_state(generators["cuda"][rank])
