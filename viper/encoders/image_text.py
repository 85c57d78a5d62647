"""open_clip's image-text networks: one of its published list, or one in a folder whose files are checked first.

open_clip looks for a network's words elsewhere: in a repository of tokenizers, in one of text networks. viper fetches
what is needed of those itself (viper.encoders.pretrained.local_folder), and open_clip is given local files only.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from viper.encoders.claims import check_numbers, plain_folder, read_settings
from viper.encoders.pretrained import explained, local_folder
from viper.errors import UserError
from viper.weights import bounded_by, check_finite, load_state_dict, not_numbers, reason

CONFIG, _LOCAL = "open_clip_config.json", "local-dir:"
# Where open_clip looks in a folder, in its order.
_WEIGHTS = (
    "open_clip_model.safetensors", "open_clip_pytorch_model.safetensors", "open_clip_pytorch_model.bin",
    "open_clip_pytorch_model.pth", "model.safetensors", "pytorch_model.bin", "pytorch_model.pth", "model.pth",
)  # fmt: skip
# What open_clip's list of published weights says of the pictures they were trained on.
_PICTURE_KEYS = ("mean", "std", "interpolation", "resize_mode")
_PARTS = ("embed_dim", "vision_cfg", "text_cfg", "multimodal_cfg", "quick_gelu", "custom_text", "init_logit_scale",
          "init_logit_bias")  # fmt: skip
_TOKENIZER_KEYS = ("clean", "strip_sep_token", "language")
_PREPROCESSING = ("size", "mode", "mean", "std", "interpolation", "resize_mode", "fill_color")
_POSITIONS = ("visual.positional_embedding", "positional_embedding", "text.positional_embedding")


@dataclass(frozen=True)
class ImageText:
    """A network in float32 on the processor, its tokenizer, whether its activation is OpenAI's, and its architecture.

    `architecture` is a name of open_clip's list, or what a folder's own config says.
    """

    network: Any
    tokenizer: Any
    has_quick_gelu: bool
    architecture: Any


def load_image_text(model: str, pretrained: str, checkpoint: Path | None) -> ImageText:
    """Load an image-text network.

    Parameters
    ----------
    model : an architecture of open_clip's list, or a local folder with open_clip_config.json.
    pretrained : which of the published weights, where `model` is no folder; with a checkpoint, those it was trained
        further from.
    checkpoint : own weights of the architecture.

    Raises
    ------
    UserError : no such model or weights; weights missing, without a place, of another shape or not finite; or a folder
        that names code, other repositories or impossible sizes.
    """
    import open_clip

    is_folder = Path(model).is_dir()
    if not is_folder and model not in open_clip.list_models():
        raise UserError(f"--clip_model {model}: neither a folder nor an architecture open_clip knows")
    # How the published weights were trained: OpenAI's with another activation than the architecture's name says.
    published: dict[str, Any] = {} if is_folder else open_clip.get_pretrained_cfg(model, pretrained)
    if not (is_folder or checkpoint or published):
        tags = ", ".join(open_clip.list_pretrained_tags_by_model(model))
        raise UserError(f"--clip_pretrained {pretrained}: of {model} there are {tags or 'no weights'}")
    config = _config_of(Path(model)) if is_folder else open_clip.get_model_config(model)
    weights = checkpoint or (_weights_of(Path(model)) if is_folder else None)
    hub = "/".join(str(published.get("hf_hub", "")).split("/")[:2])
    with explained(hub or model, "--clip_model FOLDER"), _quiet_root_log(), _local_words(model, config) as words:
        text, tokenizer = words
        options = {
            "force_quick_gelu": bool(published.get("quick_gelu")),
            "force_preprocess_cfg": {key: published[key] for key in _PICTURE_KEYS if key in published},
            "pretrained_text": False,
            "text_cfg": text,
        }
        name = f"{_LOCAL}{model}" if is_folder else model
        if weights is None:
            # weights_only is open_clip's default too; it is said here because nothing else would be safe.
            network: Any = open_clip.create_model(
                name, pretrained=pretrained, require_pretrained=True, weights_only=True, **options
            )
        else:
            network = _filled(name, options, weights, is_own=checkpoint is not None)
    check_finite(network, weights or model)
    is_quick = any(isinstance(module, open_clip.transformer.QuickGELU) for module in network.modules())
    return ImageText(network, tokenizer, is_quick, config if is_folder else model)


def _filled(name: str, options: Mapping[str, Any], weights: Path, is_own: bool) -> Any:
    """Return the network with weights of a file, which are compared with its sizes before memory is taken for it.

    `is_own` says that the file is a training's; those in a folder may be as others than open_clip name their weights.
    """
    import open_clip
    import torch

    state = load_state_dict(weights)
    with torch.device("meta"), bounded_by(state):
        network = open_clip.create_model(name, load_weights=False, device="meta", **options)
    planned = network.state_dict()
    for key in _POSITIONS:  # open_clip would stretch them to any size
        if key in planned and key in state and planned[key].shape != state[key].shape:
            shapes = f"{tuple(state[key].shape)}, not {tuple(planned[key].shape)}"
            raise UserError(f"{weights}: does not fit its architecture ({key} is {shapes})")
    if wrong := not_numbers(state, network):
        raise UserError(f"{weights}: {wrong[0]} must hold floating point numbers")
    with _without_random_weights():
        network = open_clip.create_model(name, load_weights=False, **options)
    try:
        if is_own:
            network.load_state_dict(state)
        else:
            open_clip.load_checkpoint(network, str(weights), strict=True, weights_only=True)
    except Exception as error:  # whatever is wrong with its names and shapes
        raise UserError(f"{weights}: does not fit {name.removeprefix(_LOCAL)} ({reason(error)})") from error
    return network


def _config_of(folder: Path) -> dict[str, Any]:
    """Return what a folder says of its network; names of code or repositories and impossible sizes are a UserError."""
    import timm
    from open_clip.model import CLIPTextCfg, CLIPVisionCfg

    path = folder / CONFIG
    if not path.is_file():
        raise UserError(f"{folder}: no {CONFIG} in it, so no model of open_clip")
    settings = read_settings(path)
    check_numbers(settings, path)
    config = _mapping(settings, "model_cfg", path, _PARTS)
    vision = _mapping(config, "vision_cfg", path, CLIPVisionCfg.__dataclass_fields__)
    text = _mapping(config, "text_cfg", path, CLIPTextCfg.__dataclass_fields__)
    _mapping(text, "tokenizer_kwargs", path, _TOKENIZER_KEYS)
    _check_pictures(_mapping(settings, "preprocess_cfg", path, _PREPROCESSING), path)
    if text.get("hf_model_name"):
        raise UserError(
            f"{path}: its text network is that of another repository (hf_model_name), which is not fetched because a "
            "file says so; name the architecture and the file: --clip_model NAME --clip_checkpoint_path FILE"
        )
    timm_name = vision.get("timm_model_name")
    if timm_name is not None and str(timm_name).split(".")[0] not in timm.list_models():
        raise UserError(f"{path}: timm has no network {timm_name!r}")
    return config


def _mapping(settings: Mapping[str, Any], key: str, path: Path, known: Any) -> dict[str, Any]:
    value = settings.get(key)
    if value is None and key not in ("model_cfg", "vision_cfg", "text_cfg"):
        return {}
    if not isinstance(value, dict):
        raise UserError(f"{path}: {key} must be a mapping")
    if unknown := sorted(value.keys() - set(known)):
        raise UserError(f"{path}: {key} has {unknown[0]!r}, which open_clip does not know")
    return value


def _check_pictures(settings: Mapping[str, Any], path: Path) -> None:
    for key in ("mean", "std"):
        values = settings.get(key, [1.0, 1.0, 1.0])
        are_numbers = isinstance(values, list) and all(type(each) in (int, float) for each in values)
        if not are_numbers or len(values) != 3 or (key == "std" and not min(values) > 0):
            raise UserError(f"{path}: {key} must be three numbers{' above 0' if key == 'std' else ''}")


def _weights_of(folder: Path) -> Path:
    for name in _WEIGHTS:
        if (folder / name).is_file():
            return folder / name
    raise UserError(f"{folder}: has no weights in it ({_WEIGHTS[0]})")


@contextlib.contextmanager
def _local_words(model: str, config: Mapping[str, Any]) -> Iterator[tuple[dict[str, Any], Any]]:
    """Give the text half's settings, with local files for what it takes from other repositories, and the tokenizer."""
    import open_clip

    text = dict(config["text_cfg"])
    with contextlib.ExitStack() as stack:
        if network := text.get("hf_model_name"):
            text["hf_model_name"] = str(stack.enter_context(plain_folder(local_folder(network))))
            text["hf_model_pretrained"] = False
        length = text.get("context_length", open_clip.tokenizer.DEFAULT_CONTEXT_LENGTH)
        options = text.get("tokenizer_kwargs") or {}
        if name := text.get("hf_tokenizer_name"):
            folder = Path(model) if Path(model).is_dir() else local_folder(name)
            source = str(stack.enter_context(plain_folder(folder)))
            mode = text.get("tokenizer_mode")
            tokenizer: Any = open_clip.HFTokenizer(source, context_length=length, tokenizer_mode=mode, **options)
        else:
            tokenizer = open_clip.SimpleTokenizer(context_length=length, **options)
        yield text, tokenizer


@contextlib.contextmanager
def _quiet_root_log() -> Iterator[None]:
    """Silence the root logger, to which open_clip writes; what matters of it is raised as well."""
    root = logging.getLogger()
    level = root.level
    root.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        root.setLevel(level)


@contextlib.contextmanager
def _without_random_weights() -> Iterator[None]:
    """Leave new weights as the memory is: all are to be loaded, or loading is refused."""
    from torch import Tensor
    from torch.overrides import TorchFunctionMode

    drawn = (Tensor.normal_, Tensor.uniform_)

    class Undrawn(TorchFunctionMode):
        def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            return args[0] if function in drawn else function(*args, **(kwargs or {}))

    with Undrawn():
        yield


@contextlib.contextmanager
def only_words(network: Any, words: Any) -> Iterator[Any]:
    """Give tokens (n, context) without what comes after the longest sentence, for `network.encode_text` meanwhile.

    CLIP reads from left to right and answers what it has at a sentence's end, so nothing after it makes a difference;
    prompts are 15 words of 77. Other networks get their tokens as they are.
    """
    import open_clip
    import torch

    mask: Any = getattr(network, "attn_mask", None)
    length = int(words.argmax(dim=-1).max()) + 1
    is_causal = mask is not None and torch.isneginf(mask).equal(torch.ones_like(mask).triu(1).bool())
    if not (type(network) is open_clip.CLIP and network.text_pool_type == "argmax" and is_causal):
        yield words
        return
    positions = network.positional_embedding
    network.positional_embedding = torch.nn.Parameter(positions[:length], requires_grad=False)
    network.attn_mask = mask[:length, :length]
    try:
        yield words[:, :length]
    finally:
        network.positional_embedding, network.attn_mask = positions, mask
