"""Loading published weights: a short name, a hub id or a local folder; with or without the network."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from viper.errors import UserError
from viper.quiet import quiet_transformers


def go_offline() -> None:
    """From here on nothing asks the network. To be called before a library that would is imported."""
    os.environ["HF_HUB_OFFLINE"] = "1"
    os.environ["TRANSFORMERS_OFFLINE"] = "1"


def is_offline() -> bool:
    """Whether the user said so, with --offline or with HF_HUB_OFFLINE=1."""
    return os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE")


def local_or_hub(model: str) -> str:
    """`model` as from_pretrained takes it; what looks like a path must be a folder that is there."""
    path = Path(model).expanduser()
    if path.is_dir():
        return str(path)
    if model.startswith((".", "/", "~")) or model.count("/") > 1:
        raise UserError(f"{model}: no such folder; a model is a short name, a hub id (owner/name) or a local folder")
    return model


@contextlib.contextmanager
def explained(model: str) -> Iterator[None]:
    """Turns the hub libraries' errors about weights that are not there into one line that says how to get them."""
    try:
        yield
    except (OSError, ValueError, KeyError, ImportError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        if Path(model).is_dir():
            raise UserError(f"{model}: the model in this folder cannot be loaded ({reason})") from error
        raise UserError(
            f"the weights of {model!r} cannot be had here ({reason}). On a machine with internet run "
            f"`hf download {model} --local-dir FOLDER`, copy the folder here and give its path as the model"
        ) from error


def load_transformers_model(auto_class: Any, model: str) -> torch.nn.Module:
    """A frozen model in eval mode, float32.

    A weight the checkpoint lacks would be random and every feature with it, so that is a UserError; only the pooler,
    which no encoder here reads, may be missing. Code from a hub is never run.
    """
    with quiet_transformers(), explained(model):
        loaded, report = auto_class.from_pretrained(
            local_or_hub(model), output_loading_info=True, local_files_only=is_offline(), dtype=torch.float32
        )
    missing = [key for key in report["missing_keys"] if "pooler" not in key]
    mismatched = [str(key) for key in report.get("mismatched_keys", [])]
    if missing or mismatched:
        names = ", ".join(sorted([*missing, *mismatched])[:3])
        raise UserError(f"{model}: the checkpoint does not fit its architecture; {names} ... would stay random")
    return loaded.eval().requires_grad_(False)


def load_state_dict(path: Path) -> dict[str, torch.Tensor]:
    """The tensors of a checkpoint file: a state dict, or one under `model_state_dict` or `state_dict`.

    .safetensors, or .pt read with weights_only=True: a pickle that wants to run code is refused with a UserError.
    """
    if not path.is_file():
        raise UserError(f"{path}: no such checkpoint")
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            state: Any = load_file(path)
        else:
            state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        reason = str(error).strip().splitlines()[0]
        raise UserError(f"{path}: cannot be read as plain tensors ({reason}); nothing of it was run") from error
    for key in ("model_state_dict", "state_dict"):
        if isinstance(state, dict) and isinstance(state.get(key), dict):
            state = state[key]
    if not isinstance(state, dict) or not state or not all(isinstance(v, torch.Tensor) for v in state.values()):
        raise UserError(f"{path}: is no state dict, nor has one under 'model_state_dict'")
    return {key.removeprefix("module."): value for key, value in state.items()}


def choose_hidden(output: Any, layer: int, model: str) -> torch.Tensor:
    """The hidden states of one layer: -1 the model's last (after its final norm), k the k-th (0: the embeddings)."""
    if layer == -1:
        return output.last_hidden_state
    n_states = len(output.hidden_states)
    if not -n_states <= layer < n_states:
        raise UserError(f"--layer {layer}: {model} has hidden states 0 to {n_states - 1}")
    return output.hidden_states[layer]
