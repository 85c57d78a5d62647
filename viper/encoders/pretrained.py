"""Loading published weights: a short name, a hub id or a local folder; with or without the network."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from pickle import UnpicklingError
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError

from viper.encoders.base import is_read
from viper.encoders.checkpoint_heads import is_head, is_table
from viper.errors import UserError
from viper.files import digest_of
from viper.logs import quiet_transformers

if TYPE_CHECKING:
    import torch

# Entries of a config.json that change no feature.
BOOKKEEPING = ("architectures", "transformers_version", "_name_or_path", "_commit_hash", "dtype", "torch_dtype",
               "id2label", "label2id", "problem_type", "use_cache")  # fmt: skip


def go_offline() -> None:
    """Let nothing ask the network from here on. To be called before a library that would is imported."""
    os.environ["HF_HUB_OFFLINE"] = "1"
    os.environ["TRANSFORMERS_OFFLINE"] = "1"


def is_offline() -> bool:
    """Return whether the user said so, with --offline or with HF_HUB_OFFLINE=1."""
    return os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE")


def is_model(name: str) -> bool:
    """Return whether a name can be a model's that is no short name: a local folder or a hub id."""
    return "/" in name or Path(name).is_dir()


def local_or_hub(model: str) -> str:
    """Return `model` as from_pretrained takes it; what looks like a path must be a folder that exists."""
    path = Path(model).expanduser()
    if path.is_dir():
        return str(path)
    if model.startswith((".", "/", "~")) or model.count("/") > 1:
        raise UserError(f"{model}: no such folder; a model is a short name, a hub id (owner/name) or a local folder")
    return model


@contextlib.contextmanager
def explained(model: str, option: str = "--model_name FOLDER") -> Iterator[None]:
    """Turn the libraries' errors about weights into one line: what is wrong with local ones, how to get others.

    `option` is what to type once the weights are here.
    """
    try:
        yield
    except (OSError, ValueError, KeyError, ImportError, RuntimeError, UnpicklingError, SafetensorError) as error:
        if Path(model).exists():
            raise UserError(f"{model}: the model cannot be loaded from there ({_reason(error)})") from error
        raise UserError(
            f"weights for {model!r} are not available on this machine ({_reason(error)}). Where there is internet run "
            f"`hf download {model} --local-dir FOLDER`, copy the folder here and give `{option}`"
        ) from error


def _reason(error: Exception) -> str:
    """Return a library's message on one line, cut where it begins to list what else there is."""
    if isinstance(error, UnpicklingError) or "weights_only" in str(error):  # torch's advice is to let it run
        return "damaged, or more than plain tensors"
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 200 else f"{text[:200]} ..."


def load_config(model: str) -> Any:
    """Return the config of a transformers checkpoint."""
    from transformers import AutoConfig

    with quiet_transformers(), explained(model):
        return AutoConfig.from_pretrained(local_or_hub(model), local_files_only=is_offline())


def config_digest(model: str) -> str:
    """Return a digest of what a transformers checkpoint's config.json says of the network's arithmetic.

    Of the file, not of the library's reading of it, which has more in it with each version.
    """
    from transformers import PreTrainedConfig

    with quiet_transformers(), explained(model):
        written, _ = PreTrainedConfig.get_config_dict(local_or_hub(model), local_files_only=is_offline())
    return digest_of({name: value for name, value in written.items() if name not in BOOKKEEPING})


def load_transformers_model(auto_class: Any, model: str) -> torch.nn.Module:
    """Return a frozen model in eval mode, float32.

    A weight the checkpoint lacks, or has in another shape, would be random and every feature with it; one that the
    network has no place for would be dropped. Both are a UserError. Only what no encoder here reads may be missing, and
    only that, heads and tables (viper.encoders.checkpoint_heads) may be dropped. Code from a hub is never run.
    """
    import torch

    with quiet_transformers(), explained(model):
        loaded, report = auto_class.from_pretrained(
            local_or_hub(model),
            output_loading_info=True,
            local_files_only=is_offline(),
            dtype=torch.float32,
            ignore_mismatched_sizes=True,  # they are reported, and refused below
        )
    family, prefix = loaded.config.model_type, f"{loaded.base_model_prefix}."
    random = [key for key in report["missing_keys"] if is_read(key)] + [key for key, *_ in report["mismatched_keys"]]
    dropped = [
        key for key in report["unexpected_keys"]
        if is_read(key) and not is_table(key) and not is_head(family, key.removeprefix(prefix))
    ]  # fmt: skip
    problems = [
        f"{', '.join(sorted(keys)[:3])} ... would {fate}"
        for keys, fate in ((random, "stay random"), (dropped, "be dropped")) if keys
    ]  # fmt: skip
    if problems:
        network = f"{type(loaded).__name__} of transformers {version('transformers')}"
        raise UserError(f"{model}: the checkpoint does not fit its architecture, {network}; {'; '.join(problems)}")
    return loaded.eval().requires_grad_(False)


def load_state_dict(path: Path) -> dict[str, torch.Tensor]:
    """Return the tensors of a checkpoint file: a state dict, or one under `model_state_dict` or `state_dict`.

    .safetensors, or .pt read with weights_only=True: a pickle that wants to run code is refused with a UserError.
    """
    import torch

    if not path.is_file():
        raise UserError(f"{path}: no such checkpoint")
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            state: Any = load_file(path)
        else:
            state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # damaged files make the readers raise anything
        raise UserError(f"{path}: cannot be read as plain tensors ({_reason(error)}); nothing of it was run") from error
    for key in ("model_state_dict", "state_dict"):
        if isinstance(state, dict) and isinstance(state.get(key), dict):
            state = state[key]
    if not isinstance(state, dict) or not state or not all(isinstance(v, torch.Tensor) for v in state.values()):
        raise UserError(f"{path}: is not a state dict and has none under 'model_state_dict'")
    return {key.removeprefix("module."): value for key, value in state.items()}


def choose_hidden(output: Any, layer: int, model: str) -> torch.Tensor:
    """Return the hidden states of one layer: -1 the last (after the final norm), k the k-th (0: the embeddings)."""
    if layer == -1:
        return output.last_hidden_state
    n_states = len(output.hidden_states)
    if not -n_states <= layer < n_states:
        raise UserError(f"--layer {layer}: {model} has hidden states 0 to {n_states - 1}")
    return output.hidden_states[layer]
