"""What the small files of a checkpoint may say of it: sizes and settings; no code, no other files, no network.

transformers gives a configuration many words: it may name Python files to run, kernels to fetch, other models to load,
files elsewhere. None of them is passed on. What is left are sizes and settings, each within bounds.
"""

from __future__ import annotations

import contextlib
import json
import math
import re
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from viper.errors import UserError
from viper.files import read_json

CONFIG = "config.json"
PROCESSORS = ("preprocessor_config.json", "video_preprocessor_config.json", "processor_config.json")
TOKENIZER_SETTINGS = ("tokenizer_config.json", "special_tokens_map.json", "added_tokens.json")
VOCABULARIES = (
    "tokenizer.json", "vocab.json", "vocab.txt", "merges.txt", "bpe.codes", "spiece.model", "spm.model",
    "sentencepiece.bpe.model", "sentencepiece.model", "tokenizer.model", "entity_vocab.json",
)  # fmt: skip
# What sentence-transformers says of a network that it makes vectors of sentences with.
MODULES, POOLING, SENTENCES = "modules.json", "1_Pooling/config.json", "sentence_bert_config.json"
MAX_BYTES = 1 << 26  # of any one of these files; large vocabularies take 30 MB
MAX_SETTINGS_BYTES = 1 << 24
MAX_WHOLE = 1 << 20  # a vocabulary, a place in a text
MAX_SIDE = 2048  # pixels
MAX_LAYERS = 1000
MAX_LABELS = 1 << 15  # each gets a name
MAX_POSITIONS = 1 << 14  # patches of a picture, or of all frames of a window
# How transformers runs a network, and what it asks for beside its results: not for a file to say.
_RUNNING = re.compile(
    r"_(?!_type|_float__$).*|.*implementation|auto_map|name_or_path|torch_dtype|dtype|use_kernels|kernel_config|fusion_config"
    r"|distributed_config|transformers_weights|base_model_.*_plan|return_dict|use_return_dict|torchscript"
    r"|output_(attentions|hidden_states|router_logits)|gradient_checkpointing|custom_pipelines|custom_generate"
    r"|chat_template|fast_tokenizer_files|mistral_format|fix_mistral_regex|.*_file"
    r"|sub_configs|trust_remote_code|code_revision"
)
# What makes a network of another one, which transformers would fetch.
_OTHER_NETWORKS = ("backbone", "use_timm_backbone", "use_pretrained_backbone", "quantization_config", "model_args")
_ELSEWHERE = re.compile(r"(hf[-_]hub|local-dir|https?|ftp|file):.*", re.IGNORECASE | re.DOTALL)
_LAYERS = re.compile(r".*(layers?|depths?|blocks)")
_SIDES = re.compile(
    r".*(image_size|num_frames|patch_size|tubelet_size|num_channels|stride|kernel|divisor|multiple_of)|(crop_|pad_)?size"
)
# How a processor of sound cuts it, in samples or in channels.
_SOUND = re.compile(r".*(feature_size|mel_bins|n_fft|_length)")
MAX_SOUND = 1 << 14
MIN_CROP = 0.05  # share of a picture
# Names of classes, which may be any words: "kernel" and "backbone" are objects of ImageNet.
_NAMES = ("id2label", "label2id")
# Bounds of this kind are those of texts: how many words may be asked for at all, which is often "any number".
_FREE = ("model_max_length",)


def config_of(folder: Path) -> dict[str, Any]:
    """Return a checkpoint's config.json without what it may not say; anything impossible in it is a UserError."""
    path = folder / CONFIG
    config = _read(path)
    if not isinstance(config.get("model_type"), str):
        raise UserError(f"{path}: does not say its model_type")
    return {key: _plain(value) for key, value in config.items()}


def _plain(value: Any) -> Any:
    """Return a setting with {"__float__": "Infinity"} as the number: transformers writes a step without limit so."""
    if isinstance(value, dict):
        if value.keys() == {"__float__"} and value["__float__"] in ("Infinity", "-Infinity"):
            return float(value["__float__"])
        return {key: _plain(each) for key, each in value.items()}
    return [_plain(each) for each in value] if isinstance(value, list) else value


@contextlib.contextmanager
def plain_folder(folder: Path) -> Iterator[Path]:
    """Give a folder with a checkpoint's small files only, for transformers' tokenizers and processors to read.

    Each is a copy, in which settings are checked and what may not be said is left out; no weights, no code.
    """
    with TemporaryDirectory(prefix="viper-") as name:
        plain = Path(name)
        for file in (CONFIG, *PROCESSORS, *TOKENIZER_SETTINGS):
            if (folder / file).is_file():
                (plain / file).write_text(json.dumps(_read(folder / file)), encoding="utf-8")
        for file in VOCABULARIES:
            if (folder / file).is_file():
                if (folder / file).stat().st_size > MAX_BYTES:
                    raise UserError(f"{folder / file}: larger than {MAX_BYTES >> 20} MiB")
                (plain / file).write_bytes((folder / file).read_bytes())
        yield plain


def read_settings(path: Path) -> dict[str, Any]:
    """Return a JSON file's mapping as it is; one that is too large, or no mapping, is a UserError."""
    if not path.is_file():
        raise UserError(f"{path}: no such file")
    settings = read_json(path, MAX_SETTINGS_BYTES)
    if not isinstance(settings, dict):
        raise UserError(f"{path}: must be a mapping")
    return settings


def check_numbers(settings: Any, path: Path, key: str = "") -> None:
    """Refuse numbers that no network has: not finite, too many layers, pictures or texts too large."""
    if isinstance(settings, dict):
        for name, value in settings.items():
            # {"size": {"height": ...}}, {"depths": [...]}: a number is of the kind of what it stands in.
            inner = name if not re.fullmatch(f"{_SIDES.pattern}|{_LAYERS.pattern}", key) else key
            if name not in _NAMES:
                check_numbers(value, path, inner)
        _check_positions(settings, path)
    elif isinstance(settings, list):
        for value in settings:
            check_numbers(value, path, key)
    elif isinstance(settings, int | float) and not isinstance(settings, bool) and key not in _FREE:
        most = MAX_SIDE if _SIDES.fullmatch(key) else MAX_LAYERS if _LAYERS.fullmatch(key) else MAX_WHOLE
        most = MAX_SOUND if path.name in PROCESSORS and _SOUND.fullmatch(key) else most
        most = MAX_LABELS if key == "num_labels" else most
        if key == "crop_pct" and not MIN_CROP <= settings <= 1:
            raise UserError(f"{path}: crop_pct must be between {MIN_CROP} and 1")
        if isinstance(settings, float) and not math.isfinite(settings):
            raise UserError(f"{path}: {key} is not a finite number")
        if abs(settings) > most and (isinstance(settings, int) or most != MAX_WHOLE):
            raise UserError(f"{path}: {key} is {str(settings)[:30]}, and at most {most} here")


def _check_positions(settings: dict[str, Any], path: Path) -> None:
    image, patch, frames = (_sides(settings.get(key)) for key in ("image_size", "patch_size", "num_frames"))
    if image and patch:
        if min(patch) < 1:
            raise UserError(f"{path}: patch_size must be at least 1")
        patches = (max(image) / min(patch)) ** 2 * (max(frames) if frames else 1)
        if patches > MAX_POSITIONS:
            raise UserError(f"{path}: a picture of {max(image)} in patches of {min(patch)} has too many patches")


def _sides(value: Any) -> list[float]:
    values = value.values() if isinstance(value, dict) else value if isinstance(value, list) else [value]
    return [each for each in values if isinstance(each, int | float) and not isinstance(each, bool)]


def _read(path: Path) -> dict[str, Any]:
    settings = read_settings(path)
    if path.name != "added_tokens.json":  # words, not settings
        settings = _allowed(settings, path)
        check_numbers(settings, path)
    return settings


def _allowed(value: Any, path: Path) -> Any:
    """Return settings without what transformers would look up, run or fetch; another network is a UserError."""
    if isinstance(value, list):
        return [_allowed(each, path) for each in value]
    if isinstance(value, str) and _ELSEWHERE.fullmatch(value):
        raise UserError(f"{path}: names {value[:80]!r}, which viper does not fetch because a file says so")
    if not isinstance(value, dict):
        return value
    for key in _OTHER_NETWORKS:
        if value.get(key) not in (None, False):
            raise UserError(f"{path}: has {key}, so not all of the network is in this checkpoint; viper cannot read it")
    for key in ("model_type", "image_processor_type", "feature_extractor_type"):
        if str(value.get(key, "")).lower().startswith("timm"):
            raise UserError(f"{path}: {key} {value[key]!r} is a network of timm, which viper cannot read")
    return {
        key: each if key in _NAMES else _allowed(each, path)
        for key, each in value.items() if not _RUNNING.fullmatch(key)
    }  # fmt: skip
