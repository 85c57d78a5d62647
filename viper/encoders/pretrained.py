"""Loading published weights: a short name, a hub id or a local folder; with or without the network.

viper reads a checkpoint's files itself: transformers is given a configuration without what might run or fetch something
(viper.encoders.claims) and plain tensors (viper.weights), and looks at no file and no hub on its own.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from viper.encoders.base import is_read
from viper.encoders.checkpoint_heads import is_head, is_table
from viper.encoders.claims import (
    CONFIG,
    MODULES,
    POOLING,
    PROCESSORS,
    SENTENCES,
    TOKENIZER_SETTINGS,
    VOCABULARIES,
    config_of,
    plain_folder,
)
from viper.errors import UserError
from viper.files import digest_of
from viper.logs import quiet_transformers, shell_line
from viper.offline import fetch
from viper.weights import PICKLED, SAFETENSORS, bounded_by, check_finite, load_folder, not_numbers, reason

if TYPE_CHECKING:
    import torch

_SMALL_FILES = (CONFIG, *PROCESSORS, *TOKENIZER_SETTINGS, *VOCABULARIES, MODULES, POOLING, SENTENCES)
# Weights of the half of an image-text model that sees, and of a classifier made of it.
_SEEING = re.compile(r"(\w+\.)?(vision_model|visual_projection|classifier|logit_scale|logit_bias)\b")
# Entries of a config.json that change no feature.
BOOKKEEPING = ("architectures", "transformers_version", "_name_or_path", "_commit_hash", "dtype", "torch_dtype",
               "id2label", "label2id", "problem_type", "use_cache")  # fmt: skip


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


def local_folder(model: str, weights: bool = False) -> Path:
    """Return the folder of a model: a local one, or what is fetched of a hub id, which is no code whatever it has.

    `weights` says whether they are wanted too.
    """
    name = local_or_hub(model)
    if Path(name).is_dir():
        return Path(name)
    with explained(model):
        folder = _fetched(name, *_SMALL_FILES)
        for file in (SAFETENSORS, PICKLED) if weights else ():
            if any((folder / each).is_file() for each in (SAFETENSORS, f"{SAFETENSORS}.index.json")):
                break
            stem, dot, suffix = file.partition(".")
            folder = _fetched(name, file, f"{file}.index.json", f"{stem}-*-of-*{dot}{suffix}")
    return folder


def _fetched(model: str, *patterns: str) -> Path:
    with quiet_transformers():
        return fetch(model, patterns)


@contextlib.contextmanager
def explained(model: str, option: str = "--model_name FOLDER") -> Iterator[None]:
    """Turn the libraries' errors about weights into one line: what is wrong with local ones, how to get others.

    `option` is what to type once the weights are here.
    """
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # a configuration that makes no sense makes the libraries raise anything
        if Path(model).expanduser().exists():
            raise UserError(f"{model}: the model cannot be loaded from there ({reason(error)})") from error
        command = shell_line(["hf", "download", model, "--local-dir", "FOLDER"])
        raise UserError(
            f"weights for {model!r} are not available on this machine ({reason(error)}). Where there is internet run "
            f"`{command}`, copy the folder here and give `{option}`"
        ) from error


def load_config(model: str) -> Any:
    """Return the config of a transformers checkpoint, without what its file may not say (viper.encoders.claims)."""
    from transformers import AutoConfig

    settings = config_of(local_folder(model))
    with quiet_transformers(), explained(model):
        return AutoConfig.for_model(**settings)


def load_processor(auto_class: Any, model: str) -> Any:
    """Return a checkpoint's tokenizer, feature extractor or processor; OSError where it has none of the kind."""
    with plain_folder(local_folder(model)) as folder, quiet_transformers():
        try:
            return auto_class.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        except OSError as error:  # says where it looked
            raise OSError(str(error).replace(str(folder), model)) from error


def config_digest(model: str) -> str:
    """Return a digest of what a transformers checkpoint's config.json says of the network's arithmetic.

    Of the file, not of the library's reading of it, which has more in it with each version.
    """
    written = config_of(local_folder(model))
    return digest_of({name: value for name, value in written.items() if name not in BOOKKEEPING})


def load_transformers_model(auto_class: Any, model: str) -> torch.nn.Module:
    """Return a frozen model in eval mode, float32.

    A weight the checkpoint lacks, or has in another shape, would be random and every feature with it; one that the
    network has no place for would be dropped. Both are a UserError, and so are weights that are not finite numbers.
    Only what no encoder here reads may be missing, and only that, heads and tables (viper.encoders.checkpoint_heads)
    may be dropped. Code from a hub is never run.
    """
    import torch

    folder = local_folder(model, weights=True)
    config, state = load_config(model), load_folder(folder)
    # A classifier of pictures made of an image-text model has that one's config and the half that sees.
    if hasattr(config, "vision_config") and all(_SEEING.match(key) for key in state):
        config = config.vision_config
    with quiet_transformers(), explained(model), bounded_by(state):
        # Not by the auto class itself, which wants a folder to look for code, adapters and weights in.
        loaded, report = _network_class(auto_class, config).from_pretrained(
            None,
            config=config,
            state_dict=state,
            output_loading_info=True,
            trust_remote_code=False,
            dtype=torch.float32,
            ignore_mismatched_sizes=True,  # they are reported, and refused below
        )
    family, prefix = loaded.config.model_type, f"{loaded.base_model_prefix}."
    random = [key for key in report["missing_keys"] if is_read(key) and not _is_sinusoid(loaded, key)]
    random += [key for key, *_ in report["mismatched_keys"]]
    dropped = [
        key for key in report["unexpected_keys"]
        if is_read(key) and not is_table(key) and not is_head(family, key.removeprefix(prefix))
    ]  # fmt: skip
    problems = [
        f"{', '.join(sorted(keys)[:3])} ... would {fate}"
        for keys, fate in (
            (random, "stay random"), (dropped, "be dropped"), (not_numbers(state, loaded), "be rounded"),
        ) if keys
    ]  # fmt: skip
    if problems:
        network = f"{type(loaded).__name__} of transformers {version('transformers')}"
        raise UserError(f"{model}: the checkpoint does not fit its architecture, {network}; {'; '.join(problems)}")
    check_finite(loaded, model)
    return loaded.eval().requires_grad_(False)


def _is_sinusoid(network: Any, key: str) -> bool:
    """Return whether a weight is a table of sines, which Marian and Pegasus work out and do not save."""
    return "Sinusoidal" in type(network.get_submodule(key.rpartition(".")[0])).__name__


def _network_class(auto_class: Any, config: Any) -> Any:
    found = auto_class._model_mapping.get(type(config), None)
    if found is None:
        raise ValueError(f"a {config.model_type} is not among the networks of {auto_class.__name__}")
    classes = found if isinstance(found, list | tuple) else [found]
    return next((each for each in classes if each.__name__ in (config.architectures or [])), classes[0])


def width_of(tokens: np.ndarray, model: str) -> int:
    """Return the width of a network's tokens (n, width) for a blank clip; a UserError where they cannot be right."""
    if tokens.ndim != 2 or not tokens.shape[1]:
        raise UserError(f"{model}: returns {tokens.shape}; must be tokens (n, width)")
    if not np.isfinite(tokens).all():
        raise UserError(f"{model}: returns values that are not finite")
    return int(tokens.shape[1])


def choose_hidden(output: Any, layer: int, model: str) -> torch.Tensor:
    """Return the hidden states of one layer: -1 the last (after the final norm), k the k-th (0: the embeddings)."""
    if layer == -1:
        return output.last_hidden_state
    n_states = len(output.hidden_states)
    if not -n_states <= layer < n_states:
        raise UserError(f"--layer {layer}: {model} has hidden states 0 to {n_states - 1}")
    return output.hidden_states[layer]
