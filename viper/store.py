"""The feature store: a folder with one safetensors file a clip and one encoder.json that says what made them."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from viper.errors import ClipError, UserError
from viper.files import atomic_path, natural_key, read_json, write_json

SUFFIX = ".safetensors"
ENCODER_FILE = "encoder.json"


@dataclass(frozen=True)
class Feature:
    """What an encoder gives for one clip.

    Attributes
    ----------
    tokens : (T, D) float32, zeros where `mask` is False.
    mask : (T,) bool, True where a token says something (False: no face, no sound ...).
    time : (T,) float32, seconds from the start of the clip.
    """

    tokens: np.ndarray
    mask: np.ndarray
    time: np.ndarray

    @classmethod
    def make(cls, tokens: Any, mask: Any = None, time: Any = None) -> Feature:
        """Checks shapes and values and zeroes masked tokens; without `time`, tokens are one second apart.

        Raises ClipError for wrong shapes, and for a value that is not finite in a token that counts.
        """
        tokens = np.array(tokens, dtype=np.float32)
        if tokens.ndim != 2:
            raise ClipError(f"a feature is (tokens, channels), not of shape {tokens.shape}")
        mask = np.ones(len(tokens), bool) if mask is None else np.array(mask, dtype=bool)
        time = np.arange(len(tokens), dtype=np.float32) if time is None else np.array(time, dtype=np.float32)
        if mask.shape != (len(tokens),) or time.shape != (len(tokens),):
            raise ClipError(f"{len(tokens)} tokens with a mask of {mask.shape} and times of {time.shape}")
        tokens[~mask] = 0.0
        if not np.isfinite(tokens).all() or not np.isfinite(time).all():
            raise ClipError("the feature holds values that are not finite")
        return cls(tokens, mask, time)

    @classmethod
    def absent(cls, width: int, n_tokens: int = 1) -> Feature:
        """The feature of a clip that lacks this modality: zeros, nothing unmasked."""
        return cls.make(np.zeros((n_tokens, width)), np.zeros(n_tokens, bool), np.zeros(n_tokens))


@dataclass(frozen=True)
class EncoderInfo:
    """What made the features of a store; the content of encoder.json.

    Attributes
    ----------
    encoder : registered name of the kind of encoder, e.g. "hog", "image".
    modality : visual, audio, textual, FAU or a user's own name.
    width : channels of a token.
    options : everything that decides the values, weights included (by their fingerprint).
    model : how the user named the weights; another spelling of the same weights is the same encoder.
    source : the kind of input: "frames", "faces", "sound", "subtitles", "files".
    versions : of the packages that made the features, for the record.
    precision : of the network's arithmetic, float32 or bf16, for the record; empty without a network.
    """

    encoder: str
    modality: str
    width: int
    options: dict[str, Any] = field(default_factory=dict)
    model: str = ""
    source: str = ""
    versions: dict[str, str] = field(default_factory=dict)
    precision: str = ""

    def difference(self, other: EncoderInfo) -> str | None:
        """In words, why features of `other` may not join those of this one; None when they may."""
        for name in ("encoder", "modality", "width", "source"):
            if getattr(self, name) != getattr(other, name):
                return f"{name} {getattr(self, name)!r}, not {getattr(other, name)!r}"
        # One of the two was read from JSON, where a tuple became a list.
        mine, others = (json.loads(json.dumps(info.options)) for info in (self, other))
        for key in sorted(mine.keys() | others.keys()):
            if mine.get(key) != others.get(key):
                return f"{key} {mine.get(key)!r}, not {others.get(key)!r}"
        return None


class FeatureStore:
    """Features of one encoder on disk, one file a clip."""

    def __init__(self, folder: Path, info: EncoderInfo) -> None:
        self.folder = folder
        self.info = info

    @classmethod
    def open(cls, folder: str | Path) -> FeatureStore:
        """Opens an existing store. A folder that is none is a UserError saying what it lacks."""
        folder = Path(folder)
        if not folder.is_dir():
            raise UserError(f"{folder}: no such folder of features")
        if not (folder / ENCODER_FILE).is_file():
            raise UserError(f"{folder}: no {ENCODER_FILE} in it; make features with one of viper's extract commands")
        card = read_json(folder / ENCODER_FILE)
        try:
            return cls(folder, EncoderInfo(**card))
        except TypeError as error:
            raise UserError(f"{folder / ENCODER_FILE}: not a description of an encoder ({error})") from error

    @classmethod
    def create(cls, folder: str | Path, info: EncoderInfo) -> FeatureStore:
        """Opens a store for writing; one made by another encoder is a UserError that says what differs."""
        folder = Path(folder)
        if (folder / ENCODER_FILE).is_file():
            store = cls.open(folder)
            difference = store.info.difference(info)
            if difference:
                raise UserError(
                    f"{folder}: its features were made by another encoder ({difference}); give another output folder"
                )
            return store
        folder.mkdir(parents=True, exist_ok=True)
        write_json(folder / ENCODER_FILE, dataclasses.asdict(info))
        return cls(folder, info)

    @property
    def width(self) -> int:
        """Channels of a token."""
        return self.info.width

    def path(self, clip: str) -> Path:
        """The file of a clip, there or not."""
        return self.folder / f"{clip}{SUFFIX}"

    def __contains__(self, clip: str) -> bool:
        return self.path(clip).is_file()

    def clips(self) -> list[str]:
        """Ids of the clips there are, in natural order."""
        names = (path.name for path in self.folder.glob(f"*{SUFFIX}") if not path.name.startswith("."))
        return sorted((name.removesuffix(SUFFIX) for name in names), key=natural_key)

    def write(self, clip: str, feature: Feature, source: str = "") -> None:
        """Writes a clip's feature atomically; `source` is the fingerprint of what it was made from."""
        if feature.tokens.shape[1] != self.width:
            raise ClipError(f"a feature of width {feature.tokens.shape[1]} for a store of width {self.width}")
        tensors = {"tokens": feature.tokens, "mask": feature.mask, "time": feature.time}
        with atomic_path(self.path(clip), make_parent=False) as temporary:
            # Written by Python: safetensors' own writer does not say OSError when the disk is full.
            arrays = {name: np.ascontiguousarray(value) for name, value in tensors.items()}
            temporary.write_bytes(save(arrays, metadata={"source": source}))

    def read(self, clip: str) -> Feature:
        """Reads a clip's feature. A file that is not a valid feature of this store is a ClipError naming it."""
        path = self.path(clip)
        try:
            with safe_open(path, framework="numpy") as file:
                arrays = {name: file.get_tensor(name) for name in ("tokens", "mask", "time")}
            feature = Feature.make(**arrays)
        except (SafetensorError, OSError, ClipError) as error:
            raise ClipError(f"{path}: not a valid feature ({error}); extract it again") from error
        if feature.tokens.shape[1] != self.width:
            raise ClipError(f"{path}: width {feature.tokens.shape[1]} in a store of width {self.width}")
        return feature

    def is_current(self, clip: str, source: str) -> bool:
        """Whether the clip's file is there, opens, and was made from `source`."""
        path = self.path(clip)
        if not path.is_file():
            return False
        try:
            with safe_open(path, framework="numpy") as file:
                shapes = {name: file.get_slice(name).get_shape() for name in ("tokens", "mask", "time")}
                made_from = (file.metadata() or {}).get("source", "")
        except (SafetensorError, OSError):
            return False
        return (
            made_from == source
            and shapes["tokens"] == [*shapes["mask"], self.width]
            and len(shapes["mask"]) == 1
            and shapes["time"] == shapes["mask"]
        )
